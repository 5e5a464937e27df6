/* nomoat tune: the settings of a training run. */
#include "tune.h"

#include <string.h>

#include "commands.h"
#include "common.h"
#include "os/clock.h"
#include "os/file.h"

#define TO(member) offsetof(nm_tune_settings, member)
#define MANY 1000000000

static const nm_option options[] = {
    NM_OPTION_HEADING("Beneath the command line, which wins over them"),
    {"--recipe", "none|alpaca-lora|vicuna|koala|qlora", "settings that others published", TO(recipe), NM_OPTION_CHOICE, 0, 0},
    {"--config", "FILE", "options as a JSON object by their long names, or an adapter's nomoat.json: its run again", TO(config), NM_OPTION_TEXT, 0, 0},
    NM_OPTION_HEADING("Data"),
    {"-o --output", "NAME|./FOLDER", "where the adapter goes: a name in the store, or a folder", TO(output), NM_OPTION_TEXT, 0, 0},
    {"--val", "FILE|0.05", "data for validation, or the share of the rows kept for it (0.05 where that makes 20 sequences, 128 rows at most; 0 = none)",
        TO(validation), NM_OPTION_TEXT, 0, 0},
    {"--map", "NAME=COLUMN,...", "other names of columns: instruction=q,output=a", TO(map), NM_OPTION_TEXT, 0, 0},
    {"--format", "alpaca|vicuna|raw", "a fixed format in place of the model's template", TO(format), NM_OPTION_TEXT, 0, 0},
    {"--template --chat-template", "FILE", "a chat template in place of the model's", TO(template_path), NM_OPTION_TEXT, 0, 0},
    {"--train-on", "assistant|last|all", "what is trained: all answers, the last, or every token (assistant)", TO(train_on), NM_OPTION_CHOICE, 0, 0},
    {"--max-length --cutoff-len --max-seq-length", "N", "tokens of a sequence; longer ones are cut, and said (512)", TO(max_length), NM_OPTION_INT, 8, 1 << 20},
    {"--skip-bad", NULL, "count bad rows and go on", TO(skip_bad), NM_OPTION_FLAG, 0, 0},
    {"--show-mask", "[N=3]", "show N sequences with what is trained of them, and stop", TO(show_mask), NM_OPTION_INT, 1, MANY},
    {"--batches", "FILE", "ready batches as JSON, used as they are", TO(batches), NM_OPTION_TEXT, 0, 0},
    {"--keep", "FILE", "data of what the model is to go on doing: one such sequence with each eight that are trained", TO(keep), NM_OPTION_TEXT, 0, 0},
    NM_OPTION_HEADING("What is trained"),
    {"-r --rank --lora-r", "N", "rank of the adapter (16)", TO(rank), NM_OPTION_INT, 1, 1 << 14},
    {"--alpha --lora-alpha", "A", "scale the adapter by A / rank (default: rank-stabilised, 8 / sqrt(rank))", TO(alpha), NM_OPTION_REAL, 0, 1e6},
    {"--rslora", NULL, "with --alpha: by A / sqrt(rank)", TO(rslora), NM_OPTION_FLAG, 0, 0},
    {"--dora", NULL, "also learn the length of each row (DoRA): a little slower, more of LoRA's numbers are put to use", TO(dora), NM_OPTION_FLAG, 0, 0},
    {"--targets --target-modules", "LIST", "maps to train: q_proj,v_proj or attn_q,attn_v (all linear maps of the layers)", TO(targets), NM_OPTION_TEXT, 0, 0},
    {"--init", "FOLDER", "start from this adapter: its rank, scale and maps", TO(init), NM_OPTION_TEXT, 0, 0},
    NM_OPTION_HEADING("How"),
    {"--init-lora", "uniform|gaussian|pissa", "how the adapter begins: B = 0 and A drawn, or from the maps' largest singular values (PiSSA; saved with twice the rank) (uniform)",
        TO(start), NM_OPTION_CHOICE, 0, 0},
    {"--dropout --lora-dropout", "P", "share of the values before the A halves that is dropped in training (0)", TO(dropout), NM_OPTION_REAL, 0, 0.99},
    {"--lr --learning-rate", "RATE", "the largest learning rate (1.152 / width of the model: 2e-3 for 576; a fifth of it for lion)", TO(lr), NM_OPTION_REAL, 1e-12, 1e3},
    {"--loraplus", "RATIO", "LoRA+: rate of the B halves to that of the A halves (1)", TO(lr_ratio), NM_OPTION_REAL, 1e-3, 1e4},
    {"--schedule", "cosine|linear|constant", "how the rate goes on after the warm-up (cosine)", TO(schedule), NM_OPTION_CHOICE, 0, 0},
    {"--warmup", "STEPS|SHARE", "steps of warm-up, or their share of all below 1 (0.05)", TO(warmup), NM_OPTION_REAL, 0, MANY},
    {"--optimizer --optim", "NAME", "adamw, adamw8bit (its state in 8 bits), lion, adafactor, muon or muon-rms (adamw)", TO(optimizer), NM_OPTION_TEXT, 0, 0},
    {"--weight-decay", "D", "decay of the weights (the optimiser's)", TO(weight_decay), NM_OPTION_REAL, 0, 1e3},
    {"--clip", "NORM", "largest norm of a step's gradient (1; 0 = any)", TO(clip), NM_OPTION_REAL, 0, 1e9},
    {"--epochs --num-train-epochs", "N", "times over the data (3; more, up to 10, where that makes fewer than 80 steps)", TO(epochs), NM_OPTION_REAL, 1e-6, 1e6},
    {"--max-steps", "N", "stop after N steps", TO(max_steps), NM_OPTION_INT, 1, MANY},
    {"--batch --batch-size", "N", "sequences of a step; how many are computed together is planned (8)", TO(batch), NM_OPTION_INT, 1, 1 << 16},
    {"-s --seed", "N", "seed of the order and of the adapter's start (0)", TO(seed), NM_OPTION_SEED, 0, 0},
    NM_OPTION_HEADING("What is not to be forgotten"),
    {"--anchor", "WEIGHT", "hold the model to itself, on general text and in its answers to general questions, with this weight (2)", TO(anchor), NM_OPTION_REAL, 0, 1e6},
    {"--no-anchor", NULL, "do not", TO(no_anchor), NM_OPTION_FLAG, 0, 0},
    {"--ease", "NATS", "where the anchor's KL runs above this, the rate gives way (0.1 with the default rate; 0 = never)", TO(ease), NM_OPTION_REAL, 0, 1e6},
    {"--anchor-data", "FILE", "the general text (what ships with nomoat)", TO(anchor_data), NM_OPTION_TEXT, 0, 0},
    {"--meter", "TOKENS", "general text that the meter of forgetting reads at the end, an eighth of it on the way (8192; 0 = none)", TO(meter), NM_OPTION_INT, 0, MANY},
    {"--max-forget", "NATS", "stop where the meter says more, and leave the last adapter below", TO(max_forget), NM_OPTION_REAL, 0, 1e6},
    NM_OPTION_HEADING("The run"),
    {"--patience", "N", "stop when validation has not improved N times (3; 0 = never)", TO(patience), NM_OPTION_INT, 0, MANY},
    {"--save-every", "STEPS", "steps between validations and checkpoints (a tenth of all; a fifth where nothing is validated)", TO(save_every), NM_OPTION_INT, 1, MANY},
    {"--resume", NULL, "go on with the run that was interrupted, to the same bits", TO(resume), NM_OPTION_FLAG, 0, 0},
    {"--memory", "SIZE", "most memory beside the model, as 2G: less is slower, to the same bits", TO(memory), NM_OPTION_TEXT, 0, 0},
    {"--fit", "TIME", "fewer epochs, then fewer steps, until the run ends within 3h, 90m, 2h30m; says what it chose", TO(fit), NM_OPTION_TEXT, 0, 0},
    {"--plan", NULL, "measure this machine, say what the run would take, and stop", TO(plan), NM_OPTION_FLAG, 0, 0},
    {"--no-packing", NULL, "each sequence in a pass of its own: slower, to the same bits", TO(no_packing), NM_OPTION_FLAG, 0, 0},
    NM_OPTION_HEADING("What is left behind"),
    {"--log", "FILE", "a JSON object for each step", TO(log), NM_OPTION_TEXT, 0, 0},
    {"--report", "FILE.html", "one page with curves, settings, and answers before and after", TO(report), NM_OPTION_TEXT, 0, 0},
    {"--gguf", NULL, "also write FOLDER/adapter.gguf", TO(gguf), NM_OPTION_FLAG, 0, 0},
    {"--base-id", "ID", "what the adapter calls its base (the model's name)", TO(base_id), NM_OPTION_TEXT, 0, 0},
    NM_OPTION_HEADING("The model"),
    NM_STACK_OPTIONS(nm_tune_settings, stack),
    {0}
};

static const nm_tune_settings defaults = {.max_length = 512, .rank = 16, .lr = NM_UNSET_REAL, .lr_ratio = 1, .warmup = 0.05, .weight_decay = -1,
    .clip = 1, .epochs = NM_UNSET_REAL, .batch = 8, .patience = 3, .meter = 8192, .anchor = 2, .ease = NM_UNSET_REAL, .max_forget = NM_UNSET_REAL};

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
    nm_tune_settings *set = settings;
    if (set->config) NM_TRY(read_config(b, set->config));
    return set->recipe ? nm_tune_recipe(b, set->recipe, &set->recipe_said) : NM_OK;
}

static int run(void *arg, int count, char **operands)
{
    nm_tune_settings *set = arg;
    set->begun_ns = nm_clock_ns();
    nm_stacked stacked;
    if (!set->output && !set->plan && !set->show_mask) return nm_fail(NM_USAGE, "where does the adapter go? Give -o NAME, or -o ./FOLDER");
    if (set->output && !strchr(set->output, '/')) NM_TRY(nm_check_adapter_name(set->output));
    if ((set->log && !*set->log) || (set->report && !*set->report)) return nm_fail(NM_USAGE, "%s '': give a file's name", set->log && !*set->log ? "--log" : "--report");
    if (count < 2 && !set->batches) return nm_fail(NM_USAGE, "no data: nomoat tune MODEL DATA... -o NAME");
    if (set->gguf && set->dora) return nm_fail(NM_USAGE, "--gguf: a GGUF adapter has no place for DoRA's magnitudes: leave --gguf or --dora away");
    if (set->recipe_said) nm_note("%s", set->recipe_said);
    if (set->fit && set->resume)
        return nm_fail(NM_USAGE, "--fit would measure anew and choose otherwise: to go on, give the --epochs, --max-steps and --save-every it chose in its place");
    NM_TRY(nm_stacked_open(&stacked, operands[0], &set->common, &set->stack));
    nm_err err = nm_tune_run(set, &stacked, operands, (size_t)count);
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
    .options = options, .settings_size = sizeof(nm_tune_settings), .defaults = &defaults, .least_operands = 1, .most_operands = -1, .run = run,
    .beneath = beneath,
};
