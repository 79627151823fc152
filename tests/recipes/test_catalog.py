"""Every catalogued recipe: valid, and two steps of it, with a teacher of its class and a student at small width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torchvision.models.optical_flow import raft_large

import recipes
from recipes.schema import TeacherSpec, TurboVAEDSpec, catalog, load_recipe
from recipes.teachers.diffusers_vae import build
from tests.recipes.data.layouts import MAKERS
from tests.recipes.data.pictures import smooth_picture, write_picture
from toolkit import students
from toolkit.evaluation import Evaluation, FlowEvaluation

#: Latents and factors as the recipe's teacher has them, at the least width.
TEACHERS: dict[str, dict[str, Any]] = {
    "AutoencoderKLLTXVideo": {
        "latent_channels": 128,
        "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
    },
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 16,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLCogVideoX": {
        "latent_channels": 16,
        "block_out_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLWan": {"z_dim": 16, "base_dim": 8, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1},
}
#: Recipes whose teacher and clip ship with the project, or that train the teacher.
EMBEDDED = ("demo-turbo-vaed", "tiny-video-vae", "turbo-vaed-tiny")
FLOW = ("compact-flow-tiny",)
FLOW_DATA_SETS = ("compact-flow-s", "compact-flow-m")


def logged(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", catalog())
def test_a_catalogued_recipe_is_valid_and_its_student_can_be_built(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert catalog()[name].read_text().splitlines()[2].startswith("#   h"), "it opens with the commands to run"
    if recipe.student.kind != "diffusers_vae":
        with torch.device("meta"):
            students.build(recipe.student.kind, recipe.student.preset, recipe.student.overrides)


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_recipe_of_the_embedded_teacher_takes_two_steps(name: str, tmp_path: Path) -> None:
    small = {
        "data.train.resize": [72, 128],
        "data.train.size": [32, 32],
        "data.validation.resize": [72, 128],
        "data.validation.size": [32, 32],
        "phases.0.steps": 2,
        "trainer.batch": 1,
        "trainer.precision": "32-true",
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    evaluation = recipes.distill(load_recipe(name, overrides), tmp_path / "run")
    assert isinstance(evaluation, Evaluation)
    assert evaluation.frames == 27


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOW)
def test_a_recipe_of_optical_flow_takes_two_steps(name: str, tmp_path: Path) -> None:
    small = {
        "data.train.size": [64, 64],
        "data.validation.size": [64, 64],
        "data.validation.pairs": 2,
        "phases.0.steps": 1,
        "phases.1.steps": 1,
        "phases.1.train.size": [96, 64],
        "trainer.batch": 1,
        "trainer.log_every": 1,
        "trainer.precision": "32-true",
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    evaluation = recipes.distill(load_recipe(name, overrides), tmp_path / "run")
    assert isinstance(evaluation, FlowEvaluation)
    assert evaluation.pairs == 2
    assert [row["step"] for row in logged(tmp_path / "run") if "flow" in row] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOW_DATA_SETS)
def test_a_recipe_of_published_flow_data_takes_a_step_of_each_phase(name: str, tmp_path: Path) -> None:
    for layout, make in MAKERS.items():
        make(tmp_path / layout, (40, 48))
    write_picture(tmp_path / "photos" / "one.png", smooth_picture(0))
    torch.save(raft_large(weights=None).state_dict(), tmp_path / "raft.pth")
    content = load_recipe(name).model_dump(by_alias=True, mode="json")
    content["teacher"]["weights"] = str(tmp_path / "raft.pth")
    content["trainer"].update(batch=1, workers=0, log_every=1, precision="32-true")
    phases = content["phases"]
    parts = [part["data"] for phase in phases if phase["train"] for part in phase["train"]["parts"]]
    for data in (content["data"]["train"], content["data"]["validation"], *parts):
        if data["kind"] == "synthetic_flow":
            data.update(size=[64, 96])
            data["textures"]["sources"] = [str(tmp_path / "photos")]
        else:
            data["path"] = str(tmp_path / data["layout"])
            if data["augmentation"] is not None:
                data["augmentation"]["size"] = [64, 96]
    for phase in phases:
        phase.update(steps=1, warmup=0)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    evaluation = recipes.distill(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    assert isinstance(evaluation, FlowEvaluation)
    assert evaluation.pairs == 2
    assert evaluation.teacher is not None
    assert [row["step"] for row in logged(tmp_path / "run") if "distillation" in row] == [1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in catalog() if name not in (*EMBEDDED, *FLOW, *FLOW_DATA_SETS)])
def test_a_catalogued_recipe_takes_two_steps(name: str, clip_file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe.teacher, TeacherSpec)
    assert isinstance(recipe.student, TurboVAEDSpec)
    torch.manual_seed(0)
    teacher = build(recipe.teacher.class_name, TEACHERS[recipe.teacher.class_name])
    teacher.vae.save_pretrained(tmp_path / "teacher")
    widths = [16] * len(students.build("turbo_vaed", recipe.student.preset).config.widths)  # type: ignore[union-attr]
    side = max(32, teacher.spatial_factor)
    small = {
        "teacher.weights": str(tmp_path / "teacher"),
        "teacher.subfolder": None,
        "student.widths": widths,
        "data.train.path": str(clip_file),
        "data.train.size": [side, side],
        "data.train.resize": [side, 64],
        "data.validation.path": str(clip_file),
        "data.validation.size": [side, side],
        "data.validation.resize": [side, 64],
        "objective.perceptual": None,  # its weights are not on every machine
        "phases.0.steps": 1,
        "phases.1.steps": 1,
        "trainer.batch": 1,
        "trainer.accumulate": 1,
        "trainer.log_every": 1,
        "trainer.precision": "32-true",
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    evaluation = recipes.distill(load_recipe(name, overrides), tmp_path / "run")
    assert isinstance(evaluation, Evaluation)
    assert evaluation.frames == 17
    rows = logged(tmp_path / "run")
    assert {"reconstruction", "features"} <= set(rows[0])
    assert any("adversarial" in row for row in rows)
