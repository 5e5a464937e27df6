/* Chat templates: what jinja2 was recorded to say, real templates on real conversations, errors with their place, and hostile ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "format/json.h"
#include "nm_config.h"
#include "text/template.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

static const int64_t NOW = 1767323045;      /* 2026-01-02 03:04:05 UTC */

/* ---- Helpers ---------------------------------------------------------------------------------------------------------------------- */

static char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *bytes = malloc(16 << 20);
    *size = fread(bytes, 1, 16 << 20, f);
    fclose(f);
    return bytes;
}

static nm_json read_json(const char *path)
{
    size_t size = 0;
    nm_json j;
    char *bytes = read_file(path, &size);
    if (!bytes) fail_msg("cannot read %s", path);
    if (nm_json_parse(&j, bytes, size) != NM_OK) fail_msg("%s: %s", path, nm_error_text());
    free(bytes);
    return j;
}

static void write_json(nm_str *s, const nm_json *j)
{
    switch (j->kind) {
    case NM_JSON_NULL: nm_str_puts(s, "null"); break;
    case NM_JSON_BOOL: nm_str_puts(s, j->boolean ? "true" : "false"); break;
    case NM_JSON_INT: nm_str_printf(s, "%lld", (long long)j->integer); break;
    case NM_JSON_REAL: nm_str_printf(s, "%.17g", j->real); break;
    case NM_JSON_STRING: nm_str_json(s, j->string.bytes, j->string.length); break;
    case NM_JSON_ARRAY:
        nm_str_puts(s, "[");
        for (size_t i = 0; i < j->array.count; i++) {
            if (i) nm_str_puts(s, ",");
            write_json(s, &j->array.items[i]);
        }
        nm_str_puts(s, "]");
        break;
    case NM_JSON_OBJECT:
        nm_str_puts(s, "{");
        for (size_t i = 0; i < j->object.count; i++) {
            if (i) nm_str_puts(s, ",");
            nm_str_json(s, j->object.keys[i], strlen(j->object.keys[i]));
            nm_str_puts(s, ":");
            write_json(s, &j->object.values[i]);
        }
        nm_str_puts(s, "}");
        break;
    }
}

/* Opens, renders, closes; *text is NULL after a failure. Nothing may be left behind. */
static nm_err render(const char *source, size_t n, const char *name, const char *vars, size_t vars_n, const nm_template_options *options, char **text, size_t *length)
{
    nm_template *t = (nm_template *)1;
    int64_t alive = nm_mem_alive();
    nm_template_options fixed = {.now = NOW};
    *text = NULL;
    nm_err err = nm_template_open(&t, source, n, name);
    if (err == NM_OK) err = nm_template_render(t, vars, vars_n, options ? options : &fixed, text, length);
    else assert_null(t);
    nm_template_close(&t);
    if (err != NM_OK) assert_null(*text);
    assert_int_equal(nm_mem_alive(), alive + (*text != NULL));
    return err;
}

static void expect_text(const char *source, const char *vars, const char *expected)
{
    char *text;
    size_t length;
    if (render(source, strlen(source), "t", vars, strlen(vars), NULL, &text, &length) != NM_OK) fail_msg("%s: %s", source, nm_error_text());
    assert_string_equal(text, expected);
    nm_free(text);
}

static void expect_failure(const char *source, const char *vars, nm_err code, const char *message)
{
    char *text;
    size_t length;
    nm_err err = render(source, strlen(source), "name.jinja", vars, strlen(vars), NULL, &text, &length);
    if (err != code || !strstr(nm_error_text(), message))
        fail_msg("%.200s: expected %d \"%s\", got %d \"%s\"", source, code, message, err, nm_error_text());
    nm_free(text);
}

/* ---- Against jinja2 ------------------------------------------------------------------------------------------------------------------ */

/* tests/data lies beside this file; the path is as the compiler was given it. */
static const char *data_path(void)
{
    static char path[4096];
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*s/../data/template/cases.json", slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".");
    return path;
}

static bool agrees(const char *what, const char *source, size_t n, const char *vars, size_t vars_n, const nm_json *expected)
{
    char *text;
    size_t length;
    bool refuses = !expected || expected->kind != NM_JSON_STRING;
    nm_err err = render(source, n, "t", vars, vars_n, NULL, &text, &length);
    bool good = refuses ? err != NM_OK : err == NM_OK && length == expected->string.length && !memcmp(text, expected->string.bytes, length);
    if (!good) print_error("%s: expected %s\n got %s\n", what, refuses ? "a refusal" : expected->string.bytes, err == NM_OK ? text : nm_error_text());
    nm_free(text);
    return good;
}

static void test_recorded_cases(void **state)
{
    nm_json all = read_json(data_path());
    const nm_json *cases = nm_json_get(&all, "cases"), *vars = nm_json_get(&all, "vars");
    size_t bad = 0;
    (void)state;
    for (size_t i = 0; i < cases->array.count; i++) {
        const nm_json *pair = cases->array.items[i].array.items;
        bad += !agrees(pair[0].string.bytes, pair[0].string.bytes, pair[0].string.length, vars->string.bytes, vars->string.length, &pair[1]);
    }
    assert_true(cases->array.count > 1000);
    nm_json_free(&all);
    assert_int_equal(bad, 0);
}

static void real_vars(nm_str *vars, const nm_json *args)
{
    nm_str_puts(vars, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\",\"pad_token\":\"<pad>\",\"unk_token\":\"<unk>\"");
    if (!nm_json_get(args, "tools")) nm_str_puts(vars, ",\"tools\":null");
    if (!nm_json_get(args, "documents")) nm_str_puts(vars, ",\"documents\":null");
    nm_str_puts(vars, ",");
    nm_str text = {0};
    write_json(&text, args);
    nm_str_puts(vars, text.data + 1);
    nm_str_free(&text);
}

static size_t real_template(const char *folder, const char *name, const nm_json *cases, const nm_json *expected)
{
    char path[4096], what[256];
    size_t n = 0, bad = 0;
    snprintf(path, sizeof path, "%s/templates/%s.jinja", folder, name);
    char *source = read_file(path, &n);
    assert_non_null(source);
    for (size_t i = 0; i < cases->array.count; i++) {
        const nm_json *c = &cases->array.items[i];
        const char *case_name = nm_json_get(c, "name")->string.bytes;
        nm_str vars = {0};
        real_vars(&vars, nm_json_get(c, "args"));
        snprintf(what, sizeof what, "%s, %s", name, case_name);
        bad += !agrees(what, source, n, vars.data, vars.length, nm_json_get(nm_json_get(expected, case_name), "text"));
        nm_str_free(&vars);
    }
    free(source);
    return bad;
}

static void test_real_templates(void **state)
{
    const char *folder = getenv("NOMOAT_TEST_DATA");
    char path[4096];
    size_t bad = 0;
    (void)state;
    if (!folder) {
        print_message("skipped: 40 real templates (NOMOAT_TEST_DATA is not set)\n");
        skip();
    }
    snprintf(path, sizeof path, "%s/templates/cases.json", folder);
    nm_json cases = read_json(path);
    snprintf(path, sizeof path, "%s/templates/expected.json", folder);
    nm_json expected = read_json(path);
    for (size_t i = 0; i < expected.object.count; i++) bad += real_template(folder, expected.object.keys[i], &cases, &expected.object.values[i]);
    nm_json_free(&cases);
    nm_json_free(&expected);
    assert_int_equal(bad, 0);
}

/* ---- Errors --------------------------------------------------------------------------------------------------------------------------- */

static void test_errors_name_template_and_line(void **state)
{
    (void)state;
    expect_failure("a\n{{ raise_exception('no ' ~ x) }}", "{\"x\": 1}", NM_REFUSED, "name.jinja: line 2: the template refuses: no 1");
    expect_failure("a\n\n{{ x.y }}", "{}", NM_FAILED, "name.jinja: line 3: 'x' is undefined");
    expect_failure("{% for i in [1] %}\n{{ 1 +\n 'a' }}{% endfor %}", "{}", NM_FAILED, "name.jinja: line 2: unsupported operand");
    expect_failure("{% macro m() %}\n{{ 1 / 0 }}{% endmacro %}\n\n{{ m() }}", "{}", NM_FAILED, "name.jinja: line 2: division by zero");
    expect_failure("a\n{% if x %}", "{}", NM_BAD_FILE, "name.jinja: line 2: unexpected end of template");
    expect_failure("a\nb\n{{ 1 1 }}", "{}", NM_BAD_FILE, "name.jinja: line 3: expected }}");
    expect_failure("{% include 'x' %}", "{}", NM_BAD_FILE, "'include' is not supported");
    expect_failure("{{ 1|nope }}", "{}", NM_BAD_FILE, "no filter named 'nope'");
    expect_failure("{% if 0 %}{{ 1|nope }}{% endif %}{% if 1 %}\n{{ 1|nope }}{% endif %}", "{}", NM_FAILED, "line 2: no filter named 'nope'");
    expect_failure("a\n\xff", "{}", NM_BAD_FILE, "line 2: invalid UTF-8 at byte 2");
    expect_failure("{{ 9223372036854775808 }}", "{}", NM_BAD_FILE, "64 bits");
    expect_failure("{{ 9223372036854775807 + 1 }}", "{}", NM_FAILED, "64 bits");
    expect_failure("{{ x }}", "[]", NM_USAGE, "one object");
    expect_failure("{{ x }}", "{", NM_USAGE, "line 1");
    expect_failure("{{ x.__class__.__mro__ }}", "{\"x\": \"\"}", NM_FAILED, "unsafe");
    expect_failure("{{ x.append(1) }}", "{\"x\": []}", NM_FAILED, "unsafe");
}

static void test_options(void **state)
{
    nm_template_options few = {.max_steps = 1000}, small = {.max_output = 10}, clock = {.now = INT64_MIN};
    char *text;
    size_t n;
    (void)state;
    static const char loop[] = "{% for i in range(1000) %}x{% endfor %}", now[] = "{{ strftime_now('%Y') }}";
    assert_int_equal(render(loop, strlen(loop), "t", "{}", 2, &few, &text, &n), NM_FAILED);
    assert_non_null(strstr(nm_error_text(), "steps"));
    assert_int_equal(render(loop, strlen(loop), "t", "{}", 2, &small, &text, &n), NM_FAILED);
    assert_non_null(strstr(nm_error_text(), "output is larger than 10 bytes"));
    assert_int_equal(render(now, strlen(now), "t", "{}", 2, &clock, &text, &n), NM_OK);
    assert_true(n == 4 && strcmp(text, "2024") > 0);
    nm_free(text);
    assert_int_equal(render("x", 1, NULL, "{}", 2, NULL, &text, &n), NM_OK);
    nm_free(text);
    expect_text("a{{ x }}b", "{\"x\": \"<\\u0000>\"}", "a<");
    expect_text("", "{}", "");
}

/* ---- Bounds ----------------------------------------------------------------------------------------------------------------------------- */

/* unit written `times` times between before and after */
static void expect_bounded(const char *before, const char *unit, size_t times, const char *after)
{
    nm_str s = {0};
    char *text;
    size_t length;
    nm_str_puts(&s, before);
    for (size_t i = 0; i < times; i++) nm_str_puts(&s, unit);
    nm_str_puts(&s, after);
    nm_err err = render(s.data, s.length, "deep", "{}", 2, NULL, &text, &length);
    nm_free(text);
    nm_str_free(&s);
    if (err == NM_OK) return;
    if ((err != NM_BAD_FILE && err != NM_FAILED) || strncmp(nm_error_text(), "deep: line ", 11)) fail_msg("%s x %zu: %d %s", unit, times, err, nm_error_text());
}

static void test_deep_and_long_sources(void **state)
{
    static const char *const parts[][3] = {
        {"{{ ", "(", ""}, {"{{ ", "(", "1 }}"}, {"{{ ", "[", ""}, {"{{ ", "{1:", ""}, {"{{ ", "not ", "1 }}"}, {"{{ ", "-", "1 }}"}, {"{{ 1", "+1", " }}"}, {"{{ 1", "~1", " }}"},
        {"{{ 1", "<1", " }}"}, {"{{ 1", "**1", " }}"}, {"{{ x", ".x", " }}"}, {"{{ x", "[0]", " }}"}, {"{{ x", "()", " }}"}, {"{{ x", "|e", " }}"}, {"{{ 1", " if 1 else 1", " }}"},
        {"{{ 1", " and 1", " }}"}, {"{{ 1", " or 1", " }}"}, {"{{ 1", " is odd", " }}"}, {"{{ f(", "f(", ""}, {"{{ ", "1,", " }}"}, {"{{ [", "1,", "] }}"},
        {"", "{% if 1 %}", ""}, {"", "{% for i in x %}", ""}, {"", "{% macro m() %}", ""}, {"", "{% set x %}", ""}, {"", "{% filter e %}", ""}, {"", "{% with %}", ""},
        {"", "{% call x() %}", ""}, {"", "{% generation %}", ""}, {"{% if 1 %}", "{% elif 1 %}", "{% endif %}"}, {"", "{{ x }}", ""}, {"", "{# #}", ""}, {"", "{% raw %}", ""},
        {"", "{% set a = 1 %}", ""}, {"", "{% if x %}{% set a = 1 %}{% endif %}", ""}, {"", "{", ""}, {"", "{%", ""}, {"{{ '", "\\", "' }}"}, {"{{ ", "'a' ", "}}"}, {"{% set (", "(", "a"},
        {"{{ 1", " if 1", " }}"}, {"{% for ", "a,", " in x %}{% endfor %}"}, {"{% macro m(", "a,", ") %}{% endmacro %}"}, {"{{ x(", "a=1,", ") }}"}, {"{{ x[", ":", "] }}"}
    };
    (void)state;
    for (size_t i = 0; i < COUNT(parts); i++) {
        expect_bounded(parts[i][0], parts[i][1], 100, parts[i][2]);
        expect_bounded(parts[i][0], parts[i][1], 100000, parts[i][2]);
    }
    expect_bounded("", "0123456789abcdef", 300000, "");      /* larger than a template may be */
}

static void test_many_names(void **state)
{
    nm_str s = {0};
    char *text;
    size_t length;
    (void)state;
    for (int i = 0; i < 30000; i++) nm_str_printf(&s, "{%% if x%d %%}{%% set y%d = x%d %%}{%% endif %%}", i, i, i);
    assert_int_equal(render(s.data, s.length, "names", "{}", 2, NULL, &text, &length), NM_OK);
    nm_free(text);
    for (int i = 0; i < 30000; i++) nm_str_printf(&s, "{{ z%d }}", i);
    assert_int_equal(render(s.data, s.length, "names", "{}", 2, NULL, &text, &length), NM_BAD_FILE);
    nm_str_free(&s);
}

static void test_hostile_renderings(void **state)
{
    static const char *const sources[] = {
        "{{ 'a' * 10 ** 9 }}", "{{ [1] * 10 ** 12 }}", "{{ 'ab' * 9223372036854775807 }}", "{{ range(10 ** 12)|list }}", "{{ (1, 2) * 10 ** 9 }}",
        "{{ 'x'.center(10 ** 10) }}", "{{ 'x'.ljust(9223372036854775807) }}", "{{ 'x'.zfill(10 ** 12) }}", "{{ 'x'|center(10 ** 11) }}", "{{ 'a\\nb'|indent(10 ** 10) }}",
        "{{ '%1000000000d' % 1 }}", "{{ '%*d' % (10 ** 18, 1) }}", "{{ '%.999999999f' % 1.5 }}", "{{ '%.500f' % 1.5 }}", "{{ '%.400e' % 1.5 }}{{ 1/0 }}", "{{ '{:>99999999999}'.format(1) }}",
        "{{ '{:200000000}{:200000000}{:200000000}'.format(1, 2, 3) }}", "{{ '{:010000000000d}'.format(1) }}", "{{ [1]|tojson(indent=10 ** 12) }}", "{{ '\t'.expandtabs(10 ** 12) }}",
        "{{ [1]|batch(10 ** 12, 0)|list }}", "{{ [1]|slice(10 ** 9)|list }}", "{{ 'a b'|wordwrap(1, wrapstring='x' * 10 ** 8)|length }}{{ 1/0 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro m(x) %}{{ caller(x) }}{% endmacro %}{% macro n(x) %}{% call(y) m(x) %}{{ n(y) }}{% endcall %}{% endmacro %}{{ n(1) }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "{% set ns = namespace() %}{% set ns.ns = ns %}{{ ns }}", "{% set ns = namespace() %}{% set ns.ns = [ns] %}{{ ns.ns }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace(x=[], y=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x < ns.y }}",
        "{% set ns = namespace(x=()) %}{% for i in range(100000) %}{% set ns.x = (ns.x,) %}{% endfor %}{{ {ns.x: 1} }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
        "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "{% set ns = namespace(x=['a']) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x.replace('a', 'aaaaaaaaaaaa') %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = ns.x|map('string') %}{% endfor %}{{ ns.x|list }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100000) %}{% set ns.x = ns.x|select %}{% endfor %}{% for i in ns.x %}{% endfor %}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}", "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'a' * 100000 }}{% endfor %}", "{% set x = 'a' * 1000000 %}{% for a in range(100000) %}{{ x.count('b') }}{{ x.upper()|length }}{% endfor %}",
        "{% set x = 'a' * 1000000 %}{% for a in range(100000) %}{{ x.strip('a') }}{% endfor %}", "{% set x = range(100000)|list %}{% for a in range(100000) %}{{ -1 in x }}{% endfor %}",
        "{% set x = 'a ' * 100000 %}{{ x.split() * 1000 }}", "{{ ('a' * 100000)|join('b' * 100000) }}", "{{ 'a' * 100000 ~ ('x' * 100000).replace('', 'y' * 100000) }}",
        "{{ '%s' * 100000 % (('a' * 1000000,) * 100000) }}", "{% set x = 'a' * 200000000 %}{% set y = x ~ 'b' %}{% set z = x ~ 'c' %}{{ z }}", "{{ [[1] * 1000] * 1000000 }}",
        "{% set ns = namespace() %}{% macro m() %}{% set ns.m = m %}{{ ns.m() }}{% endmacro %}{{ m() }}", "{{ cycler(*('a' * 10 ** 9)) }}", "{{ dict(**dict([('a', 1)] * 100000000)) }}"
    };
    nm_template_options options = {.now = NOW, .max_steps = 5000000};       /* the default of 100 million takes a second each */
    char *text;
    size_t length;
    (void)state;
    for (size_t i = 0; i < COUNT(sources); i++) {
        nm_err err = render(sources[i], strlen(sources[i]), "hostile", "{}", 2, i ? &options : NULL, &text, &length);
        if (err != NM_FAILED || strncmp(nm_error_text(), "hostile: line 1: ", 17)) fail_msg("%s: %d %s", sources[i], err, err == NM_OK ? "rendered" : nm_error_text());
    }
}

/* Text that grows by small pieces must not cost the square of its length. */
static void test_growing_text(void **state)
{
    static const char source[] = "{% set ns = namespace(s='', l=[]) %}{% for i in range(100000) %}{% set ns.s = ns.s ~ 'piece of text ' %}{% set ns.l = ns.l + [i] %}"
                                 "{% endfor %}{{ ns.s|length }} {{ ns.l|length }}";
    (void)state;
    expect_text(source, "{}", "1400000 100000");
    expect_text("{% set a = 'x' ~ 'y' %}{% set b = a ~ '1' %}{% set c = a ~ '2' %}{{ a }}{{ b }}{{ c }}{{ b }}", "{}", "xyxy1xy2xy1");
    expect_text("{% set a = [1] + [2] %}{% set b = a + [3] %}{% set c = a + [4] %}{{ a }}{{ b }}{{ c }}", "{}", "[1, 2][1, 2, 3][1, 2, 4]");
    expect_text("{% set a = 'x' ~ 'y' %}{{ a[:1] ~ 'z' }}{{ a }}", "{}", "xzxy");
}

static void test_each_allocation_fails(void **state)
{
    static const char source[] =
        "{% macro m(a, b=[1]) %}{{ a ~ b }}{{ caller() if caller else varargs }}{% endmacro %}{% set ns = namespace(x=1) %}"
        "{% for k, v in d|dictsort if v %}{{ loop.last }}{{ m(k, *[v]) }}{% call m(v) %}{{ k|upper }}{% endcall %}{% set ns.x = ns.x + 1 %}{% endfor %}"
        "{% set t %}{{ xs|sort|map('string')|join(', ') }}{% endset %}{{ t|indent }}{{ [d, xs, 1.5]|tojson(indent=2) }}{{ '%5.2f|%s' % (1.5, 'x') }}"
        "{{ '{:>{w}}'.format('a', w=9) }}{{ xs[::-1] }}{{ 'a,b'.split(',') }}{{ t.replace('1', 'one') }}{% filter title %}x y{% endfilter %}{{ xs|groupby(0) if 0 }}"
        "{% generation %}{{ strftime_now('%d %B') }}{% endgeneration %}{{ 'a' * 100000 }}";
    static const char vars[] = "{\"d\": {\"b\": 1, \"a\": [2, {\"c\": null}]}, \"xs\": [3, 1, 2]}";
    nm_template_options options = {.now = NOW};
    int64_t alive = nm_mem_alive();
    (void)state;
    for (int64_t n = 0;; n++) {
        nm_template *t;
        char *text = NULL;
        size_t length;
        nm_mem_fail_after(n);
        nm_err err = nm_template_open(&t, source, strlen(source), "t");
        if (err == NM_OK) err = nm_template_render(t, vars, strlen(vars), &options, &text, &length);
        nm_mem_fail_after(-1);
        nm_template_close(&t);
        nm_free(text);
        assert_int_equal(nm_mem_alive(), alive);
        if (err == NM_OK) break;
        assert_int_equal(err, NM_NO_MEMORY);
    }
}

/* ---- What generation blocks wrote ------------------------------------------------------------------------------------------------ */

static void test_generation_marks(void **state)
{
    static const char source[] = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'a' %}{% generation %}{{ m.content }}|{% endgeneration %}{% endif %}{% endfor %}";
    static const char vars[] = "{\"messages\": [{\"role\": \"u\", \"content\": \"q\"}, {\"role\": \"a\", \"content\": \"\u00e9\"}, {\"role\": \"a\", \"content\": \"z\"}]}";
    nm_template *t;
    nm_json j;
    nm_rendered r;
    (void)state;
    assert_int_equal(nm_template_open(&t, source, sizeof source - 1, "t"), NM_OK);
    assert_true(nm_template_marks(t));
    assert_int_equal(nm_json_parse(&j, vars, sizeof vars - 1), NM_OK);
    assert_int_equal(nm_template_render_tree(t, &j, NULL, &r), NM_OK);
    assert_string_equal(r.text, "<u><a>\xc3\xa9|<a>z|");
    assert_int_equal(r.n_marks, 2);
    assert_true(r.marks[0].from == 6 && r.marks[0].to == 9 && r.marks[1].from == 12 && r.marks[1].to == 14);
    assert_false(r.mark_lost);
    nm_rendered_free(&r);
    nm_template_close(&t);

    static const char hidden[] = "{% set x %}{% generation %}a{% endgeneration %}{% endset %}{{ x }}";
    assert_int_equal(nm_template_open(&t, hidden, sizeof hidden - 1, "t"), NM_OK);
    assert_int_equal(nm_template_render_tree(t, &j, NULL, &r), NM_OK);
    assert_string_equal(r.text, "a");
    assert_true(r.mark_lost && !r.n_marks);
    nm_rendered_free(&r);
    nm_template_close(&t);
    nm_json_free(&j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_recorded_cases), cmocka_unit_test(test_real_templates), cmocka_unit_test(test_errors_name_template_and_line), cmocka_unit_test(test_options),
        cmocka_unit_test(test_deep_and_long_sources), cmocka_unit_test(test_many_names), cmocka_unit_test(test_hostile_renderings), cmocka_unit_test(test_growing_text),
        cmocka_unit_test(test_generation_marks), cmocka_unit_test(test_each_allocation_fails)
    };
    if (!NM_HAVE_JANSSON) return 0;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
