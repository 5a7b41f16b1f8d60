/* SPDX-License-Identifier: Apache-2.0 */
/* cgroup.h - what the control groups of this process allow it: its own and those above it, of versions 1 and 2. root is
 * put in front of every path: "" for this machine, a folder in tests. */
#ifndef TRAIN_CGROUP_H
#define TRAIN_CGROUP_H

#include <stdbool.h>
#include <stdint.h>

/* One group: its folder, and whether it is of version 2. */
typedef void (*cgroup_fn)(const char *folder, bool second, void *ctx);

/* Calls fn for each group of a controller ("cpu", "memory", "pids") from the process's own to the topmost that is
 * mounted here. */
void cgroup_walk(const char *root, const char *controller, cgroup_fn fn, void *ctx);

/* The first number of a file (key NULL), or that after a key; false where there is none ("max" is no number). */
bool cgroup_number(const char *folder, const char *name, const char *key, uint64_t *out);

/* The smallest quota of processor time, in processors: 1.5. INFINITY where there is none. */
double cgroup_processors(const char *root);

/* The same control groups have the same number, also where each container calls its own "/". */
uint64_t cgroup_identity(void);

#endif
