/* Writes the seeds of fuzz_packfile into a folder: packs of no weight, of one and of three.
 * Build: cc -Iinclude -Isrc tests/fuzz/make_packfile_corpus.c -lnomoat; run: make_packfile_corpus tests/fuzz/corpus/packfile
 * (the functions are not exported from the shared library: link the static one). */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "format/packfile.h"

static void save(const char *folder, uint32_t tensors)
{
    static const uint8_t data[3][128] = {{1, 2, 3}, {4, 5}, {6}};
    static const uint64_t words[7] = {1, 2, 3, 4, 5, 6, 7};
    static const char source[] = "/models/tiny.gguf";
    nm_packfile_tensor t[3];
    nm_packfile_head h = {.tensors = tensors, .words = 7, .path_bytes = sizeof source, .layout = 8, .source_hash = 9};
    for (uint32_t i = 0; i < tensors; i++)
        t[i] = (nm_packfile_tensor){.name = i, .type = 2, .n = 32, .k = 32, .bytes = 128, .unit = 64,
            .sum = nm_packfile_sum(0, data[i], 64) + nm_packfile_sum(1, data[i] + 64, 64)};
    char path[1024];
    void *head;
    size_t size;
    snprintf(path, sizeof path, "%s/%u", folder, tensors);
    FILE *f = fopen(path, "wb");
    if (!f || nm_packfile_make(&head, &size, &(nm_packfile){&h, words, t, source}) != NM_OK) return;
    fwrite(head, 1, size, f);
    fwrite(data, 128, tensors, f);
    fclose(f);
    nm_free(head);
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    for (uint32_t n = 0; n <= 3; n += n ? 2 : 1) save(argv[1], n);
    return 0;
}
