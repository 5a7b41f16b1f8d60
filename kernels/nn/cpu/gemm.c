/* SPDX-License-Identifier: Apache-2.0 */
/* gemm.c - our own matrix product, after Goto and van de Geijn (2008). It packs blocks of A and B into panels,
 * converted to fp32, and the register tile reads them in order. Each thread computes its own rows or columns of C, so
 * no sum depends on the number of threads. */
#include "kernels/nn/cpu/cpu.h"

/* The sizes of a block. Its panels of A and B stay in the second-level cache while a tile runs along K elements. */
#define ROWS 1536
#define COLUMNS 1024
#define DEPTH 384

/* The part of one thread, and its buffers for packing. */
typedef struct part {
    int64_t m0, m1, n0, n1;
    float *a, *b, *sum; /* panels of A, panels of B, sums of a block if C is not fp32 */
} part_t;

static int64_t at_most(int64_t x, int64_t bound)
{
    return x < bound ? x : bound;
}

/* Decides whether threads divide columns (else rows). Returns the number of threads. */
static int split(const zero_nn_t *nn, int64_t m, int64_t n, bool *columns)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int64_t down = (m + simd->tile_m - 1) / simd->tile_m, across = (n + simd->tile_n - 1) / simd->tile_n;
    *columns = across >= down;
    return zero_nn_threads(nn, *columns ? across : down);
}

/* Floats that a thread packs: of A, B and sums. dtype is C's. The sizes are multiples of 32, so each buffer starts at a
 * multiple of 128 bytes. */
static int64_t part_sizes(const zero_nn_t *nn, int64_t m, int64_t n, int64_t k, zero_dtype_t dtype, int64_t size[3])
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    int64_t rows = zero_nn_up(at_most(m, ROWS), simd->tile_m), columns = zero_nn_up(at_most(n, COLUMNS), simd->tile_n),
            depth = at_most(k, DEPTH);
    size[0] = zero_nn_up(rows * depth, 32);
    size[1] = zero_nn_up(columns * depth, 32);
    size[2] = dtype == ZERO_FP32 ? 0 : zero_nn_up(at_most(m, ROWS) * at_most(n, COLUMNS), 32);
    return size[0] + size[1] + size[2];
}

uint64_t zero_nn_own_gemm_workspace(const zero_nn_t *nn, const zero_nn_shape_t *shape)
{
    bool columns;
    int64_t size[3], m = shape->d[0], n = shape->d[1];
    int threads = split(nn, m, n, &columns);
    zero_dtype_t dtype = shape->d[6] & ZERO_NN_WIDE ? ZERO_FP32 : (zero_dtype_t)shape->dtype;
    return (uint64_t)threads * (uint64_t)part_sizes(nn, m, n, shape->d[2], dtype, size) * sizeof(float);
}

/* Packs panels of width columns (or rows) and depth k, padded with zeros: panel[l * width + i] = matrix (first + i, l).
 * Element (i, l) of the matrix is at i * step + l if the depth runs along memory, otherwise at l * step + i. */
static void pack(float *out, const zero_nn_simd_t *simd, const void *matrix, int64_t step, bool along, int64_t first,
                 int64_t count, int64_t l0, int64_t depth, int64_t width, zero_dtype_t dtype)
{
    size_t size = zero_dtype_size(dtype);
    for (int64_t p = 0; p < count; p += width, out += width * depth) {
        int64_t w = at_most(width, count - p);
        if (w < width)
            memset(out, 0, (size_t)(width * depth) * sizeof *out);
        if (!along) {
            for (int64_t l = 0; l < depth; l++)
                simd->load(out + l * width, (const char *)matrix + (size_t)((l0 + l) * step + first + p) * size, w,
                           dtype);
        } else if (dtype == ZERO_FP32) {
            const float *from = (const float *)matrix + (first + p) * step + l0;
            for (int64_t i = 0; i < w; i++)
                for (int64_t l = 0; l < depth; l++)
                    out[l * width + i] = from[i * step + l];
        } else {
            const uint16_t *from = (const uint16_t *)matrix + (first + p) * step + l0;
            float wide[DEPTH];
            for (int64_t i = 0; i < w; i++) {
                simd->load(wide, from + i * step, depth, dtype);
                for (int64_t l = 0; l < depth; l++)
                    out[l * width + i] = wide[l];
            }
        }
    }
}

/* Adds bias and the old C to sums (m, n) of a block, and stores them in C's dtype. */
static void finish(const zero_nn_simd_t *simd, const zero_nn_gemm_t *g, float *sum, int64_t ld, int64_t i0, int64_t m,
                   int64_t j0, int64_t n)
{
    size_t size = zero_dtype_size(g->dtype);
    for (int64_t i = 0; i < m; i++) {
        char *c = (char *)g->c + (size_t)((i0 + i) * g->ldc + j0) * size;
        if (g->bias != NULL)
            simd->add(sum + i * ld, (const char *)g->bias + (size_t)j0 * size, n, g->dtype);
        if ((float *)c == sum + i * ld)
            continue;
        if (g->accumulate)
            simd->add(sum + i * ld, c, n, g->dtype);
        simd->store(c, sum + i * ld, n, g->dtype);
    }
}

/* Computes one block of C: rows i0.., columns j0... If C is fp32, the sums are in C itself. */
static void block(const zero_nn_simd_t *simd, const zero_nn_gemm_t *g, const part_t *part, int64_t i0, int64_t m,
                  int64_t j0, int64_t n)
{
    bool own = g->dtype != ZERO_FP32 && !g->wide;
    float *sum = own ? part->sum : (float *)g->c + i0 * g->ldc + j0;
    int64_t ld = own ? n : g->ldc, tm = simd->tile_m, tn = simd->tile_n;
    float edge[16 * 64] __attribute__((aligned(64))); /* a tile that extends beyond C */
    for (int64_t i = 0; i < m && g->k == 0 && (own || !g->accumulate); i++)
        memset(sum + i * ld, 0, (size_t)n * sizeof *sum);
    for (int64_t l0 = 0; l0 < g->k; l0 += DEPTH) {
        int64_t depth = at_most(DEPTH, g->k - l0);
        bool add = l0 > 0 || (!own && g->accumulate);
        pack(part->a, simd, g->a, g->lda, !g->trans_a, i0, m, l0, depth, tm, g->dtype);
        pack(part->b, simd, g->b, g->ldb, g->trans_b, j0, n, l0, depth, tn, g->dtype);
        for (int64_t j = 0; j < n; j += tn) {
            for (int64_t i = 0; i < m; i += tm) {
                int64_t rows = at_most(tm, m - i), columns = at_most(tn, n - j);
                float *c = sum + i * ld + j;
                if (rows == tm && columns == tn) {
                    simd->tile(c, ld, part->a + i * depth, part->b + j * depth, depth, add);
                    continue;
                }
                simd->tile(edge, tn, part->a + i * depth, part->b + j * depth, depth, false);
                for (int64_t r = 0; r < rows && add; r++)
                    simd->add(c + r * ld, edge + r * tn, columns, ZERO_FP32);
                for (int64_t r = 0; r < rows && !add; r++)
                    simd->store(c + r * ld, edge + r * tn, columns, ZERO_FP32);
            }
        }
    }
    if (own || g->bias != NULL)
        finish(simd, g, sum, ld, i0, m, j0, n);
}

void zero_nn_own_gemm(zero_nn_t *nn, const zero_nn_gemm_t *g)
{
    const zero_nn_simd_t *simd = zero_nn_simd(nn);
    bool columns;
    int threads = split(nn, g->m, g->n, &columns);
    int64_t size[3], floats = part_sizes(nn, g->m, g->n, g->k, g->wide ? ZERO_FP32 : g->dtype, size);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        part_t part = {.m0 = 0, .m1 = g->m, .n0 = 0, .n1 = g->n, .a = (float *)nn->workspace + t * floats};
        part.b = part.a + size[0];
        part.sum = part.b + size[1];
        if (columns)
            zero_nn_part(g->n, simd->tile_n, threads, t, &part.n0, &part.n1);
        else
            zero_nn_part(g->m, simd->tile_m, threads, t, &part.m0, &part.m1);
        for (int64_t i = part.m0; i < part.m1; i += ROWS)
            for (int64_t j = part.n0; j < part.n1; j += COLUMNS)
                block(simd, g, &part, i, at_most(ROWS, part.m1 - i), j, at_most(COLUMNS, part.n1 - j));
    }
}
