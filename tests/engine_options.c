/* engine_options.c - what zero_create and zero_commit say of options and declarations. */
#include "tests/engine_suites.h"
#include "zero/zero.h"

#include <stdio.h>
#include <string.h>

#define OK(call) ck_assert_int_eq(call, ZERO_OK)
#define FAILS(engine, call, status, part)                                                                                          \
    do {                                                                                                                           \
        ck_assert_int_eq(call, status);                                                                                            \
        ck_assert_msg(strstr(zero_last_error(engine), part) != NULL, "'%s' is not in '%s'", part, zero_last_error(engine));        \
    } while (0)

/* ---- declarations ---------------------------------------------------------------------------------------------------- */

/* Collects warnings, one a line. */
static void collect(void *ctx, zero_log_level_t level, const char *text)
{
    char *said = ctx;
    size_t at = strlen(said);
    if (level == ZERO_LOG_WARNING)
        snprintf(said + at, 2000 - at, "%s\n", text);
}

/* An engine of two units, 'a' (trained) and 'f' (frozen), which plans for two ranks. said: 2000 bytes for warnings. */
static zero_engine_t *two_units(char *said, zero_pass_t *pass)
{
    static const char *const names[] = {"a", "f"};
    zero_engine_t *e = NULL;
    zero_config_t config;
    zero_param_desc_t desc;
    zero_unit_t unit;
    zero_param_t param;
    zero_config_init(&config);
    config.plan_world = 2;
    config.log = collect;
    config.log_ctx = said;
    said[0] = '\0';
    OK(zero_create(&e, &config, NULL));
    for (int u = 0; u < 2; u++) {
        zero_param_desc_init(&desc);
        desc.name = u == 0 ? "a.w" : "f.w";
        desc.ndim = 1;
        desc.shape[0] = 10;
        desc.trainable = u == 0;
        OK(zero_unit_add(e, names[u], &unit));
        OK(zero_param_add(e, unit, &desc, &param));
    }
    OK(zero_pass_add(e, "train", ZERO_PASS_TRAIN, pass));
    return e;
}

/* A trainable parameter that gets no gradients is refused; what is merely strange is logged. */
START_TEST(uses_fit_what_is_trained)
{
    static const struct {
        uint32_t a, f; /* uses of the units; 0: none */
        bool any;
        const char *refusal, *warnings; /* parts */
    } ways[] = {
        {ZERO_READ | ZERO_GRAD, ZERO_READ, false, NULL, ""},
        {ZERO_GRAD, ZERO_READ, false, NULL, ""},
        {ZERO_READ, ZERO_READ, false, "parameter 'a.w' of unit 'a' is trainable, but no use of the unit in pass 'train' has ZERO_GRAD", NULL},
        {0, ZERO_READ, true, "declare the use that adds to its gradient with ZERO_GRAD, or the parameter with trainable = false", NULL},
        {0, 0, false, "parameter 'a.w'", NULL},
        {ZERO_GRAD, ZERO_READ | ZERO_GRAD, false, NULL, "unit 'f' is used with ZERO_GRAD in pass 'train', but none of its parameters is trainable"},
        {ZERO_GRAD, 0, false, NULL, "unit 'f' is used by no pass"},
        {ZERO_GRAD, 0, true, NULL, ""},
    };
    char said[2000];
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        zero_pass_t pass, any;
        zero_engine_t *e = two_units(said, &pass);
        if (ways[i].a)
            OK(zero_use_add(e, pass, 0, ways[i].a));
        if (ways[i].f)
            OK(zero_use_add(e, pass, 1, ways[i].f));
        if (ways[i].any)
            OK(zero_pass_add(e, "any", ZERO_PASS_ANY_ORDER, &any));
        if (ways[i].refusal)
            FAILS(e, zero_commit(e), ZERO_ERR_ARG, ways[i].refusal);
        else
            OK(zero_commit(e));
        const char *wanted = ways[i].warnings ? ways[i].warnings : "";
        ck_assert_msg(*wanted ? strstr(said, wanted) != NULL && strchr(said, '\n')[1] == '\0' : said[0] == '\0', "way %zu: warned '%s'", i, said);
        zero_destroy(e);
    }
}
END_TEST

/* A training pass without uses, of a model of which nothing is trained. */
START_TEST(empty_training_passes_are_told)
{
    char said[2000] = "";
    zero_config_t config;
    zero_engine_t *e = NULL;
    zero_pass_t pass;
    zero_config_init(&config);
    config.plan_world = 1;
    config.log = collect;
    config.log_ctx = said;
    OK(zero_create(&e, &config, NULL));
    OK(zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
    OK(zero_commit(e));
    ck_assert_str_eq(said, "training pass 'train' has no uses, so it trains nothing: declare each acquire with zero_use_add\n");
    zero_destroy(e);
}
END_TEST

Suite *engine_options_suite(void)
{
    Suite *suite = suite_create("options");
    TCase *t = tcase_create("declarations");
    tcase_add_test(t, uses_fit_what_is_trained);
    tcase_add_test(t, empty_training_passes_are_told);
    suite_add_tcase(suite, t);
    return suite;
}
