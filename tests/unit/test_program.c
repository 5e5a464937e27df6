/* Programs and plans: shapes that do not fit are refused by name, training is refused where an op has no adjoint, regions are as few as the
 * operations allow, nothing that lives at the same time shares memory, and an interrupted run goes on to the same bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "model/model.h"

#include "../random_model.c"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- Shapes --------------------------------------------------------------------------------------------------------------------- */

/* Weights of whatever shape the test says, under any name. */
typedef struct made_up { nm_weight weight[8]; int32_t count; int64_t n, k; } made_up;

static nm_err bind_made_up(void *arg, const char *name, int64_t n, int64_t k, bool optional, int32_t *id)
{
    made_up *m = arg;
    m->weight[m->count] = (nm_weight){.id = m->count, .name = "made up", .n = m->n ? m->n : n, .k = k ? m->k ? m->k : k : 0,
        .panels = {.type = nm_type_of(NM_F32)}};
    *id = m->count++;
    return NM_OK;
}

static void refuse(nm_builder *b, made_up *m, const char *expected)
{
    nm_err err = b->err;
    if (err == NM_OK) err = nm_program_check(b->program, NM_MODE_INFER, m->weight);
    if (err != NM_BAD_FILE || !strstr(nm_error_text(), expected)) fail_msg("expected \"%s\", got %d, \"%s\"", expected, err, nm_error_text());
    nm_program_free(b->program);
    b->err = NM_OK;
    *m = (made_up){0};
}

static void test_shapes(void **state)
{
    nm_program p = {0};
    made_up m = {0};
    nm_builder b = {.program = &p, .bind = bind_made_up, .bind_arg = &m, .layer = 3};
    const nm_rope rope = {.n_rot = 16, .base = 10000, .linear = 1}, odd = {.n_rot = 15, .base = 10000, .linear = 1};

#define X(dim) nm_build_embed(&b, nm_build_map(&b, "x", 10, dim), dim, 1, false)
    m.k = 65;
    nm_build_embed(&b, nm_build_map(&b, "x", 10, 65), 64, 1, false);
    refuse(&b, &m, "layer 3: embed: width is 64, expected 65");
    int32_t x = X(64);
    m.k = 63;
    nm_build_linear(&b, x, nm_build_map(&b, "w", 32, 64), NM_NONE, 32);
    refuse(&b, &m, "layer 3: linear: inputs is 64, expected 63");
    x = X(64);
    m.n = 33;
    nm_build_linear(&b, x, nm_build_map(&b, "w", 32, 64), NM_NONE, 32);
    refuse(&b, &m, "layer 3: linear: outputs is 32, expected 33");
    x = X(64);
    int32_t w = nm_build_map(&b, "w", 32, 64);
    m.n = 31;
    nm_build_linear(&b, x, w, nm_build_vector(&b, "bias", 32), 32);
    refuse(&b, &m, "length of the bias is 31, expected 32");
    x = X(64);
    m.n = 48;
    nm_build_rms_norm(&b, x, nm_build_vector(&b, "norm", 64), 1e-5f, 0);
    refuse(&b, &m, "norm: length of the weight is 48, expected 64");
    nm_build_rms_norm(&b, X(64), NM_NONE, 1e-5f, 48);
    refuse(&b, &m, "norm: group is 48, expected 64");
    nm_build_add(&b, X(64), X(32), 1);
    refuse(&b, &m, "add: width is 32, expected 64");
    nm_build_glu(&b, X(64), X(32), NM_ACT_SILU);
    refuse(&b, &m, "glu: width is 32, expected 64");
    nm_build_attention(&b, X(64), X(32), X(32), 4, 3, 16, 16, 0, 1, 0);
    refuse(&b, &m, "attention: number of KV heads is 3, expected 4");
    nm_build_attention(&b, X(64), X(48), X(32), 4, 2, 16, 16, 0, 1, 0);
    refuse(&b, &m, "attention: width of k is 48, expected 32");
    nm_build_attention(&b, X(64), X(32), X(48), 4, 2, 16, 16, 0, 1, 0);
    refuse(&b, &m, "attention: width of v is 48, expected 32");
    nm_build_rope(&b, X(64), nm_build_rope_table(&b, &rope), &rope, 24);
    refuse(&b, &m, "rope: width is 64, expected 24");
    nm_build_rope(&b, X(64), nm_build_rope_table(&b, &rope), &rope, 8);
    refuse(&b, &m, "rope: rotated columns is 16, expected 8");
    nm_build_rope_table(&b, &odd);
    refuse(&b, &m, "over 15 columns: an even number is needed");
    x = X(64);
    nm_build_add(&b, x, nm_build_select(&b, x), 1);
    refuse(&b, &m, "layer 3: add: rows of the batch and rows that want logits do not go together");
    nm_build_select(&b, X(64));
    X(64);
    refuse(&b, &m, "embed: of the whole batch, behind rows that want logits");
    nm_build_select(&b, nm_build_select(&b, X(64)));
    refuse(&b, &m, "select: rows of the batch");
    nm_build_select(&b, nm_build_view(&b, X(64), 0, 32));
    refuse(&b, &m, "select: rows of the batch");
    nm_build_view(&b, X(64), 60, 5);
    refuse(&b, &m, "columns 60 to 65 of a value of 64");
    nm_build_embed(&b, 0, 0, 1, false);
    refuse(&b, &m, "a width of 0 makes no sense");
#undef X
}

/* After the first error a builder does nothing, and keeps that error. */
static void test_first_error_sticks(void **state)
{
    nm_program p = {0};
    made_up m = {0};
    nm_builder b = {.program = &p, .bind = bind_made_up, .bind_arg = &m, .layer = 0};
    int32_t bad = nm_build_embed(&b, 0, -1, 1, false);
    size_t steps = p.steps;
    assert_int_equal(bad, NM_NONE);
    assert_int_equal(nm_build_softcap(&b, nm_build_scale(&b, nm_build_add(&b, bad, bad, 1), 2), 3), NM_NONE);
    assert_int_equal(nm_build_map(&b, "w", 1, 1), NM_NONE);
    assert_int_equal(nm_build_view(&b, bad, 0, 1), NM_NONE);
    assert_int_equal(nm_build_select(&b, bad), NM_NONE);
    assert_int_equal(p.steps, steps);
    assert_int_equal(b.err, NM_BAD_FILE);
    nm_program_free(&p);
}

static void test_too_many_windows(void **state)
{
    nm_program p = {0};
    made_up m = {0};
    nm_builder b = {.program = &p, .bind = bind_made_up, .bind_arg = &m, .layer = 0};
    int32_t x = nm_build_embed(&b, nm_build_map(&b, "x", 10, 16), 16, 1, false);
    for (int32_t i = 0; i <= NM_MAX_GROUPS; i++) nm_build_attention(&b, x, x, x, 1, 1, 16, 16, 16 * i, 1, 0);
    assert_int_equal(b.err, NM_REFUSED);
    assert_non_null(strstr(nm_error_text(), "more than 4 different attention windows"));
    nm_program_free(&p);
}

/* ---- Whole models ------------------------------------------------------------------------------------------------------------------ */

static nm_model *open_random(const random_model *d, void **file)
{
    nm_model *model;
    size_t size;
    *file = rm_make(d, &size);
    if (nm_model_open_memory(&model, *file, size, "random", NULL) != NM_OK) fail_msg("%s", nm_error_text());
    return model;
}

/* Every op has an adjoint, or lets no gradient through. */
static void test_training_is_open(void **state)
{
    random_model d = rm_default("llama");
    void *file;
    nm_model *m = open_random(&d, &file);
    assert_int_equal(nm_program_check(&m->program, NM_MODE_INFER, m->weight), NM_OK);
    assert_int_equal(nm_program_check(&m->program, NM_MODE_TRAIN, m->weight), NM_OK);
    for (int i = 0; i < NM_OP_COUNT; i++) assert_true(nm_ops[i]->back_row || nm_ops[i]->back_wide || nm_ops[i]->constant);
    nm_model_close(&m);
    free(file);
}

static void test_dump(void **state)
{
    random_model d = rm_default("llama");
    void *file;
    nm_model *m = open_random(&d, &file);
    nm_str text = {0};
    size_t lines = 0;
    assert_int_equal(nm_program_dump(&m->program, m->weight, &text), NM_OK);
    for (const char *p = text.data; (p = strchr(p, '\n')); p++) lines++;
    assert_int_equal(lines, m->program.steps);
    assert_non_null(strstr(text.data, "layer 1\tlinear\t"));
    assert_non_null(strstr(text.data, "blk.1.attn_k.weight[64x256 F32]"));
    assert_non_null(strstr(text.data, "blk.0.attn_norm.weight[256]"));
    nm_str_free(&text);
    nm_model_close(&m);
    free(file);
}

static int regions_of(const char *arch, int64_t layers, nm_compute compute, int type)
{
    random_model d = rm_default(arch);
    void *file;
    nm_plan plan;
    d.layers = layers;
    d.type = type;
    nm_model *m = open_random(&d, &file);
    assert_int_equal(nm_plan_make(&plan, &m->program, m->weight, compute, 8, 4, 256, 0), NM_OK);
    int regions = plan.head;
    nm_plan_free(&plan);
    nm_model_close(&m);
    free(file);
    return regions;
}

/* Barriers of a layer. Llama: (add, norm, int8) (q, k, v) (rope, store) (attention) (int8) (output) (add, norm, int8) (gate, up)
 * (glu, int8) (down); fp32 does without the int8 copy of attention's output. */
static void test_regions(void **state)
{
    static const struct { const char *arch; int int8, f32; } expected[] = {
        {"llama", 10, 9}, {"qwen3", 10, 9}, {"gemma3", 10, 9},
        {"falcon", 8, 7},       /* attention and feed-forward read one norm: output and up are side by side */
        {"gpt2", 10, 9},
    };
    for (size_t i = 0; i < COUNT(expected); i++) {
        int int8 = regions_of(expected[i].arch, 4, NM_COMPUTE_DEFAULT, NM_Q8_0) - regions_of(expected[i].arch, 3, NM_COMPUTE_DEFAULT, NM_Q8_0);
        int f32 = regions_of(expected[i].arch, 4, NM_COMPUTE_F32, NM_Q8_0) - regions_of(expected[i].arch, 3, NM_COMPUTE_F32, NM_Q8_0);
        print_message("%-8s %d barriers a layer, %d under fp32\n", expected[i].arch, int8, f32);
        assert_int_equal(int8, expected[i].int8);
        assert_int_equal(f32, expected[i].f32);
    }
}

static bool overlap(size_t a, size_t a_bytes, int32_t a0, int32_t a1, size_t b, size_t b_bytes, int32_t b0, int32_t b1)
{
    return a0 >= 0 && b0 >= 0 && a0 <= b1 && b0 <= a1 && a < b + b_bytes && b < a + a_bytes;
}

/* Floats and int8 copies of every two values that live at the same time lie apart. */
static void check_places(const nm_plan *p, const char *arch)
{
    size_t n = p->program->values;
    for (size_t i = 0; i < 2 * n; i++)
        for (size_t j = 0; j < i; j++) {
            const nm_value *a = &p->value[i % n], *b = &p->value[j % n];
            bool aq = i >= n, bq = j >= n;
            if ((!aq && a->parent >= 0) || (!bq && b->parent >= 0) || (aq && !a->quantized) || (bq && !b->quantized)) continue;
            int64_t ra = p->max_rows[a->rows], rb = p->max_rows[b->rows];
            if (overlap(aq ? a->q_offset : a->offset, aq ? nm_qrows_bytes(ra, a->dim) : (size_t)(ra * a->dim) * 4, aq ? a->q_first : a->first, aq ? a->q_last : a->last,
                        bq ? b->q_offset : b->offset, bq ? nm_qrows_bytes(rb, b->dim) : (size_t)(rb * b->dim) * 4, bq ? b->q_first : b->first, bq ? b->q_last : b->last))
                fail_msg("%s: values %zu and %zu share memory while both live", arch, i, j);
        }
}

static void test_places(void **state)
{
    for (size_t a = 0; a < COUNT(rm_archs); a++)
        for (int rank = 0; rank <= 16; rank += 16) {
            random_model d = rm_default(rm_archs[a].name);
            void *file;
            nm_plan plan;
            d.type = NM_Q8_0;
            nm_model *m = open_random(&d, &file);
            assert_int_equal(nm_plan_make(&plan, &m->program, m->weight, NM_COMPUTE_DEFAULT, 8, 4, 256, rank), NM_OK);
            check_places(&plan, d.arch);
            nm_plan_free(&plan);
            nm_model_close(&m);
            free(file);
        }
}

static void test_plan_memory_fails(void **state)
{
    random_model d = rm_default("llama");
    void *file;
    nm_plan plan;
    nm_model *m = open_random(&d, &file);
    int64_t alive = nm_mem_alive();
    for (int64_t i = 0;; i++) {
        nm_mem_fail_after(i);
        nm_err err = nm_plan_make(&plan, &m->program, m->weight, NM_COMPUTE_DEFAULT, 8, 4, 256, 0);
        nm_mem_fail_after(-1);
        if (err == NM_OK) break;
        assert_int_equal(err, NM_NO_MEMORY);
        assert_int_equal(nm_mem_alive(), alive);
    }
    nm_plan_free(&plan);
    nm_model_close(&m);
    free(file);
}

/* ---- Interruptions ------------------------------------------------------------------------------------------------------------------- */

enum { PROMPT = 48 };

static nm_err keep(void *arg, int32_t index, const float *row, int32_t n_vocab)
{
    memcpy(arg, row, (size_t)n_vocab * sizeof *row);
    return NM_OK;
}

/* The walk's question whether to stop, counted: the answer is yes from the `at`-th on. nm_walk_some is wrapped by the linker. */
static struct { bool armed; int asked, at; } bell;

static bool ring(void *arg) { return bell.asked++ >= bell.at; }

nm_err __real_nm_walk_some(nm_walk *walk, bool *done);
nm_err __wrap_nm_walk_some(nm_walk *walk, bool *done);
nm_err __wrap_nm_walk_some(nm_walk *walk, bool *done)
{
    if (bell.armed) walk->exec.stop = ring;
    return __real_nm_walk_some(walk, done);
}

/* Stopped at the `at`-th question and gone on with, until the prompt is in; how many questions there were. */
static int run_interrupted(const nm_model *m, nm_runner *r, int at, bool *stopped, float *logits)
{
    nm_session *s;
    int32_t prompt[PROMPT];
    for (int i = 0; i < PROMPT; i++) prompt[i] = i * 5 % 64;
    assert_int_equal(nm_session_open(&s, m, NULL), NM_OK);
    nm_item item = {.session = s, .tokens = prompt, .count = PROMPT, .want = NM_WANT_LAST, .on_logits = keep, .arg = logits};
    bell.armed = true;
    bell.asked = 0;
    bell.at = at;
    nm_err err = nm_run(r, &item, 1, NULL);
    bell.armed = false;
    *stopped = err == NM_INTERRUPTED;
    if (*stopped) {
        int32_t length = nm_session_length(s);
        if (length == PROMPT) length = nm_session_truncate(s, PROMPT - 1);      /* stopped in the head: the last token again, for its logits */
        item.tokens = prompt + length;
        item.count = PROMPT - length;
        err = nm_run(r, &item, 1, NULL);
    }
    assert_int_equal(err, NM_OK);
    nm_session_close(&s);
    return bell.asked;
}

static void test_interrupted(void **state)
{
    random_model d = rm_default("llama");
    void *file;
    nm_runner *r;
    float whole[64], got[64];
    d.type = NM_Q8_0;
    d.layers = 8;
    nm_model *m = open_random(&d, &file);
    nm_set_threads(4);
    assert_int_equal(nm_runner_open(&r, m, &(nm_runner_options){.max_rows = 8}), NM_OK);
    bool stopped;
    int questions = run_interrupted(m, r, INT32_MAX, &stopped, whole), times = 0;
    assert_true(!stopped && questions > 300);
    for (int at = 0; at < questions; at += 1 + questions / 300) {
        run_interrupted(m, r, at, &stopped, got);
        assert_memory_equal(whole, got, sizeof whole);
        times += stopped;
    }
    assert_true(times > 200);       /* between tickets there may be fewer questions another time */
    nm_runner_close(&r);
    nm_model_close(&m);
    nm_set_threads(2);
    free(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_first_error_sticks), cmocka_unit_test(test_too_many_windows),
        cmocka_unit_test(test_training_is_open), cmocka_unit_test(test_dump), cmocka_unit_test(test_regions), cmocka_unit_test(test_places),
        cmocka_unit_test(test_plan_memory_fails), cmocka_unit_test(test_interrupted),
    };
    return cmocka_run_group_tests_name("program", tests, NULL, NULL);
}
