/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup.h - the limits of this process's control groups: its own group and its ancestors, of versions 1 and 2.
 * Functions put root in front of each path: "" for this machine, a folder in tests. */
#ifndef TRAIN_CGROUP_H
#define TRAIN_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

/* Visits one group. folder: the group's folder. second: the group is of version 2. */
typedef void (*cgroup_fn)(const char *folder, bool second, void *ctx);

/* Calls fn for each group of a controller ("cpu", "memory", "pids"), from the process's own group to the topmost one
 * that is mounted here. */
void cgroup_walk(const char *root, const char *controller, cgroup_fn fn, void *ctx);

/* Reads the first number of a file (key NULL), or the first number after a key. False if there is none ("max" is not a
 * number). */
bool cgroup_number(const char *folder, const char *name, const char *key, uint64_t *out);

/* The smallest quota of processor time, in processors, for example 1.5. INFINITY if there is no quota. */
double cgroup_processors(const char *root);

/* An identity of the control groups: equal groups give equal numbers, even if each container calls its own group "/".
 */
uint64_t cgroup_identity(void);

#endif
