"""Profiling in a real browser: headless Chromium opens the page and runs the bundle."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from devices.bench import DeviceLost
from devices.browser.profiler import CERTIFICATE, CERTIFICATE_KEY, Patience, assets
from devices.protocol import Schedule
from devices.records import ProfileRecord
from tests.devices.browser.browsers import SOFTWARE_GPU, chromium, profiling
from tests.devices.conftest import MakeBundle
from tests.programs import needs
from toolkit.errors import DeviceError

pytestmark = [pytest.mark.slow, needs("chromium")]

ENDED_MS = 120_000
POLL_MS = 20
MANY = Schedule(repeats=1, iterations=200, operators=False)
#: A clock of whole milliseconds, as browsers have it in pages that are not isolated.
COARSE_CLOCK = "const now = performance.now.bind(performance); performance.now = () => Math.floor(now());"
#: Hides the page from itself when `hide(true)` is called.
HIDING = """
let away = false;
Object.defineProperty(document, "hidden", { get: () => away });
globalThis.hide = (now) => { away = now; document.dispatchEvent(new Event("visibilitychange")); };
"""


def opened(browser: Browser, address: str, *scripts: str) -> Page:
    """A page in a context of its own, which no other shares anything with."""
    page = browser.new_context(ignore_https_errors=True).new_page()
    for script in scripts:
        page.add_init_script(script)
    page.goto(address)
    return page


def ended(page: Page) -> str:
    """What stands on the page in the end."""
    page.wait_for_selector("body.done, body.stopped", timeout=ENDED_MS)
    return page.inner_text("body")


def rounds(page: Page) -> int:
    """How many rounds the page says are done."""
    return int(page.evaluate("document.getElementById('bar').value"))


def after_rounds(page: Page, number: int) -> None:
    for _ in range(ENDED_MS // POLL_MS):
        if rounds(page) >= number:
            return
        page.wait_for_timeout(POLL_MS)
    raise AssertionError(page.inner_text("body"))


def assert_measured(record: ProfileRecord, rounds: int) -> None:
    times = [*record.latency.iterations_ms, *record.latency.warmup_ms, record.latency.load_ms, record.latency.first_ms]
    assert len(record.latency.iterations_ms) == rounds
    assert all(0 < time < 60_000 for time in times)
    assert record.parity.passed


def test_webassembly_is_measured(make_bundle: MakeBundle) -> None:
    schedule = Schedule(repeats=2, iterations=3)
    with profiling([make_bundle()], schedule=schedule, threads=2) as under_way, chromium() as browser:
        shown = ended(opened(browser, under_way.address))
        (record,) = under_way.result().records
    assert_measured(record, rounds=6)
    assert (record.obtained, record.unit, record.threads) == ("measured", "wasm", 2)
    assert record.runtime == f"ONNX Runtime Web (wasm, 2 threads) {assets.VERSION}"
    assert record.device.details["cross-origin isolated"] == "yes"
    assert record.device.system.startswith("Linux")
    assert [(row.kind, row.unit, row.calls) for row in record.operators] == [("FusedConv", "CPU", 1)]
    assert "Done" in shown
    assert "You can close this page" in shown


def test_webgpu_played_by_the_processor_is_emulated(make_bundle: MakeBundle) -> None:
    schedule = Schedule(repeats=1, iterations=2)
    with profiling([make_bundle()], schedule=schedule) as under_way, chromium(*SOFTWARE_GPU) as browser:
        shown = ended(opened(browser, under_way.address))
        wasm, gpu = under_way.result().records
    assert_measured(gpu, rounds=2)
    assert (wasm.obtained, gpu.obtained) == ("measured", "emulated")
    assert "swiftshader" in gpu.device.details["GPU adapter"]
    assert set(gpu.nodes) == {"WebGpu"}
    assert gpu.operators == []
    assert "emulated" in shown


def test_student_and_teacher_are_measured_in_turn(make_bundle: MakeBundle) -> None:
    bundles = [make_bundle("small"), make_bundle("large", role="teacher")]
    with profiling(bundles) as under_way, chromium() as browser:
        ended(opened(browser, under_way.address))
        records = under_way.result().records
    assert [(record.bundle, record.role, record.place) for record in records] == [
        ("small", "student", 0),
        ("large", "teacher", 1),
    ]
    assert len({record.session for record in records}) == 1


def test_wrong_output_is_said_on_the_page_and_here(make_bundle: MakeBundle, frames: np.ndarray) -> None:
    with profiling([make_bundle(expected=frames + 1)]) as under_way, chromium() as browser:
        shown = ended(opened(browser, under_way.address))
        with pytest.raises(DeviceError, match="wrong output"):
            under_way.result()
    assert "Stopped" in shown
    assert "wrong output" in shown
    assert "model.onnx" not in shown  # the computer's folders are no business of the page


def test_a_model_that_the_browser_cannot_run_leaves_the_others(make_bundle: MakeBundle) -> None:
    bundles = [make_bundle(), make_bundle("broken", model=b"no model at all")]
    with profiling(bundles) as under_way, chromium() as browser:
        shown = ended(opened(browser, under_way.address))
        found = under_way.result()
    assert [record.bundle for record in found.records] == ["tiny"]
    assert [failure.bundle for failure in found.failures] == ["broken"]
    assert "could not run it" in found.failures[0].reason
    assert "1 of 2 could not be measured" in shown


def test_a_wrong_address_gives_a_page_that_says_what_to_do(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()]) as under_way, chromium() as browser:
        page = opened(browser, under_way.address[:-1] + "?")
        assert "not the address that the command printed" in page.inner_text("h1")
        assert "handheld profile BUNDLE --device browser" in page.inner_text("body")


def test_a_closed_tab_loses_one_round_at_most_and_resume_goes_on(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    with profiling([bundle], Patience(closed_s=0.5), schedule=MANY) as under_way, chromium() as browser:
        page = opened(browser, under_way.address)
        after_rounds(page, 5)
        seen = rounds(page)
        page.close()
        with pytest.raises(DeviceLost, match=r"(\d+) of 200 rounds are in the store, and --resume goes on"):
            under_way.result()
    with profiling([bundle], schedule=MANY, resume=True) as under_way, chromium() as browser:
        ended(opened(browser, under_way.address))
        (record,) = under_way.result().records
    assert_measured(record, rounds=200)
    assert record.interruptions == 1
    before, after = (len(repeat.iterations_ms) for repeat in record.latency.repeats)
    assert before >= seen
    assert after > 0


def test_a_page_that_is_loaded_anew_goes_on(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], schedule=MANY) as under_way, chromium() as browser:
        page = opened(browser, under_way.address)
        after_rounds(page, 5)
        page.reload()
        ended(page)
        (record,) = under_way.result().records
    assert_measured(record, rounds=200)
    assert record.interruptions == 1


def test_two_phones_at_once_have_a_session_each(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], schedule=MANY) as under_way, chromium() as browser:
        address = under_way.address
        pages = [opened(browser, address) for _ in range(2)]
        for page in pages:
            after_rounds(page, 1)
        for page in pages:
            ended(page)
        records = under_way.result().records
    assert len({record.session for record in records}) == 2
    for record in records:
        assert_measured(record, rounds=200)


def test_a_hidden_page_waits_and_its_rounds_do_not_count(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], schedule=MANY) as under_way, chromium() as browser:
        page = opened(browser, under_way.address, HIDING)
        after_rounds(page, 2)
        page.evaluate("hide(true)")
        page.wait_for_selector("body.waiting")
        done = rounds(page)
        page.wait_for_timeout(500)
        assert rounds(page) == done
        page.evaluate("hide(false)")
        ended(page)
        (record,) = under_way.result().records
    assert_measured(record, rounds=200)
    first, second = record.latency.repeats
    assert len(first.iterations_ms) == done
    assert second.waited_s >= 0.5


def test_calls_too_short_for_the_clock_are_timed_in_batches(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()]) as under_way, chromium() as browser:
        ended(opened(browser, under_way.address, COARSE_CLOCK))
        (record,) = under_way.result().records
    assert_measured(record, rounds=6)
    assert record.device.details["clock resolution ms"] == "1"
    assert record.latency.batch > 1


def test_in_the_local_network_without_a_certificate_there_is_one_thread(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()], lan=True) as under_way, chromium(*SOFTWARE_GPU) as browser:
        address = under_way.address
        shown = ended(opened(browser, address))
        (record,) = under_way.result().records
    assert not address.startswith("http://127.")
    assert (record.unit, record.threads) == ("wasm", 1)
    assert record.device.details["cross-origin isolated"] == "no"
    assert "Done" in shown


@needs("openssl")
def test_with_the_users_certificate_the_local_network_is_as_good(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=handheld.test"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    monkeypatch.setenv(CERTIFICATE, str(certificate))
    monkeypatch.setenv(CERTIFICATE_KEY, str(key))
    with profiling([make_bundle()], lan=True, threads=2) as under_way, chromium() as browser:
        address = under_way.address
        ended(opened(browser, address))
        (record,) = under_way.result().records
    assert address.startswith("https://")
    assert record.device.details["cross-origin isolated"] == "yes"


def test_what_a_page_asks_for_it_gets_without_complaint(make_bundle: MakeBundle) -> None:
    complaints: list[str] = []
    with profiling([make_bundle()]) as under_way, chromium() as browser:
        page = browser.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(under_way.address)
        ended(page)
        under_way.result()
    assert complaints == [], json.dumps(complaints)
