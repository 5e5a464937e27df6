/* Sketches of weights. Value i of a sketch is <sign, row> / |row| for one row of one map and a row of random signs, both drawn by number: near
 * normal whatever the map, and linear in the weights, so that two sketches correlate as the weights do. Maps take turns, in the order in
 * which the architecture binds them. */
#include "adapter/identity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"

static const double LEAST_CORRELATION = 0.95;
enum { SKETCH_SEED = 20251, ROW_STREAM = 1 << 20 };     /* streams below ROW_STREAM are the signs of value i */
static const char VERSION[] = "1:";                     /* before the hexadecimal floats; another way to sketch gets another number */

/* ---- Making -------------------------------------------------------------------------------------------------------------------------------- */

static float project(const float *row, int64_t k, uint64_t value)
{
    double sum = 0, square = 0;
    uint64_t signs = 0;
    for (int64_t i = 0; i < k; i++) {
        if (i % 64 == 0) signs = nm_rng_u64(SKETCH_SEED, value, (uint64_t)i / 64);
        sum += (signs >> i % 64 & 1) ? (double)row[i] : -(double)row[i];
        square += (double)row[i] * (double)row[i];
    }
    return square > 0 ? (float)(sum / sqrt(square)) : 0;
}

/* Ids of the maps; their number. */
static size_t list_maps(const nm_model *m, size_t *id)
{
    size_t n = 0;
    for (size_t i = 0; i < m->weights; i++) if (m->weight[i].k) id[n++] = i;
    return n;
}

static nm_err sketch(float out[NM_SKETCH], const nm_model *m)
{
    int64_t widest = 1;
    for (size_t i = 0; i < m->weights; i++) if (m->weight[i].k > widest) widest = m->weight[i].k;
    float *row = nm_calloc((size_t)widest, sizeof *row);
    size_t *id = nm_calloc(m->weights, sizeof *id), maps = id ? list_maps(m, id) : 0;
    for (size_t i = 0; row && maps && i < NM_SKETCH; i++) {
        const nm_weight *w = &m->weight[id[i % maps]];
        nm_panels_row(&w->panels, (int64_t)(nm_rng_u64(SKETCH_SEED, ROW_STREAM, i) % (uint64_t)w->n), row);
        out[i] = project(row, w->k, i);
    }
    nm_err err = row && id ? NM_OK : nm_fail_memory((size_t)widest * sizeof *row);
    nm_free(row);
    nm_free(id);
    return err;
}

static uint64_t hash_tokenizer(const nm_tokenizer *t)
{
    uint64_t h = 0;
    int32_t count = t ? nm_token_count(t) : 0;
    for (int32_t i = 0; i < count; i++) h = nm_hash(h, nm_token_raw(t, i), strlen(nm_token_raw(t, i)));
    return count && !h ? 1 : h;
}

nm_err nm_identity_of(nm_identity *out, const nm_model *m)
{
    *out = (nm_identity){.known = true, .tokenizer = hash_tokenizer(m->tokenizer)};
    size_t n = strlen(m->info.file_type);
    memcpy(out->type, m->info.file_type, n < sizeof out->type ? n : sizeof out->type - 1);
    return sketch(out->sketch, m);
}

/* ---- Comparing ----------------------------------------------------------------------------------------------------------------------------- */

double nm_identity_correlation(const nm_identity *a, const nm_identity *b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int i = 0; i < NM_SKETCH; i++) {
        ab += (double)a->sketch[i] * (double)b->sketch[i];
        aa += (double)a->sketch[i] * (double)a->sketch[i];
        bb += (double)b->sketch[i] * (double)b->sketch[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

nm_err nm_identity_match(const nm_identity *adapter, const nm_model *m, bool force, nm_match *match, double *correlation)
{
    nm_identity mine;
    *match = NM_MATCH_UNVERIFIED;
    *correlation = NAN;
    if (!adapter->known) return NM_OK;
    NM_TRY(nm_identity_of(&mine, m));
    bool same_text = !adapter->tokenizer || !mine.tokenizer || adapter->tokenizer == mine.tokenizer;
    *correlation = nm_identity_correlation(adapter, &mine);
    *match = !memcmp(adapter->sketch, mine.sketch, sizeof mine.sketch) ? NM_MATCH_SAME : NM_MATCH_REQUANTISED;
    if (same_text && *correlation >= LEAST_CORRELATION) return NM_OK;
    *match = NM_MATCH_FORCED;
    if (force) return NM_OK;
    if (!same_text) return nm_fail(NM_REFUSED, "the adapter was made for another tokenizer than %s has: take its own base, or --force", m->name);
    return nm_fail(NM_REFUSED, "the adapter was made for other weights than %s has (they correlate by %.2f): take its own base, or --force", m->name, *correlation);
}

/* ---- As text -------------------------------------------------------------------------------------------------------------------------------- */

nm_err nm_identity_write(const nm_identity *identity, nm_str *text, char tokenizer[17])
{
    NM_TRY(nm_str_puts(text, VERSION));
    for (int i = 0; i < NM_SKETCH; i++) {
        uint32_t bits;
        memcpy(&bits, &identity->sketch[i], sizeof bits);
        NM_TRY(nm_str_printf(text, "%08x", bits));
    }
    for (int i = 0; i < 16; i++) tokenizer[i] = "0123456789abcdef"[identity->tokenizer >> (60 - 4 * i) & 15];
    tokenizer[16] = 0;
    return NM_OK;
}

/* Exactly `digits` hexadecimal digits, and nothing else. */
static bool read_hex(const char *text, size_t digits, uint64_t *out)
{
    *out = 0;
    if (strspn(text, "0123456789abcdef") < digits) return false;
    for (size_t i = 0; i < digits; i++) *out = *out << 4 | (uint64_t)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
    return true;
}

static bool read_sketch(const char *text, float out[NM_SKETCH])
{
    bool good = strlen(text) == 8 * NM_SKETCH;
    for (int i = 0; good && i < NM_SKETCH; i++) {
        uint64_t bits;
        good = read_hex(text + 8 * i, 8, &bits);
        uint32_t word = (uint32_t)bits;
        memcpy(&out[i], &word, sizeof word);
        good = good && isfinite(out[i]);
    }
    return good;
}

nm_err nm_identity_read(nm_identity *out, const char *text, const char *tokenizer, const char *type)
{
    *out = (nm_identity){0};
    if (!text || strncmp(text, VERSION, sizeof VERSION - 1)) return NM_OK;      /* none, or of a way that this version does not know */
    if (!read_sketch(text + sizeof VERSION - 1, out->sketch)) return nm_fail(NM_BAD_FILE, "the sketch of the base's weights is damaged");
    if (tokenizer && *tokenizer && (strlen(tokenizer) != 16 || !read_hex(tokenizer, 16, &out->tokenizer)))
        return nm_fail(NM_BAD_FILE, "the hash of the base's tokenizer is damaged");
    size_t n = type ? strlen(type) : 0;
    if (n) memcpy(out->type, type, n < sizeof out->type ? n : sizeof out->type - 1);
    out->known = true;
    return NM_OK;
}
