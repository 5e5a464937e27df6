/* nomoat tune: the settings of a training run. */
#include "tune.h"

#include <string.h>

#include "commands.h"
#include "common.h"
#include "format/json.h"
#include "os/clock.h"
#include "os/file.h"

#define TO(member) offsetof(nm_tune_command, member)
#define HEADING(text) NM_OPTION_HEADING(text),
#define SETTING(names, value, help, member, kind, least, most) {names, value, help, TO(set.member), kind, least, most},
#define COMMAND(names, value, help, member, kind, least, most) {names, value, help, TO(member), kind, least, most},
static const nm_option options[] = {
#include "tune/settings.def"
    NM_OPTION_HEADING("The model"),
    NM_STACK_OPTIONS(nm_tune_command, stack),
    {0}
};

static const nm_tune_command defaults = {.set = NM_TUNE_DEFAULTS};

enum { CONFIG_MOST = 16 << 20 };

/* The settings in an adapter's nomoat.json; or all of it, as they stand in a file of the user's. */
static const nm_json *settings_in(const nm_json *file)
{
    const nm_json *within = nm_json_get(nm_json_get(file, "provenance"), "settings");
    return within ? within : file;
}

/* An adapter may be anyone's: how it was taught is read from it, not which files are written here. */
static nm_err only_settings(const nm_json *settings, const char *path)
{
    static const char *const files[] = {"o", "output", "log", "report"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (nm_json_get(settings, files[i]))
            return nm_fail(NM_REFUSED, "%s: its settings name a file to write (\"%s\"), as tune's own never do: take out what you trust", path, files[i]);
    return NM_OK;
}

static nm_err read_config(nm_beneath *b, const char *path)
{
    char *text;
    size_t size;
    nm_json json;
    NM_TRY(nm_file_read(path, CONFIG_MOST, &text, &size));
    nm_err err = nm_json_parse(&json, text, size);
    nm_free(text);
    if (err != NM_OK) return err == NM_USAGE ? nm_fail_in(NM_BAD_FILE, path) : err;
    const nm_json *settings = settings_in(&json);
    if (nm_json_get(settings, "config")) err = nm_fail(NM_USAGE, "%s: \"config\": a file of settings names no other", path);
    if (err == NM_OK && nm_json_get(&json, "provenance") && settings == &json)
        err = nm_fail(NM_USAGE, "%s: the adapter does not tell its settings: it was not taught by this version's tune", path);
    if (err == NM_OK && settings != &json) err = only_settings(settings, path);
    if (err == NM_OK) err = nm_beneath_json(b, settings, path);
    nm_json_free(&json);
    return err;
}

static nm_err beneath(nm_beneath *b, void *settings)
{
    nm_tune_command *c = settings;
    if (c->set.config) NM_TRY(read_config(b, c->set.config));
    return c->recipe ? nm_tune_recipe(b, c->recipe, &c->set.recipe_said) : NM_OK;
}

static nm_err check(const nm_tune_command *c, int count)
{
    const nm_tune_settings *set = &c->set;
    if (!set->output && !c->plan && !c->show_mask) return nm_fail(NM_USAGE, "where does the adapter go? Give -o NAME, or -o ./FOLDER");
    if (set->output && !strchr(set->output, '/')) NM_TRY(nm_check_adapter_name(set->output));
    if ((set->log && !*set->log) || (set->report && !*set->report)) return nm_fail(NM_USAGE, "%s '': give a file's name", set->log && !*set->log ? "--log" : "--report");
    if (count < 2 && !set->batches) return nm_fail(NM_USAGE, "no data: nomoat tune MODEL DATA... -o NAME");
    if (set->gguf && set->dora) return nm_fail(NM_USAGE, "--gguf: a GGUF adapter has no place for DoRA's magnitudes: leave --gguf or --dora away");
    if (set->recipe_said) nm_note("%s", set->recipe_said);
    if (set->fit && set->resume)
        return nm_fail(NM_USAGE, "--fit would measure anew and choose otherwise: to go on, give the --epochs, --max-steps and --save-every it chose in its place");
    return NM_OK;
}

static int run(void *arg, int count, char **operands)
{
    nm_tune_command *c = arg;
    nm_stacked stacked;
    c->set.begun_ns = nm_clock_ns();
    NM_TRY(check(c, count));
    c->set.compute = (nm_compute)c->common.compute;
    c->set.force = c->stack.force;
    c->set.recipe = nm_tune_recipe_name(c->recipe);
    NM_TRY(nm_stacked_open(&stacked, operands[0], &c->common, &c->stack));
    nm_err err = nm_tune_do(c, &stacked, operands, (size_t)count);
    nm_stacked_close(&stacked);
    return err;
}

const nm_command nm_command_tune = {
    .name = "tune", .operands = "MODEL{+ADAPTER} DATA[:WEIGHT]...", .summary = "teach the model with LoRA, on the very weights that run",
    .details = "Trains an adapter on conversations, questions and answers, or text, and writes it as a PEFT folder that run, score and others use as "
               "MODEL+NAME. The quantised weights stay as they are and are not copied.\n\n"
               "DATA is JSON, JSON Lines, CSV (gzip of these), text, or a folder of such; each row becomes a conversation in the model's own template, and only "
               "its answers are trained (--show-mask shows them). Every row counts once an epoch, or as often as its WEIGHT says.\n\n"
               "Ctrl-C saves and stops; --resume goes on and ends in the same bits. A share of the rows is kept for validation, in the arithmetic that will serve; "
               "the best adapter so far is what the folder holds.",
    .examples = (const nm_example[]){{"nomoat tune mine talks.jsonl -o style", "three epochs with what suits most"},
                                     {"nomoat tune mine talks.jsonl --plan", "how long, how much memory"},
                                     {"nomoat tune mine a.jsonl b.csv:2 -o ./out -r 32 --epochs 1 --log out.jsonl", "two sources, one counted twice"},
                                     {"nomoat tune mine a.jsonl -o out2 --config ./out/nomoat.json --lr 1e-4", "the settings of an earlier run, but for one"},
                                     {"nomoat run mine+style 'Hello'", "use it"}, {0}},
    .options = options, .settings_size = sizeof(nm_tune_command), .defaults = &defaults, .least_operands = 1, .most_operands = -1, .run = run,
    .beneath = beneath,
};
