/* Kept prefixes: sessions of answers that have ended, found again by what a new prompt has in common with them under the same stack (DESIGN's law 10: tokens, stack,
 * arithmetic and type of cache; the latter two are one for an engine, and a variant is a model with its stack). Their pages are shared with whoever goes on from them.
 * Files are shelf.c's. */
#include <string.h>

#include "os/clock.h"
#include "server/engine_impl.h"

static int32_t alike(const nm_session *s, const int32_t *ids, size_t n)
{
    const int32_t *have = nm_session_tokens(s);
    size_t held = (size_t)nm_session_length(s), same = 0;
    while (same < held && same < n && have[same] == ids[same]) same++;
    return (int32_t)same;
}

int32_t nm_kept_common(const nm_session *s, const int32_t *ids, size_t n) { return nm_session_reach(s, alike(s, ids, n)); }

/* Pages that several share are counted for each. */
uint64_t nm_kept_bytes(const nm_engine *e)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < e->n_kept; i++) bytes += e->kept[i].bytes;
    return bytes;
}

/* What is known of some tokens: the session that most of them can be taken over from, how many, and how many some session begins with, whether or not it can be gone on from. */
typedef struct known { nm_session *from; int32_t same, alike; } known;

/* True: this session is the best so far. */
static bool compare(known *k, nm_session *s, const int32_t *ids, size_t n)
{
    int32_t both = alike(s, ids, n), same = nm_session_reach(s, both);
    if (both > k->alike) k->alike = both;
    if (same <= k->same) return false;
    k->same = same;
    k->from = s;
    return true;
}

/* Kept or at work, under the lane's stack. */
static known best(nm_engine *e, const nm_lane *l, size_t n)
{
    known k = {0};
    for (size_t i = 0; i < e->n_kept; i++)
        if (e->kept[i].variant == l->job->variant && compare(&k, e->kept[i].session, l->ids, n)) e->kept[i].last_used = nm_clock_seconds();
    for (size_t r = 0; r < e->n_running; r++) {
        const nm_job *other = e->running[r];
        if (other->variant != l->job->variant || other->ask.no_cache) continue;
        for (int32_t i = 0; other->lane && i < other->n; i++)
            if (&other->lane[i] != l && other->lane[i].session) compare(&k, other->lane[i].session, l->ids, n);
    }
    return k;
}

/* What the clerk has loaded becomes one of them. */
static void take_shelved(nm_engine *e, nm_job *j)
{
    if (!j->shelved) return;
    pthread_mutex_lock(&e->lock);
    nm_kept_put(e, j->variant, j->shelved);
    pthread_mutex_unlock(&e->lock);
    j->shelved = NULL;
}

/* Where more is alike than can be taken over, a window has dropped what it would take: that much is computed once more, and then kept. */
nm_err nm_kept_session(nm_engine *e, nm_lane *l, nm_session **out, int32_t *count)
{
    nm_job *j = l->job;
    known k = {0};
    take_shelved(e, j);
    *count = 0;
    if (!j->ask.no_cache && !j->ask.echo_logprobs) k = best(e, l, l->n_ids - 1);       /* the last token's logits are needed */
    if (!j->answering && k.alike >= k.same + NM_WORTH_KNOWING) j->fork_at = (size_t)k.alike;
    nm_session_options so = {.context = j->variant->base->context, .kv = e->options.kv, .compute = e->options.compute, .stack = j->variant->stack};
    if (!k.from) return nm_session_open(out, j->variant->base->model, &so);
    NM_TRY(nm_session_fork(out, k.from));
    *count = nm_session_truncate(*out, k.same);
    return NM_OK;
}

static void drop(nm_engine *e, size_t i)
{
    nm_session_close(&e->kept[i].session);
    e->kept[i].variant->users--;
    e->kept[i] = e->kept[--e->n_kept];
}

/* Into a file, if there is one for it. */
static void put_away(nm_engine *e, size_t i)
{
    if (nm_shelf_put(e, &e->kept[i])) e->kept[i] = e->kept[--e->n_kept];
    else drop(e, i);
}

void nm_kept_forget(nm_engine *e)
{
    while (e->n_kept) drop(e, e->n_kept - 1);
}

void nm_kept_drop(nm_engine *e, const nm_variant *variant)
{
    for (size_t i = 0; i < e->n_kept;)
        if (e->kept[i].variant == variant) drop(e, i);
        else i++;
}

void nm_kept_trim(nm_engine *e, uint64_t bytes, const nm_base *base)
{
    for (size_t i = 0; base && i < e->n_kept;)
        if (e->kept[i].variant->base == base) put_away(e, i);
        else i++;
    uint64_t have = base ? 0 : nm_kept_bytes(e);
    while (have > bytes && e->n_kept) {
        size_t oldest = 0;
        for (size_t i = 1; i < e->n_kept; i++)
            if (e->kept[i].last_used < e->kept[oldest].last_used) oldest = i;
        have -= e->kept[oldest].bytes;
        if (e->want_room) drop(e, oldest);      /* the clerk waits for what is being saved */
        else put_away(e, oldest);
    }
}

/* A session that the new one begins with says nothing more; but where the new one's window has dropped pages, only the shorter one can be gone on from. */
static void drop_fronts(nm_engine *e, const nm_variant *variant, const nm_session *session)
{
    const int32_t *ids = nm_session_tokens(session);
    size_t n = (size_t)nm_session_length(session);
    for (size_t i = 0; i < e->n_kept;) {
        int32_t held = nm_session_length(e->kept[i].session);
        if (e->kept[i].variant == variant && nm_kept_common(e->kept[i].session, ids, n) == held && nm_session_reach(session, held) == held) drop(e, i);
        else i++;
    }
}

void nm_kept_put(nm_engine *e, nm_variant *variant, nm_session *session)
{
    uint64_t bytes = nm_session_need(e, variant->base, (size_t)nm_session_length(session));
    if (!nm_session_length(session) || bytes > e->kept_most) {
        nm_session_close(&session);
        return;
    }
    drop_fronts(e, variant, session);
    nm_kept_trim(e, e->kept_most - bytes, NULL);
    if (NM_GROW(e->kept, e->kept_capacity, e->n_kept + 1) != NM_OK) {
        nm_session_close(&session);
        return;
    }
    variant->users++;
    e->kept[e->n_kept++] = (nm_kept){variant, session, bytes, nm_clock_seconds()};
}
