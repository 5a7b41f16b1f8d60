/* parts.c - what a rank updates of each segment, cut by where its state lives; the buffers of that state; then what is of no segment. */
#include "zero/plan/build.h"

/* Elements of a part off the device: enough for large transfers, little enough that a ring of parts is small. */
#define PIECE (1 << 20)
_Static_assert(PIECE % ZERO_NORM_BLOCK == 0, "parts end at bounds of the norm's blocks");
/* Parts in memory at once where their state is on nvme: one is read, one is updated, one is written. */
#define RING 3

/* State placed so far, and how much of it is off the device. */
typedef struct share { int64_t all, away; } share_t;

/* Elements of the segment, out of updated, whose state goes to the optimizer's tier. Errors of rounding do not add up over segments. */
static int64_t elements_away(const zero_builder_t *b, share_t *share, int64_t updated)
{
    double ratio = b->spec->optimizer.tier == ZERO_TIER_DEVICE ? 0 : b->spec->offload_ratio;
    share->all += updated;
    double wanted = ratio * (double)share->all - (double)share->away;
    int64_t away = (int64_t)(wanted / ZERO_NORM_BLOCK + 0.5) * ZERO_NORM_BLOCK;
    if (wanted < 0 || away < 0)
        away = 0;
    if (ratio >= 1 || away > updated)
        away = updated;
    share->away += away;
    return away;
}

static zero_status_t make(zero_builder_t *b, zero_part_t *part, zero_role_t role, zero_kind_t kind, zero_tier_t tier, zero_dtype_t dtype)
{
    zero_status_t status = zero_build_buffer(b, part->segment, role, kind, tier, dtype, part->end - part->begin, &part->buffer[role]);
    if (status != ZERO_OK)
        return status;
    zero_buffer_t *x = &b->plan->buffers[part->buffer[role]];
    bool state = role == ZERO_ROLE_MOMENT1 || role == ZERO_ROLE_MOMENT2 || role == ZERO_ROLE_STAGED_MOMENT1 || role == ZERO_ROLE_STAGED_MOMENT2;
    x->part = (int32_t)(part - b->plan->parts);
    x->coded = state && b->spec->state_block_bytes != ZERO_ALIGN_ELEMENTS * (int)sizeof(float);
    x->bytes = zero_plan_bytes(b->plan, x, x->elements);
    return ZERO_OK;
}

/* Memory for a part of the nvme tier while it is updated: master weights and moments behind each other in the slot, which is of no size yet. */
static zero_status_t stage(zero_builder_t *b, zero_part_t *part)
{
    uint64_t at = 0;
    for (int i = 0; i <= b->spec->states; i++) {
        zero_role_t role = (zero_role_t)(ZERO_ROLE_STAGED_MASTER + i);
        zero_status_t status = make(b, part, role, ZERO_KIND_STAGING, ZERO_TIER_HOST, ZERO_FP32);
        if (status != ZERO_OK)
            return status;
        zero_buffer_t *x = &b->plan->buffers[part->buffer[role]];
        x->offset = at;
        if (!zero_round_up(at + x->bytes, ZERO_PAGE, &at)) /* whole pages are read */
            return zero_fail(b->error, ZERO_ERR_MEMORY, "a part of %lld elements is too big", (long long)(part->end - part->begin));
    }
    return ZERO_OK;
}

static void order_units(const zero_builder_t *b)
{
    const zero_spec_pass_t *pass = b->train >= 0 ? &b->spec->passes[b->train] : NULL;
    int32_t n = 0;
    for (int32_t i = 0; pass != NULL && i < pass->use_count; i++)
        if (b->units[pass->uses[i].unit].first_use == i)
            b->order[n++] = pass->uses[i].unit;
    for (int32_t u = 0; u < b->spec->unit_count; u++)
        if (b->units[u].first_use < 0)
            b->order[n++] = u;
}

/* Parts take turns in the ring as they are updated, so that one is read while the one before it still has its slot. */
static void assign_ring(zero_builder_t *b)
{
    int32_t turn = 0;
    for (int32_t i = 0; i < b->spec->unit_count; i++)
        for (int32_t p = 0; p < b->plan->part_count; p++) {
            const zero_part_t *part = &b->plan->parts[p];
            if (part->tier != ZERO_TIER_NVME || b->plan->segments[part->segment].unit != b->order[i])
                continue;
            int32_t slot = turn++ % RING;
            if (slot == b->slot_count)
                b->slots[b->slot_count++] = (zero_slot_t){ .tier = ZERO_TIER_HOST, .kind = ZERO_KIND_STAGING };
            for (int k = 0; k <= b->spec->states; k++) {
                zero_buffer_t *x = &b->plan->buffers[part->buffer[ZERO_ROLE_STAGED_MASTER + k]];
                uint64_t end = (x->offset + x->bytes + ZERO_PAGE - 1) / ZERO_PAGE * ZERO_PAGE;
                x->slot = slot;
                if (end > b->slots[slot].bytes)
                    b->slots[slot].bytes = end;
            }
        }
}

static zero_status_t add_part(zero_builder_t *b, int32_t index, int64_t begin, int64_t end, zero_tier_t tier)
{
    zero_plan_t *plan = b->plan;
    zero_segment_t *s = &plan->segments[index];
    zero_part_t *part = &plan->parts[plan->part_count++];
    int32_t target = s->buffer[s->buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM];
    zero_tier_t target_tier = plan->buffers[target].tier, memory = tier == ZERO_TIER_DEVICE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    zero_status_t status = ZERO_OK;

    *part = (zero_part_t){ .segment = index, .begin = begin, .end = end, .tier = tier };
    for (int r = 0; r < ZERO_ROLE_COUNT; r++)
        part->buffer[r] = -1;
    if (s->part_count++ == 0)
        s->first_part = plan->part_count - 1;
    if (s->dtype == ZERO_FP32 && tier == target_tier)
        part->buffer[ZERO_ROLE_MASTER] = target;
    else
        status = make(b, part, ZERO_ROLE_MASTER, ZERO_KIND_MASTER, tier, ZERO_FP32);
    for (int role = ZERO_ROLE_MOMENT1; role < ZERO_ROLE_MOMENT1 + b->spec->states && status == ZERO_OK; role++)
        status = make(b, part, (zero_role_t)role, ZERO_KIND_MOMENTS, tier, ZERO_FP32);
    if (status == ZERO_OK && tier == ZERO_TIER_NVME)
        status = stage(b, part);
    if (status == ZERO_OK && memory != ZERO_TIER_DEVICE)
        status = make(b, part, ZERO_ROLE_UPDATE_GRAD, ZERO_KIND_GRADIENTS, memory, s->final);
    if (status != ZERO_OK || memory == target_tier)
        return status;
    /* Parameters that live in other memory than the update: the update leaves them in its own, in a buffer whose contents are done with. */
    if (s->dtype == ZERO_FP32)
        part->buffer[ZERO_ROLE_UPDATE_PARAM] = part->buffer[tier == ZERO_TIER_NVME ? ZERO_ROLE_STAGED_MASTER : ZERO_ROLE_MASTER];
    else if (memory != ZERO_TIER_DEVICE && s->final == s->dtype)
        part->buffer[ZERO_ROLE_UPDATE_PARAM] = part->buffer[ZERO_ROLE_UPDATE_GRAD];
    else
        return make(b, part, ZERO_ROLE_UPDATE_PARAM, ZERO_KIND_STAGING, memory, s->dtype);
    return ZERO_OK;
}

static zero_status_t cut_segment(zero_builder_t *b, int32_t index, share_t *share)
{
    const zero_segment_t *s = &b->plan->segments[index];
    int64_t updated = b->shard_optimizer ? s->slice : s->elements, away = elements_away(b, share, updated);
    zero_status_t status = ZERO_OK;

    for (int64_t begin = 0; begin < away && status == ZERO_OK; begin += PIECE)
        status = add_part(b, index, begin, away - begin < PIECE ? away : begin + PIECE, b->spec->optimizer.tier);
    if (status == ZERO_OK && away < updated)
        status = add_part(b, index, away, updated, ZERO_TIER_DEVICE);
    return status;
}

/* What is of no segment: partial norms, the exchange, the step's scalars, the norm's scratch; then what the caller reserves. */
static zero_status_t place_others(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    int64_t blocks = 1;
    uint64_t words = 0;
    zero_status_t status;

    for (int32_t s = 0; s < plan->segment_count; s++) {
        int64_t n = (plan->segments[s].slice + ZERO_NORM_BLOCK - 1) / ZERO_NORM_BLOCK;
        if (plan->segments[s].trainable && n > blocks)
            blocks = n;
    }
    /* elements of these are fp32 words: two to a double */
    if (!zero_mul_u64((uint64_t)b->spec->world, 2 * ((uint64_t)plan->segment_count + ZERO_EXCHANGE_WORDS), &words) ||
        words > INT64_MAX / 8)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "the exchange of %d ranks and %d segments is too big", b->spec->world,
                         plan->segment_count);
    int64_t norm_words = plan->segment_count > 0 ? 2 * (int64_t)plan->segment_count : 2;
    /* The exchange is the host's work, whatever the device. */
    zero_tier_t host = b->spec->device.host_memory ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    const struct { int32_t *out; zero_tier_t tier; int64_t words;
    } staging[] = {
        { &plan->norms, host, norm_words },
        { &plan->exchange, host, (int64_t)words },
        { &plan->scalars, host, ZERO_SCALARS_BYTES / 4 },
        { &plan->scratch, ZERO_TIER_DEVICE, 2 * blocks },
    };
    for (size_t i = 0; i < sizeof staging / sizeof *staging; i++)
        if ((status = zero_build_buffer(b, -1, ZERO_ROLE_COUNT, ZERO_KIND_STAGING, staging[i].tier, ZERO_FP32, staging[i].words,
                                        staging[i].out)) != ZERO_OK)
            return status;
    for (int32_t i = 0; i < b->spec->reserve_count; i++) {
        const zero_spec_reserve_t *r = &b->spec->reserves[i];
        uint64_t bytes;
        if (!zero_round_up(r->bytes, 4, &bytes) || bytes > INT64_MAX / 8)
            return zero_fail(b->error, ZERO_ERR_MEMORY, "reserve %d wants %llu bytes, which is too big", i,
                             (unsigned long long)r->bytes);
        if ((status = zero_build_buffer(b, -1, ZERO_ROLE_COUNT, r->kind, r->tier, ZERO_FP32, (int64_t)(bytes / 4),
                                        &plan->reserve_buffer[i])) != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

zero_status_t zero_build_parts(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    share_t share = { 0 };
    uint64_t count = 0;
    zero_status_t status;

    for (int32_t s = 0; s < plan->segment_count; s++)
        if (plan->segments[s].trainable)
            count += (uint64_t)plan->segments[s].elements / PIECE + 2;
    if (count > INT32_MAX / 2)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "the optimizer state has more than 2^30 parts");
    if ((status = zero_build_alloc(b, &plan->parts, (size_t)count, sizeof *plan->parts)) != ZERO_OK ||
        (status = zero_build_alloc(b, &b->order, (size_t)b->spec->unit_count, sizeof *b->order)) != ZERO_OK ||
        (status = zero_build_alloc(b, &b->slots, 3 * (size_t)b->spec->unit_count + 1 + RING, sizeof *b->slots)) != ZERO_OK)
        return status;
    for (int32_t s = 0; s < plan->segment_count; s++)
        if (plan->segments[s].trainable && (status = cut_segment(b, s, &share)) != ZERO_OK)
            return status;
    order_units(b);
    assign_ring(b);
    return place_others(b);
}
