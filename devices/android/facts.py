"""What an Android device tells of itself, read from the text of its own commands. Unknown facts are None."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

#: Files of which every line is read in one `grep -sH . FILES`.
CORE_FILES = (
    "/sys/devices/system/cpu/possible",
    "/sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq",
    "/sys/devices/system/cpu/cpu*/cpufreq/scaling_cur_freq",
)
ZONE_FILES = ("/sys/class/thermal/thermal_zone*/type", "/sys/class/thermal/thermal_zone*/temp")

#: The numbers of `android.os.Temperature` that matter here.
CPU, BATTERY, SKIN = 0, 2, 3
PLAUSIBLE_C = (1.0, 150.0)

_PROP = re.compile(r"^\[(.+?)\]: \[(.*)\]$", re.MULTILINE)
_TEMPERATURE = re.compile(r"Temperature\{mValue=(-?[\d.]+|NaN), mType=(-?\d+), mName=([^,}]*)")
_CORE = re.compile(r"/cpu(\d+)/cpufreq/")
_EMULATED_HARDWARE = ("goldfish", "ranchu")


@dataclass(frozen=True)
class Cores:
    """Processors: their number, the highest clock of each that tells one, and the clocks at this moment, in MHz."""

    count: int | None
    max_mhz: dict[int, float]
    now_mhz: dict[int, float]

    @property
    def big(self) -> int | None:
        """How many are faster than the slowest kind; all where they are of one kind."""
        if not self.max_mhz:
            return self.count
        slowest = min(self.max_mhz.values())
        return sum(clock > slowest for clock in self.max_mhz.values()) or len(self.max_mhz)

    @property
    def clock_mhz(self) -> float | None:
        """The fastest core's clock at this moment."""
        return max(self.now_mhz.values(), default=None)

    def __str__(self) -> str:
        kinds = sorted(Counter(self.max_mhz.values()).items())
        return ", ".join(f"{count} x {clock:g} MHz" for clock, count in kinds)


@dataclass(frozen=True)
class Temperature:
    """A sensor of the thermal service; `kind` is Android's number."""

    name: str
    kind: int
    celsius: float


@dataclass(frozen=True)
class Battery:
    """The battery's temperature in degrees Celsius, its level in %, and whether a charger is connected."""

    celsius: float | None
    level: int | None
    charging: bool | None


def read_props(text: str) -> dict[str, str]:
    """The output of `getprop`."""
    return dict(_PROP.findall(text.replace("\r\n", "\n")))


def is_emulated(props: Mapping[str, str]) -> bool:
    """Whether the device is an emulator."""
    told = any(props.get(key) == "1" for key in ("ro.boot.qemu", "ro.kernel.qemu"))
    return told or any(name in props.get("ro.hardware", "") for name in _EMULATED_HARDWARE)


def model(props: Mapping[str, str]) -> str:
    """Maker and model, the maker once."""
    name, maker = props.get("ro.product.model", "unknown model"), props.get("ro.product.manufacturer", "")
    return name if not maker or name.lower().startswith(maker.lower()) else f"{maker} {name}"


def soc(props: Mapping[str, str]) -> str | None:
    """The chip: by its name from Android 12 on, before that by its platform's."""
    maker, name = props.get("ro.soc.manufacturer", ""), props.get("ro.soc.model", "")
    if name:
        return f"{maker} {name}".strip()
    return props.get("ro.board.platform") or props.get("ro.hardware") or None


def system(props: Mapping[str, str]) -> str:
    """Android's version and API level."""
    return f"Android {props.get('ro.build.version.release', '?')} (API {props.get('ro.build.version.sdk', '?')})"


def read_files(text: str) -> dict[str, str]:
    """The output of `grep -sH . FILES`: a file's first line by its path."""
    found: dict[str, str] = {}
    for line in text.replace("\r\n", "\n").splitlines():
        path, separator, content = line.partition(":")
        if separator and path.startswith("/"):
            found.setdefault(path, content.strip())
    return found


def read_cores(files: Mapping[str, str]) -> Cores:
    """From `CORE_FILES`; clocks are in kHz there."""
    highest: dict[int, float] = {}
    now: dict[int, float] = {}
    for path, content in files.items():
        match = _CORE.search(path)
        if match is None or not content.isdigit():
            continue
        clocks = highest if path.endswith("cpuinfo_max_freq") else now
        clocks[int(match[1])] = int(content) / 1e3
    return Cores(_count(files.get(CORE_FILES[0], "")), highest, now)


def _count(possible: str) -> int | None:
    """How many processors a list such as `0-3,6` names."""
    parts = [part.split("-") for part in possible.split(",") if part]
    if not parts or not all(number.isdigit() for part in parts for number in part):
        return None
    return sum(int(part[-1]) - int(part[0]) + 1 for part in parts)


def read_memory_bytes(meminfo: str) -> int | None:
    """All memory, of `/proc/meminfo`."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def read_free_bytes(df: str) -> int | None:
    """Free bytes of the file system that `df -k FOLDER` tells of; its line may be wrapped after a long name."""
    fields = " ".join(df.replace("\r\n", "\n").splitlines()[1:]).split()
    share = next((place for place, field in enumerate(fields) if re.fullmatch(r"\d+%", field)), None)
    if share is None or share < 3 or not fields[share - 1].isdigit():
        return None
    return int(fields[share - 1]) * 1024


def read_thermal(thermalservice: str) -> list[Temperature]:
    """The sensors of `dumpsys thermalservice` as they are now: what it has cached from events is old."""
    _, found, current = thermalservice.partition("Current temperatures from HAL:")
    if not found:
        return []
    section = re.split(r"^\S", current, maxsplit=1, flags=re.MULTILINE)[0]
    sensors = [Temperature(name, int(kind), float(value)) for value, kind, name in _TEMPERATURE.findall(section)]
    return [sensor for sensor in sensors if _is_plausible(sensor.celsius)]


def read_zones(files: Mapping[str, str]) -> dict[str, float]:
    """Thermal zones of the kernel by their type, from `ZONE_FILES`: in thousandths of a degree, on some in degrees."""
    found = {}
    for path, kind in files.items():
        value = files.get(path.removesuffix("/type") + "/temp", "")
        if path.endswith("/type") and re.fullmatch(r"-?\d+", value):
            celsius = int(value) / (1000 if abs(int(value)) >= 1000 else 1)
            if _is_plausible(celsius):
                found[kind] = celsius
    return found


def read_battery(battery: str) -> Battery:
    """From `dumpsys battery`; temperature is in tenths of a degree there."""
    facts = dict(re.findall(r"^\s*([A-Za-z ]+): (\S+)", battery.replace("\r\n", "\n"), re.MULTILINE))
    powered = [value for key, value in facts.items() if key.endswith("powered")]
    tenths, level = facts.get("temperature", ""), facts.get("level", "")
    return Battery(
        celsius=int(tenths) / 10 if tenths.lstrip("-").isdigit() else None,
        level=int(level) if level.isdigit() else None,
        charging="true" in powered if powered else None,
    )


def read_screen(power: str) -> bool | None:
    """Whether the screen is on, from `dumpsys power`."""
    match = re.search(r"mWakefulness=(\w+)", power)
    if match is not None:
        return match[1] == "Awake"
    match = re.search(r"Display Power: state=(\w+)", power)
    return match[1] == "ON" if match else None


def device_celsius(sensors: list[Temperature], battery: Battery, zones: Mapping[str, float]) -> float | None:
    """The one temperature that says how far the device has cooled: its skin's, its battery's, or its hottest zone's.

    The processor's own changes within a second; what makes a phone slow down follows the case.
    """
    skin = [sensor.celsius for sensor in sensors if sensor.kind == SKIN]
    if skin:
        return max(skin)
    if battery.celsius is not None and _is_plausible(battery.celsius):
        return battery.celsius
    return max((sensor.celsius for sensor in sensors), default=max(zones.values(), default=None))


def _is_plausible(celsius: float) -> bool:
    """Sensors that are not there say 0, -99.9 or nonsense."""
    return PLAUSIBLE_C[0] <= celsius <= PLAUSIBLE_C[1]
