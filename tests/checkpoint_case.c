/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/checkpoint_case.h"

#include <stdio.h>
#include <stdlib.h>

enum { SMALL_ROWS = 256 }; /* in place of 1100: ranks still write pages */
static const struct {
    const char *name;
    int32_t ndim;
    int64_t shape[3];
} shapes[CASE_TENSORS] = {
    {"embedding", 2, {1100, 257}}, {"layer.0.weight", 2, {33, 65}}, {"empty", 1, {0}}, {"scalar", 0, {0}},
    {"layer.0.bias", 1, {7}},
};

void case_make(checkpoint_case_t *c, uint64_t file_bytes, bool small)
{
    static const struct {
        const char *base, *dtype;
        zero_state_t state;
    } kinds[CASE_LAYOUTS] = {{"parameters", "BF16", ZERO_STATE_PARAM},
                             {"master", "F32", ZERO_STATE_MASTER},
                             {"moment1", "F32", ZERO_STATE_MOMENT1}};
    zero_error_t error = {0};
    for (int k = 0; k < CASE_LAYOUTS; k++) {
        zero_tensor_info_t tensors[CASE_TENSORS];
        memset(tensors, 0, sizeof tensors);
        for (int t = 0; t < CASE_TENSORS; t++) {
            tensors[t].name = shapes[t].name;
            strcpy(tensors[t].dtype, kinds[k].dtype);
            tensors[t].ndim = shapes[t].ndim;
            memcpy(tensors[t].shape, shapes[t].shape, sizeof shapes[t].shape);
        }
        if (small)
            tensors[0].shape[0] = SMALL_ROWS;
        c->states[k] = kinds[k].state;
        if (zero_layout_make(&c->layouts[k], kinds[k].base, tensors, CASE_TENSORS, file_bytes, &error) != ZERO_OK) {
            fprintf(stderr, "%s\n", error.text);
            abort();
        }
    }
}

void case_clear(checkpoint_case_t *c)
{
    for (int k = 0; k < CASE_LAYOUTS; k++)
        zero_layout_clear(&c->layouts[k]);
}

unsigned char case_byte(int layout, int tensor, int64_t step, uint64_t at)
{
    return (unsigned char)(zero_splitmix64(at / 8 + ((uint64_t)step << 40) + (uint64_t)(layout * 16 + tensor)) >>
                           at % 8 * 8);
}

zero_status_t case_write(zero_writer_t *writer, const checkpoint_case_t *c, int rank, int world, int64_t step,
                         zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int t = 0; t < CASE_TENSORS && status == ZERO_OK; t++) {
            uint64_t bytes = c->layouts[k].tensors[t].bytes, begin = bytes * (uint64_t)rank / (uint64_t)world,
                     end = bytes * ((uint64_t)rank + 1) / (uint64_t)world;
            unsigned char *memory = malloc((size_t)(end - begin) + 1);
            if (!memory)
                return zero_fail(error, ZERO_ERR_MEMORY, "no memory");
            for (uint64_t at = begin; at < end; at++)
                memory[at - begin] = case_byte(k, t, step, at);
            status = zero_writer_write(writer, k, t, begin, end - begin, memory, error);
            free(memory);
        }
    return status;
}

/* Bytes [begin, end) of the part of a rank, which is runs of run bytes. */
static zero_status_t write_runs(zero_writer_t *writer, int k, int t, uint64_t begin, uint64_t end, uint64_t run,
                                int rank, int64_t step, zero_error_t *error)
{
    zero_status_t status = ZERO_OK;
    unsigned char *memory = malloc((size_t)(end - begin) + 1);
    if (!memory)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory");
    for (uint64_t at = begin; at < end; at++)
        memory[at - begin] = case_byte(k, t, step, (at / run * CASE_PARTS + (uint64_t)rank) * run + at % run);
    for (uint64_t at = begin, n; at < end && status == ZERO_OK; at += n) {
        const uint64_t offset = (at / run * CASE_PARTS + (uint64_t)rank) * run + at % run,
                       count = at % run == 0 && end - at >= run ? (end - at) / run : 1,
                       bytes = run - at % run < end - at ? run - at % run : end - at;
        n = count * bytes;
        status =
            zero_writer_write_runs(writer, k, t, offset, bytes, count, CASE_PARTS * run, memory + (at - begin), error);
    }
    free(memory);
    return status;
}

zero_status_t case_write_part(zero_writer_t *writer, const checkpoint_case_t *c, int rank, int64_t step,
                              zero_error_t *error)
{
    static const int64_t runs[CASE_TENSORS] = {55, 13}; /* elements; 0: not divided */
    zero_status_t status = ZERO_OK;
    for (int k = 0; k < CASE_LAYOUTS; k++)
        for (int t = 0; t < CASE_TENSORS && status == ZERO_OK; t++) {
            const zero_tensor_entry_t *entry = &c->layouts[k].tensors[t];
            const uint64_t size = zero_tensor_bits(entry->info.dtype) / 8, run = (uint64_t)runs[t] * size,
                           part = entry->bytes / CASE_PARTS;
            unsigned char whole[64];
            if (run > 0) {
                status = write_runs(writer, k, t, 0, part / run / 3 * run + 3, run, rank, step, error);
                if (status == ZERO_OK)
                    status = write_runs(writer, k, t, part / run / 3 * run + 3, part, run, rank, step, error);
            } else if (rank == 0) {
                for (uint64_t at = 0; at < entry->bytes; at++)
                    whole[at] = case_byte(k, t, step, at);
                status = zero_writer_write(writer, k, t, 0, entry->bytes, whole, error);
            }
        }
    return status;
}

zero_status_t case_manifest(zero_manifest_t *manifest, const checkpoint_case_t *c, int64_t step,
                            const zero_piece_t *pieces, uint64_t count, zero_error_t *error)
{
    zero_status_t status =
        zero_manifest_begin(manifest, step, step, "adamw", "{\"program\": \"test\"}", &step, sizeof step, error);
    for (int t = 0; t < CASE_TENSORS && status == ZERO_OK; t++) {
        zero_manifest_param_t param = {
            .name = (char *)shapes[t].name, .dtype = ZERO_BF16, .trainable = true, .ndim = shapes[t].ndim};
        memcpy(param.shape, c->layouts[0].tensors[t].info.shape, sizeof param.shape);
        status = zero_manifest_add(manifest, &param, error);
    }
    return status == ZERO_OK ? zero_manifest_files(manifest, c->layouts, c->states, CASE_LAYOUTS, pieces, count, error)
                             : status;
}

static zero_status_t save(const checkpoint_case_t *c, const char *folder, int64_t step, bool parts, zero_error_t *error)
{
    zero_writer_t *writer;
    zero_manifest_t manifest = {0};
    uint64_t count;
    zero_status_t status = zero_writer_make(&writer, folder, c->layouts, CASE_LAYOUTS, error);
    if (status == ZERO_OK)
        status = zero_writer_create(writer, error);
    if (status == ZERO_OK && !parts)
        status = case_write(writer, c, 0, 1, step, error);
    for (int rank = 0; parts && rank < CASE_PARTS && status == ZERO_OK; rank++)
        status = case_write_part(writer, c, rank, step, error);
    if (status == ZERO_OK && (status = zero_writer_sync(writer, error)) == ZERO_OK) {
        const zero_piece_t *pieces = zero_writer_pieces(writer, &count);
        if ((status = case_manifest(&manifest, c, step, pieces, count, error)) == ZERO_OK)
            status = zero_manifest_write(&manifest, folder, error);
        zero_manifest_clear(&manifest);
    }
    zero_writer_destroy(writer);
    return status;
}

zero_status_t case_save(const checkpoint_case_t *c, const char *folder, int64_t step, zero_error_t *error)
{
    return save(c, folder, step, false, error);
}

zero_status_t case_save_parts(const checkpoint_case_t *c, const char *folder, int64_t step, zero_error_t *error)
{
    return save(c, folder, step, true, error);
}
