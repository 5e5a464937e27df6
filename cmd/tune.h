/* Owns a run of training as a user sees it: settings, what is said before, the loop, what is left behind. The arithmetic is the library's. */
#ifndef NM_CMD_TUNE_H
#define NM_CMD_TUNE_H

#include <stdio.h>

#include "args.h"
#include "format/json.h"
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
    int32_t looks;              /* validations of a run where save_every is not given; 0 = nm_tune_looks. Chosen by --fit, not by the user */
    nm_seed seed;
    const char *memory;
    double anchor, ease;        /* ease: NAN = with the default rate */
    bool no_anchor;
    const char *anchor_data;
    bool plan, resume;
    const char *fit;
    uint64_t begun_ns;          /* when the command began */
    /* what is left behind */
    const char *log, *base_id;
    bool gguf;
    const char *report;
    /* beneath the command line */
    const char *config, *recipe_said;
    int32_t recipe;
    const char *keep;
    double max_forget;          /* NAN: no limit */
    bool no_packing;
} nm_tune_settings;

/* What a run remembers for its curves. */
enum { NM_CURVE = 256 };
typedef struct nm_tune_look { int64_t step; double validation, forgetting; } nm_tune_look;     /* NAN or negative: not measured */
typedef struct nm_tune_history {
    float loss[NM_CURVE];       /* means of `per` steps each */
    int32_t losses;
    int64_t per, in;            /* in: steps of the mean that is being made, which sum to `sum` */
    double sum;
    nm_tune_look look[NM_CURVE];
    int32_t looks;
} nm_tune_history;

typedef struct nm_tune_anchor nm_tune_anchor;

/* A run in work. */
typedef struct nm_tune {
    const nm_tune_settings *set;
    nm_tune_settings own;       /* where set points to once something was chosen for the user */
    nm_stacked *stacked;
    nm_dataset *data;
    nm_order *order;
    nm_trainer *trainer;
    nm_dataset *replay;         /* of --keep, or NULL */
    nm_order *replay_order;
    int32_t replays;            /* of a step */
    int64_t kept_tokens;        /* trained ones of the kept sequences of the step in work */
    const char *model_text;     /* as the user wrote it */
    char *const *sources;
    size_t n_sources;
    nm_sample *sample;          /* [batch and replays] of the step in work */
    nm_tune_anchor *anchor;     /* NULL: none */
    char *folder, *state;       /* of the adapter; the checkpoint within */
    bool made_folder;           /* it was not there before */
    int lock;                   /* on the folder, while the run lasts; -1: none */
    FILE *log;
    int64_t steps, every;
    double lr, ease, epochs;
    double best;                /* validation loss of the adapter that was kept; HUGE_VAL before the first */
    int32_t worse;              /* validations since */
    int64_t looked;             /* step of the last one */
    int64_t from;               /* steps that were taken before this process */
    uint64_t begun_ns;
    double tokens, seconds;     /* for the speed */
    double first_loss, last_loss, forgetting;
    int64_t kept;               /* step of the adapter in the folder; 0: none yet */
    double kept_forgetting;
    bool over;                  /* --max-forget was exceeded */
    nm_train_report pending;    /* of a step that is trained and not in the log yet, as its validation is in work; step 0: none */
    nm_tune_history history;
    const char *ended;          /* why, in words */
} nm_tune;

/* Of each step: tokens at most, tokens among them that are held, sequences. */
enum { NM_ANCHOR_TOKENS = 224, NM_ANCHOR_HELD = 96, NM_ANCHORS = 3 };

/* tune_recipe.c. index: of the option's words, above 0. *said: one line, kept with the settings. */
nm_err nm_tune_recipe(nm_beneath *beneath, int32_t index, const char **said);
const char *nm_tune_recipe_name(int32_t index);

/* tune_open.c: what a run needs, in this order. */
nm_err nm_tune_open_data(nm_tune *t);
/* what: sources or rows, and validation; the rest is as the settings say. */
nm_err nm_tune_open_rows(const nm_tune *t, nm_dataset **out, const nm_dataset_options *what);
void nm_tune_tell_data(const nm_tune *t);
nm_err nm_tune_open_order(nm_tune *t);
/* Validations of a run that says nothing else. */
int32_t nm_tune_looks(const nm_tune *t);
nm_err nm_tune_trainer_options(nm_tune *t, nm_trainer_options *options);
nm_err nm_tune_open_trainer(nm_tune *t);
void nm_tune_tell_trainer(const nm_tune *t);
nm_err nm_tune_find_folder(nm_tune *t);

/* tune_anchor.c: what step `step` (from 0) is held to; *seconds: that went into the model's own answers. */
nm_err nm_tune_open_anchor(nm_tune *t);
void nm_tune_close_anchor(nm_tune *t);
nm_err nm_tune_anchor_at(nm_tune *t, int64_t step, nm_sample out[NM_ANCHORS], size_t *count, double *seconds);
/* How often a run of so many steps stops for answers, of some questions each time. */
double nm_tune_anchor_stops(const nm_tune *t, int64_t steps);
/* Of all that the anchor is made from; 0 without one. */
uint64_t nm_tune_anchor_hash(const nm_tune *t);

/* tune_replay.c: after the order; the trainer's room comes after. */
nm_err nm_tune_open_replay(nm_tune *t);
nm_err nm_tune_add_replay(nm_tune *t, int64_t step, size_t *count);

/* tune_run.c: the samples of step `step` (from 0), kept ones included, into t->sample. */
nm_err nm_tune_step_samples(nm_tune *t, int64_t step, size_t *count);
/* tune_run.c: step `step` (from 0) of the order. */
nm_err nm_tune_take_step(nm_tune *t, int64_t step, nm_train_report *report);

/* tune_validate.c: loss on the validation data, and what was forgotten; -1 where there is none to measure. */
nm_err nm_tune_validate(nm_tune *t, double *loss, double *forgetting);
/* What one validation takes, in seconds, from a few pieces of one. */
typedef struct nm_look_cost {
    double adapter;             /* to make the adapter as it stands */
    double open, score;         /* to open, and for a sample of `scored` tokens; 0 without validation data */
    int32_t scored;
    double meter_open, meter;   /* to open, and for a token */
    size_t meter_early, meter_last;     /* tokens of the meter on the way and at the end; 0: it is not read */
} nm_look_cost;
nm_err nm_tune_probe_look(nm_tune *t, nm_look_cost *cost);

/* tune_keep.c */
nm_err nm_tune_keep_adapter(nm_tune *t);
/* The settings as they came to be, as nomoat.json has them: a JSON object that --config reads. */
nm_err nm_tune_settings_json(const nm_tune *t, nm_str *s);
nm_err nm_tune_checkpoint(nm_tune *t);
nm_err nm_tune_resume(nm_tune *t);

/* tune_history.c */
void nm_tune_history_step(nm_tune_history *history, double loss);
void nm_tune_history_look(nm_tune_history *history, int64_t step, double validation, double forgetting);
/* As members of an object. */
nm_err nm_tune_history_write(const nm_tune_history *history, nm_str *s);
void nm_tune_history_read(nm_tune_history *history, const nm_json *note);

/* tune_log.c. validation, forgetting: -1 = not measured. A run that goes on first drops what is behind its checkpoint. */
nm_err nm_tune_open_log(nm_tune *t);
nm_err nm_tune_log_step(nm_tune *t, const nm_train_report *report, double validation, double forgetting);
nm_err nm_tune_flush_log(nm_tune *t);

/* tune_report.c: the page, as far as the run has come. samples: also the answers of base and adapter. */
nm_err nm_tune_report(nm_tune *t, bool samples);
/* NM_FAILED and others now rather than at the end. */
nm_err nm_tune_check_report(const nm_tune *t);

/* tune_samples.c: up to `most` rows answered by what was and by the adapter in the folder, greedily. Texts are the list's. */
typedef struct nm_tune_answer { char *where, *prompt, *before, *after, *reference; } nm_tune_answer;
nm_err nm_tune_answers(nm_tune *t, nm_tune_answer *answers, size_t most, size_t *count);
void nm_tune_answers_free(nm_tune_answer *answers, size_t count);

/* tune_say.c */
void nm_tune_show_progress(nm_tune *t, const nm_train_report *report);
void nm_tune_clear_progress(const nm_tune *t);
/* Where the adapter is and how to use it. what: " of step 20", or "". */
void nm_tune_tell_use(const nm_tune *t, const char *what);

/* tune_plan.c. The forecast of t as it stands, with what other choices would change. */
nm_err nm_tune_plan(nm_tune *t);
/* --fit: measures, and settles epochs and steps so that the run ends in time: t's settings and order follow. Its trainer is closed. */
nm_err nm_tune_fit(nm_tune *t);
/* --memory: says what was chosen for it. */
nm_err nm_tune_tell_memory(nm_tune *t);

/* The whole run, once the model is open. operands: the model as it was written, and the sources of data. */
nm_err nm_tune_run(const nm_tune_settings *set, nm_stacked *stacked, char **operands, size_t count);

#endif
