/* Owns JSON that comes in: read by jansson, and by nobody else in cmd/. Faults of the text are NM_USAGE with line
 * and column. */
#ifndef NM_CMD_JSON_IN_H
#define NM_CMD_JSON_IN_H

#include "base/str.h"
#include "nomoat.h"

/* {"ids": [...]} or {"text": "..."}: exactly one of them is set. Both are allocated (nm_free). */
typedef struct nm_json_input { int32_t *ids; size_t n_ids; char *text; size_t text_length; } nm_json_input;
nm_err nm_json_read_input(nm_json_input *out, const char *text, size_t length);
void nm_json_input_free(nm_json_input *input);

/* One JSON object being put together: begins as the given one (NULL or empty: {}), then gets members that it lacks. */
typedef struct nm_vars { nm_str text; void *given; bool any; } nm_vars;
nm_err nm_vars_begin(nm_vars *vars, const char *object, size_t length, const char *what);
nm_err nm_vars_default(nm_vars *vars, const char *key, const char *json);
nm_err nm_vars_default_text(nm_vars *vars, const char *key, const char *value);
bool nm_vars_given(const nm_vars *vars, const char *key);
nm_err nm_vars_end(nm_vars *vars);      /* then vars->text is the whole object */
void nm_vars_free(nm_vars *vars);

/* Calls back for each {"role": ..., "content": ...} of {"messages": [...]}. NM_USAGE where a message has another form. */
typedef nm_err (*nm_message_fn)(void *arg, const char *role, const char *content, size_t length);
nm_err nm_json_read_messages(const char *text, size_t length, nm_message_fn each, void *arg);

#endif
