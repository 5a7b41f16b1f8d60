/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - the time of planning: builds and checks declarations of many units, for small and large worlds. Prints the
 * machine, then a line per case. */
#include "zero/plan/plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_machine(void)
{
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "model name", 10) == 0) {
            printf("machine: %s", strchr(line, ':') + 2);
            break;
        }
    if (f != NULL)
        fclose(f);
}

/* A transformer-like model: an embedding that is used again at the end, and `layers` units of `matrices` large
 * parameters and as many small ones. */
typedef struct model {
    zero_spec_unit_t *units;
    zero_spec_param_t *params;
    zero_spec_use_t *train, *eval;
    zero_spec_pass_t passes[3];
    zero_spec_t spec;
    char (*names)[24];
} model_t;

static void add_param(model_t *m, int unit, int64_t count, zero_dtype_t dtype, double decay)
{
    zero_spec_param_t *p = &m->params[m->spec.param_count++];
    *p = (zero_spec_param_t){.name = m->names[unit],
                             .unit = unit,
                             .ndim = 1,
                             .shape = {count},
                             .count = count,
                             .dtype = dtype,
                             .trainable = true,
                             .decay_scale = decay,
                             .lr_scale = 1};
}

static int make(model_t *m, int layers, int matrices, int64_t count, int64_t embedding, zero_dtype_t dtype)
{
    int units = layers + 1, uses = 0;
    m->units = calloc((size_t)units, sizeof *m->units);
    m->names = calloc((size_t)units, sizeof *m->names);
    m->params = calloc((size_t)units * 2 * (size_t)matrices + 2, sizeof *m->params);
    m->train = calloc((size_t)units * 2 + 2, sizeof *m->train);
    m->eval = calloc((size_t)units + 1, sizeof *m->eval);
    if (m->units == NULL || m->names == NULL || m->params == NULL || m->train == NULL || m->eval == NULL)
        return -1;
    for (int u = 0; u < units; u++) {
        snprintf(m->names[u], sizeof m->names[u], u == 0 ? "embedding" : "layer.%d", u);
        m->units[u].name = m->names[u];
        for (int i = 0; i < (u == 0 ? 0 : matrices); i++) {
            add_param(m, u, count, dtype, 1);
            add_param(m, u, 1600, dtype, 0);
        }
    }
    add_param(m, 0, embedding, dtype, 1);
    for (int u = 0; u <= layers; u++)
        m->eval[u] = m->train[uses++] = (zero_spec_use_t){u, ZERO_READ};
    m->train[uses++] = (zero_spec_use_t){0, ZERO_READ | ZERO_GRAD};
    for (int u = layers; u > 0; u--)
        m->train[uses++] = (zero_spec_use_t){u, ZERO_READ | ZERO_GRAD};
    m->train[uses++] = (zero_spec_use_t){0, ZERO_GRAD};
    m->passes[0] = (zero_spec_pass_t){"train", ZERO_PASS_TRAIN, m->train, uses};
    m->passes[1] = (zero_spec_pass_t){"eval", ZERO_PASS_EVAL, m->eval, layers + 1};
    m->passes[2] = (zero_spec_pass_t){"sample", ZERO_PASS_ANY_ORDER, NULL, 0};
    m->spec = (zero_spec_t){.window = 2,
                            .micro_steps = 4,
                            .group_count = 1,
                            .channels = 2,
                            .state = {2, {zero_format_plain(ZERO_FP32), zero_format_plain(ZERO_FP32)}},
                            .piece = ZERO_PIECE,
                            .offload_ratio = 1,
                            .persist_bytes = 65536,
                            .units = m->units,
                            .unit_count = units,
                            .params = m->params,
                            .param_count = m->spec.param_count,
                            .passes = m->passes,
                            .pass_count = 3};
    m->spec.groups[0].caps =
        (zero_comm_caps_t){.name = "mpi", .in_place = true, .host_pointers = true, .ring_bytes = 1 << 20};
    m->spec.device = (zero_device_caps_t){.name = "cpu", .asynchronous = true, .host_memory = true, .page = 4096};
    return 0;
}

static int measure(const char *name, int layers, int matrices, int64_t count, int64_t embedding, int world, int stage)
{
    model_t m;
    zero_error_t error;
    double build = 1e9, check = 1e9;
    int64_t ops = 0;

    memset(&m, 0, sizeof m);
    if (make(&m, layers, matrices, count, embedding, ZERO_BF16) != 0)
        return 1;
    m.spec.world = m.spec.groups[0].size = world;
    m.spec.parameters.sharding = stage >= 3;
    m.spec.gradients.sharding = stage >= 2;
    m.spec.optimizer.sharding = stage >= 1;
    for (int i = 0; i < 5; i++) {
        zero_plan_t *plan;
        double begin = now();
        if (zero_plan_build(&plan, &m.spec, 0, &error) != ZERO_OK) {
            fprintf(stderr, "%s: %s\n", name, error.text);
            return 1;
        }
        double built = now();
        if (zero_plan_check(plan, &error) != ZERO_OK) {
            fprintf(stderr, "%s: %s\n", name, error.text);
            return 1;
        }
        double checked = now();
        build = built - begin < build ? built - begin : build;
        check = checked - built < check ? checked - built : check;
        ops = 0;
        for (int32_t p = 0; p < plan->program_count; p++)
            ops += plan->programs[p].op_count;
        zero_plan_destroy(plan);
    }
    printf("%-24s stage %d %5d ranks %4d units %6lld operations: build %7.2f ms, check %7.2f ms\n", name, stage, world,
           layers + 1, (long long)ops, 1e3 * build, 1e3 * check);
    free(m.units);
    free(m.names);
    free(m.params);
    free(m.train);
    free(m.eval);
    return 0;
}

int main(void)
{
    int failed = 0;
    print_machine();
    for (int stage = 0; stage <= 3; stage++)
        failed |= measure("200 units", 199, 4, 1000000, 5000000, 8, stage);
    for (int stage = 0; stage <= 3; stage += 3)
        failed |= measure("GPT-2 1.5B", 48, 6, 5120000, 82048000, 1024, stage);
    return failed;
}
