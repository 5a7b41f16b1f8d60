/* SPDX-License-Identifier: Apache-2.0 */
/* export.c - writes a model as a Hugging Face folder. Every rank writes the ranges that it owns into common files; rank
 * 0 writes the rest. Until all of it is on the drive, names end in ".part". */
#include "models/export.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MODEL "model"
#define ADAPTERS "adapter_model"
#define WEIGHTS ".safetensors" /* behind MODEL or ADAPTERS */
#define INDEX WEIGHTS ".index.json"
#define PART ".part"
/* With ".part" behind it, a file whose text shows ranks that they have the same folder. */
#define PROOF MODEL ".export"
/* Hugging Face's size of a file. */
#define FILE_BYTES UINT64_C(5000000000)

/* What a folder has beside its weights. The first is made for adapters; the second is made for a model, or taken over;
 * the others are copied where they are, the third only for a model. */
static const char *const texts[] = {"adapter_config.json",
                                    "config.json",
                                    "generation_config.json",
                                    "tokenizer.json",
                                    "tokenizer_config.json",
                                    "special_tokens_map.json",
                                    "added_tokens.json",
                                    "vocab.json",
                                    "merges.txt",
                                    "tokenizer.model",
                                    "chat_template.jinja"};
enum { TEXTS = sizeof texts / sizeof *texts, ADAPTER_CONFIG = 0, MODEL_CONFIG, GENERATION_CONFIG };

typedef struct export
{
    zero_model_t *m;
    zero_comm_t *comm;
    const zero_model_export_t *to;
    bool first;                    /* this is rank 0 */
    bool adapters;                 /* only these are written */
    int begin, end;                /* the parameters that are written */
    zero_merge_t merge;            /* of the tensor that is written */
    bool made;                     /* the folder: it was not there */
    bool part[TEXTS];              /* written, under a name that ends in ".part" */
    bool shown;                    /* PROOF was written */
    char proof[20];                /* its text: that of this export alone */
    zero_tensors_writer_t *writer; /* NULL: not open */
    int index;                     /* its parameter */
    zero_error_t error;
}
export_t;

/* The path of a file of a folder; the caller frees it. */
static char *path_of(const char *folder, const char *name, const char *ending)
{
    size_t room = strlen(folder) + strlen(name) + strlen(ending) + 2;
    char *path = malloc(room);

    if (path)
        snprintf(path, room, "%s/%s%s", folder, name, ending);
    return path;
}

static zero_status_t no_memory(const char *folder, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the export to '%s'", folder);
}

static bool has(const char *folder, const char *name)
{
    char *path = path_of(folder, name, "");
    struct stat info;
    bool found = path && stat(path, &info) == 0;

    free(path);
    return found;
}

/* ---- the folder ------------------------------------------------------------------------------------------------- */

/* Whether nothing is in the folder but, perhaps, what the system keeps there. */
static zero_status_t is_empty(const char *folder, bool *empty, zero_error_t *error)
{
    DIR *dir = opendir(folder);

    if (dir == NULL)
        return zero_fail(error, ZERO_ERR_IO, "cannot read the folder '%s': %s", folder, strerror(errno));
    *empty = true;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        *empty = *empty &&
                 (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || !strcmp(entry->d_name, "lost+found"));
    closedir(dir);
    return ZERO_OK;
}

/* Whether the folder's weights are an earlier export. Other weights must not be overwritten. */
static bool is_ours(const char *folder, bool adapters)
{
    const char *weights = adapters ? ADAPTERS WEIGHTS : MODEL WEIGHTS, *index = adapters ? ADAPTERS INDEX : MODEL INDEX;
    char *path = path_of(folder, has(folder, weights) ? weights : index, "");
    zero_tensors_t *tensors = NULL;
    bool ours;

    if (path && has(folder, has(folder, weights) ? weights : index)) {
        zero_tensors_open(&tensors, path, NULL);
        const char *producer = zero_tensors_metadata(tensors, "producer");

        ours = producer && strcmp(producer, "libzero") == 0;
    } else { /* an export that did not end */
        char part[64];

        snprintf(part, sizeof part, "%s%s", weights, PART);
        ours = has(folder, part);
        snprintf(part, sizeof part, "%s%s", index, PART);
        ours = ours || has(folder, part);
    }
    zero_tensors_close(tensors);
    free(path);
    return ours;
}

/* Whether the model was read from this folder. */
static bool is_source(const char *folder, const char *source)
{
    struct stat a, b;

    return source && stat(folder, &a) == 0 && stat(source, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static zero_status_t check_parent(const char *folder, zero_error_t *error)
{
    char *parent = strdup(folder), *slash;
    zero_status_t status = ZERO_OK;

    if (parent == NULL)
        return no_memory(folder, error);
    for (size_t n = strlen(parent); n > 1 && parent[n - 1] == '/'; n--)
        parent[n - 1] = '\0';
    slash = strrchr(parent, '/');
    if (slash == parent)
        slash[1] = '\0';
    else if (slash)
        *slash = '\0';
    if (access(slash ? parent : ".", W_OK | X_OK) != 0)
        status = zero_fail(error, ZERO_ERR_IO, "cannot create the folder '%s': '%s': %s", folder, slash ? parent : ".",
                           strerror(errno));
    free(parent);
    return status;
}

zero_status_t zero_model_check_export(const char *folder, const char *source, bool adapters, zero_error_t *error)
{
    struct stat info;
    bool empty = false;
    zero_status_t status;

    if (stat(folder, &info) != 0)
        return errno == ENOENT
                   ? check_parent(folder, error)
                   : zero_fail(error, ZERO_ERR_IO, "cannot create the folder '%s': %s", folder, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return zero_fail(error, ZERO_ERR_ARG, "'%s' is a file, but must be a folder: name another one", folder);
    if (is_source(folder, source))
        return zero_fail(error, ZERO_ERR_ARG,
                         "the folder '%s' is the one that the model is read from, which the export would overwrite: "
                         "name another one",
                         folder);
    if (access(folder, W_OK | X_OK) != 0)
        return zero_fail(error, ZERO_ERR_IO, "cannot write to the folder '%s': %s", folder, strerror(errno));
    status = is_empty(folder, &empty, error);
    if (status == ZERO_OK && !empty && !is_ours(folder, adapters))
        status =
            zero_fail(error, ZERO_ERR_ARG,
                      "the folder '%s' is neither empty nor an earlier export of %s: name another one, or remove it",
                      folder, adapters ? "adapters" : "a model");
    return status;
}

/* ---- texts ------------------------------------------------------------------------------------------------------ */

/* Writes the folder's file of this name, with ".part" after it, and waits for the drive. */
static zero_status_t write_text(const char *folder, const char *name, const char *text, size_t bytes,
                                zero_error_t *error)
{
    char *path = path_of(folder, name, PART);
    FILE *file = NULL;
    zero_status_t status = ZERO_OK;

    if (path == NULL)
        return no_memory(folder, error);
    unlink(path); /* a link would lead elsewhere */
    file = fopen(path, "wbx");
    bool failed =
        file == NULL || fwrite(text, 1, bytes, file) != bytes || fflush(file) != 0 || fsync(fileno(file)) != 0;
    if (failed)
        status = zero_fail(error, ZERO_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    if (file && fclose(file) != 0 && !failed)
        status = zero_fail(error, ZERO_ERR_IO, "cannot write '%s': %s", path, strerror(errno));
    free(path);
    return status;
}

/* The bytes of a file, with a 0 behind them; the caller frees them. */
static zero_status_t read_text(const char *path, char **text, size_t *bytes, zero_error_t *error)
{
    FILE *file = fopen(path, "rb");
    zero_status_t status = ZERO_OK;
    size_t room = 0;

    *text = NULL;
    *bytes = 0;
    if (file == NULL)
        return zero_fail(error, ZERO_ERR_IO, "cannot open '%s': %s", path, strerror(errno));
    while (!feof(file) && !ferror(file)) {
        char *more = room > SIZE_MAX / 4 ? NULL : realloc(*text, room = 2 * room + 65536);

        if (more == NULL) {
            status = zero_fail(error, ZERO_ERR_MEMORY, "no memory for '%s'", path);
            goto end;
        }
        *text = more;
        *bytes += fread(*text + *bytes, 1, room - *bytes - 1, file);
        (*text)[*bytes] = '\0';
    }
    if (ferror(file))
        status = zero_fail(error, ZERO_ERR_IO, "cannot read '%s': %s", path, strerror(errno));
end:
    fclose(file);
    if (status != ZERO_OK) {
        free(*text);
        *text = NULL;
    }
    return status;
}

/* Text k of the source, or one that is made from the model. *text is NULL where the export has no such text. */
static zero_status_t get_text(const export_t *e, int k, char **text, size_t *bytes, zero_error_t *error)
{
    const char *source = e->to->source;
    char *path = NULL, *taken = NULL;
    struct stat info;
    const bool folder = source && stat(source, &info) == 0 && S_ISDIR(info.st_mode);
    zero_status_t status = ZERO_OK;

    *text = NULL;
    if (e->adapters ? k == MODEL_CONFIG || k == GENERATION_CONFIG : k == ADAPTER_CONFIG)
        return ZERO_OK;
    if (k == ADAPTER_CONFIG || (k == MODEL_CONFIG && source == NULL)) {
        status = e->adapters ? zero_model_adapter_config_text(e->m, source, text, error)
                             : zero_model_config_text(&e->m->config, e->to->dtype, text, error);
        *bytes = *text ? strlen(*text) : 0;
        return status;
    }
    if (source == NULL || (k != MODEL_CONFIG && !(folder && has(source, texts[k]))))
        return ZERO_OK;
    path = folder ? path_of(source, texts[k], "") : strdup(source);
    if (path == NULL)
        return no_memory(e->to->folder, error);
    status = read_text(path, &taken, bytes, error);
    if (status == ZERO_OK && k == MODEL_CONFIG) {
        status = zero_model_config_retype(taken, path, e->to->dtype, text, error);
        *bytes = *text ? strlen(*text) : 0;
        free(taken);
    } else
        *text = taken;
    free(path);
    return status;
}

static zero_status_t write_texts(export_t *e, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;

    for (int k = 0; k < TEXTS && status == ZERO_OK; k++) {
        size_t bytes = 0;
        char *text = NULL;

        status = get_text(e, k, &text, &bytes, error);
        if (status == ZERO_OK && text) {
            e->part[k] = true;
            status = write_text(e->to->folder, texts[k], text, bytes, error);
        }
        free(text);
    }
    return status;
}

/* Takes ".part" off the texts' names. */
static zero_status_t name_texts(export_t *e, zero_error_t *error)
{
    const char *folder = e->to->folder;
    zero_status_t status = ZERO_OK;
    int fd;

    for (int k = 0; k < TEXTS && status == ZERO_OK; k++) {
        char *part = e->part[k] ? path_of(folder, texts[k], PART) : NULL, *path = path_of(folder, texts[k], "");

        if (path == NULL || (e->part[k] && part == NULL))
            status = no_memory(folder, error);
        else if (part && rename(part, path) != 0)
            status = zero_fail(error, ZERO_ERR_IO, "cannot name '%s': %s", path, strerror(errno));
        else
            e->part[k] = false;
        free(part);
        free(path);
    }
    /* The folder, and the one that lists it. Some file systems cannot, which loses nothing unless the machine fails. */
    for (int up = 0; up < 2 && status == ZERO_OK; up++) {
        char *path = path_of(folder, up ? ".." : ".", "");

        fd = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
        if (fd >= 0) {
            fsync(fd);
            close(fd);
        }
        free(path);
    }
    return status;
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

static zero_status_t open_writer(export_t *e, zero_error_t *error)
{
    static const char *const dtypes[ZERO_DTYPE_COUNT] = {"F32", "BF16", "F16"};
    const int count = e->end - e->begin;
    char(*names)[ZERO_EXPORT_NAME_BYTES] = calloc((size_t)count, sizeof *names);
    zero_tensor_info_t *infos = calloc((size_t)count, sizeof *infos);
    zero_status_t status = ZERO_OK;

    if (names == NULL || infos == NULL) {
        status = no_memory(e->to->folder, error);
        goto end;
    }
    for (int i = 0; i < count; i++) {
        infos[i] = (zero_tensor_info_t){.size = sizeof infos[i], .name = names[i]};
        strcpy(infos[i].dtype, dtypes[e->to->dtype]);
        if (e->adapters)
            zero_model_adapter_export_tensor(e->m, e->begin + i, names[i], &infos[i]);
        else
            zero_model_export_tensor(&e->m->config, i, names[i], &infos[i]);
    }
    status = zero_tensors_create(&e->writer, e->to->folder, e->adapters ? ADAPTERS : MODEL, infos, count,
                                 e->to->file_bytes > 0 ? e->to->file_bytes : FILE_BYTES, e->first, error);
end:
    free(names);
    free(infos);
    return status;
}

static int write_range(export_t *e, int64_t begin, int64_t count, const float *values)
{
    for (int64_t i = 0; e->to->dtype == ZERO_FP16 && i < count; i++)
        if (isfinite(values[i]) && fabsf(values[i]) >= 65520) { /* would round to infinity */
            zero_fail(&e->error, ZERO_ERR_ARG,
                      "element %" PRId64 " of parameter '%s' is %g, but fp16 ends at 65504: export bf16 or fp32",
                      begin + i, e->m->params[e->index].name, (double)values[i]);
            return -1;
        }
    return zero_tensors_write(e->writer, e->index - e->begin, begin, count, values, &e->error) == ZERO_OK ? 0 : -1;
}

static int write_values(void *ctx, zero_param_t param, int64_t begin, int64_t count, const float *values)
{
    export_t *e = ctx;
    float *merged = NULL;

    (void)param;
    if (e->merge.left == NULL)
        return write_range(e, begin, count, values);
    merged = malloc((size_t)count * sizeof *merged);
    if (merged == NULL) {
        no_memory(e->to->folder, &e->error);
        return -1;
    }
    memcpy(merged, values, (size_t)count * sizeof *merged);
    zero_model_merge_add(&e->merge, begin, count, merged);
    const int failed = write_range(e, begin, count, merged);

    free(merged);
    return failed;
}

/* Writes the ranges of a parameter that this rank owns. */
static zero_status_t write_tensor(export_t *e, zero_error_t *error)
{
    /* fp32 master weights: rounded to the run's dtype, they are its parameters */
    const zero_state_t state = zero_model_param_state(e->m, e->index);
    const zero_status_t status = zero_param_read(e->m->engine, e->m->params[e->index].id, state, write_values, e);

    if (e->error.status != ZERO_OK)
        return zero_pass(error, e->error.status, &e->error);
    return zero_model_engine_error(e->m, status, error);
}

static zero_status_t write_weights(export_t *e, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;

    e->error = (zero_error_t){.status = ZERO_OK};
    for (e->index = e->begin; e->index < e->end && status == ZERO_OK; e->index++) {
        if (e->to->merged)
            status = zero_model_merge_begin(e->m, e->index, e->comm, &e->merge, error);
        if (status == ZERO_OK)
            status = write_tensor(e, error);
        if (e->to->merged) { /* the ranks gather the next adapter together */
            zero_model_merge_end(&e->merge);
            status = zero_comm_agree(e->comm, status, NULL, error);
        }
    }
    return status;
}

/* ---- all ranks -------------------------------------------------------------------------------------------------- */

/* Begins on rank 0: the folder, the texts, the weights' files, and a file that shows the others that the folder is the
 * same one. */
static zero_status_t begin(export_t *e, zero_error_t *error)
{
    const char *folder = e->to->folder;
    zero_status_t status = zero_model_check_export(folder, e->to->source, e->adapters, error);

    if (status != ZERO_OK)
        return status;
    if (mkdir(folder, 0777) == 0)
        e->made = true;
    else if (errno != EEXIST)
        return zero_fail(error, ZERO_ERR_IO, "cannot create the folder '%s': %s", folder, strerror(errno));
    status = open_writer(e, error);
    if (status == ZERO_OK)
        status = write_texts(e, error);
    e->shown = status == ZERO_OK;
    return status == ZERO_OK ? write_text(folder, PROOF, e->proof, strlen(e->proof), error) : status;
}

/* Opens the files on another rank. */
static zero_status_t join(export_t *e, zero_error_t *error)
{
    char *path = path_of(e->to->folder, PROOF, PART), *text = NULL;
    size_t bytes;
    const bool shared = path && read_text(path, &text, &bytes, NULL) == ZERO_OK && strcmp(text, e->proof) == 0;

    free(text);
    if (path == NULL)
        return no_memory(e->to->folder, error);
    free(path);
    if (!shared)
        return zero_fail(error, ZERO_ERR_IO,
                         "the folder '%s' of rank %d is not that of rank 0: name a folder that all machines share",
                         e->to->folder, zero_comm_rank(e->comm));
    return open_writer(e, error);
}

static zero_status_t finish(export_t *e, zero_error_t *error)
{
    zero_tensors_writer_t *writer = e->writer;

    e->writer = NULL;
    return zero_tensors_finish(writer, error);
}

static zero_status_t finish_first(export_t *e, zero_error_t *error)
{
    zero_status_t status = finish(e, error);

    return status == ZERO_OK ? name_texts(e, error) : status;
}

/* Removes the proof, and what an export that failed has written beside the weights, on rank 0. */
static void remove_parts(const export_t *e)
{
    for (int k = 0; k <= TEXTS; k++) {
        char *path = path_of(e->to->folder, k < TEXTS ? texts[k] : PROOF, PART);

        if (path && (k == TEXTS ? e->shown : e->part[k]))
            unlink(path);
        free(path);
    }
    if (e->made)
        rmdir(e->to->folder); /* unless something is in it */
}

/* Chooses a text that no earlier export had, the same on every rank. Collective. */
static zero_status_t choose_proof(export_t *e, zero_error_t *error)
{
    const int world = zero_comm_size(e->comm);
    struct timespec now;
    uint64_t *all = calloc((size_t)world, sizeof *all);
    zero_status_t status;

    clock_gettime(CLOCK_REALTIME, &now);
    const uint64_t own =
        zero_splitmix64((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec) ^ (uint64_t)getpid();
    status = all ? ZERO_OK : no_memory(e->to->folder, error);
    status = zero_comm_agree(e->comm, status, NULL, error);
    if (status == ZERO_OK)
        status = zero_comm_exchange(e->comm, &own, all, sizeof own, error);
    if (status == ZERO_OK)
        snprintf(e->proof, sizeof e->proof, "%016" PRIx64 "\n", all[0]);
    free(all);
    return status;
}

zero_status_t zero_model_export(zero_model_t *m, zero_comm_t *comm, const zero_model_export_t *to, zero_error_t *error)
{
    const bool adapters = zero_model_is_frozen(m) && !to->merged;
    export_t e = {.m = m,
                  .comm = comm,
                  .to = to,
                  .first = zero_comm_rank(comm) == 0,
                  .adapters = adapters,
                  .begin = adapters ? m->base_count : 0,
                  .end = adapters ? m->param_count : m->base_count};
    zero_status_t status;

    if (!m->bound)
        return zero_fail(error, ZERO_ERR_ORDER, "call zero_model_bind after zero_commit, before the model is exported");
    if ((status = choose_proof(&e, error)) != ZERO_OK)
        return status;
    status = zero_comm_agree(comm, e.first ? begin(&e, error) : ZERO_OK, NULL, error);
    if (status == ZERO_OK)
        status = zero_comm_agree(comm, e.first ? ZERO_OK : join(&e, error), NULL, error);
    if (status == ZERO_OK)
        status = zero_comm_agree(comm, write_weights(&e, error), NULL, error);
    /* the creator comes last */
    if (status == ZERO_OK)
        status = zero_comm_agree(comm, e.first ? ZERO_OK : finish(&e, error), NULL, error);
    if (status == ZERO_OK)
        status = zero_comm_agree(comm, e.first ? finish_first(&e, error) : ZERO_OK, NULL, error);
    zero_tensors_discard(e.writer);
    if (e.first)
        remove_parts(&e);
    return status;
}
