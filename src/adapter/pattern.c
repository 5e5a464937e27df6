/* Keys of PEFT's rank_pattern and alpha_pattern: regular expressions of Python that are to match a module's path, or its end behind a dot. In
 * practice they are plain names ("q_proj", "layers.3.mlp.up_proj"), sometimes with a wildcard; that much is read, by a simulation of all states at
 * once, so that no pattern can cost more than its length times the name's. Everything else is refused rather than misread. */
#include <stdbool.h>
#include <string.h>

#include "adapter/lora.h"
#include "base/err.h"

enum { MOST_ATOMS = 256 };

typedef enum kind { LITERAL, ANY, DIGIT } kind;
typedef struct atom { kind kind; char c; bool optional, many; } atom;   /* many: may be repeated */

static bool fits(const atom *a, char c)
{
    switch (a->kind) {
    case LITERAL: return a->c == c;
    case DIGIT: return c >= '0' && c <= '9';
    default: return true;
    }
}

/* One atom without its quantifier; returns the characters it takes, 0 for what is not read. */
static size_t read_atom(const char *p, atom *a)
{
    *a = (atom){.kind = LITERAL, .c = p[0]};
    if (!strncmp(p, "[0-9]", 5)) {
        a->kind = DIGIT;
        return 5;
    }
    if (p[0] == '\\' && p[1] == 'd') {
        a->kind = DIGIT;
        return 2;
    }
    if (p[0] == '\\' && strchr(".-_", p[1]) && p[1]) {
        a->c = p[1];
        return 2;
    }
    if (p[0] == '.') a->kind = ANY;
    return strchr("\\[](){}|+*?^$", p[0]) ? 0 : 1;
}

static bool read_pattern(const char *p, atom atoms[MOST_ATOMS], int *count)
{
    *count = 0;
    if (*p == '^') p++;
    while (*p && strcmp(p, "$")) {
        size_t used = *count < MOST_ATOMS ? read_atom(p, &atoms[*count]) : 0;
        if (!used) return false;
        p += used;
        atoms[*count].optional = *p == '*' || *p == '?';
        atoms[*count].many = *p == '*' || *p == '+';
        if (*p && strchr("*+?", *p)) p++;
        ++*count;
    }
    return true;
}

/* From state i (i atoms are done) all states that skipping optional atoms reaches. */
static void enter(const atom *atoms, int count, bool *state, int i)
{
    state[i] = true;
    for (; i < count && atoms[i].optional; i++) state[i + 1] = true;
}

static bool match(const atom *atoms, int count, const char *text)
{
    bool now[MOST_ATOMS + 1] = {false}, next[MOST_ATOMS + 1];
    enter(atoms, count, now, 0);
    for (; *text; text++) {
        memset(next, 0, sizeof next);
        for (int i = 0; i < count; i++) {
            if (!now[i] || !fits(&atoms[i], *text)) continue;
            enter(atoms, count, next, i + 1);
            if (atoms[i].many) next[i] = true;
        }
        memcpy(now, next, sizeof now);
    }
    return now[count];
}

nm_err nm_peft_pattern(const char *pattern, const char *module, bool *matches)
{
    atom atoms[MOST_ATOMS];
    int count;
    *matches = false;
    if (!read_pattern(pattern, atoms, &count))
        return nm_fail(NM_REFUSED, "the pattern \"%.80s\" is a regular expression beyond names and wildcards: write it out module by module", pattern);
    for (const char *at = module; at && !*matches; at = strchr(at, '.')) {
        if (at != module) at++;
        *matches = match(atoms, count, at);
    }
    return NM_OK;
}
