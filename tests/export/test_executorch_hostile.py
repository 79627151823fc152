"""Programs made to write a file or to take all memory where they are evaluated: they are refused, and do neither."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.backends.vulkan.serialization import vulkan_graph_schema as vk
from executorch.exir import schema, to_edge
from executorch.exir._serialize._program import deserialize_pte_binary, serialize_pte_binary

from export.executorch_reference import Method
from export.executorch_vulkan_graph import Graph
from tests.conftest import Apply
from toolkit.errors import CheckFailed


@pytest.mark.parametrize(
    "name", ["aten.from_file.default", "aten.copy_.default", "aten.set_data.default", "aten.nothing"]
)
def test_a_vulkan_graph_calls_only_what_the_back_end_has(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    tensor = vk.VkTensor(vk.VkDataType.FLOAT32, [4], -1, -1)
    given = [vk.String(str(marker)), vk.Bool(True), vk.Int(4), vk.Null(), vk.Null(), vk.Null(), vk.Null(), tensor]
    call = vk.OperatorCall(0, name, list(range(8)))
    graph = vk.VkGraph("0", [call], [vk.VkValue(value) for value in given], [], [7], [], [])
    with pytest.raises(CheckFailed, match="it was not run"):
        Graph(graph, [])([])
    assert not marker.exists()


def test_a_program_calls_only_what_the_runtime_has(tmp_path: Path) -> None:
    path, marker = tmp_path / "model.pte", tmp_path / "marker"
    program = torch.export.export(Apply(lambda x: x + x), (torch.zeros(4),))
    file = deserialize_pte_binary(to_edge(program).to_executorch().buffer)
    plan = file.program.execution_plan[0]
    path.write_bytes(bytes(serialize_pte_binary(file)))
    assert Method(path, "forward", "", lambda *_: lambda _: [])([np.ones(4, np.float32)])[0].tolist() == [2] * 4
    plan.operators[0] = schema.Operator("aten::from_file", "out")
    (call,) = [each.instr_args for each in plan.chains[0].instructions]
    assert isinstance(call, schema.KernelCall)
    count = len(plan.values)
    plan.values += [schema.EValue(v) for v in (schema.String(str(marker)), schema.Bool(True), schema.Int(4))]
    call.args = [count, count + 1, count + 2, *call.args[3:]]
    path.write_bytes(bytes(serialize_pte_binary(file)))
    with pytest.raises(CheckFailed, match="was not run"):
        Method(path, "forward", "", lambda *_: lambda _: [])([np.zeros(4, np.float32)])
    assert not marker.exists()


def test_a_program_plans_no_more_memory_than_is_free(tmp_path: Path) -> None:
    path = tmp_path / "model.pte"
    program = torch.export.export(Apply(lambda x: x + x), (torch.zeros(4),))
    file = deserialize_pte_binary(to_edge(program).to_executorch().buffer)
    file.program.execution_plan[0].non_const_buffer_sizes = [0, 2**60]
    path.write_bytes(bytes(serialize_pte_binary(file)))
    with pytest.raises(CheckFailed, match=r"model\.pte: plans 1152921504\.6 GB of memory"):
        Method(path, "forward", "", lambda *_: lambda _: [])
