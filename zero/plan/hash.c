/* SPDX-License-Identifier: Apache-2.0 */
/* hash.c - one number for all that ranks must agree on, and the bytes that a step moves. */
#include "zero/plan/build.h"

/* Words are mixed one after the other (SplitMix64 as a keyed step); fields are added one by one, so that padding of
 * structs never counts. */
static void add(uint64_t *hash, uint64_t word)
{
    *hash = zero_splitmix64(*hash ^ word) + word;
}

static void add_double(uint64_t *hash, double value)
{
    uint64_t word;
    memcpy(&word, &value, sizeof word);
    add(hash, word);
}

static void add_text(uint64_t *hash, const char *text)
{
    size_t n = text != NULL ? strlen(text) : 0;
    add(hash, n);
    for (size_t i = 0; i < n; i += 8) {
        uint64_t word = 0;
        memcpy(&word, text + i, n - i < 8 ? n - i : 8);
        add(hash, word);
    }
}

static void add_format(uint64_t *hash, const zero_format_t *format)
{
    add(hash, (uint64_t)format->dtype | (uint64_t)format->block << 8 | (uint64_t)format->block_bytes << 32);
}

static void add_spec(uint64_t *hash, const zero_spec_t *spec)
{
    const zero_row_t *rows[] = {&spec->parameters, &spec->gradients, &spec->optimizer};
    for (int i = 0; i < 3; i++) {
        add(hash, (uint64_t)rows[i]->sharding);
        add(hash, (uint64_t)rows[i]->tier);
    }
    const int64_t numbers[] = {spec->world,        spec->window,        spec->reduce,        spec->micro_steps,
                               spec->reduce_dtype, spec->persist_bytes, spec->channels,      spec->unit_count,
                               spec->param_count,  spec->pass_count,    spec->reserve_count, spec->piece};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        add(hash, (uint64_t)numbers[i]);
    add(hash, (uint64_t)spec->states);
    add_format(hash, &spec->state_format);
    add_double(hash, spec->offload_ratio);
    add_text(hash, spec->comm.name);
    add(hash, spec->comm.ring_bytes);
    add_text(hash, spec->device.name);
    for (int32_t i = 0; i < spec->unit_count; i++)
        add_text(hash, spec->units[i].name);
    for (int32_t i = 0; i < spec->param_count; i++) {
        const zero_spec_param_t *p = &spec->params[i];
        add_text(hash, p->name);
        add(hash, (uint64_t)p->unit);
        add(hash, (uint64_t)p->ndim);
        for (int32_t d = 0; d < p->ndim; d++)
            add(hash, (uint64_t)p->shape[d]);
        add(hash, (uint64_t)p->dtype);
        add(hash, p->trainable);
        add_double(hash, p->decay_scale);
        add_double(hash, p->lr_scale);
    }
    for (int32_t i = 0; i < spec->pass_count; i++) {
        add_text(hash, spec->passes[i].name);
        add(hash, (uint64_t)spec->passes[i].kind);
        add(hash, (uint64_t)spec->passes[i].use_count);
        for (int32_t u = 0; u < spec->passes[i].use_count; u++) {
            add(hash, (uint64_t)spec->passes[i].uses[u].unit);
            add(hash, spec->passes[i].uses[u].flags);
        }
    }
}

void zero_build_hash(zero_builder_t *b)
{
    const zero_plan_t *plan = b->plan;
    uint64_t hash = 0;

    add_spec(&hash, b->spec);
    /* Reserves (activations) may differ between ranks; they lie behind everything else, so that no offset depends on
     * them. */
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        const zero_buffer_t *x = &plan->buffers[i];
        if (x->kind == ZERO_KIND_ACTIVATIONS || x->kind == ZERO_KIND_WORKSPACE)
            continue;
        add(&hash, (uint64_t)(uint32_t)x->segment | (uint64_t)(uint32_t)x->part << 32);
        add(&hash, (uint64_t)x->role | (uint64_t)x->kind << 8 | (uint64_t)x->tier << 16);
        add_format(&hash, &x->format);
        add(&hash, x->offset);
        add(&hash, x->bytes);
    }
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        add(&hash, (uint64_t)p->kind);
        add(&hash, (uint64_t)p->op_count);
        for (int32_t o = 0; o < p->op_count; o++) {
            const zero_op_t *op = &p->ops[o];
            add(&hash, (uint64_t)op->kind | (uint64_t)op->stream << 8 | (uint64_t)op->src_own << 16 |
                           (uint64_t)op->dst_own << 24 | (uint64_t)op->group << 32 | (uint64_t)op->flags << 40);
            add(&hash, (uint64_t)(uint32_t)op->unit | (uint64_t)(uint32_t)op->segment << 32);
            add(&hash, (uint64_t)(uint32_t)op->src | (uint64_t)(uint32_t)op->dst << 32);
            add(&hash, (uint64_t)(uint32_t)op->use | (uint64_t)(uint32_t)op->event << 32);
            add(&hash, (uint64_t)(uint32_t)op->part);
            add(&hash, (uint64_t)op->count);
        }
    }
    b->plan->hash = hash != 0 ? hash : 1;
}

static void count_program(const zero_plan_t *plan, zero_program_kind_t kind, uint64_t times, zero_traffic_t *t)
{
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        for (int32_t o = 0; o < p->op_count && p->kind == kind; o++) {
            const zero_op_t *op = &p->ops[o];
            uint64_t *sum = op->kind == ZERO_OP_GATHER                      ? &t->gathered
                            : op->kind == ZERO_OP_REDUCE_SCATTER            ? &t->reduced
                            : op->kind == ZERO_OP_READ                      ? &t->read
                            : op->kind == ZERO_OP_WRITE                     ? &t->written
                            : op->kind != ZERO_OP_COPY                      ? NULL
                            : plan->buffers[op->dst].tier == ZERO_TIER_HOST ? &t->to_host
                                                                            : &t->to_device;
            if (sum != NULL)
                *sum += times * op->bytes;
        }
    }
}

zero_status_t zero_plan_traffic(const zero_plan_t *plan, int micro_steps, zero_traffic_t *traffic, zero_error_t *error)
{
    if (micro_steps < 1 || micro_steps > plan->spec->micro_steps)
        return zero_fail(error, ZERO_ERR_ARG, "a step of %d micro-steps; this plan has steps of 1 to %d", micro_steps,
                         plan->spec->micro_steps);
    *traffic = (zero_traffic_t){0};
    if (micro_steps == 1) {
        count_program(plan, ZERO_PROGRAM_ONLY, 1, traffic);
    } else {
        count_program(plan, ZERO_PROGRAM_FIRST, 1, traffic);
        count_program(plan, ZERO_PROGRAM_MIDDLE, (uint64_t)micro_steps - 2, traffic);
        count_program(plan, ZERO_PROGRAM_LAST, 1, traffic);
    }
    count_program(plan, ZERO_PROGRAM_STEP, 1, traffic);
    return ZERO_OK;
}
