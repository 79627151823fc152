"""Every target of ONNX Runtime, from a model to a bundle that is verified and profiled on this host."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import export
from devices import host
from export.pipeline import Mode
from export.sources import Source, flow_source, from_module, moving_texture
from tests.export.test_flow import random_student
from toolkit import students

PRECISIONS = ["onnx-fp16", "onnx-int8", "ort-fp32"]
CONFIG = "model.required_operators.config"


def causal_student() -> Source:
    torch.manual_seed(0)
    config = {"latent_channels": 4, "widths": [8, 8, 8], "temporal_padding": "causal"}
    student = students.build("turbo_vaed", "demo", config)
    return Source("causal", student, (torch.randn(1, 4, 3, 8, 8),), "student", "toolkit.students.turbo_vaed")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["clip", "stream"])
def test_a_student_in_every_precision(mode: Mode, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    manifest = export.export(causal_student(), PRECISIONS, bundle, mode=mode)
    assert [artifact.target for artifact in manifest.artifacts] == PRECISIONS
    assert all(artifact.parity.passed and artifact.parity.how == "executed" for artifact in manifest.artifacts)
    assert all(artifact.graph.max_rank <= 4 for artifact in manifest.artifacts)
    assert "QuantizeLinear" in manifest.artifact("onnx-int8").graph.operators
    assert CONFIG in manifest.files
    assert all(parity.passed for parity in export.verify(bundle).values())
    for target, path in host.runnable(bundle, manifest)[1:]:
        loaded = host.load(bundle, manifest, target, path, threads=1)
        assert loaded.parity.passed
        assert loaded.engine.operators()


@pytest.mark.slow
def test_a_flow_student_in_every_precision(tmp_path: Path) -> None:
    source = flow_source("flow", random_student(), moving_texture((64, 96)))
    manifest = export.export(source, PRECISIONS, tmp_path / "bundle")
    assert all(artifact.parity.passed for artifact in manifest.artifacts)


class Picked(nn.Module):
    """A layer over rows that integers pick, where a mask is true."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, rows: torch.Tensor, index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, self.layer(rows[index]), 0.0)


def picked() -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    torch.manual_seed(0)
    return Picked(), (torch.randn(5, 4), torch.tensor([4, 0, 1]), torch.tensor([True, False, True, True]))


def test_a_module_of_integers_and_truth_values_in_every_precision(tmp_path: Path) -> None:
    manifest = export.export(from_module(f"{__name__}:picked"), PRECISIONS, tmp_path / "bundle")
    assert [info.dtype for info in manifest.artifacts[0].inputs] == ["float32", "int64", "bool"]
    assert all(artifact.parity.passed for artifact in manifest.artifacts)
