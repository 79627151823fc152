"""Matrix products in every spelling against torch's own, and the forms that they take."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from export.lowering.lower import to_frames
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly

Function = Callable[..., torch.Tensor]


class With(nn.Module):
    """A function of a video and of parameters of given shapes."""

    def __init__(self, function: Function, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.function = function
        self.weights = nn.ParameterList(torch.randn(shape, generator=generator) for shape in shapes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, *self.weights)


def operators(module: nn.Module) -> list[str]:
    """Names of the operators in the lowered graph."""
    lowered = lower(module, (torch.randn(VIDEO),))
    program = torch.export.export(lowered, (to_frames(torch.randn(VIDEO)),))
    return [node.target.__name__.split(".")[0] for node in program.graph.nodes if node.op == "call_function"]


def patches(x: torch.Tensor) -> torch.Tensor:
    """Patches of 2x3 as channels, last."""
    parts = x.reshape(1, 6, 5, 4, 2, 4, 3)
    return parts.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)  # (1, T, H/2, W/3, C*2*3)


@pytest.mark.parametrize(
    "module",
    [
        With(lambda x, w, b: F.linear(x.movedim(1, -1), w, b).movedim(-1, 1), (7, 6), (7,)),
        With(lambda x, w, b: F.linear(x, w, b), (7, 12), (7,)),
        With(lambda x, w: F.linear(x.movedim(2, -1), w).movedim(-1, 2), (7, 5)),
        With(lambda x, w, b: F.linear(patches(x), w, b).movedim(-1, 1), (7, 36), (7,)),
        With(lambda x, w: F.linear(x.permute(0, 2, 1, 4, 3).reshape(5, 6, 96), w), (3, 96)),
        With(lambda x, w: F.linear(x.permute(0, 3, 4, 2, 1).flatten(3), w), (3, 30)),
        With(lambda x, w: F.linear(x, w), (12,)),
        With(lambda x, w, b: F.linear(x, w, b), (1, 12), (1,)),
        With(lambda x, w, b: F.linear(x[..., :1], w, b), (4, 1), (4,)),
        With(lambda x, b: F.linear(x, torch.zeros(4, 12), b * 0 + 1), (4,)),
        With(lambda x, b: F.linear(x, x[0, 0, 0], b), (8,)),
    ],
    ids=[
        "channels first", "width", "time", "patches", "flattened picture", "mixed", "vector", "to one", "from one",
        "uniform", "computed weight",
    ],
)  # fmt: skip
def test_linear_layers_over_any_dimension_keep_their_numbers(module: nn.Module) -> None:
    assert_lowers_exactly(module)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (With(lambda x, w, b: F.linear(x.movedim(1, -1), w, b).movedim(-1, 1), (7, 6), (7,)), ["conv2d"]),
        (With(lambda x, w: F.linear(patches(x), w).movedim(-1, 1), (7, 36)), ["conv2d"]),
        (With(lambda x, w: torch.einsum("bcthw,oc->bothw", x, w), (7, 6)), ["conv2d"]),
        (With(lambda x, w: x @ w, (12, 7)), ["linear"]),
    ],
    ids=["channels first", "patches", "einsum", "matmul"],
)
def test_weights_are_laid_out_ahead_and_nothing_is_transposed(module: nn.Module, expected: list[str]) -> None:
    kept = [name for name in operators(module) if name != "reshape"]
    assert kept[: len(expected)] == expected
    assert set(kept) - set(expected) == set()


def test_a_patch_embedding_is_a_convolution_whose_stride_is_its_kernel() -> None:
    lowered = lower(With(lambda x, w: F.linear(patches(x), w).movedim(-1, 1), (7, 36)), (torch.randn(VIDEO),))
    assert [tuple(constant.shape) for constant in lowered.parameters()] == [(7, 6, 2, 3)]


@pytest.mark.parametrize(
    "module",
    [
        Apply(lambda x: x @ x.transpose(-1, -2)),
        Apply(lambda x: x @ x[0, 0, 0, 0]),
        Apply(lambda x: x[0, 0, 0, :, 0] @ x),
        Apply(lambda x: (x.unflatten(1, (2, 3)) @ x.transpose(3, 4)[:, None, :1]).flatten(1, 2)),
        With(lambda x, w: w @ x, (3, 8)),
        With(lambda x, w: x @ w, (6, 1, 12, 3)),
        With(lambda x, w: x @ w.expand(5, 12, 3), (12, 3)),
        Apply(lambda x: torch.mm(x[0, 0, 0], x[0, 0, 0].transpose(0, 1))),
        Apply(lambda x: torch.bmm(x[0, 0], x[0, 0].transpose(1, 2))),
        Apply(lambda x: torch.addmm(x[0, 0, 0, :, :8], x[0, 0, 0], x[0, 0, 1].T, beta=0.5, alpha=2)),
        Apply(lambda x: torch.addmm(x[0, 0, 0, :, :8], x[0, 0, 0], x[0, 0, 1].T, beta=0)),
        With(lambda x, b, w: torch.addmm(b, x[0, 0, 0], w), (3,), (12, 3)),
        Apply(lambda x: torch.baddbmm(x[0, 0, :, :, :8], x[0, 0], x[0, 0].transpose(1, 2))),
        Apply(lambda x: torch.addbmm(x[0, 0, 0, :, :8], x[0, 0], x[0, 0].transpose(1, 2))),
        Apply(lambda x: torch.addmv(x[0, 0, 0, :, 0], x[0, 0, 0], x[0, 0, 0, 0])),
        Apply(lambda x: torch.addr(x[0, 0, 0], x[0, 0, 0, :, 0], x[0, 0, 0, 0])),
        Apply(lambda x: torch.dot(x[0, 0, 0, 0], x[0, 0, 0, 0])),
        Apply(lambda x: torch.vdot(x[0, 0, 0, 0], x[0, 0, 0, 1])),
        Apply(lambda x: torch.mv(x[0, 0, 0], x[0, 0, 0, 0])),
        Apply(lambda x: torch.outer(x[0, 0, 0, 0], x[0, 0, 0, 0])),
        Apply(lambda x: torch.inner(x[0, 0, :, 0], x[0, :, 0, 0])),
        Apply(lambda x: torch.tensordot(x, x[0], ([1, -2], [0, 2]))),
        Apply(lambda x: torch.linalg.vecdot(x, x + 1, dim=1)),
    ],
)
def test_products_keep_their_numbers(module: nn.Module) -> None:
    assert_lowers_exactly(module)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.einsum("bcthw,bcthv->btwv", x, x),
        lambda x: torch.einsum("bcthw,bcshw->bhwts", x, x)[0],
        lambda x: torch.einsum("bcthw,bcthv,bct->btwv", x, x, x[..., 0, 0]),
        lambda x: torch.einsum("...hw,...hv->...wv", x, x),
        lambda x: torch.einsum("b...w,b...w", x, x[:, :, :, :1]),
        lambda x: torch.einsum("bcthw -> btc", x),
        lambda x: torch.einsum("bcthw->wb", x),
        lambda x: torch.einsum("bcthw,bcthw->bthw", x, x + 1),
        lambda x: torch.einsum("bcthw,c", x, x[0, :, 0, 0, 0]),
        lambda x: torch.einsum("bcthw,bc->bcthw", x, x[:, :, 0, 0, 0]),
        lambda x: torch.einsum("bcthw,c->bthw", x, torch.ones(6)),
        lambda x: torch.einsum("bcthw,bcthv->btwv", x[:, :1], x),
    ],
)
def test_einstein_sums_keep_their_numbers(function: Function) -> None:
    assert_lowers_exactly(Apply(function))


SIZES = {"a": 2, "b": 3, "c": 4, "d": 2, "e": 3}


def assert_equation_lowers(equation: str, constant: bool) -> None:
    """An equation of two parts of one video, or of a part of it and a constant, exactly as torch has it."""
    left, right = ([SIZES[letter] for letter in term] for term in equation.partition("->")[0].split(","))
    generator = torch.Generator().manual_seed(1)
    weight = torch.randint(-8, 9, right, generator=generator).float()

    def function(x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten()
        other = weight if constant else flat[-weight.numel() :].reshape(right)
        return torch.einsum(equation, flat[: math.prod(left)].reshape(left), other)

    assert_lowers_exactly(Apply(function), (1, 3, 4, 4, 4), whole=True)


@given(st.data())
@settings(max_examples=25)
def test_any_equation_of_two_operands_gives_what_torch_gives(data: st.DataObject) -> None:
    terms = [data.draw(st.permutations("abcde")) for _ in range(2)]
    terms = [term[: data.draw(st.integers(1, 5))] for term in terms]
    found = data.draw(st.permutations(sorted({letter for term in terms for letter in term})))
    out = "".join(found[: data.draw(st.integers(0, 4))])
    equation = f"{''.join(terms[0])},{''.join(terms[1])}->{out}"
    assert_equation_lowers(equation, constant=data.draw(st.booleans()))


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("equation", ["eabdc,adeb->", "abcde,edcba->", "ab,cd->", "a,a->"])
def test_a_sum_over_every_letter_gives_what_torch_gives(equation: str, constant: bool) -> None:
    assert_equation_lowers(equation, constant)


def test_a_diagonal_is_refused_with_its_equation() -> None:
    with pytest.raises(LoweringError, match="a diagonal, in the equation 'bcthh->bcth'"):
        lower(Apply(lambda x: torch.einsum("bcthh->bcth", x[..., :8])), (torch.randn(VIDEO),))
