/* SPDX-License-Identifier: Apache-2.0 */
/* emulator_blas.cc - the emulated cuBLASLt: products against their definition, and each of its conditions. */
#include "tests/emulator_suites.h"

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <cstdlib>
#include <vector>

#define OK(call) ck_assert_int_eq((int)(call), 0)

static float from_bf16(uint16_t h)
{
    return __uint_as_float((unsigned)h << 16);
}
static uint16_t to_bf16(float f)
{
    unsigned u = __float_as_uint(f);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* A matrix of whole numbers, so that sums are exact, in device memory; batch of them. */
struct matrix {
    cudaDataType type;
    int rows, columns, ld, batch;
    bool row_major;
    std::vector<float> values;
    void *p = nullptr;
    cublasLtMatrixLayout_t layout = nullptr;

    int stride() const
    {
        return ld * (row_major ? rows : columns) + 8;
    }
    size_t index(int b, int i, int j) const
    {
        return (size_t)(b * stride() + (row_major ? i * ld + j : i + j * ld));
    }
    float at(int b, int i, int j) const
    {
        return values[index(b, i, j)];
    }
    size_t size() const
    {
        return type == CUDA_R_32F ? 4 : 2;
    }

    matrix(cudaDataType type, int rows, int columns, int pad, bool row_major, int batch, unsigned seed)
        : type(type), rows(rows), columns(columns), ld((row_major ? columns : rows) + pad), batch(batch),
          row_major(row_major)
    {
        values.resize((size_t)(batch * stride()));
        for (float &v : values)
            v = (float)(int)((seed = seed * 1664525u + 1013904223u) >> 29) - 3;
        OK(cudaMalloc(&p, values.size() * size()));
        write();
        int32_t order = row_major ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL, count = batch;
        int64_t step = stride();
        OK(cublasLtMatrixLayoutCreate(&layout, type, (uint64_t)rows, (uint64_t)columns, ld));
        OK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order));
        OK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
        OK(cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &step, sizeof step));
    }
    ~matrix()
    {
        cudaFree(p);
        cublasLtMatrixLayoutDestroy(layout);
    }
    void write()
    {
        if (type == CUDA_R_32F) {
            OK(cudaMemcpy(p, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
            return;
        }
        std::vector<uint16_t> h(values.size());
        for (size_t i = 0; i < h.size(); i++)
            h[i] = to_bf16(values[i]);
        OK(cudaMemcpy(p, h.data(), h.size() * 2, cudaMemcpyHostToDevice));
    }
    std::vector<float> read() const
    {
        std::vector<float> x(values.size());
        if (type == CUDA_R_32F) {
            OK(cudaMemcpy(x.data(), p, x.size() * 4, cudaMemcpyDeviceToHost));
            return x;
        }
        std::vector<uint16_t> h(values.size());
        OK(cudaMemcpy(h.data(), p, h.size() * 2, cudaMemcpyDeviceToHost));
        for (size_t i = 0; i < h.size(); i++)
            x[i] = from_bf16(h[i]);
        return x;
    }
};

/* A product and all arguments of its call. */
struct product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t found[4];
    int count = 0;
    cudaStream_t stream;
    void *workspace = nullptr;

    product()
    {
        OK(cublasLtCreate(&handle));
        OK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
        OK(cublasLtMatmulPreferenceCreate(&preference));
        OK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        OK(cudaMalloc(&workspace, 1 << 20));
        prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)1 << 20);
    }
    ~product()
    {
        cudaFree(workspace);
        cudaStreamDestroy(stream);
        cublasLtMatmulPreferenceDestroy(preference);
        cublasLtMatmulDescDestroy(desc);
        cublasLtDestroy(handle);
    }
    template <typename T> void prefer(cublasLtMatmulPreferenceAttributes_t name, T value)
    {
        OK(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value));
    }
    template <typename T> void set(cublasLtMatmulDescAttributes_t name, T value)
    {
        OK(cublasLtMatmulDescSetAttribute(desc, name, &value, sizeof value));
    }
    cublasStatus_t find(const matrix &a, const matrix &b, const matrix &c)
    {
        return cublasLtMatmulAlgoGetHeuristic(handle, desc, a.layout, b.layout, c.layout, c.layout, preference, 4,
                                              found, &count);
    }
    cublasStatus_t run(const matrix &a, const matrix &b, const matrix &c, float alpha, float beta,
                       const cublasLtMatmulAlgo_t *algo)
    {
        return cublasLtMatmul(handle, desc, &alpha, a.p, a.layout, b.p, b.layout, &beta, c.p, c.layout, c.p, c.layout,
                              algo, workspace, 1 << 20, stream);
    }
};

static void aligned_to_elements(product *p)
{
    for (int k = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES; k <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; k++)
        p->prefer((cublasLtMatmulPreferenceAttributes_t)k, (uint32_t)16);
}

/* _i: bits for transposes, orders, type and batch. */
START_TEST(test_products)
{
    const bool ta = _i & 1, tb = _i & 2, row_a = _i & 4, row_b = _i & 8, row_c = _i & 16;
    const cudaDataType type = _i & 32 ? CUDA_R_16BF : CUDA_R_32F, result = _i & 64 ? CUDA_R_32F : type;
    const int m = 5, n = 7, k = 11, batch = _i & 128 ? 3 : 1;
    product p;
    matrix a(type, ta ? k : m, ta ? m : k, 3, row_a, batch, 1), b(type, tb ? n : k, tb ? k : n, 1, row_b, batch, 2),
        c(result, m, n, 2, row_c, batch, 3);
    p.set(CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)(ta ? CUBLAS_OP_T : CUBLAS_OP_N));
    p.set(CUBLASLT_MATMUL_DESC_TRANSB, (int32_t)(tb ? CUBLAS_OP_T : CUBLAS_OP_N));
    aligned_to_elements(&p);
    OK(p.find(a, b, c));
    ck_assert_int_eq(p.count, 1);
    OK(p.run(a, b, c, 2, 3, &p.found[0].algo));
    std::vector<float> got = c.read(), want = c.values;
    for (int x = 0; x < batch; x++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                float s = 0;
                for (int l = 0; l < k; l++)
                    s += (ta ? a.at(x, l, i) : a.at(x, i, l)) * (tb ? b.at(x, j, l) : b.at(x, l, j));
                s = 2 * s + 3 * c.at(x, i, j);
                want[c.index(x, i, j)] = result == CUDA_R_32F ? s : from_bf16(to_bf16(s));
            }
    for (size_t i = 0; i < got.size(); i++) /* nothing else was written */
        ck_assert_float_eq(got[i], want[i]);
}
END_TEST

static double gelu(double x)
{
    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
}

START_TEST(test_epilogues)
{
    static const cublasLtEpilogue_t all[] = {
        CUBLASLT_EPILOGUE_BIAS,        CUBLASLT_EPILOGUE_GELU,          CUBLASLT_EPILOGUE_GELU_BIAS,
        CUBLASLT_EPILOGUE_GELU_AUX,    CUBLASLT_EPILOGUE_GELU_AUX_BIAS, CUBLASLT_EPILOGUE_DGELU,
        CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA,        CUBLASLT_EPILOGUE_BGRADB};
    const cublasLtEpilogue_t epilogue = all[_i];
    const int m = 6, n = 9, k = 10;
    product p;
    matrix a(CUDA_R_32F, m, k, 2, false, 1, 1), b(CUDA_R_32F, k, n, 2, false, 1, 2),
        c(CUDA_R_32F, m, n, 2, false, 1, 3);
    matrix aux(CUDA_R_32F, m, n, 2, false, 1, 4), vector(CUDA_R_32F, 16, 1, 0, false, 1, 5);
    const float alpha = 0.0625f;
    std::vector<float> saved = aux.values;
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)epilogue);
    p.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, vector.p);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, aux.p);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, (int64_t)aux.ld);
    aligned_to_elements(&p);
    OK(p.find(a, b, c));
    OK(p.run(a, b, c, alpha, 0, &p.found[0].algo));
    std::vector<float> got = c.read(), got_aux = aux.read(), got_vector = vector.read();
    std::vector<double> row(m), row_gradient(m), a_sum(m), b_sum(n);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            double s = 0;
            for (int l = 0; l < k; l++) {
                s += a.at(0, i, l) * b.at(0, l, j);
                a_sum[(size_t)i] += j == 0 ? a.at(0, i, l) : 0;
                b_sum[(size_t)j] += i == 0 ? b.at(0, l, j) : 0;
            }
            s *= alpha;
            const bool biased = epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS ||
                                epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
            const bool gradient = epilogue == CUBLASLT_EPILOGUE_DGELU || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
            const bool keeps = epilogue == CUBLASLT_EPILOGUE_GELU_AUX || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
            const double x = saved[aux.index(0, i, j)], e = 1e-5;
            s += biased ? vector.values[(size_t)i] : 0;
            ck_assert_float_eq_tol(got_aux[aux.index(0, i, j)], keeps ? (float)s : saved[aux.index(0, i, j)], 1e-5);
            if (keeps || epilogue == CUBLASLT_EPILOGUE_GELU || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS)
                s = gelu(s);
            else if (gradient)
                s *= (gelu(x + e) - gelu(x - e)) / (2 * e);
            row_gradient[(size_t)i] += s;
            ck_assert_float_eq_tol(got[c.index(0, i, j)], (float)s, 1e-5);
        }
    for (int i = 0; i < 16; i++) {
        float want = vector.values[(size_t)i];
        if (epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD && i < m)
            want = (float)row_gradient[(size_t)i];
        if (epilogue == CUBLASLT_EPILOGUE_BGRADA && i < m)
            want = (float)a_sum[(size_t)i];
        if (epilogue == CUBLASLT_EPILOGUE_BGRADB && i < n)
            want = (float)b_sum[(size_t)i];
        ck_assert_float_eq_tol(got_vector[(size_t)i], want, 1e-4);
    }
}
END_TEST

/* A sum that is long enough to be split needs workspace. */
START_TEST(test_workspace)
{
    product p;
    matrix a(CUDA_R_32F, 4, 600, 0, false, 1, 1), b(CUDA_R_32F, 600, 4, 0, false, 1, 2),
        c(CUDA_R_32F, 4, 4, 0, false, 1, 3), d(CUDA_R_32F, 4, 8, 0, false, 1, 3);
    matrix wider(CUDA_R_32F, 600, 8, 0, false, 1, 2);
    const float one = 1, zero = 0;
    OK(p.find(a, b, c));
    ck_assert_int_eq(p.count, 3);
    ck_assert(p.found[0].workspaceSize > 0 && p.found[1].workspaceSize == 0 && p.found[2].workspaceSize == 0);
    const cublasLtMatmulAlgo_t *algo = &p.found[0].algo;
    const size_t bytes = p.found[0].workspaceSize;
#define RUN(workspace, bytes)                                                                                       \
    cublasLtMatmul(p.handle, p.desc, &one, a.p, a.layout, b.p, b.layout, &zero, c.p, c.layout, c.p, c.layout, algo, \
                   workspace, bytes, p.stream)
    OK(RUN(p.workspace, bytes));
    ck_assert_int_eq(RUN(p.workspace, bytes - 1), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(RUN(nullptr, bytes), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(RUN((char *)p.workspace + 128, bytes), CUBLAS_STATUS_INVALID_VALUE);
    /* The algorithm is invalid for another product. */
    ck_assert_int_eq(p.run(a, wider, d, 1, 0, algo), CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_GELU);
    ck_assert_int_eq(RUN(p.workspace, bytes), CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_DEFAULT);
    p.prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_NONE);
    OK(p.find(a, b, c));
    ck_assert(p.count == 2 && p.found[0].workspaceSize == 0);
    p.prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_MASK);
    p.prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)0);
    OK(p.find(a, b, c));
    ck_assert(p.count == 2 && p.found[0].workspaceSize == 0);
}
END_TEST

START_TEST(test_conditions)
{
    product p;
    matrix a(CUDA_R_32F, 8, 8, 0, false, 1, 1), b(CUDA_R_32F, 8, 8, 0, false, 1, 2),
        c(CUDA_R_32F, 8, 8, 0, false, 1, 3);
    matrix half(CUDA_R_16BF, 8, 8, 0, false, 1, 4), tall(CUDA_R_32F, 9, 8, 0, false, 1, 5),
        two(CUDA_R_32F, 8, 8, 0, false, 2, 6);
    const float one = 1, zero = 0;
    ck_assert_int_eq(p.find(a, half, c), CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert_int_eq(p.find(a, b, half), CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert_int_eq(p.find(tall, b, c), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(p.find(a, tall, c), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(p.find(two, b, c), CUBLAS_STATUS_INVALID_VALUE);
    int64_t ld = 7, aux_ld = 12;
    OK(cublasLtMatrixLayoutSetAttribute(tall.layout, CUBLASLT_MATRIX_LAYOUT_LD, &ld, sizeof ld));
    p.set(CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)CUBLAS_OP_T);
    ck_assert_int_eq(p.find(tall, tall, c), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(cublasLtMatrixLayoutSetAttribute(tall.layout, CUBLASLT_MATRIX_LAYOUT_LD, &ld, 4),
                     CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)CUBLAS_OP_N);

    /* The heuristic was told 256 bytes. */
    OK(p.find(a, b, c));
    OK(p.run(a, b, c, 1, 0, &p.found[0].algo));
    char *off;
    OK(cudaMalloc(&off, 8 * 8 * 4 + 16));
    ck_assert_int_eq(cublasLtMatmul(p.handle, p.desc, &one, off + 16, a.layout, b.p, b.layout, &zero, c.p, c.layout,
                                    c.p, c.layout, &p.found[0].algo, nullptr, 0, p.stream),
                     CUBLAS_STATUS_NOT_SUPPORTED);
    OK(cublasLtMatmul(p.handle, p.desc, &one, off + 16, a.layout, b.p, b.layout, &zero, nullptr, c.layout, c.p,
                      c.layout, nullptr, nullptr, 0, p.stream));
    ck_assert_int_eq(cublasLtMatmul(p.handle, p.desc, &one, a.p, a.layout, b.p, b.layout, &one, nullptr, c.layout, c.p,
                                    c.layout, nullptr, nullptr, 0, p.stream),
                     CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(cublasLtMatmul(nullptr, p.desc, &one, a.p, a.layout, b.p, b.layout, &one, c.p, c.layout, c.p,
                                    c.layout, nullptr, nullptr, 0, p.stream),
                     CUBLAS_STATUS_NOT_INITIALIZED);

    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_BIAS);
    ck_assert_int_eq(p.run(a, b, c, 1, 0, nullptr), CUBLAS_STATUS_INVALID_VALUE); /* no bias */
    p.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, off);
    OK(p.run(a, b, c, 1, 0, nullptr));
    p.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (int32_t)CUDA_R_16BF);
    ck_assert_int_eq(p.run(a, b, c, 1, 0, nullptr), CUBLAS_STATUS_NOT_SUPPORTED);
    p.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, (int32_t)-1);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)CUBLASLT_EPILOGUE_GELU_AUX);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, off);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, aux_ld);
    ck_assert_int_eq(p.find(a, b, c), CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, (int64_t)0); /* less than a column */
    ck_assert_int_eq(p.find(a, b, c), CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, (int64_t)8);
    OK(p.find(a, b, c));
    OK(p.run(a, b, c, 1, 0, &p.found[0].algo));
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, off + 8);
    ck_assert_int_eq(p.find(a, b, c), CUBLAS_STATUS_INVALID_VALUE);
    ck_assert_int_eq(p.run(a, b, c, 1, 0, &p.found[0].algo), CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, (char *)nullptr);
    OK(p.find(a, b, c));
    ck_assert_int_eq(p.run(a, b, c, 1, 0, &p.found[0].algo), CUBLAS_STATUS_INVALID_VALUE);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, off);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, (int32_t)CUDA_R_16BF);
    ck_assert_int_eq(p.find(a, b, c), CUBLAS_STATUS_NOT_SUPPORTED);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, (int32_t)-1);
    p.set(CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)2); /* ReLU is not supported */
    ck_assert_int_eq(p.find(a, b, c), CUBLAS_STATUS_NOT_SUPPORTED);
    OK(cudaFree(off));
}
END_TEST

TCase *emulator_blas(void)
{
    TCase *tcase = tcase_create("blas");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_products, 0, 256);
    tcase_add_loop_test(tcase, test_epilogues, 0, 9);
    tcase_add_test(tcase, test_workspace);
    tcase_add_test(tcase, test_conditions);
    return tcase;
}
