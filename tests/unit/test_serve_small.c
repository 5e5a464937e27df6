/* The engine of the server on small models of random weights, where all is quick: sliding windows under many streams and stacks, and memory that does not hold all that is
 * asked for; and windows once on Gemma itself. What comes is what the request gives alone, to the bit of each token's probability. */
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../random_model.c"
#include "base/rng.h"
#include "format/safetensors.h"
#include "os/file.h"
#include "server/engine_impl.h"

#include "asker.h"

/* ---- Models and adapters -------------------------------------------------------------------------------------------------------------------- */

enum { EMBD = 64, LAYERS = 6, VOCAB = 300, WINDOW = 100, CONTEXT = 4096, MARK = 64 };

static char folder[64];

static void remove_folder(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

static void save_model(const char *name, random_model d)
{
    char path[128];
    size_t size;
    snprintf(path, sizeof path, "%s/%s.gguf", folder, name);
    void *model = rm_make(&d, &size);
    assert_int_equal(nm_file_write(path, model, size), NM_OK);
    free(model);
}

enum { RANK = 3, HALVES = 2 * 18 };      /* of as many layers as any model here has */
typedef struct made { nm_safe_tensor tensor[HALVES]; char name[HALVES][96]; float *values[HALVES]; size_t count; uint64_t seed; } made;

static void add_half(made *m, int layer, const char *map, const char *half, int64_t rows, int64_t columns)
{
    size_t i = m->count++;
    snprintf(m->name[i], sizeof m->name[i], "base_model.model.model.layers.%d.%s.lora_%s.weight", layer, map, half);
    m->values[i] = malloc((size_t)(rows * columns) * sizeof(float));
    assert_non_null(m->values[i]);
    for (int64_t k = 0; k < rows * columns; k++) m->values[i][k] = (float)(nm_rng_unit(m->seed, i, (uint64_t)k) - 0.5) * 0.5f;
    m->tensor[i] = (nm_safe_tensor){.name = m->name[i], .type = nm_type_of(NM_F32), .rank = 2, .dim = {rows, columns}, .data = m->values[i]};
}

/* An adapter of q (of q_width outputs) in each layer. */
static void save_adapter(const char *name, uint64_t seed, int layers, int64_t embd, int64_t q_width)
{
    static const char config[] = "{\"peft_type\": \"LORA\", \"r\": 3, \"lora_alpha\": 3, \"bias\": \"none\"}";
    made m = {.seed = seed};
    char path[128], file[200];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(nm_folder_make(path, 0700), NM_OK);
    for (int i = 0; i < layers; i++) add_half(&m, i, "self_attn.q_proj", "A", RANK, embd), add_half(&m, i, "self_attn.q_proj", "B", q_width, RANK);
    snprintf(file, sizeof file, "%s/adapter_config.json", path);
    assert_int_equal(nm_file_write(file, config, strlen(config)), NM_OK);
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", path);
    assert_int_equal(nm_safetensors_write(file, m.tensor, m.count, NULL, 0), NM_OK);
    for (size_t i = 0; i < m.count; i++) free(m.values[i]);
}

/* "wide" has no window; of "slides" every layer but each sixth has one, as Gemma 3's; of "narrow" every one. */
static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/nomoat-small-XXXXXX");
    assert_non_null(mkdtemp(folder));
    setenv("XDG_DATA_HOME", folder, 1);
    setenv("XDG_CACHE_HOME", folder, 1);
    setenv("HF_HOME", folder, 1);
    random_model d = rm_default("llama");
    d.layers = LAYERS, d.embd = EMBD, d.ff = 64, d.heads = 2, d.heads_kv = 1, d.vocabulary = RM_VOCAB_SPM, d.vocab = VOCAB, d.context = CONTEXT;
    save_model("wide", d);
    d.window = WINDOW;
    save_model("narrow", d);
    d.arch = "gemma3";
    save_model("slides", d);
    save_adapter("one", 11, LAYERS, EMBD, EMBD);
    save_adapter("two", 12, LAYERS, EMBD, EMBD);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    remove_folder();
    return 0;
}

/* With adapters by name, the second of which may be NULL. */
static nm_engine *open_named(const char *model, const char *one, const char *two, nm_engine_options o)
{
    nm_engine *e;
    nm_str text = {0};
    assert_int_equal(nm_str_printf(&text, "%s/%s.gguf+%s/%s", folder, model, folder, one), NM_OK);
    if (two) assert_int_equal(nm_str_printf(&text, "+%s/%s", folder, two), NM_OK);
    const char *models[] = {text.data};
    o.models = models;
    o.n_models = 1;
    nm_err err = nm_engine_open(&e, &o);
    if (err != NM_OK) print_error("%s\n", nm_error_text());
    assert_int_equal(err, NM_OK);
    nm_str_free(&text);
    return e;
}

static nm_engine *open_engine(const char *model, nm_engine_options o) { return open_named(model, "one", "two", o); }

/* ---- Requests -------------------------------------------------------------------------------------------------------------------------------- */

/* Words of one text for each seed. */
static void fill(int32_t *ids, size_t n, uint64_t seed)
{
    for (size_t i = 0; i < n; i++) ids[i] = 3 + (int32_t)(nm_rng_u64(seed, 0, i) % (VOCAB - 3));
}

static nm_ask ask_ids(const char *model, const int32_t *ids, size_t n, int32_t tokens)
{
    nm_ask a;
    nm_ask_init(&a);
    a.model = model;
    a.ids = ids;
    a.n_ids = n;
    a.max_tokens = tokens;
    a.temperature = 1;
    a.seeded = true;
    a.seed = n;
    a.ignore_eos = true;
    a.top_logprobs = 0;
    return a;
}

static void ends_well(client *c)
{
    finish(c);
    if (c->end.err != NM_OK) print_error("%s\n", c->error);
    assert_int_equal(c->end.err, NM_OK);
}

/* To be forgotten by the caller. Alone, and from nothing that is kept. */
static void ask_alone(nm_engine *e, client *c, nm_ask a)
{
    a.no_cache = true;
    begin(e, c, &a);
    ends_well(c);
}

static void same_answers(const client *a, const client *b)
{
    assert_int_equal(a->answered, b->answered);
    for (int i = 0; i < a->answered; i++) {
        assert_true(a->bits[i].length > 0);
        assert_int_equal(a->bits[i].length, b->bits[i].length);
        assert_memory_equal(a->bits[i].data, b->bits[i].data, a->bits[i].length);
        assert_string_equal(text_of(a, i), text_of(b, i));
    }
}

/* Asks once more, and compares with the answer alone; how many tokens were known. */
static int32_t asked_again(nm_engine *e, const nm_ask *a)
{
    client here = {0}, alone = {0};
    begin(e, &here, a);
    ends_well(&here);
    int32_t known = here.end.cached_tokens;
    ask_alone(e, &alone, *a);
    same_answers(&here, &alone);
    forget(&here);
    forget(&alone);
    return known;
}

/* ---- Sliding windows --------------------------------------------------------------------------------------------------------------------------- */

static const char *const windowed[] = {"slides", "narrow"};
enum { N_WINDOWED = sizeof windowed / sizeof *windowed };

/* Streams of several stacks and lengths, each past its window in the prompt and again in the answer, among them one of several answers. */
static void together(const char *model)
{
    enum { STREAMS = 7, LONGEST = 900 };
    static const char *const stacks[] = {"", "+one", "+two=0.5", "+one+two", "+one=0.25", "+two", ""};
    static int32_t ids[STREAMS][LONGEST];
    char name[STREAMS][64];
    nm_ask ask[STREAMS];
    client alone[STREAMS] = {0}, beside[STREAMS] = {0};
    nm_engine *e = open_engine(model, (nm_engine_options){.memory = 2000000000});
    for (int i = 0; i < STREAMS; i++) {
        size_t n = i == 2 ? 40 : 300 + 100 * (size_t)i;
        snprintf(name[i], sizeof name[i], "%s%s", model, stacks[i]);
        fill(ids[i], n, (uint64_t)i / 2);       /* two of a kind begin alike, but not under one stack */
        ask[i] = ask_ids(name[i], ids[i], n, 500);
        ask[i].client = (unsigned)i % 3;
        if (i == 4) ask[i].n = 3;
        ask_alone(e, &alone[i], ask[i]);
    }
    for (int i = 0; i < STREAMS; i++) begin(e, &beside[i], &ask[i]);
    for (int i = 0; i < STREAMS; i++) {
        ends_well(&beside[i]);
        same_answers(&beside[i], &alone[i]);
        forget(&beside[i]);
        for (int k = 0; k < i; k++)
            assert_true(alone[i].bits[0].length != alone[k].bits[0].length || memcmp(alone[i].bits[0].data, alone[k].bits[0].data, alone[i].bits[0].length));
    }
    for (int i = 0; i < STREAMS; i++) forget(&alone[i]);
    nm_engine_close(&e);
}

static void test_windows_together(void **state)
{
    (void)state;
    for (int i = 0; i < N_WINDOWED; i++) together(windowed[i]);
}

/* The same prompt, what goes on from its answer, an edit of the last turn, a branch far below the window: each under a stack, from what is kept where that reaches. */
static void kept_of(const char *model)
{
    enum { N = 900, EDITED = N - 60, BRANCH = 200 };
    static int32_t ids[N + 400];
    char name[64];
    int32_t known;
    snprintf(name, sizeof name, "%s+one", model);
    nm_engine *e = open_engine(model, (nm_engine_options){.memory = 2000000000});
    fill(ids, N + 400, 7);
    nm_ask a = ask_ids(name, ids, N, 30);
    assert_int_equal(asked_again(e, &a), 0);
    assert_int_equal(asked_again(e, &a), N - 1);
    client c = {0};
    begin(e, &c, &a);
    ends_well(&c);
    for (int i = 0; i < 30; i++) memcpy(&ids[N + i], c.bits[0].data + (size_t)i * (sizeof(int32_t) + sizeof(double)), sizeof(int32_t));
    forget(&c);
    a = ask_ids(name, ids, N + 400, 30);        /* the talk goes on: the last token drawn was not computed */
    assert_int_equal(asked_again(e, &a), N + 29);
    a = ask_ids(name, ids, N, 30);
    fill(ids + EDITED, N - EDITED, 8);
    assert_int_equal(asked_again(e, &a), EDITED);
    fill(ids + BRANCH, N - BRANCH, 9);
    known = asked_again(e, &a);
    assert_true(known == 0 || known == BRANCH);     /* a window has dropped it; from now on it is known that others go on from there */
    fill(ids + BRANCH, N - BRANCH, 10);
    assert_int_equal(asked_again(e, &a), BRANCH);
    nm_engine_close(&e);
}

static int count_ready(nm_engine *e)
{
    int n = 0;
    pthread_mutex_lock(&e->lock);
    for (const nm_job *j = e->ready; j; j = j->next) n++;
    pthread_mutex_unlock(&e->lock);
    return n;
}

/* For client.at_first: asks, on the engine's thread, which does not go on until all of them may begin. */
typedef struct more { nm_engine *engine; client *client; const nm_ask *ask; int n; } more;
static void ask_more(void *arg)
{
    const more *m = arg;
    for (int i = 0; i < m->n; i++) begin(m->engine, &m->client[i], &m->ask[i]);
    while (count_ready(m->engine) < m->n) usleep(500);
}

/* Six at once with one beginning and long ends of their own: it is computed once. */
static void begin_alike(const char *model)
{
    enum { STREAMS = 6, ALIKE = 600, OWN = 450 };
    static int32_t ids[STREAMS][ALIKE + OWN], before[8];
    nm_ask ask[STREAMS];
    client beside[STREAMS] = {0};
    int computed = 0;
    nm_engine *e = open_engine(model, (nm_engine_options){.memory = 2000000000});
    for (int i = 0; i < STREAMS; i++) {
        fill(ids[i], ALIKE, 30);
        fill(ids[i] + ALIKE, OWN, 31 + (uint64_t)i);
        ask[i] = ask_ids(model, ids[i], ALIKE + OWN, 8);
    }
    fill(before, 8, 29);
    nm_ask a = ask_ids(model, before, 8, 1);
    client first = {.at_first = ask_more, .at_first_arg = &(more){e, beside, ask, STREAMS}};
    ask_alone(e, &first, a);
    forget(&first);
    for (int i = 0; i < STREAMS; i++) {
        client alone = {0};
        ends_well(&beside[i]);
        computed += beside[i].end.prompt_tokens - beside[i].end.cached_tokens;
        ask_alone(e, &alone, ask[i]);
        same_answers(&beside[i], &alone);
        forget(&beside[i]);
        forget(&alone);
    }
    assert_in_range(computed, ALIKE + STREAMS * OWN, ALIKE + STREAMS * (OWN + NM_WORTH_KNOWING));
    nm_engine_close(&e);
}

static void test_windows_alike(void **state)
{
    (void)state;
    for (int i = 0; i < N_WINDOWED; i++) begin_alike(windowed[i]);
    begin_alike("wide");
}

static void test_windows_kept(void **state)
{
    (void)state;
    for (int i = 0; i < N_WINDOWED; i++) kept_of(windowed[i]);
    kept_of("wide");
}

/* Gemma 3 itself, whose window has 512 tokens: two streams under stacks beside one without, past the window, and an edit. */
static void test_gemma(void **state)
{
    enum { STREAMS = 3, PROMPT = 900, ANSWER = 12, EDITED = PROMPT - 40, EMBD_OF_IT = 640, Q_OF_IT = 1024, LAYERS_OF_IT = 18 };
    static const char *const names[] = {"gemma", "gemma+mine", "gemma+mine=0.5"};
    static int32_t ids[STREAMS][PROMPT];
    char path[512], link[128];
    const char *models = getenv("NOMOAT_TEST_MODELS");
    nm_ask ask[STREAMS];
    client alone[STREAMS] = {0}, beside[STREAMS] = {0};
    (void)state;
    if (models) snprintf(path, sizeof path, "%s/gemma-3-270m-q4_k_m.gguf", models);
    if (!models || access(path, R_OK)) {
        print_message("needs gemma-3-270m-q4_k_m in NOMOAT_TEST_MODELS\n");
        skip();
    }
    snprintf(link, sizeof link, "%s/gemma.gguf", folder);
    assert_int_equal(symlink(path, link), 0);
    save_adapter("mine", 13, LAYERS_OF_IT, EMBD_OF_IT, Q_OF_IT);
    nm_set_threads(0);
    nm_engine *e = open_named("gemma", "mine", NULL, (nm_engine_options){0});
    for (int i = 0; i < STREAMS; i++) {
        fill(ids[i], PROMPT, 50);
        ask[i] = ask_ids(names[i], ids[i], PROMPT, ANSWER);
        ask_alone(e, &alone[i], ask[i]);
    }
    assert_memory_not_equal(alone[0].bits[0].data, alone[1].bits[0].data, alone[0].bits[0].length);
    for (int i = 0; i < STREAMS; i++) begin(e, &beside[i], &ask[i]);
    for (int i = 0; i < STREAMS; i++) {
        ends_well(&beside[i]);
        same_answers(&beside[i], &alone[i]);
        forget(&beside[i]);
        forget(&alone[i]);
    }
    fill(ids[1] + EDITED, PROMPT - EDITED, 51);
    assert_int_equal(asked_again(e, &ask[1]), EDITED);
    nm_engine_close(&e);
}

/* Sessions that are loaded from files for requests which have not begun; whether all of these are ready to. */
static uint64_t loaded_ahead(nm_engine *e, int expected)
{
    uint64_t bytes = 0;
    int n = 0;
    pthread_mutex_lock(&e->lock);
    for (const nm_job *j = e->ready; j; j = j->next, n++)
        if (j->shelved) bytes += nm_session_need(e, j->variant->base, (size_t)nm_session_length(j->shelved));
    pthread_mutex_unlock(&e->lock);
    return n == expected ? bytes : UINT64_MAX;
}

/* Prompts that files know wait behind an answer: what is loaded for them stays within the bound of what is kept. */
static void test_loaded_ahead(void **state)
{
    enum { WAIT = 12, PROMPT = 900 };
    static int32_t ids[WAIT][PROMPT];
    static client waits[WAIT];
    char kept[128];
    client stream = {0};
    uint64_t bytes;
    (void)state;
    snprintf(kept, sizeof kept, "%s/kept", folder);
    nm_engine *e = open_engine("wide", (nm_engine_options){.memory = 2000000000, .kept_folder = kept});
    for (int i = 0; i < WAIT; i++) {
        client c = {0};
        fill(ids[i], PROMPT, 60 + (uint64_t)i);
        nm_ask a = ask_ids("wide", ids[i], PROMPT, 1);
        begin(e, &c, &a);
        ends_well(&c);
        forget(&c);
    }
    uint64_t most = 2 * nm_session_need(e, e->base[0], PROMPT + 1);
    nm_engine_close(&e);
    e = open_engine("wide", (nm_engine_options){.memory = 2000000000, .kept_folder = kept, .kept = most, .parallel = 1});
    nm_ask a = ask_ids("wide", ids[0], 10, CONTEXT - 10);
    begin(e, &stream, &a);
    for (bool some = false; !some; usleep(500)) {
        pthread_mutex_lock(&stream.lock);
        some = stream.pieces > 0;
        pthread_mutex_unlock(&stream.lock);
    }
    for (int i = 0; i < WAIT; i++) {
        nm_ask b = ask_ids("wide", ids[i], PROMPT, 1);
        begin(e, &waits[i], &b);
    }
    while ((bytes = loaded_ahead(e, WAIT)) == UINT64_MAX && !stream.ended) usleep(1000);
    assert_int_equal(stream.ended, 0);
    if (bytes > most) print_error("%llu of %llu bytes\n", (unsigned long long)bytes, (unsigned long long)most);
    assert_in_range(bytes, 1, most);
    nm_job_cancel(stream.job);
    finish(&stream);
    forget(&stream);
    for (int i = 0; i < WAIT; i++) {
        ends_well(&waits[i]);
        forget(&waits[i]);
    }
    nm_engine_close(&e);
}

/* What looking a name up takes, in allocations. */
static int64_t looked_up(nm_engine *e, const char *name, nm_err expected)
{
    nm_held *held;
    int64_t before = nm_mem_count();
    assert_int_equal(nm_engine_hold(e, name, NULL, &held), expected);
    return nm_mem_count() - before;
}

/* A name whose every front could be a model costs no more than a stack of as many adapters as there may be. */
static void test_long_names(void **state)
{
    char fronts[1001], name[200] = "wide";
    (void)state;
    nm_engine *e = open_engine("wide", (nm_engine_options){0});
    for (int i = 0; i < 64; i++) strcat(name, "+2");
    looked_up(e, name, NM_NOT_FOUND);
    strcat(name, "+2");
    looked_up(e, name, NM_USAGE);
    memset(fronts, '+', sizeof fronts - 1);
    fronts[sizeof fronts - 1] = 0;
    int64_t plain = looked_up(e, "nothing", NM_NOT_FOUND), most = looked_up(e, fronts, NM_USAGE);
    if (most > 64 * plain) fail_msg("%lld allocations for a plain name, %lld for one of many fronts", (long long)plain, (long long)most);
    nm_engine_close(&e);
}

/* ---- Memory that does not hold all ------------------------------------------------------------------------------------------------------------------ */

/* Bytes that the engine speaks for. */
static uint64_t spoken_for(nm_engine *e)
{
    pthread_mutex_lock(&e->lock);
    uint64_t bytes = nm_names_bytes(e) + e->at_work + nm_kept_bytes(e);
    pthread_mutex_unlock(&e->lock);
    return bytes;
}

/* Bytes that the process has. */
static uint64_t taken(void)
{
    struct mallinfo2 m = mallinfo2();
    return m.uordblks + m.hblkhd;
}

static void test_memory_bound(void **state)
{
    enum { STREAMS = 6, PROMPT = 200, ANSWER = 1500 };
    static int32_t ids[STREAMS][PROMPT];
    nm_ask ask[STREAMS];
    client alone[STREAMS] = {0}, beside[STREAMS] = {0};
    (void)state;
    nm_set_threads(1);      /* what a step of so small a model costs most is to meet at barriers */
    nm_engine *e = open_engine("wide", (nm_engine_options){.memory = 2000000000});
    for (int i = 0; i < STREAMS; i++) {
        fill(ids[i], PROMPT, (uint64_t)i + 20);
        ask[i] = ask_ids(i % 2 ? "wide+one" : "wide", ids[i], PROMPT, ANSWER);
        ask[i].client = (unsigned)i;
        ask_alone(e, &alone[i], ask[i]);
        assert_int_equal(alone[i].end.tokens, ANSWER);
    }
    uint64_t model = nm_names_bytes(e), each = nm_session_need(e, e->base[0], PROMPT + ANSWER), bound = model + each * 5 / 2;
    nm_engine_close(&e);
    e = open_engine("wide", (nm_engine_options){.memory = bound, .context = PROMPT + ANSWER});
    client first = {0};
    nm_ask a = ask_ids("wide", ids[0], PROMPT, 1);
    ask_alone(e, &first, a);                    /* all is open */
    forget(&first);
    uint64_t before = taken(), most = 0, most_taken = 0;
    for (int i = 0; i < STREAMS; i++) begin(e, &beside[i], &ask[i]);
    for (bool over = false; !over;) {
        uint64_t now = spoken_for(e), have = taken();
        over = true;
        for (int i = 0; i < STREAMS; i++) {
            pthread_mutex_lock(&beside[i].lock);
            over &= beside[i].ended > 0;
            pthread_mutex_unlock(&beside[i].lock);
        }
        most = now > most ? now : most;
        most_taken = have > most_taken ? have : most_taken;
        usleep(500);
    }
    assert_true(most > model + each && most <= bound);
    if (most_taken > before) assert_true(most_taken - before < bound - model + STREAMS * (1 << 20));     /* beside pages: samplers, texts, what this test keeps */
    for (int i = 0; i < STREAMS; i++) {
        ends_well(&beside[i]);
        assert_int_equal(beside[i].finish[0], NM_FINISH_LENGTH);
        same_answers(&beside[i], &alone[i]);
        forget(&beside[i]);
        forget(&alone[i]);
    }
    nm_engine_close(&e);
}

/* One request for more answers than there is memory for, and another client who asks while they are at work: he need not wait for the last of them. */
static void test_memory_of_answers(void **state)
{
    enum { PROMPT = 200, ANSWER = 1500 };
    static int32_t ids[PROMPT];
    client alone = {0}, bound = {0}, other = {0};
    (void)state;
    fill(ids, PROMPT, 40);
    nm_ask a = ask_ids("wide+two", ids, PROMPT, ANSWER);
    a.n = MOST_N;
    nm_engine *e = open_engine("wide", (nm_engine_options){.memory = 2000000000});
    ask_alone(e, &alone, a);
    uint64_t limit = nm_names_bytes(e) + nm_session_need(e, e->base[0], PROMPT + ANSWER) * 3 / 2, most = 0;
    nm_engine_close(&e);
    e = open_engine("wide", (nm_engine_options){.memory = limit, .context = PROMPT + ANSWER});
    nm_ask b = ask_ids("wide", ids, PROMPT / 2, 4);
    b.client = 1;
    bound.at_first = ask_more;
    bound.at_first_arg = &(more){e, &other, &b, 1};
    begin(e, &bound, &a);
    for (bool over = false; !over; usleep(500)) {
        uint64_t now = spoken_for(e);
        most = now > most ? now : most;
        pthread_mutex_lock(&bound.lock);
        over = bound.ended > 0;
        pthread_mutex_unlock(&bound.lock);
    }
    ends_well(&bound);
    ends_well(&other);
    assert_true(other.ended_at < bound.answered_at[MOST_N - 2]);       /* the last one to begin comes behind that */
    forget(&other);
    if (most > limit) print_error("%llu of %llu bytes\n", (unsigned long long)most, (unsigned long long)limit);
    assert_true(most <= limit);
    same_answers(&bound, &alone);
    forget(&alone);
    forget(&bound);
    nm_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_windows_together), cmocka_unit_test(test_windows_kept), cmocka_unit_test(test_windows_alike), cmocka_unit_test(test_memory_bound),
        cmocka_unit_test(test_memory_of_answers), cmocka_unit_test(test_long_names), cmocka_unit_test(test_loaded_ahead), cmocka_unit_test(test_gemma),
    };
    return cmocka_run_group_tests_name("serve_small", tests, set_up, tear_down);
}
