/* SPDX-License-Identifier: Apache-2.0 */
/* engine_order.c - if ranks make different calls, each rank gets an error at once that says what each was doing, and no
 * rank gets a wrong value. */
#include "tests/emulated.h"
#include "tests/engine_suites.h"
#include "tests/order_case.h"

static int order_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const order_case_t *o = arg;
    zero_comm_t *comm = small_comm(bootstrap);
    (void)rank, (void)world;
    if (o->threaded == SMALL_NCCL) /* NCCL needs a GPU for each rank */
        setenv("ZERO_EMULATOR_DEVICES", "4", 1);
    int result = !comm || order_case(o, comm);
    zero_comm_destroy(comm);
    return result;
}

/* Every scene at stages 0 to 3 with each reduction. */
static void play_in(int world, int replicas, int threaded, bool unchecked, int first, int step, int scenes)
{
    for (int i = first; i < 2 * 4 * scenes; i += step) {
        order_case_t o = {.scene = (order_scene_t)(i / 8),
                          .stage = i % 4,
                          .reduce = (zero_reduce_t)(i / 4 % 2),
                          .threaded = threaded,
                          .unchecked = unchecked,
                          .replicas = replicas};
        ck_assert_msg(ranks_run(world, 60, order_rank, &o) == 0, "world %d, scene %d, stage %d, reduce %d, threaded %d",
                      world, o.scene, o.stage, o.reduce, threaded);
    }
}

static void play(int world, int threaded, bool unchecked, int first, int step, int scenes)
{
    play_in(world, 1, threaded, unchecked, first, step, scenes);
}

/* Half of the ranks are not in the group of rank 0 that finds the difference. */
START_TEST(replicas)
{
    play_in(4, 2, _i, false, 0, 3, ORDER_SCENES);
    play_in(4, 2, 0, true, 1, 3, ORDER_SCENES);
}
END_TEST

START_TEST(two_ranks)
{
    play(2, 0, false, 0, 1, ORDER_SCENES);
}
END_TEST

START_TEST(three_ranks)
{
    play(3, 0, true, 0, 3, ORDER_SCENES);
}
END_TEST

/* Streams with threads: without the check, the two channels of an engine would wait for each other. */
START_TEST(threads)
{
    play(2 + _i, 1 + _i, false, _i, 3, ORDER_SCENES);
    play(2 + _i, 1 + _i, true, 0, 1, 1);
}
END_TEST

START_TEST(gpus)
{
    char nccl[4096];
    if (!emulated_plugins())
        return;
    snprintf(nccl, sizeof nccl, "%s/libnccl_emulator.so", getenv("ZERO_PLUGIN_PATH"));
    setenv("ZERO_NCCL_LIBRARY", nccl, 1);
    play(2, _i ? SMALL_NCCL : SMALL_CUDA, false, 3, 5, ORDER_SCENES);
    play(2, _i ? SMALL_NCCL : SMALL_CUDA, true, 0, 4, 1); /* stage 0, where the step's exchange finds the difference */
}
END_TEST

Suite *engine_order_suite(void)
{
    Suite *suite = suite_create("order");
    TCase *t = tcase_create("order");
    tcase_set_timeout(t, 300);
    tcase_add_test(t, two_ranks);
    tcase_add_test(t, three_ranks);
    tcase_add_loop_test(t, replicas, 0, 2);
    tcase_add_loop_test(t, threads, 0, 2);
    tcase_add_loop_test(t, gpus, 0, 2);
    suite_add_tcase(suite, t);
    return suite;
}
