# SPDX-License-Identifier: Apache-2.0
"""shard(), and what a sharded model can do."""

import contextlib
import json
import os
import zlib

import torch

from libzero._engine import DTYPES, TIERS, Engine, Tensors, finite
from libzero._hooks import Hooks
from libzero._library import Error, check, create, ffi, initialized, lib, sized, text
from libzero._optimizer import Optimizer, rule_of
from libzero._order import record, registered
from libzero._runner import Runner
from libzero._units import sites_of

ATTRIBUTE = "_libzero"  # of a sharded model: its Sharded


def sharded(model):
    found = vars(model).get(ATTRIBUTE)
    if found is None:
        raise Error("the model is not sharded: call libzero.shard first")
    return found


class Sharded:
    """A sharded model: its engine, units and parameters."""

    def __init__(self, model, optimizer, settings, policy, example, loss, weights):
        self.sites, self.units = sites_of(model, policy)
        self.names = {id(p): name for unit in self.units for name, p in unit.params.items()}
        self.inspect(weights)
        readers = self.readers(model, weights)
        self.hooks, self.engine = Hooks(model, self.sites), None
        try:
            visits = record(model, self.hooks, example, loss) if example is not None else registered(self.sites)
            groups = self.groups(optimizer)
            settings = {**settings, **(rule_of(optimizer) if optimizer else {})}
            self.engine = Engine(settings)
            self.declare(settings, groups)
            self.runner = Runner(self, visits, self.engine)
            if self.engine.world > 1 and weights is None:
                self.compare()
            self.engine.commit()
            self.move(model, readers, groups)
        except BaseException:
            self.hooks.remove()
            if self.engine:
                self.engine.close()
            raise
        self.hooks.driver = self.runner
        self.optimizer = Optimizer(self, groups, optimizer.defaults) if optimizer else None
        self.saving = None  # (folder, keep) of the first save()
        self.state_rank = None  # the rank whose state_dict gets values; None: every rank's
        self.hooks.removers.append(model.register_state_dict_post_hook(
            lambda module, state, prefix, _: self.gathered_state(module, state, prefix)))

    def __deepcopy__(self, _):
        raise Error("a sharded model cannot be copied: copy it before shard(), or load its state_dict into another one")

    # ---- what shard() does ---------------------------------------------------------------------------------------

    def inspect(self, weights):
        for unit in self.units:
            for name, param in unit.params.items():
                if param.dtype not in DTYPES:
                    raise Error(f"parameter '{name}' has the dtype {param.dtype}, but only float32, bfloat16 and "
                                "float16 are supported")
                if param.device.type == "meta" and weights is None:
                    raise Error(f"parameter '{name}' is on the meta device: pass weights=, the folder or file with its "
                                "values")
                if param.device.type not in ("cpu", "meta"):
                    raise Error(f"parameter '{name}' is on {param.device}, but this package trains on the CPU")

    def groups(self, optimizer):
        """The optimizer's groups, without frozen parameters."""
        if optimizer is None:
            if any(unit.trainable() for unit in self.units):
                raise Error("the model has trainable parameters, but optimizer= is missing: pass a torch.optim.AdamW, "
                            "Adam or SGD of its parameters")
            return []
        given = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for unit in self.units:
            for name, param in unit.params.items():
                if param.requires_grad and id(param) not in given:
                    raise Error(f"parameter '{name}' is trainable, but the optimizer does not have it: freeze it with "
                                "requires_grad_(False) before shard(), or add it to the optimizer")
        for param in (p for group in optimizer.param_groups for p in group["params"] if id(p) not in self.names):
            raise Error(f"the optimizer has a parameter of shape {tuple(param.shape)} that the model does not have")
        if optimizer.state:
            raise Error("the optimizer has made steps already: shard the model before the first one")
        return [{**group, "params": [p for p in group["params"] if p.requires_grad]}
                for group in optimizer.param_groups]

    def declare(self, settings, groups):
        group_of = {id(p): group for group in groups for p in group["params"]}
        self.ids = {}
        for unit in self.units:
            unit.id = self.engine.unit(unit.name)
            for name, param in unit.params.items():
                group = group_of.get(id(param))
                decay = group["weight_decay"] / settings["weight_decay"] if group and group["weight_decay"] else 0.0
                rate = group["lr"] / groups[0]["lr"] if group and groups[0]["lr"] else 1.0
                self.ids[name] = self.engine.parameter(unit.id, name, param, decay, rate)

    def compare(self):
        """Every rank has made the model, and must have made the same."""
        sums = [zlib.crc32(bytes_of(param)) for unit in self.units for param in unit.params.values()]
        mine = ffi.new("uint32_t[]", sums)
        all_of, error = ffi.new("uint32_t[]", len(sums) * self.engine.world), ffi.new("zero_error_t *")
        check(lib.zero_comm_exchange(self.engine.comm, mine, all_of, ffi.sizeof(mine), error), error)
        names = [name for unit in self.units for name in unit.params]
        for rank in range(self.engine.world):
            for i, name in enumerate(names):
                if all_of[rank * len(sums) + i] != all_of[i]:
                    raise Error(f"parameter '{name}' has other values on rank {rank} than on rank 0: load the same "
                                "weights on every rank, or call torch.manual_seed with the same number before the "
                                "model is made", "mismatch", rank)

    def move(self, model, readers, groups):
        """Fills the engine, and then makes each parameter a view of its memory: a fill that fails changes none."""
        for name, read in readers.items():
            self.engine.fill(self.ids[name], read)
        readers.clear()
        self.views, self.grads, replaced = {}, {}, {}
        for unit in self.units:
            for name, param in unit.params.items():
                number = self.ids[name]
                view = self.engine.tensor(lib.zero_param_data(self.engine.handle, number), param)
                if param.device.type == "meta":
                    replaced[id(param)] = unit.params[name] = torch.nn.Parameter(view, param.requires_grad)
                    for attribute, value in vars(param).items():
                        setattr(replaced[id(param)], attribute, value)
                else:
                    param.data = view
                self.views[name] = view
                if param.requires_grad:
                    self.grads[name] = self.engine.tensor(lib.zero_param_grad(self.engine.handle, number), param)
        if not replaced:
            return
        for module in model.modules():
            for attribute, param in module._parameters.items():
                if id(param) in replaced:
                    module._parameters[attribute] = replaced[id(param)]
        for group in groups:
            group["params"] = [replaced.get(id(p), p) for p in group["params"]]
        self.names = {id(p): name for unit in self.units for name, p in unit.params.items()}
        self.hooks.replace(replaced)

    def readers(self, model, weights):
        """Returns what reads the values of each parameter, by name."""
        source = Tensors(weights) if weights is not None else None
        return {name: self.reader(model, name, param, source)
                for unit in self.units for name, param in unit.params.items()}

    @staticmethod
    def reader(model, name, param, source):
        if source is None:
            flat = param.detach().reshape(-1)
            return lambda begin, count: flat[begin:begin + count].float()
        prefix = getattr(model, "base_model_prefix", "") + "."
        for spelled in (name, name.removeprefix(prefix), prefix + name):
            if (index := source.find(spelled, param)) >= 0:
                return lambda begin, count: source.read(index, begin, count)
        raise Error(f"{source.path} has no tensor '{name}': use the folder of this model")

    # ---- while it trains -----------------------------------------------------------------------------------------

    def check(self, unit):
        """Parameters must still be the engine's memory."""
        for name, param in unit.params.items():
            if param.data_ptr() != self.views[name].data_ptr():
                raise Error(f"parameter '{name}' no longer has the memory that shard() gave it: move or convert the "
                            "model (.to(), .half(), resize) before shard()", "bad call order")

    def step(self, rate):
        if self.runner.open is not None:
            raise Error("optimizer.step() is called between a forward pass and the end of its backward pass: call "
                        "loss.backward() first", "bad call order")
        self.engine(lib.zero_step, rate)

    def gathered_state(self, module, state, prefix):
        """Puts whole tensors, which the caller owns, into a state_dict."""
        whole = {}
        wanted = self.state_rank in (None, self.engine.rank)
        for name, param in module.named_parameters(prefix=prefix.rstrip("."), remove_duplicate=False):
            if name in state:
                found = self.names[id(param)]
                if found not in whole:
                    whole[found] = self.engine.get(self.ids[found], "param", self.views[found], wanted)
                state[name] = whole[found]


def bytes_of(tensor):
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def shard(model, optimizer=None, *, stage=3, offload=None, offload_ratio=1.0, window=2, micro_steps=1, clip=None,
          units=None, example=None, loss=None, weights=None, nvme_path=None, memory_limit=0, persist_bytes=None,
          save=False):
    """Shards a model over the ranks that torchrun started, and returns (model, optimizer).

    The model is the same object: run it and its loss as before. The optimizer takes the place of the one passed.
    Gradients are means over ranks, as with DistributedDataParallel. Collective: every rank makes the same call.

    optimizer: a torch.optim.AdamW, Adam or SGD of the model's parameters that has made no step. None: a frozen model.
    stage: what is sharded: 0 nothing, 1 the optimizer state, 2 also gradients, 3 also parameters.
    offload: the tier of the optimizer state: None (with the parameters), "host", or "nvme" with the folder nvme_path.
    offload_ratio: the share of the optimizer state that is there.
    window: units that are gathered at once, including prefetched ones.
    micro_steps: the most backward passes in a step; all but the last run under no_sync().
    clip: the largest norm of the gradients. None: not clipped.
    units: what is gathered together: classes, names of classes or modules; a function (name, module) -> bool; or bytes:
        the smallest modules of at least that size. None: the layers that a Hugging Face model names, or those in
        module lists. Modules outside of these that have parameters are units, too.
    example: arguments of the model (dict, tuple or tensor), to record the order of its modules. The model runs once
        forward and backward. None: modules run in the order in which they are registered.
    loss: makes the value of which the example's gradients are taken from the output. None: its loss, or a sum.
    weights: a safetensors file, or a folder of a Hugging Face model, of which each rank reads its shards. The model
        may then be made under meta_parameters().
    memory_limit: bytes of memory for this rank; 0: all available.
    persist_bytes: units with fewer bytes of parameters stay whole on every rank. None: 65536.
    save: plan for save().
    """
    if ATTRIBUTE in vars(model):
        raise Error("the model is sharded already", "bad call order")
    if offload not in (None, "host", "nvme"):
        raise Error(f"offload is {offload!r}, but must be None, 'host' or 'nvme'")
    settings = {"stage": stage, "window": window, "micro_steps": micro_steps, "memory_limit": memory_limit,
                "clip": finite("clip", clip) if clip is not None else 0.0, "offload_ratio": offload_ratio,
                "saves": bool(save)}
    if offload:
        settings["optimizer.tier"] = TIERS[offload]
    if nvme_path is not None:
        settings["nvme_path"] = os.fspath(nvme_path)
    if persist_bytes is not None:
        settings["persist_bytes"] = persist_bytes
    made = Sharded(model, optimizer, settings, units, example, loss, weights)
    vars(model)[ATTRIBUTE] = made
    return model, made.optimizer


@contextlib.contextmanager
def meta_parameters():
    """Modules made inside have their parameters on the meta device, which takes no memory. Buffers are real."""
    register = torch.nn.Module.register_parameter

    def on_meta(module, name, param):
        if param is not None and param.device.type != "meta":
            moved_param = torch.nn.Parameter(param.detach().to("meta"), param.requires_grad)
            moved_param.__dict__.update(vars(param))
            param = moved_param
        register(module, name, param)

    torch.nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


@contextlib.contextmanager
def no_sync(model):
    """Backward passes of forward passes that begin inside are not the last of the step: gradients accumulate."""
    runner = sharded(model).runner
    before, runner.last = runner.last, False
    try:
        yield
    finally:
        runner.last = before


def state_dict(model, rank=0):
    """Returns the whole model's state_dict on one rank (None: on every rank), and None on the others. Collective.
    model.state_dict() does the same on every rank."""
    owner = sharded(model)
    if rank is not None and not 0 <= rank < owner.engine.world:
        raise Error(f"rank is {rank}, but must be 0 to {owner.engine.world - 1}, or None")
    owner.state_rank = rank
    try:
        state = model.state_dict()
    finally:
        owner.state_rank = None
    return state if rank in (None, owner.engine.rank) else None


def save(model, folder, extra=None, keep=0):
    """Saves parameters and optimizer state as folder/step-N, with extra, a JSON value. Returns its path when it is
    whole. The newest keep of them stay (0: all). Any number of ranks, at any stage, can load it. Collective; needs
    shard(save=True)."""
    owner = sharded(model)
    where = (os.fspath(folder), keep)
    if owner.saving is None:
        options = initialized("zero_save_options_t", lib.zero_save_options_init_size)
        spelled = ffi.new("char[]", os.fsencode(folder))
        options.folder, options.keep = spelled, keep
        owner.engine(lib.zero_save_open, options)
        owner.saving = where
    elif owner.saving != where:
        raise Error(f"the first save() was to {owner.saving[0]} with keep={owner.saving[1]}, but this one is to "
                    f"{where[0]} with keep={keep}: all must be alike")
    state = {"extra": extra, "optimizer": owner.optimizer.state_dict() if owner.optimizer else None}
    about = json.dumps(state).encode()
    owner.engine(lib.zero_save, about, len(about))
    saved = sized("zero_saved_t")
    owner.engine(lib.zero_save_end, True, saved)
    return text(saved.path)


def load(model, folder):
    """Loads the newest whole checkpoint of a folder, or the checkpoint that the folder is. Returns (step, extra).
    Collective."""
    owner = sharded(model)
    checkpoint = create(lib.zero_checkpoint_open, "zero_checkpoint_t", lib.zero_checkpoint_close, os.fsencode(folder))
    owner.engine(lib.zero_load, checkpoint)
    info = sized("zero_checkpoint_info_t")
    if lib.zero_checkpoint_info(checkpoint, info) != lib.ZERO_OK:
        raise Error(f"the checkpoint in {os.fspath(folder)} cannot be described")
    state = json.loads(bytes(ffi.buffer(info.caller, info.caller_bytes))) if info.caller_bytes else {}
    if owner.optimizer and state.get("optimizer"):
        owner.optimizer.load_state_dict(state["optimizer"])
    return int(info.step), state.get("extra")


def memory(model):
    """Returns (forecast, measured): bytes of this rank as {tier: {kind: bytes}}."""
    engine = sharded(model).engine
    return engine.memory(lib.zero_forecast), engine.memory(lib.zero_measure)


def explain(model):
    """Returns the plan as text: its buffers, and the operations of each program."""
    return sharded(model).engine.explain()


def close(model):
    """Frees what shard() made. The model has no values afterwards. Collective."""
    owner = vars(model).pop(ATTRIBUTE, None)
    if owner is not None:
        owner.hooks.remove()
        for param in model.parameters():
            param.data, param.grad = torch.empty(0, dtype=param.dtype), None  # not the memory that goes now
        owner.engine.close()
