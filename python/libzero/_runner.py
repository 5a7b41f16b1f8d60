# SPDX-License-Identifier: Apache-2.0
"""Turns the visits of a model's sites into calls of the engine."""

from libzero._library import Error, lib
from libzero._order import uses


class Runner:
    """Drives the engine through the visits of a pass."""

    def __init__(self, owner, visits, engine):
        self.owner, self.engine = owner, engine
        self.passes = {}
        for name, training in (("train", True), ("eval", False)):
            if training and not any(unit.trainable() for unit in owner.units):
                continue
            declared = uses(visits, training)
            order = [v for v in visits if training or not v.backward]
            of = {id(v): [] for v in order}
            number = engine.add_pass(name, name)
            for visit, unit, flags in declared:
                engine(lib.zero_use_add, number, unit.id, flags)
                of[id(visit)].append((unit, flags))
            self.passes[training] = (number, order, [of[id(v)] for v in order])
        self.open = None  # whether the open pass trains
        self.last = True  # of the step's micro-steps
        self.held = []    # (visit, its units and flags)

    def begin(self, training):
        if self.open is not None:
            raise Error("the model runs forward, but the forward pass before it had no backward pass: evaluate under "
                        "torch.no_grad(), and run one forward and one backward pass in turn", "bad call order")
        number, self.order, self.needs = self.passes[training]
        self.engine(lib.zero_micro_begin, number, lib.ZERO_LAST if training and self.last else 0)
        self.open = training
        self.next = 0

    def end(self):
        for _, units in reversed(self.held):
            self.drop(units)
        self.held = []
        if self.open is not None:
            self.open = None
            self.engine(lib.zero_micro_end)

    def acquire(self, site, backward):
        if self.open is None:
            raise Error(f"module '{site.name}' runs outside of a call of the sharded model: call the model itself",
                        "bad call order")
        where = next((i for i in range(self.next, len(self.order))
                      if self.order[i].site is site and self.order[i].backward == backward), None)
        if where is None:
            expected = self.order[self.next] if self.next < len(self.order) else None
            what = f"'{expected.site.name}'{' backward' if expected.backward else ''}" if expected else "nothing"
            raise Error(f"module '{site.name}' runs{' backward' if backward else ''} where {what} is expected: the "
                        "order was taken from the model's registration, or from the example. Pass shard() an example= "
                        "that runs as the training does", "bad call order")
        self.next = where + 1
        units = self.needs[where]
        for unit, flags in units:
            self.owner.check(unit)
            self.engine(lib.zero_acquire, unit.id)
            if flags & lib.ZERO_GRAD:
                for name, param in unit.params.items():
                    if param.requires_grad:
                        param.grad = self.owner.grads[name]
        self.held.append((self.order[where], units))

    def release(self, site, backward):
        i = next((i for i, (v, _) in enumerate(self.held) if v.site is site and v.backward == backward), None)
        if i is not None:
            self.drop(self.held.pop(i)[1])

    def drop(self, units):
        for unit, flags in reversed(units):
            if flags & lib.ZERO_GRAD:
                for param in unit.params.values():
                    param.grad = None
            self.engine(lib.zero_release, unit.id)

    def accumulated(self, param):
        name = self.owner.names[id(param)]
        if param.grad is None or param.grad.data_ptr() != self.owner.grads[name].data_ptr():
            raise Error(f"parameter '{name}' gets a gradient outside of the last use of its unit in the backward pass: "
                        "pass shard() an example= that runs as the training does", "bad call order")
