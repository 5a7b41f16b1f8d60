/* SPDX-License-Identifier: Apache-2.0 */
/* pipe_serial.c - the training of pipe_toy.h in one loop, in double precision, with AdamW. */
#include "tests/pipe_toy.h"

#include <math.h>
#include <stdlib.h>

typedef struct serial {
    pipe_case_t c;
    double value[PIPE_ELEMENTS], grad[PIPE_ELEMENTS], m[PIPE_ELEMENTS], v[PIPE_ELEMENTS];
} serial_t;

static double *of(double *values, int param)
{
    return values + pipe_first(param);
}

/* The loss of one rank's micro-step; adds its gradients if it trains. */
static double micro_step(serial_t *s, int rank, int micro, int64_t step, bool train)
{
    static double h[PIPE_LAYERS + 1][PIPE_WIDTH];
    const int head = s->c.tied ? 0 : PIPE_PARAM_HEAD;
    const double *factors = of(s->value, PIPE_PARAM_FROZEN);
    double loss = 0;
    for (int i = 0; i < PIPE_WIDTH; i++) {
        const int token = pipe_token(i, rank, micro, step);
        h[0][i] = of(s->value, 0)[token];
        for (int l = 0; l < PIPE_LAYERS; l++)
            h[l + 1][i] =
                h[l][i] * of(s->value, PIPE_PARAM_LAYER + 2 * l)[i] * (l == 1 ? factors[i % PIPE_SCALES] : 1) +
                of(s->value, PIPE_PARAM_LAYER + 2 * l + 1)[i];
        double w = of(s->value, head)[i % PIPE_TABLE],
               d = h[PIPE_LAYERS][i] * w - (double)pipe_target(i, rank, micro, step);
        loss += 0.5 * d * d;
        if (!train)
            continue;
        of(s->grad, head)[i % PIPE_TABLE] += d * h[PIPE_LAYERS][i];
        d *= w;
        for (int l = PIPE_LAYERS - 1; l >= 0; l--) {
            const double f = l == 1 ? factors[i % PIPE_SCALES] : 1;
            if (pipe_skips(&s->c, l, micro, step))
                continue;
            of(s->grad, PIPE_PARAM_LAYER + 2 * l)[i] += d * h[l][i] * f;
            of(s->grad, PIPE_PARAM_LAYER + 2 * l + 1)[i] += d;
            d *= of(s->value, PIPE_PARAM_LAYER + 2 * l)[i] * f;
        }
        of(s->grad, 0)[token] += d;
    }
    return loss;
}

static void update(serial_t *s, int64_t step, double *norm)
{
    double sum = 0, weight = 0, scale = pipe_scale(&s->c);
    for (int r = 0; r < s->c.ranks; r++)
        weight += 1 + r;
    if (s->c.weighted)
        scale = 1.0 / 64 / weight;
    for (int i = 0; i < PIPE_ELEMENTS; i++)
        sum += s->grad[i] * s->grad[i];
    *norm = scale * sqrt(sum);
    if (*norm > PIPE_CLIP)
        scale *= PIPE_CLIP / *norm;
    for (int p = 0; p < PIPE_PARAMS; p++)
        for (int64_t i = pipe_first(p); i < pipe_first(p) + pipe_param(p).rows * pipe_param(p).cols; i++) {
            double g = scale * s->grad[i], t = (double)(step + 1);
            if (!pipe_param(p).trainable || (s->c.tied && p == PIPE_PARAM_HEAD))
                continue;
            s->m[i] = 0.9 * s->m[i] + 0.1 * g;
            s->v[i] = 0.95 * s->v[i] + 0.05 * g * g;
            s->value[i] -= pipe_rate(step) * (0.1 * s->value[i] + s->m[i] / (1 - pow(0.9, t)) /
                                                                      (sqrt(s->v[i] / (1 - pow(0.95, t))) + 1e-3));
        }
}

void pipe_serial(const pipe_case_t *c, pipe_record_t *record)
{
    serial_t *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->c = *c;
    for (int p = 0; p < PIPE_PARAMS - c->tied; p++)
        for (int64_t i = 0; i < pipe_param(p).rows * pipe_param(p).cols; i++)
            of(s->value, p)[i] = (double)pipe_initial(p, i);
    for (int64_t step = 0; step <= PIPE_STEPS; step++) {
        for (int i = 0; i < PIPE_ELEMENTS; i++)
            record->values[step][i] = (float)s->value[i];
        if (step == PIPE_STEPS)
            break;
        memset(s->grad, 0, sizeof s->grad);
        record->loss[step] = record->eval[step] = 0;
        for (int r = 0; r < c->ranks; r++)
            record->eval[step] += micro_step(s, r, 100, step, false);
        for (int r = 0; r < c->ranks; r++)
            for (int micro = 0; micro < c->micros; micro++)
                record->loss[step] += micro_step(s, r, micro, step, true);
        update(s, step, &record->norm[step]);
    }
    for (int i = 0; i < PIPE_ELEMENTS; i++) {
        record->moments[0][i] = (float)s->m[i];
        record->moments[1][i] = (float)s->v[i];
    }
    free(s);
}
