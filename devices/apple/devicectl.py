"""`xcrun devicectl`, Xcode's program for iPhones and iPads: list them, install, launch, copy.

Every call writes its answer to a file of its own (`-j`), and that file is all that is read: what the program prints is
for people and changes from release to release. Fields that are not known here are passed over.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.apple.devicectl_errors import NO_XCODE, NoSuchFile, explained
from devices.bench import DeviceLost
from toolkit.errors import DeviceError, UserError, unknown_name

LIST_TIMEOUT_S = 60.0
LAUNCH_TIMEOUT_S = 120.0
INSTALL_TIMEOUT_S = 600.0
COPY_TIMEOUT_S = 60.0
#: The slowest copy that is waited for, in bytes a second: a poor wireless connection.
COPY_RATE = 500_000.0
END_S = 10.0


@dataclass(frozen=True)
class Phone:
    """An iPhone or iPad as `devicectl list devices` tells of it; empty strings where it does not.

    `tunnel` is `connected`, `disconnected` (within reach, no connection open now) or `unavailable`; `identifier` is
    what devicectl calls it by.
    """

    identifier: str
    udid: str
    name: str
    model: str
    product: str
    system: str
    pairing: str
    tunnel: str
    transport: str
    developer_mode: str

    @property
    def trouble(self) -> str:
        """What stands in the way of using it, and the remedy; empty where nothing does."""
        if self.pairing == "unpaired":
            return "is not paired with this Mac; connect it by cable, unlock it and tap Trust"
        if self.tunnel == "unavailable":
            return "is not within reach; connect it by cable, or to the same network, and unlock it"
        if self.developer_mode == "disabled":
            return "has developer mode off; turn it on in Settings > Privacy & Security > Developer Mode"
        return ""


class Launched:
    """An app that runs on a phone, with a devicectl process here that ends when the app does."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process, self._folder = process, folder

    def ended(self) -> bool:
        """Whether the app, or the connection to it, has ended."""
        return self._process.poll() is not None

    def wait(self, seconds: float) -> None:
        """Until it has ended, but no longer than `seconds`."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def failure(self, what: str) -> DeviceError | None:
        """Why devicectl says that it failed, once it has ended; None where it says nothing of the kind."""
        if not self.ended() or self._process.returncode == 0:
            return None
        answer = _answer(self._folder / "answer.json")
        return explained(what, answer, "") if answer is not None and "error" in answer else None

    def close(self) -> None:
        """End devicectl, and with it the app where it still runs."""
        _end(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)


def available() -> bool:
    """Whether this machine has `xcrun` at all."""
    return shutil.which("xcrun") is not None


def version() -> str:
    """devicectl's version, by its own answer; raises `DeviceError` where it is not there."""
    return str(_run(["list", "devices"], "devicectl", LIST_TIMEOUT_S).get("info", {}).get("version", "unknown"))


def phones() -> list[Phone]:
    """The iPhones and iPads that this Mac knows, also those out of reach. Raises `DeviceError` without Xcode."""
    answer = _run(["list", "devices"], "devicectl", LIST_TIMEOUT_S)
    listed = _section(answer, "result").get("devices")
    if not isinstance(listed, list):
        raise DeviceError("devicectl list devices: its answer has no list of devices; update Xcode")
    found = [_phone(entry) for entry in listed if isinstance(entry, dict)]
    return [phone for phone in found if phone is not None]


def choose(which: str | None) -> Phone:
    """The phone called `which` (name, UDID or identifier), or the only one within reach.

    Raises `UserError` where the name is not known or several could be meant, and `DeviceError` where there is none or
    it cannot be used as it is.
    """
    known = phones()
    if which is not None:
        found = [p for p in known if which in (p.identifier, p.udid)] or [p for p in known if p.name == which]
        if not found:
            raise unknown_name("iPhone", which, [phone.name for phone in known])
    else:
        found = [phone for phone in known if not phone.trouble] or known
        if not found:
            raise DeviceError("iphone: no iPhone is known to this Mac; connect one by cable, unlock it and tap Trust")
    if len(found) > 1:
        names = ", ".join(f"iphone:{phone.udid} ({phone.name})" for phone in found)
        raise UserError(f"iphone: {len(found)} devices could be meant; name one of {names}")
    if found[0].trouble:
        raise DeviceError(f"{found[0].name}: {found[0].trouble}")
    return found[0]


def install(phone: Phone, app: Path) -> str:
    """Install a signed `.app` folder; the bundle identifier that it has. Raises `UserError` and `DeviceError`."""
    if not app.exists():
        raise UserError(f"{app}: no such app; build it in Xcode first")
    command = ["device", "install", "app", "--device", phone.identifier, str(app)]
    answer = _run(command, f"{app.name} on {phone.name}", INSTALL_TIMEOUT_S)
    installed = _section(answer, "result").get("installedApplications")
    if not isinstance(installed, list) or not installed or not isinstance(installed[0], dict):
        raise DeviceError(f"{app.name} on {phone.name}: devicectl does not say what it installed; update Xcode")
    return str(installed[0].get("bundleID", ""))


def launch(phone: Phone, app: str, arguments: Sequence[str]) -> Launched:
    """Start an app anew, with `arguments`; raises `DeviceError` where Xcode is missing."""
    folder = Path(tempfile.mkdtemp(prefix="handheld-devicectl-"))
    command = ["device", "process", "launch", "--console", "--terminate-existing", "--device", phone.identifier]
    try:
        process = _start([*command, "-j", str(folder / "answer.json"), app, *arguments], folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return Launched(process, folder)


def copy_to(phone: Phone, app: str, source: Path, destination: str) -> None:
    """Copy a file into an app's data container, under a path from its root.

    Never `--remove-existing-content`: it can empty more of the container than the file's own place.
    """
    _copy("to", phone, app, str(source), destination, source.stat().st_size, f"{source.name} to {phone.name}")


def copy_from(phone: Phone, app: str, source: str, destination: Path, size: int = 0) -> None:
    """Copy a file out of an app's data container; raises `NoSuchFile` where it is not there.

    `size` is what it has at most, in bytes: it bounds the wait.
    """
    _copy("from", phone, app, source, str(destination), size, f"{source} of {phone.name}")


def _copy(way: str, phone: Phone, app: str, source: str, destination: str, size: int, what: str) -> None:
    # without --user the files would belong to root, and the app could not delete them
    domain = ["--user", "mobile", "--domain-type", "appDataContainer", "--domain-identifier", app]
    command = ["device", "copy", way, "--device", phone.identifier, *domain]
    _run(
        [*command, "--source", source, "--destination", destination],
        what,
        COPY_TIMEOUT_S + size / COPY_RATE,
    )


def _run(arguments: Sequence[str], what: str, timeout_s: float) -> dict[str, Any]:
    """The JSON of one call; raises `DeviceError` where it fails or takes longer, `DeviceLost` without the device."""
    with tempfile.TemporaryDirectory(prefix="handheld-devicectl-") as name:
        folder = Path(name)
        process = _start([*arguments, "-j", str(folder / "answer.json")], folder)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise DeviceLost(f"{what}: devicectl gave no answer within {timeout_s:.0f} s; unlock the device") from None
        finally:
            _end(process)
        answer = _answer(folder / "answer.json")
        said = (folder / "stderr").read_text(encoding="utf-8", errors="replace").strip()
    if answer is None:
        if code == 0:
            raise DeviceError(f"{what}: devicectl's answer is no whole JSON; try again, or update Xcode")
        raise explained(what, {}, said)
    if code != 0 or _section(answer, "info").get("outcome") == "failed" or "error" in answer:
        raise explained(what, answer, said)
    return answer


def _start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """devicectl in a session of its own, its output in `folder`, so that no pipe can fill or be held open."""
    try:
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            return subprocess.Popen(
                ["xcrun", "devicectl", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
    except FileNotFoundError:
        raise DeviceError(NO_XCODE) from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children: asked first, then killed."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, how)
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            continue


def _answer(path: Path) -> dict[str, Any] | None:
    """The JSON object of an answer; None where there is none, or half of one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _phone(entry: dict[str, Any]) -> Phone | None:
    """None for a watch, a Mac, a simulator, or what has no identifier."""
    hardware, properties, connection = (
        _section(entry, name) for name in ("hardwareProperties", "deviceProperties", "connectionProperties")
    )
    kind, identifier = str(hardware.get("deviceType", "")), str(entry.get("identifier", ""))
    if kind not in ("iPhone", "iPad") or hardware.get("reality", "physical") != "physical" or not identifier:
        return None
    release = " ".join(
        word for word in (str(hardware.get("platform", "iOS")), str(properties.get("osVersionNumber", ""))) if word
    )
    return Phone(
        identifier=identifier,
        udid=str(hardware.get("udid", "")) or identifier,
        name=str(properties.get("name", "")) or identifier,
        model=str(hardware.get("marketingName", "")) or str(hardware.get("productType", "")),
        product=str(hardware.get("productType", "")),
        system=release,
        pairing=str(connection.get("pairingState", "")),
        tunnel=str(connection.get("tunnelState", "")),
        transport=str(connection.get("transportType", "")),
        developer_mode=str(properties.get("developerModeStatus", "")),
    )


__all__ = [
    "Launched",
    "NoSuchFile",
    "Phone",
    "available",
    "choose",
    "copy_from",
    "copy_to",
    "install",
    "launch",
    "phones",
    "version",
]
