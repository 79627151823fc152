"""Training optical flow: what is learned, from whom, on what; going on bit for bit; what does not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import recipes
from recipes.data.flow_sample import FlowSample
from recipes.flow_task import FlowTask
from recipes.rundir import RunDirectory
from recipes.schema import Recipe, load_recipe
from recipes.task import Losses
from recipes.trainer import Interrupted, StopRequest
from toolkit import students
from toolkit.errors import UserError
from toolkit.evaluation import FlowEvaluation, read_evaluation

SMALL = {
    "stem": 8,
    "widths": [8, 8, 16],
    "layers": [0, 0, 0],
    "matched": [8, 8, 8],
    "radius": 2,
    "estimators": [[16, 8], [16, 8], [16, 8]],
    "refinement": 8,
    "dilations": [1, 2],
}
RECIPE: dict[str, Any] = {
    "name": "flow",
    "student": {"kind": "compact_flow", "preset": "s", **SMALL},
    "data": {
        "train": {
            "kind": "synthetic_flow",
            "textures": {"sources": ["asset:big_buck_bunny.mp4"], "range": [0, 20], "video_frames": 2, "side": 128},
            "size": [64, 80],
        },
        "validation": {
            "kind": "synthetic_flow",
            "textures": {"sources": ["asset:big_buck_bunny.mp4"], "range": [110, 120], "video_frames": 2, "side": 128},
            "size": [64, 96],
            "pairs": 3,
        },
    },
    "objective": {"flow": {}},
    "phases": [{"steps": 4, "lr": 1.0e-3}],
    "trainer": {
        "batch": 1,
        "precision": "32-true",
        "ema": 0.5,
        "validate_every": 2,
        "checkpoint_every": 1,
        "log_every": 1,
    },
}

VIDEOS = {
    "kind": "video_pairs",
    "path": "asset:big_buck_bunny.mp4",
    "range": [0, 10],
    "augmentation": {"size": [48, 64]},
}
CLIPS = {"kind": "clips", "path": "x"}

Writer = Callable[..., Recipe]


@pytest.fixture
def recipe(tmp_path: Path) -> Writer:
    """The recipe above after a change to it."""

    def write(change: Callable[[dict[str, Any]], None] = lambda _recipe: None) -> Recipe:
        content = copy.deepcopy(RECIPE)
        change(content)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(content))
        return load_recipe(path)

    return write


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of flow. Read only."""
    folder = tmp_path_factory.mktemp("flow")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    recipes.distill(load_recipe(path), folder / "run")
    return folder / "run"


@pytest.mark.slow
def test_a_run_leaves_a_student_its_figures_and_pairs_to_export_with(finished: Path) -> None:
    found = read_evaluation(finished)
    assert isinstance(found, FlowEvaluation)
    assert found.pairs == 3
    assert found.student.all is not None
    assert found.student.all.pixels == 3 * 64 * 96
    assert set(found.baselines) == {"zero", "farneback", "dis-fast", "dis-medium"}
    student = students.load(finished)
    assert sum(p.numel() for p in student.parameters()) == found.student_params
    samples = load_file(finished / "samples.safetensors")
    flow = student(samples["image1.0"], samples["image2.0"])[0]
    torch.testing.assert_close(flow, samples["student.0"], rtol=0, atol=1e-4)
    assert samples["truth.1"].shape == (2, 64, 96)
    assert sorted(path.name for path in (finished / "samples").iterdir()) == ["step_0000002.png", "step_0000004.png"]


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(
    recipe: Writer, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RunDirectory.log

    def stop_at_2(self: RunDirectory, row: dict[str, float | int]) -> None:
        log(self, row)
        StopRequest.requested = row["step"] == 2

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "log", stop_at_2)
        patch.setattr(StopRequest, "requested", False)
        with pytest.raises(Interrupted, match="step 2"):
            recipes.distill(recipe(), tmp_path / "run")
    recipes.distill(recipe(), tmp_path / "run", resume=True)
    for name in ("student.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["dis", "student"])
def test_a_teacher_is_learned_from(recipe: Writer, finished: Path, tmp_path: Path, teacher: str) -> None:
    def change(content: dict[str, Any]) -> None:
        content["objective"] = {"flow": {"weight": 0}, "distillation": {"weight": 0.5}}
        content["teacher"] = {"kind": "dis", "preset": "fast"}
        if teacher == "student":
            content["teacher"] = {"kind": "student", "run": str(finished)}
            content["objective"]["features"] = [{"student": "encoder.stages.1", "teacher": "encoder.stages.1"}]
        content["phases"][0]["steps"] = 1

    found = recipes.distill(recipe(change), tmp_path / "run")
    assert isinstance(found, FlowEvaluation)
    assert found.teacher is not None
    row = yaml.safe_load((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert row.keys() == {"step", "lr", "distillation"} | ({"features"} if teacher == "student" else set())
    if teacher == "dis":
        assert found.teacher == found.baselines["dis-fast"]


@pytest.mark.slow
def test_pairs_without_a_truth_are_learned_from_by_a_teachers_flow_and_smoothness(
    recipe: Writer, tmp_path: Path
) -> None:
    def change(content: dict[str, Any]) -> None:
        content["teacher"] = {"kind": "dis", "preset": "fast"}
        content["objective"].update(distillation={}, smoothness={})
        content["phases"][0].update(steps=1, train=VIDEOS)

    recipes.distill(recipe(change), tmp_path / "run")
    row = yaml.safe_load((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["flow"] == 0
    assert row["distillation"] > 0
    assert row["smoothness"] > 0


@pytest.mark.slow
def test_phases_train_on_their_own_data_and_go_on_bit_for_bit(
    recipe: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at the end of the first phase, where the data change, and in the second one."""

    def change(content: dict[str, Any]) -> None:
        larger = {**content["data"]["train"], "size": [80, 64]}
        content["phases"] = [{"steps": 2, "lr": 1e-3}, {"steps": 2, "lr": 1e-3, "train": larger}]
        content["trainer"]["batch"] = 2

    sizes = []
    forward = FlowTask.forward

    def seen(self: FlowTask, batch: FlowSample, judged: None = None) -> Losses:
        sizes.append(tuple(batch.image1.shape))
        return forward(self, batch, judged)

    monkeypatch.setattr(FlowTask, "forward", seen)
    recipes.distill(recipe(change), tmp_path / "whole")
    assert sizes == [(2, 3, 64, 80)] * 2 + [(2, 3, 80, 64)] * 2

    log = RunDirectory.log
    for stop in (2, 3):

        def stop_there(self: RunDirectory, row: dict[str, float | int], stop: int = stop) -> None:
            log(self, row)
            StopRequest.requested = row["step"] == stop

        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "log", stop_there)
            patch.setattr(StopRequest, "requested", False)
            with pytest.raises(Interrupted, match=f"step {stop}"):
                recipes.distill(recipe(change), tmp_path / "run", resume=stop > 2)
    recipes.distill(recipe(change), tmp_path / "run", resume=True)
    for name in ("student.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
def test_both_memory_formats_train(recipe: Writer, finished: Path, tmp_path: Path, memory_format: str) -> None:
    recipes.distill(recipe(lambda content: content["trainer"].update(memory_format=memory_format)), tmp_path / "run")
    ours, theirs = (load_file(run / "student.safetensors") for run in (tmp_path / "run", finished))
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_student_starts_from_anothers_weights(recipe: Writer, finished: Path, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["student"]["start"] = str(finished)
        content["phases"] = [{"steps": 1, "lr": 1e-9}]

    recipes.distill(recipe(change), tmp_path / "run")
    before, after = (load_file(run / "student.safetensors") for run in (finished, tmp_path / "run"))
    torch.testing.assert_close(after["upsampler.weights.weight"], before["upsampler.weights.weight"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda r: r["objective"].pop("flow"), "a flow student takes flow"),
        (lambda r: r["objective"].update(ssim={}), "a flow student takes flow"),
        (lambda r: r["objective"].update(flow={"weight": 0}), "neither distillation nor features teach"),
        (lambda r: r["objective"].update(smoothness={}), "smoothness is for pairs without a truth"),
        (lambda r: r["data"].update(train=VIDEOS), "teach nothing without"),
        (lambda r: r["phases"][0].update(train=VIDEOS), "teach nothing without"),
        (
            lambda r: r["phases"][0].update(train={"kind": "clips", "path": "x"}),
            "does not learn from data of these kinds",
        ),
        (lambda r: r["objective"].update(distillation={}), "distillation and objective.features need one"),
        (lambda r: r.update(teacher={"kind": "dis"}), "need one, and only they"),
        (lambda r: r.update(teacher={"kind": "diffusers_vae", "class": "X", "weights": "y"}), "gives no optical flow"),
        (lambda r: r["data"].update(validation={"kind": "clips", "path": "x"}), "one is of videos"),
        (lambda r: r["phases"][0].update(adversarial={}), "adversarial is for videos"),
        (lambda r: r["trainer"].update(checkpoint_activations=True), "checkpoint_activations is for videos"),
        (lambda r: r["student"].update(kind="turbo_vaed", preset="demo"), "does not learn from data of these kinds"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    recipe: Writer, change: Callable[[dict[str, Any]], None], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        recipe(change)


def test_what_is_not_to_be_had_is_said_before_the_first_step(recipe: Writer, finished: Path, tmp_path: Path) -> None:
    def other_width(content: dict[str, Any]) -> None:
        content["student"].update(start=str(finished), stem=16)

    def features_of_dis(content: dict[str, Any]) -> None:
        content["teacher"] = {"kind": "dis"}
        content["objective"]["features"] = [{"student": "encoder.stages.1", "teacher": "encoder.stages.1"}]

    def too_small(content: dict[str, Any]) -> None:
        content["data"]["train"]["size"] = [24, 64]

    for change, complaint in (
        (too_small, "data.train: images of 24x64; flow takes 32x32 at least"),
        (other_width, "another configuration"),
        (features_of_dis, "only a teacher of kind student has features"),
    ):
        with pytest.raises(UserError, match=complaint):
            recipes.distill(recipe(change), tmp_path / "run")
    assert not (tmp_path / "run").exists()
