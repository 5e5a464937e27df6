/* Owns an engine on SmolLM2, for tests, and what is asked of it. Test code: it asserts. Tests include smollm.h, once, behind cmocka. */
#ifndef NM_TESTS_SMOLLM_H
#define NM_TESTS_SMOLLM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "server/engine_impl.h"

#include "asker.h"

static char model_path[512];

static nm_engine *open_engine(nm_engine_options o)
{
    nm_engine *e;
    const char *models[] = {model_path};
    o.models = models;
    o.n_models = 1;
    nm_err err = nm_engine_open(&e, &o);
    if (err != NM_OK) print_error("%s\n", nm_error_text());
    assert_int_equal(err, NM_OK);
    return e;
}

static nm_ask ask_text(const char *text, int32_t tokens)
{
    nm_ask a;
    nm_ask_init(&a);
    a.text = text;
    a.text_length = strlen(text);
    a.max_tokens = tokens;
    a.temperature = 0;
    a.ignore_eos = true;
    return a;
}

static bool lacks_model(void)
{
    const char *folder = getenv("NOMOAT_TEST_MODELS");
    if (folder) snprintf(model_path, sizeof model_path, "%s/smollm2-135m-instruct-q4_1.gguf", folder);
    return !folder || access(model_path, R_OK);
}
#define NEED_MODEL() do { if (lacks_model()) { print_message("needs NOMOAT_TEST_MODELS\n"); skip(); } } while (0)

#endif
