"""What the tests of Apple devices share: a fake iphone behind a fake `xcrun`, and a bundle of Core ML artifacts."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.bundle import Artifact, GraphFacts, Manifest, Model, TensorInfo, new_bundle, provenance, seal
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity, Tolerance

FAKES = Path(__file__).parent / "fake_apple"
UDID = "00008120-000000000000001E"


def device(name: str = "Ada's iPhone", **changes: Any) -> dict[str, Any]:
    """An entry of `devicectl list devices`; `changes` are fields of its three parts, or of itself."""
    entry: dict[str, Any] = {
        "capabilities": [{"featureIdentifier": "com.apple.coredevice.feature.unpairdevice", "name": "Unpair Device"}],
        "connectionProperties": {
            "authenticationType": "manualPairing",
            "isMobileDeviceOnly": False,
            "pairingState": "paired",
            "transportType": "wired",
            "tunnelState": "disconnected",
        },
        "deviceProperties": {
            "ddiServicesAvailable": True,
            "developerModeStatus": "enabled",
            "name": name,
            "osBuildUpdate": "22B83",
            "osVersionNumber": "18.1",
        },
        "hardwareProperties": {
            "deviceType": "iPhone",
            "ecid": 18446744073709551615,
            "marketingName": "iPhone 14 Pro",
            "platform": "iOS",
            "productType": "iPhone15,2",
            "reality": "physical",
            "udid": UDID,
        },
        "identifier": "E5E85238-76F2-4F59-A60F-0B4D08F33764",
        "tags": [],
        "visibilityClass": "default",
    }
    for key, value in changes.items():
        part = next((part for part in entry.values() if isinstance(part, dict) and key in part), entry)
        part[key] = value
    return entry


class FakePhone:
    """The folder that plays an iPhone; `fault` makes one thing go wrong."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "container").mkdir(parents=True)
        self.devices(device())

    def devices(self, *entries: dict[str, Any]) -> None:
        (self.root / "devices.json").write_text(json.dumps(entries), encoding="utf-8")

    def fault(self, name: str) -> None:
        (self.root / "fault").write_text(name, encoding="utf-8")

    def fine(self) -> None:
        (self.root / "fault").unlink(missing_ok=True)
        (self.root / "gone").unlink(missing_ok=True)

    def gone(self, calls: int) -> None:
        """The phone is away for so many calls."""
        (self.root / "gone").write_text(str(calls), encoding="utf-8")

    @property
    def calls(self) -> list[list[str]]:
        path = self.root / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def launches(self) -> list[str]:
        """The passes of the app that were launched, in their order."""
        return [call[call.index("org.handheld.runner") + 1] for call in self.calls if "launch" in call]

    @property
    def files(self) -> list[str]:
        """What lies in the app's folder on the phone."""
        folder = self.root / "container" / "Documents/handheld"
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def connected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    """A fake iPhone, and a fake `xcrun` first on PATH that reaches it."""
    programs = folder / "programs"
    programs.mkdir()
    script = programs / "xcrun"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{FAKES / "xcrun.py"}" "$@"\n', encoding="utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_IPHONE", str(folder / "iphone"))
    return FakePhone(folder / "iphone")


def described(name: str, array: np.ndarray) -> TensorInfo:
    return TensorInfo(name=name, shape=array.shape, dtype="float32", meaning=name)


def stateful_bundle(path: Path) -> Path:
    """A bundle of one step of a stream: twice the sum of all latents so far, which Core ML is to keep."""
    clip = np.random.default_rng(1).normal(size=(3, 4, 3, 3)).astype(np.float32)
    first = np.zeros((1, 1, 1, 1), np.float32)
    frames = np.maximum(2 * clip.sum(0, keepdims=True)[:, :3], 0)
    sums = clip.cumsum(0)
    sample = {"latent": clip[-1:], "first": first, "frames": frames, "clip_latent": clip, "clip_frames": frames}
    sample |= {"state_0": sums[-2:-1], "next_state_0": sums[-1:]}
    return _bundle(
        path,
        sample,
        {"coreml-state-fp16": 2.0},
        inputs=[described("latent", clip[-1:]), described("first", first)],
        outputs=[described("frames", frames)],
        states=[described("state_0", clip[-1:])],
    )


def coreml_bundle(path: Path, latent: np.ndarray, frames: np.ndarray, factors: dict[str, float]) -> Path:
    """A bundle whose packages hold a factor that the fakes multiply by; 2 gives `frames`."""
    described_io = {"inputs": [described("latent", latent)], "outputs": [described("frames", frames)]}
    return _bundle(path, {"latent": latent, "frames": frames}, factors, **described_io)


def _bundle(path: Path, sample: dict[str, np.ndarray], factors: dict[str, float], **described_io: Any) -> Path:
    allowed = Tolerance(max_share=1e-3)
    parity = Parity(
        how="reference-evaluated", runtime="x 1", max_abs=0, scale=1, psnr_db=99, tolerance=allowed, passed=True
    )
    with new_bundle(path) as folder:
        (folder / "reference.pt2").write_bytes(b"no need of it")
        np.savez(folder / "sample.npz", **sample)
        artifacts = []
        for target, factor in factors.items():
            package = folder / f"{target}.mlpackage"
            (package / "Data/com.apple.CoreML").mkdir(parents=True)
            (package / "Manifest.json").write_text('{"itemInfoEntries": {}}')
            (package / "Data/com.apple.CoreML/model.mlmodel").write_text(
                json.dumps({"factor": factor, "stateful": "states" in described_io})
            )
            artifacts.append(
                Artifact(
                    target=target,
                    mode="stream" if "states" in described_io else "clip",
                    path=package.name,
                    sha256=sha256(package),
                    bytes=size_bytes(package),
                    parity=parity,
                    graph=GraphFacts(max_rank=4, operators={}, params=1, macs=1, peak_activation_bytes=1),
                    **described_io,
                )
            )
        model = Model.model_validate({"role": "student", "class_name": "Tiny", "config": {}})
        seal(
            folder,
            Manifest(name=path.name, model=model, provenance=provenance("handheld export"), artifacts=artifacts),
        )
    return path
