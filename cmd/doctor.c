/* nomoat doctor: what the machine offers, what is in use, and whether the store is sound. */
#include <string.h>

#include "commands.h"
#include "common.h"
#include "os/file.h"
#include "os/machine.h"
#include "nm_config.h"

typedef struct settings { nm_common common; bool verify; } settings;

static const nm_option options[] = {
    {"--verify", NULL, "hash every file of the store and compare", offsetof(settings, verify), NM_OPTION_FLAG, 0, 0},
    {0}
};

typedef struct facts {
    char *store;
    nm_found *list;
    size_t count, stored;
    uint64_t bytes;
} facts;

static nm_err gather(facts *f)
{
    *f = (facts){0};
    NM_TRY(nm_store_folder(&f->store));
    NM_TRY(nm_found_list(&f->list, &f->count, nm_note_skipped));
    for (size_t i = 0; i < f->count; i++) {
        if (f->list[i].place != NM_PLACE_STORE) continue;
        f->stored++;
        f->bytes += f->list[i].bytes;
    }
    return NM_OK;
}

static nm_err print_machine(const facts *f)
{
    char a[32], b[32];
    NM_TRY(nm_out_printf("nomoat    %s%s%s\n", nm_version(), NM_HAVE_OPENSSL ? "" : ", without SHA-256",
                         NM_HAVE_LIBEDIT ? "" : ", without line editing"));
    NM_TRY(nm_out_printf("kernels   %s\n", nm_kernels_describe()));
    NM_TRY(nm_out_printf("threads   %d (physical cores granted: %d)\n", nm_threads(), nm_machine_cores()));
    NM_TRY(nm_out_printf("memory    %s available of %s\n", nm_bytes_text(nm_machine_memory_available(), a),
                         nm_bytes_text(nm_machine_memory_total(), b)));
    NM_TRY(nm_out_puts("store     "));
    NM_TRY(nm_out_name(f->store));
    return nm_out_printf(": %zu models, %s; %zu more in the Hugging Face cache\n", f->stored, nm_bytes_text(f->bytes, a),
                         f->count - f->stored);
}

static nm_err json_machine(nm_str *s, const facts *f)
{
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_text(s, "version", nm_version()));
    NM_TRY(nm_json_text(s, "tier", nm_kernels_tier()));
    NM_TRY(nm_json_text(s, "kernels", nm_kernels_describe()));
    NM_TRY(nm_json_whole(s, "threads", (uint64_t)nm_threads()));
    NM_TRY(nm_json_whole(s, "cores", (uint64_t)nm_machine_cores()));
    NM_TRY(nm_json_whole(s, "memory_available", nm_machine_memory_available()));
    NM_TRY(nm_json_whole(s, "memory_total", nm_machine_memory_total()));
    NM_TRY(nm_json_text(s, "store", f->store));
    NM_TRY(nm_json_whole(s, "stored_models", f->stored));
    return nm_json_whole(s, "stored_bytes", f->bytes);
}

/* Checks every stored model, tells of each, and returns the gravest result. */
static nm_err verify(const facts *f, nm_str *json)
{
    nm_err worst = NM_OK;
    size_t n = 0;
    if (json) NM_TRY(nm_json_key(json, "verified"));
    if (json) NM_TRY(nm_str_putc(json, '['));
    for (size_t i = 0; i < f->count; i++) {
        if (f->list[i].place != NM_PLACE_STORE) continue;
        nm_meter meter = {.what = f->list[i].name};
        nm_err err = nm_store_verify(&f->list[i], nm_meter_draw, &meter);
        const char *said = err == NM_OK ? "good" : nm_error_text();
        size_t n_name = strlen(f->list[i].name);
        if (!strncmp(said, f->list[i].name, n_name) && !strncmp(said + n_name, ": ", 2)) said += n_name + 2;    /* it stands before it already */
        nm_meter_clear(&meter);
        if (err == NM_INTERRUPTED) return err;
        if (worst == NM_OK) worst = err;
        if (!json) {
            NM_TRY(nm_out_printf("%-9s ", n++ ? "" : "verify"));
            NM_TRY(nm_out_name(f->list[i].name));
            NM_TRY(nm_out_printf(": %s\n", said));
            continue;
        }
        NM_TRY(nm_str_puts(json, n++ ? ", {" : "{"));
        NM_TRY(nm_json_text(json, "name", f->list[i].name));
        NM_TRY(nm_json_text(json, "result", said));
        NM_TRY(nm_str_putc(json, '}'));
    }
    if (json) NM_TRY(nm_str_putc(json, ']'));
    return worst;
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    facts f;
    nm_str s = {0};
    (void)count, (void)operands;
    nm_interrupts_catch();
    nm_err err = gather(&f), found = NM_OK;
    if (err == NM_OK && set->common.json) {
        err = json_machine(&s, &f);
        if (err == NM_OK && set->verify) found = verify(&f, &s);
        if (err == NM_OK) err = nm_str_putc(&s, '}');
        err = nm_json_print(&s, found == NM_INTERRUPTED ? found : err);
    } else if (err == NM_OK) {
        err = print_machine(&f);
        if (err == NM_OK && set->verify) found = verify(&f, NULL);
    }
    nm_free(f.store);
    nm_found_list_free(f.list, f.count);
    if (err != NM_OK || found == NM_OK) return err;
    return found == NM_BAD_FILE ? nm_fail(found, "the store is damaged: see the lines above; 'nomoat import --force' puts a model "
                                                 "right") : found;
}

const nm_command nm_command_doctor = {
    .name = "doctor", .operands = "", .summary = "the machine, the kernels in use, the store",
    .details = "Shows what nomoat found and uses. --verify reads every file of the store and compares its SHA-256 with the one recorded "
               "at import; a difference is exit code 4.",
    .examples = (const nm_example[]){{"nomoat doctor", "when something is slower than it should be"},
                                     {"nomoat doctor --verify", "when something is odd"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 0, .most_operands = 0, .run = run,
};
