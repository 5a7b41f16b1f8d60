#include "optim/rules.h"
#include "optim/adamw.h"

static const struct rule {
    const char *name;
    int states, block_bytes;
} rules[ZERO_RULES] = {
    [ZERO_RULE_ADAMW] = {"adamw", 2, ZERO_BLOCK8 * sizeof(float)},
    [ZERO_RULE_ADAM] = {"adam", 2, ZERO_BLOCK8 * sizeof(float)},
    [ZERO_RULE_SGD] = {"sgd", 1, ZERO_BLOCK8 * sizeof(float)},
    [ZERO_RULE_LION] = {"lion", 1, ZERO_BLOCK8 * sizeof(float)},
    [ZERO_RULE_ADAMW8] = {"adamw8bit", 2, sizeof(zero_block8_t)},
};

const char *zero_rule_name(zero_rule_t rule)
{
    return rules[rule].name;
}

int zero_rule_states(zero_rule_t rule, const zero_adamw_t *options)
{
    return rule == ZERO_RULE_SGD && options->beta1 == 0 ? 0 : rules[rule].states;
}

int zero_rule_block_bytes(zero_rule_t rule)
{
    return rules[rule].block_bytes;
}

zero_rule_scalars_t zero_rule_scalars(zero_rule_t rule, const zero_adamw_t *options, double lr, double lr_scale, double decay_scale,
                                      int64_t t, double grad_factor)
{
    bool coupled = rule == ZERO_RULE_ADAM || rule == ZERO_RULE_SGD;
    zero_rule_scalars_t s = zero_adamw_scalars(options, lr, lr_scale, coupled ? 0 : decay_scale, t, grad_factor);
    if (coupled)
        s.l2 = (float)(options->weight_decay * decay_scale);
    if (rule == ZERO_RULE_SGD || rule == ZERO_RULE_LION) /* no bias to correct */
        s.step_size = (float)(lr * lr_scale);
    return s;
}
