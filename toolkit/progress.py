"""Progress of anything longer than three seconds: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

#: Where there is no terminal: of the first line, unless the job is over by then, and between the later ones.
SECONDS_BEFORE_LOG, SECONDS_BETWEEN_LOG_LINES = 3.0, 15.0

console = Console(stderr=True)


class Tracker:
    """Receives `update(done, text)`; draws a bar, or prints a line every so often where there is no terminal."""

    def __init__(self, title: str, total: int, bar: Progress | None) -> None:
        self.title, self.total = title, total
        self.bar = bar
        self.task = bar.add_task(title, total=total, text="") if bar else None
        self.started = self.last_line = time.monotonic()
        self.first: int | None = None
        self.latest = (0, "")

    def update(self, done: int, text: str = "") -> None:
        """Say that `done` of `total` are through; `text` is what is worth knowing now (loss, PSNR, a name)."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=done, text=text)
            return
        self.latest = (done, text)
        if self.first is None:
            self.first = done
        if time.monotonic() - self.last_line >= SECONDS_BETWEEN_LOG_LINES or done >= self.total:
            self.log()

    def log_unless_logged(self) -> None:
        """Print the latest update as a line, if none was printed yet."""
        if self.last_line == self.started:
            self.log()

    def log(self) -> None:
        """Print the latest update as a line."""
        (done, text), now = self.latest, time.monotonic()
        self.last_line = now
        fresh = done - (self.first or 0)
        left = (now - self.started) / fresh * (self.total - done) if fresh else 0.0
        remaining = f"{left:.0f} s left" if fresh and done < self.total else ""
        line = f"{self.title} {done}/{self.total} {', '.join(part for part in (text, remaining) if part)}".rstrip()
        console.print(line, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def track(title: str, total: int) -> Iterator[Tracker]:
    """A `Tracker` for a job of `total` parts."""
    if not console.is_terminal:
        tracker = Tracker(title, total, None)
        first = threading.Timer(SECONDS_BEFORE_LOG, tracker.log_unless_logged)
        first.daemon = True
        first.start()
        try:
            yield tracker
        finally:
            first.cancel()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        yield Tracker(title, total, bar)
