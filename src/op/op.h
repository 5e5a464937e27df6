/* Owns the contract of an op: values, steps, and what an op may see of a run. A step is atomic and differentiable; how steps are
 * grouped, split over threads and separated by barriers is the schedule's business (program/). Refuses allocation and failure at run
 * time: shapes are checked when a program is built, memory is planned.
 *
 * Adding an op costs one file here and one line in ops.def. */
#ifndef NM_OP_H
#define NM_OP_H

#include <stdatomic.h>

#include "op/dropout.h"
#include "op/state.h"

typedef enum nm_opcode {
#define NM_OP(name, symbol) NM_OP_##name,
#include "op/ops.def"
#undef NM_OP
    NM_OP_COUNT
} nm_opcode;

/* A matrix of fp32: one row per token of the batch, or per row that wants logits. */
typedef enum nm_rows { NM_ROWS_BATCH, NM_ROWS_OUT } nm_rows;

typedef struct nm_value {
    nm_rows rows;
    int64_t dim;                /* columns */
    int32_t parent;             /* a view on `dim` columns of another value from `column` on; -1 = owns its memory */
    int64_t column;
    bool quantized;             /* an int8 copy is planned beside it, for the linear maps that read it */
    bool keep;                  /* lives to the end of the forward program */
    int32_t first, last;        /* regions of the schedule between which it lives */
    int32_t q_first, q_last;    /* the same for its int8 copy */
    int32_t g_first, g_last;    /* and for its gradient */
    size_t offset, q_offset, g_offset;      /* bytes in the run's memory */
} nm_value;

typedef enum nm_activation { NM_ACT_SILU, NM_ACT_GELU_TANH, NM_ACT_GELU_ERF } nm_activation;

typedef union nm_op_args {
    struct { bool positions; float scale; } embed;          /* look up by position instead of token */
    struct { float eps; bool layer; int32_t group; } norm;  /* group: columns normalised together (a head); 0 = all */
    struct { float alpha; } add;                            /* a + alpha * b */
    struct { float factor; } scale;
    struct { float cap; } softcap;
    struct { nm_activation act; } act;
    struct { const float *frequency; int32_t pairs; float magnitude; } table;     /* radians per position, [pairs] */
    struct { int32_t head, n_rot; bool neox; } rope;        /* head: columns of a head */
    struct { int32_t slot, heads, heads_kv, d_k, d_v, window; float scale, cap; } attention;
} nm_op_args;

typedef struct nm_step {
    nm_opcode op;
    uint16_t n_in, n_out, n_weight;
    int32_t operand;            /* first of n_in inputs, n_out outputs, n_weight weights in the program's index array */
    int32_t layer;              /* for messages and dumps; -1 outside of layers */
    int32_t ticket;             /* a counter of the run for work handed out dynamically */
    nm_op_args args;
} nm_step;

/* One adapter's half maps on one weight: y = fma(scale, (x A') B', y); with a gain (DoRA) then y = (y - bias) * gain + bias, output by output.
 *   linear: a [rank, k] and b [n, rank], both packed F32.
 *   embed:  x is one-hot, so x A' is a column of A: a is its transpose [n, rank] as F32 rows, b [k, rank] packed F32. */
typedef struct nm_slot { nm_panels a, b; float scale; const float *gain; } nm_slot;     /* gain: [n], or NULL; of linear maps alone */
/* What a session has stacked on the model. slots of weight id w: slot[first[w]] .. slot[first[w + 1] - 1], in stack order. */
struct nm_stack {
    const int32_t *first;
    const nm_slot *slot;
    int32_t max_rank;           /* of the slots of one weight together, at most */
    bool gains;                 /* a slot has a gain */
    uint64_t identity;          /* contents, scales and order of what it holds; 0 = not to be saved with */
    const void *owner;          /* the model whose weight ids these are */
};

/* What max_rank of a stack on so many weights is. */
static inline int32_t nm_stack_rank(const nm_stack *stack, size_t weights)
{
    int64_t most = 0;
    for (size_t w = 0; w < weights; w++) {
        int64_t sum = 0;
        for (int32_t i = stack->first[w]; i < stack->first[w + 1]; i++) sum += stack->slot[i].b.k;
        if (sum > most) most = sum;
    }
    return (int32_t)most;
}

/* A weight: a linear map in panels, or a vector (norms, biases). Const once the model is open. */
typedef struct nm_weight {
    char *name;
    int32_t id;                 /* index into stacks, gradients, moments */
    int64_t n, k;               /* outputs, inputs; a vector has k = 0 */
    nm_panels panels;
    const float *vector;
} nm_weight;

/* ---- Training ---------------------------------------------------------------------------------------------------------------- */

/* What is trained of a weight, by its id. GAIN: the slot has a gain. */
enum { NM_TRAIN_SLOT = 1, NM_TRAIN_WHOLE = 2, NM_TRAIN_GAIN = 4 };

/* The adapter that is being trained on one weight, as the last slot of its map: y = fma(scale, (x A') B', y). Each half lies twice, so that every
 * product reads rows; gradients are left folds over the rows of a step, in order. rank 0: none.
 * With a gain (DoRA) y = (y - bias) * gain + bias follows, gain = m / length with the length held constant: dm += dy (y - bias) / m. */
typedef struct nm_train_slot {
    int32_t rank;
    float scale;
    const float *a, *a_t;       /* [rank][k], [k][rank] */
    const float *b, *b_t;       /* [n][rank], [rank][n] */
    float *da, *db_t;           /* [rank][k], [rank][n] */
    const float *gain, *inverse;    /* [n]: gain or NULL; 1 / m, 0 where m is 0 */
    float *dm;                  /* [n] */
} nm_train_slot;
typedef struct nm_train {
    const nm_train_slot *slot;  /* by weight id */
    float *const *grad;         /* by weight id: [n][k], or [n] of a vector; NULL = not asked for. The whole may be NULL */
    nm_dropout dropout;         /* of what goes into the A halves */
} nm_train;

/* What a step's backward owes, by input: bit i of `wants`: the gradient of input i is asked for; of `adds`: it holds something already, to which
 * this step adds (else it is set). */
typedef struct nm_owed { uint8_t wants, adds; } nm_owed;

enum { NM_TICKETS = 4, NM_BACK_TICKETS = 3 };   /* counters of a step's forward and backward */

typedef struct nm_row {         /* one row of work */
    int32_t token, position;
    int32_t seq;                /* index into nm_exec.seq */
    const nm_stack *stack;      /* NULL = the base alone */
} nm_row;

/* What ops see of a run. */
typedef struct nm_exec {
    const nm_kernels *kernel;
    nm_compute compute;
    bool bf16;                  /* training: what the base's linear maps and attention's backward multiply is rounded to bf16; slots and folds over all rows stay fp32 */
    const nm_value *value;
    const int32_t *operand;
    const nm_weight *weight;
    const nm_kv_layout *kv;
    uint8_t *memory;
    uint8_t *scratch;           /* threads x scratch_bytes */
    size_t scratch_bytes;
    uint8_t *shared;            /* scratch that threads share inside one step */
    size_t shared_bytes;
    int32_t together;           /* steps of a wide region, at most, which have neighbouring tickets */
    size_t slot_ranks;          /* of a map's slots together, the trained one's too, at most */
    int64_t max_rows[2];        /* planned rows, by nm_rows */
    int64_t rows[2];            /* rows of this pass */
    const nm_row *row;          /* [rows[NM_ROWS_BATCH]] */
    const int32_t *out_row;     /* batch row of each row that wants logits */
    const nm_seq *seq;
    int32_t seqs;
    /* Row r is the same row of the sequences copy_seq[copy_from[r]] up to copy_seq[copy_from[r + 1] - 1], too, which keep its key and value; NULL: of none. */
    const int32_t *copy_from, *copy_seq;
    bool stacked;               /* some row has a stack */
    atomic_int *ticket;         /* NM_TICKETS a step; a plan for training has NM_BACK_TICKETS more of each behind them */
    int32_t tickets;            /* steps that have one */
    const nm_step *step;        /* the program's */
    const nm_owed *owed;        /* by step; NULL outside of training */
    const nm_train *train;
    /* The gradient of a row's logits from the logits, written to `gradient`, which may be where they are; row: of NM_ROWS_OUT; own: [n] of scratch. On any
     * thread. */
    void (*loss)(void *arg, int64_t row, const float *logits, int64_t n, float *gradient, float *own);
    void *loss_arg;
    /* Asked by thread 0 between regions and inside long steps; true = stop. NULL = never. */
    bool (*stop)(void *arg);
    void *stop_arg;
    int32_t region;             /* where thread 0 is; its own */
    atomic_int stopped;         /* 0; or n: stopped before region n; or -n: inside region n - 1, which must run again */
} nm_exec;

/* For wide phases to ask between tickets: true = leave the rest of the step undone. The whole region runs again later, to the same bits,
 * because steps write nothing that they read. */
static inline bool nm_halted(nm_exec *e, int thread)
{
    if (thread == 0 && e->stop && !atomic_load_explicit(&e->stopped, memory_order_relaxed) && e->stop(e->stop_arg))
        atomic_store_explicit(&e->stopped, -(e->region + 1), memory_order_relaxed);
    return atomic_load_explicit(&e->stopped, memory_order_relaxed) < 0;      /* above 0: thread 0 is done with this region, which is to end whole */
}

typedef struct nm_shape {       /* what a shape check may see */
    const nm_value *value;
    const int32_t *operand;
    const nm_weight *weight;
    const nm_kv_layout *kv;
    nm_compute compute;
    bool bf16;
    int32_t max_rank;           /* of a map's slots together, to make room for; 0 = no stacks */
    const uint8_t *trained;     /* NM_TRAIN_* by weight id; NULL outside of training */
    int32_t train_rank;         /* the largest rank that is trained */
    int32_t together;           /* as nm_exec has it; of scratch alone */
} nm_shape;

static inline int nm_trained(const nm_shape *c, int32_t weight) { return c->trained ? c->trained[weight] : 0; }

/* An op runs in up to two phases. `row` handles columns [c0, c1) of one row and touches only what belongs to that row; consecutive row
 * phases are fused, row by row, without barriers. `wide` runs on all threads together, takes its work by ticket or share, and may use
 * nm_pool_barrier. An op with both runs `row` first. */
typedef struct nm_op {
    const char *name;
    nm_err (*shape)(const nm_shape *, const nm_step *);
    /* True if this step reads input 0 as int8: the schedule then has it quantised once for all its readers. NULL: never. */
    bool (*reads_int8)(const nm_shape *, const nm_step *);
    void (*row)(const nm_exec *, const nm_step *, int64_t row, int64_t c0, int64_t c1);
    bool columns;               /* `row` may be given part of the columns (multiples of 64); else c0 = 0, c1 = dim */
    void (*wide)(nm_exec *, const nm_step *, int thread, int threads);
    size_t (*scratch)(const nm_shape *, const nm_step *, int64_t max_rows);         /* bytes per thread */
    size_t (*shared)(const nm_shape *, const nm_step *, int64_t max_rows, int64_t context);
    /* The adjoint, in the same two phases: reads the gradients of the outputs, which it may destroy, and what it saves of the forward; sets
     * the gradients of inputs, or adds to them, as nm_owed says. A wide phase also folds the rows into the gradients of weights. Both NULL and not
     * `constant`: a program that is built for training refuses the op by name. */
    void (*back_row)(const nm_exec *, const nm_step *, int64_t row);
    void (*back_wide)(nm_exec *, const nm_step *, int thread, int threads);
    bool constant;              /* no gradient flows through it */
    uint32_t saves;             /* bit i: backward reads operand i (inputs, then outputs) */
    uint32_t saves_trained;     /* and these where a weight of the step is trained */
    uint32_t saves_gain;        /* and these where what is trained has a gain */
    uint32_t again;             /* inputs that `wide` reads, where it runs again for backward without `row`; 0: all, and both phases run */
} nm_op;

extern const nm_op *const nm_ops[NM_OP_COUNT];

static inline int32_t nm_in(const int32_t *operand, const nm_step *s, int i) { return operand[s->operand + i]; }
static inline int32_t nm_out(const int32_t *operand, const nm_step *s, int i) { return operand[s->operand + s->n_in + i]; }
static inline int32_t nm_weight_of(const int32_t *operand, const nm_step *s, int i) { return operand[s->operand + s->n_in + s->n_out + i]; }

/* The value that owns v's memory, and the columns it has. */
static inline const nm_value *nm_owner(const nm_value *value, int32_t v) { return value[v].parent < 0 ? &value[v] : &value[value[v].parent]; }
/* Floats from row to row of an owner. Rows a multiple of 2 KB apart would lie in a few sets of the caches: these get another line. */
static inline int64_t nm_stride(const nm_value *owner)
{
    enum { CROWD = 512, LINE = 16 };       /* floats of 2 KB, and of a line */
    return owner->dim % CROWD ? owner->dim : owner->dim + LINE;
}
static inline size_t nm_ld(const nm_value *value, int32_t v) { return (size_t)nm_stride(nm_owner(value, v)); }
static inline float *nm_at(const nm_exec *e, int32_t v, int64_t row)
{
    const nm_value *own = nm_owner(e->value, v);
    return (float *)(e->memory + own->offset) + row * nm_stride(own) + e->value[v].column;
}
static inline float *nm_at_in(const nm_exec *e, const nm_step *s, int i, int64_t row) { return nm_at(e, nm_in(e->operand, s, i), row); }
static inline float *nm_at_out(const nm_exec *e, const nm_step *s, int i, int64_t row) { return nm_at(e, nm_out(e->operand, s, i), row); }
/* The same places of gradients. */
static inline float *nm_grad(const nm_exec *e, int32_t v, int64_t row)
{
    const nm_value *own = nm_owner(e->value, v);
    return (float *)(e->memory + own->g_offset) + row * nm_stride(own) + e->value[v].column;
}
static inline float *nm_grad_in(const nm_exec *e, const nm_step *s, int i, int64_t row) { return nm_grad(e, nm_in(e->operand, s, i), row); }
static inline float *nm_grad_out(const nm_exec *e, const nm_step *s, int i, int64_t row) { return nm_grad(e, nm_out(e->operand, s, i), row); }
static inline bool nm_wants(const nm_exec *e, const nm_step *s, int i) { return e->owed[s - e->step].wants >> i & 1; }
static inline bool nm_adds(const nm_exec *e, const nm_step *s, int i) { return e->owed[s - e->step].adds >> i & 1; }
/* Where the gradient of a step's weight as a whole is folded; NULL = not asked for. */
static inline float *nm_weight_grad(const nm_exec *e, const nm_step *s, int i)
{
    return s->n_weight > i && e->train->grad ? e->train->grad[nm_weight_of(e->operand, s, i)] : NULL;
}
static inline atomic_int *nm_ticket(const nm_exec *e, const nm_step *s, int i) { return &e->ticket[NM_TICKETS * s->ticket + i]; }
static inline atomic_int *nm_back_ticket(const nm_exec *e, const nm_step *s, int i) { return &e->ticket[NM_TICKETS * e->tickets + NM_BACK_TICKETS * s->ticket + i]; }
/* gradient of input i += g, or = g; n columns. */
static inline void nm_grad_put(const nm_exec *e, const nm_step *s, int i, int64_t row, int64_t c0, const float *g, int64_t n)
{
    float *to = nm_grad_in(e, s, i, row) + c0;
    if (nm_adds(e, s, i)) e->kernel->add_scaled(to, g, 1, n, to);
    else e->kernel->scale(g, 1, n, to);
}
static inline nm_qrows nm_at_q(const nm_exec *e, int32_t v)
{
    const nm_value *own = &e->value[v];
    return nm_qrows_at(e->memory + own->q_offset, e->max_rows[own->rows], own->dim, nm_qrows_tile(e->kernel, e->rows[own->rows]));
}
static inline const nm_weight *nm_step_weight(const nm_exec *e, const nm_step *s, int i) { return &e->weight[nm_weight_of(e->operand, s, i)]; }

/* Even share of n things in units of `grain`: [from, to) of this thread. */
static inline void nm_share(int64_t n, int64_t grain, int thread, int threads, int64_t *from, int64_t *to)
{
    int64_t units = (n + grain - 1) / grain;
    *from = units * thread / threads * grain;
    *to = units * (thread + 1) / threads * grain;
    if (*from > n) *from = n;
    if (*to > n) *to = n;
}

/* Shape checks' own message: NM_BAD_FILE naming the step's layer and op. */
nm_err nm_bad_shape(const nm_step *s, const char *what, int64_t got, int64_t expected);

#endif
