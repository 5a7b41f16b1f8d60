/* SPDX-License-Identifier: Apache-2.0 */
/* base.h - basics for every folder: errors, log, checked arithmetic, dtype conversions, and plain structs that describe
 * what devices and communicators can do. Includes nothing of the project but the public header. */
#ifndef ZERO_BASE_BASE_H
#define ZERO_BASE_BASE_H

#include "zero/zero.h"

#include <stdarg.h>
#include <string.h>

/* Sets *error (which may be NULL) and returns status: `return zero_fail(error, ZERO_ERR_IO, "cannot open '%s': %s",
 * ...)`. An argument may be the text that is replaced. */
zero_status_t zero_fail(zero_error_t *error, zero_status_t status, const char *format, ...) ZERO_PRINTF(3, 4);
/* The same with a reason that a program can act on, and the rank that the failure concerns (-1: none). */
zero_status_t zero_fail_reason(zero_error_t *error, zero_status_t status, zero_reason_t reason, int rank,
                               const char *format, ...) ZERO_PRINTF(5, 6);
/* The same for a failure with a cause, whose rank and reason it keeps. cause may be error. */
zero_status_t zero_fail_from(zero_error_t *error, zero_status_t status, const zero_error_t *cause, const char *format,
                             ...) ZERO_PRINTF(4, 5);
/* Returns status. If it is a failure, copies *why with this status to *error, which may be NULL. */
zero_status_t zero_pass(zero_error_t *error, zero_status_t status, const zero_error_t *why);
/* Calls log(ctx, ...) with the formatted sentence unless log is NULL. */
void zero_log(zero_log_fn log, void *ctx, zero_log_level_t level, const char *format, ...) ZERO_PRINTF(4, 5);

/* Structs of the public header that can grow begin with a size_t size: the size in the header that their owner was
 * compiled with. ZERO_UP_TO(type, member): the size of the first version, whose last member is given. */
#define ZERO_UP_TO(type, member) (offsetof(type, member) + sizeof((type *)0)->member)
/* No version will be larger; a larger size means that the struct was not initialized. */
enum { ZERO_STRUCT_MOST = 1 << 16 };
/* For *_init_size functions: copies own, size bytes of defaults, to given, which has given_size bytes. Members that
 * this library does not know become 0. */
void zero_struct_init(void *given, size_t given_size, const void *own, size_t size);
/* Copies the caller's struct to own, which holds size bytes of defaults; they remain for members that the caller's
 * version lacks. ZERO_ERR_ARG: the struct is smaller than least, or too large (not initialized), or sets a member that
 * is newer than this library. type is its name. init names the function that sets its defaults; NULL: there is none. */
zero_status_t zero_struct_take(void *own, size_t size, const void *given, size_t least, const char *type,
                               const char *init, zero_error_t *error);
/* Checks that the caller has set the size of a struct that the library fills. */
zero_status_t zero_struct_check(const void *given, size_t least, const char *type, zero_error_t *error);

/* Checked arithmetic on non-negative numbers: false on overflow; *out is then unspecified. */
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
/* Rounds x up to a multiple of unit (> 0); false on overflow. */
static inline bool zero_round_up(uint64_t x, uint64_t unit, uint64_t *out)
{
    uint64_t r = x % unit;
    return r == 0 ? (*out = x, true) : zero_add_u64(x, unit - r, out);
}

/* In elements: every tensor starts at a multiple of this; segments are padded to a multiple of world times this. */
#define ZERO_ALIGN_ELEMENTS 128
/* In elements: a block of the norm, and the granularity of a partial offload. */
#define ZERO_NORM_BLOCK 4096
/* In bytes: alignment of buffers in an arena. Kinds start at page boundaries, to count their resident pages apart. */
#define ZERO_ALIGN_BYTES 128
#define ZERO_PAGE 4096
/* In bytes: alignment of buffers on the nvme tier. */
#define ZERO_FILE_ALIGN 16384

/* One element: rounds to nearest even, keeps NaN and subnormals. */
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

/* x[i] of any dtype in fp32, which is exact. */
static inline float zero_element(const void *x, int64_t i, zero_dtype_t dtype)
{
    switch (dtype) {
    case ZERO_BF16:
        return zero_bf16_to_fp32(((const uint16_t *)x)[i]);
    case ZERO_FP16:
        return zero_fp16_to_fp32(((const uint16_t *)x)[i]);
    default:
        return ((const float *)x)[i];
    }
}
/* x[i] = value, rounded once. */
static inline void zero_element_set(void *x, int64_t i, zero_dtype_t dtype, float value)
{
    switch (dtype) {
    case ZERO_BF16:
        ((uint16_t *)x)[i] = zero_fp32_to_bf16(value);
        break;
    case ZERO_FP16:
        ((uint16_t *)x)[i] = zero_fp32_to_fp16(value);
        break;
    default:
        ((float *)x)[i] = value;
    }
}

/* "none", "int8" or "int4"; "?" for another number. */
const char *zero_codec_name(zero_codec_t codec);

/* How elements are stored: in blocks of `block` elements, block_bytes each. Plain formats have one element per block.
 */
typedef struct zero_format {
    zero_dtype_t dtype; /* of an element; for coded blocks, of a decoded element */
    int32_t block, block_bytes;
    zero_codec_t codec; /* of blocks that a codec has coded; NONE: elements are plain, or an optimizer's own codes */
} zero_format_t;
static inline zero_format_t zero_format_plain(zero_dtype_t dtype)
{
    return (zero_format_t){dtype, 1, (int32_t)zero_dtype_size(dtype), ZERO_CODEC_NONE};
}
/* Blocks of a codec: a scale, and the codes of ZERO_CODEC_BLOCK elements. */
enum { ZERO_CODEC_BLOCK = ZERO_ALIGN_ELEMENTS };
static inline zero_format_t zero_format_codes(zero_codec_t codec)
{
    int32_t codes = codec == ZERO_CODEC_INT4 ? ZERO_CODEC_BLOCK / 2 : ZERO_CODEC_BLOCK;
    return (zero_format_t){ZERO_FP32, ZERO_CODEC_BLOCK, (int32_t)sizeof(float) + codes, codec};
}
static inline bool zero_format_is_coded(const zero_format_t *format)
{
    return format->block > 1;
}
static inline bool zero_format_same(const zero_format_t *a, const zero_format_t *b)
{
    return a->dtype == b->dtype && a->block == b->block && a->block_bytes == b->block_bytes && a->codec == b->codec;
}
/* Bytes of this many elements, from the start of a block; the last block counts whole. */
static inline uint64_t zero_format_bytes(const zero_format_t *format, int64_t elements)
{
    return ((uint64_t)elements + (uint64_t)format->block - 1) / (uint64_t)format->block * (uint64_t)format->block_bytes;
}

/* The maximum number of buffers that an optimizer keeps besides the master weights. */
enum { ZERO_MAX_STATES = 2 };

/* Abilities and costs of a communicator, for the plan. */
typedef struct zero_comm_caps {
    char name[8];  /* "self", "shm", "mpi", "nccl" */
    bool in_place; /* collectives may run in place (send is recv's own slice, recv is send's own slice) */
    bool host_pointers, device_pointers;
    uint64_t ring_bytes; /* shared memory that this rank contributes, per channel */
    int node_ranks;      /* ranks of this communicator on this rank's node: they share its memory */
    bool windows;        /* collectives need device memory from arena_create_shareable */
} zero_comm_caps_t;

/* Abilities of a device, for the plan. */
typedef struct zero_device_caps {
    char name[8];      /* "cpu", "cuda" */
    bool asynchronous; /* streams run concurrently with the caller */
    bool launches;     /* tasks run on the calling thread and only launch work on a native stream */
    bool host_memory;  /* the host can read and write the device tier */
    uint64_t page;     /* kinds in an arena are rounded up to this many bytes */
} zero_device_caps_t;

/* Streams of an engine. Compute belongs to the caller (CPU: the calling thread). Each of the others runs its operations
 * in issue order. */
typedef enum zero_stream_id {
    ZERO_STREAM_COMPUTE = 0, /* the caller's kernels; fills and casts of their output */
    ZERO_STREAM_GATHER,      /* all-gathers */
    ZERO_STREAM_REDUCE,      /* reduce-scatters, accumulation, norms, exchange */
    ZERO_STREAM_UPDATE,      /* optimizer updates of state on the device */
    ZERO_STREAM_COPY,        /* copies between tiers */
    ZERO_STREAM_HOST,        /* optimizer updates of state on other tiers */
    ZERO_STREAM_IO,          /* reads and writes of the nvme tier */
    ZERO_STREAM_SAVE,        /* writes of a checkpoint */
    ZERO_STREAM_FROM_PREV,   /* links of a pipeline: activations from the stage before, */
    ZERO_STREAM_TO_NEXT,     /* and to the next one; */
    ZERO_STREAM_FROM_NEXT,   /* gradients of them from the next stage, */
    ZERO_STREAM_TO_PREV,     /* and to the one before */
    ZERO_STREAM_COUNT
} zero_stream_id_t;

/* "compute", "gather", ... */
const char *zero_stream_name(zero_stream_id_t id);

/* A monotonic clock, in nanoseconds and in seconds. */
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

/* Mixes a word into a hash (SplitMix64 as a keyed step). A hash begins as 0. */
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
