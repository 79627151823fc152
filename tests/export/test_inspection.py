"""Inspection: every obstacle of a model at once, by name and layer, and what each target makes of the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from export import targets
from export.inspection import Inspection, inspect_bundle, inspect_module
from export.lowering.lower import lower, program_of
from export.targets import Conversion
from tests.conftest import TARGETS, Apply, Warp
from toolkit.errors import UserError

VIDEO = (1, 3, 4, 8, 8)


class Residual(nn.Module):
    """Two 3-D convolutions, and between them what is to be inspected."""

    def __init__(self, *parts: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 8, 3, padding=1), nn.SiLU())
        self.parts = nn.ModuleList(Apply(part) for part in parts)
        self.head = nn.Conv3d(8, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for part in self.parts:
            x = x + part(x)
        out = self.head(x)
        assert isinstance(out, torch.Tensor)
        return out


class GivenWeights(nn.Module):
    """A convolution whose weights are an input, which XNNPACK does not take."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(x, weight)


def svd_of_a_frame(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(x[0, 0, 0])[1].sum()


def svd_of_a_video(x: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svd(x)[1].sum()


def spectrum(x: torch.Tensor) -> torch.Tensor:
    return torch.fft.rfft(x[0]).abs().mean()


def mean_place(x: torch.Tensor) -> torch.Tensor:
    places = torch.nonzero(x > 0)
    return places.sum() / places.shape[0]


def branch(x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def inspected(*parts: Callable[[torch.Tensor], torch.Tensor], only: list[str] = TARGETS) -> Inspection:
    return inspect_module(Residual(*parts), (torch.randn(VIDEO),), only)


def found(inspection: Inspection) -> set[tuple[str, str]]:
    return {(obstacle.operator, obstacle.layer) for obstacle in inspection.obstacles}


@pytest.mark.slow
def test_a_model_without_obstacles_is_wholly_planned_and_estimated() -> None:
    inspection = inspected()
    assert inspection.obstacles == []
    assert inspection.refusal() is None
    assert [plan.target for plan in inspection.targets] == TARGETS
    shares = {plan.target: plan.share for plan in inspection.targets}
    assert shares["onnx-fp32"] is None
    assert shares["executorch-xnnpack-fp32"] == 1.0
    assert 0.5 < (shares["coreml-fp16"] or 0) < 1  # but for the casts at the border
    assert all(plan.how == "planned" for plan in inspection.targets)
    estimates = inspection.estimates
    assert estimates is not None
    assert estimates.how == "estimated"
    assert estimates.params == 3 * 8 * 27 + 8 + 8 * 3 * 27 + 3
    assert estimates.macs == 2 * 3 * 8 * 27 * 4 * 8 * 8
    assert estimates.peak_activation_bytes is not None
    assert estimates.peak_activation_bytes >= 2 * 4 * 8 * 4 * 8 * 8  # a layer's input and output at least


@pytest.mark.slow
def test_all_targets_are_inspected_where_none_is_named() -> None:
    inspection = inspect_module(Apply(torch.relu), (torch.randn(1, 4),))
    assert {plan.target for plan in inspection.targets} == set(targets.all_targets())


@pytest.mark.slow
def test_targets_for_some_models_only_say_so() -> None:
    inspection = inspect_module(Apply(torch.relu), (torch.randn(1, 4),), ["coreml-image-fp16", "coreml-state-fp16"])
    pictures, states = inspection.targets
    assert "for video decoders and optical flow only" in pictures.note
    assert "for --mode stream only" in states.note


@pytest.mark.slow
def test_every_obstacle_is_found_at_once() -> None:
    inspection = inspected(svd_of_a_frame, mean_place, svd_of_a_video, only=["onnx-fp32"])
    assert found(inspection) == {
        ("aten.linalg_svd.default", "parts.0"),
        ("aten.nonzero.default", "parts.1"),
        ("aten.linalg_svd.default", "parts.2"),
    }
    assert [plan.obstacles for plan in inspection.targets] == [3]
    assert inspection.estimates is not None
    assert inspection.estimates.macs > 0


@pytest.mark.slow
def test_an_obstacle_has_its_shapes_its_line_its_reason_and_a_remedy() -> None:
    (obstacle,) = inspected(svd_of_a_video).obstacles
    assert obstacle.targets == TARGETS
    assert obstacle.shapes == [[1, 8, 4, 8, 8]]
    assert "in forward" in obstacle.source
    assert obstacle.reason == "has no handler at rank 4"
    assert "add a handler" in obstacle.remedy


@pytest.mark.slow
def test_each_target_refuses_what_it_does_not_know() -> None:
    inspection = inspected(svd_of_a_frame)
    assert found(inspection) == {("aten.linalg_svd.default", "parts.0")}
    assert [obstacle.targets for obstacle in inspection.obstacles] == [[target] for target in TARGETS]
    assert [plan.obstacles for plan in inspection.targets] == [1, 1, 1]


@pytest.mark.slow
def test_each_target_refuses_what_it_knows_but_cannot_convert() -> None:
    inspection = inspected(spectrum)
    assert found(inspection) == {("aten.fft_rfft.default", "parts.0")}
    assert [obstacle.targets for obstacle in inspection.obstacles] == [[target] for target in TARGETS]


def test_a_converter_that_fails_on_what_can_be_lowered_stands_in_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_program: object) -> None:
        raise TypeError("takes no nodes")

    monkeypatch.setattr("export.inspection.find_planner", lambda _target: failing)
    inspection = inspected(svd_of_a_video, only=["onnx-fp32"])
    assert found(inspection) == {("aten.linalg_svd.default", "parts.0")}
    assert "the converter fails: TypeError: takes no nodes" in inspection.targets[0].note


def test_a_branch_on_the_data_is_named_with_its_layer_and_line() -> None:
    inspection = inspected(branch)
    (obstacle,) = inspection.obstacles
    assert obstacle.operator == "Apply.forward"
    assert obstacle.layer == "parts.0"
    assert "in branch" in obstacle.source
    assert "data-dependent" in obstacle.reason
    assert inspection.estimates is None


@pytest.mark.slow
def test_an_operator_on_the_cpu_is_counted_with_its_layer() -> None:
    inspection = inspected(lambda x: torch.fmod(x, 2), only=["executorch-xnnpack-fp32"])
    (plan,) = inspection.targets
    assert inspection.obstacles == []
    assert [(row.operator, row.count, row.layers) for row in plan.outside] == [("fmod", 1, ["parts.0"])]
    assert plan.delegates == 2
    assert plan.share is not None
    assert 0.5 < plan.share < 1


@pytest.mark.slow
def test_a_convolution_outside_the_delegate_is_an_obstacle() -> None:
    inputs = (torch.randn(1, 4, 8, 8), torch.randn(6, 4, 3, 3))
    inspection = inspect_module(GivenWeights(), inputs, ["executorch-xnnpack-fp32"])
    assert found(inspection) == {("aten.conv2d.default", "the model itself")}
    assert "outside the XNNPACK delegate" in inspection.obstacles[0].reason


@pytest.mark.slow
def test_the_refusal_names_the_operators_with_their_layers() -> None:
    refusal = inspected(svd_of_a_frame, svd_of_a_video, only=["onnx-fp32"]).refusal()
    assert isinstance(refusal, UserError)
    assert "aten.linalg_svd.default in layer 'parts.0'" in str(refusal)
    assert "aten.linalg_svd.default in layer 'parts.1'" in str(refusal)


def test_a_batch_of_videos_is_refused() -> None:
    inspection = inspect_module(Residual(), (torch.randn(2, 3, 4, 8, 8),), ["onnx-fp32"])
    assert "use batch 1" in str(inspection.refusal())


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'onnx-fp32'"):
        inspect_module(Residual(), (torch.randn(VIDEO),), ["onnx-fp23"])


@pytest.mark.slow
def test_an_inspection_keeps_its_meaning_as_json() -> None:
    inspection = inspected(svd_of_a_frame, only=["onnx-fp32"])
    assert Inspection.model_validate_json(inspection.model_dump_json()) == inspection


def test_a_bundle_says_what_its_artifacts_consist_of(exported_bundle: Path) -> None:
    artifacts = inspect_bundle(exported_bundle)
    assert [artifact.target for artifact in artifacts] == TARGETS
    assert all(artifact.parity.passed and artifact.max_rank <= 4 for artifact in artifacts)
    (executorch,) = inspect_bundle(exported_bundle, ["executorch-xnnpack-fp32"])
    assert executorch.delegated_share is not None
    assert (executorch.delegated_share == 1) == (not executorch.outside)


@pytest.mark.slow
def test_what_is_planned_is_what_the_artifact_has(exported_bundle: Path, finished_run: Path) -> None:
    from export.sources import from_run

    source = from_run(finished_run)
    inspection = inspect_module(source.module, source.inputs, ["executorch-xnnpack-fp32"])
    (artifact,) = inspect_bundle(exported_bundle, ["executorch-xnnpack-fp32"])
    (plan,) = inspection.targets
    assert (plan.delegates, plan.share) == (artifact.delegates, artifact.delegated_share)
    assert inspection.estimates is not None
    assert artifact.estimates.model_dump().items() <= inspection.estimates.model_dump().items()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["executorch-vulkan-fp16", "executorch-coreml-fp16"])
def test_what_is_planned_outside_of_a_delegate_is_what_the_artifact_leaves(target: str, tmp_path: Path) -> None:
    """A sampling and its coordinates, which fp16 would damage."""
    torch.manual_seed(0)
    image = torch.rand(1, 3, 24, 256)
    (plan,) = inspect_module(Warp(), (image,), [target]).targets
    with torch.no_grad():
        program = program_of(lower(Warp().eval(), [image]), [image])
    written = targets.find_target(target).convert(Conversion(program, ["image", "warped"]), tmp_path / "model.pte")
    assert (plan.delegates, plan.share) == (written.delegates, written.delegated_share)
    assert plan.delegates == 2
