"""Layered scenes: the truth against closed forms, the frames against the truth, masks against set logic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.data.flow_render import Layer, Motion, Rendered, render
from recipes.data.flow_scene import draw_scene
from recipes.data.flow_shapes import FIELD, draw_outline, signed_distance, to_field
from recipes.data.flow_specs import DisplacementSpec, SyntheticFlowSpec, TexturesSpec
from tests.recipes.data.pictures import flat_picture, sampled, smooth_picture

HEIGHT, WIDTH = 96, 128
IDENTITY = np.eye(3)[:2]


def spec(**changes: object) -> SyntheticFlowSpec:
    fields = {"textures": TexturesSpec(sources=["none"]), "size": (HEIGHT, WIDTH), "photometric": None}
    return SyntheticFlowSpec.model_validate({**fields, **changes})


def shifted(x: float, y: float) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, 2] = x, y
    return matrix


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Signed distances on the frame's own pixels: half a pixel from its edge a pixel's centre is 0.5."""
    x, y = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    return np.minimum(np.minimum(x - left + 0.5, right - 0.5 - x), np.minimum(y - top + 0.5, bottom - 0.5 - y)).astype(
        np.float32
    )


def grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    return x, y


def landing(scene: Rendered) -> tuple[np.ndarray, np.ndarray]:
    x, y = grid()
    return x + scene.flow[..., 0], y + scene.flow[..., 1]


@pytest.mark.parametrize(
    "matrix",
    [
        shifted(3.25, -7.5),
        np.array([[1.1, 0.2, -4], [-0.15, 0.9, 12.5], [0, 0, 1]]),
        np.array([[0.95, -0.1, 6], [0.05, 1.05, -3], [2e-4, -5e-4, 1]]),
    ],
    ids=["shift", "affine", "homography"],
)
def test_the_truth_of_a_plane_is_its_closed_form(matrix: np.ndarray) -> None:
    scene = render([Layer(smooth_picture(0), IDENTITY, Motion(matrix))], HEIGHT, WIDTH)
    x, y = grid()
    moved = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    want = moved[:2] / moved[2] - (x, y)
    np.testing.assert_allclose(scene.flow.transpose(2, 0, 1), want, atol=1e-4)
    target = want + np.stack([x, y])
    inside = (target >= 0).all(axis=0) & (target[0] <= WIDTH - 1) & (target[1] <= HEIGHT - 1)
    assert (scene.visible == inside).mean() > 0.999  # points on the rim itself are a matter of rounding
    assert 0.3 < inside.mean() < 1


@pytest.mark.slow
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_second_frame_at_the_points_of_the_truth_is_the_first(seed: int, deformation: float) -> None:
    random = np.random.default_rng(seed)
    pictures = [smooth_picture(number) for number in range(3)]
    layers = draw_scene(spec(deformation=deformation), pictures, random)
    scene = render(layers, HEIGHT, WIDTH)
    error = abs(sampled(scene.frame2, *landing(scene)) - scene.frame1).max(axis=-1)
    inner = scene.visible & ~near_an_outline(layers, scene)
    # Rounding to grey levels twice, sampling twice, and the crease where a picture is mirrored.
    assert error[inner].max(initial=0) <= 3
    assert not inner.any() or error[inner].mean() < 0.6


def near_an_outline(layers: list[Layer], scene: Rendered, distance: float = 3) -> np.ndarray:
    """Points within so many pixels of any layer's outline, in the first frame or where they land."""
    near = np.zeros((HEIGHT, WIDTH), bool)
    for layer in layers[1:]:
        assert layer.outline is not None
        assert layer.to_outline is not None
        field, linear = layer.outline, layer.to_outline[:, :2]
        for points in (layer.motion.targets(HEIGHT, WIDTH), np.stack(landing(scene), axis=-1)):
            x, y = np.moveaxis(points @ linear.T + layer.to_outline[:, 2], -1, 0).clip(0, FIELD - 1)
            near |= abs(sampled(field[..., None], x, y)[..., 0]) < distance * np.sqrt(np.linalg.det(linear))
    return near


@given(st.integers(0, 10_000))
def test_of_layers_in_plain_colours_exactly_the_visible_points_keep_theirs(seed: int) -> None:
    pictures = [flat_picture(level) for level in (10, 60, 110, 160, 210)]
    layers = draw_scene(spec(objects=(4, 4)), pictures, np.random.default_rng(seed))
    layers = [Layer(p, m.to_picture, m.motion, m.outline, m.to_outline) for p, m in zip(pictures, layers, strict=True)]
    scene = render(layers, HEIGHT, WIDTH)
    colours = np.array([10, 60, 110, 160, 210])
    x, y = landing(scene)
    inside = (x >= 0) & (y >= 0) & (x <= WIDTH - 1) & (y <= HEIGHT - 1)
    there = sampled(scene.frame2, np.where(inside, x, 0), np.where(inside, y, 0))[..., 0]
    nearest = abs(there[..., None] - colours)
    certain = nearest.min(axis=-1) < 1  # no mixture at an edge
    pure = scene.frame1[..., 0] == colours[scene.owner]
    kept = nearest.argmin(axis=-1) == scene.owner
    judged = certain & inside & pure
    assert judged.sum() >= inside.sum() / 2
    # A mixture of two colours at an edge may look like a third.
    assert ((scene.visible != kept) & judged).sum() <= 5 + 0.002 * judged.sum()
    assert not scene.visible[~inside].any()


@given(
    st.tuples(st.integers(1, 80), st.integers(1, 60), st.integers(4, 40), st.integers(4, 30)),
    st.tuples(st.integers(-30, 30), st.integers(-30, 30)),
    st.tuples(st.integers(-12, 12), st.integers(-12, 12)),
)
def test_occlusions_of_a_rectangle_are_those_of_set_logic(
    box: tuple[int, int, int, int], own: tuple[int, int], camera: tuple[int, int]
) -> None:
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    background = Layer(smooth_picture(0), IDENTITY, Motion(shifted(*camera)))
    moving = Layer(smooth_picture(1), IDENTITY, Motion(shifted(*own)), rectangle(left, top, right, bottom), IDENTITY)
    scene = render([background, moving], HEIGHT, WIDTH)
    y, x = np.mgrid[:HEIGHT, :WIDTH]

    def within(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x >= left) & (x < right) & (y >= top) & (y < bottom)

    shows_object = within(x + own[0], y + own[1])
    to_x, to_y = (np.where(shows_object, own[axis], camera[axis]) + plane for axis, plane in ((0, x), (1, y)))
    inside = (to_x >= 0) & (to_x < WIDTH) & (to_y >= 0) & (to_y < HEIGHT)
    np.testing.assert_array_equal(scene.owner.astype(bool), shows_object)
    np.testing.assert_array_equal(scene.visible, inside & (shows_object | ~within(to_x, to_y)))
    np.testing.assert_array_equal(scene.flow[..., 0], to_x - x)
    np.testing.assert_array_equal(scene.flow[..., 1], to_y - y)


def test_an_object_behind_another_is_covered_and_one_in_front_is_not() -> None:
    still = Motion(np.eye(3))
    over = rectangle(40, 40, 60, 60)
    layers = [
        Layer(flat_picture(10), IDENTITY, still),
        Layer(flat_picture(100), IDENTITY, Motion(shifted(30, 0)), over, IDENTITY),
        Layer(flat_picture(200), IDENTITY, still, over, IDENTITY),
    ]
    scene = render(layers, HEIGHT, WIDTH)
    assert not scene.visible[50, 20]  # of the moving object, which arrives behind the still one
    assert scene.visible[50, 50]


def test_bends_are_added_to_the_homography() -> None:
    bends = np.full((3, 4, 2), (1.5, -2.25), np.float32)
    scene = render([Layer(smooth_picture(0), IDENTITY, Motion(shifted(2, 3), bends))], HEIGHT, WIDTH)
    np.testing.assert_allclose(scene.flow, np.broadcast_to((3.5, 0.75), scene.flow.shape), atol=1e-5)


@given(st.integers(0, 10_000))
def test_deformations_do_not_fold(seed: int) -> None:
    bent = spec(deformation=1.0, objects=(0, 0))
    targets = draw_scene(bent, [flat_picture(0)], np.random.default_rng(seed))[0].motion.targets(HEIGHT, WIDTH)
    along, down = np.diff(targets, axis=1)[:-1], np.diff(targets, axis=0)[:, :-1]
    assert (along[..., 0] * down[..., 1] - along[..., 1] * down[..., 0]).min() > 0


def test_displacements_span_what_is_configured() -> None:
    wanted = DisplacementSpec(median=10, spread=1.0, largest=60, still=0.2)
    means, random = [], np.random.default_rng(0)
    for _ in range(600):
        layers = draw_scene(spec(displacement=wanted, objects=(0, 0)), [flat_picture(0)], random)
        targets = layers[0].motion.targets(HEIGHT, WIDTH)[::16, ::16]
        start = np.stack(np.meshgrid(np.arange(0, WIDTH, 16), np.arange(0, HEIGHT, 16)), axis=-1)
        means.append(np.linalg.norm((targets - start).mean(axis=(0, 1))))
    distances = np.array(means)
    assert 0.18 < (distances <= 0.6).mean() < 0.4  # still pairs, and cameras that are fixed
    assert 0.4 < np.median(distances[distances > 0.6]) / 10 < 1.6
    assert 40 < distances.max() < 75
    assert (distances > 30).mean() > 0.02
    assert ((distances > 0) & (distances < 0.5)).any()


@given(st.integers(0, 10_000))
def test_outlines_lie_within_their_field_and_are_not_empty(seed: int) -> None:
    field = draw_outline(np.random.default_rng(seed))
    rim = np.concatenate([field[0], field[-1], field[:, 0], field[:, -1]])
    assert rim.max() < 0
    assert 0.01 < (field >= 0).mean() < 0.7


def test_signed_distances_are_those_of_the_outline() -> None:
    square = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
    field = signed_distance(square)
    to_pixels = to_field(1.0, 0.0, np.zeros(2))
    for point, distance in (((0.3, 0), 0.2), ((0.5, 0), 0), ((0.7, 0.1), -0.2), ((-0.1, -0.9), -0.4)):
        x, y = to_pixels @ np.array([*point, 1])
        found = sampled(field[..., None], np.array(x), np.array(y))[..., 0]
        assert found == pytest.approx(distance * to_pixels[0, 0], abs=0.8)
    assert field.shape == (FIELD, FIELD)
