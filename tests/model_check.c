/* SPDX-License-Identifier: Apache-2.0 */
/* model_check.c - see model_check.h. */
#include "tests/model_check.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *describe(const model_case_t *c)
{
    static char text[300];

    snprintf(
        text, sizeof text,
        "%s: %d ranks, stage %d, micro-batch %d, recompute %d, window %d, reduce %s, %s, persist %d, %s, head %d x %d, "
        "tiles of %d, %d threads, tensor %d%s, context %d, pipe %d",
        c->golden->name, c->world, c->stage, (int)c->micro_batch, (int)c->recompute, c->window,
        c->reduce == ZERO_REDUCE_EVERY ? "every" : "last", c->threaded ? "threaded" : "inline", (int)c->persist_bytes,
        c->backend, (int)c->head_rows, (int)c->head_columns, (int)c->tile_bytes, c->threads, c->tensor,
        c->whole_rows ? " with whole rows" : "", c->context, c->pipe);
    return text;
}

static void check_close(const model_case_t *c, const char *what, int step, double found, double wanted,
                        double tolerance)
{
    ck_assert_msg(fabs(found - wanted) <= tolerance * fabs(wanted), "%s: %s %d is %.17g, PyTorch's is %.17g",
                  describe(c), what, step, found, wanted);
}

/* The case against PyTorch's numbers. */
static void check_golden(const model_case_t *c, const model_result_t *r)
{
    const model_golden_t *g = c->golden;
    const double tolerance = g->tolerance;

    check_close(c, "evaluation", 0, r->eval_before, g->eval_before, tolerance);
    for (int s = 0; s < c->steps; s++) {
        check_close(c, "loss", s + 1, r->losses[s], g->losses[s], tolerance);
        check_close(c, "norm", s + 1, r->norms[s], g->norms[s], tolerance);
    }
    if (c->steps == g->steps)
        check_close(c, "evaluation", c->steps, r->eval_after, g->eval_after, tolerance);
}

/* Runs the case. Every element must have one owner. */
static void run(const model_case_t *c, model_result_t *r)
{
    ck_assert_msg(model_run(c, r) == 0, "%s: a rank failed", describe(c));
    ck_assert_msg(r->same_on_ranks, "%s: ranks saw different numbers", describe(c));
    for (int64_t i = 0; i < r->params; i++)
        ck_assert_msg(r->owners[i] == 1, "%s: element %d was read from %d ranks", describe(c), (int)i, r->owners[i]);
}

void model_check_run(const model_case_t *c, model_result_t *r)
{
    run(c, r);
    check_golden(c, r);
}

static void check_near(const model_case_t *c, const char *what, int64_t i, double found, double wanted, double least,
                       double tolerance)
{
    ck_assert_msg(fabs(found - wanted) <= tolerance * fmax(fabs(wanted), least),
                  "%s: %s %d is %.9g, in the other run it is %.9g", describe(c), what, (int)i, found, wanted);
}

void model_check_near(const model_case_t *c, model_result_t *r, const model_result_t *base, double tolerance)
{
    run(c, r);
    if (base == NULL)
        return;
    for (int s = 0; s < c->steps; s++) {
        check_near(c, "loss", s + 1, r->losses[s], base->losses[s], 0, tolerance);
        check_near(c, "norm", s + 1, r->norms[s], base->norms[s], 0, tolerance);
    }
    check_near(c, "evaluation", 0, r->eval_before, base->eval_before, 0, tolerance);
    check_near(c, "evaluation", c->steps, r->eval_after, base->eval_after, 0, tolerance);
    ck_assert_int_eq(r->params, base->params);
    for (int64_t i = 0; i < r->params; i++) /* the values of most weights are about 0.1 */
        check_near(c, "element", i, r->values[i], base->values[i], 0.1, tolerance);
}

/* Every loss, norm and parameter has the same bits. */
void model_check_same(const model_case_t *c, const model_result_t *r, const model_result_t *base)
{
    for (int s = 0; s < c->steps; s++) {
        ck_assert_msg(memcmp(&r->losses[s], &base->losses[s], sizeof(double)) == 0,
                      "%s: loss %d is %.17g, at stage 0 it is %.17g", describe(c), s + 1, r->losses[s],
                      base->losses[s]);
        ck_assert_msg(memcmp(&r->norms[s], &base->norms[s], sizeof(double)) == 0,
                      "%s: norm %d is %.17g, at stage 0 it is %.17g", describe(c), s + 1, r->norms[s], base->norms[s]);
    }
    ck_assert_msg(r->eval_before == base->eval_before && r->eval_after == base->eval_after,
                  "%s: evaluations differ from stage 0's", describe(c));
    ck_assert_msg(r->params == base->params && memcmp(r->values, base->values, (size_t)r->params * sizeof(float)) == 0,
                  "%s: parameters differ from stage 0's", describe(c));
}
