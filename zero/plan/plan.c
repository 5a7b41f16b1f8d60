/* SPDX-License-Identifier: Apache-2.0 */
/* plan.c - builds a plan from declarations, step by step; destroys it; names and look-ups. */
#include "zero/plan/build.h"

#include <stdlib.h>

const char *zero_role_name(zero_role_t role, int state)
{
    static const char *const states[2][ZERO_MAX_STATES] = {{"moment1", "moment2"},
                                                           {"staged-moment1", "staged-moment2"}};
    static const char *const names[ZERO_ROLE_COUNT] = {
        [ZERO_ROLE_PARAM] = "param",
        [ZERO_ROLE_PARAM_SHARD] = "param-shard",
        [ZERO_ROLE_GRAD] = "grad",
        [ZERO_ROLE_WIRE] = "wire",
        [ZERO_ROLE_WIRE_SHARD] = "wire-shard",
        [ZERO_ROLE_SUM] = "sum",
        [ZERO_ROLE_FINAL] = "final",
        [ZERO_ROLE_MASTER] = "master",
        [ZERO_ROLE_STAGED_PARAM] = "staged-param",
        [ZERO_ROLE_NODE_SHARD] = "node-shard",
        [ZERO_ROLE_STAGED_MASTER] = "staged-master",
        [ZERO_ROLE_UPDATE_GRAD] = "update-grad",
        [ZERO_ROLE_UPDATE_PARAM] = "update-param",
        [ZERO_ROLE_WHOLE] = "whole",
        [ZERO_ROLE_MATRICES] = "matrices",
        [ZERO_ROLE_DIRECTION] = "direction",
        [ZERO_ROLE_STAGED_GRAD] = "staged-grad",
        [ZERO_ROLE_PARAM_CODES] = "param-codes",
        [ZERO_ROLE_GRAD_CODES] = "grad-codes",
        [ZERO_ROLE_ARRIVED_CODES] = "arrived-codes",
    };
    if ((role == ZERO_ROLE_STATE || role == ZERO_ROLE_STAGED_STATE) && (unsigned)state < ZERO_MAX_STATES)
        return states[role == ZERO_ROLE_STAGED_STATE][state];
    return (unsigned)role < ZERO_ROLE_COUNT && names[role] != NULL ? names[role] : "?";
}

void zero_part_buffers(const zero_part_t *part, int32_t list[ZERO_PART_BUFFERS])
{
    int n = 0;
    for (int i = 0; i <= ZERO_MAX_STATES; i++) {
        list[n++] = zero_part_kept(part, i);
        list[n++] = part->staged[i];
    }
    list[n++] = part->grad;
    list[n++] = part->param;
    list[n++] = part->direction;
    list[n++] = part->staged_grad;
}

const char *zero_op_name(zero_op_kind_t kind)
{
    static const char *const names[ZERO_OP_COUNT] = {
        [ZERO_OP_GATHER] = "GATHER",
        [ZERO_OP_RELEASE] = "RELEASE",
        [ZERO_OP_REDUCE_SCATTER] = "REDUCE_SCATTER",
        [ZERO_OP_COPY] = "COPY",
        [ZERO_OP_CAST] = "CAST",
        [ZERO_OP_FILL] = "FILL",
        [ZERO_OP_ACCUMULATE] = "ACCUMULATE",
        [ZERO_OP_NORM] = "NORM",
        [ZERO_OP_EXCHANGE] = "EXCHANGE",
        [ZERO_OP_UPDATE] = "UPDATE",
        [ZERO_OP_TASK] = "TASK",
        [ZERO_OP_TASK_END] = "TASK_END",
        [ZERO_OP_SEND] = "SEND",
        [ZERO_OP_RECV] = "RECV",
        [ZERO_OP_COLLECTIVE] = "COLLECTIVE",
        [ZERO_OP_COLLECT] = "COLLECT",
        [ZERO_OP_WHOLE] = "WHOLE",
        [ZERO_OP_SPREAD] = "SPREAD",
        [ZERO_OP_APPLY] = "APPLY",
        [ZERO_OP_ALL_TO_ALL] = "ALL_TO_ALL",
        [ZERO_OP_SUM] = "SUM",
        [ZERO_OP_READ] = "READ",
        [ZERO_OP_WRITE] = "WRITE",
        [ZERO_OP_SAVE] = "SAVE",
        [ZERO_OP_SYNC] = "SYNC",
        [ZERO_OP_RECORD] = "RECORD",
        [ZERO_OP_WAIT] = "WAIT",
        [ZERO_OP_HOST_WAIT] = "HOST_WAIT",
        [ZERO_OP_USE] = "USE",
    };
    return (unsigned)kind < ZERO_OP_COUNT ? names[kind] : "?";
}

const char *zero_program_name(zero_program_kind_t kind)
{
    static const char *const names[] = {"eval", "any", "first", "middle", "last", "only", "step", "save"};
    return (unsigned)kind < sizeof names / sizeof *names ? names[kind] : "?";
}

zero_status_t zero_build_alloc(zero_builder_t *b, void *out, size_t n, size_t size)
{
    void *p = calloc(n > 0 ? n : 1, size);
    memcpy(out, &p, sizeof p);
    return p != NULL ? ZERO_OK : zero_fail(b->error, ZERO_ERR_MEMORY, "no memory for a plan: %zu bytes", n * size);
}

/* What a buffer of this many elements holds of a segment. */
static zero_extent_t extent_of(const zero_builder_t *b, int32_t segment, int64_t elements)
{
    const zero_segment_t *s = &b->plan->segments[segment];
    return elements >= s->elements                       ? ZERO_EXTENT_WHOLE
           : elements == s->shard && s->shard > s->slice ? ZERO_EXTENT_SHARD
                                                         : ZERO_EXTENT_SLICE;
}

zero_status_t zero_build_buffer(zero_builder_t *b, int32_t segment, zero_role_t role, zero_kind_t kind,
                                zero_tier_t tier, zero_format_t format, int64_t elements, int32_t *out)
{
    zero_plan_t *plan = b->plan;
    uint64_t bytes;

    if (!zero_mul_u64((uint64_t)elements, (uint64_t)format.block_bytes, &bytes) || bytes > INT64_MAX)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "a buffer of %lld elements needs more than 2^63 bytes",
                         (long long)elements);
    bytes = zero_format_bytes(&format, elements);
    if (plan->buffer_count == b->buffer_capacity) {
        int32_t capacity = b->buffer_capacity > 0 ? 2 * b->buffer_capacity : 256;
        zero_buffer_t *grown = realloc(plan->buffers, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return zero_fail(b->error, ZERO_ERR_MEMORY, "no memory for a plan: %d buffers", capacity);
        plan->buffers = grown;
        b->buffer_capacity = capacity;
    }
    *out = plan->buffer_count++;
    plan->buffers[*out] = (zero_buffer_t){.segment = segment,
                                          .part = -1,
                                          .role = role,
                                          .kind = kind,
                                          .tier = tier,
                                          .format = format,
                                          .own = segment < 0 ? ZERO_EXTENT_WHOLE : extent_of(b, segment, elements),
                                          .elements = elements,
                                          .bytes = bytes,
                                          .slot = -1};
    return ZERO_OK;
}

zero_extent_t zero_build_own(const zero_builder_t *b, int32_t buffer, zero_extent_t extent)
{
    const zero_buffer_t *x = &b->plan->buffers[buffer];
    const zero_segment_t *s = x->segment >= 0 ? &b->plan->segments[x->segment] : NULL;
    bool larger =
        s != NULL && (x->elements == s->elements || (x->own == ZERO_EXTENT_SHARD && extent == ZERO_EXTENT_SLICE));
    return larger ? extent : ZERO_EXTENT_WHOLE;
}

static void free_builder(zero_builder_t *b)
{
    if (b->passes != NULL)
        for (int32_t i = 0; i < b->spec->pass_count; i++) {
            free(b->passes[i].enter);
            free(b->passes[i].enter_use);
            free(b->passes[i].enter_begin);
            free(b->passes[i].release_at);
        }
    free(b->passes);
    free(b->grads);
    free(b->units);
    free(b->segments);
    free(b->order);
    free(b->slots);
}

zero_status_t zero_plan_build(zero_plan_t **out, const zero_spec_t *spec, int pipe, zero_error_t *error)
{
    zero_builder_t b = {.spec = spec, .error = error};
    zero_status_t status;

    *out = NULL;
    if ((status = zero_build_alloc(&b, &b.plan, 1, sizeof *b.plan)) != ZERO_OK)
        return status;
    b.plan->spec = spec;
    b.plan->pipe = pipe;
    if ((status = zero_build_declare(&b)) != ZERO_OK ||
        (status = zero_build_alloc(&b, &b.units, (size_t)spec->unit_count, sizeof *b.units)) != ZERO_OK ||
        (status = zero_build_tasks(&b)) != ZERO_OK ||
        (status = zero_build_alloc(&b, &b.passes, (size_t)spec->pass_count, sizeof *b.passes)) != ZERO_OK ||
        (status = zero_build_segments(&b)) != ZERO_OK || (status = zero_build_parts(&b)) != ZERO_OK ||
        (status = zero_build_links(&b)) != ZERO_OK || (status = zero_build_window(&b)) != ZERO_OK ||
        (status = zero_build_node(&b)) != ZERO_OK || (status = zero_build_code_slots(&b)) != ZERO_OK ||
        (status = zero_build_programs(&b)) != ZERO_OK || (status = zero_build_sync(&b)) != ZERO_OK ||
        (status = zero_build_layout(&b)) != ZERO_OK) {
        zero_plan_destroy(b.plan);
    } else {
        zero_build_hash(&b);
        *out = b.plan;
    }
    free_builder(&b);
    return status;
}

void zero_plan_destroy(zero_plan_t *plan)
{
    if (plan == NULL)
        return;
    for (int32_t i = 0; i < plan->program_count; i++)
        free(plan->programs[i].ops);
    free(plan->programs);
    for (int32_t i = 0; i < plan->spec->pass_count && plan->passes != NULL; i++) {
        free(plan->passes[i].uses);
        free(plan->passes[i].tasks);
    }
    free(plan->passes);
    free(plan->segments);
    free(plan->placed);
    free(plan->runs);
    free(plan->parts);
    free(plan->buffers);
    free(plan->reserve_buffer);
    free(plan);
}

bool zero_plan_uses(const zero_plan_t *plan, zero_stream_id_t stream)
{
    for (int32_t p = 0; p < plan->program_count; p++)
        for (int32_t i = 0; i < plan->programs[p].op_count; i++)
            if (plan->programs[p].ops[i].stream == stream)
                return true;
    return false;
}

int32_t zero_plan_program(const zero_plan_t *plan, zero_program_kind_t kind, int32_t pass, int32_t unit)
{
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        if (p->kind == kind && p->pass == pass && p->unit == unit)
            return i;
    }
    return -1;
}
