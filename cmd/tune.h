/* Owns a run of training as a user sees it: settings, what is said before, the loop, what is left behind. The arithmetic is the library's. */
#ifndef NM_CMD_TUNE_H
#define NM_CMD_TUNE_H

#include <stdio.h>

#include "args.h"
#include "stack.h"

typedef struct nm_tune_settings {
    nm_common common;
    nm_stack_options stack;
    const char *output;
    /* data */
    const char *validation, *map, *format, *template_path, *batches;
    int32_t train_on, max_length, show_mask;
    bool skip_bad;
    /* what is trained */
    int32_t rank;
    double alpha;
    bool rslora, dora;
    const char *targets, *init;
    int32_t start;              /* an nm_start */
    double dropout;
    /* how */
    const char *optimizer;
    double lr, lr_ratio, weight_decay, clip, epochs, warmup;
    int32_t schedule, batch, max_steps, save_every, patience, meter;
    nm_seed seed;
    const char *memory;
    double anchor;
    bool no_anchor;
    const char *anchor_data;
    bool plan, resume;
    /* what is left behind */
    const char *log, *base_id;
    bool gguf;
} nm_tune_settings;

/* A run in work. */
typedef struct nm_tune {
    const nm_tune_settings *set;
    nm_stacked *stacked;
    nm_dataset *data;
    nm_order *order;
    nm_trainer *trainer;
    nm_sample *sample;          /* [batch] of the step in work */
    int32_t *anchor;            /* general text, or NULL */
    size_t anchors;
    char *folder, *state;       /* of the adapter; the checkpoint within */
    FILE *log;
    int64_t steps, every;
    double lr;
    double best;                /* validation loss of the adapter that was kept; HUGE_VAL before the first */
    int32_t worse;              /* validations since */
    int64_t looked;             /* step of the last one */
    int64_t from;               /* steps that were taken before this process */
    uint64_t begun_ns;
    double tokens, seconds;     /* for the speed */
    double first_loss, last_loss, forgetting;
} nm_tune;

enum { NM_ANCHOR_TOKENS = 128 };      /* of each step */

/* tune_open.c: what a run needs, in this order. */
nm_err nm_tune_open_data(nm_tune *t, char **sources, size_t count);
void nm_tune_tell_data(const nm_tune *t);
nm_err nm_tune_open_anchor(nm_tune *t);
nm_err nm_tune_open_order(nm_tune *t);
nm_err nm_tune_open_trainer(nm_tune *t);
void nm_tune_tell_trainer(const nm_tune *t);
nm_err nm_tune_find_folder(nm_tune *t);

/* tune_run.c: step `step` (from 0) of the order. */
nm_err nm_tune_take_step(nm_tune *t, int64_t step, nm_train_report *report);

/* tune_validate.c: loss on the validation data, and what was forgotten; -1 where there is none to measure. */
nm_err nm_tune_validate(nm_tune *t, double *loss, double *forgetting);

/* tune_keep.c */
nm_err nm_tune_keep_adapter(nm_tune *t);
nm_err nm_tune_checkpoint(nm_tune *t);
nm_err nm_tune_resume(nm_tune *t);

/* tune_say.c. validation, forgetting: -1 = not measured. */
nm_err nm_tune_log_step(nm_tune *t, const nm_train_report *report, double validation, double forgetting);
const char *nm_tune_time_text(double seconds, char out[32]);
void nm_tune_show_progress(nm_tune *t, const nm_train_report *report);
void nm_tune_clear_progress(const nm_tune *t);

/* tune_plan.c: steps on the real data for a few seconds, with a trainer that is thrown away. */
nm_err nm_tune_forecast(nm_tune *t);

/* The whole run, once the model is open. operands: the sources of data. */
nm_err nm_tune_run(const nm_tune_settings *set, nm_stacked *stacked, char **sources, size_t count);

#endif
