/* Owns the numbers that training changes: for each trained map the halves of its adapter and DoRA's magnitudes, their gradients and the optimiser's state,
 * and what is derived from them for the kernels. Refuses to know data and schedules. */
#ifndef NM_TRAIN_LORA_H
#define NM_TRAIN_LORA_H

#include "model/model.h"
#include "optim/optim.h"

typedef struct nm_train_map {   /* one trained map */
    int32_t weight;             /* id */
    int32_t rank;
    int64_t n, k;
    size_t at;                  /* of A [rank][k], then B' [rank][n], then DoRA's m [n], in p, g and half (there m's place is unused) */
    size_t state;               /* byte of A's state, then B's, then m's */
    size_t row;                 /* of its gains, then inverses: 2 n of stretch */
} nm_train_map;

typedef struct nm_train_lora {
    const nm_model *model;
    nm_train_map *map;
    size_t maps;
    size_t numbers;             /* floats of p, g and half each */
    size_t state_bytes, scratch_bytes;      /* the latter: of a thread in an update */
    float *p, *g;               /* A and B' of all maps, one after the other */
    float *half;                /* the same turned: A' [k][rank], B [n][rank] */
    uint8_t *state;
    bool dora;
    float *stretch;             /* DoRA: gains m / |W + s B A| and inverses 1 / m of all maps */
    size_t rows;                /* floats of it */
    nm_train_slot *slot;        /* by weight id, for nm_train */
    nm_dropout dropout;         /* likewise; the caller sets its step */
    uint8_t *trained;           /* by weight id, for the plan */
    int32_t max_rank;
} nm_train_lora;

/* Only finds out what would be owned (maps, numbers, states, trained, max_rank), with no room for the numbers. */
nm_err nm_train_lora_list(nm_train_lora *lora, const nm_model *model, const int32_t *wanted, bool dora, const nm_optim *optim);
/* wanted: ranks by weight id, 0 = not trained. scale: of every slot. B is 0, and A is drawn as PEFT draws it: uniformly in +-1/sqrt(k), or from a normal
 * distribution of deviation 1/rank; NM_START_PISSA is drawn uniformly too, and overwritten (pissa.h). With `dora` the magnitudes are the lengths of W's rows,
 * and a row of zeros is NM_REFUSED. */
nm_err nm_train_lora_open(nm_train_lora *lora, const nm_model *model, const int32_t *wanted, float scale, bool dora, const nm_optim *optim, nm_start from,
    uint64_t seed);
void nm_train_lora_close(nm_train_lora *lora);
/* After p has changed: the turned halves and the gains follow. */
nm_err nm_train_lora_derive(nm_train_lora *lora);
/* DoRA: magnitudes become the lengths of the rows of W + s B A, so that the adapter does what it would do without; and derives. */
nm_err nm_train_lora_measure(nm_train_lora *lora);
/* m [n] of a map; NULL without DoRA. */
float *nm_train_lora_magnitudes(const nm_train_lora *lora, const nm_train_map *map);
/* The L2 norm of all gradients, summed in an order of its own; *norm is NAN or infinite where a gradient is. */
nm_err nm_train_lora_norm(const nm_train_lora *lora, double *norm);
/* One step of the optimiser on gradients times `clip`, and derives. lr_b: of the B halves and, as PEFT has it, the magnitudes (LoRA+). */
nm_err nm_train_lora_update(nm_train_lora *lora, const nm_optim *optim, const nm_optim_settings *set, int64_t step, float lr, float lr_b, float clip);

#endif
