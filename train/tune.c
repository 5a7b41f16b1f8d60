/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "train/tune.h"
#include "models/model.h"
#include "train/share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PIECE = 4096, MOST = 1 << 24 /* bytes of a file */ };

zero_status_t tune_read(const char *path, char **text, zero_error_t *error)
{
    FILE *file = fopen(path, "re");
    size_t used = 0, room = PIECE;
    *text = NULL;
    if (file == NULL && errno != ENOENT)
        return zero_fail(error, ZERO_ERR_IO, "cannot read --tune '%s': %s", path, strerror(errno));
    char *all = malloc(room);
    while (file != NULL && all != NULL && used < MOST) {
        const size_t n = fread(all + used, 1, room - used - 1, file);
        used += n;
        if (n == 0)
            break;
        if (room - used > 1)
            continue;
        char *more = realloc(all, 2 * room);
        if (more == NULL)
            free(all);
        all = more;
        room *= 2;
    }
    const bool failed = file != NULL && ferror(file) != 0;
    const int why = errno;
    if (file != NULL)
        fclose(file);
    if (all == NULL)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for --tune '%s'", path);
    all[used] = '\0';
    if (!failed && used < MOST && strlen(all) == used) {
        *text = all;
        return ZERO_OK;
    }
    free(all);
    if (failed)
        return zero_fail(error, ZERO_ERR_IO, "cannot read --tune '%s': %s", path, strerror(why));
    return zero_fail(error, ZERO_ERR_ARG,
                     "--tune '%s' is not a file of product choices: name a file that --tune wrote, or a new file",
                     path);
}

zero_status_t tune_write(const char *path, const char *text, zero_error_t *error)
{
    char *beside = NULL;
    if (asprintf(&beside, "%s.part", path) < 0)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for --tune '%s'", path);
    FILE *file = fopen(beside, "we");
    bool done = file != NULL && fputs(text, file) >= 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int why = errno;
    if (file != NULL && fclose(file) != 0 && done) {
        done = false;
        why = errno;
    }
    if (done && rename(beside, path) != 0) {
        done = false;
        why = errno;
    }
    if (!done)
        unlink(beside);
    free(beside);
    return done ? ZERO_OK : zero_fail(error, ZERO_ERR_IO, "cannot write --tune '%s': %s", path, strerror(why));
}

zero_status_t tune_share(zero_comm_t *comm, char **text, zero_error_t *error)
{
    size_t bytes = zero_comm_rank(comm) == 0 && *text != NULL ? strlen(*text) : 0;
    zero_status_t status = share_text(comm, "--tune", text, &bytes, error);
    if (status == ZERO_OK && *text == NULL && zero_comm_rank(comm) != 0)
        return zero_fail(error, ZERO_ERR_PEER, "rank 0 has no choices of products to share (--tune)");
    return status;
}
