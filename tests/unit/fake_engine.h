/* Owns an engine that computes nothing, for tests of dialects: it implements server/engine.h, calls back from threads of its own, and says what a script tells it to.
 * What it was asked is kept as JSON. One of it exists at a time. Test code: it aborts when memory runs out. Tests include fake_engine.c itself (which includes gguf_writer.c).
 *
 *     static const fake_step steps[] = {{.text = "Hel"}, {.text = "lo"}};
 *     fake_reset();
 *     fake.script = (fake_script){.steps = steps, .n_steps = 2, .finish = NM_FINISH_STOP};
 *     ... a request by HTTP ...
 *     assert_string_equal(json_string_value(json_object_get(fake_asked(0), "model")), "m"); */
#ifndef NM_TESTS_FAKE_ENGINE_H
#define NM_TESTS_FAKE_ENGINE_H

#include "server/engine.h"

typedef struct fake_step {      /* one piece; kind is content unless said */
    nm_piece_kind kind;
    int32_t index;
    const char *text;
    int32_t call;
    const char *id, *name;
    const nm_token_out *tokens;
    size_t n_tokens;
    bool wait;                  /* here it waits until it is cancelled */
} fake_step;

typedef struct fake_script {
    nm_err refuse;              /* nm_engine_ask itself fails so, with `error` */
    nm_err early, late;         /* it ends so before `started`, or behind the steps */
    const char *error, *code;
    const char *stop;           /* the stop string that was met */
    const char *template_text;  /* of its model; NULL: it has none */
    const fake_step *steps;
    size_t n_steps;
    nm_finish finish;
    int32_t prompt_tokens, cached_tokens, tokens, reasoning_tokens, context;
    int32_t n_embd;             /* embeddings: vector i is (i + 1, 0.5, 0.25, ...) */
} fake_script;

typedef struct fake_state {
    fake_script script;         /* of all requests */
    const fake_script *scripts; /* or of each in turn: n_scripts */
    size_t n_scripts;
    json_t *models;             /* what nm_engine_models gives; borrowed */
    int asks, cancels;          /* so far */
} fake_state;
extern fake_state fake;

/* Waits for what runs, and forgets all. */
void fake_reset(void);
/* What request number i (from 0) asked: members of nm_ask that were given. Borrowed; NULL if there was none. */
const json_t *fake_asked(size_t i);
/* Waits until nothing runs; false after a minute. */
bool fake_idle(void);
/* Waits until something runs; false after a minute. */
bool fake_busy(void);
/* The vocabulary of its models: 0 <unk>, 1 <s>, 2 </s>, 3 to 258 the bytes, 259 " Hello", 260 " world", 261 "!", 262 "\u20ac". A byte's id is its value + 3. */
const nm_tokenizer *fake_tokenizer(void);

#endif
