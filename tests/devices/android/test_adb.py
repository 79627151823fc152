"""Phones through the real adb client and server, and a device that speaks the adb protocol on loopback."""

from __future__ import annotations

import io
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from devices.android import adb
from devices.android.adb import Attached, Phone, attached, choose, read_devices
from devices.bench import DeviceLost
from devices.sessions import Stopped
from tests.devices.android.loopback.fixture import phones
from tests.devices.android.loopback.fleet import Fleet, free_port, wait_for_end_of
from tests.programs import needs
from toolkit.errors import DeviceError, UserError

__all__ = ["phones"]

pytestmark = needs("adb")

HOME = "/data/local/tmp"
PIXEL = Attached("39021FDJH0", "device", "Pixel_8")
OTHER = Attached("39021FXYZ1", "device", "Pixel_8")
NEXUS = Attached("ABC", "device", "Nexus_6")


def test_reads_what_adb_lists() -> None:
    refused = "no permissions (user in plugdev group; are your udev rules wrong?); see [http://developer.android.com]"
    text = f"""List of devices attached
39021FDJH0             device usb:1-1 product:shiba model:Pixel_8 device:shiba transport_id:1
emulator-5554          offline transport_id:2
R58M123                unauthorized usb:1-2 transport_id:3
????????????           {refused} usb:1-3 transport_id:4
"""
    assert read_devices(text) == [
        PIXEL,
        Attached("emulator-5554", "offline"),
        Attached("R58M123", "unauthorized"),
        Attached("????????????", "no permissions"),
    ]


def test_chooses_by_serial_prefix_or_model() -> None:
    listed = [PIXEL, OTHER, NEXUS]
    assert choose(listed, "39021FXYZ1") == OTHER
    assert choose(listed, "39021FD") == PIXEL
    assert choose(listed, "nexus 6") == NEXUS
    assert choose([PIXEL], None) == PIXEL


def test_a_whole_serial_is_not_ambiguous_where_another_begins_with_it() -> None:
    longer = Attached(PIXEL.serial + "9", "device", "Pixel_8")
    assert choose([longer, PIXEL], PIXEL.serial) == PIXEL


def test_an_ambiguous_name_names_all_that_it_fits() -> None:
    for which in ("39021F", "Pixel_8"):
        with pytest.raises(UserError, match=f"android:{which}: fits several .*39021FDJH0.*39021FXYZ1"):
            choose([PIXEL, OTHER, NEXUS], which)


def test_several_phones_and_none_named() -> None:
    with pytest.raises(UserError, match=r"several phones are attached .*39021FDJH0.*ABC.*android:SERIAL"):
        choose([PIXEL, NEXUS], None)


def test_one_usable_phone_needs_no_name() -> None:
    assert choose([Attached("X", "offline"), NEXUS], None) == NEXUS


def test_a_wrong_name_says_what_is_attached() -> None:
    with pytest.raises(UserError, match="android:Z: no such phone; attached: ABC"):
        choose([NEXUS], "Z")


def test_no_phone(phones: Fleet) -> None:
    with pytest.raises(DeviceError, match="no phone is attached; connect one by USB") as raised:
        choose(attached(), None)
    assert raised.value.exit_code == 3


def test_lists_phones_of_one_prefix(phones: Fleet) -> None:
    first, second = phones.add(), phones.add("nexus6")
    listed = attached()
    assert {(p.serial, p.state, p.model) for p in listed} == {
        (first.serial, "device", "Pixel_8"),
        (second.serial, "device", "Nexus_6"),
    }
    with pytest.raises(UserError, match="fits several"):
        choose(listed, "127.0.0.1:")
    assert choose(listed, "Nexus 6").serial == second.serial


def test_an_unauthorized_phone(phones: Fleet) -> None:
    phone = phones.add(faults=["unauthorized"])
    with pytest.raises(DeviceError, match="is unauthorized; unlock the phone and accept"):
        choose(attached(), None)
    with pytest.raises(DeviceError, match="unlock the phone and accept"):
        Phone(phone.serial).shell("echo")


def test_adb_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("ANDROID_HOME", raising=False)
    monkeypatch.delenv("ANDROID_SDK_ROOT", raising=False)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    with pytest.raises(DeviceError, match="adb: not found; install Android's platform-tools"):
        attached()


def test_adb_of_the_android_sdk_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "platform-tools" / "adb"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ANDROID_HOME", str(tmp_path))
    assert adb.adb_program() == str(program)


def test_an_adb_server_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "adb"
    program.write_text("#!/bin/sh\necho 'cannot bind: no such port' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    with pytest.raises(DeviceError, match=r"server cannot be started .*cannot bind.*; try `adb start-server`"):
        attached()


@pytest.mark.parametrize("kind", ["pixel8", "nexus6"])
def test_a_command_has_an_exit_code_with_the_shell_protocol_and_without(phones: Fleet, kind: str) -> None:
    phone = Phone(phones.add(kind).serial)
    assert phone.shell("echo one; echo two") == adb.Result(0, "one\ntwo\n", "")
    failed = phone.shell(f"cat {HOME}/none")
    assert failed.code == 1
    assert "No such file" in failed.out + failed.err
    with pytest.raises(DeviceError, match=r"`ls .*none` failed with exit code 1 \(ls: .*No such file"):
        phone.run(f"ls {HOME}/none")


@pytest.mark.parametrize("kind", ["pixel8", "nexus6"])
def test_a_program_under_way_takes_lines_and_gives_lines(phones: Fleet, kind: str) -> None:
    handset = phones.add(kind)
    program = handset.folder / "tmp" / "double"
    program.write_text('#!/bin/sh\necho ready\nwhile read line; do echo "$line$line"; done\necho end >&2\nexit 3\n')
    program.chmod(0o755)
    phone = Phone(handset.serial)
    with phone.stream(f"{HOME}/double") as stream:
        assert stream.read_line(10) == "ready"
        stream.write("ab")
        assert stream.read_line(10) == "abab"
    wait_for_end_of(f"{handset.folder}/tmp/double")


@pytest.mark.parametrize("kind", ["pixel8", "nexus6"])
def test_a_file_goes_there_and_back(phones: Fleet, tmp_path: Path, kind: str) -> None:
    handset = phones.add(kind)
    phone, source = Phone(handset.serial), tmp_path / "file"
    source.write_bytes(bytes(range(256)) * 3000)
    seen: list[int] = []
    phone.push(source, f"{HOME}/a/file", 0o700, seen.append)
    assert seen[-1] == source.stat().st_size
    assert seen == sorted(seen)
    assert (handset.folder / "tmp/a/file").stat().st_mode & 0o777 == 0o700
    back = io.BytesIO()
    phone.pull(f"{HOME}/a/file", back)
    assert back.getvalue() == source.read_bytes()


def test_a_file_that_is_not_there_cannot_be_pulled(phones: Fleet) -> None:
    phone = Phone(phones.add().serial)
    with pytest.raises(DeviceError, match=r"none cannot be pulled \(.*No such file"):
        phone.pull(f"{HOME}/none", io.BytesIO())


def test_no_space_on_the_phone(phones: Fleet, tmp_path: Path) -> None:
    handset = phones.add(faults=["full"])
    (tmp_path / "file").write_bytes(bytes(300_000))
    with pytest.raises(DeviceError, match=r"file cannot be pushed \(.*No space left on device\); free space on the"):
        Phone(handset.serial).push(tmp_path / "file", f"{HOME}/file", 0o600)
    assert handset.files == []


def test_nothing_outside_of_the_sandbox_can_be_reached(phones: Fleet, tmp_path: Path) -> None:
    handset = phones.add()
    phone, victim = Phone(handset.serial), tmp_path / "victim"
    victim.write_text("untouched")
    for path in (str(victim), f"{HOME}/../../../{victim}", f"{HOME}/.."):
        assert phone.shell(f"rm -rf {path}").code
        with pytest.raises(DeviceError):
            phone.push(victim, f"{path}/new", 0o600)
    (handset.folder / "tmp" / "link").symlink_to(tmp_path)
    assert phone.shell(f"rm -rf {HOME}/link/victim").code
    assert victim.read_text() == "untouched"


@pytest.mark.slow
def test_a_command_that_never_answers(phones: Fleet) -> None:
    phone = Phone(phones.add(faults=["hang=getprop"]).serial)
    started = time.monotonic()
    with pytest.raises(DeviceError, match="`getprop` gave no answer within 1 s") as raised:
        phone.shell("getprop", timeout_s=1)
    assert not isinstance(raised.value, DeviceLost)  # the phone itself answers
    assert time.monotonic() - started < 20


def test_a_line_without_end_is_not_read_for_ever(phones: Fleet) -> None:
    handset = phones.add()
    program = handset.folder / "tmp" / "endless"
    program.write_text("#!/bin/sh\nhead -c 3000000 /dev/zero\necho\n")
    program.chmod(0o755)
    with (
        pytest.raises(DeviceError, match="the command printed over 1 MB without a line's end"),
        Phone(handset.serial).stream(f"{HOME}/endless") as stream,
    ):
        stream.read_line(20)


@pytest.mark.slow
def test_a_phone_that_hangs_is_lost(phones: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb, "ALIVE_S", 1.0)
    monkeypatch.setattr(adb, "ANSWER_S", 1.0)
    phone = Phone(phones.add(faults=["hang="]).serial)  # whatever the command
    assert not phone.answers()
    with pytest.raises(DeviceLost, match="no answer within 1 s; plug the phone in again"):
        phone.shell("getprop", timeout_s=1)
    with pytest.raises(DeviceLost):
        phone.wait(1)


def test_waiting_for_a_phone_ends_where_somebody_stops_it(phones: Fleet) -> None:
    handset = phones.add()
    phone = Phone(handset.serial)
    handset.end()
    with pytest.raises(Stopped):
        phone.wait(20, stopped=lambda: True)


def test_a_connection_that_breaks_in_a_push_comes_back(phones: Fleet, tmp_path: Path) -> None:
    handset = phones.add(faults=["drop-push=100000"])
    phone = Phone(handset.serial)
    (tmp_path / "file").write_bytes(bytes(2_000_000))
    with pytest.raises(DeviceLost, match="the connection is gone"):
        phone.push(tmp_path / "file", f"{HOME}/file", 0o600)
    phone.wait(60)
    phone.push(tmp_path / "file", f"{HOME}/file", 0o600)
    assert (handset.folder / "tmp/file").stat().st_size == 2_000_000


@pytest.mark.slow
def test_a_phone_that_stays_away(phones: Fleet) -> None:
    handset = phones.add()
    phone = Phone(handset.serial)
    assert phone.shell("echo").code == 0
    handset.end()
    with pytest.raises(DeviceLost):
        phone.shell("echo")
    with pytest.raises(DeviceLost, match="did not come back within 2 s"):
        phone.wait(2)


def test_something_else_that_listens_where_the_adb_server_should(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"HTTP/1.0 400 Bad request\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.getsockname()[1]))
        thread = threading.Thread(target=answer, args=[server], daemon=True)
        thread.start()
        with pytest.raises(DeviceError, match=r"adb: its server does not answer \(.*\); try `adb kill-server`"):
            attached()
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)
