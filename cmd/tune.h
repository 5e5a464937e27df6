/* Owns a run of training as its user at a terminal sees it: options, recipes, what is printed, progress, Ctrl-C. The run itself is tune/tune.h's. */
#ifndef NM_CMD_TUNE_H
#define NM_CMD_TUNE_H

#include "args.h"
#include "stack.h"
#include "tune/tune.h"

typedef struct nm_tune_command {
    nm_common common;
    nm_stack_options stack;
    nm_tune_settings set;
    int32_t show_mask, recipe;
    bool plan;
} nm_tune_command;

/* tune_recipe.c. index: of the option's words, above 0. *said: one line, kept with the settings. */
nm_err nm_tune_recipe(nm_beneath *beneath, int32_t index, const char **said);
const char *nm_tune_recipe_name(int32_t index);

/* tune_say.c */
void nm_tune_show_progress(const nm_tune_state *state, const nm_train_report *report);
void nm_tune_clear_progress(void);
/* Where the adapter is and how to use it. what: " of step 20", or "". */
void nm_tune_tell_use(const char *model, const char *output, const char *folder, const char *what);

/* tune_plan.c */
nm_err nm_tune_print_plan(const nm_tune_plan_report *plan, bool json);

/* tune_run.c: the whole run, once the model is open. operands: the model as it was written, and the sources of data. */
nm_err nm_tune_do(const nm_tune_command *command, nm_stacked *stacked, char **operands, size_t count);

#endif
