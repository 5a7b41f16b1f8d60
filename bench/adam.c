/* SPDX-License-Identifier: Apache-2.0 */
/* adam.c - rates of the optimizers' updates on memory that is laid out as in an engine, each next to a plain loop that
 * reads and writes the same bytes (except the scales of 8-bit state).
 *
 *   bench/adam [ELEMENTS [THREADS [LEVEL [WHAT]]]]     1e8 elements, OpenMP's default threads, the best SIMD level,
 *                                                      every row whose name starts with WHAT
 *
 * Prints a line of JSON per row: the bytes that the update of an element must read and write, 10^9 elements and bytes
 * per second, the median of RUNS runs; and the rate of the plain loop, which alternates with the update. bench/adam.sh
 * compares it with its peers. */
#include "kernels/flat/flat.h"
#include "optim/rules.h"
#include "zero/device/device.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RUNS = 9 };

typedef struct bench {
    int64_t n;
    int threads;
    zero_update_t u;
} bench_t;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double median(double *t)
{
    for (int i = 1; i < RUNS; i++)
        for (int j = i; j > 0 && t[j] < t[j - 1]; j--) {
            double swap = t[j];
            t[j] = t[j - 1];
            t[j - 1] = swap;
        }
    return t[RUNS / 2];
}

/* ---- plain loops: they write the value that is already there, through a gradient bit that is always 0 ----------- */

/* Compilers use vectors of 16 bytes by default. These do not reach the full memory bandwidth. */
#if defined(__x86_64__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

/* b->n elements of p, k states of type state_t and a gradient; also q if with_param. */
#define PLAIN(name, k, state_t, grad_t, with_param)                                                                  \
    WIDE static void name(const bench_t *b)                                                                          \
    {                                                                                                                \
        uint32_t *restrict p = (uint32_t *)b->u.master;                                                              \
        state_t *restrict m = b->u.state[0], *restrict v = b->u.state[1];                                            \
        const grad_t *restrict g = b->u.grad;                                                                        \
        uint16_t *restrict q = b->u.param;                                                                           \
        _Pragma("omp parallel for simd schedule(static) num_threads(b->threads)") for (int64_t i = 0; i < b->n; i++) \
        {                                                                                                            \
            uint32_t e = sizeof(grad_t) == 2 ? (uint32_t)g[i] << 16 & 0x40000000 : g[i] & 0x40000000;                \
            p[i] ^= e;                                                                                               \
            m[i] ^= (state_t)(e >> (sizeof(state_t) == 1 ? 24 : 0));                                                 \
            if (k == 2)                                                                                              \
                v[i] ^= (state_t)(e >> (sizeof(state_t) == 1 ? 24 : 0));                                             \
            if (with_param)                                                                                          \
                q[i] = (uint16_t)(p[i] >> 16);                                                                       \
        }                                                                                                            \
    }
PLAIN(plain_two, 2, uint32_t, uint32_t, false)
PLAIN(plain_two16, 2, uint32_t, uint16_t, true)
PLAIN(plain_one, 1, uint32_t, uint32_t, false)
PLAIN(plain_one16, 1, uint32_t, uint16_t, true)
PLAIN(plain_bytes, 2, uint8_t, uint32_t, false)
PLAIN(plain_bytes16, 2, uint8_t, uint16_t, true)

/* ---- rows ------------------------------------------------------------------------------------------------------- */

/* fp32: gradients in fp32; the parameters are the master weights. bf16: gradients in bf16; parameters in bf16 besides
 * the master weights. */
static const struct {
    zero_rule_t rule;
    zero_dtype_t dtype;
    void (*plain)(const bench_t *);
} rows[] = {
    {ZERO_RULE_ADAMW, ZERO_FP32, plain_two},    {ZERO_RULE_ADAMW, ZERO_BF16, plain_two16},
    {ZERO_RULE_ADAM, ZERO_FP32, plain_two},     {ZERO_RULE_ADAM, ZERO_BF16, plain_two16},
    {ZERO_RULE_SGD, ZERO_FP32, plain_one},      {ZERO_RULE_SGD, ZERO_BF16, plain_one16},
    {ZERO_RULE_LION, ZERO_FP32, plain_one},     {ZERO_RULE_LION, ZERO_BF16, plain_one16},
    {ZERO_RULE_ADAMW8, ZERO_FP32, plain_bytes}, {ZERO_RULE_ADAMW8, ZERO_BF16, plain_bytes16},
};

static const zero_rule_options_t options = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.01};

/* Fills every array with values as in training: no subnormals, and nothing grows out of range. */
static void fill(const bench_t *b)
{
    const zero_format_t format = zero_rule(b->u.rule)->format[0];
    uint64_t state = zero_format_bytes(&format, b->n);
    memset(b->u.state[0], 0, state);
    memset(b->u.state[1], 0, state);
#pragma omp parallel for schedule(static) num_threads(b->threads)
    for (int64_t i = 0; i < b->n; i++) {
        b->u.master[i] = 0.5f;
        ((uint32_t *)(uintptr_t)b->u.grad)[i] =
            0x3d003d00u + (uint32_t)(i % 64); /* near 0.03, whether read as fp32 or as bf16 */
    }
}

static void row(bench_t *b, const zero_flat_ops_t *ops, size_t r)
{
    double t[RUNS], plain[RUNS], bytes = 12; /* master weights, both ways; a gradient, or half of one and a parameter */
    b->u.rule = rows[r].rule;
    b->u.count = b->n;
    b->u.grad_dtype = b->u.param_dtype = rows[r].dtype;
    void *param = b->u.param;
    const zero_format_t format = zero_rule(b->u.rule)->format[0];
    bytes += 2.0 * zero_rule_states(b->u.rule, &options) * format.block_bytes / format.block;
    fill(b);
    for (int k = -2; k < RUNS; k++) {
        b->u.scalars = zero_rule_scalars(b->u.rule, &options, 1e-4, 1, 1, k + 3, 1);
        b->u.param = rows[r].dtype == ZERO_FP32 ? NULL : param;
        double start = now();
        ops->update(&b->u, 1, b->threads, NULL);
        double end = now();
        b->u.param = param;
        rows[r].plain(b);
        if (k >= 0) {
            t[k] = end - start;
            plain[k] = now() - end;
        }
    }
    double s = median(t), n = (double)b->n;
    printf("{\"work\": \"%s %s\", \"bytes\": %.4g, \"gelt_s\": %.4f, \"gb_s\": %.2f, \"plain_gb_s\": %.2f}\n",
           zero_rule(b->u.rule)->name, zero_dtype_name(rows[r].dtype), bytes, n / s / 1e9, bytes * n / s / 1e9,
           bytes * n / median(plain) / 1e9);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const zero_flat_ops_t *ops = argc > 3 ? zero_flat_find(argv[3]) : zero_flat_cpu();
    bench_t b = {.n = argc > 1 ? (int64_t)atof(argv[1]) / ZERO_BLOCK8 * ZERO_BLOCK8 : 100000000,
                 .threads = argc > 2 ? atoi(argv[2]) : 0};
    const char *what = argc > 4 ? argv[4] : "";
    zero_device_options_t device_options;
    zero_device_t *device = NULL;
    zero_arena_t *arena = NULL;
    zero_error_t error = {0};
    char *base;
    int status = 1;

    if (!ops || b.n <= 0) {
        fprintf(stderr, "usage: adam [ELEMENTS >= 128 [THREADS [ref|scalar|avx2|avx512 [WHAT]]]], a level that this "
                        "processor has\n");
        return 2;
    }
    if (b.threads <= 0) {
        b.threads = 1;
#if defined(_OPENMP)
        b.threads = omp_get_max_threads();
#endif
    }
    zero_device_options_init(&device_options);
    if (zero_device_cpu(&device, &device_options, &error) != ZERO_OK ||
        device->ops->arena_create(device, ZERO_TIER_HOST, (uint64_t)b.n * 18, &arena, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        goto end;
    }
    base = device->ops->arena_base(arena); /* n is a multiple of 128: every array is 128-byte aligned */
    b.u.master = (float *)base;
    b.u.state[0] = base + 4 * b.n;
    b.u.state[1] = base + 8 * b.n;
    b.u.grad = base + 12 * b.n;
    b.u.param = base + 16 * b.n;
    fprintf(stderr, "%s kernels, %d threads, %.3g elements\n", ops->name, b.threads, (double)b.n);
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        char work[64];
        snprintf(work, sizeof work, "%s %s", zero_rule(rows[r].rule)->name, zero_dtype_name(rows[r].dtype));
        if (strncmp(work, what, strlen(what)) == 0)
            row(&b, ops, r);
    }
    status = 0;

end:
    if (arena)
        device->ops->arena_destroy(arena);
    zero_device_destroy(device);
    return status;
}
