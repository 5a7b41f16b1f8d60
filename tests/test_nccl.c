/* SPDX-License-Identifier: Apache-2.0 */
/* test_nccl.c - the NCCL communicator, on emulated GPUs and an emulated NCCL. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/emulated.h"
#include "tests/emulator/include/nccl.h"
#include "tests/engine_small.h"
#include "tests/nccl_tests.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- ranks ------------------------------------------------------------------------------------------------------ */

int nccl_rank_begin(nccl_rank_t *r, int index, int world, const zero_bootstrap_t *b, const nccl_setup_t *setup)
{
    zero_device_options_t o;
    zero_comm_options_t c;
    char text[16];
    memset(r, 0, sizeof *r);
    snprintf(text, sizeof text, "%d", world);
    setenv("ZERO_EMULATOR_DEVICES", text, 1);
    setenv("ZERO_EMULATOR", setup->mode, 1);
    if (setup->faults)
        setenv("ZERO_EMULATOR_NCCL", setup->faults, 1);
    zero_comm_options_init(&c);
    c.timeout_s = 60;
    EXPECT_OK(zero_comm_shm(&r->host, b, &c, error));
    zero_device_options_init(&o);
    o.index = index;
    EXPECT_OK(zero_device_cuda(&r->device, &o, error));
    for (int i = 0; i < NCCL_STREAMS; i++) {
        EXPECT_OK(r->device->ops->stream_create(r->device, i ? ZERO_STREAM_REDUCE : ZERO_STREAM_GATHER, &r->streams[i],
                                                error));
        r->native[i] = r->device->ops->native(r->streams[i]);
    }
    r->room_bytes = (uint64_t)world * NCCL_SLICE;
    uint64_t bytes = NCCL_STREAMS * r->room_bytes;
    const zero_device_ops_t *d = r->device->ops;
    EXPECT_OK(setup->windows ? d->arena_create_shareable(r->device, bytes, &r->arena, error)
                             : d->arena_create(r->device, ZERO_TIER_DEVICE, bytes, &r->arena, error));
    for (int i = 0; i < NCCL_STREAMS; i++)
        r->room[i] = (char *)r->device->ops->arena_base(r->arena) + (uint64_t)i * r->room_bytes;
    return 0;
}

static void note(void *ctx, zero_log_level_t level, const char *text)
{
    (void)level;
    ((nccl_rank_t *)ctx)->aborted |= has_names(text, "NCCL");
}

zero_status_t nccl_open(nccl_rank_t *r, const nccl_setup_t *setup, void *callers, zero_error_t *error)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = setup->timeout_s > 0 ? setup->timeout_s : 60;
    o.log = note;
    o.log_ctx = r;
    o.nccl_windows = setup->windows;
    return zero_comm_nccl(&r->c, r->host, r->device, callers, &o, error);
}

int nccl_rank_open(nccl_rank_t *r, const zero_bootstrap_t *b, const nccl_setup_t *setup)
{
    if (nccl_rank_begin(r, b->rank, b->world, b, setup))
        return 1;
    EXPECT_OK(nccl_open(r, setup, NULL, error));
    return 0;
}

void nccl_rank_close(nccl_rank_t *r)
{
    for (int i = 0; i < NCCL_STREAMS; i++)
        if (r->streams[i])
            r->device->ops->stream_destroy(r->streams[i]);
    zero_comm_destroy(r->c);
    if (r->arena)
        r->device->ops->arena_destroy(r->arena);
    zero_device_destroy(r->device);
    zero_comm_destroy(r->host);
}

void *nccl_symbol(const char *name)
{
    void *library = dlopen(getenv("ZERO_NCCL_LIBRARY"), RTLD_NOW | RTLD_LOCAL),
         *symbol = library ? dlsym(library, name) : NULL;
    if (!symbol) {
        fprintf(stderr, "the emulated NCCL has no %s\n", name);
        abort();
    }
    return symbol;
}

nccl_counts_t nccl_counts(void)
{
    nccl_counts_t n;
    void (*counts)(int *, int *, int *, int *, int *) =
        (void (*)(int *, int *, int *, int *, int *))nccl_symbol("zero_emulated_nccl_counts");
    counts(&n.comms, &n.aborted, &n.destroyed, &n.registered, &n.elsewhere);
    return n;
}

int nccl_windows(void)
{
    return ((int (*)(void))nccl_symbol("zero_emulated_nccl_windows"))();
}

/* ---- results ---------------------------------------------------------------------------------------------------- */

static const char *const modes[] = {"inline", "threads"};

/* The capabilities in the plan match the communicator and its host communicator. */
static int ring_cases(const zero_comm_t *c, const zero_comm_t *host)
{
    zero_comm_caps_t caps;
    EXPECT_OK(zero_comm_describe("nccl", c->size, &host->options, &caps, error));
    EXPECT(strcmp(zero_comm_name(c), "nccl") == 0 && caps.ring_bytes == c->caps.ring_bytes && caps.device_pointers &&
           c->caps.device_pointers);
    EXPECT(!caps.host_pointers && !c->caps.host_pointers && caps.in_place && c->caps.in_place &&
           c->caps.node_ranks == c->size);
    uint64_t own, others;
    zero_comm_resident(c, &own, &others);
    EXPECT(own == c->caps.ring_bytes);
    return 0;
}

static int cases_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    nccl_setup_t setup = {.mode = *(const char *const *)arg};
    nccl_rank_t r;
    zero_comm_t *part, *again;
    if (nccl_rank_open(&r, b, &setup))
        return 1;
    EXPECT(r.c->rank == rank && r.c->size == world);
    if (ring_cases(r.c, r.host) || comm_cases_on(r.c, r.device, r.native[0], 1))
        return 1;
    /* A part of the ranks, and a part of that part. */
    EXPECT_OK(zero_comm_split(r.c, rank & 1, -rank, &part, error));
    EXPECT(part->size == (world + 1 - (rank & 1)) / 2 && part->rank == part->size - 1 - rank / 2);
    EXPECT_OK(zero_comm_split(part, 7, 0, &again, error));
    EXPECT(again->rank == part->rank && again->size == part->size);
    if (ring_cases(part, r.host) || comm_cases_on(part, r.device, r.native[1], 2 + (unsigned)(rank & 1)))
        return 1;
    zero_comm_destroy(part);
    if (comm_cases_on(again, r.device, r.native[0], 4 + (unsigned)(rank & 1)) ||
        comm_cases_on(r.c, r.device, r.native[0], 6))
        return 1;
    zero_comm_destroy(again);
    if (comm_pair_cases_on(r.c, r.device, r.native[0], 8))
        return 1;
    /* publish goes through the host communicator. */
    zero_comm_publish(r.c, 100 + (uint64_t)rank);
    char done = 0, all[16];
    EXPECT_OK(zero_comm_exchange(r.c, &done, all, 1, error));
    EXPECT(zero_comm_progress(r.c, world - 1) == 100 + (uint64_t)world - 1);
    nccl_rank_close(&r);
    EXPECT(((int (*)(void))nccl_symbol("zero_emulated_nccl_most_ctas"))() == 16);
    nccl_counts_t n = nccl_counts();
    EXPECT(n.comms == 0 && n.aborted == 0 && n.destroyed == 4 && n.registered == 0 && !r.aborted);
    const bool alone = world % 2 && rank == world - 1; /* without a link */
    EXPECT(((int (*)(void))nccl_symbol("zero_emulated_nccl_least_ctas"))() == (alone ? 16 : 2));
    return 0;
}

START_TEST(nccl_does_all)
{
    ck_assert_int_eq(ranks_run(1 + _i / 2, 200, cases_rank, (void *)&modes[_i % 2]), 0);
}
END_TEST

/* Gathers and sums run at the same time, on separate streams and communicators. They outnumber the places for them, and
 * no rank waits before the end. */
static int side_by_side_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    enum { TIMES = 300, PIECES = 20 };
    int which = *(const int *)arg;
    nccl_setup_t setup = {.mode = modes[which % 2], .windows = which > 1};
    nccl_rank_t r;
    zero_comm_t *other;
    float *host = malloc((size_t)world * NCCL_SLICE);
    int64_t count = 64;
    if (!host || nccl_rank_open(&r, b, &setup))
        return 1;
    const zero_device_ops_t *d = r.device->ops;
    EXPECT_OK(zero_comm_split(r.c, 0, rank, &other, error));
    EXPECT_OK(zero_comm_attach(r.c, r.room[0], NCCL_STREAMS * r.room_bytes, error));
    EXPECT_OK(zero_comm_attach(other, r.room[0], NCCL_STREAMS * r.room_bytes, error));
    for (uint64_t i = 1; i <= PIECES; i++)
        EXPECT_OK(zero_comm_attach(other, r.room[0] + 4096 * i, 4096, error));
    EXPECT((setup.windows ? nccl_windows() : nccl_counts().registered) == 2 + PIECES);
    EXPECT((setup.windows ? nccl_counts().registered : nccl_windows()) == 0);
    for (int64_t i = 0; i < world * count; i++)
        host[i] = (float)(rank + 1);
    char *slice = r.room[0] + (size_t)rank * 4 * (size_t)count;
    float *wide = (float *)r.room[1];
    EXPECT_OK(d->copy(r.device, r.native[0], slice, host, (uint64_t)count * 4, error));
    EXPECT_OK(d->copy(r.device, r.native[1], wide, host, (uint64_t)(world * count) * 4, error));
    for (int i = 0; i < TIMES; i++) {
        EXPECT_OK(zero_comm_all_gather(r.c, slice, r.room[0], (uint64_t)count * 4, r.native[0], error));
        EXPECT_OK(zero_comm_reduce_scatter(other, wide, wide + world * count, count, ZERO_FP32, r.native[1], error));
    }
    EXPECT_OK(d->copy(r.device, r.native[0], host, r.room[0], (uint64_t)(world * count) * 4, error));
    EXPECT_OK(d->finish(r.device, r.native[0], 60, error));
    EXPECT_OK(zero_comm_check(r.c, error));
    for (int64_t i = 0; i < world * count; i++)
        EXPECT(host[i] == (float)(i / count + 1));
    EXPECT_OK(d->copy(r.device, r.native[1], host, wide + world * count, (uint64_t)count * 4, error));
    EXPECT_OK(d->finish(r.device, r.native[1], 60, error));
    EXPECT_OK(zero_comm_check(other, error));
    for (int64_t i = 0; i < count; i++)
        EXPECT(host[i] == (float)(world * (world + 1) / 2));
    EXPECT(r.c->bytes_received == (uint64_t)TIMES * (uint64_t)(world - 1) * (uint64_t)count * 4);
    EXPECT(other->bytes_reduced == (uint64_t)TIMES * (uint64_t)(world - 1) * (uint64_t)count * 4);
    /* A collective that still runs ends before its memory is deregistered. */
    EXPECT_OK(zero_comm_reduce_scatter(other, wide, wide + world * count, count, ZERO_FP32, r.native[1], error));
    zero_comm_destroy(other);
    EXPECT(nccl_counts().registered + nccl_windows() == 1);
    nccl_rank_close(&r);
    EXPECT(nccl_counts().registered == 0 && nccl_counts().aborted == 0 && nccl_counts().elsewhere == 0);
    EXPECT(nccl_windows() == 0 && !r.aborted);
    free(host);
    return 0;
}

START_TEST(communicators_run_side_by_side)
{
    ck_assert_int_eq(ranks_run(3, 200, side_by_side_rank, &_i), 0);
}
END_TEST

/* ---- refusals, which leave the host communicator usable --------------------------------------------------------- */

static int still_there(const nccl_rank_t *r)
{
    int value = r->host->rank, all[8];
    EXPECT_OK(zero_comm_exchange(r->host, &value, all, sizeof value, error));
    EXPECT(all[r->host->size - 1] == r->host->size - 1);
    return 0;
}

static int refused_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    nccl_setup_t setup = {.mode = "inline"};
    nccl_rank_t r, cpu;
    zero_error_t e = {0};
    char library[4096];
    (void)world, (void)arg;
    snprintf(library, sizeof library, "%s", getenv("ZERO_NCCL_LIBRARY"));
    /* Ranks 0 and 1 use GPU 0. */
    if (nccl_rank_begin(&r, rank < 2 ? 0 : rank, world, b, &setup))
        return 1;
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_UNSUPPORTED && r.c == NULL);
    EXPECT(e.reason == ZERO_REASON_GPU_SHARED && e.rank == 1 && has_names(e.text, "0 1 GPU"));
    if (still_there(&r))
        return 1;

    if (rank == 2)
        setenv("ZERO_NCCL_LIBRARY", "/nowhere/libnccl.so", 1);
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_UNSUPPORTED);
    EXPECT(has_names(e.text, "NCCL") && has_names(e.text, "/nowhere/libnccl.so") && e.reason == ZERO_REASON_NO_NCCL);
    setenv("ZERO_NCCL_LIBRARY", rank == 2 ? "libm.so.6" : library, 1);
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_UNSUPPORTED && has_names(e.text, "libm.so.6 NCCL"));
    setenv("ZERO_NCCL_LIBRARY", library, 1);

    setenv("ZERO_EMULATOR_NCCL", rank == 2 ? "version=22105" : "", 1);
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_UNSUPPORTED && has_names(e.text, "NCCL 2.21.5 2.22"));
    setenv("ZERO_EMULATOR_NCCL", rank == 2 ? "version=2708" : "", 1);
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_UNSUPPORTED && has_names(e.text, "NCCL 2.7.8"));
    setenv("ZERO_EMULATOR_NCCL", rank == 2 ? "version=22703" : "", 1);
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_MISMATCH &&
           has_names(e.text, "`rank 0` `rank 2` NCCL 2.28.9 2.27.3"));
    /* Windows that not all ranks support, or request. */
    setup.windows = true;
    setenv("ZERO_EMULATOR_NCCL", rank == 2 ? "version=22605" : "", 1);
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_UNSUPPORTED && r.c == NULL);
    EXPECT(has_names(e.text, "NCCL 2.26.5") && has_names(e.text, "nccl_windows"));
    setenv("ZERO_EMULATOR_NCCL", "", 1);
    setup.windows = rank == 2;
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_MISMATCH && has_names(e.text, "`rank 0` `rank 2` nccl_windows"));
    EXPECT(e.reason == ZERO_REASON_OPTIONS_DIFFER && e.rank == 2);
    setup.windows = false;

    /* A device that is not CUDA's, and bad options. */
    cpu = r;
    EXPECT_OK(zero_device_cpu(&cpu.device, NULL, error));
    EXPECT(nccl_open(rank == 1 ? &cpu : &r, &setup, NULL, &e) == ZERO_ERR_ARG && has_names(e.text, "'cpu'"));
    zero_device_destroy(cpu.device);
    setup.timeout_s = rank == 1 ? 1e12 : 1;
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_ARG && has_names(e.text, "timeout"));
    if (still_there(&r))
        return 1;
    nccl_rank_close(&r);
    return 0;
}

START_TEST(refusals_are_everyones)
{
    ck_assert_int_eq(ranks_run(3, 100, refused_rank, NULL), 0);
}
END_TEST

/* NCCL finds no network: every rank gets the error, and nothing else is lost. */
static int no_id_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    nccl_setup_t setup = {.mode = "inline", .faults = rank == 0 ? "id-fails" : NULL};
    nccl_rank_t r;
    zero_error_t e = {0};
    (void)arg;
    if (nccl_rank_begin(&r, rank, world, b, &setup))
        return 1;
    EXPECT(nccl_open(&r, &setup, NULL, &e) == ZERO_ERR_SYSTEM && r.c == NULL);
    EXPECT(has_names(e.text, "`no network interface` ncclGetUniqueId"));
    if (still_there(&r))
        return 1;
    nccl_rank_close(&r);
    return 0;
}

START_TEST(nccl_that_cannot_begin_says_why)
{
    ck_assert_int_eq(ranks_run(2, 100, no_id_rank, NULL), 0);
}
END_TEST

/* Splits the caller's own communicator, which stays unchanged. */
static int callers_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    nccl_setup_t setup = {.mode = "threads"};
    nccl_rank_t r;
    ncclUniqueId ids[4];
    ncclComm_t own[2]; /* of these ranks; of the same ranks in another order */
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    zero_error_t e = {0};
    int size = 0;
    if (nccl_rank_begin(&r, rank, world, b, &setup))
        return 1;
    __typeof__(&ncclGetUniqueId) unique_id = (__typeof__(&ncclGetUniqueId))nccl_symbol("ncclGetUniqueId");
    __typeof__(&ncclCommInitRankConfig) init =
        (__typeof__(&ncclCommInitRankConfig))nccl_symbol("ncclCommInitRankConfig");
    __typeof__(&ncclCommCount) count = (__typeof__(&ncclCommCount))nccl_symbol("ncclCommCount");
    __typeof__(&ncclCommDestroy) destroy = (__typeof__(&ncclCommDestroy))nccl_symbol("ncclCommDestroy");
    __typeof__(&ncclCommGetAsyncError) state = (__typeof__(&ncclCommGetAsyncError))nccl_symbol("ncclCommGetAsyncError");
    config.blocking = *(const int *)arg;
    for (int i = 0; i < 2; i++) {
        ncclUniqueId id;
        ncclResult_t is = ncclInProgress;
        EXPECT(unique_id(&id) == ncclSuccess);
        EXPECT(b->all_gather(b->ctx, &id, ids, sizeof id) == 0);
        ncclResult_t result = init(&own[i], world, ids[0], i ? world - 1 - rank : rank, &config);
        EXPECT(result == (config.blocking ? ncclSuccess : ncclInProgress));
        while (is == ncclInProgress)
            EXPECT(state(own[i], &is) == ncclSuccess);
        EXPECT(is == ncclSuccess);
    }
    EXPECT(nccl_open(&r, &setup, own[1], &e) == ZERO_ERR_ARG && r.c == NULL);
    EXPECT(has_names(e.text, "`rank 1` `rank 0` 2 GPU 0"));
    EXPECT_OK(nccl_open(&r, &setup, own[0], error));
    EXPECT(r.c->rank == rank && r.c->size == world);
    if (comm_cases_on(r.c, r.device, r.native[0], 9))
        return 1;
    zero_comm_destroy(r.c);
    r.c = NULL;
    EXPECT(nccl_counts().comms == 2 && nccl_counts().aborted == 0);
    EXPECT(count(own[0], &size) == ncclSuccess && size == world);
    EXPECT(destroy(own[0]) == ncclSuccess && destroy(own[1]) == ncclSuccess);
    nccl_rank_close(&r);
    return 0;
}

START_TEST(callers_communicator_is_split)
{
    ck_assert_int_eq(ranks_run(2, 100, callers_rank, &_i), 0);
}
END_TEST

/* ---- with an engine --------------------------------------------------------------------------------------------- */

static int start(small_t *s, const small_case_t *c, zero_comm_t *comm)
{
    char text[16];
    snprintf(text, sizeof text, "%d", c->world);
    setenv("ZERO_EMULATOR_DEVICES", text, 1);
    return !comm || small_start(s, c, comm);
}

static int as_forecast(small_t *s)
{
    zero_memory_t forecast = {.size = sizeof forecast}, measured = {.size = sizeof measured};
    SMALL_TRY(zero_forecast(s->engine, &forecast));
    SMALL_TRY(zero_measure(s->engine, &measured));
    SMALL_IS(memcmp(forecast.bytes, measured.bytes, sizeof forecast.bytes) == 0);
    return 0;
}

/* All memory that an engine's collectives use is registered with NCCL, or in windows, as long as the engine exists.
 * Both give the same bits and use the same bytes. */
static int registered_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    small_case_t c = {
        .world = world, .stage = *(const int *)arg, .threaded = SMALL_NCCL, .micro_steps = 2, .dtype = ZERO_BF16};
    zero_comm_t *comm = small_comm(b);
    small_t s;
    small_states_t states[2] = {{{{0}}}};
    for (int windows = 0; windows < 2; windows++, c.threaded = SMALL_NCCL_WINDOWS) {
        if (start(&s, &c, comm) || small_step(&s, 0) || small_step(&s, 1) || as_forecast(&s))
            return 1;
        EXPECT(zero_comm_rank(comm) == rank && s.wire->caps.windows == windows);
        EXPECT(nccl_counts().registered == (windows ? 0 : 2) && nccl_windows() == (windows ? 2 : 0));
        EXPECT(nccl_counts().elsewhere == 0);
        if (small_read(&s, &states[windows]) ||
            (windows && small_compare(&s, &states[0], &states[1], "in NCCL's windows")))
            return 1;
        small_destroy(&s);
        EXPECT(nccl_counts().registered == 0 && nccl_windows() == 0 && nccl_counts().aborted == 0);
    }
    small_forget(&states[0]);
    small_forget(&states[1]);
    zero_comm_destroy(comm);
    return 0;
}

START_TEST(engines_register_their_memory)
{
    ck_assert_int_eq(ranks_run(2, 100, registered_rank, &_i), 0);
}
END_TEST

/* If NCCL makes no windows, memory is registered as without windows. */
static int no_windows_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    small_case_t c = {.world = world, .stage = 3, .threaded = SMALL_NCCL_WINDOWS, .micro_steps = 1, .dtype = ZERO_FP32};
    zero_comm_t *comm = small_comm(b);
    small_t s;
    (void)rank, (void)arg;
    setenv("ZERO_EMULATOR_NCCL", "no-windows", 1);
    if (start(&s, &c, comm) || small_step(&s, 0) || as_forecast(&s))
        return 1;
    EXPECT(nccl_counts().registered == 2 && nccl_windows() == 0 && nccl_counts().elsewhere == 0);
    small_destroy(&s);
    EXPECT(nccl_counts().registered == 0 && nccl_counts().aborted == 0);
    zero_comm_destroy(comm);
    return 0;
}

START_TEST(engines_do_without_windows)
{
    ck_assert_int_eq(ranks_run(2, 100, no_windows_rank, NULL), 0);
}
END_TEST

static void *no_memory(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment)
{
    (void)ctx, (void)tier, (void)bytes, (void)alignment;
    return NULL;
}

static void no_release(void *ctx, zero_tier_t tier, void *memory, size_t bytes)
{
    (void)ctx, (void)tier, (void)memory, (void)bytes;
}

/* One rank has memory from the caller's allocator, which cannot become a window: zero_commit fails on every rank. */
static int allocator_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_allocator_t none = {.size = sizeof none, .allocate = no_memory, .release = no_release};
    small_case_t c = {.world = world,
                      .stage = 3,
                      .threaded = SMALL_NCCL_WINDOWS,
                      .micro_steps = 1,
                      .dtype = ZERO_FP32,
                      .allocator = rank == 1 ? &none : NULL};
    zero_comm_t *comm = small_comm(b);
    small_t small, *s = &small;
    (void)arg;
    setenv("ZERO_EMULATOR_DEVICES", "2", 1);
    EXPECT(comm && small_create(s, &c, comm) == 0);
    SMALL_FAILS(zero_commit(s->engine), rank == 1 ? ZERO_ERR_UNSUPPORTED : ZERO_ERR_PEER,
                "has the caller's allocator: set zero_comm_options_t's nccl_windows to false");
    small_destroy(s);
    zero_comm_destroy(comm);
    return 0;
}

START_TEST(callers_memory_makes_no_windows)
{
    ck_assert_int_eq(ranks_run(2, 100, allocator_rank, NULL), 0);
}
END_TEST

int main(void)
{
    char library[4096];
    const char *top = getenv("top_builddir");
    if (!emulated_plugins())
        return 77;
    snprintf(library, sizeof library, "%s/tests/emulator/libnccl_emulator.so", top ? top : ".");
    setenv("ZERO_NCCL_LIBRARY", library, 1);
    Suite *suite = suite_create("nccl");
    TCase *t = tcase_create("nccl");
    tcase_set_timeout(t, 220);
    tcase_add_loop_test(t, nccl_does_all, 0, 6);
    tcase_add_loop_test(t, communicators_run_side_by_side, 0, 4);
    tcase_add_test(t, refusals_are_everyones);
    tcase_add_test(t, nccl_that_cannot_begin_says_why);
    tcase_add_loop_test(t, callers_communicator_is_split, 0, 2);
    tcase_add_loop_test(t, engines_register_their_memory, 0, 4);
    tcase_add_test(t, engines_do_without_windows);
    tcase_add_test(t, callers_memory_makes_no_windows);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, nccl_faults_case());
    suite_add_tcase(suite, nccl_links_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
