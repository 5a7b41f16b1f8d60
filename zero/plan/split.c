/* SPDX-License-Identifier: Apache-2.0 */
/* split.c - see split.h. */
#include "zero/plan/split.h"

int zero_split_place(const zero_spec_t *spec, int rank)
{
    return rank % spec->mesh.tensor;
}

zero_split_run_t zero_split_run(const zero_spec_t *spec, const zero_spec_param_t *param, int rank, int64_t at,
                                int64_t end)
{
    if (!zero_split_is(param))
        return (zero_split_run_t){at, end - at, end};
    const int64_t place = zero_split_place(spec, rank), index = at / param->run, within = at % param->run,
                  next = (index + 1) * param->run, begin = (index * spec->mesh.tensor + place) * param->run + within;
    zero_split_run_t run = {begin, 0, next < end ? next : end};
    const int64_t length = run.next - at, left = param->total - begin;
    run.count = left < length ? left : length;
    if (run.count < 0)
        run.count = 0;
    return run;
}

zero_split_run_t zero_split_runs(const zero_spec_t *spec, const zero_spec_param_t *param, int rank, int64_t at,
                                 int64_t end, int64_t *times)
{
    zero_split_run_t run = zero_split_run(spec, param, rank, at, end);
    *times = 1;
    if (zero_split_is(param) && run.count == param->run) {
        *times = (end - at) / param->run;
        run.next = at + *times * param->run;
    }
    return run;
}

int64_t zero_split_below(const zero_spec_t *spec, const zero_spec_param_t *param, int rank, int64_t element)
{
    if (!zero_split_is(param))
        return element;
    const int64_t runs = param->run * spec->mesh.tensor, index = element / runs,
                  within = element % runs - param->run * zero_split_place(spec, rank);
    return index * param->run + (within < 0 ? 0 : within > param->run ? param->run : within);
}

zero_status_t zero_split_set(const zero_spec_t *spec, zero_spec_param_t *p, zero_error_t *error)
{
    const int64_t T = spec->mesh.tensor, blocks = p->split_blocks;
    memcpy(p->shape, p->whole, sizeof p->shape);
    p->count = p->run = p->total;
    if (T == 1 || p->split_dim < 0 || p->total == 0)
        return ZERO_OK;
    const int64_t n = p->whole[p->split_dim], block = n / blocks;
    int64_t inner = 1;
    bool padded = p->split_dim == 0 && blocks == 1 && n > 1;
    if (n % blocks != 0 || (block % T != 0 && !padded))
        return zero_fail(error, ZERO_ERR_ARG,
                         "dimension %d of parameter '%s' has %lld elements in %lld block%s, which config.mesh.tensor = "
                         "%lld does not divide: the nearest sizes that it divides are %lld and %lld",
                         p->split_dim, p->name, (long long)n, (long long)blocks, blocks > 1 ? "s" : "", (long long)T,
                         (long long)(n / (blocks * T) * blocks * T), (long long)((n / (blocks * T) + 1) * blocks * T));
    const int64_t part = (block + T - 1) / T;
    for (int32_t d = p->split_dim + 1; d < p->ndim; d++)
        inner *= p->whole[d];
    p->shape[p->split_dim] = part * blocks;
    p->run = part * inner;
    p->count = p->total / n * p->shape[p->split_dim];
    return ZERO_OK;
}
