"""Profiling on an Android device through the real adb, with a device on loopback and a stand-in for the runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from devices import profile, store
from devices.android import runner_files, state
from devices.bench import DeviceLost
from devices.listed import Listed
from devices.listing import list_devices
from devices.records import Profile
from devices.sessions import Session
from tests.command_line import handheld, refusal
from tests.devices.android.loopback import runner
from tests.devices.android.loopback.fixture import phones
from tests.devices.android.loopback.fleet import Fleet, Handset, wait_for_end_of
from tests.devices.conftest import MakeBundle
from tests.programs import needs
from toolkit.errors import DeviceError, UserError
from toolkit.parity import Parity, Tolerance

__all__ = ["phones"]

pytestmark = needs("adb")

HELD = "cmd power set-fixed-performance-mode-enabled"
#: A fault after at most 13 runs: one first, and warm-up until it is steady, 12 at most.
IN_A_ROUND = "drop-run=16"
Measure = Callable[..., Profile]


@dataclass
class Watching:
    """Looks on: does something in the first round, and when the device is lost."""

    in_a_round: Callable[[], object] = lambda: None
    when_lost: Callable[[], object] = lambda: None
    happened: list[str] = field(default_factory=list)

    def seen(self, session: Session, event: object) -> None:
        if session.rounds_done == 1 and "round" not in self.happened:
            self.happened.append("round")
            self.in_a_round()

    def said(self, session: Session, text: str) -> None:
        if text.startswith("lost: "):
            self.happened.append("lost")
            self.when_lost()


@pytest.fixture
def installed(own_store: None) -> None:
    """Stand-ins for the runners of arm64 phones."""
    runner.install(runner_files.runners_root(), "arm64-v8a")


@pytest.fixture
def measure(make_bundle: MakeBundle, installed: None) -> Measure:
    """Profiles a tiny bundle briefly; keyword arguments are those of `profile`."""

    def run(which: str = "android", **options: object) -> Profile:
        asked = {"iterations": 3, "repeats": 2, "operators": False, "wait_s": 30.0}
        return profile([make_bundle()], which, **{**asked, **options})  # type: ignore[arg-type]

    return run


def check_nothing_left(phone: Handset) -> None:
    """No file on the phone, no runner under way, clocks as they were."""
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")
    assert phone.files == []
    assert held(phone)[-1] == "false"


@pytest.mark.slow
def test_a_profile_of_a_phone(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8")
    found = measure(operators=True)
    (record,) = found.records
    assert found.failures == []
    assert record.obtained == "measured"
    assert record.runtime == "Stand-in 1.0"
    assert [len(repeat.iterations_ms) for repeat in record.latency.repeats] == [3, 3]
    assert min(record.latency.iterations_ms) > 0
    assert record.latency.load_ms == 3.5
    assert record.memory is not None
    assert record.memory.added_bytes == 15_000_000
    assert record.parity.passed
    assert {row.kind for row in record.operators} >= {"Conv"}
    assert all(row.obtained == "measured" for row in record.operators)
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")
    assert phone.files == []


@pytest.mark.slow
def test_the_record_says_what_phone_it_was(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8")
    (record,) = measure().records
    device = record.device
    assert (device.kind, device.name, device.model) == ("android", phone.serial, "Google Pixel 8")
    assert device.system == "Android 14 (API 34)"
    assert (device.cores, record.threads) == (9, 5)  # as many threads as big cores
    assert device.memory_bytes == 7728184 * 1024
    assert device.temperature_c == 31.5
    assert (device.clock_mode, device.charging, device.emulated) == ("fixed", True, False)
    assert device.details["soc"] == "Google Tensor G3"
    assert device.details["screen"] == "on"
    assert device.details["cores"] == "4 x 1704 MHz, 4 x 2367 MHz, 1 x 2914 MHz"
    assert record.latency.repeats[0].clock_mhz == 2049.0


@pytest.mark.slow
def test_clocks_are_held_for_the_session_and_then_let_go(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("pixel8")
    measure()
    assert held(phone) == ["true", "false"]


@pytest.mark.slow
def test_clocks_that_a_killed_session_left_held_are_free_where_the_user_says_so(
    phones: Fleet, measure: Measure
) -> None:
    phone = phones.add("pixel8")
    (record,) = measure(fixed_clocks=False).records
    assert record.device.clock_mode == "free"
    assert held(phone) == ["false"]


@pytest.mark.slow
def test_a_phone_that_comes_back_and_refuses_fixed_clocks_is_not_measured_further(
    phones: Fleet, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "START_S", 1.0)
    phone = phones.add("pixel8", [IN_A_ROUND])
    refusing = Watching(in_a_round=lambda: phone.change(commands={f"{HELD} true": "20"}))
    with pytest.raises(DeviceLost, match=r"came back and refuses to hold its clocks; [1-9]\d* of 20 rounds are in"):
        measure(iterations=10, watch=refusing)
    assert held(phone).count("true") > 2  # a phone that starts needs a while
    check_nothing_left(phone)


def test_a_phone_without_fixed_clocks(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("galaxy_s9")
    (record,) = measure().records
    assert record.device.clock_mode == "free"
    assert record.device.details["screen"] == "off"
    assert record.device.charging is False
    assert held(phone) == ["true"]  # asked once, refused


@pytest.mark.slow
def test_an_old_phone_without_the_shell_protocol(phones: Fleet, measure: Measure) -> None:
    phone = phones.add("nexus6")
    (record,) = measure(operators=True).records
    assert record.operators
    assert phone.files == []
    wait_for_end_of(f"{phone.folder}/tmp/handheld/")


@pytest.mark.slow
def test_a_service_that_does_not_answer_leaves_a_fact_unknown(
    phones: Fleet, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "FACT_S", 1.0)
    phones.add("pixel8", ["hang=dumpsys power"])
    (record,) = measure().records
    assert "screen" not in record.device.details
    assert record.device.temperature_c == 31.5


@pytest.mark.slow
def test_an_emulator_is_labelled(phones: Fleet, measure: Measure) -> None:
    phones.add("emulator")
    (record,) = measure(operators=True).records
    assert record.obtained == "emulated"
    assert record.device.emulated
    assert all(row.obtained == "emulated" for row in record.operators)


@pytest.mark.slow
def test_what_was_pushed_stays_where_the_user_wants_it_and_is_not_pushed_again(phones: Fleet, measure: Measure) -> None:
    phone = phones.add()
    measure(keep=True)
    kept = [name for name in phone.files if not name.endswith(".bin")]
    assert any(name.endswith("/onnxruntime-runner") for name in kept)
    assert any(name.endswith("/model.onnx") for name in kept)
    assert not any("session-" in name for name in phone.files)
    before = phone.services.count("sync:")
    measure(keep=True)
    # what is pulled is one output; nothing is pushed
    assert phone.services.count("sync:") - before == 1
    measure()
    assert phone.files == []


@pytest.mark.slow
def test_a_file_that_was_changed_on_the_phone_is_pushed_again(phones: Fleet, measure: Measure) -> None:
    phone = phones.add()
    measure(keep=True)
    model = next((phone.folder / "tmp").rglob("model.onnx"))
    model.write_bytes(b"something else")
    assert measure().records


@pytest.mark.slow
def test_bundles_of_two_phones_are_measured_at_the_same_time(
    phones: Fleet, make_bundle: MakeBundle, measure: Measure
) -> None:
    first, second = phones.add("pixel8"), phones.add("galaxy_s9")
    devices = [f"android:{phone.serial}" for phone in (first, second)]
    found = profile([make_bundle()], devices, iterations=2, repeats=1, operators=False)
    assert [record.device.model for record in found.records] == ["Google Pixel 8", "samsung SM-G960U"]


def test_more_threads_than_cores(phones: Fleet, measure: Measure) -> None:
    phones.add("pixel8")
    with pytest.raises(UserError, match=r"--threads 10: android:.* has 9 cores"):
        measure(threads=10)


def test_no_runner_for_this_processor(phones: Fleet, make_bundle: MakeBundle) -> None:
    phones.add("pixel8")
    with pytest.raises(DeviceError, match="no runner for onnx-fp32 on arm64-v8a is installed; build"):
        profile([make_bundle()], "android")


def test_a_bundle_without_anything_for_phones(phones: Fleet, make_bundle: MakeBundle, installed: None) -> None:
    phones.add("pixel8")
    parity = Parity(
        how="executed",
        runtime="x",
        max_abs=0.0,
        scale=1.0,
        psnr_db=None,
        tolerance=Tolerance(max_share=1e-4),
        passed=True,
    )
    with pytest.raises(UserError, match="runs ExecuTorch and ONNX artifacts, and the bundles hold coreml-fp16"):
        profile([make_bundle(parities={"coreml-fp16": parity})], "android")


@pytest.mark.slow
def test_the_command_line(
    phones: Fleet, make_bundle: MakeBundle, installed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = phones.add(), phones.add("galaxy_s9")
    command = ["profile", make_bundle(), "--iterations", "2", "--repeats", "1", "--no-operators", "--device"]
    assert handheld(*command, f"android:{first.serial}") == 0
    assert handheld(*command, "android:SM-G960U") == 0
    capsys.readouterr()
    assert "no such phone; attached: " in refusal(capsys, 2, *command, "android:Nexus")
    assert "fits several phones" in refusal(capsys, 2, *command, "android:127.")
    assert "several phones are attached" in refusal(capsys, 2, *command, "android")


@pytest.mark.slow
def test_an_interrupted_profile_leaves_nothing(phones: Fleet, make_bundle: MakeBundle, installed: None) -> None:
    phone = phones.add("pixel8")

    class Interrupting:
        """Looks on, and presses Ctrl-C after the third round."""

        def seen(self, session: Session, event: object) -> None:
            if session.rounds_done == 3:
                raise KeyboardInterrupt

        def said(self, session: Session, text: str) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        profile([make_bundle()], "android", operators=False, watch=Interrupting())
    check_nothing_left(phone)
    assert store.load() == []


def test_phones_are_listed_with_what_stands_in_their_way(phones: Fleet) -> None:
    ready, locked = phones.add("pixel8"), phones.add("pixel8", ["unauthorized"])
    found = {device.name: device for device in list_devices() if device.kind == "android"}
    assert found[f"android:{ready.serial}"] == Listed(
        f"android:{ready.serial}", "android", "Google Pixel 8", "Android 14 (API 34)", "ready"
    )
    assert found[f"android:{locked.serial}"].state == "not ready"
    assert "unlock the phone" in found[f"android:{locked.serial}"].remedy


def test_no_phones_are_listed_where_adb_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    assert [device for device in list_devices() if device.kind == "android"] == []


def held(phone: Handset) -> list[str]:
    """What fixed-performance mode was set to, in order."""
    return [service.rpartition(" ")[2] for service in phone.services if HELD in service]
