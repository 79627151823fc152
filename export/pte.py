"""What stands in an ExecuTorch program: its operators in order, those in XNNPACK and Vulkan delegates too, and their
constants; of Core ML delegates the weights alone."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import numpy as np
from executorch.backends.xnnpack import serialization
from executorch.backends.xnnpack.serialization.xnnpack_graph_serialize import XNNHeader
from executorch.exir._serialize._flatbuffer import _flatc_decompile
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary
from executorch.exir.schema import DataLocation, DelegateCall, KernelCall, Tensor

from toolkit.errors import CheckFailed

_XNNPACK, _VULKAN, _COREML = "XnnpackBackend", "VulkanBackend", "CoreMLBackend"
_FLOAT32, _FLOAT32_IN_PROGRAM = "xnn_datatype_fp32", 6


@dataclass(frozen=True)
class Instruction:
    """One operator: its name, everything said of it but its constants, and those by the place where they are taken.

    Constants of type fp32 and fp16 are arrays of numbers, others of bytes; all are flat, in the order in which they are
    stored. `is_opaque`: there are operators inside that are not shown.
    """

    operator: str
    settings: dict[str, Any]
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    is_opaque: bool = False


def instructions(path: Path) -> list[Instruction]:
    """The operators of the program's first method; raises `CheckFailed` where the file cannot be read."""
    try:
        return list(_instructions(deserialize_pte_binary(path.read_bytes())))
    except (ValueError, LookupError, RuntimeError, AssertionError, struct.error, CalledProcessError) as error:
        raise CheckFailed(f"{path}: cannot be read as an ExecuTorch program ({error})") from error


def _instructions(file: PTEFile) -> Iterator[Instruction]:
    plan = file.program.execution_plan[0]
    for chain in plan.chains:
        for instruction in chain.instructions:
            said = instruction.instr_args
            if isinstance(said, DelegateCall):
                delegate = plan.delegates[said.delegate_index]
                where = delegate.processed
                assert where.location == DataLocation.INLINE  # the reader puts segments back
                payload = bytes(file.program.backend_delegate_data[where.index].data)
                if delegate.id == _XNNPACK:
                    yield from _xnnpack(file, payload)
                elif delegate.id == _VULKAN:
                    yield from _vulkan(file, payload)
                else:
                    weights = _coreml_weights(payload) if delegate.id == _COREML else {}
                    yield Instruction(f"{delegate.id} delegate", {}, weights, is_opaque=True)
            elif isinstance(said, KernelCall):
                operator = plan.operators[said.op_index]
                values = [plan.values[place].val for place in said.args]
                yield Instruction(
                    operator.name.removeprefix("aten::"),
                    {"overload": operator.overload, "args": [_scalar(v) for v in values]},
                    dict(_constants(file, values)),
                )


def _scalar(value: Any) -> Any:
    """What an argument is, where it is no tensor; of a tensor its shape."""
    return list(value.sizes) if isinstance(value, Tensor) else repr(value)


def _constants(file: PTEFile, values: list[Any]) -> Iterator[tuple[str, np.ndarray]]:
    for place, value in enumerate(values):
        if isinstance(value, Tensor) and value.data_buffer_idx and value.allocation_info is None:
            data = bytes(file.program.constant_buffer[value.data_buffer_idx].storage)
            yield f"argument {place}", _numbers(data, int(value.scalar_type) == _FLOAT32_IN_PROGRAM)


def _xnnpack(file: PTEFile, payload: bytes) -> Iterator[Instruction]:
    header = XNNHeader.from_bytes(payload[: XNNHeader.EXPECTED_LENGTH])
    graph = _graph(payload[header.flatbuffer_offset : header.flatbuffer_offset + header.flatbuffer_size])
    constants: dict[int, np.ndarray] = {}
    for value in graph.get("xvalues", []):
        union = value["xvalue_union"]
        tensor = union.get("tensor_value", union)  # of a quantised value the tensor lies inside
        place = tensor["constant_buffer_idx"]
        if place:
            stored = graph["constant_data"][place]
            key = stored.get("named_key")
            if key:
                named = file.named_data
                assert named is not None
                data = bytes(named.buffers[named.pte_data[key].buffer_index])
            else:
                start = header.constant_data_offset + stored["offset"]
                data = payload[start : start + stored["size"]]
            constants[tensor["id_out"]] = _numbers(data, tensor["datatype"] == _FLOAT32)
    for node in graph.get("xnodes", []):
        said = node["xnode_union"]
        used = {key.removesuffix("_id"): constants[id_] for key, id_ in said.items() if _is_use(key, id_, constants)}
        bounds = node.get("output_min_max")
        yield Instruction(node["xnode_union_type"].removeprefix("XNN"), {**said, "bounds": bounds}, used)


def _vulkan(file: PTEFile, payload: bytes) -> Iterator[Instruction]:
    from export.executorch_reference import named_data
    from export.executorch_vulkan_graph import read_graph

    graph, contents = read_graph(payload, named_data(file))
    for call in graph.chain:
        said: list[Any] = []
        constants: dict[str, np.ndarray] = {}
        for place, number in enumerate(call.args):
            value = graph.values[number].value
            kind, dims = type(value).__name__, getattr(value, "dims", None)
            said.append(dims if dims is not None else kind if kind == "ValueList" else repr(value))
            if dims is not None and value.constant_id >= 0:
                constants[f"argument {place}"] = _floats(contents[value.constant_id], value.datatype.name)
        yield Instruction(call.name.removeprefix("aten."), {"args": said}, constants)


def _floats(data: bytes, datatype: str) -> np.ndarray:
    if datatype == "FLOAT16":
        return np.frombuffer(data[: len(data) // 2 * 2], np.float16)
    return _numbers(data, datatype == "FLOAT32")


def _coreml_weights(payload: bytes) -> dict[str, np.ndarray]:
    """The file of weights as fp16: the rest of a payload is another one at every conversion, as names are drawn."""
    from export.coreml_payload import unpack

    with tempfile.TemporaryDirectory() as folder:
        stored = b"".join(path.read_bytes() for path in sorted(unpack(payload, Path(folder)).rglob("weight.bin")))
    return {"weights": _floats(stored, "FLOAT16")} if stored else {}


def _is_use(key: str, value: Any, constants: dict[int, np.ndarray]) -> bool:
    return key.endswith("_id") and key != "output_id" and value in constants


def _graph(flatbuffer: bytes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        schema, binary = Path(folder) / "schema.fbs", Path(folder) / "graph.bin"
        schema.write_bytes(resources.files(serialization).joinpath("schema.fbs").read_bytes())
        binary.write_bytes(flatbuffer)
        _flatc_decompile(folder, str(schema), str(binary), ["--raw-binary"])
        text = (Path(folder) / "graph.json").read_text()
    graph: dict[str, Any] = json.loads(text.replace(": inf", ": 1e999").replace(": -inf", ": -1e999"))
    return graph


def _numbers(data: bytes, is_float: bool) -> np.ndarray:
    whole = len(data) // 4 * 4
    return np.frombuffer(data[:whole], np.float32) if is_float else np.frombuffer(data, np.uint8)
