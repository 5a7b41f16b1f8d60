/* SPDX-License-Identifier: Apache-2.0 */
/* onednn.c - matrix products with oneDNN's matmul primitive: one primitive per shape, its scratchpad in our workspace,
 * transposes as strides.
 *
 * oneDNN has two implementations: "brg", and "gemm:jit", which calls dnnl_sgemm. Measured in GFLOP/s on one core of an
 * AVX-512 AMD EPYC with a peak of 117 in fp32, for GPT-2 124M with 512 rows (bench/nn prints the rates of the chosen
 * ones; our own product in gemm.c reaches 92 overall):
 *     X W, forward               brg 105 to 113   gemm:jit 110 to 115, less a second pass over C for the bias
 *     dY W', dX                  brg 103 to 112   gemm:jit 104 to 110
 *     X' dY, dW                  brg  98 to 107   gemm:jit 108 to 114
 *     k = 50257, dX of the head  brg  83 to  99   gemm:jit 110 to 113
 * gemm:jit allocates 1 to 9 MB within a call, which no scratchpad mode prevents. So this file selects it only for a
 * large gain: if A is transposed or k is large. oneDNN itself selects it if rows of C are not dense, and on processors
 * without AVX-512. In bf16, brg reaches 172 to 225 and gemm:jit 202 to 208, but gemm:jit keeps sums of the whole
 * product in its scratchpad; it is selected only if k is large. Neither copying transposed operands nor splitting
 * products gained anything.
 *
 * No signal handler may run on the stack of a thread inside gemm:jit. With oneDNN 2.6.3, one in five runs that a
 * handler interrupted ended with a corrupted heap, and none did when a separate thread handled the signals (as in
 * zero_train). */
#include "kernels/nn/cpu/cpu.h"

#include <stdio.h>

#if defined(HAVE_ONEDNN) && ONEDNN_MAJOR == 2

#include <dnnl.h>
#include <stdlib.h>

#define LONG 4096 /* gemm:jit is much faster for larger k */

typedef struct zero_nn_onednn {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} zero_nn_onednn_t;

/* A product of one shape. The bias is not part of a shape: there is one primitive with it and one without. */
typedef struct product {
    dnnl_primitive_t primitive[2];
    dnnl_memory_t a, b, c, bias, scratch[2];
} product_t;

zero_status_t zero_nn_onednn_open(void **state, zero_error_t *error)
{
    zero_nn_onednn_t *o = calloc(1, sizeof *o);
    *state = o;
    if (o == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes of oneDNN state", sizeof *o);
    dnnl_status_t rc = dnnl_engine_create(&o->engine, dnnl_cpu, 0);
    if (rc == dnnl_success)
        rc = dnnl_stream_create(&o->stream, o->engine, dnnl_stream_default_flags);
    if (rc == dnnl_success)
        return ZERO_OK;
    zero_nn_onednn_close(o);
    *state = NULL;
    return zero_fail(error, ZERO_ERR_SYSTEM, "oneDNN cannot create its engine: status %d", (int)rc);
}

void zero_nn_onednn_close(void *state)
{
    zero_nn_onednn_t *o = state;
    if (o == NULL)
        return;
    if (o->stream != NULL)
        dnnl_stream_destroy(o->stream);
    if (o->engine != NULL)
        dnnl_engine_destroy(o->engine);
    free(o);
}

void zero_nn_onednn_version(char *text, size_t size)
{
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}

static void product_free(product_t *p)
{
    if (p == NULL)
        return;
    dnnl_memory_t memory[] = {p->a, p->b, p->c, p->bias, p->scratch[0], p->scratch[1]};
    for (size_t i = 0; i < sizeof memory / sizeof memory[0]; i++)
        if (memory[i] != NULL)
            dnnl_memory_destroy(memory[i]);
    for (int i = 0; i < 2; i++)
        if (p->primitive[i] != NULL)
            dnnl_primitive_destroy(p->primitive[i]);
    free(p);
}

void zero_nn_onednn_unplan(zero_nn_plan_t *plan)
{
    product_free(plan->data);
    plan->data = NULL;
}

/* A row-major matrix with rows of step elements, or its transpose. */
static dnnl_status_t matrix(dnnl_memory_desc_t *md, int64_t rows, int64_t columns, int64_t step, bool transposed,
                            dnnl_data_type_t type)
{
    dnnl_dims_t dims = {rows, columns}, strides = {transposed ? 1 : step, transposed ? step : 1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}

/* The first implementation of desc whose name starts with want; if there is none, the first one. */
static dnnl_status_t implementation(dnnl_primitive_desc_t *out, const dnnl_matmul_desc_t *desc,
                                    dnnl_primitive_attr_t attr, dnnl_engine_t engine, const char *want)
{
    dnnl_primitive_desc_iterator_t it = NULL;
    dnnl_status_t rc = dnnl_primitive_desc_iterator_create(&it, desc, attr, engine, NULL);
    for (dnnl_status_t next = rc; next == dnnl_success; next = dnnl_primitive_desc_iterator_next(it)) {
        dnnl_primitive_desc_t pd = dnnl_primitive_desc_iterator_fetch(it);
        const char *name = "";
        if (pd == NULL) {
            rc = dnnl_out_of_memory;
            break;
        }
        bool wanted = dnnl_primitive_desc_query(pd, dnnl_query_impl_info_str, 0, &name) == dnnl_success &&
                      strncmp(name, want, strlen(want)) == 0;
        if (wanted || *out == NULL) {
            if (*out != NULL)
                dnnl_primitive_desc_destroy(*out);
            *out = pd;
        } else {
            dnnl_primitive_desc_destroy(pd);
        }
        if (wanted)
            break;
    }
    if (it != NULL)
        dnnl_primitive_desc_iterator_destroy(it);
    if (rc != dnnl_success && *out != NULL) {
        dnnl_primitive_desc_destroy(*out);
        *out = NULL;
    }
    return rc;
}

/* Creates the primitive with or without bias, and raises *bytes to its scratchpad. Returns dnnl_unimplemented if oneDNN
 * has none. */
static dnnl_status_t primitive_make(product_t *p, dnnl_engine_t engine, const dnnl_memory_desc_t md[4], bool bias,
                                    bool accumulate, const char *want, uint64_t *bytes)
{
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_matmul_desc_t desc;
    dnnl_status_t rc = dnnl_primitive_attr_create(&attr);
    if (rc == dnnl_success)
        rc = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (rc == dnnl_success)
        rc = dnnl_post_ops_create(&ops);
    if (rc == dnnl_success && accumulate)
        rc = dnnl_post_ops_append_sum(ops, 1.0f);
    if (rc == dnnl_success)
        rc = dnnl_primitive_attr_set_post_ops(attr, ops);
    if (rc == dnnl_success)
        rc = dnnl_matmul_desc_init(&desc, &md[0], &md[1], bias ? &md[3] : NULL, &md[2]);
    if (rc == dnnl_success)
        rc = implementation(&pd, &desc, attr, engine, want);
    if (rc == dnnl_success)
        rc = dnnl_primitive_create(&p->primitive[bias], pd);
    if (rc == dnnl_success) {
        const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
        uint64_t size = dnnl_memory_desc_get_size(scratch);
        *bytes = size > *bytes ? size : *bytes;
        rc = dnnl_memory_create(&p->scratch[bias], scratch, engine, DNNL_MEMORY_NONE);
    }
    if (pd != NULL)
        dnnl_primitive_desc_destroy(pd);
    if (ops != NULL)
        dnnl_post_ops_destroy(ops);
    if (attr != NULL)
        dnnl_primitive_attr_destroy(attr);
    return rc;
}

zero_status_t zero_nn_onednn_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    const zero_nn_onednn_t *o = ((const zero_nn_cpu_t *)nn->state)->onednn;
    const int64_t *d = plan->shape.d;
    bool accumulate = (d[6] & ZERO_NN_ACCUMULATE) != 0;
    if (o == NULL || d[2] == 0 || (d[6] & ZERO_NN_WIDE) != 0)
        return ZERO_OK;
    bool turned = plan->shape.dtype == ZERO_FP32 && (d[6] & ZERO_NN_TRANS_A) != 0;
    const char *want = turned || d[2] > LONG ? "gemm:jit" : "";
    product_t *p = calloc(1, sizeof *p);
    if (p == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %zu bytes", sizeof *p);
    zero_nn_team_t before = zero_nn_team_begin(nn->threads); /* a primitive is made for the next region */
    dnnl_data_type_t type = plan->shape.dtype == ZERO_FP32 ? dnnl_f32 : dnnl_bf16;
    dnnl_memory_desc_t md[4]; /* A', B', C, bias */
    dnnl_status_t rc = matrix(&md[0], d[0], d[2], d[3], (d[6] & ZERO_NN_TRANS_A) != 0, type);
    if (rc == dnnl_success)
        rc = matrix(&md[1], d[2], d[1], d[4], (d[6] & ZERO_NN_TRANS_B) != 0, type);
    if (rc == dnnl_success)
        rc = matrix(&md[2], d[0], d[1], d[5], false, type);
    if (rc == dnnl_success)
        rc = matrix(&md[3], 1, d[1], d[1], false, type);
    dnnl_memory_t *memory[] = {&p->a, &p->b, &p->c, &p->bias};
    for (int i = 0; i < 4 && rc == dnnl_success; i++)
        rc = dnnl_memory_create(memory[i], &md[i], o->engine, DNNL_MEMORY_NONE);
    for (int bias = 0; bias < 2 && rc == dnnl_success; bias++)
        rc = primitive_make(p, o->engine, md, bias, accumulate, want, &plan->workspace);
    zero_nn_team_end(before);
    if (rc == dnnl_success) {
        plan->data = p;
        return ZERO_OK;
    }
    product_free(p);
    plan->workspace = 0;
    if (rc == dnnl_unimplemented)
        return ZERO_OK;
    return zero_fail(error, rc == dnnl_out_of_memory ? ZERO_ERR_MEMORY : ZERO_ERR_SYSTEM,
                     "cannot create oneDNN's matmul primitive: status %d", (int)rc);
}

/* A primitive divides a product among the number of threads for which it was made. If a region has fewer, oneDNN
 * computes only a part of the product and returns success. So each product checks first. A context of one thread always
 * passes. */
static bool team_is_whole(zero_nn_t *nn)
{
    zero_nn_cpu_t *cpu = nn->state;
    char why[96];
    if (nn->threads == 1)
        return true;
    int most = zero_nn_threads_most(why, sizeof why);
    if (most >= nn->threads && !cpu->counted) {
        most = zero_nn_team_count(nn->threads);
        snprintf(why, sizeof why, "a parallel region has no more");
        cpu->counted = most >= nn->threads;
    }
    if (most < nn->threads)
        zero_nn_fail(
            nn, ZERO_ERR_ORDER,
            "a product planned for %d threads has %d of them, because %s: call where OpenMP gives %d threads, or "
            "make the context with 1 thread",
            nn->threads, most, why, nn->threads);
    return most >= nn->threads;
}

void zero_nn_onednn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    const zero_nn_onednn_t *o = ((const zero_nn_cpu_t *)nn->state)->onednn;
    product_t *p = nn->plan->data;
    int bias = g->bias != NULL, count = 0;
    struct {
        int arg;
        dnnl_memory_t memory;
        const void *data;
    } given[] = {
        {DNNL_ARG_SRC, p->a, g->a},        {DNNL_ARG_WEIGHTS, p->b, g->b},
        {DNNL_ARG_DST, p->c, g->c},        {DNNL_ARG_SCRATCHPAD, p->scratch[bias], nn->workspace},
        {DNNL_ARG_BIAS, p->bias, g->bias},
    };
    dnnl_exec_arg_t args[5];
    dnnl_status_t rc = dnnl_success;
    for (; count < 4 + bias && rc == dnnl_success; count++) {
        rc = dnnl_memory_set_data_handle(given[count].memory, (void *)given[count].data);
        args[count] = (dnnl_exec_arg_t){.arg = given[count].arg, .memory = given[count].memory};
    }
    zero_nn_team_t before = zero_nn_team_begin(nn->threads);
    if (rc == dnnl_success && team_is_whole(nn))
        rc = dnnl_primitive_execute(p->primitive[bias], o->stream, count, args);
    if (rc == dnnl_success)
        rc = dnnl_stream_wait(o->stream);
    zero_nn_team_end(before);
    if (rc != dnnl_success)
        zero_nn_fail(nn, ZERO_ERR_SYSTEM, "oneDNN's matmul primitive of m %lld, n %lld, k %lld in %s failed: status %d",
                     (long long)g->m, (long long)g->n, (long long)g->k, zero_dtype_name(g->dtype), (int)rc);
}

#else

zero_status_t zero_nn_onednn_open(void **state, zero_error_t *error)
{
    (void)error;
    *state = NULL;
    return ZERO_OK;
}

void zero_nn_onednn_close(void *state)
{
    (void)state;
}

void zero_nn_onednn_version(char *text, size_t size)
{
    snprintf(text, size, "without oneDNN");
}

zero_status_t zero_nn_onednn_plan(zero_nn_t *nn, zero_nn_plan_t *plan, zero_error_t *error)
{
    (void)nn, (void)plan, (void)error;
    return ZERO_OK;
}

void zero_nn_onednn_unplan(zero_nn_plan_t *plan)
{
    (void)plan;
}

void zero_nn_onednn_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    zero_nn_own_gemm(nn, g);
}

#endif
