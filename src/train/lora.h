/* Owns the numbers that training changes: for each trained map the halves of its adapter, their gradients and the optimiser's state, and what is
 * derived from the halves for the kernels. Refuses to know data and schedules. */
#ifndef NM_TRAIN_LORA_H
#define NM_TRAIN_LORA_H

#include "model/model.h"
#include "optim/optim.h"

typedef struct nm_train_map {   /* one trained map */
    int32_t weight;             /* id */
    int32_t rank;
    int64_t n, k;
    size_t at;                  /* of A [rank][k], then B' [rank][n], in p, g and half */
    size_t state;               /* of A's state, then B's */
} nm_train_map;

typedef struct nm_train_lora {
    const nm_model *model;
    nm_train_map *map;
    size_t maps;
    size_t numbers, states;     /* floats of p, g and half each; of state */
    float *p, *g;               /* A and B' of all maps, one after the other */
    float *half;                /* the same turned: A' [k][rank], B [n][rank] */
    float *state;
    nm_train_slot *slot;        /* by weight id, for nm_train */
    uint8_t *trained;           /* by weight id, for the plan */
    int32_t max_rank;
} nm_train_lora;

/* Only finds out what would be owned (maps, numbers, states, trained, max_rank), with no room for the numbers. */
nm_err nm_train_lora_list(nm_train_lora *lora, const nm_model *model, const int32_t *wanted, const nm_optim *optim);
/* wanted: ranks by weight id, 0 = not trained. scale: of every slot. A is drawn uniformly in +-1/sqrt(k) (as PEFT does), B is 0. */
nm_err nm_train_lora_open(nm_train_lora *lora, const nm_model *model, const int32_t *wanted, float scale, const nm_optim *optim, uint64_t seed);
void nm_train_lora_close(nm_train_lora *lora);
/* After p has changed: the turned halves follow. */
nm_err nm_train_lora_derive(nm_train_lora *lora);
/* The L2 norm of all gradients, summed in an order of its own; *norm is NAN or infinite where a gradient is. */
nm_err nm_train_lora_norm(const nm_train_lora *lora, double *norm);
/* One step of the optimiser on gradients times `clip`, and derives. lr_b: of the B halves (LoRA+). */
nm_err nm_train_lora_update(nm_train_lora *lora, const nm_optim *optim, const nm_optim_settings *set, int64_t step, float lr, float lr_b, float clip);

#endif
