/* SPDX-License-Identifier: Apache-2.0 */
/* grow.h - arrays that grow. */
#ifndef TRAIN_GROW_H
#define TRAIN_GROW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* Moves *at to memory for room elements of each bytes. False: out of memory, and *at stays. */
static inline bool grow(void **at, int64_t room, size_t each)
{
    void *more = realloc(*at, (size_t)room * each);
    if (more != NULL)
        *at = more;
    return more != NULL;
}

#endif
