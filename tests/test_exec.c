/* SPDX-License-Identifier: Apache-2.0 */
/* test_exec.c - the executor alone, on plans that were changed by hand. */
#include "tests/declare.h"
#include "tests/ranks.h"
#include "zero/exec/internal.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#define TRY(call)                                                          \
    do {                                                                   \
        if ((call) != ZERO_OK) {                                           \
            fprintf(stderr, "rank %d: %s: %s\n", rank, #call, error.text); \
            return 1;                                                      \
        }                                                                  \
    } while (0)
#define EXPECT(condition)                                                                  \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            fprintf(stderr, "rank %d: line %d: not so: %s\n", rank, __LINE__, #condition); \
            return 1;                                                                      \
        }                                                                                  \
    } while (0)

static declare_t declared;

/* Gathers use the communicator of shards alone, in a mesh of two replicas whose shards hold different values. */
static int groups_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    declare_t *d = &declared;
    zero_error_t error = {.text = ""};
    zero_comm_t *comm;
    zero_device_t *device;
    zero_plan_t *plan;
    zero_exec_t *x;
    zero_stats_t stats;
    (void)arg;
    TRY(zero_comm_shm(&comm, bootstrap, NULL, &error));
    TRY(zero_device_cpu(&device, NULL, &error));
    declare_init(d, world);
    declare_replicas(d, 2);
    declare_stage(d, 3);
    declare_chain(d, 2, 1000, ZERO_FP32);
    int32_t any = declare_pass(d, ZERO_PASS_ANY_ORDER);
    d->spec.device = device->caps;
    d->spec.channels = 1;
    d->spec.groups[0].caps = comm->caps;
    zero_plan_set_groups(&d->spec);
    TRY(zero_plan_build(&plan, &d->spec, 0, &error));
    int32_t programs[] = {zero_plan_program(plan, ZERO_PROGRAM_ANY, any, 0),
                          zero_plan_program(plan, ZERO_PROGRAM_ANY, any, 1)};
    TRY(zero_plan_check(plan, &error));
    zero_config_t config;
    zero_config_init(&config);
    config.comm = comm;
    config.device = device;
    config.timeout_s = 30;
    TRY(zero_exec_create(&x, (const zero_plan_t *const *)&plan, &config, &error));
    for (int u = 0; u < 2; u++) {
        const zero_segment_t *s = &plan->segments[u];
        uint64_t bytes = (uint64_t)s->shard * sizeof(float), others = (uint64_t)(world / 2 - 1) * bytes;
        float *shard = malloc(bytes);
        EXPECT(shard && s->shard == 2 * s->slice);
        for (int64_t i = 0; i < s->shard; i++)
            shard[i] = (float)(1 + 10 * u + rank);
        TRY(zero_exec_write(x, s->buffer[ZERO_ROLE_PARAM_SHARD], 0, shard, bytes, &error));
        free(shard);
        TRY(zero_exec_begin(x, programs[u], &error));
        TRY(zero_exec_use(x, u, &error));
        const float *param = zero_exec_address(x, s->buffer[ZERO_ROLE_PARAM]);
        for (int64_t i = 0; i < s->elements; i++)
            EXPECT(param[i] == (float)(1 + 10 * u + rank - rank % (world / 2) + (int)(i / s->shard)));
        TRY(zero_exec_release(x, u, &error));
        TRY(zero_exec_end(x, &error));
        for (int g = 0; g < 3; g++)
            EXPECT(x->comms[g][0]->bytes_received == (g == 1 ? (uint64_t)(u + 1) * others : 0));
        TRY(zero_exec_stats(x, &stats, &error));
        EXPECT(stats.traffic.gathered == (uint64_t)(u + 1) * others && stats.traffic.replica_gathered == 0);
    }
    zero_exec_destroy(x);
    zero_plan_destroy(plan);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return 0;
}

START_TEST(groups_have_their_own_communicators)
{
    ck_assert_int_eq(ranks_run(4 + 2 * _i, 60, groups_rank, NULL), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("exec");
    TCase *tcase = tcase_create("groups");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, groups_have_their_own_communicators, 0, 2);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
