/* SPDX-License-Identifier: Apache-2.0 */
/* segments.c - turns the placement table into segments and buffers: the roles of each segment, their dtype, full or
 * slice. */
#include "zero/plan/build.h"

#include <stdlib.h>

/* Whether a parameter is updated whole. */
static bool is_whole(const zero_builder_t *b, const zero_spec_param_t *p)
{
    return b->spec->whole && p->trainable && b->train >= 0 && p->ndim == 2 && !p->elementwise;
}

/* What the ranks of tensor parallelism have of a parameter. */
static zero_spread_t spread_of(const zero_builder_t *b, const zero_spec_param_t *p)
{
    return b->spec->mesh.tensor == 1 || p->run < p->total ? ZERO_SPREAD_PARTS
           : p->partial && p->trainable && b->train >= 0  ? ZERO_SPREAD_SUMMED
                                                          : ZERO_SPREAD_SAME;
}

/* A segment has its parameters in the order of declaration; a unit has its segments in the order of this key. */
typedef struct part_key {
    int kind; /* 0: trainable; 1: updated whole; 2: frozen */
    zero_spread_t spread;
    zero_dtype_t dtype;
} part_key_t;
enum { KEYS = 3 * ZERO_SPREADS * ZERO_DTYPE_COUNT };
static part_key_t key_at(int index)
{
    return (part_key_t){index / (ZERO_SPREADS * ZERO_DTYPE_COUNT),
                        (zero_spread_t)(index / ZERO_DTYPE_COUNT % ZERO_SPREADS),
                        (zero_dtype_t)(index % ZERO_DTYPE_COUNT)};
}
static bool has_key(const zero_builder_t *b, const zero_spec_param_t *p, part_key_t key)
{
    const int kind = !p->trainable || b->train < 0 ? 2 : is_whole(b, p);
    return kind == key.kind && spread_of(b, p) == key.spread && p->dtype == key.dtype;
}

static zero_status_t too_big(const zero_builder_t *b, const char *unit)
{
    return zero_fail(b->error, ZERO_ERR_MEMORY, "unit '%s' needs more than 2^63 bytes", unit);
}

/* Appends the run that p begins, or extends the last one. */
static void add_run(zero_plan_t *plan, zero_segment_t *segment, int64_t begin, int64_t end, const zero_spec_param_t *p)
{
    zero_run_t *last = segment->run_count > 0 ? &plan->runs[plan->run_count - 1] : NULL;
    if (last != NULL && !segment->whole && last->decay_scale == p->decay_scale && last->lr_scale == p->lr_scale) {
        last->end = end;
        return;
    }
    if (segment->run_count == 0)
        segment->first_run = plan->run_count;
    segment->run_count++;
    plan->runs[plan->run_count++] = (zero_run_t){.begin = begin,
                                                 .end = end,
                                                 .decay_scale = p->decay_scale,
                                                 .lr_scale = p->lr_scale,
                                                 .rows = segment->whole ? p->shape[0] : 0,
                                                 .cols = segment->whole ? p->shape[1] : 0};
}

/* Makes the segments of one unit, whose parameters are params[0 .. count). */
static zero_status_t cut_unit(zero_builder_t *b, int32_t unit, const int32_t *params, int32_t count)
{
    const zero_spec_t *spec = b->spec;
    zero_plan_t *plan = b->plan;
    zero_unit_plan_t *u = &b->units[unit];
    uint64_t bytes = 0;
    bool sharded = false;

    u->first_segment = plan->segment_count;
    for (int k = 0; k < KEYS; k++) {
        const part_key_t key = key_at(k);
        zero_segment_t *segment = NULL;
        uint64_t elements = 0;
        for (int32_t i = 0; i < count; i++) {
            const zero_spec_param_t *p = &spec->params[params[i]];
            if (!has_key(b, p, key) || p->count == 0)
                continue;
            if (segment == NULL) {
                segment = &plan->segments[plan->segment_count++];
                segment->unit = unit;
                memcpy(segment->pipe, u->pipe, sizeof segment->pipe);
                segment->dtype = p->dtype;
                segment->trainable = key.kind < 2;
                segment->whole = key.kind == 1;
                segment->spread = key.spread;
                for (int r = 0; r < ZERO_SEGMENT_ROLES; r++)
                    segment->buffer[r] = -1;
            }
            uint64_t end, param_bytes;
            if (!zero_add_u64(elements, (uint64_t)p->count, &end) || !zero_round_up(end, ZERO_ALIGN_ELEMENTS, &end) ||
                !zero_mul_u64((uint64_t)p->count, zero_dtype_size(p->dtype), &param_bytes) ||
                !zero_add_u64(bytes, param_bytes, &bytes))
                return too_big(b, spec->units[unit].name);
            plan->placed[params[i]] = (zero_placed_t){(int32_t)(segment - plan->segments), (int64_t)elements, -1};
            add_run(plan, segment, (int64_t)elements, (int64_t)end, p);
            elements = end;
        }
        if (segment == NULL)
            continue;
        if (!zero_build_slices(spec, segment, elements))
            return too_big(b, spec->units[unit].name);
        b->segments[segment - plan->segments].at = zero_build_place(b, segment);
        sharded = sharded || zero_build_at(b, segment)->shard_parameters;
        plan->runs[plan->run_count - 1].end = segment->elements;
    }
    bool here = u->pipe[0] == plan->pipe || u->pipe[1] == plan->pipe;
    u->segment_count = here ? plan->segment_count - u->first_segment : 0;
    u->slotted = (sharded || b->offload_parameters) && u->segment_count > 0 && bytes >= (uint64_t)spec->persist_bytes;
    return ZERO_OK;
}

/* How many of the elements that a rank updates keep their state on the device. Rounding errors do not add up over
 * segments: share has the totals of the segments before. */
typedef struct share {
    int64_t updated, stays;
} share_t;
static int64_t elements_that_stay(const zero_builder_t *b, share_t *share, const zero_segment_t *s)
{
    double ratio = b->spec->optimizer.tier == ZERO_TIER_DEVICE ? 0 : b->spec->offload_ratio;
    int64_t updated = zero_build_at(b, s)->shard_optimizer ? s->slice : s->elements;
    share->updated += updated;
    double wanted = (1 - ratio) * (double)share->updated - (double)share->stays;
    int64_t stays = wanted > 0 ? (int64_t)(wanted / ZERO_NORM_BLOCK + 0.5) * ZERO_NORM_BLOCK : 0;
    if (ratio <= 0 || stays > updated)
        stays = updated;
    share->stays += stays;
    return stays;
}

/* Makes a gradient buffer and sets the role: own() outside slots, in_slot() in one. */
static zero_status_t own(zero_builder_t *b, int32_t segment, zero_role_t role, zero_tier_t tier, zero_dtype_t dtype,
                         int64_t elements)
{
    return zero_build_buffer(b, segment, role, ZERO_KIND_GRADIENTS, tier, zero_format_plain(dtype), elements,
                             &b->plan->segments[segment].buffer[role]);
}

static zero_status_t in_slot(zero_builder_t *b, int32_t segment, zero_role_t role, zero_dtype_t dtype)
{
    return zero_build_buffer(b, segment, role, ZERO_KIND_WINDOW, ZERO_TIER_DEVICE, zero_format_plain(dtype),
                             b->plan->segments[segment].elements, &b->plan->segments[segment].buffer[role]);
}

/* Gradients that are summed and updated on another tier are on the device only while they are written and reduced, in
 * slots. */
static zero_status_t place_away(zero_builder_t *b, int32_t index)
{
    zero_segment_t *s = &b->plan->segments[index];
    int32_t *buffer = s->buffer;
    bool several = b->units[s->unit].several, there = zero_build_sums_there(b, s),
         rounds_there = there && !zero_plan_is_shared(s), coded = zero_build_codes_gradients(b, s);
    const zero_placement_t *at = zero_build_at(b, s);
    int64_t stays = at->gather_gradients ? 0 : b->segments[index].stays;
    zero_status_t status = in_slot(b, index, ZERO_ROLE_GRAD, s->dtype);

    if (status == ZERO_OK && s->dtype != s->wire && !rounds_there && (!coded || there))
        status = in_slot(b, index, ZERO_ROLE_WIRE, s->wire);
    if (!coded)
        buffer[ZERO_ROLE_WIRE_SHARD] = buffer[buffer[ZERO_ROLE_WIRE] >= 0 ? ZERO_ROLE_WIRE : ZERO_ROLE_GRAD];
    if (status == ZERO_OK && several && at->gather_gradients && !at->sum_locally && !at->sum_shards) {
        if (s->wire == ZERO_FP32)
            buffer[ZERO_ROLE_WHOLE] = buffer[ZERO_ROLE_WIRE_SHARD];
        else
            status = in_slot(b, index, ZERO_ROLE_WHOLE, ZERO_FP32);
    }
    if (status != ZERO_OK)
        return status;
    if (at->sum_locally) {
        status = own(b, index, ZERO_ROLE_SUM, ZERO_TIER_HOST, ZERO_FP32, s->elements);
        buffer[ZERO_ROLE_FINAL] = buffer[ZERO_ROLE_SUM];
        return status;
    }
    if (at->sum_shards)
        return own(b, index, ZERO_ROLE_FINAL, ZERO_TIER_HOST, ZERO_FP32, at->shard_optimizer ? s->shard : s->elements);
    status = own(b, index, ZERO_ROLE_FINAL, ZERO_TIER_HOST, s->final,
                 (at->shard_optimizer ? s->slice : s->elements) - stays);
    if (status == ZERO_OK) {
        zero_buffer_t *x = &b->plan->buffers[buffer[ZERO_ROLE_FINAL]];
        x->own = at->shard_optimizer ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE;
        x->begin = stays;
    }
    return status;
}

/* Buffers for the gradients of one segment: as written (GRAD), summed over micro-steps if needed (SUM), cast for the
 * wire (WIRE), and as norm and update read them (FINAL). Roles share a buffer if one's contents are no longer needed
 * when the other's begin. */
static zero_status_t place_gradients(zero_builder_t *b, int32_t index)
{
    zero_segment_t *s = &b->plan->segments[index];
    int32_t *buffer = s->buffer;
    bool several = b->units[s->unit].several, coded = zero_build_codes_gradients(b, s);
    const zero_placement_t *at = zero_build_at(b, s);
    int64_t final_elements = !at->shard_optimizer ? s->elements : at->sum_shards ? s->shard : s->slice;
    zero_status_t status = ZERO_OK;

    /* One rank and fp32 on the wire: nothing is rounded or sent, so the gradients are reduced as they were written. */
    bool no_wire = !zero_plan_is_shared(s) && b->spec->reduce_dtype == ZERO_FP32;
    s->wire = no_wire ? (at->sum_locally ? ZERO_FP32 : s->dtype) : b->spec->reduce_dtype;
    s->final = several ? ZERO_FP32 : s->wire;

    if ((status = zero_build_grad_codes(b, index)) != ZERO_OK)
        return status;
    if (b->segments[index].away)
        return place_away(b, index);
    if (at->sum_locally) {
        zero_role_t sum = s->dtype == ZERO_FP32 ? ZERO_ROLE_GRAD : ZERO_ROLE_SUM;
        if (sum == ZERO_ROLE_SUM && (status = in_slot(b, index, ZERO_ROLE_GRAD, s->dtype)) != ZERO_OK)
            return status;
        if ((status = own(b, index, sum, ZERO_TIER_DEVICE, ZERO_FP32, s->elements)) != ZERO_OK)
            return status;
        buffer[ZERO_ROLE_FINAL] = buffer[sum];
        if (s->wire != ZERO_FP32 && (status = in_slot(b, index, ZERO_ROLE_WIRE, s->wire)) != ZERO_OK)
            return status;
    } else {
        /* Gradients that are reduced, or added to the sum, in another buffer need not stay. */
        bool stays = !several && !at->shard_gradients;
        status = stays ? own(b, index, ZERO_ROLE_GRAD, ZERO_TIER_DEVICE, s->dtype, s->elements)
                       : in_slot(b, index, ZERO_ROLE_GRAD, s->dtype);
        if (status != ZERO_OK)
            return status;
        if (stays && s->dtype == s->wire)
            buffer[ZERO_ROLE_FINAL] = buffer[ZERO_ROLE_GRAD];
        else if ((status = own(b, index, ZERO_ROLE_FINAL, ZERO_TIER_DEVICE, s->final, final_elements)) != ZERO_OK)
            return status;
        if (s->dtype != s->wire && !coded && !several && final_elements == s->elements)
            buffer[ZERO_ROLE_WIRE] = buffer[ZERO_ROLE_FINAL];
        else if (s->dtype != s->wire && !coded && (status = in_slot(b, index, ZERO_ROLE_WIRE, s->wire)) != ZERO_OK)
            return status;
    }
    if (several && !coded && (!at->sum_locally || s->final != s->wire)) /* reduced in place, then cast or added */
        buffer[ZERO_ROLE_WIRE_SHARD] = buffer[ZERO_ROLE_WIRE] >= 0 ? buffer[ZERO_ROLE_WIRE] : buffer[ZERO_ROLE_GRAD];
    return ZERO_OK;
}

static zero_status_t place_segment(zero_builder_t *b, int32_t index)
{
    zero_segment_t *s = &b->plan->segments[index];
    int32_t *buffer = s->buffer;
    bool slotted = b->units[s->unit].slotted;
    zero_status_t status;

    if ((status = zero_build_buffer(b, index, ZERO_ROLE_PARAM, slotted ? ZERO_KIND_WINDOW : ZERO_KIND_PARAMETERS,
                                    ZERO_TIER_DEVICE, zero_format_plain(s->dtype), s->elements,
                                    &buffer[ZERO_ROLE_PARAM])) != ZERO_OK)
        return status;
    if (slotted &&
        (status = zero_build_buffer(b, index, ZERO_ROLE_PARAM_SHARD, ZERO_KIND_PARAMETERS, b->spec->parameters.tier,
                                    zero_format_plain(s->dtype), zero_build_elements(s, zero_build_at(b, s)->keeps),
                                    &buffer[ZERO_ROLE_PARAM_SHARD])) != ZERO_OK)
        return status;
    if (slotted && (status = zero_build_param_codes(b, index)) != ZERO_OK)
        return status;
    if (slotted && b->spec->parameters.tier == ZERO_TIER_NVME &&
        (status = zero_build_buffer(b, index, ZERO_ROLE_STAGED_PARAM, ZERO_KIND_STAGING, ZERO_TIER_HOST,
                                    zero_format_plain(s->dtype), zero_build_elements(s, zero_build_at(b, s)->keeps),
                                    &buffer[ZERO_ROLE_STAGED_PARAM])) != ZERO_OK)
        return status;
    if (s->whole &&
        (status = zero_build_buffer(b, index, ZERO_ROLE_MATRICES, ZERO_KIND_WINDOW, ZERO_TIER_DEVICE,
                                    zero_format_plain(ZERO_FP32), s->elements, &buffer[ZERO_ROLE_MATRICES])) != ZERO_OK)
        return status;
    if (s->trainable)
        return place_gradients(b, index);
    s->wire = s->final = s->dtype;
    return ZERO_OK;
}

/* Whether each rank sums the micro-steps of a unit's gradients, as far as they are not shared by the ranks of tensor
 * parallelism. */
static bool sums_locally(const zero_builder_t *b, int32_t unit)
{
    const zero_segment_t parts = {.unit = unit, .pipe = {b->units[unit].pipe[0], b->units[unit].pipe[1]}};
    return zero_build_place(b, &parts).sum_locally;
}

/* Marks the uses of a task, [begin, end): those that open the gradients of a unit, and those after which these are
 * reduced: the last one of the task, or one with ZERO_REDUCE. If ranks sum their micro-steps first, nothing is reduced
 * before that. last, open: by unit; open is -1. */
static void mark_task(zero_builder_t *b, int32_t begin, int32_t end, int32_t *last, int32_t *open)
{
    const zero_spec_use_t *uses = b->plan->passes[b->train].uses;
    for (int32_t i = begin; i < end; i++)
        if (uses[i].flags & ZERO_GRAD)
            last[uses[i].unit] = i;
    for (int32_t i = begin; i < end; i++) {
        const int32_t u = uses[i].unit;
        zero_grad_plan_t *grad = &b->grads[i];
        grad->closes = -1;
        if (b->units[u].first_use < 0)
            b->units[u].first_use = i;
        if (!(uses[i].flags & ZERO_GRAD))
            continue;
        if (open[u] < 0) {
            grad->opens = true;
            open[u] = i;
        }
        grad->reduces = i == last[u] || ((uses[i].flags & ZERO_REDUCE) && !sums_locally(b, u));
        if (!grad->reduces)
            continue;
        b->grads[open[u]].closes = i;
        open[u] = -1;
    }
}

/* Finds where the training pass uses each unit, and which uses' gradients are reduced together. */
static zero_status_t find_uses(zero_builder_t *b)
{
    const zero_plan_pass_t *pass = b->train < 0 ? NULL : &b->plan->passes[b->train];
    int32_t uses = pass ? pass->use_count : 0, *last = NULL, *open = NULL; /* by unit */
    size_t units = (size_t)b->spec->unit_count;
    zero_status_t status;

    if ((status = zero_build_alloc(b, &b->grads, (size_t)uses, sizeof *b->grads)) != ZERO_OK ||
        (status = zero_build_alloc(b, &last, units, sizeof *last)) != ZERO_OK ||
        (status = zero_build_alloc(b, &open, units, sizeof *open)) != ZERO_OK)
        goto out;
    for (int32_t u = 0; u < b->spec->unit_count; u++) {
        b->units[u].first_use = open[u] = -1;
        b->units[u].several = b->spec->micro_steps > 1;
    }
    for (int32_t t = 0; pass && t < pass->task_count; t++)
        mark_task(b, pass->tasks[t].first_use, pass->tasks[t].first_use + pass->tasks[t].use_count, last, open);
    if (pass && pass->task_count == 0)
        mark_task(b, 0, uses, last, open);
    for (size_t u = 0; u < units; u++)
        last[u] = -1; /* the last use that reduces */
    for (int32_t i = 0; i < uses; i++) {
        int32_t u = pass->uses[i].unit;
        if (!b->grads[i].opens)
            continue;
        int32_t closes = b->grads[i].closes;
        b->grads[i].first = b->grads[closes].first = last[u] < 0;
        b->units[u].several = b->units[u].several || last[u] >= 0;
        last[u] = closes;
    }
    for (size_t u = 0; u < units; u++)
        if (last[u] >= 0)
            b->grads[last[u]].last = true;
out:
    free(last);
    free(open);
    return status;
}

zero_status_t zero_build_segments(zero_builder_t *b)
{
    const zero_spec_t *spec = b->spec;
    zero_plan_t *plan = b->plan;
    int32_t *first = NULL, *sorted = NULL;
    share_t share = {0};
    zero_status_t status;

    size_t params = (size_t)spec->param_count, units = (size_t)spec->unit_count;
    if ((status = zero_build_alloc(b, &plan->segments, params, sizeof *plan->segments)) != ZERO_OK ||
        (status = zero_build_alloc(b, &b->segments, params, sizeof *b->segments)) != ZERO_OK ||
        (status = zero_build_alloc(b, &plan->placed, params, sizeof *plan->placed)) != ZERO_OK ||
        (status = zero_build_alloc(b, &plan->runs, params, sizeof *plan->runs)) != ZERO_OK ||
        (status = zero_build_alloc(b, &plan->reserve_buffer, (size_t)spec->reserve_count, sizeof(int32_t))) !=
            ZERO_OK ||
        (status = zero_build_alloc(b, &first, units + 1, sizeof *first)) != ZERO_OK ||
        (status = zero_build_alloc(b, &sorted, params, sizeof *sorted)) != ZERO_OK)
        goto out;
    if ((status = find_uses(b)) != ZERO_OK)
        goto out;
    for (int32_t i = 0; i < spec->param_count; i++) { /* counting sort by unit keeps the order of declaration */
        plan->placed[i] = (zero_placed_t){-1, 0, -1};
        first[spec->params[i].unit + 1]++;
    }
    for (int32_t u = 0; u < spec->unit_count; u++)
        first[u + 1] += first[u];
    for (int32_t i = spec->param_count - 1; i >= 0; i--)
        sorted[--first[spec->params[i].unit + 1]] = i;
    for (int32_t u = 0; u < spec->unit_count; u++) {
        int32_t begin = first[u + 1], end = u + 1 < spec->unit_count ? first[u + 2] : spec->param_count;
        if ((status = cut_unit(b, u, sorted + begin, end - begin)) != ZERO_OK)
            goto out;
    }
    for (int32_t s = 0; s < plan->segment_count; s++) {
        zero_segment_plan_t *x = &b->segments[s];
        if (!zero_plan_has(plan, &plan->segments[s]))
            continue;
        if (plan->segments[s].trainable) {
            x->stays = elements_that_stay(b, &share, &plan->segments[s]);
            x->away = spec->gradients.tier != ZERO_TIER_DEVICE &&
                      x->stays < (zero_build_at(b, &plan->segments[s])->shard_optimizer ? plan->segments[s].slice
                                                                                        : plan->segments[s].elements);
        }
        if ((status = place_segment(b, s)) != ZERO_OK)
            goto out;
    }
    status = zero_build_owners(b);
out:
    free(first);
    free(sorted);
    return status;
}
