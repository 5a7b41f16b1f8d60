/* SPDX-License-Identifier: Apache-2.0 */
/* test_parts.c - contents of parameters that the ranks of tensor parallelism split: whatever the mesh, all calls see
 * the same whole parameters, a step makes the same bits of them, checkpoints have the same bytes, and each mesh loads
 * those of others. */
#include "tests/parts_toy.h"
#include "zero/checkpoint/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STEPS = 2 };

static int contents_body(parts_toy_t *t)
{
    PARTS_DO(parts_fill(t, 1));
    PARTS_DO(parts_pass(t, 1, false, 0));
    PARTS_DO(parts_step(t, 0, true));
    PARTS_DO(parts_set_values(t));
    PARTS_DO(parts_reset(t));
    PARTS_DO(parts_pass(t, 1, false, 0));
    for (int i = 0; i < STEPS; i++)
        PARTS_DO(parts_step(t, i, i == 1));
    return parts_states(t, t->c->record);
}

/* fp32 and bf16, with AdamW and its 8-bit form. */
START_TEST(every_mesh_has_the_same_contents)
{
    const zero_dtype_t dtype = _i % 2 ? ZERO_BF16 : ZERO_FP32;
    const zero_rule_t rule = _i / 2 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW;
    parts_record_t record = parts_record_make(), later = parts_record_make();
    for (int m = 0; m < PARTS_MESHES; m++) {
        parts_case_t c = parts_case(m, (m + _i) % 4, dtype, rule);
        c.odd = rule == ZERO_RULE_ADAMW;
        c.tier = m == 3 ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
        c.record = &record;
        c.later = &later;
        parts_run(&c, contents_body);
    }
    parts_record_free(&record);
    parts_record_free(&later);
}
END_TEST

/* ---- checkpoints ------------------------------------------------------------------------------------------------ */

static int save_body(parts_toy_t *t)
{
    zero_save_options_t options;
    zero_saved_t saved = {.size = sizeof saved};
    PARTS_DO(parts_fill(t, 1));
    for (int i = 0; i < STEPS; i++)
        PARTS_DO(parts_step(t, i, false));
    PARTS_DO(parts_states(t, t->c->record));
    zero_save_options_init(&options);
    options.folder = t->c->folder;
    PARTS_TRY(zero_save_open(t->engine, &options));
    PARTS_TRY(zero_save(t->engine, NULL, 0));
    PARTS_TRY(zero_save_end(t->engine, true, &saved));
    PARTS_IS(saved.done && saved.step == STEPS);
    return 0;
}

static int load_body(parts_toy_t *t)
{
    zero_checkpoint_t *checkpoint = NULL;
    zero_error_t error = {0};
    PARTS_DO(parts_fill(t, 3));
    if (zero_checkpoint_open(&checkpoint, t->c->folder, &error) != ZERO_OK)
        return parts_complain(t, error.text, __LINE__);
    PARTS_TRY(zero_load(t->engine, checkpoint));
    zero_checkpoint_close(checkpoint);
    PARTS_DO(parts_states(t, t->c->record));
    return parts_pass(t, 0, false, 0);
}

static int shell(const char *format, const char *a, const char *b)
{
    char command[400];
    snprintf(command, sizeof command, format, a, b);
    return system(command);
}

/* The number of pieces in a checkpoint's manifest. */
static uint64_t pieces_of(const char *folder)
{
    char path[100];
    zero_manifest_t manifest;
    zero_error_t error = {0};
    snprintf(path, sizeof path, "%s/step-%d", folder, STEPS);
    ck_assert_msg(zero_manifest_read(&manifest, path, &error) == ZERO_OK, "%s", error.text);
    const uint64_t count = manifest.piece_count;
    zero_manifest_clear(&manifest);
    return count;
}

/* Each mesh saves the same files, in pieces that are not as many as rows. Each loads what the first one or the one
 * before it saved, with the rule, and with the other one, and has what the first mesh has then. */
START_TEST(meshes_load_checkpoints_of_others)
{
    const zero_dtype_t dtype = _i % 2 ? ZERO_BF16 : ZERO_FP32;
    const zero_rule_t rule = _i / 2 % 2 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW,
                      other = _i / 2 % 2 ? ZERO_RULE_ADAMW : ZERO_RULE_ADAMW8;
    char folder[PARTS_MESHES][64];
    parts_record_t saved = parts_record_make(), converted = parts_record_make(), later = parts_record_make();
    for (int m = 0; m < PARTS_MESHES; m++) {
        parts_case_t c = parts_case(m, (m + _i) % 4, dtype, rule);
        snprintf(folder[m], sizeof folder[m], "test_parts.%d.%d", (int)getpid(), m);
        c.folder = folder[m];
        c.record = &saved;
        c.later = &later;
        parts_run(&c, save_body);
        ck_assert_int_eq(
            shell("for f in '%s'/step-2/*.safetensors; do cmp \"$f\" '%s'/step-2/$(basename $f) || exit 1; "
                  "done",
                  folder[0], folder[m]),
            0);
        ck_assert_uint_le(pieces_of(folder[m]), 4 * pieces_of(folder[0]));
    }
    for (int m = 0; m < PARTS_MESHES; m++)
        for (int k = 0; k < 4; k++) {
            parts_case_t c = parts_case(m, (m + _i + 1 + k) % 4, dtype, k < 2 ? rule : other);
            if (m > 0 && (m + _i + k) % 2 == 1)
                continue; /* the next dtype has these */
            c.folder = folder[k % 2 ? (m + PARTS_MESHES - 1) % PARTS_MESHES : 0];
            c.record = k < 2 ? &saved : &converted;
            c.later = &later;
            c.first = c.first && k == 2;
            c.tier = m == 2 ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
            parts_run(&c, load_body);
        }
    for (int m = 0; m < PARTS_MESHES; m++)
        ck_assert_int_eq(shell("rm -rf '%s'%s", folder[m], ""), 0);
    parts_record_free(&saved);
    parts_record_free(&converted);
    parts_record_free(&later);
}
END_TEST

/* One rank has 8-bit moments of a parameter whose parts would cut their blocks. Other meshes load them as fp32. */
START_TEST(blocks_across_parts)
{
    char folder[64];
    parts_record_t saved = parts_record_make(), later = parts_record_make();
    snprintf(folder, sizeof folder, "test_parts.%d.odd", (int)getpid());
    for (int m = 0; m < 5; m++) {
        parts_case_t c = parts_case(m, m % 4, ZERO_FP32, m == 0 ? ZERO_RULE_ADAMW8 : ZERO_RULE_ADAMW);
        c.odd = true;
        c.folder = folder;
        c.record = &saved;
        c.later = &later;
        parts_run(&c, m == 0 ? save_body : load_body);
    }
    ck_assert_int_eq(shell("rm -rf '%s'%s", folder, ""), 0);
    parts_record_free(&saved);
    parts_record_free(&later);
}
END_TEST

/* The same the other way: what 4 ranks wrote as fp32 in windows that end within a block, one rank reads as blocks. */
START_TEST(windows_across_blocks)
{
    char folder[2][64];
    parts_record_t saved = parts_record_make(), converted = parts_record_make(), later = parts_record_make();
    for (int k = 0; k < 4; k++) {
        parts_case_t c = parts_case(k == 1 ? 4 : 0, 0, ZERO_FP32, k < 2 ? ZERO_RULE_ADAMW : ZERO_RULE_ADAMW8);
        snprintf(folder[k % 2], sizeof folder[k % 2], "test_parts.%d.windows%d", (int)getpid(), k % 2);
        c.odd = true;
        c.folder = folder[k % 2];
        c.record = k < 2 ? &saved : &converted;
        c.later = &later;
        c.first = k == 0 || k == 2;
        parts_run(&c, k < 2 ? save_body : load_body);
    }
    ck_assert_int_eq(shell("rm -rf '%s' '%s'", folder[0], folder[1]), 0);
    parts_record_free(&saved);
    parts_record_free(&converted);
    parts_record_free(&later);
}
END_TEST

/* ---- updates ---------------------------------------------------------------------------------------------------- */

static int custom_body(parts_toy_t *t)
{
    static float values[PARTS_LONG];
    int64_t elements = 0;
    PARTS_DO(parts_fill(t, 1));
    PARTS_DO(parts_pass(t, 1, true, 0));
    t->found = 0;
    PARTS_TRY(zero_step(t->engine, 0.01));
    PARTS_TRY(zero_wait(t->engine));
    for (int p = 0; p < PARTS_PARAMS; p++) {
        if (parts_shapes[p].frozen)
            continue;
        elements += parts_count(p);
        for (int s = 2; s < 4; s++) {
            PARTS_TRY(zero_param_get(t->engine, t->param[p], s == 2 ? ZERO_STATE_MASTER : ZERO_STATE_MOMENT1, ZERO_FP32,
                                     values));
            for (int64_t i = 0; i < parts_count(p); i++)
                PARTS_IS(values[i] == parts_value(p, i, s));
        }
    }
    double found = (double)t->found;
    PARTS_TRY(zero_sum(t->engine, &found, 1));
    PARTS_IS(found == (double)elements); /* each once */
    return parts_pass(t, 0, false, 0);   /* padding is no element */
}

START_TEST(updates_of_whole_parameters)
{
    for (int m = 0; m < PARTS_MESHES; m++) {
        parts_case_t c = parts_case(m, 1 + m % 3, m % 2 ? ZERO_BF16 : ZERO_FP32, ZERO_RULE_CUSTOM);
        c.odd = true;
        parts_run(&c, custom_body);
    }
}
END_TEST

/* ---- failures --------------------------------------------------------------------------------------------------- */

static int fail_fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    memset(out, 0, (size_t)count * sizeof *out);
    (void)ctx, (void)param;
    return begin < 1024 ? 0 : -1;
}

static int fail_read(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    (void)ctx, (void)param, (void)count, (void)values;
    return begin < 1024 ? 0 : -1;
}

/* Parameter `columns`: the part of place 1 has runs of 512 elements from 512 on. */
static int failing_body(parts_toy_t *t)
{
    const char *run = t->place == 1 ? "'columns' 1536 2048" : "'columns' 1024 1536";
    PARTS_DO(parts_fill(t, 1));
    PARTS_IS(zero_param_read(t->engine, t->param[1], ZERO_STATE_MASTER, fail_read, NULL) == ZERO_ERR_IO);
    PARTS_IS(has_names(zero_last_error(t->engine), run));
    PARTS_DO(parts_fill(t, 1));
    const zero_status_t status = zero_param_fill(t->engine, t->param[1], fail_fill, NULL);
    PARTS_IS(status == ZERO_ERR_IO || status == ZERO_ERR_PEER);
    PARTS_IS(status == ZERO_ERR_PEER || has_names(zero_last_error(t->engine), run));
    return 0;
}

START_TEST(failures_name_elements_of_the_whole)
{
    parts_case_t c = parts_case(1, 0, ZERO_FP32, ZERO_RULE_ADAMW);
    parts_run(&c, failing_body);
}
END_TEST

static int no_matrix(void *ctx, const zero_matrix_args_t *args)
{
    (void)ctx, (void)args;
    return -1;
}

/* zero_commit of a plan for 4 ranks of tensor parallelism, with parameter `odd` or without. */
static void commit(bool odd, zero_rule_t rule, zero_status_t wanted, const char *names)
{
    parts_case_t c = parts_case(4, 0, ZERO_FP32, rule);
    parts_toy_t t = {.c = &c};
    zero_config_t config;
    c.odd = odd;
    zero_config_init(&config);
    config.plan_world = c.world;
    config.mesh.tensor = c.tensor;
    config.rule = rule;
    config.matrix = rule == ZERO_RULE_MUON ? no_matrix : NULL;
    ck_assert_int_eq(zero_create(&t.engine, &config, NULL), ZERO_OK);
    ck_assert_int_eq(parts_declare(&t), 0);
    ck_assert_int_eq(zero_commit(t.engine), wanted);
    EXPECT_NAMES(zero_last_error(t.engine), names);
    zero_destroy(t.engine);
}

START_TEST(optimizers_that_parts_exclude)
{
    commit(true, ZERO_RULE_ADAMW, ZERO_OK, "");
    commit(false, ZERO_RULE_ADAMW8, ZERO_OK, "");
    commit(true, ZERO_RULE_ADAMW8, ZERO_ERR_UNSUPPORTED, "config.mesh.tensor 4 `dimension 1` 'odd' 111 128");
    commit(false, ZERO_RULE_MUON, ZERO_ERR_UNSUPPORTED, "'rows' config.mesh.tensor 4 elementwise split_dim");
}
END_TEST

static void add_case(Suite *suite, const char *name, const TTest *test, int count)
{
    TCase *tcase = tcase_create(name);
    tcase_set_timeout(tcase, 1200);
    tcase_add_loop_test(tcase, test, 0, count);
    suite_add_tcase(suite, tcase);
}

int main(void)
{
    Suite *suite = suite_create("parts");
    add_case(suite, "contents", every_mesh_has_the_same_contents, 4);
    add_case(suite, "checkpoints", meshes_load_checkpoints_of_others, 4);
    add_case(suite, "blocks", blocks_across_parts, 1);
    add_case(suite, "windows", windows_across_blocks, 1);
    add_case(suite, "updates", updates_of_whole_parameters, 1);
    add_case(suite, "failures", failures_name_elements_of_the_whole, 1);
    add_case(suite, "refusals", optimizers_that_parts_exclude, 1);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
