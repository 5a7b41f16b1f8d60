/* SPDX-License-Identifier: Apache-2.0 */
/* mesh.h - the options that divide the ranks: pipelines, tensor parallelism, replicas, nodes, and codecs. */
#ifndef TRAIN_MESH_H
#define TRAIN_MESH_H

#include "train/job.h"

/* Refuses numbers that do not divide the ranks, and options that do not go with them. Sets --sequence-parallel, and
 * job->stage_ranks and job->copies. */
zero_status_t mesh_check(job_t *job, zero_error_t *error);
/* Refuses rows that --tensor does not divide. Needs --micro-batch and --seq-len. */
zero_status_t mesh_check_rows(const job_t *job, zero_error_t *error);

/* The name of n ranks that have data of their own: ranks, or with --tensor groups of them. whole: what they are a part
 * of, as " of a stage". Returns text. */
const char *mesh_units(const options_t *o, int64_t n, const char *whole, char *text, size_t size);
/* The largest divisor of n that is at most most. */
int64_t mesh_divisor(int64_t n, int64_t most);

#endif
