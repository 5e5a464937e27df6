/* Owns the models that are served and the work on them: opening and closing them, from a request to tokens, one batch of all that is under way, prefixes that
 * are kept, from tokens to pieces of an answer. Refuses to know HTTP and dialects' shapes: it takes an nm_ask and calls back.
 *
 * Threads: any may call. What is called back runs on a thread of the engine and must not block; it may call nm_job_cancel and nm_engine_ask, but not wait. */
#ifndef NM_SERVER_ENGINE_H
#define NM_SERVER_ENGINE_H

#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "nomoat.h"

typedef struct nm_engine nm_engine;
typedef struct nm_job nm_job;       /* one request under way; counted: the caller's handle is let go by nm_job_release */

#define NM_ASK_INT INT32_MIN        /* an integer that was not given */
#define NM_ASK_REAL ((double)NAN)   /* a real that was not given */

typedef struct nm_ask_lora { const char *id; double scale; } nm_ask_lora;      /* id: an adapter's name or path-free name, as behind '+' */

/* What a client asks of a model, in whichever dialect it said so. All of it is copied by nm_engine_ask (JSON values are held, and must not change afterwards). nm_ask_init
 * sets what is not given. */
typedef struct nm_ask {
    const char *model;              /* MODEL{+ADAPTER[=SCALE]}, an alias or a persona; NULL or "": the first that is served */
    const nm_ask_lora *lora;        /* further adapters */
    size_t n_lora;
    /* The prompt: one of these. */
    json_t *messages;               /* an array of {"role", "content", ...} as templates take it (OpenAI's shape, but arguments of calls are objects; content a string or null) */
    const char *text;               /* is continued as it stands; special tokens in it are read as such */
    size_t text_length;
    const int32_t *ids;
    size_t n_ids;
    const char *suffix;             /* with text: what comes behind the gap (fill in the middle); NULL */
    /* Of the template. */
    json_t *tools;                  /* OpenAI's array of {"type": "function", "function": {...}}, or NULL */
    json_t *tool_choice;            /* "auto", "none", "required" or {"type": "function", "function": {"name"}}; NULL */
    bool one_call;                  /* parallel_tool_calls: false */
    json_t *template_kwargs;        /* an object, or NULL */
    int think;                      /* -1 not said, 0 off, 1 on */
    const char *effort;             /* reasoning_effort for the template; NULL */
    int32_t think_most;             /* tokens of reasoning, behind which its end mark is put; NM_ASK_INT: no bound */
    bool continue_last;             /* the last message is the assistant's, and is continued */
    /* What may come out. One of grammar, schema, json at most. */
    const char *grammar;            /* GBNF */
    json_t *schema;                 /* JSON schema */
    bool json;                      /* any JSON object */
    const char *const *stop;
    size_t n_stop;
    int32_t max_tokens;             /* NM_ASK_INT: to the end of the context */
    bool ignore_eos;
    /* Sampling; not given: the persona's, else the model's own, else the program's. */
    double temperature, top_p, min_p, typical, repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, penalty_last;
    bool seeded;
    uint64_t seed;
    const int32_t *bias_id;         /* logit_bias: n_bias of both; -INFINITY forbids */
    const float *bias;
    size_t n_bias;
    int32_t top_logprobs;           /* -1 none, 0 the chosen token's alone, else so many alternatives (at most 20) */
    bool echo_logprobs;             /* also of the prompt's tokens (completions' echo) */
    int32_t context;                /* num_ctx: at most so many tokens; NM_ASK_INT: the model's */
    int32_t n;                      /* answers, at least 1; each is told by its index */
    bool no_cache;                  /* neither take a kept prefix nor keep one */
    unsigned long long client;      /* for fairness */
    double keep_alive;              /* seconds that the model stays without work; NM_ASK_REAL: the server's */
} nm_ask;
void nm_ask_init(nm_ask *ask);

typedef struct nm_logprob { int32_t id; double logprob; } nm_logprob;
typedef struct nm_token_out {       /* a token of an answer, or of the prompt with echo_logprobs */
    int32_t id;
    double logprob;                 /* of the model's own distribution, before filters; NAN where none was asked for, and of a prompt's first token */
    const nm_logprob *top;          /* n_top, best first */
    int32_t n_top;
} nm_token_out;

typedef enum nm_piece_kind {
    NM_PIECE_CONTENT, NM_PIECE_REASONING,
    NM_PIECE_CALL,                  /* a tool call begins: call, id, name; no text */
    NM_PIECE_ARGUMENTS,             /* more text of the arguments (JSON) of call */
    NM_PIECE_PROMPT                 /* echo_logprobs: all tokens of the prompt, before anything else; text is the prompt */
} nm_piece_kind;
typedef struct nm_piece {
    nm_piece_kind kind;
    int32_t index;                  /* which of the n answers */
    const char *text;               /* whole UTF-8 characters; may be empty where tokens gave no text yet */
    size_t length;
    int32_t call;                   /* number of the tool call in its answer, from 0 */
    const char *id, *name;
    const nm_token_out *token;      /* that came with this piece, n_tokens; only where logprobs were asked for. Of a text also the one that ends it, which has no text */
    size_t n_tokens;
} nm_piece;

typedef enum nm_finish { NM_FINISH_STOP, NM_FINISH_STOP_STRING, NM_FINISH_LENGTH, NM_FINISH_TOOL_CALLS, NM_FINISH_CANCELLED, NM_FINISH_ERROR } nm_finish;
typedef struct nm_started {         /* the prompt is tokens, and there is room: the first thing called back */
    const char *model;              /* its full name with the stack, as /v1/models has it */
    int32_t prompt_tokens;
    int32_t context;
    const nm_tokenizer *tokenizer;  /* of the model, for texts of tokens; valid until `ended` has returned */
} nm_started;
typedef struct nm_answer_end {      /* of one of the n answers */
    int32_t index, tokens;
    int32_t reasoning_tokens;       /* of them */
    nm_finish finish;
    const char *stop;               /* the stop string that was met */
} nm_answer_end;
typedef struct nm_ended {           /* of it all */
    nm_err err;                     /* NM_OK; NM_INTERRUPTED where it was cancelled */
    const char *error;              /* one line */
    const char *code;               /* a word for programs: "model_not_found", "exceed_context_size_error", "queue_full", ...; NULL */
    int32_t prompt_tokens, cached_tokens, tokens, context;
    double load_seconds, wait_seconds, prompt_seconds, seconds;    /* prompt_seconds: reading it; seconds: generating */
} nm_ended;

/* On the engine's thread. started (unless it ends before), then pieces, `answered` for each of the n that came to its end, then ended, exactly once and last.
 * Members may be NULL. */
typedef struct nm_listener {
    void (*started)(void *arg, const nm_started *s);
    void (*piece)(void *arg, const nm_piece *p);
    void (*answered)(void *arg, const nm_answer_end *a);
    void (*ended)(void *arg, const nm_ended *e);
    void *arg;
} nm_listener;

typedef struct nm_engine_options {
    const char *const *models;      /* MODEL{+ADAPTER...} in order; the first is the default and is opened at once */
    size_t n_models;
    const char *const *aliases;     /* "PATTERN=NAME", '*' in PATTERN is anything */
    size_t n_aliases;
    int32_t parallel;               /* answers under way at once; 0 = 16 */
    int32_t queue;                  /* requests that wait beyond them; 0 = 256 */
    int32_t context;                /* 0 = the trained length */
    nm_kv_type kv;
    nm_compute compute;
    uint64_t memory;                /* bytes for models, sessions and kept prefixes; 0 = four fifths of what is available */
    uint64_t kept;                  /* of them for kept prefixes, at most; 0 = an eighth, and 1 GB at most */
    double keep_alive;              /* seconds without work after which a model is closed; 0 = never */
    bool force;                     /* adapters made for other weights */
    bool no_pack;
    bool keep;                      /* packs are kept in the cache folder */
    const char *kept_folder;        /* kept prefixes go there when memory has no more room for them, and at the end; NULL = nowhere. Made if it lacks */
    uint64_t kept_folder_bytes;     /* of all files there at most; 0 = 4 GB */
    void (*note)(void *arg, const char *line);      /* something to say on stderr; may be NULL */
    void *note_arg;
} nm_engine_options;

nm_err nm_engine_open(nm_engine **out, const nm_engine_options *options);
/* finish: what is under way goes on to its end first (at most `seconds`); nothing new is taken from now on. */
void nm_engine_drain(nm_engine *engine, double seconds);
/* Nothing new is taken, and no model opened any more; answers go on. For whoever waits for a model at the end (nm_engine_hold). */
void nm_engine_break_off(nm_engine *engine);
void nm_engine_close(nm_engine **engine);

/* Takes a request. NM_USAGE for what makes no sense in it (nothing is called back then); everything later, an unknown model, a prompt that does not fit, a full queue, comes by
 * `ended`. job may be NULL. */
nm_err nm_engine_ask(nm_engine *engine, const nm_ask *ask, const nm_listener *listener, nm_job **job);
/* Ends it as soon as may be (within 50 ms of work); `ended` still comes, with NM_INTERRUPTED, unless it came before. */
void nm_job_cancel(nm_job *job);
void nm_job_release(nm_job **job);

/* Runs fn on a thread of the engine with the model open: for tokenizing, templates, descriptions. served NULL: err and nm_error_text say why. */
typedef struct nm_served {
    const nm_model *model;
    const nm_stack *stack;
    const char *name, *template_text;   /* template_text NULL: there is none */
    int32_t context;
    const struct nm_persona *persona;   /* that was named (hub/personas.h), or NULL */
    const nm_adapter *const *adapters;  /* of the stack, in order, n_adapters of them with their scales */
    const float *scales;
    size_t n_adapters;
    const struct nm_variant *variant;   /* the engine's own */
} nm_served;
typedef void (*nm_call_fn)(void *arg, const nm_served *served, nm_err err);
nm_err nm_engine_call(nm_engine *engine, const char *name, nm_call_fn fn, void *arg);
/* The same for fn that reads so many bytes of text: nobody with less waits for it. job as with nm_engine_ask; cancelled before fn was called, that hears NM_INTERRUPTED. */
nm_err nm_engine_call_text(nm_engine *engine, const char *name, size_t bytes, nm_call_fn fn, void *arg, nm_job **job);
/* The prompt that a request would have: text (NULL for ids) and tokens. On the engine's thread, inside an nm_call_fn. *text, *ids: nm_free. cancel may be NULL; when it turns
 * non-zero: NM_INTERRUPTED. */
nm_err nm_served_prompt(const nm_served *served, const nm_ask *ask, const volatile sig_atomic_t *cancel, char **text, size_t *length, int32_t **ids, size_t *count);

/* Work beside requests (held.c): the model stays open with its stack, though nobody asks and room is wanted, until it is released: before the engine is closed. Waits until
 * the model is open, and so not on a thread of the engine; where *cancel (may be NULL) turns non-zero meanwhile, NM_INTERRUPTED after 50 ms at most. */
typedef struct nm_held nm_held;
nm_err nm_engine_hold(nm_engine *engine, const char *name, const volatile sig_atomic_t *cancel, nm_held **out);
const nm_served *nm_held_served(const nm_held *held);
/* So many bytes of the engine's bound are spoken for from now on, in place of those that were. NM_NO_MEMORY where they are not free even after idle models and kept
 * prefixes have gone; then those that were still are. Waits. */
nm_err nm_held_reserve(nm_held *held, uint64_t bytes);
/* What could be reserved so that requests still have some room. */
uint64_t nm_held_room(const nm_held *held);
void nm_held_release(nm_held **held);

/* Embeddings: the mean over a text's tokens of the last norm's output ("mean"), or of its last token ("last"), of length 1. vectors: n x n_embd, valid during the call. */
typedef void (*nm_embed_fn)(void *arg, const float *vectors, size_t n, int32_t n_embd, int32_t tokens, const nm_ended *ended);
/* cut: of a text that is longer than the context its beginning is embedded; else it is NM_USAGE. job as with nm_engine_ask. */
nm_err nm_engine_embed(nm_engine *engine, const char *model, const char *const *texts, const size_t *lengths, size_t n, bool cut, nm_embed_fn fn, void *arg, nm_job **job);

/* The name of the first model, with its stack as it is now. nm_free; NULL without memory. */
char *nm_engine_first(nm_engine *engine);
/* The scales of its adapters, but for a persona's own, in their order: requests that name no model get them from then on. NM_USAGE: another number of them, or one beyond what a
 * name may have. */
nm_err nm_engine_set_scales(nm_engine *engine, const double *scales, size_t count);
/* What there is. Each gives a new JSON value (the caller's), NULL without memory. */
json_t *nm_engine_models(nm_engine *engine);    /* [{"name", "base", "kind": "model"|"adapter"|"stack"|"persona", "path", "bytes", "loaded", "modified", "default"}]; open ones have
                                                   "architecture", "parameters", "file_type", "context". A persona that a model's name hides is left out, and noted once */
json_t *nm_engine_slots(nm_engine *engine);     /* [{"id", "model", "state": "prompt"|"answer", "prompt_tokens", "cached_tokens", "tokens", "context"}] */
typedef struct nm_engine_counts {
    uint64_t requests, failed, cancelled, prompt_tokens, cached_tokens, tokens;
    double prompt_seconds, seconds;
    int32_t running, waiting;
    uint64_t cache_bytes, cache_entries, models_loaded;
} nm_engine_counts;
void nm_engine_count(nm_engine *engine, nm_engine_counts *out);
/* vLLM's dynamic adapters: a further name for an adapter at a path inside the store. NM_USAGE (a number, or a name that is taken), NM_NOT_FOUND, NM_REFUSED (a path outside). */
nm_err nm_engine_add_adapter(nm_engine *engine, const char *name, const char *path);
nm_err nm_engine_remove_adapter(nm_engine *engine, const char *name);
/* What was at this path has been removed: nothing of it is used for what is asked from now on, though another adapter should come there. */
void nm_engine_forget_adapter(nm_engine *engine, const char *path);

#endif
