/* nomoat doctor: what the machine offers, what is in use, whether the store is sound, and what the cache holds. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "common.h"
#include "format/packs.h"
#include "os/file.h"
#include "os/machine.h"
#include "nm_config.h"

typedef struct settings { nm_common common; bool verify, clear; } settings;

static const nm_option options[] = {
    {"--verify", NULL, "hash every file of the store and every kept pack, and compare", offsetof(settings, verify), NM_OPTION_FLAG, 0, 0},
    {"--clear-packs", NULL, "remove all packed weights that are kept", offsetof(settings, clear), NM_OPTION_FLAG, 0, 0},
    {0}
};

typedef struct facts {
    char *store;
    nm_found *list;
    size_t count, stored;
    uint64_t bytes;
    char *folder;           /* of packs */
    nm_packs_entry *pack;
    size_t packs;
    uint64_t pack_bytes, pack_limit;
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
    NM_TRY(nm_packs_folder(&f->folder));
    NM_TRY(nm_packs_list(&f->pack, &f->packs));
    for (size_t i = 0; i < f->packs; i++) f->pack_bytes += f->pack[i].bytes;
    return nm_packs_limit(&f->pack_limit);
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
    NM_TRY(nm_out_printf(": %zu models, %s; %zu more in the Hugging Face cache\n", f->stored, nm_bytes_text(f->bytes, a),
                         f->count - f->stored));
    NM_TRY(nm_out_puts("packs     "));
    NM_TRY(nm_out_name(f->folder));
    return nm_out_printf(": packed weights of %zu models, %s of at most %s\n", f->packs, nm_bytes_text(f->pack_bytes, a), nm_bytes_text(f->pack_limit, b));
}

static nm_err json_machine(nm_str *s, const facts *f)
{
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "version", nm_version()));
    NM_TRY(nm_json_string(s, "tier", nm_kernels_tier()));
    NM_TRY(nm_json_string(s, "kernels", nm_kernels_describe()));
    NM_TRY(nm_json_whole(s, "threads", (uint64_t)nm_threads()));
    NM_TRY(nm_json_whole(s, "cores", (uint64_t)nm_machine_cores()));
    NM_TRY(nm_json_whole(s, "memory_available", nm_machine_memory_available()));
    NM_TRY(nm_json_whole(s, "memory_total", nm_machine_memory_total()));
    NM_TRY(nm_json_string(s, "store", f->store));
    NM_TRY(nm_json_whole(s, "stored_models", f->stored));
    NM_TRY(nm_json_whole(s, "stored_bytes", f->bytes));
    NM_TRY(nm_json_string(s, "packs", f->folder));
    NM_TRY(nm_json_whole(s, "kept_packs", f->packs));
    NM_TRY(nm_json_whole(s, "kept_bytes", f->pack_bytes));
    return nm_json_whole(s, "kept_limit", f->pack_limit);
}

/* One line, or one object, of what was verified. */
static nm_err tell(nm_str *json, size_t *n, const char *name, const char *said)
{
    if (!json) {
        NM_TRY(nm_out_printf("%-9s ", (*n)++ ? "" : "verify"));
        NM_TRY(nm_out_name(name));
        return nm_out_printf(": %s\n", said);
    }
    NM_TRY(nm_str_puts(json, (*n)++ ? ", {" : "{"));
    NM_TRY(nm_json_string(json, "name", name));
    NM_TRY(nm_json_string(json, "result", said));
    return nm_str_putc(json, '}');
}

static nm_err verify_model(const nm_found *model, nm_str *json, size_t *n, nm_err *worst)
{
    nm_meter meter = {.what = model->name};
    nm_err err = nm_store_verify(model, nm_meter_draw, &meter);
    const char *said = err == NM_OK ? "good" : nm_error_text();
    size_t n_name = strlen(model->name);
    if (!strncmp(said, model->name, n_name) && !strncmp(said + n_name, ": ", 2)) said += n_name + 2;    /* it stands before it already */
    nm_meter_clear(&meter);
    if (err == NM_INTERRUPTED) return err;
    if (*worst == NM_OK) *worst = err;
    return tell(json, n, model->name, said);
}

/* One that is damaged is gone with this, and made again when its model is next opened. One that went meanwhile is passed over. */
static nm_err verify_pack(const nm_packs_entry *pack, nm_str *json, size_t *n, nm_err *worst)
{
    char *source, text[1024];
    nm_meter meter = {.what = "packs"};
    nm_err err = nm_packs_verify(pack->path, &source, nm_meter_draw, &meter);
    nm_meter_clear(&meter);
    snprintf(text, sizeof text, "%s%s", err == NM_OK ? "pack is good" : nm_error_text(), err == NM_BAD_FILE ? ": it is removed, and will be made again" : "");
    if (*worst == NM_OK && err != NM_NOT_FOUND && err != NM_REFUSED) *worst = err;     /* another version's is for it to judge */
    if (err != NM_INTERRUPTED && err != NM_NOT_FOUND) err = tell(json, n, source && *source ? source : pack->path, text);
    nm_free(source);
    return err == NM_NOT_FOUND ? NM_OK : err;
}

/* Checks every stored model and every pack, tells of each, and puts the gravest result into *worst. */
static nm_err verify(const facts *f, nm_str *json, nm_err *worst)
{
    size_t n = 0;
    if (json) NM_TRY(nm_json_key(json, "verified"));
    if (json) NM_TRY(nm_str_putc(json, '['));
    for (size_t i = 0; i < f->count; i++)
        if (f->list[i].place == NM_PLACE_STORE) NM_TRY(verify_model(&f->list[i], json, &n, worst));
    for (size_t i = 0; i < f->packs; i++) NM_TRY(verify_pack(&f->pack[i], json, &n, worst));
    return json ? nm_str_putc(json, ']') : NM_OK;
}

static nm_err clear_packs(void)
{
    size_t count;
    uint64_t bytes;
    char text[32];
    NM_TRY(nm_packs_clear(&count, &bytes));
    nm_note("packed weights of %zu models removed, %s", count, nm_bytes_text(bytes, text));
    return NM_OK;
}

static nm_err examine(const settings *set, const facts *f, nm_err *found)
{
    nm_str s = {0};
    nm_err err;
    if (!set->common.json) {
        NM_TRY(print_machine(f));
        return set->verify ? verify(f, NULL, found) : NM_OK;
    }
    err = json_machine(&s, f);
    if (err == NM_OK && set->verify) err = verify(f, &s, found);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    facts f = {0};
    (void)count, (void)operands;
    nm_interrupts_catch();
    nm_err err = set->clear ? clear_packs() : NM_OK, found = NM_OK;
    if (err == NM_OK) err = gather(&f);
    if (err == NM_OK) err = examine(set, &f, &found);
    nm_free(f.store);
    nm_free(f.folder);
    nm_found_list_free(f.list, f.count);
    nm_packs_list_free(f.pack, f.packs);
    if (err != NM_OK || found == NM_OK) return err;
    return found == NM_BAD_FILE ? nm_fail(found, "something is damaged: see the lines above; 'nomoat import --force' puts a stored model right") : found;
}

const nm_command nm_command_doctor = {
    .name = "doctor", .operands = "", .summary = "the machine, the kernels in use, the store",
    .details = "Shows what nomoat found and uses. --verify reads every file of the store and compares its SHA-256 with the one recorded "
               "at import, and every kept pack of weights against its sums; a difference is exit code 4, and such a pack is removed.\n\n"
               "Packed weights are kept so that a model starts in a fraction of a second. All of them together take at most half of what would be free "
               "on the disk without them, or NOMOAT_PACK_LIMIT (as 20G; 0 keeps none); those unused longest go first. Removing them costs no more than "
               "the next start's time.",
    .examples = (const nm_example[]){{"nomoat doctor", "when something is slower than it should be"},
                                     {"nomoat doctor --verify", "when something is odd"},
                                     {"nomoat doctor --clear-packs", "when the disk is full"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 0, .most_operands = 0, .run = run,
};
