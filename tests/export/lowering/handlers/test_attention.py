"""Softmax and attention over space, time and both, against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError, lower
from export.lowering.lower import to_frames
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly

FRAMES, PIXELS = 5, 96


class Attention(nn.Module):
    """Two heads over the channel-last tokens of a frame ("space"), of a place ("time") or of the video ("both")."""

    def __init__(self, over: str, mask: torch.Tensor | None = None, **options: object) -> None:
        super().__init__()
        self.over, self.options = over, options
        self.register_buffer("mask", mask)
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, t, h, w = x.shape
        last = x.permute(0, 3, 4, 2, 1) if self.over == "time" else x.permute(0, 2, 3, 4, 1)
        rows = {"space": b * t, "time": b * h * w, "both": b}[self.over]
        tokens = last.reshape(rows, -1, c)
        q, k, v = self.qkv(tokens).reshape(*tokens.shape[:2], 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        heads = F.scaled_dot_product_attention(q, k, v, self.mask, **self.options)
        merged = self.out(heads.transpose(1, 2).reshape(tokens.shape)).reshape(last.shape)
        return x + (merged.permute(0, 4, 3, 1, 2) if self.over == "time" else merged.movedim(-1, 1))


class Windows(nn.Module):
    """Attention within windows of 4x6 places, by reshapes of rank 8, with a bias a head and a mask a window."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)
        self.bias = nn.Parameter(torch.randn(2, 24, 24))
        self.register_buffer("mask", torch.where(torch.rand(20, 24, 24) > 0.5, 0.0, -100.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, t, h, w = x.shape
        parts = x.movedim(1, -1).view(b, t, 1, h // 4, 4, w // 6, 6, c)
        windows = parts.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, 24, c)
        q, k, v = self.qkv(windows).reshape(-1, 24, 3, 2, 3).permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) * 3**-0.5 + self.bias
        scores = (scores.view(b, 20, 2, 24, 24) + self.mask[:, None]).view(-1, 2, 24, 24)
        merged = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, 24, c))
        parts = merged.view(b, t, h // 4, w // 6, 1, 4, 6, c).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return parts.reshape(b, t, h, w, c).movedim(-1, 1)


class OfImages(nn.Module):
    """One head over each frame, its tokens projected by convolutions, channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Conv3d(6, 18, 1), nn.Conv3d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, t, h, w = x.shape
        q, k, v = (y.transpose(1, 2).reshape(b * t, 1, c, h * w).mT for y in self.qkv(x).chunk(3, 1))
        merged = F.scaled_dot_product_attention(q, k, v).mT.reshape(b, t, c, h, w).transpose(1, 2)
        return x + self.out(merged)


class Context(nn.Module):
    """Queries of a video, keys and values of a learned context."""

    def __init__(self) -> None:
        super().__init__()
        self.context, self.keys = nn.Parameter(torch.randn(1, 7, 6)), nn.Linear(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(tokens, self.keys(self.context), self.context).mT.reshape(x.shape)


def shown(*shape: int, blind: bool = False) -> torch.Tensor:
    """A mask that hides half of all keys, and all from one query if `blind`."""
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(2)) > 0.5
    mask[..., 0] = True
    if blind:
        mask[..., 1, :] = False
    return mask


def offsets(mask: torch.Tensor) -> torch.Tensor:
    """The same as numbers to add, not all of them 0 where keys are shown."""
    return torch.where(mask, torch.linspace(-1, 1, mask.shape[-1]), -math.inf)


@pytest.mark.parametrize(
    "module",
    [
        Attention("space"),
        Attention("time"),
        Attention("both"),
        Attention("space", scale=0.3),
        Attention("time", is_causal=True),
        Attention("space", shown(PIXELS, PIXELS)),
        Attention("space", offsets(shown(PIXELS, PIXELS))),
        Attention("time", shown(PIXELS, 1, FRAMES, FRAMES)),
        Attention("time", torch.linspace(0, 1, 10).reshape(2, 1, FRAMES)),
        Attention("time", torch.ones(FRAMES, FRAMES, dtype=torch.bool)),
        Attention("time", shown(FRAMES, FRAMES, blind=True)),
        Attention("time", offsets(shown(FRAMES, FRAMES, blind=True))),
        Attention("time", torch.zeros(FRAMES, FRAMES, dtype=torch.bool)),
        Windows(),
        OfImages(),
        Context(),
    ],
    ids=[
        "space", "time", "both", "scale", "causal", "mask", "offsets", "mask a place", "offsets a head", "all shown",
        "a blind query", "offsets with a blind query", "none shown", "windows", "channels first", "context",
    ],
)  # fmt: skip
def test_attention_keeps_its_numbers(module: nn.Module) -> None:
    assert_lowers_exactly(module)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1),
        lambda x: F.scaled_dot_product_attention(*[x.unflatten(1, (2, 3)) + i for i in range(3)]).reshape(x.shape),
        lambda x: F.scaled_dot_product_attention(x, x, x + 1, attn_mask=x[..., :8] > 0.5),
        lambda x: F.scaled_dot_product_attention(x, x, x + 1, attn_mask=x[..., :1] > 0),
        lambda x: F.scaled_dot_product_attention(
            x, x, x + 1, attn_mask=x[..., :8].masked_fill(x[..., :1] > 0, -math.inf)
        ),
        lambda x: F.scaled_dot_product_attention(
            *[y.transpose(1, 2) for y in (x, x[:, :2], x[:, 1:3])], enable_gqa=True
        ),
        lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :, :1]),
    ],
    ids=["rank 5", "rank 6", "computed mask", "computed rows", "computed offsets", "shared heads", "broadcast"],
)
def test_attention_of_any_rank_keeps_its_numbers(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_lowers_exactly(Apply(function))


def test_heads_that_share_keys_and_values_are_not_repeated() -> None:
    def shared(x: torch.Tensor) -> torch.Tensor:
        q, k = x.transpose(1, 2), x[:, :2].transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, k + 1, enable_gqa=True).transpose(1, 2)

    program = torch.export.export(lower(Apply(shared), (torch.randn(VIDEO),)), (to_frames(torch.randn(VIDEO)),))
    shapes = [tuple(n.meta["val"].shape) for n in program.graph.nodes if n.target == torch.ops.aten.bmm.default]
    assert shapes == [(10, 24, 8), (10, 24, 12)]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.softmax(1),
        lambda x: x.softmax(2),
        lambda x: x.softmax(-1),
        lambda x: x.softmax(0),
        lambda x: x.softmax(1, dtype=torch.float64),
        lambda x: x.reshape(1, 6, 5, 4, 2, 12).transpose(3, 4).flatten(3).softmax(-1),
        lambda x: x[:, :, :1].expand(1, 6, 3, 8, 12).softmax(2),
        lambda x: F.softmin(x, 3),
        lambda x: F.log_softmax(x, 1),
        lambda x: F.log_softmax(100 * x, 2),
        lambda x: torch.special.log_softmax(x, -1),
    ],
)
def test_softmax_along_any_dimension_keeps_its_numbers(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_lowers_exactly(Apply(function))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Attention("time", torch.full((FRAMES, FRAMES), -1e5)), "hides all keys of a query by finite numbers"),
        (Attention("time", dropout_p=0.5), "dropout of 0.5"),
    ],
    ids=["mask", "dropout"],
)
def test_what_attention_cannot_be_is_refused(module: nn.Module, reason: str) -> None:
    with pytest.raises(LoweringError, match=reason):
        lower(module, (torch.randn(VIDEO),))
