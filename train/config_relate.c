/* SPDX-License-Identifier: Apache-2.0 */
#include "train/config_parts.h"
#include "train/schedule.h"

#include <string.h>
#include <strings.h>

#define OFFLOAD_OPTIMIZER_ "zero_optimization.offload_optimizer"
#define OFFLOAD_PARAM_ "zero_optimization.offload_param"
#define OPTIMIZER_ "optimizer.params."
#define SCHEDULER_ "scheduler.params."

static const char *string(const config_row_t *row)
{
    return json_string_value(row->value);
}

static double number(const config_row_t *row)
{
    return json_number_value(row->value);
}

/* ---- offload ---------------------------------------------------------------------------------------------------- */

enum { DEVICE_NONE_ = 0, DEVICE_HOST_, DEVICE_NVME_ };

/* The device of an offload section: "none" if there is no section. */
static zero_status_t offload_device(config_t *c, const char *section, config_row_t **row, int *device,
                                    zero_error_t *error)
{
    char path[96];
    snprintf(path, sizeof path, "%s.device", section);
    *row = config_row(c, path);
    *device = DEVICE_NONE_;
    if (*row == NULL) /* offload is then off, as in DeepSpeed, whatever the other members are */
        return ZERO_OK;
    *device = strcmp(string(*row), "none") == 0   ? DEVICE_NONE_
              : strcmp(string(*row), "cpu") == 0  ? DEVICE_HOST_
              : strcmp(string(*row), "nvme") == 0 ? DEVICE_NVME_
                                                  : -1;
    return *device >= 0 ? ZERO_OK : config_bad(c, *row, error, "but must be one of: none, cpu, nvme");
}

/* Sets the folder on a drive and the offloaded share of the optimizer state, if an offload uses them. */
static zero_status_t relate_drive_and_ratio(config_t *c, zero_error_t *error)
{
    const bool offloaded = c->o->offload == OFFLOAD_OPTIMIZER || c->o->offload == OFFLOAD_ALL;
    config_row_t *row;
    for (int i = 0; i < 2; i++) {
        row = config_row(c, i == 0 ? OFFLOAD_OPTIMIZER_ ".nvme_path" : OFFLOAD_PARAM_ ".nvme_path");
        if (row != NULL && offloaded && c->o->offload_tier == OFFLOAD_TO_NVME)
            CONFIG_TRY(config_assign(c, row, "nvme-path", string(row), error));
        else if (row != NULL)
            config_say(row, "no effect: nothing goes to a drive");
    }
    if ((row = config_row(c, OFFLOAD_OPTIMIZER_ ".ratio")) != NULL) {
        char text[32];
        options_real(number(row), text, sizeof text);
        config_say(row, "no effect: optimizer state stays on the device");
        if (offloaded)
            CONFIG_TRY(config_assign(c, row, "offload-ratio", text, error));
    }
    return ZERO_OK;
}

static zero_status_t relate_offload(config_t *c, zero_error_t *error)
{
    static const char *const choices[2][2] = {{"none", "params"}, {"optimizer", "all"}};
    config_row_t *state, *params;
    int s, p;
    CONFIG_TRY(offload_device(c, OFFLOAD_OPTIMIZER_, &state, &s, error));
    CONFIG_TRY(offload_device(c, OFFLOAD_PARAM_, &params, &p, error));
    bool chosen = config_given(c, "offload"), placed = chosen || config_given(c, "offload-tier");
    if (!placed && p == DEVICE_NVME_ && s != DEVICE_NVME_)
        return config_bad(c, params, error,
                          "but parameters go to a drive only after optimizer state: use \"nvme\" for offload_optimizer "
                          "too, or \"cpu\" here");
    if (!placed && p == DEVICE_HOST_ && s == DEVICE_NVME_)
        return config_bad(c, params, error,
                          "but what is offloaded goes to one place, and offload_optimizer says \"nvme\": use \"nvme\" "
                          "or \"none\" here");
    const char *choice = choices[s != DEVICE_NONE_][p != DEVICE_NONE_];
    if (state != NULL)
        CONFIG_TRY(config_assign(c, state, "offload", choice, error));
    if (params != NULL)
        CONFIG_TRY(config_assign(c, params, "offload", choice, error));

    /* the other settings, unless the command line overrides them */
    if (s == DEVICE_NVME_ && (c->o->offload == OFFLOAD_OPTIMIZER || c->o->offload == OFFLOAD_ALL)) {
        CONFIG_TRY(config_assign(c, state, "offload-tier", "nvme", error));
        if (!placed)
            config_say(state, "--offload %s --offload-tier nvme", choice);
        if (!placed && p == DEVICE_NVME_)
            config_say(params, "--offload %s --offload-tier nvme", choice);
    }
    return relate_drive_and_ratio(c, error);
}

/* ---- codecs ----------------------------------------------------------------------------------------------------- */

/* DeepSpeed gathers in 8 bits, and reduces in 4. */
static zero_status_t relate_codecs(config_t *c, zero_error_t *error)
{
    static const char *const keys[][3] = {
        {"zero_optimization.zero_quantized_weights", "gather-codec", "int8"},
        {"zero_optimization.zero_quantized_gradients", "reduce-codec", "int4"},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        config_row_t *row = config_row(c, keys[i][0]);
        if (row != NULL)
            CONFIG_TRY(config_assign(c, row, keys[i][1], json_is_true(row->value) ? keys[i][2] : "none", error));
    }
    return ZERO_OK;
}

/* ---- tensor parallelism ----------------------------------------------------------------------------------------- */

/* 0 is off, as 1 is. */
static zero_status_t relate_tensor(config_t *c, zero_error_t *error)
{
    config_row_t *row = config_row(c, "tensor_parallel.autotp_size");
    char text[32];
    if (row == NULL)
        return ZERO_OK;
    snprintf(text, sizeof text, "%.0f", number(row) == 0 ? 1 : number(row));
    return config_assign(c, row, "tensor", text, error);
}

/* ---- optimizer, schedule ---------------------------------------------------------------------------------------- */

/* Handles keys below prefix of optimizers or schedulers that zero_train lacks: they have no effect if the command line
 * sets the option. */
static zero_status_t check_foreign(config_t *c, const char *prefix, const char *option, zero_error_t *error)
{
    for (int i = 0; i < c->count; i++) {
        config_row_t *row = &c->rows[i];
        if (row->automatic || row->key == NULL || row->key->rule != KEY_FOREIGN ||
            strncmp(row->key->path, prefix, strlen(prefix)) != 0)
            continue;
        if (!config_given(c, option))
            return config_bad(c, row, error,
                              "a parameter of DeepSpeed's %s, which zero_train does not have: leave it out",
                              row->key->text);
        config_say(row, "not used: the command line has --%s", option);
    }
    return ZERO_OK;
}

static zero_status_t relate_optimizer(config_t *c, zero_error_t *error)
{
    static const struct {
        const char *type, *option;
    } rules[] = {
        {"AdamW", "adamw"}, {"Adam", "adamw"}, {"SGD", "sgd"}, {"Lion", "lion"}, {"AdamW8bit", "adamw8bit"},
    };
    config_row_t *type = config_row(c, "optimizer.type"), *mode = config_row(c, OPTIMIZER_ "adam_w_mode"),
                 *momentum = config_row(c, OPTIMIZER_ "momentum");
    const char *option = NULL;
    for (size_t i = 0; type != NULL && i < sizeof rules / sizeof rules[0]; i++)
        if (strcasecmp(rules[i].type, string(type)) == 0)
            option = rules[i].option;
    /* DeepSpeed's Adam is AdamW unless adam_w_mode is false */
    bool adam = type != NULL && strcasecmp(string(type), "Adam") == 0;
    if (adam && mode != NULL && json_is_false(mode->value))
        option = "adam";
    if (type != NULL && option == NULL && !config_given(c, "optimizer"))
        return config_bad(c, type, error,
                          "but must be one of: AdamW, Adam, SGD, Lion, AdamW8bit; AdamW is the usual one");
    CONFIG_TRY(check_foreign(c, OPTIMIZER_, "optimizer", error));
    if (type != NULL)
        CONFIG_TRY(config_assign(c, type, "optimizer", option != NULL ? option : "adamw", error));
    if (mode != NULL && adam)
        CONFIG_TRY(config_assign(c, mode, "optimizer", option, error));
    else if (mode != NULL)
        config_say(mode, "no effect: of the type Adam alone");
    if (momentum != NULL && c->o->optimizer == ZERO_RULE_SGD) {
        char text[64];
        options_real(number(momentum), text, 32);
        snprintf(text + strlen(text), sizeof text - strlen(text), ",%g", c->o->betas[1]); /* SGD ignores it */
        CONFIG_TRY(config_assign(c, momentum, "betas", text, error));
    } else if (momentum != NULL && !config_given(c, "optimizer"))
        return config_bad(c, momentum, error, "but only SGD has it: use betas");
    else if (momentum != NULL)
        config_say(momentum, "no effect: of SGD alone");
    return ZERO_OK;
}

/* The parameters of DeepSpeed's Warmup schedulers, and their defaults (deepspeed/runtime/lr_schedules.py). */
enum { WARMUP_LR = 0, WARMUP_DECAY, WARMUP_COSINE, KINDS, NONE = -1 };
static const struct {
    const char *type, *option;
} kinds[KINDS] = {
    {"WarmupLR", "constant"},
    {"WarmupDecayLR", "linear"},
    {"WarmupCosineLR", "cosine"},
};
static const int warmup_num_steps = 1000;
static const double decay_max_lr = 0.001, cos_min_ratio = 0.0001;

/* Handles parameters without an option of the same name: they have no effect if the command line chose another
 * schedule. A parameter that the scheduler lacks is an error. */
static zero_status_t check_parameters(config_t *c, int kind, bool chosen, zero_error_t *error)
{
    static const struct {
        const char *path;
        bool of[KINDS];
        const char *instead;
    } parameters[] = {
        {SCHEDULER_ "warmup_type", {true, true, true}, ""},
        {SCHEDULER_ "warmup_min_lr", {true, true, false}, "use warmup_min_ratio"},
        {SCHEDULER_ "warmup_max_lr", {true, true, false}, "use optimizer.params.lr"},
        {SCHEDULER_ "warmup_min_ratio", {false, false, true}, "use warmup_min_lr"},
        {SCHEDULER_ "cos_min_ratio", {false, false, true}, "only WarmupCosineLR has it"},
    };
    for (size_t i = 0; i < sizeof parameters / sizeof parameters[0]; i++) {
        config_row_t *row = config_row(c, parameters[i].path);
        if (row == NULL)
            continue;
        if (strcmp(parameters[i].path, SCHEDULER_ "warmup_max_lr") == 0 && (chosen || kind == NONE))
            continue; /* a rate, which sets --lr */
        if (chosen)
            config_say(row, "not used: the command line has --schedule");
        else if (kind == NONE)
            return config_bad(
                c, row, error,
                "but there is no scheduler.type, and so no scheduler: add a type, or use \"schedule\", as --schedule");
        else if (!parameters[i].of[kind])
            return config_bad(c, row, error, "but %s has no such parameter: %s", kinds[kind].type,
                              parameters[i].instead);
        else if (json_is_number(row->value) && !(number(row) >= 0))
            return config_bad(c, row, error, "but must be 0 or more: use 0");
    }
    return ZERO_OK;
}

/* Sets the kind and the start of the rise. */
static zero_status_t relate_rise(config_t *c, int kind, config_row_t *type, zero_error_t *error)
{
    config_row_t *how = config_row(c, SCHEDULER_ "warmup_type"), *row;
    bool linear = how != NULL && strcmp(string(how), "linear") == 0;
    char text[32];
    if (how != NULL && !linear && strcmp(string(how), "log") != 0)
        return config_bad(c, how, error, "but must be \"log\" or \"linear\"");
    c->o->rise = linear ? RISE_LINEAR : RISE_LOG;
    config_say(type, "--schedule %s, after DeepSpeed's %s rise", kinds[kind].option, linear ? "linear" : "logarithmic");
    if (how != NULL)
        config_say(how, "the rate rises %s", linear ? "linearly" : "logarithmically");
    if (config_row_any(c, SCHEDULER_ "warmup_num_steps") == NULL && !config_given(c, "warmup") &&
        c->by[options_find("warmup")] < 0)
        c->o->warmup = warmup_num_steps;
    if ((row = config_row(c, SCHEDULER_ "warmup_min_lr")) != NULL) {
        options_real(number(row), text, sizeof text);
        if (kind == WARMUP_DECAY) /* it ends at its start rate */
            CONFIG_TRY(config_assign(c, row, "min-lr", text, error));
        c->o->rise_from = number(row);
        config_say(row, "the rate rises from %s%s", text,
                   kind == WARMUP_DECAY && !config_given(c, "min-lr") ? ", and falls to it" : "");
    }
    if ((row = config_row(c, SCHEDULER_ "warmup_min_ratio")) != NULL) {
        c->o->rise_from_ratio = number(row);
        config_say(row, "the rate rises from this part of --lr, after one step at 0");
    }
    return ZERO_OK;
}

/* Sets the end of a cosine. */
static zero_status_t relate_end(config_t *c, zero_error_t *error)
{
    config_row_t *row = config_row(c, SCHEDULER_ "cos_min_ratio");
    const int by = c->by[options_find("min-lr")];
    const bool given = config_given(c, "min-lr");
    if (row != NULL && by >= 0)
        return config_bad(c, row, error, "and %s sets --min-lr too: leave one out", c->rows[by].path);
    if (row != NULL)
        config_say(row, given ? "not used: the command line has --min-lr" : "--min-lr: this part of --lr");
    if (by < 0 && !given)
        c->o->min_ratio = row != NULL ? number(row) : cos_min_ratio;
    return ZERO_OK;
}

/* Sets the rate: the scheduler's, if it has one. */
static zero_status_t relate_rate(config_t *c, int kind, bool chosen, zero_error_t *error)
{
    config_row_t *lr = config_row(c, OPTIMIZER_ "lr"), *most = config_row(c, SCHEDULER_ "warmup_max_lr");
    char text[32];
    if (most == NULL && kind == WARMUP_DECAY && !chosen && config_row_any(c, SCHEDULER_ "warmup_max_lr") == NULL) {
        if (!config_given(c, "lr"))
            c->o->lr = decay_max_lr;
        if (lr != NULL)
            config_say(lr, "not used: WarmupDecayLR rises to its warmup_max_lr, which is %g where a file has none",
                       decay_max_lr);
        return ZERO_OK;
    }
    config_row_t *row = most != NULL ? most : lr;
    if (row == NULL)
        return ZERO_OK;
    options_real(number(row), text, sizeof text);
    CONFIG_TRY(config_assign(c, row, "lr", text, error));
    if (row == most && lr != NULL)
        config_say(lr, "no effect: warmup_max_lr is the rate");
    return ZERO_OK;
}

static zero_status_t relate_schedule(config_t *c, zero_error_t *error)
{
    config_row_t *type = config_row(c, "scheduler.type");
    const bool chosen = config_given(c, "schedule");
    int kind = NONE;
    for (int i = 0; type != NULL && i < KINDS; i++)
        if (strcmp(kinds[i].type, string(type)) == 0)
            kind = i;
    if (type != NULL && kind == NONE && !chosen)
        return config_bad(
            c, type, error,
            "but must be one of: WarmupLR, WarmupDecayLR, WarmupCosineLR; or use \"schedule\", as --schedule");
    CONFIG_TRY(check_foreign(c, SCHEDULER_, "schedule", error));
    CONFIG_TRY(check_parameters(c, kind, chosen, error));
    if (type != NULL)
        CONFIG_TRY(config_assign(c, type, "schedule", kind != NONE ? kinds[kind].option : "constant", error));
    if (kind != NONE && !chosen)
        CONFIG_TRY(relate_rise(c, kind, type, error));
    if (kind == WARMUP_COSINE && !chosen)
        CONFIG_TRY(relate_end(c, error));
    return relate_rate(c, kind, chosen, error);
}

/* ---- batches ---------------------------------------------------------------------------------------------------- */

static zero_status_t relate_batch(config_t *c, zero_error_t *error)
{
    config_row_t *batch = config_row(c, "train_batch_size"), *micro = config_row(c, "train_micro_batch_size_per_gpu"),
                 *steps = config_row(c, "gradient_accumulation_steps");
    char text[32];
    if (batch != NULL) {
        snprintf(text, sizeof text, "%.0f", number(batch));
        CONFIG_TRY(config_assign(c, batch, "batch", text, error));
    }
    if (micro != NULL) {
        snprintf(text, sizeof text, "%.0f", number(micro));
        CONFIG_TRY(config_assign(c, micro, "micro-batch", text, error));
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
    CONFIG_TRY(config_relate_precision(config, error));
    CONFIG_TRY(relate_offload(config, error));
    CONFIG_TRY(relate_codecs(config, error));
    CONFIG_TRY(relate_tensor(config, error));
    CONFIG_TRY(relate_optimizer(config, error));
    CONFIG_TRY(relate_schedule(config, error));
    return relate_batch(config, error);
}
