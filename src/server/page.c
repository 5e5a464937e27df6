/* The page's own files (web/), whose bytes become part of the program when it is built. They are answered without a key, since they are what asks for it, and
 * hold nothing that is not in the source. Refuses any path that is not in the table. */
#include "nm_web.h"
#include "server/server.h"
#include "web_texts.h"

#include <string.h>

#define TEXT(symbol, file) \
    __asm__(".pushsection .rodata\n.hidden " #symbol "\n.hidden " #symbol "_end\n.global " #symbol "\n.global " #symbol "_end\n" \
            #symbol ":\n.incbin \"" NM_WEB "/" file "\"\n" #symbol "_end:\n.byte 0\n.popsection\n"); \
    extern const char symbol[], symbol##_end[]

#define HTML "text/html; charset=utf-8"
#define SCRIPT "text/javascript; charset=utf-8"
/* Symbol, file, type; every file of web/ once, and src/server/meson.build names them so that a change is built. */
#define WEB_FILES(X) \
    X(nm_web_index, "index.html", HTML) X(nm_web_style, "app.css", "text/css; charset=utf-8") X(nm_web_icon, "icon.svg", "image/svg+xml") \
    X(nm_web_theme, "theme.js", SCRIPT) X(nm_web_app, "app.js", SCRIPT) X(nm_web_api, "api.js", SCRIPT) X(nm_web_compare, "compare.js", SCRIPT) \
    X(nm_web_curve, "curve.js", SCRIPT) X(nm_web_dom, "dom.js", SCRIPT) X(nm_web_effect, "effect.js", SCRIPT) \
    X(nm_web_feedback, "feedback.js", SCRIPT) X(nm_web_foresee, "foresee.js", SCRIPT) X(nm_web_highlight, "highlight.js", SCRIPT) \
    X(nm_web_learning, "learning.js", SCRIPT) X(nm_web_lesson, "lesson.js", SCRIPT) \
    X(nm_web_markdown, "markdown.js", SCRIPT) X(nm_web_message, "message.js", SCRIPT) X(nm_web_panel, "panel.js", SCRIPT) \
    X(nm_web_sidebar, "sidebar.js", SCRIPT) X(nm_web_stack, "stack.js", SCRIPT) X(nm_web_store, "store.js", SCRIPT) \
    X(nm_web_teach, "teach.js", SCRIPT) X(nm_web_thread, "thread.js", SCRIPT) X(nm_web_tokens, "tokens.js", SCRIPT) \
    X(nm_web_training, "training.js", SCRIPT) X(nm_web_words, "words.js", SCRIPT)

#define TAKEN_IN(symbol, file, type) TEXT(symbol, file);
WEB_FILES(TAKEN_IN)

typedef struct web_file { const char *path, *type, *begin, *end; } web_file;
#define ROW(symbol, file, type) {"/" file, type, symbol, symbol##_end},
static const web_file web_files[] = {WEB_FILES(ROW)};

/* All files change together: a browser that has one of this program has them all. NM_WEB_SUM is the sum of their bytes. */
#define QUOTED_(x) "\"" #x "\""
#define QUOTED(x) QUOTED_(x)
static const char etag[] = QUOTED(NM_WEB_SUM);

static void answer_file(nm_exchange *x, const web_file *file)
{
    nm_exchange_add_header(x, "ETag", etag);
    nm_exchange_add_header(x, "Cache-Control", "no-cache");     /* ask each time, by the ETag: a new program shows its new page */
    const char *known = nm_exchange_header(x, "If-None-Match");
    bool same = known && strstr(known, etag);
    nm_exchange_reply(x, same ? 304 : 200, file->type, file->begin, same ? 0 : (size_t)(file->end - file->begin));
}

void nm_page_index(nm_exchange *x, void *context)
{
    (void)context;
    answer_file(x, &web_files[0]);
}

static void handle_file(nm_exchange *x, void *context)
{
    (void)context;
    const char *path = nm_exchange_path(x);
    for (size_t i = 0; i < sizeof web_files / sizeof *web_files; i++)
        if (!strcmp(path, web_files[i].path)) {
            answer_file(x, &web_files[i]);
            return;
        }
    nm_exchange_fail(x, 404, NULL, "not_found", "the page has no such file");
}

#define ROUTE(symbol, file, type) {.method = "GET", .path = "/" file, .dialect = NM_DIALECT_OURS, .open = true, .handle = handle_file},
const nm_route nm_routes_page[] = {WEB_FILES(ROUTE){.method = NULL}};
