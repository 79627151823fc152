"""What the report shows of profiles: every time in its order, operators, devices side by side, quality, history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import devices
from devices import store
from devices.journal import Journal
from devices.records import Failure, OperatorTime, Placement, Profile, ProfileRecord, Repeat
from devices.report.overview import front
from devices.sessions import Began, Failed, Loaded, Round
from tests.command_line import handheld, refusal
from tests.devices.report.report_page import Page
from tests.devices.report.test_report import write_run
from tests.devices.test_live import plan
from toolkit.errors import UserError

EARLY, LATE = "2026-01-02T03:04:05+00:00", "2026-02-03T04:05:06+00:00"


@pytest.fixture
def page(tmp_path: Path) -> Any:
    """The report about a profile of these records and failures, and about further paths."""

    def draw(records: list[ProfileRecord], failures: list[Failure] | None = None, *paths: Path, **more: Any) -> Page:
        profile = Profile(records=records, failures=failures or [], errors=more.pop("errors", []))
        store.write_json(profile, tmp_path / "profile.json")
        devices.report([*paths, tmp_path / "profile.json"], tmp_path / "page.html", **more)
        return Page(tmp_path / "page.html")

    return draw


def latency(record: ProfileRecord, *repeats: Repeat) -> ProfileRecord:
    return record.model_copy(update={"latency": record.latency.model_copy(update={"repeats": list(repeats)})})


def phone(record: ProfileRecord, **facts: Any) -> dict[str, Any]:
    """The device of a phone's record, and a session of its own."""
    changes = {"kind": "android", "name": "serial", "model": "Example Phone", "system": "Android 15", **facts}
    return {"device": record.device.model_copy(update=changes), "session": "c" * 32}


def failure(record: ProfileRecord, target: str, kind: str, reason: str) -> Failure:
    names = record.model_dump(include={"session", "created", "bundle", "role", "artifact_sha256"})
    return Failure(**names, device=record.device, target=target, kind=kind, reason=reason)  # type: ignore[arg-type]


def test_every_time_is_drawn_outliers_too(page: Any, make_record: Any) -> None:
    times = [10.0, 11.0, 10.5, 250.0]
    ((box,), layout), *_ = page([make_record(times=times)]).plots()
    assert box["type"] == "box"
    assert box["boxpoints"] == "all"
    assert box["x"] == times
    assert layout["xaxis"]["type"] == "log", "what differs by more than 20 times is drawn by the logarithm"


def test_candidates_of_one_role_and_runtime_are_told_apart(page: Any, make_record: Any) -> None:
    records = [make_record(), make_record(target="onnx-fp16"), make_record(bundle="other"), make_record(bundle="other")]
    captions = [text.partition(" · 10.0 ms")[0] for text in page(records).captions() if "ms" in text]
    assert captions == [
        "student · onnx-fp32 · ONNX Runtime · tiny",
        "student · onnx-fp16",
        "student · onnx-fp32 · ONNX Runtime · other · no. 3",
        "student · onnx-fp32 · ONNX Runtime · other · no. 4",
    ]


def test_times_stand_in_their_order_with_pauses_and_temperatures(page: Any, make_record: Any) -> None:
    repeats = (
        Repeat(iterations_ms=[1.0, 2.0, 3.0], started="2026-01-02T03:04:05+00:00", temperature_c=30.0),
        Repeat(
            iterations_ms=[4.0, 5.0],
            started="2026-01-02T03:04:45+00:00",
            waited_s=12.25,
            cooled=False,
            temperature_c=33.5,
            clock_mhz=1800,
        ),
    )
    drawn = page([latency(make_record(), *repeats)])
    first, second, warmth = next(data for data, _ in drawn.plots() if len(data) == 3)
    assert (first["y"], second["y"], warmth["y"]) == ([1.0, 2.0, 3.0], [4.0, 5.0], [30.0, 33.5])
    assert second["x"][0] > first["x"][-1]
    assert drawn.row("1", "0.0") == ["1", "0.0", "30.0", "–", "03:04:05"]
    assert drawn.row("2", "12.2 (not cooled)") == ["2", "12.2 (not cooled)", "33.5", "1800", "03:04:45"]
    assert "did not cool to its first temperature" in drawn.text


def test_operators_are_drawn_by_unit_and_kind_and_say_how_they_were_obtained(page: Any, make_record: Any) -> None:
    operators = [
        OperatorTime(name="a", kind="Conv", unit="XNNPACK", ms=6.0, calls=2, obtained="measured"),
        OperatorTime(name="b", kind="Conv", unit="XNNPACK", ms=2.0, calls=1, obtained="measured"),
        OperatorTime(name="c", kind="Relu", unit="CPU", ms=2.0, calls=1, obtained="measured"),
    ]
    drawn = page([make_record(operators=operators)])
    ((tree,), _) = drawn.plots()[-1]
    tiles = {tile: (parent, ms) for tile, parent, ms in zip(tree["ids"], tree["parents"], tree["values"], strict=True)}
    assert tiles["XNNPACK/Conv"] == ("XNNPACK", 8.0)
    assert tiles["CPU/Relu"] == ("CPU", 2.0)
    assert "10.0 ms in operators, measured" in tree["labels"]
    assert "<b>XNNPACK</b> 8.0 ms, 80%" in tree["labels"]
    colours = dict(zip(tree["ids"], tree["marker"]["colors"], strict=True))
    assert colours["XNNPACK/Conv"] != colours["CPU/Relu"]


def test_operators_without_a_time_make_no_picture(page: Any, make_record: Any) -> None:
    operators = [OperatorTime(name="a", kind="Conv", unit="CPU", ms=0.0, calls=1, obtained="measured")]
    drawn = page([make_record(operators=operators)])
    assert all(data[0]["type"] != "treemap" for data, _ in drawn.plots())
    assert drawn.row("a", "CPU")


def test_placements_are_planned_and_no_times(page: Any, make_record: Any) -> None:
    placement = [Placement(kind="conv", unit="neural engine", supported=["CPU"], operators=3, cost_share=0.75)]
    record = make_record(placement=placement, threads=None, unit="all", runtime="Core ML 15.0")
    drawn = page([record])
    assert drawn.row("conv") == ["conv", "neural engine", "3", "75.0 %", "CPU"]
    assert "planned before running, neither traced nor timed" in " ".join(drawn.text.split())
    assert "None threads" not in drawn.text


def test_what_may_run_a_candidate_tells_it_from_others(page: Any, make_record: Any) -> None:
    there = {**phone(make_record(), kind="browser"), "threads": None}
    wasm = make_record(**there, unit="wasm", runtime="ONNX Runtime Web (wasm, 4 threads) 1.30.0", times=[30.0])
    nodes = {"webgpu": 41, "wasm": 3}
    gpu = make_record(**there, unit="webgpu", runtime="ONNX Runtime Web (webgpu) 1.30.0", times=[12.0], nodes=nodes)
    drawn = page([wasm, gpu, make_record()])
    assert [row[1] for row in drawn.cards("student · ONNX Runtime Web (wasm, 4 threads)")] == ["onnx-fp32, wasm"]
    assert [row[1] for row in drawn.cards("student · ONNX Runtime Web (webgpu)")] == ["onnx-fp32, webgpu"]
    assert "student · onnx-fp32 · webgpu · 12.0 ms" in drawn.captions()
    assert "operators of one inference by execution provider: webgpu 41, wasm 3" in drawn.text
    cells = {row[0]: row[1] for row in drawn.cards() if len(row) == 3 and "tiny" in row[0]}
    assert cells["student · onnx-fp32, wasmtiny"] == "30.0 measured2026-01-02"
    assert cells["student · onnx-fp32, webgputiny"] == "12.0 measured2026-01-02"


@pytest.mark.parametrize(
    ("kind", "emulated", "obtained", "meaning"),
    [
        ("host", False, "measured", "figures of this machine, not of a phone"),
        ("android", False, "measured", "figures of this device, from a program of its own"),
        ("apple", False, "measured", "figures of this device."),
        ("browser", False, "measured", "figures of this browser"),
        ("android", True, "emulated", "times are not those of the real device"),
        ("apple", False, "estimated", "computed, not timed"),
    ],
)
def test_the_page_says_what_the_figures_mean_by_the_kind_of_device(
    page: Any, make_record: Any, kind: str, emulated: bool, obtained: str, meaning: str
) -> None:
    device = make_record().device.model_copy(update={"kind": kind, "emulated": emulated})
    text = " ".join(page([make_record(device=device, obtained=obtained)]).text.split())
    assert meaning in text
    assert ("not of a phone" in text) is (kind == "host")
    assert f"{obtained} on Example CPU ({kind}, Linux 6.1{', emulated' if emulated else ''})" in text


def test_each_session_shows_the_state_that_its_figures_depend_on(page: Any, make_record: Any) -> None:
    facts = {
        "clock_mode": "fixed",
        "clock_mhz": 1704.0,
        "temperature_c": 31.25,
        "charging": False,
        "others_share": 0.04,
        "details": {"chip": "Example G3", "battery": "83 %"},
    }
    text = " ".join(page([make_record(**phone(make_record(), **facts))]).text.split())
    for stated in (
        "clocksheld for the session, 1,704 MHz at the start",
        "temperature at the start31.2 °C",
        "poweron battery",
        "taken by other programs4 % of the processors",
        "chipExample G3",
        "battery83 %",
    ):
        assert stated in text
    assert "powernot told" in " ".join(page([make_record()]).text.split())


def test_what_could_not_be_measured_is_said_with_its_reason(page: Any, make_record: Any) -> None:
    record = make_record()
    failed = failure(record, "coreml-fp16", "failed", "Core ML runs on Apple devices only")
    lost = failure(record, "reference", "lost", "the cable")
    alone = failure(make_record(session="d" * 32), "onnx-fp32", "failed", "no room")
    text = " ".join(page([record], [failed, lost, alone], errors=["iphone: no tunnel"]).text.split())
    assert "coreml-fp16 of tiny (student) failed: Core ML runs on Apple devices only" in text
    assert "reference of tiny (student) was not measured, for the device was lost: the cable" in text
    assert "Nothing could be measured on Example CPU" in text
    assert "iphone: no tunnel" in text


def test_devices_and_targets_stand_side_by_side_and_empty_cells_say_why(page: Any, make_record: Any) -> None:
    host, there = make_record(times=[10.0]), phone(make_record())
    android = make_record(times=[25.0], **there)
    emulated = make_record(
        times=[400.0], **{**phone(make_record(), model="QEMU", emulated=True), "session": "e" * 32}, obtained="emulated"
    )
    failed = failure(android, "executorch-xnnpack-fp32", "failed", "out of memory")
    lost = failure(emulated, "executorch-xnnpack-fp32", "lost", "it went away")
    drawn = page([host, make_record(target="reference", times=[30.0]), android, emulated], [failed, lost])
    (header,) = drawn.cards("artifact")
    assert header[1:] == [
        "Example CPUhost, Linux 6.1",
        "Example Phoneandroid, Android 15",
        "QEMUandroid, Android 15, emulated",
    ]
    cells = {row[0]: row[1:] for row in drawn.cards() if len(row) == 4 and "tiny" in row[0]}
    assert cells["student · onnx-fp32tiny"] == [
        "10.0 measured2026-01-02",
        "25.0 measured2026-01-02",
        "400.0 emulated2026-01-02",
    ]
    assert cells["student · executorch-xnnpack-fp32tiny"] == ["not run", "failedout of memory", "lostit went away"]
    assert cells["student · referencetiny"] == ["30.0 measured2026-01-02", "not run", "not run"]


def test_a_cell_shows_the_last_session_and_a_later_failure_beside_it(page: Any, make_record: Any) -> None:
    old, new = make_record(times=[10.0]), make_record(times=[12.0], session="b" * 32, created=LATE)
    (row,) = [row for row in page([old, new]).cards() if row[0] == "student · onnx-fp32tiny"]
    assert row[1] == "12.0 measured2026-02-03"
    broken = failure(make_record(session="b" * 32, created=LATE), "onnx-fp32", "failed", "wrong output")
    (row,) = [row for row in page([old], [broken]).cards() if row[0] == "student · onnx-fp32tiny"]
    assert row[1] == "10.0 measured2026-01-02failedwrong output"


def test_no_ratio_is_drawn_across_sessions(page: Any, make_record: Any) -> None:
    teacher = make_record(role="teacher", session="b" * 32, created=LATE, times=[40.0])
    text = page([make_record(times=[10.0]), teacher]).text
    assert "as fast as" not in text
    assert "4.0x" not in text


def test_one_session_needs_no_overview(page: Any, make_record: Any) -> None:
    text = page([make_record(), make_record(target="reference")]).text
    for heading in ("Devices and targets", "Quality against latency", "History"):
        assert heading not in text


def test_quality_stands_against_latency_with_the_front(page: Any, make_record: Any, tmp_path: Path) -> None:
    records = [
        make_record(bundle="tiny-run", times=[10.0]),
        make_record(bundle="tiny-run", target="reference", times=[30.0]),
        make_record(bundle="tiny-run-teacher", role="teacher", times=[90.0]),
    ]
    drawn = page(records, None, write_run(tmp_path / "run"))
    assert "Quality against latency" in drawn.text
    (points,) = [data for data, _ in drawn.plots() if data[0].get("name") == "Pareto front"]
    assert [(point["x"], point["y"]) for point in points[1:]] == [([10.0], [27.0]), ([30.0], [27.0]), ([90.0], [30.0])]
    assert (points[0]["x"], points[0]["y"]) == ([10.0, 90.0], [27.0, 30.0])


def test_an_artifact_has_one_colour_in_the_figures_of_all_devices(page: Any, make_record: Any, tmp_path: Path) -> None:
    box = make_record(bundle="tiny-run")
    other = box.device.model_copy(update={"name": "other", "model": "Other CPU"})
    records = [
        *(make_record(bundle="tiny-run", target=target) for target in ("reference", "executorch-xnnpack-fp32")),
        *(make_record(bundle="tiny-run", target=t, device=other) for t in ("executorch-xnnpack-fp32", "onnx-fp32")),
        box,
    ]
    plots = page(records, None, write_run(tmp_path / "run")).plots()
    colours: dict[str, set[str]] = {}
    for data, _ in plots:
        for trace in data:
            if trace.get("mode") == "markers" and "PSNR" in trace.get("hovertemplate", ""):
                colours.setdefault(trace["name"], set()).add(trace["marker"]["color"])
    assert len(colours) == 3
    assert all(len(found) == 1 for found in colours.values())
    assert len({next(iter(found)) for found in colours.values()}) == 3


def test_a_single_point_or_unknown_quality_draws_no_front(page: Any, make_record: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert "Quality against latency" not in page([make_record(bundle="tiny-run")], None, run).text
    others = [make_record(bundle="another"), make_record(bundle="another", target="reference")]
    assert "Quality against latency" not in page(others, None, run).text


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    assert front([(5.0, 1.0), (1.0, 1.0), (3.0, 2.0), (2.0, 0.5), (3.0, 1.5)]) == [(1.0, 1.0), (3.0, 2.0)]
    assert front([]) == []


def test_history_shows_p50_with_its_interval_and_what_changed(page: Any, make_record: Any) -> None:
    old = make_record(times=[10.0, 12.0, 11.0])
    new = make_record(times=[8.0, 9.0, 8.5], session="b" * 32, created=LATE, runtime="ONNX Runtime 1.24.0")
    drawn = page([new, old, make_record(target="reference")])
    assert "History" in drawn.text
    (line,) = next(data for data, layout in drawn.plots() if data[0].get("error_y"))
    assert line["x"] == [EARLY, LATE]
    assert line["y"] == [11.0, 8.5]
    assert line["error_y"]["array"][0] > 0
    assert line["error_y"]["arrayminus"][0] > 0
    assert "ONNX Runtime 1.23.2" in line["text"][0]
    assert "ONNX Runtime 1.24.0" in line["text"][1]


def test_what_was_not_measured_alike_is_no_history(page: Any, make_record: Any) -> None:
    elsewhere = make_record(session="b" * 32, created=LATE, threads=1)
    assert "History" not in page([make_record(), elsewhere]).text


def test_a_store_gives_its_last_session_whole_and_earlier_ones_as_a_line(make_record: Any, tmp_path: Path) -> None:
    sessions = [
        make_record(times=[10.0 + n], session=str(n) * 32, created=f"2026-01-0{n + 1}T00:00:00+00:00") for n in range(4)
    ]
    store.add(sessions, f"sqlite:///{tmp_path / 'all.db'}")
    devices.report([tmp_path / "all.db"], tmp_path / "page.html")
    drawn = Page(tmp_path / "page.html")
    assert [row[2] for row in drawn.cards("student · ONNX Runtime")] == ["13.0"]
    assert "holds 3 earlier sessions" in drawn.text
    assert [row[-1] for row in drawn.cards() if row[0].startswith("2026-01-0")] == [
        f"student onnx-fp32 {10 + n}.0" for n in range(3)
    ]


def test_of_a_store_only_sessions_about_the_named_bundles_are_shown(
    make_record: Any, make_bundle: Any, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    other = make_record(bundle="another", times=[77.0], session="b" * 32)
    store.add([make_record(times=[10.0]), make_record(role="teacher", bundle="its teacher", times=[40.0]), other], url)
    devices.report([make_bundle()], tmp_path / "page.html", url)
    drawn = Page(tmp_path / "page.html")
    assert [row[2] for row in drawn.cards("student · ONNX Runtime")] == ["10.0"]
    assert drawn.row("teacher · ONNX Runtime")[2] == "40.0"
    assert "77.0" not in drawn.text


def test_a_session_that_is_in_a_file_and_in_the_store_is_shown_once(
    page: Any, make_record: Any, tmp_path: Path
) -> None:
    record = make_record(times=[10.0])
    store.add([record], f"sqlite:///{tmp_path / 'all.db'}")
    drawn = page([record], None, tmp_path / "all.db")
    assert len(drawn.cards("student · ONNX Runtime")) == 1


def test_failures_are_found_in_the_store(tmp_path: Path, make_record: Any) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    record = make_record()
    with Journal(url).session(plan(targets=("onnx-fp32", "coreml-fp16"))) as session:
        session.add(
            Loaded(candidate=0, runtime="R 1", load_ms=1, first_ms=1, warmup_ms=[1, 1, 1], parity=record.parity)
        )
        session.add(Began(repeat=0, started=EARLY, waited_s=0, cooled=True, temperature_c=None, clock_mhz=None))
        session.add(Round(times_ms=[10.0, None]))
        session.add(Failed(candidate=1, reason="no such runtime"))
    devices.report([], tmp_path / "page.html", url)
    assert "coreml-fp16 of tiny (student) failed: no such runtime" in Page(tmp_path / "page.html").text


def test_an_absent_or_empty_store_is_refused_and_none_is_made(make_record: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.db: no such file"):
        devices.report([], tmp_path / "page.html", f"sqlite:///{tmp_path / 'absent.db'}")
    assert not (tmp_path / "absent.db").exists()
    store.add([], f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(UserError, match=r"empty\.db: holds no records.*handheld profile"):
        devices.report([tmp_path / "empty.db"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_command_line_takes_a_store(
    make_record: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store.add([make_record()], "sqlite:///all.db")
    assert handheld("report", "--store", "sqlite:///all.db", "--output", "a.html") == 0
    assert handheld("report", "all.db", "--output", "b.html") == 0
    assert [Page(tmp_path / name).cards("student · ONNX Runtime") != [] for name in ("a.html", "b.html")] == [True] * 2
    assert "nothing to report on" in refusal(capsys, 2, "report")


def test_hostile_names_are_text_in_plots_too(page: Any, make_record: Any) -> None:
    hostile = '</script><a href="x">&'
    operators = [OperatorTime(name=hostile, kind=hostile, unit=hostile, ms=1.0, calls=1, obtained="measured")]
    drawn = page([make_record(bundle=hostile, target=hostile, operators=operators)])
    assert hostile not in drawn.source
    data = [trace for traces, _ in drawn.plots() for trace in traces]
    shown = [{key: value for key, value in trace.items() if key not in {"ids", "parents"}} for trace in data]
    notes = [note["text"] for _, layout in drawn.plots() for note in layout.get("annotations", [])]
    assert "<a " not in json.dumps(shown)
    assert "<a " not in json.dumps(notes)
    assert "&lt;a href" in json.dumps(notes)
