/* Owns one step of training: gradients of a batch of sequences, in as many passes as memory wants (same bits), clipping, the optimiser. Refuses
 * to know where sequences come from and when to stop. */
#ifndef NM_TRAIN_STEP_H
#define NM_TRAIN_STEP_H

#include "train/lora.h"
#include "train/pass.h"

typedef struct nm_step_report {
    double loss;                /* sum of weight x NLL over the sum of weights */
    double grad_norm;           /* before clipping */
    double supervised;          /* sum of weights */
    int64_t tokens;             /* rows of its passes */
} nm_step_report;

/* Gradients of the mean loss of all sequences, left in lora->g. Sequences go into passes in order, each as full as it gets. NM_USAGE where nothing is
 * supervised, NM_FAILED where the loss or a gradient is not finite. */
nm_err nm_step_gradients(nm_pass *pass, nm_train_lora *lora, const nm_sequence *sequence, int32_t count, nm_step_report *report,
    const volatile sig_atomic_t *cancel);
/* Adds to lora->g the gradient of weight x the mean KL of the model before to the model now over the sequences' tokens; *kl: that mean. The report's norm
 * follows. Sequences without weights hold nothing, and *kl is 0. */
nm_err nm_step_anchor(nm_pass *pass, nm_train_lora *lora, const nm_sequence *sequence, int32_t count, float weight, nm_step_report *report, double *kl,
    const volatile sig_atomic_t *cancel);
/* The factor by which gradients of this norm are clipped to `most` (0 = never), as PyTorch does. */
float nm_clip_factor(double norm, float most);

#endif
