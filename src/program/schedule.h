/* Owns what plans for inference and for training share; private to src/program. */
#ifndef NM_PROGRAM_SCHEDULE_H
#define NM_PROGRAM_SCHEDULE_H

#include "program/program.h"

nm_err nm_schedule_start(nm_plan *plan, const nm_program *program, nm_compute compute, int64_t max_rows, int64_t max_out);
/* All phases of the forward walk; finds plan->head and body. */
nm_err nm_schedule_forward(nm_plan *plan, const nm_shape *shape);
/* Appends a phase: to the last region if it may run there without a barrier, else to a new one. */
nm_err nm_schedule_task(nm_plan *plan, bool wide, nm_rows rows, bool back, nm_task task);
/* Operands that the step's backward reads. */
uint32_t nm_schedule_saves(const nm_shape *shape, const nm_step *step);
/* Lifetimes, scratch and places, once everything is scheduled. */
nm_err nm_schedule_place(nm_plan *plan, nm_shape *shape, int64_t context);

#endif
