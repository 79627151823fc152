"""What is asked of an Android device and set on it: who it is, how warm it is, and its clocks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from devices.android import facts
from devices.android.adb import Phone
from devices.bench import DeviceLost
from devices.records import Device
from devices.sessions import Stopped
from toolkit.errors import DeviceError

FACT_S = 15.0
#: How long a phone that was started anew takes until its services answer.
START_S = 60.0
STEP_S = 0.5
FIXED = "cmd power set-fixed-performance-mode-enabled"


class Clocks:
    """Whether the device holds its clocks for the session: Android's fixed-performance mode, which some have."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone
        self._asked = False
        self.fixed = False

    def hold(self) -> None:
        """Switch it on, where the device can."""
        self._asked = True
        self.fixed = self._asked = self._phone.shell(f"{FIXED} true").code == 0

    def let_go(self) -> None:
        """Switch it off: a session that was killed may have left it on. A device that refuses knows no such mode."""
        self._phone.shell(f"{FIXED} false")

    def hold_again(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """After the device was gone: it may have been started anew.

        Raises `DeviceLost` where it held them before and does not any more: what follows would be another measurement;
        `Stopped` once `stopped` says so.
        """
        deadline = time.monotonic() + START_S
        while self.fixed and not self._accepted():
            if stopped():
                raise Stopped
            if time.monotonic() >= deadline:
                raise DeviceLost(f"{self._phone.name}: came back and refuses to hold its clocks")
            time.sleep(STEP_S)

    def _accepted(self) -> bool:
        try:
            return self._phone.shell(f"{FIXED} true").code == 0
        except DeviceLost:
            raise
        except DeviceError:  # its service does not answer yet
            return False

    def release(self) -> None:
        """Switch it off, also where the answer to switching it on was lost; nothing where the device is gone."""
        if self._asked:
            with contextlib.suppress(DeviceError):
                self._phone.shell(f"{FIXED} false")


@contextmanager
def held_clocks(phone: Phone, wanted: bool) -> Iterator[Clocks]:
    """Fixed clocks within the block, where they are wanted and the device can; else free ones."""
    clocks = Clocks(phone)
    try:
        if wanted:
            clocks.hold()
        else:
            clocks.let_go()
        yield clocks
    finally:
        clocks.release()


def describe(phone: Phone, props: dict[str, str], clocks: Clocks) -> Device:
    """This device, as far as it tells."""
    cores = read_cores(phone)
    battery = facts.read_battery(_told(phone, "dumpsys battery"))
    screen = facts.read_screen(_told(phone, "dumpsys power"))
    details = {
        "serial": phone.serial,
        "soc": facts.soc(props),
        "api": props.get("ro.build.version.sdk"),
        "abi": props.get("ro.product.cpu.abi"),
        "cores": str(cores) or None,
        "battery": f"{battery.level} %" if battery.level is not None else None,
        "screen": None if screen is None else "on" if screen else "off",
    }
    return Device(
        kind="android",
        name=phone.serial,
        model=facts.model(props),
        system=facts.system(props),
        cores=cores.count,
        memory_bytes=facts.read_memory_bytes(_told(phone, "cat /proc/meminfo")),
        clock_mhz=cores.clock_mhz,
        temperature_c=temperature(phone),
        others_share=None,
        clock_mode="fixed" if clocks.fixed else "free",
        charging=battery.charging,
        emulated=facts.is_emulated(props),
        details={key: value for key, value in details.items() if value},
    )


def read_props(phone: Phone) -> dict[str, str]:
    """All properties of the device."""
    return facts.read_props(phone.run("getprop"))


def read_cores(phone: Phone) -> facts.Cores:
    """Its processors; files that its shell may not read are left out."""
    return facts.read_cores(_files(phone, facts.CORE_FILES))


def clock_mhz(phone: Phone) -> float | None:
    """The fastest core's clock at this moment."""
    return facts.read_cores(_files(phone, facts.CORE_FILES[2:])).clock_mhz


def temperature(phone: Phone) -> float | None:
    """How warm the device is, in degrees Celsius; None where nothing tells."""
    sensors = facts.read_thermal(_told(phone, "dumpsys thermalservice"))
    battery = facts.read_battery(_told(phone, "dumpsys battery"))
    zones = {} if sensors or battery.celsius else facts.read_zones(_files(phone, facts.ZONE_FILES))
    return facts.device_celsius(sensors, battery, zones)


def _files(phone: Phone, patterns: tuple[str, ...]) -> dict[str, str]:
    return facts.read_files(_told(phone, f"grep -sH . {' '.join(patterns)}"))


def _told(phone: Phone, command: str) -> str:
    """What a command prints; nothing where it does not answer: a fact is unknown then, and no reason to stop."""
    try:
        return phone.shell(command, FACT_S).out
    except DeviceLost:
        raise
    except DeviceError:
        return ""
