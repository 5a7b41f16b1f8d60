/* SPDX-License-Identifier: Apache-2.0 */
/* sockets.h - socket calls with a deadline: end, in the seconds of zero_now. */
#ifndef ZERO_COMM_SOCKETS_H
#define ZERO_COMM_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>

/* Waits for one of the events (see poll) until end. */
bool zero_socket_ready(double end, int fd, short events);
/* Transfers all bytes, or returns false: the connection has ended, or the time is up. end 0: does not wait. */
bool zero_socket_put(double end, int fd, const void *data, size_t bytes);
bool zero_socket_get(double end, int fd, void *data, size_t bytes);

#endif
