/* What a run of `nomoat tune` leaves behind: the adapter with its provenance, and checkpoints. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "tune/tune_impl.h"

/* ---- The adapter --------------------------------------------------------------------------------------------------------------------------- */

/* What does not decide the adapter, or was resolved into what does. */
static const char NOT_SETTINGS[] = " output log report config resume memory fit ";

nm_err nm_tune_settings_json(const nm_tune *t, nm_str *s)
{
    nm_tune_settings set = *t->set;
    set.lr = t->at.rate;
    set.ease = t->ease;
    set.epochs = t->at.epochs;
    if (t->at.every <= INT32_MAX) set.save_every = (int32_t)t->at.every;
    NM_TRY(nm_option_json(s, nm_tune_options, &set, NOT_SETTINGS));
    if (!t->base.settings || !*t->base.settings) return NM_OK;
    s->length--;                /* the brace */
    return nm_str_printf(s, "%s%s}", s->data[s->length - 1] == '{' ? "" : ", ", t->base.settings);
}

static nm_err put_double(nm_str *s, const char *key, double v)
{
    NM_TRY(nm_json_key(s, key));
    return nm_json_double(s, v);
}

static nm_err put_data(const nm_tune *t, nm_str *s)
{
    NM_TRY(nm_json_key(s, "data"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < t->n_sources; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, t->sources[i], strlen(t->sources[i])));
    }
    return nm_str_putc(s, ']');
}

static nm_err provenance(const nm_tune *t, nm_str *s)
{
    const nm_tune_settings *set = t->set;
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "program", "nomoat"));
    NM_TRY(nm_json_string(s, "version", nm_version()));
    NM_TRY(nm_json_string(s, "base", nm_model_describe(t->base.model)->name));
    if (set->format) NM_TRY(nm_json_string(s, "format", set->format));
    NM_TRY(put_data(t, s));
    NM_TRY(nm_json_whole(s, "steps", (uint64_t)nm_trainer_steps(t->trainer)));
    NM_TRY(nm_json_whole(s, "seed", set->seed.value));
    NM_TRY(nm_json_whole(s, "rank", (uint64_t)i->rank));
    NM_TRY(nm_json_key(s, "scale"));
    NM_TRY(nm_json_single(s, (double)i->scale));
    NM_TRY(nm_json_string(s, "arithmetic", i->arithmetic));
    NM_TRY(put_double(s, "learning_rate", t->at.rate));
    NM_TRY(put_double(s, "validation_loss", isfinite(t->at.best) ? t->at.best : NAN));
    NM_TRY(put_double(s, "forgetting", t->at.forgetting >= 0 ? t->at.forgetting : NAN));
    if (set->recipe) NM_TRY(nm_json_string(s, "recipe", set->recipe));
    NM_TRY(nm_json_key(s, "settings"));
    NM_TRY(nm_tune_settings_json(t, s));
    return nm_str_putc(s, '}');
}

static nm_err keep_gguf(const nm_tune *t, const nm_adapter_card *card)
{
    nm_str path = {0};
    nm_err err = nm_str_printf(&path, "%s/adapter.gguf", t->folder);
    if (err == NM_OK && t->set->gguf) err = nm_adapter_export(t->folder, t->base.model, path.data, true, card);
    else if (err == NM_OK) unlink(path.data);       /* of an earlier run into this folder: it would be another adapter */
    nm_str_free(&path);
    return err;
}

nm_err nm_tune_keep_adapter(nm_tune *t)
{
    nm_str s = {0};
    nm_err err = provenance(t, &s);
    const char *base = t->set->base_id ? t->set->base_id : nm_model_describe(t->base.model)->name;
    nm_adapter_card card = {.base = base, .provenance = s.data, .prompt_format = t->set->format};
    if (err == NM_OK) err = nm_trainer_save(t->trainer, t->folder, &card);
    if (err == NM_OK) err = keep_gguf(t, &card);
    if (err == NM_OK) {
        t->at.kept = nm_trainer_steps(t->trainer);
        t->at.kept_forgetting = t->at.forgetting;
    }
    nm_str_free(&s);
    return err;
}

/* ---- What must be the same for a run to go on -------------------------------------------------------------------------------------------- */

static uint64_t hash_samples(const nm_dataset *d, nm_split split)
{
    uint64_t h = 0;
    for (size_t i = 0; d && i < nm_dataset_count(d, split); i++) {
        nm_sample s = nm_dataset_sample(d, split, i);
        h = nm_hash(nm_hash(h, s.ids, (size_t)s.count * sizeof *s.ids), s.mask, (size_t)s.count);
    }
    return h;
}

static nm_err hash_order(nm_order *order, int64_t steps, uint64_t *h)
{
    for (int64_t i = 0; order && i < steps; i++) {
        nm_order_step s;
        NM_TRY(nm_order_step_at(order, i, &s));
        *h = nm_hash(*h, s.samples, s.count * sizeof *s.samples);
    }
    return NM_OK;
}

enum { IDENTITIES = 4 };
static const struct { const char *key, *what; } identity_of[IDENTITIES] = {{"data", "data, or another order of it"}, {"validation", "validation data"},
    {"keep", "data to keep (--keep)"}, {"anchor", "settings of the anchor"}};

static nm_err identities(nm_tune *t, uint64_t h[IDENTITIES])
{
    h[0] = hash_samples(t->data, NM_SPLIT_TRAIN);
    NM_TRY(hash_order(t->order, t->at.steps, &h[0]));
    h[1] = hash_samples(t->data, NM_SPLIT_VALIDATION);
    h[2] = hash_samples(t->replay, NM_SPLIT_TRAIN);
    NM_TRY(hash_order(t->replay_order, t->replay_order ? t->at.steps : 0, &h[2]));
    h[3] = nm_tune_anchor_hash(t);
    return NM_OK;
}

/* ---- Checkpoints ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err put_pending(nm_str *s, const nm_train_report *r)
{
    const double v[] = {(double)r->step, r->loss, r->grad_norm, r->anchor, (double)r->lr, (double)r->supervised, (double)r->tokens, r->seconds};
    NM_TRY(nm_json_key(s, "pending"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; r->step && i < sizeof v / sizeof *v; i++) NM_TRY(nm_str_printf(s, "%s%.17g", i ? ", " : "", v[i]));
    return nm_str_putc(s, ']');
}

/* The checkpoint's note: what the loop itself remembers. */
static nm_err put_note(nm_tune *t, nm_str *s)
{
    uint64_t h[IDENTITIES];
    NM_TRY(identities(t, h));
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "by", "nomoat tune"));
    for (size_t i = 0; i < IDENTITIES; i++) {
        char hex[17];
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)h[i]);
        NM_TRY(nm_json_string(s, identity_of[i].key, hex));
    }
    NM_TRY(put_double(s, "best", t->at.best));
    NM_TRY(put_double(s, "first_loss", t->at.first_loss));
    NM_TRY(put_double(s, "last_loss", t->at.last_loss));
    NM_TRY(put_double(s, "forgetting", t->at.forgetting));
    NM_TRY(put_double(s, "kept_forgetting", t->at.kept_forgetting));
    NM_TRY(nm_json_whole(s, "worse", (uint64_t)t->worse));
    NM_TRY(nm_json_whole(s, "looked", (uint64_t)t->looked));
    NM_TRY(nm_json_whole(s, "kept", (uint64_t)t->at.kept));
    NM_TRY(nm_json_whole(s, "over", t->over));
    NM_TRY(put_pending(s, &t->pending));
    NM_TRY(nm_tune_history_write(&t->at.history, s));
    return nm_str_putc(s, '}');
}

nm_err nm_tune_checkpoint(nm_tune *t)
{
    nm_str s = {0};
    nm_err err = nm_tune_flush_log(t);
    if (err == NM_OK) err = put_note(t, &s);
    if (err == NM_OK) err = nm_trainer_checkpoint(t->trainer, t->state, s.data);
    nm_str_free(&s);
    return err;
}

/* ---- Going on ----------------------------------------------------------------------------------------------------------------------------------- */

static double number(const nm_json *v, double otherwise)
{
    return !v ? otherwise : v->kind == NM_JSON_INT ? (double)v->integer : v->kind == NM_JSON_REAL ? v->real : otherwise;
}

static double number_of(const nm_json *note, const char *key, double otherwise) { return number(nm_json_get(note, key), otherwise); }

static nm_err check_identities(nm_tune *t, const nm_json *note)
{
    uint64_t h[IDENTITIES];
    NM_TRY(identities(t, h));
    for (size_t i = 0; i < IDENTITIES; i++) {
        const nm_json *v = nm_json_get(note, identity_of[i].key);
        if (!v || v->kind != NM_JSON_STRING) return nm_fail(NM_BAD_FILE, "%s: no checkpoint of nomoat tune", t->state);
        if (strtoull(v->string.bytes, NULL, 16) != h[i])
            return nm_fail(NM_REFUSED, "%s belongs to a run with other %s: resume with what it was begun with", t->state, identity_of[i].what);
    }
    return NM_OK;
}

static void read_pending(nm_tune *t, const nm_json *v)
{
    double n[8];
    if (!v || v->kind != NM_JSON_ARRAY || v->array.count != 8) return;
    for (size_t i = 0; i < 8; i++) n[i] = number(&v->array.items[i], 0);
    t->pending = (nm_train_report){.step = (int64_t)n[0], .loss = n[1], .grad_norm = n[2], .anchor = n[3], .lr = (float)n[4], .supervised = (int64_t)n[5],
        .tokens = (int64_t)n[6], .seconds = n[7]};
}

static nm_err read_note(nm_tune *t, const nm_json *note)
{
    NM_TRY(check_identities(t, note));
    t->at.best = number_of(note, "best", HUGE_VAL);
    t->at.first_loss = number_of(note, "first_loss", 0);
    t->at.last_loss = number_of(note, "last_loss", 0);
    t->at.forgetting = number_of(note, "forgetting", -1);
    t->at.kept_forgetting = number_of(note, "kept_forgetting", -1);
    t->worse = (int32_t)number_of(note, "worse", 0);
    t->looked = (int64_t)number_of(note, "looked", 0);
    t->at.kept = (int64_t)number_of(note, "kept", 0);
    t->over = number_of(note, "over", 0) != 0;
    read_pending(t, nm_json_get(note, "pending"));
    nm_tune_history_read(&t->at.history, note);
    return NM_OK;
}

nm_err nm_tune_resume(nm_tune *t)
{
    char *text;
    nm_json note = {0};
    if (access(t->state, F_OK) != 0)
        return nm_fail(NM_NOT_FOUND, "%s: no checkpoint to go on from: the run is complete, or ended before its first one; begin it without --resume", t->state);
    NM_TRY(nm_trainer_resume(t->trainer, t->state, &text));
    nm_err err = nm_json_parse(&note, text, strlen(text));
    if (err == NM_USAGE) err = nm_fail(NM_BAD_FILE, "%s: no checkpoint of nomoat tune", t->state);
    if (err == NM_OK) err = read_note(t, &note);
    nm_json_free(&note);
    nm_free(text);
    NM_TRY(err);
    t->at.from = t->at.step = nm_trainer_steps(t->trainer);
    nm_tune_note(t, "going on after step %lld of %lld", (long long)t->at.from, (long long)t->at.steps);
    return NM_OK;
}
