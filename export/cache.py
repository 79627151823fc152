"""Artifacts that were made before, by all that decides what they are: the same export again takes them from here.

An entry's name is a hash over the lowered program with its weights, the sample and what stands for calibration, the
target, the source text of this package and the versions of all tools. An entry is a folder with the artifact and its
part of the manifest, parity included; it appears whole or not at all, and is taken only where its hashes fit.
`HANDHELD_CACHE` names another folder, or `off`; `HANDHELD_CACHE_GB` how large it may become.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache as once
from pathlib import Path

import numpy as np
import platformdirs
import torch
from pydantic import BaseModel

from export.handover import Material, rest, weights
from export.targets import Target
from export.workers import portable
from toolkit.bundle import Artifact, versions
from toolkit.errors import UserError
from toolkit.files import sha256, size_bytes, write_atomic
from toolkit.machine import processor
from toolkit.schema import StrictModel

FOLDER_VARIABLE, SIZE_VARIABLE = "HANDHELD_CACHE", "HANDHELD_CACHE_GB"
OFF = "off"
DEFAULT_GB = 10.0
ENTRY = "entry.json"
PART = ".part-"  # what the names of unfinished and of vanishing entries begin with
SECONDS_OF_A_PART = 24 * 3600.0  # an unfinished entry of this age was left by a process that was killed
#: Packages whose versions decide what an artifact is, beside those of every bundle.
PACKAGES = ("torchao", "onnx-ir", "scikit-learn")

log = logging.getLogger(__name__)


class Entry(StrictModel):
    """What stands beside an artifact; `artifact_sha256` is over its text, `files` has those of its files."""

    artifact: str
    artifact_sha256: str
    files: dict[str, str]


def folder() -> Path | None:
    """Where the entries are, whether it exists or not; None where `HANDHELD_CACHE` is `off`."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named == OFF:
        return None
    return Path(named) if named else Path(platformdirs.user_cache_dir("handheld")) / "artifacts"


def most_bytes() -> int:
    """How large the cache may become; raises `UserError` where `HANDHELD_CACHE_GB` is no number."""
    text = os.environ.get(SIZE_VARIABLE, str(DEFAULT_GB))
    try:
        found = float(text)
        if not 0 <= found < float("inf"):
            raise ValueError(text)
    except ValueError as error:
        raise UserError(f"{SIZE_VARIABLE}={text}: expected gigabytes, such as 10") from error
    return int(found * 1e9)


def key(target: Target, material: Material) -> str:
    """The name of the entry that holds what `target` makes of the material.

    Raises `UserError` where `HANDHELD_CACHE_GB` is no number: before the work whose result would be kept.
    """
    most_bytes()
    message = portable(target)
    assert message is not None, "targets that workers do not know are made anew each time"
    whole = [_surroundings(), hashlib.sha256(message).hexdigest()]
    whole.append(repr(material.budget_db if target.is_mixable else None))
    whole += [f"{name} {_call_digest(material, name)}" for name in material.calls]
    return hashlib.sha256("\n".join(whole).encode()).hexdigest()


def take(name: str, target: Target, bundle: Path) -> Artifact | None:
    """Copy the artifact of the entry `name` into the folder `bundle`; None where there is none that is whole."""
    place, files = _entries() / name, (target.file_name, *target.beside)
    try:
        entry = Entry.model_validate_json((place / ENTRY).read_bytes())
        artifact = Artifact.model_validate_json(entry.artifact)
        fits = _hash(entry.artifact) == entry.artifact_sha256 and entry.files == _hashes(place, files)
    except (OSError, ValueError):  # not there or, as pydantic says with a ValueError, damaged
        fits = False
    if not fits:
        _discard(place)
        return None
    try:
        for file in files:
            _copy(place / file, bundle / file)
    except OSError:  # another process has just made room; or the bundle's disk is full, as the export will then say
        for file in files:
            _remove(bundle / file)
        return None
    with contextlib.suppress(OSError):
        os.utime(place)  # the last that was used is the last to go
    return artifact


def keep(name: str, target: Target, artifact: Artifact, bundle: Path) -> None:
    """Enter an artifact that was made and proved, and make room; a folder that cannot be written keeps nothing."""
    place = _entries() / name
    size = size_bytes(bundle / artifact.path)
    if place.exists() or size > most_bytes():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=place.parent, prefix=PART))
        try:
            for file in (target.file_name, *target.beside):
                _copy(bundle / file, unfinished / file)
            text = artifact.model_dump_json()
            files = _hashes(unfinished, (target.file_name, *target.beside))
            entry = Entry(artifact=text, artifact_sha256=_hash(text), files=files)
            write_atomic(unfinished / ENTRY, entry.model_dump_json())
            if not place.exists():
                unfinished.rename(place)
        finally:
            _remove(unfinished)
        make_room()
    except OSError as error:
        if not place.exists():  # else another process has just kept the same
            log.warning("%s: artifacts cannot be kept there (%s)", place.parent, error.strerror)


def make_room() -> None:
    """Remove the entries that were not used for longest until the rest is as large as it may be."""
    found = sorted(_aged(), reverse=True)
    room = most_bytes()
    for _, place in found:
        room -= size_bytes(place)
        if room < 0:
            _discard(place)
    for place in _entries().glob(f"{PART}*"):
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime > SECONDS_OF_A_PART:
                _remove(place)


def used_bytes() -> int:
    """How large the cache is."""
    place = folder()
    return size_bytes(place) if place is not None and place.is_dir() else 0


def _entries() -> Path:
    place = folder()
    assert place is not None, "the cache is off"
    return place


def _aged() -> Iterator[tuple[float, Path]]:
    for place in _entries().iterdir():
        with contextlib.suppress(OSError):
            if not place.name.startswith(PART) and place.is_dir():
                yield place.stat().st_mtime, place


def _discard(place: Path) -> None:
    """Take an entry away in one step, so that no other process finds half of it."""
    with contextlib.suppress(OSError):
        vanishing = Path(tempfile.mkdtemp(dir=place.parent, prefix=PART))
        with contextlib.suppress(OSError):
            place.rename(vanishing / place.name)
        _remove(vanishing)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copy(source: Path, destination: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, destination)
    else:
        shutil.copyfile(source, destination)


def _call_digest(material: Material, name: str) -> str:
    """Over one call: its program as text, weights, arrays, and what the manifest will say of it."""
    call = material.calls[name]
    digest = hashlib.sha256()
    for part in call.program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            digest.update(part.code.encode())
    digest.update(str(call.program.graph_signature).encode())
    _add(digest, [material.estimates, weights(call.program), rest(call)])
    return digest.hexdigest()


def _add(digest: hashlib._Hash, value: object) -> None:
    """Add to a hash what a call is made of; raises `TypeError` where that is something whose text may hide a part."""
    digest.update(f"{type(value).__name__} ".encode())
    if isinstance(value, Mapping):
        _add(digest, list(value.items()))
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)} ".encode())
        for item in value:
            _add(digest, item)
    elif isinstance(value, np.ndarray):
        _add(digest, torch.from_numpy(np.ascontiguousarray(value)))
    elif isinstance(value, torch.Tensor):
        _add(digest, [str(value.dtype), *value.shape, *value.stride()])
        digest.update(value.detach().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    elif is_dataclass(value) and not isinstance(value, type):
        _add(digest, [getattr(value, each.name) for each in fields(value)])
    elif isinstance(value, BaseModel):
        digest.update(value.model_dump_json().encode())
    elif isinstance(value, str | int | float | bool | None):
        digest.update(f"{value!r} ".encode())
    else:
        raise TypeError(f"{type(value).__name__} cannot be hashed into a cache key")


def _hashes(place: Path, files: Sequence[str]) -> dict[str, str]:
    return {file: sha256(place / file) for file in files}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@once
def _surroundings() -> str:
    """Versions, processor, system and the source of all that converts and compares."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for package in ("export", "toolkit"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(f"{path.relative_to(root).as_posix()}\0{sha256(path)}\n".encode())
    return json.dumps([versions(*PACKAGES), processor(), platform.platform(), digest.hexdigest()], sort_keys=True)
