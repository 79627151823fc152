"""Random layered scenes: which pictures, which outlines, and how each layer moves."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recipes.data.flow_render import Layer, Motion
from recipes.data.flow_shapes import draw_outline, to_field
from recipes.data.flow_specs import DisplacementSpec, SyntheticFlowSpec

STILL = 0.5  # pixels: the largest displacement in a still pair
FIXED_CAMERA = 0.1  # share of the pairs whose background does not move
CARRIED = 0.6  # share of the objects that move with the background, beside their own motion
RADII = (0.08, 0.45)  # of objects, as shares of the frame's shorter side
SHARPEST = 1.25  # pixels of a picture for one of the frame: beyond, sampling would alias
COARSEST = 0.5
SLOPE = 0.1  # a deformation's amplitude as a share of the distance of its knots, so that nothing folds

Vector = np.ndarray


class Pictures(Protocol):
    """Pictures `(h, w, 3)` uint8 by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray: ...


def draw_scene(spec: SyntheticFlowSpec, pictures: Pictures, random: np.random.Generator) -> list[Layer]:
    """A background and objects from back to front. Objects are cut out of other pictures than the background's."""
    still = random.random() < spec.displacement.still
    background = int(random.integers(len(pictures)))
    layers = [_background(spec, pictures[background], still, random)]
    for _ in range(random.integers(spec.objects[0], spec.objects[1] + 1)):
        other = (background + 1 + int(random.integers(max(len(pictures) - 1, 1)))) % len(pictures)
        layers.append(_object(spec, pictures[other], layers[0].motion, still, random))
    return layers


def draw_displacement(spec: DisplacementSpec, still: bool, random: np.random.Generator) -> float:
    """A distance in pixels, of the distribution that `DisplacementSpec` describes."""
    if still:
        return float(random.uniform(0, STILL))
    while True:
        distance = spec.median * float(np.exp(spec.spread * random.standard_normal()))
        if distance <= spec.largest:
            return distance


def _background(spec: SyntheticFlowSpec, picture: np.ndarray, still: bool, random: np.random.Generator) -> Layer:
    height, width = spec.size
    distance = draw_displacement(spec.displacement, still, random) * (random.random() >= FIXED_CAMERA)
    centre = np.array([width, height]) * random.uniform(0.3, 0.7, 2)
    shift = distance * _direction(random)
    motion = _motion(spec, distance, shift, centre, float(np.hypot(height, width)) / 2, random)
    fitting = min(picture.shape[0] / height, picture.shape[1] / width)
    scale = float(np.clip(fitting * random.uniform(0.6, 1), COARSEST, SHARPEST))
    middle = np.array([width, height]) / 2
    reach = scale * np.array([width, height]) / 2
    return Layer(picture, _to_picture(picture, scale, random.uniform(-0.2, 0.2), middle, reach, random), motion)


def _object(
    spec: SyntheticFlowSpec, picture: np.ndarray, camera: Motion, still: bool, random: np.random.Generator
) -> Layer:
    height, width = spec.size
    radius = min(spec.size) * float(np.exp(random.uniform(*np.log(RADII))))
    centre = np.array([width, height]) * random.uniform(0, 1, 2)
    distance = draw_displacement(spec.displacement, still, random)
    shift = distance * _direction(random)
    if random.random() < CARRIED:
        shift = shift + project(camera.matrix, centre) - centre
        shift *= min(1, (STILL if still else spec.displacement.largest) / max(float(np.hypot(*shift)), 1e-9))
    motion = _motion(spec, distance, shift, centre, radius, random)
    there = centre + shift
    scale = float(random.uniform(COARSEST, SHARPEST))
    reach = np.array([scale * radius] * 2)
    angle = float(random.uniform(-0.5, 0.5))
    return Layer(
        picture,
        _to_picture(picture, scale, angle, there, reach, random),
        motion,
        draw_outline(random),
        to_field(radius, float(random.uniform(0, 2 * np.pi)), there),
    )


def project(matrix: np.ndarray, point: Vector) -> Vector:
    """A point `(2,)` under a homography `(3, 3)`."""
    x, y, scale = matrix @ np.array([*point, 1.0])
    return np.array([x, y]) / scale


def _motion(
    spec: SyntheticFlowSpec,
    distance: float,
    shift: Vector,
    centre: Vector,
    radius: float,
    random: np.random.Generator,
) -> Motion:
    """Takes `centre` by `shift`; turning, zoom, shear and perspective move the rim by a share of `distance`."""
    weights = random.normal(size=6)
    rim = distance / radius * random.uniform(0, 0.7)
    turn, zoom, stretch, shear, *lean = weights / np.linalg.norm(weights) * rim
    turn, zoom = np.clip(turn, -0.5, 0.5), np.clip(zoom, -0.25, 0.25)
    stretch, shear = np.clip([stretch, shear], -0.15, 0.15)
    diagonal = float(np.hypot(*spec.size))
    tilt = np.clip(np.array(lean) / radius, -0.25 / diagonal, 0.25 / diagonal)
    cos, sin = np.cos(turn), np.sin(turn)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1 + zoom + stretch, shear], [shear, 1 + zoom - stretch]])
    there, back = np.eye(3), np.eye(3)
    there[:2, 2], back[:2, 2] = centre + shift, -centre
    around = np.eye(3)
    around[:2, :2], around[2, :2] = linear, tilt
    return Motion(there @ around @ back, _bends(spec, distance, radius, random))


def _bends(spec: SyntheticFlowSpec, distance: float, radius: float, random: np.random.Generator) -> np.ndarray | None:
    """Knots of a smooth displacement, about a radius apart."""
    if spec.deformation == 0:
        return None
    apart = radius * float(random.uniform(0.7, 1.5))
    rows, columns = (int(np.clip(round(side / apart), 3, 12)) for side in spec.size)
    amplitude = min(distance * float(random.uniform(0, spec.deformation)), SLOPE * min(apart, *spec.size))
    return random.normal(0, amplitude / 2, (rows, columns, 2)).clip(-amplitude, amplitude).astype(np.float32)


def _to_picture(
    picture: np.ndarray, scale: float, angle: float, anchor: Vector, reach: Vector, random: np.random.Generator
) -> np.ndarray:
    """Affine map from the second frame to a picture, mirrored in half of the draws.

    `anchor` falls where `reach` pixels of the picture lie to each side of it, or in the middle where there are fewer.
    """
    sides = np.array([picture.shape[1], picture.shape[0]], float)
    margin = np.minimum(reach, sides / 2)
    place = random.uniform(margin, sides - margin)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    mirror = 1.0 if random.random() < 0.5 else -1.0
    linear = np.array([[cos, sin], [-sin, cos]]) @ np.diag([mirror, 1.0])
    return np.column_stack([linear, place - linear @ anchor])


def _direction(random: np.random.Generator) -> Vector:
    angle = random.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])
