/* Reads any bytes as training data: the first byte chooses a file's name (JSON, JSON Lines, CSV, text, no ending, JSON packed), gzip is
 * known by its own first bytes. Every row goes on through the shapes. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "data/reader.h"
#include "data/shape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {"f.json", "f.jsonl", "f.csv", "f.txt", "f", "f.json.gz"};

static void take_row(nm_json *row, const nm_map *map)
{
    nm_record record;
    if (nm_record_read(&record, row, map) == NM_OK) {
        if ((record.text.kind == NM_JSON_STRING) == (record.messages.array.count > 0)) abort();    /* a text or messages, never both */
        nm_record_free(&record);
    }
    nm_json_free(row);
}

static void read_all(const char *name, const uint8_t *data, size_t size)
{
    nm_stream *stream;
    nm_reader reader;
    nm_map map;
    nm_json row;
    bool end = false;
    if (nm_map_parse(&map, "instruction=q") != NM_OK) return;
    if (nm_stream_open_memory(&stream, data, size, name) == NM_OK) {
        nm_reader_init(&reader, stream);
        for (size_t rows = 0; !end && !reader.broken && rows < 10000; rows++)
            if (nm_reader_next(&reader, &row, &end) == NM_OK && !end) take_row(&row, rows % 2 ? &map : &(nm_map){0});
        nm_reader_free(&reader);
    }
    nm_stream_close(&stream);
    nm_map_free(&map);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int64_t alive = nm_mem_alive();
    if (!size) return 0;
    const char *name = names[data[0] % (sizeof names / sizeof *names)];
    read_all(name, data + 1, size - 1);
    /* Once more with an allocation failing, which one depends on the input. */
    nm_mem_fail_after(data[size / 2] % 32);
    read_all(name, data + 1, size - 1);
    nm_mem_fail_after(-1);
    if (nm_mem_alive() != alive) abort();
    return 0;
}
