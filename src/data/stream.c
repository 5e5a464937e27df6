/* Bytes of a data file, unpacked on the way. */
#include "data/stream.h"

#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "nm_config.h"
#include "os/file.h"

#if NM_HAVE_ZLIB
#include <zlib.h>
#endif

enum { PIECE = 64 << 10 };

struct nm_stream {
    char *name;
    int fd;                     /* -1: memory */
    bool own_fd;
    const char *memory;
    size_t memory_left;
    char *packed;               /* PIECE bytes as they are in a gzip file; NULL: the file is not packed */
    size_t packed_at, packed_n;
    bool source_ended, ended;
#if NM_HAVE_ZLIB
    z_stream z;
    bool unpacking;             /* z is set up; a file may hold several parts */
#endif
    char *bytes;                /* PIECE: [at, n) are to come */
    size_t at, n;
    uint64_t line;
    nm_err err;
    char *fault;                /* the message of err */
};

static void fail(nm_stream *s, nm_err err)
{
    if (s->err != NM_OK) return;
    s->err = err;
    s->ended = true;
    s->fault = nm_strndup(nm_error_text(), strlen(nm_error_text()));
}

/* As the file has them: at least one byte unless it has ended. */
static nm_err read_raw(nm_stream *s, char *out, size_t room, size_t *got)
{
    if (s->fd >= 0) {
        NM_TRY(nm_fd_some(s->fd, s->name, out, room, got));
    } else {
        *got = s->memory_left < room ? s->memory_left : room;
        if (*got) memcpy(out, s->memory, *got);
        s->memory += *got;
        s->memory_left -= *got;
    }
    s->source_ended = *got == 0;
    return NM_OK;
}

/* ---- gzip --------------------------------------------------------------------------------------------------------------------- */

#if NM_HAVE_ZLIB

static void *z_alloc(void *arg, unsigned count, unsigned size) { return (void)arg, nm_calloc(count, size); }
static void z_free(void *arg, void *pointer) { (void)arg, nm_free(pointer); }

static nm_err unpack_begin(nm_stream *s)
{
    s->z = (z_stream){.zalloc = z_alloc, .zfree = z_free};
    if (inflateInit2(&s->z, 15 + 16) != Z_OK) return nm_fail_memory(sizeof s->z);      /* largest window; gzip's frame */
    s->unpacking = true;
    return NM_OK;
}

static void unpack_end(nm_stream *s)
{
    if (s->unpacking) inflateEnd(&s->z);
    s->unpacking = false;
}

static nm_err unpack_some(nm_stream *s, char *out, size_t room, size_t *got)
{
    s->z.next_in = (unsigned char *)s->packed + s->packed_at;
    s->z.avail_in = (unsigned)(s->packed_n - s->packed_at);
    s->z.next_out = (unsigned char *)out;
    s->z.avail_out = (unsigned)room;
    int r = inflate(&s->z, Z_NO_FLUSH);
    s->packed_at = s->packed_n - s->z.avail_in;
    *got = room - s->z.avail_out;
    if (r == Z_STREAM_END) unpack_end(s);
    else if (r == Z_MEM_ERROR) return nm_fail_memory(0);
    else if (r != Z_OK && r != Z_BUF_ERROR)
        return nm_fail(NM_BAD_FILE, "%s: damaged gzip data (%s): fetch the file again", s->name, s->z.msg ? s->z.msg : "bad block");
    return NM_OK;
}

/* Unpacks until there are bytes, or none any more. */
static nm_err read_packed(nm_stream *s, char *out, size_t room, size_t *got)
{
    for (*got = 0; !*got;) {
        if (s->packed_at == s->packed_n) {
            s->packed_at = s->packed_n = 0;
            NM_TRY(read_raw(s, s->packed, PIECE, &s->packed_n));
        }
        if (s->source_ended && s->unpacking) return nm_fail(NM_BAD_FILE, "%s: the gzip data is cut: fetch the file again", s->name);
        if (s->source_ended) return NM_OK;
        if (!s->unpacking) NM_TRY(unpack_begin(s));
        NM_TRY(unpack_some(s, out, room, got));
    }
    return NM_OK;
}

#else

static void unpack_end(nm_stream *s) { (void)s; }

static nm_err read_packed(nm_stream *s, char *out, size_t room, size_t *got)
{
    (void)out, (void)room, (void)got;
    return nm_fail(NM_REFUSED, "%s: packed by gzip, and this build reads none: unpack it with gunzip, or build with zlib", s->name);
}

#endif

/* ---- What kind of file ------------------------------------------------------------------------------------------------------ */

static nm_err refuse_parquet(const nm_stream *s)
{
    return nm_fail(NM_REFUSED, "%s: a Parquet file: convert it by python3 -c \"import pandas; pandas.read_parquet('%s').to_json('data.jsonl', "
                   "orient='records', lines=True)\" and give data.jsonl", s->name, s->name);
}

/* Looks at the first bytes: unpacks them if they are packed, drops a byte order mark. */
static nm_err begin(nm_stream *s)
{
    for (size_t got = 1; s->n < 4 && got; s->n += got) NM_TRY(read_raw(s, s->bytes + s->n, PIECE - s->n, &got));
    if (s->n >= 2 && !memcmp(s->bytes, "\x1f\x8b", 2)) {
        if (!(s->packed = nm_malloc(PIECE))) return nm_fail_memory(PIECE);
        memcpy(s->packed, s->bytes, s->n);
        s->packed_n = s->n;
        s->n = 0;
        s->source_ended = false;        /* it is asked again */
        for (size_t got = 1; s->n < 4 && got; s->n += got) NM_TRY(read_packed(s, s->bytes + s->n, PIECE - s->n, &got));
    }
    if (s->n >= 4 && !memcmp(s->bytes, "PAR1", 4)) return refuse_parquet(s);
    if (s->n >= 3 && !memcmp(s->bytes, "\xef\xbb\xbf", 3)) s->at = 3;
    if (memchr(s->bytes, 0, s->n)) return nm_fail(NM_BAD_FILE, "%s: holds zero bytes: give text in UTF-8", s->name);
    return NM_OK;
}

static nm_err open_common(nm_stream **out, nm_stream from)
{
    *out = NULL;
    nm_stream *s = nm_calloc(1, sizeof *s);
    if (!s) return nm_fail_memory(sizeof *s);
    const char *name = from.name;
    *s = from;
    s->line = 1;
    s->name = nm_strndup(name, strlen(name));
    s->bytes = s->name ? nm_malloc(PIECE) : NULL;
    nm_err err = s->bytes ? begin(s) : nm_fail_memory(PIECE);
    if (err != NM_OK) {
        s->own_fd = false;      /* the caller's still */
        nm_stream_close(&s);
    }
    *out = s;
    return err;
}

nm_err nm_stream_open(nm_stream **out, const char *path)
{
    bool standard = !strcmp(path, "-");
    nm_stream from = {.name = standard ? (char[]){"standard input"} : (char *)path, .fd = STDIN_FILENO, .own_fd = !standard};
    *out = NULL;
    if (!standard) NM_TRY(nm_fd_open(&from.fd, path));
    nm_err err = open_common(out, from);
    if (err != NM_OK && !standard) close(from.fd);
    return err;
}

nm_err nm_stream_open_memory(nm_stream **out, const void *data, size_t size, const char *name)
{
    return open_common(out, (nm_stream){.name = (char *)name, .fd = -1, .memory = data, .memory_left = size});
}

void nm_stream_close(nm_stream **stream)
{
    nm_stream *s = *stream;
    *stream = NULL;
    if (!s) return;
    unpack_end(s);
    if (s->own_fd) close(s->fd);
    nm_free(s->packed);
    nm_free(s->bytes);
    nm_free(s->fault);
    nm_free(s->name);
    nm_free(s);
}

/* ---- Bytes -------------------------------------------------------------------------------------------------------------------- */

const char *nm_stream_name(const nm_stream *s) { return s->name; }
uint64_t nm_stream_line(const nm_stream *s) { return s->line; }

nm_err nm_stream_fault(const nm_stream *s)
{
    if (s->err == NM_OK) return NM_OK;
    return s->fault ? nm_fail(s->err, "%s", s->fault) : nm_fail_memory(0);
}

static void refill(nm_stream *s)
{
    if (s->ended) return;
    s->at = s->n = 0;
    nm_err err = s->packed ? read_packed(s, s->bytes, PIECE, &s->n) : read_raw(s, s->bytes, PIECE, &s->n);
    if (err == NM_OK && s->n && memchr(s->bytes, 0, s->n))
        err = nm_fail(NM_BAD_FILE, "%s: holds zero bytes behind line %llu: give text in UTF-8", s->name, (unsigned long long)s->line);
    if (err != NM_OK) {
        s->n = 0;
        fail(s, err);
    }
    if (!s->n) s->ended = true;
}

int nm_stream_peek(nm_stream *s)
{
    if (s->at == s->n) refill(s);
    return s->at < s->n ? (unsigned char)s->bytes[s->at] : -1;
}

int nm_stream_next(nm_stream *s)
{
    int c = nm_stream_peek(s);
    if (c < 0) return c;
    s->at++;
    s->line += c == '\n';
    return c;
}

size_t nm_stream_ahead(nm_stream *s, const char **bytes)
{
    nm_stream_peek(s);
    *bytes = s->bytes + s->at;
    return s->n - s->at;
}
