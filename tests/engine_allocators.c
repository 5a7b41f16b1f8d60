/* SPDX-License-Identifier: Apache-2.0 */
/* engine_allocators.c - memory from the caller's allocator, on CPU and on emulated GPUs. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/emulated.h"
#include "tests/emulator/include/cuda_runtime_api.h"
#include "tests/engine_small.h"
#include "tests/engine_suites.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call) SMALL_TRY(call)
#define IS(condition) SMALL_IS(condition)

/* ---- an allocator that records its calls ------------------------------------------------------------------------ */

enum { MOST = 8, NOTHING = 1, CROOKED, FOREIGN };

typedef struct books {
    small_t *s;
    bool gpu;
    struct {
        zero_tier_t tier;
        char *memory; /* as the allocator returned it */
        size_t bytes, aside;
        bool foreign; /* host memory in place of GPU memory */
        int released;
    } loans[MOST];
    int count, wrong;   /* calls that differ from the documentation */
    int odd_at, odd_by; /* this call, counted from 0, returns NULL or misaligned memory; -1: none */
} books_t;

static void *runtime(const char *name)
{
    void *library = dlopen("libcuda_emulator.so", RTLD_NOW | RTLD_NOLOAD), *f = library ? dlsym(library, name) : NULL;
    if (!f)
        abort();
    return f;
}
#define RUNTIME(name) ((__typeof__(name) *)runtime(#name))

/* Returns memory with arbitrary contents; on a GPU the emulator fills it. */
static char *take(const books_t *b, zero_tier_t tier, size_t bytes, size_t alignment)
{
    void *memory = NULL;
    if (b->gpu && tier == ZERO_TIER_DEVICE)
        return RUNTIME(cudaMalloc)(&memory, bytes) == cudaSuccess ? memory : NULL;
    if (b->gpu ? RUNTIME(cudaHostAlloc)(&memory, bytes, cudaHostAllocPortable) != cudaSuccess
               : posix_memalign(&memory, alignment, bytes) != 0)
        return NULL;
    memset(memory, 0x5a, bytes);
    return memory;
}

static void *allocate(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment)
{
    books_t *b = ctx;
    bool odd = b->count == b->odd_at;
    if (bytes == 0 || (alignment & (alignment - 1)) != 0 || alignment > 2 << 20 || alignment < 2 || b->count == MOST ||
        (tier != ZERO_TIER_DEVICE && tier != ZERO_TIER_HOST))
        b->wrong++;
    if (odd && b->odd_by == NOTHING) {
        b->odd_at = -1;
        return NULL;
    }
    bool foreign = odd && b->odd_by == FOREIGN;
    size_t aside = odd && !foreign ? alignment / 2 : 0;
    char *memory =
        foreign ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : take(b, tier, bytes + aside, alignment);
    if (!memory || b->count == MOST)
        return NULL;
    b->loans[b->count].tier = tier;
    b->loans[b->count].memory = memory + aside;
    b->loans[b->count].bytes = bytes;
    b->loans[b->count].foreign = foreign;
    b->loans[b->count++].aside = aside;
    return memory + aside;
}

static void release(void *ctx, zero_tier_t tier, void *memory, size_t bytes)
{
    books_t *b = ctx;
    for (int i = 0; i < b->count; i++) {
        if (b->loans[i].memory != memory || b->loans[i].released)
            continue;
        if (b->loans[i].tier != tier || b->loans[i].bytes != bytes)
            b->wrong++;
        b->loans[i].released++;
        if (!b->gpu || b->loans[i].foreign)
            free((char *)memory - b->loans[i].aside);
        else if ((tier == ZERO_TIER_DEVICE ? RUNTIME(cudaFree)
                                           : RUNTIME(cudaFreeHost))((char *)memory - b->loans[i].aside) != cudaSuccess)
            b->wrong++;
        return;
    }
    b->wrong++;
}

/* Whether the GPUs are emulated, so that the allocator can reserve their memory. */
static bool emulator(void)
{
    char path[4200];
    bool plugins = emulated_plugins();
    snprintf(path, sizeof path, "%s/libcuda_emulator.so", getenv("ZERO_PLUGIN_PATH"));
    return plugins && access(path, R_OK) == 0;
}

/* ---- training with it ------------------------------------------------------------------------------------------- */

/* Each tier has one reservation, of the forecast bytes, which equal the measured bytes. */
static int as_forecast(small_t *s, const books_t *b, int before)
{
    zero_memory_t forecast = {.size = sizeof forecast}, measured = {.size = sizeof measured};
    TRY(zero_forecast(s->engine, &forecast));
    TRY(zero_measure(s->engine, &measured));
    IS(memcmp(forecast.bytes, measured.bytes, sizeof forecast.bytes) == 0);
    for (zero_tier_t t = ZERO_TIER_DEVICE; t <= ZERO_TIER_HOST; t++) {
        /* the staged communicator reserves memory for each of the two that the engine splits off */
        int staging = b->gpu && s->c.world > 1 && t == ZERO_TIER_HOST ? 2 : 0, loans = -staging;
        uint64_t bytes = 0, taken = -(uint64_t)staging * SMALL_STAGING;
        for (int k = 0; k < ZERO_KIND_COUNT; k++)
            bytes += k == ZERO_KIND_RINGS ? 0 : forecast.bytes[t][k];
        for (int i = before; i < b->count; i++)
            if (b->loans[i].tier == t)
                loans++, taken += b->loans[i].bytes;
        if (loans != (bytes > 0) || taken != bytes)
            return small_complain(s, "%d reservations of %llu bytes of tier %s, of which %llu were forecast", loans,
                                  (unsigned long long)taken, zero_tier_name(t), (unsigned long long)bytes);
    }
    return 0;
}

static int all_returned(const small_t *s, const books_t *b)
{
    for (int i = 0; i < b->count; i++)
        IS(b->loans[i].released == 1);
    IS(b->wrong == 0);
    return 0;
}

static int train_both(small_t *s, small_t *plain, books_t *b, int before)
{
    small_states_t mine = {0}, theirs = {0};
    int result = 0;
    for (int step = 1; step <= 2 && result == 0; step++)
        result = small_step(s, step) || small_step(plain, step) ? -1 : 0;
    if (result == 0)
        result = small_read(s, &mine) || small_read(plain, &theirs) ||
                 small_compare(s, &theirs, &mine, "in the caller's memory") || as_forecast(s, b, before);
    small_forget(&mine);
    small_forget(&theirs);
    return result;
}

static int run_loan(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static books_t books = {.odd_at = -1};
    const zero_allocator_t allocator = {
        .size = sizeof allocator, .allocate = allocate, .release = release, .ctx = &books};
    zero_comm_t *comm = small_comm(bootstrap);
    small_t lent = {0}, plain = {0}, *s = &lent;
    small_case_t c = *(const small_case_t *)arg, d = c;
    (void)rank, (void)world;
    c.allocator = &allocator;
    d.folder = "loans.nvme";
    books.gpu = c.threaded == SMALL_CUDA;
    int result = !comm || small_create(s, &c, comm),
        before = books.count; /* the staged communicator also has a reservation */
    if (result == 0 && books.count != (books.gpu && world > 1))
        result = small_complain(s, "%d reservations before zero_commit", books.count);
    if (result == 0 && zero_commit(s->engine) != ZERO_OK)
        result = small_complain(s, "%s", zero_last_error(s->engine));
    result = result || small_fill(s) || small_start(&plain, &d, comm) || train_both(s, &plain, &books, before);
    small_destroy(&plain);
    small_destroy(s);
    result = result || all_returned(s, &books);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(engines_live_in_memory_that_is_lent)
{
    bool emulated = emulator();
    setenv("ZERO_EMULATOR", "threads", 1);
    for (int i = 0; i < 4 * SMALL_PLACES; i++) {
        small_case_t c = {.world = 1 + (i + i / 4) % 3,
                          .stage = i % 4,
                          .threaded = i / 2 % 4,
                          .micro_steps = 1,
                          .dtype = i % 3 ? ZERO_BF16 : ZERO_FP32,
                          .place = (small_place_t)(i / 4)};
        if (c.threaded < SMALL_CUDA || emulated)
            ck_assert_int_eq(ranks_run(c.world, 60, run_loan, &c), 0);
    }
}
END_TEST

/* ---- allocators that fail --------------------------------------------------------------------------------------- */

typedef struct failing {
    small_case_t c;
    int at, by;
} failing_t;

/* Rank 1's allocator returns NULL or misaligned memory: no rank commits, none waits, and all memory is released. */
static int run_failing(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    static books_t books;
    const zero_allocator_t allocator = {
        .size = sizeof allocator, .allocate = allocate, .release = release, .ctx = &books};
    const failing_t *f = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    small_t small = {0}, *s = &small;
    small_case_t c = f->c;
    (void)world;
    c.allocator = &allocator;
    books = (books_t){.gpu = c.threaded == SMALL_CUDA, .odd_at = -1, .odd_by = f->by};
    int result = !comm || small_create(s, &c, comm);
    books.odd_at = rank == 1 ? books.count + f->at : -1;
    if (result == 0) {
        zero_status_t status = zero_commit(s->engine), wanted = f->by == NOTHING   ? ZERO_ERR_MEMORY
                                                                : rank != 1        ? ZERO_ERR_PEER
                                                                : f->by == CROOKED ? ZERO_ERR_ARG
                                                                                   : ZERO_ERR_SYSTEM;
        const char *part = f->by == NOTHING ? "allocator" : f->by == CROOKED ? "allocator" : "cudaMemsetAsync";
        if (status != wanted || !has_names(zero_last_error(s->engine), part) ||
            (rank != 1 && !has_names(zero_last_error(s->engine), "`rank 1`")))
            result = small_complain(s, "%s: %s", zero_status_name(status), zero_last_error(s->engine));
        else if (zero_micro_begin(s->engine, s->train, ZERO_LAST) != wanted)
            result = small_complain(s, "an engine that was not committed trains");
    }
    small_destroy(s);
    result = result || all_returned(s, &books);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(lenders_fail_for_all)
{
    bool emulated = emulator();
    setenv("ZERO_EMULATOR", "inline", 1);
    for (int i = 0; i < 13; i++) {
        failing_t f = {.c = {.world = 3,
                             .stage = 3,
                             .threaded = i / 4 ? 2 * (i / 4) - 1 : 0,
                             .micro_steps = 1,
                             .place = SMALL_HOST},
                       .at = i % 2,
                       .by = i / 2 % 2 ? NOTHING : CROOKED};
        if (i == 12) { /* host memory in place of GPU memory */
            f.c.threaded = SMALL_CUDA;
            f.by = FOREIGN;
        }
        if (f.c.threaded < SMALL_CUDA || emulated)
            ck_assert_int_eq(ranks_run(3, 60, run_failing, &f), 0);
    }
}
END_TEST

START_TEST(lenders_take_back)
{
    zero_device_t *device = NULL;
    zero_error_t error;
    zero_device_options_t options;
    for (int missing = 0; missing < 2; missing++) {
        zero_device_options_init(&options);
        const zero_allocator_t half = {
            .size = sizeof half, .allocate = missing ? NULL : allocate, .release = missing ? release : NULL};
        options.allocator = &half;
        ck_assert_int_eq(zero_device_cpu(&device, &options, &error), ZERO_ERR_ARG);
        ck_assert_ptr_null(device);
        ck_assert_msg(has_names(error.text, missing ? "'allocate'" : "'release'"), "%s", error.text);
        ck_assert_int_eq(zero_device_cuda(&device, &options, &error), ZERO_ERR_ARG);
        ck_assert_ptr_null(device);
        ck_assert_msg(has_names(error.text, "allocator"), "%s", error.text);
    }
}
END_TEST

/* The engine asks an allocator for more than the machine has free, because the allocator may have reserved memory
 * earlier. */
static void *nothing_of(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment)
{
    (void)alignment;
    *(uint64_t *)ctx += tier == ZERO_TIER_DEVICE ? bytes : 0;
    return NULL;
}
static void not_lent(void *ctx, zero_tier_t tier, void *memory, size_t bytes)
{
    (void)ctx, (void)tier, (void)memory, (void)bytes;
}

START_TEST(lenders_know_what_they_have)
{
    const uint64_t much = 1ull << 46;
    uint64_t asked = 0;
    zero_device_t *device = NULL;
    zero_comm_t *comm = NULL;
    zero_engine_t *engine = NULL;
    zero_reserve_t reserve;
    zero_config_t config;
    zero_device_options_t options;
    zero_device_options_init(&options);
    const zero_allocator_t lender = {.size = sizeof lender, .allocate = nothing_of, .release = not_lent, .ctx = &asked};
    options.allocator = &lender;
    ck_assert_int_eq(zero_device_cpu(&device, &options, NULL), ZERO_OK);
    ck_assert_int_eq(zero_comm_self(&comm, NULL), ZERO_OK);
    zero_config_init(&config);
    config.device = device;
    config.comm = comm;
    ck_assert_int_eq(zero_create(&engine, &config, NULL), ZERO_OK);
    ck_assert_int_eq(zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, much, &reserve), ZERO_OK);
    ck_assert_int_eq(zero_commit(engine), ZERO_ERR_MEMORY);
    ck_assert_msg(has_names(zero_last_error(engine), "allocator"), "%s", zero_last_error(engine));
    ck_assert_uint_ge(asked, much);
    zero_destroy(engine);
    zero_comm_destroy(comm);
    zero_device_destroy(device);
}
END_TEST

Suite *engine_allocators_suite(void)
{
    Suite *suite = suite_create("allocators");
    TCase *t = tcase_create("allocators");
    tcase_set_timeout(t, 150);
    tcase_add_test(t, engines_live_in_memory_that_is_lent);
    tcase_add_test(t, lenders_fail_for_all);
    tcase_add_test(t, lenders_take_back);
    tcase_add_test(t, lenders_know_what_they_have);
    suite_add_tcase(suite, t);
    return suite;
}
