/* The program: a table of subcommands, what every run begins with, and the one place where errors are printed and become exit codes. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "commands.h"
#include "common.h"
#include "help.h"
#include "nm_config.h"

const nm_command *const nm_commands[] = {
    &nm_command_run,
#if NM_HAVE_MICROHTTPD
    &nm_command_serve,
#endif
    &nm_command_show, &nm_command_list, &nm_command_import, &nm_command_save, &nm_command_rm, &nm_command_tokenize, &nm_command_detokenize,
    &nm_command_template, &nm_command_score, &nm_command_perplexity, &nm_command_bench,
    &nm_command_tune, &nm_command_adapter, &nm_command_merge, &nm_command_effect,
    &nm_command_doctor, &nm_command_completion, &nm_command_man,
    NULL
};
enum { N_COMMANDS = sizeof nm_commands / sizeof *nm_commands - 1 };

const nm_command *nm_command_find(const char *name)
{
    for (size_t i = 0; nm_commands[i]; i++)
        if (!strcmp(nm_commands[i]->name, name)) return nm_commands[i];
    return NULL;
}

/* Adds text to a line of bounded size, control characters and invalid UTF-8 as '?'. */
static size_t add_safe(char *line, size_t n, size_t most, const char *text)
{
    for (size_t left = strlen(text); left;) {
        int used;
        int32_t code = nm_utf8_decode(text, left, &used);
        bool safe = code >= 0x20 && code != 0x7f && !(code >= 0x80 && code < 0xa0);
        if (n + (size_t)used > most) break;
        if (safe) memcpy(line + n, text, (size_t)used);
        else line[n] = '?';
        n += safe ? (size_t)used : 1;
        text += used;
        left -= (size_t)used;
    }
    return n;
}

/* A mapped model file that another program cuts short ends in SIGBUS. Only async-signal-safe calls; several threads may come here
 * at once, and one of them speaks. */
static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    static atomic_flag spoken = ATOMIC_FLAG_INIT;
    char line[2048];
    const char *name = nm_mapped_file_at(info->si_addr);
    (void)context;
    if (!name) {
        signal(signal_number, SIG_DFL);
        raise(signal_number);
        return;
    }
    while (atomic_flag_test_and_set(&spoken)) pause();
    size_t n = add_safe(line, 0, sizeof line, "nomoat: ");
    n = add_safe(line, n, sizeof line - 100, name);
    n = add_safe(line, n, sizeof line - 1, ": the file was cut or became unreadable while in use: restore it and run again");
    line[n++] = '\n';
    while (write(STDERR_FILENO, line, n) < 0 && errno == EINTR) continue;
    _exit(NM_BAD_FILE);
}

static void prepare_signals(void)
{
    struct sigaction bus = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&bus.sa_mask);
    sigaction(SIGBUS, &bus, NULL);
    signal(SIGPIPE, SIG_IGN);       /* nm_out sees EPIPE and ends the work quietly */
    signal(SIGXFSZ, SIG_IGN);       /* writing sees EFBIG and says so */
}

/* glibc takes ever larger blocks from the heap once one of their size was freed, and what is small above them keeps them resident: up to
 * 35 MB in training, more or less as threads happen to meet. At a fixed bound, its own first one, freed blocks go back at once. */
static void return_what_is_freed(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
#endif
}

static nm_err unknown_command(const char *name)
{
    const char *words[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++) words[i] = nm_commands[i]->name;
    const char *near = nm_nearest(name, words, N_COMMANDS);
    if (near) return nm_fail(NM_USAGE, "%s: no such command: did you mean '%s'?", name, near);
    return nm_fail(NM_USAGE, "%s: no such command: 'nomoat help' lists them", name);
}

static nm_err run_command(const nm_command *c, int argc, char **argv)
{
    int count = 0;
    void *settings = nm_calloc(1, c->settings_size);
    char **operands = nm_calloc((size_t)argc + 1, sizeof *operands);
    nm_err err = NM_OK;
    if (!settings || !operands) NM_GOTO(nm_fail_memory(c->settings_size));
    if (c->defaults) memcpy(settings, c->defaults, c->settings_size);
    NM_GOTO(nm_args_parse(c, argc, argv, settings, operands, &count));
    const nm_common *common = settings;
    if (common->help) NM_GOTO(nm_help_command(c));
    else if (common->version) NM_GOTO(nm_out_printf("nomoat %s\n", nm_version()));
    else {
        NM_GOTO(nm_common_apply(common));
        err = (nm_err)c->run(settings, count, operands);
    }
out:
    if (settings) nm_args_free(c, settings);
    nm_free(settings);
    nm_free(operands);
    return err;
}

static nm_err help(int argc, char **argv)
{
    if (argc < 3) return nm_help_overview(true);
    const nm_command *c = nm_command_find(argv[2]);
    return c ? nm_help_command(c) : unknown_command(argv[2]);
}

static nm_err dispatch(int argc, char **argv)
{
    if (argc < 2) return nm_help_overview(false);
    const char *first = argv[1];
    if (!strcmp(first, "help") || !strcmp(first, "--help") || !strcmp(first, "-h")) return help(argc, argv);
    if (!strcmp(first, "version") || !strcmp(first, "--version") || !strcmp(first, "-V")) return nm_out_printf("nomoat %s\n", nm_version());
    if (first[0] == '-') return nm_fail(NM_USAGE, "%s: a command comes first: nomoat COMMAND %s ..., see 'nomoat help'", first, first);
    const nm_command *c = nm_command_find(first);
    return c ? run_command(c, argc - 2, argv + 2) : unknown_command(first);
}

/* A standard stream that was closed by the caller: else the next file that is opened, a log or an adapter, would be it, and notes would go there. Opened
 * the wrong way round, so that using it still fails. */
static void hold_standard_streams(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF) (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
    hold_standard_streams();
    prepare_signals();
    return_what_is_freed();
    nm_err err = dispatch(argc, argv);
    char text[1024];
    snprintf(text, sizeof text, "%s", nm_error_text());
    nm_err flushed = nm_out_flush();
    if (nm_out_pipe_closed()) return NM_OK;     /* the reader has what it wanted */
    if (err == NM_OK && flushed != NM_OK) {
        err = flushed;
        snprintf(text, sizeof text, "%s", nm_error_text());
    }
    if (err != NM_OK && err != NM_INTERRUPTED) nm_note_error(text);
    return err;
}
