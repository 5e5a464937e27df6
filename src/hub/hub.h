/* Owns what the files of this folder share. Refuses other folders: theirs is store.h. */
#ifndef NM_HUB_HUB_H
#define NM_HUB_HUB_H

#include "hub/store.h"

/* Hex SHA-256 of a file; hex "" where the library was built without OpenSSL. *done: bytes so far, of `total`, for the progress. */
nm_err nm_hash_file(char hex[65], const char *path, uint64_t *done, uint64_t total, nm_progress_fn progress, void *arg);
/* "NAME-00002-of-00005.gguf": its number and count, and the length of NAME; false for another name. */
bool nm_split_name(const char *file, int *number, int *count, size_t *stem);
/* The models stored; appended to *list. */
nm_err nm_store_list(nm_found **list, size_t *count, size_t *capacity, nm_skipped_fn skipped);
nm_err nm_hf_list(nm_found **list, size_t *count, size_t *capacity, nm_skipped_fn skipped);
/* The stored model of that name: spelt so, else the only one that differs in letter case alone. *out stays empty if there is none. Other
 * entries of the store are not looked into. */
nm_err nm_store_find(nm_found *out, const char *name);
/* Of an entry that failed: the error itself if all would fail so, else NM_OK, after telling. */
nm_err nm_skip(nm_err err, nm_skipped_fn skipped);
/* *out stays empty if the cache has no such repository. NM_NOT_FOUND: it has, but not that file. */
nm_err nm_hf_find(nm_found *out, const char *model);
/* Prints into an allocated string (nm_free). */
nm_err nm_format(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
