/* SPDX-License-Identifier: Apache-2.0 */
/* device.c - code for every device: options, and access to the device in the plugin. */
#define _GNU_SOURCE
#include "zero/device/cuda.h"
#include "zero/device/device.h"
#include "zero/device/options.h"

#include <dlfcn.h>
#include <stdlib.h>

void zero_device_options_init_size(zero_device_options_t *options, size_t size)
{
    const zero_device_options_t defaults = {.size = sizeof defaults};
    zero_struct_init(options, size, &defaults, sizeof defaults);
}

zero_status_t zero_device_options_read(zero_device_options_t *out, zero_allocator_t *allocator,
                                       const zero_device_options_t *options, zero_error_t *error)
{
    zero_device_options_init(out);
    zero_status_t status = ZERO_OK;
    if (options)
        status = zero_struct_take(out, sizeof *out, options, ZERO_UP_TO(zero_device_options_t, allocator),
                                  "zero_device_options_t", "zero_device_options_init", error);
    if (status != ZERO_OK)
        return status;
    if (out->allocator) {
        *allocator = (zero_allocator_t){.size = sizeof *allocator};
        status = zero_struct_take(allocator, sizeof *allocator, out->allocator, ZERO_UP_TO(zero_allocator_t, ctx),
                                  "zero_allocator_t", NULL, error);
        if (status != ZERO_OK)
            return status;
        out->allocator = allocator;
        if (!allocator->allocate || !allocator->release)
            return zero_fail(error, ZERO_ERR_ARG,
                             "zero_device_options_t's allocator has no '%s': set both functions, or no allocator",
                             allocator->allocate ? "release" : "allocate");
    }
    if (out->threads < 0)
        return zero_fail(error, ZERO_ERR_ARG, "threads is %d, but must be 0 (OpenMP's default) or positive",
                         out->threads);
    return ZERO_OK;
}

static zero_status_t cuda_table(const zero_cuda_device_t **table, zero_error_t *error)
{
    const void *address;
    zero_status_t status =
        zero_plugin_table("zero_cuda", "zero_cuda_device", ZERO_CUDA_DEVICE_VERSION, &address, error);
    *table = address;
    return status;
}

zero_status_t zero_device_cuda(zero_device_t **device, const zero_device_options_t *options, zero_error_t *error)
{
    const zero_cuda_device_t *table;
    zero_device_options_t o;
    zero_allocator_t allocator;
    if (!device)
        return zero_fail(error, ZERO_ERR_ARG, "zero_device_cuda has no address for the device");
    *device = NULL;
    zero_status_t status = zero_device_options_read(&o, &allocator, options, error);
    if (status)
        return status;
    if (o.threaded || o.delay_seed)
        return zero_fail(error, ZERO_ERR_ARG,
                         "zero_device_options_t's 'threaded' and 'delay_seed' are for the CPU device: leave them 0");
    status = cuda_table(&table, error);
    return status ? status : table->create(device, &o, error);
}

int zero_cuda_devices(void)
{
    const zero_cuda_device_t *table;
    int count = 0;
    /* Without a driver, this is faster than loading the plugin. The tests' plugin needs no driver. It stays open, as
     * CUDA's runtime would keep it. */
    const char *tests = secure_getenv("ZERO_PLUGIN_PATH");
    if (!(tests && *tests) && !dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL))
        return 0;
    if (cuda_table(&table, NULL) != ZERO_OK || table->count(&count, NULL) != ZERO_OK)
        return 0;
    return count;
}

const char *zero_device_name(const zero_device_t *device)
{
    return device ? device->caps.name : "";
}

const char *zero_device_label(const zero_device_t *device)
{
    return device ? device->label : "";
}

void zero_device_destroy(zero_device_t *device)
{
    if (device)
        device->ops->destroy(device);
}
