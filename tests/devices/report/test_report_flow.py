"""A report of a flow run: its figures beside the baselines', its sample pairs, its training; alone and among others."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import devices
from devices import store
from devices.records import Profile
from tests.devices.report.test_report import HOSTILE, Page, write_run
from toolkit.errors import UserError
from toolkit.flow_pictures import error_picture, flow_picture

PAIRS, HEIGHT, WIDTH = 2, 32, 40


def scores(epe: float, fl: float = 12.5) -> dict[str, float]:
    return {"pixels": 10, "epe": epe, "fl_percent": fl, **{f"within_{limit}_percent": 50 for limit in (1, 3, 5)}}


def report(epe: float, **groups: Any) -> dict[str, Any]:
    found = dict.fromkeys(("s0_10", "s10_40", "s40", "visible", "occluded"))
    return {**found, "all": scores(epe), "visible": scores(epe / 2), **groups}


def samples() -> dict[str, torch.Tensor]:
    """Pairs that move by 4 pixels, where the student says 5; a column without truth, and a row that is occluded."""
    tensors = {}
    for number in range(PAIRS):
        truth = torch.zeros(2, HEIGHT, WIDTH)
        truth[0] = 4
        visible, valid = (torch.ones(HEIGHT, WIDTH, dtype=torch.bool) for _ in range(2))
        visible[0], valid[:, 0] = False, False
        flow = truth + torch.tensor([1.0, 0]).view(2, 1, 1)
        image = torch.full((1, 3, HEIGHT, WIDTH), 0.5)
        parts = {"image1": image, "image2": image.clone(), "truth": truth, "student": flow}
        tensors |= {f"{name}.{number}": t for name, t in {**parts, "visible": visible, "valid": valid}.items()}
    return tensors


def write_flow_run(path: Path, name: str = "tiny-flow", **changes: Any) -> Path:
    evaluation: dict[str, Any] = {
        "pairs": 24,
        "student": report(1.5, s0_10=scores(0.25), occluded=scores(9.0)),
        "teacher": None,
        "baselines": {"zero": report(8.0), "dis-medium": report(2.0, all=scores(2.0, 20.0))},
        "student_params": 295_499,
    }
    path.mkdir()
    (path / "recipe.yaml").write_text(yaml.safe_dump({"name": name, "description": f"about {name}"}))
    (path / "evaluation.json").write_text(json.dumps({**evaluation, **changes}))
    rows = [
        {"step": 1, "lr": 1e-3, "flow": 0.71875, "distillation": 0.34375},
        {"step": 2, "epe": 21.0625, "fl_percent": 90.0},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_file(samples(), path / "samples.safetensors")
    return path


def draw(tmp_path: Path, *paths: Path) -> Page:
    return Page(devices.report(paths, tmp_path / "report.html"))


def pictures(page: Page) -> list[np.ndarray]:
    encoded = [value.partition("base64,")[2] for value in page.loads if value.startswith("data:image/")]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in encoded]


def test_the_students_figures_stand_beside_the_baselines(tmp_path: Path) -> None:
    page = draw(tmp_path, write_flow_run(tmp_path / "run"))
    assert page.row("flow")[1:] == ["EPE px", "visible", "occluded", "< 10 px", "10-40 px", "40 px +", "Fl %"]
    assert page.row("student") == ["student", "1.50", "0.75", "9.00", "0.25", "–", "–", "12.50"]
    assert page.row("dis-medium") == ["dis-medium", "2.00", "1.00", "–", "–", "–", "–", "20.00"]
    assert [row[0] for row in page.rows if row[0] == "teacher"] == []
    assert "24 held-out pairs" in page.text
    assert "about tiny-flow" in page.text


def test_the_headline_is_the_error_its_share_of_the_others_and_the_parameters(tmp_path: Path) -> None:
    page = draw(tmp_path, write_flow_run(tmp_path / "run", teacher=report(1.0)))
    assert "1.50 pxmean end-point erroron 24 held-out pairs; Fl-all 12.5 %" in page.text
    assert "75.0%of DIS-medium's end-point error1.50 of 2.00 px" in page.text
    assert "150.0%of the teacher's end-point error1.50 of 1.00 px" in page.text
    assert "0.30 Mparameters of the student" in page.text
    assert page.row("teacher")[1] == "1.00"


def test_every_loss_and_the_held_out_error_are_drawn_over_steps(tmp_path: Path) -> None:
    page = draw(tmp_path, write_flow_run(tmp_path / "run"))
    assert all(figure in page.source for figure in ("0.71875", "0.34375", "21.0625"))
    assert all(name in page.source for name in ("flow loss", "distillation loss", "held-out EPE"))
    assert "PSNR" not in page.text


def test_sample_pairs_show_frame_truth_flow_and_errors_in_one_scale(tmp_path: Path) -> None:
    page = draw(tmp_path, write_flow_run(tmp_path / "run"))
    _, *drawn = pictures(page)  # the first one is the legend
    assert len(drawn) == 4 * PAIRS
    frame, truth, student, errors = drawn[:4]
    tensors = samples()
    assert abs(frame.astype(int) - 128).max() <= 2  # it is a JPEG
    assert (truth[:, 0] == 0).all()
    np.testing.assert_array_equal(student, flow_picture(tensors["student.0"], radius=4))
    np.testing.assert_array_equal(truth[:, 1:], flow_picture(tensors["truth.0"], radius=4)[:, 1:])
    expected = error_picture(tensors["student.0"], tensors["truth.0"], tensors["valid.0"])
    np.testing.assert_array_equal(errors, expected)
    assert "held-out pair 2" in page.text
    assert "EPE 1.00 px, visible 1.00 px, occluded 1.00 px; full colour from 4.0 px on" in page.text


def test_a_run_without_samples_is_shown_without_pictures_and_a_damaged_file_is_refused(tmp_path: Path) -> None:
    run = write_flow_run(tmp_path / "run")
    (run / "samples.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"samples\.safetensors: damaged"):
        draw(tmp_path, run)
    (run / "samples.safetensors").unlink()
    page = draw(tmp_path, run)
    assert "img" not in page.tags
    assert page.row("student")


def test_a_student_that_gives_no_numbers_has_a_page_without_shares(tmp_path: Path) -> None:
    page = draw(tmp_path, write_flow_run(tmp_path / "run", student=report(float("inf"))))
    assert page.row("student")[1] == "inf"
    assert "end-point error1.50" not in page.text
    assert "of DIS-medium's" not in page.text


def test_a_flow_run_its_bundle_records_and_a_run_of_videos_share_one_page(
    make_bundle: Any, make_record: Any, tmp_path: Path
) -> None:
    store.write_json(Profile(records=[make_record()]), tmp_path / "records.json")
    sources = [make_bundle(), tmp_path / "records.json", write_run(tmp_path / "video")]
    page = draw(tmp_path, write_flow_run(tmp_path / "run"), *sources)
    assert [value[:40] for value in page.loads if not value.startswith("data:image/")] == []
    assert "1.50 px" in page.text
    assert page.row("student", "12,345")[2] == "27.00"
    assert page.row("student", "1.50")
    assert page.row("onnx-fp32")[5] == "pass"
    assert page.row("student · ONNX Runtime")


def test_names_of_a_flow_run_cannot_bring_markup_onto_the_page(tmp_path: Path) -> None:
    run = write_flow_run(tmp_path / "run", name=HOSTILE, baselines={HOSTILE: report(2.0)})
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "lr": 1, f"</script>{HOSTILE}": 1.0}) + "\n")
    page = draw(tmp_path, run)
    assert HOSTILE not in page.source
    assert page.row(HOSTILE)[1] == "2.00"
    assert page.tags.count("img") == 1 + 4 * PAIRS
