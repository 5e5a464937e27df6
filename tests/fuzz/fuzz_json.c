/* Reads any bytes as JSON and walks over what it got. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t walk(const nm_json *j)
{
    size_t n = 1;
    if (j->kind == NM_JSON_STRING && strlen(j->string.bytes) > j->string.length) abort();
    for (size_t i = 0; j->kind == NM_JSON_ARRAY && i < j->array.count; i++) n += walk(&j->array.items[i]);
    for (size_t i = 0; j->kind == NM_JSON_OBJECT && i < j->object.count; i++) {
        if (nm_json_get(j, j->object.keys[i]) != &j->object.values[i]) abort();     /* keys are unique */
        n += walk(&j->object.values[i]);
    }
    return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    nm_json j;
    if (nm_json_parse(&j, (const char *)data, size) == NM_OK && walk(&j) == 0) abort();
    nm_json_free(&j);
    nm_mem_fail_after(size ? data[size / 2] % 16 : 0);
    (void)nm_json_parse(&j, (const char *)data, size);
    nm_mem_fail_after(-1);
    nm_json_free(&j);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
