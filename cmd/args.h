/* Owns the shape of a subcommand and the one parser of command lines: tables in, settings out. Help, the man page and shell completion
 * are made from the same tables (help.c). Refuses to print or exit: faults are NM_USAGE with nm_error_text. */
#ifndef NM_CMD_ARGS_H
#define NM_CMD_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/option.h"
#include "nomoat.h"

/* What every subcommand takes; the first member of each one's settings. */
typedef struct nm_common {
    bool help, version, json, quiet, verbose, no_pack;
    bool alone;             /* no packs: what is measured must not run beside those who write and copy them. Not an option; a command's own */
    int32_t threads;        /* 0 = the machine's */
    int32_t compute;        /* an nm_compute */
    const char *kernels;    /* NULL = all */
    nm_list kept;           /* strings that settings point to and argv does not hold; nm_args_free frees them */
} nm_common;
extern const nm_option nm_common_options[];

typedef struct nm_example { const char *line, *what; } nm_example;

/* Settings that come from beneath the command line: a recipe, a configuration file. */
typedef struct nm_beneath nm_beneath;
struct nm_json;

typedef struct nm_command {
    const char *name;
    const char *operands;           /* "MODEL [PROMPT]" */
    const char *summary;            /* one phrase, no full stop */
    const char *details;            /* paragraphs separated by "\n\n" */
    const nm_example *examples;     /* ends with {NULL, NULL} */
    const nm_option *options;       /* its own, besides the common ones; NULL or ends with a zero entry */
    size_t settings_size;           /* the settings start with an nm_common */
    const void *defaults;           /* settings_size bytes; NULL = all zero */
    int least_operands, most_operands;      /* most -1: any number */
    int (*run)(void *settings, int count, char **operands);     /* returns the exit code */
    /* May be NULL. Called once the line has been read, unless it asks for help: sets by nm_beneath_* what the line did not. */
    nm_err (*beneath)(nm_beneath *beneath, void *settings);
} nm_command;

/* Parses argv[0..argc) (without program and subcommand) into settings, already filled with the defaults. operands: room for argc pointers.
 * "--name value" and "--name=value"; '_' in a name is '-'; "-n5" for one-letter names; "--" ends the options; "-" is an operand.
 * Nothing about the number of operands is checked when --help or --version is among the options. */
nm_err nm_args_parse(const nm_command *command, int argc, char **argv, void *settings, char **operands, int *count);
void nm_args_free(const nm_command *command, void *settings);

/* Sets one option by a name without dashes, unless the line or an earlier call gave it or its opposite (--no-NAME); *taken (may be NULL) says so. value is
 * copied. from: for messages. NM_USAGE, with the nearest name, for one that there is not. */
nm_err nm_beneath_set(nm_beneath *beneath, const char *name, const char *value, const char *from, bool *taken);
/* The same for the members of a JSON object: numbers, texts, true (false and null: as if absent), arrays of these. */
nm_err nm_beneath_json(nm_beneath *beneath, const struct nm_json *object, const char *from);
/* Keeps an allocated string as long as the settings live. */
nm_err nm_beneath_keep(nm_beneath *beneath, char *text);

/* The nearest of `count` words to a mistyped one, or NULL if none is near. */
const char *nm_nearest(const char *word, const char *const *words, size_t count);

#endif
