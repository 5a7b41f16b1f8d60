/* SPDX-License-Identifier: Apache-2.0 */
/* test_muon.c - Muon: a small model's losses agree with PyTorch's, with each matrix updated on one rank, and have the
 * same bits for every placement of the state. */
#include "kernels/nn/nn.h"
#include "tests/emulated.h"
#include "tests/golden/muon.h"
#include "tests/ranks.h"
#include "zero/base/base.h"
#include "zero/device/device.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TOKENS = 8, WIDTH = 64, HIDDEN = 256, OUT = 10, BATCH = 24, STEPS = sizeof muon_losses / sizeof *muon_losses };
enum { EMBED, UP, BIAS, DOWN, HEAD, PARAMS };
static const struct {
    const char *name, *unit;
    int rows, cols; /* cols 0: one dimension */
    bool elementwise;
} params[PARAMS] = {
    [EMBED] = {"embed", "embed", TOKENS, WIDTH, true}, [UP] = {"up", "layer", HIDDEN, WIDTH, false},
    [BIAS] = {"bias", "layer", HIDDEN, 0, false},      [DOWN] = {"down", "layer", WIDTH, HIDDEN, false},
    [HEAD] = {"head", "head", OUT, WIDTH, true},
};
static const char *const units[] = {"embed", "layer", "head"};
enum { UNITS = 3, MOST = HIDDEN * WIDTH, WORKSPACE = 1 << 20, GPU = 3 };

typedef struct muon_case {
    int world, stage, micro_steps, threaded; /* threaded: 1, 2 with delays; GPU: all ranks share an emulated one */
    zero_tier_t tier;
    bool params_too; /* parameters are on the tier as well */
    double ratio;
    zero_reduce_t reduce;
    zero_dtype_t dtype;
    bool refuses; /* the callback fails */
    char folder[32];
} muon_case_t;

typedef struct outcome {
    double losses[STEPS];
    uint64_t bits; /* of parameters and state */
    double misses; /* bytes by which forecast and measured memory differ */
    int made[4];   /* number of matrices that each rank updated */
    char sentence[400];
} outcome_t;

typedef struct trainer {
    const muon_case_t *c;
    outcome_t *out;
    int rank;
    zero_engine_t *engine;
    zero_param_t param[PARAMS];
    zero_unit_t unit[UNITS];
    zero_pass_t pass;
    zero_reserve_t scratch;
    zero_reserve_t workspace;
    zero_device_t *device;
    zero_comm_t *wire; /* on a GPU */
    zero_nn_t *nn;     /* for the callback */
    double w[PARAMS][MOST], grad[PARAMS][MOST];
} trainer_t;

static double number(int which, int64_t i)
{
    return ((double)(zero_splitmix64((uint64_t)which * 1000003 + (uint64_t)i) >> 44) / 0x1p20 - 0.5) / 2;
}

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx;
    for (int64_t i = 0; i < count; i++)
        out[i] = (float)number(param, begin + i);
    return 0;
}

/* ---- the callback ----------------------------------------------------------------------------------------------- */

/* Creates the context on the thread that uses it. */
static int prepare(trainer_t *t, const zero_matrix_args_t *args)
{
    zero_error_t error = {0};
    if (zero_nn_create(&t->nn, t->c->threaded == GPU ? "cuda" : "cpu", 1, args->stream, &error) != ZERO_OK)
        return -1;
    zero_nn_set_dry(t->nn, true);
    zero_nn_orthogonalize(t->nn, NULL, NULL, HIDDEN, WIDTH);
    zero_nn_orthogonalize(t->nn, NULL, NULL, WIDTH, HIDDEN);
    zero_nn_set_dry(t->nn, false);
    if (zero_nn_workspace_bytes(t->nn) > WORKSPACE)
        return -1;
    zero_nn_set_workspace(t->nn, zero_nn_aligned(zero_reserved(t->engine, t->workspace)), WORKSPACE);
    return 0;
}

static int make(void *ctx, const zero_matrix_args_t *args)
{
    trainer_t *t = ctx;
    zero_error_t error = {0};
    if (t->c->refuses || (t->nn == NULL && prepare(t, args) != 0))
        return -1;
    t->out->made[t->rank]++;
    zero_nn_orthogonalize(t->nn, args->values, zero_nn_aligned(zero_reserved(t->engine, t->scratch)), args->rows,
                          args->cols);
    if (zero_nn_status(t->nn, &error) == ZERO_OK)
        return 0;
    fprintf(stderr, "%s\n", error.text);
    return -1;
}

/* ---- the model -------------------------------------------------------------------------------------------------- */

/* Copies bytes between device and host, and waits. */
static int copy(trainer_t *t, void *dst, const void *src, size_t bytes)
{
    zero_error_t error;
    void *stream = zero_stream(t->engine);
    if (t->device->ops->copy(t->device, stream, dst, src, bytes, &error) == ZERO_OK &&
        t->device->ops->finish(t->device, stream, 60, &error) == ZERO_OK)
        return 0;
    fprintf(stderr, "%s\n", error.text);
    return 1;
}

static float host[MOST]; /* of dtype */

static int load(trainer_t *t, int p)
{
    int64_t n = zero_param_elements(t->engine, t->param[p]);
    if (copy(t, host, zero_param_data(t->engine, t->param[p]), (size_t)n * zero_dtype_size(t->c->dtype)) != 0)
        return 1;
    for (int64_t i = 0; i < n; i++)
        t->w[p][i] =
            t->c->dtype == ZERO_FP32 ? (double)host[i] : (double)zero_bf16_to_fp32(((const uint16_t *)(void *)host)[i]);
    return 0;
}

static int hand_over(trainer_t *t, int p)
{
    void *grad = zero_param_grad(t->engine, t->param[p]);
    int64_t n = zero_param_elements(t->engine, t->param[p]);
    size_t bytes = (size_t)n * zero_dtype_size(t->c->dtype);
    uint16_t *halves = (void *)host;
    if (copy(t, host, grad, bytes) != 0)
        return 1;
    for (int64_t i = 0; i < n; i++)
        if (t->c->dtype == ZERO_FP32)
            host[i] += (float)t->grad[p][i];
        else
            halves[i] = zero_fp32_to_bf16(zero_bf16_to_fp32(halves[i]) + (float)t->grad[p][i]);
    return copy(t, grad, host, bytes);
}

/* Adds the gradients of the mean over the batch and outputs, for samples [first, end). Returns their share of the
 * loss. */
static double forward_and_backward(trainer_t *t, int first, int end)
{
    double loss = 0;
    memset(t->grad, 0, sizeof t->grad);
    for (int s = first; s < end; s++) {
        int token = 5 * s % TOKENS;
        const double *x = t->w[EMBED] + token * WIDTH;
        double a[HIDDEN], y[WIDTH], dy[WIDTH] = {0};
        for (int h = 0; h < HIDDEN; h++) {
            double sum = t->w[BIAS][h];
            for (int i = 0; i < WIDTH; i++)
                sum += t->w[UP][h * WIDTH + i] * x[i];
            a[h] = tanh(sum);
        }
        for (int i = 0; i < WIDTH; i++) {
            y[i] = x[i];
            for (int h = 0; h < HIDDEN; h++)
                y[i] += t->w[DOWN][i * HIDDEN + h] * a[h];
        }
        for (int o = 0; o < OUT; o++) {
            double error = -4 * number(5, s * OUT + o), slope;
            for (int i = 0; i < WIDTH; i++)
                error += t->w[HEAD][o * WIDTH + i] * y[i];
            loss += error * error / (BATCH * OUT);
            slope = 2 * error / (BATCH * OUT);
            for (int i = 0; i < WIDTH; i++) {
                t->grad[HEAD][o * WIDTH + i] += slope * y[i];
                dy[i] += slope * t->w[HEAD][o * WIDTH + i];
            }
        }
        double *dx = t->grad[EMBED] + token * WIDTH;
        for (int i = 0; i < WIDTH; i++)
            dx[i] += dy[i];
        for (int h = 0; h < HIDDEN; h++) {
            double da = 0;
            for (int i = 0; i < WIDTH; i++) {
                t->grad[DOWN][i * HIDDEN + h] += dy[i] * a[h];
                da += dy[i] * t->w[DOWN][i * HIDDEN + h];
            }
            da *= 1 - a[h] * a[h];
            t->grad[BIAS][h] += da;
            for (int i = 0; i < WIDTH; i++) {
                t->grad[UP][h * WIDTH + i] += da * x[i];
                dx[i] += da * t->w[UP][h * WIDTH + i];
            }
        }
    }
    return loss;
}

/* ---- a run ------------------------------------------------------------------------------------------------------ */

#define TRY(call)                               \
    do {                                        \
        zero_status_t status_ = (call);         \
        if (status_ != ZERO_OK)                 \
            return complain(t, #call, status_); \
    } while (0)
static int complain(const trainer_t *t, const char *call, zero_status_t status)
{
    if (t->c->refuses && t->rank == 0)
        snprintf(t->out->sentence, sizeof t->out->sentence, "%s: %s", zero_status_name(status),
                 zero_last_error(t->engine));
    else
        fprintf(stderr, "rank %d: %s: %s\n", t->rank, call, zero_last_error(t->engine));
    return 1;
}

static int declare(trainer_t *t)
{
    for (int u = 0; u < UNITS; u++)
        TRY(zero_unit_add(t->engine, units[u], &t->unit[u]));
    for (int p = 0; p < PARAMS; p++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = params[p].name;
        desc.dtype = t->c->dtype;
        desc.ndim = params[p].cols > 0 ? 2 : 1;
        desc.shape[0] = params[p].rows;
        desc.shape[1] = params[p].cols;
        desc.elementwise = params[p].elementwise;
        desc.decay_scale = params[p].cols > 0;
        int unit = 0;
        while (strcmp(units[unit], params[p].unit) != 0)
            unit++;
        TRY(zero_param_add(t->engine, t->unit[unit], &desc, &t->param[p]));
    }
    TRY(zero_pass_add(t->engine, "train", ZERO_PASS_TRAIN, &t->pass));
    for (int u = 0; u < UNITS; u++)
        TRY(zero_use_add(t->engine, t->pass, t->unit[u], ZERO_READ));
    for (int u = UNITS - 1; u >= 0; u--)
        TRY(zero_use_add(t->engine, t->pass, t->unit[u], ZERO_READ | ZERO_GRAD));
    TRY(zero_reserve(t->engine, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE,
                     zero_nn_orthogonalize_bytes(HIDDEN, WIDTH) + ZERO_NN_ALIGN, &t->scratch));
    TRY(zero_reserve(t->engine, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, WORKSPACE + ZERO_NN_ALIGN, &t->workspace));
    TRY(zero_commit(t->engine));
    for (int p = 0; p < PARAMS; p++)
        TRY(zero_param_fill(t->engine, t->param[p], fill, NULL));
    return 0;
}

static int micro_step(trainer_t *t, int micro, double *loss)
{
    int each = BATCH / (t->c->world * t->c->micro_steps), first = (t->rank * t->c->micro_steps + micro) * each;
    TRY(zero_micro_begin(t->engine, t->pass, micro + 1 == t->c->micro_steps ? ZERO_LAST : 0));
    for (int turn = 0; turn < 2; turn++)
        for (int k = 0; k < UNITS; k++) {
            int u = turn == 0 ? k : UNITS - 1 - k;
            TRY(zero_acquire(t->engine, t->unit[u]));
            for (int p = 0; p < PARAMS; p++)
                if (strcmp(params[p].unit, units[u]) == 0 && (turn == 0 ? load(t, p) : hand_over(t, p)) != 0)
                    return 1;
            TRY(zero_release(t->engine, t->unit[u]));
            if (turn == 0 && k + 1 == UNITS)
                *loss += forward_and_backward(t, first, first + each);
        }
    TRY(zero_micro_end(t->engine));
    return 0;
}

static int digest(trainer_t *t)
{
    static float values[MOST];
    uint64_t bits = 0;
    for (int p = 0; p < PARAMS; p++)
        for (int state = ZERO_STATE_PARAM; state <= ZERO_STATE_MOMENT2; state++) {
            bool whole = p == UP || p == DOWN;
            if (state == ZERO_STATE_GRAD || (state == ZERO_STATE_MOMENT2 && whole))
                continue;
            TRY(zero_param_get(t->engine, t->param[p], (zero_state_t)state, ZERO_FP32, values));
            for (int64_t i = 0; i < zero_param_elements(t->engine, t->param[p]); i++) {
                uint32_t word;
                memcpy(&word, &values[i], sizeof word);
                bits = zero_splitmix64(bits ^ word);
            }
        }
    t->out->bits = bits;
    return 0;
}

static int measure(trainer_t *t)
{
    zero_memory_t forecast = {.size = sizeof forecast}, measured = {.size = sizeof measured};
    TRY(zero_forecast(t->engine, &forecast));
    TRY(zero_measure(t->engine, &measured));
    for (int tier = 0; tier < ZERO_TIER_COUNT; tier++)
        for (int kind = 0; kind < ZERO_KIND_COUNT; kind++)
            t->out->misses += fabs((double)forecast.bytes[tier][kind] - (double)measured.bytes[tier][kind]);
    zero_traffic_t planned;
    zero_stats_t stats = {.size = sizeof stats};
    TRY(zero_forecast_traffic(t->engine, t->c->micro_steps, &planned));
    TRY(zero_step_stats(t->engine, &stats));
    const uint64_t wanted[] = {planned.gathered,  planned.reduced, planned.to_host,
                               planned.to_device, planned.read,    planned.written};
    const uint64_t moved[] = {stats.traffic.gathered,  stats.traffic.reduced, stats.traffic.to_host,
                              stats.traffic.to_device, stats.traffic.read,    stats.traffic.written};
    for (int i = 0; i < 6; i++)
        t->out->misses += fabs((double)STEPS * (double)wanted[i] - (double)moved[i]);
    return 0;
}

static int train(trainer_t *t)
{
    if (declare(t) != 0)
        return 1;
    for (int step = 0; step < STEPS; step++) {
        double loss = 0;
        for (int m = 0; m < t->c->micro_steps; m++)
            if (micro_step(t, m, &loss) != 0)
                return 1;
        TRY(zero_step(t->engine, 0.01));
        TRY(zero_sum(t->engine, &loss, 1));
        if (t->rank == 0)
            t->out->losses[step] = loss;
    }
    return digest(t) != 0 || (t->rank == 0 && measure(t) != 0);
}

static int run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    void **both = arg;
    static trainer_t trainer;
    trainer_t *t = &trainer;
    zero_comm_t *comm = NULL, *inner = NULL;
    zero_error_t error = {0};
    zero_device_options_t options;
    zero_config_t config;
    *t = (trainer_t){.c = both[0], .out = both[1], .rank = rank};
    zero_device_options_init(&options);
    options.threads = 1;
    options.threaded = t->c->threaded > 0 && t->c->threaded < GPU;
    options.delay_seed = t->c->threaded == 2 ? 1 + (uint64_t)rank : 0;
    bool gpu = t->c->threaded == GPU;
    if (zero_comm_shm(&comm, bootstrap, NULL, &error) != ZERO_OK ||
        (gpu ? zero_device_cuda : zero_device_cpu)(&t->device, &options, &error) != ZERO_OK ||
        (gpu && (zero_comm_split(comm, 0, rank, &inner, &error) != ZERO_OK ||
                 zero_comm_staged(&t->wire, inner, t->device, 1 << 16, &error) != ZERO_OK))) {
        fprintf(stderr, "rank %d: %s\n", rank, error.text);
        return 1;
    }
    zero_config_init(&config);
    zero_config_stage(&config, t->c->stage);
    config.comm = gpu ? t->wire : comm;
    config.device = t->device;
    config.timeout_s = 60;
    config.persist_bytes = 2048;
    config.micro_steps = t->c->micro_steps;
    config.reduce = t->c->reduce;
    config.rule = ZERO_RULE_MUON;
    config.matrix = make;
    config.matrix_ctx = t;
    config.optimizer.tier = t->c->tier;
    config.parameters.tier = t->c->params_too ? t->c->tier : ZERO_TIER_DEVICE;
    config.gradients.tier = t->c->tier == ZERO_TIER_DEVICE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    config.offload_ratio = t->c->ratio;
    config.nvme_path = t->c->folder;
    (void)world;
    if (zero_create(&t->engine, &config, &error) != ZERO_OK) {
        fprintf(stderr, "zero_create: %s\n", error.text);
        return 1;
    }
    int result = train(t);
    zero_destroy(t->engine);
    zero_nn_destroy(t->nn);
    zero_comm_destroy(t->wire);
    zero_device_destroy(t->device);
    zero_comm_destroy(comm);
    return result;
}

static bool run_case(const muon_case_t *c, outcome_t *out)
{
    outcome_t *shared = ranks_shared(sizeof *shared);
    void *both[2] = {(void *)(uintptr_t)c, shared};
    int status[4];
    bool done =
        c->refuses ? ranks_run_status(c->world, 120, run, both, status) == 0 : ranks_run(c->world, 120, run, both) == 0;
    *out = *shared;
    ranks_unshare(shared, sizeof *shared);
    return done;
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

static const muon_case_t plain = {.world = 1, .stage = 3, .micro_steps = 1, .ratio = 1};

static void check_case(const muon_case_t *c, outcome_t *out)
{
    char what[200];
    snprintf(what, sizeof what, "{%d ranks, stage %d, %d micro-steps, threaded %d, tier %s%s, ratio %g, reduce %d, %s}",
             c->world, c->stage, c->micro_steps, c->threaded, zero_tier_name(c->tier),
             c->params_too ? " with parameters" : "", c->ratio, (int)c->reduce, zero_dtype_name(c->dtype));
    ck_assert_msg(run_case(c, out), "%s failed", what);
    ck_assert_msg(out->misses == 0, "%s: forecast and measurement differ by %g bytes", what, out->misses);
    for (int s = 0; s < STEPS && c->dtype == ZERO_FP32; s++)
        ck_assert_msg(fabs(out->losses[s] - muon_losses[s]) <= 1e-5 * muon_losses[s],
                      "%s: the loss of step %d is %.9g, PyTorch's %.9g", what, s + 1, out->losses[s], muon_losses[s]);
    /* A unit has two matrices: two ranks update one each. */
    for (int r = 0; r < c->world; r++)
        ck_assert_msg(out->made[r] == STEPS * (c->world == 1 ? 2 : r < 2), "%s: rank %d made %d matrices", what, r,
                      out->made[r]);
}

/* For each number of ranks: PyTorch's losses, and the same bits for every placement of the state. */
START_TEST(test_losses_and_bits)
{
    static const struct {
        zero_tier_t tier;
        bool params_too;
        double ratio;
    } places[] = {{ZERO_TIER_DEVICE, false, 1}, {ZERO_TIER_HOST, false, 1}, {ZERO_TIER_HOST, true, 1},
                  {ZERO_TIER_HOST, false, 0.5}, {ZERO_TIER_NVME, false, 1}, {ZERO_TIER_NVME, true, 1},
                  {ZERO_TIER_NVME, false, 0.5}};
    char folder[] = "muon.XXXXXX";
    int world = 1 + _i / 2;
    zero_dtype_t dtype = _i % 2 ? ZERO_BF16 : ZERO_FP32;
    outcome_t first = {.bits = 0}, out;
    ck_assert_ptr_nonnull(mkdtemp(folder));
    for (int stage = 0; stage < 4; stage++)
        for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
            muon_case_t c = plain;
            c.world = world;
            c.stage = stage;
            c.dtype = dtype;
            c.tier = places[p].tier;
            c.params_too = places[p].params_too;
            c.ratio = places[p].ratio;
            c.threaded = (stage + (int)p) % 3;
            snprintf(c.folder, sizeof c.folder, "%s", folder);
            check_case(&c, &out);
            if (first.bits == 0)
                first = out;
            ck_assert_msg(out.bits == first.bits && memcmp(out.losses, first.losses, sizeof out.losses) == 0,
                          "%d ranks, stage %d, place %zu: other bits", world, stage, p);
        }
    ck_assert_int_eq(rmdir(folder), 0);
}
END_TEST

/* Steps of two micro-steps also have PyTorch's losses. */
START_TEST(test_micro_steps)
{
    for (int world = 1; world <= 3; world += 2)
        for (int stage = 0; stage < 4; stage += 3) {
            muon_case_t c = plain;
            outcome_t out;
            c.world = world;
            c.stage = stage;
            c.micro_steps = 2;
            c.reduce = _i ? ZERO_REDUCE_LAST : ZERO_REDUCE_EVERY;
            c.tier = world == 1 ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
            check_case(&c, &out);
        }
}
END_TEST

/* GPU kernels orthogonalize the matrices, on the GPU's stream. */
START_TEST(test_gpu)
{
    for (int stage = 0; stage < 4; stage += 3)
        for (int offload = 0; offload < 2; offload++) {
            muon_case_t c = plain;
            outcome_t out;
            c.world = 2;
            c.stage = stage;
            c.threaded = GPU;
            c.tier = offload ? ZERO_TIER_HOST : ZERO_TIER_DEVICE;
            c.ratio = offload ? 0.5 : 1;
            check_case(&c, &out);
        }
}
END_TEST

/* If the callback fails, the step fails with a sentence that names the matrix. */
START_TEST(test_refusal)
{
    muon_case_t c = plain;
    outcome_t out;
    c.world = 2;
    c.refuses = true;
    run_case(&c, &out);
    ck_assert_msg(strstr(out.sentence, "config.matrix") && strstr(out.sentence, "'up'"), "%s", out.sentence);
}
END_TEST

/* The result times its transpose shows the singular values: near 1 for well-conditioned matrices. */
START_TEST(test_orthogonalize)
{
    static const int64_t sizes[][2] = {{16, 16}, {24, 96}, {96, 24}, {1, 9}, {7, 1}};
    static const char *const backends[] = {"ref", "cpu"};
    const int64_t rows = sizes[_i][0], cols = sizes[_i][1], least = rows < cols ? rows : cols,
                  most = rows + cols - least;
    float *got[2];
    for (int b = 0; b < 2; b++) {
        zero_nn_t *nn;
        zero_error_t error;
        float *x = got[b] = aligned_alloc(128, (size_t)((rows * cols * 4 + 127) / 128 * 128));
        ck_assert_int_eq(zero_nn_create(&nn, backends[b], 1, NULL, &error), ZERO_OK);
        void *scratch = aligned_alloc(ZERO_NN_ALIGN, zero_nn_orthogonalize_bytes(rows, cols));
        zero_nn_set_dry(nn, true);
        zero_nn_orthogonalize(nn, NULL, NULL, rows, cols);
        zero_nn_set_dry(nn, false);
        uint64_t bytes = zero_nn_workspace_bytes(nn);
        void *workspace = malloc(bytes + ZERO_NN_ALIGN);
        zero_nn_set_workspace(nn, zero_nn_aligned(workspace), bytes);
        for (int64_t i = 0; i < rows * cols; i++)
            x[i] = (float)(number(9, i) + (i / cols == i % cols));
        zero_nn_orthogonalize(nn, x, scratch, rows, cols);
        ck_assert_msg(zero_nn_status(nn, &error) == ZERO_OK, "%s", error.text);
        for (int64_t i = 0; i < least; i++)
            for (int64_t j = 0; j < least; j++) {
                double sum = 0;
                for (int64_t k = 0; k < most; k++)
                    sum += rows <= cols ? (double)x[i * cols + k] * (double)x[j * cols + k]
                                        : (double)x[k * cols + i] * (double)x[k * cols + j];
                ck_assert_msg(fabs(sum - (i == j)) < 0.6, "%s, %lld x %lld: element (%lld, %lld) of the product is %g",
                              backends[b], (long long)rows, (long long)cols, (long long)i, (long long)j, sum);
            }
        free(workspace);
        free(scratch);
        zero_nn_destroy(nn);
    }
    for (int64_t i = 0; i < rows * cols; i++)
        ck_assert_msg(fabsf(got[0][i] - got[1][i]) < 1e-4f, "element %lld: %g and %g", (long long)i, (double)got[0][i],
                      (double)got[1][i]);
    free(got[0]);
    free(got[1]);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("muon");
    TCase *tcase = tcase_create("muon");
    tcase_set_timeout(tcase, 600);
    tcase_add_loop_test(tcase, test_orthogonalize, 0, 5);
    tcase_add_loop_test(tcase, test_losses_and_bits, 0, 8);
    tcase_add_loop_test(tcase, test_micro_steps, 0, 2);
    tcase_add_test(tcase, test_refusal);

    suite_add_tcase(suite, tcase);
    TCase *gpu = tcase_create("gpu");
    tcase_set_timeout(gpu, 600);
    if (emulated_plugins())
        tcase_add_test(gpu, test_gpu);
    suite_add_tcase(suite, gpu);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
