/* SPDX-License-Identifier: Apache-2.0 */
/* muon.c - the model's part of ZERO_RULE_MUON: makes the matrices of its layers orthogonal with kernels/nn. It uses a
 * context of its own, because updates run concurrently with the model's passes. */
#include "models/decoder.h"

#include <string.h>

/* Whether a parameter is a matrix that is made orthogonal. All layers of a stack have the same shapes. */
static bool is_matrix(const zero_model_t *m, int param, zero_model_tensor_t *t)
{
    zero_model_param_tensor(m, param, t);
    return t->place == ZERO_PLACE_LAYER && t->layer == 0 && t->ndim == 2 &&
           (t->adapter != ZERO_ADAPTER_NONE || !zero_model_is_frozen(m));
}

zero_status_t zero_model_declare_muon(zero_model_t *m, zero_error_t *error)
{
    uint64_t scratch = 0;
    if (!m->options.muon || m->config.layers == 0)
        return ZERO_OK;
    const char *backend = m->options.backend != NULL ? m->options.backend : "auto";
    zero_status_t status = zero_nn_create(&m->muon, backend, m->options.threads, NULL, error);
    if (status != ZERO_OK)
        return status;
    zero_nn_set_dry(m->muon, true);
    for (int i = 0; i < m->param_count; i++) {
        zero_model_tensor_t t;
        if (!is_matrix(m, i, &t))
            continue;
        zero_nn_orthogonalize(m->muon, NULL, NULL, t.shape[0], t.shape[1]);
        uint64_t bytes = zero_nn_orthogonalize_bytes(t.shape[0], t.shape[1]);
        scratch = bytes > scratch ? bytes : scratch;
    }
    zero_nn_set_dry(m->muon, false);
    if ((status = zero_nn_status(m->muon, error)) != ZERO_OK)
        return status;
    m->muon_scratch_bytes = scratch;
    m->muon_workspace_bytes = zero_nn_workspace_bytes(m->muon);
    status = zero_reserve(m->engine, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE,
                          scratch + m->muon_workspace_bytes + ZERO_NN_ALIGN, &m->muon_memory);
    return zero_model_engine_error(m, status, error);
}

/* The workspace follows the scratch; both are aligned to ZERO_NN_ALIGN. */
void zero_model_bind_muon(zero_model_t *m)
{
    if (m->muon == NULL)
        return;
    m->muon_scratch = zero_nn_aligned(zero_reserved(m->engine, m->muon_memory));
    zero_nn_set_workspace(m->muon, (char *)m->muon_scratch + m->muon_scratch_bytes, m->muon_workspace_bytes);
}

int zero_model_matrix(zero_model_t *m, const zero_matrix_args_t *args, zero_error_t *error)
{
    zero_nn_set_stream(m->muon, args->stream);
    zero_nn_orthogonalize(m->muon, args->values, m->muon_scratch, args->rows, args->cols);
    return zero_nn_status(m->muon, error) == ZERO_OK ? 0 : -1;
}
