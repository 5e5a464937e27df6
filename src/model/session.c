/* Sessions: one timeline of tokens and the pages of keys and values that belong to it. Pages are shared by reference count; a full
 * page is never written again, and the last one is copied before a write where it has other owners. So forking, truncating and saving are one mechanism (law 10). */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/model.h"

/* Pages kept below a sliding window, so that a chat that takes back its last turn need not compute everything again. */
enum { WINDOW_SLACK = 4, PASS_PAGES = 512 / NM_PAGE };   /* PASS_PAGES: of a pass of the default 512 rows, beside the window */

/* ---- Pages ------------------------------------------------------------------------------------------------------------------------ */

/* The reference count sits in a line of its own before the data. */
enum { PAGE_HEAD = 64 };

static atomic_int *owners_of(uint8_t *page) { return (atomic_int *)(void *)(page - PAGE_HEAD); }

nm_err nm_page_new(uint8_t **page, size_t bytes)
{
    uint8_t *block = nm_alloc_aligned(PAGE_HEAD + bytes);
    if (!block) return nm_fail_memory(bytes);
    *page = block + PAGE_HEAD;
    atomic_init(owners_of(*page), 1);
    return NM_OK;
}

static uint8_t *page_share(uint8_t *page)
{
    if (page) atomic_fetch_add(owners_of(page), 1);
    return page;
}

static void page_release(uint8_t **page, size_t bytes)
{
    if (*page && atomic_fetch_sub(owners_of(*page), 1) == 1) nm_free_aligned(*page - PAGE_HEAD, PAGE_HEAD + bytes);
    *page = NULL;
}

/* Makes the page the session's own: new where there is none, a copy where it is shared. */
static nm_err page_own(uint8_t **page, size_t bytes)
{
    uint8_t *copy = NULL;
    if (*page && atomic_load(owners_of(*page)) == 1) return NM_OK;
    NM_TRY(nm_page_new(&copy, bytes));
    if (*page) memcpy(copy, *page, bytes);
    page_release(page, bytes);
    *page = copy;
    return NM_OK;
}

size_t nm_page_bytes(const nm_session *s, int32_t group) { return s->layout.group[group].page_bytes; }

/* ---- Opening and closing ------------------------------------------------------------------------------------------------------------ */

/* Rows of the table that positions are looked up in, where the model has one. */
static int64_t learned_positions(const nm_model *m)
{
    const nm_program *p = &m->program;
    int64_t most = INT64_MAX;
    for (size_t i = 0; i < p->steps; i++) {
        if (p->step[i].op != NM_OP_EMBED || !p->step[i].args.embed.positions) continue;
        int64_t rows = m->weight[nm_weight_of(p->operand, &p->step[i], 0)].n;
        if (rows < most) most = rows;
    }
    return most;
}

static nm_err complete(const nm_model *model, const nm_session_options *given, nm_session_options *out)
{
    *out = given ? *given : (nm_session_options){0};
    if (!model->info.has_weights) return nm_fail(NM_USAGE, "%s: opened for its metadata only", model->name);
    if (out->context < 0) return nm_fail(NM_USAGE, "a context of %d tokens makes no sense", (int)out->context);
    if (out->kv > NM_KV_Q8_0 || out->compute > NM_COMPUTE_F32) return nm_fail(NM_USAGE, "unknown type of cache or arithmetic");
    if (out->stack && out->stack->owner != model) return nm_fail(NM_USAGE, "the stack of adapters belongs to another model than the session");
    if (out->context == 0) out->context = (int32_t)model->config.n_context;
    int64_t most = learned_positions(model);
    if (out->context > most) return nm_fail(NM_USAGE, "%s has learned %lld positions: a context of %d does not fit", model->name, (long long)most, (int)out->context);
    return NM_OK;
}

uint64_t nm_session_bytes(const nm_model *model, const nm_session_options *options)
{
    nm_session_options o;
    nm_kv_layout layout;
    uint64_t total = 0;
    if (complete(model, options, &o) != NM_OK || nm_program_kv_layout(&model->program, o.kv, &layout) != NM_OK) return 0;
    uint64_t pages = ((uint64_t)o.context + NM_PAGE - 1) / NM_PAGE;
    for (int32_t g = 0; g < layout.groups; g++) {
        uint64_t window = (uint64_t)layout.group[g].window, most = window ? (window + NM_PAGE - 1) / NM_PAGE + WINDOW_SLACK + PASS_PAGES + 2 : pages;
        total += (most < pages ? most : pages) * (layout.group[g].page_bytes + PAGE_HEAD);
    }
    nm_free(layout.slot);
    return total + (uint64_t)o.context * sizeof(int32_t);
}

nm_err nm_session_open(nm_session **out, const nm_model *model, const nm_session_options *options)
{
    nm_session_options o;
    *out = NULL;
    NM_TRY(complete(model, options, &o));
    nm_session *s = nm_calloc(1, sizeof *s);
    if (!s) return nm_fail_memory(sizeof *s);
    *s = (nm_session){.model = model, .options = o};
    nm_err err = nm_program_kv_layout(&model->program, o.kv, &s->layout);
    if (err != NM_OK) nm_session_close(&s);
    *out = s;
    return err;
}

void nm_session_close(nm_session **session)
{
    nm_session *s = *session;
    *session = NULL;
    if (!s) return;
    for (int32_t g = 0; g < s->layout.groups; g++) {
        for (size_t i = 0; i < s->list[g].count; i++) page_release(&s->list[g].page[i], nm_page_bytes(s, g));
        nm_free(s->list[g].page);
    }
    nm_free(s->layout.slot);
    nm_free(s->token);
    nm_free(s);
}

int32_t nm_session_length(const nm_session *s) { return s->length; }
int32_t nm_session_context(const nm_session *s) { return s->options.context; }
const int32_t *nm_session_tokens(const nm_session *s) { return s->token; }

/* ---- Timelines ----------------------------------------------------------------------------------------------------------------------- */

nm_err nm_session_reserve_list(nm_session *s, int32_t group, size_t count)
{
    nm_page_list *list = &s->list[group];
    NM_TRY(NM_GROW(list->page, list->capacity, count));
    for (; list->count < count; list->count++) list->page[list->count] = NULL;
    return NM_OK;
}

static nm_err copy_timeline(nm_session *s, const nm_session *source)
{
    NM_TRY(NM_GROW(s->token, s->token_capacity, (size_t)source->length));
    if (source->length) memcpy(s->token, source->token, (size_t)source->length * sizeof *s->token);
    s->length = source->length;
    for (int32_t g = 0; g < s->layout.groups; g++) {
        const nm_page_list *from = &source->list[g];
        NM_TRY(nm_session_reserve_list(s, g, from->count));
        s->list[g].dropped = from->dropped;
        for (size_t i = 0; i < from->count; i++) s->list[g].page[i] = page_share(from->page[i]);
    }
    return NM_OK;
}

nm_err nm_session_fork(nm_session **out, nm_session *source)
{
    NM_TRY(nm_session_open(out, source->model, &source->options));
    nm_err err = copy_timeline(*out, source);
    if (err != NM_OK) nm_session_close(out);
    return err;
}

/* A query at position n sees keys from n - window + 1 on: their pages must still be there. */
bool nm_session_reachable(const nm_session *s, int32_t n)
{
    for (int32_t g = 0; g < s->layout.groups; g++) {
        int64_t window = s->layout.group[g].window, from = window && n >= window ? n - window + 1 : 0;
        if (n > 0 && from / NM_PAGE < s->list[g].dropped) return false;
    }
    return true;
}

int32_t nm_session_reach(const nm_session *s, int32_t n)
{
    if (n >= s->length) return s->length;
    return n > 0 && nm_session_reachable(s, n) ? n : 0;
}

int32_t nm_session_truncate(nm_session *s, int32_t n)
{
    n = nm_session_reach(s, n);
    if (n == s->length) return n;
    s->length = n;
    for (int32_t g = 0; g < s->layout.groups; g++) {
        size_t keep = ((size_t)n + NM_PAGE - 1) / NM_PAGE;
        for (size_t i = keep; i < s->list[g].count; i++) page_release(&s->list[g].page[i], nm_page_bytes(s, g));
        if (n == 0) s->list[g].dropped = 0;
    }
    return n;
}

nm_err nm_session_reserve(nm_session *s, int32_t count)
{
    size_t tokens = (size_t)s->length + (size_t)count, from = (size_t)s->length / NM_PAGE, to = (tokens + NM_PAGE - 1) / NM_PAGE;
    NM_TRY(NM_GROW(s->token, s->token_capacity, tokens));
    for (int32_t g = 0; g < s->layout.groups; g++) {
        NM_TRY(nm_session_reserve_list(s, g, to));
        for (size_t i = from; i < to; i++) NM_TRY(page_own(&s->list[g].page[i], nm_page_bytes(s, g)));
    }
    return NM_OK;
}

static void drop_below_window(nm_session *s, int32_t g)
{
    nm_page_list *list = &s->list[g];
    int64_t window = s->layout.group[g].window;
    if (!window || s->length < window) return;
    int64_t needed = (s->length - window + 1) / NM_PAGE - WINDOW_SLACK;
    for (; list->dropped < needed; list->dropped++) page_release(&list->page[list->dropped], nm_page_bytes(s, g));
}

void nm_session_commit(nm_session *s, const int32_t *tokens, int32_t count)
{
    memcpy(s->token + s->length, tokens, (size_t)count * sizeof *tokens);
    s->length += count;
    for (int32_t g = 0; g < s->layout.groups; g++) drop_below_window(s, g);
}
