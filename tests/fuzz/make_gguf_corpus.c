/* Writes the seeds of fuzz_gguf into a folder: small well-formed files that between them hold every kind of record.
 * Build: cc -Iinclude -Isrc tests/fuzz/make_gguf_corpus.c -lnomoat; run: make_gguf_corpus tests/fuzz/corpus/gguf
 * (nm_type_of is not exported from the shared library: link the static one). */
#include <stdio.h>

#include "quant/quant.h"

#include "../gguf_writer.c"

static const uint8_t zeros[2048];

static void save(gguf_writer *w, const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    gw_save(w, path);
}

static void scalars(gguf_writer *w)
{
    gw_u8(w, "u8", 1);
    gw_i8(w, "i8", -1);
    gw_u16(w, "u16", 1);
    gw_i16(w, "i16", -1);
    gw_u32(w, "u32", 1);
    gw_i32(w, "i32", -1);
    gw_u64(w, "u64", 1);
    gw_i64(w, "i64", -1);
    gw_f32(w, "f32", 1);
    gw_f64(w, "f64", -1);
    gw_bool(w, "bool", true);
    gw_string(w, "string", "text");
}

static void arrays(gguf_writer *w)
{
    for (int item = NM_META_U8; item <= NM_META_F64; item++) {
        char key[2] = {(char)('a' + item), 0};
        if (item != NM_META_STRING && item != NM_META_ARRAY) gw_array(w, key, (nm_meta_type)item, zeros, 2);
    }
    gw_strings(w, "strings", (const char *const[]){"one", "", "three"}, 3);
}

int main(int argc, char **argv)
{
    gguf_writer w = {0};
    if (argc != 2) return 2;
    save(&w, argv[1], "empty");
    scalars(&w);
    save(&w, argv[1], "scalars");
    w.version = 2;
    arrays(&w);
    save(&w, argv[1], "arrays");
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        gw_tensor(&w, "t", (int)type->id, 1, (int64_t[]){type->block}, zeros, (size_t)type->bytes);
        save(&w, argv[1], type->name);
    }
    w.alignment = 8;
    gw_string(&w, "general.architecture", "llama");
    for (int rank = 1; rank <= 4; rank++) gw_tensor(&w, (char[]){(char)('0' + rank), 0}, NM_F32, rank, (int64_t[]){2, 2, 2, 2}, zeros, (size_t)4 << rank);
    save(&w, argv[1], "ranks");
    gw_split(&w, 0, 3, 1);
    gw_tensor(&w, "t", NM_F32, 1, (int64_t[]){1}, zeros, 4);
    save(&w, argv[1], "split");
    return 0;
}
