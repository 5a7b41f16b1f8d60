/* cuda.h - the CUDA device's table in the plugin zero_cuda. */
#ifndef ZERO_DEVICE_CUDA_H
#define ZERO_DEVICE_CUDA_H

#include "zero/base/plugin.h"

#define ZERO_CUDA_DEVICE_VERSION ZERO_PLUGIN_VERSION(1)

typedef struct zero_cuda_device {
    uint32_t version;
    /* GPUs that this process can use. ZERO_ERR_UNSUPPORTED where there is none, or the driver is absent or too old. */
    zero_status_t (*count)(int *count, zero_error_t *error);
} zero_cuda_device_t;

#ifdef __cplusplus
extern "C" {
#endif
/* Exported by the plugin; libzero looks it up by name. */
extern ZERO_API const zero_cuda_device_t zero_cuda_device;
#ifdef __cplusplus
}
#endif
#endif
