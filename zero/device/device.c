/* device.c - what does not depend on the device: options; and the way to the one that a plugin holds. */
#define _GNU_SOURCE
#include "zero/device/cuda.h"
#include "zero/device/device.h"
#include "zero/device/options.h"

#include <dlfcn.h>
#include <stdlib.h>

void zero_device_options_init(zero_device_options_t *options)
{
    *options = (zero_device_options_t){.size = sizeof *options};
}

zero_status_t zero_device_options_read(zero_device_options_t *out, const zero_device_options_t *options, zero_error_t *error)
{
    zero_device_options_init(out);
    if (options) {
        if (options->size < offsetof(zero_device_options_t, threads) + sizeof out->threads)
            return zero_fail(error, ZERO_ERR_ARG, "zero_device_options_t says that it has %zu bytes: call zero_device_options_init first",
                             options->size);
        memcpy(out, options, options->size < sizeof *out ? options->size : sizeof *out);
        out->size = sizeof *out;
    }
    if (out->threads < 0)
        return zero_fail(error, ZERO_ERR_ARG, "%d threads were asked for: give 0 (OpenMP's default) or a positive number", out->threads);
    return ZERO_OK;
}

static zero_status_t cuda_table(const zero_cuda_device_t **table, zero_error_t *error)
{
    const void *address;
    zero_status_t status = zero_plugin_table("zero_cuda", "zero_cuda_device", ZERO_CUDA_DEVICE_VERSION, &address, error);
    *table = address;
    return status;
}

zero_status_t zero_device_cuda(zero_device_t **device, const zero_device_options_t *options, zero_error_t *error)
{
    const zero_cuda_device_t *table;
    zero_device_options_t o;
    *device = NULL;
    zero_status_t status = zero_device_options_read(&o, options, error);
    if (status)
        return status;
    if (o.threaded || o.delay_seed)
        return zero_fail(error, ZERO_ERR_ARG, "zero_device_options_t's 'threaded' and 'delay_seed' are for the CPU device: leave them 0");
    status = cuda_table(&table, error);
    return status ? status : table->create(device, &o, error);
}

int zero_cuda_devices(void)
{
    const zero_cuda_device_t *table;
    int count = 0;
    /* Loading the driver alone takes no time where there is none; the tests' plugin needs none. It stays open, as CUDA's runtime would keep it. */
    const char *tests = secure_getenv("ZERO_PLUGIN_PATH");
    if (!(tests && *tests) && !dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL))
        return 0;
    if (cuda_table(&table, NULL) != ZERO_OK || table->count(&count, NULL) != ZERO_OK)
        return 0;
    return count;
}

const char *zero_device_name(const zero_device_t *device)
{
    return device->caps.name;
}

const char *zero_device_label(const zero_device_t *device)
{
    return device->label;
}

void zero_device_destroy(zero_device_t *device)
{
    if (device)
        device->ops->destroy(device);
}
