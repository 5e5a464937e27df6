/* The table of packed layouts, the packer, and the plain C readers of panels and rows. What a block of the file means is asked of
 * quant.h's groups(); this file knows only where a block keeps its half-precision scales, because those are stored as they are. */
#define NM_FOLDED static inline     /* layouts are not constant here */
#include "kernel/layout.h"

#include <string.h>

#include "base/hash.h"

#define ROW(...) NM_LAYOUT_ROW(__VA_ARGS__),
const nm_layout nm_layout_table[NM_LAYOUT_COUNT] = {NM_LAYOUTS(ROW)};
#undef ROW

/* The values of the two 4-bit codebooks plus the layout's offset; test_kernels holds them equal to quant's. */
const uint8_t nm_codebooks[3][16] = {
    {0},
    {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241},
    {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0},
};

int nm_layout_of(const nm_type *type)
{
    for (int i = 0; i < NM_LAYOUT_COUNT; i++)
        if (nm_layout_table[i].id == type->id) return i;
    return -1;
}

static bool is_float(const nm_type *type) { return type->id == NM_F32 || type->id == NM_F16 || type->id == NM_BF16; }

static int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/* ---- Dwords: four bytes that belong to one row and one step ------------------------------------------------------------------ */

static uint32_t load32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static void store32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static uint16_t load16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static void store16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static float load_half(const uint8_t *p) { return nm_half_to_float(load16(p)); }

#define PACK_INLINE static inline __attribute__((always_inline))

/* A field of `bits` bits of each of the eight steps of one row, to and from lines: line = row's dword in the first line, dwords of a
 * row are 64 bytes apart. */
PACK_INLINE void put_bits(uint8_t *line, int bits, const uint32_t step[NM_STEPS])
{
    int per = 8 / bits;                     /* steps in a line */
    uint32_t mask = 0x01010101u * ((1u << bits) - 1);
    if (bits == 4) {                        /* steps j and j + 4 share a line: the order in which Q4_0 has them */
        for (int j = 0; j < 4; j++) store32(line + j * NM_LINE, (step[j] & mask) | (step[j + 4] & mask) << 4);
        return;
    }
    for (int j = 0; j < NM_STEPS / per; j++) {
        uint32_t all = 0;
        for (int i = 0; i < per; i++) all |= (step[j * per + i] & mask) << (bits * i);
        store32(line + j * NM_LINE, all);
    }
}

static void get_bits(const uint8_t *line, int bits, uint32_t step[NM_STEPS])
{
    int per = 8 / bits;
    uint32_t mask = 0x01010101u * ((1u << bits) - 1);
    for (int v = 0; v < NM_STEPS; v++) {
        int j = bits == 4 ? v % 4 : v / per, i = bits == 4 ? v / 4 : v % per;
        step[v] = load32(line + j * NM_LINE) >> (bits * i) & mask;
    }
}

/* ---- Packing ------------------------------------------------------------------------------------------------------------------- */

size_t nm_pack_bytes(const nm_type *type, int64_t k)
{
    if (is_float(type)) return (size_t)round_up(k * NM_PANEL * type->bytes, NM_LINE);
    int index = nm_layout_of(type);
    if (index < 0) return 0;
    const nm_layout *l = &nm_layout_table[index];
    return (size_t)(round_up(k, NM_BLOCK * l->blocks) / (NM_BLOCK * l->blocks)) * (size_t)nm_layout_super(l);
}

static void pack_floats(const nm_type *type, int64_t n, int64_t k, const uint8_t *rows, size_t row_bytes, int64_t p, uint8_t *out)
{
    size_t size = (size_t)type->bytes;
    for (int r = 0; r < NM_PANEL && NM_PANEL * p + r < n; r++) {
        const uint8_t *from = rows + (size_t)(NM_PANEL * p + r) * row_bytes;
        uint8_t *to = out + (size_t)r * size;
        if (size == 4) for (int64_t i = 0; i < k; i++) store32(to + i * NM_PANEL * 4, load32(from + i * 4));
        else for (int64_t i = 0; i < k; i++) store16(to + i * NM_PANEL * 2, load16(from + i * 2));
    }
}

/* A stretch of one row of the source on its way to a panel: at most 8 blocks of 32, whole blocks of the type. */
typedef struct stretch {
    int8_t q[8 * NM_BLOCK];
    float scale[16], min[16];
} stretch;

/* Scales of one stretch whose first group is `group0` of its superblock, as the file has them. `block`: the type's first block. */
PACK_INLINE void pack_scales(const nm_layout *l, const nm_type *type, const uint8_t *block, const stretch *s, int group0, int groups, int r, uint8_t *super)
{
    int all = l->blocks * nm_layout_groups(l);
    uint8_t *bytes = super + (l->scales == NM_SCALE_SUPER ? 32 : 64) + group0 * NM_PANEL + r;
    for (int g = 0; g < groups; g++) {
        int at = ((group0 + g) * NM_PANEL + r) * 2;
        const uint8_t *own = block + g * type->bytes;       /* types of 32: a block a group */
        switch (l->scales) {
        case NM_SCALE_HALF_MIN: memcpy(super + all * 32 + at, own + l->dmin_at, 2); /* fall through */
        case NM_SCALE_HALF: memcpy(super + at, own + l->d_at, 2); break;
        case NM_SCALE_E8M0: super[(group0 + g) * NM_PANEL + r] = own[l->d_at]; break;
        case NM_SCALE_SUPER: bytes[g * NM_PANEL] = (uint8_t)(int8_t)s->scale[g]; break;
        case NM_SCALE_SUPER_MIN: bytes[(all + g) * NM_PANEL] = (uint8_t)-s->min[g]; /* fall through */
        case NM_SCALE_NIBBLES: bytes[g * NM_PANEL] = (uint8_t)s->scale[g]; break;
        }
        if (l->scales == NM_SCALE_NIBBLES) bytes[g * NM_PANEL] |= (uint8_t)((uint8_t)-s->min[g] << 4);
    }
    if (type->block == NM_BLOCK) return;
    memcpy(super + r * 2, block + l->d_at, 2);
    if (nm_layout_has_min(l)) memcpy(super + 32 + r * 2, block + l->dmin_at, 2);
}

/* Reads a stretch. Superblock types: with d and dmin set to 1 in a copy, groups() gives the small integer scales themselves. */
PACK_INLINE void read_stretch(const nm_layout *l, const nm_type *type, const uint8_t *block, int values, stretch *s)
{
    uint8_t copy[256];
    if (type->block != NM_BLOCK) {
        memcpy(copy, block, (size_t)type->bytes);
        store16(copy + l->d_at, 0x3c00);
        if (nm_layout_has_min(l)) store16(copy + l->dmin_at, 0x3c00);
        block = copy;
    }
    type->groups(block, values, s->q, s->scale, s->min);
}

/* Signed values to the codes that are stored. */
static void code_table(const nm_layout *l, uint8_t code[256])
{
    for (int i = 0; i < 256; i++) code[i] = (uint8_t)(i + l->offset);
    if (l->codes == NM_CODES_NONE) return;
    for (int i = 15; i >= 0; i--) code[(uint8_t)(nm_codebooks[l->codes][i] - l->offset)] = (uint8_t)i;
}

PACK_INLINE void pack_block(const nm_layout *l, const int8_t *q, const uint8_t *code, int r, int b, uint8_t *super)
{
    uint8_t u[NM_BLOCK];
    uint32_t step[NM_STEPS];
    for (int i = 0; i < NM_BLOCK; i++) u[i] = l->codes == NM_CODES_NONE ? (uint8_t)(q[i] + l->offset) : code[(uint8_t)q[i]];
    memcpy(step, u, sizeof step);
    put_bits(super + (nm_layout_low(l, super, b) - super) + 4 * r, l->low, step);
    if (!l->high) return;
    for (int v = 0; v < NM_STEPS; v++) step[v] = step[v] >> l->low & (0x01010101u * ((1u << l->high) - 1));
    put_bits(super + (nm_layout_high(l, super, b) - super) + 4 * r, l->high, step);
}

PACK_INLINE void pack_row(const nm_layout *l, const nm_type *type, int64_t k, const uint8_t *from, const uint8_t *code, int r, uint8_t *super)
{
    int inputs = l->blocks * NM_BLOCK;
    for (int64_t at = 0; at < k; at += inputs, super += nm_layout_super(l)) {
        stretch s;
        int values = (int)(k - at < inputs ? k - at : inputs);
        read_stretch(l, type, from, values, &s);
        pack_scales(l, type, from, &s, 0, values / l->group, r, super);
        for (int b = 0; b < values / NM_BLOCK; b++) pack_block(l, s.q + b * NM_BLOCK, code, r, b, super);
        from += values / type->block * type->bytes;
    }
}

/* One copy per layout, so that the compiler sees its numbers: opening a model packs every weight, and this is three times as fast. */
#define PACKER(TYPE, ...) \
    static void pack_row_##TYPE(const nm_type *type, int64_t k, const uint8_t *from, const uint8_t *code, int r, uint8_t *super) \
    { \
        static const nm_layout layout = NM_LAYOUT_ROW(TYPE, __VA_ARGS__); \
        pack_row(&layout, type, k, from, code, r, super); \
    }
NM_LAYOUTS(PACKER)
#undef PACKER

typedef void (*pack_row_fn)(const nm_type *type, int64_t k, const uint8_t *from, const uint8_t *code, int r, uint8_t *super);
#define PACKER(TYPE, ...) pack_row_##TYPE,
static const pack_row_fn packers[NM_LAYOUT_COUNT] = {NM_LAYOUTS(PACKER)};
#undef PACKER

void nm_pack_panel(const nm_type *type, int64_t n, int64_t k, const uint8_t *rows, size_t row_bytes, int64_t p, uint8_t *out)
{
    uint8_t code[256];
    int index = nm_layout_of(type);
    memset(out, 0, nm_pack_bytes(type, k));
    if (is_float(type)) {
        pack_floats(type, n, k, rows, row_bytes, p, out);
        return;
    }
    code_table(&nm_layout_table[index], code);
    for (int r = 0; r < NM_PANEL && NM_PANEL * p + r < n; r++) packers[index](type, k, rows + (size_t)(NM_PANEL * p + r) * row_bytes, code, r, out);
}

uint64_t nm_pack_layout(void)
{
    enum { K = 512, ROWS = NM_PANEL - 1 };
    static const int64_t inputs[] = {K, 256, 256 + 32};         /* superblocks one after the other; one; where the type allows it a last one that is not whole */
    _Alignas(64) uint8_t rows[ROWS * K * 4], out[NM_PANEL * K * 4];
    uint64_t hash = 0;
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof rows; i++) rows[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        for (size_t j = 0; j < sizeof inputs / sizeof *inputs; j++) {
            int64_t k = inputs[j];
            size_t bytes = k % type->block ? 0 : nm_pack_bytes(type, k);
            if (!bytes) continue;
            nm_pack_panel(type, ROWS, k, rows, (size_t)(k / type->block * type->bytes), 0, out);
            hash = nm_hash_wide(nm_hash_word(hash, (uint64_t)type->id), out, bytes);
        }
    }
    return hash;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------------- */

static float e8m0_scale(unsigned e)         /* 2^(e - 128); the two smallest are subnormal */
{
    uint32_t bits = e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* Scale and minimum of group g of a superblock, row r. */
static void read_scale(const nm_layout *l, const uint8_t *super, int g, int r, float *scale, float *min)
{
    int all = l->blocks * nm_layout_groups(l), at = g * NM_PANEL + r;
    float d = load_half(super + 2 * r);
    switch (l->scales) {
    case NM_SCALE_HALF_MIN: *min = load_half(super + (all * NM_PANEL + at) * 2); /* fall through */
    case NM_SCALE_HALF: *scale = load_half(super + at * 2); break;
    case NM_SCALE_SUPER: *scale = d * (float)(int8_t)super[32 + at]; break;
    case NM_SCALE_SUPER_MIN:
        *scale = d * (float)super[64 + at];
        *min = -(load_half(super + 32 + 2 * r) * (float)super[64 + all * NM_PANEL + at]);
        break;
    case NM_SCALE_NIBBLES:
        *scale = d * (float)(super[64 + at] & 15);
        *min = -(load_half(super + 32 + 2 * r) * (float)(super[64 + at] >> 4));
        break;
    case NM_SCALE_E8M0: *scale = e8m0_scale(super[at]); break;
    }
}

static void read_block(const nm_layout *l, const uint8_t *super, int b, int r, int8_t q[NM_BLOCK])
{
    uint32_t step[NM_STEPS], high[NM_STEPS];
    uint8_t u[NM_BLOCK];
    get_bits(nm_layout_low(l, super, b) + 4 * r, l->low, step);
    if (l->high) {
        get_bits(nm_layout_high(l, super, b) + 4 * r, l->high, high);
        for (int v = 0; v < NM_STEPS; v++) step[v] |= high[v] << l->low;
    }
    memcpy(u, step, sizeof u);
    if (l->codes != NM_CODES_NONE)
        for (int i = 0; i < NM_BLOCK; i++) u[i] = nm_codebooks[l->codes][u[i]];
    for (int i = 0; i < NM_BLOCK; i++) q[i] = (int8_t)(u[i] - l->offset);
}

void nm_unpack_row(const nm_panels *w, int64_t row, int64_t b0, int64_t count, int8_t *q, float *scale, float *min)
{
    if (!w->data) {
        const uint8_t *from = w->rows + (size_t)row * w->row_bytes + (size_t)(b0 * NM_BLOCK / w->type->block) * (size_t)w->type->bytes;
        w->type->groups(from, count * NM_BLOCK, q, scale, min);
        return;
    }
    const nm_layout *l = &nm_layout_table[nm_layout_of(w->type)];
    const uint8_t *panel = w->data + (size_t)(row / NM_PANEL) * w->panel_bytes;
    int groups = nm_layout_groups(l), r = (int)(row % NM_PANEL);
    for (int64_t b = b0; b < b0 + count; b++, q += NM_BLOCK) {
        const uint8_t *super = panel + (size_t)(b / l->blocks) * (size_t)nm_layout_super(l);
        int in = (int)(b % l->blocks);
        read_block(l, super, in, r, q);
        for (int g = 0; g < groups; g++) {
            float m = 0;
            read_scale(l, super, in * groups + g, r, scale++, &m);
            if (nm_layout_has_min(l)) *min++ = m;
        }
    }
}

/* Blocks that can be read at once: whole blocks of the type, and small enough for the stack. */
static int64_t step_blocks(const nm_panels *w) { return w->type->block > NM_BLOCK ? w->type->block / NM_BLOCK : 1; }

void nm_unpack_c(const nm_panels *w, int64_t p, int64_t b0, int64_t count, uint8_t flip, const nm_u *u)
{
    int8_t q[8 * NM_BLOCK];
    float scale[16] = {0}, min[16] = {0};
    int64_t step = step_blocks(w);
    int groups = NM_BLOCK / w->type->group;
    for (int64_t b = 0; b < count; b += step)
        for (int r = 0; r < NM_PANEL; r++) {
            int64_t row = NM_PANEL * p + r;
            bool real = row < w->n;
            if (real) nm_unpack_row(w, row, b0 + b, step, q, scale, min);
            uint8_t *to = u->q + b * NM_STEPS * NM_LINE + 4 * r;
            for (int v = 0; v < step * NM_STEPS; v++)
                store32(to + v * NM_LINE, (real ? load32((const uint8_t *)q + 4 * v) : 0) ^ flip * 0x01010101u);
            for (int g = 0; g < step * groups; g++) {
                u->scale[(b * groups + g) * NM_PANEL + r] = real ? scale[g] : 0;
                if (w->type->has_min) u->min[(b * groups + g) * NM_PANEL + r] = real ? min[g] : 0;
            }
        }
}

static float load_plain(const nm_type *type, const uint8_t *p)
{
    if (type->id == NM_F16) return load_half(p);
    if (type->id == NM_BF16) return nm_bf16_to_float(load16(p));
    float f;
    type->to_float(p, 1, &f);
    return f;
}

void nm_unpack_plain(const nm_panels *w, int64_t p, int64_t k0, int64_t count, float *out)
{
    int64_t size = w->type->bytes;
    for (int r = 0; r < NM_PANEL; r++) {
        int64_t row = NM_PANEL * p + r;
        const uint8_t *from = w->data ? w->data + (size_t)p * w->panel_bytes + (k0 * NM_PANEL + r) * size
                                      : w->rows + (row < w->n ? (size_t)row * w->row_bytes : 0) + k0 * size;
        int64_t stride = w->data ? NM_PANEL * size : size;
        for (int64_t i = 0; i < count; i++) out[i * NM_PANEL + r] = row < w->n ? load_plain(w->type, from + i * stride) : 0;
    }
}

static void plain_row(const nm_panels *w, int64_t row, float *out)
{
    if (!w->data) {
        w->type->to_float(w->rows + (size_t)row * w->row_bytes, w->k, out);
        return;
    }
    int64_t size = w->type->bytes;
    const uint8_t *from = w->data + (size_t)(row / NM_PANEL) * w->panel_bytes + (row % NM_PANEL) * size;
    for (int64_t i = 0; i < w->k; i++) out[i] = load_plain(w->type, from + i * NM_PANEL * size);
}

void nm_panels_row(const nm_panels *w, int64_t row, float *out)
{
    if (!w->type->group) {
        plain_row(w, row, out);
        return;
    }
    int group = w->type->group;
    int64_t blocks = w->k / NM_BLOCK, step = step_blocks(w);
    for (int64_t b = 0; b < blocks; b += step) {
        int8_t q[8 * NM_BLOCK];
        float scale[16], min[16];
        nm_unpack_row(w, row, b, step, q, scale, min);
        for (int i = 0; i < step * NM_BLOCK; i++) {
            float v = scale[i / group] * (float)q[i];
            *out++ = w->type->has_min ? v + min[i / group] : v;
        }
    }
}
