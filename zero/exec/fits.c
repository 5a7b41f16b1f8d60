/* SPDX-License-Identifier: Apache-2.0 */
/* fits.c - whether the plan's memory fits, before it is reserved. If not, the error lists what needs it, and the
 * mildest single change after which it fits. */
#include "zero/exec/internal.h"

#include <stdio.h>
#include <stdlib.h>

/* What a rank needs and has. Every rank gets all of these, so all come to the same result. */
typedef struct room {
    zero_status_t status; /* of the queries below */
    zero_error_t error;
    uint64_t bytes[ZERO_TIER_NVME][ZERO_KIND_COUNT]; /* on the device and the host tier */
    uint64_t available[ZERO_TIER_NVME];              /* to all ranks that share the tier */
    int sharing[ZERO_TIER_NVME];                     /* how many ranks share it, this one included */
    uint64_t limit;                                  /* of the device tier, for this rank alone; UINT64_MAX: none */
    bool one_memory; /* both tiers are the machine's memory: the first one's numbers count for both */
} room_t;

/* Which memory a rank has too little of. */
typedef enum shortage { NOTHING, LIMIT, DEVICE_TIER, HOST_TIER } shortage_t;

typedef struct text {
    char s[500];
} text_t;

/* "12.34 GiB" */
static text_t text_of(uint64_t bytes)
{
    static const char *const names[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    text_t t;
    double v = (double)bytes;
    int k = 0;
    for (; v >= 1024 && k < 4; k++)
        v /= 1024;
    snprintf(t.s, sizeof t.s, "%.*f %s", k == 0 ? 0 : 2, v, names[k]);
    return t;
}

/* The bytes of a tier; of both if they are one memory and alone is false. */
static uint64_t sum_of(const room_t *r, int tier, bool alone)
{
    uint64_t sum = 0;
    for (int t = 0; t < ZERO_TIER_NVME; t++)
        for (int k = 0; k < ZERO_KIND_COUNT && (t == tier || (r->one_memory && !alone)); k++)
            if (!zero_add_u64(sum, r->bytes[t][k], &sum))
                return UINT64_MAX;
    return sum;
}

/* The bytes of a tier that the ranks which share it need together. They are taken to be consecutive, which matters only
 * if the stages of a pipeline need different bytes. */
static uint64_t shared_of(const room_t *rooms, int world, int rank, int tier)
{
    uint64_t sum = 0;
    int sharing = rooms[rank].sharing[tier], first = rank - rank % sharing;
    for (int r = first; r < first + sharing; r++) /* the last ones may have fewer neighbours */
        if (!zero_add_u64(sum, sum_of(&rooms[r < world ? r : rank], tier, false), &sum))
            return UINT64_MAX;
    return sum;
}

static shortage_t shortage_of(const room_t *rooms, int world, int rank)
{
    const room_t *r = &rooms[rank];
    if (sum_of(r, ZERO_TIER_DEVICE, true) > r->limit)
        return LIMIT;
    for (int t = 0; t < (r->one_memory ? 1 : ZERO_TIER_NVME); t++)
        if (sum_of(r, t, false) > 0 && shared_of(rooms, world, rank, t) > r->available[t])
            return t == ZERO_TIER_DEVICE ? DEVICE_TIER : HOST_TIER;
    return NOTHING;
}

/* "moments 45.08 GiB (host), ...": the kinds on the tier, or on both if they are one memory and not alone; largest
 * first. */
static text_t kinds_of(const room_t *r, int tier, bool alone)
{
    text_t out = {""};
    room_t left = *r;
    bool both = r->one_memory && !alone;
    size_t at = 0;
    for (;;) {
        int t = -1, k = 0;
        for (int i = 0; i < ZERO_TIER_NVME * ZERO_KIND_COUNT; i++) {
            int this = i / ZERO_KIND_COUNT, kind = i % ZERO_KIND_COUNT;
            if ((both || this == tier) && left.bytes[this][kind] > (t < 0 ? 0 : left.bytes[t][k]))
                t = this, k = kind;
        }
        if (t < 0 || at >= sizeof out.s)
            return out;
        at += (size_t)snprintf(out.s + at, sizeof out.s - at, "%s%s%s %s", at > 0 ? ", " : "",
                               !both                   ? ""
                               : t == ZERO_TIER_DEVICE ? "device "
                                                       : "host ",
                               zero_kind_name((zero_kind_t)k), text_of(left.bytes[t][k]).s);
        left.bytes[t][k] = 0;
    }
}

/* Adds to a rank's room what another plan of its stage needs more than its plan (modulo 2^64), or takes it away. Plans
 * differ by the same bytes on every rank of a stage. */
static void change_room(const zero_exec_t *x, room_t *room, int rank, zero_plan_t *const *others, bool add)
{
    int stage = zero_plan_pipe(x->plan->spec, rank);
    const zero_plan_t *from = x->plans[stage], *to = others[stage];
    for (int t = 0; t < ZERO_TIER_NVME; t++)
        for (int k = 0; k < ZERO_KIND_COUNT; k++) {
            uint64_t more = to->kind_bytes[t][k] - from->kind_bytes[t][k];
            room->bytes[t][k] += add ? more : 0 - more;
        }
}

/* Builds the plans of all stages. Returns false if one is impossible; none is left then. */
static bool build_plans(const zero_exec_t *x, const zero_spec_t *spec, zero_plan_t **plans)
{
    zero_error_t ignored;
    int stages = x->plan->spec->mesh.pipe, built = 0;
    while (built < stages && zero_plan_build(&plans[built], spec, built, &ignored) == ZERO_OK)
        built++;
    for (int p = 0; p < built && built < stages; p++)
        zero_plan_destroy(plans[p]);
    return built == stages;
}

/* The caller's words for a change, or else the library's. */
static text_t words_of(const zero_exec_t *x, const zero_change_t *change)
{
    text_t t;
    const char *words =
        x->options.name_change != NULL ? x->options.name_change(x->options.name_change_ctx, change) : NULL;
    snprintf(t.s, sizeof t.s, "%s", words != NULL ? words : zero_change_text(change).s);
    return t;
}

/* What a rank needs with other plans, of the tier that it has too little of. *fits: whether all ranks then have
 * enough. */
static uint64_t need_with(const zero_exec_t *x, zero_plan_t *const *others, room_t *rooms, int rank,
                          shortage_t shortage, bool *fits)
{
    *fits = true;
    for (int r = 0; r < x->world; r++)
        change_room(x, &rooms[r], r, others, true);
    for (int r = 0; r < x->world && *fits; r++)
        *fits = shortage_of(rooms, x->world, r) == NOTHING;
    uint64_t need = sum_of(&rooms[rank], shortage == HOST_TIER ? ZERO_TIER_HOST : ZERO_TIER_DEVICE, shortage == LIMIT);
    for (int r = 0; r < x->world; r++)
        change_room(x, &rooms[r], r, others, false);
    return need;
}

/* "set X, with which it needs Y". rooms: one per rank, the same afterwards. */
static text_t advice(const zero_exec_t *x, room_t *rooms, int rank, shortage_t shortage)
{
    const zero_change_t none = zero_plan_no_change(x->plan->spec);
    zero_change_t best = none;
    uint64_t least = UINT64_MAX;
    bool fits = false;
    int stages = x->plan->spec->mesh.pipe;
    zero_plan_t **others = calloc((size_t)stages, sizeof *others);
    for (int i = 0; i < ZERO_CHANGES && !fits && others != NULL; i++) {
        zero_spec_t spec;
        zero_change_t change;
        if (!zero_plan_change(x->plan->spec, i, &spec, &change) || !build_plans(x, &spec, others))
            continue;
        uint64_t need = need_with(x, others, rooms, rank, shortage, &fits);
        for (int p = 0; p < stages; p++)
            zero_plan_destroy(others[p]);
        if (fits || need < least) {
            least = need;
            best = change;
        }
    }
    free(others);
    text_t change = words_of(x, &best), out = change;
    if (fits)
        snprintf(out.s, sizeof out.s, "%s, with which it needs %s", change.s, text_of(least).s);
    else if (best.sets != 0)
        snprintf(out.s, sizeof out.s, "no single change is enough: %s, with which it still needs %s, and %s", change.s,
                 text_of(least).s, words_of(x, &none).s);
    return out;
}

/* The ranks that share this one's memory, itself included. */
static int ranks_of_node(const zero_comm_t *comm)
{
    return comm->caps.node_ranks > 0 ? comm->caps.node_ranks : 1;
}

/* Ranks of this node that use the same device. Collective. */
static zero_status_t ranks_of_device(const zero_exec_t *x, int *ranks, zero_error_t *error)
{
    uint64_t mine = x->device->ops->identity(x->device), *all = malloc((size_t)x->world * sizeof *all);
    if (!all)
        return zero_exec_no_memory(x->comm, (size_t)x->world * sizeof *all, error);
    zero_status_t status = zero_control_exchange(x->comm, &mine, all, sizeof mine, error);
    *ranks = 0;
    for (int r = 0; r < x->world && status == ZERO_OK; r++)
        *ranks += all[r] == mine;
    /* Devices of other nodes may have the same number. */
    if (*ranks > ranks_of_node(x->comm))
        *ranks = ranks_of_node(x->comm);
    free(all);
    return status;
}

static void measure_room(const zero_exec_t *x, int device_ranks, room_t *room)
{
    memset(room, 0, sizeof *room);
    memcpy(room->bytes, x->plan->kind_bytes, sizeof room->bytes);
    room->limit = x->options.memory_limit > 0 ? x->options.memory_limit : UINT64_MAX;
    /* On a CPU both tiers are the machine's memory, which all ranks of the node share. */
    room->one_memory = x->device->caps.host_memory;
    for (int t = 0; t < ZERO_TIER_NVME; t++) {
        room->sharing[t] = room->one_memory || t == ZERO_TIER_HOST ? ranks_of_node(x->comm) : device_ranks;
        room->available[t] = UINT64_MAX;
        if (!x->device->options.allocator && room->status == ZERO_OK) /* an allocator reports failure itself */
            room->status = x->device->ops->available(x->device, (zero_tier_t)t, &room->available[t], &room->error);
    }
}

static zero_status_t fail_does_not_fit(const zero_exec_t *x, room_t *rooms, int rank, shortage_t shortage,
                                       zero_error_t *error)
{
    const room_t *r = &rooms[rank];
    int tier = shortage == HOST_TIER ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
    text_t kinds = kinds_of(r, tier, shortage == LIMIT), change = advice(x, rooms, rank, shortage);
    text_t need = text_of(sum_of(r, tier, shortage == LIMIT)), with = {""};
    char of[32] = "memory";
    if (shortage == LIMIT || !r->one_memory)
        snprintf(of, sizeof of, "the %s tier", zero_tier_name((zero_tier_t)tier));
    if (shortage == LIMIT)
        return zero_fail_reason(error, ZERO_ERR_MEMORY, ZERO_REASON_DOES_NOT_FIT, rank,
                                "rank %d needs %s of %s (%s), but its memory limit is %s: %s", rank, need.s, of,
                                kinds.s, text_of(r->limit).s, change.s);
    if (r->sharing[tier] > 1)
        snprintf(with.s, sizeof with.s, ", %s the %d ranks that share it,",
                 x->plan->spec->mesh.pipe > 1 ? "one of" : "like each of", r->sharing[tier]);
    return zero_fail_reason(error, ZERO_ERR_MEMORY, ZERO_REASON_DOES_NOT_FIT, rank,
                            "rank %d%s needs %s of %s (%s), but only %s are available: %s", rank, with.s, need.s, of,
                            kinds.s, text_of(r->available[tier]).s, change.s);
}

zero_status_t zero_exec_fits(const zero_exec_t *x, zero_error_t *error)
{
    int device_ranks = 1;
    room_t mine, *rooms = NULL;
    zero_status_t status = ranks_of_device(x, &device_ranks, error);
    if (status != ZERO_OK)
        return status;
    if (!(rooms = malloc((size_t)x->world * sizeof *rooms)))
        return zero_exec_no_memory(x->comm, (size_t)x->world * sizeof *rooms, error);
    measure_room(x, device_ranks, &mine);
    status = zero_control_exchange(x->comm, &mine, rooms, sizeof mine, error);
    for (int r = 0; r < x->world && status == ZERO_OK; r++)
        if (rooms[r].status != ZERO_OK)
            status = r == x->rank
                         ? zero_pass(error, rooms[r].status, &rooms[r].error)
                         : zero_fail_from(error, ZERO_ERR_PEER, &rooms[r].error, "rank %d: %s", r, rooms[r].error.text);
    for (int r = 0; r < x->world && status == ZERO_OK; r++) {
        shortage_t shortage = shortage_of(rooms, x->world, r);
        if (shortage != NOTHING)
            status = fail_does_not_fit(x, rooms, r, shortage, error);
    }
    free(rooms);
    return status;
}
