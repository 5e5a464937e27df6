/* nomoat save: a model with its adapters, a system message and settings under a name: a persona. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
#include "hub/personas.h"
#include "os/file.h"
#include "talk.h"

typedef struct settings {
    nm_common common;
    const char *modelfile, *system, *tmpl, *template_file;
    nm_list stop;
    nm_seed seed;
    nm_modelfile given;     /* its numbers are the options' */
    bool replace;
} settings;
#define AT(member) offsetof(settings, member)

static const nm_option options[] = {
    {"-sys --system --system-prompt", "TEXT", "the system message", AT(system), NM_OPTION_TEXT, 0, 0},
    {"--temperature --temp", "X", "0 = always the likeliest token", AT(given.temperature), NM_OPTION_REAL, 0, 1000},
    {"--top-k", "N", "draw among the N likeliest; 0 or -1 = off", AT(given.top_k), NM_OPTION_INT, -1, INT32_MAX},
    {"--top-p", "X", "draw among the likeliest that together reach X; 1 = off", AT(given.top_p), NM_OPTION_REAL, 0, 1},
    {"--min-p", "X", "drop what is less than X times as likely as the likeliest; 0 = off", AT(given.min_p), NM_OPTION_REAL, 0, 1},
    {"--typical --typical-p", "X", "locally typical sampling; 1 = off", AT(given.typical), NM_OPTION_REAL, 0, 1},
    {"--repeat-penalty", "X", "divide the logits of recent tokens by X; 1 = off", AT(given.repeat_penalty), NM_OPTION_REAL, 0.01, 100},
    {"--presence-penalty", "X", "take X off the logit of each token that has occurred; 0 = off", AT(given.presence_penalty), NM_OPTION_REAL, -100, 100},
    {"--frequency-penalty", "X", "take X off for each time it has occurred; 0 = off", AT(given.frequency_penalty), NM_OPTION_REAL, -100, 100},
    {"--repeat-last-n", "N", "tokens that penalties look at; -1 = all", AT(given.repeat_last), NM_OPTION_INT, -1, INT32_MAX},
    {"-s --seed", "N", "seed of the draws: the same answers each time", AT(seed), NM_OPTION_SEED, 0, 0},
    {"--think", "off|on", "ask models that can think aloud to do so or not", AT(given.think), NM_OPTION_CHOICE, 0, 0},
    {"--stop -r --reverse-prompt", "TEXT", "end the answer before this text; \\n and \\t are understood; may be repeated", AT(stop), NM_OPTION_LIST, 0, 0},
    {"-n --max-tokens --predict --n-predict", "N", "most tokens of an answer; -1 = no limit but the context", AT(given.predict), NM_OPTION_INT, -2, INT32_MAX},
    {"-c --context --ctx-size", "N", "tokens that the context holds", AT(given.context), NM_OPTION_INT, 0, INT32_MAX},
    {"--template --chat-template", "FILE|TEXT|NAME", "a chat template instead of the model's; known names: chatml, llama3, gemma, ...", AT(tmpl), NM_OPTION_TEXT, 0, 0},
    {"--chat-template-file --template-file", "FILE", "the same from a file", AT(template_file), NM_OPTION_TEXT, 0, 0},
    {"-f --file --modelfile", "FILE", "take this Modelfile in place of STACK and options; - is standard input", AT(modelfile), NM_OPTION_TEXT, 0, 0},
    {"--replace", NULL, "take the place of the persona of that name", AT(replace), NM_OPTION_FLAG, 0, 0},
    {0}
};
static const settings defaults = {.given = {
    .temperature = NM_UNSET_REAL, .top_p = NM_UNSET_REAL, .min_p = NM_UNSET_REAL, .typical = NM_UNSET_REAL, .repeat_penalty = NM_UNSET_REAL,
    .presence_penalty = NM_UNSET_REAL, .frequency_penalty = NM_UNSET_REAL, .top_k = NM_UNSET_INT, .repeat_last = NM_UNSET_INT, .context = NM_UNSET_INT,
    .predict = NM_UNSET_INT, .think = -1,
}};

/* ---- Models and adapters, as they are found from any folder ------------------------------------------------------------------------- */

/* FROM's value: the model with what stands on it. */
static nm_err put_stack(nm_str *s, const nm_found_stack *f)
{
    NM_TRY(nm_place_write(s, f->model.place, f->model.name, f->model.path));
    for (size_t i = 0; i < f->count; i++) {
        NM_TRY(nm_str_putc(s, '+'));
        NM_TRY(nm_adapter_write(s, &f->adapter[i]));
    }
    return NM_OK;
}

static nm_err no_persona(nm_found_stack *found)
{
    if (!found->persona) return NM_OK;
    nm_err err = nm_fail(NM_USAGE, "%s: a persona stands on a model, not on another persona: name the model, %s", found->persona->name, found->persona->file.from.text);
    nm_found_stack_free(found);
    return err;
}

/* ---- From options ------------------------------------------------------------------------------------------------------------------- */

/* *text: nm_free. */
static nm_err read_template(const settings *set, char **text)
{
    const char *given = set->template_file ? set->template_file : set->tmpl, *known = set->template_file ? NULL : nm_template_named(given);
    size_t length;
    if (!set->template_file && (strstr(given, "{{") || strstr(given, "{%"))) known = given;
    if (!set->template_file && !access(given, F_OK)) known = NULL;
    if (!known) return nm_file_read(given, NM_MODELFILE_MOST, text, &length);
    *text = nm_strndup(known, strlen(known));
    return *text ? NM_OK : nm_fail_memory(strlen(known));
}

static nm_err take_stack(nm_modelfile *m, const char *stack)
{
    nm_found_stack found;
    nm_str s = {0};
    NM_TRY(nm_find_stack(&found, stack, false));
    NM_TRY(no_persona(&found));
    nm_err err = nm_place_write(&s, found.model.place, found.model.name, found.model.path);
    m->from.text = err == NM_OK ? nm_str_take(&s, NULL) : NULL;
    for (size_t i = 0; err == NM_OK && i < found.count; i++) {
        err = NM_GROW(m->adapter, m->adapter_capacity, m->adapters + 1);
        if (err == NM_OK) err = nm_adapter_write(&s, &found.adapter[i]);
        if (err == NM_OK) m->adapter[m->adapters++] = (nm_modelfile_value){.text = nm_str_take(&s, NULL)};
    }
    nm_str_free(&s);
    nm_found_stack_free(&found);
    return err;
}

static nm_err take_stops(nm_modelfile *m, const nm_list *stop)
{
    for (size_t i = 0; i < stop->count; i++) {
        if (!*stop->items[i]) return nm_fail(NM_USAGE, "--stop is empty: give the text that ends an answer");
        NM_TRY(NM_GROW(m->stop, m->stop_capacity, m->stops + 1));
        m->stop[m->stops] = nm_unescape(stop->items[i]);
        if (!m->stop[m->stops]) return nm_fail_memory(strlen(stop->items[i]));
        m->stops++;
    }
    return NM_OK;
}

static nm_err from_options(const settings *set, const char *stack, nm_str *text)
{
    nm_modelfile m = set->given;
    nm_err err = NM_OK;
    m.seeded = set->seed.given;
    m.seed = set->seed.value;
    NM_GOTO(take_stack(&m, stack));
    NM_GOTO(take_stops(&m, &set->stop));
    if (set->tmpl || set->template_file) NM_GOTO(read_template(set, &m.tmpl));
    if (set->system && !(m.system = nm_strndup(set->system, strlen(set->system)))) NM_GOTO(nm_fail_memory(strlen(set->system)));
    err = nm_modelfile_write(text, &m);
out:
    nm_modelfile_free(&m);
    return err;
}

/* ---- From a Modelfile --------------------------------------------------------------------------------------------------------------- */

/* Paths in it are seen from its own folder, as Ollama does; *out: nm_free. NULL where the value cannot be seen from there. */
static nm_err beside(const char *modelfile, const char *value, char **out)
{
    const char *slash = strrchr(modelfile, '/');
    nm_str s = {0};
    *out = NULL;
    if (!slash || *value == '/') return NM_OK;
    nm_err err = nm_str_append(&s, modelfile, (size_t)(slash + 1 - modelfile));
    if (err == NM_OK) err = nm_str_puts(&s, value);
    if (err == NM_OK) *out = nm_str_take(&s, NULL);
    nm_str_free(&s);
    return err;
}

static nm_err find_value(nm_found_stack *found, const char *value, bool adapter)
{
    *found = (nm_found_stack){0};
    return adapter ? nm_found_stack_push(found, value, true) : nm_find_stack(found, value, false);
}

/* What FROM or ADAPTER says, with paths that hold from everywhere. */
static nm_err put_value(nm_str *s, const char *modelfile, const char *value, bool adapter)
{
    char *here;
    nm_found_stack found = {0};
    nm_str text = {0};
    NM_TRY(beside(modelfile, value, &here));
    nm_err err = here ? find_value(&found, here, adapter) : NM_NOT_FOUND;
    if (err == NM_NOT_FOUND) err = find_value(&found, value, adapter);
    nm_free(here);
    NM_TRY(err);
    NM_TRY(no_persona(&found));
    err = adapter ? nm_adapter_write(&text, &found.adapter[0]) : put_stack(&text, &found);
    if (err == NM_OK) err = nm_modelfile_quote(s, text.data);
    nm_str_free(&text);
    nm_found_stack_free(&found);
    return err;
}

/* The text up to the value, and the value in its new form. */
static nm_err splice(nm_str *s, const char *text, size_t *done, const char *modelfile, const nm_modelfile_value *v, bool adapter)
{
    NM_TRY(nm_str_append(s, text + *done, v->at - *done));
    *done = v->at + v->length;
    return put_value(s, modelfile, v->text, adapter);
}

/* The file as it is, but for its models' and adapters' values. */
static nm_err localise(nm_str *s, const char *text, size_t length, const char *modelfile, const nm_modelfile *m)
{
    size_t done = 0;
    bool from = false;
    for (size_t i = 0; i <= m->adapters; i++) {
        if (!from && (i == m->adapters || m->from.at < m->adapter[i].at)) {
            NM_TRY(splice(s, text, &done, modelfile, &m->from, false));
            from = true;
        }
        if (i < m->adapters) NM_TRY(splice(s, text, &done, modelfile, &m->adapter[i], true));
    }
    return nm_str_append(s, text + done, length - done);
}

static nm_err from_file(const settings *set, nm_str *text)
{
    char *given = NULL;
    size_t length;
    nm_modelfile m;
    bool in = !strcmp(set->modelfile, "-");
    const char *name = in ? "standard input" : set->modelfile;
    NM_TRY(in ? nm_read_stdin(&given, &length, "a Modelfile") : nm_file_read(set->modelfile, NM_MODELFILE_MOST, &given, &length));
    nm_err err = nm_modelfile_parse(&m, given, length, name);
    if (err == NM_OK) {
        err = localise(text, given, length, in ? "" : set->modelfile, &m);
        nm_modelfile_free(&m);
    }
    nm_free(given);
    return err;
}

/* ---- The command -------------------------------------------------------------------------------------------------------------------- */

/* NM_USAGE for options beside -f. */
static nm_err check_alone(const settings *set)
{
    nm_str s = {0};
    nm_modelfile m = set->given;
    m.from.text = "";
    m.seeded = set->seed.given;
    nm_err err = nm_modelfile_write(&s, &m);
    bool numbers = err == NM_OK && strchr(s.data, '\n')[1];
    nm_str_free(&s);
    NM_TRY(err);
    if (!numbers && !set->system && !set->tmpl && !set->template_file && !set->stop.count) return NM_OK;
    return nm_fail(NM_USAGE, "-f %s: the Modelfile is taken as it is: write SYSTEM and PARAMETER lines there, in place of options", set->modelfile);
}

static nm_err check_template(const char *text, size_t length)
{
    nm_modelfile m;
    nm_template *tmpl = NULL;
    NM_TRY(nm_modelfile_parse(&m, text, length, "the Modelfile"));
    nm_err err = m.tmpl ? nm_template_open(&tmpl, m.tmpl, strlen(m.tmpl), "TEMPLATE") : NM_OK;
    if (m.foreign) nm_note("TEMPLATE is written for Ollama, in Go's language: the model's own will be used; --template or a TEMPLATE in Jinja is obeyed");
    nm_template_close(&tmpl);
    nm_modelfile_free(&m);
    return err;
}

static nm_err report(const char *name, bool json)
{
    nm_persona *p;
    nm_str s = {0};
    NM_TRY(nm_persona_find(&p, name));
    if (!p) return nm_fail(NM_NOT_FOUND, "%s: somebody has removed it again", name);
    nm_err err = json ? nm_str_putc(&s, '{') : nm_out_printf("%s: saved; 'nomoat run %s' asks it, 'nomoat serve %s' serves it\n", p->name, p->name, p->name);
    if (json && err == NM_OK) err = nm_json_string(&s, "name", p->name);
    if (json && err == NM_OK) err = nm_json_string(&s, "path", p->path);
    if (json && err == NM_OK) err = nm_str_putc(&s, '}');
    nm_persona_free(p);
    return json ? nm_json_print(&s, err) : err;
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_str text = {0};
    nm_err err = NM_OK;
    if (set->modelfile && count > 1) return nm_fail(NM_USAGE, "%s: the Modelfile says which model: leave it away, or -f", operands[1]);
    if (!set->modelfile && count < 2) return nm_fail(NM_USAGE, "save: the model is missing: nomoat save %s MODEL{+ADAPTER}, or -f MODELFILE", operands[0]);
    if (set->modelfile) NM_TRY(check_alone(set));
    nm_interrupts_catch();
    NM_GOTO(set->modelfile ? from_file(set, &text) : from_options(set, operands[1], &text));
    NM_GOTO(check_template(text.data, text.length));
    NM_GOTO(nm_persona_save(operands[0], text.data, text.length, set->replace, nm_store_busy));
    err = report(operands[0], set->common.json);
out:
    nm_str_free(&text);
    return err;
}

const nm_command nm_command_save = {
    .name = "save", .operands = "NAME [MODEL{+ADAPTER[=SCALE]}]", .summary = "keep a model with a system message and settings under a name",
    .details = "Makes a persona: NAME then stands for the model, its adapters, the system message, the sampling, the stop strings, the limits and the template, wherever "
               "a MODEL is typed: 'nomoat run NAME', 'nomoat serve NAME', and \"model\": \"NAME\" in a request to any server of this user. What a command line or a "
               "request says itself wins. NAME+ADAPTER puts one more adapter on it.\n\n"
               "A persona is a Modelfile, the format of Ollama, in XDG_DATA_HOME/nomoat/personas: FROM, ADAPTER, PARAMETER, SYSTEM, TEMPLATE (in Jinja; one in Go's "
               "language is left out), MESSAGE. 'nomoat show NAME' prints it, -f takes one, 'nomoat rm NAME' removes it. Paths in one that -f takes are seen from its folder.",
    .examples = (const nm_example[]){{"nomoat save pirate smollm2+pirate-talk=0.8 --system 'You are a pirate.' --temp 0.9", "now 'nomoat run pirate' works"},
                                     {"nomoat save strict smollm2 --temp 0 -n 100 --stop '\\n\\n'", "short answers, always the same"},
                                     {"nomoat save helper -f Modelfile", "from Ollama's format"},
                                     {"nomoat show pirate > Modelfile; $EDITOR Modelfile; nomoat save pirate -f Modelfile --replace", "change one"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 1, .most_operands = 2, .run = run,
};
