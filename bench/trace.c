/* SPDX-License-Identifier: Apache-2.0 */
/* trace.c - what --trace costs: `bench/trace [MODEL [PAIRS [RANKS [threaded [FILE]]]]]`.
 *
 * MODEL (tiny) trains at stage 3 on RANKS (2) CPU ranks of one thread each, with one sequence of 64 tokens per rank
 * (larger models: 128). Of each pair of steps one is traced and written, in an order that alternates. Prints the
 * medians of a step's time and of the pairs' ratios; and the same of rank 0's CPU time, which a busy machine disturbs
 * less. threaded: communication on threads of its own, as on a GPU. FILE: keeps the traces (rank 0's is FILE with .0
 * before its ending). */
#include "models/model.h"
#include "tests/ranks.h"
#include "train/trace.h"
#include "zero/base/base.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { WARM = 3, MOST_PAIRS = 100000 };

typedef struct bench {
    const char *name, *file;
    int pairs;
    bool threaded;
    int64_t seq_len;
    zero_model_config_t config;
} bench_t;

typedef struct trainer {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
    zero_model_t *model;
    int32_t *tokens, *targets;
} trainer_t;

static zero_error_t error;

#define TRY(call)                                                                                     \
    do {                                                                                              \
        if ((call) != ZERO_OK) {                                                                      \
            fprintf(stderr, "%s: %s\n", #call, error.text[0] ? error.text : zero_last_error(engine)); \
            return 1;                                                                                 \
        }                                                                                             \
    } while (0)

static int make(trainer_t *t, const bench_t *b, const zero_bootstrap_t *bootstrap)
{
    zero_engine_t *engine = NULL;
    zero_device_options_t device;
    zero_config_t config;
    zero_model_options_t model = {
        .micro_batch = 1, .seq_len = b->seq_len, .micro_steps = 1, .threads = 1, .backend = "cpu"};
    zero_device_options_init(&device);
    device.threads = 1;
    device.threaded = b->threaded;
    TRY(zero_comm_shm(&t->comm, bootstrap, NULL, &error));
    TRY(zero_device_cpu(&t->device, &device, &error));
    zero_config_init(&config);
    config.comm = t->comm;
    config.device = t->device;
    config.grad_scale = 1.0 / (double)(b->seq_len * bootstrap->world);
    TRY(zero_create(&t->engine, &config, &error));
    engine = t->engine;
    TRY(zero_model_create(&t->model, &b->config, &model, &error));
    TRY(zero_model_declare(t->model, engine, &error));
    TRY(zero_commit(engine));
    TRY(zero_model_bind(t->model, &error));
    TRY(zero_model_init(t->model, 1, &error));
    t->tokens = calloc((size_t)b->seq_len, sizeof *t->tokens);
    t->targets = calloc((size_t)b->seq_len, sizeof *t->targets);
    for (int64_t i = 0; t->tokens && t->targets && i < b->seq_len; i++) {
        t->tokens[i] = (int32_t)(zero_splitmix64((uint64_t)i) % (uint64_t)b->config.vocab);
        t->targets[i] = (int32_t)(zero_splitmix64((uint64_t)i + 1) % (uint64_t)b->config.vocab);
    }
    return t->tokens && t->targets ? 0 : 1;
}

static double cpu_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* spent: seconds, and seconds of CPU time. */
static int step(trainer_t *t, trace_t *trace, int64_t s, double spent[2])
{
    zero_engine_t *engine = t->engine;
    zero_stats_t stats = {.size = sizeof stats};
    double loss, one = 1;
    TRY(trace_step_begin(trace, engine, s, &error)); /* begins the engine's trace, which a run does once */
    TRY(zero_sum(engine, &one, 1));                  /* the ranks begin together */
    double begin = zero_now(), cpu = cpu_now();
    TRY(zero_model_train(t->model, &(zero_model_batch_t){.tokens = t->tokens, .targets = t->targets}, ZERO_LAST, &loss,
                         &error));
    TRY(zero_step(engine, 1e-4));
    TRY(zero_step_stats(engine, &stats));
    TRY(trace_step_end(trace, engine, &error));
    spent[0] = zero_now() - begin;
    spent[1] = cpu_now() - cpu;
    TRY(trace_stop(trace, engine, &error));
    return 0;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static int run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const bench_t *b = arg;
    zero_engine_t *engine = NULL;
    trainer_t t = {.comm = NULL};
    trace_t *trace;
    options_t o;
    double(*spent)[2][2] = calloc((size_t)b->pairs, sizeof *spent), ignored[2]; /* (pairs, traced, kind of time) */
    double *column = calloc((size_t)b->pairs, sizeof *column);
    options_init(&o);
    o.trace = b->file;
    o.trace_steps = "1-1000000";
    o.steps = 1000000;
    if (!spent || !column || make(&t, b, bootstrap))
        return 1;
    TRY(trace_open(&trace, &o, rank, world, 0, false, &error));
    int64_t s = 1;
    for (int i = 0; i < WARM; i++)
        if (step(&t, NULL, s++, ignored))
            return 1;
    for (int i = 0; i < b->pairs; i++)
        for (int k = 0; k < 2; k++) {
            int traced = (i + k) % 2;
            if (step(&t, traced ? trace : NULL, s++, spent[i][traced]))
                return 1;
        }
    if (rank == 0)
        printf("{\"model\":\"%s\",\"ranks\":%d,\"threaded\":%s,\"pairs\":%d", b->name, world,
               b->threaded ? "true" : "false", b->pairs);
    for (int kind = 0; kind < 2 && rank == 0; kind++) {
        double ms[2];
        for (int traced = 0; traced < 2; traced++) {
            for (int i = 0; i < b->pairs; i++)
                column[i] = 1e3 * spent[i][traced][kind];
            ms[traced] = median(column, b->pairs);
        }
        for (int i = 0; i < b->pairs; i++)
            column[i] = spent[i][1][kind] / spent[i][0][kind];
        printf(",\"%s\":{\"ms\":%.4f,\"ms_traced\":%.4f,\"ratio\":%.4f}", kind ? "cpu" : "wall", ms[0], ms[1],
               median(column, b->pairs));
    }
    if (rank == 0)
        printf("}\n");
    TRY(trace_close(trace, &error));
    zero_destroy(t.engine);
    zero_model_destroy(t.model);
    zero_device_destroy(t.device);
    zero_comm_destroy(t.comm);
    free(t.tokens);
    free(t.targets);
    free(spent);
    free(column);
    return 0;
}

int main(int argc, char **argv)
{
    bench_t b = {.name = argc > 1 ? argv[1] : "tiny",
                 .pairs = argc > 2 ? atoi(argv[2]) : 200,
                 .threaded = argc > 4 && strcmp(argv[4], "threaded") == 0,
                 .file = argc > 5 ? argv[5] : "bench_trace.json"};
    int ranks = argc > 3 ? atoi(argv[3]) : 2;
    char path[4096];
    if (b.pairs < 1 || b.pairs > MOST_PAIRS || ranks < 1 || ranks > 64) {
        fprintf(stderr, "usage: bench/trace [MODEL [PAIRS [RANKS [threaded|inline [FILE]]]]]\n");
        return 2;
    }
    if (zero_model_preset(&b.config, b.name, &error) != ZERO_OK) {
        fprintf(stderr, "bench/trace: %s\n", error.text);
        return 2;
    }
    b.seq_len = strcmp(b.name, "tiny") == 0 ? 64 : 128;
    int result = ranks_run(ranks, 3600, run, &b);
    for (int r = 0; argc <= 5 && r < ranks; r++)
        if (trace_path(b.file, r, ranks, path, sizeof path))
            unlink(path);
    return result != 0;
}
