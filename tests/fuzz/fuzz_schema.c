/* Translates any bytes as a JSON schema. What is translated must be a grammar that can be read, unless it is larger than grammars may be. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_back(const char *gbnf, size_t length)
{
    nm_grammar *grammar;
    bool fits;
    if (nm_grammar_open(&grammar, gbnf, length) != NM_OK) {
        if (!strstr(nm_error_text(), "more than") && !strstr(nm_error_text(), "larger")) abort();
        return;
    }
    if (nm_grammar_matches(grammar, "{", 1, &fits) == NM_OK && fits) abort();     /* no whole document */
    nm_grammar_close(&grammar);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    char *gbnf;
    size_t length;
    if (nm_schema_grammar(&gbnf, &length, (const char *)data, size) == NM_OK) read_back(gbnf, length);
    nm_free(gbnf);
    nm_mem_fail_after(size ? data[size / 2] % 64 : 0);
    (void)nm_schema_grammar(&gbnf, &length, (const char *)data, size);
    nm_mem_fail_after(-1);
    nm_free(gbnf);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
