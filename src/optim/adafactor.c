/* Adafactor (Shazeer and Stern 2018) with a rate from outside and no first moment, as transformers' Adafactor does with relative_step=False and
 * scale_parameter=False: of the second moments only the means of rows R and columns C are kept
 *   d = 1 - t^-0.8;  R, C = d R + (1 - d) means of g^2 + 1e-30;  u = g / sqrt(R C' / mean(R));  u = u / max(1, rms(u));  p = p (1 - lr decay) - lr u
 * Its state is nothing beside AdamW's: rows + columns numbers. */
#include <math.h>
#include <string.h>

#include "optim/optim.h"

static const double DECAY_RATE = 0.8;
static const float SQUARE_EPS = 1e-30f;

static size_t state(int64_t rows, int64_t columns) { return (size_t)(rows + columns) * sizeof(float); }
static size_t scratch(int64_t rows, int64_t columns) { return (size_t)columns * (sizeof(double) + sizeof(float)); }

/* The means of squares, rows then columns, into the state. */
static void take_means(const nm_optim_job *j, float keep, double *column)
{
    float *r = j->state, *c = r + j->rows;
    memset(column, 0, (size_t)j->columns * sizeof *column);
    for (int64_t i = 0; i < j->rows; i++) {
        const float *g = j->g + i * j->columns;
        double sum = 0;
        for (int64_t k = 0; k < j->columns; k++) {
            float square = g[k] * g[k] + SQUARE_EPS;
            sum += (double)square;
            column[k] += (double)square;
        }
        r[i] = keep * r[i] + (1 - keep) * (float)(sum / (double)j->columns);
    }
    for (int64_t k = 0; k < j->columns; k++) c[k] = keep * c[k] + (1 - keep) * (float)(column[k] / (double)j->rows);
}

/* g becomes u before its clipping; returns its root mean square. */
static float scale_gradient(const nm_optim_job *j, float *by_column)
{
    const float *r = j->state, *c = r + j->rows;
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < j->rows; i++) mean += (double)r[i];
    mean /= (double)j->rows;
    for (int64_t k = 0; k < j->columns; k++) by_column[k] = 1 / sqrtf(c[k]);
    for (int64_t i = 0; i < j->rows; i++) {
        float *g = j->g + i * j->columns, by_row = 1 / sqrtf(r[i] / (float)mean);
        for (int64_t k = 0; k < j->columns; k++) {
            g[k] *= by_row * by_column[k];
            squares += (double)g[k] * (double)g[k];
        }
    }
    return (float)sqrt(squares / (double)(j->rows * j->columns));
}

static void update(const nm_optim_job *j)
{
    double *column = j->scratch;
    take_means(j, (float)(1 - pow((double)j->step, -DECAY_RATE)), column);
    float rms = scale_gradient(j, (float *)(column + j->columns)), rate = j->lr / (rms > 1 ? rms : 1), keep = 1 - j->lr * j->set->weight_decay;
    for (int64_t i = 0; i < j->rows * j->columns; i++) j->p[i] = j->p[i] * keep - rate * j->g[i];
}

const nm_optim nm_optim_adafactor = {.name = "adafactor", .rate = 1, .state = state, .scratch = scratch, .update = update};
