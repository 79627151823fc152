"""What several device tests share: profile records, a tiny ONNX model, and a sealed bundle around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from devices.android.runner_build import build_runners
from devices.records import Device, Latency, Memory, OperatorTime, ProfileRecord, Repeat
from toolkit.bundle import (
    Artifact,
    GraphFacts,
    Manifest,
    Model,
    TensorInfo,
    new_bundle,
    provenance,
    seal,
)
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity, Tolerance

MakeRecord = Callable[..., ProfileRecord]
MakeBundle = Callable[..., Path]

FRAMES, CHANNELS, SIZE = 2, 4, 3


class TinyDecoder(torch.nn.Module):
    """Frames `(T, 4, H, W)` to `(T, 3, H, W)`: max(2x, 0) of the first three channels."""

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return torch.relu(video[:, :3] * 2)


def tiny_onnx(path: Path) -> Path:
    """The same in ONNX, of frames `(T, 4, H, W)`: a 1x1 convolution that doubles three channels, then ReLU."""
    weight = np.zeros((3, CHANNELS, 1, 1), np.float32)
    weight[[0, 1, 2], [0, 1, 2]] = 2
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["latent", "weight"], ["doubled"], name="conv"),
            helper.make_node("Relu", ["doubled"], ["frames"], name="relu"),
        ],
        "tiny",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, [FRAMES, CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, [FRAMES, 3, SIZE, SIZE])],
        [helper.make_tensor("weight", TensorProto.FLOAT, weight.shape, weight.flatten())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, path)
    return path


def expected_frames(latent: np.ndarray) -> np.ndarray:
    """What both models make of `latent`."""
    return np.maximum(2 * latent[:, :3], 0)


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default store lies with the test, not with the user."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(scope="session")
def latent() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(FRAMES, CHANNELS, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="session")
def frames(latent: np.ndarray) -> np.ndarray:
    return expected_frames(latent)


@pytest.fixture(scope="session")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx(tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="session")
def reference_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.pt2"
    latent = torch.zeros(FRAMES, CHANNELS, SIZE, SIZE)
    torch.export.save(torch.export.export(TinyDecoder().eval(), (latent,)), path)
    return path


@pytest.fixture
def make_record() -> MakeRecord:
    """Builds a record; keyword arguments replace fields, `times` the timed iterations."""

    def make(times: list[float] | None = None, **changes: Any) -> ProfileRecord:
        fields: dict[str, Any] = {
            "protocol_version": 2,
            "session": "a" * 32,
            "created": "2026-01-02T03:04:05+00:00",
            "bundle": "tiny",
            "role": "student",
            "target": "onnx-fp32",
            "artifact_sha256": "0" * 64,
            "artifact_bytes": 1234,
            "device": Device(
                kind="host",
                name="box",
                model="Example CPU",
                system="Linux 6.1",
                cores=2,
                memory_bytes=8_000_000_000,
                clock_mhz=None,
                temperature_c=None,
                others_share=None,
            ),
            "runtime": "ONNX Runtime 1.23.2",
            "threads": 2,
            "versions": {"python": "3.11.7"},
            "obtained": "measured",
            "latency": Latency(
                load_ms=30.0,
                first_ms=20.0,
                warmup_ms=[12.0, 11.0, 11.0],
                steady=True,
                repeats=[Repeat(iterations_ms=times or [10.0], started="2026-01-02T03:04:05+00:00")],
            ),
            "memory": Memory(baseline_bytes=100_000_000, peak_bytes=142_000_000),
            "operators": [OperatorTime(name="Conv", kind="Conv", unit="CPU", ms=7.25, calls=3, obtained="measured")],
            "parity": Parity(
                how="executed",
                runtime="ONNX Runtime 1.23.2",
                max_abs=1e-6,
                scale=1.0,
                psnr_db=120.0,
                tolerance=Tolerance(max_share=1e-4),
                passed=True,
            ),
        }
        return ProfileRecord(**{**fields, **changes})

    return make


def describe(name: str, *shape: int) -> TensorInfo:
    return TensorInfo(name=name, shape=shape, dtype="float32", meaning=name)


@pytest.fixture
def make_bundle(
    tmp_path: Path, onnx_model: Path, reference_model: Path, latent: np.ndarray, frames: np.ndarray
) -> MakeBundle:
    """Seals a bundle that the host can run; keyword arguments replace its parts."""

    def make(
        name: str = "tiny",
        *,
        role: str = "student",
        model: bytes = onnx_model.read_bytes(),
        expected: np.ndarray = frames,
        command: str = "handheld export run",
        parities: dict[str, Parity] | None = None,
    ) -> Path:
        judged = parities or {
            "onnx-fp32": Parity(
                how="executed",
                runtime="ONNX Runtime 1.23.2",
                max_abs=0.5,
                scale=4.0,
                psnr_db=98.76,
                tolerance=Tolerance(max_share=1e-4),
                passed=True,
            )
        }
        path = tmp_path / name
        with new_bundle(path) as folder:
            files = {target: f"model{number or ''}.onnx" for number, target in enumerate(judged)}
            for file in files.values():
                (folder / file).write_bytes(model)
            (folder / "reference.pt2").write_bytes(reference_model.read_bytes())
            np.savez(folder / "sample.npz", latent=latent, frames=expected)
            artifacts = [
                Artifact(
                    target=target,
                    mode="clip",
                    path=files[target],
                    sha256=sha256(folder / files[target]),
                    bytes=size_bytes(folder / files[target]),
                    inputs=[describe("latent", FRAMES, CHANNELS, SIZE, SIZE)],
                    outputs=[describe("frames", FRAMES, 3, SIZE, SIZE)],
                    parity=parity,
                    graph=GraphFacts(
                        max_rank=4,
                        operators={"Conv": 41, "Relu": 7},
                        params=12_345,
                        macs=2_340_000_000,
                        peak_activation_bytes=5_600_000,
                    ),
                )
                for target, parity in judged.items()
            ]
            manifest = Manifest.model_validate(
                {
                    "name": name,
                    "model": Model.model_validate({"role": role, "class_name": "TinyDecoder", "config": {}}),
                    "provenance": provenance(command),
                    "artifacts": artifacts,
                }
            )
            seal(folder, manifest)
        return path

    return make


@pytest.fixture(scope="session")
def host_runners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both native runners for this machine."""
    return build_runners("host", tmp_path_factory.mktemp("native") / "host")[0].parent


@pytest.fixture(scope="session")
def arm64_runners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for 64-bit Arm under Linux."""
    return build_runners("linux-arm64", tmp_path_factory.mktemp("native") / "linux-arm64")[0].parent
