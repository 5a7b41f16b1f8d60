/* memory.c - whether the plan's memory fits, before it is reserved; and what is resident, after. */
#include "zero/exec/internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

zero_status_t zero_exec_no_memory(zero_comm_t *comm, size_t bytes, zero_error_t *error)
{
    char sentence[80];
    snprintf(sentence, sizeof sentence, "rank %d cannot allocate %zu bytes", comm->rank, bytes);
    comm->ops->abort(comm, sentence);
    return zero_fail(error, ZERO_ERR_MEMORY, "%s", sentence);
}

zero_status_t zero_exec_agree(zero_comm_t *comm, zero_status_t status, zero_error_t *error)
{
    zero_error_t mine = {.status = status}, failed = {0};
    if (status != ZERO_OK && error)
        mine = *error, mine.status = status;
    zero_error_t *all = malloc((size_t)comm->size * sizeof *all);
    if (!all)
        return zero_exec_no_memory(comm, (size_t)comm->size * sizeof *all, error);
    zero_status_t exchanged = comm->ops->exchange(comm, &mine, all, sizeof mine, &failed);
    if (status == ZERO_OK && exchanged != ZERO_OK)
        status = zero_fail(error, exchanged, "%s", failed.text);
    for (int r = 0; status == ZERO_OK && r < comm->size; r++)
        if (all[r].status != ZERO_OK)
            /* Alike on every rank where the matter is memory; otherwise it is a peer that failed. */
            status = zero_fail(error, all[r].status == ZERO_ERR_MEMORY ? ZERO_ERR_MEMORY : ZERO_ERR_PEER, "rank %d: %s", r,
                               all[r].text);
    free(all);
    return status;
}

/* "1234 bytes (1.2 KiB)" */
typedef struct bytes_text {
    char s[48];
} bytes_text_t;
static bytes_text_t text_of(uint64_t bytes)
{
    static const char *const names[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    bytes_text_t t;
    double v = (double)bytes;
    int k = 0;
    for (; v >= 1024 && k < 4; k++)
        v /= 1024;
    if (k == 0)
        snprintf(t.s, sizeof t.s, "%llu bytes", (unsigned long long)bytes);
    else
        snprintf(t.s, sizeof t.s, "%llu bytes (%.2f %s)", (unsigned long long)bytes, v, names[k]);
    return t;
}

/* ", parameters 123, ..." of a tier. */
static void kinds_text(const zero_plan_t *plan, zero_tier_t tier, char *out, size_t size)
{
    size_t at = 0;
    out[0] = '\0';
    for (int k = 0; k < ZERO_KIND_COUNT && at < size; k++)
        if (plan->kind_bytes[tier][k] > 0)
            at += (size_t)snprintf(out + at, size - at, "%s%s %llu", at ? ", " : "", zero_kind_name((zero_kind_t)k),
                                   (unsigned long long)plan->kind_bytes[tier][k]);
}

static const char what_to_change[] =
    "use a higher stage, more ranks, another tier for a part of it, a smaller window, smaller micro-batches or a smaller model";

/* Ranks that share this one's memory, itself included. */
static int ranks_of_node(const zero_comm_t *comm)
{
    return comm->caps.node_ranks > 0 ? comm->caps.node_ranks : 1;
}

/* Ranks of this node that use the same device. Collective. */
static zero_status_t ranks_of_device(const zero_exec_t *x, int *ranks, zero_error_t *error)
{
    uint64_t mine = x->device->ops->identity(x->device), *all = malloc((size_t)x->world * sizeof *all);
    if (!all)
        return zero_exec_no_memory(x->comm, (size_t)x->world * sizeof *all, error);
    zero_status_t status = x->comm->ops->exchange(x->comm, &mine, all, sizeof mine, error);
    *ranks = 0;
    for (int r = 0; r < x->world && status == ZERO_OK; r++)
        *ranks += all[r] == mine;
    /* Devices of other nodes may have the same number. */
    if (*ranks > ranks_of_node(x->comm))
        *ranks = ranks_of_node(x->comm);
    free(all);
    return status;
}

static zero_status_t fits_here(const zero_exec_t *x, int device_ranks, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    uint64_t need[ZERO_TIER_COUNT] = {0};
    char kinds[400];
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        for (int k = 0; k < ZERO_KIND_COUNT; k++)
            if (!zero_add_u64(need[t], plan->kind_bytes[t][k], &need[t]))
                return zero_fail(error, ZERO_ERR_MEMORY, "the plan's bytes do not fit 64 bits");
    kinds_text(plan, ZERO_TIER_DEVICE, kinds, sizeof kinds);
    if (x->options.memory_limit > 0 && need[ZERO_TIER_DEVICE] > x->options.memory_limit)
        return zero_fail(error, ZERO_ERR_MEMORY, "a rank needs %s of the device tier (%s) but the memory limit is %s: %s",
                         text_of(need[ZERO_TIER_DEVICE]).s, kinds, text_of(x->options.memory_limit).s, what_to_change);

    if (x->device->options.allocator.allocate) /* which says itself what there is */
        return ZERO_OK;

    /* On a CPU both tiers are the machine's memory, and all ranks of the node draw on it. */
    bool one_memory = x->device->caps.host_memory;
    if (one_memory && !zero_add_u64(need[ZERO_TIER_DEVICE], need[ZERO_TIER_HOST], &need[ZERO_TIER_DEVICE]))
        return zero_fail(error, ZERO_ERR_MEMORY, "the plan's bytes do not fit 64 bits");
    for (int t = 0; t < (one_memory ? 1 : ZERO_TIER_NVME); t++) {
        int sharing = one_memory || t == ZERO_TIER_HOST ? ranks_of_node(x->comm) : device_ranks;
        uint64_t total, available;
        if (need[t] == 0)
            continue;
        zero_status_t status = x->device->ops->available(x->device, (zero_tier_t)t, &available, error);
        if (status != ZERO_OK)
            return status;
        if (!zero_mul_u64(need[t], (uint64_t)sharing, &total) || total > available)
            return zero_fail(error, ZERO_ERR_MEMORY,
                             "%d rank(s) of this node need %s each of the %s tier (%s), but only %s are available: %s", sharing,
                             text_of(need[t]).s, zero_tier_name((zero_tier_t)t), kinds, text_of(available).s, what_to_change);
    }
    return ZERO_OK;
}

zero_status_t zero_exec_fits(const zero_exec_t *x, zero_error_t *error)
{
    zero_error_t local = {0};
    int device_ranks = 1;
    zero_status_t status = ranks_of_device(x, &device_ranks, &local);
    if (status == ZERO_OK)
        status = zero_exec_agree(x->comm, fits_here(x, device_ranks, &local), &local);
    return status == ZERO_OK ? ZERO_OK : zero_fail(error, status, "%s", local.text);
}

/* Resident bytes of this process: from smaps_rollup, which is exact, or from statm, whose counters the kernel may keep some pages
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

/* Of bytes [offset, offset + bytes) of the file, those for which the drive has room set aside. */
static uint64_t on_drive(const zero_exec_t *x, uint64_t offset, uint64_t bytes)
{
    uint64_t there = zero_nvme_allocated(x->nvme);
    return there <= offset ? 0 : there - offset < bytes ? there - offset : bytes;
}

zero_status_t zero_exec_measure(zero_exec_t *x, zero_memory_t *memory, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    uint64_t counted = 0, process;
    memset(memory->bytes, 0, sizeof memory->bytes);
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        for (int k = 0; k < ZERO_KIND_COUNT; k++) {
            uint64_t *resident = &memory->bytes[t][k];
            if (t == ZERO_TIER_NVME && x->nvme) /* a drive's bytes, not the process's */
                *resident = on_drive(x, plan->kind_offset[t][k], plan->kind_bytes[t][k]);
            if (k == ZERO_KIND_RINGS || plan->kind_bytes[t][k] == 0 || !x->arenas[t])
                continue;
            zero_status_t status = x->device->ops->arena_resident(x->arenas[t], plan->kind_offset[t][k], plan->kind_bytes[t][k],
                                                                  resident, error);
            if (status != ZERO_OK)
                return status;
            counted += *resident;
        }
    /* The rings of the other ranks of this node are mapped here too, and so are part of this process's resident bytes. They are
     * theirs to count: neither a kind of this rank nor external. */
    for (int c = 0; c < x->channel_count; c++) {
        uint64_t own = x->channels[c]->ops->ring_resident(x->channels[c]);
        memory->bytes[ZERO_TIER_HOST][ZERO_KIND_RINGS] += own;
        counted += own + x->channels[c]->ops->peers_resident(x->channels[c]);
    }
    zero_status_t status = process_resident(&process, error);
    if (status != ZERO_OK)
        return status;
    memory->external = process > counted ? process - counted : 0;
    return ZERO_OK;
}
