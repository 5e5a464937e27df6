/* Owns the meter of forgetting: how far a stack has moved the model on general text, in the arithmetic that serves. */
#ifndef NM_TUNE_FORGET_H
#define NM_TUNE_FORGET_H

#include <signal.h>

#include "nomoat.h"

/* Mean KL(before || after) in nats a token over the first `tokens` tokens of the general text for it, in windows of 512; fewer if it has fewer. The stacks
 * may be NULL: the base. */
nm_err nm_forgetting(const nm_model *model, const nm_stack *before, const nm_stack *after, nm_compute compute, size_t tokens, const volatile sig_atomic_t *cancel,
    double *kl);
/* Tokens that it reads in one pass, which is how its cost grows. */
size_t nm_forgetting_part(const nm_model *model);

#endif
