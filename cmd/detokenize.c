/* nomoat detokenize: token ids to the bytes they stand for. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "common.h"
#include "json_in.h"

typedef struct settings { nm_common common; bool special; } settings;

static const nm_option options[] = {
    {"--special", NULL, "show control tokens by their names", offsetof(settings, special), NM_OPTION_FLAG, 0, 0},
    {0}
};

static const char *skip(const char *at) { return at + strspn(at, " \t\r\n"); }

static nm_err bad_at(const char *text, const char *at, const char *what)
{
    return nm_fail(NM_USAGE, "standard input: byte %zu: '%.20s' %s", (size_t)(at - text), at, what);
}

/* Plain numbers separated by white space, by commas, or both; in brackets or not. */
static nm_err read_plain(int32_t **ids, size_t *count, const char *text)
{
    size_t capacity = 0;
    const char *at = skip(text);
    bool brackets = *at == '[', comma = false;
    if (brackets) at = skip(at + 1);
    while (*at && !(brackets && *at == ']')) {
        char *end;
        errno = 0;
        long v = *at >= '0' && *at <= '9' ? strtol(at, &end, 10) : -1;
        if (v < 0 || errno || v > INT32_MAX || !strchr(" \t\r\n,]", *end)) return bad_at(text, at, "is no token id");
        NM_TRY(NM_GROW(*ids, capacity, *count + 1));
        (*ids)[(*count)++] = (int32_t)v;
        at = skip(end);
        comma = *at == ',';
        if (comma) at = skip(at + 1);
    }
    if (comma) return bad_at(text, at, "where a token id should follow the comma");
    if (brackets && *at != ']') return nm_fail(NM_USAGE, "standard input: the bracket is not closed: is it whole?");
    at = brackets ? skip(at + 1) : at;
    return *at ? bad_at(text, at, "stands behind the ids") : NM_OK;
}

static nm_err read_ids(int32_t **ids, size_t *count)
{
    char *text;
    size_t length;
    nm_json_input in = {0};
    NM_TRY(nm_read_stdin(&text, &length, "the ids"));
    nm_err err;
    if (text[strspn(text, " \t\r\n")] == '{') {
        err = nm_json_read_input(&in, text, length);
        if (err == NM_OK && !in.ids) err = nm_fail(NM_USAGE, "standard input: no \"ids\" in it: give {\"ids\": [...]}");
        *ids = in.ids;
        *count = in.n_ids;
        in.ids = NULL;
    } else {
        err = strlen(text) < length ? nm_fail(NM_USAGE, "standard input: byte %zu is zero: give ids as numbers",
                                              strlen(text)) : read_plain(ids, count, text);
    }
    nm_json_input_free(&in);
    nm_free(text);
    return err;
}

static int run(void *arg, int n_operands, char **operands)
{
    const settings *set = arg;
    nm_model *model;
    const nm_tokenizer *t;
    char *text = NULL;
    size_t length, count = 0;
    int32_t *ids = NULL;
    (void)n_operands;
    NM_TRY(nm_open_model(&model, NULL, operands[0], &set->common, true));
    nm_err err = NM_OK;
    NM_GOTO(nm_need_tokenizer(&t, model));
    NM_GOTO(read_ids(&ids, &count));
    NM_GOTO(nm_detokenize(t, ids, count, set->special ? NM_TEXT_SPECIAL : 0u, &text, &length));
    err = nm_text_print(text, length, set->common.json);
out:
    nm_free(ids);
    nm_free(text);
    nm_model_close(&model);
    return err;
}

const nm_command nm_command_detokenize = {
    .name = "detokenize", .operands = "MODEL", .summary = "turn token ids on standard input into text",
    .details = "Reads {\"ids\": [...]} or plain numbers and writes the exact bytes, or {\"text\": \"...\"} with --json. "
               "The model's file needs no weights.",
    .examples = (const nm_example[]){{"echo 9906 11 1917 | nomoat detokenize tiny", "plain numbers"},
                                     {"nomoat tokenize tiny --json < a.txt | nomoat detokenize tiny | cmp - a.txt",
                                      "there and back again"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
