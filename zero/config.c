/* SPDX-License-Identifier: Apache-2.0 */
/* config.c - the table of options, and what it drives: defaults, checks, the plan's copy and its hash. */
#include "zero/config.h"
#include "optim/rules.h"
#include "zero/comm/comm.h"
#include "zero/device/device.h"

#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- names of values -------------------------------------------------------------------------------------------- */

static const char *sharding_name(int value)
{
    return value == ZERO_FULL ? "full" : value == ZERO_SHARDED ? "sharded" : "?";
}
static const char *tier_name(int value)
{
    return zero_tier_name((zero_tier_t)value);
}
static const char *reduce_name(int value)
{
    return value == ZERO_REDUCE_EVERY ? "every" : value == ZERO_REDUCE_LAST ? "last" : "?";
}
static const char *dtype_name(int value)
{
    return zero_dtype_name((zero_dtype_t)value);
}
static const char *codec_name(int value)
{
    return zero_codec_name((zero_codec_t)value);
}
static const char *rule_name(int value)
{
    return value >= 0 && value < ZERO_RULES ? zero_rule((zero_rule_t)value)->name : "?";
}

static const char *schedule_name(int value)
{
    return zero_schedule_name((zero_schedule_t)value);
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

#define RANK(member) #member, ZERO_SCOPE_RANK, offsetof(zero_config_t, member), 0
#define RANKS(member) #member, ZERO_SCOPE_RANKS, offsetof(zero_config_t, member), 0
#define PLAN(member) #member, ZERO_SCOPE_PLAN, offsetof(zero_config_t, member), offsetof(zero_spec_t, member)
#define ANY -INFINITY, INFINITY
#define POSITIVE 0x1p-1074, DBL_MAX     /* from the smallest positive number to the largest finite one */
#define BELOW_1 0, 0x1.fffffffffffffp-1 /* up to the largest number below 1 */
#define NORMAL FLT_MIN, FLT_MAX         /* positive, and not subnormal in fp32 */
#define POINTER ZERO_FIELD_POINTER, 0, ANY, NULL, NULL
#define SHARDING ZERO_FIELD_ENUM, ZERO_SHARDED, 0, ZERO_SHARDED, "ZERO_FULL or ZERO_SHARDED", sharding_name
#define TIER                                                                                                         \
    ZERO_FIELD_ENUM, ZERO_TIER_DEVICE, 0, ZERO_TIER_COUNT - 1, "ZERO_TIER_DEVICE, ZERO_TIER_HOST or ZERO_TIER_NVME", \
        tier_name
#define RESERVED ZERO_FIELD_INT, 0, 0, 0, "0: it is reserved", NULL

static const zero_field_t fields[] = {
    {RANK(comm), POINTER},
    {RANK(device), POINTER},
    {RANK(plan_world), ZERO_FIELD_INT, 0, 0, ZERO_MAX_WORLD, "0 to train, or the number of ranks to plan for", NULL},
    {PLAN(parameters.sharding), SHARDING},
    {PLAN(parameters.tier), TIER},
    {PLAN(parameters.group), RESERVED},
    {PLAN(parameters.window), RESERVED},
    {PLAN(gradients.sharding), SHARDING},
    {PLAN(gradients.tier), TIER},
    {PLAN(gradients.group), RESERVED},
    {PLAN(gradients.window), RESERVED},
    {PLAN(optimizer.sharding), SHARDING},
    {PLAN(optimizer.tier), TIER},
    {PLAN(optimizer.group), RESERVED},
    {PLAN(optimizer.window), RESERVED},
    {PLAN(window), ZERO_FIELD_INT, 2, 1, INT_MAX, "at least 1: the number of units gathered at once", NULL},
    {PLAN(reduce), ZERO_FIELD_ENUM, ZERO_REDUCE_EVERY, 0, ZERO_REDUCE_LAST, "ZERO_REDUCE_EVERY or ZERO_REDUCE_LAST",
     reduce_name},
    {PLAN(micro_steps), ZERO_FIELD_INT, 1, 1, INT_MAX, "at least 1: the most micro-steps in a step", NULL},
    {PLAN(reduce_dtype), ZERO_FIELD_ENUM, ZERO_FP32, 0, ZERO_BF16, "ZERO_FP32 or ZERO_BF16", dtype_name},
    {PLAN(persist_bytes), ZERO_FIELD_BYTES, 65536, 0, INFINITY, "at least 0", NULL},
    {RANKS(clip), ZERO_FIELD_REAL, 1, 0, DBL_MAX, "at least 0 (0 turns clipping off)", NULL},
    {RANKS(grad_scale), ZERO_FIELD_REAL, 1, POSITIVE, "positive", NULL},
    {RANKS(rule), ZERO_FIELD_ENUM, ZERO_RULE_ADAMW, 0, ZERO_RULES - 1, "one of zero_rule_t", rule_name},
    {RANKS(beta1), ZERO_FIELD_REAL, 0.9, BELOW_1, "at least 0 and less than 1", NULL},
    {RANKS(beta2), ZERO_FIELD_REAL, 0.95, BELOW_1, "at least 0 and less than 1", NULL},
    {RANKS(eps), ZERO_FIELD_REAL, 1e-8, 0, DBL_MAX, "positive", NULL},
    {RANKS(weight_decay), ZERO_FIELD_REAL, 0.1, 0, DBL_MAX, "at least 0", NULL},
    {RANK(memory_limit), ZERO_FIELD_BYTES, 0, ANY, NULL, NULL},
    {PLAN(offload_ratio), ZERO_FIELD_REAL, 1, 0, 1, "from 0 to 1: the share of the optimizer state", NULL},
    {RANK(nvme_path), POINTER},
    {RANK(timeout_s), ZERO_FIELD_REAL, 600, POSITIVE, "a positive number of seconds", NULL},
    {RANK(log), POINTER},
    {RANK(log_ctx), POINTER},
    {RANK(update), POINTER},
    {RANK(update_ctx), POINTER},
    {RANKS(update_states), ZERO_FIELD_INT, 0, 0, 2, "0 to 2, and 0 without config.update", NULL},
    {RANKS(check_order), ZERO_FIELD_SWITCH, true, false, true, NULL, NULL},
    {PLAN(guard), ZERO_FIELD_SWITCH, false, false, true, NULL, NULL},
    {RANKS(momentum), ZERO_FIELD_REAL, 0.95, BELOW_1, "at least 0 and less than 1", NULL},
    {RANK(matrix), POINTER},
    {RANK(matrix_ctx), POINTER},
    {RANK(name_change), POINTER},
    {RANK(name_change_ctx), POINTER},
    {PLAN(saves), ZERO_FIELD_SWITCH, false, false, true, NULL, NULL},
    {RANKS(loss_scale), ZERO_FIELD_REAL, 1, NORMAL, "a positive number that fp32 can hold", NULL},
    {RANKS(growth_interval), ZERO_FIELD_INT, 0, 0, INT_MAX, "at least 0 (0: the loss scale is fixed)", NULL},
    {RANKS(growth_factor), ZERO_FIELD_REAL, 2, 0x1.0000000000001p0, FLT_MAX, "above 1", NULL},
    {RANKS(backoff_factor), ZERO_FIELD_REAL, 0.5, 0x1p-1074, 0x1.fffffffffffffp-1, "above 0 and below 1", NULL},
    {RANKS(hysteresis), ZERO_FIELD_INT, 1, 1, INT_MAX, "at least 1: the number of skipped steps", NULL},
    {RANKS(min_loss_scale), ZERO_FIELD_REAL, 0x1p-24, NORMAL, "a positive number that fp32 can hold", NULL},
    {PLAN(saves_frozen), ZERO_FIELD_SWITCH, true, false, true, NULL, NULL},
    {PLAN(mesh.pipe), ZERO_FIELD_INT, 1, 1, ZERO_MAX_WORLD, "at least 1: the number of stages of a pipeline", NULL},
    {PLAN(mesh.replicas), ZERO_FIELD_INT, 1, 1, ZERO_MAX_WORLD, "at least 1: the number of replicas", NULL},
    {PLAN(mesh.context), ZERO_FIELD_INT, 1, 1, ZERO_MAX_WORLD,
     "at least 1: the number of ranks that compute parts of the same sequences", NULL},
    {PLAN(mesh.tensor), ZERO_FIELD_INT, 1, 1, ZERO_MAX_WORLD,
     "at least 1: the number of ranks that compute a layer together", NULL},
    {PLAN(mesh.node), ZERO_FIELD_INT, 0, 0, ZERO_MAX_WORLD, "0, or the number of ranks of a node", NULL},
    {PLAN(gather_codec), ZERO_FIELD_ENUM, ZERO_CODEC_NONE, 0, ZERO_CODEC_INT8, "ZERO_CODEC_NONE or ZERO_CODEC_INT8",
     codec_name},
    {PLAN(reduce_codec), ZERO_FIELD_ENUM, ZERO_CODEC_NONE, 0, ZERO_CODEC_INT4,
     "ZERO_CODEC_NONE, ZERO_CODEC_INT8 or ZERO_CODEC_INT4", codec_name},
    {PLAN(schedule), ZERO_FIELD_ENUM, ZERO_SCHEDULE_1F1B, 0, ZERO_SCHEDULES - 1, "one of zero_schedule_t",
     schedule_name},
};
enum { FIELDS = sizeof fields / sizeof *fields };
_Static_assert((int)FIELDS <= (int)ZERO_CONFIG_MOST, "ranks send a word for each field");

const zero_field_t *zero_config_field(int index)
{
    return index >= 0 && index < FIELDS ? &fields[index] : NULL;
}

/* ---- values ----------------------------------------------------------------------------------------------------- */

_Static_assert(sizeof(zero_sharding_t) == sizeof(int) && sizeof(zero_tier_t) == sizeof(int) &&
                   sizeof(zero_reduce_t) == sizeof(int) && sizeof(zero_dtype_t) == sizeof(int) &&
                   sizeof(zero_rule_t) == sizeof(int) && sizeof(zero_codec_t) == sizeof(int) &&
                   sizeof(zero_schedule_t) == sizeof(int),
               "an enum is read and written as an int");

typedef union value {
    bool flag;
    int whole;
    int64_t bytes;
    double real;
    void *pointer;
} value_t;

static size_t size_of(const zero_field_t *field)
{
    static const size_t sizes[] = {
        [ZERO_FIELD_INT] = sizeof(int),       [ZERO_FIELD_ENUM] = sizeof(int),    [ZERO_FIELD_SWITCH] = sizeof(bool),
        [ZERO_FIELD_BYTES] = sizeof(int64_t), [ZERO_FIELD_REAL] = sizeof(double), [ZERO_FIELD_POINTER] = sizeof(void *),
        [ZERO_FIELD_HASH] = sizeof(uint64_t),
    };
    return sizes[field->type];
}

uint64_t zero_field_value(const zero_field_t *field, const zero_config_t *config)
{
    value_t v = {.bytes = 0};
    memcpy(&v, (const char *)config + field->offset, size_of(field));
    if (field->type == ZERO_FIELD_POINTER)
        return 0;
    if (field->type == ZERO_FIELD_SWITCH)
        return v.flag;
    return (uint64_t)(size_of(field) == sizeof v.whole ? v.whole : v.bytes);
}

void zero_field_set(const zero_field_t *field, zero_config_t *config, double number)
{
    value_t v = {.bytes = 0};
    if (field->type == ZERO_FIELD_REAL)
        v.real = number;
    else if (field->type == ZERO_FIELD_SWITCH)
        v.flag = number != 0;
    else if (size_of(field) == sizeof v.whole)
        v.whole = (int)number;
    else
        v.bytes = (int64_t)number;
    memcpy((char *)config + field->offset, &v, size_of(field));
}

static double real_of(uint64_t value)
{
    double real;
    memcpy(&real, &value, sizeof real);
    return real;
}

zero_field_text_t zero_field_text(const zero_field_t *field, uint64_t value)
{
    zero_field_text_t t;
    switch (field->type) {
    case ZERO_FIELD_INT:
    case ZERO_FIELD_POINTER:
        snprintf(t.s, sizeof t.s, "%lld", (long long)value);
        break;
    case ZERO_FIELD_ENUM:
        snprintf(t.s, sizeof t.s, "%s", field->value_name((int)value));
        break;
    case ZERO_FIELD_SWITCH:
        snprintf(t.s, sizeof t.s, "%s", value ? "true" : "false");
        break;
    case ZERO_FIELD_BYTES:
        snprintf(t.s, sizeof t.s, "%lld bytes", (long long)value);
        break;
    case ZERO_FIELD_REAL:
        for (int digits = 6; digits <= 17; digits++) {
            snprintf(t.s, sizeof t.s, "%.*g", digits, real_of(value));
            if (strtod(t.s, NULL) == real_of(value))
                break;
        }
        break;
    case ZERO_FIELD_HASH:
        snprintf(t.s, sizeof t.s, "%016llx", (unsigned long long)value);
        break;
    }
    return t;
}

/* ---- what the table drives -------------------------------------------------------------------------------------- */

zero_status_t zero_config_stage(zero_config_t *config, int stage)
{
    if (!config || stage < 0 || stage > 3)
        return ZERO_ERR_ARG;
    const zero_row_t full = {.sharding = ZERO_FULL}, sharded = {.sharding = ZERO_SHARDED};
    config->parameters = stage >= 3 ? sharded : full;
    config->gradients = stage >= 2 ? sharded : full;
    config->optimizer = stage >= 1 ? sharded : full;
    return ZERO_OK;
}

void zero_config_init_size(zero_config_t *config, size_t size)
{
    zero_config_t defaults = {.size = sizeof defaults};
    for (int i = 0; i < FIELDS; i++)
        zero_field_set(&fields[i], &defaults, fields[i].initial);
    zero_struct_init(config, size, &defaults, sizeof defaults);
}

void zero_config_to_spec(const zero_config_t *config, zero_spec_t *spec)
{
    spec->options = 0;
    for (int i = 0; i < FIELDS; i++) {
        const zero_field_t *f = &fields[i];
        if (f->scope != ZERO_SCOPE_PLAN)
            continue;
        memcpy((char *)spec + f->spec_offset, (const char *)config + f->offset, size_of(f));
        zero_hash_word(&spec->options, zero_field_value(f, config));
    }
}

static zero_status_t check_bounds(const zero_config_t *c, zero_error_t *error)
{
    char text[sizeof error->text] = "", name[32];
    for (int i = 0; i < FIELDS; i++) {
        const zero_field_t *f = &fields[i], plain = {.type = f->type == ZERO_FIELD_REAL ? f->type : ZERO_FIELD_INT};
        uint64_t value = zero_field_value(f, c);
        double number = f->type == ZERO_FIELD_REAL ? real_of(value) : (double)(int64_t)value;
        if (number >= f->low && number <= f->high)
            continue;
        name[0] = '\0';
        if (f->type == ZERO_FIELD_ENUM && *f->value_name((int)value) != '?') /* a valid name, but not allowed here */
            snprintf(name, sizeof name, " (%s)", f->value_name((int)value));
        size_t at = strlen(text);
        snprintf(text + at, sizeof text - at, "%sconfig.%s is %s%s, but must be %s", at > 0 ? "; " : "", f->name,
                 zero_field_text(&plain, value).s, name, f->wanted);
    }
    return *text ? zero_fail(error, ZERO_ERR_ARG, "%s", text) : ZERO_OK;
}

static zero_status_t check_place(const zero_config_t *c, zero_error_t *error)
{
    if (!c->comm || !c->device)
        return zero_fail(error, ZERO_ERR_ARG, "config.%s is NULL: set it, or set plan_world to plan only",
                         c->comm ? "device" : "comm");
    const zero_comm_caps_t *comm = &c->comm->caps;
    const zero_device_caps_t *device = &c->device->caps;
    if (!device->host_memory && !comm->device_pointers)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "config.comm is '%s', which cannot reach the memory of device '%s': wrap it in "
                         "zero_comm_staged, or use zero_comm_nccl",
                         comm->name, device->name);
    if (device->host_memory && !comm->host_pointers && !comm->device_pointers)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "config.comm is '%s', which cannot move data of device '%s': start CPU "
                         "ranks on several machines with mpiexec (zero_comm_mpi)",
                         comm->name, device->name);
    const zero_row_t *rows[] = {&c->parameters, &c->optimizer};
    for (int i = 0; i < 2; i++)
        if (rows[i]->tier == ZERO_TIER_NVME && (!c->nvme_path || !*c->nvme_path))
            return zero_fail(
                error, ZERO_ERR_ARG,
                "config.%s.tier is ZERO_TIER_NVME, but config.nvme_path is not set: name a folder on a local drive",
                i == 0 ? "parameters" : "optimizer");
    return ZERO_OK;
}

zero_status_t zero_config_check(const zero_config_t *c, zero_error_t *error)
{
    zero_status_t status = check_bounds(c, error);
    if (status != ZERO_OK)
        return status;
    if (c->guard && c->device && !c->device->caps.host_memory)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "config.guard is set, but the host cannot protect the memory of device '%s': turn it off, or "
                         "run the same program on the CPU device",
                         c->device->caps.name);
    if ((c->rule == ZERO_RULE_CUSTOM) != (c->update != NULL))
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.rule is '%s' and config.update is %s: set both for a custom optimizer, or neither",
                         zero_rule(c->rule)->name, c->update ? "set" : "NULL");
    if ((zero_rule(c->rule)->reach == ZERO_REACH_PARAMETER) != (c->matrix != NULL))
        return zero_fail(
            error, ZERO_ERR_ARG,
            "config.rule is '%s' and config.matrix is %s: set it for ZERO_RULE_MUON, and for no other rule",
            zero_rule(c->rule)->name, c->matrix ? "set" : "NULL");
    if (c->update_states > 0 && !c->update)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.update_states is %d, but config.update is NULL: set both, or neither",
                         c->update_states);
    if (zero_rule(c->rule)->reads_eps && c->eps == 0)
        return zero_fail(error, ZERO_ERR_ARG, "config.eps is 0, but config.rule '%s' needs a positive number",
                         zero_rule(c->rule)->name);
    if (c->growth_interval > 0 && c->loss_scale < c->min_loss_scale)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.loss_scale is %g, but must be at least config.min_loss_scale, which is %g",
                         c->loss_scale, c->min_loss_scale);
    return c->plan_world == 0 ? check_place(c, error) : ZERO_OK;
}
