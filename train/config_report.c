/* SPDX-License-Identifier: Apache-2.0 */
#include "train/config_parts.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { VALUE = 20 };

/* ---- errors of later checks of the options ---------------------------------------------------------------------- */

static bool in_word(char c)
{
    return isalnum((unsigned char)c) || c == '-' || c == '_' || c == '.';
}

/* Whether text contains word, but not inside a longer word. A full stop after the word ends a sentence. */
static bool mentions(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *p = strstr(text, word); p != NULL; p = strstr(p + 1, word))
        if ((p == text || !in_word(p[-1])) && (!in_word(p[length]) || p[length] == '.'))
            return true;
    return false;
}

static bool is_about(const config_t *config, const char *text, int index)
{
    const config_row_t *row = &config->rows[index];
    if (row->key != NULL && row->key->rule == KEY_RELATED &&
        mentions(text, row->path)) /* other paths may be plain words */
        return true;
    for (int i = 0; i < options_count(); i++) {
        option_view_t view;
        char name[80];
        if (config->by[i] != index)
            continue;
        options_view(config->o, i, &view);
        snprintf(name, sizeof name, "--%s", view.name);
        if (mentions(text, name) || (view.type == OPTION_TEXT && view.set && mentions(text, view.full)))
            return true;
    }
    return false;
}

void config_blame(const config_t *config, zero_error_t *error)
{
    char keys[256] = "", text[sizeof error->text];
    int count = 0;
    if (config == NULL || strncmp(error->text, "--config ", 9) == 0)
        return;
    for (int i = 0; i < config->count; i++) {
        size_t used = strlen(keys), more = strlen(config->rows[i].path) + 2;
        if (!is_about(config, error->text, i) || used + more >= sizeof keys)
            continue;
        snprintf(keys + used, sizeof keys - used, "%s%s", count > 0 ? ", " : "", config->rows[i].path);
        count++;
    }
    if (count == 0)
        return;
    memcpy(text, error->text, sizeof text);
    zero_fail(error, error->status, "--config '%.200s', %s %s: %s", config->file, count > 1 ? "keys" : "key", keys,
              text);
}

/* ---- the effect of each key, and the options that the file leaves open ------------------------------------------ */

/* DeepSpeed's defaults that differ from ours. */
static const struct {
    const char *path, *option, *value;
} defaults[] = {
    {"zero_optimization.stage", "stage", "0"},  {"gradient_clipping", "clip", "0"},
    {"optimizer.params.lr", "lr", "0.001"},     {"optimizer.params.betas", "betas", "0.9,0.999"},
    {"optimizer.params.eps", "eps", "1e-8"},    {"optimizer.params.weight_decay", "weight-decay", "0"},
    {"scheduler.type", "schedule", "constant"}, {"scheduler.params.warmup_num_steps", "warmup", "0"},
    {"bf16.enabled", "dtype", "fp32"},
};
enum { DEFAULTS = sizeof defaults / sizeof defaults[0] };

/* DeepSpeed's default of entry k, which depends on the optimizer and the scheduler. NULL: none to compare with. */
static const char *default_of(const config_t *c, int k)
{
    const char *option = defaults[k].option;
    const config_row_t *torch = config_row(c, "optimizer.params.torch_adam");
    if (strcmp(option, "lr") == 0 && config_row(c, "optimizer.type") == NULL)
        return NULL; /* the caller's optimizer has its own default */
    if (strcmp(option, "warmup") == 0 && config_row(c, "scheduler.type") != NULL)
        return NULL;
    if (strcmp(option, "betas") == 0 && c->o->optimizer == ZERO_RULE_LION)
        return "0.9,0.99";
    if (strcmp(option, "betas") == 0 && c->o->optimizer == ZERO_RULE_SGD)
        return "0,0.95"; /* its only coefficient is the momentum */
    if (strcmp(option, "weight-decay") == 0 && torch != NULL && json_is_true(torch->value) &&
        c->o->optimizer == ZERO_RULE_ADAMW)
        return "0.01";
    return defaults[k].value;
}

/* Whether the option has its default: neither the command line nor the file sets it. */
static bool is_open(const config_t *c, int option)
{
    return option >= 0 && !c->o->given[option] && c->by[option] < 0;
}

/* Writes DeepSpeed's default of entry k to out if the option is open and our default differs, else "". */
static void other_default(const config_t *c, int k, char *out, size_t size)
{
    const char *value = default_of(c, k);
    int option = options_find(defaults[k].option);
    options_t there = *c->o;
    option_view_t view;
    char ours[256];
    out[0] = '\0';
    if (value == NULL || !is_open(c, option) || options_set(&there, option, value, NULL) != ZERO_OK)
        return;
    options_view(c->o, option, &view);
    option_view_print(&view, ours, sizeof ours);
    options_view(&there, option, &view);
    option_view_print(&view, out, size);
    if (strcmp(ours, out) == 0)
        out[0] = '\0';
}

/* The option that a key sets. -1: none, or several. */
static int option_of(const config_row_t *row)
{
    if (row->key == NULL)
        return options_find(row->path);
    if (row->key->rule == KEY_OPTION)
        return options_find(row->key->text);
    for (int k = 0; k < DEFAULTS; k++)
        if (strcmp(row->key->path, defaults[k].path) == 0)
            return options_find(defaults[k].option);
    return -1;
}

/* Prints the value of an open option. there: DeepSpeed's default, or "". */
static void print_open(const config_t *c, int option, const char *there, FILE *file)
{
    option_view_t view;
    char text[256];
    options_view(c->o, option, &view);
    option_view_print(&view, text, sizeof text);
    fprintf(file, "--%s %s, its default%s%s\n", view.name, text, there[0] != '\0' ? "; DeepSpeed's is " : "", there);
}

void config_print(const config_t *config, FILE *file)
{
    char others[DEFAULTS][64];
    bool deepspeed = false;
    int wide = 0;
    if (config == NULL)
        return;
    for (int i = 0; i < config->count; i++) {
        deepspeed |= config->rows[i].key != NULL;
        if ((int)strlen(config->rows[i].path) > wide)
            wide = (int)strlen(config->rows[i].path);
    }
    for (int k = 0; k < DEFAULTS; k++) {
        other_default(config, k, others[k], sizeof others[k]);
        if (deepspeed && others[k][0] != '\0' && (int)strlen(defaults[k].path) > wide)
            wide = (int)strlen(defaults[k].path);
    }
    fprintf(file, "%s:\n", config->file);
    for (int i = 0; i < config->count; i++) {
        const config_row_t *row = &config->rows[i];
        const int option = option_of(row);
        const char *there = "";
        char value[VALUE + 1];
        config_value(row->value, value, sizeof value);
        fprintf(file, "  %-*s  %-*s  ", wide, row->path, VALUE, value);
        for (int k = 0; k < DEFAULTS && row->key != NULL; k++)
            if (strcmp(row->key->path, defaults[k].path) == 0)
                there = others[k];
        if (row->automatic && is_open(config, option))
            print_open(config, option, there, file);
        else
            fprintf(file, "%s\n", row->result);
    }
    for (int k = 0; k < DEFAULTS && deepspeed; k++)
        if (others[k][0] != '\0' && config_row_any(config, defaults[k].path) == NULL) {
            fprintf(file, "  %-*s  %-*s  ", wide, defaults[k].path, VALUE, "(absent)");
            print_open(config, options_find(defaults[k].option), others[k], file);
        }
}
