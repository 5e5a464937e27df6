/* Owns what the sampler sees of a constraint beside nomoat.h. */
#ifndef NM_GENERATE_CONSTRAINT_H
#define NM_GENERATE_CONSTRAINT_H

#include "nomoat.h"

/* The mask that nm_constraint_mask copies, for *count tokens; the constraint's, until its next call. */
nm_err nm_constraint_view(nm_constraint *constraint, const uint32_t **mask, int32_t *count);

#endif
