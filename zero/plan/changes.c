/* SPDX-License-Identifier: Apache-2.0 */
/* changes.c - single changes of the table that may reduce the plan's memory. None changes results; those that cost the
 * least time come first. */
#include "zero/plan/plan.h"

#include <stdio.h>

/* ---- members ---------------------------------------------------------------------------------------------------- */

static const char *const shardings[] = {[ZERO_FULL] = "ZERO_FULL", [ZERO_SHARDED] = "ZERO_SHARDED"};
static const char *const tiers[] = {
    [ZERO_TIER_DEVICE] = "ZERO_TIER_DEVICE", [ZERO_TIER_HOST] = "ZERO_TIER_HOST", [ZERO_TIER_NVME] = "ZERO_TIER_NVME"};

#define MEMBER(member) #member, offsetof(zero_change_t, member)

/* The members of zero_config_t that a change can set. A value is an int, but offload_ratio is a double. */
static const struct {
    uint32_t bit;
    const char *name;
    size_t offset;
    const char *const *values; /* names of the values; NULL: a number */
} members[] = {
    {ZERO_CHANGE_WINDOW, MEMBER(window), NULL},
    {ZERO_CHANGE_OFFLOAD_RATIO, MEMBER(offload_ratio), NULL},
    {ZERO_CHANGE_OPTIMIZER_SHARDING, MEMBER(optimizer.sharding), shardings},
    {ZERO_CHANGE_GRADIENTS_SHARDING, MEMBER(gradients.sharding), shardings},
    {ZERO_CHANGE_PARAMETERS_SHARDING, MEMBER(parameters.sharding), shardings},
    {ZERO_CHANGE_OPTIMIZER_TIER, MEMBER(optimizer.tier), tiers},
    {ZERO_CHANGE_GRADIENTS_TIER, MEMBER(gradients.tier), tiers},
    {ZERO_CHANGE_PARAMETERS_TIER, MEMBER(parameters.tier), tiers},
};
enum { MEMBERS = sizeof members / sizeof *members };

zero_change_t zero_plan_no_change(const zero_spec_t *spec)
{
    return (zero_change_t){.size = sizeof(zero_change_t),
                           .window = spec->window,
                           .offload_ratio = spec->offload_ratio,
                           .parameters = spec->parameters,
                           .gradients = spec->gradients,
                           .optimizer = spec->optimizer};
}

/* The change from one declaration to another: it sets each member that differs. */
static zero_change_t difference(const zero_spec_t *from, const zero_spec_t *to)
{
    zero_change_t before = zero_plan_no_change(from), after = zero_plan_no_change(to);
    for (int m = 0; m < MEMBERS; m++) {
        size_t size = members[m].bit == ZERO_CHANGE_OFFLOAD_RATIO ? sizeof(double) : sizeof(int);
        if (memcmp((char *)&before + members[m].offset, (char *)&after + members[m].offset, size) != 0)
            after.sets |= members[m].bit;
    }
    return after;
}

/* ---- changes ---------------------------------------------------------------------------------------------------- */

static void raise_stage(zero_spec_t *spec, int stage)
{
    zero_row_t *rows[] = {&spec->optimizer, &spec->gradients, &spec->parameters};
    for (int i = 0; i < stage && zero_plan_copies(spec) > 1; i++)
        rows[i]->sharding = ZERO_SHARDED;
}

/* Moves rows that are nearer to the device to the tier, and what an update reads with them. */
static void move_rows(zero_spec_t *spec, bool optimizer, bool parameters, zero_tier_t tier)
{
    if (optimizer && spec->optimizer.tier < tier)
        spec->optimizer.tier = tier;
    if (parameters && spec->parameters.tier < tier)
        spec->parameters.tier = tier;
    if (optimizer && spec->gradients.tier == ZERO_TIER_DEVICE)
        spec->gradients.tier = ZERO_TIER_HOST;
}

bool zero_plan_change(const zero_spec_t *spec, int i, zero_spec_t *changed, zero_change_t *change)
{
    static const struct {
        bool optimizer, parameters;
        zero_tier_t tier;
    } moves[] = {{true, false, ZERO_TIER_HOST},
                 {false, true, ZERO_TIER_HOST},
                 {true, true, ZERO_TIER_HOST},
                 {true, false, ZERO_TIER_NVME},
                 {true, true, ZERO_TIER_NVME}};
    enum { first_stage = 2, first_move = first_stage + 3 };
    _Static_assert(first_move + 1 + sizeof moves / sizeof *moves == ZERO_CHANGES, "each change has a number");

    *changed = *spec;
    if (i < first_stage) { /* half the window, or a window of one unit */
        int window = i == 0 ? spec->window / 2 : 1;
        changed->window = window >= 1 ? window : spec->window;
    } else if (i < first_move) {
        raise_stage(changed, i - first_stage + 1);
    } else if (i == first_move) {
        changed->offload_ratio = spec->optimizer.tier != ZERO_TIER_DEVICE ? 1 : spec->offload_ratio;
    } else {
        i -= first_move + 1;
        move_rows(changed, moves[i].optimizer, moves[i].parameters, moves[i].tier);
    }
    *change = difference(spec, changed);
    return change->sets != 0;
}

/* ---- words ------------------------------------------------------------------------------------------------------ */

typedef struct value_text {
    char s[24];
} value_text_t;

/* The value of a member, as a program writes it. */
static value_text_t value_text(const zero_change_t *change, int m)
{
    value_text_t t;
    int value;
    memcpy(&value, (const char *)change + members[m].offset, sizeof value);
    if (members[m].bit == ZERO_CHANGE_OFFLOAD_RATIO)
        snprintf(t.s, sizeof t.s, "%g", change->offload_ratio);
    else if (members[m].values == NULL)
        snprintf(t.s, sizeof t.s, "%d", value);
    else
        snprintf(t.s, sizeof t.s, "%s", members[m].values[value]);
    return t;
}

/* Appends "config.a, config.b and config.c = VALUE". */
static void add_members(zero_change_text_t *t, uint32_t bits, const char *value)
{
    size_t at = strlen(t->s);
    for (int m = 0; m < MEMBERS; m++) {
        if (!(bits & members[m].bit))
            continue;
        bits &= ~members[m].bit;
        bool last = bits == 0, next_is_last = (bits & (bits - 1)) == 0;
        at += (size_t)snprintf(t->s + at, sizeof t->s - at, "config.%s%s", members[m].name,
                               last           ? ""
                               : next_is_last ? " and "
                                              : ", ");
    }
    snprintf(t->s + at, sizeof t->s - at, " = %s", value);
}

zero_change_text_t zero_change_text(const zero_change_t *change)
{
    zero_change_text_t t = {"use more ranks, smaller micro-batches or a smaller model"};
    uint32_t left = change->sets;
    for (int m = 0; m < MEMBERS; m++) {
        if (!(left & members[m].bit))
            continue;
        uint32_t alike = 0;
        value_text_t value = value_text(change, m);
        for (int k = m; k < MEMBERS; k++)
            if (left & members[k].bit && strcmp(value_text(change, k).s, value.s) == 0)
                alike |= members[k].bit;
        if (left == change->sets)
            snprintf(t.s, sizeof t.s, "set ");
        else
            snprintf(t.s + strlen(t.s), sizeof t.s - strlen(t.s), ", ");
        add_members(&t, alike, value.s);
        left &= ~alike;
    }
    return t;
}
