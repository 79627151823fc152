"""Changes of colour, light, sharpness and noise of a pair of frames. They move nothing, so the flow stays true."""

from __future__ import annotations

import cv2
import numpy as np

from recipes.data.flow_specs import PhotometricSpec

JPEG_QUALITY = (40, 95)

_LEVELS = np.linspace(0, 1, 256, dtype=np.float32)[:, None]


def change_pair(
    frame1: np.ndarray, frame2: np.ndarray, spec: PhotometricSpec, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Two frames `(H, W, 3)` uint8 after the changes that `spec` describes; the same draws, the same changes."""
    if random.random() >= spec.share:
        return frame1, frame2
    frames = [_recoloured(frame, table) for frame, table in zip((frame1, frame2), _tables(spec, random), strict=True)]
    frames = _blurred(frames, spec, random)
    frames = _lit(frames, spec, random)
    if random.random() < spec.jpeg:
        quality = int(random.integers(*JPEG_QUALITY))
        frames = [_compressed(frame, quality) for frame in frames]
    return frames[0], frames[1]


def _tables(spec: PhotometricSpec, random: np.random.Generator) -> list[np.ndarray]:
    """A table of new levels `(256, 3)` for each frame: gamma, gains, then contrast about the middle and brightness."""
    sizes = np.array([spec.gamma, spec.contrast, spec.brightness, *[spec.colour] * 3])
    both = random.uniform(-1, 1, 6) * sizes * (1 - spec.difference)
    tables = []
    for _ in range(2):
        gamma, contrast, brightness, *gains = both + random.uniform(-1, 1, 6) * sizes * spec.difference
        levels = _LEVELS ** np.exp(gamma) * np.exp(gains)
        levels = (levels - 0.5) * np.exp(contrast) + 0.5 + brightness
        tables.append(np.round(levels.clip(0, 1) * 255).astype(np.uint8))
    return tables


def _recoloured(frame: np.ndarray, table: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.LUT(frame, table[None]))


def _blurred(frames: list[np.ndarray], spec: PhotometricSpec, random: np.random.Generator) -> list[np.ndarray]:
    """Half of the pairs are out of focus, each frame by itself; a fifth are smeared along one line."""
    if spec.blur and random.random() < 0.5:
        sigmas = random.uniform(0, spec.blur, 2)
        frames = [cv2.GaussianBlur(f, (0, 0), s) if s > 0.2 else f for f, s in zip(frames, sigmas, strict=True)]
    if spec.motion_blur and random.random() < 0.2:
        kernel = _line(float(random.uniform(0, spec.motion_blur)), float(random.uniform(0, np.pi)))
        frames = [cv2.filter2D(frame, -1, kernel, borderType=cv2.BORDER_REFLECT_101) for frame in frames]
    return [np.asarray(frame) for frame in frames]


def _line(length: float, angle: float) -> np.ndarray:
    """A kernel of odd side that averages along a centred line of so many pixels."""
    half = int(np.ceil(length / 2)) + 1
    offsets = np.arange(-half, half + 1)
    along = offsets * np.cos(angle) + offsets[:, None] * np.sin(angle)
    across = offsets[:, None] * np.cos(angle) - offsets * np.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - abs(along), 0, 1) * np.clip(1 - abs(across), 0, 1)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _lit(frames: list[np.ndarray], spec: PhotometricSpec, random: np.random.Generator) -> list[np.ndarray]:
    """Uneven light, of each frame by itself, and sensor noise of one strength."""
    shaded = bool(spec.shading) and random.random() < 0.5
    sigma = float(random.uniform(0, spec.noise)) if spec.noise and random.random() < 0.7 else 0.0
    if not shaded and not sigma:
        return frames
    lit = []
    for frame in frames:
        height, width = frame.shape[:2]
        light = frame.astype(np.float32)
        if shaded:
            knots = random.uniform(1 - spec.shading, 1 + spec.shading, (3, 4)).astype(np.float32)
            gain = cv2.resize(knots, (width, height), interpolation=cv2.INTER_CUBIC)
            light = cv2.multiply(light, cv2.merge([gain] * 3))
        if sigma:
            noise = random.standard_normal(frame.shape, np.float32)
            light = cv2.addWeighted(light, 1, noise, sigma, 0)
        lit.append(np.asarray(cv2.convertScaleAbs(cv2.max(light, 0.0))))
    return lit


def _compressed(frame: np.ndarray, quality: int) -> np.ndarray:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))
