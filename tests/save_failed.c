/* SPDX-License-Identifier: Apache-2.0 */
/* save_failed.c - calls that are wrong on one rank, or fail there; checkpoints that lie. */
#include "tests/save_suites.h"
#include "zero/checkpoint/folder.h"
#include "zero/checkpoint/writer.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- ranks that differ ------------------------------------------------------------------------------------------ */

static int differ(small_t *s)
{
    zero_save_options_t good, bad;
    zero_saved_t end = {.size = sizeof end};
    char big[1] = {0};
    bool first = s->rank == 0;
    zero_save_options_init(&good);
    good.folder = save_folder;
    bad = good;
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : NULL), ZERO_ERR_ARG, "zero_save_options_t");
    bad.folder = NULL;
    SMALL_FAILS(zero_save_open(s->engine, first ? &bad : &good), ZERO_ERR_ARG, "folder");
    bad = good;
    bad.keep = -1;
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : &bad), ZERO_ERR_ARG, "keep");
    bad = good;
    bad.file_bytes = 1000;
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : &bad), ZERO_ERR_ARG, "file_bytes");
    bad = good;
    bad.about = "[]";
    SMALL_FAILS(zero_save_open(s->engine, first ? &good : &bad), ZERO_ERR_ARG, "object");
    SMALL_FAILS(zero_load(s->engine, NULL), ZERO_ERR_ARG, "zero_load");
    SMALL_TRY(zero_save_open(s->engine, &good));
    SMALL_FAILS(zero_save(s->engine, big, first ? (1 << 20) + 1 : 0), ZERO_ERR_ARG, "1048577");
    SMALL_FAILS(zero_save(s->engine, NULL, first), ZERO_ERR_ARG, "bytes");
    SMALL_TRY(zero_save(s->engine, NULL, first ? 0 : (1 << 20) + 1)); /* rank 0's count */
    SMALL_FAILS(zero_save_end(s->engine, true, first ? &end : NULL), ZERO_ERR_ARG, "zero_saved_t");
    for (end.done = false; !end.done;) {
        SMALL_TRY(zero_save_end(s->engine, first, &end));
        SMALL_IS(end.step == 0);
    }
    if (save_step(s, 0))
        return -1;
    /* one loads, the other loads nothing */
    zero_checkpoint_t *checkpoint = NULL;
    SMALL_TRY(zero_checkpoint_open(&checkpoint, save_folder, NULL));
    SMALL_FAILS(zero_load(s->engine, first ? checkpoint : NULL), ZERO_ERR_ARG, "zero_load");
    SMALL_TRY(zero_load(s->engine, checkpoint));
    zero_checkpoint_close(checkpoint);
    return save_step(s, 0);
}

START_TEST(test_ranks_differ)
{
    for (int threaded = 0; threaded < 2; threaded++) {
        save_run_t r = {.world = 2, .stage = 3, .threaded = threaded, .beta1 = 0.9};
        save_run(&r, differ);
        save_teardown();
        save_setup();
    }
}
END_TEST

/* Writes fail on the last rank alone. */
static int fail_on_one(small_t *s)
{
    struct rlimit before, least;
    zero_saved_t end = {.size = sizeof end};
    signal(SIGXFSZ, SIG_IGN);
    if (save_open(s) || save_step(s, 0))
        return -1;
    getrlimit(RLIMIT_FSIZE, &before);
    least = before;
    least.rlim_cur = 100;
    if (s->rank == s->c.world - 1)
        setrlimit(RLIMIT_FSIZE, &least);
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    if (save_step(s, 1))
        return -1;
    SMALL_FAILS(zero_save_end(s->engine, true, &end), ZERO_ERR_IO, "rank 2");
    setrlimit(RLIMIT_FSIZE, &before);
    char path[100];
    snprintf(path, sizeof path, "%s/step-1", save_folder);
    SMALL_TRY(zero_sum(s->engine, &(double){0}, 1));
    SMALL_IS(access(path, F_OK) != 0);
    if (save_step(s, 2))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    return save_finish(s, 3);
}

START_TEST(test_one_fails)
{
    save_run_t r = {.world = 3, .stage = 2, .beta1 = 0.9};
    save_run(&r, fail_on_one);
}
END_TEST

/* Destroyed with a save in flight, by one rank before the other, which then waits for nothing. */
static int leave(small_t *s)
{
    zero_saved_t end = {.size = sizeof end};
    if (save_open(s))
        return -1;
    SMALL_TRY(zero_save(s->engine, NULL, 0));
    if (s->rank > 0 || s->c.world == 1)
        return 0;
    zero_status_t status = zero_save_end(s->engine, true, &end);
    SMALL_IS(status == ZERO_ERR_PEER);
    return 0;
}

START_TEST(test_destroy)
{
    for (int threaded = 0; threaded < 2; threaded++) {
        save_run_t r = {.world = 2, .stage = 3, .threaded = threaded, .beta1 = 0.9};
        save_run(&r, leave);
        save_run_t one = {.world = 1, .stage = 3, .threaded = threaded, .beta1 = 0.9};
        save_run(&one, leave);
        save_teardown();
        save_setup();
    }
}
END_TEST

/* ---- checkpoints that lie --------------------------------------------------------------------------------------- */

/* A whole checkpoint of the model, whose first moments have this dtype and shape. */
static void forge(const char *dtype, int32_t ndim, int64_t rows, int64_t columns)
{
    static const zero_state_t states[] = {ZERO_STATE_PARAM, ZERO_STATE_MOMENT1, ZERO_STATE_MOMENT2};
    static char bytes[1 << 16];
    zero_layout_t layouts[3];
    zero_manifest_t manifest;
    zero_writer_t *writer;
    zero_error_t error;
    uint64_t count;
    int lock;
    ck_assert_int_eq(zero_folder_lock(save_folder, &lock, &error), ZERO_OK);
    char *path = zero_folder_step(save_folder, 1);
    ck_assert_int_eq(zero_manifest_begin(&manifest, 1, 1, "adamw", NULL, NULL, 0, &error), ZERO_OK);
    for (int k = 0; k < 3; k++) {
        zero_tensor_info_t infos[SAVE_PARAMS] = {0};
        int n = 0;
        for (int p = 0; p < SAVE_PARAMS; p++) {
            zero_manifest_param_t param = {.name = (char *)(uintptr_t)save_shapes[p].name,
                                           .trainable = save_shapes[p].trainable,
                                           .ndim = save_shapes[p].ndim};
            memcpy(param.shape, save_shapes[p].shape, sizeof save_shapes[p].shape);
            if (k == 0)
                ck_assert_int_eq(zero_manifest_add(&manifest, &param, &error), ZERO_OK);
            if (k > 0 && (p == F || p == NONE))
                continue;
            zero_tensor_info_t *info = &infos[n++];
            *info = (zero_tensor_info_t){
                .size = sizeof *info, .name = save_shapes[p].name, .dtype = "F32", .ndim = save_shapes[p].ndim};
            memcpy(info->shape, save_shapes[p].shape, sizeof save_shapes[p].shape);
            if (k == 1 && p == B) {
                snprintf(info->dtype, sizeof info->dtype, "%s", dtype);
                info->ndim = ndim;
                info->shape[0] = rows;
                info->shape[1] = columns;
            }
        }
        ck_assert_int_eq(zero_layout_make(&layouts[k], zero_checkpoint_state_name(states[k]), infos, n, 0, &error),
                         ZERO_OK);
    }
    ck_assert_int_eq(zero_writer_make(&writer, path, layouts, 3, &error), ZERO_OK);
    ck_assert_int_eq(zero_writer_create(writer, &error), ZERO_OK);
    for (int k = 0; k < 3; k++)
        for (int t = 0; t < layouts[k].count; t++)
            ck_assert_int_eq(zero_writer_write(writer, k, t, 0, layouts[k].tensors[t].bytes, bytes, &error), ZERO_OK);
    ck_assert_int_eq(zero_writer_sync(writer, &error), ZERO_OK);
    const zero_piece_t *pieces = zero_writer_pieces(writer, &count);
    ck_assert_int_eq(zero_manifest_files(&manifest, layouts, states, 3, pieces, count, &error), ZERO_OK);
    ck_assert_int_eq(zero_manifest_write(&manifest, path, &error), ZERO_OK);
    zero_writer_destroy(writer);
    zero_manifest_clear(&manifest);
    for (int k = 0; k < 3; k++)
        zero_layout_clear(&layouts[k]);
    free(path);
    close(lock);
}

static int refuse_format(small_t *s)
{
    if (save_look(s, save_after, false))
        return -1;
    SMALL_FAILS(save_load(s), ZERO_ERR_FORMAT, "moment1");
    return save_look(s, save_after, true) || save_step(s, 0) ? -1 : 0;
}

START_TEST(test_lies)
{
    static const struct lie {
        const char *dtype;
        int32_t ndim;
        int64_t rows, columns;
    } lies[] = {{"F64", 1, 700, 0}, {"I32", 1, 700, 0}, {"I8", 1, 700, 0}, {"U8", 1, 700, 0},
                {"U8", 2, 5, 132},  {"U8", 2, 6, 131},  {"U8", 2, 132, 6}, {"U8", 2, 7, 132}};
    for (int i = 0; i < (int)(sizeof lies / sizeof lies[0]); i++) {
        save_run_t r = {
            .world = 1 + i % 2, .stage = 1, .rule = i % 3 ? ZERO_RULE_ADAMW : ZERO_RULE_ADAMW8, .beta1 = 0.9};
        forge(lies[i].dtype, lies[i].ndim, lies[i].rows, lies[i].columns);
        save_run(&r, refuse_format);
        save_teardown();
        save_setup();
    }
    save_run_t r = {.world = 2, .stage = 1, .beta1 = 0.9};
    forge("F32", 1, 700, 0);
    save_run(&r, save_load_it);
    save_teardown();
    save_setup();
    forge("U8", 2, 6, 132);
    save_run(&r, save_load_it);
}
END_TEST

Suite *save_failed_suite(void)
{
    Suite *suite = suite_create("save_failed");
    TCase *tcase = tcase_create("save_failed");
    tcase_set_timeout(tcase, 600);
    tcase_add_checked_fixture(tcase, save_setup, save_teardown);
    tcase_add_test(tcase, test_ranks_differ);
    tcase_add_test(tcase, test_one_fails);
    tcase_add_test(tcase, test_destroy);
    tcase_add_test(tcase, test_lies);
    suite_add_tcase(suite, tcase);
    return suite;
}
