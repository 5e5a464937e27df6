/* The table of ops, made from ops.def. */
#include "base/err.h"
#include "op/op.h"

#define NM_OP(name, symbol) extern const nm_op symbol;
#include "op/ops.def"
#undef NM_OP

const nm_op *const nm_ops[NM_OP_COUNT] = {
#define NM_OP(name, symbol) [NM_OP_##name] = &symbol,
#include "op/ops.def"
#undef NM_OP
};

nm_err nm_bad_shape(const nm_step *s, const char *what, int64_t got, int64_t expected)
{
    return nm_fail(NM_BAD_FILE, "layer %d: %s: %s is %lld, expected %lld", (int)s->layer, nm_ops[s->op]->name, what,
        (long long)got, (long long)expected);
}
