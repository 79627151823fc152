"""Fit and latency on a device whose figures make the arithmetic easy."""

from __future__ import annotations

import pytest

from export.device_fit import computes_in, estimate, estimates
from export.facts import WEIGHT_BYTES
from export.figures import ModelFigures
from export.targets import all_targets
from toolkit.device_facts import DeviceFacts, Figure, Unit

MODEL = ModelFigures(
    params=10_000_000,
    macs=500_000_000,
    peak_activation_bytes=8_000_000,
    moved_bytes=40_000_000,
    weight_bytes={precision: round(10_000_000 * size) for precision, size in WEIGHT_BYTES.items()},
)
WEIGHT_ONLY = ("coreml-int8", "coreml-int4", "coreml-pal8", "coreml-pal6", "coreml-pal4")


def known(value: float) -> Figure:
    return Figure(value=value, source="made up for this test")


def phone(**changes: object) -> DeviceFacts:
    facts = {
        "name": "phone",
        "title": "A phone",
        "year": 2024,
        "chip": "chip",
        "platform": "ios",
        "memory_gib": known(4),
        "app_share": known(0.5),
        "bandwidth_gb_s": known(20),
        "units": [Unit(name="CPU", fp32_gflops=known(100)), Unit(name="Neural Engine", fp16_gflops=known(10_000))],
    }
    return DeviceFacts.model_validate(facts | changes)


def test_arithmetic_limits_a_slow_unit() -> None:
    found = estimate(MODEL, "executorch-xnnpack-fp32", phone())
    # 1 GFLOP at 40 and 5 % of 100 GFLOPS
    assert found.latency_ms == pytest.approx((25, 200))
    assert (found.unit, found.limited_by, found.how) == ("CPU", "arithmetic", "estimated")


def test_memory_limits_a_fast_unit() -> None:
    found = estimate(MODEL, "coreml-fp16", phone())
    # at best the weights once at 20 GB/s, at worst every operator's tensors at half of it; 2 ms of arithmetic at 5 %
    assert found.latency_ms == pytest.approx((1.0, 2.0))
    assert found.unit == "Neural Engine"


def test_memory_is_weights_and_activations_in_the_targets_precision() -> None:
    assert estimate(MODEL, "onnx-fp32", phone()).memory_bytes == 48_000_000
    assert estimate(MODEL, "coreml-fp16", phone()).memory_bytes == 24_000_000
    assert estimate(MODEL, "coreml-pal6", phone()).memory_bytes == 11_500_000
    # norms, sums and what enters the model stay fp32, of W8A8 fp16
    assert estimate(MODEL, "onnx-int8", phone()).memory_bytes == 18_000_000
    assert estimate(MODEL, "executorch-xnnpack-int8", phone()).memory_bytes == 18_000_000
    assert estimate(MODEL, "coreml-w8a8", phone()).memory_bytes == 14_000_000


def test_narrow_weights_alone_make_no_arithmetic_faster() -> None:
    fast = Unit(name="Neural Engine", fp16_gflops=known(1000), int8_gops=known(8000))
    half, both, *weights = (
        estimate(MODEL, target, phone(units=[fast])) for target in ("coreml-fp16", "coreml-w8a8", *WEIGHT_ONLY)
    )
    assert half.latency_ms == pytest.approx((2.5, 20))
    assert both.latency_ms == pytest.approx((0.5, 2.5))
    assert [row.latency_ms for row in weights] == [half.latency_ms] * len(WEIGHT_ONLY)
    # activations of 4 MB in fp16, and the weights
    assert [row.memory_bytes for row in weights] == [14_000_000, 9_000_000, 14_000_000, 11_500_000, 9_000_000]


def test_only_int8_outside_core_ml_and_w8a8_compute_in_8_bits() -> None:
    narrow = {target for target in all_targets() if computes_in(target) == "int8"}
    assert narrow == {"coreml-w8a8", "executorch-xnnpack-int8", "onnx-int8"}


def test_the_weights_of_every_target_have_a_size_of_their_own() -> None:
    assert {target.rpartition("-")[2] for target in all_targets()} - {"w8a8"} <= set(WEIGHT_BYTES)


def test_a_model_larger_than_an_apps_share_does_not_fit() -> None:
    small = phone(memory_gib=known(0.08))
    assert estimate(MODEL, "onnx-fp32", small).memory == "does not fit"
    assert estimate(MODEL, "coreml-fp16", small).memory == "fits"
    assert estimate(MODEL.model_copy(update={"peak_activation_bytes": None}), "onnx-fp32", small).memory == "unknown"


def test_what_is_not_public_is_unknown() -> None:
    found = estimate(MODEL, "onnx-fp32", phone(units=[]))
    assert found.latency_ms is None
    assert "no public peak of the CPU" in found.note
    found = estimate(MODEL, "onnx-fp32", phone(bandwidth_gb_s=None))
    assert found.latency_ms == pytest.approx((25, 200))
    assert "no public bandwidth" in found.note


def test_targets_are_estimated_on_platforms_that_take_them() -> None:
    android = phone(name="other", platform="android")
    found = estimates(MODEL, ["coreml-fp16", "executorch-vulkan-fp16", "onnx-fp32"], [phone(), android])
    assert [(row.device, row.target) for row in found] == [
        ("phone", "coreml-fp16"),
        ("phone", "onnx-fp32"),
        ("other", "executorch-vulkan-fp16"),
        ("other", "onnx-fp32"),
    ]
