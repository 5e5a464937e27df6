/* What a run of `nomoat tune` leaves behind: the adapter with its provenance, and checkpoints. */
#include <math.h>
#include <stdio.h>

#include "common.h"
#include "tune.h"

static nm_err provenance(const nm_tune *t, nm_str *s)
{
    const nm_tune_settings *set = t->set;
    const nm_trainer_info *i = nm_trainer_describe(t->trainer);
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_text(s, "program", "nomoat"));
    NM_TRY(nm_json_text(s, "version", nm_version()));
    NM_TRY(nm_json_text(s, "base", nm_model_describe(t->stacked->model)->name));
    if (set->format) NM_TRY(nm_json_text(s, "format", set->format));
    NM_TRY(nm_json_whole(s, "steps", (uint64_t)nm_trainer_steps(t->trainer)));
    NM_TRY(nm_json_whole(s, "seed", set->seed.value));
    NM_TRY(nm_json_whole(s, "rank", (uint64_t)i->rank));
    NM_TRY(nm_json_key(s, "scale"));
    NM_TRY(nm_json_float(s, (double)i->scale));
    if (set->optimizer) NM_TRY(nm_json_text(s, "optimizer", set->optimizer));
    if (set->start) NM_TRY(nm_json_text(s, "init", set->start == NM_START_PISSA ? "pissa" : "gaussian"));
    if (set->dropout > 0) {
        NM_TRY(nm_json_key(s, "dropout"));
        NM_TRY(nm_json_double(s, set->dropout));
    }
    NM_TRY(nm_json_key(s, "learning_rate"));
    NM_TRY(nm_json_double(s, t->lr));
    NM_TRY(nm_json_key(s, "validation_loss"));
    NM_TRY(nm_json_double(s, isfinite(t->best) ? t->best : NAN));
    NM_TRY(nm_json_key(s, "forgetting"));
    NM_TRY(nm_json_double(s, t->forgetting >= 0 ? t->forgetting : NAN));
    return nm_str_putc(s, '}');
}

nm_err nm_tune_keep_adapter(nm_tune *t)
{
    nm_str s = {0};
    nm_err err = provenance(t, &s);
    const char *base = t->set->base_id ? t->set->base_id : nm_model_describe(t->stacked->model)->name;
    if (err == NM_OK) err = nm_trainer_save(t->trainer, t->folder, base, s.data, NULL);
    nm_str_free(&s);
    return err;
}

/* The checkpoint's note: what the loop itself remembers. */
nm_err nm_tune_checkpoint(nm_tune *t)
{
    char note[128];
    snprintf(note, sizeof note, "%a %d %lld %a", t->best, t->worse, (long long)t->looked, t->first_loss);
    return nm_trainer_checkpoint(t->trainer, t->state, note);
}

nm_err nm_tune_resume(nm_tune *t)
{
    char *note;
    long long looked = 0;
    NM_TRY(nm_trainer_resume(t->trainer, t->state, &note));
    int read = sscanf(note, "%la %d %lld %la", &t->best, &t->worse, &looked, &t->first_loss);
    nm_free(note);
    if (read != 4) return nm_fail(NM_BAD_FILE, "%s: no checkpoint of nomoat tune", t->state);
    t->looked = looked;
    t->from = nm_trainer_steps(t->trainer);
    nm_note("going on after step %lld of %lld", (long long)t->from, (long long)t->steps);
    return NM_OK;
}
