/* nomoat show: what a model's file says of itself. */
#include <string.h>

#include "commands.h"
#include "common.h"
#include "hub/personas.h"
#include "stack.h"

typedef struct settings { nm_common common; bool tensors, metadata, tmpl; } settings;

static const nm_option options[] = {
    {"--tensors", NULL, "list the tensors", offsetof(settings, tensors), NM_OPTION_FLAG, 0, 0},
    {"--metadata", NULL, "list all metadata", offsetof(settings, metadata), NM_OPTION_FLAG, 0, 0},
    {"--template", NULL, "print the chat template", offsetof(settings, tmpl), NM_OPTION_FLAG, 0, 0},
    {0}
};

enum { ITEMS_SHOWN = 8, TEXT_SHOWN = 200 };

/* A metadata string as an allocated C string, or NULL if the key is missing or no string. */
static char *meta_text(const nm_model *m, const char *key)
{
    size_t at = nm_model_meta_find(m, key), length;
    const char *s = at == SIZE_MAX ? NULL : nm_model_meta_string(m, at, 0, &length);
    return s ? nm_strndup(s, length) : NULL;
}

/* ---- Metadata: the same walk for people and for programs --------------------------------------------------------- */

static const char *type_name(nm_meta_type t)
{
    static const char *const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    return (size_t)t < sizeof names / sizeof *names ? names[t] : "?";
}

/* A text that is cut says so: "the beginning"... (12345 bytes). */
static nm_err put_text(nm_str *s, const char *text, size_t length, size_t most)
{
    size_t shown = length < most ? length : most;
    while (shown < length && shown && ((unsigned char)text[shown] & 0xc0) == 0x80) shown--;     /* at a character's beginning */
    NM_TRY(nm_str_json(s, text, shown));
    return shown < length ? nm_str_printf(s, "... (%zu bytes)", length) : NM_OK;
}

static nm_err put_item(nm_str *s, const nm_model *m, size_t index, uint64_t item, nm_meta_type type, size_t most)
{
    size_t length;
    const char *text = nm_model_meta_string(m, index, item, &length);
    if (text) return put_text(s, text, length, most);
    int64_t whole;
    if (nm_model_meta_integer(m, index, item, &whole)) {
        if (type == NM_META_BOOL) return nm_str_puts(s, whole ? "true" : "false");
        return type == NM_META_U64 ? nm_str_printf(s, "%llu", (unsigned long long)whole) : nm_str_printf(s, "%lld", (long long)whole);
    }
    double v = nm_model_meta_number(m, index, item);
    return type == NM_META_F32 ? nm_json_single(s, v) : nm_json_double(s, v);
}

/* A value as JSON; an array's first `items` elements, a text's first `bytes` bytes. */
static nm_err put_value(nm_str *s, const nm_model *m, size_t index, uint64_t items, size_t bytes)
{
    nm_meta meta = nm_model_meta(m, index);
    if (meta.type != NM_META_ARRAY) return put_item(s, m, index, 0, meta.type, bytes);
    NM_TRY(nm_str_putc(s, '['));
    for (uint64_t i = 0; i < meta.count && i < items; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(put_item(s, m, index, i, meta.item, bytes));
    }
    return nm_str_puts(s, meta.count > items ? ", ...]" : "]");
}

static nm_err print_metadata(const nm_model *m)
{
    for (size_t i = 0; i < nm_model_meta_count(m); i++) {
        nm_meta meta = nm_model_meta(m, i);
        nm_str s = {0};
        NM_TRY(nm_out_name(meta.key));
        if (meta.type == NM_META_ARRAY) NM_TRY(nm_out_printf(" (%s x %llu) = ", type_name(meta.item), (unsigned long long)meta.count));
        else NM_TRY(nm_out_printf(" (%s) = ", type_name(meta.type)));
        nm_err err = put_value(&s, m, i, ITEMS_SHOWN, TEXT_SHOWN);
        if (err == NM_OK) err = nm_out_name(s.data);        /* JSON's escapes leave characters that turn the order of the line round */
        nm_str_free(&s);
        NM_TRY(err);
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static nm_err json_metadata(nm_str *s, const nm_model *m)
{
    NM_TRY(nm_json_key(s, "metadata"));
    NM_TRY(nm_str_putc(s, '{'));
    for (size_t i = 0; i < nm_model_meta_count(m); i++) {
        NM_TRY(nm_json_key(s, nm_model_meta(m, i).key));
        NM_TRY(put_value(s, m, i, UINT64_MAX, SIZE_MAX));
    }
    return nm_str_putc(s, '}');
}

/* ---- Tensors ----------------------------------------------------------------------------------------------------- */

static nm_err print_tensors(const nm_model *m)
{
    for (size_t i = 0; i < nm_model_tensor_count(m); i++) {
        nm_tensor_info t = nm_model_tensor(m, i);
        char bytes[32];
        NM_TRY(nm_out_name(t.name));
        NM_TRY(nm_out_printf("  %s  ", t.type));
        for (int d = 0; d < t.rank; d++) NM_TRY(nm_out_printf("%s%lld", d ? " x " : "", (long long)t.dim[d]));
        NM_TRY(nm_out_printf("  %s\n", nm_bytes_text(t.bytes, bytes)));
    }
    return NM_OK;
}

static nm_err json_tensors(nm_str *s, const nm_model *m)
{
    NM_TRY(nm_json_key(s, "tensors"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < nm_model_tensor_count(m); i++) {
        nm_tensor_info t = nm_model_tensor(m, i);
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_string(s, "name", t.name));
        NM_TRY(nm_json_string(s, "type", t.type));
        NM_TRY(nm_json_key(s, "shape"));
        for (int d = 0; d < t.rank; d++) NM_TRY(nm_str_printf(s, "%s%lld", d ? ", " : "[", (long long)t.dim[d]));
        NM_TRY(nm_str_puts(s, t.rank ? "]" : "[]"));
        NM_TRY(nm_json_whole(s, "offset", t.offset));
        NM_TRY(nm_json_whole(s, "bytes", t.bytes));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}

/* ---- The overview ------------------------------------------------------------------------------------------------ */

static nm_err print_pair(const char *what, const char *text)
{
    if (!text) return NM_OK;
    NM_TRY(nm_out_printf("%-14s", what));
    NM_TRY(nm_out_name(text));
    return nm_out_puts("\n");
}

static nm_err print_number(const char *what, long long v) { return v > 0 ? nm_out_printf("%-14s%lld\n", what, v) : NM_OK; }

static nm_err print_sampling(const nm_model *m)
{
    nm_sampling s = nm_sampling_defaults(m);
    return nm_out_printf("%-14stemperature %g, top-k %d, top-p %g, min-p %g, repeat penalty %g\n", "sampling", (double)s.temperature,
                         s.top_k, (double)s.top_p,
                         (double)s.min_p, (double)s.repeat_penalty);
}

/* How prompts are rendered: by the format that adapters were taught in, or by the model's template. */
static nm_err print_chat(const nm_model *m, const char *format)
{
    if (*format) return nm_out_printf("chat template the format '%s', which the adapter was taught in\n", format);
    return print_pair("chat template", nm_model_template(m, NULL) ? "yes" : "none: run continues text");
}

static nm_err print_overview(const nm_model *m, const nm_found *found, const char *format)
{
    const nm_model_info *i = nm_model_describe(m);
    char bytes[32], *license = meta_text(m, "general.license");
    char *tokenizer = meta_text(m, "tokenizer.ggml.model"), *pre = meta_text(m, "tokenizer.ggml.pre");
    nm_err err = NM_OK;
    NM_GOTO(print_pair("name", i->name));
    NM_GOTO(print_pair("file", found->path));
    NM_GOTO(print_pair("architecture", i->architecture));
    NM_GOTO(nm_out_printf("%-14s%.1f million\n", "parameters", (double)i->n_parameters / 1e6));
    NM_GOTO(nm_out_printf("%-14s%s, mostly %s\n", "size", nm_bytes_text(i->file_bytes, bytes), i->file_type));
    NM_GOTO(print_number("layers", i->n_layer));
    NM_GOTO(print_number("width", i->n_embd));
    NM_GOTO(nm_out_printf("%-14s%d, %d for keys and values\n", "heads", i->n_head, i->n_head_kv));
    NM_GOTO(print_number("vocabulary", i->n_vocab));
    NM_GOTO(print_number("context", i->n_context));
    NM_GOTO(print_pair("tokenizer", tokenizer));
    NM_GOTO(print_pair("pre-tokenizer", pre));
    NM_GOTO(print_chat(m, format));
    NM_GOTO(print_sampling(m));
    NM_GOTO(print_pair("license", license));
    if (found->sha256[0]) NM_GOTO(print_pair("SHA-256", found->sha256));
    err = nm_model_tensor_count(m) ? NM_OK : print_pair("weights", "none: a vocabulary only");
out:
    nm_free(license);
    nm_free(tokenizer);
    nm_free(pre);
    return err;
}

static const char *template_of(const nm_model *m, const char *format) { return *format ? nm_format_template(format) : nm_model_template(m, NULL); }

static nm_err json_overview(nm_str *s, const nm_model *m, const nm_found *found, const char *format)
{
    const nm_model_info *i = nm_model_describe(m);
    const struct { const char *key; int64_t value; } numbers[] = {
        {"parameters", (int64_t)i->n_parameters}, {"file_bytes",
                                                   (int64_t)i->file_bytes}, {"layers", i->n_layer}, {"embedding_length", i->n_embd},
        {"heads", i->n_head}, {"kv_heads", i->n_head_kv}, {"vocabulary", i->n_vocab}, {"context_length", i->n_context},
        {"tensor_count", (int64_t)nm_model_tensor_count(m)},
    };
    nm_sampling d = nm_sampling_defaults(m);
    NM_TRY(nm_json_string(s, "name", i->name));
    NM_TRY(nm_json_string(s, "file", found->path));
    NM_TRY(nm_json_string(s, "architecture", i->architecture));
    NM_TRY(nm_json_string(s, "file_type", i->file_type));
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
        NM_TRY(nm_json_key(s, numbers[k].key));
        NM_TRY(nm_str_printf(s, "%lld", (long long)numbers[k].value));
    }
    if (found->sha256[0]) NM_TRY(nm_json_string(s, "sha256", found->sha256));
    NM_TRY(nm_json_key(s, "sampling"));
    NM_TRY(nm_str_printf(s, "{\"temperature\": %g, \"top_k\": %d, \"top_p\": %g, \"min_p\": %g, \"repeat_penalty\": %g}",
                         (double)d.temperature, d.top_k,
                         (double)d.top_p, (double)d.min_p, (double)d.repeat_penalty));
    if (*format) NM_TRY(nm_json_string(s, "format", format));
    NM_TRY(nm_json_key(s, "template"));
    const char *t = template_of(m, format);
    return t ? nm_str_json(s, t, strlen(t)) : nm_str_puts(s, "null");
}

static nm_err print_json(const nm_model *m, const nm_found *found, const char *format, const settings *set)
{
    nm_str s = {0};
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = json_overview(&s, m, found, format);
    if (err == NM_OK && set->metadata) err = json_metadata(&s, m);
    if (err == NM_OK && set->tensors) err = json_tensors(&s, m);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err print_template(const nm_model *m, const char *format)
{
    const char *t = template_of(m, format);
    if (!t) return nm_fail(NM_NOT_FOUND, "%s: the model has no chat template", nm_model_describe(m)->name);
    NM_TRY(nm_out_text(t, strlen(t)));
    NM_TRY(nm_out_text_end());
    return nm_term_is(1) ? nm_out_puts("\n") : NM_OK;
}

/* The persona of that name, unless a model has it; its own model may be missing. */
static nm_err find_persona(nm_persona **out, const char *name)
{
    nm_found model;
    nm_err err = nm_model_find(&model, name);
    *out = NULL;
    nm_found_free(&model);
    return err == NM_NOT_FOUND ? nm_persona_find(out, name) : NM_OK;
}

static nm_err print_persona(const nm_persona *p, bool json)
{
    nm_str s = {0};
    nm_err err = NM_OK;
    if (json) {
        NM_GOTO(nm_str_putc(&s, '{'));
        NM_GOTO(nm_json_string(&s, "name", p->name));
        NM_GOTO(nm_json_string(&s, "path", p->path));
        NM_GOTO(nm_json_string(&s, "model", p->file.from.text));
        NM_GOTO(nm_json_string(&s, "modelfile", p->text));
        NM_GOTO(nm_str_putc(&s, '}'));
    } else {
        NM_GOTO(nm_out_text(p->text, p->length));
        NM_GOTO(nm_out_text_end());
    }
out:
    return json ? nm_json_print(&s, err) : err;
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_model *model = NULL;
    nm_found_stack found;
    char format[16];
    (void)count;
    nm_persona *persona = NULL;
    if (!set->tmpl && !set->tensors && !set->metadata) NM_TRY(find_persona(&persona, operands[0]));
    if (persona) {
        nm_err printed = print_persona(persona, set->common.json);
        nm_persona_free(persona);
        return printed;
    }
    NM_TRY(nm_find_stack(&found, operands[0], false));
    nm_err err = nm_found_format(&found, format);
    if (err == NM_OK) err = nm_open_found(&model, &found.model, &set->common, true);
    if (err != NM_OK) {
        nm_found_stack_free(&found);
        return err;
    }
    if (set->common.json) err = print_json(model, &found.model, format, set);
    else if (set->tmpl) err = print_template(model, format);
    else if (!set->tensors && !set->metadata) err = print_overview(model, &found.model, format);
    if (err == NM_OK && !set->common.json && set->metadata) err = print_metadata(model);
    if (err == NM_OK && !set->common.json && set->tensors) err = print_tensors(model);
    nm_found_stack_free(&found);
    nm_model_close(&model);
    return err;
}

const nm_command nm_command_show = {
    .name = "show", .operands = "MODEL{+ADAPTER}", .summary = "what a model is: shape, size, settings, template",
    .details = "Reads metadata only: a file of any size answers at once. Of a persona it prints the Modelfile; with --template, "
               "--tensors or --metadata it looks at its model. With --json everything in one object, to which --metadata and "
               "--tensors add.",
    .examples = (const nm_example[]){{"nomoat show tiny", "the overview"},
                                     {"nomoat show tiny --tensors", "every tensor with type and shape"},
                                     {"nomoat show tiny --json --metadata | jq .metadata", "the whole metadata, for programs"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
