/* Reading, making and verifying files of packed weights. */
#include "format/packfile.h"

#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"

static const char magic[8] = {'n', 'o', 'm', 'o', 'p', 'a', 'c', 'k'};

/* More than any model has: bounds that keep the sums below from overflowing. */
enum { WORDS_MOST = 1 << 20, TENSORS_MOST = 1 << 20, PATH_MOST = 1 << 16 };

static nm_err bad(const char *what) { return nm_fail(NM_BAD_FILE, "packed weights: %s", what); }

static uint64_t round_up(uint64_t n, uint64_t to) { return (n + to - 1) / to * to; }

static uint64_t table_end(const nm_packfile_head *h)
{
    return sizeof *h + h->words * sizeof(uint64_t) + h->tensors * sizeof(nm_packfile_tensor) + h->path_bytes;
}

uint64_t nm_packfile_checksum(const void *bytes, size_t size)
{
    size_t at = offsetof(nm_packfile_head, checksum), behind = at + sizeof(uint64_t);
    return nm_hash(nm_hash(0, bytes, at), (const uint8_t *)bytes + behind, size - behind);
}

static nm_err check_head(const nm_packfile_head *h, uint64_t size)
{
    if (memcmp(h->magic, magic, sizeof magic) != 0) return bad("not such a file");
    if (h->version != NM_PACKFILE_VERSION) return nm_fail(NM_REFUSED, "packed weights: written by another version of this program");
    if (h->words > WORDS_MOST || h->tensors > TENSORS_MOST || !h->path_bytes || h->path_bytes > PATH_MOST) return bad("a count that cannot be");
    if (h->data_at != round_up(table_end(h), NM_PACKFILE_PAGE)) return bad("the data begins elsewhere than the table ends");
    if (h->file_bytes != size || h->data_at > size) return bad("cut off");
    return NM_OK;
}

static nm_err check_tensors(const nm_packfile *f)
{
    uint64_t from = f->head->data_at, size = f->head->file_bytes;
    for (uint32_t i = 0; i < f->head->tensors; i++) {
        const nm_packfile_tensor *t = &f->tensor[i];
        if (t->at < from || t->at % NM_PACKFILE_LINE || t->at > size || t->bytes > size - t->at) return bad("a tensor outside the file, or in another's place");
        if (!t->unit || !t->bytes || t->bytes % t->unit) return bad("a tensor that is no number of panels");
        from = t->at + t->bytes;
    }
    return NM_OK;
}

nm_err nm_packfile_read(nm_packfile *file, const void *bytes, size_t size)
{
    const nm_packfile_head *h = bytes;
    *file = (nm_packfile){0};
    if (size < sizeof *h) return bad("cut off");
    NM_TRY(check_head(h, size));
    if (h->checksum != nm_packfile_checksum(bytes, (size_t)h->data_at)) return bad("head or table is damaged");
    nm_packfile f = {.head = h, .word = (const uint64_t *)(h + 1)};
    f.tensor = (const nm_packfile_tensor *)(f.word + h->words);
    f.path = (const char *)(f.tensor + h->tensors);
    if (memchr(f.path, 0, (size_t)h->path_bytes) != f.path + h->path_bytes - 1) return bad("the path does not end");
    NM_TRY(check_tensors(&f));
    *file = f;
    return NM_OK;
}

nm_err nm_packfile_make(void **bytes, size_t *size, const nm_packfile *file)
{
    nm_packfile_head h = *file->head;
    *bytes = NULL;
    if (h.words > WORDS_MOST || h.tensors > TENSORS_MOST || h.path_bytes > PATH_MOST) return nm_fail(NM_REFUSED, "more weights than are kept");
    memcpy(h.magic, magic, sizeof magic);
    h.version = NM_PACKFILE_VERSION;
    h.data_at = round_up(table_end(&h), NM_PACKFILE_PAGE);
    uint8_t *out = nm_calloc(1, (size_t)h.data_at);
    if (!out) return nm_fail_memory((size_t)h.data_at);
    uint64_t *word = (uint64_t *)(out + sizeof h);
    nm_packfile_tensor *tensor = (nm_packfile_tensor *)(word + h.words);
    if (h.words) memcpy(word, file->word, (size_t)h.words * sizeof *word);
    h.file_bytes = h.data_at;
    for (uint32_t i = 0; i < h.tensors; i++) {
        tensor[i] = file->tensor[i];
        tensor[i].at = round_up(h.file_bytes, NM_PACKFILE_LINE);
        h.file_bytes = tensor[i].at + tensor[i].bytes;
    }
    memcpy(tensor + h.tensors, file->path, (size_t)h.path_bytes);
    memcpy(out, &h, sizeof h);
    ((nm_packfile_head *)out)->checksum = nm_packfile_checksum(out, (size_t)h.data_at);
    *bytes = out;
    *size = (size_t)h.data_at;
    return NM_OK;
}

uint64_t nm_packfile_sum(uint64_t panel, const void *data, size_t bytes) { return nm_hash_wide(nm_hash_word(0, panel), data, bytes); }

nm_err nm_packfile_verify(const nm_packfile *f, nm_progress_fn progress, void *arg)
{
    enum { TELL_BYTES = 16 << 20 };
    uint64_t done = 0, told = 0;
    for (uint32_t i = 0; i < f->head->tensors; i++) {
        const nm_packfile_tensor *t = &f->tensor[i];
        const uint8_t *data = (const uint8_t *)f->head + t->at;
        uint64_t sum = 0;
        for (uint64_t p = 0; p < t->bytes / t->unit; p++, done += t->unit) {
            sum += nm_packfile_sum(p, data + p * t->unit, (size_t)t->unit);
            if (!progress || done < told) continue;
            if (progress(arg, done, f->head->file_bytes)) return nm_fail(NM_INTERRUPTED, "interrupted");
            told = done + TELL_BYTES;
        }
        if (sum != t->sum) return nm_fail(NM_BAD_FILE, "packed weights: tensor %u at byte %llu is damaged", i + 1, (unsigned long long)t->at);
    }
    return NM_OK;
}
