/* Owns lines typed at a terminal: editing and history by libedit where the program was built with it, else plain lines. */
#ifndef NM_CMD_LINE_H
#define NM_CMD_LINE_H

#include "base/str.h"
#include "nomoat.h"

typedef struct nm_line nm_line;
typedef enum nm_typed { NM_TYPED_LINE, NM_TYPED_END, NM_TYPED_INTERRUPT } nm_typed;

/* history: a file, or NULL for none; it is made when needed. */
nm_err nm_line_open(nm_line **out, const char *history);
void nm_line_close(nm_line **line);
/* Prompts on standard error and reads one line, without its newline, into text (emptied before). INTERRUPT: Ctrl-C. */
nm_err nm_line_read(nm_line *line, const char *prompt, nm_str *text, nm_typed *typed);
/* The next line starts with this text, to be edited; without libedit nothing happens. */
void nm_line_prefill(nm_line *line, const char *text);

#endif
