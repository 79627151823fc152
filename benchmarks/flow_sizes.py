"""How large a flow student is: its parameters, its weights file, and its artifacts for 384x512."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.flow_speed import SIZE
from export import facts
from export.lowering.lower import lower, program_of
from export.targets import Conversion, find_target
from toolkit import students
from toolkit.cli.output import print_table
from toolkit.files import size_bytes
from toolkit.progress import track
from toolkit.students import WEIGHTS_FILE
from toolkit.students.compact_flow_config import PRESETS

TARGETS = ("onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16")


@dataclass(frozen=True)
class Size:
    """One student: `preset` where its configuration is one, and the bytes of each target's artifact."""

    method: str
    preset: str | None
    params: int
    weights_bytes: int
    artifact_bytes: dict[str, int]

    def row(self) -> dict[str, Any]:
        """For a file of results."""
        sizes = {f"{target}_bytes": size for target, size in self.artifact_bytes.items()}
        head = {"method": self.method, "preset": self.preset, "params": self.params}
        return {**head, "weights_bytes": self.weights_bytes, **sizes}


def sizes(runs: Mapping[str, Path], targets: Sequence[str] = TARGETS) -> list[Size]:
    """Of the students of these run directories, by name; `UserError` where one is missing."""
    with track("sizes", len(runs) * len(targets)) as progress, tempfile.TemporaryDirectory() as folder:
        found = []
        for place, (name, run) in enumerate(runs.items()):
            student = students.load(run)
            images = torch.rand(1, 3, *SIZE), torch.rand(1, 3, *SIZE)
            with torch.no_grad():
                program = program_of(lower(student, images), images)
            artifacts = {}
            for number, target in enumerate(targets):
                progress.update(place * len(targets) + number, f"{name} {target}")
                path = Path(folder) / str(place) / find_target(target).file_name
                path.parent.mkdir(exist_ok=True)
                find_target(target).convert(Conversion(program, ["image1", "image2", "flow"]), path)
                artifacts[target] = size_bytes(path)
            preset = next((key for key, config in PRESETS.items() if config == student.config), None)
            weights = size_bytes(run / WEIGHTS_FILE)
            found.append(Size(name, preset, facts.params(student), weights, artifacts))
        progress.update(len(runs) * len(targets), "done")
    return found


def print_sizes(found: Sequence[Size]) -> None:
    """The table, in MB of a million bytes."""
    targets = list(found[0].artifact_bytes)
    rows = []
    for size in found:
        megabytes = [size.weights_bytes, *(size.artifact_bytes[target] for target in targets)]
        head = [size.method, size.preset or "–", f"{size.params / 1e6:.3f}"]
        rows.append([*head, *(f"{value / 1e6:.2f}" for value in megabytes)])
    columns = ["student", "preset", "params M", "weights MB", *(f"{target} MB" for target in targets)]
    print_table(f"sizes at {SIZE[0]}x{SIZE[1]}", columns, rows, words=2)
