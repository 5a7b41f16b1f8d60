/* SPDX-License-Identifier: Apache-2.0 */
/* order_case.h - rank 0 makes other calls than the other ranks. */
#ifndef ZERO_TESTS_ORDER_CASE_H
#define ZERO_TESTS_ORDER_CASE_H

#include "tests/engine_small.h"

/* What rank 0 does differently. */
typedef enum order_scene {
    ORDER_EVALUATES,  /* one pass more */
    ORDER_MICRO_STEP, /* one micro-step less */
    ORDER_SUM,        /* zero_sum */
    ORDER_GET,        /* zero_param_get */
    ORDER_OTHER_PASS, /* another pass */
    ORDER_SWAPPED,    /* two passes in reverse order */
    ORDER_FILL,       /* zero_param_fill */
    ORDER_FILL_OTHER, /* zero_param_fill of another parameter */
    ORDER_MANY,       /* two passes more, after more passes than a sentence lists */
    ORDER_WEIGHT,     /* zero_step_weight on some ranks only */
    ORDER_SET_STEP,   /* other numbers in zero_set_step */
    ORDER_SCENES
} order_scene_t;

typedef struct order_case {
    order_scene_t scene;
    int stage, threaded; /* as in small_case_t */
    zero_reduce_t reduce;
    bool unchecked; /* without config.check_order */
    int replicas;   /* 0: one */
} order_case_t;

/* Runs a rank of a case, on a communicator that cannot be used afterwards. Returns 0 if the ranks' calls end as they
 * should: with a sentence that says what rank 0 and another rank were doing, and without a wrong value before.
 * Otherwise returns -1 after printing a line to stderr. */
int order_case(const order_case_t *o, zero_comm_t *comm);

#endif
