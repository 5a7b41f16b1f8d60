/* SPDX-License-Identifier: Apache-2.0 */
/* team.c - encodes many documents on several threads.
 *
 * Threads take jobs from a list: some short documents, or a part of a long one. Each job has its own list of ids, and
 * the lists are joined in the order of the documents, so the result does not depend on threads.
 *
 * A long text is cut in two ways, and neither changes the ids.
 * - Walks. A split by a pattern is a walk: from a position it finds the next match, and goes on from the match's end.
 *   If nothing in the pattern looks back, all that it does from a position on depends on the text from there on alone.
 *   So a part is walked from an arbitrary position to the first end of a match at or beyond its own end, and notes
 *   where its first matches ended. Then the walk of the part before goes on until it ends a match where this part's
 *   walk also ended one. From there both are the same, and what this part did before it is dropped. In ordinary text
 *   they meet within a word or two. If they do not meet at one of the ends that were noted, the walk before goes
 *   through the whole part: slower, but the same.
 * - Where no pattern splits, before a space mark that no merge crosses (find_cuts in vocab.c) or that begins a word. */
#include "tokenizer/parts.h"

#include <pthread.h>
#include <stdatomic.h>

/* A long text has at least four parts; a quarter of a part is enough work for a job. */
enum { PART_BYTES = 512 << 10, ENDS = 256 };

typedef enum job_kind { JOB_DOCUMENTS = 0, JOB_IDS, JOB_TEXT, JOB_WALK } job_kind_t;

typedef struct job {
    job_kind_t kind;
    int64_t document, last; /* DOCUMENTS: up to last, exclusive */
    bool first;             /* the piece begins where the document does */
    int step;               /* of the pre-tokenizer, the next to do */
    zero_span_t text;       /* TEXT: itself; WALK: the piece that it is in */
    size_t start, stop;     /* WALK: the part */
    size_t reached;
    zero_walk_end_t *ends; /* (ENDS) */
    int end_count;
    zero_ids_t ids;
    int64_t dropped; /* ids at the start that the part before has, too */
} job_t;

struct zero_encoders {
    const zero_tokenizer_t *t;
    int threads;
    size_t part_bytes;
    zero_encoder_t **encoders; /* (threads) */
    job_t *jobs;
    int64_t job_count, job_room;
    char **copies; /* texts of pieces that normalization made */
    int64_t copy_count, copy_room;
    /* of the call that runs */
    const zero_text_t *texts;
    bool add_special;
    int64_t *ends;
    atomic_llong next;
    pthread_mutex_t lock;                /* of what follows */
    zero_error_t error;                  /* of the first job that failed, in the order of jobs */
    int64_t failed_job, failed_document; /* -1: none */
};

zero_status_t zero_encoders_open(zero_encoders_t **out, const zero_tokenizer_t *t, int threads, zero_error_t *error)
{
    zero_encoders_t *s = calloc(1, sizeof *s);
    zero_status_t status = ZERO_OK;
    *out = NULL;
    if (s != NULL) {
        s->t = t;
        s->threads = threads > 0 ? threads : 1;
        s->part_bytes = PART_BYTES;
        pthread_mutex_init(&s->lock, NULL);
        s->encoders = calloc((size_t)s->threads, sizeof *s->encoders);
    }
    if (s == NULL || s->encoders == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for %d threads that encode text", threads);
    for (int i = 0; status == ZERO_OK && i < s->threads; i++)
        status = zero_encoder_open(&s->encoders[i], t, error);
    if (status != ZERO_OK) {
        zero_encoders_close(s);
        return status;
    }
    *out = s;
    return ZERO_OK;
}

void zero_encoders_set_part(zero_encoders_t *s, size_t bytes)
{
    s->part_bytes = bytes;
}

static void forget_jobs(zero_encoders_t *s)
{
    for (int64_t i = 0; i < s->job_count; i++) {
        free(s->jobs[i].ids.at);
        free(s->jobs[i].ends);
    }
    for (int64_t i = 0; i < s->copy_count; i++)
        free(s->copies[i]);
    s->job_count = s->copy_count = 0;
}

void zero_encoders_close(zero_encoders_t *s)
{
    if (s == NULL)
        return;
    forget_jobs(s);
    for (int i = 0; s->encoders != NULL && i < s->threads; i++)
        zero_encoder_close(s->encoders[i]);
    free(s->encoders);
    free(s->jobs);
    free(s->copies);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* ---- the list of jobs ------------------------------------------------------------------------------------------- */

/* NULL: out of memory. The job stays valid until the next one is added. */
static job_t *new_job(zero_encoders_t *s, job_kind_t kind, int64_t document)
{
    if (s->job_count == s->job_room) {
        int64_t room = s->job_room * 2 + 64;
        job_t *more = realloc(s->jobs, (size_t)room * sizeof *more);
        if (more == NULL)
            return NULL;
        s->jobs = more;
        s->job_room = room;
    }
    s->jobs[s->job_count] = (job_t){.kind = kind, .document = document};
    return &s->jobs[s->job_count++];
}

/* Keeps a text that lies in an encoder's memory. */
static bool keep(zero_encoders_t *s, zero_span_t *text)
{
    if (s->copy_count == s->copy_room) {
        int64_t room = s->copy_room * 2 + 16;
        char **more = realloc(s->copies, (size_t)room * sizeof *more);
        if (more == NULL)
            return false;
        s->copies = more;
        s->copy_room = room;
    }
    char *copy = malloc(text->bytes + 1);
    if (copy == NULL)
        return false;
    memcpy(copy, text->at, text->bytes);
    s->copies[s->copy_count++] = copy;
    text->at = copy;
    return true;
}

typedef struct planner {
    zero_encoders_t *s;
    int64_t document;
} planner_t;

static bool plan_parts(zero_encoders_t *s, int64_t document, int step, bool first, zero_span_t text)
{
    zero_cutting_t cutting = text.bytes > 2 * s->part_bytes ? zero_split_cutting(s->t, step) : ZERO_CUT_NOT;
    for (size_t at = 0, end; at < text.bytes; at = end) {
        end = cutting == ZERO_CUT_NOT || text.bytes - at <= s->part_bytes ? text.bytes : at + s->part_bytes;
        if (end < text.bytes && cutting == ZERO_CUT_BEFORE)
            end = zero_split_cut(s->encoders[0], step, text, end);
        while (end < text.bytes && ((unsigned char)text.at[end] & 0xc0) == 0x80)
            end++;
        job_t *job = new_job(s, cutting == ZERO_CUT_WALKS ? JOB_WALK : JOB_TEXT, document);
        if (job == NULL)
            return false;
        job->step = step;
        job->first = first && (cutting == ZERO_CUT_WALKS || at == 0);
        job->start = at;
        job->stop = end;
        job->text = cutting == ZERO_CUT_WALKS ? text : (zero_span_t){text.at + at, end - at};
        if (cutting == ZERO_CUT_WALKS && (job->ends = malloc(ENDS * sizeof *job->ends)) == NULL)
            return false;
    }
    return true;
}

/* A piece of a long document becomes jobs. */
static bool plan_piece(void *ctx, const zero_piece_t *piece, zero_error_t *error)
{
    planner_t *p = ctx;
    zero_encoders_t *s = p->s;
    const zero_text_t *whole = &s->texts[p->document];
    if (piece->id >= 0) {
        job_t *job = &s->jobs[s->job_count - 1];
        if (job->kind != JOB_IDS || job->document != p->document)
            job = new_job(s, JOB_IDS, p->document);
        return job != NULL && zero_ids_add(&job->ids, piece->id);
    }
    zero_span_t text;
    int step = zero_split_begin(s->encoders[0], piece, &text, error);
    bool inside = text.at >= whole->at && text.at < whole->at + whole->bytes;
    return step >= 0 && (inside || keep(s, &text)) && plan_parts(s, p->document, step, piece->first, text);
}

static bool plan_ids(zero_encoders_t *s, int64_t document, const zero_ids_t *ids)
{
    job_t *job = new_job(s, JOB_IDS, document);
    if (job == NULL || !zero_ids_reserve(&job->ids, ids->count))
        return false;
    if (ids->count > 0)
        memcpy(job->ids.at, ids->at, (size_t)ids->count * sizeof *ids->at);
    job->ids.count = ids->count;
    return true;
}

/* Keeps the failure of a job, unless one before it failed too. */
static void job_failed(zero_encoders_t *s, const job_t *job, int64_t document, const zero_error_t *why)
{
    int64_t index = job - s->jobs;
    pthread_mutex_lock(&s->lock);
    if (s->failed_job < 0 || index < s->failed_job) {
        s->failed_job = index;
        s->failed_document = document;
        if (why->status == ZERO_OK)
            zero_fail(&s->error, ZERO_ERR_MEMORY, "no memory for the ids");
        else
            zero_fail(&s->error, why->status, "%s", why->text);
    }
    pthread_mutex_unlock(&s->lock);
}

static bool plan_long(zero_encoders_t *s, int64_t document)
{
    planner_t planner = {s, document};
    const zero_text_t *text = &s->texts[document];
    static const zero_ids_t none = {0};
    zero_error_t why = {0};
    size_t wrong = zero_utf8_check(text->at, text->bytes);
    bool ok = plan_ids(s, document, s->add_special ? &s->t->before : &none);
    if (ok && wrong < text->bytes)
        zero_fail(&why, ZERO_ERR_FORMAT, "byte %zu, 0x%02x, is not UTF-8", wrong, (unsigned char)text->at[wrong]);
    else
        ok = ok && zero_pieces(s->encoders[0], text->at, text->bytes, plan_piece, &planner, &why);
    if (why.status != ZERO_OK) {
        job_failed(s, &s->jobs[s->job_count - 1], document, &why);
        return true;
    }
    return ok && plan_ids(s, document, s->add_special ? &s->t->after : &none);
}

static bool plan(zero_encoders_t *s, int64_t count)
{
    size_t bytes = 0;
    job_t *job = NULL;
    for (int64_t i = 0; i < count; i++) {
        if (s->threads > 1 && s->texts[i].bytes >= 4 * s->part_bytes) {
            if (!plan_long(s, i))
                return false;
            job = NULL;
            continue;
        }
        if (job == NULL || bytes >= s->part_bytes / 4) {
            if ((job = new_job(s, JOB_DOCUMENTS, i)) == NULL)
                return false;
            bytes = 0;
        }
        job->last = i + 1;
        bytes += s->texts[i].bytes + 64;
    }
    return true;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static void run_job(zero_encoders_t *s, zero_encoder_t *e, job_t *job)
{
    zero_error_t why = {0};
    bool ok = true;
    e->ids = &job->ids;
    if (job->kind == JOB_TEXT)
        ok = zero_split_words(e, job->step, job->first, job->text, &why);
    else if (job->kind == JOB_WALK)
        ok = zero_split_walk(e, job->step, job->first, job->text, job->start, job->stop, &job->reached, job->ends, ENDS,
                             &job->end_count, &why);
    if (!ok)
        job_failed(s, job, job->document, &why);
    for (int64_t i = job->document; job->kind == JOB_DOCUMENTS && i < job->last; i++) {
        if (zero_encoder_encode(e, s->texts[i].at, s->texts[i].bytes, s->add_special, &job->ids, &why) != ZERO_OK) {
            job_failed(s, job, i, &why);
            return;
        }
        s->ends[i] = job->ids.count;
    }
}

typedef struct worker {
    zero_encoders_t *s;
    zero_encoder_t *e;
    pthread_t thread;
} worker_t;

static void *work(void *ctx)
{
    worker_t *w = ctx;
    for (int64_t i; (i = atomic_fetch_add(&w->s->next, 1)) < w->s->job_count;)
        run_job(w->s, w->e, &w->s->jobs[i]);
    return NULL;
}

/* A thread that does not start leaves its work to the others. */
static bool run_jobs(zero_encoders_t *s)
{
    worker_t *workers = calloc((size_t)s->threads, sizeof *workers);
    int started = 1;
    if (workers == NULL)
        return false;
    atomic_store(&s->next, 0);
    for (int i = 0; i < s->threads; i++)
        workers[i] = (worker_t){.s = s, .e = s->encoders[i]};
    while (started < s->threads && started < s->job_count &&
           pthread_create(&workers[started].thread, NULL, work, &workers[started]) == 0)
        started++;
    work(&workers[0]);
    for (int i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    free(workers);
    return true;
}

/* ---- joining ---------------------------------------------------------------------------------------------------- */

/* Whether the part's walk ended a match at a position; *ids is what it had then. */
static bool met(const job_t *part, size_t at, int64_t *ids)
{
    *ids = 0;
    if (at == part->start)
        return true;
    for (int i = 0; i < part->end_count; i++)
        if (part->ends[i].at == at) {
            *ids = part->ends[i].ids;
            return true;
        }
    return false;
}

/* Joins the walk of a job with that of the part after it. Returns the job whose walk goes on after both; NULL: it
 * failed. */
static job_t *join(zero_encoders_t *s, job_t *job, job_t *part)
{
    zero_encoder_t *e = s->encoders[0];
    zero_error_t why = {0};
    int none = 0;
    e->ids = &job->ids;
    while (!met(part, job->reached, &part->dropped)) {
        size_t last = part->end_count > 0 ? part->ends[part->end_count - 1].at : part->start;
        if (job->reached >= part->reached) {
            part->dropped = part->ids.count;
            return job;
        }
        size_t stop = job->reached < last ? job->reached + 1 : part->reached;
        if (!zero_split_walk(e, job->step, job->first, job->text, job->reached, stop, &job->reached, NULL, 0, &none,
                             &why)) {
            job_failed(s, job, job->document, &why);
            return NULL;
        }
    }
    return part;
}

static void join_walks(zero_encoders_t *s)
{
    job_t *walk = NULL;
    for (int64_t i = 0; i < s->job_count; i++) {
        job_t *job = &s->jobs[i];
        bool same = walk != NULL && job->kind == JOB_WALK && job->text.at == walk->text.at && job->start > 0;
        walk = same ? join(s, walk, job) : job->kind == JOB_WALK ? job : NULL;
        if (same && walk == NULL)
            return;
    }
}

static zero_status_t gather(zero_encoders_t *s, zero_ids_t *ids, zero_error_t *error)
{
    int64_t total = 0;
    for (int64_t i = 0; i < s->job_count; i++) {
        const job_t *job = &s->jobs[i];
        total += job->ids.count - job->dropped;
    }
    if (!zero_ids_reserve(ids, total))
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %lld ids", (long long)total);
    for (int64_t i = 0; i < s->job_count; i++) {
        const job_t *job = &s->jobs[i];
        int64_t n = job->ids.count - job->dropped;
        for (int64_t k = job->document; job->kind == JOB_DOCUMENTS && k < job->last; k++)
            s->ends[k] += ids->count;
        if (n > 0)
            memcpy(ids->at + ids->count, job->ids.at + job->dropped, (size_t)n * sizeof *ids->at);
        ids->count += n;
        if (job->kind != JOB_DOCUMENTS)
            s->ends[job->document] = ids->count;
    }
    return ZERO_OK;
}

zero_status_t zero_encoders_encode(zero_encoders_t *s, const zero_text_t *texts, int64_t count, bool add_special,
                                   zero_ids_t *ids, int64_t *ends, int64_t *failed, zero_error_t *error)
{
    zero_status_t status;
    *failed = -1;
    s->texts = texts;
    s->add_special = add_special;
    s->ends = ends;
    s->failed_job = -1;
    bool ok = plan(s, count) && run_jobs(s);
    if (ok && s->failed_job < 0)
        join_walks(s);
    if (ok && s->failed_job >= 0) {
        *failed = s->failed_document;
        status = zero_fail(error, s->error.status, "%s", s->error.text);
    } else if (ok)
        status = gather(s, ids, error);
    else
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for encoding %lld documents", (long long)count);
    forget_jobs(s);
    return status;
}
