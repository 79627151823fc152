"""Compact student networks by name: build one, save it, load it back.

A student is an `nn.Module` with a `config` (a pydantic model) that rebuilds it. To add one: a module here with
a configuration, presets, and `@register("name", Config, presets)` on the network's class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import nn

from toolkit.errors import UserError, unknown_name
from toolkit.files import write_atomic
from toolkit.limits import MAX_JSON_BYTES, parse_json, read_text
from toolkit.schema import validate
from toolkit.task import Task

CONFIG_FILE = "student.json"
WEIGHTS_FILE = "student.safetensors"


class Config(Protocol):
    """What every student's configuration answers."""

    def model_dump(self, *, mode: str = "python") -> dict[str, Any]: ...


class DecoderConfig(Config, Protocol):
    """What every video decoder's configuration answers."""

    @property
    def latent_channels(self) -> int: ...
    @property
    def temporal_factor(self) -> int: ...
    @property
    def spatial_factor(self) -> int: ...


class Student(nn.Module):
    """Base of all students: a network for a `task`, which its `kind` and `config` rebuild."""

    kind: ClassVar[str]
    task: ClassVar[Task]
    config: Config


@dataclass(frozen=True)
class Kind:
    """A registered student: its class, its configuration's class, its presets and what it is for."""

    module: Callable[[Any], Student]
    config: type[BaseModel]
    presets: Mapping[str, BaseModel]
    task: Task


Class = TypeVar("Class", bound=type[Student])

_KINDS: dict[str, Kind] = {}


def register(
    kind: str, config: type[BaseModel], presets: Mapping[str, BaseModel], task: Task = "video-decoder"
) -> Callable[[Class], Class]:
    """Class decorator that makes a student known under `kind`; a video decoder's `config` is a `DecoderConfig`."""

    def add(module: Class) -> Class:
        _KINDS[kind] = Kind(module, config, presets, task)
        module.kind, module.task = kind, task
        return module

    return add


def kinds() -> dict[str, Kind]:
    """All registered students."""
    from toolkit.students import compact_flow, turbo_vaed  # noqa: F401  (they register themselves)

    return dict(_KINDS)


def build(kind: str, preset: str, overrides: Mapping[str, Any] | None = None) -> Student:
    """An untrained student: a preset's configuration with `overrides`; raises `UserError` on unknown names."""
    found = _kind(kind)
    if preset not in found.presets:
        raise unknown_name(f"preset of {kind}", preset, found.presets)
    data = {**found.presets[preset].model_dump(), **(overrides or {})}
    return found.module(validate(found.config, data, f"student {kind}:{preset}"))


def decoder_config(student: Student) -> DecoderConfig:
    """The configuration of a video decoder; raises `UserError` on a student for another task."""
    if student.task != "video-decoder":
        raise UserError(f"student {student.kind}: is for {student.task}; name one that decodes video")
    config: Any = student.config
    decoder: DecoderConfig = config
    return decoder


def save(student: Student, folder: Path) -> None:
    """Write `student.json` and `student.safetensors` into `folder`, weights first, so that a config has weights."""
    weights = {name: value.detach().cpu().contiguous() for name, value in student.state_dict().items()}
    description = {"kind": student.kind, "config": student.config.model_dump(mode="json")}
    write_atomic(folder / WEIGHTS_FILE, to_safetensors(weights, metadata={"format": "pt"}))
    write_atomic(folder / CONFIG_FILE, json.dumps(description, indent=2) + "\n")


def load(folder: Path) -> Student:
    """The student of a run directory, in evaluation mode; raises `UserError` where it is missing or damaged."""
    description, weights_path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if not description.is_file() or not weights_path.is_file():
        raise UserError(
            f"{folder}: holds no finished student; go on with `handheld distill ... --resume` (a run that trains a "
            "teacher delivers its teacher/ folder instead)"
        )
    try:
        content = parse_json(read_text(description, MAX_JSON_BYTES))
        kind, data = str(content["kind"]), content["config"]
        weights: dict[str, torch.Tensor] = load_file(weights_path)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder}: the student's files are damaged ({error}); distil or copy it again") from error
    found = _kind(kind)
    student = found.module(validate(found.config, data, str(description)))
    try:
        student.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights_path}: does not fit {description.name} ({reason})") from error
    return student.eval()


def _kind(name: str) -> Kind:
    known = kinds()
    if name not in known:
        raise unknown_name("student", name, known)
    return known[name]
