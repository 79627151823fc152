"""Whether a model fits a catalogued device, and in which range its latency will lie: estimated, never measured.

The latency is a roofline: the time that arithmetic takes at a part of the unit's peak, or that memory takes, whichever
is longer (Williams, Waterman, Patterson: Roofline, CACM 2009). Both parts are ranges, for what limits a network is not
known from its shapes. A measurement on the device beats every figure here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from export.figures import ModelFigures
from toolkit.device_facts import Arithmetic, DeviceFacts, UnitName
from toolkit.schema import StrictModel

#: The part of its peak that a unit reaches. Published medians of an iPhone 15 Pro lie in it: 0.49 ms for MobileNetV2
#: (0.3 GMACs) is 7 % of 17.5 TFLOPS, 1.38 ms for ResNet50 (4.1 GMACs) is 34 % (coremltools, quantization performance).
EFFICIENCY = (0.05, 0.40)
#: The part of its bandwidth that memory reaches when every operator reads and writes its tensors.
BANDWIDTH_REACHED = 0.5
FP32_BYTES = 4
#: Bytes of an activation by the type that a target computes in. Where that is int8, norms, sums, resizing and what
#: enters and leaves the model stay wide (`_activation_bytes`), and are taken for all: an upper bound.
ACTIVATION_BYTES: dict[Arithmetic, int] = {"fp32": 4, "fp16": 2}
#: Targets with 8-bit weights that are not called so.
WEIGHTS_OF = {"w8a8": "int8"}

Fit = Literal["fits", "does not fit", "unknown"]


class DeviceEstimate(StrictModel):
    """One target on one device. `latency_ms` is a range, None where no peak of the `unit` is public.

    `memory_bytes` are weights and peak activations, against `app_bytes`; the runtime's own memory is not counted.
    """

    how: Literal["estimated"] = "estimated"
    device: str
    target: str
    unit: UnitName
    memory: Fit
    memory_bytes: int | None
    app_bytes: int
    latency_ms: tuple[float, float] | None = None
    limited_by: Literal["arithmetic", "memory", "arithmetic or memory"] | None = None
    note: str = ""


def estimate(model: ModelFigures, target: str, device: DeviceFacts) -> DeviceEstimate:
    """What can be said of a model's artifact for `target` on a device, from shapes and public figures alone."""
    precision, unit = _precision(target), _unit(target, device)
    arithmetic_type = computes_in(target)
    weights, activation = _weight_bytes(model, precision), _activation_bytes(target)
    memory = None
    if weights is not None and model.peak_activation_bytes is not None:
        memory = weights + model.peak_activation_bytes * activation // FP32_BYTES
    fit: Fit = "unknown" if memory is None else "fits" if memory <= device.app_bytes else "does not fit"
    found = DeviceEstimate(
        device=device.name, target=target, unit=unit, memory=fit, memory_bytes=memory, app_bytes=device.app_bytes
    )
    known = device.unit(unit)
    peak = None if known is None else known.peak(arithmetic_type)
    if peak is None or weights is None or model.moved_bytes is None:
        return found.model_copy(update={"note": f"no public peak of the {unit}" if peak is None else "unknown shapes"})
    arithmetic = [2e3 * model.macs / (peak.value * 1e9 * part) for part in reversed(EFFICIENCY)]
    if device.bandwidth_gb_s is None:
        low, high = arithmetic
        note = "without memory traffic: no public bandwidth"
        return found.model_copy(update={"latency_ms": (low, high), "limited_by": "arithmetic", "note": note})
    bandwidth = device.bandwidth_gb_s.value * 1e9
    moved = model.moved_bytes * activation / FP32_BYTES
    traffic = [1e3 * weights / bandwidth, 1e3 * moved / (bandwidth * BANDWIDTH_REACHED)]
    latency = (max(arithmetic[0], traffic[0]), max(arithmetic[1], traffic[1]))
    slower = {"memory" if t > a else "arithmetic" for a, t in zip(arithmetic, traffic, strict=True)}
    limit = slower.pop() if len(slower) == 1 else "arithmetic or memory"
    return found.model_copy(update={"latency_ms": latency, "limited_by": limit})


def estimates(model: ModelFigures, targets: Sequence[str], devices: Sequence[DeviceFacts]) -> list[DeviceEstimate]:
    """Every target on every device whose platform takes it."""
    return [estimate(model, target, device) for device in devices for target in targets if device.takes(target)]


def computes_in(target: str) -> Arithmetic:
    """The type of a target's products.

    Core ML's palettes, int8 and int4 are of weights alone, which are expanded to fp16 before they are multiplied.
    """
    precision = _precision(target)
    if precision == "fp32":
        return "fp32"
    return "int8" if precision == "w8a8" or (precision == "int8" and "coreml" not in target.split("-")) else "fp16"


def _activation_bytes(target: str) -> int:
    """Of an activation that is not quantized: W8A8 of Core ML leaves it in fp16, int8 elsewhere in fp32."""
    arithmetic = computes_in(target)
    wide: Arithmetic = "fp16" if "coreml" in target.split("-") else "fp32"
    return ACTIVATION_BYTES[wide if arithmetic == "int8" else arithmetic]


def _precision(target: str) -> str:
    return target.rpartition("-")[2]


def _unit(target: str, device: DeviceFacts) -> UnitName:
    words = target.split("-")
    if "vulkan" in words:
        return "GPU"
    if "coreml" not in words:
        return "CPU"
    return "Neural Engine" if _precision(target) != "fp32" and device.unit("Neural Engine") is not None else "GPU"


def _weight_bytes(model: ModelFigures, precision: str) -> int | None:
    named = WEIGHTS_OF.get(precision, precision)
    return model.weight_bytes.get(named, model.weight_bytes.get("fp16"))
