/* SPDX-License-Identifier: Apache-2.0 */
/* nvme.c - the plan's buffers on the nvme tier: one file per rank. */
#include "zero/exec/internal.h"

#include <stdlib.h>
#include <sys/random.h>

_Static_assert(ZERO_FILE_ALIGN % ZERO_NVME_BLOCK == 0, "buffers on the nvme tier share no block of the file");

/* Agrees on a random number. The ranks of a run share a folder, and the number keeps other runs out. */
static zero_status_t agree_on_run(zero_exec_t *x, uint64_t *run, zero_error_t *error)
{
    uint64_t mine = 0, *all = malloc((size_t)x->world * sizeof *all);
    if (!all)
        return zero_exec_no_memory(x->comm, (size_t)x->world * sizeof *all, error);
    if (x->rank == 0 && getrandom(&mine, sizeof mine, 0) != sizeof mine)
        mine = zero_now_ns();
    zero_status_t status = zero_control_exchange(x->comm, &mine, all, sizeof mine, error);
    *run = all[0] | 1;
    free(all);
    return status;
}

zero_status_t zero_exec_open_nvme(zero_exec_t *x, zero_error_t *error)
{
    uint64_t bytes = x->plan->arena_bytes[ZERO_TIER_NVME];
    zero_nvme_options_t options;
    if (bytes == 0)
        return ZERO_OK;
    zero_nvme_options_init(&options);
    options.timeout_s = x->options.timeout_s;
    options.log = x->options.log;
    options.log_ctx = x->options.log_ctx;
    zero_status_t status = agree_on_run(x, &options.run, error), opened;
    zero_error_t local = {0};
    if (status != ZERO_OK)
        return status;
    opened = zero_nvme_open(&x->nvme, x->options.nvme_path, x->rank, bytes, &options, &local);
    status = zero_exec_agree(x->comm, opened, &local);
    /* A rank keeps its own status; others get that of a peer. */
    return status == ZERO_OK ? ZERO_OK : zero_pass(error, opened != ZERO_OK ? opened : status, &local);
}

zero_status_t zero_exec_register_nvme(zero_exec_t *x, zero_error_t *error)
{
    const zero_plan_t *plan = x->plan;
    uint64_t bytes = plan->kind_bytes[ZERO_TIER_HOST][ZERO_KIND_STAGING];
    if (!x->nvme || bytes == 0)
        return ZERO_OK;
    char *base = (char *)x->device->ops->arena_base(x->arenas[ZERO_TIER_HOST]) +
                 plan->kind_offset[ZERO_TIER_HOST][ZERO_KIND_STAGING];
    return zero_nvme_register(x->nvme, base, bytes, error);
}

/* Transfers bytes and waits for the end. */
static zero_status_t transfer(zero_exec_t *x, bool write, uint64_t offset, void *memory, uint64_t bytes,
                              zero_error_t *error)
{
    zero_nvme_ticket_t ticket;
    zero_status_t status = write ? zero_nvme_write(x->nvme, offset, memory, bytes, &ticket, error)
                                 : zero_nvme_read(x->nvme, offset, memory, bytes, &ticket, error);
    return status == ZERO_OK ? zero_nvme_wait(x->nvme, ticket, x->options.timeout_s, error) : status;
}

/* Whether the next operation of the program moves bytes in the same direction. */
static bool same_kind_follows(const zero_exec_t *x, const zero_op_t *op)
{
    const zero_program_t *program = &x->plan->programs[op->program];
    return op + 1 < program->ops + program->op_count && op[1].kind == op->kind;
}

/* The buffers of a part are in separate places of the file, and the drive gets their transfers all at once. No event
 * lies between them, so whatever waits for one waits for all; and they do not overlap. */
zero_status_t zero_exec_move(zero_exec_t *x, const zero_op_t *op, zero_error_t *error)
{
    bool write = op->kind == ZERO_OP_WRITE;
    int32_t file = write ? op->dst : op->src, memory = write ? op->src : op->dst;
    uint64_t at = x->plan->buffers[file].offset +
                  zero_plan_span(x->plan, x->rank, file, write ? op->dst_own : op->src_own, op->part).offset;
    char *bytes =
        x->base[memory] + zero_plan_span(x->plan, x->rank, memory, write ? op->src_own : op->dst_own, op->part).offset;
    zero_nvme_ticket_t *ticket = &x->transfers[x->transfer_count];
    zero_status_t status = write ? zero_nvme_write(x->nvme, at, bytes, op->bytes, ticket, error)
                                 : zero_nvme_read(x->nvme, at, bytes, op->bytes, ticket, error);
    if (status != ZERO_OK)
        return status;
    x->transfer_count++;
    if (x->transfer_count < ZERO_EXEC_TRANSFERS && same_kind_follows(x, op))
        return ZERO_OK;
    for (int i = 0; i < x->transfer_count && status == ZERO_OK; i++)
        status = zero_nvme_wait(x->nvme, x->transfers[i], x->options.timeout_s, error);
    x->transfer_count = 0;
    return status;
}

zero_status_t zero_exec_read_nvme(zero_exec_t *x, uint64_t offset, uint64_t bytes, char *scratch, char **begin,
                                  zero_error_t *error)
{
    uint64_t into = offset % ZERO_NVME_BLOCK;
    *begin = scratch + into;
    return transfer(x, false, offset - into, scratch, into + bytes, error);
}

/* Files take whole blocks: if a write begins or ends inside a block, the block is read first. The pieces are large
 * enough to keep the drive busy, and need little memory. */
enum { ACCESS_BYTES = 4 << 20 };
_Static_assert(ACCESS_BYTES % ZERO_NVME_BLOCK == 0, "pieces of whole blocks");

/* Transfers whole blocks, of which the file's last may be shorter. */
static zero_status_t move_blocks(zero_exec_t *x, bool write, uint64_t offset, char *blocks, uint64_t bytes,
                                 zero_error_t *error)
{
    uint64_t left = x->plan->arena_bytes[ZERO_TIER_NVME] - offset;
    return transfer(x, write, offset, blocks, bytes < left ? bytes : left, error);
}

static zero_status_t access_piece(zero_exec_t *x, bool write, uint64_t offset, char *host, uint64_t bytes, char *blocks,
                                  zero_error_t *error)
{
    const uint64_t block = ZERO_NVME_BLOCK;
    uint64_t begin = offset / block * block, end = (offset + bytes + block - 1) / block * block, last = end - block;
    zero_status_t status = ZERO_OK;
    if (!write) {
        status = move_blocks(x, false, begin, blocks, end - begin, error);
        if (status == ZERO_OK)
            memcpy(host, blocks + (offset - begin), bytes);
        return status;
    }
    if (offset > begin || (last == begin && offset + bytes < end))
        status = move_blocks(x, false, begin, blocks, block, error);
    if (status == ZERO_OK && last > begin && offset + bytes < end)
        status = move_blocks(x, false, last, blocks + (last - begin), block, error);
    if (status == ZERO_OK) {
        memcpy(blocks + (offset - begin), host, bytes);
        status = move_blocks(x, true, begin, blocks, end - begin, error);
    }
    return status;
}

zero_status_t zero_exec_access_nvme(zero_exec_t *x, bool write, uint64_t offset, void *host, uint64_t bytes,
                                    zero_error_t *error)
{
    uint64_t room = bytes + 2 * ZERO_NVME_BLOCK < ACCESS_BYTES
                        ? (bytes + 2 * ZERO_NVME_BLOCK) / ZERO_NVME_BLOCK * ZERO_NVME_BLOCK
                        : ACCESS_BYTES;
    zero_status_t status = ZERO_OK;
    char *blocks = bytes > 0 ? aligned_alloc(ZERO_NVME_ALIGN, room) : NULL;
    if (bytes > 0 && !blocks)
        return zero_fail(error, ZERO_ERR_MEMORY, "no memory for %llu bytes of the nvme tier", (unsigned long long)room);
    for (uint64_t at = 0, piece; at < bytes && status == ZERO_OK; at += piece) {
        /* The first piece ends at a block boundary, so that the others are whole blocks. */
        piece = room - (offset + at) % ZERO_NVME_BLOCK;
        if (piece > bytes - at)
            piece = bytes - at;
        status = access_piece(x, write, offset + at, (char *)host + at, piece, blocks, error);
    }
    free(blocks);
    return status;
}
