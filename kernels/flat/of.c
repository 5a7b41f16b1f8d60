/* SPDX-License-Identifier: Apache-2.0 */
/* of.c - selects the table for a device. */
#include "kernels/flat/cuda.h"
#include "zero/device/device.h"

zero_status_t zero_flat_of(const zero_device_t *device, const zero_flat_ops_t **ops, zero_error_t *error)
{
    const void *table;
    *ops = NULL;
    if (!device->caps.launches) {
        *ops = zero_flat_cpu();
        return ZERO_OK;
    }
    zero_status_t status = zero_plugin_table("zero_cuda", "zero_cuda_flat", ZERO_CUDA_FLAT_VERSION, &table, error);
    if (status == ZERO_OK)
        *ops = ((const zero_cuda_flat_t *)table)->ops;
    return status;
}
