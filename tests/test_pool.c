/* SPDX-License-Identifier: Apache-2.0 */
/* test_pool.c - host memory: placed on NUMA nodes, locked. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/sanitized.h"
#include "offload/pool.h"
#include "zero/device/host.h"

#include <check.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define OK(call)                                                    \
    do {                                                            \
        zero_error_t e_ = {0};                                      \
        zero_error_t *error = &e_;                                  \
        ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, e_.text); \
    } while (0)

static char said[4096];

static void remember(void *ctx, zero_log_level_t level, const char *text)
{
    (void)ctx, (void)level;
    snprintf(said, sizeof said, "%s", text);
}

static char *memory(uint64_t bytes)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(p, MAP_FAILED);
    memset(p, 7, bytes);
    return p;
}

static bool all(const char *p, uint64_t bytes, char value)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (p[i] != value)
            return false;
    return true;
}

/* The bytes that are locked, according to the system. */
static uint64_t locked_bytes(void)
{
    char line[256];
    unsigned long long kilobytes = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmLck: %llu", &kilobytes) == 1)
            break;
    fclose(f);
    return kilobytes * 1024;
}

START_TEST(ranges_are_checked)
{
    uint64_t page = zero_host_page();
    char *p = memory(4 * page);
    zero_error_t e = {0};
    int nodes;
    bool locked;
    ck_assert_int_eq(zero_host_place(p + 1, page, NULL, &nodes, NULL, NULL, &e), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_host_place(p, page + 1, NULL, &nodes, NULL, NULL, &e), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_host_place(p, 0, NULL, &nodes, NULL, NULL, &e), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_host_lock(p + 1, page, &locked, NULL, NULL, &e), ZERO_ERR_ARG);
    munmap(p + 2 * page, page);
    ck_assert_int_eq(zero_host_lock(p, 4 * page, &locked, NULL, NULL, &e), ZERO_ERR_ARG);
    ck_assert(!locked);
    ck_assert_uint_eq(locked_bytes(), 0);
    munmap(p, 2 * page);
    munmap(p + 3 * page, page);
}
END_TEST

START_TEST(memory_is_locked)
{
    uint64_t bytes = 8 * zero_host_page();
    char *p = memory(bytes);
    bool locked;
    OK(zero_host_lock(p, bytes, &locked, remember, NULL, error));
    if (locked) {
        ck_assert_uint_eq(locked_bytes(), bytes);
        zero_host_unlock(p, bytes);
    } else
        ck_assert_msg(has_names(said, "`ulimit -l`"), "log: %s", said);
    ck_assert_uint_eq(locked_bytes(), 0);
    munmap(p, bytes);
}
END_TEST

START_TEST(a_limit_on_locked_memory_is_no_error)
{
    uint64_t page = zero_host_page(), bytes = 8 * page;
    char *p = memory(bytes);
    char part[64];
    bool locked = true;
    struct rlimit limit = {2 * page, 2 * page};
    ck_assert_int_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
    /* The superuser has no limit. The test's process ends with this test. */
    if (geteuid() == 0)
        ck_assert_int_eq(seteuid(65534), 0);
    OK(zero_host_lock(p, bytes, &locked, remember, NULL, error));
    ck_assert(!locked);
    snprintf(part, sizeof part, "%llu `ulimit -l`", (unsigned long long)(2 * page));
    ck_assert_msg(has_names(said, part), "log: %s", said);
    ck_assert_uint_eq(locked_bytes(), 0);
    ck_assert(all(p, bytes, 7));
    munmap(p, bytes);
}
END_TEST

START_TEST(memory_is_placed)
{
    uint64_t bytes = 64 * zero_host_page();
    char *p = memory(bytes);
    int nodes = -1;
    OK(zero_host_place(p, bytes, NULL, &nodes, remember, NULL, error));
    ck_assert_msg(nodes > 0 || said[0] != '\0', "neither placed nor said why not: %s", said);
    ck_assert(all(p, bytes, 7));
    munmap(p, bytes);
}
END_TEST

#if defined(HAVE_HWLOC)

/* The policy of the mapping that begins at p, according to /proc/self/numa_maps ("default", "prefer:0", ...); "" if the
 * file is missing. */
static void policy(const char *p, char *out, size_t size)
{
    char line[512];
    unsigned long long at;
    FILE *f = fopen("/proc/self/numa_maps", "r");
    *out = '\0';
    while (f && fgets(line, sizeof line, f)) {
        char word[128];
        if (sscanf(line, "%llx %127s", &at, word) == 2 && at == (uintptr_t)p)
            snprintf(out, size, "%s", word);
    }
    if (f)
        fclose(f);
}

/* hwloc describes a machine of two nodes, each with half of the CPUs. The real system, which has at least node 0,
 * executes the calls. */
START_TEST(the_nodes_of_the_thread_are_chosen)
{
    uint64_t bytes = 64 * zero_host_page();
    char found[128], machine[64];
    int nodes = -1, cpus = 0;
    cpu_set_t may, some;
    ck_assert_int_eq(sched_getaffinity(0, sizeof may, &may), 0);
    while (CPU_ISSET(cpus, &may))
        cpus++;
    if (cpus != CPU_COUNT(&may) || cpus % 2)
        return; /* this machine's CPUs do not fit that description */
    snprintf(machine, sizeof machine, "numa:2(memory=1GB) pu:%d", cpus / 2);
    setenv("HWLOC_SYNTHETIC", machine, 1);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    for (int wanted = 1; wanted <= 2; wanted++) { /* the thread runs on CPU 0; on all CPUs */
        char *p = memory(bytes);
        CPU_ZERO(&some);
        CPU_SET(0, &some);
        ck_assert_int_eq(sched_setaffinity(0, sizeof some, wanted == 1 ? &some : &may), 0);
        OK(zero_host_place(p, bytes, NULL, &nodes, remember, NULL, error));
        policy(p, found, sizeof found);
        if (nodes == 0) /* a container may refuse it */
            ck_assert_msg(said[0] != '\0', "log: %s", said);
        else {
            ck_assert_int_eq(nodes, wanted);
            ck_assert_msg(!*found || strstr(found, wanted == 1 ? "prefer" : "interleave") != NULL, "policy: %s", found);
        }
        ck_assert(all(p, bytes, 7));
        munmap(p, bytes);
    }
    /* A device that does not exist. */
    char *p = memory(bytes);
    OK(zero_host_place(p, bytes, "0000:ff:1f.7", &nodes, remember, NULL, error));
    ck_assert_int_eq(nodes, 0);
    ck_assert_msg(has_names(said, "0000:ff:1f.7"), "log: %s", said);
    munmap(p, bytes);
}
END_TEST

#endif

int main(void)
{
    Suite *suite = suite_create("pool");
    TCase *t = tcase_create("host memory");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, ranges_are_checked);
    if (!SANITIZED) { /* a sanitizer's mlock does nothing */
        tcase_add_test(t, memory_is_locked);
        tcase_add_test(t, a_limit_on_locked_memory_is_no_error);
    }
    tcase_add_test(t, memory_is_placed);
#if defined(HAVE_HWLOC)
    tcase_add_test(t, the_nodes_of_the_thread_are_chosen);
#endif
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
