/* Walking over values, generators included, and sorting. A generator is walked once, as in Python: who takes an item takes it away. */
#include <string.h>

#include "text/template_chars.h"
#include "text/template_value.h"

nm_err nm_iter_next(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    NM_TRY(nm_rt_steps(r, 1));
    NM_TRY(nm_rt_enter(r, 1));
    NM_TRY(it->next(r, it, out));
    nm_rt_leave(r, 1);
    return NM_OK;
}

static nm_err next_none(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    (void)r;
    (void)it;
    *out = (nm_tv){0};
    return NM_OK;
}

static nm_err next_character(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    const nm_tv_string *s = it->source.s;
    if (it->at >= s->n) return next_none(r, it, out);
    size_t from = it->at;
    it->at += nm_utf8_width(s->s[from]);
    NM_TRY(nm_tv_slice_text(r, it->source, from, it->at, out));
    out->flag = 0;      /* the characters of a marked string are plain */
    return NM_OK;
}

static nm_err next_item(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    const nm_tv_list *l = it->source.l;
    if (it->at >= l->n) return next_none(r, it, out);
    *out = l->items[it->at++];
    return NM_OK;
}

static nm_err next_backwards(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    const nm_tv_list *l = it->source.l;
    if (it->at >= l->n) return next_none(r, it, out);
    *out = l->items[l->n - ++it->at];
    return NM_OK;
}

/* dicts (their keys) and views */
static nm_err next_entry(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    const nm_tv_dict *d = it->source.d;
    if (it->at >= d->n) return next_none(r, it, out);
    size_t i = it->at++;
    int view = it->source.kind == NM_TV_VIEW ? it->source.view : 0;
    if (view == 2) return nm_tv_pair(r, d->keys[i], d->values[i], out);
    *out = view ? d->values[i] : d->keys[i];
    return NM_OK;
}

static nm_err next_number(nm_render *r, nm_tv_iter *it, nm_tv *out)
{
    const nm_tv_range *range = it->source.r;
    if (it->at >= range->n) return next_none(r, it, out);
    *out = nm_tv_range_item(range, it->at++);
    return NM_OK;
}

static nm_err next_inner(nm_render *r, nm_tv_iter *it, nm_tv *out) { return nm_iter_next(r, it->inner, out); }

static nm_err (*walker(nm_tv v))(nm_render *, nm_tv_iter *, nm_tv *)
{
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_UNDEFINED: return next_none;
    case NM_TV_STRING: return next_character;
    case NM_TV_LIST: case NM_TV_TUPLE: return next_item;
    case NM_TV_DICT: case NM_TV_VIEW: return next_entry;
    case NM_TV_RANGE: return next_number;
    case NM_TV_ITER: return next_inner;
    default: return NULL;
    }
}

bool nm_tv_iterable(nm_tv v) { return walker(v) != NULL; }

nm_err nm_iter_init(nm_render *r, nm_tv v, nm_tv_iter *it)
{
    *it = (nm_tv_iter){.next = walker(v), .source = v};
    if (!it->next) return nm_rt_fail(r, "'%s' object is not iterable", nm_tv_kind_name(v));
    if (v.kind == NM_TV_ITER) it->inner = v.it;
    return NM_OK;
}

nm_err nm_iter_value(nm_render *r, const char *name, nm_err (*next)(nm_render *, nm_tv_iter *, nm_tv *), nm_tv source, void *state, nm_tv *out)
{
    nm_tv_iter *it;
    NM_RT_NEW(r, it, 1);
    *it = (nm_tv_iter){.next = next, .source = source, .state = state, .name = name};
    *out = (nm_tv){.kind = NM_TV_ITER, .it = it};
    return NM_OK;
}

nm_err nm_iter_over(nm_render *r, const char *name, nm_tv list, nm_tv *out) { return nm_iter_value(r, name, next_item, list, NULL, out); }

nm_err nm_iter_collect(nm_render *r, nm_tv v, nm_tv *out)
{
    nm_tv_iter it;
    nm_lb lb = {NULL};
    NM_TRY(nm_iter_init(r, v, &it));
    for (;;) {
        nm_tv item;
        NM_TRY(nm_iter_next(r, &it, &item));
        if (!nm_tv_given(item)) return nm_lb_done(r, &lb, NM_TV_LIST, out);
        NM_TRY(nm_lb_add(r, &lb, item));
    }
}

nm_err nm_iter_reversed(nm_render *r, nm_tv v, nm_tv *out)
{
    nm_tv list;
    *out = (nm_tv){0};
    if (v.kind == NM_TV_ITER || !nm_tv_iterable(v)) return NM_OK;
    NM_TRY(nm_iter_collect(r, v, &list));
    return nm_iter_value(r, "reversed", next_backwards, list, NULL, out);
}

/* ---- Sorting ---------------------------------------------------------------------------------------------------------------------- */

typedef struct sorter { nm_tv *items, *keys, *items2, *keys2; bool descending; } sorter;

/* Merges [from, middle) and [middle, to) into the second arrays; of equal ones the left comes first, in both directions. */
static nm_err merge(nm_render *r, sorter *s, size_t from, size_t middle, size_t to)
{
    size_t a = from, b = middle;
    for (size_t i = from; i < to; i++) {
        bool right = a == middle;
        if (!right && b < to) {
            int c;
            if (s->descending) NM_TRY(nm_tv_compare(r, s->keys[a], s->keys[b], "<", &c));
            else NM_TRY(nm_tv_compare(r, s->keys[b], s->keys[a], "<", &c));
            right = c == -1;
        }
        size_t pick = right ? b++ : a++;
        s->items2[i] = s->items[pick];
        s->keys2[i] = s->keys[pick];
    }
    return NM_OK;
}

nm_err nm_tv_sort(nm_render *r, nm_tv *items, nm_tv *keys, size_t n, bool descending)
{
    sorter s = {.items = items, .descending = descending};
    if (n < 2) return NM_OK;
    NM_RT_NEW(r, s.keys, n);
    NM_RT_NEW(r, s.keys2, n);
    NM_RT_NEW(r, s.items2, n);
    memcpy(s.keys, keys ? keys : items, n * sizeof *items);
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t from = 0; from < n; from += 2 * width) {
            size_t middle = from + width < n ? from + width : n, to = from + 2 * width < n ? from + 2 * width : n;
            NM_TRY(merge(r, &s, from, middle, to));
        }
        nm_tv *swap = s.items;
        s.items = s.items2;
        s.items2 = swap;
        swap = s.keys;
        s.keys = s.keys2;
        s.keys2 = swap;
    }
    if (s.items != items) memcpy(items, s.items, n * sizeof *items);
    return NM_OK;
}
