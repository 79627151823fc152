"""The report's plots of one session: every time, their order, memory, operators.

Captions stand above what they name, not beside it, so that a phone's width is left to the figures.
"""

from __future__ import annotations

import html
import itertools
import math
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from devices.records import OperatorTime, ProfileRecord, Repeat
from devices.report.figures import COLOURS, to_html

ROLES = {**COLOURS, "module": "#2a9d6e"}
UNITS = ("#4cb58a", "#a98be0", "#dba254", "#e0808c", "#6fb9d1")
PLAIN_CPU = "#9aa5b1"
SOFT = "#808a96"  # legible on light and dark
SHADE = "rgba(128, 128, 128, .16)"
WIDE_SPREAD = 20.0  # times that differ by more than this factor are drawn on a logarithmic axis
ROW, PANEL, GAP = 62, 84, 34  # pixels
CAPTION = 46  # letters of a line, as many as a phone's width holds


class _Tile(NamedTuple):
    """A rectangle of the treemap; those with parts have no `ms` of their own."""

    id: str
    parent: str
    label: str
    more: str
    ms: float
    colour: str
    ink: str


def captions(records: Sequence[ProfileRecord]) -> list[str]:
    """A name for each record, no two alike: role and target, and as much more as tells them apart."""
    parts = [[record.role, record.target] for record in records]
    further: tuple[Callable[[int], str], ...] = (
        lambda n: records[n].unit or records[n].runs_on,
        lambda n: records[n].bundle,
        lambda n: f"no. {n + 1}",
    )
    for more in further:
        count = Counter(map(tuple, parts))
        for number, part in enumerate(parts):
            if count[tuple(part)] > 1:
                parts[number] = [*part, more(number)]
    return [" · ".join(part) for part in parts]


def latency(records: Sequence[ProfileRecord]) -> str:
    """Every time of every candidate, outliers too, with quartiles; the slowest on top."""
    figure = go.Figure()
    named = sorted(zip(records, captions(records), strict=True), key=lambda pair: pair[0].latency.p50)
    for place, (record, caption) in enumerate(named):
        repeats = record.latency.repeats
        figure.add_box(
            x=record.latency.iterations_ms,
            y0=place,
            orientation="h",
            width=0.42,
            boxpoints="all",
            jitter=0.7,
            pointpos=0,
            text=[f"repeat {n + 1}, round {m + 1}" for n, r in enumerate(repeats) for m in range(len(r.iterations_ms))],
            hovertemplate="%{x:.3f} ms<br>%{text}<extra></extra>",
            marker={"size": 5, "opacity": 0.55, "color": ROLES[record.role]},
            line={"width": 1.5, "color": ROLES[record.role]},
            fillcolor="rgba(0,0,0,0)",
        )
        _caption(figure, f"{caption} · {shown_ms(record.latency.p50)} ms", place, 15)
    times = [time for record in records for time in record.latency.iterations_ms]
    scale = axis(times)
    figure.update_layout(
        showlegend=False, xaxis={"title": f"ms a call{', logarithmic' if 'type' in scale else ''}", **scale}
    )
    _rows(figure, len(records))
    return to_html(figure, 66 + ROW * len(records))


def memory(records: Sequence[ProfileRecord]) -> str:
    """Memory that loading and running added, in a process of its own."""
    named = [(r, r.memory, c) for r, c in zip(records, captions(records), strict=True) if r.memory is not None]
    if not named:
        return ""
    named.sort(key=lambda each: each[1].added_bytes)
    figure = go.Figure()
    figure.add_bar(
        x=[memory.added_bytes / 1e6 for _, memory, _ in named],
        y=list(range(len(named))),
        orientation="h",
        width=0.3,
        marker={"color": [ROLES[record.role] for record, _, _ in named]},
        hovertemplate="%{x:.1f} MB<extra></extra>",
    )
    for place, (_, found, caption) in enumerate(named):
        _caption(figure, f"{caption} · {found.added_bytes / 1e6:.0f} MB", place, 10)
    figure.update_layout(xaxis={"title": "MB", "rangemode": "tozero"})
    _rows(figure, len(named))
    return to_html(figure, 66 + 50 * len(named))


def timeline(records: Sequence[ProfileRecord]) -> str:
    """Each candidate's times in their order, a panel each; repeats apart, and temperature at their starts where known.

    Empty where nothing has more than one time.
    """
    longest = max(records, key=lambda r: len(r.latency.iterations_ms)).latency.repeats
    if sum(len(repeat.iterations_ms) for repeat in longest) < 2:
        return ""
    starts, gap = _starts(longest)
    end = starts[-1] + len(longest[-1].iterations_ms)
    warm = [(start, r.temperature_c) for start, r in zip(starts, longest, strict=True) if r.temperature_c is not None]
    panels = len(records) + bool(warm)
    height = 70 + panels * PANEL + (panels - 1) * GAP
    figure = make_subplots(rows=panels, cols=1, shared_xaxes=True, vertical_spacing=GAP / (height - 70))
    for row, (record, caption) in enumerate(zip(records, captions(records), strict=True), start=1):
        _times(figure, row, record, starts)
        _panel_caption(figure, row, f"{caption}, ms")
    if warm:
        _temperatures(figure, panels, warm)
        _panel_caption(figure, panels, "temperature at the start of each repeat, °C")
    for start in starts[1:]:
        figure.add_vrect(x0=start - 0.85 * gap, x1=start - 0.15 * gap, fillcolor=SHADE, line_width=0, layer="below")
    figure.update_yaxes(nticks=4, zeroline=False)
    ticks = {"tickvals": starts, "ticktext": [str(n + 1) for n in range(len(starts))], "showgrid": False}
    figure.update_xaxes(range=[-gap / 2, end - 1 + gap / 2], zeroline=False, **ticks)
    figure.update_xaxes(title="repeat, at its first round", row=panels)
    figure.update_layout(showlegend=False)
    return to_html(figure, height, top=26)


def operators(record: ProfileRecord) -> str:
    """A candidate's time by unit, and within a unit by kind of operator; empty where nothing is known."""
    found: defaultdict[str, defaultdict[str, list[OperatorTime]]] = defaultdict(lambda: defaultdict(list))
    for row in record.operators:
        found[row.unit][row.kind].append(row)
    total = sum(row.ms for row in record.operators)
    if not total:
        return ""
    how = "/".join(sorted({row.obtained for row in record.operators}))
    label = f"{shown_ms(total)} ms in operators, {how}"
    tiles = [_Tile("all", "", label, how, 0.0, "rgba(0,0,0,0)", SOFT)]
    palette = unit_colours(found)
    for unit, kinds in found.items():
        share = sum(row.ms for rows in kinds.values() for row in rows)
        label = f"<b>{html.escape(unit)}</b> {shown_ms(share)} ms, {share / total:.0%}"
        tiles.append(_Tile(unit, "all", label, how, 0.0, _pale(palette[unit]), SOFT))
        for kind, rows in kinds.items():
            ms, calls = sum(row.ms for row in rows), sum(row.calls for row in rows)
            label = f"{html.escape(kind)}<br>{shown_ms(ms)} ms"
            more = f"{ms / total:.1%} of the time, {calls} call{'' if calls == 1 else 's'}"
            tiles.append(_Tile(f"{unit}/{kind}", unit, label, more, ms, palette[unit], "#10151b"))
    figure = go.Figure(
        go.Treemap(
            ids=[tile.id for tile in tiles],
            parents=[tile.parent for tile in tiles],
            labels=[tile.label for tile in tiles],
            hovertext=[tile.more for tile in tiles],
            values=[tile.ms for tile in tiles],
            marker={"colors": [tile.colour for tile in tiles], "pad": {"t": 21, "l": 2, "r": 2, "b": 2}},
            textfont={"color": [tile.ink for tile in tiles]},
            root={"color": "rgba(0,0,0,0)"},
            pathbar={"visible": False},
            tiling={"pad": 2},
            texttemplate="%{label}",
            hovertemplate="%{label}<br>%{hovertext}<extra></extra>",
        )
    )
    figure.update_layout(uniformtext={"minsize": 10, "mode": "hide"})
    return to_html(figure, 260, bottom=4, top=0)


def unit_colours(units: Iterable[str]) -> dict[str, str]:
    """A colour for each unit; plain CPU kernels are grey."""
    rest = itertools.cycle(UNITS)
    return {unit: PLAIN_CPU if "CPU" in unit else next(rest) for unit in units}


def _pale(colour: str) -> str:
    """The same of a quarter's opacity."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, .25)"


def axis(times_ms: Sequence[float]) -> dict[str, Any]:
    """How an axis of times is drawn: from zero, or by the logarithm where they differ by more than `WIDE_SPREAD`."""
    low, high = min(times_ms), max(times_ms)
    if low <= 0 or high / low <= WIDE_SPREAD:
        return {"rangemode": "tozero"}
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in (1, 2, 5)]
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def shown_ms(ms: float) -> str:
    """Milliseconds with three figures below 1, one decimal above."""
    return f"{ms:.1f}" if ms >= 1 else f"{ms:.3f}"


def _caption(figure: go.Figure, text: str, place: float, shift: int) -> None:
    figure.add_annotation(
        text="<br>".join(map(html.escape, textwrap.wrap(text, CAPTION))),
        font={"size": 12.5},
        align="left",
        x=0,
        xref="paper",
        xanchor="left",
        y=place,
        yanchor="bottom",
        yshift=shift,
        showarrow=False,
    )


def _panel_caption(figure: go.Figure, row: int, text: str) -> None:
    figure.add_annotation(
        text=html.escape(text),
        x=0,
        xref="paper",
        xanchor="left",
        y=1,
        yref=f"y{'' if row == 1 else row} domain",
        yanchor="bottom",
        yshift=2,
        showarrow=False,
    )


def _rows(figure: go.Figure, count: int) -> None:
    figure.update_yaxes(range=[-0.45, count - 0.3], showticklabels=False, showgrid=False, zeroline=False)


def _starts(repeats: Sequence[Repeat]) -> tuple[list[float], float]:
    """Where on the axis each repeat begins, and how wide the gap between two is, in rounds."""
    gap = max(1.0, 0.05 * sum(len(repeat.iterations_ms) for repeat in repeats))
    starts, place = [], 0.0
    for repeat in repeats:
        starts.append(place)
        place += len(repeat.iterations_ms) - 1 + gap
    return starts, gap


def _times(figure: go.Figure, row: int, record: ProfileRecord, starts: Sequence[float]) -> None:
    for number, (start, repeat) in enumerate(zip(starts, record.latency.repeats, strict=False)):
        figure.add_scatter(
            x=[start + index for index in range(len(repeat.iterations_ms))],
            y=repeat.iterations_ms,
            mode="lines+markers",
            line={"color": ROLES[record.role], "width": 1},
            marker={"size": 3.5},
            text=[f"repeat {number + 1}, round {index + 1}" for index in range(len(repeat.iterations_ms))],
            hovertemplate="%{y:.3f} ms<br>%{text}<extra></extra>",
            row=row,
            col=1,
        )


def _temperatures(figure: go.Figure, row: int, found: Sequence[tuple[float, float]]) -> None:
    figure.add_scatter(
        x=[start for start, _ in found],
        y=[celsius for _, celsius in found],
        mode="lines+markers",
        line={"color": "#d1495b", "width": 1, "dash": "dot"},
        marker={"size": 7},
        hovertemplate="%{y:.1f} °C<extra></extra>",
        row=row,
        col=1,
    )
