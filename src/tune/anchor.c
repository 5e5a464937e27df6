/* The anchor of `nomoat tune`: what the model is held to while it learns. One step in three holds it to general text as it stands, which keeps its language;
 * the others to general questions put as the run's prompts are, with how it began to answer them before, which keeps how it answers what nobody taught.
 * Many beginnings do more than few whole answers: it is at its beginning that an answer is lost. They are made when their step first comes, greedily
 * and in the arithmetic that serves, so that a resumed run makes the same. */
#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "tune/measure.h"
#include "os/clock.h"
#include "os/file.h"
#include "tune/tune_impl.h"

enum { TEXT_MOST = 64 << 20, AT_ONCE = 24, PASS_ROWS = 512, TEXT_EVERY = 3, ANSWER_TOKENS = 18 };

typedef struct talk {
    int32_t ids[NM_ANCHOR_TOKENS];
    uint8_t mask[NM_ANCHOR_TOKENS];     /* 1: of the answer */
    int32_t prompt, count;
    bool made;
} talk;

struct nm_tune_anchor {
    int32_t *text;
    size_t texts;               /* tokens */
    talk *talk;
    size_t talks, together;     /* together: of one step */
};

/* ---- Opening ---------------------------------------------------------------------------------------------------------------------------- */

/* The user's text, or what ships with the program. */
static nm_err open_text(nm_tune_anchor *a, const nm_tune *t)
{
    const char *file = t->set->anchor_data, *text;
    char *own = NULL;
    size_t length;
    if (file) NM_TRY(nm_file_read(file, TEXT_MOST, &own, &length));
    text = own ? own : nm_general_text(NM_GENERAL_ANCHOR, &length);
    nm_err err = nm_tokenize(nm_model_tokenizer(t->base.model), text, length, 0, &a->text, &a->texts);
    nm_free(own);
    if (err == NM_OK && a->texts < NM_ANCHOR_HELD) err = nm_fail(NM_USAGE, "%s: too short: %d tokens of general text at least", file, NM_ANCHOR_HELD);
    return err;
}

/* The questions as rows of data, so that they are put exactly as the run's prompts are. */
static nm_err question_rows(nm_str *rows)
{
    size_t length;
    const char *text = nm_general_text(NM_GENERAL_QUESTIONS, &length);
    for (const char *end; *text; text = end + (*end == '\n')) {
        end = strchrnul(text, '\n');
        if (end == text) continue;
        NM_TRY(nm_str_puts(rows, "{\"messages\": [{\"role\": \"user\", \"content\": "));
        NM_TRY(nm_str_json(rows, text, (size_t)(end - text)));
        NM_TRY(nm_str_puts(rows, "}, {\"role\": \"assistant\", \"content\": \".\"}]}\n"));
    }
    return NM_OK;
}

/* Prompts that leave room for an answer; as many to a step as the longest of them allows. */
static nm_err take_prompts(nm_tune_anchor *a, const nm_dataset *d)
{
    size_t n = nm_dataset_count(d, NM_SPLIT_TRAIN);
    int32_t longest = 1;
    if (!(a->talk = nm_calloc(n, sizeof *a->talk))) return nm_fail_memory(n * sizeof *a->talk);
    for (size_t i = 0; i < n; i++) {
        nm_sample s = nm_dataset_sample(d, NM_SPLIT_TRAIN, i);
        talk *to = &a->talk[a->talks];
        for (to->prompt = 0; to->prompt < s.count && !s.mask[to->prompt]; to->prompt++) {}
        if (to->prompt < 1 || to->prompt > NM_ANCHOR_TOKENS - ANSWER_TOKENS) continue;
        if (to->prompt > longest) longest = to->prompt;
        memcpy(to->ids, s.ids, (size_t)to->prompt * sizeof *to->ids);
        a->talks++;
    }
    size_t fit = (size_t)(NM_ANCHOR_TOKENS / (longest + ANSWER_TOKENS));
    a->together = fit < NM_ANCHORS ? fit : NM_ANCHORS;
    if (a->together > a->talks) a->together = a->talks;
    return NM_OK;
}

static nm_err open_talks(nm_tune_anchor *a, nm_tune *t)
{
    nm_str rows = {0};
    nm_dataset *d = NULL;
    nm_err err = question_rows(&rows);
    if (err == NM_OK) err = nm_tune_open_rows(t, &d, &(nm_dataset_options){.rows = rows.data, .rows_length = rows.length});
    if (err == NM_OK) err = take_prompts(a, d);
    nm_dataset_close(&d);
    nm_str_free(&rows);
    return err;
}

nm_err nm_tune_open_anchor(nm_tune *t)
{
    const nm_tune_settings *set = t->set;
    if (set->no_anchor || set->batches || set->anchor == 0) return NM_OK;
    if (!nm_model_tokenizer(t->base.model)) return nm_fail(NM_REFUSED, "the model has no tokenizer, which the anchor needs: give --no-anchor");
    if (!(t->anchor = nm_calloc(1, sizeof *t->anchor))) return nm_fail_memory(sizeof *t->anchor);
    NM_TRY(open_text(t->anchor, t));
    return set->format && !strcmp(set->format, "raw") ? NM_OK : open_talks(t->anchor, t);
}

void nm_tune_close_anchor(nm_tune *t)
{
    if (!t->anchor) return;
    nm_free(t->anchor->text);
    nm_free(t->anchor->talk);
    nm_free(t->anchor);
    t->anchor = NULL;
}

uint64_t nm_tune_anchor_hash(const nm_tune *t)
{
    const nm_tune_anchor *a = t->anchor;
    if (!a) return 0;
    uint64_t h = nm_hash(0, &t->set->anchor, sizeof t->set->anchor);
    h = nm_hash(h, &t->set->compute, sizeof t->set->compute);      /* which the answers are made in */
    h = nm_hash(h, (int32_t[]){NM_ANCHOR_HELD, TEXT_EVERY, ANSWER_TOKENS, (int32_t)a->together}, 4 * sizeof(int32_t));
    h = nm_hash(h, a->text, a->texts * sizeof *a->text);
    for (size_t i = 0; i < a->talks; i++) h = nm_hash(h, a->talk[i].ids, (size_t)a->talk[i].prompt * sizeof *a->talk[i].ids);
    return h;
}

/* ---- The model's own answers --------------------------------------------------------------------------------------------------------------- */

typedef struct speaker { nm_session *session; talk *talk; int32_t best; bool done; } speaker;

static nm_err on_logits(void *arg, int32_t index, const float *logits, int32_t n)
{
    speaker *s = arg;
    (void)index;
    s->best = nm_best_token(logits, n);
    return NM_OK;
}

/* Takes the token that was found; the last one is the end of the turn, if there is room. */
static void take_token(speaker *s, const nm_tokenizer *tokenizer)
{
    talk *t = s->talk;
    t->ids[t->count] = s->best;
    t->mask[t->count++] = 1;
    s->done = t->count == t->prompt + ANSWER_TOKENS || nm_token_ends(tokenizer, s->best);
}

/* Tokens that all prompts begin with, but for the last of the shortest: whoever answers reads at least one. */
static int32_t common_beginning(const speaker *speakers, size_t count)
{
    int32_t n = speakers[0].talk->prompt - 1;
    for (size_t i = 1; i < count; i++) {
        const talk *a = speakers[0].talk, *b = speakers[i].talk;
        int32_t same = 0;
        while (same < n && same < b->prompt - 1 && a->ids[same] == b->ids[same]) same++;
        n = same;
    }
    return n;
}

/* What all prompts begin with is read once. */
static nm_err open_sessions(nm_runner *runner, const nm_tune *t, speaker *speakers, size_t count)
{
    nm_session_options o = {.context = NM_ANCHOR_TOKENS, .compute = t->set->compute, .stack = t->base.stack};
    NM_TRY(nm_choose_kv(&o.kv, o.compute, -1));
    NM_TRY(nm_session_open(&speakers[0].session, t->base.model, &o));
    nm_item item = {.session = speakers[0].session, .tokens = speakers[0].talk->ids, .count = common_beginning(speakers, count), .want = NM_WANT_NONE};
    NM_TRY(nm_run(runner, &item, 1, t->listener.cancel));
    for (size_t i = 1; i < count; i++) NM_TRY(nm_session_fork(&speakers[i].session, speakers[0].session));
    return NM_OK;
}

/* The rest of each prompt first, then a token of each at a time. */
static nm_err answer_together(nm_runner *runner, const nm_tune *t, speaker *speakers, size_t count)
{
    NM_TRY(open_sessions(runner, t, speakers, count));
    for (;;) {
        nm_item item[AT_ONCE];
        size_t items = 0;
        for (size_t i = 0; i < count; i++) {
            const talk *k = speakers[i].talk;
            int32_t read = nm_session_length(speakers[i].session);
            if (!speakers[i].done) item[items++] = (nm_item){.session = speakers[i].session, .tokens = k->ids + read, .count = k->count - read, .want = NM_WANT_LAST,
                .on_logits = on_logits, .arg = &speakers[i]};
        }
        if (!items) return NM_OK;
        NM_TRY(nm_run(runner, item, items, t->listener.cancel));
        for (size_t i = 0; i < count; i++) if (!speakers[i].done) take_token(&speakers[i], nm_model_tokenizer(t->base.model));
    }
}

/* Lets the model as it was answer the question and those behind it. */
static nm_err make_answers(nm_tune *t, size_t from)
{
    nm_tune_anchor *a = t->anchor;
    nm_runner *runner = NULL;
    speaker speakers[AT_ONCE] = {0};
    size_t count = a->talks - from < AT_ONCE ? a->talks - from : AT_ONCE;
    for (size_t i = 0; i < count; i++) {
        speakers[i].talk = &a->talk[from + i];
        a->talk[from + i].count = a->talk[from + i].prompt;
    }
    if (t->trainer) nm_trainer_rest(t->trainer);        /* so that the peak of memory is a step's */
    nm_runner_options o = {.compute = t->set->compute, .max_rows = PASS_ROWS, .max_logits = AT_ONCE};
    nm_err err = nm_runner_open(&runner, t->base.model, &o);
    if (err == NM_OK) err = answer_together(runner, t, speakers, count);
    for (size_t i = 0; i < count; i++) {
        nm_session_close(&speakers[i].session);
        a->talk[from + i].made = err == NM_OK;
    }
    nm_runner_close(&runner);
    return err;
}

/* How many of the steps before `step` put questions. */
static size_t asking(size_t step) { return step - (step + TEXT_EVERY - 1) / TEXT_EVERY; }

double nm_tune_anchor_stops(const nm_tune *t, int64_t steps)
{
    const nm_tune_anchor *a = t->anchor;
    return ceil(fmin((double)a->talks, (double)(asking((size_t)steps) * a->together)) / AT_ONCE);
}

/* ---- A step's ------------------------------------------------------------------------------------------------------------------------------- */

static nm_err take_talks(nm_tune *t, size_t first, nm_sample out[NM_ANCHORS], size_t *count)
{
    nm_tune_anchor *a = t->anchor;
    for (*count = 0; *count < a->together; ++*count) {
        size_t i = (first + *count) % a->talks;
        const talk *k = &a->talk[i];
        if (!k->made) NM_TRY(make_answers(t, i));
        out[*count] = (nm_sample){.ids = k->ids, .mask = k->mask, .count = k->count, .trained = k->count - k->prompt};
    }
    return NM_OK;
}

nm_err nm_tune_anchor_at(nm_tune *t, int64_t step, nm_sample out[NM_ANCHORS], size_t *count, double *seconds)
{
    nm_tune_anchor *a = t->anchor;
    uint64_t begun = nm_clock_ns();
    size_t places = a->texts / NM_ANCHOR_HELD, turn = (size_t)step;
    *count = 1;
    *seconds = 0;
    if (a->talks && turn % TEXT_EVERY) {
        NM_TRY(take_talks(t, asking(turn) * a->together, out, count));
        *seconds = (double)(nm_clock_ns() - begun) * 1e-9;
        return NM_OK;
    }
    if (a->talks) turn /= TEXT_EVERY;
    out[0] = (nm_sample){.ids = a->text + turn % places * NM_ANCHOR_HELD, .count = NM_ANCHOR_HELD, .trained = NM_ANCHOR_HELD};
    return NM_OK;
}
