"""The command line on optical flow: from a recipe to a proved bundle, and the lines that say what flow has not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.command_line import handheld, refusal
from toolkit import students
from toolkit.bundle import read_manifest
from toolkit.evaluation import FlowEvaluation

STUDENT: dict[str, Any] = {
    "stem": 8,
    "widths": [8, 8],
    "layers": [0, 0],
    "matched": [8, 8],
    "estimators": [[8], [8]],
    "refinement": 8,
    "carried": 2,
    "radius": 1,
    "dilations": [1],
}


def scenes(start: int, stop: int) -> dict[str, Any]:
    textures = {"sources": ["asset:big_buck_bunny.mp4"], "side": 96, "video_frames": 2, "range": [start, stop]}
    return {"kind": "synthetic_flow", "textures": textures, "size": [64, 64]}


RECIPE = {
    "name": "tiny-flow",
    "student": {"kind": "compact_flow", "preset": "s", **STUDENT},
    "data": {"train": scenes(0, 20), "validation": {**scenes(105, 110), "pairs": 2}},
    "objective": {"flow": {}},
    "phases": [{"steps": 2, "lr": 1e-3}],
    "trainer": {
        "batch": 1,
        "precision": "32-true",
        "validate_every": 1,
        "checkpoint_every": 1,
        "log_every": 1,
    },
}


@pytest.fixture(scope="module")
def flow_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of optical flow. Read only."""
    import recipes

    folder = tmp_path_factory.mktemp("flow")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    recipes.distill(recipes.load_recipe(folder / "recipe.yaml"), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_a_recipe_of_flow_ends_in_a_proved_bundle_with_its_figures(
    flow_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, records = tmp_path / "bundle", tmp_path / "records.json"
    assert handheld("export", flow_run, "--target", "onnx-fp32", "--shape", "64x64", "--output", bundle) == 0
    manifest = read_manifest(bundle)
    assert (manifest.name, manifest.model.task) == ("tiny-flow", "optical-flow")
    quality = manifest.quality
    assert isinstance(quality, FlowEvaluation)
    assert quality.student.all is not None
    card = (bundle / "README.md").read_text()
    assert f"a mean end-point error of {quality.student.all.epe:.3f} pixels" in card
    held_out = load_file(flow_run / "samples.safetensors")
    with np.load(bundle / "sample.npz") as sample:
        assert np.array_equal(sample["image2"], held_out["image2.0"].numpy())
        torch.testing.assert_close(torch.from_numpy(sample["flow"][0]), held_out["student.0"], atol=1e-4, rtol=1e-4)
    capsys.readouterr()
    assert handheld("verify", bundle) == 0
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    assert handheld("profile", bundle, "--iterations", "2", "--json", records, "--store", store) == 0
    assert {record["target"] for record in json.loads(records.read_text())["records"]} == {"reference", "onnx-fp32"}
    assert handheld("report", flow_run, bundle, records, "--output", tmp_path / "report.html") == 0
    page = (tmp_path / "report.html").read_text()
    assert "held-out pair 2" in page
    assert "image1 1×3×64×64, image2 1×3×64×64 → flow 1×2×64×64" in page
    shown = card + capsys.readouterr().out
    assert "latent" not in shown
    assert "video" not in shown


@pytest.mark.slow
def test_a_run_of_flow_is_evaluated(flow_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = ["evaluate", flow_run, "--pairs", "1", "--output", tmp_path / "out"]
    assert handheld(*evaluate) == 0
    shown = capsys.readouterr().out
    assert "1 pair, 64x64, made-up scenes" in shown
    assert "dis-medium" in shown
    assert f"evaluation: {tmp_path / 'out'}" in shown.replace("\n", "")
    assert handheld(*evaluate, "--data", "motorcycle", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [pair["name"] for pair in printed["pairs"]] == ["motorcycle"]


@pytest.mark.slow
def test_options_of_videos_and_data_of_no_layout_are_refused_for_flow(
    flow_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--frames and --size are for videos" in refusal(capsys, 2, "evaluate", flow_run, "--frames", "3")
    assert "--frames and --size are for videos" in refusal(capsys, 2, "evaluate", flow_run, "--size", "64x64")
    assert "LAYOUT:FOLDER" in refusal(capsys, 2, "evaluate", flow_run, "--data", tmp_path)
    assert "no such folder" in refusal(capsys, 2, "evaluate", flow_run, "--data", f"kitti:{tmp_path / 'none'}")
    assert "variant of kitti" in refusal(capsys, 2, "evaluate", flow_run, "--data", f"kitti:{tmp_path}:final")


@pytest.mark.slow
def test_a_run_of_flow_has_no_teacher_to_export_and_no_latents(
    flow_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = ["export", flow_run, "--target", "onnx-fp32", "--output", tmp_path / "bundle"]
    assert "has no teacher that decodes video" in refusal(capsys, 2, *export, "--teacher")
    assert "leave out --normalized-latents" in refusal(capsys, 2, *export, "--normalized-latents")
    assert handheld("inspect", flow_run, "--target", "onnx-fp32") == 0
    assert "latents" not in capsys.readouterr().out
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--shape", "3x64x96"], "name their shape as HEIGHTxWIDTH"),
        (["--shape", "16x96"], "images of 16x96 are too small; name a --shape from 32x32"),
        (["--shape", "90000x90000"], "larger than any memory"),
        (["--shape", "64"], "HEIGHTxWIDTH of images"),
        (["--mode", "stream"], "is no video"),
        (["--tiling"], "is no video"),
        (["--normalized-latents"], "takes images and no latents"),
    ],
)
def test_what_flow_cannot_be_exported_as_is_one_clear_line(
    options: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "flow.safetensors"
    save_file(students.build("compact_flow", "s").state_dict(), weights)
    export = ["export", "--student", "compact_flow:s", "--weights", weights, "--target", "onnx-fp32"]
    assert reason in refusal(capsys, 2, *export, *options, "--output", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
