"""The format between this machine and the runner app: what is written is read, and what is broken is passed over."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from devices import protocol
from devices.apple import jobs
from devices.apple.jobs import Job, Ready, TimedRound, read_events

READY = {"event": "ready", "protocol": 1, "launch": "a", "app": "1", "system": "iOS 18.1", "model": "iPhone15,2"}


def lines(*events: dict[str, object]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def timed(number: int) -> dict[str, object]:
    return {"event": "round", "number": number, "times_ms": [1.5, None]}


def test_the_events_of_one_launch_are_those_from_its_ready_to_the_next() -> None:
    other = {**READY, "launch": "b"}
    content = lines(READY, timed(0)) + b"\n" + lines(other, timed(1), timed(2))
    assert [event.number for event in read_events(content, "b") if isinstance(event, TimedRound)] == [1, 2]
    assert [event.number for event in read_events(content, "a") if isinstance(event, TimedRound)] == [0]
    assert len(read_events(content)) == 5
    assert read_events(content, "c") == []


def test_what_is_not_known_is_passed_over() -> None:
    content = lines({**READY, "new": [1]}, {"event": "weather", "sun": 1}, {"event": "round"}, timed(0))
    ready, found = read_events(content + b"\xff\xfe{\n")
    assert isinstance(ready, Ready)
    assert isinstance(found, TimedRound)
    assert found.times_ms == [1.5, None]


@given(cut=st.integers(0, 400))
def test_a_file_that_is_cut_anywhere_gives_whole_events_only(cut: int) -> None:
    content = lines(READY, timed(0), timed(1), {"event": "ended"})
    whole = read_events(content)
    found = read_events(content[:cut])
    assert found == whole[: content[:cut].count(b"\n")]


@given(junk=st.binary(max_size=60))
def test_junk_never_raises_and_never_hides_the_lines_around_it(junk: bytes) -> None:
    found = read_events(lines(READY, timed(0)) + junk + b"\n" + lines(timed(1)))
    assert found[:2] == read_events(lines(READY, timed(0)))
    assert found[-1] == read_events(lines(timed(1)))[0]


def test_a_job_tells_the_constants_of_the_protocol() -> None:
    job = json.loads(Job(job="j", candidates=[], total=0, repeats=1, iterations=1, first_round=0).model_dump_json())
    assert job["rules"]["window"] == protocol.WINDOW
    assert job["rules"]["warmup_limit"] == protocol.WARMUP_LIMIT
    assert job["protocol"] == jobs.PROTOCOL


def test_a_package_is_packed_as_plain_files_with_short_headers(tmp_path: Path) -> None:
    package = tmp_path / "m.mlpackage"
    (package / "Data/com.apple.CoreML/weights").mkdir(parents=True)
    (package / "Manifest.json").write_text("{}")
    (package / "Data/com.apple.CoreML/weights/weight.bin").write_bytes(bytes(700))
    packed = jobs.pack(package, tmp_path / "m.tar")
    with tarfile.open(packed) as archive:
        found = {member.name: (member.size, member.type) for member in archive}
    assert found == {
        "Data/com.apple.CoreML/weights/weight.bin": (700, tarfile.REGTYPE),
        "Manifest.json": (2, tarfile.REGTYPE),
    }


def test_a_file_is_copied_as_it_is(tmp_path: Path) -> None:
    program = tmp_path / "model.pte"
    program.write_bytes(b"x")
    assert jobs.pack(program, tmp_path / "other") == program
