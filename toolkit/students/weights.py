"""Weights that others trained and published, into a student of the same layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from toolkit.errors import UserError
from toolkit.students import Student

#: Names under which training scripts keep the weights inside a checkpoint.
CONTAINERS = ("ema", "ema_state_dict", "state_dict", "model", "module", "generator")
#: What released checkpoints hold beside the decoder, and training alone needs.
HEADS = re.compile(r"(^|\.)\w*(projection|proj_head|aligned_feature)\w*\.")
STATISTICS = re.compile(r"(^|\.)latents?_(mean|std)$")
#: What torch and safetensors raise on files that are cut short or altered.
DAMAGED = (OSError, SafetensorError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
PREFIXES = ("module.", "decoder.")


def load_published(student: Student, path: Path) -> list[str]:
    """Load a released checkpoint (safetensors, or a pickle of tensors alone) strictly; returns what it leaves aside.

    Left aside are projection heads and latent statistics, by name. Raises `UserError` where the file is missing,
    damaged or no mere set of tensors, or where a weight is missing, of another shape, or unknown.
    """
    weights, aside = {}, []
    for name, value in _tensors(path).items():
        if HEADS.search(name) or STATISTICS.search(name):
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
    return sorted(aside)


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
