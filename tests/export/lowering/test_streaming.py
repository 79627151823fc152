"""Streaming: the step of a causal model, driven frame by frame, gives the clip's numbers; other models are refused."""

from __future__ import annotations

from collections.abc import Callable

import diffusers
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering import LoweringError
from export.lowering.lower import max_rank, program_of
from export.lowering.streaming import StreamForm, stream
from tests.conftest import Apply
from toolkit import students
from toolkit.streaming import StreamDecoder, StreamFacts

LATENT = (1, 4, 4, 5, 6)
FRAMES = 9


def decoded(form: StreamForm, latent: torch.Tensor) -> torch.Tensor:
    """All frames, step by step."""

    def step(arrays: object) -> list[object]:
        return [output.numpy() for output in form.module(*map(torch.from_numpy, arrays))]  # type: ignore[call-overload]

    facts = StreamFacts(frames=form.frames, first_frames=form.first_frames)
    decoder = StreamDecoder(step, form.states, facts)  # type: ignore[arg-type]
    parts = decoder.decode_all(latent[0].transpose(0, 1)[:, None].numpy())
    return torch.cat([torch.from_numpy(part) for part in parts])


def assert_streams_exactly(module: nn.Module) -> StreamForm:
    """The step is of rank 4 and gives the frames of a clip longer than the one it was cut from."""
    torch.manual_seed(0)
    module = module.eval()
    form = stream(module, torch.randn(LATENT))
    assert max_rank(program_of(form.module, form.inputs())) <= 4
    latent = torch.randn(1, 4, FRAMES, 5, 6)
    with torch.no_grad():
        expected = module(latent)[0].transpose(0, 1)
        actual = decoded(form, latent)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()
    return form


def replicated(x: torch.Tensor, count: int) -> torch.Tensor:
    return torch.cat([x[:, :, :1]] * count + [x], dim=2)


def zeroed(x: torch.Tensor, count: int) -> torch.Tensor:
    return F.pad(x, (0, 0, 0, 0, count, 0))


class Causal(nn.Module):
    """Convolutions that look back, each behind padding of one kind."""

    def __init__(self, pad: Callable[[torch.Tensor, int], torch.Tensor], kernel: int = 3, dilation: int = 1) -> None:
        super().__init__()
        self.pad, self.back = pad, (kernel - 1) * dilation
        self.first = nn.Conv3d(4, 16, (kernel, 3, 3), padding=(0, 1, 1), dilation=(dilation, 1, 1))
        self.second = nn.Conv3d(16, 3, (kernel, 1, 1), dilation=(dilation, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.first(self.pad(x, self.back)))
        return self.second(self.pad(x, self.back))


class Upsampling(nn.Module):
    """Two frames for each, the first one of all dropped, and a residual around a convolution of them."""

    def __init__(self, drop: int) -> None:
        super().__init__()
        self.drop = drop
        self.widen = nn.Conv3d(4, 8, (3, 3, 3), padding=(0, 1, 1))
        self.mix = nn.Conv3d(4, 4, (3, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(replicated(x, 2)).unflatten(1, (4, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)
        x = x[:, :, self.drop :]
        return x + self.mix(replicated(x, 2))


class Cached(nn.Module):
    """Frame by frame with a cache of what was convolved last; the first frame is not doubled in time."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv3d(4, 8, 3, padding=(0, 1, 1))
        self.widen_time = nn.Conv3d(8, 16, (3, 1, 1))
        self.mix = nn.Conv3d(8, 3, 3, padding=(0, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts: list[torch.Tensor] = []
        caches: dict[nn.Module, torch.Tensor] = {}
        for number in range(x.shape[2]):
            frames = F.silu(self.remembering(caches, self.widen, x[:, :, number : number + 1]))
            if number:
                doubled = self.remembering(caches, self.widen_time, frames)
                frames = doubled.unflatten(1, (8, 2)).transpose(2, 3).flatten(2, 3)
            parts.append(self.remembering(caches, self.mix, frames))
        return torch.cat(parts, dim=2)

    def remembering(self, caches: dict[nn.Module, torch.Tensor], conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([caches.get(conv, torch.zeros_like(x[:, :, :1]).repeat(1, 1, 2, 1, 1)), x], dim=2)
        caches[conv] = x[:, :, -2:]
        result = conv(x)
        assert isinstance(result, torch.Tensor)
        return result


class Windowed(nn.Module):
    """Each frame from a window of its own, and twice as many frames at the nearest places, but for the first."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv3d(4, 8, 3, padding=(0, 1, 1))
        self.norm = nn.GroupNorm(2, 8)
        self.mix = nn.Conv3d(8, 3, 3, padding=(0, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.windows(self.widen, x)
        x = torch.cat([x[:, :, :1], F.interpolate(x[:, :, 1:], scale_factor=(2, 1, 1))], dim=2)
        frames = self.norm(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (1, -1)).transpose(1, 2)
        return self.windows(self.mix, frames)

    def windows(self, conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = replicated(x, 2)
        return torch.cat([conv(x[:, :, start : start + 3]) for start in range(x.shape[2] - 2)], dim=2)


class Chunked(nn.Module):
    """A norm that takes five frames at a time, whatever frames a step has."""

    def __init__(self) -> None:
        super().__init__()
        self.upsample, self.norm = Upsampling(1), nn.GroupNorm(2, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = self.upsample(x).transpose(1, 2).flatten(0, 1)
        normed = torch.cat([self.norm(chunk) for chunk in frames.split(5)])
        return replicated(normed.unflatten(0, (1, -1)).transpose(1, 2), 1)[:, :, 1:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pad", "kernel", "dilation"), [(replicated, 3, 1), (zeroed, 3, 1), (zeroed, 2, 2), (replicated, 5, 1)]
)
def test_convolutions_that_look_back_stream_exactly(
    pad: Callable[[torch.Tensor, int], torch.Tensor], kernel: int, dilation: int
) -> None:
    assert_streams_exactly(Causal(pad, kernel, dilation))


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0, 1])
def test_upsampling_in_time_streams_exactly_whether_or_not_it_drops_a_frame(drop: int) -> None:
    form = assert_streams_exactly(Upsampling(drop))
    assert (form.frames, form.first_frames) == (2, 2 - drop)


@pytest.mark.slow
@pytest.mark.parametrize("build", [Cached, Windowed, Chunked])
def test_caches_windows_and_chunks_stream_exactly(build: type[nn.Module]) -> None:
    form = assert_streams_exactly(build())
    assert (form.frames, form.first_frames) == (2, 1)


WAN = {"z_dim": 4, "base_dim": 8, "dim_mult": [1, 1, 1], "num_res_blocks": 1, "temperal_downsample": [False, True]}
MAGVIT = {
    "latent_channels": 4,
    "block_out_channels": (8, 8),
    "down_block_types": ("SpatialDownBlock3D", "SpatialTemporalDownBlock3D"),
    "up_block_types": ("SpatialUpBlock3D", "SpatialTemporalUpBlock3D"),
    "norm_num_groups": 4,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "config"), [("AutoencoderKLWan", WAN), ("AutoencoderKLMagvit", MAGVIT)])
def test_decoders_of_diffusers_that_look_back_stream_exactly(name: str, config: dict[str, object]) -> None:
    vae = getattr(diffusers, name)(**config).eval()
    assert_streams_exactly(Apply(lambda z: vae.decode(z, return_dict=False)[0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"keep_first_frames": True},
        {"strides": [(1, 1), (4, 1)], "depthwise_kernel": 5, "separable": [True, True, False]},
        {"temporal_kernels": [3, 3, 1], "normed": [True, True, False], "activation": "relu"},
    ],
    ids=["demo", "all frames kept", "four frames a step", "mobile"],
)
def test_the_causal_student_streams_exactly(overrides: dict[str, object]) -> None:
    config = {"latent_channels": 4, "widths": [16, 16, 16], "temporal_padding": "causal", **overrides}
    assert_streams_exactly(students.build("turbo_vaed", "demo", config))


def test_a_model_of_single_frames_has_no_states() -> None:
    form = assert_streams_exactly(nn.Conv3d(4, 3, (1, 3, 3), padding=(0, 1, 1)))
    assert form.states == []


def test_one_state_holds_all_that_is_kept_of_one_signal() -> None:
    form = assert_streams_exactly(nn.Sequential(Upsampling(1), nn.Conv3d(4, 3, 1)))
    assert form.states == [(2, 4, 5, 6), (2, 4, 5, 6)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        nn.Conv3d(4, 3, 3, padding=1),
        Apply(lambda x: x - x.mean(dim=2, keepdim=True)),
        Apply(lambda x: x.flip(2)),
    ],
    ids=["centred", "mean over time", "backwards"],
)
def test_a_model_that_looks_ahead_is_refused_with_the_remedy(module: nn.Module) -> None:
    with pytest.raises(LoweringError, match=r"cannot stream: .*tiles of time"):
        stream(module, torch.randn(LATENT))
