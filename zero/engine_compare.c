/* SPDX-License-Identifier: Apache-2.0 */
/* engine_compare.c - at commit, ranks compare what they declared, so that a difference is an error and not a hang.
 *
 * They exchange a row of facts, from the particular (options, counts) to the general (the plan's hash). The error names
 * the first fact that differs. If that concerns parameters, the ranks also exchange their hashes, and the error
 * describes the first different parameter as two ranks have it.
 */
#include "zero/config.h"
#include "zero/engine.h"

#include <stdio.h>
#include <stdlib.h>

/* Facts begin with the options, by index; these follow. */
enum {
    FACT_UNITS = ZERO_CONFIG_MOST,
    FACT_PARAMS,
    FACT_PARAM_HASH,
    FACT_CHUNKS,
    FACT_CHUNK_HASH,
    FACT_PASSES,
    FACT_USES,
    FACT_PASS_HASH,
    FACT_RESERVES,
    FACT_RESERVE_HASH,
    FACT_CHANNELS,
    FACT_RING,
    FACT_VERSION,
    FACT_PLAN_HASH,
    FACT_COUNT
};

static const zero_field_t facts[FACT_COUNT] = {
    [FACT_UNITS] = {.name = "the number of units", .type = ZERO_FIELD_INT},
    [FACT_PARAMS] = {.name = "the number of parameters", .type = ZERO_FIELD_INT},
    [FACT_PARAM_HASH] = {.name = "the units and parameters", .type = ZERO_FIELD_HASH},
    [FACT_CHUNKS] = {.name = "the number of chunks", .type = ZERO_FIELD_INT},
    [FACT_CHUNK_HASH] = {.name = "the links and the memory of chunks", .type = ZERO_FIELD_HASH},
    [FACT_PASSES] = {.name = "the number of passes", .type = ZERO_FIELD_INT},
    [FACT_USES] = {.name = "the number of uses", .type = ZERO_FIELD_INT},
    [FACT_PASS_HASH] = {.name = "the passes and their uses", .type = ZERO_FIELD_HASH},
    [FACT_RESERVES] = {.name = "the memory of zero_reserve", .type = ZERO_FIELD_BYTES},
    [FACT_RESERVE_HASH] = {.name = "the reserves", .type = ZERO_FIELD_HASH},
    [FACT_CHANNELS] = {.name = "the number of communicators (two where the device is threaded)",
                       .type = ZERO_FIELD_INT},
    [FACT_RING] = {.name = "a communicator's ring", .type = ZERO_FIELD_BYTES},
    [FACT_VERSION] = {.name = "the library's version", .type = ZERO_FIELD_HASH},
    [FACT_PLAN_HASH] = {.name = "the plan", .type = ZERO_FIELD_HASH},
};

typedef struct row {
    uint64_t fact[FACT_COUNT];
} row_t;

static row_t facts_of(const zero_engine_t *engine)
{
    const zero_spec_t *spec = &engine->spec;
    const zero_field_t *field;
    row_t row = {0};
    for (int i = 0; (field = zero_config_field(i)) != NULL; i++)
        if (field->scope != ZERO_SCOPE_RANK)
            row.fact[i] = zero_field_value(field, &engine->config);
    row.fact[FACT_UNITS] = (uint64_t)spec->unit_count;
    row.fact[FACT_PARAMS] = (uint64_t)spec->param_count;
    row.fact[FACT_PARAM_HASH] = zero_spec_hash_params(spec);
    row.fact[FACT_CHUNKS] = (uint64_t)spec->chunk_count;
    for (int32_t c = 0; c < spec->chunk_count; c++) {
        const zero_spec_chunk_t *chunk = &spec->chunks[c];
        zero_hash_word(&row.fact[FACT_CHUNK_HASH], (uint64_t)chunk->link << 8 | (uint64_t)chunk->link_dtype);
        for (int tier = 0; tier < ZERO_TIER_NVME; tier++) {
            zero_hash_word(&row.fact[FACT_CHUNK_HASH], chunk->kept[tier]);
            zero_hash_word(&row.fact[FACT_CHUNK_HASH], chunk->workspace[tier]);
        }
    }
    row.fact[FACT_PASSES] = (uint64_t)spec->pass_count;
    for (int32_t p = 0; p < spec->pass_count; p++)
        row.fact[FACT_USES] += (uint64_t)spec->passes[p].use_count;
    row.fact[FACT_PASS_HASH] = zero_spec_hash_passes(spec);
    for (int32_t r = 0; r < spec->reserve_count; r++) {
        const zero_spec_reserve_t *reserve = &spec->reserves[r];
        row.fact[FACT_RESERVES] += reserve->bytes;
        zero_hash_word(&row.fact[FACT_RESERVE_HASH], (uint64_t)reserve->kind << 8 | (uint64_t)reserve->tier);
        zero_hash_word(&row.fact[FACT_RESERVE_HASH], reserve->bytes);
    }
    row.fact[FACT_CHANNELS] = (uint64_t)spec->channels;
    row.fact[FACT_RING] = spec->groups[0].caps.ring_bytes;
    zero_hash_text(&row.fact[FACT_VERSION], ZERO_VERSION);
    row.fact[FACT_PLAN_HASH] = engine->plan_hash;
    return row;
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

/* "rank 3", or "ranks 1, 3, 4 and 12 more": the ranks whose fact differs from the reference's. */
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
    char shape[64] = "", split[48] = "";
    size_t at = 0;
    for (int d = 0; d < p->ndim && at < sizeof shape; d++)
        at += (size_t)snprintf(shape + at, sizeof shape - at, "%s%lld", d ? ", " : "", (long long)p->whole[d]);
    if (p->split_dim >= 0)
        snprintf(split, sizeof split, ", split in dimension %d by %d", p->split_dim, p->split_blocks);
    snprintf(out, DESCRIBED, "'%.40s' of unit '%.24s', %s (%s)%s%s%s, decay %g, rate %g", p->name,
             spec->units[p->unit].name, zero_dtype_name(p->dtype), shape, split, p->partial ? ", partial" : "",
             p->trainable ? "" : ", frozen", p->decay_scale, p->lr_scale);
}

/* Finds the first parameter that differs between reference and other, and describes both versions in out; "" if there
 * is none. Collective. */
static zero_status_t compare_params(zero_engine_t *engine, int reference, int other, int32_t common, char *out,
                                    size_t size, zero_error_t *error)
{
    zero_comm_t *comm = engine->config.comm;
    int32_t found = -1;
    zero_status_t status = ZERO_OK;
    out[0] = '\0';
    uint64_t mine[HASHES];
    uint64_t *all = malloc((size_t)engine->world * sizeof mine); /* at least DESCRIBED bytes per rank */
    if (!all)
        return zero_exec_no_memory(comm, (size_t)engine->world * sizeof mine, error);
    for (int32_t first = 0; status == ZERO_OK && found < 0 && first < common; first += HASHES) {
        int32_t count = common - first < HASHES ? common - first : HASHES;
        for (int32_t i = 0; i < count; i++)
            mine[i] = zero_spec_hash_param(&engine->spec, first + i);
        status = zero_control_exchange(comm, mine, all, (uint64_t)count * sizeof *mine, error);
        for (int32_t i = 0; status == ZERO_OK && i < count && found < 0; i++)
            if (all[(size_t)reference * (size_t)count + (size_t)i] != all[(size_t)other * (size_t)count + (size_t)i])
                found = first + i;
    }
    if (status == ZERO_OK && found >= 0) {
        char text[DESCRIBED] = "", *texts = (char *)all;
        describe_param(&engine->spec, found, text);
        status = zero_control_exchange(comm, text, texts, sizeof text, error);
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
            /* A rank without a plan reports an error of its own. */
            if (rows[r].fact[f] != rows[reference].fact[f] &&
                (f != FACT_PLAN_HASH || (rows[r].fact[f] && rows[reference].fact[f])))
                fact = f, other = r;
    if (fact < 0)
        return ZERO_OK;

    char ranks[120], detail[2 * DESCRIBED + 80];
    ranks_text(rows, world, reference, fact, ranks, sizeof ranks);
    const zero_field_t *field = fact < FACT_UNITS ? zero_config_field(fact) : &facts[fact];
    snprintf(detail, sizeof detail, ": %s on rank %d, but %s on rank %d",
             zero_field_text(field, rows[reference].fact[fact]).s, reference,
             zero_field_text(field, rows[other].fact[fact]).s, other);
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
    return zero_fail_reason(error, ZERO_ERR_MISMATCH, ZERO_REASON_OPTIONS_DIFFER, other,
                            "%s %s with rank %d on %s%s%s: start every rank with the same options and model", ranks,
                            strchr(ranks, ',') ? "disagree" : "disagrees", reference,
                            fact < FACT_UNITS ? "config." : "", field->name, detail);
}

zero_status_t zero_engine_compare(zero_engine_t *engine, zero_status_t status, zero_error_t *error)
{
    zero_comm_t *comm = engine->config.comm;
    zero_error_t differ = {0};
    row_t mine = facts_of(engine);
    row_t *rows = malloc((size_t)engine->world * sizeof *rows);
    if (!rows)
        return zero_exec_no_memory(comm, (size_t)engine->world * sizeof *rows, error);
    zero_status_t compared = zero_control_exchange(comm, &mine, rows, sizeof mine, &differ);
    if (compared == ZERO_OK)
        compared = mismatch(engine, rows, &differ);
    free(rows);
    /* A rank with a wrong declaration returns its own error; the others return the difference. */
    if (compared != ZERO_OK)
        return status != ZERO_OK ? status : zero_pass(error, compared, &differ);
    return zero_exec_agree(comm, status, error);
}
