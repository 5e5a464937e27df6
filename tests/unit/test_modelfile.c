/* Modelfiles and personas: what is read, what is refused and on which line, that what is written is read back, the store, failing memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "hub/hub.h"
#include "hub/personas.h"
#include "os/file.h"

static char root[] = "/tmp/nomoat-test-XXXXXX";

static int set_up(void **state)
{
    (void)state;
    if (!mkdtemp(root) || chdir(root)) return -1;
    setenv("HOME", root, 1);
    unsetenv("XDG_DATA_HOME");
    unsetenv("HF_HOME");
    unsetenv("HF_HUB_CACHE");
    unsetenv("XDG_CACHE_HOME");
    return nm_file_write("model.gguf", "abc", 3) == NM_OK && nm_file_write("style", "def", 3) == NM_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[256];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return chdir("/") || system(command);
}

static nm_modelfile parse(const char *text)
{
    nm_modelfile m;
    if (nm_modelfile_parse(&m, text, strlen(text), "M") != NM_OK) fail_msg("%s: %s", text, nm_error_text());
    return m;
}

static void refuse(const char *text, size_t length, const char *expected)
{
    nm_modelfile m;
    int64_t alive = nm_mem_alive();
    nm_err err = nm_modelfile_parse(&m, text, length, "M");
    if (err != NM_BAD_FILE || !strstr(nm_error_text(), expected)) fail_msg("%.60s: expected \"%s\", got %d \"%s\"", text, expected, err, nm_error_text());
    assert_int_equal(nm_mem_alive(), alive);
}

static const char whole[] =
    "\xef\xbb\xbf# a comment\n\n  from  smollm2+style=0.5  \r\n"
    "Adapter ./style\nADAPTER other=0.8\n"
    "PARAMETER temperature 0.25\nparameter TOP_K 7\nPARAMETER top_p 1\nPARAMETER min_p 0\nPARAMETER typical_p .5\nPARAMETER repeat_penalty 1.1\nPARAMETER repeat_last_n -1\n"
    "PARAMETER presence_penalty -1\nPARAMETER frequency_penalty 1e-1\nPARAMETER seed 18446744073709551615\nPARAMETER num_ctx 2048\nPARAMETER num_predict -2\n"
    "PARAMETER stop \"# no comment\"\nPARAMETER stop <|im_end|>\nPARAMETER num_gpu 1\n"
    "LICENSE \"\"\"\nFROM nothing\n\"\"\"\n"
    "SYSTEM first\nSYSTEM \"\"\"\nSecond, with \"quotes\"\nand # lines.\n\"\"\"   \n"
    "TEMPLATE {{ messages[0].content }}\n"
    "MESSAGE user Hello\nMESSAGE ASSISTANT \"Good\nday\"\n#end";

static void check_whole(const nm_modelfile *m)
{
    assert_string_equal(m->from.text, "smollm2+style=0.5");
    assert_int_equal(m->adapters, 2);
    assert_string_equal(m->adapter[0].text, "./style");
    assert_string_equal(m->adapter[1].text, "other=0.8");
    assert_true(m->temperature == 0.25 && m->top_p == 1 && m->min_p == 0 && m->typical == 0.5 && m->repeat_penalty == 1.1 && m->presence_penalty == -1);
    assert_true(m->frequency_penalty == 0.1 && m->seeded && m->seed == UINT64_MAX);
    assert_true(m->top_k == 7 && m->repeat_last == -1 && m->context == 2048 && m->predict == -2);
    assert_int_equal(m->stops, 2);
    assert_string_equal(m->stop[0], "# no comment");
    assert_string_equal(m->stop[1], "<|im_end|>");
    assert_string_equal(m->system, "\nSecond, with \"quotes\"\nand # lines.\n");
    assert_string_equal(m->tmpl, "{{ messages[0].content }}");
    assert_int_equal(m->messages, 2);
    assert_string_equal(m->message[0].role, "user");
    assert_string_equal(m->message[0].content, "Hello");
    assert_string_equal(m->message[1].role, "assistant");
    assert_string_equal(m->message[1].content, "Good\nday");
    assert_false(m->foreign);
}

static void test_whole(void **state)
{
    nm_str s = {0};
    nm_modelfile m = parse(whole), again;
    (void)state;
    check_whole(&m);
    assert_memory_equal(whole + m.from.at, "smollm2+style=0.5", m.from.length);
    assert_memory_equal(whole + m.adapter[1].at, "other=0.8", m.adapter[1].length);
    assert_int_equal(nm_modelfile_write(&s, &m), NM_OK);
    again = parse(s.data);
    check_whole(&again);
    nm_modelfile_free(&again);
    nm_modelfile_free(&m);
    nm_modelfile_free(&m);
    nm_str_free(&s);
}

static void test_little(void **state)
{
    nm_modelfile m = parse("FROM a");
    (void)state;
    assert_true(isnan(m.temperature) && m.top_k == NM_MODELFILE_INT && !m.seeded && !m.system && !m.tmpl && !m.stops && !m.messages && !m.adapters);
    nm_modelfile_free(&m);
    m = parse("FROM a\nSYSTEM\nPARAMETER seed -1\nTEMPLATE \"\"\n");
    assert_string_equal(m.system, "");
    assert_true(!m.seeded && !m.tmpl);
    nm_modelfile_free(&m);
    m = parse("FROM a\nTEMPLATE \"\"\"{{- range .Messages }}{{ .Content }}{{ end }}\"\"\"\n");
    assert_true(m.foreign && !m.tmpl);
    nm_modelfile_free(&m);
    m = parse("FROM a\nTEMPLATE \"{% for m in messages %}{{m.content}}{% endfor %}\"\n");
    assert_true(!m.foreign && m.tmpl);
    nm_modelfile_free(&m);
}

static void test_refusals(void **state)
{
    static const struct { const char *text, *expected; } cases[] = {
        {"", "M: it has no FROM"}, {"# only this", "no FROM"}, {"FROM", "M:1: FROM needs a value"}, {"FROM a\n\nFROM b", "M:3: a second FROM"},
        {"FROM a\nFRMO b", "M:2: 'FRMO' is no instruction"}, {"FROM a\nSYSTEM one\ntwo", "M:3: 'two' is no instruction"},
        {"FROM a\nSYSTEM \"\"\"one\ntwo\n", "M:2: the quotes that open here are never closed"}, {"FROM a\nSYSTEM \"one", "M:2: the quotes"},
        {"FROM a\nPARAMETER mirostat 1", "M:2: there is no PARAMETER mirostat"}, {"FROM a\nPARAMETER top_k", "M:2: PARAMETER needs a value"},
        {"FROM a\nPARAMETER top_k 1.5", "M:2: PARAMETER top_k is '1.5': give a whole number"}, {"FROM a\nPARAMETER top_k 3000000000", "from -1 to"},
        {"FROM a\nPARAMETER top_p 1.5", "from 0 to 1"}, {"FROM a\nPARAMETER temperature nan", "'nan'"}, {"FROM a\nPARAMETER temperature 0x1", "'0x1'"},
        {"FROM a\nPARAMETER seed 18446744073709551616", "seed is"}, {"FROM a\nPARAMETER seed --1", "seed is"}, {"FROM a\nPARAMETER seed 1x", "seed is"},
        {"FROM a\nPARAMETER stop \"\"", "needs a value"}, {"FROM a\nMESSAGE tool x", "M:2: MESSAGE 'tool'"}, {"FROM a\nMESSAGE user", "MESSAGE needs"},
        {"FROM a\nTEMPLATE chatml", "M:2: TEMPLATE is a Jinja"}, {"FROM a\nADAPTER \"\"", "ADAPTER needs"}, {"FROM a\n\xff", "M:2: no text in UTF-8"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refuse(cases[i].text, strlen(cases[i].text), cases[i].expected);
    refuse("FROM a\0b", 8, "M:1: no text in UTF-8");
    char *large = nm_malloc(NM_MODELFILE_MOST + 1);
    memset(large, '\n', NM_MODELFILE_MOST + 1);
    refuse(large, NM_MODELFILE_MOST + 1, "no Modelfile");
    memcpy(large, "FROM \"", 6);
    refuse(large, NM_MODELFILE_MOST, "quotes");       /* in linear time */
    nm_free(large);
}

/* Any text of quotes, white space and letters is read back or refused. */
static void test_quoting(void **state)
{
    static const char letters[] = "\"\"\"\n\n \t\rab#";
    unsigned seed = 1;
    int written = 0;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char text[16], file[64];
        nm_str s = {0};
        size_t n = 0, want = (seed >> 20) % sizeof text;
        for (; n < want; n++) text[n] = letters[((seed = seed * 1103515245 + 12345) >> 16) % (sizeof letters - 1)];
        seed = seed * 1103515245 + 12345;
        text[n] = 0;
        nm_err err = nm_modelfile_quote(&s, text);
        if (err == NM_OK) {
            snprintf(file, sizeof file, "FROM a\nSYSTEM %s\nPARAMETER top_k 1\n", s.data);
            nm_modelfile m = parse(file);
            assert_string_equal(m.system, text);
            assert_int_equal(m.top_k, 1);
            nm_modelfile_free(&m);
            written++;
        } else assert_int_equal(err, NM_USAGE);
        nm_str_free(&s);
    }
    assert_true(written > 15000);
}

static void test_failing_memory(void **state)
{
    nm_modelfile m;
    nm_str s = {0};
    int64_t alive = nm_mem_alive();
    (void)state;
    for (int64_t n = 0;; n++) {
        nm_mem_fail_after(n);
        nm_err err = nm_modelfile_parse(&m, whole, strlen(whole), "M");
        if (err == NM_OK) err = nm_modelfile_write(&s, &m);
        nm_mem_fail_after(-1);
        nm_modelfile_free(&m);
        nm_str_free(&s);
        assert_int_equal(nm_mem_alive(), alive);
        if (err == NM_OK) break;
        assert_int_equal(err, NM_NO_MEMORY);
    }
}

/* ---- The store ---------------------------------------------------------------------------------------------------------------------- */

static nm_err save(const char *name, const char *text, bool replace) { return nm_persona_save(name, text, strlen(text), replace, NULL); }

static void test_store(void **state)
{
    nm_persona *p, **list;
    size_t count;
    (void)state;
    assert_int_equal(nm_persona_find(&p, "pirate"), NM_OK);
    assert_null(p);
    assert_int_equal(save("Pirate", "FROM ./model.gguf\nSYSTEM Arr!\n", false), NM_OK);
    assert_int_equal(save("pirate:latest", "FROM x\n", false), NM_REFUSED);
    assert_int_equal(save("pirate", "FROM ./model.gguf\nSYSTEM Arr.\n", true), NM_OK);      /* the same name */
    assert_int_equal(save("a/b", "FROM x\n", false), NM_USAGE);
    assert_int_equal(save("..", "FROM x\n", false), NM_USAGE);
    assert_int_equal(save("bad", "SYSTEM x\n", false), NM_BAD_FILE);
    assert_int_equal(nm_persona_find(&p, "PIRATE:latest"), NM_OK);
    assert_string_equal(p->name, "Pirate");
    assert_string_equal(p->file.system, "Arr.");
    nm_persona_free(p);
    assert_int_equal(nm_persona_find(&p, "../personas/Pirate"), NM_OK);
    assert_null(p);
    assert_int_equal(nm_file_write(".local/share/nomoat/personas/broken", "nonsense", 8), NM_OK);
    assert_int_equal(nm_persona_list(&list, &count, NULL), NM_OK);
    assert_int_equal(count, 1);
    nm_persona_list_free(list, count);
    assert_int_equal(nm_persona_find(&p, "broken"), NM_BAD_FILE);
    assert_int_equal(nm_persona_remove("broken", NULL), NM_OK);
    assert_int_equal(nm_persona_remove("broken", NULL), NM_NOT_FOUND);
}

static void test_names_of_models(void **state)
{
    nm_found f;
    nm_stored_as as;
    (void)state;
    assert_int_equal(nm_store_import(&f, &as, "model.gguf", "taken", NULL), NM_OK);
    nm_found_free(&f);
    assert_int_equal(save("taken", "FROM x\n", false), NM_REFUSED);
    assert_non_null(strstr(nm_error_text(), "a model of that name"));
}

static void test_stacks(void **state)
{
    nm_found_stack s;
    (void)state;
    assert_int_equal(save("pirate", "FROM ./model.gguf+./style=0.5\nADAPTER ./style=0.25\n", true), NM_OK);
    assert_int_equal(nm_stack_find(&s, "pirate+./style=2", false), NM_OK);
    assert_string_equal(s.model.path, "./model.gguf");
    assert_string_equal(s.persona->name, "Pirate");
    assert_int_equal(s.count, 3);
    assert_int_equal(s.persona_adapters, 2);
    assert_true(s.adapter[0].scale == 0.5f && s.adapter[1].scale == 0.25f && s.adapter[2].scale == 2);
    nm_found_stack_free(&s);
    assert_int_equal(save("nested", "FROM pirate\n", true), NM_OK);
    assert_int_equal(nm_stack_find(&s, "nested", false), NM_NOT_FOUND);
    assert_non_null(strstr(nm_error_text(), "personas/nested: pirate:"));
    assert_null(s.persona);
    assert_int_equal(nm_stack_find(&s, "nobody", false), NM_NOT_FOUND);
    assert_non_null(strstr(nm_error_text(), "nobody: no file and no model"));
}

static void test_store_without_memory(void **state)
{
    int64_t alive = nm_mem_alive();
    (void)state;
    for (int64_t n = 0;; n++) {
        nm_found_stack s = {0};
        nm_persona **list = NULL;
        size_t count = 0;
        nm_mem_fail_after(n);
        nm_err err = save("pirate", "FROM ./model.gguf\nADAPTER ./style\nSYSTEM Arr!\n", true);
        if (err == NM_OK) err = nm_stack_find(&s, "pirate", false);
        if (err == NM_OK) err = nm_persona_list(&list, &count, NULL);
        if (err == NM_OK) err = nm_persona_remove("pirate", NULL);
        nm_mem_fail_after(-1);
        nm_found_stack_free(&s);
        nm_persona_list_free(list, count);
        assert_int_equal(nm_mem_alive(), alive);
        if (err == NM_OK) break;
        assert_int_equal(err, NM_NO_MEMORY);
    }
}

/* What is given replaces FROM, ADAPTER, PARAMETER and SYSTEM; the rest stays to the letter, also at a file's end without a line's. */
static void is_revised(void **state)
{
    (void)state;
    static const char text[] = "# one\nSYSTEM \"\"\"a\nFROM b\n\"\"\"\n\nfrom old\n# two\nADAPTER x=2\nMESSAGE user FROM me\nPARAMETER num_gpu 1\nPARAMETER think true\nPARAMETER top_k 3";
    nm_modelfile m;
    nm_str s = {0};
    nm_modelfile_init(&m);
    m.from.text = "new";
    m.think = 0;
    m.system = "b";
    assert_int_equal(nm_modelfile_revise(&s, text, strlen(text), &m), NM_OK);
    assert_string_equal(s.data, "# one\n\nFROM new\nPARAMETER think false\nSYSTEM b\n# two\nMESSAGE user FROM me\nPARAMETER num_gpu 1\n");
    nm_modelfile read;
    assert_int_equal(nm_modelfile_parse(&read, s.data, s.length, "x"), NM_OK);
    assert_int_equal(read.think, 0);
    nm_modelfile_free(&read);
    nm_str_free(&s);
    assert_int_equal(nm_modelfile_parse(&read, "FROM a\nPARAMETER think maybe\n", 29, "x"), NM_BAD_FILE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_revised),
        cmocka_unit_test(test_whole), cmocka_unit_test(test_little), cmocka_unit_test(test_refusals), cmocka_unit_test(test_quoting), cmocka_unit_test(test_failing_memory),
        cmocka_unit_test(test_store), cmocka_unit_test(test_names_of_models), cmocka_unit_test(test_stacks), cmocka_unit_test(test_store_without_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
