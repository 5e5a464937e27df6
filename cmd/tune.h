/* Owns a run of training as a user sees it: settings, what is said before, the loop, what is left behind. The arithmetic is the library's. */
#ifndef NM_CMD_TUNE_H
#define NM_CMD_TUNE_H

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
    bool rslora;
    const char *targets, *init;
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

/* The whole run, once the model is open. operands: the sources of data. */
nm_err nm_tune_run(const nm_tune_settings *set, nm_stacked *stacked, char **sources, size_t count);

#endif
