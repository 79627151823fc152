"""Parity in a process of its own: `python -m export.isolation BUNDLE TARGET` prints it as one JSON line.

ExecuTorch's runtime trusts its files. On a damaged one it may abort or fault, and takes the process with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from toolkit.bundle import Artifact, artifact_path, read_manifest
from toolkit.children import ChildFailed, command_of, last_line
from toolkit.errors import CheckFailed, HandheldError
from toolkit.parity import Parity
from toolkit.schema import StrictModel

ISOLATED = "executorch-"
TIMEOUT_S = 600.0


class Told(StrictModel):
    """What the child found: a parity, or why there is none."""

    parity: Parity | None = None
    error: str | None = None


def is_isolated(target: str) -> bool:
    """Whether the runtime of a target can take the process with it."""
    return target.startswith(ISOLATED)


def check(bundle: Path, artifact: Artifact) -> Parity:
    """As `parity.check`, of an artifact of a bundle; `CheckFailed` also where the runtime crashes or hangs."""
    command = command_of("export.isolation", str(bundle), artifact.target)
    try:
        told = Told.model_validate_json(last_line(command, TIMEOUT_S))
    except (ChildFailed, ValueError) as error:
        path = artifact_path(bundle, artifact)
        raise CheckFailed(f"{path}: {artifact.target} cannot be run here (its process {error})") from error
    if told.parity is None:
        raise CheckFailed(told.error or f"{artifact.target}: no parity")
    return told.parity


def main(bundle: str, target: str) -> None:
    from export import parity
    from export.targets import find_target
    from toolkit.quiet import hush_libraries
    from toolkit.sample import read_sample

    hush_libraries()
    folder = Path(bundle)
    try:
        manifest = read_manifest(folder)
        a = manifest.artifact(target)
        sample = read_sample(folder, manifest)
        found = parity.check(find_target(target), artifact_path(folder, a), sample, a.inputs, a.outputs, a.stream)
        print(Told(parity=found).model_dump_json())
    except HandheldError as error:
        print(Told(error=str(error)).model_dump_json())


if __name__ == "__main__":
    main(*sys.argv[1:])
