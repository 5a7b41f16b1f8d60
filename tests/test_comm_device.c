/* SPDX-License-Identifier: Apache-2.0 */
/* test_comm_device.c - communicators on a device's memory: the staged one, on a device that delays work as long as it
 * may, and on emulated GPUs. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/comm_cases.h"
#include "tests/emulated.h"
#include "tests/lazy_device.h"
#include "tests/ranks.h"
#include "zero/comm/staged.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static int open_staged(zero_comm_t **c, const zero_bootstrap_t *b, zero_device_t *device, uint64_t staging_bytes)
{
    zero_comm_options_t o;
    zero_comm_t *inner;
    zero_comm_options_init(&o);
    o.timeout_s = 60;
    EXPECT_OK(zero_comm_shm(&inner, b, &o, error));
    EXPECT_OK(zero_comm_staged(c, inner, device, staging_bytes, error));
    return 0;
}

/* The plan's count of pinned memory is what exists. */
static int ring_cases(const zero_comm_t *c, uint64_t staging_bytes)
{
    zero_comm_caps_t caps;
    EXPECT_OK(zero_comm_describe("shm", c->size, &c->options, &caps, error));
    uint64_t rings = caps.ring_bytes;
    EXPECT_OK(zero_comm_staged_caps(&caps, c->size, staging_bytes, error));
    EXPECT(caps.ring_bytes == c->caps.ring_bytes && caps.device_pointers && !caps.host_pointers && caps.in_place);
    EXPECT(c->caps.device_pointers && !c->caps.host_pointers && strcmp(c->caps.name, "shm") == 0 &&
           c->caps.node_ranks == c->size);
    EXPECT(c->size == 1 ? caps.ring_bytes == rings
                        : caps.ring_bytes >= rings + staging_bytes && caps.ring_bytes > rings);
    uint64_t own, others;
    zero_comm_resident(c, &own, &others);
    EXPECT(own == c->caps.ring_bytes);
    return 0;
}

enum { LAZY, CPU, CUDA, CUDA_THREADS, DEVICES };
typedef struct how {
    int device;
    uint64_t staging_bytes;
} how_t;

/* All ranks use the same GPU. */
static int open_device(int kind, zero_device_t **device, zero_stream_t **stream, void **native)
{
    *stream = NULL;
    *native = NULL;
    if (kind == LAZY) {
        *device = lazy_device();
        *native = lazy_stream(1);
    } else if (kind == CPU)
        EXPECT_OK(zero_device_cpu(device, NULL, error));
    else {
        setenv("ZERO_EMULATOR", kind == CUDA ? "inline" : "threads", 1);
        EXPECT_OK(zero_device_cuda(device, NULL, error));
        EXPECT_OK((*device)->ops->stream_create(*device, ZERO_STREAM_GATHER, stream, error));
        *native = (*device)->ops->native(*stream);
    }
    return 0;
}

static int cases_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    const how_t *how = arg;
    zero_comm_t *c, *part;
    zero_device_t *device;
    zero_stream_t *stream;
    void *native;
    if (open_device(how->device, &device, &stream, &native))
        return 1;
    if (open_staged(&c, b, device, how->staging_bytes))
        return 1;
    EXPECT(c->rank == rank && c->size == world);
    if (ring_cases(c, how->staging_bytes) || comm_cases_on(c, device, native, 1) ||
        comm_pair_cases_on(c, device, native, 2))
        return 1;
    /* A part of a staged communicator is staged as well. */
    EXPECT_OK(zero_comm_split(c, rank & 1, -rank, &part, error));
    EXPECT(part->size == (world + 1 - (rank & 1)) / 2 && part->rank == part->size - 1 - rank / 2);
    if (ring_cases(part, how->staging_bytes) || comm_cases_on(part, device, native, 2 + (unsigned)(rank & 1)))
        return 1;
    if (stream)
        device->ops->stream_destroy(stream);
    zero_comm_destroy(c);
    zero_comm_destroy(part);
    zero_device_destroy(device);
    return 0;
}

START_TEST(staged_does_all)
{
    how_t how = {.device = LAZY};
    ck_assert_int_eq(ranks_run(_i, 100, cases_rank, &how), 0);
}
END_TEST

START_TEST(staged_does_all_in_many_pieces)
{
    how_t how = {.device = _i, .staging_bytes = 3 * 65536};
    if (how.device >= CUDA && !emulated_plugins())
        return;
    ck_assert_int_eq(ranks_run(3, 100, cases_rank, &how), 0);
}
END_TEST

static int links_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_comm_t *c;
    zero_device_t *device;
    zero_stream_t *stream;
    void *native;
    (void)rank, (void)world;
    if (open_device(*(int *)arg, &device, &stream, &native) || open_staged(&c, b, device, 0) ||
        comm_link_cases(c, device))
        return 1;
    device->ops->stream_destroy(stream);
    zero_comm_destroy(c);
    zero_device_destroy(device);
    return 0;
}

START_TEST(links_work_side_by_side)
{
    int kind = CUDA + _i;
    if (emulated_plugins())
        ck_assert_int_eq(ranks_run(3, 100, links_rank, &kind), 0);
}
END_TEST

enum { SLICE = 100000 };

/* A collective may leave copies on its stream. They are done before a collective on another stream uses the pinned
 * memory. */
static int streams_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_device_t *device = lazy_device();
    const zero_device_ops_t *d = device->ops;
    zero_comm_t *c;
    zero_arena_t *arena;
    (void)arg;
    if (open_staged(&c, b, device, 0))
        return 1;
    uint64_t total = (uint64_t)world * SLICE;
    unsigned char *host = malloc(total);
    EXPECT_OK(d->arena_create(device, ZERO_TIER_DEVICE, LAZY_STREAMS * total, &arena, error));
    for (int i = 0; i < LAZY_STREAMS; i++) {
        char *recv = (char *)d->arena_base(arena) + (uint64_t)i * total, *own = recv + (size_t)rank * SLICE;
        memset(host, 10 * i + rank + 1, SLICE);
        EXPECT_OK(d->copy(device, lazy_stream(i), own, host, SLICE, error));
        EXPECT_OK(d->finish(device, lazy_stream(i), 1, error));
        EXPECT_OK(zero_comm_all_gather(c, own, recv, SLICE, lazy_stream(i), error));
    }
    for (int i = 0; i < LAZY_STREAMS; i++) {
        EXPECT_OK(
            d->copy(device, lazy_stream(i), host, (char *)d->arena_base(arena) + (uint64_t)i * total, total, error));
        EXPECT_OK(d->finish(device, lazy_stream(i), 1, error));
        for (uint64_t k = 0; k < total; k++)
            EXPECT(host[k] == 10 * i + (int)(k / SLICE) + 1);
    }
    d->arena_destroy(arena);
    zero_comm_destroy(c);
    zero_device_destroy(device);
    free(host);
    return 0;
}

START_TEST(streams_take_turns)
{
    ck_assert_int_eq(ranks_run(3, 60, streams_rank, NULL), 0);
}
END_TEST

/* A failure of one rank is an error on every rank, and the inner communicator stays with the caller. */
static int refused_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_device_t *device = lazy_device();
    zero_comm_t *c, *inner;
    zero_error_t e = {0};
    int value = rank, all[8];
    (void)arg;
    EXPECT_OK(zero_comm_shm(&inner, b, NULL, error));
    EXPECT(zero_comm_staged(&c, inner, device, rank == 1 ? 100 : 0, &e) == ZERO_ERR_ARG && c == NULL);
    EXPECT(has_names(e.text, "100"));
    EXPECT(zero_comm_staged(&c, inner, device, rank == 1 ? (uint64_t)1 << 50 : 0, &e) == ZERO_ERR_MEMORY && c == NULL);
    EXPECT(has_names(e.text, "1125899906842624"));
    EXPECT(zero_comm_staged(&c, inner, device, rank == 1 ? 65536 : 0, &e) == ZERO_ERR_MISMATCH && c == NULL);
    EXPECT(e.rank == 1 && has_names(e.text, "`rank 0` `rank 1` 65536"));
    EXPECT_OK(zero_comm_exchange(inner, &value, all, sizeof value, error));
    EXPECT(all[world - 1] == world - 1);
    zero_comm_destroy(inner);
    zero_device_destroy(device);
    return 0;
}

START_TEST(refusals_are_everyones)
{
    ck_assert_int_eq(ranks_run(3, 60, refused_rank, NULL), 0);
}
END_TEST

/* Transfers whose first pieces have the same size, and which are compared as a whole. */
static int unmet_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    enum { LESS = 4096, MORE = 200000 };
    zero_device_t *device = lazy_device();
    zero_comm_t *whole, *c;
    zero_arena_t *arena;
    zero_error_t e = {0};
    char back[MORE], nothing[MORE];
    (void)world, (void)arg;
    if (open_staged(&whole, b, device, 2 * LESS))
        return 1;
    EXPECT_OK(zero_comm_link(whole, 0, rank, &c, error));
    EXPECT_OK(device->ops->arena_create(device, ZERO_TIER_DEVICE, MORE, &arena, error));
    char *data = device->ops->arena_base(arena);
    memset(nothing, 0, sizeof nothing);
    EXPECT_OK(device->ops->copy(device, lazy_stream(0), data, nothing, sizeof nothing, error));
    EXPECT((rank ? zero_comm_recv(c, data, LESS, lazy_stream(0), &e)
                 : zero_comm_send(c, data, MORE, lazy_stream(0), &e)) == ZERO_ERR_MISMATCH);
    EXPECT(e.reason == ZERO_REASON_CALLS_DIFFER && e.rank == !rank && has_names(e.text, "send 200000 recv 4096"));
    EXPECT_OK(device->ops->copy(device, lazy_stream(0), back, data, sizeof back, error));
    EXPECT_OK(device->ops->finish(device, lazy_stream(0), 1, error));
    EXPECT(memcmp(back, nothing, sizeof back) == 0);
    device->ops->arena_destroy(arena);
    zero_comm_destroy(c);
    zero_comm_destroy(whole);
    zero_device_destroy(device);
    return 0;
}

START_TEST(whole_transfers_are_compared)
{
    ck_assert_int_eq(ranks_run(2, 60, unmet_rank, NULL), 0);
}
END_TEST

/* A failed copy leaves this rank out of step: later collectives fail, and the other ranks get its sentence. */
static int failing_rank(int rank, int world, const zero_bootstrap_t *b, void *arg)
{
    zero_device_t *device = lazy_device();
    const zero_device_ops_t *d = device->ops;
    zero_comm_t *c;
    zero_arena_t *arena;
    zero_error_t e = {0};
    int copies = *(int *)arg, value = 0, all[8];
    if (open_staged(&c, b, device, 0))
        return 1;
    EXPECT_OK(d->arena_create(device, ZERO_TIER_DEVICE, (uint64_t)(world + 1) * SLICE, &arena, error));
    char *recv = d->arena_base(arena), *own = recv + (size_t)rank * SLICE;
    if (rank == 1) {
        lazy_fail(device, copies);
        EXPECT(zero_comm_all_gather(c, recv + (size_t)world * SLICE, recv, SLICE, lazy_stream(0), &e) ==
               ZERO_ERR_SYSTEM);
        EXPECT(has_names(e.text, "`as it was told`"));
        EXPECT(zero_comm_reduce_scatter(c, recv, own, 1, ZERO_FP32, lazy_stream(0), &e) == ZERO_ERR_SYSTEM);
        EXPECT(zero_comm_exchange(c, &value, all, sizeof value, &e) == ZERO_ERR_SYSTEM);
        zero_comm_abort(c, e.text);
    } else {
        /* The first collective may still succeed if the failed copy was rank 1's last. */
        zero_status_t status = zero_comm_all_gather(c, own, recv, SLICE, lazy_stream(0), &e);
        EXPECT(status == ZERO_OK || status == ZERO_ERR_PEER);
        EXPECT(zero_comm_exchange(c, &value, all, sizeof value, &e) == ZERO_ERR_PEER &&
               has_names(e.text, "`as it was told`"));
        EXPECT(zero_comm_check(c, &e) == ZERO_ERR_PEER);
    }
    EXPECT_OK(d->finish(device, lazy_stream(0), 1, error));
    d->arena_destroy(arena);
    zero_comm_destroy(c);
    zero_device_destroy(device);
    return 0;
}

START_TEST(a_failed_copy_is_the_end)
{
    /* the copy that fails. 0: of its own slice; 1: to pinned memory; 2 and 3: of the others' slices to the device */
    ck_assert_int_eq(ranks_run(3, 60, failing_rank, &_i), 0);
}
END_TEST

/* A single rank needs no pinned memory: its copies stay on the device. An abort still works. */
START_TEST(one_rank_copies)
{
    zero_device_t *device = lazy_device();
    const zero_device_ops_t *d = device->ops;
    zero_comm_t *c, *inner;
    zero_arena_t *arena;
    zero_error_t e = {0};
    char text[16] = "device memory";
    ck_assert(zero_comm_self(&inner, &e) == ZERO_OK);
    ck_assert(zero_comm_staged(&c, inner, device, 0, &e) == ZERO_OK);
    ck_assert_str_eq(zero_comm_name(c), "self");
    uint64_t own, others;
    zero_comm_resident(c, &own, &others);
    ck_assert_uint_eq(own, 0);
    ck_assert_int_eq(comm_cases_on(c, device, lazy_stream(0), 1), 0);
    ck_assert(d->arena_create(device, ZERO_TIER_DEVICE, 64, &arena, &e) == ZERO_OK);
    char *a = d->arena_base(arena);
    ck_assert(d->copy(device, lazy_stream(0), a, text, sizeof text, &e) == ZERO_OK);
    ck_assert(zero_comm_all_gather(c, a, a + 32, sizeof text, lazy_stream(0), &e) == ZERO_OK);
    char back[16];
    ck_assert(d->copy(device, lazy_stream(0), back, a + 32, sizeof back, &e) == ZERO_OK);
    ck_assert(d->finish(device, lazy_stream(0), 1, &e) == ZERO_OK);
    ck_assert_str_eq(back, text);
    zero_comm_abort(c, "enough");
    ck_assert(zero_comm_all_gather(c, a, a, 8, lazy_stream(0), &e) == ZERO_ERR_PEER);
    ck_assert_str_eq(e.text, "enough");
    d->arena_destroy(arena);
    zero_comm_destroy(c);
    zero_device_destroy(device);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("comm_device");
    TCase *t = tcase_create("staged");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, staged_does_all, 1, 5);
    tcase_add_loop_test(t, staged_does_all_in_many_pieces, LAZY, DEVICES);
    tcase_add_loop_test(t, links_work_side_by_side, 0, 2);
    tcase_add_test(t, streams_take_turns);
    tcase_add_test(t, refusals_are_everyones);
    tcase_add_test(t, whole_transfers_are_compared);
    tcase_add_loop_test(t, a_failed_copy_is_the_end, 0, 4);
    tcase_add_test(t, one_rank_copies);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
