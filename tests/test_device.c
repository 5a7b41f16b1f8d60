/* SPDX-License-Identifier: Apache-2.0 */
/* test_device.c - arenas, streams and events of the CPU device. */
#include "tests/expect.h"
#include "tests/sanitized.h"
#include "zero/device/device.h"
#include "zero/device/host.h"

#include <check.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define OK(call)                                                    \
    do {                                                            \
        zero_error_t e_ = {0};                                      \
        zero_error_t *error = &e_;                                  \
        ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, e_.text); \
    } while (0)

static zero_device_t *make(bool threaded, uint64_t delay_seed)
{
    zero_device_options_t o;
    zero_device_t *d;
    zero_device_options_init(&o);
    o.threaded = threaded;
    o.delay_seed = delay_seed;
    OK(zero_device_cpu(&d, &o, error));
    ck_assert(d->caps.asynchronous == threaded);
    ck_assert_str_eq(zero_device_name(d), "cpu");
    return d;
}

/* ---- arenas ----------------------------------------------------------------------------------------------------- */

START_TEST(arena_is_resident_zero_and_exact)
{
    static const uint64_t sizes[] = {1, 4095, 4096, 4097, 1000000, (2 << 20) + 1, 9 << 20};
    zero_device_t *d = make(false, 0);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        zero_arena_t *a;
        uint64_t bytes = sizes[i], resident = 0;
        OK(d->ops->arena_create(d, i % 2 ? ZERO_TIER_HOST : ZERO_TIER_DEVICE, bytes, &a, error));
        unsigned char *p = d->ops->arena_base(a);
        ck_assert_uint_eq((uintptr_t)p % ZERO_PAGE, 0);
        OK(d->ops->arena_resident(a, 0, bytes, &resident, error));
        ck_assert_uint_eq(resident, bytes);
        unsigned char any = 0;
        for (uint64_t j = 0; j < bytes; j++)
            any |= p[j];
        ck_assert_int_eq(any, 0);
        memset(p, 1, bytes);
        /* Each sub-range counts its own bytes. */
        OK(d->ops->arena_resident(a, bytes / 3, bytes - bytes / 3, &resident, error));
        ck_assert_uint_eq(resident, bytes - bytes / 3);
        zero_error_t e = {0};
        ck_assert(d->ops->arena_resident(a, bytes, 1, &resident, &e) == ZERO_ERR_ARG);
        if (bytes > 3 * ZERO_PAGE) {
            ck_assert(madvise(p + ZERO_PAGE, ZERO_PAGE, MADV_DONTNEED) == 0);
            OK(d->ops->arena_resident(a, 0, bytes, &resident, error));
            ck_assert_uint_eq(resident, bytes - ZERO_PAGE);
        }
        d->ops->arena_destroy(a);
    }
    d->ops->arena_destroy(NULL);
    zero_device_destroy(d);
}
END_TEST

START_TEST(arena_refuses_what_does_not_fit)
{
    zero_device_t *d = make(false, 0);
    zero_arena_t *a;
    zero_error_t e = {0};
    uint64_t there = 0;
    char number[32];
    OK(d->ops->available(d, ZERO_TIER_DEVICE, &there, error));
    ck_assert_uint_gt(there, 1 << 20);
    ck_assert_uint_le(there, (uint64_t)sysconf(_SC_PHYS_PAGES) * zero_host_page());
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, there * 2, &a, &e) == ZERO_ERR_MEMORY);
    ck_assert_ptr_null(a);
    snprintf(number, sizeof number, "%llu", (unsigned long long)(there * 2));
    ck_assert(has_names(e.text, number));
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, UINT64_MAX, &a, &e) == ZERO_ERR_MEMORY);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, 0, &a, &e) == ZERO_ERR_ARG);
    ck_assert(d->ops->arena_create(d, ZERO_TIER_NVME, 1, &a, &e) == ZERO_ERR_UNSUPPORTED);
#if !SANITIZED
    /* Exceeding a limit on address space is an error. A sanitizer reserves terabytes, so there can be no limit. */
    struct rlimit limit = {1 << 30, 1 << 30};
    ck_assert(setrlimit(RLIMIT_AS, &limit) == 0);
    if (there > (uint64_t)2 << 30)
        ck_assert(d->ops->arena_create(d, ZERO_TIER_DEVICE, (uint64_t)2 << 30, &a, &e) == ZERO_ERR_MEMORY);
#endif
    zero_device_destroy(d);
}
END_TEST

/* ---- streams ---------------------------------------------------------------------------------------------------- */

enum { COUNT = 400 };

typedef struct cell {
    long values[COUNT];
    int at;
} cell_t;

static zero_status_t append(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    cell_t *c = ctx;
    (void)error;
    ck_assert_ptr_null(native);
    c->values[c->at++] = *(const long *)arg;
    return ZERO_OK;
}

static zero_status_t fails(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)ctx, (void)arg, (void)native;
    return zero_fail(error, ZERO_ERR_IO, "task %d failed", 7);
}

START_TEST(stream_runs_in_order)
{
    zero_device_t *d = make(_i & 1, _i & 2 ? 42 : 0);
    for (int id = 0; id < ZERO_STREAM_COUNT; id++) {
        cell_t c = {.at = 0};
        long arg[COUNT];
        zero_stream_t *s;
        OK(d->ops->stream_create(d, (zero_stream_id_t)id, &s, error));
        ck_assert_ptr_null(d->ops->native(s));
        for (int i = 0; i < COUNT; i++) {
            arg[i] = i;
            OK(d->ops->enqueue(s, append, &c, &arg[i], error));
        }
        OK(d->ops->sync(s, 30, error));
        ck_assert_int_eq(c.at, COUNT);
        for (int i = 0; i < COUNT; i++)
            ck_assert_int_eq(c.values[i], i);
        d->ops->stream_destroy(s);
    }
    d->ops->stream_destroy(NULL);
    d->ops->event_destroy(NULL);
    zero_device_destroy(d);
}
END_TEST

/* A pipeline: compute writes a value, one stream doubles it, another adds one, compute reads it and may then write
 * again. Every dependency is an event. A missing or early one gives a wrong value, and a race for ThreadSanitizer. */
typedef struct pipe {
    long value;
} pipe_t;

static zero_status_t twice(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)native, (void)error;
    ((pipe_t *)ctx)->value *= 2;
    return ZERO_OK;
}

static zero_status_t plus_one(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)native, (void)error;
    ((pipe_t *)ctx)->value += 1;
    return ZERO_OK;
}

START_TEST(events_order_streams)
{
    zero_device_t *d = make(_i & 1, _i & 2 ? (uint64_t)_i : 0);
    enum { LANES = 3, ROUNDS = 100 };
    zero_stream_t *compute, *a, *b;
    zero_event_t *written[LANES], *doubled[LANES], *added[LANES];
    pipe_t lanes[LANES] = {{0}};
    OK(d->ops->stream_create(d, ZERO_STREAM_COMPUTE, &compute, error));
    OK(d->ops->stream_create(d, ZERO_STREAM_GATHER, &a, error));
    OK(d->ops->stream_create(d, ZERO_STREAM_REDUCE, &b, error));
    for (int l = 0; l < LANES; l++) {
        OK(d->ops->event_create(d, &written[l], error));
        OK(d->ops->event_create(d, &doubled[l], error));
        OK(d->ops->event_create(d, &added[l], error));
    }
    for (int i = 0; i < ROUNDS; i++) {
        int l = i % LANES;
        OK(d->ops->wait(compute, added[l], 30, error)); /* never recorded at first: no wait */
        if (i >= LANES)
            ck_assert_int_eq(lanes[l].value, 2 * (i - LANES) + 1);
        lanes[l].value = i;
        OK(d->ops->record(written[l], compute, error));
        OK(d->ops->wait(a, written[l], 30, error));
        OK(d->ops->enqueue(a, twice, &lanes[l], NULL, error));
        OK(d->ops->record(doubled[l], a, error));
        OK(d->ops->wait(b, doubled[l], 30, error));
        OK(d->ops->enqueue(b, plus_one, &lanes[l], NULL, error));
        OK(d->ops->record(added[l], b, error));
    }
    for (int l = 0; l < LANES; l++)
        OK(d->ops->host_wait(added[l], 30, error));
    for (int i = ROUNDS - LANES; i < ROUNDS; i++)
        ck_assert_int_eq(lanes[i % LANES].value, 2 * i + 1);
    for (int l = 0; l < LANES; l++) {
        d->ops->event_destroy(written[l]);
        d->ops->event_destroy(doubled[l]);
        d->ops->event_destroy(added[l]);
    }
    /* a is destroyed first, although b may have waited for it. */
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    d->ops->stream_destroy(compute);
    zero_device_destroy(d);
}
END_TEST

static zero_status_t hold(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)native, (void)error;
    while (!atomic_load((atomic_bool *)ctx))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    return ZERO_OK;
}

static zero_status_t set(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)native, (void)error;
    atomic_store((atomic_int *)ctx, 1);
    return ZERO_OK;
}

/* A record is a snapshot: a later record does not move an earlier wait. Waits are bounded. */
START_TEST(record_is_a_snapshot)
{
    zero_device_t *d = make(true, 0);
    zero_stream_t *a, *b;
    zero_event_t *event;
    atomic_bool go;
    atomic_int ran;
    zero_error_t e = {0};
    atomic_init(&go, false);
    atomic_init(&ran, 0);
    OK(d->ops->stream_create(d, ZERO_STREAM_GATHER, &a, error));
    OK(d->ops->stream_create(d, ZERO_STREAM_REDUCE, &b, error));
    OK(d->ops->event_create(d, &event, error));
    OK(d->ops->record(event, a, error));
    OK(d->ops->wait(b, event, 30, error));
    OK(d->ops->enqueue(a, hold, &go, NULL, error));
    OK(d->ops->record(event, a, error)); /* after hold */
    OK(d->ops->enqueue(b, set, &ran, NULL, error));
    OK(d->ops->sync(b, 30, error));
    ck_assert_int_eq(atomic_load(&ran), 1);
    ck_assert(d->ops->host_wait(event, 0.01, &e) == ZERO_ERR_TIMEOUT);
    ck_assert(d->ops->sync(a, 0.01, &e) == ZERO_ERR_TIMEOUT);
    ck_assert(has_names(e.text, "gather"));
    /* If a wait on a stream times out, that stream fails, and its later work does not run. */
    atomic_store(&ran, 0);
    OK(d->ops->wait(b, event, 0.01, error));
    zero_status_t queued = d->ops->enqueue(b, set, &ran, NULL, &e); /* may already return the failure */
    ck_assert(queued == ZERO_OK || queued == ZERO_ERR_TIMEOUT);
    ck_assert(d->ops->sync(b, 30, &e) == ZERO_ERR_TIMEOUT);
    atomic_store(&go, true);
    OK(d->ops->host_wait(event, 30, error));
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    ck_assert_int_eq(atomic_load(&ran), 0);
    d->ops->event_destroy(event);
    zero_device_destroy(d);
}
END_TEST

START_TEST(failure_is_kept_and_passed_on)
{
    zero_device_t *d = make(_i, 0);
    zero_stream_t *a, *b;
    zero_event_t *event;
    atomic_int ran;
    zero_error_t e = {0};
    atomic_init(&ran, 0);
    OK(d->ops->stream_create(d, ZERO_STREAM_GATHER, &a, error));
    OK(d->ops->stream_create(d, ZERO_STREAM_UPDATE, &b, error));
    OK(d->ops->event_create(d, &event, error));
    zero_status_t first = d->ops->enqueue(a, fails, NULL, NULL, &e);
    ck_assert(first == (_i ? ZERO_OK : ZERO_ERR_IO));
    ck_assert(d->ops->sync(a, 30, &e) == ZERO_ERR_IO);
    ck_assert_str_eq(e.text, "task 7 failed");
    ck_assert(d->ops->enqueue(a, set, &ran, NULL, &e) == ZERO_ERR_IO);
    ck_assert(d->ops->record(event, a, &e) == ZERO_ERR_IO);
    ck_assert(d->ops->host_wait(event, 30, &e) == ZERO_ERR_IO);
    /* Waits for a failed stream fail with the same error. */
    zero_status_t waited = d->ops->wait(b, event, 30, &e);
    ck_assert(waited == (_i ? ZERO_OK : ZERO_ERR_IO));
    if (_i) {
        waited = d->ops->enqueue(b, set, &ran, NULL, &e);
        ck_assert(waited == ZERO_OK || waited == ZERO_ERR_IO);
        ck_assert(d->ops->sync(b, 30, &e) == ZERO_ERR_IO);
        ck_assert_str_eq(e.text, "task 7 failed");
    }
    d->ops->stream_destroy(a);
    d->ops->stream_destroy(b);
    ck_assert_int_eq(atomic_load(&ran), 0);
    d->ops->event_destroy(event);
    zero_device_destroy(d);
}
END_TEST

/* More operations than the queue holds, behind one that waits for the caller: the queue blocks the caller only while it
 * is full. */
START_TEST(queue_longer_than_its_ring)
{
    zero_device_t *d = make(true, 0);
    zero_stream_t *s;
    atomic_int ran;
    atomic_init(&ran, 0);
    OK(d->ops->stream_create(d, ZERO_STREAM_UPDATE, &s, error));
    for (int i = 0; i < 20000; i++)
        OK(d->ops->enqueue(s, set, &ran, NULL, error));
    OK(d->ops->sync(s, 30, error));
    ck_assert_int_eq(atomic_load(&ran), 1);
    d->ops->stream_destroy(s);
    zero_device_destroy(d);
}
END_TEST

/* Simulates a wait for work that lasts `lasts` seconds, with checks at the intervals that zero_host_pause gives; a
 * check takes 2 microseconds. Returns how late the wait ends, and sets *looked to the time that it checked without a
 * pause. */
static double late_by(double lasts, double expected, double *looked)
{
    const double look = 2e-6;
    double waited = look;
    for (*looked = 0; waited < lasts; waited += look) {
        double pause = zero_host_pause(waited, expected);
        ck_assert(pause >= 0 && pause <= 1e-3);
        *looked += pause > 0 ? 0 : look;
        waited += pause;
    }
    return waited - lasts;
}

START_TEST(waits_end_soon_and_sleep_meanwhile)
{
    static const double expected[] = {0, 1e-5, 5e-4, 2e-3, 0.0301, 0.25, 7};
    for (int e = 0; e < (int)(sizeof expected / sizeof *expected); e++)
        for (double off = -3e-3; off < 3.01e-3; off += 1e-4) {
            double looked, lasts = expected[e] + off;
            if (lasts <= 0)
                continue;
            double late = late_by(lasts, expected[e], &looked);
            if (expected[e] > 0 && fabs(off) < 0.99e-3)
                ck_assert_msg(late < 5e-6, "a wait of %g s ends %g s late after one of %g s", lasts, late, expected[e]);
            const double most = 0.11 * lasts + 25e-6;
            ck_assert_msg(late <= 1.01e-3 && late <= most, "a wait of %g s ends %g s late", lasts, late);
            ck_assert_msg(looked < 2.1e-3, "a wait of %g s looks for %g s without a pause", lasts, looked);
        }
    double looked;
    late_by(20, 0.05, &looked);
    ck_assert(looked < 2.1e-3);
}
END_TEST

START_TEST(options_are_checked)
{
    zero_device_options_t o = {0};
    zero_device_t *d;
    zero_error_t e = {0};
    ck_assert(zero_device_cpu(&d, &o, &e) == ZERO_ERR_ARG); /* size not set */
    ck_assert_ptr_null(d);
    zero_device_options_init(&o);
    o.threads = -1;
    ck_assert(zero_device_cpu(&d, &o, &e) == ZERO_ERR_ARG);
    OK(zero_device_cpu(&d, NULL, error));
    zero_device_destroy(d);
    zero_device_destroy(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("device");
    TCase *t = tcase_create("device");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, arena_is_resident_zero_and_exact);
    tcase_add_test(t, arena_refuses_what_does_not_fit);
    tcase_add_loop_test(t, stream_runs_in_order, 0, 4);
    tcase_add_loop_test(t, events_order_streams, 0, 8);
    tcase_add_test(t, record_is_a_snapshot);
    tcase_add_loop_test(t, failure_is_kept_and_passed_on, 0, 2);
    tcase_add_test(t, queue_longer_than_its_ring);
    tcase_add_test(t, waits_end_soon_and_sleep_meanwhile);
    tcase_add_test(t, options_are_checked);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
