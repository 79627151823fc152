"""The memory pass: a real child process that loads and runs a real model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from devices import memory
from toolkit.errors import DeviceError


@pytest.fixture
def sample(tmp_path: Path, latent: np.ndarray) -> Path:
    np.savez(tmp_path / "sample.npz", latent=latent)
    return tmp_path / "sample.npz"


@pytest.mark.slow
def test_peak_of_loading_and_running_is_not_below_the_baseline(onnx_model: Path, sample: Path) -> None:
    found = memory.measure("onnx", onnx_model, sample, ["latent"], 1)
    assert found.peak_bytes >= found.baseline_bytes > 1_000_000
    assert found.added_bytes == found.peak_bytes - found.baseline_bytes


@pytest.mark.slow
def test_child_that_fails_is_a_device_error_that_names_artifact_and_reason(tmp_path: Path, sample: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(DeviceError, match=r"broken\.onnx: the memory pass failed \(.*InvalidProtobuf"):
        memory.measure("onnx", tmp_path / "broken.onnx", sample, ["latent"], 1)
