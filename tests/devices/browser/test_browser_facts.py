"""The device that a page's facts make: what the browser tells, and nothing that it does not."""

from __future__ import annotations

import io
import re

import cv2
import numpy as np
import pytest
from rich.console import Console

from devices.browser import profiler
from devices.browser.facts import Adapter, Facts, Offer, describe

APPLE = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
CHROME = "AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0"


def facts(user_agent: str, **told: object) -> Facts:
    return Facts.model_validate(
        {"user_agent": user_agent, "isolated": True, "clock_ms": 0.005, "offers": [{"provider": "wasm"}], **told}
    )


@pytest.mark.parametrize(
    ("user_agent", "model", "system", "browser"),
    [
        (
            f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) {APPLE} Version/26.0 Mobile/15E148 Safari/604.1",
            "iPhone",
            "iOS 18.6",
            "Safari 26.0",
        ),
        (
            f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) {APPLE} CriOS/156.0.1 Mobile/15E148 Safari/604.1",
            "iPhone",
            "iOS 18.6",
            "Chrome 156.0.1",
        ),
        (
            f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {APPLE} Version/26.0 Safari/605.1.15",
            "Safari on macOS",
            "macOS 10.15.7",
            "Safari 26.0",
        ),
        (
            "Mozilla/5.0 (Android 15; Mobile; rv:150.0) Gecko/150.0 Firefox/150.0",
            "Firefox on Android",
            "Android 15",
            "Firefox 150.0",
        ),
        (
            f"Mozilla/5.0 (Windows NT 10.0; Win64; x64) {CHROME} Safari/537.36 Edg/156.0.0.0",
            "Edge on Windows",
            "Windows 10.0",
            "Edge 156.0.0.0",
        ),
        (
            f"Mozilla/5.0 (Linux; Android 10; K) {CHROME} SamsungBrowser/28.0 Mobile Safari/537.36",
            "Samsung Internet on Android",
            "Android 10",
            "Samsung Internet 28.0",
        ),
        ("curl/8", "unknown browser on unknown system", "unknown system", "unknown browser"),
    ],
)
def test_a_browser_is_named_by_its_user_agent(user_agent: str, model: str, system: str, browser: str) -> None:
    device = describe(facts(user_agent))
    assert (device.model, device.system, device.details["browser"]) == (model, system, browser)


def test_client_hints_go_before_the_user_agent() -> None:
    told = {"platform": "Android", "platform_version": "16.0.0", "model": "Pixel 9"}
    device = describe(facts(f"Mozilla/5.0 (Linux; Android 10; K) {CHROME} Mobile Safari/537.36", **told))
    assert (device.name, device.model, device.system) == ("Chrome on Android", "Pixel 9", "Android 16.0.0")


def test_what_is_not_told_is_not_known() -> None:
    device = describe(facts("x"))
    unknown = (device.cores, device.memory_bytes, device.clock_mhz, device.temperature_c, device.charging)
    assert unknown == (None,) * 5


def test_androids_emulator_is_no_phone() -> None:
    assert describe(facts("x", platform="Android", model="sdk_gphone64_x86_64")).emulated
    assert not describe(facts("x", platform="Android", model="Pixel 9")).emulated


@pytest.mark.parametrize(
    ("adapter", "obtained"),
    [
        ({"vendor": "google", "architecture": "swiftshader"}, "emulated"),
        ({"vendor": "mesa", "description": "llvmpipe (LLVM 19)"}, "emulated"),
        ({"vendor": "microsoft", "description": "Microsoft Basic Render Driver"}, "emulated"),
        ({"vendor": "arm", "fallback": True}, "emulated"),
        ({"vendor": "apple", "architecture": "metal-3"}, None),
        ({}, None),
    ],
)
def test_a_graphics_processor_that_the_processor_plays_is_emulated(
    adapter: dict[str, object], obtained: str | None
) -> None:
    assert Offer(provider="webgpu", adapter=Adapter.model_validate(adapter)).obtained == obtained


HALVES = {" ": (0, 0), "▀": (255, 0), "▄": (0, 255), "█": (255, 255)}


def test_the_address_is_printed_and_can_be_read_by_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(profiler, "console", screen)
    address = "http://127.0.0.1:40123/open/DaF99bgjBhiodjvfXaKcJAP_JHEtSxn1"
    profiler.announce(address)
    assert isinstance(screen.file, io.StringIO)
    shown = re.sub(r"\x1b\[[\d;]*m", "", screen.file.getvalue()).splitlines()
    assert address in shown
    assert any("adb reverse tcp:40123 tcp:40123" in line for line in shown)
    drawn = [line for line in shown if line and set(line) <= set(HALVES)]
    picture = np.array([[HALVES[cell][half] for cell in line] for line in drawn for half in (0, 1)], np.uint8)
    large = cv2.resize(picture, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    assert cv2.QRCodeDetector().detectAndDecode(large)[0] == address
