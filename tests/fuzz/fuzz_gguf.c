/* Opens any bytes as a GGUF file and uses all that it then offers. */
#include <stdlib.h>

#include "base/mem.h"
#include "format/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile double sink;    /* so that no read is optimised away */

static void read_value(const nm_gguf *g, const nm_gguf_value *v)
{
    if (nm_gguf_find(g, v->key) != v) abort();
    for (uint64_t i = 0; i < v->count; i++) {
        if (v->item == NM_META_STRING) {
            size_t length;
            const char *text = nm_gguf_string(g, v, i, &length);
            if (length) sink = text[0] + text[length - 1];
        } else {
            sink = nm_gguf_number(v, i) + (double)nm_gguf_int(v, i);
        }
    }
}

static void read_typed(const nm_gguf *g, const char *key)
{
    int64_t i;
    float f;
    bool b;
    const char *text;
    size_t length;
    const nm_gguf_value *v;
    sink = nm_gguf_opt_i64(g, key, 0, 1000, &i) + nm_gguf_get_f32(g, key, &f) + nm_gguf_opt_bool(g, key, &b);
    sink = nm_gguf_get_string(g, key, &text, &length) + nm_gguf_opt_array(g, key, NM_META_STRING, &v);
}

static void read_tensor(const nm_gguf *g, const nm_gguf_tensor *t)
{
    float out[256];
    if (nm_gguf_tensor_find(g, t->name) != t) abort();
    if (!t->data || !t->type->to_float) return;
    const uint8_t *last = (const uint8_t *)t->data + t->bytes - t->type->bytes;
    t->type->to_float(t->data, t->type->block, out);
    t->type->to_float(last, t->type->block, out);
    sink = out[0];
}

static void use(const nm_gguf *g)
{
    for (size_t i = 0; i < nm_gguf_value_count(g); i++) {
        read_value(g, nm_gguf_value_at(g, i));
        read_typed(g, nm_gguf_value_at(g, i)->key);
    }
    for (size_t i = 0; i < nm_gguf_tensor_count(g); i++) read_tensor(g, nm_gguf_tensor_at(g, i));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    for (int metadata_only = 0; metadata_only < 2; metadata_only++) {
        nm_gguf *g;
        if (nm_gguf_open_memory(&g, data, size, "fuzz", metadata_only) == NM_OK) use(g);
        nm_gguf_close(&g);
    }
    /* Once more with an allocation failing, which one depends on the input. */
    nm_gguf *g;
    nm_mem_fail_after(size ? data[size / 2] % 16 : 0);
    (void)nm_gguf_open_memory(&g, data, size, "fuzz", false);
    nm_mem_fail_after(-1);
    nm_gguf_close(&g);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
