/* SPDX-License-Identifier: Apache-2.0 */
/* test_trace.c - --trace: which steps, which files, and what is in them (train/trace.c). `test_trace FILE RANK` checks
 * the file of a rank instead, for test_train_trace.sh: it is JSON, each event has what viewers want, and the spans of a
 * track lie apart or inside of each other. It prints a line for each span: step, track, operation, unit or chunk. */
#include "tests/expect.h"
#include "train/trace.h"

#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- a file ----------------------------------------------------------------------------------------------------- */

typedef struct span {
    int track;
    double begin, end; /* microseconds */
    const char *name;
} span_t;

static int by_begin(const void *a, const void *b)
{
    const span_t *x = a, *y = b;
    if (x->track != y->track)
        return x->track - y->track;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end > y->end ? -1 : x->end < y->end;
}

static int complain(const char *path, const char *what, const char *name)
{
    fprintf(stderr, "%s: %s: %s\n", path, what, name ? name : "?");
    return 1;
}

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Spans of a track, in the order of their begins: each lies apart from the ones before, or inside of one. */
static int check_nesting(const char *path, span_t *spans, int count)
{
    double open[64];
    int depth = 0;
    const double rounding = 0.0005;
    qsort(spans, (size_t)count, sizeof *spans, by_begin);
    for (int i = 0; i < count; i++) {
        if (i > 0 && spans[i].track != spans[i - 1].track)
            depth = 0;
        while (depth > 0 && open[depth - 1] <= spans[i].begin + rounding)
            depth--;
        if (depth > 0 && spans[i].end > open[depth - 1] + rounding)
            return complain(path, "a span overlaps another one", spans[i].name);
        if (depth == 64)
            return complain(path, "spans are too deep", spans[i].name);
        open[depth++] = spans[i].end;
    }
    return 0;
}

static int check_file(const char *path, int rank, FILE *list)
{
    static const char *names[64];
    json_error_t why;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &why), *events = json_object_get(root, "traceEvents"),
           *event;
    size_t i;
    int count = 0, result = 0;
    if (!json_is_array(events))
        return complain(path, "not JSON with an array traceEvents", why.text);
    span_t *spans = calloc(json_array_size(events) + 1, sizeof *spans);
    json_array_foreach(events, i, event)
    {
        const char *name = text_of(event, "name"), *kind = text_of(event, "ph");
        json_t *args = json_object_get(event, "args"), *ts = json_object_get(event, "ts"),
               *dur = json_object_get(event, "dur");
        json_int_t track = json_integer_value(json_object_get(event, "tid"));
        if (!*name || json_integer_value(json_object_get(event, "pid")) != rank || track < 0 || track >= 64)
            result = complain(path, "an event lacks its name, rank or track", name);
        if (strcmp(kind, "M") == 0) {
            if (strcmp(name, "thread_name") == 0)
                names[track] = text_of(args, "name");
            continue;
        }
        const char *cat = text_of(event, "cat"), *unit = text_of(args, "unit");
        if (strcmp(kind, "X") != 0 || !json_is_real(ts) || !json_is_real(dur) || json_real_value(dur) < 0)
            result = complain(path, "an event is no span", name);
        else if (!names[track] || strcmp(names[track], cat) != 0)
            result = complain(path, "a span's category is not its track's name", name);
        else if (!json_is_integer(json_object_get(args, "step")))
            result = complain(path, "a span has no step", name);
        if (result || !spans)
            break;
        spans[count++] = (span_t){(int)track, json_real_value(ts), json_real_value(ts) + json_real_value(dur), name};
        if (list)
            fprintf(list, "%lld %s %.*s %s\n", (long long)json_integer_value(json_object_get(args, "step")), cat,
                    (int)strcspn(name, " "), name,
                    *unit                            ? unit
                    : json_object_get(args, "chunk") ? name + strcspn(name, " ") + 1
                                                     : "-");
    }
    result = result || check_nesting(path, spans, count);
    free(spans);
    json_decref(root);
    return result;
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static const struct range_case {
    const char *text;
    int64_t start, steps, first, last; /* first 0: refused */
    const char *says;
} ranges[] = {
    {NULL, 0, 1500, 4, 6, ""},
    {NULL, 0, 6, 4, 6, ""},
    {NULL, 0, 5, 3, 5, ""},
    {NULL, 0, 2, 1, 2, ""},
    {NULL, 0, 0, 1, 0, ""}, /* none */
    {NULL, 100, 1500, 104, 106, ""},
    {NULL, 1498, 1500, 1499, 1500, ""},
    {"1-1", 0, 10, 1, 1, ""},
    {"7", 0, 10, 7, 7, ""},
    {"2-10", 0, 10, 2, 10, ""},
    {"2-10", 5, 10, 6, 10, ""},
    {"3-2", 0, 10, 0, 0, "3-2 2-3"},
    {"0-2", 0, 10, 0, 0, "0-2 1"},
    {"9-11", 0, 10, 0, 0, "9-11 --steps 10"},
    {"1-99999999999999999999", 0, 10, 0, 0, "1-99999999999999999999"},
    {"", 0, 10, 0, 0, "4-6"},
    {"-2", 0, 10, 0, 0, "-2 4-6"},
    {"1-", 0, 10, 0, 0, "1- 4-6"},
    {"1--2", 0, 10, 0, 0, "1--2 4-6"},
    {"1- 2", 0, 10, 0, 0, "4-6"},
    {"1-2x", 0, 10, 0, 0, "1-2x 4-6"},
};

START_TEST(steps_are_chosen)
{
    const struct range_case *c = &ranges[_i];
    zero_error_t error = {.text = ""};
    int64_t first = -1, last = -1;
    options_t o;
    options_init(&o);
    o.trace = "x";
    o.trace_steps = c->text;
    o.steps = c->steps;
    zero_status_t status = trace_range(&o, c->start, &first, &last, &error);
    if (c->first == 0) {
        ck_assert_int_eq(status, ZERO_ERR_ARG);
        EXPECT_NAMES(error.text, "--trace-steps");
        EXPECT_NAMES(error.text, c->says);
        return;
    }
    ck_assert_msg(status == ZERO_OK, "%s", error.text);
    ck_assert_int_eq(first, c->first);
    ck_assert_int_eq(last, c->last);
}
END_TEST

START_TEST(steps_need_a_file)
{
    zero_error_t error;
    int64_t first, last;
    options_t o;
    options_init(&o);
    o.steps = 10;
    ck_assert_int_eq(trace_range(&o, 0, &first, &last, &error), ZERO_OK);
    o.trace_steps = "1-2";
    ck_assert_int_eq(trace_range(&o, 0, &first, &last, &error), ZERO_ERR_ARG);
    EXPECT_NAMES(error.text, "--trace-steps 1-2 --trace");
}
END_TEST

START_TEST(each_rank_has_its_file)
{
    static const struct {
        const char *file;
        int rank, world;
        const char *path;
    } cases[] = {
        {"run.json", 0, 1, "run.json"},
        {"run.json", 11, 12, "run.11.json"},
        {"run", 0, 2, "run.0"},
        {"a.b/run", 1, 2, "a.b/run.1"},
        {".json", 1, 2, ".json.1"},
        {"./.a/.json", 1, 2, "./.a/.json.1"},
        {"a.b/run.tar.gz", 3, 4, "a.b/run.tar.3.gz"},
    };
    char path[32];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert(trace_path(cases[i].file, cases[i].rank, cases[i].world, path, sizeof path));
        ck_assert_str_eq(path, cases[i].path);
    }
    ck_assert(!trace_path("12345678901234567890123456.json", 10, 11, path, sizeof path));
}
END_TEST

/* ---- writing ---------------------------------------------------------------------------------------------------- */

static zero_engine_t *make_engine(zero_comm_t **comm, zero_device_t **device, zero_pass_t *pass, zero_unit_t *unit)
{
    zero_config_t config;
    zero_param_desc_t desc;
    zero_engine_t *engine;
    zero_param_t param;
    ck_assert_int_eq(zero_comm_self(comm, NULL), ZERO_OK);
    ck_assert_int_eq(zero_device_cpu(device, NULL, NULL), ZERO_OK);
    zero_config_init(&config);
    config.comm = *comm;
    config.device = *device;
    ck_assert_int_eq(zero_create(&engine, &config, NULL), ZERO_OK);
    zero_param_desc_init(&desc);
    desc.name = "w", desc.ndim = 1, desc.shape[0] = 1000;
    ck_assert_int_eq(zero_unit_add(engine, "a \"quoted\\\x01\" unit", unit), ZERO_OK);
    ck_assert_int_eq(zero_param_add(engine, *unit, &desc, &param), ZERO_OK);
    ck_assert_int_eq(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, pass), ZERO_OK);
    ck_assert_int_eq(zero_use_add(engine, *pass, *unit, ZERO_READ | ZERO_GRAD), ZERO_OK);
    ck_assert_int_eq(zero_commit(engine), ZERO_OK);
    return engine;
}

static void step(trace_t *trace, zero_engine_t *engine, zero_pass_t pass, zero_unit_t unit, int64_t s,
                 zero_status_t wanted, zero_error_t *error)
{
    ck_assert_int_eq(trace_step_begin(trace, engine, s, error), ZERO_OK);
    ck_assert_int_eq(zero_micro_begin(engine, pass, ZERO_LAST), ZERO_OK);
    ck_assert_int_eq(zero_acquire(engine, unit), ZERO_OK);
    ck_assert_int_eq(zero_release(engine, unit), ZERO_OK);
    ck_assert_int_eq(zero_micro_end(engine), ZERO_OK);
    ck_assert_int_eq(zero_step(engine, 0.1), ZERO_OK);
    ck_assert_int_eq(trace_step_end(trace, engine, error), wanted);
}

static const char path[] = "test_trace.json";

/* The file is whole after each call, and no spans are in it but those of its steps. */
START_TEST(file_is_whole_at_any_time)
{
    zero_comm_t *comm;
    zero_device_t *device;
    zero_pass_t pass;
    zero_unit_t unit;
    zero_error_t error = {.text = ""};
    trace_t *trace;
    struct stat before, after;
    zero_engine_t *engine = make_engine(&comm, &device, &pass, &unit);
    options_t o;
    options_init(&o);
    o.trace = path;
    o.trace_steps = "2-30";
    o.steps = 100;
    ck_assert_int_eq(trace_open(&trace, &o, 0, 1, 0, false, &error), ZERO_OK);
    ck_assert_int_eq(check_file(path, 0, NULL), 0);
    ck_assert_uint_eq(trace_now(trace), 0);
    for (int64_t s = 1; s <= 31; s++) {
        stat(path, &before);
        step(trace, engine, pass, unit, s, ZERO_OK, &error);
        stat(path, &after);
        ck_assert_int_eq(after.st_size > before.st_size, s >= 2 && s <= 30);
        ck_assert_int_eq(check_file(path, 0, NULL), 0);
        ck_assert_int_eq(trace_now(trace) > 0, s >= 2 && s < 30);
    }
    ck_assert_int_eq(trace_stop(trace, engine, &error), ZERO_OK);
    ck_assert_int_eq(trace_close(trace, &error), ZERO_OK);
    /* A run that ends early; and one without a trace. */
    o.trace_steps = "1-30";
    ck_assert_int_eq(trace_open(&trace, &o, 0, 1, 0, false, &error), ZERO_OK);
    step(trace, engine, pass, unit, 1, ZERO_OK, &error);
    uint64_t begin = trace_now(trace);
    ck_assert_uint_gt(begin, 0);
    trace_program(trace, "evaluation", begin);
    ck_assert_int_eq(trace_stop(trace, engine, &error), ZERO_OK);
    ck_assert_int_eq(trace_close(trace, &error), ZERO_OK);
    ck_assert_int_eq(check_file(path, 0, NULL), 0);
    o.trace = NULL;
    ck_assert_int_eq(trace_open(&trace, &o, 0, 1, 0, false, &error), ZERO_OK);
    ck_assert_ptr_null(trace);
    step(NULL, engine, pass, unit, 2, ZERO_OK, &error);
    trace_program(NULL, "nothing", trace_now(NULL));
    ck_assert_int_eq(trace_flush(NULL, engine, &error), ZERO_OK);
    ck_assert_int_eq(trace_close(NULL, &error), ZERO_OK);
    ck_assert(isnan(trace_exposed(NULL)));
    /* One that only measures. */
    unlink(path);
    o.trace_steps = NULL;
    ck_assert_int_eq(trace_open(&trace, &o, 0, 1, 0, true, &error), ZERO_OK);
    ck_assert_ptr_nonnull(trace);
    for (int64_t s = 1; s <= 7; s++) {
        step(trace, engine, pass, unit, s, ZERO_OK, &error);
        ck_assert(isnan(trace_exposed(trace)) == (s < 4));
        ck_assert_int_eq(trace_now(trace) > 0, s >= 4 && s < 6);
    }
    ck_assert(trace_exposed(trace) >= 0 && trace_exposed(trace) <= 1);
    ck_assert_int_eq(trace_close(trace, &error), ZERO_OK);
    ck_assert_int_ne(access(path, F_OK), 0);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    unlink(path);
}
END_TEST

/* No room in the file for a piece: the sentence says so, and what was complete stays. */
START_TEST(full_disk_leaves_a_whole_file)
{
    zero_comm_t *comm;
    zero_device_t *device;
    zero_pass_t pass;
    zero_unit_t unit;
    zero_error_t error = {.text = ""};
    trace_t *trace;
    struct stat info;
    zero_engine_t *engine = make_engine(&comm, &device, &pass, &unit);
    options_t o;
    options_init(&o);
    o.trace = path;
    o.trace_steps = "1-30";
    o.steps = 100;
    ck_assert_int_eq(trace_open(&trace, &o, 0, 1, 0, false, &error), ZERO_OK);
    step(trace, engine, pass, unit, 1, ZERO_OK, &error);
    ck_assert_int_eq(stat(path, &info), 0);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {(rlim_t)info.st_size + 100, (rlim_t)info.st_size + 100};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    step(trace, engine, pass, unit, 2, ZERO_ERR_IO, &error);
    EXPECT_NAMES(error.text, "--trace 'test_trace.json'");
    ck_assert_int_eq(trace_close(trace, &error), ZERO_OK);
    ck_assert_int_eq(check_file(path, 0, NULL), 0);
    zero_destroy(engine);
    zero_device_destroy(device);
    zero_comm_destroy(comm);
    unlink(path);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 2)
        return check_file(argv[1], atoi(argv[2]), stdout);
    Suite *suite = suite_create("trace");
    TCase *t = tcase_create("trace");
    tcase_add_loop_test(t, steps_are_chosen, 0, (int)(sizeof ranges / sizeof *ranges));
    tcase_add_test(t, steps_need_a_file);
    tcase_add_test(t, each_rank_has_its_file);
    tcase_add_test(t, file_is_whole_at_any_time);
    tcase_add_test(t, full_disk_leaves_a_whole_file);
    suite_add_tcase(suite, t);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
