"""What is found in graphs: the coordinates of a sampling."""

from __future__ import annotations

import torch

from export.graphs import coordinates, operator_name
from tests.conftest import Warp


def test_coordinates_begin_after_the_layer_that_predicts_them() -> None:
    graph = torch.export.export(Warp(), (torch.rand(1, 3, 8, 16),)).graph
    found = coordinates(graph.nodes)
    names = {operator_name(node.target) for node in found}
    assert {"grid_sampler", "add", "permute", "tanh"} <= names
    assert "conv2d" not in names
    after = [node for node in graph.nodes if operator_name(node.target) == "relu"]
    assert after
    assert not set(after) & found


def test_without_a_sampling_there_are_none() -> None:
    graph = torch.export.export(torch.nn.Conv2d(3, 3, 1), (torch.rand(1, 3, 4, 4),)).graph
    assert coordinates(graph.nodes) == set()
