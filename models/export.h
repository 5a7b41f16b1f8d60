/* SPDX-License-Identifier: Apache-2.0 */
/* export.h - what an export needs of a family of models: names of tensors, and config.json. */
#ifndef MODELS_EXPORT_H
#define MODELS_EXPORT_H

#include "models/decoder.h"

#define ZERO_EXPORT_NAME_BYTES (ZERO_MODEL_NAME_BYTES + 16)

/* Name and shape of the model's parameter index (the order of declaration) as transformers has them for the model with
 * its head. Sets ndim and shape of *info. */
void zero_model_export_tensor(const zero_model_config_t *config, int index, char name[ZERO_EXPORT_NAME_BYTES],
                              zero_tensor_info_t *info);
/* A config.json with another dtype; everything else stays as it is written. path is for sentences. The caller frees the
 * result. */
zero_status_t zero_model_config_retype(const char *text, const char *path, zero_dtype_t dtype, char **result,
                                       zero_error_t *error);

#endif
