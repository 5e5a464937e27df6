/* Reads any bytes as a Modelfile; what is read is written, and read back as the same. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "hub/modelfile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool same_text(const char *a, const char *b) { return a && b ? !strcmp(a, b) : a == b; }
static bool same_real(double a, double b) { return a == b || (isnan(a) && isnan(b)); }

static bool same_numbers(const nm_modelfile *a, const nm_modelfile *b)
{
    return same_real(a->temperature, b->temperature) && same_real(a->top_p, b->top_p) && same_real(a->min_p, b->min_p) && same_real(a->typical, b->typical) &&
        same_real(a->repeat_penalty, b->repeat_penalty) && same_real(a->presence_penalty, b->presence_penalty) && same_real(a->frequency_penalty, b->frequency_penalty) &&
        a->top_k == b->top_k && a->repeat_last == b->repeat_last && a->context == b->context && a->predict == b->predict && a->seeded == b->seeded && a->seed == b->seed;
}

static bool same(const nm_modelfile *a, const nm_modelfile *b)
{
    bool is = same_numbers(a, b) && same_text(a->from.text, b->from.text) && same_text(a->system, b->system) && same_text(a->tmpl, b->tmpl) &&
        a->adapters == b->adapters && a->stops == b->stops && a->messages == b->messages;
    for (size_t i = 0; is && i < a->adapters; i++) is = same_text(a->adapter[i].text, b->adapter[i].text);
    for (size_t i = 0; is && i < a->stops; i++) is = same_text(a->stop[i], b->stop[i]);
    for (size_t i = 0; is && i < a->messages; i++) is = a->message[i].role == b->message[i].role && same_text(a->message[i].content, b->message[i].content);
    return is;
}

/* A text that no quotes hold is refused by the writer. */
static void write_and_read(const nm_modelfile *m)
{
    nm_str s = {0};
    nm_modelfile again;
    if (nm_modelfile_write(&s, m) == NM_OK && s.length <= NM_MODELFILE_MOST) {
        if (nm_modelfile_parse(&again, s.data, s.length, "again") != NM_OK || !same(m, &again)) abort();
        nm_modelfile_free(&again);
    }
    nm_str_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    nm_modelfile m;
    int64_t alive = nm_mem_alive();
    if (nm_modelfile_parse(&m, (const char *)data, size, "fuzz") == NM_OK) {
        if (m.from.at + m.from.length > size) abort();
        write_and_read(&m);
        nm_modelfile_free(&m);
    }
    nm_mem_fail_after(size ? data[size / 2] % 16 : 0);
    if (nm_modelfile_parse(&m, (const char *)data, size, "fuzz") == NM_OK) nm_modelfile_free(&m);
    nm_mem_fail_after(-1);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
