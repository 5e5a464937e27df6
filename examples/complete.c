/* complete: the least that a program needs; it continues a text. hello.c also asks, in the words of a model's template.
 *   cc complete.c $(pkg-config --cflags --libs nomoat) -o complete && ./complete model.gguf 'Once upon a time' */
#include <nomoat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(nm_err err)
{
    if (err != NM_OK) exit((fprintf(stderr, "complete: %s\n", nm_error_text()), (int)err));
}

static nm_err draw(void *likeliest, int32_t index, const float *logits, int32_t n_vocab)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n_vocab; i++) best = logits[i] > logits[best] ? i : best;
    *(int32_t *)likeliest = best;
    return NM_OK;
}

int main(int argc, char **argv)
{
    nm_model *model;
    int32_t *ids, token;
    size_t count, length;
    const char *text;
    if (argc < 3) return fputs("usage: complete MODEL.gguf TEXT [TOKENS]\n", stderr), NM_USAGE;
    must(nm_model_open(&model, argv[1], NULL));
    must(nm_tokenize(nm_model_tokenizer(model), argv[2], strlen(argv[2]), NM_TEXT_PROMPT, &ids, &count));
    nm_item item = {.tokens = ids, .count = (int32_t)count, .want = NM_WANT_LAST, .on_logits = draw, .arg = &token};
    nm_runner *runner;
    nm_decoder *decoder;
    must(nm_session_open(&item.session, model, NULL));
    must(nm_runner_open(&runner, model, NULL));
    must(nm_decoder_open(&decoder, nm_model_tokenizer(model), NM_TEXT_CONTINUES));
    for (int left = argc > 3 ? atoi(argv[3]) : 50; left > 0; left--, item.tokens = &token, item.count = 1) {
        must(nm_run(runner, &item, 1, NULL));
        if (nm_token_ends(nm_model_tokenizer(model), token)) break;
        must(nm_decoder_push(decoder, token, &text, &length));
        fwrite(text, 1, length, stdout);
    }
    return putchar('\n'), NM_OK;     /* what is open is left to the system: it is the end of this program */
}
