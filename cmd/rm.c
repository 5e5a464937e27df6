/* nomoat rm: removes models and adapters from the store. */
#include <string.h>
#include <strings.h>

#include "commands.h"
#include "common.h"

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

/* What a name means: a model or an adapter; "+NAME" an adapter alone, "NAME:latest" a model where both have the name. */
static nm_err find(const char *name, bool *adapter)
{
    size_t n = strlen(name);
    bool latest = n > 7 && !strcmp(name + n - 7, ":latest");
    NM_TRY(is_adapter(name + (*name == '+'), adapter));
    if (*name == '+') return *adapter ? NM_OK : nm_fail(NM_NOT_FOUND, "%s: the store has no adapter of that name: 'nomoat list' shows them", name);
    nm_err err = nm_store_check(name);
    if (err == NM_NOT_FOUND && !*adapter) return nm_fail(err, "%s: the store has no model and no adapter of that name: 'nomoat list' shows them", name);
    if (err != NM_OK) return *adapter ? NM_OK : err;
    if (*adapter && !latest) return nm_fail(NM_USAGE, "%s: a model and an adapter have that name: give +%s for the adapter, %s:latest for the model", name, name, name);
    *adapter = false;
    return NM_OK;
}

/* "+NAME" and "NAME:latest" are NAME; adapters are found in any case of letters. */
static bool same_name(const char *a, const char *b, bool adapter)
{
    size_t n, m;
    a += adapter && *a == '+';
    b += adapter && *b == '+';
    n = strlen(a);
    m = strlen(b);
    if (n > 7 && !strcmp(a + n - 7, ":latest")) n -= 7;
    if (m > 7 && !strcmp(b + m - 7, ":latest")) m -= 7;
    return n == m && !(adapter ? strncasecmp(a, b, n) : strncmp(a, b, n));
}

/* All are looked for first: a name that is wrong removes nothing. */
static int run(void *arg, int count, char **operands)
{
    const nm_common *common = arg;
    bool adapter;
    nm_str s = {0};
    for (int i = 0; i < count; i++) {
        NM_TRY(find(operands[i], &adapter));
        for (int j = 0; j < i; j++) {
            bool other;
            NM_TRY(find(operands[j], &other));
            if (other == adapter && same_name(operands[i], operands[j], adapter)) return nm_fail(NM_USAGE, "rm: %s stands there twice: leave one away", operands[i]);
        }
    }
    for (int i = 0; i < count; i++) {
        NM_TRY(find(operands[i], &adapter));
        NM_TRY(adapter ? nm_adapter_remove(operands[i] + (*operands[i] == '+'), nm_store_busy) : nm_store_remove(operands[i], nm_store_busy));
        if (!common->json) nm_note("%s: removed", operands[i]);
    }
    return common->json ? nm_json_print(&s, json_removed(&s, count, operands)) : NM_OK;
}

const nm_command nm_command_rm = {
    .name = "rm", .operands = "NAME...", .summary = "remove models and adapters from nomoat's store",
    .details = "Only what 'nomoat import' and 'nomoat tune' brought there: files elsewhere and other programs' caches stay as they are. If one of the names is not "
               "in the store, nothing is removed. Where a model and an adapter share a name, +NAME is the adapter and NAME:latest the model.",
    .examples = (const nm_example[]){{"nomoat rm tiny", "removes that model"}, {"nomoat rm +pirate", "removes that adapter"}, {0}},
    .settings_size = sizeof(nm_common), .least_operands = 1, .most_operands = -1, .run = run,
};
