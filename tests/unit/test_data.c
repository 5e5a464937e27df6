/* Training data (and cmd/show_mask.c, which is part of the program and not of the library): every format, shape and fault; masks by hand, against what another implementation recorded and against a PEFT run's batches; split, order,
 * packing; every allocation failing in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/str.h"
#include "data/reader.h"
#include "data/source.h"
#include "format/json.h"
#include "nm_config.h"
#include "os/file.h"

#include "../../cmd/show_mask.c"
#include "../../cmd/term.c"
#include "../gguf_writer.c"
#include "../instrumented.h"

#if NM_HAVE_ZLIB
#include <zlib.h>
#endif

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- A folder for files ------------------------------------------------------------------------------------------------------------- */

static char root[200], recorded[PATH_MAX];

static int make_root(void **state)
{
    const char *base = getenv("TMPDIR");
    const char *slash = strrchr(__FILE__, '/');
    char path[1024];
    (void)state;
    snprintf(path, sizeof path, "%.*s/../data/mask/cases.json", slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".");
    if (!realpath(path, recorded)) return -1;      /* the tests work in a folder of their own */
    snprintf(root, sizeof root, "%s/nomoat-data-XXXXXX", base ? base : "/tmp");
    return mkdtemp(root) && chdir(root) == 0 ? 0 : -1;
}

static int remove_root(void **state)
{
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return chdir("/") || system(command);
}

static void put_n(const char *name, const char *text, size_t length)
{
    FILE *f = fopen(name, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, length, f), length);
    fclose(f);
}

static void put(const char *name, const char *text) { put_n(name, text, strlen(text)); }

/* ---- A model whose tokens are bytes, so that masks can be read ------------------------------------------------------------------------ */

static const char chatml[] =
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

enum { BOS = 256, EOS, START, END, N_TOKENS };

/* GPT-2's alphabet, as in test_tokenizer.c. */
static nm_model *byte_model(const char *tmpl, bool bos)
{
    static char text[N_TOKENS][16];
    const char *token[N_TOKENS];
    int32_t type[N_TOKENS];
    uint32_t next = 0x100;
    for (unsigned b = 0; b < 256; b++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        memset(text[b], 0, sizeof text[b]);
        nm_utf8_encode(prints ? b : next++, text[b]);
        type[b] = 1;
    }
    const char *const special[] = {"<s>", "</s>", "<|im_start|>", "<|im_end|>"};
    for (int i = BOS; i < N_TOKENS; i++) {
        snprintf(text[i], sizeof text[i], "%s", special[i - BOS]);
        type[i] = 3;
    }
    for (int i = 0; i < N_TOKENS; i++) token[i] = text[i];
    gguf_writer w = {0};
    gw_string(&w, "general.architecture", "llama");
    gw_string(&w, "general.name", "bytes");
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    gw_string(&w, "tokenizer.ggml.pre", "gpt-2");
    gw_strings(&w, "tokenizer.ggml.tokens", token, N_TOKENS);
    gw_array(&w, "tokenizer.ggml.token_type", NM_META_I32, type, N_TOKENS);
    gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){"a a"}, 0);
    gw_u32(&w, "tokenizer.ggml.bos_token_id", BOS);
    gw_u32(&w, "tokenizer.ggml.eos_token_id", EOS);
    gw_bool(&w, "tokenizer.ggml.add_bos_token", bos);
    if (tmpl) gw_string(&w, "tokenizer.chat_template", tmpl);
    size_t size;
    static void *bytes;     /* the model reads from it while it lives; one at a time */
    free(bytes);
    bytes = gw_finish(&w, &size);
    nm_model *m;
    nm_model_options options = {.metadata_only = true};
    if (nm_model_open_memory(&m, bytes, size, "bytes.gguf", &options) != NM_OK) fail_msg("%s", nm_error_text());
    return m;
}

/* A sequence as text, trained runs in brackets. */
static void write_sample(nm_str *s, nm_sample q)
{
    static const char *const special[] = {"<s>", "</s>", "<start>", "<end>"};
    for (int32_t i = 0; i < q.count; i++) {
        if (q.mask[i] && (!i || !q.mask[i - 1])) nm_str_putc(s, '[');
        if (q.ids[i] < BOS) {
            /* ids are in the order of the alphabet's table above, which is that of the bytes */
            nm_str_putc(s, (char)q.ids[i]);
        } else {
            nm_str_puts(s, special[q.ids[i] - BOS]);
        }
        if (q.mask[i] && (i + 1 == q.count || !q.mask[i + 1])) nm_str_putc(s, ']');
    }
}

static char *all_samples(const nm_dataset *d, nm_split split)
{
    nm_str s = {0};
    nm_str_append(&s, "", 0);
    for (size_t i = 0; i < nm_dataset_count(d, split); i++) {
        if (i) nm_str_puts(&s, " || ");
        write_sample(&s, nm_dataset_sample(d, split, i));
    }
    return nm_str_take(&s, NULL);
}

static nm_err open_data(nm_dataset **d, const nm_model *m, nm_dataset_options o, const char *source)
{
    const char *const sources[] = {source};
    if (source) o.sources = sources, o.n_sources = 1;
    return nm_dataset_open(d, m, &o);
}

/* A file's sequences are these; trained text in brackets. */
static void expect_data(const nm_model *m, nm_dataset_options o, const char *source, const char *expected)
{
    nm_dataset *d;
    int64_t alive = nm_mem_alive();
    if (open_data(&d, m, o, source) != NM_OK) fail_msg("%s: %s", source, nm_error_text());
    char *got = all_samples(d, NM_SPLIT_TRAIN);
    assert_string_equal(got, expected);
    nm_free(got);
    nm_dataset_close(&d);
    assert_int_equal(nm_mem_alive(), alive);
}

static void expect_fault(const nm_model *m, nm_dataset_options o, const char *source, nm_err code, const char *expected)
{
    nm_dataset *d = (nm_dataset *)1;
    int64_t alive = nm_mem_alive();
    nm_err err = open_data(&d, m, o, source);
    if (err != code || !strstr(nm_error_text(), expected)) fail_msg("%s: expected %d \"%s\", got %d \"%s\"", source, code, expected, err, nm_error_text());
    assert_null(d);
    assert_null(strchr(nm_error_text(), '\n'));
    assert_int_equal(nm_mem_alive(), alive);
}

static const nm_dataset_options plain = {0};

/* ---- Formats and shapes --------------------------------------------------------------------------------------------------------------- */

#define QA "<start>user\nq<end>\n<start>assistant\n[a<end>\n]"

static void test_formats(void **state)
{
    static const struct { const char *name, *text; } files[] = {
        {"a.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\r\n\n"}, {"b.ndjson", "\n {\"question\": \"q\", \"answer\": \"a\"}"},
        {"c.json", "[ {\"question\": \"q\", \"answer\": \"a\"} ]\n"}, {"d.json", "{\"data\": [\n{\"question\": \"q\", \"answer\": \"a\"}]}"},
        {"e.json", "{\"version\": {\"data\": [1, \"]\"]}, \"data\" : [{\"question\": \"q\", \"answer\": \"a\"}], \"x\": 1}"},
        {"f.json", "{\"question\": \"q\", \"answer\": \"a\"}\n"},     /* JSON Lines in truth */
        {"g.csv", "question,answer\r\nq,a\r\n"}, {"h.csv", "\xef\xbb\xbf\"answer\",question\n\"a\",\"q\""}, {"noending", "[{\"question\": \"q\", \"answer\": \"a\"}]"},
        {"lines", "{\"question\": \"q\", \"answer\": \"a\"}\n"}, {"j.json", "{\"version\": 1,\n\"data\": [{\"question\": \"q\", \"answer\": \"a\"}]}"}, {"i.json", "{\n  \"data\": [\n    {\"question\": \"q\",\n \"answer\": \"a\"}\n ]\n}"}
    };
    nm_model *m = byte_model(chatml, false);
    (void)state;
    for (size_t i = 0; i < COUNT(files); i++) {
        put(files[i].name, files[i].text);
        expect_data(m, plain, files[i].name, QA);
    }
    put("quotes.csv", "question,answer\n\"q,\n\"\"x\"\"\",a\n\nr,b\n");
    expect_data(m, plain, "quotes.csv", "<start>user\nq,\n\"x\"<end>\n<start>assistant\n[a<end>\n] || <start>user\nr<end>\n<start>assistant\n[b<end>\n]");
    nm_model_close(&m);
}

static void test_shapes(void **state)
{
    static const struct { const char *row, *expected; } rows[] = {
        {"{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}", QA},
        {"{\"conversations\": [{\"from\": \"human\", \"value\": \"q\"}, {\"from\": \"gpt\", \"value\": \"a\"}]}", QA},
        {"{\"messages\": [{\"from\": \"human\", \"value\": \"q\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}", QA},
        {"{\"messages\": \"[{\\\"role\\\": \\\"user\\\", \\\"content\\\": \\\"q\\\"}, {\\\"role\\\": \\\"assistant\\\", \\\"content\\\": \\\"a\\\"}]\"}", QA},
        {"{\"instruction\": \"q\", \"input\": \"\", \"output\": \"a\"}", QA}, {"{\"instruction\": \"q\", \"output\": \"a\"}", QA},
        {"{\"instruction\": \"q\", \"input\": \"i\", \"output\": \"a\"}", "<start>user\nq\n\ni<end>\n<start>assistant\n[a<end>\n]"},
        {"{\"prompt\": \"q\", \"completion\": \"a\"}", QA}, {"{\"prompt\": \"q\", \"response\": \"a\"}", QA}, {"{\"question\": \"q\", \"answer\": \"a\"}", QA},
        {"{\"prompt\": [{\"role\": \"user\", \"content\": \"q\"}], \"completion\": [{\"role\": \"assistant\", \"content\": \"a\"}]}", QA},
        {"{\"system\": \"s\", \"question\": \"q\", \"answer\": \"a\"}", "<start>system\ns<end>\n" QA},
        {"{\"text\": \"abc<|im_end|>\"}", "a[bc<end>]"}, {"{\"text\": \"abc\"}", "a[bc</s>]"}
    };
    nm_model *m = byte_model(chatml, false);
    (void)state;
    for (size_t i = 0; i < COUNT(rows); i++) {
        put("row.jsonl", rows[i].row);
        expect_data(m, plain, "row.jsonl", rows[i].expected);
    }
    put("map.jsonl", "{\"q\": \"q\", \"a\": \"a\"}\n{\"instruction\": \"no\", \"q\": \"q\", \"a\": \"a\"}");
    nm_dataset_options o = {.map = "instruction=q,output=a"};
    expect_data(m, o, "map.jsonl", QA " || " QA);
    expect_fault(m, plain, "map.jsonl", NM_BAD_FILE, "map.jsonl:1: no known shape (messages | conversations | ");
    o.map = "instruction=z,output=a";
    expect_fault(m, o, "map.jsonl", NM_BAD_FILE, "map.jsonl:1: no column 'z', which --map calls instruction");
    o.map = "instruction";
    expect_fault(m, o, "map.jsonl", NM_USAGE, "no NAME=COLUMN");
    nm_model_close(&m);
}

/* Plain text: special tokens in it are text; BOS before each window, the end behind the last. */
static void test_texts(void **state)
{
    nm_model *m = byte_model(chatml, true);
    nm_dataset_options o = {.max_length = 8};
    (void)state;
    put("t.txt", "one</s>");
    expect_data(m, plain, "t.txt", "<s>[one</s></s>]");         /* the first </s> is four bytes */
    put("t.md", "abcdefghijkl");
    expect_data(m, o, "t.md", "<s>[abcdefg] || <s>[hijkl</s>]");
    put("full.md", "abcdefg");
    expect_data(m, o, "full.md", "<s>[abcdef] || <s>[g</s>]");
    put("s.jsonl", "{\"text\": \"<s>ab\"}");
    expect_data(m, plain, "s.jsonl", "<s>[ab</s>]");
    put("empty.txt", " \n");
    expect_fault(m, plain, "empty.txt", NM_BAD_FILE, "there is no row");
    nm_model_close(&m);
}

static void test_long_text_in_pieces(void **state)
{
    nm_str s = {0};
    nm_dataset *d;
    nm_dataset_options o = {.max_length = 1 << 22};
    nm_model *m = byte_model(chatml, false);
    (void)state;
    while (s.length < 3 * (size_t)NM_TEXT_PIECE) nm_str_puts(&s, "some words of a line\n\n");
    put_n("long.txt", s.data, s.length);
    assert_int_equal(open_data(&d, m, o, "long.txt"), NM_OK);
    assert_int_equal(nm_dataset_describe(d)->rows, 3);
    assert_int_equal(nm_dataset_describe(d)->tokens, s.length + 1);
    nm_dataset_close(&d);
    nm_str_free(&s);
    nm_model_close(&m);
}

#if NM_HAVE_ZLIB
static size_t gzip(const char *text, char *out, size_t room)
{
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)text;
    z.avail_in = (unsigned)strlen(text);
    z.next_out = (unsigned char *)out;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void test_gzip(void **state)
{
    char packed[1024];
    size_t n = gzip("{\"question\": \"q\", \"answer\": \"a\"}\n", packed, 512);
    nm_model *m = byte_model(chatml, false);
    (void)state;
    put_n("z.jsonl.gz", packed, n);
    expect_data(m, plain, "z.jsonl.gz", QA);
    put_n("z.jsonl", packed, n);            /* by its bytes, whatever its name */
    expect_data(m, plain, "z.jsonl", QA);
    size_t more = gzip("{\"question\": \"q\", \"answer\": \"a\"}\n", packed + n, 512);
    put_n("two.jsonl.gz", packed, n + more);    /* two parts */
    expect_data(m, plain, "two.jsonl.gz", QA " || " QA);
    for (size_t cut = 2; cut < n; cut++) {
        put_n("cut.jsonl.gz", packed, cut);
        expect_fault(m, plain, "cut.jsonl.gz", NM_BAD_FILE, "cut.jsonl.gz: ");
    }
    packed[n / 2] ^= 0x55;
    put_n("bad.jsonl.gz", packed, n);
    expect_fault(m, plain, "bad.jsonl.gz", NM_BAD_FILE, "bad.jsonl.gz: damaged gzip data");
    nm_model_close(&m);
}
#else
static void test_gzip(void **state)
{
    (void)state;
    print_message("skipped: built without zlib\n");
    skip();
}
#endif

static void test_folders_and_standard_input(void **state)
{
    nm_model *m = byte_model(chatml, false);
    (void)state;
    assert_int_equal(mkdir("dir", 0700) | mkdir("dir/sub", 0700) | mkdir("dir/none", 0700), 0);
    put("dir/b.jsonl", "{\"prompt\": \"2\", \"response\": \"b\"}");
    put("dir/a.csv", "prompt,response\n1,a\n");
    put("dir/sub/c.json", "[{\"prompt\": \"3\", \"response\": \"c\"}]");
    put("dir/picture.png", "\x89PNG");
    put("dir/.hidden.txt", "x");
    expect_data(m, plain, "dir", "<start>user\n1<end>\n<start>assistant\n[a<end>\n] || <start>user\n2<end>\n<start>assistant\n[b<end>\n] || "
                "<start>user\n3<end>\n<start>assistant\n[c<end>\n]");
    expect_fault(m, plain, "dir/none", NM_NOT_FOUND, "no data in this folder");
    expect_fault(m, plain, "nowhere", NM_NOT_FOUND, "nowhere: ");
    put("in", "{\"question\": \"q\", \"answer\": \"a\"}");
    int saved = dup(STDIN_FILENO);
    assert_non_null(freopen("in", "rb", stdin));
    expect_data(m, plain, "-", QA);
    assert_int_equal(dup2(saved, STDIN_FILENO), STDIN_FILENO);
    close(saved);
    nm_model_close(&m);
}

/* ---- Faults --------------------------------------------------------------------------------------------------------------------------- */

static void test_faults(void **state)
{
    static const struct { const char *name, *text, *expected; } bad[] = {
        {"a.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\"\n", "a.jsonl:2: bad JSON"},
        {"a.jsonl", "\n[1]\n", "a.jsonl:2: the row is no JSON object"},
        {"a.jsonl", "{\"question\": \"q\", \"answer\": 7}\n", "a.jsonl:1: \"answer\" is no string"},
        {"a.jsonl", "{\"question\": \"q\", \"answer\": \"\"}\n", "a.jsonl:1: \"answer\" is empty"},
        {"a.jsonl", "{\"instruction\": \"q\", \"input\": 1, \"output\": \"a\"}", "a.jsonl:1: \"input\" is no string"},
        {"a.jsonl", "{\"messages\": []}", "a.jsonl:1: \"messages\" is no list of messages"},
        {"a.jsonl", "{\"messages\": [1]}", "a.jsonl:1: message 1 is no object"},
        {"a.jsonl", "{\"messages\": [{\"content\": \"x\"}]}", "a.jsonl:1: message 1: no \"role\""},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\"}]}", "a.jsonl:1: message 1: \"content\" is no text"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}", "a.jsonl:1: no turn of the assistant"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}", "a.jsonl:1: none of the assistant's turns is trained"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"x\", \"weight\": 2}]}",
         "a.jsonl:1: message 2: \"weight\" is neither 0 nor 1"},
        {"a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}, {\"role\": \"assistant\", \"content\": \"x\", \"train\": 1}]}",
         "a.jsonl:1: message 2: \"train\" is neither true nor false"},
        {"a.jsonl", "{\"conversations\": [{\"from\": \"alien\", \"value\": \"x\"}]}", "a.jsonl:1: message 1: \"from\" is 'alien'"},
        {"a.jsonl", "{\"system\": \"a\", \"messages\": [{\"role\": \"system\", \"content\": \"x\"}]}", "a.jsonl:1: \"system\" beside a first message"},
        {"a.jsonl", "{\"a\": 1}", "a.jsonl:1: no known shape"}, {"a.jsonl", "", "a.jsonl: there is no row"},
        {"a.json", "[{\"question\": \"q\", \"answer\": \"a\"},\n{\"question\": \"q\", \"answer\": }]", "a.json:2: bad JSON"},
        {"a.json", "[{\"question\": \"q\", \"answer\": \"a\"},\n{\"question\"", "a.json:2: the file ends within a value: it is cut"},
        {"a.json", "[{\"question\": \"q\", \"answer\": \"a\"},\n]", "a.json:2: a comma before ]"}, {"a.json", "[", "a.json:1: the file ends within a value"},
        {"a.json", "{\n\"rows\": [1]}", "the object has no \"data\": [...]"}, {"a.json", "x", "a.json:1: no JSON"}, {"a.json", "", "a.json:1: the file is empty"},
        {"a.csv", "", "a.csv:1: the file is empty"}, {"a.csv", "a,\n", "a.csv:1: column 2 of the header has no name"},
        {"a.csv", "a,a\n", "a.csv:1: the header names column 'a' twice"}, {"a.csv", "question,answer\nq\n", "a.csv:2: fewer fields than the 2 columns"},
        {"a.csv", "question,answer\nq,a,b\n", "a.csv:2: more fields than the 2 columns"}, {"a.csv", "question,answer\nq,\"a\n", "a.csv:2: the file ends within quotes"},
        {"a.csv", "question,answer\nq,a\"b\n", "a.csv:2: a quote within a field"}, {"a.csv", "question,answer\nq,\"a\"b\n", "a.csv:2: a quote within a field"},
    };
    nm_model *m = byte_model(chatml, false);
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        put(bad[i].name, bad[i].text);
        expect_fault(m, plain, bad[i].name, NM_BAD_FILE, bad[i].expected);
    }
    put_n("zero.txt", "a\0b", 3);
    expect_fault(m, plain, "zero.txt", NM_BAD_FILE, "zero.txt: holds zero bytes");
    put("x.parquet", "PAR1....");
    expect_fault(m, plain, "x.parquet", NM_REFUSED, "pandas.read_parquet('x.parquet').to_json('data.jsonl', orient='records', lines=True)");
    nm_model_close(&m);
}

static void test_bad_rows_are_skipped(void **state)
{
    nm_dataset *d;
    nm_dataset_options o = {.skip_bad = true};
    nm_model *m = byte_model(chatml, false);
    (void)state;
    put("mix.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n{bad\n{\"question\": \"\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\": \"a\"}\n");
    assert_int_equal(open_data(&d, m, o, "mix.jsonl"), NM_OK);
    const nm_dataset_stats *s = nm_dataset_describe(d);
    assert_int_equal(s->rows, 2);
    assert_int_equal(s->bad_rows, 2);
    assert_non_null(strstr(s->first_bad, "mix.jsonl:2: bad JSON"));
    assert_int_equal(nm_dataset_sample(d, NM_SPLIT_TRAIN, 1).line, 4);
    nm_dataset_close(&d);
    put("mix.json", "[{\"question\": \"q\", \"answer\": \"a\"}, {\"question\" \"q\"}, {\"question\": \"q\", \"answer\": \"a\"}]");
    expect_data(m, o, "mix.json", QA " || " QA);
    put("mix.csv", "question,answer\nq\nq,a\nq,a,b\n");
    expect_data(m, o, "mix.csv", QA);
    put("all.jsonl", "{bad\n");
    expect_fault(m, o, "all.jsonl", NM_BAD_FILE, "no row of the training data can be used; the first fault: all.jsonl:1: bad JSON");
    nm_model_close(&m);
}

static void test_row_size_is_bounded(void **state)
{
    nm_model *m = byte_model(chatml, false);
    FILE *f = fopen("huge.jsonl", "wb");
    (void)state;
    fputs("{\"question\": \"", f);
    for (int i = 0; i < NM_ROW_MOST; i++) fputc('x', f);
    fclose(f);
    expect_fault(m, plain, "huge.jsonl", NM_BAD_FILE, "huge.jsonl:1: a row of more than 16777216 bytes");
    unlink("huge.jsonl");
    nm_model_close(&m);
}

/* Every cut of a file is a fault or a shorter file, never a crash. */
static void test_cut_files(void **state)
{
    static const struct { const char *name, *text; } files[] = {
        {"cut.json", "{\"x\": [1, {\"y\": \"\\\"\"}], \"data\": [{\"question\": \"q\\u00e9\", \"answer\": \"a\"}, {\"text\": \"t\"}]}"},
        {"cut.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"text\": \"t\"}\n"}, {"cut.csv", "question,\"answer\"\r\n\"q\"\"\",a\r\nb,c"}};
    nm_model *m = byte_model(chatml, true);
    nm_dataset *d;
    (void)state;
    for (size_t i = 0; i < COUNT(files); i++) {
        for (size_t n = 0; n <= strlen(files[i].text); n++) {
            int64_t alive = nm_mem_alive();
            put_n(files[i].name, files[i].text, n);
            nm_err err = open_data(&d, m, plain, files[i].name);
            if (err != NM_OK && !strstr(nm_error_text(), files[i].name)) fail_msg("%s cut at %zu: %s", files[i].name, n, nm_error_text());
            nm_dataset_close(&d);
            assert_int_equal(nm_mem_alive(), alive);
        }
    }
    nm_model_close(&m);
}

/* ---- Masks by hand ---------------------------------------------------------------------------------------------------------------------- */

#define U(text) "{\"role\": \"user\", \"content\": \"" text "\"}"
#define A(text) "{\"role\": \"assistant\", \"content\": \"" text "\"}"
#define A_(text, more) "{\"role\": \"assistant\", \"content\": \"" text "\", " more "}"
#define ROW(messages) "{\"messages\": [" messages "]}"

static void expect_masks(const char *tmpl, bool bos, nm_dataset_options o, const char *row, const char *expected)
{
    nm_model *m = byte_model(tmpl, bos);
    put("mask.jsonl", row);
    expect_data(m, o, "mask.jsonl", expected);
    nm_model_close(&m);
}

#define USER(t) "<start>user\n" t "<end>\n"
#define ASK "<start>assistant\n"

static void test_masks_of_turns(void **state)
{
    const nm_dataset_options last = {.train_on = NM_TRAIN_LAST}, all = {.train_on = NM_TRAIN_ALL};
    (void)state;
    expect_masks(chatml, false, plain, ROW(U("1") ", " A("a") ", " U("2") ", " A("b")), USER("1") ASK "[a<end>\n]" USER("2") ASK "[b<end>\n]");
    expect_masks(chatml, true, plain, ROW(U("1") ", " A("a")), "<s>" USER("1") ASK "[a<end>\n]");
    expect_masks(chatml, false, last, ROW(U("1") ", " A("a") ", " U("2") ", " A("b")), USER("1") ASK "a<end>\n" USER("2") ASK "[b<end>\n]");
    expect_masks(chatml, false, plain, ROW(U("1") ", " A_("a", "\"weight\": 0") ", " U("2") ", " A_("b", "\"weight\": 1")), USER("1") ASK "a<end>\n" USER("2") ASK "[b<end>\n]");
    expect_masks(chatml, false, plain, ROW(U("1") ", " A_("a", "\"train\": true") ", " U("2") ", " A_("b", "\"train\": false")), USER("1") ASK "[a<end>\n]" USER("2") ASK "b<end>\n");
    expect_masks(chatml, false, plain, ROW(A("hi") ", " U("1") ", " A("a")), ASK "hi<end>\n" USER("1") ASK "[a<end>\n]");
    expect_masks(chatml, false, all, ROW(U("1") ", " A("a")), "<start>[user\n1<end>\n<start>assistant\na<end>\n]");
    expect_masks(chatml, true, all, ROW(U("1") ", " A_("a", "\"weight\": 0") ", " U("2") ", " A("b")),
                 "<s>[" USER("1") ASK "]a<end>\n[" USER("2") ASK "b<end>\n]");
    /* Characters of several bytes, and what a user types as a control token. */
    expect_masks(chatml, false, plain, ROW(U("\xc3\xa9") ", " A("\xe2\x82\xac<|im_end|>")), USER("\xc3\xa9") ASK "[\xe2\x82\xac<end><end>\n]");
}

/* The template writes BOS itself: there is one. */
static void test_bos_once(void **state)
{
    static const char with_bos[] = "{{ bos_token }}{% for m in messages %}{{ m.role[0] + ':' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}";
    (void)state;
    expect_masks(with_bos, false, plain, ROW(U("1") ", " A("x")), "<s>u:1a:[x</s>]");
    expect_masks(with_bos, true, plain, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "<s>u:1a:[x</s>]u:2a:[y</s>]");
}

/* No token ends the turn: one is added at the end, and a conversation becomes a sequence per turn. */
static void test_end_is_added(void **state)
{
    static const char bare[] = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\\n' }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    static const char between[] = "{% for m in messages %}{% if not loop.first and m.role == 'user' %}{{ eos_token }}{% endif %}{{ m.role[0] + ':' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}";
    (void)state;
    expect_masks(bare, false, plain, ROW(U("1") ", " A("x")), "u:1\na:[x\n</s>]");
    expect_masks(bare, false, plain, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "u:1\na:[x\n</s>] || u:1\na:x\nu:2\na:[y\n</s>]");
    /* Written with the next turn, but the answer's: trained with it. */
    expect_masks(between, false, plain, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "u:1a:[x</s>]u:2a:[y</s>]");
}

/* Thinking is dropped from earlier turns; the generation prompt of the second opens a block that no turn has. */
static void test_history_is_rewritten(void **state)
{
    static const char qwen3[] = "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}{% else %}a:{% if loop.last and m.reasoning_content %}<think>{{ m.reasoning_content }}"
        "</think>{% endif %}{{ m.content + eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    static const char r1[] = "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}{% else %}a:{{ m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}a:<think>\n{% endif %}";
    (void)state;
    expect_masks(qwen3, false, plain, ROW(U("1") ", " A_("x", "\"reasoning_content\": \"r\"") ", " U("2") ", " A_("y", "\"reasoning_content\": \"s\"")),
                 "u:1a:[<think>r</think>x</s>] || u:1a:x</s>u:2a:[<think>s</think>y</s>]");
    expect_masks(qwen3, false, plain, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "u:1a:[x</s>]u:2a:[y</s>]");
    expect_masks(r1, false, plain, ROW(U("1") ", " A("x")), "u:1a:<think>\n[\n</think>\n\nx</s>]");
    expect_masks(r1, false, plain, ROW(U("1") ", " A_("x", "\"reasoning_content\": \"r\"")), "u:1a:<think>\n[r\n</think>\n\nx</s>]");
}

/* What the generation prompt supplies is not trained, with blocks or without. */
static void test_generation_blocks(void **state)
{
    static const char blocks[] = "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}{% else %}a:{% generation %}{{ m.content + eos_token }}{% endgeneration %}!{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}";
    static const char supplied[] = "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}{% else %}{% generation %}a:{{ m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}a:{% endif %}";
    static const char twice[] = "{% for m in messages %}{% if m.role == 'user' %}u:{{ m.content }}{% else %}a:{% generation %}{{ m.content }}{% endgeneration %}-{% generation %}+{{ eos_token }}{% endgeneration %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    static const char macro[] = "{% macro x(m) %}{% generation %}{{ m.content }}{% endgeneration %}{% endmacro %}{% for m in messages %}{{ x(m) }}{% endfor %}";
    const nm_dataset_options last = {.train_on = NM_TRAIN_LAST};
    (void)state;
    expect_masks(blocks, false, plain, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "u:1a:[x</s>]!u:2a:[y</s>]!");
    expect_masks(blocks, false, last, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "u:1a:x</s>!u:2a:[y</s>]!");
    expect_masks(blocks, false, plain, ROW(U("1") ", " A_("x", "\"weight\": 0") ", " U("2") ", " A("y")), "u:1a:x</s>!u:2a:[y</s>]!");
    expect_masks(supplied, false, plain, ROW(U("1") ", " A("x")), "u:1a:[x</s>]");
    expect_masks(twice, false, plain, ROW(U("1") ", " A("x") ", " U("2") ", " A("y")), "u:1a:[x]-[+</s>] || u:1a:x-+</s>u:2a:[y]-[+</s>]");
    nm_model *m = byte_model(macro, false);
    put("macro.jsonl", ROW(U("1") ", " A("x")));
    expect_fault(m, plain, "macro.jsonl", NM_BAD_FILE, "macro.jsonl:1: the template has a generation block within a macro");
    nm_model_close(&m);
}

static void test_named_formats(void **state)
{
    nm_dataset_options o = {.format = "alpaca"};
    nm_model *m = byte_model(NULL, true);
    (void)state;
    put("f.jsonl", "{\"instruction\": \"Do.\", \"input\": \"x\", \"output\": \"a\"}\n{\"instruction\": \"Do.\", \"output\": \"a\"}");
    expect_data(m, o, "f.jsonl",
                "<s>Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request."
                "\n\n### Instruction:\nDo.\n\n### Input:\nx\n\n### Response:[a</s>] || "
                "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nDo.\n\n### Response:[a</s>]");
    o.format = "vicuna";
    put("v.jsonl", ROW(U("hi") ", " A("hello") ", " U("q") ", " A("a")));
    expect_data(m, o, "v.jsonl",
                "<s>A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the user's questions. "
                "USER: hi ASSISTANT:[ hello</s>]USER: q ASSISTANT:[ a</s>]");
    o.format = "raw";
    expect_data(m, o, "v.jsonl", "<s>hi[hello</s>]q[a</s>]");
    o.format = "none";
    expect_fault(m, o, "v.jsonl", NM_USAGE, "--format: 'none' is none of alpaca, vicuna, raw");
    expect_fault(m, plain, "v.jsonl", NM_REFUSED, "the model has no chat template: give --format");
    o.format = NULL;
    o.template_text = chatml;
    expect_data(m, o, "v.jsonl", "<s>" USER("hi") ASK "[hello<end>\n]" USER("q") ASK "[a<end>\n]");
    o.template_text = "{% if %}";
    expect_fault(m, o, "v.jsonl", NM_BAD_FILE, "the chat template given: line 1");
    o.template_text = "{% if x %}{{ raise_exception('no x') }}{% endif %}" "{% for m in messages %}{{ m.content }}{% endfor %}";
    o.template_kwargs = "{\"x\": true}";
    expect_fault(m, o, "v.jsonl", NM_BAD_FILE, "v.jsonl:1: ");
    o.template_kwargs = "[]";
    expect_fault(m, o, "v.jsonl", NM_USAGE, "--chat-template-kwargs: not a JSON object");
    nm_model_close(&m);
}

static void test_long_rows_are_counted(void **state)
{
    nm_dataset *d;
    nm_dataset_options o = {.max_length = 20, .skip_bad = true};
    nm_model *m = byte_model("{% for m in messages %}{{ m.role[0] + ':' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
                             "{% if add_generation_prompt %}a:{% endif %}", false);
    (void)state;
    put("long.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\": \"abcdefghijklmnopqrst\"}\n{\"question\": \"abcdefghijklmnopqrst\", \"answer\": \"a\"}\n");
    assert_int_equal(open_data(&d, m, o, "long.jsonl"), NM_OK);
    const nm_dataset_stats *s = nm_dataset_describe(d);
    assert_true(s->long_rows == 1 && s->cut_answers == 1 && s->bad_rows == 1 && s->rows == 2 && s->longest > 20);
    assert_non_null(strstr(s->first_bad, "long.jsonl:3: the answer begins behind the 20 tokens of --max-length"));
    nm_dataset_close(&d);
    o.max_length = 3;
    expect_fault(m, o, "long.jsonl", NM_USAGE, "--max-length 3: give 8 or more");
    nm_model_close(&m);
}

/* ---- Sources, split, order ---------------------------------------------------------------------------------------------------------------- */

static void test_weights_of_sources(void **state)
{
    static const struct { const char *data, *path; double weight; } good[] = {
        {"w.jsonl", "w.jsonl", 1}, {"w.jsonl:0.5", "w.jsonl", 0.5}, {"w.jsonl:2", "w.jsonl", 2}, {"odd:3", "odd:3", 1}, {"-:2", "-", 2}, {"no:where", "no:where", 1}};
    char *path;
    double weight;
    (void)state;
    put("w.jsonl", "x");
    put("odd:3", "x");
    for (size_t i = 0; i < COUNT(good); i++) {
        assert_int_equal(nm_source_parse(good[i].data, &path, &weight), NM_OK);
        assert_string_equal(path, good[i].path);
        assert_true(weight == good[i].weight);
        nm_free(path);
    }
    assert_int_equal(nm_source_parse("w.jsonl:0", &path, &weight), NM_USAGE);
    assert_int_equal(nm_source_parse("w.jsonl:-1", &path, &weight), NM_USAGE);
}

static void put_numbered(const char *name, char letter, int n)
{
    nm_str s = {0};
    for (int i = 0; i < n; i++) nm_str_printf(&s, "{\"question\": \"%c%d\", \"answer\": \"a\"}\n", letter, i);
    put_n(name, s.data, s.length);
    nm_str_free(&s);
}

/* How often each sample comes in an epoch. */
static void count_draws(nm_order *o, int64_t epoch, int *times)
{
    nm_order_step step;
    int64_t per = nm_order_steps_per_epoch(o);
    for (int64_t s = epoch * per; s < (epoch + 1) * per; s++) {
        assert_int_equal(nm_order_step_at(o, s, &step), NM_OK);
        assert_true(step.count && !step.n_parts);
        for (size_t i = 0; i < step.count; i++) times[step.samples[i]]++;
    }
}

static void test_order(void **state)
{
    const char *const sources[] = {"o1.jsonl:1.5", "o2.jsonl:2"};
    nm_dataset_options data = {.sources = sources, .n_sources = 2};
    nm_order_options how = {.batch = 4, .epochs = 2.5, .seed = 7};
    nm_dataset *d;
    nm_order *o, *again;
    nm_order_step a, b;
    nm_model *m = byte_model(chatml, false);
    (void)state;
    put_numbered("o1.jsonl", 'a', 10);
    put_numbered("o2.jsonl", 'b', 3);
    assert_int_equal(nm_dataset_open(&d, m, &data), NM_OK);
    assert_int_equal(nm_order_open(&o, d, &how), NM_OK);
    assert_int_equal(nm_order_open(&again, d, &how), NM_OK);
    assert_int_equal(nm_order_steps_per_epoch(o), 6);       /* 15 + 6 = 21 */
    assert_int_equal(nm_order_steps(o), 15);
    for (int64_t epoch = 0; epoch < 2; epoch++) {
        int times[13] = {0}, extra = 0;
        count_draws(o, epoch, times);
        for (int i = 0; i < 10; i++) {
            assert_true(times[i] == 1 || times[i] == 2);
            extra += times[i] - 1;
        }
        assert_int_equal(extra, 5);
        for (int i = 10; i < 13; i++) assert_int_equal(times[i], 2);
    }
    /* Any step, in any order, is what it was. */
    for (int64_t s = 14; s >= 0; s--) {
        assert_int_equal(nm_order_step_at(again, s, &b), NM_OK);
        uint32_t kept[4];
        memcpy(kept, b.samples, b.count * sizeof *kept);
        assert_int_equal(nm_order_step_at(o, s, &a), NM_OK);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.samples, kept, a.count * sizeof *kept);
    }
    assert_int_equal(nm_order_step_at(o, 5, &a), NM_OK);
    assert_int_equal(a.count, 1);                           /* the last of an epoch */
    assert_int_equal(nm_order_step_at(o, 15, &a), NM_USAGE);
    nm_order_close(&o);
    nm_order_close(&again);

    how = (nm_order_options){.batch = 5, .epochs = 1, .in_order = true, .max_steps = 2};
    assert_int_equal(nm_order_open(&o, d, &how), NM_OK);
    assert_int_equal(nm_order_steps(o), 2);
    assert_int_equal(nm_order_step_at(o, 0, &a), NM_OK);
    for (uint32_t i = 0; i < 5; i++) assert_int_equal(a.samples[i], i);
    nm_order_close(&o);
    how.batch = 0;
    assert_int_equal(nm_order_open(&o, d, &how), NM_USAGE);
    how = (nm_order_options){.batch = 1, .epochs = 0};
    assert_int_equal(nm_order_open(&o, d, &how), NM_USAGE);
    assert_int_equal(nm_order_open(&o, d, NULL), NM_USAGE);
    nm_dataset_close(&d);
    nm_model_close(&m);
}

static void test_packing(void **state)
{
    nm_dataset *d;
    nm_model *m = byte_model(NULL, false);
    nm_dataset_options o = {.format = "raw"};
    uint32_t samples[] = {0, 1, 2, 3};
    (void)state;
    put("pack.jsonl", "{\"text\": \"aaa\"}\n{\"text\": \"aaa\"}\n{\"text\": \"aaaaaaaaaaaaaaaaaaa\"}\n{\"text\": \"a\"}");     /* 4, 4, 20, 2 tokens */
    assert_int_equal(open_data(&d, m, o, "pack.jsonl"), NM_OK);
    assert_int_equal(nm_order_pack(d, samples, 4, 8), 2);
    assert_int_equal(nm_order_pack(d, samples, 4, 7), 1);
    assert_int_equal(nm_order_pack(d, samples + 2, 2, 8), 1);       /* too long for any pass: alone */
    assert_int_equal(nm_order_pack(d, samples, 4, 100), 4);
    nm_dataset_close(&d);
    nm_model_close(&m);
}

static void test_validation(void **state)
{
    nm_dataset *d, *e;
    nm_dataset_options o = {.validation = "0.25", .seed = 3};
    nm_model *m = byte_model(chatml, false);
    (void)state;
    put_numbered("val.jsonl", 'c', 20);
    assert_int_equal(open_data(&d, m, o, "val.jsonl"), NM_OK);
    assert_int_equal(nm_dataset_count(d, NM_SPLIT_TRAIN), 15);
    assert_int_equal(nm_dataset_count(d, NM_SPLIT_VALIDATION), 5);
    assert_int_equal(nm_dataset_describe(d)->duplicates, 0);
    assert_int_equal(open_data(&e, m, o, "val.jsonl"), NM_OK);
    char *a = all_samples(d, NM_SPLIT_VALIDATION), *b = all_samples(e, NM_SPLIT_VALIDATION);
    assert_string_equal(a, b);
    nm_free(a);
    nm_free(b);
    nm_dataset_close(&d);
    nm_dataset_close(&e);

    put("own.jsonl", "{\"question\": \"c7\", \"answer\": \"a\"}\n{\"question\": \"new\", \"answer\": \"a\"}");
    o.validation = "own.jsonl";
    assert_int_equal(open_data(&d, m, o, "val.jsonl"), NM_OK);
    assert_int_equal(nm_dataset_count(d, NM_SPLIT_TRAIN), 20);
    assert_int_equal(nm_dataset_count(d, NM_SPLIT_VALIDATION), 2);
    assert_int_equal(nm_dataset_describe(d)->duplicates, 1);
    assert_string_equal(nm_dataset_describe(d)->first_duplicate, "own.jsonl:1 is also val.jsonl:8");
    assert_int_equal(nm_dataset_sample(d, NM_SPLIT_VALIDATION, 0).source, -1);
    nm_dataset_close(&d);
    o.validation = "1.5";
    expect_fault(m, o, "val.jsonl", NM_USAGE, "--val 1.5: give a fraction below 1");
    o.validation = "missing.jsonl";
    expect_fault(m, o, "val.jsonl", NM_NOT_FOUND, "missing.jsonl");
    put("one.jsonl", "{\"question\": \"q\", \"answer\": \"a\"}");
    o.validation = "0.5";
    expect_fault(m, o, "one.jsonl", NM_USAGE, "needs two rows");
    nm_model_close(&m);
}

static void test_stop_when_asked(void **state);
static bool stop(void *arg, uint64_t done, uint64_t total) { return (void)arg, (void)total, done >= 3; }
static void test_stop_when_asked(void **state)
{
    nm_dataset_options o = {.progress = stop};
    nm_model *m = byte_model(chatml, false);
    (void)state;
    put_numbered("stop.jsonl", 's', 20);
    expect_fault(m, o, "stop.jsonl", NM_INTERRUPTED, "interrupted");
    nm_model_close(&m);
}

/* ---- Memory ---------------------------------------------------------------------------------------------------------------------------------- */

/* Of all that is allocated while the rows are read, the most. */
typedef struct peak { size_t most; } peak;
static bool look_at_memory(void *arg, uint64_t done, uint64_t total)
{
    peak *p = arg;
    struct mallinfo2 now = mallinfo2();
    (void)done, (void)total;
    if (now.uordblks + now.hblkhd > p->most) p->most = now.uordblks + now.hblkhd;
    return false;
}

/* What a bound allows is what is taken, and where it does not suffice, nothing near it was. */
static void test_memory_is_bounded(void **state)
{
    enum { ROWS = 40000 };
    peak p = {0};
    nm_dataset_options o = {.validation = "0.1", .progress = look_at_memory, .progress_arg = &p};
    nm_model *m = byte_model(chatml, false);
    nm_dataset *d;
    (void)state;
    put_numbered("many.jsonl", 'r', ROWS);
    assert_int_equal(open_data(&d, m, o, "many.jsonl"), NM_OK);
    uint64_t all = nm_dataset_describe(d)->bytes;
    assert_true(all > ROWS * 40 && all < ROWS * 1000);
    nm_dataset_close(&d);
    o.memory = 4 * all;         /* with the split and the table of sequences */
    assert_int_equal(open_data(&d, m, o, "many.jsonl"), NM_OK);
    nm_dataset_close(&d);
    o.memory = all / 2;
    size_t before = (size_t)(p.most = 0, look_at_memory(&p, 0, 0), p.most);
    expect_fault(m, o, "many.jsonl", NM_NO_MEMORY, "are left for it");
    if (!NM_INSTRUMENTED) assert_true(p.most < before + o.memory);
    assert_non_null(strstr(nm_error_text(), "many.jsonl:"));
    o.skip_bad = true;          /* no row is bad for that */
    expect_fault(m, o, "many.jsonl", NM_NO_MEMORY, "are left for it");
    /* A weight makes orders of many more. */
    o.memory = 4 * all;
    expect_fault(m, o, "many.jsonl:1000", NM_NO_MEMORY, "smaller weights");
    /* A row of few bytes may become a tree of many. */
    nm_str wide = {0};
    nm_str_puts(&wide, "{\"question\": \"q\", \"answer\": \"a\", \"more\": [0");
    for (int i = 0; i < 2000000; i++) nm_str_puts(&wide, ",0");
    nm_str_puts(&wide, "]}");
    put("wide.jsonl", wide.data);
    nm_str_free(&wide);
    o.memory = 20000000;
    expect_fault(m, o, "wide.jsonl", NM_NO_MEMORY, "wide.jsonl:1: a row of");
    o.memory = 0;
    expect_data(m, o = (nm_dataset_options){0}, "wide.jsonl", QA);
    /* It comes beside those that are stored; and a table's row becomes tokens all the same. */
    nm_str second = {0};
    nm_str_puts(&second, "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\": \"");
    for (int i = 0; i < 40000; i++) nm_str_puts(&second, "a");
    nm_str_puts(&second, "\"}\n");
    put("second.jsonl", second.data);
    o.memory = 2000000;
    expect_fault(m, o, "second.jsonl", NM_NO_MEMORY, "second.jsonl:2: a row of");
    second.length = 0;
    nm_str_puts(&second, "question,answer\nq,");
    for (int i = 0; i < 80000; i++) nm_str_puts(&second, "a");
    put("table.csv", second.data);
    nm_str_free(&second);
    expect_fault(m, o, "table.csv", NM_NO_MEMORY, "table.csv:2: a row of");
    nm_model_close(&m);
}

/* ---- Ready batches ------------------------------------------------------------------------------------------------------------------------- */

static void test_batches(void **state)
{
    static const struct { const char *text, *expected; } bad[] = {
        {"{}", "no list of steps"}, {"[]", "no list of steps"}, {"[[]]", "step 0, micro-batch 0, sequence 0: no step"}, {"[[[]]]", "no micro-batch"}, {"[[[{}]]]", "no {\"ids\""},
        {"[[[{\"ids\": [1], \"mask\": []}]]]", "differ in length"}, {"[[[{\"ids\": [], \"mask\": []}]]]", "no ids"}, {"[[[{\"ids\": [1, 9], \"mask\": [0, 1]}]]]", "an id is none of the model's"},
        {"[[[{\"ids\": [1, -1], \"mask\": [0, 1]}]]]", "an id is none"}, {"[[[{\"ids\": [1, 2], \"mask\": [0, 2]}]]]", "a mask is neither 0 nor 1"},
        {"[[[{\"ids\": [1, 2], \"mask\": [1, 1]}]]]", "the first token is masked 1"}, {"[[", "bad JSON"}};
    nm_dataset *d;
    nm_order *o;
    nm_order_step s;
    (void)state;
    for (size_t i = 0; i < COUNT(bad); i++) {
        int64_t alive = nm_mem_alive();
        put("b.json", bad[i].text);
        assert_int_equal(nm_dataset_open_batches(&d, "b.json", 9), NM_BAD_FILE);
        if (!strstr(nm_error_text(), bad[i].expected) || strncmp(nm_error_text(), "b.json: ", 8)) fail_msg("%s: %s", bad[i].text, nm_error_text());
        assert_null(d);
        assert_int_equal(nm_mem_alive(), alive);
    }
    put("b.json", "[[[{\"ids\": [1, 2], \"mask\": [0, 1]}, {\"ids\": [3], \"mask\": [0]}], [{\"ids\": [4, 5], \"mask\": [false, true]}]], [[{\"ids\": [6, 7], \"mask\": [0, 1]}]]]");
    assert_int_equal(nm_dataset_open_batches(&d, "b.json", 9), NM_OK);
    assert_int_equal(nm_order_open(&o, d, NULL), NM_OK);
    assert_int_equal(nm_order_steps(o), 2);
    assert_int_equal(nm_order_step_at(o, 1, &s), NM_OK);
    assert_true(s.count == 1 && s.samples[0] == 3 && s.n_parts == 1 && s.parts[0] == 1);
    assert_int_equal(nm_order_step_at(o, 0, &s), NM_OK);
    assert_true(s.count == 3 && s.n_parts == 2 && s.parts[0] == 2 && s.parts[1] == 3);
    assert_int_equal(nm_dataset_sample(d, NM_SPLIT_TRAIN, s.samples[2]).ids[0], 4);
    nm_order_close(&o);
    nm_dataset_close(&d);
}

/* GSM8K in SmolLM2's template is, token for token, what a PEFT run was given. */
static void test_gsm8k_as_peft_saw_it(void **state)
{
    const char *data = getenv("NOMOAT_TEST_DATA"), *models = getenv("NOMOAT_TEST_MODELS");
    char path[1024], rows[1024];
    nm_model *m;
    nm_dataset *d, *oracle;
    nm_model_options metadata = {.metadata_only = true};
    nm_dataset_options o = {.max_length = 256};
    (void)state;
    snprintf(path, sizeof path, "%s/smollm2-135m-instruct-q4_1.gguf", models ? models : "");
    if (!data || !models || access(path, R_OK)) {
        print_message("skipped: GSM8K on SmolLM2 (NOMOAT_TEST_DATA or NOMOAT_TEST_MODELS is not set)\n");
        skip();
    }
    assert_int_equal(nm_model_open(&m, path, &metadata), NM_OK);
    snprintf(path, sizeof path, "%s/oracle/lora_a/batches.json", data);
    snprintf(rows, sizeof rows, "%s/sft/gsm8k_train.jsonl", data);
    assert_int_equal(nm_dataset_open_batches(&oracle, path, nm_model_describe(m)->n_vocab), NM_OK);
    if (open_data(&d, m, o, rows) != NM_OK) fail_msg("%s", nm_error_text());
    assert_int_equal(nm_dataset_describe(d)->rows, 7473);
    assert_int_equal(nm_dataset_count(oracle, NM_SPLIT_TRAIN), 24);
    for (size_t i = 0; i < 24; i++) {
        nm_sample want = nm_dataset_sample(oracle, NM_SPLIT_TRAIN, i), got = nm_dataset_sample(d, NM_SPLIT_TRAIN, i);
        if (want.count != got.count || memcmp(want.ids, got.ids, (size_t)want.count * sizeof *want.ids)) fail_msg("row %zu: other ids", i);
        assert_memory_equal(want.mask, got.mask, want.count);
    }
    nm_dataset_close(&d);
    nm_dataset_close(&oracle);
    nm_model_close(&m);
}

/* ---- Masks that another implementation recorded ------------------------------------------------------------------------------------------- */

static nm_json read_json(const char *path)
{
    char *text;
    size_t size;
    nm_json j = {0};
    if (nm_file_read(path, 1 << 24, &text, &size) != NM_OK || nm_json_parse(&j, text, size) != NM_OK) fail_msg("%s: %s", path, nm_error_text());
    nm_free(text);
    return j;
}

static void write_json(nm_str *s, const nm_json *j)
{
    switch (j->kind) {
    case NM_JSON_NULL: nm_str_puts(s, "null"); break;
    case NM_JSON_BOOL: nm_str_puts(s, j->boolean ? "true" : "false"); break;
    case NM_JSON_INT: nm_str_printf(s, "%lld", (long long)j->integer); break;
    case NM_JSON_WIDE: nm_str_printf(s, "%llu", (unsigned long long)j->wide); break;
    case NM_JSON_REAL: nm_str_printf(s, "%.17g", j->real); break;
    case NM_JSON_STRING: nm_str_json(s, j->string.bytes, j->string.length); break;
    case NM_JSON_ARRAY:
        for (size_t i = 0; i < j->array.count; i++) {
            nm_str_puts(s, i ? "," : "[");
            write_json(s, &j->array.items[i]);
        }
        nm_str_puts(s, j->array.count ? "]" : "[]");
        break;
    case NM_JSON_OBJECT:
        for (size_t i = 0; i < j->object.count; i++) {
            nm_str_puts(s, i ? "," : "{");
            nm_str_json(s, j->object.keys[i], strlen(j->object.keys[i]));
            nm_str_puts(s, ":");
            write_json(s, &j->object.values[i]);
        }
        nm_str_puts(s, j->object.count ? "}" : "{}");
        break;
    }
}

static const char *text_of(const nm_json *object, const char *key) { return nm_json_get(object, key)->string.bytes; }

/* A sequence differs: shows both. */
static void fail_sequence(const char *what, const nm_model *m, nm_sample got, const nm_json *want)
{
    nm_str a = {0}, b = {0};
    const nm_json *ids = nm_json_get(want, "ids");
    const char *mask = text_of(want, "mask");
    int32_t id[2000];
    uint8_t trained[2000];
    nm_sample expected = {.ids = id, .mask = trained, .count = (int32_t)ids->array.count, .file = "expected"};
    for (size_t i = 0; i < ids->array.count && i < 2000; i++) {
        id[i] = (int32_t)ids->array.items[i].integer;
        trained[i] = mask[i] == '1';
    }
    nm_show_mask_text(&a, nm_model_tokenizer(m), &got, false);
    nm_show_mask_text(&b, nm_model_tokenizer(m), &expected, false);
    fail_msg("%s\n%s\n%s", what, a.data, b.data);
}

static void expect_sequence(const char *what, const nm_model *m, nm_sample got, const nm_json *want)
{
    const nm_json *ids = nm_json_get(want, "ids");
    const char *mask = text_of(want, "mask");
    bool same = (size_t)got.count == ids->array.count;
    for (int32_t i = 0; same && i < got.count; i++) same = got.ids[i] == ids->array.items[i].integer && got.mask[i] == (mask[i] == '1');
    if (!same) fail_sequence(what, m, got, want);
}

static void expect_case(const nm_model *m, const nm_json *rows, const nm_json *c)
{
    char path[1024], what[200];
    char *source;
    size_t size;
    nm_str row = {0};
    nm_dataset *d;
    const nm_json *want = nm_json_get(c, "sequences");
    snprintf(path, sizeof path, "%s/templates/%s.jinja", getenv("NOMOAT_TEST_DATA"), text_of(c, "template"));
    snprintf(what, sizeof what, "%s, row %d, %s", text_of(c, "template"), (int)nm_json_get(c, "row")->integer, text_of(c, "train_on"));
    if (nm_file_read(path, 1 << 20, &source, &size) != NM_OK) fail_msg("%s", nm_error_text());
    write_json(&row, &rows->array.items[nm_json_get(c, "row")->integer]);
    put("case.jsonl", row.data);
    nm_str_free(&row);
    nm_dataset_options o = {.template_text = source, .now = 1767323045, .train_on = strcmp(text_of(c, "train_on"), "last") ? NM_TRAIN_ASSISTANT : NM_TRAIN_LAST};
    nm_err err = open_data(&d, m, o, "case.jsonl");
    nm_free(source);
    if (!want) {
        assert_int_equal(err, NM_BAD_FILE);
        return;
    }
    if (err != NM_OK) fail_msg("%s: %s", what, nm_error_text());
    if (nm_dataset_count(d, NM_SPLIT_TRAIN) != want->array.count) fail_msg("%s: %zu sequences", what, nm_dataset_count(d, NM_SPLIT_TRAIN));
    for (size_t i = 0; i < want->array.count; i++) expect_sequence(what, m, nm_dataset_sample(d, NM_SPLIT_TRAIN, i), &want->array.items[i]);
    nm_dataset_close(&d);
}

/* tests/make_mask_cases.py: real templates and vocabularies. */
static void test_recorded_masks(void **state)
{
    static const char *const names[] = {"qwen2", "llama-bpe", "llama-spm"};
    const char *data = getenv("NOMOAT_TEST_DATA");
    nm_model_options metadata = {.metadata_only = true};
    char path[1024];
    (void)state;
    if (!data) {
        print_message("skipped: recorded masks (NOMOAT_TEST_DATA is not set)\n");
        skip();
    }
    nm_json all = read_json(recorded);
    const nm_json *cases = nm_json_get(&all, "cases");
    for (size_t v = 0; v < COUNT(names); v++) {
        nm_model *m;
        snprintf(path, sizeof path, "%s/tokenizers/ggml-vocab-%s.gguf", data, names[v]);
        if (nm_model_open(&m, path, &metadata) != NM_OK) fail_msg("%s", nm_error_text());
        for (size_t i = 0; i < cases->array.count; i++)
            if (!strcmp(text_of(&cases->array.items[i], "vocabulary"), names[v])) expect_case(m, nm_json_get(&all, "rows"), &cases->array.items[i]);
        nm_model_close(&m);
    }
    nm_json_free(&all);
}

/* ---- Shown ------------------------------------------------------------------------------------------------------------------------------------ */

static void test_show_mask(void **state)
{
    nm_dataset *d;
    nm_model *m = byte_model(chatml, false);
    nm_str s = {0};
    (void)state;
    put("show.jsonl", ROW(U("\\u001b[31m \xc3\xa9") ", " A("\xe2\x82\xac")));
    assert_int_equal(open_data(&d, m, plain, "show.jsonl"), NM_OK);
    nm_sample q = nm_dataset_sample(d, NM_SPLIT_TRAIN, 0);
    assert_int_equal(nm_show_mask_text(&s, nm_model_tokenizer(m), &q, false), NM_OK);
    assert_string_equal(s.data, "show.jsonl:1: 32 tokens, 5 of them trained\n<|im_start|>user\n\\x1b[31m \xc3\xa9<|im_end|>\n<|im_start|>assistant\n[[\xe2\x82\xac<|im_end|>\n]]\n");
    s.length = 0;
    assert_int_equal(nm_show_mask_text(&s, nm_model_tokenizer(m), &q, true), NM_OK);
    assert_non_null(strstr(s.data, "assistant\n\x1b[1;32m\xe2\x82\xac<|im_end|>\n\x1b[0m\n"));
    nm_str_free(&s);
    nm_dataset_close(&d);
    nm_model_close(&m);
}

/* ---- Allocations ----------------------------------------------------------------------------------------------------------------------------- */

static nm_err whole_life(const nm_model *m)
{
    const char *const sources[] = {"mem", "mem/c.csv:1.5"};
    nm_dataset_options o = {.sources = sources, .n_sources = 2, .validation = "0.3", .map = "question=q", .skip_bad = true, .max_length = 64};
    nm_order_options how = {.batch = 2, .epochs = 1};
    nm_dataset *d;
    nm_order *order = NULL;
    nm_order_step step;
    nm_err err = nm_dataset_open(&d, m, &o);
    if (err == NM_OK) err = nm_order_open(&order, d, &how);
    if (err == NM_OK) err = nm_order_step_at(order, 0, &step);
    nm_order_close(&order);
    nm_dataset_close(&d);
    return err;
}

static void test_each_allocation_fails(void **state)
{
    nm_model *m = byte_model("{% for m in messages %}{{ m.role[0] + ':' + m.content }}{% endfor %}{% if add_generation_prompt %}a:{% endif %}", true);
    int64_t alive = nm_mem_alive();
    (void)state;
    assert_int_equal(mkdir("mem", 0700), 0);
    put("mem/a.jsonl", "{\"q\": \"1\", \"answer\": \"x\"}\n{bad\n{\"q\": 1, \"messages\": [" U("1") ", " A("x") ", " U("2") ", " A("y") "], \"tools\": \"[]\"}\n");
    put("mem/b.json", "{\"data\": [{\"q\": \"\", \"text\": \"t\"}, {\"q\": \"\", \"instruction\": \"a\", \"input\": \"b\", \"output\": \"c\"}]}");
    put("mem/c.csv", "q,answer\n1,\"x\"\n2,y\n");
    for (int64_t n = 0;; n++) {
        nm_mem_fail_after(n);
        nm_err err = whole_life(m);
        nm_mem_fail_after(-1);
        assert_int_equal(nm_mem_alive(), alive);
        if (err == NM_OK) break;
        if (err != NM_NO_MEMORY) fail_msg("allocation %lld: %s", (long long)n, nm_error_text());
    }
    nm_model_close(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats), cmocka_unit_test(test_shapes), cmocka_unit_test(test_texts), cmocka_unit_test(test_long_text_in_pieces), cmocka_unit_test(test_gzip),
        cmocka_unit_test(test_folders_and_standard_input), cmocka_unit_test(test_faults), cmocka_unit_test(test_bad_rows_are_skipped),
        cmocka_unit_test(test_row_size_is_bounded), cmocka_unit_test(test_cut_files), cmocka_unit_test(test_masks_of_turns), cmocka_unit_test(test_bos_once),
        cmocka_unit_test(test_end_is_added), cmocka_unit_test(test_history_is_rewritten), cmocka_unit_test(test_generation_blocks), cmocka_unit_test(test_named_formats),
        cmocka_unit_test(test_long_rows_are_counted), cmocka_unit_test(test_weights_of_sources), cmocka_unit_test(test_order), cmocka_unit_test(test_packing),
        cmocka_unit_test(test_validation), cmocka_unit_test(test_stop_when_asked), cmocka_unit_test(test_memory_is_bounded), cmocka_unit_test(test_batches), cmocka_unit_test(test_gsm8k_as_peft_saw_it),
        cmocka_unit_test(test_recorded_masks), cmocka_unit_test(test_show_mask), cmocka_unit_test(test_each_allocation_fails)
    };
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
