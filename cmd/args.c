/* The parser of command lines. Every subcommand's table goes through here, so that spelling, values and faults are alike everywhere. */
#include "args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "format/json.h"

enum { NAME_MAX_ = 64, WORDS_MAX = 256, OPTIONS_MOST = 256, COMMON_FROM = 224 };

struct nm_beneath {
    const nm_command *command;
    void *settings;
    bool given[OPTIONS_MOST];       /* by slot_of */
};

const nm_option nm_common_options[] = {
    {"-t --threads", "N", "compute threads; 0 or -1 = one per physical core granted", offsetof(nm_common, threads), NM_OPTION_INT, -1, 256},
    {"--compute", "default|f32", "arithmetic: f32 dequantises exactly and computes all in fp32", offsetof(nm_common, compute),
     NM_OPTION_CHOICE, 0, 0},
    {"--kernels", "MASK", "tiers that kernels may use, separated by commas, or all", offsetof(nm_common, kernels), NM_OPTION_TEXT, 0, 0},
    {"--no-pack", NULL, "leave weights as they are in the file; slower, for models larger than memory", offsetof(nm_common, no_pack),
     NM_OPTION_FLAG, 0, 0},
    {"--json", NULL, "print one JSON object", offsetof(nm_common, json), NM_OPTION_FLAG, 0, 0},
    {"-q --quiet", NULL, "no notes and no progress", offsetof(nm_common, quiet), NM_OPTION_FLAG, 0, 0},
    {"-v --verbose", NULL, "say more: speed, seed, settings", offsetof(nm_common, verbose), NM_OPTION_FLAG, 0, 0},
    {"-h --help", NULL, "this text", offsetof(nm_common, help), NM_OPTION_FLAG, 0, 0},
    {"-V --version", NULL, "the version", offsetof(nm_common, version), NM_OPTION_FLAG, 0, 0},
    {0}
};

const char *nm_option_name(const nm_option *option, int i, char *out, size_t out_size)
{
    const char *at = option->names;
    for (; i > 0 && *at; i--) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    size_t n = strcspn(at, " ");
    if (!n || n >= out_size) return NULL;
    memcpy(out, at, n);
    out[n] = 0;
    return out;
}

/* Equal names, where '_' behind the leading dashes counts as '-'. */
static bool same_name(const char *name, const char *given, size_t length)
{
    if (strlen(name) != length) return false;
    for (size_t i = 0; i < length; i++)
        if (name[i] != (given[i] == '_' ? '-' : given[i])) return false;
    return true;
}

static const nm_option *find_in(const nm_option *table, const char *given, size_t length)
{
    char name[NAME_MAX_];
    for (const nm_option *o = table; o && o->names; o++)
        for (int i = 0; nm_option_name(o, i, name, sizeof name); i++)
            if (same_name(name, given, length)) return o;
    return NULL;
}

static const nm_option *find_option(const nm_command *command, const char *given, size_t length)
{
    const nm_option *o = find_in(command->options, given, length);
    return o ? o : find_in(nm_common_options, given, length);
}

/* Where an option stands in nm_beneath.given. */
static size_t slot_of(const nm_command *command, const nm_option *option)
{
    for (size_t i = 0; command->options && command->options[i].names; i++)
        if (&command->options[i] == option) return i;
    return COMMON_FROM + (size_t)(option - nm_common_options);
}

/* ---- Typing errors ----------------------------------------------------------------------------------------------------------- */

/* Edits (insert, drop, replace, swap of neighbours) from a to b; words longer than a name count as far apart. */
static int distance(const char *a, const char *b)
{
    size_t n = strlen(a), m = strlen(b);
    int d[NAME_MAX_ + 1][NAME_MAX_ + 1];
    if (n > NAME_MAX_ || m > NAME_MAX_) return NAME_MAX_;
    for (size_t i = 0; i <= n; i++) d[i][0] = (int)i;
    for (size_t j = 0; j <= m; j++) d[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        for (size_t j = 1; j <= m; j++) {
            int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best) best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *nm_nearest(const char *word, const char *const *words, size_t count)
{
    const char *best = NULL;
    int least = NAME_MAX_;
    size_t length = strlen(word);
    for (size_t i = 0; i < count; i++) {
        int d = distance(word, words[i]);
        if (length >= 3 && !strncmp(words[i], word, length) && d > 1) d = 1;     /* the beginning of a word */
        if (d < least) {
            least = d;
            best = words[i];
        }
    }
    return least <= 1 + (int)length / 4 && least < (int)length ? best : NULL;
}

static size_t option_words(const nm_option *table, char names[][NAME_MAX_], const char **words, size_t n)
{
    for (const nm_option *o = table; o && o->names; o++)
        for (int i = 0; n < WORDS_MAX && nm_option_name(o, i, names[n], NAME_MAX_); i++, n++) words[n] = names[n];
    return n;
}

/* "-system" is no option here, where other programs have such: the long one is meant. */
static const nm_option *find_doubled(const nm_command *command, const char *given, size_t length, char *doubled)
{
    if (length < 3 || length + 2 > NAME_MAX_ || given[1] == '-') return NULL;
    doubled[0] = '-';
    memcpy(doubled + 1, given, length);
    doubled[length + 1] = 0;
    return find_option(command, doubled, length + 1);
}

static nm_err unknown_option(const nm_command *command, const char *given, size_t length)
{
    char names[WORDS_MAX][NAME_MAX_], typed[NAME_MAX_];
    const char *words[WORDS_MAX];
    size_t n = option_words(command->options, names, words, 0);
    n = option_words(nm_common_options, names, words, n);
    if (length >= sizeof typed) length = sizeof typed - 1;
    for (size_t i = 0; i < length; i++) typed[i] = given[i] == '_' ? '-' : given[i];
    typed[length] = 0;
    char doubled[NAME_MAX_ + 1];
    const char *near = nm_nearest(typed, words, n);
    bool word = given[1] != '-';        /* a single dash: another program's option, or a text */
    if (word && (strchr(given, ' ') || (given[1] >= '0' && given[1] <= '9')))
        return nm_fail(NM_USAGE, "%s: '%.60s' looks like an option: if it is a text, put -- before it", command->name, given);
    if (find_doubled(command, given, length, doubled)) near = doubled;
    else if (word && near && length > 2 && distance(typed, near) > 1) near = NULL;
    if (near) return nm_fail(NM_USAGE, "%s: unknown option %.*s: did you mean %s?", command->name, (int)length, given, near);
    return nm_fail(NM_USAGE, "%s: unknown option %.*s: 'nomoat help %s' lists them", command->name, (int)length, given, command->name);
}

/* ---- Values -------------------------------------------------------------------------------------------------------------------- */

static nm_err set_int(const nm_option *o, const char *shown, const char *text, int32_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || *end) return nm_fail(NM_USAGE, "%s: '%s' is no whole number", shown, text);
    if (errno || (double)v < o->least || (double)v > o->most)
        return nm_fail(NM_USAGE, "%s: %s is out of range: give %.0f to %.0f", shown, text, o->least, o->most);
    *out = (int32_t)v;
    return NM_OK;
}

static nm_err set_real(const nm_option *o, const char *shown, const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || isnan(v)) return nm_fail(NM_USAGE, "%s: '%s' is no number", shown, text);
    if (v < o->least || v > o->most) return nm_fail(NM_USAGE, "%s: %s is out of range: give %g to %g", shown, text, o->least, o->most);
    *out = v;
    return NM_OK;
}

static nm_err set_seed(const char *shown, const char *text, nm_seed *out)
{
    char *end;
    errno = 0;
    if (!strcmp(text, "-1")) {
        *out = (nm_seed){0};
        return NM_OK;
    }
    unsigned long long v = strtoull(text, &end, 0);
    if (end == text || *end || errno || text[strspn(text, " \t")] == '-')
        return nm_fail(NM_USAGE, "%s: '%s' is no seed: give a number from 0 to 18446744073709551615, or -1 for a random one", shown, text);
    *out = (nm_seed){.given = true, .value = v};
    return NM_OK;
}

static nm_err set_choice(const nm_option *o, const char *shown, const char *text, int32_t *out)
{
    size_t length = strlen(text);
    const char *word = o->value;
    for (int32_t i = 0; *word; i++) {
        size_t n = strcspn(word, "|");
        if (n == length && !strncmp(word, text, n)) {
            *out = i;
            return NM_OK;
        }
        word += n + (word[n] == '|');
    }
    return nm_fail(NM_USAGE, "%s: '%s' is none of %s", shown, text, o->value);
}

static nm_err set_list(const char *text, nm_list *out)
{
    NM_TRY(NM_GROW(out->items, out->capacity, out->count + 1));
    out->items[out->count++] = text;
    return NM_OK;
}

static nm_err set_value(const nm_option *o, const char *shown, const char *text, void *settings)
{
    void *at = (char *)settings + o->offset;
    switch (o->kind) {
    case NM_OPTION_FLAG: *(bool *)at = true; return NM_OK;
    case NM_OPTION_TEXT: *(const char **)at = text; return NM_OK;
    case NM_OPTION_LIST: return set_list(text, at);
    case NM_OPTION_INT: return set_int(o, shown, text, at);
    case NM_OPTION_REAL: return set_real(o, shown, text, at);
    case NM_OPTION_SEED: return set_seed(shown, text, at);
    case NM_OPTION_CHOICE: return set_choice(o, shown, text, at);
    }
    return nm_fail(NM_USAGE, "%s: no such kind of option", shown);
}

nm_err nm_args_set(const nm_option *table, const char *name, const char *value, void *settings)
{
    char dashed[NAME_MAX_];
    size_t n = strlen(name);
    if (n + 3 > sizeof dashed) return nm_fail(NM_USAGE, "no setting is called '%s'", name);
    memcpy(dashed, "--", 2);
    memcpy(dashed + 2, name, n + 1);
    const nm_option *o = find_in(table, dashed, n + 2);
    return o ? set_value(o, name, value, settings) : nm_fail(NM_USAGE, "no setting is called '%s'", name);
}

/* ---- The line ------------------------------------------------------------------------------------------------------------------ */

/* "-n5": a one-letter option with its value attached. */
static const nm_option *find_attached(const nm_command *command, const char *arg)
{
    if (arg[1] == '-' || !arg[2]) return NULL;
    const nm_option *o = find_option(command, arg, 2);
    char doubled[NAME_MAX_ + 1];
    bool number = o && (o->kind == NM_OPTION_INT || o->kind == NM_OPTION_REAL || o->kind == NM_OPTION_SEED);
    if (number && !strchr("+-.0123456789", arg[2])) return NULL;      /* "-ngl" is not -n with "gl" */
    if (find_doubled(command, arg, strcspn(arg, "="), doubled)) return NULL;
    return o && o->kind != NM_OPTION_FLAG ? o : NULL;
}

/* Takes the option at argv[*i] and, where it has one, its value. */
static nm_err take_option(nm_beneath *b, int argc, char **argv, int *i)
{
    const nm_command *command = b->command;
    const char *arg = argv[*i];
    size_t length = strcspn(arg, "=");
    const char *value = arg[length] ? arg + length + 1 : NULL;
    const nm_option *o = find_option(command, arg, length);
    if (!o && (o = find_attached(command, arg))) {
        length = 2;
        value = arg + 2;
    }
    if (!o) return unknown_option(command, arg, length);
    char shown[NAME_MAX_], fallback[16];
    if (length >= sizeof shown) length = sizeof shown - 1;
    memcpy(shown, arg, length);
    shown[length] = 0;
    if (o->kind == NM_OPTION_FLAG) {
        if (value) return nm_fail(NM_USAGE, "%s takes no value: leave '=%s' away", shown, value);
    } else if (!value && *o->value == '[') {        /* "[N=3]": a number, if one follows */
        const char *next = *i + 1 < argc ? argv[*i + 1] : "", *otherwise = o->value + strcspn(o->value, "=") + 1;
        snprintf(fallback, sizeof fallback, "%.*s", (int)strcspn(otherwise, "]"), otherwise);
        value = *next && !next[strspn(next, "0123456789")] ? argv[++*i] : fallback;
    } else if (!value) {
        if (*i + 1 >= argc) return nm_fail(NM_USAGE, "%s needs a value: %s %s", shown, shown, o->value);
        value = argv[++*i];
    }
    b->given[slot_of(command, o)] = true;
    return set_value(o, shown, value, b->settings);
}

nm_err nm_args_parse(const nm_command *command, int argc, char **argv, void *settings, char **operands, int *count)
{
    bool only_operands = false;
    nm_beneath beneath = {.command = command, .settings = settings};
    *count = 0;
    for (int i = 0; i < argc; i++) {
        if (only_operands || argv[i][0] != '-' || !argv[i][1]) operands[(*count)++] = argv[i];
        else if (!strcmp(argv[i], "--")) only_operands = true;
        else NM_TRY(take_option(&beneath, argc, argv, &i));
    }
    const nm_common *common = settings;
    if (common->help || common->version) return NM_OK;
    if (*count < command->least_operands)
        return nm_fail(NM_USAGE, "%s: something is missing: nomoat %s %s", command->name, command->name, command->operands);
    if (command->most_operands >= 0 && *count > command->most_operands)
        return nm_fail(NM_USAGE, "%s: '%s' is one too many: nomoat %s %s", command->name, operands[command->most_operands],
                       command->name, command->operands);
    return command->beneath ? command->beneath(&beneath, settings) : NM_OK;
}

void nm_args_free(const nm_command *command, void *settings)
{
    for (const nm_option *o = command->options; o && o->names; o++) {
        if (o->kind != NM_OPTION_LIST) continue;
        nm_list *list = (nm_list *)((char *)settings + o->offset);
        nm_free(list->items);
        *list = (nm_list){0};       /* a second option may store in the same list */
    }
    nm_list *kept = &((nm_common *)settings)->kept;
    for (size_t i = 0; i < kept->count; i++) nm_free((char *)kept->items[i]);
    nm_free(kept->items);
    *kept = (nm_list){0};
}

/* ---- Beneath the line ------------------------------------------------------------------------------------------------------------------- */

nm_err nm_beneath_keep(nm_beneath *b, char *text)
{
    nm_list *kept = &((nm_common *)b->settings)->kept;
    nm_err err = NM_GROW(kept->items, kept->capacity, kept->count + 1);
    if (err == NM_OK) kept->items[kept->count++] = text;
    else nm_free(text);
    return err;
}

static const nm_option *find_named(const nm_command *command, const char *name)
{
    char dashed[NAME_MAX_];
    size_t n = strlen(name);
    if (n + 3 > sizeof dashed || name[0] == '-') return NULL;
    memcpy(dashed, "--", 2);
    memcpy(dashed + 2, name, n + 1);
    return n == 1 ? find_option(command, dashed + 1, 2) : find_option(command, dashed, n + 2);     /* "r" is -r, as PEFT has it */
}

/* "--no-anchor" for "--anchor" and the other way round; NULL if there is none. */
static const nm_option *opposite(const nm_command *command, const nm_option *o)
{
    char name[NAME_MAX_], other[NAME_MAX_ + 3];
    for (int i = 0; nm_option_name(o, i, name, sizeof name); i++) {
        if (strncmp(name, "--", 2)) continue;
        if (!strncmp(name, "--no-", 5)) memcpy(other, name + 5, strlen(name + 5) + 1);
        else {
            memcpy(other, "no-", 3);
            memcpy(other + 3, name + 2, strlen(name + 2) + 1);
        }
        const nm_option *found = find_named(command, other);
        if (found) return found;
    }
    return NULL;
}

static bool is_given(const nm_beneath *b, const nm_option *o)
{
    const nm_option *other = opposite(b->command, o);
    return b->given[slot_of(b->command, o)] || (other && b->given[slot_of(b->command, other)]);
}

static nm_err unknown_key(const nm_command *command, const char *name, const char *from)
{
    char names[WORDS_MAX][NAME_MAX_], typed[NAME_MAX_];
    const char *words[WORDS_MAX];
    size_t n = option_words(command->options, names, words, 0), length = 0;
    n = option_words(nm_common_options, names, words, n);
    for (size_t i = 0; i < n; i++) words[i] += strspn(words[i], "-");
    for (; name[length] && length + 1 < sizeof typed; length++) typed[length] = name[length] == '_' ? '-' : name[length];
    typed[length] = 0;
    const char *near = nm_nearest(typed, words, n);
    if (near) return nm_fail(NM_USAGE, "%s: \"%.60s\" is no option of %s: did you mean \"%s\"?", from, name, command->name, near);
    return nm_fail(NM_USAGE, "%s: \"%.60s\" is no option of %s: 'nomoat help %s' lists them", from, name, command->name, command->name);
}

/* A copy of the value that lives as long as the settings. */
static nm_err set_copy(nm_beneath *b, const nm_option *o, const char *shown, const char *value)
{
    char *copy = nm_strndup(value, strlen(value));
    if (!copy) return nm_fail_memory(strlen(value));
    NM_TRY(nm_beneath_keep(b, copy));
    return set_value(o, shown, copy, b->settings);
}

nm_err nm_beneath_set(nm_beneath *b, const char *name, const char *value, const char *from, bool *taken)
{
    char shown[NAME_MAX_ + 40];
    const nm_option *o = find_named(b->command, name);
    if (!o) return unknown_key(b->command, name, from);
    if (taken) *taken = !is_given(b, o);
    if (is_given(b, o)) return NM_OK;
    b->given[slot_of(b->command, o)] = true;
    snprintf(shown, sizeof shown, "%.60s: %.30s", from, name);
    return set_copy(b, o, shown, value);
}

/* What the option's own parser reads: numbers in the fewest digits that give them back. */
static nm_err value_text(const nm_json *v, nm_str *s)
{
    switch (v->kind) {
    case NM_JSON_INT: return nm_str_printf(s, "%lld", (long long)v->integer);
    case NM_JSON_WIDE: return nm_str_printf(s, "%llu", (unsigned long long)v->wide);
    case NM_JSON_STRING: return nm_str_append(s, v->string.bytes, v->string.length);
    case NM_JSON_REAL: {
        char text[32];
        for (int digits = 15; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, v->real);
            if (strtod(text, NULL) == v->real) break;
        }
        return nm_str_puts(s, text);
    }
    default: return NM_USAGE;
    }
}

/* An array: one value after the other of a list, a text with commas for others ("target_modules"). */
static nm_err json_array(nm_beneath *b, const nm_option *o, const char *shown, const nm_json *v)
{
    nm_str s = {0};
    nm_err err = nm_str_puts(&s, "");
    bool bad = o->kind != NM_OPTION_LIST && o->kind != NM_OPTION_TEXT;
    for (size_t i = 0; err == NM_OK && !bad && i < v->array.count; i++) {
        if (o->kind == NM_OPTION_LIST) s.length = 0;
        else if (i) err = nm_str_putc(&s, ',');
        if (err == NM_OK) err = value_text(&v->array.items[i], &s);
        bad = err == NM_USAGE;
        if (err == NM_OK && o->kind == NM_OPTION_LIST) err = set_copy(b, o, shown, s.data);
    }
    if (err == NM_OK && !bad && o->kind == NM_OPTION_TEXT) err = set_copy(b, o, shown, s.data);
    nm_str_free(&s);
    return bad ? nm_fail(NM_USAGE, "%s: an array of these makes no sense here", shown) : err;
}

static nm_err json_value(nm_beneath *b, const nm_option *o, const char *shown, const nm_json *v)
{
    if (v->kind == NM_JSON_ARRAY) return json_array(b, o, shown, v);
    if ((v->kind == NM_JSON_BOOL) != (o->kind == NM_OPTION_FLAG) || v->kind == NM_JSON_OBJECT)
        return nm_fail(NM_USAGE, o->kind == NM_OPTION_FLAG ? "%s: give true or false" : "%s: give a number or a text", shown);
    if (v->kind == NM_JSON_BOOL) return set_value(o, shown, NULL, b->settings);
    nm_str s = {0};
    nm_err err = value_text(v, &s);
    if (err == NM_OK) err = set_copy(b, o, shown, s.data ? s.data : "");
    nm_str_free(&s);
    return err;
}

nm_err nm_beneath_json(nm_beneath *b, const nm_json *object, const char *from)
{
    char shown[NAME_MAX_ + 200];
    if (object->kind != NM_JSON_OBJECT) return nm_fail(NM_USAGE, "%s: not a JSON object: begin it with {", from);
    for (size_t i = 0; i < object->object.count; i++) {
        const char *key = object->object.keys[i];
        const nm_json *v = &object->object.values[i];
        const nm_option *o = find_named(b->command, key);
        if (!o) return unknown_key(b->command, key, from);
        if (v->kind == NM_JSON_NULL || (v->kind == NM_JSON_BOOL && !v->boolean && o->kind == NM_OPTION_FLAG) || is_given(b, o)) continue;
        snprintf(shown, sizeof shown, "%.160s: \"%.60s\"", from, key);
        NM_TRY(json_value(b, o, shown, v));
        b->given[slot_of(b->command, o)] = true;
    }
    return NM_OK;
}

/* ---- Settings as JSON ---------------------------------------------------------------------------------------------------------------------- */

static bool is_unset(const nm_option *o, const void *at)
{
    switch (o->kind) {
    case NM_OPTION_FLAG: return !*(const bool *)at;
    case NM_OPTION_TEXT: return !*(const char *const *)at;
    case NM_OPTION_LIST: return !((const nm_list *)at)->count;
    case NM_OPTION_INT: return *(const int32_t *)at < o->least || *(const int32_t *)at > o->most;
    case NM_OPTION_REAL: return !(*(const double *)at >= o->least && *(const double *)at <= o->most);
    case NM_OPTION_SEED: return false;
    case NM_OPTION_CHOICE: return *(const int32_t *)at < 0;
    }
    return true;
}

static nm_err put_choice(nm_str *s, const char *words, int32_t index)
{
    for (; index > 0; index--) words += strcspn(words, "|") + 1;
    return nm_str_json(s, words, strcspn(words, "|"));
}

static nm_err put_list(nm_str *s, const nm_list *list)
{
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < list->count; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, list->items[i], strlen(list->items[i])));
    }
    return nm_str_putc(s, ']');
}

static nm_err put_real(nm_str *s, double v)
{
    nm_json number = {.kind = NM_JSON_REAL, .real = v};
    return value_text(&number, s);
}

static nm_err put_value(nm_str *s, const nm_option *o, const void *at)
{
    const char *text;
    switch (o->kind) {
    case NM_OPTION_FLAG: return nm_str_puts(s, "true");
    case NM_OPTION_TEXT: text = *(const char *const *)at; return nm_str_json(s, text, strlen(text));
    case NM_OPTION_LIST: return put_list(s, at);
    case NM_OPTION_INT: return nm_str_printf(s, "%d", *(const int32_t *)at);
    case NM_OPTION_REAL: return put_real(s, *(const double *)at);
    case NM_OPTION_SEED: return nm_str_printf(s, "%llu", (unsigned long long)((const nm_seed *)at)->value);
    case NM_OPTION_CHOICE: return put_choice(s, o->value, *(const int32_t *)at);
    }
    return NM_OK;
}

/* The first long spelling, without dashes. */
static bool long_name(const nm_option *o, char out[NAME_MAX_])
{
    for (int i = 0; nm_option_name(o, i, out, NAME_MAX_); i++)
        if (!strncmp(out, "--", 2)) {
            memmove(out, out + 2, strlen(out) - 1);
            return true;
        }
    return false;
}

nm_err nm_args_json(nm_str *s, const nm_command *command, const void *settings, const char *skip)
{
    bool any = false;
    NM_TRY(nm_str_putc(s, '{'));
    for (const nm_option *o = command->options; o && o->names; o++) {
        const void *at = (const char *)settings + o->offset;
        char name[NAME_MAX_], word[NAME_MAX_ + 2];
        if (!long_name(o, name) || is_unset(o, at)) continue;
        snprintf(word, sizeof word, " %s ", name);
        if (strstr(skip, word)) continue;
        NM_TRY(nm_str_printf(s, "%s\"%s\": ", any ? ", " : "", name));
        NM_TRY(put_value(s, o, at));
        any = true;
    }
    return nm_str_putc(s, '}');
}
