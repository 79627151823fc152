"""Random small graphs of the supported operators, lowered in both layouts, against eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from export.lowering import lower
from export.lowering.lower import max_rank, program_of, to_frames, to_video

CHANNELS = 4
Op = Callable[[torch.Tensor], torch.Tensor]


class Graph(nn.Module):
    """Operators one after another; each takes and gives a video with 4 channels and at least 2 of everything."""

    def __init__(self, operators: list[nn.Module | Op]) -> None:
        super().__init__()
        self.operators = operators
        self.layers = nn.ModuleList(operator for operator in operators if isinstance(operator, nn.Module))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for operator in self.operators:
            x = operator(x)
        return x


def attention(x: torch.Tensor) -> torch.Tensor:
    """Over space, each frame on its own."""
    tokens = x.permute(0, 2, 3, 4, 1).flatten(2, 3)
    mixed = F.scaled_dot_product_attention(tokens, tokens, tokens)
    return mixed.reshape(x.shape[0], x.shape[2], x.shape[3], x.shape[4], -1).permute(0, 4, 1, 2, 3)


def shuffled(x: torch.Tensor) -> torch.Tensor:
    """Channels to time and space, and back to 4 channels."""
    y = x.repeat(1, 8, 1, 1, 1).unflatten(1, (CHANNELS, 2, 2, 2)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return y.flatten(2, 3).flatten(3, 4).flatten(4, 5)


OPERATORS: dict[str, Callable[[], nn.Module | Op]] = {
    "conv": lambda: nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1),
    "causal conv": lambda: nn.Conv3d(CHANNELS, CHANNELS, (2, 3, 3), padding=(1, 1, 1), dilation=(2, 1, 1)),
    "depthwise": lambda: nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, padding_mode="replicate"),
    "transposed": lambda: nn.ConvTranspose3d(CHANNELS, CHANNELS, (2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1)),
    "group norm": lambda: nn.GroupNorm(2, CHANNELS),
    "instance norm": lambda: nn.InstanceNorm3d(CHANNELS),
    "average pool": lambda: nn.AvgPool3d((2, 1, 1), stride=1, padding=(1, 0, 0)),
    "max pool": lambda: nn.MaxPool3d(3, stride=1, padding=1),
    "silu": lambda: F.silu,
    "channel norm": lambda: lambda x: x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-3),
    "minus mean over time": lambda: lambda x: x - x.mean(dim=2, keepdim=True),
    "flip": lambda: lambda x: x.flip(2),
    "roll": lambda: lambda x: x.roll((1, -1), (2, 4)),
    "swap halves": lambda: lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1),
    "pad": lambda: lambda x: F.pad(x, (1, 0, 0, 1, 1, 0), mode="replicate"),
    "nearest": lambda: lambda x: F.interpolate(x, scale_factor=(2, 1, 1)),
    "softmax": lambda: lambda x: torch.softmax(x, dim=2),
    "attention": lambda: attention,
    "pixel shuffle": lambda: shuffled,
    "transpose space": lambda: lambda x: x.transpose(3, 4),
    "repeat": lambda: lambda x: torch.cat([x[:, :, :1].expand(-1, -1, 2, -1, -1), x], 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folded", "unrolled"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from(sorted(OPERATORS)), min_size=1, max_size=5).filter(
        lambda names: names.count("pixel shuffle") + names.count("nearest") + names.count("transposed") <= 1
    ),
    size=st.tuples(st.integers(2, 4), st.integers(3, 5), st.integers(3, 6)),
)
def test_a_random_graph_keeps_its_numbers(layout: str, names: list[str], size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    module = Graph([OPERATORS[name]() for name in names]).eval()
    video = torch.randn(1, CHANNELS, *size)
    lowered = lower(module, (video,), layout=layout)
    frames = to_frames(video)
    assert max_rank(program_of(lowered, [frames])) <= 4
    with torch.no_grad():
        expected, actual = module(video), to_video(lowered(frames))
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * max(float(expected.abs().max()), 1e-3)
