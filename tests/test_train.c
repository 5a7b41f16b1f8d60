/* SPDX-License-Identifier: Apache-2.0 */
/* test_train.c - the parts of zero_train that need no ranks: schedules, options, defaults, the built-in corpus, the
 * log. */
#include "tests/expect.h"
#include "train/corpus.h"
#include "train/job.h"
#include "train/log.h"

#include <check.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- schedules -------------------------------------------------------------------------------------------------- */

START_TEST(schedules_are_the_formulas)
{
    const double pi = acos(-1);
    for (int64_t U = 0; U <= 7; U += 7)
        for (int64_t s = 1; s <= 40; s++) {
            schedule_t k = {
                .kind = SCHEDULE_CONSTANT, .warmup = U, .steps = 40, .lr = 0.3, .min_lr = 0.02, .width = 64};
            double x = (double)(s - U) / (double)(40 - U), ramp = U > 0 ? 0.3 * (double)s / (double)U : 0;
            ck_assert_double_eq_tol(schedule_rate(&k, s), s <= U ? ramp : 0.3, 1e-15);
            k.kind = SCHEDULE_LINEAR;
            ck_assert_double_eq_tol(schedule_rate(&k, s), s <= U ? ramp : 0.3 - 0.28 * x, 1e-15);
            k.kind = SCHEDULE_COSINE;
            ck_assert_double_eq_tol(schedule_rate(&k, s), s <= U ? ramp : 0.02 + 0.14 * (1 + cos(pi * x)), 1e-15);
            if (U == 0)
                continue;
            k.kind = SCHEDULE_NOAM;
            double a = pow((double)s, -0.5), b = (double)s * pow((double)U, -1.5);
            ck_assert_double_eq_tol(schedule_rate(&k, s), 0.3 * pow(64, -0.5) * (a < b ? a : b), 1e-15);
        }
}
END_TEST

START_TEST(schedules_end_where_they_should)
{
    schedule_t k = {.kind = SCHEDULE_COSINE, .warmup = 3, .steps = 10, .lr = 0.5, .min_lr = 0.125};
    ck_assert(schedule_rate(&k, 3) == 0.5);
    ck_assert_double_eq_tol(schedule_rate(&k, 10), 0.125, 1e-16);
    k.kind = SCHEDULE_LINEAR;
    ck_assert(schedule_rate(&k, 10) == 0.125);
    k.warmup = 10; /* only a warm-up */
    ck_assert(schedule_rate(&k, 10) == 0.5);
    ck_assert(schedule_rate(&k, 5) == 0.25);
}
END_TEST

/* The rates that DeepSpeed's Warmup schedulers set in the optimizer for updates 1 to 12, computed from the formulas of
 * deepspeed/runtime/lr_schedules.py. Each begins with the rate of index -1, and calls step() after each update. */
START_TEST(deepspeeds_rises_are_its_own)
{
    enum { N = 12 };
    static const struct {
        schedule_t schedule;
        double rates[N];
    } cases[] = {
        {{.kind = SCHEDULE_CONSTANT, .rise = RISE_LOG, .warmup = 5, .from = 0.02},
         {0.02, 0.02, 0.14058943626055, 0.211129734456076, 0.2611788725211, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3}},
        {{.kind = SCHEDULE_CONSTANT, .rise = RISE_LINEAR, .warmup = 5, .from = 0.02},
         {0.02, 0.02, 0.076, 0.132, 0.188, 0.244, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3}},
        {{.kind = SCHEDULE_LINEAR, .rise = RISE_LOG, .warmup = 3, .steps = 8, .from = 0.02, .min_lr = 0.02},
         {0.02, 0.02, 0.196660331000008, 0.3, 0.3, 0.244, 0.188, 0.132, 0.076, 0.02, 0.02, 0.02}},
        {{.kind = SCHEDULE_LINEAR, .rise = RISE_LINEAR, .warmup = 3, .steps = 8, .from = 0.02, .min_lr = 0.02},
         {0.02, 0.02, 0.113333333333333, 0.206666666666667, 0.3, 0.244, 0.188, 0.132, 0.076, 0.02, 0.02, 0.02}},
        {{.kind = SCHEDULE_COSINE, .rise = RISE_LOG, .warmup = 3, .steps = 8, .from = 0.03, .min_lr = 0.075},
         {0, 0.03, 0.200351033464293, 0.3, 0.278514411867182, 0.222264411867182, 0.152735588132818, 0.0964855881328184,
          0.075, 0.075, 0.075, 0.075}},
        {{.kind = SCHEDULE_COSINE, .rise = RISE_LINEAR, .warmup = 3, .steps = 8, .from = 0.03, .min_lr = 0.075},
         {0, 0.03, 0.12, 0.21, 0.278514411867182, 0.222264411867182, 0.152735588132818, 0.0964855881328184, 0.075,
          0.075, 0.075, 0.075}},
        {{.kind = SCHEDULE_CONSTANT, .rise = RISE_LOG, .warmup = 0},
         {0, 0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3}}, /* counts as 2 */
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        for (int s = 1; s <= N; s++) {
            schedule_t schedule = cases[k].schedule;
            schedule.lr = 0.3;
            ck_assert_double_eq_tol(schedule_rate(&schedule, s), cases[k].rates[s - 1], 1e-14);
        }
}
END_TEST

/* ---- options ---------------------------------------------------------------------------------------------------- */

/* Splits words at spaces and parses them. */
static zero_status_t parse(options_t *o, const char *line, zero_error_t *error)
{
    static char text[512];
    char *argv[32] = {"zero_train"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", line);
    for (char *p = strtok(text, " "); p != NULL && argc < 31; p = strtok(NULL, " "))
        argv[argc++] = p;
    options_init(o);
    return options_parse(o, argc, argv, error);
}

START_TEST(options_are_read)
{
    options_t o;
    zero_error_t e;
    ck_assert_int_eq(parse(&o, "--stage=1 --lr 2e-3 --betas 0.5,0.75 --recompute --data a=b --quiet --reduce last", &e),
                     ZERO_OK);
    ck_assert_int_eq(o.stage, 1);
    ck_assert(o.lr == 2e-3 && o.betas[0] == 0.5 && o.betas[1] == 0.75);
    ck_assert_int_eq(o.recompute, ZERO_RECOMPUTE_FULL);
    ck_assert_int_eq(o.data.count, 1);
    ck_assert_str_eq(o.data.at[0], "a=b");
    ck_assert(o.quiet == 1 && o.reduce == REDUCE_LAST && o.explain == 0);
    ck_assert(o.batch == -1 && o.log == NULL && isnan(parse(&o, "", &e) == ZERO_OK ? o.lr : 0));
    ck_assert_int_eq(parse(&o, "--recompute=selective --prompt=--x --seed 9007199254740993", &e), ZERO_ERR_ARG);
    ck_assert_int_eq(parse(&o, "--recompute=selective --prompt=--x --seed 900719925474099", &e), ZERO_OK);
    ck_assert(o.recompute == ZERO_RECOMPUTE_SELECTIVE && o.seed == 900719925474099);
    ck_assert_str_eq(o.prompt, "--x");
}
END_TEST

/* Options of the engine have the library's defaults. */
START_TEST(defaults_are_the_engines)
{
    options_t o;
    zero_config_t c;
    options_init(&o);
    zero_config_init(&c);
    ck_assert(o.window == c.window && o.reduce_dtype == c.reduce_dtype && o.optimizer == c.rule);
    ck_assert(o.betas[0] == c.beta1 && o.betas[1] == c.beta2 && o.eps == c.eps && o.weight_decay == c.weight_decay);
    ck_assert(o.clip == c.clip && o.offload_ratio == c.offload_ratio && (double)o.timeout == c.timeout_s);
}
END_TEST

START_TEST(options_are_refused)
{
    static const struct {
        const char *line, *wanted; /* a part of the sentence */
        zero_status_t status;
    } cases[] = {
        {"--stage 4", "--stage 4 0 3", ZERO_ERR_ARG},
        {"--stage -1", "0", ZERO_ERR_ARG},
        {"--stage 1x", "--stage '1x'", ZERO_ERR_ARG},
        {"--batch 0", "--batch 0 1", ZERO_ERR_ARG},
        {"--bacth 8", "--batch", ZERO_ERR_ARG},
        {"--frobnicate", "'--frobnicate' --help", ZERO_ERR_ARG},
        {"--lr", "--lr", ZERO_ERR_ARG},
        {"--lr --batch 8", "--lr", ZERO_ERR_ARG},
        {"--lr nan", "--lr 'nan'", ZERO_ERR_ARG},
        {"--lr 1e999", "--lr '1e999'", ZERO_ERR_ARG},
        {"--lr -1", "--lr -1 0", ZERO_ERR_ARG},
        {"--betas 0.9", "--betas '0.9'", ZERO_ERR_ARG},
        {"--betas 0.9,1", "1", ZERO_ERR_ARG},
        {"--top-p 2", "--top-p 2 0 1", ZERO_ERR_ARG},
        {"--reduce never", "--reduce 'never' every|last", ZERO_ERR_ARG},
        {"--quiet=1", "--quiet", ZERO_ERR_ARG},
        {"--data=", "--data", ZERO_ERR_ARG},
        {"stage", "'stage'", ZERO_ERR_ARG},
        {"-steps 3", "'-steps' --steps", ZERO_ERR_ARG},
        {"-steps=3", "'-steps=3' --steps", ZERO_ERR_ARG},
        {"--steps 3 -x", "'-x' --help", ZERO_ERR_ARG},
        {"--recompute full", "'full' --recompute '=' --recompute=full", ZERO_ERR_ARG},
        {"--recompute selective", "--recompute=selective", ZERO_ERR_ARG},
        {"--recompute some", "'some' --recompute '=' none|selective|full", ZERO_ERR_ARG},
        {"--recompute=full none", "'none' --recompute", ZERO_ERR_ARG},
        {"--quiet yes", "'yes' --quiet", ZERO_ERR_ARG},
        {"--offload-activations --plan 1", "'1' --plan", ZERO_ERR_ARG},
        {"--betas 0.9 0.95", "--betas '0.9'", ZERO_ERR_ARG},
        {"--steps 3 4", "'4' --steps 3", ZERO_ERR_ARG},
        {"--data=a b", "'b' --data", ZERO_ERR_ARG},
        {"--save=", "--save DIR", ZERO_ERR_ARG},
        {"--keep 0", "--keep 0 1", ZERO_ERR_ARG},
        {"--config=", "--config", ZERO_ERR_ARG},
        {"--lora-rank 0", "--lora-rank", ZERO_ERR_ARG},
        {"--loss-scale static", "--loss-scale 'static' dynamic 0", ZERO_ERR_ARG},
        {"--loss-scale 0", "--loss-scale '0' dynamic", ZERO_ERR_ARG},
        {"--loss-scale -8", "'-8'", ZERO_ERR_ARG},
        {"--loss-scale inf", "'inf'", ZERO_ERR_ARG},
        {"--loss-scale 1e39", "'1e39' 3.40282e+38", ZERO_ERR_ARG},
        {"--dtype fp17", "--dtype 'fp17' fp32|bf16", ZERO_ERR_ARG},
        {"--device gpu", "--device 'gpu' auto|cpu|cuda", ZERO_ERR_ARG},
        {"--offload some", "none|optimizer|params|all", ZERO_ERR_ARG},
        {"--offload-ratio 1.5", "--offload-ratio", ZERO_ERR_ARG},
        {"--optimizer rmsprop", "adamw|adam|sgd|lion|adamw8bit|muon", ZERO_ERR_ARG},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        options_t o;
        zero_error_t e = {0};
        ck_assert_msg(parse(&o, cases[i].line, &e) == cases[i].status, "%s: status %d, '%s'", cases[i].line,
                      (int)e.status, e.text);
        ck_assert_msg(has_names(e.text, cases[i].wanted), "%s: '%s' lacks '%s'", cases[i].line, e.text,
                      cases[i].wanted);
        ck_assert_msg(strchr(e.text, '\n') == NULL, "%s: more than one line", cases[i].line);
    }
}
END_TEST

/* ---- defaults --------------------------------------------------------------------------------------------------- */

static zero_status_t resolve(job_t *job, const char *line, int world, zero_error_t *error)
{
    memset(job, 0, sizeof *job);
    zero_status_t status = parse(&job->o, line, error);
    return status == ZERO_OK ? job_resolve(job, world, 1, true, error) : status;
}

START_TEST(defaults_always_fit)
{
    static const char *const lines[] = {"",
                                        "--micro-batch 3",
                                        "--micro-batch 100",
                                        "--model gpt2",
                                        "--model gpt2 --micro-batch 5",
                                        "--compare-stages",
                                        "--schedule noam --steps 5",
                                        "--schedule noam --steps 0"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        for (int world = 1; world <= 40; world++) {
            job_t job;
            zero_error_t e = {0};
            ck_assert_msg(resolve(&job, lines[i], world, &e) == ZERO_OK, "%s on %d ranks: %s", lines[i], world, e.text);
            ck_assert_int_eq(job.o.batch % (world * job.o.micro_batch), 0);
            ck_assert_int_eq(job.local * world, job.o.batch);
            ck_assert_int_eq(job.o.micro_batch * job.micro_steps, job.local);
            ck_assert(job.o.seq_len <= job.model.positions);
            job_close(&job);
        }
}
END_TEST

START_TEST(what_does_not_fit_is_named)
{
    static const struct {
        const char *line, *wanted;
        int world;
    } cases[] = {
        {"--batch 10 --micro-batch 3", "--batch 10 6 2 --micro-batch 3 12", 2},
        {"--batch 5", "4 6", 2},
        {"--batch 2", "3", 3},
        {"--seq-len 100000", "--seq-len", 1},
        {"--ranks 3", "--ranks 3 2", 2},
        {"--schedule noam --warmup 0", "--warmup 1", 1},
        {"--schedule noam --warmup 0 --steps 5", "--warmup 0 --schedule 1", 1},
        {"--eps 0", "--eps 0 fp32 1e-8", 1},
        {"--eps 1e-60", "--eps 1e-60 0", 1},
        {"--loss-scale dynamic", "--loss-scale --dtype fp16 fp32", 1},
        {"--loss-scale 128 --dtype bf16", "--loss-scale --dtype fp16 bf16", 1},
        {"--loss-scale 1e-39 --dtype fp16", "--loss-scale 1e-39 fp32 dynamic", 1},
        {"--compare-stages --steps 0", "--steps 1", 1},
        {"--compare-stages --eval-data /dev/null", "--eval-data --compare-stages", 1},
        {"--compare-stages --eval-every 1", "--eval-every", 1},
        {"--compare-stages --eval-batches 16", "--eval-batches", 1},
        {"--compare-stages --sample 48", "--sample", 1},
        {"--compare-stages --prompt x", "--prompt", 1},
        {"--compare-stages --temperature 0", "--temperature", 1},
        {"--compare-stages --top-k 0", "--top-k", 1},
        {"--compare-stages --top-p 1", "--top-p", 1},
        {"--steps 1000000000000 --batch 1000000000", "2^63", 1},
        {"--model llama-80b", "", 1},
        {"--model no-such-model", "'no-such-model'", 1},
        {"--model /dev/null", "", 1},
        {"--data no-such-folder/x", "`No such file` --data 'no-such-folder/x'", 1},
        {"--data /", "", 1},
        {"--data /dev/zero", "", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_t job;
        zero_error_t e = {0};
        ck_assert_msg(resolve(&job, cases[i].line, cases[i].world, &e) != ZERO_OK, "%s was accepted", cases[i].line);
        ck_assert_msg(has_names(e.text, cases[i].wanted), "%s: '%s' lacks '%s'", cases[i].line, e.text,
                      cases[i].wanted);
        job_close(&job);
    }
}
END_TEST

START_TEST(defaults_are_resolved)
{
    static const struct {
        const char *line;
        int64_t warmup, sample, eval_batches, top_k;
        double top_p;
    } cases[] = {
        {"", 100, 48, 16, 0, 1},
        {"--steps 50 --top-k 5 --top-p 0.5 --eval-batches 3", 5, 48, 3, 5, 0.5},
        {"--steps 5", 0, 48, 16, 0, 1},
        {"--steps 0", 0, 48, 16, 0, 1},
        {"--schedule noam --steps 0", 1, 48, 16, 0, 1},
        {"--schedule noam --steps 9", 1, 48, 16, 0, 1},
        {"--schedule noam --steps 30", 3, 48, 16, 0, 1},
        {"--schedule noam --steps 30 --warmup 7", 7, 48, 16, 0, 1},
        {"--compare-stages", 1, 0, 16, 0, 1}, /* no pass is declared for samples */
        {"--compare-stages --sample 0", 1, 0, 16, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_t job;
        zero_error_t e = {0};
        ck_assert_msg(resolve(&job, cases[i].line, 2, &e) == ZERO_OK, "%s: %s", cases[i].line, e.text);
        ck_assert_int_eq(job.o.warmup, cases[i].warmup);
        ck_assert_int_eq(job.schedule.warmup, cases[i].warmup);
        ck_assert_int_eq(job.o.sample, cases[i].sample);
        ck_assert_int_eq(job.o.eval_batches, cases[i].eval_batches);
        ck_assert_int_eq(job.o.top_k, cases[i].top_k);
        ck_assert(job.o.top_p == cases[i].top_p);
        ck_assert(!job.o.compare_stages || (!job.eval && job.o.sample == 0));
        job_close(&job);
    }
}
END_TEST

START_TEST(loss_scales_are_resolved)
{
    static const struct {
        const char *line;
        double scale; /* 0: unset */
        int64_t max_skipped;
    } cases[] = {
        {"", 0, 10},
        {"--dtype bf16 --max-skipped 3", 0, 3},
        {"--dtype fp16", INFINITY, 0},
        {"--dtype fp16 --loss-scale dynamic --max-skipped 4", INFINITY, 4},
        {"--dtype fp16 --loss-scale 1024.5", 1024.5, 10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job_t job;
        zero_error_t e = {0};
        ck_assert_msg(resolve(&job, cases[i].line, 2, &e) == ZERO_OK, "%s: %s", cases[i].line, e.text);
        ck_assert(cases[i].scale == 0 ? isnan(job.o.loss_scale) : job.o.loss_scale == cases[i].scale);
        ck_assert_int_eq(job.o.max_skipped, cases[i].max_skipped);
        job_close(&job);
    }
}
END_TEST

/* ---- the corpus ------------------------------------------------------------------------------------------------- */

START_TEST(numbers_are_spelled)
{
    static const struct {
        int number;
        const char *line;
    } cases[] = {
        {0, "0: zero\n"},
        {7, "7: seven\n"},
        {13, "13: thirteen\n"},
        {20, "20: twenty\n"},
        {99, "99: ninety-nine\n"},
        {100, "100: one hundred\n"},
        {101, "101: one hundred and one\n"},
        {1000, "1000: one thousand\n"},
        {1015, "1015: one thousand and fifteen\n"},
        {4071, "4071: four thousand and seventy-one\n"},
        {7777, "7777: seven thousand seven hundred and seventy-seven\n"},
        {9900, "9900: nine thousand nine hundred\n"},
    };
    char line[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_assert_int_eq(corpus_line(line, cases[i].number), strlen(cases[i].line));
        ck_assert_str_eq(line, cases[i].line);
    }
}
END_TEST

START_TEST(the_corpus_has_every_number)
{
    static int count[2][CORPUS_NUMBERS];
    for (int held_out = 0; held_out < 2; held_out++) {
        int64_t bytes;
        char line[64], *text = corpus_make(held_out, &bytes);
        ck_assert_ptr_nonnull(text);
        for (char *p = text; p < text + bytes;) {
            int number = (int)strtol(p, NULL, 10);
            size_t length = corpus_line(line, number);
            ck_assert_int_eq(memcmp(p, line, length), 0);
            count[held_out][number]++;
            p += length;
        }
        free(text);
    }
    int held = 0;
    for (int n = 0; n < CORPUS_NUMBERS; n++) {
        ck_assert_int_eq(count[0][n], corpus_held_out(n) ? 0 : CORPUS_PASSES);
        ck_assert_int_eq(count[1][n], corpus_held_out(n) ? CORPUS_PASSES : 0);
        held += corpus_held_out(n);
    }
    ck_assert(held > CORPUS_NUMBERS / 20 && held < CORPUS_NUMBERS / 10);
}
END_TEST

/* ---- the log ---------------------------------------------------------------------------------------------------- */

static const char path[] = "test_train.log"; /* in the current folder */

START_TEST(log_lines)
{
    char line[1024];
    log_t *log;
    zero_error_t e;
    ck_assert_int_eq(log_open(&log, path, &e), ZERO_OK);
    log_begin(log, "a\"b\\c\n\x01");
    log_exact(log, "exact", 0.1);
    log_number(log, "nine", 1.0 / 3);
    log_number(log, "nan", NAN);
    log_exact(log, "inf", -INFINITY);
    log_text(log, "utf8", "\xc3\xa9\xff\xed\xa0\x80\xf0\x9f\x98\x80\xc0\x80");
    log_text(log, "none", NULL);
    log_whole(log, "low", INT64_MIN);
    log_bytes(log, "high", UINT64_MAX);
    log_hash(log, "hash", 0xabc);
    log_bool(log, "yes", true);
    log_open_object(log, "o");
    log_open_array(log, "empty");
    log_close_array(log);
    log_open_array(log, "two");
    log_number(log, NULL, 1);
    log_number(log, NULL, 2);
    log_close_array(log);
    log_close_object(log);
    log_whole(log, "after", 1);
    ck_assert_int_eq(log_end(log, &e), ZERO_OK);
    log_begin(log, "second");
    ck_assert_int_eq(log_end(log, &e), ZERO_OK);
    ck_assert_int_eq(log_close(log, &e), ZERO_OK);
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    ck_assert_ptr_nonnull(fgets(line, sizeof line, f));
    ck_assert_str_eq(
        line,
        "{\"event\":\"a\\\"b\\\\c\\u000a\\u0001\",\"exact\":0.10000000000000001,\"nine\":0.333333333,\"nan\":null,"
        "\"inf\":null,"
        "\"utf8\":\"\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd\","
        "\"none\":null,"
        "\"low\":-9223372036854775808,\"high\":18446744073709551615,\"hash\":\"0000000000000abc\",\"yes\":true,"
        "\"o\":{\"empty\":[],\"two\":[1,2]},\"after\":1}\n");
    ck_assert_ptr_nonnull(fgets(line, sizeof line, f));
    ck_assert_str_eq(line, "{\"event\":\"second\"}\n");
    fclose(f);
    unlink(path);
}
END_TEST

START_TEST(log_on_a_full_disk)
{
    log_t *log;
    zero_error_t e = {0};
    if (access("/dev/full", W_OK) != 0)
        return;
    ck_assert_int_eq(log_open(&log, "/dev/full", &e), ZERO_OK);
    log_begin(log, "start");
    ck_assert_int_eq(log_end(log, &e), ZERO_ERR_IO);
    ck_assert_str_eq(e.text, "cannot write --log '/dev/full': No space left on device");
    log_close(log, NULL);
    ck_assert_int_eq(log_open(&log, "no-such-folder/x", &e), ZERO_ERR_IO);
    ck_assert_ptr_null(log);
}
END_TEST

int main(void)
{
    setenv("CUDA_VISIBLE_DEVICES", "", 1); /* the same defaults on machines with GPUs */
    Suite *suite = suite_create("zero_train");
    TCase *c = tcase_create("parts");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, schedules_are_the_formulas);
    tcase_add_test(c, schedules_end_where_they_should);
    tcase_add_test(c, deepspeeds_rises_are_its_own);
    tcase_add_test(c, options_are_read);
    tcase_add_test(c, defaults_are_the_engines);
    tcase_add_test(c, options_are_refused);
    tcase_add_test(c, defaults_always_fit);
    tcase_add_test(c, what_does_not_fit_is_named);
    tcase_add_test(c, defaults_are_resolved);
    tcase_add_test(c, loss_scales_are_resolved);
    tcase_add_test(c, numbers_are_spelled);
    tcase_add_test(c, the_corpus_has_every_number);
    tcase_add_test(c, log_lines);
    tcase_add_test(c, log_on_a_full_disk);
    suite_add_tcase(suite, c);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
