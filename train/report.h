/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - what people read while training: progress, tables of memory and of stages. */
#ifndef TRAIN_REPORT_H
#define TRAIN_REPORT_H

#include "train/run.h"

/* Seconds of a clock that only goes forward. */
double report_clock(void);
/* Whether what was printed could not be written because the reader of standard output is gone. */
bool report_unread(void);
/* Flushes standard output; ZERO_ERR_IO where anything printed so far did not reach it. */
zero_status_t report_written(zero_error_t *error);

/* One line about what is trained, and on what: gpu is its name, "" the CPU. world ranks may be planned only. */
void report_head(const job_t *job, const char *gpu);
/* One line about what computes (zero_model_describe). */
void report_kernels(const char *text);

/* A warning where every step has the rate 0, so that nothing would be trained. */
void report_rates(const job_t *job);

/* Progress on standard output: one line that is written over on a terminal, otherwise a line about every twentieth
 * part. */
typedef struct progress {
    bool quiet, terminal;
    bool open; /* a line that the next one writes over */
    int64_t steps;
    double last; /* when a terminal was written to */
} progress_t;

void progress_step(progress_t *progress, int64_t step, double loss, double norm, double lr, double tokens_per_second);
/* A line of its own, as printf. Also ends the line that is open (format ""). */
void progress_say(progress_t *progress, const char *format, ...) ZERO_PRINTF(2, 3);

/* Bytes per kind of one rank; measured NULL: forecast alone. */
void report_memory(const zero_memory_t *forecast, const zero_memory_t *measured);
uint64_t report_total(const zero_memory_t *memory);
/* The same without what is on a drive. */
uint64_t report_in_memory(const zero_memory_t *memory);
/* "device moments 1.50 GiB, host ...": kinds in memory of at least a hundredth of the whole, largest first. */
void report_largest(const zero_memory_t *memory, char *text, size_t size);
/* Bytes a parameter of the model on each tier of a rank: of all kinds but activations, workspace and rings. */
void report_parameter(const job_t *job, const zero_memory_t *forecast);
/* The bytes of all ranks. */
void report_ranks(const job_t *job, const zero_memory_t *forecast);
/* "a rank <does> N bytes a step to ...": what goes between tiers, where anything does. */
void report_tiers(const zero_traffic_t *traffic, const char *does);

/* What --compare-stages found at one stage. */
typedef struct stage_result {
    zero_memory_t forecast, measured;    /* the largest over the ranks */
    bool memory_equal, bytes_equal;      /* on every rank */
    uint64_t bytes_planned, bytes_moved; /* received by this rank over all steps */
    double tokens_per_second;
    double *losses, *norms; /* (steps) */
    uint64_t hash;
    bool same; /* losses, norms and hash as those of the first stage, to the bit */
} stage_result_t;

void report_stages(const job_t *job, const stage_result_t results[4]);

#endif
