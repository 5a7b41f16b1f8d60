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
#define OUTSIDE \
    (40ull << 20) /* of a rank, besides the forecast: program, libraries, MPI, tables; about 20 MiB as measured, and \
                     room for larger ones */
/* Tasks (processes and threads) of a rank besides its OpenMP threads, and of what starts the ranks. */
enum { TASKS_RANK = 3, TASKS_OTHER = 8 };
/* Open files of mpiexec: Open MPI's needs 36 for 2 ranks, and 6 more for each further one. */
enum { FILES_RANK = 6, FILES_OTHER = 24 };

/* ---- what there is ---------------------------------------------------------------------------------------------- */

/* Files of a controller that say how much there may be, and is. What is only a cache of files is no usage: cache is its
 * key in memory.stat, NULL: none. [1]: version 2. */
typedef struct group {
    struct {
        const char *limit, *usage, *cache;
    } files[2];
    uint64_t least; /* room */
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
            tasks += info.st_nlink - 2; /* a folder for each */
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

/* That mpiexec may open what it needs, which it would not say but hang: pipes to each rank. Takes what may be had. */
static zero_status_t check_files(int world, zero_error_t *error)
{
    struct rlimit limit;
    const rlim_t needed = FILES_OTHER + FILES_RANK * (rlim_t)world;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed)
        return ZERO_OK;
    limit.rlim_cur = limit.rlim_max < needed ? limit.rlim_max : needed;
    if (limit.rlim_cur >= needed && setrlimit(RLIMIT_NOFILE, &limit) == 0)
        return ZERO_OK;
    return zero_fail(error, ZERO_ERR_SYSTEM,
                     "--ranks is %d, and starting them takes %llu open files, but a process may have %llu "
                     "here: raise ulimit -n, or use --ranks 1",
                     world, (unsigned long long)needed, (unsigned long long)limit.rlim_cur);
}

/* ---- what ranks need -------------------------------------------------------------------------------------------- */

/* Bytes of each of world ranks, forecast by an engine that only plans; fails where the options do not fit this number.
 * Planning for GPUs takes memory of one, so what ranks on GPUs have in host memory counts when they look themselves,
 * before they reserve it. kinds (may be NULL): what takes them. */
static zero_status_t rank_bytes(const options_t *given, int world, uint64_t *bytes, zero_memory_t *kinds,
                                zero_error_t *error)
{
    job_t job = {.o = *given};
    zero_memory_t forecast = {.size = sizeof forecast};
    run_t run;
    job.o.ranks = world;
    job.o.quiet = 1; /* warnings come from the ranks */
    *bytes = 0;
    zero_status_t status = job_resolve(&job, world, cores_threads(world), false, error);
    if (status == ZERO_OK && job.o.device == DEVICE_CUDA) {
        *bytes = OUTSIDE;
        job_close(&job);
        return ZERO_OK;
    }
    int first = given->compare_stages ? 0 : (int)given->stage, last = given->compare_stages ? 3 : (int)given->stage;
    for (int stage = first; stage <= last && status == ZERO_OK; stage++) {
        status = run_plan(&run, &job, stage, error);
        if (status == ZERO_OK && (status = zero_forecast(run.engine, &forecast)) != ZERO_OK)
            run_engine_error(&run, status, error);
        if (status == ZERO_OK && report_in_memory(&forecast) + OUTSIDE > *bytes) {
            *bytes = report_in_memory(&forecast) + OUTSIDE;
            if (kinds != NULL)
                *kinds = forecast;
        }
        run_close(&run);
    }
    job_close(&job);
    return status;
}

static bool fits(const options_t *given, uint64_t world, uint64_t memory)
{
    uint64_t bytes;
    zero_error_t ignored;
    return rank_bytes(given, (int)world, &bytes, NULL, &ignored) == ZERO_OK && memory / bytes >= world;
}

/* The largest number of ranks, at most most, that the options and the memory allow; 0: none. */
static int largest(const options_t *given, uint64_t most, uint64_t memory)
{
    uint64_t low = 0, high = most;
    if (given->batch > 0) { /* only the few that divide it are planned: the others are refused at once */
        while (high > 0 && !fits(given, high, memory))
            high--;
        return (int)high;
    }
    while (low < high) { /* more ranks never need less together */
        uint64_t middle = low + (high - low + 1) / 2;
        if (fits(given, middle, memory))
            low = middle;
        else
            high = middle - 1;
    }
    return (int)low;
}

/* The i-th single change of options with which a rank may need less memory, nearest first: what costs the least time.
 * False: it changes nothing. */
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
        return now->stage < 3 && !now->compare_stages && job->world > 1;
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

/* The first of these with which as many ranks fit; false: none. */
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
    zero_memory_t kinds = {.size = sizeof kinds};
    uint64_t bytes, memory = memory_room(), tasks = task_room(), each = (uint64_t)job->o.threads + TASKS_RANK,
                    world = (uint64_t)job->world;
    zero_status_t status = rank_bytes(given, job->world, &bytes, &kinds, error);
    if (status != ZERO_OK)
        return status;
    uint64_t by_tasks = tasks > TASKS_OTHER + each ? (tasks - TASKS_OTHER) / each : 1; /* one rank is this process */
    if (world <= memory / bytes && world <= by_tasks)
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
            "--ranks is %d, but each takes %llu processes and threads, and this user may start %llu more here: %s",
            job->world, (unsigned long long)each, (unsigned long long)tasks, advice);
    char list[400];
    report_largest(&kinds, list, sizeof list);
    if (world == 1)
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "a rank needs %.2f GiB of memory (%s), but only %.2f GiB are available here: %s",
                         (double)bytes / GIB, list, (double)memory / GIB, advice);
    return zero_fail(
        error, ZERO_ERR_MEMORY,
        "--ranks is %d, but so many need %.2f GiB of memory (%.2f GiB each: %s), and %.2f GiB are available here: %s",
        job->world, (double)world * (double)bytes / GIB, (double)bytes / GIB, list, (double)memory / GIB, advice);
}
