/* SPDX-License-Identifier: Apache-2.0 */
/* guide_errors.c - provokes the errors that docs/guide.md lists, and prints the library's sentence for each, one per
 * line. tests/test_guide.sh compares them. */
#include <stdio.h>
#include <stdlib.h>
#include <zero/zero.h>

static zero_comm_t *comm;
static zero_device_t *device;
static zero_engine_t *engine;
static zero_pass_t train;
static zero_unit_t unit[3];
static zero_param_t param[3];

static void must(zero_status_t status)
{
    if (status != ZERO_OK)
        exit(1);
}

/* Prints the sentence of a refused call; ends the program if the call succeeds. */
static void refused(zero_status_t status)
{
    if (status == ZERO_OK) {
        printf("a call succeeded that should not have\n");
        exit(1);
    }
    printf("%s\n", zero_last_error(engine));
}

static void config_of(zero_config_t *config)
{
    zero_config_init(config);
    config->comm = comm;
    config->device = device;
    config->persist_bytes = 0;
}

/* Three units of one parameter each, the last one frozen. The pass uses them forward, then backward down to unit
 * `last`. The first `held` units are held until the next unit is acquired. */
static void declare_down_to(int last, const zero_config_t *config, int held)
{
    static const char *const units[] = {"fc0", "fc1", "fc2"}, *const params[] = {"fc0.weight", "fc1.weight",
                                                                                 "fc2.weight"};
    zero_error_t error;
    zero_destroy(engine);
    must(zero_create(&engine, config, &error));
    must(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &train));
    for (int u = 0; u < 3; u++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = params[u];
        desc.ndim = 2;
        desc.shape[0] = desc.shape[1] = 512;
        desc.trainable = u < 2;
        must(zero_unit_add(engine, units[u], &unit[u]));
        must(zero_param_add(engine, unit[u], &desc, &param[u]));
        must(zero_use_add(engine, train, unit[u], ZERO_READ | (u < held ? ZERO_HOLD : 0u)));
    }
    for (int u = 2; u >= last; u--)
        must(zero_use_add(engine, train, unit[u], ZERO_READ | ZERO_GRAD));
}
static void declare(const zero_config_t *config, int held)
{
    declare_down_to(0, config, held);
}

static void create_refused(const zero_config_t *config)
{
    zero_error_t error = {0};
    zero_engine_t *none = NULL;
    if (zero_create(&none, config, &error) == ZERO_OK)
        exit(1);
    printf("%s\n", error.text);
}

/* One of two ranks does something different. Rank 0 prints. */
static int ranks(void)
{
    zero_error_t error = {0};
    zero_config_t config;
    zero_comm_t *second; /* an error on all ranks makes a communicator unusable */
    zero_comm_t *last;   /* does not fail */
    must(zero_comm_mpi(&comm, NULL, NULL, &error));
    must(zero_comm_mpi(&second, NULL, NULL, &error));
    must(zero_comm_mpi(&last, NULL, NULL, &error));
    must(zero_device_cpu(&device, NULL, &error));
    int rank = zero_comm_rank(comm);
    config_of(&config);
    config.clip = 1 + rank;
    declare(&config, 0);
    if (zero_commit(engine) == ZERO_OK)
        return 1;
    if (rank == 0)
        printf("%s\n", zero_last_error(engine));
    config_of(&config);
    config.comm = second;
    declare(&config, 0);
    must(zero_commit(engine));
    double sum = 0;
    if (rank == 0)
        refused(zero_sum(engine, &sum, 1));
    else if (zero_micro_begin(engine, train, ZERO_LAST) == ZERO_OK)
        return 1;
    config_of(&config);
    declare(&config, 0);
    must(zero_commit(engine));
    if (rank == 1) {
        zero_abort(engine, "data/7.bin ends in the middle of a sample");
    } else {
        refused(zero_sum(engine, &sum, 1));
    }
    /* mpiexec kills rank 0 once rank 1 ends without MPI_Finalize, so rank 1 waits until rank 0 has printed. */
    char own = 0, both[2];
    fflush(stdout);
    must(zero_comm_exchange(last, &own, both, 1, &error));
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(last);
    zero_comm_destroy(second);
    zero_comm_destroy(comm);
    return 0; /* mpiexec still reports a failure, because MPI is not finalised after one */
}

int main(int argc, char **argv)
{
    zero_error_t error = {0};
    zero_config_t config;
    (void)argv;
    if (argc > 1)
        return ranks();
    must(zero_comm_self(&comm, &error));
    must(zero_device_cpu(&device, NULL, &error));

    /* before commit */
    config = (zero_config_t){.comm = comm, .device = device};
    create_refused(&config);
    config_of(&config);
    config.rule = ZERO_RULE_CUSTOM;
    create_refused(&config);
    config_of(&config);
    config.eps = 0;
    create_refused(&config);
    config_of(&config);
    config.optimizer.tier = ZERO_TIER_NVME;
    create_refused(&config);

    /* commit */
    config_of(&config);
    config.plan_world = 2; /* with one rank nothing is gathered */
    config.window = 1;
    declare(&config, 2);
    refused(zero_commit(engine));
    config_of(&config);
    declare(&config, 3);
    refused(zero_commit(engine));
    config_of(&config);
    declare_down_to(1, &config, 0);
    refused(zero_commit(engine));
    config_of(&config);
    config.memory_limit = 3 << 20;
    declare(&config, 0);
    refused(zero_commit(engine));

    /* training */
    config_of(&config);
    declare(&config, 0);
    refused(zero_micro_begin(engine, train, ZERO_LAST));
    must(zero_commit(engine));
    refused(zero_acquire(engine, unit[0]));
    refused(zero_micro_begin(engine, train, 0));
    must(zero_micro_begin(engine, train, ZERO_LAST));
    must(zero_acquire(engine, unit[0]));
    refused(zero_micro_end(engine));
    refused(zero_param_get(engine, param[0], ZERO_STATE_PARAM, ZERO_FP32, &config));
    must(zero_release(engine, unit[0]));
    must(zero_acquire(engine, unit[0])); /* its backward use: skips the uses between */
    must(zero_release(engine, unit[0]));
    refused(zero_acquire(engine, unit[1]));
    refused(zero_acquire(engine, unit[0]));
    must(zero_micro_end(engine));
    refused(zero_micro_begin(engine, train, ZERO_LAST));
    refused(zero_param_get(engine, param[2], ZERO_STATE_GRAD, ZERO_FP32, &config));
    must(zero_step(engine, 0.1));
    zero_stats_t stats = {0};
    refused(zero_step_stats(engine, &stats));
    refused(zero_step(engine, 0.1));

    zero_comm_t *none = NULL;
    if (zero_comm_torchrun(&none, NULL, &error) == ZERO_OK)
        return 1;
    printf("%s\n", error.text);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return 0;
}
