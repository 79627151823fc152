"""Pages that fall silent, close, hide or fail, and several phones at once: what is lost, and what goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import numpy as np
import pytest

from devices.bench import DeviceLost
from devices.browser import visit
from devices.browser.profiler import Patience
from devices.parities import prove
from tests.devices.browser.browsers import Profiling, profiling
from tests.devices.browser.pages import Page
from tests.devices.conftest import MakeBundle

pytestmark = pytest.mark.usefixtures("runtime")

Start = Callable[..., AbstractContextManager[Profiling]]

#: More than anything here takes but waiting, on a slow machine too.
SILENT_S = 5.0


@pytest.mark.slow
def test_a_page_that_goes_silent_is_lost(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], Patience(silent_s=SILENT_S)) as under_way:
        Page(under_way.address).begin()
        with pytest.raises(DeviceLost, match="closed or is silent"):
            under_way.result()


@pytest.mark.slow
def test_pages_are_not_silent_while_an_output_is_compared(
    make_bundle: MakeBundle, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is listened to meanwhile: neither the page whose output it is, nor any other."""

    def slowly(*given: Any) -> Any:
        time.sleep(SILENT_S + 1)
        return prove(*given)

    with profiling([make_bundle()], Patience(silent_s=SILENT_S)) as under_way:
        address = under_way.address
        first, second = Page(address), Page(address)
        for page in (first, second):
            page.begin()
        with monkeypatch.context() as patch:
            patch.setattr(visit, "prove", slowly)
            first.outputs(0, frames)
        first.say("ready", candidate=0, load_ms=5.0, first_ms=2.0, warmup_ms=[1.0])
        second.ready(0, frames)
        for page in (first, second):
            page.rounds([1.0])
            page.say("done")
        assert len(under_way.result().records) == 2


@pytest.mark.slow
def test_a_page_that_is_closed_is_lost_and_what_it_measured_is_resumed(
    make_bundle: MakeBundle, frames: np.ndarray
) -> None:
    bundle = make_bundle()
    with profiling([bundle], Patience(closed_s=0.1)) as under_way:
        page = Page(under_way.address)
        page.begin()
        page.ready(0, frames)
        page.rounds([1.0], most=4)
        page.post("api/1/closed")
        with pytest.raises(DeviceLost, match="4 of 6 rounds are in the store, and --resume goes on") as lost:
            under_way.result()
    assert [failure.kind for failure in lost.value.failures] == ["lost"]
    with profiling([bundle], resume=True) as under_way:
        page = Page(under_way.address)
        assert page.begin()["left"] == [[1, 4, 2]]
        page.ready(0, frames)
        page.rounds([2.0])
        page.say("done")
        (record,) = under_way.result().records
    assert record.latency.iterations_ms == [1.0] * 4 + [2.0] * 2


@pytest.mark.slow
def test_a_hidden_page_is_waited_for_longer_and_one_that_was_closed_less(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], Patience(silent_s=SILENT_S, closed_s=0.1)) as under_way:
        page = Page(under_way.address)
        page.begin()
        page.post("api/1/hidden")
        under_way.join(SILENT_S + 2)
        assert under_way.is_alive()
        page.post("api/1/closed")
        with pytest.raises(DeviceLost, match="closed"):
            under_way.result()


def test_a_page_that_fails_says_why_and_what_it_measured_is_safe(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin()
    page.ready(0, frames)
    page.rounds([1.0], most=2)
    with pytest.raises(httpx.HTTPStatusError):
        page.say("begin", repeat=9, waited_s=0)  # what is refused is no message
    page.say("gave up", reason="out of memory")
    with pytest.raises(DeviceLost, match=r"the page failed \(out of memory\); 2 of 6 rounds are in the store"):
        under_way.result()


@pytest.mark.slow
def test_two_phones_have_a_session_each(under_way: Profiling, frames: np.ndarray) -> None:
    address = under_way.address
    first, second = Page(address), Page(address)
    second.begin()
    first.measure_all(frames, 1.0)
    second.ready(0, frames)
    second.rounds([2.0])
    second.say("done")
    records = under_way.result().records
    assert [record.latency.p50 for record in records] == [1.0, 2.0]
    assert len({record.session for record in records}) == 2


def test_of_two_phones_one_may_be_lost(make_bundle: MakeBundle, frames: np.ndarray) -> None:
    with profiling([make_bundle()], Patience(closed_s=0.1)) as under_way:
        address = under_way.address
        first, second = Page(address), Page(address)
        second.begin()
        first.measure_all(frames)
        second.post("api/1/closed")
        found = under_way.result()
    assert (len(found.records), [failure.kind for failure in found.failures]) == (1, ["lost"])


@pytest.mark.slow
def test_two_like_phones_do_not_resume_one_session(make_bundle: MakeBundle, frames: np.ndarray) -> None:
    bundle = make_bundle()
    with profiling([bundle], Patience(closed_s=0.1)) as under_way:
        page = Page(under_way.address)
        page.begin()
        page.post("api/1/closed")
        with pytest.raises(DeviceLost):
            under_way.result()
    with profiling([bundle], resume=True) as under_way:
        address = under_way.address
        first, second = Page(address), Page(address)
        first.begin()
        second.measure_all(frames)
        first.ready(0, frames)
        first.rounds([1.0])
        first.say("done")
        assert len({record.session for record in under_way.result().records}) == 2


@pytest.mark.slow
def test_two_like_phones_that_were_both_lost_both_go_on(make_bundle: MakeBundle, frames: np.ndarray) -> None:
    bundle = make_bundle()
    with profiling([bundle], Patience(closed_s=0.1)) as under_way:
        address = under_way.address
        pages = [Page(address), Page(address)]
        for page in pages:
            page.begin()
        for page, done in zip(pages, (2, 4), strict=True):
            page.ready(0, frames)
            page.rounds([1.0], most=done)
        for page in pages:
            page.post("api/1/closed")
        with pytest.raises(DeviceLost):
            under_way.result()
    with profiling([bundle], resume=True) as under_way:
        address = under_way.address
        pages = [Page(address), Page(address)]
        assert sorted(page.begin()["done"] for page in pages) == [2, 4]
        for page in pages:
            page.ready(0, frames)
            page.rounds([2.0])
            page.say("done")
        assert [record.interruptions for record in under_way.result().records] == [1, 1]
