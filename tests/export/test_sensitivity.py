"""The layer that a precision damages is found, and kept; the measurements are those of real artifacts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from export.reductions import palettized, quantized_values, quantized_weight
from export.sensitivity import fewest_wide, rank
from export.targets import Conversion, Session, Target, Written, find_target
from toolkit.errors import CheckFailed, UserError


class Outlying(nn.Module):
    """Three layers; in each output channel of the second one weight outgrows the others, and meets only zeros."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.outlying = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(8, 3, 1)
        with torch.no_grad():
            self.first.weight[0] = 0
            self.first.bias[0] = 0  # type: ignore[index]
            self.outlying.weight[:, 0] = 300

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.outlying(torch.tanh(self.first(x)))))


class Mixture(nn.Module):
    """Layers of every kind: large and small, a norm's mean, one transposed, a product, and a flow's predictor."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.large, self.small = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 4, 1)
        self.wide, self.up = nn.Conv2d(32, 32, 3, padding=1), nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.mean, self.flow = nn.Parameter(torch.full((1, 32, 1, 1), 1 / 32)), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.wide(torch.relu(self.large(x)))
        y = self.small(y * torch.rsqrt(nn.functional.conv2d(y.square(), self.mean) + 1e-6))
        y = nn.functional.grid_sample(y, self.flow(y).permute(0, 2, 3, 1), align_corners=False)
        return self.up(y @ y.transpose(-1, -2))


def conversion(network: nn.Module) -> Conversion:
    torch.manual_seed(1)
    x = torch.randn(1, 3, 8, 8)
    program = torch.export.export(network.eval(), (x,))
    return Conversion(program, ["x", "y"], [[x.numpy()], [torch.randn(1, 3, 8, 8).numpy()]])


def test_the_layer_with_outlying_weights_ranks_first() -> None:
    ranked = rank(conversion(Outlying()), "onnx-int8")
    assert [(one.name, one.node) for one in ranked[:1]] == [("outlying", "conv2d_1")]
    assert {one.node for one in ranked} == {"conv2d", "conv2d_1", "conv2d_2"}
    assert ranked[0].psnr_db < 25 < ranked[1].psnr_db <= ranked[2].psnr_db


@pytest.mark.parametrize(
    ("target", "listed"),
    [
        ("coreml-fp16", {"large", "wide", "small", "mean", "flow", "up", "matmul"}),
        ("coreml-int4", {"wide"}),
        ("coreml-w8a8", {"large", "wide", "small", "mean", "flow", "matmul"}),
        ("executorch-xnnpack-int8", {"large", "wide", "small", "flow"}),
        ("onnx-fp16", {"large", "wide", "small", "up", "matmul"}),
        ("onnx-int8", {"large", "wide", "small"}),
    ],
)
def test_layers_that_a_target_never_reduces_are_no_candidates(target: str, listed: set[str]) -> None:
    ranked = rank(conversion(Mixture()), target)
    assert {one.node if one.operator == "aten.matmul.default" else one.name for one in ranked} == listed


@pytest.mark.slow
def test_exactly_the_layer_with_outlying_weights_is_kept(tmp_path: Path) -> None:
    given = conversion(Outlying())
    result = fewest_wide(given, find_target("onnx-int8"), 35, tmp_path)
    assert result.wide == {"conv2d_1"}
    assert next((one.name, kept) for one, kept in result.rows) == ("outlying", True)
    assert [kept for _, kept in result.rows] == [True, False, False]
    assert result.psnr_db >= 35
    nothing = next(step for step in result.steps if not step.kept)
    assert nothing.psnr_db is not None
    assert nothing.psnr_db < 35
    assert list(tmp_path.iterdir()) == []


class Chain(nn.Module):
    """Layers of which one in so many, the first included, has outlying weights, that meet only zeros."""

    def __init__(self, length: int, one_in: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(length))
        with torch.no_grad():
            for layer in self.layers[::one_in]:
                layer.weight[:, 0] = 30

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([x, x, x[:, :2]], 1)
        for layer in self.layers:
            y = y + layer(torch.cat([torch.zeros_like(y[:, :1]), torch.tanh(y[:, 1:])], 1))
        return y


@pytest.mark.slow
@pytest.mark.parametrize(("budget_db", "kept"), [(35, 3), (45, 4)])
def test_estimates_leave_three_conversions_to_the_search(budget_db: float, kept: int, tmp_path: Path) -> None:
    """None kept, as many as estimates say, and one less."""
    result = fewest_wide(conversion(Chain(12, one_in=3)), find_target("onnx-int8"), budget_db, tmp_path)
    assert result.wide <= {"conv2d", "conv2d_3", "conv2d_6", "conv2d_9"}
    assert [len(step.kept) for step in result.steps[:3]] == [0, kept, kept - 1]
    assert [step.meets(budget_db) for step in result.steps[:3]] == [False, True, False]


Refuses = Callable[[frozenset[str]], bool]


def worse(refuses: Refuses = lambda _kept: False, error: float = 0.0) -> Target:
    """8 bits of ONNX that refuse some sets of layers kept, and add an `error` to outputs."""
    target = find_target("onnx-int8")

    def convert(given: Conversion, path: Path) -> Written:
        if refuses(given.wide):
            raise CheckFailed("refused")
        return target.convert(given, path)

    def open_worse(path: Path) -> Session:
        session = target.open(path)
        return replace(session, call=lambda arrays: [output + error for output in session.call(arrays)])

    return replace(target, convert=convert, open=open_worse, open_rounded=None)


@pytest.fixture(scope="module")
def alike() -> Conversion:
    """A model of twelve layers that all hurt."""
    return conversion(Chain(12, one_in=1))


@pytest.mark.slow
@pytest.mark.parametrize("budget_db", [26, 30])
@pytest.mark.parametrize(
    ("refused", "floor", "most"),
    [((), 0.0, 3), ((), 0.5, 4), ((1, 2, 3), 0.0, 5), ((4, 5, 6, 7), 0.0, 6)],
    ids=["as estimated", "a floor", "few refused", "the place refused"],
)
def test_the_shortest_list_is_found_in_few_conversions(
    alike: Conversion, budget_db: float, refused: tuple[int, ...], floor: float, most: int, tmp_path: Path
) -> None:
    """`floor` is the share of the budget's noise that no layer kept takes away."""
    given = alike
    span = np.ptp(given.program.module()(torch.from_numpy(given.calibration[0][0])).detach().numpy())
    error = math.sqrt(floor) * 10 ** (-budget_db / 20) * float(span)
    result = fewest_wide(given, worse(lambda kept: len(kept) in refused, error), budget_db, tmp_path)
    nodes = [layer.node for layer in result.layers]
    prefixes = {len(step.kept): step for step in result.steps if step.kept == set(nodes[: len(step.kept)])}
    found = min(length for length, step in prefixes.items() if step.meets(budget_db))
    assert found >= len(result.wide) > 0
    assert found - 1 in prefixes
    assert not any(step.meets(budget_db) for length, step in prefixes.items() if length < found)
    assert len(prefixes) <= most


@pytest.mark.slow
def test_a_layer_that_the_shortest_list_does_not_need_is_given_back(alike: Conversion, tmp_path: Path) -> None:
    """Layers that hurt much alone may hurt little where all others are reduced too."""
    result = fewest_wide(alike, worse(), 30, tmp_path)
    nodes = [layer.node for layer in result.layers]
    length = max(nodes.index(node) for node in result.wide) + 1
    assert len(result.wide) < length
    assert result.psnr_db >= 30
    shorter = next(step for step in result.steps if step.kept == set(nodes[: length - 1]))
    assert not shorter.meets(30)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("refuses", "outcome"), [(bool, "dB is the best"), (lambda _kept: True, "refused")], ids=["all others", "all"]
)
def test_no_list_is_found_where_all_are_refused(
    alike: Conversion, refuses: Refuses, outcome: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckFailed, match=outcome):
        fewest_wide(alike, worse(refuses), 40, tmp_path)


@pytest.mark.slow
def test_all_layers_are_kept_where_all_are_needed(alike: Conversion, tmp_path: Path) -> None:
    result = fewest_wide(alike, worse(lambda kept: 0 < len(kept) < 12), 60, tmp_path)
    assert len(result.wide) == 12
    assert len(result.steps) <= 5


@pytest.mark.slow
def test_nothing_is_kept_where_the_budget_is_met_without(tmp_path: Path) -> None:
    result = fewest_wide(conversion(nn.Conv2d(3, 3, 1)), find_target("onnx-int8"), 30, tmp_path)
    assert result.wide == frozenset()
    assert len(result.steps) == 1


@pytest.mark.slow
def test_a_budget_out_of_reach_is_refused_with_the_best_that_was_reached(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"onnx-int8: 1\d\d\.\d dB is the best .* the budget is 300 dB"):
        fewest_wide(conversion(Outlying()), find_target("onnx-int8"), 300, tmp_path)


@pytest.mark.slow
def test_what_a_converter_or_a_runtime_raises_is_a_refusal_in_one_line(tmp_path: Path) -> None:
    target = find_target("onnx-int8")

    def keeps_none(given: Conversion, path: Path) -> Written:
        if given.wide:
            raise RuntimeError("an operator\nthat it does not know")
        return target.convert(given, path)

    def opens_none(path: Path) -> Session:
        raise ValueError("a format\nthat it does not know")

    with pytest.raises(CheckFailed, match=r"onnx-int8: [\d.]+ dB is the best"):
        fewest_wide(conversion(Outlying()), replace(target, convert=keeps_none), 300, tmp_path)
    with pytest.raises(CheckFailed, match=r"onnx-int8 cannot be run here \(a format that it does not know\)"):
        fewest_wide(conversion(Outlying()), replace(target, open=opens_none), 300, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fp16_of_onnx_is_measured_with_each_result_rounded(tmp_path: Path) -> None:
    given, target = conversion(nn.Conv2d(3, 3, 1)), find_target("onnx-fp16")
    assert target.open_rounded is not None
    found = fewest_wide(given, target, 50, tmp_path).psnr_db
    target.convert(given, tmp_path / "model.onnx")
    reached = []
    for opening in (target.open_rounded, target.open):
        session = opening(tmp_path / "model.onnx")
        pairs = [
            (session.call(arrays)[0], *given.program.module()(torch.from_numpy(arrays[0])).detach().numpy()[None])
            for arrays in given.calibration
        ]
        reached.append(
            min(20 * np.log10(np.ptp(right) / np.sqrt(np.mean((ours - right) ** 2))) for ours, right in pairs)
        )
    assert found == pytest.approx(reached[0], abs=0.01)
    assert found < reached[1] - 0.1


def test_precisions_that_reduce_nothing_and_sources_without_inputs_are_refused() -> None:
    given = conversion(nn.Conv2d(3, 3, 1))
    with pytest.raises(UserError, match="onnx-fp32: reduces no layer"):
        rank(given, "onnx-fp32")
    with pytest.raises(CheckFailed, match="onnx-int8: there are no real inputs"):
        rank(Conversion(given.program, given.names), "onnx-int8")


def test_fp16_hurts_less_than_8_bits_and_fewer_clusters_hurt_more() -> None:
    given = conversion(Outlying())
    best = {target: rank(given, target)[-1].psnr_db for target in ("onnx-fp16", "onnx-int8")}
    assert best["onnx-fp16"] > best["onnx-int8"] + 20
    given = conversion(Mixture())
    hurt = {bits: rank(given, f"coreml-pal{bits}")[0].psnr_db for bits in (4, 8)}
    assert hurt[8] > hurt[4]


def test_reduced_tensors_take_as_many_values_as_their_bits_allow() -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 16, 8, 8)
    assert len(palettized(weight, 4).unique()) <= 16
    assert float((palettized(weight, 8) - weight).abs().mean()) < 0.02
    assert all(len(row.unique()) <= 255 for row in quantized_weight(weight, 0))
    np.testing.assert_allclose(quantized_weight(weight, 0), weight, atol=float(weight.abs().max()) / 254 * 1.01)
    assert all(len(row.unique()) <= 15 for row in quantized_weight(weight, 0, levels=15))
    values = quantized_values(weight)
    assert len(values.unique()) <= 256
    step = float(weight.max() - weight.min()) / 255
    np.testing.assert_allclose(values, weight, atol=step * 1.01)
    assert torch.equal(quantized_values(torch.zeros(3)), torch.zeros(3))
