/* A model with what is stacked on it. */
#include "stack.h"

#include <stdio.h>
#include <string.h>

#include "common.h"

/* ---- Names ------------------------------------------------------------------------------------------------------------ */

static nm_err push_options(nm_found_stack *found, const nm_stack_options *o)
{
    for (size_t i = 0; i < o->lora.count; i++) NM_TRY(nm_found_stack_push(found, o->lora.items[i], false));
    for (size_t i = 0; i < o->lora_scaled.count; i++) {
        const char *text = o->lora_scaled.items[i];
        if (!strchr(text, ':') && !strchr(text, '=')) return nm_fail(NM_USAGE, "--lora-scaled %s: the scale is missing: give %s:0.8", text, text);
        NM_TRY(nm_found_stack_push(found, text, true));
    }
    return NM_OK;
}

nm_err nm_stack_names(nm_found_stack *out, const char *text, const nm_stack_options *options)
{
    NM_TRY(nm_find_stack(out, text, options && options->ranges));
    nm_err err = options ? push_options(out, options) : NM_OK;
    if (err != NM_OK) nm_found_stack_free(out);
    return err;
}

nm_err nm_check_adapter_name(const char *name)
{
    if (nm_adapter_may_be_called(name)) return NM_OK;
    return nm_fail(NM_USAGE, "-o '%s': a name in the store has up to %d letters, digits and . _ -, begins with a letter or digit and does not end in .gguf; a path has a slash: "
        "./FOLDER", name, NM_ADAPTER_NAME_LONGEST);
}

/* ---- Opening ---------------------------------------------------------------------------------------------------------- */

static void note_match(const char *name, const nm_adapter_info *info, const char *type)
{
    switch (info->match) {
    case NM_MATCH_SAME: break;
    case NM_MATCH_REQUANTISED:
        nm_note("%s: made for the same weights as %s, here %s (they correlate by %.4f)", name, *info->base_type ? info->base_type : "another type", type,
                info->correlation);
        break;
    case NM_MATCH_UNVERIFIED: nm_note("%s: it does not tell its base's weights: unverified, only shapes were compared", name); break;
    case NM_MATCH_FORCED: nm_note("%s: made for other weights or another tokenizer, and used all the same (--force)", name); break;
    }
}

/* The open adapter of this path; opened now if it was not. */
static nm_err need_adapter(nm_stacked *s, const nm_found_adapter *f, bool force, nm_adapter **out)
{
    for (size_t i = 0; i < s->adapters; i++)
        if (!strcmp(nm_adapter_describe(s->adapter[i])->path, f->path)) {
            *out = s->adapter[i];
            return NM_OK;
        }
    NM_TRY(NM_GROW(s->adapter, s->capacity, s->adapters + 1));
    NM_TRY(nm_adapter_open(out, s->model, f->path, force));
    s->adapter[s->adapters++] = *out;
    note_match(f->name, nm_adapter_describe(*out), nm_model_describe(s->model)->file_type);
    return NM_OK;
}

static nm_err fill_adapters(nm_stacked *s, const nm_found_stack *found, bool force, const nm_adapter **adapters, float *scales)
{
    for (size_t i = 0; i < found->count; i++) {
        nm_adapter *a;
        NM_TRY(need_adapter(s, &found->adapter[i], force, &a));
        adapters[i] = a;
        scales[i] = found->adapter[i].scale;
    }
    return NM_OK;
}

nm_err nm_stacked_adapters(nm_stacked *s, const nm_adapter **adapters, float *scales) { return fill_adapters(s, &s->found, true, adapters, scales); }

static nm_err open_stack(nm_stacked *s, const nm_found_stack *found, bool force, nm_stack **out)
{
    const nm_adapter **adapters = nm_calloc(found->count, sizeof(*adapters));
    float *scales = nm_calloc(found->count, sizeof *scales);
    nm_err err = adapters && scales ? NM_OK : nm_fail_memory(found->count * sizeof *adapters);
    *out = NULL;
    if (err == NM_OK) err = fill_adapters(s, found, force, adapters, scales);
    if (err == NM_OK && found->count) err = nm_stack_open(out, s->model, adapters, scales, found->count);
    nm_free(adapters);
    nm_free(scales);
    return err;
}

nm_err nm_stacked_open(nm_stacked *s, const char *text, const nm_common *common, const nm_stack_options *options)
{
    *s = (nm_stacked){0};
    NM_TRY(nm_stack_names(&s->found, text, options));
    nm_err err = nm_open_found(&s->model, &s->found.model, common, false);
    if (err == NM_OK) err = open_stack(s, &s->found, options && options->force, &s->stack);
    if (err != NM_OK) nm_stacked_close(s);
    return err;
}

void nm_stacked_close(nm_stacked *s)
{
    nm_stack_close(&s->stack);
    for (size_t i = 0; i < s->adapters; i++) nm_adapter_close(&s->adapter[i]);
    nm_free(s->adapter);
    if (s->model) nm_out_flush();       /* closing may wait for the disk (nm_model_options.keep), what was asked for need not */
    nm_model_close(&s->model);
    nm_found_stack_free(&s->found);
    *s = (nm_stacked){0};
}

/* ---- Formats ---------------------------------------------------------------------------------------------------------- */

/* Takes the next adapter's format into account. */
static nm_err merge_format(char format[16], const nm_found_adapter *f, const char *own)
{
    if (!*own || f->scale == 0) return NM_OK;
    if (!nm_format_template(own)) return nm_fail(NM_REFUSED, "%s: taught in the prompt format '%s', which this version does not know: give --template, or --raw", f->name, own);
    if (*format && strcmp(format, own)) nm_note("the adapters were taught in different formats, %s and %s: prompts are in that of the last, %s", format, own, f->name);
    snprintf(format, 16, "%s", own);
    return NM_OK;
}

nm_err nm_stacked_format(nm_stacked *s, char format[16])
{
    size_t n = s->found.count;
    const nm_adapter **adapters = nm_calloc(n, sizeof(*adapters));
    float *scales = nm_calloc(n, sizeof *scales);
    nm_err err = adapters && scales ? nm_stacked_adapters(s, adapters, scales) : nm_fail_memory(n * sizeof *adapters);
    *format = 0;
    for (size_t i = 0; err == NM_OK && i < n; i++) err = merge_format(format, &s->found.adapter[i], nm_adapter_describe(adapters[i])->prompt_format);
    nm_free(adapters);
    nm_free(scales);
    return err;
}

nm_err nm_found_format(const nm_found_stack *found, char format[16])
{
    *format = 0;
    for (size_t i = 0; i < found->count; i++) {
        nm_adapter_facts facts;
        NM_TRY(nm_adapter_inspect(&facts, found->adapter[i].path));
        NM_TRY(merge_format(format, &found->adapter[i], facts.prompt_format));
    }
    return NM_OK;
}

/* ---- Changing --------------------------------------------------------------------------------------------------------- */

nm_err nm_stacked_prepare(nm_prepared *out, nm_stacked *s, const char *adapters, bool force)
{
    *out = (nm_prepared){0};
    nm_err err = *adapters ? nm_found_stack_add(&out->found, adapters) : NM_OK;
    if (err == NM_OK) err = open_stack(s, &out->found, force, &out->stack);
    if (err != NM_OK) nm_prepared_free(out);
    return err;
}

/* The model's own name, and the persona that it was called by, stay where they are. */
void nm_stacked_exchange(nm_stacked *s, nm_prepared *p)
{
    nm_found model = s->found.model, none = p->found.model;
    struct nm_persona *persona = s->found.persona;
    nm_prepared old = {.found = s->found, .stack = s->stack};
    s->found = p->found;
    s->stack = p->stack;
    *p = old;
    s->found.model = model;
    s->found.persona = persona;
    p->found.model = none;
    p->found.persona = NULL;
}

void nm_prepared_free(nm_prepared *p)
{
    nm_stack_close(&p->stack);
    nm_found_stack_free(&p->found);
}

/* ---- Showing ---------------------------------------------------------------------------------------------------------- */

nm_err nm_adapters_print(const nm_found_adapter *list, size_t count)
{
    size_t width = 7;
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i].name) > width) width = strlen(list[i].name);
    NM_TRY(nm_out_printf("%-*s  %8s  %s\n", (int)width, "ADAPTER", "SIZE", "BASE"));
    for (size_t i = 0; i < count; i++) {
        char bytes[32];
        NM_TRY(nm_out_name(list[i].name));
        NM_TRY(nm_out_printf("%*s  %8s  ", (int)(width - strlen(list[i].name)), "", nm_bytes_text(list[i].bytes, bytes)));
        NM_TRY(nm_out_name(*list[i].base ? list[i].base : "(not told)"));
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

nm_err nm_adapters_json(nm_str *s, const nm_found_adapter *list, size_t count)
{
    NM_TRY(nm_json_key(s, "adapters"));
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < count; i++) {
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_string(s, "name", list[i].name));
        NM_TRY(nm_json_string(s, "path", list[i].path));
        NM_TRY(nm_json_string(s, "base", list[i].base));
        NM_TRY(nm_json_whole(s, "bytes", list[i].bytes));
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_putc(s, ']');
}
