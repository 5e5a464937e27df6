/* SHA-256 of files, by OpenSSL where the library was built with it. */
#include "hub/hub.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "nm_config.h"

#if NM_HAVE_OPENSSL
#include <openssl/evp.h>

enum { PIECE = 1 << 20 };

static nm_err hash_fd(EVP_MD_CTX *md, unsigned char *piece, int fd, const char *path, uint64_t *done, uint64_t total,
                      nm_progress_fn progress, void *arg)
{
    for (;;) {
        ssize_t got = read(fd, piece, PIECE);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return nm_fail(NM_FAILED, "%s: cannot be read: %s", path, strerror(errno));
        if (got == 0) return NM_OK;
        if (!EVP_DigestUpdate(md, piece, (size_t)got)) return nm_fail(NM_FAILED, "%s: SHA-256 failed", path);
        *done += (uint64_t)got;
        if (progress && progress(arg, *done, total)) return nm_fail(NM_INTERRUPTED, "%s: hashing was interrupted", path);
    }
}

nm_err nm_hash_file(char hex[65], const char *path, uint64_t *done, uint64_t total, nm_progress_fn progress, void *arg)
{
    nm_err err = NM_OK;
    unsigned char sum[32];
    unsigned length = 0;
    hex[0] = 0;
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    unsigned char *piece = nm_malloc(PIECE);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (!md || !piece) NM_GOTO(nm_fail_memory(PIECE));
    if (fd < 0) NM_GOTO(nm_fail(errno == ENOENT ? NM_NOT_FOUND : NM_FAILED, "%s: cannot be opened: %s", path, strerror(errno)));
    if (!EVP_DigestInit_ex(md, EVP_sha256(), NULL)) NM_GOTO(nm_fail(NM_FAILED, "%s: SHA-256 is not to be had", path));
    NM_GOTO(hash_fd(md, piece, fd, path, done, total, progress, arg));
    if (!EVP_DigestFinal_ex(md, sum, &length) || length != sizeof sum) NM_GOTO(nm_fail(NM_FAILED, "%s: SHA-256 failed", path));
    for (size_t i = 0; i < sizeof sum; i++) snprintf(hex + 2 * i, 3, "%02x", sum[i]);
out:
    if (fd >= 0) close(fd);
    nm_free(piece);
    EVP_MD_CTX_free(md);
    return err;
}
#else
nm_err nm_hash_file(char hex[65], const char *path, uint64_t *done, uint64_t total, nm_progress_fn progress, void *arg)
{
    (void)path, (void)done, (void)total, (void)progress, (void)arg;
    hex[0] = 0;
    return NM_OK;
}
#endif
