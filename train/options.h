/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - the command line of zero_train: one table that parses, checks, documents and lists every option. */
#ifndef TRAIN_OPTIONS_H
#define TRAIN_OPTIONS_H

#include "models/model.h"

#include <stdio.h>

/* Values of the choices, in the order of the table's texts. */
enum { DEVICE_AUTO = 0, DEVICE_CPU, DEVICE_CUDA };
enum { REDUCE_EVERY = 0, REDUCE_LAST };
enum { OFFLOAD_NONE = 0, OFFLOAD_OPTIMIZER, OFFLOAD_PARAMS, OFFLOAD_ALL };
enum { OFFLOAD_TO_HOST = 0, OFFLOAD_TO_NVME };
enum { SCHEDULE_CONSTANT = 0, SCHEDULE_LINEAR, SCHEDULE_COSINE, SCHEDULE_NOAM };

enum { OPTIONS_MOST = 128, OPTION_LIST_MOST = 64 };

/* The values of an option that may be given several times. */
typedef struct option_list {
    const char *at[OPTION_LIST_MOST];
    int count;
} option_list_t;

/* Settings of a dynamic loss scale, as in zero_config_t. */
typedef struct scale {
    double first, least;
    int64_t interval, hysteresis;
} scale_t;

/* Until job_resolve chooses a value, an unset option is -1 (whole numbers, choices), NaN (reals), NULL (texts) or
 * empty (lists). */
typedef struct options {
    /* sharding */
    int64_t stage, ranks, replicas, pipe, pipe_schedule, chunks, tensor, sequence_parallel, context, node, threads,
        window, tile, device, reduce, reduce_dtype, timeout;
    int64_t gather_codec, reduce_codec; /* zero_codec_t */
    const char *tune, *device_map;
    /* model */
    const char *model;
    int64_t dtype, recompute, lora_rank, seed;
    double lora_alpha;
    const char *lora_targets;
    /* data */
    option_list_t data, eval_data;
    const char *tokenizer, *tokenize;
    int64_t pack, chat, skip_bad_lines, shuffle;
    /* batch */
    int64_t batch, micro_batch, seq_len, steps;
    /* optimizer */
    int64_t optimizer, schedule, warmup;
    int64_t max_skipped;
    double lr, min_lr, betas[2], eps, weight_decay, clip;
    double loss_scale; /* INFINITY: dynamic */
    /* offload */
    int64_t offload, offload_tier;
    const char *nvme_path;
    double offload_ratio;
    int64_t offload_activations;
    /* checkpoints */
    const char *save, *save_every, *resume, *export;
    int64_t keep, export_dtype, export_merged;
    /* output */
    const char *log, *trace, *trace_steps, *tensorboard, *prompt, *prompt_file;
    int64_t eval_every, eval_batches, sample, top_k;
    double temperature, top_p;
    int64_t quiet;
    /* inspect without training */
    int64_t explain, plan, compare_stages;
    /* file */
    const char *config;
    /* -h, --version */
    int64_t help, version;
    /* fields without an option */
    int64_t accumulation;              /* micro-steps of a step, from --config; -1: not set */
    int64_t rise;                      /* RISE_OWN ... of schedule.h: the rise of a Warmup scheduler in --config */
    double rise_from, rise_from_ratio; /* the start of its rise: a rate, and a share of the rate; one of them is 0 */
    double min_ratio;                  /* its end, as a share of the rate; NaN: at min_lr */
    scale_t scale;                     /* a dynamic loss scale: as --help says, or from --config */
    bool given[OPTIONS_MOST];          /* set on the command line, by index */
    char *prompt_text;                 /* the content of prompt_file (prompt.h), of prompt_bytes; NULL: not read */
    size_t prompt_bytes;
} options_t;

/* Every option unset or at its default. */
void options_init(options_t *options);

/* Reads argv into *options (initialised). Texts point into argv. ZERO_ERR_ARG names the option, the value found and the
 * value wanted. */
zero_status_t options_parse(options_t *options, int argc, char *const *argv, zero_error_t *error);

/* Sets the option at this index as --name text does, but does not mark it as given: for values that do not come from
 * the command line. A text option keeps the pointer text, and a list gains it. */
zero_status_t options_set(options_t *options, int index, const char *text, zero_error_t *error);
/* The index of a setting (not --help or --version) by name, with dashes or underscores. -1: there is none. */
int options_find(const char *name);
/* The number of edits (insertions, deletions, replacements) that turn a into b (Levenshtein 1966). A text longer than
 * 63 counts as far away. */
int options_distance(const char *a, const char *b);

/* Prints the groups, and each option with its default. */
void options_help(FILE *file);

/* The type of an option's value, for the log and for the comparison of ranks. */
typedef enum option_type {
    OPTION_WHOLE = 0,
    OPTION_REAL,
    OPTION_PAIR,
    OPTION_TEXT,
    OPTION_LIST,
    OPTION_CHOICE,
    OPTION_FLAG,
    OPTION_REAL_OR_WORD /* a number, or the word of its choices, which is INFINITY */
} option_type_t;

typedef struct option_view {
    const char *name; /* without dashes */
    option_type_t type;
    bool set;                  /* false: no value */
    bool shared;               /* must be equal on all ranks */
    int64_t whole;             /* WHOLE, FLAG */
    double real[2];            /* REAL, PAIR, REAL_OR_WORD */
    char text[256];            /* TEXT (cut), LIST (cut; its first value, and how many more), CHOICE; REAL_OR_WORD: the
                                * word, or "" for a number */
    const char *full;          /* TEXT, whole */
    const option_list_t *list; /* LIST */
} option_view_t;

int options_count(void);
void options_view(const options_t *options, int index, option_view_t *view);
/* The fewest digits that read back as value. */
void options_real(double value, char *out, size_t size);
/* The value of a view as a user would type it. */
void option_view_print(const option_view_t *view, char *out, size_t size);

#endif
