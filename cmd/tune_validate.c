/* Validation in a run of `nomoat tune`, in the arithmetic that will serve. */
#include <stdlib.h>

#include "common.h"
#include "forget.h"
#include "measure.h"
#include "tune.h"

static nm_err score_samples(nm_tune *t, const nm_stack *stack, double *loss)
{
    size_t count = nm_dataset_count(t->data, NM_SPLIT_VALIDATION), longest = 2;
    double sum = 0, trained = 0;
    nm_measure measure = {0};
    for (size_t i = 0; i < count; i++) {
        nm_sample s = nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, i);
        if ((size_t)s.count > longest) longest = (size_t)s.count;
    }
    double *nll = nm_calloc(longest, sizeof *nll);
    nm_err err = nll ? nm_measure_open(&measure, t->stacked->model, stack, &t->set->common, -1, longest) : nm_fail_memory(longest * sizeof *nll);
    for (size_t i = 0; err == NM_OK && i < count; i++) {
        nm_sample s = nm_dataset_sample(t->data, NM_SPLIT_VALIDATION, i);
        err = nm_measure_run(&measure, s.ids, (size_t)s.count, 0, nll, NULL, NULL);
        for (int32_t k = 1; err == NM_OK && k < s.count; k++) {
            sum += s.mask[k] ? nll[k - 1] : 0;
            trained += s.mask[k];
        }
    }
    nm_measure_close(&measure);
    nm_free(nll);
    *loss = trained > 0 ? sum / trained : 0;
    return err;
}

/* The adapter as it stands, on the stack below. */
typedef struct present { nm_adapter *made; nm_stack *stack; } present;

static nm_err open_present(nm_tune *t, present *p)
{
    const nm_found_stack *found = &t->stacked->found;
    size_t n = found->count + 1;
    const nm_adapter **adapters = nm_calloc(n, sizeof(*adapters));
    float *scales = nm_calloc(n, sizeof *scales);
    nm_err err = adapters && scales ? nm_trainer_adapter(t->trainer, &p->made) : nm_fail_memory(n * sizeof *scales);
    if (err == NM_OK) err = nm_stacked_adapters(t->stacked, adapters, scales);
    if (err == NM_OK) {
        adapters[n - 1] = p->made;
        scales[n - 1] = 1;
        err = nm_stack_open(&p->stack, t->stacked->model, adapters, scales, n);
    }
    nm_free(adapters);
    nm_free(scales);
    return err;
}

static void close_present(present *p)
{
    nm_stack_close(&p->stack);
    nm_adapter_close(&p->made);
}

/* Loss on the validation data, and what was forgotten; -1 where there is none to measure. */
nm_err nm_tune_validate(nm_tune *t, double *loss, double *forgetting)
{
    present p = {0};
    nm_trainer_rest(t->trainer);
    bool last = nm_trainer_steps(t->trainer) == t->steps;
    *loss = *forgetting = -1;
    nm_err err = open_present(t, &p);
    if (err == NM_OK && nm_dataset_count(t->data, NM_SPLIT_VALIDATION)) err = score_samples(t, p.stack, loss);
    size_t tokens = (size_t)t->set->meter / (last ? 1 : 8);
    if (err == NM_OK && tokens && nm_model_tokenizer(t->stacked->model) && !t->set->batches)
        err = nm_forgetting(t->stacked->model, t->stacked->stack, p.stack, &t->set->common, tokens, forgetting);
    close_present(&p);
    return err;
}
