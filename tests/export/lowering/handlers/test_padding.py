"""Padding: every mode on time, height and width, before and behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from export.lowering import lower
from export.lowering.lower import to_frames
from tests.conftest import Apply
from tests.export.lowering.check import VIDEO, assert_lowers_exactly

MODES = ("constant", "reflect", "replicate", "circular")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("amounts", [(1, 2, 0, 1, 2, 0), (6, 0, 5, 7, 3, 4), (-1, 2, 0, -3, 1, 0)], ids=str)
def test_three_padded_dimensions_keep_their_numbers(mode: str, amounts: tuple[int, ...]) -> None:
    assert_lowers_exactly(Apply(lambda x: F.pad(x, amounts, mode=mode)))


@pytest.mark.parametrize("mode", MODES[1:])
def test_a_convolution_pads_in_its_own_mode(mode: str) -> None:
    assert_lowers_exactly(nn.Conv3d(6, 4, 3, padding=(1, 2, 1), padding_mode=mode))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.pad(x, (1, 2, 1, 0), value=0.5),
        lambda x: F.pad(x, (0, 0, 0, 0, 2, 0, 1, 1), value=-1.0),
        lambda x: F.pad(x, (12, 12, 8, 8, 5, 5), mode="circular"),
        lambda x: F.pad(x[0], (1, 1, 2, 0, 1, 1), mode="reflect"),
        lambda x: F.pad(x[0, :, 0], (1, 0), mode="replicate"),
        lambda x: F.pad(x.transpose(1, 2)[0], (1, 0, 0, 2), mode="reflect"),
        lambda x: F.pad(x[:, :, :1], (0, 0, 0, 0, 2, 0), mode="replicate"),
        lambda x: torch.ops.aten.constant_pad_nd(x, [1, 0, 2, 1, 0, 1], 2.0),
        lambda x: torch.ops.aten.reflection_pad3d(x, [1, 0, 2, 1, 0, 1]),
        lambda x: torch.ops.aten.replication_pad3d(x, [1, 0, 2, 1, 0, 1]),
        lambda x: torch.ops.aten._pad_circular(x, [1, 0, 2, 1, 0, 1]),
        lambda x: torch.ops.aten._pad_enum(x, [1, 0, 2, 1, 0, 1], 2),
    ],
)
def test_every_name_and_rank_of_padding_keeps_its_numbers(function) -> None:  # type: ignore[no-untyped-def]
    assert_lowers_exactly(Apply(function))


def test_a_border_is_made_of_slices_of_the_video_itself() -> None:
    lowered = lower(Apply(lambda x: F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate")), (torch.randn(VIDEO),))
    program = torch.export.export(lowered, (to_frames(torch.randn(VIDEO)),))
    calls = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert calls == {"aten.slice.Tensor", "aten.cat.default"}
