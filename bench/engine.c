/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - the overhead of the library per step: the time in its calls outside collectives and flat kernels.
 *
 *   bench/engine [UNITS [ELEMENTS [RANKS [STEPS]]]]     200 units of 4096 elements, 2 ranks, 50 steps
 *
 * A step has the shape of a transformer's step: every unit is read forward, then read again with gradients backward.
 * There are no model kernels. Time is host time on the inline CPU device. Prints one line per stage. commit is the
 * whole of zero_commit: planning, checking, the comparison of the ranks, arenas and rings. */
#include "tests/ranks.h"
#include "zero/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct bench {
    int units, ranks, steps;
    int64_t elements;
} bench_t;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

#define TRY(call)                                                   \
    do {                                                            \
        if ((call) != ZERO_OK) {                                    \
            fprintf(stderr, "%s: %s\n", #call, zero_last_error(e)); \
            return -1;                                              \
        }                                                           \
    } while (0)

static int declare(zero_engine_t *e, const bench_t *b, zero_unit_t *unit, zero_pass_t *pass)
{
    for (int u = 0; u < b->units; u++) {
        char name[32];
        zero_param_t param;
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        snprintf(name, sizeof name, "unit%d", u);
        desc.name = name;
        desc.ndim = 1;
        desc.shape[0] = b->elements;
        TRY(zero_unit_add(e, name, &unit[u]));
        TRY(zero_param_add(e, unit[u], &desc, &param));
    }
    TRY(zero_pass_add(e, "train", ZERO_PASS_TRAIN, pass));
    for (int u = 0; u < 2 * b->units; u++)
        TRY(zero_use_add(e, *pass, unit[u < b->units ? u : 2 * b->units - 1 - u],
                         u < b->units ? ZERO_READ : ZERO_READ | ZERO_GRAD));
    return 0;
}

static int step(zero_engine_t *e, const bench_t *b, const zero_unit_t *unit, zero_pass_t pass)
{
    TRY(zero_micro_begin(e, pass, ZERO_LAST));
    for (int u = 0; u < 2 * b->units; u++) {
        zero_unit_t which = unit[u < b->units ? u : 2 * b->units - 1 - u];
        TRY(zero_acquire(e, which));
        TRY(zero_release(e, which));
    }
    TRY(zero_micro_end(e));
    TRY(zero_step(e, 1e-3));
    return 0;
}

static void count_lines(void *ctx, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        *(long *)ctx += text[i] == '\n';
}

static int stage(const bench_t *b, zero_comm_t *comm, zero_device_t *device, int number)
{
    zero_engine_t *e = NULL;
    zero_config_t config;
    zero_error_t error = {0};
    zero_pass_t pass;
    zero_unit_t *unit = calloc((size_t)b->units, sizeof *unit);
    zero_stats_t before = {.size = sizeof before}, after = before;
    long lines = 0;
    zero_config_init(&config);
    config.comm = comm;
    config.device = device;
    config.persist_bytes = 0;
    if (!unit || zero_config_stage(&config, number) != ZERO_OK || zero_create(&e, &config, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    if (declare(e, b, unit, &pass))
        return -1;
    double start = now();
    TRY(zero_commit(e));
    double commit = now() - start;
    for (int s = 0; s < 3; s++)
        if (step(e, b, unit, pass))
            return -1;
    TRY(zero_step_stats(e, &before));
    start = now();
    for (int s = 0; s < b->steps; s++)
        if (step(e, b, unit, pass))
            return -1;
    double wall = (now() - start) / b->steps;
    TRY(zero_step_stats(e, &after));
    TRY(zero_explain(e, count_lines, &lines));
    double comm_s = (after.comm_seconds - before.comm_seconds) / b->steps,
           kernel_s = (after.kernel_seconds - before.kernel_seconds) / b->steps;
    double own = (after.total_seconds - before.total_seconds) / b->steps - comm_s - kernel_s;
    if (zero_comm_rank(comm) == 0)
        printf("%5d %12.1f %12.1f %12.1f %14.1f %14.0f %12.1f %10ld\n", number, wall * 1e6, comm_s * 1e6,
               kernel_s * 1e6, own * 1e6, own * 1e9 / b->units, commit * 1e3, lines);
    zero_destroy(e);
    free(unit);
    return 0;
}

static int run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const bench_t *b = arg;
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_device_options_t options;
    zero_error_t error = {0};
    int result = 0;
    zero_device_options_init(&options);
    options.threads = 1;
    if ((world == 1 ? zero_comm_self(&comm, &error) : zero_comm_shm(&comm, bootstrap, NULL, &error)) != ZERO_OK ||
        zero_device_cpu(&device, &options, &error) != ZERO_OK) {
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    for (int s = 0; s <= 3 && result == 0; s++)
        result = stage(b, comm, device, s);
    fflush(stdout); /* ranks exit without flushing */
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return result != 0;
}

int main(int argc, char **argv)
{
    bench_t b = {.units = argc > 1 ? atoi(argv[1]) : 200,
                 .elements = argc > 2 ? atoll(argv[2]) : 4096,
                 .ranks = argc > 3 ? atoi(argv[3]) : 2,
                 .steps = argc > 4 ? atoi(argv[4]) : 50};
    if (b.units < 1 || b.elements < 1 || b.ranks < 1 || b.steps < 1) {
        fprintf(stderr, "usage: engine [UNITS [ELEMENTS [RANKS [STEPS]]]], each at least 1\n");
        return 2;
    }
    printf("%d units of %lld elements, %d ranks, %d steps; microseconds a step\n", b.units, (long long)b.elements,
           b.ranks, b.steps);
    printf("%5s %12s %12s %12s %14s %14s %12s %10s\n", "stage", "wall", "collectives", "kernels", "library",
           "ns a unit", "commit ms", "plan lines");
    fflush(stdout);
    return ranks_run(b.ranks, 600, run, &b) == 0 ? 0 : 1;
}
