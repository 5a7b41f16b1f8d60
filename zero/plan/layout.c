/* SPDX-License-Identifier: Apache-2.0 */
/* layout.c - offsets: each kind is one page-aligned range of its tier's arena, which holds its slots, then its
 * buffers. */
#include "zero/plan/build.h"

/* Appends bytes at the next aligned offset. *offset gets where they begin; *end moves behind them. */
static zero_status_t reserve(const zero_builder_t *b, zero_tier_t tier, uint64_t *end, uint64_t bytes, uint64_t align,
                             uint64_t *offset)
{
    if (!zero_round_up(*end, align, offset) || !zero_add_u64(*offset, bytes, end) || *end > INT64_MAX / 4)
        return zero_fail(b->error, ZERO_ERR_MEMORY, "the plan needs more than 2^61 bytes on the %s tier",
                         zero_tier_name(tier));
    return ZERO_OK;
}

static zero_status_t place_kind(zero_builder_t *b, zero_tier_t tier, zero_kind_t kind, uint64_t *end)
{
    zero_plan_t *plan = b->plan;
    zero_status_t status;

    /* Transfers to and from files need whole blocks and pages. */
    uint64_t align = tier == ZERO_TIER_NVME ? ZERO_FILE_ALIGN : zero_build_align(b->spec, tier);
    for (int32_t i = 0; i < b->slot_count; i++)
        if (b->slots[i].kind == kind && b->slots[i].tier == tier &&
            (status = reserve(b, tier, end, b->slots[i].bytes, kind == ZERO_KIND_STAGING ? ZERO_PAGE : align,
                              &b->slots[i].offset)) != ZERO_OK)
            return status;
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        zero_buffer_t *x = &plan->buffers[i];
        if (x->kind != kind || x->tier != tier)
            continue;
        if (x->slot >= 0)
            x->offset += b->slots[x->slot].offset; /* x->offset was relative to its slot */
        else if ((status = reserve(b, tier, end, x->bytes, tier == ZERO_TIER_HOST && x->part >= 0 ? ZERO_PAGE : align,
                                   &x->offset)) != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

static zero_status_t place_tier(zero_builder_t *b, zero_tier_t tier)
{
    zero_plan_t *plan = b->plan;
    uint64_t page = b->spec->device.page > ZERO_PAGE ? b->spec->device.page : ZERO_PAGE, end = 0, unused;
    page = tier == ZERO_TIER_NVME ? ZERO_FILE_ALIGN : page;
    zero_status_t status;

    for (int kind = 0; kind < ZERO_KIND_COUNT; kind++) {
        uint64_t begin = end;
        plan->kind_offset[tier][kind] = begin;
        if (kind == ZERO_KIND_RINGS)
            continue;
        if ((status = place_kind(b, tier, (zero_kind_t)kind, &end)) != ZERO_OK ||
            (status = reserve(b, tier, &end, 0, page, &unused)) != ZERO_OK)
            return status;
        plan->kind_bytes[tier][kind] = end - begin;
    }
    plan->arena_bytes[tier] = end;
    return ZERO_OK;
}

zero_status_t zero_build_layout(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    zero_status_t status;

    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        if ((status = place_tier(b, (zero_tier_t)tier)) != ZERO_OK)
            return status;
    uint64_t *rings = &plan->kind_bytes[ZERO_TIER_HOST][ZERO_KIND_RINGS], bytes;
    for (int g = 0; g < b->spec->group_count; g++) {
        const zero_spec_group_t *group = &b->spec->groups[g];
        if (zero_plan_in_group(plan, g) && group->size > 1 &&
            (!zero_mul_u64((uint64_t)b->spec->channels, group->caps.ring_bytes, &bytes) ||
             !zero_add_u64(*rings, bytes, rings)))
            return zero_fail(b->error, ZERO_ERR_MEMORY, "%d channels with rings of %llu bytes are too big",
                             b->spec->channels, (unsigned long long)group->caps.ring_bytes);
    }
    for (int link = ZERO_STREAM_FROM_PREV; link <= ZERO_STREAM_TO_PREV; link++)
        if (zero_plan_uses(plan, (zero_stream_id_t)link) &&
            !zero_add_u64(*rings, b->spec->groups[0].caps.ring_bytes, rings))
            return zero_fail(b->error, ZERO_ERR_MEMORY, "rings of %llu bytes are too big",
                             (unsigned long long)b->spec->groups[0].caps.ring_bytes);
    return ZERO_OK;
}
