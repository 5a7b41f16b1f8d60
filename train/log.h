/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - the log: one JSON object per line. Each line is written whole and checked, so that a full disk is noticed at
 * once. */
#ifndef TRAIN_LOG_H
#define TRAIN_LOG_H

#include "train/options.h"

/* A log without a file (path NULL) accepts events and discards them. After a call fails, later calls do nothing, and
 * log_end reports the failure. */
typedef struct log log_t;

/* If path is a FIFO, waits some seconds for a reader, and keeps the FIFO open until the process ends, so that the
 * reader always has a writer. */
zero_status_t log_hold(const char *path, zero_error_t *error);
/* Creates or empties the file. Here and in later calls, a wait for a reader takes at most half a minute. */
zero_status_t log_open(log_t **log, const char *path, zero_error_t *error);
/* Accepts NULL. */
zero_status_t log_close(log_t *log, zero_error_t *error);

/* Writes an event: call begin, then the members, then end, which writes the line. */
void log_begin(log_t *log, const char *event);
zero_status_t log_end(log_t *log, zero_error_t *error);

/* Members. key is NULL inside an array. A number that is not finite becomes null. */
void log_whole(log_t *log, const char *key, int64_t value);
void log_bytes(log_t *log, const char *key, uint64_t value);
/* 17 significant digits: enough for each bit. */
void log_exact(log_t *log, const char *key, double value);
/* 9 significant digits. */
void log_number(log_t *log, const char *key, double value);
/* Any bytes: invalid UTF-8 becomes U+FFFD. NULL: null. */
void log_text(log_t *log, const char *key, const char *text);
/* 16 hexadecimal digits. */
void log_hash(log_t *log, const char *key, uint64_t hash);
void log_bool(log_t *log, const char *key, bool value);
void log_open_object(log_t *log, const char *key);
void log_close_object(log_t *log);
void log_open_array(log_t *log, const char *key);
void log_close_array(log_t *log);
/* The device tier and each tier that holds bytes, with all kinds; "external" if it is not 0. */
void log_memory(log_t *log, const char *key, const zero_memory_t *memory);
/* All options with their resolved values. */
void log_options(log_t *log, const options_t *options);
/* The program, its version and these options as the text of a JSON object, which the caller frees. NULL: no memory. */
char *log_about(const options_t *options);

#endif
