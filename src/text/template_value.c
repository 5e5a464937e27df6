/* Strings, lists and dicts in a rendering's arena; truth, equality, order and membership as Python defines them. */
#include "text/template_value.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/cancel.h"
#include "base/mem.h"
#include "text/template.h"
#include "text/template_chars.h"

/* ---- Errors, bounds, memory ------------------------------------------------------------------------------------------- */

static nm_err rt_message(nm_render *r, nm_err code, const char *format, va_list ap)
{
    char text[900];
    if (r->err != NM_OK) return r->err;
    vsnprintf(text, sizeof text, format, ap);
    return r->err = nm_fail(code, "%s: line %u: %s", r->tmpl->name, r->line, text);
}

nm_err nm_rt_fail(nm_render *r, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    nm_err err = rt_message(r, NM_FAILED, format, ap);
    va_end(ap);
    return err;
}

nm_err nm_rt_raise(nm_render *r, nm_err code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    nm_err err = rt_message(r, code, format, ap);
    va_end(ap);
    return err;
}

enum { LOOK_EVERY = 4096 };      /* steps between two looks for a stop: well below a millisecond */

nm_err nm_rt_steps(nm_render *r, size_t n)
{
    if (r->err != NM_OK) return r->err;
    if (n > r->max_steps - r->steps)
        return nm_rt_fail(r, "the template took more than %llu steps; it may never end", (unsigned long long)r->max_steps);
    r->steps += n;
    if (r->cancel && r->steps >= r->look_at) {
        r->look_at = r->steps + LOOK_EVERY;
        if (nm_cancelled(r->cancel)) return r->err = nm_fail(NM_INTERRUPTED, "interrupted while rendering the template");
    }
    return NM_OK;
}

nm_err nm_rt_enter(nm_render *r, int levels)
{
    if (r->err != NM_OK) return r->err;
    if (levels > r->max_depth - r->depth) return nm_rt_fail(r, "nested deeper than %d; the template recurses without end or builds too deep a value", r->max_depth);
    r->depth += levels;
    return NM_OK;
}

void *nm_rt_alloc(nm_render *r, size_t bytes)
{
    if (r->err != NM_OK) return NULL;
    void *p = nm_arena_alloc(&r->arena, bytes);
    if (p) return p;
    if (r->arena.at_limit) nm_rt_fail(r, "the template's values need more than %zu bytes", r->arena.limit);
    else r->err = nm_fail_memory(bytes);
    return NULL;
}

void *nm_rt_array(nm_render *r, size_t count, size_t size)
{
    size_t bytes;
    if (nm_mul_overflow(count, size, &bytes)) bytes = SIZE_MAX;
    return nm_rt_alloc(r, bytes);
}

/* ---- Shared buffers ------------------------------------------------------------------------------------------------------- */

/* Room for n more bytes behind buffer->used, in a new buffer with the old bytes if need be. */
static nm_tv_buffer *buffer_reserve(nm_render *r, nm_tv_buffer *old, size_t n)
{
    size_t used = old ? old->used : 0, need;
    if (nm_rt_steps(r, n >> 6) != NM_OK) return NULL;
    if (old && n <= old->capacity - used) return old;
    if (nm_add_overflow(used, n, &need) || need > r->arena.limit) need = r->arena.limit;
    size_t capacity = need < 64 ? 64 : need > r->arena.limit / 2 ? need : need * 2;
    nm_tv_buffer *buffer = nm_rt_alloc(r, sizeof *buffer + capacity);
    if (!buffer) return NULL;
    if (need - used < n) {  /* only after overflow or at the limit, where the request above is all there is */
        nm_rt_fail(r, "the template's values need more than %zu bytes", r->arena.limit);
        return NULL;
    }
    buffer->used = used;
    buffer->capacity = capacity;
    if (used) memcpy(buffer->data, old->data, used);
    return buffer;
}

/* ---- Strings under construction ----------------------------------------------------------------------------------------- */

char *nm_sb_room(nm_sb *sb, size_t n)
{
    nm_tv_buffer *buffer = buffer_reserve(sb->r, sb->buffer, n);
    if (!buffer) return NULL;
    sb->buffer = buffer;
    buffer->used += n;
    return buffer->data + buffer->used - n;
}

void nm_sb_put(nm_sb *sb, const char *bytes, size_t n)
{
    char *room = nm_sb_room(sb, n);
    if (room && n) memcpy(room, bytes, n);
}

void nm_sb_puts(nm_sb *sb, const char *text) { nm_sb_put(sb, text, strlen(text)); }

void nm_sb_code(nm_sb *sb, int32_t code)
{
    char bytes[4];
    nm_sb_put(sb, bytes, (size_t)nm_utf8_encode((uint32_t)code, bytes));
}

void nm_sb_repeat(nm_sb *sb, const char *bytes, size_t n, int64_t times)
{
    size_t total;
    if (times <= 0 || !n || sb->r->err != NM_OK) return;
    if (nm_mul_overflow(n, (size_t)times, &total)) total = SIZE_MAX;
    char *room = nm_sb_room(sb, total);
    if (!room) return;
    memcpy(room, bytes, n);
    for (size_t have = n, next; have < total; have += next) {       /* each copy doubles what is there */
        next = have < total - have ? have : total - have;
        memcpy(room + have, room, next);
    }
}

void nm_sb_printf(nm_sb *sb, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n > 0) nm_sb_put(sb, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

nm_err nm_sb_done(nm_sb *sb, nm_tv *out)
{
    if (sb->r->err != NM_OK) return sb->r->err;
    return sb->buffer ? nm_tv_string_of(sb->r, sb->buffer->data, sb->buffer->used, sb->buffer, out) : nm_tv_string_of(sb->r, "", 0, NULL, out);
}

/* ---- Strings ---------------------------------------------------------------------------------------------------------------- */

nm_err nm_tv_string_of(nm_render *r, const char *s, size_t n, nm_tv_buffer *buffer, nm_tv *out)
{
    nm_tv_string *string;
    NM_RT_NEW(r, string, 1);
    *string = (nm_tv_string){s, n, buffer};
    *out = (nm_tv){.kind = NM_TV_STRING, .s = string};
    return NM_OK;
}

nm_err nm_tv_text(nm_render *r, const char *text, nm_tv *out) { return nm_tv_string_of(r, text, strlen(text), NULL, out); }

nm_err nm_tv_slice_text(nm_render *r, nm_tv whole, size_t from, size_t to, nm_tv *out)
{
    uint8_t flag = whole.flag & NM_TV_MARKUP;
    if (from == 0 && to == whole.s->n) {
        *out = whole;
        return NM_OK;
    }
    NM_TRY(nm_tv_string_of(r, whole.s->s + from, to - from, whole.s->buffer, out));
    out->flag = flag;
    return NM_OK;
}

nm_err nm_tv_concat(nm_render *r, nm_tv left, nm_tv right, nm_tv *out)
{
    uint8_t flag = (left.flag | right.flag) & NM_TV_MARKUP;
    const nm_tv_string *a = left.s, *b = right.s;
    nm_sb sb = {r, NULL};
    if (flag && !(left.flag & NM_TV_MARKUP)) {
        NM_TRY(nm_tv_escape(r, left, &left));
        a = left.s;
    } else if (flag && !(right.flag & NM_TV_MARKUP)) {
        NM_TRY(nm_tv_escape(r, right, &right));
        b = right.s;
    }
    if (a->buffer && a->s + a->n == a->buffer->data + a->buffer->used && b->n <= a->buffer->capacity - a->buffer->used) {
        size_t from = (size_t)(a->s - a->buffer->data);
        sb.buffer = a->buffer;
        nm_sb_put(&sb, b->s, b->n);
        NM_TRY(r->err);
        NM_TRY(nm_tv_string_of(r, sb.buffer->data + from, a->n + b->n, sb.buffer, out));
    } else {
        nm_sb_put(&sb, a->s, a->n);
        nm_sb_put(&sb, b->s, b->n);
        NM_TRY(nm_sb_done(&sb, out));
    }
    out->flag = flag;
    return NM_OK;
}

nm_err nm_tv_undefined_of(nm_render *r, const char *what, const char *name, size_t length, nm_tv *out)
{
    nm_tv_undefined *u;
    NM_RT_NEW(r, u, 1);
    *u = (nm_tv_undefined){what, name, length};
    *out = (nm_tv){.kind = NM_TV_UNDEFINED, .u = u};
    return NM_OK;
}

nm_err nm_tv_fail_undefined(nm_render *r, nm_tv v)
{
    const nm_tv_undefined *u = v.u;
    int n = u->length < 200 ? (int)u->length : 200;
    if (!u->name) return nm_rt_fail(r, "%s", u->what);
    if (!u->what) return nm_rt_fail(r, "'%.*s' is undefined", n, u->name);
    return nm_rt_fail(r, "'%s' has no attribute '%.*s'", u->what, n, u->name);
}

/* ---- Lists ------------------------------------------------------------------------------------------------------------------- */

nm_err nm_lb_add(nm_render *r, nm_lb *lb, nm_tv item)
{
    nm_tv_buffer *buffer = buffer_reserve(r, lb->buffer, sizeof item);
    if (!buffer) return r->err;
    memcpy(buffer->data + buffer->used, &item, sizeof item);
    buffer->used += sizeof item;
    lb->buffer = buffer;
    return NM_OK;
}

nm_err nm_lb_done(nm_render *r, nm_lb *lb, nm_tv_kind kind, nm_tv *out)
{
    nm_tv_list *list;
    NM_RT_NEW(r, list, 1);
    *list = (nm_tv_list){nm_lb_items(lb), nm_lb_count(lb), lb->buffer};
    *out = (nm_tv){.kind = (uint8_t)kind, .l = list};
    return NM_OK;
}

nm_err nm_tv_list_of(nm_render *r, nm_tv_kind kind, const nm_tv *items, size_t n, nm_tv *out)
{
    nm_tv_list *list;
    NM_RT_NEW(r, list, 1);
    NM_TRY(nm_rt_steps(r, n >> 2));
    nm_tv *copy = NULL;
    if (n) {
        NM_RT_NEW(r, copy, n);
        memcpy(copy, items, n * sizeof *copy);
    }
    *list = (nm_tv_list){copy, n, NULL};
    *out = (nm_tv){.kind = (uint8_t)kind, .l = list};
    return NM_OK;
}

nm_err nm_tv_pair(nm_render *r, nm_tv a, nm_tv b, nm_tv *out)
{
    nm_tv two[2] = {a, b};
    return nm_tv_list_of(r, NM_TV_TUPLE, two, 2, out);
}

nm_err nm_tv_list_concat(nm_render *r, nm_tv left, nm_tv right, nm_tv *out)
{
    const nm_tv_list *a = left.l, *b = right.l;
    nm_lb lb = {NULL};
    bool grows = a->n && a->buffer && (char *)(a->items + a->n) == a->buffer->data + a->buffer->used &&
                 b->n <= (a->buffer->capacity - a->buffer->used) / sizeof *a->items;
    if (grows) lb.buffer = a->buffer;
    else for (size_t i = 0; i < a->n; i++) NM_TRY(nm_lb_add(r, &lb, a->items[i]));
    for (size_t i = 0, n = b->n; i < n; i++) NM_TRY(nm_lb_add(r, &lb, b->items[i]));
    nm_tv_list *list;
    NM_RT_NEW(r, list, 1);
    *list = (nm_tv_list){grows ? a->items : nm_lb_items(&lb), a->n + b->n, lb.buffer};
    *out = (nm_tv){.kind = left.kind, .l = list};
    return NM_OK;
}

/* ---- Dicts ------------------------------------------------------------------------------------------------------------------- */

/* Fails for what Python cannot hash: lists and dicts, also inside tuples. */
static nm_err check_hashable(nm_render *r, nm_tv v)
{
    NM_TRY(nm_rt_steps(r, v.kind == NM_TV_STRING ? 1 + (v.s->n >> 4) : 1));    /* its hash will be asked for, too */
    if (v.kind == NM_TV_LIST || v.kind == NM_TV_DICT || (v.kind == NM_TV_VIEW && v.view != 1))
        return nm_rt_fail(r, "unhashable type: '%s'; use a string or number as key", nm_tv_kind_name(v));
    if (v.kind != NM_TV_TUPLE) return NM_OK;
    NM_TRY(nm_rt_enter(r, 1));
    for (size_t i = 0; i < v.l->n; i++) NM_TRY(check_hashable(r, v.l->items[i]));
    nm_rt_leave(r, 1);
    return NM_OK;
}

static uint64_t hash_bytes(const void *data, size_t n)
{
    const unsigned char *s = data;
    uint64_t h = 0xcbf29ce484222325u;       /* FNV-1a */
    for (size_t i = 0; i < n; i++) h = (h ^ s[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

/* Equal values have equal hashes: 1, 1.0 and true are one key. Only the beginning of a tuple counts. */
static uint64_t hash_value(nm_tv v, int depth)
{
    if (v.kind == NM_TV_STRING) return hash_bytes(v.s->s, v.s->n);
    if (nm_tv_is_number(v)) {
        double f = nm_tv_as_float(v) + 0.0;
        return hash_bytes(&f, sizeof f);
    }
    if (v.kind == NM_TV_TUPLE) {
        uint64_t h = v.l->n;
        for (size_t i = 0; depth < 2 && i < v.l->n && i < 16; i++) h = h * 31 + hash_value(v.l->items[i], depth + 1);
        return h;
    }
    return v.kind;
}

nm_err nm_tv_dict_of(nm_render *r, nm_tv_kind kind, nm_tv *out)
{
    nm_tv_dict *d;
    NM_RT_NEW(r, d, 1);
    *d = (nm_tv_dict){0};
    *out = (nm_tv){.kind = (uint8_t)kind, .d = d};
    return NM_OK;
}

enum { DICT_ABSENT = UINT32_MAX };

/* *slot: the bucket that holds the key or would; *at: its position or DICT_ABSENT. */
static nm_err dict_find(nm_render *r, const nm_tv_dict *d, nm_tv key, size_t *slot, uint32_t *at)
{
    *at = DICT_ABSENT;
    *slot = 0;
    NM_TRY(check_hashable(r, key));
    if (!d->buckets) return NM_OK;
    for (size_t i = hash_value(key, 0) & (d->buckets - 1);; i = (i + 1) & (d->buckets - 1)) {
        bool equal;
        *slot = i;
        if (d->index[i] == DICT_ABSENT) return NM_OK;
        NM_TRY(nm_rt_steps(r, 1));
        NM_TRY(nm_tv_equal(r, d->keys[d->index[i]], key, &equal));
        if (equal) {
            *at = d->index[i];
            return NM_OK;
        }
    }
}

static nm_err dict_grow(nm_render *r, nm_tv_dict *d)
{
    size_t capacity = d->capacity ? d->capacity * 2 : 4;
    nm_tv *keys, *values;
    uint32_t *index;
    if (capacity >= UINT32_MAX / 4) return nm_rt_fail(r, "a dict of more than %zu entries", d->capacity);
    NM_RT_NEW(r, keys, capacity);
    NM_RT_NEW(r, values, capacity);
    NM_RT_NEW(r, index, capacity * 2);
    NM_TRY(nm_rt_steps(r, d->n));
    if (d->n) {
        memcpy(keys, d->keys, d->n * sizeof *keys);
        memcpy(values, d->values, d->n * sizeof *values);
    }
    memset(index, 0xff, capacity * 2 * sizeof *index);
    for (size_t i = 0; i < d->n; i++) {
        size_t at = hash_value(keys[i], 0) & (capacity * 2 - 1);
        while (index[at] != DICT_ABSENT) at = (at + 1) & (capacity * 2 - 1);
        index[at] = (uint32_t)i;
    }
    *d = (nm_tv_dict){keys, values, d->n, capacity, index, capacity * 2};
    return NM_OK;
}

nm_err nm_tv_dict_set(nm_render *r, nm_tv_dict *d, nm_tv key, nm_tv value)
{
    size_t slot;
    uint32_t at;
    if (d->n == d->capacity) NM_TRY(dict_grow(r, d));
    NM_TRY(dict_find(r, d, key, &slot, &at));
    if (at == DICT_ABSENT) {
        at = d->index[slot] = (uint32_t)d->n++;
        d->keys[at] = key;
    }
    d->values[at] = value;
    return NM_OK;
}

nm_err nm_tv_dict_get(nm_render *r, const nm_tv_dict *d, nm_tv key, nm_tv *out)
{
    size_t slot;
    uint32_t at;
    NM_TRY(dict_find(r, d, key, &slot, &at));
    *out = at == DICT_ABSENT ? (nm_tv){0} : d->values[at];
    return NM_OK;
}

nm_err nm_tv_dict_text(nm_render *r, const nm_tv_dict *d, const char *key, size_t n, nm_tv *out)
{
    nm_tv_string string = {key, n, NULL};
    return nm_tv_dict_get(r, d, (nm_tv){.kind = NM_TV_STRING, .s = &string}, out);
}

/* ---- Truth, equality, order ----------------------------------------------------------------------------------------------- */

nm_err nm_tv_length(nm_render *r, nm_tv v, int64_t *out)
{
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_UNDEFINED: *out = 0; return NM_OK;
    case NM_TV_STRING:
        *out = (int64_t)nm_utf8_count(v.s->s, v.s->n);
        return nm_rt_steps(r, v.s->n >> 6);
    case NM_TV_LIST: case NM_TV_TUPLE: *out = (int64_t)v.l->n; return NM_OK;
    case NM_TV_DICT: case NM_TV_VIEW: *out = (int64_t)v.d->n; return NM_OK;
    case NM_TV_RANGE: *out = (int64_t)v.r->n; return NM_OK;
    case NM_TV_LOOP: return nm_loop_length(r, v.loop, out);
    default: return nm_rt_fail(r, "object of type '%s' has no len()", nm_tv_kind_name(v));
    }
}

nm_err nm_tv_truth(nm_render *r, nm_tv v, bool *out)
{
    int64_t n;
    switch ((nm_tv_kind)v.kind) {
    case NM_TV_MISSING: case NM_TV_UNDEFINED: case NM_TV_NONE: *out = false; return NM_OK;
    case NM_TV_BOOL: *out = v.b; return NM_OK;
    case NM_TV_INT: *out = v.i != 0; return NM_OK;
    case NM_TV_FLOAT: *out = v.f != 0; return NM_OK;
    case NM_TV_STRING: *out = v.s->n != 0; return NM_OK;
    case NM_TV_LIST: case NM_TV_TUPLE: case NM_TV_DICT: case NM_TV_VIEW: case NM_TV_RANGE: case NM_TV_LOOP:
        NM_TRY(nm_tv_length(r, v, &n));
        *out = n != 0;
        return NM_OK;
    default: *out = true; return NM_OK;
    }
}

bool nm_tv_same(nm_tv a, nm_tv b)
{
    if (a.kind != b.kind) return false;
    if (a.kind == NM_TV_NONE) return true;
    if (a.kind == NM_TV_BOOL) return a.b == b.b;
    if (a.kind == NM_TV_FLOAT) return !memcmp(&a.f, &b.f, sizeof a.f);
    /* CPython shares small integers, one-character strings and the strings of a program: equality is the nearest stable reading. */
    if (a.kind == NM_TV_STRING) return a.flag == b.flag && a.s->n == b.s->n && !memcmp(a.s->s, b.s->s, a.s->n);
    return a.i == b.i;
}

static nm_err equal_lists(nm_render *r, const nm_tv_list *a, const nm_tv_list *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) NM_TRY(nm_tv_equal(r, a->items[i], b->items[i], out));
    return NM_OK;
}

static nm_err equal_dicts(nm_render *r, const nm_tv_dict *a, const nm_tv_dict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        nm_tv other;
        NM_TRY(nm_tv_dict_get(r, b, a->keys[i], &other));
        if (!nm_tv_given(other)) *out = false;
        else NM_TRY(nm_tv_equal(r, a->values[i], other, out));
    }
    return NM_OK;
}

/* An integer against a float, exactly. 2 for NaN. */
static int compare_int_float(int64_t i, double f)
{
    if (isnan(f)) return 2;
    if (f >= 0x1p63) return -1;
    if (f < -0x1p63) return 1;
    int64_t whole = (int64_t)f;
    if (i != whole) return i < whole ? -1 : 1;
    double rest = f - (double)whole;
    return rest > 0 ? -1 : rest < 0 ? 1 : 0;
}

static int compare_numbers(nm_tv a, nm_tv b)
{
    if (nm_tv_is_int(a) && nm_tv_is_int(b)) {
        int64_t x = nm_tv_as_int(a), y = nm_tv_as_int(b);
        return x < y ? -1 : x > y;
    }
    if (nm_tv_is_int(a)) return compare_int_float(nm_tv_as_int(a), b.f);
    if (nm_tv_is_int(b)) {
        int c = compare_int_float(nm_tv_as_int(b), a.f);
        return c == 2 ? 2 : -c;
    }
    return isnan(a.f) || isnan(b.f) ? 2 : a.f < b.f ? -1 : a.f > b.f;
}

static bool equal_ranges(const nm_tv_range *a, const nm_tv_range *b)
{
    return a->n == b->n && (!a->n || (a->start == b->start && (a->n == 1 || a->step == b->step)));
}

static nm_err equal_deep(nm_render *r, nm_tv a, nm_tv b, bool *out)
{
    NM_TRY(nm_rt_enter(r, 1));
    nm_err err = a.kind == NM_TV_DICT ? equal_dicts(r, a.d, b.d, out) : equal_lists(r, a.l, b.l, out);
    nm_rt_leave(r, 1);
    return err;
}

nm_err nm_tv_equal(nm_render *r, nm_tv a, nm_tv b, bool *out)
{
    NM_TRY(nm_rt_steps(r, 1));
    if (nm_tv_is_number(a) && nm_tv_is_number(b)) {
        *out = compare_numbers(a, b) == 0;
        return NM_OK;
    }
    *out = false;
    if (a.kind != b.kind) return NM_OK;
    switch ((nm_tv_kind)a.kind) {
    case NM_TV_UNDEFINED: case NM_TV_NONE: *out = true; return NM_OK;
    case NM_TV_STRING:
        if (a.s->n != b.s->n) return NM_OK;
        *out = !memcmp(a.s->s, b.s->s, a.s->n);
        return nm_rt_steps(r, a.s->n >> 6);
    case NM_TV_RANGE: *out = equal_ranges(a.r, b.r); return NM_OK;
    case NM_TV_LIST: case NM_TV_TUPLE: case NM_TV_DICT:
        *out = a.i == b.i;
        return *out ? NM_OK : equal_deep(r, a, b, out);
    default: *out = a.i == b.i; return NM_OK;
    }
}

static nm_err compare_lists(nm_render *r, nm_tv a, nm_tv b, const char *op, int *out)
{
    size_t n = a.l->n < b.l->n ? a.l->n : b.l->n;
    for (size_t i = 0; i < n; i++) {
        bool equal;
        NM_TRY(nm_tv_equal(r, a.l->items[i], b.l->items[i], &equal));
        if (!equal) return nm_tv_compare(r, a.l->items[i], b.l->items[i], op, out);
    }
    *out = a.l->n < b.l->n ? -1 : a.l->n > b.l->n;
    return NM_OK;
}

nm_err nm_tv_compare(nm_render *r, nm_tv a, nm_tv b, const char *op, int *out)
{
    NM_TRY(nm_rt_steps(r, 1));
    if (nm_tv_is_number(a) && nm_tv_is_number(b)) {
        *out = compare_numbers(a, b);
        return NM_OK;
    }
    if (a.kind == NM_TV_STRING && b.kind == NM_TV_STRING) {
        size_t n = a.s->n < b.s->n ? a.s->n : b.s->n;
        int c = n ? memcmp(a.s->s, b.s->s, n) : 0;      /* the order of UTF-8 bytes is that of code points */
        *out = c ? (c < 0 ? -1 : 1) : a.s->n < b.s->n ? -1 : a.s->n > b.s->n;
        return nm_rt_steps(r, n >> 6);
    }
    if (nm_tv_is_list(a) && a.kind == b.kind) {
        NM_TRY(nm_rt_enter(r, 1));
        nm_err err = compare_lists(r, a, b, op, out);
        nm_rt_leave(r, 1);
        return err;
    }
    if (a.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, a);
    if (b.kind == NM_TV_UNDEFINED) return nm_tv_fail_undefined(r, b);
    return nm_rt_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, nm_tv_kind_name(a), nm_tv_kind_name(b));
}

/* ---- Membership ------------------------------------------------------------------------------------------------------------- */

static nm_err contains_by_walk(nm_render *r, nm_tv seq, nm_tv item, bool *out)
{
    nm_tv_iter it;
    NM_TRY(nm_iter_init(r, seq, &it));
    *out = false;
    while (!*out) {
        nm_tv v;
        NM_TRY(nm_iter_next(r, &it, &v));
        if (!nm_tv_given(v)) break;
        NM_TRY(nm_tv_equal(r, v, item, out));
    }
    return NM_OK;
}

nm_err nm_tv_contains(nm_render *r, nm_tv seq, nm_tv item, bool *out)
{
    nm_tv found;
    if (seq.kind == NM_TV_STRING) {
        if (item.kind != NM_TV_STRING) return nm_rt_fail(r, "'in <string>' requires string as left operand, not %s", nm_tv_kind_name(item));
        *out = !item.s->n || memmem(seq.s->s, seq.s->n, item.s->s, item.s->n);
        return nm_rt_steps(r, seq.s->n >> 6);
    }
    if (seq.kind == NM_TV_DICT || (seq.kind == NM_TV_VIEW && seq.view == 0)) {
        NM_TRY(nm_tv_dict_get(r, seq.d, item, &found));
        *out = nm_tv_given(found);
        return NM_OK;
    }
    if (!nm_tv_iterable(seq)) return nm_rt_fail(r, "argument of type '%s' is not iterable", nm_tv_kind_name(seq));
    return contains_by_walk(r, seq, item, out);
}
