/* SPDX-License-Identifier: Apache-2.0 */
/* api_suites.h - the parts of test_api. */
#ifndef ZERO_TESTS_API_SUITES_H
#define ZERO_TESTS_API_SUITES_H

#include "tests/expect.h"
#include "zero/zero.h"

#include <check.h>

TCase *api_misuse_case(void);
TCase *api_structs_case(void);
TCase *api_calls_case(void);

/* The functions that return a status and take an engine, in an order in which all succeed. Arguments are valid, except
 * for the declarations of pipelines, which the engine lacks. */
typedef struct api_call {
    const char *name;
    zero_status_t (*call)(zero_engine_t *engine);
    zero_status_t before, planned; /* status before zero_commit, and after it on an engine that only plans */
    zero_status_t after;           /* status after zero_commit */
} api_call_t;
enum { API_CALLS = 44 };
extern const api_call_t api_calls[API_CALLS];

/* An engine with one unit, one parameter, a training pass and an evaluation pass. plan_world 0: on one CPU rank;
 * release it with api_free. */
typedef struct api_engine {
    zero_comm_t *comm;
    zero_device_t *device;
    zero_engine_t *engine;
} api_engine_t;
api_engine_t api_make(int plan_world, void (*edit)(zero_config_t *config, void *ctx), void *ctx);
void api_free(api_engine_t *a);

#define API_SAYS(text, part) ck_assert_msg(has_names((text), (part)), "'%s' is not in '%s'", (part), (text))

#endif
