"""Which devices there are, and what stands in the way of those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from devices.host import describe_host

State = Literal["ready", "not ready"]


@dataclass(frozen=True)
class Listed:
    """One device. `name` is what `--device` takes; `remedy` says how one that is not ready becomes so."""

    name: str
    kind: str
    model: str
    system: str
    state: State
    remedy: str = ""


def list_host() -> list[Listed]:
    """This machine."""
    found = describe_host(idle=False)
    return [Listed("host", "host", found.model, found.system, "ready")]


def list_android() -> list[Listed]:
    """Phones that adb sees."""
    from devices import android  # it takes `Listed` from here

    return android.list_android()


LISTERS: dict[str, Callable[[], list[Listed]]] = {"host": list_host, "android": list_android}


def list_devices() -> list[Listed]:
    """All devices of all kinds that this machine sees."""
    return [device for lister in LISTERS.values() for device in lister()]
