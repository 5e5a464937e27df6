/* The calling thread's error line. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/str.h"

enum { ERR_SIZE = 1024 };
static _Thread_local char err_text[ERR_SIZE];

const char *nm_error_text(void) { return err_text; }
const char *nm_version(void) { return NM_VERSION; }

nm_err nm_fail(nm_err code, const char *format, ...)
{
    char raw[ERR_SIZE];
    va_list ap;
    va_start(ap, format);
    vsnprintf(raw, sizeof raw, format, ap);
    va_end(ap);
    nm_escape_terminal(err_text, sizeof err_text, raw, strlen(raw));
    return code;
}

nm_err nm_fail_in(nm_err code, const char *prefix)
{
    char before[ERR_SIZE];
    memcpy(before, err_text, sizeof before);
    return nm_fail(code, "%s: %s", prefix, before);
}

nm_err nm_fail_memory(size_t bytes)
{
    return nm_fail(NM_NO_MEMORY, "out of memory: %zu bytes could not be had", bytes);
}
