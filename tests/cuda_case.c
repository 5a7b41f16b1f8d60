/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_case.c - see cuda_case.h. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/cuda_case.h"

#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

zero_error_t cuda_why;

void cuda_says(const char *part)
{
    ck_assert_msg(has_names(cuda_why.text, part), "'%s' does not say '%s'", cuda_why.text, part);
}

void cuda_emulate(int threads, const char *name, const char *value)
{
    setenv("ZERO_EMULATOR", threads ? "threads" : "inline", 1);
    if (name)
        setenv(name, value, 1);
}

void *cuda_runtime(const char *name)
{
    static void *library;
    if (!library)
        library = dlopen("libcuda_emulator.so", RTLD_NOW | RTLD_NOLOAD);
    ck_assert_msg(library != NULL, "%s", dlerror());
    void *f = dlsym(library, name);
    ck_assert_ptr_nonnull(f);
    return f;
}

zero_device_t *cuda_device(int index, void *stream)
{
    zero_device_options_t o;
    zero_device_t *d;
    zero_device_options_init(&o);
    o.index = index;
    o.stream = stream;
    OK(zero_device_cuda(&d, &o, error));
    ck_assert_str_eq(zero_device_name(d), "cuda");
    ck_assert(d->caps.asynchronous && d->caps.launches && !d->caps.host_memory);
    return d;
}

zero_stream_t *cuda_stream(zero_device_t *d, zero_stream_id_t id)
{
    zero_stream_t *s;
    OK(d->ops->stream_create(d, id, &s, error));
    return s;
}

zero_event_t *cuda_event(zero_device_t *d)
{
    zero_event_t *event;
    OK(d->ops->event_create(d, &event, error));
    return event;
}

void *cuda_arena(zero_device_t *d, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena)
{
    OK(d->ops->arena_create(d, tier, bytes, arena, error));
    return d->ops->arena_base(*arena);
}

void cuda_read_back(zero_device_t *d, void *dst, const void *src, uint64_t bytes)
{
    zero_stream_t *s = cuda_stream(d, ZERO_STREAM_UPDATE);
    OK(d->ops->copy(d, d->ops->native(s), dst, src, bytes, error));
    OK(d->ops->finish(d, d->ops->native(s), 30, error));
    d->ops->stream_destroy(s);
}

zero_status_t cuda_move(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    const move_t *m = arg;
    (void)ctx;
    ck_assert_ptr_nonnull(native);
    return m->device->ops->copy(m->device, native, m->dst, m->src, m->bytes, error);
}

static void hold(void *data)
{
    while (!atomic_load((atomic_bool *)data))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

zero_status_t cuda_hold(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)error;
    ck_assert_int_eq(RUNTIME(cudaLaunchHostFunc)(native, hold, ctx), cudaSuccess);
    return ZERO_OK;
}

zero_status_t cuda_task_fails(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)ctx, (void)arg, (void)native;
    return zero_fail(error, ZERO_ERR_IO, "task %d failed", 7);
}

zero_status_t cuda_task_counts(void *ctx, const void *arg, void *native, zero_error_t *error)
{
    (void)arg, (void)native, (void)error;
    atomic_fetch_add((atomic_int *)ctx, 1);
    return ZERO_OK;
}
