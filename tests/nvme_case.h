/* SPDX-License-Identifier: Apache-2.0 */
/* nvme_case.h - what the parts of test_nvme share: a folder, a log that remembers, and a system whose calls fail where
 * a test wants it. */
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
/* The call, which takes `error`, fails with this status, and the sentence has this in it. */
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
/* Whether this machine gives io_uring, and the current folder takes O_DIRECT: what the tests need. */
bool case_uring(void);
bool case_drive(void);
/* All that was logged since case_begin. */
const char *case_log(void);
/* How much of it is warnings and errors. */
int case_warnings(void);

/* Aligned memory of bytes, with a page behind it whose last byte is the last that may be touched; every byte is fill.
 */
char *case_memory(uint64_t bytes, int fill);
void case_free(char *memory, uint64_t bytes);
/* Bytes that tell where they belong and when they were written. */
void case_pattern(char *memory, uint64_t bytes, uint64_t seed);
bool case_has_pattern(const char *memory, uint64_t bytes, uint64_t seed);
bool case_all(const char *memory, uint64_t bytes, int value);

/* Entries of /proc/self/fd or /proc/self/task. */
int case_count(const char *folder);
/* Waits until this process has so many threads (a thread that was joined may still be listed for a moment). */
void case_await_threads(int count);
/* A descriptor of the state file that this process has open, to look at it from behind. */
int case_open_file(void);

/* ---- faults ----------------------------------------------------------------------------------------------------- */

typedef enum fault {
    FAULT_NONE,
    FAULT_ERROR, /* the transfer ends with -errno, nothing moved */
    FAULT_SHORT, /* half of it moves */
    FAULT_ODD,   /* all moves, a few bytes less are reported */
    FAULT_END,   /* 0 bytes */
    FAULT_FLIP,  /* a bit flips on the way in; on the way out the write gets lost */
    FAULT_START, /* the queue cannot start it */
    FAULT_NEXT,  /* the queue breaks while it is under way */
    FAULT_HOLD,  /* it does not end before fault_release */
    FAULT_CALL   /* a call of zero_nvme_system_t fails with errno */
} fault_t;

/* The fault strikes at the operation of this index (from 0): transfers, or for FAULT_CALL calls. times: at so many in a
 * row. */
void fault_arm(fault_t fault, int error, int at, int times);
bool fault_struck(void);
/* Waits until FAULT_HOLD holds one back. */
void fault_await_hold(void);
void fault_release(void);
/* The name of the call that failed last by FAULT_CALL. */
const char *fault_call(void);
extern const zero_nvme_system_t fault_system;

#endif
