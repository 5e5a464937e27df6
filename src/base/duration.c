/* Spans of time in words. */
#include "base/duration.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

typedef struct unit { const char *names; double seconds; } unit;    /* names: between spaces */
static const unit units[] = {{" d day days ", 86400}, {" h hr hrs hour hours ", 3600}, {" m min mins minute minutes ", 60}, {" s sec secs second seconds ", 1}};
static const double MOST = 86400.0 * 3660;      /* ten years */

static const char *skip_blanks(const char *at)
{
    while (*at == ' ') at++;
    return at;
}

/* Seconds of the unit that stands at *at, which moves behind it; 0 if there is none. */
static double read_unit(const char **at)
{
    char word[12];
    size_t n = 0, have = 0;
    while ((((*at)[n] | 32) >= 'a') && (((*at)[n] | 32) <= 'z')) n++;
    if (!n || n > sizeof word - 3) return 0;
    word[have++] = ' ';
    for (size_t i = 0; i < n; i++) word[have++] = (char)((*at)[i] | 32);
    word[have++] = ' ';
    word[have] = 0;
    *at += n;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++) if (strstr(units[i].names, word)) return units[i].seconds;
    return 0;
}

nm_err nm_read_duration(const char *text, const char *option, double *seconds)
{
    const char *at = skip_blanks(text);
    double last = HUGE_VAL, sum = 0;
    bool bad = !*at;
    while (*at && !bad) {
        char *end = NULL;
        bool digits = *at == '.' || (*at >= '0' && *at <= '9');     /* no signs, no hexadecimal, no "inf" */
        double v = digits && !(at[0] == '0' && (at[1] | 32) == 'x') ? strtod(at, &end) : -1, scale;
        bad = !end || end == at;
        if (bad) break;
        at = skip_blanks(end);
        scale = *at || last < HUGE_VAL ? read_unit(&at) : 60;
        bad = scale == 0 || scale >= last;
        last = scale;
        sum += v * scale;
        at = skip_blanks(at);
    }
    if (bad || !(sum > 0) || sum > MOST) return nm_fail(NM_USAGE, "%s '%s': give a time such as 3h, 90m, 2h30m or '45 min'", option, text);
    *seconds = sum;
    return NM_OK;
}

const char *nm_duration_text(double seconds, char out[32])
{
    if (seconds >= 5400) snprintf(out, 32, "%.1f h", seconds / 3600);
    else if (seconds >= 90) snprintf(out, 32, "%.0f min", seconds / 60);
    else snprintf(out, 32, "%.0f s", seconds);
    return out;
}

nm_err nm_read_bytes(const char *text, const char *option, uint64_t *bytes)
{
    char *end;
    double v = text ? strtod(text, &end) : 0;
    *bytes = 0;
    if (!text) return NM_OK;
    if (end != text) end = (char *)skip_blanks(end);
    const char *letters = "kmgt", *letter = *end ? strchr(letters, *end | 32) : NULL;
    if (letter) {
        for (const char *l = letters; l <= letter; l++) v *= 1000;
        end++;
    }
    if (*end == 'B' || *end == 'b') end++;
    if (!(v > 0) || v > 1e15 || *end) return nm_fail(NM_USAGE, "%s %s: give a size such as 2G or 800M", option, text);
    *bytes = (uint64_t)v;
    return NM_OK;
}

const char *nm_bytes_text(uint64_t bytes, char out[32])
{
    static const char *const sizes[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double v = (double)bytes;
    size_t u = 0;
    for (; v >= 999.5 && u + 1 < sizeof sizes / sizeof *sizes; u++) v /= 1000;
    snprintf(out, 32, u && v < 99.95 ? "%.1f %s" : "%.0f %s", v, sizes[u]);
    return out;
}
