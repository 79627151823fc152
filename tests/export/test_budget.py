"""A budget goes from the call through the artifact into the manifest, the command line's words and the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import devices
import export
from export import parity, pipeline
from export.calls import clip_call
from export.sources import Source
from export.targets import find_target
from tests.devices.report.report_page import Page
from tests.export.test_sensitivity import Outlying
from toolkit.bundle import read_manifest
from toolkit.cli.export import _parse_budget, print_mixed
from toolkit.errors import CheckFailed, UserError
from toolkit.parity import Parity, Tolerance


def source() -> Source:
    torch.manual_seed(1)
    inputs = [(torch.randn(1, 3, 8, 8),) for _ in range(2)]
    return Source("outlying", Outlying().eval(), inputs[0], "module", "Outlying", ("x",), ("y",), task=None)


@pytest.mark.slow
def test_the_fewest_layers_are_kept_told_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / "bundle"
    manifest = export.export(source(), ["onnx-fp32", "onnx-int8"], bundle, budget_db=35, jobs=1)
    assert manifest.artifact("onnx-fp32").mixed_precision is None
    artifact = read_manifest(bundle).artifact("onnx-int8")
    mixed = artifact.mixed_precision
    assert mixed is not None
    assert [layer.layer for layer in mixed.layers if layer.kept] == ["outlying"]
    assert mixed.reached_db is not None
    assert mixed.reached_db >= 35
    assert artifact.parity.psnr_db is not None
    assert artifact.parity.psnr_db >= 35
    session = find_target("onnx-int8").open(bundle / artifact.path)
    assert session.how == "executed"
    print_mixed(manifest)
    told = capsys.readouterr().out
    assert "onnx-int8: 1 of 3 layers kept for 35 dB" in told
    assert "outlying" in told
    devices.report([bundle], tmp_path / "page.html")
    page = Page(tmp_path / "page.html")
    assert "onnx-int8: 1 of 3 layers keep the higher precision" in page.text
    assert page.row("outlying")[-1] == "kept"
    assert page.row("last")[-1] == "reduced"


def test_a_budget_out_of_reach_leaves_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="dB is the best that keeping layers reaches"):
        export.export(source(), ["onnx-int8"], tmp_path / "bundle", budget_db=300)
    assert not (tmp_path / "bundle").exists()


@torch.no_grad()
def test_a_further_size_that_misses_the_budget_fails_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parity is told as 35 dB."""
    call, target = clip_call(source()), find_target("coreml-int8")
    known = Parity(
        how="executed", runtime="", max_abs=1, scale=1, psnr_db=35, tolerance=Tolerance(min_psnr_db=30), passed=True
    )
    monkeypatch.setattr(parity, "check_deeply", lambda *_args, **_options: parity.Proof(known, [], None))
    assert pipeline._size(target, tmp_path, "size_16x16", call, 30).parity == known
    assert pipeline._size(target, tmp_path, "size_16x16", call, None).parity == known
    with pytest.raises(CheckFailed, match=r"coreml-int8 size_16x16: 35\.0 dB, and the budget is 40 dB"):
        pipeline._size(target, tmp_path, "size_16x16", call, 40)


def test_a_budget_without_a_lower_precision_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="onnx-fp32: no lower precision that a budget could bound"):
        export.export(source(), ["onnx-fp32"], tmp_path / "bundle", budget_db=40)


@pytest.mark.parametrize("text", ["40", "psnr", "psnr=", "psnr=-3", "psnr=nan", "psnr=inf", "ssim=0.9"])
def test_a_budget_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"expected psnr=DB, such as psnr=40"):
        _parse_budget(text)
    assert _parse_budget("psnr=37.5") == 37.5
    assert _parse_budget(None) is None
