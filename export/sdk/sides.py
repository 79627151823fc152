"""Which artifacts Swift and Kotlin can use, and which of them an app gets by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from toolkit.bundle import Artifact
from toolkit.errors import UserError

Side = Literal["swift", "kotlin"]
Runtime = Literal["coreml", "executorch", "onnx"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

_APPLE_DELEGATES = ("coreml", "mps", "mlx")
_ANDROID_DELEGATES = ("vulkan", "qnn", "mediatek", "samsung", "nnapi")
#: The default is the artifact that comes first: one that was shown to keep the numbers and runs on every phone, from
#: the precision that its backend computes fastest without loss of quality. Others are for apps that profiled them.
_PRECISIONS: dict[Runtime, tuple[str, ...]] = {
    "coreml": ("fp16", "pal8", "pal6", "int8", "w8a8", "pal4", "int4", "fp32"),
    "onnx": ("fp32", "fp16", "int8"),
    "executorch": ("fp32", "fp16", "int8"),
}
_PREFERRED: dict[Side, tuple[Runtime, ...]] = {"swift": ("coreml", "executorch"), "kotlin": ("onnx", "executorch")}


def runtime_of(target: str) -> Runtime | None:
    """What runs a target's artifacts, by the backend in its name; None for backends of which no SDK knows."""
    backend = target.partition("-")[0]
    known: dict[str, Runtime] = {"coreml": "coreml", "executorch": "executorch", "onnx": "onnx", "ort": "onnx"}
    return known.get(backend)


def sides_of(target: str) -> set[Side]:
    """The sides that can use a target's artifacts."""
    runtime = runtime_of(target)
    if "image" in target.split("-"):
        return set()  # pictures of 8 bits: the generated code feeds and reads tensors
    if runtime == "coreml":
        return {"swift"}
    if runtime == "onnx":
        return {"kotlin"}
    if runtime is None:
        return set()
    delegate = target.split("-")[1] if target.count("-") else ""
    if delegate in _APPLE_DELEGATES:
        return {"swift"}
    return {"kotlin"} if delegate in _ANDROID_DELEGATES else {"swift", "kotlin"}


def require_side(targets: Iterable[str], known: Iterable[str]) -> None:
    """Raise `UserError` if no side can use any of `targets`; it names those of the `known` ones that fit."""
    names = list(targets)
    if not any(sides_of(target) for target in names):
        fitting = ", ".join(sorted(target for target in known if sides_of(target)))
        raise UserError(
            f"--sdk: neither Swift nor Kotlin code is generated for {', '.join(names)}; add a --target of: {fitting}"
        )


def ranked(side: Side, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """The artifacts that a side can use, the default of each runtime ahead of its others."""

    def rank(artifact: Artifact) -> tuple[int, int, int, int]:
        runtime = runtime_of(artifact.target)
        assert runtime is not None
        backend, *variant, precision = artifact.target.split("-")
        order = _PRECISIONS[runtime]
        place = order.index(precision) if precision in order else len(order)
        special = [word for word in variant if word != "xnnpack"]  # states, a GPU: not on every phone
        return _PREFERRED[side].index(runtime), len(special), place, int(backend == "ort")

    return sorted((a for a in artifacts if side in sides_of(a.target)), key=rank)


def usable(side: Side, artifacts: Sequence[Artifact]) -> list[Artifact]:
    """As `ranked`, without artifacts that take or give other things than tensors of float32."""
    return [artifact for artifact in ranked(side, artifacts) if is_of_floats(artifact)]


def is_of_floats(artifact: Artifact) -> bool:
    """Whether an artifact takes and gives tensors of float32 alone."""
    return all(info.dtype == "float32" for info in (*artifact.inputs, *artifact.outputs))
