/* What a run of `nomoat tune` remembers of its past, for the curves: bounded, however long it runs, and part of the checkpoint. */
#include <math.h>
#include <string.h>

#include "tune/tune_impl.h"

static void halve_losses(nm_tune_history *h)
{
    for (int32_t i = 0; i < NM_CURVE / 2; i++) h->loss[i] = (h->loss[2 * i] + h->loss[2 * i + 1]) / 2;
    h->losses = NM_CURVE / 2;
    h->per *= 2;
}

void nm_tune_history_step(nm_tune_history *h, double loss)
{
    if (!h->per) h->per = 1;
    h->sum += loss;
    if (++h->in < h->per) return;
    h->loss[h->losses++] = (float)(h->sum / (double)h->in);
    h->sum = 0;
    h->in = 0;
    if (h->losses == NM_CURVE) halve_losses(h);
}

void nm_tune_history_look(nm_tune_history *h, int64_t step, double validation, double forgetting)
{
    if (h->looks == NM_CURVE) {         /* every second one, the latest of them included */
        for (int32_t i = 0; i < NM_CURVE / 2; i++) h->look[i] = h->look[2 * i + 1];
        h->looks = NM_CURVE / 2;
    }
    h->look[h->looks++] = (nm_tune_look){step, validation, forgetting};
}

/* ---- In the checkpoint's note ------------------------------------------------------------------------------------------------------------- */

static nm_err put_numbers(nm_str *s, const char *key, const double *v, size_t count)
{
    NM_TRY(nm_json_key(s, key));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < count; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(isfinite(v[i]) ? nm_str_printf(s, "%.8g", v[i]) : nm_str_puts(s, "null"));
    }
    return nm_str_putc(s, ']');
}

nm_err nm_tune_history_write(const nm_tune_history *h, nm_str *s)
{
    double numbers[3 * NM_CURVE];
    for (int32_t i = 0; i < h->losses; i++) numbers[i] = (double)h->loss[i];
    NM_TRY(put_numbers(s, "losses", numbers, (size_t)h->losses));
    const double state[] = {(double)h->per, (double)h->in, h->sum};
    NM_TRY(put_numbers(s, "losses_state", state, 3));
    for (int32_t i = 0; i < h->looks; i++) {
        numbers[3 * i] = (double)h->look[i].step;
        numbers[3 * i + 1] = h->look[i].validation;
        numbers[3 * i + 2] = h->look[i].forgetting;
    }
    return put_numbers(s, "looks", numbers, 3 * (size_t)h->looks);
}

static double number_at(const nm_json *array, size_t i)
{
    const nm_json *v = &array->array.items[i];
    return v->kind == NM_JSON_INT ? (double)v->integer : v->kind == NM_JSON_REAL ? v->real : NAN;
}

static const nm_json *array_of(const nm_json *note, const char *key, size_t most)
{
    const nm_json *v = nm_json_get(note, key);
    return v && v->kind == NM_JSON_ARRAY && v->array.count <= most ? v : NULL;
}

/* What is missing or senseless is a curve that begins anew; the run does not depend on it. */
void nm_tune_history_read(nm_tune_history *h, const nm_json *note)
{
    const nm_json *losses = array_of(note, "losses", NM_CURVE - 1), *state = array_of(note, "losses_state", 3), *looks = array_of(note, "looks", 3 * NM_CURVE);
    *h = (nm_tune_history){0};
    if (!losses || !state || state->array.count != 3 || !looks || !(number_at(state, 0) >= 0 && number_at(state, 1) >= 0)) return;
    for (size_t i = 0; i < losses->array.count; i++) h->loss[h->losses++] = (float)number_at(losses, i);
    h->per = (int64_t)number_at(state, 0);
    h->in = (int64_t)number_at(state, 1);
    h->sum = number_at(state, 2);
    for (size_t i = 0; i + 2 < looks->array.count; i += 3)
        h->look[h->looks++] = (nm_tune_look){(int64_t)fmax(number_at(looks, i), 0), number_at(looks, i + 1), number_at(looks, i + 2)};
}
