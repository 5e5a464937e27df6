/* The log of `nomoat tune`: each step once, also after a kill at any moment: a step's line is on the disk before a checkpoint that holds the step, and a
 * resumed run first drops the lines behind its checkpoint. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "tune/tune_impl.h"

enum { LINE_MOST = 1 << 12 };

/* A pipe or a device has no past to go on behind, and reading it could wait for ever. */
static bool is_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && S_ISREG(st.st_mode);
}

static nm_err failed(const nm_tune *t) { return nm_fail(NM_FAILED, "%s: %s: the log cannot be written", t->set->log, strerror(errno)); }

/* The step that a line of ours is of; -1 for another line, or a cut one. */
static long long step_of(const char *line)
{
    long long step;
    size_t n = strlen(line);
    if (n < 3 || line[n - 1] != '\n' || line[n - 2] != '}' || sscanf(line, "{\"step\": %lld,", &step) != 1) return -1;
    return step;
}

/* Where the lines of steps up to `last` end: what a resumed run goes on behind. */
static long end_of(FILE *log, int64_t last)
{
    char line[LINE_MOST];
    long end = 0;
    while (fgets(line, sizeof line, log)) {
        long long step = step_of(line);
        if (step < 0 || step > last) break;
        end = ftell(log);
    }
    return end;
}

nm_err nm_tune_open_log(nm_tune *t)
{
    if (!t->set->log) return NM_OK;
    if (t->set->resume && is_file(t->set->log) && (t->log = fopen(t->set->log, "r+"))) {
        long end = end_of(t->log, t->at.from - (t->pending.step > 0));
        if (fseek(t->log, end, SEEK_SET) || ftruncate(fileno(t->log), end)) return failed(t);
        return NM_OK;
    }
    t->log = fopen(t->set->log, "w");
    return t->log ? NM_OK : failed(t);
}

nm_err nm_tune_log_step(nm_tune *t, const nm_train_report *r, double validation, double forgetting)
{
    nm_str s = {0};
    if (!t->log) return NM_OK;
    nm_err err = nm_str_printf(&s, "{\"step\": %lld, \"loss\": %.9g, \"grad_norm\": %.9g, \"lr\": %.9g, "
        "\"supervised_tokens\": %lld, \"tokens\": %lld, \"seconds\": %.3f, \"arithmetic\": \"%s\"",
        (long long)r->step, r->loss, r->grad_norm, (double)r->lr, (long long)r->supervised, (long long)r->tokens, r->seconds, nm_trainer_describe(t->trainer)->arithmetic);
    if (err == NM_OK && t->anchor) err = nm_str_printf(&s, ", \"anchor\": %.6g", r->anchor);
    if (err == NM_OK && t->replay) err = nm_str_printf(&s, ", \"kept_tokens\": %lld", (long long)t->kept_tokens);
    if (err == NM_OK && validation >= 0) err = nm_str_printf(&s, ", \"val_loss\": %.9g", validation);
    if (err == NM_OK && forgetting >= 0) err = nm_str_printf(&s, ", \"forgetting\": %.6g", forgetting);
    if (err == NM_OK) err = nm_str_puts(&s, "}\n");
    if (err == NM_OK && (fwrite(s.data, 1, s.length, t->log) != s.length || fflush(t->log))) err = failed(t);
    nm_str_free(&s);
    return err;
}

nm_err nm_tune_flush_log(nm_tune *t)
{
    if (!t->log || (!fflush(t->log) && (!fsync(fileno(t->log)) || errno == EINVAL || errno == EROFS))) return NM_OK;      /* a pipe cannot, and need not */
    return failed(t);
}
