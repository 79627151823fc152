"""Widely used devices, one YAML file each, as `toolkit.device_facts` defines them; none of them need be connected."""

from __future__ import annotations

from pathlib import Path

from toolkit.device_facts import DeviceFacts, read_catalog


def catalogued_devices() -> list[DeviceFacts]:
    """All catalogued devices by name."""
    return read_catalog(Path(__file__).parent)
