/* Kept packs: the same answers cold, warm and off; whatever is cut, flipped, forged or stale is made again; one writer at a time; nothing left behind; no
 * room and no right to write change nothing; the bound, and what goes first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"
#include "kernel/kernel.h"
#include "model/model.h"
#include "os/file.h"

#include "../instrumented.h"
#include "../random_model.c"

enum { TOKENS = 5, VOCAB = 64 };
typedef float logits[TOKENS][VOCAB];

static char root[256], model_path[300], packs[300];

/* ---- Files ------------------------------------------------------------------------------------------------------------------------ */

static void wait_until_settled(const char *path)
{
    nm_map map;
    assert_int_equal(nm_map_open(&map, path), NM_OK);
    while (!nm_file_is_settled(&map.id)) usleep(10000);
    nm_map_close(&map);
}

static void save_model(const char *path, uint64_t seed, int type)
{
    random_model d = rm_default("llama");
    d.type = d.embd_type = type;
    d.layers = 1;
    d.ff = 256;
    d.seed = seed;
    assert_true(rm_save(&d, path));
    wait_until_settled(path);
}

static int entries(const char *suffix)
{
    char **names;
    size_t n;
    assert_int_equal(nm_folder_names(&names, &n, packs, suffix), NM_OK);
    nm_names_free(names, n);
    return (int)n;
}

/* The path of the only pack. */
static const char *only_pack(void)
{
    static char path[600];
    char **names;
    size_t n;
    assert_int_equal(nm_folder_names(&names, &n, packs, ".pack"), NM_OK);
    assert_int_equal(n, 1);
    snprintf(path, sizeof path, "%s/%s", packs, names[0]);
    nm_names_free(names, n);
    return path;
}

static void write_file(const char *path, const void *data, size_t size)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
}

static uint8_t *read_file(const char *path, size_t *size)
{
    char *data;
    assert_int_equal(nm_file_read(path, 1 << 30, &data, size), NM_OK);
    return (uint8_t *)data;
}

static int clean(void **state)
{
    char command[600];
    unsetenv("NOMOAT_PACK_LIMIT");
    setenv("XDG_CACHE_HOME", root, 1);
    snprintf(command, sizeof command, "rm -rf '%s/nomoat' '%s'/*.gguf", root, root);
    return system(command);
}

static int make_root(void **state)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/nomoat-pack-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(root)) return -1;
    snprintf(model_path, sizeof model_path, "%s/model.gguf", root);
    snprintf(packs, sizeof packs, "%s/nomoat/packs", root);
    return clean(state);
}

static int remove_root(void **state)
{
    char command[400];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

/* ---- Models ------------------------------------------------------------------------------------------------------------------------ */

static nm_err take(void *arg, int32_t index, const float *row, int32_t n_vocab)
{
    memcpy(((float (*)[VOCAB])arg)[index], row, (size_t)n_vocab * sizeof *row);
    return NM_OK;
}

static nm_model *open_model(const char *path, bool keep)
{
    nm_model *m;
    if (nm_model_open(&m, path, &(nm_model_options){.keep = keep}) != NM_OK) fail_msg("%s", nm_error_text());
    return m;
}

static void run_model(const nm_model *m, logits out)
{
    nm_session *session;
    nm_runner *runner;
    int32_t prompt[TOKENS] = {3, 14, 15, 9, 2};
    assert_int_equal(nm_session_open(&session, m, &(nm_session_options){.context = 64}), NM_OK);
    assert_int_equal(nm_runner_open(&runner, m, &(nm_runner_options){.max_rows = 8}), NM_OK);
    nm_item item = {.session = session, .tokens = prompt, .count = TOKENS, .want = NM_WANT_ALL, .on_logits = take, .arg = out};
    if (nm_run(runner, &item, 1, NULL) != NM_OK) fail_msg("%s", nm_error_text());
    nm_runner_close(&runner);
    nm_session_close(&session);
}

typedef enum from { FROM_MEMORY, FROM_PACK } from;

/* Opens, compares answers with those without a cache, and where the panels came from. */
static void expect(const char *path, from where, const char *what)
{
    static logits plain, got;
    nm_model *m = open_model(path, false), *kept = open_model(path, true);
    run_model(m, plain);
    run_model(kept, got);
    if (memcmp(plain, got, sizeof got)) fail_msg("%s: other answers", what);
    if (nm_model_fingerprint(m) != nm_model_fingerprint(kept)) fail_msg("%s: another fingerprint", what);
    if ((kept->kept.data != NULL) != (where == FROM_PACK)) fail_msg("%s: the panels come from %s", what, kept->kept.data ? "a pack" : "memory");
    assert_null(m->kept.data);
    nm_model_close(&m);
    nm_model_close(&kept);
}

/* ---- Keeping ------------------------------------------------------------------------------------------------------------------------ */

static void test_kept(void **state)
{
    static const int types[] = {NM_Q4_K, NM_Q4_0, NM_F16, NM_Q6_K, NM_IQ2_XS};      /* the last has no panels: what is kept is that all is finite */
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        save_model(model_path, 1, types[i]);
        expect(model_path, FROM_MEMORY, "cold");
        assert_int_equal(entries(""), 1);
        expect(model_path, FROM_PACK, "warm");
        expect(model_path, FROM_PACK, "warm again");
        assert_int_equal(entries(""), 1);
        assert_int_equal(clean(state), 0);
    }
}

static void test_not_asked(void **state)
{
    save_model(model_path, 1, NM_Q4_0);
    nm_model *m = open_model(model_path, false);
    nm_model_close(&m);
    assert_int_equal(nm_model_open(&m, model_path, &(nm_model_options){.keep = true, .no_pack = true}), NM_OK);
    nm_model_close(&m);
    size_t size;
    uint8_t *bytes = read_file(model_path, &size);
    assert_int_equal(nm_model_open_memory(&m, bytes, size, "memory", &(nm_model_options){.keep = true}), NM_OK);
    nm_model_close(&m);
    nm_free(bytes);
    assert_int_equal(entries(""), 0);
}

/* A file that changes keeps no old answers, even with the same size and time of modification. */
static void test_source_changes(void **state)
{
    struct stat st;
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    assert_int_equal(stat(model_path, &st), 0);
    save_model(model_path, 2, NM_Q4_0);
    assert_int_equal(utimensat(AT_FDCWD, model_path, (struct timespec[]){st.st_atim, st.st_mtim}, 0), 0);
    wait_until_settled(model_path);
    expect(model_path, FROM_MEMORY, "another content");
    assert_int_equal(entries(".pack"), 1);      /* the old one went */
    expect(model_path, FROM_PACK, "kept anew");
    int fd = open(model_path, O_WRONLY);
    assert_int_equal(pwrite(fd, "\1", 1, st.st_size - 100), 1);
    close(fd);
    wait_until_settled(model_path);
    expect(model_path, FROM_MEMORY, "one byte");
}

static void test_settled(void **state)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t ns = (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
    assert_false(nm_file_is_settled(&(nm_file_id){.changed_ns = ns + 1000000000}));
    assert_true(nm_file_is_settled(&(nm_file_id){.changed_ns = ns - 900000001}) || (ns - 900000001) % 1000000000 == 0);
    assert_false(nm_file_is_settled(&(nm_file_id){.changed_ns = (uint64_t)now.tv_sec * 1000000000}));   /* no more than whole seconds are told */
    assert_true(nm_file_is_settled(&(nm_file_id){.changed_ns = ((uint64_t)now.tv_sec - 3) * 1000000000}));
}

/* Two models' packs stand side by side, and finding one is no matter of the other. */
static void test_two_models(void **state)
{
    char other[320];
    snprintf(other, sizeof other, "%s/other.gguf", root);
    save_model(model_path, 1, NM_Q8_0);
    save_model(other, 2, NM_Q8_0);
    expect(model_path, FROM_MEMORY, "one");
    expect(other, FROM_MEMORY, "other");
    assert_int_equal(entries(".pack"), 2);
    expect(model_path, FROM_PACK, "one");
    expect(other, FROM_PACK, "other");
}

/* ---- Damage --------------------------------------------------------------------------------------------------------------------------- */

static void test_cut(void **state)
{
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    size_t size;
    uint8_t *good = read_file(only_pack(), &size);
    nm_packfile f;
    assert_int_equal(nm_packfile_read(&f, good, size), NM_OK);
    for (size_t n = 0; n < size; n += n < 4200 ? 1 : 997) assert_int_equal(nm_packfile_read(&f, good, n), NM_BAD_FILE);
    size_t step = NM_INSTRUMENTED ? size / 3 : size / 12;
    for (size_t n = 0; n < size; n += n < 256 ? 96 : step) {
        write_file(only_pack(), good, n);
        expect(model_path, FROM_MEMORY, "a cut pack");
        expect(model_path, FROM_PACK, "made again");
    }
    uint8_t *longer = nm_calloc(1, size + 64);
    memcpy(longer, good, size);
    write_file(only_pack(), longer, size + 64);
    expect(model_path, FROM_MEMORY, "a pack with something behind it");
    nm_free(longer);
    nm_free(good);
}

static void test_flipped(void **state)
{
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    size_t size;
    uint8_t *bytes = read_file(only_pack(), &size);
    nm_packfile f;
    assert_int_equal(nm_packfile_read(&f, bytes, size), NM_OK);
    size_t head = (size_t)f.head->data_at;
    for (size_t bit = 0; bit < head * 8; bit += NM_INSTRUMENTED ? 7 : 1) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (nm_packfile_read(&f, bytes, size) == NM_OK) fail_msg("bit %zu is not missed", bit);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    bytes[100] ^= 1;
    write_file(only_pack(), bytes, size);
    expect(model_path, FROM_MEMORY, "a flipped bit of the table");
    bytes[100] ^= 1;
    /* One of the data is seen by whoever reads all of it. */
    char *source, path[600];
    snprintf(path, sizeof path, "%s", only_pack());
    assert_int_equal(nm_packs_verify(path, &source, NULL, NULL), NM_OK);
    char *real = realpath(model_path, NULL);
    assert_string_equal(source, real);
    free(real);
    nm_free(source);
    for (size_t at = head; at < size; at += size / 7) {
        bytes[at] ^= 64;
        write_file(path, bytes, size);
        assert_int_equal(nm_packs_verify(path, &source, NULL, NULL), NM_BAD_FILE);
        nm_free(source);
        assert_int_equal(access(path, F_OK), -1);
        bytes[at] ^= 64;
    }
    expect(model_path, FROM_MEMORY, "verified and removed");
    nm_free(bytes);
}

/* Writes a pack whose checksum is right, and expects that it is not taken. */
static void refuse(uint8_t *bytes, size_t size, const char *what)
{
    char path[600];
    snprintf(path, sizeof path, "%s", only_pack());
    nm_packfile_head *head = (nm_packfile_head *)bytes;
    if (head->data_at >= sizeof *head && head->data_at <= size) head->checksum = nm_packfile_checksum(bytes, (size_t)head->data_at);
    write_file(path, bytes, size);
    expect(model_path, FROM_MEMORY, what);
    assert_string_equal(path, only_pack());
    expect(model_path, FROM_PACK, what);
}

static void test_forged(void **state)
{
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    size_t size;
    uint8_t *good = read_file(only_pack(), &size), *bytes = nm_malloc(size);
    nm_packfile_head *h = (nm_packfile_head *)bytes;
    nm_packfile_tensor *t = (nm_packfile_tensor *)((uint64_t *)(h + 1) + ((nm_packfile_head *)good)->words);
#define FORGED(what, ...) do { memcpy(bytes, good, size); __VA_ARGS__; refuse(bytes, size, what); } while (0)
    nm_packfile file;
    memcpy(bytes, good, size);
    h->version++;
    assert_int_equal(nm_packfile_read(&file, bytes, size), NM_REFUSED);
    FORGED("another version", h->version++);
    FORGED("another layout", h->layout ^= 1);
    FORGED("another source", ((uint64_t *)(h + 1))[6] ^= 1);
    FORGED("fewer words", h->words--);
    FORGED("more words than can be", h->words = UINT64_MAX / 8);
    FORGED("fewer tensors", h->tensors--);
    FORGED("more tensors", h->tensors += 1000);
    FORGED("no path", h->path_bytes = 0);
    FORGED("an endless path", h->path_bytes = UINT64_MAX);
    FORGED("data beyond the end", h->data_at = size + 4096);
    FORGED("data in the head", h->data_at = 0);
    FORGED("a shorter file", h->file_bytes--);
    FORGED("a tensor outside", t[0].at = size);
    FORGED("a tensor far outside", t[0].at = UINT64_MAX - 63);
    FORGED("a tensor in the table", t[0].at = 0);
    FORGED("a tensor between lines", t[0].at += 32);
    FORGED("a tensor on another", t[1].at = t[0].at);
    FORGED("more bytes than there are", t[0].bytes = UINT64_MAX - 63);
    FORGED("fewer bytes", t[0].bytes -= t[0].unit);
    FORGED("no unit", t[0].unit = 0);
    FORGED("another unit", t[0].unit /= 2);
    FORGED("another type", t[0].type = NM_Q8_0);
    FORGED("another name", t[0].name ^= 1);
    FORGED("another shape", t[0].n += 16);
    FORGED("another depth", t[0].k += 32);
#undef FORGED
    nm_free(bytes);
    nm_free(good);
}

/* ---- Several at once, and ends ------------------------------------------------------------------------------------------------------------ */

static void path_of(char out[600], const char *name) { snprintf(out, 600, "%s/%s", packs, name); }

static void test_left_behind(void **state)
{
    char mine[600], theirs[600];
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    path_of(mine, "00000000000000aa.tmp");
    path_of(theirs, "00000000000000bb.tmp");
    write_file(mine, "left", 4);
    write_file(theirs, "in work", 7);
    int fd = open(theirs, O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    expect(model_path, FROM_PACK, "warm");
    assert_int_equal(access(mine, F_OK), -1);
    assert_int_equal(access(theirs, F_OK), 0);
    close(fd);
    expect(model_path, FROM_PACK, "warm");
    assert_int_equal(entries(".tmp"), 0);
}

/* Somebody else writes this very pack: no second writer, and no fault. */
static void test_busy(void **state)
{
    char path[600];
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    snprintf(path, sizeof path, "%s", only_pack());
    unlink(path);
    memcpy(strstr(path, ".pack"), ".tmp", 5);
    write_file(path, "in work", 7);
    int fd = open(path, O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    nm_model *m = open_model(model_path, true);
    assert_null(m->keeping);
    assert_null(nm_model_describe(m)->not_kept);
    nm_model_close(&m);
    assert_int_equal(entries(".pack"), 0);
    close(fd);
    expect(model_path, FROM_MEMORY, "free again");
    expect(model_path, FROM_PACK, "kept");
    assert_int_equal(entries(".tmp"), 0);
}

static int open_alone(const char *path)
{
    nm_model *m = open_model(path, true);
    logits out;
    run_model(m, out);
    for (int i = 0; i < TOKENS; i++) printf("%a ", (double)out[i][i]);
    nm_model_close(&m);
    return 0;
}

static void test_processes(void **state)
{
    enum { PROCESSES = 6 };
    FILE *child[PROCESSES];
    char self[4096], command[8300], said[PROCESSES][128] = {{0}};
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = 0;
    save_model(model_path, 1, NM_Q4_K);
    snprintf(command, sizeof command, "'%s' --open '%s'", self, model_path);
    for (int i = 0; i < PROCESSES; i++) assert_non_null(child[i] = popen(command, "r"));
    for (int i = 0; i < PROCESSES; i++) {
        assert_non_null(fgets(said[i], sizeof said[i], child[i]));
        assert_int_equal(pclose(child[i]), 0);
        assert_string_equal(said[i], said[0]);
    }
    assert_int_equal(entries(""), 1);
    expect(model_path, FROM_PACK, "afterwards");
}

/* Giving up leaves nothing, or all of it. */
static void test_cancel(void **state)
{
    static volatile sig_atomic_t cancel = 1;
    nm_model *m;
    save_model(model_path, 1, NM_Q4_0);
    assert_int_equal(nm_model_open(&m, model_path, &(nm_model_options){.keep = true, .cancel = &cancel}), NM_OK);
    nm_model_close(&m);
    assert_int_equal(entries(".tmp"), 0);
    expect(model_path, entries(".pack") ? FROM_PACK : FROM_MEMORY, "given up");
}

/* ---- No room ---------------------------------------------------------------------------------------------------------------------------- */

static void expect_not_kept(const char *what)
{
    static logits plain, got;
    nm_model *m = open_model(model_path, true), *other = open_model(model_path, false);
    if (!nm_model_describe(m)->not_kept) fail_msg("%s: nobody says so", what);
    run_model(m, got);
    run_model(other, plain);
    assert_memory_equal(plain, got, sizeof got);
    nm_model_close(&m);
    nm_model_close(&other);
}

static void test_no_room(void **state)
{
    struct rlimit before;
    char file[320];
    save_model(model_path, 1, NM_Q4_0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){10000, before.rlim_max}), 0);
    expect_not_kept("a limit on files");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(entries(""), 0);
    setenv("NOMOAT_PACK_LIMIT", "1K", 1);
    expect_not_kept("a bound");
    setenv("NOMOAT_PACK_LIMIT", "much", 1);
    expect_not_kept("a bound that cannot be read");
    unsetenv("NOMOAT_PACK_LIMIT");
    assert_int_equal(entries(""), 0);
    snprintf(file, sizeof file, "%s/file", root);
    write_file(file, "x", 1);
    setenv("XDG_CACHE_HOME", file, 1);
    expect_not_kept("a file for a folder");
    setenv("XDG_CACHE_HOME", "/proc", 1);
    expect_not_kept("a folder in which nothing can be made");
}

static void test_read_only(void **state)
{
    save_model(model_path, 1, NM_Q4_0);
    expect(model_path, FROM_MEMORY, "cold");
    assert_int_equal(chmod(only_pack(), 0400), 0);
    assert_int_equal(chmod(packs, 0500), 0);
    expect(model_path, FROM_PACK, "what is there is read");
    char path[600];
    snprintf(path, sizeof path, "%s", only_pack());
    assert_int_equal(chmod(packs, 0700), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(chmod(packs, 0500), 0);
    if (geteuid() != 0) expect_not_kept("a folder that may not be written");
    assert_int_equal(chmod(packs, 0700), 0);
}

static void keep_model(const char *path)
{
    nm_model *m = open_model(path, true);
    nm_model_close(&m);
}

static void test_bound(void **state)
{
    char path[4][320], limit[32];
    uint64_t bytes;
    size_t count;
    nm_packs_entry *list;
    for (int i = 0; i < 4; i++) {
        snprintf(path[i], sizeof path[i], "%s/%d.gguf", root, i);
        save_model(path[i], (uint64_t)i, NM_Q4_0);
    }
    setenv("NOMOAT_PACK_LIMIT", "0", 1);
    keep_model(path[0]);
    assert_int_equal(entries(""), 0);
    unsetenv("NOMOAT_PACK_LIMIT");
    keep_model(path[0]);
    assert_int_equal(nm_packs_list(&list, &count), NM_OK);
    assert_int_equal(count, 1);
    snprintf(limit, sizeof limit, "%.4fK", (double)list[0].bytes * 2.5 / 1000);
    nm_packs_list_free(list, count);
    setenv("NOMOAT_PACK_LIMIT", limit, 1);
    assert_int_equal(nm_packs_limit(&bytes), NM_OK);
    keep_model(path[1]);
    assert_int_equal(entries(".pack"), 2);
    usleep(20000);
    expect(path[0], FROM_PACK, "used, so that the other is older");
    keep_model(path[2]);
    assert_int_equal(entries(".pack"), 2);
    expect(path[0], FROM_PACK, "used lately");
    expect(path[2], FROM_PACK, "new");
    expect(path[1], FROM_MEMORY, "unused longest");
    assert_int_equal(nm_packs_clear(&count, &bytes), NM_OK);
    assert_int_equal(count, 2);
    assert_int_equal(entries(""), 0);
}

static void test_limit(void **state)
{
    static const struct { const char *text; uint64_t bytes; } good[] = {{"0", 0}, {"123", 123}, {"2K", 2000}, {"1.5M", 1500000}, {"20G", 20000000000}, {"1t", 1000000000000}};
    static const char *const bad[] = {"x", "-1", "1X", "1GG", "1e400", "nan", "inf"};
    uint64_t bytes;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        setenv("NOMOAT_PACK_LIMIT", good[i].text, 1);
        assert_int_equal(nm_packs_limit(&bytes), NM_OK);
        assert_true(bytes == good[i].bytes);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        setenv("NOMOAT_PACK_LIMIT", bad[i], 1);
        if (nm_packs_limit(&bytes) != NM_USAGE) fail_msg("%s is a limit of %llu", bad[i], (unsigned long long)bytes);
    }
    unsetenv("NOMOAT_PACK_LIMIT");
    assert_int_equal(nm_packs_limit(&bytes), NM_OK);
    assert_true(bytes > 0);
}

/* Small pages are replaced by huge ones while others read them. Written in pieces of a page, the file has none in the first place. */
static void test_hasten(void **state)
{
    enum { BYTES = (34 << 20) + 100, PIECE = 4096 };
    nm_map map;
    uint8_t piece[PIECE];
    FILE *f = fopen(model_path, "wb");
    assert_non_null(f);
    setvbuf(f, NULL, _IONBF, 0);
    uint64_t expected = 0;
    for (int at = 0; at < BYTES; at += PIECE) {
        size_t n = BYTES - at < PIECE ? (size_t)(BYTES - at) : PIECE;
        memset(piece, at / PIECE % 251, n);
        expected += n * (size_t)(at / PIECE % 251);
        assert_int_equal(fwrite(piece, 1, n, f), n);
    }
    fclose(f);
    for (int rounds = 150; rounds > 0; rounds -= 149) {     /* closed long after, and before it begins */
        assert_int_equal(nm_map_open_huge(&map, model_path), NM_OK);
        assert_int_equal((uintptr_t)map.data % (2 << 20), 0);
        nm_map_hasten(&map);
        for (int i = 0; i < rounds; i++) {
            uint64_t sum = 0;
            for (size_t k = 0; k < BYTES; k++) sum += ((const volatile uint8_t *)map.data)[k];
            if (sum != expected) fail_msg("other bytes");
            if (NM_INSTRUMENTED) i += 20;
        }
        nm_map_close(&map);
    }
}

/* Every allocation fails in turn, with a pack and without. */
static void test_memory(void **state)
{
    save_model(model_path, 1, NM_Q4_0);
    keep_model(model_path);
    for (int warm = 0; warm < 2; warm++)
        for (int64_t n = 0;; n++) {
            nm_model *m;
            size_t count;
            uint64_t bytes;
            if (!warm) assert_int_equal(nm_packs_clear(&count, &bytes), NM_OK);
            int64_t alive = nm_mem_alive(), before = nm_mem_count();
            nm_mem_fail_after(n);
            nm_err err = nm_model_open(&m, model_path, &(nm_model_options){.keep = true});
            nm_model_close(&m);
            nm_mem_fail_after(-1);
            if (nm_mem_alive() != alive) fail_msg("allocation %d: a block is lost", (int)n);
            assert_true(err == NM_OK || err == NM_NO_MEMORY);
            if (nm_mem_count() - before <= n) break;
            if (NM_INSTRUMENTED) n += 3;
        }
    keep_model(model_path);
    expect(model_path, FROM_PACK, "afterwards");
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--open") == 0) return open_alone(argv[2]);
#define TEST(name) cmocka_unit_test_teardown(name, clean)
    const struct CMUnitTest tests[] = {TEST(test_kept), TEST(test_not_asked), TEST(test_source_changes), TEST(test_settled), TEST(test_two_models), TEST(test_cut), TEST(test_flipped),
        TEST(test_forged), TEST(test_left_behind), TEST(test_busy), TEST(test_processes), TEST(test_cancel), TEST(test_no_room), TEST(test_read_only), TEST(test_bound),
        TEST(test_limit), TEST(test_hasten), TEST(test_memory)};
    return cmocka_run_group_tests_name("pack", tests, make_root, remove_root);
}
