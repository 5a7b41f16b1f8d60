/* SPDX-License-Identifier: Apache-2.0 */
/* cuda.h - the CUDA device's table in the plugin zero_cuda. */
#ifndef ZERO_DEVICE_CUDA_H
#define ZERO_DEVICE_CUDA_H

#include "zero/base/plugin.h"
#include "zero/device/device.h"

/* Increase the revision with every change to this table, to zero_device_ops_t or to struct zero_device. */
#define ZERO_CUDA_DEVICE_VERSION ZERO_PLUGIN_VERSION(6)

typedef struct zero_cuda_device {
    uint32_t version;
    /* The number of GPUs that this process can use. If there are none, or the driver is absent or too old, returns
     * ZERO_ERR_UNSUPPORTED and sets *count to 0. */
    zero_status_t (*count)(int *count, zero_error_t *error);
    /* Makes a device of GPU options->index. options are complete and checked; they are copied. */
    zero_status_t (*create)(zero_device_t **device, const zero_device_options_t *options, zero_error_t *error);
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
