/* Opening a dataset: sources, rows, masks, split. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/data.h"
#include "data/reader.h"
#include "data/sample.h"
#include "data/source.h"

enum { LENGTH_LEAST = 8 };

/* Everything that opening needs at once. */
typedef struct loading {
    nm_dataset *d;
    const nm_dataset_options *options;
    nm_masker masker;
    nm_map map;
    int32_t source;             /* of the file at hand; -1: validation */
    uint64_t line, unit;        /* of the row at hand */
} loading;

/* ---- Rows ------------------------------------------------------------------------------------------------------------------------------- */

static nm_err take_sequence(void *arg, const nm_sequence *q)
{
    loading *l = arg;
    uint64_t unit = q->alone ? l->d->units++ : l->unit;
    return nm_data_add(l->d, q->ids, q->mask, q->count, l->line, l->source, unit);
}

/* A row whose second turn is bad leaves none of its first. The tokens stay in their block, unused. */
static void forget_entries(nm_dataset *d, size_t n, double draws)
{
    d->n_entries = n;
    d->draws = draws;
}

static nm_err read_row(loading *l, const nm_reader *reader, nm_json *row)
{
    nm_record record;
    size_t before = l->d->n_entries;
    double draws = l->d->draws;
    nm_dataset_stats stats = l->d->stats;
    l->line = reader->line;
    l->unit = l->d->units;
    NM_TRY(nm_record_read(&record, row, &l->map));
    nm_err err = nm_mask_record(&l->masker, &record, reader->plain, reader->continues);
    bool text = record.text.kind == NM_JSON_STRING;
    nm_record_free(&record);
    if (err == NM_OK && !text) l->d->units++;
    if (err == NM_OK) l->d->stats.rows++;
    if (err != NM_OK) {
        forget_entries(l->d, before, draws);
        l->d->units = l->unit;
        l->d->stats = stats;
    }
    return err;
}

/* Faults that are the program's or the machine's, not the row's. */
static bool is_fatal(nm_err err) { return err == NM_NO_MEMORY || err == NM_INTERRUPTED; }

/* Puts file and line before a row's reason. */
static nm_err name_row(const nm_reader *reader)
{
    char where[1024];
    snprintf(where, sizeof where, "%s:%llu", nm_stream_name(reader->stream), (unsigned long long)reader->line);
    return nm_fail_in(NM_BAD_FILE, where);
}

static nm_err skip_row(loading *l, nm_err err)
{
    if (!l->options->skip_bad) return err;
    if (l->d->stats.bad_rows++) return NM_OK;
    l->d->first_bad = nm_strndup(nm_error_text(), strlen(nm_error_text()));
    l->d->stats.first_bad = l->d->first_bad;
    return l->d->first_bad ? NM_OK : nm_fail_memory(strlen(nm_error_text()));
}

static nm_err report(const loading *l)
{
    uint64_t rows = l->d->stats.rows + l->d->stats.bad_rows;
    if (!l->options->progress || !l->options->progress(l->options->progress_arg, rows, 0)) return NM_OK;
    return nm_fail(NM_INTERRUPTED, "interrupted while reading the data");
}

static nm_err one_row(loading *l, nm_reader *reader, bool *end)
{
    nm_json row;
    nm_err err = nm_reader_next(reader, &row, end);
    if (err != NM_OK) return reader->broken ? err : skip_row(l, err);
    if (*end) return NM_OK;
    err = read_row(l, reader, &row);
    nm_json_free(&row);
    if (err == NM_OK || is_fatal(err)) return err;
    return skip_row(l, name_row(reader));
}

/* ---- Files ------------------------------------------------------------------------------------------------------------------------------ */

static nm_err read_stream(loading *l, nm_stream *stream)
{
    nm_reader reader;
    bool end = false;
    nm_err err = nm_data_add_file(l->d, nm_stream_name(stream));
    nm_reader_init(&reader, stream);
    while (err == NM_OK && !end) {
        reader.memory = nm_data_left(l->d);
        err = one_row(l, &reader, &end);
        if (err == NM_OK) err = report(l);
    }
    nm_reader_free(&reader);
    return err;
}

static nm_err read_file(void *arg, const char *path)
{
    nm_stream *stream;
    NM_TRY(nm_stream_open(&stream, path));
    nm_err err = read_stream(arg, stream);
    nm_stream_close(&stream);
    return err;
}

static nm_err read_memory(loading *l)
{
    nm_stream *stream;
    NM_TRY(nm_stream_open_memory(&stream, l->options->rows, l->options->rows_length, "rows.jsonl"));
    nm_err err = read_stream(l, stream);
    nm_stream_close(&stream);
    return err;
}

static nm_err read_source(loading *l, const char *data, double *weight)
{
    char *path;
    size_t files = l->d->n_files;
    NM_TRY(nm_source_parse(data, &path, weight));
    nm_err err = nm_source_walk(path, read_file, l);
    if (err == NM_OK && l->d->n_files == files)
        err = nm_fail(NM_NOT_FOUND, "%s: no data in this folder: files end in .json, .jsonl, .csv, .txt or .md, or in one of these and .gz", path);
    nm_free(path);
    return err;
}

static nm_err read_sources(loading *l)
{
    const nm_dataset_options *o = l->options;
    size_t count = o->rows ? 1 : o->n_sources;
    if (!count) return nm_fail(NM_USAGE, "no training data: name a file, a folder or -");
    if (!(l->d->weights = nm_calloc(count, sizeof *l->d->weights))) return nm_fail_memory(count * sizeof *l->d->weights);
    for (l->d->n_sources = 0; l->d->n_sources < count; l->d->n_sources++) {
        l->source = (int32_t)l->d->n_sources;
        double *weight = &l->d->weights[l->source];
        *weight = 1;
        NM_TRY(o->rows ? read_memory(l) : read_source(l, o->sources[l->source], weight));
    }
    l->d->n_train = l->d->n_entries;
    if (l->d->n_train) return NM_OK;
    if (l->d->stats.first_bad) return nm_fail(NM_BAD_FILE, "no row of the training data can be used; the first fault: %s", l->d->stats.first_bad);
    return nm_fail(NM_BAD_FILE, "%s: there is no row in the training data", o->rows ? "rows.jsonl" : o->sources[0]);
}

/* A number is a fraction unless a file has that very name. */
static nm_err read_validation(loading *l)
{
    const char *given = l->options->validation;
    char *end;
    double weight, fraction = given ? strtod(given, &end) : 0;
    if (!given) return NM_OK;
    if (access(given, F_OK) == 0 || end == given || *end) {
        l->source = -1;
        NM_TRY(read_source(l, given, &weight));
        if (weight != 1) return nm_fail(NM_USAGE, "%s: validation data has no weight", given);
        return l->d->n_entries > l->d->n_train ? NM_OK : nm_fail(NM_BAD_FILE, "%s: there is no row in the validation data", given);
    }
    if (fraction == 0) return NM_OK;
    if (!(fraction > 0 && fraction < 1)) return nm_fail(NM_USAGE, "--val %s: give a fraction below 1, as 0.05, or a file", given);
    return nm_data_split(l->d, fraction, l->options->seed, (size_t)l->options->least_validation, (size_t)l->options->most_validation);
}

/* ---- Opening ----------------------------------------------------------------------------------------------------------------------------- */

/* Which template: a format's, a given one, the model's. */
static nm_err choose_template(const nm_model *model, const nm_dataset_options *o, const char **text, const char **name)
{
    *name = "the model's chat template";
    *text = nm_model_template(model, NULL);
    if (o->template_text) *text = o->template_text, *name = "the chat template given";
    if (o->format && o->template_text) return nm_fail(NM_USAGE, "--format and a template together: give one of them");
    if (o->format && !(*text = nm_format_template(o->format))) return nm_fail(NM_USAGE, "--format: '%s' is none of alpaca, vicuna, raw", o->format);
    if (o->format) *name = o->format;
    if (*text) return NM_OK;
    return nm_fail(NM_REFUSED, "%s: the model has no chat template: give --format alpaca, vicuna or raw, or --chat-template-file",
                   nm_model_describe(model)->name);
}

static nm_err begin(loading *l, const nm_model *model)
{
    const nm_dataset_options *o = l->options;
    const char *text, *name;
    if (o->max_length && o->max_length < LENGTH_LEAST) return nm_fail(NM_USAGE, "--max-length %d: give %d or more", (int)o->max_length, LENGTH_LEAST);
    if (!nm_model_tokenizer(model)) return nm_fail(NM_REFUSED, "%s: the file has no tokenizer: use a complete model file", nm_model_describe(model)->name);
    NM_TRY(nm_map_parse(&l->map, o->map));
    NM_TRY(choose_template(model, o, &text, &name));
    NM_TRY(nm_masker_open(&l->masker, nm_model_tokenizer(model), text, name, o->template_kwargs));
    if (o->max_length) l->masker.max_length = (size_t)o->max_length;
    if (o->now) l->masker.now = o->now;
    l->masker.train_on = o->train_on;
    l->masker.stats = &l->d->stats;
    l->masker.give = take_sequence;
    l->masker.arg = l;
    return NM_OK;
}

nm_err nm_dataset_open(nm_dataset **out, const nm_model *model, const nm_dataset_options *options)
{
    nm_err err;
    *out = NULL;
    loading l = {.options = options, .d = nm_calloc(1, sizeof(nm_dataset))};
    if (!l.d) return nm_fail_memory(sizeof *l.d);
    l.d->memory = options->memory;
    NM_GOTO(begin(&l, model));
    NM_GOTO(read_sources(&l));
    NM_GOTO(read_validation(&l));
    NM_GOTO(nm_data_finish(l.d));
out:
    nm_masker_close(&l.masker);
    nm_map_free(&l.map);
    if (err != NM_OK) nm_dataset_close(&l.d);
    *out = l.d;
    return err;
}
