"""Evaluation: scores of one clip by hand, a run's student beside its teacher, and what does not fit is refused."""

from __future__ import annotations

import math
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import recipes
from recipes import side_by_side
from recipes.evaluate import Strip, score
from recipes.evaluation_folder import FILES
from tests.conftest import RecipeWriter, write_clip
from toolkit import students
from toolkit.errors import UserError
from toolkit.evaluation import read_evaluation
from toolkit.schema import validate_json
from toolkit.side_by_side import SideBySide


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy, for evaluation writes into the run."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def moving(frames: int = 4) -> torch.Tensor:
    values = np.random.default_rng(0).uniform(-0.5, 0.5, (3, frames, 16, 16))
    return torch.from_numpy(values.astype(np.float32))


def test_an_identical_clip_is_perfect() -> None:
    scores = score(moving(), moving())
    assert scores.psnr_db == scores.tpsnr_db == math.inf
    assert scores.ssim == pytest.approx(1.0, abs=1e-5)
    assert scores.lpips is None


def test_a_constant_offset_costs_psnr_by_the_closed_form_and_no_temporal_consistency() -> None:
    scores = score(moving() + 0.1, moving())
    assert scores.psnr_db == pytest.approx(20 * math.log10(2 / 0.1), abs=1e-3)
    assert scores.tpsnr_db is not None
    assert scores.tpsnr_db > 130  # but for rounding


def test_freezing_a_clip_lowers_its_temporal_consistency() -> None:
    clip = moving()
    noisy = clip + 0.05 * torch.from_numpy(np.random.default_rng(1).choice([-1.0, 1.0], clip.shape)).float()
    frozen = score(clip[:, :1].expand_as(clip), clip)
    assert frozen.tpsnr_db is not None
    assert frozen.tpsnr_db < (score(noisy, clip).tpsnr_db or 0) - 5


def test_the_runs_own_data_give_the_scores_that_distillation_ended_with(run: Path) -> None:
    result = recipes.evaluate_run(run)
    ended = read_evaluation(run)
    assert len(result.clips) == ended.clips == 1
    assert result.clips[0].start == 12
    for ours, theirs in ((result.student.mean, ended.student), (result.teacher.mean, ended.teacher)):
        assert theirs is not None
        assert ours.psnr_db == pytest.approx(theirs.psnr_db, abs=1e-3)
        assert ours.ssim == pytest.approx(theirs.ssim, abs=1e-4)
        assert ours.tpsnr_db == pytest.approx(theirs.tpsnr_db, abs=1e-3)
    assert (result.student.params, result.teacher.params) == (ended.student_params, ended.teacher_params)
    assert result.student.interval["psnr_db"] is None


def test_it_writes_what_it_returns_and_two_pictures(run: Path, clip_file: Path) -> None:
    result = recipes.evaluate_run(run, data=clip_file)
    folder = run / "evaluation"
    assert {path.name for path in folder.iterdir()} == FILES
    assert validate_json(SideBySide, folder / "evaluation.json") == result
    assert (result.frames, result.size) == (5, (48, 64))
    assert [clip.start for clip in result.clips] == [0, 5, 10, 15]
    interval = result.student.interval["psnr_db"]
    assert interval is not None
    assert interval.low <= result.student.mean.psnr_db <= interval.high
    assert Image.open(folder / "worst.png").size == Image.open(folder / "median.png").size == (3 * 64, 3 * 48)


def test_the_worst_clip_is_drawn_as_truth_teacher_student(run: Path, clip_file: Path) -> None:
    result = recipes.evaluate_run(run, data=clip_file)
    worst = min(result.clips, key=lambda clip: clip.student.psnr_db)
    picture = np.asarray(Image.open(run / "evaluation" / "worst.png")).astype(float) / 127.5 - 1
    truth, teacher, student = (torch.from_numpy(picture[:, at : at + 64]) for at in (0, 64, 128))

    def psnr(drawn: torch.Tensor) -> float:
        frames = ((drawn - truth).reshape(3, -1) ** 2).mean(dim=1)
        return float((10 * torch.log10(4 / frames)).mean())

    assert psnr(teacher) == pytest.approx(worst.teacher.psnr_db, abs=0.5)  # three of five frames
    assert psnr(student) == pytest.approx(worst.student.psnr_db, abs=0.5)


def test_frames_size_and_folder_can_be_named(run: Path, tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    (clips / "deep").mkdir(parents=True)
    write_clip(clips / "a.mp4", frames=7)
    write_clip(clips / "deep" / "b.mp4", frames=3)
    result = recipes.evaluate_run(run, data=clips, frames=3, size=(32, 40), output=tmp_path / "out" / "here")
    assert [(clip.file, clip.start) for clip in result.clips] == [("a.mp4", 0), ("a.mp4", 3), ("deep/b.mp4", 0)]
    assert result.size == (32, 40)
    assert (tmp_path / "out" / "here" / "evaluation.md").is_file()
    assert not (run / "evaluation").exists()


def test_a_shard_is_evaluated_by_the_names_of_its_members(run: Path, clip_file: Path, tmp_path: Path) -> None:
    shard = tmp_path / "shard-000.tar"
    with tarfile.open(shard, "w") as archive:
        archive.add(clip_file, "deep/clip.mp4")
    for data in (shard, tmp_path / "shard-{000..000}.tar"):
        result = recipes.evaluate_run(run, data=data, frames=9)
        assert [(clip.file, clip.start) for clip in result.clips] == [
            ("shard-000.tar/deep/clip.mp4", 0),
            ("shard-000.tar/deep/clip.mp4", 9),
        ]
    assert result.student.mean == recipes.evaluate_run(run, data=clip_file, frames=9).student.mean


def test_single_frames_have_no_temporal_consistency(run: Path, clip_file: Path) -> None:
    result = recipes.evaluate_run(run, data=clip_file, frames=1, size=(16, 16))
    assert len(result.clips) == 20
    assert result.student.mean.tpsnr_db is None
    assert "tPSNR" not in (run / "evaluation" / "evaluation.md").read_text()


def test_clips_are_read_one_at_a_time(run: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    windows, score_one = side_by_side.windows, side_by_side.score
    monkeypatch.setattr(side_by_side, "windows", lambda spec: (events.append("read") or w for w in windows(spec)))
    monkeypatch.setattr(side_by_side, "score", lambda *a: events.append("score") or score_one(*a))
    recipes.evaluate_run(run, data=clip_file)
    assert events[:6] == ["read", "score", "score"] * 2


def test_a_second_evaluation_replaces_the_first(run: Path, clip_file: Path) -> None:
    recipes.evaluate_run(run)
    recipes.evaluate_run(run, data=clip_file)
    assert len(validate_json(SideBySide, run / "evaluation" / "evaluation.json").clips) == 4


def test_a_failure_half_way_leaves_the_earlier_evaluation(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes.evaluate_run(run)
    before = {path: path.read_bytes() for path in (run / "evaluation").iterdir()}

    def full(_strip: Strip, path: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Strip, "write", full)
    with pytest.raises(OSError, match="No space"):
        recipes.evaluate_run(run)
    assert {path: path.read_bytes() for path in (run / "evaluation").iterdir()} == before
    assert not list(run.glob(".evaluation*"))


def test_a_folder_with_other_files_is_never_replaced(run: Path, tmp_path: Path) -> None:
    files = sorted(run.rglob("*"))
    with pytest.raises(UserError, match=r"holds other files .* --output"):
        recipes.evaluate_run(run, output=run)
    assert sorted(run.rglob("*")) == files
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        recipes.evaluate_run(run, output=tmp_path / "file")


def test_a_student_that_gives_no_numbers_is_scored_as_such(
    run: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = students.load(run)
    for parameter in student.parameters():
        parameter.data.fill_(math.nan)
    students.save(student, run)
    result = recipes.evaluate_run(run, data=clip_file)
    assert math.isnan(result.student.mean.psnr_db)
    assert result.retention_percent == {"psnr_db": None, "ssim": None}


def test_a_run_that_is_not_finished_is_refused(run: Path) -> None:
    (run / "student.json").unlink()
    with pytest.raises(UserError, match=r"holds no finished student; .* --resume"):
        recipes.evaluate_run(run)


def test_a_run_that_trained_a_teacher_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipes.load_recipe("tiny-video-vae").to_yaml())
    with pytest.raises(UserError, match="trained a teacher and has no student"):
        recipes.evaluate_run(tmp_path)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"frames": 21}, r"20 frames are fewer than the 21 of a clip; .*--frames"),
        ({"frames": 4}, r"data frames: 4 .*--frames"),
        ({"size": (64, 64)}, r"48x64 are smaller than the crop 64x64; .*--size"),
        ({"size": (20, 64)}, r"data size: 20x64 .*--size"),
        ({"size": (8, 8)}, r"8x8 are too small for SSIM.*--size"),
    ],
)
def test_data_that_do_not_fit_are_refused_before_anything_is_decoded(
    run: Path, clip_file: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, object], reason: str
) -> None:
    monkeypatch.setattr(side_by_side, "windows", lambda _spec: pytest.fail("it was decoded"))
    with pytest.raises(UserError, match=rf"clip\.mp4: .*{reason}"):
        recipes.evaluate_run(run, data=clip_file, **asked)  # type: ignore[arg-type]
    assert not (run / "evaluation").exists()


@pytest.mark.slow
def test_a_run_with_an_embedded_teacher_is_evaluated(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    def embedded(recipe: dict[str, dict[str, object]]) -> None:
        recipe["teacher"]["weights"] = "asset:tiny-video-vae"
        recipe["student"] = {"kind": "turbo_vaed", "preset": "demo"}
        recipe["objective"].pop("features")

    recipe = recipes.load_recipe(write_recipe(embedded), ["phases.0.steps=1", "phases.0.warmup=0"])  # type: ignore[arg-type]
    recipes.distill(recipe, tmp_path / "run")
    assert recipes.evaluate_run(tmp_path / "run").teacher.mean.psnr_db > 5
