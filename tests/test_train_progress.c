/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
/* test_train_progress.c - the progress bar of zero_train. The program runs on a pseudo-terminal. The test tracks its
 * screen: printable characters, carriage returns, line feeds and erasures. */
#include "train/progress.h"

#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* ---- the bar ---------------------------------------------------------------------------------------------------- */

START_TEST(a_bar_is_narrower_than_its_terminal)
{
    const progress_bar_t bars[] = {
        {.step = 1, .steps = 1500, .loss = 5.5, .lr = 3e-5, .tokens_per_second = 1234, .left = 4000},
        {.step = 999999999999, .steps = 1000000000000, .loss = -1e300, .lr = 1e-300, .tokens_per_second = 1e300},
        {.step = 0, .steps = 0, .loss = NAN, .lr = NAN, .tokens_per_second = NAN, .left = NAN},
    };
    char text[256];
    for (size_t i = 0; i < sizeof bars / sizeof *bars; i++)
        for (int columns = 0; columns < 400; columns++) {
            progress_draw(&bars[i], columns, text, sizeof text);
            ck_assert_int_le((int)strlen(text), columns > 0 ? columns - 1 : 0);
            /* the count of steps is dropped last */
            ck_assert(text[0] == '\0' || strchr(text, '/') != NULL);
        }
}
END_TEST

START_TEST(a_bar_shows_what_fits)
{
    progress_bar_t bar = {.step = 50, .steps = 200, .loss = 2.5, .lr = 0.003, .tokens_per_second = 1234, .left = 3723};
    static const struct {
        int columns;
        const char *text;
    } cases[] = {
        {120, "[==========>                             ]   50/200  loss 2.5000    1234 tokens/s  lr 0.003     "
              "1:02:03 left"},
        {81, "[===>        ]   50/200  loss 2.5000    1234 tokens/s  lr 0.003     1:02:03 left"},
        {76, "[=====>              ]   50/200  loss 2.5000    1234 tokens/s  1:02:03 left"},
        {40, " 50/200  loss 2.5000  1:02:03 left"},
        {21, " 50/200  loss 2.5000"},
        {8, " 50/200"},
        {7, ""},
    };
    char text[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        progress_draw(&bar, cases[i].columns, text, sizeof text);
        ck_assert_str_eq(text, cases[i].text);
    }
    bar.step = 200;
    bar.left = 0;
    progress_draw(&bar, 120, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, "[========================================]  200/200  "));
    ck_assert_ptr_nonnull(strstr(text, "   0:00 left"));
    bar.left = 2 * 86400 + 3 * 3600 + 4 * 60 + 5;
    progress_draw(&bar, 120, text, sizeof text);
    ck_assert_ptr_nonnull(strstr(text, "  2d 03:04:05 left"));
}
END_TEST

/* mpiexec gives ranks a separate terminal, even if its own output is a file. */
START_TEST(a_terminal_of_mpiexecs)
{
    int columns[2], file = posix_openpt(O_RDWR | O_NOCTTY), own = dup(STDOUT_FILENO);
    ck_assert(file >= 0 && grantpt(file) == 0 && unlockpt(file) == 0);
    int other = open(ptsname(file), O_RDWR | O_NOCTTY);
    ck_assert_int_ge(other, 0);
    dup2(other, STDOUT_FILENO);
    columns[0] = launch_columns(NULL);
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    columns[1] = launch_columns(NULL);
    dup2(own, STDOUT_FILENO);
    unsetenv("OMPI_COMM_WORLD_RANK");
    close(other);
    close(file);
    ck_assert_int_eq(columns[0], 80);
    ck_assert_int_eq(columns[1], 0);
}
END_TEST

/* ---- a screen --------------------------------------------------------------------------------------------------- */

enum { ROWS = 400, WIDTH = 2000 };

typedef struct screen {
    pid_t child;
    int file; /* the terminal's other side */
    char line[ROWS][WIDTH + 1];
    int row, column;
    int escape;  /* characters of the current escape sequence */
    int returns; /* carriage returns */
    int widest;  /* the last column of any line with a bar, since it was set to 0 */
    int status;
} screen_t;

static void screen_put(screen_t *s, char c)
{
    char *line = s->line[s->row];
    if (s->escape > 0) { /* only ESC [ K is expected */
        ck_assert_int_eq(c, "\033[K"[s->escape]);
        s->escape = (s->escape + 1) % 3;
        if (s->escape == 0)
            memset(line + s->column, 0, (size_t)(WIDTH - s->column));
    } else if (c == '\033') {
        s->escape = 1;
    } else if (c == '\r') {
        s->column = 0;
        s->returns++;
    } else if (c == '\n') {
        ck_assert_int_lt(++s->row, ROWS);
        s->column = 0;
    } else {
        ck_assert_int_lt(s->column, WIDTH);
        line[s->column++] = c;
        if (line[0] == '[' && s->column > s->widest)
            s->widest = s->column;
    }
}

/* The number of lines on the screen that begin with text. */
static int lines(const screen_t *s, const char *text)
{
    int count = 0;
    for (int r = 0; r <= s->row; r++)
        count += strncmp(s->line[r], text, strlen(text)) == 0;
    return count;
}

/* Reads until wanted(s), or to the end. Returns false at the end. */
static bool screen_follow(screen_t *s, bool (*wanted)(const screen_t *))
{
    char text[512];
    while (wanted == NULL || !wanted(s)) {
        struct pollfd ready = {.fd = s->file, .events = POLLIN};
        ck_assert_int_eq(poll(&ready, 1, 60000), 1);
        ssize_t n = read(s->file, text, sizeof text);
        if (n <= 0) /* EIO: no process has the terminal open */
            return false;
        for (ssize_t i = 0; i < n; i++)
            screen_put(s, text[i]);
    }
    return true;
}

/* Stays in the foreground of the terminal, and runs the program in a background process group. */
static void stay_in_front(char *const *argv)
{
    int how;
    pid_t behind = fork();
    if (behind == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setpgid(0, 0);
        execv(argv[0], argv);
        _exit(127);
    }
    _exit(waitpid(behind, &how, 0) == behind && WIFEXITED(how) ? WEXITSTATUS(how) : 126);
}

/* Runs zero_train with these arguments on a terminal of that width, or with pipes if it is 0. */
static void screen_open(screen_t *s, int columns, const char *words, bool background)
{
    char program[4096], line[512], *argv[40] = {program};
    int argc = 1, other;
    memset(s, 0, sizeof *s);
    snprintf(program, sizeof program, "%s/zero_train", getenv("top_builddir") != NULL ? getenv("top_builddir") : ".");
    snprintf(line, sizeof line, "--seq-len 16 --batch 6 --sample 0 --threads 1 %s", words);
    for (char *p = strtok(line, " "); p != NULL && argc < 39; p = strtok(NULL, " "))
        argv[argc++] = p;
    if (columns > 0) {
        s->file = posix_openpt(O_RDWR | O_NOCTTY);
        ck_assert(s->file >= 0 && grantpt(s->file) == 0 && unlockpt(s->file) == 0);
        other = open(ptsname(s->file), O_RDWR | O_NOCTTY);
        struct termios raw;
        struct winsize size = {.ws_row = 24, .ws_col = (unsigned short)columns};
        ck_assert(other >= 0 && tcgetattr(other, &raw) == 0);
        raw.c_oflag &= ~(tcflag_t)OPOST; /* lines end with only a line feed */
        ck_assert(tcsetattr(other, TCSANOW, &raw) == 0 && ioctl(other, TIOCSWINSZ, &size) == 0);
    } else {
        int ends[2];
        ck_assert_int_eq(pipe(ends), 0);
        s->file = ends[0];
        other = ends[1];
    }
    s->child = fork();
    ck_assert_int_ge(s->child, 0);
    if (s->child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        setsid();
        if (columns > 0 && ioctl(other, TIOCSCTTY, 0) != 0)
            _exit(126);
        dup2(other, STDOUT_FILENO);
        dup2(other, STDERR_FILENO);
        if (background)
            stay_in_front(argv);
        execv(program, argv);
        _exit(127);
    }
    close(other);
}

/* Follows the screen to the end. The status is 128 + n after signal n. No bar or partial line remains. */
static void screen_close(screen_t *s, int status)
{
    int how;
    screen_follow(s, NULL);
    ck_assert_int_eq(waitpid(s->child, &how, 0), s->child);
    s->status = WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
    if (s->status != status)
        for (int r = 0; r <= s->row; r++)
            printf("    %s\n", s->line[r]);
    ck_assert_int_eq(s->status, status);
    ck_assert_int_eq(lines(s, "["), 0);
    ck_assert_str_eq(s->line[s->row], "");
    close(s->file);
}

static void run(screen_t *s, int columns, const char *words, int status)
{
    screen_open(s, columns, words, false);
    screen_close(s, status);
}

static bool shows_bar(const screen_t *s)
{
    return s->line[s->row][0] == '[' && s->escape == 0;
}

/* ---- runs ------------------------------------------------------------------------------------------------------- */

static void environment(void)
{
    setenv("TERM", "xterm", 1);
    unsetenv("COLUMNS");
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    setenv("OMP_NUM_THREADS", "1", 1);
}

static screen_t screen;

/* Loop: 1 and 2 ranks, which use the parent's terminal. */
static const char *with_ranks(int ranks, const char *words)
{
    static char text[400];
    snprintf(text, sizeof text, "--ranks %d %s", ranks, words);
    return text;
}

START_TEST(a_run_on_a_terminal)
{
    run(&screen, 72, with_ranks(_i, "--steps 40 --eval-every 20 --eval-batches 1"), 0);
    ck_assert_int_gt(screen.widest, 30); /* there was a bar */
    ck_assert_int_le(screen.widest, 71);
    ck_assert_int_eq(lines(&screen, "step 20  evaluation"), 1);
    ck_assert_int_eq(lines(&screen, "step 40  evaluation"), 1);
    ck_assert_int_eq(lines(&screen, "step 40/40  loss "), 1);
    ck_assert_int_eq(lines(&screen, "step "), 3);
}
END_TEST

START_TEST(a_run_elsewhere)
{
    run(&screen, 0, with_ranks(_i, "--steps 40"), 0);
    ck_assert_int_eq(screen.returns, 0);
    ck_assert_int_eq(lines(&screen, "step "), 21);
    setenv("TERM", "dumb", 1);
    run(&screen, 72, with_ranks(_i, "--steps 40"), 0);
    ck_assert_int_eq(screen.returns, 0);
    ck_assert_int_eq(lines(&screen, "step "), 21);
    unsetenv("TERM");
    run(&screen, 72, with_ranks(_i, "--steps 3"), 0);
    ck_assert_int_eq(screen.returns, 0);
    environment();
}
END_TEST

START_TEST(a_quiet_run)
{
    run(&screen, 72, with_ranks(_i, "--steps 3 --quiet"), 0);
    ck_assert(screen.row == 0 && screen.returns == 0);
}
END_TEST

START_TEST(a_run_that_fails)
{
    run(&screen, 72, with_ranks(_i, "--steps 90 --schedule constant --warmup 0 --lr 1e15 --clip 0 --max-skipped 1"), 1);
    ck_assert_int_gt(screen.widest, 30);
    ck_assert_int_eq(lines(&screen, "zero_train: "), lines(&screen, "zero_train: warning: ") + 1);
    ck_assert_int_eq(strncmp(screen.line[screen.row - 1], "zero_train: ", 12), 0);
}
END_TEST

#define FOREVER "--steps 100000000 --schedule constant --warmup 0"

START_TEST(a_run_that_is_stopped)
{
    screen_open(&screen, 72, with_ranks(_i, FOREVER), false);
    ck_assert(screen_follow(&screen, shows_bar));
    kill(screen.child, SIGTERM);
    screen_close(&screen, 143);
    ck_assert_int_eq(lines(&screen, "stopped by a signal after step "), 1);
    ck_assert_int_eq(lines(&screen, "zero_train: "), 0);
}
END_TEST

/* Repeated signals end a run in the middle of a step. Then only the parent, or the thread that waits for signals, can
 * erase the bar. */
START_TEST(a_run_that_is_ended_at_once)
{
    screen_open(&screen, 72, with_ranks(_i, FOREVER " --batch 1200 --micro-batch 2"), false);
    ck_assert(screen_follow(&screen, shows_bar));
    for (siginfo_t ended = {.si_pid = 0}; ended.si_pid == 0; usleep(1000)) {
        kill(screen.child, SIGINT);
        ck_assert_int_eq(waitid(P_PID, (id_t)screen.child, &ended, WEXITED | WNOHANG | WNOWAIT), 0);
    }
    screen_close(&screen, 130);
    ck_assert_int_eq(lines(&screen, "stopped by a signal after step "), 0);
}
END_TEST

static bool narrow(const screen_t *s)
{
    return s->row > 0 && s->line[s->row][0] == ' ' && strchr(s->line[s->row], '/') != NULL && s->escape == 0;
}

START_TEST(a_window_that_changes)
{
    const struct winsize size = {.ws_row = 24, .ws_col = 26};
    screen_open(&screen, 72, with_ranks(_i, FOREVER), false);
    ck_assert(screen_follow(&screen, shows_bar));
    ck_assert_int_eq(ioctl(screen.file, TIOCSWINSZ, &size), 0);
    ck_assert(screen_follow(&screen, narrow));
    ck_assert_int_le((int)strlen(screen.line[screen.row]), 25);
    kill(screen.child, SIGTERM);
    screen_close(&screen, 143);
}
END_TEST

/* Another process group owns the terminal: the program prints lines, which do not disturb what the user types. */
START_TEST(a_run_in_the_background)
{
    screen_open(&screen, 72, with_ranks(_i, "--steps 40"), true);
    screen_close(&screen, 0);
    ck_assert_int_eq(screen.returns, 0);
    ck_assert_int_eq(lines(&screen, "step "), 21);
}
END_TEST

int main(void)
{
    static const char *const launchers[] = {
        "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "RANK", "WORLD_SIZE"};
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++)
        unsetenv(launchers[i]);
    environment();
    Suite *suite = suite_create("progress");
    TCase *c = tcase_create("progress");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, a_bar_is_narrower_than_its_terminal);
    tcase_add_test(c, a_bar_shows_what_fits);
    tcase_add_test(c, a_terminal_of_mpiexecs);
    tcase_add_loop_test(c, a_run_on_a_terminal, 1, 3);
    tcase_add_loop_test(c, a_run_elsewhere, 1, 3);
    tcase_add_loop_test(c, a_quiet_run, 1, 3);
    tcase_add_loop_test(c, a_run_that_fails, 1, 3);
    tcase_add_loop_test(c, a_run_that_is_stopped, 1, 3);
    tcase_add_loop_test(c, a_run_that_is_ended_at_once, 1, 3);
    tcase_add_loop_test(c, a_run_in_the_background, 1, 3);
    tcase_add_loop_test(c, a_window_that_changes, 1, 3);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
