"""Sessions under way, on a terminal: a panel a device, drawn apart from the measuring; in a log, a line now and then.

The threads that measure only leave their session here, and what they say. What to show is worked out by the thread that
draws, from the events that the session has by then.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from devices.sessions import (
    Began,
    Event,
    Failed,
    Loaded,
    MemoryFound,
    OperatorsFound,
    PlacementFound,
    Planned,
    Round,
    Session,
)
from toolkit import progress

TIMES_A_SECOND = 4
SPARKS = "▁▂▃▄▅▆▇█"
SPARK_LENGTH = 24
BAR = 30  # cells


class Progress:
    """What a session has come to. `catch_up` reads the events that it has not read yet."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.said = "begins"
        self.temperature: float | None = session.plan.device.temperature_c
        self.rounds = 0
        self.failed: dict[int, str] = {}
        self.medians: list[list[float]] = [[] for _ in session.plan.candidates]  # sorted
        self.latest: list[deque[float]] = [deque(maxlen=SPARK_LENGTH) for _ in session.plan.candidates]
        self._read = 0

    def catch_up(self, count: int | None = None) -> None:
        """Read the events that are new, up to `count` of all."""
        events = self.session.events
        for event in events[self._read : count]:
            self._take(event)
            self._read += 1

    def p50(self, candidate: int) -> float | None:
        times = self.medians[candidate]
        if not times:
            return None
        middle = len(times) // 2
        return times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) / 2

    def line(self) -> str:
        """All of it in one line, for a log."""
        plan = self.session.plan
        medians = [
            f"{name(planned)} {median:.1f} ms"
            for number, planned in enumerate(plan.candidates)
            if (median := self.p50(number)) is not None
        ]
        warm = [] if self.temperature is None else [f"{self.temperature:.1f} °C"]
        return ", ".join(
            [f"{plan.device.model}: {self.rounds}/{plan.schedule.rounds} rounds", self.said, *warm, *medians]
        )

    def _take(self, event: Event) -> None:
        schedule = self.session.plan.schedule
        if isinstance(event, Round):
            self.rounds += 1
            for candidate, ms in enumerate(event.times_ms):
                if ms is not None:
                    bisect.insort(self.medians[candidate], ms)
                    self.latest[candidate].append(ms)
        elif isinstance(event, Began):
            self.temperature = event.temperature_c
            self.said = f"repeat {event.repeat + 1} of {schedule.repeats}"
        elif isinstance(event, Failed):
            self.failed[event.candidate] = event.reason
        elif isinstance(event, Loaded):
            self.said = f"warmed up {self._name(event.candidate)}"
        elif isinstance(event, MemoryFound):
            self.said = f"took the memory of {self._name(event.candidate)}"
        elif isinstance(event, OperatorsFound):
            self.said = f"took the operators of {self._name(event.candidate)}"
        elif isinstance(event, PlacementFound):
            self.said = f"asked where {self._name(event.candidate)} runs"

    def _name(self, candidate: int) -> str:
        return name(self.session.plan.candidates[candidate])


class Live:
    """Watches sessions (`devices.sessions.Watch`); safe to call from several threads."""

    def __init__(self) -> None:
        self._seen: deque[tuple[Session, str, int]] = deque()
        self._lock = threading.Lock()
        self._sessions: dict[str, Progress] = {}

    def seen(self, session: Session, event: Event | None) -> None:
        """A session began or has a new event. Events are read from the session when it is drawn."""
        if event is None:
            self._seen.append((session, "", len(session.events)))

    def said(self, session: Session, text: str) -> None:
        """What a session does now."""
        self._seen.append((session, text, len(session.events)))

    def now(self) -> list[Progress]:
        """What all sessions have come to, in the order in which they began."""
        with self._lock:
            while self._seen:
                session, text, count = self._seen.popleft()
                state = self._sessions.setdefault(session.plan.session, Progress(session))
                state.catch_up(count)  # what happened before it was said
                state.said = text or state.said
            for state in self._sessions.values():
                state.catch_up()
            return list(self._sessions.values())

    def __rich__(self) -> RenderableType:
        return Group(*map(panel, self.now()))


class Log(Live):
    """The same where there is no terminal: a line for each session now and then, printed between its rounds."""

    def __init__(self, console: Console, seconds: float = progress.SECONDS_BETWEEN_LOG_LINES) -> None:
        super().__init__()
        self._console, self._seconds = console, seconds
        self._next: dict[str, float] = {}

    def seen(self, session: Session, event: Event | None) -> None:
        super().seen(session, event)
        self._tick(session)

    def said(self, session: Session, text: str) -> None:
        super().said(session, text)
        self._tick(session)

    def _tick(self, session: Session) -> None:
        key, now = session.plan.session, time.monotonic()
        due = self._next.setdefault(key, now + self._seconds)
        if now < due:
            return
        self._next[key] = now + self._seconds
        for state in self.now():
            if state.session.plan.session == key:
                self._console.print(state.line(), highlight=False, soft_wrap=True, markup=False)


@contextmanager
def live(console: Console | None = None) -> Iterator[Live]:
    """Somebody who looks on at sessions while the block runs, on standard error unless `console` is another."""
    console = console or progress.console
    if not console.is_terminal or console.quiet:
        yield Log(console)
        return
    view = Live()
    with Screen(view, console=console, refresh_per_second=TIMES_A_SECOND, transient=True):
        yield view


def panel(state: Progress) -> Panel:
    """One session."""
    plan = state.session.plan
    table = Table(box=None, padding=(0, 1), expand=True, show_edge=False)
    table.add_column("candidate", no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column("p50 ms", justify="right", no_wrap=True, min_width=8)
    table.add_column("last ms", justify="right", no_wrap=True, min_width=8)
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=2)
    for number, planned in enumerate(plan.candidates):
        latest = state.latest[number]
        figures = [shown(state.p50(number)), shown(latest[-1] if latest else None)]
        what: Text = Text(spark(latest), "cyan")
        if number in state.failed:
            what = Text(" ".join(state.failed[number].split()), "red")
        table.add_row(Text(name(planned)), *figures, what)
    device = plan.device
    title = Text.assemble((device.model, "bold"), f" {plan.obtained}" if plan.obtained != "measured" else "")
    return Panel(Group(_status(state), table), title=title, title_align="left", border_style="dim", padding=(0, 1))


def name(planned: Planned) -> str:
    """A candidate's role and target, and what may run it where that is a choice."""
    return " ".join(filter(None, (planned.role, planned.target, planned.unit)))


def spark(times: Any) -> str:
    """The times as bars between the least and the greatest of them."""
    if not times:
        return ""
    low, high = min(times), max(times)
    steps = len(SPARKS) - 1
    return "".join(SPARKS[round(steps * (ms - low) / (high - low)) if high > low else 0] for ms in times)


def shown(ms: float | None) -> str:
    if ms is None:
        return "–"
    return f"{ms:.2f}" if ms < 100 else f"{ms:.1f}"


def _status(state: Progress) -> Table:
    rounds = state.session.plan.schedule.rounds
    status = Table.grid(padding=(0, 2), expand=True)
    status.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    status.add_column(no_wrap=True)
    status.add_column(width=BAR if rounds else 0)
    status.add_column(no_wrap=True, justify="right")
    warm = "" if state.temperature is None else f"{state.temperature:.1f} °C"
    bar = ProgressBar(total=rounds, completed=state.rounds, width=BAR)
    status.add_row(Text(state.said), f"{state.rounds}/{rounds}", bar, warm)
    return status
