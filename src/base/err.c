/* The calling thread's error line. */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

static _Thread_local char err_text[NM_ERROR_SIZE];
static _Thread_local bool err_full;

const char *nm_error_text(void) { return err_text; }
const char *nm_version(void) { return NM_VERSION; }

static void record(const char *format, va_list ap)
{
    char raw[NM_ERROR_SIZE];
    vsnprintf(raw, sizeof raw, format, ap);
    nm_escape_terminal(err_text, sizeof err_text, raw, strlen(raw));
    err_full = false;
}

nm_err nm_fail(nm_err code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    record(format, ap);
    va_end(ap);
    return code;
}

nm_err nm_fail_full(nm_err code)
{
    err_full = true;
    return code;
}

bool nm_error_is_full(void) { return err_full; }

/* EFBIG: the process may write no file so large, or the file system has none. */
nm_err nm_fail_system(nm_err code, int why, const char *format, ...)
{
    char before[NM_ERROR_SIZE];
    va_list ap;
    va_start(ap, format);
    vsnprintf(before, sizeof before, format, ap);
    va_end(ap);
    nm_fail(code, "%s: %s", before, strerror(why));
    return why == ENOSPC || why == EDQUOT || why == EFBIG ? nm_fail_full(code) : code;
}

nm_err nm_fail_in(nm_err code, const char *prefix)
{
    char before[NM_ERROR_SIZE];
    bool full = err_full;
    memcpy(before, err_text, sizeof before);
    nm_fail(code, "%s: %s", prefix, before);
    return full ? nm_fail_full(code) : code;
}

void nm_fault_keep(nm_fault *f, nm_err err)
{
    *f = (nm_fault){.err = err, .full = err != NM_OK && err_full};
    if (err != NM_OK) memcpy(f->text, err_text, sizeof f->text);
}

nm_err nm_fault_tell(const nm_fault *f)
{
    if (f->err == NM_OK) return NM_OK;
    memcpy(err_text, f->text, sizeof err_text);
    err_full = f->full;
    return f->err;
}

nm_err nm_fail_memory(size_t bytes)
{
    return nm_fail(NM_NO_MEMORY, "out of memory: %zu bytes could not be had", bytes);
}
