/* SPDX-License-Identifier: Apache-2.0 */
/* test_plan.c - properties of plans: placement, slots, addresses, bytes, hash and text, with tests/golden/plan-*.txt.
 * plan_errors.c tests the errors. */
#include "tests/golden.h"
#include "tests/plan_suites.h"

#include <stdio.h>
#include <stdlib.h>

static declare_t declaration, *const d = &declaration;

zero_plan_t *plan_build(const declare_t *declared)
{
    zero_plan_t *plan;
    zero_error_t error = {.text = ""};
    ck_assert_msg(zero_plan_build(&plan, &declared->spec, 0, &error) == ZERO_OK, "%s", error.text);
    ck_assert_msg(zero_plan_check(plan, &error) == ZERO_OK, "%s", error.text);
    return plan;
}

static zero_plan_t *build(void)
{
    return plan_build(d);
}

static int random_count(void)
{
    const char *text = getenv("ZERO_CHECK_FULL");
    return text != NULL && strcmp(text, "1") == 0 ? 20000 : 600;
}

/* ---- properties ------------------------------------------------------------------------------------------------- */

static void check_segments(const zero_plan_t *plan)
{
    for (int32_t i = 0; i < plan->segment_count; i++) {
        const zero_segment_t *s = &plan->segments[i];
        /* Places that do not share the segment have slices of their own. */
        const int owners = d->spec.world / (s->spread == ZERO_SPREAD_SUMMED ? 1 : d->spec.mesh.tensor);
        ck_assert_int_eq(s->elements % (owners * (int64_t)ZERO_ALIGN_ELEMENTS), 0);
        ck_assert_int_eq(s->slice * owners, s->elements);
        int64_t end = 0, params = 0;
        for (int r = 0; r < owners; r++) { /* slices are adjacent, and each element has one owner */
            zero_span_t slice = zero_plan_span(plan, zero_plan_rank(plan, i, r), s->buffer[ZERO_ROLE_PARAM], true, -1);
            ck_assert_int_eq(slice.begin, end);
            ck_assert_int_eq(slice.count, s->slice);
            end += slice.count;
        }
        ck_assert_int_eq(end, s->elements);
        end = 0;
        for (int32_t r = s->first_run; r < s->first_run + s->run_count;
             r++) { /* runs cover the segment, including padding */
            ck_assert_int_eq(plan->runs[r].begin, end);
            ck_assert_int_gt(plan->runs[r].end, end);
            end = plan->runs[r].end;
        }
        ck_assert_int_eq(end, s->elements);
        for (int32_t p = 0; p < d->spec.param_count; p++) {
            const zero_placed_t *at = &plan->placed[p];
            if (at->segment != i)
                continue;
            ck_assert_int_eq(at->offset % ZERO_ALIGN_ELEMENTS, 0);
            ck_assert_int_ge(at->offset, params); /* in the order of declaration, without overlap */
            params = at->offset + d->params[p].count;
            ck_assert_int_le(params, s->elements);
            ck_assert_int_eq(s->unit, d->params[p].unit);
            ck_assert_int_eq(s->dtype, d->params[p].dtype);
            ck_assert_int_eq(s->trainable, d->params[p].trainable);
            for (int32_t r = s->first_run; r < s->first_run + s->run_count; r++)
                if (plan->runs[r].begin <= at->offset && at->offset < plan->runs[r].end)
                    ck_assert(plan->runs[r].decay_scale == d->params[p].decay_scale);
        }
        ck_assert_int_lt(s->elements - params,
                         d->spec.world * (int64_t)ZERO_ALIGN_ELEMENTS); /* no more padding than needed */
    }
    for (int32_t p = 0; p < d->spec.param_count; p++)
        ck_assert_int_eq(plan->placed[p].segment < 0, d->params[p].count == 0);
}

/* A buffer in a slot that all segments use in turn. */
static bool is_in_turn(const zero_buffer_t *x)
{
    return x->role == ZERO_ROLE_WIRE || x->role == ZERO_ROLE_WHOLE || x->role == ZERO_ROLE_MATRICES ||
           x->role == ZERO_ROLE_PARAM_CODES || x->role == ZERO_ROLE_GRAD_CODES || x->role == ZERO_ROLE_ARRIVED_CODES ||
           x->role == ZERO_ROLE_WIRE_SHARD;
}

/* Byte ranges overlap only within a slot, and each kind is a page-aligned range. */
static void check_layout(const zero_plan_t *plan)
{
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++) {
        uint64_t end = 0;
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++) {
            if (kind == ZERO_KIND_RINGS)
                continue;
            ck_assert_uint_eq(plan->kind_offset[tier][kind], end);
            ck_assert_uint_eq(plan->kind_bytes[tier][kind] % ZERO_PAGE, 0);
            end += plan->kind_bytes[tier][kind];
        }
        ck_assert_uint_eq(end, plan->arena_bytes[tier]);
    }
    for (int32_t i = 0; i < plan->buffer_count; i++)
        for (int32_t j = i + 1; j < plan->buffer_count; j++) {
            const zero_buffer_t *a = &plan->buffers[i], *b = &plan->buffers[j];
            bool overlap = a->tier == b->tier && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes &&
                           a->bytes > 0 && b->bytes > 0;
            bool staged = a->part >= 0 && b->part >= 0 && a->part != b->part; /* used one after the other */
            bool turns = is_in_turn(a) && is_in_turn(b);
            ck_assert_msg(!overlap || (a->slot >= 0 && a->slot == b->slot && (a->role == b->role || staged || turns)),
                          "buffers %d and %d overlap", i, j);
            if (overlap && !turns && !staged) /* two units, never two segments of one unit */
                ck_assert_int_ne(plan->segments[a->segment].unit, plan->segments[b->segment].unit);
        }
}

/* Fills a unit's slot of parameters, or part of it. */
static bool brings_parameters(const zero_plan_t *plan, const zero_op_t *op)
{
    return (op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_COPY || op->kind == ZERO_OP_CAST) &&
           plan->buffers[op->dst].role == ZERO_ROLE_PARAM && plan->buffers[op->dst].slot >= 0;
}

/* Tracks the unit in each slot of parameters. At a use, the slot contains the use's unit. No gather overwrites a unit
 * that is held. At most `window` units are gathered for later uses. */
static void check_window(const zero_plan_t *plan, const zero_program_t *p)
{
    static bool waiting[DECLARE_UNITS]; /* gathered for a use that has not been released */
    static int32_t occupant[4096];      /* by slot */
    static bool sharded[DECLARE_UNITS];
    memset(waiting, 0, sizeof waiting);
    memset(sharded, 0, sizeof sharded);
    for (int32_t s = 0; s < plan->segment_count; s++)
        sharded[plan->segments[s].unit] |= plan->segments[s].buffer[ZERO_ROLE_PARAM_SHARD] >= 0;
    for (int i = 0; i < 4096; i++)
        occupant[i] = -1;
    for (int32_t o = 0; o < p->op_count; o++) {
        const zero_op_t *op = &p->ops[o];
        if (brings_parameters(plan, op)) {
            int32_t *slot = &occupant[plan->buffers[op->dst].slot];
            ck_assert(*slot < 0 || *slot == op->unit || !waiting[*slot]);
            *slot = op->unit;
            waiting[op->unit] = true;
            int resident = 0;
            for (int32_t u = 0; u < d->spec.unit_count; u++)
                resident += waiting[u];
            if (p->kind != ZERO_PROGRAM_ANY)
                ck_assert_int_le(resident, d->spec.window);
        } else if (op->kind == ZERO_OP_USE && (op->flags & ZERO_READ)) {
            for (int32_t s = 0; s < plan->segment_count; s++) {
                int32_t slot = plan->segments[s].unit == op->unit
                                   ? plan->buffers[plan->segments[s].buffer[ZERO_ROLE_PARAM]].slot
                                   : -1;
                ck_assert(slot < 0 || occupant[slot] == op->unit);
            }
        } else if (op->kind == ZERO_OP_RELEASE && (op->flags & ZERO_READ)) {
            bool again = false; /* used again before the next gather: it stays */
            for (int32_t k = o + 1; k < p->op_count && p->ops[k].kind != ZERO_OP_COUNT; k++) {
                if (p->ops[k].unit != op->unit)
                    continue;
                if (brings_parameters(plan, &p->ops[k]))
                    break;
                again = again || (p->ops[k].kind == ZERO_OP_USE && (p->ops[k].flags & ZERO_READ));
            }
            waiting[op->unit] = again && sharded[op->unit];
        }
    }
}

static void check_counts(const zero_plan_t *plan)
{
    int32_t segments_per_unit[DECLARE_UNITS] = {0}, most = 1;
    for (int32_t s = 0; s < plan->segment_count; s++) {
        int32_t n = ++segments_per_unit[plan->segments[s].unit];
        most = n > most ? n : most;
    }
    int32_t away = 0; /* parts that are not updated on the device: copies, reads, writes and their waits */
    for (int32_t p = 0; p < plan->part_count; p++)
        away += plan->parts[p].tier != ZERO_TIER_DEVICE;
    for (int32_t i = 0; i < plan->program_count; i++) {
        const zero_program_t *p = &plan->programs[i];
        if (p->kind == ZERO_PROGRAM_SAVE) { /* each buffer once, and an event for each unit */
            ck_assert_int_le(p->op_count, 20 + plan->segment_count + 3 * plan->part_count + 2 * d->spec.unit_count);
            continue;
        }
        int32_t uses = p->kind == ZERO_PROGRAM_STEP  ? d->spec.unit_count
                       : p->kind == ZERO_PROGRAM_ANY ? 1
                                                     : d->passes[p->pass].use_count;
        ck_assert_int_le(p->op_count, 8 +
                                          uses * (12 + (d->spec.parameters.tier == ZERO_TIER_DEVICE ? 6
                                                        : d->spec.parameters.tier == ZERO_TIER_HOST ? 12
                                                                                                    : 20) *
                                                           most) +
                                          2 * plan->segment_count + 32 * away);
        for (int32_t o = 0; o < p->op_count; o++) /* operations that one rank does not need */
            ck_assert(d->spec.world > 1 ||
                      (p->ops[o].kind != ZERO_OP_GATHER && p->ops[o].kind != ZERO_OP_REDUCE_SCATTER));
        if (p->kind != ZERO_PROGRAM_STEP)
            check_window(plan, p);
    }
}

START_TEST(random_plans_are_right)
{
    for (uint64_t seed = 0; seed < (uint64_t)random_count(); seed++) {
        declare_random(d, seed ^ 0xabcdef, 8, false);
        zero_plan_t *plan = build();
        check_segments(plan);
        check_layout(plan);
        check_counts(plan);
        zero_plan_destroy(plan);
    }
}
END_TEST

START_TEST(addresses_depend_on_nothing_but_the_plan)
{
    /* The same declaration gives the same plan, byte for byte. A chain of equal layers has as many slots as the
     * window. */
    for (int window = 1; window <= 4; window++) {
        declare_init(d, 4);
        declare_stage(d, 3);
        declare_chain(d, 9, 1000, ZERO_FP32);
        d->spec.window = window;
        zero_plan_t *a = build(), *b = build();
        ck_assert_int_eq(a->buffer_count, b->buffer_count);
        int highest = -1, lowest = 1000;
        for (int32_t i = 0; i < a->buffer_count; i++) {
            ck_assert_uint_eq(a->buffers[i].offset, b->buffers[i].offset);
            if (a->buffers[i].role == ZERO_ROLE_PARAM) {
                highest = a->buffers[i].slot > highest ? a->buffers[i].slot : highest;
                lowest = a->buffers[i].slot < lowest ? a->buffers[i].slot : lowest;
            }
        }
        ck_assert_int_eq(lowest, 0);
        ck_assert_int_eq(highest - lowest + 1, window);
        zero_plan_destroy(a);
        zero_plan_destroy(b);
    }
}
END_TEST

/* ---- bytes ------------------------------------------------------------------------------------------------------ */

/* ARCHITECTURE: elements on the wire per parameter and step, times (N-1)/N: R + 1 at stages 0 to 2, 2A + R at stage 3
 * before elided gathers. */
START_TEST(bytes_on_the_wire)
{
    enum { LAYERS = 6, COUNT = 128 * 24 };
    for (int world = 1; world <= 4; world++)
        for (int stage = 0; stage <= 3; stage++)
            for (int reduce = 0; reduce <= 1; reduce++)
                for (int micro = 1; micro <= 4; micro++)
                    for (int window = 1; window <= 3; window++) {
                        declare_init(d, world);
                        declare_stage(d, stage);
                        declare_chain(d, LAYERS, COUNT, ZERO_FP32);
                        d->spec.micro_steps = 4;
                        d->spec.reduce = (zero_reduce_t)reduce;
                        d->spec.window = window;
                        zero_plan_t *plan = build();
                        zero_traffic_t t;
                        zero_error_t error;
                        ck_assert_int_eq(zero_plan_traffic(plan, micro, &t, &error), ZERO_OK);
                        uint64_t layer = (uint64_t)(world - 1) * COUNT / (uint64_t)world * 4;
                        uint64_t reductions = reduce == ZERO_REDUCE_EVERY ? (uint64_t)micro : 1;
                        ck_assert_uint_eq(t.reduced, LAYERS * layer * reductions);
                        /* stage 3: the backward pass finds the last layers of the forward pass still gathered */
                        uint64_t gathers = stage < 3 ? LAYERS : (uint64_t)micro * (uint64_t)(2 * LAYERS - window);
                        ck_assert_uint_eq(t.gathered, gathers * layer);
                        zero_plan_destroy(plan);
                    }
    zero_plan_t *plan;
    zero_error_t error;
    zero_traffic_t none;
    declare_init(d, 2);
    declare_chain(d, 2, 128, ZERO_FP32);
    plan = build();
    ck_assert_int_eq(zero_plan_traffic(plan, 2, &none, &error), ZERO_ERR_ARG);
    ck_assert_int_eq(zero_plan_traffic(plan, 0, &none, &error), ZERO_ERR_ARG);
    zero_plan_destroy(plan);
}
END_TEST

/* Codes of 128 elements take 132 bytes, or 68. */
START_TEST(bytes_of_codes)
{
    enum { LAYERS = 6, BLOCKS = 24 };
    for (int world = 1; world <= 4; world++)
        for (int codec = ZERO_CODEC_INT8; codec <= ZERO_CODEC_INT4; codec++) {
            declare_init(d, world);
            declare_stage(d, 3);
            declare_chain(d, LAYERS, (int64_t)BLOCKS * 128, ZERO_BF16);
            d->spec.window = 1;
            d->spec.gather_codec = ZERO_CODEC_INT8;
            d->spec.reduce_codec = (zero_codec_t)codec;
            zero_plan_t *plan = build();
            zero_traffic_t t;
            zero_error_t error;
            ck_assert_int_eq(zero_plan_traffic(plan, 1, &t, &error), ZERO_OK);
            uint64_t blocks = (uint64_t)(world - 1) * BLOCKS / (uint64_t)world;
            ck_assert_uint_eq(t.gathered, (2 * LAYERS - 1) * blocks * 132);
            ck_assert_uint_eq(t.reduced, LAYERS * blocks * (codec == ZERO_CODEC_INT8 ? 132 : 68));
            for (int32_t i = 0; i < plan->buffer_count; i++)
                ck_assert(world > 1 || plan->buffers[i].format.codec == ZERO_CODEC_NONE);
            zero_plan_destroy(plan);
        }
}
END_TEST

/* Bytes per parameter that stay between steps, without windows. */
static double bytes_per_parameter(int world, int stage, int micro_steps, zero_reduce_t reduce, zero_dtype_t wire)
{
    enum { LAYERS = 4, COUNT = 128 * 240 };
    declare_init(d, world);
    declare_stage(d, stage);
    declare_chain(d, LAYERS, COUNT, ZERO_BF16);
    d->spec.micro_steps = micro_steps;
    d->spec.reduce = reduce;
    d->spec.reduce_dtype = wire;
    zero_plan_t *plan = build();
    double bytes = 0;
    for (int32_t i = 0; i < plan->buffer_count; i++)
        if (plan->buffers[i].segment >= 0 && plan->buffers[i].kind != ZERO_KIND_WINDOW)
            bytes += (double)plan->buffers[i].bytes;
    zero_plan_destroy(plan);
    return bytes / (LAYERS * COUNT);
}

START_TEST(bytes_per_parameter_at_each_stage)
{
    for (int n = 2; n <= 5; n++) {
        /* bf16, Adam, one micro-step: ARCHITECTURE's 16; 4 + 12/N; 2 + 14/N; 16/N */
        const double one[] = {16, 4 + 12.0 / n, 2 + 14.0 / n, 16.0 / n};
        for (int stage = 0; stage <= 3; stage++) {
            ck_assert_double_eq_tol(bytes_per_parameter(n, stage, 1, ZERO_REDUCE_EVERY, ZERO_BF16), one[stage], 1e-9);
            ck_assert_double_eq_tol(bytes_per_parameter(1, stage, 1, ZERO_REDUCE_EVERY, ZERO_BF16), 16, 1e-9);
        }
        /* several micro-steps, reduced once: one full fp32 gradient at every stage */
        const double last[] = {2 + 4 + 12, 2 + 4 + 12.0 / n, 2 + 4 + 12.0 / n, 4 + 14.0 / n};
        /* several micro-steps, each reduced: an fp32 slice, or the whole gradient if updates are full; written
         * gradients are in slots */
        const double every[] = {2 + 4 + 12, 2 + 16.0 / n, 2 + 16.0 / n, 18.0 / n};
        for (int stage = 0; stage <= 3; stage++) {
            ck_assert_double_eq_tol(bytes_per_parameter(n, stage, 3, ZERO_REDUCE_LAST, ZERO_FP32), last[stage], 1e-9);
            ck_assert_double_eq_tol(bytes_per_parameter(n, stage, 3, ZERO_REDUCE_EVERY, ZERO_FP32), every[stage], 1e-9);
            /* one rank: the same bytes for both reductions */
            ck_assert_double_eq_tol(bytes_per_parameter(1, stage, 3, ZERO_REDUCE_EVERY, ZERO_FP32), 18, 1e-9);
            ck_assert_double_eq_tol(bytes_per_parameter(1, stage, 3, ZERO_REDUCE_LAST, ZERO_FP32), 18, 1e-9);
        }
    }
}
END_TEST

START_TEST(rings_and_reserves_are_counted)
{
    declare_init(d, 4);
    declare_chain(d, 2, 100, ZERO_FP32);
    d->spec.channels = 2;
    d->reserves[0] = (zero_spec_reserve_t){ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 10001};
    d->reserves[1] = (zero_spec_reserve_t){ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 0};
    d->spec.reserve_count = 2;
    zero_plan_t *plan = build();
    ck_assert_uint_eq(plan->kind_bytes[ZERO_TIER_HOST][ZERO_KIND_RINGS], 2 << 20);
    zero_plan_destroy(plan);
    declare_replicas(d, 2);
    d->spec.groups[1].caps.ring_bytes = 4096;
    d->spec.groups[2].caps.ring_bytes = 8192;
    plan = build();
    ck_assert_uint_eq(plan->kind_bytes[ZERO_TIER_HOST][ZERO_KIND_RINGS], (2 << 20) + 2 * (4096 + 8192));
    ck_assert_uint_ge(plan->buffers[plan->reserve_buffer[0]].bytes, 10001);
    ck_assert_uint_eq(plan->kind_bytes[ZERO_TIER_DEVICE][ZERO_KIND_ACTIVATIONS], 12288);
    ck_assert_uint_eq(plan->kind_bytes[ZERO_TIER_DEVICE][ZERO_KIND_WORKSPACE], 0);
    zero_plan_destroy(plan);
}
END_TEST

START_TEST(small_units_stay_full)
{
    declare_init(d, 2);
    declare_stage(d, 3);
    declare_chain(d, 3, 1000, ZERO_FP32);
    d->params[1].count = d->params[1].shape[0] = 10;
    d->spec.persist_bytes = 41;
    zero_plan_t *plan = build();
    ck_assert_int_eq(plan->segments[1].buffer[ZERO_ROLE_PARAM_SHARD], -1);
    ck_assert_int_ge(plan->segments[0].buffer[ZERO_ROLE_PARAM_SHARD], 0);
    zero_plan_destroy(plan);
    d->spec.persist_bytes = 40; /* smaller than, not equal to */
    plan = build();
    ck_assert_int_ge(plan->segments[1].buffer[ZERO_ROLE_PARAM_SHARD], 0);
    zero_plan_destroy(plan);
}
END_TEST

START_TEST(passes_without_training)
{
    declare_init(d, 2);
    declare_stage(d, 3);
    int32_t u = declare_unit(d, "only");
    declare_param(d, u, 300, ZERO_BF16, true, 1);
    int32_t eval = declare_pass(d, ZERO_PASS_EVAL);
    declare_use(d, eval, u, ZERO_READ);
    declare_pass(d, ZERO_PASS_ANY_ORDER);
    zero_plan_t *plan = build();
    ck_assert(!plan->segments[0].trainable);
    ck_assert_int_eq(plan->program_count, 2);
    ck_assert_int_eq(zero_plan_program(plan, ZERO_PROGRAM_EVAL, eval, -1), 0);
    ck_assert_int_eq(zero_plan_program(plan, ZERO_PROGRAM_ANY, 1, u), 1);
    ck_assert_int_eq(zero_plan_program(plan, ZERO_PROGRAM_STEP, -1, -1), -1);
    zero_plan_destroy(plan);
    declare_init(d, 2); /* an empty declaration gives a plan, too */
    zero_plan_destroy(build());
    zero_plan_destroy(NULL);
}
END_TEST

START_TEST(large_worlds)
{
    declare_init(d, 1024); /* a model of GPT-2 1.5B's size, with 48 layers; only planned */
    declare_stage(d, 3);
    declare_chain(d, 48, 30740000, ZERO_BF16);
    zero_plan_t *plan = build();
    ck_assert_uint_lt(plan->kind_bytes[ZERO_TIER_DEVICE][ZERO_KIND_PARAMETERS], 4000000);
    zero_plan_destroy(plan);
}
END_TEST

/* ---- hash ------------------------------------------------------------------------------------------------------- */

static uint64_t hash(void)
{
    zero_plan_t *plan = build();
    uint64_t h = plan->hash;
    zero_plan_destroy(plan);
    return h;
}

void plan_model(declare_t *declared)
{
    declare_init(declared, 2);
    declare_stage(declared, 3);
    declare_chain(declared, 3, 1000, ZERO_FP32);
}

START_TEST(hash_sees_every_declaration)
{
    plan_model(d);
    uint64_t base = hash();
    ck_assert_uint_eq(base, hash());
#define CHANGES(statement)                               \
    do {                                                 \
        plan_model(d);                                   \
        statement;                                       \
        ck_assert_msg(hash() != base, "%s", #statement); \
    } while (0)
    CHANGES(d->spec.options = 1);
    CHANGES(declare_world(d, 3));
    CHANGES(d->spec.window = 3);
    CHANGES(d->spec.micro_steps = 2);
    CHANGES(d->spec.reduce_dtype = ZERO_BF16);
    CHANGES(d->spec.gather_codec = ZERO_CODEC_INT8);
    CHANGES(d->spec.reduce_codec = ZERO_CODEC_INT8);
    CHANGES(declare_stage(d, 2));
    CHANGES((d->spec.device.asynchronous = false, d->spec.channels = 1));
    CHANGES(declare_replicas(d, 2));
    CHANGES(d->spec.piece = ZERO_PIECE_QUANTUM);
    CHANGES(d->params[1].count = d->params[1].shape[0] = 999);
    CHANGES(d->params[1].trainable = false);
    CHANGES(d->params[1].decay_scale = 0);
    CHANGES(d->params[1].lr_scale = 2);
    CHANGES(d->params[1].dtype = ZERO_BF16);
    CHANGES(d->param_names[1][0] = 'X');
    CHANGES(d->unit_names[1][0] = 'X');
    CHANGES(d->pass_names[0][0] = 'X');
    CHANGES(d->uses[0][5].flags = ZERO_GRAD);
    CHANGES((d->params[1].ndim = 2, d->params[1].shape[1] = 1));
    CHANGES(declare_pass(d, ZERO_PASS_ANY_ORDER));
#undef CHANGES
    plan_model(d); /* options in which ranks may differ */
    d->reserves[0] = (zero_spec_reserve_t){ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, 4096};
    d->spec.reserve_count = 1;
    base = hash();
    d->reserves[0].bytes = 8192;
    ck_assert_uint_eq(base, hash());
}
END_TEST

/* ---- text ------------------------------------------------------------------------------------------------------- */

static void compare(const char *name)
{
    char path[100];
    golden_text_t text = {0};
    zero_plan_t *plan = build();
    zero_plan_explain(plan, golden_append, &text);
    zero_plan_destroy(plan);
    snprintf(path, sizeof path, "tests/golden/plan-%s.txt", name);
    golden_compare(&text, path);
    free(text.bytes);
}

/* The embedding is tied to the head; two blocks have parameters with and without decay; the base of an adapter is
 * frozen. */
static void make_golden(int world, int stage, zero_dtype_t dtype)
{
    declare_init(d, world);
    declare_stage(d, stage);
    int32_t embedding = declare_unit(d, "embedding"), first = declare_unit(d, "block.0"),
            second = declare_unit(d, "block.1");
    declare_param(d, embedding, 1000, dtype, true, 1);
    for (int32_t block = first; block <= second; block++) {
        declare_param(d, block, 300, dtype, true, 1);
        declare_param(d, block, 5, dtype, true, 0);
    }
    declare_param(d, second, 77, dtype, false, 0);
    int32_t train = declare_pass(d, ZERO_PASS_TRAIN), eval = declare_pass(d, ZERO_PASS_EVAL);
    for (int p = train; p <= eval; p++) {
        for (int32_t u = embedding; u <= second; u++)
            declare_use(d, p, u, ZERO_READ);
        declare_use(d, p, embedding, ZERO_READ | (p == train ? ZERO_GRAD : 0));
    }
    declare_use(d, train, second, ZERO_READ | ZERO_GRAD);
    declare_use(d, train, first, ZERO_READ | ZERO_GRAD);
    declare_use(d, train, embedding, ZERO_GRAD);
    declare_pass(d, ZERO_PASS_ANY_ORDER);
}

START_TEST(golden_text)
{
    char name[64];
    for (int stage = 0; stage <= 3; stage++) {
        make_golden(2, stage, ZERO_FP32);
        snprintf(name, sizeof name, "stage%d", stage);
        compare(name);
    }
    make_golden(1, 3, ZERO_FP32);
    compare("one-rank");
    make_golden(3, 3, ZERO_BF16);
    d->spec.window = 1;
    compare("stage3-bf16-window1");
    make_golden(2, 3, ZERO_BF16);
    d->spec.micro_steps = 3;
    d->spec.window = 3;
    d->spec.persist_bytes = 1000;
    compare("stage3-bf16-every");
    make_golden(2, 2, ZERO_BF16);
    d->spec.micro_steps = 2;
    d->spec.reduce = ZERO_REDUCE_LAST;
    d->spec.reduce_dtype = ZERO_BF16;
    compare("stage2-bf16-last");
    make_golden(2, 0, ZERO_BF16);
    d->spec.micro_steps = 2;
    compare("stage0-bf16-every");
    for (int last = 0; last < 2; last++) {
        make_golden(2, 2, ZERO_BF16);
        d->spec.micro_steps = 2;
        d->spec.reduce = last ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY;
        d->spec.reduce_dtype = ZERO_BF16;
        d->spec.optimizer.tier = d->spec.gradients.tier = ZERO_TIER_HOST;
        compare(last ? "stage2-bf16-last-offload" : "stage2-bf16-every-offload");
    }
    for (int offload = 0; offload < 2; offload++) {
        make_golden(2, 2, ZERO_BF16);
        d->spec.whole = true;
        d->spec.whole_state = (zero_spec_state_t){1, {zero_format_plain(ZERO_FP32)}};
        for (int32_t p = 0; p < d->spec.param_count; p++)
            if (d->params[p].count == 300) {
                d->params[p].ndim = 2;
                d->params[p].shape[0] = 20;
                d->params[p].shape[1] = 15;
            }
        if (offload)
            d->spec.optimizer.tier = d->spec.gradients.tier = ZERO_TIER_NVME;
        d->spec.gradients.tier = offload ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
        compare(offload ? "stage2-bf16-whole-nvme" : "stage2-bf16-whole");
    }
    for (int stage = 1; stage <= 3; stage += 2) { /* two replicas of two shards */
        make_golden(4, stage, ZERO_FP32);
        declare_replicas(d, 2);
        snprintf(name, sizeof name, "replicas-stage%d", stage);
        compare(name);
    }
    make_golden(4, 3, ZERO_BF16); /* two nodes of two ranks, and a window that drops units before the backward pass */
    d->spec.window = 1;
    d->spec.mesh.node = 2;
    zero_plan_set_groups(&d->spec);
    compare("nodes-stage3");
    for (int offload = 0; offload < 2; offload++) {
        make_golden(4, 2, ZERO_BF16);
        declare_replicas(d, 2);
        d->spec.micro_steps = 2;
        d->spec.reduce_dtype = ZERO_BF16;
        if (offload)
            d->spec.optimizer.tier = d->spec.gradients.tier = ZERO_TIER_HOST;
        compare(offload ? "replicas-stage2-bf16-every-offload" : "replicas-stage2-bf16-every");
    }
    make_golden(2, 3, ZERO_BF16);
    d->spec.window = 1;
    d->spec.gather_codec = ZERO_CODEC_INT8;
    d->spec.reduce_codec = ZERO_CODEC_INT4;
    compare("codes-stage3-bf16");
    make_golden(4, 3, ZERO_FP32);
    declare_replicas(d, 2);
    d->spec.micro_steps = 2;
    d->spec.gather_codec = d->spec.reduce_codec = ZERO_CODEC_INT8;
    d->spec.optimizer.tier = d->spec.gradients.tier = d->spec.parameters.tier = ZERO_TIER_HOST;
    compare("codes-replicas-stage3-every-offload");
}
END_TEST

/* Sentences, --explain and traces name operations, programs and roles. */
START_TEST(everything_has_a_name)
{
    for (int kind = 0; kind < ZERO_OP_COUNT; kind++)
        ck_assert_msg(zero_op_name((zero_op_kind_t)kind) != NULL, "operation %d has no name", kind);
    for (int kind = 0; kind < ZERO_PROGRAM_KINDS; kind++)
        ck_assert_msg(strcmp(zero_program_name((zero_program_kind_t)kind), "?") != 0, "program %d has no name", kind);
    for (int role = 0; role < ZERO_ROLE_COUNT; role++)
        ck_assert_msg(strcmp(zero_role_name((zero_role_t)role, 0), "?") != 0, "role %d has no name", role);
}
END_TEST

START_TEST(text_names_groups)
{
    golden_text_t text = {0};
    make_golden(4, 3, ZERO_FP32);
    declare_replicas(d, 2);
    zero_plan_t *plan = build();
    zero_plan_explain(plan, golden_append, &text);
    golden_append(&text, "", 1);
    ck_assert_ptr_nonnull(strstr(text.bytes, "\n  group 1 of 2 ranks, the shards of a replica, communicator shm\n"));
    ck_assert_ptr_nonnull(strstr(text.bytes, "\n  group 2 of 2 ranks, the replicas of a shard, communicator shm\n"));
    ck_assert_ptr_nonnull(strstr(text.bytes, ", group 1, receives "));
    ck_assert_ptr_nonnull(strstr(text.bytes, ", group 2, receives "));
    free(text.bytes);
    zero_plan_destroy(plan);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("plan");
    TCase *tcase = tcase_create("plan");
    tcase_set_timeout(tcase, 600);
    tcase_add_test(tcase, random_plans_are_right);
    tcase_add_test(tcase, addresses_depend_on_nothing_but_the_plan);
    tcase_add_test(tcase, bytes_on_the_wire);
    tcase_add_test(tcase, bytes_of_codes);
    tcase_add_test(tcase, bytes_per_parameter_at_each_stage);
    tcase_add_test(tcase, rings_and_reserves_are_counted);
    tcase_add_test(tcase, small_units_stay_full);
    tcase_add_test(tcase, passes_without_training);
    tcase_add_test(tcase, large_worlds);
    tcase_add_test(tcase, hash_sees_every_declaration);
    tcase_add_test(tcase, golden_text);
    tcase_add_test(tcase, text_names_groups);
    tcase_add_test(tcase, everything_has_a_name);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, plan_errors_case());
    suite_add_tcase(suite, plan_offload_case());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
