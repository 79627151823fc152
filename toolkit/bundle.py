"""The bundle: a directory with the artifacts of one model, and a manifest that says and proves what they are.

A bundle is written under a temporary name and renamed, so it exists whole or not at all. Every byte of it is
covered by a hash: those of the files stand in the manifest, and the manifest's own stands in its last field,
taken over the manifest's text with that field zeroed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from toolkit.errors import CheckFailed, UserError
from toolkit.evaluation import AnyEvaluation
from toolkit.files import atomic_directory, sha256, size_bytes
from toolkit.latents import LatentStatistics
from toolkit.parity import InputCheck, Parity, TaskMetric
from toolkit.schema import StrictModel
from toolkit.streaming import StreamFacts
from toolkit.task import Task
from toolkit.tiling import Tiling

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
SAMPLE = "sample.npz"
SIZE_SAMPLES = "samples"  # a folder: one file of the form of SAMPLE for each further size, NAME.npz
REFERENCE = "reference.pt2"
VERSIONED = ("torch", "onnx", "onnxruntime", "onnxscript", "executorch", "coremltools", "diffusers", "numpy")
ZEROED = "0" * 64


class TensorInfo(StrictModel):
    """One input or output of an artifact."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    meaning: str


class GraphFacts(StrictModel):
    """What an artifact's graph consists of. MACs and peak activation bytes are computed from shapes (estimated)."""

    max_rank: int
    operators: dict[str, int]
    delegates: int | None = None
    delegated_share: float | None = None
    params: int
    macs: int
    peak_activation_bytes: int


class ArtifactSize(StrictModel):
    """A further size that an artifact holds beside its main one: a function or method called `name`."""

    name: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    parity: Parity


class Artifact(StrictModel):
    """One exported file (or `.mlpackage` folder) of the bundle."""

    target: str
    mode: Literal["clip", "stream"]
    path: str
    sha256: str
    bytes: int
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    states: list[TensorInfo] = []
    stream: StreamFacts | None = None
    tiling: Tiling | None = None
    parity: Parity
    checks: list[InputCheck] = []
    task_metric: TaskMetric | None = None
    graph: GraphFacts
    sizes: list[ArtifactSize] = []


class Model(StrictModel):
    """The PyTorch model that the artifacts were made from; its task is unknown of modules of the user's."""

    role: Literal["student", "teacher", "module"]
    task: Task | None = None
    class_name: str
    config: dict[str, Any]


class Provenance(StrictModel):
    """Where a bundle came from."""

    created: str
    command: str
    recipe_sha256: str | None
    git_revision: str | None
    versions: dict[str, str]
    machine: str


class FileEntry(StrictModel):
    sha256: str
    bytes: int


class Manifest(StrictModel):
    """Everything about a bundle. Without `latent_statistics`, the diffusion model's own are not known here.

    `normalized_latents`: whether the artifacts take what it gives; otherwise they take raw latents.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    model: Model
    provenance: Provenance
    quality: AnyEvaluation | None = None
    latent_statistics: LatentStatistics | None = None
    normalized_latents: bool = False
    artifacts: list[Artifact]
    files: dict[str, FileEntry] = {}
    manifest_sha256: str = ZEROED

    def artifact(self, target: str) -> Artifact:
        found = next((a for a in self.artifacts if a.target == target), None)
        if found is None:
            held = ", ".join(a.target for a in self.artifacts)
            raise UserError(f"bundle '{self.name}' has no artifact for {target}; it holds: {held}")
        return found


@contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """A folder to fill; it becomes the bundle `path` when the block ends well, and vanishes otherwise."""
    is_free = not path.exists() or (path.is_dir() and not any(path.iterdir()))
    if not is_free and not (path / MANIFEST).is_file():
        raise UserError(f"{path}: exists and is no bundle; name another --output")
    with atomic_directory(path) as folder:
        yield folder


def seal(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder` into the manifest, hash the manifest into itself, and write it."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    files = {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256(path), bytes=size_bytes(path)) for path in paths
    }
    unsigned = manifest.model_copy(update={"files": files, "manifest_sha256": ZEROED})
    digest = hashlib.sha256(_text(unsigned).encode()).hexdigest()
    sealed = unsigned.model_copy(update={"manifest_sha256": digest})
    (folder / MANIFEST).write_text(_text(sealed), encoding="utf-8")
    return sealed


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle. Raises `UserError` if there is none, `CheckFailed` if it was changed."""
    path = bundle / MANIFEST
    if not path.is_file():
        raise UserError(f"{bundle}: no bundle ({MANIFEST} is missing); make one with `handheld export`")
    try:
        text = path.read_bytes().decode("utf-8")
        content = json.loads(text)
        digest = str(content["manifest_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{path}: changed or damaged since it was written; export the bundle again") from error
    if hashlib.sha256(text.replace(digest, ZEROED).encode()).hexdigest() != digest:
        raise CheckFailed(f"{path}: changed since it was written (its hash does not fit); export the bundle again")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {content.get('schema_version')}; this release reads {SCHEMA_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"{path}: not a manifest of this release ({error.error_count()} unknown or missing keys)"
        ) from error


def changed_files(bundle: Path, manifest: Manifest) -> list[str]:
    """Files of the bundle that are missing or whose hash does not fit, relative to it."""
    return [
        name
        for name, entry in manifest.files.items()
        if not (bundle / name).is_file() or sha256(bundle / name) != entry.sha256
    ]


def open_bundle(bundle: Path) -> Manifest:
    """The manifest of an unchanged bundle; raises `CheckFailed` that names the changed files."""
    manifest = read_manifest(bundle)
    changed = changed_files(bundle, manifest)
    if changed:
        names = ", ".join(str(bundle / name) for name in changed)
        raise CheckFailed(f"{names}: changed or missing since the bundle was written; export the bundle again")
    return manifest


def provenance(command: str, recipe: Path | None = None, *packages: str) -> Provenance:
    """Time, tools and machine of now; `packages` are further ones that decided what was made."""
    return Provenance(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        recipe_sha256=sha256(recipe) if recipe is not None and recipe.is_file() else None,
        git_revision=_git_revision(),
        versions=versions(*packages),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def versions(*packages: str) -> dict[str, str]:
    """Versions of Handheld, of the tools that decide what an artifact is, and of `packages`."""
    found = {"python": platform.python_version()}
    for name in ("handheld", *VERSIONED, *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _text(model: BaseModel) -> str:
    return json.dumps(model.model_dump(mode="json"), indent=2) + "\n"


def _git_revision() -> str | None:
    """The revision of the checkout that this package lies in; None for an installed one."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
