/* cuda.c - flat kernels on a GPU beside a copy of device memory, in one run: `bench/cuda [MILLIONS]` elements (default 256).
 *
 * A line each: bytes read and written, seconds (the median of the repetitions, each of so many calls that the start of one does not count), GB/s, and the
 * share of the copy's. The last line is the shares as JSON. Exit status 77 without a GPU.
 */
#include "kernels/flat/flat.h"
#include "optim/rules.h"
#include "zero/device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { REPEATS = 15, CALLS = 8 };

static zero_error_t error;
static zero_device_t *device;
static zero_stream_t *stream;
static void *native;
static const zero_flat_ops_t *flat;

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

/* What is timed; all on memory of the device. */
typedef struct operands {
    int64_t count;
    char *a, *b, *c, *d, *e;
    zero_update_t adamw;
} operands_t;

static void copy(const operands_t *o) { flat->copy(o->b, o->a, (uint64_t)o->count * 4, 1, native); }
static void fill(const operands_t *o) { flat->fill_zero(o->b, (uint64_t)o->count * 4, 1, native); }
static void cast(const operands_t *o) { flat->cast(o->b, ZERO_BF16, o->a, ZERO_FP32, o->count, 1, native); }
static void accumulate(const operands_t *o) { flat->accumulate((float *)o->a, o->b, ZERO_BF16, o->count, 1, native); }
static void norm32(const operands_t *o) { flat->square_sum((double *)o->e, (double *)o->e + 16, o->a, ZERO_FP32, o->count, 1, native); }
static void norm16(const operands_t *o) { flat->square_sum((double *)o->e, (double *)o->e + 16, o->a, ZERO_BF16, o->count, 1, native); }
static void adamw(const operands_t *o) { flat->update(&o->adamw, 1, native); }

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
        double bytes; /* an element, read and written */
    } rows[] = {{"copy", copy, 8},        {"fill", fill, 4},        {"cast_fp32_bf16", cast, 6}, {"accumulate_bf16", accumulate, 10},
                {"norm_fp32", norm32, 4}, {"norm_bf16", norm16, 2}, {"adamw_bf16", adamw, 28}};
    operands_t o = {.count = (argc > 1 ? strtoll(argv[1], NULL, 10) : 256) * 1000000 / 4096 * 4096};
    uint64_t part = (uint64_t)o.count * 4;
    zero_arena_t *arena;
    double shares[sizeof rows / sizeof *rows], copied = 0;
    if (o.count <= 0) {
        fprintf(stderr, "bench/cuda: give a positive number of millions of elements\n");
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
    zero_adamw_t numbers = {.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
    /* master, moments; gradients and parameters in bf16 share the fourth quarter */
    o.adamw = (zero_update_t){.rule = ZERO_RULE_ADAMW, .grad_dtype = ZERO_BF16, .param_dtype = ZERO_BF16, .count = o.count, .master = (float *)o.a,
                              .state = {o.b, o.c}, .grad = o.d, .param = o.d + part / 2,
                              .scalars = zero_rule_scalars(ZERO_RULE_ADAMW, &numbers, 1e-4, 1, 1, 1, 1)};
    printf("# %lld million elements\n", (long long)(o.count / 1000000));
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        double seconds = seconds_of(rows[i].call, &o), rate = rows[i].bytes * (double)o.count / seconds;
        copied = i == 0 ? rate : copied;
        shares[i] = rate / copied;
        printf("%-16s %12.0f bytes %10.6f s %9.1f GB/s %6.3f of the copy\n", rows[i].name, rows[i].bytes * (double)o.count, seconds, rate / 1e9, shares[i]);
    }
    printf("{\"copy_gb_s\": %.1f", copied / 1e9);
    for (size_t i = 1; i < sizeof rows / sizeof *rows; i++)
        printf(", \"%s\": %.3f", rows[i].name, shares[i]);
    printf("}\n");
    device->ops->stream_destroy(stream);
    device->ops->arena_destroy(arena);
    zero_device_destroy(device);
    return 0;
}
