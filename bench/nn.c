/* SPDX-License-Identifier: Apache-2.0 */
/* nn.c - rates of the kernels of models, at the sizes of GPT-2 124M with 512 rows per rank. Usage: bench/nn [threads
 * (1)] [fp32|bf16|fp16] [cpu|ref] [own]. "own" disables oneDNN. Each line reports the fastest of the repetitions that
 * fit in its part of a few seconds. With one thread it measures CPU time, so other work on the machine disturbs less;
 * with more threads, wall-clock time. */
#include "kernels/nn/cpu/cpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { B = 2, T = 256, C = 768, HEADS = 12, V = 50257, ROWS = B * T };
_Static_assert(ROWS <= C && B * 1024 * 3 <= V, "the buffers of V * C elements hold logits and activations");

typedef struct bench {
    zero_nn_t *nn;
    zero_dtype_t dtype;
    void *workspace;
    unsigned char *x, *y, *z; /* large enough for every case */
    float *statistics;        /* twice the largest number of rows; lse */
    int32_t *tokens;
} bench_t;

typedef struct product {
    const char *name;
    int64_t m, n, k;
    bool trans_a, trans_b, accumulate;
} product_t;

static const product_t PRODUCTS[] = {
    {"qkv forward", ROWS, 3 * C, C, false, false, false}, {"proj forward", ROWS, C, C, false, false, false},
    {"fc forward", ROWS, 4 * C, C, false, false, false},  {"fcproj forward", ROWS, C, 4 * C, false, false, false},
    {"qkv dX", ROWS, C, 3 * C, false, true, false},       {"proj dX", ROWS, C, C, false, true, false},
    {"fc dX", ROWS, C, 4 * C, false, true, false},        {"fcproj dX", ROWS, 4 * C, C, false, true, false},
    {"qkv dW", C, 3 * C, ROWS, true, false, true},        {"proj dW", C, C, ROWS, true, false, true},
    {"fc dW", C, 4 * C, ROWS, true, false, true},         {"fcproj dW", 4 * C, C, ROWS, true, false, true},
    {"head forward", ROWS, V, C, false, true, false},     {"head dX", ROWS, C, V, false, false, false},
    {"head dW", V, C, ROWS, true, false, true},
};

static double now(const bench_t *b)
{
    struct timespec t;
    clock_gettime(b->nn->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef void (*call_fn)(const bench_t *b, const void *arg);

/* Seconds of the fastest call. */
static double fastest(bench_t *b, call_fn call, const void *arg)
{
    zero_error_t error = {.status = ZERO_OK};
    zero_nn_set_dry(b->nn, true);
    call(b, arg);
    zero_nn_set_dry(b->nn, false);
    uint64_t bytes = zero_nn_workspace_bytes(b->nn);
    free(b->workspace);
    b->workspace = aligned_alloc(4096, (bytes + 8191) / 4096 * 4096);
    zero_nn_set_workspace(b->nn, b->workspace, bytes);
    double best = INFINITY, until = now(b) + 0.15;
    for (int i = 0; i < 2 || now(b) < until; i++) {
        double start = now(b);
        call(b, arg);
        double seconds = now(b) - start;
        best = seconds < best ? seconds : best;
    }
    if (zero_nn_status(b->nn, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    return best;
}

static void call_product(const bench_t *b, const void *arg)
{
    const product_t *p = arg;
    zero_nn_gemm_t g = {.m = p->m,
                        .n = p->n,
                        .k = p->k,
                        .trans_a = p->trans_a,
                        .trans_b = p->trans_b,
                        .accumulate = p->accumulate,
                        .dtype = b->dtype,
                        .a = b->x,
                        .b = b->y,
                        .c = b->z};
    zero_nn_gemm(b->nn, &g);
}

typedef struct heads {
    int64_t T;
    bool backward;
} heads_t;

static void call_attention(const bench_t *b, const void *arg)
{
    const heads_t *h = arg;
    size_t size = zero_dtype_size(b->dtype) * C;
    zero_nn_attention_t a = {.B = B,
                             .T = h->T,
                             .H = HEADS,
                             .KV = HEADS,
                             .D = C / HEADS,
                             .q_stride = 3 * C,
                             .k_stride = 3 * C,
                             .v_stride = 3 * C,
                             .scale = 0.125,
                             .causal = true,
                             .dtype = b->dtype,
                             .q = b->x,
                             .k = b->x + size,
                             .v = b->x + 2 * size,
                             .out = b->y,
                             .lse = b->statistics};
    if (h->backward)
        zero_nn_attention_backward(b->nn, &a, b->y, b->z, b->z + size, b->z + 2 * size, NULL);
    else
        zero_nn_attention_forward(b->nn, &a);
}

static void call_norm(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_norm_forward(b->nn, &(zero_nn_norm_t){.rows = ROWS,
                                                  .C = C,
                                                  .eps = 1e-5,
                                                  .dtype = b->dtype,
                                                  .x = b->x,
                                                  .w = b->x,
                                                  .b = b->x,
                                                  .y = b->y,
                                                  .mean = b->statistics,
                                                  .rstd = b->statistics + ROWS});
}

static void call_norm_backward(const bench_t *b, const void *arg)
{
    (void)arg;
    unsigned char *sums = b->y + (size_t)ROWS * C * 4;
    zero_nn_norm_backward(b->nn, &(zero_nn_norm_t){.rows = ROWS,
                                                   .C = C,
                                                   .dtype = b->dtype,
                                                   .x = b->x,
                                                   .w = b->x,
                                                   .mean = b->statistics,
                                                   .rstd = b->statistics + ROWS,
                                                   .dy = b->y,
                                                   .dresidual = b->y,
                                                   .dx = b->z,
                                                   .dw = sums,
                                                   .db = sums + C * 4});
}

static void call_gelu(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_act_forward(b->nn, ZERO_NN_GELU_NEW, b->y, b->x, (int64_t)ROWS * 4 * C, b->dtype);
}

static void call_gelu_backward(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_act_backward(b->nn, ZERO_NN_GELU_NEW, b->z, NULL, b->y, b->x, ROWS, 4 * C, b->dtype);
}

static void call_rms(const bench_t *b, const void *arg)
{
    zero_nn_norm_t l = {.rows = ROWS,
                        .C = C,
                        .eps = 1e-5,
                        .dtype = b->dtype,
                        .rms = true,
                        .x = b->x,
                        .w = b->x,
                        .y = b->y,
                        .rstd = b->statistics,
                        .dy = b->y,
                        .dresidual = b->y,
                        .dx = b->z,
                        .dw = b->y + (size_t)ROWS * C * 4};
    if (arg == NULL)
        zero_nn_norm_forward(b->nn, &l);
    else
        zero_nn_norm_backward(b->nn, &l);
}

static void call_act(const bench_t *b, const void *arg)
{
    zero_nn_act_forward(b->nn, *(const zero_nn_activation_t *)arg, b->y, b->x, (int64_t)ROWS * 4 * C, b->dtype);
}

static void call_gated(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_gated_forward(b->nn, ZERO_NN_SILU, b->y, b->x, ROWS, 2 * C, b->dtype);
}

static void call_gated_backward(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_gated_backward(b->nn, ZERO_NN_SILU, b->z, b->y, b->x, ROWS, 2 * C, b->dtype);
}

static void call_rotary(const bench_t *b, const void *arg)
{
    static const float frequencies[C / HEADS / 2] = {1};
    (void)arg;
    zero_nn_rotary(b->nn, &(zero_nn_rotary_t){.rows = ROWS,
                                              .T = T,
                                              .heads = HEADS,
                                              .D = C / HEADS,
                                              .frequencies = frequencies,
                                              .dtype = b->dtype,
                                              .x = b->y});
}

static void call_add(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_add(b->nn, b->z, b->y, b->x, (int64_t)ROWS * C, b->dtype);
}

static void call_bias_backward(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_bias_backward(b->nn, b->y, b->x, ROWS, 4 * C, b->dtype);
}

static void call_embedding(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_embedding_forward(b->nn, b->y, b->tokens, b->x, b->x, B, T, C, b->dtype);
}

static void call_embedding_backward(const bench_t *b, const void *arg)
{
    (void)arg;
    zero_nn_embedding_backward(b->nn, b->z, b->z, b->y, b->tokens, B, T, C, V, b->dtype);
}

static void call_entropy(const bench_t *b, const void *arg)
{
    zero_nn_cross_entropy(b->nn, b->statistics, b->x, b->tokens, ROWS, V, V, *(const bool *)arg, 1, b->dtype);
}

static const zero_nn_activation_t SILU = ZERO_NN_SILU, GELU = ZERO_NN_GELU;
static const struct {
    const char *name;
    call_fn call;
    double elements; /* read and written, without parameters */
    const void *arg;
} ROW_CALLS[] = {
    {"layernorm forward", call_norm, 2.0 * ROWS *C, NULL},
    {"layernorm backward", call_norm_backward, 4.0 * ROWS *C, NULL},
    {"rms norm forward", call_rms, 2.0 * ROWS *C, NULL},
    {"rms norm backward", call_rms, 4.0 * ROWS *C, &SILU},
    {"gelu forward", call_gelu, 8.0 * ROWS *C, NULL},
    {"gelu backward", call_gelu_backward, 12.0 * ROWS *C, NULL},
    {"silu forward", call_act, 8.0 * ROWS *C, &SILU},
    {"exact gelu forward", call_act, 8.0 * ROWS *C, &GELU},
    {"gated silu forward", call_gated, 6.0 * ROWS *C, NULL},
    {"gated silu backward", call_gated_backward, 10.0 * ROWS *C, NULL},
    {"rotary", call_rotary, 2.0 * ROWS *C, NULL},
    {"add", call_add, 3.0 * ROWS *C, NULL},
    {"bias backward", call_bias_backward, 4.0 * ROWS *C, NULL},
    {"embedding forward", call_embedding, 3.0 * ROWS *C, NULL},
    {"embedding backward", call_embedding_backward, 6.0 * ROWS *C, NULL},
};

static void print_machine(const bench_t *b, int threads)
{
    char line[256], model[200] = "unknown processor";
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (sscanf(line, "model name : %199[^\n]", model) == 1)
            break;
    if (f != NULL)
        fclose(f);
    printf("%s; %s, %d thread%s, %s\n", model, zero_nn_backend(b->nn), threads, threads == 1 ? "" : "s",
           zero_dtype_name(b->dtype));
}

/* The dtype of that name; fp32 for any other. */
static zero_dtype_t dtype_of(const char *name)
{
    return strcmp(name, "bf16") == 0 ? ZERO_BF16 : strcmp(name, "fp16") == 0 ? ZERO_FP16 : ZERO_FP32;
}

int main(int argc, char **argv)
{
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    bench_t b = {.dtype = argc > 2 ? dtype_of(argv[2]) : ZERO_FP32};
    zero_error_t error;
    const char *backend = argc > 3 ? argv[3] : "cpu";
    if (zero_nn_create(&b.nn, backend, threads, NULL, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    if (argc > 4 && strcmp(argv[4], "own") == 0) {
        zero_nn_cpu_t *cpu = b.nn->state;
        zero_nn_onednn_close(cpu->onednn);
        cpu->onednn = NULL;
    }
    size_t count = (size_t)V * C;
    unsigned char **buffers[] = {&b.x, &b.y, &b.z};
    for (int i = 0; i < 3; i++) {
        *buffers[i] = aligned_alloc(4096, count * 4 / 4096 * 4096 + 4096);
        for (size_t j = 0; j < count; j++)
            zero_element_set(*buffers[i], (int64_t)j, b.dtype,
                             (float)(zero_splitmix64(j + (size_t)i) >> 40) * 0x1p-23f - 1.0f);
    }
    b.statistics = calloc((size_t)B * HEADS * 1024, sizeof(float));
    b.tokens = calloc(ROWS, sizeof *b.tokens);
    for (int i = 0; i < ROWS; i++)
        b.tokens[i] = (int32_t)(zero_splitmix64((uint64_t)i) % V);
    print_machine(&b, threads);

    double total = 0, work = 0;
    for (size_t i = 0; i < sizeof PRODUCTS / sizeof PRODUCTS[0]; i++) {
        const product_t *p = &PRODUCTS[i];
        double seconds = fastest(&b, call_product, p), flops = 2.0 * (double)p->m * (double)p->n * (double)p->k;
        int times = i < 12 ? 12 : 1;
        total += times * seconds;
        work += times * flops;
        printf("gemm %-16s m %5lld n %5lld k %5lld  %8.3f ms %7.1f GFLOP/s\n", p->name, (long long)p->m,
               (long long)p->n, (long long)p->k, 1e3 * seconds, 1e-9 * flops / seconds);
    }
    printf("gemm of a micro-step (12 layers, head)      %8.1f ms %7.1f GFLOP/s\n", 1e3 * total, 1e-9 * work / total);
    for (int64_t t = 256; t <= 1024; t *= 2) {
        for (int backward = 0; backward < 2; backward++) { /* two products forward, five backward, of half the square */
            double seconds = fastest(&b, call_attention, &(heads_t){.T = t, .backward = backward});
            double flops = (backward ? 5 : 2) * 2.0 * B * HEADS * (C / HEADS) * (double)(t * (t + 1) / 2);
            printf("attention %-8s B %d T %4lld H %d D %d      %8.3f ms %7.1f GFLOP/s\n",
                   backward ? "backward" : "forward", B, (long long)t, HEADS, C / HEADS, 1e3 * seconds,
                   1e-9 * flops / seconds);
        }
    }
    for (size_t i = 0; i < sizeof ROW_CALLS / sizeof ROW_CALLS[0]; i++) {
        double seconds = fastest(&b, ROW_CALLS[i].call, ROW_CALLS[i].arg);
        printf("%-43s %8.3f ms %7.2f GB/s\n", ROW_CALLS[i].name, 1e3 * seconds,
               1e-9 * ROW_CALLS[i].elements * (double)zero_dtype_size(b.dtype) / seconds);
    }
    for (int grad = 0; grad < 2; grad++) {
        bool with = grad != 0;
        double seconds = fastest(&b, call_entropy, &with);
        printf("%-43s %8.3f ms %7.2f GB/s\n", with ? "cross-entropy, gradient" : "cross-entropy", 1e3 * seconds,
               1e-9 * (grad + 1) * (double)ROWS * V * (double)zero_dtype_size(b.dtype) / seconds);
    }
    free(b.workspace);
    for (int i = 0; i < 3; i++)
        free(*buffers[i]);
    free(b.statistics);
    free(b.tokens);
    zero_nn_destroy(b.nn);
    return 0;
}
