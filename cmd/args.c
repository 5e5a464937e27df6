/* The parser of command lines. Every subcommand's table goes through here, so that spelling, values and faults are alike everywhere. */
#include "args.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"

enum { NAME_MAX_ = 64, WORDS_MAX = 256 };

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
static nm_err take_option(const nm_command *command, int argc, char **argv, int *i, void *settings)
{
    const char *arg = argv[*i];
    size_t length = strcspn(arg, "=");
    const char *value = arg[length] ? arg + length + 1 : NULL;
    const nm_option *o = find_option(command, arg, length);
    if (!o && (o = find_attached(command, arg))) {
        length = 2;
        value = arg + 2;
    }
    if (!o) return unknown_option(command, arg, length);
    char shown[NAME_MAX_];
    if (length >= sizeof shown) length = sizeof shown - 1;
    memcpy(shown, arg, length);
    shown[length] = 0;
    if (o->kind == NM_OPTION_FLAG) {
        if (value) return nm_fail(NM_USAGE, "%s takes no value: leave '=%s' away", shown, value);
    } else if (!value) {
        if (*i + 1 >= argc) return nm_fail(NM_USAGE, "%s needs a value: %s %s", shown, shown, o->value);
        value = argv[++*i];
    }
    return set_value(o, shown, value, settings);
}

nm_err nm_args_parse(const nm_command *command, int argc, char **argv, void *settings, char **operands, int *count)
{
    bool only_operands = false;
    *count = 0;
    for (int i = 0; i < argc; i++) {
        if (only_operands || argv[i][0] != '-' || !argv[i][1]) operands[(*count)++] = argv[i];
        else if (!strcmp(argv[i], "--")) only_operands = true;
        else NM_TRY(take_option(command, argc, argv, &i, settings));
    }
    const nm_common *common = settings;
    if (common->help || common->version) return NM_OK;
    if (*count < command->least_operands)
        return nm_fail(NM_USAGE, "%s: something is missing: nomoat %s %s", command->name, command->name, command->operands);
    if (command->most_operands >= 0 && *count > command->most_operands)
        return nm_fail(NM_USAGE, "%s: '%s' is one too many: nomoat %s %s", command->name, operands[command->most_operands],
                       command->name, command->operands);
    return NM_OK;
}

void nm_args_free(const nm_command *command, void *settings)
{
    for (const nm_option *o = command->options; o && o->names; o++) {
        if (o->kind != NM_OPTION_LIST) continue;
        nm_list *list = (nm_list *)((char *)settings + o->offset);
        nm_free(list->items);
        *list = (nm_list){0};       /* a second option may store in the same list */
    }
}
