/* Owns the contract of an op: values, steps, and what an op may see of a run. A step is atomic and differentiable; how steps are
 * grouped, split over threads and separated by barriers is the schedule's business (program/). Refuses allocation and failure at run
 * time: shapes are checked when a program is built, memory is planned.
 *
 * Adding an op costs one file here and one line in ops.def. */
#ifndef NM_OP_H
#define NM_OP_H

#include <stdatomic.h>

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
    bool keep;                  /* lives to the end of the program (what backward will read) */
    int32_t first, last;        /* regions of the schedule between which it lives */
    int32_t q_first, q_last;    /* the same for its int8 copy */
    size_t offset, q_offset;    /* bytes in the run's memory */
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

/* One adapter's half maps on one weight: y = fma(scale, (x A') B', y).
 *   linear: a [rank, k] and b [n, rank], both packed F32.
 *   embed:  x is one-hot, so x A' is a column of A: a is its transpose [n, rank] as F32 rows, b [k, rank] packed F32. */
typedef struct nm_slot { nm_panels a, b; float scale; } nm_slot;
/* What a session has stacked on the model. slots of weight id w: slot[first[w]] .. slot[first[w + 1] - 1], in stack order. */
struct nm_stack {
    const int32_t *first;
    const nm_slot *slot;
    int32_t max_rank;
    uint64_t identity;          /* contents, scales and order of what it holds; 0 = not to be saved with */
    const void *owner;          /* the model whose weight ids these are */
};

/* A weight: a linear map in panels, or a vector (norms, biases). Const once the model is open. */
typedef struct nm_weight {
    char *name;
    int32_t id;                 /* index into stacks, gradients, moments */
    int64_t n, k;               /* outputs, inputs; a vector has k = 0 */
    nm_panels panels;
    const float *vector;
} nm_weight;

typedef struct nm_row {         /* one row of work */
    int32_t token, position;
    int32_t seq;                /* index into nm_exec.seq */
    const nm_stack *stack;      /* NULL = the base alone */
} nm_row;

/* What ops see of a run. */
typedef struct nm_exec {
    const nm_kernels *kernel;
    nm_compute compute;
    const nm_value *value;
    const int32_t *operand;
    const nm_weight *weight;
    const nm_kv_layout *kv;
    uint8_t *memory;
    uint8_t *scratch;           /* threads x scratch_bytes */
    size_t scratch_bytes;
    uint8_t *shared;            /* scratch that threads share inside one step */
    size_t shared_bytes;
    int64_t max_rows[2];        /* planned rows, by nm_rows */
    int64_t rows[2];            /* rows of this pass */
    const nm_row *row;          /* [rows[NM_ROWS_BATCH]] */
    const int32_t *out_row;     /* batch row of each row that wants logits */
    const nm_seq *seq;
    int32_t seqs;
    bool stacked;               /* some row has a stack */
    atomic_int *ticket;
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
    return atomic_load_explicit(&e->stopped, memory_order_relaxed) != 0;
}

typedef struct nm_shape {       /* what a shape check may see */
    const nm_value *value;
    const int32_t *operand;
    const nm_weight *weight;
    const nm_kv_layout *kv;
    nm_compute compute;
    int32_t max_rank;           /* of slots to make room for; 0 = no stacks */
} nm_shape;

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
    /* The adjoint: reads the gradients of the outputs and the values it saved, adds to those of the inputs. NULL: a program built for
     * training refuses the op by name. */
    void (*backward)(nm_exec *, const nm_step *, int thread, int threads);
    uint32_t saves;             /* bit i: backward reads operand i (inputs, then outputs) */
} nm_op;

extern const nm_op *const nm_ops[NM_OP_COUNT];

static inline int32_t nm_in(const int32_t *operand, const nm_step *s, int i) { return operand[s->operand + i]; }
static inline int32_t nm_out(const int32_t *operand, const nm_step *s, int i) { return operand[s->operand + s->n_in + i]; }
static inline int32_t nm_weight_of(const int32_t *operand, const nm_step *s, int i) { return operand[s->operand + s->n_in + s->n_out + i]; }

/* The value that owns v's memory, and the columns it has. */
static inline const nm_value *nm_owner(const nm_value *value, int32_t v) { return value[v].parent < 0 ? &value[v] : &value[value[v].parent]; }
static inline size_t nm_ld(const nm_value *value, int32_t v) { return (size_t)nm_owner(value, v)->dim; }
static inline float *nm_at(const nm_exec *e, int32_t v, int64_t row)
{
    const nm_value *own = nm_owner(e->value, v);
    return (float *)(e->memory + own->offset) + row * own->dim + e->value[v].column;
}
static inline float *nm_at_in(const nm_exec *e, const nm_step *s, int i, int64_t row) { return nm_at(e, nm_in(e->operand, s, i), row); }
static inline float *nm_at_out(const nm_exec *e, const nm_step *s, int i, int64_t row) { return nm_at(e, nm_out(e->operand, s, i), row); }
static inline nm_qrows nm_at_q(const nm_exec *e, int32_t v)
{
    const nm_value *own = &e->value[v];
    return nm_qrows_at(e->memory + own->q_offset, e->max_rows[own->rows], own->dim);
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
