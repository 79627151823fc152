"""Comparing measurements: which bucket, how sure, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import devices
from devices.comparison import compare_profiles, ratio_interval
from devices.likeness import WARMER_C
from devices.records import Failure, Latency, OperatorTime, Placement, Profile, ProfileRecord, Repeat
from devices.store import write_json
from toolkit.errors import UserError


def noisy(seed: int, level: float = 10.0, rounds: int = 20, repeats: int = 3, noise: float = 0.05) -> list[list[float]]:
    random = np.random.default_rng(seed)
    return [list(level * random.lognormal(0, noise, rounds)) for _ in range(repeats)]


@pytest.fixture
def record(make_record: Any) -> Any:
    def make(times: list[list[float]], **changes: Any) -> ProfileRecord:
        repeats = [Repeat(iterations_ms=part, started="") for part in times]
        latency = Latency(load_ms=1, first_ms=1, warmup_ms=[1], steady=True, repeats=repeats)
        found: ProfileRecord = make_record(latency=latency, **changes)
        return found

    return make


def one(base: ProfileRecord, new: ProfileRecord, **options: Any) -> Any:
    (row,) = compare_profiles(Profile(records=[base]), Profile(records=[new]), **options).rows
    return row


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "bucket"), [(1.0, "same"), (1.2, "slower"), (0.8, "faster"), (1.004, "same")])
def test_a_change_is_put_into_its_bucket(record: Any, factor: float, bucket: str) -> None:
    times = noisy(1)
    row = one(record(times), record([[factor * time for time in repeat] for repeat in times]))
    assert (row.bucket, row.paired) == (bucket, True)
    assert row.ratio == pytest.approx(factor)


@pytest.mark.slow
def test_what_slows_a_round_slows_both_and_falls_out(record: Any) -> None:
    """The machine is up to three times as slow, by the round; the new model is slower by 8 %, with 1 % of noise."""
    slow = np.random.default_rng(0).uniform(1, 3, (3, 20))
    base, new = (np.array(noisy(seed, level, noise=0.01)) * slow for seed, level in ((1, 10.0), (2, 10.8)))
    row = one(record(base.tolist()), record(new.tolist()))
    assert row.bucket == "slower"
    assert row.is_slower_than(0.05)
    assert not row.is_slower_than(0.10)
    apart = one(record(base.tolist(), session="b" * 32), record(new.tolist()))
    assert not apart.paired
    assert apart.interval.high - apart.interval.low > 3 * (row.interval.high - row.interval.low)


def test_one_time_each_is_uncertain(record: Any) -> None:
    row = one(record([[10.0]]), record([[20.0]]))
    assert (row.bucket, row.interval) == ("uncertain", None)
    assert not row.is_slower_than(0.0)


@pytest.mark.slow
def test_the_interval_holds_the_ratio_of_two_noisy_models() -> None:
    held = 0
    for seed in range(40):
        base, new = noisy(2 * seed, 10.0), noisy(2 * seed + 1, 11.0)
        _, interval = ratio_interval([list(zip(a, b, strict=True)) for a, b in zip(base, new, strict=True)])
        assert interval is not None
        held += interval.low <= 1.1 <= interval.high
    assert held >= 34  # 38 expected


def test_what_is_missing_or_new_is_said(record: Any, make_record: Any) -> None:
    kept, failing = record(noisy(1)), record(noisy(2), target="executorch-xnnpack-fp32", runtime="ExecuTorch 1.5.1")
    dropped, added = record(noisy(3), target="reference"), record(noisy(4), target="onnx-fp16")
    failure = Failure(
        session="a" * 32,
        created="",
        bundle="tiny",
        role="student",
        target="executorch-xnnpack-fp32",
        artifact_sha256="0" * 64,
        device=kept.device,
        kind="failed",
        reason="no kernel",
    )
    found = compare_profiles(
        Profile(records=[kept, failing, dropped]), Profile(records=[kept, added], failures=[failure])
    )
    assert {row.target: row.bucket for row in found.rows} == {
        "onnx-fp32": "same",
        "executorch-xnnpack-fp32": "started failing",
        "reference": "gone",
        "onnx-fp16": "new",
    }
    lost = failure.model_copy(update={"kind": "lost"})
    rows = compare_profiles(Profile(records=[kept, failing]), Profile(records=[kept], failures=[lost])).rows
    assert [row.bucket for row in rows] == ["same", "lost device"]


def test_a_model_that_left_its_delegate_is_named_whatever_its_speed(record: Any) -> None:
    def operators(delegated: float) -> list[OperatorTime]:
        units = (("XNNPACK", delegated), ("portable CPU", 10 - delegated))
        return [OperatorTime(name=u, kind=u, unit=u, ms=ms, calls=1, obtained="measured") for u, ms in units]

    row = one(record(noisy(1), operators=operators(10.0)), record(noisy(2), operators=operators(7.0)))
    assert row.bucket == "moved off the accelerator"
    assert row.reason == "100% of it there before, 70% now"
    assert one(record(noisy(1), operators=operators(10.0)), record(noisy(1), operators=operators(9.7))).bucket == "same"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"threads": 1}, "threads: 2 and 1"),
        ({"protocol_version": 1}, "protocol: 2 and 1"),
        ({"obtained": "emulated"}, "how the figures of onnx-fp32 were obtained: measured and emulated"),
        ({"inputs": {"latent": [1, 4, 8, 8]}}, "inputs of onnx-fp32: latent 2x4x3x3 and latent 1x4x8x8"),
        ({"device": {"temperature_c": 38.6}}, "temperature at the start: 31 °C and 39 °C"),
        ({"device": {"details": {"screen": "off"}}}, "screen: None and off"),
        ({"runtime": "ONNX Runtime 1.24.0"}, "runtime of onnx-fp32: ONNX Runtime 1.23.2 and ONNX Runtime 1.24.0"),
        ({"device": {"model": "Other CPU"}}, r"device: Example CPU \(host, Linux 6.1\) and Other CPU"),
        ({"device": {"clock_mode": "fixed"}}, "clock mode: None and fixed"),
        ({"device": {"charging": True}}, "charging: None and True"),
    ],
)
def test_what_was_not_measured_alike_is_refused_unless_told(record: Any, change: dict[str, Any], said: str) -> None:
    base = record(noisy(1), inputs={"latent": [2, 4, 3, 3]})
    base.device.temperature_c = 31.0
    if "device" in change:
        change = {"device": base.device.model_copy(update=change["device"])}
    new = base.model_copy(update=change)
    with pytest.raises(UserError, match=f"not measured alike .{said}"):
        one(base, new)
    assert one(base, new, unlike=True).bucket == "same"


def test_what_earlier_releases_did_not_note_is_not_a_difference(record: Any) -> None:
    assert one(record(noisy(1)), record(noisy(1), inputs={"latent": [2, 4, 3, 3]})).bucket == "same"


def test_a_little_warmer_is_alike(record: Any) -> None:
    base, new = record(noisy(1)), record(noisy(1))
    base.device.temperature_c, new.device.temperature_c = 31.0, 31.0 + WARMER_C
    assert one(base, new).bucket == "same"


def test_several_devices_are_each_compared_with_themselves(record: Any) -> None:
    def on(model: str, factor: float = 1.0) -> Any:
        found = record([[factor * ms for ms in repeat] for repeat in noisy(1)])
        return found.model_copy(update={"device": found.device.model_copy(update={"model": model})})

    base = Profile(records=[on("Phone A"), on("Phone B")])
    new = Profile(records=[on("Phone B", 2.0), on("Phone A")])
    found = compare_profiles(base, new)
    assert found.differences == []
    assert [(row.device, row.bucket) for row in found.rows] == [("Phone A", "same"), ("Phone B", "slower")]
    gone = compare_profiles(base, Profile(records=[on("Phone A")]))
    assert [(row.device, row.bucket) for row in gone.rows] == [("Phone A", "same"), ("Phone B", "gone")]


def test_phones_of_one_model_are_told_apart_by_their_own_names(record: Any) -> None:
    def on(serial: str, factor: float = 1.0) -> Any:
        found = record([[factor * ms for ms in repeat] for repeat in noisy(1)])
        return found.model_copy(update={"device": found.device.model_copy(update={"name": serial})})

    rows = compare_profiles(Profile(records=[on("A"), on("B", 2.0)]), Profile(records=[on("B", 2.0), on("A")])).rows
    assert [row.bucket for row in rows] == ["same", "same"]


def test_what_is_checked_is_what_is_set_side_by_side(record: Any) -> None:
    """Two models of two sizes, each beside itself: every pair is alike, whatever the others are."""
    small, large = (record(noisy(1), inputs={"latent": [1, 4, side, side]}) for side in (8, 16))
    both = Profile(records=[small, large])
    assert [row.bucket for row in compare_profiles(both, both).rows] == ["same", "same"]
    with pytest.raises(UserError, match="inputs of onnx-fp32: latent 1x4x8x8 and latent 1x4x16x16"):
        compare_profiles(both, Profile(records=[large]))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"nodes": {"WebGPU": 40}}, {"nodes": {"WebGPU": 30, "CPU": 10}}),
        ({"placement": [("neuralEngine", 40)]}, {"placement": [("neuralEngine", 30), ("cpu", 10)]}),
    ],
)
def test_operators_that_left_their_accelerator_are_named_where_none_was_timed(
    record: Any, before: dict[str, Any], after: dict[str, Any]
) -> None:
    def made(seed: int, change: dict[str, Any]) -> Any:
        placed = [
            Placement(kind="conv", unit=unit, supported=[unit], operators=count, cost_share=None)
            for unit, count in change.get("placement", [])
        ]
        return record(noisy(seed), operators=[], nodes=change.get("nodes", {}), placement=placed)

    row = one(made(1, before), made(2, after))
    assert (row.bucket, row.reason) == ("moved off the accelerator", "100% of it there before, 75% now")


def test_files_and_bundles_do_not_mix(record: Any, make_bundle: Any, tmp_path: Path) -> None:
    write_json(Profile(records=[record(noisy(1))]), tmp_path / "a.json")
    assert [row.bucket for row in devices.compare(tmp_path / "a.json", tmp_path / "a.json").rows] == ["same"]
    with pytest.raises(UserError, match=r"a\.json: no bundle, as the other one is"):
        devices.compare(make_bundle(), tmp_path / "a.json")
    write_json(Profile(records=[]), tmp_path / "empty.json")
    with pytest.raises(UserError, match="without any record"):
        devices.compare(tmp_path / "empty.json", tmp_path / "a.json")


@pytest.mark.slow
@pytest.mark.usefixtures("no_memory_pass")
def test_a_bundle_beside_itself_is_measured_in_pairs(make_bundle: Any) -> None:
    bundle = make_bundle()
    found = devices.compare(bundle, bundle, iterations=3, repeats=1, threads=1)
    assert [row.target for row in found.rows] == ["reference", "onnx-fp32"]
    assert all(row.paired for row in found.rows)
