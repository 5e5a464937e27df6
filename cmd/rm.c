/* nomoat rm: removes models from the store. */
#include "commands.h"
#include "common.h"

static int run(void *arg, int count, char **operands)
{
    (void)arg;
    for (int i = 0; i < count; i++) {
        NM_TRY(nm_store_remove(operands[i]));
        nm_note("%s: removed", operands[i]);
    }
    return NM_OK;
}

const nm_command nm_command_rm = {
    .name = "rm", .operands = "NAME...", .summary = "remove models from nomoat's store",
    .details = "Only what 'nomoat import' brought there: files elsewhere and other programs' caches stay as they are.",
    .examples = (const nm_example[]){{"nomoat rm tiny", "removes that model"}, {0}},
    .settings_size = sizeof(nm_common), .least_operands = 1, .most_operands = -1, .run = run,
};
