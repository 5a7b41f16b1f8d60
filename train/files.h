/* SPDX-License-Identifier: Apache-2.0 */
/* files.h - what can be wrong with the files that options name, before any is read or written. */
#ifndef TRAIN_FILES_H
#define TRAIN_FILES_H

#include "train/options.h"

/* That every process can read the inputs: none is a descriptor of this one, such as /dev/stdin. For runs of several. */
zero_status_t files_check_shared(const options_t *options, zero_error_t *error);
/* That rank 0 can write --log where this process starts the ranks, which have none of its descriptors but output. */
zero_status_t files_check_passed(const options_t *options, zero_error_t *error);
/* That --log can be created and is no input, without creating it. A FIFO is held open from here on. */
zero_status_t files_check_log(const options_t *options, zero_error_t *error);

#endif
