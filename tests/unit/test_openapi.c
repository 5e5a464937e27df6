/* docs/openapi.json against the tables of routes: each has what the other has, with who may ask without a key and whose shape errors have; and the document's own references. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "server/openapi.h"
#include "server/server.h"

static const nm_route *const tables[] = {nm_routes_openai, nm_routes_anthropic, nm_routes_ollama, nm_routes_llamacpp, nm_routes_page, nm_routes_personas, nm_routes_chats,
    nm_routes_teach};
enum { TABLES = sizeof tables / sizeof *tables, METHODS = 4 };
static const char *const methods[METHODS][2] = {{"GET", "get"}, {"POST", "post"}, {"PUT", "put"}, {"DELETE", "delete"}};
static json_t *document;

/* What the document calls "/v1/models/{model}" is "/v1/models/" and a star in the table. */
static bool same_path(const char *route, const char *path)
{
    size_t n = strcspn(path, "{");
    if (!path[n]) return !strcmp(route, path);
    return !strncmp(route, path, n) && !strcmp(route + n, "*") && strcspn(path + n, "}") == strlen(path + n) - 1;
}

static const nm_route *route_of(const char *method, const char *path)
{
    for (size_t i = 0; i < TABLES; i++)
        for (const nm_route *r = tables[i]; r->method; r++)
            if (!strcmp(r->method, method) && same_path(r->path, path)) return r;
    return NULL;
}

static json_t *operation_of(const nm_route *route)
{
    const char *path;
    json_t *item;
    json_object_foreach(json_object_get(document, "paths"), path, item)
        for (size_t m = 0; m < METHODS && same_path(route->path, path); m++)
            if (!strcmp(methods[m][0], route->method)) return json_object_get(item, methods[m][1]);
    return NULL;
}

/* Without a word of its own an operation asks for the key. */
static bool is_open(const json_t *operation)
{
    const json_t *security = json_object_get(operation, "security");
    return json_array_size(security) == 1 && !json_object_size(json_array_get(security, 0));
}

static bool has_shape(const json_t *operation, nm_dialect dialect)
{
    static const char *const prefix[NM_DIALECT_COUNT] = {"Error", "AnthropicError", "OllamaError", "LlamacppError", "PageError"};
    const char *status;
    json_t *response;
    json_object_foreach(json_object_get(operation, "responses"), status, response) {
        const char *ref = json_string_value(json_object_get(response, "$ref")), *name = ref ? strrchr(ref, '/') : NULL;
        if (*status >= '4' && (!name || strncmp(name + 1, prefix[dialect], strlen(prefix[dialect])))) return false;
    }
    return true;
}

static void test_routes_are_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < TABLES; i++)
        for (const nm_route *r = tables[i]; r->method; r++) {
            const json_t *operation = operation_of(r);
            if (!operation) fail_msg("%s %s is not in docs/openapi.json", r->method, r->path);
            if (is_open(operation) != r->open) fail_msg("%s %s: docs/openapi.json has it otherwise whether a key is asked for", r->method, r->path);
            if (!has_shape(operation, r->dialect)) fail_msg("%s %s: docs/openapi.json has errors of another dialect's shape", r->method, r->path);
        }
}

static void test_told_are_routes(void **state)
{
    (void)state;
    const char *path, *key;
    json_t *item, *operation;
    json_object_foreach(json_object_get(document, "paths"), path, item)
        json_object_foreach(item, key, operation) {
            size_t m = 0;
            while (m < METHODS && strcmp(methods[m][1], key)) m++;
            if (m == METHODS || !route_of(methods[m][0], path)) fail_msg("%s %s of docs/openapi.json is in no table of routes", key, path);
        }
}

/* ---- The document by itself ------------------------------------------------------------------------------------------------------------------ */

static void test_operations(void **state)
{
    (void)state;
    json_t *ids = json_object(), *tags = json_object(), *item, *operation, *tag;
    const char *path, *key;
    size_t i;
    json_array_foreach(json_object_get(document, "tags"), i, tag) json_object_set(tags, json_string_value(json_object_get(tag, "name")), tag);
    json_object_foreach(json_object_get(document, "paths"), path, item)
        json_object_foreach(item, key, operation) {
            const char *id = json_string_value(json_object_get(operation, "operationId"));
            const char *name = json_string_value(json_array_get(json_object_get(operation, "tags"), 0));
            if (!id || json_object_get(ids, id)) fail_msg("%s %s: its operationId is missing, or another's", key, path);
            if (!name || !json_object_get(tags, name)) fail_msg("%s %s has no tag that is explained", key, path);
            json_object_set(ids, id, operation);
            if (strchr(path, '{') && !json_array_size(json_object_get(operation, "parameters"))) fail_msg("%s %s does not tell its parameter", key, path);
        }
    json_decref(ids);
    json_decref(tags);
}

static json_t *components_met;

/* "#/components/KIND/NAME" must be there. */
static void check_ref(const char *ref)
{
    static const char start[] = "#/components/";
    char kind[32] = "";
    const char *slash = strrchr(ref, '/');
    if (!strncmp(ref, start, sizeof start - 1) && slash > ref + sizeof start - 1)
        snprintf(kind, sizeof kind, "%.*s", (int)(slash - ref - (ptrdiff_t)sizeof start + 1), ref + sizeof start - 1);
    if (!json_object_get(json_object_get(json_object_get(document, "components"), kind), slash ? slash + 1 : "")) fail_msg("docs/openapi.json: %s is not there", ref);
    json_object_set_new(components_met, ref, json_true());
}

static void check_refs(const json_t *value)
{
    const char *key;
    json_t *member;
    size_t i;
    json_array_foreach(value, i, member) check_refs(member);
    json_object_foreach((json_t *)(uintptr_t)value, key, member) {
        if (!strcmp(key, "$ref")) check_ref(json_string_value(member));
        check_refs(member);
    }
}

static void test_references(void **state)
{
    (void)state;
    static const char *const kinds[] = {"schemas", "responses"};
    const char *name;
    json_t *one;
    char ref[128];
    components_met = json_object();
    check_refs(document);
    for (size_t k = 0; k < 2; k++)
        json_object_foreach(json_object_get(json_object_get(document, "components"), kinds[k]), name, one) {
            snprintf(ref, sizeof ref, "#/components/%s/%s", kinds[k], name);
            if (!json_object_get(components_met, ref)) fail_msg("docs/openapi.json: nobody refers to %s", ref);
        }
    json_decref(components_met);
}

static int open_document(void **state)
{
    (void)state;
    size_t length;
    const char *text = nm_openapi_document(&length);
    json_error_t why;
    document = json_loadb(text, length, JSON_REJECT_DUPLICATES, &why);
    if (!document) print_error("docs/openapi.json:%d: %s\n", why.line, why.text);
    return !document;
}

static int close_document(void **state)
{
    (void)state;
    json_decref(document);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_routes_are_told), cmocka_unit_test(test_told_are_routes), cmocka_unit_test(test_operations), cmocka_unit_test(test_references),
    };
    return cmocka_run_group_tests_name("openapi", tests, open_document, close_document);
}
