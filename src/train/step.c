/* One step of training. */
#include "train/step.h"

#include <math.h>
#include <string.h>

#include "base/err.h"

static double weight_of(const nm_sequence *s)
{
    double sum = 0;
    for (int32_t i = 1; i < s->count; i++) sum += (double)s->weight[i];
    return sum;
}

/* How many sequences from `at` on make the next pass. */
static int32_t fits(const nm_pass *p, const nm_sequence *sequence, int32_t at, int32_t count)
{
    const nm_train_options *o = nm_pass_options(p);
    int64_t rows = 0;
    int32_t n = 0;
    while (at + n < count && n < o->max_sequences && (n == 0 || rows + sequence[at + n].count <= o->max_rows)) rows += sequence[at + n++].count;
    return n;
}

static nm_err finish(const nm_train_lora *lora, nm_step_report *report)
{
    NM_TRY(nm_train_lora_norm(lora, &report->grad_norm));
    if (!isfinite(report->loss) || !isfinite(report->grad_norm)) return nm_fail(NM_FAILED, "the loss or a gradient is not finite: lower the learning rate");
    return NM_OK;
}

nm_err nm_step_gradients(nm_pass *pass, nm_train_lora *lora, const nm_sequence *sequence, int32_t count, nm_step_report *report,
    const volatile sig_atomic_t *cancel)
{
    nm_train train = {.slot = lora->slot, .dropout = lora->dropout};
    *report = (nm_step_report){0};
    for (int32_t i = 0; i < count; i++) {
        report->supervised += weight_of(&sequence[i]);
        report->tokens += sequence[i].count;
    }
    if (!(report->supervised > 0)) return nm_fail(NM_USAGE, "no token of this step is trained: check the masks");
    memset(lora->g, 0, lora->numbers * sizeof *lora->g);
    for (int32_t at = 0, n; at < count; at += n) {
        n = fits(pass, sequence, at, count);
        train.dropout.first = at;
        NM_TRY(nm_pass_run(pass, sequence + at, n, (float)(1 / report->supervised), &train, &report->loss, NULL, cancel));
    }
    report->loss /= report->supervised;
    return finish(lora, report);
}

nm_err nm_step_anchor(nm_pass *pass, nm_train_lora *lora, const nm_sequence *sequence, int32_t count, float weight, nm_step_report *report, double *kl,
    const volatile sig_atomic_t *cancel)
{
    nm_train train = {.slot = lora->slot, .dropout = lora->dropout};
    double tokens = 0, sum = 0;
    for (int32_t i = 0; i < count; i++) tokens += weight_of(&sequence[i]);
    *kl = 0;
    if (!(tokens > 0)) return NM_OK;        /* nothing is held */
    for (int32_t at = 0, n; at < count; at += n) {
        n = fits(pass, sequence, at, count);
        train.dropout.first = at - count;   /* masks of their own */
        NM_TRY(nm_pass_anchor(pass, sequence + at, n, (float)((double)weight / tokens), &train, &sum, cancel));
    }
    *kl = sum / tokens;
    for (int32_t i = 0; i < count; i++) report->tokens += sequence[i].count;
    return finish(lora, report);
}

float nm_clip_factor(double norm, float most)
{
    double factor = (double)most / (norm + 1e-6);
    return most > 0 && factor < 1 ? (float)factor : 1;
}
