"""A headless Chromium that opens the page of a profile under way, for the tests of browsers as devices."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from devices.browser.profiler import Patience, profile_browser
from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import Profile
from devices.requests import Request
from tests.programs import find

#: No word to the network: nothing is updated or looked up.
QUIET = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NO_GPU = ["--disable-gpu"]
SOFTWARE_GPU = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
]
LIMIT_S = 180.0


@contextmanager
def chromium(*flags: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find("chromium"), args=[*QUIET, *(flags or NO_GPU)])
        try:
            yield browser
        finally:
            browser.close()


class Profiling(threading.Thread):
    """A profile under way in a thread: `address` is where its page is, `result` what it gave or raised."""

    def __init__(self, bundles: Sequence[Path], patience: Patience | None = None, **asked: Any) -> None:
        super().__init__(daemon=True)
        schedule = asked.pop("schedule", Schedule(repeats=2, iterations=3, operators=False))
        self.journal = Journal(asked.pop("store", None))
        self.request = Request(self.journal, schedule, **{"wait_s": LIMIT_S, **asked})
        self.bundles, self.patience = bundles, patience or Patience()
        self._address: queue.Queue[str] = queue.Queue()
        self._found: Profile | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._found = profile_browser(self.bundles, self.request, self._address.put, self.patience)
        except BaseException as error:  # noqa: BLE001 (raised by `result`)
            self._error = error

    @property
    def address(self) -> str:
        return self._address.get(timeout=LIMIT_S)

    def result(self) -> Profile:
        self.join(LIMIT_S)
        assert not self.is_alive(), "the profile did not end"
        if self._error is not None:
            raise self._error
        assert self._found is not None
        return self._found


@contextmanager
def profiling(bundles: Sequence[Path], patience: Patience | None = None, **asked: Any) -> Iterator[Profiling]:
    """A profile that surely ends with the block."""
    thread = Profiling(bundles, patience, **asked)
    thread.start()
    try:
        yield thread
    finally:
        thread.journal.stop()
        thread.join(LIMIT_S)
