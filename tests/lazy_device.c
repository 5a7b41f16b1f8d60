/* SPDX-License-Identifier: Apache-2.0 */
/* lazy_device.c - see lazy_device.h. */
#define _GNU_SOURCE
#include "tests/lazy_device.h"
#include "zero/device/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { COPIES = 4096, ARENAS = 16 };

typedef struct queued {
    char *dst;
    const char *src;
    uint64_t bytes;
} queued_t;

typedef struct queue {
    queued_t copies[COPIES];
    int count;
} queue_t;

struct zero_arena {
    struct lazy *device;
    zero_tier_t tier;
    char *base;
    uint64_t bytes, mapped;
};

typedef struct lazy {
    zero_device_t base;
    queue_t queues[LAZY_STREAMS];
    zero_arena_t *arenas[ARENAS]; /* arenas of the device tier */
    int fail;
} lazy_t;

void *lazy_stream(int index)
{
    return (void *)(uintptr_t)(index + 1);
}

static void open_memory(lazy_t *d, bool open)
{
    for (int i = 0; i < ARENAS; i++)
        if (d->arenas[i] &&
            mprotect(d->arenas[i]->base, d->arenas[i]->mapped, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0)
            abort();
}

static zero_status_t lazy_arena_create(zero_device_t *base, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena,
                                       zero_error_t *error)
{
    lazy_t *d = (lazy_t *)base;
    zero_arena_t *a = calloc(1, sizeof *a);
    int slot = 0;
    while (slot < ARENAS - 1 && d->arenas[slot])
        slot++;
    uint64_t mapped = (bytes + ZERO_PAGE - 1) / ZERO_PAGE * ZERO_PAGE;
    if (bytes > (uint64_t)1 << 40 || !a || d->arenas[slot]) {
        free(a);
        return zero_fail(error, ZERO_ERR_MEMORY, "the lazy device has no %llu bytes", (unsigned long long)bytes);
    }
    *a = (zero_arena_t){.device = d, .tier = tier, .bytes = bytes, .mapped = mapped};
    a->base = mmap(NULL, mapped, tier == ZERO_TIER_HOST ? PROT_READ | PROT_WRITE : PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (a->base == MAP_FAILED)
        abort();
    if (tier == ZERO_TIER_DEVICE)
        d->arenas[slot] = a;
    *arena = a;
    return ZERO_OK;
}

static void lazy_arena_destroy(zero_arena_t *arena)
{
    if (!arena)
        return;
    for (int i = 0; i < ARENAS; i++)
        if (arena->device->arenas[i] == arena)
            arena->device->arenas[i] = NULL;
    munmap(arena->base, arena->mapped);
    free(arena);
}

static void *lazy_arena_base(zero_arena_t *arena)
{
    return arena->base;
}

static zero_status_t lazy_arena_resident(zero_arena_t *arena, uint64_t offset, uint64_t bytes, uint64_t *resident,
                                         zero_error_t *error)
{
    return zero_host_resident(arena->base + offset, bytes, resident, error);
}

static queue_t *queue_of(lazy_t *d, void *native)
{
    uintptr_t index = (uintptr_t)native - 1;
    if (index >= LAZY_STREAMS) {
        fprintf(stderr, "lazy device: %p is none of its streams\n", native);
        abort();
    }
    return &d->queues[index];
}

static zero_status_t lazy_copy(zero_device_t *base, void *native, void *dst, const void *src, uint64_t bytes,
                               zero_error_t *error)
{
    lazy_t *d = (lazy_t *)base;
    queue_t *q = queue_of(d, native);
    if (d->fail >= 0 && d->fail-- == 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "the lazy device fails as it was told");
    if (q->count == COPIES)
        return zero_fail(error, ZERO_ERR_SYSTEM, "the lazy device's queue is full");
    q->copies[q->count++] = (queued_t){dst, src, bytes};
    return ZERO_OK;
}

static zero_status_t lazy_finish(zero_device_t *base, void *native, double timeout_s, zero_error_t *error)
{
    lazy_t *d = (lazy_t *)base;
    queue_t *q = queue_of(d, native);
    (void)timeout_s, (void)error;
    if (q->count) {
        open_memory(d, true);
        for (int i = 0; i < q->count; i++)
            memcpy(q->copies[i].dst, q->copies[i].src, q->copies[i].bytes);
        open_memory(d, false);
    }
    q->count = 0;
    return ZERO_OK;
}

static void lazy_destroy(zero_device_t *d)
{
    free(d);
}

static const zero_device_ops_t lazy_ops = {
    .arena_create = lazy_arena_create,
    .arena_destroy = lazy_arena_destroy,
    .arena_base = lazy_arena_base,
    .arena_resident = lazy_arena_resident,
    .copy = lazy_copy,
    .finish = lazy_finish,
    .destroy = lazy_destroy,
};

zero_device_t *lazy_device(void)
{
    lazy_t *d = calloc(1, sizeof *d);
    if (!d)
        abort();
    d->base.ops = &lazy_ops;
    d->base.caps = (zero_device_caps_t){.name = "lazy", .asynchronous = true, .launches = true, .page = ZERO_PAGE};
    d->fail = -1;
    return &d->base;
}

void lazy_fail(zero_device_t *device, int copies)
{
    ((lazy_t *)device)->fail = copies;
}
