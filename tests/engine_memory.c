/* SPDX-License-Identifier: Apache-2.0 */
/* engine_memory.c - the measured memory equals the forecast, training does not let memory grow, and the checks of both
 * notice planted defects. */
#define _GNU_SOURCE
#include "tests/expect.h"
#include "tests/engine_suites.h"
#include "tests/engine_toy.h"
#include "tests/ranks.h"
#include "tests/sanitized.h"
#include "zero/device/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { MIB = 1 << 20, STEPS = 8, EXTERNAL_SLACK = 256 << 10, EXTERNAL_MOST = 100 * MIB };

/* ---- the CPU device with a planted defect ----------------------------------------------------------------------- */

typedef enum defect { NONE, ALLOCATES_EACH_STEP, KEEPS_ARENAS, LOSES_A_PAGE, ARENA_EACH_STEP, DEFECTS } defect_t;

typedef struct planted {
    zero_device_t device; /* the CPU's struct: its functions use nothing else */
    zero_device_ops_t ops;
} planted_t;

static void keep_arena(zero_arena_t *arena)
{
    (void)arena;
}

static void plant(planted_t *p, const zero_device_t *cpu, defect_t defect)
{
    p->device = *cpu;
    p->ops = *cpu->ops;
    p->device.ops = &p->ops;
    if (defect == KEEPS_ARENAS)
        p->ops.arena_destroy = keep_arena;
}

/* ---- the checks ------------------------------------------------------------------------------------------------- */

static uint64_t resident(void)
{
    char line[256];
    unsigned long long kb = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    while (f && fgets(line, sizeof line, f) && sscanf(line, "Rss: %llu kB", &kb) != 1)
        ;
    if (f)
        fclose(f);
    return kb * 1024;
}

/* After the second step, external is constant and below its bound. */
static bool external_is_constant(const uint64_t external[STEPS])
{
    for (int s = 2; s < STEPS; s++)
        if (external[s] > external[1] + EXTERNAL_SLACK || external[s] > EXTERNAL_MOST)
            return false;
    return true;
}

static bool forecast_is_measured(const zero_memory_t *forecast, const zero_memory_t *measured)
{
    return memcmp(forecast->bytes, measured->bytes, sizeof forecast->bytes) == 0;
}

/* ---- training with the checks ----------------------------------------------------------------------------------- */

typedef struct findings {
    bool constant, equal, returned;
} findings_t;

enum { UNITS = 6, COUNT = 100000 };

static int fill(void *ctx, zero_param_t param, int64_t begin, int64_t count, float *out)
{
    (void)ctx;
    for (int64_t i = 0; i < count; i++)
        out[i] = 1e-3f * (float)(param + begin + i);
    return 0;
}

#define TRY(call)                                                   \
    do {                                                            \
        if ((call) != ZERO_OK) {                                    \
            fprintf(stderr, "%s: %s\n", #call, zero_last_error(e)); \
            return -1;                                              \
        }                                                           \
    } while (0)

static int train(zero_engine_t *e, defect_t defect, planted_t *device, findings_t *f)
{
    static const char *const names[UNITS] = {"a", "b", "c", "d", "e", "f"};
    zero_unit_t unit[UNITS];
    zero_param_t param[UNITS];
    zero_pass_t pass;
    zero_reserve_t reserve;
    zero_memory_t forecast = {.size = sizeof forecast}, measured = {.size = sizeof measured};
    uint64_t external[STEPS];
    void *planted[STEPS] = {NULL};
    zero_arena_t *arenas[STEPS] = {NULL};
    TRY(zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass));
    for (int u = 0; u < UNITS; u++) {
        zero_param_desc_t desc;
        zero_param_desc_init(&desc);
        desc.name = names[u];
        desc.ndim = 1;
        desc.shape[0] = COUNT;
        TRY(zero_unit_add(e, names[u], &unit[u]));
        TRY(zero_param_add(e, unit[u], &desc, &param[u]));
    }
    for (int u = 0; u < 2 * UNITS; u++)
        TRY(zero_use_add(e, pass, unit[u < UNITS ? u : 2 * UNITS - 1 - u],
                         u < UNITS ? ZERO_READ : ZERO_READ | ZERO_GRAD));
    TRY(zero_reserve(e, ZERO_KIND_WORKSPACE, ZERO_TIER_DEVICE, 4 * MIB, &reserve));
    TRY(zero_commit(e));
    for (int u = 0; u < UNITS; u++)
        TRY(zero_param_fill(e, param[u], fill, NULL));
    for (int s = 0; s < STEPS; s++) {
        TRY(zero_micro_begin(e, pass, ZERO_LAST));
        for (int u = 0; u < 2 * UNITS; u++) {
            int at = u < UNITS ? u : 2 * UNITS - 1 - u;
            TRY(zero_acquire(e, unit[at]));
            float *grad = zero_param_grad(e, param[at]), *data = zero_param_data(e, param[at]);
            for (int i = 0; u >= UNITS && i < COUNT; i++)
                grad[i] += data[i];
            TRY(zero_release(e, unit[at]));
        }
        TRY(zero_micro_end(e));
        TRY(zero_step(e, 0.01));
        if (defect == ALLOCATES_EACH_STEP && (planted[s] = malloc(MIB)))
            memset(planted[s], s, MIB);
        if (defect == ARENA_EACH_STEP)
            TRY(device->ops.arena_create(&device->device, ZERO_TIER_DEVICE, MIB, &arenas[s], NULL));
        TRY(zero_measure(e, &measured));
        external[s] = measured.external;
    }
    if (defect == LOSES_A_PAGE)
        madvise((char *)zero_reserved(e, reserve) + MIB, ZERO_PAGE, MADV_DONTNEED);
    TRY(zero_forecast(e, &forecast));
    TRY(zero_measure(e, &measured));
    f->equal = forecast_is_measured(&forecast, &measured);
    f->constant = external_is_constant(external);
    for (int s = 0; s < STEPS; s++) {
        free(planted[s]);
        if (arenas[s])
            device->ops.arena_destroy(arenas[s]);
    }
    return 0;
}

typedef struct plot {
    defect_t defect;
    bool threaded;
} plot_t;

static int run(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const plot_t *plot = arg;
    zero_comm_t *comm = NULL;
    zero_device_t *cpu = NULL;
    zero_device_options_t options;
    planted_t device;
    findings_t f = {false, false, false};
    uint64_t before = 0, after = 0;
    int result = 0;
    (void)world;
    zero_device_options_init(&options);
    options.threaded = plot->threaded;
    options.threads = 1;
    if (zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK || zero_device_cpu(&cpu, &options, NULL) != ZERO_OK)
        return 1;
    plant(&device, cpu, plot->defect);
    for (int life = 0; life < 3 && result == 0;
         life++) { /* the first engine loads code and fills the allocator's pools */
        zero_engine_t *engine = NULL;
        zero_config_t config;
        zero_config_init(&config);
        config.comm = comm;
        config.device = &device.device;
        config.timeout_s = 30;
        if (zero_create(&engine, &config, NULL) != ZERO_OK)
            return 1;
        result = train(engine, plot->defect, &device, &f);
        zero_destroy(engine);
        after = resident();
        if (life == 0)
            before = after;
    }
    f.returned = after <= before + MIB;
    zero_device_destroy(cpu);
    zero_comm_destroy(comm);
    bool constant = plot->defect != ALLOCATES_EACH_STEP && plot->defect != ARENA_EACH_STEP,
         equal = plot->defect != LOSES_A_PAGE;
    bool returned = plot->defect != KEEPS_ARENAS;
    if (SANITIZED) /* a sanitizer needs memory that grows with what a program does */
        constant = f.constant, returned = f.returned;
    if (result == 0 && f.constant == constant && f.equal == equal && f.returned == returned)
        return 0;
    fprintf(stderr,
            "rank %d, defect %d, threaded %d: result %d, external constant %d (wanted %d), forecast measured %d (%d), "
            "memory "
            "returned %d (%d: %llu "
            "after %llu)\n",
            rank, plot->defect, plot->threaded, result, f.constant, constant, f.equal, equal, f.returned, returned,
            (unsigned long long)after, (unsigned long long)before);
    return 1;
}

START_TEST(memory_is_as_forecast_and_defects_are_found)
{
    for (int threaded = 0; threaded < 2; threaded++) {
        plot_t plot = {.defect = (defect_t)_i, .threaded = threaded};
        ck_assert_int_eq(ranks_run(2, 60, run, &plot), 0);
    }
}
END_TEST

/* Returns external of an engine whose communicators have rings of ring_bytes; 0 on failure. */
static uint64_t external_with_rings(const zero_bootstrap_t *bootstrap, size_t ring_bytes)
{
    zero_comm_t *comm = NULL;
    zero_device_t *cpu = NULL;
    zero_engine_t *engine = NULL;
    zero_config_t config;
    zero_comm_options_t options;
    zero_memory_t memory = {.size = sizeof memory};
    zero_comm_options_init(&options);
    zero_config_init(&config);
    options.ring_bytes = ring_bytes;
    if (zero_comm_shm(&comm, bootstrap, &options, NULL) != ZERO_OK || zero_device_cpu(&cpu, NULL, NULL) != ZERO_OK)
        return 0;
    config.comm = comm;
    config.device = cpu;
    if (zero_create(&engine, &config, NULL) != ZERO_OK || zero_commit(engine) != ZERO_OK ||
        zero_measure(engine, &memory) != ZERO_OK)
        return 0;
    zero_destroy(engine);
    zero_device_destroy(cpu);
    zero_comm_destroy(comm);
    return memory.bytes[ZERO_TIER_HOST][ZERO_KIND_RINGS] == ring_bytes ? memory.external : 0;
}

/* external contains neither this rank's rings nor the mapped rings of other ranks. The communicator that the caller
 * keeps belongs to the caller. */
static int rings(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    uint64_t small = external_with_rings(bootstrap, MIB), large = external_with_rings(bootstrap, 9 * MIB);
    (void)arg;
    if (small > 0 && large > 0 && (SANITIZED || large <= small + (uint64_t)world * 8 * MIB + MIB))
        return 0;
    fprintf(stderr, "rank %d: external is %llu with small rings and %llu with large ones\n", rank,
            (unsigned long long)small, (unsigned long long)large);
    return 1;
}

START_TEST(rings_are_not_external)
{
    ck_assert_int_eq(ranks_run(3, 60, rings, NULL), 0);
}
END_TEST

/* ---- memory limits ---------------------------------------------------------------------------------------------- */

static uint64_t pretended; /* the available bytes that the device below reports */

static zero_status_t pretend(zero_device_t *d, zero_tier_t tier, uint64_t *bytes, zero_error_t *error)
{
    (void)d, (void)tier, (void)error;
    *bytes = pretended;
    return ZERO_OK;
}

/* Two ranks of a node need one byte more than is available for both: zero_commit refuses. With that byte they run. */
static int fit(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    (void)arg, (void)rank;
    zero_comm_t *comm = NULL;
    zero_device_t *cpu = NULL;
    planted_t device;
    uint64_t need = 0;
    if (zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK || zero_device_cpu(&cpu, NULL, NULL) != ZERO_OK)
        return 1;
    plant(&device, cpu, NONE);
    device.ops.available = pretend;
    pretended = UINT64_MAX;
    for (int round = 0; round < 3; round++) {
        zero_engine_t *e = NULL;
        zero_config_t config;
        zero_unit_t unit;
        zero_param_t param;
        zero_param_desc_t desc;
        zero_memory_t memory = {.size = sizeof memory};
        zero_config_init(&config);
        config.comm = comm;
        config.device = &device.device;
        zero_param_desc_init(&desc);
        desc.name = "w";
        desc.ndim = 1;
        desc.shape[0] = COUNT;
        if (zero_create(&e, &config, NULL) != ZERO_OK || zero_unit_add(e, "u", &unit) != ZERO_OK ||
            zero_param_add(e, unit, &desc, &param) != ZERO_OK)
            return 1;
        zero_status_t status = zero_commit(e);
        zero_error_t why;
        if (round == 1 && (status != ZERO_ERR_MEMORY || zero_last_failure(e, &why) != ZERO_ERR_MEMORY ||
                           why.reason != ZERO_REASON_DOES_NOT_FIT)) {
            fprintf(stderr, "refused with %d: %s\n", status, zero_last_error(e));
            return 1;
        }
        if (round != 1 && status != ZERO_OK) {
            fprintf(stderr, "round %d: %s\n", round, zero_last_error(e));
            return 1;
        }
        if (round == 0) {
            TRY(zero_forecast(e, &memory));
            for (int t = 0; t < ZERO_TIER_COUNT; t++)
                for (int k = 0; k < ZERO_KIND_COUNT; k++)
                    need += memory.bytes[t][k] * (uint64_t)world;
        }
        zero_destroy(e);
        pretended = round == 0 ? need - (zero_comm_rank(comm) == 1) : need; /* only one rank sees too little memory */
    }
    zero_device_destroy(cpu);
    zero_comm_destroy(comm);
    return 0;
}

START_TEST(what_does_not_fit_is_refused_on_every_rank)
{
    ck_assert_int_eq(ranks_run(2, 60, fit, NULL), 0);
}
END_TEST

/* Commits a chain of units with this available memory and limit. Sets bytes to what a rank needs on the device and the
 * host. */
typedef struct request {
    zero_comm_t *comm;
    planted_t *device;
    uint64_t available, limit;
    bool only_plan;
    zero_config_t config; /* only window, offload_ratio and the table matter */
    bool names;           /* whether the program has words of its own */
    char words[120];
} request_t;

/* The words that a program has for a change below. */
static void put_words(char *words, size_t size, uint32_t sets, const zero_config_t *to)
{
    const zero_row_t *rows[] = {&to->parameters, &to->gradients, &to->optimizer};
    int n =
        snprintf(words, size, "turn the knobs %x of window %d, ratio %g, rows", sets, to->window, to->offload_ratio);
    for (int i = 0; i < 3; i++)
        n += snprintf(words + n, size - (size_t)n, " %d/%d", (int)rows[i]->sharding, (int)rows[i]->tier);
}

static const char *name_change(void *ctx, const zero_change_t *change)
{
    request_t *q = ctx;
    const zero_config_t to = {.window = change->window,
                              .offload_ratio = change->offload_ratio,
                              .parameters = change->parameters,
                              .gradients = change->gradients,
                              .optimizer = change->optimizer};
    put_words(q->words, sizeof q->words, change->sets, &to);
    return q->names && change->size == sizeof *change ? q->words : NULL;
}

static zero_status_t commit(request_t *q, uint64_t *bytes, char *sentence, size_t size)
{
    enum { CHAIN = 6 };
    zero_engine_t *e = NULL;
    zero_pass_t pass;
    zero_unit_t unit[CHAIN];
    zero_memory_t memory = {.size = sizeof memory};
    q->config.comm = q->comm;
    q->config.device = &q->device->device;
    q->config.memory_limit = q->limit;
    q->config.plan_world = q->only_plan ? zero_comm_size(q->comm) : 0;
    q->config.name_change = name_change;
    q->config.name_change_ctx = q;
    pretended = q->available;
    zero_status_t status = zero_create(&e, &q->config, NULL);
    if (status == ZERO_OK)
        status = zero_pass_add(e, "train", ZERO_PASS_TRAIN, &pass);
    for (int u = 0; u < 2 * CHAIN && status == ZERO_OK; u++) {
        zero_param_desc_t desc;
        zero_param_t param;
        char name[16];
        int at = u < CHAIN ? u : 2 * CHAIN - 1 - u;
        snprintf(name, sizeof name, "unit.%d", u);
        zero_param_desc_init(&desc);
        desc.name = name;
        desc.ndim = 1;
        desc.shape[0] = COUNT;
        if (u < CHAIN && (status = zero_unit_add(e, name, &unit[u])) == ZERO_OK)
            status = zero_param_add(e, unit[u], &desc, &param);
        if (status == ZERO_OK)
            status = zero_use_add(e, pass, unit[at], u < CHAIN ? ZERO_READ : ZERO_READ | ZERO_GRAD);
    }
    if (status == ZERO_OK)
        status = zero_commit(e);
    snprintf(sentence, size, "%s", e ? zero_last_error(e) : "");
    *bytes = 0;
    if (status == ZERO_OK && zero_forecast(e, &memory) == ZERO_OK)
        for (int t = 0; t < ZERO_TIER_NVME; t++)
            for (int k = 0; k < ZERO_KIND_COUNT && (q->limit == 0 || t == ZERO_TIER_DEVICE); k++)
                *bytes += memory.bytes[t][k];
    zero_destroy(e);
    return status;
}

/* The kind of memory that a sentence names first. */
static const char *first_kind(const char *sentence)
{
    const char *first = NULL, *name = "";
    for (int k = 0; k < ZERO_KIND_COUNT; k++) {
        const char *at = strstr(sentence, zero_kind_name((zero_kind_t)k));
        if (at && (!first || at < first)) {
            first = at;
            name = zero_kind_name((zero_kind_t)k);
        }
    }
    return name;
}

/* A configuration that does not fit, the nearest one that does, and how they differ. */
typedef struct near {
    zero_config_t wide, narrow;
    bool limited;
    uint32_t sets;
    const char *kind, *names; /* in the sentence: the kind of memory that comes first, the library's words */
} near_t;

/* Commits a configuration that does not fit. Its sentence is the same on every rank, begins with the kind that needs
 * most memory, and has the program's words for the change if program is set, or else the library's. */
static int refuse(request_t *q, const near_t *n, bool program, bool told)
{
    char sentence[1000], all[2][1000], words[120];
    uint64_t unused;
    q->config = n->wide;
    q->names = program;
    put_words(words, sizeof words, n->sets, &n->narrow);
    zero_status_t status = commit(q, &unused, sentence, sizeof sentence);
    if (zero_comm_exchange(q->comm, sentence, all, sizeof sentence, NULL) != ZERO_OK)
        return 1;
    bool own = strstr(sentence, words) != NULL, librarys = has_names(sentence, n->names),
         first = strcmp(first_kind(sentence), n->kind) == 0, same = strcmp(all[0], all[1]) == 0;
    if (status == ZERO_ERR_MEMORY && (!told || (own == program && librarys == !program)) && first && same)
        return 0;
    return fprintf(stderr, "%d, own words %d, the library's %d, kinds %d, the same %d: '%s' lacks '%s' or '%s'\n",
                   (int)status, own, librarys, first, same, sentence, words, n->names),
           1;
}

/* The sentence names a change with which the plan fits exactly. */
static int find_change(request_t *q, const near_t *n)
{
    char sentence[1000];
    uint64_t need, unused;
    const bool drive = n->narrow.optimizer.tier == ZERO_TIER_NVME; /* there may be none, so it is only planned */
    q->available = UINT64_MAX;
    q->limit = n->limited ? UINT64_MAX : 0;
    q->config = n->narrow;
    q->only_plan = drive;
    zero_status_t status = commit(q, &need, sentence, sizeof sentence);
    q->only_plan = false;
    if (status != ZERO_OK)
        return fprintf(stderr, "%s\n", sentence), 1;
    for (int enough = 0; enough < 2; enough++) {
        uint64_t there = need * (n->limited ? 1 : 2) - !enough;
        q->available = n->limited ? UINT64_MAX : there;
        q->limit = n->limited ? there : 0;
        for (int program = 0; program < 2; program++)
            if (refuse(q, n, program, enough) != 0)
                return 1;
        if (drive)
            continue;
        q->config = n->narrow;
        status = commit(q, &unused, sentence, sizeof sentence);
        if (status != (enough ? ZERO_OK : ZERO_ERR_MEMORY))
            return fprintf(stderr, "with the change, %d: %s\n", (int)status, sentence), 1;
    }
    return 0;
}

/* A configuration with a window, and the tiers of parameters and optimizer. */
static zero_config_t config_of(int stage, int window, double ratio, zero_tier_t params, zero_tier_t optimizer)
{
    zero_config_t c;
    zero_config_init(&c);
    zero_config_stage(&c, stage);
    c.window = window;
    c.offload_ratio = ratio;
    c.parameters.tier = params;
    c.optimizer.tier = optimizer;
    c.gradients.tier = optimizer == ZERO_TIER_DEVICE ? ZERO_TIER_DEVICE : ZERO_TIER_HOST;
    return c;
}

static int nearest(int rank, int world, const zero_bootstrap_t *bootstrap, void *arg)
{
    const zero_tier_t DEVICE = ZERO_TIER_DEVICE, HOST = ZERO_TIER_HOST, NVME = ZERO_TIER_NVME;
    enum {
        SHARD_O = ZERO_CHANGE_OPTIMIZER_SHARDING,
        SHARD_G = ZERO_CHANGE_GRADIENTS_SHARDING,
        SHARD_P = ZERO_CHANGE_PARAMETERS_SHARDING,
        MOVE_O = ZERO_CHANGE_OPTIMIZER_TIER,
        MOVE_G = ZERO_CHANGE_GRADIENTS_TIER,
        MOVE_P = ZERO_CHANGE_PARAMETERS_TIER
    };
    const near_t nears[] = {
        {config_of(3, 4, 1, DEVICE, DEVICE), config_of(3, 2, 1, DEVICE, DEVICE), false, ZERO_CHANGE_WINDOW, "window",
         "config.window 2"},
        {config_of(3, 4, 1, DEVICE, DEVICE), config_of(3, 1, 1, DEVICE, DEVICE), false, ZERO_CHANGE_WINDOW, "window",
         "config.window 1"},
        {config_of(0, 1, 1, DEVICE, DEVICE), config_of(1, 1, 1, DEVICE, DEVICE), false, SHARD_O, "moments",
         "config.optimizer.sharding ZERO_SHARDED"},
        {config_of(1, 1, 1, DEVICE, DEVICE), config_of(2, 1, 1, DEVICE, DEVICE), false, SHARD_G, "parameters",
         "config.gradients.sharding ZERO_SHARDED"},
        {config_of(1, 1, 1, DEVICE, HOST), config_of(3, 1, 1, DEVICE, HOST), true, SHARD_G | SHARD_P, "parameters",
         "config.gradients.sharding config.parameters.sharding ZERO_SHARDED"},
        {config_of(3, 1, 0.5, DEVICE, HOST), config_of(3, 1, 1, DEVICE, HOST), true, ZERO_CHANGE_OFFLOAD_RATIO,
         "moments", "config.offload_ratio 1"},
        {config_of(3, 2, 1, DEVICE, DEVICE), config_of(3, 2, 1, DEVICE, HOST), true, MOVE_O | MOVE_G, "moments",
         "config.optimizer.tier config.gradients.tier ZERO_TIER_HOST"},
        {config_of(3, 1, 1, DEVICE, HOST), config_of(3, 1, 1, HOST, HOST), true, MOVE_P, "parameters",
         "config.parameters.tier ZERO_TIER_HOST"},
        {config_of(3, 1, 1, DEVICE, DEVICE), config_of(3, 1, 1, HOST, HOST), true, MOVE_O | MOVE_G | MOVE_P, "moments",
         "config.optimizer.tier config.gradients.tier config.parameters.tier ZERO_TIER_HOST"},
        {config_of(3, 1, 1, DEVICE, DEVICE), config_of(3, 1, 1, DEVICE, NVME), false, MOVE_O | MOVE_G, "moments",
         "config.optimizer.tier ZERO_TIER_NVME config.gradients.tier ZERO_TIER_HOST"},
        {config_of(3, 1, 1, DEVICE, HOST), config_of(3, 1, 1, NVME, NVME), false, MOVE_O | MOVE_P, "moments",
         "config.optimizer.tier config.parameters.tier ZERO_TIER_NVME"},
    };
    zero_comm_t *comm = NULL;
    zero_device_t *cpu = NULL;
    planted_t device;
    int result = 0;
    (void)rank, (void)world, (void)arg;
    if (zero_comm_shm(&comm, bootstrap, NULL, NULL) != ZERO_OK || zero_device_cpu(&cpu, NULL, NULL) != ZERO_OK)
        return 1;
    plant(&device, cpu, NONE);
    device.ops.available = pretend;
    request_t q = {.comm = comm, .device = &device};
    for (size_t i = 0; i < sizeof nears / sizeof *nears; i++)
        result |= find_change(&q, &nears[i]);
    /* If no change is enough, the sentence says so. */
    near_t none = {.wide = nears[0].wide, .narrow = nears[0].wide, .kind = "window", .names = "model"};
    q.available = 1;
    q.limit = 0;
    result |= refuse(&q, &none, false, true) | refuse(&q, &none, true, true);
    zero_device_destroy(cpu);
    zero_comm_destroy(comm);
    return result;
}

START_TEST(the_nearest_change_that_fits_is_named)
{
    ck_assert_int_eq(ranks_run(2, 60, nearest, NULL), 0);
}
END_TEST

Suite *engine_memory_suite(void)
{
    Suite *suite = suite_create("memory");
    TCase *t = tcase_create("memory");
    tcase_set_timeout(t, 150);
    tcase_add_loop_test(t, memory_is_as_forecast_and_defects_are_found, 0, DEFECTS);
    tcase_add_test(t, rings_are_not_external);
    tcase_add_test(t, what_does_not_fit_is_refused_on_every_rank);
    tcase_add_test(t, the_nearest_change_that_fits_is_named);
    suite_add_tcase(suite, t);
    return suite;
}
