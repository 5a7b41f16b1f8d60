#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# --config: the effect of each key, precedence, and refusals.
. "${srcdir:-.}/tests/train.sh"

# file JSON: writes c.json
file()
{
    printf '%s\n' "$1" >c.json
}
# option NAME: its value in the log's start event, without quotes
option()
{
    sed -n 's/.*"options":{\(.*\)},"world_size".*/,\1/p' log | sed -n "s/.*,\"$1\":\(\[[^]]*\]\|[^,]*\).*/\1/p" |
        tr -d '"'
}
# sets JSON NAME VALUE [ARGUMENTS...]: with the file and the arguments, the option has this value; 2 ranks unless the
# arguments say otherwise
sets()
{
    file "$1"
    name=$2 value=$3 json=$1
    shift 3
    rm -f log
    run 0 --steps 0 --sample 0 --log log --config c.json "$@"
    equal "$json $*: $name" "$(option "$name")" "$value"
}
# says JSON TEXT [ARGUMENTS...]: the report contains the text
says()
{
    file "$1"
    json=$1 text=$2
    shift 2
    run 0 --plan --config c.json "$@"
    tr -s ' ' <out >words
    grep -qF -e "$text" words || { fail "$json $*: the report lacks '$text'"; sed 's/^/    /' words; }
}
# bad JSON NAMES [ARGUMENTS...]
bad()
{
    file "$1"
    wanted_names=$2
    shift 2
    # shellcheck disable=SC2086 # split at spaces on purpose
    refused --config c.json "$@" -- $wanted_names
}

# ---- a whole file, as users write it for ZeRO-3 with offload
cat >whole.json <<'END'
{
  "train_micro_batch_size_per_gpu": 2,
  "gradient_accumulation_steps": 3,
  "gradient_clipping": 0.25,
  "steps_per_print": 10,
  "wall_clock_breakdown": false,
  "bf16": { "enabled": true },
  "fp16": { "enabled": false, "loss_scale": 0, "loss_scale_window": 1000, "initial_scale_power": 16, "hysteresis": 2,
    "min_loss_scale": 1 },
  "optimizer": { "type": "AdamW", "params": { "lr": 2e-3, "betas": [0.9, 0.98], "eps": 1e-7, "weight_decay": 0.01 } },
  "scheduler": { "type": "WarmupDecayLR", "params": { "warmup_min_lr": 0, "warmup_max_lr": 1e-3, "warmup_num_steps": 2,
    "total_num_steps": 4 } },
  "zero_optimization": {
    "stage": 3,
    "offload_optimizer": { "device": "cpu", "pin_memory": true },
    "offload_param": { "device": "cpu", "pin_memory": true, "buffer_count": 5, "buffer_size": 1e8, "max_in_cpu": 1e9 },
    "overlap_comm": true,
    "contiguous_gradients": true,
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": 1e5,
    "sub_group_size": 1e9,
    "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": true
  },
  "activation_checkpointing": { "partition_activations": false, "cpu_checkpointing": false,
    "number_checkpoints": null },
  "tensorboard": { "enabled": false, "output_path": "runs" },
  "model": "tiny",
  "seq_len": 16,
  "sample": 0
}
END
run 0 --config whole.json --log log
for pair in stage=3 dtype=bf16 offload=all offload-tier=host clip=0.25 optimizer=adamw lr=0.001 \
    'betas=[0.9,0.98]' eps=1e-07 weight-decay=0.01 \
    schedule=linear warmup=2 steps=4 batch=12 micro-batch=2 seq-len=16 sample=0 config=whole.json; do
    equal "whole.json: ${pair%%=*}" "$(option "${pair%%=*}")" "${pair#*=}"
done
equal "steps of whole.json" "$(values log step | tail -1)" 4
equal "rows of whole.json" "$(sed '1d; /^tiny: /,$d' out | grep -c .)" 46
grep -q '^  zero_optimization.overlap_comm  *true  *no effect: always on' out || fail "no row of overlap_comm"
grep -q '^  zero_optimization.reduce_bucket_size  *"auto"  *its default' out || fail "no row of reduce_bucket_size"
# the same options on the command line give the same bits
run 0 --config whole.json --schedule linear --log from-file
run 0 --stage 3 --dtype bf16 --offload all --clip 0.25 --lr 0.001 --betas 0.9,0.98 --eps 1e-7 --weight-decay 0.01 \
    --schedule linear --warmup 2 --steps 4 \
    --batch 12 --micro-batch 2 --seq-len 16 --sample 0 --log log
equal "parameters of the file and of the command line" "$(values log params_xxh64)" "$(values from-file params_xxh64)"
run 0 --config whole.json --quiet
[ ! -s out ] || fail "--quiet printed a report"
run 0 --config whole.json --plan
equal "reports with --plan" "$(grep -c '^whole.json:$' out)" 1

# ---- each key
sets '{"zero_optimization": {"stage": 1}}' stage 1
sets '{"zero_optimization": {"stage": 2.0}}' stage 2
sets '{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}' offload optimizer
sets '{"zero_optimization": {"offload_param": {"device": "cpu"}}}' offload params
sets '{"zero_optimization": {"offload_optimizer": {"device": "none"}, "offload_param": {"device": "cpu"}}}' \
    offload params
sets '{"zero_optimization": {"offload_optimizer": {"device": "none"}}}' offload none
sets '{"zero_optimization": {"offload_optimizer": {"device": "cpu", "ratio": 0.4}}}' offload-ratio 0.4
sets '{"zero_optimization": {"offload_optimizer": {"device": "none", "ratio": 0.4}}}' offload-ratio 1
sets '{"zero_optimization": {"offload_optimizer": {"device": "cpu", "nvme_path": "/nowhere"}}}' nvme-path null
sets '{"zero_optimization": {"zero_quantized_weights": true}}' gather-codec int8
sets '{"zero_optimization": {"zero_quantized_weights": false}}' gather-codec none
sets '{"zero_optimization": {"zero_quantized_gradients": true}}' reduce-codec int4
mkdir drive
nvme='{"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "drive", "buffer_count": 4}},
    "aio": {"block_size": 262144}}'
file "$nvme"
says "$nvme" "--offload optimizer --offload-tier nvme"
says "$nvme" "--nvme-path drive"
says '{"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "drive"},
    "offload_param": {"device": "nvme", "nvme_path": "drive"}}}' \
    "offload_param.device \"nvme\" --offload all --offload-tier nvme"
sets "$nvme" nvme-path null --offload none
sets "$nvme" offload-tier host --offload-tier host
sets '{"bf16": {"enabled": true}}' dtype bf16
sets '{"bf16": {"enabled": false}}' dtype fp32
sets '{"fp16": {"enabled": false}, "bf16": {"enabled": true}}' dtype bf16
sets '{"bf16": {"enabled": "auto"}, "fp16": {"enabled": false}}' dtype fp32
says '{"bf16": {"enabled": "auto"}, "fp16": {"enabled": false}}' "fp16.enabled false no effect: off"
sets '{"communication_data_type": "bf16"}' reduce-dtype bf16
sets '{"communication_data_type": null}' reduce-dtype fp32
sets '{"gradient_clipping": 0}' clip 0
sets '{"optimizer": {"type": "Lion"}}' optimizer lion
sets '{"optimizer": {"type": "SGD", "params": {"momentum": 0.8}}}' betas '[0.8,0.95]'
sets '{"optimizer": {"type": "SGD"}}' optimizer sgd
sets '{"optimizer": {"type": "Adam"}}' optimizer adamw
sets '{"optimizer": {"type": "Adam", "params": {"adam_w_mode": true}}}' optimizer adamw
sets '{"optimizer": {"type": "Adam", "params": {"adam_w_mode": false, "torch_adam": true}}}' optimizer adam
sets '{"optimizer": {"type": "AdamW", "params": {"adam_w_mode": false}}}' optimizer adamw
sets '{"optimizer": "adamw8bit"}' optimizer adamw8bit
sets '{"optimizer": {"params": {"lr": 0.1}}}' lr 0.1
sets '{"optimizer": {"params": {"lr": "auto", "betas": "auto"}}}' lr 0.003
sets '{"optimizer": {"params": {"betas": [0.5, 0.75]}}}' betas '[0.5,0.75]'
sets '{"optimizer": {"params": {"weight_decay": 0}}}' weight-decay 0
sets '{"optimizer": {"params": {"eps": 1e-6}}}' eps 1e-06
sets '{"scheduler": {"type": "WarmupLR"}}' schedule constant
sets '{"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 7}}}' warmup 7
sets '{"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 0.25}}, "optimizer": {"params": {"lr": 0.5}}}' \
    lr 0.25
sets '{"scheduler": {"type": "WarmupCosineLR", "params": {"cos_min_ratio": 0.5}},
    "optimizer": {"params": {"lr": 0.25}}}' min-lr 0.125
sets '{"scheduler": {"type": "WarmupCosineLR", "params": {"cos_min_ratio": 0.5}},
    "optimizer": {"params": {"lr": 0.25}}}' min-lr 0.5 --lr 1
sets '{"scheduler": {"type": "WarmupCosineLR"}}' schedule cosine
sets '{"scheduler": {"type": "WarmupCosineLR"}}' schedule noam --schedule noam

# Keys that the file leaves out have DeepSpeed's defaults. tests/test_train.c has the same rates.
sets '{"scheduler": {"type": "WarmupLR"}}' warmup 1000
sets '{"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": "auto"}}, "steps": 40}' warmup 4 --steps 40
sets '{"scheduler": {"type": "WarmupLR"}}' warmup 7 --warmup 7
sets '{"scheduler": {"type": "WarmupDecayLR"}, "optimizer": {"params": {"lr": 0.5}}}' lr 0.001
sets '{"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": "auto"}},
    "optimizer": {"params": {"lr": 0.5}}}' lr 0.5
sets '{"scheduler": {"type": "WarmupDecayLR"}}' lr 2 --lr 2
sets '{"scheduler": {"type": "WarmupDecayLR"}, "optimizer": {"params": {"lr": 0.5}}}' lr 0.5 --schedule linear
sets '{"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 0.25}}}' min-lr 0.25
sets '{"scheduler": {"type": "WarmupCosineLR"}, "optimizer": {"params": {"lr": 0.5}}}' min-lr 5e-05
sets '{"scheduler": {"type": "WarmupCosineLR"}, "min_lr": 0.125}' min-lr 0.125
sets '{"scheduler": {"type": "WarmupCosineLR", "params": {"cos_min_ratio": 0.5}}}' min-lr 0.0625 --min-lr 0.0625
# rates JSON WANTED [ARGUMENTS...]: the rate of each step, with three digits
rates()
{
    file "$1"
    json=$1 wanted_rates=$2
    shift 2
    rm -f log
    run 0 --sample 0 --batch 2 --seq-len 16 --quiet --log log --config c.json "$@"
    equal "$json $*: rates" "$(grep '"event":"step"' log | sed 's/.*"lr":\([^,]*\).*/\1/' |
        while read -r rate; do printf '%.3g ' "$rate"; done)" "$wanted_rates"
}
rates '{"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 5}}, "optimizer": {"params": {"lr": 0.01}}}' \
    '0 0 0.00431 0.00683 0.00861 0.01 0.01 ' --steps 7
rates '{"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 4, "warmup_type": "linear",
    "warmup_min_lr": 0.002, "warmup_max_lr": 0.01}}}' \
    '0.002 0.002 0.004 0.006 0.008 0.01 ' --steps 6
rates '{"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": 2, "total_num_steps": 6,
    "warmup_max_lr": 0.01}}}' \
    '0 0 0.01 0.01 0.0075 0.005 '
rates '{"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_num_steps": 2, "total_num_steps": 6,
    "warmup_min_ratio": 0.5, "cos_min_ratio": 0.2}},
    "optimizer": {"params": {"lr": 0.01}}}' '0 0.005 0.01 0.00883 0.006 0.00317 '
rates '{"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 4}}, "optimizer": {"params": {"lr": 0.01}}}' \
    '0.0025 0.005 0.0075 0.01 ' --steps 4 --schedule constant
says '{"scheduler": {"type": "WarmupLR"}}' \
    "scheduler.type \"WarmupLR\" --schedule constant, after DeepSpeed's logarithmic rise"
says '{"scheduler": {"type": "WarmupLR", "params": {"warmup_type": "linear"}}}' "after DeepSpeed's linear rise"
says '{"scheduler": {"type": "WarmupDecayLR"}, "optimizer": {"params": {"lr": 0.5}}}' \
    "not used: WarmupDecayLR rises to its warmup_max_lr, which is 0.001"

# ---- defaults that differ from DeepSpeed's, if the file leaves them out
says '{"gradient_clipping": "auto"}' "gradient_clipping \"auto\" --clip 1, its default; DeepSpeed's is 0"
for line in "zero_optimization.stage (absent) --stage 3, its default; DeepSpeed's is 0" \
    "optimizer.params.betas (absent) --betas 0.9,0.95, its default; DeepSpeed's is 0.9,0.999" \
    "optimizer.params.weight_decay (absent) --weight-decay 0.1, its default; DeepSpeed's is 0" \
    "scheduler.type (absent) --schedule cosine, its default; DeepSpeed's is constant"; do
    says '{"bf16": {"enabled": true}}' "$line"
done
says '{"optimizer": {"type": "AdamW"}}' "optimizer.params.lr (absent) --lr 0.003, its default; DeepSpeed's is 0.001"
says '{"optimizer": {"type": "Lion"}}' "--betas 0.9,0.95, its default; DeepSpeed's is 0.9,0.99"
says '{"optimizer": {"type": "AdamW", "params": {"torch_adam": true}}}' \
    "--weight-decay 0.1, its default; DeepSpeed's is 0.01"
# open_rows WANTED ARGUMENTS...: the number of such lines in the report
open_rows()
{
    wanted_rows=$1
    shift
    run 0 --plan --config c.json "$@"
    equal "$*: defaults of $(cat c.json)" "$(grep -c "its default; DeepSpeed's" out)" "$wanted_rows"
}
file '{"gradient_clipping": 1.0, "zero_optimization": {"stage": 3}, "optimizer": {"params": {"betas": [0.9, 0.95],
    "weight_decay": 0.1}}, "schedule": "cosine"}'
open_rows 1 # the warm-up
open_rows 0 --warmup 2
file '{"gradient_clipping": 0.5}'
open_rows 2 --stage 1 --lr 1 --betas 0.9,0.9 --weight-decay 0
file '{"steps": 3}' # no key of DeepSpeed
open_rows 0

# ZeRO-3 settings under their other names, sections that are off by DeepSpeed's rules, and keys without effect
says '{"zero_optimization": {"stage": 3, "prefetch_bucket_size": "auto", "param_persistence_threshold": 1e5,
    "max_live_parameters": 0, "max_reuse_distance": 0, "gather_16bit_weights_on_model_save": true}}' \
    "zero_optimization.max_live_parameters 0 no effect: layers are gathered whole"
says '{"zero_optimization": {"model_persistence_threshold": 1, "module_granularity_threshold": 1,
    "use_all_reduce_for_fetch_params": true, "allgather_sequential": false, "partition_stream_chunk_size": 0}}' \
    "allgather_sequential false no effect"
says '{"amp": {"enabled": "auto", "opt_level": "auto"}}' "amp {\"enabled\":\"auto\"... no effect: off"
says '{"amp": {"opt_level": "O2"}, "tensorboard": {"output_path": "runs"}}' \
    "tensorboard {\"output_path\":\"r... no effect: off"
says '{"compile": {"disable": true}}' "compile {\"disable\":true} no effect: of PyTorch's graphs alone"
says '{"compile": {"disable": false, "backend": "inductor"}}' "no effect: of PyTorch's graphs alone"
says '{"compression_training": {"layer_reduction": {"enabled": false},
    "weight_quantization": {"shared_parameters": {"enabled": false},
    "different_groups": {"wq1": {"params": {"start_bits": 8}}}}}}' "no effect: off"
says '{"zero_optimization": {"stage": 2, "offload_optimizer": {"pin_memory": true}}}' \
    "offload_optimizer.pin_memory true no effect"
sets '{"zero_optimization": {"stage": 2, "offload_optimizer": {"pin_memory": true},
    "offload_param": {"nvme_path": "drive"}}}' \
    offload none
says '{"sparse_attention": {"mode": "dense"}, "tensor_parallel": {"tp_overlap_comm": true},
    "pipeline": {"stages": "auto"}}' \
    "mode\":\"dense\"} no effect: off"
says '{"tensor_parallel": {"autotp_size": 0, "preset_model": "llama", "partition_config": {"layer_specs": []}}}' \
    "tensor_parallel.preset_model \"llama\" no effect: the model's family"
for size in 0 1 '"auto"'; do
    sets '{"tensor_parallel": {"autotp_size": '"$size"'}}' tensor 1
done
sets '{"pipeline": {"stages": 2, "partition": "uniform", "seed_layers": false, "activation_checkpoint_interval": 0,
    "pipe_partitioned": true, "grad_partitioned": true, "use_reentrant": true}}' \
    pipe 2 --steps 1
sets '{"pipeline": {"stages": "auto"}}' pipe 1
says '{"pipeline": {"stages": 2, "partition": "best"}}' "pipeline.partition \"best\" no effect: --device-map"
bad '{"pipeline": {"stages": 3}}' "pipeline.stages --pipe 3 2"
bad '{"pipeline": {"activation_checkpoint_interval": 1}}' "pipeline.activation_checkpoint_interval 0 recompute"
bad '{"pipeline": {"stage": 2}}' "pipeline.stage"

says '{"zero_optimization": {"zero_hpz_partition_size": 1.0}}' "zero_hpz_partition_size 1 no effect: always so"
says '{"zero_optimization": null, "flops_profiler": {}, "tensor_parallel": {"autotp_size": 1}}' \
    "flops_profiler {} no effect: off"

# options by name
sets '{"micro-batch": 2, "seed": 5}' micro-batch 2
sets '{"micro_batch": 2, "seed": 5}' seed 5
sets '{"shuffle": 3}' shuffle 3
sets '{"betas": [0.5, 0.75]}' betas '[0.5,0.75]'
sets '{"recompute": "full"}' recompute full
sets '{"prompt": "auto"}' prompt auto
sets '{"device": "auto"}' device cpu
sets '{"ranks": 3}' ranks 3
sets '{"quiet": true}' quiet true
[ ! -s out ] || fail "quiet in a file printed something"
sets '{"quiet": false}' quiet false

# ---- batches, with 2 ranks
sets '{"train_batch_size": 12}' batch 12
sets '{"train_batch_size": 12, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}' micro-batch 2
sets '{"train_batch_size": 12, "gradient_accumulation_steps": 2}' micro-batch 3
sets '{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}' batch 12
sets '{"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}' batch 2
sets '{"gradient_accumulation_steps": 2}' micro-batch 2
sets '{"gradient_accumulation_steps": 5}' batch 10
sets '{"train_batch_size": 12, "train_micro_batch_size_per_gpu": 3}' batch 12
sets '{"train_batch_size": 12, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}' batch 8 --batch 8
sets '{"train_batch_size": 12, "gradient_accumulation_steps": 2}' micro-batch 1 --batch 4
sets '{"train_batch_size": 12, "gradient_accumulation_steps": 2}' batch 12 --micro-batch 1
sets '{"train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3}' batch 18 --ranks 3
bad '{"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}' \
    "train_micro_batch_size_per_gpu --micro-batch 4 gradient_accumulation_steps 2 16"
bad '{"train_batch_size": 6, "gradient_accumulation_steps": 2}' \
    "4 2 gradient_accumulation_steps 8"
bad '{"gradient_accumulation_steps": 0}' "gradient_accumulation_steps 0 1"
bad '{"train_micro_batch_size_per_gpu": 1000000000, "gradient_accumulation_steps": 1000000, "ranks": 1048576}' \
    "2^63"

# ---- the command line takes precedence, before and after the file's name
file '{"zero_optimization": {"stage": 1}, "fp16": {"enabled": true}, "optimizer": {"type": "Lamb"}, "steps": 0,
    "sample": 0}'
run 0 --stage 2 --config c.json --dtype bf16 --optimizer sgd --log log
equal "stage before --config" "$(option stage)" 2
equal "dtype after --config" "$(option dtype)" bf16
equal "optimizer after --config" "$(option optimizer)" sgd
equal "steps of the file" "$(option steps)" 0
grep -q 'stage  *1  *not used: the command line has --stage' out || fail "the report does not say that --stage wins"

# ---- refused
bad '{"stage": 3,}' "--config 'c.json' 1 13"
bad '{
  "stage": 3
  "seed": 1}' "3"
bad '{"stage": 1, "stage": 2}' "duplicate"
bad '' "--config 'c.json'"
bad '[1]' "--config 'c.json'"
bad '{"stage": 3} x' "1"
bad '{"zero_optimization": {"stag": 2}}' "zero_optimization.stag zero_optimization.stage"
bad '{"overlap_comm": true}' "overlap_comm zero_optimization.overlap_comm"
bad '{"seq_lenn": 2}' "seq_lenn seq-len"
bad '{"bf16": {"stage": 2}}' "zero_optimization.stage"
bad '{"no_such_key_anywhere": 2}' "no_such_key_anywhere zero_train --help"
bad '{"config": "c.json"}' "'c.json' config"
bad '{"help": true}' "help"
bad '{"zero_optimization": {"stage": "3"}}' "zero_optimization.stage 3"
bad '{"zero_optimization": {"stage": 1.5}}' "zero_optimization.stage 1.5"
bad '{"zero_optimization": {"stage": 4}}' "--stage 4 0 3"
bad '{"zero_optimization": true}' "zero_optimization true {}"
bad '{"zero_optimization": {"overlap_comm": 1}}' "zero_optimization.overlap_comm 1 true false"
bad '{"gradient_clipping": "1"}' "gradient_clipping 1"
bad '{"optimizer": {"type": 1}}' "optimizer.type 1"
bad '{"optimizer": {"params": {"betas": [0.9]}}}' "optimizer.params.betas [] 0.9"
bad '{"optimizer": {"params": {"betas": [0.9, 1]}}}' "0 1"
bad '{"bf16": {"enabled": true}, "fp16": {"enabled": true}}' "bf16.enabled fp16.enabled"
bad '{"zero_optimization": {"offload_optimizer": {"device": "gpu"}}}' \
    "zero_optimization.offload_optimizer.device none cpu nvme"
bad '{"zero_optimization": {"offload_param": {"device": "nvme", "nvme_path": "drive"}}}' \
    "nvme offload_optimizer"
bad '{"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "drive"},
    "offload_param": {"device": "cpu"}}}' "offload_optimizer nvme"
bad '{"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}' "--nvme-path"
bad '{"zero_optimization": {"offload_optimizer": {"device": "nvme", "nvme_path": "drive"},
    "offload_param": {"device": "nvme", "nvme_path": "other"}}}' \
    "--nvme-path"
bad '{"stage": 2, "zero_optimization": {"stage": 3}}' \
    "zero_optimization.stage --stage 2 3"
bad '{"zero_optimization": {"stage": 2, "zero_quantized_weights": true}}' "zero_quantized_weights --gather-codec 2"
bad '{"zero_optimization": {"zero_quantized_gradients": true}, "communication_data_type": "bf16"}' \
    "--reduce-codec int4 --reduce-dtype bf16"
bad '{"zero_optimization": {"zero_quantized_nontrainable_weights": true}}' "zero_quantized_nontrainable_weights"
bad '{"zero_optimization": {"zero_hpz_partition_size": 8}}' "1"
bad '{"optimizer": {"type": "OneBitAdam"}}' "optimizer.type AdamW Adam SGD Lion"
bad '{"optimizer": {"type": "AdamW", "params": {"momentum": 0.9}}}' "SGD"
bad '{"scheduler": {"type": "OneCycle"}}' "scheduler.type OneCycle WarmupLR WarmupDecayLR WarmupCosineLR"
bad '{"scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 0.1}}}' \
    "scheduler.type OneCycle"
bad '{"scheduler": {"type": "WarmupLR", "params": {"cycle_min_lr": 0.1}}}' \
    "zero_train"
bad '{"scheduler": {"type": "WarmupLR", "params": {"lr_range_test_min_lr": 0.1}}}' \
    "lr_range_test_min_lr LRRangeTest"
bad '{"optimizer": {"params": {"freeze_step": 9}, "type": "OneBitAdam"}}' \
    "optimizer.type OneBitAdam"
bad '{"optimizer": {"type": "AdamW", "params": {"freeze_step": 9}}}' \
    "optimizer.params.freeze_step 9"
sets '{"optimizer": {"type": "OneBitAdam", "params": {"freeze_step": 9}},
    "scheduler": {"type": "OneCycle", "params": {"cycle_min_lr": 1}}}' optimizer lion --optimizer lion --schedule cosine
bad '{"scheduler": {"type": "WarmupLR", "params": {"warmup_type": "cubic"}}}' "log linear"
bad '{"scheduler": {"params": {"warmup_type": "log"}}}' "scheduler.type"
bad '{"scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": -0.1}}}' "0"
bad '{"scheduler": {"type": "WarmupLR", "params": {"warmup_min_ratio": 0.1}}}' \
    "warmup_min_lr"
bad '{"scheduler": {"type": "WarmupLR", "params": {"cos_min_ratio": 0.1}}}' "cos_min_ratio WarmupCosineLR"
bad '{"scheduler": {"type": "WarmupCosineLR", "params": {"cos_min_ratio": 0.1}}, "min_lr": 0.1}' \
    "min_lr --min-lr"
bad '{"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 0.2}}, "min_lr": 0.1}' \
    "--min-lr 0.1 0.2"
bad '{"scheduler": {"type": "WarmupCosineLR", "params": {"warmup_max_lr": 0.1}}}' "optimizer.params.lr"
bad '{"compression_training": {"layer_reduction": {"enabled": true}}}' "compression_training"
bad '{"compression_training": {"weight_quantization": {"shared_parameters": {"enabled": true}}}}' \
    "zero_train"
bad '{"amp": {"enabled": true}}' "bf16"
bad '{"tensor_parallel": {"autotp_size": 3}}' "tensor_parallel.autotp_size --tensor 3 2"
bad '{"tensor_parallel": {"autotp_size": -1}}' "tensor_parallel.autotp_size --tensor 1"
bad '{"tensor_parallel": {"tp_size": 2}}' "tensor_parallel.tp_size"
bad '{"sequence_parallel": "off"}' "sequence_parallel --sequence-parallel --tensor"
bad '{"sparse_attention": {"mode": "fixed"}}' "sparse_attention fixed"
bad '{"zero_optimization": {"zenflow": {"topk_ratio": 0.1}}}' "zenflow null"

# Later errors also name the file and the key.
bad '{"activation_checkpointing": {"cpu_checkpointing": true}}' \
    "--config 'c.json' activation_checkpointing.cpu_checkpointing --offload-activations"
bad '{"seq_len": 1000}' "--config 'c.json' seq_len --seq-len 1000"
bad '{"train_batch_size": 5}' "--config 'c.json' train_batch_size --batch 5 2"
bad '{"ranks": 3, "train_batch_size": 8, "gradient_accumulation_steps": 2}' \
    "--config 'c.json' train_batch_size gradient_accumulation_steps --batch 8 6"
bad '{"model": "nothing"}' "--config 'c.json' --model 'nothing'"
bad '{"data": "nothing"}' "--config 'c.json' --data 'nothing'"
mkdir empty_folder
bad '{"model": "empty_folder"}' "--config 'c.json' 'empty_folder/config.json'"
bad '{"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}' \
    "--config 'c.json' zero_optimization.offload_optimizer.device --offload-tier"
bad '{"ranks": 1000000}' "--config 'c.json' --ranks 1000000"
bad '{"seed": 3}' "zero_train --seq-len 1000" --seq-len 1000
bad '{"tensorboard": {"enabled": true}}' "--tensorboard DIR"
bad '{"activation_checkpointing": {"cpu_checkpointing": true}}' "--recompute=full"
refused --config missing.json -- "No such file" --config "'missing.json'"
refused --config . -- --config "'.'"
refused --config /dev/null -- --config /dev/null
file '{"steps": 1}'
run 2 --config c.json --log c.json
names err --config || fail "a log over the configuration"

# A rank that a launcher started checks the file itself, and names it as well.
file '{"seq_len": 1000}'
export RANK=0 LOCAL_RANK=0 WORLD_SIZE=1 LOCAL_WORLD_SIZE=1 MASTER_ADDR=127.0.0.1 MASTER_PORT=$((20000 + $$ % 20000))
refused --config c.json -- --config "'c.json'" seq_len --seq-len 1000
unset RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT

# Ranks that a launcher started each read the file: only one prints the report.
file '{"zero_optimization": {"stage": 1}, "steps": 2, "sample": 0, "threads": 1, "seq-len": 16, "log": "log"}'
for rank in 0 1; do
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
        MASTER_PORT=$((20000 + $$ % 20000)) timeout -k 5 900 "$train" --config c.json >"out.$rank" 2>"err.$rank" &
done
wait
equal "reports of two ranks" "$(cat out.0 out.1 | grep -c '^c.json:$')" 1
equal "errors of two ranks" "$(cat err.0 err.1)" ""
equal "stage of two ranks" "$(option stage)" 1

# Ranks with different files: an error before training.
for rank in 0 1; do
    rise=$([ $rank -eq 0 ] && echo log || echo linear)
    printf '%s\n' "{\"scheduler\": {\"type\": \"WarmupLR\", \"params\": {\"warmup_type\": \"$rise\"}}," \
        '"steps": 1, "threads": 1}' >$rank.json
    RANK=$rank LOCAL_RANK=$rank WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 \
        MASTER_PORT=$((20000 + ($$ + 9) % 20000)) timeout -k 5 900 "$train" --config $rank.json \
        >"out.$rank" 2>"err.$rank" &
done
wait
names err.0 "rank 1" "rank 0" --schedule linear logarithmic ||
    fail "two rises: $(cat err.0 err.1)"
finish
