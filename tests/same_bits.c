/* Prints what models compute, as hashes of logits: for builds of other instruction sets, whose output must be the same text (.ci/run).
 *     same_bits KERNELS              small models of random weights, over types of weights, arithmetic and caches
 *     same_bits KERNELS MODEL.gguf   that model: a prompt and its greedy continuation */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nomoat.h"
#include "random_model.c"

enum { PROMPT = 71, STEPS = 8 };   /* more than a page of keys; rows that no tile's height divides */
static const char text[] = "The bits that one machine computes, every other machine computes as well. That";

typedef struct seen { uint64_t hash; int32_t best; } seen;

static void require(bool fine, const char *what)
{
    if (fine) return;
    fprintf(stderr, "same_bits: %s: %s\n", what, nm_error_text());
    exit(1);
}

/* FNV-1a over every bit of the logits; the likeliest token. */
static nm_err look(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    seen *s = arg;
    s->best = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        uint32_t bits;
        memcpy(&bits, &logits[i], sizeof bits);
        s->hash = (s->hash ^ bits) * 0x100000001b3u;
        if (logits[i] > logits[s->best]) s->best = i;
    }
    return NM_OK;
}

static void run(const nm_model *model, const char *name, const int32_t *prompt, int32_t count, nm_compute compute, nm_kv_type kv)
{
    nm_session *session;
    nm_runner *runner;
    seen s = {.hash = 0xcbf29ce484222325u};
    require(nm_session_open(&session, model, &(nm_session_options){.context = count + STEPS, .kv = kv, .compute = compute}) == NM_OK, "session");
    require(nm_runner_open(&runner, model, &(nm_runner_options){.compute = compute}) == NM_OK, "runner");
    nm_item item = {.session = session, .tokens = prompt, .count = count, .want = NM_WANT_ALL, .on_logits = look, .arg = &s};
    require(nm_run(runner, &item, 1, NULL) == NM_OK, "prompt");
    printf("%s, compute %s, cache %d: prompt %016llx, then", name, compute == NM_COMPUTE_F32 ? "f32" : "default", kv, (unsigned long long)s.hash);
    item.want = NM_WANT_LAST;
    for (int i = 0; i < STEPS; i++) {
        int32_t id = s.best;
        printf(" %d", (int)id);
        item.tokens = &id;
        item.count = 1;
        require(nm_run(runner, &item, 1, NULL) == NM_OK, "step");
    }
    printf("; %016llx\n", (unsigned long long)s.hash);
    nm_runner_close(&runner);
    nm_session_close(&session);
}

static void run_random(const char *arch, int type)
{
    random_model d = rm_default(arch);
    int32_t prompt[PROMPT];
    char name[64];
    size_t size;
    nm_model *model;
    d.type = d.embd_type = type;
    snprintf(name, sizeof name, "%s %s", arch, nm_type_of((nm_dtype)type)->name);
    for (int i = 0; i < PROMPT; i++) prompt[i] = (i * 7 + i / 9) % (int32_t)d.vocab;
    void *file = rm_make(&d, &size);
    require(nm_model_open_memory(&model, file, size, name, NULL) == NM_OK, name);
    run(model, name, prompt, PROMPT, NM_COMPUTE_DEFAULT, NM_KV_F16);
    run(model, name, prompt, PROMPT, NM_COMPUTE_DEFAULT, NM_KV_Q8_0);
    run(model, name, prompt, PROMPT, NM_COMPUTE_F32, NM_KV_F32);
    nm_model_close(&model);
    free(file);
}

static void run_file(const char *path)
{
    nm_model *model;
    int32_t *ids;
    size_t count;
    require(nm_model_open(&model, path, NULL) == NM_OK, path);
    require(nm_tokenize(nm_model_tokenizer(model), text, sizeof text - 1, 0, &ids, &count) == NM_OK, "text");
    run(model, "the file", ids, (int32_t)count, NM_COMPUTE_DEFAULT, NM_KV_F16);
    nm_model_close(&model);
}

int main(int argc, char **argv)
{
    static const int types[] = {NM_Q4_0, NM_Q4_1, NM_Q8_0, NM_Q4_K, NM_Q6_K, NM_IQ3_S, NM_F16};
    static const char *const archs[] = {"gemma3", "gpt2"};
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: same_bits KERNELS [MODEL.gguf]\n");
        return 2;
    }
    require(nm_set_kernels(argv[1]) == NM_OK, argv[1]);
    fprintf(stderr, "kernels: %s\n", nm_kernels_describe());
    if (argc == 3) {
        run_file(argv[2]);
        return 0;
    }
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) run_random("llama", types[i]);
    for (size_t i = 0; i < sizeof archs / sizeof *archs; i++) run_random(archs[i], NM_Q8_0);
    return 0;
}
