"""The bundle: a directory with the artifacts of one model, and a manifest that says and proves what they are.

A bundle is written under a temporary name and renamed, so it exists whole or not at all. Every byte of it is
covered by a hash: those of the files stand in the manifest, and the manifest's own stands in its last field,
taken over the manifest's text with that field zeroed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from toolkit.errors import CheckFailed, UserError
from toolkit.evaluation import AnyEvaluation
from toolkit.files import atomic_directory, collision, inside, relative_name, sha256, size_bytes
from toolkit.latents import LatentStatistics
from toolkit.limits import MAX_JSON_BYTES, MAX_VALUES, check_value, parse_json, read_text
from toolkit.parity import InputCheck, MixedPrecision, Parity, TaskMetric
from toolkit.schema import StrictModel, shortened
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
MOST_NAMED = 5
PACKAGE_PARTS = "Manifest.json"  # of an `.mlpackage`: where its model and its weights lie below `Data`
LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers leave these in any folder that they show
#: What SwiftPM, Xcode and Gradle write where they build the code in `sdk`. No more than these very places: a `build`
#: among the sources would be compiled.
BUILT = re.compile(
    r"sdk/swift/[^/]+/(\.build|\.swiftpm|Package\.resolved)"
    r"|sdk/kotlin/(\.gradle|\.kotlin|local\.properties|((core|android)/)?build)"
)
MAX_RANK, MAX_SIZE = 8, 2**31 - 1  # of a tensor: Core ML and ExecuTorch count sizes in 32 bits

RelativePath = Annotated[str, AfterValidator(relative_name)]
#: Names of tensors become names of files on phones, and words of command lines.
Identifier = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,199}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, le=MAX_SIZE)]


class TensorInfo(StrictModel):
    """One input or output of an artifact."""

    name: Identifier
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_RANK)]
    dtype: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
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

    name: Identifier
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]
    parity: Parity


class Artifact(StrictModel):
    """One exported file (or `.mlpackage` folder) of the bundle."""

    target: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=100)]
    mode: Literal["clip", "stream"]
    path: RelativePath
    sha256: Digest
    bytes: NonNegativeInt
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
    mixed_precision: MixedPrecision | None = None

    @property
    def has_pictures(self) -> bool:
        """Whether it takes or gives pixel buffers of 8 bits in the place of tensors."""
        return any(info.dtype == "uint8" for info in (*self.inputs, *self.outputs))


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
    sha256: Digest
    bytes: NonNegativeInt


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
    files: dict[RelativePath, FileEntry] = {}
    manifest_sha256: Digest = ZEROED

    @model_validator(mode="after")
    def _names_artifacts_and_each_once(self) -> Manifest:
        if not self.artifacts:
            raise ValueError("it holds no artifact")
        both = collision([*self.files, MANIFEST])
        if both is not None:
            raise ValueError(f"files {both[0]!r} and {both[1]!r} are one and the same on some systems")
        for what in ([a.target for a in self.artifacts], [a.path for a in self.artifacts]):
            if len(set(what)) != len(what):
                raise ValueError("two artifacts have one target or path")
        return self

    @property
    def signature(self) -> Artifact:
        """An artifact whose inputs and outputs are those of the bundle's reference, as far as one has tensors for
        pictures. Where even the widest keeps its states itself, they are added."""
        widest = max(self.artifacts, key=lambda artifact: (not artifact.has_pictures, len(artifact.inputs)))
        taken = {info.name for info in widest.inputs}
        kept = [state for state in widest.states if state.name not in taken]
        following = [state.model_copy(update={"name": f"next_{state.name}"}) for state in kept]
        both = {"inputs": [*widest.inputs, *kept], "outputs": [*widest.outputs, *following]}
        return widest.model_copy(update=both)

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
    """The manifest of a bundle. Raises `UserError` if there is none, `CheckFailed` if it was changed.

    Every path in it is a plain relative one, and no two are the same on any system. Whether the files are there,
    and what they are, `open_bundle` says.
    """
    path = bundle / MANIFEST
    if not path.is_file():
        raise UserError(f"{bundle}: no bundle ({MANIFEST} is missing); make one with `handheld export`")
    try:
        text = read_text(inside(bundle, MANIFEST), MAX_JSON_BYTES)
        content = parse_json(text)
        check_value(content, MAX_VALUES, printable=True)
        digest = str(content["manifest_sha256"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"{path}: changed or damaged since it was written; export the bundle again") from error
    if not digest or hashlib.sha256(text.replace(digest, ZEROED).encode()).hexdigest() != digest:
        raise CheckFailed(f"{path}: changed since it was written (its hash does not fit); export the bundle again")
    if content.get("schema_version") != SCHEMA_VERSION:
        raise UserError(f"{path}: schema version {content.get('schema_version')}; this release reads {SCHEMA_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: not a manifest of this release ({_first(error)})") from error


def artifact_path(bundle: Path, artifact: Artifact) -> Path:
    """Where an artifact of `bundle` lies; raises `CheckFailed` where that, or a part of a package, is outside of it."""
    path = inside(bundle, artifact.path)
    if path.suffix == ".mlpackage":
        check_package(path)
    return path


def check_package(path: Path) -> None:
    """Raise `CheckFailed` where a part of the `.mlpackage` at `path` lies outside of it."""
    parts = path / PACKAGE_PARTS
    if not parts.is_file():
        return
    try:
        entries = parse_json(read_text(parts, MAX_JSON_BYTES))["itemInfoEntries"].values()
        names = [f"Data/{entry['path']}" for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckFailed(f"{parts}: no list of a package's parts; export the bundle again") from error
    for name in names:
        inside(path, name)


def changed_files(bundle: Path, manifest: Manifest) -> list[str]:
    """Files of the bundle that are missing or whose hash does not fit, relative to it."""
    changed = []
    for name, entry in manifest.files.items():
        path = inside(bundle, name)
        if not path.is_file() or path.stat().st_size != entry.bytes or sha256(path) != entry.sha256:
            changed.append(name)
    return changed


def open_bundle(bundle: Path) -> Manifest:
    """The manifest of a bundle that is what its manifest says, file by file.

    Raises `CheckFailed` that names the files which were changed, are missing, lead elsewhere as links do, or which the
    manifest does not name: a folder is loaded whole, so that such a file would be used unproved. Only what file
    managers leave behind is overlooked, and what building the code in `sdk` does, whose folders are not looked into.
    """
    manifest = read_manifest(bundle)
    strange = _strange_files(bundle, manifest)
    if strange:
        names = ", ".join(str(bundle / name) for name in strange[:MOST_NAMED])
        raise CheckFailed(f"{names}: a link, or not in the bundle's manifest; remove it, or export the bundle again")
    changed = changed_files(bundle, manifest)
    if changed:
        names = ", ".join(str(bundle / name) for name in changed)
        raise CheckFailed(f"{names}: changed or missing since the bundle was written; export the bundle again")
    sizes = {size.name for artifact in manifest.artifacts for size in artifact.sizes}
    samples = [SAMPLE, *(f"{SIZE_SAMPLES}/{name}.npz" for name in sorted(sizes))]
    wanted = [*samples, *(artifact.path for artifact in manifest.artifacts)]
    absent = [name for name in wanted if name not in manifest.files and not (bundle / name).is_dir()]
    if absent:
        raise CheckFailed(f"{bundle / absent[0]}: missing from the bundle; export the bundle again")
    return manifest


def _strange_files(bundle: Path, manifest: Manifest) -> list[str]:
    """What lies in the folder and is no folder or plain file of the manifest's, relative to it."""
    strange = []
    is_code = not any(artifact.path.casefold().split("/")[0] == "sdk" for artifact in manifest.artifacts)
    for folder, folders, files in os.walk(bundle):
        for name in (*folders, *files):
            path = Path(folder) / name
            relative = path.relative_to(bundle).as_posix()
            is_plain = not path.is_symlink() and (path.is_file() or path.is_dir())
            is_built = is_code and BUILT.fullmatch(relative) is not None
            is_known = path.is_dir() or relative == MANIFEST or relative in manifest.files or is_built
            if not is_plain or not (is_known or name in LITTER or name.startswith("._")):
                strange.append(relative)
            elif is_built and path.is_dir():
                folders.remove(name)
    return sorted(strange)


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with a manifest, in a few words."""
    first, *others = error.errors()
    where = ".".join(str(part) for part in first["loc"])[:80] or "top level"
    more = f", and {len(others)} more" if others else ""
    return f"{where}: {shortened(first['msg'].removeprefix('Value error, '))}{more}"


def provenance(command: str, recipe: Path | None = None, *packages: str) -> Provenance:
    """Time, tools and machine of now; `packages` are further ones that decided what was made."""
    return Provenance(
        created=_now().isoformat(timespec="seconds"),
        command=command,
        recipe_sha256=sha256(recipe) if recipe is not None and recipe.is_file() else None,
        git_revision=_git_revision(),
        versions=versions(*packages),
        machine=f"{platform.system()} {platform.release()} {platform.machine()}",
    )


def _now() -> datetime:
    """This moment, or the one that `SOURCE_DATE_EPOCH` names (https://reproducible-builds.org/specs/source-date-epoch)."""
    named = os.environ.get("SOURCE_DATE_EPOCH")
    if not named:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(named), UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise UserError(f"SOURCE_DATE_EPOCH={named[:40]}: expected whole seconds since 1970") from error


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
