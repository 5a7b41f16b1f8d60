/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_case.c - see nvme_case.h. */
#define _GNU_SOURCE
#include "tests/nvme_case.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static struct {
    pthread_mutex_t mutex;
    int warnings;
    char text[16384];
} journal = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void remember(void *ctx, zero_log_level_t level, const char *text)
{
    (void)ctx;
    pthread_mutex_lock(&journal.mutex);
    journal.warnings += level <= ZERO_LOG_WARNING;
    size_t length = strlen(journal.text);
    snprintf(journal.text + length, sizeof journal.text - length, "%s\n", text);
    pthread_mutex_unlock(&journal.mutex);
}

int case_warnings(void)
{
    return journal.warnings;
}

const char *case_log(void)
{
    return journal.text;
}

void case_begin(nvme_case_t *c, int engine)
{
    snprintf(c->folder, sizeof c->folder, "nvme-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(c->folder));
    zero_nvme_options_init(&c->options);
    c->options.engine = engine ? ZERO_NVME_THREADS : ZERO_NVME_URING;
    c->options.log = remember;
    journal.text[0] = '\0';
    journal.warnings = 0;
}

void case_end(nvme_case_t *c)
{
    ck_assert_msg(rmdir(c->folder) == 0, "%s: %s", c->folder, strerror(errno));
}

bool case_uring(void)
{
    zero_nvme_queue_t *queue;
    if (!zero_nvme_system.uring || zero_nvme_system.uring->create(&queue, 1))
        return false;
    zero_nvme_system.uring->destroy(queue);
    return true;
}

bool case_drive(void)
{
    char folder[] = "nvme-XXXXXX";
    zero_nvme_t *n;
    zero_error_t error = {0};
    zero_nvme_options_t o;
    zero_nvme_options_init(&o);
    if (!mkdtemp(folder))
        return false;
    zero_status_t status = zero_nvme_open(&n, folder, 0, 1, &o, &error);
    if (status)
        printf("%s\n", error.text);
    zero_nvme_destroy(n);
    rmdir(folder);
    return status != ZERO_ERR_UNSUPPORTED && status != ZERO_ERR_ARG;
}

char *case_memory(uint64_t bytes, int fill)
{
    uint64_t whole = (bytes + ZERO_NVME_ALIGN - 1) / ZERO_NVME_ALIGN * ZERO_NVME_ALIGN;
    char *memory = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ck_assert_ptr_ne(memory, MAP_FAILED);
    memset(memory, fill, whole);
    return memory;
}

void case_free(char *memory, uint64_t bytes)
{
    ck_assert_int_eq(munmap(memory, (bytes + ZERO_NVME_ALIGN - 1) / ZERO_NVME_ALIGN * ZERO_NVME_ALIGN), 0);
}

static unsigned char pattern_at(uint64_t i, uint64_t seed)
{
    return (unsigned char)(zero_splitmix64(seed * 0x10001 + i / 8) >> 8 * (i % 8));
}

void case_pattern(char *memory, uint64_t bytes, uint64_t seed)
{
    for (uint64_t i = 0; i < bytes; i++)
        memory[i] = (char)pattern_at(i, seed);
}

bool case_has_pattern(const char *memory, uint64_t bytes, uint64_t seed)
{
    for (uint64_t i = 0; i < bytes; i++)
        if ((unsigned char)memory[i] != pattern_at(i, seed))
            return false;
    return true;
}

bool case_all(const char *memory, uint64_t bytes, int value)
{
    for (uint64_t i = 0; i < bytes; i++)
        if (memory[i] != (char)value)
            return false;
    return true;
}

int case_count(const char *folder)
{
    int count = 0;
    DIR *d = opendir(folder);
    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

void case_await_threads(int count)
{
    for (int i = 0; i < 20000 && case_count("/proc/self/task") != count; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    ck_assert_int_eq(case_count("/proc/self/task"), count);
}

int case_open_file(void)
{
    int found = -1;
    DIR *d = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(d);
    for (struct dirent *e; (e = readdir(d)) && found < 0;) {
        char link[300], target[512];
        snprintf(link, sizeof link, "/proc/self/fd/%s", e->d_name);
        ssize_t n = readlink(link, target, sizeof target - 1);
        target[n > 0 ? n : 0] = '\0';
        if (strstr(target, "zero-nvme-rank"))
            found = open(link, O_RDWR | O_CLOEXEC);
    }
    closedir(d);
    ck_assert_int_ge(found, 0);
    return found;
}

/* ---- faults ----------------------------------------------------------------------------------------------------- */

static struct {
    fault_t fault;
    int error, at, times;
    atomic_int transfers, calls;
    atomic_bool struck, holding, released;
    const char *call;
} armed;

void fault_arm(fault_t fault, int error, int at, int times)
{
    armed.fault = fault;
    armed.error = error;
    armed.at = at;
    armed.times = times;
    armed.call = "";
    atomic_store(&armed.transfers, 0);
    atomic_store(&armed.calls, 0);
    atomic_store(&armed.struck, false);
    atomic_store(&armed.holding, false);
    atomic_store(&armed.released, false);
}

bool fault_struck(void)
{
    return atomic_load(&armed.struck);
}

void fault_release(void)
{
    atomic_store(&armed.released, true);
}

const char *fault_call(void)
{
    return armed.call;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

void fault_await_hold(void)
{
    while (!atomic_load(&armed.holding))
        nap();
}

static bool strikes(atomic_int *counter)
{
    int now = atomic_fetch_add(counter, 1);
    if (now < armed.at || now >= armed.at + armed.times)
        return false;
    atomic_store(&armed.struck, true);
    return true;
}

/* ---- queues that fail: each wraps a queue of the library, which does the work ----------------------------------- */

enum { MOST_LANES = 256 };

typedef struct fault_queue {
    const zero_nvme_queue_ops_t *ops;
    zero_nvme_queue_t *real;
    struct {
        bool struck, made_up, held;
        int64_t result; /* invented, or delayed */
        zero_nvme_transfer_t transfer;
    } lanes[MOST_LANES];
    int under_way, held; /* transfers, and those of them whose result is delayed */
    atomic_bool woken;
} fault_queue_t;

static int fault_create(const zero_nvme_queue_ops_t *ops, zero_nvme_queue_t **queue, int lanes)
{
    fault_queue_t *q = calloc(1, sizeof *q);
    if (!q || lanes > MOST_LANES)
        abort();
    q->ops = ops;
    int e = ops->create(&q->real, lanes);
    if (e)
        free(q);
    else
        *queue = (zero_nvme_queue_t *)q;
    return e;
}

static int fault_create_threads(zero_nvme_queue_t **queue, int lanes)
{
    return fault_create(zero_nvme_system.threads, queue, lanes);
}

static void fault_destroy(zero_nvme_queue_t *queue)
{
    fault_queue_t *q = (fault_queue_t *)queue;
    if (q)
        q->ops->destroy(q->real);
    free(q);
}

static int fault_attach(zero_nvme_queue_t *queue, const struct iovec *ranges, int count)
{
    fault_queue_t *q = (fault_queue_t *)queue;
    return q->ops->attach(q->real, ranges, count);
}

static int fault_start(zero_nvme_queue_t *queue, int lane, const zero_nvme_transfer_t *given)
{
    fault_queue_t *q = (fault_queue_t *)queue;
    zero_nvme_transfer_t t = *given;
    bool struck = armed.fault != FAULT_CALL && strikes(&armed.transfers), made_up = false;
    int64_t result = 0;
    if (struck)
        switch (armed.fault) {
        case FAULT_ERROR:
            made_up = true;
            result = -armed.error;
            break;
        case FAULT_END:
            made_up = true;
            break;
        case FAULT_START:
            return -armed.error;
        case FAULT_SHORT:
            t.bytes = t.bytes > ZERO_NVME_ALIGN ? t.bytes / 2 / ZERO_NVME_ALIGN * ZERO_NVME_ALIGN : t.bytes;
            break;
        case FAULT_FLIP:
            made_up = t.write;
            result = t.bytes;
            break;
        case FAULT_HOLD:
            if (q->ops->blocks)
                atomic_store(&armed.holding, true);
            while (q->ops->blocks && !atomic_load(&armed.released))
                nap();
            break;
        default:
            break;
        }
    q->lanes[lane].struck = struck;
    q->lanes[lane].made_up = made_up;
    q->lanes[lane].result = result;
    q->lanes[lane].transfer = t;
    int e = made_up ? 0 : q->ops->start(q->real, lane, &t);
    q->under_way += e == 0;
    return e;
}

static int find_next(fault_queue_t *q, int *lane, int64_t *result)
{
    int found = 0;
    for (int i = 0; i < MOST_LANES; i++)
        if (q->lanes[i].made_up || (q->lanes[i].held && atomic_load(&armed.released))) {
            q->held -= q->lanes[i].held;
            q->lanes[i].made_up = q->lanes[i].held = false;
            *lane = i;
            *result = q->lanes[i].result;
            return 1;
        }
    /* No other transfer can end: wait for a call of wake. A real queue does not wait this long. */
    for (int i = 0;
         q->held && q->under_way == q->held && i < 120000 && !atomic_load(&q->woken) && !atomic_load(&armed.released);
         i++)
        nap();
    atomic_store(&q->woken, false);
    found = q->ops->next(q->real, lane, result);
    if (found != 1 || !q->lanes[*lane].struck)
        return found;
    switch (armed.fault) {
    case FAULT_NEXT:
        return -armed.error;
    case FAULT_ODD:
        *result -= 100;
        break;
    case FAULT_FLIP:
        if (!q->lanes[*lane].transfer.write)
            q->lanes[*lane].transfer.buffer[*result / 2] ^= 4;
        break;
    case FAULT_HOLD:
        if (atomic_load(&armed.released))
            break;
        q->lanes[*lane].held = true;
        q->lanes[*lane].result = *result;
        q->held++;
        atomic_store(&armed.holding, true);
        return 0;
    default:
        break;
    }
    return 1;
}

static int fault_next(zero_nvme_queue_t *queue, int *lane, int64_t *result)
{
    fault_queue_t *q = (fault_queue_t *)queue;
    int found = find_next(q, lane, result);
    q->under_way -= found == 1;
    return found;
}

static void fault_wake(zero_nvme_queue_t *queue)
{
    fault_queue_t *q = (fault_queue_t *)queue;
    atomic_store(&q->woken, true);
    q->ops->wake(q->real);
}

static const zero_nvme_queue_ops_t fault_threads = {
    .name = "threads",
    .blocks = true,
    .create = fault_create_threads,
    .destroy = fault_destroy,
    .attach = fault_attach,
    .start = fault_start,
    .next = fault_next,
    .wake = fault_wake,
};

#if defined(HAVE_LIBURING)
static int fault_create_uring(zero_nvme_queue_t **queue, int lanes)
{
    return fault_create(zero_nvme_system.uring, queue, lanes);
}

static const zero_nvme_queue_ops_t fault_uring = {
    .name = "io_uring",
    .create = fault_create_uring,
    .destroy = fault_destroy,
    .attach = fault_attach,
    .start = fault_start,
    .next = fault_next,
    .wake = fault_wake,
};
#endif

/* ---- calls that fail -------------------------------------------------------------------------------------------- */

static bool call_fails(const char *name)
{
    if (armed.fault != FAULT_CALL || !strikes(&armed.calls))
        return false;
    armed.call = name;
    errno = armed.error;
    return true;
}

#define CALL(name, ...) (call_fails(#name) ? -1 : zero_nvme_system.name(__VA_ARGS__))
static int f_openat(int folder, const char *name, int flags, mode_t mode)
{
    return CALL(openat, folder, name, flags, mode);
}
static int f_unlinkat(int folder, const char *name, int flags)
{
    return CALL(unlinkat, folder, name, flags);
}
static int f_flock(int fd, int operation)
{
    return CALL(flock, fd, operation);
}
static int f_fstatfs(int fd, struct statfs *out)
{
    return CALL(fstatfs, fd, out);
}
static int f_fstat(int fd, struct stat *out)
{
    return CALL(fstat, fd, out);
}
static int f_statx(int fd, const char *name, int flags, unsigned mask, struct statx *out)
{
    return CALL(statx, fd, name, flags, mask, out);
}
static int f_fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    return CALL(fallocate, fd, mode, offset, bytes);
}
static int f_ftruncate(int fd, off_t bytes)
{
    return CALL(ftruncate, fd, bytes);
}
static ssize_t f_pread(int fd, void *buffer, size_t bytes, off_t offset)
{
    return CALL(pread, fd, buffer, bytes, offset);
}
static ssize_t f_pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
    return CALL(pwrite, fd, buffer, bytes, offset);
}

const zero_nvme_system_t fault_system = {
    .openat = f_openat,
    .unlinkat = f_unlinkat,
    .flock = f_flock,
    .fstatfs = f_fstatfs,
    .fstat = f_fstat,
    .statx = f_statx,
    .fallocate = f_fallocate,
    .ftruncate = f_ftruncate,
    .pread = f_pread,
    .pwrite = f_pwrite,
#if defined(HAVE_LIBURING)
    .uring = &fault_uring,
#endif
    .threads = &fault_threads,
};
