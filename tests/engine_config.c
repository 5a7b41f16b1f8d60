/* SPDX-License-Identifier: Apache-2.0 */
/* engine_config.c - every row of the table of options: its bounds, its part in the plan's hash, and the sentence if
 * ranks differ in it. New rows need no new line here. */
#include "tests/expect.h"
#include "tests/engine_suites.h"
#include "tests/ranks.h"
#include "zero/config.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>

static const zero_field_t *field;

/* Loops over the rows. */
#define EACH_FIELD for (int i_ = 0; (field = zero_config_field(i_)) != NULL; i_++)

static int no_update(void *ctx, const zero_update_args_t *args)
{
    (void)ctx, (void)args;
    return 0;
}

/* Valid configurations. Each option can change in at least one of them. NULL: no configuration has this number. */
static const zero_config_t *base(int number)
{
    static zero_config_t c;
    zero_config_init(&c);
    c.plan_world = 2;
    c.nvme_path = ".";
    if (number == 1)
        zero_config_stage(&c, 0);
    if (number == 2)
        c.optimizer.tier = ZERO_TIER_HOST;
    if (number == 3) {
        c.rule = ZERO_RULE_CUSTOM;
        c.update = no_update;
    }
    return number < 4 ? &c : NULL;
}

static bool is_possible(const zero_config_t *c)
{
    zero_engine_t *engine = NULL;
    zero_status_t status = zero_create(&engine, c, NULL);
    zero_destroy(engine);
    return status == ZERO_OK;
}

static bool fits(double number)
{
    return field->type == ZERO_FIELD_REAL || (fabs(number) < 0x1p62 && number == floor(number));
}

/* Finds two valid configurations that differ only in the field. */
static bool pair(zero_config_t *a, zero_config_t *b)
{
    for (int k = 0; base(k) != NULL; k++) {
        *a = *b = *base(k);
        uint64_t value = zero_field_value(field, a);
        double real, tries[] = {0, field->low, field->high};
        memcpy(&real, &value, sizeof real);
        tries[0] = field->type == ZERO_FIELD_REAL ? real / 2 : (double)(int64_t)value + 1;
        for (int t = 0; t < 3; t++) {
            if (!fits(tries[t]))
                continue;
            zero_field_set(field, b, tries[t]);
            if (zero_field_value(field, b) != value && is_possible(b))
                return true;
        }
    }
    return false;
}

/* Whether zero_create refuses the number, with a sentence that names the field and the allowed values. */
static bool is_out_of_bounds(double number)
{
    char begin[80], middle[160];
    zero_error_t error = {.text = ""};
    zero_engine_t *engine = NULL;
    zero_config_t c = *base(0);
    zero_field_set(field, &c, number);
    zero_status_t status = zero_create(&engine, &c, &error);
    zero_destroy(engine);
    snprintf(begin, sizeof begin, "config.%s ", field->name);
    snprintf(middle, sizeof middle, ", but must be %s", field->wanted);
    return status == ZERO_ERR_ARG && strncmp(error.text, begin, strlen(begin)) == 0 &&
           strstr(error.text, middle) != NULL;
}

START_TEST(bounds_hold)
{
    EACH_FIELD
    {
        bool real = field->type == ZERO_FIELD_REAL;
        double below = real ? nextafter(field->low, -INFINITY) : field->low - 1;
        double above = real ? nextafter(field->high, INFINITY) : field->high + 1;
        bool whole = field->type == ZERO_FIELD_INT || field->type == ZERO_FIELD_ENUM;
        ck_assert_msg(field->initial >= field->low && field->initial <= field->high, "%s", field->name);
        if (field->type == ZERO_FIELD_SWITCH || isinf(field->low))
            continue;
        ck_assert_msg(is_out_of_bounds(below), "%s below %g", field->name, field->low);
        ck_assert_msg(!is_out_of_bounds(field->low), "%s at %g", field->name, field->low);
        ck_assert_msg(!real || is_out_of_bounds(NAN), "%s is NaN", field->name);
        if (isinf(field->high) || (whole && field->high == INT_MAX))
            continue;
        ck_assert_msg(is_out_of_bounds(above), "%s above %g", field->name, field->high);
        ck_assert_msg(!is_out_of_bounds(field->high), "%s at %g", field->name, field->high);
    }
}
END_TEST

/* Ranks may differ in exactly these options. */
START_TEST(ranks_have_these_of_their_own)
{
    char names[300] = "";
    EACH_FIELD if (field->scope == ZERO_SCOPE_RANK)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s ", field->name);
    ck_assert_str_eq(names, "comm device plan_world memory_limit nvme_path timeout_s log log_ctx update update_ctx "
                            "matrix matrix_ctx name_change name_change_ctx ");
}
END_TEST

/* Different reals get different texts, which have no more digits than needed. */
START_TEST(values_as_text)
{
    const zero_field_t real = {.type = ZERO_FIELD_REAL};
    const struct {
        double value;
        const char *text;
    } cases[] = {{0.1, "0.1"}, {0.1 + 0x1p-56, "0.10000000000000002"}, {1e-8, "1e-08"}, {1234567, "1234567"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t bits;
        memcpy(&bits, &cases[i].value, sizeof bits);
        ck_assert_str_eq(zero_field_text(&real, bits).s, cases[i].text);
    }
}
END_TEST

/* A field without a row would leave a gap. */
START_TEST(rows_cover_the_struct)
{
    size_t end = sizeof(size_t);
    EACH_FIELD
    {
        size_t size = field->type == ZERO_FIELD_SWITCH                                  ? sizeof(bool)
                      : field->type == ZERO_FIELD_INT || field->type == ZERO_FIELD_ENUM ? sizeof(int)
                                                                                        : sizeof(double);
        ck_assert_msg(field->offset == (end + size - 1) / size * size, "a field before config.%s", field->name);
        end = field->offset + size;
    }
    ck_assert_uint_eq((end + 7) / 8 * 8, sizeof(zero_config_t));
}
END_TEST

START_TEST(defaults)
{
    zero_config_t c;
    zero_config_init(&c);
    ck_assert(c.comm == NULL && c.device == NULL && c.plan_world == 0 && c.window == 2 && c.micro_steps == 1);
    ck_assert(c.parameters.sharding == ZERO_SHARDED && c.gradients.sharding == ZERO_SHARDED &&
              c.optimizer.sharding == ZERO_SHARDED && c.parameters.tier == ZERO_TIER_DEVICE &&
              c.gradients.tier == ZERO_TIER_DEVICE && c.optimizer.tier == ZERO_TIER_DEVICE);
    ck_assert(c.reduce == ZERO_REDUCE_EVERY && c.reduce_dtype == ZERO_FP32 && c.persist_bytes == 65536);
    ck_assert(c.clip == 1 && c.grad_scale == 1 && c.rule == ZERO_RULE_ADAMW && c.beta1 == 0.9 && c.beta2 == 0.95 &&
              c.eps == 1e-8 && c.weight_decay == 0.1);
    ck_assert(c.memory_limit == 0 && c.offload_ratio == 1 && c.nvme_path == NULL && c.timeout_s == 600);
    ck_assert(c.log == NULL && c.log_ctx == NULL && c.update == NULL && c.update_ctx == NULL && c.update_states == 0);
    ck_assert(c.check_order && !c.guard);
    ck_assert(c.mesh.pipe == 1 && c.mesh.replicas == 1 && c.mesh.context == 1 && c.mesh.tensor == 1 && !c.mesh.node);
}
END_TEST

/* One sentence names all options that are out of bounds; it is cut if it is too long. */
START_TEST(all_wrong_options_are_named)
{
    zero_error_t error = {.text = ""};
    zero_engine_t *engine = NULL;
    zero_config_t c = *base(0);
    c.window = 0;
    c.clip = NAN;
    c.reduce_dtype = ZERO_FP16;
    ck_assert_int_eq(zero_create(&engine, &c, &error), ZERO_ERR_ARG);
    ck_assert_msg(strncmp(error.text, "config.window ", 14) == 0 &&
                      has_names(error.text, "config.reduce_dtype 2 fp16 ZERO_FP32 ZERO_BF16 config.clip"),
                  "%s", error.text);
    EACH_FIELD if (field->type != ZERO_FIELD_POINTER && isfinite(field->low)) zero_field_set(field, &c, field->low - 1);
    ck_assert_int_eq(zero_create(&engine, &c, &error), ZERO_ERR_ARG);
    ck_assert_uint_eq(strlen(error.text), sizeof error.text - 1);
}
END_TEST

/* Cuts the empty model into the chunks that a pipeline needs, and commits. */
static zero_status_t commit(zero_engine_t *engine, const zero_config_t *c)
{
    zero_status_t status = c->mesh.pipe > 1 ? zero_chunks(engine, c->mesh.pipe) : ZERO_OK;
    for (int i = 0; i + 1 < c->mesh.pipe && status == ZERO_OK; i++)
        status = zero_chunk_link(engine, i, 1, ZERO_FP32);
    return status == ZERO_OK ? zero_commit(engine) : status;
}

static uint64_t hash_of(const zero_config_t *c)
{
    zero_engine_t *engine = NULL;
    ck_assert_int_eq(zero_create(&engine, c, NULL), ZERO_OK);
    ck_assert_int_eq(commit(engine, c), ZERO_OK);
    uint64_t hash = zero_plan_hash(engine);
    zero_destroy(engine);
    return hash;
}

/* The model is empty, so the plans do not differ otherwise. */
START_TEST(the_hash_sees_each_option_of_the_plan)
{
    EACH_FIELD if (field->scope == ZERO_SCOPE_PLAN && field->low < field->high)
    {
        zero_config_t a, b;
        ck_assert_msg(pair(&a, &b), "%s", field->name);
        ck_assert_uint_eq(hash_of(&a), hash_of(&a));
        ck_assert_msg(hash_of(&a) != hash_of(&b), "%s", field->name);
    }
}
END_TEST

/* Rank 1 differs from the others in one field after the other. */
static int differ(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    int wrong = 0;
    zero_comm_t *comm = NULL;
    zero_device_t *device = NULL;
    (void)world, (void)arg;
    if (zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK || zero_device_cpu(&device, NULL, NULL) != ZERO_OK)
        return 1;
    EACH_FIELD if (field->scope != ZERO_SCOPE_RANK && field->low < field->high)
    {
        char wanted[300];
        zero_config_t a, b;
        zero_engine_t *engine = NULL;
        wrong += !pair(&a, &b);
        snprintf(wanted, sizeof wanted, "`rank 1` `rank 0` config.%s `%s` `%s`", field->name,
                 zero_field_text(field, zero_field_value(field, &a)).s,
                 zero_field_text(field, zero_field_value(field, &b)).s);
        zero_config_t *own = rank == 1 ? &b : &a;
        own->plan_world = 0;
        own->comm = comm;
        own->device = device;
        zero_status_t status = zero_create(&engine, own, NULL);
        if (status == ZERO_OK)
            status = commit(engine, own);
        if (status != ZERO_ERR_MISMATCH || !has_names(zero_last_error(engine), wanted)) {
            fprintf(stderr, "rank %d: %s, '%s' is not '%s'\n", rank, zero_status_name(status), zero_last_error(engine),
                    wanted);
            wrong++;
        }
        zero_destroy(engine);
    }
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    return wrong != 0;
}

START_TEST(ranks_that_differ_say_in_what)
{
    ck_assert_int_eq(ranks_run(4, 60, differ, NULL), 0); /* a mesh of 2 replicas fits */
}
END_TEST

Suite *engine_config_suite(void)
{
    Suite *suite = suite_create("config");
    TCase *t = tcase_create("table");
    tcase_set_timeout(t, 90);
    tcase_add_test(t, bounds_hold);
    tcase_add_test(t, ranks_have_these_of_their_own);
    tcase_add_test(t, values_as_text);
    tcase_add_test(t, rows_cover_the_struct);
    tcase_add_test(t, defaults);
    tcase_add_test(t, all_wrong_options_are_named);
    tcase_add_test(t, the_hash_sees_each_option_of_the_plan);
    tcase_add_test(t, ranks_that_differ_say_in_what);
    suite_add_tcase(suite, t);
    return suite;
}
