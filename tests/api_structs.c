/* SPDX-License-Identifier: Apache-2.0 */
/* api_structs.c - structs of callers that were compiled with an older or newer header. */
#include "tests/api_suites.h"
#include "tests/checkpoint_case.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UP_TO(type, member) (offsetof(type, member) + sizeof((type *)0)->member)
#define OK(call) ck_assert_int_eq((call), ZERO_OK)

/* ---- structs that callers fill ---------------------------------------------------------------------------------- */

enum { ROOM = 4096, MARK = 0xa7 };
static zero_error_t why;
static api_engine_t engine;

static int meet_alone(void *ctx, const void *send, void *recv, size_t bytes)
{
    (void)ctx;
    memcpy(recv, send, bytes);
    return 0;
}
static void init_bootstrap(void *given, size_t size)
{
    zero_bootstrap_t b = {.size = size, .world = 1, .all_gather = meet_alone};
    memset(given, 0, size);
    memcpy(given, &b, size < sizeof b ? size : sizeof b);
}
static zero_status_t use_bootstrap(const void *given)
{
    zero_comm_t *made = NULL;
    zero_status_t status = zero_comm_shm(&made, given, NULL, &why);
    zero_comm_destroy(made);
    return status;
}

static void init_comm(void *given, size_t size)
{
    zero_comm_options_init_size(given, size);
}
static zero_status_t use_comm(const void *given)
{
    const zero_bootstrap_t alone = {.size = sizeof alone, .world = 1, .all_gather = meet_alone};
    zero_comm_t *made = NULL;
    zero_status_t status = zero_comm_shm(&made, &alone, given, &why);
    zero_comm_destroy(made);
    return status;
}

static void init_device(void *given, size_t size)
{
    zero_device_options_init_size(given, size);
}
static zero_status_t use_device(const void *given)
{
    zero_device_t *made = NULL;
    zero_status_t status = zero_device_cpu(&made, given, &why);
    zero_device_destroy(made);
    return status;
}

static void *lend(void *ctx, zero_tier_t tier, size_t bytes, size_t alignment)
{
    (void)ctx, (void)tier, (void)bytes, (void)alignment;
    return NULL;
}
static void take_back(void *ctx, zero_tier_t tier, void *memory, size_t bytes)
{
    (void)ctx, (void)tier, (void)memory, (void)bytes;
}
static void init_allocator(void *given, size_t size)
{
    const zero_allocator_t a = {.size = size, .allocate = lend, .release = take_back};
    memset(given, 0, size);
    memcpy(given, &a, size < sizeof a ? size : sizeof a);
}
static zero_status_t use_allocator(const void *given)
{
    zero_device_options_t options;
    zero_device_options_init(&options);
    options.allocator = given;
    return use_device(&options);
}

static void init_config(void *given, size_t size)
{
    int plan_world = 1;
    zero_config_init_size(given, size);
    if (size >= UP_TO(zero_config_t, plan_world))
        memcpy((char *)given + offsetof(zero_config_t, plan_world), &plan_world, sizeof plan_world);
}
static zero_status_t use_config(const void *given)
{
    zero_engine_t *made = NULL;
    zero_status_t status = zero_create(&made, given, &why);
    zero_destroy(made);
    return status;
}

static void init_desc(void *given, size_t size)
{
    static char name[20];
    static int names;
    const char *text = name;
    snprintf(name, sizeof name, "p%d", names++);
    zero_param_desc_init_size(given, size);
    if (size >= UP_TO(zero_param_desc_t, name))
        memcpy((char *)given + offsetof(zero_param_desc_t, name), &text, sizeof text);
}
static zero_status_t use_desc(const void *given)
{
    zero_param_t param;
    zero_status_t status = zero_param_add(engine.engine, 0, given, &param);
    if (status != ZERO_OK)
        snprintf(why.text, sizeof why.text, "%s", zero_last_error(engine.engine));
    return status;
}

static const struct filled {
    const char *name;
    size_t first, today; /* sizes of the first version and of this version, in bytes */
    bool by_hand;        /* the caller sets the size, because there is no init function */
    bool optional;       /* the function accepts NULL */
    void (*init)(void *given, size_t size);
    zero_status_t (*use)(const void *given);
} filled[] = {
    {"zero_bootstrap_t", UP_TO(zero_bootstrap_t, ctx), sizeof(zero_bootstrap_t), true, false, init_bootstrap,
     use_bootstrap},
    {"zero_comm_options_t", UP_TO(zero_comm_options_t, log_ctx), sizeof(zero_comm_options_t), false, true, init_comm,
     use_comm},
    {"zero_device_options_t", UP_TO(zero_device_options_t, allocator), sizeof(zero_device_options_t), false, true,
     init_device, use_device},
    {"zero_allocator_t", UP_TO(zero_allocator_t, ctx), sizeof(zero_allocator_t), true, true, init_allocator,
     use_allocator},
    {"zero_config_t", UP_TO(zero_config_t, update_states), sizeof(zero_config_t), false, false, init_config,
     use_config},
    {"zero_param_desc_t", UP_TO(zero_param_desc_t, lr_scale), sizeof(zero_param_desc_t), false, false, init_desc,
     use_desc},
};

static void set_up(void)
{
    engine = api_make(1, NULL, NULL);
}
static void tear_down(void)
{
    api_free(&engine);
}

/* The sentence names the init function that sets the size, or tells the caller to set it. */
static void says_what_sets_the_size(const char *text, const char *type, bool has_init)
{
    char remedy[100];
    if (has_init)
        snprintf(remedy, sizeof remedy, "%.*s_init", (int)strlen(type) - 2, type); /* without _t */
    else
        snprintf(remedy, sizeof remedy, ".size sizeof(%s)", type);
    API_SAYS(text, remedy);
}

START_TEST(programs_of_other_versions_run)
{
    const struct filled *f = &filled[_i];
    static union {
        size_t size;
        char bytes[ROOM];
    } given;
    size_t largest = f->today + 200;
    /* Smaller and larger structs: the function writes nothing beyond the caller's struct. */
    for (size_t size = 0; size <= largest; size++) {
        memset(given.bytes, MARK, ROOM);
        if (f->by_hand && size < sizeof size)
            continue; /* no init function */
        f->init(given.bytes, size);
        for (size_t i = size < sizeof size ? 0 : size; i < ROOM; i++)
            ck_assert_msg((unsigned char)given.bytes[i] == MARK, "%s: byte %zu of %zu was written", f->name, i, size);
        if (size < sizeof size)
            continue;
        ck_assert_uint_eq(given.size, size);
        for (size_t i = f->today; i < size; i++)
            ck_assert_int_eq(given.bytes[i], 0);
        why.text[0] = '\0';
        zero_status_t status = f->use(given.bytes);
        ck_assert_msg(status == (size < f->first ? ZERO_ERR_ARG : ZERO_OK), "%s of %zu bytes: %s: %s", f->name, size,
                      zero_status_name(status), why.text);
        if (size < f->first)
            API_SAYS(why.text, f->name);
    }
    /* Options that this library does not know, at every offset. */
    for (size_t at = f->today; at < largest; at++) {
        f->init(given.bytes, largest);
        given.bytes[at] = 1;
        ck_assert_int_eq(f->use(given.bytes), ZERO_ERR_ARG);
        API_SAYS(why.text, f->name);
    }
    /* The caller never set the size. */
    f->init(given.bytes, f->today);
    given.size = 0;
    ck_assert_int_eq(f->use(given.bytes), ZERO_ERR_ARG);
    API_SAYS(why.text, "0");
    says_what_sets_the_size(why.text, f->name, !f->by_hand);
    given.size = (size_t)-1 / 2;
    ck_assert_int_eq(f->use(given.bytes), ZERO_ERR_ARG);
    API_SAYS(why.text, "9223372036854775807 65536");
    says_what_sets_the_size(why.text, f->name, !f->by_hand);
    ck_assert_int_eq(f->use(NULL) == ZERO_OK, f->optional);
}
END_TEST

/* ---- structs that the library fills ----------------------------------------------------------------------------- */

static zero_tensors_t *tensors;
static zero_checkpoint_t *checkpoint;
static zero_engine_t *trained;

static zero_status_t fill_stats(void *given)
{
    return zero_step_stats(trained, given);
}
static zero_status_t fill_forecast(void *given)
{
    return zero_forecast(trained, given);
}
static zero_status_t fill_measure(void *given)
{
    return zero_measure(trained, given);
}
static zero_status_t fill_info(void *given)
{
    return zero_tensors_at(tensors, 0, given);
}

static zero_status_t fill_checkpoint(void *given)
{
    return zero_checkpoint_info(checkpoint, given);
}

/* Its files stay readable without their names. */
static void open_checkpoint(void)
{
    static const char *const names[] = {"parameters.safetensors", "master.safetensors", "moment1.safetensors",
                                        "manifest.json"};
    char path[64];
    checkpoint_case_t c;
    case_make(&c, 0, true);
    ck_assert_msg(case_save(&c, "structs.step", 1, &why) == ZERO_OK, "%s", why.text);
    OK(zero_checkpoint_open(&checkpoint, "structs.step", &why));
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        snprintf(path, sizeof path, "structs.step/%s", names[k]);
        ck_assert_int_eq(unlink(path), 0);
    }
    ck_assert_int_eq(rmdir("structs.step"), 0);
    case_clear(&c);
}

static void open_tensors(void)
{
    static const char file[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    const uint64_t length = sizeof file - 1;
    const float values[2] = {1, 2};
    FILE *f = fopen("structs.safetensors", "wb");
    ck_assert_ptr_nonnull(f);
    fwrite(&length, 8, 1, f);
    fwrite(file, 1, length, f);
    fwrite(values, 4, 2, f);
    fclose(f);
    OK(zero_tensors_open(&tensors, "structs.safetensors", &why));
    unlink("structs.safetensors");
}

START_TEST(the_library_fills_what_there_is)
{
    static const struct {
        zero_status_t (*fill)(void *given);
        size_t first, today;
    } outs[] = {{fill_stats, UP_TO(zero_stats_t, total_seconds), sizeof(zero_stats_t)},
                {fill_forecast, UP_TO(zero_memory_t, external), sizeof(zero_memory_t)},
                {fill_measure, UP_TO(zero_memory_t, external), sizeof(zero_memory_t)},
                {fill_info, UP_TO(zero_tensor_info_t, count), sizeof(zero_tensor_info_t)},
                {fill_checkpoint, UP_TO(zero_checkpoint_info_t, warning), sizeof(zero_checkpoint_info_t)}};
    static union {
        size_t size;
        char bytes[ROOM];
    } given;
    api_engine_t a = api_make(0, NULL, NULL);
    trained = a.engine;
    OK(zero_commit(trained));
    open_tensors();
    open_checkpoint();
    zero_stats_t stats = {.size = 0};
    ck_assert_int_eq(zero_step_stats(trained, &stats), ZERO_ERR_ARG);
    says_what_sets_the_size(zero_last_error(trained), "zero_stats_t", false);
    for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
        for (size_t size = 0; size < outs[o].today + 100; size += size < outs[o].first - 4 ? 7 : 1) {
            memset(given.bytes, MARK, ROOM);
            given.size = size;
            ck_assert_int_eq(outs[o].fill(given.bytes), size < outs[o].first ? ZERO_ERR_ARG : ZERO_OK);
            ck_assert_uint_eq(given.size, size);
            for (size_t i = size < outs[o].first ? sizeof size : size; i < ROOM; i++)
                ck_assert_msg((unsigned char)given.bytes[i] == MARK, "struct %zu: byte %zu of %zu was written", o, i,
                              size);
            for (size_t i = outs[o].today; i < size; i++)
                ck_assert_int_eq(given.bytes[i], 0);
            int changed = 0;
            for (size_t i = sizeof size; i < outs[o].today; i++)
                changed += (unsigned char)given.bytes[i] != MARK;
            ck_assert_int_eq(changed > (int)outs[o].today / 2, size >= outs[o].first);
        }
    given.size = (size_t)-1 / 2; /* the caller never set the size: it is garbage */
    for (size_t o = 0; o < sizeof outs / sizeof *outs; o++)
        ck_assert_int_eq(outs[o].fill(given.bytes), ZERO_ERR_ARG);
    zero_tensors_close(tensors);
    zero_checkpoint_close(checkpoint);
    api_free(&a);
}
END_TEST

TCase *api_structs_case(void)
{
    TCase *t = tcase_create("structs");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_loop_test(t, programs_of_other_versions_run, 0, (int)(sizeof filled / sizeof *filled));
    tcase_add_test(t, the_library_fills_what_there_is);
    return t;
}
