# SPDX-License-Identifier: Apache-2.0
"""Hooks that turn a model's forward and backward passes into visits of its sites.

A visit begins before a site's forward call, and ends after it. In the backward pass it begins when the gradient of an
output is known, before autograd runs the nodes of that call. It ends when the gradients of the call's inputs are known,
or, if none of them needs one, when the gradients of its parameters have reached memory. Autograd runs ready nodes with
the highest sequence number first, and those that add to a parameter's gradient before all others, so both come after
all nodes of the call.
"""

import torch
from torch.utils import _pytree as pytree

from libzero._library import Error


class Call:
    """One forward call of a site, until its backward visit ends."""

    def __init__(self, site):
        self.site = site
        self.has_input = False  # an input needs a gradient
        self.held = self.done = False


class _Inputs(torch.autograd.Function):
    """Returns the inputs of a call. Its backward pass runs after all nodes of the call."""

    @staticmethod
    def forward(ctx, hooks, call, *tensors):
        ctx.hooks, ctx.call = hooks, call
        ctx.set_materialize_grads(False)
        return tensors

    @staticmethod
    def backward(ctx, *gradients):
        ctx.hooks.leave(ctx.call)
        return None, None, *gradients


class Hooks:
    def __init__(self, model, sites):
        self.driver = None  # a Recorder or the Runner
        self.calls = []     # of the open training pass, whose backward visits have not ended
        self.accumulated = set()
        self.training = self.backward = False
        self.depth = 0
        self.removers = []
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.watch(self.trainable)
        for site in sites:
            # One stack for each site: calls of one site may contain each other only by recomputation.
            stack = []
            self.removers += [
                site.module.register_forward_pre_hook(self.before(site, stack), prepend=True, with_kwargs=True),
                site.module.register_forward_hook(self.after(site, stack), always_call=True)]
        # The model may be a site itself: its pass begins first and ends last.
        self.removers += [
            model.register_forward_pre_hook(self.root_begins, prepend=True),
            model.register_forward_hook(self.root_ends, always_call=True)]

    def watch(self, params):
        self.removers += [p.register_post_accumulate_grad_hook(self.accumulates) for p in params]

    def replace(self, replaced):
        """Watches the parameters that took the place of others. replaced: id of the old one -> the new one."""
        self.watch([replaced[id(p)] for p in self.trainable if id(p) in replaced])
        self.trainable = [replaced.get(id(p), p) for p in self.trainable]

    def remove(self):
        for remover in self.removers:
            remover.remove()

    # ---- the whole model -----------------------------------------------------------------------------------------

    def root_begins(self, _, __):
        self.depth += 1
        if self.depth > 1 or self.backward:
            return
        self.training = torch.is_grad_enabled() and bool(self.trainable)
        try:
            self.driver.begin(self.training)
        except BaseException:
            self.depth = 0
            raise

    def root_ends(self, _, __, ___):
        self.depth = max(self.depth - 1, 0)
        if self.depth == 0 and not self.backward and not self.training:
            self.driver.end()

    # ---- forward calls of a site ---------------------------------------------------------------------------------

    def before(self, site, stack):
        def hook(_, args, kwargs):
            if self.backward:  # recomputation
                pending = [c for c in self.calls if c.site is site and not c.done]
                if not pending:
                    raise Error(f"module '{site.name}' runs in the backward pass, but did not in the forward pass")
                call = next((c for c in pending if c.held), pending[-1])
                self.enter(call)
                stack.append(call)
                if not torch.is_grad_enabled():
                    return None
            else:
                call = Call(site)
                self.driver.acquire(site, False)
                stack.append(call)
                if self.training:  # also without gradients now: a checkpoint may recompute the call with them
                    self.calls.append(call)
                if not self.training or not torch.is_grad_enabled():
                    return None
            leaves, spec = pytree.tree_flatten((args, kwargs))
            places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
            if not places:
                return None
            call.has_input = True
            for i, tensor in zip(places, _Inputs.apply(self, call, *(leaves[i] for i in places))):
                leaves[i] = tensor
            return pytree.tree_unflatten(leaves, spec)
        return hook

    def after(self, site, stack):
        def hook(_, __, output):
            if not stack:  # the call was refused before it began
                return
            call = stack.pop()
            if not self.backward:
                self.driver.release(site, False)
                if not self.training:
                    return
            if not torch.is_grad_enabled():
                return
            for tensor in pytree.tree_leaves(output):
                if isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                    tensor.register_hook(lambda _, call=call: self.enter(call))
        return hook

    # ---- the backward pass ---------------------------------------------------------------------------------------

    def enter(self, call):
        if not self.backward:
            if not self.training:
                raise Error(f"the backward pass reaches module '{call.site.name}', but the step's backward pass has "
                            "ended: run the forward pass again before each backward pass", "bad call order")
            self.backward = True
            torch.autograd.Variable._execution_engine.queue_callback(self.ends)
        if not call.held and not call.done:
            self.driver.acquire(call.site, True)
            call.held = True

    def leave(self, call):
        if call.held:
            call.held, call.done = False, True
            self.driver.release(call.site, True)

    def accumulates(self, param):
        self.driver.accumulated(param)
        self.accumulated.add(id(param))
        for call in self.calls:
            if call.held and not call.has_input and all(
                    id(p) in self.accumulated for unit in call.site.units for p in unit.params.values()
                    if p.requires_grad):
                self.leave(call)

    def ends(self):
        for call in self.calls:
            self.leave(call)
        self.calls.clear()
        self.accumulated.clear()
        self.backward = self.training = False
        self.driver.end()
