# SPDX-License-Identifier: Apache-2.0
"""Units and sites. A unit is a set of parameters that are gathered together. A site is a module whose calls need units:
a layer, or a module outside of the layers that owns parameters, such as an embedding. Each parameter is in the unit of
the first site that has it, so a site with a tied parameter needs the other site's unit as well."""

import dataclasses

from torch import nn

from libzero._library import Error


@dataclasses.dataclass
class Site:
    name: str
    module: nn.Module
    units: list  # of Unit, those that its calls need

    def reads_in_backward(self):
        """An embedding's backward pass adds to the gradient without reading the table."""
        return not isinstance(self.module, nn.Embedding) or self.module.max_norm is not None


@dataclasses.dataclass
class Unit:
    name: str
    params: dict  # name -> nn.Parameter
    id: int = -1

    def trainable(self):
        return any(p.requires_grad for p in self.params.values())


def size(module):
    return sum(p.numel() * p.element_size() for p in module.parameters())


def default_layers(model):
    """The classes that a Hugging Face model does not split over devices; otherwise what module lists contain."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [m for m in model.modules() if type(m).__name__ in names]
    return layers or [child for m in model.modules() if isinstance(m, nn.ModuleList) for child in m]


def choose(model, policy):
    """Returns the modules that the caller's policy makes units."""
    if policy is None:
        return default_layers(model)
    if isinstance(policy, int):
        return [m for m in model.modules() if m is not model and size(m) >= policy and
                not any(size(child) >= policy for child in m.children())]
    if callable(policy) and not isinstance(policy, type):
        return [m for name, m in model.named_modules() if m is not model and policy(name, m)]
    wanted = [policy] if isinstance(policy, (str, type)) else list(policy)
    found = {}
    for entry in wanted:
        matches = [m for name, m in model.named_modules() if m is not model and (
            isinstance(m, entry) if isinstance(entry, type) else entry in (name, type(m).__name__))]
        if not matches:
            raise Error(f"units: no module of the model is, or has the class or name, {entry!r}")
        found.update((id(m), m) for m in matches)
    return list(found.values())


def sites_of(model, policy):
    """Returns the sites, in the order in which the model registers them, and the units."""
    layers = {id(m) for m in choose(model, policy)}
    sites, units, home = [], [], {}

    def visit(name, module):
        below = [n for n, m in module.named_modules(prefix=name) if m is not module and id(m) in layers]
        own = any(True for _ in module.parameters(recurse=False))
        if id(module) not in layers and not own:
            for child_name, child in module.named_children():
                visit(f"{name}.{child_name}" if name else child_name, child)
            return
        if below and id(module) not in layers:
            raise Error(f"module '{name or type(module).__name__}' has parameters of its own and contains the unit "
                        f"'{below[0]}': put those parameters into a module, or make it one unit with units=")
        add(name or type(module).__name__, module)

    def add(name, module):
        if any(site.module is module for site in sites):
            return
        unit, needed = Unit(name, {}), []
        for param_name, param in module.named_parameters(prefix=name):
            where = home.setdefault(id(param), unit)
            if where is unit:
                unit.params[param_name] = param
            elif where not in needed:
                needed.append(where)
        if unit.params:
            units.append(unit)
            needed.append(unit)
        if len(needed) > 2:
            others = ", ".join(repr(u.name) for u in needed[:-1])
            raise Error(f"module '{name}' shares parameters with {others}: at most two units can be "
                        "needed at the same time")
        if needed:
            sites.append(Site(name, module, needed))

    visit("", model)
    if not units:
        raise Error("the model has no parameters")
    return sites, units
