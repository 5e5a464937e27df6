/* hello: asks a model one question and shows the answer as it comes, over nomoat.h alone. docs/programs.md tells what the calls are.
 *
 *   cc hello.c $(pkg-config --cflags --libs nomoat) -o hello && ./hello model.gguf 'Why is the sea salt?' [TOKENS]
 */
#include <nomoat.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What is open is left to the system: it is the end of this program. A library or a server would close it and go on. */
static void must(nm_err err)
{
    if (err == NM_OK) return;
    fprintf(stderr, "hello: %s\n", nm_error_text());
    exit((int)err);
}

static void put_json(FILE *to, const char *before, const char *text)
{
    fprintf(to, "%s\"", before);
    for (; *text; text++) fprintf(to, (unsigned char)*text < ' ' ? "\\u%04x" : *text == '"' || *text == '\\' ? "\\%c" : "%c", (unsigned char)*text);
    fputs("\"", to);
}

/* The question in the words of the model's own chat template, as tokens. */
static void make_prompt(const nm_model *model, const char *question, int32_t **ids, size_t *count)
{
    const nm_tokenizer *tokenizer = nm_model_tokenizer(model);
    const char *source = nm_model_template(model, NULL);
    char *vars, *prompt;
    size_t size, length;
    nm_template *form;
    FILE *json = open_memstream(&vars, &size);
    if (!json || !source || !tokenizer) {
        fputs("hello: this model is not made for chat\n", stderr);
        exit(NM_REFUSED);
    }
    put_json(json, "{\"bos_token\": ", nm_token_raw(tokenizer, nm_token_bos(tokenizer)));
    put_json(json, ", \"eos_token\": ", nm_token_raw(tokenizer, nm_token_eos(tokenizer)));
    put_json(json, ", \"add_generation_prompt\": true, \"messages\": [{\"role\": \"user\", \"content\": ", question);
    fputs("}]}", json);
    fclose(json);
    must(nm_template_open(&form, source, strlen(source), "the chat template"));
    must(nm_template_render(form, vars, size, NULL, &prompt, &length));
    must(nm_tokenize(tokenizer, prompt, length, NM_TEXT_PROMPT, ids, count));
    nm_template_close(&form);
    nm_free(prompt);
    free(vars);
}

typedef struct drawing { nm_sampler *sampler; int32_t token; } drawing;

static nm_err draw(void *arg, int32_t index, const float *logits, int32_t n_vocab)
{
    drawing *d = arg;
    (void)index, (void)n_vocab;
    return nm_sampler_draw(d->sampler, logits, &d->token);
}

int main(int argc, char **argv)
{
    nm_model *model;
    nm_session *session;    /* holds the conversation */
    nm_runner *runner;      /* computes */
    nm_decoder *decoder;
    drawing drawn;
    int32_t *ids;
    size_t count;
    if (argc < 3) {
        fputs("usage: hello MODEL.gguf QUESTION [TOKENS]\n", stderr);
        return NM_USAGE;
    }
    must(nm_model_open(&model, argv[1], NULL));
    make_prompt(model, argv[2], &ids, &count);
    nm_sampling how = nm_sampling_defaults(model);
    how.temperature = 0;    /* always the likeliest token */
    must(nm_sampler_open(&drawn.sampler, &how, nm_model_describe(model)->n_vocab));
    must(nm_session_open(&session, model, NULL));
    must(nm_runner_open(&runner, model, NULL));
    must(nm_decoder_open(&decoder, nm_model_tokenizer(model), 0));

    nm_item item = {.session = session, .tokens = ids, .count = (int32_t)count, .want = NM_WANT_LAST, .on_logits = draw, .arg = &drawn};
    const char *text;
    size_t length;
    for (int left = argc > 3 ? atoi(argv[3]) : 256; left > 0; left--) {
        must(nm_run(runner, &item, 1, NULL));
        if (nm_token_ends(nm_model_tokenizer(model), drawn.token)) break;
        must(nm_decoder_push(decoder, drawn.token, &text, &length));
        fwrite(text, 1, length, stdout);
        fflush(stdout);
        item.tokens = &drawn.token;     /* what was said is read in its turn */
        item.count = 1;
    }
    must(nm_decoder_push(decoder, -1, &text, &length));     /* a character that was cut */
    fwrite(text, 1, length, stdout);
    putchar('\n');
    nm_decoder_close(&decoder);
    nm_runner_close(&runner);
    nm_session_close(&session);
    nm_sampler_close(&drawn.sampler);
    nm_model_close(&model);
    nm_free(ids);
    return NM_OK;
}
