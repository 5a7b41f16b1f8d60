/* cuda.cu - see cuda.h. */
extern "C" {
#include "zero/device/cuda.h"
#include "zero/device/device.h"
}

#include <cuda_runtime.h>

/* "13.0" from CUDA's 13000. */
#define VERSION_FORMAT "%d.%d"
#define VERSION_OF(v) (v) / 1000, (v) % 1000 / 10

/* The sentence of a failure to find or start GPUs. */
static zero_status_t no_gpu(cudaError_t e, zero_error_t *error)
{
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (e == cudaErrorInsufficientDriver && driver == 0)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "this machine has no CUDA driver: install NVIDIA's driver for CUDA " VERSION_FORMAT
                         " or newer, or train on the CPU", VERSION_OF(runtime));
    if (e == cudaErrorInsufficientDriver)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "this machine's CUDA driver is for CUDA " VERSION_FORMAT ", and libzero was built with CUDA "
                         VERSION_FORMAT ": install a newer driver, or build with an older toolkit", VERSION_OF(driver), VERSION_OF(runtime));
    if (e == cudaErrorNoDevice)
        return zero_fail(error, ZERO_ERR_UNSUPPORTED, "this machine's CUDA driver shows no GPU (does CUDA_VISIBLE_DEVICES hide it?)");
    return zero_fail(error, ZERO_ERR_SYSTEM, "cudaGetDeviceCount: %s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
}

static zero_status_t count(int *count, zero_error_t *error)
{
    cudaError_t e = cudaGetDeviceCount(count);
    if (e == cudaSuccess && *count == 0)
        e = cudaErrorNoDevice;
    if (e == cudaSuccess)
        return ZERO_OK;
    cudaGetLastError();
    *count = 0;
    return no_gpu(e, error);
}

extern "C" const zero_cuda_device_t zero_cuda_device = {
    .version = ZERO_CUDA_DEVICE_VERSION,
    .count = count,
};
