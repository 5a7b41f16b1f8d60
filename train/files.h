/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - checks the files that options name before the program reads or writes any. */
#ifndef TRAIN_FILES_H
#define TRAIN_FILES_H

#include "train/options.h"

/* Checks that each process can read the inputs: no input is a descriptor of this process, such as /dev/stdin. For runs
 * with several processes. */
zero_status_t files_check_shared(const options_t *options, zero_error_t *error);
/* Checks that rank 0 can write --log if this process starts the ranks. Ranks inherit no descriptors of this process
 * except output. */
zero_status_t files_check_passed(const options_t *options, zero_error_t *error);
/* Checks that --log can be created and is not an input. Does not create it. If it is a FIFO, holds it open from here
 * on. */
zero_status_t files_check_log(const options_t *options, zero_error_t *error);
/* Checks that --export can be written. Does not create it. source: where the model is read from (job_source). */
zero_status_t files_check_export(const options_t *options, const char *source, zero_error_t *error);
/* Checks the same of a rank's file of --trace (rank -1: of all ranks' files), and that it is not --log. It cannot be a
 * FIFO. */
zero_status_t files_check_trace(const options_t *options, int rank, int world, zero_error_t *error);

#endif
