/* Owns tables of options: what may be set in a struct of settings, under which names and within which bounds; setting one by its name, and the settings as
 * JSON. Refuses command lines (cmd/args.h). Faults are NM_USAGE with nm_error_text. */
#ifndef NM_FORMAT_OPTION_H
#define NM_FORMAT_OPTION_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"
#include "nomoat.h"

/* What an option stores at its offset in the settings. */
typedef enum nm_option_kind {
    NM_OPTION_FLAG,     /* bool, set to true */
    NM_OPTION_TEXT,     /* const char *, the text that was given */
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
/* A heading among the options of a table. */
#define NM_OPTION_HEADING(text) {"", NULL, text, 0, NM_OPTION_FLAG, 0, 0}

typedef struct nm_list { const char **items; size_t count, capacity; } nm_list;
typedef struct nm_seed { bool given; uint64_t value; } nm_seed;

/* An integer or real that was not given. */
#define NM_UNSET_INT INT32_MIN
#define NM_UNSET_REAL ((double)NAN)

enum { NM_OPTION_NAME_MOST = 64 };      /* bytes of a name, its end included */

/* The i-th spelling of an option, or NULL; copied into out. */
const char *nm_option_name(const nm_option *option, int i, char *out, size_t out_size);
/* The option of that spelling, dashes included, where '_' behind them counts as '-'; NULL if there is none. */
const nm_option *nm_option_find(const nm_option *table, const char *given, size_t length);
/* Sets one option by a name without dashes ("temperature", "top-k"). A text is kept as it is given; a flag needs no value and may have any. */
nm_err nm_option_set(const nm_option *table, const char *name, const char *value, void *settings);
/* The same once it is found. shown: its name for messages. */
nm_err nm_option_set_value(const nm_option *option, const char *shown, const char *value, void *settings);

struct nm_json;
/* A number or a text of JSON as nm_option_set reads it: numbers in the fewest digits that give them back. NM_USAGE, without a message, for anything else. */
nm_err nm_option_json_text(const struct nm_json *value, nm_str *s);
/* The settings as one JSON object by the options' long names; what is unset is left out, and so are the options in `skip` (long names without dashes, a space
 * before and behind each). */
nm_err nm_option_json(nm_str *s, const nm_option *table, const void *settings, const char *skip);

#endif
