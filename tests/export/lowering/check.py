"""The one question put to every handler: same numbers, no rank above 4?"""

from __future__ import annotations

import torch
from torch import nn

from export.lowering import lower
from export.lowering.lower import max_rank, to_frames, to_video
from export.lowering.nested import tensors_in

VIDEO = (1, 6, 5, 8, 12)


class ChannelLast(nn.Module):
    """A norm over the last dimension, in the middle of a video."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.norm(x.movedim(1, -1)).movedim(-1, 1)
        assert isinstance(result, torch.Tensor)
        return result


def assert_lowers_exactly(module: nn.Module, shape: tuple[int, ...] = VIDEO, *, whole: bool = False) -> None:
    """The lowered module and its exported graph: rank 4 at most, and the module's own numbers.

    The video is normal noise, or with `whole` whole numbers from -8 to 8. Sums of these are the same in any order,
    which sums of noise that nearly cancel are not: their rounding is as large as what is left of them.
    """
    torch.manual_seed(0)
    module = module.eval()
    video = torch.randint(-8, 9, shape).float() if whole else torch.randn(shape)
    lowered = lower(module, (video,))
    frames = to_frames(video)
    program = torch.export.export(lowered, (frames,))
    assert max_rank(program) <= 4
    with torch.no_grad():
        expected = tensors_in(module(video))
        for results in (lowered(frames), program.module()(frames)):
            for result, wanted in zip(tensors_in(results), expected, strict=True):
                actual = to_video(result) if wanted.ndim == 5 else result
                assert (actual.shape, actual.dtype) == (wanted.shape, wanted.dtype)
                actual, wanted = actual.double(), wanted.double()  # booleans and whole numbers too
                assert (actual - wanted).abs().max() <= 1e-5 * wanted.abs().max()
