"""Facts of Android devices from the text of their commands, as several versions and makers write it."""

from __future__ import annotations

import textwrap

import pytest

from devices.android import facts
from devices.android.facts import Battery, Temperature

GETPROP = """\
[dalvik.vm.heapsize]: [512m]
[ro.build.version.release]: [14]
[ro.build.version.sdk]: [34]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 8]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [Tensor G3]
[ro.vendor.note]: []
"""

#: A Samsung phone of Android 12: cached values beside current ones, sensors that are not there.
SAMSUNG_12 = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
\tkilled: false
\tbroadcasts count: -1
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=44.0, mType=3, mName=SKIN, mStatus=0}
HAL Ready: true
HAL connection:
\tThermalHAL 2.0 connected: yes
Current temperatures from HAL:
\tTemperature{mValue=25.6, mType=0, mName=AP, mStatus=0}
\tTemperature{mValue=23.8, mType=2, mName=BAT, mStatus=0}
\tTemperature{mValue=24.7, mType=3, mName=LRB, mStatus=0}
\tTemperature{mValue=0.0, mType=2, mName=SUBBAT, mStatus=0}
\tTemperature{mValue=-99.9, mType=5, mName=PA, mStatus=0}
\tTemperature{mValue=NaN, mType=4, mName=USB, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
Temperature static thresholds from HAL:
\tTemperatureThreshold{mType=3, mName=LRB, mHotThrottlingThresholds=[NaN, 39.0]}
"""

BATTERY_10 = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  Max charging current: 500000
  Charge counter: 2140000
  status: 2
  present: true
  level: 84
  scale: 100
  voltage: 4063
  temperature: 326
  technology: Li-ion
  batteryMiscEvent: 0
  LED Charging: true
"""


def test_props() -> None:
    props = facts.read_props(GETPROP)
    assert facts.model(props) == "Google Pixel 8"
    assert facts.soc(props) == "Google Tensor G3"
    assert facts.system(props) == "Android 14 (API 34)"
    assert props["ro.vendor.note"] == ""
    assert not facts.is_emulated(props)


def test_props_of_an_old_pseudo_terminal_have_carriage_returns() -> None:
    assert facts.read_props("[ro.product.model]: [Nexus 6]\r\n[a]: [b]\r\n") == {
        "ro.product.model": "Nexus 6",
        "a": "b",
    }


def test_the_maker_is_not_said_twice() -> None:
    assert facts.model({"ro.product.manufacturer": "OnePlus", "ro.product.model": "ONEPLUS A6013"}) == "ONEPLUS A6013"


def test_the_chip_of_a_phone_before_android_12_is_its_platform() -> None:
    assert facts.soc({"ro.board.platform": "sdm845", "ro.hardware": "qcom"}) == "sdm845"
    assert facts.soc({}) is None


@pytest.mark.parametrize(
    "props",
    [{"ro.boot.qemu": "1"}, {"ro.kernel.qemu": "1"}, {"ro.hardware": "ranchu"}, {"ro.hardware": "goldfish_x86"}],
)
def test_emulators(props: dict[str, str]) -> None:
    assert facts.is_emulated(props)


def test_cores_of_three_kinds() -> None:
    folder = "/sys/devices/system/cpu"
    highest = [1704000] * 4 + [2367000] * 4 + [2914000]
    lines = [f"{folder}/cpu{n}/cpufreq/cpuinfo_max_freq:{clock}" for n, clock in enumerate(highest)]
    lines += [f"{folder}/cpu0/cpufreq/scaling_cur_freq:1098000", f"{folder}/cpu8/cpufreq/scaling_cur_freq:2049000"]
    cores = facts.read_cores(facts.read_files("\n".join([f"{folder}/possible:0-8", *lines])))
    assert (cores.count, cores.big, cores.clock_mhz) == (9, 5, 2049.0)
    assert str(cores) == "4 x 1704 MHz, 4 x 2367 MHz, 1 x 2914 MHz"


def test_cores_of_one_kind_are_all_big() -> None:
    text = "\n".join(f"/sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq:2000000" for n in range(4))
    assert facts.read_cores(facts.read_files(text)).big == 4


def test_cores_that_tell_no_clock() -> None:
    cores = facts.read_cores({"/sys/devices/system/cpu/possible": "0-1,4"})
    assert (cores.count, cores.big, cores.clock_mhz) == (3, 3, None)
    assert facts.read_cores({}).count is None


def test_thermal_service_speaks_of_now_not_of_what_it_has_cached() -> None:
    assert facts.read_thermal(SAMSUNG_12) == [
        Temperature("AP", facts.CPU, 25.6),
        Temperature("BAT", facts.BATTERY, 23.8),
        Temperature("LRB", facts.SKIN, 24.7),
    ]


def test_thermal_service_without_a_hal_tells_nothing() -> None:
    assert facts.read_thermal("Thermal Status: 0\nCached temperatures:\nHAL Ready: false\n") == []
    assert facts.read_thermal("Can't find service: thermalservice\n") == []


def test_battery() -> None:
    assert facts.read_battery(BATTERY_10) == Battery(32.6, 84, True)
    assert facts.read_battery(BATTERY_10.replace("USB powered: true", "USB powered: false")).charging is False
    assert facts.read_battery("Can't find service: battery\n") == Battery(None, None, None)


def test_zones_in_thousandths_or_in_degrees() -> None:
    zones = {"0": ("cpu-big", "41500"), "1": ("xo_therm", "33"), "2": ("modem", "-40000"), "3": ("odd", "n/a")}
    folder = "/sys/class/thermal/thermal_zone"
    files = {f"{folder}{number}/type": kind for number, (kind, _) in zones.items()}
    files |= {f"{folder}{number}/temp": value for number, (_, value) in zones.items()}
    assert facts.read_zones(files) == {"cpu-big": 41.5, "xo_therm": 33.0}


def test_the_skin_says_how_far_a_device_has_cooled() -> None:
    sensors = facts.read_thermal(SAMSUNG_12)
    assert facts.device_celsius(sensors, Battery(32.6, 84, True), {}) == 24.7


def test_without_a_skin_sensor_the_battery_and_then_the_zones_say_it() -> None:
    assert facts.device_celsius([], Battery(32.6, 84, True), {"cpu": 60.0}) == 32.6
    assert facts.device_celsius([], Battery(0.0, 84, True), {"cpu": 60.0, "gpu": 50.0}) == 60.0
    assert facts.device_celsius([], Battery(None, None, None), {}) is None


@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("  mWakefulness=Awake\n", True),
        ("  mWakefulness=Dozing\n", False),
        ("Display Power: state=OFF\n", False),
        ("", None),
    ],
)
def test_screen(text: str, on: bool | None) -> None:
    assert facts.read_screen(text) is on


def test_memory() -> None:
    assert facts.read_memory_bytes("MemTotal:        7728184 kB\nMemFree:  1 kB\n") == 7728184 * 1024
    assert facts.read_memory_bytes("") is None


def test_free_space_also_where_df_wraps_a_long_name() -> None:
    plain = textwrap.dedent("""\
        Filesystem     1K-blocks     Used Available Use% Mounted on
        /dev/block/dm-5 110000000 60000000 50000000  55% /data
        """)
    assert facts.read_free_bytes(plain) == 50_000_000 * 1024
    wrapped = textwrap.dedent("""\
        Filesystem           1K-blocks    Used Available Use% Mounted on
        /dev/block/bootdevice/by-name/userdata
                              54018668 41000000  12888668  77% /data
        """)
    assert facts.read_free_bytes(wrapped) == 12_888_668 * 1024
    assert facts.read_free_bytes("df: /data/local/tmp: Permission denied\n") is None
