"""What `handheld inspect` predicts against what an export does: `python -m benchmarks.preflight [CASE ...]`.

Every case of `benchmarks.preflight_cases` is inspected, and then exported to each target that runs here, for real: it
"runs" where the artifact is written, has rank 4 at most, and gives PyTorch's numbers within the target's tolerance.
The bar: every prediction is right.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks import results_file
from benchmarks.bars import at_least, print_bars
from benchmarks.preflight_cases import Case, cases
from export.calls import Call, clip_call
from export.handover import Material
from export.inspection import MODEL, Inspection, inspect_module
from export.pipeline import write_artifact
from export.sources import Source
from export.targets import find_target
from toolkit.cli.output import console, print_table
from toolkit.errors import HandheldError
from toolkit.progress import track
from toolkit.quiet import hush_libraries

ROOT = f"{Path(__file__).resolve().parents[1]}/"
TARGETS = ["onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16"]
RUNS, FAILS = "will run", "will not"


@dataclass(frozen=True)
class Row:
    """One case on one target; the reasons are those of the inspection and of the export."""

    key: str
    case: str
    target: str
    predicted: str
    outcome: str
    predicted_reason: str = ""
    outcome_reason: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the prediction was right."""
        return self.predicted == self.outcome


def judge(name: str, case: Case, targets: Sequence[str] = TARGETS) -> list[Row]:
    """Inspect a case and export it: one row a target."""
    module, inputs = case
    inspection = inspect_module(module, inputs, targets, name)
    outcomes = _export(name, module, inputs, targets)
    return [
        Row(f"{name} / {target}", name, target, *_joined(_predicted(inspection, target), outcomes[target]))
        for target in targets
    ]


def _joined(predicted: tuple[str, str], outcome: tuple[str, str]) -> tuple[str, str, str, str]:
    return predicted[0], outcome[0], predicted[1], outcome[1]


def _predicted(inspection: Inspection, target: str) -> tuple[str, str]:
    for obstacle in inspection.obstacles:
        if target in obstacle.targets:
            named = "" if obstacle.operator == MODEL else f"{obstacle.named()}: "
            return FAILS, f"{named}{obstacle.reason}"
    return RUNS, ""


def _export(
    name: str, module: nn.Module, inputs: tuple[torch.Tensor, ...], targets: Sequence[str]
) -> dict[str, tuple[str, str]]:
    names = tuple(f"input_{number}" for number in range(len(inputs)))
    try:
        with torch.no_grad():
            call = clip_call(Source(name, module, inputs, "module", type(module).__name__, names, ()))
    except HandheldError as error:
        return dict.fromkeys(targets, (FAILS, _said(error)))
    return {target: _written(call, target) for target in targets}


def _said(error: Exception) -> str:
    """An error in one line, without the folders that this project and the artifact happen to be in."""
    return re.sub(rf"{re.escape(tempfile.gettempdir())}/\w+/", "", " ".join(str(error).split()).replace(ROOT, ""))


def _written(call: Call, target: str) -> tuple[str, str]:
    estimates = {"params": 0, "macs": 0, "peak_activation_bytes": 0}
    try:
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            write_artifact(find_target(target), Path(folder), Material(call, estimates))
    except Exception as error:  # noqa: BLE001  (whatever it is, it did not run)
        return FAILS, f"{type(error).__name__}: {_said(error)}"
    return RUNS, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these cases")
    arguments = parser.parse_args()
    hush_libraries()
    known = cases()
    rows: list[Row] = []
    with track("preflight", len(arguments.names or known)) as progress:
        for number, name in enumerate(arguments.names or known):
            progress.update(number, name)
            found = judge(name, known[name])
            results_file.update("preflight", "key", [asdict(row) for row in found])
            rows += found
            for row in found:
                if not row.agrees:
                    said = f"{row.predicted} ({row.predicted_reason}), {row.outcome} ({row.outcome_reason})"
                    console.print(f"{row.key}: {said}", markup=False, soft_wrap=True)
    columns = ["case", "target", "predicted", "outcome", "reason"]
    cells = [[r.case, r.target, r.predicted, r.outcome, (r.outcome_reason or r.predicted_reason)[:110]] for r in rows]
    print_table("what inspection predicts, and what an export does", columns, cells, words=len(columns))
    right, refused = sum(row.agrees for row in rows), sum(row.outcome == FAILS for row in rows)
    console.print(f"{right} of {len(rows)} predictions are right; {refused} of the exports were refused")
    return print_bars([at_least("predictions that are right, %", 100 * right / len(rows), 100)])


if __name__ == "__main__":
    sys.exit(main())
