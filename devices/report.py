"""One self-contained HTML page from runs, bundles and profiles. `report` collects; the templates lay out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from devices import protocol, report_figures, report_flow, report_overview, report_sessions
from devices.report_charts import shown_ms
from devices.report_sources import Run, Sources, collect
from toolkit import __version__
from toolkit.evaluation import Evaluation, FlowEvaluation
from toolkit.files import write_atomic
from toolkit.flow_side_by_side import errors_table

SHOWN_OPEN = 2  # sessions; of more, all but their latencies are folded


def report(paths: Sequence[Path], output: Path, store: str | None = None) -> Path:
    """Write the page `output` about run directories, bundles and profiles, in any mixture.

    Profiles are JSON files, stores as `.db` files, and the store at the URL `store`. Raises `UserError` where a path is
    none of these, and where a store has nothing about the bundles.
    """
    sources = collect(paths, store)
    environment = Environment(
        loader=PackageLoader("devices", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"mega": lambda n: f"{n / 1e6:.2f}", "thousands": lambda n: f"{n:,}", "ms": shown_ms}
    sessions, earlier = report_sessions.views(sources)
    page = environment.get_template("report.html.j2").render(
        title=_title(sources),
        version=__version__,
        runs=[_view(run) for run in sources.runs],
        bundles=sources.bundles,
        sessions=sessions,
        earlier=earlier,
        are_open=len(sessions) <= SHOWN_OPEN,
        errors=sources.errors,
        matrix=report_overview.matrix(sources.records, sources.failures),
        fronts=_marked(report_overview.fronts(sources.records, sources)),
        history=_marked(report_overview.history(sources.records)),
        tiles=tiles(sources, sessions),
        plotly=Markup(report_figures.plotly_script()),
        protocol=(protocol.__doc__ or "").strip(),
    )
    write_atomic(output, page)
    return output


def _title(sources: Sources) -> str:
    names = [run.name for run in sources.runs] + [bundle.name for bundle in sources.bundles]
    return names[0] if names else "Profile"


def _marked(charts: Sequence[report_overview.Chart]) -> list[tuple[str, Markup]]:
    return [(chart.title, Markup(chart.markup)) for chart in charts]


def tiles(sources: Sources, sessions: Sequence[report_sessions.SessionView]) -> list[dict[str, str]]:
    """The headline figures that the sources allow, each with what it means and how it was obtained."""
    found = []
    for run in sources.runs[:1]:
        scores = run.evaluation
        found += report_flow.tiles(scores) if isinstance(scores, FlowEvaluation) else _video_tiles(scores)
    for view in [view for view in sessions if view.records][:1]:
        for entry in view.speedups:
            if entry["runtime"].startswith("ONNX"):
                note = f"{view.obtained}, p50{view.threads}, one session"
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
