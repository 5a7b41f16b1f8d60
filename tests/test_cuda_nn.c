/* SPDX-License-Identifier: Apache-2.0 */
/* test_cuda_nn.c - what is specific to the CUDA backend of kernels/nn: its name, refusals, calls that only queue work,
 * and faults at each place. test_cuda_nn_rows, test_cuda_nn_model and test_cuda_nn_attention compare its results with
 * ref's. */
#include "kernels/nn/backend.h"
#include "tests/expect.h"
#include "tests/emulated.h"
#include "tests/emulator/include/cuda_runtime_api.h"
#include "zero/device/device.h"

#include <check.h>
#include <dlfcn.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { MOST = 1 << 20, WORKSPACE = 64 << 20 };
#define SECONDS 100.0

/* A GPU with memory of both tiers, and a context on it. */
typedef struct bench {
    zero_device_t *device;
    zero_stream_t *stream;
    zero_arena_t *arena, *host;
    zero_nn_t *nn;
    void *native;
    unsigned char *base; /* device memory: operands, then the workspace */
    float *pinned;
} bench_t;

static zero_error_t why;

#define OK(call) ck_assert_msg((call) == ZERO_OK, "%s: %s", #call, why.text)
#define EXPECT(condition, ...)         \
    do {                               \
        if (!(condition))              \
            ck_abort_msg(__VA_ARGS__); \
    } while (0)

static void says(zero_status_t got, zero_status_t status, const char *part)
{
    EXPECT(got == status, "status %d (%s), %d is right", (int)got, why.text, (int)status);
    EXPECT(has_names(why.text, part), "'%s' does not say '%s'", why.text, part);
}

static bool emulated(void)
{
    return strstr(getenv("ZERO_PLUGIN_PATH"), "emulator") != NULL;
}

static bench_t bench_new(const char *mode)
{
    bench_t b = {0};
    setenv("ZERO_EMULATOR", mode, 1);
    OK(zero_device_cuda(&b.device, NULL, &why));
    OK(b.device->ops->stream_create(b.device, ZERO_STREAM_COMPUTE, &b.stream, &why));
    OK(b.device->ops->arena_create(b.device, ZERO_TIER_DEVICE, 2 * MOST + WORKSPACE, &b.arena, &why));
    OK(b.device->ops->arena_create(b.device, ZERO_TIER_HOST, MOST, &b.host, &why));
    b.base = b.device->ops->arena_base(b.arena);
    b.pinned = b.device->ops->arena_base(b.host);
    b.native = b.device->ops->native(b.stream);
    return b;
}

static void bench_free(bench_t *b)
{
    zero_nn_destroy(b->nn);
    b->device->ops->arena_destroy(b->host);
    b->device->ops->arena_destroy(b->arena);
    b->device->ops->stream_destroy(b->stream);
    zero_device_destroy(b->device);
}

static void finish(bench_t *b)
{
    OK(b->device->ops->finish(b->device, b->native, SECONDS, &why));
}

/* Makes every call once, in each dtype that it supports, on operands that begin at p; NULL in a dry run. host: tokens,
 * targets and losses. */
enum { B = 2, T = 70, C = 24, V = 40, HEADS = 3, ROWS = B * T };

static void *behind(void *p, int64_t elements, zero_dtype_t dtype)
{
    return p == NULL ? NULL : (char *)p + (size_t)elements * zero_dtype_size(dtype);
}

static zero_nn_rotary_t rotary_of(void *x, const int32_t *positions, zero_dtype_t dtype)
{
    static const float FREQUENCIES[C / HEADS / 2] = {1, 0.1f, 0.01f, 0.001f};
    return (zero_nn_rotary_t){.rows = ROWS,
                              .T = T,
                              .heads = HEADS,
                              .D = C / HEADS,
                              .frequencies = FREQUENCIES,
                              .positions = positions,
                              .dtype = dtype,
                              .x = x};
}

static void call_all(zero_nn_t *nn, unsigned char *p, float *host)
{
    const zero_dtype_t dtypes[] = {ZERO_FP32, ZERO_BF16, ZERO_FP16};
    const size_t most = (size_t)ROWS * 3 * C * sizeof(float); /* the largest operand */
    int32_t *index = (int32_t *)(host ? host + ROWS : NULL);
    for (int d = 0; d < 3; d++) {
        const zero_dtype_t dtype = dtypes[d];
        void *x[8];
        for (int i = 0; i < 8; i++)
            x[i] = p == NULL ? NULL : p + ((size_t)(8 * d + i) * most + 255) / 256 * 256;
        zero_nn_embedding_forward(nn, x[0], index, x[1], x[2], B, T, C, dtype);
        zero_nn_norm_forward(nn, &(zero_nn_norm_t){.rows = ROWS,
                                                   .C = C,
                                                   .eps = 1e-5,
                                                   .dtype = dtype,
                                                   .x = x[0],
                                                   .w = x[1],
                                                   .b = x[1],
                                                   .y = x[2],
                                                   .mean = x[3],
                                                   .rstd = x[4]});
        zero_nn_gemm(nn,
                     &(zero_nn_gemm_t){
                         .m = ROWS, .n = 3 * C, .k = C, .dtype = dtype, .a = x[2], .b = x[0], .bias = x[1], .c = x[5]});
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = C,
                                           .n = 1,
                                           .k = ROWS,
                                           .dtype = dtype,
                                           .trans_a = true,
                                           .a = x[2],
                                           .b = x[0],
                                           .bias = x[1],
                                           .c = x[6]});
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = ROWS,
                                           .n = 3 * C,
                                           .k = C,
                                           .dtype = dtype,
                                           .a = x[2],
                                           .b = x[0],
                                           .bias = x[1],
                                           .c = x[6],
                                           .epilogue = ZERO_NN_EPILOGUE_GELU_NEW,
                                           .aux = x[5]});
        zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = ROWS,
                                           .n = 3 * C,
                                           .k = C,
                                           .dtype = dtype,
                                           .trans_b = true,
                                           .a = x[2],
                                           .b = x[0],
                                           .c = x[6],
                                           .epilogue = ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD,
                                           .aux = x[5],
                                           .dbias = x[7]});
        zero_nn_act_forward(nn, ZERO_NN_GELU_NEW, x[6], x[5], ROWS * 3 * C, dtype);
        zero_nn_act_backward(nn, ZERO_NN_GELU_NEW, x[6], x[7], x[6], x[5], ROWS, 3 * C, dtype);
        zero_nn_gated_forward(nn, ZERO_NN_SILU, x[3], x[6], ROWS, C, dtype);
        zero_nn_gated_backward(nn, ZERO_NN_SILU, x[6], x[3], x[6], ROWS, C, dtype);
        zero_nn_rotary_t rotary = rotary_of(x[6], index, dtype);
        zero_nn_rotary(nn, &rotary);
        zero_nn_norm_t heads = {.rows = ROWS,
                                .C = C / HEADS,
                                .groups = HEADS,
                                .eps = 1e-5,
                                .dtype = dtype,
                                .rms = true,
                                .x = x[6],
                                .w = x[1],
                                .y = x[3],
                                .rstd = x[4],
                                .dy = x[3],
                                .dx = x[3],
                                .dw = x[7]};
        zero_nn_norm_forward(nn, &heads);
        zero_nn_norm_backward(nn, &heads);
        zero_nn_add(nn, x[6], x[6], x[5], ROWS * 3 * C, dtype);
        zero_nn_scale(nn, x[6], x[6], 0.5, ROWS * 3 * C, dtype);
        zero_nn_add_sums(nn, x[6], x[5], ROWS * 3 * C / 2, dtype);
        zero_nn_bias_backward(nn, x[7], x[6], ROWS, 3 * C, dtype);
        zero_nn_attention_t a = {.B = B,
                                 .T = T,
                                 .H = HEADS,
                                 .KV = HEADS,
                                 .D = C / HEADS,
                                 .q_stride = 3 * C,
                                 .k_stride = 3 * C,
                                 .v_stride = 3 * C,
                                 .scale = 0.5,
                                 .causal = true,
                                 .dtype = dtype,
                                 .q = x[0],
                                 .k = x[2],
                                 .v = x[0],
                                 .out = x[3],
                                 .lse = x[4]};
        zero_nn_attention_forward(nn, &a);
        zero_nn_attention_backward(nn, &a, x[2], x[5], behind(x[5], C, dtype), behind(x[5], 2 * C, dtype), x[7]);
        zero_nn_norm_backward(nn, &(zero_nn_norm_t){.rows = ROWS,
                                                    .C = C,
                                                    .dtype = dtype,
                                                    .x = x[0],
                                                    .w = x[1],
                                                    .mean = x[4],
                                                    .rstd = x[4],
                                                    .dy = x[2],
                                                    .dresidual = x[5],
                                                    .dx = x[5],
                                                    .dw = x[6],
                                                    .db = x[7],
                                                    .dbias = x[3],
                                                    .dbias_residual = behind(x[3], C, dtype)});
        zero_nn_cross_entropy(nn, host, x[6], index, ROWS, V, 0, true, 1, dtype);
        zero_nn_cross_entropy_local(nn, x[3], x[6], index, ROWS, 9, V - 9, V, dtype);
        zero_nn_cross_entropy_combine(nn, host, x[6], x[3], 1, index, ROWS, 9, V - 9, V, true, 1, dtype);
        zero_nn_embedding_backward(nn, x[1], x[7], x[5], index, B, T, C, V, dtype);
    }
}

static void fill(bench_t *b)
{
    for (int i = 0; i < MOST / 4; i++)
        b->pinned[i] = (float)sin(i) / 4;
    OK(b->device->ops->copy(b->device, b->native, b->base, b->pinned, MOST, &why));
    finish(b);
    for (int i = 0; i < ROWS; i++)
        ((int32_t *)b->pinned)[ROWS + i] = (i * 7919) % V;
}

/* A context with planned calls, and a workspace for them. */
static void plan_all(bench_t *b)
{
    OK(zero_nn_create(&b->nn, "cuda", 1, b->native, &why));
    zero_nn_set_dry(b->nn, true);
    call_all(b->nn, NULL, NULL);
    zero_nn_set_dry(b->nn, false);
    OK(zero_nn_status(b->nn, &why));
    ck_assert(zero_nn_workspace_bytes(b->nn) > 0 && zero_nn_workspace_bytes(b->nn) < WORKSPACE);
    zero_nn_set_workspace(b->nn, b->base + 2 * MOST, zero_nn_workspace_bytes(b->nn));
}

/* ---- names and refusals ----------------------------------------------------------------------------------------- */

START_TEST(names)
{
    bench_t b = bench_new("inline");
    plan_all(&b);
    const char *name = zero_nn_backend(b.nn);
    EXPECT(strncmp(name, "cuda (", 6) == 0 && strstr(name, "cuBLASLt ") != NULL && name[strlen(name) - 1] == ')', "%s",
           name);
    if (emulated())
        EXPECT(strstr(name, "cuDNN") == NULL, "%s", name);
    bench_free(&b);
}
END_TEST

START_TEST(without_the_plugin)
{
    zero_nn_t *nn = NULL;
    char path[4096];
    snprintf(path, sizeof path, "%s", getenv("ZERO_PLUGIN_PATH"));
    setenv("ZERO_PLUGIN_PATH", "/nonexistent", 1);
    says(zero_nn_create(&nn, "cuda", 1, NULL, &why), ZERO_ERR_UNSUPPORTED, "zero_nn_cuda.so");
    setenv("ZERO_PLUGIN_PATH", path, 1); /* with CK_FORK=no, for the tests that follow */
    ck_assert(nn == NULL);
}
END_TEST

START_TEST(without_a_gpu)
{
    if (!emulated())
        return;
    zero_nn_t *nn = NULL;
    setenv("ZERO_EMULATOR_DEVICES", _i == 0 ? "0" : "-1", 1);
    says(zero_nn_create(&nn, "cuda", 1, NULL, &why), ZERO_ERR_UNSUPPORTED,
         _i == 0 ? "cudaErrorNoDevice" : "cudaErrorInsufficientDriver");
    ck_assert(nn == NULL);
}
END_TEST

/* Addresses never influence the choice of an algorithm: if the planned one cannot read an operand, the call fails and
 * writes nothing. */
START_TEST(refusals)
{
    bench_t b = bench_new("inline");
    OK(zero_nn_create(&b.nn, "cuda", 1, b.native, &why));
    zero_nn_gemm_t g = {.m = 8, .n = 16, .k = 24, .dtype = ZERO_BF16},
                   odd = {.m = 8, .n = 15, .k = 25, .dtype = ZERO_BF16};
    zero_nn_gemm_t gelu = g;
    gelu.epilogue = ZERO_NN_EPILOGUE_GELU_NEW;
    zero_nn_set_dry(b.nn, true);
    zero_nn_gemm(b.nn, &g);
    zero_nn_gemm(b.nn, &odd);
    zero_nn_gemm(b.nn, &gelu);
    OK(zero_nn_status(b.nn, &why));
    zero_nn_attention_t a = {
        .B = 1, .T = 2, .H = 1, .KV = 1, .D = 257, .q_stride = 257, .k_stride = 257, .v_stride = 257, .scale = 1};
    zero_nn_attention_forward(b.nn, &a);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_UNSUPPORTED, "257 256");
    zero_nn_attention_backward(b.nn, &a, NULL, NULL, NULL, NULL, NULL);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_UNSUPPORTED, "attention_backward 1 2 257 fp32");
    zero_nn_set_dry(b.nn, false);
    zero_nn_set_workspace(b.nn, b.base + 2 * MOST, zero_nn_workspace_bytes(b.nn));
    fill(&b);

    unsigned char *p[] = {b.base, b.base + 4096, b.base + 8192, b.base + 12288};
    const char *names[] = {"a at", "b at", "the bias at", "c at"};
    for (int i = 0; i < 4; i++) {
        zero_nn_gemm_t bad = g;
        bad.a = p[0] + (i == 0 ? 8 : 0);
        bad.b = p[1] + (i == 1 ? 8 : 0);
        bad.bias = p[2] + (i == 2 ? 8 : 0);
        bad.c = p[3] + (i == 3 ? 8 : 0);
        zero_nn_gemm(b.nn, &bad);
        says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, names[i]);
        says(ZERO_ERR_ARG, ZERO_ERR_ARG, "16");
    }
    gelu.a = p[0];
    gelu.b = p[1];
    gelu.c = p[3];
    gelu.aux = p[2] + 8;
    zero_nn_gemm(b.nn, &gelu);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, "8 16 24 bf16");
    says(ZERO_ERR_ARG, ZERO_ERR_ARG, "16");
    unsigned char after[256], before[256];
    memcpy(before, (unsigned char *)b.pinned + 12288, sizeof before);
    OK(b.device->ops->copy(b.device, b.native, after, p[3], sizeof after, &why));
    finish(&b);
    ck_assert(memcmp(before, after, sizeof after) == 0);

    /* Rows of an odd number of elements: such a matrix may begin at any element, but not inside one. */
    odd.a = p[0] + 2;
    odd.b = p[1] + 2;
    odd.c = p[3] + 2;
    zero_nn_gemm(b.nn, &odd);
    OK(zero_nn_status(b.nn, &why));
    odd.c = p[3] + 1;
    zero_nn_gemm(b.nn, &odd);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, "2");
    finish(&b);
    bench_free(&b);
}
END_TEST

/* Memory that kernels cannot access is refused before one runs. */
START_TEST(memory_of_the_host)
{
    if (!emulated()) /* a driver may access all host memory */
        return;
    bench_t b = bench_new("inline");
    plan_all(&b);
    fill(&b);
    int32_t *const pinned = (int32_t *)b.pinned + ROWS, plain[ROWS] = {0};
    float losses[ROWS] = {0};
    const struct {
        const int32_t *targets;
        float *losses;
        const char *what;
    } bad[] = {{plain, b.pinned, "targets"}, {pinned, losses, "losses"}};
    for (int i = 0; i < 2; i++) {
        zero_nn_cross_entropy(b.nn, bad[i].losses, b.base, bad[i].targets, ROWS, V, 0, true, 1, ZERO_FP32);
        says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, "cross_entropy 140 40 1 fp32");
        says(ZERO_ERR_ARG, ZERO_ERR_ARG, bad[i].what);
        says(ZERO_ERR_ARG, ZERO_ERR_ARG, "");
    }
    for (int i = 0; i < 3; i++) {
        if (i == 0)
            zero_nn_cross_entropy_local(b.nn, (float *)b.base, b.base, plain, ROWS, 9, V - 9, V, ZERO_FP32);
        else
            zero_nn_cross_entropy_combine(b.nn, bad[i - 1].losses, b.base, (float *)b.base, 1, bad[i - 1].targets, ROWS,
                                          9, V - 9, V, true, 1, ZERO_FP32);
        says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, i == 0 ? "cross_entropy_local" : "cross_entropy_combine");
        says(ZERO_ERR_ARG, ZERO_ERR_ARG, i == 0 ? "targets" : bad[i - 1].what);
    }
    zero_nn_embedding_forward(b.nn, b.base, plain, b.base, b.base, B, T, C, ZERO_FP32);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, "");
    zero_nn_embedding_backward(b.nn, b.base, NULL, b.base, plain, B, T, C, V, ZERO_FP32);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, "");
    zero_nn_rotary_t r = rotary_of(b.base, plain, ZERO_FP32);
    zero_nn_rotary(b.nn, &r);
    says(zero_nn_status(b.nn, &why), ZERO_ERR_ARG, "rotary positions");
    float before[ROWS * C], after[ROWS * C];
    for (int i = 0; i < ROWS * C; i++)
        before[i] = i < ROWS || i >= 2 * ROWS ? b.pinned[i] : (float)sin(i) / 4;
    OK(b.device->ops->copy(b.device, b.native, after, b.base, sizeof after, &why));
    finish(&b);
    ck_assert(memcmp(before, after, sizeof after) == 0);
    bench_free(&b);
}
END_TEST

static void call_rotary(void *ctx)
{
    const bench_t *b = ctx;
    zero_nn_rotary_t r = rotary_of(b->base, (const int32_t *)b->pinned + ROWS, ZERO_FP32);
    zero_nn_rotary(b->nn, &r);
}

/* Positions are read when the GPU runs the call, so a graph uses those of each run. */
START_TEST(positions_in_a_graph)
{
    float out[2][ROWS * C];
    for (int graphs = 0; graphs < 2; graphs++) {
        bench_t b = bench_new("inline");
        plan_all(&b);
        fill(&b);
        zero_nn_set_graphs(b.nn, graphs != 0);
        for (int time = 0; time < 5; time++) {
            for (int i = 0; i < ROWS; i++)
                ((int32_t *)b.pinned)[ROWS + i] = i * (time + 1);
            zero_nn_repeat(b.nn, 0, call_rotary, &b);
            OK(zero_nn_status(b.nn, &why));
            finish(&b);
        }
        OK(b.device->ops->copy(b.device, b.native, out[graphs], b.base, sizeof out[0], &why));
        finish(&b);
        bench_free(&b);
    }
    ck_assert(memcmp(out[0], out[1], sizeof out[0]) == 0);
}
END_TEST

/* ---- epilogues -------------------------------------------------------------------------------------------------- */

/* A product with an epilogue, computed in one kernel or two. In 16 bits the results differ, because two kernels round
 * the value in between. */
static const struct {
    const char *major; /* the GPU's compute capability */
    zero_dtype_t dtype;
    int n;
    bool fused;
} EPILOGUES[] = {
    {"8", ZERO_BF16, 72, false}, {"9", ZERO_BF16, 72, true},  {"10", ZERO_BF16, 72, true}, {"12", ZERO_BF16, 72, false},
    {"9", ZERO_BF16, 71, false}, {"9", ZERO_FP32, 72, false}, {"8", ZERO_FP16, 72, false}, {"9", ZERO_FP16, 72, true},
};

START_TEST(epilogues)
{
    if (!emulated())
        return;
    setenv("ZERO_EMULATOR_MAJOR", EPILOGUES[_i].major, 1);
    bench_t b = bench_new("inline");
    const int n = EPILOGUES[_i].n, m = 40, k = 24, room = 16 << 10;
    const zero_dtype_t dtype = EPILOGUES[_i].dtype;
    zero_nn_gemm_t g = {.m = m,
                        .n = n,
                        .k = k,
                        .dtype = dtype,
                        .a = b.base,
                        .b = b.base + room,
                        .bias = b.base + 2 * room,
                        .c = b.base + 3 * room,
                        .epilogue = ZERO_NN_EPILOGUE_GELU_NEW,
                        .aux = b.base + 4 * room};
    zero_nn_gemm_t back = g, plain = g;
    back.bias = NULL;
    back.c = b.base + 5 * room;
    back.epilogue = ZERO_NN_EPILOGUE_GELU_NEW_BACKWARD;
    plain.epilogue = ZERO_NN_EPILOGUE_NONE;
    plain.c = b.base + 6 * room;
    OK(zero_nn_create(&b.nn, "cuda", 1, b.native, &why));
    for (int dry = 1; dry >= 0; dry--) {
        zero_nn_set_dry(b.nn, dry);
        zero_nn_gemm(b.nn, &g);
        zero_nn_gemm(b.nn, &back);
        zero_nn_gemm(b.nn, &plain);
        zero_nn_act_forward(b.nn, ZERO_NN_GELU_NEW, plain.c, plain.c, m * n, dtype);
        plain.bias = NULL;
        plain.c = b.base + 7 * room;
        zero_nn_gemm(b.nn, &plain);
        zero_nn_act_backward(b.nn, ZERO_NN_GELU_NEW, plain.c, NULL, plain.c, g.aux, m, n, dtype);
        plain.bias = g.bias;
        plain.c = b.base + 6 * room;
        OK(zero_nn_status(b.nn, &why));
        if (dry) {
            for (int i = 0; i < 3 * room / 2; i++)
                zero_element_set(b.pinned, i, dtype, (float)sin(i));
            OK(b.device->ops->copy(b.device, b.native, b.base, b.pinned, (uint64_t)room * 3, &why));
            zero_nn_set_workspace(b.nn, b.base + 2 * MOST, WORKSPACE);
        }
    }
    unsigned char *got = malloc((size_t)room * 8);
    OK(b.device->ops->copy(b.device, b.native, got, b.base, (uint64_t)room * 8, &why));
    finish(&b);
    size_t bytes = (size_t)(m * n) * zero_dtype_size(dtype);
    ck_assert_int_eq(memcmp(got + 3 * room, got + 6 * room, bytes) != 0, EPILOGUES[_i].fused);
    ck_assert_int_eq(memcmp(got + 5 * room, got + 7 * room, bytes) != 0, EPILOGUES[_i].fused);
    free(got);
    bench_free(&b);
}
END_TEST

/* ---- sizes that do not fit tensor cores ------------------------------------------------------------------------- */

/* Whether a product becomes two, according to the plans of a dry run. */
START_TEST(cuts)
{
    static const struct {
        zero_nn_gemm_t g;
        int products;
        int64_t first[3], rest[3];
    } CASES[] = {
        {{.m = 256, .n = 50257, .k = 64, .trans_b = true, .ldc = 50304}, 2, {256, 50176, 64}, {256, 81, 64}},
        {{.m = 50257, .n = 64, .k = 256, .trans_a = true, .accumulate = true, .lda = 50304},
         2,
         {50176, 64, 256},
         {81, 64, 256}},
        {{.m = 256, .n = 64, .k = 50257, .lda = 50304}, 2, {256, 64, 50176}, {256, 64, 81}},
        {{.m = 256, .n = 50257, .k = 64, .trans_b = true},
         1,
         {256, 50257, 64},
         {0}}, /* if rows may begin anywhere, two products are no faster */
        {{.m = 256, .n = 50256, .k = 64, .trans_b = true}, 1, {256, 50256, 64}, {0}},
        {{.m = 50257, .n = 64, .k = 64}, 1, {50257, 64, 64}, {0}},
        {{.m = 256, .n = 129, .k = 64, .trans_b = true, .ldc = 256}, 1, {256, 129, 64}, {0}},
    };
    bench_t b = bench_new("inline");
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        zero_nn_gemm_t g = CASES[i].g;
        g.dtype = ZERO_BF16;
        OK(zero_nn_create(&b.nn, "cuda", 1, b.native, &why));
        zero_nn_set_dry(b.nn, true);
        zero_nn_gemm(b.nn, &g);
        OK(zero_nn_status(b.nn, &why));
        ck_assert_int_eq((int)b.nn->count, CASES[i].products);
        ck_assert(memcmp(b.nn->plans[0].shape.d, CASES[i].first, sizeof CASES[i].first) == 0);
        ck_assert(CASES[i].products == 1 || memcmp(b.nn->plans[1].shape.d, CASES[i].rest, sizeof CASES[i].rest) == 0);
        zero_nn_destroy(b.nn);
    }
    b.nn = NULL;
    bench_free(&b);
}
END_TEST

/* ---- algorithms of products ------------------------------------------------------------------------------------- */

static int told;
static char last_told[512];

static void hear(void *ctx, zero_log_level_t level, const char *text)
{
    (void)ctx;
    ck_assert_int_eq((int)level, ZERO_LOG_WARNING);
    told++;
    snprintf(last_told, sizeof last_told, "%s", text);
}

enum { PM = 40, PN = 72, PK = 64, PART = 16 << 10 };

/* Computes a product with a bias and GELU, and a plain one, in a context with these choices; puts (m, n) of each at
 * got. Returns the choices after that, which the caller frees. */
static char *products(bench_t *b, const char *choices, bool measure, zero_dtype_t dtype, unsigned char *got)
{
    zero_nn_gemm_t g = {.m = PM,
                        .n = PN,
                        .k = PK,
                        .dtype = dtype,
                        .a = b->base,
                        .b = b->base + PART,
                        .bias = b->base + 2 * PART,
                        .c = b->base + 3 * PART,
                        .epilogue = ZERO_NN_EPILOGUE_GELU_NEW,
                        .aux = b->base + 4 * PART};
    zero_nn_gemm_t plain = {.m = PM, .n = PN, .k = PK, .dtype = dtype, .a = g.a, .b = g.b, .c = b->base + 5 * PART};
    zero_nn_destroy(b->nn);
    OK(zero_nn_create(&b->nn, "cuda", 1, b->native, &why));
    zero_nn_set_log(b->nn, hear, NULL);
    if (choices != NULL || measure)
        OK(zero_nn_set_choices(b->nn, choices, measure, &why));
    for (int i = 0; i < 3 * PART / 4; i++)
        zero_element_set(b->pinned, i, dtype, (float)sin(i));
    OK(b->device->ops->copy(b->device, b->native, b->base, b->pinned, 3 * PART, &why));
    for (int dry = 1; dry >= 0; dry--) {
        zero_nn_set_dry(b->nn, dry);
        zero_nn_gemm(b->nn, &g);
        zero_nn_gemm(b->nn, &plain);
        OK(zero_nn_status(b->nn, &why));
        zero_nn_set_workspace(b->nn, b->base + 2 * MOST, WORKSPACE);
    }
    OK(b->device->ops->copy(b->device, b->native, got, b->base + 3 * PART, 3 * PART, &why));
    finish(b);
    return zero_nn_choices(b->nn);
}

/* Choices are measured once, and give the same bits to every reader. The heuristic's first proposal gives other
 * bits. */
START_TEST(choices)
{
    if (!emulated())
        return;
    bench_t b = bench_new("inline");
    unsigned char *got[4];
    for (int i = 0; i < 4; i++)
        got[i] = malloc(3 * PART);
    char *none = products(&b, NULL, false, ZERO_FP32, got[0]), *measured = products(&b, "", true, ZERO_FP32, got[1]);
    ck_assert_int_eq(strncmp(none, "zero_nn products of Emulated GPU 0, cuBLASLt 13.0.0\n", 49), 0);
    ck_assert_msg(strchr(none, '\n')[1] == '\0' && strchr(measured, '\n')[1] != '\0', "%s", measured);
    uint64_t (*calls)(const char *);
    *(void **)&calls = dlsym(dlopen("libcuda_emulator.so", RTLD_NOW | RTLD_NOLOAD), "zero_emulator_calls");
    const uint64_t timed = calls("cudaEventElapsedTime");
    ck_assert(timed > 0);
    char *again = products(&b, measured, true, ZERO_FP32, got[2]),
         *read = products(&b, measured, false, ZERO_FP32, got[3]);
    ck_assert_str_eq(measured, again);
    ck_assert_str_eq(measured, read);
    ck_assert_uint_eq(calls("cudaEventElapsedTime"), timed);
    ck_assert(memcmp(got[1], got[2], 3 * PART) == 0 && memcmp(got[1], got[3], 3 * PART) == 0);
    ck_assert(memcmp(got[0], got[1], 3 * PART) != 0);
    ck_assert_int_eq(told, 0);

    /* Invalid texts; an algorithm of another product; a product that occurs twice. */
    char text[4096], *line = strchr(measured, '\n') + 1, *next = strchr(line, '\n') + 1;
    zero_nn_t *nn = NULL;
    OK(zero_nn_create(&nn, "cuda", 1, b.native, &why));
    says(zero_nn_set_choices(nn, "no choices\n", true, &why), ZERO_ERR_ARG, "1 'zero_nn products of '");
    says(zero_nn_set_choices(nn, "zero_nn products of Another GPU, cuBLASLt 13.0.0\n", true, &why), ZERO_ERR_ARG,
         "GPU cuBLASLt 13.0.0");
    snprintf(text, sizeof text, "%s40 72\n", none);
    says(zero_nn_set_choices(nn, text, true, &why), ZERO_ERR_ARG, "2");
    snprintf(text, sizeof text, "%s%.*s%.*s", none, (int)(next - line), line, (int)(next - line), line);
    says(zero_nn_set_choices(nn, text, true, &why), ZERO_ERR_ARG, "3");
    zero_nn_destroy(nn);
    OK(zero_nn_create(&nn, "cuda", 1, b.native, &why));
    snprintf(text, sizeof text, "%s56 72 64 64 72 72 0%s", none,
             strstr(line, " fp32 plain")); /* another product's sizes with its algorithm */
    strchr(strchr(text, '\n') + 1, '\n')[1] = '\0';
    OK(zero_nn_set_choices(nn, text, true, &why));
    zero_nn_set_dry(nn, true);
    zero_nn_gemm(nn, &(zero_nn_gemm_t){.m = 56, .n = 72, .k = 64});
    says(zero_nn_status(nn, &why), ZERO_ERR_ARG, "cuBLASLt CUBLAS_STATUS_INVALID_VALUE");
    zero_nn_destroy(nn);
    OK(zero_nn_create(&nn, "cpu", 1, NULL, &why));
    says(zero_nn_set_choices(nn, NULL, true, &why), ZERO_ERR_UNSUPPORTED, "");
    zero_nn_destroy(nn);
    for (int i = 0; i < 4; i++)
        free(got[i]);
    free(none);
    free(measured);
    free(again);
    free(read);
    bench_free(&b);
}
END_TEST

/* If the heuristic proposes an algorithm and the call then refuses it, our own kernels compute the product, with a
 * separate kernel for GELU: the result is the same up to rounding. Each case gives one warning. */
START_TEST(refused_when_called)
{
    if (!emulated())
        return;
    unsigned char *got = malloc(3 * PART);
    setenv("ZERO_EMULATOR_FAIL", _i == 0 ? "unsupported:1+" : "unsupported:2", 1);
    bench_t b = bench_new("inline");
    free(products(&b, NULL, false, ZERO_BF16, got));
    ck_assert_int_eq(told, _i == 0 ? 3 : 1);
    ck_assert_msg(has_names(last_told, "cuBLASLt CUBLAS_STATUS_NOT_SUPPORTED"), "%s", last_told);
    /* a * b + bias by plain loops */
    for (int i = 0; i < PM; i++)
        for (int j = 0; j < PN; j++) {
            float sum = 0, bias = zero_element((char *)b.pinned + 2 * PART, j, ZERO_BF16), before, plain, after;
            for (int l = 0; l < PK; l++)
                sum += zero_element(b.pinned, i * PK + l, ZERO_BF16) *
                       zero_element((char *)b.pinned + PART, l * PN + j, ZERO_BF16);
            after = zero_element(got, i * PN + j, ZERO_BF16);
            before = zero_element(got + PART, i * PN + j, ZERO_BF16);
            plain = zero_element(got + 2 * PART, i * PN + j, ZERO_BF16);
            const float gelu =
                0.5f * (sum + bias) * (1 + tanhf(0.79788456f * (sum + bias + 0.044715f * powf(sum + bias, 3))));
            EXPECT(fabsf(before - sum - bias) <= 0x1p-7f * (fabsf(sum + bias) + 1), "(%d, %d): %g + %g gives %g", i, j,
                   sum, bias, before);
            EXPECT(fabsf(plain - sum) <= 0x1p-7f * (fabsf(sum) + 1), "(%d, %d): %g gives %g", i, j, sum, plain);
            EXPECT(fabsf(after - gelu) <= 0x1p-6f * (fabsf(gelu) + 1), "(%d, %d): gelu %g gives %g", i, j, gelu, after);
        }
    free(got);
    bench_free(&b);
}
END_TEST

/* One warning says why attention is slow, and the label says what computes. */
START_TEST(what_computes)
{
    if (!emulated())
        return;
    bench_t b = bench_new("inline");
    char text[512];
    OK(zero_nn_create(&b.nn, "cuda", 1, b.native, &why));
    zero_nn_set_log(b.nn, hear, NULL);
    zero_nn_set_dry(b.nn, true);
    zero_nn_describe(b.nn, text, sizeof text);
    ck_assert_str_eq(text, "");
    call_all(b.nn, NULL, NULL);
    call_all(b.nn, NULL, NULL);
    OK(zero_nn_status(b.nn, &why));
    ck_assert_int_eq(told, 1);
    ck_assert_str_eq(last_told, "attention will be slow: our own kernels compute it, in fp32, since this build has no "
                                "cuDNN: install its headers and configure --with-cudnn");
    zero_nn_describe(b.nn, text, sizeof text);
    ck_assert_str_eq(text, "attention: our own kernels forward, our own kernels backward; products: cuBLASLt, our own "
                           "kernels (3 of 13 shapes); "
                           "GELU: in its product forward, in its product backward");
    bench_free(&b);
}
END_TEST

/* ---- calls only queue work -------------------------------------------------------------------------------------- */

static atomic_int may_go;

static void hold(void *data)
{
    (void)data;
    while (atomic_load(&may_go) == 0)
        usleep(1000);
}

static void results(bench_t *b, unsigned char *out)
{
    memcpy(out, b->pinned, ROWS * sizeof(float));
    OK(b->device->ops->copy(b->device, b->native, out + ROWS * sizeof(float), b->base, 2 * MOST, &why));
    finish(b);
}

/* Every call returns while the stream is blocked, gives the same results as on a free stream, and allocates no device
 * memory. */
START_TEST(calls_only_queue)
{
    if (!emulated())
        return;
    bench_t b = bench_new("threads");
    plan_all(&b);
    size_t bytes = 2 * MOST + ROWS * sizeof(float);
    unsigned char *free_run = malloc(bytes), *held_run = malloc(bytes);
    uint64_t before = 0, after = 0;
    fill(&b);
    OK(b.device->ops->available(b.device, ZERO_TIER_DEVICE, &before, &why));
    call_all(b.nn, b.base, b.pinned);
    finish(&b);
    OK(zero_nn_status(b.nn, &why));
    results(&b, free_run);

    void *library = dlopen("libcuda_emulator.so", RTLD_NOW | RTLD_NOLOAD);
    ck_assert_msg(library != NULL, "%s", dlerror());
    cudaError_t (*launch)(cudaStream_t, cudaHostFn_t, void *);
    *(void **)&launch = dlsym(library, "cudaLaunchHostFunc");
    ck_assert(launch != NULL);
    OK(b.device->ops->copy(b.device, b.native, b.base + MOST, b.base, 0, &why));
    fill(&b);
    ck_assert_int_eq(launch(b.native, hold, NULL), cudaSuccess);
    call_all(b.nn, b.base, b.pinned);
    OK(zero_nn_status(b.nn, &why));
    atomic_store(&may_go, 1);
    finish(&b);
    results(&b, held_run);
    ck_assert(memcmp(free_run, held_run, bytes) == 0);
    OK(b.device->ops->available(b.device, ZERO_TIER_DEVICE, &after, &why));
    ck_assert_uint_eq(before, after);
    free(free_run);
    free(held_run);
    bench_free(&b);
}
END_TEST

/* ---- faults ----------------------------------------------------------------------------------------------------- */

static const struct {
    const char *fail; /* call number n of this function fails, for n = 1, 2, ... */
    int most;
    const char *say;
} FAULTS[] = {
    {"cublasLtCreate", 1, "CUBLAS_STATUS_NOT_INITIALIZED"},
    {"cublasLtMatmulAlgoGetHeuristic", 18, "CUBLAS_STATUS_NOT_INITIALIZED"},
    {"cublasLtMatmul", 9, "CUBLAS_STATUS_EXECUTION_FAILED"},
    {"launch", 100, ""},
    {"cudaPointerGetAttributes", 8, "cudaPointerGetAttributes"},
};

/* A failure gives one sentence that names the call. Later calls do nothing, and nothing leaks (the sanitizer would find
 * it). */
START_TEST(faults)
{
    int fault = 0, n = _i + 1;
    if (!emulated())
        return;
    while (n > FAULTS[fault].most)
        n -= FAULTS[fault++].most;
    char value[64];
    /* Creating the device launches one kernel. */
    snprintf(value, sizeof value, "%s:%d", FAULTS[fault].fail, n + (fault == 3));
    setenv("ZERO_EMULATOR_FAIL", value, 1);
    bench_t b = bench_new("inline");
    zero_status_t status = zero_nn_create(&b.nn, "cuda", 1, b.native, &why);
    if (fault == 0) {
        says(status, ZERO_ERR_SYSTEM, FAULTS[fault].say);
        ck_assert(b.nn == NULL);
        bench_free(&b);
        return;
    }
    OK(status);
    zero_nn_set_dry(b.nn, true);
    call_all(b.nn, NULL, NULL);
    zero_nn_set_dry(b.nn, false);
    status = zero_nn_status(b.nn, &why);
    if (fault == 1) {
        says(status, ZERO_ERR_SYSTEM, FAULTS[fault].say);
        /* Each shape without and with a bias. In fp32 epilogues are separate calls. In 16 bits GELU's gradient has no
         * epilogue with a bias. */
        static const char *const fp32[] = {"24, 72, 72)", "24, 72, 72)", "24, 24, 72, 2)", "24, 24, 72, 2)"},
                                 *const half[] = {"24, 72, 72)",     "24, 72, 72)",     "24, 72, 72, 16)",
                                                  "24, 72, 72, 16)", "24, 24, 72, 34)", "24, 24, 72, 2)",
                                                  "24, 24, 72, 2)"};
        snprintf(value, sizeof value, "%s in %s: ", n <= 4 ? fp32[n - 1] : half[(n - 5) % 7],
                 n <= 4    ? "fp32"
                 : n <= 11 ? "bf16"
                           : "fp16");
        says(status, ZERO_ERR_SYSTEM, "140 72 24");
        says(status, ZERO_ERR_SYSTEM, value);
        bench_free(&b);
        return;
    }
    OK(status);
    zero_nn_set_workspace(b.nn, b.base + 2 * MOST, zero_nn_workspace_bytes(b.nn));
    fill(&b);
    call_all(b.nn, b.base, b.pinned);
    status = zero_nn_status(b.nn, &why);
    says(status, ZERO_ERR_SYSTEM, FAULTS[fault].say);
    says(status, ZERO_ERR_SYSTEM, "");
    bench_free(&b);
}
END_TEST

int main(void)
{
    if (!emulated_plugins())
        return 77;
    int cases = 0;
    for (size_t i = 0; i < sizeof FAULTS / sizeof FAULTS[0]; i++)
        cases += FAULTS[i].most;
    Suite *suite = suite_create("cuda_nn");
    TCase *tc = tcase_create("cuda_nn");
    tcase_set_timeout(tc, 120);
    tcase_add_test(tc, names);
    tcase_add_test(tc, without_the_plugin);
    tcase_add_loop_test(tc, without_a_gpu, 0, 2);
    tcase_add_test(tc, refusals);
    tcase_add_test(tc, memory_of_the_host);
    tcase_add_test(tc, positions_in_a_graph);
    tcase_add_loop_test(tc, epilogues, 0, (int)(sizeof EPILOGUES / sizeof EPILOGUES[0]));
    tcase_add_test(tc, cuts);
    tcase_add_test(tc, choices);
    tcase_add_loop_test(tc, refused_when_called, 0, 2);
    tcase_add_test(tc, what_computes);
    tcase_add_test(tc, calls_only_queue);
    tcase_add_loop_test(tc, faults, 0, cases);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
