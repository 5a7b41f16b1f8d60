/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_case.h - shared by the parts of test_nvme: a folder, a log that keeps its lines, and system calls that fail on
 * demand. */
#ifndef ZERO_TESTS_NVME_CASE_H
#define ZERO_TESTS_NVME_CASE_H

#include "tests/expect.h"
#include "offload/nvme.h"
#include "offload/nvme_system.h"

#include <check.h>

#define OK(call)                                                    \
    do {                                                            \
        zero_error_t e_ = {0};                                      \
        zero_error_t *error = &e_;                                  \
        ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, e_.text); \
    } while (0)
/* The call, which takes `error`, fails with this status, and the sentence contains part. */
#define FAILS(call, wanted, part)                                                              \
    do {                                                                                       \
        zero_error_t e_ = {0};                                                                 \
        zero_error_t *error = &e_;                                                             \
        zero_status_t status_ = (call);                                                        \
        ck_assert_msg(status_ == (wanted), "%s: status %d, %s", #call, (int)status_, e_.text); \
        ck_assert_msg(has_names(e_.text, (part)), "'%s' is not in '%s'", (part), e_.text);     \
    } while (0)

enum { RANK = 7 };

/* A new empty folder on a drive, removed by case_end, and default options with a log. The engine is io_uring (0) or
 * threads (1). */
typedef struct nvme_case {
    char folder[256];
    zero_nvme_options_t options;
} nvme_case_t;
void case_begin(nvme_case_t *c, int engine);
/* The folder must be empty. */
void case_end(nvme_case_t *c);
/* Whether this machine has io_uring, and the current folder supports O_DIRECT; the tests need both. */
bool case_uring(void);
bool case_drive(void);
/* Everything that was logged since case_begin. */
const char *case_log(void);
/* The number of warnings and errors in the log. */
int case_warnings(void);

/* Aligned memory of `bytes` bytes. An inaccessible page follows it. Every byte is fill. */
char *case_memory(uint64_t bytes, int fill);
void case_free(char *memory, uint64_t bytes);
/* Fills memory with bytes that show their position and the seed. */
void case_pattern(char *memory, uint64_t bytes, uint64_t seed);
bool case_has_pattern(const char *memory, uint64_t bytes, uint64_t seed);
bool case_all(const char *memory, uint64_t bytes, int value);

/* Entries of /proc/self/fd or /proc/self/task. */
int case_count(const char *folder);
/* Waits until this process has this many threads (a joined thread may still be listed for a moment). */
void case_await_threads(int count);
/* Another descriptor of the state file that this process has open, to inspect the file. */
int case_open_file(void);

/* ---- faults ----------------------------------------------------------------------------------------------------- */

typedef enum fault {
    FAULT_NONE,
    FAULT_ERROR, /* the transfer ends with -errno and moves nothing */
    FAULT_SHORT, /* half of the bytes move */
    FAULT_ODD,   /* all bytes move, but it reports a few less */
    FAULT_END,   /* it reports 0 bytes */
    FAULT_FLIP,  /* a read flips a bit; a write is lost */
    FAULT_START, /* the queue cannot start the transfer */
    FAULT_NEXT,  /* the queue breaks while the transfer runs */
    FAULT_HOLD,  /* it does not end before fault_release */
    FAULT_CALL   /* a call of zero_nvme_system_t fails with errno */
} fault_t;

/* The fault hits the operation with this index (from 0), and times in a row: transfers, or calls for FAULT_CALL. */
void fault_arm(fault_t fault, int error, int at, int times);
bool fault_struck(void);
/* Waits until FAULT_HOLD holds a transfer. */
void fault_await_hold(void);
void fault_release(void);
/* The name of the call that FAULT_CALL made fail last. */
const char *fault_call(void);
extern const zero_nvme_system_t fault_system;

#endif
