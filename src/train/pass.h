/* Owns a training pass: whole sequences forward, their loss, and backward into gradients that the caller keeps. Refuses sequences that do not
 * fit its rows; a pass never cuts one. Gradients are left folds over rows in order, so passes of one sequence and of eight give the same bits. */
#ifndef NM_TRAIN_PASS_H
#define NM_TRAIN_PASS_H

#include "model/model.h"

typedef struct nm_train_options {
    const uint8_t *trained;     /* NM_TRAIN_* by weight id */
    int32_t rank;               /* the largest trained rank; 0 without slots */
    nm_remake remake;
    bool bf16;                  /* products of the base's linear maps, forward and backward, and of attention's backward in bf16; else in fp32 */
    const nm_stack *stack;      /* below what is trained; NULL = the base alone */
    const nm_stack *before;     /* of the model that the anchor holds to: `stack`, but for what is subtracted while an adapter is trained (pissa.h) */
    int32_t max_rows;           /* tokens of a pass */
    int32_t max_length;         /* of a sequence; 0 = max_rows */
    int32_t max_sequences;
    int32_t max_out;            /* supervised rows whose logits exist at a time */
    bool beside;                /* nm_trainer_options */
    int32_t max_anchor;         /* rows that nm_pass_anchor takes; 0 = it is not used */
} nm_train_options;

typedef struct nm_sequence {
    const int32_t *ids;
    const float *weight;        /* of the loss of predicting ids[i]; 0 = not trained. The first is never predicted */
    int32_t count;
} nm_sequence;

typedef struct nm_pass nm_pass;
nm_err nm_pass_open(nm_pass **out, const nm_model *model, const nm_train_options *options);
void nm_pass_close(nm_pass **pass);
/* Values, keys and values of attention, scratch: what full passes touch. */
uint64_t nm_pass_bytes(const nm_pass *pass);
/* Gives what a pass computes in back to the system until the next one. */
void nm_pass_rest(nm_pass *pass);
const nm_train_options *nm_pass_options(const nm_pass *pass);

/* Adds the gradient of  scale * sum of weight * NLL  to train's gradients, and sum of weight * NLL to *loss. nll, if not NULL: of every predicted
 * token with a weight, in order. NM_INTERRUPTED leaves gradients half done. */
nm_err nm_pass_run(nm_pass *pass, const nm_sequence *sequence, int32_t count, float scale, const nm_train *train, double *loss, float *nll,
    const volatile sig_atomic_t *cancel);

/* Holds the model to itself: adds the gradient of  scale * sum over the sequences' tokens of KL(before || now)  in nats, where before is the model without
 * what is trained, and that sum to *kl. Weights of the sequences choose the rows as above, and weigh them. */
nm_err nm_pass_anchor(nm_pass *pass, const nm_sequence *sequence, int32_t count, float scale, const nm_train *train, double *kl, const volatile sig_atomic_t *cancel);

#endif
