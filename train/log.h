/* SPDX-License-Identifier: Apache-2.0 */
/* log.h - the log: one JSON object a line, each written whole and checked, so that a full disk is noticed at once. */
#ifndef TRAIN_LOG_H
#define TRAIN_LOG_H

#include "train/options.h"

/* A log without a file (path NULL) takes events and keeps none. Once a call failed, the ones after it do nothing until
 * log_end reports it. */
typedef struct log log_t;

/* For a path that is a FIFO: waits some seconds for a reader, and keeps it open until the process ends, so that the
 * reader has a writer from here on. */
zero_status_t log_hold(const char *path, zero_error_t *error);
/* Creates or empties the file. No wait for a reader, here or later, is longer than half a minute. */
zero_status_t log_open(log_t **log, const char *path, zero_error_t *error);
/* Accepts NULL. */
zero_status_t log_close(log_t *log, zero_error_t *error);

/* An event: begin, then members, then end, which writes the line. */
void log_begin(log_t *log, const char *event);
zero_status_t log_end(log_t *log, zero_error_t *error);

/* Members; key NULL inside an array. What is not finite is null. */
void log_whole(log_t *log, const char *key, int64_t value);
void log_bytes(log_t *log, const char *key, uint64_t value);
/* 17 significant digits: every bit of it. */
void log_exact(log_t *log, const char *key, double value);
/* 9 significant digits. */
void log_number(log_t *log, const char *key, double value);
/* Any bytes: what is no UTF-8 becomes U+FFFD. NULL: null. */
void log_text(log_t *log, const char *key, const char *text);
/* 16 hexadecimal digits. */
void log_hash(log_t *log, const char *key, uint64_t hash);
void log_bool(log_t *log, const char *key, bool value);
void log_open_object(log_t *log, const char *key);
void log_close_object(log_t *log);
void log_open_array(log_t *log, const char *key);
void log_close_array(log_t *log);
/* Tiers that hold anything, and the device's, each with all kinds; "external" where it is not 0. */
void log_memory(log_t *log, const char *key, const zero_memory_t *memory);
/* Every option as it was resolved. */
void log_options(log_t *log, const options_t *options);

#endif
