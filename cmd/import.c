/* nomoat import: gives a model file a name. */
#include "commands.h"
#include "common.h"

typedef struct settings { nm_common common; const char *name; bool copy, force; } settings;

static const nm_option options[] = {
    {"--name", "NAME", "what to call it; otherwise after the file", offsetof(settings, name), NM_OPTION_TEXT, 0, 0},
    {"--copy", NULL, "copy the bytes, even where a link would do", offsetof(settings, copy), NM_OPTION_FLAG, 0, 0},
    {"--force", NULL, "take the place of a model of that name", offsetof(settings, force), NM_OPTION_FLAG, 0, 0},
    {0}
};

/* A file that cannot be opened as a model is not worth a name; nor is a download that broke off: it has its header and lacks tensors. */
static nm_err check(const char *path)
{
    char *file;
    nm_model *model = NULL;
    nm_model_options options_ = {.metadata_only = true, .whole = true};
    NM_TRY(nm_store_source(&file, path));
    nm_err err = nm_model_open(&model, file, &options_);
    nm_model_close(&model);
    nm_free(file);
    return err;
}

static nm_err print(const nm_found *f, nm_stored_as as, bool json)
{
    static const char *const how[] = {"clone", "link", "copy"};
    static const char *const words[] = {"cloned, takes no space", "linked, takes no space", "copied"};
    char bytes[32];
    nm_str s = {0};
    if (!json) return nm_out_printf("%s: %s, %s\n", f->name, nm_bytes_text(f->bytes, bytes), words[as]);
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_text(&s, "name", f->name);
    if (err == NM_OK) err = nm_json_text(&s, "path", f->path);
    if (err == NM_OK) err = nm_json_whole(&s, "bytes", f->bytes);
    if (err == NM_OK) err = nm_json_text(&s, "stored", how[as]);
    if (err == NM_OK && f->sha256[0]) err = nm_json_text(&s, "sha256", f->sha256);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_found found;
    nm_stored_as as;
    nm_meter meter = {.what = "importing"};
    nm_import_options how = {.copy = set->copy, .replace = set->force, .progress = nm_meter_draw, .progress_arg = &meter,
                            .wait = nm_store_busy};
    (void)count;
    NM_TRY(check(operands[0]));
    nm_interrupts_catch();
    nm_err err = nm_store_import(&found, &as, operands[0], set->name, &how);
    nm_meter_clear(&meter);
    NM_TRY(err);
    err = print(&found, as, set->common.json);
    nm_found_free(&found);
    return err;
}

const nm_command nm_command_import = {
    .name = "import", .operands = "FILE|FOLDER", .summary = "give a model file a name",
    .details = "Takes a GGUF file (with all parts of a split), or the only one in a folder, into nomoat's store below XDG_DATA_HOME, with "
               "its SHA-256. Where the file "
               "system can, it is cloned or hard-linked and takes no space; otherwise copied. The model appears whole or not at all.",
    .examples = (const nm_example[]){{"nomoat import ~/Downloads/SmolLM2-135M-Instruct.Q4_1.gguf --name tiny",
                                      "now 'nomoat run tiny' works"},
                                     {"nomoat import model-00001-of-00003.gguf", "a split model, by its first part"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
