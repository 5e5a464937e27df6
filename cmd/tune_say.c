/* What a run of `nomoat tune` says while it works: the progress with its curve, and how to go on at the end. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common.h"
#include "tune.h"

/* ---- Progress: one line in place -------------------------------------------------------------------------------------------------------- */

enum { CURVE_MOST = 32, CURVE_LEAST = 8, LINE_MOST = 400 };

static int terminal_columns(void)
{
    struct winsize size;
    return !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col > 0 ? size.ws_col : 80;
}

/* Whether the terminal's bytes are UTF-8, as the locale's variables say. */
static bool speaks_utf8(void)
{
    const char *names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < 3; i++) {
        const char *value = getenv(names[i]);
        if (value && *value) return strstr(value, "UTF-8") || strstr(value, "utf8") || strstr(value, "UTF8") || strstr(value, "utf-8");
    }
    return false;
}

/* The losses so far as blocks from low to high, `width` of them at most; the bytes written. */
static size_t draw_curve(const nm_tune_history *h, int width, char *out)
{
    static const char *const block[] = {"\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"};
    double low = INFINITY, high = -INFINITY;
    int n = h->losses < width ? h->losses : width;
    size_t used = 0;
    for (int32_t i = 0; i < h->losses; i++) {
        low = fmin(low, (double)h->loss[i]);
        high = fmax(high, (double)h->loss[i]);
    }
    for (int i = 0; i < n; i++) {
        int from = (int)((int64_t)i * h->losses / n), to = (int)((int64_t)(i + 1) * h->losses / n);
        double sum = 0;
        for (int k = from; k < to; k++) sum += (double)h->loss[k];
        double height = high > low ? (sum / (to - from) - low) / (high - low) : 0;
        int level = (int)(height * 7.999);
        memcpy(out + used, block[level < 0 ? 0 : level > 7 ? 7 : level], 3);
        used += 3;
    }
    out[used] = 0;
    return used;
}

void nm_tune_show_progress(const nm_tune_state *t, const nm_train_report *r)
{
    char left[32], before[LINE_MOST], after[LINE_MOST], validation[40] = "", curve[3 * CURVE_MOST + 1] = "";
    if (!nm_term_draws(STDERR_FILENO)) return;
    double speed = t->tokens / t->seconds, rest = (double)(t->steps - r->step) * t->seconds / (double)(r->step - t->from);
    const nm_tune_look *look = t->history.looks ? &t->history.look[t->history.looks - 1] : NULL;
    if (look && look->validation >= 0) snprintf(validation, sizeof validation, "  val %.3f", look->validation);
    int first = snprintf(before, sizeof before, "step %lld/%lld  loss %.3f", (long long)r->step, (long long)t->steps, t->last_loss);
    int n = first + snprintf(after, sizeof after, "%s  %.0f tokens/s  %s left", validation, speed, nm_duration_text(rest, left));
    int room = terminal_columns() - n - 2;
    if (room >= CURVE_LEAST && speaks_utf8()) draw_curve(&t->history, room < CURVE_MOST ? room : CURVE_MOST, curve);
    bool colour = *curve && nm_term_colour(STDERR_FILENO);
    int columns = n + room + 1, rest_of_line = columns > first ? columns - first : 0;      /* one short of the terminal's: a line that wraps cannot be cleared */
    fprintf(stderr, "\r\x1b[K%.*s%s%s%s%s%.*s", columns, before, *curve ? " " : "", colour ? "\x1b[36m" : "", curve, colour ? "\x1b[39m" : "",
        *curve ? n : rest_of_line, after);
    fflush(stderr);
}

void nm_tune_clear_progress(void)
{
    if (nm_term_draws(STDERR_FILENO)) fputs("\r\x1b[K", stderr);
}

/* ---- The end ------------------------------------------------------------------------------------------------------------------------------- */

/* A word for a shell: in quotes where it needs them. */
static nm_err put_word(nm_str *s, const char *word)
{
    if (*word && !word[strspn(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./:+=@,-")]) return nm_str_puts(s, word);
    NM_TRY(nm_str_putc(s, '\''));
    for (; *word; word++) NM_TRY(*word == '\'' ? nm_str_puts(s, "'\\''") : nm_str_putc(s, *word));
    return nm_str_putc(s, '\'');
}

void nm_tune_tell_use(const char *model, const char *output, const char *folder, const char *what)
{
    nm_str word = {0}, command = {0};
    nm_err err = nm_str_printf(&word, "%s+%s", model, output);
    if (err == NM_OK) err = put_word(&command, word.data);
    if (err == NM_OK) nm_note("the adapter%s is in %s; to use it: nomoat run %s", what, folder, command.data);
    nm_str_free(&word);
    nm_str_free(&command);
}
