/* SPDX-License-Identifier: Apache-2.0 */
/* prompt_tokens.c - the tokens of a prompt. */
#include "train/numbers.h"
#include "train/prompt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *prompt_option(const options_t *o, char *text, size_t size)
{
    if (o->prompt_file == NULL)
        return "--prompt";
    snprintf(text, size, "--prompt-file '%s'", o->prompt_file);
    return text;
}

/* Each byte is a token: its value without that of the byte `zero`. */
static zero_status_t take_bytes(job_t *job, const char *option, const char *text, size_t bytes, char zero,
                                zero_error_t *error)
{
    job->prompt.at = malloc(bytes * sizeof *job->prompt.at);
    if (job->prompt.at == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the tokens of %s", option);
    for (size_t i = 0; i < bytes; i++)
        job->prompt.at[i] = (unsigned char)text[i] - zero;
    job->prompt.count = (int64_t)bytes;
    return ZERO_OK;
}

static zero_status_t take_text(job_t *job, const char *option, const char *text, size_t bytes, zero_error_t *error)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= job->model.vocab)
            return zero_fail(error, ZERO_ERR_ARG, "%s has the byte %d, but the model's vocabulary has %lld", option,
                             (unsigned char)text[i], (long long)job->model.vocab);
    return take_bytes(job, option, text, bytes, 0, error);
}

/* A number for the encoder: each digit is a token. */
static zero_status_t take_digits(job_t *job, const char *option, const char *text, size_t bytes, zero_error_t *error)
{
    const char *first = text + strspn(text, "0");
    if (strspn(text, "0123456789") != bytes)
        return zero_fail(error, ZERO_ERR_ARG, "%s is '%.40s', but must be a number in digits: --prompt 1207", option,
                         text);
    if (bytes > 1 && text[0] == '0')
        return zero_fail(error, ZERO_ERR_ARG, "%s is '%.40s', but a number does not begin with 0: use --prompt %.40s",
                         option, text, *first != '\0' ? first : "0");
    if ((int64_t)bytes > job->digits)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%s is a number of %lld digits, but --seq-len %lld has room for the words of %lld: train "
                         "with --seq-len %lld",
                         option, (long long)bytes, (long long)job->o.seq_len, (long long)job->digits,
                         (long long)numbers_seq_len((int64_t)bytes));
    return take_bytes(job, option, text, bytes, '0', error);
}

static zero_status_t encode(job_t *job, const char *option, const char *text, size_t bytes, zero_error_t *error)
{
    zero_encoder_t *encoder = NULL;
    zero_error_t why = {0};
    zero_status_t status = zero_encoder_open(&encoder, job->tokenizer, &why);
    if (status == ZERO_OK)
        status = zero_encoder_encode(encoder, text, bytes, true, &job->prompt, &why);
    zero_encoder_close(encoder);
    if (status != ZERO_OK)
        return zero_fail(error, status, "%s: %s", option, why.text);
    if (job->prompt.count == 0)
        return zero_fail(error, ZERO_ERR_ARG, "%s has no token in the tokenizer's vocabulary: use another text",
                         option);
    return ZERO_OK;
}

zero_status_t prompt_resolve(job_t *job, zero_error_t *error)
{
    const options_t *o = &job->o;
    const bool text = job->encoder || data_is_text(job->data);
    char name[300];
    const char *option = prompt_option(o, name, sizeof name), *given = o->prompt;
    size_t bytes;
    if (o->prompt_file != NULL)
        given = o->prompt_text;
    else if (o->prompt == NULL && job->corpus && job->tokenizer != NULL)
        given = "\n";
    if (given == NULL) /* of another rank that failed to read it */
        return ZERO_OK;
    bytes = o->prompt_file != NULL ? o->prompt_bytes : strlen(given);
    if (job->tokenizer == NULL && !text)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%s needs --data that is text, or a --tokenizer: '%s' has tokens without a known text", option,
                         o->data.at[0]);
    if (bytes == 0)
        return zero_fail(error, ZERO_ERR_ARG, "%s is empty: use a text of at least one character", option);
    if (job->encoder)
        return take_digits(job, option, given, bytes, error);
    return job->tokenizer == NULL ? take_text(job, option, given, bytes, error)
                                  : encode(job, option, given, bytes, error);
}
