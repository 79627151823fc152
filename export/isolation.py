"""Parity in a process of its own: `python -m export.isolation BUNDLE TARGET [SIZE]` prints it as one JSON line.

ExecuTorch's runtime trusts its files. On a damaged one it may abort or fault, and takes the process with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from toolkit.bundle import SIZE_SAMPLES, Artifact, Manifest, artifact_path, read_manifest
from toolkit.children import ChildFailed, command_of, last_line
from toolkit.errors import CheckFailed, HandheldError
from toolkit.files import inside
from toolkit.parity import Parity
from toolkit.sample import read_arrays, read_sample
from toolkit.schema import StrictModel

ISOLATED = "executorch-"
EXECUTED = "executorch-xnnpack-"  # the others are evaluated where there is no back end, which takes as long as it takes
TIMEOUT_S = 600.0


class Told(StrictModel):
    """What the child found: a parity, or why there is none."""

    parity: Parity | None = None
    error: str | None = None


def is_isolated(target: str) -> bool:
    """Whether the runtime of a target can take the process with it."""
    return target.startswith(ISOLATED)


def check(bundle: Path, _manifest: Manifest, artifact: Artifact, size: str = "") -> Parity:
    """As `check_here`, in another process; `CheckFailed` also where the runtime crashes or hangs.

    What is evaluated and not run by the runtime may take any time, as it may in this process.
    """
    limit = TIMEOUT_S if artifact.target.startswith(EXECUTED) else None
    command = command_of("export.isolation", str(bundle), artifact.target, size)
    try:
        told = Told.model_validate_json(last_line(command, limit))
    except (ChildFailed, ValueError) as error:
        path = artifact_path(bundle, artifact)
        raise CheckFailed(f"{path}: {artifact.target} cannot be run here (its process {error})") from error
    if told.parity is None:
        raise CheckFailed(told.error or f"{artifact.target}: no parity")
    return told.parity


def check_here(bundle: Path, manifest: Manifest, artifact: Artifact, size: str = "") -> Parity:
    """The parity of an artifact of a bundle on its sample, or of one of its further sizes on that one's."""
    from export import parity
    from export.targets import find_target, of_size

    target, path = find_target(artifact.target), artifact_path(bundle, artifact)
    if not size:
        sample = read_sample(bundle, manifest)
        return parity.check(target, path, sample, artifact.inputs, artifact.outputs, artifact.stream)
    own = next(each for each in artifact.sizes if each.name == size)
    infos = {info.name: info for info in (*own.inputs, *own.outputs)}
    sample = read_arrays(inside(bundle, f"{SIZE_SAMPLES}/{size}.npz"), infos)
    return parity.check(of_size(target, size), path, sample, own.inputs, own.outputs, artifact.stream)


def main(bundle: str, target: str, size: str) -> None:
    from toolkit.quiet import hush_libraries

    hush_libraries()
    try:
        manifest = read_manifest(Path(bundle))
        found = check_here(Path(bundle), manifest, manifest.artifact(target), size)
        print(Told(parity=found).model_dump_json())
    except HandheldError as error:
        print(Told(error=str(error)).model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
