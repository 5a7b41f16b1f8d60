/* SPDX-License-Identifier: Apache-2.0 */
/* test_nvme.c - state in files: transfers with both engines, and the choice of the engine. nvme_folder.c tests the
 * folder and its lock, nvme_faults.c the failures. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/nvme_case.h"
#include "tests/nvme_suites.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static int first_engine; /* 1 if io_uring is unavailable */

static void do_write(zero_nvme_t *n, uint64_t offset, const char *buffer, uint64_t bytes)
{
    zero_nvme_ticket_t ticket;
    OK(zero_nvme_write(n, offset, buffer, bytes, &ticket, error));
    OK(zero_nvme_wait(n, ticket, 60, error));
}

static void do_read(zero_nvme_t *n, uint64_t offset, char *buffer, uint64_t bytes)
{
    zero_nvme_ticket_t ticket;
    OK(zero_nvme_read(n, offset, buffer, bytes, &ticket, error));
    OK(zero_nvme_wait(n, ticket, 60, error));
}

/* Reads return what was written, for any length, transfer size and depth. A file begins as zeros. A read changes
 * nothing after its bytes. A shorter write leaves zeros after it in its last block. */
START_TEST(what_is_written_is_read)
{
    static const uint64_t sizes[] = {1, 512, 4096, 16383, 16384, 16385, 50000, 1 << 20, (1 << 20) + 1, 5 * 700001};
    static const int depths[] = {1, 3, 16};
    static const uint64_t transfers[] = {ZERO_NVME_BLOCK, 3 * ZERO_NVME_BLOCK, 1 << 20};
    enum { BYTES = 8 << 20, AT = 2 << 20 };
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_counts_t counts;
    uint64_t read = 0, written = 0;
    char *out = case_memory(BYTES, 0), *in = case_memory(BYTES, 0);
    case_begin(&c, _i / 3);
    c.options.depth = depths[_i % 3];
    c.options.transfer = transfers[_i % 3];
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES - 5000, &c.options, error));
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t bytes = sizes[i], offset = AT + i * ZERO_NVME_BLOCK;
        case_pattern(out, bytes, i + 1);
        do_write(n, offset, out, bytes);
        memset(in, 0x5a, BYTES);
        do_read(n, offset, in, bytes);
        ck_assert_msg(case_has_pattern(in, bytes, i + 1), "%llu bytes", (unsigned long long)bytes);
        ck_assert_msg(case_all(in + bytes, BYTES - bytes, 0x5a), "behind %llu bytes", (unsigned long long)bytes);
        uint64_t whole = (bytes + ZERO_NVME_BLOCK - 1) / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK;
        do_read(n, offset, in, whole);
        ck_assert_msg(case_all(in + bytes, whole - bytes, 0), "behind %llu bytes", (unsigned long long)bytes);
        read += bytes + whole;
        written += bytes;
    }
    /* Bytes that were never written, before the data and up to the last byte. */
    memset(in, 1, BYTES);
    do_read(n, 0, in, AT);
    do_read(n, 7 << 20, in + (7 << 20), (1 << 20) - 5000);
    ck_assert(case_all(in, AT, 0));
    ck_assert(case_all(in + (7 << 20), (1 << 20) - 5000, 0));
    zero_nvme_counts(n, &counts);
    ck_assert_str_eq(counts.engine, _i / 3 ? "threads" : "io_uring");
    ck_assert_uint_eq(counts.read, read + AT + (1 << 20) - 5000);
    ck_assert_uint_eq(counts.written, written);
    zero_nvme_destroy(n);
    case_free(out, BYTES);
    case_free(in, BYTES);
    case_end(&c);
}
END_TEST

/* As many requests at a time as possible, of many lengths, waited for in another order, for several rounds; with and
 * without registered memory. */
START_TEST(many_at_a_time)
{
    enum { PIECE = 20 * ZERO_NVME_BLOCK, ROUNDS = 6, BYTES = PIECE * ZERO_NVME_REQUESTS };
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_counts_t counts;
    zero_nvme_ticket_t tickets[ZERO_NVME_REQUESTS], extra;
    uint64_t lengths[ZERO_NVME_REQUESTS];
    char *out = case_memory(BYTES, 0), *in = case_memory(BYTES, 0);
    case_begin(&c, _i / 2);
    c.options.transfer = 4 * ZERO_NVME_BLOCK;
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, error));
    if (_i % 2) {
        FAILS(zero_nvme_register(n, in + 1, PIECE, error), ZERO_ERR_ARG, "multiple of 4096");
        OK(zero_nvme_register(n, in, BYTES, error));
        zero_nvme_counts(n, &counts);
        if (counts.registered == 0) /* threads cannot register memory; a limit may forbid it */
            ck_assert_str_ne(case_log(), "");
        else
            ck_assert_uint_eq(counts.registered, BYTES);
        ck_assert(_i / 2 == 0 || counts.registered == 0);
        FAILS(zero_nvme_register(n, in, BYTES, error), ZERO_ERR_ORDER, "once");
    }
    for (uint64_t round = 0; round < ROUNDS; round++)
        for (int write = 1; write >= 0; write--) {
            for (uint64_t i = 0; i < ZERO_NVME_REQUESTS; i++) {
                if (write) {
                    lengths[i] = 1 + zero_splitmix64(round * 1000 + i) % PIECE;
                    case_pattern(out + i * PIECE, lengths[i], round * 1000 + i);
                    OK(zero_nvme_write(n, i * PIECE, out + i * PIECE, lengths[i], &tickets[i], error));
                } else
                    OK(zero_nvme_read(n, i * PIECE, in + i * PIECE, lengths[i], &tickets[i], error));
            }
            FAILS(zero_nvme_read(n, 0, in, 1, &extra, error), ZERO_ERR_ORDER, "");
            for (uint64_t i = 0; i < ZERO_NVME_REQUESTS; i++)
                OK(zero_nvme_wait(n, tickets[(i * 29 + 7) % ZERO_NVME_REQUESTS], 60, error));
            for (uint64_t i = 0; !write && i < ZERO_NVME_REQUESTS; i++)
                ck_assert_msg(case_has_pattern(in + i * PIECE, lengths[i], round * 1000 + i), "round %llu piece %llu",
                              (unsigned long long)round, (unsigned long long)i);
        }
    zero_nvme_destroy(n);
    case_free(out, BYTES);
    case_free(in, BYTES);
    case_end(&c);
}
END_TEST

/* As in a step: reads u + 1 while u is updated and u - 1 is written, in a ring of three slots. */
START_TEST(ring_of_three_slots)
{
    enum { UNITS = 11, STEPS = 4, MOST = 300000 };
    nvme_case_t c;
    zero_nvme_t *n;
    uint64_t offset[UNITS + 1] = {0}, bytes[UNITS];
    zero_nvme_ticket_t reads[3] = {0}, writes[3] = {0};
    char *slots[3];
    case_begin(&c, _i);
    for (int u = 0; u < UNITS; u++) {
        bytes[u] = (1 + zero_splitmix64((uint64_t)u) % (MOST / 512)) * 512;
        offset[u + 1] = offset[u] + (bytes[u] + ZERO_NVME_BLOCK - 1) / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK;
    }
    for (int s = 0; s < 3; s++)
        slots[s] = case_memory(MOST, 0);
    OK(zero_nvme_open(&n, c.folder, RANK, offset[UNITS], &c.options, error));
    for (int step = 0; step <= STEPS; step++) {
        for (int i = 0; i < UNITS + 1; i++) {
            if (i < UNITS) { /* its slot is free after the write of u - 3 */
                if (writes[i % 3])
                    OK(zero_nvme_wait(n, writes[i % 3], 60, error));
                writes[i % 3] = 0;
                OK(zero_nvme_read(n, offset[i], slots[i % 3], bytes[i], &reads[i % 3], error));
            }
            int u = i - 1;
            if (u < 0)
                continue;
            OK(zero_nvme_wait(n, reads[u % 3], 60, error));
            uint64_t *x = (uint64_t *)slots[u % 3], wrong = 0;
            for (uint64_t k = 0; k < bytes[u] / 8; k++) {
                wrong += x[k] != (uint64_t)step * ((uint64_t)u * 1000003 + k);
                x[k] += (uint64_t)u * 1000003 + k;
            }
            ck_assert_msg(wrong == 0, "step %d unit %d", step, u);
            OK(zero_nvme_write(n, offset[u], slots[u % 3], bytes[u], &writes[u % 3], error));
        }
        for (int s = 0; s < 3; s++, writes[s - 1] = 0)
            OK(zero_nvme_wait(n, writes[s], 60, error));
    }
    zero_nvme_destroy(n);
    for (int s = 0; s < 3; s++)
        case_free(slots[s], MOST);
    case_end(&c);
}
END_TEST

START_TEST(wrong_calls_say_so)
{
    enum { BYTES = 10 * ZERO_NVME_BLOCK + 1 };
    nvme_case_t c;
    zero_nvme_t *n = NULL;
    zero_nvme_ticket_t t, u, v;
    zero_nvme_options_t o;
    char *memory = case_memory(2 * BYTES, 0), *second = memory + 11 * ZERO_NVME_BLOCK;
    case_begin(&c, _i);
    o = c.options;
    o.size = 8;
    FAILS(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error), ZERO_ERR_ARG, "zero_nvme_options_init");
    ck_assert_ptr_null(n);
    o = c.options, o.depth = 0;
    FAILS(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error), ZERO_ERR_ARG, "1 to 256");
    o = c.options, o.depth = 257;
    FAILS(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error), ZERO_ERR_ARG, "1 to 256");
    o = c.options, o.transfer = 10000;
    FAILS(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error), ZERO_ERR_ARG, "multiple of 16384");
    o = c.options, o.timeout_s = 0;
    FAILS(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error), ZERO_ERR_ARG, "positive");
    o = c.options, o.engine = (zero_nvme_engine_t)3;
    FAILS(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error), ZERO_ERR_ARG, "no engine");
    FAILS(zero_nvme_open(&n, c.folder, RANK, 0, &c.options, error), ZERO_ERR_ARG, "0 bytes");
    FAILS(zero_nvme_open(&n, c.folder, RANK, UINT64_MAX, &c.options, error), ZERO_ERR_ARG,
          "18446744073709551615 bytes");
    FAILS(zero_nvme_open(&n, NULL, RANK, BYTES, &c.options, error), ZERO_ERR_ARG, "no folder");

    /* Transfers are held, so that the overlapping ones are known to be running. */
    o = c.options, o.system = &fault_system;
    fault_arm(FAULT_HOLD, 0, 0, 1 << 30);
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &o, error));
    FAILS(zero_nvme_read(n, 0, memory, 0, &t, error), ZERO_ERR_ARG, "0 bytes");
    FAILS(zero_nvme_read(n, 0, memory, BYTES + 1, &t, error), ZERO_ERR_ARG, "outside the file");
    FAILS(zero_nvme_read(n, 11 * ZERO_NVME_BLOCK, memory, 1, &t, error), ZERO_ERR_ARG, "outside the file");
    FAILS(zero_nvme_write(n, UINT64_MAX / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK, memory, 3 * ZERO_NVME_BLOCK, &t, error),
          ZERO_ERR_ARG, "outside the file");
    FAILS(zero_nvme_read(n, 4096, memory, 1, &t, error), ZERO_ERR_ARG, "aligned");
    FAILS(zero_nvme_write(n, 0, memory + 512, 1, &t, error), ZERO_ERR_ARG, "aligned");
    ck_assert_uint_eq(t, 0);
    OK(zero_nvme_write(n, 3 * ZERO_NVME_BLOCK, memory, 2 * ZERO_NVME_BLOCK, &t, error));
    FAILS(zero_nvme_read(n, 4 * ZERO_NVME_BLOCK, second, ZERO_NVME_BLOCK, &u, error), ZERO_ERR_ORDER, "being written");
    FAILS(zero_nvme_write(n, 0, second, 4 * ZERO_NVME_BLOCK, &u, error), ZERO_ERR_ORDER, "being written");
    OK(zero_nvme_read(n, 0, second, 3 * ZERO_NVME_BLOCK, &u, error));
    OK(zero_nvme_read(n, 2 * ZERO_NVME_BLOCK, second + 3 * ZERO_NVME_BLOCK, ZERO_NVME_BLOCK, &v, error));
    FAILS(zero_nvme_write(n, 0, memory + 5 * ZERO_NVME_BLOCK, 1, &t, error), ZERO_ERR_ORDER, "being read");
    ck_assert_uint_eq(t, 0);
    fault_release();
    OK(zero_nvme_wait(n, v, 60, error));
    OK(zero_nvme_wait(n, u, 60, error));
    FAILS(zero_nvme_wait(n, u, 60, error), ZERO_ERR_ARG, "not a request");
    FAILS(zero_nvme_wait(n, 0, 60, error), ZERO_ERR_ARG, "not a request");
    zero_nvme_destroy(n);
    zero_nvme_destroy(NULL);
    case_free(memory, 2 * BYTES);
    case_end(&c);
}
END_TEST

/* If a drive does not answer, waits end, repeatedly, and so does the destroy. The memory may then be freed: if the
 * drive answers later, nothing touches it. */
START_TEST(waits_are_bounded)
{
    enum { BYTES = 8 * ZERO_NVME_BLOCK };
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_ticket_t t, u;
    char *memory = case_memory(BYTES, 0);
    int threads = case_count("/proc/self/task");
    bool wakes = _i % 2;
    case_begin(&c, _i / 2);
    c.options.system = &fault_system;
    c.options.timeout_s = 0.05;
    c.options.depth = 2;
    fault_arm(FAULT_HOLD, 0, 0, 1);
    OK(zero_nvme_open(&n, c.folder, RANK, BYTES, &c.options, error));
    OK(zero_nvme_read(n, 0, memory, BYTES / 2, &t, error));
    fault_await_hold(); /* this transfer is held */
    OK(zero_nvme_read(n, BYTES / 2, memory + BYTES / 2, BYTES / 2, &u, error));
    FAILS(zero_nvme_wait(n, t, 0.05, error), ZERO_ERR_TIMEOUT, "did not finish within 0.05 s");
    FAILS(zero_nvme_wait(n, t, 0, error), ZERO_ERR_TIMEOUT, "rank 7: reading 65536 bytes at offset 0");
    OK(zero_nvme_wait(n, u, 60, error)); /* the other lane continues */
    if (wakes) {
        fault_release();
        OK(zero_nvme_wait(n, t, 60, error));
    }
    zero_nvme_destroy(n);
    ck_assert_msg(case_warnings() == !wakes, "log: %s", case_log());
    case_free(memory, BYTES);
    fault_release();
    case_await_threads(threads);
    case_end(&c);
}
END_TEST

/* io_uring is refused as in containers, by a filter of system calls in this test's process only. */
START_TEST(threads_where_io_uring_is_refused)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
    nvme_case_t c;
    zero_nvme_t *n;
    zero_nvme_counts_t counts;
    char *memory = case_memory(100000, 0);
    case_begin(&c, 0);
    if (first_engine == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
            goto out; /* this kernel has no filters */
        FAILS(zero_nvme_open(&n, c.folder, RANK, 100000, &c.options, error), ZERO_ERR_UNSUPPORTED,
              "containers refuse it");
    } else
        FAILS(zero_nvme_open(&n, c.folder, RANK, 100000, &c.options, error), ZERO_ERR_UNSUPPORTED,
              "io_uring is unavailable");
    c.options.engine = ZERO_NVME_ANY;
    OK(zero_nvme_open(&n, c.folder, RANK, 100000, &c.options, error));
    zero_nvme_counts(n, &counts);
    ck_assert_str_eq(counts.engine, "threads");
    ck_assert_msg(has_names(case_log(), "16"), "log: %s", case_log());
    case_pattern(memory, 100000, 1);
    do_write(n, 0, memory, 100000);
    memset(memory, 0, 100000);
    do_read(n, 0, memory, 100000);
    ck_assert(case_has_pattern(memory, 100000, 1));
    zero_nvme_destroy(n);
out:
    case_free(memory, 100000);
    case_end(&c);
}
END_TEST

START_TEST(memory_is_as_forecast)
{
    zero_nvme_options_t o;
    zero_nvme_options_init(&o);
    ck_assert_uint_eq(zero_nvme_memory(1, NULL), 4096 + 16 * ZERO_NVME_BLOCK);
    o.depth = 3;
    /* 8 bytes for each block of 16 KiB: a page for 512 of them. */
    ck_assert_uint_eq(zero_nvme_memory(512 * ZERO_NVME_BLOCK, &o), 4096 + 3 * ZERO_NVME_BLOCK);
    ck_assert_uint_eq(zero_nvme_memory(512 * ZERO_NVME_BLOCK + 1, &o), 2 * 4096 + 3 * ZERO_NVME_BLOCK);
}
END_TEST

int main(void)
{
    if (!case_drive())
        return 77;
    first_engine = case_uring() ? 0 : 1;
    if (first_engine)
        printf("io_uring is unavailable here: only threads are tested\n");
    Suite *suite = suite_create("nvme");
    TCase *t = tcase_create("transfers");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, what_is_written_is_read, 3 * first_engine, 6);
    tcase_add_loop_test(t, many_at_a_time, 2 * first_engine, 4);
    tcase_add_loop_test(t, ring_of_three_slots, first_engine, 2);
    tcase_add_loop_test(t, wrong_calls_say_so, first_engine, 2);
    tcase_add_loop_test(t, waits_are_bounded, 2 * first_engine, 4);
    tcase_add_test(t, threads_where_io_uring_is_refused);
    tcase_add_test(t, memory_is_as_forecast);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, nvme_folder_case(first_engine));
    suite_add_tcase(suite, nvme_faults_case(first_engine));
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
