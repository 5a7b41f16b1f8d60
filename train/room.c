/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/room.h"
#include "train/cgroup.h"
#include "train/cores.h"
#include "train/report.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define GIB (1024.0 * 1024.0 * 1024.0)
/* Bytes of a rank besides the forecast: program, libraries, MPI and tables take about 20 MiB as measured. The rest is
 * reserve for larger ones. */
#define OUTSIDE (40ull << 20)
/* Tasks (processes and threads) of a rank besides its OpenMP threads, and of the processes that start the ranks. */
enum { TASKS_RANK = 3, TASKS_OTHER = 8 };
/* Open files of mpiexec: Open MPI's opens 36 for 2 ranks, and 6 more for each further rank. */
enum { FILES_RANK = 6, FILES_OTHER = 24 };

/* ---- available resources ---------------------------------------------------------------------------------------- */

/* The files of a controller with its limit and its usage. File cache does not count as usage: cache is its key in
 * memory.stat, NULL: none. [1]: version 2. */
typedef struct group {
    struct {
        const char *limit, *usage, *cache;
    } files[2];
    uint64_t least; /* available bytes or tasks */
} group_t;

static void lower(const char *folder, bool second, void *ctx)
{
    group_t *g = ctx;
    const char *cache = g->files[second].cache;
    uint64_t most, used, files = 0;
    if (!cgroup_number(folder, g->files[second].limit, NULL, &most) ||
        !cgroup_number(folder, g->files[second].usage, NULL, &used))
        return;
    if (cache != NULL)
        cgroup_number(folder, "memory.stat", cache, &files);
    used -= files < used ? files : used;
    uint64_t room = most > used ? most - used : 0;
    g->least = room < g->least ? room : g->least;
}

static uint64_t memory_room(void)
{
    group_t g = {.files = {{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
                           {"memory.max", "memory.current", "inactive_file"}},
                 .least = UINT64_MAX};
    uint64_t kib;
    if (cgroup_number("/proc", "meminfo", "MemAvailable", &kib))
        g.least = kib * 1024;
    cgroup_walk("", "memory", lower, &g);
    return g.least;
}

/* Tasks of this user. */
static uint64_t user_tasks(void)
{
    DIR *processes = opendir("/proc");
    uint64_t tasks = 0;
    for (struct dirent *entry; processes != NULL && (entry = readdir(processes)) != NULL;) {
        char path[300];
        struct stat info;
        snprintf(path, sizeof path, "/proc/%s/task", entry->d_name);
        if (isdigit((unsigned char)entry->d_name[0]) && stat(path, &info) == 0 && info.st_uid == getuid() &&
            info.st_nlink > 2)
            tasks += info.st_nlink - 2; /* each task has a folder */
    }
    if (processes != NULL)
        closedir(processes);
    return tasks;
}

static uint64_t task_room(void)
{
    group_t g = {.files = {{"pids.max", "pids.current", NULL}, {"pids.max", "pids.current", NULL}},
                 .least = UINT64_MAX};
    struct rlimit limit;
    if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        uint64_t used = user_tasks();
        g.least = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
    }
    cgroup_walk("", "pids", lower, &g);
    return g.least;
}

/* Checks that mpiexec may open enough files for its pipes to each rank: without them it would hang silently. Raises the
 * limit as far as allowed. */
static zero_status_t check_files(int world, zero_error_t *error)
{
    struct rlimit limit;
    const rlim_t needed = FILES_OTHER + FILES_RANK * (rlim_t)world;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed)
        return ZERO_OK;
    limit.rlim_cur = limit.rlim_max < needed ? limit.rlim_max : needed;
    if (limit.rlim_cur >= needed && setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return ZERO_OK;
    return zero_fail(
        error, ZERO_ERR_SYSTEM,
        "--ranks is %d, which needs %llu open files, but a process may open %llu: raise ulimit -n, or use --ranks 1",
        world, (unsigned long long)needed, (unsigned long long)limit.rlim_cur);
}

/* ---- the needs of ranks ----------------------------------------------------------------------------------------- */

/* Bytes of world ranks. */
typedef struct needs {
    uint64_t all, rank;  /* of all ranks, of the largest one */
    zero_memory_t kinds; /* of the largest one */
} needs_t;

/* Adds up the forecasts for a stage of ZeRO. The ranks of a stage of a pipeline have the same bytes. */
static zero_status_t add_stages(const run_t *run, needs_t *needs, zero_error_t *error)
{
    zero_memory_t forecast = {.size = sizeof forecast};
    uint64_t all = 0;
    zero_status_t status = ZERO_OK;
    for (int p = 0; p < run->job->o.pipe; p++) {
        if ((status = zero_forecast_at(run->engine, p * run->job->stage_ranks, &forecast)) != ZERO_OK)
            return run_engine_error(run, status, error);
        const uint64_t rank = report_in_memory(&forecast) + OUTSIDE;
        all += rank * (uint64_t)run->job->stage_ranks;
        if (rank > needs->rank) {
            needs->rank = rank;
            needs->kinds = forecast;
        }
    }
    needs->all = all > needs->all ? all : needs->all;
    return status;
}

/* Forecasts by an engine that only plans. Fails if the options do not fit this number of ranks. A plan for GPUs takes
 * GPU memory; so GPU ranks check their host memory themselves, before they reserve it. */
static zero_status_t forecast_needs(const options_t *given, int world, needs_t *needs, zero_error_t *error)
{
    job_t job = {.o = *given};
    run_t run;
    job.o.ranks = world;
    job.o.quiet = 1; /* the ranks print the warnings */
    *needs = (needs_t){.kinds.size = sizeof needs->kinds};
    zero_status_t status = job_resolve(&job, world, cores_threads(world), false, error);
    if (status == ZERO_OK && job.o.device == DEVICE_CUDA) {
        needs->rank = OUTSIDE;
        needs->all = OUTSIDE * (uint64_t)world;
        job_close(&job);
        return ZERO_OK;
    }
    int first = given->compare_stages ? 0 : (int)job.o.stage, last = given->compare_stages ? 3 : (int)job.o.stage;
    for (int stage = first; stage <= last && status == ZERO_OK; stage++) {
        status = run_plan(&run, &job, stage, error);
        if (status == ZERO_OK)
            status = add_stages(&run, needs, error);
        run_close(&run);
    }
    job_close(&job);
    return status;
}

static bool fits(const options_t *given, uint64_t world, uint64_t memory)
{
    needs_t needs;
    zero_error_t ignored;
    return forecast_needs(given, (int)world, &needs, &ignored) == ZERO_OK && needs.all <= memory;
}

/* The largest number of ranks, at most most, for which the options are valid and the memory suffices. 0: none. */
static int largest(const options_t *given, uint64_t most, uint64_t memory)
{
    uint64_t low = 0, high = most;
    if (given->batch > 0 || given->replicas > 1 || given->pipe > 1 || given->tensor > 1 ||
        given->context > 1) { /* plan only for divisors: the others fail at once */
        while (high > 0 && !fits(given, high, memory))
            high--;
        return (int)high;
    }
    while (low < high) { /* more ranks never need less memory in total */
        uint64_t middle = low + (high - low + 1) / 2;
        if (fits(given, middle, memory))
            low = middle;
        else
            high = middle - 1;
    }
    return (int)low;
}

/* Change i of the options that may reduce the memory of a rank, the least slowdown first. False: it changes nothing. */
enum { CHANGES = 7 };
static bool change(options_t *o, const job_t *job, int i, char *text, size_t size)
{
    const options_t *now = &job->o;
    switch (i) {
    case 0:
        o->window = 1;
        snprintf(text, size, "--window 1");
        return now->window > 1;
    case 1:
        o->stage = 3;
        snprintf(text, size, "--stage 3");
        return now->stage < 3 && !now->compare_stages && job->copies > 1;
    case 2:
    case 3:
        o->micro_batch = i == 2 ? now->micro_batch / 2 : 1;
        snprintf(text, size, "--micro-batch %lld", (long long)o->micro_batch);
        return now->micro_batch > o->micro_batch && o->micro_batch > 0;
    case 4:
        o->recompute = ZERO_RECOMPUTE_FULL;
        snprintf(text, size, "--recompute");
        return now->recompute != ZERO_RECOMPUTE_FULL;
    default:
        o->offload =
            i == 5 && now->offload != OFFLOAD_PARAMS && now->offload != OFFLOAD_ALL ? OFFLOAD_OPTIMIZER : OFFLOAD_ALL;
        o->offload_tier = OFFLOAD_TO_NVME;
        o->offload_ratio = 1;
        o->nvme_path = now->nvme_path != NULL ? now->nvme_path : ".";
        snprintf(text, size, "--offload %s --offload-tier nvme --nvme-path DIR",
                 o->offload == OFFLOAD_ALL ? "all" : "optimizer");
        return now->offload_tier != OFFLOAD_TO_NVME || now->offload != o->offload || now->offload_ratio < 1;
    }
}

/* Finds the first change with which this number of ranks fits. false: none. */
static bool find_change(const options_t *given, const job_t *job, uint64_t memory, char *text, size_t size)
{
    for (int i = 0; i < CHANGES && (uint64_t)job->world <= memory / OUTSIDE; i++) {
        options_t o = *given;
        if (change(&o, job, i, text, size) && fits(&o, (uint64_t)job->world, memory))
            return true;
    }
    return false;
}

zero_status_t room_check(const options_t *given, const job_t *job, zero_error_t *error)
{
    needs_t needs;
    uint64_t memory = memory_room(), tasks = task_room(), each = (uint64_t)job->o.threads + TASKS_RANK,
             world = (uint64_t)job->world;
    zero_status_t status = forecast_needs(given, job->world, &needs, error);
    if (status != ZERO_OK)
        return status;
    uint64_t by_tasks = tasks > TASKS_OTHER + each ? (tasks - TASKS_OTHER) / each : 1; /* one rank is this process */
    if (needs.all <= memory && world <= by_tasks)
        return world > 1 ? check_files(job->world, error) : ZERO_OK;
    int best = largest(given, memory / OUTSIDE < world ? memory / OUTSIDE : world, memory);
    bool by_memory = (uint64_t)best <= by_tasks;
    if (!by_memory)
        best = largest(given, by_tasks, memory);
    char advice[96] = "use a smaller --model, --micro-batch or --seq-len", option[80];
    if (best > 0)
        snprintf(advice, sizeof advice, "use --ranks %d", best);
    if (by_memory && find_change(given, job, memory, option, sizeof option))
        snprintf(advice, sizeof advice, "use %s", option);
    if (!by_memory)
        return zero_fail(
            error, ZERO_ERR_MEMORY,
            "--ranks is %d, but each needs %llu processes and threads, and this user may start %llu more: %s",
            job->world, (unsigned long long)each, (unsigned long long)tasks, advice);
    char list[400];
    report_largest(&needs.kinds, list, sizeof list);
    if (world == 1)
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "a rank needs %.2f GiB of memory (%s), but only %.2f GiB are available: %s",
                         (double)needs.rank / GIB, list, (double)memory / GIB, advice);
    return zero_fail(
        error, ZERO_ERR_MEMORY,
        "--ranks is %d, but they need %.2f GiB of memory (%s%.2f GiB each: %s), and %.2f GiB are available: %s",
        job->world, (double)needs.all / GIB, job->o.pipe > 1 ? "at most " : "", (double)needs.rank / GIB, list,
        (double)memory / GIB, advice);
}
