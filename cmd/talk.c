/* A model at work: opening it, its context, its template; from messages to tokens. */
#include "talk.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "common.h"
#include "hub/personas.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/machine.h"
#include "term.h"

enum { TEMPLATE_MOST = 16 << 20, CONTEXT_LEAST = 256, CONTEXT_STEP = 64, CONTEXT_UNKNOWN = 4096 };

/* ---- Template ------------------------------------------------------------------------------------------------------------------------ */

/* A name without slash and dot is meant as one. */
static nm_err unknown_template(const char *name)
{
    char known[1024] = "";
    for (size_t i = 0, used = 0; nm_template_name(i) && used < sizeof known; i++)
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", nm_template_name(i));
    return nm_fail(NM_NOT_FOUND, "--template %s: no file, and no template of that name, neither the model's nor a known one: %s", name, known);
}

const nm_persona *nm_talk_persona(const nm_talk *talk) { return talk->stacked.found.persona; }

const char *nm_talk_system(const nm_talk *talk, const nm_run_settings *set)
{
    const nm_persona *persona = nm_talk_persona(talk);
    return set->system ? set->system : persona && !set->raw ? persona->file.system : NULL;
}

/* What adapters were taught in comes before what the model's file says. */
static nm_err taught_template(nm_talk *talk)
{
    char format[16];
    NM_TRY(nm_stacked_format(&talk->stacked, format));
    if (*format) talk->template_text = nm_format_template(format);
    return NM_OK;
}

/* --template is a template's text, a file, one of the model's templates, or the name of a known one; --chat-template-file a file. */
static nm_err find_template(nm_talk *talk, const nm_run_settings *set)
{
    size_t length;
    const char *given = set->tmpl;
    talk->template_text = nm_model_template(talk->model, NULL);
    if (set->template_file) given = set->template_file;
    else if (given && (strstr(given, "{%") || strstr(given, "{{"))) {
        talk->template_text = given;
        return NM_OK;
    } else if (given && access(given, F_OK) && nm_model_template(talk->model, given)) {
        talk->template_text = nm_model_template(talk->model, given);
        return NM_OK;
    } else if (given && access(given, F_OK) && !strpbrk(given, "/.")) {
        talk->template_text = nm_template_named(given);
        return talk->template_text ? NM_OK : unknown_template(given);
    }
    const nm_persona *persona = nm_talk_persona(talk);
    if (!given && persona && persona->file.tmpl) {
        talk->template_text = persona->file.tmpl;
        return NM_OK;
    }
    if (!given) return taught_template(talk);
    NM_TRY(nm_file_read(given, TEMPLATE_MOST, &talk->template_owned, &length));
    talk->template_text = talk->template_owned;
    return NM_OK;
}

static nm_err open_template(nm_talk *talk, const nm_run_settings *set)
{
    if (set->raw) return NM_OK;
    NM_TRY(find_template(talk, set));
    if (!talk->template_text) return NM_OK;
    const nm_persona *persona = nm_talk_persona(talk);
    bool given = set->tmpl || set->template_file, own = talk->template_text == nm_model_template(talk->model, NULL);
    NM_TRY(nm_template_open(&talk->tmpl, talk->template_text, strlen(talk->template_text), own ? "the model's chat template" : given ? "--template" :
                            persona && talk->template_text == persona->file.tmpl ? "the persona's TEMPLATE" : "the adapter's format"));
    if (set->think != NM_THINK_AUTO && !strstr(talk->template_text, "enable_thinking") && !strstr(talk->template_text, "thinking"))
        nm_note("--think: this model's template has no switch for thinking; it decides by itself");
    return NM_OK;
}

/* ---- Context ------------------------------------------------------------------------------------------------------------------------- */

/* The largest context up to `most` whose session needs at most `budget` bytes; 0 if there is none. */
static int32_t context_within(const nm_model *model, nm_session_options o, int32_t most, uint64_t budget)
{
    int32_t low = 0, high = most / CONTEXT_STEP;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        o.context = middle * CONTEXT_STEP;
        if (nm_session_bytes(model, &o) <= budget) low = middle;
        else high = middle - 1;
    }
    return low * CONTEXT_STEP;
}

static nm_err too_large(const char *name, uint64_t need, uint64_t have, int32_t context, int32_t fits)
{
    char a[32], b[32];
    nm_bytes_text(need, a);
    nm_bytes_text(have, b);
    if (fits < CONTEXT_LEAST)
        return nm_fail(NM_NO_MEMORY, "%s: a context of %d tokens needs %s, and %s are available: free memory or take a smaller model",
                       name, context, a, b);
    return nm_fail(NM_NO_MEMORY, "%s: a context of %d tokens needs %s, and %s are available: give --context %d or less",
                   name, context, a, b, fits);
}

/* The context to open: as asked; else the trained length, lowered (and said) where memory is short. A tenth of memory is left alone. */
static nm_err choose_context(nm_talk *talk, const nm_run_settings *set, nm_session_options *o)
{
    const nm_model_info *info = nm_model_describe(talk->model);
    int32_t trained = info->n_context > 0 ? info->n_context : CONTEXT_UNKNOWN;
    o->context = set->context > 0 ? set->context : trained;
    uint64_t need = nm_session_bytes(talk->model, o), have = nm_machine_memory_available(), budget = have - have / 10;
    if (!have || need <= budget) {
        if (o->context > trained)
            nm_note("--context %d is more than the %d tokens that the model was trained for: expect worse answers", o->context, trained);
        return NM_OK;
    }
    int32_t fits = context_within(talk->model, *o, o->context, budget);
    if (set->context > 0 || fits < CONTEXT_LEAST) return too_large(talk->stacked.found.model.name, need, have, o->context, fits);
    char a[32], b[32];
    nm_note("context lowered from %d to %d tokens: the whole needs %s, and %s are available", o->context, fits, nm_bytes_text(need, a),
            nm_bytes_text(have, b));
    o->context = fits;
    return NM_OK;
}

static nm_err choose_kv(const nm_run_settings *set, nm_session_options *o)
{
    int32_t kv = set->kv >= 0 ? set->kv : set->kv_v;
    if (set->kv >= 0 && set->kv_v >= 0 && set->kv != set->kv_v)
        return nm_fail(NM_REFUSED, "-ctk and -ctv differ: K and V share one type here, give --kv TYPE");
    o->compute = (nm_compute)set->common.compute;
    return nm_choose_kv(&o->kv, o->compute, kv);
}

static nm_err open_engine(nm_talk *talk, const nm_run_settings *set)
{
    nm_session_options so = {.stack = talk->stacked.stack};
    nm_runner_options ro = {.compute = (nm_compute)set->common.compute};
    NM_TRY(choose_kv(set, &so));
    NM_TRY(nm_runner_open(&talk->runner, talk->model, &ro));
    NM_TRY(choose_context(talk, set, &so));
    NM_TRY(nm_session_open(&talk->session, talk->model, &so));
    talk->options = so;
    talk->context = nm_session_context(talk->session);
    return NM_OK;
}

/* 32 bits: short enough to be typed again, and exact as a JSON number. */
static uint64_t random_seed(void)
{
    uint32_t seed;
    return getrandom(&seed, sizeof seed, 0) == sizeof seed ? seed : (uint32_t)nm_clock_ns();
}

nm_err nm_talk_open(nm_talk *talk, const nm_run_settings *set, const char *model)
{
    nm_err err = NM_OK;
    *talk = (nm_talk){.seed = set->seed.given ? set->seed.value : random_seed()};
    NM_GOTO(nm_stacked_open(&talk->stacked, model, &set->common, &set->stack));
    talk->model = talk->stacked.model;
    NM_GOTO(nm_need_tokenizer(&talk->tokenizer, talk->model));
    NM_GOTO(open_template(talk, set));
    err = open_engine(talk, set);
out:
    if (err != NM_OK) nm_talk_close(talk);
    return err;
}

void nm_talk_close(nm_talk *talk)
{
    nm_session_close(&talk->session);
    nm_runner_close(&talk->runner);
    nm_template_close(&talk->tmpl);
    nm_stacked_close(&talk->stacked);
    nm_free(talk->template_owned);
    *talk = (nm_talk){0};
}

/* The template that suits the adapters in use now; as it was on failure. A template that the user gave stays. */
static nm_err change_template(nm_talk *talk, const nm_run_settings *set)
{
    nm_template *before = talk->tmpl;
    const char *text = talk->template_text;
    if (set->tmpl || set->template_file || set->raw) return NM_OK;
    talk->tmpl = NULL;
    nm_err err = open_template(talk, set);
    if (err == NM_OK && !talk->tmpl) err = nm_fail(NM_REFUSED, "without these adapters there is no chat template: give --template");
    if (err == NM_OK) nm_template_close(&before);
    else {
        nm_template_close(&talk->tmpl);
        talk->tmpl = before;
        talk->template_text = text;
    }
    return err;
}

nm_err nm_talk_restack(nm_talk *talk, const nm_run_settings *set, const char *adapters, bool force)
{
    nm_prepared prepared;
    nm_session *session;
    NM_TRY(nm_stacked_prepare(&prepared, &talk->stacked, adapters, force));
    nm_session_options so = talk->options;
    so.stack = prepared.stack;
    nm_err err = nm_session_open(&session, talk->model, &so);
    if (err == NM_OK) {
        nm_stacked_exchange(&talk->stacked, &prepared);
        err = change_template(talk, set);
        if (err != NM_OK) nm_stacked_exchange(&talk->stacked, &prepared);
        if (err != NM_OK) nm_session_close(&session);
    }
    if (err == NM_OK) {
        nm_session_close(&talk->session);
        talk->session = session;
        talk->options = so;
    }
    nm_prepared_free(&prepared);
    return err;
}

/* ---- From messages to tokens ------------------------------------------------------------------------------------- */

static nm_err default_token(nm_vars *vars, const char *key, const nm_tokenizer *t, int32_t id)
{
    return id >= 0 ? nm_vars_default_text(vars, key, nm_token_raw(t, id)) : NM_OK;
}

nm_err nm_talk_default_vars(nm_vars *vars, const nm_tokenizer *t)
{
    NM_TRY(nm_vars_default(vars, "tools", "null"));
    NM_TRY(nm_vars_default(vars, "documents", "null"));
    if (!t) return NM_OK;
    NM_TRY(default_token(vars, "bos_token", t, nm_token_bos(t)));
    NM_TRY(default_token(vars, "eos_token", t, nm_token_eos(t)));
    NM_TRY(default_token(vars, "pad_token", t, nm_token_pad(t)));
    return default_token(vars, "unk_token", t, nm_token_unk(t));
}

nm_err nm_talk_messages_json(nm_str *s, const nm_message *messages, size_t count)
{
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < count; i++) {
        NM_TRY(nm_str_printf(s, "%s{\"role\": \"%s\", \"content\": ", i ? ", " : "", messages[i].role));
        NM_TRY(nm_str_json(s, messages[i].content, messages[i].length));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}

static nm_err fill_vars(nm_vars *vars, const nm_talk *talk, const nm_run_settings *set, const nm_message *messages, size_t count)
{
    nm_str list = {0};
    const char *kwargs = set->template_kwargs;
    NM_TRY(nm_vars_begin(vars, kwargs, kwargs ? strlen(kwargs) : 0, "--chat-template-kwargs"));
    if (nm_vars_given(vars, "messages"))
        return nm_fail(NM_USAGE, "--chat-template-kwargs: \"messages\" come from the conversation: leave them away");
    nm_err err = nm_talk_messages_json(&list, messages, count);
    if (err == NM_OK) err = nm_vars_default(vars, "messages", list.data);
    nm_str_free(&list);
    NM_TRY(err);
    NM_TRY(nm_vars_default(vars, "add_generation_prompt", "true"));
    if (set->think != NM_THINK_AUTO) {      /* the two names that models' templates use */
        const char *on = set->think == NM_THINK_ON ? "true" : "false";
        NM_TRY(nm_vars_default(vars, "enable_thinking", on));
        NM_TRY(nm_vars_default(vars, "thinking", on));
    }
    NM_TRY(nm_talk_default_vars(vars, talk->tokenizer));
    return nm_vars_end(vars);
}

nm_err nm_talk_prompt(nm_talk *talk, const nm_run_settings *set, const nm_message *messages, size_t count, int32_t **ids, size_t *n_ids)
{
    nm_vars vars = {0};
    nm_template_options how = {.now = INT64_MIN, .cancel = &nm_interrupted};
    char *text = NULL;
    size_t length;
    nm_err err = NM_OK;
    *ids = NULL;
    NM_GOTO(fill_vars(&vars, talk, set, messages, count));
    NM_GOTO(nm_template_render(talk->tmpl, vars.text.data, vars.text.length, &how, &text, &length));
    talk->thinks = nm_speech_reasoning_open(text, length);
    err = nm_prompt_tokens(talk->model, text, length, ids, n_ids);
out:
    nm_vars_free(&vars);
    nm_free(text);
    return err;
}

nm_err nm_talk_raw_prompt(nm_talk *talk, const char *text, size_t length, int32_t **ids, size_t *n_ids)
{
    talk->thinks = nm_speech_reasoning_open(text, length);
    return nm_prompt_tokens(talk->model, text, length, ids, n_ids);
}

/* System message, the persona's beginning, the question. */
static nm_err ask_template(nm_talk *talk, const nm_run_settings *set, const char *text, size_t length, int32_t **ids, size_t *n_ids)
{
    const nm_persona *persona = nm_talk_persona(talk);
    const char *system = nm_talk_system(talk, set);
    size_t begun = persona ? persona->file.messages : 0, count = 0;
    nm_message *messages = nm_calloc(begun + 2, sizeof *messages);
    if (!messages) return nm_fail_memory((begun + 2) * sizeof *messages);
    if (system) messages[count++] = (nm_message){"system", (char *)system, strlen(system)};
    for (size_t i = 0; i < begun; i++) {
        const nm_modelfile_message *m = &persona->file.message[i];
        messages[count++] = (nm_message){m->role, m->content, strlen(m->content)};
    }
    messages[count++] = (nm_message){"user", (char *)text, length};
    nm_err err = nm_talk_prompt(talk, set, messages, count, ids, n_ids);
    nm_free(messages);
    return err;
}

nm_err nm_talk_question(nm_talk *talk, const nm_run_settings *set, const char *text, size_t length, int32_t **ids, size_t *n_ids)
{
    if (talk->tmpl) return ask_template(talk, set, text, length, ids, n_ids);
    if (nm_talk_system(talk, set)) return nm_fail(NM_USAGE, "a system message needs a chat template: give --template FILE, or put the text into the prompt");
    if (!set->raw) nm_note("%s has no chat template: the text is continued, as with --raw", talk->stacked.found.model.name);
    return nm_talk_raw_prompt(talk, text, length, ids, n_ids);
}
