/* SPDX-License-Identifier: Apache-2.0 */
/* engine_save.h - what the files that save an engine share. */
#ifndef ZERO_ENGINE_SAVE_H
#define ZERO_ENGINE_SAVE_H

#include "zero/checkpoint/folder.h"
#include "zero/engine_tensors.h"

#include <pthread.h>

/* Checkpoints hold parameters, master weights and two moments. Returns the place of a state in this order. */
enum { ZERO_SAVER_STATES = 4 };
static inline int zero_saver_index(zero_state_t state)
{
    return state == ZERO_STATE_PARAM ? 0 : (int)state - 1;
}

struct zero_saver {
    char *folder, *about;
    int keep, lock; /* lock: rank 0's; -1: none */
    zero_engine_t *engine;
    zero_layout_t layouts[ZERO_SAVER_STATES];
    zero_state_t layout_state[ZERO_SAVER_STATES];
    int layout_count, layout_of[ZERO_SAVER_STATES]; /* layout_of: by index of the state; -1: no parameter has it */
    int32_t *tensor;                                /* [tensor_count][ZERO_SAVER_STATES]: in its layout, or -1 */
    uint64_t bytes;                                 /* of all files */

    bool running; /* zero_save has begun, zero_save_end has not reported its end */
    zero_writer_t *writer;
    char *path;
    int64_t step, applied;
    zero_scale_t scale;
    uint64_t began_ns;
    void *caller;
    size_t caller_bytes;

    /* Rank 0: a thread removes old checkpoints, which may take as long as writing one. */
    bool removes;
    pthread_t remover;
    int64_t newest; /* the checkpoint for which old ones go */
};

/* Whether checkpoints lack the parameter, because it is frozen (config.saves_frozen). */
bool zero_saver_leaves_out(const zero_engine_t *engine, int32_t param);
/* How a parameter's state is stored: the i-th of ZERO_SAVER_STATES. False: it has no such state. */
bool zero_saver_format(const zero_engine_t *engine, int32_t param, int i, zero_format_t *format);

/* Waits for the thread that removes old checkpoints, if it runs. */
void zero_saver_end_removal(struct zero_saver *saver);

static inline zero_folder_log_t zero_saver_log(const zero_engine_t *engine)
{
    return (zero_folder_log_t){engine->config.log, engine->config.log_ctx};
}

#endif
