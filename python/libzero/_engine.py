# SPDX-License-Identifier: Apache-2.0
"""The engine: a thin layer over zero.h, whose comments document each call."""

import math
import os
import sys

import torch

from libzero._library import Error, check, create, ffi, initialized, lib, sized, text

DTYPES = {torch.float32: lib.ZERO_FP32, torch.bfloat16: lib.ZERO_BF16, torch.float16: lib.ZERO_FP16}
RULES = {"adamw": lib.ZERO_RULE_ADAMW, "adam": lib.ZERO_RULE_ADAM, "sgd": lib.ZERO_RULE_SGD}
TIERS = {"device": lib.ZERO_TIER_DEVICE, "host": lib.ZERO_TIER_HOST, "nvme": lib.ZERO_TIER_NVME}
PASSES = {"train": lib.ZERO_PASS_TRAIN, "eval": lib.ZERO_PASS_EVAL, "any": lib.ZERO_PASS_ANY_ORDER}
STATES = {"param": lib.ZERO_STATE_PARAM, "grad": lib.ZERO_STATE_GRAD, "master": lib.ZERO_STATE_MASTER,
          "moment1": lib.ZERO_STATE_MOMENT1, "moment2": lib.ZERO_STATE_MOMENT2}


def communicator():
    """Returns the communicator of torchrun's ranks; that of one rank, if torchrun did not start this process."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return create(lib.zero_comm_torchrun, "zero_comm_t", lib.zero_comm_destroy, ffi.NULL)
    return create(lib.zero_comm_self, "zero_comm_t", lib.zero_comm_destroy)


class Engine:
    def __init__(self, settings):
        """settings: members of zero_config_t, and "stage"; a row's tier as "optimizer.tier"."""
        self.closed, self.comm = True, None
        self.comm = communicator()
        self.rank, self.world = lib.zero_comm_rank(self.comm), lib.zero_comm_size(self.comm)
        options = initialized("zero_device_options_t", lib.zero_device_options_init_size)
        options.threads = torch.get_num_threads()
        self.device = create(lib.zero_device_cpu, "zero_device_t", lib.zero_device_destroy, options)
        config = initialized("zero_config_t", lib.zero_config_init_size)
        config.comm, config.device = self.comm, self.device
        if lib.zero_config_stage(config, settings.pop("stage")) != lib.ZERO_OK:
            raise Error("stage must be 0, 1, 2 or 3")
        self.kept = []  # what the configuration points to
        config.grad_scale = 1.0 / self.world  # means over ranks
        for name, value in settings.items():
            member, _, row = name.partition(".")
            if isinstance(value, str) and not row:
                value = ffi.new("char[]", os.fsencode(value))
                self.kept.append(value)
            if row:
                setattr(getattr(config, member), row, value)
            else:
                setattr(config, member, value)
        handle, error = ffi.new("zero_engine_t **"), ffi.new("zero_error_t *")
        check(lib.zero_create(handle, config, error), error)
        self.handle = handle[0]
        self.closed = False

    def commit(self):
        self(lib.zero_commit)
        self.leave()

    def leave(self):
        """Destroys the communicator, of which a committed engine has its own duplicates. Collective, so it happens here
        and not when Python collects garbage."""
        if self.comm is not None:
            ffi.release(self.comm)
            self.comm = None

    def close(self):
        """Collective, unless the engine has failed."""
        if not self.closed:
            self.closed = True
            lib.zero_destroy(self.handle)
        self.leave()

    def __del__(self):
        if not sys.is_finalizing():  # otherwise the end of the process frees all, and tells the other ranks
            self.close()

    def __call__(self, function, *arguments):
        """Calls function(engine, arguments...) and raises its failure."""
        if self.closed:
            raise Error("the engine of this model is closed", "bad call order")
        status = function(self.handle, *arguments)
        if status != lib.ZERO_OK:
            failure = ffi.new("zero_error_t *")
            lib.zero_last_failure(self.handle, failure)
            raise Error(text(lib.zero_last_error(self.handle)), text(lib.zero_status_name(status)), failure.rank)

    def add(self, function, kind, *arguments):
        """Calls function(engine, arguments..., &id) and returns the id."""
        identity = ffi.new(f"{kind} *")
        self(function, *arguments, identity)
        return identity[0]

    def unit(self, name):
        return self.add(lib.zero_unit_add, "zero_unit_t", name.encode())

    def parameter(self, unit, name, tensor, decay_scale, lr_scale):
        desc = initialized("zero_param_desc_t", lib.zero_param_desc_init_size)
        spelled = ffi.new("char[]", name.encode())
        desc.name, desc.ndim = spelled, tensor.dim()
        if tensor.dim() > len(desc.shape):
            raise Error(f"parameter '{name}' has {tensor.dim()} dimensions, but at most {len(desc.shape)} are "
                        "supported")
        for i, extent in enumerate(tensor.shape):
            desc.shape[i] = extent
        desc.dtype, desc.trainable = DTYPES[tensor.dtype], tensor.requires_grad
        desc.decay_scale, desc.lr_scale = decay_scale, lr_scale
        return self.add(lib.zero_param_add, "zero_param_t", unit, desc)

    def add_pass(self, name, kind):
        return self.add(lib.zero_pass_add, "zero_pass_t", name.encode(), PASSES[kind])

    def tensor(self, address, like):
        """Returns the engine's memory at an address as a tensor with the shape and dtype of another. The tensor keeps
        the engine."""
        if address == ffi.NULL:
            return torch.empty(like.shape, dtype=like.dtype)
        kept = ffi.gc(address, lambda _, engine=self: None)
        memory = ffi.buffer(kept, like.numel() * like.element_size())
        return torch.frombuffer(memory, dtype=like.dtype, count=like.numel()).view(like.shape)

    def fill(self, param, read):
        """Sets a parameter. read(begin, count) returns a fp32 tensor of these elements."""
        failure = []

        @ffi.callback("zero_fill_fn", error=-1)
        def values(_, __, begin, count, out):
            try:
                part = read(begin, count).contiguous()
                ffi.memmove(out, ffi.cast("void *", part.data_ptr()), 4 * count)
                return 0
            except Exception as caught:  # crosses C: raised below
                failure.append(caught)
                return -1

        try:
            self(lib.zero_param_fill, param, values, ffi.NULL)
        except Error as error:
            raise (failure[0] if failure else error) from None

    def get(self, param, state, like, wanted=True):
        """Gathers a state of a parameter as a tensor with the shape and dtype of another. Collective; ranks that do not
        want it get None."""
        out = torch.empty(like.shape, dtype=like.dtype) if wanted else None
        address = ffi.cast("void *", out.data_ptr()) if wanted and out.numel() else ffi.NULL
        self(lib.zero_param_get, param, STATES[state], DTYPES[like.dtype], address)
        return out

    def stats(self):
        stats = sized("zero_stats_t")
        self(lib.zero_step_stats, stats)
        return stats

    def memory(self, function):
        """Returns {tier: {kind: bytes}} of zero_forecast or zero_measure, without zeros."""
        memory = sized("zero_memory_t")
        self(function, memory)
        table = {}
        for name, tier in TIERS.items():
            row = {text(lib.zero_kind_name(k)): int(memory.bytes[tier][k]) for k in range(lib.ZERO_KIND_COUNT)}
            table[name] = {kind: size for kind, size in row.items() if size}
        return {tier: row for tier, row in table.items() if row}

    def explain(self):
        pieces = []

        @ffi.callback("zero_write_fn")
        def write(_, piece, size):
            pieces.append(ffi.unpack(piece, size))

        self(lib.zero_explain, write, ffi.NULL)
        return b"".join(pieces).decode()


class Tensors:
    """Tensors of a safetensors file, or of a folder of a Hugging Face model."""

    def __init__(self, path):
        self.handle = create(lib.zero_tensors_open, "zero_tensors_t", lib.zero_tensors_close, os.fsencode(path))
        self.path = os.fspath(path)

    def find(self, name, like):
        """Returns the number of a tensor; -1 if there is none. One of another shape is an error."""
        index = lib.zero_tensors_find(self.handle, name.encode())
        if index >= 0:
            info = sized("zero_tensor_info_t")
            if lib.zero_tensors_at(self.handle, index, info) != lib.ZERO_OK:
                raise Error(f"tensor '{name}' of {self.path} cannot be described")
            shape = tuple(info.shape[i] for i in range(info.ndim))
            if shape != tuple(like.shape):
                raise Error(f"tensor '{name}' of {self.path} has the shape {shape}, but the model's parameter has "
                            f"{tuple(like.shape)}: use the model's own folder")
        return index

    def read(self, index, begin, count):
        out, error = torch.empty(count, dtype=torch.float32), ffi.new("zero_error_t *")
        values = ffi.cast("float *", out.data_ptr())
        check(lib.zero_tensors_read(self.handle, index, begin, count, values, error), error)
        return out


def finite(name, value):
    if not math.isfinite(value):
        raise Error(f"{name} is {value}, but must be a finite number")
    return float(value)
