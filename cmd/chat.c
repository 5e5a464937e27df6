/* The interactive chat: lines in, answers out, and a table of /commands. The whole conversation is rendered anew for each answer; what the
 * session already holds of it is kept, so templates that rewrite earlier turns work and the others cost nothing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common.h"
#include "hub/personas.h"
#include "line.h"
#include "os/file.h"
#include "talk.h"

enum { CONVERSATION_MOST = 64 << 20, ANSWER_ROOM = 256 };     /* ANSWER_ROOM: tokens that an answer should have */

typedef struct chat {
    nm_talk *talk;
    nm_run_settings *set;
    nm_line *line;
    nm_message *messages;       /* contents are owned; a system message, if any, is the first */
    size_t count, capacity;
    char **kept;                /* values of /set and --stop that settings point to */
    size_t n_kept, kept_capacity;
    bool leave;
} chat;

/* What the chat itself says goes to standard error; foreign text in it must have been made safe. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fputc('\n', stderr);
}

static void say_safe(const char *before, const char *text)
{
    char safe[4096];
    nm_escape_terminal(safe, sizeof safe, text, strlen(text));
    say("%s%s", before, safe);
}

static void say_value(const char *before, const char *value)
{
    char safe[1024];
    nm_escape_terminal(safe, sizeof safe, value, strlen(value));
    say("%s%s)", before, safe);
}

static void say_error(void) { say("! %s", nm_error_text()); }

/* ---- Messages ---------------------------------------------------------------------------------------------------- */

static void drop_from(chat *c, size_t n)
{
    while (c->count > n) nm_free(c->messages[--c->count].content);
}

static bool has_system(const chat *c) { return c->count && !strcmp(c->messages[0].role, "system"); }

static nm_err insert(chat *c, size_t at, const char *role, const char *text, size_t length)
{
    NM_TRY(NM_GROW(c->messages, c->capacity, c->count + 1));
    char *copy = nm_strndup(text, length);
    if (!copy) return nm_fail_memory(length);
    memmove(c->messages + at + 1, c->messages + at, (c->count - at) * sizeof *c->messages);
    c->messages[at] = (nm_message){role, copy, length};
    c->count++;
    return NM_OK;
}

static nm_err set_system(chat *c, const char *text)
{
    if (has_system(c)) {
        nm_free(c->messages[0].content);
        memmove(c->messages, c->messages + 1, --c->count * sizeof *c->messages);
    }
    return *text ? insert(c, 0, "system", text, strlen(text)) : NM_OK;
}

/* What the persona's conversations begin with. A system message at its head is there already where the conversation was cleared. */
static nm_err begin(chat *c)
{
    const nm_persona *persona = nm_talk_persona(c->talk);
    for (size_t i = 0; persona && i < persona->file.messages; i++) {
        const nm_modelfile_message *m = &persona->file.message[i];
        if (i == 0 && has_system(c) && !strcmp(m->role, "system")) continue;
        NM_TRY(insert(c, c->count, m->role, m->content, strlen(m->content)));
    }
    return NM_OK;
}

/* Index of the last message of a role, or SIZE_MAX. */
static size_t last_of(const chat *c, const char *role)
{
    for (size_t i = c->count; i-- > 0;)
        if (!strcmp(c->messages[i].role, role)) return i;
    return SIZE_MAX;
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

/* NM_USAGE, with what can be done within a chat, where the conversation no longer fits. */
static nm_err check_room(const chat *c, size_t tokens)
{
    if (tokens <= (size_t)c->talk->context) return NM_OK;
    return nm_fail(NM_USAGE, "the conversation has %zu tokens with this message, and the context holds %d: ask more briefly, /clear forgets what was "
                             "said%s, or /save it, leave and start with -c %zu or more",
                   tokens, c->talk->context, has_system(c) ? ", /system TEXT changes the system message" : "", tokens + ANSWER_ROOM);
}

/* Answers the conversation as it stands. What a failed one began leaves no trace; an interrupted one keeps what was said. An empty answer
 * is one, too: most templates want user and assistant to alternate. */
static nm_err answer(chat *c)
{
    int32_t *ids = NULL;
    size_t n = 0;
    nm_answer a = {0};
    nm_err err = nm_talk_prompt(c->talk, c->set, c->messages, c->count, &ids, &n);
    if (err == NM_OK) err = check_room(c, n);
    if (err == NM_OK) err = nm_talk_answer(c->talk, c->set, ids, n, true, &a);
    bool said = err == NM_OK || (err == NM_INTERRUPTED && a.text.length > 0);
    if (said) {
        bool open_line = a.visible.length && a.visible.data[a.visible.length - 1] != '\n';
        nm_err shown = nm_out_puts(open_line ? "\n\n" : "\n");
        if (shown == NM_OK) shown = nm_out_flush();
        if (!a.text.length) say("(the answer is empty)");
        nm_err kept = insert(c, c->count, "assistant", a.text.data, a.text.length);
        if (err == NM_OK && c->set->common.verbose) nm_talk_note_speed(&a);
        err = shown != NM_OK ? shown : kept != NM_OK ? kept : err;
    }
    if (err == NM_INTERRUPTED) say(said ? "(stopped; /again answers anew)" : "(stopped)");
    nm_answer_free(&a);
    nm_free(ids);
    if (err == NM_INTERRUPTED && said) return NM_OK;
    return err;
}

static nm_err ask(chat *c, const char *text, size_t length)
{
    NM_TRY(insert(c, c->count, "user", text, length));
    size_t mine = c->count - 1;
    nm_err err = answer(c);
    if (err != NM_OK) drop_from(c, mine);
    return err == NM_INTERRUPTED ? NM_OK : err;
}

/* Asks in the place of the last question and what followed it; where that comes to nothing, they stay. text NULL: the same again. */
static nm_err ask_instead(chat *c, const char *text, size_t length)
{
    size_t at = last_of(c, "user"), n = c->count - at;
    if (at == SIZE_MAX) return nm_fail(NM_USAGE, "nothing was asked yet");
    nm_message *before = nm_calloc(n, sizeof *before);
    if (!before) return nm_fail_memory(n * sizeof *before);
    memcpy(before, c->messages + at, n * sizeof *before);
    c->count = at;
    nm_err err = ask(c, text ? text : before[0].content, text ? length : before[0].length);
    if (c->count == at) {
        memcpy(c->messages + at, before, n * sizeof *before);
        c->count = at + n;
        say("(the last question and its answer stay)");
    } else {
        for (size_t i = 0; i < n; i++) nm_free(before[i].content);
    }
    nm_free(before);
    return err;
}

/* ---- Lines ------------------------------------------------------------------------------------------------------- */

typedef struct reading { nm_str *text; bool block, more, any; } reading;      /* block: within """ */

/* Adds one typed line to the message. Lines that hold nothing but a block's border add nothing. */
static nm_err add_line(reading *r, const char *line, size_t n, bool first)
{
    bool opens = first && n >= 3 && !strncmp(line, "\"\"\"", 3);
    if (opens) {
        r->block = true;
        line += 3;
        n -= 3;
    }
    bool closes = r->block && n >= 3 && !strcmp(line + n - 3, "\"\"\"");
    bool continues = !r->block && n && line[n - 1] == '\\';
    n -= closes ? 3 : continues;
    r->more = (r->block && !closes) || continues;
    if (!n && (opens || closes)) return NM_OK;
    if (r->any) NM_TRY(nm_str_putc(r->text, '\n'));
    r->any = true;
    return nm_str_append(r->text, line, n);
}

/* Reads on while a block of """ is open or a line ends in a backslash. */
static nm_err read_message(chat *c, const char *prompt, nm_str *text, nm_typed *typed)
{
    nm_str line = {0};
    nm_err err = NM_OK;
    reading r = {.text = text, .more = true};
    text->length = 0;
    for (bool first = true; r.more; first = false) {
        NM_GOTO(nm_line_read(c->line, first ? prompt : "... ", &line, typed));
        if (*typed != NM_TYPED_LINE) break;
        NM_GOTO(add_line(&r, line.data, line.length, first));
    }
    err = nm_str_append(text, "", 0);
out:
    nm_str_free(&line);
    return err;
}

/* ---- Commands ---------------------------------------------------------------------------------------------------- */

static nm_err cmd_help(chat *c, const char *argument);

static nm_err cmd_system(chat *c, const char *argument)
{
    if (*argument) {
        NM_TRY(set_system(c, argument));
        say("(the system message is set)");
        return NM_OK;
    }
    if (has_system(c)) say_safe("system: ", c->messages[0].content);
    else say("no system message; /system TEXT sets one, /clear system removes it");
    return NM_OK;
}

static nm_err cmd_clear(chat *c, const char *argument)
{
    if (!strcmp(argument, "system")) {
        NM_TRY(set_system(c, ""));
        say("(no system message)");
        return NM_OK;
    }
    if (*argument) return nm_fail(NM_USAGE, "/clear or /clear system");
    drop_from(c, has_system(c) ? 1 : 0);
    NM_TRY(begin(c));
    say("(the conversation is %s%s)", nm_talk_persona(c->talk) ? "as it began" : "empty", has_system(c) ? ", the system message stays" : "");
    return NM_OK;
}

static nm_err cmd_save(chat *c, const char *argument)
{
    nm_str s = {0};
    if (!*argument) return nm_fail(NM_USAGE, "/save needs a file: /save talk.json");
    nm_err err = nm_str_putc(&s, '{');
    if (err == NM_OK) err = nm_json_string(&s, "model", c->talk->stacked.found.model.name);
    if (err == NM_OK) err = nm_json_key(&s, "messages");
    if (err == NM_OK) err = nm_talk_messages_json(&s, c->messages, c->count);
    if (err == NM_OK) err = nm_str_puts(&s, "}\n");
    if (err == NM_OK) err = nm_file_write(argument, s.data, s.length);
    nm_str_free(&s);
    if (err == NM_OK) say_safe("saved to ", argument);
    return err;
}

static nm_err load_message(void *arg, const char *role, const char *content, size_t length)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    chat *c = arg;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i])) return insert(c, c->count, roles[i], content, length);
    return nm_fail(NM_USAGE, "conversation: '%s' is no role: system, user, assistant and tool are", role);
}

static nm_err cmd_load(chat *c, const char *argument)
{
    char *text;
    size_t length;
    chat fresh = {0};
    struct stat st;
    if (!*argument) return nm_fail(NM_USAGE, "/load needs a file: /load talk.json");
    if (!stat(argument, &st) && !S_ISREG(st.st_mode)) return nm_fail(NM_BAD_FILE, "%s: is no regular file: nothing is loaded", argument);
    NM_TRY(nm_file_read(argument, CONVERSATION_MOST, &text, &length));
    nm_err err = nm_json_read_messages(text, length, load_message, &fresh);
    nm_free(text);
    chat *unused = err == NM_OK ? c : &fresh;
    drop_from(unused, 0);
    nm_free(unused->messages);
    if (err != NM_OK) return nm_fail_in(err, argument);
    c->messages = fresh.messages;
    c->count = fresh.count;
    c->capacity = fresh.capacity;
    say("loaded %zu messages", c->count);
    return NM_OK;
}

/* What can change between two answers. */
static const char *const changeable[] = {"temperature", "temp", "top-k", "top-p", "min-p", "typical", "typical-p", "repeat-penalty",
                                         "presence-penalty",
    "frequency-penalty", "repeat-last-n", "seed", "max-tokens", "predict", "n-predict", "stop"};

static nm_err keep(chat *c, const char *value, char **copy)
{
    NM_TRY(NM_GROW(c->kept, c->kept_capacity, c->n_kept + 1));
    *copy = nm_strndup(value, strlen(value));
    if (!*copy) return nm_fail_memory(strlen(value));
    c->kept[c->n_kept++] = *copy;
    return NM_OK;
}

static void show_settings(const chat *c)
{
    nm_sampling s = nm_talk_sampling(c->talk, c->set);
    say("  temperature %g, top-k %d, top-p %g, min-p %g, typical %g", (double)s.temperature, s.top_k, (double)s.top_p, (double)s.min_p,
        (double)s.typical);
    say("  repeat-penalty %g, presence-penalty %g, frequency-penalty %g, repeat-last-n %d", (double)s.repeat_penalty,
        (double)s.presence_penalty, (double)s.frequency_penalty, s.penalty_last);
    say("  seed %llu, max-tokens %d", (unsigned long long)s.seed, c->set->max_tokens);
    for (size_t i = 0; i < c->set->stop.count; i++) say_safe("  stop ", c->set->stop.items[i]);
}

static nm_err cmd_set(chat *c, const char *argument)
{
    if (!*argument) {
        show_settings(c);
        return NM_OK;
    }

    char name[32], *value;
    size_t n = strcspn(argument, " \t="), i = 0;
    const char *rest = argument + n + strspn(argument + n, " \t=");
    enum { N = sizeof changeable / sizeof *changeable };
    if (!*argument) {
        show_settings(c);
        return NM_OK;
    }
    if (n && n < sizeof name) {
        memcpy(name, argument, n);
        name[n] = 0;
        for (char *s = name; *s; s++) if (*s == '_') *s = '-';
        while (i < N && strcmp(changeable[i], name)) i++;
    }
    if (!n || n >= sizeof name || i == N || !*rest)
        return nm_fail(NM_USAGE, "/set NAME VALUE: temperature, top-k, top-p, min-p, typical, repeat-penalty, presence-penalty, "
                                 "frequency-penalty, repeat-last-n, seed, max-tokens, stop");
    NM_TRY(keep(c, rest, &value));
    if (!strcmp(name, "stop")) c->set->stop.count = 0;      /* one takes the place of the others */
    NM_TRY(nm_option_set(nm_run_options, name, value, c->set));
    if (!strcmp(name, "seed") && c->set->seed.given) {
        c->talk->seed = c->set->seed.value;
        c->talk->answers = 0;
    }
    char said[64];
    snprintf(said, sizeof said, "(%s is now ", name);
    say_value(said, value);
    return NM_OK;
}

static nm_err cmd_again(chat *c, const char *argument)
{
    (void)argument;
    return ask_instead(c, NULL, 0);
}

/* Lets the user's editor change the text. */
static nm_err edit_text(const char *text, char **edited, size_t *length)
{
    char path[] = "/tmp/nomoat-edit-XXXXXX", command[128];
    int fd = mkstemp(path);
    if (fd < 0) return nm_fail(NM_FAILED, "no temporary file for the editor can be made");
    nm_err err = write(fd, text, strlen(text)) == (ssize_t)strlen(text) ? NM_OK : nm_fail(NM_FAILED, "%s: cannot be written", path);
    close(fd);
    snprintf(command, sizeof command, "${VISUAL:-$EDITOR} '%s'", path);
    if (err == NM_OK && system(command) != 0) err = nm_fail(NM_FAILED, "the editor failed: check VISUAL or EDITOR");
    if (err == NM_OK) err = nm_file_read(path, CONVERSATION_MOST, edited, length);
    unlink(path);
    while (err == NM_OK && *length && (*edited)[*length - 1] == '\n') (*edited)[--*length] = 0;
    return err;
}

/* The last question, changed and asked again: in the user's editor, else on the line. */
static nm_err cmd_edit(chat *c, const char *argument)
{
    char *edited = NULL;
    size_t length = 0, at = last_of(c, "user");
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    if (*argument) return ask_instead(c, argument, strlen(argument));
    if (at == SIZE_MAX) return nm_fail(NM_USAGE, "nothing was asked yet");
    bool has_editor = (visual && *visual) || (editor && *editor);
    if (!has_editor && strchr(c->messages[at].content, '\n'))
        return nm_fail(NM_USAGE, "the last question has several lines: set EDITOR to edit them, or type /edit NEW TEXT");
    if (!has_editor) {
        nm_str typed = {0};
        nm_typed how;
        nm_line_prefill(c->line, c->messages[at].content);
        nm_err err = read_message(c, "edit> ", &typed, &how);
        if (err == NM_OK && how == NM_TYPED_LINE) edited = nm_str_take(&typed, &length);
        nm_str_free(&typed);
        NM_TRY(err);
    } else {
        NM_TRY(edit_text(c->messages[at].content, &edited, &length));
    }
    nm_err err = length ? ask_instead(c, edited, length) : NM_OK;
    nm_free(edited);
    return err;
}

static nm_err cmd_think(chat *c, const char *argument)
{
    static const char *const words[] = {"auto", "on", "off"};
    int32_t word = 0;
    while (word < 3 && strcmp(argument, words[word])) word++;
    if (!strcmp(argument, "hide") || !strcmp(argument, "show")) c->set->hide_thinking = argument[0] == 'h';
    else if (word < 3) c->set->think = word;
    else if (*argument) return nm_fail(NM_USAGE, "/think on, off, auto, hide or show");
    say("(thinking: %s, %s)", words[c->set->think], c->set->hide_thinking ? "hidden" : "shown");
    return NM_OK;
}

/* "none", or adapters with or without a '+' in front; the whole conversation is read again by the new stack. */
static nm_err change_stack(chat *c, const char *argument)
{
    const char *adapters = !strcmp(argument, "none") ? "" : argument + (*argument == '+');
    NM_TRY(nm_talk_restack(c->talk, c->set, adapters, c->set->stack.force));
    say(*adapters ? "(the next answer comes from the new stack)" : "(the next answer comes from the base alone)");
    return NM_OK;
}

static nm_err cmd_stack(chat *c, const char *argument)
{
    const nm_model_info *info = nm_model_describe(c->talk->model);
    const nm_found_stack *found = &c->talk->stacked.found;
    if (*argument) return change_stack(c, argument);
    say_safe("model:    ", found->model.name);
    say_safe("file:     ", found->model.path);
    if (!found->count) say("adapters: none");
    for (size_t i = 0; i < found->count; i++) {
        char label[64];
        snprintf(label, sizeof label, "adapter:  %g x ", (double)found->adapter[i].scale);
        say_safe(label, found->adapter[i].name);
    }
    say("context:  %d of %d tokens in use (trained for %d)", nm_session_length(c->talk->session), c->talk->context, info->n_context);
    return NM_OK;
}

static nm_err cmd_bye(chat *c, const char *argument)
{
    (void)argument;
    c->leave = true;
    return NM_OK;
}

typedef struct slash { const char *name, *argument, *what; nm_err (*run)(chat *c, const char *argument); } slash;
static const slash slashes[] = {
    {"help", "", "this list", cmd_help},
    {"system", "[TEXT]", "show or set the system message", cmd_system},
    {"clear", "[system]", "forget the conversation (or the system message)", cmd_clear},
    {"save", "FILE", "write the conversation as JSON", cmd_save},
    {"load", "FILE", "read one", cmd_load},
    {"set", "[NAME VALUE]", "show the settings or change one: temperature, top-k, seed ...", cmd_set},
    {"again", "", "answer the last question anew", cmd_again},
    {"edit", "[TEXT]", "change the last question and ask it again", cmd_edit},
    {"think", "[WORD]", "thinking aloud, for models that can: on, off, auto, hide, show", cmd_think},
    {"stack", "[A=SCALE+B|none]", "show the model, its adapters and the context, or change the adapters", cmd_stack},
    {"bye", "", "leave", cmd_bye},
    {0}
};

static nm_err cmd_help(chat *c, const char *argument)
{
    (void)c, (void)argument;
    for (const slash *s = slashes; s->name; s++) {
        char head[64];
        snprintf(head, sizeof head, "/%s %s", s->name, s->argument);
        say("  %-22s %s", head, s->what);
    }
    say("  \"\"\" ... \"\"\"            a message of several lines; so does a \\ at a line's end");
    say("  //...                  a message that begins with a slash: one of the two is taken off");
    say("  Ctrl-C                 stops the answer; twice at the prompt leaves");
    return NM_OK;
}

static nm_err run_slash(chat *c, char *text)
{
    char *name = text + 1, *end = name + strcspn(name, " \t");
    char *argument = end + strspn(end, " \t");
    enum { N = sizeof slashes / sizeof *slashes - 1 };
    const char *names[N];
    *end = 0;
    if (!strcmp(name, "exit") || !strcmp(name, "quit")) name = (char *)"bye";
    if (!strcmp(name, "?")) name = (char *)"help";
    for (size_t i = 0; i < N; i++) {
        names[i] = slashes[i].name;
        if (!strcmp(slashes[i].name, name)) return slashes[i].run(c, argument);
    }
    const char *near = nm_nearest(name, names, N);
    if (near) return nm_fail(NM_USAGE, "/%s: no such command: did you mean /%s?", name, near);
    return nm_fail(NM_USAGE, "/%s: no such command: /help lists them", name);
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

/* What ends the chat rather than the turn: standard output is gone, or memory. */
static bool is_fatal(nm_err err) { return nm_out_pipe_closed() || err == NM_NO_MEMORY; }

static nm_err turn(chat *c, nm_str *text)
{
    size_t blank = strspn(text->data, " \t\n");
    if (!text->data[blank]) return NM_OK;
    if (text->data[0] == '/' && text->data[1] == '/') return ask(c, text->data + 1, text->length - 1);
    if (text->data[0] == '/' && !strchr(text->data, '\n')) return run_slash(c, text->data);
    return ask(c, text->data, text->length);
}

static nm_err loop(chat *c)
{
    nm_str text = {0};
    nm_typed typed = NM_TYPED_LINE, before;
    nm_err err = NM_OK;
    while (!c->leave) {
        before = typed;
        err = read_message(c, ">>> ", &text, &typed);
        if (err != NM_OK || typed == NM_TYPED_END || (typed == NM_TYPED_INTERRUPT && before == NM_TYPED_INTERRUPT)) break;
        if (typed == NM_TYPED_INTERRUPT) {
            say("(Ctrl-C once more leaves)");
            continue;
        }
        err = turn(c, &text);
        if (err == NM_OK) continue;
        if (is_fatal(err)) break;
        say_error();
        if (err == NM_REFUSED && has_system(c)) say("(if the template takes no system message: /clear system)");
        err = NM_OK;
    }
    nm_str_free(&text);
    return err;
}

/* The history's file in the user's state folder; NULL, and no history, where that cannot be. */
static char *history_path(void)
{
    char *folder, *path = NULL;
    size_t n;
    if (nm_folder_open(NM_FOLDER_STATE, &folder) != NM_OK) return NULL;
    n = strlen(folder) + sizeof "/history";
    path = nm_malloc(n);
    if (path) snprintf(path, n, "%s/history", folder);
    nm_free(folder);
    return path;
}

nm_err nm_chat(nm_talk *talk, nm_run_settings *set)
{
    chat c = {.talk = talk, .set = set};
    nm_err err = NM_OK;
    if (!talk->tmpl)
        return nm_fail(NM_USAGE, "%s has no chat template: give --template FILE, or a PROMPT to be continued", talk->stacked.found.model.name);
    char *path = history_path();
    err = nm_line_open(&c.line, path);
    nm_free(path);
    const char *system = nm_talk_system(talk, set);
    const nm_persona *persona = nm_talk_persona(talk);
    if (err == NM_OK && system) err = set_system(&c, system);
    if (err == NM_OK) err = begin(&c);
    if (err == NM_OK && !set->common.quiet) say_safe("/help shows the commands, /bye leaves. Model: ", persona ? persona->name : talk->stacked.found.model.name);
    if (err == NM_OK) err = loop(&c);
    drop_from(&c, 0);
    nm_free(c.messages);
    for (size_t i = 0; i < c.n_kept; i++) nm_free(c.kept[i]);
    nm_free(c.kept);
    nm_line_close(&c.line);
    return err;
}
