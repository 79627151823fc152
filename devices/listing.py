"""Which devices there are, and what stands in the way of those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable

from devices.android.profiler import list_android
from devices.apple.profiler import list_iphones, list_mac
from devices.browser.profiler import list_browser
from devices.host import describe_host
from devices.listed import Listed


def list_host() -> list[Listed]:
    """This machine."""
    found = describe_host(idle=False)
    return [Listed("host", "host", found.model, found.system, "ready")]


LISTERS: dict[str, Callable[[], list[Listed]]] = {
    "host": list_host,
    "android": list_android,
    "browser": list_browser,
    "iphone": list_iphones,
    "mac": list_mac,
}


def list_devices() -> list[Listed]:
    """All devices of all kinds that this machine sees."""
    return [device for lister in LISTERS.values() for device in lister()]
