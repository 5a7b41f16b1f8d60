/* SPDX-License-Identifier: Apache-2.0 */
/* hash.c - run_hash of run.h. */
#include "train/run.h"

#include <stdlib.h>
#include <string.h>

/* The ranks pass the state of the hash as bytes. Its layout comes from this header, so it is the same in all ranks of
 * this program. */
#define XXH_INLINE_ALL
#include <xxhash.h>

typedef struct owned {
    int64_t begin, end;   /* the elements of a parameter that this rank owns, or the first range of them */
    bool torn;            /* others follow elsewhere */
    XXH64_state_t *state; /* NULL: only record the range */
} owned_t;

static int take(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    owned_t *owned = ctx;
    (void)param;
    if (owned->begin == owned->end)
        owned->begin = owned->end = begin;
    owned->torn = owned->torn || owned->end != begin;
    if (!owned->torn)
        owned->end += count;
    if (owned->state != NULL)
        XXH64_update(owned->state, values, (size_t)count * sizeof *values);
    return 0;
}

/* Sorts parameters by name. There are a few hundred, so insertion sort is fast enough. */
static void sort(const run_t *run, int *order, int count)
{
    for (int i = 0; i < count; i++) {
        int k = i;
        for (;
             k > 0 && strcmp(zero_model_param_name(run->model, order[k - 1]), zero_model_param_name(run->model, i)) > 0;
             k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
}

/* A parameter, or a tile of one. */
typedef struct row {
    int index;
    zero_param_t id;
} row_t;

static zero_status_t read_owned(run_t *run, const row_t *row, owned_t *owned, zero_error_t *error)
{
    const zero_status_t status =
        zero_param_read(run->engine, row->id, zero_model_param_state(run->model, row->index), take, owned);
    return status == ZERO_OK ? status : run_engine_error(run, status, error);
}

/* Adds a whole parameter to the state of one rank, which gathers it. Collective. */
static zero_status_t add_whole(run_t *run, const row_t *row, int rank, XXH64_state_t *state, zero_error_t *error)
{
    const size_t bytes = (size_t)zero_param_elements(run->engine, row->id) * sizeof(float);
    float *values = run->rank == rank ? malloc(bytes) : NULL;
    zero_status_t status = ZERO_OK;
    if (run->rank == rank && values == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the hash of parameter %s: %zu bytes",
                           zero_param_name(run->engine, row->id), bytes);
    status = zero_comm_agree(run->place.comm, status, NULL, error);
    if (status != ZERO_OK)
        goto end;
    status = zero_param_get(run->engine, row->id, zero_model_param_state(run->model, row->index), ZERO_FP32, values);
    if (status != ZERO_OK)
        status = run_engine_error(run, status, error);
    else if (values != NULL)
        XXH64_update(state, values, bytes);
end:
    free(values);
    return status;
}

/* The parameters by name, each with its tiles in order. NULL: no memory. */
static row_t *list(const run_t *run, int *count)
{
    const int params = zero_model_param_count(run->model);
    int *order = calloc((size_t)params + 1, sizeof *order);
    row_t *rows = NULL;
    *count = 0;
    for (int i = 0; i < params; i++)
        *count += zero_model_tile_count(run->model, i);
    if (order != NULL && (rows = calloc((size_t)*count + 1, sizeof *rows)) != NULL) {
        sort(run, order, params);
        for (int i = 0, n = 0; i < params; i++)
            for (int k = 0; k < zero_model_tile_count(run->model, order[i]); k++)
                rows[n++] = (row_t){order[i], zero_model_tile(run->model, order[i], k)};
    }
    free(order);
    return rows;
}

zero_status_t run_hash(run_t *run, uint64_t *hash, zero_error_t *error)
{
    int count, world = zero_comm_size(run->place.comm), turn = 0;
    row_t *rows = list(run, &count);
    struct {
        int64_t begin, end, torn;
    } *own = calloc((size_t)count + 1, sizeof *own), *all = calloc((size_t)world * (size_t)count + 1, sizeof *all);
    XXH64_state_t state = {0}, *states = calloc((size_t)world, sizeof *states);
    zero_status_t status = ZERO_OK;
    if (rows == NULL || own == NULL || all == NULL || states == NULL) {
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the hash of %d parameters", count);
        goto end;
    }

    /* find the owner of each range */
    for (int i = 0; i < count && status == ZERO_OK; i++) {
        owned_t owned = {0};
        status = read_owned(run, &rows[i], &owned, error);
        own[i].begin = owned.begin;
        own[i].end = owned.end;
        own[i].torn = owned.torn;
    }
    if (status == ZERO_OK)
        status = zero_comm_exchange(run->place.comm, own, all, (size_t)count * sizeof *own, error);

    /* The rank whose turn it is holds the state. All ranks walk the same table, so all know when the state moves on. */
    XXH64_reset(&state, 0);
    for (int i = 0; i < count && status == ZERO_OK; i++) {
        bool torn = false;
        for (int r = 0; r < world; r++)
            torn = torn || all[r * count + i].torn;
        if (torn)
            status = add_whole(run, &rows[i], turn, &state, error);
        for (int64_t next = 0, elements = torn ? 0 : zero_param_elements(run->engine, rows[i].id);
             next < elements && status == ZERO_OK;) {
            int owner = 0;
            while (owner < world && !(all[owner * count + i].begin == next && all[owner * count + i].end > next))
                owner++;
            if (owner == world) {
                status = zero_fail(error, ZERO_ERR_SYSTEM, "no rank owns element %lld of parameter %s", (long long)next,
                                   zero_param_name(run->engine, rows[i].id));
                break;
            }
            if (owner != turn) {
                status = zero_comm_exchange(run->place.comm, &state, states, sizeof state, error);
                state = states[turn];
                turn = owner;
            }
            owned_t owned = {.state = &state};
            if (status == ZERO_OK && owner == run->rank)
                status = read_owned(run, &rows[i], &owned, error);
            next = all[owner * count + i].end;
        }
    }
    if (status == ZERO_OK)
        status = zero_comm_exchange(run->place.comm, &state, states, sizeof state, error);
    if (status == ZERO_OK)
        *hash = XXH64_digest(&states[turn]);
end:
    free(rows);
    free(own);
    free(all);
    free(states);
    return status;
}
