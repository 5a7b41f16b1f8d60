/* SPDX-License-Identifier: Apache-2.0 */
/* declare.c - refuses declarations that cannot be planned; the error names what to change. */
#include "zero/plan/build.h"
#include "zero/plan/split.h"

_Static_assert(ZERO_PIECE_QUANTUM % ZERO_NORM_BLOCK == 0 && ZERO_PIECE % ZERO_PIECE_QUANTUM == 0,
               "parts end at bounds of the norm's blocks");

/* Refuses rows that cannot be combined. */
static zero_status_t check_rows(const zero_spec_t *spec, zero_error_t *error)
{
    if (spec->optimizer.sharding == ZERO_FULL &&
        (spec->parameters.sharding == ZERO_SHARDED || spec->gradients.sharding == ZERO_SHARDED))
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.%s.sharding is ZERO_SHARDED, but config.optimizer.sharding is ZERO_FULL: every rank "
                         "would update parameters that it does not keep; shard the optimizer too",
                         spec->parameters.sharding == ZERO_SHARDED ? "parameters" : "gradients");
    if (spec->gradients.tier == ZERO_TIER_NVME)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "config.gradients.tier is ZERO_TIER_NVME, which is for parameters and the optimizer: use "
                         "ZERO_TIER_DEVICE or ZERO_TIER_HOST");
    if (spec->parameters.tier == ZERO_TIER_NVME && spec->optimizer.tier == ZERO_TIER_DEVICE)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "config.parameters.tier is ZERO_TIER_NVME, but config.optimizer.tier is ZERO_TIER_DEVICE, which cannot "
            "write parameters to a drive: use ZERO_TIER_HOST or ZERO_TIER_NVME for the optimizer");
    if (spec->parameters.tier == ZERO_TIER_NVME && spec->offload_ratio < 1)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "config.parameters.tier is ZERO_TIER_NVME, but config.offload_ratio is %g, which leaves a share of the "
            "optimizer state on the device tier, which cannot write parameters to a drive: use 1",
            spec->offload_ratio);
    if (spec->gradients.tier == ZERO_TIER_HOST && spec->optimizer.tier == ZERO_TIER_DEVICE)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.gradients.tier is ZERO_TIER_HOST, but config.optimizer.tier is ZERO_TIER_DEVICE, "
                         "where they are used: put both on the host tier, or both on the device tier");
    return ZERO_OK;
}

static zero_status_t check_state(const zero_spec_state_t *state, zero_error_t *error)
{
    if (state->count < 0 || state->count > ZERO_MAX_STATES)
        return zero_fail(error, ZERO_ERR_ARG, "the optimizer keeps %d buffers of state; it keeps 0 to %d", state->count,
                         ZERO_MAX_STATES);
    for (int i = 0; i < state->count; i++)
        if (state->format[i].block < 1 || ZERO_ALIGN_ELEMENTS % state->format[i].block != 0 ||
            state->format[i].block_bytes < 1)
            return zero_fail(
                error, ZERO_ERR_ARG,
                "the optimizer keeps state in blocks of %d elements and %d bytes; a block has a divisor of "
                "%d elements, and at least 1 byte",
                state->format[i].block, state->format[i].block_bytes, ZERO_ALIGN_ELEMENTS);
    return ZERO_OK;
}

/* Refuses codecs that have no effect, or exclude something else, if there are ranks to send to. */
static zero_status_t check_codecs(const zero_spec_t *spec, zero_error_t *error)
{
    if (spec->world == 1)
        return ZERO_OK;
    if (spec->gather_codec != ZERO_CODEC_NONE && zero_plan_shards(spec) > 1 && spec->parameters.sharding == ZERO_FULL)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.gather_codec is %s, but config.parameters.sharding is ZERO_FULL, so that no use "
                         "gathers parameters: shard them, or set config.gather_codec to ZERO_CODEC_NONE",
                         zero_codec_name(spec->gather_codec));
    if (spec->reduce_codec != ZERO_CODEC_NONE && spec->reduce_dtype != ZERO_FP32)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.reduce_codec is %s, but config.reduce_dtype is %s: codes are decoded and summed in "
                         "fp32; set config.reduce_dtype to ZERO_FP32, or config.reduce_codec to ZERO_CODEC_NONE",
                         zero_codec_name(spec->reduce_codec), zero_dtype_name(spec->reduce_dtype));
    return ZERO_OK;
}

zero_status_t zero_plan_check_options(const zero_spec_t *spec, zero_error_t *error)
{
    if (spec->world < 1 || spec->world > ZERO_MAX_WORLD)
        return zero_fail(error, ZERO_ERR_ARG, "config.comm has %d ranks: 1 to %d are possible", spec->world,
                         ZERO_MAX_WORLD);
    zero_status_t status = check_rows(spec, error);
    if (status != ZERO_OK)
        return status;
    if ((status = check_state(&spec->state, error)) != ZERO_OK ||
        (status = check_state(&spec->whole_state, error)) != ZERO_OK)
        return status;
    if (spec->piece < 1 || spec->piece % ZERO_PIECE_QUANTUM != 0)
        return zero_fail(error, ZERO_ERR_ARG, "a piece has %lld elements; it has a multiple of %d",
                         (long long)spec->piece, ZERO_PIECE_QUANTUM);
    if (spec->channels < 1 || spec->channels > ZERO_CHANNELS)
        return zero_fail(error, ZERO_ERR_ARG, "the engine has %d channels; it has 1 to %d", spec->channels,
                         ZERO_CHANNELS);
    if (spec->world > 1 && spec->device.asynchronous && spec->channels < 2)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "a device with asynchronous streams needs 2 channels, one for each stream of collectives, but has 1");
    status = zero_build_check_groups(spec, error);
    return status == ZERO_OK ? check_codecs(spec, error) : status;
}

/* Whether count is the product of the shape. */
static zero_status_t check_shape(const zero_spec_param_t *p, zero_error_t *error)
{
    int64_t count = 1;
    bool empty = false, overflow = false;
    for (int32_t d = 0; d < p->ndim; d++) {
        if (p->shape[d] < 0)
            return zero_fail(error, ZERO_ERR_ARG, "parameter '%s' has size %lld in dimension %d; it is at least 0",
                             p->name, (long long)p->shape[d], d);
        empty |= p->shape[d] == 0;
        overflow |= !overflow && p->shape[d] != 0 && !zero_mul_i64(count, p->shape[d], &count);
    }
    if (overflow && !empty)
        return zero_fail(error, ZERO_ERR_ARG, "parameter '%s' has more than 2^63 elements", p->name);
    if (p->count != (empty ? 0 : count))
        return zero_fail(error, ZERO_ERR_ARG, "parameter '%s' says %lld elements; its shape has %lld", p->name,
                         (long long)p->count, (long long)(empty ? 0 : count));
    return ZERO_OK;
}

/* Whether a rank's part follows from the whole parameter. A declaration that is not split may leave out the whole. */
static zero_status_t check_part(const zero_spec_t *spec, const zero_spec_param_t *p, zero_error_t *error)
{
    zero_spec_param_t whole = *p;
    zero_status_t status;
    if (p->total == 0 && p->run == 0)
        return ZERO_OK;
    if (p->split_dim < -1 || p->split_dim >= p->ndim || (p->split_dim >= 0 && (p->split_blocks < 1 || p->partial)))
        return zero_fail(error, ZERO_ERR_ARG,
                         "parameter '%s' is split in dimension %d in %d blocks%s: one of its %d dimensions or -1 is "
                         "possible, with at least 1 block, and of a parameter that is not partial",
                         p->name, p->split_dim, p->split_blocks, p->partial ? ", and partial" : "", p->ndim);
    memcpy(whole.shape, p->whole, sizeof whole.shape);
    whole.count = p->total;
    if ((status = check_shape(&whole, error)) != ZERO_OK || (status = zero_split_set(spec, &whole, error)) != ZERO_OK)
        return status;
    if (p->count != whole.count || p->run != whole.run ||
        memcmp(p->shape, whole.shape, (size_t)p->ndim * sizeof *p->shape) != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a part of parameter '%s' says %lld elements in runs of %lld; it has %lld in runs of %lld",
                         p->name, (long long)p->count, (long long)p->run, (long long)whole.count, (long long)whole.run);
    return ZERO_OK;
}

static zero_status_t check_params(zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    zero_error_t *error = b->error;

    if (spec->unit_count < 0 || spec->param_count < 0 || spec->pass_count < 0 || spec->reserve_count < 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "a declaration has a negative number of units, parameters, passes or reserves");
    for (int32_t i = 0; i < spec->param_count; i++) {
        const zero_spec_param_t *p = &spec->params[i];
        if (p->unit < 0 || p->unit >= spec->unit_count)
            return zero_fail(error, ZERO_ERR_ARG, "parameter '%s' names unit %d; there are %d", p->name, p->unit,
                             spec->unit_count);
        if (zero_dtype_size(p->dtype) == 0)
            return zero_fail(error, ZERO_ERR_ARG, "parameter '%s' has dtype %d, which does not exist", p->name,
                             (int)p->dtype);
        if (p->ndim < 0 || p->ndim > ZERO_MAX_DIMS)
            return zero_fail(error, ZERO_ERR_ARG, "parameter '%s' has %d dimensions; it has 0 to %d", p->name, p->ndim,
                             ZERO_MAX_DIMS);
        zero_status_t status = check_shape(p, error);
        if (status != ZERO_OK || (status = check_part(spec, p, error)) != ZERO_OK)
            return status;
        if (!(p->decay_scale >= 0 && p->decay_scale < 1e30) || !(p->lr_scale >= 0 && p->lr_scale < 1e30))
            return zero_fail(error, ZERO_ERR_ARG,
                             "parameter '%s' has decay scale %g and rate scale %g; both are finite and at least 0",
                             p->name, p->decay_scale, p->lr_scale);
    }
    for (int32_t i = 0; i < spec->reserve_count; i++) {
        const zero_spec_reserve_t *r = &spec->reserves[i];
        if (!zero_kind_is_reserved(r->kind))
            return zero_fail(error, ZERO_ERR_ARG, "reserve %d is of kind %d; it is activations, workspace or cache", i,
                             (int)r->kind);
        if ((int)r->tier < 0 || r->tier >= ZERO_TIER_COUNT)
            return zero_fail(error, ZERO_ERR_ARG, "reserve %d is on tier %d, which does not exist", i, (int)r->tier);
        if (r->tier == ZERO_TIER_NVME)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "reserve %d is on the nvme tier, which holds no memory: use device or host", i);
    }
    return ZERO_OK;
}

/* Checks the uses of one pass: flags, units, and that no unit is acquired while it is held. */
static zero_status_t check_pass(zero_builder_t *b, int32_t index)
{
    const zero_spec_t *spec = b->spec;
    const zero_spec_pass_t *pass = &spec->passes[index];
    zero_error_t *error = b->error;

    if (pass->kind != ZERO_PASS_TRAIN && pass->kind != ZERO_PASS_EVAL && pass->kind != ZERO_PASS_ANY_ORDER)
        return zero_fail(error, ZERO_ERR_ARG, "pass '%s' has kind %d, which does not exist", pass->name,
                         (int)pass->kind);
    if (pass->use_count < 0)
        return zero_fail(error, ZERO_ERR_ARG, "pass '%s' has a negative number of uses", pass->name);
    if (pass->kind == ZERO_PASS_ANY_ORDER && pass->use_count > 0)
        return zero_fail(error, ZERO_ERR_ARG, "pass '%s' takes units in any order: it declares no uses, found %d",
                         pass->name, pass->use_count);
    if (pass->kind == ZERO_PASS_TRAIN) {
        if (b->train >= 0)
            return zero_fail(error, ZERO_ERR_ARG, "passes '%s' and '%s' both train; at most one does",
                             spec->passes[b->train].name, pass->name);
        b->train = index;
    }
    int32_t chain = 0; /* the first of the uses that are held together */
    for (int32_t i = 0; i < pass->use_count; i++) {
        const zero_spec_use_t *use = &pass->uses[i];
        if (use->unit < 0 || use->unit >= spec->unit_count)
            return zero_fail(error, ZERO_ERR_ARG, "use %d of pass '%s' names unit %d; there are %d", i, pass->name,
                             use->unit, spec->unit_count);
        const char *unit = spec->units[use->unit].name;
        if ((use->flags & ~(uint32_t)(ZERO_READ | ZERO_GRAD | ZERO_HOLD | ZERO_REDUCE)) != 0)
            return zero_fail(error, ZERO_ERR_ARG, "use %d of pass '%s' (unit '%s') has unknown flags 0x%x", i,
                             pass->name, unit, (unsigned)use->flags);
        if ((use->flags & (ZERO_READ | ZERO_GRAD)) == 0)
            return zero_fail(error, ZERO_ERR_ARG, "use %d of pass '%s' (unit '%s') has neither ZERO_READ nor ZERO_GRAD",
                             i, pass->name, unit);
        if ((use->flags & ZERO_GRAD) && pass->kind != ZERO_PASS_TRAIN)
            return zero_fail(error, ZERO_ERR_ARG,
                             "use %d of pass '%s' (unit '%s') adds to gradients; only a training pass does", i,
                             pass->name, unit);
        if ((use->flags & (ZERO_GRAD | ZERO_REDUCE)) == ZERO_REDUCE)
            return zero_fail(error, ZERO_ERR_ARG, "use %d of pass '%s' (unit '%s') has ZERO_REDUCE without ZERO_GRAD",
                             i, pass->name, unit);
        if ((use->flags & ZERO_HOLD) && i + 1 == pass->use_count)
            return zero_fail(error, ZERO_ERR_ARG,
                             "use %d of pass '%s' (unit '%s') is held until the next use, but it is the last", i,
                             pass->name, unit);
        for (int32_t j = chain; j < i; j++)
            if (pass->uses[j].unit == use->unit)
                return zero_fail(error, ZERO_ERR_ARG,
                                 "use %d of pass '%s' acquires unit '%s', which use %d still holds", i, pass->name,
                                 unit, j);
        if (!(use->flags & ZERO_HOLD))
            chain = i + 1;
    }
    return ZERO_OK;
}

/* Refuses a trainable parameter whose unit the training pass never uses with ZERO_GRAD: it would have no gradient to
 * write to, and weight decay would still change it. */
static zero_status_t check_gradients(const zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    const zero_spec_pass_t *train = b->train >= 0 ? &spec->passes[b->train] : NULL;
    for (int32_t i = 0; train && i < spec->param_count; i++) {
        const zero_spec_param_t *p = &spec->params[i];
        bool written = !p->trainable || p->count == 0;
        for (int32_t u = 0; u < train->use_count && !written; u++)
            written = train->uses[u].unit == p->unit && (train->uses[u].flags & ZERO_GRAD);
        if (!written)
            return zero_fail(
                b->error, ZERO_ERR_ARG,
                "parameter '%s' of unit '%s' is trainable, but no use of the unit in pass '%s' has ZERO_GRAD: declare "
                "the use that adds to its gradient with ZERO_GRAD, or the parameter with trainable = false",
                p->name, spec->units[p->unit].name, train->name);
    }
    return ZERO_OK;
}

/* Refuses matrices that are updated whole, of which no rank has more than a part. */
static zero_status_t check_whole(const zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    for (int32_t i = 0; i < spec->param_count && spec->whole && b->train >= 0; i++) {
        const zero_spec_param_t *p = &spec->params[i];
        if (p->trainable && p->ndim == 2 && !p->elementwise && zero_split_is(p))
            return zero_fail(b->error, ZERO_ERR_UNSUPPORTED,
                             "parameter '%s' is split over config.mesh.tensor = %d ranks, but the optimizer updates "
                             "matrices whole: declare it with elementwise = true, or with split_dim = -1, or use "
                             "another optimizer",
                             p->name, spec->mesh.tensor);
    }
    return ZERO_OK;
}

zero_status_t zero_build_declare(zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    zero_status_t status;

    b->train = -1;
    if ((status = zero_plan_check_options(spec, b->error)) != ZERO_OK || (status = check_params(b)) != ZERO_OK)
        return status;
    for (int32_t i = 0; i < spec->pass_count; i++)
        if ((status = check_pass(b, i)) != ZERO_OK)
            return status;
    if ((status = check_gradients(b)) != ZERO_OK || (status = check_whole(b)) != ZERO_OK)
        return status;
    b->offload_parameters = spec->parameters.tier != ZERO_TIER_DEVICE;
    return ZERO_OK;
}
