/* Owns the calling thread's error line, and the macros by which errors travel. Refuses to print. */
#ifndef NM_BASE_ERR_H
#define NM_BASE_ERR_H

#include "nomoat.h"

/* Records the message (printf style; control characters and invalid UTF-8 are escaped, length is bounded) and returns code. */
nm_err nm_fail(nm_err code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before the recorded message and returns code: for callers that know the file's name. */
nm_err nm_fail_in(nm_err code, const char *prefix);

/* The same for a refusal of the system's, `why` an errno: "MESSAGE: No space left on device". */
nm_err nm_fail_system(nm_err code, int why, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Marks the recorded error as one of a disk (or a quota) that is full, and returns code; until the next failing call. */
nm_err nm_fail_full(nm_err code);
bool nm_error_is_full(void);

/* An error that goes to another thread. */
enum { NM_ERROR_SIZE = 1024 };
typedef struct nm_fault { nm_err err; bool full; char text[NM_ERROR_SIZE]; } nm_fault;
/* What a call on this thread has just returned, with its message unless it is NM_OK. */
void nm_fault_keep(nm_fault *fault, nm_err err);
/* Records it on this thread, and returns it. */
nm_err nm_fault_tell(const nm_fault *fault);

/* NM_NO_MEMORY with the number of bytes that could not be had. */
nm_err nm_fail_memory(size_t bytes);

#define NM_TRY(call) do { nm_err nm_try_ = (call); if (nm_try_ != NM_OK) return nm_try_; } while (0)
/* The same for functions with one exit: needs `nm_err err` and a label `out`. */
#define NM_GOTO(call) do { err = (call); if (err != NM_OK) goto out; } while (0)

#endif
