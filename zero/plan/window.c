/* SPDX-License-Identifier: Apache-2.0 */
/* window.c - which units are resident at each use, and the slots that they need.
 *
 * At a use, the unit itself and the held units are resident, then units of the following uses, until the window is
 * full. Units that are resident together get different slots, so that a unit's address never changes.
 */
#include "zero/plan/build.h"

#include <stdio.h>
#include <stdlib.h>

/* A symmetric relation on units, one bit per pair. */
typedef struct graph {
    uint64_t *bits;
    size_t words;
} graph_t;

static bool linked(const graph_t *g, int32_t a, int32_t b)
{
    return g->bits[(size_t)a * g->words + (size_t)b / 64] >> (b % 64) & 1;
}

static void link_units(graph_t *g, int32_t a, int32_t b)
{
    g->bits[(size_t)a * g->words + (size_t)b / 64] |= (uint64_t)1 << (b % 64);
    g->bits[(size_t)b * g->words + (size_t)a / 64] |= (uint64_t)1 << (a % 64);
}

/* The units that are resident at one position, in the order in which they are needed, each with the use that needs
 * it. */
typedef struct resident {
    int32_t *unit, *use, count;
} resident_t;

static bool holds(const resident_t *r, int32_t unit)
{
    for (int32_t i = 0; i < r->count; i++)
        if (r->unit[i] == unit)
            return true;
    return false;
}

static void add_resident(const zero_builder_t *b, resident_t *r, const zero_plan_pass_t *pass, int32_t use)
{
    int32_t unit = pass->uses[use].unit;
    if (!(pass->uses[use].flags & ZERO_READ) || !b->units[unit].slotted || holds(r, unit))
        return;
    r->unit[r->count] = unit;
    r->use[r->count++] = use;
}

static zero_status_t window_too_small(const zero_builder_t *b, int32_t pass, const resident_t *held, int32_t wanted)
{
    char names[600];
    size_t used = 0;
    for (int32_t i = 0; i < held->count && used < sizeof names; i++)
        used += (size_t)snprintf(names + used, sizeof names - used, "%s'%s'",
                                 i == 0                 ? ""
                                 : i + 1 == held->count ? " and "
                                                        : ", ",
                                 b->spec->units[held->unit[i]].name);
    return zero_fail(
        b->error, ZERO_ERR_ARG,
        "pass '%s' holds units %s together, more than the window of %d; the smallest window that works is %d",
        b->spec->passes[pass].name, names, b->spec->window, wanted);
}

/* The units that are held at the end of a chain of held uses [first, last]. */
static void hold_chain(const zero_builder_t *b, resident_t *r, const zero_plan_pass_t *pass, int32_t first,
                       int32_t last)
{
    r->count = 0;
    for (int32_t i = first; i <= last; i++)
        add_resident(b, r, pass, i);
}

/* Refuses a window that is too small; the error names the smallest one that serves every chain of every pass. */
static zero_status_t check_chains(const zero_builder_t *b, resident_t *r)
{
    const zero_spec_t *spec = b->spec;
    int32_t wanted = 0, worst_pass = -1, worst_first = 0, worst_last = 0;

    for (int32_t p = 0; p < spec->pass_count; p++) {
        const zero_plan_pass_t *pass = &b->plan->passes[p];
        for (int32_t first = 0, last; first < pass->use_count; first = last + 1) {
            last = b->passes[p].release_at[first];
            hold_chain(b, r, pass, first, last);
            if (r->count > wanted) {
                wanted = r->count;
                worst_pass = p;
                worst_first = first;
                worst_last = last;
            }
        }
    }
    if (wanted <= spec->window)
        return ZERO_OK;
    hold_chain(b, r, &b->plan->passes[worst_pass], worst_first, worst_last);
    return window_too_small(b, worst_pass, r, wanted);
}

/* Lists what a pass gathers before each use, and links units that are resident together. */
static void walk_pass(const zero_builder_t *b, int32_t index, resident_t *now, resident_t *before, graph_t *together)
{
    const zero_plan_pass_t *pass = &b->plan->passes[index];
    zero_pass_plan_t *plan = &b->passes[index];
    int32_t chain = 0, entered = 0;

    before->count = 0;
    for (int32_t i = 0; i < pass->use_count; i++) {
        now->count = 0;
        for (int32_t j = chain; j <= i; j++)
            add_resident(b, now, pass, j);
        for (int32_t j = i + 1; j < pass->use_count && now->count < b->spec->window; j++)
            add_resident(b, now, pass, j);
        plan->enter_begin[i] = entered;
        for (int32_t r = 0; r < now->count; r++) {
            if (holds(before, now->unit[r]))
                continue;
            plan->enter[entered] = now->unit[r];
            plan->enter_use[entered++] = now->use[r];
            for (int32_t other = 0; other < now->count; other++)
                if (other != r)
                    link_units(together, now->unit[r], now->unit[other]);
        }
        if (!(pass->uses[i].flags & ZERO_HOLD))
            chain = i + 1;
        resident_t swap = *before;
        *before = *now;
        *now = swap;
    }
    plan->enter_begin[pass->use_count] = entered;
}

/* Links units whose gradients need different slots. A unit occupies its slot from the use that opens its gradients
 * until their reduction, which may overlap the backward pass of the next window - 1 units. The last reduction of a unit
 * that stages share is at the end of the pass. */
static void link_gradients(const zero_builder_t *b, graph_t *together)
{
    const zero_plan_pass_t *pass = &b->plan->passes[b->train];

    for (int32_t i = 0; i < pass->use_count; i++) {
        int32_t u = pass->uses[i].unit, later = 0;
        if (!b->grads[i].opens || !b->units[u].grad_slot)
            continue;
        int32_t closes = b->grads[i].closes, end = b->passes[b->train].release_at[closes];
        if (zero_build_is_late(b, closes))
            end = pass->use_count;
        for (int32_t use = i; use < pass->use_count; use++) {
            int32_t v = pass->uses[use].unit;
            if (v == u || !b->units[v].grad_slot || !b->grads[use].opens)
                continue;
            if (use > end && ++later >= b->spec->window)
                break;
            link_units(together, u, v);
        }
    }
}

typedef struct candidate {
    uint64_t bytes;
    int32_t order, unit;
} candidate_t;

static int biggest_first(const void *pa, const void *pb)
{
    const candidate_t *a = pa, *b = pb;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? 1 : -1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* Assigns slots to the units with bytes > 0 by graph colouring. The biggest unit comes first, so that later ones fit
 * into any slot; equal ones are in order of use, so that a chain of layers takes no more slots than its window. Appends
 * the slots; slot_of (by unit) gets their indices. */
static zero_status_t colour(zero_builder_t *b, const graph_t *together, const uint64_t *bytes, zero_slot_t kind,
                            int32_t *slot_of)
{
    int32_t units = b->spec->unit_count, count = 0;
    candidate_t *list = NULL;
    zero_status_t status;

    if ((status = zero_build_alloc(b, &list, (size_t)units, sizeof *list)) != ZERO_OK)
        return status;
    for (int32_t u = 0; u < units; u++) {
        slot_of[u] = -1;
        if (bytes[u] > 0)
            list[count++] = (candidate_t){bytes[u], b->units[u].first_use < 0 ? INT32_MAX : b->units[u].first_use, u};
    }
    qsort(list, (size_t)count, sizeof *list, biggest_first);
    int32_t first = b->slot_count;
    for (int32_t i = 0; i < count; i++) {
        int32_t slot = first;
        for (; slot < b->slot_count; slot++) {
            bool free_slot = true;
            for (int32_t j = 0; j < i && free_slot; j++)
                free_slot = slot_of[list[j].unit] != slot || !linked(together, list[i].unit, list[j].unit);
            if (free_slot)
                break;
        }
        if (slot == b->slot_count)
            b->slots[b->slot_count++] = (zero_slot_t){.bytes = list[i].bytes, .tier = kind.tier, .kind = kind.kind};
        slot_of[list[i].unit] = slot;
    }
    free(list);
    return ZERO_OK;
}

/* Computes the bytes of each unit's buffers of a role that lie in slots, and each buffer's offset within the slot. */
static zero_status_t measure(zero_builder_t *b, zero_role_t role, uint64_t *bytes)
{
    /* Buffers that are read from files begin at pages. */
    uint64_t align = role == ZERO_ROLE_STAGED_PARAM ? ZERO_PAGE : zero_build_align(b->spec, ZERO_TIER_DEVICE);
    for (int32_t u = 0; u < b->spec->unit_count; u++) {
        bytes[u] = 0;
        for (int32_t s = b->units[u].first_segment; s < b->units[u].first_segment + b->units[u].segment_count; s++) {
            int32_t index = b->plan->segments[s].buffer[role];
            zero_buffer_t *x = index >= 0 ? &b->plan->buffers[index] : NULL;
            if (x == NULL || x->kind != (role == ZERO_ROLE_STAGED_PARAM ? ZERO_KIND_STAGING : ZERO_KIND_WINDOW))
                continue;
            x->offset = bytes[u];
            if (!zero_add_u64(bytes[u], x->bytes, &bytes[u]) || !zero_round_up(bytes[u], align, &bytes[u]))
                return zero_fail(b->error, ZERO_ERR_MEMORY, "unit '%s' needs more than 2^63 bytes",
                                 b->spec->units[u].name);
        }
    }
    return ZERO_OK;
}

/* Sets the slot of every buffer of the role that lies in one, by its unit. */
static void assign(zero_builder_t *b, zero_role_t role, const int32_t *slot_of)
{
    for (int32_t i = 0; i < b->plan->buffer_count; i++) {
        zero_buffer_t *x = &b->plan->buffers[i];
        if ((x->kind == ZERO_KIND_WINDOW || x->role == ZERO_ROLE_STAGED_PARAM) && x->role == role)
            x->slot = slot_of[b->plan->segments[x->segment].unit];
    }
}

/* Reductions use the wire buffers one after the other, and so do segments that are updated whole with their directions:
 * one slot serves all. */
static void share_wire(zero_builder_t *b)
{
    int32_t slot = -1;
    for (int32_t i = 0; i < b->plan->buffer_count; i++) {
        zero_buffer_t *x = &b->plan->buffers[i];
        if (x->kind != ZERO_KIND_WINDOW ||
            (x->role != ZERO_ROLE_WIRE && x->role != ZERO_ROLE_WHOLE && x->role != ZERO_ROLE_MATRICES))
            continue;
        if (slot < 0) {
            slot = b->slot_count++;
            b->slots[slot] = (zero_slot_t){.tier = ZERO_TIER_DEVICE, .kind = ZERO_KIND_WINDOW};
        }
        x->slot = slot;
        if (x->bytes > b->slots[slot].bytes)
            b->slots[slot].bytes = x->bytes;
    }
}

static zero_status_t alloc_pass(zero_builder_t *b, int32_t index)
{
    const zero_plan_pass_t *pass = &b->plan->passes[index];
    zero_pass_plan_t *plan = &b->passes[index];
    size_t n = (size_t)pass->use_count;
    zero_status_t status;

    if ((status = zero_build_alloc(b, &plan->enter, n, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &plan->enter_use, n, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &plan->enter_begin, n + 1, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &plan->release_at, n, sizeof(int32_t))) != ZERO_OK)
        return status;
    for (int32_t i = pass->use_count - 1; i >= 0; i--)
        plan->release_at[i] = pass->uses[i].flags & ZERO_HOLD ? plan->release_at[i + 1] : i;
    return ZERO_OK;
}

bool zero_build_gathers(const zero_pass_plan_t *plan, int32_t unit, int32_t before)
{
    for (int32_t e = 0; e < before; e++)
        if (plan->enter[e] == unit)
            return true;
    return false;
}

zero_status_t zero_build_node(zero_builder_t *b)
{
    if (zero_plan_node(b->spec) == 0 || b->train < 0)
        return ZERO_OK;
    const zero_pass_plan_t *plan = &b->passes[b->train];
    for (int32_t e = 0; e < plan->enter_begin[b->plan->passes[b->train].use_count]; e++) {
        const zero_unit_plan_t *unit = &b->units[plan->enter[e]];
        for (int32_t s = unit->first_segment; s < unit->first_segment + unit->segment_count; s++) {
            int32_t *buffer = &b->plan->segments[s].buffer[ZERO_ROLE_NODE_SHARD];
            if (*buffer >= 0 || !zero_build_gathers(plan, plan->enter[e], e))
                continue;
            int32_t codes = b->plan->segments[s].buffer[ZERO_ROLE_PARAM_CODES];
            zero_status_t status = zero_build_buffer(b, s, ZERO_ROLE_NODE_SHARD, ZERO_KIND_PARAMETERS, ZERO_TIER_DEVICE,
                                                     codes >= 0 ? b->plan->buffers[codes].format
                                                                : zero_format_plain(b->plan->segments[s].dtype),
                                                     b->plan->segments[s].node, buffer);
            if (status != ZERO_OK)
                return status;
            b->plan->buffers[*buffer].own = ZERO_EXTENT_NODE;
        }
    }
    return ZERO_OK;
}

zero_status_t zero_build_window(zero_builder_t *b)
{
    const zero_slot_t on_device = {.tier = ZERO_TIER_DEVICE, .kind = ZERO_KIND_WINDOW},
                      in_memory = {.tier = ZERO_TIER_HOST, .kind = ZERO_KIND_STAGING};
    size_t units = (size_t)b->spec->unit_count;
    graph_t together = {.words = units / 64 + 1};
    resident_t now = {0}, before = {0};
    uint64_t *bytes = NULL;
    int32_t *slot_of = NULL;
    zero_status_t status;

    if ((status = zero_build_alloc(b, &together.bits, units * together.words, sizeof(uint64_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &now.unit, units, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &now.use, units, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &before.unit, units, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &before.use, units, sizeof(int32_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &bytes, units, sizeof(uint64_t))) != ZERO_OK ||
        (status = zero_build_alloc(b, &slot_of, units, sizeof(int32_t))) != ZERO_OK)
        goto out;
    for (int32_t p = 0; p < b->spec->pass_count; p++)
        if ((status = alloc_pass(b, p)) != ZERO_OK)
            goto out;
    if ((status = check_chains(b, &now)) != ZERO_OK)
        goto out;
    for (int32_t p = 0; p < b->spec->pass_count; p++)
        walk_pass(b, p, &now, &before, &together);
    if ((status = measure(b, ZERO_ROLE_PARAM, bytes)) != ZERO_OK ||
        (status = colour(b, &together, bytes, on_device, slot_of)) != ZERO_OK)
        goto out;
    assign(b, ZERO_ROLE_PARAM, slot_of);
    if ((status = measure(b, ZERO_ROLE_STAGED_PARAM, bytes)) != ZERO_OK ||
        (status = colour(b, &together, bytes, in_memory, slot_of)) != ZERO_OK)
        goto out;
    assign(b, ZERO_ROLE_STAGED_PARAM, slot_of);

    memset(together.bits, 0, units * together.words * sizeof(uint64_t));
    if ((status = measure(b, ZERO_ROLE_GRAD, bytes)) != ZERO_OK)
        goto out;
    for (size_t u = 0; u < units; u++)
        b->units[u].grad_slot = bytes[u] > 0;
    if (b->train >= 0)
        link_gradients(b, &together);
    if ((status = colour(b, &together, bytes, on_device, slot_of)) != ZERO_OK)
        goto out;
    assign(b, ZERO_ROLE_GRAD, slot_of);
    share_wire(b);
out:
    free(together.bits);
    free(now.unit);
    free(now.use);
    free(before.unit);
    free(before.use);
    free(bytes);
    free(slot_of);
    return status;
}
