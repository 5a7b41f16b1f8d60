/* SPDX-License-Identifier: Apache-2.0 */
/* flat_cuda.c - see flat_levels.h. Tests CUDA's table through a table whose functions copy operands to the device, call
 * CUDA's functions, and copy the results back. Each operand in device memory lies between guard bytes. */
#include "tests/emulated.h"
#include "tests/flat_levels.h"
#include "zero/device/device.h"

#include <check.h>

/* The alignment of operands, and the emulator's mode, if the GPU is emulated. */
typedef struct level {
    const char *name;
    bool odd; /* operands begin one element after a boundary of 128 bytes */
    const char *mode, *order;
} level_t;

static const level_t levels[] = {
    {"cuda", false, "inline", "up"},
    {"cuda-odd", true, "inline", "down"},
    {"cuda-threads", false, "threads", "up"},
};
const char *const flat_levels[] = {"cuda", "cuda-odd", "cuda-threads"};
const int flat_level_count = sizeof flat_levels / sizeof flat_levels[0], flat_most_threads = 0;

enum { ROOM = 32 << 20, BORDER = 128, OPERANDS = 600, PATTERN = 0xa5 };
#define SECONDS 60.0

/* State that the calls of a test share. Each test is a separate process. */
static struct {
    const level_t *level;
    zero_device_t *device;
    zero_stream_t *stream;
    zero_arena_t *arena;
    const zero_flat_ops_t *ops;
    char *host; /* a copy of the bytes around an operand */
} cuda;

#define OK(call)                                                    \
    do {                                                            \
        zero_error_t e_ = {0};                                      \
        zero_error_t *error = &e_;                                  \
        ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, e_.text); \
    } while (0)

/* ---- operands of one call --------------------------------------------------------------------------------------- */

typedef struct operand {
    const void *host;
    uint64_t bytes;
    char *device;
} operand_t;

typedef struct call {
    operand_t operands[OPERANDS];
    int count;
    uint64_t used;
} call_t;

static void *native(void)
{
    return cuda.device->ops->native(cuda.stream);
}

static void move(void *dst, const void *src, uint64_t bytes)
{
    if (bytes > 0)
        OK(cuda.device->ops->copy(cuda.device, native(), dst, src, bytes, error));
    OK(cuda.device->ops->finish(cuda.device, native(), SECONDS, error));
}

/* The device's copy of the host's bytes at p. The same p gives the same copy, also with fewer bytes (parameters that
 * are the masters, with any dtype). */
static void *put(call_t *c, const void *p, uint64_t bytes, uint64_t element)
{
    for (int i = 0; i < c->count; i++)
        if (c->operands[i].host == p) {
            ck_assert_uint_le(bytes, c->operands[i].bytes);
            return c->operands[i].device;
        }
    ck_assert_int_lt(c->count, OPERANDS);
    uint64_t whole = BORDER + bytes + BORDER;
    char *base = (char *)cuda.device->ops->arena_base(cuda.arena) + c->used,
         *device = base + BORDER + (cuda.level->odd ? element : 0);
    c->used += (whole + element + 127) / 128 * 128;
    ck_assert_uint_le(c->used, ROOM);
    memset(cuda.host, PATTERN, BORDER);
    move(device - BORDER, cuda.host, BORDER);
    move(device + bytes, cuda.host, BORDER);
    move(device, p, bytes);
    c->operands[c->count++] = (operand_t){p, bytes, device};
    return device;
}

/* Copies the operand at p back, and checks its guard bytes. */
static void get(call_t *c, void *p)
{
    for (int i = 0; i < c->count; i++) {
        const operand_t *o = &c->operands[i];
        if (o->host != p)
            continue;
        move(p, o->device, o->bytes);
        move(cuda.host, o->device - BORDER, BORDER);
        move(cuda.host + BORDER, o->device + o->bytes, BORDER);
        for (int k = 0; k < 2 * BORDER; k++)
            ck_assert_msg((unsigned char)cuda.host[k] == PATTERN,
                          "%s: the device's memory was written %d bytes %s an operand of %llu", cuda.level->name,
                          k < BORDER ? BORDER - k : k - BORDER + 1, k < BORDER ? "before" : "behind",
                          (unsigned long long)o->bytes);
        return;
    }
    ck_abort_msg("no such operand");
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static void fill_zero(void *dst, uint64_t bytes, int threads, void *unused)
{
    call_t c = {0};
    (void)unused;
    cuda.ops->fill_zero(put(&c, dst, bytes, 1), bytes, threads, native());
    get(&c, dst);
}

static void copy(void *dst, const void *src, uint64_t bytes, int threads, void *unused)
{
    call_t c = {0};
    (void)unused;
    void *from = put(&c, src, bytes, 1);
    cuda.ops->copy(put(&c, dst, bytes, 1), from, bytes, threads, native());
    get(&c, dst);
}

static void cast(void *dst, zero_dtype_t dst_dtype, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                 void *unused)
{
    call_t c = {0};
    (void)unused;
    size_t to = zero_dtype_size(dst_dtype), from = zero_dtype_size(src_dtype);
    void *s = put(&c, src, (uint64_t)count * from, from);
    cuda.ops->cast(put(&c, dst, (uint64_t)count * to, to), dst_dtype, s, src_dtype, count, threads, native());
    get(&c, dst);
}

static void accumulate(float *dst, const void *src, zero_dtype_t src_dtype, int64_t count, int threads, void *unused)
{
    call_t c = {0};
    (void)unused;
    size_t from = zero_dtype_size(src_dtype);
    void *s = put(&c, src, (uint64_t)count * from, from);
    cuda.ops->accumulate(put(&c, dst, (uint64_t)count * 4, 4), s, src_dtype, count, threads, native());
    get(&c, dst);
}

static void sum(void *dst, const void *const *src, int sources, zero_dtype_t dtype, int64_t count, int threads,
                void *unused)
{
    call_t c = {0};
    (void)unused;
    size_t size = zero_dtype_size(dtype);
    const void **s = calloc((size_t)sources, sizeof *s);
    ck_assert_ptr_nonnull(s);
    for (int k = 0; k < sources; k++)
        s[k] = put(&c, src[k], (uint64_t)count * size, size);
    cuda.ops->sum(put(&c, dst, (uint64_t)count * size, size), s, sources, dtype, count, threads, native());
    memset(s, 0xff, (size_t)sources * sizeof *s); /* the call must not use it after it returns */
    free(s);
    get(&c, dst);
}

/* Blocks of codes are aligned to words. */
static void encode(void *dst, zero_codec_t codec, const void *src, zero_dtype_t src_dtype, int64_t count, int threads,
                   void *unused)
{
    call_t c = {0};
    const zero_format_t codes = zero_format_codes(codec);
    (void)unused;
    size_t from = zero_dtype_size(src_dtype);
    void *s = put(&c, src, (uint64_t)count * from, from);
    cuda.ops->encode(put(&c, dst, zero_format_bytes(&codes, count), 4), codec, s, src_dtype, count, threads, native());
    get(&c, dst);
}

static void decode(void *dst, zero_dtype_t dst_dtype, const void *src, zero_codec_t codec, int sources, int64_t count,
                   int threads, void *unused)
{
    call_t c = {0};
    const zero_format_t codes = zero_format_codes(codec);
    (void)unused;
    size_t to = zero_dtype_size(dst_dtype);
    void *s = put(&c, src, zero_format_bytes(&codes, sources * count), 4);
    cuda.ops->decode(put(&c, dst, (uint64_t)count * to, to), dst_dtype, s, codec, sources, count, threads, native());
    get(&c, dst);
}

static void square_sum(double *out, double *scratch, const void *x, zero_dtype_t dtype, int64_t count, int threads,
                       void *unused)
{
    call_t c = {0};
    (void)unused;
    size_t size = zero_dtype_size(dtype);
    uint64_t blocks = ((uint64_t)count + ZERO_NORM_BLOCK - 1) / ZERO_NORM_BLOCK;
    void *s = put(&c, x, (uint64_t)count * size, size);
    double *partial = put(&c, scratch, blocks * 8, 8);
    cuda.ops->square_sum(put(&c, out, 8, 8), partial, s, dtype, count, threads, native());
    get(&c, out);
    get(&c, scratch);
}

static void update(const zero_update_t *u, int count, int threads, void *unused)
{
    call_t c = {0};
    zero_update_t *d = malloc((size_t)count * sizeof *d);
    (void)unused;
    ck_assert_ptr_nonnull(d);
    for (int n = 0; n < count; n++) {
        uint64_t elements = (uint64_t)u[n].count, state = elements * 4;
        if (u[n].rule == ZERO_RULE_ADAMW8)
            state = (elements + ZERO_BLOCK8 - 1) / ZERO_BLOCK8 * sizeof(zero_block8_t);
        d[n] = u[n];
        for (int k = 0; k < 2; k++)
            d[n].state[k] = u[n].state[k] ? put(&c, u[n].state[k], state, 4) : NULL;
        d[n].master = put(&c, u[n].master, elements * 4, 4);
        d[n].grad = put(&c, u[n].grad, elements * zero_dtype_size(u[n].grad_dtype), zero_dtype_size(u[n].grad_dtype));
        uint64_t size = zero_dtype_size(u[n].param_dtype);
        d[n].param = u[n].param ? put(&c, u[n].param, elements * size, size) : NULL;
    }
    cuda.ops->update(d, count, threads, native());
    memset(d, 0xff, (size_t)count * sizeof *d); /* the call must not use it after it returns */
    free(d);
    for (int n = 0; n < count; n++) {
        get(&c, u[n].master);
        for (int k = 0; k < 2; k++)
            if (u[n].state[k])
                get(&c, u[n].state[k]);
        if (u[n].param)
            get(&c, u[n].param);
    }
}

static const zero_flat_ops_t table = {.name = "cuda",
                                      .fill_zero = fill_zero,
                                      .copy = copy,
                                      .cast = cast,
                                      .accumulate = accumulate,
                                      .sum = sum,
                                      .encode = encode,
                                      .decode = decode,
                                      .square_sum = square_sum,
                                      .update = update};

const zero_flat_ops_t *flat_level(const char *name)
{
    cuda.level = NULL;
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++)
        if (strcmp(levels[i].name, name) == 0)
            cuda.level = &levels[i];
    if (!cuda.level)
        return NULL;
    if (cuda.device) /* with CK_FORK=no the emulator keeps the first level's settings; only the alignment changes */
        return &table;
    setenv("ZERO_EMULATOR", cuda.level->mode, 1);
    setenv("ZERO_EMULATOR_ORDER", cuda.level->order, 1);
    setenv("ZERO_EMULATOR_UNLOADED", "refuse", 1);
    OK(zero_device_cuda(&cuda.device, NULL, error));
    OK(cuda.device->ops->stream_create(cuda.device, ZERO_STREAM_COMPUTE, &cuda.stream, error));
    OK(cuda.device->ops->arena_create(cuda.device, ZERO_TIER_DEVICE, ROOM, &cuda.arena, error));
    OK(zero_flat_of(cuda.device, &cuda.ops, error));
    ck_assert_str_eq(cuda.ops->name, "cuda");
    cuda.host = malloc(2 * BORDER);
    ck_assert_ptr_nonnull(cuda.host);
    return &table;
}

int flat_start(void)
{
    return emulated_plugins();
}
