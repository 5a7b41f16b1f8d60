/* SPDX-License-Identifier: Apache-2.0 */
/* shared.c - see shared.h. A part is a memfd that the other ranks open through /proc/PID/fd, so that the size of
 * /dev/shm does not matter. If /proc refuses that (other containers, hardened kernels), a part is a file in /dev/shm,
 * unlinked as soon as all ranks have it open. Pages are populated before use: too little memory is an error here, never
 * a SIGBUS later. */
#define _GNU_SOURCE
#include "zero/comm/shared.h"
#include "zero/device/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* What the ranks exchange about their parts. */
typedef struct info {
    int32_t pid, fd;
    uint64_t pid_space; /* inode of its PID namespace */
    uint64_t nonce;     /* first word of the part, to detect another process's file with the same number */
    uint64_t bytes;
} info_t;

zero_status_t zero_oob_agree(const zero_oob_t *oob, zero_status_t status, zero_error_t *error)
{
    int failed;
    return zero_oob_agree_on(oob, status, &failed, error);
}

zero_status_t zero_oob_agree_on(const zero_oob_t *oob, zero_status_t status, int *failed, zero_error_t *error)
{
    zero_error_t own = {.status = status, .rank = -1}, *all = calloc((size_t)oob->world, sizeof *all);
    *failed = -1;
    if (status)
        zero_pass(&own, status, error);
    if (!all)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory to connect %d ranks", oob->world);
    zero_status_t met = oob->all_gather(oob->ctx, &own, all, sizeof own, error);
    for (int r = 0; !met && r < oob->world; r++)
        if (all[r].status) {
            met = zero_pass(error, all[r].status, &all[r]);
            *failed = r;
        }
    free(all);
    /* A failure of this rank stands, even if the exchange failed. */
    return *failed >= 0 || !status ? met : zero_pass(error, status, &own);
}

/* ---- this rank's part ------------------------------------------------------------------------------------------- */

static void shm_name(char *name, size_t size, const info_t *info)
{
    snprintf(name, size, "/zero-%u-%d-%016llx", (unsigned)getuid(), info->pid, (unsigned long long)info->nonce);
}

static zero_status_t check_room(uint64_t bytes, int count, bool dev_shm, zero_error_t *error)
{
    uint64_t there, wanted;
    struct statvfs v;
    zero_status_t status = zero_host_available(&there, error);
    if (status)
        return status;
    if (!zero_mul_u64(bytes, (uint64_t)count, &wanted) || wanted > there)
        return zero_fail_reason(error, ZERO_ERR_MEMORY, ZERO_REASON_NO_SHARED_MEMORY, -1,
                                "%d ranks of this machine need %llu bytes each of shared memory, but only %llu bytes "
                                "are available: use a smaller ring",
                                count, (unsigned long long)bytes, (unsigned long long)there);
    if (!dev_shm)
        return ZERO_OK;
    if (statvfs("/dev/shm", &v) < 0)
        return zero_fail_reason(
            error, ZERO_ERR_SYSTEM, ZERO_REASON_NO_SHARED_MEMORY, -1,
            "/dev/shm: %s, and /proc/PID/fd of the other ranks cannot be opened: mount a tmpfs on /dev/shm",
            strerror(errno));
    there = (uint64_t)v.f_bavail * v.f_frsize;
    if (wanted > there)
        return zero_fail_reason(
            error, ZERO_ERR_MEMORY, ZERO_REASON_NO_SHARED_MEMORY, -1,
            "%d ranks of this machine need %llu bytes each in /dev/shm, but it has %llu bytes free: enlarge it "
            "(docker run --shm-size) or let the ranks open each other's /proc/PID/fd",
            count, (unsigned long long)bytes, (unsigned long long)there);
    return ZERO_OK;
}

static zero_status_t make_part(zero_shared_t *s, info_t *info, bool dev_shm, zero_error_t *error)
{
    char name[64];
    struct stat st;
    zero_status_t status = check_room(s->bytes, s->count, dev_shm, error);
    if (status)
        return status;
    info->bytes = s->bytes;
    info->pid = (int32_t)getpid();
    info->pid_space = stat("/proc/self/ns/pid", &st) == 0 ? (uint64_t)st.st_ino : 0;
    if (getrandom(&info->nonce, sizeof info->nonce, 0) != sizeof info->nonce)
        return zero_fail(error, ZERO_ERR_SYSTEM, "getrandom: %s", strerror(errno));
    shm_name(name, sizeof name, info);
    info->fd =
        dev_shm ? shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600) : memfd_create("zero-ring", MFD_CLOEXEC);
    if (info->fd < 0)
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot create shared memory (%s): %s", dev_shm ? name : "memfd",
                         strerror(errno));
    /* Before Linux 5.14 only posix_fallocate detects a full file system without a SIGBUS. */
    int e = ftruncate(info->fd, (off_t)s->bytes) < 0 ? errno : EINTR;
    for (int tries = 0; e == EINTR && tries < 100; tries++) /* a signal interrupts it */
        e = posix_fallocate(info->fd, 0, (off_t)s->bytes);
    if (e)
        return zero_fail_reason(error, e == ENOSPC || e == ENOMEM ? ZERO_ERR_MEMORY : ZERO_ERR_SYSTEM,
                                ZERO_REASON_NO_SHARED_MEMORY, -1, "%llu bytes of shared memory: %s",
                                (unsigned long long)s->bytes, strerror(e));
    void *p = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, info->fd, 0);
    if (p == MAP_FAILED)
        return zero_fail(error, ZERO_ERR_MEMORY, "cannot map %llu bytes of shared memory: %s",
                         (unsigned long long)s->bytes, strerror(errno));
    s->part[s->index] = p;
    status = zero_host_populate(p, s->bytes, error);
    if (status == ZERO_OK)
        memcpy(p, &info->nonce, sizeof info->nonce);
    return status;
}

/* Maps the part of another rank. *refused: opening it failed, so the other kind of part may work. */
static zero_status_t map_part(zero_shared_t *s, int i, const info_t *own, const info_t *info, bool dev_shm,
                              bool *refused, zero_error_t *error)
{
    char name[64];
    uint64_t nonce = 0;
    int fd;
    if (info->bytes != own->bytes)
        return zero_fail(
            error, ZERO_ERR_MISMATCH,
            "ranks have rings of different sizes (%llu bytes here, %llu in process %d): use the same size on all",
            (unsigned long long)own->bytes, (unsigned long long)info->bytes, info->pid);
    if (dev_shm) {
        shm_name(name, sizeof name, info);
        fd = shm_open(name, O_RDWR | O_CLOEXEC, 0);
    } else {
        snprintf(name, sizeof name, "/proc/%d/fd/%d", info->pid, info->fd);
        /* In another PID namespace the same number is another process. */
        errno = ESRCH;
        fd = own->pid_space == info->pid_space ? open(name, O_RDWR | O_CLOEXEC) : -1;
    }
    if (fd < 0) {
        *refused = true;
        return zero_fail(error, ZERO_ERR_SYSTEM, "cannot open the shared memory of process %d (%s%s): %s", info->pid,
                         dev_shm ? "/dev/shm" : "", name, strerror(errno));
    }
    void *p = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    int e = errno;
    close(fd);
    if (p == MAP_FAILED)
        return zero_fail(error, ZERO_ERR_MEMORY, "cannot map the shared memory of process %d: %s", info->pid,
                         strerror(e));
    s->part[i] = p;
    memcpy(&nonce, p, sizeof nonce);
    if (nonce != info->nonce)
        return zero_fail(error, ZERO_ERR_SYSTEM,
                         "%s is not the shared memory of process %d: the ranks are not on one machine", name,
                         info->pid);
    s->pid[i] = own->pid_space == info->pid_space ? info->pid : 0;
    return zero_host_populate(p, s->bytes, error); /* fills page tables now, to avoid faults later */
}

static void unmap(zero_shared_t *s)
{
    for (int i = 0; i < s->count && s->part; i++) {
        if (s->part[i])
            munmap(s->part[i], s->bytes);
        s->part[i] = NULL;
    }
}

/* Tries one kind of part. All ranks return the same. status and why: as in zero_oob_agree. */
static zero_status_t attempt(zero_shared_t *s, const zero_oob_t *oob, const int *members, bool dev_shm, bool *again,
                             zero_status_t status, zero_error_t *why)
{
    info_t own = {.fd = -1}, *infos = NULL;
    char name[64];
    bool refused = false, *all_refused = NULL;

    infos = calloc((size_t)oob->world, sizeof *infos);
    all_refused = calloc((size_t)oob->world, sizeof *all_refused);
    if (status == ZERO_OK && (!infos || !all_refused))
        status = zero_fail(why, ZERO_ERR_MEMORY, "no memory to connect %d ranks", oob->world);
    if (status == ZERO_OK && s->count > 1)
        status = make_part(s, &own, dev_shm, why);
    status = zero_oob_agree(oob, status, why);
    if (status == ZERO_OK)
        status = oob->all_gather(oob->ctx, &own, infos, sizeof own, why);
    if (status)
        goto done;
    for (int i = 0; i < s->count && s->count > 1 && status == ZERO_OK; i++)
        if (i == s->index)
            s->pid[i] = own.pid;
        else
            status = map_part(s, i, &own, &infos[members[i]], dev_shm, &refused, why);
    status = zero_oob_agree(oob, status, why);
    zero_error_t ignored;
    if (status && !dev_shm && oob->all_gather(oob->ctx, &refused, all_refused, sizeof refused, &ignored) == ZERO_OK)
        for (int r = 0; r < oob->world; r++)
            *again = *again || all_refused[r];
    /* All ranks have read the nonce; clear it, since a part begins as zeros. */
    if (status == ZERO_OK && s->count > 1)
        memset(s->part[s->index], 0, sizeof own.nonce);
done:
    if (own.fd >= 0) {
        close(own.fd);
        if (dev_shm) {
            shm_name(name, sizeof name, &own);
            shm_unlink(name);
        }
    }
    if (status)
        unmap(s);
    free(all_refused);
    free(infos);
    return status;
}

zero_status_t zero_shared_open(zero_shared_t *s, const zero_oob_t *oob, const int *members, int count, int index,
                               uint64_t bytes, zero_status_t status, zero_error_t *error)
{
    zero_error_t why = {0};
    bool again = false;
    if (status)
        zero_pass(&why, status, error);
    *s = (zero_shared_t){.count = count, .index = index};
    s->part = calloc((size_t)count, sizeof *s->part);
    s->pid = calloc((size_t)count, sizeof *s->pid);
    if (status == ZERO_OK && (!s->part || !s->pid || !zero_round_up(bytes, zero_host_page(), &s->bytes)))
        status = zero_fail(&why, ZERO_ERR_MEMORY, "no memory to share %llu bytes with %d ranks",
                           (unsigned long long)bytes, count);
    status = attempt(s, oob, members, false, &again, status, &why);
    if (status && again)
        status = attempt(s, oob, members, true, &again, ZERO_OK, &why);
    if (status == ZERO_OK)
        return ZERO_OK;
    zero_shared_close(s);
    return zero_pass(error, status, &why);
}

void zero_shared_close(zero_shared_t *s)
{
    unmap(s);
    free(s->part);
    free(s->pid);
    *s = (zero_shared_t){0};
}
