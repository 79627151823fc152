"""Profile records: percentiles over every iteration, labels, and strict reading."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from devices.records import Latency, Memory, ProfileRecord, Repeat, upgraded


def latency(times: list[float]) -> Latency:
    repeats = [Repeat(iterations_ms=part, started="") for part in (times[:3], times[3:]) if part]
    return Latency(load_ms=1.0, first_ms=2.0, warmup_ms=[], steady=True, repeats=repeats)


def interpolated(times: list[float], share: float) -> float:
    """The percentile by its definition: linear between the two nearest ranks."""
    ordered, position = sorted(times), (len(times) - 1) * share / 100
    low = math.floor(position)
    high = min(low + 1, len(times) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@given(times=st.lists(st.floats(0.01, 1e4), min_size=1, max_size=30))
def test_percentiles_interpolate_between_ranks_over_all_iterations(times: list[float]) -> None:
    found = latency(times)
    assert found.p50 == pytest.approx(interpolated(times, 50))
    assert found.p90 == pytest.approx(interpolated(times, 90))
    assert found.p99 == pytest.approx(interpolated(times, 99))
    assert found.mean == pytest.approx(np.mean(times))
    if len(times) > 1:
        assert found.std == pytest.approx(np.std(times, ddof=1), abs=1e-6)


def test_figures_of_a_known_series() -> None:
    found = latency([40.0, 10.0, 20.0, 30.0, 50.0])
    assert (found.p50, found.p90) == (30.0, 46.0)
    assert found.mean == 30.0
    assert found.std == pytest.approx(math.sqrt(250))


def test_one_iteration_has_no_deviation() -> None:
    assert latency([5.0]).std == 0.0


def test_added_memory_is_the_peak_above_the_baseline() -> None:
    assert Memory(baseline_bytes=100, peak_bytes=175).added_bytes == 75


def test_label_names_role_and_runtime_without_its_version(make_record: Any) -> None:
    assert make_record(runtime="ONNX Runtime 1.23.2").label == "student · ONNX Runtime"
    assert make_record(role="teacher", runtime="PyTorch 2.13.0+cpu").label == "teacher · PyTorch"


@pytest.mark.parametrize(("share", "busy"), [(None, False), (0.0, False), (0.1, False), (0.2, True), (1.0, True)])
def test_machine_is_busy_when_others_take_its_processors(make_record: Any, share: float | None, busy: bool) -> None:
    device = make_record().device.model_copy(update={"others_share": share})
    assert make_record(device=device).busy is busy


def test_summary_holds_the_figures_of_a_table(make_record: Any) -> None:
    assert make_record(times=[10.0, 20.0, 30.0]).summary() == {
        "candidate": "student · ONNX Runtime",
        "target": "onnx-fp32",
        "p50_ms": 20.0,
        "p90_ms": 28.0,
        "p99_ms": pytest.approx(29.8),
        "load_ms": 30.0,
        "first_ms": 20.0,
        "added_memory_mb": 42.0,
    }
    assert make_record(memory=None).summary()["added_memory_mb"] is None


def test_record_survives_json_with_every_digit(make_record: Any) -> None:
    record = make_record(times=[0.1 + 0.2, 1 / 3])
    assert ProfileRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize(
    "change", [{"obtained": "guessed"}, {"role": "nobody"}, {"colour": "red"}, {"runtime": None}, {"latency": None}]
)
def test_record_with_an_unknown_word_key_or_gap_is_refused(make_record: Any, change: dict[str, object]) -> None:
    content = make_record().model_dump(mode="json")
    with pytest.raises(ValidationError, match=next(iter(change))):
        ProfileRecord.model_validate({**content, **change})


def test_a_record_of_the_first_version_has_one_repeat(make_record: Any) -> None:
    record = make_record(times=[3.0, 4.0])
    content = record.model_dump(mode="json")
    old = {**content, "record_version": 1, "latency": {**content["latency"], "iterations_ms": [3.0, 4.0]}}
    del old["latency"]["repeats"]
    assert ProfileRecord.model_validate(upgraded(old)).latency.repeats == [
        Repeat(iterations_ms=[3.0, 4.0], started=record.created)
    ]
    assert upgraded(content) == content
