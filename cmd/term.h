/* Owns the program's standard output and its notes on standard error. Text from models and files never reaches a terminal raw; a pipe
 * or file gets its exact bytes. Refuses to lose a failed write: nm_out_flush reports the first, and a closed pipe is told apart. */
#ifndef NM_CMD_TERM_H
#define NM_CMD_TERM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/str.h"
#include "nomoat.h"

/* Makes a stream of foreign text safe: control characters (C0 but newline and tab, DEL, C1) and invalid UTF-8 become \xNN, also where
 * a character is cut between two calls. */
typedef struct nm_safe { char held[4]; size_t n; } nm_safe;
nm_err nm_safe_push(nm_safe *safe, nm_str *out, const char *text, size_t length);
nm_err nm_safe_end(nm_safe *safe, nm_str *out);      /* what is held back can no longer become a character */

bool nm_term_is(int fd);
/* A terminal that can move its cursor: TERM is set and not "dumb". */
bool nm_term_draws(int fd);
/* Colour: a terminal, no NO_COLOR, and TERM not "dumb". */
bool nm_term_colour(int fd);

/* Standard output, buffered. After a failure everything is NM_FAILED. */
nm_err nm_out(const char *bytes, size_t length);
nm_err nm_out_puts(const char *text);
nm_err nm_out_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Foreign text as a stream: exact bytes to a pipe or file, safe ones to a terminal. nm_out_text_end ends one stream. */
nm_err nm_out_text(const char *text, size_t length);
nm_err nm_out_text_end(void);
/* A foreign name within a line: always on one line and safe. */
nm_err nm_out_name(const char *text);
/* Dim text from here on, on a terminal with colour; false ends it. */
nm_err nm_out_dim(bool on);
nm_err nm_out_flush(void);
/* Standard output is a pipe that nobody reads any more. */
bool nm_out_pipe_closed(void);

/* Notes: "nomoat: ..." on standard error, one line, safe; silent after nm_notes_quiet(true). */
void nm_notes_quiet(bool quiet);
void nm_note(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for the error that ends the program: never silent. */
void nm_note_error(const char *text);

/* A line on standard error that is drawn over again: only on a terminal, at most ten times a second, and not when quiet. */
typedef struct nm_meter { const char *what; uint64_t last_ns; bool drawn; } nm_meter;
bool nm_meter_draw(void *meter, uint64_t done, uint64_t total);     /* an nm_progress_fn; true once Ctrl-C was pressed */
void nm_meter_clear(nm_meter *meter);

/* Ctrl-C: from nm_interrupts_catch on it only sets the flag. */
extern volatile sig_atomic_t nm_interrupted;
void nm_interrupts_catch(void);
/* The same for SIGTERM and, where it is not ignored, SIGHUP: for work that is kept when it is stopped. */
void nm_endings_catch(void);


#endif
