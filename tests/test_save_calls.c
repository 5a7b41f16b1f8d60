/* SPDX-License-Identifier: Apache-2.0 */
/* test_save_calls.c - a small model whose state is saved, loaded and compared. Its suites are in files of their own. */
#include "tests/save_suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

const save_shape_t save_shapes[SAVE_PARAMS] = {{"w", 2, {12, 10}, true},  {"e", 2, {6, 50}, true},
                                               {"b", 1, {700, 0}, true},  {"frozen", 1, {40, 0}, false},
                                               {"none", 2, {0, 3}, true}, {"scalar", 0, {0, 0}, true}};
char save_folder[64];
save_values_t *save_before, *save_after;

/* ---- a model ---------------------------------------------------------------------------------------------------- */

static int unchanged(void *ctx, const zero_matrix_args_t *args)
{
    (void)ctx, (void)args;
    return 0;
}

static int update(void *ctx, const zero_update_args_t *args)
{
    (void)ctx;
    for (int64_t i = 0; i < args->count; i++) {
        float g = (float)args->grad_factor * (args->grad_dtype == ZERO_FP32
                                                  ? ((const float *)args->grad)[i]
                                                  : zero_bf16_to_fp32(((const uint16_t *)args->grad)[i]));
        for (int k = 0; k < 2 && args->state[k]; k++)
            g = args->state[k][i] = 0.5f * args->state[k][i] + g;
        args->master[i] -= (float)args->lr * g;
    }
    return 0;
}

int save_fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx;
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)((begin + i) * 7 % 23 - 11 + param) / 16;
    return 0;
}

/* Declares the parameters in one unit and commits. */
static int start(small_t *s, const save_run_t *r, zero_comm_t *comm)
{
    zero_config_t config;
    zero_device_options_t options;
    *s = (small_t){.c = {.world = r->world, .stage = r->stage, .threaded = r->threaded, .rule = r->rule},
                   .rank = zero_comm_rank(comm)};
    zero_device_options_init(&options);
    options.threads = 1;
    options.threaded = r->threaded > 0;
    options.delay_seed = r->threaded > 1 ? (uint64_t)s->rank + 1 : 0;
    zero_config_init(&config);
    SMALL_TRY(zero_device_cpu(&s->device, &options, NULL));
    SMALL_TRY(zero_config_stage(&config, r->stage));
    config.comm = comm;
    config.device = s->device;
    config.saves = true;
    config.saves_frozen = !r->apart;
    config.guard = r->guard;
    config.persist_bytes = 0;
    config.timeout_s = 30;
    config.loss_scale = r->scaled ? 0x1p20 : 1;
    config.growth_interval = r->scaled; /* it grows at every step */
    config.rule = r->rule;
    config.beta1 = r->beta1;
    config.update = r->rule == ZERO_RULE_CUSTOM ? update : NULL;
    config.update_states = r->update_states;
    config.matrix = r->rule == ZERO_RULE_MUON ? unchanged : NULL;
    SMALL_TRY(zero_create(&s->engine, &config, NULL));
    SMALL_TRY(zero_unit_add(s->engine, "all", &s->unit[0]));
    for (int p = 0; p < SAVE_PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = save_shapes[p].name;
        desc.ndim = save_shapes[p].ndim;
        memcpy(desc.shape, save_shapes[p].shape, sizeof save_shapes[p].shape);
        desc.trainable = save_shapes[p].trainable;
        desc.dtype = r->dtype;
        desc.elementwise = p == E && r->elementwise;
        SMALL_TRY(zero_param_add(s->engine, s->unit[0], &desc, &s->param[p]));
    }
    if (r->evaluates)
        SMALL_TRY(zero_pass_add(s->engine, "eval", ZERO_PASS_EVAL, &s->eval));
    else
        SMALL_TRY(zero_pass_add(s->engine, "train", ZERO_PASS_TRAIN, &s->train));
    SMALL_TRY(zero_use_add(s->engine, 0, s->unit[0], r->evaluates ? ZERO_READ : ZERO_READ | ZERO_GRAD));
    SMALL_TRY(zero_commit(s->engine));
    for (int p = 0; p < SAVE_PARAMS; p++)
        SMALL_TRY(zero_param_fill(s->engine, s->param[p], save_fill, NULL));
    return 0;
}

int save_step(small_t *s, int64_t number)
{
    float scale;
    SMALL_TRY(zero_loss_scale(s->engine, &scale));
    SMALL_TRY(zero_micro_begin(s->engine, s->train, ZERO_LAST));
    SMALL_TRY(zero_acquire(s->engine, s->unit[0]));
    for (int p = 0; p < SAVE_PARAMS; p++) {
        float *g = zero_param_grad(s->engine, s->param[p]);
        uint16_t *narrow = (uint16_t *)(void *)g;
        for (int64_t i = 0; g && i < zero_param_elements(s->engine, s->param[p]); i++) {
            float add = scale * (float)((i * 5 + number * 13 + s->rank * 3 + p) % 17 - 8) / 32;
            if (s->c.dtype == ZERO_FP32)
                g[i] += add;
            else
                narrow[i] = zero_fp32_to_bf16(zero_bf16_to_fp32(narrow[i]) + add);
        }
    }
    SMALL_TRY(zero_release(s->engine, s->unit[0]));
    SMALL_TRY(zero_micro_end(s->engine));
    SMALL_TRY(zero_step(s->engine, 0.01));
    return 0;
}

/* Reads all states; compares them with wanted, or on rank 0 writes them there. */
int save_look(small_t *s, save_values_t *wanted, bool compare)
{
    static float values[SAVE_MOST];
    for (int p = 0; p < SAVE_PARAMS; p++)
        for (int k = 0; k < SAVE_STATES; k++) {
            if (k == ZERO_STATE_GRAD)
                continue;
            int64_t count = zero_param_elements(s->engine, s->param[p]);
            bool has = zero_param_get(s->engine, s->param[p], (zero_state_t)k, ZERO_FP32, values) == ZERO_OK;
            if (compare && (wanted->has[p][k] != has ||
                            (has && memcmp(wanted->of[p][k], values, (size_t)count * sizeof *values) != 0)))
                return small_complain(s, "state %d of parameter '%s' differs", k, save_shapes[p].name);
            if (compare || s->rank > 0)
                continue;
            wanted->has[p][k] = has;
            memcpy(wanted->of[p][k], values, (size_t)count * sizeof *values);
        }
    return 0;
}

int save_open(small_t *s)
{
    zero_save_options_t options;
    zero_save_options_init(&options);
    options.folder = save_folder;
    SMALL_TRY(zero_save_open(s->engine, &options));
    return 0;
}

int save_finish(small_t *s, int64_t number)
{
    zero_saved_t end = {.size = sizeof end};
    SMALL_TRY(zero_save_end(s->engine, true, &end));
    SMALL_IS(end.done && end.step == number);
    return 0;
}

zero_status_t save_load(small_t *s)
{
    zero_checkpoint_t *checkpoint = NULL;
    zero_error_t error;
    if (zero_checkpoint_open(&checkpoint, save_folder, &error) != ZERO_OK) {
        small_complain(s, "%s", error.text);
        return error.status;
    }
    zero_status_t status = zero_load(s->engine, checkpoint);
    zero_checkpoint_close(checkpoint);
    return status;
}

int save_load_it(small_t *s)
{
    SMALL_TRY(save_load(s));
    return 0;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

typedef struct task {
    const save_run_t *run;
    int (*body)(small_t *s);
} task_t;

static int run_rank(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const task_t *task = arg;
    small_t small, *s = &small;
    zero_comm_t *comm = small_comm(bootstrap);
    int result = comm ? start(s, task->run, comm) : -1;
    (void)rank, (void)world;
    s->c.dtype = task->run->dtype;
    if (result == 0)
        result = task->body(s);
    small_destroy(s);
    zero_comm_destroy(comm);
    return result;
}

void save_run(const save_run_t *r, int (*body)(small_t *s))
{
    task_t task = {r, body};
    ck_assert_int_eq(ranks_run(r->world, 60, run_rank, &task), 0);
}

void save_setup(void)
{
    snprintf(save_folder, sizeof save_folder, "test_save_calls.%d", (int)getpid());
    save_before = ranks_shared(sizeof *save_before);
    save_after = ranks_shared(sizeof *save_after);
}

void save_teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", save_folder);
    ck_assert_int_eq(system(command), 0);
    ranks_unshare(save_before, sizeof *save_before);
    ranks_unshare(save_after, sizeof *save_after);
}

/* ----------------------------------------------------------------------------------------------------------------- */

int main(void)
{
    SRunner *runner = srunner_create(save_kept_suite());
    srunner_add_suite(runner, save_failed_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
