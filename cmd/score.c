/* nomoat score: how likely a model finds given tokens. */
#include <math.h>
#include <string.h>

#include "commands.h"
#include "common.h"
#include "json_in.h"
#include "stack.h"

typedef struct settings { nm_common common; int32_t kv; nm_stack_options stack; } settings;

static const nm_option options[] = {
    {"--kv -ctk -ctv", "f16|f32|q8_0", "type of the cached keys and values (f16)", offsetof(settings, kv), NM_OPTION_CHOICE, 0, 0},
    NM_STACK_OPTIONS(settings, stack),
    {0}
};
static const settings defaults = {.kv = -1};

enum { TOP = 20 };
typedef struct top { int32_t ids[TOP]; float logits[TOP]; int count; } top;

/* The largest logits, in falling order; of equals the lower id first. */
static void take_top(top *t, const float *logits, int32_t n)
{
    t->count = 0;
    for (int32_t id = 0; id < n; id++) {
        if (t->count == TOP && !(logits[id] > t->logits[TOP - 1])) continue;
        int at = t->count < TOP ? t->count++ : TOP - 1;
        for (; at > 0 && logits[id] > t->logits[at - 1]; at--) {
            t->logits[at] = t->logits[at - 1];
            t->ids[at] = t->ids[at - 1];
        }
        t->logits[at] = logits[id];
        t->ids[at] = id;
    }
}

static void on_last(void *arg, const float *logits, int32_t n) { take_top(arg, logits, n); }

static nm_err read_ids(const nm_model *m, int32_t **ids, size_t *count)
{
    char *text;
    size_t length;
    nm_json_input in;
    const nm_tokenizer *t;
    NM_TRY(nm_read_stdin(&text, &length, "{\"ids\": [...]} or {\"text\": ...}"));
    nm_err err = nm_json_read_input(&in, text, length);
    nm_free(text);
    NM_TRY(err);
    *ids = in.ids;
    *count = in.n_ids;
    if (!in.text) return NM_OK;
    err = nm_need_tokenizer(&t, m);
    if (err == NM_OK) err = nm_tokenize(t, in.text, in.text_length, NM_TEXT_BOS, ids, count);
    nm_free(in.text);
    return err;
}

static nm_err put_json(nm_str *s, const int32_t *ids, size_t n, const double *nll, const top *t, double perplexity)
{
    NM_TRY(nm_str_puts(s, "{\"ids\": "));
    NM_TRY(nm_json_ids(s, ids, n));
    NM_TRY(nm_str_puts(s, ", \"nll\": ["));
    for (size_t i = 0; i + 1 < n; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_json_single(s, nll[i]));
    }
    NM_TRY(nm_str_puts(s, "], \"perplexity\": "));
    NM_TRY(nm_json_single(s, perplexity));
    NM_TRY(nm_str_puts(s, ", \"last_top\": {\"ids\": "));
    NM_TRY(nm_json_ids(s, t->ids, (size_t)t->count));
    NM_TRY(nm_str_puts(s, ", \"logits\": ["));
    for (int i = 0; i < t->count; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_json_single(s, (double)t->logits[i]));
    }
    return nm_str_puts(s, "]}}");
}

/* A line a token: the cost in nats and the token. */
static nm_err print_table(const nm_tokenizer *t, const int32_t *ids, size_t n, const double *nll, double perplexity)
{
    for (size_t i = 1; i < n; i++) {
        NM_TRY(nm_out_printf("%9.4f  %7d  ", nll[i - 1], ids[i]));
        if (t) NM_TRY(nm_out_name(nm_token_raw(t, ids[i])));
        NM_TRY(nm_out_puts("\n"));
    }
    return nm_out_printf("perplexity %.4f over %zu tokens\n", perplexity, n ? n - 1 : 0);
}

static int run(void *arg, int n_operands, char **operands)
{
    const settings *set = arg;
    nm_stacked stacked;
    nm_measure measure = {0};
    int32_t *ids = NULL;
    double *nll = NULL, total = 0;
    size_t count = 0;
    top last;
    nm_str s = {0};
    (void)n_operands;
    NM_TRY(nm_stacked_open(&stacked, operands[0], &set->common, &set->stack));
    const nm_model *model = stacked.model;
    nm_err err = NM_OK;
    NM_GOTO(read_ids(model, &ids, &count));
    if (!count) NM_GOTO(nm_fail(NM_USAGE, "standard input: no tokens: give at least one"));
    nm_interrupts_catch();
    nll = nm_calloc(count, sizeof *nll);
    if (!nll) NM_GOTO(nm_fail_memory(count * sizeof *nll));
    NM_GOTO(nm_measure_open(&measure, model, stacked.stack, (nm_compute)set->common.compute, set->kv, count, &nm_interrupted));
    NM_GOTO(nm_measure_run(&measure, ids, count, 0, nll, on_last, &last));
    for (size_t i = 0; i + 1 < count; i++) total += nll[i];
    double perplexity = count > 1 ? exp(total / (double)(count - 1)) : NAN;
    if (set->common.json) err = nm_json_print(&s, put_json(&s, ids, count, nll, &last, perplexity));
    else err = print_table(nm_model_tokenizer(model), ids, count, nll, perplexity);
out:
    nm_measure_close(&measure);
    nm_free(nll);
    nm_free(ids);
    nm_stacked_close(&stacked);
    return err;
}

const nm_command nm_command_score = {
    .name = "score", .operands = "MODEL", .summary = "how likely the model finds given tokens",
    .details = "Reads {\"ids\": [...]} or {\"text\": \"...\"} from standard input and gives the negative log-likelihood in nats of every "
               "token but the first, the "
               "perplexity, and the 20 largest logits behind the last token. A text is tokenised with the BOS token if the model wants "
               "one; special tokens in it are text.",
    .examples = (const nm_example[]){{"echo '{\"text\": \"The capital of France is Paris.\"}' | nomoat score tiny", "a line a token"},
                                     {"echo '{\"ids\": [1, 2, 3]}' | nomoat score tiny --json --compute f32",
                                      "exact arithmetic, for programs"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 1, .most_operands = 1, .run = run,
};
