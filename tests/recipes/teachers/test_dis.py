"""Methods that need no training, on a picture that moves by a known distance."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from recipes.teachers.dis import BASELINES, Dis, baseline
from toolkit.errors import UserError
from toolkit.flow_metrics import flow_report

SHIFT = (6, -4)  # x, y


def moving_pair() -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of two pairs `(2, 3, 96, 128)`; the second pair runs backwards."""
    grain = cv2.GaussianBlur(np.random.default_rng(0).normal(128, 400, (160, 200, 3)), (0, 0), 3)
    picture = torch.from_numpy(grain.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)
    first = picture[:, 32:128, 32:160]
    second = picture[:, 32 - SHIFT[1] : 128 - SHIFT[1], 32 - SHIFT[0] : 160 - SHIFT[0]]
    return torch.stack([first, second]), torch.stack([second, first])


def error(flow: torch.Tensor) -> float:
    shift = torch.tensor(SHIFT, dtype=torch.float32).view(2, 1, 1)
    truth = torch.stack([shift, -shift]).expand(2, 2, 96, 128)
    inner = torch.zeros(2, 96, 128, dtype=torch.bool)
    inner[:, 16:-16, 16:-16] = True
    scores = flow_report(flow, truth, inner).all
    assert scores is not None
    return scores.epe


@pytest.mark.parametrize("name", ["dis-ultrafast", "dis-fast", "dis-medium", "farneback"])
def test_a_shift_is_found_forwards_and_backwards(name: str) -> None:
    image1, image2 = moving_pair()
    flow = baseline(name).flow(image1, image2)
    assert flow.dtype == torch.float32
    assert flow.shape == (2, 2, 96, 128)
    assert error(flow) < 1


def test_zero_stands_still() -> None:
    flow = baseline("zero").flow(*moving_pair())
    assert not flow.any()
    assert error(flow) == pytest.approx((6**2 + 4**2) ** 0.5)


def test_a_pair_gives_the_same_whatever_came_before() -> None:
    image1, image2 = moving_pair()
    teacher = Dis("fast")
    assert torch.equal(teacher.flow(image1, image2)[1:], teacher.flow(image1[1:], image2[1:]))


def test_unknown_methods_are_named() -> None:
    with pytest.raises(UserError, match="unknown flow baseline 'dis'"):
        baseline("dis")
    with pytest.raises(UserError, match="unknown preset of DIS 'slow'"):
        Dis("slow")
    assert set(BASELINES) == {"dis-ultrafast", "dis-fast", "dis-medium", "farneback", "zero"}


@pytest.mark.parametrize("name", ["dis-medium", "farneback"])
def test_images_that_are_too_small_are_refused(name: str) -> None:
    small = torch.zeros(1, 3, 15, 40, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"images of 15x40.*needs 16x16"):
        baseline(name).flow(small, small)
    enough = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    assert baseline(name).flow(enough, enough).shape == (1, 2, 16, 16)


def test_what_it_saw_before_changes_nothing() -> None:
    random = torch.Generator().manual_seed(0)

    def images(height: int, width: int) -> torch.Tensor:
        return torch.randint(0, 256, (1, 3, height, width), dtype=torch.uint8, generator=random)

    first, second = images(64, 96), images(64, 96)
    fresh, used = Dis("fast"), Dis("fast")
    used.flow(images(64, 80), images(64, 80))
    assert torch.equal(used.flow(first, second), fresh.flow(first, second))
