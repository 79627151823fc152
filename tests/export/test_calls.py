"""What artifacts are compared and calibrated on: real inputs, the sample's first, all of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from export import calls
from export.calls import clip_call, stream_call
from export.lowering.lower import to_frames
from export.normalised import normalised
from export.sources import Source, fit, flow_source, from_run, resize
from export.trials import rounding
from tests.conftest import LATENT_MEAN, LATENT_STD, Apply
from tests.export.test_flow import TINY, evaluation, random_student
from toolkit import students
from toolkit.errors import CheckFailed
from toolkit.evaluation import EVALUATION_FILE, AnyEvaluation, Evaluation, Scores
from toolkit.latents import LatentStatistics


def latents(*shapes: Sequence[int]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, *shape, generator=random) for shape in shapes]


def run_of(folder: Path, student: students.Student, scores: AnyEvaluation, tensors: dict[str, torch.Tensor]) -> Path:
    """A run directory with as much as export needs."""
    folder.mkdir()
    (folder / "recipe.yaml").write_text("name: made-up\n")
    (folder / EVALUATION_FILE).write_text(scores.model_dump_json())
    students.save(student, folder)
    save_file(tensors, folder / "samples.safetensors")
    return folder


def tiny_decoder(**changes: object) -> students.Student:
    torch.manual_seed(0)
    return students.build("turbo_vaed", "demo", {"latent_channels": 4, "widths": [8, 8, 8], **changes}).eval()


@pytest.mark.slow
@torch.no_grad()
def test_a_run_calibrates_on_all_its_latents_at_the_shape_of_the_artifact(tmp_path: Path) -> None:
    held_out = latents((2, 4, 4), (3, 2, 6), (1, 5, 3))
    tensors = {f"latent.{number}": latent for number, latent in enumerate(held_out)}
    scores = Evaluation(
        clips=3, frames=9, student=Scores(psnr_db=30, ssim=0.9), teacher=None, student_params=1, teacher_params=None
    )
    source = from_run(run_of(tmp_path / "run", tiny_decoder(), scores, tensors))
    for shape in (None, (2, 3, 5)):
        call = clip_call(source, shape)
        expected = [to_frames(fit(latent, shape or (2, 4, 4))).numpy() for latent in held_out]
        assert len(call.calibration) == 3
        for (found,), right in zip(call.calibration, expected, strict=True):
            np.testing.assert_array_equal(found, right)
        np.testing.assert_array_equal(call.calibration[0][0], call.sample["latent"])


@pytest.mark.slow
@torch.no_grad()
def test_normalised_latents_calibrate_as_the_raw_ones_do() -> None:
    first, *others = latents((2, 4, 4), (3, 4, 4))
    statistics = LatentStatistics(mean=LATENT_MEAN, std=LATENT_STD, origin="AutoencoderKLWan")
    raw = Source("tiny", tiny_decoder(), (first,), "student", "TurboVAED", latent_statistics=statistics)
    raw = replace(raw, held_out=tuple((other,) for other in others))
    mean, std = (torch.tensor(numbers).view(1, 4, 1, 1).numpy() for numbers in (LATENT_MEAN, LATENT_STD))
    calls = clip_call(raw), clip_call(normalised(raw))
    assert [len(call.calibration) for call in calls] == [2, 2]
    for (plain,), (folded,) in zip(*(call.calibration for call in calls), strict=True):
        np.testing.assert_allclose(folded * std + mean, plain, atol=1e-6)


@torch.no_grad()
def test_flow_calibrates_on_pairs_of_other_sizes_resized(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    pairs = [[torch.rand(1, 3, *size, generator=random) for _ in range(2)] for size in ((40, 48), (64, 33))]
    tensors = {f"image{place}.{n}": image for n, pair in enumerate(pairs) for place, image in enumerate(pair, 1)}
    source = from_run(run_of(tmp_path / "run", random_student(**TINY), evaluation(), tensors))
    call = clip_call(source, (36, 44))
    assert len(call.calibration) == 2
    for found, pair in zip(call.calibration, pairs, strict=True):
        for array, image in zip(found, pair, strict=True):
            np.testing.assert_array_equal(array, resize(image, (36, 44)).numpy())


@torch.no_grad()
def test_a_module_with_other_inputs_calibrates_with_these_as_they_are() -> None:
    class Gain(nn.Module):
        def forward(self, video: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
            return video * gain

    first, other = latents((2, 4, 4), (1, 4, 4))
    inputs = (first, torch.tensor([2.0]))
    source = Source("gain", Gain(), inputs, "module", "Gain", ("video", "gain"), (), held_out=((other,),))
    call = clip_call(source)
    assert [[array.shape for array in arrays] for arrays in call.calibration] == [[(2, 4, 4, 4), (1,)]] * 2
    assert all(gain.item() == 2 for _, gain in call.calibration)


@pytest.mark.slow
@torch.no_grad()
def test_a_stream_calibrates_on_its_steps_the_first_included() -> None:
    source = Source("causal", tiny_decoder(temporal_padding="causal"), (latents((3, 8, 8))[0],), "student", "TurboVAED")
    call = stream_call(source)
    shapes = [[array.shape for array in step] for step in call.calibration]
    assert shapes == [[info.shape for info in call.inputs]] * 6
    assert [step[1].item() for step in call.calibration] == [0, 1, 0, 0, 0, 0]
    assert all(not state.any() for state in call.calibration[1][2:])
    assert any(state.any() for state in call.calibration[2][2:])
    for info, array in zip(call.inputs, call.calibration[0], strict=True):
        np.testing.assert_array_equal(array, call.sample[info.name])


@torch.no_grad()
def test_the_reference_is_pytorchs_program_with_the_artifacts_signature() -> None:
    call = clip_call(Source("tiny", tiny_decoder(), (latents((2, 4, 4))[0],), "student", "TurboVAED"))
    (frames,) = call.reference.module()(*call.examples)
    torch.testing.assert_close(frames, torch.from_numpy(call.sample["frames"]))
    assert call.reference is call.reference  # traced once


def test_flow_sources_without_held_out_pairs_calibrate_on_their_own() -> None:
    images = [torch.rand(1, 3, 40, 48) for _ in range(2)]
    assert flow_source("flow", random_student(**TINY), images).others() == []


@torch.no_grad()
def test_a_lowering_that_changes_the_numbers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Apply(lambda x: torch.tanh(x))
    source = Source("tanh", module, (latents((2, 4, 4))[0],), "module", "Apply", ("video",), ())
    lower = calls.lower

    class Off(nn.Module):
        def __init__(self, inner: nn.Module, share: float) -> None:
            super().__init__()
            self.inner, self.share = inner, share
            self.inputs, self.outputs = inner.inputs, inner.outputs

        def forward(self, *given: torch.Tensor) -> torch.Tensor:
            return self.inner(*given) * (1 + self.share)

    monkeypatch.setattr(calls, "lower", lambda *given: Off(lower(*given), 2e-5))
    with pytest.raises(CheckFailed, match="lowering changed the model"):
        clip_call(source)
    monkeypatch.setattr(calls, "lower", lambda *given: Off(lower(*given), float("nan")))
    with pytest.raises(CheckFailed, match="lowering changed the model"):
        clip_call(source)


class Named(nn.Module):
    """Gives a video and its mean by name, one of them in a list."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        return {"video": torch.tanh(x), "means": [x.mean(dim=(2, 3, 4))]}


@torch.no_grad()
def test_results_in_a_dictionary_and_in_a_list_are_outputs_in_their_order() -> None:
    latent = latents((2, 4, 4))[0]
    call = clip_call(Source("named", Named(), (latent,), "module", "Named", ("video",), ()))
    assert [info.name for info in call.outputs] == ["output_0", "output_1"]
    assert np.array_equal(call.sample["output_0"], to_frames(torch.tanh(latent)).numpy())
    assert np.allclose(call.sample["output_1"], latent.mean(dim=(2, 3, 4)).numpy(), atol=1e-6)


@torch.no_grad()
def test_a_model_may_answer_with_truth_values() -> None:
    source = Source("signs", Apply(lambda x: x > 0), (torch.randn(1, 3, 4, 4),), "module", "Apply", ("image",), ())
    call = clip_call(source)
    assert call.outputs[0].dtype == "bool"
    rounded = rounding(call.program.module(), call.trials[0], call.inputs, None)
    assert rounded == 0
