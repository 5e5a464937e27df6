/* nomoat adapter: show, list, combine, diff, export, merge; and nomoat merge, which is the last one's short name. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "commands.h"
#include "common.h"
#include "os/file.h"
#include "stack.h"

typedef struct settings {
    nm_common common;
    nm_stack_options stack;
    const char *out, *base, *type;
    int32_t rank, method;
    double density;
    nm_seed seed;
    bool gguf;
} settings;

static const nm_option options[] = {
    {"-o --out --output", "NAME|FOLDER|FILE", "where to: a name in the store, a path with a slash, or a file FILE.gguf", offsetof(settings, out), NM_OPTION_TEXT, 0, 0},
    {"--base", "MODEL", "the base, where names of the other format or a sketch of its weights are needed", offsetof(settings, base), NM_OPTION_TEXT, 0, 0},
    {"--gguf", NULL, "write a GGUF file instead of a PEFT folder", offsetof(settings, gguf), NM_OPTION_FLAG, 0, 0},
    {"-r --rank", "R", "combine: re-compress to this rank by SVD; 0 = exact, ranks add (default)", offsetof(settings, rank), NM_OPTION_INT, 0, 1 << 14},
    {"--method", "exact|linear|ties|dare", "combine: how (exact)", offsetof(settings, method), NM_OPTION_CHOICE, 0, 0},
    {"--density", "X", "combine: the part of the values that ties and dare keep (0.5)", offsetof(settings, density), NM_OPTION_REAL, 0, 1},
    {"-s --seed", "N", "combine: of dare's draws (0)", offsetof(settings, seed), NM_OPTION_SEED, 0, 0},
    {"--type", "TYPE", "merge: type of all maps, e.g. Q8_0; otherwise as they are", offsetof(settings, type), NM_OPTION_TEXT, 0, 0},
    NM_STACK_OPTIONS(settings, stack),
    {0}
};
static const settings defaults = {.density = 0.5};

/* ---- Where results go -------------------------------------------------------------------------------------------- */

static bool ends_in(const char *text, const char *suffix)
{
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && !strcmp(text + n - m, suffix);
}

static bool wants_gguf(const settings *set) { return set->gguf || (set->out && ends_in(set->out, ".gguf")); }

/* A bare name lies in the store of adapters; anything with a slash or ".gguf" is a path. */
static nm_err out_path(const settings *set, nm_str *path)
{
    char *store;
    if (!set->out || !*set->out) return nm_fail(NM_USAGE, "where to is missing: give -o NAME, -o ./FOLDER or -o FILE.gguf");
    if (strchr(set->out, '/') || ends_in(set->out, ".gguf")) return nm_str_puts(path, set->out);
    NM_TRY(nm_check_adapter_name(set->out));
    NM_TRY(nm_adapter_folder(&store));
    nm_err err = nm_folder_make(store, 0700);
    if (err == NM_OK) err = nm_str_printf(path, "%s/%s%s", store, set->out, set->gguf ? ".gguf" : "");
    nm_free(store);
    return err;
}

/* What is there is not replaced by accident. */
static nm_err new_path(const settings *set, nm_str *path)
{
    struct stat st;
    nm_str inside = {0};
    NM_TRY(out_path(set, path));
    nm_err err = nm_str_printf(&inside, "%s/adapter_model.safetensors", path->data);
    bool taken = err == NM_OK && ((!stat(path->data, &st) && !S_ISDIR(st.st_mode)) || !stat(inside.data, &st));
    nm_str_free(&inside);
    return taken && !set->stack.force ? nm_fail(NM_REFUSED, "%s: is there already: choose another name, or --force replaces it", path->data) : err;
}

/* --base with its weights, for the sketch. */
static nm_err open_base(const settings *set, nm_model **base)
{
    *base = NULL;
    return set->base ? nm_open_model(base, NULL, set->base, &set->common, false) : NM_OK;
}

static nm_err need_operands(int count, int least, int most, const char *form)
{
    return count >= least && count <= most ? NM_OK : nm_fail(NM_USAGE, "give: nomoat adapter %s", form);
}

/* ---- show, list -------------------------------------------------------------------------------------------------- */

static nm_err show_json(nm_str *s, const nm_found_adapter *f, const nm_adapter_facts *a)
{
    NM_TRY(nm_str_putc(s, '{'));
    NM_TRY(nm_json_string(s, "name", f->name));
    NM_TRY(nm_json_string(s, "path", f->path));
    NM_TRY(nm_json_string(s, "format", a->format));
    NM_TRY(nm_json_string(s, "base", a->base));
    NM_TRY(nm_json_string(s, "base_type", a->base_type));
    NM_TRY(nm_str_printf(s, ", \"sketched\": %s", a->sketched ? "true" : "false"));
    NM_TRY(nm_json_whole(s, "maps", (uint64_t)a->n_maps));
    NM_TRY(nm_json_whole(s, "min_rank", (uint64_t)a->min_rank));
    NM_TRY(nm_json_whole(s, "max_rank", (uint64_t)a->max_rank));
    NM_TRY(nm_json_key(s, "min_scale"));
    NM_TRY(nm_json_single(s, (double)a->min_scale));
    NM_TRY(nm_json_key(s, "max_scale"));
    NM_TRY(nm_json_single(s, (double)a->max_scale));
    NM_TRY(nm_json_whole(s, "parameters", a->n_parameters));
    NM_TRY(nm_str_printf(s, ", \"dora\": %s", a->dora ? "true" : "false"));
    if (*a->prompt_format) NM_TRY(nm_json_string(s, "prompt_format", a->prompt_format));
    return nm_str_putc(s, '}');
}

static nm_err show_text(const nm_found_adapter *f, const nm_adapter_facts *a)
{
    NM_TRY(nm_out_puts("name          "));
    NM_TRY(nm_out_name(f->name));
    NM_TRY(nm_out_puts("\nfile          "));
    NM_TRY(nm_out_name(f->path));
    NM_TRY(nm_out_printf("\nformat        %s%s\nbase          ", a->format, a->dora ? ", DoRA" : ""));
    NM_TRY(nm_out_name(*a->base ? a->base : "(not told)"));
    NM_TRY(nm_out_printf("\nidentity      %s%s\n", a->sketched ? "a sketch of its base's weights, " : "none: loads as unverified", a->base_type));
    if (*a->prompt_format) NM_TRY(nm_out_printf("prompts       in the format '%s', which it was taught in\n", a->prompt_format));
    NM_TRY(nm_out_printf("maps          %d\n", (int)a->n_maps));
    if (a->min_rank == a->max_rank) NM_TRY(nm_out_printf("rank          %d\n", (int)a->max_rank));
    else NM_TRY(nm_out_printf("ranks         %d to %d\n", (int)a->min_rank, (int)a->max_rank));
    if (a->min_scale == a->max_scale) NM_TRY(nm_out_printf("scale         %g\n", (double)a->max_scale));
    else NM_TRY(nm_out_printf("scales        %g to %g\n", (double)a->min_scale, (double)a->max_scale));
    return nm_out_printf("parameters    %.2f million\n", (double)a->n_parameters * 1e-6);
}

static nm_err show(const settings *set, int count, char **operands)
{
    nm_found_adapter f;
    nm_adapter_facts facts;
    nm_str s = {0};
    NM_TRY(need_operands(count, 1, 1, "show ADAPTER"));
    NM_TRY(nm_adapter_find(&f, operands[0]));
    nm_err err = nm_adapter_inspect(&facts, f.path);
    if (err == NM_OK) err = set->common.json ? nm_json_print(&s, show_json(&s, &f, &facts)) : show_text(&f, &facts);
    nm_found_adapter_free(&f);
    return err;
}

static nm_err list(const settings *set, int count, char **operands)
{
    nm_found_adapter *found;
    size_t n;
    (void)operands;
    NM_TRY(need_operands(count, 0, 0, "list"));
    NM_TRY(nm_adapter_list(&found, &n));
    nm_str s = {0};
    nm_err err = NM_OK;
    if (set->common.json) {
        err = nm_str_putc(&s, '{');
        if (err == NM_OK) err = nm_adapters_json(&s, found, n);
        if (err == NM_OK) err = nm_str_putc(&s, '}');
        err = nm_json_print(&s, err);
    } else if (n) {
        err = nm_adapters_print(found, n);
    } else {
        nm_note("no adapters yet: they lie in nomoat/adapters/NAME below XDG_DATA_HOME; a path needs no name");
    }
    nm_found_adapters_free(found, n);
    return err;
}

/* ---- export, combine --------------------------------------------------------------------------------------------- */

/* The base that the adapter names, if it is here: enough for names. */
static void open_recorded(const char *path, nm_model **base)
{
    nm_adapter_facts facts;
    nm_found found;
    nm_model_options o = {.metadata_only = true};
    if (nm_adapter_inspect(&facts, path) != NM_OK || !*facts.base || nm_model_find(&found, facts.base) != NM_OK) return;
    if (nm_model_open(base, found.path, &o) != NM_OK) *base = NULL;
    nm_found_free(&found);
}

static nm_err export(const settings *set, int count, char **operands)
{
    nm_found_adapter f = {0};
    nm_model *base = NULL;
    nm_str out = {0};
    nm_err err = NM_OK;
    nm_adapter_card card = {.base = NULL};
    NM_TRY(need_operands(count, 1, 1, "export ADAPTER -o OUT [--gguf] [--base MODEL]"));
    NM_GOTO(nm_adapter_find(&f, operands[0]));
    NM_GOTO(new_path(set, &out));
    NM_GOTO(open_base(set, &base));
    if (!base) open_recorded(f.path, &base);
    NM_GOTO(nm_adapter_export(f.path, base, out.data, wants_gguf(set), &card));
    nm_note("%s: written", out.data);
out:
    nm_model_close(&base);
    nm_str_free(&out);
    nm_found_adapter_free(&f);
    return err;
}

/* {"combined": [{"adapter", "scale"}], "method"}: what the result will tell of itself. */
static nm_err combine_provenance(nm_str *s, const settings *set, const nm_found_stack *parts)
{
    static const char *const methods[] = {"exact", "linear", "ties", "dare"};
    NM_TRY(nm_str_puts(s, "{\"combined\": ["));
    for (size_t i = 0; i < parts->count; i++) {
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_string(s, "adapter", parts->adapter[i].name));
        NM_TRY(nm_json_key(s, "scale"));
        NM_TRY(nm_json_single(s, (double)parts->adapter[i].scale));
        NM_TRY(nm_str_putc(s, '}'));
    }
    NM_TRY(nm_str_putc(s, ']'));
    NM_TRY(nm_json_string(s, "method", methods[set->method]));
    NM_TRY(nm_json_whole(s, "rank", (uint64_t)set->rank));
    return nm_str_putc(s, '}');
}

static nm_err print_combined(const settings *set, const char *out, const nm_combine_report *r)
{
    nm_str s = {0};
    if (!set->common.json)
        return nm_out_printf("%d maps, rank %d, kept %.4f %% of the energy, effective rank %.2f\n", (int)r->n_maps, (int)r->max_rank, r->kept_energy * 100, r->effective_rank);
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_string(&s, "path", out);
    if (err == NM_OK) err = nm_json_whole(&s, "maps", (uint64_t)r->n_maps);
    if (err == NM_OK) err = nm_json_whole(&s, "rank", (uint64_t)r->max_rank);
    if (err == NM_OK) err = nm_json_key(&s, "kept_energy");
    if (err == NM_OK) err = nm_json_double(&s, r->kept_energy);
    if (err == NM_OK) err = nm_json_key(&s, "effective_rank");
    if (err == NM_OK) err = nm_json_double(&s, r->effective_rank);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err combine_found(const settings *set, const nm_found_stack *parts, const nm_model *base, const char *out)
{
    const char **paths = nm_calloc(parts->count, sizeof(*paths));
    float *scales = nm_calloc(parts->count, sizeof *scales);
    nm_str provenance = {0};
    nm_combine_report report;
    nm_combine_options o = {.method = (nm_combine)set->method, .rank = set->rank, .density = (float)set->density, .seed = set->seed.value, .base = base,
        .gguf = wants_gguf(set)};
    nm_err err = paths && scales ? combine_provenance(&provenance, set, parts) : nm_fail_memory(parts->count * sizeof *paths);
    for (size_t i = 0; paths && scales && i < parts->count; i++) {
        paths[i] = parts->adapter[i].path;
        scales[i] = parts->adapter[i].scale;
    }
    nm_adapter_card card = {.provenance = provenance.data, .summary = "Made from other adapters by `nomoat adapter combine`."};
    if (err == NM_OK) err = nm_adapter_combine(paths, scales, parts->count, &o, out, &card, &report);
    if (err == NM_OK) err = print_combined(set, out, &report);
    nm_str_free(&provenance);
    nm_free(paths);
    nm_free(scales);
    return err;
}

static nm_err combine(const settings *set, int count, char **operands)
{
    nm_found_stack parts = {0};
    nm_model *base = NULL;
    nm_str out = {0};
    nm_err err = NM_OK;
    NM_TRY(need_operands(count, 1, 1 << 20, "combine A=0.7 B=0.3 ... -o OUT [--rank R] [--method METHOD]"));
    for (int i = 0; i < count; i++) NM_GOTO(nm_found_stack_push(&parts, operands[i], true));
    NM_GOTO(new_path(set, &out));
    NM_GOTO(open_base(set, &base));
    err = combine_found(set, &parts, base, out.data);
out:
    nm_model_close(&base);
    nm_str_free(&out);
    nm_found_stack_free(&parts);
    return err;
}

/* ---- diff -------------------------------------------------------------------------------------------------------- */

typedef struct changes { nm_map_change *item; char **name; size_t count, capacity, name_capacity; } changes;

static nm_err take_change(void *arg, const nm_map_change *change)
{
    changes *c = arg;
    NM_TRY(NM_GROW(c->item, c->capacity, c->count + 1));
    NM_TRY(NM_GROW(c->name, c->name_capacity, c->count + 1));
    c->name[c->count] = nm_strndup(change->name, strlen(change->name));
    if (!c->name[c->count]) return nm_fail_memory(strlen(change->name));
    c->item[c->count] = *change;
    c->item[c->count].name = c->name[c->count];
    c->count++;
    return NM_OK;
}

/* What moved most comes first; against the base's weights where those are known. */
static int by_change(const void *a, const void *b)
{
    const nm_map_change *x = a, *y = b;
    double p = isnan(x->relative) ? x->distance : x->relative, q = isnan(y->relative) ? y->distance : y->relative;
    return p < q ? 1 : p > q ? -1 : strcmp(x->name, y->name);
}

static nm_err print_changes(const changes *c, bool both)
{
    NM_TRY(both ? nm_out_printf("%10s %10s %10s %11s  %s\n", "first", "second", "apart", "of base", "map") : nm_out_printf("%10s %11s  %s\n", "change", "of base", "map"));
    for (size_t i = 0; i < c->count; i++) {
        const nm_map_change *m = &c->item[i];
        if (both) NM_TRY(nm_out_printf("%10.4g %10.4g ", m->first, m->second));
        NM_TRY(nm_out_printf("%10.4g ", m->distance));
        NM_TRY(isnan(m->relative) ? nm_out_printf("%11s  ", "-") : nm_out_printf("%9.3f %%  ", m->relative * 100));
        NM_TRY(nm_out_name(m->name));
        NM_TRY(nm_out_puts("\n"));
    }
    return NM_OK;
}

static nm_err changes_json(nm_str *s, const changes *c)
{
    NM_TRY(nm_str_puts(s, "{\"maps\": ["));
    for (size_t i = 0; i < c->count; i++) {
        const struct { const char *key; double value; } figures[] = {{"first", c->item[i].first}, {"second", c->item[i].second},
            {"distance", c->item[i].distance}, {"relative", c->item[i].relative}};
        NM_TRY(nm_str_puts(s, i ? ", {" : "{"));
        NM_TRY(nm_json_string(s, "map", c->item[i].name));
        for (size_t k = 0; k < sizeof figures / sizeof *figures; k++) {
            NM_TRY(nm_json_key(s, figures[k].key));
            NM_TRY(nm_json_double(s, figures[k].value));
        }
        NM_TRY(nm_str_putc(s, '}'));
    }
    return nm_str_puts(s, "]}");
}

static nm_err diff(const settings *set, int count, char **operands)
{
    nm_found_adapter a = {0}, b = {0};
    nm_model *base = NULL;
    changes c = {0};
    nm_str s = {0};
    nm_err err = NM_OK;
    NM_TRY(need_operands(count, 1, 2, "diff ADAPTER [ADAPTER] [--base MODEL]"));
    NM_GOTO(nm_adapter_find(&a, operands[0]));
    if (count > 1) NM_GOTO(nm_adapter_find(&b, operands[1]));
    NM_GOTO(open_base(set, &base));
    NM_GOTO(nm_adapter_diff(a.path, b.path, base, take_change, &c));
    if (c.count) qsort(c.item, c.count, sizeof *c.item, by_change);
    err = set->common.json ? nm_json_print(&s, changes_json(&s, &c)) : print_changes(&c, b.path);
out:
    for (size_t i = 0; i < c.count; i++) nm_free(c.name[i]);
    nm_free(c.name);
    nm_free(c.item);
    nm_model_close(&base);
    nm_found_adapter_free(&a);
    nm_found_adapter_free(&b);
    return err;
}

/* ---- merge ------------------------------------------------------------------------------------------------------- */

static nm_err print_merged(const settings *set, const nm_merge_report *r)
{
    nm_str s = {0};
    if (!set->common.json) {
        NM_TRY(nm_out_printf("%s: %d maps changed; requantising moved the written weights by %.3f %%", set->out, (int)r->n_maps, r->relative_error * 100));
        if (isnan(r->error_to_change)) return nm_out_puts("\n");
        const char *advice = r->error_to_change > 1 && !set->type ? ": take a finer --type, or the stack as it is" : "";
        return nm_out_printf(", %.2f times as far as the adapters do%s\n", r->error_to_change, advice);
    }
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_string(&s, "path", set->out);
    if (err == NM_OK) err = nm_json_whole(&s, "maps", (uint64_t)r->n_maps);
    if (err == NM_OK) err = nm_json_key(&s, "relative_error");
    if (err == NM_OK) err = nm_json_double(&s, r->relative_error);
    if (err == NM_OK) err = nm_json_key(&s, "error_to_change");
    if (err == NM_OK) err = nm_json_double(&s, r->error_to_change);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

static nm_err merge(const settings *set, int count, char **operands)
{
    nm_stacked stacked;
    nm_merge_report report;
    nm_meter meter = {.what = "merging"};
    nm_merge_options o = {.type = set->type, .note = count ? operands[0] : NULL, .progress = nm_meter_draw, .progress_arg = &meter};
    struct stat st;
    NM_TRY(need_operands(count, 1, 1, "merge MODEL+ADAPTER[=SCALE]... -o FILE.gguf [--type T]"));
    if (!set->out) return nm_fail(NM_USAGE, "where to is missing: give -o FILE.gguf");
    if (!set->stack.force && !stat(set->out, &st)) return nm_fail(NM_REFUSED, "%s: is there already: choose another name, or --force replaces it", set->out);
    nm_interrupts_catch();
    NM_TRY(nm_stacked_open(&stacked, operands[0], &set->common, &set->stack));
    char format[16];
    nm_err err = nm_stacked_format(&stacked, format);
    if (err == NM_OK && *format) o.template_text = nm_format_template(format);
    if (err == NM_OK) err = nm_model_merge(stacked.model, stacked.stack, set->out, &o, &report);
    nm_meter_clear(&meter);
    nm_stacked_close(&stacked);
    return err == NM_OK ? print_merged(set, &report) : err;
}

static int run_merge(void *arg, int count, char **operands) { return merge(arg, count, operands); }

/* ---- The commands ------------------------------------------------------------------------------------------------ */

static const struct { const char *name; nm_err (*run)(const settings *set, int count, char **operands); } verbs[] = {
    {"show", show}, {"list", list}, {"combine", combine}, {"diff", diff}, {"export", export}, {"merge", merge}};
enum { VERBS = sizeof verbs / sizeof *verbs };

static int run(void *arg, int count, char **operands)
{
    const char *words[VERBS];
    for (int i = 0; i < VERBS; i++) {
        if (!strcmp(operands[0], verbs[i].name)) return verbs[i].run(arg, count - 1, operands + 1);
        words[i] = verbs[i].name;
    }
    const char *near = nm_nearest(operands[0], words, VERBS);
    if (near) return nm_fail(NM_USAGE, "adapter %s: no such word: did you mean '%s'?", operands[0], near);
    return nm_fail(NM_USAGE, "adapter %s: no such word: show, list, combine, diff, export and merge are", operands[0]);
}

const nm_command nm_command_adapter = {
    .name = "adapter", .operands = "show|list|combine|diff|export|merge ...", .summary = "look at adapters, combine, convert and merge them",
    .details = "show ADAPTER; list; combine A=0.7 B=0.3 ... -o OUT; diff ADAPTER [ADAPTER]; export ADAPTER -o OUT; merge MODEL+ADAPTER -o FILE.gguf.\n\n"
               "An ADAPTER is a PEFT folder, a GGUF LoRA file, or a name that 'nomoat list' shows. combine is exact: ranks add; --rank re-compresses and says what "
               "was kept. export writes a PEFT folder, with --gguf a GGUF file. Where formats meet, names must be translated and --base MODEL is needed; with it the result "
               "also carries a sketch of the base's weights, by which it is known again.",
    .examples = (const nm_example[]){{"nomoat adapter combine style=0.7 facts=0.3 -o both", "one adapter that is the sum, exactly"},
                                     {"nomoat adapter combine style facts -o small --rank 8", "the same in rank 8, with the energy that was kept"},
                                     {"nomoat adapter export style -o style.gguf --base tiny", "for llama.cpp"},
                                     {"nomoat adapter diff style --base tiny", "which maps it changes most"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 1, .most_operands = -1, .run = run,
};

const nm_command nm_command_merge = {
    .name = "merge", .operands = "MODEL+ADAPTER[=SCALE]...", .summary = "write a model with its adapters as one file",
    .details = "Adds the adapters to the weights and quantises those again, as they were or as --type says; what that loses is measured and told. A stack loses nothing: "
               "merge for programs that cannot stack.",
    .examples = (const nm_example[]){{"nomoat merge tiny+style -o tiny-style.gguf --type Q8_0", "a model of its own"}, {0}},
    .options = options, .settings_size = sizeof(settings), .defaults = &defaults, .least_operands = 1, .most_operands = 1, .run = run_merge,
};
