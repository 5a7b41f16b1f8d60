# SPDX-License-Identifier: Apache-2.0
"""The optimizer that shard() returns: torch's interface, so that schedulers of the learning rate work; the engine does
the update."""

import torch

from libzero._engine import RULES, finite
from libzero._library import Error


def _refuse(group, names, what):
    for name in names:
        if group.get(name):
            raise Error(f"{what} has {name}={group[name]}, which libzero does not compute: leave it out")


def rule_of(optimizer):
    """Returns the settings of zero_config_t for a torch optimizer."""
    what = type(optimizer).__name__
    kinds = {torch.optim.AdamW: "adamw", torch.optim.Adam: "adam", torch.optim.SGD: "sgd"}
    kind = kinds.get(type(optimizer))
    if kind is None:
        raise Error(f"optimizer is a {what}, but must be a torch.optim.AdamW, Adam or SGD")
    first = optimizer.param_groups[0]
    settings = {"rule": RULES[kind]}
    for group in optimizer.param_groups:
        _refuse(group, ("amsgrad", "maximize", "nesterov", "dampening", "differentiable"), what)
        for name in ("betas", "eps", "momentum"):
            if group.get(name) != first.get(name):
                raise Error(f"{what} has groups with {name}={first.get(name)} and {group.get(name)}, but all groups "
                            "must have the same")
    rates = [finite("lr", float(group["lr"])) for group in optimizer.param_groups]
    if len(set(rates)) > 1 and not all(rates):
        raise Error(f"{what} has a group with the learning rate 0, and others with more: the engine scales one rate "
                    "for all groups. Let a scheduler start after shard()")
    if kind == "adam" and first.get("decoupled_weight_decay"):
        settings["rule"] = RULES["adamw"]
    if kind == "sgd":
        settings["beta1"] = finite("momentum", first["momentum"])
    else:
        settings["beta1"], settings["beta2"] = (finite("betas", b) for b in first["betas"])
        settings["eps"] = finite("eps", first["eps"])
    settings["weight_decay"] = max(finite("weight_decay", g["weight_decay"]) for g in optimizer.param_groups)
    return settings


class Optimizer(torch.optim.Optimizer):
    """Updates a sharded model. Its param_groups have the torch optimizer's members; a change of lr counts from the next
    step on, if it changes all groups in proportion. The others are those of shard() for good."""

    def __init__(self, sharded, groups, defaults):
        self._sharded = sharded
        super().__init__(groups, defaults)
        self._first = [float(group["lr"]) for group in self.param_groups]
        self._fixed = [self._others(group) for group in self.param_groups]

    @staticmethod
    def _others(group):
        return {name: tuple(value) if isinstance(value, list) else value for name, value in group.items()
                if name not in ("params", "lr", "initial_lr")}

    def _scale(self, i):
        return self._first[i] / self._first[0] if self._first[0] else 1.0

    def _rate(self):
        rate = finite("lr", float(self.param_groups[0]["lr"]))
        for i, group in enumerate(self.param_groups):
            if abs(float(group["lr"]) - rate * self._scale(i)) > 1e-6 * abs(rate * self._scale(i)):
                raise Error(f"group {i} has the learning rate {group['lr']}, but with {rate} for group 0 it must be "
                            f"{rate * self._scale(i)}: groups keep the proportion they had in shard()")
            if self._others(group) != self._fixed[i]:
                name = next(n for n in self._others(group) if self._others(group)[n] != self._fixed[i].get(n))
                raise Error(f"group {i} has {name}={group[name]}, but had {self._fixed[i].get(name)} in shard(): only "
                            "lr can change")
        return rate

    def step(self, closure=None):
        """Updates the parameters. Collective."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._sharded.step(self._rate())
        return loss

    def zero_grad(self, set_to_none=True):
        """Does nothing: the engine sets gradients to zero at the first micro-step of a step."""

    @property
    def grad_norm(self):
        """The norm of the last step's gradients, before clipping."""
        return self._sharded.engine.stats().grad_norm

    @property
    def skipped(self):
        """Steps that were skipped because the norm was not finite."""
        return self._sharded.engine.stats().skipped

    @property
    def seconds(self):
        """This rank's seconds in the library so far: in collectives, in kernels that reduce and update, and in all."""
        stats = self._sharded.engine.stats()
        return {"comm_seconds": stats.comm_seconds, "kernel_seconds": stats.kernel_seconds,
                "total_seconds": stats.total_seconds}

    def state_dict(self):
        """Groups only. libzero.save() has the moments."""
        return {"state": {}, "param_groups": [{n: v for n, v in g.items() if n != "params"} for g in self.param_groups]}

    def load_state_dict(self, state_dict):
        for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
            group.update(saved)
