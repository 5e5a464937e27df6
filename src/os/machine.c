/* Cores and memory from /proc and /sys. Every reading is a short text file; a missing or odd one counts as "no limit here". */
#include "os/machine.h"

#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { TEXT_SIZE = 16384, MAX_CPUS = 4096 };

/* Reads a file whole, or its first TEXT_SIZE - 1 bytes, zero-terminated. False if it cannot be read. No allocation: these readings must
 * work when memory is what lacks. */
static bool read_text(char text[TEXT_SIZE], const char *path)
{
    size_t n = 0;
    ssize_t got;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    while (n < TEXT_SIZE - 1 && (got = read(fd, text + n, TEXT_SIZE - 1 - n)) > 0) n += (size_t)got;
    close(fd);
    text[n] = 0;
    return n > 0;
}

/* A decimal number at s; UINT64_MAX for "max", anything else and what is too large: no limit. */
static uint64_t parse_limit(const char *s)
{
    char *end;
    while (*s == ' ' || *s == '\t') s++;
    if (*s < '0' || *s > '9') return UINT64_MAX;
    uint64_t v = strtoull(s, &end, 10);
    return end == s ? UINT64_MAX : v;
}

/* The number behind "key" at the start of a line; 0 if there is none. */
static uint64_t find_number(const char *text, const char *key)
{
    size_t n = strlen(key);
    for (const char *line = text; line; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, key, n) == 0 && (line[n] == ' ' || line[n] == ':')) {
            uint64_t v = parse_limit(line + n + 1);
            return v == UINT64_MAX ? 0 : v;
        }
    }
    return 0;
}

static uint64_t read_limit(const char *folder, const char *name)
{
    char path[PATH_MAX], text[TEXT_SIZE];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path || !read_text(text, path)) return UINT64_MAX;
    return parse_limit(text);
}

/* ---- Control groups --------------------------------------------------------------------------------------------------- */

/* Called with each folder from the process's group up to the mount point. */
typedef void (*group_fn)(void *arg, const char *folder);

static void walk_up(const char *mount, const char *group, group_fn fn, void *arg)
{
    char folder[PATH_MAX];
    size_t base = strlen(mount);
    int n = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (n < 0 || n >= (int)sizeof folder) return;
    for (;;) {
        fn(arg, folder);
        char *slash = strrchr(folder, '/');
        if (strlen(folder) <= base || !slash || slash < folder + base) return;
        *slash = 0;
    }
}

static bool has_controller(const char *list, size_t length, const char *want)
{
    size_t n = strlen(want);
    for (size_t at = 0; at + n <= length; at++) {
        bool starts = at == 0 || list[at - 1] == ',';
        bool ends = at + n == length || list[at + n] == ',';
        if (starts && ends && strncmp(list + at, want, n) == 0) return true;
    }
    return false;
}

/* Walks the groups of one controller: v1 hierarchies by its name, and the unified one. A container often sees its own group mounted at
 * the top while /proc names the host's path: walking up ends at the mount point, so both are met. */
static void walk_groups(const char *root, const char *controller, group_fn v1, group_fn v2, void *arg)
{
    char path[PATH_MAX], text[TEXT_SIZE], mount[PATH_MAX];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (!read_text(text, path)) return;
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group) continue;
        size_t length = (size_t)(group - ++list);
        group++;
        if (strstr(group, "/..")) group = (char *)"/";      /* a group outside our namespace: only its mount point is visible */
        if (length == 0) {
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
            walk_up(mount, group, v2, arg);
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/unified", root);
            walk_up(mount, group, v2, arg);
        } else if (has_controller(list, length, controller)) {
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, controller);
            walk_up(mount, group, v1, arg);
        }
    }
}

static void least(uint64_t *value, uint64_t candidate)
{
    if (candidate < *value) *value = candidate;
}

/* ---- Cores ------------------------------------------------------------------------------------------------------------- */

/* arg: whole CPUs granted, UINT64_MAX = no quota. */
static void cpu_quota_v2(void *arg, const char *folder)
{
    char path[PATH_MAX], text[TEXT_SIZE];
    if (snprintf(path, sizeof path, "%s/cpu.max", folder) >= (int)sizeof path || !read_text(text, path)) return;
    const char *space = strchr(text, ' ');
    uint64_t quota = parse_limit(text), period = space ? parse_limit(space) : 100000;
    if (quota != UINT64_MAX && period && period != UINT64_MAX) least(arg, quota / period);
}

static void cpu_quota_v1(void *arg, const char *folder)
{
    uint64_t quota = read_limit(folder, "cpu.cfs_quota_us");    /* -1 = none, which parse_limit takes as no limit */
    uint64_t period = read_limit(folder, "cpu.cfs_period_us");
    if (quota != UINT64_MAX && period && period != UINT64_MAX) least(arg, quota / period);
}

/* The lowest-numbered hardware thread of the core that CPU `cpu` belongs to, or cpu itself where the system does not say. */
static int core_of(const char *root, int cpu)
{
    static const char *const names[] = {"core_cpus_list", "thread_siblings_list"};  /* new name first */
    char path[PATH_MAX], text[TEXT_SIZE];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/%s", root, cpu, names[i]);
        if (!read_text(text, path)) continue;
        uint64_t first = parse_limit(text);
        if (first < MAX_CPUS) return (int)first;
    }
    return cpu;
}

int nm_machine_cores_at(const char *root, const bool *cpus, int n_cpus)
{
    bool seen[MAX_CPUS] = {false};
    uint64_t quota = UINT64_MAX;
    int cores = 0;
    for (int i = 0; i < n_cpus && i < MAX_CPUS; i++) {
        int core = cpus[i] ? core_of(root, i) : -1;
        if (core < 0 || seen[core]) continue;
        seen[core] = true;
        cores++;
    }
    walk_groups(root, "cpu", cpu_quota_v1, cpu_quota_v2, &quota);
    if (quota < (uint64_t)cores) cores = (int)quota;
    return cores < 1 ? 1 : cores;
}

int nm_machine_cores(void)
{
    bool cpus[MAX_CPUS] = {false};
    char set[MAX_CPUS / 8];
    memset(set, 0, sizeof set);
    if (sched_getaffinity(0, sizeof set, (cpu_set_t *)(void *)set) != 0) {
        long n = sysconf(_SC_NPROCESSORS_ONLN);
        for (long i = 0; i < n && i < MAX_CPUS; i++) cpus[i] = true;
    } else {
        for (int i = 0; i < MAX_CPUS; i++) cpus[i] = CPU_ISSET_S((size_t)i, sizeof set, (cpu_set_t *)(void *)set) != 0;
    }
    return nm_machine_cores_at("", cpus, MAX_CPUS);
}

/* ---- Memory ------------------------------------------------------------------------------------------------------------ */

typedef struct room { uint64_t limit, free; } room;

/* Takes one group's limit and use into account. Pages of files on the group's lists can be dropped, so they count as free. */
static void narrow(room *r, const char *folder, uint64_t limit, uint64_t used, const char *inactive, const char *active)
{
    char path[PATH_MAX], text[TEXT_SIZE];
    if (limit == UINT64_MAX) return;
    least(&r->limit, limit);
    if (used == UINT64_MAX) return;
    if (snprintf(path, sizeof path, "%s/memory.stat", folder) < (int)sizeof path && read_text(text, path)) {
        uint64_t cached = find_number(text, inactive) + find_number(text, active);
        used = used > cached ? used - cached : 0;
    }
    least(&r->free, limit > used ? limit - used : 0);
}

static void memory_v2(void *arg, const char *folder)
{
    uint64_t limit = read_limit(folder, "memory.max");
    least(&limit, read_limit(folder, "memory.high"));   /* beyond it the kernel throttles: nobody wants to live there */
    narrow(arg, folder, limit, read_limit(folder, "memory.current"), "inactive_file", "active_file");
}

static void memory_v1(void *arg, const char *folder)
{
    narrow(arg, folder, read_limit(folder, "memory.limit_in_bytes"), read_limit(folder, "memory.usage_in_bytes"),
        "total_inactive_file", "total_active_file");
}

/* A number of kilobytes from /proc/meminfo, in bytes. */
static uint64_t meminfo(const char *root, const char *key)
{
    char path[PATH_MAX], text[TEXT_SIZE];
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    return read_text(text, path) ? find_number(text, key) * 1024 : 0;
}

static room groups_room(const char *root)
{
    room r = {UINT64_MAX, UINT64_MAX};
    walk_groups(root, "memory", memory_v1, memory_v2, &r);
    return r;
}

uint64_t nm_machine_memory_available_at(const char *root)
{
    uint64_t free = meminfo(root, "MemAvailable");
    least(&free, groups_room(root).free);
    return free;
}

uint64_t nm_machine_memory_total_at(const char *root)
{
    uint64_t total = meminfo(root, "MemTotal");
    least(&total, groups_room(root).limit);
    return total;
}

/* Field `index` of /proc/self/statm (0 = address space, 1 = resident), in bytes. */
static uint64_t statm(int index)
{
    char text[TEXT_SIZE];
    const char *s = text;
    if (!read_text(text, "/proc/self/statm")) return 0;
    for (; index > 0 && s; index--) s = strchr(s + 1, ' ');
    uint64_t pages = s ? parse_limit(s) : UINT64_MAX;
    return pages == UINT64_MAX ? 0 : pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t nm_machine_memory_available(void)
{
    struct rlimit space;
    uint64_t free = nm_machine_memory_available_at("");
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
        uint64_t used = statm(0);
        least(&free, space.rlim_cur > used ? space.rlim_cur - used : 0);
    }
    return free;
}

uint64_t nm_machine_memory_total(void) { return nm_machine_memory_total_at(""); }
uint64_t nm_machine_resident(void) { return statm(1); }

uint64_t nm_machine_resident_peak(void)
{
    char text[TEXT_SIZE];
    const char *s = read_text(text, "/proc/self/status") ? strstr(text, "VmHWM:") : NULL;
    uint64_t kb = s ? strtoull(s + strlen("VmHWM:"), NULL, 10) : 0;
    return kb * 1024;
}
