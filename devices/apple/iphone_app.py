"""The runner app on one iPhone: launch a pass of it, and read what it tells while it runs."""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from devices.apple import devicectl, jobs
from devices.apple.devicectl import NoSuchFile, Phone
from devices.apple.devicectl_errors import AppMissing
from devices.apple.jobs import Ended, Job, JobError, Pass, Ready, Step, Told
from devices.bench import DeviceLost
from toolkit.errors import DeviceError

#: The bundle identifier of the runner app as its project has it, and the variable that names another one.
APP = "org.handheld.runner"
APP_VARIABLE = "HANDHELD_IPHONE_APP"
#: How often the events are fetched. Fetching takes a little of the phone's time, so not often.
POLL_S = 10.0
START_LIMIT_S = 120.0
#: How long one step may take: a large model's first load compiles it for the Neural Engine, which takes minutes.
STEP_LIMIT_S = 900.0
LARGEST_EVENTS = 64_000_000


class AppEnded(DeviceError):
    """The app broke off in a pass; `candidate` is the one that it was at, None where it was at none."""

    def __init__(self, message: str, candidate: int | None) -> None:
        super().__init__(message)
        self.candidate = candidate


class RunnerApp:
    """The app on a phone. Every method raises `DeviceLost` where the phone is gone."""

    def __init__(self, phone: Phone) -> None:
        self.phone = phone
        self.name = os.environ.get(APP_VARIABLE) or APP

    def hello(self) -> Ready:
        """What the app and the device are; raises `DeviceError` where the app is missing or of another release."""
        try:
            with closing(self.run("hello")) as run:
                told = list(run)
        except AppMissing as error:
            raise AppMissing(
                f"{self.phone.name}: the runner app {self.name} is not installed; build and run it once in Xcode "
                f"(docs/profiling.md), or name yours in {APP_VARIABLE}"
            ) from error
        ready = told[0]
        assert isinstance(ready, Ready)
        return ready

    def run(self, work: Pass, job: Job | None = None, candidate: int | None = None) -> Generator[Told, None, None]:
        """Launch a pass; its events as they come, `ready` first and `ended` last.

        Raises `AppEnded` where the app breaks off or one step takes longer than the limit, `DeviceError` where it
        cannot be launched, refuses the job, or speaks another protocol. However this ends, the app runs no longer.
        """
        launch = uuid.uuid4().hex[:12]
        name = job.job if job is not None else ""
        if job is not None:
            self._push_job(job, launch)
        words = [
            work,
            *([name] if job is not None else []),
            launch,
            *([str(candidate)] if candidate is not None else []),
        ]
        launched = devicectl.launch(self.phone, self.name, words)
        try:
            yield from self._watch(launched, work, name, launch)
        finally:
            launched.close()

    def push(self, source: Path, name: str) -> None:
        """Copy a file into the app's folder."""
        devicectl.copy_to(self.phone, self.name, source, f"{jobs.FOLDER}/{name}")

    def pull(self, name: str, size: int) -> bytes:
        """A file of the app's folder, of at most `size` bytes; raises `NoSuchFile`."""
        with tempfile.TemporaryDirectory(prefix="handheld-iphone-") as folder:
            target = Path(folder) / "file"
            devicectl.copy_from(self.phone, self.name, f"{jobs.FOLDER}/{name}", target, size)
            return target.read_bytes()

    def is_there(self) -> bool:
        """Whether the phone answers. A list of devices does not tell: it calls one `disconnected` that only sleeps."""
        try:
            self.pull("hello.jsonl", 0)
        except NoSuchFile:
            return True
        except DeviceError:
            return False
        return True

    def events(self, work: Pass, job: str, launch: str | None = None) -> list[Told]:
        """What the app has told of a pass so far: in one launch, or in all. Nothing where it has not begun."""
        try:
            content = self.pull(jobs.events_file(job, work), LARGEST_EVENTS)
        except NoSuchFile:
            return []
        return jobs.read_events(content, launch)

    def _push_job(self, job: Job, launch: str) -> None:
        """Under a new name for each launch, for devicectl does not promise to replace a file."""
        with tempfile.TemporaryDirectory(prefix="handheld-iphone-") as folder:
            path = Path(folder) / "job.json"
            path.write_text(job.model_dump_json(), encoding="utf-8")
            self.push(path, jobs.job_file(job.job, launch))

    def _watch(self, launched: devicectl.Launched, work: Pass, job: str, launch: str) -> Generator[Told, None, None]:
        told: list[Told] = []
        since, pause = time.monotonic(), POLL_S / 16
        while True:
            launched.wait(pause)
            pause = min(2 * pause, POLL_S)
            over = launched.ended()  # asked before fetching, so that nothing it wrote is missed
            events = self.events(work, job, launch)
            for event in events[len(told) :]:
                self._check(event)
                yield event
            if len(events) > len(told):
                told, since = events, time.monotonic()
            if told and isinstance(told[-1], Ended):
                return
            if over:
                raise self._broken_off(launched, told)
            limit = STEP_LIMIT_S if told else START_LIMIT_S
            if time.monotonic() - since > limit:
                raise AppEnded(f"{self._at(told)} for longer than {limit:.0f} s", _candidate(told))

    def _check(self, event: Told) -> None:
        if isinstance(event, Ready) and event.protocol != jobs.PROTOCOL:
            raise DeviceError(
                f"{self.phone.name}: the runner app speaks protocol {event.protocol}, this release "
                f"{jobs.PROTOCOL}; build and install the app of this release"
            )
        if isinstance(event, JobError):
            raise DeviceError(f"{self.phone.name}: the runner app refused the job ({event.message})")

    def _broken_off(self, launched: devicectl.Launched, told: list[Told]) -> DeviceError:
        failure = launched.failure(self.phone.name)
        if failure is not None and (not told or isinstance(failure, DeviceLost)):
            return failure
        why = "it crashed, or iOS ended it for the memory it took" if told else "it ended without a word"
        return AppEnded(f"{self._at(told)}, and broke off: {why}", _candidate(told))

    def _at(self, told: list[Told]) -> str:
        step = _step(told)
        return f"{self.phone.name}: the runner app was at '{step.what if step else 'starting'}'"


def _step(told: list[Told]) -> Step | None:
    return next((event for event in reversed(told) if isinstance(event, Step)), None)


def _candidate(told: list[Told]) -> int | None:
    step = _step(told)
    return step.candidate if step else None
