/* Owns all that is generated from the tables of subcommands and options: help, completion for bash, the man page. */
#ifndef NM_CMD_HELP_H
#define NM_CMD_HELP_H

#include "commands.h"

nm_err nm_help_overview(bool all);      /* nomoat alone prints the short form */
nm_err nm_help_command(const nm_command *command);

#endif
