/* nomoat import: gives a model or an adapter a name. */
#include "commands.h"
#include "common.h"

typedef struct settings { nm_common common; const char *name; bool copy, force; } settings;

static const nm_option options[] = {
    {"--name", "NAME", "what to call it; otherwise after the file", offsetof(settings, name), NM_OPTION_TEXT, 0, 0},
    {"--copy", NULL, "copy the bytes, even where a link would do", offsetof(settings, copy), NM_OPTION_FLAG, 0, 0},
    {"--force", NULL, "take the place of what has that name", offsetof(settings, force), NM_OPTION_FLAG, 0, 0},
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

static nm_err print_json(const char *name, const char *path, uint64_t bytes, nm_stored_as as, const char *sha256, const char *base)
{
    static const char *const how[] = {"clone", "link", "copy"};
    nm_str s = {0};
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_string(&s, "name", name);
    if (err == NM_OK) err = nm_json_string(&s, "path", path);
    if (err == NM_OK) err = nm_json_whole(&s, "bytes", bytes);
    if (err == NM_OK) err = nm_json_string(&s, "stored", how[as]);
    if (err == NM_OK && sha256 && *sha256) err = nm_json_string(&s, "sha256", sha256);
    if (err == NM_OK && base) err = nm_json_string(&s, "base", base);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err print_text(const char *name, uint64_t bytes, nm_stored_as as, const char *base)
{
    static const char *const words[] = {"cloned, takes no space", "linked, takes no space", "copied"};
    char text[32];
    NM_TRY(nm_out_printf("%s: %s%s, %s", name, base ? "adapter, " : "", nm_bytes_text(bytes, text), words[as]));
    if (base && *base) {
        NM_TRY(nm_out_puts("; made for "));
        NM_TRY(nm_out_name(base));
    }
    return nm_out_puts("\n");
}

static nm_err import_model(const settings *set, const char *path, const nm_import_options *how, nm_meter *meter)
{
    nm_found f;
    nm_stored_as as;
    NM_TRY(check(path));
    nm_err err = nm_store_import(&f, &as, path, set->name, how);
    nm_meter_clear(meter);
    NM_TRY(err);
    err = set->common.json ? print_json(f.name, f.path, f.bytes, as, f.sha256, NULL) : print_text(f.name, f.bytes, as, NULL);
    nm_found_free(&f);
    return err;
}

/* Whole and plain LoRA: what no model could use is not worth a name. Whether it fits one shows when it is put on it. */
static nm_err import_adapter(const settings *set, const char *path, const nm_import_options *how, nm_meter *meter)
{
    nm_found_adapter f;
    nm_adapter_facts facts;
    nm_stored_as as;
    NM_TRY(nm_adapter_inspect(&facts, path));
    nm_err err = nm_adapter_import(&f, &as, path, set->name, how);
    nm_meter_clear(meter);
    NM_TRY(err);
    err = set->common.json ? print_json(f.name, f.path, f.bytes, as, NULL, f.base) : print_text(f.name, f.bytes, as, f.base);
    nm_found_adapter_free(&f);
    return err;
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_meter meter = {.what = "importing"};
    nm_import_options how = {.copy = set->copy, .replace = set->force, .progress = nm_meter_draw, .progress_arg = &meter,
                            .wait = nm_store_busy};
    (void)count;
    nm_interrupts_catch();
    return nm_adapter_is(operands[0]) ? import_adapter(set, operands[0], &how, &meter) : import_model(set, operands[0], &how, &meter);
}

const nm_command nm_command_import = {
    .name = "import", .operands = "FILE|FOLDER", .summary = "give a model or an adapter a name",
    .details = "Takes a GGUF file (with all parts of a split), or the only one in a folder, into nomoat's store below XDG_DATA_HOME, with "
               "its SHA-256. Where the file "
               "system can, it is cloned or hard-linked and takes no space; otherwise copied. The model appears whole or not at all.\n\n"
               "An adapter, which is a PEFT folder (adapter_config.json, adapter_model.safetensors), its weights file, or a GGUF LoRA file, goes into the store of "
               "adapters: MODEL+NAME puts it on a model.",
    .examples = (const nm_example[]){{"nomoat import ~/Downloads/SmolLM2-135M-Instruct.Q4_1.gguf --name tiny",
                                      "now 'nomoat run tiny' works"},
                                     {"nomoat import ~/Downloads/pirate-lora --name pirate", "now 'nomoat run tiny+pirate' works"},
                                     {"nomoat import model-00001-of-00003.gguf", "a split model, by its first part"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
