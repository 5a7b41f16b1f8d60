/* SPDX-License-Identifier: Apache-2.0 */
/* sync.c - inserts RECORD and WAIT in one walk over each finished program, from what each operation reads and writes.
 *
 * Within a program, an operation waits for an earlier one on another stream if their accesses conflict, unless a vector
 * clock shows that they are ordered already. Across programs, only the accesses that each program may make are known,
 * not which program ran before: a first access waits for all conflicting accesses of any program on another stream. Two
 * kinds of event serve this.
 *
 * A lasting event belongs to a group of resources and a stream, and is recorded after the stream's last access to the
 * group in every program that has one. A later record on a stream implies the earlier ones, so one wait covers all
 * previous programs.
 *
 * A start event is a record of a whole stream at the start of the program. It is used where waiting for all that the
 * stream did before costs nothing: in STEP, and for the REDUCE stream.
 *
 * A resource is a slot, the buffers of one role of a unit (its segments always move together), or those of a part; a
 * group is a slot or a whole unit.
 */
#include "zero/plan/build.h"

#include <stdlib.h>

#define STREAMS ZERO_STREAM_COUNT
/* Clock values: UNKNOWN: nothing on that stream is known to be done; 0: everything before this program; n: also
 * operations [0, n) of it. */
#define UNKNOWN (-1)
#define MAX_ACCESSES 8
/* How many buffers that operations use belong to no segment. */
#define OTHERS 5

typedef struct access {
    int32_t resource;
    bool write;
} access_t;

/* The streams that access a resource in any program, and what this program has done to it so far. */
typedef struct resource {
    uint16_t readers, writers; /* masks of streams */
    int32_t stamp;             /* the walk that set the fields below */
    int32_t write;             /* clock of the last write; 0: none yet */
    int32_t read[STREAMS];     /* clock of the last read, by stream */
} resource_t;

typedef struct known {
    int32_t clock[STREAMS];
    uint64_t *lasting;
} known_t;

typedef enum wait_kind { WAIT_OP, WAIT_START, WAIT_LASTING } wait_kind_t;
/* The stream of operation `before` waits before it, for: WAIT_OP: the record after operation ref; WAIT_START: the
 * record of stream ref at the start; WAIT_LASTING: lasting event ref. */
typedef struct wait {
    int32_t before, ref;
    wait_kind_t kind;
} wait_t;

typedef struct waits {
    wait_t *list;
    int32_t count, capacity;
} waits_t;

typedef struct sync {
    zero_builder_t *b;
    int32_t streams; /* those that programs have: STREAMS, or those before the links */
    int32_t unit_base, part_base, other_base, resource_count, group_count;
    resource_t *resources;
    uint16_t
        *implied; /* [group * streams + t]: mask of streams whose accesses to the group a lasting event of t implies */
    int32_t *lasting; /* [group * streams + t]: event, or -1 if no operation waits for it */
    size_t words;     /* words of a bit set over (group, stream) */
    known_t now[STREAMS];
    uint64_t *bits;       /* the storage of now[].lasting, then of after[].lasting */
    known_t *after;       /* [operations of the longest program]: what an operation's stream knows after it */
    waits_t *waits;       /* by program */
    int32_t *last, *next; /* [group * streams + t]: clock of the last access in a program; next key in a list */
    int32_t stamp;
} sync_t;

/* ---- what an operation accesses --------------------------------------------------------------------------------- */

static int32_t other_index(const sync_t *y, int32_t buffer)
{
    const zero_plan_t *plan = y->b->plan;
    const int32_t others[OTHERS] = {plan->norms, plan->exchange, plan->scalars, plan->scratch, plan->host_scratch};
    for (int32_t i = 0; i < OTHERS; i++)
        if (others[i] == buffer)
            return i;
    return 0;
}

static int32_t resource_of(const sync_t *y, int32_t buffer)
{
    const zero_buffer_t *x = &y->b->plan->buffers[buffer];
    if (x->slot >= 0)
        return x->slot;
    if (x->part >= 0)
        return y->part_base + x->part;
    if (x->segment >= 0)
        return y->unit_base + y->b->plan->segments[x->segment].unit * ZERO_SEGMENT_ROLES + (int32_t)x->role;
    return y->other_base + other_index(y, buffer);
}

static int32_t group_of(const sync_t *y, int32_t resource)
{
    if (resource < y->unit_base)
        return resource;
    if (resource < y->part_base)
        return y->unit_base + (resource - y->unit_base) / ZERO_SEGMENT_ROLES;
    if (resource < y->other_base)
        return y->unit_base + y->b->plan->segments[y->b->plan->parts[resource - y->part_base].segment].unit;
    return y->unit_base + y->b->spec->unit_count + resource - y->other_base;
}

static int add_access(const sync_t *y, access_t *list, int n, int32_t buffer, bool write)
{
    if (buffer < 0)
        return n;
    int32_t resource = resource_of(y, buffer);
    for (int i = 0; i < n; i++)
        if (list[i].resource == resource) {
            list[i].write |= write;
            return n;
        }
    list[n] = (access_t){resource, write};
    return n + 1;
}

/* The accesses of a task. */
static int accesses_of_task(const sync_t *y, const zero_op_t *op, access_t *list)
{
    const zero_plan_task_t *task = &y->b->plan->passes[y->b->plan->programs[op->program].pass].tasks[op->use];
    int n = add_access(y, list, 0, task->input, false);
    n = add_access(y, list, n, task->output, true);
    n = add_access(y, list, n, task->output_grad, false);
    n = add_access(y, list, n, task->input_grad, true);
    for (int tier = 0; tier < ZERO_TIER_NVME; tier++)
        n = add_access(y, list, n, task->kept[tier], true);
    return n;
}

/* Fills list[MAX_ACCESSES]; returns the count. RELEASE and TASK_END have the accesses of their USE or TASK. */
static int accesses_of(const sync_t *y, const zero_op_t *op, access_t *list)
{
    const zero_plan_t *plan = y->b->plan;
    int n = 0, i;

    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_USE:
    case ZERO_OP_RELEASE:
        for (int32_t s = 0; s < y->b->units[op->unit].segment_count; s++) {
            const int32_t *unit = plan->segments[y->b->units[op->unit].first_segment + s].buffer;
            if (op->flags & ZERO_READ)
                n = add_access(y, list, n, unit[ZERO_ROLE_PARAM], false);
            if (op->flags & ZERO_GRAD)
                n = add_access(y, list, n, unit[ZERO_ROLE_GRAD], true);
        }
        return n;
    case ZERO_OP_TASK:
    case ZERO_OP_TASK_END:
        return accesses_of_task(y, op, list);
    case ZERO_OP_NORM:
        n = add_access(y, list, n, plan->norms, true);
        n = add_access(y, list, n, op->stream == ZERO_STREAM_HOST ? plan->host_scratch : plan->scratch, true);
        break;
    case ZERO_OP_EXCHANGE:
        n = add_access(y, list, n, plan->exchange, true);
        break;
    case ZERO_OP_UPDATE:
    case ZERO_OP_APPLY:
        n = add_access(y, list, n, plan->scalars, false);
        for (int end = zero_plan_works_on(plan, op, &i); i < end; i++)
            n = add_access(y, list, n, zero_part_memory(&plan->parts[op->part], i), true);
        break;
    case ZERO_OP_WHOLE:
        n = add_access(y, list, n, plan->scalars, false);
        break;
    case ZERO_OP_HOST_WAIT:
    case ZERO_OP_RECORD:
    case ZERO_OP_WAIT:
        return 0;
    default:
        break;
    }
    n = add_access(y, list, n, op->src, false);
    return add_access(y, list, n, op->dst, true);
}

/* ---- known order ------------------------------------------------------------------------------------------------ */

static void join(const sync_t *y, known_t *into, const known_t *from)
{
    for (int t = 0; t < y->streams; t++)
        if (from->clock[t] > into->clock[t])
            into->clock[t] = from->clock[t];
    for (size_t w = 0; w < y->words; w++)
        into->lasting[w] |= from->lasting[w];
}

static bool knows_lasting(const known_t *k, int32_t key)
{
    return k->lasting[key / 64] >> (key % 64) & 1;
}

static void learn_lasting(const sync_t *y, known_t *k, int32_t key)
{
    for (int t = 0; t < y->streams; t++)
        if (y->implied[key] >> t & 1) {
            int32_t other = key / y->streams * y->streams + t;
            k->lasting[other / 64] |= (uint64_t)1 << (other % 64);
        }
}

static zero_status_t add_wait(sync_t *y, waits_t *waits, int32_t before, wait_kind_t kind, int32_t ref)
{
    if (waits->count == waits->capacity) {
        int32_t capacity = waits->capacity > 0 ? 2 * waits->capacity : 64;
        wait_t *grown = realloc(waits->list, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return zero_fail(y->b->error, ZERO_ERR_MEMORY, "no memory for a plan: %d waits", capacity);
        waits->list = grown;
        waits->capacity = capacity;
    }
    waits->list[waits->count++] = (wait_t){before, ref, kind};
    return ZERO_OK;
}

/* ---- one operation ---------------------------------------------------------------------------------------------- */

/* Adds waits for operations of this program. */
static zero_status_t wait_within(sync_t *y, waits_t *waits, int32_t program, int32_t index, const access_t *list, int n)
{
    const zero_op_t *ops = y->b->plan->programs[program].ops;
    known_t *me = &y->now[ops[index].stream];
    int32_t need[STREAMS] = {0};
    zero_status_t status;

    for (int i = 0; i < n; i++) {
        const resource_t *r = &y->resources[list[i].resource];
        if (r->write > 0 && need[ops[r->write - 1].stream] < r->write)
            need[ops[r->write - 1].stream] = r->write;
        for (int t = 0; t < y->streams && list[i].write; t++)
            if (need[t] < r->read[t])
                need[t] = r->read[t];
    }
    for (int t = 0; t < y->streams; t++) {
        bool needed = t != ops[index].stream && need[t] > me->clock[t] && need[t] > 0;
        for (int other = 0; other < y->streams && needed; other++) /* not needed if another wait implies it */
            needed = other == t || need[other] == 0 || other == ops[index].stream ||
                     y->after[need[other] - 1].clock[t] < need[t];
        if (!needed)
            continue;
        if ((status = add_wait(y, waits, index, WAIT_OP, need[t] - 1)) != ZERO_OK)
            return status;
        join(y, me, &y->after[need[t] - 1]);
    }
    return ZERO_OK;
}

/* Adds waits for what any program may have done before. */
static zero_status_t wait_across(sync_t *y, waits_t *waits, int32_t program, int32_t index, const access_t *list, int n)
{
    const zero_program_t *p = &y->b->plan->programs[program];
    int stream = p->ops[index].stream;
    known_t *me = &y->now[stream];
    zero_status_t status;

    for (int i = 0; i < n; i++) {
        const resource_t *r = &y->resources[list[i].resource];
        int mask = (r->writers | (list[i].write ? r->readers : 0)) & ~(1 << stream);
        int32_t group = group_of(y, list[i].resource) * y->streams;
        int missing = 0;
        for (int t = 0; t < y->streams; t++)
            if ((mask >> t & 1) && me->clock[t] == UNKNOWN && !knows_lasting(me, group + t))
                missing |= 1 << t;
        for (int t = 0; t < y->streams; t++) {
            /* A step updates the first units while a save still writes the last ones. */
            bool whole = t == ZERO_STREAM_REDUCE ||
                         (t != ZERO_STREAM_SAVE && (p->kind == ZERO_PROGRAM_STEP || p->kind == ZERO_PROGRAM_SAVE));
            bool needed = missing >> t & 1;
            for (int other = 0; other < y->streams && needed && !whole; other++)
                needed = other == t || !(missing >> other & 1) || !(y->implied[group + other] >> t & 1);
            if (!needed || (!whole && knows_lasting(me, group + t)))
                continue;
            if (whole) {
                if (me->clock[t] == UNKNOWN && (status = add_wait(y, waits, index, WAIT_START, t)) != ZERO_OK)
                    return status;
                me->clock[t] = me->clock[t] == UNKNOWN ? 0 : me->clock[t];
            } else {
                if ((status = add_wait(y, waits, index, WAIT_LASTING, group + t)) != ZERO_OK)
                    return status;
                y->lasting[group + t] = 0; /* an operation waits for it; numbered later */
                learn_lasting(y, me, group + t);
            }
        }
    }
    return ZERO_OK;
}

/* Walks a program. across: also adds waits for other programs; implied is then known. */
static zero_status_t walk(sync_t *y, int32_t program, bool across)
{
    const zero_program_t *p = &y->b->plan->programs[program];
    waits_t *waits = &y->waits[program];
    access_t list[MAX_ACCESSES];
    zero_status_t status;

    waits->count = 0;
    y->stamp++;
    memset(y->bits, 0, STREAMS * y->words * sizeof *y->bits);
    for (int s = 0; s < y->streams; s++)
        for (int t = 0; t < y->streams; t++)
            y->now[s].clock[t] = s == t ? 0 : UNKNOWN;
    for (int32_t i = 0; i < p->op_count; i++) {
        const zero_op_t *op = &p->ops[i];
        known_t *me = &y->now[op->stream];
        int n = accesses_of(y, op, list);
        if (op->kind != ZERO_OP_RELEASE && op->kind != ZERO_OP_TASK_END) { /* its USE or TASK has waited */
            for (int a = 0; a < n; a++) {
                resource_t *r = &y->resources[list[a].resource];
                if (r->stamp != y->stamp) {
                    r->stamp = y->stamp;
                    r->write = 0;
                    memset(r->read, 0, sizeof r->read);
                }
            }
            if ((status = wait_within(y, waits, program, i, list, n)) != ZERO_OK)
                return status;
            if (across && (status = wait_across(y, waits, program, i, list, n)) != ZERO_OK)
                return status;
        }
        if (n > 0)
            me->clock[op->stream] = i + 1;
        memcpy(y->after[i].clock, me->clock, sizeof me->clock);
        memcpy(y->after[i].lasting, me->lasting, y->words * sizeof *me->lasting);
        bool lasts = op->kind == ZERO_OP_USE || op->kind == ZERO_OP_TASK; /* until RELEASE or TASK_END */
        for (int a = 0; a < n && !lasts; a++) {
            resource_t *r = &y->resources[list[a].resource];
            if (list[a].write) {
                r->write = i + 1;
                memset(r->read, 0, sizeof r->read);
            } else {
                r->read[op->stream] = i + 1;
            }
        }
    }
    return ZERO_OK;
}

/* ---- what lasting events imply ---------------------------------------------------------------------------------- */

/* Sets y->last: the clock of each stream's last access to each group; 0: no access. */
static void find_last(sync_t *y, const zero_program_t *p)
{
    access_t list[MAX_ACCESSES];

    memset(y->last, 0, (size_t)y->group_count * y->streams * sizeof *y->last);
    for (int32_t i = 0; i < p->op_count; i++) {
        int n = accesses_of(y, &p->ops[i], list);
        for (int a = 0; a < n; a++)
            y->last[group_of(y, list[a].resource) * y->streams + p->ops[i].stream] = i + 1;
    }
}

/* A lasting event of stream t implies the accesses of stream o to the group if, in each program in which o accesses the
 * group, t accesses it too and its last access comes after o's. In the other programs, a later record of t implies the
 * earlier one anyway. */
static void restrict_implied(sync_t *y)
{
    for (int32_t g = 0; g < y->group_count * y->streams; g += y->streams)
        for (int o = 0; o < y->streams; o++)
            for (int t = 0; t < y->streams && y->last[g + o] > 0; t++)
                if (t != o && (y->last[g + t] == 0 || y->after[y->last[g + t] - 1].clock[o] < y->last[g + o]))
                    y->implied[g + t] &= (uint16_t) ~(1 << o);
}

/* ---- rewriting a program ---------------------------------------------------------------------------------------- */

/* Events that are waited for in the same program. An event is free again once its last wait has been issued. until: the
 * operation before which that wait is. */
typedef struct pool {
    int32_t *until, count, capacity;
} pool_t;

static zero_status_t take_event(sync_t *y, pool_t *pool, int32_t at, int32_t until, int32_t *event)
{
    int32_t k = 0;
    while (k < pool->count && pool->until[k] > at)
        k++;
    if (k == pool->capacity) {
        int32_t capacity = k > 0 ? 2 * k : 16;
        int32_t *grown = realloc(pool->until, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return zero_fail(y->b->error, ZERO_ERR_MEMORY, "no memory for a plan: %d events", capacity);
        pool->until = grown;
        pool->capacity = capacity;
    }
    if (k == pool->count)
        pool->count++;
    pool->until[k] = until;
    *event = k;
    return ZERO_OK;
}

static void put_sync(zero_op_t *out, int32_t *n, zero_op_kind_t kind, const zero_op_t *of, int stream, int32_t event)
{
    out[(*n)++] = (zero_op_t){.kind = (uint8_t)kind,
                              .stream = (uint8_t)stream,
                              .unit = of->unit,
                              .segment = of->segment,
                              .part = -1,
                              .use = of->use,
                              .event = event,
                              .src = -1,
                              .dst = -1,
                              .program = of->program};
}

/* By operation, after one row per stream for its start: the operation before which the last wait for its event is, or
 * -1; its event; the first of the lasting events that it records, or -1. */
typedef struct records {
    int32_t *until, *event, *first_key;
} records_t;

/* Finds what each operation of a program records. Returns the number of lasting events. */
static int32_t find_records(sync_t *y, const zero_program_t *p, const waits_t *waits, records_t *r)
{
    int32_t tails = 0;
    find_last(y, p);
    for (int32_t i = 0; i < p->op_count + STREAMS; i++)
        r->until[i] = r->first_key[i] = -1;
    for (int32_t key = y->group_count * y->streams - 1; key >= 0; key--)
        if (y->lasting[key] >= 0 && y->last[key] > 0) {
            int32_t row = y->last[key] - 1 + STREAMS;
            y->next[key] = r->first_key[row];
            r->first_key[row] = key;
            tails++;
        }
    for (int32_t w = 0; w < waits->count; w++)
        if (waits->list[w].kind != WAIT_LASTING)
            r->until[waits->list[w].ref + (waits->list[w].kind == WAIT_OP ? STREAMS : 0)] = waits->list[w].before;
    return tails;
}

static zero_status_t rewrite(sync_t *y, int32_t program, int32_t lasting_count, pool_t *pool)
{
    zero_program_t *p = &y->b->plan->programs[program];
    const waits_t *waits = &y->waits[program];
    int32_t n = 0, next_wait = 0;
    records_t r = {0};
    zero_op_t *out = NULL;
    zero_status_t status;

    size_t rows = (size_t)p->op_count + STREAMS;
    if ((status = zero_build_alloc(y->b, &r.until, rows, sizeof *r.until)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &r.event, rows, sizeof *r.event)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &r.first_key, rows, sizeof *r.first_key)) != ZERO_OK)
        goto done;
    int32_t tails = find_records(y, p, waits, &r);
    if ((status = zero_build_alloc(y->b, &out, (size_t)p->op_count + 2 * (size_t)waits->count + (size_t)tails,
                                   sizeof *out)) != ZERO_OK)
        goto done;
    for (int32_t k = 0; k < pool->count; k++)
        pool->until[k] = -1;

    const zero_op_t none = {.unit = -1, .segment = -1, .part = -1, .use = -1, .program = program};
    for (int32_t i = 0; i < p->op_count; i++) {
        zero_op_t op = p->ops[i];
        bool starts = i == (p->ops[0].kind == ZERO_OP_HOST_WAIT); /* the host's wait comes first */
        for (int t = 0; t < y->streams && starts; t++) {
            if (r.until[t] < 0)
                continue;
            if ((status = take_event(y, pool, -1, r.until[t], &r.event[t])) != ZERO_OK)
                goto done;
            r.event[t] += lasting_count;
            put_sync(out, &n, ZERO_OP_RECORD, &none, t, r.event[t]);
        }
        for (; next_wait < waits->count && waits->list[next_wait].before == i; next_wait++) {
            const wait_t *w = &waits->list[next_wait];
            int32_t e =
                w->kind == WAIT_LASTING ? y->lasting[w->ref] : r.event[w->ref + (w->kind == WAIT_OP ? STREAMS : 0)];
            put_sync(out, &n, ZERO_OP_WAIT, &op, op.stream, e);
        }
        if (op.kind == ZERO_OP_HOST_WAIT)
            op.event = y->lasting[group_of(y, resource_of(y, y->b->plan->scalars)) * y->streams + ZERO_STREAM_REDUCE];
        out[n++] = op;
        int32_t row = i + STREAMS;
        for (int32_t key = r.first_key[row]; key >= 0; key = y->next[key])
            put_sync(out, &n, ZERO_OP_RECORD, &op, op.stream, r.event[row] = y->lasting[key]);
        if (r.until[row] >= 0 && r.first_key[row] < 0) {
            if ((status = take_event(y, pool, i, r.until[row], &r.event[row])) != ZERO_OK)
                goto done;
            r.event[row] += lasting_count;
            put_sync(out, &n, ZERO_OP_RECORD, &op, op.stream, r.event[row]);
        }
    }
    free(p->ops);
    p->ops = out;
    p->op_count = n;
    out = NULL;
done:
    free(r.until);
    free(r.event);
    free(r.first_key);
    free(out);
    return status;
}

/* ---- all programs ----------------------------------------------------------------------------------------------- */

static zero_status_t prepare(sync_t *y)
{
    const zero_builder_t *b = y->b;
    const zero_plan_t *plan = b->plan;
    int32_t longest = 1;
    access_t list[MAX_ACCESSES];
    zero_status_t status;

    y->streams = b->spec->chunk_count > 0 ? STREAMS : ZERO_STREAM_FROM_PREV;
    y->unit_base = b->slot_count;
    y->part_base = y->unit_base + b->spec->unit_count * ZERO_SEGMENT_ROLES;
    y->other_base = y->part_base + plan->part_count;
    y->resource_count = y->other_base + OTHERS;
    y->group_count = y->unit_base + b->spec->unit_count + OTHERS;
    size_t keys = (size_t)y->group_count * y->streams;
    y->words = (keys + 63) / 64;
    for (int32_t i = 0; i < plan->program_count; i++)
        if (plan->programs[i].op_count > longest)
            longest = plan->programs[i].op_count;
    if ((status = zero_build_alloc(y->b, &y->resources, (size_t)y->resource_count, sizeof *y->resources)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->implied, keys, sizeof *y->implied)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->lasting, keys, sizeof *y->lasting)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->last, keys, sizeof *y->last)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->next, keys, sizeof *y->next)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->bits, ((size_t)longest + STREAMS) * y->words, sizeof *y->bits)) !=
            ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->after, (size_t)longest, sizeof *y->after)) != ZERO_OK ||
        (status = zero_build_alloc(y->b, &y->waits, (size_t)plan->program_count, sizeof *y->waits)) != ZERO_OK)
        return status;
    for (size_t k = 0; k < keys; k++) {
        y->implied[k] = (uint16_t)((1 << y->streams) - 1);
        y->lasting[k] = -1;
    }
    for (int s = 0; s < y->streams; s++)
        y->now[s].lasting = y->bits + (size_t)s * y->words;
    for (int32_t i = 0; i < longest; i++)
        y->after[i].lasting = y->bits + ((size_t)i + STREAMS) * y->words;
    for (int32_t i = 0; i < plan->program_count; i++)
        for (int32_t o = 0; o < plan->programs[i].op_count; o++) {
            const zero_op_t *op = &plan->programs[i].ops[o];
            int n = accesses_of(y, op, list);
            for (int a = 0; a < n; a++)
                *(list[a].write ? &y->resources[list[a].resource].writers : &y->resources[list[a].resource].readers) |=
                    (uint16_t)(1 << op->stream);
        }
    return ZERO_OK;
}

zero_status_t zero_build_sync(zero_builder_t *b)
{
    zero_plan_t *plan = b->plan;
    sync_t y = {.b = b};
    pool_t pool = {0};
    int32_t lasting_count = 0;
    zero_status_t status = prepare(&y);

    for (int32_t i = 0; i < plan->program_count && status == ZERO_OK; i++) {
        if ((status = walk(&y, i, false)) != ZERO_OK)
            break;
        find_last(&y, &plan->programs[i]);
        restrict_implied(&y);
    }
    for (int32_t i = 0; i < plan->program_count && status == ZERO_OK; i++)
        status = walk(&y, i, true);
    if (status != ZERO_OK)
        goto done;
    /* The host rewrites the rate before each exchange, so it waits for the last one. */
    y.lasting[group_of(&y, resource_of(&y, plan->scalars)) * y.streams + ZERO_STREAM_REDUCE] = 0;
    for (int32_t k = 0; k < y.group_count * y.streams; k++)
        if (y.lasting[k] >= 0)
            y.lasting[k] = lasting_count++;
    for (int32_t i = 0; i < plan->program_count && status == ZERO_OK; i++)
        status = rewrite(&y, i, lasting_count, &pool);
    plan->lasting_event_count = lasting_count;
    plan->event_count = lasting_count + pool.count;
done:
    for (int32_t i = 0; i < plan->program_count && y.waits != NULL; i++)
        free(y.waits[i].list);
    free(pool.until);
    free(y.waits);
    free(y.after);
    free(y.bits);
    free(y.next);
    free(y.last);
    free(y.lasting);
    free(y.implied);
    free(y.resources);
    return status;
}
