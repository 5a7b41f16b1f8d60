/* SPDX-License-Identifier: Apache-2.0 */
/* cublaslt.cc - cuBLASLt's products as plain loops, with its conditions on arguments. See include/cublasLt.h. */
#include "tests/emulator/emulator.h"

#include <cublasLt.h>

#include <set>
#include <vector>

struct cublasLtContext {
    uint64_t magic;
};

struct cublasLtMatrixLayoutOpaque_t {
    uint32_t type = CUDA_R_32F;
    int32_t order = CUBLASLT_ORDER_COL;
    uint64_t rows = 0, columns = 0;
    int64_t ld = 0;
    int32_t batch = 1;
    int64_t stride = 0;
};

struct cublasLtMatmulDescOpaque_t {
    int32_t compute, scale, pointer_mode = CUBLASLT_POINTER_MODE_HOST, trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N,
                            trans_c = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr, *aux = nullptr;
    int64_t bias_stride = 0, aux_ld = 0, aux_stride = 0;
    int32_t bias_type = -1, aux_type = -1;
};

struct cublasLtMatmulPreferenceOpaque_t {
    uint32_t search = 0, schemes = CUBLASLT_REDUCTION_SCHEME_MASK, align[4] = {256, 256, 256, 256};
    uint64_t workspace = 0, implementations = ~(uint64_t)0;
    float waves = 0;
};

namespace
{

const uint64_t MAGIC = 0x7a65726f6c740001;

typedef cublasLtMatrixLayoutOpaque_t layout;
typedef cublasLtMatmulDescOpaque_t desc;

/* The contents of an algorithm's bytes. */
struct choice {
    uint64_t magic, product, workspace;
    uint32_t align[4]; /* of A, B, C, D */
    uint32_t bias_align;
    int32_t variant; /* 0: splits the sum, with workspace; 1: adds in order; 2: adds the two halves of the sum */
};
static_assert(sizeof(choice) <= sizeof(cublasLtMatmulAlgo_t));

size_t element_bytes(uint32_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16BF || type == CUDA_R_16F ? 2 : 0;
}

bool has_bias(uint32_t epilogue)
{
    return epilogue < 256 && (epilogue & 4);
}
bool has_bias_gradient(uint32_t epilogue)
{
    return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB ||
           epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
}
bool has_aux(uint32_t epilogue)
{
    return epilogue < 256 && (epilogue & 128);
}

bool is_epilogue(uint32_t epilogue)
{
    static const std::set<uint32_t> known = {CUBLASLT_EPILOGUE_DEFAULT,   CUBLASLT_EPILOGUE_BIAS,
                                             CUBLASLT_EPILOGUE_GELU,      CUBLASLT_EPILOGUE_GELU_AUX,
                                             CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                             CUBLASLT_EPILOGUE_DGELU,     CUBLASLT_EPILOGUE_DGELU_BGRAD,
                                             CUBLASLT_EPILOGUE_BGRADA,    CUBLASLT_EPILOGUE_BGRADB};
    return known.count(epilogue) > 0;
}

/* ---- conditions ------------------------------------------------------------------------------------------------- */

bool good_layout(const layout *l)
{
    if (!l || l->rows == 0 || l->columns == 0 || l->rows > INT32_MAX || l->columns > INT32_MAX || l->batch < 1)
        return false;
    return l->ld >= (int64_t)(l->order == CUBLASLT_ORDER_COL ? l->rows : l->columns);
}

bool same_layout(const layout &a, const layout &b)
{
    return a.type == b.type && a.order == b.order && a.rows == b.rows && a.columns == b.columns && a.ld == b.ld &&
           a.batch == b.batch && (a.batch == 1 || a.stride == b.stride);
}

uint64_t op_rows(const layout &l, int32_t trans)
{
    return trans == CUBLAS_OP_N ? l.rows : l.columns;
}
uint64_t op_columns(const layout &l, int32_t trans)
{
    return trans == CUBLAS_OP_N ? l.columns : l.rows;
}

/* Checks the conditions that do not depend on addresses. */
cublasStatus_t check(const desc *x, const layout *a, const layout *b, const layout *c, const layout *d)
{
    if (!x || !good_layout(a) || !good_layout(b) || !good_layout(c) || !good_layout(d))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (op_rows(*a, x->trans_a) != d->rows || op_columns(*b, x->trans_b) != d->columns ||
        op_columns(*a, x->trans_a) != op_rows(*b, x->trans_b) || c->rows != d->rows || c->columns != d->columns ||
        a->batch != d->batch || b->batch != d->batch || c->batch != d->batch)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_epilogue(x->epilogue) || x->trans_c != CUBLAS_OP_N)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (x->compute != CUBLAS_COMPUTE_32F && x->compute != CUBLAS_COMPUTE_32F_PEDANTIC &&
        x->compute != CUBLAS_COMPUTE_32F_FAST_TF32 && x->compute != CUBLAS_COMPUTE_32F_FAST_16BF)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    /* Sums are in fp32. Operands have one type. Results have that type or fp32. A compute type faster than plain fp32
     * is valid only with 32-bit operands. */
    if (x->scale != CUDA_R_32F || a->type != b->type || c->type != d->type || element_bytes(a->type) == 0 ||
        (d->type != a->type && d->type != CUDA_R_32F))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((x->compute == CUBLAS_COMPUTE_32F_FAST_TF32 || x->compute == CUBLAS_COMPUTE_32F_FAST_16BF) &&
        a->type != CUDA_R_32F)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if ((has_bias(x->epilogue) || has_bias_gradient(x->epilogue)) && x->bias_type != -1 &&
        (uint32_t)x->bias_type != d->type)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    if (has_aux(x->epilogue)) {
        if (x->aux_type != -1 && (uint32_t)x->aux_type != d->type)
            return CUBLAS_STATUS_NOT_SUPPORTED;
        /* A heuristic treats an unset pointer as aligned. */
        if ((uintptr_t)x->aux % 16 != 0 || x->aux_ld % 8 != 0 || x->aux_ld < (int64_t)d->rows ||
            (d->batch > 1 && x->aux_stride % 8 != 0))
            return CUBLAS_STATUS_INVALID_VALUE;
    }
    /* Epilogues with further operands read and write column by column. */
    if (x->epilogue != CUBLASLT_EPILOGUE_DEFAULT && x->epilogue != CUBLASLT_EPILOGUE_BIAS &&
        d->order != CUBLASLT_ORDER_COL)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return CUBLAS_STATUS_SUCCESS;
}

uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* Identifies the product: an algorithm is valid for only one product. */
uint64_t product_of(const desc *x, const layout *a, const layout *b, const layout *c, const layout *d)
{
    uint64_t h =
        mix(mix(mix(mix(MAGIC, (uint64_t)x->compute), (uint64_t)x->trans_a), (uint64_t)x->trans_b), x->epilogue);
    for (const layout *l : {a, b, c, d})
        h = mix(mix(mix(mix(mix(mix(h, l->type), (uint64_t)l->order), l->rows), l->columns), (uint64_t)l->ld),
                (uint64_t)l->batch);
    return h;
}

uint32_t alignment_of(const void *p)
{
    uintptr_t bits = (uintptr_t)p | 256;
    return (uint32_t)(bits & ~(bits - 1));
}

/* ---- elements and the product ----------------------------------------------------------------------------------- */

float bf16_to_float(uint16_t h)
{
    return __uint_as_float((unsigned)h << 16);
}

uint16_t float_to_bf16(float f)
{
    unsigned u = __float_as_uint(f);
    return (uint16_t)(std::isnan(f) ? u >> 16 | 0x40u : (u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}

float load(const void *p, uint32_t type, int64_t i)
{
    if (type == CUDA_R_32F)
        return ((const float *)p)[i];
    uint16_t h = ((const uint16_t *)p)[i];
    if (type == CUDA_R_16BF)
        return bf16_to_float(h);
    int exponent = h >> 10 & 31, mantissa = h & 1023;
    float magnitude = exponent == 31 ? (mantissa ? NAN : INFINITY)
                      : exponent     ? ldexpf((float)(mantissa | 1024), exponent - 25)
                                     : ldexpf((float)mantissa, -24);
    return h & 0x8000 ? -magnitude : magnitude;
}

void store(void *p, uint32_t type, int64_t i, float value)
{
    if (type == CUDA_R_32F) {
        ((float *)p)[i] = value;
        return;
    }
    uint16_t h;
    if (type == CUDA_R_16BF) {
        h = float_to_bf16(value);
    } else if (std::isnan(value)) {
        h = 0x7fff;
    } else {
        float magnitude = fabsf(value);
        int exponent = magnitude < 0x1p-14f ? -14 : ilogbf(std::min(magnitude, 65536.0f));
        /* In units of the last place. This is exact in fp32, and rint rounds to even. */
        int units = magnitude >= 65520 ? 0x7c00
                                       : (int)rintf(ldexpf(magnitude, 10 - exponent)) +
                                             (magnitude < 0x1p-14f ? 0 : (exponent + 14) << 10);
        h = (uint16_t)(units | (std::signbit(value) ? 0x8000 : 0));
    }
    ((uint16_t *)p)[i] = h;
}

int64_t at(const layout &l, int64_t row, int64_t column)
{
    return l.order == CUBLASLT_ORDER_COL ? row + column * l.ld : row * l.ld + column;
}

uint64_t extent(const layout &l)
{
    return (uint64_t)((int64_t)(l.batch - 1) * l.stride + at(l, (int64_t)l.rows - 1, (int64_t)l.columns - 1) + 1) *
           element_bytes(l.type);
}

const void *offset(const void *p, uint32_t type, int64_t elements)
{
    return p ? (const char *)p + elements * (int64_t)element_bytes(type) : nullptr;
}
void *offset(void *p, uint32_t type, int64_t elements)
{
    return p ? (char *)p + elements * (int64_t)element_bytes(type) : nullptr;
}

/* The tanh approximation of GELU (Hendrycks and Gimpel 2016), and its derivative. */
float gelu(float x)
{
    return 0.5f * x * (1 + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

float gelu_gradient(float x)
{
    float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}

struct call {
    desc x;
    layout a, b, c, d;
    const void *A, *B, *C;
    void *D, *workspace;
    size_t workspace_bytes;
    float alpha, beta;
    const float *device_scales[2];
    int32_t variant;
};

/* op(X) as a dense column-major matrix of floats. */
std::vector<float> pack(const void *p, const layout &l, int32_t trans)
{
    int64_t rows = (int64_t)op_rows(l, trans), columns = (int64_t)op_columns(l, trans);
    std::vector<float> out((size_t)(rows * columns));
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++)
            out[(size_t)(i + j * rows)] = load(p, l.type, trans == CUBLAS_OP_N ? at(l, i, j) : at(l, j, i));
    return out;
}

void bias_gradient(const std::vector<float> &x, int64_t count, int64_t k, int64_t step, int64_t k_step, void *out,
                   uint32_t type)
{
    for (int64_t i = 0; i < count; i++) {
        float s = 0;
        for (int64_t l = 0; l < k; l++)
            s += x[(size_t)(i * step + l * k_step)];
        store(out, type, i, s);
    }
}

void multiply(const call &p, const void *A, const void *B, const void *C, void *D, void *bias, void *aux)
{
    const layout &d = p.d;
    const uint32_t epilogue = p.x.epilogue;
    int64_t m = (int64_t)d.rows, n = (int64_t)d.columns, k = (int64_t)op_columns(p.a, p.x.trans_a);
    std::vector<float> a = pack(A, p.a, p.x.trans_a), b = pack(B, p.b, p.x.trans_b), sums((size_t)m), half((size_t)m),
                       gradient((size_t)m);
    const int64_t middle = p.variant == 2 ? k / 2 : k;
    for (int64_t j = 0; j < n; j++) {
        float *s = sums.data();
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t l = 0; l < k; l++) {
            if (l == middle) {
                half = sums;
                std::fill(sums.begin(), sums.end(), 0.0f);
            }
            const float *column = &a[(size_t)(l * m)], factor = b[(size_t)(l + j * k)];
            for (int64_t i = 0; i < m; i++)
                s[i] += column[i] * factor;
        }
        for (int64_t i = 0; i < m; i++) {
            float y = p.alpha * (middle < k ? half[(size_t)i] + s[i] : s[i]);
            if (p.beta != 0) /* otherwise C is not read */
                y += p.beta * load(C, p.c.type, at(p.c, i, j));
            if (has_bias(epilogue))
                y += load(bias, d.type, i);
            if (epilogue < 64 || epilogue == CUBLASLT_EPILOGUE_GELU_AUX ||
                epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) {
                if (has_aux(epilogue))
                    store(aux, d.type, i + j * p.x.aux_ld, y);
                if (epilogue & CUBLASLT_EPILOGUE_GELU)
                    y = gelu(y);
            } else if (has_aux(epilogue)) {
                y *= gelu_gradient(load(aux, d.type, i + j * p.x.aux_ld));
            }
            gradient[(size_t)i] += y;
            store(D, d.type, at(d, i, j), y);
        }
    }
    if (epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD)
        for (int64_t i = 0; i < m; i++)
            store(bias, d.type, i, gradient[(size_t)i]);
    if (epilogue == CUBLASLT_EPILOGUE_BGRADA)
        bias_gradient(a, m, k, 1, m, bias, d.type);
    if (epilogue == CUBLASLT_EPILOGUE_BGRADB)
        bias_gradient(b, n, k, k, 1, bias, d.type);
}

void run(call p)
{
    emulator_enter();
    emulator_delay(3 - p.variant);
    if (p.device_scales[0]) {
        p.alpha = *p.device_scales[0];
        p.beta = *p.device_scales[1];
    }
    if (p.workspace_bytes)
        memset(p.workspace, 0xff, p.workspace_bytes);
    for (int64_t i = 0; i < p.d.batch; i++)
        multiply(p, offset(p.A, p.a.type, i * p.a.stride), offset(p.B, p.b.type, i * p.b.stride),
                 offset(p.C, p.c.type, i * p.c.stride), offset(p.D, p.d.type, i * p.d.stride),
                 offset(p.x.bias, p.d.type, i * p.x.bias_stride), offset(p.x.aux, p.d.type, i * p.x.aux_stride));
    emulator_leave();
}

/* Checks that the device can reach the bytes from p on. A kernel that read them would fail otherwise. */
void reach(const char *name, const void *p, uint64_t bytes)
{
    emulator_place place = emulator_find(p);
    if (place.type == cudaMemoryTypeUnregistered || place.left < bytes ||
        (place.type == cudaMemoryTypeDevice && place.device != emulator_device()))
        emulator_die("cublasLtMatmul: %s at %p: its %llu bytes do not lie in memory of device %d", name, p,
                     (unsigned long long)bytes, emulator_device());
}

uint64_t vector_bytes(const call &p)
{
    uint64_t count = p.x.epilogue == CUBLASLT_EPILOGUE_BGRADB ? p.d.columns : p.d.rows;
    return ((uint64_t)(p.d.batch - 1) * (uint64_t)p.x.bias_stride + count) * element_bytes(p.d.type);
}

template <typename T> cublasStatus_t set(T *to, const void *value, size_t bytes)
{
    if (!value || bytes != sizeof *to)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

} // namespace

#pragma GCC visibility push(default)

extern "C" cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    if (emulator_begin("cublasLtCreate", true) != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    *handle = new cublasLtContext{MAGIC};
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    if (!handle || handle->magic != MAGIC)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_INTERNAL_ERROR:
        return "CUBLAS_STATUS_INTERNAL_ERROR";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    }
    return nullptr;
}

extern "C" const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}
extern "C" size_t cublasLtGetVersion(void)
{
    return 130000;
}

extern "C" cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows,
                                                     uint64_t columns, int64_t ld)
{
    *l = new layout();
    (*l)->type = type;
    (*l)->rows = rows;
    (*l)->columns = columns;
    (*l)->ld = ld;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l)
{
    delete l;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l,
                                                           cublasLtMatrixLayoutAttribute_t name, const void *value,
                                                           size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return set(&l->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return set(&l->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set(&l->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set(&l->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return set(&l->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set(&l->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set(&l->stride, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

extern "C" cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *x, cublasComputeType_t compute,
                                                   cudaDataType_t scale)
{
    *x = new desc();
    (*x)->compute = compute;
    (*x)->scale = scale;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t x)
{
    delete x;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t x, cublasLtMatmulDescAttributes_t name,
                                                         const void *value, size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE:
        return set(&x->compute, value, bytes);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE:
        return set(&x->scale, value, bytes);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE:
        return set(&x->pointer_mode, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(&x->trans_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(&x->trans_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSC:
        return set(&x->trans_c, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(&x->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(&x->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE:
        return set(&x->bias_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER:
        return set(&x->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD:
        return set(&x->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE:
        return set(&x->aux_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE:
        return set(&x->aux_type, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return set(&x->bias_type, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p)
{
    *p = new cublasLtMatmulPreferenceOpaque_t();
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p)
{
    delete p;
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p,
                                                               cublasLtMatmulPreferenceAttributes_t name,
                                                               const void *value, size_t bytes)
{
    switch (name) {
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
        return set(&p->search, value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set(&p->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return set(&p->schemes, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return set(&p->align[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
    case CUBLASLT_MATMUL_PREF_MAX_WAVES_COUNT:
        return set(&p->waves, value, bytes);
    case CUBLASLT_MATMUL_PREF_IMPL_MASK:
        return set(&p->implementations, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* Offers up to three algorithms. For long sums, the first splits the sum and needs workspace. The next needs no
 * workspace. The last adds halves of the sum: it is the fastest by the emulator's clock and gives other bits. */
extern "C" cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t x,
                                                         cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                         cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                         cublasLtMatmulPreference_t preference, int most,
                                                         cublasLtMatmulHeuristicResult_t *results, int *count)
{
    if (!handle || handle->magic != MAGIC || emulator_begin("cublasLtMatmulAlgoGetHeuristic") != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!preference || !results || !count || most < 1)
        return CUBLAS_STATUS_INVALID_VALUE;
    *count = 0;
    cublasStatus_t status = check(x, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (uint32_t align : preference->align)
        if (align < element_bytes(d->type) || (align & (align - 1)))
            return CUBLAS_STATUS_NOT_SUPPORTED;
    uint64_t split = 2 * d->rows * d->columns * 4, k = op_columns(*a, x->trans_a);
    bool splits =
        k >= 512 && split <= preference->workspace && (preference->schemes & CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
    for (int i = splits ? 0 : 1; i < (k >= 32 ? 3 : 2) && *count < most; i++) {
        choice y = {MAGIC, product_of(x, a, b, c, d), i == 0 ? split : 0, {}, alignment_of(x->bias), i};
        memcpy(y.align, preference->align, sizeof y.align);
        cublasLtMatmulHeuristicResult_t *r = &results[(*count)++];
        *r = cublasLtMatmulHeuristicResult_t{};
        memcpy(&r->algo, &y, sizeof y);
        r->workspaceSize = y.workspace;
        r->wavesCount = 1;
    }
    return CUBLAS_STATUS_SUCCESS;
}

extern "C" cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t x,
                                                  cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                                  cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                                  const cublasLtMatmulAlgo_t *algo,
                                                  cublasLtMatmulHeuristicResult_t *result)
{
    if (!handle || handle->magic != MAGIC || emulator_begin("cublasLtMatmulAlgoCheck") != cudaSuccess)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!algo || !result)
        return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check(x, a, b, c, d);
    choice y;
    memcpy(&y, algo, sizeof y);
    if (status == CUBLAS_STATUS_SUCCESS &&
        (y.magic != MAGIC || y.product != product_of(x, a, b, c, d) || y.variant < 0 || y.variant > 2))
        status = CUBLAS_STATUS_INVALID_VALUE;
    result->state = status;
    result->workspaceSize = status == CUBLAS_STATUS_SUCCESS ? y.workspace : 0;
    result->wavesCount = 1;
    return status;
}

extern "C" cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t x, const void *alpha,
                                         const void *A, cublasLtMatrixLayout_t a, const void *B,
                                         cublasLtMatrixLayout_t b, const void *beta, const void *C,
                                         cublasLtMatrixLayout_t c, void *D, cublasLtMatrixLayout_t d,
                                         const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes,
                                         cudaStream_t stream)
{
    if (!handle || handle->magic != MAGIC)
        return CUBLAS_STATUS_NOT_INITIALIZED;
    if (emulator_begin("cublasLtMatmul") != cudaSuccess)
        return CUBLAS_STATUS_EXECUTION_FAILED;
    if (!alpha || !beta || !A || !B || !D)
        return CUBLAS_STATUS_INVALID_VALUE;
    cublasStatus_t status = check(x, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (emulator_injected("unsupported", false) != cudaSuccess)
        return CUBLAS_STATUS_NOT_SUPPORTED;
    call p = {*x, *a, *b, *c, *d, A, B, C, D, workspace, 0, 0, 0, {}, 1};
    bool adds = true;
    if (x->pointer_mode == CUBLASLT_POINTER_MODE_DEVICE) {
        reach("alpha", alpha, sizeof(float));
        reach("beta", beta, sizeof(float));
        p.device_scales[0] = (const float *)alpha;
        p.device_scales[1] = (const float *)beta;
    } else {
        p.alpha = *(const float *)alpha;
        p.beta = *(const float *)beta;
        adds = p.beta != 0;
    }
    bool with_bias = has_bias(x->epilogue) || has_bias_gradient(x->epilogue), with_aux = has_aux(x->epilogue);
    if ((adds && !C) || (with_bias && !x->bias) || (with_aux && !x->aux) || (C == D && !same_layout(*c, *d)))
        return CUBLAS_STATUS_INVALID_VALUE;
    choice y = {MAGIC, product_of(x, a, b, c, d), 0, {16, 16, 16, 16}, 16, 1};
    for (int i = 0; i < 4; i++) /* without an algorithm, addresses determine the choice */
        y.align[i] = alignment_of(i == 0 ? A : i == 1 ? B : i == 2 ? C : D);
    if (algo) {
        memcpy(&y, algo, sizeof y);
        if (y.magic != MAGIC || y.product != product_of(x, a, b, c, d) || y.workspace > workspace_bytes ||
            (y.workspace && !workspace))
            return CUBLAS_STATUS_INVALID_VALUE;
    }
    if ((uintptr_t)workspace % 256 != 0)
        return CUBLAS_STATUS_INVALID_VALUE;
    if ((uintptr_t)A % y.align[0] || (uintptr_t)B % y.align[1] || (adds && (uintptr_t)C % y.align[2]) ||
        (uintptr_t)D % y.align[3] || (with_bias && (uintptr_t)x->bias % std::min(y.bias_align, 16u)))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    p.workspace_bytes = y.workspace;
    p.variant = y.variant;
    reach("A", A, extent(*a));
    reach("B", B, extent(*b));
    reach("D", D, extent(*d));
    if (adds)
        reach("C", C, extent(*c));
    if (with_bias)
        reach("the bias", x->bias, vector_bytes(p));
    if (with_aux)
        reach("the auxiliary matrix", x->aux,
              (uint64_t)((d->batch - 1) * x->aux_stride + (int64_t)(d->columns - 1) * x->aux_ld + (int64_t)d->rows) *
                  element_bytes(d->type));
    if (y.workspace)
        reach("the workspace", workspace, y.workspace);
    return emulator_submit(stream, [p] { run(p); }) == cudaSuccess ? CUBLAS_STATUS_SUCCESS
                                                                   : CUBLAS_STATUS_EXECUTION_FAILED;
}

#pragma GCC visibility pop
