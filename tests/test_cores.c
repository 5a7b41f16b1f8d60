/* SPDX-License-Identifier: Apache-2.0 */
/* test_cores.c - the number of threads that zero_train gives a rank: control groups with a quota, in a folder of the
 * test, and OpenMP's settings. */
#include "train/cgroup.h"
#include "train/cores.h"

#include <check.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Writes a file below root, and creates its folders. */
static void put(const char *root, const char *path, const char *text)
{
    char name[512];
    int length = snprintf(name, sizeof name, "%s/%s", root, path);
    ck_assert_int_lt(length, (int)sizeof name);
    for (char *slash = strchr(name + 1, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(name, 0700);
        *slash = '/';
    }
    FILE *f = fopen(name, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

/* processors: the expected answer. files: path, contents, ..., below a folder that stands for "/". */
static const struct {
    double processors;
    const char *files[12];
} quotas[] = {
    {INFINITY, {NULL}},
    {INFINITY, {"proc/self/cgroup", "0::/a\n", "sys/fs/cgroup/a/cpu.max", "max 100000\n"}},
    {1.5, {"proc/self/cgroup", "0::/a\n", "sys/fs/cgroup/a/cpu.max", "150000 100000\n"}},
    /* the smallest quota of the process's own group and all groups above it counts; groups beside that path do not */
    {0.5,
     {"proc/self/cgroup", "0::/a/b/c\n", "sys/fs/cgroup/a/cpu.max", "25000 50000\n", "sys/fs/cgroup/a/b/c/cpu.max",
      "400000 100000\n", "sys/fs/cgroup/a/b/cpu.max", "max 100000\n", "sys/fs/cgroup/x/cpu.max", "10000 100000\n"}},
    {2,
     {"proc/self/cgroup", "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max", "200000 100000\n", "sys/fs/cgroup/a/cpu.max",
      "300000 100000\n"}},
    /* a container with its own namespace sees its group as the topmost one, and its path as "/", or as a path
     * outside */
    {3, {"proc/self/cgroup", "0::/\n", "sys/fs/cgroup/cpu.max", "300000 100000\n"}},
    {3, {"proc/self/cgroup", "0::/../away\n", "sys/fs/cgroup/cpu.max", "300000 100000\n"}},
    {3, {"proc/self/cgroup", "0::/docker/0123\n", "sys/fs/cgroup/cpu.max", "300000 100000\n"}},
    /* version 1: found by a list of controllers, mounted under the list or under the name; -1 is no quota */
    {2.5,
     {"proc/self/cgroup", "7:memory:/m\n4:cpu,cpuacct:/a/b\n0::/s\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us",
      "250000\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n",
      "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_quota_us", "-1\n", "sys/fs/cgroup/cpu,cpuacct/a/b/cpu.cfs_period_us",
      "100000\n"}},
    {4,
     {"proc/self/cgroup", "4:cpuacct,cpu:/a\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"}},
    {INFINITY,
     {"proc/self/cgroup", "4:cpuset:/a\n", "sys/fs/cgroup/cpuset/a/cpu.cfs_quota_us", "100000\n",
      "sys/fs/cgroup/cpuset/a/cpu.cfs_period_us", "100000\n"}},
    /* invalid contents count as no quota */
    {INFINITY, {"proc/self/cgroup", "0::/a\n", "sys/fs/cgroup/a/cpu.max", "0 0\n"}},
    {INFINITY, {"proc/self/cgroup", "junk\n0::\n", "sys/fs/cgroup/cpu.max", "\n"}},
};

START_TEST(quotas_of_control_groups)
{
    char root[] = "/tmp/test_cores.XXXXXX", command[64];
    ck_assert_ptr_nonnull(mkdtemp(root));
    for (int i = 0; i < 12 && quotas[_i].files[i] != NULL; i += 2)
        put(root, quotas[_i].files[i], quotas[_i].files[i + 1]);
    double found = cgroup_processors(root);
    snprintf(command, sizeof command, "rm -r '%s'", root);
    ck_assert_int_eq(system(command), 0);
    ck_assert_msg(found == quotas[_i].processors, "%g processors, wanted %g", found, quotas[_i].processors);
}
END_TEST

START_TEST(threads_are_those_of_the_cores)
{
    int cores = cores_here();
    ck_assert_int_ge(cores, 1);
    ck_assert_int_eq(cores_threads(1), cores);
    ck_assert_int_eq(cores_threads(1 << 20), 1);
    omp_set_max_active_levels(0);
    zero_error_t e = {0};
    ck_assert_int_eq(cores_threads(1), 1);
    ck_assert_int_eq(cores_check(1, &e), ZERO_OK);
    ck_assert_int_eq(cores_check(2, &e), ZERO_ERR_ARG);
    ck_assert_str_eq(e.text, "--threads is 2, but OpenMP allows a rank 1, because OMP_MAX_ACTIVE_LEVELS is 0: use "
                             "--threads 1, or change that setting");
}
END_TEST

START_TEST(machines_of_groups)
{
    const uint64_t one[] = {7, 7, 7, 7}, two[] = {7, 7, 9, 9}, odd[] = {7, 9, 7, 9, 9, 9, 9, 5, 5, 4, 3, 2};
    zero_comm_t *comm = NULL;
    zero_error_t e;
    int most = 0;
    ck_assert_int_eq(cores_spread(one, 4, 4), 1);
    ck_assert_int_eq(cores_spread(two, 4, 2), 1);
    ck_assert_int_eq(cores_spread(two, 4, 4), 2);
    ck_assert_int_eq(cores_spread(odd, 12, 1), 1);
    ck_assert_int_eq(cores_spread(odd, 12, 2), 2);
    ck_assert_int_eq(cores_spread(odd, 8, 4), 2);
    ck_assert_int_eq(cores_spread(odd, 12, 4), 4);
    ck_assert_int_eq(zero_comm_self(&comm, &e), ZERO_OK);
    ck_assert_int_eq(cores_machines(comm, 1, &most, &e), ZERO_OK);
    ck_assert_int_eq(most, 1);
    zero_comm_destroy(comm);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cores");
    TCase *c = tcase_create("cores");
    tcase_add_loop_test(c, quotas_of_control_groups, 0, (int)(sizeof quotas / sizeof quotas[0]));
    tcase_add_test(c, threads_are_those_of_the_cores);
    tcase_add_test(c, machines_of_groups);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
