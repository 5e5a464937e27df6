/* nomoat list: the models that have a name. */
#include <string.h>

#include "commands.h"
#include "common.h"

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
        NM_TRY(nm_json_text(s, "name", list[i].name));
        NM_TRY(nm_json_text(s, "place", place_name(list[i].place)));
        NM_TRY(nm_json_text(s, "path", list[i].path));
        NM_TRY(nm_json_whole(s, "bytes", list[i].bytes));
        NM_TRY(nm_json_whole(s, "files", (uint64_t)list[i].files));
        if (list[i].sha256[0]) NM_TRY(nm_json_text(s, "sha256", list[i].sha256));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_puts(s, "]}");
}

static int run(void *arg, int n_operands, char **operands)
{
    const settings *set = arg;
    nm_found *list;
    size_t count;
    nm_str s = {0};
    nm_err err = NM_OK;
    (void)n_operands, (void)operands;
    NM_TRY(nm_found_list(&list, &count, nm_note_skipped));
    if (set->common.json) err = nm_json_print(&s, json_list(&s, list, count));
    else if (set->names) {
        for (size_t i = 0; err == NM_OK && i < count; i++) {
            err = nm_out_name(list[i].name);
            if (err == NM_OK) err = nm_out_puts("\n");
        }
    } else if (count) err = print_table(list, count);
    else nm_note("no models yet: 'nomoat import FILE.gguf' adds one; 'nomoat run FILE.gguf' needs no name");
    nm_found_list_free(list, count);
    return err;
}

const nm_command nm_command_list = {
    .name = "list", .operands = "", .summary = "the models that have a name",
    .details = "Shows nomoat's own store and the GGUF files in the Hugging Face cache (HF_HUB_CACHE, HF_HOME), which is only read.",
    .examples = (const nm_example[]){{"nomoat list", "a table"}, {"nomoat list --json", "for programs: name, place, path, bytes, sha256"},
                                     {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 0, .most_operands = 0, .run = run,
};
