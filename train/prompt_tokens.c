/* SPDX-License-Identifier: Apache-2.0 */
/* prompt_tokens.c - the tokens of a prompt. */
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

/* Each byte is a token. */
static zero_status_t take_bytes(job_t *job, const char *option, const char *text, size_t bytes, zero_error_t *error)
{
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)text[i] >= job->model.vocab)
            return zero_fail(error, ZERO_ERR_ARG, "%s has the byte %d, but the model's vocabulary has %lld", option,
                             (unsigned char)text[i], (long long)job->model.vocab);
    job->prompt.at = malloc(bytes * sizeof *job->prompt.at);
    if (job->prompt.at == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the tokens of %s", option);
    for (size_t i = 0; i < bytes; i++)
        job->prompt.at[i] = (unsigned char)text[i];
    job->prompt.count = (int64_t)bytes;
    return ZERO_OK;
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
    const bool text = data_is_text(job->data);
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
    return job->tokenizer == NULL ? take_bytes(job, option, given, bytes, error)
                                  : encode(job, option, given, bytes, error);
}
