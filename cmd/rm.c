/* nomoat rm: removes models from the store. */
#include <string.h>

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

/* All are looked for first: a name that is wrong removes nothing. */
static int run(void *arg, int count, char **operands)
{
    const nm_common *common = arg;
    nm_str s = {0};
    for (int i = 0; i < count; i++) {
        NM_TRY(nm_store_check(operands[i]));
        for (int j = 0; j < i; j++)
            if (!strcmp(operands[i], operands[j])) return nm_fail(NM_USAGE, "rm: %s stands there twice: leave one away", operands[i]);
    }
    for (int i = 0; i < count; i++) {
        NM_TRY(nm_store_remove(operands[i], nm_store_busy));
        if (!common->json) nm_note("%s: removed", operands[i]);
    }
    return common->json ? nm_json_print(&s, json_removed(&s, count, operands)) : NM_OK;
}

const nm_command nm_command_rm = {
    .name = "rm", .operands = "NAME...", .summary = "remove models from nomoat's store",
    .details = "Only what 'nomoat import' brought there: files elsewhere and other programs' caches stay as they are. If one of the names is not "
               "in the store, nothing is removed.",
    .examples = (const nm_example[]){{"nomoat rm tiny", "removes that model"}, {0}},
    .settings_size = sizeof(nm_common), .least_operands = 1, .most_operands = -1, .run = run,
};
