/* SPDX-License-Identifier: Apache-2.0 */
/* test_train_gpus.c - the choices of zero_train with GPUs (emulated ones) and without. */
#include "train/place.h"
#include "tests/expect.h"
#include "tests/emulated.h"

#include <check.h>
#include <math.h>

static zero_status_t parse(options_t *o, const char *line, zero_error_t *error)
{
    static char text[256];
    char *argv[16] = {"zero_train"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *p = strtok(text, " "); p != NULL && argc < 15; p = strtok(NULL, " "))
        argv[argc++] = p;
    options_init(o);
    return options_parse(o, argc, argv, error);
}

static zero_status_t resolve(job_t *job, const char *line, int world, zero_error_t *error)
{
    memset(job, 0, sizeof *job);
    zero_status_t status = parse(&job->o, line, error);
    return status == ZERO_OK ? job_resolve(job, world, 1, true, error) : status;
}

START_TEST(gpus_decide_what_is_not_said)
{
    static const struct {
        const char *line;
        int64_t device, dtype, ranks;
    } cases[] = {
        {"", DEVICE_CUDA, ZERO_BF16, 3},
        {"--device auto", DEVICE_CUDA, ZERO_BF16, 3},
        {"--device cuda --dtype fp32", DEVICE_CUDA, ZERO_FP32, 3},
        {"--device cuda --ranks 5", DEVICE_CUDA, ZERO_BF16, 5},
        {"--device cpu", DEVICE_CPU, ZERO_FP32, 2},
        {"--device cpu --dtype bf16 --ranks 4", DEVICE_CPU, ZERO_BF16, 4},
    };
    setenv("ZERO_EMULATOR_DEVICES", "3", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options_t o;
        job_t job;
        zero_error_t e = {0};
        ck_assert_int_eq(parse(&o, cases[i].line, &e), ZERO_OK);
        ck_assert_msg(job_ranks(&o) == cases[i].ranks, "%s: %d ranks", cases[i].line, job_ranks(&o));
        ck_assert_msg(resolve(&job, cases[i].line, (int)cases[i].ranks, &e) == ZERO_OK, "%s: %s", cases[i].line,
                      e.text);
        ck_assert_msg(job.o.device == cases[i].device && job.o.dtype == cases[i].dtype, "%s: device %d, dtype %d",
                      cases[i].line, (int)job.o.device, (int)job.o.dtype);
        job_close(&job);
    }
}
END_TEST

START_TEST(no_gpu_is_the_cpu_or_an_error)
{
    static const struct {
        const char *devices, *wanted;
    } cases[] = {
        {"0", "--device CUDA GPU"},
        {"-1", "--device CUDA"},
        {"-2", "--device CUDA 12.0"},
        {NULL, "--device CUDA zero_cuda.so /nonexistent --with-cuda"},
    };
    if (cases[_i].devices != NULL)
        setenv("ZERO_EMULATOR_DEVICES", cases[_i].devices, 1);
    else
        setenv("ZERO_PLUGIN_PATH", "/nonexistent", 1);
    options_t o;
    job_t job;
    zero_error_t e = {0};
    ck_assert_int_eq(parse(&o, "", &e), ZERO_OK);
    ck_assert_int_eq(job_ranks(&o), 2);
    ck_assert_msg(resolve(&job, "", 2, &e) == ZERO_OK, "%s", e.text);
    ck_assert(job.o.device == DEVICE_CPU && job.o.dtype == ZERO_FP32);
    job_close(&job);
    ck_assert_int_eq(resolve(&job, "--device cuda", 2, &e), ZERO_ERR_UNSUPPORTED);
    ck_assert_msg(has_names(e.text, cases[_i].wanted), "'%s' lacks '%s'", e.text, cases[_i].wanted);
    job_close(&job);
}
END_TEST

START_TEST(peaks_of_gpus)
{
    static const struct {
        const char *label;
        double bf16, fp32; /* 0: unknown */
    } cases[] = {
        {"NVIDIA A100-SXM4-80GB", 312e12, 19.5e12},
        {"NVIDIA A100 80GB PCIe", 312e12, 19.5e12},
        {"NVIDIA H100 80GB HBM3", 989e12, 67e12},
        {"NVIDIA H100 PCIe", 756e12, 51e12},
        {"NVIDIA H100 NVL", 835e12, 60e12},
        {"NVIDIA H200", 989e12, 67e12},
        {"NVIDIA H200 NVL", 835e12, 60e12},
        {"NVIDIA GH200 480GB", 989e12, 67e12},
        {"NVIDIA B200", 2250e12, 75e12},
        {"NVIDIA L40S", 362e12, 91.6e12},
        {"NVIDIA L4", 121e12, 30.3e12},
        {"NVIDIA A10", 125e12, 31.2e12},
        {"NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12},
        {"NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0, 0},
        {"NVIDIA GeForce RTX 4090 D", 0, 0},
        {"NVIDIA GeForce RTX 4090 Laptop GPU", 0, 0},
        {"NVIDIA A10G", 0, 0},
        {"NVIDIA L40", 0, 0},
        {"NVIDIA H20", 0, 0},
        {"A100", 0, 0},
        {"Emulated GPU 0", 0, 0},
        {"", 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double bf16 = place_peak(cases[i].label, ZERO_BF16), fp32 = place_peak(cases[i].label, ZERO_FP32);
        const double fp16 = place_peak(cases[i].label, ZERO_FP16);
        ck_assert_msg(fp16 == bf16 || (isnan(fp16) && isnan(bf16)), "%s: %g in fp16", cases[i].label, fp16);
        ck_assert_msg(cases[i].bf16 > 0 ? fabs(bf16 / cases[i].bf16 - 1) < 1e-12 : isnan(bf16), "%s: %g in bf16",
                      cases[i].label, bf16);
        ck_assert_msg(cases[i].fp32 > 0 ? fabs(fp32 / cases[i].fp32 - 1) < 1e-12 : isnan(fp32), "%s: %g in fp32",
                      cases[i].label, fp32);
    }
}
END_TEST

int main(void)
{
    if (!emulated_plugins())
        return 77;
    Suite *suite = suite_create("zero_train_gpus");
    TCase *c = tcase_create("gpus");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, gpus_decide_what_is_not_said);
    tcase_add_loop_test(c, no_gpu_is_the_cpu_or_an_error, 0, 4);
    tcase_add_test(c, peaks_of_gpus);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
