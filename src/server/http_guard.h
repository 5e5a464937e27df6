/* Owns who may ask, and what a target may look like: decisions on text alone, without a connection. */
#ifndef NM_SERVER_HTTP_GUARD_H
#define NM_SERVER_HTTP_GUARD_H

#include <stdbool.h>
#include <stddef.h>

#include "base/str.h"

typedef struct nm_guard {
    char *key;                  /* NULL: none is asked for */
    char **allow, **cors;       /* end with NULL */
    char own[256];              /* the machine's name; "" if it has none */
} nm_guard;

/* Whether Host names this server: loopback's names, an address, the machine's own name, host.docker.internal, or what was allowed; any port. Against pages whose name an attacker
 * turns to this address (DNS rebinding). *valid: it is a name or address, with a port or without, at all. */
bool nm_guard_host(const nm_guard *g, const char *host, bool *valid);
typedef enum nm_origin { NM_ORIGIN_FOREIGN, NM_ORIGIN_SAME, NM_ORIGIN_NAMED } nm_origin;
/* SAME: "http://" and what Host says. NAMED: in cors. */
nm_origin nm_guard_origin(const nm_guard *g, const char *origin, const char *host);
/* The key in the value of Authorization (NULL if absent); NULL if there is none. */
const char *nm_guard_bearer(const char *authorization);
/* Takes as long for every wrong key of a length. shown may be NULL. */
bool nm_guard_key(const nm_guard *g, const char *shown);

/* A request's target: a path, decoded once, and query as name, zero, value, zero, ... NM_USAGE: malformed, a zero or control character, a segment "." or "..";
 * an absolute target's authority must be what Host says. */
nm_err nm_guard_target(const char *target, const char *host, nm_str *path, nm_str *query);
/* The value behind name in such a list; `caseless` for headers. NULL if absent. nth: 0 is the first. */
const char *nm_list_get(const nm_str *list, const char *name, bool caseless, int nth);
nm_err nm_list_put(nm_str *list, const char *name, size_t name_length, const char *value, size_t value_length);
/* Whether bytes can be a header's name, or value. */
bool nm_is_token(const char *s, size_t length);
bool nm_is_field_value(const char *s, size_t length);

#endif
