/* SPDX-License-Identifier: Apache-2.0 */
#include "train/report.h"

#include <stdio.h>

static void report_rows(const char *name, const data_t *data, int64_t conversations, const lines_t *lines, bool pack)
{
    if (data != NULL && (conversations > 0 || pack))
        printf("%s: %lld %s %s %lld rows, %.1f %% of them padding\n", name, (long long)data_documents(data),
               conversations > 0 ? "conversations" : "documents", pack ? "packed in" : "in", (long long)data_rows(data),
               100 * (1 - data_fill(data)));
    if (lines->skipped > 0)
        printf("%s: %lld line%s left out, the first is %s\n", name, (long long)lines->skipped,
               lines->skipped == 1 ? "" : "s", lines->first);
}

void report_data(const job_t *job)
{
    if (job->encoder)
        printf("data: numbers of 1 to %lld digits, and their words; of those with 3 or more, one in 16 is left out\n",
               (long long)job->digits);
    report_rows("data", job->data, job->conversations[0], &job->lines[0], job->o.pack != 0);
    report_rows("evaluation data", job->eval_data, job->conversations[1], &job->lines[1], job->o.pack != 0);
    report_flush();
}
