/* SPDX-License-Identifier: Apache-2.0 */
/* declare.c - see declare.h. */
#include "tests/declare.h"

#include "zero/plan/split.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

uint64_t declare_draw(uint64_t *state, uint64_t n)
{
    return zero_splitmix64((*state)++) % n;
}

void declare_init(declare_t *d, int world)
{
    memset(d, 0, sizeof *d);
    d->spec = (zero_spec_t){.window = 2,
                            .micro_steps = 1,
                            .mesh = {.pipe = 1, .replicas = 1, .context = 1, .tensor = 1},
                            .channels = 2,
                            .state = {2, {zero_format_plain(ZERO_FP32), zero_format_plain(ZERO_FP32)}},
                            .piece = ZERO_PIECE,
                            .offload_ratio = 1,
                            .units = d->units,
                            .params = d->params,
                            .passes = d->passes,
                            .reserves = d->reserves};
    d->spec.groups[0].caps = (zero_comm_caps_t){
        .name = "shm", .in_place = true, .host_pointers = true, .ring_bytes = 1 << 20, .node_ranks = world};
    declare_world(d, world);
    d->spec.device = (zero_device_caps_t){.name = "cpu", .asynchronous = true, .host_memory = true, .page = ZERO_PAGE};
}

void declare_world(declare_t *d, int world)
{
    d->spec.world = world;
    declare_replicas(d, 1);
}

void declare_replicas(declare_t *d, int replicas)
{
    d->spec.mesh.pipe = 1;
    d->spec.mesh.replicas = replicas;
    d->spec.mesh.node = 0;
    zero_plan_set_groups(&d->spec);
}

void declare_stage(declare_t *d, int stage)
{
    d->spec.parameters.sharding = stage >= 3 ? ZERO_SHARDED : ZERO_FULL;
    d->spec.gradients.sharding = stage >= 2 ? ZERO_SHARDED : ZERO_FULL;
    d->spec.optimizer.sharding = stage >= 1 ? ZERO_SHARDED : ZERO_FULL;
}

int32_t declare_unit(declare_t *d, const char *name)
{
    int32_t u = d->spec.unit_count++;
    assert(u < DECLARE_UNITS);
    snprintf(d->unit_names[u], sizeof d->unit_names[u], "%s", name);
    d->units[u].name = d->unit_names[u];
    return u;
}

int32_t declare_param(declare_t *d, int32_t unit, int64_t count, zero_dtype_t dtype, bool trainable, double decay)
{
    int32_t p = d->spec.param_count++;
    assert(p < DECLARE_PARAMS);
    char name[sizeof d->param_names[p]]; /* not written in place: the compiler cannot tell the two names of *d apart */
    snprintf(name, sizeof name, "%.20s.%d", d->units[unit].name, p);
    memcpy(d->param_names[p], name, sizeof name);
    d->params[p] = (zero_spec_param_t){.name = d->param_names[p],
                                       .unit = unit,
                                       .ndim = 1,
                                       .shape = {count},
                                       .count = count,
                                       .dtype = dtype,
                                       .trainable = trainable,
                                       .decay_scale = decay,
                                       .lr_scale = 1};
    return p;
}

int32_t declare_pass(declare_t *d, zero_pass_kind_t kind)
{
    int32_t p = d->spec.pass_count++;
    assert(p < DECLARE_PASSES);
    static const char *const names[] = {"train", "eval", "any"};
    snprintf(d->pass_names[p], sizeof d->pass_names[p], "%s%d", names[kind], p);
    d->passes[p] = (zero_spec_pass_t){
        .name = d->pass_names[p], .kind = kind, .uses = d->uses[p], .collectives = d->collectives[p]};
    return p;
}

void declare_use(declare_t *d, int32_t pass, int32_t unit, uint32_t flags)
{
    assert(d->passes[pass].use_count < DECLARE_USES);
    d->uses[pass][d->passes[pass].use_count++] = (zero_spec_use_t){.unit = unit, .flags = flags};
}

void declare_chain(declare_t *d, int layers, int64_t count, zero_dtype_t dtype)
{
    char name[24];
    for (int i = 0; i < layers; i++) {
        snprintf(name, sizeof name, "layer.%d", i);
        declare_param(d, declare_unit(d, name), count, dtype, true, 1);
    }
    int32_t train = declare_pass(d, ZERO_PASS_TRAIN), eval = declare_pass(d, ZERO_PASS_EVAL);
    for (int i = 0; i < layers; i++) {
        declare_use(d, train, i, ZERO_READ);
        declare_use(d, eval, i, ZERO_READ);
    }
    for (int i = layers - 1; i >= 0; i--)
        declare_use(d, train, i, ZERO_READ | ZERO_GRAD);
}

static void declare_task(declare_t *d, int32_t pass, int32_t chunk, zero_phase_t phase)
{
    zero_spec_pass_t *p = &d->passes[pass];
    p->tasks = d->tasks[pass];
    p->tasks[p->task_count++] = (zero_spec_task_t){chunk, phase, p->use_count};
}

/* The first of a chunk's layers; those of the last one end before that of the chunk after it. */
static int first_layer(const declare_pipe_t *pipe, int chunk)
{
    return pipe->layers * chunk / (pipe->stages * pipe->chunks);
}

void declare_pipe(declare_t *d, const declare_pipe_t *pipe)
{
    int chunks = pipe->stages * pipe->chunks;
    char name[24];
    assert(chunks <= DECLARE_CHUNKS);
    declare_init(d, pipe->stages * pipe->replicas * pipe->shards);
    d->spec.mesh.pipe = pipe->stages;
    d->spec.mesh.replicas = pipe->replicas;
    d->spec.schedule = pipe->schedule;
    d->spec.micro_steps = pipe->micro_steps;
    d->spec.chunks = d->chunks;
    d->spec.chunk_count = chunks;
    for (int c = 0; c < chunks; c++)
        d->chunks[c] = (zero_spec_chunk_t){
            .link = c + 1 < chunks ? 64 : 0, .kept = {1000, 100}, .workspace = {(uint64_t)(c + 1) * 64, 0}};
    int ends = pipe->tied > 1 ? pipe->tied : 1; /* units 0 to ends - 1 are in the first chunk */
    for (int i = 0; i < ends + pipe->layers + (pipe->tied == 0); i++) {
        snprintf(name, sizeof name,
                 i == 0                    ? "embedding"
                 : i < ends                ? "tied.%d"
                 : i < ends + pipe->layers ? "layer.%d"
                                           : "head",
                 i < ends ? i : i - ends);
        declare_param(d, declare_unit(d, name), 1000 + 100 * i, ZERO_FP32, true, 1);
    }
    int32_t train = declare_pass(d, ZERO_PASS_TRAIN), eval = declare_pass(d, ZERO_PASS_EVAL), head = d->spec.unit_count;
    for (int32_t p = train; p <= eval; p++) {
        for (int c = 0; c < chunks; c++) {
            declare_task(d, p, c, ZERO_FORWARD);
            for (int32_t u = 0; u < ends && c == 0; u++)
                declare_use(d, p, u, ZERO_READ);
            for (int l = first_layer(pipe, c); l < first_layer(pipe, c + 1); l++)
                declare_use(d, p, ends + l, ZERO_READ);
        }
        for (int32_t u = pipe->tied > 0 ? pipe->tied - 1 : head - 1, n = ends; n > 0; n--, u--)
            declare_use(d, p, u, ZERO_READ | (p == train ? ZERO_GRAD : 0));
    }
    for (int c = chunks - 1; c >= 0; c--) {
        declare_task(d, train, c, ZERO_BACKWARD);
        for (int l = first_layer(pipe, c + 1) - 1; l >= first_layer(pipe, c); l--)
            declare_use(d, train, ends + l, ZERO_READ | ZERO_GRAD);
    }
    for (int32_t u = 0; u < ends; u++)
        declare_use(d, train, u, ZERO_GRAD);
    zero_error_t error = {.text = ""};
    zero_status_t status = zero_plan_set_tied(&d->spec, &error);
    assert(status == ZERO_OK);
    (void)status;
    if (pipe->stages == 1) /* which zero_plan_set_tied leaves as they are */
        zero_plan_set_groups(&d->spec);
}

static zero_dtype_t random_dtype(uint64_t *r)
{
    static const zero_dtype_t dtypes[] = {ZERO_FP32, ZERO_FP32, ZERO_BF16, ZERO_BF16, ZERO_FP16};
    return dtypes[declare_draw(r, 5)];
}

static void random_unit(declare_t *d, uint64_t *r, bool small)
{
    static const int64_t sizes[] = {0, 1, 3, 7, 100, 127, 128, 129, 17001, 385, 500, 1000, 3001};
    char name[24];
    int32_t unit = d->spec.unit_count;
    snprintf(name, sizeof name, "u%d", unit);
    declare_unit(d, name);
    zero_dtype_t dtype = random_dtype(r);
    bool mixed = declare_draw(r, 4) == 0, frozen = declare_draw(r, 6) == 0;
    for (uint64_t i = declare_draw(r, 8) == 0 ? 0 : 1 + declare_draw(r, small ? 2 : 4); i > 0; i--)
        declare_param(d, unit, sizes[declare_draw(r, small ? 9 : 13)], mixed ? random_dtype(r) : dtype,
                      frozen ? false : declare_draw(r, 8) != 0, (double)declare_draw(r, 2));
}

/* The longest run of uses that are held together, at least 1: such a window is large enough. */
static int longest_hold(const declare_t *d)
{
    int longest = 1;
    for (int32_t p = 0; p < d->spec.pass_count; p++)
        for (int32_t i = 0, run = 1; i < d->passes[p].use_count; i++) {
            run = i > 0 && (d->uses[p][i - 1].flags & ZERO_HOLD) ? run + 1 : 1;
            longest = run > longest ? run : longest;
        }
    return longest;
}

static void random_holds(declare_t *d, uint64_t *r, int32_t pass)
{
    int32_t n = d->passes[pass].use_count, chain = 0;
    if (declare_draw(r, 3) != 0)
        return;
    for (int32_t i = 0; i + 1 < n; i++) {
        bool taken = false; /* a held unit cannot be acquired again */
        for (int32_t j = chain; j <= i; j++)
            taken = taken || d->uses[pass][j].unit == d->uses[pass][i + 1].unit;
        if (!taken && i - chain < 2 && declare_draw(r, 3) == 0)
            d->uses[pass][i].flags |= ZERO_HOLD;
        else
            chain = i + 1;
    }
}

/* Repeats some uses with gradients, as a tied or tiled unit does, and lets some of them reduce. */
static void random_reduces(declare_t *d, uint64_t *r, int32_t pass)
{
    for (int32_t i = 0, n = d->passes[pass].use_count; i < n; i++)
        if ((d->uses[pass][i].flags & ZERO_GRAD) && declare_draw(r, 2) == 0)
            declare_use(d, pass, d->uses[pass][i].unit, ZERO_GRAD | (declare_draw(r, 2) == 0 ? ZERO_READ : 0u));
    for (int32_t i = 0; i < d->passes[pass].use_count; i++)
        if ((d->uses[pass][i].flags & ZERO_GRAD) && declare_draw(r, 2) == 0)
            d->uses[pass][i].flags |= ZERO_REDUCE;
}

/* Freezes the parameters that get no gradients in the training pass. */
static void freeze_unwritten(declare_t *d, int32_t train)
{
    bool written[DECLARE_UNITS] = {false};
    for (int32_t i = 0; i < d->passes[train].use_count; i++)
        written[d->uses[train][i].unit] |= (d->uses[train][i].flags & ZERO_GRAD) != 0;
    for (int32_t p = 0; p < d->spec.param_count; p++)
        d->params[p].trainable &= written[d->params[p].unit];
}

void declare_shuffle_table(declare_t *d, uint64_t seed)
{
    uint64_t state = zero_splitmix64(seed ^ 0x7461626c65u), *r = &state;
    static const int64_t persist[] = {0, 0, 300, 2000};
    int longest = longest_hold(d), groups = d->spec.world / d->spec.mesh.tensor,
        replicas = 1 + (int)declare_draw(r, (uint64_t)groups);
    while (groups % replicas != 0)
        replicas--;
    declare_replicas(d, replicas);
    declare_stage(d, (int)declare_draw(r, 4));
    if (d->spec.parameters.sharding == ZERO_SHARDED && declare_draw(r, 8) == 0)
        d->spec.gradients.sharding = ZERO_FULL; /* a table that no preset gives */
    d->spec.gather_codec = d->spec.parameters.sharding == ZERO_SHARDED ? d->gather_codec : ZERO_CODEC_NONE;
    d->spec.window = 1 + (int)declare_draw(r, 4);
    if (d->spec.window < longest)
        d->spec.window = longest;
    d->spec.persist_bytes = persist[declare_draw(r, 4)];
    d->spec.device.host_memory = declare_draw(r, 3) != 0;
    d->spec.optimizer.tier = d->spec.gradients.tier = d->spec.parameters.tier = ZERO_TIER_DEVICE;
    d->spec.offload_ratio = 1;
    d->spec.piece = declare_draw(r, 2) ? ZERO_PIECE_QUANTUM : ZERO_PIECE;
    if (declare_draw(r, 2) == 0) {
        static const double ratios[] = {1, 1, 0, 0.37, 0.5};
        d->spec.optimizer.tier = declare_draw(r, 3) == 0 ? ZERO_TIER_NVME : ZERO_TIER_HOST;
        d->spec.gradients.tier = declare_draw(r, 2) ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
        d->spec.offload_ratio = ratios[declare_draw(r, 5)];
    }
    bool nodes = declare_draw(r, 3) == 0;
    if (declare_draw(r, 4) == 0)
        d->spec.parameters.tier =
            d->spec.optimizer.tier != ZERO_TIER_DEVICE && d->spec.offload_ratio == 1 && declare_draw(r, 2)
                ? ZERO_TIER_NVME
                : ZERO_TIER_HOST;
    if (nodes && d->spec.parameters.sharding == ZERO_SHARDED && d->spec.parameters.tier == ZERO_TIER_DEVICE) {
        d->spec.mesh.node = 2;
        while (zero_plan_shards(&d->spec) % d->spec.mesh.node != 0)
            d->spec.mesh.node--;
        zero_plan_set_groups(&d->spec);
    }
}

/* Turns some parameters into matrices, which are updated whole. */
static void declare_whole(declare_t *d, uint64_t *r)
{
    d->spec.whole = true;
    d->spec.whole_state = (zero_spec_state_t){1, {zero_format_plain(ZERO_FP32)}};
    for (int32_t p = 0; p < d->spec.param_count; p++) {
        zero_spec_param_t *param = &d->params[p];
        param->elementwise = declare_draw(r, 4) == 0;
        if (declare_draw(r, 4) == 0)
            continue;
        param->ndim = 2;
        param->shape[1] = param->count % 3 == 0 ? 3 : 1;
        param->shape[0] = param->count / param->shape[1];
    }
}

/* Splits the parameters over the ranks of tensor parallelism, or has their gradients summed, or leaves them the same;
 * and lets some uses have collectives. */
static void declare_tensor(declare_t *d, uint64_t *r, int tensor)
{
    d->spec.mesh.tensor = tensor;
    for (int32_t p = 0; p < d->spec.param_count && tensor > 1; p++) {
        zero_spec_param_t *param = &d->params[p];
        bool whole = d->spec.whole && param->ndim == 2 && !param->elementwise;
        zero_error_t error;
        param->split_blocks = 1;
        param->split_dim = whole || param->ndim == 0 || declare_draw(r, 2) ? -1 : 0;
        param->partial = param->split_dim < 0 && declare_draw(r, 2);
        memcpy(param->whole, param->shape, sizeof param->whole);
        param->total = param->count;
        if (param->split_dim == 0) {
            param->whole[0] *= tensor;
            param->total *= tensor;
        }
        assert(zero_split_set(&d->spec, param, &error) == ZERO_OK);
    }
    for (int32_t p = 0; p < d->spec.pass_count && tensor > 1; p++)
        for (int32_t u = 0; u < d->passes[p].use_count; u++)
            for (uint64_t n = declare_draw(r, 3); n > 0 && d->passes[p].collective_count < DECLARE_COLLECTIVES; n--) {
                zero_spec_collective_t *c = &d->collectives[p][d->passes[p].collective_count];
                *c = (zero_spec_collective_t){ZERO_AXIS_TENSOR, (zero_collective_kind_t)declare_draw(r, 3),
                                              tensor * (1 + (int64_t)declare_draw(r, 100)),
                                              (zero_dtype_t)declare_draw(r, 2)};
                if (d->uses[p][u].collective_count++ == 0)
                    d->uses[p][u].first_collective = d->passes[p].collective_count;
                d->passes[p].collective_count++;
            }
}

void declare_random(declare_t *d, uint64_t seed, int max_world, bool small)
{
    uint64_t state = zero_splitmix64(seed), *r = &state;

    declare_init(d, 1 + (int)declare_draw(r, (uint64_t)max_world));
    d->spec.micro_steps = 1 + (int)declare_draw(r, 3);
    d->spec.state.count = declare_draw(r, 3) == 0 ? (int)declare_draw(r, 2) : 2;
    d->spec.reduce = declare_draw(r, 2) ? ZERO_REDUCE_EVERY : ZERO_REDUCE_LAST;
    d->spec.reduce_dtype = declare_draw(r, 3) == 0 ? ZERO_BF16 : ZERO_FP32;
    for (uint64_t n = 1 + declare_draw(r, small ? 5 : 12); n > 0; n--)
        random_unit(d, r, small);
    int32_t units = d->spec.unit_count, train = declare_pass(d, ZERO_PASS_TRAIN);
    bool with_eval = declare_draw(r, 3) != 0, with_any = declare_draw(r, 2) == 0;
    for (int32_t u = 0; u < units; u++)
        if (declare_draw(r, 10) != 0) /* otherwise the unit is used only on demand, or never */
            declare_use(d, train, u, ZERO_READ);
    if (declare_draw(r, 3) == 0)
        declare_use(d, train, 0, ZERO_READ); /* tied: used at both ends */
    if (declare_draw(r, 4) == 0)
        declare_use(d, train, (int32_t)declare_draw(r, (uint64_t)units), ZERO_READ | ZERO_GRAD);
    for (int32_t u = units - 1; u >= 0; u--) {
        if (declare_draw(r, 10) == 0)
            continue;
        if (declare_draw(r, 8) == 0)
            declare_use(d, train, u, ZERO_READ); /* recomputed first */
        declare_use(d, train, u, declare_draw(r, 6) == 0 ? ZERO_GRAD : ZERO_READ | ZERO_GRAD);
    }
    freeze_unwritten(d, train);
    random_holds(d, r, train);
    if (with_eval) {
        int32_t eval = declare_pass(d, ZERO_PASS_EVAL);
        for (uint64_t n = declare_draw(r, 2 * (uint64_t)units + 1); n > 0; n--)
            declare_use(d, eval, (int32_t)declare_draw(r, (uint64_t)units), ZERO_READ);
        random_holds(d, r, eval);
    }
    if (with_any)
        declare_pass(d, ZERO_PASS_ANY_ORDER);
    uint64_t codecs = zero_splitmix64(seed ^ UINT64_C(0xc0dec));
    if (d->spec.reduce_dtype == ZERO_FP32 && declare_draw(&codecs, 3) == 0)
        d->spec.reduce_codec = declare_draw(&codecs, 2) ? ZERO_CODEC_INT8 : ZERO_CODEC_INT4;
    d->gather_codec = declare_draw(&codecs, 3) == 0 ? ZERO_CODEC_INT8 : ZERO_CODEC_NONE;
    uint64_t table = declare_draw(r, UINT64_MAX), other = zero_splitmix64(~seed),
             tensor = zero_splitmix64(seed ^ UINT64_C(0x7e4502));
    if (declare_draw(&other, 3) == 0)
        declare_whole(d, &other);
    if (d->spec.world % 2 == 0 && declare_draw(&tensor, 2) == 0)
        declare_tensor(d, &tensor, d->spec.world % 4 == 0 && declare_draw(&tensor, 2) ? 4 : 2);
    declare_shuffle_table(d, table);
    d->spec.saves = declare_draw(&other, 2) == 0;
    d->spec.saves_frozen = declare_draw(&other, 2) == 0;
    uint64_t third = zero_splitmix64(seed ^ UINT64_C(0x5eed));
    if (declare_draw(&third, 3) == 0)
        random_reduces(d, &third, train);
}
