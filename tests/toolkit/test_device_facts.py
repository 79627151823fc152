"""Descriptions of devices: strict files, and figures with sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.device_facts import Figure, Unit, choose, read_catalog
from toolkit.errors import UserError

PHONE = """
name: phone
title: A phone
year: 2024
chip: chip
platform: android
memory_gib: {value: 4, source: made up for this test}
app_share: {value: 0.5, source: made up for this test}
"""


def test_a_file_becomes_a_device(tmp_path: Path) -> None:
    (tmp_path / "phone.yaml").write_text(PHONE, encoding="utf-8")
    (device,) = read_catalog(tmp_path)
    assert device.app_bytes == 2 * 1024**3
    assert device.unit("GPU") is None


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("other.yaml", PHONE, "name and file must agree"),
        ("phone.yaml", PHONE.replace("title", "titel"), "did you mean 'title'"),
        ("phone.yaml", PHONE.replace("made up for this test", "me"), "source"),
    ],
)
def test_a_mistake_names_the_file(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_catalog(tmp_path)
    assert name in str(caught.value)


def test_an_unknown_device_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "phone.yaml").write_text(PHONE, encoding="utf-8")
    devices = read_catalog(tmp_path)
    assert choose(devices, []) == devices
    with pytest.raises(UserError, match="Did you mean 'phone'"):
        choose(devices, ["phon"])


def test_the_peak_for_a_precision_is_that_of_a_type_wide_enough() -> None:
    figure = {name: Figure(value=value, source="made up for this test") for name, value in (("a", 1.0), ("b", 2.0))}
    unit = Unit(name="GPU", fp32_gflops=figure["a"], int8_gops=figure["b"])
    assert [unit.peak(precision) for precision in ("fp32", "fp16", "int8")] == [figure["a"], figure["a"], figure["b"]]
    assert Unit(name="Neural Engine", fp16_gflops=figure["a"]).peak("fp32") is None
