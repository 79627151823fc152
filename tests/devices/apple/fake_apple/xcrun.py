"""A fake `xcrun devicectl`: a folder plays the iPhone, and a fake runner app is launched in its container.

The folder is named by FAKE_IPHONE. In it: `devices.json`, what `list devices` answers; `container/`, the app's data
container; `calls.jsonl`, what was called. `fault` names one thing that is to go wrong. The app is
`app.py`, or the program that FAKE_IPHONE_RUNNER names.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(os.environ["FAKE_IPHONE"])
CONTAINER = ROOT / "container"
OTHER = os.environ.get("FAKE_IPHONE_RUNNER")
RUNNER = [OTHER] if OTHER else [sys.executable, "-S", str(Path(__file__).with_name("app.py"))]
APP = "org.handheld.runner"
NOT_FOUND = (1000, "The specified device was not found.", None)


def main(arguments: list[str]) -> int:
    if arguments[0] != "devicectl":
        print(f'xcrun: error: unable to find utility "{arguments[0]}"', file=sys.stderr)
        return 72
    with (ROOT / "calls.jsonl").open("a", encoding="utf-8") as calls:
        calls.write(json.dumps(arguments[1:]) + "\n")
    words, options, rest = parse(arguments[1:])
    fault = read("fault")
    if fault == "no-devicectl":
        print('xcrun: error: unable to find utility "devicectl", not a developer tool or in PATH', file=sys.stderr)
        return 72
    if fault == "hang":
        time.sleep(600)
    print("Acquired tunnel connection to device.\nnothing to be read here: {")
    if words == ["list", "devices"]:
        return answer(options, {"devices": json.loads((ROOT / "devices.json").read_text(encoding="utf-8"))})
    if gone():
        return refuse(options, *NOT_FOUND)
    if fault in ERRORS and fault.split(":")[0] in words:
        return refuse(options, *ERRORS[fault])
    if words[:3] == ["device", "install", "app"]:
        return answer(options, {"installedApplications": [{"bundleID": APP, "databaseUUID": "D", "new": 1}]})
    if words[:2] == ["device", "copy"]:
        return copy(words[2], options)
    if words == ["device", "process", "launch"]:
        return launch(options, rest)
    print(f"Unknown command {words}", file=sys.stderr)
    return 64


#: Code, description and reason beneath it, as devicectl words them, by fault: the command's word, and what happens.
ERRORS: dict[str, tuple[int, str, str | None]] = {
    "launch:locked": (
        10002,
        "The application failed to launch.",
        "Unable to launch org.handheld.runner because the device was not, or could not be, unlocked.",
    ),
    "launch:developer": (10006, "The operation failed.", "Developer Mode is disabled on this device."),
    "launch:missing": (10002, "The application failed to launch.", "The request was unknown to FrontBoard."),
    "install:signing": (
        3002,
        "Failed to install the app on the device.",
        "Failed to verify code signature of Runner.app : 0xe8008015 (A valid provisioning profile was not found.)",
    ),
    "copy:full": (7000, "The file couldn’t be copied.", "No space left on device"),
    "copy:pairing": (1011, "The device must be paired before it can be connected.", None),
    "copy:strange": (4242, "The flux is not aligned.", None),
}


def parse(arguments: list[str]) -> tuple[list[str], dict[str, str], list[str]]:
    """Command words, options, and what follows the app's name in a launch."""
    words: list[str] = []
    options: dict[str, str] = {}
    at = 0
    flags = {"--console", "--terminate-existing"}
    while at < len(arguments):
        word = arguments[at]
        if word in flags:
            options[word] = ""
            at += 1
        elif word.startswith("-"):
            options[word] = arguments[at + 1]
            at += 2
        elif words == ["device", "process", "launch"]:
            return words, options, arguments[at:]
        else:
            words.append(word)
            at += 1
    return words, options, []


def read(name: str) -> str:
    path = ROOT / name
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def gone() -> bool:
    """Whether the phone is away now; `gone` holds for how many calls more."""
    left = int(read("gone") or 0)
    if left:
        (ROOT / "gone").write_text(str(left - 1), encoding="utf-8")
    return left > 0


def answer(options: dict[str, str], result: dict[str, Any]) -> int:
    content = json.dumps(
        {
            "info": {"outcome": "success", "version": "506.6", "jsonVersion": 3, "futureField": [1, {"a": None}]},
            "result": {**result, "another": "future field"},
        }
    )
    if read("fault") == "truncated":
        content = content[: len(content) // 2]
    Path(options["-j"]).write_text(content, encoding="utf-8")
    return 0


def refuse(options: dict[str, str], code: int, description: str, reason: str | None) -> int:
    user: dict[str, Any] = {"NSLocalizedDescription": {"string": description}}
    if reason is not None:
        under = {"code": 1, "domain": "Other", "userInfo": {"NSLocalizedFailureReason": {"string": reason}}}
        user["NSUnderlyingError"] = {"error": under}
    error = {"code": code, "domain": "com.apple.dt.CoreDeviceError", "userInfo": user}
    content = {"error": error, "info": {"outcome": "failed", "version": "506.6"}}
    Path(options["-j"]).write_text(json.dumps(content), encoding="utf-8")
    print(f"ERROR: {description}", file=sys.stderr)
    return 1


def copy(way: str, options: dict[str, str]) -> int:
    assert options["--user"] == "mobile"
    assert options["--domain-type"] == "appDataContainer"
    source, destination = options["--source"], options["--destination"]
    if way == "to":
        target = CONTAINER / destination
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return answer(options, {})
    if not (CONTAINER / source).exists():
        reason = f"The file “{Path(source).name}” couldn’t be opened because there is no such file."
        return refuse(options, 7000, "The file couldn’t be transferred.", reason)
    shutil.copyfile(CONTAINER / source, destination)
    return answer(options, {})


def launch(options: dict[str, str], rest: list[str]) -> int:
    """Start the app and wait for its end; a phone that goes away ends this, but not the app's files."""
    if rest[0] != APP:
        return refuse(options, *ERRORS["launch:missing"])
    app = subprocess.Popen([*RUNNER, *rest[1:]], cwd=CONTAINER, env={**os.environ, "HOME": str(CONTAINER)})
    signal.signal(signal.SIGTERM, lambda *_: (app.kill(), sys.exit(143)))
    code = app.wait()
    if read("gone"):
        return refuse(options, 1, "The connection was lost.", "The device was disconnected.")
    if code != 0:
        return refuse(options, 10004, "The application terminated.", f"App terminated due to signal {-code}.")
    return answer(options, {"process": {"processIdentifier": 1}})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
