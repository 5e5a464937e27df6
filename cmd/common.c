/* What subcommands do alike. */
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "os/file.h"

/* True if a list like "avx2,amx" names the tier. */
static bool names_tier(const char *mask, const char *tier)
{
    size_t n = strlen(tier);
    for (const char *at = mask; (at = strstr(at, tier)); at += n)
        if ((at == mask || at[-1] == ',') && (!at[n] || at[n] == ',')) return true;
    return false;
}

static nm_err apply_kernels(const char *mask)
{
    NM_TRY(nm_set_kernels(mask));
    const char *tier = nm_kernels_tier();
    if (!names_tier(mask, tier) && !names_tier(mask, "all"))
        nm_note("--kernels %s: this machine cannot; tier %s is used. 'nomoat doctor' shows what there is", mask, tier);
    return NM_OK;
}

nm_err nm_common_apply(const nm_common *common)
{
    nm_notes_quiet(common->quiet);
    NM_TRY(nm_set_threads(common->threads < 0 ? 0 : common->threads));
    return common->kernels ? apply_kernels(common->kernels) : NM_OK;
}

void nm_note_skipped(const char *why) { nm_note("%s: it is left out", why); }

/* Adds the nearest known name to a "no such model". */
static nm_err suggest(nm_err err, const char *model)
{
    nm_found *list;
    size_t count;
    char text[1024];
    snprintf(text, sizeof text, "%s", nm_error_text());
    if (nm_found_list(&list, &count, NULL) != NM_OK) return nm_fail(err, "%s", text);
    const char **names = nm_calloc(count, sizeof *names);
    for (size_t i = 0; names && i < count; i++) names[i] = list[i].name;
    const char *near = names ? nm_nearest(model, names, count) : NULL;
    if (near) nm_fail(err, "%s: did you mean %s? 'nomoat list' shows the names", model, near);
    else nm_fail(err, "%s", text);
    nm_free(names);
    nm_found_list_free(list, count);
    return err;
}

nm_err nm_find_stack(nm_found_stack *out, const char *text, bool ranges)
{
    nm_err err = nm_stack_find(out, text, ranges);
    struct stat st;
    if (err == NM_OK && out->model.place == NM_PLACE_PATH && !stat(out->model.path, &st) && S_ISDIR(st.st_mode) && nm_store_check(text) == NM_OK) {
        nm_found_stack_free(out);
        return nm_fail(NM_BAD_FILE, "%s: a folder here hides the stored model of that name: '%s:latest' means the model", text, text);
    }
    return err == NM_NOT_FOUND && !strchr(text, '+') ? suggest(err, text) : err;
}

/* Only where making the weights ready takes long enough to be noticed. */
static void note_not_kept(const nm_model_info *model)
{
    enum { NOTICED = 256 << 20 };
    if (model->not_kept && model->weight_bytes >= NOTICED) nm_note("%s: each start makes the weights ready anew", model->not_kept);
}

nm_err nm_open_found(nm_model **out, const nm_found *found, const nm_common *common, bool metadata_only)
{
    nm_meter meter = {.what = "loading"};
    nm_model_options options = {.metadata_only = metadata_only, .no_pack = common->no_pack, .keep = !common->alone, .progress = nm_meter_draw,
                                .progress_arg = &meter, .cancel = &nm_interrupted};
    nm_err err = nm_model_open(out, found->path, &options);
    nm_meter_clear(&meter);
    if (err == NM_OK) note_not_kept(nm_model_describe(*out));
    return err;
}

nm_err nm_open_model(nm_model **out, nm_found *found, const char *model, const nm_common *common, bool metadata_only)
{
    nm_found_stack all;
    *out = NULL;
    NM_TRY(nm_find_stack(&all, model, false));
    nm_err err = nm_open_found(out, &all.model, common, metadata_only);
    if (found && err == NM_OK) {
        *found = all.model;
        all.model = (nm_found){0};
    }
    nm_found_stack_free(&all);
    return err;
}

bool nm_store_busy(void)
{
    static bool said;
    if (!said) nm_note("another nomoat changes the store; waiting");
    said = true;
    return nm_interrupted;
}

nm_err nm_need_tokenizer(const nm_tokenizer **out, const nm_model *model)
{
    *out = nm_model_tokenizer(model);
    return *out ? NM_OK : nm_fail(NM_REFUSED, "%s: the file has no tokenizer: use a complete model file", nm_model_describe(model)->name);
}

nm_err nm_read_stdin(char **text, size_t *length, const char *expected)
{
    *text = NULL;
    if (nm_term_is(STDIN_FILENO)) return nm_fail(NM_USAGE, "standard input is a terminal: give %s by a pipe or '< FILE'", expected);
    int flags = fcntl(STDIN_FILENO, F_GETFL);       /* main holds the place of a closed one open, for writing */
    if (flags < 0 || (flags & O_ACCMODE) == O_WRONLY) return nm_fail(NM_FAILED, "standard input is closed: give %s by a pipe or '< FILE'", expected);
    return nm_fd_read(STDIN_FILENO, "standard input", NM_INPUT_MOST, text, length);    /* not /dev/stdin: a socket cannot be opened */
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

nm_err nm_json_print(nm_str *s, nm_err err)
{
    if (err == NM_OK) err = nm_out(s->data, s->length);
    if (err == NM_OK) err = nm_out_puts("\n");
    nm_str_free(s);
    return err;
}

nm_err nm_text_print(const char *text, size_t length, bool json)
{
    nm_str s = {0};
    if (!json) {
        NM_TRY(nm_out_text(text, length));
        return nm_out_text_end();
    }
    nm_err err = nm_str_puts(&s, "{\"text\": ");
    if (err == NM_OK) err = nm_str_json(&s, text, length);
    if (err == NM_OK) err = nm_str_putc(&s, '}');
    return nm_json_print(&s, err);
}

/* ---- Prompts ---------------------------------------------------------------------------------------------------- */

nm_err nm_prompt_tokens(const nm_model *model, const char *text, size_t length, int32_t **ids, size_t *count)
{
    const nm_tokenizer *t;
    NM_TRY(nm_need_tokenizer(&t, model));
    return nm_tokenize(t, text, length, NM_TEXT_PROMPT, ids, count);
}
