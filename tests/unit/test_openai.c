/* OpenAI's dialect over HTTP as it goes through the wire, on an engine by script: each answer to the byte (ids and times apart), each refusal, clients that leave. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#include "fake_engine.c"
#include "base/str.h"
#include "server/openai_store.h"
#include "server/openapi.h"
#include "server/server.h"

static nm_http *http;
static const char *const served[] = {"fake"};
static const nm_engine_options engine_options = {.models = served, .n_models = 1};
static nm_server server = {.options = &engine_options};

typedef struct reply { int status; char *head, *body, *all; } reply;

/* ---- A client ---------------------------------------------------------------------------------------------------- */

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)nm_http_port(http)), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* Without memory of the library's, which may be failing on purpose. */
static void say(int fd, const char *method, const char *path, const char *body)
{
    char head[512];
    size_t n = body ? strlen(body) : 0;
    int used = snprintf(head, sizeof head, "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", method, path);
    if (body) used += snprintf(head + used, sizeof head - (size_t)used, "Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
    used += snprintf(head + used, sizeof head - (size_t)used, "\r\n");
    assert_int_equal(send(fd, head, (size_t)used, MSG_NOSIGNAL), used);
    assert_int_equal(send(fd, body, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* Puts chunks together in place. */
static void unchunk(char *body)
{
    char *to = body, *from = body;
    for (;;) {
        char *end;
        size_t n = strtoul(from, &end, 16);
        assert_true(end != from && !strncmp(end, "\r\n", 2));
        if (!n) break;
        memmove(to, end + 2, n);
        to += n;
        from = end + 2 + n + 2;
    }
    *to = 0;
}

/* Ids and times become the same for all runs: 32 hexadecimal digits a '#', what follows "created": or the like a 0. */
static void calm(char *text)
{
    static const char *const times[] = {"\"created\":", "\"created_at\":", "\"completed_at\":"};
    for (size_t i = 0; i < 3; i++)
        for (char *at = text; (at = strstr(at, times[i]));) {
            at += strlen(times[i]);
            size_t n = strspn(at, "0123456789");
            if (n) *at = '0';
            if (n > 1) memmove(at + 1, at + n, strlen(at + n) + 1);
        }
    for (char *at = text; *at; at++) {
        if (strspn(at, "0123456789abcdef") != 32) continue;
        *at = '#';
        memmove(at + 1, at + 32, strlen(at + 32) + 1);
    }
}

static reply listen_to(int fd)
{
    nm_str s = {0};
    char part[4096];
    for (ssize_t n; (n = recv(fd, part, sizeof part, 0)) > 0;) nm_str_append(&s, part, (size_t)n);
    close(fd);
    reply r = {.all = nm_str_take(&s, NULL)};
    assert_non_null(r.all);
    assert_int_equal(sscanf(r.all, "HTTP/1.1 %d", &r.status), 1);
    char *end = strstr(r.all, "\r\n\r\n");
    assert_non_null(end);
    end[2] = 0;
    r.head = r.all;
    r.body = end + 4;
    if (strstr(r.head, "chunked")) unchunk(r.body);
    return r;
}

static reply ask(const char *method, const char *path, const char *body)
{
    int fd = dial();
    say(fd, method, path, body);
    reply r = listen_to(fd);
    calm(r.body);
    assert_true(fake_idle());
    return r;
}

static reply post(const char *path, const char *body) { return ask("POST", path, body); }

static void expect(reply r, int status, const char *body)
{
    assert_string_equal(r.body, body);
    assert_int_equal(r.status, status);
    nm_free(r.all);
}

/* An error with these members. */
static void expect_error(reply r, int status, const char *type, const char *code, const char *param, const char *says)
{
    json_t *body = json_loads(r.body, 0, NULL), *e = json_object_get(body, "error");
    if (r.status != status || !strstr(r.body, says)) print_message("# %d %s\n", r.status, r.body);
    assert_int_equal(r.status, status);
    assert_non_null(e);
    assert_string_equal(json_string_value(json_object_get(e, "type")), type);
    if (code) assert_string_equal(json_string_value(json_object_get(e, "code")), code);
    else assert_true(json_is_null(json_object_get(e, "code")));
    if (param) assert_string_equal(json_string_value(json_object_get(e, "param")) ? json_string_value(json_object_get(e, "param")) : "", param);
    else assert_true(json_is_null(json_object_get(e, "param")));
    assert_non_null(strstr(json_string_value(json_object_get(e, "message")), says));
    json_decref(body);
    nm_free(r.all);
}

static void expect_asked(size_t i, const char *json)
{
    char *text = json_dumps(fake_asked(i), JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(text ? text : "nothing", json);
    free(text);
}

#define CHAT "/v1/chat/completions"
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"
#define HEAD(object) "{\"id\":\"chatcmpl-#\",\"object\":\"" object "\",\"created\":0,\"model\":\"fake\",\"system_fingerprint\":\"fp_nomoat_" NM_VERSION "\",\"choices\":["
#define USAGE(prompt, answer, total, cached, reasoning) "\"usage\":{\"prompt_tokens\":" #prompt ",\"completion_tokens\":" #answer ",\"total_tokens\":" #total \
    ",\"prompt_tokens_details\":{\"cached_tokens\":" #cached "},\"completion_tokens_details\":{\"reasoning_tokens\":" #reasoning "}}"
#define TIMINGS_10_2_4 "\"timings\":{\"cache_n\":2,\"prompt_n\":8,\"prompt_ms\":500.0,\"prompt_per_token_ms\":62.5,\"prompt_per_second\":16.0,\"predicted_n\":4," \
    "\"predicted_ms\":250.0,\"predicted_per_token_ms\":62.5,\"predicted_per_second\":16.0}"
#define CHUNK(index, delta, finish) "data: " HEAD("chat.completion.chunk") "{\"index\":" #index ",\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" finish "}]}\n\n"

static const fake_step hello[] = {{.text = "Hel"}, {.text = "lo \"you\""}};
static fake_script script(const fake_step *steps, size_t n)
{
    return (fake_script){.steps = steps, .n_steps = n, .finish = NM_FINISH_STOP, .prompt_tokens = 10, .cached_tokens = 2, .tokens = 4, .context = 64};
}
#define SCRIPT(steps) script(steps, sizeof (steps) / sizeof *(steps))

/* ---- Models ------------------------------------------------------------------------------------------------------ */

static void test_models(void **state)
{
    fake_reset();
    json_t *models = json_pack("[{s:s, s:s, s:[], s:s, s:s, s:i, s:b, s:i}, {s:s, s:s, s:[{s:s, s:f}], s:s, s:i}]", "name", "org/m:q4", "base", "org/m:q4", "adapters", "kind",
                               "model", "path", "/secret", "bytes", 7, "loaded", 1, "modified", 1700000000, "name", "org/m:q4+poet", "base", "org/m:q4", "adapters", "name",
                               "poet", "scale", 0.5, "kind", "adapter", "modified", 5);
    fake.models = models;
#define BASE(id) "{\"id\":\"" id "\",\"object\":\"model\",\"created\":0,\"owned_by\":\"nomoat\",\"kind\":\"model\",\"base\":\"org/m:q4\",\"adapters\":[],\"bytes\":7,\"loaded\":true}"
#define POET "{\"id\":\"org/m:q4+poet\",\"object\":\"model\",\"created\":0,\"owned_by\":\"nomoat\",\"kind\":\"adapter\",\"base\":\"org/m:q4\"," \
    "\"adapters\":[{\"name\":\"poet\",\"scale\":0.5}]}"
    expect(ask("GET", "/v1/models", NULL), 200, "{\"object\":\"list\",\"data\":[" BASE("org/m:q4") "," POET "]}");
    expect(ask("GET", "/models", NULL), 200, "{\"object\":\"list\",\"data\":[" BASE("org/m:q4") "," POET "]}");
    expect(ask("GET", "/v1/models/org/m:q4", NULL), 200, BASE("org/m:q4"));
    expect(ask("GET", "/v1/models/org%2Fm%3Aq4%2Bpoet", NULL), 200, POET);
    expect(ask("GET", "/v1/models/org/m:q4+poet=0.3", NULL), 200, BASE("org/m:q4+poet=0.3"));
    expect_error(ask("GET", "/v1/models/org/m:q4+nobody", NULL), 404, "invalid_request_error", "model_not_found", "model", "org/m:q4+nobody");
    expect_error(ask("GET", "/v1/models/other", NULL), 404, "invalid_request_error", "model_not_found", "model", "other");
    fake.models = NULL;
    json_decref(models);
}

/* What it says is held to the tables of routes by test_openapi.c. */
static void test_document(void **state)
{
    size_t length;
    const char *text = nm_openapi_document(&length);
    reply r = ask("GET", "/openapi.json", NULL);
    assert_int_equal(r.status, 200);
    assert_int_equal(strlen(r.body), length);
    assert_memory_equal(r.body, text, length);
    nm_free(r.all);
}

/* ---- Chat -------------------------------------------------------------------------------------------------------- */

static void test_chat(void **state)
{
    fake_reset();
    fake.script = SCRIPT(hello);
    fake.script.reasoning_tokens = 1;
#define HELLO HEAD("chat.completion") "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello \\\"you\\\"\",\"refusal\":null},\"logprobs\":null," \
    "\"finish_reason\":\"stop\"}]," USAGE(10, 4, 14, 2, 1) "," TIMINGS_10_2_4 "}"
    expect(post(CHAT, "{\"model\":\"m\"," HI "}"), 200, HELLO);
    expect(post("/chat/completions", "{" HI ",\"stream\":false,\"stream_options\":null,\"user\":\"u\",\"nobody_knows\":[1]}"), 200, HELLO);
    expect_asked(0, "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"model\":\"m\"}");
    expect_asked(1, "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}]}");
    fake.script.finish = NM_FINISH_LENGTH;
    reply r = post(CHAT, "{" HI "}");
    assert_non_null(strstr(r.body, "\"finish_reason\":\"length\""));
    assert_non_null(strstr(r.head, "application/json"));
    nm_free(r.all);
}

static void test_chat_stream(void **state)
{
    fake_reset();
    fake.script = SCRIPT(hello);
    fake.script.finish = NM_FINISH_STOP_STRING;
    int fd = dial();
    say(fd, "POST", CHAT, "{\"stream\":true," HI "}");
    reply r = listen_to(fd);
    assert_non_null(strstr(r.head, "text/event-stream"));
    calm(r.body);
    expect(r, 200, CHUNK(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null") CHUNK(0, "{\"content\":\"Hel\"}", "null") CHUNK(0, "{\"content\":\"lo \\\"you\\\"\"}", "null")
           CHUNK(0, "{}", "\"stop\"") "data: [DONE]\n\n");
}

static void test_chat_stream_usage(void **state)
{
    static const fake_step steps[] = {{.kind = NM_PIECE_REASONING, .text = "hm"}, {.text = "A"}, {.text = "B", .index = 1}};
#define USED(index, delta, finish) "data: " HEAD("chat.completion.chunk") "{\"index\":" #index ",\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" finish "}],\"usage\":null}\n\n"
    fake_reset();
    fake.script = SCRIPT(steps);
    fake.script.tokens = 2;
    fake.script.reasoning_tokens = 1;
    expect(post(CHAT, "{\"stream\":true,\"n\":2,\"stream_options\":{\"include_usage\":true}," HI "}"), 200,
           USED(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null") USED(1, "{\"role\":\"assistant\",\"content\":\"\"}", "null") USED(0, "{\"reasoning_content\":\"hm\"}", "null")
           USED(0, "{\"content\":\"A\"}", "null") USED(1, "{\"content\":\"B\"}", "null") USED(0, "{}", "\"stop\"") USED(1, "{}", "\"stop\"")
           "data: " HEAD("chat.completion.chunk") "]," USAGE(10, 4, 14, 2, 2) "," TIMINGS_10_2_4 "}\n\ndata: [DONE]\n\n");
    expect_asked(0, "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"n\":2}");
    expect(post(CHAT, "{\"n\":2," HI "}"), 200, HEAD("chat.completion")
           "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A\",\"refusal\":null,\"reasoning_content\":\"hm\"},\"logprobs\":null,\"finish_reason\":\"stop\"},"
           "{\"index\":1,\"message\":{\"role\":\"assistant\",\"content\":\"B\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
           USAGE(10, 4, 14, 2, 2) "," TIMINGS_10_2_4 "}");
}

static const fake_step calls[] = {
    {.kind = NM_PIECE_CALL, .id = "call_a", .name = "f"}, {.kind = NM_PIECE_ARGUMENTS, .text = "{\"x\":"}, {.kind = NM_PIECE_ARGUMENTS, .text = "1}"},
    {.kind = NM_PIECE_CALL, .call = 1, .id = "call_b", .name = "g"}, {.kind = NM_PIECE_ARGUMENTS, .call = 1, .text = "{}"},
};
#define TOOLS "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\"}}},{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]"

static void test_tools(void **state)
{
    fake_reset();
    fake.script = SCRIPT(calls);
    fake.script.finish = NM_FINISH_TOOL_CALLS;
    expect(post(CHAT, "{" HI "," TOOLS ",\"tool_choice\":\"required\",\"parallel_tool_calls\":false}"), 200, HEAD("chat.completion")
           "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":["
           "{\"id\":\"call_a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}},"
           "{\"id\":\"call_b\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]},\"logprobs\":null,\"finish_reason\":\"tool_calls\"}],"
           USAGE(10, 4, 14, 2, 0) "," TIMINGS_10_2_4 "}");
    expect_asked(0, "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"one_call\":true,\"tool_choice\":\"required\",\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":"
                    "{\"type\":\"object\"}},\"type\":\"function\"},{\"function\":{\"name\":\"g\"},\"type\":\"function\"}]}");
    expect(post(CHAT, "{\"stream\":true," HI "," TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}"), 200,
           CHUNK(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null")
           CHUNK(0, "{\"tool_calls\":[{\"index\":0,\"id\":\"call_a\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}", "null")
           CHUNK(0, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"x\\\":\"}}]}", "null")
           CHUNK(0, "{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}", "null")
           CHUNK(0, "{\"tool_calls\":[{\"index\":1,\"id\":\"call_b\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}}]}", "null")
           CHUNK(0, "{\"tool_calls\":[{\"index\":1,\"function\":{\"arguments\":\"{}\"}}]}", "null") CHUNK(0, "{}", "\"tool_calls\"") "data: [DONE]\n\n");
    json_t *choice = json_object_get(fake_asked(1), "tool_choice");
    assert_string_equal(json_string_value(json_object_get(json_object_get(choice, "function"), "name")), "g");
}

static void test_allowed_tools(void **state)
{
    fake_reset();
    nm_free(post(CHAT, "{" HI "," TOOLS ",\"tool_choice\":{\"type\":\"allowed_tools\",\"allowed_tools\":{\"mode\":\"required\",\"tools\":[{\"type\":\"function\","
                       "\"function\":{\"name\":\"g\"}}]}}}").all);
    expect_asked(0, "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"tool_choice\":\"required\",\"tools\":[{\"function\":{\"name\":\"g\"},\"type\":\"function\"}]}");
}

static void test_functions(void **state)
{
    fake_reset();
    fake.script = SCRIPT(calls);
    fake.script.finish = NM_FINISH_TOOL_CALLS;
    expect(post(CHAT, "{" HI ",\"functions\":[{\"name\":\"f\"}],\"function_call\":{\"name\":\"f\"}}"), 200, HEAD("chat.completion")
           "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"function_call\":{\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}},\"logprobs\":null,"
           "\"finish_reason\":\"function_call\"}]," USAGE(10, 4, 14, 2, 0) "," TIMINGS_10_2_4 "}");
    expect_asked(0, "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"one_call\":true,\"tool_choice\":{\"function\":{\"name\":\"f\"},\"type\":\"function\"},"
                    "\"tools\":[{\"function\":{\"name\":\"f\"},\"type\":\"function\"}]}");
    expect(post(CHAT, "{\"stream\":true," HI ",\"functions\":[{\"name\":\"f\"}]}"), 200, CHUNK(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null")
           CHUNK(0, "{\"function_call\":{\"name\":\"f\",\"arguments\":\"\"}}", "null") CHUNK(0, "{\"function_call\":{\"arguments\":\"{\\\"x\\\":\"}}", "null")
           CHUNK(0, "{\"function_call\":{\"arguments\":\"1}\"}}", "null") CHUNK(0, "{}", "\"function_call\"") "data: [DONE]\n\n");
}

/* "Hello", and the first two of the three bytes of a euro sign with its whole token as the alternative. */
static const nm_logprob top_hello[] = {{259, -0.25}, {261, -1.5}}, top_euro[] = {{262, -0.5}, {3 + 0xe2, -2}};
static const nm_token_out hello_token[] = {{259, -0.25, top_hello, 2}}, euro_tokens[] = {{3 + 0xe2, -2, top_euro, 2}, {3 + 0x82, -INFINITY, NULL, 0}};
static const fake_step probable[] = {{.text = "Hello", .tokens = hello_token, .n_tokens = 1}, {.text = "", .tokens = euro_tokens, .n_tokens = 2}};
#define LOG_HELLO "{\"token\":\" Hello\",\"logprob\":-0.25,\"bytes\":[32,72,101,108,108,111],\"top_logprobs\":[{\"token\":\" Hello\",\"logprob\":-0.25,\"bytes\":[32,72,101,108,108,111]}," \
    "{\"token\":\"!\",\"logprob\":-1.5,\"bytes\":[33]}]}"
#define LOG_EURO "{\"token\":\"\uFFFD\",\"logprob\":-2.0,\"bytes\":[226],\"top_logprobs\":[{\"token\":\"\u20ac\",\"logprob\":-0.5,\"bytes\":[226,130,172]}," \
    "{\"token\":\"\uFFFD\",\"logprob\":-2.0,\"bytes\":[226]}]},{\"token\":\"\uFFFD\",\"logprob\":-9999.0,\"bytes\":[130],\"top_logprobs\":[]}"

static void test_logprobs(void **state)
{
    fake_reset();
    fake.script = SCRIPT(probable);
    expect(post(CHAT, "{" HI ",\"logprobs\":true,\"top_logprobs\":2}"), 200, HEAD("chat.completion")
           "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Hello\",\"refusal\":null},\"logprobs\":{\"content\":[" LOG_HELLO "," LOG_EURO "],\"refusal\":null},"
           "\"finish_reason\":\"stop\"}]," USAGE(10, 4, 14, 2, 0) "," TIMINGS_10_2_4 "}");
    assert_int_equal(json_integer_value(json_object_get(fake_asked(0), "top_logprobs")), 2);
    expect(post(CHAT, "{\"stream\":true," HI ",\"logprobs\":true}"), 200, CHUNK(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null")
           "data: " HEAD("chat.completion.chunk") "{\"index\":0,\"delta\":{\"content\":\"Hello\"},\"logprobs\":{\"content\":[" LOG_HELLO "],\"refusal\":null},\"finish_reason\":null}]}\n\n"
           "data: " HEAD("chat.completion.chunk") "{\"index\":0,\"delta\":{\"content\":\"\"},\"logprobs\":{\"content\":[" LOG_EURO "],\"refusal\":null},\"finish_reason\":null}]}\n\n"
           CHUNK(0, "{}", "\"stop\"") "data: [DONE]\n\n");
    assert_int_equal(json_integer_value(json_object_get(fake_asked(1), "top_logprobs")), 0);
}

static void test_settings(void **state)
{
    fake_reset();
    nm_free(post(CHAT, "{" HI ",\"temperature\":0.5,\"top_p\":1,\"min_p\":0.25,\"typical_p\":0.75,\"top_k\":-1,\"repetition_penalty\":1.5,\"presence_penalty\":-2,"
                       "\"frequency_penalty\":2,\"repeat_last_n\":8,\"seed\":7,\"stop\":[\"a\",\"\",\"b\"],\"logit_bias\":{\"5\":-100,\"6\":1.5,\"7\":false},\"max_tokens\":9,"
                       "\"max_completion_tokens\":3,\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"s\",\"strict\":true,\"schema\":{\"type\":\"object\"}}},"
                       "\"chat_template_kwargs\":{\"k\":1},\"reasoning_effort\":\"none\",\"lora\":[{\"id\":\"p\",\"scale\":0.5},{\"id\":\"q\"}],\"ignore_eos\":true,"
                       "\"cache_prompt\":false,\"continue_final_message\":true,\"top_logprobs\":0}").all);
    expect_asked(0, "{\"bias\":{\"5\":\"-inf\",\"6\":1.5,\"7\":\"-inf\"},\"continue_last\":true,\"effort\":\"none\",\"frequency_penalty\":2.0,\"ignore_eos\":true,"
                    "\"lora\":[{\"id\":\"p\",\"scale\":0.5},{\"id\":\"q\",\"scale\":1.0}],\"max_tokens\":3,\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"min_p\":0.25,"
                    "\"no_cache\":true,\"penalty_last\":8,\"presence_penalty\":-2.0,\"repeat_penalty\":1.5,\"schema\":{\"type\":\"object\"},\"seed\":7,\"stop\":[\"a\",\"b\"],"
                    "\"temperature\":0.5,\"template_kwargs\":{\"k\":1},\"think\":0,\"top_k\":0,\"top_p\":1.0,\"typical\":0.75}");
    nm_free(post(CHAT, "{" HI ",\"stop\":\"x\",\"response_format\":{\"type\":\"json_object\"},\"reasoning_effort\":\"high\",\"seed\":-1,\"max_tokens\":-1,\"logprobs\":false}").all);
    expect_asked(1, "{\"effort\":\"high\",\"json\":true,\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"stop\":[\"x\"],\"think\":1}");
    nm_free(post(CHAT, "{" HI ",\"grammar\":\"root ::= [a]\",\"response_format\":{\"type\":\"text\"},\"temperature\":null}").all);
    expect_asked(2, "{\"grammar\":\"root ::= [a]\",\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}]}");
    static const struct { const char *given, *asked; } bound[] = {
        {"\"guided_grammar\":\"root ::= [a]\"", "\"grammar\":\"root ::= [a]\""}, {"\"guided_json\":{\"type\":\"string\"}", "\"schema\":{\"type\":\"string\"}"},
        {"\"guided_json\":\"{\\\"type\\\":\\\"string\\\"}\"", "\"schema\":{\"type\":\"string\"}"}, {"\"json_schema\":{}", "\"json\":true"},
        {"\"guided_choice\":[\"a\\\"b\",\"c\\n\"]", "\"grammar\":\"root ::= \\\"a\\\\\\\"b\\\" | \\\"c\\\\x0A\\\"\""},
        {"\"structured_outputs\":{\"choice\":[\"a\"]}", "\"grammar\":\"root ::= \\\"a\\\"\""}, {"\"structured_outputs\":{\"json_object\":true}", "\"json\":true"}};
    for (size_t i = 0; i < sizeof bound / sizeof *bound; i++) {
        char request[300], expected[300];
        snprintf(request, sizeof request, "{" HI ",%s}", bound[i].given);
        const char *const shapes[] = {"{%s,\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}]}", "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],%s}"};
        const char *hole = strstr(shapes[bound[i].asked[1] == 's'], "%s"), *shape = shapes[bound[i].asked[1] == 's'];     /* members are sorted */
        snprintf(expected, sizeof expected, "%.*s%s%s", (int)(hole - shape), shape, bound[i].asked, hole + 2);
        nm_free(post(CHAT, request).all);
        expect_asked((int)i + 3, expected);
    }
}

static void test_messages(void **state)
{
    fake_reset();
    nm_free(post(CHAT, "{\"messages\":[{\"role\":\"developer\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"user\",\"name\":\"Bo\",\"content\":\"q\"},"
                       "{\"role\":\"assistant\",\"content\":null,\"reasoning_content\":\"r\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":"
                       "\"{\\\"x\\\":[1]}\"}},{\"id\":\"c2\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"\"}},{\"id\":\"c3\",\"type\":\"function\",\"function\":"
                       "{\"name\":\"g\",\"arguments\":\"{bad\"}}]},{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"7\"},"
                       "{\"role\":\"assistant\",\"function_call\":{\"name\":\"f\",\"arguments\":\"{}\"}},{\"role\":\"function\",\"name\":\"f\",\"content\":\"8\"}]}").all);
    expect_asked(0, "{\"messages\":[{\"content\":\"a\\nb\",\"role\":\"system\"},{\"content\":\"q\",\"name\":\"Bo\",\"role\":\"user\"},"
                    "{\"content\":null,\"reasoning_content\":\"r\",\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":{\"x\":[1]},\"name\":\"f\"},\"id\":\"c1\","
                    "\"type\":\"function\"},{\"function\":{\"arguments\":{},\"name\":\"g\"},\"id\":\"c2\",\"type\":\"function\"},{\"function\":{\"arguments\":\"{bad\",\"name\":\"g\"},"
                    "\"id\":\"c3\",\"type\":\"function\"}]},{\"content\":\"7\",\"role\":\"tool\",\"tool_call_id\":\"c1\"},{\"content\":null,\"role\":\"assistant\",\"tool_calls\":"
                    "[{\"function\":{\"arguments\":{},\"name\":\"f\"},\"type\":\"function\"}]},{\"content\":\"8\",\"name\":\"f\",\"role\":\"tool\"}]}");
}

typedef struct refusal { const char *path, *body, *param, *says; } refusal;

static void test_refusals(void **state)
{
#define C(more) CHAT, "{" HI "," more "}"
#define T(more) "/v1/completions", "{\"prompt\":\"p\"," more "}"
#define E(more) "/v1/embeddings", "{" more "}"
#define R(more) "/v1/responses", "{" more "}"
    static const refusal all[] = {
        {CHAT, "", NULL, "JSON"}, {CHAT, "[]", NULL, "object"}, {CHAT, "{\"model\":\"a\",\"model\":\"b\"}", NULL, "duplicate"}, {CHAT, "{}", "messages", "at least one"},
        {CHAT, "{\"messages\":[]}", "messages", "at least one"}, {CHAT, "{\"messages\":\"x\"}", "messages", "array"}, {CHAT, "{\"messages\":[1]}", "messages[0]", "object"},
        {CHAT, "{\"messages\":[{\"role\":\"boss\",\"content\":\"\"}]}", "messages[0].role", "system"},
        {CHAT, "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "missing"}, {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":7}]}", "messages[0].content", "string"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"\"},{\"type\":\"image_url\",\"image_url\":{\"url\":\"x\"}}]}]}", "messages[0].content[1]",
         "image_url"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}]}", "messages[0].content[0]", "input_audio"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages[0].content[0]", "no text"},
        {CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"\",\"name\":1}]}", "messages[0].name", "string"},
        {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":{}}]}", "messages[0].tool_calls", "array"},
        {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{}]}]}", "messages[0].tool_calls[0]", "name"},
        {CHAT, "{\"messages\":[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":1}}]}]}", "messages[0].tool_calls[0]", "arguments"},
        {C("\"model\":7"), "model", "string"}, {C("\"temperature\":\"hot\""), "temperature", "number"}, {C("\"temperature\":-1"), "temperature", "0"},
        {C("\"top_p\":1.5"), "top_p", "1"}, {C("\"top_k\":1.5"), "top_k", "whole"}, {C("\"n\":0"), "n", "1"}, {C("\"n\":129"), "n", "128"}, {C("\"seed\":\"x\""), "seed", "whole"},
        {C("\"stop\":7"), "stop", "string"}, {C("\"stop\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"a\",\"b\",\"c\",\"d\",\"e\",\"f\",\"g\",\"h\"]"), "stop", "16"},
        {C("\"stream\":1"), "stream", "true"}, {C("\"stream_options\":1"), "stream_options", "object"},
        {C("\"stream_options\":{\"include_usage\":1}"), "stream_options.include_usage", "true"}, {C("\"logprobs\":2"), "logprobs", "true"},
        {C("\"top_logprobs\":2"), "top_logprobs", "logprobs"}, {C("\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs", "20"}, {C("\"logit_bias\":[]"), "logit_bias", "object"},
        {C("\"logit_bias\":{\"x\":1}"), "logit_bias", "whole"}, {C("\"logit_bias\":{\"1x\":1}"), "logit_bias", "1x"}, {C("\"logit_bias\":{\"1\":101}"), "logit_bias", "100"},
        {C("\"logit_bias\":{\"1\":null}"), "logit_bias", "number"}, {C("\"presence_penalty\":3"), "presence_penalty", "2"}, {C("\"max_tokens\":1.5"), "max_tokens", "whole"},
        {C("\"max_completion_tokens\":\"1\""), "max_completion_tokens", "whole"}, {C("\"lora\":{}"), "lora", "array"}, {C("\"lora\":[{\"id\":1}]"), "lora", "name"},
        {C("\"lora\":[{\"id\":\"a\",\"scale\":\"x\"}]"), "lora", "scale"}, {C("\"response_format\":\"json\""), "response_format", "json_object"},
        {C("\"response_format\":{\"type\":\"xml\"}"), "response_format.type", "xml"}, {C("\"response_format\":{\"type\":\"json_schema\"}"), "response_format.json_schema.schema", "object"},
        {C("\"grammar\":\"root ::= [a]\",\"response_format\":{\"type\":\"json_object\"}"), "response_format", "grammar"},
        {C("\"guided_json\":{\"type\":\"object\"},\"response_format\":{\"type\":\"json_object\"}"), "response_format", "guided"},
        {C("\"grammar\":\"root ::= [a]\",\"guided_choice\":[\"a\"]"), "guided_choice", "one of them"}, {C("\"guided_choice\":[]"), "guided_choice", "strings"},
        {C("\"guided_choice\":[1]"), "guided_choice", "strings"}, {C("\"guided_json\":\"{\""), "guided_json", "schema"}, {C("\"json_schema\":7"), "json_schema", "schema"},
        {C("\"guided_regex\":\"(\""), "guided_regex", ""}, {C("\"guided_grammar\":1"), "guided_grammar", "GBNF"}, {C("\"guided_whitespace_pattern\":\" \""), "guided_whitespace_pattern", "offered"},
        {C("\"structured_outputs\":{\"structural_tag\":\"x\"}"), "structured_outputs.structural_tag", "offered"}, {C("\"structured_outputs\":1"), "structured_outputs", "object"}, {C("\"reasoning_effort\":\"huge\""), "reasoning_effort", "huge"},
        {C("\"chat_template_kwargs\":1"), "chat_template_kwargs", "object"}, {C("\"modalities\":[\"text\",\"audio\"]"), "modalities", "text"}, {C("\"tools\":{}"), "tools", "array"},
        {C("\"tools\":[{\"type\":\"web_search\"}]"), "tools[0]", "web_search"}, {C("\"tools\":[1]"), "tools[0]", "function"},
        {C("\"tools\":[{\"type\":\"function\",\"function\":{}}]"), "tools[0]", "name"},
        {C("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":[]}}]"), "tools[0]", "schema"}, {C("\"tool_choice\":\"required\""), "tool_choice", "no tools"},
        {C("\"tool_choice\":\"any\""), "tool_choice", "required"}, {C(TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"h\"}}"), "tool_choice", "\"h\""},
        {C(TOOLS ",\"tool_choice\":{\"type\":\"allowed_tools\"}"), "tool_choice.allowed_tools", "mode"}, {C("\"functions\":[{}]"), "functions[0]", "name"},
        {C("\"functions\":[{\"name\":\"f\"}],\"function_call\":\"any\""), "function_call", "auto"},
        {"/v1/completions", "{}", "prompt", "missing"}, {"/v1/completions", "{\"prompt\":[]}", "prompt", "0 prompts"}, {"/v1/completions", "{\"prompt\":7}", "prompt", "string"},
        {"/v1/completions", "{\"prompt\":[\"a\",7]}", "prompt", "string"}, {"/v1/completions", "{\"prompt\":[1,-1]}", "prompt", "id"}, {"/v1/completions", "{\"prompt\":[[]]}", "prompt", "empty"},
        {T("\"best_of\":2"), "best_of", "n is 1"}, {T("\"logprobs\":true"), "logprobs", "whole"}, {T("\"logprobs\":21"), "logprobs", "20"}, {T("\"echo\":1"), "echo", "true"},
        {T("\"suffix\":\"s\",\"echo\":true"), "echo", "suffix"}, {"/v1/completions", "{\"prompt\":[1],\"suffix\":\"s\"}", "suffix", "text"},
        {E("\"model\":\"m\""), "input", "missing"}, {E("\"input\":\"\""), "input", "empty"}, {E("\"input\":[]"), "input", "0 texts"}, {E("\"input\":[\"a\",1]"), "input", "string"},
        {E("\"input\":\"a\",\"encoding_format\":\"hex\""), "encoding_format", "hex"}, {E("\"input\":[1,\"a\"]"), "input", "id"}, {E("\"input\":[1,300]"), "input", "id"},
        {R("\"model\":\"m\""), "input", "at least one"}, {R("\"input\":[1]"), "input[0]", "object"}, {R("\"input\":[{\"type\":\"item_reference\",\"id\":\"x\"}]"), "input[0]", "item_reference"},
        {R("\"input\":[{\"role\":\"tool\",\"content\":\"\"}]"), "input[0].role", "user"}, {R("\"input\":[{\"role\":\"user\"}]"), "input[0].content", "missing"},
        {R("\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_image\"}]}]"), "input[0].content[0]", "input_image"},
        {R("\"input\":[{\"type\":\"function_call\",\"name\":\"f\"}]"), "input[0]", "call_id"}, {R("\"input\":[{\"type\":\"function_call_output\",\"output\":\"x\"}]"), "input[0].call_id", "call"},
        {R("\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"x\"}]"), "input[0].output", "missing"}, {R("\"input\":\"a\",\"background\":true"), "background", "stream"},
        {R("\"input\":\"a\",\"conversation\":\"c\""), "conversation", "previous_response_id"}, {R("\"input\":\"a\",\"tools\":[{\"type\":\"file_search\"}]"), "tools[0]", "file_search"},
        {R("\"input\":\"a\",\"text\":{\"format\":{\"type\":\"json_schema\"}}"), "text.format.schema", "object"}, {R("\"input\":\"a\",\"include\":[1]"), "include", "strings"},
        {R("\"input\":\"a\",\"metadata\":[]"), "metadata", "object"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fake_reset();
        print_message("# %s\n", all[i].body);
        expect_error(post(all[i].path, all[i].body), 400, "invalid_request_error", NULL, all[i].param, all[i].says);
        assert_int_equal(fake.asks, 0);
    }
}

/* Many values take much memory, however short they are written; signs in a text are none. */
static void test_many_values(void **state)
{
    enum { N = 1 << 20 };
    nm_str s = {0};
    fake_reset();
    nm_str_puts(&s, "{\"prompt\":[");
    for (int i = 0; i < N; i++) nm_str_puts(&s, "1,");
    nm_str_puts(&s, "1]}");
    expect_error(post("/v1/completions", s.data), 400, "invalid_request_error", NULL, NULL, "more than 1048576 values");
    s.length = 0;
    nm_str_puts(&s, "{" HI ",\"json_schema\":\"{\\\"enum\\\":[");
    for (int i = 0; i < N; i++) nm_str_puts(&s, "1,");
    nm_str_puts(&s, "1]}\"}");
    expect_error(post(CHAT, s.data), 400, "invalid_request_error", NULL, "json_schema", "object");
    assert_int_equal(fake.asks, 0);
    s.length = 0;
    nm_str_puts(&s, "{\"max_tokens\":1,\"prompt\":\"\\\"");
    for (int i = 0; i < N; i++) nm_str_puts(&s, "[,");
    nm_str_puts(&s, "\\\"\"}");
    reply r = post("/v1/completions", s.data);
    assert_int_equal(r.status, 200);
    nm_free(r.all);
    nm_str_free(&s);
}

/* ---- What the engine refuses ------------------------------------------------------------------------------------- */

static void test_engine_errors(void **state)
{
    static const char *const paths[][2] = {{CHAT, "{" HI "}"}, {CHAT, "{\"stream\":true," HI "}"}, {"/v1/completions", "{\"prompt\":[\"a\",\"b\"]}"},
                                           {"/v1/completions", "{\"prompt\":\"a\",\"stream\":true}"}, {"/v1/responses", "{\"input\":\"a\"}"},
                                           {"/v1/responses", "{\"input\":\"a\",\"stream\":true}"}, {"/v1/embeddings", "{\"input\":\"a\"}"}};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        fake_reset();
        fake.script = (fake_script){.early = NM_NOT_FOUND, .code = "model_not_found", .error = "no model x"};
        expect_error(post(paths[i][0], paths[i][1]), 404, "invalid_request_error", "model_not_found", "model", "no model x");
        fake.script = (fake_script){.early = NM_USAGE, .code = "exceed_context_size_error", .error = "too long", .prompt_tokens = 99, .context = 64};
        reply r = post(paths[i][0], paths[i][1]);
        assert_non_null(strstr(r.body, ",\"n_prompt_tokens\":99,\"n_ctx\":64}}"));
        expect_error(r, 400, "exceed_context_size_error", "exceed_context_size_error", NULL, "too long");
        fake.script = (fake_script){.early = NM_REFUSED, .code = "queue_full", .error = "busy"};
        r = post(paths[i][0], paths[i][1]);
        assert_non_null(strstr(r.head, "\r\nRetry-After: 1\r\n"));
        expect_error(r, 429, "rate_limit_error", "queue_full", NULL, "busy");
        fake.script = (fake_script){.early = NM_FAILED, .error = "a NaN"};
        expect_error(post(paths[i][0], paths[i][1]), 500, "server_error", NULL, NULL, "a NaN");
        fake.script = (fake_script){.early = NM_NO_MEMORY, .error = "no memory"};
        expect_error(post(paths[i][0], paths[i][1]), 503, "server_error", NULL, NULL, "no memory");
        fake.script = (fake_script){.refuse = NM_USAGE, .error = "this makes no sense"};
        expect_error(post(paths[i][0], paths[i][1]), 400, "invalid_request_error", NULL, NULL, "this makes no sense");
        fake.script = (fake_script){.early = NM_USAGE, .error = "\"stop\" is odd"};
        expect_error(post(paths[i][0], paths[i][1]), 400, "invalid_request_error", NULL, "stop", "is odd");
    }
}

static void test_late_errors(void **state)
{
    fake_reset();
    fake.script = SCRIPT(hello);
    fake.script.late = NM_FAILED;
    fake.script.error = "a NaN";
    fake.script.n_steps = 1;
    expect_error(post(CHAT, "{" HI "}"), 500, "server_error", NULL, NULL, "a NaN");
#define A_NAN "{\"message\":\"a NaN\",\"type\":\"server_error\",\"param\":null,\"code\":null}"
    expect(post(CHAT, "{\"stream\":true," HI "}"), 200, CHUNK(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null") CHUNK(0, "{\"content\":\"Hel\"}", "null")
           "data: {\"error\":" A_NAN "}\n\n");
    reply r = post("/v1/completions", "{\"prompt\":\"p\",\"stream\":true}");
    assert_non_null(strstr(r.body, "data: {\"error\":" A_NAN "}\n\n"));
    assert_null(strstr(r.body, "[DONE]"));
    nm_free(r.all);
    r = post("/v1/responses", "{\"input\":\"p\",\"stream\":true}");
    assert_non_null(strstr(r.body, "event: response.failed\ndata: {\"type\":\"response.failed\",\"sequence_number\":8,\"response\":{\"id\":\"resp_#\",\"object\":\"response\",\"created_at\":0,"
                                   "\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"a NaN\"}"));
    nm_free(r.all);
}

/* ---- Clients that leave ------------------------------------------------------------------------------------------ */

static void leave_after(const char *path, const char *body, const char *seen)
{
    static const fake_step steps[] = {{.text = "Hel", .wait = true}};
    fake_reset();
    fake.script = SCRIPT(steps);
    int fd = dial();
    char got[8192] = "";
    size_t n = 0;
    say(fd, "POST", path, body);
    while (seen && !strstr(got, seen)) {
        ssize_t more = recv(fd, got + n, sizeof got - 1 - n, 0);
        assert_true(more > 0);
        n += (size_t)more;
    }
    assert_true(fake_busy());
    close(fd);
    assert_true(fake_idle());
    assert_true(fake.cancels >= 1);
}

static void test_gone(void **state)
{
    leave_after(CHAT, "{\"stream\":true," HI "}", "Hel");
    leave_after(CHAT, "{" HI "}", NULL);
    leave_after("/v1/completions", "{\"prompt\":[\"a\",\"b\"],\"stream\":true}", "Hel");
    leave_after("/v1/completions", "{\"prompt\":\"a\"}", NULL);
    leave_after("/v1/responses", "{\"input\":\"a\",\"stream\":true}", "Hel");
    leave_after("/v1/responses", "{\"input\":\"a\"}", NULL);
}

/* ---- Completions ------------------------------------------------------------------------------------------------- */

#define TEXT_HEAD "{\"id\":\"cmpl-#\",\"object\":\"text_completion\",\"created\":0,\"model\":\"fake\",\"system_fingerprint\":\"fp_nomoat_" NM_VERSION "\",\"choices\":["
#define TEXT(text, index, logprobs, finish) "{\"text\":\"" text "\",\"index\":" #index ",\"logprobs\":" logprobs ",\"finish_reason\":" finish "}"
#define TEXT_CHUNK(text, index, finish) "data: " TEXT_HEAD TEXT(text, index, "null", finish) "]}\n\n"

static void test_completions(void **state)
{
    static const fake_step steps[] = {{.text = "x"}, {.text = "y"}};
    fake_reset();
    fake.script = SCRIPT(steps);
    expect(post("/v1/completions", "{\"prompt\":\"p\",\"suffix\":\"s\",\"best_of\":1,\"max_tokens\":null}"), 200, TEXT_HEAD TEXT("xy", 0, "null", "\"stop\"") "],"
           USAGE(10, 4, 14, 2, 0) "," TIMINGS_10_2_4 "}");
    expect_asked(0, "{\"max_tokens\":16,\"suffix\":\"s\",\"text\":\"p\"}");
    expect(post("/v1/completions", "{\"prompt\":\"p\",\"stream\":true,\"max_tokens\":-1}"), 200, TEXT_CHUNK("x", 0, "null") TEXT_CHUNK("y", 0, "null") TEXT_CHUNK("", 0, "\"stop\"")
           "data: [DONE]\n\n");
    expect_asked(1, "{\"text\":\"p\"}");
    reply r = post("/v1/completions", "{\"prompt\":\"p\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_non_null(strstr(r.body, "\"finish_reason\":\"stop\"}],\"usage\":null}\n\ndata: " TEXT_HEAD "]," USAGE(10, 4, 14, 2, 0) "," TIMINGS_10_2_4 "}\n\ndata: [DONE]\n\n"));
    nm_free(r.all);
}

/* An echo is as long as the prompt, for each answer: a small request must not be answered by gigabytes. */
static void test_echoes_are_bounded(void **state)
{
    enum { LONG = 600000 };
    char *text = malloc(LONG + 1);
    nm_str body = {0};
    assert_non_null(text);
    memset(text, 'a', LONG);
    text[LONG] = 0;
    fake_reset();
    assert_int_equal(nm_str_printf(&body, "{\"prompt\":\"%s\",\"n\":128,\"echo\":true,\"max_tokens\":0}", text), NM_OK);
    expect_error(post("/v1/completions", body.data), 400, "invalid_request_error", NULL, NULL, "64 MiB");
    nm_str_free(&body);
    free(text);
}

static void test_many_prompts(void **state)
{
    static const fake_step steps[] = {{.text = "x"}, {.text = "y", .index = 1}};
    fake_reset();
    fake.script = SCRIPT(steps);
    fake.script.finish = NM_FINISH_LENGTH;
    expect(post("/v1/completions", "{\"prompt\":[[5,6],[7]],\"n\":2,\"echo\":true,\"max_tokens\":0}"), 200, TEXT_HEAD TEXT("\\u0002\\u0003x", 0, "null", "\"length\"") ","
           TEXT("\\u0002\\u0003y", 1, "null", "\"length\"") "," TEXT("\\u0004x", 2, "null", "\"length\"") "," TEXT("\\u0004y", 3, "null", "\"length\"") "],"
           USAGE(20, 16, 36, 4, 0) ",\"timings\":{\"cache_n\":4,\"prompt_n\":16,\"prompt_ms\":1000.0,\"prompt_per_token_ms\":62.5,\"prompt_per_second\":16.0,\"predicted_n\":16,"
           "\"predicted_ms\":500.0,\"predicted_per_token_ms\":31.25,\"predicted_per_second\":32.0}}");
    assert_int_equal(fake.asks, 2);
    fake_reset();
    fake.script = SCRIPT(steps);
    nm_str body = {0};
    nm_str_puts(&body, "{\"prompt\":[\"p0\"");
    for (int i = 1; i < 200; i++) nm_str_printf(&body, ",\"p%d\"", i);
    nm_str_puts(&body, "]}");
    reply r = post("/v1/completions", body.data);
    assert_int_equal(r.status, 200);
    assert_int_equal(fake.asks, 200);
    assert_non_null(strstr(r.body, TEXT("x", 199, "null", "\"stop\"") "]"));
    nm_free(r.all);
    nm_str_free(&body);
}

/* One of the prompts is refused: the whole request is, and no others are begun. */
static void test_one_prompt_fails(void **state)
{
    static const fake_step steps[] = {{.text = "x"}};
    fake_script scripts[2] = {SCRIPT(steps), {.early = NM_USAGE, .code = "exceed_context_size_error", .error = "too long", .prompt_tokens = 9, .context = 8}};
    fake_reset();
    fake.scripts = scripts;
    fake.n_scripts = 2;
    expect_error(post("/v1/completions", "{\"prompt\":[\"a\",\"b\",\"c\"]}"), 400, "exceed_context_size_error", "exceed_context_size_error", NULL, "too long");
}

static void test_text_logprobs(void **state)
{
    static const nm_token_out prompt[] = {{260, NAN, NULL, 0}, {261, -1, top_hello, 2}};
    const fake_step steps[] = {{.kind = NM_PIECE_PROMPT, .text = " world!", .tokens = prompt, .n_tokens = 2}, probable[0], probable[1]};
#define BARE "{\"tokens\":[\" Hello\",\"bytes:\\\\xe2\",\"bytes:\\\\x82\"],\"token_logprobs\":[-0.25,-2.0,-9999.0],\"top_logprobs\":null,\"text_offset\":[0,6,7]}"
    fake_reset();
    fake.script = SCRIPT(probable);
    reply r = post("/v1/completions", "{\"prompt\":\"p\",\"logprobs\":0}");
    assert_non_null(strstr(r.body, TEXT("Hello", 0, BARE, "\"stop\"")));
    nm_free(r.all);
    fake.script = SCRIPT(steps);
    r = post("/v1/completions", "{\"prompt\":[260,261],\"logprobs\":2,\"echo\":true}");
    assert_non_null(strstr(r.body, TEXT(" world!Hello", 0, "{\"tokens\":[\" world\",\"!\",\" Hello\",\"bytes:\\\\xe2\",\"bytes:\\\\x82\"],\"token_logprobs\":[null,-1.0,-0.25,-2.0,-9999.0],"
        "\"top_logprobs\":[null,{\" Hello\":-0.25,\"!\":-1.5},{\" Hello\":-0.25,\"!\":-1.5},{\"\u20ac\":-0.5,\"bytes:\\\\xe2\":-2.0},{\"bytes:\\\\x82\":-9999.0}],"
        "\"text_offset\":[0,6,7,13,14]}", "\"stop\"")));
    nm_free(r.all);
    expect_asked(1, "{\"echo_logprobs\":true,\"ids\":[260,261],\"max_tokens\":16,\"top_logprobs\":2}");
    r = post("/v1/completions", "{\"prompt\":[260,261],\"logprobs\":0,\"echo\":true,\"stream\":true}");
    assert_non_null(strstr(r.body, "data: " TEXT_HEAD TEXT(" world!", 0, "{\"tokens\":[\" world\",\"!\"],\"token_logprobs\":[null,-1.0],\"top_logprobs\":null,\"text_offset\":[0,6]}", "null") "]}\n\n"));
    nm_free(r.all);
}

/* ---- Embeddings -------------------------------------------------------------------------------------------------- */

#define VECTOR(index, first) "{\"object\":\"embedding\",\"index\":" #index ",\"embedding\":[" #first ",0.5,0.25,0.125]}"
#define VECTORS(list, model) "{\"object\":\"list\",\"data\":[" list "],\"model\":\"" model "\",\"usage\":{\"prompt_tokens\":10,\"total_tokens\":10}}"

static void test_embeddings(void **state)
{
    fake_reset();
    fake.script = (fake_script){.prompt_tokens = 10, .n_embd = 4};
    expect(post("/v1/embeddings", "{\"model\":\"m\",\"input\":[\"a\",\"b\"],\"dimensions\":4}"), 200, VECTORS(VECTOR(0, 1.0) "," VECTOR(1, 2.0), "m"));
    expect_asked(0, "{\"cut\":false,\"model\":\"m\",\"texts\":[\"a\",\"b\"]}");
    expect(post("/embeddings", "{\"input\":\"a\",\"encoding_format\":\"base64\"}"), 200,
           VECTORS("{\"object\":\"embedding\",\"index\":0,\"embedding\":\"AACAPwAAAD8AAIA+AAAAPg==\"}", "fake"));
    expect(post("/v1/embeddings", "{\"input\":[[260,261],[261]]}"), 200, VECTORS(VECTOR(0, 1.0) "," VECTOR(1, 2.0), "fake"));
    expect_asked(2, "{\"cut\":false,\"model\":\"fake\",\"texts\":[\"world!\",\"!\"]}");
    expect_error(post("/v1/embeddings", "{\"input\":\"a\",\"dimensions\":3}"), 400, "invalid_request_error", NULL, "dimensions", "have 4");
}

/* ---- Responses --------------------------------------------------------------------------------------------------- */

static const fake_step turn_steps[] = {
    {.kind = NM_PIECE_REASONING, .text = "hm"}, {.text = "He"}, {.text = "y"}, {.kind = NM_PIECE_CALL, .id = "call_a", .name = "f"}, {.kind = NM_PIECE_ARGUMENTS, .text = "{\"x\":1}"},
};
#define REASONING_ITEM "{\"id\":\"rs_#\",\"type\":\"reasoning\",\"status\":\"completed\",\"summary\":[],\"content\":[{\"type\":\"reasoning_text\",\"text\":\"hm\"}]}"
#define MESSAGE_PART "{\"type\":\"output_text\",\"text\":\"Hey\",\"annotations\":[],\"logprobs\":[]}"
#define MESSAGE_ITEM "{\"id\":\"msg_#\",\"type\":\"message\",\"status\":\"completed\",\"role\":\"assistant\",\"content\":[" MESSAGE_PART "]}"
#define CALL_ITEM "{\"id\":\"fc_#\",\"type\":\"function_call\",\"status\":\"completed\",\"call_id\":\"call_a\",\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"}"
#define RESPONSE(status, completed, details, output, instructions, most, previous, usage) "{\"id\":\"resp_#\",\"object\":\"response\",\"created_at\":0,\"status\":\"" status "\"," completed \
    "\"error\":null,\"incomplete_details\":" details ",\"model\":\"fake\",\"output\":[" output "],\"instructions\":" instructions ",\"max_output_tokens\":" most "," \
    "\"max_tool_calls\":null,\"metadata\":{},\"parallel_tool_calls\":true,\"previous_response_id\":" previous ",\"reasoning\":{\"effort\":null,\"summary\":null},\"temperature\":null," \
    "\"text\":{\"format\":{\"type\":\"text\"}},\"tool_choice\":\"auto\",\"tools\":[],\"top_logprobs\":0,\"top_p\":null,\"user\":null,\"background\":false,\"store\":true," \
    "\"service_tier\":\"default\",\"truncation\":\"disabled\",\"usage\":" usage "}"
#define RESPONSE_USAGE "{\"input_tokens\":10,\"input_tokens_details\":{\"cached_tokens\":2,\"cache_write_tokens\":0},\"output_tokens\":4,\"output_tokens_details\":" \
    "{\"reasoning_tokens\":1},\"total_tokens\":14}"
#define EVENT(type, number, rest) "event: " type "\ndata: {\"type\":\"" type "\",\"sequence_number\":" #number "," rest "}\n\n"

static void test_responses(void **state)
{
    fake_reset();
    fake.script = SCRIPT(turn_steps);
    fake.script.reasoning_tokens = 1;
    expect(post("/v1/responses", "{\"input\":\"q\",\"instructions\":\"be\",\"max_output_tokens\":5}"), 200,
           RESPONSE("completed", "\"completed_at\":0,", "null", REASONING_ITEM "," MESSAGE_ITEM "," CALL_ITEM, "\"be\"", "5", "null", RESPONSE_USAGE));
    expect_asked(0, "{\"max_tokens\":5,\"messages\":[{\"content\":\"be\",\"role\":\"system\"},{\"content\":\"q\",\"role\":\"user\"}]}");
    fake.script = (fake_script){.finish = NM_FINISH_LENGTH, .prompt_tokens = 10, .cached_tokens = 2, .tokens = 4, .reasoning_tokens = 1};
    expect(post("/responses", "{\"input\":\"q\"}"), 200, RESPONSE("incomplete", "", "{\"reason\":\"max_output_tokens\"}",
           "{\"id\":\"msg_#\",\"type\":\"message\",\"status\":\"incomplete\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[],\"logprobs\":[]}]}",
           "null", "null", "null", RESPONSE_USAGE));
}

static void test_responses_stream(void **state)
{
    fake_reset();
    fake.script = SCRIPT(turn_steps);
    fake.script.reasoning_tokens = 1;
#define UNDER_WAY RESPONSE("in_progress", "", "null", "", "null", "null", "null", "null")
    expect(post("/v1/responses", "{\"input\":\"q\",\"stream\":true}"), 200,
        EVENT("response.created", 0, "\"response\":" UNDER_WAY) EVENT("response.in_progress", 1, "\"response\":" UNDER_WAY)
        EVENT("response.output_item.added", 2, "\"output_index\":0,\"item\":{\"id\":\"rs_#\",\"type\":\"reasoning\",\"status\":\"in_progress\",\"summary\":[],\"content\":[]}")
        EVENT("response.content_part.added", 3, "\"item_id\":\"rs_#\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":\"reasoning_text\",\"text\":\"\"}")
        EVENT("response.reasoning_text.delta", 4, "\"item_id\":\"rs_#\",\"output_index\":0,\"content_index\":0,\"delta\":\"hm\"")
        EVENT("response.reasoning_text.done", 5, "\"item_id\":\"rs_#\",\"output_index\":0,\"content_index\":0,\"text\":\"hm\"")
        EVENT("response.content_part.done", 6, "\"item_id\":\"rs_#\",\"output_index\":0,\"content_index\":0,\"part\":{\"type\":\"reasoning_text\",\"text\":\"hm\"}")
        EVENT("response.output_item.done", 7, "\"output_index\":0,\"item\":" REASONING_ITEM)
        EVENT("response.output_item.added", 8, "\"output_index\":1,\"item\":{\"id\":\"msg_#\",\"type\":\"message\",\"status\":\"in_progress\",\"role\":\"assistant\",\"content\":[]}")
        EVENT("response.content_part.added", 9, "\"item_id\":\"msg_#\",\"output_index\":1,\"content_index\":0,\"part\":{\"type\":\"output_text\",\"text\":\"\",\"annotations\":[],\"logprobs\":[]}")
        EVENT("response.output_text.delta", 10, "\"item_id\":\"msg_#\",\"output_index\":1,\"content_index\":0,\"delta\":\"He\",\"logprobs\":[]")
        EVENT("response.output_text.delta", 11, "\"item_id\":\"msg_#\",\"output_index\":1,\"content_index\":0,\"delta\":\"y\",\"logprobs\":[]")
        EVENT("response.output_text.done", 12, "\"item_id\":\"msg_#\",\"output_index\":1,\"content_index\":0,\"text\":\"Hey\",\"logprobs\":[]")
        EVENT("response.content_part.done", 13, "\"item_id\":\"msg_#\",\"output_index\":1,\"content_index\":0,\"part\":" MESSAGE_PART)
        EVENT("response.output_item.done", 14, "\"output_index\":1,\"item\":" MESSAGE_ITEM)
        EVENT("response.output_item.added", 15, "\"output_index\":2,\"item\":{\"id\":\"fc_#\",\"type\":\"function_call\",\"status\":\"in_progress\",\"call_id\":\"call_a\",\"name\":\"f\","
              "\"arguments\":\"\"}")
        EVENT("response.function_call_arguments.delta", 16, "\"item_id\":\"fc_#\",\"output_index\":2,\"delta\":\"{\\\"x\\\":1}\"")
        EVENT("response.function_call_arguments.done", 17, "\"item_id\":\"fc_#\",\"output_index\":2,\"name\":\"f\",\"arguments\":\"{\\\"x\\\":1}\"")
        EVENT("response.output_item.done", 18, "\"output_index\":2,\"item\":" CALL_ITEM)
        EVENT("response.completed", 19, "\"response\":" RESPONSE("completed", "\"completed_at\":0,", "null", REASONING_ITEM "," MESSAGE_ITEM "," CALL_ITEM, "null", "null", "null",
              RESPONSE_USAGE)));
}

static void test_responses_input(void **state)
{
    fake_reset();
    nm_free(post("/v1/responses", "{\"instructions\":\"be\",\"input\":[{\"role\":\"developer\",\"content\":\"brief\"},{\"type\":\"message\",\"role\":\"user\",\"content\":[{\"type\":\"input_text\","
        "\"text\":\"a\"},{\"type\":\"input_text\",\"text\":\"b\"}]},{\"type\":\"reasoning\",\"id\":\"rs\",\"summary\":[],\"content\":[{\"type\":\"reasoning_text\",\"text\":\"hm\"}]},"
        "{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"c\",\"annotations\":[]}]},{\"type\":\"function_call\",\"call_id\":\"k1\",\"name\":\"f\","
        "\"arguments\":\"{\\\"x\\\":1}\"},{\"type\":\"function_call\",\"call_id\":\"k2\",\"name\":\"f\",\"arguments\":\"\"},{\"type\":\"function_call_output\",\"call_id\":\"k1\",\"output\":\"1\"},"
        "{\"type\":\"function_call_output\",\"call_id\":\"k2\",\"output\":[{\"type\":\"input_text\",\"text\":\"2\"}]}],\"tools\":[{\"type\":\"function\",\"name\":\"f\",\"parameters\":{},"
        "\"strict\":true}],\"tool_choice\":{\"type\":\"function\",\"name\":\"f\"},\"parallel_tool_calls\":false,\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"s\","
        "\"schema\":{\"type\":\"string\"}}},\"reasoning\":{\"effort\":\"low\"},\"top_logprobs\":2,\"temperature\":0}").all);
    expect_asked(0, "{\"effort\":\"low\",\"messages\":[{\"content\":\"be\\n\\nbrief\",\"role\":\"system\"},{\"content\":\"a\\nb\",\"role\":\"user\"},{\"content\":\"c\",\"reasoning_content\":\"hm\","
        "\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":{\"x\":1},\"name\":\"f\"},\"id\":\"k1\",\"type\":\"function\"},{\"function\":{\"arguments\":{},\"name\":\"f\"},"
        "\"id\":\"k2\",\"type\":\"function\"}]},{\"content\":\"1\",\"role\":\"tool\",\"tool_call_id\":\"k1\"},{\"content\":\"2\",\"role\":\"tool\",\"tool_call_id\":\"k2\"}],\"one_call\":true,"
        "\"schema\":{\"type\":\"string\"},\"temperature\":0.0,\"think\":1,\"tool_choice\":{\"function\":{\"name\":\"f\"},\"type\":\"function\"},"
        "\"tools\":[{\"function\":{\"name\":\"f\",\"parameters\":{},\"strict\":true},\"type\":\"function\"}],\"top_logprobs\":2}");
}

/* What agents give: tools of servers in a namespace, and tools of others that models can do without. */
static void test_responses_namespace(void **state)
{
    static const fake_step steps[] = {{.kind = NM_PIECE_CALL, .id = "call_a", .name = "mcp__files__read"}, {.kind = NM_PIECE_ARGUMENTS, .text = "{}"}};
#define READ "{\"type\":\"function_call\",\"call_id\":\"call_a\",\"name\":\"read\",\"namespace\":\"mcp__files__\",\"arguments\":\"{}\"}"
#define SPACES "\"tools\":[{\"type\":\"web_search\",\"external_web_access\":false},{\"type\":\"custom\",\"name\":\"patch\"},{\"type\":\"namespace\",\"name\":\"mcp__files__\"," \
    "\"tools\":[{\"type\":\"function\",\"name\":\"read\",\"parameters\":{}},{\"type\":\"custom\",\"name\":\"c\"}]},{\"type\":\"namespace\",\"name\":\"web\"," \
    "\"tools\":[{\"type\":\"function\",\"name\":\"get\"}]}]"
    fake_reset();
    fake.script = SCRIPT(steps);
    reply r = post("/v1/responses", "{\"stream\":true,\"input\":[{\"role\":\"user\",\"content\":\"q\"}," READ ",{\"type\":\"function_call_output\",\"call_id\":\"call_a\",\"output\":\"1\"}]," SPACES "}");
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.body, "\"call_id\":\"call_a\",\"name\":\"read\",\"namespace\":\"mcp__files__\",\"arguments\":\"\"}"));
    assert_non_null(strstr(r.body, "\"output_index\":0,\"name\":\"read\",\"namespace\":\"mcp__files__\",\"arguments\":\"{}\"}"));
    assert_non_null(strstr(r.body, "\"output\":[{\"id\":\"fc_"));
    nm_free(r.all);
    expect_asked(0, "{\"messages\":[{\"content\":\"q\",\"role\":\"user\"},{\"content\":null,\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"arguments\":{},\"name\":\"mcp__files__read\"},"
        "\"id\":\"call_a\",\"type\":\"function\"}]},{\"content\":\"1\",\"role\":\"tool\",\"tool_call_id\":\"call_a\"}],\"tools\":[{\"function\":{\"name\":\"mcp__files__read\",\"parameters\":{}},"
        "\"type\":\"function\"},{\"function\":{\"name\":\"web__get\"},\"type\":\"function\"}]}");
    expect_error(post("/v1/responses", "{\"input\":\"q\",\"tools\":[{\"type\":\"file_search\"}]}"), 400, "invalid_request_error", NULL, "tools[0]", "file_search");
}

static void test_responses_logprobs(void **state)
{
    fake_reset();
    fake.script = SCRIPT(probable);
    reply r = post("/v1/responses", "{\"input\":\"q\",\"include\":[\"message.output_text.logprobs\"],\"stream\":true}");
    assert_non_null(strstr(r.body, "\"delta\":\"Hello\",\"logprobs\":[" LOG_HELLO "]}"));
    assert_non_null(strstr(r.body, "\"text\":\"Hello\",\"logprobs\":[" LOG_HELLO "," LOG_EURO "]}"));
    nm_free(r.all);
}

/* The id of a response that was answered whole. */
static void make_response(char id[64], const char *body)
{
    int fd = dial();
    say(fd, "POST", "/v1/responses", body);
    reply r = listen_to(fd);
    json_t *v = json_loads(r.body, 0, NULL);
    assert_int_equal(r.status, 200);
    snprintf(id, 64, "%s", json_string_value(json_object_get(v, "id")));
    json_decref(v);
    nm_free(r.all);
    assert_true(fake_idle());
}

static void test_responses_store(void **state)
{
    char id[64], path[128], body[256];
    fake_reset();
    nm_openai_store_clear();
    fake.script = SCRIPT(turn_steps);
    fake.script.reasoning_tokens = 1;
    make_response(id, "{\"input\":\"q\",\"instructions\":\"be\"}");
    snprintf(path, sizeof path, "/v1/responses/%s", id);
    expect(ask("GET", path, NULL), 200, RESPONSE("completed", "\"completed_at\":0,", "null", REASONING_ITEM "," MESSAGE_ITEM "," CALL_ITEM, "\"be\"", "null", "null", RESPONSE_USAGE));
    snprintf(body, sizeof body, "{\"previous_response_id\":\"%s\",\"input\":[{\"type\":\"function_call_output\",\"call_id\":\"call_a\",\"output\":\"7\"}],\"store\":false}", id);
    char second[64];
    make_response(second, body);
    expect_asked(1, "{\"messages\":[{\"content\":\"q\",\"role\":\"user\"},{\"content\":\"Hey\",\"reasoning_content\":\"hm\",\"role\":\"assistant\",\"tool_calls\":[{\"function\":"
                    "{\"arguments\":{\"x\":1},\"name\":\"f\"},\"id\":\"call_a\",\"type\":\"function\"}]},{\"content\":\"7\",\"role\":\"tool\",\"tool_call_id\":\"call_a\"}]}");
    snprintf(path, sizeof path, "/v1/responses/%s", second);
    expect_error(ask("GET", path, NULL), 404, "invalid_request_error", "not_found", "response_id", "no response");
    snprintf(path, sizeof path, "/v1/responses/%s", id);
    expect(ask("DELETE", path, NULL), 200, "{\"id\":\"resp_#\",\"object\":\"response\",\"deleted\":true}");
    expect_error(ask("DELETE", path, NULL), 404, "invalid_request_error", "not_found", "response_id", "no response");
    expect_error(post("/v1/responses", body), 404, "invalid_request_error", "previous_response_not_found", "previous_response_id", "resp_# is not known");
}

static void test_store_bound(void **state)
{
    json_t *messages = json_array();
    char id[32];
    nm_openai_store_clear();
    for (int i = 0; i < 600; i++) {
        snprintf(id, sizeof id, "r%d", i);
        assert_int_equal(nm_openai_store_put(id, messages, "{}", 2), NM_OK);
    }
    assert_false(nm_openai_store_get("r87", NULL, NULL, NULL));
    assert_true(nm_openai_store_get("r88", NULL, NULL, NULL));
    size_t large = 40 << 20;
    char *text = calloc(1, large * 2);
    nm_openai_store_put("a", messages, text, large);
    assert_true(nm_openai_store_get("r599", NULL, NULL, NULL));
    nm_openai_store_put("b", messages, text, large);
    assert_false(nm_openai_store_get("a", NULL, NULL, NULL));
    assert_true(nm_openai_store_get("b", NULL, NULL, NULL));
    nm_openai_store_put("c", messages, text, large * 2);
    assert_false(nm_openai_store_get("c", NULL, NULL, NULL));
    assert_true(nm_openai_store_get("b", NULL, NULL, NULL));
    free(text);
    json_decref(messages);
    nm_openai_store_clear();
}

/* ---- Many at once, and memory ------------------------------------------------------------------------------------ */

/* Clients that leave at every moment of a request, many of them: nothing hangs, and nothing is left. */
static void test_leaving_storm(void **state)
{
    static const fake_step steps[] = {{.text = "a"}, {.text = "b"}, {.text = "c"}};
    static const char *const bodies[][2] = {{CHAT, "{\"stream\":true," HI "}"}, {"/v1/completions", "{\"prompt\":[\"a\",\"b\",\"c\"],\"stream\":true}"},
                                            {"/v1/responses", "{\"input\":\"a\",\"stream\":true,\"store\":false}"}, {"/v1/embeddings", "{\"input\":[5]}"}};
    fake_reset();
    fake.script = SCRIPT(steps);
    for (int i = 0; i < 200; i++) {
        int fd = dial();
        say(fd, "POST", bodies[i % 4][0], bodies[i % 4][1]);
        if (i % 3) usleep((useconds_t)(i * 7 % 400));
        close(fd);
    }
    assert_true(fake_idle());
    expect(post(CHAT, "{\"n\":1,\"model\":\"m\"," HI ",\"stream\":true}"), 200, CHUNK(0, "{\"role\":\"assistant\",\"content\":\"\"}", "null") CHUNK(0, "{\"content\":\"a\"}", "null")
           CHUNK(0, "{\"content\":\"b\"}", "null") CHUNK(0, "{\"content\":\"c\"}", "null") CHUNK(0, "{}", "\"stop\"") "data: [DONE]\n\n");
}

/* Each allocation fails in turn, from one on: what comes is an answer, an error, or an end; never a crash, a hang, or work that goes on. */
static void test_failing_memory(void **state)
{
    static const char *const bodies[][2] = {{CHAT, "{\"stream\":true," HI "," TOOLS "}"}, {CHAT, "{" HI ",\"logprobs\":true,\"stop\":\"x\",\"logit_bias\":{\"1\":1}}"},
        {"/v1/completions", "{\"prompt\":[[5],[6]],\"echo\":true,\"logprobs\":1}"}, {"/v1/completions", "{\"prompt\":\"a\",\"stream\":true}"},
        {"/v1/responses", "{\"input\":\"a\",\"stream\":true}"}, {"/v1/responses", "{\"input\":\"a\",\"instructions\":\"b\"}"}, {"/v1/embeddings", "{\"input\":[5,6]}"}};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        bool whole = false;
        for (int64_t k = 0; !whole && k < 2000; k++) {
            fake_reset();
            fake.script = i == 0 ? SCRIPT(calls) : i == 1 || i == 2 ? SCRIPT(probable) : SCRIPT(turn_steps);
            int fd = dial();
            usleep(200);        /* the connection itself is HTTP's own */
            nm_mem_fail_after(k);
            say(fd, "POST", bodies[i][0], bodies[i][1]);
            char part[65536] = "";
            size_t n = 0;
            for (ssize_t more; n < sizeof part - 1 && (more = recv(fd, part + n, sizeof part - 1 - n, 0)) > 0;) n += (size_t)more;
            close(fd);
            bool idle = fake_idle();
            nm_mem_fail_after(-1);
            if (!idle) fail_msg("%s with allocation %lld failing: the work goes on", bodies[i][0], (long long)k);
            whole = strstr(part, "HTTP/1.1 200") && !strstr(part, "\"error\":{");
            if (whole && strstr(bodies[i][1], "\"stream\"")) whole = strstr(part, "[DONE]") || strstr(part, "response.completed");
        }
        assert_true(whole);
    }
    nm_openai_store_clear();
}

static int begin(void **state)
{
    static const nm_route *const tables[] = {nm_routes_openai, NULL};
    nm_http_options options = {.host = "127.0.0.1", .routes = tables, .context = &server};
    fake_tokenizer();
    return nm_http_open(&http, &options) == NM_OK ? 0 : -1;
}

static int end(void **state)
{
    nm_http_close(&http);
    fake_reset();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_models), cmocka_unit_test(test_document), cmocka_unit_test(test_chat), cmocka_unit_test(test_chat_stream), cmocka_unit_test(test_chat_stream_usage),
        cmocka_unit_test(test_tools), cmocka_unit_test(test_allowed_tools), cmocka_unit_test(test_functions), cmocka_unit_test(test_logprobs), cmocka_unit_test(test_settings),
        cmocka_unit_test(test_messages), cmocka_unit_test(test_refusals), cmocka_unit_test(test_many_values), cmocka_unit_test(test_engine_errors), cmocka_unit_test(test_late_errors), cmocka_unit_test(test_gone),
        cmocka_unit_test(test_completions), cmocka_unit_test(test_many_prompts), cmocka_unit_test(test_echoes_are_bounded), cmocka_unit_test(test_one_prompt_fails), cmocka_unit_test(test_text_logprobs),
        cmocka_unit_test(test_embeddings), cmocka_unit_test(test_responses), cmocka_unit_test(test_responses_stream), cmocka_unit_test(test_responses_input),
        cmocka_unit_test(test_responses_namespace), cmocka_unit_test(test_responses_logprobs), cmocka_unit_test(test_responses_store), cmocka_unit_test(test_store_bound), cmocka_unit_test(test_leaving_storm), cmocka_unit_test(test_failing_memory),
    };
    return cmocka_run_group_tests_name("openai", tests, begin, end);
}
