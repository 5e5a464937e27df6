/* Owns read-only maps of files, and the list of them that a SIGBUS handler may ask. Refuses folders, devices, pipes and empty files. */
#ifndef NM_OS_MAP_H
#define NM_OS_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nomoat.h"

/* What the system says of a file. Its content cannot change without one of these changing, save through what was left mapped for writing, and within
 * the grain of the file system's clock: nm_file_is_settled. */
typedef struct nm_file_id { uint64_t device, inode, size, modified_ns, changed_ns; } nm_file_id;

typedef struct nm_map_copier nm_map_copier;
typedef struct nm_map { const void *data; size_t size; char *name; int slot; nm_file_id id; uint32_t owner; nm_map_copier *copier; size_t copied; bool hastened; } nm_map;

/* NM_NOT_FOUND: no such file; NM_BAD_FILE: not a regular file, or empty; NM_FAILED: it cannot be read. Opens without waiting for a pipe's writer. */
nm_err nm_map_open(nm_map *map, const char *path);
/* The same for a large file that is read over and over: at a multiple of 2 MB, with a request for huge pages, which file systems with large folios
 * give (ext4 and XFS on Linux 6.18: all of it), and which changes nothing elsewhere. */
nm_err nm_map_open_huge(nm_map *map, const char *path);
/* For such a map, if the file system gave it no huge pages, its pages small and scattered: a thread copies them into huge pages of the process's own, piece by piece, at the
 * same addresses, and lets go of the mapped ones. Readers notice nothing but speed. Does nothing where memory is short or the system has no huge pages, and
 * no more than once for a map. nm_map_close
 * ends it, and nm_map_hasten_end. */
void nm_map_hasten(nm_map *map);
void nm_map_hasten_end(nm_map *map);
/* The copies end where they are, for good. Gives the bytes from the map's start on that are copies: they must not be forgotten, as nothing would bring them back. */
size_t nm_map_settle(const nm_map *map);
void nm_map_close(nm_map *map);
/* Whether the file was last changed long enough ago that a later change must show in its times. */
bool nm_file_is_settled(const nm_file_id *id);
/* Tells the system that this range of the map will not be read again soon: its pages leave the resident set. */
void nm_map_forget(const nm_map *map, const void *from, size_t bytes);

#endif
