"""The graph for Model Explorer: what its loader asks of a file, and what a reader asks of a node."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from export.inspection import inspect_module
from tests.conftest import Apply


@pytest.mark.slow
def test_a_graph_says_of_every_operator_where_it_runs_and_what_it_costs(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Apply(lambda x: torch.fmod(x, 2)), nn.Conv2d(4, 4, 3))
    path = tmp_path / "graph.json"
    inspect_module(module, (torch.randn(1, 3, 8, 8),), ["executorch-xnnpack-fp32"], "net", path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["label"] == "net"
    (graph,) = content["graphs"]
    nodes = {node["id"]: node for node in graph["nodes"]}
    for node in nodes.values():
        assert all(edge["sourceNodeId"] in nodes for edge in node["incomingEdges"])
        assert all(isinstance(item["value"], str) for item in node["attrs"])
    labelled = {node["label"]: node for node in nodes.values()}
    attributes = {item["key"]: item["value"] for item in labelled["fmod"]["attrs"]}
    assert attributes["planned: executorch-xnnpack-fp32"].startswith("CPU: fmod")
    assert labelled["fmod"]["namespace"] == "1"
    convolution = {item["key"]: item["value"] for item in labelled["conv2d"]["attrs"]}
    assert convolution["planned: executorch-xnnpack-fp32"] == "accelerator"
    assert "MACs (estimated)" in convolution
    for node in nodes.values():  # inputs, weights and the output run nowhere
        keys = {item["key"] for item in node["attrs"]}
        assert ("planned: executorch-xnnpack-fp32" in keys) == ("layer" in keys)


def test_a_refused_operator_says_so(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), Apply(lambda x: torch.linalg.svdvals(x[0])))
    attributes = annotated(tmp_path, module, (1, 3, 8, 8), "onnx-fp32")
    assert "refused: onnx-fp32" in {key for key, _ in attributes}


@pytest.mark.slow
def test_nothing_is_planned_of_a_part_of_a_model(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv3d(3, 4, 1), Apply(lambda x: x + torch.linalg.svd(x)[1].sum()), nn.Conv3d(4, 4, 1))
    attributes = annotated(tmp_path, module, (1, 3, 2, 4, 4), "executorch-xnnpack-fp32")
    assert "MACs (estimated)" in {key for key, _ in attributes}
    assert not [key for key, _ in attributes if key.startswith("planned: ")]


def test_an_operator_that_only_may_leave_has_a_question_mark(tmp_path: Path) -> None:
    dilated = annotated(tmp_path, nn.Conv2d(3, 4, 3, dilation=2), (1, 3, 8, 8), "coreml-fp16")
    (placed,) = (value for key, value in dilated if key == "planned: coreml-fp16")
    assert "GPU or CPU: conv? is dilated" in placed
    assert "CPU: cast converts" in placed  # which was made for the same node


def annotated(folder: Path, module: nn.Module, shape: tuple[int, ...], target: str) -> list[tuple[str, str]]:
    """All attributes of the nodes of a module's graph."""
    path = folder / "graph.json"
    inspect_module(module, (torch.randn(shape),), [target], "net", path)
    (graph,) = json.loads(path.read_text(encoding="utf-8"))["graphs"]
    return [(item["key"], item["value"]) for node in graph["nodes"] for item in node["attrs"]]
