"""Evaluate a `.pte` whose delegate this machine lacks: its instructions one by one, as they stand in the file.

Calls of a delegate go to an evaluator of that delegate's own payload, the other operators to torch's kernels. It checks
what was written and the effect of fp16; it says nothing of the runtime, the accelerator or latency.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.exir import schema
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary
from executorch.exir.tensor import scalar_type_enum
from executorch.runtime import Runtime

from export import executorch
from export.targets import Session
from toolkit.errors import CheckFailed, unknown_name
from toolkit.machine import available_bytes
from toolkit.quiet import native_stderr_hidden

Tensors = Sequence[torch.Tensor]
#: From a delegate's payload and the file's named data to a function of the delegate's inputs.
OpenDelegate = Callable[[bytes, Mapping[str, bytes]], Callable[[Tensors], list[torch.Tensor]]]
DTYPES = {
    scalar_type_enum(dtype): dtype
    for dtype in (torch.float32, torch.float16, torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool)
}


class Method:
    """One method of a `.pte`.

    Raises `UserError` on an unknown name, and `CheckFailed` on another delegate's payload and where the file plans more
    memory than this machine has free.
    """

    def __init__(self, path: Path, name: str, backend: str, open_delegate: OpenDelegate) -> None:
        self._file = deserialize_pte_binary(path.read_bytes())
        plans = {plan.name: plan for plan in self._file.program.execution_plan}
        if name not in plans:
            raise unknown_name(f"method of {path}:", name, sorted(plans))
        self._plan = plans[name]
        planned, free = sum(self._plan.non_const_buffer_sizes), available_bytes()
        if planned > free:
            raise CheckFailed(f"{path}: plans {planned / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free here")
        named = named_data(self._file)
        self._delegates = []
        for delegate in self._plan.delegates:
            if delegate.id != backend:
                raise CheckFailed(f"{path}: holds a delegate {delegate.id}, which cannot be evaluated as {backend}")
            payload = bytes(self._file.program.backend_delegate_data[delegate.processed.index].data)
            self._delegates.append(open_delegate(payload, named))

    @torch.no_grad()
    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The method's outputs; raises `CheckFailed` on an instruction that is not known here."""
        values: dict[int, Any] = {}
        self._memory = [torch.zeros(size, dtype=torch.uint8) for size in self._plan.non_const_buffer_sizes]
        for place, array in zip(self._plan.inputs, inputs, strict=True):
            taken = self._value(place, values)
            if tuple(taken.shape) != array.shape:
                raise CheckFailed(f"ExecuTorch reference: takes {tuple(taken.shape)} where it was given {array.shape}")
            taken.copy_(torch.from_numpy(np.array(array)))
        for instruction in self._plan.chains[0].instructions:
            call = instruction.instr_args
            if isinstance(call, schema.DelegateCall):
                self._delegate(call, values)
            elif isinstance(call, schema.KernelCall):
                self._kernel(call, values)
            elif isinstance(call, schema.MoveCall):
                values[call.move_to] = self._value(call.move_from, values)
            elif not isinstance(call, schema.FreeCall):
                raise CheckFailed(
                    f"ExecuTorch reference: {type(call).__name__} is not known, so parity cannot be shown"
                )
        return [self._value(place, values).numpy().copy() for place in self._plan.outputs]

    def _delegate(self, call: schema.DelegateCall, values: dict[int, Any]) -> None:
        tensors = [self._value(place, values) for place in call.args]
        results = self._delegates[call.delegate_index](tensors)
        for place, result in zip(call.args[len(call.args) - len(results) :], results, strict=True):
            values[place].copy_(result)

    def _kernel(self, call: schema.KernelCall, values: dict[int, Any]) -> None:
        named = self._plan.operators[call.op_index]
        kernel = _torch_kernel(named.name, named.overload)
        given = [self._value(place, values) for place in call.args[: len(kernel._schema.arguments)]]
        positional, keywords = [], {}
        for argument, value in zip(kernel._schema.arguments, given, strict=True):
            if argument.kwarg_only:
                keywords[argument.name] = value
            else:
                positional.append(value)
        kernel(*positional, **keywords)

    def _value(self, place: int, values: dict[int, Any]) -> Any:
        if place not in values:
            values[place] = self._stored(self._plan.values[place].val, values)
        return values[place]

    def _stored(self, value: Any, values: dict[int, Any]) -> Any:
        if isinstance(value, schema.Tensor):
            shape, dtype = tuple(value.sizes), DTYPES[value.scalar_type]
            if not value.data_buffer_idx:
                return self._planned(value, shape, dtype)
            content = self._file.program.constant_buffer[value.data_buffer_idx].storage
            # the file pads what follows a small constant
            return torch.frombuffer(bytearray(content), dtype=dtype)[: math.prod(shape)].reshape(shape).clone()
        if isinstance(value, schema.IntList | schema.TensorList | schema.OptionalTensorList):
            return [None if place < 0 else self._value(place, values) for place in value.items]
        if isinstance(value, schema.BoolList | schema.DoubleList):
            return list(value.items)
        if isinstance(value, schema.Null):
            return None
        (content,) = vars(value).values()  # Int, Bool, Double, String
        return content

    def _planned(self, value: schema.Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor where the file's memory plan puts it: views share the place of what they show, without a word."""
        plan = value.allocation_info
        if plan is None:
            return torch.zeros(shape, dtype=dtype)
        start = (plan.memory_offset_high << 32) + plan.memory_offset_low
        room = self._memory[plan.memory_id][start : start + math.prod(shape) * dtype.itemsize]
        return room.view(dtype).reshape(shape)


def _torch_kernel(name: str, overload: str) -> Any:
    """torch's kernel of an operator that ExecuTorch's runtime has too; `CheckFailed` on all others.

    A file may name any operator of torch, and some of those write files: the runtime's list has none of them.
    """
    namespace, _, own = name.partition("::")
    if (f"{name}.{overload}" if overload else name) in _of_the_runtime():
        kernel = getattr(getattr(getattr(torch.ops, namespace), own, None), overload or "default", None)
        if kernel is not None:
            return kernel
    raise CheckFailed(f"ExecuTorch reference: operator {name[:80]}.{overload[:80]} is not known, and was not run")


@cache
def _of_the_runtime() -> frozenset[str]:
    return frozenset(Runtime.get().operator_registry.operator_names)


def named_data(file: PTEFile) -> dict[str, bytes]:
    """What the file keeps by name for its delegates: their weights."""
    stored = file.named_data
    if stored is None:
        return {}
    return {key: bytes(stored.buffers[entry.buffer_index]) for key, entry in stored.pte_data.items()}


def open_delegated(path: Path, name: str, backend: str, open_delegate: OpenDelegate, evaluator: str) -> Session:
    """One method of a file: executed where ExecuTorch has the back end here, else evaluated; `evaluator` is what does
    that for its delegates."""
    with native_stderr_hidden():
        available = Runtime.get().backend_registry.is_available(backend)
    if available:
        return executorch.open_method(path, name)
    runtime = f"{evaluator}, of executorch {version('executorch')}"
    return Session(Method(path, name, backend, open_delegate), "reference-evaluated", runtime)
