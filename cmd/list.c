/* nomoat list: the models, adapters and personas that have a name. */
#include <string.h>

#include "commands.h"
#include "common.h"
#include "hub/personas.h"
#include "stack.h"

typedef struct settings { nm_common common; bool names; } settings;

typedef struct everything {
    nm_found *models;
    nm_found_adapter *adapters;
    nm_persona **personas;
    size_t n_models, n_adapters, n_personas;
} everything;

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

static nm_err personas_json(nm_str *s, nm_persona *const *list, size_t count)
{
    NM_TRY(nm_json_key(s, "personas"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < count; i++) {
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_string(s, "name", list[i]->name));
        NM_TRY(nm_json_string(s, "path", list[i]->path));
        NM_TRY(nm_json_string(s, "model", list[i]->file.from.text));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}

static nm_err print_json(const everything *e)
{
    nm_str s = {0};
    nm_err err = json_list(&s, e->models, e->n_models);
    if (err == NM_OK) err = nm_adapters_json(&s, e->adapters, e->n_adapters);
    if (err == NM_OK) err = personas_json(&s, e->personas, e->n_personas);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err print_personas(nm_persona *const *list, size_t count)
{
    size_t width = 7;
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i]->name) > width) width = strlen(list[i]->name);
    NM_TRY(nm_out_printf("%-*s  %s\n", (int)width, "PERSONA", "OF"));
    for (size_t i = 0; i < count; i++) {
        const nm_modelfile *file = &list[i]->file;
        NM_TRY(nm_out_name(list[i]->name));
        NM_TRY(nm_out_printf("%*s  ", (int)(width - strlen(list[i]->name)), ""));
        NM_TRY(nm_out_name(file->from.text));
        for (size_t k = 0; k < file->adapters; k++) {
            NM_TRY(nm_out_puts("+"));
            NM_TRY(nm_out_name(file->adapter[k].text));
        }
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static nm_err print_all(const everything *e)
{
    if (e->n_models) NM_TRY(print_table(e->models, e->n_models));
    else nm_note("no models yet: 'nomoat import FILE.gguf' adds one; 'nomoat run FILE.gguf' needs no name");
    if (e->n_models && e->n_adapters) NM_TRY(nm_out_puts("\n"));
    if (e->n_adapters) NM_TRY(nm_adapters_print(e->adapters, e->n_adapters));
    if (e->n_personas && (e->n_models || e->n_adapters)) NM_TRY(nm_out_puts("\n"));
    return e->n_personas ? print_personas(e->personas, e->n_personas) : NM_OK;
}

static nm_err print_name(const char *name)
{
    NM_TRY(nm_out_name(name));
    return nm_out_puts("\n");
}

/* A line a name: what completion offers behind a command. */
static nm_err print_names(const everything *e)
{
    for (size_t i = 0; i < e->n_models; i++) NM_TRY(print_name(e->models[i].name));
    for (size_t i = 0; i < e->n_personas; i++) NM_TRY(print_name(e->personas[i]->name));
    return NM_OK;
}

static int run(void *arg, int n_operands, char **operands)
{
    const settings *set = arg;
    everything e = {0};
    nm_err err = NM_OK;
    (void)n_operands, (void)operands;
    NM_GOTO(nm_found_list(&e.models, &e.n_models, nm_note_skipped));
    NM_GOTO(nm_adapter_list(&e.adapters, &e.n_adapters));
    NM_GOTO(nm_persona_list(&e.personas, &e.n_personas, nm_note_skipped));
    err = set->common.json ? print_json(&e) : set->names ? print_names(&e) : print_all(&e);
out:
    nm_found_list_free(e.models, e.n_models);
    nm_found_adapters_free(e.adapters, e.n_adapters);
    nm_persona_list_free(e.personas, e.n_personas);
    return err;
}

const nm_command nm_command_list = {
    .name = "list", .operands = "", .summary = "the models, adapters and personas that have a name",
    .details = "Shows nomoat's own store and the GGUF files in the Hugging Face cache (HF_HUB_CACHE, HF_HOME), which is only read; and the adapters "
               "in nomoat's store, with what they call their base; and the personas that 'nomoat save' made.",
    .examples = (const nm_example[]){{"nomoat list", "a table"}, {"nomoat list --json", "for programs: name, place, path, bytes, sha256; adapters, personas"},
                                     {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 0, .most_operands = 0, .run = run,
};
