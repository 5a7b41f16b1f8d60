/* SPDX-License-Identifier: Apache-2.0 */
#include "train/report.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double report_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

bool report_unread(void)
{
    struct pollfd out = {.fd = STDOUT_FILENO};
    return ferror(stdout) && poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

/* errno of the first flush that failed */
static int flush_failure;

void report_flush(void)
{
    if (fflush(stdout) != 0 && flush_failure == 0)
        flush_failure = errno;
}

zero_status_t report_written(zero_error_t *error)
{
    report_flush();
    if (!ferror(stdout))
        return ZERO_OK;
    if (flush_failure == 0) {
        /* An earlier print failed, and its errno is lost. One more byte fails for the same reason. */
        putchar('\n');
        report_flush();
    }
    return zero_fail(error, ZERO_ERR_IO, "cannot write standard output: %s",
                     strerror(flush_failure != 0 ? flush_failure : EIO));
}

report_digits_t report_digits(uint64_t value)
{
    char plain[24];
    report_digits_t d;
    int n = snprintf(plain, sizeof plain, "%llu", (unsigned long long)value), at = 0;
    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            d.text[at++] = ',';
        d.text[at++] = plain[i];
    }
    d.text[at] = '\0';
    return d;
}

void report_head(const job_t *job, const char *gpu)
{
    const options_t *o = &job->o;
    char encoder[32] = "";
    if (job->encoder)
        snprintf(encoder, sizeof encoder, "%lld + ", (long long)job->model.encoder_layers);
    printf("%s: %s parameters, %s%lld layers, width %lld; %d rank%s x %lld thread%s%s%s, ", o->model,
           report_digits((uint64_t)zero_model_parameters(&job->model)).text, encoder, (long long)job->model.layers,
           (long long)job->model.width, job->world, job->world == 1 ? "" : "s", (long long)o->threads,
           o->threads == 1 ? "" : "s", gpu[0] != '\0' ? " on " : "", gpu);
    if (o->compare_stages)
        printf("stages 0 to 3");
    else
        printf("stage %lld", (long long)o->stage);
    if (o->tensor > 1)
        printf(", layers over %lld ranks", (long long)o->tensor);
    if (o->context > 1)
        printf(", sequences over %lld", (long long)o->context);
    if (o->replicas > 1)
        printf(", %lld replicas", (long long)o->replicas);
    printf(", %s; %lld step%s of %lld sequences of %lld tokens\n", zero_dtype_name((zero_dtype_t)o->dtype),
           (long long)o->steps, o->steps == 1 ? "" : "s", (long long)o->batch, (long long)o->seq_len);
    report_adapters(job);
    report_flush();
}

void report_adapters(const job_t *job)
{
    const options_t *o = &job->o;
    const double mib = 1024.0 * 1024.0, bytes = (double)zero_dtype_size((zero_dtype_t)o->dtype);
    const int64_t base = zero_model_parameters(&job->model),
                  adapters = zero_model_adapter_parameters(&job->model, &job->lora);
    if (job->lora.rank == 0)
        return;
    printf("trained: %s parameters of adapters (rank %lld, alpha %g, of %s), %.2f MiB; ",
           report_digits((uint64_t)adapters).text, (long long)job->lora.rank, job->lora.alpha, o->lora_targets,
           (double)adapters * bytes / mib);
    printf("frozen: %s parameters, %.2f MiB\n", report_digits((uint64_t)base).text, (double)base * bytes / mib);
    report_flush();
}

void report_rates(const job_t *job)
{
    const schedule_t *s = &job->schedule;
    /* a schedule is 0 between its first and its last step only if it is 0 at both */
    if (s->steps == 0 || schedule_rate(s, 1) != 0 || schedule_rate(s, s->steps) != 0)
        return;
    if (s->lr == 0)
        fprintf(stderr, "zero_train: warning: nothing is trained, because --lr is 0\n");
    else
        fprintf(
            stderr,
            "zero_train: warning: nothing is trained, because the rate of every step is 0: --schedule ends at "
            "--min-lr, which is 0, and --steps is %lld; use --schedule constant, a --min-lr above 0, or more --steps\n",
            (long long)s->steps);
}

void report_kernels(const char *text)
{
    printf("kernels: %s\n", text);
    fflush(stdout);
}

/* ---- tables ----------------------------------------------------------------------------------------------------- */

uint64_t report_total(const zero_memory_t *memory)
{
    uint64_t total = 0;
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            total += memory->bytes[tier][kind];
    return total;
}

uint64_t report_in_memory(const zero_memory_t *memory)
{
    uint64_t total = report_total(memory);
    for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
        total -= memory->bytes[ZERO_TIER_NVME][kind];
    return total;
}

void report_largest(const zero_memory_t *memory, char *text, size_t size)
{
    zero_memory_t left = *memory;
    uint64_t least = report_in_memory(memory) / 100;
    size_t at = 0;
    text[0] = '\0';
    while (at < size) {
        int t = 0, k = 0;
        for (int tier = 0; tier < ZERO_TIER_NVME; tier++)
            for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
                if (left.bytes[tier][kind] > left.bytes[t][k])
                    t = tier, k = kind;
        if (left.bytes[t][k] <= least)
            return;
        double mib = (double)left.bytes[t][k] / (1024.0 * 1024.0);
        at += (size_t)snprintf(text + at, size - at, "%s%s %s %.2f %s", at > 0 ? ", " : "",
                               zero_tier_name((zero_tier_t)t), zero_kind_name((zero_kind_t)k),
                               mib < 1024 ? mib : mib / 1024, mib < 1024 ? "MiB" : "GiB");
        left.bytes[t][k] = 0;
    }
}

/* Whether a row has bytes to show. */
static bool any(const zero_memory_t *a, const zero_memory_t *b, int tier, int kind)
{
    return a->bytes[tier][kind] > 0 || (b != NULL && b->bytes[tier][kind] > 0);
}

static void memory_row(const char *name, uint64_t forecast, const uint64_t *measured)
{
    printf("%-28s %18s", name, report_digits(forecast).text);
    if (measured != NULL)
        printf(" %18s", report_digits(*measured).text);
    putchar('\n');
}

void report_memory(const zero_memory_t *forecast, const zero_memory_t *measured)
{
    uint64_t total = measured != NULL ? report_total(measured) : 0;
    printf("%-28s %18s%s\n", "bytes of a rank", "forecast", measured != NULL ? "           measured" : "");
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++) {
            char name[64];
            snprintf(name, sizeof name, "  %s (%s)", zero_kind_name((zero_kind_t)kind),
                     zero_tier_name((zero_tier_t)tier));
            if (any(forecast, measured, tier, kind))
                memory_row(name, forecast->bytes[tier][kind], measured != NULL ? &measured->bytes[tier][kind] : NULL);
        }
    memory_row("  total", report_total(forecast), measured != NULL ? &total : NULL);
    if (measured != NULL)
        printf("%-28s %18s %18s\n", "  outside (code, libraries)", "", report_digits(measured->external).text);
    report_flush();
}

void report_tiers(const zero_traffic_t *t, const char *does)
{
    if (t->to_host + t->to_device > 0)
        printf("a rank %s %s bytes a step to host memory and %s back\n", does, report_digits(t->to_host).text,
               report_digits(t->to_device).text);
    if (t->read + t->written > 0)
        printf("a rank %s %s bytes a step from nvme and %s back\n", does, report_digits(t->read).text,
               report_digits(t->written).text);
}

/* ---- the summary ------------------------------------------------------------------------------------------------ */

static void summary_name(const char *name)
{
    printf("%-9s ", name);
}

static void summary_memory(const summary_t *s)
{
    const char *before = "";
    summary_name("memory:");
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++) {
        uint64_t bytes = 0;
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            bytes += s->measured->bytes[tier][kind];
        if (bytes == 0)
            continue;
        const double kib = (double)bytes / 1024;
        const int power = kib < 1024 ? 0 : kib < 1024 * 1024 ? 1 : 2;
        printf("%s%s %.2f %ciB", before, zero_tier_name((zero_tier_t)tier), kib / (double)(UINT64_C(1) << 10 * power),
               "KMG"[power]);
        before = ", ";
    }
    printf(" (the largest rank), %s\n", s->equal ? "as forecast" : "NOT as forecast");
}

void report_summary(const summary_t *s)
{
    summary_name("steps:");
    printf("%s, %s tokens\n", report_digits((uint64_t)s->steps).text, report_digits((uint64_t)s->tokens).text);
    if (s->seconds > 0) {
        summary_name("time:");
        printf("%.*f s\n", s->seconds < 100 ? 2 : 0, s->seconds);
        summary_name("speed:");
        printf("%s tokens/s", report_digits((uint64_t)(s->tokens / s->seconds + 0.5)).text);
        if (isfinite(s->mfu))
            printf(", MFU %.3f", s->mfu);
        putchar('\n');
        if (isfinite(s->exposed)) {
            summary_name("exposed:");
            printf("%.1f %% of the time, in communication, copies and updates that nothing hides\n",
                   100 * s->exposed / s->seconds);
        }
    }
    summary_memory(s);
    report_flush();
}

void report_saved(const char *path)
{
    summary_name("saved:");
    printf("%s\n", path);
    report_flush();
}

void report_stages(const job_t *job, const stage_result_t results[4])
{
    printf("\n%-26s", "");
    for (int s = 0; s < 4; s++)
        printf(" %28s %d", "stage", s);
    printf("\n%-26s", "bytes of a rank");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15s", "forecast", "measured");
    putchar('\n');
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++) {
            char name[64];
            bool shown = false;
            for (int s = 0; s < 4; s++)
                shown = shown || any(&results[s].forecast, &results[s].measured, tier, kind);
            if (!shown)
                continue;
            snprintf(name, sizeof name, "  %s (%s)", zero_kind_name((zero_kind_t)kind),
                     zero_tier_name((zero_tier_t)tier));
            printf("%-26s", name);
            for (int s = 0; s < 4; s++)
                printf(" %14s %15s", report_digits(results[s].forecast.bytes[tier][kind]).text,
                       report_digits(results[s].measured.bytes[tier][kind]).text);
            putchar('\n');
        }
    printf("%-26s", "  total");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15s", report_digits(report_total(&results[s].forecast)).text,
               report_digits(report_total(&results[s].measured)).text);
    printf("\n%-26s", "  the same on every rank");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15s", "", results[s].memory_equal ? "yes" : "NO");
    printf("\n%-26s", "bytes received");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15s", report_digits(results[s].bytes_planned).text, report_digits(results[s].bytes_moved).text);
    printf("\n%-26s", "tokens/s");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15.0f", "", results[s].tokens_per_second);
    printf("\n%-26s", "last loss");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15.9g", "", results[s].losses[job->o.steps - 1]);
    printf("\n%-26s", "parameters (xxh64)");
    for (int s = 0; s < 4; s++)
        printf("               %016llx", (unsigned long long)results[s].hash);
    printf("\n%-26s", "same bits as stage 0");
    for (int s = 0; s < 4; s++)
        printf(" %14s %15s", "", results[s].same ? "yes" : "NO");
    putchar('\n');
    report_flush();
}
