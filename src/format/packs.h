/* Owns the folder of kept packs, CACHE/packs: finding one, keeping a new one, the bound on all of them, and removing. Refuses to be needed: whatever
 * goes wrong with it, a model opens without. Nothing in it is anybody's only copy.
 *
 * A pack is KEY.pack. It is written as KEY.tmp under a lock (flock) by whoever comes first, flushed to the disk, and renamed; others who want the same
 * meanwhile do without. A ".tmp" whose lock nobody holds was left by a process that was killed: whoever looks into the folder next removes it. Being
 * used sets a pack's time of modification, and the one unused longest makes room first. */
#ifndef NM_FORMAT_PACKS_H
#define NM_FORMAT_PACKS_H

#include <signal.h>

#include "format/packfile.h"
#include "os/map.h"

/* Where they are; the folder need not exist. *path is allocated (nm_free). */
nm_err nm_packs_folder(char **path);
/* The most bytes that all of them may take: $NOMOAT_PACK_LIMIT (a number, with K, M, G or T behind it for powers of 1000; 0 keeps none), else half of what
 * would be free on the disk without them. NM_USAGE for a limit that cannot be read. */
nm_err nm_packs_limit(uint64_t *bytes);

/* Maps the pack of a key, and marks it as used. NM_NOT_FOUND where there is none that can be read; one that is damaged is removed. It must still be
 * compared with what the caller expects. Refuses a file of another user than this one or root. */
nm_err nm_packs_open(nm_map *map, nm_packfile *file, uint64_t key);

typedef struct nm_packs_writer nm_packs_writer;
/* Begins to keep a pack: head as nm_packfile_make gives it (taken over, also on failure), and the data that follows it, which must stay unchanged until
 * nm_packs_end. Returns once room for it is found; a thread does the rest, slowly enough for the disk. *out is NULL where another process is at it
 * already, or none are wanted. Errors say why it cannot be kept. */
nm_err nm_packs_begin(nm_packs_writer **out, uint64_t key, void *head, const void *data, size_t data_bytes);
/* Waits until it is kept, or could not be; or until *cancel (may be NULL) is not 0, and then gives it up. */
void nm_packs_end(nm_packs_writer **writer, const volatile sig_atomic_t *cancel);

typedef struct nm_packs_entry { char *path; uint64_t bytes; int64_t used_ns; } nm_packs_entry;
/* All of them, the one unused longest first. *list is allocated; nm_packs_list_free. */
nm_err nm_packs_list(nm_packs_entry **list, size_t *count);
void nm_packs_list_free(nm_packs_entry *list, size_t count);
/* Reads a pack's every byte. *source is the path of its model's file, allocated (nm_free), or NULL. NM_BAD_FILE: it is damaged, and was removed. */
nm_err nm_packs_verify(const char *path, char **source, nm_progress_fn progress, void *arg);
/* Removes all; processes that use one keep it until they end. */
nm_err nm_packs_clear(size_t *count, uint64_t *bytes);

#endif
