/* SPDX-License-Identifier: Apache-2.0 */
/* fiber.cc - see fiber.h. */
#include "tests/emulator/fiber.h"
#include "tests/emulator/emulator.h"

#include <cerrno>
#include <sys/mman.h>

#if defined(EMULATOR_ASAN)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

/* A fiber touches only a few of these pages. The guard page below them is inaccessible. */
static const size_t stack_bytes = 256 << 10, guard_bytes = 4096;

/* The fiber that switched here. The fiber that now runs finishes the switch for it. */
static thread_local fiber *switched_from;
static thread_local void (*fiber_entry)();

static void arrived(fiber *self)
{
#if defined(EMULATOR_ASAN)
    fiber *from = switched_from;
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(self ? self->sanitizer : nullptr, &bottom, &size);
    if (!from->stack) {
        from->bottom = bottom;
        from->size = size;
    }
#else
    (void)self;
#endif
}

#if defined(__x86_64__)

/* Saves the registers that a call must preserve, and the stack pointer. Loads those of the other fiber. */
extern "C" void emulator_switch(void **save, void *load);
asm(R"(
.text
.p2align 4
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulator_switch, .-emulator_switch
)");

#endif

static void begin()
{
    arrived(nullptr);
    fiber_entry();
}

fiber *fiber_create(void (*entry)())
{
    fiber *f = new fiber;
    f->stack = (char *)mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->stack == MAP_FAILED || mprotect(f->stack, guard_bytes, PROT_NONE) != 0)
        emulator_die("emulator: no memory for the stack of a thread: %s", strerror(errno));
    f->bottom = f->stack + guard_bytes;
    f->size = stack_bytes;
    fiber_entry = entry;
#if defined(__x86_64__)
    void **top = (void **)(f->stack + guard_bytes + stack_bytes);
    top[-1] = nullptr;       /* the return address of begin, which never returns */
    top[-2] = (void *)begin; /* the switch returns here, with the stack as after a call */
    f->stack_pointer = top - 8;
#else
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack + guard_bytes;
    f->context.uc_stack.ss_size = stack_bytes;
    f->context.uc_link = nullptr;
    makecontext(&f->context, begin, 0);
#endif
#if defined(EMULATOR_TSAN)
    f->sanitizer = __tsan_create_fiber(0);
#endif
    return f;
}

void fiber_destroy(fiber *f)
{
#if defined(EMULATOR_TSAN)
    __tsan_destroy_fiber(f->sanitizer);
#endif
    munmap(f->stack, guard_bytes + stack_bytes);
    delete f;
}

void fiber_adopt(fiber *f)
{
    *f = fiber();
#if defined(EMULATOR_TSAN)
    f->sanitizer = __tsan_get_current_fiber();
#endif
}

void fiber_switch(fiber *from, fiber *to)
{
    switched_from = from;
#if defined(EMULATOR_ASAN)
    __sanitizer_start_switch_fiber(&from->sanitizer, to->bottom, to->size);
#endif
#if defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(to->sanitizer, 0);
#endif
#if defined(__x86_64__)
    emulator_switch(&from->stack_pointer, to->stack_pointer);
#else
    swapcontext(&from->context, &to->context);
#endif
    arrived(from);
}
