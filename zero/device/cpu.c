/* SPDX-License-Identifier: Apache-2.0 */
/* cpu.c - the CPU as a device: arenas of anonymous memory. Its streams and events are in cpu_streams.c. */
#define _GNU_SOURCE
#include "zero/device/cpu.h"
#include "zero/device/host.h"
#include "zero/device/options.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct zero_arena {
    const zero_allocator_t *allocator; /* the caller's allocator that owns base; NULL: none */
    zero_tier_t tier;
    char *map; /* the whole mapping: a guard page or more, the arena, a guard page */
    uint64_t map_bytes;
    char *base;
    uint64_t bytes; /* as requested */
};

enum { HUGE_PAGE = 2 << 20 };

static void arena_destroy(zero_arena_t *arena)
{
    if (!arena)
        return;
    if (arena->allocator && arena->base)
        arena->allocator->release(arena->allocator->ctx, arena->tier, arena->base, arena->bytes);
    if (arena->map)
        munmap(arena->map, arena->map_bytes);
    free(arena);
}

static zero_status_t cpu_available(zero_device_t *d, zero_tier_t tier, uint64_t *bytes, zero_error_t *error)
{
    (void)d;
    if (tier != ZERO_TIER_DEVICE && tier != ZERO_TIER_HOST)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "the CPU device has no memory of tier '%s': use tier '%s' or '%s'", zero_tier_name(tier),
                         zero_tier_name(ZERO_TIER_DEVICE), zero_tier_name(ZERO_TIER_HOST));
    return zero_host_available(bytes, error);
}

static zero_status_t arena_create(zero_device_t *d, zero_tier_t tier, uint64_t bytes, zero_arena_t **out,
                                  zero_error_t *error)
{
    zero_status_t status;
    uint64_t there, rounded, page = zero_host_page();
    zero_arena_t *a = NULL;

    *out = NULL;
    status = cpu_available(d, tier, &there, error);
    if (status)
        return status;
    if (bytes == 0)
        return zero_fail(error, ZERO_ERR_ARG, "the arena has 0 bytes, but must have at least 1");
    /* A caller's allocator knows best what it has: it may have taken its memory from the machine long ago. */
    if ((bytes > there && !d->options.allocator) || !zero_round_up(bytes, page, &rounded) ||
        rounded > SIZE_MAX - 2 * HUGE_PAGE - 2 * page)
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "an arena of %llu bytes (tier '%s') does not fit: only %llu bytes are available on this "
                         "machine; use more ranks on more machines, a smaller model or batch, or a larger memory limit",
                         (unsigned long long)bytes, zero_tier_name(tier), (unsigned long long)there);
    a = calloc(1, sizeof *a);
    if (!a)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for an arena's handle (%zu bytes)", sizeof *a);
    a->tier = tier;
    a->bytes = bytes;
    if (d->options.allocator) {
        a->allocator = d->options.allocator;
        status = zero_host_take(a->allocator, tier, bytes, true, &a->base, error);
        if (status)
            goto fail;
        *out = a;
        return ZERO_OK;
    }
    /* Guard pages: a kernel that runs past the arena faults. They also keep the kernel from merging the mapping with a
     * neighbour, whose huge pages could otherwise cover memory that is not counted here. */
    a->map_bytes = rounded + 2 * page + (rounded >= HUGE_PAGE ? HUGE_PAGE : 0);
    a->map = mmap(NULL, a->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->map == MAP_FAILED) {
        a->map = NULL;
        status = zero_fail(error, ZERO_ERR_MEMORY, "cannot reserve %llu bytes of addresses: %s (check ulimit -v)",
                           (unsigned long long)a->map_bytes, strerror(errno));
        goto fail;
    }
    a->base = a->map + page;
    if (rounded >= HUGE_PAGE)
        a->base = (char *)(((uintptr_t)a->base + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
    if (mprotect(a->base, rounded, PROT_READ | PROT_WRITE) < 0) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "cannot reserve %llu bytes of memory: %s",
                           (unsigned long long)rounded, strerror(errno));
        goto fail;
    }
    /* A hint. Huge pages lie entirely inside the arena, and all of its pages become resident anyway, so it changes no
     * byte count. */
    if (rounded >= HUGE_PAGE)
        madvise(a->base, rounded, MADV_HUGEPAGE);
    status = zero_host_populate(a->base, rounded, error);
    if (status)
        goto fail;
    *out = a;
    return ZERO_OK;
fail:
    arena_destroy(a);
    return status;
}

static void *arena_base(zero_arena_t *arena)
{
    return arena->base;
}

static zero_status_t arena_resident(zero_arena_t *arena, uint64_t offset, uint64_t bytes, uint64_t *resident,
                                    zero_error_t *error)
{
    if (offset > arena->bytes || bytes > arena->bytes - offset)
        return zero_fail(error, ZERO_ERR_ARG, "bytes %llu to %llu + %llu lie outside an arena of %llu bytes",
                         (unsigned long long)offset, (unsigned long long)offset, (unsigned long long)bytes,
                         (unsigned long long)arena->bytes);
    if (arena->allocator) { /* the caller manages these pages */
        *resident = bytes;
        return ZERO_OK;
    }
    return zero_host_resident(arena->base + offset, bytes, resident, error);
}

static zero_status_t cpu_copy(zero_device_t *d, void *native, void *dst, const void *src, uint64_t bytes,
                              zero_error_t *error)
{
    (void)d, (void)native, (void)error;
    if (bytes)
        memcpy(dst, src, bytes);
    return ZERO_OK;
}

static zero_status_t cpu_finish(zero_device_t *d, void *native, double timeout_s, zero_error_t *error)
{
    (void)d, (void)native, (void)timeout_s, (void)error;
    return ZERO_OK;
}

static uint64_t cpu_identity(const zero_device_t *d)
{
    (void)d;
    return 0;
}

static void cpu_destroy(zero_device_t *d)
{
    free(d);
}

static const zero_device_ops_t cpu_ops = {
    .arena_create = arena_create,
    .arena_destroy = arena_destroy,
    .arena_base = arena_base,
    .arena_resident = arena_resident,
    .available = cpu_available,
    .stream_create = zero_cpu_stream_create,
    .stream_destroy = zero_cpu_stream_destroy,
    .enqueue = zero_cpu_enqueue,
    .sync = zero_cpu_sync,
    .native = zero_cpu_native,
    .copy = cpu_copy,
    .finish = cpu_finish,
    .identity = cpu_identity,
    .event_create = zero_cpu_event_create,
    .event_destroy = zero_cpu_event_destroy,
    .record = zero_cpu_record,
    .wait = zero_cpu_wait,
    .host_wait = zero_cpu_host_wait,
    .destroy = cpu_destroy,
};

zero_status_t zero_device_cpu(zero_device_t **device, const zero_device_options_t *options, zero_error_t *error)
{
    zero_device_options_t o;
    zero_allocator_t allocator;
    if (!device)
        return zero_fail(error, ZERO_ERR_ARG, "zero_device_cpu has no address for the device");
    *device = NULL;
    zero_status_t status = zero_device_options_read(&o, &allocator, options, error);
    if (status)
        return status;
    if (o.index != 0 || o.stream)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "the CPU device has no index or stream: leave zero_device_options_t's 'index' 0 and 'stream' NULL, or use "
            "zero_device_cuda");
    zero_device_t *d = calloc(1, sizeof *d);
    if (!d)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a device (%zu bytes)", sizeof *d);
    d->ops = &cpu_ops;
    zero_device_options_keep(d, &o);
    d->caps =
        (zero_device_caps_t){.name = "cpu", .asynchronous = o.threaded, .host_memory = true, .page = zero_host_page()};
    *device = d;
    return ZERO_OK;
}
