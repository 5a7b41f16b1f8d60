/* SPDX-License-Identifier: Apache-2.0 */
/* nn_cuda.c - see nn_common.h. Tests the CUDA backend through a table whose functions copy operands to the device, call
 * CUDA's functions, and copy the operands back. Operands and the workspace lie between guard bytes. */
#include "tests/emulated.h"
#include "tests/nn_common.h"
#include "zero/device/device.h"

/* The alignment of operands, and the emulator's mode, if the GPU is emulated. threads: work runs later than the
 * call. */
typedef struct level {
    const char *name;
    bool odd; /* operands begin after a boundary of 128 bytes, as close as the backend allows */
    const char *mode, *order;
} level_t;

static const level_t LEVELS[NN_CUDA_LEVELS] = {
    {"cuda", false, "inline", "up"},
    {"cuda, odd addresses", true, "inline", "down"},
    {"cuda, threads", false, "threads", "up"},
};

enum { ROOM = 64 << 20, BORDER = 128, OPERANDS = 16, PATTERN = 0xa5, NOTHING = 0xff };
#define SECONDS 100.0

typedef struct operand {
    char *host, *device;
    uint64_t bytes;
} operand_t;

/* State that the calls of a process share. Each test is a separate process. */
static struct {
    zero_device_t *device;
    zero_stream_t *stream;
    zero_arena_t *arena;
    const zero_nn_ops_t *ops;
    zero_nn_ops_t wrapped;
    bool odd, cudnn;
    char *mirror; /* a copy of the arena */
    uint64_t used;
    operand_t operands[OPERANDS];
    int count;
    void *workspace, *given;
} cuda;

#define OK(call)                                             \
    do {                                                     \
        zero_error_t e_ = {0};                               \
        zero_error_t *error = &e_;                           \
        EXPECT((call) == ZERO_OK, "%s: %s", #call, e_.text); \
    } while (0)

/* ---- operands of a call ----------------------------------------------------------------------------------------- */

/* Reserves bytes for the next operand, after guard bytes. row_bytes, the bytes of its rows, determines its
 * alignment. */
static char *place(uint64_t bytes, uint64_t row_bytes, uint64_t least)
{
    uint64_t odd = 16;
    while (row_bytes % odd != 0 || odd > 16)
        odd /= 2;
    uint64_t at = (cuda.used + BORDER + 127) / 128 * 128 + (cuda.odd ? odd < least ? least : odd : 0);
    cuda.used = at + bytes + BORDER;
    EXPECT(cuda.used <= ROOM, "operands do not fit: make ROOM larger");
    return (char *)cuda.device->ops->arena_base(cuda.arena) + at;
}

/* Notes an operand of bytes at host, if not NULL, with rows of row_bytes. Overlapping operands become one: they are
 * views of one buffer. */
static void note(const void *host, int64_t bytes, int64_t row_bytes)
{
    operand_t o = {.host = (char *)host, .bytes = (uint64_t)bytes};
    if (host == NULL || bytes == 0)
        return;
    for (int i = 0; i < cuda.count; i++) {
        operand_t *p = &cuda.operands[i];
        if (o.host > p->host + p->bytes || p->host > o.host + o.bytes ||
            (o.host == p->host + p->bytes && p->host != o.host))
            continue;
        char *begin = o.host < p->host ? o.host : p->host;
        char *end = o.host + o.bytes > p->host + p->bytes ? o.host + o.bytes : p->host + p->bytes;
        o = (operand_t){.host = begin, .bytes = (uint64_t)(end - begin)};
        *p = cuda.operands[--cuda.count];
        i = -1;
    }
    EXPECT(cuda.count < OPERANDS, "too many operands");
    o.device = (char *)(uintptr_t)row_bytes; /* until begin() places it */
    cuda.operands[cuda.count++] = o;
}

/* The device's address of the host's data at p. */
static void *at(const void *p)
{
    const char *host = p;
    for (int i = 0; i < cuda.count; i++) {
        const operand_t *o = &cuda.operands[i];
        if (host >= o->host && host < o->host + o->bytes)
            return o->device + (host - o->host);
    }
    return (void *)p;
}

/* Places and uploads the noted operands, between guard bytes and NaN, and gives the context a workspace on the
 * device. */
static void begin(zero_nn_t *nn)
{
    char *base = cuda.device->ops->arena_base(cuda.arena);
    void *native = cuda.device->ops->native(cuda.stream);
    uint64_t bytes = nn->plan->workspace;
    cuda.used = 0;
    for (int i = 0; i < cuda.count; i++) {
        uint64_t row = (uint64_t)(uintptr_t)cuda.operands[i].device;
        cuda.operands[i].device = place(cuda.operands[i].bytes, row, 2);
    }
    bool odd = cuda.odd;
    cuda.odd = false;
    cuda.given = nn->workspace;
    cuda.used = (cuda.used + ZERO_NN_ALIGN - 1) / ZERO_NN_ALIGN * ZERO_NN_ALIGN + ZERO_NN_ALIGN - BORDER;
    cuda.workspace = place(bytes, ZERO_NN_ALIGN, ZERO_NN_ALIGN);
    cuda.odd = odd;
    memset(cuda.mirror, PATTERN, cuda.used);
    for (int i = 0; i < cuda.count; i++)
        memcpy(cuda.mirror + (cuda.operands[i].device - base), cuda.operands[i].host, cuda.operands[i].bytes);
    memset(cuda.mirror + ((char *)cuda.workspace - base), NOTHING, bytes);
    OK(cuda.device->ops->copy(cuda.device, native, base, cuda.mirror, cuda.used, error));
    OK(cuda.device->ops->finish(cuda.device, native, SECONDS, error));
    nn->workspace = bytes == 0 ? NULL : cuda.workspace;
}

/* Downloads everything, and checks the guard bytes. */
static void end(zero_nn_t *nn)
{
    char *base = cuda.device->ops->arena_base(cuda.arena);
    void *native = cuda.device->ops->native(cuda.stream);
    OK(cuda.device->ops->copy(cuda.device, native, cuda.mirror, base, cuda.used, error));
    OK(cuda.device->ops->finish(cuda.device, native, SECONDS, error));
    memset(cuda.mirror + ((char *)cuda.workspace - base), PATTERN, nn->plan->workspace);
    for (int i = 0; i < cuda.count; i++) {
        char *from = cuda.mirror + (cuda.operands[i].device - base);
        memcpy(cuda.operands[i].host, from, cuda.operands[i].bytes);
        memset(from, PATTERN, cuda.operands[i].bytes);
    }
    for (uint64_t i = 0; i < cuda.used; i++)
        EXPECT((unsigned char)cuda.mirror[i] == PATTERN, "written beside an operand or the workspace, at byte %llu",
               (unsigned long long)i);
    nn->workspace = cuda.given;
    cuda.count = 0;
}

/* ---- the table -------------------------------------------------------------------------------------------------- */

static int64_t size_of(zero_dtype_t dtype)
{
    return (int64_t)zero_dtype_size(dtype);
}

/* A matrix with `columns` elements per row, and ld elements from one row to the next. */
static void note_matrix(const void *p, int64_t rows, int64_t columns, int64_t ld, zero_dtype_t dtype)
{
    if (rows > 0)
        note(p, ((rows - 1) * ld + columns) * size_of(dtype), ld * size_of(dtype));
}

/* A vector: its only alignment is that of an element. */
static void note_row(const void *p, int64_t count, zero_dtype_t dtype)
{
    note(p, count * size_of(dtype), size_of(dtype));
}

static void wrapped_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    zero_nn_gemm_t d = *g;
    if (g->k > 0) {
        note_matrix(g->a, g->trans_a ? g->k : g->m, g->trans_a ? g->m : g->k, g->lda, g->dtype);
        note_matrix(g->b, g->trans_b ? g->n : g->k, g->trans_b ? g->k : g->n, g->ldb, g->dtype);
    }
    note_matrix(g->c, g->m, g->n, g->ldc, g->wide ? ZERO_FP32 : g->dtype);
    note(g->bias, g->n * size_of(g->dtype), 16);
    note_row(g->dbias, g->n, g->dtype);
    if (g->epilogue != ZERO_NN_EPILOGUE_NONE)
        note_matrix(g->aux, g->m, g->n, g->ldc, g->dtype);
    begin(nn);
    d.a = at(g->a);
    d.b = at(g->b);
    d.c = at(g->c);
    d.bias = at(g->bias);
    d.aux = at(g->aux);
    d.dbias = at(g->dbias);
    cuda.ops->gemm(nn, &d);
    end(nn);
}

static void wrapped_bias_backward(zero_nn_t *nn, void *dbias, const void *dy, int64_t rows, int64_t n,
                                  zero_dtype_t dtype)
{
    note_row(dbias, n, dtype);
    note_row(dy, rows * n, dtype);
    begin(nn);
    cuda.ops->bias_backward(nn, at(dbias), at(dy), rows, n, dtype);
    end(nn);
}

static void wrapped_embedding_forward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    zero_nn_embedding_t d = *e;
    int32_t most = 0;
    for (int64_t r = 0; r < e->B * e->T; r++)
        if (zero_nn_has_token(&e->tile, e->tokens[r]) && e->tokens[r] - e->tile.first > most)
            most = e->tokens[r] - (int32_t)e->tile.first;
    note_row(e->wte, (most + 1) * e->C, e->dtype);
    note_row(e->wpe, e->T * e->C, e->dtype);
    note_row(e->y, e->B * e->T * e->C, e->dtype);
    note_row(e->tokens, e->B * e->T, ZERO_FP32); /* as large as int32_t */
    begin(nn);
    d.tokens = at(e->tokens);
    d.wte = at(e->wte);
    d.wpe = at(e->wpe);
    d.y = at(e->y);
    cuda.ops->embedding_forward(nn, &d);
    end(nn);
}

static void wrapped_embedding_backward(zero_nn_t *nn, const zero_nn_embedding_t *e)
{
    zero_nn_embedding_t d = *e;
    note_row(e->dwte, e->tile.count * e->C, e->dtype);
    note_row(e->dwpe, e->T * e->C, e->dtype);
    note_row(e->dy, e->B * e->T * e->C, e->dtype);
    note_row(e->tokens, e->B * e->T, ZERO_FP32);
    begin(nn);
    d.tokens = at(e->tokens);
    d.dwte = at(e->dwte);
    d.dwpe = at(e->dwpe);
    d.dy = at(e->dy);
    cuda.ops->embedding_backward(nn, &d);
    end(nn);
}

static zero_nn_norm_t note_norm(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_norm_t d = *l;
    const void **matrices[] = {&d.x,        (const void **)&d.y,    &d.dy, &d.dresidual, (const void **)&d.dx,
                               &d.residual, (const void **)&d.total};
    const void **rows[] = {&d.w,
                           &d.b,
                           (const void **)&d.dw,
                           (const void **)&d.db,
                           (const void **)&d.dbias,
                           (const void **)&d.dbias_residual};
    for (int i = 0; i < 7; i++) { /* aligned like an element, unlike note_matrix */
        const int64_t ld = i == 1 || i == 2 ? l->ldy : l->ldx;
        note_row(*matrices[i], (l->rows - 1) * ld + l->groups * l->C, l->dtype);
    }
    for (int i = 0; i < 6; i++)
        note_row(*rows[i], l->C, l->dtype);
    note_row(l->mean, l->rows * l->groups, ZERO_FP32);
    note_row(l->rstd, l->rows * l->groups, ZERO_FP32);
    begin(nn);
    for (int i = 0; i < 7; i++)
        *matrices[i] = at(*matrices[i]);
    for (int i = 0; i < 6; i++)
        *rows[i] = at(*rows[i]);
    d.mean = at(l->mean);
    d.rstd = at(l->rstd);
    return d;
}

static void wrapped_norm_forward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_norm_t d = note_norm(nn, l);
    cuda.ops->norm_forward(nn, &d);
    end(nn);
}

static void wrapped_norm_backward(zero_nn_t *nn, const zero_nn_norm_t *l)
{
    zero_nn_norm_t d = note_norm(nn, l);
    cuda.ops->norm_backward(nn, &d);
    end(nn);
}

static void note_elements(zero_nn_t *nn, const void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    note_row(y, count, dtype);
    note_row(a, count, dtype);
    note_row(b, count, dtype);
    begin(nn);
}

static void wrapped_act_forward(zero_nn_t *nn, zero_nn_activation_t act, void *y, const void *x, int64_t count,
                                zero_dtype_t dtype)
{
    note_elements(nn, y, x, NULL, count, dtype);
    cuda.ops->act_forward(nn, act, at(y), at(x), count, dtype);
    end(nn);
}

static void wrapped_act_backward(zero_nn_t *nn, const zero_nn_act_grad_t *a)
{
    zero_nn_act_grad_t d = *a;
    note_row(a->dbias, a->n, a->dtype);
    note_elements(nn, a->dx, a->dy, a->x, a->rows * a->n, a->dtype);
    d.dx = at(a->dx);
    d.dbias = at(a->dbias);
    d.dy = at(a->dy);
    d.x = at(a->x);
    cuda.ops->act_backward(nn, &d);
    end(nn);
}

static zero_nn_gated_t note_gated(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    zero_nn_gated_t d = *g;
    note_row(g->y, g->rows * g->F, g->dtype);
    note_row(g->dy, g->rows * g->F, g->dtype);
    note_row(g->dgu, g->rows * 2 * g->F, g->dtype);
    note_row(g->gu, g->rows * 2 * g->F, g->dtype);
    begin(nn);
    d.y = at(g->y);
    d.dy = at(g->dy);
    d.dgu = at(g->dgu);
    d.gu = at(g->gu);
    return d;
}

static void wrapped_gated_forward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    zero_nn_gated_t d = note_gated(nn, g);
    cuda.ops->gated_forward(nn, &d);
    end(nn);
}

static void wrapped_gated_backward(zero_nn_t *nn, const zero_nn_gated_t *g)
{
    zero_nn_gated_t d = note_gated(nn, g);
    cuda.ops->gated_backward(nn, &d);
    end(nn);
}

static void wrapped_rotary(zero_nn_t *nn, const zero_nn_rotary_t *r)
{
    zero_nn_rotary_t d = *r;
    note_row(r->x, (r->rows - 1) * r->ld + r->heads * r->D, r->dtype);
    note_row(r->positions, r->rows, ZERO_FP32); /* as large as int32_t */
    begin(nn);
    d.x = at(r->x);
    d.positions = at(r->positions);
    cuda.ops->rotary(nn, &d);
    end(nn);
}

static void wrapped_put_rows(zero_nn_t *nn, const zero_nn_put_t *p)
{
    zero_nn_put_t d = *p;
    note_matrix(p->x, p->rows, p->C, p->ldx, p->dtype);
    note_matrix(p->y, p->places, p->C, p->ldy, p->dtype);
    note_row(p->at, p->rows, ZERO_FP32); /* as large as int32_t */
    begin(nn);
    d.x = at(p->x);
    d.y = at(p->y);
    d.at = at(p->at);
    cuda.ops->put_rows(nn, &d);
    end(nn);
}

static void wrapped_add(zero_nn_t *nn, void *y, const void *a, const void *b, int64_t count, zero_dtype_t dtype)
{
    note_elements(nn, y, a, b, count, dtype);
    cuda.ops->add(nn, at(y), at(a), at(b), count, dtype);
    end(nn);
}

static void wrapped_scale(zero_nn_t *nn, void *y, const void *x, float factor, int64_t count, zero_dtype_t dtype)
{
    note_elements(nn, y, x, x, count, dtype);
    cuda.ops->scale(nn, at(y), at(x), factor, count, dtype);
    end(nn);
}

static void wrapped_add_sums(zero_nn_t *nn, void *y, const float *sums, int64_t count, zero_dtype_t dtype)
{
    note_row(y, count, dtype);
    note_row(sums, count, ZERO_FP32);
    begin(nn);
    cuda.ops->add_sums(nn, at(y), at(sums), count, dtype);
    end(nn);
}

static void wrapped_combine(zero_nn_t *nn, float *y, float alpha, const float *a, float beta, const float *b,
                            int64_t count)
{
    note_elements(nn, y, a, b, count, ZERO_FP32);
    cuda.ops->combine(nn, at(y), alpha, at(a), beta, at(b), count);
    end(nn);
}

static void wrapped_normalize(zero_nn_t *nn, float *y, const float *x, int64_t count, float least)
{
    note_elements(nn, y, x, x, count, ZERO_FP32);
    cuda.ops->normalize(nn, at(y), at(x), count, least);
    end(nn);
}

static void wrapped_attention(zero_nn_t *nn, const zero_nn_attention_t *a, const zero_nn_attention_grad_t *g)
{
    zero_nn_attention_t d = *a;
    zero_nn_attention_grad_t e = {0};
    int64_t rows = a->B * a->T, keys = a->B * a->S;
    note_matrix(a->q, rows, a->H * a->D, a->q_stride, a->dtype);
    note_matrix(a->k, keys, a->KV * a->D, a->k_stride, a->dtype);
    note_matrix(a->v, keys, a->KV * a->D, a->v_stride, a->dtype);
    note_matrix(a->out, rows, a->H * a->D, a->D, a->dtype);
    note_row(a->out, rows * a->H * a->D, a->dtype);
    note_row(a->lse, rows * a->H, ZERO_FP32);
    note_row(a->ranges, rows * 2, ZERO_FP32);
    if (g != NULL) {
        note_matrix(g->dq, rows, a->H * a->D, a->q_stride, a->dtype);
        note_matrix(g->dk, keys, a->KV * a->D, a->k_stride, a->dtype);
        note_matrix(g->dv, keys, a->KV * a->D, a->v_stride, a->dtype);
        note_row(g->dout, rows * a->H * a->D, a->dtype);
        note_row(g->dbias, zero_nn_attention_width(a->H, a->KV, a->D), a->dtype);
    }
    /* cuDNN's operands begin at multiples of 16 bytes. */
    bool odd = cuda.odd;
    cuda.odd = odd && !(cuda.cudnn && a->dtype != ZERO_FP32);
    begin(nn);
    cuda.odd = odd;
    d.q = at(a->q);
    d.k = at(a->k);
    d.v = at(a->v);
    d.out = at(a->out);
    d.lse = at(a->lse);
    d.ranges = at(a->ranges);
    if (g != NULL) {
        e = (zero_nn_attention_grad_t){
            .dout = at(g->dout), .dq = at(g->dq), .dk = at(g->dk), .dv = at(g->dv), .dbias = at(g->dbias)};
        cuda.ops->attention_backward(nn, &d, &e);
    } else {
        cuda.ops->attention_forward(nn, &d);
    }
    end(nn);
}

static void wrapped_attention_forward(zero_nn_t *nn, const zero_nn_attention_t *a)
{
    wrapped_attention(nn, a, NULL);
}

static zero_nn_entropy_t note_entropy(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_entropy_t d = *e;
    note(e->logits, ((e->rows - 1) * e->ld + e->V) * size_of(e->dtype), size_of(e->dtype));
    note_row(e->targets, e->rows, ZERO_FP32);
    note_row(e->losses, e->rows, ZERO_FP32);
    note_row(e->stats, e->rows * 3, ZERO_FP32);
    note_row(e->all, e->parts * e->rows * 3, ZERO_FP32);
    begin(nn);
    d.targets = at(e->targets);
    d.losses = at(e->losses);
    d.logits = at(e->logits);
    d.stats = at(e->stats);
    d.all = at(e->all);
    return d;
}

static void wrapped_cross_entropy(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_entropy_t d = note_entropy(nn, e);
    cuda.ops->cross_entropy(nn, &d);
    end(nn);
}

static void wrapped_entropy_local(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_entropy_t d = note_entropy(nn, e);
    cuda.ops->entropy_local(nn, &d);
    end(nn);
}

static void wrapped_entropy_combine(zero_nn_t *nn, const zero_nn_entropy_t *e)
{
    zero_nn_entropy_t d = note_entropy(nn, e);
    cuda.ops->entropy_combine(nn, &d);
    end(nn);
}

static zero_status_t wrapped_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    zero_status_t status = cuda.ops->plan(nn, plan, error);
    cuda.cudnn = strstr(nn->label, "cuDNN") != NULL;
    return status;
}

zero_nn_t *nn_cuda_context(int level)
{
    zero_nn_t *nn = NULL;
    const level_t *l = &LEVELS[level];
    if (cuda.device == NULL) { /* the first level of a process determines the emulator's mode */
        setenv("ZERO_EMULATOR", l->mode, 1);
        setenv("ZERO_EMULATOR_ORDER", l->order, 1);
        setenv("ZERO_EMULATOR_UNLOADED", "refuse", 1);
        OK(zero_device_cuda(&cuda.device, NULL, error));
        OK(cuda.device->ops->stream_create(cuda.device, ZERO_STREAM_COMPUTE, &cuda.stream, error));
        OK(cuda.device->ops->arena_create(cuda.device, ZERO_TIER_DEVICE, ROOM, &cuda.arena, error));
        cuda.mirror = malloc(ROOM);
    }
    cuda.odd = l->odd;
    OK(zero_nn_create(&nn, "cuda", 1, cuda.device->ops->native(cuda.stream), error));
    cuda.ops = nn->ops;
    cuda.wrapped = *nn->ops;
    cuda.wrapped.plan = wrapped_plan;
    cuda.wrapped.gemm = wrapped_gemm;
    cuda.wrapped.bias_backward = wrapped_bias_backward;
    cuda.wrapped.embedding_forward = wrapped_embedding_forward;
    cuda.wrapped.embedding_backward = wrapped_embedding_backward;
    cuda.wrapped.norm_forward = wrapped_norm_forward;
    cuda.wrapped.norm_backward = wrapped_norm_backward;
    cuda.wrapped.act_forward = wrapped_act_forward;
    cuda.wrapped.act_backward = wrapped_act_backward;
    cuda.wrapped.gated_forward = wrapped_gated_forward;
    cuda.wrapped.gated_backward = wrapped_gated_backward;
    cuda.wrapped.rotary = wrapped_rotary;
    cuda.wrapped.put_rows = wrapped_put_rows;
    cuda.wrapped.add = wrapped_add;
    cuda.wrapped.scale = wrapped_scale;
    cuda.wrapped.add_sums = wrapped_add_sums;
    cuda.wrapped.combine = wrapped_combine;
    cuda.wrapped.normalize = wrapped_normalize;
    cuda.wrapped.attention_forward = wrapped_attention_forward;
    cuda.wrapped.attention_backward = wrapped_attention;
    cuda.wrapped.cross_entropy = wrapped_cross_entropy;
    cuda.wrapped.entropy_local = wrapped_entropy_local;
    cuda.wrapped.entropy_combine = wrapped_entropy_combine;
    nn->ops = &cuda.wrapped;
    return nn;
}

bool nn_cuda_there(void)
{
    return emulated_plugins();
}

bool nn_cuda_emulated(void)
{
    return strstr(getenv("ZERO_PLUGIN_PATH"), "emulator") != NULL;
}

double nn_cuda_softmax_error(zero_dtype_t dtype)
{
    return cuda.cudnn && dtype != ZERO_FP32 ? eps_of(dtype) : 0;
}
