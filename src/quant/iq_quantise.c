/* Plain quantisers of the codebook formats that iq.c reads: the scale that spans each group, then for each row of values the nearest row
 * of the grid by trying all. They serve to make test models and small tensors; no search over scales, no importance weights. */
#include "quant/codec.h"
#include "quant/iq_grids.h"

enum { SUPER = 256 };

typedef struct grid { const int8_t *rows; int count, width; } grid;
#define GRID(table) ((grid){&(table)[0][0], (int)(sizeof(table) / sizeof *(table)), (int)sizeof *(table)})

/* Index of the row nearest to the magnitudes |x| / scale. */
static unsigned nearest_row(grid g, const float *x, float scale)
{
    float inverse = nm_inverse(scale), least = INFINITY;
    unsigned best = 0;
    for (int r = 0; r < g.count; r++) {
        float error = 0;
        for (int i = 0; i < g.width; i++) {
            float e = fabsf(x[i]) * inverse - g.rows[r * g.width + i];
            error += e * e;
        }
        if (error < least) { least = error; best = (unsigned)r; }
    }
    return best;
}

/* Bit i is set where x[i], i < 8, is negative. `even`: the number of set bits must be even; the smallest value gives way. */
static unsigned sign_bits(const float *x, bool even)
{
    unsigned bits = 0, smallest = 0;
    for (unsigned i = 0; i < 8; i++) {
        bits |= (unsigned)(x[i] < 0) << i;
        if (fabsf(x[i]) < fabsf(x[smallest])) smallest = i;
    }
    return even && __builtin_parity(bits) ? bits ^ 1u << smallest : bits;
}

/* The steps of a superblock: scale of a group = d * unit * (first + s * each), s = 0..most. */
typedef struct ladder { float unit, first, each; int most; } ladder;

static float rung(ladder l, float d, int s) { return d * (l.first + l.each * (float)s) * l.unit; }

/* Picks d (stored as a half, returned rounded) and the step of each group so that `top`, the largest magnitude of the grid, spans it. */
static float climb(ladder l, const float *x, int group, float top, uint16_t *half, uint8_t *step)
{
    float need[16], most = 0;
    for (int g = 0; g < SUPER / group; g++) {
        need[g] = fabsf(nm_extreme(x + g * group, group)) / top;
        if (need[g] > most) most = need[g];
    }
    *half = nm_float_to_half(most / rung(l, 1, l.most));
    float d = nm_half_to_float(*half), inverse = nm_inverse(d * l.unit);
    for (int g = 0; g < SUPER / group; g++) step[g] = (uint8_t)nm_clamp_int(rintf((need[g] * inverse - l.first) / l.each), 0, l.most);
    return d;
}

static const ladder quarters = {0.25f, 0.5f, 1, 15}, halves = {0.5f, 0.5f, 1, 15}, odd = {1, 1, 2, 15}, odd_eighths = {0.125f, 1, 2, 7};

static void put_nibbles(const uint8_t *step, int count, uint8_t *p)
{
    for (int i = 0; i < count / 2; i++) p[i] = (uint8_t)(step[2 * i] | step[2 * i + 1] << 4);
}

NM_CODEC_FROM_FLOAT(iq2_xxs)
{
    uint8_t *p = blocks, step[8];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 66) {
        float d = climb(quarters, x, 32, 43, &half, step);
        nm_store_u16(p, half);
        for (int g = 0; g < 8; g++) {
            uint32_t word = (uint32_t)step[g] << 28;
            for (int i = 0; i < 4; i++) {
                const float *row = x + 32 * g + 8 * i;
                p[2 + 8 * g + i] = (uint8_t)nearest_row(GRID(nm_iq2_xxs_grid), row, rung(quarters, d, step[g]));
                word |= (sign_bits(row, true) & 127) << 7 * i;
            }
            nm_store_u32(p + 6 + 8 * g, word);
        }
    }
}

NM_CODEC_FROM_FLOAT(iq2_xs)
{
    uint8_t *p = blocks, step[16];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 74) {
        float d = climb(quarters, x, 16, 43, &half, step);
        nm_store_u16(p, half);
        for (int i = 0; i < 32; i++) {
            unsigned index = nearest_row(GRID(nm_iq2_xs_grid), x + 8 * i, rung(quarters, d, step[i / 2]));
            nm_store_u16(p + 2 + 2 * i, (uint16_t)(index | (sign_bits(x + 8 * i, true) & 127) << 9));
        }
        put_nibbles(step, 16, p + 66);
    }
}

NM_CODEC_FROM_FLOAT(iq2_s)
{
    uint8_t *p = blocks, step[16];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 82) {
        float d = climb(quarters, x, 16, 43, &half, step);
        memset(p, 0, 82);
        nm_store_u16(p, half);
        for (int i = 0; i < 32; i++) {
            unsigned index = nearest_row(GRID(nm_iq2_s_grid), x + 8 * i, rung(quarters, d, step[i / 2]));
            p[2 + i] = (uint8_t)index;
            p[34 + i] = (uint8_t)sign_bits(x + 8 * i, false);
            p[66 + i / 4] |= (uint8_t)(index >> 8 << (i % 4 * 2));
        }
        put_nibbles(step, 16, p + 74);
    }
}

NM_CODEC_FROM_FLOAT(iq3_xxs)
{
    uint8_t *p = blocks, step[8];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 98) {
        float d = climb(halves, x, 32, 62, &half, step);
        nm_store_u16(p, half);
        for (int i = 0; i < 64; i++) p[2 + i] = (uint8_t)nearest_row(GRID(nm_iq3_xxs_grid), x + 4 * i, rung(halves, d, step[i / 8]));
        for (int g = 0; g < 8; g++) {
            uint32_t word = (uint32_t)step[g] << 28;
            for (int i = 0; i < 4; i++) word |= (sign_bits(x + 32 * g + 8 * i, true) & 127) << 7 * i;
            nm_store_u32(p + 66 + 4 * g, word);
        }
    }
}

NM_CODEC_FROM_FLOAT(iq3_s)
{
    uint8_t *p = blocks, step[8];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 110) {
        float d = climb(odd, x, 32, 15, &half, step);
        memset(p, 0, 110);
        nm_store_u16(p, half);
        for (int i = 0; i < 64; i++) {
            unsigned index = nearest_row(GRID(nm_iq3_s_grid), x + 4 * i, rung(odd, d, step[i / 8]));
            p[2 + i] = (uint8_t)index;
            p[66 + i / 8] |= (uint8_t)(index >> 8 << i % 8);
        }
        for (int i = 0; i < 32; i++) p[74 + i] = (uint8_t)sign_bits(x + 8 * i, false);
        put_nibbles(step, 8, p + 106);
    }
}

/* IQ1 rows are signed and shifted by an eighth up or down: nearest row for one shift, and its error. scale is that of eighths. */
static unsigned nearest_shifted(const float *x, float scale, int shift, float *error)
{
    float inverse = nm_inverse(scale);
    unsigned best = 0;
    *error = INFINITY;
    for (unsigned r = 0; r < 2048; r++) {
        float sum = 0;
        for (int i = 0; i < 8; i++) {
            float e = x[i] * inverse - (float)(8 * nm_iq1_grid[r][i] + shift);
            sum += e * e;
        }
        if (sum < *error) { *error = sum; best = r; }
    }
    return best;
}

/* `rows` rows of 8 with the shift that serves them best together; returns whether it is downwards. */
static bool nearest_rows(const float *x, float scale, int rows, unsigned *index)
{
    unsigned down[4];
    float up_sum = 0, down_sum = 0, error;
    for (int i = 0; i < rows; i++) {
        index[i] = nearest_shifted(x + 8 * i, scale, 1, &error);
        up_sum += error;
        down[i] = nearest_shifted(x + 8 * i, scale, -1, &error);
        down_sum += error;
    }
    if (!(down_sum < up_sum)) return false;
    memcpy(index, down, (size_t)rows * sizeof *down);
    return true;
}

NM_CODEC_FROM_FLOAT(iq1_s)
{
    uint8_t *p = blocks, step[8];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 50) {
        float d = climb(odd_eighths, x, 32, 9, &half, step);
        nm_store_u16(p, half);
        for (int g = 0; g < 8; g++) {
            unsigned index[4], field = (unsigned)step[g] << 12;
            if (nearest_rows(x + 32 * g, rung(odd_eighths, d, step[g]), 4, index)) field |= 0x8000;
            for (int i = 0; i < 4; i++) {
                p[2 + 4 * g + i] = (uint8_t)index[i];
                field |= index[i] >> 8 << 3 * i;
            }
            nm_store_u16(p + 34 + 2 * g, (uint16_t)field);
        }
    }
}

NM_CODEC_FROM_FLOAT(iq1_m)
{
    uint8_t *p = blocks, step[16], high[32];
    uint16_t half;
    for (const float *x = values; x < values + k; x += SUPER, p += 56) {
        float d = climb(odd_eighths, x, 16, 9, &half, step);
        for (int i = 0; i < 32; i++) {
            unsigned index;
            bool down = nearest_rows(x + 8 * i, rung(odd_eighths, d, step[i / 2]), 1, &index);
            p[i] = (uint8_t)index;
            high[i] = (uint8_t)(index >> 8 | (unsigned)down << 3);
        }
        put_nibbles(high, 32, p + 32);
        for (int w = 0; w < 4; w++) {
            unsigned word = (unsigned)(half >> 4 * w & 15) << 12;
            for (int i = 0; i < 4; i++) word |= (unsigned)step[4 * w + i] << 3 * i;
            nm_store_u16(p + 48 + 2 * w, (uint16_t)word);
        }
    }
}
