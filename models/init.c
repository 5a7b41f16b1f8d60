/* SPDX-License-Identifier: Apache-2.0 */
/* init.c - initial values from a seed. Each element is a function of seed, tensor name and index only, so every rank
 * draws only its own elements. */
#include "models/decoder.h"

#include <math.h>

#define TAU 6.283185307179586476925286766559

/* FNV-1a, 64 bits (Fowler, Noll, Vo). */
static uint64_t hash_name(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}

/* Elements 2k and 2k + 1 of a standard normal stream (Box and Muller 1958), from counters 2k and 2k + 1 of the key. */
static void normal_pair(uint64_t key, uint64_t k, double out[2])
{
    const double u = (double)((zero_splitmix64(key + 2 * k) >> 11) + 1) * 0x1p-53; /* (0, 1]: the logarithm is finite */
    const double v = (double)(zero_splitmix64(key + 2 * k + 1) >> 11) * 0x1p-53;
    const double r = sqrt(-2 * log(u));

    out[0] = r * cos(TAU * v);
    out[1] = r * sin(TAU * v);
}

/* Element i of a stream that is uniform in [-1, 1). */
static double uniform(uint64_t key, uint64_t i)
{
    return (double)(zero_splitmix64(key + i) >> 11) * 0x1p-52 - 1;
}

void zero_model_init_values(const zero_model_tensor_t *tensor, uint64_t seed, int64_t begin, int64_t count, int threads,
                            float *out)
{
    const uint64_t key = zero_splitmix64(seed ^ hash_name(tensor->name));

    if (tensor->start != ZERO_START_NORMAL) {
        for (int64_t i = 0; i < count; i++)
            out[i] = tensor->start == ZERO_START_UNIFORM ? (float)(tensor->std * uniform(key, (uint64_t)(begin + i)))
                     : tensor->start == ZERO_START_ONE   ? 1.0f
                                                         : 0.0f;
        return;
    }
    /* Parts of a tensor may be many short ranges, for which threads cost more than they save. */
    const int64_t end = begin + count, least = 4096;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && count >= least)
    for (int64_t k = begin / 2; k < (end + 1) / 2; k++) {
        double pair[2];

        normal_pair(key, (uint64_t)k, pair);
        for (int64_t i = 2 * k; i < 2 * k + 2; i++)
            if (i >= begin && i < end)
                out[i - begin] = (float)(tensor->std * pair[i - 2 * k]);
    }
}

typedef struct fill {
    const zero_model_t *m;
    zero_model_tensor_t tensor;
    uint64_t seed;
} fill_t;

static int fill_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    const fill_t *f = ctx;

    (void)param;
    zero_model_init_values(&f->tensor, f->seed, begin, count, f->m->options.threads, out);
    return 0;
}

static zero_status_t init_from(zero_model_t *m, int first, uint64_t seed, zero_error_t *error)
{
    fill_t f = {.m = m, .seed = seed};

    if (!m->bound)
        return zero_fail(error, ZERO_ERR_ORDER,
                         "call zero_model_bind after zero_commit, before the model is initialised");
    for (int i = first; i < m->param_count; i++) {
        zero_status_t status;

        zero_model_param_tensor(m, i, &f.tensor);
        status = zero_param_fill(m->engine, m->params[i].id, fill_values, &f);
        if (status != ZERO_OK)
            return zero_model_engine_error(m, status, error);
    }
    return ZERO_OK;
}

zero_status_t zero_model_init(zero_model_t *m, uint64_t seed, zero_error_t *error)
{
    return init_from(m, 0, seed, error);
}

zero_status_t zero_model_init_adapters(zero_model_t *m, uint64_t seed, zero_error_t *error)
{
    return init_from(m, m->base_count, seed, error);
}
