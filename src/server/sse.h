/* Owns server-sent events (WHATWG HTML, 9.2): one stream of them as an exchange's answer. Refuses data with a newline in it: JSON has none. */
#ifndef NM_SERVER_SSE_H
#define NM_SERVER_SSE_H

#include "server/http.h"

void nm_sse_begin(nm_exchange *x);
/* event NULL: data alone. Without memory the event is dropped and NM_NO_MEMORY returned: the stream is to end then. */
nm_err nm_sse_send(nm_exchange *x, const char *event, const char *data, size_t length);

#endif
