/* The table of optimisers. */
#include "optim/optim.h"

#include <string.h>

#include "base/str.h"

#define NM_OPTIM(symbol) extern const nm_optim symbol;
#include "optim/optims.def"
#undef NM_OPTIM

static const nm_optim *const optims[] = {
#define NM_OPTIM(symbol) &symbol,
#include "optim/optims.def"
#undef NM_OPTIM
};
enum { OPTIMS = sizeof optims / sizeof *optims };

nm_err nm_optimizer_rate(const char *name, float *rate)
{
    const nm_optim *optim;
    NM_TRY(nm_optim_find(name ? name : "adamw", &optim));
    *rate = optim->rate;
    return NM_OK;
}

const nm_optim *nm_optim_at(int index) { return index >= 0 && index < OPTIMS ? optims[index] : NULL; }

nm_err nm_optim_find(const char *name, const nm_optim **optim)
{
    char known[256] = "";
    for (int i = 0; i < OPTIMS; i++) {
        if (!strcmp(optims[i]->name, name)) {
            *optim = optims[i];
            return NM_OK;
        }
        strncat(known, i ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, optims[i]->name, sizeof known - strlen(known) - 1);
    }
    return nm_fail(NM_USAGE, "%s: no such optimiser: %s are known", name, known);
}
