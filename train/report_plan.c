/* SPDX-License-Identifier: Apache-2.0 */
/* report_plan.c - the output of --plan, and what users see of a pipeline. */
#include "train/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pipelines -------------------------------------------------------------------------------------------------- */

/* The layers of a stage: "0-3", with several chunks "0-1, 4-5". Those of an encoder come first. */
static void layers_of(const job_t *job, int64_t stage, char *text, size_t size)
{
    const int64_t layers = job->model.encoder_layers + job->model.layers;
    size_t at = 0;
    text[0] = '\0';
    for (int64_t l = 0, end; l < layers; l = end) {
        for (end = l + 1; end < layers && job->chunk_of[end] == job->chunk_of[l];)
            end++;
        if (job->chunk_of[l] % job->o.pipe != stage || at >= size)
            continue;
        at += (size_t)snprintf(text + at, size - at, "%s%lld", at > 0 ? ", " : "", (long long)l);
        if (end > l + 1 && at < size)
            at += (size_t)snprintf(text + at, size - at, "-%lld", (long long)end - 1);
    }
}

/* The share of a step's micro-steps in which a stage has nothing to compute, if all tasks take the same time. */
static double idle_of(const job_t *job)
{
    const double idle = (double)job->o.pipe - 1;
    return job->o.pipe_schedule == ZERO_SCHEDULE_NAIVE ? idle / (double)job->o.pipe
                                                       : idle / ((double)(job->o.chunks * job->micro_steps) + idle);
}

void report_pipe(const job_t *job)
{
    char text[200];
    if (job->o.pipe == 1)
        return;
    printf("pipeline: %s, %lld stages", zero_schedule_name((zero_schedule_t)job->o.pipe_schedule),
           (long long)job->o.pipe);
    if (job->o.chunks > 1)
        printf(" of %lld chunks", (long long)job->o.chunks);
    printf(", %d micro-step%s: each stage is idle for %.1f %% of a step; layers", job->micro_steps,
           job->micro_steps == 1 ? "" : "s", 100 * idle_of(job));
    for (int64_t p = 0; p < job->o.pipe; p++) {
        layers_of(job, p, text, sizeof text);
        printf("%s %s", p > 0 ? " |" : "", text);
    }
    putchar('\n');
    report_flush();
}

/* ---- the plan of each stage ------------------------------------------------------------------------------------- */

/* What a rank of a stage needs and moves. */
typedef struct stage_plan {
    zero_memory_t memory;
    zero_traffic_t traffic;
} stage_plan_t;

/* The first stage that needs the most memory. */
static const stage_plan_t *largest(const stage_plan_t *plans, int64_t count)
{
    const stage_plan_t *most = &plans[0];
    for (int64_t p = 1; p < count; p++)
        if (report_in_memory(&plans[p].memory) > report_in_memory(&most->memory))
            most = &plans[p];
    return most;
}

static uint64_t memory_of(const stage_plan_t *plan, int tier, int kind)
{
    return plan->memory.bytes[tier][kind];
}

static void row_begin(const char *name)
{
    printf("%-28s", name);
}

static void row_number(uint64_t value)
{
    printf(" %18s", report_digits(value).text);
}

static void table_of_memory(const stage_plan_t *plans, int64_t count)
{
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++) {
            char name[64];
            uint64_t any = 0;
            for (int64_t p = 0; p < count; p++)
                any |= memory_of(&plans[p], tier, kind);
            if (any == 0)
                continue;
            snprintf(name, sizeof name, "  %s (%s)", zero_kind_name((zero_kind_t)kind),
                     zero_tier_name((zero_tier_t)tier));
            row_begin(name);
            for (int64_t p = 0; p < count; p++)
                row_number(memory_of(&plans[p], tier, kind));
            putchar('\n');
        }
    row_begin("  total");
    for (int64_t p = 0; p < count; p++)
        row_number(report_total(&plans[p].memory));
    putchar('\n');
}

/* A member of the struct. */
static uint64_t bytes_at(const zero_traffic_t *t, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)t + offset, sizeof value);
    return value;
}

/* The first rows are printed even if all numbers are 0. */
enum { ALWAYS = 4 };

static void table_of_traffic(const stage_plan_t *plans, int64_t count)
{
    static const struct {
        const char *name;
        size_t offset;
    } rows[] = {{"  activations", offsetof(zero_traffic_t, activations_received)},
                {"  gradients of activations", offsetof(zero_traffic_t, gradients_received)},
                {"  gathered", offsetof(zero_traffic_t, gathered)},
                {"  reduced", offsetof(zero_traffic_t, reduced)},
                {"  collected inside layers", offsetof(zero_traffic_t, collected)},
                {"    gathered from replicas", offsetof(zero_traffic_t, replica_gathered)},
                {"    reduced from replicas", offsetof(zero_traffic_t, replica_reduced)},
                {"    gathered inside a node", offsetof(zero_traffic_t, node_gathered)},
                {"  device to host", offsetof(zero_traffic_t, to_host)},
                {"  host to device", offsetof(zero_traffic_t, to_device)},
                {"  read from nvme", offsetof(zero_traffic_t, read)},
                {"  written to nvme", offsetof(zero_traffic_t, written)}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t any = 0;
        for (int64_t p = 0; p < count; p++)
            any |= bytes_at(&plans[p].traffic, rows[i].offset);
        if (any == 0 && i >= ALWAYS)
            continue;
        row_begin(rows[i].name);
        for (int64_t p = 0; p < count; p++)
            row_number(bytes_at(&plans[p].traffic, rows[i].offset));
        putchar('\n');
    }
}

static void print_stages(const job_t *job, const stage_plan_t *plans)
{
    char text[200];
    row_begin("a rank of stage");
    for (int64_t p = 0; p < job->o.pipe; p++)
        printf(" %18lld", (long long)p);
    putchar('\n');
    row_begin("layers");
    for (int64_t p = 0; p < job->o.pipe; p++) {
        layers_of(job, p, text, sizeof text);
        printf(" %18s", text);
    }
    printf("\nbytes\n");
    table_of_memory(plans, job->o.pipe);
    printf("bytes a step, in %d micro-step%s\n", job->micro_steps, job->micro_steps == 1 ? "" : "s");
    table_of_traffic(plans, job->o.pipe);
}

/* ---- --plan ----------------------------------------------------------------------------------------------------- */

/* Prints the bytes for each parameter of the model on each tier: all kinds but activations, workspace and rings. */
static void print_parameter(const job_t *job, const zero_memory_t *forecast)
{
    const double parameters =
        (double)(zero_model_parameters(&job->model) + zero_model_adapter_parameters(&job->model, &job->lora));
    printf("bytes a parameter of a rank%s:", job->o.pipe > 1 ? " of the largest stage" : "");
    const char *before = "";
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++) {
        uint64_t bytes = 0;
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            if (kind != ZERO_KIND_ACTIVATIONS && kind != ZERO_KIND_WORKSPACE && kind != ZERO_KIND_CACHE &&
                kind != ZERO_KIND_RINGS)
                bytes += forecast->bytes[tier][kind];
        if (bytes == 0)
            continue;
        printf("%s %.2f (%s)", before, (double)bytes / parameters, zero_tier_name((zero_tier_t)tier));
        before = ",";
    }
    printf(", without activations, workspace and cache\n");
}

static void print_codecs(const job_t *job)
{
    static const char *const names[] = {"as they are", "as int8 codes", "as int4 codes"};
    const options_t *o = &job->o;
    const int64_t gather = job->copies * o->context > o->replicas ? o->gather_codec : ZERO_CODEC_NONE,
                  reduce = job->stage_ranks > 1 ? o->reduce_codec : ZERO_CODEC_NONE;
    if (gather != ZERO_CODEC_NONE || reduce != ZERO_CODEC_NONE)
        printf("layers gather parameters %s, and gradients are reduced %s (lossy)\n", names[gather], names[reduce]);
}

static void print_traffic(const job_t *job, const zero_traffic_t *t)
{
    printf("a rank receives %llu bytes a step: %llu gathered, %llu reduced, in %d micro-step%s\n",
           (unsigned long long)(t->gathered + t->reduced), (unsigned long long)t->gathered,
           (unsigned long long)t->reduced, job->micro_steps, job->micro_steps == 1 ? "" : "s");
    print_codecs(job);
    if (job->o.context > 1)
        printf("and %llu bytes of activations inside layers, from the ranks with other parts of the sequences%s\n",
               (unsigned long long)t->collected, job->o.tensor > 1 ? " or of the layers" : "");
    else if (job->o.tensor > 1)
        printf("and %llu bytes of activations inside layers, from the other %s that %s with it\n",
               (unsigned long long)t->collected, job->o.tensor > 2 ? "ranks" : "rank",
               job->o.tensor > 2 ? "compute" : "computes");
    if (job->o.replicas > 1)
        printf("%llu of them from other replicas: %llu gathered, %llu reduced; %lld replicas of %lld ranks\n",
               (unsigned long long)(t->replica_gathered + t->replica_reduced), (unsigned long long)t->replica_gathered,
               (unsigned long long)t->replica_reduced, (long long)job->o.replicas,
               job->world / (long long)job->o.replicas);
    if (job->o.node > 0)
        printf("%llu of them gathered inside a node of %lld ranks\n", (unsigned long long)t->node_gathered,
               (long long)job->o.node);
    report_tiers(t, "moves");
}

static void print_ranks(const job_t *job, const stage_plan_t *plans)
{
    const double gib = 1024.0 * 1024.0 * 1024.0;
    uint64_t memory = 0, all = 0;
    for (int64_t p = 0; p < job->o.pipe; p++) {
        memory += report_in_memory(&plans[p].memory) * (uint64_t)job->stage_ranks;
        all += report_total(&plans[p].memory) * (uint64_t)job->stage_ranks;
    }
    printf("all %d rank%s: %.3f GiB", job->world, job->world == 1 ? "" : "s", (double)memory / gib);
    if (all > memory)
        printf(", and %.3f GiB on drives", (double)(all - memory) / gib);
    putchar('\n');
}

zero_status_t report_plan(const run_t *run, zero_error_t *error)
{
    const job_t *job = run->job;
    stage_plan_t *plans = calloc((size_t)job->o.pipe, sizeof *plans);
    zero_status_t status = ZERO_OK;
    if (plans == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the forecast of %lld stages", (long long)job->o.pipe);
    for (int p = 0; p < job->o.pipe && status == ZERO_OK; p++) {
        plans[p].memory.size = sizeof plans[p].memory;
        if ((status = zero_forecast_at(run->engine, p * job->stage_ranks, &plans[p].memory)) != ZERO_OK ||
            (status = zero_forecast_traffic_at(run->engine, p * job->stage_ranks, job->micro_steps,
                                               &plans[p].traffic)) != ZERO_OK)
            run_engine_error(run, status, error);
    }
    if (status == ZERO_OK) {
        report_head(job, zero_device_label(run->place.device));
        report_pipe(job);
        if (job->o.pipe > 1) {
            print_stages(job, plans);
            print_codecs(job);
        } else
            report_memory(&plans[0].memory, NULL);
        print_parameter(job, &largest(plans, job->o.pipe)->memory);
        if (job->o.pipe == 1)
            print_traffic(job, &plans[0].traffic);
        print_ranks(job, plans);
    }
    free(plans);
    return status;
}
