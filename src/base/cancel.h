/* Owns how a flag that asks long work to end is read and set: by any thread, and by handlers of signals. Such a flag orders nothing else in memory. */
#ifndef NM_BASE_CANCEL_H
#define NM_BASE_CANCEL_H

#include <signal.h>
#include <stdbool.h>

/* flag may be NULL: nobody asks. */
static inline bool nm_cancelled(const volatile sig_atomic_t *flag) { return flag && __atomic_load_n(flag, __ATOMIC_RELAXED) != 0; }
static inline void nm_cancel(volatile sig_atomic_t *flag, bool ends) { __atomic_store_n(flag, ends, __ATOMIC_RELAXED); }

#endif
