/* SPDX-License-Identifier: Apache-2.0 */
/* block.cc - runs the threads of a kernel on one host thread. A thread runs until it ends or waits. Only a waiting
 * thread keeps a stack, so a kernel without barriers is a loop on a single stack. The order is fixed: first the next
 * ready thread of the warp, then the next thread of the block that has not started, then any other ready thread. If no
 * thread can continue and some remain, they wait for threads that never come. */
#include "tests/emulator/emulator.h"
#include "tests/emulator/fiber.h"

#include <cstdio>
#include <cstdlib>
#include <link.h>
#include <map>
#include <memory>
#include <vector>

extern "C" {
ZERO_EMULATOR_API __thread zero_emulator_indices *zero_emulator_self __attribute__((tls_model("initial-exec"))) =
    nullptr;
}

namespace
{

enum thread_state : uint8_t { UNSTARTED, RUNNING, READY, AT_BARRIER, AT_WARP, DONE };

struct thread {
    thread_state state;
    uint8_t parity; /* of its exchanges in the warp */
    int line;       /* the source line where it waits */
    const char *file;
    fiber *stack;
};

struct warp {
    unsigned ready, arrived;
    const char *file;
    int line;
    uint64_t values[2][32];
};

struct tls_range {
    char *base;
    size_t bytes;
};

struct runner {
    zero_emulator_indices indices = {};
    const zero_emulator_kernel *kernel = nullptr;
    std::vector<thread> threads;
    std::vector<warp> warps;
    int count = 0, started = 0, done = 0, at_barrier = 0, current = 0;
    int barrier = 0; /* the first thread that reached the barrier */
    uint64_t block = 0, blocks = 0;
    bool down = false;
    fiber own;
    fiber *running = nullptr, *spare = nullptr; /* spare: fibers without a thread */
    char *dynamic = nullptr;
    size_t dynamic_room = 0, dynamic_bytes = 0;
    std::map<const void *, tls_range> shared;

    ~runner()
    {
        while (spare) {
            fiber *f = spare;
            spare = f->next;
            fiber_destroy(f);
        }
        free(dynamic);
    }
};

thread_local std::unique_ptr<runner> this_runner;

/* ---- error sentences -------------------------------------------------------------------------------------------- */

struct place_text {
    char text[160];
};

place_text where(const runner *r, int t)
{
    place_text p;
    const thread &x = r->threads[t];
    const char *file = x.file && strrchr(x.file, '/') ? strrchr(x.file, '/') + 1 : x.file;
    if (x.state == DONE)
        snprintf(p.text, sizeof p.text, "thread %d has ended", t);
    else
        snprintf(p.text, sizeof p.text, "thread %d is at the %s of %s:%d", t,
                 x.state == AT_BARRIER ? "__syncthreads" : "shuffle or __syncwarp", file, x.line);
    return p;
}

[[noreturn]] void die(const runner *r, const char *what, int a, int b)
{
    const uint3 &x = r->indices.block;
    emulator_die("kernel %s, block (%u, %u, %u) of %d threads: %s: %s, %s", r->kernel->name, x.x, x.y, x.z, r->count,
                 what, where(r, a).text, where(r, b).text);
}

/* No thread can run: reports two threads that show the reason. */
[[noreturn]] void die_stuck(const runner *r)
{
    int waits = -1, other = -1;
    for (int t = 0; t < r->count; t++)
        if (r->threads[t].state != DONE && waits < 0)
            waits = t;
    const thread &w = r->threads[waits];
    int first = w.state == AT_WARP ? waits / 32 * 32 : 0, last = w.state == AT_WARP ? first + 32 : r->count;
    for (int t = first; t < last && other < 0; t++)
        if (r->threads[t].state != w.state)
            other = t;
    die(r,
        w.state == AT_WARP ? "not all lanes of a warp come to the same shuffle"
                           : "not all threads come to the same barrier",
        waits, other < 0 ? waits : other);
}

/* ---- scheduling ------------------------------------------------------------------------------------------------- */

void begin_block(runner *r)
{
    uint64_t b = r->down ? r->blocks - 1 - r->block : r->block;
    const dim3 &g = r->indices.blocks;
    r->indices.block = {(unsigned)(b % g.x), (unsigned)(b / g.x % g.y), (unsigned)(b / g.x / g.y)};
    r->started = r->done = r->at_barrier = 0;
    for (thread &t : r->threads)
        t = thread();
    for (warp &w : r->warps)
        w.ready = w.arrived = 0;
    if (r->dynamic_bytes)
        memset(r->dynamic, 0xff, r->dynamic_bytes);
}

void set_current(runner *r, int t)
{
    const dim3 &b = r->indices.threads;
    r->current = t;
    r->threads[t].state = RUNNING;
    r->indices.thread = {(unsigned)t % b.x, (unsigned)t / b.x % b.y, (unsigned)t / b.x / b.y};
}

void start_next(runner *r)
{
    int i = r->started++, t = r->down ? r->count - 1 - i : i;
    set_current(r, t);
    r->threads[t].stack = r->running;
}

/* A ready lane of the mask: the next one from lane on, if there is one. */
int choose(const runner *r, unsigned ready, int lane)
{
    if (r->down) {
        unsigned later = ready & ((1u << lane) - 1);
        return 31 - __builtin_clz(later ? later : ready);
    }
    unsigned later = ready & ~((2u << lane) - 1);
    return __builtin_ctz(later ? later : ready);
}

/* The thread to continue. -1: a thread that has not started. -2: none can run. */
int next_thread(const runner *r)
{
    int own = r->current / 32;
    if (r->warps[own].ready)
        return own * 32 + choose(r, r->warps[own].ready, r->current % 32);
    if (r->started < r->count)
        return -1;
    int warps = (int)r->warps.size();
    for (int k = 1; k < warps; k++) {
        int w = r->down ? (own + warps - k) % warps : (own + k) % warps;
        if (r->warps[w].ready)
            return w * 32 + choose(r, r->warps[w].ready, r->down ? 31 : 0);
    }
    return -2;
}

void switch_to(runner *r, fiber *to)
{
    fiber *from = r->running;
    r->running = to;
    fiber_switch(from, to);
}

void resume(runner *r, int t)
{
    r->warps[t / 32].ready &= ~(1u << t % 32);
    set_current(r, t);
    switch_to(r, r->threads[t].stack);
}

/* The loop of each fiber: runs threads until none is left for it. */
void run_threads()
{
    runner *r = this_runner.get();
    for (;;) {
        start_next(r);
        r->kernel->call(r->kernel);
        r->threads[r->current].state = DONE;
        r->done++;
        int t = next_thread(r);
        if (t == -2 && r->done < r->count)
            die_stuck(r);
        if (t == -2 && ++r->block < r->blocks) {
            begin_block(r);
            t = -1;
        }
        if (t == -1)
            continue;
        /* This fiber has no work. The thread that takes it continues at the start of the loop. */
        fiber *self = r->running;
        self->next = r->spare;
        r->spare = self;
        if (t == -2)
            switch_to(r, &r->own);
        else
            resume(r, t);
    }
}

void take_fiber(runner *r)
{
    fiber *f = r->spare;
    if (f)
        r->spare = f->next;
    else
        f = fiber_create(run_threads);
    switch_to(r, f);
}

/* The current thread waits. Others run until one of them makes it ready. */
void wait(runner *r)
{
    int t = next_thread(r);
    if (t == -2)
        die_stuck(r);
    else if (t == -1)
        take_fiber(r);
    else
        resume(r, t);
}

void make_ready(runner *r, int t)
{
    if (t != r->current) {
        r->threads[t].state = READY;
        r->warps[t / 32].ready |= 1u << t % 32;
    }
}

/* ---- static shared memory --------------------------------------------------------------------------------------- */

struct tls_search {
    uintptr_t address;
    tls_range found;
};

int find_tls(dl_phdr_info *info, size_t, void *data)
{
    tls_search *s = (tls_search *)data;
    bool mine = false;
    size_t bytes = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) &p = info->dlpi_phdr[i];
        uintptr_t begin = info->dlpi_addr + p.p_vaddr;
        if (p.p_type == PT_LOAD && s->address >= begin && s->address < begin + p.p_memsz)
            mine = true;
        if (p.p_type == PT_TLS)
            bytes = p.p_memsz;
    }
    /* The main program's block holds other variables besides __shared__ arrays. */
    if (mine && info->dlpi_name && info->dlpi_name[0] && info->dlpi_tls_data)
        s->found = {(char *)info->dlpi_tls_data, bytes};
    return mine;
}

/* Fills shared memory with NaN before a kernel runs. __shared__ arrays are thread-local variables of the kernel's
 * library, and that library has no other thread-local variables. */
void poison_shared(runner *r)
{
    auto at = r->shared.find(r->kernel->address);
    if (at == r->shared.end()) {
        tls_search s = {(uintptr_t)r->kernel->address, {}};
        dl_iterate_phdr(find_tls, &s);
        if (!s.found.base)
            return; /* this host thread has not used it yet, so it does not exist */
        at = r->shared.emplace(r->kernel->address, s.found).first;
    }
    memset(at->second.base, 0xff, at->second.bytes);
}

} // namespace

void emulator_run(const zero_emulator_kernel *kernel, dim3 grid, dim3 block, size_t shared_bytes)
{
    if (!this_runner)
        this_runner = std::make_unique<runner>();
    runner *r = this_runner.get();
    r->kernel = kernel;
    r->indices.blocks = grid;
    r->indices.threads = block;
    r->count = (int)(block.x * block.y * block.z);
    r->threads.resize(r->count);
    r->warps.resize((r->count + 31) / 32);
    r->down = emulator_setup()->down;
    r->block = 0;
    r->blocks = (uint64_t)grid.x * grid.y * grid.z;
    if (shared_bytes > r->dynamic_room) {
        free(r->dynamic);
        r->dynamic_room = (shared_bytes + 1023) / 1024 * 1024;
        r->dynamic = (char *)aligned_alloc(1024, r->dynamic_room);
    }
    r->dynamic_bytes = shared_bytes;
    r->indices.dynamic_shared = shared_bytes ? r->dynamic : nullptr;
    poison_shared(r);

    zero_emulator_self = &r->indices;
    fiber_adopt(&r->own);
    r->running = &r->own;
    begin_block(r);
    take_fiber(r);
    zero_emulator_self = nullptr;
}

/* ---- functions that kernels call -------------------------------------------------------------------------------- */

extern "C" ZERO_EMULATOR_API int zero_emulator_lane(void)
{
    return this_runner->current % 32;
}

extern "C" ZERO_EMULATOR_API void zero_emulator_block_barrier(const char *file, int line)
{
    runner *r = this_runner.get();
    int self = r->current;
    thread &t = r->threads[self];
    t.file = file;
    t.line = line;
    t.state = AT_BARRIER;
    r->at_barrier++;
    if (r->at_barrier == 1)
        r->barrier = self;
    else if (r->threads[r->barrier].line != line || strcmp(r->threads[r->barrier].file, file) != 0)
        die(r, "threads of a block come to different barriers", r->barrier, self);
    if (r->at_barrier < r->count) {
        wait(r);
        return;
    }
    r->at_barrier = 0;
    for (int k = 0; k < r->count; k++)
        make_ready(r, k);
    t.state = RUNNING;
}

extern "C" ZERO_EMULATOR_API const uint64_t *zero_emulator_exchange(unsigned mask, uint64_t value, const char *file,
                                                                    int line)
{
    runner *r = this_runner.get();
    int self = r->current, lane = self % 32, first = self - lane;
    thread &t = r->threads[self];
    warp &w = r->warps[self / 32];
    t.file = file;
    t.line = line;
    t.state = AT_WARP;
    if (mask != 0xffffffffu)
        die(r, "a shuffle or __syncwarp is not of the whole warp (its mask is not 0xffffffff)", self, self);
    if (first + 32 > r->count)
        die(r, "a shuffle or __syncwarp in a warp of fewer than 32 threads", self, self);
    if (w.arrived == 0) {
        w.file = file;
        w.line = line;
    } else if (w.line != line || strcmp(w.file, file) != 0) {
        die(r, "lanes of a warp come to different shuffles", first + __builtin_ctz(w.arrived), self);
    }
    const uint64_t *values = w.values[t.parity];
    w.values[t.parity][lane] = value;
    t.parity ^= 1;
    w.arrived |= 1u << lane;
    if (w.arrived != 0xffffffffu) {
        wait(r);
        return values;
    }
    w.arrived = 0;
    for (int k = first; k < first + 32; k++)
        make_ready(r, k);
    t.state = RUNNING;
    return values;
}
