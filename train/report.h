/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - output for users before and after training: the head, tables of memory and of stages. */
#ifndef TRAIN_REPORT_H
#define TRAIN_REPORT_H

#include "train/run.h"

/* Seconds of a monotonic clock. */
double report_clock(void);
/* Whether output was lost because the reader of standard output is gone. */
bool report_unread(void);
/* Flushes standard output. report_written tells whether that ever failed. */
void report_flush(void);
/* Flushes standard output. ZERO_ERR_IO if any earlier output was lost. */
zero_status_t report_written(zero_error_t *error);

/* 1234567 as "1,234,567". */
typedef struct report_digits {
    char text[32];
} report_digits_t;
report_digits_t report_digits(uint64_t value);

/* Prints one line about the model and the device. gpu: its name, "" for the CPU. The world ranks may exist in a plan
 * only. */
void report_head(const job_t *job, const char *gpu);
/* Prints what is trained and what is frozen, of a model with adapters. */
void report_adapters(const job_t *job);
/* Prints a line about conversations and packed rows, if there are any. */
void report_data(const job_t *job);
/* Prints one line about the kernels (zero_model_describe). */
void report_kernels(const char *text);

/* Prints a warning if all steps have the rate 0, since such a run trains nothing. */
void report_rates(const job_t *job);

/* Prints the bytes of each kind on one rank. measured NULL: only the forecast. */
void report_memory(const zero_memory_t *forecast, const zero_memory_t *measured);
uint64_t report_total(const zero_memory_t *memory);
/* The same without the bytes on a drive. */
uint64_t report_in_memory(const zero_memory_t *memory);
/* "device moments 1.50 GiB, host ...": the kinds in memory that take at least a hundredth of the total, largest first.
 */
void report_largest(const zero_memory_t *memory, char *text, size_t size);
/* Prints one line about the stages of a pipeline, if there is one: schedule, idle time, layers of each. */
void report_pipe(const job_t *job);
/* Prints --plan: memory and traffic of a rank, of a pipeline those of a rank of each stage. */
zero_status_t report_plan(const run_t *run, zero_error_t *error);
/* Prints "a rank <does> N bytes a step to ...": the traffic between tiers, if there is any. */
void report_tiers(const zero_traffic_t *traffic, const char *does);

/* The numbers of a run that ended. */
typedef struct summary {
    int64_t steps;
    double tokens, seconds; /* of all steps */
    double mfu, exposed;    /* exposed: seconds. Not finite: unknown */
    const zero_memory_t *measured;
    bool equal; /* the forecast, on each rank */
} summary_t;

void report_summary(const summary_t *summary);
/* Prints "saved: path" as a line of the summary. */
void report_saved(const char *path);

/* The results of --compare-stages at one stage. */
typedef struct stage_result {
    zero_memory_t forecast, measured;    /* the largest over the ranks */
    bool memory_equal, bytes_equal;      /* on all ranks */
    uint64_t bytes_planned, bytes_moved; /* received by this rank over all steps */
    double tokens_per_second;
    double *losses, *norms; /* (steps) */
    uint64_t hash;
    bool same; /* losses, norms and hash equal those of the first stage, to the bit */
} stage_result_t;

void report_stages(const job_t *job, const stage_result_t results[4]);

#endif
