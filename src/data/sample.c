/* From rows to sequences. */
#include "data/sample.h"

#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "data/tree.h"
#include "text/tokenizer.h"

/* ---- Opening ------------------------------------------------------------------------------------------------------------------------ */

/* The variables that transformers gives to every template. */
static nm_err default_vars(nm_json *vars, const nm_tokenizer *t)
{
    const struct { const char *key; int32_t id; } tokens[] = {
        {"bos_token", nm_token_bos(t)}, {"eos_token", nm_token_eos(t)}, {"pad_token", nm_token_pad(t)}, {"unk_token", nm_token_unk(t)}};
    const char *const keys[] = {"messages", "tools", "documents", "add_generation_prompt"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!nm_json_get(vars, keys[i])) NM_TRY(nm_tree_put(vars, keys[i], (nm_json){0}));
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        const char *text = nm_token_raw(t, tokens[i].id);
        if (tokens[i].id >= 0 && !nm_json_get(vars, tokens[i].key)) NM_TRY(nm_tree_put_text(vars, tokens[i].key, text, strlen(text)));
    }
    return NM_OK;
}

static nm_err read_kwargs(nm_json *vars, const char *kwargs)
{
    if (!kwargs) return nm_tree_object(vars);
    nm_err err = nm_json_parse(vars, kwargs, strlen(kwargs));
    if (err != NM_OK) return nm_fail_in(err, "--chat-template-kwargs");
    return vars->kind == NM_JSON_OBJECT ? NM_OK : nm_fail(NM_USAGE, "--chat-template-kwargs: not a JSON object: begin it with {");
}

/* EOS where it ends turns; else the first token that does; else EOS at all. */
static int32_t find_end(const nm_tokenizer *t)
{
    int32_t eos = nm_token_eos(t);
    if (eos >= 0 && nm_token_ends(t, eos)) return eos;
    for (int32_t id = 0; id < nm_token_count(t); id++)
        if (nm_token_ends(t, id)) return id;
    return eos;
}

/* BOS if the model wants one: what an empty prompt has. */
static nm_err find_bos(nm_masker *m)
{
    int32_t *ids;
    size_t n;
    NM_TRY(nm_tokenize(m->tokenizer, "", 0, NM_TEXT_PROMPT, &ids, &n));
    m->bos = n ? ids[0] : -1;
    nm_free(ids);
    return NM_OK;
}

nm_err nm_masker_open(nm_masker *m, const nm_tokenizer *tokenizer, const char *template_text, const char *template_name, const char *kwargs)
{
    nm_err err = NM_OK;
    *m = (nm_masker){.tokenizer = tokenizer, .end = find_end(tokenizer), .max_length = SIZE_MAX, .now = INT64_MIN};
    if (m->end < 0) return nm_fail(NM_REFUSED, "the model has no token that ends a turn: an answer taught to it would never end");
    NM_GOTO(read_kwargs(&m->vars, kwargs));
    NM_GOTO(default_vars(&m->vars, tokenizer));
    NM_GOTO(nm_template_open(&m->tmpl, template_text, strlen(template_text), template_name));
    NM_GOTO(find_bos(m));
out:
    if (err != NM_OK) nm_masker_close(m);
    return err;
}

void nm_masker_close(nm_masker *m)
{
    nm_template_close(&m->tmpl);
    nm_json_free(&m->vars);
    *m = (nm_masker){0};
}

/* ---- Rendering ---------------------------------------------------------------------------------------------------------------------- */

static void set_var(nm_masker *m, const char *key, nm_json value) { *(nm_json *)nm_json_get(&m->vars, key) = value; }

/* The first n messages. The row lends its trees to the variables for as long as it takes. */
static nm_err render(nm_masker *m, const nm_record *record, size_t n, bool prompt, nm_rendered *out)
{
    nm_template_options options = {.now = m->now};
    nm_json messages = record->messages;
    messages.array.count = n;
    set_var(m, "messages", messages);
    set_var(m, "tools", record->tools);
    set_var(m, "add_generation_prompt", (nm_json){.kind = NM_JSON_BOOL, .boolean = prompt});
    nm_err err = nm_template_render_tree(m->tmpl, &m->vars, &options, out);
    set_var(m, "messages", (nm_json){0});
    set_var(m, "tools", (nm_json){0});
    if (err == NM_OK && out->mark_lost) {
        nm_rendered_free(out);
        return nm_fail(NM_REFUSED, "the template has a generation block within a macro, set or filter block: write it outside of them");
    }
    return err;
}

static bool is_prefix(const nm_rendered *a, const nm_rendered *b) { return a->length <= b->length && !memcmp(a->text, b->text, a->length); }

/* ---- Turns -------------------------------------------------------------------------------------------------------------------------- */

/* An assistant's turn: message `at`, and its bytes in the text at hand. refused: by "weight" or "train". */
typedef struct turn { size_t at; nm_mark span; bool trained, refused; } turn;
typedef struct turns { turn *items; size_t count, capacity, trained; } turns;

/* "weight": 0 or 1, "train": true or false. */
static nm_err wants_training(const nm_json *message, size_t at, bool *out)
{
    const nm_json *weight = nm_json_get(message, "weight"), *train = nm_json_get(message, "train");
    *out = true;
    if (weight && weight->kind != NM_JSON_NULL) {
        double w = weight->kind == NM_JSON_INT ? (double)weight->integer : weight->kind == NM_JSON_REAL ? weight->real : -1;
        if (w != 0 && w != 1) return nm_fail(NM_BAD_FILE, "message %zu: \"weight\" is neither 0 nor 1", at + 1);
        *out = w == 1;
    }
    if (!train || train->kind == NM_JSON_NULL) return NM_OK;
    if (train->kind != NM_JSON_BOOL) return nm_fail(NM_BAD_FILE, "message %zu: \"train\" is neither true nor false", at + 1);
    *out = *out && train->boolean;
    return NM_OK;
}

static nm_err add_turn(turns *list, const nm_json *message, size_t at, bool asked)
{
    bool wanted;
    NM_TRY(wants_training(message, at, &wanted));
    NM_TRY(NM_GROW(list->items, list->capacity, list->count + 1));
    list->items[list->count++] = (turn){.at = at, .trained = wanted && asked, .refused = !wanted};
    return NM_OK;
}

/* The assistant's turns, and which of them are trained. */
static nm_err find_turns(const nm_masker *m, const nm_record *record, turns *list)
{
    bool asked = false;     /* somebody other than the system has spoken */
    for (size_t i = 0; i < record->messages.array.count; i++) {
        const nm_json *message = &record->messages.array.items[i], *role = nm_json_get(message, "role");
        if (nm_tree_is_text(role, "assistant")) NM_TRY(add_turn(list, message, i, asked));
        else if (!nm_tree_is_text(role, "system") && !nm_tree_is_text(role, "developer")) asked = true;
    }
    for (size_t i = 0; i < list->count; i++) {
        if (m->train_on == NM_TRAIN_LAST && i + 1 < list->count) list->items[i].trained = false;
        list->trained += list->items[i].trained;
    }
    return NM_OK;
}

/* ---- Sequences ---------------------------------------------------------------------------------------------------------------------- */

typedef struct tokens { int32_t *ids; uint32_t *starts; uint8_t *mask; size_t count, capacity; } tokens;

static void free_tokens(tokens *s)
{
    nm_free(s->ids);
    nm_free(s->starts);
    nm_free(s->mask);
    *s = (tokens){0};
}

static nm_err encode(const nm_masker *m, const char *text, size_t length, tokens *out)
{
    *out = (tokens){0};
    NM_TRY(nm_tokenize_starts(m->tokenizer, text, length, NM_TEXT_PROMPT, &out->ids, &out->starts, &out->count));
    if ((out->mask = nm_calloc(out->count + 1, 1))) return NM_OK;      /* one more: an end may be added */
    free_tokens(out);
    return nm_fail_memory(out->count);
}

static nm_err add_end(const nm_masker *m, tokens *s, bool trained)
{
    int32_t *ids = nm_realloc_array(s->ids, s->count + 1, sizeof *ids);
    if (!ids) return nm_fail_memory((s->count + 1) * sizeof *ids);
    s->ids = ids;
    ids[s->count] = m->end;
    s->mask[s->count++] = trained;
    return NM_OK;
}

static size_t token_end(const tokens *s, size_t i, size_t length) { return i + 1 < s->count ? s->starts[i + 1] : length; }

static bool is_blank(const char *text, size_t from, size_t to)
{
    while (from < to && strchr(" \t\r\n", text[from])) from++;
    return from >= to;
}

/* Marks the tokens of a span. */
static void mark(const nm_masker *m, tokens *s, nm_mark span, size_t length, uint8_t value)
{
    for (size_t i = 0; i < s->count; i++) {
        if (s->starts[i] < span.from && value && token_end(s, i, length) > span.from) m->stats->straddled++;
        if (s->starts[i] >= span.from && s->starts[i] < span.to) s->mask[i] = value;
    }
}

/* Makes a marked span end in a token that ends turns: its own, white space behind it aside; the next one, for templates that count it to what follows;
 * or, at the end of the text, an added one. *ended false: it stands in the middle, and there is none. */
static nm_err end_span(const nm_masker *m, tokens *s, nm_mark span, const char *text, size_t length, bool *ended)
{
    size_t next = 0;
    while (next < s->count && s->starts[next] < span.to) next++;
    *ended = true;
    for (size_t i = next; i-- > 0 && s->starts[i] >= span.from;) {
        if (nm_token_ends(m->tokenizer, s->ids[i])) return NM_OK;
        if (!is_blank(text, s->starts[i], token_end(s, i, length))) break;
    }
    if (next < s->count && nm_token_ends(m->tokenizer, s->ids[next])) {
        s->mask[next] = 1;
        return NM_OK;
    }
    *ended = is_blank(text, span.to, length);
    return *ended ? add_end(m, s, true) : NM_OK;
}

/* Cuts what is too long, and hands the sequence out. */
static nm_err give(const nm_masker *m, tokens *s)
{
    nm_sequence q = {.ids = s->ids, .mask = s->mask, .count = s->count};
    size_t all = 0;
    if (s->count) s->mask[0] = 0;       /* nothing stands before it */
    if (q.count > (size_t)m->stats->longest) m->stats->longest = (int32_t)q.count;
    if (q.count > m->max_length) q.count = m->max_length;
    for (size_t i = 0; i < s->count; i++) {
        all += s->mask[i];
        if (i < q.count) q.trained += s->mask[i];
    }
    m->stats->long_rows += q.count < s->count;
    m->stats->cut_answers += q.trained < all;
    if (!all) return nm_fail(NM_BAD_FILE, "nothing in this row is trained: its answers are empty");
    if (!q.trained) return nm_fail(NM_BAD_FILE, "the answer begins behind the %zu tokens of --max-length: raise it", m->max_length);
    return m->give(m->arg, &q);
}

/* ---- A row as one sequence ------------------------------------------------------------------------------------------------------------ */

/* Finds a turn's bytes within the whole by renderings; *found false: the template rewrites history. */
static nm_err find_by_prefix(nm_masker *m, const nm_record *record, const nm_rendered *whole, turn *t, bool *found)
{
    nm_rendered before, with = {0};
    NM_TRY(render(m, record, t->at, true, &before));
    nm_err err = render(m, record, t->at + 1, false, &with);
    if (err == NM_OK) {
        *found = is_prefix(&before, &with) && is_prefix(&with, whole);
        t->span = (nm_mark){before.length, with.length};
    }
    nm_rendered_free(&before);
    nm_rendered_free(&with);
    return err;
}

/* What a generation block wrote, less what the generation prompt supplies. */
static nm_err find_by_mark(nm_masker *m, const nm_record *record, const nm_rendered *whole, nm_mark block, turn *t)
{
    nm_rendered prompt;
    NM_TRY(render(m, record, t->at, true, &prompt));
    t->span = block;
    if (is_prefix(&prompt, whole) && prompt.length > block.from && prompt.length < block.to) t->span.from = prompt.length;
    nm_rendered_free(&prompt);
    return NM_OK;
}

/* The bytes of each turn that matters. Generation blocks are told apart by their number: one a turn. */
static nm_err find_spans(nm_masker *m, const nm_record *record, const nm_rendered *whole, turns *list, bool *found)
{
    bool marks = nm_template_marks(m->tmpl);
    *found = true;
    for (size_t i = 0; i < list->count && *found; i++) {
        turn *t = &list->items[i];
        if (m->train_on == NM_TRAIN_ALL ? !t->refused : !t->trained) continue;
        *found = !marks || whole->n_marks == list->count;
        if (!*found) break;
        NM_TRY(marks ? find_by_mark(m, record, whole, whole->marks[i], t) : find_by_prefix(m, record, whole, t, found));
    }
    return NM_OK;
}

static nm_err mark_turns(nm_masker *m, tokens *s, const nm_rendered *whole, const turns *list, bool *fine)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].trained) mark(m, s, list->items[i].span, whole->length, 1);
    for (size_t i = 0; i < list->count && *fine; i++)
        if (list->items[i].trained) NM_TRY(end_span(m, s, list->items[i].span, whole->text, whole->length, fine));
    return NM_OK;
}

/* --train-on all: everything but the turns that are not to be. */
static nm_err mark_all(nm_masker *m, tokens *s, const nm_rendered *whole, const turns *list)
{
    bool ended;
    nm_mark everything = {0, whole->length};
    mark(m, s, everything, whole->length, 1);
    NM_TRY(end_span(m, s, everything, whole->text, whole->length, &ended));
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].refused) mark(m, s, list->items[i].span, whole->length, 0);
    return NM_OK;
}

/* *fine false: it takes one sequence per turn. */
static nm_err give_whole(nm_masker *m, const nm_rendered *whole, const turns *list, bool *fine)
{
    tokens s;
    uint64_t straddled = m->stats->straddled;
    NM_TRY(encode(m, whole->text, whole->length, &s));
    nm_err err = m->train_on == NM_TRAIN_ALL ? mark_all(m, &s, whole, list) : mark_turns(m, &s, whole, list, fine);
    if (err == NM_OK && *fine) err = give(m, &s);
    if (!*fine) m->stats->straddled = straddled;
    free_tokens(&s);
    return err;
}

/* ---- A row as one sequence per turn --------------------------------------------------------------------------------------------------- */

static size_t common_length(const nm_rendered *a, const nm_rendered *b)
{
    size_t n = 0;
    while (n < a->length && n < b->length && a->text[n] == b->text[n]) n++;
    while (n && n < a->length && ((unsigned char)a->text[n] & 0xc0) == 0x80) n--;      /* not within a character */
    return n;
}

static bool ends_in_open_thought(const nm_rendered *prompt)
{
    static const char tag[] = "<think>";
    size_t n = prompt->length;
    while (n && strchr(" \t\r\n", prompt->text[n - 1])) n--;
    return n >= sizeof tag - 1 && !memcmp(prompt->text + n - (sizeof tag - 1), tag, sizeof tag - 1);
}

/* Ends the thinking block that the prompt began, with the thoughts that the row has. */
static nm_err close_thought(nm_str *text, const nm_json *message)
{
    const nm_json *thoughts = nm_tree_string(message, "reasoning_content");
    if (thoughts) NM_TRY(nm_str_append(text, thoughts->string.bytes, thoughts->string.length));
    return nm_str_puts(text, "\n</think>\n\n");
}

/* The prompt as at inference, then what the turn's rendering has of its own. */
static nm_err join(const nm_rendered *prompt, const nm_rendered *with, const nm_json *message, nm_str *text)
{
    size_t common = common_length(prompt, with);
    const char *own = with->text + common;
    NM_TRY(nm_str_append(text, prompt->text, prompt->length));
    if (ends_in_open_thought(prompt) && !memmem(own, with->length - common, "</think>", 8)) NM_TRY(close_thought(text, message));
    return nm_str_append(text, own, with->length - common);
}

/* The last of the spans is where the answer ends. */
static nm_err give_spans(nm_masker *m, const char *text, size_t length, const nm_mark *spans, size_t count)
{
    tokens s;
    bool ended = true;
    NM_TRY(encode(m, text, length, &s));
    for (size_t i = 0; i < count; i++) mark(m, &s, spans[i], length, 1);
    nm_err err = end_span(m, &s, spans[count - 1], text, length, &ended);
    if (err == NM_OK && !ended) err = nm_fail(NM_BAD_FILE, "the template writes behind the answer and ends it by no token: it cannot be taught where to stop");
    if (err == NM_OK) err = give(m, &s);
    free_tokens(&s);
    return err;
}

/* The blocks of the last turn: those behind what the prompt and the rendering have in common. */
static nm_err give_marked(nm_masker *m, const nm_rendered *prompt, nm_rendered *with)
{
    size_t common = common_length(prompt, with), first = with->n_marks;
    while (first && with->marks[first - 1].to > common) first--;
    if (first == with->n_marks) return nm_fail(NM_BAD_FILE, "the template's generation blocks write nothing for an answer");
    if (with->marks[first].from < common) with->marks[first].from = common;
    return give_spans(m, with->text, with->length, with->marks + first, with->n_marks - first);
}

static nm_err give_joined(nm_masker *m, const nm_rendered *prompt, const nm_rendered *with, const nm_json *message)
{
    nm_str text = {0};
    nm_err err = join(prompt, with, message, &text);
    nm_mark answer = {prompt->length, text.length};
    if (err == NM_OK) err = give_spans(m, text.data, text.length, &answer, 1);
    nm_str_free(&text);
    return err;
}

static nm_err give_turn(nm_masker *m, const nm_record *record, const turn *t)
{
    nm_rendered prompt, with = {0};
    NM_TRY(render(m, record, t->at, true, &prompt));
    nm_err err = render(m, record, t->at + 1, false, &with);
    if (err == NM_OK && nm_template_marks(m->tmpl)) err = give_marked(m, &prompt, &with);
    else if (err == NM_OK) err = give_joined(m, &prompt, &with, &record->messages.array.items[t->at]);
    nm_rendered_free(&prompt);
    nm_rendered_free(&with);
    return err;
}

static nm_err give_turns(nm_masker *m, const nm_record *record, const turns *list)
{
    m->stats->split_rows += list->trained > 1;
    for (size_t i = 0; i < list->count; i++)
        if (list->items[i].trained) NM_TRY(give_turn(m, record, &list->items[i]));
    return NM_OK;
}

static nm_err mask_turns(nm_masker *m, const nm_record *record, turns *list)
{
    nm_rendered whole;
    bool fine;
    NM_TRY(find_turns(m, record, list));
    if (!list->trained && m->train_on != NM_TRAIN_ALL)
        return nm_fail(NM_BAD_FILE, list->count ? "none of the assistant's turns is trained (no question before it, weight 0 or train false)"
                                                : "no turn of the assistant: there is nothing to train");
    NM_TRY(render(m, record, record->messages.array.count, false, &whole));
    nm_err err = find_spans(m, record, &whole, list, &fine);
    if (err == NM_OK && fine) err = give_whole(m, &whole, list, &fine);
    nm_rendered_free(&whole);
    if (err != NM_OK || fine) return err;
    if (m->train_on == NM_TRAIN_ALL)
        return nm_fail(NM_BAD_FILE, "this template rewrites earlier turns: with --train-on all no turn may have weight 0");
    return give_turns(m, record, list);
}

/* ---- Texts ------------------------------------------------------------------------------------------------------------------------------ */

/* ids[from, to) as a sequence of its own, BOS before it. */
static nm_err give_window(nm_masker *m, const int32_t *ids, size_t count, bool ends)
{
    tokens s = {.ids = nm_calloc(count + 2, sizeof *s.ids), .mask = nm_malloc(count + 2)};
    nm_err err = s.ids && s.mask ? NM_OK : nm_fail_memory(count * sizeof *s.ids);
    if (err == NM_OK) {
        if (m->bos >= 0) s.ids[s.count++] = m->bos;
        memcpy(s.ids + s.count, ids, count * sizeof *ids);
        s.count += count;
        if (ends) s.ids[s.count++] = m->end;
        memset(s.mask, 1, s.count);
        s.mask[0] = 0;
        nm_sequence q = {.ids = s.ids, .mask = s.mask, .count = s.count, .trained = s.count - 1, .alone = true};
        if (q.trained) err = m->give(m->arg, &q);
    }
    free_tokens(&s);
    return err;
}

/* As many sequences as it takes; nothing is cut off. */
static nm_err give_windows(nm_masker *m, const int32_t *ids, size_t count, bool continues)
{
    bool ends = !continues && !(count && nm_token_ends(m->tokenizer, ids[count - 1]));
    size_t room = m->max_length - (m->bos >= 0);
    if (!count) return NM_OK;
    for (size_t at = 0, n; at < count; at += n) {
        n = count - at <= room ? count - at : room;
        bool last = at + n == count;
        if (last && ends && n == room && n > 1) n--, last = false;      /* the end needs a place, too */
        NM_TRY(give_window(m, ids + at, n, last && ends));
    }
    return NM_OK;
}

static nm_err mask_text(nm_masker *m, const nm_record *record, bool plain, bool continues)
{
    int32_t *ids;
    size_t count;
    NM_TRY(nm_tokenize(m->tokenizer, record->text.string.bytes, record->text.string.length, plain ? 0 : NM_TEXT_SPECIAL, &ids, &count));
    size_t skip = count && m->bos >= 0 && ids[0] == m->bos;    /* the text has one already */
    nm_err err = give_windows(m, ids + skip, count - skip, continues);
    nm_free(ids);
    return err;
}

nm_err nm_mask_record(nm_masker *m, nm_record *record, bool plain, bool continues)
{
    turns list = {0};
    if (record->text.kind == NM_JSON_STRING) return mask_text(m, record, plain, continues);
    nm_err err = mask_turns(m, record, &list);
    nm_free(list.items);
    return err;
}
