/* SPDX-License-Identifier: Apache-2.0 */
/* changes.c - single changes of the table that may reduce the plan's memory. None changes results; those that cost the
 * least time come first. */
#include "zero/plan/plan.h"

#include <stdio.h>

static bool raise_stage(zero_spec_t *spec, int stage)
{
    zero_row_t *rows[] = {&spec->optimizer, &spec->gradients, &spec->parameters};
    bool changed = false;
    for (int i = 0; i < stage && zero_plan_copies(spec) > 1; i++) {
        changed = changed || rows[i]->sharding == ZERO_FULL;
        rows[i]->sharding = ZERO_SHARDED;
    }
    return changed;
}

/* Moves rows that are nearer to the device to the tier, and what an update reads with them. */
static bool move_rows(zero_spec_t *spec, bool optimizer, bool parameters, zero_tier_t tier)
{
    zero_row_t *rows[] = {optimizer ? &spec->optimizer : NULL, parameters ? &spec->parameters : NULL};
    bool changed = false;
    for (int i = 0; i < 2; i++)
        if (rows[i] != NULL && rows[i]->tier < tier) {
            rows[i]->tier = tier;
            changed = true;
        }
    if (optimizer && spec->gradients.tier == ZERO_TIER_DEVICE) {
        spec->gradients.tier = ZERO_TIER_HOST;
        changed = true;
    }
    return changed;
}

bool zero_plan_change(const zero_spec_t *spec, int i, zero_spec_t *changed, char *text, size_t size)
{
    static const struct {
        bool optimizer, parameters;
        zero_tier_t tier;
        const char *text;
    } moves[] = {
        {true, false, ZERO_TIER_HOST, "set config.optimizer.tier and config.gradients.tier = ZERO_TIER_HOST"},
        {false, true, ZERO_TIER_HOST, "set config.parameters.tier = ZERO_TIER_HOST"},
        {true, true, ZERO_TIER_HOST,
         "set config.optimizer.tier, config.gradients.tier and config.parameters.tier = ZERO_TIER_HOST"},
        {true, false, ZERO_TIER_NVME,
         "set config.optimizer.tier = ZERO_TIER_NVME, config.gradients.tier = ZERO_TIER_HOST"},
        {true, true, ZERO_TIER_NVME,
         "set config.optimizer.tier and config.parameters.tier = ZERO_TIER_NVME, config.gradients.tier = "
         "ZERO_TIER_HOST"},
    };
    static const char *const shards[] = {
        "config.optimizer.sharding",
        "config.optimizer.sharding and config.gradients.sharding",
        "config.optimizer.sharding, config.gradients.sharding and config.parameters.sharding",
    };
    enum { first_stage = 2, first_move = first_stage + 3 };
    _Static_assert(first_move + 1 + sizeof moves / sizeof *moves == ZERO_CHANGES, "each change has a number");

    *changed = *spec;
    if (i < first_stage) { /* half the window, or a window of one unit */
        changed->window = i == 0 ? spec->window / 2 : 1;
        snprintf(text, size, "set config.window = %d", changed->window);
        return changed->window >= 1 && changed->window < spec->window;
    }
    if (i < first_move) {
        snprintf(text, size, "set %s = ZERO_SHARDED", shards[i - first_stage]);
        return raise_stage(changed, i - first_stage + 1);
    }
    if (i == first_move) {
        changed->offload_ratio = 1;
        snprintf(text, size, "set config.offload_ratio = 1");
        return spec->optimizer.tier != ZERO_TIER_DEVICE && spec->offload_ratio < 1;
    }
    i -= first_move + 1;
    snprintf(text, size, "%s", moves[i].text);
    return move_rows(changed, moves[i].optimizer, moves[i].parameters, moves[i].tier);
}
