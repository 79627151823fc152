"""Artifacts that take or give pixel buffers: the profilers, which make none, leave them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from devices.apple.profiler import runnable
from tests.devices.apple.apple_phone import coreml_bundle
from toolkit.bundle import open_bundle


def test_artifacts_with_pictures_are_left_out(tmp_path: Path) -> None:
    frames = np.ones((2, 3, 4, 4), np.float32)
    bundle = coreml_bundle(tmp_path / "tiny", frames, frames, {"coreml-image-fp16": 2.0, "coreml-fp16": 2.0})
    manifest = open_bundle(bundle)
    pictures, tensors = manifest.artifacts
    outputs = [pictures.outputs[0].model_copy(update={"name": "frame_0", "dtype": "uint8"})]
    pictures = pictures.model_copy(update={"outputs": outputs})
    assert (pictures.has_pictures, tensors.has_pictures) == (True, False)
    manifest = manifest.model_copy(update={"artifacts": [pictures, tensors]})
    assert manifest.signature == tensors
    assert [target for target, *_ in runnable(bundle, manifest, ["all"], executorch=False)] == ["coreml-fp16"]
