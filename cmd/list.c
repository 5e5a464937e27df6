/* nomoat list: the models and adapters that have a name. */
#include <string.h>

#include "commands.h"
#include "common.h"
#include "stack.h"

typedef struct settings { nm_common common; bool names; } settings;

static const nm_option options[] = {
    {"--names", NULL, "only the names, one a line", offsetof(settings, names), NM_OPTION_FLAG, 0, 0},
    {0}
};

static const char *place_name(nm_place place) { return place == NM_PLACE_STORE ? "store" : "hf-cache"; }

static nm_err print_table(const nm_found *list, size_t count)
{
    size_t width = 4;
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i].name) > width) width = strlen(list[i].name);
    NM_TRY(nm_out_printf("%-*s  %8s  %-8s  %s\n", (int)width, "NAME", "SIZE", "WHERE", "FILE"));
    for (size_t i = 0; i < count; i++) {
        char bytes[32];
        NM_TRY(nm_out_name(list[i].name));
        NM_TRY(nm_out_printf("%*s  %8s  %-8s  ", (int)(width - strlen(list[i].name)), "", nm_bytes_text(list[i].bytes, bytes),
                             place_name(list[i].place)));
        NM_TRY(nm_out_name(list[i].path));
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static nm_err json_list(nm_str *s, const nm_found *list, size_t count)
{
    NM_TRY(nm_str_puts(s, "{\"models\": ["));
    for (size_t i = 0; i < count; i++) {
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_string(s, "name", list[i].name));
        NM_TRY(nm_json_string(s, "place", place_name(list[i].place)));
        NM_TRY(nm_json_string(s, "path", list[i].path));
        NM_TRY(nm_json_whole(s, "bytes", list[i].bytes));
        NM_TRY(nm_json_whole(s, "files", (uint64_t)list[i].files));
        if (list[i].sha256[0]) NM_TRY(nm_json_string(s, "sha256", list[i].sha256));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}

static nm_err print_json(const nm_found *models, size_t n_models, const nm_found_adapter *adapters, size_t n_adapters)
{
    nm_str s = {0};
    nm_err err = json_list(&s, models, n_models);
    if (err == NM_OK) err = nm_adapters_json(&s, adapters, n_adapters);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err print_all(const nm_found *models, size_t n_models, const nm_found_adapter *adapters, size_t n_adapters)
{
    if (n_models) NM_TRY(print_table(models, n_models));
    else nm_note("no models yet: 'nomoat import FILE.gguf' adds one; 'nomoat run FILE.gguf' needs no name");
    if (n_models && n_adapters) NM_TRY(nm_out_puts("\n"));
    return n_adapters ? nm_adapters_print(adapters, n_adapters) : NM_OK;
}

/* A line a name: what completion offers behind a command. */
static nm_err print_names(const nm_found *models, size_t n_models)
{
    for (size_t i = 0; i < n_models; i++) {
        NM_TRY(nm_out_name(models[i].name));
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static int run(void *arg, int n_operands, char **operands)
{
    const settings *set = arg;
    nm_found *models;
    nm_found_adapter *adapters = NULL;
    size_t n_models, n_adapters = 0;
    (void)n_operands, (void)operands;
    NM_TRY(nm_found_list(&models, &n_models, nm_note_skipped));
    nm_err err = nm_adapter_list(&adapters, &n_adapters);
    if (err == NM_OK) {
        if (set->common.json) err = print_json(models, n_models, adapters, n_adapters);
        else if (set->names) err = print_names(models, n_models);
        else err = print_all(models, n_models, adapters, n_adapters);
    }
    nm_found_list_free(models, n_models);
    nm_found_adapters_free(adapters, n_adapters);
    return err;
}

const nm_command nm_command_list = {
    .name = "list", .operands = "", .summary = "the models and adapters that have a name",
    .details = "Shows nomoat's own store and the GGUF files in the Hugging Face cache (HF_HUB_CACHE, HF_HOME), which is only read; and the adapters "
               "in nomoat's store, with what they call their base.",
    .examples = (const nm_example[]){{"nomoat list", "a table"}, {"nomoat list --json", "for programs: name, place, path, bytes, sha256; adapters"},
                                     {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 0, .most_operands = 0, .run = run,
};
