"""Bundles for the tests of the generated code: of invented artifacts, which only stand there, and of executed ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from coremltools.proto import Model_pb2

import export
from export.parity import CLIP_LATENT
from export.sdk import write_sdk
from export.sources import from_run
from tests.export.test_model_card import artifact
from toolkit.bundle import Artifact, Manifest, Model, TensorInfo, provenance, read_manifest
from toolkit.cli.runs import find_run
from toolkit.latents import LatentStatistics
from toolkit.parity import Tolerance
from toolkit.streaming import StreamDecoder, StreamFacts

Kind = Literal["clip", "stream", "flow", "module"]
KINDS: tuple[Kind, ...] = ("clip", "stream", "flow", "module")
PATHS = {"coreml": ".mlpackage", "executorch": ".pte", "onnx": ".onnx", "ort": ".ort"}
TARGETS = ("onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16")
TASKS: dict[Kind, Any] = {"clip": "video-decoder", "stream": "video-decoder", "flow": "optical-flow", "module": None}


def _info(name: str, *shape: int, meaning: str = "numbers") -> TensorInfo:
    return TensorInfo(name=name, shape=shape, dtype="float32", meaning=meaning)


SIGNATURES: dict[Kind, tuple[list[TensorInfo], list[TensorInfo], list[TensorInfo]]] = {
    "clip": ([_info("latent", 2, 4, 2, 3)], [_info("frames", 3, 3, 16, 24)], []),
    "stream": (
        [_info("latent", 1, 4, 2, 3), _info("first", 1, 1, 1, 1)],
        [_info("frames", 2, 3, 16, 24)],
        [_info("state_0", 2, 4, 2, 3), _info("state_1", 1, 4, 4, 6)],
    ),
    "flow": ([_info("image1", 1, 3, 8, 16), _info("image2", 1, 3, 8, 16)], [_info("flow", 1, 2, 8, 16)], []),
    "module": ([_info("x", 1, 2, 3, 4)], [_info("output_0", 1, 2, 3, 4), _info("output_1", 1, 1, 1, 1)], []),
}


def invented(target: str, kind: Kind) -> Artifact:
    """An artifact that is nowhere."""
    inputs, outputs, states = SIGNATURES[kind]
    if not target.startswith("coreml-state"):
        inputs = inputs + states
        outputs = outputs + [state.model_copy(update={"name": f"next_{state.name}"}) for state in states]
    return artifact("onnx-fp32", "").model_copy(
        update={
            "target": target,
            "path": target + PATHS.get(target.partition("-")[0], ".bin"),
            "inputs": inputs,
            "outputs": outputs,
            "states": states,
            "mode": "stream" if kind == "stream" else "clip",
            "stream": StreamFacts(frames=2, first_frames=1) if kind == "stream" else None,
        }
    )


def manifest(kind: Kind, targets: Sequence[str] = TARGETS, name: str = "my-model", **changes: Any) -> Manifest:
    statistics = LatentStatistics(mean=(0.5, -1.0, 0.0, 2.0), std=(1.0, 2.0, 1 / 3, 4.0), origin="AutoencoderKL")
    return Manifest(
        name=name,
        model=Model(role="student", task=TASKS[kind], class_name="any", config={}),
        provenance=provenance("handheld export run --sdk"),
        latent_statistics=statistics if kind in ("clip", "stream") else None,
        artifacts=[invented(target, kind) for target in targets],
    ).model_copy(update=changes)


def write(folder: Path, content: Manifest, specification: int = 8) -> dict[str, str]:
    """The generated files of a manifest by their path in the bundle `folder`."""
    for item in content.artifacts:
        if item.path.endswith(".mlpackage") and not (folder / item.path).exists():
            _core_ml(folder / item.path, specification)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in write_sdk(folder, content)}


def _core_ml(path: Path, version: int) -> None:
    from coremltools.models.utils import save_spec

    save_spec(Model_pb2.Model(specificationVersion=version, neuralNetwork={}), str(path))


def executed(folder: Path) -> dict[str, Path]:
    """Bundles of the embedded students with the calls of their ONNX artifacts recorded beside these, by kind of model.

    The generated code is also for an artifact of every other runtime, which is nowhere.
    """
    found = {}
    for kind, run, options in (
        ("clip", "asset:turbo-vaed-tiny", {"shape": (2, 2, 2)}),
        ("stream", "asset:turbo-vaed-tiny", {"shape": (2, 2, 2), "mode": "stream"}),
        ("flow", "asset:compact-flow-tiny", {"shape": (32, 32)}),
    ):
        source = from_run(find_run(Path(run))[0])
        export.export(source, ["onnx-fp32"], folder / kind, **options)  # type: ignore[arg-type]
        add_picture(folder / kind / "sample.npz")
        found[kind] = add_runtimes(folder / kind, kind)
        record(folder / kind)
    return found


def add_picture(sample: Path) -> None:
    """Add an array of 8 bits to a sample, as a target of pictures does."""
    with np.load(sample) as held:
        arrays = dict(held)
    np.savez(sample, **arrays, frame_0=np.zeros((1, 3, 2, 2), np.uint8))


def add_runtimes(bundle: Path, name: str) -> Path:
    """Write a bundle's generated code again, as if ExecuTorch and Core ML had an artifact too."""
    content = read_manifest(bundle)
    (first,) = content.artifacts
    others = [first.model_copy(update={"target": t, "path": t + PATHS[t.partition("-")[0]]}) for t in TARGETS[1:]]
    fp16 = others[1].parity.model_copy(update={"tolerance": Tolerance(min_psnr_db=50)})
    others[1] = others[1].model_copy(update={"parity": fp16})
    if first.states:
        kept = {"inputs": first.inputs[:2], "outputs": first.outputs[:1], "path": "stateful.mlpackage"}
        others.append(others[1].model_copy(update={"target": "coreml-state-fp16", **kept}))
    write(bundle, content.model_copy(update={"name": f"{content.name}-{name}", "artifacts": [first, *others]}))
    return bundle


def record(bundle: Path) -> None:
    """Execute the ONNX artifact as an app does, and keep what every call took and gave: `ARTIFACT.calls/NUMBER`."""
    found = read_manifest(bundle).artifact("onnx-fp32")
    session = onnxruntime.InferenceSession(str(bundle / found.path), providers=["CPUExecutionProvider"])
    calls: list[Path] = []

    def step(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        given = {info.name: array for info, array in zip(found.inputs, inputs, strict=True)}
        outputs = [np.asarray(output) for output in session.run([info.name for info in found.outputs], given)]
        calls.append(bundle / f"{found.path}.calls/{len(calls)}")
        for name, array in given.items():
            _write(calls[-1] / "inputs" / name, array)
        for info, output in zip(found.outputs, outputs, strict=True):
            _write(calls[-1] / "outputs" / info.name, output)
        return outputs

    with np.load(bundle / "sample.npz") as sample:
        if found.stream is None:
            step([sample[info.name] for info in found.inputs])
        else:
            decoder = StreamDecoder(step, [state.shape for state in found.states], found.stream)
            for latent in sample[CLIP_LATENT][:, None]:
                decoder.decode(latent)


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(np.ascontiguousarray(array, "<f4").tobytes())
