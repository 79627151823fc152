"""Joins move up over what works frame by frame, and vanish where they meet the cuts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering.hoisting import hoist_joins

SCALE, CONV = torch.randn(1, 4, 1, 1), nn.Conv2d(4, 4, 3, padding=1)


def chunked(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return torch.cat([function(x[start : start + 2]) for start in range(0, 5, 2)])


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function, self.conv = function, CONV
        self.scale = nn.Parameter(SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def hoisted(function: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.fx.GraphModule, list[str]]:
    """The graph after hoisting, which computes what it did before, and its operators."""
    x = torch.randn(5, 4, 6, 6)
    with torch.no_grad():
        expected = function(x)
        module = hoist_joins(torch.export.export(Function(function), (x,)).run_decompositions({}).module())
        torch.testing.assert_close(module(x), expected)
    return module, [str(node.target) for node in module.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    "function",
    [F.silu, CONV, lambda x: CONV(x) * SCALE + x, lambda x: x.reshape(-1, 4, 36).mean(2).reshape(-1, 4, 1, 1)],
    ids=["pointwise", "convolution", "residual and weight", "reshapes"],
)
def test_chunks_of_frames_become_one(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    _, operators = hoisted(lambda x: chunked(function, x))
    assert "aten.cat.default" not in operators
    assert "aten.slice.Tensor" not in operators
    _, alone = hoisted(function)
    assert operators == alone


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([F.silu(x[:2]), torch.tanh(x[2:])]),
        lambda x: torch.cat([F.silu(x[2:]), F.silu(x[:2])]),
        lambda x: torch.cat([x[:2] * 2.0, x[2:] * 3.0]),
        lambda x: chunked(lambda part: part - part.mean(0, keepdim=True), x),
        lambda x: torch.cat([F.silu(x[:3]), F.silu(x[2:])]),
    ],
    ids=["two operators", "other order", "two settings", "over the frames", "overlap"],
)
def test_a_join_of_what_is_not_one_stays(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    _, operators = hoisted(function)
    assert "aten.cat.default" in operators


@pytest.mark.slow
def test_a_join_that_stands_later_is_not_taken_before_it_is_made() -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        parts = [torch.tanh(CONV(part)) for part in x.split(1)]
        early = torch.cat([torch.relu(part) for part in parts])
        return early + torch.cat(parts)

    _, operators = hoisted(twice)
    assert operators.count("aten.relu.default") == 1
