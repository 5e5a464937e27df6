/* Owns optimisers: each updates one matrix from its gradient, on one thread, so that a step is the same for any number of threads. Refuses to
 * know schedules, clipping and what the matrix is for. Adding one costs one file and one line in optims.def. */
#ifndef NM_OPTIM_H
#define NM_OPTIM_H

#include "base/err.h"
#include "kernel/kernel.h"

typedef struct nm_optim_settings {
    float beta1, beta2, eps, weight_decay;      /* an optimiser without one of them ignores it */
} nm_optim_settings;

typedef struct nm_optim_job {
    const nm_optim_settings *set;
    const nm_kernels *kernel;
    int64_t step;               /* from 1 */
    float lr;
    int64_t rows, columns;      /* rows <= columns */
    bool turned;                /* p is the transpose of what is trained (the B half): where its shape or the order of its numbers counts, they are that one's */
    float *p;                   /* [rows][columns] */
    float *g;                   /* the same; may be destroyed */
    void *state;                /* nm_optim.state bytes, zero before the first step */
    void *scratch;              /* nm_optim.scratch bytes, 64-byte aligned */
} nm_optim_job;

typedef struct nm_optim {
    const char *name;
    bool matrices;              /* of no use for vectors */
    float rate;                 /* what suits it as a learning rate, to what suits AdamW */
    nm_optim_settings defaults;
    size_t (*state)(int64_t rows, int64_t columns);     /* bytes */
    size_t (*scratch)(int64_t rows, int64_t columns);   /* bytes; NULL = none */
    void (*update)(const nm_optim_job *);
} nm_optim;

/* NM_USAGE, naming those that are known, if there is none of that name. */
nm_err nm_optim_find(const char *name, const nm_optim **optim);
const nm_optim *nm_optim_at(int index);     /* NULL past the end */

#endif
