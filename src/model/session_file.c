/* Sessions in files: everything that the next token depends on, for this machine's byte order. A header that says what it belongs
 * to, the tokens, the pages of each group, and a checksum. Written whole or not at all. */
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "model/model.h"
#include "os/file.h"
#include "os/map.h"

static const char MAGIC[8] = {'N', 'M', 'S', 'E', 'S', 'S', '2', '\n'};

typedef struct header {
    char magic[8];
    uint32_t arithmetic, kv, compute;
    int32_t context, length, groups;
    uint64_t fingerprint, stack;        /* stack: its identity; 0 = the base alone */
    struct { uint64_t page_bytes; int64_t dropped, end; } group[NM_MAX_GROUPS];     /* pages [dropped, end) follow */
} header;

static int64_t pages_of(int32_t length) { return ((int64_t)length + NM_PAGE - 1) / NM_PAGE; }

static uint64_t stack_identity(const nm_stack *stack) { return stack ? stack->identity : 0; }

static nm_err make_header(const nm_session *s, header *out)
{
    header h;
    memset(&h, 0, sizeof h);        /* padding is written too */
    memcpy(h.magic, MAGIC, sizeof MAGIC);
    h.arithmetic = NM_ARITHMETIC;
    h.kv = s->options.kv;
    h.compute = s->options.compute;
    h.context = s->options.context;
    h.length = s->length;
    h.groups = s->layout.groups;
    h.stack = stack_identity(s->options.stack);
    NM_TRY(nm_model_fingerprint(s->model, &h.fingerprint));
    for (int32_t g = 0; g < h.groups; g++) {
        h.group[g].page_bytes = nm_page_bytes(s, g);
        h.group[g].dropped = s->list[g].dropped;
        h.group[g].end = pages_of(s->length);
    }
    memcpy(out, &h, sizeof h);
    return NM_OK;
}

/* ---- Saving ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct writer { nm_new_file file; uint64_t hash; } writer;

static nm_err put(writer *w, const void *data, size_t bytes)
{
    w->hash = nm_hash(w->hash, data, bytes);
    return nm_new_file_write(&w->file, data, bytes);
}

static nm_err put_all(writer *w, const nm_session *s)
{
    header h;
    NM_TRY(make_header(s, &h));
    NM_TRY(put(w, &h, sizeof h));
    NM_TRY(put(w, s->token, (size_t)s->length * sizeof *s->token));
    for (int32_t g = 0; g < h.groups; g++)
        for (int64_t i = h.group[g].dropped; i < h.group[g].end; i++) NM_TRY(put(w, s->list[g].page[i], nm_page_bytes(s, g)));
    return nm_new_file_write(&w->file, &w->hash, sizeof w->hash);
}

nm_err nm_session_save(const nm_session *s, const char *path)
{
    writer w = {0};
    NM_TRY(nm_new_file_open(&w.file, path));
    nm_err err = put_all(&w, s);
    if (err == NM_OK) return nm_new_file_commit(&w.file);
    nm_new_file_abandon(&w.file);
    return err;
}

/* ---- Loading --------------------------------------------------------------------------------------------------------------------------- */

typedef struct reader { const uint8_t *at, *end; uint64_t hash; const char *path; } reader;

static nm_err take(reader *r, void *out, size_t bytes)
{
    if (bytes > (size_t)(r->end - r->at)) return nm_fail(NM_BAD_FILE, "%s: the saved session is cut short", r->path);
    if (bytes) memcpy(out, r->at, bytes);
    r->hash = nm_hash(r->hash, out, bytes);
    r->at += bytes;
    return NM_OK;
}

static nm_err check_belongs(const header *h, const nm_model *model, const nm_stack *stack, const char *path)
{
    uint64_t fingerprint;
    if (memcmp(h->magic, MAGIC, sizeof MAGIC)) return nm_fail(NM_BAD_FILE, "%s: not a saved session", path);
    if (h->arithmetic != NM_ARITHMETIC) return nm_fail(NM_REFUSED, "%s: saved by a version of nomoat with another arithmetic (%u, this is %d)", path, h->arithmetic, NM_ARITHMETIC);
    NM_TRY(nm_model_fingerprint(model, &fingerprint));
    if (h->fingerprint != fingerprint) return nm_fail(NM_REFUSED, "%s: saved with other weights than %s", path, model->name);
    if (h->stack != stack_identity(stack))
        return nm_fail(NM_REFUSED, "%s: saved with %s: open the same adapters, in the same order, with the same scales", path,
                       h->stack ? "another stack of adapters" : "the base alone, without adapters");
    if (h->kv > NM_KV_Q8_0 || h->compute > NM_COMPUTE_F32 || h->context < 1 || h->length < 0 || h->length > h->context)
        return nm_fail(NM_BAD_FILE, "%s: the header of the saved session is damaged", path);
    return NM_OK;
}

static nm_err check_groups(const header *h, const nm_session *s, const char *path)
{
    bool same = h->groups == s->layout.groups;
    for (int32_t g = 0; same && g < h->groups; g++)
        same = h->group[g].page_bytes == nm_page_bytes(s, g) && h->group[g].end == pages_of(h->length) && h->group[g].dropped >= 0
            && h->group[g].dropped <= h->group[g].end && (h->group[g].dropped == 0 || s->layout.group[g].window);
    return same ? NM_OK : nm_fail(NM_BAD_FILE, "%s: the pages of the saved session do not fit the model", path);
}

static nm_err take_tokens(reader *r, nm_session *s, int32_t length)
{
    if ((size_t)(r->end - r->at) / sizeof *s->token < (size_t)length) return nm_fail(NM_BAD_FILE, "%s: the saved session is cut short", r->path);
    NM_TRY(NM_GROW(s->token, s->token_capacity, (size_t)length));
    NM_TRY(take(r, s->token, (size_t)length * sizeof *s->token));
    for (int32_t i = 0; i < length; i++)
        if (s->token[i] < 0 || s->token[i] >= s->model->config.n_vocab) return nm_fail(NM_BAD_FILE, "%s: token %d is outside the vocabulary", r->path, (int)i);
    return NM_OK;
}

static nm_err take_pages(reader *r, nm_session *s, const header *h)
{
    for (int32_t g = 0; g < h->groups; g++) {
        uint64_t pages = (uint64_t)(h->group[g].end - h->group[g].dropped);
        if ((uint64_t)(r->end - r->at) / nm_page_bytes(s, g) < pages) return nm_fail(NM_BAD_FILE, "%s: the saved session is cut short", r->path);
        s->list[g].dropped = h->group[g].dropped;
        NM_TRY(nm_session_reserve_list(s, g, (size_t)h->group[g].end));
        for (int64_t i = h->group[g].dropped; i < h->group[g].end; i++) {
            NM_TRY(nm_page_new(&s->list[g].page[i], nm_page_bytes(s, g)));
            NM_TRY(take(r, s->list[g].page[i], nm_page_bytes(s, g)));
        }
    }
    return NM_OK;
}

static nm_err check_sum(const reader *r)
{
    uint64_t sum;
    if ((size_t)(r->end - r->at) != sizeof sum) return nm_fail(NM_BAD_FILE, "%s: the saved session is cut short or has bytes behind its end", r->path);
    memcpy(&sum, r->at, sizeof sum);
    return sum == r->hash ? NM_OK : nm_fail(NM_BAD_FILE, "%s: the checksum of the saved session does not match", r->path);
}

static nm_err load(nm_session **out, const nm_model *model, const nm_stack *stack, reader *r)
{
    header h;
    NM_TRY(take(r, &h, sizeof h));
    NM_TRY(check_belongs(&h, model, stack, r->path));
    nm_session_options options = {.context = h.context, .kv = (nm_kv_type)h.kv, .compute = (nm_compute)h.compute, .stack = stack};
    NM_TRY(nm_session_open(out, model, &options));
    NM_TRY(check_groups(&h, *out, r->path));
    NM_TRY(take_tokens(r, *out, h.length));
    NM_TRY(take_pages(r, *out, &h));
    NM_TRY(check_sum(r));
    if (!nm_session_reachable(*out, h.length)) return nm_fail(NM_BAD_FILE, "%s: the saved session lacks pages that its window needs", r->path);
    (*out)->length = h.length;
    return NM_OK;
}

nm_err nm_session_load(nm_session **out, const nm_model *model, const nm_stack *stack, const char *path)
{
    nm_map map;
    *out = NULL;
    NM_TRY(nm_map_open(&map, path));
    reader r = {.at = map.data, .end = (const uint8_t *)map.data + map.size, .path = path};
    nm_err err = load(out, model, stack, &r);
    if (err != NM_OK) nm_session_close(out);
    nm_map_close(&map);
    return err;
}
