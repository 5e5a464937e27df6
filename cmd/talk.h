/* Owns a model at work for 'run': its settings, session, runner and template; from messages to tokens, from tokens to an answer. */
#ifndef NM_CMD_TALK_H
#define NM_CMD_TALK_H

#include "args.h"
#include "base/str.h"
#include "hub/store.h"
#include "json_in.h"
#include "nomoat.h"
#include "stack.h"

typedef enum nm_think { NM_THINK_AUTO, NM_THINK_ON, NM_THINK_OFF } nm_think;

typedef struct nm_run_settings {
    nm_common common;
    const char *prompt, *file, *system, *tmpl, *template_file, *template_kwargs;
    nm_list stop;
    nm_stack_options stack;
    int32_t max_tokens, context, kv, kv_v, think, top_k, penalty_last;
    double temperature, top_p, min_p, typical, repeat_penalty, presence_penalty, frequency_penalty;
    nm_seed seed;
    bool raw, hide_thinking, ignore_eos;
} nm_run_settings;
extern const nm_option nm_run_options[];        /* run.c */

typedef struct nm_message { const char *role; char *content; size_t length; } nm_message;   /* role: a static string */

typedef struct nm_talk {
    nm_stacked stacked;
    nm_model *model;            /* stacked.model */
    const nm_tokenizer *tokenizer;
    nm_template *tmpl;          /* NULL: the model has none and none was given, or --raw */
    const char *template_text;  /* its source; for the search of a thinking switch */
    char *template_owned;
    nm_session *session;
    nm_session_options options; /* that it was opened with */
    nm_runner *runner;
    int32_t context;
    uint64_t seed;              /* of the first answer; each later one takes the next */
    uint64_t answers;
    bool thinks;                /* the last prompt ends inside a thinking block */
} nm_talk;

/* Opens model, template, session and runner as the settings say. With a note where the context was lowered to fit memory. */
nm_err nm_talk_open(nm_talk *talk, const nm_run_settings *set, const char *model);
void nm_talk_close(nm_talk *talk);
/* Puts other adapters on the model ("" = none); the conversation goes on in a new session, and in the format that they were taught in. On failure everything
 * stays as it was. */
nm_err nm_talk_restack(nm_talk *talk, const nm_run_settings *set, const char *adapters, bool force);

/* The variables that transformers gives to every template: tools, documents, special tokens (tokenizer may be NULL). */
nm_err nm_talk_default_vars(nm_vars *vars, const nm_tokenizer *tokenizer);
/* [{"role": ..., "content": ...}, ...] */
nm_err nm_talk_messages_json(nm_str *s, const nm_message *messages, size_t count);
/* The tokens of a conversation, up to where the answer is to begin. *ids: nm_free. */
nm_err nm_talk_prompt(nm_talk *talk, const nm_run_settings *set, const nm_message *messages, size_t count, int32_t **ids, size_t *n_ids);
/* The tokens of one question, behind the system message and the persona's messages; without a template those of the text, which is then continued. */
nm_err nm_talk_question(nm_talk *talk, const nm_run_settings *set, const char *text, size_t length, int32_t **ids, size_t *n_ids);
/* The tokens of plain text to be continued. */
nm_err nm_talk_raw_prompt(nm_talk *talk, const char *text, size_t length, int32_t **ids, size_t *n_ids);

typedef struct nm_answer {
    nm_str text;            /* all of it, thinking included; stop strings are not part of it */
    nm_str visible;         /* without what --hide-thinking hides */
    int32_t *ids;
    size_t n_ids, capacity, prompt_tokens, reused;  /* reused: prompt tokens that the session held already */
    const char *finish;     /* "stop", "length" or "interrupted" */
    double prompt_seconds, seconds;
    uint64_t seed;
} nm_answer;
void nm_answer_free(nm_answer *answer);

/* The persona that the model was called by, or NULL; and the system message: the settings', else the persona's, else NULL. */
const struct nm_persona *nm_talk_persona(const nm_talk *talk);
const char *nm_talk_system(const nm_talk *talk, const nm_run_settings *set);

/* Brings the session to the prompt (what it shares with the last one is kept) and generates. show: print while generating.
 * NM_USAGE with numbers: the prompt does not fit. NM_INTERRUPTED: Ctrl-C; the answer then holds what was made. */
nm_err nm_talk_answer(nm_talk *talk, const nm_run_settings *set, const int32_t *ids, size_t n_ids, bool show, nm_answer *answer);

/* What the next answer is drawn with: the settings over the model's own defaults. */
nm_sampling nm_talk_sampling(const nm_talk *talk, const nm_run_settings *set);

/* A stop string as typed: \\n, \\t, \\r and \\\\ are understood. Allocated; NULL without memory. */
char *nm_unescape(const char *text);

/* One line on standard error: tokens, speed, seed. */
void nm_talk_note_speed(const nm_answer *answer);

/* ---- Templates by name (templates.c) ----------------------------------------------------------------------------- */

/* The source of a built-in template, or NULL. */
const char *nm_template_named(const char *name);
const char *nm_template_name(size_t index);     /* NULL past the end */

/* ---- The interactive chat (chat.c) ------------------------------------------------------------------------------- */

nm_err nm_chat(nm_talk *talk, nm_run_settings *set);

#endif
