"""By what a browser computes: each provider that it has, those that fail, and those that are not there."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import pytest

from devices.protocol import Schedule
from tests.devices.browser.browsers import Profiling, profiling
from tests.devices.browser.pages import GPU, SOFTWARE_GPU, WASM, Page, facts
from tests.devices.conftest import MakeBundle

pytestmark = pytest.mark.usefixtures("runtime")

Start = Callable[..., AbstractContextManager[Profiling]]


def test_every_provider_that_a_browser_has_is_a_candidate(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin(facts(WASM, SOFTWARE_GPU))
    for number in (0, 1):
        page.ready(number, frames)
    page.rounds([1.0, 2.0])
    page.say("done")
    wasm, gpu = under_way.result().records
    assert (wasm.unit, wasm.obtained) == ("wasm", "measured")
    assert (gpu.unit, gpu.obtained, gpu.runtime) == ("webgpu", "emulated", "ONNX Runtime Web (webgpu) 1.2.3")
    assert gpu.device.details["GPU adapter"] == "google swiftshader"


def test_a_provider_that_fails_leaves_the_others(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin(facts(WASM, GPU))
    page.ready(0, frames)
    page.say("failed", candidate=1, reason="no such kernel")
    page.rounds([1.0, None])
    page.say("done")
    found = under_way.result()
    assert [record.unit for record in found.records] == ["wasm"]
    (failure,) = found.failures
    assert failure.unit == "webgpu"
    assert "onnx-fp32 on webgpu of tiny" in str(failure)
    assert "no such kernel" in failure.reason


def test_a_provider_that_was_asked_for_and_is_not_there_is_a_failure(
    make_bundle: MakeBundle, frames: np.ndarray
) -> None:
    with profiling([make_bundle()], which="wasm,webnn") as under_way:
        page = Page(under_way.address)
        assert [candidate["provider"] for candidate in page.begin()["candidates"]] == ["wasm", "webnn"]
        page.ready(0, frames)
        page.rounds([1.0, None])
        page.say("done")
        found = under_way.result()
    assert [record.unit for record in found.records] == ["wasm"]
    assert "offers no webnn" in found.failures[0].reason


def test_a_candidate_that_ran_on_the_processor_after_all_has_failed(
    make_bundle: MakeBundle, frames: np.ndarray
) -> None:
    rows = [{"operator": "Conv", "provider": "CPU", "ms": 0.5, "calls": 2}]
    schedule = Schedule(repeats=1, iterations=1, operators=True)
    with profiling([make_bundle()], schedule=schedule) as under_way:
        page = Page(under_way.address)
        page.begin(facts(WASM, GPU))
        for number in (0, 1):
            page.ready(number, frames)
        page.rounds([1.0, 1.1])
        assert page.say("operators", candidate=0, rows=rows) == {"failed": None}
        assert "all on the processor" in page.say("operators", candidate=1, rows=rows)["failed"]
        page.say("done")
        found = under_way.result()
    (record,) = found.records
    assert [(row.name, row.unit, row.ms, row.calls) for row in record.operators] == [("Conv", "CPU", 0.5, 2)]
    assert record.nodes == {"CPU": 2}
