/* Owns how a row becomes token sequences with masks. Refuses a row in which nothing is trained.
 *
 * A conversation is rendered by the chat template and encoded once, as a whole, special tokens parsed. The trained text of an assistant's turn is what
 * lies between the rendering up to the turn with the generation prompt and the rendering with the turn; what the generation prompt supplies is
 * therefore not trained. Where the template marks generation blocks, these are the trained text.
 *
 * A token is trained if its first byte lies in trained text. A token that straddles the beginning (the template's last bytes and the answer's first in one
 * token) is not trained: at inference the prompt is encoded without the answer, so the model never has to say that token; such borders are
 * counted (straddled). One that straddles the end is: the model says it whole.
 *
 * A template that rewrites history (Qwen3 drops the thinking of earlier turns) makes renderings that are no prefixes of the whole: the row then becomes
 * one sequence per trained turn, each rendered up to that turn and no further, as at inference. Where even the rendering up to the turn is
 * no prefix of the one with it (DeepSeek-R1: the prompt opens a thinking block, the turn has none), the sequence is the prompt, followed by what the
 * turn's rendering has behind their common beginning; a thinking block that the prompt opened is closed first, with reasoning_content in it.
 *
 * Every trained answer ends in a token that ends turns: the template's, or else one that is added; within a conversation that again takes one
 * sequence per turn. An assistant's turn before which nobody spoke but the system answers nothing and is not trained. */
#ifndef NM_DATA_SAMPLE_H
#define NM_DATA_SAMPLE_H

#include "data/shape.h"
#include "text/template.h"

/* One sequence. mask[i]: token i is trained, from those before it; the first never is. */
typedef struct nm_sequence { const int32_t *ids; const uint8_t *mask; size_t count, trained; bool alone; } nm_sequence;    /* alone: a piece of text that stands for itself */
typedef nm_err (*nm_sequence_fn)(void *arg, const nm_sequence *sequence);

typedef struct nm_masker {
    const nm_tokenizer *tokenizer;
    nm_template *tmpl;
    nm_json vars;               /* the variables of every rendering; "messages" and "tools" are filled in for each */
    nm_train_on train_on;
    int32_t bos, end;           /* BOS if the model wants one, else -1; what ends a turn where the template does not */
    size_t max_length;          /* tokens; longer sequences are cut */
    int64_t now;
    nm_dataset_stats *stats;    /* long_rows, cut_answers, straddled, split_rows */
    nm_sequence_fn give;        /* called for each sequence, with arrays that are the masker's */
    void *arg;
} nm_masker;

/* template_text: the chat template's source; kwargs: further variables as a JSON object, or NULL. Fills all but stats, give and arg. */
nm_err nm_masker_open(nm_masker *m, const nm_tokenizer *tokenizer, const char *template_text, const char *template_name, const char *kwargs);
void nm_masker_close(nm_masker *m);

/* Faults of the row are returned with the reason alone. plain: a text in which special tokens are text; continues: its end is not the text's. */
nm_err nm_mask_record(nm_masker *m, nm_record *record, bool plain, bool continues);

#endif
