/* SPDX-License-Identifier: Apache-2.0 */
/* peers.c - see peers.h. */
#define _GNU_SOURCE
#include "zero/comm/peers.h"
#include "zero/device/host.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* One page per rank. */
typedef struct zero_peer_page {
    atomic_bool abort;       /* there is a winner; the aborting rank sets it, this rank polls it */
    atomic_bool spoke;       /* claims failure: set by the first thread of this rank that aborts */
    atomic_bool left;        /* this rank closed its peers */
    _Atomic uint32_t winner; /* in the first page only: 1 + the index of the page whose failure counts for all ranks; 0:
                                none */
    zero_error_t failure;
    char apart[128];       /* keeps word off the cache line that waiting ranks poll */
    _Atomic uint64_t word; /* publish and progress */
} zero_peer_page_t;

zero_status_t zero_peers_open(zero_peers_t **out, const zero_oob_t *oob, const int *members, int count, int index,
                              zero_error_t *error)
{
    zero_error_t why = {0};
    zero_status_t status = ZERO_OK;
    zero_peers_t *f = calloc(1, sizeof *f);
    *out = NULL;
    if (f) {
        f->member = calloc((size_t)count, sizeof *f->member);
        f->pidfd = calloc((size_t)count, sizeof *f->pidfd);
        f->own = count == 1 ? aligned_alloc(_Alignof(zero_peer_page_t), sizeof *f->own) : NULL;
        if (f->own)
            memset(f->own, 0, sizeof *f->own);
    }
    if (!f || !f->member || !f->pidfd || (count == 1 && !f->own))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory for a communicator of %d ranks", oob->world);
    else {
        atomic_store(&f->refs, 1);
        f->rank = oob->rank;
        f->size = oob->world;
        f->index = index;
        f->count = count;
        memcpy(f->member, members, (size_t)count * sizeof *f->member);
        for (int i = 0; i < count; i++)
            f->pidfd[i] = -1;
    }
    status = zero_oob_agree(oob, status, &why);
    if (status == ZERO_OK)
        status = zero_shared_open(&f->pages, oob, members, count, index, sizeof(zero_peer_page_t), ZERO_OK, &why);
    if (status) {
        if (f)
            zero_peers_drop(f);
        return zero_pass(error, status, &why);
    }
    if (count > 1)
        f->own = f->pages.part[index];
    for (int i = 0; i < count && count > 1; i++)
        if (i != index && f->pages.pid[i] > 0 && f->pages.pid[i] != (int)getpid())
            f->pidfd[i] = (int)syscall(SYS_pidfd_open, f->pages.pid[i], 0);
    /* A rank that takes part in this exchange was alive while the handles were opened, so the handles cannot belong to
     * other processes. */
    status = zero_oob_agree(oob, ZERO_OK, error);
    if (status) {
        zero_peers_drop(f);
        return status;
    }
    *out = f;
    return ZERO_OK;
}

zero_peers_t *zero_peers_hold(zero_peers_t *f)
{
    atomic_fetch_add(&f->refs, 1);
    return f;
}

void zero_peers_drop(zero_peers_t *f)
{
    if (!f || atomic_fetch_sub(&f->refs, 1) > 1)
        return;
    if (f->far)
        f->far->close(f->far_ctx, atomic_load(&f->broken) || zero_peers_is_aborted(f));
    if (f->own)
        atomic_store(&f->own->left, true);
    for (int i = 0; i < f->count && f->pidfd; i++)
        if (f->pidfd[i] >= 0)
            close(f->pidfd[i]);
    if (f->count <= 1)
        free(f->own);
    zero_shared_close(&f->pages);
    free(f->pidfd);
    free(f->member);
    free(f);
}

static zero_peer_page_t *page_of(const zero_peers_t *f, int i)
{
    return f->count > 1 ? f->pages.part[i] : f->own;
}

void zero_peers_abort_node(zero_peers_t *f, const zero_error_t *failure)
{
    uint32_t none = 0;
    if (atomic_exchange(&f->own->spoke, true))
        return;
    zero_pass(&f->own->failure, ZERO_ERR_PEER, failure);
    /* The failure is complete before it can win, and the abort words are set after that: a rank that ends in between
     * leaves no partial failure. */
    atomic_compare_exchange_strong(&page_of(f, 0)->winner, &none, (uint32_t)f->index + 1);
    for (int i = 0; i < f->count; i++)
        atomic_store(&page_of(f, i)->abort, true);
}

void zero_peers_abort(zero_peers_t *f, const zero_error_t *failure)
{
    const zero_error_t own = zero_comm_own(failure, f->rank);
    zero_peers_abort_node(f, &own);
    if (f->far)
        f->far->abort(f->far_ctx, &own);
}

bool zero_peers_is_aborted(const zero_peers_t *f)
{
    return f->own && atomic_load_explicit(&f->own->abort, memory_order_acquire);
}

zero_status_t zero_peers_check(const zero_peers_t *f, zero_error_t *error)
{
    if (!zero_peers_is_aborted(f))
        return ZERO_OK;
    return zero_pass(error, ZERO_ERR_PEER, &page_of(f, (int)atomic_load(&page_of(f, 0)->winner) - 1)->failure);
}

int zero_peers_pid(const zero_peers_t *f, int index)
{
    return f->count > 1 ? f->pages.pid[index] : (int)getpid();
}

void zero_peers_publish(zero_peers_t *f, uint64_t word)
{
    atomic_store_explicit(&f->own->word, word, memory_order_relaxed);
}

uint64_t zero_peers_progress(const zero_peers_t *f, int rank)
{
    for (int i = 0; i < f->count; i++)
        if (f->member[i] == rank)
            return atomic_load_explicit(&page_of(f, i)->word, memory_order_relaxed);
    return 0;
}

bool zero_peers_is_dead(const zero_peers_t *f, int index)
{
    if (f->pidfd[index] >= 0) {
        struct pollfd p = {.fd = f->pidfd[index], .events = POLLIN};
        return poll(&p, 1, 0) == 1;
    }
    /* Before Linux 5.3 there are no process handles; then a zombie counts as alive until its parent waits for it. */
    return index != f->index && zero_peers_pid(f, index) > 0 && kill(zero_peers_pid(f, index), 0) < 0 && errno == ESRCH;
}

zero_status_t zero_peers_watch(zero_peers_t *f, const char *operation, zero_error_t *error)
{
    zero_error_t failure;
    if (f->far && !zero_peers_is_aborted(f))
        f->far->poll(f->far_ctx, f);
    for (int i = 0; i < f->count && f->count > 1 && !zero_peers_is_aborted(f); i++) {
        const zero_peer_page_t *page = f->pages.part[i];
        if (i == f->index || !zero_peers_is_dead(f, i) || atomic_load(&page->left))
            continue;
        zero_fail_reason(&failure, ZERO_ERR_PEER, ZERO_REASON_RANK_ENDED, f->member[i],
                         "rank %d (pid %d) exited unexpectedly during %s", f->member[i], zero_peers_pid(f, i),
                         operation);
        zero_peers_abort(f, &failure);
        /* If another thread of this rank is writing a failure, ours was dropped. */
        return zero_peers_is_aborted(f) ? zero_peers_check(f, error) : zero_pass(error, ZERO_ERR_PEER, &failure);
    }
    return zero_peers_check(f, error);
}
