"""Profile bundles on an Android device over adb: its own runtimes, in native runners that Handheld brings along."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from devices import sessions
from devices.android import adb, facts
from devices.android.adb import Attached, Phone
from devices.android.bench import AndroidBench, runtime_of
from devices.android.files import Depot
from devices.android.locks import locked
from devices.android.runner_files import installed_runner
from devices.android.state import Clocks, describe, held_clocks, read_cores, read_props
from devices.bench import drive
from devices.listed import Listed
from devices.records import Obtained, Profile
from devices.requests import Request
from devices.sessions import Session, Source
from toolkit.bundle import Manifest, artifact_path, open_bundle
from toolkit.errors import DeviceError, UserError

BUILD = "build it with `handheld devices build-runner` (docs/android.md)"


def profile_android(bundles: Sequence[Path], request: Request) -> Profile:
    """Time every artifact of `bundles` that a runner of this device's processor can run.

    One that its runtime cannot run, or that gives wrong numbers, is a failure of the profile. Raises `CheckFailed` on
    a changed bundle, `UserError` on a name that fits no phone or several, `DeviceError` where no phone can be used, it
    is being measured already, or nothing can be run, and `DeviceLost` where it went away and did not come back.
    """
    manifests = [(bundle, open_bundle(bundle)) for bundle in bundles]
    phone = Phone(adb.choose(adb.attached(), request.which).serial)
    with locked(phone):
        return _profile(phone, manifests, request)


def _profile(phone: Phone, manifests: Sequence[tuple[Path, Manifest]], request: Request) -> Profile:
    props = read_props(phone)
    abi = props.get("ro.product.cpu.abi", "")
    sources = [
        Source(place, bundle, manifest, artifact.target, artifact_path(bundle, artifact))
        for place, (bundle, manifest) in enumerate(manifests)
        for artifact in manifest.artifacts
    ]
    sources = runnable(sources, abi, phone.name)
    threads = choose_threads(phone, request.threads)
    with held_clocks(phone, request.fixed_clocks) as clocks:
        device = describe(phone, props, clocks)
        obtained: Obtained = "emulated" if device.emulated else "measured"
        plan = sessions.plan(device, sources, threads, request.schedule, obtained)
        with request.journal.session(plan, request.resume) as session:
            _measure(session, sources, phone, abi, clocks, threads, request)
            return session.profile()


def _measure(
    session: Session,
    sources: Sequence[Source],
    phone: Phone,
    abi: str,
    clocks: Clocks,
    threads: int,
    request: Request,
) -> None:
    def stopped() -> bool:
        return request.journal.stopped

    with depot(phone, session, request.keep) as files:
        obtained = session.plan.obtained
        bench = AndroidBench(phone, abi, files, clocks, threads, obtained, request.wait_s, stopped)
        drive(session, sources, bench)


@contextmanager
def depot(phone: Phone, session: Session, keep: bool) -> Iterator[Depot]:
    """The session's files on the phone; at the end they are taken away, where it still answers."""
    files = Depot(phone, session.plan.session, session.say)
    try:
        yield files
    finally:
        with contextlib.suppress(DeviceError):
            if phone.answers():
                files.clean_scratch() if keep else files.clean()


def runnable(sources: Sequence[Source], abi: str, name: str) -> list[Source]:
    """Those for which a runner is there.

    Raises `UserError` where none of them is for a runner at all, `DeviceError` where no such runner is installed.
    """
    wanted = [source for source in sources if runtime_of(source.target) is not None]
    if not wanted:
        held = ", ".join(sorted({source.target for source in sources}))
        raise UserError(
            f"{name}: runs ExecuTorch and ONNX artifacts, and the bundles hold {held}; export such a target"
        )
    found = [source for source in wanted if _has_runner(source, abi)]
    if not found:
        targets = ", ".join(sorted({source.target for source in wanted}))
        raise DeviceError(f"{name}: no runner for {targets} on {abi or 'an unknown processor'} is installed; {BUILD}")
    return found


def _has_runner(source: Source, abi: str) -> bool:
    runtime = runtime_of(source.target)
    return runtime is not None and installed_runner(abi, runtime) is not None


def choose_threads(phone: Phone, wanted: int | None) -> int:
    """As many as the device has big cores, unless the user says otherwise."""
    cores = read_cores(phone)
    if wanted is not None and cores.count is not None and wanted > cores.count:
        raise UserError(f"--threads {wanted}: {phone.name} has {cores.count} cores; more threads only wait")
    return wanted or cores.big or 1


def list_android() -> list[Listed]:
    """All phones that adb sees, whatever their state; none where adb is not installed."""
    try:
        adb.adb_program()
    except DeviceError:
        return []
    try:
        phones = adb.attached()
    except DeviceError as error:
        return [Listed("android", "android", "unknown", "Android", "not ready", str(error))]
    with ThreadPoolExecutor(max_workers=max(1, len(phones))) as pool:
        return list(pool.map(_describe, phones))


def _describe(phone: Attached) -> Listed:
    name = f"android:{phone.serial}"
    remedy = adb.remedy(phone.state)
    if remedy is not None:
        return Listed(name, "android", phone.model or "unknown", "Android", "not ready", f"{phone.state}: {remedy}")
    try:
        props = read_props(Phone(phone.serial))
    except DeviceError as error:
        return Listed(name, "android", phone.model or "unknown", "Android", "not ready", str(error))
    return Listed(name, "android", facts.model(props), facts.system(props), "ready")
