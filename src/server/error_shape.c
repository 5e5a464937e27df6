/* What errors look like in each dialect: whole, and as the last event of a stream. Adding a dialect is a row here. Where the user's folders lie is nobody's business but his: every
 * message of an error comes by here, and what tells of a lesson calls nm_told. */
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "os/file.h"
#include "server/server.h"

/* ---- What clients are not told ---------------------------------------------------------------------------------------------------- */

static const char *const folder_names[] = {[NM_FOLDER_DATA] = "the data folder", [NM_FOLDER_CACHE] = "the cache folder", [NM_FOLDER_CONFIG] = "the configuration folder",
    [NM_FOLDER_STATE] = "the state folder"};
enum { FOLDERS = sizeof folder_names / sizeof *folder_names };

/* Whether a path begins there that is the folder or lies in it; what is read of it: its slash, too. */
static size_t folder_at(const char *at, const char *folder)
{
    size_t n = folder ? strlen(folder) : 0;
    if (!n || strncmp(at, folder, n)) return 0;
    return at[n] == '/' ? n + 1 : strchr(": \"',;)", at[n]) ? n : 0;
}

static nm_err tell(nm_str *s, const char *line, char *const folder[FOLDERS])
{
    while (*line) {
        size_t which = 0, n = 0;
        while (which < FOLDERS && !(n = folder_at(line, folder[which]))) which++;
        if (!n) NM_TRY(nm_str_putc(s, *line));
        else if (line[n - 1] != '/') NM_TRY(nm_str_puts(s, folder_names[which]));
        line += n ? n : 1;
    }
    return nm_str_puts(s, "");
}

char *nm_told(const char *line)
{
    char *folder[FOLDERS], *own = nm_strndup(line, strlen(line));      /* it may be the error line */
    nm_str s = {0};
    for (size_t i = 0; i < FOLDERS; i++)
        if (nm_folder_find((nm_folder)i, &folder[i]) != NM_OK) folder[i] = NULL;       /* where no home is known no path begins there */
    nm_err err = own ? tell(&s, own, folder) : NM_NO_MEMORY;
    for (size_t i = 0; i < FOLDERS; i++) nm_free(folder[i]);
    nm_free(own);
    char *told = err == NM_OK ? nm_str_take(&s, NULL) : NULL;
    nm_str_free(&s);
    return told;
}

/* ---- Shapes ------------------------------------------------------------------------------------------------------------------------- */

typedef struct named { int status; const char *openai, *anthropic, *llamacpp; } named;

/* A status that is not listed is the client's fault below 500, the server's from there on. */
static const named by_status[] = {
    {400, "invalid_request_error", "invalid_request_error", "invalid_request_error"},
    {401, "authentication_error", "authentication_error", "authentication_error"},
    {403, "permission_error", "permission_error", "permission_error"},
    {404, "not_found_error", "not_found_error", "not_found_error"},
    {413, "invalid_request_error", "request_too_large", "invalid_request_error"},
    {429, "rate_limit_error", "rate_limit_error", "unavailable_error"},
    {501, "not_supported_error", "invalid_request_error", "not_supported_error"},
    {503, "server_error", "overloaded_error", "unavailable_error"},
    {529, "server_error", "overloaded_error", "unavailable_error"},
};

static const char *type_of(nm_dialect dialect, int status)
{
    static const named client = {0, "invalid_request_error", "invalid_request_error", "invalid_request_error"}, server = {0, "server_error", "api_error", "server_error"};
    const named *n = status < 500 ? &client : &server;
    for (size_t i = 0; i < sizeof by_status / sizeof *by_status; i++)
        if (by_status[i].status == status) n = &by_status[i];
    if (dialect == NM_DIALECT_ANTHROPIC) return n->anthropic;
    return dialect == NM_DIALECT_LLAMACPP ? n->llamacpp : n->openai;
}

static nm_err put(nm_str *s, const char *text) { return nm_str_json(s, text, strlen(text)); }

static nm_err put_openai(nm_str *s, const char *type, const char *code, const char *message)
{
    NM_TRY(nm_str_puts(s, "{\"error\":{\"message\":"));
    NM_TRY(put(s, message));
    NM_TRY(nm_str_puts(s, ",\"type\":"));
    NM_TRY(put(s, type));
    NM_TRY(nm_str_puts(s, ",\"param\":null,\"code\":"));
    NM_TRY(code ? put(s, code) : nm_str_puts(s, "null"));
    return nm_str_puts(s, "}}");
}

static nm_err put_anthropic(nm_str *s, const char *type, const char *message)
{
    NM_TRY(nm_str_puts(s, "{\"type\":\"error\",\"error\":{\"type\":"));
    NM_TRY(put(s, type));
    NM_TRY(nm_str_puts(s, ",\"message\":"));
    NM_TRY(put(s, message));
    return nm_str_puts(s, "}}");
}

static nm_err put_ollama(nm_str *s, const char *message)
{
    NM_TRY(nm_str_puts(s, "{\"error\":"));
    NM_TRY(put(s, message));
    return nm_str_puts(s, "}");
}

static nm_err put_llamacpp(nm_str *s, int status, const char *type, const char *message)
{
    NM_TRY(nm_str_printf(s, "{\"error\":{\"code\":%d,\"message\":", status));
    NM_TRY(put(s, message));
    NM_TRY(nm_str_puts(s, ",\"type\":"));
    NM_TRY(put(s, type));
    return nm_str_puts(s, "}}");
}

static nm_err put_body(nm_str *s, nm_dialect dialect, int status, const char *type, const char *code, const char *message)
{
    switch (dialect) {
    case NM_DIALECT_ANTHROPIC: return put_anthropic(s, type, message);
    case NM_DIALECT_OLLAMA: return put_ollama(s, message);
    case NM_DIALECT_LLAMACPP: return put_llamacpp(s, status, type, message);
    default: return put_openai(s, type, code, message);
    }
}

char *nm_error_body(nm_dialect dialect, int status, const char *type, const char *code, const char *message, bool event)
{
    nm_str s = {0};
    const char *before = "", *after = "";
    if (event && dialect == NM_DIALECT_ANTHROPIC) before = "event: error\ndata: ";
    else if (event && dialect != NM_DIALECT_OLLAMA) before = "data: ";
    if (event) after = dialect == NM_DIALECT_OLLAMA ? "\n" : "\n\n";
    char *told = nm_told(message);
    nm_err err = told ? nm_str_puts(&s, before) : nm_fail_memory(strlen(message));
    if (err == NM_OK) err = put_body(&s, dialect, status, type ? type : type_of(dialect, status), code, told);
    nm_free(told);
    if (err == NM_OK) err = nm_str_puts(&s, after);
    if (err == NM_OK) return nm_str_take(&s, NULL);
    nm_str_free(&s);
    return NULL;
}
