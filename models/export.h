/* SPDX-License-Identifier: Apache-2.0 */
/* export.h - what exports need: names of tensors, config.json, and adapters in peft's files or added to weights. */
#ifndef MODELS_EXPORT_H
#define MODELS_EXPORT_H

#include "models/decoder.h"

#define ZERO_EXPORT_NAME_BYTES (ZERO_MODEL_NAME_BYTES + 32)

/* Name and shape of the model's parameter index (the order of declaration) as transformers has them for the model with
 * its head. Sets ndim and shape of *info. */
void zero_model_export_tensor(const zero_model_config_t *config, int index, char name[ZERO_EXPORT_NAME_BYTES],
                              zero_tensor_info_t *info);
/* A config.json with another dtype; everything else stays as it is written. path is for sentences. The caller frees the
 * result. */
zero_status_t zero_model_config_retype(const char *text, const char *path, zero_dtype_t dtype, char **result,
                                       zero_error_t *error);

/* lora_files.c */

/* The name of a parameter that belongs to an adapter, as peft has it, and its shape. Sets ndim and shape of *info. */
void zero_model_adapter_export_tensor(const zero_model_t *m, int index, char name[ZERO_EXPORT_NAME_BYTES],
                                      zero_tensor_info_t *info);
/* adapter_config.json of the model's adapters. source: where the base was read from; NULL: nowhere. The caller frees
 * the text. */
zero_status_t zero_model_adapter_config_text(const zero_model_t *m, const char *source, char **text,
                                             zero_error_t *error);

/* merge.c */

/* The adapter of a weight: scale * left (rows, rank) right (rank, columns) is added to it. left NULL: there is none. */
typedef struct zero_merge {
    float *left, *right;
    int64_t columns, rank;
    float scale;
} zero_merge_t;
/* Gathers the adapter of a parameter, if it has one. Collective: ranks succeed or fail together. Call
 * zero_model_merge_end in both cases. */
zero_status_t zero_model_merge_begin(zero_model_t *m, int index, zero_comm_t *comm, zero_merge_t *merge,
                                     zero_error_t *error);
/* Adds it to elements [begin, begin + count) of the weight. */
void zero_model_merge_add(const zero_merge_t *merge, int64_t begin, int64_t count, float *values);
void zero_model_merge_end(zero_merge_t *merge);

#endif
