/* SPDX-License-Identifier: Apache-2.0 */
/* nvme.c - rates of the nvme tier. It transfers a rank's state as a step does.
 *
 *   bench/nvme FOLDER [MIB [TRANSFER_KIB [DEPTH [uring|threads [plain|registered [BUFFERS_MIB]]]]]]
 *
 * Defaults: 256 1024 16 uring registered 64.
 *
 * Writes a file of MIB MiB from start to end and reads it back. Four buffers of BUFFERS_MIB MiB together take turns.
 * The first round is a warm-up, because a file's space is only reserved until it is written; the second is measured.
 * Prints a line per direction: MB/s (10^6 bytes) and seconds of processor time per GB, checksums included.
 * bench/nvme.sh compares it with fio. */
#define _GNU_SOURCE
#include "offload/nvme.h"
#include "zero/device/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

enum { SLOTS = 4 };

static zero_error_t error;

static void check(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "bench/nvme: %s\n", error.text);
    exit(1);
}

static void say(void *ctx, zero_log_level_t level, const char *text)
{
    (void)ctx, (void)level;
    fprintf(stderr, "# %s\n", text);
}

static double processor(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void pass(zero_nvme_t *n, char *memory, uint64_t size, uint64_t bytes, int write, int print)
{
    zero_nvme_ticket_t tickets[SLOTS] = {0};
    double start = zero_now(), used = processor();
    for (uint64_t at = 0, i = 0; at < bytes + SLOTS * size; at += size, i++) {
        char *slot = memory + i % SLOTS * size;
        if (tickets[i % SLOTS])
            check(zero_nvme_wait(n, tickets[i % SLOTS], 600, &error));
        tickets[i % SLOTS] = 0;
        if (at >= bytes)
            continue;
        uint64_t piece = bytes - at < size ? bytes - at : size;
        check(write ? zero_nvme_write(n, at, slot, piece, &tickets[i % SLOTS], &error)
                    : zero_nvme_read(n, at, slot, piece, &tickets[i % SLOTS], &error));
    }
    double seconds = zero_now() - start;
    if (print)
        printf("%s %.1f %.3f\n", write ? "write" : "read", (double)bytes / seconds * 1e-6,
               (processor() - used) / ((double)bytes * 1e-9));
}

int main(int argc, char **argv)
{
    zero_nvme_options_t o;
    zero_nvme_t *n;
    if (argc < 2) {
        fprintf(
            stderr,
            "usage: bench/nvme FOLDER [MIB [TRANSFER_KIB [DEPTH [uring|threads [plain|registered [BUFFERS_MIB]]]]]]\n");
        return 2;
    }
    uint64_t bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 256) << 20;
    uint64_t room = (argc > 7 ? strtoull(argv[7], NULL, 10) : 64) << 20;
    zero_nvme_options_init(&o);
    o.transfer = (argc > 3 ? strtoull(argv[3], NULL, 10) : 1024) << 10;
    o.depth = argc > 4 ? atoi(argv[4]) : 16;
    o.engine = argc > 5 && !strcmp(argv[5], "threads") ? ZERO_NVME_THREADS : ZERO_NVME_URING;
    o.log = say;
    check(zero_nvme_open(&n, argv[1], 0, bytes, &o, &error));
    char *memory = mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == 0 || memory == MAP_FAILED) {
        fprintf(stderr, "bench/nvme: no memory for buffers of %llu bytes\n", (unsigned long long)room);
        return 1;
    }
    for (uint64_t i = 0; i < room; i++)
        memory[i] = (char)(i * 31);
    if (argc <= 6 || strcmp(argv[6], "plain"))
        check(zero_nvme_register(n, memory, room, &error));
    for (int measured = 0; measured < 2; measured++)
        for (int write = 1; write >= 0; write--)
            pass(n, memory, room / SLOTS, bytes, write, measured);
    zero_nvme_destroy(n);
    munmap(memory, room);
    return 0;
}
