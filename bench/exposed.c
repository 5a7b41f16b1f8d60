/* SPDX-License-Identifier: Apache-2.0 */
/* exposed.c - how long the library stalls a GPU's compute stream: `bench/exposed [UNITS [MILLIONS [PRODUCTS [SIZE
 * [STEPS]]]]]`.
 *
 * UNITS layers (default 12) of MILLIONS of bf16 parameters (50), each read forward and read again backward, on one GPU.
 * PRODUCTS (12) products of SIZE x SIZE matrices (4096) stand in for a layer's kernels forward, and twice as many
 * backward. The compute stream has CUDA events before and after each zero_acquire. The time between them is a wait for
 * a copy, or for a host that enqueues too late. Prints a line per placement of the state. The last line is JSON: the
 * stall per use of a unit and the time per step, in ms. Exit status 77 without a GPU. */
#include "kernels/nn/nn.h"
#include "zero/device/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_UNITS = 64, MOST_USES = 2 * MOST_UNITS, WARM = 2, WORKSPACE = 64 << 20 };

typedef struct bench {
    int units, products, steps;
    int64_t elements, size;
    zero_device_t *device;
    zero_comm_t *comm;
    zero_nn_t *nn;
    char *operands; /* three matrices */
} bench_t;

/* CUDA's events, from the runtime that is already loaded: libzero has no clock of its own on a GPU. */
static struct {
    int (*create)(void **event);
    int (*record)(void *event, void *stream);
    int (*wait)(void *event);
    int (*elapsed)(float *milliseconds, void *start, void *end);
} cuda;

static void *symbol(const char *name)
{
    static const char *const names[] = {"libcudart.so", "libcudart.so.13", "libcudart.so.12"};
    static void *library;
    if (library == NULL)
        library = dlopen("libcuda_emulator.so",
                         RTLD_NOW | RTLD_NOLOAD); /* if the plugin is the emulated one, it is already open */
    for (size_t i = 0; i < sizeof names / sizeof *names && library == NULL; i++)
        library = dlopen(names[i], RTLD_NOW);
    void *f = library != NULL ? dlsym(library, name) : NULL;
    if (f == NULL) {
        fprintf(stderr, "bench/exposed: %s\n",
                library != NULL ? dlerror() : "CUDA's runtime (libcudart.so) is not in the library path");
        exit(1);
    }
    return f;
}

static void check(int status, const char *what)
{
    if (status == 0)
        return;
    fprintf(stderr, "bench/exposed: %s\n", what);
    exit(1);
}

typedef struct place {
    const char *name;
    zero_tier_t parameters, optimizer;
    int window;
} place_t;

typedef struct model {
    zero_engine_t *engine;
    zero_pass_t pass;
    zero_unit_t unit[MOST_UNITS];
} model_t;

#define TRY(call) check((call) != ZERO_OK, zero_last_error(m->engine))

static void declare(const bench_t *b, const place_t *place, model_t *m)
{
    zero_config_t config;
    zero_error_t error = {0};
    zero_config_init(&config);
    zero_config_stage(&config, 3);
    config.comm = b->comm;
    config.device = b->device;
    config.parameters.tier = place->parameters;
    config.optimizer.tier = place->optimizer;
    if (place->optimizer == ZERO_TIER_HOST)
        config.gradients.tier = ZERO_TIER_HOST;
    config.window = place->window;
    check(zero_create(&m->engine, &config, &error) != ZERO_OK, error.text);
    for (int u = 0; u < b->units; u++) {
        char name[16];
        zero_param_t param;
        zero_param_desc_t desc;
        snprintf(name, sizeof name, "layer%d", u);
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 1;
        desc.shape[0] = b->elements;
        desc.dtype = ZERO_BF16;
        TRY(zero_unit_add(m->engine, name, &m->unit[u]));
        TRY(zero_param_add(m->engine, m->unit[u], &desc, &param));
    }
    TRY(zero_pass_add(m->engine, "train", ZERO_PASS_TRAIN, &m->pass));
    for (int u = 0; u < 2 * b->units; u++)
        TRY(zero_use_add(m->engine, m->pass, m->unit[u < b->units ? u : 2 * b->units - 1 - u],
                         u < b->units ? ZERO_READ : ZERO_READ | ZERO_GRAD));
    TRY(zero_commit(m->engine));
}

static void compute(const bench_t *b, int products)
{
    int64_t n = b->size;
    uint64_t bytes = (uint64_t)n * (uint64_t)n * 2;
    for (int i = 0; i < products; i++)
        zero_nn_gemm(b->nn, &(zero_nn_gemm_t){.m = n,
                                              .n = n,
                                              .k = n,
                                              .dtype = ZERO_BF16,
                                              .a = b->operands,
                                              .b = b->operands + bytes,
                                              .c = b->operands + 2 * bytes});
}

/* Runs one step. events: two per use, and one each before and after all. Returns the ms that the stream stalled, and in
 * *whole the ms of the step. */
static double step(const bench_t *b, const model_t *m, void *const *events, double *whole)
{
    void *stream = zero_stream(m->engine);
    int uses = 2 * b->units, e = 0;
    double still = 0;
    float ms;
    check(cuda.record(events[2 * uses], stream), "cudaEventRecord failed");
    TRY(zero_micro_begin(m->engine, m->pass, ZERO_LAST));
    for (int u = 0; u < uses; u++) {
        zero_unit_t unit = m->unit[u < b->units ? u : uses - 1 - u];
        check(cuda.record(events[e++], stream), "cudaEventRecord failed");
        TRY(zero_acquire(m->engine, unit));
        check(cuda.record(events[e++], stream), "cudaEventRecord failed");
        compute(b, u < b->units ? b->products : 2 * b->products);
        TRY(zero_release(m->engine, unit));
    }
    TRY(zero_micro_end(m->engine));
    TRY(zero_step(m->engine, 1e-4));
    check(cuda.record(events[2 * uses + 1], stream), "cudaEventRecord failed");
    TRY(zero_wait(m->engine));
    check(cuda.wait(events[2 * uses + 1]), "cudaEventSynchronize failed");
    for (int u = 0; u < uses; u++) {
        check(cuda.elapsed(&ms, events[2 * u], events[2 * u + 1]), "cudaEventElapsedTime failed");
        still += (double)ms;
    }
    check(cuda.elapsed(&ms, events[2 * uses], events[2 * uses + 1]), "cudaEventElapsedTime failed");
    *whole = (double)ms;
    return still;
}

/* Fills the memory with ordinary numbers, as in a layer: products of zeros take less time. */
static void fill(const bench_t *b, void *native)
{
    uint64_t count = 2 * (uint64_t)b->size * (uint64_t)b->size;
    zero_error_t error = {0};
    uint16_t *numbers = malloc(count * 2);
    check(numbers == NULL, "no memory for the operands");
    for (uint64_t i = 0; i < count; i++)
        numbers[i] = zero_fp32_to_bf16((float)(int32_t)(zero_splitmix64(i) >> 32) * 0x1p-31f);
    check(b->device->ops->copy(b->device, native, b->operands, numbers, count * 2, &error) != ZERO_OK ||
              b->device->ops->finish(b->device, native, 60, &error) != ZERO_OK,
          error.text);
    free(numbers);
}

static int64_t number(int argc, char **argv, int index, int64_t usual, int64_t most)
{
    int64_t value = argc > index ? strtoll(argv[index], NULL, 10) : usual;
    if (value < 1 || value > most) {
        fprintf(stderr, "bench/exposed: argument %d is '%s', but must be from 1 to %lld\n", index, argv[index],
                (long long)most);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static const place_t places[] = {
        {"device", ZERO_TIER_DEVICE, ZERO_TIER_DEVICE, 2},
        {"parameters_host_window_1", ZERO_TIER_HOST, ZERO_TIER_DEVICE, 1},
        {"parameters_host_window_2", ZERO_TIER_HOST, ZERO_TIER_DEVICE, 2},
        {"parameters_host_window_3", ZERO_TIER_HOST, ZERO_TIER_DEVICE, 3},
        {"optimizer_host", ZERO_TIER_DEVICE, ZERO_TIER_HOST, 2},
    };
    enum { PLACES = sizeof places / sizeof *places };
    bench_t b = {.units = (int)number(argc, argv, 1, 12, MOST_UNITS),
                 .elements = number(argc, argv, 2, 50, 1000) * 1000000,
                 .products = (int)number(argc, argv, 3, 12, 1000),
                 .size = number(argc, argv, 4, 4096, 16384) / 8 * 8,
                 .steps = (int)number(argc, argv, 5, 8, 1000)};
    double still[PLACES], whole[PLACES];
    void *events[2 * MOST_USES + 2];
    zero_arena_t *arena;
    zero_comm_t *self;
    zero_device_options_t options;
    zero_error_t error = {0};
    if (zero_cuda_devices() == 0) {
        fprintf(stderr, "bench/exposed: there is no GPU here\n");
        return 77;
    }
    zero_device_options_init(&options);
    options.threads = (int)sysconf(_SC_NPROCESSORS_ONLN); /* for updates on the host */
    check(zero_device_cuda(&b.device, &options, &error) != ZERO_OK || zero_comm_self(&self, &error) != ZERO_OK ||
              zero_comm_staged(&b.comm, self, b.device, 0, &error) != ZERO_OK ||
              zero_nn_create(&b.nn, "cuda", 1, NULL, &error) != ZERO_OK,
          error.text);
    uint64_t matrix = (uint64_t)b.size * (uint64_t)b.size * 2;
    check(b.device->ops->arena_create(b.device, ZERO_TIER_DEVICE, 3 * matrix + WORKSPACE + ZERO_NN_ALIGN, &arena,
                                      &error) != ZERO_OK,
          error.text);
    b.operands = b.device->ops->arena_base(arena);
    zero_nn_set_dry(b.nn, true);
    compute(&b, 1);
    zero_nn_set_dry(b.nn, false);
    check(zero_nn_workspace_bytes(b.nn) > WORKSPACE, "the product wants more workspace than there is");
    zero_nn_set_workspace(b.nn, zero_nn_aligned(b.operands + 3 * matrix), WORKSPACE);
    *(void **)&cuda.create = symbol("cudaEventCreate");
    *(void **)&cuda.record = symbol("cudaEventRecord");
    *(void **)&cuda.wait = symbol("cudaEventSynchronize");
    *(void **)&cuda.elapsed = symbol("cudaEventElapsedTime");
    for (int i = 0; i < 4 * b.units + 2; i++)
        check(cuda.create(&events[i]), "cudaEventCreate failed");
    printf("# %d units of %lld parameters, %d products of %lld x %lld forward; %s\n", b.units, (long long)b.elements,
           b.products, (long long)b.size, (long long)b.size, zero_nn_backend(b.nn));
    for (int p = 0; p < PLACES; p++) {
        model_t m = {0};
        declare(&b, &places[p], &m);
        zero_nn_set_stream(b.nn, zero_stream(m.engine));
        if (p == 0)
            fill(&b, zero_stream(m.engine));
        still[p] = whole[p] = 0;
        for (int s = 0; s < WARM + b.steps; s++) {
            double all, waited = step(&b, &m, events, &all);
            still[p] += s < WARM ? 0 : waited / (b.steps * 2 * b.units);
            whole[p] += s < WARM ? 0 : all / b.steps;
        }
        check(zero_nn_status(b.nn, &error) != ZERO_OK, error.text);
        printf("%-26s %8.4f ms a use stands still, %9.3f ms a step\n", places[p].name, still[p], whole[p]);
        fflush(stdout);
        zero_destroy(m.engine);
    }
    printf("{");
    for (int p = 0; p < PLACES; p++)
        printf("%s\"%s\": {\"still_ms\": %.4f, \"step_ms\": %.3f}", p ? ", " : "", places[p].name, still[p], whole[p]);
    printf("}\n");
    zero_nn_destroy(b.nn);
    b.device->ops->arena_destroy(arena);
    zero_comm_destroy(b.comm);
    zero_device_destroy(b.device);
    return 0;
}
