/* SPDX-License-Identifier: Apache-2.0 */
/* mesh.c - see mesh.h. */
#include "train/mesh.h"

#include <stdio.h>
#include <string.h>

int64_t mesh_divisor(int64_t n, int64_t most)
{
    int64_t d = n < most ? n : most;
    while (n % d != 0)
        d--;
    return d;
}

/* The error of a number that must divide n. what: n for a person. */
static zero_status_t divides(const char *option, int64_t value, int64_t n, const char *what, zero_error_t *error)
{
    int64_t below = mesh_divisor(n, value), above = value;
    if (n % value == 0)
        return ZERO_OK;
    while (above < n && n % above != 0)
        above++;
    return above > n
               ? zero_fail(error, ZERO_ERR_ARG, "--%s is %lld, but there are %lld %s: use --%s %lld or less", option,
                           (long long)value, (long long)n, what, option, (long long)n)
               : zero_fail(error, ZERO_ERR_ARG, "--%s is %lld, but must divide the %lld %s: use --%s %lld or %lld",
                           option, (long long)value, (long long)n, what, option, (long long)below, (long long)above);
}

/* ---- tensor parallelism ----------------------------------------------------------------------------------------- */

static zero_status_t check_tensor(options_t *o, zero_error_t *error)
{
    if (o->tensor == 1 && o->sequence_parallel >= 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--sequence-parallel is %s, but --tensor is 1, and no ranks compute a layer together: use "
                         "--tensor 2 or more, or leave it out",
                         o->sequence_parallel ? "on" : "off");
    if (o->sequence_parallel < 0)
        o->sequence_parallel = o->tensor > 1;
    if (o->tensor == 1)
        return ZERO_OK;
    if (o->tile > 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "--tile is %lld, but --tensor %lld divides embeddings and heads, too: leave one of them out",
                         (long long)o->tile, (long long)o->tensor);
    if (o->optimizer == ZERO_RULE_MUON)
        return zero_fail(
            error, ZERO_ERR_UNSUPPORTED,
            "--optimizer is muon, which needs whole matrices, but each rank of --tensor %lld has a part of "
            "them: use --optimizer adamw, or --tensor 1",
            (long long)o->tensor);
    return ZERO_OK;
}

/* Of the multiples of tensor / gcd(tensor, with), which are the numbers n for which tensor divides n * with, those next
 * to value. */
static void multiples(int64_t tensor, int64_t with, int64_t value, int64_t *below, int64_t *above)
{
    int64_t d = mesh_divisor(tensor, with);
    while (with % d != 0)
        d = mesh_divisor(tensor, d - 1);
    *below = value / (tensor / d) * (tensor / d);
    *above = *below + tensor / d;
}

zero_status_t mesh_check_rows(const job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    int64_t below, above;
    char nearest[64] = "";
    if (o->tensor > 1 && job->encoder && o->sample > 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "--sample is %lld, but an encoder and a decoder write no samples with --tensor %lld: use "
                         "--sample 0, or --tensor 1",
                         (long long)o->sample, (long long)o->tensor);
    if (o->context > 1 && job->encoder)
        return zero_fail(
            error, ZERO_ERR_UNSUPPORTED,
            "--context is %lld, but the model has an encoder, whose sequences cannot be cut: use --context "
            "1",
            (long long)o->context);
    if (o->seq_len % (2 * o->context) != 0 && o->context > 1) {
        below = o->seq_len / (2 * o->context) * 2 * o->context;
        above = below + 2 * o->context;
        if (below > 0)
            snprintf(nearest, sizeof nearest, "%lld%s", (long long)below, above <= job_longest(job) ? " or " : "");
        if (above <= job_longest(job))
            snprintf(nearest + strlen(nearest), sizeof nearest - strlen(nearest), "%lld", (long long)above);
        return zero_fail(error, ZERO_ERR_ARG,
                         "--seq-len is %lld, but each of the %lld ranks of --context has two chunks of equal length of "
                         "a sequence: use --seq-len %s",
                         (long long)o->seq_len, (long long)o->context, nearest);
    }
    if (!o->sequence_parallel)
        return ZERO_OK;
    if (o->micro_batch * (o->seq_len / o->context) % o->tensor != 0) {
        multiples(o->tensor, o->micro_batch, o->seq_len, &below, &above);
        if (below > 0)
            snprintf(nearest, sizeof nearest, "--seq-len %lld, ", (long long)below);
        if (above <= job_longest(job))
            snprintf(nearest + strlen(nearest), sizeof nearest - strlen(nearest), "--seq-len %lld, ", (long long)above);
        return zero_fail(error, ZERO_ERR_ARG,
                         "--micro-batch %lld x --seq-len %lld are %lld rows, which --tensor %lld does not divide: use "
                         "%sor --sequence-parallel off",
                         (long long)o->micro_batch, (long long)o->seq_len, (long long)(o->micro_batch * o->seq_len),
                         (long long)o->tensor, nearest);
    }
    if (job->encoder && o->micro_batch * job->digits % o->tensor != 0) {
        multiples(o->tensor, job->digits, o->micro_batch, &below, &above);
        return zero_fail(error, ZERO_ERR_ARG,
                         "--micro-batch %lld x %lld digits of a number are %lld rows, which --tensor %lld does not "
                         "divide: use a --micro-batch that is a multiple of %lld, or --sequence-parallel off",
                         (long long)o->micro_batch, (long long)job->digits, (long long)(o->micro_batch * job->digits),
                         (long long)o->tensor, (long long)(above - below));
    }
    return ZERO_OK;
}

/* ---- the mesh --------------------------------------------------------------------------------------------------- */

const char *mesh_units(const options_t *o, int64_t n, const char *whole, char *text, size_t size)
{
    if (o->tensor > 1)
        snprintf(text, size, "group%s of %lld ranks%s", n == 1 ? "" : "s", (long long)o->tensor, whole);
    else
        snprintf(text, size, "rank%s%s", n == 1 ? "" : "s", whole);
    return text;
}

static zero_status_t check_node(const options_t *o, int64_t shards, const char *what, zero_error_t *error)
{
    if (o->node < 0)
        return ZERO_OK;
    if (o->stage < 3 && !o->compare_stages)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--node is %lld, but --stage %lld gathers no parameters in the backward pass: use --stage 3",
                         (long long)o->node, (long long)o->stage);
    if (o->offload == OFFLOAD_PARAMS || o->offload == OFFLOAD_ALL)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--node is %lld, but --offload moves the parameters off the device: use --offload optimizer",
                         (long long)o->node);
    return divides("node", o->node, shards, what, error);
}

/* Where there is one rank, or one shard, codecs have no effect. */
static zero_status_t check_codecs(const job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    const char *names[] = {"none", "int8", "int4"}, *gather = names[o->gather_codec], *reduce = names[o->reduce_codec];
    const bool gathers = o->gather_codec != ZERO_CODEC_NONE && job->copies * o->context > o->replicas;
    if (gathers && o->compare_stages)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--gather-codec is %s, which rounds the parameters of stage 3 alone, but --compare-stages wants "
            "the same results of all stages: remove one of the two",
            gather);
    if (gathers && o->stage < 3)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--gather-codec is %s, but --stage %lld gathers no parameters for the layers that use them: "
                         "use --stage 3, or --gather-codec none",
                         gather, (long long)o->stage);
    if (o->reduce_codec != ZERO_CODEC_NONE && o->reduce_dtype != ZERO_FP32 && job->world > 1)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--reduce-codec is %s, but --reduce-dtype is %s: gradients are sent as codes or in a dtype; "
                         "remove one of the two",
                         reduce, zero_dtype_name((zero_dtype_t)o->reduce_dtype));
    return ZERO_OK;
}

zero_status_t mesh_check(job_t *job, zero_error_t *error)
{
    options_t *o = &job->o;
    const char *stage = o->pipe > 1 ? " of a stage" : "";
    char what[64];
    zero_status_t status = divides("pipe", o->pipe, job->world, "ranks", error);
    if (status != ZERO_OK)
        return status;
    job->stage_ranks = job->world / (int)o->pipe;
    snprintf(what, sizeof what, "ranks%s", stage);
    if ((status = divides("tensor", o->tensor, job->stage_ranks, what, error)) != ZERO_OK ||
        (status = check_tensor(o, error)) != ZERO_OK)
        return status;
    mesh_units(o, job->stage_ranks / o->tensor, stage, what, sizeof what);
    if ((status = divides("context", o->context, job->stage_ranks / o->tensor, what, error)) != ZERO_OK)
        return status;
    job->copies = job->stage_ranks / (int)(o->tensor * o->context);
    if ((status = divides("replicas", o->replicas, job->copies, mesh_units(o, job->copies, stage, what, sizeof what),
                          error)) != ZERO_OK)
        return status;
    const int64_t shards = job->copies / o->replicas * o->context;
    mesh_units(o, shards, o->replicas > 1 ? " of a replica" : stage, what, sizeof what);
    if ((status = check_node(o, shards, what, error)) != ZERO_OK)
        return status;
    return check_codecs(job, error);
}
