/* SPDX-License-Identifier: Apache-2.0 */
/* plan_offload.c - which memory a plan uses if gradients and optimizer state are on the host tier, for any number of
 * micro-steps. */
#include "tests/plan_suites.h"

#include <stdio.h>

static declare_t declaration, *const d = &declaration;

enum { WORLDS = 4, LAYERS = 5, COUNT = 12 * 4 * ZERO_NORM_BLOCK, RING = 3, PIECE = ZERO_PIECE_QUANTUM };

typedef struct model {
    int world, stage;
    zero_reduce_t reduce;
    zero_dtype_t dtype, wire;
    zero_tier_t state, parameters;
} model_t;

/* Table number i for this number of ranks. */
enum { MODELS = 4 * 2 * 2 * 2 * 2 * 3 };
static model_t model(int world, int i)
{
    model_t m = {.world = world, .stage = i % 4};
    m.reduce = i / 4 % 2 ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY;
    m.dtype = i / 8 % 2 ? ZERO_BF16 : ZERO_FP32;
    m.wire = i / 16 % 2 ? ZERO_BF16 : ZERO_FP32;
    m.state = i / 32 % 2 ? ZERO_TIER_NVME : ZERO_TIER_HOST;
    m.parameters = i / 64 == 0 ? ZERO_TIER_DEVICE : i / 64 == 1 ? ZERO_TIER_HOST : m.state;
    return m;
}

static zero_plan_t *plan_of(model_t m, int micro_steps, int layers, double ratio)
{
    declare_init(d, m.world);
    declare_stage(d, m.stage);
    declare_chain(d, layers, COUNT, m.dtype);
    d->spec.micro_steps = micro_steps;
    d->spec.reduce = m.reduce;
    d->spec.reduce_dtype = m.wire;
    d->spec.optimizer.tier = m.state;
    d->spec.gradients.tier = ZERO_TIER_HOST;
    d->spec.parameters.tier = m.parameters;
    d->spec.offload_ratio = ratio;
    d->spec.piece = PIECE;
    return plan_build(d);
}

static const char *name_of(model_t m, int micro_steps)
{
    static char text[160];
    snprintf(text, sizeof text,
             "%d ranks, stage %d, %s, %s, %s on the wire, state on %s, parameters on %s, %d micro-steps", m.world,
             m.stage, m.reduce == ZERO_REDUCE_LAST ? "last" : "every", zero_dtype_name(m.dtype),
             zero_dtype_name(m.wire), zero_tier_name(m.state), zero_tier_name(m.parameters), micro_steps);
    return text;
}

/* Bytes per parameter of a tier and kind, in buffers without a slot. */
static double lasting(const zero_plan_t *plan, zero_tier_t tier, zero_kind_t kind)
{
    uint64_t bytes = 0;
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        const zero_buffer_t *x = &plan->buffers[i];
        bytes += x->segment >= 0 && x->tier == tier && x->kind == kind && x->slot < 0 ? x->bytes : 0;
    }
    return (double)bytes / (COUNT * (double)plan->segment_count);
}

/* The device keeps parameters, or a window of them, and slots of gradients. Their size does not grow with layers or
 * micro-steps. */
START_TEST(the_device_holds_windows)
{
    static const int micro_steps[] = {1, 2, 4};
    for (int i = 0; i < MODELS; i++) {
        model_t m = model(1 + _i, i);
        for (int k = 0; k < 3; k++)
            for (int longer = 0; longer < 2; longer++) {
                zero_plan_t *plan = plan_of(m, micro_steps[k], LAYERS * (1 + longer), 1);
                const uint64_t *bytes = plan->kind_bytes[ZERO_TIER_DEVICE];
                const char *name = name_of(m, micro_steps[k]);
                ck_assert_msg(bytes[ZERO_KIND_GRADIENTS] == 0 && bytes[ZERO_KIND_MASTER] == 0 &&
                                  bytes[ZERO_KIND_MOMENTS] == 0,
                              "%s", name);
                ck_assert_msg(bytes[ZERO_KIND_STAGING] <= 2 * ZERO_PAGE, "%s", name);
                /* Parameters and gradients for as many units as the window, and one that is being reduced; buffers for
                 * casts to the wire's dtype, or for gathers. */
                uint64_t window = 2 * COUNT * (uint64_t)zero_dtype_size(m.dtype) +
                                  3 * COUNT * (uint64_t)zero_dtype_size(m.dtype) + 4 * COUNT + ZERO_PAGE;
                ck_assert_msg(bytes[ZERO_KIND_WINDOW] <= window, "%s: a window of %llu bytes, at most %llu", name,
                              (unsigned long long)bytes[ZERO_KIND_WINDOW], (unsigned long long)window);
                zero_plan_destroy(plan);
            }
    }
}
END_TEST

/* The host keeps the buffers that norm and update read, and the local sum. Its staging buffers are a ring, whatever the
 * size of the model. */
START_TEST(the_host_holds_what_is_summed)
{
    for (int i = 0; i < MODELS; i++) {
        model_t m = model(1 + _i, i);
        double ranks = m.stage > 0 ? m.world : 1;
        double wire = (double)zero_dtype_size(m.world == 1 && m.wire == ZERO_FP32 ? m.dtype : m.wire);
        for (int micro_steps = 1; micro_steps <= 2; micro_steps++) {
            const char *name = name_of(m, micro_steps);
            zero_plan_t *plan = plan_of(m, micro_steps, LAYERS, 1);
            double wanted = micro_steps == 1 ? wire / ranks : m.reduce == ZERO_REDUCE_LAST ? 4 : 4 / ranks;
            double found = lasting(plan, ZERO_TIER_HOST, ZERO_KIND_GRADIENTS),
                   staged = (double)plan->kind_bytes[ZERO_TIER_HOST][ZERO_KIND_STAGING];
            ck_assert_msg(found == wanted, "%s: %g bytes a parameter, wanted %g", name, found, wanted);
            /* On nvme: master weights and moments of a piece, and parameters for as many units as the window. */
            double most = RING * PIECE * (4 + 2 + (m.state == ZERO_TIER_NVME ? 12 : 0)) + 2 * ZERO_PAGE;
            if (m.parameters == ZERO_TIER_NVME)
                most += 2.0 * COUNT * (double)zero_dtype_size(m.dtype);
            ck_assert_msg(staged <= most, "%s: %g bytes are staged, at most %g", name, staged, most);
            ck_assert_msg(lasting(plan, ZERO_TIER_HOST, ZERO_KIND_STAGING) == 0, "%s", name);
            zero_plan_destroy(plan);
        }
    }
}
END_TEST

/* If a share of the state stays on the device, exactly the gradients of that share stay there too. */
START_TEST(a_share_keeps_its_gradients)
{
    for (int i = 0; i < MODELS; i++) {
        model_t m = model(1 + _i, i);
        if (m.parameters == ZERO_TIER_NVME)
            continue;
        for (int micro_steps = 1; micro_steps <= 2; micro_steps++) {
            zero_plan_t *plan = plan_of(m, micro_steps, LAYERS, 0.5);
            double ranks = m.stage > 0 ? m.world : 1;
            double final = (double)zero_dtype_size(plan->segments[0].final) / ranks,
                   device = lasting(plan, ZERO_TIER_DEVICE, ZERO_KIND_GRADIENTS);
            ck_assert_msg(device == final / 2, "%s: %g bytes a parameter on the device, wanted %g",
                          name_of(m, micro_steps), device, final / 2);
            zero_plan_destroy(plan);
        }
    }
}
END_TEST

/* Checks the bytes per parameter between the tiers in a step of three micro-steps. */
static void moves(model_t m, double to_host, double to_device)
{
    zero_plan_t *plan = plan_of(m, 3, LAYERS, 1);
    zero_traffic_t t;
    ck_assert_int_eq(zero_plan_traffic(plan, 3, &t, NULL), ZERO_OK);
    double parameters = COUNT * (double)LAYERS;
    ck_assert_msg((double)t.to_host == to_host * parameters && (double)t.to_device == to_device * parameters,
                  "%s: %g down and %g up, wanted %g and %g", name_of(m, 3), (double)t.to_host / parameters,
                  (double)t.to_device / parameters, to_host, to_device);
    zero_plan_destroy(plan);
}

START_TEST(gradients_go_down_in_what_they_are_written_or_sent_in)
{
    const zero_tier_t device = ZERO_TIER_DEVICE, host = ZERO_TIER_HOST;
    /* Down: each micro-step's slice in the wire's dtype. Up: the new parameters. */
    moves((model_t){2, 2, ZERO_REDUCE_EVERY, ZERO_BF16, ZERO_BF16, host, device}, 3 * 2 / 2.0, 2 / 2.0);
    moves((model_t){2, 2, ZERO_REDUCE_EVERY, ZERO_BF16, ZERO_FP32, host, device}, 3 * 4 / 2.0, 2 / 2.0);
    moves((model_t){1, 3, ZERO_REDUCE_EVERY, ZERO_BF16, ZERO_FP32, host, device}, 3 * 2, 2);
    /* Down: all written gradients, and the reduced slice. Up, once: the sum, in the wire's dtype. */
    moves((model_t){2, 2, ZERO_REDUCE_LAST, ZERO_BF16, ZERO_BF16, host, device}, 3 * 2 + 2 / 2.0, 2 + 2 / 2.0);
    /* One rank: nothing is reduced. */
    moves((model_t){1, 2, ZERO_REDUCE_LAST, ZERO_BF16, ZERO_BF16, host, device}, 3 * 2, 2);
    /* In fp32, gradients are added to the sum, which comes up for that. */
    moves((model_t){2, 2, ZERO_REDUCE_LAST, ZERO_FP32, ZERO_FP32, host, device}, 2 * 4 + 4 / 2.0, 2 * 4 + 4 / 2.0);
    /* Updates are full: the sum of the slice comes up, is gathered, and all of it goes down. */
    moves((model_t){2, 0, ZERO_REDUCE_EVERY, ZERO_BF16, ZERO_BF16, host, device}, 3 * 2 / 2.0 + 4, 4 / 2.0 + 2);
}
END_TEST

TCase *plan_offload_case(void)
{
    TCase *tcase = tcase_create("offload");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, the_device_holds_windows, 0, WORLDS);
    tcase_add_loop_test(tcase, the_host_holds_what_is_summed, 0, WORLDS);
    tcase_add_loop_test(tcase, a_share_keeps_its_gradients, 0, WORLDS);
    tcase_add_test(tcase, gradients_go_down_in_what_they_are_written_or_sent_in);
    return tcase;
}
