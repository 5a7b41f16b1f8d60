/* SPDX-License-Identifier: Apache-2.0 */
/* attention.c - rates of attention on CPU, at the sizes of a layer of Llama 3.2 1B. Usage: bench/attention [threads
 * (1)] [fp32|bf16|fp16] [rows (2048)]. Each line reports the fastest of some repetitions, in CPU time divided by the
 * threads, so other work on the machine disturbs less. bench/peer_attention.py measures PyTorch in the same way. */
#include "kernels/nn/cpu/cpu.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { HEADS = 32, KEY_HEADS = 8, D = 64, TIMES = 5 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *values(int64_t count, zero_dtype_t dtype)
{
    void *p = aligned_alloc(4096, ((size_t)count * sizeof(float) + 4095) / 4096 * 4096);
    for (int64_t i = 0; i < count; i++)
        zero_element_set(p, i, dtype, (float)(zero_splitmix64((uint64_t)i) >> 40) * 0x1p-23f - 1.0f);
    return p;
}

typedef struct call {
    zero_nn_attention_t a;
    zero_nn_attention_grad_t g;
    bool backward;
} call_t;

static void make(zero_nn_t *nn, const call_t *c)
{
    if (c->backward)
        zero_nn_attention_backward(nn, &c->a, c->g.dout, c->g.dq, c->g.dk, c->g.dv, NULL);
    else
        zero_nn_attention_forward(nn, &c->a);
}

/* Seconds of CPU time of the fastest call, divided by the threads. */
static double fastest(zero_nn_t *nn, const call_t *c)
{
    zero_error_t error = {.status = ZERO_OK};
    zero_nn_set_dry(nn, true);
    make(nn, c);
    zero_nn_set_dry(nn, false);
    const uint64_t bytes = zero_nn_workspace_bytes(nn);
    void *workspace = aligned_alloc(4096, (bytes + 8191) / 4096 * 4096);
    zero_nn_set_workspace(nn, workspace, bytes);
    double best = INFINITY;
    for (int i = 0; i < TIMES; i++) {
        const double start = now();
        make(nn, c);
        best = fmin(best, now() - start);
    }
    if (zero_nn_status(nn, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        exit(1);
    }
    zero_nn_set_workspace(nn, NULL, 0);
    free(workspace);
    return best / nn->threads;
}

/* Prints the time of both directions. pairs: of queries and keys, per head. */
static void measure(zero_nn_t *nn, const char *name, call_t *c, double pairs)
{
    for (int backward = 0; backward < 2; backward++) { /* two products forward, five backward */
        c->backward = backward != 0;
        const double seconds = fastest(nn, c);
        printf("%-22s %-8s H %lld KV %lld D %lld T %lld  %9.3f ms %7.1f GFLOP/s\n", name,
               backward ? "backward" : "forward", (long long)c->a.H, (long long)c->a.KV, (long long)c->a.D,
               (long long)c->a.T, 1e3 * seconds,
               1e-9 * (backward ? 10 : 4) * pairs * (double)(c->a.B * c->a.H * c->a.D) / seconds / nn->threads);
    }
}

int main(int argc, char **argv)
{
    const int threads = argc > 1 ? atoi(argv[1]) : 1;
    const char *const name = argc > 2 ? argv[2] : "fp32";
    const zero_dtype_t dtype = strcmp(name, "bf16") == 0   ? ZERO_BF16
                               : strcmp(name, "fp16") == 0 ? ZERO_FP16
                                                           : ZERO_FP32;
    const int64_t T = argc > 3 ? atoi(argv[3]) : 2048;
    zero_nn_t *nn = NULL;
    zero_error_t error;
    if (zero_nn_create(&nn, "cpu", threads, NULL, &error) != ZERO_OK) {
        fprintf(stderr, "%s\n", error.text);
        return 1;
    }
    void *buffers[8];
    for (int i = 0; i < 8; i++)
        buffers[i] = values(T * HEADS * D, dtype);
    call_t c = {.a = {.B = 1, .T = T, .H = HEADS, .KV = KEY_HEADS, .D = D, .q_stride = HEADS * D, .scale = 0.125}};
    c.a.dtype = dtype;
    c.a.q = buffers[0], c.a.k = buffers[1], c.a.v = buffers[2], c.a.out = buffers[3];
    c.a.lse = calloc((size_t)(T * HEADS), sizeof(float));
    c.g = (zero_nn_attention_grad_t){.dout = buffers[4], .dq = buffers[5], .dk = buffers[6], .dv = buffers[7]};
    printf("%s, %d thread%s, %s\n", zero_nn_backend(nn), threads, threads == 1 ? "" : "s", zero_dtype_name(dtype));
    const double half = (double)(T * (T + 1) / 2);
    c.a.k_stride = c.a.v_stride = KEY_HEADS * D;
    c.a.causal = true;
    measure(nn, "causal", &c, half);
    int32_t *ranges = calloc((size_t)T, 2 * sizeof *ranges);
    for (int64_t t = 0; t < T; t++) {
        ranges[2 * t] = (int32_t)(t < T / 2 ? 0 : T / 2);
        ranges[2 * t + 1] = (int32_t)(t < T / 2 ? T / 2 : T);
    }
    c.a.ranges = ranges;
    measure(nn, "causal, 2 documents", &c, (double)(T / 2 * (T / 2 + 1)));
    c.a.causal = false;
    c.a.ranges = NULL;
    measure(nn, "all keys", &c, (double)(T * T));
    c.a.S = T / 4;
    measure(nn, "a quarter of the keys", &c, (double)(T * c.a.S));
    c.a.S = 0;
    c.a.causal = true;
    c.a.KV = HEADS;
    c.a.k_stride = c.a.v_stride = HEADS * D;
    measure(nn, "causal, keys per head", &c, half);
    free(ranges);
    free(c.a.lse);
    for (int i = 0; i < 8; i++)
        free(buffers[i]);
    zero_nn_destroy(nn);
    return 0;
}
