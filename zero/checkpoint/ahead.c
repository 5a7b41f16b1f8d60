/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "zero/checkpoint/ahead.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Two threads keep a drive busy while one of them computes a hash. */
enum { THREADS = 2, SLOTS = 3 };

/* Memory of huge pages: a drive takes a large read in few parts then, which can be several times as fast. Only where a
 * range of the largest size lies: what it adds at its ends, to whole pages, would fill one more huge page. */
#define HUGE_PAGE ((uint64_t)2 << 20)

typedef struct range {
    const zero_tensor_entry_t *tensor;
    int64_t first, count;
} range_t;

/* Where range number n is read: slot n % SLOTS. */
typedef struct slot {
    void *room;
    const void *bytes; /* in it */
    bool full;
    zero_status_t status;
    zero_error_t error;
} slot_t;

struct zero_ahead {
    const zero_checkpoint_t *checkpoint;
    uint64_t room_bytes, huge_bytes; /* of a slot; at its begin */
    range_t *ranges;
    size_t count, room;
    slot_t slots[SLOTS];
    pthread_t threads[THREADS];
    int thread_count;
    bool started;

    pthread_mutex_t mutex; /* of what follows, and of full */
    pthread_cond_t change;
    size_t begun; /* ranges that are being read or have been read */
    size_t used;  /* ranges whose bytes the caller no longer needs */
    bool holds;   /* the caller has the bytes of the next one */
    bool end;
};

zero_status_t zero_ahead_make(zero_ahead_t **ahead, const zero_checkpoint_t *checkpoint, uint64_t most,
                              zero_error_t *error)
{
    zero_ahead_t *a = *ahead = calloc(1, sizeof *a);
    if (!a)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to read a checkpoint");
    a->checkpoint = checkpoint;
    a->room_bytes = (ZERO_CHECKPOINT_ROOM(most) + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    a->huge_bytes = most / HUGE_PAGE * HUGE_PAGE;
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->change, NULL);
    return ZERO_OK;
}

zero_status_t zero_ahead_add(zero_ahead_t *ahead, const zero_tensor_entry_t *tensor, int64_t first, int64_t count,
                             zero_error_t *error)
{
    if (ahead->count == ahead->room) {
        size_t room = ahead->room ? 2 * ahead->room : 64;
        range_t *ranges = realloc(ahead->ranges, room * sizeof *ranges);
        if (!ranges)
            return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the list of %zu ranges of a checkpoint", room);
        ahead->ranges = ranges;
        ahead->room = room;
    }
    ahead->ranges[ahead->count++] = (range_t){tensor, first, count};
    return ZERO_OK;
}

/* Reads a range that the caller has begun. Called with the mutex, and returns with it. */
static void read_range(zero_ahead_t *a, size_t number)
{
    const range_t *range = &a->ranges[number];
    slot_t *slot = &a->slots[number % SLOTS];
    pthread_mutex_unlock(&a->mutex);
    slot->status = zero_checkpoint_read_pages(a->checkpoint, range->tensor, range->first, range->count, slot->room,
                                              &slot->bytes, &slot->error);
    pthread_mutex_lock(&a->mutex);
    slot->full = true;
    pthread_cond_broadcast(&a->change);
}

static void *thread_main(void *arg)
{
    zero_ahead_t *a = arg;
    pthread_mutex_lock(&a->mutex);
    while (!a->end && a->begun < a->count)
        if (a->begun < a->used + SLOTS)
            read_range(a, a->begun++);
        else
            pthread_cond_wait(&a->change, &a->mutex);
    pthread_mutex_unlock(&a->mutex);
    return NULL;
}

static zero_status_t start(zero_ahead_t *a, zero_error_t *error)
{
    sigset_t all, old;
    a->started = true;
    for (int k = 0; k < SLOTS && (size_t)k < a->count; k++) {
        a->slots[k].room = aligned_alloc(HUGE_PAGE, (size_t)a->room_bytes);
        if (!a->slots[k].room)
            return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %d buffers of %llu bytes", SLOTS,
                             (unsigned long long)a->room_bytes);
        madvise(a->slots[k].room, (size_t)a->huge_bytes, MADV_HUGEPAGE);
    }
    /* Only the caller's own threads handle signals. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (int k = 0; k < THREADS && (size_t)k + 1 < a->count; k++)
        if (pthread_create(&a->threads[a->thread_count], NULL, thread_main, a) == 0)
            pthread_setname_np(a->threads[a->thread_count++], "zero-load");
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return ZERO_OK; /* without threads the caller reads */
}

zero_status_t zero_ahead_next(zero_ahead_t *ahead, const void **bytes, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    if (!ahead->started && (status = start(ahead, error)) != ZERO_OK)
        return status;
    pthread_mutex_lock(&ahead->mutex);
    if (ahead->holds) {
        ahead->slots[ahead->used++ % SLOTS].full = false;
        pthread_cond_broadcast(&ahead->change);
    }
    slot_t *slot = &ahead->slots[ahead->used % SLOTS];
    ahead->holds = ahead->used < ahead->count;
    if (ahead->holds && ahead->begun == ahead->used)
        read_range(ahead, ahead->begun++);
    while (ahead->holds && !slot->full)
        pthread_cond_wait(&ahead->change, &ahead->mutex);
    pthread_mutex_unlock(&ahead->mutex);
    if (!ahead->holds)
        return zero_fail(error, ZERO_ERR_ORDER, "a checkpoint is read beyond the list of %zu ranges", ahead->count);
    *bytes = slot->bytes;
    return slot->status == ZERO_OK ? ZERO_OK : zero_pass(error, slot->status, &slot->error);
}

void zero_ahead_destroy(zero_ahead_t *ahead)
{
    if (!ahead)
        return;
    pthread_mutex_lock(&ahead->mutex);
    ahead->end = true;
    pthread_cond_broadcast(&ahead->change);
    pthread_mutex_unlock(&ahead->mutex);
    for (int k = 0; k < ahead->thread_count; k++)
        pthread_join(ahead->threads[k], NULL);
    pthread_cond_destroy(&ahead->change);
    pthread_mutex_destroy(&ahead->mutex);
    for (int k = 0; k < SLOTS; k++)
        free(ahead->slots[k].room);
    free(ahead->ranges);
    free(ahead);
}
