/* SPDX-License-Identifier: Apache-2.0 */
/* slices.c - which ranks share a segment, which elements each owns, and where an operand lies. Only this file maps
 * ranks to slices: the rest of the builder, the executor and the engine call it. */
#include "zero/plan/build.h"

zero_status_t zero_build_check_groups(const zero_spec_t *spec, zero_error_t *error)
{
    if (spec->group_count < 1 || spec->group_count > ZERO_MAX_GROUPS)
        return zero_fail(error, ZERO_ERR_ARG, "the plan has %d groups of ranks; it has 1 to %d", spec->group_count,
                         ZERO_MAX_GROUPS);
    for (int g = 0; g < spec->group_count; g++) {
        const zero_spec_group_t *group = &spec->groups[g];
        if (group->size < 1 || spec->world % group->size != 0)
            return zero_fail(error, ZERO_ERR_ARG,
                             "group %d has %d ranks, which does not divide the %d ranks of the plan", g, group->size,
                             spec->world);
        if (group->size > 1 && !group->caps.in_place)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "config.comm is '%s', which cannot gather and reduce in place, as the plan needs it",
                             group->caps.name);
    }
    if (spec->groups[0].size != spec->world)
        return zero_fail(error, ZERO_ERR_ARG, "segments are shared by %d of %d ranks: the first group is all ranks",
                         spec->groups[0].size, spec->world);
    return ZERO_OK;
}

int zero_plan_copies(const zero_spec_t *spec)
{
    return spec->groups[0].size;
}

bool zero_build_slices(const zero_spec_t *spec, zero_segment_t *segment, uint64_t elements)
{
    uint64_t copies = (uint64_t)zero_plan_copies(spec);
    if (!zero_round_up(elements, copies * ZERO_ALIGN_ELEMENTS, &elements) || elements > (uint64_t)INT64_MAX / 8)
        return false;
    segment->elements = (int64_t)elements;
    segment->slice = (int64_t)(elements / copies);
    return true;
}

zero_span_t zero_plan_span(const zero_plan_t *plan, int index, int32_t buffer, bool own, int32_t part)
{
    const zero_buffer_t *x = &plan->buffers[buffer];
    if (x->segment < 0)
        return (zero_span_t){0, x->elements, 0};
    const zero_segment_t *segment = &plan->segments[x->segment];
    const zero_part_t *p = part >= 0 ? &plan->parts[part] : NULL;
    int64_t slice = index * segment->slice, counted = p != NULL && p->own ? slice : 0;
    int64_t holds = (x->own ? slice : 0) + x->begin, begin = holds, end = holds + x->elements;
    if (own && begin < slice)
        begin = slice;
    if (own && end > slice + segment->slice)
        end = slice + segment->slice;
    if (p != NULL && begin < counted + p->begin)
        begin = counted + p->begin;
    if (p != NULL && end > counted + p->end)
        end = counted + p->end;
    return (zero_span_t){begin, end > begin ? end - begin : 0, zero_format_bytes(&x->format, begin - holds)};
}

int zero_plan_owner(const zero_plan_t *plan, int32_t segment, int64_t element)
{
    return (int)(element / plan->segments[segment].slice);
}
