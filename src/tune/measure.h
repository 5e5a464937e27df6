/* Owns likelihoods of given tokens, and the likeliest one: what score, perplexity, effect and tune have in common. */
#ifndef NM_TUNE_MEASURE_H
#define NM_TUNE_MEASURE_H

#include <signal.h>

#include "nomoat.h"

typedef struct nm_measure { const nm_model *model; nm_session *session; nm_runner *runner; const volatile sig_atomic_t *cancel; } nm_measure;

/* stack may be NULL. kv: an nm_kv_type, or -1 for the one that suits the arithmetic. NM_NO_MEMORY, with numbers, if `tokens` do not fit. */
nm_err nm_measure_open(nm_measure *measure, const nm_model *model, const nm_stack *stack, nm_compute compute, int32_t kv, size_t tokens,
    const volatile sig_atomic_t *cancel);
void nm_measure_close(nm_measure *measure);

/* Forgets what was, runs the tokens, and writes nll[i] = -log p(ids[i + 1] | ids[0..i]) for first <= i < count - 1, in nats.
 * on_last (may be NULL) sees the logits behind the last token. NM_FAILED if a logit is NaN. */
typedef void (*nm_last_fn)(void *arg, const float *logits, int32_t n_vocab);
nm_err nm_measure_run(nm_measure *measure, const int32_t *ids, size_t count, size_t first, double *nll, nm_last_fn on_last, void *arg);

/* Rows of logits that a runner had best make at a time where many are wanted: within 16 MB. */
int32_t nm_rows_of_logits(const nm_model *model);
/* The likeliest token, and the first of equals. */
int32_t nm_best_token(const float *logits, int32_t n);
/* log of the sum of e^logit, in double; NAN if a logit is. */
double nm_log_sum(const float *logits, int32_t n);
/* The cache's type for an arithmetic; kv: an nm_kv_type, or -1 where none was asked for. NM_USAGE for another than f32 with fp32. */
nm_err nm_choose_kv(nm_kv_type *out, nm_compute compute, int32_t kv);

#endif
