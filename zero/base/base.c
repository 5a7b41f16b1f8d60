/* SPDX-License-Identifier: Apache-2.0 */
/* base.c - error messages and names. */
#include "zero/base/base.h"

#include <stdio.h>
#include <time.h>

static zero_status_t fail(zero_error_t *error, zero_status_t status, int32_t reason, int32_t rank, const char *format,
                          va_list args)
{
    /* Formats into a copy, because an argument may be the text that is replaced: "unit 'a': <the old text>". */
    char text[sizeof error->text];
    if (error == NULL)
        return status;
    if (vsnprintf(text, sizeof text, format, args) < 0)
        text[0] = '\0';
    error->status = status;
    error->rank = rank;
    error->reason = reason;
    memcpy(error->text, text, strlen(text) + 1);
    return status;
}

zero_status_t zero_fail(zero_error_t *error, zero_status_t status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail(error, status, ZERO_REASON_NONE, -1, format, args);
    va_end(args);
    return status;
}

zero_status_t zero_fail_reason(zero_error_t *error, zero_status_t status, zero_reason_t reason, int rank,
                               const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fail(error, status, (int32_t)reason, rank, format, args);
    va_end(args);
    return status;
}

zero_status_t zero_fail_from(zero_error_t *error, zero_status_t status, const zero_error_t *cause, const char *format,
                             ...)
{
    va_list args;
    va_start(args, format);
    fail(error, status, cause->reason, cause->rank, format, args);
    va_end(args);
    return status;
}

zero_status_t zero_pass(zero_error_t *error, zero_status_t status, const zero_error_t *why)
{
    if (status == ZERO_OK || error == NULL)
        return status;
    if (error != why)
        *error = *why;
    error->status = status;
    return status;
}

void zero_log(zero_log_fn log, void *ctx, zero_log_level_t level, const char *format, ...)
{
    if (log == NULL)
        return;
    char text[sizeof((zero_error_t *)0)->text];
    va_list args;
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) < 0)
        text[0] = '\0';
    va_end(args);
    log(ctx, level, text);
}

void zero_struct_init(void *given, size_t given_size, const void *own, size_t size)
{
    if (!given || given_size < sizeof given_size)
        return;
    memset(given, 0, given_size);
    memcpy(given, own, given_size < size ? given_size : size);
    memcpy(given, &given_size, sizeof given_size);
}

/* Checks the size in a caller's struct. init: the function that sets it, or NULL. */
static zero_status_t check_size(const void *given, size_t least, const char *type, const char *init,
                                zero_error_t *error)
{
    size_t size;
    char remedy[80];
    if (!given)
        return zero_fail(error, ZERO_ERR_ARG, "%s is NULL, but is required", type);
    memcpy(&size, given, sizeof size);
    if (size >= least && size <= ZERO_STRUCT_MOST)
        return ZERO_OK;
    if (init)
        snprintf(remedy, sizeof remedy, "call %s before you set its members", init);
    else
        snprintf(remedy, sizeof remedy, "set .size = sizeof(%s)", type);
    return zero_fail(error, ZERO_ERR_ARG, "%s has size %zu, but no version of it has %s than %zu bytes: %s", type, size,
                     size < least ? "fewer" : "more", size < least ? least : (size_t)ZERO_STRUCT_MOST, remedy);
}

zero_status_t zero_struct_check(const void *given, size_t least, const char *type, zero_error_t *error)
{
    return check_size(given, least, type, NULL, error);
}

zero_status_t zero_struct_take(void *own, size_t size, const void *given, size_t least, const char *type,
                               const char *init, zero_error_t *error)
{
    size_t given_size;
    zero_status_t status = check_size(given, least, type, init, error);
    if (status != ZERO_OK)
        return status;
    memcpy(&given_size, given, sizeof given_size);
    for (size_t i = size; i < given_size; i++)
        if (((const char *)given)[i] != 0)
            return zero_fail(error, ZERO_ERR_ARG,
                             "%s sets an option that is newer than this library, version %s, which knows %zu of its "
                             "%zu bytes: leave it at its default, or use a newer library",
                             type, ZERO_VERSION, size, given_size);
    memcpy(own, given, given_size < size ? given_size : size);
    memcpy(own, &size, sizeof size);
    return ZERO_OK;
}

void zero_hash_text(uint64_t *hash, const char *text)
{
    size_t n = strlen(text);
    zero_hash_word(hash, n);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, text + i, n - i < 8 ? n - i : 8);
        zero_hash_word(hash, word);
    }
}

const char *zero_version(void)
{
    return ZERO_VERSION;
}

/* The name of index in a table that may have holes; a cast to unsigned makes negative values unknown as well. */
static const char *name_of(const char *const *names, size_t count, unsigned index, const char *unknown)
{
    return index < count && names[index] != NULL ? names[index] : unknown;
}
#define NAME_OF(names, index, unknown) name_of(names, sizeof(names) / sizeof *(names), (unsigned)(index), unknown)

const char *zero_status_name(zero_status_t status)
{
    static const char *const names[] = {
        [ZERO_OK] = "ok",
        [ZERO_ERR_ARG] = "bad argument",
        [ZERO_ERR_ORDER] = "call out of order",
        [ZERO_ERR_MEMORY] = "out of memory",
        [ZERO_ERR_IO] = "input or output failed",
        [ZERO_ERR_FORMAT] = "bad file format",
        [ZERO_ERR_MISMATCH] = "ranks disagree",
        [ZERO_ERR_PEER] = "another rank failed",
        [ZERO_ERR_TIMEOUT] = "timeout",
        [ZERO_ERR_UNSUPPORTED] = "unsupported",
        [ZERO_ERR_PLAN] = "unsafe plan",
        [ZERO_ERR_SYSTEM] = "system error",
    };
    return NAME_OF(names, status, "unknown status");
}

const char *zero_codec_name(zero_codec_t codec)
{
    static const char *const names[] = {"none", "int8", "int4"};
    return (unsigned)codec < sizeof names / sizeof *names ? names[codec] : "?";
}

const char *zero_dtype_name(zero_dtype_t dtype)
{
    static const char *const names[ZERO_DTYPE_COUNT] = {
        [ZERO_FP32] = "fp32", [ZERO_BF16] = "bf16", [ZERO_FP16] = "fp16"};
    return NAME_OF(names, dtype, "?");
}

const char *zero_tier_name(zero_tier_t tier)
{
    static const char *const names[ZERO_TIER_COUNT] = {
        [ZERO_TIER_DEVICE] = "device", [ZERO_TIER_HOST] = "host", [ZERO_TIER_NVME] = "nvme"};
    return NAME_OF(names, tier, "?");
}

const char *zero_kind_name(zero_kind_t kind)
{
    static const char *const names[ZERO_KIND_COUNT] = {
        [ZERO_KIND_PARAMETERS] = "parameters", [ZERO_KIND_GRADIENTS] = "gradients",
        [ZERO_KIND_MASTER] = "master",         [ZERO_KIND_MOMENTS] = "moments",
        [ZERO_KIND_WINDOW] = "window",         [ZERO_KIND_STAGING] = "staging",
        [ZERO_KIND_RINGS] = "rings",           [ZERO_KIND_ACTIVATIONS] = "activations",
        [ZERO_KIND_WORKSPACE] = "workspace",   [ZERO_KIND_CACHE] = "cache",
    };
    return NAME_OF(names, kind, "?");
}

const char *zero_stream_name(zero_stream_id_t id)
{
    static const char *const names[ZERO_STREAM_COUNT] = {"compute",   "gather",  "reduce",    "update",
                                                         "copy",      "host",    "io",        "save",
                                                         "from-prev", "to-next", "from-next", "to-prev"};
    return names[id];
}

uint64_t zero_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}
