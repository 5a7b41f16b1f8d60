/* SPDX-License-Identifier: Apache-2.0 */
/* sort.cu - see kernels.h. A stable radix sort, 8 bits per pass, least significant first. Each pass counts the digits
 * in each tile of rows, turns the counts into places, and moves every row to its place. The place is the start for its
 * digit and tile, plus the number of earlier rows in the tile with the same digit. A comparison with all of them gives
 * this number, so the order of threads does not matter. */
#include "kernels/nn/cuda/kernels.h"
#include "kernels/nn/cuda/vector.h"

enum { DIGITS = 256, TILE = 1024, EACH = TILE / DIGITS, SCAN = 1024 };

typedef struct sort_layout {
    int64_t tiles;
    int32_t *tokens[2], *rows[2]; /* (rows): input and output of a pass */
    int32_t *places;              /* (DIGITS, tiles) */
} sort_layout_t;

static uint64_t sort_layout(sort_layout_t *s, void *workspace, int64_t rows)
{
    int64_t padded = (rows + 31) / 32 * 32;
    int32_t *p = (int32_t *)workspace;
    s->tiles = (rows + TILE - 1) / TILE;
    s->tokens[0] = p;
    s->tokens[1] = p + padded;
    s->rows[0] = p + 2 * padded;
    s->rows[1] = p + 3 * padded;
    s->places = p + 4 * padded;
    return (uint64_t)(4 * padded + DIGITS * s->tiles) * sizeof(int32_t);
}

uint64_t zero_nn_cuda_sort_workspace(int64_t rows)
{
    sort_layout_t s;
    return sort_layout(&s, NULL, rows);
}

/* digits (TILE) of the block's tile; -1 after the last row. */
static __device__ __forceinline__ void read_digits(int *digits, const int32_t *tokens, int64_t rows, int shift)
{
    for (int i = 0; i < EACH; i++) {
        int at = i * DIGITS + (int)threadIdx.x;
        int64_t r = (int64_t)blockIdx.x * TILE + at;
        digits[at] = r < rows ? (int)(((uint32_t)tokens[r] >> shift) & (DIGITS - 1)) : -1;
    }
    __syncthreads();
}

/* places (digit, tile) = the count of the digit in the tile. Thread d counts digit d. */
static __global__ void __launch_bounds__(DIGITS)
    count_digits(int32_t *places, const int32_t *tokens, int64_t rows, int64_t tiles, int shift)
{
    __shared__ int digits[TILE];
    read_digits(digits, tokens, rows, shift);
    int count = 0;
    for (int i = 0; i < TILE; i++)
        count += digits[i] == (int)threadIdx.x;
    places[(int64_t)threadIdx.x * tiles + blockIdx.x] = count;
}

/* Turns places into exclusive prefix sums, in one block. Each thread sums a stretch. Then the stretches are combined,
 * doubling the reach of a sum in each step. */
static __global__ void __launch_bounds__(SCAN) scan_places(int32_t *places, int64_t count)
{
    __shared__ int32_t sums[SCAN];
    int64_t each = (count + SCAN - 1) / SCAN, begin = (int64_t)threadIdx.x * each,
            end = begin + each < count ? begin + each : count;
    int32_t sum = 0, own;
    for (int64_t i = begin; i < end; i++)
        sum += places[i];
    own = sum;
    for (int reach = 1; reach < SCAN; reach *= 2) {
        sums[threadIdx.x] = sum;
        __syncthreads();
        if ((int)threadIdx.x >= reach)
            sum += sums[(int)threadIdx.x - reach];
        __syncthreads();
    }
    sum -= own;
    for (int64_t i = begin; i < end; i++) {
        int32_t here = places[i];
        places[i] = sum;
        sum += here;
    }
}

/* from_rows NULL: row r has number r. */
static __global__ void __launch_bounds__(DIGITS)
    move_rows(int32_t *to_tokens, int32_t *to_rows, const int32_t *from_tokens, const int32_t *from_rows,
              const int32_t *places, int64_t rows, int64_t tiles, int shift)
{
    __shared__ int digits[TILE];
    read_digits(digits, from_tokens, rows, shift);
    for (int i = 0; i < EACH; i++) {
        int at = i * DIGITS + (int)threadIdx.x, digit = digits[at], before = 0;
        int64_t r = (int64_t)blockIdx.x * TILE + at;
        if (digit < 0)
            continue;
        for (int j = 0; j < at; j++)
            before += digits[j] == digit;
        int64_t place = places[(int64_t)digit * tiles + blockIdx.x] + before;
        to_tokens[place] = from_tokens[r];
        to_rows[place] = from_rows == NULL ? (int32_t)r : from_rows[r];
    }
}

cudaError_t zero_nn_cuda_sort(void *workspace, const int32_t *from, int64_t rows, int64_t bound, const int32_t **tokens,
                              const int32_t **order, cudaStream_t stream)
{
    sort_layout_t s;
    cudaError_t status = cudaSuccess;
    sort_layout(&s, workspace, rows);
    *tokens = from;
    *order = NULL;
    /* At least one pass, which numbers the rows. */
    for (int shift = 0, to = 0; (shift == 0 || (bound - 1) >> shift > 0) && status == cudaSuccess;
         shift += 8, to = 1 - to) {
        ZERO_LAUNCH(count_digits, dim3((unsigned)s.tiles), dim3(DIGITS), 0, stream, s.places, *tokens, rows, s.tiles,
                    shift);
        status = cudaGetLastError();
        if (status != cudaSuccess)
            break;
        ZERO_LAUNCH(scan_places, dim3(1), dim3(SCAN), 0, stream, s.places, DIGITS * s.tiles);
        status = cudaGetLastError();
        if (status != cudaSuccess) /* otherwise rows would move to invalid places */
            break;
        ZERO_LAUNCH(move_rows, dim3((unsigned)s.tiles), dim3(DIGITS), 0, stream, s.tokens[to], s.rows[to], *tokens,
                    *order, (const int32_t *)s.places, rows, s.tiles, shift);
        status = cudaGetLastError();
        *tokens = s.tokens[to];
        *order = s.rows[to];
    }
    return status;
}
