/* Owns the list of subcommands: one file and one line each. */
#ifndef NM_CMD_COMMANDS_H
#define NM_CMD_COMMANDS_H

#include "args.h"

extern const nm_command nm_command_run, nm_command_serve, nm_command_show, nm_command_list, nm_command_import, nm_command_rm, nm_command_save, nm_command_tokenize,
    nm_command_detokenize, nm_command_template, nm_command_score, nm_command_perplexity, nm_command_bench, nm_command_tune,
    nm_command_adapter, nm_command_merge, nm_command_effect, nm_command_doctor, nm_command_completion, nm_command_man;

/* All of them in the order of the help; ends with NULL. In main.c. */
extern const nm_command *const nm_commands[];
const nm_command *nm_command_find(const char *name);    /* NULL if there is none */

#endif
