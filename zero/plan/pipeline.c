/* SPDX-License-Identifier: Apache-2.0 */
/* pipeline.c - the order in which a pipeline stage does its tasks. zero_schedule_t has the sources. */
#include "zero/plan/build.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

const char *zero_schedule_name(zero_schedule_t schedule)
{
    static const char *const names[ZERO_SCHEDULES] = {
        [ZERO_SCHEDULE_1F1B] = "1f1b",
        [ZERO_SCHEDULE_GPIPE] = "gpipe",
        [ZERO_SCHEDULE_NAIVE] = "naive",
        [ZERO_SCHEDULE_INTERLEAVED] = "interleaved",
    };
    return (unsigned)schedule < ZERO_SCHEDULES ? names[schedule] : "?";
}

/* Forward tasks before the first backward task. group: micro-steps that go through a chunk one after the other. */
static int32_t warm_up(zero_schedule_t schedule, int32_t pipes, int32_t pipe, int32_t chunks, int32_t micros,
                       int32_t group)
{
    int32_t after = pipes - 1 - pipe, warm = after;
    if (schedule == ZERO_SCHEDULE_NAIVE)
        warm = 0;
    else if (schedule == ZERO_SCHEDULE_GPIPE)
        warm = micros;
    else if (chunks > 1)
        warm = 2 * after + (chunks - 1) * group;
    return warm < micros * chunks ? warm : micros * chunks;
}

/* The n-th task of a phase. Groups of micro-steps go through the first chunk, then the next one; backward tasks in the
 * opposite order of chunks. */
static zero_turn_t nth(int32_t n, zero_phase_t phase, int32_t pipes, int32_t pipe, int32_t chunks, int32_t group)
{
    int32_t round = n / (group * chunks), within = n % (group * chunks), chunk = within / group;
    if (phase == ZERO_BACKWARD)
        chunk = chunks - 1 - chunk;
    return (zero_turn_t){.chunk = chunk * pipes + pipe, .micro = round * group + within % group, .phase = phase};
}

void zero_build_turns(const zero_spec_t *spec, int pipe, zero_turn_t *turns)
{
    int32_t pipes = spec->mesh.pipe, chunks = spec->chunk_count / pipes, micros = spec->micro_steps;
    int32_t group = chunks == 1 || micros < pipes ? micros : pipes, all = micros * chunks;
    int32_t warm = warm_up(spec->schedule, pipes, pipe, chunks, micros, group);
    for (int32_t n = 0; n < all + warm; n++) {
        if (n < all)
            *turns++ = nth(n, ZERO_FORWARD, pipes, pipe, chunks, group);
        if (n >= warm)
            *turns++ = nth(n - warm, ZERO_BACKWARD, pipes, pipe, chunks, group);
    }
}

/* The state of a division of layers among stages. */
typedef struct division {
    int32_t layers, stages;
    const double *before; /* [layers + 1]: the cost of the layers before each */
    double first, last, most;
    double *best;  /* [stages + 1][layers + 1]: of the first layers on the first stages; INFINITY: impossible */
    int32_t *from; /* likewise: the first layer of the last of these stages */
} division_t;

/* Finds the best division in which no stage costs more than d->most: with the smallest largest cost, or with squares
 * the smallest sum of squares. Of equal ones, early stages have more layers. Returns its value. */
static double divide(const division_t *d, bool squares)
{
    const int32_t row = d->layers + 1;
    for (int32_t i = 0; i < (d->stages + 1) * row; i++)
        d->best[i] = INFINITY;
    d->best[0] = 0;
    for (int32_t s = 1; s <= d->stages; s++)
        for (int32_t end = s; end <= d->layers; end++)
            for (int32_t begin = end - 1; begin >= s - 1; begin--) {
                double cost =
                           d->before[end] - d->before[begin] + (s == 1 ? d->first : 0) + (s == d->stages ? d->last : 0),
                       left = d->best[(s - 1) * row + begin], all = squares ? left + cost * cost : fmax(left, cost);
                if (cost > d->most || all >= d->best[s * row + end])
                    continue;
                d->best[s * row + end] = all;
                d->from[s * row + end] = begin;
            }
    return d->best[d->stages * row + d->layers];
}

zero_status_t zero_map_even(int32_t layers, int32_t stages, const double *cost, double first, double last,
                            int32_t *stage)
{
    if (stages < 1 || layers < stages || layers > INT32_MAX / 2 / stages || stage == NULL)
        return ZERO_ERR_ARG;
    size_t cells = ((size_t)stages + 1) * ((size_t)layers + 1);
    double *before = calloc((size_t)layers + 1, sizeof *before), *best = calloc(cells, sizeof *best);
    int32_t *from = calloc(cells, sizeof *from);
    zero_status_t status = before && best && from ? ZERO_OK : ZERO_ERR_MEMORY;
    for (int32_t l = 0; l < layers && status == ZERO_OK; l++)
        before[l + 1] = before[l] + (cost ? cost[l] : 1);
    if (status == ZERO_OK) {
        division_t d = {layers, stages, before, first, last, INFINITY, best, from};
        d.most = divide(&d, false) * (1 + 1e-9);
        divide(&d, true);
        for (int32_t s = stages, end = layers; s > 0; end = from[s * (layers + 1) + end], s--)
            for (int32_t l = from[s * (layers + 1) + end]; l < end; l++)
                stage[l] = s - 1;
    }
    free(before);
    free(best);
    free(from);
    return status;
}

/* Appends "3, 5 to 7" for the layers whose count is as wanted: -1: at least two. */
static void list_layers(const int32_t *times, int32_t layers, int32_t wanted, const char *what, char *text, size_t size)
{
    bool any = false;
    for (int32_t l = 0, end; l < layers; l = end + 1) {
        size_t used = strlen(text);
        for (end = l; end < layers && (wanted < 0 ? times[end] > 1 : times[end] == wanted); end++)
            ;
        if (end == l)
            continue;
        end--;
        used += (size_t)snprintf(text + used, size - used, "%s", !any ? (used > 0 ? "; " : "") : ", ");
        if (used < size && !any)
            used += (size_t)snprintf(text + used, size - used, "%s ", what);
        if (used < size && end > l)
            snprintf(text + used, size - used, "%d to %d", l, end);
        else if (used < size)
            snprintf(text + used, size - used, "%d", l);
        any = true;
    }
}

/* Names the entries that are no layers or stages. */
static void list_unknown(int32_t layers, int32_t stages, const int32_t *layer, const int32_t *stage, int32_t count,
                         char *text, size_t size)
{
    for (int32_t i = 0; i < count; i++) {
        size_t used = strlen(text);
        if (layer[i] < 0 || layer[i] >= layers)
            snprintf(text + used, size - used, "%sthere is no layer %d (0 to %d)", used > 0 ? "; " : "", layer[i],
                     layers - 1);
        else if (stage[i] < 0 || stage[i] >= stages)
            snprintf(text + used, size - used, "%sthere is no stage %d for layer %d (0 to %d)", used > 0 ? "; " : "",
                     stage[i], layer[i], stages - 1);
    }
}

zero_status_t zero_map_check(int32_t layers, int32_t stages, const int32_t *layer, const int32_t *stage, int32_t count,
                             int32_t *stage_of, zero_error_t *error)
{
    if (layers < 1 || stages < 1 || count < 0 || (count > 0 && (layer == NULL || stage == NULL)) || stage_of == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "a map of %d layers on %d stages: both are at least 1", layers, stages);
    char text[700] = "";
    int32_t *times = calloc((size_t)layers, sizeof *times);
    if (times == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for a map of %d layers", layers);
    for (int32_t l = 0; l < layers; l++)
        stage_of[l] = -1;
    for (int32_t i = 0; i < count; i++)
        if (layer[i] >= 0 && layer[i] < layers && stage[i] >= 0 && stage[i] < stages) {
            times[layer[i]]++;
            stage_of[layer[i]] = stage[i];
        }
    list_unknown(layers, stages, layer, stage, count, text, sizeof text);
    list_layers(times, layers, 0, "it lacks layer", text, sizeof text);
    list_layers(times, layers, -1, "it has more than once layer", text, sizeof text);
    free(times);
    for (int32_t l = 0; l < layers && text[0] == '\0'; l++) {
        int32_t before = l > 0 ? stage_of[l - 1] : -1;
        if (l == 0 && stage_of[l] != 0)
            snprintf(text, sizeof text, "layer 0 is on stage %d, but stage 0 has the first layers", stage_of[l]);
        else if (stage_of[l] != before && stage_of[l] != before + 1)
            snprintf(text, sizeof text,
                     "layer %d is on stage %d, but layer %d on stage %d: stages have consecutive layers", l,
                     stage_of[l], l - 1, before);
    }
    if (text[0] == '\0' && stage_of[layers - 1] != stages - 1)
        snprintf(text, sizeof text, "stage %d has no layers", stages - 1);
    return text[0] == '\0' ? ZERO_OK : zero_fail(error, ZERO_ERR_ARG, "the map is not one: %s", text);
}
