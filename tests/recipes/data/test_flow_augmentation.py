"""Augmented pairs: the truth goes through the same map as the frames, exactly, and masks lose what leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.flow_augmentation import augment, draw_map
from recipes.data.flow_pairs import FlowPairs
from recipes.data.flow_sample import FlowSample, lands_inside, to_sample
from recipes.data.flow_specs import AugmentationSpec, FlowPairsSpec
from tests.recipes.data.pictures import sampled, smooth_picture, write_picture
from toolkit.errors import UserError
from toolkit.flow_files import write_flo

HEIGHT, WIDTH = 80, 100
PLAIN = {"eraser": 0.0, "photometric": None}

SPECS = st.builds(
    AugmentationSpec,
    size=st.tuples(st.integers(16, 90), st.integers(16, 110)),
    scale=st.floats(-0.5, 0).flatmap(lambda low: st.tuples(st.just(low), st.floats(0, 0.8))),
    stretch=st.floats(0, 0.3),
    flip=st.sampled_from([0.0, 1.0]),
    flip_vertical=st.sampled_from([0.0, 1.0]),
    eraser=st.just(0.0),
    photometric=st.none(),
)


def affine_flow() -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    return np.stack([0.05 * x - 0.02 * y + 3, 0.03 * x + 0.04 * y - 2], axis=-1)


def moved_pair(flow: np.ndarray) -> FlowSample:
    """The second image is smooth, the first is the second at the points of the flow."""
    image2 = smooth_picture(0, HEIGHT, WIDTH)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    inside = lands_inside(flow)
    x, y = np.clip(x + flow[..., 0], 0, WIDTH - 1), np.clip(y + flow[..., 1], 0, HEIGHT - 1)
    image1 = sampled(image2, x, y).round().astype(np.uint8)
    return to_sample(image1, image2, flow, inside, np.ones_like(inside))


@given(SPECS, st.integers(0, 1000))
def test_the_truth_of_an_affine_motion_stays_its_closed_form(spec: AugmentationSpec, seed: int) -> None:
    found = augment(moved_pair(affine_flow()), spec, np.random.default_rng(seed))
    steps = draw_map(spec, (HEIGHT, WIDTH), np.random.default_rng(seed))
    assert found.flow.shape == (2, *spec.size)
    y, x = np.mgrid[: spec.size[0], : spec.size[1]].astype(np.float64)
    source_x, source_y = steps[0, 0] * x + steps[0, 2], steps[1, 1] * y + steps[1, 2]
    want = np.stack([0.05 * source_x - 0.02 * source_y + 3, 0.03 * source_x + 0.04 * source_y - 2])
    inner = (source_x > 1) & (source_x < WIDTH - 2) & (source_y > 1) & (source_y < HEIGHT - 2)
    want /= np.array([steps[0, 0], steps[1, 1]])[:, None, None]
    np.testing.assert_allclose(found.flow.numpy()[:, inner], want[:, inner], atol=1e-4)


@given(SPECS, st.integers(0, 1000))
def test_the_second_frame_at_the_points_of_the_new_truth_is_the_first(spec: AugmentationSpec, seed: int) -> None:
    found = augment(moved_pair(affine_flow()), spec, np.random.default_rng(seed))
    y, x = np.mgrid[: spec.size[0], : spec.size[1]].astype(np.float64)
    visible = found.visible.numpy()
    x, y = (np.where(visible, plane + found.flow[axis].numpy(), 0) for axis, plane in ((0, x), (1, y)))
    error = abs(sampled(found.image2.permute(1, 2, 0).numpy(), x, y) - found.image1.permute(1, 2, 0).numpy())
    assert not visible.any() or np.quantile(error[visible], 0.99) <= 3


def test_a_crop_without_scaling_is_a_slice() -> None:
    random = np.random.default_rng(0)
    pair = to_sample(
        *(random.integers(0, 256, (2, HEIGHT, WIDTH, 3), np.uint8)),
        random.normal(0, 9, (HEIGHT, WIDTH, 2)).astype(np.float32),
        *(random.random((2, HEIGHT, WIDTH)) < 0.8),
    )
    spec = AugmentationSpec(size=(32, 48), scale=(0, 0), stretch=0, flip=0, flip_vertical=0, **PLAIN)
    found = augment(pair, spec, np.random.default_rng(5))
    left, top = draw_map(spec, (HEIGHT, WIDTH), np.random.default_rng(5))[:, 2].astype(int)
    window = (..., slice(top, top + 32), slice(left, left + 48))
    for name in ("image1", "image2", "valid"):
        assert torch.equal(getattr(found, name), getattr(pair, name)[window])
    assert torch.equal(found.flow, torch.where(found.valid, pair.flow[window], 0))
    inside = torch.from_numpy(lands_inside(found.flow.permute(1, 2, 0).numpy()))
    assert torch.equal(found.visible, pair.visible[window] & inside)
    assert (pair.visible[window] & ~inside).any()


def test_mirroring_turns_the_flow_round() -> None:
    pair = moved_pair(affine_flow())
    spec = AugmentationSpec(size=(HEIGHT, WIDTH), scale=(0, 0), stretch=0, flip=1, flip_vertical=0, **PLAIN)
    found = augment(pair, spec, np.random.default_rng(0))
    assert torch.equal(found.image1, pair.image1.flip(-1))
    torch.testing.assert_close(found.flow, pair.flow.flip(-1) * torch.tensor([-1.0, 1.0]).view(2, 1, 1))
    assert torch.equal(found.visible, pair.visible.flip(-1))


def test_at_an_edge_no_flow_appears_that_no_surface_has() -> None:
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[:, WIDTH // 2 :] = (8, -4)
    spec = AugmentationSpec(size=(64, 64), scale=(0.3, 0.4), stretch=0, flip=0, flip_vertical=0, **PLAIN)
    for seed in range(5):
        found = augment(moved_pair(flow), spec, np.random.default_rng(seed)).flow
        scale = 1 / draw_map(spec, (HEIGHT, WIDTH), np.random.default_rng(seed))[0, 0]
        still = (found == 0).all(dim=0)
        moving = torch.isclose(found, torch.tensor([8.0, -4.0]).view(2, 1, 1) * scale, rtol=1e-4).all(dim=0)
        assert (still ^ moving).all()


@given(SPECS, st.integers(0, 1000))
def test_unknown_points_leak_into_no_known_one(spec: AugmentationSpec, seed: int) -> None:
    flow = affine_flow()
    valid = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.5
    clean = to_sample(*[smooth_picture(0, HEIGHT, WIDTH)] * 2, flow, valid, np.ones_like(valid))
    sparse = FlowSample(clean.image1, clean.image2, torch.where(torch.from_numpy(valid), clean.flow, 1e4), *clean[3:])
    sparse = sparse._replace(valid=torch.from_numpy(valid))
    found = augment(sparse, spec, np.random.default_rng(seed))
    assert 0.2 < found.valid.float().mean() < 0.8
    assert found.flow.abs().max() < 100


@given(st.integers(0, 1000))
def test_erased_points_are_no_longer_visible_and_others_stay(seed: int) -> None:
    pair = moved_pair(np.full((HEIGHT, WIDTH, 2), (3, -2), np.float32))
    still = {"scale": (0, 0), "stretch": 0, "flip": 0, "flip_vertical": 0, "photometric": None}
    found = augment(pair, AugmentationSpec(size=(HEIGHT, WIDTH), eraser=1, **still), np.random.default_rng(seed))
    assert torch.equal(found.image1, pair.image1)
    assert torch.equal(found.flow, pair.flow)
    colour = pair.image2.float().mean(dim=(1, 2)).round().to(torch.uint8)
    erased = (found.image2 == colour.view(3, 1, 1)).all(dim=0)
    hit = torch.zeros_like(erased)
    hit[2:, :-3] = erased[:-2, 3:]  # where the points of (x, y) come from: (x + 3, y - 2)
    lost = pair.visible & ~found.visible
    assert lost.any() or not (hit & pair.visible).any()
    assert not (lost & ~hit).any()
    assert not (hit & found.visible & (found.image2 != pair.image2).any(dim=0).roll((2, -3), (0, 1))).any()


def test_an_image_smaller_than_the_crop_is_enlarged() -> None:
    spec = AugmentationSpec(size=(160, 150), scale=(-1, -1), **PLAIN)
    found = augment(moved_pair(affine_flow()), spec, np.random.default_rng(0))
    assert found.image1.shape == (3, 160, 150)
    assert found.valid.all()


@pytest.fixture
def chairs(tmp_path: Path) -> Path:
    for number in range(3):
        for image in (1, 2):
            write_picture(tmp_path / f"{number:05d}_img{image}.ppm", smooth_picture(number + image, 40, 50))
        write_flo(tmp_path / f"{number:05d}_flow.flo", np.full((2, 40, 50), number, np.float32))
    return tmp_path


def test_training_pairs_depend_on_seed_and_number_alone(chairs: Path) -> None:
    spec = FlowPairsSpec(layout="chairs", path=str(chairs), split="all", augmentation=AugmentationSpec(size=(32, 32)))
    one, other = FlowPairs(spec, seed=3), FlowPairs(spec, seed=3)
    samples = [one[number] for number in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(samples[6], other[6], strict=True))
    assert not torch.equal(samples[6].image1, FlowPairs(spec, seed=4)[6].image1)
    assert {round(float(sample.flow.abs().max())) > 0 for sample in samples} == {False, True}  # several records


def test_training_needs_a_size(chairs: Path) -> None:
    with pytest.raises(UserError, match="augmentation is missing"):
        FlowPairs(FlowPairsSpec(layout="chairs", path=str(chairs)), seed=0)
