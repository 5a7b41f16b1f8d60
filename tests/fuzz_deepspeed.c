/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_deepspeed.c - the reader of --config, on arbitrary bytes. An accepted input has a report, and options in their
 * ranges. A refusal names the file. */
#include "train/config.h"
#include "tests/expect.h"
#include "tests/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[] = "/tmp/fuzz_deepspeed.XXXXXX";
static FILE *sink;

static void need(bool condition)
{
    if (!condition)
        abort();
}

static void remove_file(void)
{
    unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    options_t o;
    config_t *config;
    zero_error_t error = {0};
    if (sink == NULL) {
        int fd = mkstemp(path);
        need(fd >= 0 && close(fd) == 0 && (sink = fopen("/dev/null", "w")) != NULL);
        atexit(remove_file);
    }
    unlink(path); /* some file systems wait for the disk when a file is truncated and rewritten */
    FILE *f = fopen(path, "wb");
    need(f != NULL && fwrite(bytes, 1, size, f) == size && fclose(f) == 0);
    options_init(&o);
    o.config = path;
    zero_status_t status = config_read(&config, &o, &error);
    if (status == ZERO_OK) {
        need(o.stage >= -1 && o.stage <= 3); /* -1: not set */
        need(o.clip >= 0 && o.betas[0] >= 0 && o.betas[0] < 1 && o.betas[1] < 1);
        need(isnan(o.lr) || (o.lr >= 0 && isfinite(o.lr)));
        need(o.rise_from >= 0 && o.rise_from_ratio >= 0 && (isnan(o.min_ratio) || o.min_ratio >= 0));
        config_print(config, sink);
        zero_fail(&error, ZERO_ERR_ARG, "--stage, --batch and optimizer.type are wrong");
        config_blame(config, &error);
        need(has_names(error.text, "--stage --batch optimizer.type"));
    } else
        need(error.status == status && has_names(error.text, path));
    config_close(config);
    return 0;
}

#ifndef FUZZ_LIBFUZZER
#define SEED(text)            \
    {                         \
        text, sizeof text - 1 \
    }

int main(int argc, char **argv)
{
    static const fuzz_seed_t seeds[] = {
        SEED("{\"zero_optimization\":{\"stage\":3,\"offload_optimizer\":{\"device\":\"cpu\",\"ratio\":0.5},"
             "\"max_live_parameters\":1e9}}"),
        SEED("{\"optimizer\":{\"type\":\"AdamW\",\"params\":{\"lr\":6e-4,\"betas\":[0.9,0.95],\"weight_decay\":0.1,"
             "\"freeze_step\":1}}}"),
        SEED("{\"scheduler\":{\"type\":\"WarmupCosineLR\",\"params\":{\"warmup_num_steps\":10,\"warmup_type\":\"log\","
             "\"cos_min_ratio\":0.1}}}"),
        SEED("{\"scheduler\":{\"type\":\"WarmupDecayLR\",\"params\":{\"warmup_min_lr\":0.1,\"warmup_max_lr\":\"auto\","
             "\"total_num_steps\":9}}}"),
        SEED("{\"compression_training\":{\"layer_reduction\":{\"enabled\":false}},\"amp\":{\"enabled\":\"auto\"},"
             "\"bf16\":{\"enabled\":true}}"),
        SEED("{\"train_batch_size\":8,\"gradient_accumulation_steps\":2,\"seq_len\":16,\"data\":\"x\",\"optimizer\":"
             "\"sgd\"}"),
    };
    static const char *const words[] = {
        "\"auto\"",
        "null",
        "true",
        "false",
        "\"enabled\":",
        "\"params\":",
        "\"type\":",
        "\"mode\":\"dense\"",
        "\"OneCycle\"",
        "\"WarmupLR\"",
        "{}",
        "[",
        "]",
        "{",
        "}",
        ",",
        "1e400",
        "-1",
        "0",
        "9223372036854775808",
        "\"stage3_max_live_parameters\":",
        "\"min_lr\":",
        "\"\\u0000\"",
        "version https://git-lfs.github.com/spec/v1",
    };
    return fuzz_main(argc, argv,
                     &(fuzz_t){.seeds = seeds,
                               .seed_count = sizeof seeds / sizeof *seeds,
                               .words = words,
                               .word_count = sizeof words / sizeof *words,
                               .most = 600},
                     20000);
}
#endif
