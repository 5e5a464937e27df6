/* Reads any bytes as a file of packed weights, as they are and with the checksum put right, and then everything that it lets be reached. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "format/packfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile double sink;    /* so that no read is optimised away */

static void use(const nm_packfile *f, const void *bytes, size_t size)
{
    double all = (double)strlen(f->path);
    for (uint64_t i = 0; i < f->head->words; i++) all += (double)f->word[i];
    for (uint32_t i = 0; i < f->head->tensors; i++) {
        const nm_packfile_tensor *t = &f->tensor[i];
        if (t->at > size || t->bytes > size - t->at || t->at % NM_PACKFILE_LINE) abort();
        all += ((const uint8_t *)bytes)[t->at] + ((const uint8_t *)bytes)[t->at + t->bytes - 1];
    }
    sink = all;
    (void)nm_packfile_verify(f, NULL, NULL);
    void *again;
    size_t n;
    if (nm_packfile_make(&again, &n, f) == NM_OK && n != f->head->data_at) abort();
    nm_free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    nm_packfile f;
    uint8_t *copy = aligned_alloc(NM_PACKFILE_LINE, (size + NM_PACKFILE_LINE) / NM_PACKFILE_LINE * NM_PACKFILE_LINE);   /* a map is aligned */
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    if (nm_packfile_read(&f, copy, size) == NM_OK) use(&f, copy, size);
    nm_packfile_head *head = (nm_packfile_head *)copy;
    if (size >= sizeof *head && head->data_at >= sizeof *head && head->data_at <= size) {
        head->checksum = nm_packfile_checksum(copy, (size_t)head->data_at);
        if (nm_packfile_read(&f, copy, size) == NM_OK) use(&f, copy, size);
    }
    free(copy);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
