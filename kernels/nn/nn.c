/* SPDX-License-Identifier: Apache-2.0 */
/* nn.c - contexts and plans by shape. */
#include "kernels/nn/cuda.h"

#include <stdio.h>
#include <stdlib.h>

zero_status_t zero_nn_create(zero_nn_t **out, const char *backend, int threads, void *stream, zero_error_t *error)
{
    *out = NULL;
    const zero_nn_ops_t *ops = NULL;
    if (strcmp(backend, "cpu") == 0 || strcmp(backend, "auto") == 0)
        ops = &zero_nn_cpu_ops;
    else if (strcmp(backend, "ref") == 0)
        ops = &zero_nn_ref_ops;
    else if (strcmp(backend, "cuda") != 0)
        return zero_fail(error, ZERO_ERR_ARG, "unknown kernels '%s': use cpu, cuda, ref or auto", backend);
    if (threads < 1)
        return zero_fail(error, ZERO_ERR_ARG, "threads is %d, but must be 1 or more", threads);
    if (ops == NULL) {
        const void *table = NULL;
        zero_status_t status = zero_plugin_table("zero_nn_cuda", "zero_cuda_nn", ZERO_CUDA_NN_VERSION, &table, error);
        if (status != ZERO_OK)
            return status;
        ops = ((const zero_cuda_nn_t *)table)->ops;
    }
    zero_nn_t *nn = calloc(1, sizeof *nn);
    if (nn == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of a kernel context", sizeof *nn);
    nn->ops = ops;
    nn->graphs = true;
    nn->threads = threads;
    nn->stream = stream;
    snprintf(nn->label, sizeof nn->label, "%s", ops->name);
    if (ops->open != NULL) {
        zero_status_t status = ops->open(nn, error);
        if (status != ZERO_OK) {
            free(nn);
            return status;
        }
    }
    *out = nn;
    return ZERO_OK;
}

void zero_nn_destroy(zero_nn_t *nn)
{
    if (nn == NULL)
        return;
    for (uint32_t i = 0; i < nn->count && nn->ops->unplan != NULL; i++)
        nn->ops->unplan(&nn->plans[i]);
    if (nn->ops->close != NULL)
        nn->ops->close(nn);
    free(nn->plans);
    free(nn->table);
    free(nn);
}

const char *zero_nn_backend(const zero_nn_t *nn)
{
    return nn->label;
}

const zero_nn_sizes_t *zero_nn_sizes(const zero_nn_t *nn)
{
    return &nn->ops->sizes;
}

void zero_nn_set_stream(zero_nn_t *nn, void *stream)
{
    nn->stream = stream;
    if (nn->ops->set_stream != NULL)
        nn->ops->set_stream(nn);
}

void zero_nn_set_log(zero_nn_t *nn, zero_log_fn log, void *ctx)
{
    nn->log = log;
    nn->log_ctx = ctx;
}

zero_status_t zero_nn_set_choices(zero_nn_t *nn, const char *text, bool measure, zero_error_t *error)
{
    if (nn->ops->set_choices == NULL)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "kernels '%s' have only one algorithm per product: nothing can be tuned", nn->ops->name);
    return nn->ops->set_choices(nn, text == NULL ? "" : text, measure, error);
}

char *zero_nn_choices(const zero_nn_t *nn)
{
    return nn->ops->choices == NULL ? NULL : nn->ops->choices(nn);
}

void zero_nn_set_graphs(zero_nn_t *nn, bool graphs)
{
    nn->graphs = graphs;
}

void zero_nn_repeat(zero_nn_t *nn, int slot, void (*calls)(void *ctx), void *ctx)
{
    if (nn->graphs && nn->ops->repeat != NULL)
        nn->ops->repeat(nn, slot, calls, ctx);
    else
        calls(ctx);
}

void zero_nn_set_dry(zero_nn_t *nn, bool dry)
{
    nn->dry = dry;
}

uint64_t zero_nn_workspace_bytes(const zero_nn_t *nn)
{
    return nn->need;
}

void zero_nn_set_workspace(zero_nn_t *nn, void *workspace, uint64_t bytes)
{
    if (workspace != NULL && (uintptr_t)workspace % ZERO_NN_ALIGN != 0) {
        zero_nn_fail(nn, ZERO_ERR_ARG, "workspace at %p is not aligned to %d bytes: use zero_nn_aligned", workspace,
                     ZERO_NN_ALIGN);
        return;
    }
    nn->workspace = workspace;
    nn->workspace_bytes = workspace == NULL ? 0 : bytes;
}

/* ---- plans ------------------------------------------------------------------------------------------------------ */

/* The slot of the shape's plan in the table, or the free slot where it belongs. */
static uint32_t table_slot(const zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    uint64_t h = zero_splitmix64(((uint64_t)shape->op << 32) | (uint32_t)shape->dtype);
    for (int i = 0; i < ZERO_NN_DIMS; i++)
        h = zero_splitmix64(h ^ (uint64_t)shape->d[i]);
    uint32_t slot = (uint32_t)h & (nn->capacity - 1);
    while (nn->table[slot] >= 0 && memcmp(&nn->plans[nn->table[slot]].shape, shape, sizeof *shape) != 0)
        slot = (slot + 1) & (nn->capacity - 1);
    return slot;
}

/* Makes room for one more plan. The table is at most half full. */
static bool table_grow(zero_nn_t *nn)
{
    if (2 * (nn->count + 1) <= nn->capacity)
        return true;
    uint32_t capacity = nn->capacity == 0 ? 64 : 2 * nn->capacity;
    zero_nn_plan_t *plans = realloc(nn->plans, capacity / 2 * sizeof *plans);
    if (plans == NULL)
        return false;
    nn->plans = plans;
    int32_t *table = realloc(nn->table, capacity * sizeof *table);
    if (table == NULL)
        return false;
    nn->table = table;
    nn->capacity = capacity;
    memset(table, 0xff, capacity * sizeof *table);
    for (uint32_t i = 0; i < nn->count; i++)
        table[table_slot(nn, &plans[i].shape)] = (int32_t)i;
    return true;
}

/* optional: an unsupported shape is no error and gets no plan. */
static void plan_make(zero_nn_t *nn, const zero_nn_shape_t *shape, bool optional)
{
    char text[256];
    if (!table_grow(nn)) {
        zero_nn_fail(nn, ZERO_ERR_MEMORY, "no memory to plan %s", zero_nn_shape_text(shape, text, sizeof text));
        return;
    }
    uint32_t slot = table_slot(nn, shape);
    if (nn->table[slot] >= 0)
        return;
    zero_nn_plan_t plan = {.shape = *shape};
    zero_error_t error = {.status = ZERO_OK};
    zero_status_t status = nn->ops->plan(nn, &plan, &error);
    if (status == ZERO_ERR_UNSUPPORTED && optional)
        return;
    if (status != ZERO_OK) {
        zero_nn_fail(nn, status, "%s: %s", zero_nn_shape_text(shape, text, sizeof text), error.text);
        return;
    }
    nn->plans[nn->count] = plan;
    nn->table[slot] = (int32_t)nn->count++;
    if (plan.workspace > nn->need)
        nn->need = plan.workspace;
}

const zero_nn_plan_t *zero_nn_plan_begin(zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    if (nn->dry) {
        plan_make(nn, shape, false);
        return NULL;
    }
    char text[256];
    int32_t index = nn->capacity == 0 ? -1 : nn->table[table_slot(nn, shape)];
    if (index < 0) {
        zero_nn_fail(nn, ZERO_ERR_ORDER, "%s was not called in dry mode: make the same calls in dry mode first",
                     zero_nn_shape_text(shape, text, sizeof text));
        return NULL;
    }
    const zero_nn_plan_t *plan = &nn->plans[index];
    if (plan->workspace > nn->workspace_bytes) {
        zero_nn_fail(nn, ZERO_ERR_ORDER,
                     "%s needs %llu bytes of workspace and has %llu: reserve zero_nn_workspace_bytes after the dry run",
                     zero_nn_shape_text(shape, text, sizeof text), (unsigned long long)plan->workspace,
                     (unsigned long long)nn->workspace_bytes);
        return NULL;
    }
    nn->plan = plan;
    return plan;
}

bool zero_nn_plan_is_fused(zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    if (!nn->ops->epilogues)
        return false;
    if (nn->dry)
        plan_make(nn, shape, true);
    const int32_t index = nn->capacity == 0 ? -1 : nn->table[table_slot(nn, shape)];
    return index >= 0 && !nn->plans[index].refused;
}

/* ---- description of the implementations ------------------------------------------------------------------------- */

static const char *maker_of(const zero_nn_t *nn, const zero_nn_plan_t *plan)
{
    return nn->ops->maker == NULL ? "our own kernels" : nn->ops->maker(plan);
}

/* Appends "cuBLASLt", or "cuBLASLt, our own kernels (2 of 14 shapes)", for the plans of op. Returns false if it has no
 * plans. */
static bool add_makers(const zero_nn_t *nn, zero_nn_op_t op, char *text, size_t size)
{
    const char *first = NULL, *other = NULL;
    int all = 0, others = 0;
    for (uint32_t i = 0; i < nn->count; i++) {
        if (nn->plans[i].shape.op != (int32_t)op)
            continue;
        const char *maker = maker_of(nn, &nn->plans[i]);
        all++;
        if (first == NULL)
            first = maker;
        if (strcmp(maker, first) != 0) {
            other = maker;
            others++;
        }
    }
    const size_t used = strlen(text);
    if (others > 0)
        snprintf(text + used, size - used, "%s, %s (%d of %d shapes)", first, other, others, all);
    else if (all > 0)
        snprintf(text + used, size - used, "%s", first);
    return all > 0;
}

static void add_text(char *text, size_t size, const char *more)
{
    const size_t used = strlen(text);
    snprintf(text + used, size - used, "%s", more);
}

void zero_nn_describe(const zero_nn_t *nn, char *text, size_t size)
{
    static const struct {
        zero_nn_op_t op;
        const char *before, *after;
    } PARTS[] = {{ZERO_NN_ATTN_FORWARD, "attention: ", " forward"},
                 {ZERO_NN_ATTN_BACKWARD, ", ", " backward"},
                 {ZERO_NN_GEMM, "; products: ", ""}};
    bool fused[3] = {false}, apart[3] = {false};
    text[0] = '\0';
    for (int i = 0; i < 3; i++) {
        const size_t begin = strlen(text);
        add_text(text, size, begin == 0 && i > 0 ? PARTS[i].before + 2 : PARTS[i].before);
        if (add_makers(nn, PARTS[i].op, text, size))
            add_text(text, size, PARTS[i].after);
        else
            text[begin] = '\0';
    }
    for (uint32_t i = 0; i < nn->count; i++) {
        const zero_nn_shape_t *shape = &nn->plans[i].shape;
        if (shape->op == ZERO_NN_GEMM && !nn->plans[i].refused)
            fused[shape->d[6] >> ZERO_NN_EPILOGUE_SHIFT] = true;
        apart[ZERO_NN_EPILOGUE_GELU_NEW] |= shape->op == ZERO_NN_ACT_FORWARD && shape->d[1] == ZERO_NN_GELU_NEW;
        apart[ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD] |=
            shape->op == ZERO_NN_ACT_BACKWARD && shape->d[2] == ZERO_NN_GELU_NEW;
    }
    const char *how[3];
    for (int i = 0; i < 3; i++)
        how[i] = fused[i] ? "in its product" : apart[i] ? "a kernel of its own" : NULL;
    const char *forward = how[ZERO_NN_EPILOGUE_GELU_NEW], *backward = how[ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD];
    const size_t used = strlen(text);
    if (forward != NULL || backward != NULL)
        snprintf(text + used, size - used, "%sGELU: %s%s%s%s%s", used > 0 ? "; " : "", forward ? forward : "",
                 forward ? " forward" : "", forward && backward ? ", " : "", backward ? backward : "",
                 backward ? " backward" : "");
}
