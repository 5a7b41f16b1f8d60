/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/terminal.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { COLUMNS_USUAL = 80, COLUMNS_MOST = 1000 };

int terminal_columns(int file)
{
    const char *kind = getenv("TERM"), *text;
    struct winsize size = {.ws_col = 0};
    int columns;
    if (!isatty(file) || kind == NULL || strcmp(kind, "dumb") == 0)
        return 0;
    const pid_t front = tcgetpgrp(file); /* -1: not the terminal that controls this process */
    if (front >= 0 && front != getpgrp())
        return 0;
    /* COLUMNS does not follow a window that changes, so the terminal's own answer counts first */
    if (ioctl(file, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        columns = size.ws_col;
    else
        columns = (text = getenv("COLUMNS")) != NULL ? atoi(text) : 0;
    return columns <= 0 ? COLUMNS_USUAL : columns < COLUMNS_MOST ? columns : COLUMNS_MOST;
}

void terminal_erase(int file)
{
    static const char erase[] = "\r\033[K"; /* ECMA-48: EL, to the end of the line */
    struct pollfd ready = {.fd = file, .events = POLLOUT};
    if (poll(&ready, 1, 0) == 1 && write(file, erase, sizeof erase - 1) < 0)
        return; /* the next write reports it */
}
