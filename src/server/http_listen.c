/* The socket that listens, and what can be said where its port is taken. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "base/mem.h"
#include "os/file.h"
#include "server/http_private.h"

enum { NAME_MOST = 256, PORTS_TRIED = 100, BACKLOG = 128 };

static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_INET) return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

static void set_port(struct sockaddr *a, int port)
{
    if (a->sa_family == AF_INET) ((struct sockaddr_in *)(void *)a)->sin_port = htons((uint16_t)port);
    else ((struct sockaddr_in6 *)(void *)a)->sin6_port = htons((uint16_t)port);
}

/* A listening socket, or -1 and errno. */
static int try_listen(const struct sockaddr *a, socklen_t length)
{
    int on = 1, off = 0, fd = socket(a->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (a->sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(fd, a, length) == 0 && listen(fd, BACKLOG) == 0) return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int free_port(struct sockaddr *a, socklen_t length, int port)
{
    for (int p = port + 1; p <= port + PORTS_TRIED && p <= 65535; p++) {
        set_port(a, p);
        int fd = try_listen(a, length);
        if (fd < 0) continue;
        close(fd);
        return p;
    }
    return 0;
}

/* ---- Whose port it is ---- */

/* The inode of the socket that listens on a port, as the system's table says; 0 if none. Line by line: it has every connection of a busy machine, behind those that listen. */
static unsigned long find_inode(const char *table, int port)
{
    enum { LISTENS = 10 };
    char line[512];
    unsigned long inode = 0;
    FILE *file = fopen(table, "re");
    while (file && !inode && fgets(line, sizeof line, file)) {
        unsigned local, state;
        unsigned long found;
        if (sscanf(line, "%*d: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*s %*s %lu", &local, &state, &found) != 3) continue;
        if (local == (unsigned)port && state == LISTENS) inode = found;
    }
    if (file) fclose(file);
    return inode;
}

static bool holds(const char *pid, unsigned long inode)
{
    char folder[64], path[400], target[64], wanted[64];
    snprintf(folder, sizeof folder, "/proc/%.20s/fd", pid);
    snprintf(wanted, sizeof wanted, "socket:[%lu]", inode);
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        ssize_t n = readlink(path, target, sizeof target - 1);
        if (n > 0) {
            target[n] = 0;
            found = strcmp(target, wanted) == 0;
        }
    }
    if (dir) closedir(dir);
    return found;
}

/* "NAME (process N)", or "" where that cannot be told. */
static void find_holder(char *out, size_t size, int port)
{
    unsigned long inode = find_inode("/proc/net/tcp", port);
    if (!inode) inode = find_inode("/proc/net/tcp6", port);
    DIR *dir = inode ? opendir("/proc") : NULL;
    out[0] = 0;
    for (struct dirent *e; dir && !out[0] && (e = readdir(dir));) {
        char path[64], *name;
        size_t length;
        if (strspn(e->d_name, "0123456789") != strlen(e->d_name) || !holds(e->d_name, inode)) continue;
        snprintf(path, sizeof path, "/proc/%.20s/comm", e->d_name);
        if (nm_file_read(path, NAME_MOST, &name, &length) != NM_OK) continue;
        name[strcspn(name, "\n")] = 0;
        snprintf(out, size, "%.64s (process %.20s)", name, e->d_name);
        nm_free(name);
    }
    if (dir) closedir(dir);
}

static nm_err fail_taken(struct sockaddr *a, socklen_t length, const char *host, int port)
{
    char holder[128], hint[64] = "another port with --port";
    int other = free_port(a, length, port);
    find_holder(holder, sizeof holder, port);
    if (other) snprintf(hint, sizeof hint, "--port %d, which is free", other);
    return nm_fail(NM_FAILED, "port %d of %s is taken by %s: end that, or give %s", port, host, holder[0] ? holder : "another program", hint);
}

/* ---- The socket ---- */

static int port_of(int fd, int wanted)
{
    struct sockaddr_storage a = {0};
    socklen_t length = sizeof a;
    if (getsockname(fd, (struct sockaddr *)&a, &length) != 0) return wanted;
    return ntohs(a.ss_family == AF_INET ? ((struct sockaddr_in *)&a)->sin_port : ((struct sockaddr_in6 *)&a)->sin6_port);
}

static nm_err listen_at(int *fd, int *port, struct addrinfo *at, const char *host, int wanted, bool keyed)
{
    if (at->ai_family != AF_INET && at->ai_family != AF_INET6) return nm_fail(NM_USAGE, "cannot listen on \"%s\": give an address of this machine", host);
    if (!keyed && !is_loopback(at->ai_addr))
        return nm_fail(NM_REFUSED, "without a key, others in the network could use this server at %s: give one with --api-key-file, or listen on 127.0.0.1", host);
    set_port(at->ai_addr, wanted);
    *fd = try_listen(at->ai_addr, at->ai_addrlen);
    if (*fd < 0 && errno == EADDRINUSE) return fail_taken(at->ai_addr, at->ai_addrlen, host, wanted);
    if (*fd < 0 && errno == EACCES) return nm_fail(NM_FAILED, "port %d needs more rights than this user has: give one from 1024 on with --port", wanted);
    if (*fd < 0) return nm_fail(NM_FAILED, "cannot listen on %s, port %d: %s", host, wanted, strerror(errno));
    *port = port_of(*fd, wanted);
    return NM_OK;
}

nm_err nm_http_listen(int *fd, int *port, const char *host, int wanted, bool keyed)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    if (wanted < 0 || wanted > 65535) return nm_fail(NM_USAGE, "port %d: give one from 1 to 65535, or 0 for any that is free", wanted);
    int code = host[0] ? getaddrinfo(host, NULL, &hints, &found) : EAI_NONAME;
    if (code != 0) return nm_fail(NM_USAGE, "cannot listen on \"%s\": %s; give an address of this machine", host, gai_strerror(code));
    nm_err err = listen_at(fd, port, found, host, wanted, keyed);
    freeaddrinfo(found);
    return err;
}
