/* Owns the file that keeps a model's packed weights: what made it (head), where each weight lies (table), and panels as kernels read them. Refuses what
 * is cut, what another version wrote, and a head or table that is not as it was written; whether the panels are is asked apart, because that
 * reads all of them.
 *
 *   nm_packfile_head
 *   words     [words] of uint64: identity of the file that the weights come from
 *   tensors   [tensors] of nm_packfile_tensor, in the order of their data
 *   path      of that file, zero-terminated: for people
 *   zeros up to NM_PACKFILE_PAGE, then the data of each tensor, at multiples of NM_PACKFILE_LINE
 * All in the byte order of the machine; one of the other order sees another version. */
#ifndef NM_FORMAT_PACKFILE_H
#define NM_FORMAT_PACKFILE_H

#include <stddef.h>

#include "nomoat.h"

/* The version is raised when this form changes, or what is checked of weights before they are kept (that all are finite). */
enum { NM_PACKFILE_VERSION = 1, NM_PACKFILE_PAGE = 4096, NM_PACKFILE_LINE = 64 };

typedef struct nm_packfile_head {
    char magic[8];
    uint32_t version, tensors;
    uint64_t words, path_bytes;     /* path_bytes with its zero */
    uint64_t layout;                /* what a panel is: nm_pack_layout */
    uint64_t source_hash;           /* of all weights as they are in their file, kept ones and others */
    uint64_t data_at, file_bytes;
    uint64_t checksum;              /* nm_packfile_checksum */
} nm_packfile_head;

typedef struct nm_packfile_tensor {
    uint64_t name;                  /* a hash of it */
    uint64_t type;
    int64_t n, k;
    uint64_t at, bytes;             /* from the file's beginning */
    uint64_t unit;                  /* bytes of a panel; divides bytes */
    uint64_t sum;                   /* of nm_packfile_sum over all panels, in any order */
} nm_packfile_tensor;

typedef struct nm_packfile {        /* points into the file's bytes */
    const nm_packfile_head *head;
    const uint64_t *word;
    const nm_packfile_tensor *tensor;
    const char *path;
} nm_packfile;

/* Of what stands before the data, without the head's own checksum. size: of head and table, data_at. */
uint64_t nm_packfile_checksum(const void *bytes, size_t size);
/* Reads head and table from bytes at a multiple of 8. NM_REFUSED where another version wrote it, NM_BAD_FILE where anything is not as it must be;
 * then *file is zero. */
nm_err nm_packfile_read(nm_packfile *file, const void *bytes, size_t size);
/* The bytes before the data, of which file->head needs words, tensors, path_bytes, layout and source_hash; tensors need all but `at`. *bytes is allocated
 * (nm_free); *size is data_at. */
nm_err nm_packfile_make(void **bytes, size_t *size, const nm_packfile *file);
/* One panel's part of a tensor's sum. */
uint64_t nm_packfile_sum(uint64_t panel, const void *data, size_t bytes);
/* Compares the sums of all panels. NM_BAD_FILE names the place of the first tensor that differs; progress may be NULL. */
nm_err nm_packfile_verify(const nm_packfile *file, nm_progress_fn progress, void *arg);

#endif
