/* Tokens to a syntax tree, by jinja2's grammar: a function per level of precedence. Depth and height are bounded here, so that no
 * later walk over the tree needs to fear for its stack. Refuses tags that reach beyond the template. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "text/template.h"

enum { PARSE_DEPTH = 250, TREE_HEIGHT = 400, MOST_ITEMS = 1 << 20, MOST_ARGS = 255, MOST_PARAMS = 255 };

/* ---- Errors, memory, names ---------------------------------------------------------------------------------------------------- */

nm_err nm_parse_fail(nm_parser *p, uint32_t line, const char *format, ...)
{
    char text[512];
    va_list ap;
    if (p->err != NM_OK) return p->err;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return p->err = nm_fail(NM_BAD_FILE, "%s: line %u: %s", p->tmpl->name, line, text);
}

void *nm_parse_alloc(nm_parser *p, size_t count, size_t size)
{
    size_t bytes;
    void *at = NULL;
    if (p->err != NM_OK) return NULL;
    if (!nm_mul_overflow(count, size, &bytes)) at = nm_arena_alloc(&p->tmpl->arena, bytes);
    if (at) return memset(at, 0, bytes);
    if (p->tmpl->arena.at_limit) nm_parse_fail(p, 1, "the template is too large: it needs more than %zu bytes", p->tmpl->arena.limit);
    else p->err = nm_fail_memory(count * size);
    return NULL;
}

static size_t name_bucket(const nm_parser *p, const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    size_t at = (h ^ h >> 32) & (p->n_buckets - 1);
    while (p->names[at] && (p->names[at]->n != n || memcmp(p->names[at]->s, s, n))) at = (at + 1) & (p->n_buckets - 1);
    return at;
}

static bool names_grow(nm_parser *p)
{
    size_t old_n = p->n_buckets;
    nm_name **old = p->names;
    size_t want = old_n ? old_n * 2 : 64;
    nm_name **table = nm_parse_alloc(p, want, sizeof *table);
    if (!table) return false;
    p->names = table;
    p->n_buckets = want;
    for (size_t i = 0; i < old_n; i++) if (old[i]) table[name_bucket(p, old[i]->s, old[i]->n)] = old[i];
    return true;
}

static const nm_name *intern(nm_parser *p, const char *s, size_t n)
{
    if (p->n_names * 2 >= p->n_buckets && !names_grow(p)) return NULL;
    size_t at = name_bucket(p, s, n);
    if (p->names[at]) return p->names[at];
    nm_name *name = nm_parse_alloc(p, 1, sizeof *name);
    if (!name) return NULL;
    *name = (nm_name){s, n, (uint32_t)p->n_names++};
    return p->names[at] = name;
}

/* ---- Tokens ---------------------------------------------------------------------------------------------------------------------- */

static const nm_token *now(const nm_parser *p) { return &p->tokens.items[p->at]; }
static const nm_token *ahead(const nm_parser *p) { return &p->tokens.items[p->at + (now(p)->kind != NM_TOK_EOF)]; }
static bool at_kind(const nm_parser *p, nm_token_kind kind) { return now(p)->kind == kind; }

static const nm_token *take(nm_parser *p)
{
    const nm_token *t = now(p);
    if (t->kind != NM_TOK_EOF) p->at++;
    return t;
}

static bool is_word(const nm_token *t, const char *word)
{
    return t->kind == NM_TOK_NAME && t->n == strlen(word) && !memcmp(t->s, word, t->n);
}

static bool at_word(const nm_parser *p, const char *word) { return is_word(now(p), word); }

static bool skip_word(nm_parser *p, const char *word)
{
    if (!at_word(p, word)) return false;
    p->at++;
    return true;
}

static bool skip_kind(nm_parser *p, nm_token_kind kind)
{
    if (!at_kind(p, kind)) return false;
    p->at++;
    return true;
}

static const char *token_word(const nm_token *t, char buffer[48])
{
    static const char *const words[] = {
        [NM_TOK_EOF] = "end of template", [NM_TOK_DATA] = "text", [NM_TOK_VAR_BEGIN] = "{{", [NM_TOK_VAR_END] = "}}", [NM_TOK_BLOCK_BEGIN] = "{%",
        [NM_TOK_BLOCK_END] = "%}", [NM_TOK_NAME] = "name", [NM_TOK_STRING] = "string", [NM_TOK_INT] = "integer", [NM_TOK_FLOAT] = "float",
        [NM_TOK_ADD] = "+", [NM_TOK_SUB] = "-", [NM_TOK_MUL] = "*", [NM_TOK_DIV] = "/", [NM_TOK_FLOORDIV] = "//", [NM_TOK_MOD] = "%",
        [NM_TOK_POW] = "**", [NM_TOK_TILDE] = "~", [NM_TOK_EQ] = "==", [NM_TOK_NE] = "!=", [NM_TOK_LT] = "<", [NM_TOK_LE] = "<=",
        [NM_TOK_GT] = ">", [NM_TOK_GE] = ">=", [NM_TOK_ASSIGN] = "=", [NM_TOK_DOT] = ".", [NM_TOK_COMMA] = ",", [NM_TOK_COLON] = ":",
        [NM_TOK_SEMICOLON] = ";", [NM_TOK_PIPE] = "|", [NM_TOK_LPAREN] = "(", [NM_TOK_RPAREN] = ")", [NM_TOK_LBRACKET] = "[",
        [NM_TOK_RBRACKET] = "]", [NM_TOK_LBRACE] = "{", [NM_TOK_RBRACE] = "}"
    };
    if (t->kind != NM_TOK_NAME || !t->s) return words[t->kind];
    snprintf(buffer, 48, "%.*s", t->n < 40 ? (int)t->n : 40, t->s);
    return buffer;
}

static nm_err unexpected(nm_parser *p, const char *wanted)
{
    char buffer[48];
    return nm_parse_fail(p, now(p)->line, "expected %s, got '%s'", wanted, token_word(now(p), buffer));
}

static void expect(nm_parser *p, nm_token_kind kind)
{
    char buffer[48];
    if (!skip_kind(p, kind)) unexpected(p, token_word(&(nm_token){.kind = kind}, buffer));
}

static void expect_word(nm_parser *p, const char *word)
{
    if (!skip_word(p, word)) unexpected(p, word);
}

static const nm_name *expect_name(nm_parser *p)
{
    if (!at_kind(p, NM_TOK_NAME)) {
        unexpected(p, "a name");
        return NULL;
    }
    const nm_token *t = take(p);
    return intern(p, t->s, t->n);
}

/* ---- Nodes ------------------------------------------------------------------------------------------------------------------------ */

static nm_node *new_node(nm_parser *p, nm_node_kind kind, uint32_t line)
{
    nm_node *node = nm_parse_alloc(p, 1, sizeof *node);
    if (!node) return NULL;
    node->kind = (uint8_t)kind;
    node->line = line;
    node->height = 1;
    return node;
}

/* Accounts for a child; every link from parent to child passes here. Null after an error. */
static void adopt(nm_parser *p, nm_node *parent, const nm_node *child)
{
    if (!parent || !child) return;
    if (child->height >= TREE_HEIGHT) {
        nm_parse_fail(p, child->line, "nested deeper than %d levels", TREE_HEIGHT);
        return;
    }
    if (parent->height <= child->height) parent->height = child->height + 1;
}

static nm_node *with_children(nm_parser *p, nm_node *node, nm_node *a, nm_node *b)
{
    if (!node || p->err != NM_OK) return NULL;
    adopt(p, node, a);
    adopt(p, node, b);
    node->a = a;
    node->b = b;
    return p->err == NM_OK ? node : NULL;
}

typedef struct node_list { nm_node **items; size_t n, capacity; } node_list;

static void push(nm_parser *p, node_list *list, nm_node *item)
{
    if (p->err != NM_OK) return;
    if (list->n == MOST_ITEMS) {
        nm_parse_fail(p, now(p)->line, "more than %d items", MOST_ITEMS);
        return;
    }
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 4;
        nm_node **items = nm_parse_alloc(p, capacity, sizeof *items);
        if (!items) return;
        if (list->n) memcpy(items, list->items, list->n * sizeof *items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = item;
}

static nm_node *with_list(nm_parser *p, nm_node *node, const node_list *list)
{
    if (!node || p->err != NM_OK) return NULL;
    for (size_t i = 0; i < list->n; i++) adopt(p, node, list->items[i]);
    node->list = list->items;
    node->n = (uint32_t)list->n;
    return p->err == NM_OK ? node : NULL;
}

static bool deeper(nm_parser *p)
{
    if (p->err != NM_OK) return false;
    if (++p->depth > PARSE_DEPTH) nm_parse_fail(p, now(p)->line, "nested deeper than %d levels", PARSE_DEPTH);
    return p->err == NM_OK;
}

/* ---- Expressions: primaries ------------------------------------------------------------------------------------------------------- */

static nm_node *parse_expression(nm_parser *p, bool conditional);
static nm_node *parse_unary(nm_parser *p, bool with_filter);

enum { TUPLE_CONDITIONAL = 1, TUPLE_TARGET = 2, TUPLE_NAMESPACE = 4, TUPLE_PARENTHESES = 8 };
static nm_node *parse_tuple(nm_parser *p, unsigned how);

static nm_node *constant(nm_parser *p, uint32_t line, nm_tv value)
{
    nm_node *node = new_node(p, NM_N_CONST, line);
    if (node) node->value = value;
    return node;
}

static nm_node *text_constant(nm_parser *p, uint32_t line, const char *s, size_t n)
{
    nm_tv_string *string = nm_parse_alloc(p, 1, sizeof *string);
    if (!string) return NULL;
    *string = (nm_tv_string){s, n, NULL};
    return constant(p, line, (nm_tv){.kind = NM_TV_STRING, .s = string});
}

/* Strings that stand side by side are one. */
static nm_node *parse_strings(nm_parser *p)
{
    uint32_t line = now(p)->line;
    size_t n = 0, first = p->at;
    while (at_kind(p, NM_TOK_STRING)) n += take(p)->n;
    if (p->at == first + 1) return text_constant(p, line, p->tokens.items[first].s, n);
    char *joined = nm_parse_alloc(p, n + 1, 1);
    if (!joined) return NULL;
    n = 0;
    for (size_t i = first; i < p->at; i++) {
        memcpy(joined + n, p->tokens.items[i].s, p->tokens.items[i].n);
        n += p->tokens.items[i].n;
    }
    return text_constant(p, line, joined, n);
}

static nm_node *parse_name(nm_parser *p, bool with_namespace)
{
    const nm_token *t = take(p);
    if (is_word(t, "true") || is_word(t, "True")) return constant(p, t->line, nm_tv_bool(true));
    if (is_word(t, "false") || is_word(t, "False")) return constant(p, t->line, nm_tv_bool(false));
    if (is_word(t, "none") || is_word(t, "None")) return constant(p, t->line, nm_tv_none());
    bool attribute = with_namespace && skip_kind(p, NM_TOK_DOT);
    nm_node *node = new_node(p, attribute ? NM_N_NSREF : NM_N_NAME, t->line);
    if (!node) return NULL;
    node->name = intern(p, t->s, t->n);
    if (attribute) node->attr = expect_name(p);
    return node;
}

static nm_node *parse_list(nm_parser *p, nm_node_kind kind, nm_token_kind end)
{
    node_list items = {0};
    nm_node *node = new_node(p, kind, take(p)->line);
    while (p->err == NM_OK && !at_kind(p, end)) {
        if (items.n) expect(p, NM_TOK_COMMA);
        if (at_kind(p, end)) break;
        push(p, &items, parse_expression(p, true));
        if (kind == NM_N_LIST) continue;
        expect(p, NM_TOK_COLON);
        push(p, &items, parse_expression(p, true));
    }
    expect(p, end);
    return with_list(p, node, &items);
}

static nm_node *parse_primary(nm_parser *p, bool with_namespace)
{
    const nm_token *t = now(p);
    nm_node *node = NULL;
    switch (t->kind) {
    case NM_TOK_NAME: return parse_name(p, with_namespace);
    case NM_TOK_STRING: return parse_strings(p);
    case NM_TOK_INT: return constant(p, take(p)->line, nm_tv_int(t->i));
    case NM_TOK_FLOAT: return constant(p, take(p)->line, nm_tv_float(t->f));
    case NM_TOK_LBRACKET: return parse_list(p, NM_N_LIST, NM_TOK_RBRACKET);
    case NM_TOK_LBRACE: return parse_list(p, NM_N_DICT, NM_TOK_RBRACE);
    case NM_TOK_LPAREN:
        take(p);
        node = parse_tuple(p, TUPLE_CONDITIONAL | TUPLE_PARENTHESES);
        expect(p, NM_TOK_RPAREN);
        return node;
    default:
        unexpected(p, "an expression");
        return NULL;
    }
}

static bool tuple_ends(const nm_parser *p)
{
    nm_token_kind kind = now(p)->kind;
    return kind == NM_TOK_VAR_END || kind == NM_TOK_BLOCK_END || kind == NM_TOK_RPAREN;
}

/* One expression, or several with commas between them. */
static nm_node *parse_tuple(nm_parser *p, unsigned how)
{
    node_list items = {0};
    bool is_tuple = false;
    uint32_t line = now(p)->line;
    if (!deeper(p)) return NULL;
    while (p->err == NM_OK) {
        if (items.n) expect(p, NM_TOK_COMMA);
        if (tuple_ends(p)) break;
        push(p, &items, how & TUPLE_TARGET ? parse_primary(p, how & TUPLE_NAMESPACE) : parse_expression(p, how & TUPLE_CONDITIONAL));
        if (!at_kind(p, NM_TOK_COMMA)) break;
        is_tuple = true;
    }
    p->depth--;
    if (p->err != NM_OK) return NULL;
    if (!is_tuple && items.n) return items.items[0];
    if (!is_tuple && !(how & TUPLE_PARENTHESES)) {
        unexpected(p, "an expression");
        return NULL;
    }
    return with_list(p, new_node(p, NM_N_TUPLE, line), &items);
}

/* ---- Expressions: what follows a primary --------------------------------------------------------------------------------------- */

static void add_keyword(nm_parser *p, nm_call_args *args, const nm_name *name, node_list *values)
{
    size_t n = args->n_kw;
    for (size_t i = 0; i < n; i++)
        if (args->names[i] == name) nm_parse_fail(p, now(p)->line, "keyword argument repeated: %.*s", (int)name->n, name->s);
    if (!(n & (n - 1))) {       /* full at powers of two */
        const nm_name **names = nm_parse_alloc(p, n ? n * 2 : 1, sizeof *names);
        if (!names) return;
        if (n) memcpy(names, args->names, n * sizeof *names);
        args->names = names;
    }
    args->names[args->n_kw++] = name;
    push(p, values, parse_expression(p, true));
}

static void parse_argument(nm_parser *p, nm_call_args *args, node_list *pos, node_list *values)
{
    bool fits = true;
    if (skip_kind(p, NM_TOK_MUL)) {
        fits = !args->more && !args->more_named;
        args->more = parse_expression(p, true);
    } else if (skip_kind(p, NM_TOK_POW)) {
        fits = !args->more_named;
        args->more_named = parse_expression(p, true);
    } else if (at_kind(p, NM_TOK_NAME) && ahead(p)->kind == NM_TOK_ASSIGN) {
        fits = !args->more_named;
        const nm_name *name = expect_name(p);
        take(p);
        if (name) add_keyword(p, args, name, values);
    } else {
        fits = !args->more && !args->more_named && !values->n;
        push(p, pos, parse_expression(p, true));
    }
    if (!fits || pos->n > MOST_ARGS || values->n > MOST_ARGS) nm_parse_fail(p, now(p)->line, "invalid syntax for function call expression");
}

/* (a, b, key=c, *d, **e) */
static nm_call_args *parse_call_args(nm_parser *p)
{
    node_list pos = {0}, values = {0};
    nm_call_args *args = nm_parse_alloc(p, 1, sizeof *args);
    if (!args) return NULL;
    expect(p, NM_TOK_LPAREN);
    for (bool first = true; p->err == NM_OK && !at_kind(p, NM_TOK_RPAREN); first = false) {
        if (!first) expect(p, NM_TOK_COMMA);
        if (!first && at_kind(p, NM_TOK_RPAREN)) break;
        parse_argument(p, args, &pos, &values);
    }
    expect(p, NM_TOK_RPAREN);
    args->pos = pos.items;
    args->n = (uint16_t)pos.n;
    args->values = values.items;
    return p->err == NM_OK ? args : NULL;
}

static nm_node *with_args(nm_parser *p, nm_node *node, nm_call_args *args)
{
    if (!node || p->err != NM_OK) return NULL;
    node->args = args;
    for (int i = 0; i < args->n; i++) adopt(p, node, args->pos[i]);
    for (int i = 0; i < args->n_kw; i++) adopt(p, node, args->values[i]);
    adopt(p, node, args->more);
    adopt(p, node, args->more_named);
    return p->err == NM_OK ? node : NULL;
}

static nm_node *parse_call(nm_parser *p, nm_node *callee)
{
    nm_node *node = with_children(p, new_node(p, NM_N_CALL, now(p)->line), callee, NULL);
    return with_args(p, node, parse_call_args(p));
}

/* What stands in brackets: an expression or a slice. */
static nm_node *parse_subscribed(nm_parser *p)
{
    nm_node *parts[3] = {NULL, NULL, NULL};
    uint32_t line = now(p)->line;
    if (!at_kind(p, NM_TOK_COLON)) {
        parts[0] = parse_expression(p, true);
        if (!at_kind(p, NM_TOK_COLON)) return parts[0];
    }
    for (int i = 1; i < 3 && p->err == NM_OK && skip_kind(p, NM_TOK_COLON); i++)
        if (!at_kind(p, NM_TOK_COLON) && !at_kind(p, NM_TOK_RBRACKET) && !at_kind(p, NM_TOK_COMMA)) parts[i] = parse_expression(p, true);
    node_list three = {0};
    for (int i = 0; i < 3; i++) push(p, &three, parts[i]);
    return with_list(p, new_node(p, NM_N_SLICE, line), &three);
}

/* a:b:c that still lacks what it is to cut */
static bool is_bare_slice(const nm_node *node) { return node->kind == NM_N_SLICE && !node->a; }

static nm_node *parse_brackets(nm_parser *p, nm_node *of)
{
    node_list items = {0};
    uint32_t line = take(p)->line;
    while (p->err == NM_OK && !at_kind(p, NM_TOK_RBRACKET)) {
        if (items.n) expect(p, NM_TOK_COMMA);
        push(p, &items, parse_subscribed(p));
    }
    expect(p, NM_TOK_RBRACKET);
    if (p->err != NM_OK) return NULL;
    nm_node *key = items.n == 1 ? items.items[0] : with_list(p, new_node(p, NM_N_TUPLE, line), &items);
    if (!key) return NULL;
    if (is_bare_slice(key)) return with_children(p, key, of, NULL);
    for (size_t i = 0; i < items.n; i++)
        if (is_bare_slice(items.items[i])) nm_parse_fail(p, line, "a slice among several subscripts");
    return with_children(p, new_node(p, NM_N_ITEM, line), of, key);
}

static nm_node *parse_dot(nm_parser *p, nm_node *of)
{
    uint32_t line = take(p)->line;
    if (at_kind(p, NM_TOK_INT)) return with_children(p, new_node(p, NM_N_ITEM, line), of, parse_primary(p, false));
    nm_node *node = with_children(p, new_node(p, NM_N_ATTR, line), of, NULL);
    const nm_name *attr = expect_name(p);
    if (node) node->attr = attr;
    return node;
}

static nm_node *parse_postfix(nm_parser *p, nm_node *node)
{
    while (p->err == NM_OK) {
        if (at_kind(p, NM_TOK_DOT)) node = parse_dot(p, node);
        else if (at_kind(p, NM_TOK_LBRACKET)) node = parse_brackets(p, node);
        else if (at_kind(p, NM_TOK_LPAREN)) node = parse_call(p, node);
        else break;
    }
    return node;
}

/* A filter's or test's name, which may have dots. */
static const nm_name *parse_dotted(nm_parser *p)
{
    const nm_name *name = expect_name(p);
    while (name && at_kind(p, NM_TOK_DOT)) {
        take(p);
        const nm_name *more = expect_name(p);
        if (!more) return NULL;
        char *joined = nm_parse_alloc(p, name->n + more->n + 1, 1);
        if (!joined) return NULL;
        memcpy(joined, name->s, name->n);
        joined[name->n] = '.';
        memcpy(joined + name->n + 1, more->s, more->n);
        name = intern(p, joined, name->n + more->n + 1);
    }
    return name;
}

static nm_node *parse_filter(nm_parser *p, nm_node *of)
{
    nm_node *node = with_children(p, new_node(p, NM_N_FILTER, now(p)->line), of, NULL);
    const nm_name *name = parse_dotted(p);
    if (!node || !name) return NULL;
    node->callee = name;
    node->callable = nm_filter_find(name->s, name->n);
    nm_call_args *args = at_kind(p, NM_TOK_LPAREN) ? parse_call_args(p) : nm_parse_alloc(p, 1, sizeof *args);
    return with_args(p, node, args);
}

/* One argument without parentheses may follow a test's name. */
static nm_call_args *parse_test_args(nm_parser *p)
{
    if (at_kind(p, NM_TOK_LPAREN)) return parse_call_args(p);
    nm_call_args *args = nm_parse_alloc(p, 1, sizeof *args);
    nm_token_kind kind = now(p)->kind;
    bool follows = kind == NM_TOK_NAME || kind == NM_TOK_STRING || kind == NM_TOK_INT || kind == NM_TOK_FLOAT || kind == NM_TOK_LBRACKET ||
                   kind == NM_TOK_LBRACE;
    if (!args || !follows || at_word(p, "else") || at_word(p, "or") || at_word(p, "and")) return args;
    if (at_word(p, "is")) nm_parse_fail(p, now(p)->line, "tests cannot be chained with 'is'");
    node_list pos = {0};
    push(p, &pos, parse_postfix(p, parse_primary(p, false)));
    args->pos = pos.items;
    args->n = 1;
    return p->err == NM_OK ? args : NULL;
}

static nm_node *parse_test(nm_parser *p, nm_node *of)
{
    uint32_t line = take(p)->line;
    bool negated = skip_word(p, "not");
    nm_node *node = with_children(p, new_node(p, NM_N_TEST, line), of, NULL);
    const nm_name *name = parse_dotted(p);
    if (!node || !name) return NULL;
    node->callee = name;
    node->callable = nm_test_find(name->s, name->n);
    node = with_args(p, node, parse_test_args(p));
    return negated ? with_children(p, new_node(p, NM_N_NOT, line), node, NULL) : node;
}

static nm_node *parse_filters(nm_parser *p, nm_node *node)
{
    while (p->err == NM_OK) {
        if (skip_kind(p, NM_TOK_PIPE)) node = parse_filter(p, node);
        else if (at_word(p, "is")) node = parse_test(p, node);
        else if (at_kind(p, NM_TOK_LPAREN)) node = parse_call(p, node);
        else break;
    }
    return node;
}

/* ---- Expressions: operators, from the tightest to the loosest --------------------------------------------------------------------- */

static nm_node *parse_unary(nm_parser *p, bool with_filter)
{
    nm_node *node = NULL;
    uint32_t line = now(p)->line;
    if (!deeper(p)) return NULL;
    if (at_kind(p, NM_TOK_SUB) || at_kind(p, NM_TOK_ADD)) {
        nm_node_kind kind = take(p)->kind == NM_TOK_SUB ? NM_N_NEG : NM_N_POS;
        node = with_children(p, new_node(p, kind, line), parse_unary(p, false), NULL);
    } else {
        node = parse_primary(p, false);
    }
    node = parse_postfix(p, node);
    if (with_filter) node = parse_filters(p, node);
    p->depth--;
    return node;
}

static nm_node *binary(nm_parser *p, char op, uint32_t line, nm_node *a, nm_node *b)
{
    nm_node *node = with_children(p, new_node(p, NM_N_BINARY, line), a, b);
    if (node) node->op = (uint8_t)op;
    return node;
}

static nm_node *parse_pow(nm_parser *p)
{
    uint32_t line = now(p)->line;
    nm_node *left = parse_unary(p, true);
    while (p->err == NM_OK && skip_kind(p, NM_TOK_POW)) left = binary(p, 'p', line, left, parse_unary(p, true));
    return left;
}

static nm_node *parse_product(nm_parser *p)
{
    uint32_t line = now(p)->line;
    nm_node *left = parse_pow(p);
    while (p->err == NM_OK) {
        nm_token_kind kind = now(p)->kind;
        char op = kind == NM_TOK_MUL ? '*' : kind == NM_TOK_DIV ? '/' : kind == NM_TOK_FLOORDIV ? 'f' : kind == NM_TOK_MOD ? '%' : 0;
        if (!op) break;
        take(p);
        left = binary(p, op, line, left, parse_pow(p));
    }
    return left;
}

static nm_node *parse_concat(nm_parser *p)
{
    node_list items = {0};
    uint32_t line = now(p)->line;
    nm_node *first = parse_product(p);
    if (!at_kind(p, NM_TOK_TILDE)) return first;
    push(p, &items, first);
    while (p->err == NM_OK && skip_kind(p, NM_TOK_TILDE)) push(p, &items, parse_product(p));
    return with_list(p, new_node(p, NM_N_CONCAT, line), &items);
}

static nm_node *parse_sum(nm_parser *p)
{
    uint32_t line = now(p)->line;
    nm_node *left = parse_concat(p);
    while (p->err == NM_OK && (at_kind(p, NM_TOK_ADD) || at_kind(p, NM_TOK_SUB))) {
        char op = take(p)->kind == NM_TOK_ADD ? '+' : '-';
        left = binary(p, op, line, left, parse_concat(p));
    }
    return left;
}

/* The comparison at this point as a token kind, 'i' (in) or 'n' (not in), consumed; 0 if there is none. */
static int take_comparison(nm_parser *p)
{
    nm_token_kind kind = now(p)->kind;
    if (kind >= NM_TOK_EQ && kind <= NM_TOK_GE) return (int)take(p)->kind;
    if (skip_word(p, "in")) return 'i';
    if (!at_word(p, "not") || !is_word(ahead(p), "in")) return 0;
    p->at += 2;
    return 'n';
}

static nm_node *parse_compare(nm_parser *p)
{
    node_list items = {0};
    uint8_t ops[TREE_HEIGHT];
    uint32_t line = now(p)->line;
    nm_node *first = parse_sum(p);
    int op = p->err == NM_OK ? take_comparison(p) : 0;
    if (!op) return first;
    for (; p->err == NM_OK && op; op = take_comparison(p)) {
        if (items.n == TREE_HEIGHT) nm_parse_fail(p, line, "more than %d comparisons in a row", TREE_HEIGHT);
        else ops[items.n] = (uint8_t)op;
        push(p, &items, parse_sum(p));
    }
    nm_node *node = with_list(p, with_children(p, new_node(p, NM_N_COMPARE, line), first, NULL), &items);
    uint8_t *kept = nm_parse_alloc(p, items.n, 1);
    if (!node || !kept) return NULL;
    node->compare_ops = memcpy(kept, ops, items.n);
    return node;
}

static nm_node *parse_not(nm_parser *p)
{
    uint32_t line = now(p)->line;
    if (!at_word(p, "not")) return parse_compare(p);
    take(p);
    if (!deeper(p)) return NULL;
    nm_node *node = with_children(p, new_node(p, NM_N_NOT, line), parse_not(p), NULL);
    p->depth--;
    return node;
}

static nm_node *parse_and(nm_parser *p)
{
    uint32_t line = now(p)->line;
    nm_node *left = parse_not(p);
    while (p->err == NM_OK && skip_word(p, "and")) left = with_children(p, new_node(p, NM_N_AND, line), left, parse_not(p));
    return left;
}

static nm_node *parse_or(nm_parser *p)
{
    uint32_t line = now(p)->line;
    nm_node *left = parse_and(p);
    while (p->err == NM_OK && skip_word(p, "or")) left = with_children(p, new_node(p, NM_N_OR, line), left, parse_and(p));
    return left;
}

static nm_node *parse_expression(nm_parser *p, bool conditional)
{
    if (!deeper(p)) return NULL;
    uint32_t line = now(p)->line;
    nm_node *value = parse_or(p);
    while (conditional && p->err == NM_OK && skip_word(p, "if")) {
        nm_node *test = parse_or(p);
        nm_node *otherwise = p->err == NM_OK && skip_word(p, "else") ? parse_expression(p, true) : NULL;
        value = with_children(p, new_node(p, NM_N_COND, line), test, value);
        adopt(p, value, otherwise);
        if (value) value->c = otherwise;
    }
    p->depth--;
    return p->err == NM_OK ? value : NULL;
}

/* ---- Statements ---------------------------------------------------------------------------------------------------------------------- */

static nm_node *parse_body(nm_parser *p, const char *const *ends);

/* The statements up to one of the end tags; leaves the parser at its word. */
static nm_node *parse_block(nm_parser *p, const char *const *ends)
{
    skip_kind(p, NM_TOK_COLON);
    expect(p, NM_TOK_BLOCK_END);
    if (p->err != NM_OK) return NULL;
    nm_node *body = parse_body(p, ends);
    if (p->err == NM_OK && at_kind(p, NM_TOK_EOF)) nm_parse_fail(p, now(p)->line, "unexpected end of template, expected '%s'", ends[0]);
    return body;
}

static nm_node *parse_block_to(nm_parser *p, const char *end)
{
    nm_node *body = parse_block(p, (const char *const[]){end, NULL});
    take(p);
    return body;
}

static void set_body(nm_parser *p, nm_node *node, nm_node *body)
{
    adopt(p, node, body);
    if (node) node->d = body;
}

static void check_target(nm_parser *p, const nm_node *target)
{
    if (!target || p->err != NM_OK) return;
    if (target->kind == NM_N_TUPLE) {
        for (uint32_t i = 0; i < target->n; i++) check_target(p, target->list[i]);
    } else if (target->kind != NM_N_NAME && target->kind != NM_N_NSREF) {
        nm_parse_fail(p, target->line, "cannot assign to this expression");
    }
}

static nm_node *parse_target(nm_parser *p, unsigned how)
{
    nm_node *target = parse_tuple(p, TUPLE_TARGET | how);
    check_target(p, target);
    return target;
}

static bool is_constant_word(const nm_name *name)
{
    static const char *const words[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (name->n == strlen(words[i]) && !memcmp(name->s, words[i], name->n)) return true;
    return false;
}

static const nm_name *parse_target_name(nm_parser *p)
{
    const nm_name *name = expect_name(p);
    if (name && is_constant_word(name)) nm_parse_fail(p, now(p)->line, "cannot assign to '%.*s'", (int)name->n, name->s);
    return name;
}

static nm_node *parse_if(nm_parser *p, uint32_t line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    nm_node *node = new_node(p, NM_N_IF, line), *otherwise = NULL;
    node_list branches = {0};
    while (p->err == NM_OK) {
        push(p, &branches, parse_tuple(p, 0));
        push(p, &branches, parse_block(p, ends));
        if (skip_word(p, "elif")) continue;
        if (skip_word(p, "else")) otherwise = parse_block_to(p, "endif");
        else take(p);
        break;
    }
    node = with_list(p, node, &branches);
    adopt(p, node, otherwise);
    if (node) node->c = otherwise;
    return node;
}

/* A second tree of the same target: the loop's condition is a function of its own, where the names live elsewhere. */
static nm_node *copy_target(nm_parser *p, const nm_node *target)
{
    node_list items = {0};
    if (!target) return NULL;
    nm_node *copy = new_node(p, (nm_node_kind)target->kind, target->line);
    if (copy && target->kind != NM_N_TUPLE) {
        copy->name = target->name;
        return copy;
    }
    for (uint32_t i = 0; i < target->n; i++) push(p, &items, copy_target(p, target->list[i]));
    return with_list(p, copy, &items);
}

static nm_node *parse_for(nm_parser *p, uint32_t line)
{
    static const char *const ends[] = {"endfor", "else", NULL};
    nm_node *node = new_node(p, NM_N_FOR, line);
    nm_for_node *loop = nm_parse_alloc(p, 1, sizeof *loop);
    if (!loop) return NULL;
    nm_node *target = parse_target(p, 0);
    expect_word(p, "in");
    node = with_children(p, node, target, parse_tuple(p, 0));
    if (p->err == NM_OK && skip_word(p, "if")) loop->test = parse_expression(p, true);
    if (loop->test) loop->test_target = copy_target(p, target);
    adopt(p, node, loop->test);
    loop->recursive = skip_word(p, "recursive");
    int outer = p->loops++;
    set_body(p, node, parse_block(p, ends));
    p->loops = loop->recursive ? 0 : outer;
    bool has_else = at_word(p, "else");
    take(p);
    nm_node *otherwise = has_else ? parse_block_to(p, "endfor") : NULL;
    p->loops = outer;
    adopt(p, node, otherwise);
    if (!node || p->err != NM_OK) return NULL;
    node->c = otherwise;
    node->loop = loop;
    return node;
}

static nm_node *parse_set(nm_parser *p, uint32_t line)
{
    nm_node *target = parse_target(p, TUPLE_NAMESPACE);
    if (p->err == NM_OK && skip_kind(p, NM_TOK_ASSIGN))
        return with_children(p, new_node(p, NM_N_SET, line), target, parse_tuple(p, TUPLE_CONDITIONAL));
    nm_node *filters = NULL;
    while (p->err == NM_OK && skip_kind(p, NM_TOK_PIPE)) filters = parse_filter(p, filters);
    nm_node *node = with_children(p, new_node(p, NM_N_SET_BLOCK, line), target, filters);
    set_body(p, node, parse_block_to(p, "endset"));
    return node;
}

static nm_node *parse_with(nm_parser *p, uint32_t line)
{
    node_list pairs = {0};
    nm_node *node = new_node(p, NM_N_WITH, line);
    while (p->err == NM_OK && !at_kind(p, NM_TOK_BLOCK_END)) {
        if (pairs.n) expect(p, NM_TOK_COMMA);
        push(p, &pairs, parse_target(p, 0));
        expect(p, NM_TOK_ASSIGN);
        push(p, &pairs, parse_expression(p, true));
    }
    node = with_list(p, node, &pairs);
    set_body(p, node, parse_block_to(p, "endwith"));
    return node;
}

static nm_node *parse_filter_block(nm_parser *p, uint32_t line)
{
    nm_node *filters = parse_filter(p, NULL);
    while (p->err == NM_OK && skip_kind(p, NM_TOK_PIPE)) filters = parse_filter(p, filters);
    nm_node *node = with_children(p, new_node(p, NM_N_FILTER_BLOCK, line), NULL, filters);
    set_body(p, node, parse_block_to(p, "endfilter"));
    return node;
}

/* (a, b=1): parameters of a macro or a call block */
static void parse_signature(nm_parser *p, nm_node *node, nm_macro_node *macro)
{
    const nm_name *names[MOST_PARAMS];
    node_list defaults = {0};
    size_t n = 0;
    expect(p, NM_TOK_LPAREN);
    while (p->err == NM_OK && !at_kind(p, NM_TOK_RPAREN)) {
        if (n) expect(p, NM_TOK_COMMA);
        const nm_name *name = parse_target_name(p);
        for (size_t i = 0; name && i < n; i++)
            if (names[i] == name) nm_parse_fail(p, now(p)->line, "duplicate parameter '%.*s'", (int)name->n, name->s);
        if (n == MOST_PARAMS) nm_parse_fail(p, now(p)->line, "more than %d parameters", MOST_PARAMS);
        else names[n++] = name;
        if (skip_kind(p, NM_TOK_ASSIGN)) push(p, &defaults, parse_expression(p, true));
        else if (defaults.n) nm_parse_fail(p, now(p)->line, "non-default parameter follows default parameter");
    }
    expect(p, NM_TOK_RPAREN);
    const nm_name **kept = nm_parse_alloc(p, n + 1, sizeof *kept);
    if (!kept) return;
    if (n) memcpy(kept, names, n * sizeof *kept);
    macro->params = kept;
    macro->n_params = (uint16_t)n;
    macro->defaults = defaults.items;
    macro->n_defaults = (uint16_t)defaults.n;
    for (size_t i = 0; i < defaults.n; i++) adopt(p, node, defaults.items[i]);
}

/* The body of a macro, call block or generation block: a function of its own. */
static nm_node *parse_function_body(nm_parser *p, nm_node *node, nm_macro_node *macro, const char *end)
{
    int outer = p->loops;
    p->loops = 0;
    macro->body = parse_block_to(p, end);
    p->loops = outer;
    adopt(p, node, macro->body);
    if (node) node->macro = macro;
    return node;
}

static nm_node *parse_macro(nm_parser *p, uint32_t line)
{
    nm_node *node = new_node(p, NM_N_MACRO, line);
    nm_macro_node *macro = nm_parse_alloc(p, 1, sizeof *macro);
    if (!macro) return NULL;
    macro->name = parse_target_name(p);
    parse_signature(p, node, macro);
    return parse_function_body(p, node, macro, "endmacro");
}

static nm_node *parse_call_block(nm_parser *p, uint32_t line)
{
    nm_node *node = new_node(p, NM_N_CALL_BLOCK, line);
    nm_macro_node *macro = nm_parse_alloc(p, 1, sizeof *macro);
    if (!macro) return NULL;
    if (at_kind(p, NM_TOK_LPAREN)) parse_signature(p, node, macro);
    nm_node *call = parse_expression(p, true);
    if (call && call->kind != NM_N_CALL) nm_parse_fail(p, line, "expected a call");
    return parse_function_body(p, with_children(p, node, call, NULL), macro, "endcall");
}

static nm_node *parse_generation(nm_parser *p, uint32_t line)
{
    nm_macro_node *macro = nm_parse_alloc(p, 1, sizeof *macro);
    p->tmpl->marks = true;
    return macro ? parse_function_body(p, new_node(p, NM_N_GENERATION, line), macro, "endgeneration") : NULL;
}

static nm_node *parse_print(nm_parser *p, uint32_t line)
{
    node_list items = {0};
    while (p->err == NM_OK && !at_kind(p, NM_TOK_BLOCK_END)) {
        if (items.n) expect(p, NM_TOK_COMMA);
        push(p, &items, parse_expression(p, true));
    }
    return with_list(p, new_node(p, NM_N_OUTPUT, line), &items);
}

static nm_node *parse_jump(nm_parser *p, uint32_t line, nm_node_kind kind)
{
    if (!p->loops) nm_parse_fail(p, line, "break or continue outside a loop");
    return new_node(p, kind, line);
}

static nm_node *parse_break(nm_parser *p, uint32_t line) { return parse_jump(p, line, NM_N_BREAK); }
static nm_node *parse_continue(nm_parser *p, uint32_t line) { return parse_jump(p, line, NM_N_CONTINUE); }

static nm_node *refuse(nm_parser *p, uint32_t line)
{
    const nm_token *t = &p->tokens.items[p->at - 1];
    nm_parse_fail(p, line, "the tag '%.*s' is not supported: a chat template stands alone", (int)t->n, t->s);
    return NULL;
}

static nm_node *parse_statement(nm_parser *p)
{
    static const struct { const char *word; nm_node *(*parse)(nm_parser *p, uint32_t line); } statements[] = {
        {"if", parse_if}, {"for", parse_for}, {"set", parse_set}, {"macro", parse_macro}, {"call", parse_call_block}, {"with", parse_with},
        {"filter", parse_filter_block}, {"generation", parse_generation}, {"break", parse_break}, {"continue", parse_continue},
        {"print", parse_print}, {"include", refuse}, {"import", refuse}, {"from", refuse}, {"extends", refuse}, {"block", refuse},
        {"autoescape", refuse}
    };
    const nm_token *t = now(p);
    char buffer[48];
    if (!deeper(p)) return NULL;
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++) {
        if (!is_word(t, statements[i].word)) continue;
        take(p);
        nm_node *node = statements[i].parse(p, t->line);
        p->depth--;
        return p->err == NM_OK ? node : NULL;
    }
    nm_parse_fail(p, t->line, "unknown tag '%s'", token_word(t, buffer));
    return NULL;
}

static void flush_output(nm_parser *p, node_list *body, node_list *output)
{
    if (!output->n || p->err != NM_OK) return;
    push(p, body, with_list(p, new_node(p, NM_N_OUTPUT, output->items[0]->line), output));
    *output = (node_list){0};
}

static bool at_end_word(const nm_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++) if (at_word(p, *ends)) return true;
    return false;
}

static nm_node *parse_body(nm_parser *p, const char *const *ends)
{
    node_list body = {0}, output = {0};
    uint32_t line = now(p)->line;
    while (p->err == NM_OK && !at_kind(p, NM_TOK_EOF)) {
        const nm_token *t = take(p);
        if (t->kind == NM_TOK_DATA) {
            push(p, &output, text_constant(p, t->line, t->s, t->n));
        } else if (t->kind == NM_TOK_VAR_BEGIN) {
            push(p, &output, parse_tuple(p, TUPLE_CONDITIONAL));
            expect(p, NM_TOK_VAR_END);
        } else {
            flush_output(p, &body, &output);
            if (at_end_word(p, ends)) break;
            push(p, &body, parse_statement(p));
            expect(p, NM_TOK_BLOCK_END);
        }
    }
    flush_output(p, &body, &output);
    return with_list(p, new_node(p, NM_N_BODY, line), &body);
}

nm_err nm_template_parse(nm_parser *p)
{
    p->loop_name = intern(p, "loop", 4);
    p->special[0] = intern(p, "caller", 6);
    p->special[1] = intern(p, "kwargs", 6);
    p->special[2] = intern(p, "varargs", 7);
    if (p->err == NM_OK) p->tmpl->body = parse_body(p, NULL);
    return p->err;
}
