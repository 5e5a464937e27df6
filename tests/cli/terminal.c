/* A person at a terminal, for the command-line tests: runs a command on a pseudo terminal of 80 x 24, waits for what it shows, types, and
 * prints all that was shown. Nothing here depends on how fast the machine is, but for the patience below.
 *
 *   terminal [STEP...] -- COMMAND [ARGUMENT...]
 *     ?TEXT   waits until TEXT has been shown, searching from the end of what the last step found; ? alone for anything more
 *     =TEXT   types TEXT
 *     !TERM   sends the command SIGTERM
 *
 * After the last step it waits for the command to end. Exit code: the command's (128 + N after signal N), or 99, with a line on standard
 * error, where a text did not come, the command did not end, or it left the terminal raw. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 60000, SCREEN_MOST = 1 << 20, GAVE_UP = 99 };

static char screen[SCREEN_MOST];

typedef struct terminal { int fd; pid_t pid; char *screen; size_t length, seen; bool ended; } terminal;

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void give_up(const terminal *t, const char *what, const char *text)
{
    fwrite(t->screen, 1, t->length, stdout);
    fprintf(stderr, "terminal: %s%s\n", what, text);
    kill(-t->pid, SIGKILL);
    exit(GAVE_UP);
}

/* Reads what is shown, waiting for it until the deadline; false when that has passed. A closed terminal sets `ended`. */
static bool watch(terminal *t, int64_t deadline)
{
    struct pollfd p = {.fd = t->fd, .events = POLLIN};
    int64_t left = deadline - now_ms();
    if (left <= 0 || t->length == SCREEN_MOST) return false;
    if (poll(&p, 1, (int)left) <= 0) return true;
    ssize_t n = read(t->fd, t->screen + t->length, SCREEN_MOST - t->length);
    if (n > 0) t->length += (size_t)n;
    else if (n == 0 || errno != EINTR) t->ended = true;     /* Linux says EIO when the other side is gone */
    return true;
}

static void expect(terminal *t, const char *text)
{
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (;;) {
        size_t wanted = *text ? strlen(text) : 1, shown = t->length - t->seen;
        const char *found = *text ? memmem(t->screen + t->seen, shown, text, wanted) : shown ? t->screen + t->seen : NULL;
        if (found) {
            t->seen = (size_t)(found - t->screen) + wanted;
            return;
        }
        if (t->ended || !watch(t, deadline)) give_up(t, "never shown: ", text);
    }
}

static void type(terminal *t, const char *text)
{
    if (write(t->fd, text, strlen(text)) != (ssize_t)strlen(text)) give_up(t, "could not be typed: ", text);
}

static void start(terminal *t, char **command)
{
    struct winsize size = {.ws_row = 24, .ws_col = 80};
    t->fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (t->fd < 0 || grantpt(t->fd) || unlockpt(t->fd)) exit(GAVE_UP);
    int other = open(ptsname(t->fd), O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (other < 0 || ioctl(other, TIOCSWINSZ, &size)) exit(GAVE_UP);
    t->pid = fork();
    if (t->pid == 0) {
        static const int inherited[] = {SIGINT, SIGQUIT, SIGHUP, SIGTERM};     /* a harness in the background ignores some of them */
        for (size_t i = 0; i < sizeof inherited / sizeof *inherited; i++) signal(inherited[i], SIG_DFL);
        setsid();
        ioctl(other, TIOCSCTTY, 0);
        for (int fd = 0; fd < 3; fd++) dup2(other, fd);
        execvp(command[0], command);
        _exit(127);
    }
    close(other);
}

int main(int argc, char **argv)
{
    terminal t = {.screen = screen};
    struct termios mode;
    int at = 1, status;
    while (at < argc && strcmp(argv[at], "--")) at++;
    if (at + 1 >= argc) return 2;
    start(&t, argv + at + 1);
    for (int i = 1; i < at; i++) {
        if (argv[i][0] == '?') expect(&t, argv[i] + 1);
        else if (argv[i][0] == '!') kill(t.pid, SIGTERM);
        else type(&t, argv[i] + 1);
    }
    for (int64_t deadline = now_ms() + PATIENCE_MS; !t.ended;)
        if (!watch(&t, deadline)) give_up(&t, "the command did not end", "");
    waitpid(t.pid, &status, 0);
    if (tcgetattr(t.fd, &mode) || !(mode.c_lflag & ICANON) || !(mode.c_lflag & ECHO)) give_up(&t, "the terminal was left raw", "");
    fwrite(t.screen, 1, t.length, stdout);
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}
