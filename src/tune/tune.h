/* Owns a run of training over nomoat.h's trainer: settings, what is refused before there is a folder, the forecast, the loop with its validations and
 * checkpoints, what is left behind. Refuses terminals, standard output and standard error: what is to be said is a line for a listener, what is to be shown
 * is data. Nothing here belongs to the process, so that a run may go on beside other work on the same model: one thread at a time for each nm_tune. What is
 * said of memory is the process's all the same (os/machine.h) and counts what others hold. */
#ifndef NM_TUNE_TUNE_H
#define NM_TUNE_TUNE_H

#include <signal.h>

#include "format/option.h"
#include "nomoat.h"

/* ---- Settings ------------------------------------------------------------------------------------------------------------------------------ */

/* Texts are the caller's and outlive the run. NULL, false, NAN: not given. */
typedef struct nm_tune_settings {
    nm_compute compute;
    bool force;                 /* an --init that was made for other weights, too */
    const char *output;         /* a name in the store, or a folder, with a slash */
    /* data */
    const char *validation, *map, *format, *template_path, *batches;
    int32_t train_on, max_length;       /* train_on: an nm_train_on */
    bool skip_bad;
    const char *keep;
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
    int32_t looks;              /* validations of a run where save_every is not given; 0 = as many as suit. Chosen by nm_tune_fit, not by the user */
    nm_seed seed;
    const char *memory;
    uint64_t room;              /* bytes at most, whatever `memory` says; 0 = any number */
    double anchor, ease;        /* ease: NAN = with the default rate */
    bool no_anchor;
    const char *anchor_data;
    double max_forget;          /* NAN: no limit */
    bool no_packing, resume;
    bool beside;                /* others answer from the model meanwhile: nm_trainer_options */
    int32_t answers;            /* rows that the caller will have answered behind the run (nm_tune_answers): for the forecast */
    const char *fit;            /* a time, as "3h": nm_tune_fit */
    uint64_t begun_ns;          /* when the caller began, for the forecast; 0: with nm_tune_open */
    /* what is left behind */
    const char *log, *report, *base_id;
    bool gguf;
    /* where the settings came from: for the provenance and the report */
    const char *recipe, *recipe_said, *config;
} nm_tune_settings;
/* What is so unless it is said otherwise. */
#define NM_TUNE_DEFAULTS {.max_length = 512, .rank = 16, .lr = NM_UNSET_REAL, .lr_ratio = 1, .warmup = 0.05, .weight_decay = -1, .clip = 1, .epochs = NM_UNSET_REAL, \
    .batch = 8, .patience = 3, .meter = 8192, .anchor = 2, .ease = NM_UNSET_REAL, .max_forget = NM_UNSET_REAL}
extern const nm_tune_settings nm_tune_defaults;

/* The settings that have a name ("rank", "max-length"), for nm_option_set and nm_option_json; those of the run in work (output, log, report, resume, memory,
 * fit, config) are among them. settings.def has one row for each. */
extern const nm_option nm_tune_options[];

/* Notes and errors name settings as the command line does, "--max-length 256". The line with each such name as its reader calls it: name writes that of an option
 * ("max-length"). Other words with dashes stay. Appends. */
nm_err nm_tune_spell(nm_str *s, const char *line, nm_err (*name)(nm_str *s, const char *option));

/* ---- What is taught ------------------------------------------------------------------------------------------------------------------------ */

/* Outlives the run, with all that it points to. */
typedef struct nm_tune_base {
    const nm_model *model;
    const nm_stack *stack;                  /* of these adapters, in order; NULL: the base alone */
    const nm_adapter *const *adapters;
    const float *scales;
    size_t count;
    const char *name;           /* MODEL{+ADAPTER}, as its user wrote it */
    const char *settings;       /* members of a JSON object (without its braces) that the provenance's settings end with: how the stack was asked for; NULL: none */
} nm_tune_base;

/* ---- A run ----------------------------------------------------------------------------------------------------------------------------------- */

typedef struct nm_tune nm_tune;

/* All of it may be NULL. Called on the thread that called the run. */
typedef struct nm_tune_listener {
    void (*note)(void *arg, const char *line);          /* one line for people, without its end; raw: names of files and rows stand in it as they are */
    void (*step)(void *arg, const nm_tune *t, const nm_train_report *report);      /* after each step, a validation that was due included */
    nm_err (*need)(void *arg, uint64_t bytes);          /* the run is about to hold so many bytes, or does, beside the model and in all; an error of it ends the run */
    volatile sig_atomic_t *cancel;      /* not 0: stop soon, with NM_INTERRUPTED. The run sets it to 0 where it took heed of it and still has work to do */
    void *arg;
} nm_tune_listener;

/* Reads the data and says what came of it: enough for nm_tune_data and nm_tune_pieces. Settings, base and listener are copied, not what they point to;
 * sources ("FILE:WEIGHT") outlive the run. listener may be NULL. */
nm_err nm_tune_open(nm_tune **out, const nm_tune_settings *settings, const nm_tune_base *base, const char *const *sources, size_t n_sources,
    const nm_tune_listener *listener);
/* A run that came to nothing leaves no empty folder behind. */
void nm_tune_close(nm_tune **t);

/* Samples and their counts; the nm_tune's. */
const nm_dataset *nm_tune_data(const nm_tune *t);
/* A sequence's text as runs of trained and of other text, in order, special tokens visible; the texts are not safe for a terminal, and each begins and ends
 * with a whole character. A character whose bytes are several tokens counts to the last of them. */
typedef nm_err (*nm_tune_piece_fn)(void *arg, const char *text, size_t length, bool trained);
nm_err nm_tune_pieces(const nm_tokenizer *tokenizer, const nm_sample *sample, nm_tune_piece_fn each, void *arg);

/* Anchor, order, kept data, trainer: all that can be refused before there is a folder. */
nm_err nm_tune_prepare(nm_tune *t);
/* What was prepared; NULL before. */
const nm_trainer_info *nm_tune_trainer(const nm_tune *t);

/* What a run takes. */
typedef struct nm_tune_forecast {
    int64_t steps, every;       /* every: steps between validations */
    double tokens, trained;     /* over all steps, without the anchor's; trained: those whose loss counts */
    double epochs;
    uint64_t cut;               /* sequences that are cut */
    double begin, training, anchor, update, validation, meter, saving, answers, seconds;     /* seconds; the last is their sum. answers: those shown at the end */
    uint64_t bytes, peak;       /* beside the model; of the whole process at most, what others hold in it now included */
    int32_t pass_rows;          /* tokens of a pass */
    const char *arithmetic, *recomputed;       /* nm_trainer_info */
} nm_tune_forecast;

/* One other choice and what would come of it: nm_option_set(nm_tune_options, option, value, &settings) makes it. */
typedef struct nm_tune_choice {
    const char *option;         /* "rank" */
    char value[56];             /* "8", "true" */
    char name[64];              /* "--rank 8", "--no-anchor" */
    nm_tune_forecast forecast;
} nm_tune_choice;

enum { NM_TUNE_CHOICES = 16 };
typedef struct nm_tune_plan_report { nm_tune_forecast now; nm_tune_choice choice[NM_TUNE_CHOICES]; size_t choices; } nm_tune_plan_report;
/* Measures for some seconds, once prepared, and leaves out choices that cannot be. The trainer is of no use afterwards: nm_tune_prepare before a run. */
nm_err nm_tune_plan(nm_tune *t, nm_tune_plan_report *out);
/* The settings' `fit`: measures, and chooses epochs and steps so that the run ends in time, with a note; prepared again when it returns. NM_REFUSED where
 * even few steps take longer. */
nm_err nm_tune_fit(nm_tune *t);

/* How a run went. */
typedef struct nm_tune_result {
    const char *folder;         /* of the adapter; the nm_tune's */
    int64_t steps, kept;        /* taken in all; the step whose adapter the folder holds */
    double first_loss, last_loss;
    double validation, forgetting;      /* of the adapter that was kept; NAN: not measured */
    double seconds, tokens_per_second;
    uint64_t peak_bytes;        /* resident at most, of the whole process */
    const char *ended;          /* why, in words */
} nm_tune_result;
/* Folder, lock, going on with a checkpoint (the settings' `resume`), the loop, the report. NM_INTERRUPTED: where nm_tune_state says so, a checkpoint is left from
 * which a run of the same settings, base and sources with `resume` ends in the same bits. NM_REFUSED: nothing stayed below max_forget, and nothing is left. */
nm_err nm_tune_run(nm_tune *t, nm_tune_result *out);

/* Rows answered by what was and by the adapter in the folder, greedily: held-out ones, if there are. After a run, or a step that kept an adapter.
 * Fewer than `most`, with NM_INTERRUPTED, if it was cancelled: *count and the texts are right all the same. */
typedef struct nm_tune_answer { char *where, *prompt, *before, *after, *reference; } nm_tune_answer;
nm_err nm_tune_answers(nm_tune *t, nm_tune_answer *answers, size_t most, size_t *count);
void nm_tune_answers_free(nm_tune_answer *answers, size_t count);

/* ---- Where it stands ------------------------------------------------------------------------------------------------------------------------- */

/* What a run remembers for its curves: bounded, however long it runs. */
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

typedef struct nm_tune_state {
    int64_t step, steps, every; /* taken, of so many; steps between validations */
    int64_t from;               /* steps that were taken before this process */
    int64_t kept;               /* step of the adapter in the folder; 0: none yet */
    double epochs, rate;        /* as they were chosen */
    double first_loss, last_loss;       /* the last ten steps or so */
    double best;                /* validation loss of the adapter that was kept; HUGE_VAL before the first */
    double forgetting, kept_forgetting; /* at the last look; of the adapter that was kept; negative: not measured */
    double tokens, seconds;     /* in steps since `from`: for the speed */
    bool resumable;             /* cancelled, and the checkpoint is written */
    const char *folder;         /* NULL before nm_tune_run */
    const char *ended;          /* why, in words; NULL before */
    nm_tune_history history;
} nm_tune_state;
/* For a listener, and between calls: it changes with each step. */
const nm_tune_state *nm_tune_where(const nm_tune *t);

#endif
