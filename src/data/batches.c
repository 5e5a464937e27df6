/* Ready batches: JSON, steps > micro-batches > sequences {"ids", "mask"}, used as they are. For comparing a run with another program's. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/data.h"
#include "format/json.h"
#include "os/file.h"

enum { FILE_MOST = 1 << 30 };

/* Where a fault is. */
typedef struct place { const char *path; size_t step, micro, sequence; int32_t n_vocab; } place;

static nm_err fail_at(const place *p, const char *what)
{
    return nm_fail(NM_BAD_FILE, "%s: step %zu, micro-batch %zu, sequence %zu: %s", p->path, p->step, p->micro, p->sequence, what);
}

static nm_err read_values(const place *p, const nm_json *ids, const nm_json *mask, int32_t *id, uint8_t *trained)
{
    for (size_t i = 0; i < ids->array.count; i++) {
        const nm_json *a = &ids->array.items[i], *b = &mask->array.items[i];
        if (a->kind != NM_JSON_INT || a->integer < 0 || a->integer >= p->n_vocab) return fail_at(p, "an id is none of the model's");
        bool flag = b->kind == NM_JSON_BOOL, number = b->kind == NM_JSON_INT && (b->integer == 0 || b->integer == 1);
        if (!flag && !number) return fail_at(p, "a mask is neither 0 nor 1");
        id[i] = (int32_t)a->integer;
        trained[i] = flag ? b->boolean : (uint8_t)b->integer;
    }
    if (trained[0]) return fail_at(p, "the first token is masked 1, and nothing stands before it: make it 0");
    return NM_OK;
}

static nm_err read_sequence(nm_dataset *d, const place *p, const nm_json *sequence)
{
    const nm_json *ids = nm_json_get(sequence, "ids"), *mask = nm_json_get(sequence, "mask");
    if (!ids || !mask || ids->kind != NM_JSON_ARRAY || mask->kind != NM_JSON_ARRAY) return fail_at(p, "no {\"ids\": [...], \"mask\": [...]}");
    size_t n = ids->array.count;
    if (!n || n != mask->array.count) return fail_at(p, n ? "\"ids\" and \"mask\" differ in length" : "no ids");
    int32_t *id = nm_calloc(n, sizeof *id);
    uint8_t *trained = nm_calloc(n, 1);
    nm_err err = id && trained ? read_values(p, ids, mask, id, trained) : nm_fail_memory(n * sizeof *id);
    if (err == NM_OK) err = nm_data_add(d, id, trained, n, p->step, 0, d->units++);
    nm_free(id);
    nm_free(trained);
    return err;
}

static nm_err read_micro(nm_dataset *d, place *p, const nm_json *micro)
{
    if (micro->kind != NM_JSON_ARRAY || !micro->array.count) return fail_at(p, "no micro-batch, which is a list of sequences");
    for (p->sequence = 0; p->sequence < micro->array.count; p->sequence++) NM_TRY(read_sequence(d, p, &micro->array.items[p->sequence]));
    p->sequence = 0;
    NM_TRY(NM_GROW(d->parts, d->parts_capacity, d->n_parts + 1));
    d->parts[d->n_parts++] = (uint32_t)d->n_entries;
    return NM_OK;
}

static nm_err read_step(nm_dataset *d, place *p, const nm_json *step)
{
    if (step->kind != NM_JSON_ARRAY || !step->array.count) return fail_at(p, "no step, which is a list of micro-batches");
    for (p->micro = 0; p->micro < step->array.count; p->micro++) NM_TRY(read_micro(d, p, &step->array.items[p->micro]));
    p->micro = 0;
    NM_TRY(NM_GROW(d->steps, d->steps_capacity, d->n_steps + 1));
    d->steps[d->n_steps++] = (uint32_t)d->n_parts;
    return NM_OK;
}

static nm_err read_steps(nm_dataset *d, place *p, const nm_json *steps)
{
    if (steps->kind != NM_JSON_ARRAY || !steps->array.count) return nm_fail(NM_BAD_FILE, "%s: no list of steps: write [[[{\"ids\": ..., \"mask\": ...}]]]", p->path);
    for (p->step = 0; p->step < steps->array.count; p->step++) NM_TRY(read_step(d, p, &steps->array.items[p->step]));
    d->n_train = d->n_entries;
    d->stats.rows = d->n_entries;
    return nm_data_finish(d);
}

nm_err nm_dataset_open_batches(nm_dataset **out, const char *path, int32_t n_vocab)
{
    char *text = NULL;
    size_t size;
    nm_json steps = {0};
    place p = {.path = path, .n_vocab = n_vocab};
    nm_err err;
    *out = NULL;
    nm_dataset *d = nm_calloc(1, sizeof *d);
    if (!d) return nm_fail_memory(sizeof *d);
    NM_GOTO(nm_file_read(path, FILE_MOST, &text, &size));
    err = nm_json_parse(&steps, text, size);
    if (err != NM_OK) NM_GOTO(nm_fail_in(err == NM_USAGE ? NM_BAD_FILE : err, path));
    NM_GOTO(nm_data_add_file(d, path));
    err = read_steps(d, &p, &steps);
out:
    nm_json_free(&steps);
    nm_free(text);
    if (err != NM_OK) nm_dataset_close(&d);
    *out = d;
    return err;
}
