/* SPDX-License-Identifier: Apache-2.0 */
#include "train/job_data.h"
#include "train/inputs.h"
#include "train/numbers.h"
#include "train/tokens.h"

#include <math.h>
#include <string.h>

/* ---- files ------------------------------------------------------------------------------------------------------ */

/* Opens the files of an option. */
static zero_status_t open_files(data_t **data, const char *option, const option_list_t *values, zero_error_t *error)
{
    inputs_t inputs;
    zero_status_t status = inputs_find(&inputs, option, values, error);
    if (status == ZERO_OK)
        status = data_open_files(data, option, inputs.paths, inputs.count, error);
    inputs_free(&inputs);
    return status;
}

/* Opens the tokenizer if it is not open yet, and checks that the model knows its tokens. */
static zero_status_t need_tokenizer(job_t *job, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    if (job->tokenizer == NULL)
        status = tokens_open(&job->tokenizer, &job->o, job->folder, error);
    if (status != ZERO_OK || job->tokenizer == NULL || zero_tokenizer_size(job->tokenizer) <= job->model.vocab)
        return status;
    return zero_fail(error, ZERO_ERR_ARG,
                     "the tokenizer has %lld tokens, but the model's vocabulary has %lld: use a --model with at "
                     "least %lld tokens, or the model's own tokenizer",
                     (long long)zero_tokenizer_size(job->tokenizer), (long long)job->model.vocab,
                     (long long)zero_tokenizer_size(job->tokenizer));
}

/* Reads the conversations of data. */
static zero_status_t read_chat(job_t *job, data_t *data, int index, zero_error_t *error)
{
    const options_t *o = &job->o;
    const chat_options_t options = {.tokenizer = job->tokenizer,
                                    .template = o->chat,
                                    .threads = (int)o->threads,
                                    .seq_len = o->pack ? 0 : o->seq_len};
    return chat_read(data, &options, &job->lines[index], &job->conversations[index], error);
}

/* Opens an option's data: its text becomes tokens if there is a tokenizer, and its tokens become rows. index: of the
 * option in job->lines. */
static zero_status_t open_data(job_t *job, data_t **data, const char *option, const option_list_t *values, int index,
                               zero_error_t *error)
{
    const options_t *o = &job->o;
    bool chat = false;
    job->lines[index].skip = o->skip_bad_lines != 0;
    zero_status_t status = values->count == 0 ? data_open_corpus(data, strcmp(option, "--eval-data") == 0, error)
                                              : open_files(data, option, values, error);
    job->lines[index].any = status == ZERO_OK && data_is_lines(*data);
    if (status == ZERO_OK)
        status = chat_detect(*data, &chat, error);
    if (status == ZERO_OK && data_is_text(*data) && values->count > 0)
        status = need_tokenizer(job, error);
    if (status == ZERO_OK && job->lines[index].any && job->tokenizer == NULL)
        status =
            zero_fail(error, ZERO_ERR_ARG,
                      "%s '%s' is JSON lines, whose texts need a tokenizer: add --tokenizer FILE, or use a --model "
                      "folder that has one",
                      option, data_path(*data, 0));
    if (status == ZERO_OK && chat)
        status = read_chat(job, *data, index, error);
    else if (status == ZERO_OK && data_is_text(*data) && values->count > 0 && job->tokenizer != NULL)
        status = tokens_replace(*data, job->tokenizer, (int)o->threads, &job->lines[index], error);
    if (status == ZERO_OK)
        status = data_arrange(*data, o->pack ? DATA_PACKED : chat ? DATA_ONE_EACH : DATA_WINDOWS, o->seq_len, error);
    return status;
}

/* ---- prompts and samples ---------------------------------------------------------------------------------------- */

/* Checks --prompt, and encodes it if there is a tokenizer. */
static zero_status_t resolve_prompt(job_t *job, bool text, zero_error_t *error)
{
    const options_t *o = &job->o;
    zero_encoder_t *encoder = NULL;
    zero_error_t why = {0};
    zero_status_t status;
    if (o->prompt == NULL)
        return ZERO_OK;
    if (job->tokenizer == NULL && !text)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--prompt needs --data that is text, or a --tokenizer: '%s' has tokens without a known text",
                         o->data.at[0]);
    for (const char *p = o->prompt; job->tokenizer == NULL && *p != '\0'; p++)
        if ((unsigned char)*p >= job->model.vocab)
            return zero_fail(error, ZERO_ERR_ARG, "--prompt has the byte %d, but the model's vocabulary has %lld",
                             (unsigned char)*p, (long long)job->model.vocab);
    if (job->tokenizer == NULL)
        return ZERO_OK;
    status = zero_encoder_open(&encoder, job->tokenizer, &why);
    if (status == ZERO_OK)
        status = zero_encoder_encode(encoder, o->prompt, strlen(o->prompt), true, &job->prompt, &why);
    zero_encoder_close(encoder);
    if (status != ZERO_OK)
        return zero_fail(error, status, "--prompt: %s", why.text);
    if (job->prompt.count == 0)
        return zero_fail(error, ZERO_ERR_ARG, "--prompt '%s' has no token in the tokenizer's vocabulary", o->prompt);
    return ZERO_OK;
}

/* The defaults of samples, whose length is usually most. */
static void resolve_samples(options_t *o, double temperature, int64_t most)
{
    if (o->top_k < 0)
        o->top_k = 0;
    if (isnan(o->top_p))
        o->top_p = 1;
    if (isnan(o->temperature))
        o->temperature = temperature;
    if (o->sample < 0)
        o->sample = o->compare_stages ? 0 : most;
}

/* ---- data ------------------------------------------------------------------------------------------------------- */

/* Options about conversations and JSON lines, without any. */
static zero_status_t check_lines(const job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    if (o->chat >= 0 && job->conversations[0] + job->conversations[1] == 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--chat is %s, but --data has no conversations: use JSON lines (.jsonl) with \"messages\", or "
                         "\"prompt\" and \"completion\"",
                         o->chat == CHAT_LLAMA3 ? "llama3" : "chatml");
    if (o->skip_bad_lines && !job->lines[0].any && !job->lines[1].any)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--skip-bad-lines is set, but --data is not JSON lines (.jsonl): remove it");
    return ZERO_OK;
}

/* Data of numbers are made, not read. */
static zero_status_t resolve_numbers(job_t *job, zero_error_t *error)
{
    options_t *o = &job->o;
    const struct {
        const char *name;
        bool set;
    } others[] = {
        {"data", o->data.count > 0},
        {"eval-data", o->eval_data.count > 0},
        {"tokenizer", o->tokenizer != NULL},
        {"pack", o->pack != 0},
        {"chat", o->chat >= 0},
        {"skip-bad-lines", o->skip_bad_lines != 0},
        {"shuffle", o->shuffle >= 0},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        if (others[i].set)
            return zero_fail(error, ZERO_ERR_ARG,
                             "--%s has no effect with --model '%s', whose data are random numbers, built in: remove it",
                             others[i].name, o->model);
    job->eval = o->eval_every > 0;
    resolve_samples(o, 0, o->seq_len);
    if (o->prompt == NULL)
        return ZERO_OK;
    const int64_t count = (int64_t)strlen(o->prompt);
    if (o->prompt[strspn(o->prompt, "0123456789")] != '\0')
        return zero_fail(error, ZERO_ERR_ARG, "--prompt is '%s', but must be a number in digits: --prompt 1207",
                         o->prompt);
    if (count > 1 && o->prompt[0] == '0')
        return zero_fail(error, ZERO_ERR_ARG, "--prompt is '%s', but a number does not begin with 0: use --prompt %s",
                         o->prompt, o->prompt[strspn(o->prompt, "0")] ? o->prompt + strspn(o->prompt, "0") : "0");
    if (count > job->digits)
        return zero_fail(
            error, ZERO_ERR_ARG,
            "--prompt is a number of %lld digits, but --seq-len %lld has room for the words of %lld: train "
            "with --seq-len %lld",
            (long long)count, (long long)o->seq_len, (long long)job->digits, (long long)numbers_seq_len(count));
    return ZERO_OK;
}

zero_status_t job_resolve_data(job_t *job, bool tiny, bool thorough, zero_error_t *error)
{
    options_t *o = &job->o;
    const int64_t vocab = job->model.vocab;
    zero_status_t status = ZERO_OK;
    if (o->eval_batches < 0)
        o->eval_batches = 16;
    if (job->numbers)
        return resolve_numbers(job, error);
    job->corpus = o->data.count == 0;
    job->eval = o->eval_data.count > 0 || o->eval_every > 0;
    if (job->eval && o->eval_data.count == 0 && !job->corpus)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--eval-every is %lld, but there is no data to evaluate on: add --eval-data FILE",
                         (long long)o->eval_every);
    if (o->tokenizer != NULL && job->corpus)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--tokenizer '%s' has no text to encode: the built-in data is bytes; add --data FILE",
                         o->tokenizer);
    /* opened before the data, which may be tokens: --prompt needs it, too */
    if (o->tokenizer != NULL || (o->prompt != NULL && !job->corpus))
        status = need_tokenizer(job, error);
    if (status == ZERO_OK)
        status = open_data(job, &job->data, "--data", &o->data, 0, error);
    if (status == ZERO_OK)
        status = data_check_rows(job->data, vocab, o->shuffle, thorough ? o->steps * o->batch : 0, error);
    if (status == ZERO_OK && job->eval)
        status = open_data(job, &job->eval_data, "--eval-data", &o->eval_data, 1, error);
    if (status == ZERO_OK && job->eval)
        status = data_check_rows(job->eval_data, vocab, -1, thorough ? o->eval_batches * o->batch : 0, error);
    if (status == ZERO_OK)
        status = check_lines(job, error);
    if (status == ZERO_OK)
        status = resolve_prompt(job, data_is_text(job->data), error);
    if (status == ZERO_OK) {
        const bool words = tiny && (data_is_text(job->data) || job->tokenizer != NULL);
        resolve_samples(o, job->corpus && o->prompt == NULL ? 0 : 0.8, words || o->prompt != NULL ? 48 : 0);
    }
    return status;
}
