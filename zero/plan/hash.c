/* SPDX-License-Identifier: Apache-2.0 */
/* hash.c - one hash of everything that ranks must agree on, and the bytes that a step moves. */
#include "zero/plan/build.h"

/* Adds fields one by one, because padding of structs must not count. */
uint64_t zero_spec_hash_param(const zero_spec_t *spec, int32_t param)
{
    const zero_spec_param_t *p = &spec->params[param];
    uint64_t hash = 0;
    zero_hash_text(&hash, p->name);
    zero_hash_text(&hash, spec->units[p->unit].name);
    zero_hash_word(&hash, (uint64_t)p->unit);
    zero_hash_word(&hash, (uint64_t)p->ndim);
    for (int32_t d = 0; d < p->ndim; d++)
        zero_hash_word(&hash, (uint64_t)p->shape[d]);
    zero_hash_word(&hash, (uint64_t)p->total);
    zero_hash_word(&hash, (uint64_t)(uint32_t)p->split_dim | (uint64_t)(uint32_t)p->split_blocks << 32);
    zero_hash_word(&hash, p->partial);
    zero_hash_word(&hash, (uint64_t)p->dtype);
    zero_hash_word(&hash, p->trainable);
    zero_hash_word(&hash, p->elementwise);
    zero_hash_real(&hash, p->decay_scale);
    zero_hash_real(&hash, p->lr_scale);
    zero_hash_text(&hash, p->piece_of ? p->piece_of : "");
    zero_hash_word(&hash, (uint64_t)p->piece_begin);
    return hash;
}

uint64_t zero_spec_hash_params(const zero_spec_t *spec)
{
    uint64_t hash = 0;
    zero_hash_word(&hash, (uint64_t)spec->unit_count);
    zero_hash_word(&hash, (uint64_t)spec->param_count);
    for (int32_t i = 0; i < spec->unit_count; i++)
        zero_hash_text(&hash, spec->units[i].name);
    for (int32_t i = 0; i < spec->param_count; i++)
        zero_hash_word(&hash, zero_spec_hash_param(spec, i));
    return hash;
}

uint64_t zero_spec_hash_passes(const zero_spec_t *spec)
{
    uint64_t hash = 0;
    zero_hash_word(&hash, (uint64_t)spec->pass_count);
    for (int32_t i = 0; i < spec->pass_count; i++) {
        zero_hash_text(&hash, spec->passes[i].name);
        zero_hash_word(&hash, (uint64_t)spec->passes[i].kind);
        zero_hash_word(&hash, (uint64_t)spec->passes[i].use_count);
        for (int32_t u = 0; u < spec->passes[i].use_count; u++) {
            zero_hash_word(&hash, (uint64_t)spec->passes[i].uses[u].unit);
            zero_hash_word(&hash, spec->passes[i].uses[u].flags);
            zero_hash_word(&hash, (uint64_t)spec->passes[i].uses[u].collective_count);
        }
        for (int32_t k = 0; k < spec->passes[i].collective_count; k++) {
            const zero_spec_collective_t *collective = &spec->passes[i].collectives[k];
            zero_hash_word(&hash, (uint64_t)collective->kind | (uint64_t)collective->axis << 16 |
                                      (uint64_t)collective->dtype << 32);
            zero_hash_word(&hash, (uint64_t)collective->count);
        }
        for (int32_t t = 0; t < spec->passes[i].task_count; t++) {
            zero_hash_word(&hash, (uint64_t)spec->passes[i].tasks[t].chunk << 32 | spec->passes[i].tasks[t].phase);
            zero_hash_word(&hash, (uint64_t)spec->passes[i].tasks[t].first_use);
        }
    }
    return hash;
}

/* Adds the chunks and tasks of a pipeline. */
static void add_pipeline(uint64_t *hash, const zero_spec_t *spec)
{
    zero_hash_word(hash, (uint64_t)spec->chunk_count);
    for (int32_t c = 0; c < spec->chunk_count; c++) {
        zero_hash_word(hash, (uint64_t)spec->chunks[c].link);
        zero_hash_word(hash, (uint64_t)spec->chunks[c].link_dtype);
    }
}

static void add_format(uint64_t *hash, const zero_format_t *format)
{
    zero_hash_word(hash, (uint64_t)format->dtype | (uint64_t)format->codec << 4 | (uint64_t)format->block << 8 |
                             (uint64_t)format->block_bytes << 32);
}

static void add_state(uint64_t *hash, const zero_spec_state_t *state)
{
    zero_hash_word(hash, (uint64_t)state->count);
    for (int i = 0; i < state->count; i++)
        add_format(hash, &state->format[i]);
}

void zero_build_hash(zero_builder_t *b)
{
    const zero_plan_t *plan = b->plan;
    const zero_spec_t *spec = b->spec;
    uint64_t hash = 0;

    zero_hash_word(&hash, spec->options);
    zero_hash_word(&hash, (uint64_t)spec->world);
    zero_hash_word(&hash, (uint64_t)spec->channels);
    zero_hash_word(&hash, (uint64_t)spec->piece);
    add_state(&hash, &spec->state);
    zero_hash_word(&hash, spec->whole);
    add_state(&hash, &spec->whole_state);
    for (int g = 0; g < spec->group_count; g++) {
        if (g > 0) /* the first is the world */
            zero_hash_word(&hash, (uint64_t)spec->groups[g].size | (uint64_t)spec->groups[g].axes << 32);
        zero_hash_text(&hash, spec->groups[g].caps.name);
        zero_hash_word(&hash, spec->groups[g].caps.ring_bytes);
    }
    zero_hash_text(&hash, spec->device.name);
    zero_hash_word(&hash, zero_spec_hash_params(spec));
    zero_hash_word(&hash, zero_spec_hash_passes(spec));
    zero_hash_word(&hash, (uint64_t)plan->pipe);
    add_pipeline(&hash, spec);
    /* Reserves (activations) may differ between ranks. They lie behind everything else, so no other offset depends on
     * them. */
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        const zero_buffer_t *x = &plan->buffers[i];
        if (zero_kind_is_reserved(x->kind))
            continue;
        zero_hash_word(&hash, (uint64_t)(uint32_t)x->segment | (uint64_t)(uint32_t)x->part << 32);
        zero_hash_word(&hash, (uint64_t)x->role | (uint64_t)x->kind << 8 | (uint64_t)x->tier << 16);
        add_format(&hash, &x->format);
        zero_hash_word(&hash, x->offset);
        zero_hash_word(&hash, x->bytes);
    }
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        zero_hash_word(&hash, (uint64_t)p->kind);
        zero_hash_word(&hash, (uint64_t)p->op_count);
        for (int32_t o = 0; o < p->op_count; o++) {
            const zero_op_t *op = &p->ops[o];
            zero_hash_word(&hash, (uint64_t)op->kind | (uint64_t)op->stream << 8 | (uint64_t)op->src_own << 16 |
                                      (uint64_t)op->dst_own << 24 | (uint64_t)op->group << 32 |
                                      (uint64_t)op->flags << 40);
            zero_hash_word(&hash, (uint64_t)(uint32_t)op->unit | (uint64_t)(uint32_t)op->segment << 32);
            zero_hash_word(&hash, (uint64_t)(uint32_t)op->src | (uint64_t)(uint32_t)op->dst << 32);
            zero_hash_word(&hash, (uint64_t)(uint32_t)op->use | (uint64_t)(uint32_t)op->event << 32);
            zero_hash_word(&hash, (uint64_t)(uint32_t)op->part);
            zero_hash_word(&hash, (uint64_t)op->count);
        }
    }
    b->plan->hash = hash != 0 ? hash : 1;
}

/* The member of *t that counts the bytes of an operation; NULL for none. */
static uint64_t *counted_in(const zero_plan_t *plan, const zero_op_t *op, zero_traffic_t *t)
{
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_GATHER:
    case ZERO_OP_COLLECT:
        return &t->gathered;
    case ZERO_OP_REDUCE_SCATTER:
    case ZERO_OP_SPREAD:
    case ZERO_OP_ALL_TO_ALL:
        return &t->reduced;
    case ZERO_OP_COLLECTIVE:
        return &t->collected;
    case ZERO_OP_RECV:
        return op->stream == ZERO_STREAM_FROM_PREV ? &t->activations_received : &t->gradients_received;
    case ZERO_OP_READ:
        return &t->read;
    case ZERO_OP_WRITE:
        return &t->written;
    case ZERO_OP_COPY:
        return plan->buffers[op->dst].tier == ZERO_TIER_HOST ? &t->to_host : &t->to_device;
    default:
        return NULL;
    }
}

static void count_program(const zero_plan_t *plan, zero_program_kind_t kind, uint64_t times, zero_traffic_t *t)
{
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        for (int32_t o = 0; o < p->op_count && p->kind == kind; o++) {
            uint64_t *sum = counted_in(plan, &p->ops[o], t);
            if (sum != NULL)
                *sum += times * p->ops[o].bytes;
            if (plan->spec->groups[p->ops[o].group].axes == ZERO_ALONG_NODE && sum == &t->gathered)
                t->node_gathered += times * p->ops[o].bytes;
            if (plan->spec->groups[p->ops[o].group].axes == ZERO_ALONG_REPLICA && sum == &t->gathered)
                t->replica_gathered += times * p->ops[o].bytes;
            if (plan->spec->groups[p->ops[o].group].axes == ZERO_ALONG_REPLICA && sum == &t->reduced)
                t->replica_reduced += times * p->ops[o].bytes;
        }
    }
}

zero_status_t zero_plan_traffic(const zero_plan_t *plan, int micro_steps, zero_traffic_t *traffic, zero_error_t *error)
{
    if (micro_steps < 1 || micro_steps > plan->spec->micro_steps)
        return zero_fail(error, ZERO_ERR_ARG, "a step of %d micro-steps; this plan has steps of 1 to %d", micro_steps,
                         plan->spec->micro_steps);
    *traffic = (zero_traffic_t){0};
    if (plan->spec->chunk_count > 0 && micro_steps != plan->spec->micro_steps)
        return zero_fail(error, ZERO_ERR_ARG, "a step of %d micro-steps; this plan has steps of exactly %d",
                         micro_steps, plan->spec->micro_steps);
    if (micro_steps == 1 || plan->spec->chunk_count > 0) {
        count_program(plan, ZERO_PROGRAM_ONLY, 1, traffic);
    } else {
        count_program(plan, ZERO_PROGRAM_FIRST, 1, traffic);
        count_program(plan, ZERO_PROGRAM_MIDDLE, (uint64_t)micro_steps - 2, traffic);
        count_program(plan, ZERO_PROGRAM_LAST, 1, traffic);
    }
    count_program(plan, ZERO_PROGRAM_STEP, 1, traffic);
    return ZERO_OK;
}
