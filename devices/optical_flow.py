"""Optical flow by a bundle's student on this host: of two image files, and of a video, to double its frame rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from devices.host import REFERENCE_TARGET, available_cores, load, runnable, signature
from toolkit.bundle import open_bundle
from toolkit.errors import DeviceError, UserError, unknown_name
from toolkit.files import check_writable
from toolkit.flow_files import read_image, write_flo
from toolkit.flow_pictures import flow_picture, flow_radius, write_png
from toolkit.interpolation import halfway
from toolkit.progress import track
from toolkit.task import SMALLEST_SIDE
from toolkit.video import iterate_video, probe
from toolkit.video_writer import check_video_path, video_writer

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
        _, _, height, width = signature(manifest).inputs[0].shape
        self.runtime, self.size = self._loaded.runtime.name, (height, width)

    def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The flow `(2, H, W)` in pixels from `first` to `second`, both `(3, H, W)` float in [0, 1], of any one size.

        They are resized to `size`, and the flow back: x grows by the ratio of widths, y by that of heights. Raises
        `DeviceError` where the artifact gives values that are no numbers.
        """
        for held, image in zip(self._loaded.inputs, (first, second), strict=True):
            np.copyto(held, _resized(image, self.size).numpy()[None])
        flow = torch.from_numpy(self._loaded.runtime()[0][0]).float()
        if not flow.isfinite().all():
            raise DeviceError(f"{self._loaded.path}: gave flow that is not finite; name another --target")
        height, width = first.shape[1:]
        ratios = torch.tensor([width / self.size[1], height / self.size[0]])
        return _resized(flow, (height, width)) * ratios[:, None, None]


@dataclass(frozen=True)
class FlowResult:
    """What `flow` wrote: sizes are (height, width), lengths in pixels of the images.

    `full_colour` is the length of full saturation in a picture, None of a `.flo` file.
    """

    output: Path
    target: str
    runtime: str
    size: tuple[int, int]
    computed_at: tuple[int, int]
    mean_length: float
    longest: float
    full_colour: float | None


@dataclass(frozen=True)
class Interpolation:
    """What `interpolate` wrote: `size` is the video's (height, width), `rate` the new frames a second."""

    output: Path
    target: str
    runtime: str
    size: tuple[int, int]
    computed_at: tuple[int, int]
    frames: int
    rate: float


def flow(first: Path, second: Path, bundle: Path, output: Path, target: str | None = None) -> FlowResult:
    """Write the flow from image `first` to image `second`: `.png` as colours, `.flo` as numbers.

    Raises `UserError` on images that cannot be read, of different sizes or below 32 pixels, and on an unknown ending;
    else as `FlowModel` does.
    """
    suffix = output.suffix.lower()
    if suffix not in WRITERS:
        raise unknown_name("ending of a flow", output.suffix, WRITERS)
    check_writable(output)
    images = [_tensor(read_image(path)) for path in (first, second)]
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    if sizes[0] != sizes[1]:
        raise UserError(f"{second}: is {_text(sizes[1])}, {first} {_text(sizes[0])}; give two images of one size")
    _check_side(first, sizes[0])
    model = FlowModel(bundle, target)
    found = model(*images)
    lengths = torch.linalg.vector_norm(found, dim=0)
    full_colour = WRITERS[suffix](output, found)
    return FlowResult(
        output=output,
        target=model.target,
        runtime=model.runtime,
        size=sizes[0],
        computed_at=model.size,
        mean_length=float(lengths.mean()),
        longest=float(lengths.max()),
        full_colour=full_colour,
    )


def interpolate(video: Path, bundle: Path, output: Path, target: str | None = None) -> Interpolation:
    """Write `video` with a frame made between every two: N frames become 2N - 1, at twice the mean rate, without sound.

    Frames are decoded, made and written one at a time. Raises `UserError` on a file that is no video, has one frame or
    sides below 32 pixels, and on an unknown ending; else as `FlowModel` does.
    """
    check_video_path(output)
    check_writable(output)
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
        for number, frame in enumerate(_doubled(iterate_video(video), model)):
            append(frame)
            written = number + 1
            progress.update(min(number // 2 + 1, info.frames), "frames of the video")
    return Interpolation(output, model.target, model.runtime, size, model.size, written, float(rate))


def _doubled(frames: Iterator[np.ndarray], model: FlowModel) -> Iterator[np.ndarray]:
    """The frames `(H, W, 3)` uint8 with one made between every two."""
    previous: torch.Tensor | None = None
    for frame in frames:
        image = _tensor(frame)
        if previous is not None:
            between = halfway(previous, image, model(previous, image), model(image, previous))
            yield between.mul(255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
        yield frame
        previous = image


def _first_onnx(bundle: Path, targets: list[str]) -> str:
    found = next((name for name in targets if name.startswith("onnx")), None)
    if found is None:
        others = f"name one with --target: {', '.join(targets)}" if targets else "export one with --target onnx-fp32"
        raise UserError(f"{bundle}: holds no ONNX artifact; {others}")
    return found


def _resized(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`values` `(C, H, W)` at another size, bilinear, and averaged where it is smaller."""
    if tuple(values.shape[1:]) == size:
        return values.clone()  # a runtime may give the same memory at every call
    return F.interpolate(values[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]


def _tensor(image: np.ndarray) -> torch.Tensor:
    """An image `(H, W, 3)` uint8 as `(3, H, W)` float in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1).float().div(255)


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
