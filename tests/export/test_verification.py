"""`verify --deep`, and which operator of a bundle's artifact is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from export.calls import clip_call, stream_call
from export.sources import Source
from export.trials import to_arrays
from export.verification import calibration
from tests.conftest import Apply
from tests.export import planted
from tests.export.test_calls import latents, tiny_decoder
from toolkit import reference
from toolkit.bundle import read_manifest, seal
from toolkit.errors import CheckFailed


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


@pytest.mark.slow
@pytest.mark.parametrize("is_stream", [False, True])
@torch.no_grad()
def test_a_fresh_conversion_is_calibrated_as_the_export_was(is_stream: bool) -> None:
    """From what a bundle keeps: further inputs, and of a stream its clip, whose steps are made again."""
    shape, options = ((3, 8, 8), {"temporal_padding": "causal"}) if is_stream else ((2, 4, 4), {})
    first, *others = latents(shape, shape, shape)
    held = tuple((other,) for other in others)
    source = Source("tiny", tiny_decoder(**options), (first,), "student", "TurboVAED", held_out=held)
    call = stream_call(source) if is_stream else clip_call(source)
    module = call.program.module()
    given = calibration(lambda arrays: to_arrays(module(*map(torch.from_numpy, arrays))), call.sample, call)
    assert len(given) == len(call.calibration) > 2
    pairs = [zip(*calls, strict=True) for calls in zip(given, call.calibration, strict=True)]
    assert all(np.allclose(one, other, atol=1e-5) for pair in pairs for one, other in pair)


@pytest.mark.slow
def test_a_bundle_whose_artifact_keeps_its_states_is_verified(tmp_path: Path) -> None:
    """Its reference takes the states: they are of the manifest though no artifact takes them."""
    source = Source("tiny", tiny_decoder(temporal_padding="causal"), (latents((3, 8, 8))[0],), "student", "TurboVAED")
    manifest = export.export(source, ["coreml-state-fp16"], tmp_path / "bundle", mode="stream")
    given, taken = manifest.signature.inputs, manifest.signature.outputs
    states = [state.name for state in manifest.artifacts[0].states]
    assert states
    assert [info.name for info in given] == ["latent", "first", *states]
    assert [info.name for info in taken] == ["frames", *(f"next_{name}" for name in states)]
    checks = export.verify_deeply(tmp_path / "bundle")["coreml-state-fp16"]
    assert {"zeros", "noise"} <= {check.name for check in checks}
    assert all(check.passed for check in checks)
    assert export.culprits(tmp_path / "bundle", ["coreml-state-fp16"])["coreml-state-fp16"]


def test_a_reference_that_takes_something_else_ends_in_one_line(exported_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(exported_bundle, bundle)
    reference.save(torch.export.export(Apply(torch.relu), (torch.zeros(1, 2),)), bundle / "reference.pt2")
    seal(bundle, read_manifest(exported_bundle))
    with pytest.raises(CheckFailed, match=r"reference\.pt2: does not run on the inputs that the manifest names"):
        export.verify_deeply(bundle)
    with pytest.raises(CheckFailed, match=r"reference\.pt2: does not run on the inputs"):
        export.culprits(bundle, ["onnx-fp32"])
