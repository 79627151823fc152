"""Every model of the zoo: lowered, exported to ONNX, ExecuTorch and Core ML, run there, and compared with PyTorch."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch.export import ExportedProgram

from benchmarks import results_file
from benchmarks.video_models import MODELS
from export.calls import Call, clip_call
from export.handover import Material
from export.lowering.lower import exported, max_rank
from export.pipeline import write_artifact
from export.sources import Source
from export.targets import find_target
from toolkit.cli.output import console, print_table
from toolkit.errors import HandheldError
from toolkit.quiet import hush_libraries

TARGETS = ["onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16"]


@dataclass(frozen=True)
class Row:
    """One model. Differences are max |Δ| as a share of the output's scale; `failed` says what did not hold."""

    model: str
    operators_before: int = 0
    operators_after: int = 0
    rank_before: int = 0
    max_rank: int = 0
    delegated_share: float | None = None
    delegates: int | None = None
    eager: float | None = None
    onnx: float | None = None
    executorch: float | None = None
    coreml_psnr_db: float | None = None
    lowering_s: float = 0.0
    failed: str = ""


def measure(name: str) -> Row:
    """Lower one model and take it through all back ends; what fails stands in the row."""
    row = Row(name)
    try:
        with torch.no_grad():
            module, inputs = MODELS[name]()
            program = exported(module, inputs)
            row = replace(row, operators_before=_operators(program), rank_before=max_rank(program))
            names = tuple(f"input_{number}" for number in range(len(inputs)))
            source = Source(name, module, inputs, "module", type(module).__name__, names, ())
            start = time.perf_counter()
            call = clip_call(source, None)
            seconds = time.perf_counter() - start
            rank, eager = max_rank(call.program), _share(call)
            row = replace(row, operators_after=_operators(call.program), max_rank=rank, eager=eager, lowering_s=seconds)
            return _exported(row, call)
    except HandheldError as error:
        return replace(row, failed=f"{row.failed} {error}".strip())


def _exported(row: Row, call: Call) -> Row:
    estimates = {"params": 0, "macs": 0, "peak_activation_bytes": 0}
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            try:
                artifact = write_artifact(find_target(target), Path(folder), Material(call, estimates))
            except HandheldError as error:
                row = replace(row, failed=f"{row.failed} {error}".strip())
                continue
            if target.startswith("onnx"):
                row = replace(row, onnx=artifact.parity.share)
            elif target.startswith("coreml"):
                row = replace(row, coreml_psnr_db=artifact.parity.psnr_db)
            else:
                graph = artifact.graph
                row = replace(row, executorch=artifact.parity.share, delegated_share=graph.delegated_share)
                row = replace(row, delegates=graph.delegates)
    return row


def main(names: list[str]) -> bool:
    """Measure the models called `names`, by default all; print and write their rows; whether all pass."""
    hush_libraries()
    rows = []
    for name in names or MODELS:
        rows.append(measure(name))
        results_file.update("lowering_models", "model", [asdict(rows[-1])])
        console.print(f"{name}: {rows[-1].failed or 'pass'}", markup=False)
    columns = ["model", "operators", "rank", "delegated", "eager", "onnx", "executorch", "coreml dB", "lowering s", ""]
    print_table("exact lowering: max |Δ| as a share of the output's scale", columns, [_cells(row) for row in rows])
    passed = sum(not row.failed for row in rows)
    console.print(f"{passed} of {len(rows)} models: rank 4, and PyTorch's numbers in all three back ends")
    return passed == len(rows)


def _cells(row: Row) -> list[str]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.0e}"

    return [
        row.model,
        f"{row.operators_before} → {row.operators_after}",
        f"{row.rank_before} → {row.max_rank}",
        "–" if row.delegated_share is None else f"{row.delegated_share:.1%} in {row.delegates}",
        share(row.eager),
        share(row.onnx),
        share(row.executorch),
        "–" if row.coreml_psnr_db is None else f"{row.coreml_psnr_db:.0f}",
        f"{row.lowering_s:.1f}",
        "FAIL" if row.failed else "pass",
    ]


def _operators(program: ExportedProgram) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)


def _share(call: Call) -> float:
    """The worst difference of the lowered module in eager PyTorch, as a share of its output's scale."""
    results = call.lowered(*call.examples)
    results = [results] if isinstance(results, torch.Tensor) else results
    expected = [torch.from_numpy(call.sample[info.name]) for info in call.outputs]
    return max(float((r - e).abs().max() / e.abs().max()) for r, e in zip(results, expected, strict=True))
