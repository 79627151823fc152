"""Optical flow by a bundle's student on this host: of two image files, and of a video, to double its frame rate."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from devices.flow_tiles import is_large, resized, scaled, tile_count, tiled_flow, unit_range
from devices.host import available_cores, load, runnable
from devices.parities import REFERENCE_TARGET
from toolkit.bundle import open_bundle
from toolkit.errors import DeviceError, UserError, unknown_name
from toolkit.files import check_writable
from toolkit.flow_files import read_image, write_flo
from toolkit.flow_pictures import flow_picture, flow_radius, write_png
from toolkit.interpolation import halfway
from toolkit.progress import track
from toolkit.shards import VIDEO_SUFFIXES
from toolkit.students.compact_flow_config import CompactFlowConfig
from toolkit.task import SMALLEST_SIDE
from toolkit.video import iterate_video, probe
from toolkit.video_writer import check_video_path, video_writer

USUAL_REACH = 64  # pixels that a network is taken to search each way where its configuration does not say
SMALLEST_RADIUS = 1.0  # pixels: below it a picture would show the noise of two equal images


class FlowModel:
    """An optical-flow artifact of a bundle, loaded and proved on the bundle's sample.

    `target` is by default the first ONNX artifact's. Raises `UserError` where the bundle holds no flow or no such
    artifact, `CheckFailed` on a changed bundle, `DeviceError` where the runtime fails.
    """

    def __init__(self, bundle: Path, target: str | None = None) -> None:
        manifest = open_bundle(bundle)
        if manifest.model.task != "optical-flow":
            held = manifest.model.task or "a module of unknown task"
            raise UserError(f"{bundle}: holds {held}, no optical flow; export a flow student")
        paths = dict(runnable(bundle, manifest))
        self.target = target or _first_onnx(bundle, [name for name in paths if name != REFERENCE_TARGET])
        if self.target not in paths:
            raise unknown_name(f"target that this machine runs in {bundle}:", self.target, paths)
        self._loaded = load(bundle, manifest, self.target, paths[self.target], available_cores())
        _, _, height, width = manifest.signature.inputs[0].shape
        self.runtime, self.size = self._loaded.runtime, (height, width)
        self.reach = _reach(manifest.model.config)

    def __call__(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        tiles: bool | None = None,
        tick: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """The flow `(2, H, W)` in pixels from `first` to `second`, both `(3, H, W)`, of any one size.

        Images are float in [0, 1] or uint8. They are resized to `size`, and the flow back; with `tiles`, by default of
        images more than twice as high or wide as `size`, this is then refined tile by tile, and `tick` called after
        each. Raises `DeviceError` where the runtime or the memory fails, and where the artifact gives values that are
        no numbers.
        """
        size = (first.shape[1], first.shape[2])
        with _within_memory(size):
            if self.tile_count(size, tiles):
                return tiled_flow(self._run, first, second, self.size, self.reach, tick)
            return scaled(self._run(resized(first, self.size), resized(second, self.size)), size)

    def tile_count(self, size: tuple[int, int], tiles: bool | None = None) -> int:
        """How many tiles are computed for two images of `size` (height, width); 0 where they are only resized."""
        return tile_count(size, self.size) if (is_large(size, self.size) if tiles is None else tiles) else 0

    def _run(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        for held, image in zip(self._loaded.inputs, (first, second), strict=True):
            np.copyto(held, unit_range(image).numpy()[None])
        flow = torch.from_numpy(self._loaded()[0][0]).float().clone()  # a runtime may give the same memory every time
        if not flow.isfinite().all():
            raise DeviceError(f"{self._loaded.path}: gave flow that is not finite; name another --target")
        return flow


@dataclass(frozen=True)
class FlowResult:
    """What `flow` wrote: sizes are (height, width), lengths in pixels of the images.

    `computed_at` is the artifact's size, and `tiles` how many of it were computed, 0 where the images were resized to
    it. `full_colour` is the length of full saturation in a picture, None of a `.flo` file.
    """

    output: Path
    target: str
    runtime: str
    size: tuple[int, int]
    computed_at: tuple[int, int]
    tiles: int
    mean_length: float
    longest: float
    full_colour: float | None


@dataclass(frozen=True)
class Interpolation:
    """What `interpolate` wrote: `size` is the video's (height, width), `rate` the new frames a second.

    `computed_at` and `tiles` are as in `FlowResult`, of every flow.
    """

    output: Path
    target: str
    runtime: str
    size: tuple[int, int]
    computed_at: tuple[int, int]
    tiles: int
    frames: int
    rate: float


def flow(
    first: Path, second: Path, bundle: Path, output: Path, target: str | None = None, tiles: bool | None = None
) -> FlowResult:
    """Write the flow from image `first` to image `second`: `.png` as colours, `.flo` as numbers.

    `tiles` is as of `FlowModel`. Raises `UserError` on images that cannot be read, of different sizes or below 32
    pixels, on an unknown ending, and where the output is one of the images; else as `FlowModel` does.
    """
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        raise unknown_name("ending of a flow", output.suffix, WRITERS)
    _check_output(output, first, second)
    images = _tensor(_read(first)), _tensor(_read(second))
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    if sizes[0] != sizes[1]:
        raise UserError(f"{second}: is {_text(sizes[1])}, {first} {_text(sizes[0])}; give two images of one size")
    _check_side(first, sizes[0])
    model = FlowModel(bundle, target)
    count = model.tile_count(sizes[0], tiles)
    found = _tracked(model, images, count) if count else model(*images, tiles=False)
    lengths = torch.linalg.vector_norm(found, dim=0)
    full_colour = WRITERS[suffix](output, found)
    return FlowResult(
        output=output,
        target=model.target,
        runtime=model.runtime,
        size=sizes[0],
        computed_at=model.size,
        tiles=count,
        mean_length=float(lengths.mean()),
        longest=float(lengths.max()),
        full_colour=full_colour,
    )


def interpolate(
    video: Path, bundle: Path, output: Path, target: str | None = None, tiles: bool | None = None
) -> Interpolation:
    """Write `video` with a frame made between every two: N frames become 2N - 1, at twice the mean rate, without sound.

    Frames are decoded, made and written one at a time. `tiles` is as of `FlowModel`. Raises `UserError` on a file that
    is no video, has one frame or sides below 32 pixels, on an unknown ending, and where the output is the video; else
    as `FlowModel` does.
    """
    check_video_path(output)
    _check_output(output, video)
    info = probe(video)
    size = (info.height, info.width)
    _check_side(video, size)
    if info.rate is None:
        raise UserError(f"{video}: does not say its frames a second; re-encode it")
    if info.frames < 2:
        raise UserError(f"{video}: has one frame, and nothing lies between; give a video of two at least")
    model = FlowModel(bundle, target)
    rate, written = 2 * info.rate, 0
    with track("interpolate", info.frames) as progress, video_writer(output, size, rate) as append:

        def tick() -> None:
            progress.update(min((written + 1) // 2, info.frames), "frames of the video")

        for frame in _doubled(iterate_video(video), partial(model, tiles=tiles, tick=tick)):
            append(frame)
            written += 1
            tick()
    count = model.tile_count(size, tiles)
    return Interpolation(output, model.target, model.runtime, size, model.size, count, written, float(rate))


def _doubled(
    frames: Iterator[np.ndarray], flow: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> Iterator[np.ndarray]:
    """The frames `(H, W, 3)` uint8 with one made between every two."""
    previous: torch.Tensor | None = None
    for frame in frames:
        image = unit_range(_tensor(frame))
        if previous is not None:
            between = halfway(previous, image, flow(previous, image), flow(image, previous))
            yield between.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        yield frame
        previous = image


def _tracked(model: FlowModel, images: tuple[torch.Tensor, torch.Tensor], tiles: int) -> torch.Tensor:
    done = itertools.count(1)
    with track("flow", tiles) as progress:
        return model(*images, tiles=True, tick=lambda: progress.update(next(done), "tiles"))


def _first_onnx(bundle: Path, targets: list[str]) -> str:
    found = next((name for name in targets if name.startswith("onnx")), None)
    if found is None:
        others = f"name one with --target: {', '.join(targets)}" if targets else "export one with --target onnx-fp32"
        raise UserError(f"{bundle}: holds no ONNX artifact; {others}")
    return found


def _reach(config: dict[str, Any]) -> int:
    """How many pixels of its images a student searches each way."""
    fields = {key: value for key, value in config.items() if key in CompactFlowConfig.model_fields}
    try:
        return CompactFlowConfig.model_validate(fields).reach
    except ValidationError:  # another kind of student
        return USUAL_REACH


@contextmanager
def _within_memory(size: tuple[int, int]) -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # torch has no class for it
            raise
        raise DeviceError(
            f"images of {_text(size)}: out of memory; close other programs or give smaller ones"
        ) from error


def _read(path: Path) -> np.ndarray:
    if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file():
        raise UserError(f"{path}: is a video; give two images, or this video alone with --interpolate")
    return read_image(path)


def _tensor(image: np.ndarray) -> torch.Tensor:
    """An image `(H, W, 3)` as `(3, H, W)`."""
    return torch.from_numpy(image).permute(2, 0, 1)


def _check_output(output: Path, *inputs: Path) -> None:
    """Find out now, not after the computation, that the output cannot be written, or would replace an input."""
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise UserError(f"{output}: is what is read, and would be overwritten; name another --output")
    check_writable(output)


def _check_side(path: Path, size: tuple[int, int]) -> None:
    if min(size) < SMALLEST_SIDE:
        raise UserError(f"{path}: is {_text(size)}; optical flow takes sides of {SMALLEST_SIDE} pixels at least")


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"


def _write_picture(path: Path, flow: torch.Tensor) -> float:
    """Colours; returns the length of full saturation."""
    radius = max(flow_radius(flow), SMALLEST_RADIUS)
    write_png(path, [[flow_picture(flow, radius)]])
    return radius


def _write_numbers(path: Path, flow: torch.Tensor) -> None:
    write_flo(path, flow.numpy())


WRITERS: dict[str, Callable[[Path, torch.Tensor], float | None]] = {".png": _write_picture, ".flo": _write_numbers}
