/* SPDX-License-Identifier: Apache-2.0 */
/* test_plugin.c - the loader of plugins: where it looks, and its sentences about plugins that do not fit. */
#define _GNU_SOURCE
#include "kernels/flat/cuda.h"
#include "kernels/nn/cuda.h"
#include "tests/expect.h"
#include "tests/plugin_sample.h"
#include "zero/comm/nccl.h"
#include "zero/device/cuda.h"

#include <check.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static zero_error_t why;

static const plugin_sample_t *look(const char *plugin, const char *symbol, uint32_t version, zero_status_t expected)
{
    const void *table = &why; /* any address */
    why.text[0] = '\0';
    zero_status_t status = zero_plugin_table(plugin, symbol, version, &table, &why);
    ck_assert_msg(status == expected, "%s/%s: status %d, not %d: %s", plugin, symbol, (int)status, (int)expected,
                  why.text);
    ck_assert(status == ZERO_OK || !table);
    return table;
}

static void says(const char *part)
{
    ck_assert_msg(has_names(why.text, part), "'%s' does not say '%s'", why.text, part);
}

/* The folder of this program, where the build puts the sample, below .libs/. */
static const char *own_folder(void)
{
    static char path[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    if (strrchr(path, '/'))
        *strrchr(path, '/') = '\0';
    return path;
}

static void set_path(const char *format, ...)
{
    char path[3 * PATH_MAX];
    va_list list;
    va_start(list, format);
    vsnprintf(path, sizeof path, format, list);
    va_end(list);
    ck_assert_int_eq(setenv("ZERO_PLUGIN_PATH", path, 1), 0);
}

START_TEST(found_beside_the_program)
{
    unsetenv("ZERO_PLUGIN_PATH");
    const plugin_sample_t *table = look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_OK);
    ck_assert_int_eq(table->value, 42);
    ck_assert_ptr_eq(look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_OK), table);
    /* The current folder must not matter. */
    ck_assert_int_eq(chdir("/"), 0);
    ck_assert_ptr_eq(look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_OK), table);
    /* An empty value counts as unset. */
    setenv("ZERO_PLUGIN_PATH", "", 1);
    ck_assert_ptr_eq(look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_OK), table);
}
END_TEST

START_TEST(found_in_the_path_alone)
{
    set_path("/nowhere:%s/.libs", own_folder());
    ck_assert_int_eq(look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_OK)->value, 42);
    set_path("/nowhere:/nor/here");
    look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_ERR_UNSUPPORTED);
    says("zero_sample.so /nowhere:/nor/here");
    says("--with-cuda");
}
END_TEST

START_TEST(what_does_not_fit_is_said)
{
    unsetenv("ZERO_PLUGIN_PATH");
    look("zero_absent", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_ERR_UNSUPPORTED);
    says("zero_absent.so");
    says(own_folder());
    look("zero_sample", "zero_cuda_other", PLUGIN_SAMPLE_VERSION, ZERO_ERR_UNSUPPORTED);
    says("'zero_cuda_other'");
    char mine[32], wanted[32];
    snprintf(mine, sizeof mine, "%s-7", ZERO_VERSION);
    snprintf(wanted, sizeof wanted, "%s-8", ZERO_VERSION);
    look("zero_sample", "zero_cuda_sample", ZERO_PLUGIN_VERSION(8), ZERO_ERR_UNSUPPORTED);
    says(mine);
    says(wanted);
}
END_TEST

START_TEST(what_is_no_library_is_said)
{
    char folder[] = "plugin-XXXXXX", file[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/zero_sample.so", folder);
    FILE *f = fopen(file, "w");
    ck_assert_ptr_nonnull(f);
    fputs("not a library\n", f);
    fclose(f);
    /* The first file of that name counts; later ones belong to other installations. */
    set_path("%s:%s/.libs", folder, own_folder());
    look("zero_sample", "zero_cuda_sample", PLUGIN_SAMPLE_VERSION, ZERO_ERR_UNSUPPORTED);
    ck_assert_int_eq(why.reason, ZERO_REASON_NO_CUDA);
    says(file);
    unlink(file);
    rmdir(folder);
}
END_TEST

/* The plugins of a CUDA build have no unresolved symbols, also on machines without a GPU. */
START_TEST(ours_load)
{
    static const struct {
        const char *plugin, *symbol;
        uint32_t version;
    } tables[] = {
        {"zero_cuda", "zero_cuda_device", ZERO_CUDA_DEVICE_VERSION},
        {"zero_cuda", "zero_cuda_flat", ZERO_CUDA_FLAT_VERSION},
        {"zero_cuda", "zero_cuda_nccl", ZERO_CUDA_NCCL_VERSION},
        {"zero_nn_cuda", "zero_cuda_nn", ZERO_CUDA_NN_VERSION},
    };
    const char *top = getenv("top_builddir");
    char file[PATH_MAX];
    snprintf(file, sizeof file, "%s/.libs/%s.so", top ? top : ".", tables[_i].plugin);
    set_path("%s/.libs", top ? top : ".");
    look(tables[_i].plugin, tables[_i].symbol, tables[_i].version,
         access(file, F_OK) == 0 ? ZERO_OK : ZERO_ERR_UNSUPPORTED);
}
END_TEST

int main(void)
{
    char sample[PATH_MAX + 32];
    snprintf(sample, sizeof sample, "%s/.libs/zero_sample.so", own_folder());
    if (access(sample, F_OK) != 0) {
        puts("this build makes no shared libraries");
        return 77;
    }
    Suite *suite = suite_create("plugin");
    TCase *t = tcase_create("plugin");
    tcase_add_test(t, found_beside_the_program);
    tcase_add_test(t, found_in_the_path_alone);
    tcase_add_test(t, what_does_not_fit_is_said);
    tcase_add_test(t, what_is_no_library_is_said);
    tcase_add_loop_test(t, ours_load, 0, 4);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
