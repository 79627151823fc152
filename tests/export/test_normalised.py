"""Decoders that undo the normalisation of latents inside: the same video of normalised latents, wholly delegated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from export.normalised import normalised
from export.sources import Source, from_run
from tests.conftest import LATENT_MEAN, LATENT_STD, TARGETS
from toolkit import students
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics

STATISTICS = LatentStatistics(mean=LATENT_MEAN, std=LATENT_STD, origin="AutoencoderKLWan")


def decoder(**config: object) -> Source:
    torch.manual_seed(0)
    student = students.build("turbo_vaed", "demo", {"latent_channels": 4, "widths": [8, 8, 8], **config}).eval()
    latent = torch.randn(1, 4, 3, 8, 8) * 3 + 1
    return Source("tiny", student, (latent,), "student", "TurboVAED", latent_statistics=STATISTICS)


def diffused(latent: torch.Tensor) -> torch.Tensor:
    """A raw latent as a diffusion model has it, channel by channel."""
    channels = [(latent[:, c] - LATENT_MEAN[c]) / LATENT_STD[c] for c in range(4)]
    return torch.stack(channels, 1)


@torch.no_grad()
def test_a_normalised_latent_gives_the_video_of_the_raw_one() -> None:
    raw = decoder()
    folded = normalised(raw)
    torch.testing.assert_close(folded.inputs[0], diffused(raw.inputs[0]))
    torch.testing.assert_close(folded.module(diffused(raw.inputs[0])), raw.module(raw.inputs[0]))


@pytest.mark.slow
def test_every_artifact_of_a_run_takes_normalised_latents(finished_run: Path, tmp_path: Path) -> None:
    run = from_run(finished_run)
    manifest = export.export(normalised(run), TARGETS, tmp_path / "bundle")
    assert manifest.normalized_latents
    assert {a.inputs[0].meaning for a in manifest.artifacts} == {"normalised latent frames (T, C, h, w)"}
    with np.load(tmp_path / "bundle" / "sample.npz") as sample:
        latent, frames = torch.from_numpy(sample["latent"]), torch.from_numpy(sample["frames"])
    torch.testing.assert_close(latent.transpose(0, 1)[None], diffused(run.inputs[0]))
    with torch.no_grad():
        torch.testing.assert_close(frames.transpose(0, 1)[None], run.module(run.inputs[0]))
    plain = export.export(run, TARGETS[1:2], tmp_path / "plain").artifacts[0].graph
    graph = manifest.artifact(TARGETS[1]).graph
    assert [name for name in graph.operators if name.startswith("cpu:")] == [
        name for name in plain.operators if name.startswith("cpu:")
    ]
    assert graph.delegates == plain.delegates


@pytest.mark.slow
def test_a_stream_takes_normalised_latents(tmp_path: Path) -> None:
    manifest = export.export(
        normalised(decoder(temporal_padding="causal")), ["onnx-fp32"], tmp_path / "bundle", mode="stream"
    )
    assert manifest.artifacts[0].inputs[0].meaning == "one normalised latent frame (1, C, h, w)"
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "for one normalised latent frame" in card


def test_where_there_is_nothing_to_undo_the_decoder_is_the_same() -> None:
    identity = LatentStatistics(mean=(0,) * 4, std=(1,) * 4, origin="AutoencoderKL")
    raw = replace(decoder(), latent_statistics=identity)
    assert normalised(raw).module is raw.module
    assert normalised(raw).normalized_latents


def test_unknown_statistics_are_refused() -> None:
    with pytest.raises(UserError, match="--normalized-latents needs the mean and std"):
        normalised(replace(decoder(), latent_statistics=None))
