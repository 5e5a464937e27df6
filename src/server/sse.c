/* Server-sent events. */
#include "server/sse.h"

#include "base/err.h"
#include "base/str.h"

void nm_sse_begin(nm_exchange *x)
{
    nm_exchange_add_header(x, "Cache-Control", "no-cache");
    nm_exchange_add_header(x, "X-Accel-Buffering", "no");       /* nginx passes each event on at once */
    nm_exchange_begin(x, 200, "text/event-stream");
}

static nm_err compose(nm_str *s, const char *event, const char *data, size_t length)
{
    if (event) NM_TRY(nm_str_printf(s, "event: %s\n", event));
    NM_TRY(nm_str_puts(s, "data: "));
    NM_TRY(nm_str_append(s, data, length));
    return nm_str_puts(s, "\n\n");
}

/* In one write, so that no reader sees half an event and packets are few. */
nm_err nm_sse_send(nm_exchange *x, const char *event, const char *data, size_t length)
{
    nm_str s = {0};
    nm_err err = compose(&s, event, data, length);
    if (err == NM_OK) nm_exchange_write(x, s.data, s.length);
    nm_str_free(&s);
    return err;
}
