/* SPDX-License-Identifier: Apache-2.0 */
/* export.c - --export of train.h: the model as a Hugging Face folder. */
#include "train/report.h"
#include "train/train.h"

zero_status_t export_model(session_t *session, run_t *run, int64_t step, progress_t *progress, zero_error_t *error)
{
    const job_t *job = session->job;
    const zero_model_export_t to = {.folder = job->o.export,
                                    .source = job_source(job),
                                    .dtype = (zero_dtype_t)job->o.export_dtype,
                                    .merged = job->o.export_merged != 0};
    zero_error_t why;
    double begin = report_clock();
    zero_status_t status = zero_model_export(run->model, run->place.comm, &to, &why);
    /* the result is the same on all ranks, so rank 0 reports it */
    if (status != ZERO_OK)
        return zero_fail_from(error, run->rank == 0 ? status : ZERO_ERR_PEER, &why, "--export: %s", why.text);
    double seconds = report_clock() - begin;
    if (run->rank == 0)
        progress_say(progress, "exported the %s of step %lld in %s to %s",
                     job->lora.rank > 0 && !to.merged ? "adapters" : "model", (long long)step,
                     zero_dtype_name(to.dtype), to.folder);
    log_begin(session->log, "export");
    log_whole(session->log, "step", step);
    log_text(session->log, "path", to.folder);
    log_number(session->log, "seconds", seconds);
    return log_end(session->log, error);
}
