# SPDX-License-Identifier: Apache-2.0
"""The order in which a step uses the sites: that of registration, or that of a recorded step."""

import dataclasses

import torch
from torch.utils import _pytree as pytree

from libzero._library import lib


@dataclasses.dataclass
class Visit:
    site: object  # Site
    backward: bool
    holds: bool = False  # the next visit begins before this one has ended


def registered(sites):
    """Modules run in the order in which they were registered, and backward in the reverse order."""
    return [Visit(site, False) for site in sites] + [Visit(site, True) for site in reversed(sites)]


class Recorder:
    """Takes the place of the engine while one step runs, and notes its visits."""

    def __init__(self):
        self.visits, self.open = [], []

    def begin(self, training):
        pass

    def end(self):
        pass

    def accumulated(self, param):
        pass

    def acquire(self, site, backward):
        for visit in self.open:
            visit.holds = True
        visit = Visit(site, backward)
        self.visits.append(visit)
        self.open.append(visit)

    def release(self, site, backward):
        self.open.remove(next(v for v in self.open if v.site is site and v.backward == backward))


def uses(visits, training):
    """Returns the uses of a pass as (visit, unit, flags). Gradients reach memory once all uses of a parameter have
    contributed, which is in the last visit of its unit."""
    last = {unit.name: visit for visit in visits if visit.backward for unit in visit.site.units}
    result = []
    for visit in visits:
        if visit.backward and not training:
            continue
        found = []
        for unit in visit.site.units:
            flags = lib.ZERO_READ if not visit.backward or visit.site.reads_in_backward() else 0
            if visit.backward and last[unit.name] is visit and unit.trainable():
                flags |= lib.ZERO_GRAD
            if flags:
                found.append([visit, unit, flags])
        for use in found[:-1]:
            use[2] |= lib.ZERO_HOLD
        if found and visit.holds:
            found[-1][2] |= lib.ZERO_HOLD
        result += found
    return result


def record(model, hooks, example, loss):
    """Runs one forward and backward pass with the values that the model has, and returns its visits."""
    recorder = hooks.driver = Recorder()
    device = next(model.parameters()).device

    def moved(value):
        return pytree.tree_map(lambda x: x.to(device) if isinstance(x, torch.Tensor) else x, value)

    args, kwargs = ((), dict(example)) if hasattr(example, "keys") else (
        example if isinstance(example, (tuple, list)) else (example,), {})
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=[]):
            output = model(*moved(args), **moved(kwargs))
            value = loss(output) if loss else loss_of(output)
            if hooks.training:
                value.backward()
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for param in model.parameters():
            param.grad = None
    return recorder.visits


def loss_of(output):
    found = getattr(output, "loss", None)
    if found is None and isinstance(output, dict):
        found = output.get("loss")
    if found is None:
        found = sum(leaf.float().sum() for leaf in pytree.tree_leaves(output)
                    if isinstance(leaf, torch.Tensor) and leaf.requires_grad)
    return found
