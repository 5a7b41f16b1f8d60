/* SPDX-License-Identifier: Apache-2.0 */
#include "zero/checkpoint/layout.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* Limit for a file and for a tensor: larger than any drive, and its number of bits fits in 64 bits. */
#define MOST_BYTES (UINT64_C(1) << 60)

static zero_status_t no_memory(const char *base, zero_error_t *error)
{
    return zero_fail(error, ZERO_ERR_MEMORY, "no memory for the layout of the files '%s'", base);
}

/* ---- tensors -------------------------------------------------------------------------------------------------------
 */

/* Checks one tensor without the others, and fills its entry except file and offset. */
static zero_status_t take_tensor(zero_tensor_entry_t *entry, const zero_tensor_info_t *given, zero_error_t *error)
{
    zero_quoted_t name, found;
    if (!given->name || strcmp(given->name, "__metadata__") == 0)
        return zero_fail(error, ZERO_ERR_ARG, "a tensor %s cannot be stored: give it a name of its own",
                         given->name ? "named '__metadata__'" : "without a name");
    zero_quote(&name, given->name);
    uint32_t bits = zero_tensor_bits(given->dtype);
    if (bits == 0 || bits % 8 != 0)
        return zero_fail(error, ZERO_ERR_ARG,
                         "tensor '%s' has the dtype '%s', which cannot be stored: F32, BF16, F16 and U8 can", name.text,
                         zero_quote(&found, given->dtype));
    if (given->ndim < 0 || given->ndim > ZERO_MAX_DIMS)
        return zero_fail(error, ZERO_ERR_ARG, "tensor '%s' has %d dimensions: 0 to %d can be stored", name.text,
                         (int)given->ndim, ZERO_MAX_DIMS);
    entry->info.ndim = given->ndim;
    entry->info.count = 1;
    for (int d = 0; d < given->ndim; d++) {
        entry->info.shape[d] = given->shape[d];
        if (given->shape[d] < 0)
            return zero_fail(error, ZERO_ERR_ARG, "dimension %d of tensor '%s' is %lld: it must be at least 0", d,
                             name.text, (long long)given->shape[d]);
        if (!zero_mul_i64(entry->info.count, given->shape[d], &entry->info.count))
            return zero_fail(error, ZERO_ERR_ARG, "the shape of tensor '%s' has more than 2^63 elements", name.text);
    }
    if (!zero_mul_u64((uint64_t)entry->info.count, bits / 8, &entry->bytes) || entry->bytes > MOST_BYTES)
        return zero_fail(error, ZERO_ERR_ARG, "tensor '%s' has more than 2^60 bytes", name.text);
    strcpy(entry->info.dtype, given->dtype);
    entry->info.size = sizeof entry->info;
    entry->info.name = strdup(given->name);
    return entry->info.name ? ZERO_OK : no_memory(name.text, error);
}

static int by_name(const void *a, const void *b)
{
    const zero_tensor_entry_t *const *x = a, *const *y = b;
    return strcmp((*x)->info.name, (*y)->info.name);
}

/* By file, then larger elements first, then in the caller's order. */
static int by_place(const void *a, const void *b)
{
    const zero_tensor_entry_t *x = *(const zero_tensor_entry_t *const *)a, *y = *(const zero_tensor_entry_t *const *)b;
    if (x->file != y->file)
        return x->file < y->file ? -1 : 1;
    uint32_t x_bits = zero_tensor_bits(x->info.dtype), y_bits = zero_tensor_bits(y->info.dtype);
    if (x_bits != y_bits)
        return x_bits > y_bits ? -1 : 1;
    return x < y ? -1 : x > y;
}

static zero_status_t check_unique(const zero_layout_t *layout, zero_tensor_entry_t **sorted, zero_error_t *error)
{
    zero_quoted_t name;
    qsort(sorted, (size_t)layout->count, sizeof *sorted, by_name);
    for (int k = 1; k < layout->count; k++)
        if (strcmp(sorted[k - 1]->info.name, sorted[k]->info.name) == 0)
            return zero_fail(error, ZERO_ERR_ARG, "two tensors have the name '%s'",
                             zero_quote(&name, sorted[k]->info.name));
    return ZERO_OK;
}

/* Sets each tensor's file. */
static zero_status_t divide(zero_layout_t *layout, const char *base, uint64_t file_bytes, zero_error_t *error)
{
    uint64_t in_file = 0;
    int file = 0;
    for (int k = 0; k < layout->count; k++) {
        zero_tensor_entry_t *entry = &layout->tensors[k];
        uint64_t sum;
        if (!zero_add_u64(in_file, entry->bytes, &sum) || (in_file > 0 && file_bytes > 0 && sum > file_bytes)) {
            file++;
            sum = entry->bytes;
        }
        if (sum > MOST_BYTES)
            return zero_fail(error, ZERO_ERR_ARG, "the tensors of a file of '%s' have more than 2^60 bytes", base);
        in_file = sum;
        entry->file = file;
    }
    layout->file_count = layout->count > 0 ? file + 1 : 0;
    return ZERO_OK;
}

/* ---- files ---------------------------------------------------------------------------------------------------------
 */

/* {"dtype":...,"shape":[...],"data_offsets":[...]} or NULL. */
static json_t *describe(const zero_tensor_entry_t *entry)
{
    json_t *shape = json_array();
    bool failed = !shape;
    for (int d = 0; d < entry->info.ndim; d++)
        failed |= json_array_append_new(shape, json_integer(entry->info.shape[d])) != 0;
    if (failed) {
        json_decref(shape);
        return NULL;
    }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", entry->info.dtype, "shape", shape, "data_offsets",
                     (json_int_t)entry->offset, (json_int_t)(entry->offset + entry->bytes));
}

/* Makes the file's header from its JSON text, and frees the text. */
static zero_status_t pad_header(zero_layout_file_t *file, char *text, const char *base, zero_error_t *error)
{
    uint64_t length = text ? strlen(text) : 0;
    zero_status_t status = ZERO_OK;
    if (!text || !zero_round_up(8 + length, ZERO_LAYOUT_ALIGN, &file->header_bytes) ||
        !(file->header = malloc((size_t)file->header_bytes))) {
        status = no_memory(base, error);
        goto end;
    }
    if (file->header_bytes - 8 > ZERO_HEADER_MOST) {
        status =
            zero_fail(error, ZERO_ERR_ARG,
                      "the header of a file of '%s' would have %llu bytes, but at most %u can be read: use smaller "
                      "files",
                      base, (unsigned long long)(file->header_bytes - 8), ZERO_HEADER_MOST);
        goto end;
    }
    for (int k = 0; k < 8; k++)
        file->header[k] = (char)((file->header_bytes - 8) >> (8 * k));
    memcpy(file->header + 8, text, (size_t)length);
    memset(file->header + 8 + length, ' ', (size_t)(file->header_bytes - 8 - length));

end:
    free(text);
    return status;
}

/* Sets header, offsets and size of a file with the first count tensors of order. */
static zero_status_t make_file(zero_layout_file_t *file, const char *base, zero_tensor_entry_t **order, int count,
                               zero_error_t *error)
{
    zero_quoted_t name;
    uint64_t end = 0;
    json_t *root = json_pack("{s:{s:s, s:s}}", "__metadata__", "format", "pt", "producer", "libzero");
    zero_status_t status = ZERO_OK;
    for (int k = 0; k < count; k++) {
        order[k]->offset = end;
        end += order[k]->bytes;
        json_t *value = root ? describe(order[k]) : NULL;
        if (!value || json_object_set_new(root, order[k]->info.name, value) != 0) {
            /* usually because of the name: jansson refuses text that is not UTF-8 */
            status = zero_fail(error, ZERO_ERR_ARG, "the tensor name '%s' is not UTF-8, or there is no memory for it",
                               zero_quote(&name, order[k]->info.name));
            goto end;
        }
    }
    status = pad_header(file, root ? json_dumps(root, JSON_COMPACT) : NULL, base, error);
    if (status == ZERO_OK && (!zero_add_u64(file->header_bytes, end, &file->bytes) || file->bytes > MOST_BYTES))
        status = zero_fail(error, ZERO_ERR_ARG, "a file of '%s' has more than 2^60 bytes", base);
    for (int k = 0; k < count && status == ZERO_OK; k++)
        order[k]->offset += file->header_bytes;

end:
    json_decref(root);
    return status;
}

static char *name_file(const char *base, int number, int count)
{
    size_t room = strlen(base) + 64;
    char *name = malloc(room);
    if (name && count == 1)
        snprintf(name, room, "%s.safetensors", base);
    else if (name)
        snprintf(name, room, "%s-%05d-of-%05d.safetensors", base, number + 1, count);
    return name;
}

zero_status_t zero_layout_make(zero_layout_t *layout, const char *base, const zero_tensor_info_t *tensors, int count,
                               uint64_t file_bytes, zero_error_t *error)
{
    zero_tensor_entry_t **order = calloc((size_t)count + 1, sizeof *order);
    zero_status_t status;
    *layout = (zero_layout_t){.tensors = calloc((size_t)count + 1, sizeof *layout->tensors)};
    if (!order || !layout->tensors) {
        status = no_memory(base, error);
        goto fail;
    }
    for (int k = 0; k < count; k++) {
        order[layout->count] = &layout->tensors[layout->count];
        if ((status = take_tensor(&layout->tensors[layout->count++], &tensors[k], error)) != ZERO_OK)
            goto fail;
    }
    if ((status = check_unique(layout, order, error)) != ZERO_OK ||
        (status = divide(layout, base, file_bytes, error)) != ZERO_OK)
        goto fail;
    layout->files = calloc((size_t)layout->file_count + 1, sizeof *layout->files);
    if (!layout->files) {
        status = no_memory(base, error);
        goto fail;
    }
    qsort(order, (size_t)layout->count, sizeof *order, by_place);
    for (int first = 0, next; first < layout->count; first = next) {
        int number = order[first]->file;
        for (next = first + 1; next < layout->count && order[next]->file == number; next++)
            ;
        layout->files[number].name = name_file(base, number, layout->file_count);
        if (!layout->files[number].name) {
            status = no_memory(base, error);
            goto fail;
        }
        if ((status = make_file(&layout->files[number], base, &order[first], next - first, error)) != ZERO_OK)
            goto fail;
    }
    free(order);
    return ZERO_OK;

fail:
    free(order);
    zero_layout_clear(layout);
    return status;
}

zero_status_t zero_layout_index(const zero_layout_t *layout, char **text, zero_error_t *error)
{
    uint64_t total = 0;
    json_t *map = json_object(), *root = NULL;
    bool failed = !map;
    for (int k = 0; k < layout->count; k++) {
        const zero_tensor_entry_t *entry = &layout->tensors[k];
        failed |= !zero_add_u64(total, entry->bytes, &total) ||
                  json_object_set_new(map, entry->info.name, json_string(layout->files[entry->file].name)) != 0;
    }
    *text = NULL;
    if (!failed && total <= MOST_BYTES)
        root = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total, "weight_map", map);
    char *dumped = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    size_t length = dumped ? strlen(dumped) : 0;
    if (dumped && (*text = malloc(length + 2))) {
        memcpy(*text, dumped, length);
        memcpy(*text + length, "\n", 2);
    }
    free(dumped);
    json_decref(root);
    json_decref(map);
    return *text ? ZERO_OK : zero_fail(error, ZERO_ERR_MEMORY, "no memory for an index of %d tensors", layout->count);
}

void zero_layout_clear(zero_layout_t *layout)
{
    if (!layout)
        return;
    for (int k = 0; k < layout->count; k++)
        free((char *)layout->tensors[k].info.name);
    for (int f = 0; f < layout->file_count && layout->files; f++) {
        free(layout->files[f].name);
        free(layout->files[f].header);
    }
    free(layout->tensors);
    free(layout->files);
    *layout = (zero_layout_t){0};
}
