/* SPDX-License-Identifier: Apache-2.0 */
/* owners.c - chooses the rank that computes the update of each parameter that is updated whole. */
#include "zero/plan/build.h"

#include <stdlib.h>

/* The cost of orthogonalizing a matrix, up to a factor: products of the smaller side's square and the larger side. */
static double cost_of(const zero_spec_param_t *p)
{
    double rows = (double)p->shape[0], cols = (double)p->shape[1];
    return rows * cols * (rows < cols ? rows : cols);
}

/* The costliest parameter of a segment without an owner, the first of equals; -1: none. */
static int32_t next_of(const zero_plan_t *plan, int32_t segment)
{
    int32_t found = -1;
    for (int32_t p = 0; p < plan->spec->param_count; p++)
        if (plan->placed[p].segment == segment && plan->placed[p].owner < 0 &&
            (found < 0 || cost_of(&plan->spec->params[p]) > cost_of(&plan->spec->params[found])))
            found = p;
    return found;
}

/* Gives each parameter, the costliest first, to the rank with the least work: first in the segment, because its
 * matrices are computed in parallel, then in total. */
zero_status_t zero_build_owners(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    int copies = 2 * zero_plan_copies(b->spec); /* at most, if two stages share a segment */
    double *here = NULL, *all = NULL;
    zero_status_t status;

    if (!b->spec->whole)
        return ZERO_OK;
    if ((status = zero_build_alloc(b, &here, (size_t)copies, sizeof *here)) != ZERO_OK ||
        (status = zero_build_alloc(b, &all, (size_t)copies, sizeof *all)) != ZERO_OK)
        goto out;
    for (int32_t s = 0; s < plan->segment_count; s++) {
        if (!plan->segments[s].whole)
            continue;
        int own = (int)(plan->segments[s].elements / plan->segments[s].slice);
        memset(here, 0, (size_t)copies * sizeof *here);
        for (int32_t p = next_of(plan, s); p >= 0; p = next_of(plan, s)) {
            int least = 0;
            for (int r = 1; r < own; r++)
                if (here[r] < here[least] || (here[r] == here[least] && all[r] < all[least]))
                    least = r;
            plan->placed[p].owner = least;
            here[least] += cost_of(&b->spec->params[p]);
            all[least] += cost_of(&b->spec->params[p]);
        }
    }
out:
    free(here);
    free(all);
    return status;
}
