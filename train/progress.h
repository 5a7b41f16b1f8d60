/* SPDX-License-Identifier: Apache-2.0 */
/* progress.h - the output of rank 0 during training: on a terminal, a bar on one line, which is erased before other
 * output; otherwise about twenty lines, one after each twentieth of the steps. */
#ifndef TRAIN_PROGRESS_H
#define TRAIN_PROGRESS_H

#include "train/job.h"
#include "train/launch.h"

typedef struct progress {
    bool quiet;
    const launch_t *launch;
    int64_t first, steps;  /* first: taken before this run */
    double tokens;         /* of a step */
    double drawn;          /* when the bar was last drawn */
    double ended;          /* when the last step ended; 0: none has */
    double counted, spent; /* steps and their seconds, older ones with less weight */
    char last[160];        /* the line of the last step; "": it was printed */
} progress_t;

/* first: this is rank 0, the only one that may call the functions below, except progress_clear. launch may be NULL. */
void progress_begin(progress_t *progress, const job_t *job, const launch_t *launch, bool first);
/* A step ended. seconds: its duration. */
void progress_step(progress_t *progress, int64_t step, double loss, double norm, double lr, double seconds);
/* Prints a line of its own, as printf. */
void progress_say(progress_t *progress, const char *format, ...) ZERO_PRINTF(2, 3);
/* Replaces the bar by the line of the last step. */
void progress_end(progress_t *progress);

/* Erases the bar, if there is one. Call it before any other output. Any thread may call it. */
void progress_clear(void);

/* The numbers of a bar. */
typedef struct progress_bar {
    int64_t step, steps;
    double loss, lr, tokens_per_second;
    double left; /* seconds; not finite: unknown */
} progress_bar_t;

/* Writes the bar for a terminal of this width: at most columns - 1 characters. Omits fields that do not fit, the least
 * important first. */
void progress_draw(const progress_bar_t *bar, int columns, char *text, size_t size);

#endif
