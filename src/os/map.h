/* Owns read-only maps of files, and the list of them that a SIGBUS handler may ask. Refuses folders, devices, pipes and empty files. */
#ifndef NM_OS_MAP_H
#define NM_OS_MAP_H

#include <stddef.h>

#include "nomoat.h"

typedef struct nm_map { const void *data; size_t size; char *name; int slot; } nm_map;

/* NM_NOT_FOUND: no such file; NM_BAD_FILE: not a regular file, or empty; NM_FAILED: it cannot be read. Opens without waiting for a pipe's writer. */
nm_err nm_map_open(nm_map *map, const char *path);
void nm_map_close(nm_map *map);
/* Tells the system that this range of the map will not be read again soon: its pages leave the resident set. */
void nm_map_forget(const nm_map *map, const void *from, size_t bytes);

#endif
