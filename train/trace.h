/* SPDX-License-Identifier: Apache-2.0 */
/* trace.h - --trace: what ran when, in Chrome's trace format. Each rank writes a file of its own. */
#ifndef TRAIN_TRACE_H
#define TRAIN_TRACE_H

#include "train/options.h"

/* The steps of --trace-steps, from 1, or its default: three steps after three of warm-up, or the last ones of a shorter
 * run. start: steps taken before this run. Errors name the option. */
zero_status_t trace_range(const options_t *options, int64_t start, int64_t *first, int64_t *last, zero_error_t *error);

/* The path of a rank's file: --trace itself for one rank; for several, with the rank before its ending: run.json,
 * run.0.json. False: it is longer than size. */
bool trace_path(const char *file, int rank, int world, char *path, size_t size);

/* NULL stands for no trace: the functions accept it and do nothing. */
typedef struct trace trace_t;

/* Creates the file. Without --trace *trace is NULL; with measure it then traces the default steps and writes nothing,
 * for trace_exposed. start: steps taken before this run. */
zero_status_t trace_open(trace_t **trace, const options_t *options, int rank, int world, int64_t start, bool measure,
                         zero_error_t *error);
/* Ends the file. Accepts NULL. The engine may be gone. */
zero_status_t trace_close(trace_t *trace, zero_error_t *error);

/* Before and after a step, from 1. The engine records the chosen steps only. */
zero_status_t trace_step_begin(trace_t *trace, zero_engine_t *engine, int64_t step, zero_error_t *error);
zero_status_t trace_step_end(trace_t *trace, zero_engine_t *engine, zero_error_t *error);
/* The last step was taken, perhaps before the last chosen one. */
zero_status_t trace_stop(trace_t *trace, zero_engine_t *engine, zero_error_t *error);
/* Writes what has ended so far. Call it after each run of a pass outside of steps. */
zero_status_t trace_flush(trace_t *trace, zero_engine_t *engine, zero_error_t *error);

/* The share of the traced steps for which this rank's computation waited (zero_stats_t). NaN: no step was traced. */
double trace_exposed(const trace_t *trace);

/* The time now; 0 if nothing is recorded. Work of the program itself, from begin until now, on a track of its own. */
uint64_t trace_now(const trace_t *trace);
void trace_program(trace_t *trace, const char *name, uint64_t begin);

#endif
