/* Owns the shape of a subcommand and the one parser of command lines: tables in, settings out. Help, the man page and shell completion
 * are made from the same tables (help.c). Refuses to print or exit: faults are NM_USAGE with nm_error_text. */
#ifndef NM_CMD_ARGS_H
#define NM_CMD_ARGS_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"
#include "nomoat.h"

/* What an option stores at its offset in the settings. */
typedef enum nm_option_kind {
    NM_OPTION_FLAG,     /* bool, set to true */
    NM_OPTION_TEXT,     /* const char *, pointing into argv */
    NM_OPTION_LIST,     /* nm_list: each use adds one */
    NM_OPTION_INT,      /* int32_t within least..most */
    NM_OPTION_REAL,     /* double within least..most */
    NM_OPTION_SEED,     /* nm_seed: any unsigned 64-bit number, or -1 for a random one */
    NM_OPTION_CHOICE    /* int32_t: index of the word among those of `value`, "f16|f32|q8_0" */
} nm_option_kind;

typedef struct nm_option {
    const char *names;  /* all spellings, separated by spaces, the usual short one first: "-n --max-tokens --predict". NULL ends a table; "" is a heading in help */
    const char *value;  /* what stands for its value in help, e.g. "N"; a choice's words; NULL for a flag */
    const char *help;   /* one phrase */
    size_t offset;
    nm_option_kind kind;
    double least, most;
} nm_option;

typedef struct nm_list { const char **items; size_t count, capacity; } nm_list;
typedef struct nm_seed { bool given; uint64_t value; } nm_seed;

/* An integer or real that was not given. */
#define NM_UNSET_INT INT32_MIN
#define NM_UNSET_REAL ((double)NAN)

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
/* A heading among the options of a table. */
#define NM_OPTION_HEADING(text) {"", NULL, text, 0, NM_OPTION_FLAG, 0, 0}

/* Parses argv[0..argc) (without program and subcommand) into settings, already filled with the defaults. operands: room for argc pointers.
 * "--name value" and "--name=value"; '_' in a name is '-'; "-n5" for one-letter names; "--" ends the options; "-" is an operand.
 * Nothing about the number of operands is checked when --help or --version is among the options. */
nm_err nm_args_parse(const nm_command *command, int argc, char **argv, void *settings, char **operands, int *count);
/* Sets one option by a name without dashes ("temperature", "top-k"), as chat's /set does. */
nm_err nm_args_set(const nm_option *table, const char *name, const char *value, void *settings);
void nm_args_free(const nm_command *command, void *settings);

/* Sets one option by a name without dashes, unless the line or an earlier call gave it or its opposite (--no-NAME); *taken (may be NULL) says so. value is
 * copied. from: for messages. NM_USAGE, with the nearest name, for one that there is not. */
nm_err nm_beneath_set(nm_beneath *beneath, const char *name, const char *value, const char *from, bool *taken);
/* The same for the members of a JSON object: numbers, texts, true (false and null: as if absent), arrays of these. */
nm_err nm_beneath_json(nm_beneath *beneath, const struct nm_json *object, const char *from);
/* Keeps an allocated string as long as the settings live. */
nm_err nm_beneath_keep(nm_beneath *beneath, char *text);
/* The command's own options as one JSON object that nm_beneath_json would set again; what is unset is left out, and so are the options in `skip` (long
 * names without dashes, a space before and behind each). */
nm_err nm_args_json(nm_str *s, const nm_command *command, const void *settings, const char *skip);

/* The i-th spelling of an option, or NULL; copied into out. */
const char *nm_option_name(const nm_option *option, int i, char *out, size_t out_size);

/* The nearest of `count` words to a mistyped one, or NULL if none is near. */
const char *nm_nearest(const char *word, const char *const *words, size_t count);

#endif
