/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - the time of planning: builds and checks declarations of many units, for small and large worlds, and all
 * plans of a pipeline. Prints the machine, then a line per case. */
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
    zero_spec_task_t *tasks; /* of the training pass, then of the evaluation; NULL: no pipeline */
    zero_spec_chunk_t *chunks;
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

/* The first layer of a chunk; layers are numbered from 1. */
static int first_layer(int layers, int chunks, int chunk)
{
    return 1 + layers * chunk / chunks;
}

/* Divides the passes into the tasks of chunks. The embedding is in the first chunk; its use as the head is in the
 * forward task of the last. */
static int cut(model_t *m, int layers, int chunks)
{
    m->tasks = calloc(3 * (size_t)chunks, sizeof *m->tasks);
    m->chunks = calloc((size_t)chunks, sizeof *m->chunks);
    if (m->tasks == NULL || m->chunks == NULL)
        return -1;
    zero_spec_task_t *train = m->tasks, *eval = train + 2 * chunks;
    for (int c = 0; c < chunks; c++) {
        int first = c > 0 ? first_layer(layers, chunks, c) : 0;
        train[c] = eval[c] = (zero_spec_task_t){c, ZERO_FORWARD, first};
        train[2 * chunks - 1 - c] =
            (zero_spec_task_t){c, ZERO_BACKWARD, 2 * layers + 3 - first_layer(layers, chunks, c + 1)};
        m->chunks[c] = (zero_spec_chunk_t){.link = c + 1 < chunks ? 2048 * 16384 : 0,
                                           .link_dtype = ZERO_BF16,
                                           .kept = {(uint64_t)1 << 30, 0},
                                           .workspace = {(uint64_t)1 << 30, 0}};
    }
    m->passes[0].tasks = train;
    m->passes[0].task_count = 2 * chunks;
    m->passes[1].tasks = eval;
    m->passes[1].task_count = chunks;
    m->spec.chunks = m->chunks;
    m->spec.chunk_count = chunks;
    return 0;
}

static void free_model(model_t *m)
{
    free(m->units);
    free(m->names);
    free(m->params);
    free(m->train);
    free(m->eval);
    free(m->tasks);
    free(m->chunks);
}

static int make(model_t *m, int layers, int matrices, int64_t count, int64_t embedding, zero_dtype_t dtype)
{
    int units = layers + 1, uses = 0;
    memset(m, 0, sizeof *m);
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
        m->eval[u] = m->train[uses++] = (zero_spec_use_t){.unit = u, .flags = ZERO_READ};
    m->train[uses++] = (zero_spec_use_t){.flags = ZERO_READ | ZERO_GRAD};
    for (int u = layers; u > 0; u--)
        m->train[uses++] = (zero_spec_use_t){.unit = u, .flags = ZERO_READ | ZERO_GRAD};
    m->train[uses++] = (zero_spec_use_t){.flags = ZERO_GRAD};
    m->passes[0] = (zero_spec_pass_t){.name = "train", .kind = ZERO_PASS_TRAIN, .uses = m->train, .use_count = uses};
    m->passes[1] = (zero_spec_pass_t){.name = "eval", .kind = ZERO_PASS_EVAL, .uses = m->eval, .use_count = layers + 1};
    m->passes[2] = (zero_spec_pass_t){.name = "sample", .kind = ZERO_PASS_ANY_ORDER};
    m->spec = (zero_spec_t){.window = 2,
                            .micro_steps = 4,
                            .mesh = {.pipe = 1, .replicas = 1, .context = 1, .tensor = 1},
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

static void set_stage(zero_spec_t *spec, int stage)
{
    spec->parameters.sharding = stage >= 3;
    spec->gradients.sharding = stage >= 2;
    spec->optimizer.sharding = stage >= 1;
}

static int measure(const char *name, int layers, int matrices, int64_t count, int64_t embedding, int world, int stage)
{
    model_t m;
    zero_error_t error;
    double build = 1e9, check = 1e9;
    int64_t ops = 0;

    if (make(&m, layers, matrices, count, embedding, ZERO_BF16) != 0)
        return 1;
    m.spec.world = world;
    set_stage(&m.spec, stage);
    zero_plan_set_groups(&m.spec);
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
    free_model(&m);
    return 0;
}

/* All plans of a pipeline, as each rank builds and checks them. */
static int measure_pipe(const char *name, int layers, int64_t count, int world, zero_mesh_t mesh, int chunks,
                        int micro_steps, int stage)
{
    model_t m;
    zero_error_t error;
    zero_plan_t *plans[64] = {NULL};
    double built = 0, checked = 0;
    int64_t ops = 0;
    int failed = 1;

    if (make(&m, layers, 6, count, 16384 * (int64_t)128256, ZERO_BF16) != 0 || cut(&m, layers, mesh.pipe * chunks) != 0)
        return 1;
    m.spec.world = world;
    m.spec.mesh = mesh;
    m.spec.micro_steps = micro_steps;
    m.spec.schedule = chunks > 1 ? ZERO_SCHEDULE_INTERLEAVED : ZERO_SCHEDULE_1F1B;
    set_stage(&m.spec, stage);
    if (zero_plan_set_tied(&m.spec, &error) != ZERO_OK)
        goto out;
    for (int p = 0; p < mesh.pipe; p++) {
        double begin = now();
        if (zero_plan_build(&plans[p], &m.spec, p, &error) != ZERO_OK)
            goto out;
        double end = now();
        built += end - begin;
        if (zero_plan_check(plans[p], &error) != ZERO_OK)
            goto out;
        checked += now() - end;
        for (int32_t i = 0; i < plans[p]->program_count; i++)
            ops += plans[p]->programs[i].op_count;
    }
    double begin = now();
    if (zero_plan_check_pipe((const zero_plan_t *const *)plans, mesh.pipe, &error) != ZERO_OK)
        goto out;
    printf("%-12s stage %d %5d ranks, %d stages of %d chunks, %d micro-steps, %6lld operations: build %7.3f s, check "
           "%7.3f s, of the pipe %7.3f s\n",
           name, stage, world, mesh.pipe, chunks, micro_steps, (long long)ops, built, checked, now() - begin);
    failed = 0;
out:
    if (failed)
        fprintf(stderr, "%s: %s\n", name, error.text);
    for (int p = 0; p < mesh.pipe; p++)
        zero_plan_destroy(plans[p]);
    free_model(&m);
    return failed;
}

int main(void)
{
    int failed = 0;
    print_machine();
    for (int stage = 0; stage <= 3; stage++)
        failed |= measure("200 units", 199, 4, 1000000, 5000000, 8, stage);
    for (int stage = 0; stage <= 3; stage += 3)
        failed |= measure("GPT-2 1.5B", 48, 6, 5120000, 82048000, 1024, stage);
    const zero_mesh_t mesh = {.pipe = 16, .replicas = 1, .context = 1, .tensor = 1};
    for (int stage = 1; stage <= 3; stage++)
        failed |= measure_pipe("126 layers", 126, 500000000, 1024, mesh, 4, 64, stage);
    failed |= measure_pipe("126 layers", 126, 500000000, 1024, mesh, 1, 64, 1);
    return failed;
}
