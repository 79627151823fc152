"""What can be exported: a PyTorch module with a real example of its input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from export.factories import from_factory, input_names
from toolkit import students
from toolkit.errors import UserError
from toolkit.evaluation import AnyEvaluation, read_evaluation
from toolkit.files import sha256
from toolkit.latents import LATENT_FILE, LatentStatistics, read_statistics
from toolkit.schema import read_yaml
from toolkit.students import Student
from toolkit.students.weights import load_published
from toolkit.task import SMALLEST_SIDE, Task

MAX_ELEMENTS = 2**28  # of a latent or an image: 1 GB in fp32
IMAGES = "RGB in [0, 1], (1, 3, H, W)"
IMAGE_SIZE = (384, 512)  # height and width of the images that flow is exported for, unless others are asked for


@dataclass(frozen=True)
class Source:
    """A model to export, by default a video decoder: latent `(1, C, T, h, w)` in, video `(1, 3, T', H, W)` out.

    `inputs` are real examples. `meaning` says what it gives. Outputs without names are numbered.
    `held_out` are further real examples of the first input or, of optical flow, of both: what precisions are calibrated
    on, and artifacts compared on. `truths` are what the model should have given for `inputs`, then for each of
    `held_out`: videos `(3, T, H, W)` or flow `(2, H, W)`, NaN where it is not known. `originals` are the images that
    `inputs` were resized from.
    `latent_statistics` are what a diffusion model normalises its latents by, where that is known; `normalized_latents`,
    whether `module` takes such latents and undoes it.
    """

    name: str
    module: nn.Module
    inputs: tuple[torch.Tensor, ...]
    role: Literal["student", "teacher", "module"]
    class_name: str
    input_names: tuple[str, ...] = ("latent",)
    output_names: tuple[str, ...] = ("frames",)
    meaning: str = "RGB in [-1, 1], (T, 3, H, W)"
    task: Task | None = "video-decoder"
    held_out: tuple[tuple[torch.Tensor, ...], ...] = ()
    truths: tuple[torch.Tensor, ...] = ()
    originals: tuple[torch.Tensor, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    quality: AnyEvaluation | None = None
    latent_statistics: LatentStatistics | None = None
    normalized_latents: bool = False
    recipe: Path | None = None

    @property
    def latent(self) -> str:
        """What its artifacts call the video that they take; a raw latent is one that no diffusion model normalised."""
        if self.role == "module":
            return "latent"
        return "normalised latent" if self.normalized_latents else "raw latent"

    @property
    def taken(self) -> str:
        """What its artifacts take: images, or a video, frames first."""
        return IMAGES if self.task == "optical-flow" else f"{self.latent} frames (T, C, h, w)"

    def examples(self, shape: tuple[int, ...] | None = None) -> list[torch.Tensor]:
        """The inputs, at another `shape`: (T, h, w) of a latent, repeated and cropped; (H, W) of images, resized.

        Raises `UserError` on a shape of another number of sides, and where images would be too small.
        """
        if shape is None:
            return list(self.inputs)
        if self.task == "optical-flow":
            if len(shape) != 2:
                raise UserError(f"{self.name}: takes images; name their shape as HEIGHTxWIDTH, for example 384x512")
            images = [resize(image, (shape[0], shape[1])) for image in self.originals or self.inputs]
            _check_images(self.name, images)
            return images
        if len(shape) != 3:
            raise UserError(f"{self.name}: takes a latent; name its shape as FRAMESxHEIGHTxWIDTH, for example 5x32x32")
        return [fit(self.video(), (shape[0], shape[1], shape[2])), *self.inputs[1:]]

    def others(self, shape: tuple[int, ...] | None = None) -> list[list[torch.Tensor]]:
        """The further real examples, each at the shape of `examples(shape)`."""
        examples = self.examples(shape)
        if self.task == "optical-flow":
            height, width = examples[0].shape[2:]
            return [[resize(image, (height, width)) for image in images] for images in self.held_out]
        return [[fit(latent, _sides(examples[0])), *examples[1:]] for (latent,) in self.held_out]

    def video(self) -> torch.Tensor:
        """The first input; raises `UserError` where that is no video."""
        if self.inputs[0].ndim != 5:
            raise UserError(
                f"{self.name}: its input of shape {list(self.inputs[0].shape)} is no video (1, C, T, H, W); "
                "leave out --shape, --tiling and --mode stream, which are for videos"
            )
        return self.inputs[0]


def from_run(run: Path) -> Source:
    """The student of a run directory; raises `UserError` where `run` is none or not finished."""
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: no run directory; make one with `handheld distill`")
    student = students.load(run)
    if student.task == "optical-flow":
        images, *others = samples(run, "image1", "image2")
        source = flow_source(run_name(run), student, images, recipe=run / "recipe.yaml", size=IMAGE_SIZE)
        return replace(source, quality=read_evaluation(run), held_out=tuple(others), truths=_truths(run, "valid"))
    latent, *others = samples(run, "latent")
    return Source(
        name=run_name(run),
        module=student,
        inputs=latent,
        held_out=tuple(others),
        truths=_truths(run),
        role="student",
        class_name=f"toolkit.students.{student.kind}",
        config=student.config.model_dump(mode="json"),
        quality=read_evaluation(run),
        latent_statistics=_statistics(run, students.decoder_config(student).latent_channels),
        recipe=run / "recipe.yaml",
    )


def from_weights(
    spec: str, path: Path, overrides: Mapping[str, Any] | None = None, shape: tuple[int, int, int] = (3, 8, 8)
) -> tuple[Source, list[str]]:
    """A published student: `KIND:PRESET` with the weights of `path`, and the names that the file has beside them.

    Its example is random: a latent `(1, C, *shape)` of unit variance, or a texture that moves. Raises `UserError` on
    unknown names, and where the weights do not fit.
    """
    kind, colon, preset = spec.partition(":")
    if not colon:
        raise UserError(f"--student {spec}: expected KIND:PRESET, for example turbo_vaed:ltx")
    student = students.build(kind, preset, overrides)
    published = load_published(student, path)
    origin = {"weights": path.name, "weights_sha256": sha256(path)}
    if student.task == "optical-flow":
        source = flow_source(f"{kind}-{preset}", student.eval(), moving_texture(IMAGE_SIZE), origin)
        return source, published.aside
    channels = students.decoder_config(student).latent_channels
    latent = torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(0))
    source = Source(
        name=f"{kind}-{preset}",
        module=student.eval(),
        inputs=(latent,),
        role="student",
        class_name=f"toolkit.students.{kind}",
        config=student.config.model_dump(mode="json") | origin,
        latent_statistics=published.statistics,
    )
    return source, published.aside


def flow_source(
    name: str,
    student: Student,
    images: Sequence[torch.Tensor],
    origin: Mapping[str, Any] | None = None,
    recipe: Path | None = None,
    size: tuple[int, int] | None = None,
) -> Source:
    """An optical-flow student; `images` are two, `(1, 3, H, W)` in [0, 1], and `origin` joins its configuration.

    With a `size` (height, width) its examples are the images at that size. Raises `UserError` unless the images are of
    one shape that the student takes.
    """
    _check_images(name, images)
    return Source(
        name=name,
        module=student,
        inputs=tuple(images if size is None else (resize(image, size) for image in images)),
        originals=tuple(images),
        role="student",
        class_name=f"toolkit.students.{student.kind}",
        input_names=("image1", "image2"),
        output_names=("flow",),
        meaning="flow in pixels, x then y, from image1 to image2, (1, 2, H, W)",
        task="optical-flow",
        config={**student.config.model_dump(mode="json"), **(origin or {})},
        recipe=recipe,
    )


def from_module(spec: str) -> Source:
    """What the factory `PKG.MOD:FACTORY` returns, `(module, example inputs)`; raises `UserError` as `from_factory`."""
    module, inputs = from_factory(spec)
    names = input_names(module, len(inputs))
    return Source(
        name=spec.rsplit(":")[-1],
        module=module,
        inputs=inputs,
        role="module",
        class_name=f"{type(module).__module__}.{type(module).__qualname__}",
        input_names=names,
        output_names=(),
        meaning="frames (T, C, H, W)",
        task=None,
    )


def run_name(run: Path) -> str:
    """The recipe's name as the run recorded it."""
    recipe = read_yaml(run / "recipe.yaml")
    if not isinstance(recipe, dict) or "name" not in recipe:
        raise UserError(f"{run / 'recipe.yaml'}: names no recipe; the file is damaged")
    return str(recipe["name"])


def samples(run: Path, *names: str) -> list[tuple[torch.Tensor, ...]]:
    """The held-out samples of the run, of each the tensors `names`: `latent` `(1, C, T, h, w)`, or `image1` and
    `image2` `(1, 3, H, W)`. Raises `UserError` if the run kept none."""
    path = run / "samples.safetensors"
    try:
        tensors = load_file(path)
        count = sum(key.startswith(f"{names[0]}.") for key in tensors)
        found = [tuple(tensors[f"{name}.{number}"] for name in names) for number in range(max(1, count))]
    except (OSError, KeyError, SafetensorError) as error:
        what = "images" if "image1" in names else "sample"
        raise UserError(f"{path}: no held-out {what} to export with; finish the run with `handheld distill`") from error
    return found


def _truths(run: Path, *masks: str) -> tuple[torch.Tensor, ...]:
    """What should have come out for each held-out sample, NaN where a mask says that it is not known; none if the run
    kept none."""
    try:
        found = samples(run, "truth", *masks)
    except UserError:
        return ()
    return tuple(torch.where(mask[0], truth, torch.nan) if mask else truth for truth, *mask in found)


def _statistics(run: Path, channels: int) -> LatentStatistics | None:
    found = read_statistics(run)
    if found is not None and found.channels != channels:
        raise UserError(
            f"{run / LATENT_FILE}: has {found.channels} numbers for latents of {channels} channels; "
            "finish the run again with `handheld distill ... --resume`"
        )
    return found


def _check_images(name: str, images: Sequence[torch.Tensor]) -> None:
    """Refuse what no flow student takes: two images `(1, 3, H, W)` of one shape, from 32x32."""
    shapes = [list(image.shape) for image in images]
    one, three, *sides = shapes[0]
    if shapes != [shapes[0]] * 2 or (one, three, len(sides)) != (1, 3, 2):
        raise UserError(
            f"{name}: images of {' and '.join(map(str, shapes))}; flow is between two images (1, 3, H, W) of one shape"
        )
    if min(sides) < SMALLEST_SIDE:
        raise UserError(
            f"{name}: images of {sides[0]}x{sides[1]} are too small; "
            f"name a --shape from {SMALLEST_SIDE}x{SMALLEST_SIDE}"
        )


def moving_texture(size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images `(1, 3, *size)` in [0, 1] of one random texture, the second 5 pixels to the right and 3 below."""
    random = torch.Generator().manual_seed(0)
    right, down = 5, 3
    whole = (size[0] + down, size[1] + right)
    coarse = [torch.rand(1, 3, -(-whole[0] // step), -(-whole[1] // step), generator=random) for step in (4, 16, 64)]
    texture = in_8_bits(torch.stack([resize(grain, whole) for grain in coarse]).mean(0))
    return texture[:, :, down:, right:].contiguous(), texture[:, :, : size[0], : size[1]].contiguous()


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """The image `(1, C, H, W)` at another height and width."""
    _check_elements(image.shape[1], size, "images")
    if tuple(image.shape[2:]) == size:
        return image
    return in_8_bits(F.interpolate(image, size=size, mode="bilinear", align_corners=False))


def in_8_bits(image: torch.Tensor) -> torch.Tensor:
    """Values in [0, 1] as a camera's picture has them, so that artifacts that take pictures get the same numbers."""
    return (image * 255).round() / 255


def fit(latent: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """The latent repeated and cropped to (T, h, w): real values at any size."""
    _check_elements(latent.shape[1], shape, "a latent")
    repeats = [-(-wanted // have) for wanted, have in zip(shape, latent.shape[2:], strict=True)]
    time, height, width = shape
    return latent.repeat(1, 1, *repeats)[:, :, :time, :height, :width].contiguous()


def _sides(video: torch.Tensor) -> tuple[int, int, int]:
    time, height, width = video.shape[2:]
    return time, height, width


def _check_elements(channels: int, shape: tuple[int, ...], what: str) -> None:
    if channels * math.prod(shape) > MAX_ELEMENTS:
        raise UserError(f"{what} of {'x'.join(map(str, shape))}: larger than any memory; name a smaller --shape")
