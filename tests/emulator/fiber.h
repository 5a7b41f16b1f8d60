/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.h - stacks between which a host thread switches by itself. The code reports each switch to sanitizers. */
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
    char *stack = nullptr; /* the mapping; NULL for the host thread's own stack */
    const void *bottom = nullptr;
    size_t size = 0;
    fiber *next = nullptr; /* in a list of free fibers */
    void *sanitizer = nullptr;
};

/* Creates a fiber of the calling thread that starts with entry. entry must never return. */
fiber *fiber_create(void (*entry)());
void fiber_destroy(fiber *f);
/* Makes f represent the calling thread's own stack. */
void fiber_adopt(fiber *f);
/* Continues `to`. Returns when a fiber switches back to `from`, the running one. */
void fiber_switch(fiber *from, fiber *to);

#endif
