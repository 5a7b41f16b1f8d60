/* SPDX-License-Identifier: Apache-2.0 */
/* sample.c - run_sample: the model writes text, one token at a time. */
#include "train/corpus.h"
#include "train/numbers.h"
#include "train/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    double p;
    int32_t token;
} candidate_t;

typedef struct sampler {
    run_t *run;
    float *logits;           /* (vocab) */
    candidate_t *candidates; /* (vocab) */
    int32_t *tokens, *picks; /* prompt and sample; (world) */
    int64_t usable;          /* tokens that may be sampled: for text only the bytes, or what the tokenizer has */
    uint64_t draws;
    int64_t sampled; /* tokens so far, without prompts */
} sampler_t;

/* Whether a comes before b: the more likely first; among equals the lower token, so that the order is unique. */
static bool before(const candidate_t *a, const candidate_t *b)
{
    return a->p != b->p ? a->p > b->p : a->token < b->token;
}

/* Lets candidate i of a heap of n sink below those that come before it. */
static void sink(candidate_t *c, int64_t n, int64_t i)
{
    const candidate_t moved = c[i];
    for (int64_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && before(&c[child + 1], &c[child]);
        if (!before(&c[child], &moved))
            break;
        c[i] = c[child];
    }
    c[i] = moved;
}

/* Moves the likeliest of n candidates to the end, in order: one, then at most `most` until their probabilities add up
 * to enough. Returns where they begin, and sets *kept to their sum. A sample may need few of a large vocabulary, and
 * the rest is not sorted. */
static int64_t likeliest(candidate_t *c, int64_t n, int64_t most, double enough, double *kept)
{
    int64_t left = n;
    *kept = 0;
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sink(c, n, i);
    while (left > 0 && n - left < most && (left == n || *kept < enough)) {
        const candidate_t first = c[0];
        c[0] = c[--left];
        sink(c, left, 0);
        c[left] = first;
        *kept += first.p;
    }
    return left;
}

/* Applies temperature, then the top k, then the smallest set of these with a probability of top_p (Holtzman et al.
 * 2020). */
static int32_t pick(sampler_t *s)
{
    const options_t *o = &s->run->job->o;
    candidate_t *c = s->candidates;
    const int64_t n = s->usable;
    int64_t first = 0;
    double most = -INFINITY, sum = 0, kept;
    int32_t best = 0;
    for (int64_t i = 0; i < n; i++)
        if (s->logits[i] > most) {
            most = s->logits[i];
            best = (int32_t)i;
        }
    /* if all are NaN or -inf, or the temperature is 0, do not draw */
    if (o->temperature == 0 || !isfinite(most))
        return best;
    for (int64_t i = 0; i < n; i++) {
        double p = exp((s->logits[i] - most) / o->temperature);
        c[i] = (candidate_t){.p = p > 0 ? p : 0, .token = (int32_t)i};
        sum += c[i].p;
    }
    kept = sum;
    if (o->top_k > 0 && o->top_k < n)
        first = likeliest(c, n, o->top_k, INFINITY, &kept);
    if (o->top_p < 1)
        first += likeliest(c + first, n - first, n, o->top_p * kept, &kept);
    double x =
        (double)(zero_splitmix64(zero_splitmix64((uint64_t)o->seed ^ 0x5a3b1e) + s->draws++) >> 11) * 0x1p-53 * kept;
    for (int64_t i = n - 1; i > first; i--)
        if ((x -= c[i].p) < 0)
            return c[i].token;
    return c[first].token;
}

/* Appends up to most tokens to the n in s->tokens, and stops after the token stop (-1: none). The model computes all n
 * first, and then each token that was chosen. One rank chooses, the first that has logits, so that ranks on different
 * machines get the same tokens. */
static zero_status_t extend(sampler_t *s, int64_t *n, int64_t most, int32_t stop, zero_error_t *error)
{
    const int chooser = s->run->job->world - s->run->job->stage_ranks;
    for (int64_t i = 0, past = 0; i < most; i++) {
        zero_status_t status = zero_model_logits(s->run->model, s->tokens + past, *n - past, past, s->logits, error);
        int32_t token = status == ZERO_OK ? pick(s) : 0;
        if (status == ZERO_OK)
            status = zero_comm_exchange(s->run->place.comm, &token, s->picks, sizeof token, error);
        if (status != ZERO_OK)
            return status;
        past = *n;
        s->tokens[(*n)++] = s->picks[chooser];
        s->sampled++;
        if (s->picks[chooser] == stop)
            break;
    }
    return ZERO_OK;
}

/* Prints bytes as text. Question marks replace bytes that are neither printable ASCII nor valid UTF-8, to protect the
 * terminal. */
static void print_text(const int32_t *tokens, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t t = tokens[i];
        int more = t >= 0xc3 && t < 0xe0 ? 1 : t > 0xe0 && t < 0xed ? 2 : 0;
        bool whole = more > 0 && i + more < n;
        for (int k = 1; k <= more && whole; k++)
            whole = tokens[i + k] >= 0x80 && tokens[i + k] < 0xc0;
        if (t == '\n')
            fputs("\n  ", stdout);
        else if ((t >= 0x20 && t < 0x7f) || t == '\t')
            putchar(t);
        else if (whole)
            for (int k = 0; k <= more; k++)
                putchar(tokens[i + k]);
        else
            putchar('?');
        i += whole ? more : 0;
    }
}

/* Prints UTF-8 that a tokenizer decoded. Question marks replace control characters, to protect the terminal. */
static void print_decoded(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        bool control = (c < 0x20 && c != '\t') || c == 0x7f;
        bool more = c == 0xc2 && (unsigned char)text[i + 1] < 0xa0; /* U+0080 to U+009F */
        if (c == '\n')
            fputs("\n  ", stdout);
        else
            putchar(control || more ? '?' : c);
        i += more;
    }
}

static zero_status_t print_tokens(const job_t *job, const int32_t *tokens, int64_t n, zero_error_t *error)
{
    char *text;
    size_t bytes;
    if (job->tokenizer == NULL) {
        for (int64_t i = 0; i < n; i++)
            printf("%s%d", i > 0 ? " " : "", (int)tokens[i]);
        return ZERO_OK;
    }
    zero_status_t status = zero_tokenizer_decode(job->tokenizer, tokens, n, true, &text, &bytes, error);
    if (status == ZERO_OK)
        print_decoded(text, bytes);
    free(text);
    return status;
}

/* Lets the model spell numbers that training never saw. */
static zero_status_t sample_numbers(sampler_t *s, bool print, zero_error_t *error)
{
    const options_t *o = &s->run->job->o;
    enum { SHOWN = 6 };
    int right = 0;
    for (int shown = 0, i = 0; shown < SHOWN; i++) {
        char line[64];
        int number = (int)data_permute(7, CORPUS_NUMBERS, i);
        if (!corpus_held_out(number))
            continue;
        size_t length = corpus_line(line, number);
        int64_t prompt = (int64_t)strcspn(line, ":") + 1, n = prompt;
        for (int64_t k = 0; k < prompt; k++)
            s->tokens[k] = line[k];
        zero_status_t status = extend(s, &n, o->sample, '\n', error);
        if (status != ZERO_OK)
            return status;
        bool same = n == (int64_t)length;
        for (int64_t k = 0; k < n && same; k++)
            same = s->tokens[k] == line[k];
        right += same;
        if (print) {
            fputs("  ", stdout);
            print_text(s->tokens, n - (s->tokens[n - 1] == '\n'));
            putchar('\n');
        }
        shown++;
    }
    if (print)
        printf("  %d of %d numbers that training leaves out are right\n", right, SHOWN);
    return ZERO_OK;
}

static zero_status_t sample_any(sampler_t *s, bool print, zero_error_t *error)
{
    const job_t *job = s->run->job;
    const zero_ids_t *prompt = &job->prompt;
    const bool bytes = job->tokenizer == NULL && data_is_text(job->data);
    int64_t n = 1;
    int32_t next;
    zero_status_t status = ZERO_OK;
    if (prompt->count > 0)
        memcpy(s->tokens, prompt->at, (size_t)(n = prompt->count) * sizeof *s->tokens);
    else if (bytes)
        s->tokens[0] = '\n';
    else /* tokens: start from the first one */
        status = data_read(job->data, 0, 1, job->model.vocab, s->tokens, &next, error);
    const int64_t first = bytes && prompt->count == 0 ? 1 : 0; /* do not print the newline that we added */
    if (status == ZERO_OK)
        status = extend(s, &n, job->o.sample, -1, error);
    if (status != ZERO_OK || !print)
        return status;
    fputs("  ", stdout);
    if (bytes)
        print_text(s->tokens + first, n - first);
    else
        status = print_tokens(job, s->tokens, n, error);
    putchar('\n');
    return status;
}

/* The model writes a number's words: tokens 1 to n - 1, without the end. digits: its tokens. */
static zero_status_t write_words(sampler_t *s, const int32_t *digits, int64_t count, int64_t *n, zero_error_t *error)
{
    zero_status_t status = zero_model_encode(s->run->model, digits, count, error);
    s->tokens[0] = NUMBERS_END;
    *n = 1;
    if (status == ZERO_OK)
        status = extend(s, n, s->run->job->o.sample, NUMBERS_END, error);
    if (*n > 1 && s->tokens[*n - 1] == NUMBERS_END)
        --*n;
    return status;
}

static void print_number(const sampler_t *s, const int32_t *digits, int64_t count, int64_t n, const char *ending)
{
    fputs("  ", stdout);
    for (int64_t i = 0; i < count; i++)
        putchar('0' + digits[i]);
    fputs(": ", stdout);
    numbers_print(stdout, s->tokens + 1, n - 1);
    puts(ending);
}

/* Lets the model write the words of numbers that training never sees. */
static zero_status_t sample_held_out(sampler_t *s, bool print, zero_error_t *error)
{
    enum { SHOWN = 6, ALL = 64 };
    const job_t *job = s->run->job;
    int32_t *digits = malloc((size_t)job->digits * sizeof *digits),
            *words = malloc((size_t)job->o.seq_len * sizeof *words);
    zero_status_t status = ZERO_OK;
    int right = 0;
    if (digits == NULL || words == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a number of %lld digits", (long long)job->digits);
    for (int i = 0; i < ALL && status == ZERO_OK; i++) {
        const int64_t count = numbers_draw(1, i, true, job->digits, digits),
                      wanted = numbers_words(digits, count, words);
        int64_t n;
        if ((status = write_words(s, digits, count, &n, error)) != ZERO_OK)
            break;
        const bool same = n - 1 == wanted && memcmp(s->tokens + 1, words, (size_t)wanted * sizeof *words) == 0;
        right += same;
        if (print && i < SHOWN)
            print_number(s, digits, count, n, same ? "" : " (wrong)");
    }
    if (status == ZERO_OK && print)
        printf("  %d of %d numbers that training leaves out are right\n", right, ALL);
    free(digits);
    free(words);
    return status;
}

/* Lets the model write the words of the prompt, or of numbers that training never sees. */
static zero_status_t sample_words(sampler_t *s, bool print, zero_error_t *error)
{
    const zero_ids_t *prompt = &s->run->job->prompt;
    int64_t n;
    if (prompt->count == 0)
        return sample_held_out(s, print, error);
    zero_status_t status = write_words(s, prompt->at, prompt->count, &n, error);
    if (status == ZERO_OK && print)
        print_number(s, prompt->at, prompt->count, n, "");
    return status;
}

zero_status_t run_sample(run_t *run, const char *heading, run_sampled_t *sampled, zero_error_t *error)
{
    const job_t *job = run->job;
    bool print = run->rank == 0 && !job->o.quiet;
    int64_t known = job->tokenizer != NULL                     ? zero_tokenizer_size(job->tokenizer)
                    : !job->encoder && data_is_text(job->data) ? 256
                                                               : job->model.vocab;
    sampler_t s = {.run = run, .usable = known < job->model.vocab ? known : job->model.vocab};
    zero_status_t status;
    const double began = zero_now();
    *sampled = (run_sampled_t){0};
    if (job->sample_len == 0)
        return ZERO_OK;
    s.logits = malloc((size_t)job->model.vocab * sizeof *s.logits);
    s.candidates = malloc((size_t)job->model.vocab * sizeof *s.candidates);
    s.tokens = malloc((size_t)job->sample_len * sizeof *s.tokens);
    s.picks = malloc((size_t)zero_comm_size(run->place.comm) * sizeof *s.picks);
    if (s.logits == NULL || s.candidates == NULL || s.tokens == NULL || s.picks == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for a sample of %lld tokens", (long long)job->o.sample);
    else {
        if (print)
            printf("%s\n", heading);
        status = job->encoder   ? sample_words(&s, print, error)
                 : job->numbers ? sample_numbers(&s, print, error)
                                : sample_any(&s, print, error);
        if (print)
            fflush(stdout);
    }
    sampled->tokens = s.sampled;
    sampled->seconds = zero_now() - began;
    free(s.logits);
    free(s.candidates);
    free(s.tokens);
    free(s.picks);
    return status;
}
