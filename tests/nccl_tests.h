/* SPDX-License-Identifier: Apache-2.0 */
/* nccl_tests.h - ranks that communicate through the emulated NCCL (test_nccl.c), their failures (nccl_faults.c) and
 * transfers (nccl_links.c). */
#ifndef ZERO_TESTS_NCCL_TESTS_H
#define ZERO_TESTS_NCCL_TESTS_H

#include "tests/comm_cases.h"
#include "tests/ranks.h"

#include <check.h>

enum { NCCL_STREAMS = 2, NCCL_SLICE = 100000 };

/* The setup of a rank. */
typedef struct nccl_setup {
    const char *mode;   /* ZERO_EMULATOR: inline, threads */
    const char *faults; /* ZERO_EMULATOR_NCCL, or NULL */
    double timeout_s;   /* 0: 60 */
    bool windows;       /* attached memory becomes windows */
} nccl_setup_t;

/* One rank: its GPU with two streams, room for two gathers of NCCL_SLICE bytes per rank, and its communicators. */
typedef struct nccl_rank {
    zero_device_t *device;
    zero_comm_t *host, *c;
    zero_stream_t *streams[NCCL_STREAMS];
    void *native[NCCL_STREAMS];
    zero_arena_t *arena;
    char *room[NCCL_STREAMS];
    uint64_t room_bytes;
    bool aborted; /* the log has a message about NCCL */
} nccl_rank_t;

/* Sets the environment, and opens everything except c, on GPU index. Returns 0, or 1 after it printed the fault. */
int nccl_rank_begin(nccl_rank_t *r, int index, int world, const zero_bootstrap_t *b, const nccl_setup_t *setup);
/* Opens c as well, on GPU b->rank. */
int nccl_rank_open(nccl_rank_t *r, const zero_bootstrap_t *b, const nccl_setup_t *setup);
zero_status_t nccl_open(nccl_rank_t *r, const nccl_setup_t *setup, void *callers, zero_error_t *error);
void nccl_rank_close(nccl_rank_t *r);

/* The emulated NCCL itself. */
void *nccl_symbol(const char *name);
typedef struct nccl_counts {
    int comms, aborted, destroyed, registered, elsewhere; /* elsewhere: unregistered operands */
} nccl_counts_t;
nccl_counts_t nccl_counts(void);
int nccl_windows(void);

TCase *nccl_faults_case(void);
TCase *nccl_links_case(void);

#endif
