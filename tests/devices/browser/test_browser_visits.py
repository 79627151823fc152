"""What a page may say to a profile under way, and what comes of it: played over HTTP, without a browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from devices import store
from devices.browser import server
from devices.browser.profiler import CERTIFICATE, CERTIFICATE_KEY
from devices.sessions import Stopped
from tests.devices.browser.browsers import Profiling, profiling
from tests.devices.browser.pages import GPU, WASM, Page, facts, refusal
from tests.devices.conftest import MakeBundle
from toolkit.errors import DeviceError, UserError

pytestmark = pytest.mark.usefixtures("runtime")

Start = Callable[..., AbstractContextManager[Profiling]]


def test_a_visit_from_beginning_to_end_makes_a_record(under_way: Profiling, frames: np.ndarray) -> None:
    Page(under_way.address).measure_all(frames)
    (record,) = under_way.result().records
    assert record.latency.iterations_ms == [2.0] * 6
    assert [len(repeat.iterations_ms) for repeat in record.latency.repeats] == [3, 3]
    assert [repeat.cooled for repeat in record.latency.repeats] == [None, None], "nothing told a temperature"
    assert (record.latency.load_ms, record.latency.first_ms) == (5.0, 2.0)
    assert record.runtime == "ONNX Runtime Web (wasm, 4 threads) 1.2.3"
    assert (record.device.kind, record.device.model) == ("browser", "Pixel 9")
    assert record.device.system == "Android 16.0.0"
    assert record.parity.passed
    assert record.obtained == "measured"
    assert store.load() == [record]


def test_a_page_is_told_the_protocol_and_what_is_left(under_way: Profiling) -> None:
    work = Page(under_way.address).begin()
    assert work["left"] == [[0, 0, 3], [1, 3, 3]]
    assert (work["protocol"]["window"], work["protocol"]["spread"], work["protocol"]["limit"]) == (3, 0.1, 12)


def test_the_files_that_a_page_is_told_of_are_served_and_no_others(under_way: Profiling, latent: np.ndarray) -> None:
    page = Page(under_way.address)
    (candidate,) = page.begin()["candidates"]
    (told,) = candidate["inputs"]
    assert page.http.get(f"{page.base}files/{told['file']}").content == latent.tobytes()
    assert len(page.http.get(f"{page.base}files/{candidate['model']}").content) == candidate["bytes"]
    for path in ("files/" + "0" * 64, "files/..%2Fmanifest.json", "ort/package.json", "ort/..%2F..%2Fx", "browser.py"):
        assert page.http.get(page.base + path).status_code == 404, path


@pytest.mark.parametrize("path", ["", "page.mjs", "ort/ort.wasm.bundle.min.mjs", "nothing.here", "api/begin"])
def test_every_answer_isolates_the_page(under_way: Profiling, path: str) -> None:
    page = Page(under_way.address)
    headers = page.http.get(page.base + path).headers
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in headers["content-security-policy"]


def test_a_wrong_token_or_key_is_refused_with_a_page_that_says_so(under_way: Profiling) -> None:
    base = under_way.address.rpartition("/open/")[0]
    for path in ("/open/wrong", "/v/wrong/", "/v/wrong/page.mjs", "/v/wrong/files/" + "0" * 64):
        answer = httpx.get(base + path)
        assert answer.status_code == 403
        assert "not the address that the command printed" in answer.text
    assert httpx.post(base + "/v/wrong/api/begin", json=facts()).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("path", ["api/{}/here", "api/{}/say/1", "api/1/say/{}", "api/1/outputs/{}"])
def test_numbers_without_end_lead_nowhere_and_end_nothing(under_way: Profiling, frames: np.ndarray, path: str) -> None:
    page = Page(under_way.address)
    for base in (page.base, page.base.rpartition("/v/")[0] + "/v/wrong/"):
        assert httpx.post(base + path.format("1" * 5000)).status_code == 404
    page.measure_all(frames)
    assert len(under_way.result().records) == 1


def test_a_defect_that_a_stranger_meets_ends_nothing(
    under_way: Profiling, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(under_way.address)
    base = page.base.rpartition("/v/")[0]
    with monkeypatch.context() as patch:
        patch.delattr(server, "_sorry")
        for path in ("/open/wrong", "/v/wrong/", "/nowhere", "/v", "/"):
            assert httpx.get(base + path).status_code == 500
    page.measure_all(frames)
    assert len(under_way.result().records) == 1


def test_an_address_whose_visit_is_over_is_used_up(under_way: Profiling, frames: np.ndarray) -> None:
    address = under_way.address
    first, second = Page(address), Page(address)
    second.begin()  # so that the command goes on
    first.measure_all(frames)
    answer = httpx.get(address)
    assert answer.status_code == 403
    assert "has been used" in answer.text


def test_only_this_machine_can_reach_the_page(under_way: Profiling) -> None:
    assert under_way.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "changes",
    [
        {"clock_ms": 0},
        {"clock_ms": "quick"},
        {"cores": 0},
        {"battery": 2},
        {"user_agent": "x" * 301},
        {"model": "\x1b[31mred"},
        {"model": "x" * 81},
        {"platform": "x" * 81},
        {"platform_version": "1" * 81},
        {"offers": [{"provider": "cuda"}]},
        {"offers": [WASM] * 4},
        {"more": 1},
    ],
)
def test_facts_that_cannot_be_are_refused(under_way: Profiling, changes: dict[str, Any]) -> None:
    with pytest.raises(httpx.HTTPStatusError) as refused:
        Page(under_way.address).begin(facts(**changes))
    assert refusal(refused.value)[0] == 422


def test_wrong_output_fails_the_candidate_and_nothing_is_timed(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin()
    with pytest.raises(httpx.HTTPStatusError) as refused:
        page.outputs(0, frames + 1)
    assert refusal(refused.value)[0] == 422
    with pytest.raises(httpx.HTTPStatusError):
        page.say("done")
    with pytest.raises(DeviceError, match="wrong output"):
        under_way.result()


def test_output_of_another_size_is_not_read_to_its_end(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin()
    for content, status in ((frames[:1], 422), (np.zeros(frames.size + 1, np.float32), 413)):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            page.outputs(0, content)
        assert refusal(refused.value)[0] == status


def test_a_candidate_is_not_timed_before_it_was_proved(under_way: Profiling) -> None:
    page = Page(under_way.address)
    page.begin()
    with pytest.raises(httpx.HTTPStatusError) as refused:
        page.say("ready", candidate=0, load_ms=5.0, first_ms=2.0, warmup_ms=[1.0])
    assert refusal(refused.value)[0] == 409
    with pytest.raises(httpx.HTTPStatusError) as refused:
        page.say("begin", repeat=0, waited_s=0.0)
    assert "no candidate is ready" in refusal(refused.value)[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "said",
    [
        {"kind": "round", "number": 0, "times_ms": [0.0]},
        {"kind": "round", "number": 0, "times_ms": [-1.0]},
        {"kind": "round", "number": 0, "times_ms": [None]},
        {"kind": "round", "number": 0, "times_ms": []},
        {"kind": "round", "number": 0, "times_ms": [1.0, 1.0]},
        {"kind": "round", "number": 1, "times_ms": [1.0]},
        {"kind": "begin", "repeat": 1, "waited_s": 0},
        {"kind": "begin", "repeat": 0, "waited_s": -1},
        {"kind": "ready", "candidate": 0, "load_ms": 1, "first_ms": 1, "warmup_ms": [1]},
        {"kind": "ready", "candidate": 0, "load_ms": 1, "first_ms": 1, "warmup_ms": [1] * 13},
        {"kind": "ready", "candidate": 1, "load_ms": 1, "first_ms": 1, "warmup_ms": [1]},
        {"kind": "failed", "candidate": -1, "reason": "no"},
        {"kind": "failed", "candidate": 0, "reason": "\x1b]0;title\x07"},
        {"kind": "memory", "candidate": 0, "memory": {"baseline_bytes": 1, "peak_bytes": 2}},
        {"kind": "done"},
    ],
)
def test_what_does_not_fit_the_plan_is_refused_and_changes_nothing(
    under_way: Profiling, frames: np.ndarray, said: dict[str, Any]
) -> None:
    page = Page(under_way.address)
    page.begin()
    page.ready(0, frames)
    page.say("begin", repeat=0, waited_s=0.0)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        page.say(**said)
    assert refusal(refused.value)[0] in (409, 422)
    page.rounds([3.0])
    page.say("done")
    (record,) = under_way.result().records
    assert record.latency.iterations_ms == [3.0] * 6


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_times_are_finite(under_way: Profiling, frames: np.ndarray, number: str) -> None:
    page = Page(under_way.address)
    page.begin()
    page.ready(0, frames)
    page.say("begin", repeat=0, waited_s=0.0)
    with pytest.raises(httpx.HTTPStatusError) as refused:
        page.post("api/1/say/3", content=f'{{"kind": "round", "number": 0, "times_ms": [{number}]}}')
    assert refusal(refused.value)[0] == 422


def test_messages_have_a_limit(under_way: Profiling) -> None:
    page = Page(under_way.address)
    page.begin()
    for path in ("api/begin", "api/1/say/1"):
        with pytest.raises(httpx.HTTPStatusError) as refused:
            page.post(path, content=json.dumps({"kind": "x" * (1 << 20)}))
        assert refusal(refused.value)[0] == 413


def test_a_round_that_is_sent_again_counts_once(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin()
    page.ready(0, frames)
    page.rounds([1.0], most=1)
    for number, status in ((3, 200), (5, 409), (1, 409)):
        said = {"kind": "round", "number": 0, "times_ms": [9.0]}
        assert page.http.post(f"{page.base}api/1/say/{number}", json=said).status_code == status
    assert page.begin()["done"] == 1


def test_a_page_that_is_loaded_anew_goes_on_and_its_old_tab_is_refused(
    under_way: Profiling, frames: np.ndarray
) -> None:
    page = Page(under_way.address)
    page.begin()
    page.ready(0, frames)
    page.rounds([1.0], most=2)
    page.begin()
    assert page.work["done"] == 2
    with pytest.raises(httpx.HTTPStatusError) as refused:
        page.post("api/1/say/5", json={"kind": "round", "number": 2, "times_ms": [1.0]})
    assert "another tab" in refusal(refused.value)[1]
    page.ready(0, frames)
    page.rounds([2.0])
    page.say("done")
    (record,) = under_way.result().records
    assert record.latency.iterations_ms == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert record.interruptions == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "other",
    [
        {"user_agent": "Mozilla/5.0 (Linux; Android 10; K) Firefox/150.0"},
        {"model": "Pixel 8"},
        {"platform": "Windows"},
        {"platform_version": "15.0.0"},
        {"cores": 4},
        {"isolated": False},
        {"offers": [WASM, GPU]},
    ],
)
def test_a_visit_is_gone_on_with_by_the_same_browser_only(
    under_way: Profiling, frames: np.ndarray, other: dict[str, Any]
) -> None:
    page = Page(under_way.address)
    page.begin()
    page.ready(0, frames)
    page.rounds([1.0], most=2)
    answer = page.http.post(f"{page.base}api/begin", json=facts(**other))
    assert answer.status_code == 409
    assert answer.json()["error"].startswith("this measurement belongs to another browser")
    page.say("round", number=2, times_ms=[1.0])  # the page that it belongs to goes on
    assert page.begin(facts(clock_ms=0.1, battery=0.5))["done"] == 3


def test_a_page_that_is_not_isolated_has_one_thread(under_way: Profiling) -> None:
    assert Page(under_way.address).begin(facts(isolated=False))["threads"] == 1


@pytest.mark.slow
def test_threads_that_a_page_cannot_have_are_refused(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], threads=3, wait_s=2.0) as under_way:
        with pytest.raises(httpx.HTTPStatusError) as refused:
            Page(under_way.address).begin(facts(isolated=False))
        assert "--threads 3: a page that is not isolated has one thread" in refusal(refused.value)[1]
        with pytest.raises(DeviceError, match="refused: --threads 3"):
            under_way.result()


def test_a_page_that_nobody_opens_is_waited_for_no_longer_than_asked(make_bundle: MakeBundle) -> None:
    with (
        profiling([make_bundle()], wait_s=0.3) as under_way,
        pytest.raises(DeviceError, match=r"nobody .* within 0.3 s"),
    ):
        under_way.result()


def test_a_profile_that_is_stopped_ends_though_nobody_came(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()]) as under_way:
        assert under_way.address
        under_way.journal.stop()
        with pytest.raises(Stopped):
            under_way.result()


def test_a_certificate_needs_its_key(make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CERTIFICATE, str(tmp_path / "certificate.pem"))
    with profiling([make_bundle()]) as under_way, pytest.raises(UserError, match="name both files, or neither"):
        under_way.result()
    monkeypatch.setenv(CERTIFICATE_KEY, str(tmp_path / "key.pem"))
    with profiling([make_bundle("other")]) as under_way, pytest.raises(UserError, match="no PEM certificate"):
        under_way.result()


def test_a_defect_here_ends_the_command_and_is_not_hidden(under_way: Profiling, frames: np.ndarray) -> None:
    page = Page(under_way.address)
    page.begin()
    (under_way.bundles[0] / "sample.npz").unlink()
    with pytest.raises(httpx.HTTPError):
        page.outputs(0, frames)
    with pytest.raises(FileNotFoundError):
        under_way.result()


def test_a_bundle_without_onnx_is_refused(make_bundle: MakeBundle, make_record: Any) -> None:
    bundle = make_bundle(parities={"executorch-xnnpack-fp32": make_record().parity})
    with profiling([bundle]) as under_way, pytest.raises(UserError, match="has no ONNX artifact"):
        under_way.result()


def test_an_unknown_provider_is_named(make_bundle: MakeBundle) -> None:
    with (
        profiling([make_bundle()], which="webgl") as under_way,
        pytest.raises(UserError, match=r"unknown provider .* 'webgl'"),
    ):
        under_way.result()
