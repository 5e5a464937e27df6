/* Owns the calling thread's error line, and the macros by which errors travel. Refuses to print. */
#ifndef NM_BASE_ERR_H
#define NM_BASE_ERR_H

#include "nomoat.h"

/* Records the message (printf style; control characters and invalid UTF-8 are escaped, length is bounded) and returns code. */
nm_err nm_fail(nm_err code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before the recorded message and returns code: for callers that know the file's name. */
nm_err nm_fail_in(nm_err code, const char *prefix);

/* NM_NO_MEMORY with the number of bytes that could not be had. */
nm_err nm_fail_memory(size_t bytes);

#define NM_TRY(call) do { nm_err nm_try_ = (call); if (nm_try_ != NM_OK) return nm_try_; } while (0)
/* The same for functions with one exit: needs `nm_err err` and a label `out`. */
#define NM_GOTO(call) do { err = (call); if (err != NM_OK) goto out; } while (0)

#endif
