"""Hiding other programs' chatter gives the error stream back as it was."""

from __future__ import annotations

import os
import threading

from toolkit.quiet import native_stderr_hidden

WAIT_S = 1.0


def stderr_file() -> tuple[int, int]:
    """Which file the error stream is, whatever its descriptor."""
    found = os.fstat(2)
    return found.st_dev, found.st_ino


def test_two_threads_do_not_keep_each_others_stream() -> None:
    before = stderr_file()
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first() -> None:
        with native_stderr_hidden():
            first_is_in.set()
            second_is_in.wait(WAIT_S)  # it cannot be, where one waits for the other
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(WAIT_S)
        with native_stderr_hidden():
            second_is_in.set()
            first_is_out.wait(WAIT_S)

    threads = [threading.Thread(target=act) for act in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stderr_file() == before
