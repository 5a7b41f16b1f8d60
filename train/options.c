/* SPDX-License-Identifier: Apache-2.0 */
#include "train/options_parts.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const group_names[GROUP_COUNT] = {
    "Sharding", "Model", "Data", "Batch", "Optimizer", "Offload", "Checkpoints", "Output", "Look first", "File",
};

#define FIELD(f) offsetof(options_t, f)
#define UNSET NAN
#define MANY 1e15
#define COUNT_OPTIONS ((int)(sizeof(options_table) / sizeof(options_table[0])))

const option_t options_table[] = {
    {"stage", SHARDING, OPTION_WHOLE, FIELD(stage), 0, 3, UNSET, NULL, "0..3",
     "3; 1 with --pipe, which then gathers nothing",
     "what the ranks shard: 0 nothing, 1 optimizer state, 2 also gradients, 3 also parameters", true},
    {"ranks", SHARDING, OPTION_WHOLE, FIELD(ranks), 1, 1 << 20, UNSET, NULL, "N",
     "one per GPU, 2 on CPU; the launcher's number under a launcher",
     "number of processes; 1 starts no others; ranks share GPUs if there are more ranks than GPUs", false},
    {"replicas", SHARDING, OPTION_WHOLE, FIELD(replicas), 1, 1 << 20, 1, NULL, "N", "1",
     "groups of consecutive ranks that each have all parameters; ranks shard them inside their group, and the groups "
     "sum their gradients once a step",
     true},
    {"pipe", SHARDING, OPTION_WHOLE, FIELD(pipe), 1, 1 << 20, 1, NULL, "N", "1",
     "stages of a pipeline: each N-th of the ranks computes some of the layers, and hands activations to the next one; "
     "the options above then hold within a stage",
     true},
    {"pipe-schedule", SHARDING, OPTION_CHOICE, FIELD(pipe_schedule), 0, 0, ZERO_SCHEDULE_1F1B,
     "1f1b|gpipe|naive|interleaved", "1f1b|gpipe|naive|interleaved", "1f1b",
     "order of the forward and backward passes of the micro-steps in a pipeline", true},
    {"chunks", SHARDING, OPTION_WHOLE, FIELD(chunks), 1, 1 << 20, UNSET, NULL, "V", "2 with interleaved, else 1",
     "parts of the model on each stage of an interleaved pipeline", true},
    {"device-map", SHARDING, OPTION_TEXT, FIELD(device_map), 0, 0, UNSET, NULL, "even|FILE", "even",
     "layers of each stage (with --chunks, of each chunk): even divides them by cost; FILE is JSON, "
     "{\"0\": [0, 1], \"1\": [2, 3, 4], ...}",
     true},
    {"tensor", SHARDING, OPTION_WHOLE, FIELD(tensor), 1, 1 << 20, 1, NULL, "N", "1",
     "tensor parallelism: each N consecutive ranks compute every layer together, on the same data; each has a part of "
     "its heads and of its MLP, and they exchange activations inside the layer",
     true},
    {"sequence-parallel", SHARDING, OPTION_CHOICE, FIELD(sequence_parallel), 0, 0, UNSET, "off|on", "on|off",
     "on, with --tensor above 1",
     "on: between these parts, each of the N ranks keeps a part of the rows; off: all rows", true},
    {"context", SHARDING, OPTION_WHOLE, FIELD(context), 1, 1 << 20, 1, NULL, "N", "1",
     "context parallelism: each N consecutive ranks (with --tensor: groups of them) have parts of the same sequences, "
     "and exchange the keys and values of attention; for sequences that one rank cannot hold",
     true},
    {"node", SHARDING, OPTION_WHOLE, FIELD(node), 2, 1 << 20, UNSET, NULL, "N", "none",
     "with stage 3, the ranks of a node of N keep all parameters between them from the forward pass, and the backward "
     "pass gathers inside the node",
     true},
    {"threads", SHARDING, OPTION_WHOLE, FIELD(threads), 1, 4096, UNSET, NULL, "N",
     "cores / ranks of this machine, within a CPU quota", "threads per rank", false},
    {"device", SHARDING, OPTION_CHOICE, FIELD(device), 0, 0, DEVICE_AUTO, "auto|cpu|cuda", "auto|cpu|cuda", "auto",
     "where to compute; auto: cuda if this build can use a GPU of this machine", true},
    {"tune", SHARDING, OPTION_TEXT, FIELD(tune), 0, 0, UNSET, NULL, "FILE", "none",
     "on GPUs: use the algorithms of matrix products in FILE; measure the fastest one for products that FILE lacks and "
     "add it to FILE; under mpiexec write --tune=FILE, as one word",
     false},
    {"window", SHARDING, OPTION_WHOLE, FIELD(window), 1, 1 << 20, 2, NULL, "UNITS", "2",
     "units gathered at once, including prefetched ones", true},
    {"tile", SHARDING, OPTION_WHOLE, FIELD(tile), 0, 1e15, 0, NULL, "BYTES", "0 (off)",
     "divide embeddings and heads that are larger into tiles of about so many bytes (64M: also K, G), gathered and "
     "dropped one after the other",
     true},
    {"reduce", SHARDING, OPTION_CHOICE, FIELD(reduce), 0, 0, UNSET, "every|last", "every|last",
     "every at stages 2 and 3, last below", "reduce gradients every micro-step, or once a step", true},
    {"reduce-dtype", SHARDING, OPTION_CHOICE, FIELD(reduce_dtype), 0, 0, ZERO_FP32, "fp32|bf16", "fp32|bf16", "fp32",
     "dtype of gradients on the wire", true},
    {"gather-codec", SHARDING, OPTION_CHOICE, FIELD(gather_codec), 0, 0, ZERO_CODEC_NONE, "none|int8", "none|int8",
     "none",
     "with stage 3: gather parameters as 8-bit codes, in about a quarter of the bytes of fp32; lossy: ranks compute "
     "with "
     "rounded parameters, and update exact ones",
     true},
    {"reduce-codec", SHARDING, OPTION_CHOICE, FIELD(reduce_codec), 0, 0, ZERO_CODEC_NONE, "none|int8|int4",
     "none|int8|int4", "none", "reduce gradients as codes of so many bits; lossy: ranks sum rounded gradients, in fp32",
     true},
    {"timeout", SHARDING, OPTION_WHOLE, FIELD(timeout), 1, 1e6, 600, NULL, "SECONDS", "600",
     "bound of the start of all ranks, and of each wait for other ranks", true},

    {"model", MODEL, OPTION_TEXT, FIELD(model), 0, 0, UNSET, NULL, "NAME|DIR|FILE", "tiny",
     "tiny, gpt2, gpt2-medium, gpt2-large, gpt2-xl, llama-1b, llama-3b, llama-8b, qwen2.5-0.5b, qwen2.5-7b, "
     "numbers-seq2seq (an encoder and a decoder, which learns to write numbers as words); a Hugging Face folder of a "
     "GPT-2, Llama, Mistral, Qwen2 or Qwen3, with its weights; a folder of adapters, whose adapter_config.json names "
     "such a folder; or a config.json, with random weights",
     true},
    {"dtype", MODEL, OPTION_CHOICE, FIELD(dtype), 0, 0, UNSET, "fp32|bf16|fp16", "fp32|bf16|fp16",
     "fp32 on CPU, bf16 on GPUs", "dtype of parameters, activations and gradients; fp16 has a loss scale", true},
    {"recompute", MODEL, OPTION_CHOICE, FIELD(recompute), 0, 0, ZERO_RECOMPUTE_NONE, "none|selective|full",
     "[=full|selective]", "none; full without a value",
     "recompute activations in the backward pass instead of keeping them", true},
    {"lora-rank", MODEL, OPTION_WHOLE, FIELD(lora_rank), 1, 1e6, UNSET, NULL, "N", "no adapters",
     "train low-rank adapters (LoRA) of this rank beside linear layers, and freeze the model itself", true},
    {"lora-alpha", MODEL, OPTION_REAL, FIELD(lora_alpha), 0, MANY, UNSET, NULL, "A", "8",
     "what adapters add is multiplied by A / N", true},
    {"lora-targets", MODEL, OPTION_TEXT, FIELD(lora_targets), 0, 0, UNSET, NULL, "NAMES",
     "q_proj,v_proj; c_attn of a GPT-2",
     "the linear layers that have adapters, as peft names them, separated by commas; or all-linear", true},
    {"seed", MODEL, OPTION_WHOLE, FIELD(seed), 0, MANY, 0, NULL, "N", "0",
     "seed of initial values, of samples, and of the numbers of numbers-seq2seq", true},

    {"data", DATA, OPTION_LIST, FIELD(data), 0, 0, UNSET, NULL, "FILE", "numbers spelled as words, built in",
     "text (a byte is a token without a tokenizer), JSON lines (.jsonl), a token file, or a numpy array of tokens; "
     "recognized by its first "
     "bytes; several files follow each other: give it again, a pattern ('shards/*.bin'), or names separated by commas",
     false},
    {"eval-data", DATA, OPTION_LIST, FIELD(eval_data), 0, 0, UNSET, NULL, "FILE",
     "numbers not used for training, built in", "the same for evaluation", false},
    {"tokenizer", DATA, OPTION_TEXT, FIELD(tokenizer), 0, 0, UNSET, NULL, "FILE", "that of a model's folder",
     "a Hugging Face tokenizer.json with BPE, for data that is text, and for --prompt", false},
    {"tokenize", DATA, OPTION_TEXT, FIELD(tokenize), 0, 0, UNSET, NULL, "FILE", "none",
     "write the tokens of a text, or of \"text\" in JSON lines (.jsonl), with .bin in place of the ending, and an "
     "index of documents (.bin.idx); train nothing",
     false},
    {"pack", DATA, OPTION_FLAG, FIELD(pack), 0, 0, 0, NULL, NULL, NULL,
     "pack documents into rows of --seq-len tokens: attention and positions stay in a document; documents are texts, "
     "JSON lines, or what the index beside a token file says",
     true},
    {"chat", DATA, OPTION_CHOICE, FIELD(chat), 0, 0, UNSET, "llama3|chatml", "llama3|chatml",
     "by the tokenizer's special tokens",
     "template of conversations: JSON lines with \"messages\", or \"prompt\" and \"completion\"; only answers are "
     "learned",
     true},
    {"skip-bad-lines", DATA, OPTION_FLAG, FIELD(skip_bad_lines), 0, 0, 0, NULL, NULL, NULL,
     "leave out JSON lines that are wrong, and count them", true},
    {"shuffle", DATA, OPTION_WHOLE, FIELD(shuffle), 0, MANY, UNSET, NULL, "SEED", "in order",
     "permute the windows, or rows, of each epoch", true},

    {"batch", BATCH, OPTION_WHOLE, FIELD(batch), 1, 1e9, UNSET, NULL, "SEQUENCES",
     "8, or what fits the ranks; 64 for numbers-seq2seq", "sequences per step, over all ranks", true},
    {"micro-batch", BATCH, OPTION_WHOLE, FIELD(micro_batch), 1, 1e9, UNSET, NULL, "SEQUENCES",
     "what fits --batch, at most 8; 4 for larger models, 64 for numbers-seq2seq", "sequences per rank and micro-step",
     true},
    {"seq-len", BATCH, OPTION_WHOLE, FIELD(seq_len), 1, 1e9, UNSET, NULL, "TOKENS",
     "64; 256 for larger models, 15 for numbers-seq2seq", "tokens per sequence", true},
    {"steps", BATCH, OPTION_WHOLE, FIELD(steps), 0, 1e12, UNSET, NULL, "N",
     "1500; 100 for larger models, 10 with --compare-stages", "number of steps, counted from the start of training",
     true},

    {"optimizer", OPTIMIZER, OPTION_CHOICE, FIELD(optimizer), 0, 0, ZERO_RULE_ADAMW,
     "adamw|adam|sgd|lion|adamw8bit|muon", "adamw|adam|sgd|lion|adamw8bit|muon", "adamw",
     "optimizer; adamw8bit keeps its moments in a quarter of the memory; muon makes the updates of the layers' "
     "matrices "
     "orthogonal and updates the rest as adamw does",
     true},
    {"lr", OPTIMIZER, OPTION_REAL, FIELD(lr), 0, MANY, UNSET, NULL, "RATE",
     "0.003; 0.0006 for larger presets, 0.00005 for folders, 0.0002 for adapters; 1 with noam, 0.5 for "
     "numbers-seq2seq",
     "learning rate", true},
    {"min-lr", OPTIMIZER, OPTION_REAL, FIELD(min_lr), 0, MANY, 0, NULL, "RATE", "0",
     "learning rate at the end of linear and cosine", true},
    {"schedule", OPTIMIZER, OPTION_CHOICE, FIELD(schedule), 0, 0, SCHEDULE_COSINE, "constant|linear|cosine|noam",
     "constant|linear|cosine|noam", "cosine", "schedule of the learning rate", true},
    {"warmup", OPTIMIZER, OPTION_WHOLE, FIELD(warmup), 0, 1e12, UNSET, NULL, "STEPS",
     "a tenth of --steps, at most 100, or 200 for numbers-seq2seq; with noam at least 1",
     "steps until the full learning rate", true},
    {"betas", OPTIMIZER, OPTION_PAIR, FIELD(betas), 0, 1, UNSET, NULL, "B1,B2", "0.9,0.95",
     "decay of the moments, each below 1; B1 is the momentum of sgd", true},
    {"eps", OPTIMIZER, OPTION_REAL, FIELD(eps), 0, MANY, 1e-8, NULL, "E", "1e-8",
     "term added to the root of the second moment, above 0", true},
    {"weight-decay", OPTIMIZER, OPTION_REAL, FIELD(weight_decay), 0, MANY, 0.1, NULL, "W", "0.1",
     "weight decay of parameters with two or more dimensions", true},
    {"clip", OPTIMIZER, OPTION_REAL, FIELD(clip), 0, MANY, 1, NULL, "NORM", "1",
     "largest norm of the gradients; 0: off", true},
    {"max-skipped", OPTIMIZER, OPTION_WHOLE, FIELD(max_skipped), 0, MANY, UNSET, NULL, "STEPS",
     "10; 0 with a dynamic loss scale",
     "fail after this many steps in a row without a finite gradient norm; 0: never, unless a dynamic loss scale cannot "
     "shrink any more",
     true},
    {"loss-scale", OPTIMIZER, OPTION_REAL_OR_WORD, FIELD(loss_scale), 0, FLT_MAX, UNSET, "dynamic", "dynamic|VALUE",
     "dynamic with fp16",
     "factor of the loss in the backward pass of fp16, which keeps small gradients from becoming 0; dynamic: begins "
     "with 65536, shrinks to a half when gradients overflow, doubles after 2000 updates in a row",
     true},

    {"offload", OFFLOAD, OPTION_CHOICE, FIELD(offload), 0, 0, OFFLOAD_NONE, "none|optimizer|params|all",
     "none|optimizer|params|all", "none",
     "state outside the device: optimizer state with its gradients, parameters, or both", true},
    {"offload-tier", OFFLOAD, OPTION_CHOICE, FIELD(offload_tier), 0, 0, OFFLOAD_TO_HOST, "host|nvme", "host|nvme",
     "host", "where it lives: host memory, or a drive (gradients stay in host memory)", true},
    {"nvme-path", OFFLOAD, OPTION_TEXT, FIELD(nvme_path), 0, 0, UNSET, NULL, "DIR", "none",
     "folder on a local drive, for --offload-tier nvme", false},
    {"offload-ratio", OFFLOAD, OPTION_REAL, FIELD(offload_ratio), 0, 1, 1, NULL, "0..1", "1",
     "share of the optimizer state that is offloaded", true},
    {"offload-activations", OFFLOAD, OPTION_FLAG, FIELD(offload_activations), 0, 0, 0, NULL, NULL, NULL,
     "with --recompute: keep the layers' inputs in host memory", true},

    {"save", CHECKPOINTS, OPTION_TEXT, FIELD(save), 0, 0, UNSET, NULL, "DIR", "none",
     "save checkpoints as DIR/step-N, after the last step and when a signal ends the run; all ranks must share DIR",
     true},
    {"save-every", CHECKPOINTS, OPTION_TEXT, FIELD(save_every), 0, 0, UNSET, NULL, "N|10m|2h", "at the end",
     "also save every N steps, or after this many seconds (30s), minutes or hours; training goes on", true},
    {"keep", CHECKPOINTS, OPTION_WHOLE, FIELD(keep), 1, 1e9, UNSET, NULL, "K", "all",
     "keep the K newest checkpoints: remove older ones when a newer one is whole", true},
    {"resume", CHECKPOINTS, OPTION_TEXT, FIELD(resume), 0, 0, UNSET, NULL, "DIR", "none",
     "continue from the newest whole checkpoint in DIR, or from DIR/step-N, with any other placement of state; without "
     "one begin anew; DIR may be missing if it is also that of --save",
     false},
    {"export", CHECKPOINTS, OPTION_TEXT, FIELD(export), 0, 0, UNSET, NULL, "DIR", "none",
     "write the model as a Hugging Face folder after the last step, or with --lora-rank its adapters as a folder for "
     "peft; DIR is new, empty, or an earlier export, which it replaces; all ranks must share it",
     true},
    {"export-dtype", CHECKPOINTS, OPTION_CHOICE, FIELD(export_dtype), 0, 0, UNSET, "fp32|bf16|fp16", "fp32|bf16|fp16",
     "that of the run", "dtype of the exported tensors", true},
    {"export-merged", CHECKPOINTS, OPTION_FLAG, FIELD(export_merged), 0, 0, 0, NULL, NULL, NULL,
     "with --lora-rank: export the whole model with the adapters added to its weights, not the adapters alone", true},

    {"log", OUTPUT, OPTION_TEXT, FIELD(log), 0, 0, UNSET, NULL, "FILE", "none", "write one line of JSON per step",
     false},
    {"trace", OUTPUT, OPTION_TEXT, FIELD(trace), 0, 0, UNSET, NULL, "FILE", "none",
     "write what ran when in some steps, for Perfetto or chrome://tracing; with several ranks, a file per rank: "
     "run.json becomes run.0.json, ...",
     false},
    {"trace-steps", OUTPUT, OPTION_TEXT, FIELD(trace_steps), 0, 0, UNSET, NULL, "A-B",
     "three steps after the first three", "steps to trace", false},
    {"tensorboard", OUTPUT, OPTION_TEXT, FIELD(tensorboard), 0, 0, UNSET, NULL, "DIR", "none",
     "add a file for TensorBoard to this folder: loss, norm, rates, memory and evaluations", false},
    {"eval-every", OUTPUT, OPTION_WHOLE, FIELD(eval_every), 1, 1e12, UNSET, NULL, "N", "at the end, with --eval-data",
     "steps between evaluations", true},
    {"eval-batches", OUTPUT, OPTION_WHOLE, FIELD(eval_batches), 1, 1e9, UNSET, NULL, "N", "16",
     "batches per evaluation, of --batch sequences each", true},
    {"sample", OUTPUT, OPTION_WHOLE, FIELD(sample), 0, 1e6, UNSET, NULL, "TOKENS",
     "48 with the built-in model on text, or with a prompt; --seq-len with numbers-seq2seq; else 0",
     "tokens of the samples before and after training; 0: no samples; prompt and sample fit the model's positions",
     true},
    {"prompt", OUTPUT, OPTION_TEXT, FIELD(prompt), 0, 0, UNSET, NULL, "TEXT",
     "a newline; numbers with the built-in corpus",
     "text that samples begin with; with numbers-seq2seq a number; with --steps 0 only samples", true},
    {"prompt-file", OUTPUT, OPTION_TEXT, FIELD(prompt_file), 0, 0, UNSET, NULL, "FILE", "none",
     "file with that text, of which a newline at the end does not count; -: standard input", true},
    {"temperature", OUTPUT, OPTION_REAL, FIELD(temperature), 0, MANY, UNSET, NULL, "T", "0.8; 0 for numbers",
     "temperature of samples; 0: always the most likely token", true},
    {"top-k", OUTPUT, OPTION_WHOLE, FIELD(top_k), 0, 1e9, UNSET, NULL, "K", "0 (off)",
     "sample from the K most likely tokens", true},
    {"top-p", OUTPUT, OPTION_REAL, FIELD(top_p), 0, 1, UNSET, NULL, "P", "1 (off)",
     "sample from the most likely tokens whose probabilities add up to P", true},
    {"quiet", OUTPUT, OPTION_FLAG, FIELD(quiet), 0, 0, 0, NULL, NULL, NULL, "print errors only", false},

    {"explain", LOOK, OPTION_FLAG, FIELD(explain), 0, 0, 0, NULL, NULL, NULL, "print the plan, run nothing", false},
    {"plan", LOOK, OPTION_FLAG, FIELD(plan), 0, 0, 0, NULL, NULL, NULL,
     "print the memory of a rank, run nothing; for any --ranks", false},
    {"compare-stages", LOOK, OPTION_FLAG, FIELD(compare_stages), 0, 0, 0, NULL, NULL, NULL,
     "run the same steps at stages 0 to 3 and print one table of memory, traffic, speed and results", true},

    {"config", FILES, OPTION_TEXT, FIELD(config), 0, 0, UNSET, NULL, "FILE", "none",
     "JSON with DeepSpeed's keys, and any of these options by name; the command line takes precedence", false},

    {"help", GROUP_COUNT, OPTION_FLAG, FIELD(help), 0, 0, 0, NULL, NULL, NULL, "print this text", false},
    {"version", GROUP_COUNT, OPTION_FLAG, FIELD(version), 0, 0, 0, NULL, NULL, NULL, "print the version", false},
};

_Static_assert(COUNT_OPTIONS <= OPTIONS_MOST, "options_t marks each option that is given");

void options_init(options_t *options)
{
    memset(options, 0, sizeof *options);
    for (int i = 0; i < COUNT_OPTIONS; i++) {
        const option_t *option = &options_table[i];
        switch (option->type) {
        case OPTION_WHOLE:
        case OPTION_CHOICE:
        case OPTION_FLAG:
            *(int64_t *)options_field(options, option) = isnan(option->initial) ? -1 : (int64_t)option->initial;
            break;
        case OPTION_REAL:
        case OPTION_REAL_OR_WORD:
            *(double *)options_field(options, option) = option->initial;
            break;
        case OPTION_TEXT:
            *(const char **)options_field(options, option) = NULL;
            break;
        case OPTION_LIST: /* empty */
        case OPTION_PAIR:
            break;
        }
    }
    options->betas[0] = 0.9;
    options->betas[1] = 0.95;
    options->accumulation = -1;
    options->min_ratio = NAN;
    options->scale = (scale_t){.first = 65536, .least = 0x1p-24, .interval = 2000, .hysteresis = 1};
}

int options_distance(const char *a, const char *b)
{
    size_t m = strlen(a), n = strlen(b);
    int row[64];
    if (m > 63 || n > 63)
        return 64;
    for (size_t j = 0; j <= n; j++)
        row[j] = (int)j;
    for (size_t i = 1; i <= m; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= n; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

static zero_status_t unknown(const char *name, zero_error_t *error)
{
    int best = 64;
    const char *nearest = NULL;
    for (int i = 0; i < COUNT_OPTIONS; i++) {
        int d = options_distance(name, options_table[i].name);
        if (d < best) {
            best = d;
            nearest = options_table[i].name;
        }
    }
    if (nearest != NULL && best <= 3 && 2 * (size_t)best < strlen(name))
        return zero_fail(error, ZERO_ERR_ARG, "unknown option '--%s': did you mean --%s?", name, nearest);
    return zero_fail(error, ZERO_ERR_ARG, "unknown option '--%s': --help lists the options", name);
}

int options_find(const char *name)
{
    for (int i = 0; i < options_count(); i++) {
        const char *a = options_table[i].name, *b = name;
        while (*a != '\0' && (*a == *b || (*a == '-' && *b == '_'))) {
            a++;
            b++;
        }
        if (*a == '\0' && *b == '\0')
            return i;
    }
    return -1;
}

static bool takes_optional(const option_t *option)
{
    return option->argument != NULL && option->argument[0] == '[';
}

/* Fails for an argument that is not an option. last is the option before it (NULL: none); its value is complete or it
 * takes none. */
static zero_status_t stray(const char *argument, const option_t *last, const char *value, zero_error_t *error)
{
    if (argument[0] == '-' && argument[1] != '\0' && argument[1] != '-')
        for (int i = 0; i < COUNT_OPTIONS; i++)
            if (strncmp(options_table[i].name, argument + 1, strcspn(argument + 1, "=")) == 0 &&
                options_table[i].name[strcspn(argument + 1, "=")] == '\0')
                return zero_fail(error, ZERO_ERR_ARG, "'%s' is not an option: did you mean --%s?", argument,
                                 options_table[i].name);
    if (argument[0] == '-' || last == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "'%s' is not an option: --help lists the options", argument);
    if (last->type == OPTION_FLAG)
        return zero_fail(error, ZERO_ERR_ARG, "'%s' follows --%s, which takes no value: remove it", argument,
                         last->name);
    if (value == NULL && options_choice(last->choices, argument) >= 0)
        return zero_fail(error, ZERO_ERR_ARG, "'%s' follows --%s, whose value comes with '=': write --%s=%s", argument,
                         last->name, last->name, argument);
    if (value == NULL)
        return zero_fail(error, ZERO_ERR_ARG, "'%s' follows --%s, whose value comes with '=' and must be one of: %s",
                         argument, last->name, last->choices);
    if (last->type == OPTION_LIST)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "'%s' follows --%s %s, but an option takes one value: write --%s again before it, or a pattern "
            "in quotes",
            argument, last->name, value, last->name);
    return zero_fail(error, ZERO_ERR_ARG, "'%s' follows --%s %s, but an option takes one value: remove it", argument,
                     last->name, value);
}

zero_status_t options_parse(options_t *options, int argc, char *const *argv, zero_error_t *error)
{
    const option_t *last = NULL;
    const char *value = NULL; /* of last; NULL: it has none */
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i];
        char name[64];
        if (strcmp(argument, "-h") == 0) {
            options->help = 1;
            continue;
        }
        if (strncmp(argument, "--", 2) != 0 || argument[2] == '\0')
            return stray(argument, last, value, error);
        const char *equals = strchr(argument, '=');
        size_t length = equals != NULL ? (size_t)(equals - argument - 2) : strlen(argument + 2);
        snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name), argument + 2);

        const option_t *option = NULL;
        for (int k = 0; k < COUNT_OPTIONS && option == NULL; k++)
            if (strcmp(options_table[k].name, name) == 0)
                option = &options_table[k];
        if (option == NULL)
            return unknown(name, error);

        options->given[option - options_table] = true;
        last = option;
        value = equals != NULL ? equals + 1 : NULL;
        if (value == NULL && option->type == OPTION_FLAG) {
            *(int64_t *)options_field(options, option) = 1;
            continue;
        }
        bool alone = value == NULL && takes_optional(option);
        if (value == NULL && !alone) {
            if (i + 1 >= argc || strncmp(argv[i + 1], "--", 2) == 0)
                return zero_fail(error, ZERO_ERR_ARG, "--%s needs a value: --%s %s", option->name, option->name,
                                 option->argument);
            value = argv[++i];
        }
        zero_status_t status = options_set_value(options, option, value != NULL ? value : alone ? "full" : "", error);
        if (status != ZERO_OK)
            return status;
    }
    return ZERO_OK;
}

enum { HELP_INDENT = 34, HELP_WIDTH = 100 };

/* Prints text from column HELP_INDENT on, and breaks lines between words. */
static void print_wrapped(FILE *file, const char *text)
{
    size_t room = HELP_WIDTH - HELP_INDENT;
    while (strlen(text) > room) {
        size_t end = room;
        while (end > 0 && text[end] != ' ')
            end--;
        end = end > 0 ? end : strcspn(text, " ");
        fprintf(file, "%.*s\n%*s", (int)end, text, HELP_INDENT, "");
        text += end + strspn(text + end, " ");
    }
    fprintf(file, "%s\n", text);
}

void options_help(FILE *file)
{
    fputs("Usage: zero_train [--option value | --option=value] ...\n"
          "\n"
          "Trains GPT-2, Llama, Mistral and Qwen models, and transformers with an encoder and a decoder, with\n"
          "parameters, gradients and optimizer state sharded over ranks.\n"
          "Without options it trains a small model on numbers spelled as words, with one rank per GPU,\n"
          "or with 2 ranks on the CPU.\n"
          "Under mpiexec, srun or torchrun it joins the ranks that they started.\n",
          file);
    for (int group = 0; group < GROUP_COUNT; group++) {
        bool head = false;
        for (int i = 0; i < COUNT_OPTIONS; i++) {
            const option_t *option = &options_table[i];
            char left[64], text[512];
            if ((int)option->group != group)
                continue;
            if (!head)
                fprintf(file, "\n%s\n", group_names[group]);
            head = true;
            snprintf(left, sizeof left, "--%s%s%s", option->name,
                     option->argument != NULL && !takes_optional(option) ? " " : "",
                     option->argument != NULL ? option->argument : "");
            fprintf(file, "  %-32s", left);
            if (strlen(left) > 31)
                fprintf(file, "\n%*s", HELP_INDENT, "");
            snprintf(text, sizeof text, option->fallback != NULL ? "%s (%s)" : "%s", option->help, option->fallback);
            print_wrapped(file, text);
        }
    }
    fputs("\n  -h, --help                      print this text\n"
          "  --version                       print the version\n"
          "\nExit status: 0 success; 2 bad usage or input, found before training; 1 failure while running;\n"
          "128 + n after signal n.\n",
          file);
}

int options_count(void)
{
    return COUNT_OPTIONS - 2; /* --help and --version are not settings */
}
