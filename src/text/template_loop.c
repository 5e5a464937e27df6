/* The variable `loop`. Refuses to know more of the items than was asked for: it looks one ahead, or collects them all for .length. */
#include <string.h>

#include "text/template.h"

nm_err nm_loop_init(nm_render *r, nm_loop *loop, nm_tv iterable)
{
    memset(loop, 0, sizeof *loop);
    loop->iterable = iterable;
    loop->index0 = -1;
    loop->length = -1;
    return nm_iter_init(r, iterable, &loop->iter);
}

nm_err nm_loop_next(nm_render *r, nm_loop *loop, nm_tv *out)
{
    if (nm_tv_given(loop->after)) *out = loop->after;
    else NM_TRY(nm_iter_next(r, &loop->iter, out));
    loop->after = (nm_tv){0};
    if (!nm_tv_given(*out)) return NM_OK;
    loop->index0++;
    loop->before = loop->current;
    loop->current = *out;
    return NM_OK;
}

static nm_err peek(nm_render *r, nm_loop *loop)
{
    return nm_tv_given(loop->after) ? NM_OK : nm_iter_next(r, &loop->iter, &loop->after);
}

nm_err nm_loop_length(nm_render *r, nm_loop *loop, int64_t *out)
{
    nm_tv rest, walk;
    if (loop->length < 0 && loop->iterable.kind != NM_TV_ITER) NM_TRY(nm_tv_length(r, loop->iterable, &loop->length));
    if (loop->length < 0) {
        nm_lb lb = {NULL};
        for (;;) {
            NM_TRY(nm_iter_next(r, &loop->iter, &walk));
            if (!nm_tv_given(walk)) break;
            NM_TRY(nm_lb_add(r, &lb, walk));
        }
        NM_TRY(nm_lb_done(r, &lb, NM_TV_LIST, &rest));
        NM_TRY(nm_iter_init(r, rest, &loop->iter));
        loop->length = (int64_t)rest.l->n + loop->index0 + 1 + nm_tv_given(loop->after);
    }
    *out = loop->length;
    return NM_OK;
}

static bool is(const char *name, size_t n, const char *word) { return n == strlen(word) && !memcmp(name, word, n); }

static nm_err attr_of_length(nm_render *r, nm_loop *loop, int64_t minus, nm_tv *out)
{
    int64_t length;
    NM_TRY(nm_loop_length(r, loop, &length));
    *out = nm_tv_int(length - minus);
    return NM_OK;
}

static nm_err neighbour(nm_render *r, nm_loop *loop, bool next, nm_tv *out)
{
    if (next) NM_TRY(peek(r, loop));
    *out = next ? loop->after : loop->index0 ? loop->before : (nm_tv){0};
    if (nm_tv_given(*out)) return NM_OK;
    return nm_tv_undefined_of(r, next ? "there is no next item" : "there is no previous item", NULL, 0, out);
}

nm_err nm_loop_attr(nm_render *r, nm_loop *loop, const char *name, size_t n, nm_tv *out)
{
    *out = (nm_tv){0};
    if (is(name, n, "index")) *out = nm_tv_int(loop->index0 + 1);
    else if (is(name, n, "index0")) *out = nm_tv_int(loop->index0);
    else if (is(name, n, "first")) *out = nm_tv_bool(loop->index0 == 0);
    else if (is(name, n, "depth")) *out = nm_tv_int(loop->depth0 + 1);
    else if (is(name, n, "depth0")) *out = nm_tv_int(loop->depth0);
    else if (is(name, n, "length")) return attr_of_length(r, loop, 0, out);
    else if (is(name, n, "revindex")) return attr_of_length(r, loop, loop->index0, out);
    else if (is(name, n, "revindex0")) return attr_of_length(r, loop, loop->index0 + 1, out);
    else if (is(name, n, "previtem") || is(name, n, "nextitem")) return neighbour(r, loop, name[0] == 'n', out);
    else if (is(name, n, "last")) {
        NM_TRY(peek(r, loop));
        *out = nm_tv_bool(!nm_tv_given(loop->after));
    }
    return NM_OK;
}

static nm_err loop_cycle(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out)
{
    if (args->n_kw) return nm_rt_fail(r, "cycle() takes no keyword arguments");
    if (!args->n) return nm_rt_fail(r, "no items for cycling given");
    *out = args->pos[(size_t)v.loop->index0 % args->n];
    return NM_OK;
}

static nm_err loop_changed(nm_render *r, nm_tv v, const nm_args *args, nm_tv *out)
{
    nm_tv now;
    bool equal = false;
    if (args->n_kw) return nm_rt_fail(r, "changed() takes no keyword arguments");
    NM_TRY(nm_tv_list_of(r, NM_TV_TUPLE, args->pos, args->n, &now));
    if (nm_tv_given(v.loop->changed)) NM_TRY(nm_tv_equal(r, v.loop->changed, now, &equal));
    v.loop->changed = now;
    *out = nm_tv_bool(!equal);
    return NM_OK;
}

nm_err nm_loop_call(nm_render *r, nm_loop *loop, const nm_args *args, nm_tv *out)
{
    if (!loop->node->loop->recursive) return nm_rt_fail(r, "the loop must have the 'recursive' marker to be called recursively");
    if (args->n != 1 || args->n_kw) return nm_rt_fail(r, "loop() takes one argument, the items");
    return nm_loop_recurse(r, loop->node, loop->outer, args->pos[0], loop->depth0 + 1, out);
}

const nm_callable *nm_loop_method(const char *name, size_t n)
{
    static const nm_callable table[] = {{"changed", "*", NULL, loop_changed}, {"cycle", "*", NULL, loop_cycle}};
    return nm_callable_find(table, sizeof table / sizeof *table, name, n);
}
