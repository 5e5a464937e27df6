/* Opens any bytes as a safetensors file and reads all that it then offers. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile double sink;    /* so that no read is optimised away */

static void use(const nm_safetensors *f, const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < nm_safetensors_meta_count(f); i++) {
        nm_safe_meta m = nm_safetensors_meta_at(f, i);
        if (nm_safetensors_meta(f, m.key) != m.value) abort();
        sink = (double)strlen(m.value);
    }
    for (size_t i = 0; i < nm_safetensors_count(f); i++) {
        const nm_safe_tensor *t = nm_safetensors_at(f, i);
        const uint8_t *from = t->data;
        if (from < data || t->bytes > (size_t)(data + size - from)) abort();
        float value;
        if (!t->bytes) continue;
        t->type->to_float(from, 1, &value);
        t->type->to_float(from + t->bytes - (size_t)t->type->bytes, 1, &value);
        sink = (double)value;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    nm_safetensors *f;
    if (nm_safetensors_open_memory(&f, data, size, "fuzz") == NM_OK) use(f, data, size);
    nm_safetensors_close(&f);
    nm_mem_fail_after(size ? data[size / 2] % 16 : 0);
    (void)nm_safetensors_open_memory(&f, data, size, "fuzz");
    nm_mem_fail_after(-1);
    nm_safetensors_close(&f);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
