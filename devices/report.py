"""One self-contained HTML page from runs, bundles and profile records. `report` collects; the template lays out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from devices import protocol, report_figures, report_flow, store
from devices.records import ProfileRecord
from toolkit import __version__
from toolkit.bundle import MANIFEST, Manifest, open_bundle
from toolkit.errors import UserError
from toolkit.evaluation import AnyEvaluation, Evaluation, FlowEvaluation, read_evaluation
from toolkit.files import write_atomic
from toolkit.flow_side_by_side import errors_table
from toolkit.schema import StrictModel, read_yaml, validate


class Header(BaseModel):
    """What the page shows of a recipe."""

    name: str
    description: str = ""


class Run(StrictModel):
    """What the page shows of a run directory."""

    path: Path
    recipe: Header
    evaluation: AnyEvaluation
    rows: list[dict[str, float]]

    @property
    def name(self) -> str:
        return self.recipe.name


@dataclass
class Sources:
    """Everything that was given, sorted by kind."""

    runs: list[Run] = field(default_factory=list)
    bundles: list[Manifest] = field(default_factory=list)
    records: list[ProfileRecord] = field(default_factory=list)


def report(paths: Sequence[Path], output: Path) -> Path:
    """Write the page `output` about run directories, bundles and files of profile records, in any mixture.

    Raises `UserError` where a path is none of these.
    """
    sources = collect(paths)
    environment = Environment(
        loader=PackageLoader("devices", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"mega": lambda n: f"{n / 1e6:.2f}", "thousands": lambda n: f"{n:,}"}
    run = sources.runs[0] if sources.runs else None
    sessions = _sessions(sources.records)
    page = environment.get_template("report.html.j2").render(
        title=run.name if run else (sources.bundles[0].name if sources.bundles else "Profile"),
        version=__version__,
        runs=[_view(run) for run in sources.runs],
        bundles=sources.bundles,
        sessions=sessions,
        tiles=tiles(sources),
        latency=[Markup(report_figures.latency(records)) for records in sessions],
        memory=[Markup(report_figures.memory(records)) for records in sessions],
        speedups=[speedups(records) for records in sessions],
        plotly=Markup(report_figures.plotly_script()),
        protocol=(protocol.__doc__ or "").strip(),
    )
    write_atomic(output, page)
    return output


def collect(paths: Sequence[Path]) -> Sources:
    """Sort the given paths by what they are."""
    found = Sources()
    for path in paths:
        if (path / MANIFEST).is_file():
            found.bundles.append(open_bundle(path))
        elif (path / "recipe.yaml").is_file():
            found.runs.append(read_run(path))
        elif path.suffix == ".json" and path.is_file():
            found.records += store.read_json(path).records
        else:
            raise UserError(f"{path}: no run directory, bundle or .json file of profile records")
    return found


def read_run(path: Path) -> Run:
    """A finished run; raises `UserError` where it was not finished."""
    try:
        rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the run is not finished; go on with `handheld distill ... --resume`") from error
    content = {"recipe": read_yaml(path / "recipe.yaml"), "evaluation": read_evaluation(path), "rows": rows}
    return validate(Run, {"path": path, **content}, str(path))


def speedups(records: Sequence[ProfileRecord]) -> list[dict[str, Any]]:
    """Teacher's p50 over student's, for each runtime that timed both in one session."""
    teachers = {(r.runtime, r.compute_units): r for r in reversed(records) if r.role == "teacher"}
    return [
        {
            "runtime": r.runtime,
            "target": r.target,
            "ratio": teachers[r.runtime, r.compute_units].latency.p50 / r.latency.p50,
        }
        for r in records
        if r.role == "student" and (r.runtime, r.compute_units) in teachers
    ]


def tiles(sources: Sources) -> list[dict[str, str]]:
    """The headline figures that the sources allow, each with what it means and how it was obtained."""
    found = []
    for run in sources.runs[:1]:
        scores = run.evaluation
        found += report_flow.tiles(scores) if isinstance(scores, FlowEvaluation) else _video_tiles(scores)
    for records in _sessions(sources.records)[:1]:
        for entry in speedups(records):
            if entry["runtime"].startswith("ONNX"):
                note = f"{records[0].obtained}, p50, {records[0].threads} threads, one session"
                label = "the speed of the teacher's decoder in ONNX Runtime"
                found.append({"value": f"{entry['ratio']:.1f}x", "label": label, "note": note})
    for manifest in [m for m in sources.bundles if m.model.role == "student"][:1]:
        proved = [a for a in manifest.artifacts if a.parity.passed]
        note = "; ".join(f"{a.target} {a.parity.how}" for a in proved)
        label = "artifacts proved equal to PyTorch"
        found.append({"value": f"{len(proved)} of {len(manifest.artifacts)}", "label": label, "note": note})
    return found


def _view(run: Run) -> dict[str, Any]:
    """A run and everything that its part of the page shows; `template` lays that out."""
    samples = run.path / "samples.safetensors"
    if isinstance(run.evaluation, FlowEvaluation):
        columns, rows = errors_table(report_flow.methods(run.evaluation))
        return {
            "run": run,
            "template": "flow_run.html.j2",
            "columns": columns,
            "rows": rows,
            "wheel": report_flow.wheel(),
            "strips": report_flow.strips(samples),
            "training": Markup(report_flow.training(run.rows)),
        }
    return {
        "run": run,
        "template": "video_run.html.j2",
        "strips": report_figures.strips(samples),
        "training": Markup(report_figures.training(run.rows)),
    }


def _video_tiles(scores: Evaluation) -> list[dict[str, str]]:
    if scores.teacher is None or not scores.teacher_params:
        return []
    share = scores.student_params / scores.teacher_params
    kept = scores.student.psnr_db / scores.teacher.psnr_db
    figures = f"{scores.student.psnr_db:.2f} of {scores.teacher.psnr_db:.2f} dB"
    note = f"{figures} on {scores.frames} held-out frames"
    return [
        {"value": f"{share:.1%}", "label": "of the teacher decoder's parameters"},
        {"value": f"{kept:.1%}", "label": "of the teacher's PSNR", "note": note},
    ]


def _sessions(records: Sequence[ProfileRecord]) -> list[list[ProfileRecord]]:
    """Records by session: only within one may figures be compared."""
    order = dict.fromkeys(record.session for record in records)
    return [[r for r in records if r.session == session] for session in order]
