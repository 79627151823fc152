"""Weights that others trained and published, into a student of the same layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from toolkit.errors import UserError
from toolkit.latents import LatentStatistics
from toolkit.schema import validate
from toolkit.students import Student, decoder_config

#: Names under which training scripts keep the weights inside a checkpoint.
CONTAINERS = ("ema", "ema_state_dict", "state_dict", "model", "module", "generator")
#: What released checkpoints hold beside the decoder: what training alone needs.
HEADS = re.compile(r"(^|\.)\w*(projection|proj_head|aligned_feature)\w*\.")
#: And what a diffusion model normalises latents by.
STATISTICS = re.compile(r"(^|\.)latents?_(mean|std)$")
#: What torch and safetensors raise on files that are cut short or altered.
DAMAGED = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
PREFIXES = ("module.", "decoder.")


@dataclass(frozen=True)
class Published:
    """What a released checkpoint holds beside weights: tensors left aside, by name, and the latents' statistics."""

    aside: list[str]
    statistics: LatentStatistics | None


def load_published(student: Student, path: Path) -> Published:
    """Load a released checkpoint (safetensors, or a pickle of tensors alone) strictly; returns what else it holds.

    Left aside are projection heads, and latent statistics that say nothing. Raises `UserError` where the file is
    missing, damaged or no mere set of tensors, where a weight is missing, of another shape, or unknown, and where
    statistics are none or of another number of channels.
    """
    weights, aside, statistics = {}, [], {}
    for name, value in _tensors(path).items():
        kind = STATISTICS.search(name)
        if kind is not None:
            statistics[kind[2]] = name, value
        elif HEADS.search(name):
            aside.append(name)
        else:
            weights[_inner(name)] = value
    wanted = student.state_dict()
    missing, unknown = sorted(wanted.keys() - weights.keys()), sorted(weights.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & weights.keys() if wanted[name].shape != weights[name].shape)
    if missing or unknown or other:
        complaints = [
            *_complaint("lacks", missing),
            *_complaint("has beside it", unknown),
            *(f"{name} is {list(weights[name].shape)} instead of {list(wanted[name].shape)}" for name in other[:2]),
        ]
        raise UserError(f"{path}: is no {student.kind} of this layout: {'; '.join(complaints)}. Name another --student")
    student.load_state_dict({name: value.float() for name, value in weights.items()})
    found = _statistics({kind: value for kind, (_, value) in statistics.items()}, path, student) if statistics else None
    if found is None:
        aside += [name for name, _ in statistics.values()]
    return Published(sorted(aside), found)


def _statistics(given: Mapping[str, torch.Tensor], path: Path, student: Student) -> LatentStatistics | None:
    """The statistics that the file gives; None where it lacks one of them, or has those of an untouched buffer.

    The authors' class makes buffers of zeros and ones, and their training never sets them: the teacher's own
    statistics, or its scaling factor, then are not in the file, and "nothing to undo" would be wrong.
    """
    if given.keys() != {"mean", "std"}:
        return None
    channels = decoder_config(student).latent_channels
    for kind, value in given.items():
        if value.numel() != channels:
            raise UserError(
                f"{path}: latents_{kind} has {value.numel()} numbers for latents of {channels} channels; "
                "name another --student"
            )
    numbers = {kind: value.flatten().tolist() for kind, value in given.items()}
    found = validate(LatentStatistics, {**numbers, "origin": path.name}, f"{path}: statistics of its latents")
    return None if found.is_identity else found


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; name a checkpoint, .safetensors or .pth")
    with path.open("rb") as file:
        if path.suffix != ".safetensors" and not file.read(2).startswith((b"PK", b"\x80")):
            raise UserError(f"{path}: is no checkpoint, perhaps a web page or a Git LFS pointer; download it again")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except UnpicklingError as error:
        raise UserError(
            f"{path}: holds more than tensors, and loading it could run code; ask its author for safetensors"
        ) from error
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read as weights ({' '.join(str(error).split())[:120]})") from error
    while isinstance(content, Mapping) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        inner = next((content[key] for key in CONTAINERS if key in content), None)
        if inner is None:
            break
        content = inner
    tensors = content if isinstance(content, Mapping) else {}
    found = {str(name): value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    if not found:
        raise UserError(f"{path}: holds no weights by name; name a state dict")
    return found


def _inner(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _complaint(verb: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return [f"it {verb} {', '.join(names[:2])}{more}"] if names else []
