/* SPDX-License-Identifier: Apache-2.0 */
/* parts_toy.c - see parts_toy.h. */
#include "tests/parts_toy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* With 2 and 4 ranks, the runs of all but `odd` and the frozen ones are multiples of the blocks of 8-bit moments. These
 * numbers do not divide the rows of `uneven`, `few` and `still`. */
const parts_shape_t parts_shapes[PARTS_PARAMS] = {{"rows", 0, 2, {512, 3, 0}, 0, 1, false, false, false},
                                                  {"columns", 0, 2, {5, 1024, 0}, 1, 1, false, false, false},
                                                  {"norm", 0, 1, {300, 0, 0}, -1, 1, true, false, false},
                                                  {"three", 0, 2, {4, 1536, 0}, 1, 3, false, false, false},
                                                  {"blocks", 1, 3, {24, 2, 128}, 0, 3, false, false, false},
                                                  {"same", 1, 2, {7, 11, 0}, -1, 1, false, false, false},
                                                  {"uneven", 1, 2, {7, 128, 0}, 0, 1, false, false, false},
                                                  {"few", 1, 2, {3, 128, 0}, 0, 1, false, false, false},
                                                  {"middle", 1, 3, {3, 4, 128}, 1, 1, false, false, false},
                                                  {"long", 2, 2, {2, PARTS_LONG / 2, 0}, 1, 1, false, false, false},
                                                  {"still", 2, 2, {10, 6, 0}, 0, 1, false, true, false},
                                                  {"frozen", 2, 2, {3, 20, 0}, 1, 1, false, true, false},
                                                  {"held", 2, 1, {50, 0, 0}, -1, 1, true, true, false},
                                                  {"odd", 2, 2, {2400, 444, 0}, 1, 1, false, false, true},
                                                  {"wide", 1, 2, {600, 512, 0}, 1, 1, false, false, false}};

int64_t parts_count(int p)
{
    int64_t count = 1;
    for (int d = 0; d < parts_shapes[p].ndim; d++)
        count *= parts_shapes[p].shape[d];
    return count;
}

bool parts_has(int p, int state)
{
    return state == ZERO_STATE_PARAM || (!parts_shapes[p].frozen && state != ZERO_STATE_GRAD);
}

static size_t record_bytes(void)
{
    size_t elements = 0;
    for (int p = 0; p < PARTS_PARAMS; p++)
        elements += (size_t)parts_count(p);
    return elements * PARTS_STATES * sizeof(float);
}

parts_record_t parts_record_make(void)
{
    parts_record_t r;
    float *at = ranks_shared(record_bytes());
    for (int p = 0; p < PARTS_PARAMS; p++)
        for (int s = 0; s < PARTS_STATES; s++, at += parts_count(p))
            r.of[p][s] = at;
    return r;
}

void parts_record_free(parts_record_t *r)
{
    ranks_unshare(r->of[0][0], record_bytes());
}

int parts_complain(const parts_toy_t *t, const char *what, int line)
{
    const parts_case_t *c = t->c;
    fprintf(stderr, "rank %d of {world %d, tensor %d, replicas %d, stage %d, %s, rule %d, tier %d}: line %d: %s: %s\n",
            t->rank, c->world, c->tensor, c->replicas, c->stage, zero_dtype_name(c->dtype), (int)c->rule, (int)c->tier,
            line, what, t->engine ? zero_last_error(t->engine) : "");
    return -1;
}
/* ---- the model -------------------------------------------------------------------------------------------------- */

bool parts_lacks(const parts_case_t *c, int p)
{
    return parts_shapes[p].odd && !c->odd;
}

float parts_value(int p, int64_t i, int version)
{
    return (float)((i * 31 + p * 101 + version * 57) % 251 + 1) / 256;
}

float parts_gradient(int p, int64_t i, int step)
{
    return (float)((i * 7 + p * 3 + step) % 17 - 8) / 64;
}

/* The whole parameter's element of each element of this rank's part, from its indices; -1: padding. */
static int64_t whole_of(const parts_toy_t *t, int p, const int64_t *local, int64_t i)
{
    const parts_shape_t *s = &parts_shapes[p];
    int64_t index[3], out = 0;
    for (int d = s->ndim - 1; d >= 0; d--) {
        index[d] = i % local[d];
        i /= local[d];
    }
    if (s->dim >= 0) {
        const int64_t part = local[s->dim] / s->blocks, block = index[s->dim] / part;
        const int64_t in_block = index[s->dim] % part + part * t->place;
        if (in_block >= s->shape[s->dim] / s->blocks)
            return -1;
        index[s->dim] = block * (s->shape[s->dim] / s->blocks) + in_block;
    }
    for (int d = 0; d < s->ndim; d++)
        out = out * s->shape[d] + index[d];
    return out;
}

float parts_load(const void *from, zero_dtype_t dtype, int64_t i)
{
    return dtype == ZERO_BF16 ? zero_bf16_to_fp32(((const uint16_t *)from)[i]) : ((const float *)from)[i];
}

static void add(void *to, zero_dtype_t dtype, int64_t i, float x)
{
    if (dtype == ZERO_BF16)
        ((uint16_t *)to)[i] = zero_fp32_to_bf16(zero_bf16_to_fp32(((uint16_t *)to)[i]) + x);
    else
        ((float *)to)[i] += x;
}

int parts_declare(parts_toy_t *t)
{
    static const char *const units[PARTS_UNITS] = {"a", "b", "c"};
    for (int u = 0; u < PARTS_UNITS; u++)
        PARTS_TRY(zero_unit_add(t->engine, units[u], &t->unit[u]));
    for (int p = 0; p < PARTS_PARAMS; p++) {
        zero_param_desc_t desc;
        if (parts_lacks(t->c, p))
            continue;
        zero_param_desc_init(&desc);
        desc.name = parts_shapes[p].name;
        desc.dtype = t->c->dtype;
        desc.ndim = parts_shapes[p].ndim;
        memcpy(desc.shape, parts_shapes[p].shape, (size_t)desc.ndim * sizeof *desc.shape);
        desc.split_dim = parts_shapes[p].dim;
        desc.split_blocks = parts_shapes[p].blocks;
        desc.partial = parts_shapes[p].partial;
        desc.trainable = !parts_shapes[p].frozen;
        PARTS_TRY(zero_param_add(t->engine, t->unit[parts_shapes[p].unit], &desc, &t->param[p]));
        PARTS_IS(zero_param_elements(t->engine, t->param[p]) == parts_count(p));
    }
    PARTS_TRY(zero_pass_add(t->engine, "train", ZERO_PASS_TRAIN, &t->train));
    PARTS_TRY(zero_pass_add(t->engine, "eval", ZERO_PASS_EVAL, &t->eval));
    for (int u = 0; u < PARTS_UNITS; u++) {
        PARTS_TRY(zero_use_add(t->engine, t->train, t->unit[u], ZERO_READ | ZERO_GRAD));
        PARTS_TRY(zero_use_add(t->engine, t->eval, t->unit[u], ZERO_READ));
    }
    return 0;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    parts_toy_t *t = ctx;
    int p = 0;
    while (t->param[p] != param || parts_lacks(t->c, p))
        p++;
    if (begin < t->next || begin + count > parts_count(p)) /* ascending, and of the whole */
        return -1;
    t->next = begin + count;
    for (int64_t i = 0; i < count; i++)
        out[i] = parts_value(p, begin + i, t->version);
    return 0;
}

int parts_fill(parts_toy_t *t, int version)
{
    t->version = version;
    for (int p = 0; p < PARTS_PARAMS; p++) {
        t->next = 0;
        if (!parts_lacks(t->c, p))
            PARTS_TRY(zero_param_fill(t->engine, t->param[p], fill, t));
    }
    return 0;
}

int parts_pass(parts_toy_t *t, int version, bool train, int step)
{
    const zero_dtype_t dtype = t->c->dtype;
    PARTS_TRY(train ? zero_micro_begin(t->engine, t->train, ZERO_LAST) : zero_micro_begin(t->engine, t->eval, 0));
    for (int u = 0; u < PARTS_UNITS; u++) {
        PARTS_TRY(zero_acquire(t->engine, t->unit[u]));
        for (int p = 0; p < PARTS_PARAMS; p++) {
            int64_t local[ZERO_MAX_DIMS], count = 1;
            if (parts_shapes[p].unit != u || parts_lacks(t->c, p))
                continue;
            PARTS_TRY(zero_param_local(t->engine, t->param[p], local));
            for (int d = 0; d < ZERO_MAX_DIMS; d++)
                count *= local[d];
            const void *data = zero_param_data(t->engine, t->param[p]);
            void *grad = zero_param_grad(t->engine, t->param[p]);
            for (int64_t i = 0; i < count; i++) {
                const int64_t whole = whole_of(t, p, local, i);
                if (version > 0 || whole < 0) /* padding is zero at all times */
                    PARTS_IS(parts_load(data, dtype, i) == (whole < 0 ? 0 : parts_value(p, whole, version)));
                if (train && !parts_shapes[p].frozen && whole >= 0)
                    add(grad, dtype, i,
                        parts_gradient(p, whole, step) / (float)(parts_shapes[p].partial ? t->c->tensor : 1));
            }
        }
        PARTS_TRY(zero_release(t->engine, t->unit[u]));
    }
    PARTS_TRY(zero_micro_end(t->engine));
    return 0;
}

/* ---- reading and setting ---------------------------------------------------------------------------------------- */

/* Reads values that zero_param_get returned before. */
static int look(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    parts_toy_t *t = ctx;
    int p = 0;
    while (t->param[p] != param || parts_lacks(t->c, p))
        p++;
    t->reads++;
    if (begin < t->next || begin + count > parts_count(p) ||
        memcmp(values, t->c->later->of[p][t->now] + begin, (size_t)count * sizeof *values) != 0)
        return -1;
    t->next = begin + count;
    t->found += count;
    return 0;
}

/* zero_param_read gives each element on one rank. What zero_param_get gave is in the record `later`. */
static int read_all(parts_toy_t *t, int p, zero_state_t state)
{
    t->now = state;
    t->next = t->found = t->reads = 0;
    PARTS_TRY(zero_param_read(t->engine, t->param[p], state, look, t));
    double found = (double)t->found;
    PARTS_TRY(zero_sum(t->engine, &found, 1));
    PARTS_IS(found == (double)parts_count(p));
    PARTS_IS(t->c->tensor > 1 || t->reads <= 3); /* without parts, in as few ranges as there are pieces */
    return 0;
}

static int barrier(parts_toy_t *t)
{
    double none = 0;
    PARTS_TRY(zero_sum(t->engine, &none, 1));
    return 0;
}

int parts_states(parts_toy_t *t, parts_record_t *record)
{
    for (int p = 0; p < PARTS_PARAMS; p++)
        for (int s = 0; s < PARTS_STATES; s++) {
            if (parts_lacks(t->c, p) || !parts_has(p, s))
                continue;
            float *into = t->c->later->of[p][s];
            PARTS_TRY(zero_param_get(t->engine, t->param[p], (zero_state_t)s, ZERO_FP32,
                                     t->rank == t->c->world - 1 ? into : NULL));
            PARTS_DO(barrier(t));
            PARTS_DO(read_all(t, p, (zero_state_t)s));
            if (t->rank == 0 && t->c->first)
                memcpy(record->of[p][s], into, (size_t)parts_count(p) * sizeof *into);
            else if (t->rank == 0)
                for (int64_t i = 0; i < parts_count(p); i++)
                    if (memcmp(&record->of[p][s][i], &into[i], sizeof *into) != 0) {
                        fprintf(stderr, "state %d of %s, element %lld: %.9g, not %.9g\n", s, parts_shapes[p].name,
                                (long long)i, (double)into[i], (double)record->of[p][s][i]);
                        return parts_complain(t, "values differ", __LINE__);
                    }
            PARTS_DO(barrier(t));
        }
    return 0;
}

int parts_set_values(parts_toy_t *t)
{
    static float values[PARTS_LONG], found[PARTS_LONG];
    for (int p = 0; p < PARTS_PARAMS; p++)
        for (int s = 0; s < PARTS_STATES; s++) {
            if (parts_lacks(t->c, p) || !parts_has(p, s))
                continue;
            for (int64_t i = 0; i < parts_count(p); i++)
                values[i] = parts_value(p, i, 10 + s);
            PARTS_TRY(zero_param_set(t->engine, t->param[p], (zero_state_t)s, ZERO_FP32, values));
            PARTS_TRY(zero_param_get(t->engine, t->param[p], (zero_state_t)s, ZERO_FP32, found));
            for (int64_t i = 0; i < parts_count(p); i++)
                PARTS_IS(found[i] == values[i] || (s >= ZERO_STATE_MOMENT1 && t->c->rule == ZERO_RULE_ADAMW8));
        }
    return 0;
}

int parts_reset(parts_toy_t *t)
{
    static const float zeros[PARTS_LONG];
    for (int p = 0; p < PARTS_PARAMS; p++)
        for (int s = ZERO_STATE_MOMENT1; s < PARTS_STATES; s++)
            if (!parts_lacks(t->c, p) && parts_has(p, s))
                PARTS_TRY(zero_param_set(t->engine, t->param[p], (zero_state_t)s, ZERO_FP32, zeros));
    return parts_fill(t, 1);
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

int parts_step(parts_toy_t *t, int number, bool sets)
{
    static float values[PARTS_LONG];
    double squares = 0;
    zero_stats_t stats = {.size = sizeof stats};
    PARTS_DO(parts_pass(t, 0, true, number));
    for (int p = 0; p < PARTS_PARAMS; p++) {
        if (parts_lacks(t->c, p) || parts_shapes[p].frozen)
            continue;
        PARTS_TRY(zero_param_get(t->engine, t->param[p], ZERO_STATE_GRAD, ZERO_FP32, values));
        for (int64_t i = 0; i < parts_count(p); i++) {
            const float wanted = parts_gradient(p, i, number);
            PARTS_IS(values[i] == wanted * (float)t->groups);
            squares += (double)wanted * (double)wanted;
        }
        if (!sets)
            continue;
        for (int64_t i = 0; i < parts_count(p); i++)
            values[i] = parts_gradient(p, i, number + 5) * (float)t->groups;
        PARTS_TRY(zero_param_set(t->engine, t->param[p], ZERO_STATE_GRAD, ZERO_FP32, values));
        for (int64_t i = 0; i < parts_count(p); i++)
            squares += (double)(parts_gradient(p, i, number + 5) * parts_gradient(p, i, number + 5)) -
                       (double)(parts_gradient(p, i, number) * parts_gradient(p, i, number));
    }
    PARTS_TRY(zero_step(t->engine, 0.01));
    PARTS_TRY(zero_step_stats(t->engine, &stats));
    PARTS_IS(stats.grad_norm == sqrt(squares));
    return 0;
}

/* ---- optimizers of one's own ------------------------------------------------------------------------------------ */

/* Elements are those of the whole parameter: the gradients say so. The master weights of a call are one range. */
static int update(void *ctx, const zero_update_args_t *args)
{
    parts_toy_t *t = ctx;
    int p = 0;
    while (strcmp(parts_shapes[p].name, args->name) != 0)
        p++;
    if (args->begin < 0 || args->count < 1 || args->begin + args->count > parts_count(p))
        return -1;
    for (int64_t i = 0; i < args->count; i++) {
        if (parts_load(args->grad, args->grad_dtype, i) != parts_gradient(p, args->begin + i, 0) * (float)t->groups)
            return -1;
        if (args->master[i] != parts_value(p, args->begin + i, 1) || args->state[0][i] != 0)
            return -1;
        args->master[i] = parts_value(p, args->begin + i, 2);
        args->state[0][i] = parts_value(p, args->begin + i, 3);
    }
    t->found += parts_shapes[p].dim < 0 && !parts_shapes[p].partial && t->place > 0 ? 0 : args->count;
    return 0;
}

/* ---- engines --- */

static int open_engine(parts_toy_t *t, const zero_bootstrap_t *bootstrap, zero_comm_t **comm, zero_device_t **device,
                       int (*body)(parts_toy_t *t))
{
    const parts_case_t *c = t->c;
    zero_comm_options_t options;
    zero_config_t config;
    zero_error_t error = {0};
    zero_comm_options_init(&options);
    options.timeout_s = 60;
    if (zero_comm_shm(comm, bootstrap, &options, &error) != ZERO_OK || zero_device_cpu(device, NULL, &error) != ZERO_OK)
        return parts_complain(t, error.text, __LINE__);
    zero_config_init(&config);
    config.comm = *comm;
    config.device = *device;
    config.timeout_s = 60;
    config.rule = c->rule;
    config.mesh.tensor = c->tensor;
    config.mesh.replicas = c->replicas;
    config.update = c->rule == ZERO_RULE_CUSTOM ? update : NULL;
    config.update_ctx = t;
    config.update_states = c->rule == ZERO_RULE_CUSTOM;
    config.saves = config.saves_frozen = true;
    config.persist_bytes = 0;
    config.grad_scale = 1.0 / t->groups;
    if (zero_config_stage(&config, c->stage) != ZERO_OK)
        return parts_complain(t, "stage", __LINE__);
    config.optimizer.tier = config.gradients.tier = c->tier;
    if (zero_create(&t->engine, &config, &error) != ZERO_OK)
        return parts_complain(t, error.text, __LINE__);
    PARTS_DO(parts_declare(t));
    PARTS_TRY(zero_commit(t->engine));
    return body(t);
}

typedef struct job {
    const parts_case_t *c;
    int (*body)(parts_toy_t *t);
} job_t;

static int rank_main(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const job_t *job = arg;
    const parts_case_t *c = job->c;
    parts_toy_t t = {.c = c, .rank = rank, .place = rank % c->tensor, .groups = world / c->tensor};
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    const int result = open_engine(&t, bootstrap, &comm, &device, job->body);
    zero_destroy(t.engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return result != 0;
}

void parts_run(const parts_case_t *c, int (*body)(parts_toy_t *t))
{
    job_t job = {c, body};
    ck_assert_int_eq(ranks_run(c->world, 300, rank_main, &job), 0);
}

static const int meshes[PARTS_MESHES][3] = {{1, 1, 1}, {2, 2, 1}, {4, 2, 1}, {4, 2, 2},
                                            {4, 4, 1}, {2, 1, 1}, {8, 4, 1}};

parts_case_t parts_case(int mesh, int stage, zero_dtype_t dtype, zero_rule_t rule)
{
    return (parts_case_t){.world = meshes[mesh][0],
                          .tensor = meshes[mesh][1],
                          .replicas = meshes[mesh][2],
                          .stage = stage,
                          .dtype = dtype,
                          .rule = rule,
                          .first = mesh == 0};
}
