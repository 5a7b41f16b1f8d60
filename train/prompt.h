/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.h - the text that samples begin with: --prompt, or the content of --prompt-file. Only one process reads the
 * file, which may be standard input: the parent of ranks, or rank 0 under another launcher. */
#ifndef TRAIN_PROMPT_H
#define TRAIN_PROMPT_H

#include "train/job.h"
#include "train/launch.h"

/* Reads --prompt-file into options->prompt_text, without a newline at its end; does nothing if the option is not set.
 * prompt_free frees the text. Errors say what to change. */
zero_status_t prompt_read(options_t *options, zero_error_t *error);
void prompt_free(options_t *options);

/* Lets rank 0 read --prompt-file, or take its text from the parent (launch, NULL: none), and gives it to all. status:
 * that of this rank so far; a failure is returned, but the rank still takes part. Collective. */
zero_status_t prompt_share(options_t *options, zero_comm_t *comm, const launch_t *launch, zero_status_t status,
                           zero_error_t *error);

/* The option that gives the prompt, for a sentence: "--prompt", "--prompt-file 'FILE'". */
const char *prompt_option(const options_t *options, char *text, size_t size);
/* Sets job->prompt to the tokens of the prompt: those of the tokenizer, or bytes. Without a prompt it stays empty, but
 * a newline is the prompt if there is a tokenizer without data. */
zero_status_t prompt_resolve(job_t *job, zero_error_t *error);

#endif
