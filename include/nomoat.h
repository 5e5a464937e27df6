/* nomoat.h: the public interface of libnomoat.
 *
 * Owns: the names, contracts and ownership rules that programs outside the library see. Everything else in the tree is private.
 * Refuses: to print, to call exit or abort, or to keep a pointer that its caller did not hand over.
 *
 * Conventions
 * - A function that can fail returns nm_err; NM_OK is 0, the other values are the program's exit codes. After a failure,
 *   nm_error_text() returns one line, on the calling thread, that says what, where and what to do.
 * - X_open gives an object to the caller through its first argument; X_close(&x) releases it and sets x to NULL; closing NULL is fine.
 * - Strings are UTF-8; where a length is passed, they need no terminating zero and may hold any byte.
 * - Options are read during the call that takes them, with what they point to; what must live longer says so. A pointer to options may be NULL where that
 *   is said; a field that is 0 stands for its default, but where the field says otherwise.
 * - What is given as `const char *` without a word on it belongs to the object that it was asked of, and ends with it.
 * - nm_model, nm_tokenizer, nm_template, nm_adapter, nm_stack, nm_grammar and nm_dataset are immutable once open: any number of threads may use one together.
 *   All others (nm_session, nm_runner, nm_sampler, nm_decoder, nm_stop, nm_constraint, nm_speech, nm_order, nm_trainer) belong to one thread at a time, and
 *   may go from one to another. Runs and steps of several threads take the one compute pool in turn.
 * - Callbacks are called on the thread that made the call, before it returns, but for what their declarations say. They may not change the objects of the call.
 *
 * examples/hello.c is a whole program over this header; docs/programs.md tells the way through it.
 */
#ifndef NOMOAT_H
#define NOMOAT_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NM_VERSION "0.1.0"

#if defined(__GNUC__)
#define NM_API __attribute__((visibility("default")))
#else
#define NM_API
#endif

typedef enum nm_err {
    NM_OK = 0,
    NM_FAILED = 1,      /* the work itself failed: input or output, a NaN, a full disk */
    NM_USAGE = 2,       /* the caller asked for something that makes no sense, or that does not fit the context */
    NM_NOT_FOUND = 3,   /* no such file, model or name */
    NM_BAD_FILE = 4,    /* a file is corrupt, cut or not of the expected kind */
    NM_NO_MEMORY = 5,
    NM_REFUSED = 6,     /* mismatch or policy: well-formed, but not to be used here */
    NM_INTERRUPTED = 130
} nm_err;

/* The calling thread's last error as one line without newline, "" if there was none. Valid until its next failing call; a call that succeeds leaves it. */
NM_API const char *nm_error_text(void);
NM_API const char *nm_version(void);    /* NM_VERSION of the library that was loaded; static */

/* ---- The process's compute pool ------------------------------------------------------------------------------------- */

/* Number of compute threads (1..256); 0 = physical cores within the process's affinity and cgroup quota. Must not be called
 * while a runner runs. The results of every function are the same bits for every number of threads. */
NM_API nm_err nm_set_threads(int threads);
NM_API int nm_threads(void);
/* What the calling thread computes from now on runs on threads of its own at idle priority (SCHED_IDLE): behind everything else of the process and the machine, which goes
 * ahead of it at any moment, to the same bits. For training beside answers. For the rest of the thread's life; threads that it starts inherit the priority, not the place.
 * NM_FAILED: the system refuses the priority; the threads are then common ones. */
NM_API nm_err nm_thread_background(void);

/* Restrict the kernels: a comma-separated list of tiers to allow ("c", "avx2", "avxvnni", "avx512", "vnni", "bf16",
 * "amx", ...; see nm_kernels_describe), or "all". Must not be called while a runner runs. NM_USAGE for an unknown name. */
NM_API nm_err nm_set_kernels(const char *mask);
/* One word for the strongest tier in use, e.g. "avx2"; static string. */
NM_API const char *nm_kernels_tier(void);
/* One line: what the CPU and the OS offer and what is in use; static string. */
NM_API const char *nm_kernels_describe(void);

/* ---- Models ----------------------------------------------------------------------------------------------------------- */

typedef struct nm_model nm_model;
typedef struct nm_tokenizer nm_tokenizer;
typedef struct nm_template nm_template;
typedef struct nm_session nm_session;
typedef struct nm_adapter nm_adapter;
typedef struct nm_stack nm_stack;
typedef struct nm_runner nm_runner;
typedef struct nm_sampler nm_sampler;

/* Called now and then during long work with done of total (units of the work); returning true asks for a stop. */
typedef bool (*nm_progress_fn)(void *arg, uint64_t done, uint64_t total);

typedef struct nm_model_options {
    bool metadata_only;         /* read metadata, tokenizer and template; a file without tensors is fine */
    bool whole;                 /* with metadata_only: yet every part of the file must be there, with all bytes of its tensors */
    bool no_pack;               /* leave weights as they are in the file and pack a panel into scratch just before its use */
    bool keep;                  /* take packed weights from the user's cache folder, or leave them there for the next start: docs/commands.md */
    nm_progress_fn progress;    /* bytes of tensors made ready; may be NULL */
    void *progress_arg;
    const volatile sig_atomic_t *cancel;    /* with `keep`: nm_model_close waits until those weights are on the disk, unless this is not 0. Must outlive the model; may be
                                             * NULL. What ends nm_model_open is `progress` */
} nm_model_options;

/* Opens a GGUF file, or the first of a split ("-00001-of-00003.gguf"). options may be NULL. Every fault of the file is
 * NM_BAD_FILE with the file's name and the place. The model must outlive what was opened with it (data sets apart) and what it was asked for. */
NM_API nm_err nm_model_open(nm_model **out, const char *path, const nm_model_options *options);
/* The same from memory, which stays the caller's and must stay unchanged until the model is closed. name is for messages. */
NM_API nm_err nm_model_open_memory(nm_model **out, const void *data, size_t size, const char *name, const nm_model_options *options);
NM_API void nm_model_close(nm_model **model);

typedef struct nm_model_info {
    const char *name;               /* general.name or the file's name; as in the file, not cleaned for a terminal */
    const char *architecture;       /* general.architecture */
    const char *file_type;          /* a word for the mix of types: the type that holds most weights, e.g. "Q4_K" */
    int32_t n_layer, n_embd, n_head, n_head_kv, n_vocab, n_context;     /* n_context = trained length */
    uint64_t n_parameters, file_bytes, weight_bytes;                    /* weight_bytes: as resident, packed */
    bool has_weights;               /* false after metadata_only */
    const char *not_kept;           /* why packed weights could not be kept for the next start, in one line; else NULL */
} nm_model_info;
/* Owned by the model. */
NM_API const nm_model_info *nm_model_describe(const nm_model *model);
NM_API const nm_tokenizer *nm_model_tokenizer(const nm_model *model);   /* NULL if the file has none */
/* Source text of the chat template, or NULL. name: NULL for the default one, else e.g. "tool_use". Owned by the model. */
NM_API const char *nm_model_template(const nm_model *model, const char *name);

typedef enum nm_meta_type {     /* values as in the GGUF format */
    NM_META_U8, NM_META_I8, NM_META_U16, NM_META_I16, NM_META_U32, NM_META_I32, NM_META_F32, NM_META_BOOL,
    NM_META_STRING, NM_META_ARRAY, NM_META_U64, NM_META_I64, NM_META_F64
} nm_meta_type;
typedef struct nm_meta {
    const char *key;            /* zero-terminated */
    nm_meta_type type, item;    /* item: element type of an array */
    uint64_t count;             /* elements; 1 for a scalar */
} nm_meta;
NM_API size_t nm_model_meta_count(const nm_model *model);
NM_API nm_meta nm_model_meta(const nm_model *model, size_t index);
/* Index of a key, or SIZE_MAX. */
NM_API size_t nm_model_meta_find(const nm_model *model, const char *key);
/* Element `item` of a value (0 for scalars) as a number; integers beyond 2^53 lose bits. NAN for strings. */
NM_API double nm_model_meta_number(const nm_model *model, size_t index, uint64_t item);
/* The same, exactly, for the integer types and bool: U64 as its bit pattern (cast it back). False, *value 0, for the others. */
NM_API bool nm_model_meta_integer(const nm_model *model, size_t index, uint64_t item, int64_t *value);
/* A string element: pointer into the file and its length (not zero-terminated); NULL if it is not a string. */
NM_API const char *nm_model_meta_string(const nm_model *model, size_t index, uint64_t item, size_t *length);

typedef struct nm_tensor_info { const char *name; const char *type; int rank; int64_t dim[4]; uint64_t bytes, offset; } nm_tensor_info;
NM_API size_t nm_model_tensor_count(const nm_model *model);
NM_API nm_tensor_info nm_model_tensor(const nm_model *model, size_t index);  /* dim[0] is the contiguous one */

/* For a SIGBUS handler: the name of the mapped file that holds this address, or NULL. Async-signal-safe. */
NM_API const char *nm_mapped_file_at(const void *address);

/* ---- Text --------------------------------------------------------------------------------------------------------------- */

enum {
    NM_TEXT_SPECIAL = 1,    /* tokenize: special tokens written in the text become their ids; detokenize: show control tokens */
    NM_TEXT_BOS = 2,        /* tokenize: put BOS first if the model wants one (tokenizer.ggml.add_bos_token), EOS likewise */
    NM_TEXT_FORCE_BOS = 4,  /* tokenize: put BOS first if there is one at all */
    NM_TEXT_PROMPT = 8,     /* tokenize: a rendered template: NM_TEXT_SPECIAL, BOS once whether the model or the template puts it, nothing behind */
    NM_TEXT_CONTINUES = 16  /* detokenize: the ids continue a text: a space in front of the first word is kept */
};

/* Encodes bytes; any bytes are accepted. *ids is allocated (nm_free) and holds *count ids. O(n log n) in length. */
NM_API nm_err nm_tokenize(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, int32_t **ids, size_t *count);
/* The same, where parts of the text are somebody else's: guards holds n_guards pairs of places, from and to, in ascending order, in and across which neither special nor
 * user-defined tokens are read. */
NM_API nm_err nm_tokenize_guarded(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const size_t *guards, size_t n_guards, int32_t **ids,
    size_t *count);
/* The same within bounds, for texts of whatever length. options may be NULL. Where more than `most` tokens come, *ids is NULL and *count is more than `most`, and at most what
 * the text has: encoding stops once that is known, after about most times the bytes of the longest token and a few quick passes over the text. Only SentencePiece vocabularies
 * that lack tokens of bytes cannot stop inside a text: they go on to the next special token. NM_INTERRUPTED when cancelled. */
typedef struct nm_tokenize_options {
    const size_t *guards;       /* as in nm_tokenize_guarded */
    size_t n_guards;
    size_t most;                /* tokens; 0 = as many as come */
    const volatile sig_atomic_t *cancel;    /* when it turns non-zero, encoding ends with NM_INTERRUPTED; may be NULL */
} nm_tokenize_options;
NM_API nm_err nm_tokenize_within(const nm_tokenizer *tokenizer, const char *text, size_t length, unsigned flags, const nm_tokenize_options *options, int32_t **ids,
    size_t *count);
/* Decodes; *text is allocated (nm_free), has *length bytes and a zero behind them. NM_USAGE for an id outside the vocabulary. */
NM_API nm_err nm_detokenize(const nm_tokenizer *tokenizer, const int32_t *ids, size_t count, unsigned flags, char **text, size_t *length);

/* Streaming decoder: feeds ids, gives only whole UTF-8 characters; concatenated output equals nm_detokenize. */
typedef struct nm_decoder nm_decoder;
NM_API nm_err nm_decoder_open(nm_decoder **out, const nm_tokenizer *tokenizer, unsigned flags);
NM_API void nm_decoder_close(nm_decoder **decoder);
/* *text points into the decoder until its next call and holds *length bytes, often none. id < 0 flushes what is held back (an incomplete character, raw). */
NM_API nm_err nm_decoder_push(nm_decoder *decoder, int32_t id, const char **text, size_t *length);

NM_API int32_t nm_token_count(const nm_tokenizer *tokenizer);
/* Special ids; -1 where the model has none. */
NM_API int32_t nm_token_bos(const nm_tokenizer *tokenizer);
NM_API int32_t nm_token_eos(const nm_tokenizer *tokenizer);
NM_API int32_t nm_token_pad(const nm_tokenizer *tokenizer);
NM_API int32_t nm_token_unk(const nm_tokenizer *tokenizer);
/* True for every token that ends a turn or the text (eos, eot, eom and the well-known end-of-turn texts). */
NM_API bool nm_token_ends(const nm_tokenizer *tokenizer, int32_t id);
/* The token's text as it stands in the vocabulary (raw, not decoded); "" outside the vocabulary. */
NM_API const char *nm_token_raw(const nm_tokenizer *tokenizer, int32_t id);
NM_API bool nm_token_is_control(const nm_tokenizer *tokenizer, int32_t id);

/* Chat templates: the Jinja that models' templates use, as transformers sets it up (trim_blocks, lstrip_blocks, loop controls).
 * A template reads nothing but its variables; steps, depth and output are bounded. */
/* The source is copied; name is for messages and may be NULL. NM_BAD_FILE with its line for a fault of the source. */
NM_API nm_err nm_template_open(nm_template **out, const char *source, size_t length, const char *name);
NM_API void nm_template_close(nm_template **tmpl);
typedef struct nm_template_options {
    int64_t now;                /* seconds since 1970 (UTC) for strftime_now; INT64_MIN: the clock, in local time */
    uint64_t max_steps;         /* 0 = default */
    size_t max_output;          /* bytes; 0 = default */
    const volatile sig_atomic_t *cancel;    /* when it turns non-zero, rendering ends with NM_INTERRUPTED; may be NULL */
} nm_template_options;
/* vars: one JSON object, e.g. {"messages": [...], "add_generation_prompt": true}. options may be NULL: the clock, and default bounds. *text is allocated (nm_free), with
 * a zero behind it. It is to be tokenized with NM_TEXT_PROMPT.
 * NM_REFUSED when the template itself raises (raise_exception); NM_FAILED for its errors (undefined, type) and exceeded bounds; NM_USAGE for bad JSON. */
NM_API nm_err nm_template_render(const nm_template *tmpl, const char *vars, size_t vars_length, const nm_template_options *options, char **text, size_t *length);

/* ---- Adapters and stacks -------------------------------------------------------------------------------------------------- */

typedef enum nm_match {         /* how an adapter's base and the model compare */
    NM_MATCH_SAME,              /* the same weights, to the bit */
    NM_MATCH_REQUANTISED,       /* the same weights, quantised in another way */
    NM_MATCH_UNVERIFIED,        /* the adapter does not tell its base's weights: only shapes were compared */
    NM_MATCH_FORCED             /* other weights or another tokenizer, and the caller insists */
} nm_match;

typedef struct nm_adapter_info {
    const char *path, *format;  /* format: "peft" or "gguf" */
    const char *base;           /* what the adapter calls its base, "" if it does not; a name, not an identity */
    const char *base_type;      /* the type that held most of the base's weights, "" if unknown */
    nm_match match;
    double correlation;         /* of the weights' sketches; NAN where there is none */
    int32_t n_maps, max_rank;   /* maps of the model that it changes */
    uint64_t n_parameters, bytes;   /* bytes: as resident */
    char hash[17];              /* of its contents, in hexadecimal */
    const char *prompt_format;  /* the format that it was taught in (nm_format_template), "" for the model's template */
} nm_adapter_info;

/* Opens a PEFT folder, its adapter_model.safetensors (with adapter_config.json beside it), or a GGUF LoRA file, against a model, which must
 * outlive it. Immutable once open: any number of stacks and threads may use it together. NM_BAD_FILE: damaged, or shapes that do not
 * fit, naming the tensor; NM_REFUSED: a kind of adapter that cannot be run, or one of other weights unless `force`. */
NM_API nm_err nm_adapter_open(nm_adapter **out, const nm_model *model, const char *path, bool force);
NM_API void nm_adapter_close(nm_adapter **adapter);
NM_API const nm_adapter_info *nm_adapter_describe(const nm_adapter *adapter);   /* owned by the adapter */

/* Puts adapters on each other, in this order; any may stand in it more than once. They are computed beside the base, never merged: output =
 * base + sum of scale x adapter's own scale x (x A') B'. One of DoRA's kind (Liu et al. 2024) then sets the length of each row of what there is to its
 * magnitude, as PEFT does; NM_BAD_FILE for a row that has no length. A scale of 0 gives the base's bits. Takes well below a millisecond, and with
 * DoRA a square root for each row that it changes. The adapters must outlive the stack, and the stack the sessions that were opened with it. */
NM_API nm_err nm_stack_open(nm_stack **out, const nm_model *model, const nm_adapter *const *adapters, const float *scales, size_t count);
NM_API void nm_stack_close(nm_stack **stack);

/* What a file holds, without a model. */
typedef struct nm_adapter_facts {
    const char *format;         /* "peft" or "gguf"; static */
    char base[256], base_type[16];
    bool sketched;              /* it tells the weights of its base */
    bool dora;                  /* DoRA: it also sets the length of each row */
    int32_t n_maps, min_rank, max_rank;
    float min_scale, max_scale;     /* of its own, alpha / rank and the like */
    uint64_t n_parameters;
    char prompt_format[16];         /* the format that it was taught in, "" for the model's template */
} nm_adapter_facts;
NM_API nm_err nm_adapter_inspect(nm_adapter_facts *out, const char *path);

/* How much each map is changed: the lengths (Frobenius) of scale x B A of one adapter and, if b is not NULL, of another, and of their
 * difference; relative to the base's weights where a base is open with its weights, else NAN. Names are GGUF's if a base is given, else the files'. */
typedef struct nm_map_change { const char *name; double first, second, distance, relative; } nm_map_change;
typedef nm_err (*nm_change_fn)(void *arg, const nm_map_change *change);
NM_API nm_err nm_adapter_diff(const char *a, const char *b, const nm_model *base, nm_change_fn fn, void *arg);

/* Writes the model with its stack (NULL: only quantised anew) as one GGUF file. */
typedef struct nm_merge_options {
    const char *type;           /* of all maps, e.g. "Q8_0"; NULL = as they are */
    const char *note;           /* for the file's key nomoat.merged; may be NULL */
    const char *template_text;  /* the chat template that the file tells in place of the model's; NULL */
    nm_progress_fn progress;    /* tensors done; may be NULL */
    void *progress_arg;
} nm_merge_options;
typedef struct nm_merge_report {
    int32_t n_maps;             /* changed by the stack */
    double relative_error;      /* |written - meant| / |meant| over all tensors that were quantised again */
    double error_to_change;     /* |written - meant| / |meant - base|: above 1 the quantisation moves weights more than the stack does */
} nm_merge_report;
NM_API nm_err nm_model_merge(const nm_model *model, const nm_stack *stack, const char *path, const nm_merge_options *options, nm_merge_report *report);

/* Working on adapters' files. Those that need names of the other format, or a sketch of the base's weights, take the base; for names alone a model
 * opened for its metadata does. */
typedef struct nm_adapter_card {    /* what a written adapter says of itself; each may be NULL */
    const char *base;               /* base_model_name_or_path */
    const char *provenance;         /* one JSON object, for nomoat.json */
    const char *summary;            /* a paragraph for README.md */
    const char *prompt_format;      /* the format it was taught in (nm_format_template), which prompts must have; NULL: what its file says, or the model's template */
} nm_adapter_card;

/* Writes an adapter again: a PEFT folder (made if it lacks), or a GGUF LoRA file. base: needed (else NM_USAGE) where the format changes;
 * with its weights open the result also carries their sketch. Plain LoRA either way: use_rslora false, lora_alpha = scale x r. */
NM_API nm_err nm_adapter_export(const char *path, const nm_model *base, const char *out, bool gguf, const nm_adapter_card *card);

typedef enum nm_combine {
    NM_COMBINE_EXACT,           /* sum of scale x B A by concatenation: ranks add */
    NM_COMBINE_LINEAR,          /* halves are added, as PEFT's "linear": cross terms come in; equal ranks */
    NM_COMBINE_TIES,            /* the same with small values cut and signs elected (Yadav et al. 2023), on halves as PEFT does */
    NM_COMBINE_DARE             /* the same with random values dropped and the rest scaled up (Yu et al. 2024) */
} nm_combine;
typedef struct nm_combine_options {
    nm_combine method;
    int32_t rank;               /* re-compress each map to this rank by SVD; 0 = leave it */
    float density;              /* of TIES and DARE: the part of the values that stays; 0 = 0.5 */
    uint64_t seed;              /* of DARE */
    const nm_model *base;       /* as for nm_adapter_export; may be NULL where all files are PEFT's */
    bool gguf;                  /* write a GGUF file instead of a PEFT folder */
} nm_combine_options;
typedef struct nm_combine_report {
    int32_t n_maps, max_rank;
    double kept_energy;         /* of |sum of scale x B A|^2 over all maps, 0..1 */
    double effective_rank;      /* mean over maps of exp(entropy of the singular values), before compressing */
} nm_combine_report;
NM_API nm_err nm_adapter_combine(const char *const *paths, const float *scales, size_t count, const nm_combine_options *options,
    const char *out, const nm_adapter_card *card, nm_combine_report *report);

/* ---- Sessions and running ------------------------------------------------------------------------------------------------ */

typedef enum nm_kv_type { NM_KV_F16, NM_KV_F32, NM_KV_Q8_0 } nm_kv_type;
typedef enum nm_compute {
    NM_COMPUTE_DEFAULT,     /* int8 activations (32 values a scale) for quantised weights, fp32 elsewhere */
    NM_COMPUTE_F32          /* exactly dequantised weights, fp32 everywhere; pair it with NM_KV_F32 */
} nm_compute;

typedef struct nm_session_options {
    int32_t context;        /* most tokens it may hold; 0 = the trained length */
    nm_kv_type kv;
    nm_compute compute;     /* arithmetic that fills the cache; a runner of another arithmetic refuses the session */
    const nm_stack *stack;  /* adapters of this model, for the session's whole life; NULL = the base alone */
} nm_session_options;
/* Bytes that a session would need at its full context, beside passes of the default 512 rows; 0 for options that make no sense.
 * Opening takes next to nothing: memory follows the tokens. */
NM_API uint64_t nm_session_bytes(const nm_model *model, const nm_session_options *options);
/* options may be NULL. */
NM_API nm_err nm_session_open(nm_session **out, const nm_model *model, const nm_session_options *options);
NM_API void nm_session_close(nm_session **session);
/* A second timeline with the same past; pages are shared until one of them writes. */
NM_API nm_err nm_session_fork(nm_session **out, nm_session *source);
/* Forgets all tokens from n on. Returns the length reached, which is below n where a sliding window has already dropped what n would need. */
NM_API int32_t nm_session_truncate(nm_session *session, int32_t n);
/* What that would return; changes nothing. */
NM_API int32_t nm_session_reach(const nm_session *session, int32_t n);
NM_API int32_t nm_session_length(const nm_session *session);
NM_API int32_t nm_session_context(const nm_session *session);
NM_API const int32_t *nm_session_tokens(const nm_session *session);     /* nm_session_length of them; until the next change */
/* Written whole or not at all (temporary name, fsync, rename). Loading refuses (NM_REFUSED) another model, arithmetic or layout, and a stack
 * of other adapters, scales or order than the one it was saved with. */
NM_API nm_err nm_session_save(const nm_session *session, const char *path);
NM_API nm_err nm_session_load(nm_session **out, const nm_model *model, const nm_stack *stack, const char *path);

typedef struct nm_runner_options {
    nm_compute compute;
    int32_t max_rows;       /* most tokens in one pass; 0 = 512. Any value gives the same bits. */
    int32_t max_logits;     /* rows of logits in one pass of the head; 0 = 16 */
} nm_runner_options;
/* What computes, with the memory of one pass; serves any sessions of its model, of its arithmetic, one run after another. options may be NULL. */
NM_API nm_err nm_runner_open(nm_runner **out, const nm_model *model, const nm_runner_options *options);
NM_API void nm_runner_close(nm_runner **runner);
NM_API uint64_t nm_runner_bytes(const nm_runner *runner);

typedef enum nm_want { NM_WANT_NONE, NM_WANT_LAST, NM_WANT_ALL } nm_want;
/* logits: n_vocab floats, valid during the call only. index: which of the item's tokens they follow. A result other than NM_OK ends the run with it. */
typedef nm_err (*nm_logits_fn)(void *arg, int32_t index, const float *logits, int32_t n_vocab);
/* What the head's map reads, n_embd floats: the last norm's output. As nm_logits_fn, and called before it. */
typedef nm_err (*nm_hidden_fn)(void *arg, int32_t index, const float *hidden, int32_t n_embd);
typedef struct nm_item {
    nm_session *session;
    const int32_t *tokens;      /* appended to the session; read during the call */
    int32_t count;
    nm_want want;               /* of which of these tokens: of none, the last, all */
    nm_logits_fn on_logits;     /* called on the calling thread, in order. NULL where only on_hidden is wanted: then no logits are computed */
    void *arg;
    nm_hidden_fn on_hidden;     /* may be NULL */
} nm_item;
/* Appends each item's tokens to its session and computes what is wanted. Sessions must differ. All or nothing for bad
 * arguments (NM_USAGE: context full, id outside the vocabulary). cancel (may be NULL): when it turns non-zero the call returns
 * NM_INTERRUPTED within about 50 ms; the sessions then hold the tokens of the passes that ended, of which some logits may not have been handed out. */
NM_API nm_err nm_run(nm_runner *runner, nm_item *items, size_t count, const volatile sig_atomic_t *cancel);

/* ---- Sampling ------------------------------------------------------------------------------------------------------------ */

typedef struct nm_sampling {
    float temperature;          /* 0 = greedy */
    int32_t top_k;              /* 0 = off */
    float top_p, min_p, typical;    /* 1, 0, 1 = off */
    float repeat_penalty, presence_penalty, frequency_penalty;   /* 1, 0, 0 = off */
    int32_t penalty_last;       /* tokens looked at by penalties; -1 = all, 0 = off */
    uint64_t seed;
} nm_sampling;
/* The defaults, overlaid by the model's general.sampling.* where present; model may be NULL. */
NM_API nm_sampling nm_sampling_defaults(const nm_model *model);
NM_API nm_err nm_sampler_open(nm_sampler **out, const nm_sampling *sampling, int32_t n_vocab);
NM_API void nm_sampler_close(nm_sampler **sampler);
/* Adds to these tokens' logits before anything else (OpenAI's logit_bias); -INFINITY forbids one. Copied; replaces what was set before. */
NM_API nm_err nm_sampler_bias(nm_sampler *sampler, const int32_t *ids, const float *bias, size_t count);
/* Order: penalties, top-k, typical, top-p, min-p, temperature, draw. NM_FAILED if a logit is NaN or all are -inf. The logits are not changed. */
NM_API nm_err nm_sampler_draw(nm_sampler *sampler, const float *logits, int32_t *token);
/* Tells the sampler of a token (prompt or drawn) for its penalties. */
NM_API nm_err nm_sampler_accept(nm_sampler *sampler, int32_t token);

/* Stop strings in streamed text, wherever tokens' borders fall: the one that is whole first counts, of two that end together the longer. What may yet become one is held back;
 * of a match nothing is given. */
typedef struct nm_stop nm_stop;
/* The strings are copied. NM_USAGE for an empty one; count 0 is fine (nothing is ever held back). */
NM_API nm_err nm_stop_open(nm_stop **out, const char *const *strings, size_t count);
NM_API void nm_stop_close(nm_stop **stop);
/* Feeds bytes; text NULL ends the stream and gives what was held back. *out points into the stop until its next call and holds
 * *out_length bytes. *stopped: a stop string was met; what is fed afterwards is dropped until nm_stop_reset. */
NM_API nm_err nm_stop_push(nm_stop *stop, const char *text, size_t length, const char **out, size_t *out_length, bool *stopped);
/* The string that was met, NULL if none was. Owned by the stop. */
NM_API const char *nm_stop_met(const nm_stop *stop);
/* Forgets the stream, for the next one. */
NM_API void nm_stop_reset(nm_stop *stop);

/* ---- Constrained output --------------------------------------------------------------------------------------------------- */

/* A grammar in GBNF, the notation of llama.cpp's users: rules `name ::= ...` over characters, and control tokens as @"text", "root" first. Immutable once
 * open: any number of threads may use it. */
typedef struct nm_grammar nm_grammar;
/* NM_USAGE with line and column for a fault of the text, a rule that is missing, one that can never end, or bounds exceeded. */
NM_API nm_err nm_grammar_open(nm_grammar **out, const char *gbnf, size_t length);
NM_API void nm_grammar_close(nm_grammar **grammar);
/* Whether the whole text is one of the grammar's. */
NM_API nm_err nm_grammar_matches(const nm_grammar *grammar, const char *text, size_t length, bool *matches);
/* GBNF of the JSON documents that a JSON schema (2020-12) admits. NM_USAGE names a keyword that is not known, never ignores it. schema NULL: any JSON object. *gbnf: nm_free. */
NM_API nm_err nm_schema_grammar(char **gbnf, size_t *gbnf_length, const char *schema, size_t length);

/* GBNF of the texts that a regular expression (ECMA-262's) fits as a whole. NM_USAGE for a fault of it. *gbnf: nm_free. */
NM_API nm_err nm_pattern_grammar(char **gbnf, size_t *gbnf_length, const char *pattern, size_t length);

/* One text under way within a grammar. Belongs to one thread at a time; the grammar and the tokenizer must outlive it. The text is what nm_detokenize makes of the tokens
 * without flags, so decode it without NM_TEXT_CONTINUES; control tokens, which show nothing, may come only where the grammar
 * names them, as @"text". NM_REFUSED for a vocabulary of words (WordPiece). */
typedef struct nm_constraint nm_constraint;
NM_API nm_err nm_constraint_open(nm_constraint **out, const nm_grammar *grammar, const nm_tokenizer *tokenizer);
NM_API void nm_constraint_close(nm_constraint **constraint);
/* Whether this token may come next; tokens that end a turn may where the grammar may end. */
NM_API bool nm_constraint_allows(nm_constraint *constraint, int32_t id);
/* All that may come next: bit id % 32 of word id / 32, for each token of the vocabulary. */
NM_API nm_err nm_constraint_mask(nm_constraint *constraint, uint32_t *mask);
/* NM_USAGE for a token that may not come. */
NM_API nm_err nm_constraint_accept(nm_constraint *constraint, int32_t id);
/* True where nothing but the end may come. */
NM_API bool nm_constraint_ended(nm_constraint *constraint);
/* nm_sampler_draw among the tokens that may come next. As a draw that is repeated until it fits, so mostly without the mask. NM_FAILED where none may. */
NM_API nm_err nm_sampler_draw_within(nm_sampler *sampler, const float *logits, nm_constraint *constraint, int32_t *token);

/* ---- What an answer is made of -------------------------------------------------------------------------------------------- */

/* Splits an answer as it is streamed into reasoning ("<think> ... </think>" and its relatives, where they open the answer), content, and calls of tools in the notation of
 * the model's family, which its chat template tells. */
typedef struct nm_speech nm_speech;
typedef enum nm_speech_kind {
    NM_SPEECH_CONTENT, NM_SPEECH_REASONING,
    NM_SPEECH_CALL,             /* a call begins: number, id, name */
    NM_SPEECH_ARGUMENTS,        /* more of its arguments, as JSON text */
    NM_SPEECH_MARK              /* with `marks` only: a mark of reasoning, or white space about it */
} nm_speech_kind;
/* text has no zero behind it; all of a piece is valid during the call only. call, id, name: of CALL and ARGUMENTS. */
typedef struct nm_speech_piece { nm_speech_kind kind; const char *text; size_t length; int32_t call; const char *id, *name; } nm_speech_piece;
/* A result other than NM_OK ends nm_speech_push with it. */
typedef nm_err (*nm_speech_fn)(void *arg, const nm_speech_piece *piece);
typedef struct nm_speech_options {
    const char *template_text;  /* the chat template's source; NULL: no tools are looked for */
    const char *tools;          /* OpenAI's array of tools as JSON; NULL: calls stay text */
    bool reasoning_open;        /* the prompt ends inside a block of reasoning */
    uint64_t seed;              /* of calls' ids */
    bool marks;                 /* also give what is no part of reasoning or content, for those who show an answer as it was written */
    bool must_call;             /* a grammar of nm_speech_grammar binds the answer: what it was cut within before it was a call is nothing, not content */
} nm_speech_options;
NM_API nm_err nm_speech_open(nm_speech **out, const nm_speech_options *options);
NM_API void nm_speech_close(nm_speech **speech);
/* text NULL: the end. What is no call after all comes as content; nothing is lost, but with must_call. */
NM_API nm_err nm_speech_push(nm_speech *speech, const char *text, size_t length, nm_speech_fn give, void *arg);
/* Whether what comes next, as far as it is known, is reasoning. */
NM_API bool nm_speech_reasons(const nm_speech *speech);
/* What would end the reasoning that is under way, by the mark of its family; where the prompt has opened it, its text tells which. NULL: none is under way. */
NM_API const char *nm_speech_closing(const nm_speech *speech, const char *prompt, size_t length);
/* A token's text that is such a mark, though the token is control: it must be fed to nm_speech_push as text. */
NM_API bool nm_speech_is_mark(const char *token_text);
/* Whether a rendered prompt ends (white space apart) inside a block of reasoning. */
NM_API bool nm_speech_reasoning_open(const char *prompt, size_t length);
/* GBNF of answers that call tools of this array in the family's notation: at least one call, or exactly one; choice: a function's name, or NULL for any. Reasoning may come
 * first where the template has it, and must where the prompt has opened it. A mark is its characters or the control token of its
 * text. NM_USAGE names what is wrong with the tools. *gbnf: nm_free. */
NM_API nm_err nm_speech_grammar(char **gbnf, size_t *gbnf_length, const char *template_text, const char *tools, const char *choice, bool one, bool reasoning_open);

/* ---- Training data --------------------------------------------------------------------------------------------------------- */

typedef enum nm_train_on {
    NM_TRAIN_ASSISTANT,     /* every turn of the assistant but those with "weight": 0 or "train": false */
    NM_TRAIN_LAST,          /* the last of them */
    NM_TRAIN_ALL            /* every token */
} nm_train_on;
typedef enum nm_split { NM_SPLIT_TRAIN, NM_SPLIT_VALIDATION } nm_split;

typedef struct nm_dataset_options {
    const char *const *sources;     /* DATA[:WEIGHT]: JSON, JSON Lines, CSV, text, gzip of these, folders, "-"; docs/data.md */
    size_t n_sources;
    const char *rows;               /* in place of sources: JSON Lines in memory, rows_length bytes; NULL */
    size_t rows_length;
    const char *validation;         /* NULL: none; a fraction of the rows ("0.05"), or DATA */
    int32_t least_validation;       /* where a fraction makes fewer sequences than this, none are kept for validation; 0 = one at least */
    int32_t most_validation;        /* rows that a fraction keeps at most; 0 = any number */
    const char *map;                /* "instruction=q,output=a": other names of columns; NULL */
    const char *format;             /* "alpaca", "vicuna" or "raw" in place of the model's template; NULL */
    const char *template_text;      /* the source of a chat template in place of the model's; NULL */
    const char *template_kwargs;    /* further variables of the template as one JSON object; NULL */
    nm_train_on train_on;
    int32_t max_length;             /* tokens of a sequence, at least 8; 0 = no limit */
    bool skip_bad;                  /* count bad rows and go on, rather than fail at the first */
    uint64_t seed;                  /* chooses the validation rows of a fraction */
    int64_t now;                    /* as in nm_template_options; 0 = the clock */
    uint64_t memory;                /* bytes at most that the rows take, with all that splitting and ordering them takes at its peak; 0 = any number */
    nm_progress_fn progress;        /* rows read so far, of 0 (not known); may be NULL. Asking for a stop is NM_INTERRUPTED */
    void *progress_arg;
} nm_dataset_options;

/* One sequence of tokens. Arrays and strings belong to the dataset. */
typedef struct nm_sample {
    const int32_t *ids;
    const uint8_t *mask;            /* 1: the token is trained, from those before it; mask[0] is 0 */
    int32_t count, trained;         /* tokens; those with mask 1 */
    const char *file;               /* where its row stands */
    uint64_t line;
    int32_t source;                 /* index into the options' sources; -1 for validation data of its own */
} nm_sample;

typedef struct nm_dataset_stats {
    uint64_t files, rows, bad_rows;             /* rows: those used */
    uint64_t samples, tokens, trained;          /* training and validation together */
    uint64_t split_rows;        /* rows that became a sequence per turn, as the template rewrites history */
    uint64_t long_rows;         /* sequences cut at max_length */
    uint64_t cut_answers;       /* those of them that lost trained tokens */
    uint64_t straddled;         /* answers whose first bytes share a token with the prompt: that token is not trained */
    uint64_t duplicates;        /* validation sequences that are also trained, token for token */
    uint64_t bytes;             /* memory that the rows take, with orders over them */
    int32_t longest;            /* tokens, before it was cut */
    const char *first_bad;      /* "FILE:LINE: reason" of the first bad row, or NULL */
    const char *first_duplicate;    /* "FILE:LINE is also FILE:LINE", or NULL */
} nm_dataset_stats;

typedef struct nm_dataset nm_dataset;
/* Reads all sources and makes their token sequences with masks; the model may be closed afterwards. NM_REFUSED: the model has no template and none
 * was given; NM_BAD_FILE: "FILE:LINE: reason" of a bad row, a damaged file, or nothing left to train; NM_NO_MEMORY: more than `memory`. Takes about five bytes a token. */
NM_API nm_err nm_dataset_open(nm_dataset **out, const nm_model *model, const nm_dataset_options *options);
/* A file of ready batches: JSON, steps > micro-batches > sequences {"ids": [...], "mask": [0, 1, ...]}. n_vocab: ids from there on are refused. */
NM_API nm_err nm_dataset_open_batches(nm_dataset **out, const char *path, int32_t n_vocab);
NM_API void nm_dataset_close(nm_dataset **dataset);
NM_API size_t nm_dataset_count(const nm_dataset *dataset, nm_split split);
NM_API nm_sample nm_dataset_sample(const nm_dataset *dataset, nm_split split, size_t index);    /* all zero outside */
NM_API const nm_dataset_stats *nm_dataset_describe(const nm_dataset *dataset);
/* The chat template of a format ("alpaca", "vicuna", "raw"): what `run` must use with an adapter taught in it. NULL for another name. */
NM_API const char *nm_format_template(const char *format);

typedef struct nm_order_options {
    int32_t batch;          /* sequences of a step, at least 1 */
    double epochs;          /* above 0; parts are fine */
    int64_t max_steps;      /* 0 = as many as the epochs have */
    uint64_t seed;
    bool in_order;          /* as the rows stand in their files, without shuffling */
} nm_order_options;
/* What one step trains. */
typedef struct nm_order_step {
    const uint32_t *samples;    /* indices into NM_SPLIT_TRAIN */
    size_t count;
    const uint32_t *parts;      /* ends of the micro-batches among them, n_parts of them; 0: nothing is prescribed */
    size_t n_parts;
} nm_order_step;

/* The order of training: from the seed alone, any step at any time, so that a resumed run goes on as it would have. In an epoch each row of a source comes
 * as often as its weight says: whole parts for all, the rest for a share of them that the seed draws anew for each epoch. The last step of
 * an epoch may be smaller. Of ready batches the order is theirs, and options may be NULL. The dataset must outlive it. */
typedef struct nm_order nm_order;
NM_API nm_err nm_order_open(nm_order **out, const nm_dataset *dataset, const nm_order_options *options);
NM_API void nm_order_close(nm_order **order);
NM_API int64_t nm_order_steps(const nm_order *order);
NM_API int64_t nm_order_steps_per_epoch(const nm_order *order);
/* *out is valid until the next call. NM_USAGE for a step that there is not. */
NM_API nm_err nm_order_step_at(nm_order *order, int64_t step, nm_order_step *out);
/* Packing: how many of `count` samples, from the first on, fit together into a pass of max_rows tokens; at least 1. Nothing is cut, and their
 * attention stays apart. */
NM_API size_t nm_order_pack(const nm_dataset *dataset, const uint32_t *samples, size_t count, int32_t max_rows);

/* ---- Teaching --------------------------------------------------------------------------------------------------------------- */

/* Trains a LoRA adapter (Hu et al. 2021) on the model as it runs: the same quantised weights, in floating point on what they stand for. */
typedef struct nm_trainer nm_trainer;
typedef enum nm_schedule { NM_SCHEDULE_COSINE, NM_SCHEDULE_LINEAR, NM_SCHEDULE_CONSTANT } nm_schedule;
/* How the halves begin: B = 0 and A drawn uniformly or from a normal distribution, as PEFT does; or both from the largest singular triplets of the map, as
 * many as the rank (PiSSA, Meng et al. 2024), which then are subtracted from it: what is saved has twice the rank. */
typedef enum nm_start { NM_START_UNIFORM, NM_START_GAUSSIAN, NM_START_PISSA } nm_start;

typedef struct nm_trainer_options {
    nm_compute compute;         /* DEFAULT: products with the model's maps in bf16 where the instruction set has them, all else in fp32; F32: all in fp32 */
    int32_t rank;               /* 0 = 16 */
    float alpha;                /* 0: the scale is rank-stabilised, 8 / sqrt(rank) (Kalajdzievski 2023); else alpha / rank, or alpha / sqrt(rank) with rslora */
    bool rslora;
    bool dora;                  /* also learn the length of each row (DoRA, Liu et al. 2024); goes with neither dropout nor PiSSA (NM_USAGE) */
    const char *targets;        /* maps by the last part of their names, GGUF's ("attn_q") or PEFT's ("q_proj"), between commas; NULL: all linear maps of the layers */
    const char *init;           /* start from this adapter: its rank, scale and targets hold; NULL */
    bool force;                 /* also from one that was made for other weights (else NM_REFUSED) */
    const nm_stack *below;      /* adapters that stay as they are, below the one that is trained; NULL */
    nm_start start;             /* without `init` */
    float dropout;              /* probability that a value that goes into an A half is dropped in training, [0, 1); a mask for each map, step and token */
    const char *optimizer;      /* NULL = "adamw" */
    float lr, lr_ratio;         /* 0 = 2e-4 x nm_optimizer_rate; lr_ratio: the B halves' rate to the A halves' (LoRA+, Hayou et al. 2024), 0 = 1 */
    float weight_decay;         /* negative = the optimiser's own */
    float clip;                 /* of the gradient's norm; 0 = none */
    nm_schedule schedule;
    int64_t warmup, steps;      /* steps of the whole run, for the schedule */
    uint64_t seed;
    int32_t max_length;         /* of a sequence */
    int32_t anchor;             /* tokens of a step's anchor that are held, at most; 0 = none will be given */
    float ease;                 /* nats: where the running mean of the anchor's KL is above, the rate is lower by (ease / KL)^2; 0 = never */
    int32_t batch;              /* sequences of a step; how many go into a pass at once is planned */
    bool no_packing;            /* each sequence in a pass of its own: slower, the same bits */
    uint64_t memory;            /* bytes for values of passes and the adapter's numbers; 0 = no limit. Less memory, more recomputation: the same bits */
    bool beside;                /* others answer from the model meanwhile: its kept weights stay resident, where passes otherwise let go of each after its use */
    const volatile sig_atomic_t *cancel;    /* when it turns non-zero while PiSSA's start is found, opening ends with NM_INTERRUPTED; may be NULL */
} nm_trainer_options;

typedef struct nm_trainer_info {
    int32_t rank, maps;
    float scale;
    bool dora;
    uint64_t parameters, bytes;     /* bytes: taken beside the model */
    uint64_t pass_bytes;            /* of them: what passes compute in, touched as far as they are full */
    uint64_t start_bytes;           /* at most while it is opened, where finding PiSSA's start takes more than passes do; else as bytes */
    int32_t pass_rows;              /* tokens of a pass */
    const char *arithmetic;         /* of products with the model's maps: "f32", "bf16" or "amx-bf16", other bits each */
    const char *recomputed;         /* "nothing", "rows" or "layers" */
} nm_trainer_info;

/* What suits an optimiser (NULL = "adamw") as a learning rate, to what suits AdamW. NM_USAGE, naming those that are known, if there is none of that name. */
NM_API nm_err nm_optimizer_rate(const char *name, float *rate);

/* The model and the stack below must outlive the trainer. `steps`, `batch` and `max_length` must be given; options may not be NULL. NM_NO_MEMORY where options.memory does
 * not suffice, before any of it is taken. */
NM_API nm_err nm_trainer_open(nm_trainer **out, const nm_model *model, const nm_trainer_options *options);
NM_API void nm_trainer_close(nm_trainer **trainer);
/* What a trainer of these options would be: nothing is allocated for long. */
NM_API nm_err nm_trainer_plan(nm_trainer_info *info, const nm_model *model, const nm_trainer_options *options);
/* Gives the memory of passes back to the system until the next step, so that what is done between steps does not add to it. */
NM_API void nm_trainer_rest(nm_trainer *trainer);
NM_API const nm_trainer_info *nm_trainer_describe(const nm_trainer *trainer);

typedef struct nm_train_report {
    int64_t step;               /* from 1 */
    double loss, grad_norm;     /* nats per trained token, before the step; before clipping */
    double anchor;              /* KL to the model before, nats a token of the anchor; 0 without one */
    float lr;
    int64_t supervised, tokens;
    double seconds;             /* of it all; of the anchor and of the optimiser within */
    double anchor_seconds, update_seconds;
} nm_train_report;
/* One step on these samples, together. anchor: general sequences, maybe none, whose tokens with mask 1 (all, where a mask
 * is NULL) are held to what the model without the adapter says, with this weight. NM_INTERRUPTED leaves the adapter as it was before the step. */
NM_API nm_err nm_trainer_step(nm_trainer *trainer, const nm_sample *samples, size_t count, const nm_sample *anchor, size_t anchors,
    float anchor_weight, nm_train_report *report, const volatile sig_atomic_t *cancel);
/* A copy of the adapter as it stands, to be stacked (nm_stack_open) and run. */
NM_API nm_err nm_trainer_adapter(const nm_trainer *trainer, nm_adapter **out);
/* Writes a PEFT folder, each file whole or not at all and the weights last: plain LoRA or DoRA, lora_alpha = scale x rank. */
NM_API nm_err nm_trainer_save(const nm_trainer *trainer, const char *folder, const nm_adapter_card *card);
/* Everything that the next step depends on, and a note of the caller's; written whole or not at all. Resuming needs a trainer of the same model, options,
 * number of steps and arithmetic (nm_trainer_info; NM_REFUSED), and goes on to the same bits. *note: nm_free. */
NM_API nm_err nm_trainer_checkpoint(const nm_trainer *trainer, const char *path, const char *note);
NM_API nm_err nm_trainer_resume(nm_trainer *trainer, const char *path, char **note);
/* General text that ships with the library, of kinds that share nothing: to hold a model to itself while it learns, to measure what it forgot, and
 * questions, one on a line, in whose answers it is held to itself. */
typedef enum nm_general { NM_GENERAL_ANCHOR, NM_GENERAL_METER, NM_GENERAL_QUESTIONS } nm_general;
NM_API const char *nm_general_text(nm_general which, size_t *length);   /* static, with a zero behind */
/* KL(before || now) in nats of the two distributions that n logits each stand for. Both are written: p_before [n] is memory of its own, p_now [n] may be `before`. */
NM_API double nm_divergence(const float *before, const float *now, int64_t n, float *p_before, float *p_now);

NM_API int64_t nm_trainer_steps(const nm_trainer *trainer);    /* taken so far */

/* ---- Memory ---------------------------------------------------------------------------------------------------------------- */

NM_API void nm_free(void *pointer);     /* frees what a function of this header said it allocated */

#ifdef __cplusplus
}
#endif
#endif
