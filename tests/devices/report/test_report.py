"""The report: one page that needs no network, with the given figures, how each was obtained, and nothing invented."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

import devices
from devices import store
from devices.records import Profile
from tests.devices.report.report_page import Page
from toolkit.errors import CheckFailed, UserError
from toolkit.parity import Parity, Tolerance

HOSTILE = '<img src=x onerror=alert(1)> & "co"'


def write_run(path: Path, name: str = "tiny-run", **changes: Any) -> Path:
    evaluation: dict[str, Any] = {
        "clips": 2,
        "frames": 34,
        "student": {"psnr_db": 27.0, "ssim": 0.8125},
        "teacher": {"psnr_db": 30.0, "ssim": 0.9125},
        "student_params": 12_345,
        "teacher_params": 123_450,
    }
    path.mkdir()
    (path / "recipe.yaml").write_text(yaml.safe_dump({"name": name, "description": f"about {name}"}))
    (path / "evaluation.json").write_text(json.dumps({**evaluation, **changes}))
    rows = [{"step": 1, "reconstruction": 0.71875}, {"step": 2, "psnr_db": 21.0625}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    video = torch.linspace(-1, 1, 3 * 3 * 8 * 8).reshape(3, 3, 8, 8).half()
    tensors = {f"{column}.0": video.clone() for column in ("truth", "teacher", "student")}
    save_file({"latent.0": torch.zeros(1, 2, 2, 1, 1), **tensors}, path / "samples.safetensors")
    return path


def parity(how: str, passed: bool = True, **changes: Any) -> Parity:
    fields = {"max_abs": 0.5, "scale": 4.0, "psnr_db": 43.25, "tolerance": Tolerance(max_share=0.2)}
    return Parity.model_validate({"how": how, "runtime": "Some 1.0", "passed": passed, **fields, **changes})


@pytest.fixture
def draw(tmp_path: Path) -> Any:
    """Writes the report about the given paths and reads it back."""

    def to_page(*paths: Path) -> Page:
        output = tmp_path / "report" / "index.html"
        assert devices.report(paths, output) == output
        return Page(output)

    return to_page


@pytest.fixture
def records_file(make_record: Any, tmp_path: Path) -> Path:
    """A teacher of p50 40 ms and a student of p50 10 ms in one session, and a student of another session."""
    records = [
        make_record(times=[39.0, 40.0, 44.0], role="teacher", bundle="teacher"),
        make_record(times=[9.0, 10.0, 11.5]),
        make_record(times=[1.0], session="b" * 32, obtained="emulated"),
    ]
    store.write_json(Profile(records=records), tmp_path / "records.json")
    return tmp_path / "records.json"


def test_page_loads_nothing_from_anywhere(draw: Any, make_bundle: Any, records_file: Path, tmp_path: Path) -> None:
    page = draw(write_run(tmp_path / "run"), make_bundle(), records_file)
    assert page.loads
    assert [value[:40] for value in page.loads if not value.startswith("data:image/")] == []
    assert "link" not in page.tags
    assert "iframe" not in page.tags
    assert "@import" not in page.styles
    assert "url(" not in page.styles
    assert "Plotly.newPlot" in page.source
    assert len(page.source) > 1_000_000


def test_page_of_nothing_is_still_a_page(draw: Any) -> None:
    assert "h1" in draw().tags


def test_run_shows_both_decoders_scores_and_what_the_student_kept(draw: Any, tmp_path: Path) -> None:
    page = draw(write_run(tmp_path / "run"))
    assert page.row("student") == ["student", "12,345", "27.00", "0.8125"]
    assert page.row("teacher") == ["teacher", "123,450", "30.00", "0.9125"]
    assert "10.0%of the teacher decoder's parameters" in page.text
    assert "90.0%of the teacher's PSNR27.00 of 30.00 dB on 34 held-out frames" in page.text
    assert "tiny-run" in page.text
    assert "about tiny-run" in page.text
    assert "0.71875" in page.source
    assert "21.0625" in page.source


def test_run_shows_its_sample_frames_side_by_side(draw: Any, tmp_path: Path) -> None:
    page = draw(write_run(tmp_path / "run"))
    assert "held-out clip 1, frame 1" in page.text
    assert "held-out clip 1, frame 2" in page.text
    assert page.tags.count("img") == 2 * 3 * 2


def test_run_without_samples_is_shown_without_pictures(draw: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "samples.safetensors").unlink()
    page = draw(run)
    assert "img" not in page.tags
    assert page.row("student")


def test_run_without_teacher_shows_the_student_alone(draw: Any, tmp_path: Path) -> None:
    page = draw(write_run(tmp_path / "run", teacher=None, teacher_params=None))
    assert page.row("student")[2] == "27.00"
    assert [row for row in page.rows if row[0] == "teacher"] == []
    assert "of the teacher" not in page.text


def test_two_runs_of_one_recipe_each_show_their_own_training(draw: Any, tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second")
    (second / "metrics.jsonl").write_text('{"step": 1, "reconstruction": 0.34375}\n')
    page = draw(first, second)
    assert "0.71875" in page.source
    assert "0.34375" in page.source


def test_bundle_shows_each_artifacts_facts_and_how_its_parity_was_found(draw: Any, make_bundle: Any) -> None:
    bundle = make_bundle(
        parities={
            "onnx-fp32": parity("executed"),
            "coreml-fp16": parity("reference-evaluated", tolerance=Tolerance(min_psnr_db=40)),
            "executorch-xnnpack-fp32": parity("executed", passed=False, max_abs=None, psnr_db=None),
        }
    )
    page = draw(bundle)
    size = f"{(bundle / 'model.onnx').stat().st_size / 1e6:.2f}"
    facts = [size, "4", "48", "–"]
    assert page.row("onnx-fp32") == ["onnx-fp32", *facts, "pass", "1.2e-01", "43.2", "≤ 0.2 of scale", "executed"]
    assert page.row("coreml-fp16")[-2:] == ["PSNR ≥ 40 dB", "reference-evaluated"]
    failed = page.row("executorch-xnnpack-fp32")
    assert failed[5:8] == ["FAIL", "–", "–"]
    assert "2 of 3artifacts proved equal to PyTorch" in page.text
    assert "onnx-fp32 executed; coreml-fp16 reference-evaluated" in page.text
    assert (
        "12,345 parameters; 2.34 GMAC and 5.6 MB of live activations a call (both estimated from shapes)" in page.text
    )
    assert "latent 2×4×3×3 → frames 2×3×3×3" in page.text


def test_bundle_whose_output_is_all_zeros_is_shown(draw: Any, make_bundle: Any) -> None:
    page = draw(make_bundle(parities={"onnx-fp32": parity("executed", max_abs=0.0, scale=0.0, psnr_db=None)}))
    assert page.row("onnx-fp32")[5] == "pass"


def test_bundle_shows_where_it_came_from(draw: Any, make_bundle: Any) -> None:
    page = draw(make_bundle(command="handheld export runs/a --target onnx-fp32"))
    assert page.row("command")[1] == "handheld export runs/a --target onnx-fp32"
    assert re.search(r"\btorch \d+\.\d+", page.row("versions")[1])
    assert re.fullmatch(r"sha256 [0-9a-f]{64}", page.row("model.onnx")[1])


def test_changed_manifest_is_not_reported(draw: Any, make_bundle: Any) -> None:
    bundle = make_bundle()
    manifest = bundle / "manifest.json"
    manifest.write_text(manifest.read_text().replace("98.76", "99.76"))
    with pytest.raises(CheckFailed, match=r"manifest\.json"):
        draw(bundle)


def test_records_show_latency_memory_and_operators_of_each_candidate(draw: Any, records_file: Path) -> None:
    page = draw(records_file)
    student, other = (row for row in page.rows if row[0] == "student · ONNX Runtime")
    assert student[:3] == ["student · ONNX Runtime", "onnx-fp32", "10.0"]
    assert re.fullmatch(r"\d+\.\d to \d+\.\d", student[3])
    assert student[4:] == [
        "11.2",
        "11.5",
        "10.2 ± 1.3",
        "30",
        "20",
        "3",
        "42",
    ]
    assert other[2] == "1.0"
    assert page.row("teacher · ONNX Runtime")[2] == "40.0"
    assert ["Conv", "CPU", "7.25", "3", ""] in page.rows
    assert "not steady" not in page.text


def test_records_say_how_they_were_obtained_and_on_what(draw: Any, records_file: Path) -> None:
    text = " ".join(draw(records_file).text.split())
    where = "Example CPU (host, Linux 6.1), 2 threads"
    assert f"measured on {where}, 3 interleaved rounds in 1 repeat, one session" in text
    assert f"emulated on {where}, 1 interleaved rounds in 1 repeat, one session" in text
    assert "figures of this machine, not of a phone" in text
    assert "Repeats of rounds" in text


def test_speed_is_compared_within_one_session_only(draw: Any, records_file: Path) -> None:
    text = draw(records_file).text
    assert "4.0xthe speed of the teacher's decoder in ONNX Runtime" in text
    assert "measured, p50, 2 threads, one session" in text
    assert text.count("as fast as the teacher's decoder") == 1
    assert "the student is 4.00x as fast" in text


def test_unsteady_and_unmeasured_are_said_to_be_so(draw: Any, make_record: Any, tmp_path: Path) -> None:
    record = make_record()
    unsteady = record.latency.model_copy(update={"steady": False})
    store.write_json(
        Profile(records=[make_record(latency=unsteady, memory=None, operators=[])]), tmp_path / "records.json"
    )
    row = draw(tmp_path / "records.json").row("student · ONNX Runtime")
    assert row[-2:] == ["3 (not steady)", "–"]


@pytest.mark.parametrize(("load", "warned"), [(0.75, True), (0.05, False), (None, False)])
def test_figures_of_a_busy_machine_come_with_a_caution(
    draw: Any, make_record: Any, tmp_path: Path, load: float | None, warned: bool
) -> None:
    device = make_record().device.model_copy(update={"others_share": load})
    store.write_json(Profile(records=[make_record(device=device)]), tmp_path / "records.json")
    page = draw(tmp_path / "records.json")
    assert ("Caution" in page.text) is warned
    assert ("other programs took 75 % of the processors" in page.text) is warned


def test_names_cannot_bring_markup_onto_the_page(draw: Any, make_bundle: Any, make_record: Any, tmp_path: Path) -> None:
    device = make_record().device.model_copy(update={"model": HOSTILE})
    operator = make_record().operators[0].model_copy(update={"name": HOSTILE})
    runtime = f"</script>{HOSTILE} 1.0"
    record = make_record(device=device, operators=[operator], runtime=runtime)
    store.write_json(Profile(records=[record]), tmp_path / "r.json")
    page = draw(
        write_run(tmp_path / "run", name=HOSTILE),
        make_bundle(command=HOSTILE, parities={"onnx-fp32": parity("executed")}),  # no manifest has a hostile target
        tmp_path / "r.json",
    )
    assert HOSTILE not in page.source
    assert page.row("command")[1] == HOSTILE
    assert page.row(HOSTILE, "CPU")
    assert f"measured on {HOSTILE}" in " ".join(page.text.split())
    assert page.tags.count("img") == 12
    assert "x" not in page.loads


def test_report_replaces_an_earlier_one(draw: Any, make_bundle: Any, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("old")
    assert "Artifacts: tiny" in draw(make_bundle()).text
    assert len(list((tmp_path / "report").iterdir())) == 1


@pytest.mark.parametrize("name", ["absent", "folder", "notes.txt"])
def test_path_that_is_nothing_known_is_refused_and_no_page_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    with pytest.raises(UserError, match=rf"{name}: no run directory, bundle, profile store \(\.db\) or \.json file"):
        devices.report([tmp_path / name], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_json_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}x")
    with pytest.raises(UserError, match=r"other\.json: not a file of profile records"):
        devices.report([tmp_path / "other.json"], tmp_path / "report.html")


@pytest.mark.parametrize("name", ["evaluation.json", "metrics.jsonl"])
def test_unfinished_run_is_refused_with_how_to_go_on(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(UserError, match=r"run: the run is not finished.*--resume"):
        devices.report([run], tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "content"),
    [("evaluation.json", "{}"), ("evaluation.json", "[]"), ("recipe.yaml", "description: x"), ("recipe.yaml", "[]")],
)
def test_run_whose_files_hold_something_else_is_refused(tmp_path: Path, name: str, content: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(UserError, match="run"):
        devices.report([run], tmp_path / "report.html")
