/* The trainer: what a run of training owns beside the model (law 1): the adapter's numbers, the passes, the step. What it may take of memory decides how many
 * tokens go into a pass and what is computed again (law 5); the bits do not depend on it. */
#include <math.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/hash.h"
#include "base/mem.h"
#include "os/clock.h"
#include "train/schedule.h"
#include "train/trainer.h"

static const double LEAST_KL = 1e-3, SLIP_MEMORY = 0.8;     /* of the anchor, in nats; of its running mean, a step */

enum {
    DEFAULT_RANK = 16,
    PASS_ROWS = 512,            /* tokens of a pass, where sequences are not longer: more gains little */
    LOGIT_BYTES = 112 << 20,    /* most for the logits of a chunk of supervised rows, in whose place their gradients come where nothing stands between, and rounded gradients */
    MOST_OUT = 174,             /* three chunks for 512 tokens, in whole tiles: for fewer rows, unpacking the head's weights takes too large a part */
    MOST_OUT_BF16 = 128         /* four: the gradients lie there rounded as well */
};
static const float STABLE_ALPHA = 8, DEFAULT_LR = 2e-4f;

/* ---- What is trained ---------------------------------------------------------------------------------------------------------------- */

/* PEFT's names of the maps that most models have; others are found by GGUF's. */
static const char *const aliases[][2] = {{"q_proj", "attn_q"}, {"k_proj", "attn_k"}, {"v_proj", "attn_v"}, {"o_proj", "attn_output"}, {"gate_proj", "ffn_gate"},
    {"up_proj", "ffn_up"}, {"down_proj", "ffn_down"}, {"query_key_value", "attn_qkv"}, {"c_attn", "attn_qkv"}, {"lm_head", "output"}};

/* A tied head stands in the file under the embedding's name; as a linear map it is the head, and adapters call it so. */
static bool is_head(const nm_weight *w, const char *name, size_t n) { return n == 6 && !memcmp(name, "output", n) && !strcmp(w->name, "token_embd.weight"); }

static bool is_named(const nm_weight *w, const char *target, size_t n)
{
    const char *last = w->name;
    for (size_t i = 0; i < sizeof aliases / sizeof *aliases; i++)
        if (strlen(aliases[i][0]) == n && !memcmp(aliases[i][0], target, n)) {
            target = aliases[i][1];
            n = strlen(target);
        }
    if (!strncmp(last, "blk.", 4) && strchr(last + 4, '.')) last = strchr(last + 4, '.') + 1;
    return is_head(w, target, n) || (!strncmp(last, target, n) && !strcmp(last + n, ".weight"));
}

/* Gives the maps that one target means their rank; false if there is none. */
static bool choose(const nm_model *m, const char *target, size_t n, int32_t rank, int32_t *wanted)
{
    bool any = false;
    for (size_t i = 0; i < m->program.steps; i++) {
        const nm_step *s = &m->program.step[i];
        if (s->op != NM_OP_LINEAR) continue;
        int32_t id = nm_weight_of(m->program.operand, s, 0);
        if (target ? !is_named(&m->weight[id], target, n) : s->layer < 0) continue;
        wanted[id] = rank;
        any = true;
    }
    return any;
}

static nm_err choose_targets(const nm_model *m, const char *targets, int32_t rank, int32_t *wanted)
{
    if (!targets || !strcmp(targets, "all-linear")) {
        choose(m, NULL, 0, rank, wanted);
        return NM_OK;
    }
    for (const char *at = targets; *at;) {
        size_t n = strcspn(at, ",");
        if (n && !choose(m, at, n, rank, wanted))
            return nm_fail(NM_USAGE, "%.*s: the model has no such map: attn_q or q_proj, ffn_up or up_proj ...: 'nomoat show --tensors' lists them", (int)n, at);
        at += n + (at[n] == ',');
    }
    return NM_OK;
}

/* ---- Starting from an adapter --------------------------------------------------------------------------------------------------------- */

static int32_t map_named(const nm_trainer *t, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < t->model->program.steps; i++) {
        const nm_step *s = &t->model->program.step[i];
        if (s->op != NM_OP_LINEAR) continue;
        int32_t id = nm_weight_of(t->model->program.operand, s, 0);
        const nm_weight *w = &t->model->weight[id];
        if (is_head(w, name, n) || (!strncmp(w->name, name, n) && !strcmp(w->name + n, ".weight"))) return id;
    }
    return -1;
}

static nm_err read_init(nm_trainer *t, const char *path, nm_lora *init, int32_t *wanted, float *scale)
{
    NM_TRY(nm_lora_read(init, path));
    NM_TRY(nm_lora_to_gguf(init, &t->model->config));
    *scale = init->pairs ? init->pair[0].scale : 0;
    for (size_t i = 0; i < init->pairs; i++) {
        const nm_pair *p = &init->pair[i];
        int32_t id = p->embedding ? -1 : map_named(t, p->name);
        if (id < 0) return nm_fail(NM_BAD_FILE, "%s: %.120s: the model has no such map to train", path, p->name);
        if (t->model->weight[id].n != p->out || t->model->weight[id].k != p->in) return nm_fail(NM_BAD_FILE, "%s: %.120s: shapes differ from the model's", path, p->name);
        if (p->scale != *scale) return nm_fail(NM_REFUSED, "%s: maps of different scales cannot be trained on", path);
        if (!p->m != !init->pair->m) return nm_fail(NM_REFUSED, "%s: DoRA of some maps alone cannot be trained on", path);
        wanted[id] = (int32_t)p->rank;
    }
    if (init->pairs && init->pair->m) t->options.dora = true;
    nm_match match;
    double correlation;
    nm_err err = nm_identity_match(&init->identity, t->model, t->options.force, &match, &correlation);
    if (err != NM_OK) return err == NM_REFUSED ? nm_fail_in(err, path) : err;
    return NM_OK;
}

static const nm_pair *pair_of(const nm_trainer *t, const nm_lora *init, int32_t weight)
{
    for (size_t i = 0; i < init->pairs; i++) if (map_named(t, init->pair[i].name) == weight) return &init->pair[i];
    return NULL;
}

/* An adapter without magnitudes begins DoRA with the lengths that it makes. */
static nm_err copy_init(nm_trainer *t, const nm_lora *init)
{
    for (size_t i = 0; i < init->pairs; i++) {
        const nm_pair *p = &init->pair[i];
        const nm_train_slot *slot = &t->lora.slot[map_named(t, p->name)];
        memcpy((float *)slot->a, p->a, (size_t)(p->rank * p->in) * sizeof(float));
        for (int64_t n = 0; n < p->out; n++) for (int64_t k = 0; k < p->rank; k++) ((float *)slot->b_t)[k * p->out + n] = p->b[n * p->rank + k];
    }
    if (!t->lora.dora) return nm_train_lora_derive(&t->lora);
    NM_TRY(nm_train_lora_measure(&t->lora));
    for (size_t i = 0; i < t->lora.maps; i++) {
        const nm_train_map *m = &t->lora.map[i];
        const nm_pair *p = pair_of(t, init, m->weight);
        if (p && p->m) memcpy(nm_train_lora_magnitudes(&t->lora, m), p->m, (size_t)m->n * sizeof *p->m);
    }
    return nm_train_lora_derive(&t->lora);
}

/* ---- Opening ---------------------------------------------------------------------------------------------------------------------------- */

static float scale_of(const nm_trainer_options *o)
{
    double root = sqrt((double)o->rank);
    if (o->alpha == 0) return (float)((double)STABLE_ALPHA / root);
    return (float)((double)o->alpha / (o->rslora ? root : (double)o->rank));
}

static nm_err complete(nm_trainer *t, const nm_trainer_options *given)
{
    nm_trainer_options *o = &t->options;
    *o = *given;
    if (!o->rank) o->rank = DEFAULT_RANK;
    if (!(o->lr_ratio > 0)) o->lr_ratio = 1;
    if (o->rank < 1 || o->max_length < 2 || o->batch < 1 || o->steps < 1 || o->warmup < 0 || o->anchor < 0 || o->anchor > o->max_length)
        return nm_fail(NM_USAGE, "rank, length, batch and steps must be positive, and the anchor no longer than a sequence");
    if (!isfinite(o->lr) || !isfinite(o->alpha) || !isfinite(o->lr_ratio) || !isfinite(o->clip)) return nm_fail(NM_USAGE, "a rate that is no number makes no sense");
    if (!(o->dropout >= 0 && o->dropout < 1)) return nm_fail(NM_USAGE, "a dropout of %g makes no sense: 0 or more, and below 1", (double)o->dropout);
    if (o->start > NM_START_PISSA || (o->start && o->init)) return nm_fail(NM_USAGE, "an adapter that is given is where the training starts: no other start goes with it");
    if (o->rank > NM_MOST_RANK / (o->start == NM_START_PISSA ? 2 : 1))
        return nm_fail(NM_USAGE, "a rank of %d makes no sense: adapters have %d at most", (int)o->rank, NM_MOST_RANK);
    if (o->compute > NM_COMPUTE_F32) return nm_fail(NM_USAGE, "unknown arithmetic");
    t->bf16 = o->compute == NM_COMPUTE_DEFAULT && nm_kernels_get()->has_bf16;
    NM_TRY(nm_optim_find(o->optimizer ? o->optimizer : "adamw", &t->optim));
    if (!(o->lr > 0)) o->lr = DEFAULT_LR * t->optim->rate;
    t->set = t->optim->defaults;
    if (o->weight_decay >= 0) t->set.weight_decay = o->weight_decay;
    return NM_OK;
}

static nm_err open_lora(nm_trainer *t)
{
    nm_lora init = {0};
    int32_t *wanted = nm_calloc(t->model->weights, sizeof *wanted);
    nm_err err = wanted ? NM_OK : nm_fail_memory(t->model->weights * sizeof *wanted);
    float scale = scale_of(&t->options);
    if (err == NM_OK) err = t->options.init ? read_init(t, t->options.init, &init, wanted, &scale) : choose_targets(t->model, t->options.targets, t->options.rank, wanted);
    if (err == NM_OK && t->options.dora && (t->options.dropout > 0 || t->options.start == NM_START_PISSA))
        err = nm_fail(NM_USAGE, "DoRA goes with neither dropout nor PiSSA: give one of them");
    if (err == NM_OK && t->options.dora && t->optim->matrices)
        err = nm_fail(NM_USAGE, "DoRA's magnitudes are vectors, and %s is for matrices alone: take another optimizer", t->optim->name);
    if (err == NM_OK && t->planned) err = nm_train_lora_list(&t->lora, t->model, wanted, t->options.dora, t->optim);
    else if (err == NM_OK) err = nm_train_lora_open(&t->lora, t->model, wanted, scale, t->options.dora, t->optim, t->options.start, t->options.seed);
    if (err == NM_OK && !t->planned && t->options.init) err = copy_init(t, &init);
    nm_lora_free(&init);
    nm_free(wanted);
    if (err == NM_OK && t->options.start == NM_START_PISSA)
        err = t->planned ? nm_pissa_list(&t->pissa, &t->lora, scale, t->options.below) : nm_pissa_open(&t->pissa, &t->lora, scale, t->options.below, t->options.cancel);
    t->scale = scale;
    t->lora.dropout = (nm_dropout){.p = t->options.dropout, .seed = t->options.seed};
    return err;
}

/* Before there are passes, and before what is subtracted is packed. */
static uint64_t start_bytes(const nm_trainer *t)
{
    return t->options.start == NM_START_PISSA ? nm_trainer_bytes(t) - t->pissa.bytes + nm_pissa_scratch(&t->lora) : 0;
}

/* Passes from the fastest to the one that takes least memory. */
static nm_err open_pass(nm_trainer *t)
{
    const nm_trainer_options *o = &t->options;
    bool pissa = o->start == NM_START_PISSA;
    int64_t together = o->no_packing ? 1 : o->batch, all = together * o->max_length, most = o->max_length > PASS_ROWS ? o->max_length : PASS_ROWS;
    int32_t rows = (int32_t)(all < most ? all : most);
    int64_t lie = t->model->config.logit_cap > 0 ? 3 : t->model->config.logit_scale != 1 ? 2 : 1;        /* beside each other: what is scaled, what is capped, gradients */
    int64_t bytes = lie * (int64_t)sizeof(float) + (t->bf16 ? (int64_t)sizeof(uint16_t) : 0), most_out = t->bf16 ? MOST_OUT_BF16 : MOST_OUT;
    int64_t out = LOGIT_BYTES / (bytes * t->model->config.n_vocab);
    const struct { nm_remake remake; int32_t rows; int64_t sequences; } way[] = {{NM_REMAKE_ROWS, rows, together}, {NM_REMAKE_ROWS, o->max_length, together},
        {NM_REMAKE_LAYERS, rows, together}, {NM_REMAKE_LAYERS, o->max_length, together}, {NM_REMAKE_LAYERS, o->max_length, 1}};
    uint64_t own = nm_trainer_bytes(t), starts = start_bytes(t), need = 0;
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        nm_train_options p = {.trained = t->lora.trained, .rank = t->lora.max_rank, .bf16 = t->bf16, .remake = way[i].remake, .stack = pissa ? &t->pissa.stack : o->below,
            .before = o->below, .beside = o->beside, .max_rows = way[i].rows, .max_length = o->max_length, .max_anchor = o->anchor, .max_sequences = (int32_t)way[i].sequences,
            .max_out = (int32_t)(out < 8 ? 8 : out > most_out ? most_out : out)};
        NM_TRY(nm_pass_open(&t->pass, t->model, &p));
        need = own + nm_pass_bytes(t->pass);
        if (need < starts) need = starts;
        if (!o->memory || need <= o->memory) return NM_OK;
        nm_pass_close(&t->pass);
    }
    return nm_fail(NM_NO_MEMORY, "training takes at least %.2f MB beside the model, and %.2f MB are allowed: shorten --max-length, lower --rank, or allow more",
        ceil((double)need / 1e4) / 100, floor((double)o->memory / 1e4) / 100);
}

static void describe(nm_trainer *t)
{
    static const char *const words[] = {"nothing", "rows", "layers"};
    t->info = (nm_trainer_info){.rank = t->lora.max_rank, .maps = (int32_t)t->lora.maps, .scale = t->scale, .parameters = t->lora.numbers, .dora = t->lora.dora,
        .bytes = nm_trainer_bytes(t) + nm_pass_bytes(t->pass), .pass_bytes = nm_pass_bytes(t->pass), .pass_rows = nm_pass_options(t->pass)->max_rows,
        .arithmetic = t->bf16 ? nm_kernels_get()->bf16 : "f32", .recomputed = words[nm_pass_options(t->pass)->remake]};
    t->info.start_bytes = start_bytes(t) > t->info.bytes ? start_bytes(t) : t->info.bytes;
}

static nm_err open_trainer(nm_trainer **out, const nm_model *model, const nm_trainer_options *options, bool planned)
{
    *out = NULL;
    if (!model->info.has_weights) return nm_fail(NM_USAGE, "%s: opened for its metadata only", model->name);
    if (options->below && options->below->owner != model) return nm_fail(NM_USAGE, "the stack belongs to another model");
    nm_trainer *t = nm_calloc(1, sizeof *t);
    if (!t) return nm_fail_memory(sizeof *t);
    t->model = model;
    t->planned = planned;
    t->slip = log(LEAST_KL);
    nm_err err = complete(t, options);
    if (err == NM_OK) err = open_lora(t);
    if (err == NM_OK) err = open_pass(t);
    size_t sequences = (size_t)(t->options.batch > t->options.anchor ? t->options.batch : t->options.anchor);
    if (err == NM_OK && !(t->sequence = nm_calloc(sequences, sizeof *t->sequence))) err = nm_fail_memory(sequences * sizeof *t->sequence);
    if (err == NM_OK && !(t->weight = nm_calloc((size_t)t->options.batch * (size_t)t->options.max_length, sizeof *t->weight))) err = nm_fail_memory(sizeof *t->weight);
    if (err == NM_OK) describe(t);
    else nm_trainer_close(&t);
    *out = t;
    return err;
}

nm_err nm_trainer_plan(nm_trainer_info *info, const nm_model *model, const nm_trainer_options *options)
{
    nm_trainer *t;
    NM_TRY(open_trainer(&t, model, options, true));
    *info = t->info;
    nm_trainer_close(&t);
    return NM_OK;
}

nm_err nm_trainer_open(nm_trainer **out, const nm_model *model, const nm_trainer_options *options)
{
    nm_trainer_info info;
    *out = NULL;
    if (options->memory) NM_TRY(nm_trainer_plan(&info, model, options));       /* a refusal comes before anything large is there */
    return open_trainer(out, model, options, false);
}

void nm_trainer_close(nm_trainer **trainer)
{
    nm_trainer *t = *trainer;
    *trainer = NULL;
    if (!t) return;
    nm_pass_close(&t->pass);
    nm_train_lora_close(&t->lora);
    nm_pissa_close(&t->pissa);
    nm_free(t->sequence);
    nm_free(t->weight);
    nm_free(t);
}

const nm_trainer_info *nm_trainer_describe(const nm_trainer *t) { return &t->info; }
int64_t nm_trainer_steps(const nm_trainer *t) { return t->steps; }
void nm_trainer_rest(nm_trainer *t) { nm_pass_rest(t->pass); }
uint64_t nm_trainer_bytes(const nm_trainer *t)
{
    const nm_train_lora *l = &t->lora;
    return (3 * l->numbers + l->rows) * sizeof(float) + l->state_bytes + l->scratch_bytes * (size_t)nm_threads() + t->pissa.bytes;
}

/* ---- Steps ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err take_sample(nm_trainer *t, const nm_sample *sample, float *weight, bool all, nm_sequence *out)
{
    if (sample->count > t->options.max_length) return nm_fail(NM_USAGE, "a sequence of %d tokens is longer than %d", (int)sample->count, (int)t->options.max_length);
    for (int32_t i = 0; i < sample->count; i++) weight[i] = all || sample->mask[i] ? 1 : 0;
    *out = (nm_sequence){sample->ids, weight, sample->count};
    return NM_OK;
}

static nm_err take_samples(nm_trainer *t, const nm_sample *samples, size_t count, bool anchor)
{
    float *weight = t->weight;
    for (size_t i = 0; i < count; weight += samples[i++].count) NM_TRY(take_sample(t, &samples[i], weight, anchor && !samples[i].mask, &t->sequence[i]));
    return NM_OK;
}

static nm_err check_anchor(const nm_trainer *t, const nm_sample *anchor, size_t anchors)
{
    const nm_trainer_options *o = &t->options;
    int64_t tokens = 0, held = 0, room = (int64_t)o->batch * o->max_length;
    for (size_t i = 0; i < anchors; i++) {
        if (anchor[i].count < 1) return nm_fail(NM_USAGE, "an anchor without tokens");
        tokens += anchor[i].count;
        for (int32_t k = 0; k < anchor[i].count; k++) held += !anchor[i].mask || anchor[i].mask[k];
    }
    if (anchors <= (size_t)o->anchor && held <= o->anchor && tokens <= room) return NM_OK;
    return nm_fail(NM_USAGE, "an anchor of %zu sequences, %lld tokens, %lld of them held: the trainer was made for %d held, and %lld in all", anchors, (long long)tokens,
        (long long)held, (int)o->anchor, (long long)room);
}

static nm_err gradients(nm_trainer *t, const nm_sample *samples, size_t count, const nm_sample *anchor, size_t anchors, float anchor_weight, nm_step_report *r,
    nm_train_report *report, const volatile sig_atomic_t *cancel)
{
    t->lora.dropout.step = t->steps + 1;
    if (count < 1 || count > (size_t)t->options.batch) return nm_fail(NM_USAGE, "a step of %zu sequences, and the trainer was made for %d", count, (int)t->options.batch);
    NM_TRY(check_anchor(t, anchor, anchors));
    NM_TRY(take_samples(t, samples, count, false));
    NM_TRY(nm_step_gradients(t->pass, &t->lora, t->sequence, (int32_t)count, r, cancel));
    if (!anchors || anchor_weight == 0) return NM_OK;
    NM_TRY(take_samples(t, anchor, anchors, true));
    uint64_t from = nm_clock_ns();
    NM_TRY(nm_step_anchor(t->pass, &t->lora, t->sequence, (int32_t)anchors, anchor_weight, r, &report->anchor, cancel));
    report->anchor_seconds = (double)(nm_clock_ns() - from) * 1e-9;
    return NM_OK;
}

/* ---- Giving way ----
 * Which rate a model bears is not told by its size alone: at 1.3e-3 Qwen2.5 0.5B drifts away from itself within ten steps, its anchor's KL at 0.2 to 2 nats, where
 * SmolLM2 stays at 0.02 with 2e-3. The KL of a step is that of one text, so that only their geometric mean over some steps says anything. */

static void note_slip(nm_trainer *t, double kl) { t->slip = SLIP_MEMORY * t->slip + (1 - SLIP_MEMORY) * log(fmax(kl, LEAST_KL)); }

static float eased(const nm_trainer *t, float lr)
{
    double share = (double)t->options.ease / exp(t->slip);
    return t->options.ease > 0 && share < 1 ? (float)((double)lr * share * share) : lr;
}

nm_err nm_trainer_step(nm_trainer *t, const nm_sample *samples, size_t count, const nm_sample *anchor, size_t anchors, float anchor_weight,
    nm_train_report *report, const volatile sig_atomic_t *cancel)
{
    const nm_trainer_options *o = &t->options;
    uint64_t from = nm_clock_ns(), update;
    nm_step_report r = {0};
    *report = (nm_train_report){0};
    NM_TRY(gradients(t, samples, count, anchor, anchors, anchor_weight, &r, report, cancel));
    update = nm_clock_ns();
    if (anchors) note_slip(t, report->anchor);
    float lr = eased(t, nm_schedule_rate(o->schedule, o->lr, o->warmup, o->steps, t->steps + 1));
    NM_TRY(nm_train_lora_update(&t->lora, t->optim, &t->set, t->steps + 1, lr, lr * o->lr_ratio, nm_clip_factor(r.grad_norm, o->clip)));
    report->step = ++t->steps;
    report->loss = r.loss;
    report->grad_norm = r.grad_norm;
    report->lr = lr;
    report->supervised = (int64_t)r.supervised;
    report->tokens = r.tokens;
    report->seconds = (double)(nm_clock_ns() - from) * 1e-9;
    report->update_seconds = (double)(nm_clock_ns() - update) * 1e-9;
    return NM_OK;
}
