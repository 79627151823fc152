"""The files of the SDK: which templates a bundle needs, and what they are filled with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from export.sdk import names
from export.sdk.sides import RUNTIMES, Runtime, Side, runtime_of, usable
from toolkit.bundle import Artifact, Manifest
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics

#: Versions of what the generated builds fetch. Those of the runtimes are for manifests that name none: a build takes
#: the releases that wrote and proved its artifacts.
VERSIONS = {"onnxruntime": "1.23.0", "executorch": "1.5.1", "kotlin": "2.1.20", "gradle_plugin": "8.9.1"}
#: Core ML's specification versions, by the systems that read them.
SYSTEMS = {7: ("16.0", "13.0"), 8: ("17.0", "14.0"), 9: ("18.0", "15.0")}

_ENVIRONMENT = Environment(
    loader=PackageLoader("export.sdk"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters.update(
    swift=names.swift_string,
    kotlin=names.kotlin_string,
    comment=names.comment,
    case=names.swift_case,
    constant=names.kotlin_constant,
    numbers=names.numbers,
    kotlin_numbers=names.kotlin_numbers,
    runtime=runtime_of,
)


@dataclass(frozen=True)
class _File:
    """One template, where it goes, and what the bundle must have for it; `{type}` and `{package}` stand for names."""

    template: str
    path: str
    runtime: Runtime | None = None
    kind: tuple[str, ...] = ()
    """Kinds of models that need it: decoder, stream, flow, model; all where empty."""


_SWIFT = (
    _File("Package.swift.j2", "{type}/Package.swift"),
    _File("FloatTensor.swift.j2", "{type}/Sources/{type}Kit/FloatTensor.swift"),
    _File("ModelRunner.swift.j2", "{type}/Sources/{type}Kit/ModelRunner.swift"),
    _File("Artifact.swift.j2", "{type}/Sources/{type}Kit/Artifact.swift"),
    _File("Model.swift.j2", "{type}/Sources/{type}Kit/{type}.swift"),
    _File("Sample.swift.j2", "{type}/Sources/{type}Kit/Sample.swift"),
    _File("Frames.swift.j2", "{type}/Sources/{type}Kit/Frames.swift", kind=("decoder", "stream")),
    _File("FramePixels.swift.j2", "{type}/Sources/{type}Kit/FramePixels.swift", kind=("decoder", "stream")),
    _File("FlowField.swift.j2", "{type}/Sources/{type}Kit/FlowField.swift", kind=("flow",)),
    _File("KitTests.swift.j2", "{type}/Tests/{type}KitTests/KitTests.swift"),
    _File("CoreMLRunner.swift.j2", "{type}/Sources/{type}CoreML/CoreMLRunner.swift", "coreml"),
    _File("CoreMLTests.swift.j2", "{type}/Tests/{type}CoreMLTests/CoreMLTests.swift", "coreml"),
    _File("PackageExecuTorch.swift.j2", "{type}ExecuTorch/Package.swift", "executorch"),
    _File(
        "ExecuTorchRunner.swift.j2", "{type}ExecuTorch/Sources/{type}ExecuTorch/ExecuTorchRunner.swift", "executorch"
    ),
    _File(
        "ExecuTorchTests.swift.j2",
        "{type}ExecuTorch/Tests/{type}ExecuTorchTests/ExecuTorchTests.swift",
        "executorch",
    ),
)
_CORE, _ANDROID = "core/src/main/kotlin/{package}", "android/src/main/kotlin/{package}"
_KOTLIN = (
    _File("settings.gradle.kts.j2", "settings.gradle.kts"),
    _File("build.gradle.kts.j2", "build.gradle.kts"),
    _File("gradle.properties.j2", "gradle.properties"),
    _File("core.gradle.kts.j2", "core/build.gradle.kts"),
    _File("FloatTensor.kt.j2", f"{_CORE}/FloatTensor.kt"),
    _File("ModelRunner.kt.j2", f"{_CORE}/ModelRunner.kt"),
    _File("Model.kt.j2", f"{_CORE}/{{type}}.kt"),
    _File("Sample.kt.j2", f"{_CORE}/Sample.kt"),
    _File("Frames.kt.j2", f"{_CORE}/Frames.kt", kind=("decoder", "stream")),
    _File("FlowField.kt.j2", f"{_CORE}/FlowField.kt", kind=("flow",)),
    _File("OnnxRunner.kt.j2", f"{_CORE}/OnnxRunner.kt", "onnx"),
    _File("CoreTest.kt.j2", "core/src/test/kotlin/{package}/{type}Test.kt"),
    _File("android.gradle.kts.j2", "android/build.gradle.kts"),
    _File("AndroidManifest.xml.j2", "android/src/main/AndroidManifest.xml"),
    _File("Models.kt.j2", f"{_ANDROID}/Models.kt"),
    _File("Bitmaps.kt.j2", f"{_ANDROID}/Bitmaps.kt", kind=("decoder", "stream", "flow")),
    _File("ExecuTorchRunner.kt.j2", f"{_ANDROID}/ExecuTorchRunner.kt", "executorch"),
    _File("DeviceTest.kt.j2", "android/src/androidTest/kotlin/{package}/{type}DeviceTest.kt"),
)


def write_sdk(folder: Path, manifest: Manifest) -> list[Path]:
    """Write `sdk/swift` and `sdk/kotlin`, as far as they fit, into the bundle's `folder`; returns the files.

    The code is the manifest's alone: it refers to the artifacts by name and copies none. Artifacts that take or give
    other things than tensors of float32 are left out of it; raises `UserError` where none is left.
    """
    written = []
    files: dict[Side, Sequence[_File]] = {"swift": _SWIFT, "kotlin": _KOTLIN}
    for side, templates in files.items():
        artifacts = usable(side, manifest.artifacts)
        if not artifacts:
            continue
        context = _context(folder, manifest, artifacts)
        for file in templates:
            if file.runtime in (None, *context["runtimes"]) and (not file.kind or context["kind"] in file.kind):
                target = folder / "sdk" / side / file.path.format(**_placeholders(context))
                text = _ENVIRONMENT.get_template(f"{side}/{file.template}").render(context)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
                written.append(target)
    if not written:
        raise UserError(
            "--sdk: the generated code feeds and reads tensors of float32, and no artifact takes and gives "
            "those alone; leave out --sdk"
        )
    return written


def sdk_names(manifest: Manifest) -> dict[str, str]:
    """The names by which an app calls the generated code: `type` and `package`."""
    name = names.type_name(manifest.name, manifest.model.task)
    return {"type": name, "package": names.kotlin_package(name)}


def to_undo(manifest: Manifest) -> LatentStatistics | None:
    """What an app must undo of the latents that a diffusion model gives; None where there is nothing, or unknown."""
    statistics = manifest.latent_statistics
    if manifest.normalized_latents or statistics is None or statistics.is_identity:
        return None
    return statistics


def _context(folder: Path, manifest: Manifest, artifacts: list[Artifact]) -> dict[str, Any]:
    """What the templates of one side are filled with."""
    first = artifacts[0]
    states = {state.name for state in first.states} | {f"next_{state.name}" for state in first.states}
    defaults = {runtime: _first(artifacts, runtime) for runtime in RUNTIMES}
    ios, macos = systems(folder, defaults["coreml"])
    return {
        **sdk_names(manifest),
        "m": manifest,
        "artifacts": artifacts,
        "runtimes": sorted({runtime for a in artifacts if (runtime := runtime_of(a.target)) is not None}),
        "defaults": defaults,
        "kind": _kind(manifest, first),
        "inputs": [info for info in first.inputs if info.name not in states],
        "outputs": [info for info in first.outputs if info.name not in states],
        "states": first.states,
        "stream": first.stream,
        "vulkan": any("vulkan" in a.target for a in artifacts),
        "statistics": to_undo(manifest),
        "ios": ios,
        "macos": macos,
        "executorch_systems": max((ios, macos), SYSTEMS[8]),  # its own, or those of the package that it depends on
        "versions": VERSIONS | {package: _release(manifest, package) for package in ("onnxruntime", "executorch")},
    }


def _kind(manifest: Manifest, artifact: Artifact) -> str:
    """What the model is to an app: decoder (of a clip), stream, flow, or model where nothing more is known of it."""
    if manifest.model.task == "optical-flow":
        return "flow"
    if artifact.stream is not None:
        return "stream"
    is_video = len(artifact.inputs) == len(artifact.outputs) == 1 and artifact.outputs[0].shape[1:2] == (3,)
    return "decoder" if manifest.model.task == "video-decoder" and is_video else "model"


def _first(artifacts: Sequence[Artifact], runtime: Runtime) -> Artifact | None:
    return next((a for a in artifacts if runtime_of(a.target) == runtime), None)


def _placeholders(context: Mapping[str, Any]) -> dict[str, str]:
    return {"type": context["type"], "package": context["package"].replace(".", "/")}


def _release(manifest: Manifest, package: str) -> str:
    """The release that wrote the artifacts, or the one that a development version leads to: only those are fetched."""
    numbers = re.match(r"\d+(\.\d+)+", manifest.provenance.versions.get(package, ""))
    return numbers[0] if numbers else VERSIONS[package]


def systems(folder: Path, artifact: Artifact | None) -> tuple[str, str]:
    """The oldest iOS and macOS that read a Core ML artifact of the bundle `folder`; without one, ExecuTorch's own."""
    if artifact is None:
        return SYSTEMS[8]
    import coremltools

    specification = coremltools.utils.load_spec(str(folder / artifact.path))
    return SYSTEMS.get(specification.specificationVersion, SYSTEMS[8])
