/* SPDX-License-Identifier: Apache-2.0 */
/* memory.c - failed allocations, agreement of ranks on an outcome, and resident memory. */
#include "zero/exec/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

zero_status_t zero_exec_no_memory(zero_comm_t *comm, size_t bytes, zero_error_t *error)
{
    zero_error_t failure;
    zero_fail_reason(&failure, ZERO_ERR_MEMORY, ZERO_REASON_NONE, comm->rank, "rank %d cannot allocate %zu bytes",
                     comm->rank, bytes);
    zero_comm_fail(comm, &failure);
    return zero_pass(error, ZERO_ERR_MEMORY, &failure);
}

zero_status_t zero_exec_agree(zero_comm_t *comm, zero_status_t status, zero_error_t *error)
{
    zero_error_t first = {0};
    int failed;
    if (status != ZERO_OK && error)
        first = *error;
    zero_status_t agreed = zero_comm_agree(comm, status, &failed, &first);
    if (status != ZERO_OK || failed < 0)
        return status != ZERO_OK ? status : zero_pass(error, agreed, &first);
    /* Too little memory concerns every rank alike; any other failure is a peer's. */
    return zero_fail_from(error, agreed == ZERO_ERR_MEMORY ? ZERO_ERR_MEMORY : ZERO_ERR_PEER, &first, "rank %d: %s",
                          failed, first.text);
}

/* Resident bytes of this process: from smaps_rollup, which is exact, or from statm, whose counters may be some pages
 * behind. */
static zero_status_t process_resident(uint64_t *bytes, zero_error_t *error)
{
    char line[256];
    unsigned long long value = 0;
    bool found = false;
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    while (f && !found && fgets(line, sizeof line, f))
        found = sscanf(line, "Rss: %llu kB", &value) == 1;
    if (f)
        fclose(f);
    if (found) {
        *bytes = value * 1024;
        return ZERO_OK;
    }
    f = fopen("/proc/self/statm", "re");
    if (!f || fscanf(f, "%*u %llu", &value) != 1) {
        int e = errno;
        if (f)
            fclose(f);
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot read this process's resident bytes from /proc/self/statm: %s",
                         strerror(e));
    }
    fclose(f);
    *bytes = value * (uint64_t)sysconf(_SC_PAGESIZE);
    return ZERO_OK;
}

/* How many of bytes [offset, offset + bytes) of the file have space reserved on the drive. */
static uint64_t on_drive(const zero_exec_t *x, uint64_t offset, uint64_t bytes)
{
    uint64_t there = zero_nvme_allocated(x->nvme);
    return there <= offset ? 0 : there - offset < bytes ? there - offset : bytes;
}

/* Adds this rank's rings of a communicator; NULL: there is none. Returns the bytes of all its rings in this process. */
static uint64_t add_rings(const zero_comm_t *comm, uint64_t *rings)
{
    uint64_t own = 0, others = 0;
    if (comm)
        zero_comm_resident(comm, &own, &others);
    *rings += own;
    return own + others;
}

zero_status_t zero_exec_measure(zero_exec_t *x, zero_memory_t *memory, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    uint64_t counted = 0, process;
    memset(memory->bytes, 0, sizeof memory->bytes);
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        for (int k = 0; k < ZERO_KIND_COUNT; k++) {
            uint64_t *resident = &memory->bytes[t][k];
            if (t == ZERO_TIER_NVME && x->nvme) /* bytes on a drive, not of the process */
                *resident = on_drive(x, plan->kind_offset[t][k], plan->kind_bytes[t][k]);
            if (k == ZERO_KIND_RINGS || plan->kind_bytes[t][k] == 0 || !x->arenas[t])
                continue;
            zero_status_t status = x->device->ops->arena_resident(x->arenas[t], plan->kind_offset[t][k],
                                                                  plan->kind_bytes[t][k], resident, error);
            if (status != ZERO_OK)
                return status;
            counted += *resident;
        }
    /* The rings of the other ranks of this node are mapped here too, and count in this process's resident bytes. Their
     * owners report them: here they are neither a kind nor external. */
    uint64_t *rings = &memory->bytes[ZERO_TIER_HOST][ZERO_KIND_RINGS];
    for (int g = 0; g < plan->spec->group_count; g++)
        for (int c = 0; c < x->channel_count; c++)
            counted += add_rings(x->comms[g][c], rings);
    for (int l = 0; l < ZERO_EXEC_LINKS; l++)
        counted += add_rings(x->links[l], rings);
    zero_status_t status = process_resident(&process, error);
    if (status != ZERO_OK)
        return status;
    memory->external = process > counted ? process - counted : 0;
    return ZERO_OK;
}
