"""What can be exported: a PyTorch module with a real example of its input."""

from __future__ import annotations

import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from toolkit import students
from toolkit.errors import UserError, unknown_name
from toolkit.evaluation import Evaluation, read_evaluation
from toolkit.files import sha256
from toolkit.latents import LATENT_FILE, LatentStatistics, read_statistics
from toolkit.schema import read_yaml
from toolkit.students.weights import load_published

MAX_ELEMENTS = 2**28  # of a latent: 1 GB in fp32


@dataclass(frozen=True)
class Source:
    """A model to export, by default a video decoder: latent `(1, C, T, h, w)` in, video `(1, 3, T', H, W)` out.

    `inputs` are real examples. `meaning` says what a video that it gives is. Outputs without names are numbered.
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
    config: dict[str, Any] = field(default_factory=dict)
    quality: Evaluation | None = None
    latent_statistics: LatentStatistics | None = None
    normalized_latents: bool = False
    recipe: Path | None = None

    @property
    def latent(self) -> str:
        """What its artifacts call the video that they take; a raw latent is one that no diffusion model normalised."""
        if self.role == "module":
            return "latent"
        return "normalised latent" if self.normalized_latents else "raw latent"


def from_run(run: Path) -> Source:
    """The student of a run directory; raises `UserError` where `run` is none or not finished."""
    if not (run / "recipe.yaml").is_file():
        raise UserError(f"{run}: no run directory; make one with `handheld distill`")
    student = students.load(run)
    return Source(
        name=run_name(run),
        module=student,
        inputs=(sample_latent(run),),
        role="student",
        class_name=f"toolkit.students.{student.kind}",
        config=student.config.model_dump(mode="json"),
        quality=read_evaluation(run),
        latent_statistics=_statistics(run, student.config.latent_channels),
        recipe=run / "recipe.yaml",
    )


def from_weights(
    spec: str, path: Path, overrides: Mapping[str, Any] | None = None, shape: tuple[int, int, int] = (3, 8, 8)
) -> tuple[Source, list[str]]:
    """A published student: `KIND:PRESET` with the weights of `path`, and the names that the file has beside them.

    Its example is random: a latent `(1, C, *shape)` of unit variance. Raises `UserError` on unknown names, and where
    the weights do not fit.
    """
    kind, colon, preset = spec.partition(":")
    if not colon:
        raise UserError(f"--student {spec}: expected KIND:PRESET, for example turbo_vaed:ltx")
    student = students.build(kind, preset, overrides)
    published = load_published(student, path)
    latent = torch.randn(1, student.config.latent_channels, *shape, generator=torch.Generator().manual_seed(0))
    source = Source(
        name=f"{kind}-{preset}",
        module=student.eval(),
        inputs=(latent,),
        role="student",
        class_name=f"toolkit.students.{kind}",
        config={**student.config.model_dump(mode="json"), "weights": path.name, "weights_sha256": sha256(path)},
        latent_statistics=published.statistics,
    )
    return source, published.aside


def from_module(spec: str) -> Source:
    """What the factory `PKG.MOD:FACTORY` returns, `(module, example inputs)`; raises `UserError` as `from_factory`."""
    module, inputs = from_factory(spec)
    names = list(inspect.signature(module.forward).parameters)[: len(inputs)]
    return Source(
        name=spec.rsplit(":")[-1],
        module=module,
        inputs=inputs,
        role="module",
        class_name=f"{type(module).__module__}.{type(module).__qualname__}",
        input_names=tuple(names),
        output_names=(),
        meaning="frames (T, C, H, W)",
    )


def from_factory(spec: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    """What `FACTORY()` of `PKG.MOD:FACTORY` returns: a module and example inputs, in fp32.

    The module is also looked for in the current directory. Every mistake in it is a `UserError`.
    """
    made = _call(spec, _factory(spec))
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise UserError(f"{spec}: gave {_kind(made)}; return a pair (module, example inputs)")
    module, inputs = made
    if not isinstance(module, nn.Module):
        raise UserError(f"{spec}: gave {_kind(module)} as its module; return a torch.nn.Module first")
    inputs = (inputs,) if isinstance(inputs, torch.Tensor) else inputs
    if not isinstance(inputs, tuple | list) or not inputs:
        raise UserError(f"{spec}: gave {_kind(inputs)} as example inputs; return a tuple of at least one tensor")
    strange = next(((n, x) for n, x in enumerate(inputs, 1) if not isinstance(x, torch.Tensor)), None)
    if strange is not None:
        raise UserError(f"{spec}: example input {strange[0]} is {_kind(strange[1])}; every input is a torch.Tensor")
    return module.float(), tuple(x.detach().float() if x.is_floating_point() else x.detach() for x in inputs)


def _factory(spec: str) -> Callable[[], Any]:
    path, colon, name = spec.partition(":")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in path.split(".")):
        raise UserError(f"--module {spec}: expected PKG.MOD:FACTORY, for example mymodels.decoder:build")
    module = _imported(spec, path)
    found = getattr(module, name, None)
    if found is None:
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == path]
        raise unknown_name(f"factory in {path}:", name, [key for key in own if callable(getattr(module, key))])
    if not callable(found):
        raise UserError(f"{spec}: is {_kind(found)}; name a function that returns (module, example inputs)")
    factory: Callable[[], Any] = found
    return factory


def _imported(spec: str, path: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(path)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and (path == missing or path.startswith(f"{missing}.")):
            raise UserError(
                f"--module {spec}: there is no module '{missing}'; call handheld from the folder that holds it"
            ) from error
        raise UserError(f"--module {spec}: {path} cannot be imported: {_raised(error)}") from error


def _call(spec: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        hint = "; it is called without arguments" if isinstance(error, TypeError) else ""
        raise UserError(f"{spec}: the factory failed: {_raised(error)}{hint}") from error


def _raised(error: BaseException) -> str:
    """An exception in one line, with the file and line where it came up, outside of torch where there is one."""
    if isinstance(error, SyntaxError):
        lines = [f"{error.filename}:{error.lineno}"]
    else:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__)[1:] if "<frozen" not in frame.filename]
        own = [frame for frame in frames if f"{os.sep}torch{os.sep}" not in frame.filename]
        lines = [f"{frame.filename}:{frame.lineno}" for frame in own or frames]
    where = f", at {lines[-1]}" if lines else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"


def _kind(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"an object of type {type(value).__name__}" if value is not None else "None"


def run_name(run: Path) -> str:
    """The recipe's name as the run recorded it."""
    recipe = read_yaml(run / "recipe.yaml")
    if not isinstance(recipe, dict) or "name" not in recipe:
        raise UserError(f"{run / 'recipe.yaml'}: names no recipe; the file is damaged")
    return str(recipe["name"])


def sample_latent(run: Path) -> torch.Tensor:
    """A held-out latent `(1, C, T, h, w)` of the run; raises `UserError` if the run kept none."""
    path = run / "samples.safetensors"
    try:
        latent: torch.Tensor = load_file(path)["latent.0"]
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(f"{path}: no held-out sample to export with; finish the run with `handheld distill`") from error
    return latent


def _statistics(run: Path, channels: int) -> LatentStatistics | None:
    found = read_statistics(run)
    if found is not None and found.channels != channels:
        raise UserError(
            f"{run / LATENT_FILE}: has {found.channels} numbers for latents of {channels} channels; "
            "finish the run again with `handheld distill ... --resume`"
        )
    return found


def fit(latent: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """The latent repeated and cropped to (T, h, w): real values at any size."""
    if latent.shape[1] * math.prod(shape) > MAX_ELEMENTS:
        raise UserError(f"a latent of {'x'.join(map(str, shape))} is larger than any memory; name a smaller --shape")
    repeats = [-(-wanted // have) for wanted, have in zip(shape, latent.shape[2:], strict=True)]
    time, height, width = shape
    return latent.repeat(1, 1, *repeats)[:, :, :time, :height, :width].contiguous()
