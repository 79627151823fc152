"""The export pipeline: what a bundle holds, and that a failed parity leaves none."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import devices
import export
from export import calls, parity, targets
from export.calls import clip_call
from export.lowering import lower
from export.sources import Source, fit, from_run
from export.targets import Conversion, Session, Target, Written
from tests.conftest import LATENT_MEAN, LATENT_STD, TARGETS, Apply
from toolkit import students
from toolkit.bundle import read_manifest
from toolkit.errors import CheckFailed, UserError
from toolkit.latents import LatentStatistics
from toolkit.streaming import StreamFacts


def test_a_bundle_is_complete_and_proved(exported_bundle: Path) -> None:
    manifest = read_manifest(exported_bundle)
    assert [a.target for a in manifest.artifacts] == TARGETS
    assert all(a.parity.passed and a.graph.max_rank <= 4 for a in manifest.artifacts)
    assert [a.parity.how for a in manifest.artifacts][:2] == ["executed", "executed"]
    executorch = manifest.artifact("executorch-xnnpack-fp32").graph
    assert executorch.delegated_share is not None
    assert not any(name == "cpu:convolution" for name in executorch.operators)
    assert {"sample.npz", "reference.pt2", "README.md", "model.onnx", "model.pte"} <= set(manifest.files)
    assert any(name.startswith("model.mlpackage/") for name in manifest.files)


def test_the_sample_is_the_students_own_answer(exported_bundle: Path, finished_run: Path) -> None:
    with np.load(exported_bundle / "sample.npz") as sample:
        latent, frames = torch.from_numpy(sample["latent"]), torch.from_numpy(sample["frames"])
    with torch.no_grad():
        video = students.load(finished_run)(latent.transpose(0, 1)[None])
    assert torch.equal(video[0].transpose(0, 1), frames)


def test_the_reference_program_runs_without_any_class_of_ours(exported_bundle: Path) -> None:
    with np.load(exported_bundle / "sample.npz") as sample:
        latent, frames = torch.from_numpy(sample["latent"]), torch.from_numpy(sample["frames"])
    module = torch.export.load(exported_bundle / "reference.pt2").module()
    with torch.no_grad():
        (given,) = module(latent)
    assert torch.allclose(given, frames, atol=1e-6)


def test_the_card_names_every_artifact_and_how_it_was_proved(exported_bundle: Path) -> None:
    card = (exported_bundle / "README.md").read_text()
    for text in ("model.onnx", "model.pte", "model.mlpackage", "executed", "iOS 17 or later", "```kotlin"):
        assert text in card


def test_the_manifest_says_what_the_latents_are_normalised_by_and_that_artifacts_take_raw_ones(
    exported_bundle: Path,
) -> None:
    manifest = read_manifest(exported_bundle)
    expected = LatentStatistics(mean=LATENT_MEAN, std=LATENT_STD, origin="AutoencoderKLLTXVideo")
    assert manifest.latent_statistics == expected
    assert {a.inputs[0].meaning for a in manifest.artifacts} == {"raw latent frames (T, C, h, w)"}


def test_a_run_without_statistics_is_exported_as_one_whose_statistics_are_unknown(
    finished_run: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "latent.json").unlink()
    assert from_run(run).latent_statistics is None


def test_statistics_of_another_number_of_channels_are_refused(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "latent.json").write_text('{"mean": [0.0], "std": [1.0], "origin": "AutoencoderKL"}')
    with pytest.raises(UserError, match=r"latent\.json: has 1 numbers for latents of 4 channels"):
        from_run(run)


def test_verify_passes_on_what_export_wrote(exported_bundle: Path) -> None:
    results = export.verify(exported_bundle)
    assert list(results) == TARGETS
    assert all(parity.passed for parity in results.values())


def test_verify_names_a_changed_file(exported_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported_bundle, bundle)
    content = bytearray((bundle / "model.pte").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.pte").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"model\.pte"):
        export.verify(bundle)


def test_verify_sees_an_artifact_that_computes_something_else(exported_bundle: Path, finished_run: Path) -> None:
    target = targets.find_target("onnx-fp32")
    artifact = read_manifest(exported_bundle).artifact("onnx-fp32")
    with np.load(exported_bundle / "sample.npz") as sample:
        wrong = {"latent": sample["latent"], "frames": sample["frames"] * 1.001}
    assert not parity.check(target, exported_bundle / "model.onnx", wrong, artifact.inputs, artifact.outputs).passed


def wrong_target(name: str) -> Target:
    """A target whose artifact runs, and gives numbers that are slightly off."""
    good = targets.find_target("onnx-fp32")

    def load(path: Path) -> Session:
        session = good.open(path)
        return Session(
            lambda inputs: [output + 0.01 for output in session.call(inputs)], "executed", "a broken runtime"
        )

    return replace(good, name=name, open=load)


def test_a_failed_parity_is_a_failed_export_and_leaves_nothing(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets.all_targets()
    monkeypatch.setitem(targets._TARGETS, "broken-fp32", wrong_target("broken-fp32"))
    with pytest.raises(CheckFailed, match="broken-fp32: FAIL"):
        export.export(from_run(finished_run), ["broken-fp32"], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_artifact_above_rank_4_is_refused(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets.all_targets()
    good = targets.find_target("onnx-fp32")
    convert = lambda *a: replace(good.convert(*a), max_rank=5)  # noqa: E731
    monkeypatch.setitem(targets._TARGETS, "tall-fp32", replace(good, name="tall-fp32", convert=convert))
    with pytest.raises(CheckFailed, match="rank 5"):
        export.export(from_run(finished_run), ["tall-fp32"], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_another_shape_is_exported_on_request(finished_run: Path, tmp_path: Path) -> None:
    manifest = export.export(from_run(finished_run), ["onnx-fp32"], tmp_path / "bundle", shape=(2, 4, 8))
    assert manifest.artifacts[0].inputs[0].shape == (2, 4, 4, 8)
    session = onnxruntime.InferenceSession(tmp_path / "bundle" / "model.onnx")
    assert session.get_inputs()[0].shape == [2, 4, 4, 8]


def test_a_latent_is_repeated_and_cropped_to_a_shape() -> None:
    latent = torch.arange(2 * 3 * 4).reshape(1, 1, 2, 3, 4)
    fitted = fit(latent, (3, 2, 6))
    assert fitted.shape == (1, 1, 3, 2, 6)
    assert fitted[0, 0, 2, 1].tolist() == [4, 5, 6, 7, 4, 5]


def test_a_run_without_a_student_is_refused(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    (run / "student.safetensors").unlink()
    with pytest.raises(UserError, match="no finished student"):
        from_run(run)


def test_an_export_over_something_else_is_refused(finished_run: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").write_text("precious")
    with pytest.raises(UserError, match="no bundle"):
        export.export(from_run(finished_run), ["onnx-fp32"], tmp_path / "bundle")
    assert (tmp_path / "bundle" / "notes.txt").read_text() == "precious"


def test_the_manifest_says_where_the_bundle_came_from(exported_bundle: Path) -> None:
    provenance = json.loads((exported_bundle / "manifest.json").read_text())["provenance"]
    assert provenance["command"] == "handheld export run"
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert len(provenance["recipe_sha256"]) == 64


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stream-mode bundle of a small causal student."""
    torch.manual_seed(0)
    config = {"latent_channels": 4, "widths": [8, 8, 8], "temporal_padding": "causal"}
    student = students.build("turbo_vaed", "demo", config)
    source = Source("causal", student, (torch.randn(1, 4, 3, 8, 8),), "student", "toolkit.students.turbo_vaed")
    bundle = tmp_path_factory.mktemp("streamed") / "bundle"
    chosen = ["coreml-state-fp16", "onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16"]
    export.export(source, chosen, bundle, mode="stream")
    return bundle


@pytest.mark.slow
def test_a_streamed_bundle_decodes_its_clip_in_every_format(streamed: Path) -> None:
    manifest = read_manifest(streamed)
    for artifact in manifest.artifacts:
        assert artifact.mode == "stream"
        assert artifact.stream == StreamFacts(frames=2, first_frames=1)
        hidden = artifact.target == "coreml-state-fp16"
        assert artifact.inputs[2:] == ([] if hidden else artifact.states)
        following = [] if hidden else [f"next_{state.name}" for state in artifact.states]
        assert following == [output.name for output in artifact.outputs[1:]]
    assert all(found.passed for found in export.verify(streamed).values())


@pytest.mark.slow
def test_the_card_of_a_streamed_bundle_says_how_to_drive_it(streamed: Path) -> None:
    card = (streamed / "README.md").read_text()
    assert card.count("class StreamDecoder") == 3
    assert card.count("class StatefulDecoder") == 1
    assert "longArrayOf(" in card


@pytest.mark.slow
def test_a_streamed_bundle_is_profiled_one_step_at_a_time(streamed: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'profiles.db'}"
    records = devices.profile([streamed], iterations=2, threads=1, store=store).records
    assert {record.target for record in records} >= {"onnx-fp32", "executorch-xnnpack-fp32"}
    assert all(record.parity.passed for record in records)


def test_states_cannot_be_kept_where_there_are_none(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="--mode stream"):
        export.export(from_run(finished_run), ["coreml-state-fp16"], tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_model_that_looks_ahead_cannot_be_streamed(finished_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot stream"):
        export.export(from_run(finished_run), ["onnx-fp32"], tmp_path / "bundle", mode="stream")
    assert not list(tmp_path.iterdir())


class TwoOutputs(nn.Module):
    """A video and a label, of a video and a number."""

    def forward(self, video: torch.Tensor, gain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        louder = video * gain
        return louder, louder.mean(dim=(2, 3, 4))


@pytest.mark.slow
def test_any_module_is_exported_with_the_names_of_its_parameters(tmp_path: Path) -> None:
    inputs = (torch.randn(1, 3, 4, 6, 8), torch.tensor([2.0]))
    source = Source("two", TwoOutputs(), inputs, "module", "TwoOutputs", ("video", "gain"), ())
    manifest = export.export(source, ["onnx-fp32"], tmp_path / "bundle")
    artifact = manifest.artifacts[0]
    assert [(info.name, info.shape) for info in artifact.inputs] == [("video", (4, 3, 6, 8)), ("gain", (1,))]
    assert [(info.name, info.shape) for info in artifact.outputs] == [("output_0", (4, 3, 6, 8)), ("output_1", (1, 3))]
    assert export.verify(tmp_path / "bundle")["onnx-fp32"].passed


@pytest.mark.slow
def test_tiling_is_measured_on_request_and_kept_in_the_manifest(finished_run: Path, tmp_path: Path) -> None:
    manifest = export.export(from_run(finished_run), ["onnx-fp32"], tmp_path / "bundle", tiling=True)
    tiling = manifest.artifacts[0].tiling
    assert tiling is not None
    assert tiling.time.factor == 2
    assert tiling.rows.before == tiling.columns.before
    assert "Longer clips and larger pictures" in (tmp_path / "bundle" / "README.md").read_text()


def test_a_model_whose_rounding_is_too_large_to_prove_anything_is_refused_with_the_reason(tmp_path: Path) -> None:
    chaotic = nn.Sequential(nn.Conv3d(3, 3, 3, padding=1), Apply(lambda x: torch.sin(1e5 * x)))
    source = Source("chaotic", chaotic, (torch.rand(1, 3, 4, 6, 8),), "module", "Apply")
    with pytest.raises(CheckFailed, match="rounding alone changes"):
        export.export(source, ["onnx-fp32"], tmp_path / "bundle")


class Amplified(nn.Module):
    """A sine of a convolution, a hundredfold: fp32 answers are off by more than 1e-5 of scale."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(3, 3, 3, padding=1)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return torch.sin(100 * self.conv(video))


@pytest.mark.slow
@pytest.mark.parametrize("error", [0, 1e-6])
@torch.no_grad()
def test_a_model_that_amplifies_rounding_is_lowered_by_its_fp64_numbers(
    error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lower_wrongly(module: nn.Module, examples: tuple[torch.Tensor, ...]) -> nn.Module:
        changed = copy.deepcopy(module)
        changed.conv.weight *= 1 + error
        return lower(changed, examples)

    monkeypatch.setattr(calls, "lower", lower_wrongly)
    source = Source("amplified", Amplified(), (torch.rand(1, 3, 4, 32, 32),), "module", "Amplified", ("video",), ())
    if error:
        with pytest.raises(CheckFailed, match="lowering changed the model"):
            clip_call(source)
    else:
        clip_call(source)


def convert_sizes(conversion: Conversion, path: Path) -> Written:
    """A folder with a program a size."""
    path.mkdir()
    for name, program in {"main": conversion.program, **conversion.sizes}.items():
        torch.export.save(program, path / f"{name}.pt2")
    return Written(max_rank=4, operators={})


def open_one(path: Path, name: str) -> Session:
    module = torch.export.load(path / f"{name}.pt2").module()
    return Session(lambda inputs: [module(*map(torch.from_numpy, inputs)).numpy()], "executed", "torch")


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target whose artifacts hold several sizes."""
    targets.all_targets()
    target = Target(
        "sized-fp32", "sized", targets.FP32, convert_sizes, lambda path: open_one(path, "main"), open_size=open_one
    )
    monkeypatch.setitem(targets._TARGETS, target.name, target)
    return target


def conv_source() -> Source:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 2, 6, 8),)
    return Source("conv", nn.Conv3d(3, 4, 3, padding=1), inputs, "module", "Conv3d", ("video",), ())


@pytest.mark.slow
def test_an_artifact_of_several_sizes_is_proved_at_each(sized: Target, tmp_path: Path) -> None:
    further = [(1, 4, 4), (3, 5, 6)]
    bundle = tmp_path / "bundle"
    (artifact,) = export.export(conv_source(), [sized.name], bundle, further_shapes=further).artifacts
    assert artifact.inputs[0].shape == (2, 3, 6, 8)
    assert [size.name for size in artifact.sizes] == ["size_1x4x4", "size_3x5x6"]
    assert [size.inputs[0].shape for size in artifact.sizes] == [(1, 3, 4, 4), (3, 3, 5, 6)]
    assert all(size.parity.passed for size in artifact.sizes)
    results = export.verify(bundle)
    assert list(results) == ["sized-fp32", "sized-fp32 size_1x4x4", "sized-fp32 size_3x5x6"]
    assert all(parity.passed for parity in results.values())
    assert "samples/size_1x4x4.npz" in read_manifest(bundle).files


@pytest.mark.slow
def test_a_size_that_computes_something_else_fails_the_export(
    sized: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def off(path: Path, name: str) -> Session:
        session = open_one(path, name)
        return replace(session, call=lambda inputs: [output + 0.1 for output in session.call(inputs)])

    reduced = replace(sized, open_size=off, tolerance=targets.FP16, file_name="sized.pte")
    monkeypatch.setitem(targets._TARGETS, sized.name, reduced)
    with pytest.raises(CheckFailed, match="sized-fp32 size_1x4x4: FAIL") as failed:
        export.export(conv_source(), [sized.name], tmp_path / "bundle", further_shapes=[(1, 4, 4)])
    assert "operator" not in str(failed.value)  # what would be taken apart is the main size
    assert "--budget" not in str(failed.value)
    assert not list(tmp_path.iterdir())


def test_several_sizes_are_refused_before_any_work_where_a_target_holds_one(sized: Target, tmp_path: Path) -> None:
    wanted = [sized.name, "onnx-fp32"]
    with pytest.raises(UserError, match=r"^onnx-fp32: holds one size; .*targets that hold several: .*sized-fp32"):
        export.export(conv_source(), wanted, tmp_path / "bundle", further_shapes=[(1, 4, 4)])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_size_that_is_named_twice_is_refused(sized: Target, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--shape 2x6x8: given twice"):
        export.export(conv_source(), [sized.name], tmp_path / "bundle", further_shapes=[(2, 6, 8)])
