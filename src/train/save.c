/* What a trainer leaves behind: the adapter for others to use, and checkpoints for itself. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"
#include "base/hash.h"
#include "base/mem.h"
#include "format/safetensors.h"
#include "train/trainer.h"

/* ---- The adapter -------------------------------------------------------------------------------------------------------------------------- */

/* What PiSSA subtracts of the map joins the adapter as further ranks, [A; A0] and [B, -B0]: the sum is plain LoRA on the map as it is. */
static void add_subtracted(const nm_slot *slot, int64_t rank, nm_pair *pair)
{
    float *row = pair->a + rank * pair->in;
    for (int64_t r = 0; r < rank; r++, row += pair->in) nm_panels_row(&slot->a, r, row);
    for (int64_t n = 0; n < pair->out; n++) {
        float *b = pair->b + n * pair->rank + rank;
        nm_panels_row(&slot->b, n, b);
        for (int64_t r = 0; r < rank; r++) b[r] = -b[r];
    }
}

static nm_err add_pair(const nm_trainer *t, const nm_train_map *m, nm_lora *lora)
{
    const nm_weight *w = &t->model->weight[m->weight];
    const nm_train_slot *slot = &t->lora.slot[m->weight];
    bool pissa = t->options.start == NM_START_PISSA;
    nm_pair *pair;
    char name[160];
    /* A tied head is trained under the embedding's name in the file, and is the head all the same. */
    bool head = !strcmp(w->name, "token_embd.weight");
    snprintf(name, sizeof name, "%.*s", head ? 6 : (int)(strlen(w->name) - strlen(".weight")), head ? "output" : w->name);
    NM_TRY(nm_lora_add(lora, name, w->name, false, m->k, m->n, (pissa ? 2 : 1) * m->rank, &pair));
    memcpy(pair->a, slot->a, (size_t)(m->rank * m->k) * sizeof(float));
    for (int64_t n = 0; n < m->n; n++) memcpy(pair->b + n * pair->rank, slot->b + n * m->rank, (size_t)m->rank * sizeof(float));
    if (pissa) add_subtracted(nm_pissa_slot(&t->pissa, m->weight), m->rank, pair);
    pair->scale = t->scale;
    if (!t->lora.dora) return NM_OK;
    NM_TRY(nm_pair_add_magnitudes(pair));
    memcpy(pair->m, nm_train_lora_magnitudes(&t->lora, m), (size_t)m->n * sizeof *pair->m);
    return NM_OK;
}

/* The adapter under GGUF's names, with what tells the weights that it belongs to. */
static nm_err make_lora(const nm_trainer *t, nm_lora *lora)
{
    *lora = (nm_lora){.format = "gguf", .naming = NM_NAMES_GGUF};
    lora->path = nm_strndup("the adapter in training", 23);
    lora->base = nm_strndup(t->model->name, strlen(t->model->name));
    lora->arch = nm_strndup(t->model->architecture, strlen(t->model->architecture));
    if (!lora->path || !lora->base || !lora->arch) return nm_fail_memory(64);
    for (size_t i = 0; i < t->lora.maps; i++) NM_TRY(add_pair(t, &t->lora.map[i], lora));
    NM_TRY(nm_lora_sort(lora));
    return nm_identity_of(&lora->identity, t->model);
}

nm_err nm_trainer_adapter(const nm_trainer *t, nm_adapter **out)
{
    nm_lora lora;
    *out = NULL;
    nm_err err = make_lora(t, &lora);
    if (err == NM_OK) err = nm_adapter_make(out, t->model, &lora);
    nm_lora_free(&lora);
    return err;
}

nm_err nm_trainer_save(const nm_trainer *t, const char *folder, const nm_adapter_card *card)
{
    nm_lora lora;
    nm_err err = make_lora(t, &lora);
    if (err == NM_OK) err = nm_lora_to_hf(&lora, &t->model->config);
    if (err == NM_OK) err = nm_lora_write_peft(&lora, folder, card);
    nm_lora_free(&lora);
    return err;
}

/* ---- Checkpoints ---------------------------------------------------------------------------------------------------------------------------- */

/* Of everything that must be the same for a resumed run to end in the same bits, but for the arithmetic, which is told apart. Not of the instruction set:
 * all give the same (kernel.h). */
static void run_hash(const nm_trainer *t, char out[17])
{
    const nm_trainer_options *o = &t->options;
    uint64_t h = nm_model_fingerprint(t->model);
    const double numbers[] = {t->scale, o->lr, o->lr_ratio, o->clip, t->set.beta1, t->set.beta2, t->set.eps, t->set.weight_decay, (double)o->schedule, (double)o->warmup,
        (double)o->steps, (double)NM_ARITHMETIC, (double)o->start, o->dropout, o->ease};
    h = nm_hash(h, numbers, sizeof numbers);
    h = nm_hash(h, &o->seed, sizeof o->seed);
    h = nm_hash(h, t->optim->name, strlen(t->optim->name));
    for (size_t i = 0; i < t->lora.maps; i++) {
        h = nm_hash(h, &t->lora.map[i].weight, sizeof t->lora.map[i].weight);
        h = nm_hash(h, &t->lora.map[i].rank, sizeof t->lora.map[i].rank);
    }
    if (t->lora.dora) h = nm_hash(h, "dora", 4);
    if (o->below) h = nm_hash(h, &o->below->identity, sizeof o->below->identity);
    snprintf(out, 17, "%016llx", (unsigned long long)h);
}

#define KEY_RUN "nomoat.run"
#define KEY_STEPS "nomoat.steps"
#define KEY_ARITHMETIC "nomoat.arithmetic"
#define KEY_NOTE "nomoat.note"
#define KEY_SLIP "nomoat.slip"

nm_err nm_trainer_checkpoint(const nm_trainer *t, const char *path, const char *note)
{
    char run[17], steps[24], slip[40];
    run_hash(t, run);
    snprintf(slip, sizeof slip, "%a", t->slip);
    snprintf(steps, sizeof steps, "%lld", (long long)t->steps);
    const nm_type *f32 = nm_type_of(NM_F32);
    const nm_safe_tensor tensor[] = {{.name = "numbers", .type = f32, .rank = 1, .dim = {(int64_t)t->lora.numbers}, .data = t->lora.p},
        {.name = "state", .type = f32, .rank = 1, .dim = {(int64_t)(t->lora.state_bytes / sizeof(float))}, .data = t->lora.state}};     /* whatever its bytes are */
    const nm_safe_meta meta[] = {{KEY_RUN, run}, {KEY_STEPS, steps}, {KEY_ARITHMETIC, t->info.arithmetic}, {KEY_NOTE, note ? note : ""}, {KEY_SLIP, slip}};
    return nm_safetensors_write(path, tensor, 2, meta, sizeof meta / sizeof *meta);
}

static nm_err find_tensor(const nm_safetensors *file, const char *name, size_t count, const nm_safe_tensor **out)
{
    for (size_t i = 0; i < nm_safetensors_count(file); i++) {
        const nm_safe_tensor *t = nm_safetensors_at(file, i);
        if (strcmp(t->name, name)) continue;
        if (t->type->id != NM_F32 || t->values != (int64_t)count) break;
        *out = t;
        return NM_OK;
    }
    return nm_fail(NM_BAD_FILE, "%s: no checkpoint: %s is missing or of another size", nm_safetensors_name(file), name);
}

static nm_err check_arithmetic(const nm_trainer *t, const nm_safetensors *file, const char *with)
{
    if (!strcmp(with, t->info.arithmetic)) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: the run was begun in %.8s and would go on in %s, to other bits: %s", nm_safetensors_name(file), with, t->info.arithmetic,
        !strcmp(with, "f32") ? "resume with --compute f32, or kernels that leave bf16 out (--kernels avx2,avx512,vnni)"
        : !strcmp(with, "amx-bf16") ? "resume on a processor with AMX, with all kernels and settings as then"
                                    : "resume on a processor with AVX512_BF16 (AMD's from Zen 4 on), with all kernels and settings as then");
}

static nm_err check_run(const nm_trainer *t, const nm_safetensors *file, int64_t *steps, double *slip)
{
    const char *run = nm_safetensors_meta(file, KEY_RUN), *text = nm_safetensors_meta(file, KEY_STEPS), *mean = nm_safetensors_meta(file, KEY_SLIP);
    const char *with = nm_safetensors_meta(file, KEY_ARITHMETIC);
    char own[17], *end;
    run_hash(t, own);
    if (!run || !text || !mean || !with) return nm_fail(NM_BAD_FILE, "%s: no checkpoint of a training run", nm_safetensors_name(file));
    if (strcmp(run, own)) return nm_fail(NM_REFUSED, "%s belongs to a run of another model or with other settings: resume with those it was begun with", nm_safetensors_name(file));
    NM_TRY(check_arithmetic(t, file, with));
    *steps = strtoll(text, &end, 10);
    if (*end || *steps < 0 || *steps > t->options.steps) return nm_fail(NM_BAD_FILE, "%s: %s steps make no sense", nm_safetensors_name(file), text);
    *slip = strtod(mean, &end);
    if (*end || !isfinite(*slip)) return nm_fail(NM_BAD_FILE, "%s: an anchor's mean of %s makes no sense", nm_safetensors_name(file), mean);
    return NM_OK;
}

nm_err nm_trainer_resume(nm_trainer *t, const char *path, char **note)
{
    nm_safetensors *file;
    int64_t steps = 0;
    double slip = 0;
    *note = NULL;
    NM_TRY(nm_safetensors_open(&file, path));
    nm_err err = check_run(t, file, &steps, &slip);
    const nm_safe_tensor *numbers = NULL, *state = NULL;
    if (err == NM_OK) err = find_tensor(file, "numbers", t->lora.numbers, &numbers);
    if (err == NM_OK) err = find_tensor(file, "state", t->lora.state_bytes / sizeof(float), &state);
    if (err == NM_OK) {
        memcpy(t->lora.p, numbers->data, t->lora.numbers * sizeof *t->lora.p);
        memcpy(t->lora.state, state->data, t->lora.state_bytes);
    }
    if (err == NM_OK) {
        const char *text = nm_safetensors_meta(file, KEY_NOTE);
        *note = nm_strndup(text ? text : "", strlen(text ? text : ""));
        err = *note ? nm_train_lora_derive(&t->lora) : nm_fail_memory(1);
    }
    if (err == NM_OK) {
        t->steps = steps;
        t->slip = slip;
    } else {
        nm_free(*note);
        *note = NULL;
    }
    nm_safetensors_close(&file);
    return err;
}
