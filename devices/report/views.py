"""What the report says of one session: on what device, in what state, what the figures mean, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from devices.records import Device, Failure, ProfileRecord, Repeat
from devices.report import charts
from devices.report.overview import describe, threads_of
from devices.report.sources import Sources, both

UNKNOWN = "not told"


@dataclass(frozen=True)
class OperatorsView:
    """A candidate's operators: the picture, and the slowest in figures."""

    record: ProfileRecord
    caption: str
    how: str
    picture: Markup


@dataclass(frozen=True)
class SessionView:
    """One session as the page shows it. `pauses` are the repeats of the candidate that has most."""

    device: Device
    where: str
    created: str
    obtained: str
    records: list[ProfileRecord]
    failures: list[Failure]
    meaning: str
    threads: str
    cautions: list[str]
    facts: list[tuple[str, str]]
    speedups: list[dict[str, Any]]
    latency: Markup
    timeline: Markup
    pauses: list[Repeat]
    memory: Markup
    operators: list[OperatorsView]


def views(sources: Sources) -> tuple[list[SessionView], list[SessionView]]:
    """The sessions to show whole, and earlier ones of a store, of which a line each will do.

    Whole are those from files, and of a store the last one of each device, student and way in which it was obtained.
    """
    order = dict.fromkeys(each.session for each in both(sources.records, sources.failures))
    sessions = [_view(session, sources.records, sources.failures) for session in order]
    last = {_same(view): view for view in sorted(sessions, key=lambda view: view.created)}
    whole: list[SessionView] = []
    earlier: list[SessionView] = []
    for session, view in zip(order, sessions, strict=True):
        is_whole = session not in sources.stored or last[_same(view)] is view
        (whole if is_whole else earlier).append(view)
    return [_drawn(view) for view in whole], earlier


def speedups(records: Sequence[ProfileRecord]) -> list[dict[str, Any]]:
    """Teacher's p50 over student's, for each runtime and target that timed both in one session."""
    teachers = {(r.runtime, r.unit, r.target): r for r in reversed(records) if r.role == "teacher"}
    return [
        {
            "runtime": r.runtime,
            "target": r.target,
            "ratio": teachers[r.runtime, r.unit, r.target].latency.p50 / r.latency.p50,
        }
        for r in records
        if r.role == "student" and (r.runtime, r.unit, r.target) in teachers
    ]


def meaning(device: Device, obtained: str) -> str:
    """What the times speak of, in a sentence."""
    if obtained == "emulated" or device.emulated:
        return "Other hardware played this device: what ran, ran; its times are not those of the real device."
    if obtained in ("planned", "estimated"):
        return "These figures were computed, not timed."
    return {
        "host": "These are figures of this machine, not of a phone.",
        "android": "These are figures of this device, from a program of its own outside any app.",
        "apple": "These are figures of this device.",
        "browser": "These are figures of this browser; an app on the same device runs other code.",
    }[device.kind]


def _view(session: str, records: Sequence[ProfileRecord], failures: Sequence[Failure]) -> SessionView:
    mine = [record for record in records if record.session == session]
    failed = [failure for failure in failures if failure.session == session]
    first = both(mine, failed)[0]
    device = first.device
    obtained = mine[0].obtained if mine else ("emulated" if device.emulated else "measured")
    return SessionView(
        device=device,
        where=f"{device.model} ({describe(device)})",
        created=first.created,
        obtained=obtained if mine else "nothing " + obtained,
        records=mine,
        failures=failed,
        meaning=meaning(device, obtained) if mine else "",
        threads=threads_of(mine[0].threads) if mine else "",
        cautions=_cautions(mine),
        facts=_facts(device, mine),
        speedups=speedups(mine),
        latency=Markup(),
        timeline=Markup(),
        pauses=max((r.latency.repeats for r in mine), key=len, default=[]),
        memory=Markup(),
        operators=[],
    )


def _drawn(view: SessionView) -> SessionView:
    records = view.records
    if not records:
        return view
    named = zip(records, charts.captions(records), strict=True)
    pictures = {
        "latency": Markup(charts.latency(records)),
        "timeline": Markup(charts.timeline(records)),
        "memory": Markup(charts.memory(records)),
        "operators": [
            OperatorsView(
                record,
                caption,
                ", ".join(sorted({row.obtained for row in record.operators})),
                Markup(charts.operators(record)),
            )
            for record, caption in named
            if record.operators
        ],
    }
    return SessionView(**{**vars(view), **pictures})


def _same(view: SessionView) -> tuple[object, ...]:
    bundles = {each.bundle for each in both(view.records, view.failures) if each.role != "teacher"}
    device = view.device
    return device.kind, device.name, device.model, device.emulated, view.obtained, frozenset(bundles)


def _cautions(records: Sequence[ProfileRecord]) -> list[str]:
    found = []
    if any(record.busy for record in records):
        share = 100 * (records[0].device.others_share or 0)
        found.append(
            f"other programs took {share:.0f} % of the processors before the session began, and may have taken part "
            "in these figures."
        )
    if any(repeat.cooled is False for record in records for repeat in record.latency.repeats):
        found.append("the device did not cool to its first temperature between repeats.")
    return found


def _facts(device: Device, records: Sequence[ProfileRecord]) -> list[tuple[str, str]]:
    """The state that the figures depend on, unknown facts included: they are why two sessions may not be alike."""
    clock = {"free": "free", "fixed": "held for the session", None: UNKNOWN}[device.clock_mode]
    power = {True: "charging", False: "on battery", None: UNKNOWN}[device.charging]
    facts = [
        ("cores", _known(device.cores, "{}")),
        ("memory", _known(device.memory_bytes and device.memory_bytes / 1e9, "{:.1f} GB")),
        ("clocks", clock + _known(device.clock_mhz, ", {:,.0f} MHz at the start", "")),
        ("temperature at the start", _known(device.temperature_c, "{:.1f} °C")),
        ("power", power),
        (
            "taken by other programs",
            _known(device.others_share and 100 * device.others_share, "{:.0f} % of the processors"),
        ),
    ]
    if records:
        first = records[0]
        facts += [
            ("threads", "as the runtime decides" if first.threads is None else str(first.threads)),
            ("runtimes", ", ".join(dict.fromkeys(record.runtime for record in records))),
            ("protocol", f"version {first.protocol_version}"),
        ]
        if any(record.interruptions for record in records):
            facts.append(("resumed", f"{max(record.interruptions for record in records)} times"))
    return facts + list(device.details.items())


def _known(value: float | None, form: str, otherwise: str = UNKNOWN) -> str:
    return otherwise if value is None else form.format(value)
