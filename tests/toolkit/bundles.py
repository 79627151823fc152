"""A small bundle to try things on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolkit.bundle import Artifact, GraphFacts, Manifest, Model, TensorInfo, provenance, seal
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity, Tolerance

FILES = {
    "model.onnx": b"\x08\x0a\x12\x07pytorch",
    "model.mlpackage/Manifest.json": b'{"itemInfoEntries": {}}',
    "model.mlpackage/Data/weights/weight.bin": bytes(range(64)),
    "sample.npz": b"PK\x03\x04 sample",
    "README.md": "# Größe\n".encode(),
}


def tensor(name: str) -> TensorInfo:
    return TensorInfo(name=name, shape=(5, 16, 8, 8), dtype="float32", meaning=name)


def artifact(folder: Path, target: str, path: str) -> Artifact:
    return Artifact(
        target=target,
        mode="clip",
        path=path,
        sha256=sha256(folder / path),
        bytes=size_bytes(folder / path),
        inputs=[tensor("latent")],
        outputs=[tensor("frames")],
        parity=Parity(
            how="executed",
            runtime="ONNX Runtime 1.23",
            max_abs=1e-6,
            scale=1.0,
            psnr_db=120.0,
            tolerance=Tolerance(max_share=1e-4),
            passed=True,
        ),
        graph=GraphFacts(max_rank=4, operators={"Conv": 3}, params=10, macs=100, peak_activation_bytes=1000),
    )


def fill(folder: Path) -> Manifest:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    artifacts = [artifact(folder, "onnx-fp32", "model.onnx"), artifact(folder, "coreml-fp16", "model.mlpackage")]
    model = Model(role="student", class_name="TurboVAED", config={"patch": 4, "note": "größer als"})
    manifest = Manifest(name="tiny", model=model, provenance=provenance("handheld export run"), artifacts=artifacts)
    return seal(folder, manifest)


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and put the hash that fits into its last field."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    content["manifest_sha256"] = "0" * 64
    text = json.dumps(content, indent=2) + "\n"
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest()), encoding="utf-8")
