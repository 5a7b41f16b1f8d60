/* SPDX-License-Identifier: Apache-2.0 */
/* test_nccl_one.c - NCCL with one rank on one GPU, real or emulated: the features of NCCL that one GPU can test. */
#include "tests/expect.h"
#include "tests/comm_cases.h"
#include "tests/emulated.h"

#include <check.h>
#include <dlfcn.h>

enum { ROOM = 4 << 20 };

typedef struct rank {
    zero_comm_t *host, *c;
    zero_device_t *device;
    zero_stream_t *stream;
    zero_arena_t *arena;
    void *native;
    char *room;
    bool windows; /* instead of registered memory */
    int warnings; /* of the log */
} rank_t;

static void count_warnings(void *ctx, zero_log_level_t level, const char *text)
{
    rank_t *r = ctx;
    if (level == ZERO_LOG_WARNING) {
        fprintf(stderr, "%s\n", text);
        r->warnings++;
    }
}

static int nccl_start(rank_t *r)
{
    zero_comm_options_t o;
    zero_comm_options_init(&o);
    o.timeout_s = 120;
    o.log = count_warnings;
    o.log_ctx = r;
    o.nccl_windows = r->windows;
    EXPECT_OK(zero_comm_nccl(&r->c, r->host, r->device, NULL, &o, error));
    EXPECT(r->c->size == 1 && r->c->rank == 0 && strcmp(zero_comm_name(r->c), "nccl") == 0);
    return 0;
}

static int begin(rank_t *r, bool windows)
{
    *r = (rank_t){.windows = windows};
    EXPECT_OK(zero_comm_self(&r->host, error));
    EXPECT_OK(zero_device_cuda(&r->device, NULL, error));
    EXPECT_OK(r->device->ops->stream_create(r->device, ZERO_STREAM_GATHER, &r->stream, error));
    r->native = r->device->ops->native(r->stream);
    EXPECT_OK(windows ? r->device->ops->arena_create_shareable(r->device, ROOM, &r->arena, error)
                      : r->device->ops->arena_create(r->device, ZERO_TIER_DEVICE, ROOM, &r->arena, error));
    r->room = r->device->ops->arena_base(r->arena);
    return nccl_start(r);
}

static void end(rank_t *r)
{
    zero_comm_destroy(r->c);
    r->device->ops->stream_destroy(r->stream);
    r->device->ops->arena_destroy(r->arena);
    zero_device_destroy(r->device);
    zero_comm_destroy(r->host);
}

/* Collectives on registered memory. With one rank, gathers and sums are copies. */
static int registered_cases(rank_t *r, zero_comm_t *c)
{
    enum { COUNT = 5000 };
    const zero_device_ops_t *d = r->device->ops;
    float in[COUNT], gathered[COUNT], summed[COUNT];
    for (int i = 0; i < COUNT; i++)
        in[i] = (float)i / 7;
    float *at[3] = {(float *)r->room, (float *)r->room + COUNT, (float *)r->room + 2 * COUNT};
    EXPECT_OK(d->copy(r->device, r->native, at[0], in, sizeof in, error));
    EXPECT_OK(zero_comm_all_gather(c, at[0], at[1], sizeof in, r->native, error));
    EXPECT_OK(zero_comm_reduce_scatter(c, at[1], at[2], COUNT, ZERO_FP32, r->native, error));
    EXPECT_OK(d->copy(r->device, r->native, gathered, at[1], sizeof in, error));
    EXPECT_OK(d->copy(r->device, r->native, summed, at[2], sizeof in, error));
    EXPECT_OK(d->finish(r->device, r->native, 60, error));
    EXPECT_OK(zero_comm_check(c, error));
    EXPECT(memcmp(gathered, in, sizeof in) == 0 && memcmp(summed, in, sizeof in) == 0);
    return 0;
}

static int all_cases(bool windows)
{
    rank_t r;
    zero_comm_t *part;
    if (begin(&r, windows) || comm_cases_on(r.c, r.device, r.native, 1))
        return 1;
    EXPECT_OK(zero_comm_split(r.c, 0, 0, &part, error));
    EXPECT(part->size == 1);
    EXPECT_OK(zero_comm_attach(r.c, r.room, ROOM, error));
    EXPECT_OK(zero_comm_attach(part, r.room, ROOM, error));
    if (registered_cases(&r, r.c) || registered_cases(&r, part) || comm_cases_on(part, r.device, r.native, 2))
        return 1;
    zero_comm_destroy(part);
    if (registered_cases(&r, r.c))
        return 1;
    end(&r);
    /* A real NCCL may make no window for one rank; a warning then says so. */
    EXPECT(r.warnings == 0 || (windows && !strstr(getenv("ZERO_PLUGIN_PATH"), "emulator")));
    return 0;
}

START_TEST(nccl_works_with_one_rank)
{
    ck_assert_int_eq(all_cases(_i), 0);
}
END_TEST

/* An abort with collectives on the stream: waiting work ends, the error is reported, and NCCL can be started again. */
static int abort_case(bool windows)
{
    rank_t r;
    zero_error_t why = {0};
    if (begin(&r, windows))
        return 1;
    EXPECT_OK(zero_comm_attach(r.c, r.room, ROOM, error));
    for (int i = 0; i < 20; i++)
        EXPECT_OK(zero_comm_all_gather(r.c, r.room, r.room + ROOM / 2, ROOM / 2, r.native, error));
    zero_comm_abort(r.c, "rank 0 gives up");
    EXPECT(zero_comm_check(r.c, &why) == ZERO_ERR_PEER && has_names(why.text, "`rank 0 gives up`"));
    EXPECT(zero_comm_all_gather(r.c, r.room, r.room, 16, r.native, &why) == ZERO_ERR_PEER);
    EXPECT_OK(r.device->ops->finish(r.device, r.native, 60, error));
    zero_comm_destroy(r.c);
    r.c = NULL;
    zero_comm_destroy(r.host);
    EXPECT_OK(zero_comm_self(&r.host, error));
    if (nccl_start(&r) || registered_cases(&r, r.c))
        return 1;
    end(&r);
    return 0;
}

START_TEST(nccl_of_one_rank_is_aborted)
{
    ck_assert_int_eq(abort_case(_i), 0);
}
END_TEST

int main(void)
{
    char library[4096];
    const char *top = getenv("top_builddir");
    if (!emulated_plugins())
        return 77;
    snprintf(library, sizeof library, "%s/tests/emulator/libnccl_emulator.so", top ? top : ".");
    if (strstr(getenv("ZERO_PLUGIN_PATH"), "emulator"))
        setenv("ZERO_NCCL_LIBRARY", library, 0);
    const char *asked = getenv("ZERO_NCCL_LIBRARY"), *file = asked && *asked ? asked : "libnccl.so.2";
    if (!dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
        printf("there is no NCCL here: %s\n", dlerror());
        return 77;
    }
    Suite *suite = suite_create("nccl_one");
    TCase *t = tcase_create("nccl_one");
    tcase_set_timeout(t, 300);
    tcase_add_loop_test(t, nccl_works_with_one_rank, 0, 2);
    tcase_add_loop_test(t, nccl_of_one_rank_is_aborted, 0, 2);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
