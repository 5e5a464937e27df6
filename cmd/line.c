/* Lines typed at a terminal. */
#include "line.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

#include "base/err.h"
#include "base/mem.h"
#include "nm_config.h"
#include "os/file.h"
#include "term.h"

#if NM_HAVE_LIBEDIT
#include <histedit.h>

enum { HISTORY_MOST = 1000, HISTORY_BYTES = 256 << 10 };      /* lines in memory; a file of more bytes is cut to those lines */

struct nm_line {
    EditLine *edit;
    History *history;
    char *history_path;
    const char *prompt;
    char held;          /* a byte read that did not continue a character: it is looked at again */
    bool holds;
};

static nm_line *line_of(EditLine *edit)
{
    nm_line *line = NULL;
    el_get(edit, EL_CLIENTDATA, &line);
    return line;
}

static char *prompt_of(EditLine *edit) { return (char *)line_of(edit)->prompt; }

/* Waits until there is something to read; false if Ctrl-C came. SIGINT is let in only while it waits, so that none falls between the look at
 * the flag and the read, to be noticed at the next key. */
static bool wait_for_input(void)
{
    sigset_t only, before, open;
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    sigemptyset(&only);
    sigaddset(&only, SIGINT);
    sigprocmask(SIG_BLOCK, &only, &before);
    open = before;
    sigdelset(&open, SIGINT);
    while (!nm_interrupted && ppoll(&in, 1, NULL, &open) < 0 && errno == EINTR) continue;
    sigprocmask(SIG_SETMASK, &before, NULL);
    return !nm_interrupted;
}

/* 1 and a byte; 0 at the end, -1 after a fault or Ctrl-C. */
static int next_byte(nm_line *line, char *c)
{
    if (line->holds) {
        line->holds = false;
        *c = line->held;
        return 1;
    }
    for (;;) {
        if (!wait_for_input()) return -1;
        ssize_t n = read(STDIN_FILENO, c, 1);
        if (n >= 0 || errno != EINTR || nm_interrupted) return (int)n;
    }
}

/* One character from the terminal. libedit's own reader goes on after a signal; Ctrl-C must end the line. Bytes that are no UTF-8 become
 * U+FFFD, and the one behind them counts anew. */
static int read_char(EditLine *edit, wchar_t *out)
{
    nm_line *line = line_of(edit);
    mbstate_t state = {0};
    char c;
    for (bool begun = false;; begun = true) {
        int n = next_byte(line, &c);
        if (n <= 0) return n;
        size_t got = mbrtowc(out, &c, 1, &state);
        if (got == (size_t)-2) continue;        /* a character of several bytes */
        if (got != (size_t)-1) return 1;
        line->holds = begun;
        line->held = c;
        *out = 0xfffd;
        return 1;
    }
}

/* ---- The history's file: libedit's format, each line added as it is typed, so that chats side by side and killed ones lose none -------- */

static const char history_head[] = "_HiStOrY_V2_\n";

/* A line as libedit's reader wants it: a backslash and controls in octal. */
static nm_err encode_line(nm_str *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        NM_TRY(c == '\\' || c < 0x20 || c == 0x7f ? nm_str_printf(out, "\\%03o", c) : nm_str_putc(out, text[i]));
    }
    return nm_str_putc(out, '\n');
}

/* One write with O_APPEND: lines of two chats do not mix. What cannot be kept is no reason to stop a chat. */
static void append_history(const nm_line *line, const char *text, size_t length)
{
    nm_str out = {0};
    struct stat st;
    int fd = line->history_path ? open(line->history_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0) return;     /* 0600: what was asked is nobody else's business */
    nm_err err = !fstat(fd, &st) && st.st_size == 0 ? nm_str_puts(&out, history_head) : NM_OK;
    if (err == NM_OK) err = encode_line(&out, text, length);
    if (err == NM_OK) {
        ssize_t written = write(fd, out.data, out.length);
        (void)written;
    }
    nm_str_free(&out);
    close(fd);
}

/* Writes the lines in memory, the last HISTORY_MOST, in the place of a file that has grown long. */
static void shorten_history(const nm_line *line)
{
    nm_str out = {0};
    HistEvent event;
    nm_err err = nm_str_puts(&out, history_head);
    for (int more = history(line->history, &event, H_LAST); err == NM_OK && more >= 0; more = history(line->history, &event, H_PREV))
        err = encode_line(&out, event.str, strcspn(event.str, "\n"));
    if (err == NM_OK) (void)nm_file_write(line->history_path, out.data, out.length);
    nm_str_free(&out);
}

static void open_history(nm_line *line, const char *path)
{
    HistEvent event;
    line->history = history_init();
    if (!line->history) return;
    history(line->history, &event, H_SETSIZE, HISTORY_MOST);
    history(line->history, &event, H_SETUNIQUE, 1);
    el_set(line->edit, EL_HIST, history, line->history);
    line->history_path = path ? nm_strndup(path, strlen(path)) : NULL;
    if (!line->history_path) return;
    struct stat st;
    history(line->history, &event, H_LOAD, line->history_path);
    if (!stat(line->history_path, &st) && st.st_size > HISTORY_BYTES) shorten_history(line);
}

nm_err nm_line_open(nm_line **out, const char *history_path)
{
    *out = nm_calloc(1, sizeof **out);
    if (!*out) return nm_fail_memory(sizeof **out);
    nm_line *line = *out;
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8")) setlocale(LC_CTYPE, "C.UTF-8");
    line->edit = el_init("nomoat", stdin, stderr, stderr);
    if (!line->edit) {
        nm_line_close(out);
        return nm_fail(NM_FAILED, "the terminal cannot be set up for editing: check TERM");
    }
    line->prompt = "";
    el_set(line->edit, EL_CLIENTDATA, line);
    el_set(line->edit, EL_PROMPT, prompt_of);
    el_set(line->edit, EL_EDITOR, "emacs");
    el_set(line->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(line->edit, NULL);
    el_set(line->edit, EL_GETCFN, read_char);
    open_history(line, history_path);
    return NM_OK;
}

void nm_line_close(nm_line **line)
{
    nm_line *l = *line;
    if (!l) return;
    if (l->history) history_end(l->history);
    if (l->edit) el_end(l->edit);
    nm_free(l->history_path);
    nm_free(l);
    *line = NULL;
}

/* libedit holds the terminal raw while a line is typed: who ends the program then still gets it back as it was. */
static struct termios terminal_before;
static const int endings[] = {SIGTERM, SIGHUP, SIGQUIT};
enum { ENDINGS = sizeof endings / sizeof *endings };
static struct sigaction ending_before[ENDINGS];

static void on_end(int signal_number)
{
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
    raise(signal_number);       /* SA_RESETHAND: now for good */
}

static void guard_terminal(void)
{
    struct sigaction action = {.sa_handler = on_end, .sa_flags = SA_RESETHAND};
    tcgetattr(STDIN_FILENO, &terminal_before);
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < ENDINGS; i++) {
        sigaction(endings[i], &action, &ending_before[i]);
        if (ending_before[i].sa_handler == SIG_IGN) signal(endings[i], SIG_IGN);    /* nohup */
    }
}

static void unguard_terminal(void)
{
    for (int i = 0; i < ENDINGS; i++) sigaction(endings[i], &ending_before[i], NULL);
}

nm_err nm_line_read(nm_line *line, const char *prompt, nm_str *text, nm_typed *typed)
{
    int count = 0;
    HistEvent event;
    text->length = 0;
    line->prompt = prompt;
    nm_interrupted = 0;
    guard_terminal();
    el_set(line->edit, EL_PREP_TERM, 1);    /* before the prompt shows: libedit does it behind, and who is quick is echoed twice */
    const char *s = el_gets(line->edit, &count);
    unguard_terminal();
    *typed = nm_interrupted ? NM_TYPED_INTERRUPT : s && count > 0 ? NM_TYPED_LINE : NM_TYPED_END;
    nm_interrupted = 0;
    if (*typed != NM_TYPED_LINE) {
        fputc('\n', stderr);
        return nm_str_append(text, "", 0);
    }
    size_t n = (size_t)count;
    while (n && (s[n - 1] == '\n' || s[n - 1] == '\r')) n--;
    if (s[strspn(s, " \t\r\n")]) {
        history(line->history, &event, H_ENTER, s);
        append_history(line, s, n);
    }
    return nm_str_append(text, s, n);
}

void nm_line_prefill(nm_line *line, const char *text) { el_push(line->edit, text); }

#else

struct nm_line { char *buffer; size_t capacity; };

nm_err nm_line_open(nm_line **out, const char *history_path)
{
    (void)history_path;
    *out = nm_calloc(1, sizeof **out);
    return *out ? NM_OK : nm_fail_memory(sizeof **out);
}

void nm_line_close(nm_line **line)
{
    if (!*line) return;
    free((*line)->buffer);
    nm_free(*line);
    *line = NULL;
}

nm_err nm_line_read(nm_line *line, const char *prompt, nm_str *text, nm_typed *typed)
{
    text->length = 0;
    fputs(prompt, stderr);
    fflush(stderr);
    nm_interrupted = 0;
    clearerr(stdin);
    ssize_t n = getline(&line->buffer, &line->capacity, stdin);
    *typed = nm_interrupted ? NM_TYPED_INTERRUPT : n < 0 ? NM_TYPED_END : NM_TYPED_LINE;
    nm_interrupted = 0;
    if (*typed != NM_TYPED_LINE) {
        fputc('\n', stderr);
        n = 0;
    }
    while (n > 0 && (line->buffer[n - 1] == '\n' || line->buffer[n - 1] == '\r')) n--;
    return nm_str_append(text, line->buffer ? line->buffer : "", (size_t)n);
}

void nm_line_prefill(nm_line *line, const char *text) { (void)line, (void)text; }

#endif
