/* SPDX-License-Identifier: Apache-2.0 */
/* gpu.cu - libzero with the program's own kernels on its own CUDA stream. The four kernels below are the forward and
 * backward pass of a network with a hidden layer. The library orders acquire and release on that stream, so the host
 * enqueues step after step and waits once at the end. The first step captures the kernels between an acquire and its
 * release in a graph, which later steps reuse, because addresses never change.
 *
 *   nvcc -O2 gpu.cu -o gpu $(pkg-config --cflags --libs zero)
 *   mpiexec -n 2 ./gpu
 *
 * Ranks share the GPUs in turn. If each rank has its own GPU, they communicate through NCCL, otherwise through host
 * memory. Exit status 77: there is no GPU. */
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zero/zero.h>

enum { LAYERS = 2, USES = 2 * LAYERS - 1, BATCH = 64, STEPS = 60, THREADS = 128 };
static const int width[LAYERS + 1] = {8, 64, 1};

static zero_engine_t *engine;
static zero_error_t error;

static void ok(zero_status_t status)
{
    if (status == ZERO_OK)
        return;
    fprintf(stderr, "%s\n", engine ? zero_last_error(engine) : error.text);
    exit(status == ZERO_ERR_UNSUPPORTED ? 77 : 1);
}

static void cuda(cudaError_t code)
{
    if (code == cudaSuccess)
        return;
    fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(code));
    if (engine)
        zero_abort(engine, cudaGetErrorString(code)); /* the other ranks end with this message */
    exit(1);
}

/* ---- kernels: one thread per result fixes the order of each sum; W is (out, in + 1), the last column is the bias */

__host__ __device__ static float noise(uint64_t i)
{
    i = (i + 1) * 0x9e3779b97f4a7c15u;
    i = (i ^ (i >> 31)) * 0xbf58476d1ce4e5b9u;
    return (float)(int32_t)(i >> 32) / 2147483648.0f;
}

/* y = W x, then tanh in all layers except the last; x (n, in), y (n, out) */
__global__ void forward(float *y, const float *w, const float *x, int n, int in, int out, bool last)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x, s = t / out, o = t % out;
    if (s >= n)
        return;
    float sum = w[o * (in + 1) + in];
    for (int i = 0; i < in; i++)
        sum += w[o * (in + 1) + i] * x[s * in + i];
    y[t] = last ? sum : tanhf(sum);
}

/* dy = y - target, and losses[*step] = the sum of (y - target)^2 / 2; advances *step. y (n). n is small, so one thread
 * suffices. */
__global__ void compare(float *dy, double *losses, int *step, const float *y, const float *x, int n, int in)
{
    double sum = 0;
    for (int s = 0; s < n; s++) {
        dy[s] = y[s] - (x[s * in] * x[s * in + 1] + 0.5f * x[s * in + 2]);
        sum += 0.5 * (double)dy[s] * (double)dy[s];
    }
    losses[(*step)++] = sum;
}

/* dW += dy x^T; dy (n, out) */
__global__ void weight_gradient(float *dw, const float *dy, const float *x, int n, int in, int out)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x, o = t / (in + 1), i = t % (in + 1);
    if (o >= out)
        return;
    float sum = 0;
    for (int s = 0; s < n; s++)
        sum += dy[s * out + o] * (i < in ? x[s * in + i] : 1.0f);
    dw[t] += sum;
}

/* dx = W^T dy, times the derivative of the tanh that computed x */
__global__ void input_gradient(float *dx, const float *w, const float *dy, const float *x, int n, int in, int out)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x, s = t / in, i = t % in;
    if (s >= n)
        return;
    float sum = 0;
    for (int o = 0; o < out; o++)
        sum += w[o * (in + 1) + i] * dy[s * out + o];
    dx[t] = sum * (1.0f - x[t] * x[t]);
}

static int blocks(int results)
{
    return (results + THREADS - 1) / THREADS;
}

/* The arguments of a use's kernels: a unit's layer forward, the last one also backward, then the others backward. */
typedef struct work {
    int layer, in, out, n;
    bool forward, last, backward;
    float *w, *dw, *x, *y, *dx, *dy, *inputs;
    double *losses;
    int *step;
} work_t;

static void launch(const work_t *u, cudaStream_t stream)
{
    if (u->forward)
        forward<<<blocks(u->n * u->out), THREADS, 0, stream>>>(u->y, u->w, u->x, u->n, u->in, u->out, u->last);
    if (u->last)
        compare<<<1, 1, 0, stream>>>(u->dy, u->losses, u->step, u->y, u->inputs, u->n, width[0]);
    if (u->backward)
        weight_gradient<<<blocks((u->in + 1) * u->out), THREADS, 0, stream>>>(u->dw, u->dy, u->x, u->n, u->in, u->out);
    if (u->backward && u->layer > 0)
        input_gradient<<<blocks(u->n * u->in), THREADS, 0, stream>>>(u->dx, u->w, u->dy, u->x, u->n, u->in, u->out);
    cuda(cudaGetLastError());
}

/* ---- the trainer ------------------------------------------------------------------------------------------------ */

static int initial(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = *(const float *)ctx * noise(((uint64_t)(param + 1) << 32) + (uint64_t)(begin + i));
    return 0;
}

int main(void)
{
    zero_comm_t *host = NULL, *wire = NULL;
    zero_device_t *device = NULL;
    zero_config_t config;
    zero_device_options_t options;
    cudaStream_t stream;
    zero_pass_t pass;
    zero_unit_t unit[LAYERS];
    zero_param_t param[LAYERS];
    zero_reserve_t values[LAYERS + 1], derivatives[LAYERS + 1], losses, counter;
    float *x[LAYERS + 1], *dx[LAYERS + 1];
    cudaGraphExec_t graph[USES] = {};

    zero_status_t status = zero_comm_mpi(&host, NULL, NULL, &error);
    ok(status == ZERO_ERR_UNSUPPORTED ? zero_comm_self(&host, &error) : status);
    int rank = zero_comm_rank(host), world = zero_comm_size(host), gpus = zero_cuda_devices(), n = 0;
    zero_device_options_init(&options);
    options.index = gpus > 0 ? rank % gpus : 0;
    if (gpus > 0) {
        cuda(cudaSetDevice(options.index));
        cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
        options.stream = stream; /* borrowed */
    }
    ok(zero_device_cuda(&device, &options, &error)); /* if there is no GPU, the message says what is missing */
    status = world > 1 ? zero_comm_nccl(&wire, host, device, NULL, NULL, &error) : ZERO_ERR_UNSUPPORTED;
    if (status == ZERO_ERR_UNSUPPORTED) {
        status = zero_comm_staged(&wire, host, device, 0, &error);
        host = NULL; /* the device owns it now */
    }
    ok(status);

    zero_config_init(&config);
    config.comm = wire;
    config.device = device;
    config.persist_bytes = 0;
    config.grad_scale = 1.0 / BATCH;
    ok(zero_create(&engine, &config, &error));
    ok(zero_pass_add(engine, "train", ZERO_PASS_TRAIN, &pass));
    for (int l = 0; l < LAYERS; l++) {
        static const char *const names[LAYERS] = {"hidden", "output"};
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = names[l];
        desc.ndim = 2;
        desc.shape[0] = width[l + 1];
        desc.shape[1] = width[l] + 1;
        desc.trainable = true;
        ok(zero_unit_add(engine, names[l], &unit[l]));
        ok(zero_param_add(engine, unit[l], &desc, &param[l]));
        ok(zero_use_add(engine, pass, unit[l], l < LAYERS - 1 ? ZERO_READ : ZERO_READ | ZERO_GRAD));
    }
    for (int l = LAYERS - 2; l >= 0; l--)
        ok(zero_use_add(engine, pass, unit[l], ZERO_READ | ZERO_GRAD));
    for (int l = 0; l <= LAYERS; l++) { /* activations count as engine memory, in the forecast, too */
        ok(zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, sizeof(float) * BATCH * width[l], &values[l]));
        ok(zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_DEVICE, sizeof(float) * BATCH * width[l],
                        &derivatives[l]));
    }
    ok(zero_reserve(engine, ZERO_KIND_ACTIVATIONS, ZERO_TIER_HOST, sizeof(double) * STEPS,
                    &losses)); /* kernels write it, the host reads it */
    ok(zero_reserve(engine, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, sizeof(int), &counter));
    ok(zero_commit(engine));
    for (int l = 0; l <= LAYERS; l++) {
        x[l] = (float *)zero_reserved(engine, values[l]);
        dx[l] = (float *)zero_reserved(engine, derivatives[l]);
    }
    double *loss = (double *)zero_reserved(engine, losses);
    int *taken = (int *)zero_reserved(engine, counter);
    cuda(cudaMemsetAsync(taken, 0, sizeof *taken, stream));
    for (int l = 0; l < LAYERS; l++) {
        float bound = sqrtf(3.0f / (float)width[l]);
        ok(zero_param_fill(engine, param[l], initial, &bound));
    }
    float inputs[BATCH * 8]; /* every rank keeps its part of one batch */
    for (int s = rank; s < BATCH; s += world, n++)
        for (int i = 0; i < width[0]; i++)
            inputs[n * width[0] + i] = noise((uint64_t)(s * width[0] + i));
    cuda(cudaMemcpyAsync(x[0], inputs, sizeof(float) * n * width[0], cudaMemcpyHostToDevice, stream));

    for (int step = 0; step < STEPS; step++) { /* nothing in this loop waits for the GPU */
        ok(zero_micro_begin(engine, pass, ZERO_LAST));
        for (int use = 0; use < USES; use++) {
            int l = use < LAYERS ? use : 2 * LAYERS - 2 - use;
            ok(zero_acquire(engine, unit[l]));
            if (!graph[use]) {
                cudaGraph_t captured;
                work_t work = {l,
                               width[l],
                               width[l + 1],
                               n,
                               use < LAYERS,
                               use == LAYERS - 1,
                               use >= LAYERS - 1,
                               (float *)zero_param_data(engine, param[l]),
                               (float *)zero_param_grad(engine, param[l]),
                               x[l],
                               x[l + 1],
                               dx[l],
                               dx[l + 1],
                               x[0],
                               loss,
                               taken};
                cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
                launch(&work, stream);
                cuda(cudaStreamEndCapture(stream, &captured));
                cuda(cudaGraphInstantiate(&graph[use], captured, 0));
                cuda(cudaGraphDestroy(captured));
            }
            cuda(cudaGraphLaunch(graph[use], stream));
            ok(zero_release(engine, unit[l]));
        }
        ok(zero_micro_end(engine));
        ok(zero_step(engine, 0.02));
    }
    ok(zero_wait(engine)); /* the stream has completed: the host can read the losses */
    ok(zero_sum(engine, loss, STEPS));
    if (rank == 0)
        printf("loss %.9f, %.9f after %d steps\n", loss[0] / BATCH, loss[STEPS - 1] / BATCH, STEPS);
    int failed = !(loss[STEPS - 1] < 0.1 * loss[0]);

    for (int use = 0; use < USES; use++)
        cuda(cudaGraphExecDestroy(graph[use]));
    zero_destroy(engine);
    zero_comm_destroy(wire); /* before the communicator and the device from which it was made */
    zero_comm_destroy(host);
    zero_device_destroy(device);
    cuda((engine = NULL, cudaStreamDestroy(stream)));
    return failed;
}
