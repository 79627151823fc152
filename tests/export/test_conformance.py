"""The published layouts give their authors' numbers in every exported format too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.lowering.lower import lower, program_of, to_frames, to_video
from export.sources import from_weights
from export.targets import Conversion, find_target
from tests.conformance import NAMES, truth
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics

#: Half precision moves numbers near zero further than fp32 does.
THRESHOLDS = {"onnx-fp32": 1e-2, "executorch-xnnpack-fp32": 1e-2, "coreml-fp16": 5e-2}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("target_name", THRESHOLDS)
def test_an_artifact_of_a_published_layout_gives_its_authors_video(tmp_path: Path, name: str, target_name: str) -> None:
    known, target = truth(name), find_target(target_name)
    frames = to_frames(known.latent)
    program = program_of(lower(known.student, (known.latent,)), [frames])
    path = tmp_path / target.file_name
    written = target.convert(Conversion(program, ["latent", "frames"]), path)
    assert written.max_rank <= 4
    result = torch.from_numpy(target.open(path).call([frames.numpy()])[0])
    error = (known.seen(to_video(result)) - known.video)[known.comparable(THRESHOLDS[target_name])]
    scale = float(known.video.abs().max())
    if target_name.endswith("fp32"):
        assert error.abs().max() <= target.tolerance.max_share * scale  # type: ignore[operator]
    else:
        assert 20 * np.log10(scale / float(error.square().mean().sqrt())) >= 50


def test_published_weights_become_a_source_of_their_own(tmp_path: Path) -> None:
    known, path = truth("hunyuan"), tmp_path / "published.safetensors"
    weights = {f"decoder.{key}": value for key, value in known.student.state_dict().items()}
    save_file({**weights, "latents_mean": torch.zeros(8), "latents_std": torch.full((8,), 2.0)}, path)
    overrides = known.student.config.model_dump()
    source, aside = from_weights("turbo_vaed:hunyuan", path, overrides, shape=(2, 3, 4))
    assert aside == []
    assert source.latent_statistics == LatentStatistics(mean=(0,) * 8, std=(2,) * 8, origin="published.safetensors")
    assert source.inputs[0].shape == (1, 8, 2, 3, 4)
    with torch.no_grad():
        assert torch.equal(source.module(known.latent), known.student(known.latent))


def test_a_student_that_is_not_named_in_full_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected KIND:PRESET"):
        from_weights("turbo_vaed", tmp_path / "published.safetensors")
