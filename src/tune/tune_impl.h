/* Owns what the files of a run share. Nobody else includes it. */
#ifndef NM_TUNE_TUNE_IMPL_H
#define NM_TUNE_TUNE_IMPL_H

#include <stdio.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/json.h"
#include "format/json_text.h"
#include "tune/tune.h"

typedef struct nm_tune_anchor nm_tune_anchor;

struct nm_tune {
    const nm_tune_settings *set;    /* `own`; in a forecast, what is weighed */
    nm_tune_settings own;
    nm_tune_base base;
    nm_tune_listener listener;
    nm_tune_state at;
    const char *const *sources;
    size_t n_sources;
    nm_dataset *data;
    nm_order *order;
    nm_trainer *trainer;
    nm_dataset *replay;         /* of `keep`, or NULL */
    nm_order *replay_order;
    int32_t replays;            /* of a step */
    int64_t kept_tokens;        /* trained ones of the kept sequences of the step in work */
    uint64_t beside;            /* bytes of the bound that data and trainers take which another nm_tune holds */
    nm_sample *sample;          /* [batch and replays] of the step in work */
    nm_tune_anchor *anchor;     /* NULL: none */
    char *folder, *state;       /* of the adapter; the checkpoint within */
    bool made_folder;           /* it was not there before */
    int lock;                   /* on the folder, while the run lasts; -1: none */
    FILE *log;
    double ease;
    int32_t worse;              /* validations since the best */
    int64_t looked;             /* step of the last one */
    uint64_t begun_ns;
    bool over;                  /* max_forget was exceeded */
    nm_train_report pending;    /* of a step that is trained and not in the log yet, as its validation is in work; step 0: none */
};

/* Of each step: tokens at most, tokens among them that are held, sequences. */
enum { NM_ANCHOR_TOKENS = 224, NM_ANCHOR_HELD = 96, NM_ANCHORS = 3 };

/* run.c */
__attribute__((format(printf, 2, 3))) void nm_tune_note(const nm_tune *t, const char *format, ...);

/* open.c: what a run needs, in this order. */
nm_err nm_tune_open_data(nm_tune *t);
/* what: sources or rows, and validation; the rest is as the settings say. */
nm_err nm_tune_open_rows(nm_tune *t, nm_dataset **out, const nm_dataset_options *what);
void nm_tune_tell_data(const nm_tune *t);
/* Bytes that data takes; 0 without. */
uint64_t nm_tune_data_bytes(const nm_dataset *data);
nm_err nm_tune_open_order(nm_tune *t);
/* Validations of a run that says nothing else. */
int32_t nm_tune_looks(const nm_tune *t);
nm_err nm_tune_trainer_options(nm_tune *t, nm_trainer_options *options);
nm_err nm_tune_open_trainer(nm_tune *t);
void nm_tune_tell_trainer(const nm_tune *t);
nm_err nm_tune_find_folder(nm_tune *t);
/* Lets go of what nm_tune_prepare made. */
void nm_tune_unprepare(nm_tune *t);

/* anchor.c: what step `step` (from 0) is held to; *seconds: that went into the model's own answers. */
nm_err nm_tune_open_anchor(nm_tune *t);
void nm_tune_close_anchor(nm_tune *t);
nm_err nm_tune_anchor_at(nm_tune *t, int64_t step, nm_sample out[NM_ANCHORS], size_t *count, double *seconds);
/* How often a run of so many steps stops for answers, of some questions each time. */
double nm_tune_anchor_stops(const nm_tune *t, int64_t steps);
/* Of all that the anchor is made from; 0 without one. */
uint64_t nm_tune_anchor_hash(const nm_tune *t);

/* replay.c: after the order; the trainer's room comes after. */
nm_err nm_tune_open_replay(nm_tune *t);
nm_err nm_tune_add_replay(nm_tune *t, int64_t step, size_t *count);

/* validate.c */
/* The base's stack with one adapter more on it. */
nm_err nm_tune_stack_with(const nm_tune *t, const nm_adapter *adapter, nm_stack **out);
/* Loss on the validation data, and what was forgotten; -1 where there is none to measure. */
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

/* keep.c */
nm_err nm_tune_keep_adapter(nm_tune *t);
/* The settings as they came to be, as nomoat.json has them: a JSON object that --config reads. */
nm_err nm_tune_settings_json(const nm_tune *t, nm_str *s);
nm_err nm_tune_checkpoint(nm_tune *t);
nm_err nm_tune_resume(nm_tune *t);

/* history.c */
void nm_tune_history_step(nm_tune_history *history, double loss);
void nm_tune_history_look(nm_tune_history *history, int64_t step, double validation, double forgetting);
/* As members of an object. */
nm_err nm_tune_history_write(const nm_tune_history *history, nm_str *s);
void nm_tune_history_read(nm_tune_history *history, const nm_json *note);

/* samples.c: what nm_tune_answers of so many rows reads and says, in tokens, base and adapter together and answers at their longest where nobody knows. */
typedef struct nm_answer_tokens { double read, said; } nm_answer_tokens;
nm_answer_tokens nm_tune_answer_tokens(const nm_tune *t, size_t most);
/* Seconds that a token takes that is read, and one that is said. */
nm_err nm_tune_probe_answer(const nm_tune *t, double *read, double *say);

/* log.c. validation, forgetting: -1 = not measured. A run that goes on first drops what is behind its checkpoint. */
nm_err nm_tune_open_log(nm_tune *t);
nm_err nm_tune_log_step(nm_tune *t, const nm_train_report *report, double validation, double forgetting);
nm_err nm_tune_flush_log(nm_tune *t);

enum { NM_TUNE_REPORT_ANSWERS = 5 };
/* report.c: the page, as far as the run has come. samples: also the answers of base and adapter. */
nm_err nm_tune_report(nm_tune *t, bool samples);
/* NM_FAILED and others now rather than at the end. */
nm_err nm_tune_check_report(const nm_tune *t);

/* plan.c: says what was chosen for `memory`. */
nm_err nm_tune_tell_memory(nm_tune *t);

#endif
