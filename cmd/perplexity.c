/* nomoat perplexity: how well a model predicts a text, window by window. */
#include <math.h>
#include <string.h>

#include "commands.h"
#include "common.h"
#include "os/file.h"
#include "stack.h"

typedef struct settings { nm_common common; int32_t length, windows, kv; bool bos, second_half; nm_stack_options stack; } settings;

static const nm_option options[] = {
    {"--length -c --context --ctx-size", "N", "tokens of a window (512)", offsetof(settings, length), NM_OPTION_INT, 2, 1 << 24},
    {"--windows --chunks", "N", "windows to score; 0 = all that the text fills (default)", offsetof(settings, windows), NM_OPTION_INT, 0,
     INT32_MAX},
    {"--bos", NULL, "each window begins with the BOS token, and its last token falls off", offsetof(settings, bos), NM_OPTION_FLAG, 0, 0},
    {"--second-half", NULL, "score the second half of each window only, as llama-perplexity does", offsetof(settings, second_half),
     NM_OPTION_FLAG, 0, 0},
    {"--kv -ctk -ctv", "f16|f32|q8_0", "type of the cached keys and values (f16)", offsetof(settings, kv), NM_OPTION_CHOICE, 0, 0},
    NM_STACK_OPTIONS(settings, stack),
    {0}
};
static const settings defaults = {.length = 512, .kv = -1};

typedef struct total { double nll; size_t tokens; } total;

/* Window i is the text's tokens [length i, length (i + 1)); all but its first are scored, or the second half. */
static nm_err score_window(nm_measure *m, const settings *set, const int32_t *ids, int32_t bos, int32_t *window, double *nll, total *t)
{
    size_t n = (size_t)set->length, first = set->second_half ? n / 2 : 0;
    memcpy(window + set->bos, ids, (n - set->bos) * sizeof *window);
    if (set->bos) window[0] = bos;
    NM_TRY(nm_measure_run(m, window, n, first, nll, NULL, NULL));
    for (size_t i = first; i + 1 < n; i++) t->nll += nll[i];
    t->tokens += n - 1 - first;
    return NM_OK;
}

static nm_err score_text(nm_measure *m, const settings *set, const int32_t *ids, size_t windows, int32_t bos, total *t)
{
    int32_t *window = nm_calloc((size_t)set->length, sizeof *window);
    double *nll = nm_calloc((size_t)set->length, sizeof *nll);
    nm_meter meter = {.what = "scoring"};
    nm_err err = window && nll ? NM_OK : nm_fail_memory((size_t)set->length * sizeof *nll);
    for (size_t i = 0; err == NM_OK && i < windows; i++) {
        err = score_window(m, set, ids + i * (size_t)set->length, bos, window, nll, t);
        if (err == NM_OK && nm_meter_draw(&meter, i + 1, windows)) err = nm_fail(NM_INTERRUPTED, "interrupted");
        if (err == NM_OK && set->common.verbose) nm_note("window %zu: perplexity so far %.4f", i + 1, exp(t->nll / (double)t->tokens));
    }
    nm_meter_clear(&meter);
    nm_free(window);
    nm_free(nll);
    return err;
}

static nm_err print(const total *t, size_t windows, bool json)
{
    double mean = t->nll / (double)t->tokens;
    nm_str s = {0};
    if (!json)
        return nm_out_printf("perplexity %.4f (mean %.5f nats) over %zu tokens in %zu windows\n", exp(mean), mean, t->tokens, windows);
    nm_err err = nm_str_puts(&s, "{\"perplexity\": ");
    if (err == NM_OK) err = nm_json_double(&s, exp(mean));
    if (err == NM_OK) err = nm_json_key(&s, "mean_nll");
    if (err == NM_OK) err = nm_json_double(&s, mean);
    if (err == NM_OK) err = nm_json_whole(&s, "tokens", t->tokens);
    if (err == NM_OK) err = nm_json_whole(&s, "windows", windows);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err read_text(const nm_tokenizer *t, const char *path, int32_t **ids, size_t *count)
{
    char *text;
    size_t length;
    if (!strcmp(path, "-")) NM_TRY(nm_read_stdin(&text, &length, "the text"));
    else NM_TRY(nm_file_read(path, NM_INPUT_MOST, &text, &length));
    nm_err err = nm_tokenize(t, text, length, 0, ids, count);
    nm_free(text);
    return err;
}

/* How many windows to score; NM_USAGE with numbers if the text is too short. */
static nm_err count_windows(const settings *set, const char *path, size_t tokens, size_t *windows)
{
    size_t have = tokens / (size_t)set->length;
    *windows = set->windows ? (size_t)set->windows : have;
    if (have && *windows <= have) return NM_OK;
    return nm_fail(NM_USAGE, "%s: its %zu tokens fill %zu windows of %d: give a longer text, or fewer or shorter windows", path, tokens,
                   have, set->length);
}

static int run(void *arg, int n_operands, char **operands)
{
    const settings *set = arg;
    nm_stacked stacked;
    nm_measure measure = {0};
    const nm_tokenizer *t;
    int32_t *ids = NULL;
    size_t count = 0, windows;
    total sum = {0};
    (void)n_operands;
    if (set->second_half && set->length < 3) return nm_fail(NM_USAGE, "--second-half: a window of 2 tokens has none to score: give --length 3 or more");
    NM_TRY(nm_stacked_open(&stacked, operands[0], &set->common, &set->stack));
    const nm_model *model = stacked.model;
    nm_err err = NM_OK;
    NM_GOTO(nm_need_tokenizer(&t, model));
    if (set->bos && nm_token_bos(t) < 0) NM_GOTO(nm_fail(NM_USAGE, "--bos: this model has no BOS token: leave it away"));
    NM_GOTO(read_text(t, operands[1], &ids, &count));
    NM_GOTO(count_windows(set, operands[1], count, &windows));
    int32_t trained = nm_model_describe(model)->n_context;
    if (trained > 0 && set->length > trained)
        nm_note("--length %d is more than the %d tokens that the model was trained for: expect worse figures", set->length, trained);
    nm_interrupts_catch();
    NM_GOTO(nm_measure_open(&measure, model, stacked.stack, (nm_compute)set->common.compute, set->kv, (size_t)set->length, &nm_interrupted));
    NM_GOTO(score_text(&measure, set, ids, windows, nm_token_bos(t), &sum));
    err = print(&sum, windows, set->common.json);
out:
    nm_measure_close(&measure);
    nm_free(ids);
    nm_stacked_close(&stacked);
    return err;
}

const nm_command nm_command_perplexity = {
    .name = "perplexity", .operands = "MODEL FILE", .summary = "how well the model predicts a text",
    .details = "Cuts the text's tokens into windows of --length, each scored by itself, all but its first token. Special tokens in the "
               "text are text. Compare such numbers "
               "only between runs with the same tokenizer, length and options; with --second-half they compare to llama-perplexity's. "
               "FILE '-' is standard input.",
    .examples = (const nm_example[]){{"nomoat perplexity tiny wiki.txt --windows 8", "eight windows of 512 tokens"},
                                     {"nomoat perplexity tiny wiki.txt --second-half --json",
                                      "as llama-perplexity scores, for programs"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 2, .most_operands = 2, .run = run,
};
