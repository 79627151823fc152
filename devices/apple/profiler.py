"""Profile bundles on an iPhone that is connected to this Mac; which Apple devices there are, and what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devices import sessions
from devices.apple import devicectl, iphone, pymobiledevice
from devices.apple.devicectl import Phone
from devices.apple.iphone_app import RunnerApp
from devices.apple.jobs import Ready
from devices.apple.mac import describe_mac, is_mac
from devices.listed import Listed
from devices.records import ComputeUnits, Device, Profile
from devices.requests import Request
from devices.sessions import Source
from toolkit.bundle import Manifest, artifact_path, open_bundle
from toolkit.errors import DeviceError, UserError

#: What an ExecuTorch program may be delegated to, to run in the app.
DELEGATES = ("executorch-coreml-", "executorch-xnnpack-")


@dataclass(frozen=True)
class Finding:
    """One thing that measuring Apple devices needs: whether it is here, what was seen, and the remedy."""

    capability: str
    works: bool
    seen: str
    remedy: str = ""


def profile_iphone(bundles: Sequence[Path], request: Request) -> Profile:
    """Time every Core ML artifact of `bundles` on an iPhone, and ExecuTorch's where the app has that runtime.

    The phone is `request.which` (name or UDID), or the only one. Core ML artifacts are candidates once for each of
    `request.compute_units`. Raises `UserError` where the phone is not known or no artifact can run on it, `CheckFailed`
    on a changed bundle, `DeviceError` where the phone or its app cannot be used or nothing could be measured, and
    `DeviceLost` where the phone goes away and stays away: `request.resume` then goes on.
    """
    manifests = [(bundle, open_bundle(bundle)) for bundle in bundles]
    phone = devicectl.choose(request.which)
    app = RunnerApp(phone)
    ready = app.hello()
    with_executorch = "executorch" in ready.runtimes
    sources = [
        Source(place, bundle, manifest, target, path, units)
        for place, (bundle, manifest) in enumerate(manifests)
        for target, path, units in runnable(bundle, manifest, request.compute_units, with_executorch)
    ]
    if not sources:
        raise UserError(
            "iphone: no bundle holds an artifact that the runner app can run; export with --target coreml-fp16"
        )
    plan = sessions.plan(describe(phone, ready), sources, None, request.schedule)
    held = {model.name: model.bytes for model in ready.models}
    with request.journal.session(plan, request.resume) as session:
        measurement = iphone.Measurement(session, sources, app, held, request.wait_s, request.keep)
        with iphone.cleaned(measurement):
            measurement()
        return session.profile()


def runnable(
    bundle: Path, manifest: Manifest, units: Sequence[ComputeUnits], executorch: bool
) -> list[tuple[str, Path, ComputeUnits | None]]:
    """Targets, files and compute units that the runner app can run; None where the file is bound to its units."""
    found: list[tuple[str, Path, ComputeUnits | None]] = []
    for artifact in manifest.artifacts:
        path = artifact_path(bundle, artifact)
        if artifact.target.startswith("coreml-") and not artifact.has_pictures:
            found += [(artifact.target, path, unit) for unit in units]
        elif executorch and artifact.target.startswith(DELEGATES):
            found.append((artifact.target, path, None))
    return found


def describe(phone: Phone, ready: Ready) -> Device:
    """The phone as devicectl and the app tell of it."""
    facts = {
        "product": phone.product,
        "udid": phone.udid,
        "connection": phone.transport,
        "runner app": ready.app,
        "thermal state": ready.thermal,
        "low power mode": None if ready.low_power is None else str(ready.low_power).lower(),
    }
    return Device(
        kind="apple",
        name=phone.name,
        model=phone.model,
        system=ready.system,
        cores=ready.cores,
        memory_bytes=ready.memory_bytes,
        clock_mhz=None,
        temperature_c=None,
        others_share=None,
        charging=ready.charging,
        details={name: value for name, value in facts.items() if value},
    )


def list_iphones() -> list[Listed]:
    """The iPhones and iPads that this machine sees: by devicectl on a Mac, by pymobiledevice3 elsewhere.

    Empty where there is neither.
    """
    if not devicectl.available():
        return pymobiledevice.list_phones()
    try:
        phones = devicectl.phones()
    except DeviceError as error:
        return [Listed("iphone", "iphone", "", "", "not ready", str(error))]
    return [
        Listed(
            f"iphone:{phone.udid}",
            "iphone",
            f"{phone.name} ({phone.model})",
            phone.system,
            "not ready" if phone.trouble else "ready",
            phone.trouble,
        )
        for phone in phones
    ]


def list_mac() -> list[Listed]:
    """This machine where it is a Mac: Core ML runs on it."""
    if not is_mac():
        return []
    found = describe_mac(idle=False)
    return [Listed("mac", "mac", found.model, found.system, "ready")]


def findings() -> list[Finding]:
    """What measuring iPhones needs, in the order in which to get it; what hangs on a missing one is not looked for."""
    if not is_mac():
        seen = pymobiledevice.seen()
        return [Finding("iPhone", False, seen, "measure from a Mac with Xcode 16; any phone's browser works from here")]
    try:
        version = devicectl.version()
        phones = devicectl.phones()
    except DeviceError as error:
        return [Finding("Xcode's devicectl", False, "not working", str(error))]
    found = [Finding("Xcode's devicectl", True, version)]
    if not phones:
        return [*found, Finding("iPhone", False, "none known", "connect one by cable, unlock it and tap Trust")]
    for phone in phones:
        found.append(Finding(f"iPhone {phone.name}", not phone.trouble, phone.system, phone.trouble))
    return found
