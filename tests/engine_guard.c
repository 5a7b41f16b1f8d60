/* SPDX-License-Identifier: Apache-2.0 */
/* engine_guard.c - config.guard, and AddressSanitizer in the process: an access to parameters or gradients outside
 * acquire and release ends the program; an access inside does not (engine_matrix.c tests more of these). */
#include "tests/engine_suites.h"
#include "tests/ranks.h"
#include "tests/sanitized.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Units 'a' and 'b' have one parameter each. The pass reads both in turn, then reads 'b' and adds to its gradient, then
 * adds to the gradient of 'a'. */
enum { A, B, ELEMENTS = 3000 };
typedef enum mistake {
    NONE,
    READ_BEFORE,     /* parameters, before they are acquired */
    READ_AFTER,      /* and after they were released */
    READ_LAST,       /* their last element */
    READ_BETWEEN,    /* between steps */
    WRITE_AFTER,     /* the gradient, after its unit was released */
    WRITE_OF_READER, /* the gradient, at a use without ZERO_GRAD */
    READ_OF_WRITER,  /* parameters, at a use without ZERO_READ */
    READ_SMALL,      /* another unit's parameters than the one held */
    MISTAKES
} mistake_t;

typedef struct play {
    mistake_t mistake;
    int stage, threaded;
    bool bf16, guard;
} play_t;

enum { SETUP_FAILED = 3 };

/* Makes the mistake if it is the selected one. volatile keeps the compiler from removing the access. */
static void touch(const play_t *p, mistake_t here, volatile char *at)
{
    if (p->mistake == here)
        at[0] = (char)(at[0] + 1);
}
static void look(const play_t *p, mistake_t here, const volatile char *at)
{
    if (p->mistake == here)
        (void)at[0];
}

#define MUST(call)                                                                   \
    do {                                                                             \
        if ((call) != ZERO_OK) {                                                     \
            fprintf(stderr, "%s: %s\n", #call, e ? zero_last_error(e) : error.text); \
            return SETUP_FAILED;                                                     \
        }                                                                            \
    } while (0)

/* One rank: two correct steps, with the mistake in the second one. */
static int play(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const play_t *p = arg;
    static const char *const names[] = {"a", "b"};
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    zero_engine_t *e = NULL;
    zero_error_t error = {0};
    zero_config_t config;
    zero_device_options_t options;
    zero_param_desc_t desc;
    zero_pass_t pass;
    zero_unit_t unit[2];
    zero_param_t param[2];
    (void)rank, (void)world;
    MUST(zero_comm_shm(&comm, bootstrap, NULL, &error));
    zero_device_options_init(&options);
    options.threaded = p->threaded > 0;
    options.delay_seed = p->threaded > 1 ? 7 : 0;
    MUST(zero_device_cpu(&device, &options, &error));
    zero_config_init(&config);
    config.comm = comm;
    config.device = device;
    config.persist_bytes = 0;
    config.guard = p->guard;
    MUST(zero_config_stage(&config, p->stage));
    MUST(zero_create(&e, &config, &error));
    MUST(zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
    for (int u = 0; u < 2; u++) {
        zero_param_desc_init(&desc);
        desc.name = names[u];
        desc.ndim = 1;
        desc.shape[0] = u == A ? ELEMENTS : 5;
        desc.dtype = p->bf16 ? ZERO_BF16 : ZERO_FP32;
        MUST(zero_unit_add(e, names[u], &unit[u]));
        MUST(zero_param_add(e, unit[u], &desc, &param[u]));
        MUST(zero_use_add(e, pass, unit[u], ZERO_READ));
    }
    MUST(zero_use_add(e, pass, unit[B], ZERO_READ | ZERO_GRAD));
    MUST(zero_use_add(e, pass, unit[A], ZERO_GRAD));
    MUST(zero_commit(e));
    char *data = zero_param_data(e, param[A]), *grad = zero_param_grad(e, param[A]),
         *small = zero_param_data(e, param[B]);
    size_t bytes = ELEMENTS * zero_dtype_size(desc.dtype);
    for (int step = 0; step < 2; step++) {
        play_t now = *p;
        now.mistake = step == 0 ? NONE : p->mistake;
        look(&now, READ_BETWEEN, data);
        MUST(zero_micro_begin(e, pass, ZERO_LAST));
        look(&now, READ_BEFORE, data);
        MUST(zero_acquire(e, unit[A]));
        look(&now, NONE, data + bytes - 1);
        touch(&now, WRITE_OF_READER, grad);
        look(&now, READ_SMALL, small);
        MUST(zero_release(e, unit[A]));
        look(&now, READ_AFTER, data);
        look(&now, READ_LAST, data + bytes - 1);
        MUST(zero_acquire(e, unit[B]));
        look(&now, NONE, small);
        MUST(zero_release(e, unit[B]));
        MUST(zero_acquire(e, unit[B]));
        MUST(zero_release(e, unit[B]));
        MUST(zero_acquire(e, unit[A]));
        memset(grad, 0, bytes); /* at its current address */
        look(&now, READ_OF_WRITER, data);
        MUST(zero_release(e, unit[A]));
        touch(&now, WRITE_AFTER, grad + bytes - 1);
        MUST(zero_micro_end(e));
        MUST(zero_step(e, 0.1));
    }
    zero_destroy(e);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return 0;
}

/* Runs a process of one rank and returns its wait status. */
static int status_of(play_t p)
{
    int status = -1;
    if (!SANITIZED) /* so that a mistake leaves no core file */
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    ranks_run_status(1, 30, play, &p, &status);
    return status;
}

/* Whether the process ended by the guard's signal, or with a sanitizer's report. */
static bool found(int status)
{
    return SANITIZED ? status != 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == SETUP_FAILED)
                     : WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

START_TEST(mistakes_end_where_they_are_made)
{
    for (int stage = 0; stage <= 3; stage++)
        for (int threaded = 0; threaded < 3; threaded++) {
            play_t p = {.mistake = (mistake_t)_i,
                        .stage = stage,
                        .threaded = threaded,
                        .bf16 = (stage + threaded) % 2,
                        .guard = true};
            int status = status_of(p);
            if (p.mistake == NONE)
                ck_assert_msg(status == 0, "stage %d, threaded %d: without a mistake it ends with %d", stage, threaded,
                              status);
            else
                ck_assert_msg(found(status), "stage %d, threaded %d: mistake %d ends with %d", stage, threaded, _i,
                              status);
        }
}
END_TEST

/* Without a guard only AddressSanitizer finds mistakes. */
START_TEST(mistakes_without_a_guard)
{
    int status = status_of((play_t){.mistake = (mistake_t)_i, .stage = 3});
    ck_assert_msg(_i == NONE || !ADDRESS_SANITIZED ? status == 0 : found(status), "mistake %d ends with %d", _i,
                  status);
}
END_TEST

Suite *engine_guard_suite(void)
{
    Suite *suite = suite_create("guard");
    TCase *t = tcase_create("guard");
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, mistakes_end_where_they_are_made, 0, MISTAKES);
    tcase_add_loop_test(t, mistakes_without_a_guard, 0, MISTAKES);
    suite_add_tcase(suite, t);
    return suite;
}
