/* Every weight type in a whole model: exact under fp32, near it by default, the same bits however rows are cut and weights are kept, and
 * no more resident memory than the file has bytes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "nomoat.h"
#include "quant/quant.h"

#include "../random_model.c"

enum { TOKENS = 11, VOCAB = 64 };
/* Largest relative error (L2 over all logits) of int8 activations against fp32: rounding to 127 steps of the block's largest value costs
 * each map about 0.5 %, and one random layer does little to average it. Measured 1.2 to 1.6 %. */
static const double NEAR = 0.03;

typedef float logits[TOKENS][VOCAB];

static int32_t prompt_token(int i) { return (int32_t)((unsigned)i * 37u % VOCAB); }

static nm_err keep(void *arg, int32_t index, const float *row, int32_t n_vocab)
{
    memcpy(((float (*)[VOCAB])arg)[index], row, (size_t)n_vocab * sizeof *row);
    return NM_OK;
}

/* Feeds the prompt in passes of `rows`. */
static void run_model(const nm_model *model, nm_compute compute, int rows, float (*out)[VOCAB])
{
    nm_session *session;
    nm_runner *runner;
    int32_t prompt[TOKENS];
    for (int i = 0; i < TOKENS; i++) prompt[i] = prompt_token(i);
    assert_int_equal(nm_session_open(&session, model, &(nm_session_options){.kv = NM_KV_F32, .compute = compute}), NM_OK);
    assert_int_equal(nm_runner_open(&runner, model, &(nm_runner_options){.compute = compute, .max_rows = rows}), NM_OK);
    nm_item item = {.session = session, .tokens = prompt, .count = TOKENS, .want = NM_WANT_ALL, .on_logits = keep, .arg = out};
    if (nm_run(runner, &item, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    nm_runner_close(&runner);
    nm_session_close(&session);
}

static void run_file(const void *file, size_t size, bool no_pack, nm_compute compute, int rows, logits out)
{
    nm_model *model;
    if (nm_model_open_memory(&model, file, size, "random", &(nm_model_options){.no_pack = no_pack}) != NM_OK) fail_msg("%s", nm_error_text());
    run_model(model, compute, rows, out);
    nm_model_close(&model);
}

static double relative_error(const float (*a)[VOCAB], const float (*b)[VOCAB])
{
    double off = 0, norm = 0;
    for (int i = 0; i < TOKENS; i++)
        for (int v = 0; v < VOCAB; v++) {
            off += (double)(a[i][v] - b[i][v]) * (a[i][v] - b[i][v]);
            norm += (double)a[i][v] * a[i][v];
        }
    return sqrt(off / norm);
}

static void same_bits(const float (*a)[VOCAB], const float (*b)[VOCAB], const nm_type *type, const char *what)
{
    for (int i = 0; i < TOKENS; i++)
        if (memcmp(a[i], b[i], sizeof a[i])) fail_msg("%s: %s: row %d differs", type->name, what, i);
}

static random_model describe(const nm_type *type)
{
    random_model d = rm_default("llama");
    d.type = d.embd_type = type->id;
    d.tied = type->id % 2;
    d.ff = 256;
    d.layers = 1;               /* the second layer would say no more of a type, and instrumented kernels are slow */
    return d;
}

static void test_type(void **state)
{
    const nm_type *type = *state;
    static logits exact, got, near, first;
    random_model d = describe(type);
    size_t size, plain_size;
    void *file = rm_make(&d, &size);
    d.as_f32 = true;
    void *plain = rm_make(&d, &plain_size);

    run_file(plain, plain_size, false, NM_COMPUTE_F32, 0, exact);
    for (int i = 0; i < TOKENS; i++) for (int v = 0; v < VOCAB; v++) assert_true(isfinite(exact[i][v]));
    run_file(file, size, false, NM_COMPUTE_F32, 0, got);
    same_bits((const float (*)[VOCAB])exact, (const float (*)[VOCAB])got, type, "the same weights as F32");

    run_file(file, size, false, NM_COMPUTE_DEFAULT, 0, near);
    double off = relative_error((const float (*)[VOCAB])exact, (const float (*)[VOCAB])near);
    if (!(off <= (type->group ? NEAR : 0))) fail_msg("%s: int8 activations are %g away from fp32", type->name, off);
    for (int compute = NM_COMPUTE_DEFAULT; compute <= NM_COMPUTE_F32; compute++) {
        memcpy(first, compute == NM_COMPUTE_F32 ? exact : near, sizeof first);
        for (int rows = 1; rows <= 4; rows += 3) {
            run_file(file, size, false, (nm_compute)compute, rows, got);
            same_bits((const float (*)[VOCAB])first, (const float (*)[VOCAB])got, type, rows == 1 ? "one row at a time" : "four rows at a time");
        }
        run_file(file, size, true, (nm_compute)compute, 0, got);
        same_bits((const float (*)[VOCAB])first, (const float (*)[VOCAB])got, type, "not packed");
        run_file(file, size, true, (nm_compute)compute, 1, got);
        same_bits((const float (*)[VOCAB])first, (const float (*)[VOCAB])got, type, "not packed, one row at a time");
    }
    print_message("%-8s int8 activations: %.4f\n", type->name, off);
    free(file);
    free(plain);
}

/* A file may align its tensors to one byte, and lie anywhere in memory. */
static void test_unaligned(void **state)
{
    static logits whole, got;
    for (int i = 0; nm_type_at(i); i++) {
        const nm_type *type = nm_type_at(i);
        size_t size;
        if (!type->to_float) continue;
        random_model d = describe(type);
        void *file = rm_make(&d, &size);
        run_file(file, size, false, NM_COMPUTE_DEFAULT, 0, whole);
        free(file);
        d.alignment = 1;
        file = rm_make(&d, &size);
        uint8_t *odd = malloc(size + 1);
        memcpy(odd + 1, file, size);
        run_file(odd + 1, size, false, NM_COMPUTE_DEFAULT, 0, got);
        same_bits((const float (*)[VOCAB])whole, (const float (*)[VOCAB])got, type, "unaligned");
        run_file(odd + 1, size, true, NM_COMPUTE_DEFAULT, 0, got);
        same_bits((const float (*)[VOCAB])whole, (const float (*)[VOCAB])got, type, "unaligned, not packed");
        free(odd);
        free(file);
    }
}

/* ---- Resident memory --------------------------------------------------------------------------------------------------- */

/* What a process has besides: the program and the C library (3 MB), stacks of threads, a runner's values for the rows in use, and what is
 * left of the file's pages at the borders of tensors. Measured 5 to 8 MB in all. */
enum { PROCESS_BYTES = 8 << 20, FILE_LEAST = 150 << 20, DECODED = 32 };

static size_t status_bytes(const char *field)
{
    char line[256];
    size_t kib = 0, length = strlen(field);
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) if (strncmp(line, field, length) == 0) kib = strtoull(line + length, NULL, 10);
    if (f) fclose(f);
    return kib << 10;
}

/* The child: opens, decodes, prints its peak; run apart so that nothing else has touched memory. */
static int decode_alone(const char *path)
{
    nm_model *model;
    nm_session *session;
    nm_runner *runner;
    nm_session_options o = {.context = 64};
    nm_set_threads(2);
    if (nm_model_open(&model, path, NULL) != NM_OK || nm_session_open(&session, model, &o) != NM_OK || nm_runner_open(&runner, model, NULL) != NM_OK) {
        fprintf(stderr, "%s\n", nm_error_text());
        return 1;
    }
    for (int i = 0; i < DECODED; i++) {
        nm_item item = {.session = session, .tokens = &(int32_t){prompt_token(i)}, .count = 1};
        if (nm_run(runner, &item, 1, NULL) != NM_OK) return 1;
    }
    printf("%zu %llu %llu\n", status_bytes("VmHWM:"), (unsigned long long)nm_session_bytes(model, &o), (unsigned long long)nm_model_describe(model)->file_bytes);
    nm_runner_close(&runner);
    nm_session_close(&session);
    nm_model_close(&model);
    return 0;
}

static random_model describe_large(const nm_type *type)
{
    random_model d = describe(type);
    d.embd = 1024;
    d.ff = 4096;
    d.heads = 16;
    d.heads_kv = 4;
    d.head = 64;
    d.vocab = 4096;
    d.layers = 1;
    int64_t per_layer = (2 * d.embd * d.embd + 2 * d.embd * d.heads_kv * d.head + 3 * d.embd * d.ff) / type->block * type->bytes;
    d.layers = (FILE_LEAST + per_layer - 1) / per_layer;
    return d;
}

static void test_resident(void **state)
{
    const nm_type *type = *state;
    const char *folder = getenv("TMPDIR");
    char path[4096], command[8300], self[4096];
    size_t peak = 0;
    unsigned long long kv = 0, bytes = 0;
    random_model d = describe_large(type);
    snprintf(path, sizeof path, "%s/nomoat-resident-%d.gguf", folder ? folder : "/tmp", (int)getpid());
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0) fail_msg("/proc/self/exe cannot be read");
    self[n] = 0;
    if (!rm_save(&d, path)) {
        unlink(path);
        print_message("skipped: resident memory of %s: no room for a file of 150 MB in %s\n", type->name, folder ? folder : "/tmp");
        skip();
    }
    snprintf(command, sizeof command, "'%s' --resident '%s'", self, path);
    FILE *child = popen(command, "r");
    int fields = child ? fscanf(child, "%zu %llu %llu", &peak, &kv, &bytes) : 0, status = child ? pclose(child) : -1;
    unlink(path);
    assert_int_equal(status, 0);
    assert_int_equal(fields, 3);
    double over = ((double)peak - (double)kv - PROCESS_BYTES) / (double)bytes;
    print_message("%-8s %lld layers, file %.0f MB, peak %.0f MB, KV %.1f MB: %.3f of the file\n", type->name, (long long)d.layers, (double)bytes / 1e6,
        (double)peak / 1e6, (double)kv / 1e6, over);
    if (over > 1.1) fail_msg("%s: %.3f times the file is resident", type->name, over);
}

/* Of each family of layouts one or two, and one that stays as rows of the file. */
static const nm_dtype resident[] = {NM_BF16, NM_Q4_0, NM_Q5_1, NM_Q8_0, NM_Q3_K, NM_Q4_K, NM_Q6_K, NM_IQ4_XS, NM_MXFP4, NM_TQ2_0};

static bool sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[96];
    int n = 0;
    if (argc == 3 && strcmp(argv[1], "--resident") == 0) return decode_alone(argv[2]);
    for (int i = 0; nm_type_at(i); i++)
        if (nm_type_at(i)->to_float) tests[n++] = (struct CMUnitTest){nm_type_at(i)->name, test_type, NULL, NULL, (void *)(uintptr_t)nm_type_at(i)};
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_unaligned);
    for (size_t i = 0; !sanitized() && i < sizeof resident / sizeof *resident; i++)
        tests[n++] = (struct CMUnitTest){"resident memory", test_resident, NULL, NULL, (void *)(uintptr_t)nm_type_of(resident[i])};
    return _cmocka_run_group_tests("types", tests, (size_t)n, NULL, NULL);
}
