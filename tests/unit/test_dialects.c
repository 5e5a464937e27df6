/* Anthropic's, Ollama's and llama.cpp's dialects by real HTTP over an engine by script: what is asked of the engine, and what goes over the wire, to the letter. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "fake_engine.c"

#include "server/anthropic.h"
#include "server/facts.h"
#include "server/llamacpp.h"
#include "server/ollama.h"
#include "server/server.h"
#include "server/task.h"

#define STEPS(s) .steps = (s), .n_steps = sizeof (s) / sizeof *(s)
#define JSON "Content-Type: application/json\r\n"

/* ---- What the engine by script leaves open ----------------------------------------------------------------------------------------------- */

static char added[64];
static double scales[4];
static size_t n_scales;

json_t *nm_engine_slots(nm_engine *engine)
{
    return json_pack("[{si ss ss si si si}{si ss ss}]", "id", 7, "model", "fake", "state", "answer", "prompt_tokens", 5, "tokens", 3, "context", 64, "id", 8, "model", "fake",
        "state", "waiting");
}

void nm_engine_count(nm_engine *engine, nm_engine_counts *out)
{
    *out = (nm_engine_counts){.requests = 3, .prompt_tokens = 100, .cached_tokens = 40, .tokens = 50, .prompt_seconds = 2, .seconds = 5, .running = 1, .waiting = 2};
}

nm_err nm_engine_add_adapter(nm_engine *engine, const char *name, const char *path)
{
    if (!strcmp(path, "/etc")) return nm_fail(NM_REFUSED, "%s is outside the store", path);
    snprintf(added, sizeof added, "%s=%s", name, path);
    return NM_OK;
}

nm_err nm_engine_set_scales(nm_engine *engine, const double *given, size_t count)
{
    n_scales = count;
    memcpy(scales, given, count * sizeof *scales);
    return NM_OK;
}

nm_err nm_engine_remove_adapter(nm_engine *engine, const char *name) { return strcmp(name, "a") ? nm_fail(NM_NOT_FOUND, "there is no adapter %s", name) : NM_OK; }

void nm_page_index(nm_exchange *x, void *context) { nm_exchange_reply(x, 200, "text/html", "page", 4); }

/* ---- A server, and a client of it -------------------------------------------------------------------------------------------------------- */

static nm_server server;
static const nm_engine_options engine_options = {.parallel = 3};

static void list_models(nm_exchange *x, void *context) { nm_anthropic_models(x, context); }
static const nm_route routes_models[] = {
    {"GET", "/v1/models", NM_DIALECT_ANTHROPIC, false, 0, list_models}, {"GET", "/v1/models/*", NM_DIALECT_ANTHROPIC, false, 0, list_models}, {0}};

static int set_up(void **state)
{
    static const nm_route *const tables[] = {nm_routes_anthropic, nm_routes_ollama, nm_routes_llamacpp, routes_models, NULL};
    server.options = &engine_options;
    nm_err err = nm_http_open(&server.http, &(nm_http_options){.host = "127.0.0.1", .routes = tables, .context = &server});
    if (err != NM_OK) fprintf(stderr, "# %s\n", nm_error_text());
    return err;
}

static int tear_down(void **state)
{
    nm_http_close(&server.http);
    fake_reset();
    return 0;
}

static int dial(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)nm_http_port(server.http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0);
    return fd;
}

static void send_request(int fd, const char *method, const char *path, const char *headers, const char *body)
{
    char *text;
    int n = asprintf(&text, "%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n%sContent-Length: %zu\r\n\r\n%s", method, path, headers, strlen(body), body);
    assert_int_equal(write(fd, text, (size_t)n), n);
    free(text);
}

typedef struct reply { int status; char *head, *body; } reply;      /* body: without its chunks' frames */

static void free_reply(reply *r) { free(r->head); free(r->body); *r = (reply){0}; }

static void unchunk(char *body)
{
    char *to = body, *at = body;
    for (unsigned long n; (n = strtoul(at, &at, 16)) > 0; at += n + 2) memmove(to, at + 2, n), to += n, at += 2;
    *to = 0;
}

static reply read_reply(int fd)
{
    nm_str s = {0};
    char some[4096];
    for (ssize_t n; (n = read(fd, some, sizeof some)) > 0;) nm_str_append(&s, some, (size_t)n);
    close(fd);
    assert_non_null(s.data);
    char *body = strstr(s.data, "\r\n\r\n");
    assert_non_null(body);
    reply r = {.status = atoi(s.data + 9), .head = strndup(s.data, (size_t)(body - s.data)), .body = strdup(body + 4)};
    if (strstr(r.head, "chunked")) unchunk(r.body);
    nm_str_free(&s);
    return r;
}

static reply get(const char *path, const char *headers)
{
    int fd = dial();
    send_request(fd, "GET", path, headers, "");
    return read_reply(fd);
}

/* Single quotes stand for double ones. */
static char *quoted(const char *text)
{
    char *copy = strdup(text);
    for (char *c = copy; *c; c++) if (*c == '\'') *c = '"';
    return copy;
}

static reply post(const char *path, const char *body)
{
    int fd = dial();
    char *text = quoted(body);
    send_request(fd, "POST", path, JSON, text);
    free(text);
    reply r = read_reply(fd);
    assert_true(fake_idle());
    return r;
}

static json_t *parse(const char *text)
{
    json_error_t e;
    json_t *value = json_loads(text, JSON_DECODE_ANY, &e);
    if (!value) fprintf(stderr, "# %s: %s\n", e.text, text);
    assert_non_null(value);
    return value;
}

static void drop_member(json_t *value, const char *key)
{
    json_t *item;
    size_t i;
    json_object_del(value, key);
    if (json_is_array(value)) { json_array_foreach(value, i, item) drop_member(item, key); }
}

/* Equal but for members whose values depend on the clock. */
static void assert_json(const char *got, const char *expected)
{
    static const char *const moving[] = {"created_at", "total_duration", "expires_at"};
    char *text = quoted(expected);
    json_t *a = parse(got), *b = parse(text);
    if (!strstr(expected, "created_at")) for (size_t i = 0; i < sizeof moving / sizeof *moving; i++) drop_member(a, moving[i]);
    if (!json_equal(a, b)) fprintf(stderr, "# got      %s\n# expected %s\n", got, text);
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    free(text);
}

static void assert_asked(size_t i, const char *expected)
{
    assert_non_null(fake_asked(i));
    char *text = json_dumps(fake_asked(i), 0);
    assert_json(text, expected);
    free(text);
}

static void assert_reply(reply r, int status, const char *expected)
{
    if (r.status != status) fprintf(stderr, "# %d: %s\n", r.status, r.body);
    assert_int_equal(r.status, status);
    assert_json(r.body, expected);
    free_reply(&r);
}

/* An error whose body holds these two. */
static void assert_fails(reply r, int status, const char *shape, const char *message)
{
    if (r.status != status || !strstr(r.body, shape) || !strstr(r.body, message)) fprintf(stderr, "# %d: %s\n", r.status, r.body);
    assert_int_equal(r.status, status);
    assert_non_null(strstr(r.body, shape));
    assert_non_null(strstr(r.body, message));
    free_reply(&r);
}

/* Each event or line of a stream in turn. lead: "data: " or "". names: what stands in front of each, or NULL. */
static void assert_stream(reply r, const char *type, const char *const *expected, size_t n, bool named)
{
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.head, type));
    char *at = r.body;
    for (size_t i = 0; i < n; i++) {
        char *end = strchr(at, '\n');
        assert_non_null(end);
        *end = 0;
        if (named) {
            char *data = end + 1, *kind = strstr(data, "\"type\":\"") + 8;
            assert_memory_equal(at, "event: ", 7);
            assert_memory_equal(kind, at + 7, strlen(at + 7));      /* the event's name is its data's type */
            end = strchr(data, '\n');
            *end = 0;
            at = data;
        }
        if (!strncmp(at, "data: ", 6)) at += 6;
        assert_json(at, expected[i]);
        at = end + 1;
        if (strstr(type, "event-stream")) assert_int_equal(*at++, '\n');
    }
    assert_string_equal(at, "");
    free_reply(&r);
}
#define ASSERT_STREAM(r, type, named, ...) \
    assert_stream(r, type, (const char *const[]){__VA_ARGS__}, sizeof (const char *const[]){__VA_ARGS__} / sizeof(char *), named)

/* The client leaves in the middle: the job must be cancelled, and all must come to an end. */
static void assert_cancels(const char *path, const char *body)
{
    static const fake_step steps[] = {{.text = "a"}, {.wait = true, .text = "b"}, {.text = "never"}};
    fake_reset();
    fake.script = (fake_script){STEPS(steps)};
    int fd = dial();
    char *text = quoted(body), some[512];
    send_request(fd, "POST", path, JSON, text);
    free(text);
    if (strstr(body, "true")) assert_true(read(fd, some, sizeof some) > 0);
    assert_true(fake_busy());
    close(fd);
    assert_true(fake_idle());
    assert_int_equal(fake.cancels, 1);
}

/* ---- Anthropic ----------------------------------------------------------------------------------------------------------------------------- */

static const fake_step hello[] = {{.text = "Hel"}, {.text = ""}, {.text = "lo"}};

static void test_anthropic_text(void **state)
{
    fake_reset();
    fake.script = (fake_script){STEPS(hello), .prompt_tokens = 10, .cached_tokens = 4, .tokens = 2};
    reply r = post("/v1/messages", "{'model':'m','max_tokens':8,'messages':[{'role':'user','content':'Hi'}]}");
    json_t *body = parse(r.body);
    assert_int_equal(json_string_length(json_object_get(body, "id")), 36);
    json_object_set_new(body, "id", json_string("x"));
    free(r.body);
    r.body = json_dumps(body, 0);
    json_decref(body);
    assert_reply(r, 200, "{'id':'x','type':'message','role':'assistant','model':'fake','content':[{'type':'text','text':'Hello'}],'stop_reason':'end_turn','stop_sequence':null,"
        "'usage':{'input_tokens':6,'cache_creation_input_tokens':0,'cache_read_input_tokens':4,'output_tokens':2}}");
    assert_asked(0, "{'model':'m','max_tokens':8,'think':0,'messages':[{'role':'user','content':'Hi'}]}");
}

static void test_anthropic_request(void **state)
{
    fake_reset();
    free_reply(&(reply[]){post("/v1/messages",
        "{'model':'m','max_tokens':9,'temperature':0.5,'top_p':0.9,'top_k':5,'stop_sequences':['END'],'thinking':{'type':'enabled','budget_tokens':2000},"
        "'metadata':{'user_id':'u'},'service_tier':'auto','system':[{'type':'text','text':'Be','cache_control':{'type':'ephemeral'}},{'type':'text','text':'brief'}],"
        "'messages':[{'role':'user','content':[{'type':'text','text':'a'},{'type':'text','text':'b'},{'type':'document','source':{'type':'text','media_type':'text/plain','data':'c'}}]},"
        "{'role':'assistant','content':[{'type':'thinking','thinking':'hm','signature':'s'},{'type':'redacted_thinking','data':'x'},{'type':'text','text':'ok'},"
        "{'type':'tool_use','id':'t1','name':'f','input':{'x':1}}]},"
        "{'role':'user','content':[{'type':'tool_result','tool_use_id':'t1','content':[{'type':'text','text':'5'}]},{'type':'tool_result','tool_use_id':'t2'},{'type':'text','text':'go'}]},"
        "{'role':'assistant','content':'I say'}],"
        "'tools':[{'name':'f','description':'F.','input_schema':{'type':'object'}}],'tool_choice':{'type':'tool','name':'f','disable_parallel_tool_use':true},"
        "'lora':[{'id':'cat','scale':0.5}],'output_config':{'effort':'low','format':{'type':'json_schema','schema':{'type':'string'}}}}")}[0]);
    assert_asked(0, "{'model':'m','max_tokens':9,'temperature':0.5,'top_p':0.9,'top_k':5,'stop':['END'],'think':1,'think_most':2000,'effort':'low','schema':{'type':'string'},'one_call':true,"
        "'continue_last':true,'lora':[{'id':'cat','scale':0.5}],"
        "'messages':[{'role':'system','content':'Be\\nbrief'},{'role':'user','content':'a\\nb\\nc'},"
        "{'role':'assistant','content':'ok','reasoning_content':'hm','tool_calls':[{'id':'t1','type':'function','function':{'name':'f','arguments':{'x':1}}}]},"
        "{'role':'tool','content':'5','tool_call_id':'t1','name':'f'},{'role':'tool','content':'','tool_call_id':'t2'},{'role':'user','content':'go'},"
        "{'role':'assistant','content':'I say'}],"
        "'tools':[{'type':'function','function':{'name':'f','description':'F.','parameters':{'type':'object'}}}],"
        "'tool_choice':{'type':'function','function':{'name':'f'}}}");
    free_reply(&(reply[]){post("/v1/messages", "{'max_tokens':8,'output_format':{'type':'json_schema','schema':{'type':'null'}},'messages':[{'role':'user','content':'a'}]}")}[0]);
    assert_asked(1, "{'max_tokens':8,'think':0,'schema':{'type':'null'},'messages':[{'role':'user','content':'a'}]}");
}

static const fake_step acting[] = {
    {.kind = NM_PIECE_REASONING, .text = "think"}, {.text = "say"}, {.kind = NM_PIECE_CALL, .id = "c1", .name = "f"}, {.kind = NM_PIECE_ARGUMENTS, .text = "{\"x\":"},
    {.kind = NM_PIECE_ARGUMENTS, .text = "1}"}, {.kind = NM_PIECE_CALL, .call = 1, .id = "c2", .name = "g"},
};

static void test_anthropic_stream(void **state)
{
    fake_reset();
    fake.script = (fake_script){STEPS(acting), .finish = NM_FINISH_TOOL_CALLS, .prompt_tokens = 10, .cached_tokens = 4, .tokens = 6};
    reply r = post("/v1/messages", "{'max_tokens':8,'stream':true,'thinking':{'type':'enabled'},'messages':[{'role':'user','content':'Hi'}]}");
    char *id = strstr(r.body, "msg_"), sign[200], start[600];
    assert_non_null(id);
    snprintf(sign, sizeof sign, "{'type':'content_block_delta','index':0,'delta':{'type':'signature_delta','signature':'%.36s'}}", id);
    snprintf(start, sizeof start, "{'type':'message_start','message':{'id':'%.36s','type':'message','role':'assistant','model':'fake','content':[],'stop_reason':null,'stop_sequence':null,"
        "'usage':{'input_tokens':10,'cache_creation_input_tokens':0,'cache_read_input_tokens':0,'output_tokens':0}}}", id);
    ASSERT_STREAM(r, "text/event-stream", true, start,
        "{'type':'content_block_start','index':0,'content_block':{'type':'thinking','thinking':'','signature':''}}", "{'type':'ping'}",
        "{'type':'content_block_delta','index':0,'delta':{'type':'thinking_delta','thinking':'think'}}", sign, "{'type':'content_block_stop','index':0}",
        "{'type':'content_block_start','index':1,'content_block':{'type':'text','text':''}}",
        "{'type':'content_block_delta','index':1,'delta':{'type':'text_delta','text':'say'}}", "{'type':'content_block_stop','index':1}",
        "{'type':'content_block_start','index':2,'content_block':{'type':'tool_use','id':'c1','name':'f','input':{}}}",
        "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta','partial_json':'{\\'x\\':'}}",
        "{'type':'content_block_delta','index':2,'delta':{'type':'input_json_delta','partial_json':'1}'}}", "{'type':'content_block_stop','index':2}",
        "{'type':'content_block_start','index':3,'content_block':{'type':'tool_use','id':'c2','name':'g','input':{}}}", "{'type':'content_block_stop','index':3}",
        "{'type':'message_delta','delta':{'stop_reason':'tool_use','stop_sequence':null},"
        "'usage':{'input_tokens':6,'cache_creation_input_tokens':0,'cache_read_input_tokens':4,'output_tokens':6}}", "{'type':'message_stop'}");
}

static void assert_content(const char *extra, const char *reason, const char *stop, const char *content)
{
    char body[300], want[700];
    snprintf(body, sizeof body, "{'max_tokens':8,%s'messages':[{'role':'user','content':'Hi'}]}", extra);
    reply r = post("/v1/messages", body);
    snprintf(want, sizeof want, "{'id':'%.36s','type':'message','role':'assistant','model':'fake','stop_reason':'%s','stop_sequence':%s,'content':%s,"
        "'usage':{'input_tokens':0,'cache_creation_input_tokens':0,'cache_read_input_tokens':0,'output_tokens':0}}", strstr(r.body, "msg_"), reason, stop, content);
    assert_reply(r, 200, want);
}

static void test_anthropic_whole(void **state)
{
    fake_reset();
    fake.script = (fake_script){STEPS(acting), .finish = NM_FINISH_TOOL_CALLS};
    assert_content("", "tool_use", "null", "[{'type':'text','text':'say'},{'type':'tool_use','id':'c1','name':'f','input':{'x':1}},{'type':'tool_use','id':'c2','name':'g','input':{}}]");
    fake.script = (fake_script){STEPS(hello), .finish = NM_FINISH_LENGTH};
    assert_content("", "max_tokens", "null", "[{'type':'text','text':'Hello'}]");
    fake.script = (fake_script){.finish = NM_FINISH_STOP_STRING, .stop = "END"};
    assert_content("", "stop_sequence", "'END'", "[]");
    static const fake_step cut[] = {{.kind = NM_PIECE_CALL, .id = "c", .name = "f"}, {.kind = NM_PIECE_ARGUMENTS, .text = "{\"x\": [1"}};
    fake.script = (fake_script){STEPS(cut), .finish = NM_FINISH_LENGTH};
    assert_content("", "max_tokens", "null", "[{'type':'tool_use','id':'c','name':'f','input':{'partial_json':'{\\'x\\': [1'}}]");
}

static void test_anthropic_thinking(void **state)
{
    static const fake_step steps[] = {{.kind = NM_PIECE_REASONING, .text = "th"}, {.kind = NM_PIECE_REASONING, .text = "ink"}, {.text = "say \xff!"}};
    char want[200];
    fake_reset();
    fake.script = (fake_script){STEPS(steps)};
    reply r = post("/v1/messages", "{'max_tokens':8,'thinking':{'type':'adaptive'},'messages':[{'role':'user','content':'Hi'}]}");
    json_t *body = parse(r.body);
    char *content = json_dumps(json_object_get(body, "content"), 0);
    snprintf(want, sizeof want, "[{'type':'thinking','thinking':'think','signature':'%s'},{'type':'text','text':'say \xef\xbf\xbd!'}]", json_string_value(json_object_get(body, "id")));
    assert_json(content, want);
    free(content);
    json_decref(body);
    free_reply(&r);
}

static void test_anthropic_errors(void **state)
{
    static const struct { const char *body, *message; } bad[] = {
        {"[1]", "no JSON object"}, {"{'max_tokens':8}", "messages"}, {"{'messages':[{'role':'user','content':'a'}]}", "max_tokens"},
        {"{'max_tokens':8,'messages':[]}", "messages"}, {"{'max_tokens':8,'messages':[{'role':'tool','content':'a'}]}", "messages[0].role"},
        {"{'max_tokens':8,'messages':[{'role':'user','content':5}]}", "messages[0].content"},
        {"{'max_tokens':8,'messages':[5]}", "messages[0].role"},
        {"{'max_tokens':8,'messages':[{'role':'user','content':[{'type':'image','source':{}}]}]}", "messages[0].content[0] is of type \\\"image\\\""},
        {"{'max_tokens':8,'messages':[{'role':'user','content':[{'type':'tool_use','id':'a','name':'f','input':{}}]}]}", "tool_use"},
        {"{'max_tokens':8,'messages':[{'role':'assistant','content':[{'type':'tool_use','id':'a','name':'f','input':'{}'}]}]}", "input must be an object"},
        {"{'max_tokens':'8','messages':[{'role':'user','content':'a'}]}", "max_tokens"}, {"{'max_tokens':0,'messages':[{'role':'user','content':'a'}]}", "max_tokens"},
        {"{'max_tokens':8,'temperature':3,'messages':[{'role':'user','content':'a'}]}", "temperature"},
        {"{'max_tokens':8,'system':5,'messages':[{'role':'user','content':'a'}]}", "system"},
        {"{'max_tokens':8,'tools':[{'type':'web_search_20250305','name':'w'}],'messages':[{'role':'user','content':'a'}]}", "web_search_20250305"},
        {"{'max_tokens':8,'tools':[{'name':'f'}],'messages':[{'role':'user','content':'a'}]}", "input_schema"},
        {"{'max_tokens':8,'tools':[{'name':'f','input_schema':{}}],'tool_choice':{'type':'tool','name':'g'},'messages':[{'role':'user','content':'a'}]}", "none of the tools"},
        {"{'max_tokens':8,'thinking':{'type':'maybe'},'messages':[{'role':'user','content':'a'}]}", "thinking"},
        {"{'max_tokens':8,'lora':[{}],'messages':[{'role':'user','content':'a'}]}", "lora"},
    };
    fake_reset();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(post("/v1/messages", bad[i].body), 400, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\"", bad[i].message);
    assert_int_equal(fake.asks, 0);
    fake.script = (fake_script){.early = NM_NOT_FOUND, .error = "no such model", .code = "model_not_found"};
    assert_fails(post("/v1/messages", "{'max_tokens':8,'stream':true,'messages':[{'role':'user','content':'a'}]}"), 404, "not_found_error", "no such model");
    fake.script = (fake_script){.early = NM_FAILED, .error = "full", .code = "queue_full"};
    reply r = post("/v1/messages", "{'max_tokens':8,'messages':[{'role':'user','content':'a'}]}");
    assert_non_null(strstr(r.head, "Retry-After"));
    assert_fails(r, 429, "rate_limit_error", "full");
    fake.script = (fake_script){.refuse = NM_USAGE, .error = "bad schema"};
    assert_fails(post("/v1/messages", "{'max_tokens':8,'messages':[{'role':'user','content':'a'}]}"), 400, "invalid_request_error", "bad schema");
    fake.script = (fake_script){STEPS(hello), .late = NM_FAILED, .error = "broke"};
    assert_fails(post("/v1/messages", "{'max_tokens':8,'stream':true,'messages':[{'role':'user','content':'a'}]}"), 200,
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"", "broke");
    assert_fails(post("/v1/messages", "{'max_tokens':8,'messages':[{'role':'user','content':'a'}]}"), 500, "api_error", "broke");
}

static void test_anthropic_rest(void **state)
{
    fake_reset();
    assert_reply(post("/v1/messages/count_tokens", "{'model':'m','system':'s','messages':[{'role':'user','content':'a'},{'role':'assistant','content':'b'}]}"), 200, "{'input_tokens':3}");
    fake.script = (fake_script){.early = NM_NOT_FOUND, .error = "no such model"};
    assert_fails(post("/v1/messages/count_tokens", "{'model':'m','messages':[{'role':'user','content':'a'}]}"), 404, "not_found_error", "no such model");
    fake.models = json_pack("[{ss si}{ss}]", "name", "m", "modified", 86400, "name", "m+a");
    assert_reply(get("/v1/models", "anthropic-version: 2023-06-01\r\n"), 200,
        "{'data':[{'type':'model','id':'m','display_name':'m','created_at':'1970-01-02T00:00:00Z','lifecycle':'active'},"
        "{'type':'model','id':'m+a','display_name':'m+a','created_at':'1970-01-01T00:00:00Z','lifecycle':'active'}],'has_more':false,'first_id':'m','last_id':'m+a'}");
    assert_reply(get("/v1/models/m", ""), 200, "{'type':'model','id':'m','display_name':'m','created_at':'1970-01-02T00:00:00Z','lifecycle':'active'}");
    assert_fails(get("/v1/models/x", ""), 404, "not_found_error", "GET /v1/models");
    json_decref(fake.models);
    fake.models = NULL;
    assert_cancels("/v1/messages", "{'max_tokens':8,'stream':true,'messages':[{'role':'user','content':'a'}]}");
    assert_cancels("/v1/messages", "{'max_tokens':8,'messages':[{'role':'user','content':'a'}]}");
}

/* ---- Ollama -------------------------------------------------------------------------------------------------------------------------------- */

#define FIGURES "'load_duration':0,'prompt_eval_count':10,'prompt_eval_duration':500000000,'eval_count':6,'eval_duration':250000000"

static void test_ollama_chat(void **state)
{
    fake_reset();
    fake.script = (fake_script){STEPS(acting), .finish = NM_FINISH_TOOL_CALLS, .prompt_tokens = 10, .tokens = 6};
    ASSERT_STREAM(post("/api/chat", "{'model':'m','messages':[{'role':'user','content':'Hi'}]}"), "application/x-ndjson", false,
        "{'model':'m','message':{'role':'assistant','content':'','thinking':'think'},'done':false}",
        "{'model':'m','message':{'role':'assistant','content':'say'},'done':false}",
        "{'model':'m','message':{'role':'assistant','content':'','tool_calls':[{'id':'c1','function':{'index':0,'name':'f','arguments':{'x':1}}}]},'done':false}",
        "{'model':'m','message':{'role':'assistant','content':'','tool_calls':[{'id':'c2','function':{'index':1,'name':'g','arguments':{}}}]},'done':false}",
        "{'model':'m','message':{'role':'assistant','content':''},'done':true,'done_reason':'stop'," FIGURES "}");
    assert_reply(post("/api/chat", "{'model':'m','stream':false,'messages':[{'role':'user','content':'Hi'}]}"), 200,
        "{'model':'m','message':{'role':'assistant','content':'say','thinking':'think','tool_calls':[{'id':'c1','function':{'index':0,'name':'f','arguments':{'x':1}}},"
        "{'id':'c2','function':{'index':1,'name':'g','arguments':{}}}]},'done':true,'done_reason':'stop'," FIGURES "}");
    assert_asked(0, "{'model':'m','messages':[{'role':'user','content':'Hi'}]}");
}

static void test_ollama_requests(void **state)
{
    fake_reset();
    free_reply(&(reply[]){post("/api/chat", "{'model':'m','keep_alive':'1h30m','think':'high','format':{'type':'object'},'logprobs':true,'top_logprobs':2,"
        "'options':{'num_predict':-1,'num_ctx':512,'temperature':0,'top_k':3,'top_p':0.5,'min_p':0.1,'typical_p':0.2,'repeat_penalty':1.5,'repeat_last_n':9,"
        "'presence_penalty':0.5,'frequency_penalty':0.25,'seed':42,'stop':['a','b'],'num_gpu':1,'mirostat':2,'tool_choice':'required'},"
        "'messages':[{'role':'assistant','content':'x','thinking':'t','tool_calls':[{'function':{'name':'f','arguments':{'a':1}}}]},"
        "{'role':'tool','tool_name':'f','content':'5'}],'tools':[{'type':'function','function':{'name':'f'}}]}")}[0]);
    assert_asked(0, "{'model':'m','keep_alive':5400.0,'think':1,'effort':'high','schema':{'type':'object'},'top_logprobs':2,'context':512,'temperature':0.0,'top_k':3,'top_p':0.5,"
        "'min_p':0.1,'typical':0.2,'repeat_penalty':1.5,'penalty_last':9,'presence_penalty':0.5,'frequency_penalty':0.25,'seed':42,'stop':['a','b'],"
        "'messages':[{'role':'assistant','content':'x','reasoning_content':'t','tool_calls':[{'id':'call_0_0','type':'function','function':{'name':'f','arguments':{'a':1}}}]},"
        "{'role':'tool','content':'5','name':'f'}],'tools':[{'type':'function','function':{'name':'f'}}],'tool_choice':'required'}");
    free_reply(&(reply[]){post("/api/generate", "{'model':'m','prompt':'a','system':'s','format':'json','think':false,'options':{'num_predict':7,'stop':'x','seed':-1}}")}[0]);
    assert_asked(1, "{'model':'m','json':true,'think':0,'max_tokens':7,'stop':['x'],'messages':[{'role':'system','content':'s'},{'role':'user','content':'a'}]}");
    free_reply(&(reply[]){post("/api/generate", "{'model':'m','prompt':'a','raw':true,'template':'','system':'','context':[],'keep_alive':30.5}")}[0]);
    assert_asked(2, "{'model':'m','text':'a','keep_alive':30.5}");
    free_reply(&(reply[]){post("/api/generate", "{'model':'m','prompt':'a','suffix':'b','keep_alive':'250ms'}")}[0]);
    assert_asked(3, "{'model':'m','text':'a','suffix':'b','keep_alive':0.25}");
}

static void test_ollama_generate(void **state)
{
    static const nm_logprob top[] = {{259, -0.5}, {260, -INFINITY}};
    static const nm_token_out tokens[] = {{.id = 259, .logprob = -0.5, .top = top, .n_top = 2}};
    static const fake_step steps[] = {{.text = " Hello", .tokens = tokens, .n_tokens = 1}};
    fake_reset();
    fake.script = (fake_script){STEPS(hello), .finish = NM_FINISH_LENGTH, .prompt_tokens = 10, .tokens = 6};
    ASSERT_STREAM(post("/api/generate", "{'model':'m','prompt':'Hi'}"), "application/x-ndjson", false, "{'model':'m','response':'Hel','done':false}",
        "{'model':'m','response':'lo','done':false}", "{'model':'m','response':'','done':true,'done_reason':'length'," FIGURES "}");
    assert_reply(post("/api/generate", "{'model':'m','prompt':'Hi','stream':false}"), 200, "{'model':'m','response':'Hello','done':true,'done_reason':'length'," FIGURES "}");
    fake.script = (fake_script){STEPS(steps), .prompt_tokens = 10, .tokens = 6};
    assert_reply(post("/api/generate", "{'model':'m','prompt':'Hi','stream':false,'logprobs':true,'top_logprobs':2}"), 200,
        "{'model':'m','response':' Hello','done':true,'done_reason':'stop','logprobs':[{'token':' Hello','logprob':-0.5,'bytes':[32,72,101,108,108,111],"
        "'top_logprobs':[{'token':' Hello','logprob':-0.5,'bytes':[32,72,101,108,108,111]},{'token':' world','logprob':-9999.0,'bytes':[32,119,111,114,108,100]}]}]," FIGURES "}");
}

static void test_ollama_load(void **state)
{
    fake_reset();
    assert_reply(post("/api/generate", "{'model':'m'}"), 200, "{'model':'m','response':'','done':true,'done_reason':'load'}");
    assert_reply(post("/api/chat", "{'model':'m','messages':[]}"), 200, "{'model':'m','message':{'role':'assistant','content':''},'done':true,'done_reason':'load'}");
    assert_int_equal(fake.asks, 0);
    assert_reply(post("/api/generate", "{'model':'m','keep_alive':-1}"), 200, "{'model':'m','response':'','done':true,'done_reason':'load'}");
    assert_int_equal(fake.asks, 1);
    assert_reply(post("/api/generate", "{'model':'m','keep_alive':0}"), 200, "{'model':'m','response':'','done':true,'done_reason':'unload'}");
    assert_asked(1, "{'model':'m','ids':[0],'max_tokens':0,'no_cache':true,'keep_alive':0.0}");
    fake.models = json_pack("[{ss sb}]", "name", "m", "loaded", 0);
    assert_reply(post("/api/chat", "{'model':'m','keep_alive':'0s'}"), 200, "{'model':'m','message':{'role':'assistant','content':''},'done':true,'done_reason':'unload'}");
    assert_int_equal(fake.asks, 2);
    json_decref(fake.models);
    fake.models = NULL;
    fake.script = (fake_script){.early = NM_NOT_FOUND, .error = "no such model"};
    assert_reply(post("/api/generate", "{'model':'x'}"), 404, "{'error':'no such model'}");
}

static void test_ollama_errors(void **state)
{
    static const struct { const char *body, *message; } bad[] = {
        {"{'messages':[]}", "model"}, {"{'model':5}", "model"}, {"{'model':'m','messages':5}", "messages"}, {"{'model':'m','messages':[{'content':'a'}]}", "messages[0].role"},
        {"{'model':'m','messages':[{'role':'user','content':'a','images':['eA==']}]}", "images"}, {"{'model':'m','stream':1}", "stream"},
        {"{'model':'m','keep_alive':'soon'}", "keep_alive"}, {"{'model':'m','keep_alive':'5x'}", "keep_alive"}, {"{'model':'m','keep_alive':true}", "keep_alive"},
        {"{'model':'m','format':'xml'}", "format"}, {"{'model':'m','think':'hard'}", "think"}, {"{'model':'m','options':{'temperature':'hot'}}", "temperature"},
        {"{'model':'m','options':{'num_ctx':0}}", "num_ctx"}, {"{'model':'m','options':{'stop':[5]}}", "stop"}, {"{'model':'m','top_logprobs':21}", "top_logprobs"},
        {"{'model':'m','messages':[{'role':'user','content':'a'}],'tools':[{}]}", "tools[0]"},
        {"{'model':'m','messages':[],'tools':[{'function':{'name':'f'}}],'options':{'tool_choice':5}}", "tool_choice"},
        {"{'model':'m','messages':[{'role':'assistant','tool_calls':[{'function':{'name':'f'}}]}]}", "tool_calls[0]"},
    };
    fake_reset();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_fails(post("/api/chat", bad[i].body), 400, "{\"error\":\"", bad[i].message);
    assert_fails(post("/api/chat", "{'model':'m','messages':[],'template':'{{ .Prompt }}'}"), 400, "{\"error\":\"", "template");
    assert_fails(post("/api/generate", "{'model':'m','prompt':'a','template':'{{ .Prompt }}'}"), 400, "{\"error\":\"", "raw");
    assert_fails(post("/api/generate", "{'model':'m','prompt':'a','raw':true,'template':'{{ .Prompt }}'}"), 400, "{\"error\":\"", "template");
    assert_fails(post("/api/generate", "{'model':'m','prompt':'a','raw':true,'system':'s'}"), 400, "{\"error\":\"", "system");
    assert_fails(post("/api/generate", "{'model':'m','prompt':'a','context':[1,2]}"), 400, "{\"error\":\"", "/api/chat");
    assert_fails(post("/api/generate", "{'model':'m','prompt':'a','images':['x']}"), 400, "{\"error\":\"", "images");
    assert_fails(post("/api/generate", "{'model':'m','prompt':'a','context':'x'}"), 400, "{\"error\":\"", "context");
    assert_int_equal(fake.asks, 0);
    fake.script = (fake_script){STEPS(hello), .late = NM_FAILED, .error = "broke"};
    ASSERT_STREAM(post("/api/generate", "{'model':'m','prompt':'Hi'}"), "application/x-ndjson", false, "{'model':'m','response':'Hel','done':false}",
        "{'model':'m','response':'lo','done':false}", "{'error':'broke'}");
    assert_cancels("/api/chat", "{'model':'m','stream':true,'messages':[{'role':'user','content':'a'}]}");
    assert_cancels("/api/generate", "{'model':'m','prompt':'a','stream':false}");
}

static void test_ollama_embed(void **state)
{
    fake_reset();
    fake.script = (fake_script){.n_embd = 3, .prompt_tokens = 7};
    assert_reply(post("/api/embed", "{'model':'m','input':['a','b'],'truncate':true,'options':{},'keep_alive':'5m'}"), 200,
        "{'model':'m','embeddings':[[1.0,0.5,0.25],[2.0,0.5,0.25]],'load_duration':0,'prompt_eval_count':7}");
    assert_asked(0, "{'model':'m','texts':['a','b'],'cut':true}");
    assert_reply(post("/api/embed", "{'model':'m','input':'a','dimensions':1}"), 200, "{'model':'m','embeddings':[[1.0]],'load_duration':0,'prompt_eval_count':7}");
    assert_reply(post("/api/embed", "{'model':'m','input':'a','truncate':false}"), 200, "{'model':'m','embeddings':[[1.0,0.5,0.25]],'load_duration':0,'prompt_eval_count':7}");
    assert_asked(2, "{'model':'m','texts':['a'],'cut':false}");
    assert_reply(post("/api/embed", "{'model':'m','input':[]}"), 200, "{'model':'m','embeddings':[]}");
    assert_reply(post("/api/embeddings", "{'model':'m','prompt':'a'}"), 200, "{'embedding':[1.0,0.5,0.25]}");
    assert_reply(post("/api/embeddings", "{'model':'m','prompt':''}"), 200, "{'embedding':[]}");
    assert_fails(post("/api/embed", "{'model':'m','input':5}"), 400, "{\"error\":\"", "input");
    fake.script.early = NM_USAGE;
    fake.script.error = "too long";
    assert_reply(post("/api/embed", "{'model':'m','input':'a'}"), 400, "{'error':'too long'}");
}

static void test_ollama_models(void **state)
{
    fake_reset();
    fake.models = json_pack("[{ss ss si si sb}{ss ss sI ss sb}]", "name", "m", "path", "/p", "bytes", 5, "modified", 86400, "loaded", 1, "name", "n", "architecture", "llama", "parameters",
        (json_int_t)1500000000, "file_type", "Q4_0", "loaded", 0);
    reply r = get("/api/tags", "");
    json_t *body = parse(r.body), *list = json_object_get(body, "models");
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(json_string_length(json_object_get(json_array_get(list, i), "digest")), 64);
        json_object_del(json_array_get(list, i), "digest");
    }
    char *text = json_dumps(body, 0);
    assert_json(text, "{'models':[{'name':'m','model':'m','modified_at':'1970-01-02T00:00:00Z','size':5,'details':{'parent_model':'','format':'gguf','family':'','families':[''],"
        "'parameter_size':'','quantization_level':''}},{'name':'n','model':'n','modified_at':'1970-01-01T00:00:00Z','size':0,'details':{'parent_model':'','format':'gguf',"
        "'family':'llama','families':['llama'],'parameter_size':'1.5B','quantization_level':'Q4_0'}}]}");
    free(text);
    json_decref(body);
    free_reply(&r);
    r = get("/api/ps", "");
    body = parse(r.body);
    list = json_object_get(body, "models");
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "name")), "m");
    assert_non_null(json_object_get(json_array_get(list, 0), "expires_at"));
    json_decref(body);
    free_reply(&r);
    json_decref(fake.models);
    fake.models = NULL;
}

static void test_ollama_show(void **state)
{
    fake_reset();
    fake.script.template_text = "{{ tools }}<think>";
    reply r = post("/api/show", "{'model':'m'}");
    assert_int_equal(r.status, 200);
    json_t *body = parse(r.body), *keys = json_object_get(body, "model_info");
    assert_string_equal(json_string_value(json_object_get(keys, "general.architecture")), "llama");
    assert_int_equal(json_integer_value(json_object_get(keys, "tokenizer.ggml.eos_token_id")), 2);
    assert_true(json_is_null(json_object_get(keys, "tokenizer.ggml.tokens")));
    assert_string_equal(json_string_value(json_object_get(body, "modelfile")), "FROM fake\n");
    assert_string_equal(json_string_value(json_object_get(body, "template")), "{{ tools }}<think>");
    char *text = json_dumps(json_object_get(body, "capabilities"), 0);
    assert_json(text, "['completion','embedding','tools','thinking']");
    free(text);
    json_decref(body);
    free_reply(&r);
    r = post("/api/show", "{'name':'m','verbose':true}");
    body = parse(r.body);
    assert_int_equal(json_array_size(json_object_get(json_object_get(body, "model_info"), "tokenizer.ggml.tokens")), 263);
    json_decref(body);
    free_reply(&r);
    assert_fails(post("/api/show", "{}"), 400, "{\"error\":\"", "model");
}

static void test_ollama_rest(void **state)
{
    reply r = get("/", "");
    assert_string_equal(r.body, "Ollama is running");
    free_reply(&r);
    r = get("/", "Accept: text/html,*/*\r\n");
    assert_string_equal(r.body, "page");
    free_reply(&r);
    r = get("/api/version", "");
    assert_non_null(strstr(r.body, "\"version\":\"0."));
    free_reply(&r);
    int fd = dial();
    send_request(fd, "HEAD", "/", "", "");
    r = read_reply(fd);
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "");
    free_reply(&r);
    assert_fails(post("/api/pull", "{'model':'m'}"), 501, "{\"error\":\"", "nomoat import");
    assert_fails(post("/api/create", "{'model':'m'}"), 501, "{\"error\":\"", "nomoat save");
    fd = dial();
    send_request(fd, "DELETE", "/api/delete", JSON, "{}");
    assert_fails(read_reply(fd), 501, "{\"error\":\"", "nomoat rm");
}

/* ---- llama.cpp ----------------------------------------------------------------------------------------------------------------------------- */

#define SETTINGS "'generation_settings':{'seed':4294967295,'temperature':0.0,'top_k':40,'top_p':0.95,'min_p':0.05,'typical_p':1.0,'repeat_last_n':64,'repeat_penalty':1.0," \
    "'presence_penalty':0.0,'frequency_penalty':0.0,'n_predict':5,'max_tokens':5,'stop':['x'],'ignore_eos':false,'stream':%s,'n_probs':0,'cache_prompt':true,'grammar':''}"
#define TIMINGS "'timings':{'cache_n':4,'prompt_n':6,'prompt_ms':500.0,'prompt_per_token_ms':83.3333333,'prompt_per_second':12.0,'predicted_n':2,'predicted_ms':250.0," \
    "'predicted_per_token_ms':125.0,'predicted_per_second':8.0}"

static void completion_end(char *out, size_t size, const char *stream, const char *content)
{
    nm_sampling d = nm_sampling_defaults(NULL);
    char settings[600];
    snprintf(settings, sizeof settings, SETTINGS, stream);
    assert_true(d.top_k == 40 && d.penalty_last == 64 && d.repeat_penalty == 1);     /* what SETTINGS says */
    snprintf(out, size, "{'index':0,'content':'%s','tokens':[],'id_slot':0,'stop':true,'model':'fake','tokens_predicted':2,'tokens_evaluated':10,%s,'prompt':'Hi','has_new_line':false,"
        "'truncated':false,'stop_type':'word','stopping_word':'x','tokens_cached':4,%s}", content, settings, TIMINGS);
}

static void test_llamacpp_completion(void **state)
{
    char end[1600];
    fake_reset();
    fake.script = (fake_script){STEPS(hello), .finish = NM_FINISH_STOP_STRING, .stop = "x", .prompt_tokens = 10, .cached_tokens = 4, .tokens = 2};
    completion_end(end, sizeof end, "false", "Hello");
    assert_reply(post("/completion", "{'prompt':'Hi','n_predict':5,'stop':['x'],'temperature':0,'top_p':0.95,'min_p':0.05}"), 200, end);
    assert_asked(0, "{'text':'Hi','max_tokens':5,'stop':['x'],'temperature':0.0,'top_p':0.95,'min_p':0.05}");
    completion_end(end, sizeof end, "true", "");
    ASSERT_STREAM(post("/completions", "{'prompt':'Hi','n_predict':5,'stop':['x'],'temperature':0,'top_p':0.95,'min_p':0.05,'stream':true}"), "text/event-stream", false,
        "{'index':0,'content':'Hel','tokens':[],'stop':false,'id_slot':0,'tokens_evaluated':10}",
        "{'index':0,'content':'lo','tokens':[],'stop':false,'id_slot':0,'tokens_evaluated':10}", end);
}

static void test_llamacpp_requests(void **state)
{
    fake_reset();
    free_reply(&(reply[]){post("/completion", "{'prompt':['a',259,260,'!'],'seed':7,'ignore_eos':true,'cache_prompt':false,'grammar':'root ::= x','n_predict':-1,"
        "'samplers':['top_k'],'id_slot':3,'mirostat':0,'dry_multiplier':0.0,'logit_bias':[[259,1.5],[260,false],['</s>',-0.5]]}")}[0]);
    assert_asked(0, "{'ids':[1,229,153,132,100,259,260,229,153,132,261],'seed':7,'ignore_eos':true,'no_cache':true,'grammar':'root ::= x','bias':{'259':1.5,'260':'-inf','2':-0.5}}");
    free_reply(&(reply[]){post("/completion", "{'prompt':[5,6],'json_schema':{'type':'string'},'logit_bias':{'259':1,'</s>':false}}")}[0]);
    assert_asked(1, "{'ids':[5,6],'schema':{'type':'string'},'bias':{'259':1.0,'2':'-inf'}}");
    fake.models = json_pack("[{ss ss sb}{ss ss sb}]", "name", "m", "base", "m", "default", 0, "name", "m+a+b=0.5", "base", "m", "default", 1);
    free_reply(&(reply[]){post("/completion", "{'prompt':['x'],'lora':[{'id':1,'scale':0.25}],'json_schema':{}}")}[0]);
    assert_asked(2, "{'model':'m','text':'x','json':true,'lora':[{'id':'b','scale':0.25}]}");
    assert_reply(get("/lora-adapters", ""), 200, "[{'id':0,'path':'a','scale':1.0,'task_name':'','prompt_prefix':''},{'id':1,'path':'b','scale':0.5,'task_name':'','prompt_prefix':''}]");
    assert_fails(post("/completion", "{'prompt':'x','lora':[{'id':2}]}"), 400, "{\"error\":{\"code\":400", "lora");
    assert_reply(post("/lora-adapters", "[{'id':1,'scale':0.25}]"), 200, "{'success':true}");
    assert_true(n_scales == 2 && scales[0] == 0 && scales[1] == 0.25);
    assert_reply(post("/lora-adapters", "[]"), 200, "{'success':true}");
    assert_true(n_scales == 2 && scales[0] == 0 && scales[1] == 0);
    static const char *const bad[] = {"{}", "[", "[1]", "[{'id':2,'scale':1}]", "[{'id':-1,'scale':1}]", "[{'id':0}]", "[{'scale':1}]", "[{'id':'a','scale':1}]", "[{'id':0,'scale':'1'}]"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_fails(post("/lora-adapters", bad[i]), 400, "{\"error\":{\"code\":400", "");
    json_decref(fake.models);
    fake.models = NULL;
}

static void test_llamacpp_probabilities(void **state)
{
    static const nm_logprob top[] = {{262, -0.25}};
    static const nm_token_out tokens[] = {{.id = 262, .logprob = -0.25, .top = top, .n_top = 1}};
    static const fake_step steps[] = {{.text = "\u20ac\n", .tokens = tokens, .n_tokens = 1}};
    fake_reset();
    fake.script = (fake_script){STEPS(steps), .finish = NM_FINISH_LENGTH};
    reply r = post("/completion", "{'prompt':'a','n_probs':1,'return_tokens':true}");
    json_t *body = parse(r.body);
    char *text = json_dumps(json_object_get(body, "completion_probabilities"), 0);
    assert_json(text, "[{'id':262,'token':'\u20ac','bytes':[226,130,172],'logprob':-0.25,'top_logprobs':[{'id':262,'token':'\u20ac','bytes':[226,130,172],'logprob':-0.25}]}]");
    free(text);
    text = json_dumps(json_object_get(body, "tokens"), 0);
    assert_json(text, "[262]");
    free(text);
    assert_string_equal(json_string_value(json_object_get(body, "stop_type")), "limit");
    assert_true(json_is_true(json_object_get(body, "has_new_line")));
    json_decref(body);
    free_reply(&r);
    assert_asked(0, "{'text':'a','top_logprobs':1}");
}

static void test_llamacpp_errors(void **state)
{
    static const struct { const char *body, *message; } bad[] = {
        {"{}", "prompt"}, {"{'prompt':5}", "prompt"}, {"{'prompt':[]}", "prompt"}, {"{'prompt':['a','b']}", "prompt"}, {"{'prompt':[1,{}]}", "prompt"}, {"{'prompt':[263]}", "263"},
        {"{'prompt':[-1]}", "prompt"}, {"{'prompt':'a','n_predict':'5'}", "n_predict"}, {"{'prompt':'a','n_probs':21}", "n_probs"}, {"{'prompt':'a','logit_bias':5}", "logit_bias"},
        {"{'prompt':'a','logit_bias':[[5]]}", "logit_bias"}, {"{'prompt':'a','logit_bias':{'300':1}}", "300"}, {"{'prompt':'a','logit_bias':[[5,true]]}", "logit_bias"},
        {"{'prompt':'a','grammar':'x','json_schema':{'type':'string'}}", "grammar"}, {"{'prompt':'a','json_schema':'x'}", "json_schema"},
        {"{'prompt':{'prompt_string':'a','multimodal_data':['x']}}", "multimodal_data"}, {"{'prompt':'a','post_sampling_probs':true,'n_probs':1}", "post_sampling_probs"},
    };
    fake_reset();
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(post("/completion", bad[i].body), 400, "{\"error\":{\"code\":400,\"message\":", bad[i].message);
    assert_int_equal(fake.asks, 0);
    fake.scripts = &(fake_script){.early = NM_USAGE, .error = "too long", .code = "exceed_context_size_error", .prompt_tokens = 99, .context = 64};
    fake.n_scripts = 1;
    assert_reply(post("/completion", "{'prompt':'a'}"), 400, "{'error':{'code':400,'message':'too long','type':'exceed_context_size_error','n_prompt_tokens':99,'n_ctx':64}}");
    fake.n_scripts = 0;
    fake.script = (fake_script){STEPS(hello), .late = NM_FAILED, .error = "broke"};
    ASSERT_STREAM(post("/completion", "{'prompt':'a','stream':true}"), "text/event-stream", false,
        "{'index':0,'content':'Hel','tokens':[],'stop':false,'id_slot':0,'tokens_evaluated':0}",
        "{'index':0,'content':'lo','tokens':[],'stop':false,'id_slot':0,'tokens_evaluated':0}", "{'error':{'code':500,'message':'broke','type':'server_error'}}");
    assert_fails(post("/infill", "{'input_prefix':'a','input_suffix':'b'}"), 400, "{\"error\":{\"code\":400", "fill gaps");
    assert_fails(post("/infill", "{}"), 400, "{\"error\":{\"code\":400", "input_prefix");
    assert_fails(post("/infill", "{'input_prefix':'a','input_extra':[{'filename':5}]}"), 400, "{\"error\":{\"code\":400", "input_extra");
    assert_cancels("/completion", "{'prompt':'a','stream':true}");
    assert_cancels("/completion", "{'prompt':'a','stream':false}");
}

/* Pieces take some hundred times the memory of their text. */
static void test_pieces_are_bounded(void **state)
{
    enum { LONG = 300000 };
    char *text = malloc(LONG + 1);
    nm_str body = {0};
    assert_non_null(text);
    memset(text, 'a', LONG);
    text[LONG] = 0;
    fake_reset();
    assert_int_equal(nm_str_printf(&body, "{'content':'%s','with_pieces':true}", text), NM_OK);
    assert_fails(post("/tokenize", body.data), 400, "{\"error\":{\"code\":400", "give at most 262144");
    nm_str_free(&body);
    free(text);
}

static void test_llamacpp_text(void **state)
{
    fake_reset();
    assert_reply(post("/tokenize", "{'content':'a</s>'}"), 200, "{'tokens':[229,153,132,100,2]}");
    assert_reply(post("/tokenize", "{'content':'a</s>','parse_special':false}"), 200, "{'tokens':[229,153,132,100,63,50,118,65]}");
    assert_reply(post("/tokenize", "{'content':'\u20ac','add_special':true}"), 200, "{'tokens':[1,229,153,132,262]}");
    assert_reply(post("/tokenize", "{'content':'a!','with_pieces':true}"), 200,
        "{'tokens':[{'id':229,'piece':[226]},{'id':153,'piece':[150]},{'id':132,'piece':[129]},{'id':100,'piece':'a'},{'id':261,'piece':'!'}]}");
    assert_reply(post("/detokenize", "{'tokens':[259,260]}"), 200, "{'content':'Hello world','prompt':'Hello world'}");
    assert_fails(post("/detokenize", "{'tokens':[300]}"), 400, "{\"error\":{\"code\":400", "300");
    assert_fails(post("/detokenize", "{'tokens':['a']}"), 400, "{\"error\":{\"code\":400", "tokens");
    assert_fails(post("/tokenize", "{'content':5}"), 400, "{\"error\":{\"code\":400", "content");
    assert_reply(post("/apply-template", "{'messages':[{'role':'user','content':'a'},{'role':'assistant','content':[{'type':'text','text':'b'}]}]}"), 200,
        "{'prompt':'<user>a<assistant>b'}");
    assert_fails(post("/apply-template", "{'messages':5}"), 400, "{\"error\":{\"code\":400", "messages");
}

/* As lm-evaluation-harness asks for a vocabulary. */
static void test_vllm_text(void **state)
{
    fake_reset();
    fake.script.context = 64;
    fake.script.template_text = "T";
    assert_reply(get("/tokenizer_info", ""), 200, "{'bos_token':'<s>','eos_token':'</s>','chat_template':'T','model_max_length':64}");
    assert_reply(post("/tokenize", "{'prompt':'\u20ac','add_special_tokens':false}"), 200, "{'tokens':[229,153,132,262],'count':4,'max_model_len':64}");
    assert_reply(post("/tokenize", "{'prompt':'\u20ac'}"), 200, "{'tokens':[1,229,153,132,262],'count':5,'max_model_len':64}");
    assert_fails(post("/tokenize", "{'prompt':'a','add_special_tokens':5}"), 400, "{\"error\":{\"code\":400", "add_special_tokens");
    assert_fails(post("/tokenize", "{'prompt':[1]}"), 400, "{\"error\":{\"code\":400", "prompt");
}

static void test_llamacpp_rest(void **state)
{
    fake_reset();
    fake.script.context = 64;
    fake.script.template_text = "T";
    assert_reply(get("/health", ""), 200, "{'status':'ok'}");
    assert_reply(get("/v1/health", ""), 200, "{'status':'ok'}");
    reply r = get("/props", "");
    json_t *body = parse(r.body);
    json_object_del(json_object_get(body, "default_generation_settings"), "params");
    char *text = json_dumps(body, 0);
    assert_json(text, "{'default_generation_settings':{'id':0,'n_ctx':64,'speculative':false,'is_processing':false,'prompt':''},'total_slots':3,'model_alias':'fake','model_path':'fake',"
        "'chat_template':'T','modalities':{'vision':false,'audio':false},'bos_token':'<s>','eos_token':'</s>','build_info':'nomoat " NM_VERSION "','is_sleeping':false}");
    free(text);
    json_decref(body);
    free_reply(&r);
    assert_fails(post("/props", "{}"), 501, "not_supported_error", "each request");
    assert_reply(get("/slots", ""), 200, "[{'id':0,'n_ctx':64,'speculative':false,'is_processing':true,'next_token':{'n_decoded':3,'has_next_token':true},'id_task':7,'model':'fake',"
        "'state':'answer','n_prompt_tokens':5},{'id':1,'n_ctx':0,'speculative':false,'is_processing':false,'next_token':{'n_decoded':0,'has_next_token':false}},"
        "{'id':2,'n_ctx':0,'speculative':false,'is_processing':false,'next_token':{'n_decoded':0,'has_next_token':false}}]");
    r = get("/metrics", "");
    assert_non_null(strstr(r.head, "text/plain; version=0.0.4"));
    assert_non_null(strstr(r.body, "# TYPE llamacpp:prompt_tokens_total counter\nllamacpp:prompt_tokens_total 100\n"));
    assert_non_null(strstr(r.body, "\nllamacpp:predicted_tokens_seconds 10\n"));
    assert_non_null(strstr(r.body, "\nllamacpp:requests_deferred 2\n"));
    free_reply(&r);
}

static void test_vllm_adapters(void **state)
{
    reply r = post("/v1/load_lora_adapter", "{'lora_name':'a','lora_path':'cats'}");
    assert_int_equal(r.status, 200);
    assert_string_equal(r.body, "Success: LoRA adapter 'a' added successfully.");
    assert_string_equal(added, "a=cats");
    free_reply(&r);
    r = post("/v1/unload_lora_adapter", "{'lora_name':'a','lora_int_id':1}");
    assert_string_equal(r.body, "Success: LoRA adapter 'a' removed successfully.");
    free_reply(&r);
    assert_fails(post("/v1/unload_lora_adapter", "{'lora_name':'b'}"), 404, "\"param\":null", "no adapter b");
    assert_fails(post("/v1/load_lora_adapter", "{'lora_name':'a'}"), 400, "invalid_request_error", "lora_path");
    assert_fails(post("/v1/load_lora_adapter", "{'lora_name':'a','lora_path':'/etc'}"), 403, "permission_error", "outside");
}

static void test_keep_alive(void **state)
{
    static const struct { const char *text; double seconds; } good[] = {{"5m", 300}, {"1h30m", 5400}, {"1.5h", 5400}, {"10", 10}, {"0", 0}, {"-1", INFINITY}, {"-5m", INFINITY}, {"300ms", 0.3}};
    static const char *const bad[] = {"", "m", "5 m", "1h30", "5mm", ".", "-", "5m-", "99999999999999999999s"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        json_t *body = json_pack("{ss}", "keep_alive", good[i].text);
        double seconds = -1;
        assert_int_equal(nm_ollama_keep_alive(body, &seconds), NM_OK);
        assert_true(seconds == good[i].seconds);
        json_decref(body);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *body = json_pack("{ss}", "keep_alive", bad[i]);
        double seconds = -1;
        if (strcmp(bad[i], "1h30")) assert_int_equal(nm_ollama_keep_alive(body, &seconds), NM_USAGE);
        json_decref(body);
    }
}

/* ---- Gaps ---------------------------------------------------------------------------------------------------------------------------------- */

/* A vocabulary of bytes (id - 3) with these behind it, as control tokens. */
static nm_model *model_with(const char *const *control, size_t n, void **file)
{
    static char text[256][16];
    const char *tokens[300] = {"<unk>", "<s>", "</s>"};
    float scores[300] = {0};
    int32_t types[300] = {2, 3, 3};
    for (size_t i = 0; i < 256; i++) {
        snprintf(text[i], sizeof text[i], "<0x%02X>", (unsigned)i);
        tokens[i + 3] = text[i];
        types[i + 3] = 6;
    }
    for (size_t i = 0; i < n; i++) tokens[259 + i] = control[i], types[259 + i] = 3;
    gguf_writer w = {0};
    size_t size;
    nm_model *model;
    gw_string(&w, "general.architecture", "llama");
    gw_string(&w, "tokenizer.ggml.model", "llama");
    gw_strings(&w, "tokenizer.ggml.tokens", tokens, 259 + n);
    gw_array(&w, "tokenizer.ggml.token_type", NM_META_I32, types, 259 + n);
    gw_array(&w, "tokenizer.ggml.scores", NM_META_F32, scores, 259 + n);
    gw_u32(&w, "tokenizer.ggml.bos_token_id", 1);
    gw_u32(&w, "tokenizer.ggml.fim_mid_token_id", 261);
    *file = gw_finish(&w, &size);
    assert_int_equal(nm_model_open_memory(&model, *file, size, "gap.gguf", &(nm_model_options){.metadata_only = true}), NM_OK);
    return model;
}

static void assert_ids(const nm_llamacpp *r, const int32_t *ids, size_t n)
{
    assert_int_equal(r->ask.n_ids, n);
    assert_memory_equal(r->ask.ids, ids, n * sizeof *ids);
}

static void test_gap(void **state)
{
    static const char *const control[] = {"<|fim_prefix|>", "<|fim_suffix|>", "middle", "<|file_sep|>"};
    static const char body[] = "{\"input_prefix\":\"a\",\"input_suffix\":\"<|fim_middle|>\",\"prompt\":\"c\",\"input_extra\":[{\"filename\":\"f\",\"text\":\"x\"},{\"text\":\"y\"}]}";
    void *file;
    nm_model *model = model_with(control, 4, &file);
    nm_fim fim;
    assert_true(nm_fim_find(&fim, model));
    assert_true(fim.prefix == 259 && fim.suffix == 260 && fim.middle == 261 && fim.file == 262 && fim.repository == -1);
    nm_served served = {.model = model, .name = "gap"};
    nm_llamacpp r = {0};
    assert_int_equal(nm_llamacpp_read(&r, &server, body, strlen(body), true), NM_OK);
    assert_int_equal(nm_llamacpp_prepare(&r, &served), NM_OK);
    assert_int_equal(r.ask.ids[0], 1);
    assert_int_equal(r.ask.ids[1], 262);
    /* The suffix spells a special token: it stays text. */
    size_t specials = 0;
    int32_t order[5] = {0};
    for (size_t i = 0; i < r.ask.n_ids; i++) if (r.ask.ids[i] >= 259 && specials < 5) order[specials++] = r.ask.ids[i];
    assert_memory_equal(order, ((int32_t[]){262, 262, 259, 260, 261}), sizeof order);
    assert_int_equal(r.ask.ids[r.ask.n_ids - 1], 'c' + 3);
    nm_llamacpp_free(&r);
    static const char mixed[] = "{\"prompt\":[5,262,7]}";
    assert_int_equal(nm_llamacpp_read(&r, &server, mixed, strlen(mixed), false), NM_OK);
    assert_int_equal(nm_llamacpp_prepare(&r, &served), NM_OK);
    assert_ids(&r, (int32_t[]){5, 262, 7}, 3);
    nm_llamacpp_free(&r);
    nm_model_close(&model);
    free(file);
    model = model_with(control + 2, 1, &file);
    assert_false(nm_fim_find(&fim, model));
    nm_model_close(&model);
    free(file);
}

static void test_facts(void **state)
{
    static const struct { uint64_t n; const char *text; } sizes[] = {{134515008, "134.52M"}, {1543714304, "1.5B"}, {70600000000, "70.6B"}, {1500, "1.50K"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        json_t *text = nm_parameter_size(sizes[i].n);
        assert_string_equal(json_string_value(text), sizes[i].text);
        json_decref(text);
    }
    assert_false(nm_knows_tools(NULL) || nm_knows_thinking(NULL) || nm_knows_tools("{{ messages }}"));
    assert_true(nm_knows_tools("{% if tools %}") && nm_knows_thinking("{% if enable_thinking %}"));
}

/* Each allocation of the server and the dialects failing in turn: any answer will do, or none, if only all comes to an end. */
static void test_memory(void **state)
{
    static const struct { const char *path, *body; } asked[] = {
        {"/v1/messages", "{'max_tokens':8,'stream':true,'thinking':{'type':'enabled'},'system':'s','messages':[{'role':'user','content':[{'type':'text','text':'a'}]}]}"},
        {"/v1/messages", "{'max_tokens':8,'messages':[{'role':'user','content':'a'}],'tools':[{'name':'f','input_schema':{}}],'stop_sequences':['x']}"},
        {"/api/chat", "{'model':'m','messages':[{'role':'user','content':'a'}],'options':{'stop':['x']}}"}, {"/api/generate", "{'model':'m','prompt':'a','stream':false}"},
        {"/api/embed", "{'model':'m','input':['a','b']}"}, {"/api/show", "{'model':'m'}"}, {"/completion", "{'prompt':['a',5],'logit_bias':[['b',1]],'stop':['x']}"},
        {"/apply-template", "{'messages':[{'role':'user','content':'a'}]}"}, {"/tokenize", "{'content':'a','with_pieces':true}"},
    };
    char some[4096];
    fake_reset();
    fake.script = (fake_script){STEPS(acting), .finish = NM_FINISH_TOOL_CALLS, .n_embd = 2};
    fake_tokenizer();
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        char *text = quoted(asked[i].body);
        for (int64_t n = 0; n < 50; n++) {
            int fd = dial();
            nm_mem_fail_after(n);
            send_request(fd, "POST", asked[i].path, JSON, text);
            while (read(fd, some, sizeof some) > 0) {}
            close(fd);
            nm_mem_fail_after(-1);
            assert_true(fake_idle());
        }
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_anthropic_text), cmocka_unit_test(test_anthropic_request), cmocka_unit_test(test_anthropic_stream), cmocka_unit_test(test_anthropic_whole),
        cmocka_unit_test(test_anthropic_thinking), cmocka_unit_test(test_anthropic_errors), cmocka_unit_test(test_anthropic_rest),
        cmocka_unit_test(test_ollama_chat), cmocka_unit_test(test_ollama_requests), cmocka_unit_test(test_ollama_generate), cmocka_unit_test(test_ollama_load),
        cmocka_unit_test(test_ollama_errors), cmocka_unit_test(test_ollama_embed), cmocka_unit_test(test_ollama_models), cmocka_unit_test(test_ollama_show),
        cmocka_unit_test(test_ollama_rest), cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_llamacpp_completion), cmocka_unit_test(test_llamacpp_requests), cmocka_unit_test(test_llamacpp_probabilities),
        cmocka_unit_test(test_llamacpp_errors), cmocka_unit_test(test_llamacpp_text), cmocka_unit_test(test_pieces_are_bounded), cmocka_unit_test(test_vllm_text), cmocka_unit_test(test_llamacpp_rest), cmocka_unit_test(test_vllm_adapters),
        cmocka_unit_test(test_gap), cmocka_unit_test(test_facts), cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
