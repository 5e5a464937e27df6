/* Opens any bytes as a chat template and renders it. A zero byte ends the source; what follows are the variables as JSON. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char default_vars[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"h\u00e9 <b>\"}, {\"role\": \"assistant\", \"content\": null,"
    " \"tool_calls\": [{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, \"x\"]}}]}], \"s\": \"Hello, World\", \"n\": 7, \"f\": 2.5, \"x\": [3, 1, 2],"
    " \"d\": {\"b\": 1, \"a\": 2}, \"add_generation_prompt\": true}";

static void render(const nm_template *t, const char *vars, size_t n)
{
    nm_template_options options = {.now = 1767323045, .max_steps = 20000, .max_output = 1 << 16};
    char *text;
    size_t length;
    if (nm_template_render(t, vars, n, &options, &text, &length) == NM_OK && strlen(text) > length) abort();
    nm_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    const char *source = (const char *)data, *end = size ? memchr(data, 0, size) : NULL;
    size_t n = end ? (size_t)(end - source) : size;
    const char *vars = end ? end + 1 : default_vars;
    size_t vars_n = end ? size - n - 1 : strlen(default_vars);
    nm_template *t;
    if (nm_template_open(&t, source, n, "fuzz") == NM_OK) render(t, vars, vars_n);
    nm_template_close(&t);
    /* Once more with an allocation failing, which one depends on the input. */
    nm_mem_fail_after(size ? data[size / 2] % 32 : 0);
    if (nm_template_open(&t, source, n, "fuzz") == NM_OK) render(t, vars, vars_n);
    nm_mem_fail_after(-1);
    nm_template_close(&t);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
