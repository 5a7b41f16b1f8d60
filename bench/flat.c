/* SPDX-License-Identifier: Apache-2.0 */
/* flat.c - rates of the flat kernels, next to a plain loop that reads and writes the same bytes and shows the memory
 * bandwidth.
 *
 *   bench/flat [ELEMENTS [THREADS [LEVEL]]]     64e6 elements, OpenMP's default threads, the best SIMD level
 *
 * GB/s counts the bytes that the kernel must read and write, without the extra cost of cache lines; a GB is 10^9 bytes.
 * Rates are the median of several runs. The threads that use the buffers touch them first. */
#include "kernels/flat/flat.h"

#if defined(_OPENMP)
#include <omp.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RUNS = 7, BUFFERS = 5 };

typedef struct bench {
    const zero_flat_ops_t *ops;
    int64_t n;
    int threads;
    float *x[BUFFERS]; /* n floats each */
    double *scratch, norm;
    zero_rule_scalars_t scalars;
} bench_t;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Fills every buffer with numbers near a half, whether read as fp32 or as bf16: none is subnormal or grows out of
 * range. */
static void reset(bench_t *b)
{
#pragma omp parallel for schedule(static) num_threads(b->threads)
    for (int64_t i = 0; i < b->n; i++)
        for (int k = 0; k < BUFFERS; k++)
            ((uint32_t *)b->x[k])[i] = 0x3f003f00u + (uint32_t)(i % 64);
}

/* Seconds of one call of fn: the median of RUNS, after two warm-up runs. */
static double seconds(void (*fn)(bench_t *), bench_t *b)
{
    double t[RUNS];
    reset(b);
    for (int i = -2; i < RUNS; i++) {
        double start = now();
        fn(b);
        if (i >= 0)
            t[i] = now() - start;
    }
    qsort(t, RUNS, sizeof t[0], by_value);
    return t[RUNS / 2];
}

/* Plain loops: one array written; one read; two read and one written; seven streams. */
#define LOOP \
    _Pragma("omp parallel for simd schedule(static) num_threads(b->threads)") for (int64_t i = 0; i < b->n; i++)

static void plain_write(bench_t *b)
{
    float *restrict d = b->x[0];
    LOOP d[i] = 0;
}

static void plain_copy(bench_t *b)
{
    float *restrict d = b->x[0], *restrict s = b->x[1];
    LOOP d[i] = s[i];
}

static void plain_narrow(bench_t *b)
{
    uint16_t *restrict d = (uint16_t *)b->x[0];
    uint32_t *restrict s = (uint32_t *)b->x[1];
    LOOP d[i] = (uint16_t)(s[i] >> 16);
}

static void plain_widen(bench_t *b)
{
    uint32_t *restrict d = (uint32_t *)b->x[0];
    uint16_t *restrict s = (uint16_t *)b->x[1];
    LOOP d[i] = (uint32_t)s[i] << 16;
}

static void plain_add(bench_t *b)
{
    float *restrict d = b->x[0], *restrict s = b->x[1];
    LOOP d[i] += s[i];
}

static void plain_add16(bench_t *b)
{
    uint32_t *restrict d = (uint32_t *)b->x[0];
    uint16_t *restrict s = (uint16_t *)b->x[1];
    LOOP d[i] += s[i];
}

static void plain_add3(bench_t *b)
{
    float *restrict d = b->x[0], *restrict s = b->x[1], *restrict t = b->x[2];
    LOOP d[i] = s[i] + t[i];
}

static void plain_add3x16(bench_t *b)
{
    uint16_t *restrict d = (uint16_t *)b->x[0], *restrict s = (uint16_t *)b->x[1], *restrict t = (uint16_t *)b->x[2];
    LOOP d[i] = s[i] ^ t[i];
}

static void plain_read(bench_t *b)
{
    uint32_t *restrict s = (uint32_t *)b->x[1], total = 0;
#pragma omp parallel for simd schedule(static) num_threads(b->threads) reduction(^ : total)
    for (int64_t i = 0; i < b->n; i++)
        total ^= s[i];
    b->norm = total;
}

static void plain_adamw(bench_t *b)
{
    float *restrict p = b->x[0], *restrict m = b->x[1], *restrict v = b->x[2], *restrict g = b->x[3];
    LOOP
    {
        float e = g[i];
        p[i] += e;
        m[i] += e;
        v[i] += e;
    }
}

static void plain_adamw16(bench_t *b)
{
    uint32_t *restrict p = (uint32_t *)b->x[0], *restrict m = (uint32_t *)b->x[1], *restrict v = (uint32_t *)b->x[2];
    uint16_t *restrict g = (uint16_t *)b->x[3], *restrict q = (uint16_t *)b->x[4];
    LOOP
    {
        uint32_t e = g[i];
        p[i] += e;
        m[i] += e;
        v[i] += e;
        q[i] = (uint16_t)p[i];
    }
}

static void fill_zero(bench_t *b)
{
    b->ops->fill_zero(b->x[0], (uint64_t)b->n * 4, b->threads, NULL);
}

static void copy(bench_t *b)
{
    b->ops->copy(b->x[0], b->x[1], (uint64_t)b->n * 4, b->threads, NULL);
}

static void cast_narrow(bench_t *b)
{
    b->ops->cast(b->x[0], ZERO_BF16, b->x[1], ZERO_FP32, b->n, b->threads, NULL);
}

static void cast_widen(bench_t *b)
{
    b->ops->cast(b->x[0], ZERO_FP32, b->x[1], ZERO_BF16, b->n, b->threads, NULL);
}

static void accumulate(bench_t *b)
{
    b->ops->accumulate(b->x[0], b->x[1], ZERO_FP32, b->n, b->threads, NULL);
}

static void accumulate16(bench_t *b)
{
    b->ops->accumulate(b->x[0], b->x[1], ZERO_BF16, b->n, b->threads, NULL);
}

static void sum2(bench_t *b)
{
    b->ops->sum(b->x[0], (const void *[]){b->x[1], b->x[2]}, 2, ZERO_FP32, b->n, b->threads, NULL);
}

static void sum2_16(bench_t *b)
{
    b->ops->sum(b->x[0], (const void *[]){b->x[1], b->x[2]}, 2, ZERO_BF16, b->n, b->threads, NULL);
}

static void square_sum(bench_t *b)
{
    b->ops->square_sum(&b->norm, b->scratch, b->x[1], ZERO_FP32, b->n, b->threads, NULL);
}

static void adamw_with(bench_t *b, zero_dtype_t grad_dtype, void *param)
{
    zero_update_t u = {.rule = ZERO_RULE_ADAMW,
                       .grad_dtype = grad_dtype,
                       .param_dtype = ZERO_BF16,
                       .count = b->n,
                       .master = b->x[0],
                       .state = {b->x[1], b->x[2]},
                       .grad = b->x[3],
                       .param = param,
                       .scalars = b->scalars};
    b->ops->update(&u, 1, b->threads, NULL);
}

static void adamw(bench_t *b)
{
    adamw_with(b, ZERO_FP32, NULL);
}

static void adamw16(bench_t *b)
{
    adamw_with(b, ZERO_BF16, b->x[4]);
}

static const struct {
    const char *name;
    int bytes; /* read and written, per element */
    void (*kernel)(bench_t *), (*plain)(bench_t *);
} rows[] = {
    {"fill_zero", 4, fill_zero, plain_write},
    {"copy", 8, copy, plain_copy},
    {"cast fp32 to bf16", 6, cast_narrow, plain_narrow},
    {"cast bf16 to fp32", 6, cast_widen, plain_widen},
    {"accumulate fp32", 12, accumulate, plain_add},
    {"accumulate bf16", 10, accumulate16, plain_add16},
    {"sum of 2, fp32", 12, sum2, plain_add3},
    {"sum of 2, bf16", 6, sum2_16, plain_add3x16},
    {"square_sum fp32", 4, square_sum, plain_read},
    {"adamw fp32", 28, adamw, plain_adamw},
    {"adamw bf16 + fp32", 28, adamw16, plain_adamw16},
};

static void print_machine(const bench_t *b)
{
    char line[256], model[256] = "unknown processor";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "model name%*[^:]: %255[^\n]", model) == 1)
            break;
    if (f)
        fclose(f);
    printf("%s, %s kernels, %d threads, %.3g elements\n", model, b->ops->name, b->threads, (double)b->n);
}

int main(int argc, char **argv)
{
    bench_t b = {.ops = argc > 3 ? zero_flat_find(argv[3]) : zero_flat_cpu(),
                 .n = argc > 1 ? (int64_t)atof(argv[1]) : 64000000,
                 .threads = argc > 2 ? atoi(argv[2]) : 0,
                 .scalars = {.grad_factor = 1,
                             .beta1 = 0.9f,
                             .one_minus_beta1 = 0.1f,
                             .beta2 = 0.95f,
                             .one_minus_beta2 = 0.05f,
                             .decay_factor = 0.9999f,
                             .step_size = 1e-3f,
                             .inv_sqrt_bc2 = 1.5f,
                             .eps = 1e-8f}};
    if (!b.ops || b.n <= 0) {
        fprintf(stderr,
                "usage: flat [ELEMENTS > 0 [THREADS [ref|scalar|avx2|avx512]]], a level that this processor has\n");
        return 2;
    }
    if (b.threads <= 0) {
        b.threads = 1;
#if defined(_OPENMP)
        b.threads = omp_get_max_threads();
#endif
    }
    int status = 1;
    b.scratch = calloc((size_t)(b.n / ZERO_NORM_BLOCK + 1), sizeof *b.scratch);
    for (int k = 0; k < BUFFERS; k++)
        if (!(b.x[k] = aligned_alloc(ZERO_PAGE, ((size_t)b.n * 4 / ZERO_PAGE + 1) * ZERO_PAGE)))
            goto end;
    if (!b.scratch)
        goto end;
    print_machine(&b);
    printf("%-20s %10s %10s %10s %12s\n", "kernel", "GB/s", "plain GB/s", "ratio", "1e9 elem/s");
    for (size_t r = 0; r < sizeof rows / sizeof rows[0]; r++) {
        double bytes = (double)rows[r].bytes * (double)b.n, kernel = seconds(rows[r].kernel, &b),
               plain = seconds(rows[r].plain, &b);
        printf("%-20s %10.1f %10.1f %10.2f %12.3f\n", rows[r].name, bytes / kernel / 1e9, bytes / plain / 1e9,
               plain / kernel, (double)b.n / kernel / 1e9);
        fflush(stdout);
    }
    status = 0;

end:
    for (int k = 0; k < BUFFERS; k++)
        free(b.x[k]);
    free(b.scratch);
    return status;
}
