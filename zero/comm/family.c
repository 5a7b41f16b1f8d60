/* SPDX-License-Identifier: Apache-2.0 */
/* family.c - see family.h. */
#define _GNU_SOURCE
#include "zero/comm/family.h"
#include "zero/device/host.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One page a rank. */
typedef struct zero_seat {
    atomic_bool abort; /* there is a winner: written by whoever aborts, polled by this rank */
    atomic_bool spoke; /* failure is this rank's: taken by the first of its threads that aborts */
    atomic_bool left;  /* this rank dropped the family in good order */
    _Atomic uint32_t
        winner; /* of the first seat alone: 1 + the seat whose failure is everyone's; 0 while there is none */
    zero_error_t failure;
    char apart[128];       /* from what waiting ranks poll */
    _Atomic uint64_t word; /* tell and told */
} zero_seat_t;

zero_status_t zero_family_open(zero_family_t **out, const zero_meet_t *meet, const int *members, int count, int index,
                               zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = ZERO_OK;
    zero_family_t *f = calloc(1, sizeof *f);
    *out = NULL;
    if (f) {
        f->member = calloc((size_t)count, sizeof *f->member);
        f->pidfd = calloc((size_t)count, sizeof *f->pidfd);
        f->own = count == 1 ? aligned_alloc(_Alignof(zero_seat_t), sizeof *f->own) : NULL;
        if (f->own)
            memset(f->own, 0, sizeof *f->own);
    }
    if (!f || !f->member || !f->pidfd || (count == 1 && !f->own))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", meet->world);
    else {
        atomic_store(&f->refs, 1);
        f->rank = meet->rank;
        f->size = meet->world;
        f->seat = index;
        f->seats = count;
        memcpy(f->member, members, (size_t)count * sizeof *f->member);
        for (int i = 0; i < count; i++)
            f->pidfd[i] = -1;
    }
    status = zero_meet_agree(meet, status, &why);
    if (status == ZERO_OK)
        status = zero_shared_open(&f->pages, meet, members, count, index, sizeof(zero_seat_t), &why);
    if (status) {
        if (f)
            zero_family_drop(f);
        return zero_pass(error, status, &why);
    }
    if (count > 1)
        f->own = f->pages.part[index];
    for (int i = 0; i < count && count > 1; i++)
        if (i != index && f->pages.pid[i] > 0 && f->pages.pid[i] != (int)getpid())
            f->pidfd[i] = (int)syscall(SYS_pidfd_open, f->pages.pid[i], 0);
    /* Whoever took part in this exchange lived while the handles were opened, so that they are not another process's.
     */
    status = zero_meet_agree(meet, ZERO_OK, error);
    if (status) {
        zero_family_drop(f);
        return status;
    }
    *out = f;
    return ZERO_OK;
}

zero_family_t *zero_family_hold(zero_family_t *f)
{
    atomic_fetch_add(&f->refs, 1);
    return f;
}

void zero_family_drop(zero_family_t *f)
{
    if (!f || atomic_fetch_sub(&f->refs, 1) > 1)
        return;
    if (f->far)
        f->far->close(f->far_ctx, atomic_load(&f->broken) || zero_family_is_aborted(f));
    if (f->own)
        atomic_store(&f->own->left, true);
    for (int i = 0; i < f->seats && f->pidfd; i++)
        if (f->pidfd[i] >= 0)
            close(f->pidfd[i]);
    if (f->seats <= 1)
        free(f->own);
    zero_shared_close(&f->pages);
    free(f->pidfd);
    free(f->member);
    free(f);
}

static zero_seat_t *seat_of(const zero_family_t *f, int i)
{
    return f->seats > 1 ? f->pages.part[i] : f->own;
}

void zero_family_aborted(zero_family_t *f, const zero_error_t *failure)
{
    uint32_t none = 0;
    if (atomic_exchange(&f->own->spoke, true))
        return;
    zero_pass(&f->own->failure, ZERO_ERR_PEER, failure);
    /* Only whole sentences take part, and the words come after the choice: a rank that ends in between leaves no half
     * of it. */
    atomic_compare_exchange_strong(&seat_of(f, 0)->winner, &none, (uint32_t)f->seat + 1);
    for (int i = 0; i < f->seats; i++)
        atomic_store(&seat_of(f, i)->abort, true);
}

void zero_family_abort(zero_family_t *f, const zero_error_t *failure)
{
    zero_family_aborted(f, failure);
    if (f->far)
        f->far->abort(f->far_ctx, failure);
}

bool zero_family_is_aborted(const zero_family_t *f)
{
    return f->own && atomic_load_explicit(&f->own->abort, memory_order_acquire);
}

zero_status_t zero_family_check(const zero_family_t *f, zero_error_t *error)
{
    if (!zero_family_is_aborted(f))
        return ZERO_OK;
    return zero_pass(error, ZERO_ERR_PEER, &seat_of(f, (int)atomic_load(&seat_of(f, 0)->winner) - 1)->failure);
}

int zero_family_pid(const zero_family_t *f, int seat)
{
    return f->seats > 1 ? f->pages.pid[seat] : (int)getpid();
}

void zero_family_tell(zero_family_t *f, uint64_t word)
{
    atomic_store_explicit(&f->own->word, word, memory_order_relaxed);
}

uint64_t zero_family_told(const zero_family_t *f, int rank)
{
    for (int i = 0; i < f->seats; i++)
        if (f->member[i] == rank)
            return atomic_load_explicit(&seat_of(f, i)->word, memory_order_relaxed);
    return 0;
}

bool zero_family_is_dead(const zero_family_t *f, int seat)
{
    if (f->pidfd[seat] >= 0) {
        struct pollfd p = {.fd = f->pidfd[seat], .events = POLLIN};
        return poll(&p, 1, 0) == 1;
    }
    /* Before Linux 5.3 there are no process handles; a zombie then counts as alive until it is waited for. */
    return seat != f->seat && zero_family_pid(f, seat) > 0 && kill(zero_family_pid(f, seat), 0) < 0 && errno == ESRCH;
}

zero_status_t zero_family_watch(zero_family_t *f, const char *operation, zero_error_t *error)
{
    zero_error_t failure;
    if (f->far && !zero_family_is_aborted(f))
        f->far->poll(f->far_ctx, f);
    for (int i = 0; i < f->seats && f->seats > 1 && !zero_family_is_aborted(f); i++) {
        const zero_seat_t *seat = f->pages.part[i];
        if (i == f->seat || !zero_family_is_dead(f, i) || atomic_load(&seat->left))
            continue;
        zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, f->member[i],
                         "rank %d (pid %d) ended without a word during %s", f->member[i], zero_family_pid(f, i),
                         operation);
        zero_family_abort(f, &failure);
        /* Where another thread of this rank had begun to write a sentence, ours did not get in. */
        return zero_family_is_aborted(f) ? zero_family_check(f, error) : zero_pass(error, ZERO_ERR_PEER, &failure);
    }
    return zero_family_check(f, error);
}
