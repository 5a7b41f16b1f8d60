/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/cgroup.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { PATH_BYTES = 4096 };

bool cgroup_number(const char *folder, const char *name, const char *key, uint64_t *out)
{
    char line[PATH_BYTES + 64], *end;
    bool found = false;
    snprintf(line, sizeof line, "%s/%s", folder, name);
    FILE *f = fopen(line, "re");
    while (f != NULL && !found && fgets(line, sizeof line, f) != NULL) {
        size_t length = key != NULL ? strlen(key) : 0;
        if (length > 0 && (strncmp(line, key, length) != 0 || strchr(": ", line[length]) == NULL))
            continue;
        const char *number = line + length + (length > 0);
        *out = strtoull(number, &end, 10);
        found = end != number;
    }
    if (f != NULL)
        fclose(f);
    return found;
}

/* Whether a list such as "cpu,cpuacct" contains the name. */
static bool lists(const char *list, const char *name)
{
    size_t length = strlen(name);
    for (const char *p = list; p != NULL; p = strchr(p, ',')) {
        p += *p == ',';
        if (strncmp(p, name, length) == 0 && (p[length] == ',' || p[length] == '\0'))
            return true;
    }
    return false;
}

void cgroup_walk(const char *root, const char *controller, cgroup_fn fn, void *ctx)
{
    char line[PATH_BYTES], folder[2 * PATH_BYTES];
    snprintf(line, sizeof line, "%s/proc/self/cgroup", root);
    FILE *f = fopen(line, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        /* the line is "ID:CONTROLLERS:PATH"; for version 2, CONTROLLERS is empty */
        line[strcspn(line, "\n")] = '\0';
        char *list = strchr(line, ':'), *path = list != NULL ? strchr(list + 1, ':') : NULL;
        if (path == NULL)
            continue;
        *path++ = '\0';
        list++;
        bool second = *list == '\0';
        struct stat info;
        if (!second && !lists(list, controller))
            continue;
        /* version 1 is mounted under its whole list, and often also under each name of the list */
        int top = snprintf(folder, sizeof folder, "%s/sys/fs/cgroup%s%s", root, second ? "" : "/", list);
        if (!second && stat(folder, &info) != 0)
            top = snprintf(folder, sizeof folder, "%s/sys/fs/cgroup/%s", root, controller);
        snprintf(folder + top, sizeof folder - (size_t)top, "%s", path);
        for (;;) {
            fn(folder, second, ctx);
            if (strlen(folder) <= (size_t)top)
                break;
            *strrchr(folder, '/') = '\0';
        }
    }
    if (f != NULL)
        fclose(f);
}

static void lower(const char *folder, bool second, void *ctx)
{
    double *least = ctx;
    uint64_t quota, period;
    if (second) { /* "QUOTA PERIOD", or "max PERIOD" */
        char line[PATH_BYTES + 64];
        unsigned long long numbers[2];
        snprintf(line, sizeof line, "%s/cpu.max", folder);
        FILE *f = fopen(line, "re");
        bool there = f != NULL && fgets(line, sizeof line, f) != NULL &&
                     sscanf(line, "%llu %llu", &numbers[0], &numbers[1]) == 2;
        if (f != NULL)
            fclose(f);
        if (!there)
            return;
        quota = numbers[0];
        period = numbers[1];
    } else if (!cgroup_number(folder, "cpu.cfs_quota_us", NULL, &quota) ||
               !cgroup_number(folder, "cpu.cfs_period_us", NULL, &period) || (int64_t)quota < 0) { /* -1: no quota */
        return;
    }
    if (quota > 0 && period > 0)
        *least = fmin(*least, (double)quota / (double)period);
}

double cgroup_processors(const char *root)
{
    double least = INFINITY;
    cgroup_walk(root, "cpu", lower, &least);
    return least;
}

uint64_t cgroup_identity(void)
{
    char text[4 * PATH_BYTES] = "";
    ssize_t length = readlink("/proc/self/ns/cgroup", text, PATH_BYTES);
    size_t bytes = length > 0 ? (size_t)length : 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f != NULL) {
        bytes += fread(text + bytes, 1, sizeof text - bytes, f);
        fclose(f);
    }
    return XXH64(text, bytes, 0);
}
