/* Owns the forecast of a run: products are counted, what this machine makes of them is measured on a few passes over the real data, and
 * everything else that a run does (anchor, optimiser, validation, meter, saving) is measured on a piece of it. Refuses to know how it is told. */
#ifndef NM_TUNE_COST_H
#define NM_TUNE_COST_H

#include "tune/tune_impl.h"

typedef struct nm_tune_rates {
    double begin;               /* seconds before the first step */
    double pass, anchor, score; /* seconds for each counted operation */
    double update;              /* seconds a step, for each number of the adapter */
    double answers;             /* seconds of a stop for the anchor's answers */
    double read, say;           /* seconds for a token of a prompt and of an answer shown at the end; 0 where none is shown */
    double save;                /* seconds to write the adapter and the checkpoint, for each number */
    nm_look_cost look;
    nm_trainer_info info;       /* of the trainer that was measured */
    uint64_t opened;            /* bytes resident at most before the first step */
    uint64_t beside;            /* bytes resident in training without the trainer */
    uint64_t looked;            /* the most in validating and saving, without the adapter's numbers */
} nm_tune_rates;

/* A few seconds of work with t's trainer, which is of no use afterwards. */
nm_err nm_tune_measure(nm_tune *t, nm_tune_rates *rates);
/* What a run with these settings takes. data: t's, or the same sources cut elsewhere. Errors of settings are returned as by the run. */
nm_err nm_tune_forecast_of(const nm_tune *t, const nm_tune_rates *rates, const nm_tune_settings *set, nm_dataset *data, nm_tune_forecast *out);

#endif
