/* nomoat tokenize: text to token ids, byte for byte. */
#include "commands.h"
#include "common.h"

typedef struct settings { nm_common common; bool special, bos; } settings;

static const nm_option options[] = {
    {"--special", NULL, "special tokens written in the text become their ids", offsetof(settings, special), NM_OPTION_FLAG, 0, 0},
    {"--bos", NULL, "put the beginning-of-text token first, if the model has one", offsetof(settings, bos), NM_OPTION_FLAG, 0, 0},
    {0}
};

static nm_err print(const int32_t *ids, size_t count, bool json)
{
    nm_str s = {0};
    if (json) {
        nm_err err = nm_str_puts(&s, "{\"ids\": ");
        if (err == NM_OK) err = nm_json_ids(&s, ids, count);
        if (err == NM_OK) err = nm_str_putc(&s, '}');
        return nm_json_print(&s, err);
    }
    for (size_t i = 0; i < count; i++) NM_TRY(nm_out_printf("%s%d", i ? " " : "", ids[i]));
    return nm_out_puts("\n");
}

static int run(void *arg, int count, char **operands)
{
    const settings *set = arg;
    nm_model *model;
    const nm_tokenizer *t;
    char *text = NULL;
    size_t length, n_ids;
    int32_t *ids = NULL;
    (void)count;
    NM_TRY(nm_open_model(&model, NULL, operands[0], &set->common, true));
    nm_err err = NM_OK;
    NM_GOTO(nm_need_tokenizer(&t, model));
    NM_GOTO(nm_read_stdin(&text, &length, "the text"));
    NM_GOTO(nm_tokenize(t, text, length, (set->special ? NM_TEXT_SPECIAL : 0u) | (set->bos ? NM_TEXT_FORCE_BOS : 0u), &ids, &n_ids));
    err = print(ids, n_ids, set->common.json);
out:
    nm_free(ids);
    nm_free(text);
    nm_model_close(&model);
    return err;
}

const nm_command nm_command_tokenize = {
    .name = "tokenize", .operands = "MODEL", .summary = "turn text on standard input into token ids",
    .details = "Reads standard input byte for byte (no newline is stripped) and prints the ids on one line, or {\"ids\": [...]} with "
               "--json. "
               "Special tokens in the text are plain text unless --special is given. The model's file needs no weights.",
    .examples = (const nm_example[]){{"printf 'Hello' | nomoat tokenize tiny", "the ids of one word"},
                                     {"nomoat tokenize tiny --json < page.txt", "as a JSON object"}, {0}},
    .options = options, .settings_size = sizeof(settings), .least_operands = 1, .most_operands = 1, .run = run,
};
