/* Owns programs: what a model computes, as one flat array of steps (law 3), and plans: how a run does it (schedule, law 4, and memory, law 5).
 *
 *   nm_builder  -> nm_program  built once per model by its architecture; immutable
 *   nm_program  -> nm_plan     once per runner: regions between barriers, where each value lives, how much scratch
 *   nm_plan     -> nm_exec     a pass: runs the regions on the compute pool
 *
 * Refuses: an op without a backward when the program is built for training; a shape that does not fit, naming layer and op. */
#ifndef NM_PROGRAM_H
#define NM_PROGRAM_H

#include "base/str.h"
#include "os/map.h"
#include "op/op.h"

typedef enum nm_mode { NM_MODE_INFER, NM_MODE_TRAIN } nm_mode;

typedef struct nm_program {
    nm_value *value;
    size_t values, value_capacity;
    nm_step *step;
    size_t steps, step_capacity;
    int32_t *operand;
    size_t operands, operand_capacity;
    float **constant;           /* frequencies and the like that steps point at */
    size_t constants, constant_capacity;
    nm_kv_slot *slot;           /* heads, d_k, d_v and group; offsets are the layout's */
    size_t slots, slot_capacity;
    int32_t window[NM_MAX_GROUPS];
    int32_t groups;
    int32_t hidden;             /* what the head's map reads: the last norm's output, in rows of NM_ROWS_OUT */
    int32_t result;             /* the logits, in the same rows */
    int32_t tickets;
} nm_program;

/* ---- Building --------------------------------------------------------------------------------------------------------------- */

/* Finds or binds a weight of n outputs and k inputs (k = 0: a vector) by its name in the file: *id, or *id = -1 where it is absent
 * and that is allowed. */
typedef nm_err (*nm_bind_fn)(void *arg, const char *name, int64_t n, int64_t k, bool optional, int32_t *id);

/* The first error sticks: later calls do nothing and return -1, so that builders read like the equations they are. */
typedef struct nm_builder {
    nm_program *program;
    nm_mode mode;
    nm_bind_fn bind;
    void *bind_arg;
    int32_t layer;              /* of the steps that are being added; -1 outside */
    nm_err err;
} nm_builder;

enum { NM_NONE = -1 };

/* Weights. `suffix` as in "attn_q.weight"; inside a layer the name is "blk.<layer>.<suffix>", outside it is the suffix itself. */
int32_t nm_build_map(nm_builder *b, const char *suffix, int64_t n, int64_t k);
int32_t nm_build_map_optional(nm_builder *b, const char *suffix, int64_t n, int64_t k);
int32_t nm_build_vector(nm_builder *b, const char *suffix, int64_t n);
int32_t nm_build_vector_optional(nm_builder *b, const char *suffix, int64_t n);

/* Steps; each returns its output value. Weights that are NM_NONE are left out. */
int32_t nm_build_embed(nm_builder *b, int32_t weight, int64_t dim, float scale, bool positions);
int32_t nm_build_rms_norm(nm_builder *b, int32_t x, int32_t weight, float eps, int32_t group);
int32_t nm_build_layer_norm(nm_builder *b, int32_t x, int32_t weight, int32_t bias, float eps, int32_t group);
int32_t nm_build_linear(nm_builder *b, int32_t x, int32_t weight, int32_t bias, int64_t n);
/* Rotary embedding with its scalings; see rope.c. */
typedef struct nm_rope {
    int32_t n_rot;              /* columns of a head that turn; even */
    bool neox;                  /* pairs (i, i + n_rot/2) instead of (2i, 2i+1) */
    float base;
    float linear;               /* positions are divided by it; 1 = none */
    const void *factors;        /* floats [n_rot/2], perhaps unaligned: divisors of the frequencies (Llama 3.1, LongRoPE), or NULL */
    float yarn_factor;          /* 0 = no YaRN (Peng et al. 2023) */
    float yarn_fast, yarn_slow, yarn_magnitude;     /* beta_fast, beta_slow; magnitude 0 = 0.1 ln(factor) + 1 */
    int64_t yarn_context;       /* the length trained before scaling */
} nm_rope;
int32_t nm_build_rope_table(nm_builder *b, const nm_rope *rope);
/* frequency: a constant of the program, [pairs] */
int32_t nm_build_table(nm_builder *b, const float *frequency, int32_t pairs, float magnitude);
int32_t nm_build_rope(nm_builder *b, int32_t x, int32_t table, const nm_rope *rope, int32_t head);
/* A new KV slot of its own; window 0 = all keys. */
int32_t nm_build_attention(nm_builder *b, int32_t q, int32_t k, int32_t v, int32_t heads, int32_t heads_kv, int32_t d_k, int32_t d_v,
    int32_t window, float scale, float cap);
int32_t nm_build_glu(nm_builder *b, int32_t gate, int32_t up, nm_activation act);
int32_t nm_build_act(nm_builder *b, int32_t x, nm_activation act);
int32_t nm_build_add(nm_builder *b, int32_t x, int32_t y, float alpha);     /* x + alpha * y */
int32_t nm_build_scale(nm_builder *b, int32_t x, float factor);             /* x itself where factor is 1 */
int32_t nm_build_softcap(nm_builder *b, int32_t x, float cap);              /* x itself where cap is 0 */
/* From here on: rows that want logits. No step of the whole batch may come behind the first. */
int32_t nm_build_select(nm_builder *b, int32_t x);
bool nm_build_selected(const nm_builder *b, int32_t x);
int32_t nm_build_view(nm_builder *b, int32_t x, int64_t column, int64_t dim);
void nm_build_result(nm_builder *b, int32_t hidden, int32_t logits);

/* Checks every step's shapes against the bound weights; refuses ops without a backward in NM_MODE_TRAIN. */
nm_err nm_program_check(const nm_program *program, nm_mode mode, const nm_weight *weight);
void nm_program_free(nm_program *program);
/* The KV layout that the program's slots make under a cache type; layout->slot is allocated (nm_free). */
nm_err nm_program_kv_layout(const nm_program *program, nm_kv_type type, nm_kv_layout *layout);
/* A line per step: "12 linear q = x wq [896x896]"; for tests, doctor and debugging. */
nm_err nm_program_dump(const nm_program *program, const nm_weight *weight, nm_str *out);

/* ---- Planning --------------------------------------------------------------------------------------------------------------- */

typedef enum nm_task_kind {
    NM_TASK_FORWARD,            /* a phase of a step */
    NM_TASK_QUANTIZE,           /* the int8 copy of a value */
    NM_TASK_ZERO,               /* a value's gradient becomes 0 */
    NM_TASK_LOSS,               /* the gradient of the result, from the run's loss */
    NM_TASK_BACK                /* a phase of a step's adjoint */
} nm_task_kind;
typedef struct nm_task { nm_task_kind kind; int32_t step, value; } nm_task;     /* step, or -1 and the value */
typedef struct nm_region {      /* what runs between two barriers */
    int32_t task, tasks;
    bool wide;                  /* wide phases, side by side; else row phases, fused row by row */
    bool columns;               /* row phases that may be split by columns too */
    bool back;                  /* of the backward walk: values are where back_value says */
    nm_rows rows;
} nm_region;

/* What is trained, and how much of the forward is computed again for backward instead of being kept. */
typedef enum nm_remake { NM_REMAKE_NOTHING, NM_REMAKE_ROWS, NM_REMAKE_LAYERS } nm_remake;
typedef struct nm_train_plan {
    const uint8_t *trained;     /* NM_TRAIN_* by weight id */
    int32_t rank;               /* the largest trained rank */
    bool bf16;                  /* products of the base's linear maps and of attention's backward, op.h */
    nm_remake remake;           /* ROWS: what row phases make of values that are kept anyway; LAYERS: all but what crosses layers
                                 * or the head reads again, and its own rows */
} nm_train_plan;

typedef struct nm_plan {
    const nm_program *program;
    nm_compute compute;
    bool bf16;
    nm_value *value;            /* the program's, with lifetimes and places */
    nm_task *task;
    size_t tasks, task_capacity;
    nm_region *region;
    size_t regions, region_capacity;
    int32_t head;               /* first region of the head */
    int32_t logits;             /* first region of its map: before it there are the values of program->hidden, and no logits yet */
    int32_t body;               /* training: regions [body, head) clear what the head's backward adds to */
    int32_t loss, back;         /* training: regions [head, loss) are the head, [loss, back) the loss and the head's backward; from back on, the body's */
    bool over;                  /* training: the gradient of the result takes its place, since backward does not read it otherwise */
    nm_value *back_value;       /* values as the backward walk finds them: those that are made again lie elsewhere; NULL outside of training */
    nm_owed *owed;              /* by step */
    int64_t max_rows[2];
    size_t memory_bytes, scratch_bytes, shared_bytes;   /* values; per thread; shared inside a step */
    int32_t together;           /* steps of a wide region, at most */
    size_t slot_ranks;          /* as nm_exec has them */
} nm_plan;

nm_err nm_plan_make(nm_plan *plan, const nm_program *program, const nm_weight *weight, nm_compute compute, int64_t max_rows, int64_t max_out,
    int64_t context, int32_t max_rank);
/* The same for training in fp32 (but see bf16), the backward walk behind the forward one. max_rank: of the stack below. NM_REFUSED where an op has no adjoint. */
nm_err nm_plan_make_training(nm_plan *plan, const nm_program *program, const nm_weight *weight, const nm_train_plan *train, int64_t max_rows,
    int64_t max_out, int32_t max_rank);
void nm_plan_free(nm_plan *plan);

/* Placement of values with lifetimes: offsets such that no two that live at the same time overlap; returns the bytes in all.
 * Largest first, lowest gap that fits (Pisarchyk and Lee 2020, greedy by size). Sizes are multiples of 64. */
typedef struct nm_extent { size_t bytes, offset; int32_t first, last; } nm_extent;
nm_err nm_place(nm_extent *extent, size_t count, size_t *total);

/* ---- Running ---------------------------------------------------------------------------------------------------------------- */

/* A run walks regions [from, to) of the plan and may be interrupted (exec.stop) between two of them or inside one, and resumed to the same bits. */
typedef struct nm_walk {
    nm_exec exec;
    nm_exec back;               /* the same as the backward walk sees it; made from exec */
    const nm_plan *plan;
    int32_t at, end;            /* next region, one past the last */
    size_t scratch_total;       /* bytes of exec.scratch */
    /* A map in which weights lie, NULL: of none. What lies behind its first `settled` bytes leaves the resident set soon after its use: for passes that compute
     * far longer than the system takes to map it again (15 ms/GB). used: bytes of weights since then. */
    const nm_map *map;
    size_t settled, used;
} nm_walk;

/* Takes the memory that the plan asks for, and fills in what of exec the plan and the weights decide. weight: by id; both outlive the walk. */
nm_err nm_walk_open(nm_walk *walk, const nm_plan *plan, const nm_weight *weight);
void nm_walk_close(nm_walk *walk);
/* Scratch follows the number of threads, which may change between runs: call before each. */
nm_err nm_walk_fit(nm_walk *walk);
/* Runs until the end or until stop() says so; *done tells which. */
nm_err nm_walk_some(nm_walk *walk, bool *done);

#endif
