"""What the report shows across sessions and devices: figures side by side, quality against latency, and history.

Figures of several sessions are shown as they are, never as a ratio: what lay between the sessions is not known.
"""

from __future__ import annotations

import html
import itertools
import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from devices.records import Device, Failure, Obtained, ProfileRecord
from devices.report.charts import CAPTION, ROLES, axis, shown_ms
from devices.report.figures import to_html
from devices.report.sources import Sources, both
from toolkit.evaluation import AnyEvaluation, FlowEvaluation

#: A device as the page tells it from others, and how its figures came about.
Place = tuple[str, str, str, bool, str]
#: An artifact by name: bundle, role, target with the compute units or provider that may run it.
Subject = tuple[str, str, str]
POINTS = ("#2f6fed", "#c9822b", "#2a9d6e", "#8a63d2", "#d1495b", "#3d9bb8")
PANEL, GAP = 90, 50  # pixels


@dataclass(frozen=True)
class Entry:
    """One p50 of a cell; `shade` is 0 for the fastest of the page and 1 for the slowest, by the logarithm."""

    ms: str
    obtained: Obtained
    note: str
    shade: float


@dataclass
class Cell:
    """What is known of one artifact on one device; `missing` says why there is no figure, or no newer one."""

    entries: list[Entry] = field(default_factory=list)
    missing: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Matrix:
    """Devices by artifacts: `columns` are (name, what it is), `rows` are (name, bundle, cells)."""

    columns: list[tuple[str, str]]
    rows: list[tuple[str, str, list[Cell]]]


@dataclass(frozen=True)
class Chart:
    """A plot and what stands above it."""

    title: str
    markup: str


@dataclass(frozen=True)
class _Point:
    record: ProfileRecord
    quality: float


def matrix(records: Sequence[ProfileRecord], failures: Sequence[Failure]) -> Matrix | None:
    """The last p50 of each artifact on each device, and why others are missing; None for a single session."""
    if len({each.session for each in both(records, failures)}) < 2:
        return None
    by_device = {device_of(record): record.device for record in records}
    failed = {_failed_on(failure, by_device): failure for failure in failures}  # the last one counts
    columns = dict.fromkeys([*by_device, *(place for place, _ in failed)])
    devices = {place: failure.device for (place, _), failure in failed.items()} | by_device
    subjects = dict.fromkeys([*map(_subject, records), *(subject for _, subject in failed)])
    medians = [record.latency.p50 for record in records]
    rows = []
    for subject in sorted(subjects, key=lambda s: (s[0], s[1] != "student", s[2])):
        cells = [_cell(records, failed.get((place, subject)), place, subject, medians) for place in columns]
        rows.append((f"{subject[1]} · {subject[2]}", subject[0], cells))
    return Matrix([(place[2], describe(devices[place])) for place in columns], rows)


def fronts(records: Sequence[ProfileRecord], sources: Sources) -> list[Chart]:
    """For each device, quality over p50 with the Pareto front; left out where fewer than two points are known.

    An artifact has the same colour in the figures of all devices.
    """
    found = []
    subjects = sorted(dict.fromkeys(map(_subject, records)))
    colours = dict(zip(subjects, itertools.cycle(POINTS), strict=False))
    for place, mine in _by_device(latest(records)).items():
        known: defaultdict[bool, list[_Point]] = defaultdict(list)
        for record in mine:
            evaluation = evaluation_of(record, mine, sources)
            value = None if evaluation is None else _quality(evaluation, record.role)
            if value is not None:
                known[isinstance(evaluation, FlowEvaluation)].append(_Point(record, value))
        for is_flow, points in known.items():
            if len(points) >= 2:
                title = f"{place[2]} ({describe(mine[0].device)}), {place[4]}"
                found.append(Chart(title, _front(points, colours, is_flow)))
    return found


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (milliseconds, quality; more is better) that no other one beats in both, from the fastest on."""
    found: list[tuple[float, float]] = []
    for ms, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not found or quality > found[-1][1]:
            found.append((ms, quality))
    return found


def history(records: Sequence[ProfileRecord]) -> list[Chart]:
    """For each device, p50 with its interval over time of what at least two sessions measured alike."""
    found = []
    for place, mine in _by_device(records).items():
        series: defaultdict[tuple[Subject, str, int | None], list[ProfileRecord]] = defaultdict(list)
        for record in sorted(mine, key=lambda r: r.created):
            series[_subject(record), record.runs_on, record.threads].append(record)
        several = {key: rows for key, rows in series.items() if len({row.session for row in rows}) > 1}
        if several:
            found.append(Chart(f"{place[2]} ({describe(mine[0].device)}), {place[4]}", _history(several)))
    return found


def latest(records: Sequence[ProfileRecord]) -> list[ProfileRecord]:
    """Of each artifact and runtime on each device those of the last session."""
    last = {(device_of(r), _subject(r), r.runtime): r.session for r in sorted(records, key=lambda r: r.created)}
    return [r for r in records if last[device_of(r), _subject(r), r.runtime] == r.session]


def evaluation_of(record: ProfileRecord, others: Sequence[ProfileRecord], sources: Sources) -> AnyEvaluation | None:
    """The held-out scores that speak of a record's model: of the bundle that holds its file, else of a run of its name.

    A teacher's scores stand in its student's: they are those of the one student of its session that has any.
    """
    for bundle in sources.bundles:
        hashes = {a.sha256 for a in bundle.artifacts} | {entry.sha256 for entry in bundle.files.values()}
        if record.artifact_sha256 in hashes and bundle.quality is not None:
            return bundle.quality
    named = [run.evaluation for run in sources.runs if run.name == record.bundle]
    if len(named) == 1 and record.role == "student":
        return named[0]
    if record.role != "teacher":
        return None
    students = [r for r in others if r.role == "student" and r.session == record.session]
    scores = [found for r in students if (found := evaluation_of(r, [], sources)) is not None and found.teacher]
    return scores[0] if scores and all(each == scores[0] for each in scores) else None


def device_of(record: ProfileRecord) -> Place:
    device = record.device
    return device.kind, device.name, device.model, device.emulated, record.obtained


def describe(device: Device) -> str:
    """What a device is, in brackets behind its model."""
    return f"{device.kind}, {device.system}{', emulated' if device.emulated else ''}"


def threads_of(threads: int | None) -> str:
    """The threads behind a runtime's name; nothing where it divides the work itself."""
    return "" if threads is None else f", {threads} thread{'' if threads == 1 else 's'}"


def _subject(record: ProfileRecord | Failure) -> Subject:
    where = record.unit
    return record.bundle, record.role, record.target if where is None else f"{record.target}, {where}"


def _failed_on(failure: Failure, by_device: Mapping[Place, Device]) -> tuple[Place, Subject]:
    device = failure.device
    names = device.kind, device.name, device.model, device.emulated
    alike = [place for place in by_device if place[:4] == names]
    return alike[-1] if alike else (*names, "emulated" if device.emulated else "measured"), _subject(failure)


def _by_device(records: Sequence[ProfileRecord]) -> dict[Place, list[ProfileRecord]]:
    found: defaultdict[Place, list[ProfileRecord]] = defaultdict(list)
    for record in records:
        found[device_of(record)].append(record)
    return dict(found)


def _cell(
    records: Sequence[ProfileRecord], failure: Failure | None, place: Place, subject: Subject, medians: Sequence[float]
) -> Cell:
    mine = latest([r for r in records if device_of(r) == place and _subject(r) == subject])
    several = len({record.runtime for record in mine}) > 1
    cell = Cell()
    for record in mine:
        note = f"{record.runtime}, {record.created[:10]}" if several else record.created[:10]
        p50 = record.latency.p50
        cell.entries.append(Entry(shown_ms(p50), record.obtained, note, _shade(p50, medians)))
    if failure is not None and all(record.created <= failure.created for record in mine):
        cell.missing, cell.reason = failure.kind, failure.reason
    elif not mine:
        cell.missing = "not run"
    return cell


def _shade(ms: float, among: Sequence[float]) -> float:
    low, high = min(among), max(among)
    if low <= 0 or high <= low:
        return 0.0
    return math.log(ms / low) / math.log(high / low)


def _quality(evaluation: AnyEvaluation, role: str) -> float | None:
    """PSNR in dB, of optical flow the end-point error in pixels; None where it is not known or not finite."""
    scores = evaluation.teacher if role == "teacher" else evaluation.student
    if scores is None:
        return None
    if isinstance(evaluation, FlowEvaluation):
        value = scores.all.epe if scores.all is not None else math.nan  # type: ignore[union-attr]
    else:
        value = scores.psnr_db  # type: ignore[union-attr]
    return value if math.isfinite(value) else None


def _front(points: Sequence[_Point], colours: Mapping[Subject, str], is_flow: bool) -> str:
    sign = -1 if is_flow else 1
    figure = go.Figure()
    best = front([(point.record.latency.p50, sign * point.quality) for point in points])
    if len(best) > 1:
        figure.add_scatter(
            x=[ms for ms, _ in best],
            y=[sign * quality for _, quality in best],
            name="Pareto front",
            mode="lines",
            line={"color": "#9aa5b1", "width": 1.5, "dash": "dot", "shape": "hv"},
            hoverinfo="skip",
        )
    unit = "px EPE" if is_flow else "dB PSNR"
    for point in points:
        record = point.record
        symbol = "diamond" if record.role == "teacher" else "circle"
        figure.add_scatter(
            x=[record.latency.p50],
            y=[point.quality],
            name=html.escape(" · ".join(_subject(record)[1:])),
            mode="markers",
            marker={"size": 12, "color": colours[_subject(record)], "symbol": symbol},
            text=[html.escape(f"{record.bundle}, {record.runtime}")],
            hovertemplate=f"%{{x:.2f}} ms, %{{y:.2f}} {unit}<br>%{{text}}<extra>{record.role}</extra>",
        )
    title = "mean end-point error, px" if is_flow else "held-out PSNR, dB"
    medians = [point.record.latency.p50 for point in points]
    scale = axis(medians)
    figure.update_layout(
        xaxis={"title": "p50, ms", **scale},
        yaxis={"title": title, "autorange": "reversed" if is_flow else True},
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "entrywidth": 230},
    )
    return to_html(figure, 330 + 20 * len(points), top=10)


def _history(series: Mapping[tuple[Subject, str, int | None], Sequence[ProfileRecord]]) -> str:
    height = 90 + len(series) * PANEL + (len(series) - 1) * GAP
    figure = make_subplots(rows=len(series), cols=1, shared_xaxes=True, vertical_spacing=GAP / (height - 90))
    for row, (((bundle, role, target), runtime, threads), records) in enumerate(series.items(), start=1):
        medians = [record.latency.p50 for record in records]
        between = [record.latency.interval(50) for record in records]
        spans = [(m, m) if i is None else (i.low, i.high) for m, i in zip(medians, between, strict=True)]
        figure.add_scatter(
            x=[record.created for record in records],
            y=medians,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [max(high - m, 0) for (_, high), m in zip(spans, medians, strict=True)],
                "arrayminus": [max(m - low, 0) for (low, _), m in zip(spans, medians, strict=True)],
                "thickness": 1.2,
                "width": 4,
            },
            mode="lines+markers",
            line={"color": ROLES[role], "width": 1.2},
            marker={"size": 7},
            text=[html.escape(_state(record)).replace("\n", "<br>") for record in records],
            hovertemplate="%{y:.3f} ms, %{x|%Y-%m-%d %H:%M}<br>%{text}<extra></extra>",
            row=row,
            col=1,
        )
        figure.add_annotation(
            text="<br>".join(map(html.escape, _history_caption(bundle, role, target, runtime + threads_of(threads)))),
            font={"size": 11.5},
            x=0,
            xref="paper",
            xanchor="left",
            align="left",
            y=1,
            yref=f"y{'' if row == 1 else row} domain",
            yanchor="bottom",
            showarrow=False,
        )
    figure.update_yaxes(nticks=4, rangemode="tozero")
    figure.update_layout(showlegend=False)
    return to_html(figure, height, top=GAP)


def _history_caption(bundle: str, role: str, target: str, runs_on: str) -> list[str]:
    """At most three lines that a phone's width holds."""
    return [f"{role} · {target}, ms", *textwrap.wrap(f"{bundle}, {runs_on}", CAPTION, max_lines=2, placeholder=" …")]


def _state(record: ProfileRecord) -> str:
    """What may have changed between two sessions, line by line."""
    device = record.device
    versions = [f"{name} {record.versions[name]}" for name in ("handheld", "python") if name in record.versions]
    clock = {"free": "clocks free", "fixed": "clocks held", None: "clock mode unknown"}[device.clock_mode]
    warm = "temperature unknown" if device.temperature_c is None else f"{device.temperature_c:.1f} °C at the start"
    return "\n".join(
        [
            ", ".join([record.runtime, *versions]),
            f"{device.system}, {clock}, {warm}",
            f"protocol {record.protocol_version}, file {record.artifact_sha256[:12]}",
        ]
    )
