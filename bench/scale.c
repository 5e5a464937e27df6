/* What a pass would take on machines that are not at hand: takes the real plan of a model (regions, tasks, weights, the grain of src/op/linear.c) and plays it with
 * P threads that take tickets, wait for memory that they share, and meet at barriers. Not measured there: every constant is an assumption that docs/scaling.md states.
 *     meson compile -C build scale && build/bench/scale MODEL.gguf [--like-8b] [--plan]
 * --like-8b: the same plan with the shapes of an 8B Llama (32 layers, 4,096, 14,336, 8 KV heads of 128). --plan: counts regions and tickets instead. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "model/model.h"
#include "op/linear.c"          /* for grain_of, which is its own */
#include "program/program.h"

enum { MOST_THREADS = 256, PREFILL_ROWS = 512, COLUMNS = 64, KEYS = 1024 };     /* KEYS: the past of a decode, and what prefill sees on average is 256 */

typedef enum placement { ONE_NODE, INTERLEAVED, BY_OWNER } placement;
typedef enum barrier { CENTRAL, TREE } barrier;

typedef struct machine {
    const char *name;
    int cores, sockets;
    double socket_gb, core_gb;          /* read bandwidth of a socket's memory, and what one core can take */
    double link_gb;                     /* between sockets, one direction */
    double int8_gops, fp32_gflops;      /* one core, all cores busy: what kernels reach, not peaks */
} machine;

/* Seconds. */
static const double LINE_NEAR = 60e-9, LINE_FAR = 140e-9;       /* a cache line from another core of the socket; from the other socket */
static const double ADD_NEAR = 25e-9, ADD_FAR = 90e-9;          /* one atomic addition to a line that all others want, in turn */
static const double SEEN = 4e-9;                                /* each further waiter that reads the released line */
static const double SPIN = 20e-6, WAKE = 6e-6, WAKE_EACH = 1.0e-6;  /* src/base/pool.c's spin; futex: first to run; and each further sleeper, woken in turn */
static const double ELEMENT = 0.25e-9;                          /* a float of a row phase */
static const double SLOW = 0.06;                                /* the slowest of many cores is so much behind the mean */

/* What the code does, or might do: barriers; a look at the counter before adding to it; few tickets of many rows are cut by rows, too; norms are cut by columns. */
typedef struct setting { machine m; int threads; placement place; barrier barrier; bool look_first, cut_rows, cut_norms; } setting;

typedef struct sizes { bool big; int64_t embd, ff, kv, vocab; double layers; } sizes;

/* ---- Shapes ------------------------------------------------------------------------------------------------------------------------ */

static int64_t dim_of(const sizes *s, int64_t d)
{
    if (!s->big) return d;
    return d == s->embd ? 4096 : d == s->ff ? 14336 : d == s->kv ? 1024 : d == s->vocab ? 128256 : d;
}

static nm_panels panels_of(const sizes *s, const nm_panels *w)
{
    nm_panels p = *w;
    p.n = dim_of(s, w->n);
    p.k = dim_of(s, w->k);
    p.panels = (p.n + NM_PANEL - 1) / NM_PANEL;
    p.row_bytes = (size_t)((double)w->row_bytes * (double)p.k / (double)w->k);
    return p;
}

/* ---- Memory and barriers ------------------------------------------------------------------------------------------------------------- */

static int sockets_of(const setting *s) { return s->threads > s->m.cores / s->m.sockets ? s->m.sockets : 1; }

/* GB/s that one of `busy` threads gets; node: its socket. */
static double bandwidth(const setting *s, int busy, int node)
{
    int sockets = sockets_of(s);
    double per_socket = fmax(1, (double)busy / sockets), own = fmin(s->m.core_gb, s->m.socket_gb / per_socket), far = fmin(s->m.core_gb * 0.6, s->m.link_gb / per_socket);
    if (sockets == 1 || s->place == BY_OWNER) return own;
    if (s->place == INTERLEAVED) return 1 / (0.5 / own + 0.5 / fmin(far, own));
    own = fmin(s->m.core_gb, s->m.socket_gb / fmax(1, busy));          /* all of it on node 0 */
    return node == 0 ? own : fmin(far, own);
}

/* From the last arrival to the last departure. */
static double barrier_seconds(const setting *s)
{
    int sockets = sockets_of(s), group = 8;
    double line = sockets > 1 ? LINE_FAR : LINE_NEAR;
    if (s->threads == 1) return 0;
    if (s->barrier == CENTRAL) return (sockets > 1 ? ADD_FAR : ADD_NEAR) + 2 * line + s->threads * SEEN;
    return 2 * (ADD_NEAR + LINE_NEAR) + line + fmin(group, s->threads) * SEEN * 2;
}

/* Arrivals at one counter follow each other: with P threads at once the last gets through so much later. */
static double arrival_seconds(const setting *s)
{
    double add = sockets_of(s) > 1 ? ADD_FAR : ADD_NEAR;
    return s->barrier == CENTRAL ? add * s->threads : add * sockets_of(s) + ADD_NEAR * 8;
}

/* Sleepers are woken one after another by the last to arrive; as a tree, each wakes two. */
static double wake_seconds(const setting *s, int sleepers)
{
    if (sleepers <= 0) return 0;
    return WAKE + (s->barrier == CENTRAL ? WAKE_EACH * sleepers : WAKE_EACH * 2 * log2(1 + sleepers));
}

/* ---- Regions -------------------------------------------------------------------------------------------------------------------------- */

typedef struct clock { double at[MOST_THREADS]; double work, serial, tickets, barrier; } clocks;

static double pace(const setting *s, int thread) { return 1 + SLOW * (s->threads > 1 ? 2.0 * thread / (s->threads - 1) - 1 : 0); }

static int earliest(const clocks *c, int threads)
{
    int best = 0;
    for (int i = 1; i < threads; i++) if (c->at[i] < c->at[best]) best = i;
    return best;
}

/* `tickets` equal pieces of bytes read and operations, taken from one counter. */
static void play_tickets(const setting *s, clocks *c, int64_t tickets, double bytes, double seconds)
{
    double counter = 0, add = s->threads == 1 ? 5e-9 : sockets_of(s) > 1 ? ADD_FAR : ADD_NEAR;
    int per = s->m.cores / s->m.sockets, busy = tickets < s->threads ? (int)tickets : s->threads;
    int64_t given = 0, left = s->threads;
    while (left > 0) {          /* until each thread has asked once in vain */
        int t = earliest(c, s->threads);
        bool vain = given >= tickets, look = vain && s->look_first;
        double taken = look ? c->at[t] + (sockets_of(s) > 1 ? LINE_FAR : LINE_NEAR) : fmax(c->at[t], counter) + add;
        if (!look) counter = taken;
        c->tickets += taken - c->at[t];
        if (vain) {             /* out of the race */
            left--;
            c->at[t] = taken + 1e3;
            continue;
        }
        given++;
        double read = bytes / (bandwidth(s, busy, t / per) * 1e9), work = fmax(read, seconds) * pace(s, t);
        c->at[t] = taken + work;
        c->work += work;
    }
    for (int i = 0; i < s->threads; i++) c->at[i] -= 1e3;
}

static void meet(const setting *s, clocks *c)
{
    double last = 0;
    int sleepers = 0;
    for (int i = 0; i < s->threads; i++) last = fmax(last, c->at[i]);
    for (int i = 0; i < s->threads; i++) sleepers += last - c->at[i] > SPIN;
    /* Those that came long before are through the counter; of the rest, all may stand in line. */
    int late = 0;
    for (int i = 0; i < s->threads; i++) late += last - c->at[i] < arrival_seconds(s);
    double after = last + (s->threads > 1 ? arrival_seconds(s) * late / s->threads : 0) + barrier_seconds(s) + wake_seconds(s, sleepers);
    c->barrier += after - last;
    for (int i = 0; i < s->threads; i++) c->at[i] = after;
}

static void play_linear(const setting *s, clocks *c, const nm_panels *w, int64_t rows)
{
    int64_t grain = grain_of(w, rows, s->threads, false), tickets = (w->panels + grain - 1) / grain;    /* with few rows the last ones go in thirds: not played */
    while (s->cut_rows && tickets < 3 * s->threads && rows >= 128) {
        tickets *= 2;
        rows /= 2;
    }
    double panel = (double)NM_PANEL * (double)w->row_bytes, operations = 2.0 * NM_PANEL * (double)w->k * (double)grain * (double)rows;
    double lay = (double)rows * (double)w->k * 0.03e-9;         /* activations side by side, once a ticket */
    play_tickets(s, c, tickets, panel * (double)grain, operations / (s->m.int8_gops * 1e9) + lay);
}

static void play_attention(const setting *s, clocks *c, const nm_step *step, const sizes *z, int64_t rows)
{
    int heads = z->big ? 32 : step->args.attention.heads, kv = z->big ? 8 : step->args.attention.heads_kv, d = z->big ? 128 : step->args.attention.d_k;
    if (rows <= 4) {
        int64_t chunks = (KEYS + 255) / 256;
        play_tickets(s, c, rows * chunks * kv, 256.0 * 4 * d, 256.0 * 4 * d * heads / kv / (s->m.fp32_gflops * 1e9));
        meet(s, c);
        return;
    }
    int group = heads / kv, block = NM_QUERIES / (group < NM_QUERIES ? group : NM_QUERIES);
    while (block > 4 && rows / block * kv < 3 * s->threads) block = (block + 1) / 2;
    int64_t items = (rows + block - 1) / block * kv;
    play_tickets(s, c, items, 0, 4.0 * d * group * block * 256 / (s->m.fp32_gflops * 1e9));
}

static void play_rows(const setting *s, clocks *c, const nm_plan *p, const nm_region *r, const sizes *z, int64_t rows)
{
    double elements = 0;
    int64_t widest = 0;
    for (int32_t t = r->task; t < r->task + r->tasks; t++) {
        const nm_task *task = &p->task[t];
        int64_t dim = dim_of(z, p->value[task->step < 0 ? task->value : nm_out(p->program->operand, &p->program->step[task->step], 0)].dim);
        elements += (double)dim;
        widest = dim > widest ? dim : widest;
    }
    int64_t units = rows >= s->threads ? rows : r->columns || s->cut_norms ? (widest + COLUMNS - 1) / COLUMNS * rows : rows;
    double share = ceil((double)units / s->threads) / (double)units, seconds = elements * (double)rows * ELEMENT * share;
    for (int i = 0; i < s->threads && i < units; i++) c->at[i] += seconds * pace(s, i);
    c->serial += seconds;
}

/* ---- A pass ----------------------------------------------------------------------------------------------------------------------------- */

static double pass_seconds(const setting *s, const nm_plan *p, const nm_weight *weight, const sizes *z, int64_t rows, clocks *c)
{
    double layers = 0;
    *c = (clocks){0};
    for (int i = 0; i < s->threads; i++) c->at[i] = wake_seconds(s, s->threads - 1);     /* nobody spins between tokens */
    for (size_t i = 0; i < p->regions; i++) {
        const nm_region *r = &p->region[i];
        int64_t count = r->rows == NM_ROWS_OUT ? 1 : rows;
        if ((int32_t)i == p->head) layers = c->at[0];
        for (int32_t t = r->task; r->wide && t < r->task + r->tasks; t++) {
            const nm_step *step = &p->program->step[p->task[t].step];
            if (step->op == NM_OP_ATTENTION) play_attention(s, c, step, z, count);
            if (step->op != NM_OP_LINEAR) continue;
            nm_panels w = panels_of(z, &weight[nm_weight_of(p->program->operand, step, 0)].panels);
            play_linear(s, c, &w, count);
        }
        if (!r->wide) play_rows(s, c, p, r, z, count);
        meet(s, c);
    }
    double total = c->at[0];
    return z->big ? layers * 32 / z->layers + total - layers : total;
}

static double bytes_of(const nm_plan *p, const nm_weight *weight, const sizes *z)
{
    double bytes = 0;
    for (size_t i = 0; i < p->program->steps; i++) {
        const nm_step *step = &p->program->step[i];
        if (step->op != NM_OP_LINEAR) continue;
        nm_panels w = panels_of(z, &weight[nm_weight_of(p->program->operand, step, 0)].panels);
        bytes += (double)w.n * (double)w.row_bytes * (z->big && step->layer >= 0 ? 32 / z->layers : 1);
    }
    return bytes;
}

static void count_plan(const nm_plan *p, const nm_weight *weight, const sizes *z)
{
    int wide = 0, serial = 0, columns = 0, inside = 0;
    for (size_t i = 0; i < p->regions; i++) {
        const nm_region *r = &p->region[i];
        wide += r->wide;
        columns += !r->wide && r->columns;
        serial += !r->wide && !r->columns;
        if (r->wide) inside += p->program->step[p->task[r->task].step].op == NM_OP_ATTENTION;
    }
    printf("regions %zu (%.2f a layer): wide %d, rows by columns %d, rows on one thread when decoding %d; barriers inside attention %d\n", p->regions,
        (double)p->regions / z->layers, wide, columns, serial, inside);
    for (int threads = 2; threads <= 192; threads *= threads == 2 ? 4 : threads == 8 ? 8 : 3) {
        double decode = 0, prefill = 0, least = 1e9;
        for (size_t i = 0; i < p->program->steps; i++) {
            const nm_step *step = &p->program->step[i];
            if (step->op != NM_OP_LINEAR) continue;
            nm_panels w = panels_of(z, &weight[nm_weight_of(p->program->operand, step, 0)].panels);
            double one = ceil((double)w.panels / (double)grain_of(&w, 1, threads, false));
            decode += one;
            prefill += ceil((double)w.panels / (double)grain_of(&w, PREFILL_ROWS, threads, false));
            least = fmin(least, one);
        }
        printf("%3d threads: tickets a token %.0f (the smallest map has %.0f), of a prefill pass %.0f\n", threads, decode, least, prefill);
    }
}

static void predict(const char *title, const setting *s, const nm_plan *p, const nm_weight *weight, const sizes *z)
{
    clocks d, f;
    double decode = pass_seconds(s, p, weight, z, 1, &d), prefill = pass_seconds(s, p, weight, z, PREFILL_ROWS, &f);
    double limit = s->m.socket_gb * 1e9 * sockets_of(s) / bytes_of(p, weight, z);
    limit = fmin(limit, s->m.core_gb * 1e9 * s->threads / bytes_of(p, weight, z));
    double layers = z->big ? 32 / z->layers : 1;
    printf("| %s | %s | %d | %.0f | %.0f %% | %.0f %% | %.0f %% | %.0f | %.0f %% |\n", s->m.name, title, s->threads, 1 / decode, 100 / decode / limit,
        100 * d.barrier * layers / decode, 100 * d.serial * layers / decode, PREFILL_ROWS / prefill, 100 * f.work * layers / s->threads / prefill);
}

static void predict_all(const nm_plan *p, const nm_weight *weight, const sizes *z)
{
    static const machine machines[] = {
        {"2 cores (this one)", 2, 1, 32, 17, 0, 420, 120},
        {"8 cores, desktop", 8, 1, 60, 30, 0, 420, 120},
        {"64 cores, one socket", 64, 1, 350, 14, 0, 350, 90},
        {"192 cores, two sockets", 192, 2, 400, 10, 100, 300, 80},
    };
    printf("| machine | code | threads | decode, tok/s | of its memory | at barriers | in row phases | prefill 512, tok/s | of its arithmetic |\n|---|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < 4; i++) {
        const machine *m = &machines[i];
        placement now = m->sockets > 1 ? ONE_NODE : BY_OWNER;
        setting v = {.m = *m, .threads = m->cores, .place = now};
        predict("as it is", &v, p, weight, z);
        if (m->sockets > 1) {
            v.place = INTERLEAVED;
            predict("pages interleaved", &v, p, weight, z);
            v.place = BY_OWNER;
            predict("pages with their thread", &v, p, weight, z);
        }
        if (m->cores > 2) {
            v.look_first = true;
            predict("+ a look before asking", &v, p, weight, z);
            v.barrier = TREE;
            predict("+ barriers as a tree", &v, p, weight, z);
            v.cut_rows = true;
            predict("+ maps cut by rows, too", &v, p, weight, z);
            v.cut_norms = true;
            predict("+ norms cut by columns", &v, p, weight, z);
        }
        for (int threads = 8; threads < m->cores; threads *= 2) predict("as it is, fewer threads", &(setting){.m = *m, .threads = threads, .place = now}, p, weight, z);
    }
}

int main(int argc, char **argv)
{
    nm_model *model = NULL;
    nm_plan plan;
    bool big = false, count = false;
    for (int i = 2; i < argc; i++) {
        big |= !strcmp(argv[i], "--like-8b");
        count |= !strcmp(argv[i], "--plan");
    }
    if (argc < 2 || nm_model_open(&model, argv[1], &(nm_model_options){.no_pack = true}) != NM_OK ||
        nm_plan_make(&plan, &model->program, model->weight, NM_COMPUTE_DEFAULT, PREFILL_ROWS, 16, model->config.n_context, 0) != NM_OK) {
        fprintf(stderr, "scale: %s\n", argc < 2 ? "give a model" : nm_error_text());
        return 2;
    }
    const nm_model_info *info = nm_model_describe(model);
    sizes z = {.big = big, .embd = info->n_embd, .vocab = info->n_vocab, .layers = info->n_layer};
    for (size_t i = 0; i < plan.program->steps; i++) {
        const nm_step *s = &plan.program->step[i];
        if (s->op == NM_OP_ATTENTION) z.kv = (int64_t)s->args.attention.heads_kv * s->args.attention.d_k;
        if (s->op == NM_OP_GLU) z.ff = plan.value[nm_out(plan.program->operand, s, 0)].dim;
    }
    if (count) count_plan(&plan, model->weight, &z);
    else predict_all(&plan, model->weight, &z);
    nm_plan_free(&plan);
    nm_model_close(&model);
    return 0;
}
