/* SPDX-License-Identifier: Apache-2.0 */
/* slices.c - which ranks share a segment, which elements each owns, and where an operand lies. Only this file maps
 * ranks to slices: the rest of the builder, the executor and the engine call it.
 *
 * Rank ((pipe * replicas + replica) * shards + shard) * tensor + place owns slice ((shard * replicas + replica) *
 * stages + stage) * places + place, where stages is the number of pipeline stages that have the segment, one or two,
 * and stage the rank's among them; places is tensor if the ranks of tensor parallelism share the segment
 * (ZERO_SPREAD_SUMMED), else 1, and each place has slices of its own. So the slices of a shard follow each other, and a
 * reduction over shards leaves the range that the one over replicas, stages and places cuts. */
#include "zero/plan/build.h"

static int replicas_of(const zero_spec_t *spec)
{
    return spec->mesh.replicas;
}

int zero_plan_copies(const zero_spec_t *spec)
{
    return spec->world / spec->mesh.pipe;
}

int zero_plan_shards(const zero_spec_t *spec)
{
    return zero_plan_copies(spec) / replicas_of(spec) / spec->mesh.tensor;
}

/* Where a rank is in the mesh. */
typedef struct coordinates {
    int pipe, replica, shard, place;
} coordinates_t;

static coordinates_t coordinates_of(const zero_spec_t *spec, int rank)
{
    int copies = zero_plan_copies(spec), shards = zero_plan_shards(spec), tensor = spec->mesh.tensor,
        group = rank % copies / tensor;
    return (coordinates_t){rank / copies, group / shards, group % shards, rank % tensor};
}

static int rank_at(const zero_spec_t *spec, coordinates_t at)
{
    return ((at.pipe * replicas_of(spec) + at.replica) * zero_plan_shards(spec) + at.shard) * spec->mesh.tensor +
           at.place;
}

int zero_plan_pipe(const zero_spec_t *spec, int rank)
{
    return rank / zero_plan_copies(spec);
}

int zero_plan_node(const zero_spec_t *spec)
{
    int node = spec->mesh.node, shards = zero_plan_shards(spec);
    return node > 0 && node < shards && shards % node == 0 ? node : 0;
}

/* The number of slices of a shard. */
static int slices_of(const zero_segment_t *segment)
{
    return (int)(segment->shard / segment->slice);
}

/* The ranks of tensor parallelism that share a segment. */
static int places_of(const zero_spec_t *spec, const zero_segment_t *segment)
{
    return segment->spread == ZERO_SPREAD_SUMMED ? spec->mesh.tensor : 1;
}

int zero_plan_index(const zero_plan_t *plan, int32_t segment, int rank)
{
    const zero_segment_t *s = &plan->segments[segment];
    const coordinates_t at = coordinates_of(plan->spec, rank);
    int index = at.shard * replicas_of(plan->spec) + at.replica, places = places_of(plan->spec, s);
    if (at.pipe != s->pipe[0] && at.pipe != s->pipe[1])
        return -1;
    if (zero_plan_is_tied(s))
        index = 2 * index + (at.pipe == s->pipe[1]);
    return places > 1 ? index * places + at.place : index;
}

int zero_plan_rank(const zero_plan_t *plan, int32_t segment, int index)
{
    const zero_segment_t *s = &plan->segments[segment];
    int replicas = replicas_of(plan->spec), places = places_of(plan->spec, s);
    coordinates_t at = {.place = index % places};
    index /= places;
    at.pipe = s->pipe[zero_plan_is_tied(s) ? index % 2 : 0];
    if (zero_plan_is_tied(s))
        index /= 2;
    at.replica = index % replicas;
    at.shard = index / replicas;
    return rank_at(plan->spec, at);
}

uint8_t zero_plan_outer(const zero_spec_t *spec)
{
    return zero_plan_shards(spec) > 1 ? ZERO_ALONG_SHARD : 0;
}

uint8_t zero_plan_inner(const zero_spec_t *spec, const zero_segment_t *segment)
{
    return (uint8_t)((replicas_of(spec) > 1 ? ZERO_ALONG_REPLICA : 0) |
                     (zero_plan_is_tied(segment) ? ZERO_ALONG_TIE : 0) |
                     (places_of(spec, segment) > 1 ? ZERO_ALONG_TENSOR : 0));
}

static void add_group(zero_spec_t *spec, int size, uint8_t axes)
{
    zero_spec_group_t *group = &spec->groups[spec->group_count++];
    *group = spec->groups[0];
    group->size = size;
    group->axes = axes;
}

void zero_plan_set_groups(zero_spec_t *spec)
{
    int shards = zero_plan_shards(spec), replicas = replicas_of(spec), pipes = spec->mesh.pipe,
        places = spec->mesh.tensor;
    uint8_t shard = shards > 1 ? ZERO_ALONG_SHARD : 0, replica = replicas > 1 ? ZERO_ALONG_REPLICA : 0,
            pipe = pipes > 1 ? ZERO_ALONG_PIPE : 0, tensor = places > 1 ? ZERO_ALONG_TENSOR : 0;
    spec->groups[0].size = spec->world;
    spec->groups[0].axes = (uint8_t)(shard | replica | pipe | tensor);
    spec->group_count = 1;
    if (shard != 0 && shard != spec->groups[0].axes)
        add_group(spec, shards, shard);
    if (replica != 0 && replica != spec->groups[0].axes)
        add_group(spec, replicas, replica);
    if (zero_plan_node(spec) > 0)
        add_group(spec, zero_plan_node(spec), ZERO_ALONG_NODE);
    if (spec->tied[0] != spec->tied[1])
        add_group(spec, 2 * replicas, ZERO_ALONG_TIE | replica);
    if (tensor != 0 && (replica | tensor) != spec->groups[0].axes)
        add_group(spec, replicas * places, replica | tensor);
    if (tensor != 0 && spec->tied[0] != spec->tied[1])
        add_group(spec, 2 * replicas * places, ZERO_ALONG_TIE | replica | tensor);
    if (tensor != 0)
        add_group(spec, places, tensor | ZERO_ALONG_CALLS);
    if (spec->mesh.context > 1)
        add_group(spec, spec->mesh.context, ZERO_ALONG_CONTEXT | ZERO_ALONG_CALLS);
}

int zero_plan_calls(const zero_spec_t *spec, zero_axis_t axis)
{
    return zero_plan_group(spec,
                           (axis == ZERO_AXIS_CONTEXT ? ZERO_ALONG_CONTEXT : ZERO_ALONG_TENSOR) | ZERO_ALONG_CALLS);
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
    coordinates_t at = coordinates_of(spec, rank);
    uint8_t axes = spec->groups[group].axes;
    if (group == 0)
        return i;
    if ((axes & ZERO_ALONG_TIE) && at.pipe != spec->tied[0] && at.pipe != spec->tied[1])
        return -1;
    /* In the order of slices: the last axis is that of the index that counts the fastest. */
    if (axes & ZERO_ALONG_TENSOR) {
        at.place = i % spec->mesh.tensor;
        i /= spec->mesh.tensor;
    }
    if (axes & ZERO_ALONG_TIE) {
        at.pipe = spec->tied[i % 2];
        i /= 2;
    }
    if (axes & ZERO_ALONG_REPLICA)
        at.replica = i;
    else if (axes & ZERO_ALONG_SHARD)
        at.shard = i;
    else if (axes & ZERO_ALONG_NODE)
        at.shard += i - at.shard % zero_plan_node(spec);
    else if (axes & ZERO_ALONG_CONTEXT)
        at.shard += i - at.shard % spec->mesh.context;
    return rank_at(spec, at);
}

bool zero_plan_in_group(const zero_plan_t *plan, int group)
{
    const int32_t *tied = plan->spec->tied;
    return !(plan->spec->groups[group].axes & ZERO_ALONG_TIE) || plan->pipe == tied[0] || plan->pipe == tied[1];
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
    if (spec->mesh.pipe < 1)
        return zero_fail(error, ZERO_ERR_ARG, "config.mesh.pipe is %d: it is at least 1", spec->mesh.pipe);
    if (replicas_of(spec) < 1)
        return zero_fail(error, ZERO_ERR_ARG, "config.mesh.replicas is %d: it is at least 1", replicas_of(spec));
    if (spec->world % spec->mesh.pipe != 0) {
        int below = spec->mesh.pipe > spec->world ? spec->world : spec->mesh.pipe, above = below;
        while (spec->world % below != 0)
            below--;
        while (spec->world % above != 0)
            above++;
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.mesh.pipe is %d, which does not divide the %d ranks: the nearest numbers that do are "
                         "%d and %d",
                         spec->mesh.pipe, spec->world, below, above);
    }
    if (spec->mesh.tensor < 1)
        return zero_fail(error, ZERO_ERR_ARG, "config.mesh.tensor is %d: it is at least 1", spec->mesh.tensor);
    if (zero_plan_copies(spec) % spec->mesh.tensor != 0) {
        int most = zero_plan_copies(spec), below = spec->mesh.tensor > most ? most : spec->mesh.tensor, above = below;
        while (most % below != 0)
            below--;
        while (most % above != 0)
            above++;
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.mesh.tensor is %d, which does not divide the %d ranks%s: the nearest numbers that do "
                         "are %d and %d",
                         spec->mesh.tensor, most, spec->mesh.pipe > 1 ? " of a pipeline stage" : "", below, above);
    }
    if (zero_plan_copies(spec) / spec->mesh.tensor % replicas_of(spec) != 0) {
        int most = zero_plan_copies(spec) / spec->mesh.tensor,
            below = replicas_of(spec) > most ? most : replicas_of(spec), above = below;
        while (below > 1 && most % below != 0)
            below--;
        while (most % above != 0)
            above++;
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.mesh.replicas is %d, which does not divide the %d %s%s: the nearest numbers that do "
                         "are %d and %d",
                         replicas_of(spec), most,
                         spec->mesh.tensor > 1 ? "groups of config.mesh.tensor ranks" : "ranks",
                         spec->mesh.pipe > 1 ? " of a pipeline stage" : "", below, above);
    }
    if (spec->mesh.context < 1 || zero_plan_shards(spec) % spec->mesh.context != 0) {
        int most = zero_plan_shards(spec), below = spec->mesh.context > most ? most : spec->mesh.context, above;
        below = below > 0 ? below : 1;
        for (above = below; most % above != 0; above++)
            ;
        while (most % below != 0)
            below--;
        return zero_fail(error, ZERO_ERR_ARG,
                         "config.mesh.context is %d, which does not divide the %d shards: the nearest numbers that do "
                         "are %d and %d",
                         spec->mesh.context, most, below, above);
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
    uint64_t stages = zero_plan_is_tied(segment) ? 2 : 1, places = (uint64_t)places_of(spec, segment),
             slices = stages * places * (uint64_t)replicas_of(spec), copies = slices * (uint64_t)zero_plan_shards(spec);
    if (!zero_round_up(elements, copies * ZERO_ALIGN_ELEMENTS, &elements) || elements > (uint64_t)INT64_MAX / 8)
        return false;
    segment->elements = (int64_t)elements;
    segment->slice = (int64_t)(elements / copies);
    segment->shard = segment->slice * (int64_t)slices;
    segment->node = segment->elements / (zero_plan_node(spec) > 0 ? zero_plan_node(spec) : 1);
    return true;
}

/* The first element of a rank's extent of a segment. */
static int64_t first_of(const zero_plan_t *plan, int32_t segment, int rank, zero_extent_t extent)
{
    const zero_segment_t *s = &plan->segments[segment];
    int index = zero_plan_index(plan, segment, rank), shard = index / slices_of(s), node = zero_plan_node(plan->spec);
    return extent == ZERO_EXTENT_SLICE              ? index * s->slice
           : extent == ZERO_EXTENT_SHARD            ? shard * s->shard
           : extent == ZERO_EXTENT_NODE && node > 0 ? shard % node * s->node
                                                    : 0;
}

zero_span_t zero_plan_span(const zero_plan_t *plan, int rank, int32_t buffer, zero_extent_t own, int32_t part)
{
    const zero_buffer_t *x = &plan->buffers[buffer];
    if (x->segment < 0)
        return (zero_span_t){0, x->elements, 0};
    const zero_part_t *p = part >= 0 ? &plan->parts[part] : NULL;
    int64_t from = first_of(plan, x->segment, rank, own),
            counted = p != NULL ? first_of(plan, x->segment, rank, p->own) : 0;
    int64_t holds = first_of(plan, x->segment, rank, x->own) + x->begin, begin = holds, end = holds + x->elements,
            until = from + zero_build_elements(&plan->segments[x->segment], own);
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
