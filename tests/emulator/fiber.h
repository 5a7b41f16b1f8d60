/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.h - stacks that a host thread switches between by itself. Sanitizers are told of each switch. */
#ifndef ZERO_EMULATOR_FIBER_H
#define ZERO_EMULATOR_FIBER_H

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATOR_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define EMULATOR_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define EMULATOR_TSAN 1
#endif
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct fiber {
#if defined(__x86_64__)
    void *stack_pointer = nullptr;
#else
    ucontext_t context;
#endif
    char *stack = nullptr; /* what was mapped; NULL for the host thread's own */
    const void *bottom = nullptr;
    size_t size = 0;
    fiber *next = nullptr; /* in a list of free ones */
    void *sanitizer = nullptr;
};

/* A fiber of the calling thread that begins with entry, which must never return. */
fiber *fiber_create(void (*entry)());
void fiber_destroy(fiber *f);
/* Makes f stand for the calling thread's own stack. */
void fiber_adopt(fiber *f);
/* Goes on with `to`; returns when somebody switches back to `from`, the running one. */
void fiber_switch(fiber *from, fiber *to);

#endif
