/* SPDX-License-Identifier: Apache-2.0 */
/* interpret.c - see interpret.h. */
#include "tests/interpret.h"

#include <stdlib.h>

#define CELL 64   /* bytes: buffers and slices are aligned to it, and blocks of codes have more */
#define BLOCK 128 /* elements that share one value, which all cells of the block hold; of codes, the first cell */
#define STREAMS ZERO_STREAM_COUNT
#define LOCAL ZERO_STREAM_FROM_PREV /* the streams before the links, which these plans do not have */
#define SPREAD 1681                 /* stride of fixed schedules through the 40320 permutations of eight streams */
_Static_assert(LOCAL == 8, "SPREAD covers all of their permutations");

typedef struct instance {
    const zero_op_t *op;
    int32_t place;  /* index of its program in the sequence */
    int32_t micro;  /* micro-steps that began before it */
    int32_t awaits; /* instance of the RECORD that a WAIT or HOST_WAIT waits for, -1: none */
} instance_t;

typedef struct rank {
    uint64_t *cells, *norms;
    uint64_t rate;
    int32_t issued;        /* instances that the host has issued */
    int32_t head[STREAMS]; /* position in the stream's queue */
    bool begun[STREAMS];   /* the operation at the head has begun to write */
    bool *done;            /* by instance: RECORDs that are done */
    uint64_t *read;        /* by instance: digest of the values that a USE, RELEASE or SAVE read */
} rank_t;

typedef struct machine {
    const zero_plan_t *plan;
    int world;
    instance_t *list;
    int32_t count;
    int32_t *queue[STREAMS], length[STREAMS];
    rank_t *ranks;
} machine_t;

static uint64_t mix(uint64_t a, uint64_t b)
{
    return zero_splitmix64(a ^ zero_splitmix64(b));
}

/* ---- sequences -------------------------------------------------------------------------------------------------- */

static void add_kind(const zero_plan_t *plan, interpret_sequence_t *q, zero_program_kind_t kind, uint64_t *state)
{
    for (int32_t i = 0; i < plan->program_count; i++)
        if (plan->programs[i].kind == kind && (state == NULL || zero_splitmix64((*state)++) % 3 == 0))
            q->programs[q->count++] = i;
}

void interpret_sequence(const zero_plan_t *plan, uint64_t seed, interpret_sequence_t *q)
{
    static const zero_program_kind_t several[] = {ZERO_PROGRAM_FIRST, ZERO_PROGRAM_MIDDLE, ZERO_PROGRAM_LAST,
                                                  ZERO_PROGRAM_STEP,  ZERO_PROGRAM_FIRST,  ZERO_PROGRAM_LAST,
                                                  ZERO_PROGRAM_STEP,  ZERO_PROGRAM_ONLY,   ZERO_PROGRAM_STEP};
    static const zero_program_kind_t one[] = {ZERO_PROGRAM_ONLY, ZERO_PROGRAM_STEP, ZERO_PROGRAM_ONLY,
                                              ZERO_PROGRAM_STEP};
    bool micro_steps = plan->spec->micro_steps > 1, between = true; /* steps */
    size_t count = micro_steps ? sizeof several / sizeof *several : sizeof one / sizeof *one;
    uint64_t state = zero_splitmix64(seed), *random = seed != 0 ? &state : NULL;

    q->count = 0;
    for (size_t i = 0; i < count; i++) {
        if (random != NULL || i == 0) {
            bool swap = random != NULL && zero_splitmix64(state++) % 2;
            add_kind(plan, q, swap ? ZERO_PROGRAM_ANY : ZERO_PROGRAM_EVAL, random);
            add_kind(plan, q, swap ? ZERO_PROGRAM_EVAL : ZERO_PROGRAM_ANY, random);
        }
        zero_program_kind_t kind = micro_steps ? several[i] : one[i];
        if (between)
            add_kind(plan, q, ZERO_PROGRAM_SAVE, NULL);
        add_kind(plan, q, kind, NULL);
        between = kind == ZERO_PROGRAM_STEP;
    }
    add_kind(plan, q, ZERO_PROGRAM_ANY, NULL);
    add_kind(plan, q, ZERO_PROGRAM_EVAL, NULL);
}

/* ---- contents --------------------------------------------------------------------------------------------------- */

/* All tiers of a rank, one after the other. */
static size_t cells_of(const zero_plan_t *plan)
{
    size_t bytes = 0;
    for (int t = 0; t < ZERO_TIER_COUNT; t++)
        bytes += plan->arena_bytes[t];
    return bytes / CELL;
}

static size_t scalars_at(const machine_t *m)
{
    return zero_plan_place(m->plan, &m->plan->buffers[m->plan->scalars]) / CELL;
}

/* Blocks [begin, begin + count) of an operand's segment, on one rank. */
typedef struct span {
    uint64_t *cells;    /* of the rank */
    uint64_t at, bytes; /* where the first block begins, and those of a block */
    int64_t count, first;
    int per_block;
} span_t;

static span_t span_of(const machine_t *m, int rank, int32_t buffer, zero_extent_t own, int32_t part)
{
    const zero_buffer_t *x = &m->plan->buffers[buffer];
    bool coded = x->format.codec != ZERO_CODEC_NONE;
    uint64_t bytes = zero_format_bytes(&x->format, BLOCK);
    zero_span_t at = zero_plan_span(m->plan, rank, buffer, own, part);
    return (span_t){.cells = m->ranks[rank].cells,
                    .at = zero_plan_place(m->plan, x) + at.offset,
                    .bytes = bytes,
                    .count = at.count / BLOCK,
                    .first = at.begin / BLOCK,
                    .per_block = coded ? 1 : (int)(bytes / CELL)};
}

/* The first cell of a block. Blocks of codes begin anywhere. */
static uint64_t *cell_of(const span_t *s, int64_t block)
{
    return s->cells + (s->at + (uint64_t)block * s->bytes) / CELL;
}

static uint64_t get(const span_t *s, int64_t block)
{
    const uint64_t *cell = cell_of(s, block);
    uint64_t value = cell[0];
    for (int i = 1; i < s->per_block; i++)
        if (cell[i] != value)
            value = mix(value, cell[i] + (uint64_t)i); /* torn: only partly written */
    return value;
}

static void put(const span_t *s, int64_t block, uint64_t value)
{
    uint64_t *cell = cell_of(s, block);
    for (int i = 0; i < s->per_block; i++)
        cell[i] = value;
}

static uint64_t first_value(int32_t segment, int64_t block)
{
    return mix((uint64_t)segment + 1, (uint64_t)block) >> 8;
}

static void fill_at_start(machine_t *m, int rank, int32_t buffer, bool zero)
{
    if (buffer < 0)
        return;
    span_t s = span_of(m, rank, buffer, ZERO_EXTENT_WHOLE, -1);
    for (int64_t b = 0; b < s.count; b++)
        put(&s, b, zero ? 0 : first_value(m->plan->buffers[buffer].segment, s.first + b));
}

static void start_contents(machine_t *m, uint64_t schedule)
{
    const zero_plan_t *plan = m->plan;
    size_t cells = cells_of(plan);
    for (int r = 0; r < m->world; r++) {
        for (size_t i = 0; i < cells; i++)
            m->ranks[r].cells[i] = (schedule + 1) * 0x9e3779b97f4a7c15u + i * 0xd1342543de82ef95u + (uint64_t)r;
        for (int32_t s = 0; s < plan->segment_count; s++) {
            const int32_t *buffer = plan->segments[s].buffer;
            m->ranks[r].norms[s] = mix(schedule, (uint64_t)s);
            fill_at_start(m, r, buffer[buffer[ZERO_ROLE_PARAM_SHARD] >= 0 ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM],
                          false);
        }
        for (int32_t p = 0; p < plan->part_count; p++) {
            const zero_part_t *part = &plan->parts[p];
            if (plan->buffers[part->master].part >= 0)
                fill_at_start(m, r, part->master, false);
            for (int i = 0; i < zero_plan_state(plan, part->segment)->count; i++)
                fill_at_start(m, r, part->state[i], true);
        }
    }
}

/* ---- operations ------------------------------------------------------------------------------------------------- */

/* Half of the caller's work: reads all parameters of the unit, and adds to the gradients values that depend on them. */
static void use(machine_t *m, int rank, int32_t index, int half)
{
    const instance_t *x = &m->list[index];
    const zero_op_t *op = x->op;
    uint64_t digest = 0;

    for (int32_t s = 0; s < m->plan->segment_count; s++) {
        const zero_segment_t *segment = &m->plan->segments[s];
        if (segment->unit != op->unit)
            continue;
        span_t param = span_of(m, rank, segment->buffer[ZERO_ROLE_PARAM], ZERO_EXTENT_WHOLE, -1);
        bool grad = (op->flags & ZERO_GRAD) && segment->trainable, same = segment->spread == ZERO_SPREAD_SAME;
        int source = rank - (same ? rank % m->plan->spec->mesh.tensor : 0); /* of the gradients */
        uint64_t salt = mix((uint64_t)op->use * 2 + (uint64_t)half, (uint64_t)x->micro * 64 + (uint64_t)source);
        span_t g = grad ? span_of(m, rank, segment->buffer[ZERO_ROLE_GRAD], ZERO_EXTENT_WHOLE, -1) : param;
        for (int64_t b = 0; b < segment->elements / BLOCK; b++) {
            uint64_t value = op->flags & ZERO_READ ? get(&param, b) : 0;
            digest += mix(value, (uint64_t)(s * 4096 + b));
            if (grad)
                put(&g, b, get(&g, b) + mix(value + salt, (uint64_t)b) % 1000003);
        }
    }
    m->ranks[rank].read[index] = digest;
}

/* Which of a segment's states a buffer is, whatever its role is called. */
static int saved_state(const zero_plan_t *plan, int32_t buffer)
{
    const zero_buffer_t *x = &plan->buffers[buffer];
    return x->role == ZERO_ROLE_MASTER ? 1 : x->role == ZERO_ROLE_STATE ? 2 + x->state : 0;
}

static void save(machine_t *m, int rank, int32_t index)
{
    const zero_op_t *op = m->list[index].op;
    span_t src = span_of(m, rank, op->src, op->src_own, op->part);
    int64_t place = (op->segment * 4 + saved_state(m->plan, op->src)) * 4096;
    for (int64_t b = 0; b < src.count; b++)
        m->ranks[rank].read[index] += mix(get(&src, b), (uint64_t)(place + src.first + b));
}

static void move(machine_t *m, int rank, const zero_op_t *op)
{
    span_t src = op->src >= 0 ? span_of(m, rank, op->src, op->src_own, op->part) : (span_t){0},
           dst = span_of(m, rank, op->dst, op->dst_own, op->part);
    for (int64_t b = 0; b < dst.count; b++)
        put(&dst, b,
            op->kind == ZERO_OP_FILL         ? 0
            : op->kind == ZERO_OP_ACCUMULATE ? get(&dst, b) + get(&src, b)
                                             : get(&src, b));
}

/* SUM: of as many shares as src has. */
static void sum_shares(machine_t *m, int rank, const zero_op_t *op)
{
    span_t src = span_of(m, rank, op->src, op->src_own, -1), dst = span_of(m, rank, op->dst, op->dst_own, -1);
    for (int64_t b = 0; b < dst.count; b++) {
        uint64_t sum = 0;
        for (int64_t s = b; s < src.count; s += dst.count)
            sum += get(&src, s);
        put(&dst, b, sum);
    }
}

static void norm(machine_t *m, int rank, const zero_op_t *op)
{
    span_t src = span_of(m, rank, op->src, op->src_own, op->part);
    uint64_t sum = 0;
    for (int64_t b = 0; b < src.count; b++)
        sum += mix(get(&src, b), (uint64_t)(src.first + b));
    m->ranks[rank].norms[op->segment] = sum + (op->flags & ZERO_NORM_CONTINUES ? m->ranks[rank].norms[op->segment] : 0);
}

/* UPDATE and APPLY. An UPDATE that gives a direction leaves it at dst and moves no parameter. */
static void update(machine_t *m, int rank, const zero_op_t *op)
{
    const zero_part_t *part = &m->plan->parts[op->part];
    bool directs = op->kind == ZERO_OP_UPDATE && m->plan->segments[op->segment].whole;
    span_t grad = span_of(m, rank, op->src, op->src_own, op->part),
           param = span_of(m, rank, op->dst, op->dst_own, op->part);
    span_t kept[1 + ZERO_MAX_STATES];
    int first, end = zero_plan_works_on(m->plan, op, &first);
    for (int i = first; i < end; i++)
        kept[i] = span_of(m, rank, zero_part_memory(part, i), ZERO_EXTENT_WHOLE, op->part);
    uint64_t scalars = m->ranks[rank].cells[scalars_at(m)];
    for (int64_t b = 0; b < grad.count; b++) {
        uint64_t g = get(&grad, b) * 3 + scalars;
        uint64_t change = g;
        for (int i = 1; i < end; i++) {
            put(&kept[i], b, get(&kept[i], b) * (uint64_t)(3 + 2 * i) + g * (i > 1 ? g : 1));
            change += get(&kept[i], b);
        }
        if (!directs)
            put(&kept[0], b, get(&kept[0], b) + change);
        put(&param, b, directs ? change : get(&kept[0], b));
    }
}

/* Each block of a matrix becomes a value that depends on all of its blocks, on the matrix's owner. */
static void make_whole(machine_t *m, int rank, const zero_op_t *op)
{
    span_t all = span_of(m, rank, op->dst, ZERO_EXTENT_WHOLE, -1);
    for (int32_t p = 0; p < m->plan->spec->param_count; p++) {
        const zero_placed_t *at = &m->plan->placed[p];
        int64_t begin = at->offset / BLOCK, end = (at->offset + m->plan->spec->params[p].count + BLOCK - 1) / BLOCK;
        if (at->segment != op->segment)
            continue;
        uint64_t sum = m->ranks[rank].cells[scalars_at(m)];
        for (int64_t b = begin; b < end; b++)
            sum += mix(get(&all, b), (uint64_t)b);
        for (int64_t b = begin; b < end; b++)
            put(&all, b, zero_plan_rank(m->plan, op->segment, at->owner) == rank ? mix(sum, (uint64_t)b) : 0);
    }
}

/* The first rank of the group that a rank is in. The mesh is rank = (replica * shards + shard) * tensor + place. */
static int first_of_group(const machine_t *m, int group, int rank)
{
    int tensor = m->plan->spec->mesh.tensor, shards = m->world / m->plan->spec->mesh.replicas / tensor,
        place = rank % tensor, shard = rank / tensor % shards, replica = rank / tensor / shards;
    uint8_t axes = m->plan->spec->groups[group].axes;
    if (group == 0)
        return 0;
    if (axes & ZERO_ALONG_TENSOR)
        place = 0;
    if (axes & ZERO_ALONG_REPLICA)
        replica = 0;
    if (axes & ZERO_ALONG_SHARD)
        shard = 0;
    if (axes & ZERO_ALONG_NODE)
        shard -= shard % m->plan->spec->mesh.node;
    return (replica * shards + shard) * tensor + place;
}

/* A collective of the group that begins with a rank. As in a communicator, a rank's number in the group alone says what
 * it sends and gets: the i-th has the i-th range of the larger operand; in an all-to-all it sends the j-th range to the
 * j-th, and gets one from each. */
static void exchange_data(machine_t *m, const zero_op_t *op, int begin)
{
    bool gathers = op->kind == ZERO_OP_GATHER || op->kind == ZERO_OP_COLLECT, trades = op->kind == ZERO_OP_ALL_TO_ALL;
    int64_t count = op->count / BLOCK, size = m->plan->spec->groups[op->group].size, all = count * size;
    uint64_t *values = calloc((size_t)(all * (trades ? size : 1)), sizeof *values);
    if (values == NULL)
        abort();
    for (int r = begin, i = 0; r < m->world; r++) {
        if (first_of_group(m, op->group, r) != begin)
            continue;
        span_t src = span_of(m, r, op->src, op->src_own, -1);
        for (int64_t b = 0; b < (gathers ? count : all); b++)
            values[gathers ? i * count + b : trades ? i * all + b : b] += get(&src, b);
        i++;
    }
    for (int r = begin, i = 0; r < m->world; r++) {
        if (first_of_group(m, op->group, r) != begin)
            continue;
        span_t dst = span_of(m, r, op->dst, op->dst_own, -1);
        for (int64_t b = 0; b < (gathers || trades ? all : count); b++)
            put(&dst, b, values[gathers ? b : trades ? b / count * all + i * count + b % count : i * count + b]);
        i++;
    }
    free(values);
}

/* All data movement of a collective happens at once. first: the first rank of its group. */
static void collective(machine_t *m, const zero_op_t *op, int first)
{
    if (op->kind == ZERO_OP_EXCHANGE) {
        uint64_t sum = 0;
        for (int r = 0; r < m->world; r++)
            for (int32_t s = 0; s < m->plan->segment_count; s++)
                if (m->plan->segments[s].trainable &&
                    (m->plan->segments[s].spread != ZERO_SPREAD_SAME || r % m->plan->spec->mesh.tensor == 0))
                    sum += m->ranks[r].norms[s] * (uint64_t)(2 * s + 1);
        for (int r = 0; r < m->world; r++)
            m->ranks[r].cells[scalars_at(m)] = mix(sum, m->ranks[r].rate);
        return;
    }
    exchange_data(m, op, first);
}

static bool is_collective(const zero_op_t *op)
{
    return zero_op_collects(op) || op->kind == ZERO_OP_EXCHANGE;
}

/* From its begin to its end, the destination of an operation holds garbage. Blocks that are also its source stay. */
static void begin_writing(machine_t *m, int rank, const zero_op_t *op, uint64_t schedule)
{
    bool writes = zero_op_collects(op) || op->kind == ZERO_OP_COPY || op->kind == ZERO_OP_CAST ||
                  op->kind == ZERO_OP_SUM || op->kind == ZERO_OP_FILL || op->kind == ZERO_OP_READ ||
                  op->kind == ZERO_OP_WRITE;
    if (!writes || (op->src == op->dst && (op->kind == ZERO_OP_REDUCE_SCATTER || op->kind == ZERO_OP_SPREAD)))
        return;
    span_t dst = span_of(m, rank, op->dst, op->dst_own, op->part);
    span_t own = span_of(m, rank, op->dst, zero_op_collects(op) ? op->src_own : ZERO_EXTENT_SLICE, op->part);
    for (int64_t b = 0; b < dst.count; b++)
        if (op->src != op->dst || dst.first + b < own.first || dst.first + b >= own.first + own.count)
            put(&dst, b, mix(schedule + 77, (uint64_t)b));
}

static void execute(machine_t *m, int rank, int32_t index)
{
    const zero_op_t *op = m->list[index].op;
    switch ((zero_op_kind_t)op->kind) {
    case ZERO_OP_RECORD:
        m->ranks[rank].done[index] = true;
        break;
    case ZERO_OP_USE:
        use(m, rank, index, 0);
        break;
    case ZERO_OP_RELEASE:
        use(m, rank, index, 1);
        break;
    case ZERO_OP_COPY:
    case ZERO_OP_READ:
    case ZERO_OP_WRITE:
    case ZERO_OP_CAST:
    case ZERO_OP_FILL:
    case ZERO_OP_ACCUMULATE:
        move(m, rank, op);
        break;
    case ZERO_OP_SUM:
        sum_shares(m, rank, op);
        break;
    case ZERO_OP_NORM:
        norm(m, rank, op);
        break;
    case ZERO_OP_UPDATE:
    case ZERO_OP_APPLY:
        update(m, rank, op);
        break;
    case ZERO_OP_WHOLE:
        make_whole(m, rank, op);
        break;
    case ZERO_OP_SAVE:
        save(m, rank, index);
        break;
    default:
        break;
    }
}

/* ---- orders ----------------------------------------------------------------------------------------------------- */

/* The host issues operations until an event makes it wait. It writes the rate after each HOST_WAIT. */
static void issue(machine_t *m, int rank)
{
    rank_t *r = &m->ranks[rank];
    while (r->issued < m->count) {
        const instance_t *x = &m->list[r->issued];
        if (x->op->kind == ZERO_OP_HOST_WAIT) {
            if (x->awaits >= 0 && !r->done[x->awaits])
                return;
            r->rate = (uint64_t)x->place + 1;
        }
        r->issued++;
    }
}

/* The instance at the head of a stream, or -1. */
static int32_t head_of(const machine_t *m, int rank, int stream)
{
    const rank_t *r = &m->ranks[rank];
    if (r->head[stream] == m->length[stream])
        return -1;
    int32_t index = m->queue[stream][r->head[stream]];
    return index < r->issued ? index : -1;
}

static bool can_run(const machine_t *m, int rank, int stream)
{
    int32_t index = head_of(m, rank, stream);
    if (index < 0)
        return false;
    const instance_t *x = &m->list[index];
    if (x->op->kind == ZERO_OP_WAIT)
        return x->awaits < 0 || m->ranks[rank].done[x->awaits];
    if (!m->ranks[rank].begun[stream])
        return true;
    for (int other = 0; is_collective(x->op) && other < m->world; other++)
        if (first_of_group(m, x->op->group, other) == first_of_group(m, x->op->group, rank) &&
            (head_of(m, other, stream) != index || !m->ranks[other].begun[stream]))
            return false;
    return true;
}

/* Begins the operation at the head of a stream, or ends it. */
static void advance(machine_t *m, int rank, int stream, uint64_t schedule)
{
    int32_t index = head_of(m, rank, stream);
    const zero_op_t *op = m->list[index].op;
    bool together = is_collective(op);
    int first = together ? first_of_group(m, op->group, rank) : rank;
    if (!m->ranks[rank].begun[stream]) {
        begin_writing(m, rank, op, schedule);
        m->ranks[rank].begun[stream] = true;
        return;
    }
    if (together)
        collective(m, op, first);
    else
        execute(m, rank, index);
    for (int r = first; r < (together ? m->world : rank + 1); r++) {
        if (together && first_of_group(m, op->group, r) != first)
            continue;
        m->ranks[r].head[stream]++;
        m->ranks[r].begun[stream] = false;
    }
}

/* Priorities of (rank, stream); a permutation of the streams for fixed schedules. The first stream runs whenever it
 * can, the last only when no other can. */
static void set_priorities(const machine_t *m, uint64_t schedule, uint64_t *state, int *priority)
{
    int order[STREAMS];
    uint64_t code = schedule < INTERPRET_FIXED ? schedule * SPREAD : zero_splitmix64((*state)++);
    for (int i = 0; i < STREAMS; i++)
        order[i] = i;
    for (int i = LOCAL; i > 1; i--) {
        int j = (int)(code % (uint64_t)i), swap = order[i - 1];
        code /= (uint64_t)i;
        order[i - 1] = order[j];
        order[j] = swap;
    }
    bool ranks_differ = schedule >= INTERPRET_FIXED && zero_splitmix64((*state)++) % 2;
    uint64_t turn = zero_splitmix64((*state)++);
    for (int r = 0; r < m->world; r++)
        for (int s = 0; s < STREAMS; s++)
            priority[r * STREAMS + s] = order[s] * 16 + (ranks_differ ? (int)((turn >> (8 * (r % 8))) % 64) : 0);
}

static interpret_outcome_t run(machine_t *m, uint64_t schedule)
{
    uint64_t state = zero_splitmix64(schedule);
    int *priority = calloc((size_t)m->world * STREAMS, sizeof *priority);
    int64_t until = 0, moves = 0;
    interpret_outcome_t outcome = INTERPRET_DONE;

    if (priority == NULL)
        abort();
    for (;; moves++) {
        if (moves == until) { /* random schedules change priorities now and then */
            set_priorities(m, schedule, &state, priority);
            until = schedule < INTERPRET_FIXED ? -1 : moves + 1 + (int64_t)(zero_splitmix64(state++) % 60);
        }
        int best = -1;
        bool busy = false;
        for (int r = 0; r < m->world; r++) {
            issue(m, r);
            busy = busy || m->ranks[r].issued < m->count;
            for (int s = 0; s < STREAMS; s++) {
                busy = busy || m->ranks[r].head[s] < m->length[s];
                if (can_run(m, r, s) && (best < 0 || priority[r * STREAMS + s] < priority[best]))
                    best = r * STREAMS + s;
            }
        }
        if (best < 0) {
            outcome = busy ? INTERPRET_DEADLOCK : INTERPRET_DONE;
            break;
        }
        advance(m, best / STREAMS, best % STREAMS, schedule);
    }
    free(priority);
    return outcome;
}

static uint64_t digest(const machine_t *m)
{
    uint64_t sum = 0;
    for (int r = 0; r < m->world; r++) {
        int32_t number = 0; /* number of the use, so that plans of the same model can be compared */
        for (int32_t i = 0; i < m->count; i++)
            if (m->list[i].op->kind == ZERO_OP_SAVE) /* of whichever rank, in whichever order */
                sum += m->ranks[r].read[i] * (uint64_t)(2 * m->list[i].micro + 1);
        for (int32_t i = 0; i < m->count; i++)
            if (m->list[i].op->kind == ZERO_OP_USE || m->list[i].op->kind == ZERO_OP_RELEASE)
                sum += mix(m->ranks[r].read[i], (uint64_t)number++ * 64 + (uint64_t)r);
        for (int32_t s = 0; s < m->plan->segment_count; s++) {
            const int32_t *buffer = m->plan->segments[s].buffer;
            bool sharded = buffer[ZERO_ROLE_PARAM_SHARD] >= 0;
            span_t param =
                span_of(m, r, buffer[sharded ? ZERO_ROLE_PARAM_SHARD : ZERO_ROLE_PARAM], ZERO_EXTENT_SLICE, -1);
            for (int64_t b = 0; b < param.count; b++)
                sum += mix(get(&param, b), (uint64_t)(s * 4096 + param.first + b));
        }
    }
    return sum;
}

/* ---- the machine ------------------------------------------------------------------------------------------------ */

static void *need(size_t n, size_t size)
{
    void *p = calloc(n + 1, size);
    if (p == NULL)
        abort(); /* without a few megabytes the test cannot run */
    return p;
}

/* Unrolls the sequence. The RECORD that each WAIT waits for depends only on the order of issue. */
static void unroll(machine_t *m, const interpret_sequence_t *q)
{
    const zero_plan_t *plan = m->plan;
    int32_t total = 0, micro = 0, *latest = need((size_t)plan->event_count, sizeof *latest);

    for (int i = 0; i < q->count; i++)
        total += plan->programs[q->programs[i]].op_count;
    m->list = need((size_t)total, sizeof *m->list);
    for (int s = 0; s < STREAMS; s++)
        m->queue[s] = need((size_t)total, sizeof **m->queue);
    for (int32_t e = 0; e < plan->event_count; e++)
        latest[e] = -1;
    for (int i = 0; i < q->count; i++) {
        const zero_program_t *p = &plan->programs[q->programs[i]];
        for (int32_t o = 0; o < p->op_count; o++) {
            const zero_op_t *op = &p->ops[o];
            int32_t index = m->count++;
            bool waits = op->kind == ZERO_OP_WAIT || op->kind == ZERO_OP_HOST_WAIT;
            m->list[index] = (instance_t){op, i, micro, waits ? latest[op->event] : -1};
            if (op->kind == ZERO_OP_RECORD)
                latest[op->event] = index;
            if (op->kind != ZERO_OP_HOST_WAIT)
                m->queue[op->stream][m->length[op->stream]++] = index;
        }
        micro += p->kind >= ZERO_PROGRAM_FIRST && p->kind <= ZERO_PROGRAM_ONLY;
    }
    free(latest);
}

interpret_outcome_t interpret_run(const zero_plan_t *plan, const interpret_sequence_t *sequence, uint64_t schedule,
                                  uint64_t *result)
{
    machine_t m = {.plan = plan, .world = plan->spec->world};

    unroll(&m, sequence);
    m.ranks = need((size_t)m.world, sizeof *m.ranks);
    for (int r = 0; r < m.world; r++) {
        m.ranks[r].cells = need(cells_of(plan), sizeof(uint64_t));
        m.ranks[r].norms = need((size_t)plan->segment_count, sizeof(uint64_t));
        m.ranks[r].done = need((size_t)m.count, sizeof(bool));
        m.ranks[r].read = need((size_t)m.count, sizeof(uint64_t));
    }
    start_contents(&m, schedule);
    interpret_outcome_t outcome = run(&m, schedule);
    *result = digest(&m);
    for (int r = 0; r < m.world; r++) {
        free(m.ranks[r].cells);
        free(m.ranks[r].norms);
        free(m.ranks[r].done);
        free(m.ranks[r].read);
    }
    for (int s = 0; s < STREAMS; s++)
        free(m.queue[s]);
    free(m.list);
    free(m.ranks);
    return outcome;
}
