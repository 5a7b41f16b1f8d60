/* SPDX-License-Identifier: Apache-2.0 */
/* slices.c - which ranks share a segment, which elements each owns, and where an operand lies. Only this file maps
 * ranks to slices: the rest of the builder, the executor and the engine call it.
 *
 * Rank replica * shards + shard owns slice shard * replicas + replica. So the slices of a shard follow each other, and
 * a reduction over shards leaves the range that the one over replicas cuts. */
#include "zero/plan/build.h"

int zero_plan_copies(const zero_spec_t *spec)
{
    return spec->groups[0].size;
}

static int replicas_of(const zero_spec_t *spec)
{
    return spec->mesh.replicas;
}

int zero_plan_shards(const zero_spec_t *spec)
{
    return spec->world / replicas_of(spec);
}

int zero_plan_node(const zero_spec_t *spec)
{
    int node = spec->mesh.node, shards = zero_plan_shards(spec);
    return node > 0 && node < shards && shards % node == 0 ? node : 0;
}

int zero_plan_index(const zero_spec_t *spec, int rank)
{
    int shards = zero_plan_shards(spec);
    return rank % shards * replicas_of(spec) + rank / shards;
}

int zero_plan_rank(const zero_spec_t *spec, int index)
{
    int replicas = replicas_of(spec);
    return index % replicas * zero_plan_shards(spec) + index / replicas;
}

void zero_plan_set_groups(zero_spec_t *spec)
{
    int sizes[] = {zero_plan_shards(spec), replicas_of(spec)};
    uint8_t axes[] = {ZERO_AXIS_SHARD, ZERO_AXIS_REPLICA};
    spec->groups[0].size = spec->world;
    spec->groups[0].axes = 0;
    spec->group_count = 1;
    for (int a = 0; a < 2; a++)
        spec->groups[0].axes |= sizes[a] > 1 ? axes[a] : 0;
    for (int a = 0; a < 2 && sizes[0] > 1 && sizes[1] > 1; a++) {
        zero_spec_group_t *group = &spec->groups[spec->group_count++];
        *group = spec->groups[0];
        group->size = sizes[a];
        group->axes = axes[a];
    }
    if (zero_plan_node(spec) > 0) {
        zero_spec_group_t *group = &spec->groups[spec->group_count++];
        *group = spec->groups[0];
        group->size = zero_plan_node(spec);
        group->axes = ZERO_AXIS_NODE;
    }
}

int zero_plan_group(const zero_spec_t *spec, uint8_t axes)
{
    int g = spec->group_count - 1;
    while (g > 0 && spec->groups[g].axes != axes)
        g--;
    return g;
}

int zero_plan_member(const zero_spec_t *spec, int group, int rank, int i)
{
    int shards = zero_plan_shards(spec);
    uint8_t axes = spec->groups[group].axes;
    if (group == 0)
        return i;
    if (axes == ZERO_AXIS_NODE)
        return rank - rank % shards % zero_plan_node(spec) + i;
    return axes == ZERO_AXIS_SHARD ? rank / shards * shards + i : i * shards + rank % shards;
}

/* Refuses nodes that do not fit into replicas, and rows that gather nothing in the backward pass. */
static zero_status_t check_node(const zero_spec_t *spec, zero_error_t *error)
{
    int node = spec->mesh.node, shards = zero_plan_shards(spec), below = node < shards ? node : shards, above = below;
    while (shards % below != 0)
        below--;
    while (shards % above != 0)
        above++;
    if (shards % node != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.mesh.node is %d, which does not divide the %d ranks of a replica: the nearest numbers "
                         "that do are %d and %d",
                         node, shards, below, above);
    if (spec->parameters.sharding == ZERO_FULL || spec->parameters.tier != ZERO_TIER_DEVICE)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "config.mesh.node is %d, but config.parameters %s: shard them, on the device tier, or set "
                         "config.mesh.node to 0",
                         node, spec->parameters.sharding == ZERO_FULL ? "are full" : "are on another tier");
    return ZERO_OK;
}

zero_status_t zero_build_check_groups(const zero_spec_t *spec, zero_error_t *error)
{
    zero_status_t status;
    if (replicas_of(spec) < 1)
        return zero_fail(error, ZERO_ERR_ARG, "config.mesh.replicas is %d: it is at least 1", replicas_of(spec));
    if (spec->world % replicas_of(spec) != 0) {
        int most = spec->world, below = replicas_of(spec) > most ? most : replicas_of(spec), above = below;
        while (below > 1 && most % below != 0)
            below--;
        while (most % above != 0)
            above++;
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.mesh.replicas is %d, which does not divide the %d ranks: the nearest numbers that do "
                         "are %d and %d",
                         replicas_of(spec), spec->world, below, above);
    }
    if (spec->mesh.node > 0 && (status = check_node(spec, error)) != ZERO_OK)
        return status;
    zero_spec_t wanted = *spec;
    zero_plan_set_groups(&wanted);
    if (spec->group_count != wanted.group_count)
        return zero_fail(error, ZERO_ERR_ARG, "the plan has %d groups of ranks; its mesh has %d", spec->group_count,
                         wanted.group_count);
    for (int g = 0; g < spec->group_count; g++) {
        const zero_spec_group_t *group = &spec->groups[g];
        if (group->size != wanted.groups[g].size || group->axes != wanted.groups[g].axes)
            return zero_fail(error, ZERO_ERR_ARG, "group %d has %d ranks on axes %d; in its mesh it has %d on axes %d",
                             g, group->size, group->axes, wanted.groups[g].size, wanted.groups[g].axes);
        if (group->size > 1 && !group->caps.in_place)
            return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                             "config.comm is '%s', which cannot gather and reduce in place, as the plan needs it",
                             group->caps.name);
    }
    return ZERO_OK;
}

bool zero_build_slices(const zero_spec_t *spec, zero_segment_t *segment, uint64_t elements)
{
    uint64_t copies = (uint64_t)zero_plan_copies(spec);
    if (!zero_round_up(elements, copies * ZERO_ALIGN_ELEMENTS, &elements) || elements > (uint64_t)INT64_MAX / 8)
        return false;
    segment->elements = (int64_t)elements;
    segment->slice = (int64_t)(elements / copies);
    segment->shard = segment->slice * replicas_of(spec);
    segment->node = segment->elements / (zero_plan_node(spec) > 0 ? zero_plan_node(spec) : 1);
    return true;
}

/* The first element of a rank's extent of a segment. */
static int64_t first_of(const zero_plan_t *plan, const zero_segment_t *segment, int index, zero_extent_t extent)
{
    int shard = index / replicas_of(plan->spec), node = zero_plan_node(plan->spec);
    return extent == ZERO_EXTENT_SLICE              ? index * segment->slice
           : extent == ZERO_EXTENT_SHARD            ? shard * segment->shard
           : extent == ZERO_EXTENT_NODE && node > 0 ? shard % node * segment->node
                                                    : 0;
}

zero_span_t zero_plan_span(const zero_plan_t *plan, int index, int32_t buffer, zero_extent_t own, int32_t part)
{
    const zero_buffer_t *x = &plan->buffers[buffer];
    if (x->segment < 0)
        return (zero_span_t){0, x->elements, 0};
    const zero_segment_t *segment = &plan->segments[x->segment];
    const zero_part_t *p = part >= 0 ? &plan->parts[part] : NULL;
    int64_t from = first_of(plan, segment, index, own),
            counted = p != NULL ? first_of(plan, segment, index, p->own) : 0;
    int64_t holds = first_of(plan, segment, index, x->own) + x->begin, begin = holds, end = holds + x->elements,
            until = from + zero_build_elements(segment, own);
    if (begin < from)
        begin = from;
    if (end > until)
        end = until;
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
