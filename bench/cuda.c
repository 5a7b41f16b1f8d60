/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.c - flat kernels and cross-entropy on a GPU next to a copy of device memory, in one run: `bench/cuda [MILLIONS]`
 * elements (default 256).
 *
 * Prints a line per kernel: bytes read and written, seconds, GB/s, and its rate relative to the copy. The seconds are
 * the median of the repetitions; each repetition has enough calls to make the start of one negligible. The last line
 * has the relative rates as JSON. Exit status 77 without a GPU. */
#include "kernels/flat/flat.h"
#include "kernels/nn/nn.h"
#include "optim/rules.h"
#include "zero/device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    REPEATS = 15,
    CALLS = 8,
    VOCABULARY = 50257,
    ROW = 50264
}; /* GPT-2's; a row of logits ends at a multiple of 16 bytes */

static zero_error_t error;
static zero_device_t *device;
static zero_stream_t *stream;
static void *native;
static const zero_flat_ops_t *flat;
static zero_nn_t *nn;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "bench/cuda: %s\n", error.text);
    exit(1);
}

/* The operands of the timed calls, all in device memory. */
typedef struct operands {
    int64_t count;
    char *a, *b, *c, *d, *e;
    zero_update_t adamw;
    int64_t rows;           /* of logits in bf16, in d */
    const int32_t *targets; /* in host memory that the GPU reads */
    float *losses;
} operands_t;

static void copy(const operands_t *o)
{
    flat->copy(o->b, o->a, (uint64_t)o->count * 4, 1, native);
}
static void fill(const operands_t *o)
{
    flat->fill_zero(o->b, (uint64_t)o->count * 4, 1, native);
}
static void cast(const operands_t *o)
{
    flat->cast(o->b, ZERO_BF16, o->a, ZERO_FP32, o->count, 1, native);
}
static void accumulate(const operands_t *o)
{
    flat->accumulate((float *)o->a, o->d, ZERO_BF16, o->count, 1, native);
}
static void norm32(const operands_t *o)
{
    flat->square_sum((double *)o->e, (double *)o->e + 16, o->a, ZERO_FP32, o->count, 1, native);
}
static void norm16(const operands_t *o)
{
    flat->square_sum((double *)o->e, (double *)o->e + 16, o->d, ZERO_BF16, o->count, 1, native);
}
static void adamw(const operands_t *o)
{
    flat->update(&o->adamw, 1, 1, native);
}
static void entropy(const operands_t *o)
{
    zero_nn_cross_entropy(nn, o->losses, o->d, o->targets, o->rows, VOCABULARY, ROW, true, 1, ZERO_BF16);
}

/* Fills bytes at p with ordinary numbers, a block repeatedly: kernels may run faster on zeros. */
static void fill_ordinary(char *p, uint64_t bytes, zero_dtype_t dtype)
{
    enum { NUMBERS = 1 << 22 };
    uint64_t size = zero_dtype_size(dtype), whole = NUMBERS * size;
    char *block = malloc(whole);
    if (block == NULL) {
        fprintf(stderr, "bench/cuda: no memory for numbers\n");
        exit(1);
    }
    for (uint64_t i = 0; i < NUMBERS; i++) {
        float x = (float)(int32_t)(zero_splitmix64(i) >> 32) * 0x1p-31f;
        if (dtype == ZERO_FP32)
            ((float *)block)[i] = x;
        else
            ((uint16_t *)block)[i] = zero_fp32_to_bf16(x);
    }
    for (uint64_t at = 0; at < bytes; at += whole)
        check(device->ops->copy(device, native, p + at, block, bytes - at < whole ? bytes - at : whole, &error));
    check(device->ops->finish(device, native, 60, &error));
    free(block);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double seconds_of(void (*call)(const operands_t *), const operands_t *o)
{
    double times[REPEATS];
    for (int r = -1; r < REPEATS; r++) { /* the first one warms up */
        double start = now();
        for (int i = 0; i < CALLS; i++)
            call(o);
        check(device->ops->finish(device, native, 60, &error));
        if (r >= 0)
            times[r] = (now() - start) / CALLS;
    }
    qsort(times, REPEATS, sizeof *times, ascending);
    return times[REPEATS / 2];
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*call)(const operands_t *);
        double bytes; /* per element, read and written */
    } rows[] = {{"copy", copy, 8},           {"fill", fill, 4},
                {"cast_fp32_bf16", cast, 6}, {"accumulate_bf16", accumulate, 10},
                {"norm_fp32", norm32, 4},    {"norm_bf16", norm16, 2},
                {"adamw_bf16", adamw, 28},   {"cross_entropy_bf16", entropy, 0}};
    operands_t o = {.count = (argc > 1 ? strtoll(argv[1], NULL, 10) : 256) * 1000000 / 4096 * 4096};
    uint64_t part = (uint64_t)o.count * 4;
    zero_arena_t *arena, *host;
    double shares[sizeof rows / sizeof *rows], copied = 0;
    if (o.count <= 0 || o.count > 1000000000000) {
        fprintf(stderr, "bench/cuda: give a number of millions of elements, 1 to 1000000\n");
        return 2;
    }
    if (zero_cuda_devices() == 0) {
        fprintf(stderr, "bench/cuda: there is no GPU here\n");
        return 77;
    }
    check(zero_device_cuda(&device, NULL, &error));
    check(zero_flat_of(device, &flat, &error));
    check(device->ops->stream_create(device, ZERO_STREAM_COMPUTE, &stream, &error));
    native = device->ops->native(stream);
    check(device->ops->arena_create(device, ZERO_TIER_DEVICE, 4 * part + (1 << 22), &arena, &error));
    o.a = device->ops->arena_base(arena);
    o.b = o.a + part;
    o.c = o.b + part;
    o.d = o.c + part;
    o.e = o.d + part;
    fill_ordinary(o.a, 2 * part, ZERO_FP32); /* second moments stay 0 until the first update */
    fill_ordinary(o.d, part, ZERO_BF16);
    o.rows = 2 * o.count / ROW;
    check(device->ops->arena_create(device, ZERO_TIER_HOST, (uint64_t)o.rows * 8, &host, &error));
    int32_t *targets = device->ops->arena_base(host);
    for (int64_t r = 0; r < o.rows; r++)
        targets[r] = (int32_t)(r * 977 % VOCABULARY);
    o.targets = targets;
    o.losses = (float *)(targets + o.rows);
    check(zero_nn_create(&nn, "cuda", 1, native, &error));
    zero_nn_set_dry(nn, true);
    entropy(&o);
    zero_nn_set_dry(nn, false);
    check(zero_nn_workspace_bytes(nn) > part
              ? zero_fail(&error, ZERO_ERR_MEMORY, "cross-entropy wants a workspace of more than %llu bytes",
                          (unsigned long long)part)
              : ZERO_OK);
    zero_nn_set_workspace(nn, o.b, part);
    zero_rule_options_t numbers = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    /* master, moments; gradients and parameters in bf16 share the fourth quarter */
    o.adamw = (zero_update_t){.rule = ZERO_RULE_ADAMW,
                              .grad_dtype = ZERO_BF16,
                              .param_dtype = ZERO_BF16,
                              .count = o.count,
                              .master = (float *)o.a,
                              .state = {o.b, o.c},
                              .grad = o.d,
                              .param = o.d + part / 2,
                              .scalars = zero_rule_scalars(ZERO_RULE_ADAMW, &numbers, 1e-4, 1, 1, 1, 1)};
    printf("# %lld million elements\n", (long long)(o.count / 1000000));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        /* logits: read once, and overwritten once by their gradient */
        double bytes = rows[i].call == entropy ? 4.0 * VOCABULARY * (double)o.rows : rows[i].bytes * (double)o.count;
        double seconds = seconds_of(rows[i].call, &o), rate = bytes / seconds;
        copied = i == 0 ? rate : copied;
        shares[i] = rate / copied;
        printf("%-18s %12.0f bytes %10.6f s %9.1f GB/s %6.3f of the copy\n", rows[i].name, bytes, seconds, rate / 1e9,
               shares[i]);
    }
    check(zero_nn_status(nn, &error));
    printf("{\"copy_gb_s\": %.1f", copied / 1e9);
    for (size_t i = 1; i < sizeof rows / sizeof *rows; i++)
        printf(", \"%s\": %.3f", rows[i].name, shares[i]);
    printf("}\n");
    zero_nn_destroy(nn);
    device->ops->stream_destroy(stream);
    device->ops->arena_destroy(host);
    device->ops->arena_destroy(arena);
    zero_device_destroy(device);
    return 0;
}
