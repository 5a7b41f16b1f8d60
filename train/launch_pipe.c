/* SPDX-License-Identifier: Apache-2.0 */
/* launch_pipe.c - see launch_pipe.h. */
#define _GNU_SOURCE
#include "train/launch_pipe.h"
#include "train/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

bool launch_pipe_open(launch_pipe_t *p, int out)
{
    int ends[2];
    *p = (launch_pipe_t){.from = -1, .into = -1, .out = out};
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    p->from = ends[0];
    p->into = ends[1];
    return fcntl(p->from, F_SETFL, O_NONBLOCK) == 0;
}

void launch_pipe_close(launch_pipe_t *p)
{
    if (p->from >= 0)
        close(p->from);
    if (p->into >= 0)
        close(p->into);
    p->from = p->into = -1;
}

static void fail(launch_pipe_t *p, int why)
{
    p->failure = why;
    p->held = 0;
    close(p->from);
    p->from = -1;
}

/* Reads more bytes. false: none are available. */
static bool read_more(launch_pipe_t *p, double now)
{
    char rest[4096];
    const size_t room = sizeof p->text - p->held;
    const bool kept = room > 0;
    ssize_t n;
    do
        n = read(p->from, kept ? p->text + p->held : rest, kept ? room : sizeof rest);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    if (p->held == 0)
        p->since = now;
    if (kept)
        p->held += (size_t)n;
    return true;
}

void launch_pipe_erase(launch_pipe_t *p)
{
    if (p->bar)
        terminal_erase(p->out);
    p->bar = false;
}

static void note_bar(launch_pipe_t *p, size_t written)
{
    for (size_t i = 0; i < written; i++)
        if (p->text[i] == '\n' || p->text[i] == '\r')
            p->bar = p->text[i] == '\r';
}

bool launch_pipe_pass(launch_pipe_t *p, double now, double patience)
{
    while (p->from >= 0) {
        if (p->out < 0) {
            if (!read_more(p, now))
                return true;
            continue;
        }
        if (p->held == 0 && !read_more(p, now))
            return true;
        /* a pipe that is ready takes PIPE_BUF bytes at once */
        struct pollfd out = {.fd = p->out, .events = POLLOUT};
        if (poll(&out, 1, 0) <= 0) {
            if (now - p->since > patience)
                fail(p, ETIMEDOUT);
            return p->from < 0;
        }
        if (p->beside != NULL)
            launch_pipe_erase(p->beside);
        ssize_t n = write(p->out, p->text, p->held < PIPE_BUF ? p->held : PIPE_BUF);
        if (n < 0 && errno == EAGAIN)
            return false;
        if (n < 0 && errno != EINTR)
            fail(p, errno);
        if (n <= 0)
            continue;
        note_bar(p, (size_t)n);
        p->held -= (size_t)n;
        memmove(p->text, p->text + n, p->held);
        p->since = now;
    }
    return true;
}
