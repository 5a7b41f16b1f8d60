/* SPDX-License-Identifier: Apache-2.0 */
#include "train/progress.h"
#include "train/report.h"
#include "train/terminal.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REDRAW_S 0.1 /* the shortest time between two drawings */
#define MEMORY_S 20. /* time constant of the rate: a step this long ago has 1/e of the weight of the last one */

enum { BAR_LEAST = 12, BAR_MOST = 42, BAR_TEXT = 256 };

/* Whether a bar is on the line of the cursor. Global, because any thread may have to erase it before its output. */
static atomic_bool bar_shown;

/* ---- the bar ---------------------------------------------------------------------------------------------------- */

/* 42 s as "0:42", longer times as "1:02:33" and "2d 03:04:05". */
static void duration(double seconds, char *text, size_t size)
{
    const long long s = (long long)seconds, day = 24 * 60 * 60;
    if (s >= day)
        snprintf(text, size, "%lldd %02lld:%02lld:%02lld", s / day, s % day / 3600, s / 60 % 60, s % 60);
    else if (s >= 3600)
        snprintf(text, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(text, size, "%lld:%02lld", s / 60, s % 60);
}

void progress_draw(const progress_bar_t *b, int columns, char *text, size_t size)
{
    enum { GAUGE = 0, COUNT, LOSS, SPEED, RATE, LEFT, FIELDS };
    static const int by_importance[FIELDS] = {COUNT, LOSS, LEFT, GAUGE, SPEED, RATE};
    char field[FIELDS][48] = {{0}}, gauge[BAR_MOST + 1], time[40], last[24];
    bool shown[FIELDS] = {false};
    size_t room = columns > 1 ? (size_t)columns - 1 : 0, used = 0, at = 0;
    room = room < size - 1 ? room : size - 1;
    /* each number has the width of its largest value, so that the bar does not jump */
    const int digits = snprintf(last, sizeof last, "%lld", (long long)b->steps);
    snprintf(field[COUNT], sizeof field[COUNT], "%*lld/%s", digits, (long long)b->step, last);
    snprintf(field[LOSS], sizeof field[LOSS], "loss %.4f", b->loss);
    snprintf(field[SPEED], sizeof field[SPEED], "%6.0f tokens/s", b->tokens_per_second);
    snprintf(field[RATE], sizeof field[RATE], "lr %-8.3g", b->lr);
    if (isfinite(b->left) && b->left < 1e9) {
        duration(b->left, time, sizeof time);
        snprintf(field[LEFT], sizeof field[LEFT], "%7s left", time);
    }
    for (int i = 0; i < FIELDS; i++) {
        const int f = by_importance[i];
        const size_t length = f == GAUGE ? BAR_LEAST : strlen(field[f]), gap = used > 0 ? 2 : 0;
        if (length == 0)
            continue;
        if (used + gap + length > room)
            break;
        shown[f] = true;
        used += gap + length;
    }
    if (shown[GAUGE]) {
        const size_t free_columns = room - used, most = BAR_MOST - BAR_LEAST;
        const int inner = BAR_LEAST + (int)(free_columns < most ? free_columns : most) - 2;
        const int full = b->steps > 0 ? (int)((double)inner * (double)b->step / (double)b->steps) : inner;
        for (int i = 0; i < inner; i++)
            gauge[i] = i < full ? '=' : i == full ? '>' : ' ';
        gauge[inner] = '\0';
        snprintf(field[GAUGE], sizeof field[GAUGE], "[%s]", gauge);
    }
    text[0] = '\0';
    for (int f = 0; f < FIELDS; f++)
        if (shown[f])
            at += (size_t)snprintf(text + at, size - at, "%s%s", at > 0 ? "  " : "", field[f]);
}

/* ---- on the terminal -------------------------------------------------------------------------------------------- */

void progress_clear(void)
{
    if (atomic_exchange(&bar_shown, false))
        terminal_erase(STDOUT_FILENO);
}

void progress_begin(progress_t *p, const job_t *job, const launch_t *launch, bool first)
{
    *p = (progress_t){.quiet = job->o.quiet,
                      .launch = launch,
                      .first = job->first,
                      .steps = job->o.steps,
                      .tokens = (double)job->o.batch * (double)job->o.seq_len};
    /* without a parent that forwards all output, this rank may share the terminal with rank 0's bar */
    if (!first && !p->quiet && launch == NULL && launch_columns(NULL) > 0)
        atomic_store(&bar_shown, true);
}

/* Adds a step to the rate. The time between the ends of two steps contains evaluations, as the rest of the run will.
 * The first step has no such time: it is longer than the others. */
static void count_step(progress_t *p, double now)
{
    if (p->ended > 0) {
        const double took = now - p->ended, kept = exp(-took / MEMORY_S);
        p->counted = p->counted * kept + 1;
        p->spent = p->spent * kept + took;
    }
    p->ended = now;
}

void progress_step(progress_t *p, int64_t step, double loss, double norm, double lr, double seconds)
{
    const double now = report_clock();
    const int64_t part = p->steps / 20 > 1 ? p->steps / 20 : 1;
    const bool due = now - p->drawn >= REDRAW_S, wanted = step == p->first + 1 || step % part == 0;
    char text[BAR_TEXT];
    if (p->quiet)
        return;
    count_step(p, now);
    snprintf(p->last, sizeof p->last, "step %lld/%lld  loss %.4f  norm %.3g%s  lr %.3g  %.0f tokens/s", (long long)step,
             (long long)p->steps, loss, fabs(norm), isfinite(norm) ? "" : " (skipped)", lr, p->tokens / seconds);
    const int columns = step == p->steps ? 0 : due || wanted ? launch_columns(p->launch) : -1;
    if (columns > 0 && due) {
        const double each = p->counted > 0 ? p->spent / p->counted : seconds;
        const progress_bar_t bar = {.step = step,
                                    .steps = p->steps,
                                    .loss = loss,
                                    .lr = lr,
                                    .tokens_per_second = p->tokens / each,
                                    .left = each * (double)(p->steps - step)};
        progress_draw(&bar, columns, text, sizeof text);
        printf("\r%s\033[K", text);
        atomic_store(&bar_shown, true);
        report_flush();
        p->drawn = now;
    } else if (columns == 0 && (wanted || step == p->steps)) {
        progress_end(p);
    }
}

void progress_say(progress_t *p, const char *format, ...)
{
    va_list arguments;
    if (p->quiet)
        return;
    progress_clear();
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    report_flush();
}

void progress_end(progress_t *p)
{
    progress_clear();
    if (p->last[0] != '\0')
        puts(p->last);
    p->last[0] = '\0';
    report_flush();
}
