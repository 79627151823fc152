"""`verify --deep`, and which operator of a bundle's artifact is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import export
from tests.export import planted


def test_every_artifact_is_run_on_the_further_inputs(exported_bundle: Path) -> None:
    results = export.verify_deeply(exported_bundle)
    assert len(results) == 3
    for checks in results.values():
        assert {"zeros", "constant", "extremes", "noise"} <= {check.name for check in checks}
        assert all(check.passed for check in checks)


def test_the_wrong_operator_of_a_bundles_artifact_is_named(exported_bundle: Path, tmp_path: Path) -> None:
    """The reference lowered again has the names of the artifact's nodes."""
    bundle = tmp_path / "bundle"
    shutil.copytree(exported_bundle, bundle)
    name = planted.replace_onnx_operator(bundle / "model.onnx", "Add", "Sub", 3)
    planted.change_onnx_weight(bundle / "model.onnx", "conv_out_conv_bias")
    line = export.culprits(bundle, ["onnx-fp32"])["onnx-fp32"]
    assert line.startswith(f"first wrong: Sub '{name}' (after ")
