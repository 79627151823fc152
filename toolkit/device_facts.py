"""What is publicly known of a device before anything is measured on it; every figure carries who says so.

A catalogued device is a description in a file. It need not be connected, and nothing of it was measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from toolkit.errors import UserError, unknown_name
from toolkit.schema import StrictModel, read_yaml, validate

UnitName = Literal["CPU", "GPU", "Neural Engine"]
Arithmetic = Literal["fp32", "fp16", "int8"]
GIB = 1024**3


class Figure(StrictModel):
    """One number, and who says so, or what it was derived from."""

    value: PositiveFloat
    source: str = Field(min_length=10)


class Unit(StrictModel):
    """One of a chip's processors: its public peak throughputs, in 10^9 operations a second, of which a MAC is two."""

    name: UnitName
    fp32_gflops: Figure | None = None
    fp16_gflops: Figure | None = None
    int8_gops: Figure | None = None

    def peak(self, arithmetic: Arithmetic) -> Figure | None:
        """The peak of a type: of the narrowest one, not narrower than asked, that a figure is known of."""
        narrow_to_wide = {"int8": self.int8_gops, "fp16": self.fp16_gflops, "fp32": self.fp32_gflops}
        known = list(narrow_to_wide.values())[list(narrow_to_wide).index(arithmetic) :]
        return next((figure for figure in known if figure is not None), None)


class DeviceFacts(StrictModel):
    """A device that people have: its chip, its memory, and what an app may use of it.

    `memory_gib` is in GiB, `app_share` the part of it that one app may use, `bandwidth_gb_s` in 10^9 bytes a second.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    title: str
    year: PositiveInt
    chip: str
    platform: Literal["ios", "android", "desktop"]
    memory_gib: Figure
    app_share: Figure
    bandwidth_gb_s: Figure | None = None
    units: list[Unit] = []

    def takes(self, target: str) -> bool:
        """Whether an artifact for a target runs on the device's platform at all: Core ML is Apple's own."""
        words = target.split("-")
        return ("coreml" not in words or self.platform == "ios") and (
            "vulkan" not in words or self.platform == "android"
        )

    @property
    def app_bytes(self) -> int:
        """What one app may use of the memory."""
        return int(self.memory_gib.value * self.app_share.value * GIB)

    def unit(self, name: UnitName) -> Unit | None:
        """The unit called `name`, None where nothing is known of it."""
        return next((unit for unit in self.units if unit.name == name), None)


def read_catalog(folder: Path) -> list[DeviceFacts]:
    """All devices of a folder of YAML files, by name; raises `UserError` that names a file with a mistake."""
    found = []
    for path in sorted(folder.glob("*.yaml")):
        device = validate(DeviceFacts, read_yaml(path), str(path))
        if device.name != path.stem:
            raise UserError(f"{path}: calls itself '{device.name}'; name and file must agree")
        found.append(device)
    return found


def choose(devices: Sequence[DeviceFacts], names: Sequence[str]) -> list[DeviceFacts]:
    """The devices called `names`, all where none is; raises `UserError` with the known names."""
    known = {device.name: device for device in devices}
    for name in names:
        if name not in known:
            raise unknown_name("catalogued device", name, known)
    return [known[name] for name in dict.fromkeys(names)] or list(devices)
