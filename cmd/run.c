/* nomoat run: one answer, a text continued, or a chat. */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
#include "hub/personas.h"
#include "os/file.h"
#include "talk.h"

#define AT(member) offsetof(nm_run_settings, member)

const nm_option nm_run_options[] = {
    {"-p --prompt", "TEXT", "the prompt; the same as the word behind MODEL", AT(prompt), NM_OPTION_TEXT, 0, 0},
    {"-f --file", "FILE", "put a file's text before the prompt", AT(file), NM_OPTION_TEXT, 0, 0},
    {"-sys --system --system-prompt", "TEXT", "the system message", AT(system), NM_OPTION_TEXT, 0, 0},
    {"-n --max-tokens --predict --n-predict", "N", "most tokens of an answer; -1 or -2 = no limit but the context (default)", AT(max_tokens), NM_OPTION_INT, -2,
     INT32_MAX},
    {"-c --context --ctx-size", "N", "tokens that the context holds; 0 = the trained length, less where memory is short (default)",
     AT(context), NM_OPTION_INT, 0, INT32_MAX},
    {"--temperature --temp", "X", "0 = always the likeliest token (0.8)", AT(temperature), NM_OPTION_REAL, 0, 1000},
    {"--top-k", "N", "draw among the N likeliest; 0 or -1 = off (40)", AT(top_k), NM_OPTION_INT, -1, INT32_MAX},
    {"--top-p", "X", "draw among the likeliest that together reach X; 1 = off (0.95)", AT(top_p), NM_OPTION_REAL, 0, 1},
    {"--min-p", "X", "drop what is less than X times as likely as the likeliest; 0 = off (0.05)", AT(min_p), NM_OPTION_REAL, 0, 1},
    {"--typical --typical-p", "X", "locally typical sampling; 1 = off", AT(typical), NM_OPTION_REAL, 0, 1},
    {"--repeat-penalty", "X", "divide the logits of recent tokens by X; 1 = off", AT(repeat_penalty), NM_OPTION_REAL, 0.01, 100},
    {"--presence-penalty", "X", "take X off the logit of each token that has occurred; 0 = off", AT(presence_penalty), NM_OPTION_REAL,
     -100, 100},
    {"--frequency-penalty", "X", "take X off for each time it has occurred; 0 = off", AT(frequency_penalty), NM_OPTION_REAL, -100, 100},
    {"--repeat-last-n", "N", "tokens that penalties look at; -1 = all (64)", AT(penalty_last), NM_OPTION_INT, -1, INT32_MAX},
    {"-s --seed", "N", "seed of the draws; the same seed gives the same answer (random)", AT(seed), NM_OPTION_SEED, 0, 0},
    {"--stop -r --reverse-prompt", "TEXT", "end the answer before this text; \\n and \\t are understood; may be repeated", AT(stop),
     NM_OPTION_LIST, 0, 0},
    {"--ignore-eos", NULL, "go on where the model would end its answer", AT(ignore_eos), NM_OPTION_FLAG, 0, 0},
    {"--raw", NULL, "continue the text as it is, without a chat template", AT(raw), NM_OPTION_FLAG, 0, 0},
    {"--template --chat-template", "FILE|TEXT|NAME", "a chat template instead of the model's; known names: chatml, llama3, gemma, ...", AT(tmpl), NM_OPTION_TEXT, 0, 0},
    {"--chat-template-file --template-file", "FILE", "the same from a file", AT(template_file), NM_OPTION_TEXT, 0, 0},
    {"--chat-template-kwargs", "JSON", "more variables for the template, as one object", AT(template_kwargs), NM_OPTION_TEXT, 0, 0},
    {"--think", "auto|on|off", "ask models that can think aloud to do so or not", AT(think), NM_OPTION_CHOICE, 0, 0},
    {"--hide-thinking", NULL, "do not show the thinking", AT(hide_thinking), NM_OPTION_FLAG, 0, 0},
    {"--kv -ctk --cache-type-k", "f16|f32|q8_0", "type of the cached keys and values (f16)", AT(kv), NM_OPTION_CHOICE, 0, 0},
    {"-ctv --cache-type-v", "f16|f32|q8_0", "as --kv; both are of one type", AT(kv_v), NM_OPTION_CHOICE, 0, 0},
    NM_STACK_OPTIONS(nm_run_settings, stack),
    {0}
};

static const nm_run_settings defaults = {
    .max_tokens = NM_UNSET_INT, .context = NM_UNSET_INT, .kv = -1, .kv_v = -1, .top_k = NM_UNSET_INT, .penalty_last = NM_UNSET_INT,
    .temperature = NM_UNSET_REAL, .top_p = NM_UNSET_REAL, .min_p = NM_UNSET_REAL, .typical = NM_UNSET_REAL,
    .repeat_penalty = NM_UNSET_REAL, .presence_penalty = NM_UNSET_REAL, .frequency_penalty = NM_UNSET_REAL,
};

/* ---- The prompt: standard input, then --file, then the words on the command line --------------------------------- */

typedef struct prompt { nm_str text; bool given, wait, words; } prompt;     /* wait: "-" was among the words */

/* Adds a part; parts are kept apart by a newline. */
static nm_err add_part(prompt *p, const char *text, size_t length)
{
    p->given = true;
    if (p->text.length && p->text.data[p->text.length - 1] != '\n') NM_TRY(nm_str_putc(&p->text, '\n'));
    return nm_str_append(&p->text, text, length);
}

/* True if something can be read from standard input within a second, or its end was reached. Files answer at once. */
static bool stdin_speaks(void)
{
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&fd, 1, 1000) != 0;
}

/* nohup puts a /dev/null that is open for writing alone in the place of a terminal; that, like none at all, is no input. */
static bool stdin_readable(void)
{
    int flags = fcntl(STDIN_FILENO, F_GETFL);
    return flags >= 0 && (flags & O_ACCMODE) != O_WRONLY;
}

static nm_err add_stdin(prompt *p, bool alone)
{
    char *text;
    size_t length;
    if (nm_term_is(STDIN_FILENO) || !stdin_readable()) return NM_OK;
    if (!alone && !p->wait && !stdin_speaks()) {
        nm_note("standard input stays silent and is left aside; '-' as a word waits for it");
        return NM_OK;
    }
    NM_TRY(nm_read_stdin(&text, &length, "the prompt"));
    nm_err err = length ? add_part(p, text, length) : NM_OK;
    nm_free(text);
    return err;
}

static nm_err add_file(prompt *p, const char *path)
{
    char *text;
    size_t length;
    NM_TRY(nm_file_read(path, NM_INPUT_MOST, &text, &length));
    nm_err err = add_part(p, text, length);
    nm_free(text);
    return err;
}

static nm_err read_prompt(prompt *p, const nm_run_settings *set, int count, char **words)
{
    nm_str line = {0};
    nm_err err = NM_OK;
    if (set->prompt && count) return nm_fail(NM_USAGE, "the prompt is given twice, by --prompt and as '%s': leave one away", words[0]);
    for (int i = 0; i < count; i++) {
        if (!strcmp(words[i], "-")) {
            p->wait = true;
            continue;
        }
        NM_GOTO(nm_str_printf(&line, "%s%s", p->words ? " " : "", words[i]));
        p->words = true;
    }
    if (set->prompt) NM_GOTO(nm_str_puts(&line, set->prompt));
    p->words = p->words || set->prompt;
    NM_GOTO(add_stdin(p, !p->words && !set->file));
    if (set->file) NM_GOTO(add_file(p, set->file));
    if (p->words) err = add_part(p, line.data ? line.data : "", line.length);
out:
    nm_str_free(&line);
    return err;
}

/* ---- One answer -------------------------------------------------------------------------------------------------- */

static double per_second(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

/* The first token of an answer comes out of the prompt's pass: the time is that of the others. */
static nm_err answer_rate(nm_str *s, const nm_answer *a)
{
    NM_TRY(nm_json_key(s, "completion_per_second"));
    return a->n_ids > 1 ? nm_str_printf(s, "%.3f", per_second((double)(a->n_ids - 1), a->seconds)) : nm_str_puts(s, "null");
}

static nm_err answer_json(nm_str *s, const nm_answer *a)
{
    NM_TRY(nm_str_puts(s, "{\"text\": "));
    NM_TRY(nm_str_json(s, a->visible.data, a->visible.length));
    NM_TRY(nm_json_key(s, "ids"));
    NM_TRY(nm_json_ids(s, a->ids, a->n_ids));
    NM_TRY(nm_json_whole(s, "prompt_tokens", a->prompt_tokens));
    NM_TRY(nm_json_whole(s, "completion_tokens", a->n_ids));
    NM_TRY(nm_json_string(s, "finish_reason", a->finish));
    NM_TRY(nm_json_whole(s, "seed", a->seed));
    NM_TRY(nm_json_key(s, "timings"));
    NM_TRY(nm_str_printf(s, "{\"prompt_ms\": %.3f, \"completion_ms\": %.3f, \"prompt_per_second\": %.3f",
                         a->prompt_seconds * 1e3, a->seconds * 1e3, per_second((double)(a->prompt_tokens - a->reused), a->prompt_seconds)));
    NM_TRY(answer_rate(s, a));
    return nm_str_puts(s, "}}");
}

static nm_err print_answer(const nm_answer *a, bool json)
{
    nm_str s = {0};
    if (json) return nm_json_print(&s, answer_json(&s, a));
    bool open_line = a->visible.length && a->visible.data[a->visible.length - 1] != '\n';
    return nm_term_is(STDOUT_FILENO) && open_line ? nm_out_puts("\n") : NM_OK;     /* a file or pipe gets the exact text */
}

/* A newline that ends a file or pipe is not part of a question. */
static nm_err prompt_ids(nm_talk *talk, const nm_run_settings *set, prompt *p, int32_t **ids, size_t *n)
{
    if (talk->tmpl && !p->words && p->text.length && p->text.data[p->text.length - 1] == '\n') p->text.length--;
    return nm_talk_question(talk, set, p->text.data ? p->text.data : "", p->text.length, ids, n);
}

static nm_err one_answer(nm_talk *talk, const nm_run_settings *set, prompt *p)
{
    int32_t *ids = NULL;
    size_t n = 0;
    nm_answer a = {0};
    nm_err err = prompt_ids(talk, set, p, &ids, &n);
    if (err == NM_OK) {
        err = nm_talk_answer(talk, set, ids, n, !set->common.json, &a);
        nm_err shown = a.visible.data && (err == NM_OK || err == NM_INTERRUPTED) ? print_answer(&a, set->common.json) : NM_OK;
        if (err == NM_OK) err = shown;
        if (err == NM_OK && set->common.verbose) nm_talk_note_speed(&a);
    }
    nm_answer_free(&a);
    nm_free(ids);
    return err;
}

/* ---- The command ------------------------------------------------------------------------------------------------- */

static void fill_real(double *to, double from) { if (isnan(*to)) *to = from; }
static void fill_int(int32_t *to, int32_t from) { if (*to == NM_UNSET_INT) *to = from; }

/* A persona's numbers, where the command line gives none. Its texts are the talk's. */
static void put_beneath(nm_run_settings *set, const nm_modelfile *file)
{
    fill_real(&set->temperature, file->temperature);
    fill_real(&set->top_p, file->top_p);
    fill_real(&set->min_p, file->min_p);
    fill_real(&set->typical, file->typical);
    fill_real(&set->repeat_penalty, file->repeat_penalty);
    fill_real(&set->presence_penalty, file->presence_penalty);
    fill_real(&set->frequency_penalty, file->frequency_penalty);
    fill_int(&set->top_k, file->top_k);
    fill_int(&set->penalty_last, file->repeat_last);
    fill_int(&set->context, file->context);
    fill_int(&set->max_tokens, file->predict);
    if (!set->seed.given && file->seeded) set->seed = (nm_seed){true, file->seed};
    if (set->think == NM_THINK_AUTO && file->think >= 0) set->think = file->think ? NM_THINK_ON : NM_THINK_OFF;
}

/* Faults of the command line and a wrong name come before any reading or loading; what a persona says is put beneath the line. */
static nm_err check_early(nm_run_settings *set, const char *text)
{
    nm_found_stack found;
    if (set->raw && set->system) return nm_fail(NM_USAGE, "--raw has no place for --system: put the text into the prompt, or leave --raw away");
    if (set->tmpl && !*set->tmpl) return nm_fail(NM_USAGE, "--template is empty: give a template's file, text or name");
    if (set->template_file && !*set->template_file) return nm_fail(NM_USAGE, "--chat-template-file is empty: give a template's file");
    NM_TRY(nm_stack_names(&found, text, &set->stack));
    if (found.persona) put_beneath(set, &found.persona->file);
    if (found.persona && found.persona->file.foreign && !set->tmpl && !set->template_file && !set->raw)
        nm_note("%s: its TEMPLATE is written for Ollama, in Go's language: the model's own is used", found.persona->name);
    nm_found_stack_free(&found);
    if (set->max_tokens == NM_UNSET_INT) set->max_tokens = -1;
    if (set->context == NM_UNSET_INT) set->context = 0;
    return NM_OK;
}

static int run(void *arg, int count, char **operands)
{
    nm_run_settings *set = arg;
    prompt p = {0};
    nm_talk talk = {0};
    nm_err err = NM_OK;
    NM_TRY(check_early(set, operands[0]));
    NM_GOTO(read_prompt(&p, set, count - 1, operands + 1));
    if (!p.given && (set->common.json || !nm_term_is(STDIN_FILENO)))
        NM_GOTO(nm_fail(NM_USAGE, "no prompt: give one behind the model, by --file, or on standard input"));
    if (!p.given && set->raw) NM_GOTO(nm_fail(NM_USAGE, "--raw needs a text to continue: give a prompt"));
    nm_interrupts_catch();
    NM_GOTO(nm_talk_open(&talk, set, operands[0]));
    err = p.given ? one_answer(&talk, set, &p) : nm_chat(&talk, set);
out:
    nm_talk_close(&talk);
    nm_str_free(&p.text);
    return err;
}

const nm_command nm_command_run = {
    .name = "run", .operands = "MODEL [PROMPT]", .summary = "answer a prompt, or chat",
    .details = "With a PROMPT: one answer on standard output. Standard input, if it is no terminal, is put before the prompt; a pipe that "
               "stays silent for a second is "
               "left aside, and '-' as PROMPT waits for it. Without any of these: an interactive chat.\n\n"
               "MODEL is a GGUF file, a name that 'nomoat list' shows, or org/name[:FILE] in the Hugging Face cache; MODEL+ADAPTER=0.8 "
               "puts an adapter on it, and more may follow. Sampling defaults "
               "come from the file where it has "
               "them. A model without a chat template continues the text, as --raw does. Nothing is ever cut silently: a prompt that does "
               "not fit ends with exit code 2.",
    .examples = (const nm_example[]){
        {"nomoat run tiny 'Why is the sky blue?'", "one answer"},
        {"nomoat run tiny", "a chat; /help shows its commands"},
        {"nomoat run tiny 'Summarise this:' < report.txt", "a file before the prompt"},
        {"nomoat run tiny+style=0.8+patch 'Hello'", "two adapters on the model"},
        {"nomoat run tiny --raw -n 50 'Once upon a time'", "continue a text"},
        {"nomoat run tiny --temp 0 --json 'Name three fruits.' | jq -r .text", "repeatable, for programs"}, {0}},
    .options = nm_run_options, .settings_size = sizeof(nm_run_settings), .defaults = &defaults,
    .least_operands = 1, .most_operands = -1, .run = run,
};
