/* SPDX-License-Identifier: Apache-2.0 */
/* save.h - checkpoints of a run: loading one, and saving while training goes on. A save that fails does not end the
 * run. Every function is collective. */
#ifndef TRAIN_SAVE_H
#define TRAIN_SAVE_H

#include "train/train.h"

/* Loads the checkpoint of --resume, if there is one, and opens the folder of --save. Tells the user where training
 * begins. */
zero_status_t save_open(session_t *session, run_t *run, progress_t *progress, zero_error_t *error);

/* Before a step: asks all ranks to save after it, if --save-every has a time and that is over on rank 0. */
void save_ask(const session_t *session, run_t *run);

/* After a step: ends the save that runs, if all of it is written, and begins one if it is due. */
zero_status_t save_step(session_t *session, run_t *run, progress_t *progress, int64_t step, zero_error_t *error);

/* After the last step: ends the save that runs, and saves this step unless that was just done. */
zero_status_t save_last(session_t *session, run_t *run, progress_t *progress, int64_t step, zero_error_t *error);

#endif
