/* Owns what "DATA[:WEIGHT]" means: a file, a folder or standard input, and how often its rows are drawn. */
#ifndef NM_DATA_SOURCE_H
#define NM_DATA_SOURCE_H

#include "nomoat.h"

/* path: nm_free. An existing path wins over every reading; otherwise what stands behind the last colon is the weight, above 0 and at most 1000. */
nm_err nm_source_parse(const char *data, char **path, double *weight);

/* Every file of a source: itself, or those of a folder and of the folders in it, in byte order of their names, as far as their names end like data. */
typedef nm_err (*nm_file_fn)(void *arg, const char *path);
nm_err nm_source_walk(const char *path, nm_file_fn each, void *arg);

#endif
