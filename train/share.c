/* SPDX-License-Identifier: Apache-2.0 */
#include "train/share.h"
#include "models/model.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 4096 };

zero_status_t share_text(zero_comm_t *comm, const char *option, char **text, size_t *bytes, zero_error_t *error)
{
    const int world = zero_comm_size(comm);
    const bool first = zero_comm_rank(comm) == 0;
    int64_t size = first && *text != NULL ? (int64_t)*bytes : -1;
    char piece[PIECE] = "", *all = malloc((size_t)world * PIECE), *copy = NULL;
    if (!first) {
        *text = NULL;
        *bytes = 0;
    }
    if (all == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for sharing %s among %d ranks", option, world);
    memcpy(piece, &size, sizeof size);
    zero_status_t status = zero_comm_exchange(comm, piece, all, sizeof size, error);
    if (status == ZERO_OK)
        memcpy(&size, all, sizeof size);
    if (status == ZERO_OK && size >= 0 && !first && (copy = malloc((size_t)size + 1)) == NULL)
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for %lld bytes of %s", (long long)size, option);
    for (int64_t at = 0; at < size && status == ZERO_OK; at += PIECE) {
        const size_t n = size - at < PIECE ? (size_t)(size - at) : PIECE;
        if (first)
            memcpy(piece, *text + at, n);
        status = zero_comm_exchange(comm, piece, all, PIECE, error);
        if (status == ZERO_OK && !first)
            memcpy(copy + at, all, n);
    }
    free(all);
    if (status != ZERO_OK || copy == NULL) {
        free(copy);
        return status;
    }
    copy[size] = '\0';
    *text = copy;
    *bytes = (size_t)size;
    return ZERO_OK;
}
