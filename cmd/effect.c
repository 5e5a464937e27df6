/* nomoat effect: what an adapter changes, token by token, as its scale goes up. */
#include "effect.h"

#include <math.h>
#include <string.h>

#include "commands.h"
#include "common.h"
#include "os/file.h"
#include "os/machine.h"

typedef struct settings { nm_run_settings run; int32_t steps; const char *html; } settings;

#define AT(member) offsetof(settings, member)
enum { STEPS_MOST = 100, TOKENS_MOST = 4096 };

static const nm_option options[] = {
    {"-n --max-tokens --predict --n-predict", "N", "most tokens of an answer (48)", AT(run.max_tokens), NM_OPTION_INT, 1, TOKENS_MOST},
    {"--steps", "N", "scales from LOW to HIGH, both included (7)", AT(steps), NM_OPTION_INT, 2, STEPS_MOST},
    {"--html", "FILE", "write a page of its own with everything, a scale at a time", AT(html), NM_OPTION_TEXT, 0, 0},
    {"-sys --system --system-prompt", "TEXT", "the system message", AT(run.system), NM_OPTION_TEXT, 0, 0},
    {"--raw", NULL, "continue the text as it is, without a chat template", AT(run.raw), NM_OPTION_FLAG, 0, 0},
    {"--template --chat-template", "FILE|TEXT|NAME", "a chat template instead of the model's", AT(run.tmpl), NM_OPTION_TEXT, 0, 0},
    {"--chat-template-file --template-file", "FILE", "the same from a file", AT(run.template_file), NM_OPTION_TEXT, 0, 0},
    {"--chat-template-kwargs", "JSON", "more variables for the template, as one object", AT(run.template_kwargs), NM_OPTION_TEXT, 0, 0},
    {"--think", "auto|on|off", "ask models that can think aloud to do so or not", AT(run.think), NM_OPTION_CHOICE, 0, 0},
    {"--kv -ctk --cache-type-k", "f16|f32|q8_0", "type of the cached keys and values (f16)", AT(run.kv), NM_OPTION_CHOICE, 0, 0},
    NM_STACK_OPTIONS(settings, run.stack),
    {0}
};
static const settings defaults = {.run = {.max_tokens = 48, .kv = -1, .kv_v = -1, .stack = {.ranges = true}}, .steps = 7};

/* ---- Steps ----------------------------------------------------------------------------------------------------------- */

static nm_err find_swept(nm_effect *e)
{
    const nm_found_stack *f = &e->talk->stacked.found;
    e->which = nm_calloc(f->count + 1, sizeof *e->which);
    if (!e->which) return nm_fail_memory(f->count * sizeof *e->which);
    for (size_t i = 0; i < f->count; i++)
        if (f->adapter[i].scale != f->adapter[i].scale_to) e->which[e->swept++] = i;
    return NM_OK;
}

static nm_err make_point(nm_effect *e, nm_effect_point *p, double part)
{
    p->scale = nm_calloc(e->swept, sizeof *p->scale);
    if (!p->scale) return nm_fail_memory(e->swept * sizeof *p->scale);
    for (size_t i = 0; i < e->swept && part >= 0; i++) {
        const nm_found_adapter *a = &e->talk->stacked.found.adapter[e->which[i]];
        p->scale[i] = (float)((double)a->scale + ((double)a->scale_to - (double)a->scale) * part);
    }
    return NM_OK;
}

/* The base and the steps; nothing is computed yet. */
static nm_err make_points(nm_effect *e, int32_t steps)
{
    NM_TRY(find_swept(e));
    e->point = nm_calloc((size_t)steps, sizeof *e->point);
    if (!e->point) return nm_fail_memory((size_t)steps * sizeof *e->point);
    NM_TRY(make_point(e, &e->base, -1));
    for (e->points = 0; e->points < (size_t)steps; e->points++) NM_TRY(make_point(e, &e->point[e->points], (double)e->points / (double)(steps - 1)));
    return NM_OK;
}

static void free_point(nm_effect_point *p)
{
    nm_free(p->scale);
    nm_free(p->ids);
    nm_free(p->changed);
    nm_free(p->token);
}

static void free_effect(nm_effect *e)
{
    free_point(&e->base);
    for (size_t i = 0; i < e->points; i++) free_point(&e->point[i]);
    nm_free(e->point);
    nm_free(e->which);
}

/* ---- One stack at work ----------------------------------------------------------------------------------------------- */

typedef struct work {
    nm_effect *e;
    nm_effect_point *p;
    nm_stack *stack;
    nm_session *session;
    const int32_t *prompt;
    int32_t most;           /* tokens of an answer */
    int32_t next;           /* the likeliest */
    float *before;          /* [text][vocabulary]: log p of the base */
} work;

static nm_err broken(const work *w)
{
    return nm_fail(NM_FAILED, "%s: a logit is NaN: the model's or an adapter's weights, or the computation, are broken", w->e->talk->stacked.found.model.name);
}

static nm_err open_point(work *w, nm_effect_point *p)
{
    nm_stacked *s = &w->e->talk->stacked;
    const nm_adapter **adapters = nm_calloc(s->found.count, sizeof(*adapters));
    float *scales = nm_calloc(s->found.count, sizeof *scales);
    nm_session_options so = w->e->talk->options;
    nm_err err = adapters && scales ? nm_stacked_adapters(s, adapters, scales) : nm_fail_memory(s->found.count * sizeof *adapters);
    w->p = p;
    for (size_t i = 0; err == NM_OK && i < w->e->swept; i++) scales[w->e->which[i]] = p->scale[i];
    if (err == NM_OK) err = nm_stack_open(&w->stack, s->model, adapters, scales, s->found.count);
    so.stack = w->stack;
    so.context = (int32_t)w->e->prompt_tokens + w->most;
    if (err == NM_OK) err = nm_session_open(&w->session, s->model, &so);
    nm_free(adapters);
    nm_free(scales);
    return err;
}

static void close_point(work *w)
{
    nm_session_close(&w->session);
    nm_stack_close(&w->stack);
}

static nm_err feed(work *w, const int32_t *ids, size_t count, nm_want want, nm_logits_fn fn)
{
    nm_item item = {.session = w->session, .tokens = ids, .count = (int32_t)count, .want = want, .on_logits = fn, .arg = w};
    return count ? nm_run(w->e->talk->runner, &item, 1, &nm_interrupted) : NM_OK;
}

static nm_err take_likeliest(void *arg, int32_t index, const float *logits, int32_t n)
{
    work *w = arg;
    (void)index;
    w->next = 0;
    for (int32_t i = 0; i < n; i++) {
        if (isnan(logits[i])) return broken(w);
        if (logits[i] > logits[w->next]) w->next = i;
    }
    return NM_OK;
}

static nm_err answer(work *w)
{
    nm_effect_point *p = w->p;
    p->ids = nm_calloc((size_t)w->most, sizeof *p->ids);
    if (!p->ids) return nm_fail_memory((size_t)w->most * sizeof *p->ids);
    NM_TRY(feed(w, w->prompt, w->e->prompt_tokens, NM_WANT_LAST, take_likeliest));
    for (size_t n = 0;; n++) {
        p->ids[n] = w->next;
        p->ended = nm_token_ends(w->e->talk->tokenizer, w->next);
        if (p->ended || n + 1 == (size_t)w->most) break;
        p->count++;
        NM_TRY(feed(w, &w->next, 1, NM_WANT_LAST, take_likeliest));
    }
    p->count += !p->ended;
    return NM_OK;
}

/* ---- The common text ------------------------------------------------------------------------------------------------- */

static void take_top(nm_effect_token *t, const float *logits, int32_t n, double norm)
{
    int count = 0;
    for (int32_t id = 0; id < n; id++) {
        if (count == NM_EFFECT_TOP && !((double)logits[id] - norm > t->top_logprob[NM_EFFECT_TOP - 1])) continue;
        int at = count < NM_EFFECT_TOP ? count++ : NM_EFFECT_TOP - 1;
        for (; at > 0 && (double)logits[id] - norm > t->top_logprob[at - 1]; at--) {
            t->top_logprob[at] = t->top_logprob[at - 1];
            t->top[at] = t->top[at - 1];
        }
        t->top_logprob[at] = (double)logits[id] - norm;
        t->top[at] = id;
    }
    for (; count < NM_EFFECT_TOP; count++) t->top[count] = -1;
}

/* In the base's pass keeps its distribution, later compares with it. */
static nm_err take_token(void *arg, int32_t index, const float *logits, int32_t n)
{
    work *w = arg;
    nm_effect_token *t = &w->p->token[index];
    float *before = w->before + (size_t)index * (size_t)n;
    double norm = nm_log_sum(logits, n), kl = 0;
    if (isnan(norm)) return broken(w);
    t->logprob = (double)logits[w->e->text[index]] - norm;
    take_top(t, logits, n, norm);
    if (w->p == &w->e->base) {
        for (int32_t i = 0; i < n; i++) before[i] = (float)((double)logits[i] - norm);
        return NM_OK;
    }
    for (int32_t i = 0; i < n; i++) {
        float p = expf(before[i]);
        if (p > 0) kl += (double)p * (double)(before[i] - (float)((double)logits[i] - norm));
    }
    t->kl = kl > 0 ? kl : 0;    /* rounding alone can bring it below */
    return NM_OK;
}

/* The session holds the prompt and an answer; of these the prompt's last token is run again, for what it says of the text's first. */
static nm_err read_text(work *w)
{
    nm_effect *e = w->e;
    size_t from = e->prompt_tokens - 1, have = (size_t)nm_session_truncate(w->session, (int32_t)from);
    int32_t *ids = nm_calloc(e->text_count, sizeof *ids);
    w->p->token = nm_calloc(e->text_count, sizeof *w->p->token);
    nm_err err = ids && w->p->token ? NM_OK : nm_fail_memory(e->text_count * sizeof *w->p->token);
    if (err == NM_OK) {
        ids[0] = w->prompt[from];
        memcpy(ids + 1, e->text, (e->text_count - 1) * sizeof *ids);
        err = feed(w, w->prompt + have, from - have, NM_WANT_NONE, NULL);
    }
    if (err == NM_OK) err = feed(w, ids, e->text_count, NM_WANT_ALL, take_token);
    nm_free(ids);
    for (size_t i = 0; err == NM_OK && i < e->text_count; i++) {
        w->p->mean_kl += w->p->token[i].kl / (double)e->text_count;
        w->p->mean_logprob += w->p->token[i].logprob / (double)e->text_count;
    }
    return err;
}

/* ---- Answers compared ------------------------------------------------------------------------------------------------ */

/* Marks what the longest common subsequence with the base's answer leaves out: a word put in changes itself, not all behind it. */
static nm_err compare(const nm_effect_point *base, nm_effect_point *p)
{
    size_t n = base->count, m = p->count, row = m + 1;
    uint16_t *length = nm_calloc((n + 1) * row, sizeof *length);    /* of the subsequence from i and j on */
    p->changed = nm_calloc(m + 1, 1);
    if (!length || !p->changed) {
        nm_free(length);
        return nm_fail_memory((n + 1) * row * sizeof *length);
    }
    for (size_t i = n; i-- > 0;)
        for (size_t j = m; j-- > 0;) {
            uint16_t down = length[(i + 1) * row + j], right = length[i * row + j + 1], both = (uint16_t)(length[(i + 1) * row + j + 1] + 1);
            length[i * row + j] = base->ids[i] == p->ids[j] ? both : down > right ? down : right;
        }
    memset(p->changed, 1, m);
    for (size_t i = 0, j = 0; i < n && j < m;) {
        if (base->ids[i] == p->ids[j]) {
            p->changed[j++] = 0;
            p->same++;
            i++;
        } else if (length[(i + 1) * row + j] >= length[i * row + j + 1]) i++;
        else j++;
    }
    nm_free(length);
    return NM_OK;
}

/* ---- The sweep --------------------------------------------------------------------------------------------------------- */

static nm_err check_memory(const nm_effect *e, int32_t most)
{
    nm_session_options so = e->talk->options;
    so.context = (int32_t)e->prompt_tokens + most;
    uint64_t need = 2 * nm_session_bytes(e->talk->model, &so) + (uint64_t)most * (uint64_t)nm_model_describe(e->talk->model)->n_vocab * sizeof(float);
    uint64_t have = nm_machine_memory_available();
    char a[32], b[32];
    if (!have || need <= have) return NM_OK;
    return nm_fail(NM_NO_MEMORY, "the comparison needs %s, and %s are available: give a smaller -n", nm_bytes_text(need, a), nm_bytes_text(have, b));
}

static nm_err one_point(work *w, nm_effect_point *p)
{
    nm_err err = open_point(w, p);
    if (err == NM_OK) err = answer(w);
    if (err == NM_OK) err = read_text(w);
    close_point(w);
    return err;
}

/* The text is the highest step's answer, so that one and the base come first; two sessions at most live together. */
static nm_err sweep(nm_effect *e, const int32_t *prompt, int32_t most)
{
    work base = {.e = e, .prompt = prompt, .most = most}, w = base;
    nm_meter meter = {.what = "sweeping"};
    nm_effect_point *last = &e->point[e->points - 1];
    size_t room;
    nm_err err = NM_OK;
    NM_GOTO(open_point(&base, &e->base));
    NM_GOTO(answer(&base));
    (void)nm_meter_draw(&meter, 1, e->points + 1);
    NM_GOTO(open_point(&w, last));
    NM_GOTO(answer(&w));
    e->text = last->ids;
    e->text_count = last->count + last->ended;
    room = e->text_count * (size_t)nm_model_describe(e->talk->model)->n_vocab * sizeof(float);
    base.before = w.before = nm_malloc(room);
    if (!base.before) NM_GOTO(nm_fail_memory(room));
    NM_GOTO(read_text(&base));
    NM_GOTO(read_text(&w));
    close_point(&base);
    close_point(&w);
    for (size_t i = 0; i + 1 < e->points; i++) {
        (void)nm_meter_draw(&meter, i + 2, e->points + 1);
        NM_GOTO(one_point(&w, &e->point[i]));
    }
    NM_GOTO(compare(&e->base, &e->base));
    for (size_t i = 0; i < e->points; i++) NM_GOTO(compare(&e->base, &e->point[i]));
out:
    nm_meter_clear(&meter);
    close_point(&base);
    close_point(&w);
    nm_free(base.before);
    return err;
}

/* ---- The command ------------------------------------------------------------------------------------------------------- */

/* Names and ranges, before anything is read. */
static nm_err check_early(const settings *set, const char *text)
{
    nm_found_stack found;
    bool any = false;
    NM_TRY(nm_stack_names(&found, text, &set->run.stack));
    for (size_t i = 0; i < found.count; i++) any = any || found.adapter[i].scale != found.adapter[i].scale_to;
    nm_found_stack_free(&found);
    return any ? NM_OK : nm_fail(NM_USAGE, "%s: no scale is a range: give the adapter to look at one, as in MODEL+ADAPTER=0..1.5", text);
}

static nm_err read_prompt(nm_str *out, int count, char **words)
{
    char *text;
    size_t length;
    if (count == 1 && !strcmp(words[0], "-")) {
        NM_TRY(nm_read_stdin(&text, &length, "the prompt"));
        if (length && text[length - 1] == '\n') length--;
        nm_err err = nm_str_append(out, text, length);
        nm_free(text);
        return err;
    }
    for (int i = 0; i < count; i++) NM_TRY(nm_str_printf(out, "%s%s", i ? " " : "", words[i]));
    return NM_OK;
}

static nm_err report(const settings *set, const nm_effect *e, nm_new_file *page)
{
    nm_str s = {0};
    nm_err err = NM_OK;
    if (set->html) {
        NM_GOTO(nm_effect_html(&s, e));
        NM_GOTO(nm_new_file_write(page, s.data, s.length));
        NM_GOTO(nm_new_file_commit(page));
        nm_str_free(&s);
        nm_note("%s: written", set->html);
    }
    if (set->run.common.json) return nm_json_print(&s, nm_effect_json(&s, e));
    err = nm_effect_print(e);
out:
    nm_str_free(&s);
    return err;
}

static nm_err measure(const settings *set, nm_effect *e)
{
    int32_t *ids = NULL;
    nm_err err = nm_talk_question(e->talk, &set->run, e->prompt, e->prompt_length, &ids, &e->prompt_tokens);
    if (err == NM_OK && !e->prompt_tokens) err = nm_fail(NM_USAGE, "the prompt is empty: give some text");
    if (err == NM_OK && e->prompt_tokens + (size_t)set->run.max_tokens > (size_t)e->talk->context)
        err = nm_fail(NM_USAGE, "the prompt has %zu tokens, and with -n %d they are more than the %d that the context holds: shorten it, or give a smaller -n",
                      e->prompt_tokens, set->run.max_tokens, e->talk->context);
    if (err == NM_OK) err = check_memory(e, set->run.max_tokens);
    if (err == NM_OK) err = make_points(e, set->steps);
    if (err == NM_OK) err = sweep(e, ids, set->run.max_tokens);
    nm_free(ids);
    return err;
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_talk talk = {0};
    nm_effect e = {.talk = &talk, .model = operands[0]};
    nm_new_file page = {0};
    nm_str prompt = {0};
    nm_err err = NM_OK;
    if (set->html && !*set->html) return nm_fail(NM_USAGE, "--html '': give a file's name");
    NM_TRY(check_early(set, operands[0]));
    NM_GOTO(read_prompt(&prompt, count - 1, operands + 1));
    e.prompt = prompt.data ? prompt.data : "";
    e.prompt_length = prompt.length;
    if (set->html) NM_GOTO(nm_new_file_open(&page, set->html));     /* before the work, not after it */
    nm_interrupts_catch();
    NM_GOTO(nm_talk_open(&talk, &set->run, operands[0]));
    NM_GOTO(measure(set, &e));
    err = report(set, &e, &page);
out:
    nm_new_file_abandon(&page);
    free_effect(&e);
    nm_talk_close(&talk);
    nm_str_free(&prompt);
    return err;
}

const nm_command nm_command_effect = {
    .name = "effect", .operands = "MODEL+ADAPTER=LOW..HIGH PROMPT", .summary = "what an adapter changes, token by token, as its scale goes up",
    .details = "Answers the prompt (always with the likeliest token) at several scales from LOW to HIGH and marks what differs from the answer at scale 0. "
               "Then takes the answer at HIGH and shows for each of its tokens how the adapter moved its log-probability, how far all probabilities moved "
               "there (KL from the base, in nats), and what each would rather have said.\n\n"
               "Other adapters in the stack stay as they are and belong to the base. Several may have a range; their scales go up together. '-' as PROMPT reads standard input.",
    .examples = (const nm_example[]){
        {"nomoat effect tiny+style=0..1.5 'Why is the sky blue?'", "seven answers, and the last one token by token"},
        {"nomoat effect tiny+facts+style=0..1 --steps 3 'Hello'", "what style adds to a model with facts"},
        {"nomoat effect tiny+style=-1..1 'Hello' --html effect.html", "a page to look through, scale by scale"},
        {"nomoat effect tiny+style=0..2 --json 'Hello' | jq '.scales[].mean_kl'", "how far the distributions move at each scale"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 2, .most_operands = -1, .run = run,
};
