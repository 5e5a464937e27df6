/* JSON as text, piece by piece. */
#include "format/json_text.h"

#include <math.h>
#include <string.h>

#include "base/err.h"

static nm_err number(nm_str *s, double value, int digits)
{
    return isfinite(value) ? nm_str_printf(s, "%.*g", digits, value) : nm_str_puts(s, "null");
}

nm_err nm_json_single(nm_str *s, double value) { return number(s, value, 9); }
nm_err nm_json_double(nm_str *s, double value) { return number(s, value, 17); }

nm_err nm_json_ids(nm_str *s, const int32_t *ids, size_t count)
{
    NM_TRY(nm_str_putc(s, '['));
    for (size_t i = 0; i < count; i++) NM_TRY(nm_str_printf(s, "%s%d", i ? ", " : "", ids[i]));
    return nm_str_putc(s, ']');
}

nm_err nm_json_key(nm_str *s, const char *key)
{
    char last = s->length ? s->data[s->length - 1] : '{';
    if (last != '{') NM_TRY(nm_str_puts(s, ", "));
    NM_TRY(nm_str_json(s, key, strlen(key)));
    return nm_str_puts(s, ": ");
}

nm_err nm_json_string(nm_str *s, const char *key, const char *value)
{
    NM_TRY(nm_json_key(s, key));
    return nm_str_json(s, value, strlen(value));
}

nm_err nm_json_whole(nm_str *s, const char *key, uint64_t value)
{
    NM_TRY(nm_json_key(s, key));
    return nm_str_printf(s, "%llu", (unsigned long long)value);
}
