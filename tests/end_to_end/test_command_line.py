"""The command line on real files: the way through, and one clear line with the right exit code for every mistake."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import handheld, refusal
from tests.conftest import RecipeWriter, write_clip
from toolkit.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_whole_way_from_a_recipe_to_a_report(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    run, student, teacher = tmp_path / "run", tmp_path / "student", tmp_path / "teacher"
    records, page = tmp_path / "records.json", tmp_path / "report.html"
    assert handheld("distill", write_recipe(), "--output", run) == 0
    assert handheld("export", run, "--target", "onnx-fp32", "--output", student) == 0
    assert handheld("export", run, "--teacher", "--target", "onnx-fp32", "--output", teacher) == 0
    assert handheld("verify", student) == 0
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    profile = ["profile", student, teacher, "--iterations", "2", "--json", records, "--store", store]
    assert handheld(*profile) == 0
    assert handheld("report", run, student, teacher, records, "--output", page) == 0
    found = {(record["role"], record["target"]) for record in json.loads(records.read_text())["records"]}
    assert found == {(role, target) for role in ("student", "teacher") for target in ("reference", "onnx-fp32")}
    assert "the speed of the teacher" in page.read_text()
    assert handheld("compare", records, records, "--fail-if-slower", "5%") == 0
    slower = tmp_path / "slower.json"
    content = json.loads(records.read_text())
    for record in content["records"]:
        for repeat in record["latency"]["repeats"]:
            repeat["iterations_ms"] = [2 * time for time in repeat["iterations_ms"]]
    slower.write_text(json.dumps(content))
    assert handheld("compare", records, slower) == 0
    assert handheld("compare", records, slower, "--fail-if-slower", "5%") == 1
    assert handheld("compare", slower, records, "--fail-if-slower", "0.05") == 0
    assert handheld("compare", records, slower, "--fail-if-slower", "much") == 2
    assert handheld("compare", records, student) == 2


def test_clips_encoded_once_are_trained_from(
    write_recipe: RecipeWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents, run, recipe = tmp_path / "latents", tmp_path / "run", write_recipe()
    assert handheld("encode", recipe, "--clips", "3", "--output", latents) == 0
    assert "3 encoded clips" in capsys.readouterr().out
    assert "add --resume" in refusal(capsys, 2, "encode", recipe, "--clips", "3", "--output", latents)
    assert handheld("encode", recipe, "--clips", "3", "--output", latents, "--resume", "--json") == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["clips"] == 3
    train = f"data.train={{kind: latents, path: {latents}}}"
    assert handheld("distill", recipe, "--output", run, "--set", train) == 0
    assert (run / "student.safetensors").is_file()


def test_verify_prints_how_each_artifact_was_proved(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert handheld("verify", bundle, "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert results["onnx-fp32"]["how"] == results["executorch-xnnpack-fp32"]["how"] == "executed"
    assert results["coreml-fp16"]["how"] == ("executed" if sys.platform == "darwin" else "reference-evaluated")


FACTORIES = """
import torch
from torch import nn


class Svd(nn.Module):
    def forward(self, x):
        return x + torch.linalg.svd(x)[1].sum()


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


def plain():
    return nn.Sequential(nn.Conv3d(3, 4, 1), nn.SiLU()), (torch.randn(1, 3, 2, 4, 4),)


def refused():
    return nn.Sequential(nn.Conv3d(3, 4, 1), Svd()), (torch.randn(1, 3, 2, 4, 4),)


def branching():
    return nn.Sequential(nn.Conv3d(3, 4, 1), Branch()), (torch.randn(1, 3, 2, 4, 4),)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of factories in the current directory; gives its name."""
    (tmp_path / "factories_of_mine.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "factories_of_mine", raising=False)
    return "factories_of_mine"


@pytest.mark.slow
def test_inspect_prints_what_is_planned_and_what_is_estimated(
    factories: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert handheld("inspect", "--module", f"{factories}:plain", "--target", "executorch-xnnpack-fp32") == 0
    shown = capsys.readouterr().out
    assert "100.0% XNNPACK in 1" in shown
    assert "planned" in shown
    assert "estimated from shapes: 16 parameters" in shown


@pytest.mark.slow
def test_inspect_refuses_an_operator_by_name_after_the_tables(
    factories: str, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect = ["inspect", "--module", f"{factories}:refused", "--target", "onnx-fp32"]
    assert handheld(*inspect) == 2
    captured = capsys.readouterr()
    assert "aten.linalg_svd.default" in captured.out
    assert "handheld: refused: refused: aten.linalg_svd.default in layer '1'." in captured.err
    assert "Traceback" not in captured.err
    assert handheld(*inspect, "--json") == 2
    (obstacle,) = json.loads(capsys.readouterr().out)["obstacles"]
    assert (obstacle["operator"], obstacle["layer"]) == ("aten.linalg_svd.default", "1")


def test_a_branch_on_the_data_is_one_clear_line(factories: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, 2, "inspect", "--module", f"{factories}:branching", "--target", "onnx-fp32")
    assert "Branch.forward in layer '1'" in line


@pytest.mark.slow
def test_inspect_claims_no_graph_that_it_did_not_write(
    factories: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--target", "onnx-fp32", "--graph", tmp_path / "graph.json"]
    assert handheld("inspect", "--module", f"{factories}:branching", *options) == 2
    assert "graph.json: the model is not captured" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "graph.json").exists()
    assert handheld("inspect", "--module", f"{factories}:plain", *options) == 0
    assert "graph.json, for Model Explorer" in capsys.readouterr().out
    assert (tmp_path / "graph.json").is_file()


def test_a_graph_that_cannot_be_written_is_refused_before_the_model_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, 2, "inspect", "--module", "no_such_module:build", "--graph", tmp_path)
    assert str(tmp_path) in line


def test_inspect_reads_a_run_and_a_bundle(finished_run: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert handheld("inspect", finished_run, "--target", "onnx-fp32", "--json") == 0
    assert json.loads(capsys.readouterr().out)["obstacles"] == []
    assert handheld("inspect", bundle) == 0
    shown = capsys.readouterr().out
    assert "executorch-xnnpack-fp32" in shown
    assert "estimated" in shown
    assert "latents: the decoder takes raw latents, normalised * std + mean" in shown
    assert handheld("inspect", bundle, "--json") == 0
    assert {artifact["how"] for artifact in json.loads(capsys.readouterr().out)} == {"planned"}


def test_inspect_takes_one_thing(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "name one thing" in refusal(capsys, 2, "inspect")
    assert "name one thing" in refusal(capsys, 2, "inspect", bundle, "--module", "a:b")
    assert "neither a run directory nor a bundle" in refusal(capsys, 2, "inspect", tmp_path)
    assert "PKG.MOD:FACTORY" in refusal(capsys, 2, "inspect", "--module", "a.py")


def test_verify_names_whichever_file_had_a_byte_flipped(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    assert len(files) >= 8
    for path in files:
        original = path.read_bytes()
        for position in (0, len(original) // 2, len(original) - 1):
            changed = bytearray(original)
            changed[position] ^= 0x20
            path.write_bytes(changed)
            assert path.name in refusal(capsys, 1, "verify", bundle)
        path.write_bytes(original)
    assert handheld("verify", bundle) == 0


def test_verify_names_a_missing_file(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle / "sample.npz").unlink()
    assert "sample.npz" in refusal(capsys, 1, "verify", bundle)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "handheld export" in refusal(capsys, 2, "verify", tmp_path)


def test_a_missing_video_is_refused(
    write_recipe: RecipeWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(lambda r: r["data"]["train"].update(path="no/such/clip.mp4"))
    assert "no/such/clip.mp4: no such video" in refusal(capsys, 2, "distill", path, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["random bytes", "cut off"])
def test_a_corrupt_video_is_refused(
    damage: str, write_recipe: RecipeWriter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_clip(tmp_path / "bad.mp4")
    content = clip.read_bytes()
    clip.write_bytes(os.urandom(2000) if damage == "random bytes" else content[: len(content) // 2])
    path = write_recipe(lambda r: r["data"]["train"].update(path=str(clip)))
    assert "bad.mp4" in refusal(capsys, 2, "distill", path, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe_key_is_refused(write_recipe: RecipeWriter, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_recipe(lambda r: r["trainer"].update(bacth=1))
    assert "did you mean 'batch'" in refusal(capsys, 2, "recipes", "validate", path)


def test_a_wrong_recipe_type_is_refused(write_recipe: RecipeWriter, capsys: pytest.CaptureFixture[str]) -> None:
    assert "trainer.batch" in refusal(capsys, 2, "distill", write_recipe(), "--set", "trainer.batch=lots")


def test_an_unknown_target_is_refused(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(capsys, 2, "export", finished_run, "--target", "onnx-fp23", "--output", tmp_path / "bundle")
    assert "Did you mean 'onnx-fp32'" in line
    assert not (tmp_path / "bundle").exists()


def test_a_malformed_shape_is_refused(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "5x32x32" in refusal(capsys, 2, "export", finished_run, "--target", "onnx-fp32", "--shape", "5x32")


def test_a_model_without_latent_statistics_cannot_take_normalised_latents(
    factories: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", "--module", f"{factories}:plain", "--target", "onnx-fp32", "--output", tmp_path / "bundle"]
    assert "not known here" in refusal(capsys, 2, *command, "--normalized-latents")
    assert not (tmp_path / "bundle").exists()


def test_a_run_without_a_student_is_refused(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "student.json").unlink()
    assert "no finished student" in refusal(capsys, 2, "export", run, "--target", "onnx-fp32")
    assert not (run / "bundle").exists()


def test_an_unwritable_output_is_refused(
    write_recipe: RecipeWriter, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert "file" in refusal(capsys, 2, "distill", write_recipe(), "--output", blocked / "run")
    line = refusal(capsys, 2, "export", finished_run, "--target", "onnx-fp32", "--output", blocked / "bundle")
    assert "you can write" in line


def test_a_report_on_a_changed_bundle_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle / "README.md").write_text("another card")
    assert "README.md" in refusal(capsys, 1, "report", bundle, "--output", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_leaves_no_half_written_bundle(finished_run: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the write fails half-way, as on a full one."""

    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "toolkit.cli.main", "export", str(finished_run), "--target", "onnx-fp32"]
    result = subprocess.run(
        [*command, "--output", str(tmp_path / "bundle")],
        cwd=ROOT,
        preexec_fn=limit_files,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert "free space" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_traceback_is_shown_only_on_request(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no bundle"):
        main(["-vv", "verify", str(tmp_path)])


def test_doctor_finds_everything_that_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert handheld("doctor", "--json") == 0
    findings = json.loads(capsys.readouterr().out)
    assert all(finding["works"] for finding in findings if finding["required"])
    assert all(finding["remedy"] for finding in findings if not finding["works"])


def test_recipes_are_listed_shown_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert handheld("recipes", "list", "--json") == 0
    names = [recipe["name"] for recipe in json.loads(capsys.readouterr().out)]
    assert "demo-turbo-vaed" in names
    assert handheld("recipes", "show", "demo-turbo-vaed") == 0
    shown = capsys.readouterr().out
    copy = tmp_path / "mine.yaml"
    assert handheld("recipes", "copy", "demo-turbo-vaed", copy) == 0
    assert copy.read_text() == shown
    assert "exists" in refusal(capsys, 2, "recipes", "copy", "demo-turbo-vaed", copy)
    assert handheld("recipes", "validate", copy) == 0


def test_the_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert handheld("--version") == 0
    assert capsys.readouterr().out.strip() == f"handheld {version('handheld')}"


def test_evaluate_sets_the_student_beside_its_teacher(
    finished_run: Path, clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate = ["evaluate", finished_run, "--data", clip_file, "--size", "32x48", "--output", tmp_path / "out"]
    assert handheld(*evaluate) == 0
    shown = capsys.readouterr().out
    assert "4 clips of 5 frames, 32x48" in shown
    assert "student / teacher" in shown
    assert handheld(*evaluate, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert printed["retention_percent"].keys() == {"psnr_db", "ssim"}


@pytest.mark.parametrize("size", ["32", "32x", "0x32", "32x32x32"])
def test_a_malformed_size_is_refused(size: str, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "256x256" in refusal(capsys, 2, "evaluate", finished_run, "--size", size)


def test_evaluate_refuses_what_it_cannot_score(
    finished_run: Path, clip_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no run directory" in refusal(capsys, 2, "evaluate", tmp_path)
    assert "--pairs is for optical flow" in refusal(capsys, 2, "evaluate", finished_run, "--pairs", "2")
    assert "--frames" in refusal(capsys, 2, "evaluate", finished_run, "--data", clip_file, "--frames", "99")
    assert "no such video" in refusal(capsys, 2, "evaluate", finished_run, "--data", tmp_path / "absent.mp4")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(finished_run / "recipe.yaml", unfinished)
    assert "--resume" in refusal(capsys, 2, "evaluate", unfinished)
