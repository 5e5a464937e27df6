/* Owns a model with what is stacked on it, as commands open it: MODEL{+ADAPTER[=SCALE]}, --lora, --lora-scaled, --force. */
#ifndef NM_CMD_STACK_H
#define NM_CMD_STACK_H

#include "args.h"
#include "base/str.h"
#include "hub/store.h"
#include "nomoat.h"

/* ranges: a scale may be LOW..HIGH; the stack is then opened with LOW. */
typedef struct nm_stack_options { nm_list lora, lora_scaled; bool force, ranges; } nm_stack_options;

/* Rows for a table of options; `member` is the nm_stack_options in the settings. */
#define NM_STACK_OPTIONS(settings, member) \
    {"--lora", "ADAPTER", "put an adapter on the model, as MODEL+ADAPTER does; may be repeated", offsetof(settings, member.lora), NM_OPTION_LIST, 0, 0}, \
    {"--lora-scaled", "ADAPTER:SCALE", "the same with a scale", offsetof(settings, member.lora_scaled), NM_OPTION_LIST, 0, 0}, \
    {"--force", NULL, "use adapters that were made for other weights, too", offsetof(settings, member.force), NM_OPTION_FLAG, 0, 0}

typedef struct nm_stacked {
    nm_model *model;
    nm_found_stack found;           /* the model and the adapters in use */
    nm_adapter **adapter;           /* all that were opened, in use or not */
    size_t adapters, capacity;
    nm_stack *stack;                /* NULL: the base alone */
} nm_stacked;

/* Finds all names before anything is read. */
nm_err nm_stack_names(nm_found_stack *out, const char *text, const nm_stack_options *options);
/* Opens model and adapters, with a note for each adapter whose base could not be told or is quantised in another way. */
nm_err nm_stacked_open(nm_stacked *out, const char *text, const nm_common *common, const nm_stack_options *options);
void nm_stacked_close(nm_stacked *stacked);
/* The adapters in use, in order, and their scales: found.count of each. */
nm_err nm_stacked_adapters(nm_stacked *stacked, const nm_adapter **adapters, float *scales);

/* The format that prompts must have, as the adapters in use were taught in it ("alpaca"): of the last one that tells any and has a scale other than 0; "" for the
 * model's own template. A note says where adapters disagree; NM_REFUSED for a format that this program does not know. */
nm_err nm_stacked_format(nm_stacked *stacked, char format[16]);
/* The same from the files alone, for commands that open no weights. */
nm_err nm_found_format(const nm_found_stack *found, char format[16]);

/* Other adapters for the same model, not in use yet. Those that were open before are not read again. */
typedef struct nm_prepared { nm_found_stack found; nm_stack *stack; } nm_prepared;
nm_err nm_stacked_prepare(nm_prepared *out, nm_stacked *stacked, const char *adapters, bool force);    /* "" = none */
/* Takes it in use; afterwards `prepared` holds what was. */
void nm_stacked_exchange(nm_stacked *stacked, nm_prepared *prepared);
void nm_prepared_free(nm_prepared *prepared);       /* once no session has its stack */

/* NM_USAGE for what cannot be an adapter's name in the store (given by -o), with what can. */
nm_err nm_check_adapter_name(const char *name);

/* Stored adapters as a table, and as a member "adapters" of an object. */
nm_err nm_adapters_print(const nm_found_adapter *list, size_t count);
nm_err nm_adapters_json(nm_str *s, const nm_found_adapter *list, size_t count);

#endif
