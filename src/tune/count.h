/* Owns counting: bytes and operations of a pass through a model's weights. */
#ifndef NM_TUNE_COUNT_H
#define NM_TUNE_COUNT_H

#include "nomoat.h"

/* What one pass through the weights costs. head: the rows that make logits. */
typedef struct nm_costs { double body_bytes, head_bytes, body_quantised, head_quantised, body_floats, head_floats; } nm_costs;
nm_costs nm_count_costs(const nm_model *model, nm_compute compute);
/* Parameters of the matrices that every token is multiplied by, and of those that rows with logits are: the head, and the last layer behind attention. */
void nm_count_maps(const nm_model *model, double *maps, double *head);

#endif
