"""One measurement of a phone at a time, whoever on this machine asks for it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

from platformdirs import user_data_path

from devices.android.adb import Phone
from toolkit.errors import DeviceError


@contextmanager
def locked(phone: Phone) -> Iterator[None]:
    """Within the block nobody else measures this phone; raises `DeviceError` where somebody does already.

    The lock ends with the process, however that ends; its file stays.
    """
    folder = user_data_path("handheld") / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / quote(phone.name, safe="")).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DeviceError(f"{phone.name}: is being measured already; wait for that to end") from error
        yield
