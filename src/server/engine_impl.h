/* Owns what the files of the engine share. Nobody else includes it.
 *
 * Four threads: the caller's puts a job into `fresh`, or into `slow` where its text is long; a clerk (clerk.c) makes tokens of it and puts it into `ready`; the loop (batch.c)
 * computes. There are two clerks: one that is quick takes from `fresh` and passes on to `slow` what must be opened first; the other takes from `slow`, and is the only one to
 * open anything. Sessions, samplers and kept prefixes are the loop's alone (their list changes under the lock); lists, models and counts are under the lock. A fifth writes
 * kept prefixes into files where a folder is given (shelf.c). */
#ifndef NM_SERVER_ENGINE_IMPL_H
#define NM_SERVER_ENGINE_IMPL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "hub/personas.h"
#include "hub/store.h"
#include "server/engine.h"

enum {
    NM_TEXT_LONG = 65536,           /* bytes that a job's text is read in some hundredth of a second */
    NM_CONTEXTS_COUNTED = 4,        /* a prompt's tokens are counted up to so many times the context's: beyond them it has "at least" so many */
    NM_WORTH_KNOWING = 64,          /* tokens of a prompt that somebody else has computed, or is about to */
    NM_TOP_MOST = 20,               /* alternatives of a token */
    NM_PASS_ROWS = 512              /* of a runner; the loop's passes are one of the runner's each, so that one that is broken off has done nothing or all */
};

/* ---- Models (names.c) ----------------------------------------------------------------------------------------------- */

typedef struct nm_variant nm_variant;

/* An adapter that is open for a base. What a path holds may change, as it is taught further or taken away: then the old contents are stale, and go with their last stack. */
typedef struct nm_open_adapter {
    nm_adapter *adapter;
    char *path, *mark;              /* mark: of the contents (nm_adapter_mark) */
    int32_t users;                  /* stacks */
    bool stale;
} nm_open_adapter;

typedef struct nm_base {            /* a model that can be named; open or not */
    char *name;                     /* as told to clients */
    nm_found found;
    bool given;                     /* on the command line */
    bool hidden;                    /* a persona's own: clients cannot name it */
    nm_model *model;                /* NULL: not open */
    nm_runner *runner;              /* the loop's */
    uint64_t runner_bytes;          /* its runner's, which plans anew for larger stacks while it runs: only the loop may ask it then */
    int32_t context;
    bool slides;                    /* has layers with a window: of a session, little more can be taken over than what it had last */
    double rate;                    /* rows of a prompt a second, as the loop measured; 0 = not yet */
    nm_open_adapter **adapter;      /* opened for it; the list changes under the lock */
    size_t adapters, adapter_capacity;
    nm_variant **variant;           /* stacks on it */
    size_t variants, variant_capacity;
    int32_t users;                  /* jobs and calls that need it open */
    int32_t held;                   /* those of them that are held.c's, and end when they like */
    double last_used, keep_alive;   /* seconds */
    char **control;                 /* texts of control tokens, borrowed from the tokenizer */
    size_t controls;
} nm_base;

struct nm_variant {                 /* a base with a stack: what a request's name means */
    nm_base *base;
    char *name;                     /* BASE{+ADAPTER=SCALE}, or PERSONA{+ADAPTER=SCALE} */
    char *key;                      /* the adapters' files, their contents and scales, and the persona's text */
    nm_stack *stack;                /* of the `parts` adapters; NULL: the base alone */
    nm_open_adapter **part;
    const nm_adapter **adapter;     /* theirs */
    float *scale;
    size_t parts;
    nm_template *tmpl;              /* NULL: there is none */
    const char *template_text;
    nm_persona *persona;            /* NULL: the stack alone was named */
    int32_t users;                  /* jobs, and kept prefixes */
    double last_used;
};

typedef struct nm_named_adapter { char *name, *path; } nm_named_adapter;

/* ---- Jobs --------------------------------------------------------------------------------------------------------------- */

typedef enum nm_job_kind { NM_JOB_ANSWER, NM_JOB_EMBED, NM_JOB_CALL } nm_job_kind;

typedef struct nm_lane {            /* one answer under way */
    nm_job *job;
    int32_t index;
    nm_session *session;
    nm_sampler *sampler;
    nm_decoder *decoder;
    nm_stop *stop;
    nm_speech *speech;
    nm_constraint *constraint;      /* NULL: anything may come */
    int32_t *ids;                   /* prompt and answer; what the session lacks of it is to be computed */
    size_t n_ids, capacity;
    int32_t tokens, reasoning_tokens;
    int32_t *mark;                  /* the reasoning's end mark, where its bound was met: tokens that come instead of drawn ones */
    size_t n_mark, mark_at;
    bool waits;                     /* for lane 0 of its job, which reads the prompt for all */
    bool rests;                     /* without a session, since there was no memory; what it had is computed again when there is */
    bool ended, stopped, called, given;     /* given: a piece was handed out for the token at work */
    nm_finish finish;
    nm_token_out token;             /* drawn last, with logprobs where asked for */
    nm_logprob top[NM_TOP_MOST];
} nm_lane;

struct nm_job {
    atomic_int refs;
    nm_engine *engine;
    nm_job *next;                   /* in a list */
    nm_job_kind kind;
    uint64_t id;
    volatile sig_atomic_t cancelled;        /* nm_cancelled */
    nm_ask ask;                     /* its own copy */
    nm_listener listener;
    nm_call_fn call;                /* NM_JOB_CALL; arg is the listener's */
    nm_embed_fn embed;              /* NM_JOB_EMBED */
    char **texts;                   /* its texts */
    size_t *lengths, n_texts;
    bool cuts;                      /* them to the context */
    bool long_text;                 /* the slow clerk's */
    float *vectors;                 /* one for each */
    bool pools_last;
    nm_variant *variant;
    nm_grammar *grammar;
    char *prompt;                   /* rendered; NULL for ids */
    size_t prompt_length;
    int32_t *ids;                   /* of the prompt */
    size_t n_ids;
    bool reasoning_open;
    bool binds_reasoning;           /* the grammar is of the whole answer, reasoning included */
    nm_sampling sampling;
    int32_t most;                   /* tokens of an answer at most */
    int32_t limit;                  /* tokens of prompt and answer at most */
    nm_lane *lane;                  /* n of them once it runs */
    int32_t n;
    int32_t cached;
    nm_token_out *echo;             /* of the prompt's tokens, with echo_logprobs */
    nm_logprob *echo_top;
    bool answering;                 /* the first token was drawn */
    int32_t shown_tokens;           /* what slots tell; under the lock */
    bool shown_answering;
    bool in_pass;
    size_t reserved;                /* tokens that each of its answers has memory for, once it runs */
    bool starves;                   /* needs more of them, and there is no room */
    size_t fork_at;                 /* others go on otherwise behind so many of the prompt's tokens, which are then kept by themselves; 0: none are known to */
    nm_session *shelved;            /* a kept prefix that came from a file */
    const char *refusal;            /* not taken at all: the word for programs */
    nm_err failed;                  /* an answer of it failed, and why */
    char *failure;
    double asked, begun, first;     /* when: taken, prompt begun, first token drawn */
    double load_seconds;
};

/* ---- Kept prefixes (kept.c): the loop's ------------------------------------------------------------------------------------ */

typedef struct nm_kept { nm_variant *variant; nm_session *session; uint64_t bytes; double last_used; } nm_kept;
typedef struct nm_shelf nm_shelf;   /* shelf.c */

struct nm_engine {
    nm_engine_options options;
    pthread_mutex_t lock;
    pthread_mutex_t naming;         /* held while a name is looked up: the list of bases grows by that alone */
    pthread_cond_t work;            /* something for the clerks or the loop */
    pthread_t clerk, slow_clerk, loop;
    bool clerk_runs, slow_clerk_runs, loop_runs;
    bool drains, closes;
    volatile sig_atomic_t ends;     /* what a clerk is at is broken off (nm_cancelled): it closes, or is about to */
    nm_job *fresh, *slow, *ready, *refused; /* lists, oldest first */
    nm_job **running;               /* the loop's, changed under the lock */
    size_t n_running, running_capacity;
    int32_t waiting;                /* jobs in fresh, slow and ready, or in a clerk's hands */
    int32_t unfinished;             /* jobs whose end was not told yet */
    uint64_t next_id;
    nm_base **base;
    size_t bases, base_capacity;
    nm_base **given;                /* under options.models, each */
    nm_named_adapter *added;        /* names given while it runs */
    size_t n_added, added_capacity;
    size_t n_added_given;           /* the first so many are the command line's, and stay */
    char **told;                    /* personas that models hide, of which the user was told */
    size_t n_told, told_capacity;
    uint64_t memory;                /* bytes for models, sessions and kept prefixes */
    uint64_t at_work;               /* bytes reserved for sessions of answers under way */
    uint64_t reserved;              /* and for work beside requests (held.c) */
    uint64_t opening;               /* and for the model that is being opened: nothing else takes its room meanwhile */
    uint64_t want_room;             /* bytes that somebody waits for; the loop makes them */
    bool changes;                   /* a model is about to take the place of others */
    nm_kept *kept;
    size_t n_kept, kept_capacity;
    uint64_t kept_most;             /* bytes */
    nm_shelf *shelf;                /* NULL: nothing goes into files */
    size_t turn;                    /* of bases */
    volatile sig_atomic_t interrupt;        /* ends the pass at work */
    atomic_bool may_interrupt;
    bool broken;                    /* the last pass was broken off: the next one may not be, or those who leave would stop those who stay */
    nm_engine_counts counts;
};

/* names.c: under the lock, but for opening */
nm_err nm_names_open(nm_engine *e);
void nm_names_close(nm_engine *e);
/* What the job's name means, with its model and adapters open; a user of both is added. On a clerk's thread, without the lock. may_open: on the slow clerk's, which waits for
 * room where that lacks; else *out is NULL where something must be opened. */
nm_err nm_names_take(nm_engine *e, const nm_job *j, bool may_open, nm_variant **out, const char **code);
void nm_names_leave(nm_engine *e, nm_variant *variant, double keep_alive);     /* takes the lock */
/* Closes models that nobody uses: those whose time has come and, where room is wanted, the longest unused. On the loop's thread, under the lock. */
void nm_names_reap(nm_engine *e, double now);
/* Closes the model that nobody has used for longest; false where there is none, or none that can be closed yet. The loop's. */
bool nm_names_close_unused(nm_engine *e);
/* The base whose file this is, under whatever path; NULL. */
nm_base *nm_names_at(const nm_engine *e, const char *path);
uint64_t nm_base_bytes(const nm_base *base);    /* of an open model */
uint64_t nm_names_bytes(const nm_engine *e);    /* of open models, and what is reserved beside requests; under the lock */
uint64_t nm_session_need(const nm_engine *e, const nm_base *base, size_t tokens);       /* bytes of a session of so many */
/* Asks the loop for so many bytes, and waits until it tried. Under the lock, not on the loop's thread. */
void nm_names_make_room(nm_engine *e, uint64_t bytes);

/* prompt.c */
/* `within` also ends rendering. Of a prompt of more tokens than it lets through *ids is NULL, and *count says how many there are at least. */
nm_err nm_prompt_make(const nm_variant *variant, const nm_ask *ask, const nm_tokenize_options *within, char **text, size_t *length, int32_t **ids, size_t *count);
nm_err nm_prompt_controls(nm_base *base, const nm_tokenizer *tokenizer);
nm_served nm_variant_served(const nm_variant *v);

/* tool_prompt.c */
bool nm_template_knows_tools(const char *template_text);
/* Puts tools (NULL: none), and calls and results among the messages, into the messages' text. */
nm_err nm_tools_as_text(json_t *messages, const json_t *tools);

/* turns.c */
/* The text of vars' messages, which may be changed for it; NM_USAGE where the template refuses them in every way. cancel may be NULL. *text: nm_free. */
nm_err nm_turns_render(const nm_template *tmpl, json_t *vars, const volatile sig_atomic_t *cancel, char **text, size_t *length);

/* ask.c */
nm_err nm_ask_copy(nm_ask *to, const nm_ask *from);
/* What the request leaves open, as a persona has it: numbers and stop strings. Its messages are prompt.c's. The ask is a copy of nm_ask_copy's. */
nm_err nm_ask_fill(nm_ask *ask, const nm_persona *persona);
void nm_ask_free(nm_ask *ask);

/* clerk.c */
void *nm_clerk_main(void *engine);
void *nm_slow_clerk_main(void *engine);

/* batch.c */
void *nm_loop_main(void *engine);

/* embed.c */
nm_err nm_embed_ready(nm_job *job, const char **code);     /* the clerk's part */
/* The text that is being read, with its session; NULL where all are, or on failure. */
nm_lane *nm_embed_lane(nm_engine *e, nm_job *job, nm_err *err);
void nm_embed_add(nm_lane *lane, int32_t index, const float *hidden, int32_t n);        /* index: of the token in its text */
/* A pass from this token on was broken off: if the session has its tokens all the same, the text is read anew. */
void nm_embed_again(nm_lane *lane, int32_t from);
void nm_embed_finish(nm_lane *lane);

/* lane.c: on the loop's thread */
nm_err nm_lane_open(nm_lane *lane, nm_job *job, int32_t index);
void nm_lane_close(nm_lane *lane);
/* Draws from the logits behind lane->ids, appends the token and gives what text it makes; sets `ended` where the answer ends. */
nm_err nm_lane_draw(nm_lane *lane, const float *logits, int32_t n_vocab);
nm_err nm_lane_finish(nm_lane *lane, nm_finish finish);
void nm_logprobs(const float *logits, int32_t n_vocab, int32_t id, int32_t most, nm_token_out *out, nm_logprob *top);

/* kept.c: on the loop's thread */
/* A session that holds as much of the lane's tokens as is known, but for the last; empty where nothing is. *known: how many. */
nm_err nm_kept_session(nm_engine *e, nm_lane *lane, nm_session **out, int32_t *known);
/* Takes the session over, or closes it. */
void nm_kept_put(nm_engine *e, nm_variant *variant, nm_session *session);
/* Forgets the longest unused until `bytes` at most are left; all those of `base` where it is given: then it may be in use until they are in files. Under the lock. */
void nm_kept_trim(nm_engine *e, uint64_t bytes, const nm_base *base);
/* Those of a stack whose adapters have changed, for good. Under the lock. */
void nm_kept_drop(nm_engine *e, const nm_variant *variant);
/* All of them, at once and for good: memory lacks. Under the lock. */
void nm_kept_forget(nm_engine *e);
uint64_t nm_kept_bytes(const nm_engine *e);
/* How many of the first n tokens can be taken over from a session: where a window has dropped pages, fewer than both begin with. */
int32_t nm_kept_common(const nm_session *session, const int32_t *ids, size_t n);

/* shelf.c */
/* Where the options name a folder; what is wrong with it is told. */
void nm_shelf_open(nm_engine *e);
/* Saves what is kept, when nothing else works any more. */
void nm_shelf_close(nm_engine *e);
/* Takes a session to be saved over, with its use of the variant; false: it stays the caller's. Under the lock. */
bool nm_shelf_put(nm_engine *e, const nm_kept *kept);
bool nm_shelf_busy(const nm_engine *e);         /* under the lock: some are not saved yet, and hold their models */
/* Loads what a file knows of the job's prompt into job->shelved, if that is more than memory knows. On a clerk's thread, without the lock. */
void nm_shelf_find(nm_engine *e, nm_job *job);

/* engine.c */
/* Tells the end, once, lets the variant go and the engine's own handle. err's line: nm_error_text. */
void nm_job_end(nm_job *job, nm_err err, const char *code);
void nm_job_refuse(nm_job *job);
/* Whether the pass at work ends when this job is cancelled: it reads much of the job's prompt, or nobody stays for whom it would have to be computed again. Under the lock. */
bool nm_job_stops_pass(const nm_engine *e, const nm_job *job);
void nm_engine_note(nm_engine *e, const char *line);

#endif
