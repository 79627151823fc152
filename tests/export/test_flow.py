"""Optical-flow students as bundles: every target proved on flows of several pixels, from weights and from runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import export
from export.sources import Source, flow_source, from_weights, moving_texture
from tests.conftest import TARGETS
from toolkit import students
from toolkit.bundle import read_manifest
from toolkit.cli.main import app
from toolkit.errors import UserError
from toolkit.evaluation import EVALUATION_FILE, FlowEvaluation
from toolkit.flow_blocks import Warp, correlation, warp
from toolkit.flow_metrics import flow_report
from toolkit.students.compact_flow import CompactFlow

SMALL: dict[str, Any] = {
    "stem": 8,
    "widths": [8, 8, 12],
    "layers": [0, 1, 0],
    "matched": [8, 8, 8],
    "estimators": [[16, 8], [8], [8]],
    "refinement": 8,
    "carried": 4,
    "radius": 2,
    "dilations": [1, 2],
}
TINY: dict[str, Any] = {
    "widths": [8],
    "layers": [0],
    "matched": [8],
    "estimators": [[8]],
    "radius": 1,
    "dilations": [1],
    "activation": "relu",
}
ODD = (100, 140)  # neither side a multiple of the stride


def random_student(**changes: Any) -> CompactFlow:
    """Untrained, but with flows of several pixels: what moves nothing proves nothing of a warp.

    Its norms have seen images, as a trained one's have: features near zero would turn rounding into flow.
    """
    torch.manual_seed(0)
    student = students.build("compact_flow", "s", {**SMALL, **changes})
    assert isinstance(student, CompactFlow)
    for head in (*(estimator.flow for estimator in student.estimators), student.refinement.flow):
        torch.nn.init.normal_(head.weight, std=0.05)
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        student.train()(*moving_texture((128, 160)))
    return student.eval()


def source(**changes: Any) -> Source:
    return flow_source("flow", random_student(**changes), moving_texture(ODD))


class Matched(nn.Module):
    """What flow students have and video decoders have not: the correlation with warped features."""

    def __init__(self, form: Warp) -> None:
        super().__init__()
        self.form = form

    def forward(self, first: torch.Tensor, second: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
        return correlation(first, warp(second, flow, self.form), radius=1)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["grid_sample", "gather"])
@pytest.mark.parametrize("target", TARGETS)
def test_each_target_warps_and_correlates_as_pytorch_does(target: str, form: Warp, tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    first, second, flow = (torch.randn(1, channels, 9, 12, generator=random) for channels in (8, 8, 2))
    names = ("first", "second", "flow")
    matched = Source("matched", Matched(form), (first, second, flow * 3), "module", "Matched", names, task=None)
    manifest = export.export(matched, [target], tmp_path / "bundle")
    assert manifest.artifacts[0].parity.passed


@pytest.mark.slow
def test_a_small_student_gives_pytorchs_flow_in_onnx(tmp_path: Path) -> None:
    (artifact,) = export.export(source(**TINY), ["onnx-fp32"], tmp_path / "bundle", shape=(36, 44)).artifacts
    assert artifact.parity.passed
    assert artifact.outputs[0].shape == (1, 2, 36, 44)
    with np.load(tmp_path / "bundle" / "sample.npz") as sample:
        assert np.abs(sample["flow"]).mean() > 1


@pytest.mark.slow
def test_all_targets_give_pytorchs_flow_at_an_odd_size(tmp_path: Path) -> None:
    manifest = export.export(source(), TARGETS, tmp_path / "bundle")
    for artifact in manifest.artifacts:
        assert [(i.name, i.shape) for i in artifact.inputs] == [("image1", (1, 3, *ODD)), ("image2", (1, 3, *ODD))]
        assert [(o.name, o.shape) for o in artifact.outputs] == [("flow", (1, 2, *ODD))]
        assert artifact.parity.passed
        assert artifact.graph.max_rank <= 4
        assert not any(name.startswith("cpu:") and "convolution" in name for name in artifact.graph.operators)
    with np.load(tmp_path / "bundle" / "sample.npz") as sample:
        assert np.abs(sample["flow"]).mean() > 2
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "An optical-flow network" in card
    for text in ("let image2 = try MLMultiArray", "val image2 = FloatArray", '"image2" to OnnxTensor'):
        assert text in card
    assert all(parity.passed for parity in export.verify(tmp_path / "bundle").values())


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"warp": "gather"}, {"correlation": "slices"}])
def test_the_other_forms_are_proved_too(change: dict[str, str], tmp_path: Path) -> None:
    manifest = export.export(source(**TINY, **change), TARGETS, tmp_path / "bundle", shape=(36, 44))
    assert all(artifact.parity.passed for artifact in manifest.artifacts)


@pytest.mark.slow
def test_a_gather_counts_in_integers_where_fp16_cannot(tmp_path: Path) -> None:
    """160x1024 is 10240 pixels at a quarter of the size: fp16 counts to 2048."""
    manifest = export.export(source(warp="gather"), ["coreml-fp16"], tmp_path / "bundle", shape=(160, 1024))
    assert manifest.artifacts[0].parity.passed


@pytest.mark.slow
def test_weights_of_a_file_are_exported_from_the_command_line(tmp_path: Path) -> None:
    save_file(students.build("compact_flow", "s").state_dict(), tmp_path / "flow.safetensors")
    arguments = ["export", "--student", "compact_flow:s", "--weights", str(tmp_path / "flow.safetensors")]
    arguments += ["--target", "onnx-fp32", "--shape", "64x96", "--output", str(tmp_path / "bundle")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.model.task == "optical-flow"
    assert manifest.artifacts[0].inputs[1].shape == (1, 3, 64, 96)


def test_the_default_example_is_a_texture_that_moves(tmp_path: Path) -> None:
    save_file(students.build("compact_flow", "s").state_dict(), tmp_path / "flow.safetensors")
    found, aside = from_weights("compact_flow:s", tmp_path / "flow.safetensors")
    first, second = found.inputs
    assert aside == []
    assert first.shape == second.shape == (1, 3, 384, 512)
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first[:, :, :-3, :-5], second[:, :, 3:, 5:])


def evaluation() -> FlowEvaluation:
    flow = torch.ones(2, 8, 8)
    report = flow_report(flow, flow + 3)
    return FlowEvaluation(pairs=1, student=report, teacher=None, baselines={}, student_params=1)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (((64, 64), (64, 96)), r"\[1, 3, 64, 64\] and \[1, 3, 64, 96\]; flow is between two images"),
        (((31, 64), (31, 64)), "31x64 are too small"),
        (((64, 64),), "between two images"),
    ],
)
def test_images_that_make_no_pair_are_refused(sizes: tuple[tuple[int, int], ...], reason: str) -> None:
    images = [torch.rand(1, 3, *size) for size in sizes]
    with pytest.raises(UserError, match=reason):
        flow_source("flow", random_student(), images)


def test_images_too_small_to_resize_to_are_refused() -> None:
    with pytest.raises(UserError, match="--shape from 32x32"):
        source().examples((16, 96))


def test_a_run_of_a_flow_student_is_exported_with_its_held_out_pair(tmp_path: Path) -> None:
    students.save(random_student(), tmp_path)
    (tmp_path / "recipe.yaml").write_text("name: small-flow\n")
    (tmp_path / EVALUATION_FILE).write_text(evaluation().model_dump_json())
    images = moving_texture((96, 128))
    save_file({"image1.0": images[0], "image2.0": images[1]}, tmp_path / "samples.safetensors")
    found = export.from_run(tmp_path)
    assert (found.name, found.task, found.recipe) == ("small-flow", "optical-flow", tmp_path / "recipe.yaml")
    assert [tuple(image.shape) for image in found.inputs] == [(1, 3, 384, 512)] * 2
    assert all(torch.equal(*pair) for pair in zip(found.examples((96, 128)), images, strict=True))
    assert found.quality == evaluation()
    (tmp_path / "samples.safetensors").unlink()
    with pytest.raises(UserError, match="no held-out images"):
        export.from_run(tmp_path)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shape": (3, 64, 96)}, "HEIGHTxWIDTH"),
        ({"mode": "stream"}, "is no video"),
        ({"tiling": True}, "is no video"),
    ],
)
def test_what_only_videos_have_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason):
        export.export(source(), ["onnx-fp32"], tmp_path / "bundle", **options)
    assert not list(tmp_path.iterdir())
