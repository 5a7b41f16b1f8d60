/* SPDX-License-Identifier: Apache-2.0 */
#include "train/report.h"

#include <stdio.h>

static void report_rows(const char *name, const data_t *data, const chat_result_t *chat, const options_t *o)
{
    if (data == NULL || (chat->conversations == 0 && !o->pack))
        return;
    printf("%s: %lld %s %s %lld rows, %.1f %% of them padding\n", name, (long long)data_documents(data),
           chat->conversations > 0 ? "conversations" : "documents", o->pack ? "packed in" : "in",
           (long long)data_rows(data), 100 * (1 - data_fill(data)));
    if (chat->skipped > 0)
        printf("%s: %lld line%s left out, the first is %s\n", name, (long long)chat->skipped,
               chat->skipped == 1 ? "" : "s", chat->first);
}

void report_data(const job_t *job)
{
    report_rows("data", job->data, &job->chats[0], &job->o);
    report_rows("evaluation data", job->eval_data, &job->chats[1], &job->o);
    report_flush();
}
