/* SPDX-License-Identifier: Apache-2.0 */
/* prompt.c - reads --prompt-file and gives its text to all ranks. */
#include "train/prompt.h"
#include "train/share.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 4096, MOST = 1 << 26 /* bytes of a file */ };

static bool is_standard(const options_t *o)
{
    return strcmp(o->prompt_file, "-") == 0;
}

/* Reads all of a file, with a NUL behind it. NULL: errno, or 0 if there is no memory. */
static char *read_all(FILE *file, size_t *bytes)
{
    size_t used = 0, room = PIECE;
    char *all = malloc(room);
    errno = 0;
    if (all == NULL)
        return NULL;
    for (size_t n = 1; n > 0 && used <= MOST; used += n) {
        if (room - used == 1) {
            char *more = realloc(all, room *= 2);
            if (more == NULL) {
                free(all);
                errno = 0;
                return NULL;
            }
            all = more;
        }
        n = fread(all + used, 1, room - used - 1, file);
    }
    if (ferror(file) != 0) {
        free(all);
        return NULL;
    }
    all[used] = '\0';
    *bytes = used;
    return all;
}

static zero_status_t check_size(const options_t *o, size_t bytes, zero_error_t *error)
{
    char name[300];
    prompt_option(o, name, sizeof name);
    if (bytes > MOST)
        return zero_fail(error, ZERO_ERR_ARG, "%s has more than %d MiB: use a shorter text", name, MOST >> 20);
    if (bytes > 0)
        return ZERO_OK;
    if (is_standard(o))
        return zero_fail(error, ZERO_ERR_ARG, "%s reads standard input, which is empty%s: pass a text, or name a file",
                         name, launch_detect(NULL, NULL) == LAUNCH_NONE ? "" : " for rank 0 under this launcher");
    return zero_fail(error, ZERO_ERR_ARG, "%s is empty: use a file with at least one character besides a newline",
                     name);
}

zero_status_t prompt_read(options_t *o, zero_error_t *error)
{
    size_t bytes = 0;
    char name[300];
    if (o->prompt_file == NULL)
        return ZERO_OK;
    FILE *file = is_standard(o) ? stdin : fopen(o->prompt_file, "re");
    char *text = file != NULL ? read_all(file, &bytes) : NULL;
    const int why = errno;
    if (file != NULL && file != stdin)
        fclose(file);
    if (text == NULL && why == 0)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %s", prompt_option(o, name, sizeof name));
    if (text == NULL)
        return zero_fail(error, ZERO_ERR_IO, "cannot read %s: %s", prompt_option(o, name, sizeof name), strerror(why));
    if (bytes > 0 && text[bytes - 1] == '\n')
        bytes--;
    if (bytes > 0 && text[bytes] == '\n' && text[bytes - 1] == '\r')
        bytes--;
    text[bytes] = '\0';
    zero_status_t status = check_size(o, bytes, error);
    if (status != ZERO_OK) {
        free(text);
        return status;
    }
    o->prompt_text = text;
    o->prompt_bytes = bytes;
    return ZERO_OK;
}

void prompt_free(options_t *o)
{
    free(o->prompt_text);
    o->prompt_text = NULL;
    o->prompt_bytes = 0;
}

zero_status_t prompt_share(options_t *o, zero_comm_t *comm, const launch_t *launch, zero_status_t status,
                           zero_error_t *error)
{
    zero_error_t why;
    const bool reads = status == ZERO_OK && zero_comm_rank(comm) == 0;
    if (reads && launch == NULL)
        status = prompt_read(o, error);
    else if (reads && !launch_prompt(launch, &o->prompt_text, &o->prompt_bytes))
        status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for the text of --prompt-file");
    zero_status_t shared = share_text(comm, "--prompt-file", &o->prompt_text, &o->prompt_bytes, &why);
    return status != ZERO_OK || shared == ZERO_OK ? status : zero_pass(error, shared, &why);
}
