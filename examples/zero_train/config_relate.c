#include "examples/zero_train/config_parts.h"

#include <math.h>
#include <string.h>
#include <strings.h>

#define OFFLOAD_OPTIMIZER_ "zero_optimization.offload_optimizer"
#define OFFLOAD_PARAM_ "zero_optimization.offload_param"
#define OPTIMIZER_ "optimizer.params."
#define SCHEDULER_ "scheduler.params."

#define TRY(call)                \
    do {                         \
        zero_status_t s_ = call; \
        if (s_ != ZERO_OK)       \
            return s_;           \
    } while (0)

static const char *string(const config_row_t *row)
{
    return json_string_value(row->value);
}

static double number(const config_row_t *row)
{
    return json_number_value(row->value);
}

/* ---- precision -------------------------------------------------------------------------------------------------------------- */

static zero_status_t relate_dtype(config_t *c, zero_error_t *error)
{
    static const char *const details[] = {"fp16.initial_scale_power", "fp16.loss_scale_window", "fp16.hysteresis", "fp16.consecutive_hysteresis",
                                          "fp16.min_loss_scale"};
    config_row_t *bf16 = config_row(c, "bf16.enabled"), *fp16 = config_row(c, "fp16.enabled"), *row;
    const char *const sections[] = {"bf16.enabled", "fp16.enabled"};
    bool automatic = false, b = bf16 != NULL && json_is_true(bf16->value), h = fp16 != NULL && json_is_true(fp16->value);
    for (int i = 0; i < 2; i++)
        automatic |= (row = config_row_any(c, sections[i])) != NULL && row->automatic;
    if (b && h)
        return config_bad(c, bf16, error, "and fp16.enabled too, but at most one may be true: leave one out");
    for (int i = 0; i < 2; i++) {
        row = i == 0 ? bf16 : fp16;
        bool on = i == 0 ? b : h;
        if (row != NULL && (b || h || automatic) && !on)
            config_say(row, "no effect: off");
        else if (row != NULL)
            TRY(config_assign(c, row, "dtype", on ? (i == 0 ? "bf16" : "fp16") : "fp32", error));
    }
    /* the loss scale: of fp16 alone, whoever asked for that */
    bool scaled = c->o->dtype == ZERO_FP16;
    if ((row = config_row(c, "fp16.loss_scale")) != NULL) {
        char text[32] = "dynamic";
        if (number(row) != 0)
            config_real(number(row), text, sizeof text);
        config_say(row, "no effect: fp16 is off");
        if (scaled)
            TRY(config_assign(c, row, "loss-scale", text, error));
    }
    for (size_t i = 0; i < sizeof details / sizeof details[0]; i++)
        if ((row = config_row(c, details[i])) != NULL) {
            if (scaled)
                return config_bad(c, row, error, "but nothing of the dynamic loss scale can be chosen: leave it out");
            config_say(row, "no effect: fp16 is off");
        }
    return ZERO_OK;
}

/* ---- offload ---------------------------------------------------------------------------------------------------------------- */

enum { DEVICE_NONE_ = 0, DEVICE_HOST_, DEVICE_NVME_ };

/* The device of an offload section: "none" where there is none. */
static zero_status_t offload_device(config_t *c, const char *section, config_row_t **row, int *device, zero_error_t *error)
{
    char path[96];
    size_t length = strlen(section);
    snprintf(path, sizeof path, "%s.device", section);
    *row = config_row(c, path);
    *device = DEVICE_NONE_;
    if (*row == NULL) {
        for (int i = 0; i < c->count && config_row_any(c, path) == NULL; i++)
            if (strncmp(c->rows[i].path, section, length) == 0 && c->rows[i].path[length] == '.')
                return zero_fail(error, ZERO_ERR_ARG, "--config '%s': %s has no device: add \"device\": \"cpu\", or leave the section out", c->file, section);
        return ZERO_OK;
    }
    *device = strcmp(string(*row), "none") == 0 ? DEVICE_NONE_ : strcmp(string(*row), "cpu") == 0 ? DEVICE_HOST_
            : strcmp(string(*row), "nvme") == 0 ? DEVICE_NVME_ : -1;
    return *device >= 0 ? ZERO_OK : config_bad(c, *row, error, "but must be one of: none, cpu, nvme");
}

static zero_status_t relate_offload(config_t *c, zero_error_t *error)
{
    static const char *const choices[2][2] = {{"none", "params"}, {"optimizer", "all"}};
    config_row_t *state, *params, *row;
    int s, p;
    TRY(offload_device(c, OFFLOAD_OPTIMIZER_, &state, &s, error));
    TRY(offload_device(c, OFFLOAD_PARAM_, &params, &p, error));
    bool chosen = config_given(c, "offload"), placed = chosen || config_given(c, "offload-tier");
    if (!placed && p == DEVICE_NVME_ && s != DEVICE_NVME_)
        return config_bad(c, params, error, "but parameters go to a drive only after optimizer state: use \"nvme\" for offload_optimizer too, or \"cpu\" here");
    if (!placed && p == DEVICE_HOST_ && s == DEVICE_NVME_)
        return config_bad(c, params, error, "but what is offloaded goes to one place, and offload_optimizer says \"nvme\": use \"nvme\" or \"none\" here");
    const char *choice = choices[s != DEVICE_NONE_][p != DEVICE_NONE_];
    if (state != NULL)
        TRY(config_assign(c, state, "offload", choice, error));
    if (params != NULL)
        TRY(config_assign(c, params, "offload", choice, error));

    /* what else there is, where the command line left room for it */
    bool offloaded = c->o->offload == OFFLOAD_OPTIMIZER || c->o->offload == OFFLOAD_ALL;
    if (s == DEVICE_NVME_ && offloaded) {
        TRY(config_assign(c, state, "offload-tier", "nvme", error));
        if (!placed)
            config_say(state, "--offload %s --offload-tier nvme", choice);
        if (!placed && p == DEVICE_NVME_)
            config_say(params, "--offload %s --offload-tier nvme", choice);
    }
    for (int i = 0; i < 2; i++) {
        row = config_row(c, i == 0 ? OFFLOAD_OPTIMIZER_ ".nvme_path" : OFFLOAD_PARAM_ ".nvme_path");
        if (row != NULL && offloaded && c->o->offload_tier == OFFLOAD_TO_NVME)
            TRY(config_assign(c, row, "nvme-path", string(row), error));
        else if (row != NULL)
            config_say(row, "no effect: nothing goes to a drive");
    }
    if ((row = config_row(c, OFFLOAD_OPTIMIZER_ ".ratio")) != NULL) {
        char text[32];
        config_real(number(row), text, sizeof text);
        config_say(row, "no effect: optimizer state stays on the device");
        if (offloaded)
            TRY(config_assign(c, row, "offload-ratio", text, error));
    }
    return ZERO_OK;
}

/* ---- optimizer, schedule ---------------------------------------------------------------------------------------------------- */

static zero_status_t relate_optimizer(config_t *c, zero_error_t *error)
{
    static const struct { const char *type, *option; } rules[] = {
        {"AdamW", "adamw"}, {"Adam", "adamw"}, {"SGD", "sgd"}, {"Lion", "lion"}, {"AdamW8bit", "adamw8bit"},
    };
    config_row_t *type = config_row(c, "optimizer.type"), *mode = config_row(c, OPTIMIZER_ "adam_w_mode"), *momentum = config_row(c, OPTIMIZER_ "momentum");
    const char *option = NULL;
    for (size_t i = 0; type != NULL && i < sizeof rules / sizeof rules[0]; i++)
        if (strcasecmp(rules[i].type, string(type)) == 0)
            option = rules[i].option;
    /* DeepSpeed's Adam is AdamW unless adam_w_mode is false */
    bool adam = type != NULL && strcasecmp(string(type), "Adam") == 0;
    if (adam && mode != NULL && json_is_false(mode->value))
        option = "adam";
    if (type != NULL && option == NULL && !config_given(c, "optimizer"))
        return config_bad(c, type, error, "but must be one of: AdamW, Adam, SGD, Lion, AdamW8bit; AdamW is the usual one");
    if (type != NULL)
        TRY(config_assign(c, type, "optimizer", option != NULL ? option : "adamw", error));
    if (mode != NULL && adam)
        TRY(config_assign(c, mode, "optimizer", option, error));
    else if (mode != NULL)
        config_say(mode, "no effect: of the type Adam alone");
    if (momentum != NULL && c->o->optimizer == ZERO_RULE_SGD) {
        char text[64];
        config_real(number(momentum), text, 32);
        snprintf(text + strlen(text), sizeof text - strlen(text), ",%g", c->o->betas[1]); /* which SGD does not read */
        TRY(config_assign(c, momentum, "betas", text, error));
    } else if (momentum != NULL && !config_given(c, "optimizer"))
        return config_bad(c, momentum, error, "but only SGD has it: use betas");
    else if (momentum != NULL)
        config_say(momentum, "no effect: of SGD alone");
    return ZERO_OK;
}

static zero_status_t relate_schedule(config_t *c, zero_error_t *error)
{
    enum { KINDS = 3, COSINE = 2 };
    static const struct { const char *type, *option; } kinds[KINDS] = {
        {"WarmupLR", "constant"}, {"WarmupDecayLR", "linear"}, {"WarmupCosineLR", "cosine"},
    };
    config_row_t *type = config_row(c, "scheduler.type"), *lr = config_row(c, OPTIMIZER_ "lr"), *most = config_row(c, SCHEDULER_ "warmup_max_lr"), *row;
    int kind = -1;
    char text[32];
    for (int i = 0; type != NULL && i < KINDS; i++)
        if (strcmp(kinds[i].type, string(type)) == 0)
            kind = i;
    bool chosen = config_given(c, "schedule");
    if (type != NULL && kind < 0 && !chosen)
        return config_bad(c, type, error, "but must be one of: WarmupLR, WarmupDecayLR, WarmupCosineLR; or use \"schedule\", as --schedule");
    if (type != NULL)
        TRY(config_assign(c, type, "schedule", kind >= 0 ? kinds[kind].option : "constant", error));

    /* the rate: the schedule's, where it has one */
    if (most != NULL && kind == COSINE)
        return config_bad(c, most, error, "but WarmupCosineLR has no such parameter: use optimizer.params.lr");
    row = most != NULL ? most : lr;
    if (row != NULL) {
        config_real(number(row), text, sizeof text);
        TRY(config_assign(c, row, "lr", text, error));
    }
    if (most != NULL && lr != NULL)
        config_say(lr, "no effect: warmup_max_lr is the rate");

    const char *const starts[] = {SCHEDULER_ "warmup_min_lr", SCHEDULER_ "warmup_min_ratio"};
    for (int i = 0; i < 2; i++)
        if ((row = config_row(c, starts[i])) != NULL) {
            if (number(row) != 0 && !chosen)
                return config_bad(c, row, error, "but must be 0: the rate rises from there");
            config_say(row, chosen ? "not used: the command line has --schedule" : "no effect: always so");
        }
    if ((row = config_row(c, SCHEDULER_ "cos_min_ratio")) != NULL) {
        if (chosen) {
            config_say(row, "not used: the command line has --schedule");
            return ZERO_OK;
        }
        if (kind != COSINE)
            return config_bad(c, row, error, "but only WarmupCosineLR has it: use \"min_lr\", as --min-lr");
        if (isnan(c->o->lr))
            return config_bad(c, row, error, "a part of the rate, but there is no optimizer.params.lr: add it, or use \"min_lr\", as --min-lr");
        config_real(number(row) * c->o->lr, text, sizeof text);
        TRY(config_assign(c, row, "min-lr", text, error));
    }
    return ZERO_OK;
}

/* ---- batches ---------------------------------------------------------------------------------------------------------------- */

static zero_status_t relate_batch(config_t *c, zero_error_t *error)
{
    config_row_t *batch = config_row(c, "train_batch_size"), *micro = config_row(c, "train_micro_batch_size_per_gpu"),
                 *steps = config_row(c, "gradient_accumulation_steps");
    char text[32];
    if (batch != NULL) {
        snprintf(text, sizeof text, "%.0f", number(batch));
        TRY(config_assign(c, batch, "batch", text, error));
    }
    if (micro != NULL) {
        snprintf(text, sizeof text, "%.0f", number(micro));
        TRY(config_assign(c, micro, "micro-batch", text, error));
    }
    if (steps == NULL)
        return ZERO_OK;
    if (!(number(steps) >= 1 && number(steps) <= 1e6))
        return config_bad(c, steps, error, "but must be from 1 to 1000000: use 1");
    bool given = config_given(c, "batch") || config_given(c, "micro-batch");
    if (given && c->o->batch > 0 && c->o->micro_batch > 0) {
        config_say(steps, "not used: it follows from --batch and --micro-batch");
        return ZERO_OK;
    }
    c->o->accumulation = (int64_t)number(steps);
    config_say(steps, "%.0f micro-step%s a step", number(steps), number(steps) == 1 ? "" : "s");
    return ZERO_OK;
}

zero_status_t config_relate(config_t *config, zero_error_t *error)
{
    TRY(relate_dtype(config, error));
    TRY(relate_offload(config, error));
    TRY(relate_optimizer(config, error));
    TRY(relate_schedule(config, error));
    return relate_batch(config, error);
}
