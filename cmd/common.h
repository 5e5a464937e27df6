/* Owns what subcommands do alike: settings for the whole process, opening a MODEL, reading standard input, JSON pieces. Functions
 * return nm_err with nm_error_text set; main prints it. */
#ifndef NM_CMD_COMMON_H
#define NM_CMD_COMMON_H

#include "args.h"
#include "base/duration.h"
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "format/json_text.h"
#include "hub/store.h"
#include "nomoat.h"
#include "term.h"
#include "tune/measure.h"

enum { NM_INPUT_MOST = 1 << 30 };       /* the most that is read from standard input or a text file */

/* -t, --kernels, -q. */
nm_err nm_common_apply(const nm_common *common);
/* An nm_skipped_fn: a note. */
void nm_note_skipped(const char *why);
/* nm_stack_find, where a model's name that is not found brings the nearest one that is. */
nm_err nm_find_stack(nm_found_stack *out, const char *text, bool ranges);
nm_err nm_open_found(nm_model **out, const nm_found *found, const nm_common *common, bool metadata_only);
/* Finds and opens the model of MODEL{+ADAPTER}, for commands to which adapters make no difference. found may be NULL, else nm_found_free. */
nm_err nm_open_model(nm_model **out, nm_found *found, const char *model, const nm_common *common, bool metadata_only);
/* An nm_wait_fn: says once that another nomoat is at work; true once Ctrl-C was pressed. */
bool nm_store_busy(void);
/* NM_REFUSED with the model's name if it has no tokenizer. */
nm_err nm_need_tokenizer(const nm_tokenizer **out, const nm_model *model);

/* Standard input to its end; NM_USAGE, naming what was expected, when it is a terminal. *text: nm_free. */
nm_err nm_read_stdin(char **text, size_t *length, const char *expected);

/* Prints the object and a newline, and frees it. err: what its making came to; passed on. */
nm_err nm_json_print(nm_str *s, nm_err err);
/* A command's whole text: as nm_out_text gives it, or {"text": ...}. */
nm_err nm_text_print(const char *text, size_t length, bool json);

/* Tokens of a prompt: special tokens parsed, BOS exactly once where the model wants one, and no EOS behind it. */
nm_err nm_prompt_tokens(const nm_model *model, const char *text, size_t length, int32_t **ids, size_t *count);

#endif
