/* Owns what the files of this folder share. Refuses other folders: theirs is store.h. */
#ifndef NM_HUB_HUB_H
#define NM_HUB_HUB_H

#include "hub/store.h"

/* Hex SHA-256 of a file; hex "" where the library was built without OpenSSL. *done: bytes so far, of `total`, for the progress. */
nm_err nm_hash_file(char hex[65], const char *path, uint64_t *done, uint64_t total, nm_progress_fn progress, void *arg);
/* "NAME-00002-of-00005.gguf": its number and count, and the length of NAME; false for another name. */
bool nm_split_name(const char *file, int *number, int *count, size_t *stem);
/* The models stored; appended to *list. */
nm_err nm_store_list(nm_found **list, size_t *count, size_t *capacity);
nm_err nm_hf_list(nm_found **list, size_t *count, size_t *capacity);
/* *out stays empty if the cache has no such repository. NM_NOT_FOUND: it has, but not that file. */
nm_err nm_hf_find(nm_found *out, const char *model);
/* Prints into an allocated string (nm_free). */
nm_err nm_format(char **out, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
