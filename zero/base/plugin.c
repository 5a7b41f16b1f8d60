/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.c - see plugin.h. */
#define _GNU_SOURCE
#include "zero/base/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifndef ZERO_PLUGIN_DIR
#error "the makefile says where plugins are installed"
#endif

/* The folder of the library or program that holds this function, without a trailing slash; false if it is unknown. */
static bool own_folder(char *folder, size_t size)
{
    Dl_info info;
    char path[PATH_MAX];
    ssize_t length = -1;
    if (!dladdr((const void *)(uintptr_t)zero_plugin_table, &info) || !info.dli_fname)
        return false;
    /* For a program the name is argv[0]: it may have been found through $PATH, or be relative to an old folder. */
    const char *base = strrchr(info.dli_fname, '/');
    if (!base || !realpath(info.dli_fname, path)) {
        length = readlink("/proc/self/exe", path, sizeof path - 1);
        if (length < 0)
            return false;
        path[length] = '\0';
    }
    char *slash = strrchr(path, '/');
    if (!slash || (size_t)(slash - path) >= size)
        return false;
    *slash = '\0';
    memcpy(folder, path, (size_t)(slash - path) + 1);
    return true;
}

/* Sets path to the folders to search, separated by colons. */
static void search_path(char *path, size_t size)
{
    char own[PATH_MAX];
    const char *asked = secure_getenv("ZERO_PLUGIN_PATH");
    if (asked && *asked)
        snprintf(path, size, "%s", asked);
    else if (own_folder(own, sizeof own))
        snprintf(path, size, "%s:%s/.libs:%s/zero:%s/../lib/zero:%s", own, own, own, own, ZERO_PLUGIN_DIR);
    else
        snprintf(path, size, "%s", ZERO_PLUGIN_DIR);
}

/* Opens the first existing file of the plugin. */
static zero_status_t open_plugin(const char *plugin, char *file, size_t size, void **handle, zero_error_t *error)
{
    char path[6 * PATH_MAX], folders[6 * PATH_MAX];
    search_path(path, sizeof path);
    memcpy(folders, path, sizeof path);
    for (char *save = NULL, *folder = strtok_r(folders, ":", &save); folder; folder = strtok_r(NULL, ":", &save)) {
        if ((size_t)snprintf(file, size, "%s/%s.so", folder, plugin) >= size || access(file, F_OK) != 0)
            continue;
        *handle = dlopen(file, RTLD_NOW | RTLD_LOCAL);
        if (*handle)
            return ZERO_OK;
        const char *why = dlerror();
        return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_CUDA, -1,
                                "the plugin %s cannot be loaded: %s", file, why ? why : "no reason was given");
    }
    return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_CUDA, -1,
                            "this build has no CUDA plugin (%s.so was not found in %s): configure --with-cuda", plugin,
                            path);
}

zero_status_t zero_plugin_table(const char *plugin, const char *symbol, uint32_t version, const void **table,
                                zero_error_t *error)
{
    char file[PATH_MAX + 64];
    void *handle;
    uint32_t found;
    *table = NULL;
    zero_status_t status = open_plugin(plugin, file, sizeof file, &handle, error);
    if (status)
        return status;
    const void *address = dlsym(handle, symbol);
    if (!address)
        return zero_fail_reason(
            error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_CUDA, -1,
            "the plugin %s has no table '%s': it belongs to another libzero; install both from one build", file,
            symbol);
    memcpy(&found, address, sizeof found);
    if (found != version)
        return zero_fail_reason(error, ZERO_ERR_UNSUPPORTED, ZERO_REASON_NO_CUDA, -1,
                                "the plugin %s belongs to another libzero: its table '%s' has version %u.%u.%u-%u, but "
                                "%u.%u.%u-%u is required; install both from one build",
                                file, symbol, found >> 24, found >> 16 & 255, found >> 8 & 255, found & 255,
                                version >> 24, version >> 16 & 255, version >> 8 & 255, version & 255);
    *table = address;
    return ZERO_OK;
}
