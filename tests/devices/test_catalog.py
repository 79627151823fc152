"""The catalogued devices as shipped."""

from __future__ import annotations

from devices.catalog import catalogued_devices


def test_the_catalogue_holds_phones_of_both_kinds_with_sources() -> None:
    devices = catalogued_devices()
    assert {"iphone-8", "iphone-13", "pixel-8", "galaxy-s23", "laptop"} <= {device.name for device in devices}
    assert {device.platform for device in devices} == {"ios", "android", "desktop"}
    for device in devices:
        assert 0 < device.app_share.value < 1
        assert device.app_bytes > 2**29
