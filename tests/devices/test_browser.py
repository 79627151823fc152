"""Profiling in a real browser: headless Chromium opens the page and runs the bundle."""

from __future__ import annotations

import pytest

from tests.devices.browsers import chromium, profiling
from tests.devices.conftest import MakeBundle
from tests.programs import needs

pytestmark = [pytest.mark.slow, needs("chromium")]


def test_a_browser_that_opens_the_page_measures_the_bundle(make_bundle: MakeBundle) -> None:
    with profiling([make_bundle()]) as under_way, chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda m: print("console", m.text))
        page.goto(under_way.address)
        page.wait_for_selector("body.done, body.stopped", timeout=120_000)
        print(page.inner_text("body"))
        found = under_way.result()
    print(found.model_dump_json(indent=1))
    (record,) = found.records
    assert record.obtained == "measured"
