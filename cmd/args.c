/* The parser of command lines. Every subcommand's table goes through here, so that spelling, values and faults are alike everywhere. */
#include "args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "format/json.h"

enum { WORDS_MAX = 256, OPTIONS_MOST = 256, COMMON_FROM = 224 };

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

static const nm_option *find_option(const nm_command *command, const char *given, size_t length)
{
    const nm_option *o = nm_option_find(command->options, given, length);
    return o ? o : nm_option_find(nm_common_options, given, length);
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
    int d[NM_OPTION_NAME_MOST + 1][NM_OPTION_NAME_MOST + 1];
    if (n > NM_OPTION_NAME_MOST || m > NM_OPTION_NAME_MOST) return NM_OPTION_NAME_MOST;
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
    int least = NM_OPTION_NAME_MOST;
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

static size_t option_words(const nm_option *table, char names[][NM_OPTION_NAME_MOST], const char **words, size_t n)
{
    for (const nm_option *o = table; o && o->names; o++)
        for (int i = 0; n < WORDS_MAX && nm_option_name(o, i, names[n], NM_OPTION_NAME_MOST); i++, n++) words[n] = names[n];
    return n;
}

/* "-system" is no option here, where other programs have such: the long one is meant. */
static const nm_option *find_doubled(const nm_command *command, const char *given, size_t length, char *doubled)
{
    if (length < 3 || length + 2 > NM_OPTION_NAME_MOST || given[1] == '-') return NULL;
    doubled[0] = '-';
    memcpy(doubled + 1, given, length);
    doubled[length + 1] = 0;
    return find_option(command, doubled, length + 1);
}

static nm_err unknown_option(const nm_command *command, const char *given, size_t length)
{
    char names[WORDS_MAX][NM_OPTION_NAME_MOST], typed[NM_OPTION_NAME_MOST];
    const char *words[WORDS_MAX];
    size_t n = option_words(command->options, names, words, 0);
    n = option_words(nm_common_options, names, words, n);
    if (length >= sizeof typed) length = sizeof typed - 1;
    for (size_t i = 0; i < length; i++) typed[i] = given[i] == '_' ? '-' : given[i];
    typed[length] = 0;
    char doubled[NM_OPTION_NAME_MOST + 1];
    const char *near = nm_nearest(typed, words, n);
    bool word = given[1] != '-';        /* a single dash: another program's option, or a text */
    if (word && (strchr(given, ' ') || (given[1] >= '0' && given[1] <= '9')))
        return nm_fail(NM_USAGE, "%s: '%.60s' looks like an option: if it is a text, put -- before it", command->name, given);
    if (find_doubled(command, given, length, doubled)) near = doubled;
    else if (word && near && length > 2 && distance(typed, near) > 1) near = NULL;
    if (near) return nm_fail(NM_USAGE, "%s: unknown option %.*s: did you mean %s?", command->name, (int)length, given, near);
    return nm_fail(NM_USAGE, "%s: unknown option %.*s: 'nomoat help %s' lists them", command->name, (int)length, given, command->name);
}

/* ---- The line ------------------------------------------------------------------------------------------------------------------ */

/* "-n5": a one-letter option with its value attached. */
static const nm_option *find_attached(const nm_command *command, const char *arg)
{
    if (arg[1] == '-' || !arg[2]) return NULL;
    const nm_option *o = find_option(command, arg, 2);
    char doubled[NM_OPTION_NAME_MOST + 1];
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
    char shown[NM_OPTION_NAME_MOST], fallback[16];
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
    return nm_option_set_value(o, shown, value, b->settings);
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
    char dashed[NM_OPTION_NAME_MOST];
    size_t n = strlen(name);
    if (n + 3 > sizeof dashed || name[0] == '-') return NULL;
    memcpy(dashed, "--", 2);
    memcpy(dashed + 2, name, n + 1);
    return n == 1 ? find_option(command, dashed + 1, 2) : find_option(command, dashed, n + 2);     /* "r" is -r, as PEFT has it */
}

/* "--no-anchor" for "--anchor" and the other way round; NULL if there is none. */
static const nm_option *opposite(const nm_command *command, const nm_option *o)
{
    char name[NM_OPTION_NAME_MOST], other[NM_OPTION_NAME_MOST + 3];
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
    char names[WORDS_MAX][NM_OPTION_NAME_MOST], typed[NM_OPTION_NAME_MOST];
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
    return nm_option_set_value(o, shown, copy, b->settings);
}

nm_err nm_beneath_set(nm_beneath *b, const char *name, const char *value, const char *from, bool *taken)
{
    char shown[NM_OPTION_NAME_MOST + 40];
    const nm_option *o = find_named(b->command, name);
    if (!o) return unknown_key(b->command, name, from);
    if (taken) *taken = !is_given(b, o);
    if (is_given(b, o)) return NM_OK;
    b->given[slot_of(b->command, o)] = true;
    snprintf(shown, sizeof shown, "%.60s: %.30s", from, name);
    return set_copy(b, o, shown, value);
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
        if (err == NM_OK) err = nm_option_json_text(&v->array.items[i], &s);
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
    if (v->kind == NM_JSON_BOOL) return nm_option_set_value(o, shown, NULL, b->settings);
    nm_str s = {0};
    nm_err err = nm_option_json_text(v, &s);
    if (err == NM_OK) err = set_copy(b, o, shown, s.data ? s.data : "");
    nm_str_free(&s);
    return err;
}

nm_err nm_beneath_json(nm_beneath *b, const nm_json *object, const char *from)
{
    char shown[NM_OPTION_NAME_MOST + 200];
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
