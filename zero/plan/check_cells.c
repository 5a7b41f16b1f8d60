/* SPDX-License-Identifier: Apache-2.0 */
/* check_cells.c - memory as the checker sees it: what each range of bytes holds, its last accesses, and their order. */
#include "zero/plan/check.h"

#include <stdio.h>
#include <stdlib.h>

static const char *party_name(int party)
{
    return party < ZERO_STREAM_COUNT ? zero_stream_name((zero_stream_id_t)party) : "calling";
}

zero_check_name_t zero_check_buffer_name(const zero_checker_t *c, int32_t buffer)
{
    const zero_plan_t *plan = c->plan;
    const zero_buffer_t *x = &plan->buffers[buffer];
    zero_check_name_t name;
    if (x->segment >= 0)
        snprintf(name.s, sizeof name.s, "%s of '%s'", zero_role_name(x->role, x->state),
                 plan->spec->units[plan->segments[x->segment].unit].name);
    else
        snprintf(name.s, sizeof name.s, "%s",
                 buffer == plan->norms      ? "the norms"
                 : buffer == plan->exchange ? "the exchange"
                 : buffer == plan->scalars  ? "the step's scalars"
                 : x->slot >= 0             ? "a buffer of a task"
                                            : "the scratch of norms");
    return name;
}

enum { EXTENTS = ZERO_EXTENTS };

typedef struct zero_saved_cell {
    int32_t index;
    zero_cell_t cell;
} zero_saved_cell_t;

/* ---- cells ------------------------------------------------------------------------------------------------------ */

static int compare_u64(const void *pa, const void *pb)
{
    uint64_t a = *(const uint64_t *)pa, b = *(const uint64_t *)pb;
    return a < b ? -1 : a > b;
}

static int32_t find(const zero_checker_t *c, uint64_t bound)
{
    int32_t low = 0, high = c->bound_count - 1;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (c->bounds[middle] < bound)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void keep(int64_t *begin, int64_t *end, int64_t from, int64_t count)
{
    if (*begin < from)
        *begin = from;
    if (*end > from + count)
        *end = from + count;
}

/* Keeps those elements that are in this rank's extent of a segment. Slices of a shard follow each other, so a shard
 * begins at the multiple of its size that is not after the slice. */
static void keep_extent(const zero_checker_t *c, int32_t segment, zero_extent_t extent, int64_t *begin, int64_t *end)
{
    const zero_segment_t *s = &c->plan->segments[segment];
    int64_t slice = zero_check_slice(c, segment);
    if (extent == ZERO_EXTENT_SLICE)
        keep(begin, end, slice, s->slice);
    else if (extent == ZERO_EXTENT_SHARD)
        keep(begin, end, slice - slice % s->shard, s->shard);
    else if (extent == ZERO_EXTENT_NODE) /* shards go round the ranks of each node */
        keep(begin, end, slice / s->shard % (s->elements / s->node) * s->node, s->node);
}

/* The element from which an extent counts. */
static int64_t start_of(const zero_checker_t *c, int32_t segment, zero_extent_t extent)
{
    int64_t begin = 0, end = c->plan->segments[segment].elements;
    keep_extent(c, segment, extent, &begin, &end);
    return begin;
}

zero_span_t zero_check_span(const zero_checker_t *c, int32_t buffer, zero_extent_t own, int32_t part)
{
    const zero_buffer_t *x = &c->plan->buffers[buffer];
    const zero_part_t *p = part >= 0 ? &c->plan->parts[part] : NULL;
    if (x->segment < 0)
        return (zero_span_t){.count = x->elements};
    int64_t first = x->begin + start_of(c, x->segment, x->own), begin = first, end = first + x->elements;
    keep_extent(c, x->segment, own, &begin, &end);
    if (p != NULL)
        keep(&begin, &end, start_of(c, x->segment, p->own) + p->begin, p->end - p->begin);
    return (zero_span_t){begin, end > begin ? end - begin : 0, zero_format_bytes(&x->format, begin - first)};
}

static zero_operand_t resolve(const zero_checker_t *c, int32_t buffer, zero_extent_t own, int32_t part)
{
    const zero_buffer_t *x = &c->plan->buffers[buffer];
    zero_span_t span = zero_check_span(c, buffer, own, part);
    uint64_t begin = zero_plan_place(c->plan, x) + span.offset;
    return (zero_operand_t){.cells = {find(c, begin), find(c, begin + zero_format_bytes(&x->format, span.count))},
                            .buffer = buffer,
                            .base = (int64_t)begin - (int64_t)zero_format_bytes(&x->format, span.begin),
                            .begin = span.begin,
                            .count = span.count};
}

zero_operand_t zero_check_operand(const zero_checker_t *c, int32_t buffer, zero_extent_t own, int32_t part)
{
    if (part >= 0 && c->plan->buffers[buffer].part < 0)
        return resolve(c, buffer, own, part);
    return c->operands[EXTENTS * (size_t)buffer + own];
}

static void begin_with(zero_checker_t *c, int32_t buffer, int32_t part, zero_content_kind_t kind)
{
    zero_operand_t x = zero_check_operand(c, buffer, false, part);
    const zero_buffer_t *b = &c->plan->buffers[buffer];
    for (int32_t i = x.cells.begin; i < x.cells.end; i++)
        c->cells[i].content = (zero_content_t){.kind = (uint8_t)kind,
                                               .dtype = (uint8_t)b->format.dtype,
                                               .state = kind == ZERO_HOLDS_STATE ? (uint8_t)b->state : 0,
                                               .segment = b->segment,
                                               .base = x.base};
}

/* Appends the bounds of an operand on this rank. zero_plan_span, which the executor uses, must return the same. */
static zero_status_t bound(zero_checker_t *c, int32_t *n, int32_t buffer, zero_extent_t own, int32_t part)
{
    const zero_buffer_t *x = &c->plan->buffers[buffer];
    zero_span_t span = zero_check_span(c, buffer, own, part), run = zero_plan_span(c->plan, c->rank, buffer, own, part);
    if (span.count != run.count || (span.count > 0 && (span.begin != run.begin || span.offset != run.offset)))
        return zero_check_fail(
            c, "buffer %d has elements %lld to %lld on rank %d, but zero_plan_span returns %lld to %lld", buffer,
            (long long)span.begin, (long long)(span.begin + span.count), c->rank, (long long)run.begin,
            (long long)(run.begin + run.count));
    uint64_t begin = zero_plan_place(c->plan, x) + span.offset;
    c->bounds[(*n)++] = begin;
    c->bounds[(*n)++] = begin + zero_format_bytes(&x->format, span.count);
    return ZERO_OK;
}

zero_status_t zero_check_cells_create(zero_checker_t *c)
{
    const zero_plan_t *plan = c->plan;
    size_t buffers = (size_t)plan->buffer_count, segments = (size_t)plan->segment_count;
    int32_t n = 0;
    zero_status_t status;

    size_t parts = (size_t)plan->part_count + (size_t)plan->piece_count;
    c->bounds = malloc((2 * EXTENTS * buffers + 2 * segments + 2 * ZERO_SEGMENT_ROLES * parts + 1) * sizeof *c->bounds);
    c->operands = calloc(EXTENTS * buffers + 1, sizeof *c->operands);
    c->norm = calloc(segments + 1, sizeof *c->norm);
    if (c->bounds == NULL || c->operands == NULL || c->norm == NULL)
        return zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %d buffers", plan->buffer_count);
    for (int32_t i = 0; i < plan->buffer_count; i++)
        for (int e = 0; e < EXTENTS; e++)
            if ((status = bound(c, &n, i, (zero_extent_t)e, -1)) != ZERO_OK)
                return status;
    for (int32_t p = 0; p < plan->part_count + plan->piece_count;
         p++) /* parts of segment buffers: gradients, parameters */
        for (int r = 0; r < ZERO_SEGMENT_ROLES; r++) {
            int32_t b = plan->segments[plan->parts[p].segment].buffer[r];
            if (b >= 0 && (status = bound(c, &n, b, plan->parts[p].own, p)) != ZERO_OK)
                return status;
        }
    for (int32_t s = 0; s < plan->segment_count; s++) {
        c->bounds[n++] = zero_plan_place(plan, &plan->buffers[plan->norms]) + (uint64_t)s * sizeof(double);
        c->bounds[n++] = zero_plan_place(plan, &plan->buffers[plan->norms]) + ((uint64_t)s + 1) * sizeof(double);
    }
    qsort(c->bounds, (size_t)n, sizeof *c->bounds, compare_u64);
    for (int32_t i = 0; i < n; i++)
        if (i == 0 || c->bounds[i] != c->bounds[c->bound_count - 1])
            c->bounds[c->bound_count++] = c->bounds[i];
    c->cells = calloc((size_t)c->bound_count, sizeof *c->cells);
    c->saved = malloc((size_t)c->bound_count * sizeof *c->saved);
    if (c->cells == NULL || c->saved == NULL)
        return zero_fail(c->error, ZERO_ERR_MEMORY, "no memory to check a plan of %d buffers", plan->buffer_count);
    for (int32_t i = 0; i < plan->buffer_count; i++)
        for (int e = 0; e < EXTENTS; e++)
            c->operands[EXTENTS * (size_t)i + (size_t)e] = resolve(c, i, (zero_extent_t)e, -1);
    for (int32_t s = 0; s < plan->segment_count; s++) {
        uint64_t begin = zero_plan_place(plan, &plan->buffers[plan->norms]) + (uint64_t)s * sizeof(double);
        c->norm[s] = (zero_cells_t){find(c, begin), find(c, begin + sizeof(double))};
        const int32_t *buffer = plan->segments[s].buffer;
        if (!zero_plan_has(plan, &plan->segments[s]))
            continue;
        begin_with(c, buffer[buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM], -1,
                   ZERO_HOLDS_PARAM);
    }
    for (int32_t p = 0; p < plan->part_count; p++) {
        const zero_part_t *part = &plan->parts[p];
        bool is_param = plan->segments[part->segment].dtype == ZERO_FP32; /* the parameters are the master weights */
        begin_with(c, part->master, p, is_param ? ZERO_HOLDS_PARAM : ZERO_HOLDS_MASTER);
        for (int i = 0; i < zero_plan_state(plan, part->segment)->count; i++)
            begin_with(c, part->state[i], p, ZERO_HOLDS_STATE);
    }
    for (int32_t i = 0; i < plan->buffer_count; i++) {
        zero_cells_t all = zero_check_operand(c, i, false, -1).cells;
        for (int32_t k = all.begin; k < all.end && plan->buffers[i].slot >= 0; k++)
            c->cells[k].in_slot = true;
    }
    return ZERO_OK;
}

void zero_check_cells_destroy(zero_checker_t *c)
{
    free(c->bounds);
    free(c->operands);
    free(c->norm);
    free(c->cells);
    free(c->saved);
}

/* ---- order ------------------------------------------------------------------------------------------------------ */

static zero_status_t held(const zero_checker_t *c, const zero_operand_t *x, const char *verb)
{
    return zero_check_fail(c, "it %s %s, which a use of the caller still holds", verb,
                           zero_check_buffer_name(c, x->buffer).s);
}

static zero_status_t unordered(const zero_checker_t *c, const zero_operand_t *x, const char *verb, const char *before,
                               int party)
{
    return zero_check_fail(c, "it %s %s, but is not ordered after the %s stream's last %s of these bytes", verb,
                           zero_check_buffer_name(c, x->buffer).s, party_name(party), before);
}

zero_status_t zero_check_may_read(const zero_checker_t *c, int stream, const zero_operand_t *x)
{
    const int32_t *known = c->clock[stream].at;
    for (int32_t i = x->cells.begin; i < x->cells.end; i++) {
        const zero_cell_t *cell = &c->cells[i];
        if (cell->open_writes > 0)
            return held(c, x, "reads");
        if (cell->write_time > known[cell->writer])
            return unordered(c, x, "reads", "write", cell->writer);
    }
    return ZERO_OK;
}

zero_status_t zero_check_may_write(const zero_checker_t *c, int stream, const zero_operand_t *x)
{
    const int32_t *known = c->clock[stream].at;
    for (int32_t i = x->cells.begin; i < x->cells.end; i++) {
        const zero_cell_t *cell = &c->cells[i];
        if (cell->open_reads > 0 || cell->open_writes > 0)
            return held(c, x, "writes");
        if (cell->write_time > known[cell->writer])
            return unordered(c, x, "writes", "write", cell->writer);
        for (uint32_t left = cell->readers; left != 0; left &= left - 1) {
            int p = __builtin_ctz(left);
            if (cell->read_time[p] > known[p])
                return unordered(c, x, "writes", "read", p);
        }
    }
    return ZERO_OK;
}

static zero_cell_t *change(zero_checker_t *c, int32_t i)
{
    zero_cell_t *cell = &c->cells[i];
    if (c->trying && cell->saved != c->trial) {
        c->saved[c->saved_count++] = (zero_saved_cell_t){i, *cell};
        cell->saved = c->trial;
    }
    return cell;
}

void zero_check_trial_begin(zero_checker_t *c)
{
    c->trying = true;
    c->trial++;
    c->saved_count = 0;
}

void zero_check_trial_undo(zero_checker_t *c)
{
    for (int32_t i = 0; i < c->saved_count; i++)
        c->cells[c->saved[i].index] = c->saved[i].cell;
    c->trying = false;
}

void zero_check_did_read(zero_checker_t *c, int stream, const zero_operand_t *x)
{
    for (int32_t i = x->cells.begin; i < x->cells.end; i++) {
        zero_cell_t *cell = change(c, i);
        cell->read_time[stream] = c->clock[stream].at[stream];
        cell->readers |= (uint16_t)(1u << stream);
    }
}

void zero_check_did_write(zero_checker_t *c, int stream, const zero_operand_t *x, zero_content_t content)
{
    for (int32_t i = x->cells.begin; i < x->cells.end; i++) {
        zero_cell_t *cell = change(c, i);
        cell->content = content;
        cell->run = c->run;
        cell->writer = (uint8_t)stream;
        cell->write_time = c->clock[stream].at[stream];
        cell->readers = 0; /* the write is ordered after them */
    }
}

void zero_check_set_open(zero_checker_t *c, const zero_operand_t *x, int reads, int writes)
{
    for (int32_t i = x->cells.begin; i < x->cells.end; i++) {
        zero_cell_t *cell = change(c, i);
        cell->open_reads += (int16_t)reads;
        cell->open_writes += (int16_t)writes;
    }
}

static bool same(const zero_content_t *a, const zero_content_t *b)
{
    return a->kind == b->kind && a->dtype == b->dtype && a->state == b->state && a->reduced == b->reduced &&
           a->coded == b->coded && a->segment == b->segment && a->version == b->version && a->first == b->first &&
           a->end == b->end && a->uses == b->uses && a->skipped == b->skipped && a->base == b->base;
}

zero_status_t zero_check_content(const zero_checker_t *c, const zero_operand_t *x, zero_content_t *content)
{
    const zero_buffer_t *buffer = &c->plan->buffers[x->buffer];

    *content = (zero_content_t){.kind = ZERO_HOLDS_ZERO}; /* an operand without bytes */
    for (int32_t i = x->cells.begin; i < x->cells.end; i++) {
        const zero_content_t *here = &c->cells[i].content;
        if (i == x->cells.begin)
            *content = *here;
        if (here->kind == ZERO_HOLDS_NOTHING || (c->cells[i].in_slot && c->cells[i].run != c->run))
            return zero_check_fail(c, "it reads %s, which holds nothing", zero_check_buffer_name(c, x->buffer).s);
        if (!same(here, content))
            return zero_check_fail(c, "it reads %s, whose parts hold different contents",
                                   zero_check_buffer_name(c, x->buffer).s);
        if (here->kind != ZERO_HOLDS_ZERO &&
            (here->base != x->base ||
             (buffer->segment >= 0 && (here->dtype != buffer->format.dtype || here->segment != buffer->segment))))
            return zero_check_fail(c, "it reads %s, which holds the wrong contents",
                                   zero_check_buffer_name(c, x->buffer).s);
    }
    return ZERO_OK;
}
