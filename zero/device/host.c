/* SPDX-License-Identifier: Apache-2.0 */
/* host.c - see host.h. */
#define _GNU_SOURCE
#include "zero/device/host.h"

#include <errno.h>
#include <linux/futex.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

zero_status_t zero_host_take(const zero_allocator_t *allocator, zero_tier_t tier, uint64_t bytes, bool host,
                             char **base, zero_error_t *error)
{
    uint64_t alignment = host ? zero_host_page() : 256; /* 256 is cudaMalloc's */
    *base = allocator->allocate(allocator->ctx, tier, bytes, alignment);
    if (!*base)
        return zero_fail(
            error, ZERO_ERR_MEMORY,
            "the caller's allocator cannot provide %llu bytes of tier '%s': raise its limit, or shard or offload more",
            (unsigned long long)bytes, zero_tier_name(tier));
    if ((uintptr_t)*base % alignment) {
        zero_status_t status =
            zero_fail(error, ZERO_ERR_ARG, "the caller's allocator returned %p, which is not aligned to %llu bytes",
                      (void *)*base, (unsigned long long)alignment);
        allocator->release(allocator->ctx, tier, *base, bytes);
        *base = NULL;
        return status;
    }
    if (host)
        memset(*base, 0, bytes);
    return ZERO_OK;
}

uint64_t zero_host_page(void)
{
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

uint64_t zero_host_machine(void)
{
    char text[80] = "";
    uint64_t hash = 0;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (!f || !fgets(text, sizeof text, f))
        gethostname(text, sizeof text - 1);
    if (f)
        fclose(f);
    for (const char *p = text; *p; p++)
        hash = zero_splitmix64(hash ^ (unsigned char)*p);
    return hash;
}

double zero_host_pause(double waited, double expected)
{
    const double moment = 20e-6, near = 1e-3, longest = 1e-3;
    double pause = waited / 10 < longest ? waited / 10 : longest, until = expected - near - waited;
    if (waited < moment || (expected > 0 && until <= 0 && waited < expected + near))
        return 0;
    return until > 0 && pause > until ? until : pause;
}

void zero_host_sleep_on(zero_host_word_t *word, uint32_t expected, double seconds, bool shared)
{
    struct timespec t = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    syscall(SYS_futex, word, shared ? FUTEX_WAIT : FUTEX_WAIT_PRIVATE, expected, &t, NULL, 0);
}

void zero_host_wake(zero_host_word_t *word, bool shared)
{
    syscall(SYS_futex, word, shared ? FUTEX_WAKE : FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- how much there is ------------------------------------------------------------------------------------------ */

/* Reads a file that holds one number; returns false if it holds none ("max" included). */
static bool read_number(const char *dir, const char *name, uint64_t *out)
{
    char path[2 * PATH_MAX + 32];
    unsigned long long value;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    bool found = fscanf(f, "%llu", &value) == 1;
    fclose(f);
    *out = value;
    return found;
}

/* Reads the number in the line "key number" (or "key: number kB" with scale 1024). */
static bool read_keyed(const char *path, const char *key, uint64_t scale, uint64_t *out)
{
    char line[512];
    size_t length = strlen(key);
    bool found = false;
    FILE *f = fopen(path, "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, length) || (line[length] != ' ' && line[length] != ':'))
            continue;
        *out = strtoull(line + length + 1, NULL, 10) * scale;
        found = true;
    }
    fclose(f);
    return found;
}

/* Lowers *least to the head room of the control group at dir and of its ancestors down to top. */
static void group_head_room(char *dir, const char *top, bool v2, uint64_t *least)
{
    for (;;) {
        uint64_t limit, usage, cache = 0;
        char stat[2 * PATH_MAX + 16];
        if (read_number(dir, v2 ? "memory.max" : "memory.limit_in_bytes", &limit) &&
            read_number(dir, v2 ? "memory.current" : "memory.usage_in_bytes", &usage)) {
            snprintf(stat, sizeof stat, "%s/memory.stat", dir);
            read_keyed(stat, v2 ? "inactive_file" : "total_inactive_file", 1, &cache);
            usage -= cache < usage ? cache : usage;
            uint64_t room = limit > usage ? limit - usage : 0;
            if (room < *least)
                *least = room;
        }
        char *slash = strrchr(dir, '/');
        if (!slash || strlen(dir) <= strlen(top))
            return;
        *slash = 0;
    }
}

/* Finds the path of this process in the hierarchy with a memory controller, as in /proc/self/cgroup. */
static bool group_path(bool v2, char *out, size_t size)
{
    char line[PATH_MAX + 256];
    bool found = false;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        controllers++;
        if (v2)
            found = !strncmp(line, "0:", 2) && !*controllers;
        else
            for (char *save = NULL, *c = strtok_r(controllers, ",", &save); c && !found; c = strtok_r(NULL, ",", &save))
                found = !strcmp(c, "memory");
        if (found)
            snprintf(out, size, "%s", path);
    }
    fclose(f);
    return found;
}

/* Lowers *least to the head room of this process's control groups; leaves it if there are no limits. */
static void groups_head_room(uint64_t *least)
{
    char line[4 * PATH_MAX], root[PATH_MAX], mount[PATH_MAX], path[PATH_MAX], dir[2 * PATH_MAX];
    FILE *f = fopen("/proc/self/mountinfo", "re");
    if (!f)
        return;
    while (fgets(line, sizeof line, f)) {
        char *tail = strstr(line, " - ");
        if (!tail || sscanf(line, "%*s %*s %*s %4095s %4095s", root, mount) != 2)
            continue;
        bool v2 = !strncmp(tail + 3, "cgroup2 ", 8);
        if (!v2 && (strncmp(tail + 3, "cgroup ", 7) || !strstr(tail, "memory")))
            continue;
        if (!group_path(v2, path, sizeof path))
            continue;
        /* In a container without its own cgroup namespace, the path begins with the root of the mount. */
        size_t skip = strcmp(root, "/") ? strlen(root) : 0;
        const char *below = strncmp(path, root, skip) ? "" : path + skip;
        snprintf(dir, sizeof dir, "%s%s", mount, strcmp(below, "/") ? below : "");
        group_head_room(dir, mount, v2, least);
    }
    fclose(f);
}

zero_status_t zero_host_available(uint64_t *bytes, zero_error_t *error)
{
    if (!read_keyed("/proc/meminfo", "MemAvailable", 1024, bytes))
        return zero_fail(error, ZERO_ERR_SYSTEM,
                         "cannot read MemAvailable from /proc/meminfo: mount /proc (Linux 3.14 or later)");
    groups_head_room(bytes);
    return ZERO_OK;
}

/* ---- residency -------------------------------------------------------------------------------------------------- */

zero_status_t zero_host_populate(void *base, uint64_t bytes, zero_error_t *error)
{
    if (bytes == 0)
        return ZERO_OK;
    int result;
    do
        result = madvise(base, bytes, MADV_POPULATE_WRITE);
    while (result < 0 && errno == EINTR);
    if (result == 0)
        return ZERO_OK;
    if (errno != EINVAL)
        return zero_fail(error, ZERO_ERR_MEMORY, "the system could not provide %llu bytes of memory: %s",
                         (unsigned long long)bytes,
                         errno == EFAULT ? "the file system behind them is full" : strerror(errno));
    /* Before Linux 5.14: an atomic add of 0 writes each page without changing it. */
    for (uint64_t at = 0, page = zero_host_page(); at < bytes; at += page)
        atomic_fetch_add((_Atomic unsigned char *)((char *)base + at), 0);
    return ZERO_OK;
}

zero_status_t zero_host_resident(const void *base, uint64_t bytes, uint64_t *resident, zero_error_t *error)
{
    unsigned char pages[4096];
    uint64_t page = zero_host_page();
    uintptr_t begin = (uintptr_t)base, end = begin + bytes;
    *resident = 0;
    for (uintptr_t at = begin - begin % page; at < end; at += sizeof pages * page) {
        uint64_t count = (end - at + page - 1) / page;
        if (count > sizeof pages)
            count = sizeof pages;
        if (mincore((void *)at, count * page, pages) < 0)
            return zero_fail(error, ZERO_ERR_SYSTEM, "mincore over %llu bytes: %s", (unsigned long long)(count * page),
                             strerror(errno));
        for (uint64_t i = 0; i < count; i++) {
            uintptr_t from = at + i * page, to = from + page;
            from = from < begin ? begin : from;
            to = to > end ? end : to;
            if (pages[i] & 1)
                *resident += to - from;
        }
    }
    return ZERO_OK;
}
