/* nomoat rm: removes models, adapters and personas from the store. */
#include <string.h>
#include <strings.h>

#include "commands.h"
#include "common.h"
#include "hub/personas.h"

static nm_err json_removed(nm_str *s, int count, char **names)
{
    NM_TRY(nm_str_puts(s, "{\"removed\": ["));
    for (int i = 0; i < count; i++) {
        if (i) NM_TRY(nm_str_puts(s, ", "));
        NM_TRY(nm_str_json(s, names[i], strlen(names[i])));
    }
    return nm_str_puts(s, "]}");
}

static nm_err is_adapter(const char *name, bool *found)
{
    nm_found_adapter *list;
    size_t count, n = strlen(name), length;
    *found = false;
    if (n > 7 && !strcmp(name + n - 7, ":latest")) n -= 7;
    NM_TRY(nm_adapter_list(&list, &count));
    for (size_t i = 0; i < count; i++) {
        length = strlen(list[i].name);
        *found = *found || (length == n && !strncasecmp(list[i].name, name, n));
    }
    nm_found_adapters_free(list, count);
    return NM_OK;
}

typedef enum what { MODEL, ADAPTER, PERSONA } what;

static nm_err is_persona(const char *name, bool *found)
{
    nm_persona *p;
    nm_err err = nm_persona_find(&p, name);
    *found = p || err == NM_BAD_FILE;       /* one that cannot be read can be removed */
    nm_persona_free(p);
    return err == NM_BAD_FILE ? NM_OK : err;
}

/* What a name means: a model, an adapter, or where it is neither, a persona; "+NAME" an adapter alone, "NAME:latest" a model where both have the name. */
static nm_err find(const char *name, what *out)
{
    size_t n = strlen(name);
    bool latest = n > 7 && !strcmp(name + n - 7, ":latest"), adapter, persona;
    NM_TRY(is_adapter(name + (*name == '+'), &adapter));
    *out = ADAPTER;
    if (*name == '+') return adapter ? NM_OK : nm_fail(NM_NOT_FOUND, "%s: the store has no adapter of that name: 'nomoat list' shows them", name);
    nm_err err = nm_store_check(name);
    if (err == NM_NOT_FOUND && !adapter) {
        NM_TRY(is_persona(name, &persona));
        *out = PERSONA;
        return persona ? NM_OK : nm_fail(NM_NOT_FOUND, "%s: the store has no model, no adapter and no persona of that name: 'nomoat list' shows them", name);
    }
    if (err != NM_OK) return adapter ? NM_OK : err;
    if (adapter && !latest) return nm_fail(NM_USAGE, "%s: a model and an adapter have that name: give +%s for the adapter, %s:latest for the model", name, name, name);
    *out = MODEL;
    return NM_OK;
}

/* "+NAME" and "NAME:latest" are NAME; adapters and personas are found in any case of letters. */
static bool same_name(const char *a, const char *b, what of)
{
    size_t n, m;
    a += of == ADAPTER && *a == '+';
    b += of == ADAPTER && *b == '+';
    n = strlen(a);
    m = strlen(b);
    if (n > 7 && !strcmp(a + n - 7, ":latest")) n -= 7;
    if (m > 7 && !strcmp(b + m - 7, ":latest")) m -= 7;
    return n == m && !(of == MODEL ? strncmp(a, b, n) : strncasecmp(a, b, n));
}

static nm_err remove_one(const char *name, bool quiet)
{
    what is;
    bool persona;
    NM_TRY(find(name, &is));
    if (is == PERSONA) {
        NM_TRY(nm_persona_remove(name, nm_store_busy));
        if (!quiet) nm_note("%s: the persona is removed; its model stays", name);
        return NM_OK;
    }
    NM_TRY(is == ADAPTER ? nm_adapter_remove(name + (*name == '+'), nm_store_busy) : nm_store_remove(name, nm_store_busy));
    NM_TRY(is_persona(name, &persona));
    if (!quiet && persona) nm_note("%s: the %s is removed; a persona of that name stays, and the same once more removes it", name, is == ADAPTER ? "adapter" : "model");
    else if (!quiet) nm_note("%s: removed", name);
    return NM_OK;
}

/* All are looked for first: a name that is wrong removes nothing. */
static int run(void *arg, int count, char **operands)
{
    const nm_common *common = arg;
    what is, other;
    nm_str s = {0};
    for (int i = 0; i < count; i++) {
        NM_TRY(find(operands[i], &is));
        for (int j = 0; j < i; j++) {
            NM_TRY(find(operands[j], &other));
            if (other == is && same_name(operands[i], operands[j], is)) return nm_fail(NM_USAGE, "rm: %s stands there twice: leave one away", operands[i]);
        }
    }
    for (int i = 0; i < count; i++) NM_TRY(remove_one(operands[i], common->json));
    return common->json ? nm_json_print(&s, json_removed(&s, count, operands)) : NM_OK;
}

const nm_command nm_command_rm = {
    .name = "rm", .operands = "NAME...", .summary = "remove models, adapters and personas from nomoat's store",
    .details = "Only what 'nomoat import', 'nomoat tune' and 'nomoat save' brought there: files elsewhere and other programs' caches stay as they are. If one of the names is not "
               "in the store, nothing is removed. Where a model and an adapter share a name, +NAME is the adapter and NAME:latest the model; a persona of "
               "that name comes last.",
    .examples = (const nm_example[]){{"nomoat rm tiny", "removes that model"}, {"nomoat rm +pirate", "removes that adapter"}, {0}},
    .settings_size = sizeof(nm_common), .least_operands = 1, .most_operands = -1, .run = run,
};
