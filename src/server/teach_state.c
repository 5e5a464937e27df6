/* The run as clients see it, which is also how it lies on the disk: what another process needs to go on is in there. */
#include "server/teach.h"

#include <math.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/clock.h"
#include "server/fields.h"
#include "server/task.h"

static const char *const phases[NM_TEACH_PHASES] = {"idle", "preparing", "training", "stopping", "stopped", "done", "failed"};
static const char *const decisions[] = {NULL, "kept", "discarded"};
enum { DECISIONS = sizeof decisions / sizeof *decisions };

void nm_teach_run_free(nm_teach_run *r)
{
    nm_free(r->name);
    nm_free(r->model);
    nm_free(r->error);
    json_decref(r->lesson);
    json_decref(r->notes);
    json_decref(r->result);
    *r = (nm_teach_run){0};
}

bool nm_teach_at_work(const nm_teach_run *r) { return r->phase == NM_TEACH_PREPARING || r->phase == NM_TEACH_TRAINING || r->phase == NM_TEACH_STOPPING; }

void nm_teach_run_note(nm_teach_run *r, const char *line)
{
    if (!r->notes) r->notes = json_array();
    if (json_array_size(r->notes) == NM_TEACH_NOTES) json_array_remove(r->notes, 0);
    if (r->notes) json_array_append_new(r->notes, nm_wire_text(line, strlen(line)));
}

/* ---- Writing ------------------------------------------------------------------------------------------------------------------------------ */

static json_t *number(double value) { return isfinite(value) ? json_real(value) : json_null(); }
static json_t *measured(double value) { return isfinite(value) && value >= 0 ? json_real(value) : json_null(); }
static json_t *text(const char *value) { return value ? nm_wire_text(value, strlen(value)) : json_null(); }

/* A copy: they grow while others write out what they were given. */
static json_t *notes_of(const nm_teach_run *r) { return r->notes ? json_deep_copy(r->notes) : json_array(); }

static json_t *curve(const nm_tune_history *h)
{
    json_t *losses = json_array();
    for (int32_t i = 0; losses && i < h->losses; i++) json_array_append_new(losses, number((double)h->loss[i]));
    return json_pack("{s:I, s:o}", "per", (json_int_t)(h->per ? h->per : 1), "losses", losses);
}

static json_t *looks(const nm_tune_history *h)
{
    json_t *list = json_array();
    for (int32_t i = 0; list && i < h->looks; i++)
        json_array_append_new(list, json_pack("{s:I, s:o, s:o}", "step", (json_int_t)h->look[i].step, "validation", measured(h->look[i].validation),
            "forgetting", measured(h->look[i].forgetting)));
    return list;
}

static double seconds_of(const nm_teach_run *r) { return r->spent + (r->begun ? nm_clock_seconds() - r->begun : 0); }

/* As steps went so far, looks at it left out; null before the first and when it does nothing. */
static json_t *seconds_left(const nm_teach_run *r)
{
    const nm_tune_state *w = &r->where;
    if (r->phase != NM_TEACH_TRAINING || w->step <= w->from) return json_null();
    return number(w->seconds / (double)(w->step - w->from) * (double)(w->steps - w->step));
}

json_t *nm_teach_run_json(const nm_teach_run *r)
{
    const nm_tune_state *w = &r->where;
    if (r->phase == NM_TEACH_IDLE) return json_pack("{s:s, s:n, s:n, s:b}", "state", phases[0], "result", "error", "resumable", 0);
    json_t *all = json_pack("{s:s, s:s, s:s, s:s, s:O}", "state", phases[r->phase], "id", r->id, "name", r->name, "model", r->model, "lesson", r->lesson);
    json_t *more = json_pack("{s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "step", (json_int_t)w->step, "steps", (json_int_t)w->steps, "every", (json_int_t)w->every,
        "epochs", w->steps ? number(w->epochs) : json_null(), "loss", w->step ? number(w->last_loss) : json_null(), "first_loss", w->step ? number(w->first_loss) : json_null(),
        "curve", curve(&w->history), "looks", looks(&w->history));
    json_t *rest = json_pack("{s:o, s:o, s:o, s:o, s:o, s:O, s:o, s:b}", "tokens_per_second", r->speed > 0 ? number(r->speed) : json_null(), "seconds", number(seconds_of(r)),
        "seconds_left", seconds_left(r), "notes", notes_of(r), "error", text(r->error), "result", r->result ? r->result : json_null(),
        "decided", text(decisions[r->decided]), "resumable", r->resumable);
    if (nm_wire_merge(all, more) && nm_wire_merge(all, rest)) return all;
    json_decref(all);
    return NULL;
}

/* ---- Reading ------------------------------------------------------------------------------------------------------------------------------- */

static double real_of(const json_t *object, const char *name, double otherwise)
{
    const json_t *v = json_object_get(object, name);
    return json_is_number(v) ? json_number_value(v) : otherwise;
}

static void read_history(nm_tune_history *h, const json_t *json)
{
    size_t i;
    json_t *item;
    const json_t *c = json_object_get(json, "curve");
    h->per = (int64_t)real_of(c, "per", 1);
    json_array_foreach(json_object_get(c, "losses"), i, item)
        if (h->losses < NM_CURVE) h->loss[h->losses++] = json_is_number(item) ? (float)json_number_value(item) : NAN;
    json_array_foreach(json_object_get(json, "looks"), i, item)
        if (h->looks < NM_CURVE)
            h->look[h->looks++] = (nm_tune_look){(int64_t)real_of(item, "step", 0), real_of(item, "validation", -1), real_of(item, "forgetting", -1)};
}

static nm_err read_texts(nm_teach_run *r, const json_t *json)
{
    const char *id = NULL, *name = NULL, *model = NULL, *error = NULL;
    NM_TRY(nm_field_text(json, "id", &id));
    NM_TRY(nm_field_text(json, "name", &name));
    NM_TRY(nm_field_text(json, "model", &model));
    NM_TRY(nm_field_text(json, "error", &error));
    if (!id || !name || !model || strlen(id) != NM_TEACH_ID - 1) return nm_fail(NM_BAD_FILE, "no state of a lesson");
    memcpy(r->id, id, NM_TEACH_ID);
    r->name = nm_strndup(name, strlen(name));
    r->model = nm_strndup(model, strlen(model));
    if (error) r->error = nm_strndup(error, strlen(error));
    return r->name && r->model && !error == !r->error ? NM_OK : nm_fail_memory(strlen(name));
}

static int word_of(const json_t *json, const char *name, const char *const *words, int n)
{
    const char *word = json_string_value(json_object_get(json, name));
    for (int i = 0; word && i < n; i++)
        if (words[i] && !strcmp(words[i], word)) return i;
    return 0;
}

nm_err nm_teach_run_read(nm_teach_run *r, const json_t *json)
{
    *r = (nm_teach_run){.phase = (nm_teach_phase)word_of(json, "state", phases, NM_TEACH_PHASES), .decided = (nm_teach_decision)word_of(json, "decided", decisions, DECISIONS)};
    if (r->phase == NM_TEACH_IDLE) return NM_OK;
    NM_TRY(read_texts(r, json));
    json_t *lesson = json_object_get(json, "lesson"), *notes = json_object_get(json, "notes"), *result = json_object_get(json, "result");
    if (!json_is_object(lesson)) return nm_fail(NM_BAD_FILE, "no state of a lesson");
    r->lesson = json_incref(lesson);
    if (json_is_array(notes)) r->notes = json_deep_copy(notes);
    if (json_is_object(result)) r->result = json_incref(result);
    nm_tune_state *w = &r->where;
    w->step = (int64_t)real_of(json, "step", 0), w->steps = (int64_t)real_of(json, "steps", 0), w->every = (int64_t)real_of(json, "every", 0);
    w->epochs = real_of(json, "epochs", NAN), w->last_loss = real_of(json, "loss", NAN), w->first_loss = real_of(json, "first_loss", NAN);
    read_history(&w->history, json);
    r->spent = real_of(json, "seconds", 0);
    r->speed = real_of(json, "tokens_per_second", 0);
    r->resumable = json_is_true(json_object_get(json, "resumable"));
    if (nm_teach_at_work(r)) r->phase = NM_TEACH_STOPPED, r->resumable = true;
    return NM_OK;
}
