/* SPDX-License-Identifier: Apache-2.0 */
#include "train/job_data.h"
#include "train/corpus.h"
#include "train/inputs.h"
#include "train/numbers.h"
#include "train/prompt.h"
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

/* How samples choose tokens, if the options do not say it. */
static void resolve_choice(options_t *o, double temperature)
{
    if (o->top_k < 0)
        o->top_k = 0;
    if (isnan(o->top_p))
        o->top_p = 1;
    if (isnan(o->temperature))
        o->temperature = temperature;
}

/* Whether nothing is trained, saved or exported. Adapters come from their checkpoint as what is trained. */
static bool only_samples(const job_t *job)
{
    const options_t *o = &job->o;
    return o->sample > 0 && o->steps <= job->first && o->save == NULL && o->export == NULL && job->lora.rank == 0;
}

/* Chooses what samples begin with, and how long they are. */
static zero_status_t resolve_samples(job_t *job, bool tiny, zero_error_t *error)
{
    options_t *o = &job->o;
    const int64_t most = job_longest(job);
    const bool prompted = o->prompt != NULL || o->prompt_file != NULL;
    zero_status_t status = prompt_resolve(job, error);
    if (status != ZERO_OK)
        return status;
    job->numbers = job->corpus && job->prompt.count == 0;
    resolve_choice(o, job->numbers ? 0 : 0.8);
    const int64_t begin = job->prompt.count > 0 ? job->prompt.count
                          : job->numbers        ? CORPUS_PROMPT
                                                : 1,
                  room = most > begin ? most - begin : 0;
    char name[300];
    if (o->sample != 0 && prompted && room == 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "%s has %lld tokens, but prompt and sample have %lld together: use a prompt of at most %lld "
                         "tokens, or a --model with more positions",
                         prompt_option(o, name, sizeof name), (long long)begin, (long long)most, (long long)most - 1);
    if (o->sample > room)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--sample is %lld, but the %lld positions of the model leave %lld behind %s of %lld token%s: "
                         "use --sample %lld or less",
                         (long long)o->sample, (long long)most, (long long)room, prompted ? "a prompt" : "a beginning",
                         (long long)begin, begin == 1 ? "" : "s", (long long)room);
    if (o->sample < 0) {
        const bool usual = tiny && (data_is_text(job->data) || job->tokenizer != NULL);
        o->sample = o->compare_stages || !(usual || prompted) ? 0 : room < 48 ? room : 48;
    }
    job->sample_len = o->sample > 0 ? begin + o->sample : 0;
    job->untrained = only_samples(job);
    return ZERO_OK;
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
    const int64_t most =
        o->seq_len < job_longest(job) ? o->seq_len : o->seq_len - 1; /* the first token has a position */
    zero_status_t status = prompt_resolve(job, error);
    if (status != ZERO_OK)
        return status;
    resolve_choice(o, 0);
    if (o->sample > most)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--sample is %lld, but --seq-len %lld has room for %lld words: use --sample %lld or less",
                         (long long)o->sample, (long long)o->seq_len, (long long)most, (long long)most);
    if (o->sample < 0)
        o->sample = o->compare_stages || o->pipe > 1 || o->tensor > 1 ? 0 : most;
    job->eval = o->eval_every > 0;
    job->sample_len = o->sample > 0 ? 1 + o->sample : 0;
    job->untrained = only_samples(job);
    return ZERO_OK;
}

zero_status_t job_resolve_data(job_t *job, bool tiny, bool thorough, zero_error_t *error)
{
    options_t *o = &job->o;
    const int64_t vocab = job->model.vocab;
    zero_status_t status = ZERO_OK;
    if (o->eval_batches < 0)
        o->eval_batches = 16;
    job->corpus = o->data.count == 0;
    const bool prompted = o->prompt != NULL || o->prompt_file != NULL;
    /* if nothing is trained, samples need not be like the built-in data */
    const bool samples = job->corpus && o->steps <= job->first && (prompted || o->sample > 0);
    job->eval = o->eval_data.count > 0 || o->eval_every > 0;
    if (job->eval && o->eval_data.count == 0 && !job->corpus && !job->encoder)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--eval-every is %lld, but there is no data to evaluate on: add --eval-data FILE",
                         (long long)o->eval_every);
    if (o->prompt != NULL && o->prompt_file != NULL)
        return zero_fail(error, ZERO_ERR_ARG, "--prompt and --prompt-file '%s' are both set: remove one of them",
                         o->prompt_file);
    if (job->encoder)
        return resolve_numbers(job, error);
    if (o->tokenizer != NULL && job->corpus && !samples)
        return zero_fail(error, ZERO_ERR_ARG,
                         "--tokenizer '%s' has no text to encode: the built-in data is bytes; add --data FILE, or only "
                         "sample with --steps 0 and --prompt",
                         o->tokenizer);
    /* opened before the data, which may be tokens: the prompt needs it, too */
    if (o->tokenizer != NULL || samples || (prompted && !job->corpus))
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
    return status == ZERO_OK ? resolve_samples(job, tiny, error) : status;
}
