/* Owns optimisers: each updates one matrix from its gradient, on one thread, so that a step is the same for any number of threads. Refuses to
 * know schedules, clipping and what the matrix is for. Adding one costs one file and one line in optims.def. */
#ifndef NM_OPTIM_H
#define NM_OPTIM_H

#include "base/err.h"

typedef struct nm_optim_settings {
    float beta1, beta2, eps, weight_decay;
} nm_optim_settings;

typedef struct nm_optim_job {
    const nm_optim_settings *set;
    int64_t step;               /* from 1 */
    float lr;
    int64_t rows, columns;
    float *p;                   /* [rows][columns] */
    const float *g;
    float *state;               /* nm_optim.state floats, zero before the first step */
} nm_optim_job;

typedef struct nm_optim {
    const char *name;
    nm_optim_settings defaults;
    size_t (*state)(int64_t rows, int64_t columns);     /* floats */
    void (*update)(const nm_optim_job *);
} nm_optim;

/* NM_USAGE, naming those that are known, if there is none of that name. */
nm_err nm_optim_find(const char *name, const nm_optim **optim);
const nm_optim *nm_optim_at(int index);     /* NULL past the end */

#endif
