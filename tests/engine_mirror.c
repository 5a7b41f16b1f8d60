/* SPDX-License-Identifier: Apache-2.0 */
/* engine_mirror.c - the toy on a GPU. Its "kernels" run on the host, on mirrors: copies of parameters and gradients in
 * memory that host and GPU can access. Copies on the compute stream stand in for kernels. The toy waits for them only
 * if it must, so if the engine's work on other streams is not ordered after them, the mirrors show it. */
#include "tests/engine_reference.h"

#include "zero/device/device.h"

bool toy_mirrored(const toy_t *toy)
{
    return !toy->device->caps.host_memory;
}

int toy_gpu(toy_t *toy, zero_comm_t *comm, const zero_device_options_t *options, zero_error_t *error)
{
    zero_device_options_t gpu = *options;
    zero_comm_t *inner = NULL;
    gpu.threaded = false;
    gpu.delay_seed = 0;
    gpu.index = toy->c.threaded == TOY_NCCL ? toy->rank : 0;
    if (zero_device_cuda(&toy->device, &gpu, error) != ZERO_OK)
        return -1;
    if (toy->c.threaded == TOY_NCCL && toy->c.world > 1)
        return zero_comm_nccl(&toy->wire, comm, toy->device, NULL, NULL, error) == ZERO_OK ? 0 : -1;
    if (zero_comm_split(comm, 0, toy->rank, &inner, error) != ZERO_OK)
        return -1;
    /* little staging memory, so that collectives need many pieces */
    if (zero_comm_staged(&toy->wire, inner, toy->device, 16384, error) != ZERO_OK) {
        zero_comm_destroy(inner);
        return -1;
    }
    return 0;
}

static size_t bytes_of(const toy_t *toy, int param)
{
    return (size_t)toy_params[param].count * zero_dtype_size(toy_dtype(&toy->c, param));
}

/* The offset of a parameter's copy. TOY_PARAMS gives the offset of the gradients. */
static size_t offset_of(int param)
{
    size_t offset = 0;
    for (int p = 0; p < param; p++)
        offset += (size_t)(toy_params[p].count + 31) / 32 * 32 * sizeof(float);
    return offset;
}

size_t toy_mirrors_bytes(void)
{
    return 2 * offset_of(TOY_PARAMS);
}

void *toy_mirror(const toy_t *toy, int param, bool gradient)
{
    return (char *)zero_reserved(toy->engine, toy->mirrors) + (gradient ? offset_of(TOY_PARAMS) : 0) + offset_of(param);
}

int toy_copy(const toy_t *toy, void *to, const void *from, size_t bytes)
{
    zero_error_t error;
    if (toy->device->ops->copy(toy->device, zero_stream(toy->engine), to, from, bytes, &error) == ZERO_OK)
        return 0;
    return toy_failed(toy, error.text);
}

int toy_fetch(const toy_t *toy, int unit, bool gradient)
{
    for (int p = 0; p < TOY_PARAMS; p++)
        if (toy_params[p].unit == unit && toy_params[p].count > 0 && (!gradient || toy_params[p].trainable) &&
            toy_copy(toy, toy_mirror(toy, p, gradient), gradient ? toy->grad[p] : toy->data[p], bytes_of(toy, p)))
            return -1;
    return 0;
}

int toy_send_gradients(const toy_t *toy, int unit)
{
    for (int p = 0; p < TOY_PARAMS; p++)
        if (toy_params[p].unit == unit && toy_params[p].count > 0 && toy_params[p].trainable &&
            toy_copy(toy, toy->grad[p], toy_mirror(toy, p, true), bytes_of(toy, p)))
            return -1;
    return 0;
}
