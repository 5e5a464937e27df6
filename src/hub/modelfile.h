/* Owns the text of a Modelfile, Ollama's format for a model with its settings: from text to values and back. Pure: it opens no file and looks no name up. Refuses
 * what it does not know, with the line; NUL bytes, invalid UTF-8 and anything beyond NM_MODELFILE_MOST bytes. */
#ifndef NM_HUB_MODELFILE_H
#define NM_HUB_MODELFILE_H

#include <math.h>

#include "base/str.h"
#include "nomoat.h"

enum { NM_MODELFILE_MOST = 1 << 20 };

#define NM_MODELFILE_INT INT32_MIN          /* a number that was not given */
#define NM_MODELFILE_REAL ((double)NAN)

/* A text, and where it stood in the file with its quotes: [at, at + length). */
typedef struct nm_modelfile_value { char *text; size_t at, length; } nm_modelfile_value;
typedef struct nm_modelfile_message { const char *role; char *content; } nm_modelfile_message;     /* role: a static string */

typedef struct nm_modelfile {
    nm_modelfile_value from;                /* FROM: MODEL{+ADAPTER[=SCALE]} */
    nm_modelfile_value *adapter;            /* ADAPTER, each with or without =SCALE */
    size_t adapters, adapter_capacity;
    char *system, *tmpl;                    /* NULL: not given. tmpl is Jinja */
    bool foreign;                           /* there was a TEMPLATE in Go's language, as Ollama writes it: left out */
    nm_modelfile_message *message;          /* how each conversation begins, behind the system message */
    size_t messages, message_capacity;
    char **stop;
    size_t stops, stop_capacity;
    double temperature, top_p, min_p, typical, repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, repeat_last, context, predict;
    bool seeded;
    uint64_t seed;
    int think;                              /* PARAMETER think, nomoat's own: 0 off, 1 on; -1 not given */
} nm_modelfile;

/* Nothing given. */
void nm_modelfile_init(nm_modelfile *file);
/* name: for messages, which are "NAME:LINE: ...". NM_BAD_FILE; *out is then empty. */
nm_err nm_modelfile_parse(nm_modelfile *out, const char *text, size_t length, const char *name);
/* Appends a text that parses to the same. NM_USAGE for a value that no quotes can hold. */
nm_err nm_modelfile_write(nm_str *s, const nm_modelfile *file);
/* Appends the text, which must parse, with what `file` has in place of its FROM, ADAPTER, SYSTEM and PARAMETER lines, where FROM stood; all else (MESSAGE, TEMPLATE,
 * LICENSE, parameters of Ollama's machine, comments) stays to the letter. */
nm_err nm_modelfile_revise(nm_str *s, const char *text, size_t length, const nm_modelfile *file);
/* A value as it may stand behind an instruction, quoted where it needs that. */
nm_err nm_modelfile_quote(nm_str *s, const char *value);
void nm_modelfile_free(nm_modelfile *file);

#endif
