/* SPDX-License-Identifier: Apache-2.0 */
/* cuda_case.h - shared by the parts of test_cuda_device: the CUDA device on the emulator. Each test is a separate
 * process. */
#ifndef ZERO_TESTS_CUDA_CASE_H
#define ZERO_TESTS_CUDA_CASE_H

#include "tests/emulator/include/cuda.h"
#include "tests/emulator/include/cuda_runtime_api.h"
#include "zero/device/device.h"

#include <check.h>

#define OK(call)                                                    \
    do {                                                            \
        zero_error_t e_ = {0};                                      \
        zero_error_t *error = &e_;                                  \
        ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, e_.text); \
    } while (0)

#define LENGTH(a) (int)(sizeof(a) / sizeof *(a))

/* The last error that a test provoked. cuda_says checks its sentence. */
extern zero_error_t cuda_why;
void cuda_says(const char *part);

/* Sets the emulator's mode before its first call: whether streams have threads, and one more setting (NULL: none). */
void cuda_emulate(int threads, const char *name, const char *value);

/* A function of the emulator's runtime, which the plugin has opened. Tests call it as the caller's CUDA code would. */
void *cuda_runtime(const char *name);
#define RUNTIME(name) ((__typeof__(name) *)cuda_runtime(#name))

/* These functions abort the test if they fail. */
zero_device_t *cuda_device(int index, void *stream);
zero_stream_t *cuda_stream(zero_device_t *d, zero_stream_id_t id);
zero_event_t *cuda_event(zero_device_t *d);
void *cuda_arena(zero_device_t *d, zero_tier_t tier, uint64_t bytes, zero_arena_t **arena);
/* Copies device memory to the host. */
void cuda_read_back(zero_device_t *d, void *dst, const void *src, uint64_t bytes);

/* A task that copies within or between the tiers; arg is a move_t. */
typedef struct move {
    zero_device_t *device;
    void *dst;
    const void *src;
    uint64_t bytes;
} move_t;
zero_status_t cuda_move(void *ctx, const void *arg, void *native, zero_error_t *error);

/* A task that keeps a CUDA stream busy until *(atomic_bool *)ctx is true. */
zero_status_t cuda_hold(void *ctx, const void *arg, void *native, zero_error_t *error);
/* A task that fails with ZERO_ERR_IO, "task 7 failed". */
zero_status_t cuda_task_fails(void *ctx, const void *arg, void *native, zero_error_t *error);
/* A task that adds 1 to *(atomic_int *)ctx. */
zero_status_t cuda_task_counts(void *ctx, const void *arg, void *native, zero_error_t *error);

/* The parts. */
TCase *cuda_streams_case(void);
TCase *cuda_host_case(void);
TCase *cuda_capture_case(void);

#endif
