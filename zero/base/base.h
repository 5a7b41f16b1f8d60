/* SPDX-License-Identifier: Apache-2.0 */
/* base.h - what every folder uses: errors, log, checked arithmetic, dtype conversions, and plain structs that describe
 * what devices and communicators can do. Includes the public header for its types and nothing else of ours. */
#ifndef ZERO_BASE_BASE_H
#define ZERO_BASE_BASE_H

#include "zero/zero.h"

#include <stdarg.h>
#include <string.h>

/* Sets *error (which may be NULL) and returns status: `return zero_fail(error, ZERO_ERR_IO, "cannot open '%s': %s",
 * ...)`. An argument may be the sentence that is replaced. */
zero_status_t zero_fail(zero_error_t *error, zero_status_t status, const char *format, ...) ZERO_PRINTF(3, 4);
/* The same with a reason that a program may act on, and the rank that the failure concerns (-1: none). */
zero_status_t zero_fail_reason(zero_error_t *error, zero_status_t status, zero_reason_t reason, int rank,
                               const char *format, ...) ZERO_PRINTF(5, 6);
/* The same for a failure that another one caused, whose rank and reason it keeps. cause may be error. */
zero_status_t zero_fail_from(zero_error_t *error, zero_status_t status, const zero_error_t *cause, const char *format,
                             ...) ZERO_PRINTF(4, 5);
/* Returns status; where it is a failure, *error (which may be NULL) becomes *why, with this status. */
zero_status_t zero_pass(zero_error_t *error, zero_status_t status, const zero_error_t *why);
/* Calls log(ctx, ...) with the formatted sentence where log is not NULL. */
void zero_log(zero_log_fn log, void *ctx, zero_log_level_t level, const char *format, ...) ZERO_PRINTF(4, 5);

/* Structs of the public header that can grow: each begins with its size_t size, which is that of the header its owner
 * was compiled with. ZERO_UP_TO(type, member): what the first version had, whose last member that is. */
#define ZERO_UP_TO(type, member) (offsetof(type, member) + sizeof((type *)0)->member)
/* No version will have more bytes: what says so was never initialised. */
enum { ZERO_STRUCT_MOST = 1 << 16 };
/* An *_init_size function: own, size bytes of defaults, into given, of which the caller has given_size. What this
 * library does not know becomes 0. */
void zero_struct_init(void *given, size_t given_size, const void *own, size_t size);
/* The caller's struct into own, which holds size bytes of defaults for what the caller's is too old to have.
 * ZERO_ERR_ARG: it is smaller than least or larger than all (not initialised), or asks for something that this library
 * is too old to know. type is its name, and init that of the function that sets its defaults, or NULL: it has none. */
zero_status_t zero_struct_take(void *own, size_t size, const void *given, size_t least, const char *type,
                               const char *init, zero_error_t *error);
/* Whether the library can fill a caller's struct: it has set its size. */
zero_status_t zero_struct_check(const void *given, size_t least, const char *type, zero_error_t *error);

/* Checked arithmetic on non-negative numbers: false on overflow, *out then unspecified. */
static inline bool zero_add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline bool zero_mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool zero_mul_i64(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
/* x rounded up to a multiple of unit (> 0); false on overflow. */
static inline bool zero_round_up(uint64_t x, uint64_t unit, uint64_t *out)
{
    uint64_t r = x % unit;
    return r == 0 ? (*out = x, true) : zero_add_u64(x, unit - r, out);
}

/* Elements: every tensor starts at a multiple of this; a segment is padded to world times this. */
#define ZERO_ALIGN_ELEMENTS 128
/* Elements of a block of the norm, and of the unit in which a partial offload cuts. */
#define ZERO_NORM_BLOCK 4096
/* Bytes: alignment of buffers in an arena. Kinds start at page bounds so that resident pages can be told apart. */
#define ZERO_ALIGN_BYTES 128
#define ZERO_PAGE 4096
/* Bytes: alignment of buffers on the nvme tier. */
#define ZERO_FILE_ALIGN 16384

/* One element, round to nearest even, NaN stays NaN, subnormals kept. */
static inline float zero_bf16_to_fp32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}
static inline uint16_t zero_fp32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((u >> 16) | 0x0040u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
float zero_fp16_to_fp32(uint16_t h);
uint16_t zero_fp32_to_fp16(float f);

/* How elements are stored: in blocks of `block` elements, block_bytes each. Plain formats have one element a block. */
typedef struct zero_format {
    zero_dtype_t dtype; /* of an element; where blocks are coded, of what they decode to */
    int32_t block, block_bytes;
} zero_format_t;
static inline zero_format_t zero_format_plain(zero_dtype_t dtype)
{
    return (zero_format_t){dtype, 1, (int32_t)zero_dtype_size(dtype)};
}
static inline bool zero_format_is_coded(const zero_format_t *format)
{
    return format->block > 1;
}
static inline bool zero_format_same(const zero_format_t *a, const zero_format_t *b)
{
    return a->dtype == b->dtype && a->block == b->block && a->block_bytes == b->block_bytes;
}
/* Bytes of so many elements from a block's start; the last block is whole. */
static inline uint64_t zero_format_bytes(const zero_format_t *format, int64_t elements)
{
    return ((uint64_t)elements + (uint64_t)format->block - 1) / (uint64_t)format->block * (uint64_t)format->block_bytes;
}

/* The most buffers that an optimizer keeps beside the master weights. */
enum { ZERO_MAX_STATES = 2 };

/* What a communicator can do and costs, for the plan. */
typedef struct zero_comm_caps {
    char name[8];  /* "self", "shm", "mpi", "nccl" */
    bool in_place; /* collectives may run in place (send is recv's own slice, recv is send's own slice) */
    bool host_pointers, device_pointers;
    uint64_t ring_bytes; /* shared memory that this rank contributes, per channel */
    int node_ranks;      /* ranks of this communicator on this rank's node: they share its memory */
    bool windows;        /* the device memory that collectives work on has to be arena_create_shareable's */
} zero_comm_caps_t;

/* What a device can do, for the plan. */
typedef struct zero_device_caps {
    char name[8];      /* "cpu", "cuda" */
    bool asynchronous; /* streams run beside the caller */
    bool launches;     /* tasks run on the calling thread and only launch work on a native stream */
    bool host_memory;  /* the host can read and write the device tier */
    uint64_t page;     /* rounding of kinds in an arena, bytes */
} zero_device_caps_t;

/* Streams of an engine. Compute is the caller's (CPU: the calling thread). Each of the others runs its operations in
 * issue order. */
typedef enum zero_stream_id {
    ZERO_STREAM_COMPUTE = 0, /* the caller's kernels; fills and casts of what they write */
    ZERO_STREAM_GATHER,      /* all-gathers */
    ZERO_STREAM_REDUCE,      /* reduce-scatters, accumulation, norms, exchange */
    ZERO_STREAM_UPDATE,      /* optimizer updates of state on the device */
    ZERO_STREAM_COPY,        /* copies between tiers */
    ZERO_STREAM_HOST,        /* optimizer updates of state elsewhere */
    ZERO_STREAM_IO,          /* reads and writes of the nvme tier */
    ZERO_STREAM_COUNT
} zero_stream_id_t;

/* "compute", "gather", ... */
const char *zero_stream_name(zero_stream_id_t id);

/* A clock that never goes back: nanoseconds, and seconds. */
uint64_t zero_now_ns(void);
static inline double zero_now(void)
{
    return 1e-9 * (double)zero_now_ns();
}

/* SplitMix64 (Steele, Lea, Flood 2014): one step of a counter-based generator; good bits from any counter. */
static inline uint64_t zero_splitmix64(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* One hash of many words, which are mixed in one after the other (SplitMix64 as a keyed step). It begins as 0. */
static inline void zero_hash_word(uint64_t *hash, uint64_t word)
{
    *hash = zero_splitmix64(*hash ^ word) + word;
}
static inline void zero_hash_real(uint64_t *hash, double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    zero_hash_word(hash, word);
}
void zero_hash_text(uint64_t *hash, const char *text);

#endif
