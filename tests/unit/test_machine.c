/* Cores and memory, read from made-up /proc and /sys trees: quotas and limits of both control group versions, siblings, affinity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "os/clock.h"
#include "os/file.h"
#include "os/machine.h"

static char root[256];

static void put(const char *name, const char *text)
{
    char path[512], folder[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    snprintf(folder, sizeof folder, "%s", path);
    *strrchr(folder, '/') = 0;
    assert_int_equal(nm_folder_make(folder, 0777), NM_OK);
    assert_int_equal(nm_file_write(path, text, strlen(text)), NM_OK);
}

static int make_root(void **state)
{
    const char *base = getenv("TMPDIR");
    snprintf(root, sizeof root, "%s/nomoat-machine-XXXXXX", base ? base : "/tmp");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

/* Four CPUs on two cores: 0 and 2 are siblings, 1 and 3 too. */
static void put_cpus(void)
{
    put("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2\n");
    put("sys/devices/system/cpu/cpu1/topology/core_cpus_list", "1,3\n");
    put("sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n");
    put("sys/devices/system/cpu/cpu3/topology/core_cpus_list", "1,3\n");
}

static void test_cores(void **state)
{
    const bool all[4] = {true, true, true, true}, siblings[4] = {true, false, true, false}, upper[4] = {false, false, true, true};
    assert_int_equal(nm_machine_cores_at(root, all, 4), 4);     /* nothing known: each CPU is a core */
    put_cpus();
    assert_int_equal(nm_machine_cores_at(root, all, 4), 2);
    assert_int_equal(nm_machine_cores_at(root, siblings, 4), 1);
    assert_int_equal(nm_machine_cores_at(root, upper, 4), 2);   /* the first sibling of each need not be ours */
    assert_int_equal(nm_machine_cores_at(root, all, 0), 1);
}

static void test_quota_v2(void **state)
{
    const bool all[4] = {true, true, true, true};
    put("proc/self/cgroup", "0::/user/job\n");
    put("sys/fs/cgroup/user/job/cpu.max", "max 100000\n");
    assert_int_equal(nm_machine_cores_at(root, all, 4), 4);
    put("sys/fs/cgroup/user/cpu.max", "250000 100000\n");       /* a group above counts; half a CPU does not */
    assert_int_equal(nm_machine_cores_at(root, all, 4), 2);
    put("sys/fs/cgroup/user/job/cpu.max", "50000 100000\n");
    assert_int_equal(nm_machine_cores_at(root, all, 4), 1);
    put("sys/fs/cgroup/user/job/cpu.max", "garbage");
    put("sys/fs/cgroup/user/cpu.max", "100000 0\n");
    assert_int_equal(nm_machine_cores_at(root, all, 4), 4);
}

static void test_quota_v1(void **state)
{
    const bool all[4] = {true, true, true, true};
    put("proc/self/cgroup", "12:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n");      /* a container sees its own group at the top */
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    assert_int_equal(nm_machine_cores_at(root, all, 4), 3);
    put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n");
    assert_int_equal(nm_machine_cores_at(root, all, 4), 3);
    put("sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "200000\n");
    assert_int_equal(nm_machine_cores_at(root, all, 4), 2);
}

static void test_memory(void **state)
{
    assert_int_equal(nm_machine_memory_available_at(root), 0);
    put("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\n");
    assert_int_equal(nm_machine_memory_total_at(root), 1000 * 1024);
    assert_int_equal(nm_machine_memory_available_at(root), 800 * 1024);
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/memory.max", "500000\n");
    put("sys/fs/cgroup/a/memory.current", "450000\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    assert_int_equal(nm_machine_memory_total_at(root), 500000);
    assert_int_equal(nm_machine_memory_available_at(root), 50000);
    put("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\nactive_file 50000\nfile 7\n");
    assert_int_equal(nm_machine_memory_available_at(root), 200000);     /* cached pages can be dropped */
    put("sys/fs/cgroup/a/b/memory.high", "1000\n");
    put("sys/fs/cgroup/a/b/memory.current", "2000\n");
    assert_int_equal(nm_machine_memory_available_at(root), 0);
    put("proc/self/cgroup", "5:memory:/x\n0::/\n");
    put("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "300000\n");
    put("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "100000\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");     /* v1's way to say none */
    assert_int_equal(nm_machine_memory_available_at(root), 200000);
}

static void test_hostile(void **state)
{
    const bool one[1] = {true};
    put("proc/self/cgroup", "no colons\n:\n::\n0::/../..\n7:cpu\n0::/../../../etc");
    put("proc/meminfo", "MemAvailable: 99999999999999999999999999 kB\nMemTotal");
    assert_int_equal(nm_machine_cores_at(root, one, 1), 1);
    assert_int_equal(nm_machine_memory_available_at(root), 0);
    assert_int_equal(nm_machine_memory_total_at(root), 0);
}

static void test_this_machine(void **state)
{
    assert_in_range(nm_machine_cores(), 1, 4096);
    assert_true(nm_machine_memory_available() > 0);
    assert_true(nm_machine_memory_total() >= nm_machine_memory_available());
    assert_true(nm_machine_resident() > 0);
    uint64_t t = nm_clock_ns();
    usleep(1000);
    assert_true(nm_clock_ns() - t >= 1000000 && nm_clock_seconds() > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cores, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_quota_v2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_quota_v1, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_memory, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_hostile, make_root, remove_root),
        cmocka_unit_test(test_this_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
