/* SPDX-License-Identifier: Apache-2.0 */
#include "train/place.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

zero_status_t place_device(place_t *place, const job_t *job, int local, zero_error_t *error)
{
    zero_device_options_t options;
    zero_device_options_init(&options);
    options.threads = (int)job->o.threads;
    if (job->o.device != DEVICE_CUDA && place->comm != NULL && !zero_comm_has_data(place->comm))
        return zero_fail(error, ZERO_ERR_UNSUPPORTED,
                         "torchrun started ranks on several machines, but between CPUs of several machines data moves "
                         "through MPI: start them with mpiexec");
    if (job->o.device != DEVICE_CUDA)
        return zero_device_cpu(&place->device, &options, error);
    int gpus = zero_cuda_devices();
    options.index = gpus > 0 ? local % gpus : 0;
    return zero_device_cuda(&place->device, &options, error);
}

zero_status_t place_wire(place_t *place, zero_error_t *why, zero_error_t *error)
{
    zero_status_t status = ZERO_ERR_UNSUPPORTED;
    *why = (zero_error_t){.status = ZERO_OK};
    place->wire = place->comm;
    if (strcmp(zero_device_name(place->device), "cuda") != 0)
        return ZERO_OK;
    if (zero_comm_size(place->comm) > 1) /* one rank has no one to exchange with */
        status = zero_comm_nccl(&place->wire, place->comm, place->device, NULL, NULL, why);
    if (status == ZERO_OK) {
        why->status = ZERO_OK;
        return ZERO_OK;
    }
    place->wire = place->comm;
    if (status != ZERO_ERR_UNSUPPORTED)
        return zero_pass(error, status, why);
    if (!zero_comm_has_data(place->comm))
        return zero_fail_from(error, status, why,
                              "ranks that torchrun started on several machines need NCCL (mpiexec does not): %s",
                              why->text);
    status = zero_comm_staged(&place->wire, place->comm, place->device, 0, error);
    if (status == ZERO_OK)
        place->comm = place->wire; /* the new communicator owns the old one */
    else
        place->wire = place->comm;
    return status;
}

void place_close(place_t *place)
{
    if (place->wire != place->comm)
        zero_comm_destroy(place->wire);
    zero_comm_destroy(place->comm);
    zero_device_destroy(place->device);
    *place = (place_t){.comm = NULL};
}

/* From NVIDIA's data sheets: tera-operations a second for dense matrices. bf16 and fp16 run on tensor cores, equally
 * fast with sums in fp32. fp32 runs without tensor cores, as in our kernels. Longer names come before shorter ones. */
static const struct {
    const char *words[2];
    double half, fp32;
} peaks[] = {
    {{"GB200", NULL}, 2500, 80}, {{"B200", NULL}, 2250, 75},     {{"GH200", NULL}, 989, 67},
    {{"H200", "NVL"}, 835, 60},  {{"H200", NULL}, 989, 67},      {{"H100", "NVL"}, 835, 60},
    {{"H100", "PCIe"}, 756, 51}, {{"H100", NULL}, 989, 67},      {{"A100", NULL}, 312, 19.5},
    {{"L40S", NULL}, 362, 91.6}, {{"L4", NULL}, 121, 30.3},      {{"A40", NULL}, 149.7, 37.4},
    {{"A10", NULL}, 125, 31.2},  {{"RTX", "4090"}, 165.2, 82.6}, {{"RTX", "3090"}, 71, 35.6},
};

/* Whether text contains a word, with no letters or digits around it. */
static bool has_word(const char *text, const char *word)
{
    size_t length = strlen(word);
    for (const char *p = text; (p = strstr(p, word)) != NULL; p++)
        if ((p == text || !isalnum((unsigned char)p[-1])) && !isalnum((unsigned char)p[length]))
            return true;
    return false;
}

double place_peak(const char *label, zero_dtype_t dtype)
{
    /* a part of a GPU has a part of its peak, and some other GPUs share only the name */
    if (!has_word(label, "NVIDIA") || has_word(label, "MIG") || has_word(label, "Laptop") || has_word(label, "D"))
        return NAN;
    for (size_t i = 0; i < sizeof peaks / sizeof peaks[0]; i++)
        if (has_word(label, peaks[i].words[0]) && (peaks[i].words[1] == NULL || has_word(label, peaks[i].words[1])))
            return 1e12 * (dtype == ZERO_FP32 ? peaks[i].fp32 : peaks[i].half);
    return NAN;
}
