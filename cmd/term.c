/* Standard output and error. */
#include "term.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cancel.h"
#include "base/err.h"
#include "base/mem.h"
#include "os/clock.h"

/* ---- Foreign text ------------------------------------------------------------------------------------------------------------------ */

nm_err nm_safe_push(nm_safe *safe, nm_str *out, const char *text, size_t length)
{
    char first[8];
    while (length) {
        const char *at = text;
        size_t left = length;
        if (safe->n) {      /* what was held and the next bytes, as far as a character can reach */
            size_t more = length < 4 ? length : 4;
            memcpy(first, safe->held, safe->n);
            memcpy(first + safe->n, text, more);
            at = first;
            left = safe->n + more;
        }
        if (nm_utf8_begins(at, left)) {
            memcpy(safe->held, at, left);
            safe->n = left;
            return NM_OK;
        }
        int used;
        char piece[NM_ESCAPE_MOST];
        size_t n = nm_escape_char(piece, at, left, false, &used);
        NM_TRY(nm_str_append(out, piece, n));
        if (safe->n > (size_t)used) {       /* one invalid byte of several held: the rest is looked at again */
            memmove(safe->held, safe->held + used, safe->n -= (size_t)used);
            continue;
        }
        size_t taken = (size_t)used - safe->n;
        safe->n = 0;
        text += taken;
        length -= taken;
    }
    return NM_OK;
}

nm_err nm_safe_end(nm_safe *safe, nm_str *out)
{
    for (size_t i = 0; i < safe->n; i++) NM_TRY(nm_str_printf(out, "\\x%02x", (unsigned char)safe->held[i]));
    safe->n = 0;
    return NM_OK;
}

/* ---- Standard output ---------------------------------------------------------------------------------------------------------------- */

static struct { char data[1 << 16]; size_t used; int error; nm_safe safe; } out_state;

bool nm_term_is(int fd) { return isatty(fd); }

bool nm_term_draws(int fd)
{
    const char *term = getenv("TERM");
    return isatty(fd) && term && *term && strcmp(term, "dumb");
}

bool nm_term_colour(int fd)
{
    const char *no = getenv("NO_COLOR");
    return nm_term_draws(fd) && !(no && *no);
}

static nm_err out_failed(void)
{
    return nm_fail(NM_FAILED, "standard output: %s: what was printed is not whole", strerror(out_state.error));
}

nm_err nm_out_flush(void)
{
    size_t at = 0;
    while (!out_state.error && at < out_state.used) {
        ssize_t n = write(STDOUT_FILENO, out_state.data + at, out_state.used - at);
        if (n >= 0) at += (size_t)n;
        else if (errno == EAGAIN || errno == EWOULDBLOCK) poll(&(struct pollfd){.fd = STDOUT_FILENO, .events = POLLOUT}, 1, -1);
        else if (errno != EINTR) out_state.error = errno;
    }
    out_state.used = 0;
    return out_state.error ? out_failed() : NM_OK;
}

bool nm_out_pipe_closed(void) { return out_state.error == EPIPE; }

nm_err nm_out(const char *bytes, size_t length)
{
    while (length) {
        size_t room = sizeof out_state.data - out_state.used, n = length < room ? length : room;
        memcpy(out_state.data + out_state.used, bytes, n);
        out_state.used += n;
        bytes += n;
        length -= n;
        if (out_state.used == sizeof out_state.data) NM_TRY(nm_out_flush());
    }
    return out_state.error ? out_failed() : NM_OK;
}

nm_err nm_out_puts(const char *text) { return nm_out(text, strlen(text)); }

nm_err nm_out_printf(const char *format, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (n < 0) return nm_fail(NM_FAILED, "standard output: cannot format a line");
    return nm_out(line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static nm_err out_str(nm_str *s, nm_err err)
{
    if (err == NM_OK) err = nm_out(s->data ? s->data : "", s->length);
    nm_str_free(s);
    return err;
}

nm_err nm_out_text(const char *text, size_t length)
{
    nm_str safe = {0};
    if (!nm_term_is(STDOUT_FILENO)) return nm_out(text, length);
    return out_str(&safe, nm_safe_push(&out_state.safe, &safe, text, length));
}

nm_err nm_out_text_end(void)
{
    nm_str safe = {0};
    return out_str(&safe, nm_safe_end(&out_state.safe, &safe));
}

nm_err nm_out_name(const char *text)
{
    size_t length = strlen(text), room = 4 * length + 1;    /* at most "\\xNN" for a byte, "\\u{NNNN}" for three */
    char *safe = nm_malloc(room);
    if (!safe) return nm_fail_memory(room);
    nm_err err = nm_out(safe, nm_escape_terminal(safe, room, text, length));
    nm_free(safe);
    return err;
}

static const char dim_begins[] = "\x1b[2m", dim_ends[] = "\x1b[22m";

static void on_end_dim(int signal_number)
{
    ssize_t written = write(STDOUT_FILENO, dim_ends, sizeof dim_ends - 1);
    (void)written;
    raise(signal_number);       /* SA_RESETHAND: now for good */
}

/* Whoever ends the program within dim text does not leave a dim terminal behind. */
static void guard_dim(bool on)
{
    static const int endings[] = {SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction before, action = {.sa_handler = on ? on_end_dim : SIG_DFL, .sa_flags = on ? SA_RESETHAND : 0};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (!sigaction(endings[i], NULL, &before) && before.sa_handler != SIG_IGN) sigaction(endings[i], &action, NULL);
}

nm_err nm_out_dim(bool on)
{
    if (!nm_term_colour(STDOUT_FILENO)) return NM_OK;
    if (on) guard_dim(true);
    nm_err err = nm_out_puts(on ? dim_begins : dim_ends);
    if (err == NM_OK && !on) err = nm_out_flush();
    if (!on) guard_dim(false);
    return err;
}

/* ---- Standard error ---------------------------------------------------------------------------------------------- */

static bool notes_quiet;

void nm_notes_quiet(bool quiet) { notes_quiet = quiet; }

void nm_note_error(const char *text)
{
    char safe[2048];
    nm_escape_terminal(safe, sizeof safe, text, strlen(text));
    fprintf(stderr, "nomoat: %s\n", safe);
}

void nm_note(const char *format, ...)
{
    char raw[1024];
    va_list ap;
    if (notes_quiet) return;
    va_start(ap, format);
    vsnprintf(raw, sizeof raw, format, ap);
    va_end(ap);
    nm_note_error(raw);
}

bool nm_meter_draw(void *arg, uint64_t done, uint64_t total)
{
    nm_meter *m = arg;
    uint64_t now = nm_clock_ns();
    if (notes_quiet || !nm_term_draws(STDERR_FILENO) || now - m->last_ns < 100000000u) return nm_interrupted;
    bool first = m->last_ns == 0;
    m->last_ns = now;
    if (first) return nm_interrupted;       /* what is quick shows nothing */
    fprintf(stderr, "\r\x1b[K%s %.0f %%", m->what, total ? 100.0 * (double)done / (double)total : 0.0);
    fflush(stderr);
    m->drawn = true;
    return nm_interrupted;
}

void nm_meter_clear(nm_meter *m)
{
    if (m->drawn) fputs("\r\x1b[K", stderr);
    m->drawn = false;
}

volatile sig_atomic_t nm_interrupted;
static void on_interrupt(int signal_number) { (void)signal_number; nm_cancel(&nm_interrupted, true); }

void nm_interrupts_catch(void)
{
    struct sigaction action = {.sa_handler = on_interrupt};     /* no SA_RESTART: a read at the prompt must end */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void nm_endings_catch(void)
{
    static const int endings[] = {SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        struct sigaction action;
        if (sigaction(endings[i], NULL, &action) || action.sa_handler == SIG_IGN) continue;      /* nohup */
        action = (struct sigaction){.sa_handler = on_interrupt};
        sigemptyset(&action.sa_mask);
        sigaction(endings[i], &action, NULL);
    }
}
