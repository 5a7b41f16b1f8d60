/* SPDX-License-Identifier: Apache-2.0 */
/* parts.c - the parts of each segment, by the tier of their state; the buffers of that state; then the buffers that
 * belong to no segment. */
#include "zero/plan/build.h"

/* Staged parts that are in memory at once: one is read, one is updated, one is written. */
#define RING 3

static zero_status_t make(zero_builder_t *b, const zero_part_t *part, zero_role_t role, zero_kind_t kind,
                          zero_tier_t tier, zero_format_t format, int32_t *out)
{
    zero_status_t status = zero_build_buffer(b, part->segment, role, kind, tier, format, part->end - part->begin, out);
    if (status != ZERO_OK)
        return status;
    zero_buffer_t *x = &b->plan->buffers[*out];
    x->own = part->own;
    x->begin = part->begin;
    x->part = (int32_t)(part - b->plan->parts);
    return ZERO_OK;
}

/* The i-th buffer of the part's state. */
static zero_status_t make_state(zero_builder_t *b, const zero_part_t *part, zero_role_t role, zero_kind_t kind,
                                zero_tier_t tier, int i, int32_t *out)
{
    zero_status_t status = make(b, part, role, kind, tier, zero_plan_state(b->plan, part->segment)->format[i], out);
    if (status == ZERO_OK)
        b->plan->buffers[*out].state = i;
    return status;
}

/* A part without buffers. */
static zero_part_t bare_part(int32_t segment, zero_extent_t own, int64_t begin, int64_t end, zero_tier_t tier)
{
    zero_part_t part = {.segment = segment,
                        .own = own,
                        .begin = begin,
                        .end = end,
                        .tier = tier,
                        .master = -1,
                        .grad = -1,
                        .param = -1,
                        .direction = -1,
                        .staged_grad = -1};
    memset(part.state, -1, sizeof part.state);
    memset(part.staged, -1, sizeof part.staged);
    return part;
}

static bool is_tied(const zero_builder_t *b, int32_t unit)
{
    return b->units[unit].pipe[0] != b->units[unit].pipe[1];
}

/* Units that stages share come first, in an order that both stages have: their collectives meet. */
static void order_units(const zero_builder_t *b)
{
    const zero_plan_pass_t *pass = b->train >= 0 ? &b->plan->passes[b->train] : NULL;
    int32_t n = 0;
    for (int32_t u = 0; u < b->spec->unit_count; u++)
        if (is_tied(b, u))
            b->order[n++] = u;
    for (int32_t i = 0; pass != NULL && i < pass->use_count; i++)
        if (b->units[pass->uses[i].unit].first_use == i && !is_tied(b, pass->uses[i].unit))
            b->order[n++] = pass->uses[i].unit;
    for (int32_t u = 0; u < b->spec->unit_count; u++)
        if (b->units[u].first_use < 0 && !is_tied(b, u))
            b->order[n++] = u;
}

/* Rings of slots for staged buffers: one slot is filled while the one before it is still in use. */
typedef struct ring {
    int32_t slot[ZERO_TIER_COUNT][RING], turn[ZERO_TIER_COUNT];
} ring_t;

static ring_t empty_ring(void)
{
    ring_t ring = {.turn = {0}};
    memset(ring.slot, -1, sizeof ring.slot);
    return ring;
}

/* Puts the staged buffers of a part into the next slot of the ring. Each begins at a page, as transfers to and from
 * files need. */
static zero_status_t take_turn(zero_builder_t *b, ring_t *ring, int32_t index)
{
    const zero_part_t *part = &b->plan->parts[index];
    int32_t *turn = NULL;
    uint64_t at = 0;
    int32_t list[ZERO_PART_BUFFERS];
    zero_part_buffers(part, list);
    for (int i = 0; i < ZERO_PART_BUFFERS; i++) {
        zero_buffer_t *x = list[i] >= 0 ? &b->plan->buffers[list[i]] : NULL;
        if (x == NULL || x->kind != ZERO_KIND_STAGING || x->slot >= 0)
            continue;
        if (turn == NULL)
            turn = &ring->slot[x->tier][ring->turn[x->tier]++ % RING];
        if (*turn < 0) {
            *turn = b->slot_count++;
            b->slots[*turn] = (zero_slot_t){.tier = x->tier, .kind = ZERO_KIND_STAGING};
        }
        x->slot = *turn;
        x->offset = at;
        if (!zero_round_up(at + x->bytes, ZERO_PAGE, &at))
            return zero_fail(b->error, ZERO_ERR_MEMORY, "a part of %lld elements is too big",
                             (long long)(part->end - part->begin));
        if (at > b->slots[*turn].bytes)
            b->slots[*turn].bytes = at;
    }
    return ZERO_OK;
}

/* Parts take slots in the order of their updates, pieces in the order of their numbers. */
static zero_status_t assign_rings(zero_builder_t *b)
{
    const zero_plan_t *plan = b->plan;
    ring_t parts = empty_ring(), pieces = empty_ring();
    zero_status_t status = ZERO_OK;
    for (int32_t i = 0; i < b->spec->unit_count; i++)
        for (int32_t s = b->units[b->order[i]].first_segment;
             s < b->units[b->order[i]].first_segment + b->units[b->order[i]].segment_count; s++)
            for (int32_t p = plan->segments[s].first_part;
                 p < plan->segments[s].first_part + plan->segments[s].part_count && status == ZERO_OK; p++)
                status = take_turn(b, &parts, p);
    for (int32_t p = plan->part_count; p < plan->part_count + plan->piece_count && status == ZERO_OK; p++)
        status = take_turn(b, &pieces, p);
    return status;
}

static zero_status_t add_part(zero_builder_t *b, int32_t index, int64_t begin, int64_t end, zero_tier_t tier)
{
    zero_plan_t *plan = b->plan;
    zero_segment_t *s = &plan->segments[index];
    zero_part_t *part = &plan->parts[plan->part_count++];
    int32_t target = s->buffer[s->buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM];
    zero_tier_t target_tier = plan->buffers[target].tier,
                memory = tier == ZERO_TIER_DEVICE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    const zero_format_t fp32 = zero_format_plain(ZERO_FP32);
    int states = zero_plan_state(plan, index)->count;
    zero_status_t status = ZERO_OK;

    *part = bare_part(index, zero_build_at(b, s)->shard_optimizer ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE, begin, end,
                      tier);
    if (s->part_count++ == 0)
        s->first_part = plan->part_count - 1;
    if (s->dtype == ZERO_FP32 && tier == target_tier)
        part->master = target;
    else
        status = make(b, part, ZERO_ROLE_MASTER, ZERO_KIND_MASTER, tier, fp32, &part->master);
    for (int i = 0; i < states && status == ZERO_OK; i++)
        status = make_state(b, part, ZERO_ROLE_STATE, ZERO_KIND_MOMENTS, tier, i, &part->state[i]);
    if (tier == ZERO_TIER_NVME && status == ZERO_OK) /* in memory while the part is updated */
        status = make(b, part, ZERO_ROLE_STAGED_MASTER, ZERO_KIND_STAGING, memory, fp32, &part->staged[0]);
    for (int i = 0; i < states && tier == ZERO_TIER_NVME && status == ZERO_OK; i++)
        status = make_state(b, part, ZERO_ROLE_STAGED_STATE, ZERO_KIND_STAGING, memory, i, &part->staged[1 + i]);
    if (status == ZERO_OK && memory != plan->buffers[s->buffer[ZERO_ROLE_FINAL]].tier)
        status =
            make(b, part, ZERO_ROLE_UPDATE_GRAD, ZERO_KIND_GRADIENTS, memory, zero_format_plain(s->final), &part->grad);
    if (status == ZERO_OK && s->whole && memory != ZERO_TIER_DEVICE)
        status = make(b, part, ZERO_ROLE_DIRECTION, ZERO_KIND_STAGING, memory, fp32, &part->direction);
    if (status != ZERO_OK || memory == target_tier)
        return status;
    /* The parameters live in another memory than the update, which writes them to its own memory; then they are
     * copied. */
    if (s->dtype != ZERO_FP32)
        return make(b, part, ZERO_ROLE_UPDATE_PARAM, ZERO_KIND_STAGING, memory, zero_format_plain(s->dtype),
                    &part->param);
    part->param = zero_part_memory(part, 0);
    return ZERO_OK;
}

static zero_status_t cut_segment(zero_builder_t *b, int32_t index)
{
    const zero_segment_t *s = &b->plan->segments[index];
    int64_t updated = zero_build_at(b, s)->shard_optimizer ? s->slice : s->elements, stays = b->segments[index].stays;
    zero_status_t status = stays > 0 ? add_part(b, index, 0, stays, ZERO_TIER_DEVICE) : ZERO_OK;

    for (int64_t begin = stays; begin < updated && status == ZERO_OK; begin += b->spec->piece)
        status = add_part(b, index, begin, updated - begin < b->spec->piece ? updated : begin + b->spec->piece,
                          b->spec->optimizer.tier);
    return status;
}

/* Appends pieces for elements [begin, end) of this extent of the segment. */
static zero_status_t add_pieces(zero_builder_t *b, int32_t index, zero_extent_t own, int64_t begin, int64_t end,
                                zero_dtype_t dtype, zero_pieces_t *pieces)
{
    zero_plan_t *plan = b->plan;
    zero_segment_t *s = &plan->segments[index];
    zero_status_t status = ZERO_OK;

    pieces->first = plan->part_count + plan->piece_count;
    for (; begin < end && status == ZERO_OK; begin += b->spec->piece) {
        zero_part_t *piece = &plan->parts[plan->part_count + plan->piece_count++];
        *piece =
            bare_part(index, own, begin, end - begin < b->spec->piece ? end : begin + b->spec->piece, ZERO_TIER_HOST);
        if (s->piece_count++ == 0)
            s->first_piece = pieces->first;
        pieces->count++;
        status = make(b, piece, ZERO_ROLE_STAGED_GRAD, ZERO_KIND_STAGING, ZERO_TIER_HOST, zero_format_plain(dtype),
                      &piece->staged_grad);
    }
    return status;
}

/* Pieces for gradients on the host tier, wherever the host casts or adds what it sends or receives. */
static zero_status_t cut_pieces(zero_builder_t *b, int32_t index)
{
    const zero_segment_t *s = &b->plan->segments[index];
    zero_segment_plan_t *x = &b->segments[index];
    bool there = zero_build_sums_there(b, s);
    const zero_placement_t *at = zero_build_at(b, s);
    zero_extent_t own = at->shard_optimizer ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE;
    int64_t updated = zero_build_elements(s, own);
    zero_status_t status = ZERO_OK;

    if (!x->away || !b->units[s->unit].several)
        return ZERO_OK;
    if (there)
        status = add_pieces(b, index, ZERO_EXTENT_WHOLE, 0, s->elements, s->dtype, &x->written);
    else if (at->sum_shards)
        status = add_pieces(b, index, ZERO_EXTENT_SHARD, 0, s->shard, s->wire, &x->written);
    else if (!at->sum_locally)
        status = add_pieces(b, index, zero_plan_is_shared(s) ? ZERO_EXTENT_SLICE : ZERO_EXTENT_WHOLE,
                            at->gather_gradients ? 0 : x->stays, s->slice, s->wire, &x->written);
    if (status == ZERO_OK && there && s->wire != ZERO_FP32)
        status = add_pieces(b, index, ZERO_EXTENT_WHOLE, 0, s->elements, s->wire, &x->sum);
    if (at->sum_shards && s->wire != ZERO_FP32)
        x->sum = x->written; /* the same elements, in the same dtype */
    if (status == ZERO_OK && (at->sum_locally || at->sum_shards) && s->wire != ZERO_FP32 &&
        !(there && !zero_plan_is_shared(s)))
        status = add_pieces(b, index, own, x->stays, updated, s->wire, &x->reduced);
    return status;
}

/* Whether the host cannot read everything that is saved where it is. */
static bool keeps_away(const zero_builder_t *b)
{
    for (int32_t i = 0; i < b->plan->buffer_count; i++)
        if (b->plan->buffers[i].tier == ZERO_TIER_NVME)
            return true;
    return !b->spec->device.host_memory;
}

/* Buffers of no segment: partial norms, the exchange, the step's scalars, the norm's scratch; then the caller's
 * reserves. */
static zero_status_t place_others(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    int64_t blocks = 1;
    uint64_t words = 0;
    zero_status_t status;

    bool host_norms = false;
    for (int32_t s = 0; s < plan->segment_count; s++) {
        if (!zero_plan_has(plan, &plan->segments[s]))
            continue;
        host_norms = host_norms || zero_build_norm_away(b, s);
        int64_t n = (plan->segments[s].slice + ZERO_NORM_BLOCK - 1) / ZERO_NORM_BLOCK;
        if (plan->segments[s].trainable && n > blocks)
            blocks = n;
    }
    /* their elements are fp32 words, two per double */
    if (!zero_mul_u64((uint64_t)b->spec->world, 2 * ((uint64_t)plan->segment_count + ZERO_EXCHANGE_WORDS), &words) ||
        words > INT64_MAX / 8)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "the exchange of %d ranks and %d segments is too big",
                         b->spec->world, plan->segment_count);
    int64_t norm_words = plan->segment_count > 0 ? 2 * (int64_t)plan->segment_count : 2;
    /* The host does the exchange, on every device. */
    zero_tier_t host = b->spec->device.host_memory ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    const struct {
        int32_t *out;
        zero_tier_t tier;
        int64_t words;
        bool wanted;
    } staging[] = {
        {&plan->norms, host, norm_words, true},
        {&plan->exchange, host, (int64_t)words, true},
        {&plan->scalars, host, ZERO_SCALARS_BYTES / 4, true},
        {&plan->scratch, ZERO_TIER_DEVICE, 2 * blocks, true},
        {&plan->host_scratch, ZERO_TIER_HOST, 2 * blocks, host_norms},
        {&plan->save_scratch, ZERO_TIER_HOST, ZERO_SAVE_SCRATCH / 4, b->spec->saves && keeps_away(b)},
    };
    plan->host_scratch = plan->save_scratch = -1;
    for (size_t i = 0; i < sizeof staging / sizeof *staging; i++)
        if (staging[i].wanted &&
            (status = zero_build_buffer(b, -1, ZERO_ROLE_COUNT, ZERO_KIND_STAGING, staging[i].tier,
                                        zero_format_plain(ZERO_FP32), staging[i].words, staging[i].out)) != ZERO_OK)
            return status;
    for (int32_t i = 0; i < b->spec->reserve_count; i++) {
        const zero_spec_reserve_t *r = &b->spec->reserves[i];
        uint64_t bytes;
        if (!zero_round_up(r->bytes, 4, &bytes) || bytes > INT64_MAX / 8)
            return zero_fail(b->error, ZERO_ERR_MEMORY, "reserve %d wants %llu bytes, which is too big", i,
                             (unsigned long long)r->bytes);
        if ((status = zero_build_buffer(b, -1, ZERO_ROLE_COUNT, r->kind, r->tier, zero_format_plain(ZERO_FP32),
                                        (int64_t)(bytes / 4), &plan->reserve_buffer[i])) != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

zero_status_t zero_build_parts(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    uint64_t count = 0;
    zero_status_t status;

    for (int32_t s = 0; s < plan->segment_count; s++)
        if (plan->segments[s].trainable)
            count += 4 * ((uint64_t)(plan->segments[s].elements / b->spec->piece) +
                          2); /* at most three times as many pieces as parts */
    if (count > INT32_MAX / 2)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "the optimizer state has more than 2^30 parts");
    if ((status = zero_build_alloc(b, &plan->parts, (size_t)count, sizeof *plan->parts)) != ZERO_OK ||
        (status = zero_build_alloc(b, &b->order, (size_t)b->spec->unit_count, sizeof *b->order)) != ZERO_OK ||
        (status = zero_build_alloc(b, &b->slots,
                                   3 * (size_t)b->spec->unit_count + 3 + 2 * ZERO_TIER_COUNT * RING +
                                       (size_t)zero_build_link_slots(b->spec),
                                   sizeof *b->slots)) != ZERO_OK)
        return status;
    for (int32_t s = 0; s < plan->segment_count; s++)
        if (plan->segments[s].trainable && zero_plan_has(plan, &plan->segments[s]) &&
            (status = cut_segment(b, s)) != ZERO_OK)
            return status;
    for (int32_t s = 0; s < plan->segment_count; s++)
        if (zero_plan_has(plan, &plan->segments[s]) && (status = cut_pieces(b, s)) != ZERO_OK)
            return status;
    order_units(b);
    status = assign_rings(b);
    return status == ZERO_OK ? place_others(b) : status;
}
