/* Normal forms (Unicode Standard, 3.11: decompose, order, compose) and lower case over the generated tables. */
#include "text/unicode.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"

/* A byte that is no UTF-8 travels through as a code beyond Unicode: a starter without any mapping. */
enum { RAW_BYTE = 1 << 24 };
enum { HANGUL_S = 0xac00, HANGUL_L = 0x1100, HANGUL_V = 0x1161, HANGUL_T = 0x11a7, N_L = 19, N_V = 21, N_T = 28, N_S = N_L * N_V * N_T };

typedef struct codes { int32_t *at; size_t count, capacity; } codes;

static int ccc(int32_t c)
{
    if (c < 0x300 || c > 0x10ffff) return 0;
    uint32_t u = (uint32_t)c;
    return nm_unicode_ccc_stage2[nm_unicode_ccc_stage1[u / NM_UNICODE_BLOCK] * NM_UNICODE_BLOCK + u % NM_UNICODE_BLOCK];
}

static const nm_unicode_pair *find_code(const nm_unicode_pair *table, size_t n, uint32_t code)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (table[mid].code < code) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && table[lo].code == code ? &table[lo] : NULL;
}

/* The code that first and second compose to, or 0. */
static int32_t compose(int32_t first, int32_t second)
{
    if (first >= HANGUL_L && first < HANGUL_L + N_L && second >= HANGUL_V && second < HANGUL_V + N_V)
        return HANGUL_S + ((first - HANGUL_L) * N_V + (second - HANGUL_V)) * N_T;
    if (first >= HANGUL_S && first < HANGUL_S + N_S && (first - HANGUL_S) % N_T == 0 && second > HANGUL_T && second < HANGUL_T + N_T)
        return first + (second - HANGUL_T);
    uint64_t want = (uint64_t)(uint32_t)first << 32 | (uint32_t)second;
    size_t lo = 0, hi = nm_unicode_n_compose;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const nm_unicode_pair *p = &nm_unicode_compose[mid];
        uint64_t have = (uint64_t)p->first << 32 | p->second;
        if (have == want) return (int32_t)p->code;
        if (have < want) lo = mid + 1;
        else hi = mid;
    }
    return 0;
}

/* Appends the full canonical decomposition of c; at most 4 codes, recursion on the first of a pair only. */
static nm_err decompose(codes *out, int32_t c)
{
    NM_TRY(NM_GROW(out->at, out->capacity, out->count + 4));
    if (c >= HANGUL_S && c < HANGUL_S + N_S) {
        int32_t s = c - HANGUL_S;
        out->at[out->count++] = HANGUL_L + s / (N_V * N_T);
        out->at[out->count++] = HANGUL_V + s % (N_V * N_T) / N_T;
        if (s % N_T) out->at[out->count++] = HANGUL_T + s % N_T;
        return NM_OK;
    }
    const nm_unicode_pair *p = c < 0xc0 ? NULL : find_code(nm_unicode_decompose, nm_unicode_n_decompose, (uint32_t)c);
    if (!p) {
        out->at[out->count++] = c;
        return NM_OK;
    }
    NM_TRY(decompose(out, (int32_t)p->first));
    return p->second ? decompose(out, (int32_t)p->second) : NM_OK;
}

/* Sorts a run of marks by combining class, stably. Counting sort, so that a megabyte of marks stays linear. */
static nm_err order_marks(int32_t *run, size_t n, codes *spare)
{
    size_t start[257] = {0};
    bool sorted = true;
    for (size_t i = 0; i < n; i++) {
        start[ccc(run[i]) + 1]++;
        if (i && ccc(run[i]) < ccc(run[i - 1])) sorted = false;
    }
    if (sorted) return NM_OK;
    NM_TRY(NM_GROW(spare->at, spare->capacity, n));
    for (int k = 1; k < 257; k++) start[k] += start[k - 1];
    for (size_t i = 0; i < n; i++) spare->at[start[ccc(run[i])]++] = run[i];
    memcpy(run, spare->at, n * sizeof *run);
    return NM_OK;
}

static nm_err order_all(codes *text, codes *spare)
{
    for (size_t i = 0; i < text->count;) {
        size_t end = i;
        while (end < text->count && ccc(text->at[end])) end++;
        if (end - i > 1) NM_TRY(order_marks(text->at + i, end - i, spare));
        i = end == i ? i + 1 : end;
    }
    return NM_OK;
}

/* In place: each character joins the last starter unless something between them has its class or a higher one. */
static void compose_all(codes *text)
{
    size_t put = 0, starter = SIZE_MAX;
    int last = 0;       /* class of the character put last, when it follows the starter */
    for (size_t i = 0; i < text->count; i++) {
        int32_t c = text->at[i], joined = 0;
        int class = ccc(c);
        if (starter != SIZE_MAX && (put == starter + 1 || last < class)) joined = compose(text->at[starter], c);
        if (joined) {
            text->at[starter] = joined;
            continue;
        }
        if (!class) starter = put;
        last = class;
        text->at[put++] = c;
    }
    text->count = put;
}

bool nm_unicode_may_change(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        if ((unsigned char)text[i] < 0xc0) { i++; continue; }
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used);
        if (c >= 0 && nm_unicode_kind(c) & NM_KIND_NFC) return true;
        i += (size_t)used;
    }
    return false;
}

static nm_err encode(nm_str *out, const codes *text)
{
    for (size_t i = 0; i < text->count; i++) {
        char bytes[4];
        int n = 1;
        if (text->at[i] >= RAW_BYTE) bytes[0] = (char)(text->at[i] - RAW_BYTE);
        else n = nm_utf8_encode((uint32_t)text->at[i], bytes);
        NM_TRY(nm_str_append(out, bytes, (size_t)n));
    }
    return NM_OK;
}

nm_err nm_unicode_normalize(nm_str *out, const char *text, size_t length, nm_unicode_form form)
{
    codes all = {0}, spare = {0};
    nm_err err = NM_OK;
    for (size_t i = 0; i < length;) {
        int used;
        int32_t c = nm_utf8_decode(text + i, length - i, &used);
        if (c < 0) c = RAW_BYTE + (unsigned char)text[i];
        NM_GOTO(decompose(&all, c));
        i += (size_t)used;
    }
    NM_GOTO(order_all(&all, &spare));
    if (form == NM_NFC) compose_all(&all);
    NM_GOTO(encode(out, &all));
out:
    nm_free(all.at);
    nm_free(spare.at);
    return err;
}

int nm_unicode_to_lower(int32_t c, int32_t out[2])
{
    out[0] = c;
    if (c >= 0 && c < 0x80) {
        if (c >= 'A' && c <= 'Z') out[0] = c + ('a' - 'A');
        return 1;
    }
    const nm_unicode_pair *p = c < 0 ? NULL : find_code(nm_unicode_lower, nm_unicode_n_lower, (uint32_t)c);
    if (!p) return 1;
    out[0] = (int32_t)p->first;
    out[1] = (int32_t)p->second;
    return p->second ? 2 : 1;
}
