/* SPDX-License-Identifier: Apache-2.0 */
/* check_codes.c - what the operations need to find, and what they write, that reduce gradients as codes: ALL_TO_ALL
 * brings each rank the shares that are its own, and SUM adds them. */
#include "zero/plan/check.h"

zero_status_t zero_check_all_to_all(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    uint8_t axes = plan->spec->groups[op->group].axes;
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, -1),
                   dst = zero_check_operand(c, op->dst, op->dst_own, -1);
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_read_gradient(c, &src, &content)) != ZERO_OK)
        return status;
    if (content.reduced & axes)
        return zero_check_fail(c, "it exchanges gradients that are reduced already");
    if (op->src == op->dst || !zero_format_same(&plan->buffers[op->src].format, &plan->buffers[op->dst].format))
        return zero_check_fail(c, "it exchanges in place, or with a buffer of another format");
    content.kind = ZERO_HOLDS_SHARES;
    content.state = axes;
    content.base = dst.base;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, content);
    return ZERO_OK;
}

zero_status_t zero_check_sum(zero_checker_t *c, const zero_op_t *op)
{
    const zero_plan_t *plan = c->plan;
    uint8_t axes = plan->spec->groups[op->group].axes;
    const zero_format_t *from = &plan->buffers[op->src].format, *to = &plan->buffers[op->dst].format;
    zero_operand_t src = zero_check_operand(c, op->src, op->src_own, -1),
                   dst = zero_check_operand(c, op->dst, op->dst_own, -1);
    zero_content_t content;
    zero_status_t status;

    if ((status = zero_check_ordered(c, op->stream, &src, &dst)) != ZERO_OK ||
        (status = zero_check_content(c, &src, &content)) != ZERO_OK)
        return status;
    if (content.kind != ZERO_HOLDS_SHARES || content.version != c->step || content.state != axes)
        return zero_check_fail(c, "it sums %s, which does not hold what the ranks of its group have for this one",
                               zero_check_buffer_name(c, op->src).s);
    if (op->src == op->dst || from->codec == ZERO_CODEC_NONE || zero_format_is_coded(to) || to->dtype != ZERO_FP32 ||
        zero_check_segment(c, op)->wire != ZERO_FP32)
        return zero_check_fail(c, "it sums in place, or other than codes in fp32");
    content.kind = ZERO_HOLDS_GRADIENT;
    content.state = 0;
    content.dtype = (uint8_t)to->dtype;
    content.reduced |= axes;
    content.base = dst.base;
    zero_check_did_read(c, op->stream, &src);
    zero_check_did_write(c, op->stream, &dst, content);
    return ZERO_OK;
}
