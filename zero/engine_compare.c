/* SPDX-License-Identifier: Apache-2.0 */
/* engine_compare.c - at commit, every rank tells the others what it declared, so that ranks that disagree say so
 * instead of hanging.
 *
 * A row of facts goes round, from the particular (options, counts) to the general (the plan's hash); the first in which
 * ranks differ is named. Where it is the parameters, their hashes go round too, and the first that differs is described
 * as each of two ranks has it.
 */
#include "optim/rules.h"
#include "zero/engine.h"

#include <stdio.h>
#include <stdlib.h>

typedef enum fact_kind {
    FACT_INTEGER,
    FACT_REAL,
    FACT_DTYPE,
    FACT_REDUCE,
    FACT_SHARDING,
    FACT_TIER,
    FACT_RULE_NAME,
    FACT_SWITCH,
    FACT_BYTES,
    FACT_HASH
} fact_kind_t;

typedef enum fact_id {
    FACT_PARAMETERS,
    FACT_GRADIENTS,
    FACT_OPTIMIZER,
    FACT_PARAMETERS_TIER,
    FACT_GRADIENTS_TIER,
    FACT_OPTIMIZER_TIER,
    FACT_OFFLOAD_RATIO,
    FACT_GUARD,
    FACT_WINDOW,
    FACT_REDUCE_MODE,
    FACT_MICRO_STEPS,
    FACT_REDUCE_DTYPE,
    FACT_PERSIST,
    FACT_CLIP,
    FACT_GRAD_SCALE,
    FACT_RULE,
    FACT_UPDATE_STATES,
    FACT_BETA1,
    FACT_BETA2,
    FACT_EPS,
    FACT_DECAY,
    FACT_UNITS,
    FACT_PARAMS,
    FACT_PARAM_HASH,
    FACT_PASSES,
    FACT_USES,
    FACT_PASS_HASH,
    FACT_RESERVES,
    FACT_RESERVE_HASH,
    FACT_CHANNELS,
    FACT_CHECK_ORDER,
    FACT_RING,
    FACT_VERSION,
    FACT_PLAN_HASH,
    FACT_COUNT
} fact_id_t;

static const struct {
    const char *name;
    fact_kind_t kind;
} facts[FACT_COUNT] = {
    [FACT_PARAMETERS] = {"config.parameters.sharding", FACT_SHARDING},
    [FACT_GRADIENTS] = {"config.gradients.sharding", FACT_SHARDING},
    [FACT_OPTIMIZER] = {"config.optimizer.sharding", FACT_SHARDING},
    [FACT_PARAMETERS_TIER] = {"config.parameters.tier", FACT_TIER},
    [FACT_GRADIENTS_TIER] = {"config.gradients.tier", FACT_TIER},
    [FACT_OPTIMIZER_TIER] = {"config.optimizer.tier", FACT_TIER},
    [FACT_OFFLOAD_RATIO] = {"config.offload_ratio", FACT_REAL},
    [FACT_GUARD] = {"config.guard", FACT_SWITCH},
    [FACT_WINDOW] = {"config.window", FACT_INTEGER},
    [FACT_REDUCE_MODE] = {"config.reduce", FACT_REDUCE},
    [FACT_MICRO_STEPS] = {"config.micro_steps", FACT_INTEGER},
    [FACT_REDUCE_DTYPE] = {"config.reduce_dtype", FACT_DTYPE},
    [FACT_PERSIST] = {"config.persist_bytes", FACT_BYTES},
    [FACT_CLIP] = {"config.clip", FACT_REAL},
    [FACT_GRAD_SCALE] = {"config.grad_scale", FACT_REAL},
    [FACT_RULE] = {"config.rule", FACT_RULE_NAME},
    [FACT_UPDATE_STATES] = {"config.update_states", FACT_INTEGER},
    [FACT_BETA1] = {"config.beta1", FACT_REAL},
    [FACT_BETA2] = {"config.beta2", FACT_REAL},
    [FACT_EPS] = {"config.eps", FACT_REAL},
    [FACT_DECAY] = {"config.weight_decay", FACT_REAL},
    [FACT_UNITS] = {"the number of units", FACT_INTEGER},
    [FACT_PARAMS] = {"the number of parameters", FACT_INTEGER},
    [FACT_PARAM_HASH] = {"the units and parameters", FACT_HASH},
    [FACT_PASSES] = {"the number of passes", FACT_INTEGER},
    [FACT_USES] = {"the number of uses", FACT_INTEGER},
    [FACT_PASS_HASH] = {"the passes and their uses", FACT_HASH},
    [FACT_RESERVES] = {"the memory of zero_reserve", FACT_BYTES},
    [FACT_RESERVE_HASH] = {"the reserves", FACT_HASH},
    [FACT_CHANNELS] = {"the number of communicators (two where the device is threaded)", FACT_INTEGER},
    [FACT_CHECK_ORDER] = {"config.check_order", FACT_SWITCH},
    [FACT_RING] = {"a communicator's ring", FACT_BYTES},
    [FACT_VERSION] = {"the library's version", FACT_HASH},
    [FACT_PLAN_HASH] = {"the plan", FACT_HASH},
};

typedef struct row {
    uint64_t fact[FACT_COUNT];
} row_t;

static uint64_t mix(uint64_t hash, uint64_t value)
{
    return zero_splitmix64(hash ^ zero_splitmix64(value));
}

static uint64_t mix_real(uint64_t hash, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return mix(hash, bits);
}

static uint64_t mix_text(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = mix(hash, (unsigned char)*text);
    return mix(hash, 256);
}

static uint64_t param_hash(const zero_spec_t *spec, int32_t param)
{
    const zero_spec_param_t *p = &spec->params[param];
    uint64_t hash = mix_text(mix_text(0, p->name), spec->units[p->unit].name);
    for (int d = 0; d < p->ndim; d++)
        hash = mix(hash, (uint64_t)p->shape[d]);
    hash = mix(mix(mix(mix(hash, (uint64_t)p->ndim), (uint64_t)p->unit), p->dtype), p->trainable);
    return mix_real(mix_real(hash, p->decay_scale), p->lr_scale);
}

static row_t facts_of(const zero_engine_t *engine)
{
    const zero_spec_t *spec = &engine->spec;
    const zero_config_t *c = &engine->config;
    row_t row = {0};
    const struct {
        fact_id_t id;
        double value;
    } reals[] = {{FACT_OFFLOAD_RATIO, spec->offload_ratio},
                 {FACT_CLIP, c->clip},
                 {FACT_GRAD_SCALE, c->grad_scale},
                 {FACT_BETA1, c->beta1},
                 {FACT_BETA2, c->beta2},
                 {FACT_EPS, c->eps},
                 {FACT_DECAY, c->weight_decay}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        memcpy(&row.fact[reals[i].id], &reals[i].value, sizeof reals[i].value);
    row.fact[FACT_PARAMETERS] = spec->parameters.sharding;
    row.fact[FACT_GRADIENTS] = spec->gradients.sharding;
    row.fact[FACT_OPTIMIZER] = spec->optimizer.sharding;
    row.fact[FACT_PARAMETERS_TIER] = spec->parameters.tier;
    row.fact[FACT_GRADIENTS_TIER] = spec->gradients.tier;
    row.fact[FACT_OPTIMIZER_TIER] = spec->optimizer.tier;
    row.fact[FACT_GUARD] = c->guard;
    row.fact[FACT_WINDOW] = (uint64_t)spec->window;
    row.fact[FACT_REDUCE_MODE] = spec->reduce;
    row.fact[FACT_RULE] = c->rule;
    row.fact[FACT_UPDATE_STATES] = (uint64_t)c->update_states;
    row.fact[FACT_MICRO_STEPS] = (uint64_t)spec->micro_steps;
    row.fact[FACT_REDUCE_DTYPE] = spec->reduce_dtype;
    row.fact[FACT_PERSIST] = (uint64_t)spec->persist_bytes;
    row.fact[FACT_UNITS] = (uint64_t)spec->unit_count;
    row.fact[FACT_PARAMS] = (uint64_t)spec->param_count;
    for (int32_t u = 0; u < spec->unit_count; u++)
        row.fact[FACT_PARAM_HASH] = mix_text(row.fact[FACT_PARAM_HASH], spec->units[u].name);
    for (int32_t p = 0; p < spec->param_count; p++)
        row.fact[FACT_PARAM_HASH] = mix(row.fact[FACT_PARAM_HASH], param_hash(spec, p));
    row.fact[FACT_PASSES] = (uint64_t)spec->pass_count;
    for (int32_t p = 0; p < spec->pass_count; p++) {
        const zero_spec_pass_t *pass = &spec->passes[p];
        row.fact[FACT_USES] += (uint64_t)pass->use_count;
        row.fact[FACT_PASS_HASH] = mix(mix_text(row.fact[FACT_PASS_HASH], pass->name), pass->kind);
        for (int32_t u = 0; u < pass->use_count; u++)
            row.fact[FACT_PASS_HASH] =
                mix(mix(row.fact[FACT_PASS_HASH], (uint64_t)pass->uses[u].unit), pass->uses[u].flags);
    }
    for (int32_t r = 0; r < spec->reserve_count; r++) {
        const zero_spec_reserve_t *reserve = &spec->reserves[r];
        row.fact[FACT_RESERVES] += reserve->bytes;
        row.fact[FACT_RESERVE_HASH] =
            mix(mix(mix(row.fact[FACT_RESERVE_HASH], reserve->kind), reserve->tier), reserve->bytes);
    }
    row.fact[FACT_CHANNELS] = (uint64_t)spec->channels;
    row.fact[FACT_CHECK_ORDER] = c->check_order;
    row.fact[FACT_RING] = spec->comm.ring_bytes;
    row.fact[FACT_VERSION] = mix_text(0, ZERO_VERSION);
    row.fact[FACT_PLAN_HASH] = engine->plan ? engine->plan->hash : 0;
    return row;
}

typedef struct fact_text {
    char s[64];
} fact_text_t;
static fact_text_t text_of(fact_kind_t kind, uint64_t value)
{
    fact_text_t t;
    double real;
    memcpy(&real, &value, sizeof real);
    switch (kind) {
    case FACT_INTEGER:
        snprintf(t.s, sizeof t.s, "%lld", (long long)value);
        break;
    case FACT_REAL:
        snprintf(t.s, sizeof t.s, "%.17g", real);
        break;
    case FACT_DTYPE:
        snprintf(t.s, sizeof t.s, "%s", zero_dtype_name((zero_dtype_t)value));
        break;
    case FACT_REDUCE:
        snprintf(t.s, sizeof t.s, "%s", value == ZERO_REDUCE_LAST ? "last" : "every");
        break;
    case FACT_SHARDING:
        snprintf(t.s, sizeof t.s, "%s", value == ZERO_SHARDED ? "sharded" : "full");
        break;
    case FACT_TIER:
        snprintf(t.s, sizeof t.s, "%s", zero_tier_name((zero_tier_t)value));
        break;
    case FACT_RULE_NAME:
        snprintf(t.s, sizeof t.s, "%s", zero_rule_name((zero_rule_t)value));
        break;
    case FACT_SWITCH:
        snprintf(t.s, sizeof t.s, "%s", value ? "true" : "false");
        break;
    case FACT_BYTES:
        snprintf(t.s, sizeof t.s, "%llu bytes", (unsigned long long)value);
        break;
    case FACT_HASH:
        snprintf(t.s, sizeof t.s, "%016llx", (unsigned long long)value);
        break;
    }
    return t;
}

/* The lowest rank of the largest group of ranks whose rows are equal. */
static int reference_rank(const row_t *rows, int world)
{
    int best = 0, best_count = 0;
    for (int r = 0; r < world && 2 * best_count <= world; r++) {
        int count = 0;
        for (int o = r; o < world; o++)
            count += memcmp(&rows[r], &rows[o], sizeof *rows) == 0;
        if (count > best_count)
            best = r, best_count = count;
    }
    return best;
}

/* "rank 3", or "ranks 1, 3, 4 and 12 more": those that differ from the reference in the fact. */
static void ranks_text(const row_t *rows, int world, int reference, int fact, char *out, size_t size)
{
    int count = 0, listed = 0;
    size_t at = 0;
    for (int r = 0; r < world; r++)
        count += rows[r].fact[fact] != rows[reference].fact[fact];
    at += (size_t)snprintf(out, size, "rank%s ", count > 1 ? "s" : "");
    for (int r = 0; r < world && listed < 8; r++)
        if (rows[r].fact[fact] != rows[reference].fact[fact])
            at += (size_t)snprintf(out + at, size - at, "%s%d", listed++ ? ", " : "", r);
    if (count > listed)
        snprintf(out + at, size - at, " and %d more", count - listed);
}

enum { DESCRIBED = 160, HASHES = 256 };

/* "number 3 is 'h0.w' of unit 'h0', bf16 (768, 2304), frozen" */
static void describe_param(const zero_spec_t *spec, int32_t param, char out[DESCRIBED])
{
    const zero_spec_param_t *p = &spec->params[param];
    char shape[64] = "";
    size_t at = 0;
    for (int d = 0; d < p->ndim && at < sizeof shape; d++)
        at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%lld", d ? ", " : "", (long long)p->shape[d]);
    snprintf(out, DESCRIBED, "'%.40s' of unit '%.24s', %s (%s)%s, decay %g, rate %g", p->name,
             spec->units[p->unit].name, zero_dtype_name(p->dtype), shape, p->trainable ? "" : ", frozen",
             p->decay_scale, p->lr_scale);
}

/* Finds the first parameter in which other differs from reference and describes it as both have it; out is "" where
 * there is none. Collective. */
static zero_status_t compare_params(zero_engine_t *engine, int reference, int other, int32_t common, char *out,
                                    size_t size, zero_error_t *error)
{
    zero_comm_t *comm = engine->config.comm;
    int32_t found = -1;
    zero_status_t status = ZERO_OK;
    out[0] = '\0';
    uint64_t mine[HASHES];
    uint64_t *all = malloc((size_t)engine->world * sizeof mine); /* at least DESCRIBED bytes a rank */
    if (!all)
        return zero_exec_no_memory(comm, (size_t)engine->world * sizeof mine, error);
    for (int32_t first = 0; status == ZERO_OK && found < 0 && first < common; first += HASHES) {
        int32_t count = common - first < HASHES ? common - first : HASHES;
        for (int32_t i = 0; i < count; i++)
            mine[i] = param_hash(&engine->spec, first + i);
        status = comm->ops->exchange(comm, mine, all, (uint64_t)count * sizeof *mine, error);
        for (int32_t i = 0; status == ZERO_OK && i < count && found < 0; i++)
            if (all[(size_t)reference * (size_t)count + (size_t)i] != all[(size_t)other * (size_t)count + (size_t)i])
                found = first + i;
    }
    if (status == ZERO_OK && found >= 0) {
        char text[DESCRIBED] = "", *texts = (char *)all;
        describe_param(&engine->spec, found, text);
        status = comm->ops->exchange(comm, text, texts, sizeof text, error);
        if (status == ZERO_OK)
            snprintf(out, size, ": parameter %d is %s on rank %d, but %s on rank %d", found,
                     texts + (size_t)reference * DESCRIBED, reference, texts + (size_t)other * DESCRIBED, other);
    }
    free(all);
    return status;
}

static zero_status_t mismatch(zero_engine_t *engine, const row_t *rows, zero_error_t *error)
{
    int world = engine->world, reference = reference_rank(rows, world), fact = -1, other = -1;
    for (int f = 0; f < FACT_COUNT && fact < 0; f++)
        for (int r = 0; r < world && fact < 0; r++)
            /* A rank without a plan has a sentence of its own to pass on. */
            if (rows[r].fact[f] != rows[reference].fact[f] &&
                (f != FACT_PLAN_HASH || (rows[r].fact[f] && rows[reference].fact[f])))
                fact = f, other = r;
    if (fact < 0)
        return ZERO_OK;

    char ranks[120], detail[2 * DESCRIBED + 80];
    ranks_text(rows, world, reference, fact, ranks, sizeof ranks);
    fact_kind_t kind = facts[fact].kind;
    snprintf(detail, sizeof detail, ": %s on rank %d, but %s on rank %d", text_of(kind, rows[reference].fact[fact]).s,
             reference, text_of(kind, rows[other].fact[fact]).s, other);
    if (fact == FACT_UNITS || fact == FACT_PARAMS || fact == FACT_PARAM_HASH) {
        char params[2 * DESCRIBED + 80];
        int32_t common = INT32_MAX;
        for (int r = 0; r < world; r++)
            common = (int32_t)rows[r].fact[FACT_PARAMS] < common ? (int32_t)rows[r].fact[FACT_PARAMS] : common;
        zero_status_t status = compare_params(engine, reference, other, common, params, sizeof params, error);
        if (status != ZERO_OK)
            return status;
        if (params[0])
            memcpy(detail, params, sizeof detail);
    }
    return zero_fail(error, ZERO_ERR_MISMATCH,
                     "%s %s with rank %d on %s%s: start every rank with the same options and model", ranks,
                     strchr(ranks, ',') ? "disagree" : "disagrees", reference, facts[fact].name, detail);
}

zero_status_t zero_engine_compare(zero_engine_t *engine, zero_status_t status, zero_error_t *error)
{
    zero_comm_t *comm = engine->config.comm;
    zero_error_t differ = {0};
    row_t mine = facts_of(engine);
    row_t *rows = malloc((size_t)engine->world * sizeof *rows);
    if (!rows)
        return zero_exec_no_memory(comm, (size_t)engine->world * sizeof *rows, error);
    zero_status_t compared = comm->ops->exchange(comm, &mine, rows, sizeof mine, &differ);
    if (compared == ZERO_OK)
        compared = mismatch(engine, rows, &differ);
    free(rows);
    /* A rank whose own declaration is wrong says what is wrong with it; the others, what differs. */
    if (compared != ZERO_OK)
        return status != ZERO_OK ? status : zero_fail(error, compared, "%s", differ.text);
    return zero_exec_agree(comm, status, error);
}
