/* Owns what can be told of an open model beside its numbers: what its template and its vocabulary let it do. */
#ifndef NM_SERVER_FACTS_H
#define NM_SERVER_FACTS_H

#include "server/engine.h"

/* The special tokens of filling in the middle; -1 where the vocabulary has none of that kind. */
typedef struct nm_fim { int32_t prefix, suffix, middle, repository, file; } nm_fim;
/* From the file's keys, else from the vocabulary's well-known texts. False unless prefix, suffix and middle are known. */
bool nm_fim_find(nm_fim *out, const nm_model *model);

bool nm_knows_tools(const char *template_text);         /* NULL knows nothing */
bool nm_knows_thinking(const char *template_text);

/* All keys of the file with plain values, as JSON; arrays are null unless `arrays`. NULL without memory. */
json_t *nm_meta_json(const nm_model *model, bool arrays);
/* "134.52M", "1.5B". */
json_t *nm_parameter_size(uint64_t parameters);

#endif
