"""What `devicectl` says when it fails, as one line: the thing, the reason, the remedy.

Its error is a chain: each has a description, a reason, and the error under it. Known ones are told by words of that
chain, for the numbers differ between releases of Xcode; an unknown one is passed on in devicectl's own words.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from devices.bench import DeviceLost
from toolkit.errors import DeviceError

NO_XCODE = (
    "devicectl: not on this machine; iPhones are measured from a Mac with Xcode 16 or later "
    "(App Store, then: sudo xcode-select -s /Applications/Xcode.app)"
)

DEPTH = 8
LENGTH = 300


class NoSuchFile(DeviceError):
    """The file to copy is not on the device."""


class AppMissing(DeviceError):
    """The app is not installed on the device."""


#: Words of the chain, any of which tells the failure (in lower case); its class; reason and remedy.
KNOWN: tuple[tuple[tuple[str, ...], type[DeviceError], str], ...] = (
    (("unable to find utility", "xcode-select: error", "requires xcode"), DeviceError, ""),
    (("no space left", "enospc", "not enough space", "out of space"), DeviceError, "no space left; free some on it"),
    (("developer mode",), DeviceError, "developer mode is off; Settings > Privacy & Security > Developer Mode"),
    (
        ("device is locked", "could not be, unlocked", "reason: locked", "device was locked", "passcode"),
        DeviceError,
        "it is locked; unlock it and leave the screen on",
    ),
    (
        (
            "0xe8008",
            "provisioning profile",
            "code signature",
            "applicationverificationfailed",
            "not been explicitly trusted",
            "untrusted developer",
        ),
        DeviceError,
        "the app's signature was refused; choose your team in Xcode, build anew, and trust it on the device in "
        "Settings > General > VPN & Device Management",
    ),
    (("not paired", "must be paired", "unpaired", "trust this computer"), DeviceError, "it is not paired; tap Trust"),
    (
        (
            "is not installed",
            "unknown to frontboard",
            "no app with bundle",
            "no installed application",
            "invalid bundle",
        ),
        AppMissing,
        "the runner app is not installed; see `handheld doctor`",
    ),
    (
        ("no such file", "does not exist", "doesn’t exist", "doesn't exist", "no file at"),
        NoSuchFile,
        "no such file",
    ),
    (
        (
            "device was not found",
            "disconnected",
            "connection was lost",
            "connection interrupted",
            "connection was invalidated",
            "not connected",
            "is unavailable",
            "timed out",
            "tunnel",
            "network connection",
        ),
        DeviceLost,
        "the connection is gone; connect it again, and unlock it",
    ),
)


def explained(what: str, answer: dict[str, Any], said: str) -> DeviceError:
    """The error of a failed call: `answer` is its JSON, `said` what it wrote to its standard error."""
    told = list(dict.fromkeys(_chain(answer.get("error"))))
    text = " ".join(" ".join(told or [said]).split())
    for words, kind, remedy in KNOWN:
        if any(word in text.lower() for word in words):
            return kind(f"{what}: {remedy} (devicectl: {_short(text)})") if remedy else kind(NO_XCODE)
    return DeviceError(f"{what}: devicectl failed ({_short(text) or 'without a reason'}); see `handheld doctor`")


def _short(text: str) -> str:
    return text if len(text) <= LENGTH else text[: LENGTH - 1] + "…"


def _chain(error: object, depth: int = 0) -> Iterator[str]:
    """Descriptions and reasons of an error and of those under it, and their codes."""
    if not isinstance(error, dict) or depth > DEPTH:
        return
    facts = error.get("userInfo")
    facts = facts if isinstance(facts, dict) else {}
    for key in ("NSLocalizedDescription", "NSLocalizedFailureReason", "NSLocalizedRecoverySuggestion"):
        value = facts.get(key)
        text = value.get("string") if isinstance(value, dict) else value
        if isinstance(text, str) and text:
            yield text
    if not facts and error.get("domain") == "NSPOSIXErrorDomain":
        yield {2: "No such file or directory", 28: "No space left on device"}.get(
            error.get("code", 0), f"POSIX error {error.get('code')}"
        )
    under = facts.get("NSUnderlyingError")
    yield from _chain(under.get("error") if isinstance(under, dict) else None, depth + 1)
