/* Who may ask, and targets. Pure functions of text. */
#include "server/http_guard.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"

bool nm_is_token(const char *s, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)s[i];
        bool alnum = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!alnum && (!c || !strchr("!#$%&'*+-.^_`|~", c))) return false;
    }
    return length > 0;
}

bool nm_is_field_value(const char *s, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 32 && c != '\t') || c == 127) return false;
    }
    return true;
}

nm_err nm_list_put(nm_str *list, const char *name, size_t name_length, const char *value, size_t value_length)
{
    NM_TRY(nm_str_append(list, name, name_length));
    NM_TRY(nm_str_append(list, "", 1));
    NM_TRY(nm_str_append(list, value, value_length));
    return nm_str_append(list, "", 1);
}

const char *nm_list_get(const nm_str *list, const char *name, bool caseless, int nth)
{
    for (size_t i = 0; i < list->length;) {
        const char *key = list->data + i, *value = key + strlen(key) + 1;
        if ((caseless ? strcasecmp(key, name) : strcmp(key, name)) == 0 && nth-- == 0) return value;
        i = (size_t)(value + strlen(value) + 1 - list->data);
    }
    return NULL;
}

/* ---- Host ---- */

static bool equals(const char *s, size_t length, const char *name)
{
    return length == strlen(name) && strncasecmp(s, name, length) == 0;
}

static bool is_port(const char *s)
{
    size_t n = strspn(s, "0123456789");
    return n >= 1 && n <= 5 && !s[n];
}

static bool is_address(int family, const char *s, size_t length)
{
    char text[INET6_ADDRSTRLEN], binary[sizeof(struct in6_addr)];
    if (length >= sizeof text) return false;
    memcpy(text, s, length);
    text[length] = 0;
    return inet_pton(family, text, binary) == 1;
}

/* The machine's own name, bare, as far as its first dot, or in the link's own domain. */
static bool is_own(const nm_guard *g, const char *name, size_t length)
{
    size_t bare = strcspn(g->own, ".");
    if (!g->own[0]) return false;
    if (equals(name, length, g->own) || (length == bare && strncasecmp(name, g->own, bare) == 0)) return true;
    return length == bare + 6 && strncasecmp(name, g->own, bare) == 0 && strncasecmp(name + bare, ".local", 6) == 0;
}

static bool is_known(const nm_guard *g, const char *name, size_t length)
{
    static const char *const known[] = {"localhost", "host.docker.internal", "host.containers.internal", NULL};
    for (const char *const *k = known; *k; k++)
        if (equals(name, length, *k)) return true;
    if (length > 10 && strncasecmp(name + length - 10, ".localhost", 10) == 0) return true;
    for (char **a = g->allow; a && *a; a++)
        if (equals(name, length, *a)) return true;
    return is_own(g, name, length);
}

static bool is_name(const char *s, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bool alnum = (s[i] >= '0' && s[i] <= '9') || ((s[i] | 32) >= 'a' && (s[i] | 32) <= 'z');
        if (!alnum && s[i] != '-' && s[i] != '.' && s[i] != '_') return false;
    }
    return length > 0 && length < 256;
}

bool nm_guard_host(const nm_guard *g, const char *host, bool *valid)
{
    const char *end = host[0] == '[' ? strchr(host, ']') : host + strcspn(host, ":");
    *valid = end && (host[0] == '[' ? (end[1] == 0 || (end[1] == ':' && is_port(end + 2))) : (*end == 0 || is_port(end + 1)));
    if (!*valid) return false;
    size_t length = (size_t)(end - host);
    if (host[0] == '[') return *valid = is_address(AF_INET6, host + 1, length - 1);
    if (!(*valid = is_name(host, length))) return false;
    if (is_address(AF_INET, host, length)) return true;
    if (length > 1 && host[length - 1] == '.') length--;
    return is_known(g, host, length);
}

/* ---- Origin ---- */

/* "http://a" and "a:80" are the same place. */
static bool same_place(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    if (na > 3 && strcmp(a + na - 3, ":80") == 0) na -= 3;
    if (nb > 3 && strcmp(b + nb - 3, ":80") == 0) nb -= 3;
    return na == nb && strncasecmp(a, b, na) == 0;
}

nm_origin nm_guard_origin(const nm_guard *g, const char *origin, const char *host)
{
    for (char **c = g->cors; c && *c; c++)
        if (strcmp(*c, "*") == 0 || strcasecmp(*c, origin) == 0) return NM_ORIGIN_NAMED;
    return strncasecmp(origin, "http://", 7) == 0 && same_place(origin + 7, host) ? NM_ORIGIN_SAME : NM_ORIGIN_FOREIGN;
}

/* ---- The key ---- */

const char *nm_guard_bearer(const char *authorization)
{
    if (!authorization || strncasecmp(authorization, "Bearer ", 7) != 0) return NULL;
    return authorization + 7 + strspn(authorization + 7, " ");
}

bool nm_guard_key(const nm_guard *g, const char *shown)
{
    if (!g->key) return true;
    if (!shown) return false;
    size_t n = strlen(shown), of = strlen(g->key);
    volatile unsigned char differ = n != of;
    for (size_t i = 0; i < n; i++) differ = (unsigned char)(differ | ((unsigned char)shown[i] ^ (unsigned char)g->key[i % of]));
    return !differ;
}

/* ---- The target ---- */

static int hex(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    return (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* Decodes length bytes, once. In a query '+' is a space. */
static nm_err decode(nm_str *out, const char *s, size_t length, bool query)
{
    for (size_t i = 0; i < length; i++) {
        char c = s[i];
        if (c == '+' && query) c = ' ';
        else if (c == '%') {
            int high = i + 2 < length ? hex(s[i + 1]) : -1, low = i + 2 < length ? hex(s[i + 2]) : -1;
            if (high < 0 || low < 0) return nm_fail(NM_USAGE, "the request's target has a '%%' without two hexadecimal digits behind it");
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == 0 || (!query && ((unsigned char)c < 32 || c == 127))) return nm_fail(NM_USAGE, "the request's target has a control character in it");
        NM_TRY(nm_str_putc(out, c));
    }
    return NM_OK;
}

static nm_err check_segments(const char *path)
{
    for (const char *s = path; *s;) {
        size_t n = strcspn(s, "/\\");
        if ((n == 1 && s[0] == '.') || (n == 2 && s[0] == '.' && s[1] == '.')) return nm_fail(NM_USAGE, "the request's path has a segment of dots: give it without");
        s += n + (s[n] != 0);
    }
    return NM_OK;
}

static nm_err read_query(nm_str *query, const char *s)
{
    while (*s) {
        size_t n = strcspn(s, "&"), name = strcspn(s, "=&");
        if (n) {
            NM_TRY(decode(query, s, name, true));
            NM_TRY(nm_str_append(query, "", 1));
            if (name < n) NM_TRY(decode(query, s + name + 1, n - name - 1, true));
            NM_TRY(nm_str_append(query, "", 1));
        }
        s += n + (s[n] != 0);
    }
    return NM_OK;
}

nm_err nm_guard_target(const char *target, const char *host, nm_str *path, nm_str *query)
{
    for (const char *s = target; *s; s++)
        if ((unsigned char)*s <= 32 || (unsigned char)*s >= 127 || *s == '#') return nm_fail(NM_USAGE, "the request's target has a character that must be escaped");
    if (strncasecmp(target, "http://", 7) == 0) {
        size_t n = strcspn(target + 7, "/?");
        if (n != strlen(host) || strncasecmp(target + 7, host, n) != 0) return nm_fail(NM_USAGE, "the request's target names another host than its header Host");
        target += 7 + n;
        if (*target != '/') NM_TRY(nm_str_putc(path, '/'));
    } else if (*target != '/' && strcmp(target, "*") != 0) {
        return nm_fail(NM_USAGE, "the request's target must begin with '/'");
    }
    size_t n = strcspn(target, "?");
    NM_TRY(decode(path, target, n, false));
    if (!path->data) NM_TRY(nm_str_puts(path, ""));
    NM_TRY(check_segments(path->data));
    return target[n] ? read_query(query, target + n + 1) : NM_OK;
}
