"""How long an artifact of ExecuTorch may take in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import isolation
from toolkit.bundle import read_manifest
from toolkit.errors import CheckFailed


def test_only_what_the_runtime_executes_has_a_time_limit(
    exported_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation of another delegate is as slow as the model is large."""
    manifest = read_manifest(exported_bundle)
    artifact = manifest.artifact("executorch-xnnpack-fp32")
    monkeypatch.setattr(isolation, "TIMEOUT_S", 0.01)
    with pytest.raises(CheckFailed, match=r"did not end within 0\.01 s"):
        isolation.check(exported_bundle, manifest, artifact)
    evaluated = artifact.model_copy(update={"target": "executorch-vulkan-fp16"})
    with pytest.raises(CheckFailed, match="has no artifact for executorch-vulkan-fp16"):  # the child ended by itself
        isolation.check(exported_bundle, manifest, evaluated)
