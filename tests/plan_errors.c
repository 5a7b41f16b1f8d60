/* SPDX-License-Identifier: Apache-2.0 */
/* plan_errors.c - declarations that cannot be planned, and plans that the checker refuses. */
#include "tests/expect.h"
#include "tests/plan_suites.h"
#include "zero/plan/split.h"

#include <math.h>

static declare_t declaration, *const d = &declaration;

/* ---- declarations ----------------------------------------------------------------------------------------------- */

static void refused(zero_status_t wanted, const char *part)
{
    zero_plan_t *plan = NULL;
    zero_error_t error = {.text = ""};
    zero_status_t status = zero_plan_build(&plan, &d->spec, 0, &error);
    ck_assert_msg(status == wanted && error.status == wanted, "%s: %s, %s", part, zero_status_name(status), error.text);
    ck_assert_msg(has_names(error.text, part), "'%s' is not in '%s'", part, error.text);
    ck_assert_ptr_null(plan);
}

/* Two replicas of two shards. */
static void square(void)
{
    declare_world(d, 4);
    declare_replicas(d, 2);
}

/* Two ranks of tensor parallelism, which split a matrix. */
static void halves(void)
{
    zero_spec_param_t *p = &d->params[1];
    d->spec.mesh.tensor = 2;
    zero_plan_set_groups(&d->spec);
    *p = (zero_spec_param_t){.name = p->name,
                             .unit = p->unit,
                             .ndim = 2,
                             .whole = {6, 10},
                             .total = 60,
                             .split_dim = 1,
                             .split_blocks = 1,
                             .trainable = true};
    ck_assert_int_eq(zero_split_set(&d->spec, p, NULL), ZERO_OK);
}

START_TEST(bad_declarations)
{
#define REFUSED(statement, status, part) \
    do {                                 \
        plan_model(d);                   \
        statement;                       \
        refused(status, part);           \
    } while (0)
    REFUSED(d->spec.world = 0, ZERO_ERR_ARG, "0");
    REFUSED(d->spec.world = 1 << 30, ZERO_ERR_ARG, "");
    REFUSED(d->spec.piece = ZERO_PIECE_QUANTUM / 2, ZERO_ERR_ARG, "4096");
    REFUSED(d->spec.channels = 0, ZERO_ERR_ARG, "channels");
    REFUSED(d->spec.channels = 1, ZERO_ERR_ARG, "2");
    REFUSED(d->spec.groups[0].caps.in_place = false, ZERO_ERR_UNSUPPORTED, "");
    REFUSED(d->spec.group_count = 0, ZERO_ERR_ARG, "0 1");
    REFUSED((square(), d->spec.group_count = 2), ZERO_ERR_ARG, "2 3");
    REFUSED(d->spec.groups[0].size = 1, ZERO_ERR_ARG, "1 2");
    REFUSED((square(), d->spec.groups[1].size = 3), ZERO_ERR_ARG, "`group 1` 3 2");
    REFUSED((square(), d->spec.groups[1].axes = ZERO_ALONG_REPLICA), ZERO_ERR_ARG, "`group 1` 2");
    REFUSED((square(), d->spec.groups[2].caps.in_place = false), ZERO_ERR_UNSUPPORTED, "");
    REFUSED(d->spec.mesh.replicas = 0, ZERO_ERR_ARG, "config.mesh.replicas 0 1");
    REFUSED((declare_world(d, 12), d->spec.mesh.replicas = 5), ZERO_ERR_ARG, "config.mesh.replicas 5 12 4 6");
    REFUSED((declare_world(d, 12), d->spec.mesh.node = 5), ZERO_ERR_ARG, "config.mesh.node 5 12 4 6");
    REFUSED((square(), d->spec.mesh.node = 4), ZERO_ERR_ARG, "config.mesh.node 4 2");
    REFUSED((declare_world(d, 4), d->spec.mesh.node = 2), ZERO_ERR_ARG, "1 2");
    REFUSED((declare_stage(d, 2), d->spec.mesh.node = 2), ZERO_ERR_UNSUPPORTED, "config.mesh.node config.parameters 0");
    REFUSED((d->spec.parameters.tier = d->spec.optimizer.tier = ZERO_TIER_HOST, d->spec.mesh.node = 2),
            ZERO_ERR_UNSUPPORTED, "config.mesh.node config.parameters 0");
    REFUSED((declare_stage(d, 2), d->spec.gather_codec = ZERO_CODEC_INT8), ZERO_ERR_ARG,
            "config.gather_codec int8 config.parameters.sharding ZERO_FULL ZERO_CODEC_NONE");
    REFUSED((d->spec.reduce_codec = ZERO_CODEC_INT4, d->spec.reduce_dtype = ZERO_BF16), ZERO_ERR_ARG,
            "config.reduce_codec int4 config.reduce_dtype bf16 ZERO_CODEC_NONE");
    REFUSED((declare_world(d, 12), d->spec.mesh.replicas = 13), ZERO_ERR_ARG, "config.mesh.replicas 13 12");
    REFUSED(d->spec.optimizer.sharding = ZERO_FULL, ZERO_ERR_ARG, "");
    REFUSED((declare_stage(d, 2), d->spec.optimizer.sharding = ZERO_FULL), ZERO_ERR_ARG,
            "config.gradients.sharding ZERO_SHARDED");
    REFUSED(d->spec.parameters.tier = ZERO_TIER_NVME, ZERO_ERR_ARG, "config.optimizer.tier ZERO_TIER_DEVICE");
    REFUSED((d->spec.parameters.tier = d->spec.optimizer.tier = ZERO_TIER_NVME, d->spec.offload_ratio = 0.5),
            ZERO_ERR_ARG, "config.offload_ratio 0.5");
    REFUSED((d->spec.gradients.tier = ZERO_TIER_NVME, d->spec.optimizer.tier = ZERO_TIER_HOST), ZERO_ERR_UNSUPPORTED,
            "config.gradients.tier ZERO_TIER_NVME");
    REFUSED(d->spec.gradients.tier = ZERO_TIER_HOST, ZERO_ERR_ARG, "");
    REFUSED(d->params[1].unit = 3, ZERO_ERR_ARG, "`unit 3`");
    REFUSED(d->params[1].unit = -1, ZERO_ERR_ARG, "`unit -1`");
    REFUSED(d->params[1].dtype = ZERO_DTYPE_COUNT, ZERO_ERR_ARG, "");
    REFUSED(d->params[1].ndim = 9, ZERO_ERR_ARG, "9");
    REFUSED(d->params[1].shape[0] = -5, ZERO_ERR_ARG, "-5");
    REFUSED(d->params[1].count = 7, ZERO_ERR_ARG, "7");
    REFUSED((d->params[1].ndim = 2, d->params[1].shape[0] = INT64_MAX, d->params[1].shape[1] = 4), ZERO_ERR_ARG,
            "2^63");
    REFUSED((d->params[1].shape[0] = d->params[1].count = INT64_MAX - 3), ZERO_ERR_MEMORY, "2^63");
    REFUSED((d->params[1].shape[0] = d->params[1].count = INT64_MAX / 16,
             d->params[2].shape[0] = d->params[2].count = INT64_MAX / 16),
            ZERO_ERR_MEMORY, "2^");
    REFUSED(d->params[1].decay_scale = -1, ZERO_ERR_ARG, "decay");
    REFUSED((halves(), d->params[1].shape[1] = 10, d->params[1].count = 60), ZERO_ERR_ARG, "60 30");
    REFUSED((halves(), d->params[1].shape[0] = 5, d->params[1].shape[1] = 6), ZERO_ERR_ARG, "30");
    REFUSED((halves(), d->params[1].run = 10), ZERO_ERR_ARG, "10 5");
    REFUSED((halves(), d->params[1].total = 59), ZERO_ERR_ARG, "59 60");
    REFUSED((halves(), d->params[1].whole[1] = 9, d->params[1].total = 54), ZERO_ERR_ARG, "9 config.mesh.tensor 8 10");
    REFUSED((halves(), d->params[1].split_dim = 2), ZERO_ERR_ARG, "`dimension 2`");
    REFUSED((halves(), d->params[1].split_dim = -2), ZERO_ERR_ARG, "`dimension -2`");
    REFUSED((halves(), d->params[1].split_blocks = 0), ZERO_ERR_ARG, "`0 blocks`");
    REFUSED((halves(), d->params[1].partial = true), ZERO_ERR_ARG, "partial");
    REFUSED((halves(), d->spec.whole = true), ZERO_ERR_UNSUPPORTED, "config.mesh.tensor 2 elementwise split_dim");
    REFUSED(d->params[1].lr_scale = NAN, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][2].unit = 3, ZERO_ERR_ARG, "2");
    REFUSED(d->uses[0][2].flags = 0, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][2].flags = ZERO_HOLD, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][2].flags = 64, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][2].flags |= ZERO_REDUCE, ZERO_ERR_ARG, "ZERO_GRAD");
    REFUSED(d->uses[1][1].flags = ZERO_READ | ZERO_GRAD, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][5].flags |= ZERO_HOLD, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][2].flags |= ZERO_HOLD, ZERO_ERR_ARG, "");
    REFUSED(d->uses[0][4].flags = ZERO_READ, ZERO_ERR_ARG, "'train0' ZERO_GRAD");
    REFUSED(d->passes[1].kind = ZERO_PASS_TRAIN, ZERO_ERR_ARG, "");
    REFUSED(d->passes[1].kind = ZERO_PASS_ANY_ORDER, ZERO_ERR_ARG, "");
    REFUSED(d->passes[1].kind = 9, ZERO_ERR_ARG, "");
    REFUSED((d->spec.reserve_count = 1, d->reserves[0] = (zero_spec_reserve_t){ZERO_KIND_MOMENTS, ZERO_TIER_DEVICE, 1}),
            ZERO_ERR_ARG, "0");
    REFUSED((d->spec.reserve_count = 1, d->reserves[0] = (zero_spec_reserve_t){ZERO_KIND_WORKSPACE, ZERO_TIER_NVME, 1}),
            ZERO_ERR_UNSUPPORTED, "nvme");
    REFUSED((d->spec.reserve_count = 1,
             d->reserves[0] = (zero_spec_reserve_t){ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, UINT64_MAX}),
            ZERO_ERR_MEMORY, "");
    /* a window too small names the units that are held together, and the window that works */
    REFUSED((d->uses[0][0].flags |= ZERO_HOLD, d->uses[0][1].flags |= ZERO_HOLD), ZERO_ERR_ARG,
            "'layer.0' 'layer.1' 'layer.2' 2 3");
    plan_model(d);
    d->uses[0][0].flags |= ZERO_HOLD, d->uses[0][1].flags |= ZERO_HOLD;
    d->spec.window = 3;
    zero_plan_destroy(plan_build(d));
    plan_model(d);
    halves();
    zero_plan_destroy(plan_build(d));
    d->spec.whole = d->params[1].elementwise = true;
    zero_plan_destroy(plan_build(d));
    plan_model(d); /* full parameters need no window */
    declare_stage(d, 2);
    d->spec.window = 1;
    d->uses[0][0].flags |= ZERO_HOLD, d->uses[0][1].flags |= ZERO_HOLD;
    zero_plan_destroy(plan_build(d));
#undef REFUSED
}
END_TEST

/* A size of 0 makes a shape empty, wherever it is, and however large the other sizes are. */
START_TEST(empty_shapes)
{
    for (int at = 0; at < 3; at++) {
        plan_model(d);
        d->params[1].ndim = 3;
        d->params[1].count = 0;
        d->params[1].shape[at] = 0;
        d->params[1].shape[(at + 1) % 3] = (int64_t)1 << 62;
        d->params[1].shape[(at + 2) % 3] = 4;
        zero_plan_t *plan = plan_build(d);
        ck_assert_int_eq(plan->placed[1].segment, -1);
        zero_plan_destroy(plan);
    }
}
END_TEST

/* ---- plans ------------------------------------------------------------------------------------------------------ */

/* The checker refuses plans with wrong numbers, with a sentence. */
START_TEST(bad_numbers_in_a_plan)
{
    zero_error_t error;
#define BREAKS(statement, part)                                                                              \
    do {                                                                                                     \
        plan_model(d);                                                                                       \
        zero_plan_t *plan = plan_build(d);                                                                   \
        zero_program_t *only = &plan->programs[zero_plan_program(plan, ZERO_PROGRAM_ONLY, 0, -1)];           \
        zero_op_t *op = only->ops;                                                                           \
        while (op->kind != ZERO_OP_GATHER)                                                                   \
            op++;                                                                                            \
        statement;                                                                                           \
        error.text[0] = '\0';                                                                                \
        ck_assert_msg(zero_plan_check(plan, &error) == ZERO_ERR_PLAN, "%s", #statement);                     \
        ck_assert_msg(has_names(error.text, part), "%s: '%s' is not in '%s'", #statement, part, error.text); \
        zero_plan_destroy(plan);                                                                             \
    } while (0)
    BREAKS(op->src = plan->buffer_count, "");
    BREAKS(op->stream = ZERO_STREAM_COUNT, "");
    BREAKS(op->stream = ZERO_STREAM_UPDATE, "communicator");
    BREAKS(op->count--, "");
    BREAKS(op->program++, "");
    BREAKS(op->bytes--, "");
    BREAKS(op->dst = plan->segments[2].buffer[ZERO_ROLE_PARAM], "");
    BREAKS(op->dst = op->src, "");
    BREAKS(op->kind = ZERO_OP_READ, "");
    BREAKS(only->kind = ZERO_PROGRAM_LAST, "");
    BREAKS(plan->buffers[0].offset += 64, "");
    BREAKS(plan->buffers[1].offset = plan->buffers[plan->segments[1].buffer[ZERO_ROLE_PARAM_SHARD]].offset, "");
    BREAKS(plan->segments[1].slice = 128, "slices");
    BREAKS(plan->placed[1].offset = 1 << 20, "");
    BREAKS(plan->event_count = 1, "");
    BREAKS(plan->norms = -1, "");
#undef BREAKS
}
END_TEST

/* Reduced data must go to a slice, and gathered data must come from slices, even if the whole buffer has the right
 * contents. */
START_TEST(collectives_take_slices)
{
    static const zero_op_kind_t kinds[] = {ZERO_OP_REDUCE_SCATTER, ZERO_OP_GATHER};
    for (int i = 0; i < 2; i++) {
        zero_error_t error = {.text = ""};
        plan_model(d);
        declare_stage(d, 1); /* both in place in full buffers */
        zero_plan_t *plan = plan_build(d);
        zero_op_t *op = NULL;
        for (int32_t p = 0; p < plan->program_count && op == NULL; p++)
            for (int32_t o = 0; o < plan->programs[p].op_count && op == NULL; o++)
                if (plan->programs[p].ops[o].kind == kinds[i])
                    op = &plan->programs[p].ops[o];
        ck_assert_ptr_nonnull(op);
        if (kinds[i] == ZERO_OP_GATHER) {
            ck_assert(op->src_own);
            op->src_own = 0;
        } else {
            ck_assert(op->dst_own);
            op->dst_own = 0;
            op->count *= d->spec.world;
            op->bytes *= (uint64_t)d->spec.world;
        }
        ck_assert_int_eq(zero_plan_check(plan, &error), ZERO_ERR_PLAN);
        zero_plan_destroy(plan);
    }
}
END_TEST

/* A collective needs the group whose ranks have its elements, in their order: a mesh of 2 x 2 has a group of the same
 * size that has others, and the world has them in another order. Other operations must not have a group. */
START_TEST(groups_of_operations)
{
    for (int stage = 0; stage <= 4; stage++) { /* the last one is stage 3 with codecs */
        zero_error_t error = {.text = ""};
        int changed = 0, sums = 0;
        plan_model(d);
        square();
        declare_stage(d, stage);
        d->spec.gather_codec = stage == 4 ? ZERO_CODEC_INT8 : ZERO_CODEC_NONE;
        d->spec.reduce_codec = stage == 4 ? ZERO_CODEC_INT4 : ZERO_CODEC_NONE;
        zero_plan_t *plan = plan_build(d);
        for (int32_t p = 0; p < plan->program_count; p++)
            for (int32_t o = 0; o < plan->programs[p].op_count; o++) {
                zero_op_t *op = &plan->programs[p].ops[o];
                uint8_t right = op->group;
                bool collects = zero_op_collects(op) || op->kind == ZERO_OP_SUM;
                sums += op->kind == ZERO_OP_SUM;
                for (uint8_t g = 0; g <= 3; g++) {
                    if (g == right || (!collects && g < 3))
                        continue;
                    op->group = g;
                    ck_assert_int_eq(zero_plan_check(plan, &error), ZERO_ERR_PLAN);
                    ck_assert_msg(g < 3 || has_names(error.text, "`group 3`"), "%s", error.text);
                    changed += collects;
                }
                op->group = right;
            }
        ck_assert_int_gt(changed, 0);
        ck_assert_int_eq(sums > 0, stage == 4);
        ck_assert_int_eq(zero_plan_check(plan, &error), ZERO_OK);
        zero_plan_destroy(plan);
    }
}
END_TEST

static void codec_differs(zero_plan_t *plan, const char *part)
{
    zero_error_t error = {.text = ""};
    ck_assert_int_eq(zero_plan_check(plan, &error), ZERO_ERR_PLAN);
    ck_assert_msg(has_names(error.text, part), "'%s' is not in '%s'", part, error.text);
}

/* What uses, norms and updates read has gone through the codec of the declaration: the whole of it, on every rank. */
START_TEST(codes_are_those_of_the_declaration)
{
    for (int coded = 0; coded < 2; coded++) {
        const zero_codec_t codec = coded ? ZERO_CODEC_INT8 : ZERO_CODEC_NONE;
        plan_model(d);
        d->spec.gather_codec = d->spec.reduce_codec = codec;
        zero_plan_t *plan = plan_build(d);
        d->spec.gather_codec = coded ? ZERO_CODEC_NONE : ZERO_CODEC_INT8;
        codec_differs(plan, "parameters codec int8 none");
        d->spec.gather_codec = codec;
        d->spec.reduce_codec = coded ? ZERO_CODEC_NONE : ZERO_CODEC_INT8;
        codec_differs(plan, "NORM codec int8 none");
        zero_plan_destroy(plan);
    }
    static const zero_op_kind_t kinds[] = {ZERO_OP_CAST, ZERO_OP_ALL_TO_ALL, ZERO_OP_SUM};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        plan_model(d);
        d->spec.gather_codec = d->spec.reduce_codec = ZERO_CODEC_INT8;
        zero_plan_t *plan = plan_build(d);
        zero_op_t *op = plan->programs[zero_plan_program(plan, ZERO_PROGRAM_ONLY, 0, -1)].ops;
        while (op->kind != kinds[k] || (op->kind == ZERO_OP_CAST && op->src_own == op->dst_own))
            op++;
        const zero_op_t right = *op;
        const int32_t *buffer = plan->segments[op->segment].buffer;
        if (op->kind == ZERO_OP_CAST) { /* the own slice of parameters is coded, and everything is decoded */
            ck_assert_int_eq(op->dst, buffer[ZERO_ROLE_PARAM_CODES]);
            op->src = op->dst;
            op->src_own = op->dst_own;
            codec_differs(plan, "");
        } else if (op->kind == ZERO_OP_ALL_TO_ALL) {
            op->dst = op->src;
            codec_differs(plan, "ALL_TO_ALL");
            *op = right;
            op->count *= 2;
            codec_differs(plan, "ALL_TO_ALL counts");
        } else {
            op->src = buffer[ZERO_ROLE_GRAD_CODES];
            codec_differs(plan, "SUM grad-codes");
            *op = right;
            op->src_own = ZERO_EXTENT_SLICE;
            codec_differs(plan, "SUM");
        }
        zero_plan_destroy(plan);
    }
}
END_TEST

/* If a part lies inside a slice, the elements that a rank owns of it depend only on the slice; otherwise they do not
 * depend on the rank. */
START_TEST(own_slices_are_of_own_parts)
{
    zero_error_t error = {.text = ""};
    plan_model(d);
    declare_stage(d, 0);
    zero_plan_t *plan = plan_build(d);
    zero_op_t *op = plan->programs[zero_plan_program(plan, ZERO_PROGRAM_STEP, -1, -1)].ops;
    while (op->kind != ZERO_OP_UPDATE)
        op++;
    ck_assert(!op->src_own && !plan->parts[op->part].own);
    op->src_own = 1;
    ck_assert_int_eq(zero_plan_check(plan, &error), ZERO_ERR_PLAN);
    ck_assert_msg(has_names(error.text, "UPDATE"), "%s", error.text);
    zero_plan_destroy(plan);
}
END_TEST

TCase *plan_errors_case(void)
{
    TCase *tcase = tcase_create("errors");
    tcase_add_test(tcase, bad_declarations);
    tcase_add_test(tcase, empty_shapes);
    tcase_add_test(tcase, bad_numbers_in_a_plan);
    tcase_add_test(tcase, collectives_take_slices);
    tcase_add_test(tcase, own_slices_are_of_own_parts);
    tcase_add_test(tcase, groups_of_operations);
    tcase_add_test(tcase, codes_are_those_of_the_declaration);
    return tcase;
}
