/* SPDX-License-Identifier: Apache-2.0 */
/* sockets.c - see sockets.h. */
#include "zero/comm/sockets.h"
#include "zero/device/host.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

bool zero_socket_ready(double end, int fd, short events)
{
    for (;;) {
        double left = end - zero_now();
        struct pollfd p = {.fd = fd, .events = events};
        if (left <= 0)
            return false;
        int n = poll(&p, 1, left > 1 ? 1000 : (int)(left * 1000) + 1);
        if (n > 0)
            return true;
        if (n < 0 && errno != EINTR)
            return false;
    }
}

bool zero_socket_put(double end, int fd, const void *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = send(fd, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            data = (const char *)data + n;
            bytes -= (size_t)n;
        } else if ((errno != EAGAIN && errno != EINTR) || !zero_socket_ready(end, fd, POLLOUT))
            return false;
    }
    return true;
}

bool zero_socket_get(double end, int fd, void *data, size_t bytes)
{
    while (bytes) {
        ssize_t n = recv(fd, data, bytes, MSG_DONTWAIT);
        if (n > 0) {
            data = (char *)data + n;
            bytes -= (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR) || !zero_socket_ready(end, fd, POLLIN))
            return false;
    }
    return true;
}
