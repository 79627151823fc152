"""What can go wrong with a phone, on purpose. A fault is `NAME`, `NAME=VALUE`, and `:for-good` where it comes again."""

from __future__ import annotations

from dataclasses import dataclass

#: Every fault and what its value means.
KNOWN = {
    "unauthorized": "the phone never accepts this computer",
    "drop-push": "the connection breaks after VALUE bytes of pushed files",
    "drop-run": "the connection breaks after VALUE timed runs, all programs together",
    "drop-traced": "the connection breaks when program VALUE that traces has run",
    "silent": "the phone answers nothing any more after timed run VALUE, all programs counted, but stays connected",
    "freeze": "the program that makes timed run VALUE, all programs counted, stops for ever after it",
    "kill": "the program that makes timed run VALUE, all programs counted, is killed after it, as for want of memory",
    "full": "a file that is pushed finds no space",
    "hang": "a command that holds VALUE never answers",
    "exit": "every program ends at once with exit code VALUE",
    "garbage": "every program prints something else than it should",
    "truncated": "every program's output breaks off in the middle of its line number VALUE, and it ends",
}

#: Those that wait for their time, and happen once.
COUNTED = ("drop-push", "drop-run", "drop-traced", "silent", "freeze", "kill")


@dataclass
class Fault:
    name: str
    value: str = ""
    for_good: bool = False
    happened: int = 0

    @property
    def active(self) -> bool:
        return self.for_good or not self.happened


def parse(text: str) -> Fault:
    """Raises `ValueError` for an unknown fault."""
    body, _, often = text.partition(":")
    name, _, value = body.partition("=")
    if name not in KNOWN or often not in ("", "for-good"):
        raise ValueError(f"unknown fault {text!r}; known: {', '.join(KNOWN)}")
    return Fault(name, value, often == "for-good" or name not in COUNTED)


class Faults:
    """The faults of one phone; counts what they wait for."""

    def __init__(self, faults: list[Fault]) -> None:
        self._faults = {fault.name: fault for fault in faults}
        self._counts = dict.fromkeys(COUNTED, 0)

    def value(self, name: str) -> str | None:
        """The value of a fault that is there, `""` where it has none; None where it is not."""
        fault = self._faults.get(name)
        return fault.value if fault is not None else None

    def counted(self, name: str, amount: int) -> bool:
        """Whether a fault of `COUNTED` is to happen now that `amount` more was pushed or run."""
        fault = self._faults.get(name)
        if fault is None or not fault.active:
            return False
        self._counts[name] += amount
        if self._counts[name] < int(fault.value):
            return False
        self._counts[name] = 0
        fault.happened += 1
        return True

    def gone_for_good(self) -> bool:
        """Whether the phone does not come back: a break that happened and is for good."""
        return any(f.happened and f.for_good for f in self._faults.values())
