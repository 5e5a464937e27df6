/* Bringing adapters into their store, DATA/adapters/NAME/, and taking them away. */
#include "hub/hub.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "base/err.h"
#include "base/mem.h"
#include "format/gguf.h"
#include "os/file.h"

static const char config_name[] = "adapter_config.json", weights_name[] = "adapter_model.safetensors";

/* ---- What a path is -------------------------------------------------------------------------------------------------- */

static bool ends_in(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && !strcasecmp(text + n - m, suffix);
}

/* The folder a file lies in: "." for a bare name. */
static nm_err folder_of(char **folder, const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? nm_format(folder, "%.*s", slash == file ? 1 : (int)(slash - file), file) : nm_format(folder, ".");
}

/* The PEFT folder that a path means; NULL if it means none. */
static nm_err peft_folder(char **folder, const char *path)
{
    struct stat st;
    char *config;
    *folder = NULL;
    if (stat(path, &st)) return NM_OK;
    if (S_ISDIR(st.st_mode)) NM_TRY(nm_format(folder, "%s", path));
    else if (ends_in(path, ".safetensors")) NM_TRY(folder_of(folder, path));
    else return NM_OK;
    nm_err err = nm_format(&config, "%s/%s", *folder, config_name);
    bool found = err == NM_OK && !stat(config, &st);
    if (err == NM_OK) nm_free(config);
    if (found) return NM_OK;
    nm_free(*folder);
    *folder = NULL;
    return err;
}

static bool is_gguf(const char *path)
{
    nm_gguf *g;
    const char *text = "";
    size_t length = 0;
    struct stat st;
    if (stat(path, &st) || !S_ISREG(st.st_mode) || nm_gguf_open(&g, path, true) != NM_OK) return false;
    (void)nm_gguf_opt_string(g, "general.type", &text, &length);
    bool adapter = length == 7 && !memcmp(text, "adapter", 7);
    nm_gguf_close(&g);
    return adapter;
}

bool nm_adapter_is(const char *path)
{
    char *folder;
    if (peft_folder(&folder, path) != NM_OK) return false;
    bool peft = folder;
    nm_free(folder);
    return peft || is_gguf(path);
}

bool nm_adapter_may_be_called(const char *name)
{
    size_t n = strlen(name);
    bool good = n > 0 && n <= NM_ADAPTER_NAME_LONGEST && !ends_in(name, ".gguf") && isalnum((unsigned char)*name);
    for (size_t i = 0; good && i < n; i++) good = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
    return good;
}

/* ---- Bringing -------------------------------------------------------------------------------------------------------- */

/* Brings one file under a name of ours; what may lack is passed over. */
static nm_err bring_one(const nm_change *w, const char *from, const char *name, bool needed, nm_stored_as *as, const nm_import_options *o)
{
    struct stat st;
    uint64_t done = 0;
    char *to, *real = realpath(from, NULL);     /* a link would dangle once its own folder is gone */
    if (!real && !needed) return NM_OK;
    if (!real) return nm_fail(errno == ENOENT ? NM_NOT_FOUND : NM_FAILED, "%s: %s", from, strerror(errno));
    nm_err err = nm_format(&to, "%s/%s", w->temporary, name);
    if (err == NM_OK) {
        if (stat(real, &st) || !S_ISREG(st.st_mode)) err = nm_fail(NM_BAD_FILE, "%s: not a regular file", from);
        else err = nm_change_bring(real, to, as, &done, (uint64_t)st.st_size, o);
        nm_free(to);
    }
    free(real);
    return err;
}

/* The small files are copied: a card may be written anew by whoever owns the original. The weights' way is what is told. */
static nm_err bring_peft(const nm_change *w, const char *folder, const char *weights, nm_stored_as *as, const nm_import_options *o)
{
    static const char *const small[] = {config_name, "README.md", "nomoat.json"};
    nm_import_options copied = *o;
    copied.copy = true;
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        char *from;
        NM_TRY(nm_format(&from, "%s/%s", folder, small[i]));
        nm_err err = bring_one(w, from, small[i], i == 0, as, &copied);
        nm_free(from);
        NM_TRY(err);
    }
    return bring_one(w, weights, weights_name, true, as, o);
}

static nm_err bring_adapter(const nm_change *w, const char *path, const char *folder, const char *name, nm_stored_as *as, const nm_import_options *o)
{
    char *file;
    bool alone = folder && ends_in(path, ".safetensors");
    NM_TRY(folder ? nm_format(&file, "%s%s%s", alone ? path : folder, alone ? "" : "/", alone ? "" : weights_name) : nm_format(&file, "%s.gguf", name));
    nm_err err = folder ? bring_peft(w, folder, file, as, o) : bring_one(w, path, file, true, as, o);
    nm_free(file);
    return err == NM_OK ? nm_folder_flush(w->temporary) : err;
}

/* A name from what is given: the last part of the folder's real path, or the GGUF file's. */
static nm_err choose_name(char **out, const char *path, const char *folder, const char *name)
{
    char *real = NULL, *made = NULL;
    nm_err err = NM_OK;
    *out = NULL;
    if (!name) {
        real = realpath(folder ? folder : path, NULL);
        if (!real) NM_GOTO(nm_fail(NM_FAILED, "%s: %s", path, strerror(errno)));
        NM_GOTO(nm_name_from_file(&made, folder ? real : path));
        name = made;
    }
    if (strchr(name, ':') && !ends_in(name, ":latest")) NM_GOTO(nm_fail(NM_USAGE, "'%s' cannot be an adapter's name: behind a ':' stands its scale", name));
    err = nm_store_plain_name(out, name);
out:
    nm_free(made);
    free(real);
    return err;
}

/* NAME.gguf beside the folders is an adapter of that name, too. */
static nm_err check_free(const nm_change *w, const char *name, bool replace)
{
    char *file;
    struct stat st;
    NM_TRY(nm_change_free(w, name, "an adapter", replace));
    NM_TRY(nm_format(&file, "%s/%s.gguf", w->store, name));
    bool taken = !stat(file, &st);
    nm_free(file);
    return taken ? nm_fail(NM_REFUSED, "%s: the store has an adapter of that name, %s.gguf: 'nomoat rm %s' first, or another --name", name, name, name) : NM_OK;
}

nm_err nm_adapter_import(nm_found_adapter *out, nm_stored_as *as, const char *path, const char *name, const nm_import_options *options)
{
    static const nm_import_options none;
    const nm_import_options *o = options ? options : &none;
    char *folder = NULL, *final = NULL, *store;
    nm_change w = nm_no_change;
    nm_err err = NM_OK;
    *out = (nm_found_adapter){0};
    NM_GOTO(peft_folder(&folder, path));
    NM_GOTO(choose_name(&final, path, folder, name));
    NM_GOTO(nm_adapter_folder(&store));
    NM_GOTO(nm_change_begin(&w, store, o->wait));
    NM_GOTO(check_free(&w, final, o->replace));
    NM_GOTO(bring_adapter(&w, path, folder, final, as, o));
    NM_GOTO(nm_change_appear(&w, final, "an adapter", o->replace));
    err = nm_adapter_stored(out, final);
out:
    nm_change_end(&w);
    nm_free(folder);
    nm_free(final);
    return err;
}

/* ---- Removing -------------------------------------------------------------------------------------------------------- */

/* An adapter's path is STORE/ENTRY or STORE/ENTRY/FILE. */
static nm_err remove_found(const nm_change *w, const nm_found_adapter *a)
{
    char *entry;
    const char *at = a->path + strlen(w->store) + 1;
    NM_TRY(nm_format(&entry, "%.*s", (int)strcspn(at, "/"), at));
    nm_err err = nm_change_remove(w, entry);
    nm_free(entry);
    return err;
}

nm_err nm_adapter_remove(const char *name, nm_wait_fn wait)
{
    nm_found_adapter found = {0};
    nm_change w = nm_no_change;
    char *store;
    nm_err err = NM_OK;
    NM_GOTO(nm_adapter_folder(&store));
    NM_GOTO(nm_change_begin(&w, store, wait));
    NM_GOTO(nm_adapter_stored(&found, name));
    err = found.path ? remove_found(&w, &found) : nm_fail(NM_NOT_FOUND, "%s: the store has no adapter of that name: 'nomoat list' shows them", name);
out:
    nm_change_end(&w);
    nm_found_adapter_free(&found);
    return err;
}
