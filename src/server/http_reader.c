/* The reader: a thread on which the handlers of large requests run, one after the other. To take a body of many megabytes apart takes seconds, and only those who send such bodies
 * wait for that. */
#include "base/err.h"
#include "os/thread.h"
#include "server/http_private.h"

static nm_exchange *next_large(nm_http *http)
{
    pthread_mutex_lock(&http->lock);
    while (!http->large && !http->stop) pthread_cond_wait(&http->given, &http->lock);
    nm_exchange *x = http->stop ? NULL : http->large;
    if (x) http->large = x->next;
    pthread_mutex_unlock(&http->lock);
    return x;
}

static void *read_large(void *arg)
{
    nm_http *http = arg;
    for (nm_exchange *x; (x = next_large(http)); nm_exchange_release(&x))
        if (!nm_exchange_gone(x)) x->route->handle(x, http->context);
    return NULL;
}

void nm_http_give_reader(nm_http *http, nm_exchange *x)
{
    nm_exchange **end = &http->large;
    nm_exchange_hold(x);
    pthread_mutex_lock(&http->lock);
    while (*end) end = &(*end)->next;
    *end = x;
    pthread_cond_signal(&http->given);
    pthread_mutex_unlock(&http->lock);
}

void nm_http_take_back(nm_http *http, nm_exchange *x)
{
    pthread_mutex_lock(&http->lock);
    nm_exchange **at = &http->large;
    while (*at && *at != x) at = &(*at)->next;
    bool found = *at != NULL;
    if (found) *at = x->next;
    pthread_mutex_unlock(&http->lock);
    if (found) nm_exchange_release(&x);
}

nm_err nm_http_start_reader(nm_http *http)
{
    if (nm_thread_start(&http->reader, read_large, http)) return nm_fail(NM_FAILED, "cannot start serving: the system grants no thread more");
    http->reads = true;
    return NM_OK;
}

void nm_http_stop_reader(nm_http *http)
{
    if (http->reads) pthread_join(http->reader, NULL);
    while (http->large) {
        nm_exchange *x = http->large;
        http->large = x->next;
        nm_exchange_release(&x);
    }
}
