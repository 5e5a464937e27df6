/* The forecast of a run: counting and measuring. */
#include "tune/cost.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tune/count.h"
#include "os/clock.h"
#include "os/machine.h"

static const double PLAN_SECONDS = 4, PASS_SECONDS = 10;    /* of passes in all; the longest pass that is waited for */
enum { WARM_ROWS = 64, LEAST_ROWS = 128 };

/* ---- Counting ------------------------------------------------------------------------------------------------------------------------------- */

/* Operations of one row. A product with a map is 2 for each of its numbers, as is the gradient of its input. */
typedef struct work {
    double maps, head;          /* parameters */
    double adapter;             /* numbers that are trained */
    double width;               /* of attention, over all layers: times the square of a length */
    bool again;                 /* layers are computed once more */
} work;

static work work_of(const nm_model *model, const nm_trainer_info *i)
{
    const nm_model_info *m = nm_model_describe(model);
    work w = {.adapter = (double)i->parameters, .width = (double)m->n_layer * m->n_embd, .again = !strcmp(i->recomputed, "layers")};
    nm_count_maps(model, &w.maps, &w.head);
    return w;
}

/* Forward: the maps, both halves of the adapter, and two products over half of attention's square. */
static double forward(const work *w, double rows, double squares) { return rows * (2 * w->maps + 2 * w->adapter) + 2 * w->width * squares; }

/* Backward: the maps once; of the adapter both halves' inputs, both gradients, and A's again; five products of attention. */
static double backward(const work *w, double rows, double squares) { return rows * (2 * w->maps + 5 * w->adapter) + 5 * w->width * squares; }

/* own: rows whose beginning no other sequence of their pass has; the others are not computed forward, but where layers are once more. */
static double pass_work(const work *w, double rows, double own, double trained, double squares)
{
    return forward(w, own, squares * own / rows) + (w->again ? forward(w, rows, squares) : 0) + backward(w, rows, squares) + 4 * w->head * trained;
}

static int32_t common_tokens(const nm_sample *a, const nm_sample *b)
{
    int32_t n = 0, most = a->count < b->count ? a->count : b->count;
    while (n < most && a->ids[n] == b->ids[n]) n++;
    return n;
}

/* Tokens that the sample has in common with the first one of its pass or the last: any other will seldom have more. */
static int32_t shared_tokens(const nm_tune_settings *set, const nm_sample *first, const nm_sample *last, const nm_sample *s)
{
    int32_t a = common_tokens(first, s), b = common_tokens(last, s);
    return set->no_packing || set->dropout > 0 ? 0 : a > b ? a : b;
}

static double anchor_work(const nm_tune_settings *set, const work *w, const nm_sample *anchor, size_t count)
{
    work bare = *w;
    double rows = 0, own = 0, held = 0, squares = 0;
    for (size_t i = 0; i < count; i++) {
        rows += anchor[i].count;
        own += anchor[i].count - (i ? shared_tokens(set, anchor, &anchor[i - 1], &anchor[i]) : 0);
        squares += (double)anchor[i].count * anchor[i].count;
        held += anchor[i].trained;
    }
    bare.adapter = 0;
    return forward(&bare, own, squares * own / rows) + 2 * w->head * held + pass_work(w, rows, own, held, squares);
}

/* Of a step, by the first three: one of text, two of questions. */
static nm_err mean_anchor_work(nm_tune *t, const work *w, double *mean)
{
    enum { STEPS = 3 };
    nm_sample anchor[NM_ANCHORS];
    size_t anchors;
    double answering;
    *mean = 0;
    for (int64_t i = 0; t->anchor && i < STEPS; i++) {
        NM_TRY(nm_tune_anchor_at(t, i, anchor, &anchors, &answering));
        *mean += anchor_work(t->set, w, anchor, anchors) / STEPS;
    }
    return NM_OK;
}

static double score_work(const work *w, double rows) { return forward(w, rows, rows * rows) + 2 * w->head * rows; }

/* ---- Measuring ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct probe {
    nm_tune *t;
    nm_tune_rates *rates;
    work work;
    uint8_t *ones;              /* [longest sample]: everything is trained */
    double pass_seconds, pass_work, anchor_seconds, anchor_work, update_seconds;
    int64_t steps;
    int64_t rows;               /* of the largest pass */
} probe;

static int32_t trained_of(const nm_sample *s, int32_t count)
{
    int32_t n = 0;
    for (int32_t i = 1; i < count; i++) n += s->mask[i];
    return n;
}

/* Some samples of a step, as many as one pass takes and at most `most` rows: the last one may be cut for it. */
static nm_err choose_samples(probe *p, int64_t step, int64_t most, size_t *count, int64_t *rows, double *operations)
{
    nm_tune *t = p->t;
    nm_order_step s;
    double trained = 0, squares = 0, own = 0;
    *count = 0;
    *rows = 0;
    NM_TRY(nm_order_step_at(t->order, step % t->at.steps, &s));
    for (size_t i = 0; i < s.count && *rows < most; i++) {
        nm_sample sample = nm_dataset_sample(t->data, NM_SPLIT_TRAIN, s.samples[i]);
        int64_t left = most - *rows;
        if (i && sample.count > left) break;
        if (sample.count > left) sample.count = (int32_t)left;
        sample.trained = trained_of(&sample, sample.count);
        if (!sample.trained) {              /* cut before its answer */
            sample.mask = p->ones;
            sample.trained = sample.count - 1;
        }
        own += sample.count - (i ? shared_tokens(t->set, t->sample, &t->sample[i - 1], &sample) : 0);
        t->sample[(*count)++] = sample;
        *rows += sample.count;
        trained += sample.trained;
        squares += (double)sample.count * sample.count;
    }
    *operations = pass_work(&p->work, (double)*rows, own, trained, squares);
    return NM_OK;
}

static nm_err probe_pass(probe *p, int64_t step, int64_t most, bool counts, double *seconds)
{
    nm_tune *t = p->t;
    size_t count;
    int64_t rows;
    double operations;
    nm_train_report r;
    NM_TRY(choose_samples(p, step, most, &count, &rows, &operations));
    nm_sample anchor[NM_ANCHORS];
    size_t anchors = 0;
    double answering;
    if (t->anchor && counts) NM_TRY(nm_tune_anchor_at(t, p->steps, anchor, &anchors, &answering));
    NM_TRY(nm_trainer_step(t->trainer, t->sample, count, anchor, anchors, (float)t->set->anchor, &r, t->listener.cancel));
    *seconds = (r.seconds - r.anchor_seconds - r.update_seconds) / operations;
    if (rows > p->rows) p->rows = rows;
    if (!counts) return NM_OK;
    p->pass_seconds += r.seconds - r.anchor_seconds - r.update_seconds;
    p->pass_work += operations;
    p->anchor_seconds += r.anchor_seconds;
    if (anchors) p->anchor_work += anchor_work(t->set, &p->work, anchor, anchors);
    p->update_seconds += r.update_seconds;
    p->steps++;
    return NM_OK;
}

/* A small pass wakes the threads and tells how large a pass can be waited for; then passes as the run will make them, for some seconds. */
static nm_err probe_passes(probe *p)
{
    int64_t most = p->rates->info.pass_rows;
    double each, begun = nm_clock_seconds();
    NM_TRY(probe_pass(p, 0, WARM_ROWS, false, &each));
    double rows = PASS_SECONDS / (each * pass_work(&p->work, 1, 1, 1, (double)most));
    if (rows < (double)most) most = rows > LEAST_ROWS ? (int64_t)rows : LEAST_ROWS < most ? LEAST_ROWS : most;
    for (int64_t i = 0; i == 0 || nm_clock_seconds() - begun < PLAN_SECONDS; i++) NM_TRY(probe_pass(p, i, most, true, &each));
    return NM_OK;
}

/* Where the adapter will go, or near: what writing takes depends on the disk. */
static nm_err probe_saving(nm_tune *t, double *seconds)
{
    const char *output = t->set->output, *slash = output ? strrchr(output, '/') : NULL, *temporary = getenv("TMPDIR");
    char folder[512], state[560], file[560];
    static const char *const files[] = {"adapter_model.safetensors", "adapter_config.json", "nomoat.json", "README.md", "checkpoint.safetensors"};
    if (slash) snprintf(folder, sizeof folder, "%.*s/.nomoat-plan-XXXXXX", (int)(slash - output), output);
    else snprintf(folder, sizeof folder, "%.400s/nomoat-plan-XXXXXX", temporary && *temporary ? temporary : "/tmp");
    *seconds = 0;
    if (!mkdtemp(folder)) return NM_OK;             /* nowhere to try it: a little is missing in the forecast */
    snprintf(state, sizeof state, "%s/checkpoint.safetensors", folder);
    char *own_folder = t->folder, *own_state = t->state;
    double from = nm_clock_seconds();
    t->folder = folder;
    t->state = state;
    nm_err err = nm_tune_keep_adapter(t);
    if (err == NM_OK) err = nm_tune_checkpoint(t);
    *seconds = nm_clock_seconds() - from;
    t->folder = own_folder;
    t->state = own_state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(file, sizeof file, "%s/%s", folder, files[i]);
        unlink(file);
    }
    rmdir(folder);
    return err;
}

static uint64_t touched(const nm_trainer_info *i, int64_t rows)
{
    double share = fmin((double)rows / i->pass_rows, 1);
    return i->bytes - i->pass_bytes + (uint64_t)(share * (double)i->pass_bytes);
}

static uint64_t less(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

static nm_err probe_answers(nm_tune *t, double *seconds)
{
    nm_sample anchor[NM_ANCHORS];
    size_t anchors;
    return nm_tune_anchor_at(t, 1, anchor, &anchors, seconds);
}

/* Rows that are answered behind the run. */
static size_t rows_answered(const nm_tune_settings *set) { return (size_t)set->answers + (set->report ? NM_TUNE_REPORT_ANSWERS : 0); }

static nm_err measure(probe *p)
{
    nm_tune_rates *r = p->rates;
    double numbers = (double)r->info.parameters, saving;
    r->opened = nm_machine_resident_peak();
    if (p->t->anchor) NM_TRY(probe_answers(p->t, &r->answers));
    NM_TRY(probe_passes(p));
    r->beside = less(nm_machine_resident(), touched(&r->info, p->rows));
    uint64_t before = nm_machine_resident_peak();
    NM_TRY(nm_tune_probe_look(p->t, &r->look));
    NM_TRY(probe_saving(p->t, &saving));
    if (rows_answered(p->t->set)) NM_TRY(nm_tune_probe_answer(p->t, &r->read, &r->say));
    uint64_t after = nm_machine_resident_peak();
    r->looked = after > before ? less(after, r->info.bytes - r->info.pass_bytes) : 0;
    r->pass = p->pass_seconds / p->pass_work;
    r->anchor = p->anchor_work > 0 ? p->anchor_seconds / p->anchor_work : 0;
    r->update = p->update_seconds / (numbers * (double)p->steps);
    r->score = r->look.scored ? r->look.score / score_work(&p->work, r->look.scored) : 0;
    r->save = saving / numbers;
    return NM_OK;
}

nm_err nm_tune_measure(nm_tune *t, nm_tune_rates *rates)
{
    *rates = (nm_tune_rates){.begin = (double)(nm_clock_ns() - t->set->begun_ns) * 1e-9, .info = *nm_trainer_describe(t->trainer)};
    probe p = {.t = t, .rates = rates, .work = work_of(t->base.model, &rates->info)};
    size_t longest = (size_t)rates->info.pass_rows + 2;
    p.ones = nm_malloc(longest);
    if (!p.ones) return nm_fail_memory(longest);
    memset(p.ones, 1, longest);
    nm_err err = measure(&p);
    nm_free(p.ones);
    return err;
}

/* ---- Forecasting ---------------------------------------------------------------------------------------------------------------------------- */

typedef struct sums { double rows, own, trained, squares; int64_t largest; } sums;

/* A step's rows, and the largest of its passes. */
static nm_err add_step(nm_tune *v, int64_t step, int32_t pass_rows, sums *s)
{
    nm_order_step o;
    nm_sample first = {0}, last = {0};
    int64_t pass = 0;
    NM_TRY(nm_order_step_at(v->order, step, &o));
    for (size_t i = 0; i < o.count; last = nm_dataset_sample(v->data, NM_SPLIT_TRAIN, o.samples[i++])) {
        nm_sample sample = nm_dataset_sample(v->data, NM_SPLIT_TRAIN, o.samples[i]);
        bool whole = sample.count <= v->set->max_length || v->set->batches;
        int32_t count = whole ? sample.count : v->set->max_length;
        s->rows += count;
        s->trained += whole ? sample.trained : trained_of(&sample, count);
        s->squares += (double)count * count;
        bool joins = i && pass + count <= pass_rows;
        if (!joins) first = last = sample;
        int32_t shared = joins ? shared_tokens(v->set, &first, &last, &sample) : 0;
        s->own += shared < count ? count - shared : 0;
        pass = joins ? pass + count : count;
        if (pass > s->largest) s->largest = pass;
    }
    return NM_OK;
}

/* What --keep adds to every step, as its samples are on average. */
static void add_kept(const nm_tune *t, int64_t steps, sums *s)
{
    size_t count = t->replay ? nm_dataset_count(t->replay, NM_SPLIT_TRAIN) : 0;
    for (size_t i = 0; i < count; i++) {
        nm_sample sample = nm_dataset_sample(t->replay, NM_SPLIT_TRAIN, i);
        double times = (double)steps * t->replays / (double)count;
        s->rows += times * sample.count;
        s->own += times * sample.count;
        s->trained += times * sample.trained;
        s->squares += times * sample.count * sample.count;
    }
}

/* Those that these settings cut: of data that is cut at the same length the reader counted them; of data that is cut later they show. */
static uint64_t count_cut(const nm_tune *v, int32_t data_length)
{
    uint64_t cut = 0;
    if (v->set->batches || v->set->max_length >= data_length) return nm_dataset_describe(v->data)->long_rows;
    for (int split = 0; split < 2; split++) {
        nm_split which = split ? NM_SPLIT_VALIDATION : NM_SPLIT_TRAIN;
        for (size_t i = 0; i < nm_dataset_count(v->data, which); i++) cut += nm_dataset_sample(v->data, which, i).count > v->set->max_length;
    }
    return cut;
}

static void cost_looks(const nm_tune *v, const nm_tune_rates *r, const work *w, nm_tune_forecast *f)
{
    double looks = ceil((double)f->steps / (double)f->every), grown = w->adapter / (double)r->info.parameters, all = 0;
    for (size_t i = 0; i < nm_dataset_count(v->data, NM_SPLIT_VALIDATION); i++) {
        int32_t count = nm_dataset_sample(v->data, NM_SPLIT_VALIDATION, i).count;
        all += r->score * score_work(w, !v->set->batches && count > v->set->max_length ? v->set->max_length : count);
    }
    f->validation = looks * (r->look.adapter * grown + r->look.open + all);
    if (r->look.meter_last) f->meter = looks * r->look.meter_open + r->look.meter * ((looks - 1) * (double)r->look.meter_early + (double)r->look.meter_last);
    f->saving = looks * r->save * w->adapter;
}

static void cost_memory(const nm_tune_rates *r, const nm_trainer_info *i, int64_t largest, nm_tune_forecast *f)
{
    uint64_t numbers = i->bytes - i->pass_bytes, training = r->beside + touched(i, largest), looking = r->looked ? r->looked + numbers : 0;
    f->bytes = i->bytes;
    f->peak = training > looking ? training : looking;
    if (r->opened > f->peak) f->peak = r->opened;
}

static nm_err forecast(nm_tune *v, const nm_tune *t, const nm_tune_rates *r, nm_tune_forecast *f)
{
    nm_trainer_options o;
    nm_trainer_info info;
    sums s = {0};
    double anchored;
    NM_TRY(nm_tune_open_order(v));
    NM_TRY(nm_tune_trainer_options(v, &o));
    int32_t least = v->anchor ? NM_ANCHOR_TOKENS : 2, most = v->set->max_length > least ? v->set->max_length : least;
    if (!v->set->batches && o.max_length > most) o.max_length = most;
    NM_TRY(nm_trainer_plan(&info, v->base.model, &o));
    work w = work_of(v->base.model, &info);
    for (int64_t i = 0; i < v->at.steps; i++) {
        if (nm_cancelled(v->listener.cancel)) return nm_fail(NM_INTERRUPTED, "interrupted");
        NM_TRY(add_step(v, i, info.pass_rows, &s));
    }
    add_kept(t, v->at.steps, &s);
    *f = (nm_tune_forecast){.steps = v->at.steps, .every = v->at.every, .tokens = s.rows, .trained = s.trained, .pass_rows = info.pass_rows, .arithmetic = info.arithmetic,
        .recomputed = info.recomputed,
        .epochs = (double)v->at.steps / (double)nm_order_steps_per_epoch(v->order), .begin = r->begin};
    f->cut = count_cut(v, v->data == t->data ? t->set->max_length : v->set->max_length);
    f->training = r->pass * pass_work(&w, s.rows, s.own, s.trained, s.squares);
    NM_TRY(mean_anchor_work(v, &w, &anchored));
    f->anchor = v->anchor ? r->anchor * anchored * (double)v->at.steps + r->answers * nm_tune_anchor_stops(v, v->at.steps) : 0;
    f->update = r->update * w.adapter * (double)v->at.steps;
    cost_looks(v, r, &w, f);
    nm_answer_tokens answers = nm_tune_answer_tokens(v, rows_answered(v->set));
    f->answers = r->read * answers.read + r->say * answers.said;
    cost_memory(r, &info, v->anchor && s.largest < NM_ANCHOR_TOKENS ? NM_ANCHOR_TOKENS : s.largest, f);
    f->seconds = f->begin + f->training + f->anchor + f->update + f->validation + f->meter + f->saving + f->answers;
    return NM_OK;
}

nm_err nm_tune_forecast_of(const nm_tune *t, const nm_tune_rates *rates, const nm_tune_settings *set, nm_dataset *data, nm_tune_forecast *out)
{
    bool anchored = t->anchor && !set->no_anchor;
    nm_tune v = {.set = set, .base = t->base, .listener = t->listener, .data = data, .anchor = anchored ? t->anchor : NULL,
        .beside = nm_tune_data_bytes(t->replay)};
    nm_err err = forecast(&v, t, rates, out);
    nm_order_close(&v.order);
    return err;
}
