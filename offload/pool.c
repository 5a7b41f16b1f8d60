/* SPDX-License-Identifier: Apache-2.0 */
/* pool.c - see pool.h. */
#define _GNU_SOURCE
#include "offload/pool.h"
#include "zero/device/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#if defined(HAVE_HWLOC)
#include <hwloc.h>
#endif

static zero_status_t check_range(const void *base, uint64_t bytes, zero_error_t *error)
{
    uint64_t page = zero_host_page();
    if (bytes && (uintptr_t)base % page == 0 && bytes % page == 0)
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_ARG, "%llu bytes at %p are not whole pages of %llu bytes",
                     (unsigned long long)bytes, base, (unsigned long long)page);
}

/* ---- placement -------------------------------------------------------------------------------------------------- */

#if defined(HAVE_HWLOC)

/* Adds the nodes near the device at pci, or near the calling thread's CPUs, to set. Returns NULL, or the reason why
 * there are none. */
static const char *find_nodes(hwloc_topology_t topology, const char *pci, hwloc_nodeset_t set)
{
    const char *why = NULL;
    hwloc_cpuset_t cpus = hwloc_bitmap_alloc();
    if (!cpus)
        return "no memory";
    if (pci) {
        hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(topology, pci),
                    near = device ? hwloc_get_non_io_ancestor_obj(topology, device) : NULL;
        if (near && near->cpuset)
            hwloc_bitmap_copy(cpus, near->cpuset);
        else
            why = "the system does not show the device";
    } else if (hwloc_get_cpubind(topology, cpus, HWLOC_CPUBIND_THREAD) < 0)
        why = strerror(errno);
    if (!why) {
        hwloc_cpuset_to_nodeset(topology, cpus, set);
        if (hwloc_bitmap_iszero(set))
            why = "no node is beside these CPUs";
    }
    hwloc_bitmap_free(cpus);
    return why;
}

static const char *place(void *base, uint64_t bytes, const char *pci, int *nodes)
{
    const char *why = NULL;
    hwloc_topology_t topology = NULL;
    hwloc_nodeset_t set = NULL;
    *nodes = 0;
    if (hwloc_topology_init(&topology) < 0)
        return "hwloc cannot start";
    if (pci)
        hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(topology) < 0) {
        why = "hwloc cannot read the machine's topology";
        goto out;
    }
    if (hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE) == 1) {
        *nodes = 1;
        goto out;
    }
    set = hwloc_bitmap_alloc();
    why = set ? find_nodes(topology, pci, set) : "no memory";
    if (why)
        goto out;
    int count = hwloc_bitmap_weight(set);
    if (hwloc_set_area_membind(topology, base, bytes, set, count == 1 ? HWLOC_MEMBIND_BIND : HWLOC_MEMBIND_INTERLEAVE,
                               HWLOC_MEMBIND_BYNODESET | HWLOC_MEMBIND_MIGRATE) < 0)
        why = strerror(errno);
    else
        *nodes = count;
out:
    hwloc_bitmap_free(set);
    hwloc_topology_destroy(topology);
    return why;
}

#else

static const char *place(void *base, uint64_t bytes, const char *pci, int *nodes)
{
    (void)base, (void)bytes, (void)pci;
    *nodes = 0;
    return "this build has no hwloc";
}

#endif

/* Most machines have one node and need no full discovery. If hwloc is configured for another machine, that machine
 * counts. Without sysfs hwloc would complain on standard error. */
static bool single_node(void)
{
    char online[16] = "";
    if (getenv("HWLOC_SYNTHETIC"))
        return false;
    FILE *f = fopen("/sys/devices/system/node/online", "re");
    if (!f)
        return true;
    bool single = fgets(online, sizeof online, f) && !strcmp(online, "0\n");
    fclose(f);
    return single;
}

zero_status_t zero_host_place(void *base, uint64_t bytes, const char *pci, int *nodes, zero_log_fn log, void *log_ctx,
                              zero_error_t *error)
{
    *nodes = 0;
    zero_status_t status = check_range(base, bytes, error);
    if (status)
        return status;
    if (single_node()) {
        *nodes = 1;
        return ZERO_OK;
    }
    const char *why = place(base, bytes, pci, nodes);
    if (why)
        zero_log(log, log_ctx, ZERO_LOG_INFO,
                 "%llu bytes of host memory stay on the NUMA nodes where they are, not those of %s%s: %s",
                 (unsigned long long)bytes, pci ? "the device at " : "this thread", pci ? pci : "", why);
    return ZERO_OK;
}

/* ---- locking ---------------------------------------------------------------------------------------------------- */

zero_status_t zero_host_lock(void *base, uint64_t bytes, bool *locked, zero_log_fn log, void *log_ctx,
                             zero_error_t *error)
{
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    uint64_t resident;
    *locked = false;
    zero_status_t status = check_range(base, bytes, error);
    if (status)
        return status;
    /* mlock has the same errno for an unmapped range and for a range above the limit. */
    if (zero_host_resident(base, bytes, &resident, NULL))
        return zero_fail(error, ZERO_ERR_ARG, "%llu bytes at %p cannot be locked in memory: they are not all mapped",
                         (unsigned long long)bytes, base);
    *locked = mlock(base, bytes) == 0;
    if (*locked)
        return ZERO_OK;
    int e = errno;
    munlock(base, bytes);
    getrlimit(RLIMIT_MEMLOCK, &limit);
    zero_log(log, log_ctx, ZERO_LOG_WARNING,
             "%llu bytes of host memory are not locked, so the system may swap them out: %s "
             "(the limit is %llu bytes: ulimit -l)",
             (unsigned long long)bytes, strerror(e), (unsigned long long)limit.rlim_cur);
    return ZERO_OK;
}

void zero_host_unlock(void *base, uint64_t bytes)
{
    munlock(base, bytes);
}
