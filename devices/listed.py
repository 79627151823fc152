"""A device in a list of devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
