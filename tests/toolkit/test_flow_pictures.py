"""Pictures of flow: one scale for several, white for rest, black for the unknown, errors by their size."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from toolkit.flow_pictures import (
    error_picture,
    flow_picture,
    flow_radius,
    image_picture,
    overlay_picture,
    pair_pictures,
    png_bytes,
    wheel_picture,
    write_png,
)


def uniform(x: float, y: float) -> torch.Tensor:
    return torch.tensor([x, y], dtype=torch.float32).view(2, 1, 1).expand(2, 4, 5).clone()


def test_rest_is_white_and_directions_have_colours_of_their_own() -> None:
    assert (flow_picture(uniform(0, 0)) == 255).all()
    colours = [tuple(flow_picture(uniform(x, y), radius=1)[0, 0]) for x, y in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    assert len(set(colours)) == 4
    red, _, cyan, _ = (np.array(colour, int) for colour in colours)
    assert red[0] > 250 > red[2]  # to the right is red, to the left its complement, as in Middlebury's wheel
    assert cyan[0] < 10 < cyan[2]


def test_a_radius_makes_pictures_comparable() -> None:
    near, far = uniform(2, 1), uniform(4, 2)
    assert np.array_equal(flow_picture(near), flow_picture(far))
    assert not np.array_equal(flow_picture(near, radius=10), flow_picture(far, radius=10))
    assert np.array_equal(flow_picture(far, radius=1), flow_picture(near, radius=1))  # both are cut to the rim
    assert flow_picture(near, radius=10).shape == (4, 5, 3)


def test_unknown_points_are_black_and_change_no_other() -> None:
    flow = uniform(3, -1)
    want = flow_picture(flow)
    flow[1, 2, 3] = math.nan
    found = flow_picture(flow)
    assert not found[2, 3].any()
    want[2, 3] = 0
    np.testing.assert_array_equal(found, want)


def test_the_radius_covers_a_share_of_all_known_vectors() -> None:
    lengths = torch.arange(101, dtype=torch.float32).view(1, 1, 101)
    flow = torch.cat([lengths, torch.zeros_like(lengths)])
    assert flow_radius(flow, share=0.5) == pytest.approx(50)
    flow[0, 0, 100] = math.nan
    assert flow_radius(flow, flow, share=1.0) == pytest.approx(99)
    assert flow_radius(flow * math.nan) == 0


def test_the_wheel_is_white_in_the_middle_and_black_outside() -> None:
    wheel = wheel_picture(51)
    assert (wheel[25, 25] >= 254).all()
    assert not wheel[0, 0].any()
    np.testing.assert_array_equal(wheel[25, 50], flow_picture(uniform(1, 0), radius=1)[0, 0])


def test_errors_have_the_colours_of_their_steps() -> None:
    truth = torch.zeros(2, 1, 5)
    truth[0, 0, 4] = 200  # its threshold is 10 px
    wrong = truth.clone()
    wrong[1, 0] = torch.tensor([0.0, 2.9, 3.1, 60.0, 9.0])
    picture = error_picture(wrong, truth).astype(int)
    assert picture[0, 0].tolist() == [49, 54, 149]
    assert picture[0, 1].tolist() == picture[0, 4].tolist() == [224, 243, 248]
    assert picture[0, 2].tolist() == [254, 224, 144]
    assert picture[0, 3].tolist() == [165, 0, 38]
    valid = torch.tensor([[True, False, True, True, True]])
    assert not error_picture(wrong, truth, valid)[0, 1].any()
    assert not error_picture(wrong, truth * math.nan).any()


def test_an_overlay_is_half_image_and_half_flow() -> None:
    image = torch.full((3, 4, 5), 100, dtype=torch.uint8)
    assert (overlay_picture(image, uniform(0, 0)) == 178).all()  # 50 + 127.5


def test_pictures_become_a_png_in_rows(tmp_path: Path) -> None:
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = [[image_picture(image), flow_picture(uniform(1, 0))], [image_picture(image)] * 2]
    found = np.asarray(Image.open(io.BytesIO(png_bytes(rows))))
    np.testing.assert_array_equal(found, np.concatenate([np.concatenate(row, axis=1) for row in rows]))
    write_png(tmp_path / "deep" / "a.png", rows)
    assert (tmp_path / "deep" / "a.png").read_bytes() == png_bytes(rows)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.png"]


def test_a_pair_is_drawn_with_one_radius_and_black_without_truth() -> None:
    image, valid = torch.full((3, 4, 5), 7, dtype=torch.uint8), torch.ones(4, 5, dtype=torch.bool)
    truth, flow = uniform(3, 0), uniform(6, 0)
    valid[0], truth[:, 0] = False, 0
    found = pair_pictures(image, truth, valid, flow)
    assert found.radius == 3
    assert (found.truth[0] == 0).all()
    np.testing.assert_array_equal(found.truth[1:], found.flow[1:])  # longer flow has the same full colour
    np.testing.assert_array_equal(found.error, error_picture(flow, truth, valid))
    np.testing.assert_array_equal(found.image, image_picture(image))
    assert [len(row) for row in found.rows()] == [2, 2]
