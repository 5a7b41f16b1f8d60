/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - how fast an engine saves and loads, and how long a save holds up training.
 *
 *   bench/save FOLDER [MODEL [RANKS]]     gpt2, gpt2-medium, gpt2-large or gpt2-xl (gpt2); 2 ranks
 *
 * Parameters have the names' number, shapes and dtype (bf16) of the model, at stage 3 with AdamW: 14 bytes a parameter
 * in the files. There are no kernels: gradients are random bits, and passes sleep. So the drive, and not a model's
 * speed, decides. A folder FOLDER/zero-bench-save is created and removed. Prints
 *
 *   save BYTES SECONDS CPU   zero_save until zero_save_end, which waits; nothing else runs
 *   load BYTES SECONDS CPU   zero_checkpoint_open and zero_load, of files that are not in the page cache
 *   step SECONDS SECONDS     a step whose passes take longer than a save: alone, and beside one, with zero_save and
 *                            zero_save_end
 *   memory KIB KIB           most that a rank used before it saved, and then
 *
 * CPU: seconds of processor time of a rank.
 *
 * bench/save.sh compares the rates with fio's. */
#define _GNU_SOURCE
#include "tests/ranks.h"
#include "zero/base/base.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_UNITS = 64 };

typedef struct model {
    const char *name;
    int layers, width;
} model_t;
static const model_t models[] = {
    {"gpt2", 12, 768}, {"gpt2-medium", 24, 1024}, {"gpt2-large", 36, 1280}, {"gpt2-xl", 48, 1600}};

typedef struct bench {
    const model_t *model;
    char folder[512];
} bench_t;

typedef struct run {
    const bench_t *bench;
    zero_engine_t *engine;
    int rank, units;
    zero_unit_t unit[MOST_UNITS];
    zero_pass_t pass;
    int64_t elements;
} run_t;

#define TRY(call)                                                             \
    do {                                                                      \
        if ((call) != ZERO_OK) {                                              \
            fprintf(stderr, "%s: %s\n", #call, zero_last_error(run->engine)); \
            return -1;                                                        \
        }                                                                     \
    } while (0)

/* ---- the engine ------------------------------------------------------------------------------------------------- */

static int add(run_t *run, const char *name, int64_t rows, int64_t cols)
{
    zero_param_t param;
    zero_param_desc_t desc;
    zero_param_desc_init(&desc);
    desc.name = name;
    desc.dtype = ZERO_BF16;
    desc.ndim = rows > 0 ? 2 : 1;
    desc.shape[0] = rows > 0 ? rows : cols;
    desc.shape[1] = rows > 0 ? cols : 0;
    run->elements += (rows > 0 ? rows : 1) * cols;
    TRY(zero_param_add(run->engine, run->unit[run->units - 1], &desc, &param));
    return 0;
}

static int add_unit(run_t *run, const char *name)
{
    TRY(zero_unit_add(run->engine, name, &run->unit[run->units++]));
    return 0;
}

static int add_layer(run_t *run, int layer, int64_t n)
{
    const struct {
        const char *name;
        int64_t rows, cols;
    } params[] = {{"ln_1.weight", 0, n},
                  {"ln_1.bias", 0, n},
                  {"attn.c_attn.weight", n, 3 * n},
                  {"attn.c_attn.bias", 0, 3 * n},
                  {"attn.c_proj.weight", n, n},
                  {"attn.c_proj.bias", 0, n},
                  {"ln_2.weight", 0, n},
                  {"ln_2.bias", 0, n},
                  {"mlp.c_fc.weight", n, 4 * n},
                  {"mlp.c_fc.bias", 0, 4 * n},
                  {"mlp.c_proj.weight", 4 * n, n},
                  {"mlp.c_proj.bias", 0, n}};
    char name[64];
    snprintf(name, sizeof name, "h.%d", layer);
    if (add_unit(run, name))
        return -1;
    for (size_t p = 0; p < sizeof params / sizeof params[0]; p++) {
        snprintf(name, sizeof name, "h.%d.%s", layer, params[p].name);
        if (add(run, name, params[p].rows, params[p].cols))
            return -1;
    }
    return 0;
}

static int declare(run_t *run)
{
    const model_t *m = run->bench->model;
    if (add_unit(run, "wte") || add(run, "wte.weight", 50257, m->width) || add(run, "wpe.weight", 1024, m->width))
        return -1;
    for (int k = 0; k < m->layers; k++)
        if (add_layer(run, k, m->width))
            return -1;
    if (add_unit(run, "ln_f") || add(run, "ln_f.weight", 0, m->width) || add(run, "ln_f.bias", 0, m->width))
        return -1;
    TRY(zero_pass_add(run->engine, "train", ZERO_PASS_TRAIN, &run->pass));
    for (int u = 0; u < run->units; u++)
        TRY(zero_use_add(run->engine, run->pass, run->unit[u], ZERO_READ | ZERO_GRAD));
    TRY(zero_commit(run->engine));
    return 0;
}

/* Values that no drive can compress: bf16 numbers near 1. */
static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    uint32_t state = (uint32_t)zero_splitmix64((uint64_t)param << 40 ^ (uint64_t)begin);
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        out[i] = 0.5f + (float)(state >> 8) * 0x1p-24f;
    }
    (void)ctx;
    return 0;
}

static void fill_gradients(run_t *run, zero_unit_t unit)
{
    const zero_param_t first = unit == 0 ? 0 : 2 + 12 * (unit - 1);
    const zero_param_t end = first + (unit == 0 || (int)unit == run->units - 1 ? 2 : 12);
    const int64_t n = run->bench->model->width;
    const int64_t layer[] = {n, n, 3 * n * n, 3 * n, n * n, n, n, n, 4 * n * n, 4 * n, 4 * n * n, n},
                  table[] = {50257 * n, 1024 * n}, last[] = {n, n};
    const int64_t *counts = unit == 0 ? table : (int)unit == run->units - 1 ? last : layer;
    for (zero_param_t p = first; p < end; p++) {
        uint16_t *g = zero_param_grad(run->engine, p);
        uint32_t state = (uint32_t)p;
        for (int64_t i = 0; i < counts[p - first]; i++) {
            state = state * 1664525u + 1013904223u;
            g[i] = (uint16_t)(0x3c00u | (state >> 16 & 0x83ffu));
        }
    }
}

static int step(run_t *run, double seconds, bool gradients)
{
    const struct timespec pause = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    TRY(zero_micro_begin(run->engine, run->pass, ZERO_LAST));
    nanosleep(&pause, NULL);
    for (int u = 0; u < run->units; u++) {
        TRY(zero_acquire(run->engine, run->unit[u]));
        if (gradients)
            fill_gradients(run, run->unit[u]);
        TRY(zero_release(run->engine, run->unit[u]));
    }
    TRY(zero_micro_end(run->engine));
    TRY(zero_step(run->engine, 1e-4));
    return 0;
}

/* ---- what is measured ------------------------------------------------------------------------------------------- */

static int barrier(run_t *run)
{
    double value = 0;
    TRY(zero_sum(run->engine, &value, 1));
    return 0;
}

static long most_kib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

static double processor(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

typedef struct spent {
    double seconds, processor;
} spent_t;

/* Removes the files of a folder from the page cache. */
static void forget(const char *path)
{
    DIR *folder = opendir(path);
    for (struct dirent *entry; folder && (entry = readdir(folder)) != NULL;) {
        int fd = openat(dirfd(folder), entry->d_name, O_RDONLY);
        if (fd < 0)
            continue;
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
    if (folder)
        closedir(folder);
}

static int measure_save(run_t *run, spent_t *spent, zero_saved_t *saved)
{
    double start = zero_now(), used = processor();
    TRY(zero_save(run->engine, NULL, 0));
    TRY(zero_save_end(run->engine, true, saved));
    *spent = (spent_t){zero_now() - start, processor() - used};
    return barrier(run);
}

static int measure_load(run_t *run, const char *path, spent_t *spent)
{
    zero_checkpoint_t *checkpoint = NULL;
    zero_error_t error;
    if (run->rank == 0)
        forget(path);
    if (barrier(run))
        return -1;
    double start = zero_now(), used = processor();
    if (zero_checkpoint_open(&checkpoint, path, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        return -1;
    }
    TRY(zero_load(run->engine, checkpoint));
    *spent = (spent_t){zero_now() - start, processor() - used};
    zero_checkpoint_close(checkpoint);
    return 0;
}

static int measure_step(run_t *run, double pass, double *alone, double *beside)
{
    zero_saved_t saved = {.size = sizeof saved};
    for (int k = 0; k < 3; k++) { /* the last counts */
        double start = zero_now();
        if (step(run, pass, false))
            return -1;
        *alone = zero_now() - start;
    }
    double start = zero_now();
    TRY(zero_save(run->engine, NULL, 0));
    if (step(run, pass, false))
        return -1;
    TRY(zero_save_end(run->engine, false, &saved)); /* it has been written */
    if (!saved.done)
        TRY(zero_save_end(run->engine, true, &saved));
    *beside = zero_now() - start;
    return 0;
}

static int measure(run_t *run)
{
    zero_save_options_t options;
    zero_saved_t saved = {.size = sizeof saved};
    spent_t save, load;
    double alone, beside;
    zero_save_options_init(&options);
    options.folder = run->bench->folder;
    options.keep = 1;
    for (zero_param_t p = 0; p < 2 + 12 * run->bench->model->layers + 2; p++)
        TRY(zero_param_fill(run->engine, p, fill, NULL));
    if (step(run, 0, true))
        return -1;
    TRY(zero_save_open(run->engine, &options));
    long before = most_kib();
    if (measure_save(run, &save, &saved) || measure_load(run, saved.path, &load))
        return -1;
    long after = most_kib();
    if (step(run, 0, false) || measure_step(run, 1.5 * save.seconds, &alone, &beside))
        return -1;
    if (run->rank == 0) /* a load computes the parameters from the master weights */
        printf("save %llu %.3f %.3f\nload %lld %.3f %.3f\nstep %.3f %.3f\nmemory %ld %ld\n",
               (unsigned long long)saved.bytes, save.seconds, save.processor, (long long)(12 * run->elements),
               load.seconds, load.processor, alone, beside, before, after);
    return 0;
}

static int rank_main(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    run_t own = {.bench = arg, .rank = rank}, *run = &own;
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_device_options_t options;
    zero_config_t config;
    zero_error_t error = {0};
    zero_device_options_init(&options);
    options.threads = 1;
    zero_config_init(&config);
    if ((world == 1 ? zero_comm_self(&comm, &error) : zero_comm_shm(&comm, bootstrap, NULL, &error)) != ZERO_OK ||
        zero_device_cpu(&device, &options, &error) != ZERO_OK)
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
    config.comm = comm;
    config.device = device;
    config.reduce_dtype = ZERO_BF16;
    config.saves = true;
    int result = device && zero_create(&run->engine, &config, &error) == ZERO_OK ? 0 : -1;
    if (result)
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
    if (result == 0)
        result = declare(run) || measure(run);
    fflush(stdout); /* ranks exit without flushing */
    zero_destroy(run->engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return result != 0;
}

int main(int argc, char **argv)
{
    bench_t bench = {.model = NULL};
    char command[600];
    int ranks = argc > 3 ? atoi(argv[3]) : 2;
    for (size_t m = 0; m < sizeof models / sizeof models[0]; m++)
        if (strcmp(models[m].name, argc > 2 ? argv[2] : "gpt2") == 0)
            bench.model = &models[m];
    if (argc < 2 || argc > 4 || !bench.model || ranks < 1 || strchr(argv[1], '\'')) {
        fprintf(stderr, "usage: bench/save FOLDER [gpt2|gpt2-medium|gpt2-large|gpt2-xl [RANKS]]\n");
        return 2;
    }
    snprintf(bench.folder, sizeof bench.folder, "%s/zero-bench-save", argv[1]);
    int failed = ranks_run(ranks, 3600, rank_main, &bench);
    snprintf(command, sizeof command, "rm -rf '%s'", bench.folder);
    return system(command) != 0 || failed;
}
