#define _GNU_SOURCE
#include "examples/zero_train/room.h"
#include "examples/zero_train/cgroup.h"
#include "examples/zero_train/cores.h"
#include "examples/zero_train/report.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define GIB (1024.0 * 1024.0 * 1024.0)
#define OUTSIDE (40ull << 20) /* of a rank, besides the forecast: program, libraries, MPI, tables; about 20 MiB as measured, and room for larger ones */
/* Tasks (processes and threads) of a rank besides its OpenMP threads, and of what starts the ranks. */
enum { TASKS_RANK = 3, TASKS_OTHER = 8 };

/* ---- what there is ------------------------------------------------------------------------------------------------------- */

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
        if (isdigit((unsigned char)entry->d_name[0]) && stat(path, &info) == 0 && info.st_uid == getuid() && info.st_nlink > 2)
            tasks += info.st_nlink - 2; /* a folder for each */
    }
    if (processes != NULL)
        closedir(processes);
    return tasks;
}

static uint64_t task_room(void)
{
    group_t g = {.files = {{"pids.max", "pids.current", NULL}, {"pids.max", "pids.current", NULL}}, .least = UINT64_MAX};
    struct rlimit limit;
    if (getrlimit(RLIMIT_NPROC, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        uint64_t used = user_tasks();
        g.least = limit.rlim_cur > used ? limit.rlim_cur - used : 0;
    }
    cgroup_walk("", "pids", lower, &g);
    return g.least;
}

/* ---- what ranks need ------------------------------------------------------------------------------------------------------- */

/* Bytes of each of world ranks, forecast by an engine that only plans; fails where the options do not fit this number. Planning for GPUs takes memory
 * of one, so what ranks on GPUs have in host memory counts when they look themselves, before they reserve it. */
static zero_status_t rank_bytes(const options_t *given, int world, uint64_t *bytes, zero_error_t *error)
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
        if (status == ZERO_OK && report_total(&forecast) + OUTSIDE > *bytes)
            *bytes = report_total(&forecast) + OUTSIDE;
        run_close(&run);
    }
    job_close(&job);
    return status;
}

static bool fits(const options_t *given, uint64_t world, uint64_t memory)
{
    uint64_t bytes;
    zero_error_t ignored;
    return rank_bytes(given, (int)world, &bytes, &ignored) == ZERO_OK && memory / bytes >= world;
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

zero_status_t room_check(const options_t *given, const job_t *job, zero_error_t *error)
{
    uint64_t bytes, memory = memory_room(), tasks = task_room(), each = (uint64_t)job->o.threads + TASKS_RANK, world = (uint64_t)job->world;
    zero_status_t status = rank_bytes(given, job->world, &bytes, error);
    if (status != ZERO_OK)
        return status;
    uint64_t by_tasks = tasks > TASKS_OTHER + each ? (tasks - TASKS_OTHER) / each : 1; /* one rank is this process */
    if (world <= memory / bytes && world <= by_tasks)
        return ZERO_OK;
    int best = largest(given, memory / OUTSIDE < world ? memory / OUTSIDE : world, memory);
    bool by_memory = (uint64_t)best <= by_tasks;
    if (!by_memory)
        best = largest(given, by_tasks, memory);
    char advice[96] = "use a smaller --model, --micro-batch or --seq-len";
    if (best > 0)
        snprintf(advice, sizeof advice, "use --ranks %d", best);
    if (!by_memory)
        return zero_fail(error, ZERO_ERR_MEMORY,
                         "--ranks is %d, but each takes %llu processes and threads, and this user may start %llu more here: %s", job->world,
                         (unsigned long long)each, (unsigned long long)tasks, advice);
    return zero_fail(error, ZERO_ERR_MEMORY,
                     "--ranks is %d, but so many need %.1f GiB of memory (%.0f MiB each), and %.1f GiB are available here: %s", job->world,
                     (double)world * (double)bytes / GIB, (double)bytes / (1024.0 * 1024.0), (double)memory / GIB, advice);
}
