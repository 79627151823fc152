"""One bundle on every kind of device that this machine can play: `python -m benchmarks.devices [BUNDLE]`

This host; an Android device behind the real adb whose programs run as they are, and one whose arm64 programs run under
qemu (emulated: one thread, no pass of operators); and a headless Chromium, by WebAssembly and by WebGPU on a software
GPU (emulated). The devices are measured one after the other, since they share this machine's processors. BUNDLE is by
default an export of the student that ships with Handheld, for small frames. The demo's bundle takes qemu a quarter of
an hour (a call 24 to 31 s on an AMD EPYC) and the software GPU longer, which is therefore left out for a BUNDLE.
Needs adb, chromium, cmake, g++, g++-aarch64-linux-gnu, npm and qemu-user-static.

The records are in one report, `devices-report.html` in the working folder. Bars: every device gives records, each of
them proved on its device and labelled with how it was obtained.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import devices
import export
from benchmarks import results_file
from benchmarks.bars import at_least, print_bars
from devices import store
from devices.android.runner_build import build_runners
from devices.live import live
from devices.protocol import Schedule
from devices.records import Obtained, Profile, ProfileRecord
from tests.devices.android.loopback.fleet import Handset, fleet
from tests.devices.browser.browsers import SOFTWARE_GPU, chromium, profiling
from toolkit.cli.output import console, print_table
from toolkit.cli.runs import find_run
from toolkit.quiet import hush_libraries

STUDENT = Path("asset:turbo-vaed-tiny")
TARGETS = ["onnx-fp32", "executorch-xnnpack-fp32"]
SHAPE = (3, 9, 16)  # of the latent
PAGE, RECORDS = Path("devices-report.html"), Path("devices-report.json")
REPEATS, ITERATIONS = 2, 5
EMULATED_ITERATIONS = 2
EMULATED = {"Android, played, arm64", "browser, software GPU"}
EMULATED = {"Android, played, arm64", "browser, software GPU"}
VISIT_S = 1800.0


@dataclass(frozen=True)
class Row:
    """One record: p50 in milliseconds, and how far its output on the device was from PyTorch's, as a share of scale."""

    device: str
    target: str
    runtime: str
    obtained: Obtained
    p50_ms: float
    parity_share: float | None
    proved: bool


def row(device: str, record: ProfileRecord) -> Row:
    parity = record.parity
    return Row(device, record.target, record.runtime, record.obtained, record.latency.p50, parity.share, parity.passed)


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """These variables while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def on_phones(bundle: Path, folder: Path, url: str) -> dict[str, Profile]:
    """By the real adb and the real runners, on a device of this processor and on an emulated arm64 one."""
    with fleet(folder / "phones") as phones:
        names = ("ANDROID_ADB_SERVER_PORT", "HOME", "ADB_MDNS")
        with environment(**{name: phones.environment[name] for name in names}):
            native, emulated = phones.add("zenfone"), phones.add("emulator")
            native.change(props={"ro.product.cpu.abi": f"{platform.machine()}-linux"})
            emulated.change(props={"ro.product.cpu.abi": "aarch64-linux"})
            return {
                "Android, played": on_phone(bundle, native, url, repeats=REPEATS, iterations=ITERATIONS),
                "Android, played, arm64": on_phone(
                    bundle, emulated, url, repeats=1, iterations=EMULATED_ITERATIONS, threads=1, operators=False
                ),
            }


def on_phone(bundle: Path, phone: Handset, url: str, **asked: Any) -> Profile:
    with live() as watch:
        return devices.profile([bundle], f"android:{phone.serial}", store=url, watch=watch, **asked)


def on_browser(bundle: Path, url: str, flags: Sequence[str], iterations: int) -> Profile:
    """The page, opened by a headless Chromium."""
    schedule = Schedule(repeats=REPEATS, iterations=iterations)
    with profiling([bundle], schedule=schedule, store=url, wait_s=VISIT_S) as under_way, chromium(*flags) as browser:
        browser.new_page().goto(under_way.address)
        under_way.join(VISIT_S)
        return under_way.result()


def measure(bundle: Path, folder: Path, software_gpu: bool) -> dict[str, Profile]:
    """A profile of each device."""
    url = f"sqlite:///{folder / 'profiles.db'}"
    with live() as watch:
        host = devices.profile([bundle], repeats=REPEATS, iterations=ITERATIONS, store=url, watch=watch)
    found = {
        "host": host,
        **on_phones(bundle, folder, url),
        "browser": on_browser(bundle, url, (), ITERATIONS),
    }
    if software_gpu:
        found["browser, software GPU"] = on_browser(bundle, url, SOFTWARE_GPU, EMULATED_ITERATIONS)
    return found


def exported(folder: Path) -> Path:
    run, _ = find_run(STUDENT)
    export.export(export.from_run(run), TARGETS, folder / "bundle", shape=SHAPE)
    return folder / "bundle"


def main(arguments: Sequence[str]) -> int:
    hush_libraries()
    with tempfile.TemporaryDirectory() as name, environment(XDG_DATA_HOME=name):
        folder = Path(name)
        for target in ("host", "linux-arm64"):
            build_runners(target)
        bundle = Path(arguments[0]) if arguments else exported(folder)
        profiles = measure(bundle, folder, software_gpu=not arguments)
        whole = Profile(
            records=[record for profile in profiles.values() for record in profile.records],
            failures=[failure for profile in profiles.values() for failure in profile.failures],
        )
        store.write_json(whole, RECORDS)
        devices.report([bundle, RECORDS], PAGE)
    rows = [row(device, record) for device, profile in profiles.items() for record in profile.records]
    lines = [[r.device, r.target, r.runtime, r.obtained, f"{r.p50_ms:.1f}", f"{r.parity_share or 0:.1e}"] for r in rows]
    columns = ["device", "target", "runtime", "obtained", "p50 ms", "max |Δ| of scale"]
    print_table(f"one bundle, played by {results_file.processor()}", columns, lines, words=4)
    for failure in whole.failures:
        console.print(f"not measured: {failure}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"report: {PAGE}, records: {RECORDS}")
    results_file.write("devices", [asdict(r) for r in rows])
    emulated = {r.device for r in rows if r.obtained == "emulated"}
    return print_bars(
        [
            at_least("devices with records", len({r.device for r in rows}), len(profiles)),
            at_least("records proved on their device", sum(r.proved for r in rows) / max(1, len(rows)), 1),
            at_least("emulated devices that say so", len(emulated), len(EMULATED & profiles.keys())),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
