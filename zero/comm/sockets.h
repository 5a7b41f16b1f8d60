/* SPDX-License-Identifier: Apache-2.0 */
/* sockets.h - socket calls that end in time: at end, in zero_now's seconds. */
#ifndef ZERO_COMM_SOCKETS_H
#define ZERO_COMM_SOCKETS_H

#include <stdbool.h>
#include <stddef.h>

/* Whether one of events (poll's) is there before end. */
bool zero_socket_ready(double end, int fd, short events);
/* All bytes, or false: the other side is gone, or the time is up. end 0: what goes without waiting. */
bool zero_socket_put(double end, int fd, const void *data, size_t bytes);
bool zero_socket_get(double end, int fd, void *data, size_t bytes);

#endif
