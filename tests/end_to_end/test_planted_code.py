"""Code planted in weights and checkpoints never runs, whichever command reads them.

What is planted in a bundle is in `tests/toolkit/test_reference.py` and `tests/toolkit/test_sample.py`.
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes.rundir import RunDirectory
from recipes.schema import TeacherSpec
from recipes.teachers import diffusers_vae, raft
from tests.toolkit.test_reference import Plants
from toolkit.errors import UserError
from toolkit.students import build
from toolkit.students.weights import load_published


def pickled(path: Path, marker: Path) -> Path:
    """A checkpoint of torch's, whose pickle makes `marker`."""
    torch.save({"state_dict": {"x": torch.ones(1)}, "extra": Plants(marker)}, path)
    return path


def bare(path: Path, marker: Path) -> Path:
    """The same without torch's archive around it."""
    path.write_bytes(pickle.dumps(Plants(marker)))
    return path


@pytest.mark.parametrize("plant", [pickled, bare])
def test_planted_code_never_runs(plant: Callable[[Path, Path], Path], tmp_path: Path, teacher_folder: Path) -> None:
    marker = tmp_path / "marker"
    vae = tmp_path / "vae"
    shutil.copytree(teacher_folder, vae)
    (vae / "diffusion_pytorch_model.safetensors").unlink()
    plant(vae / "diffusion_pytorch_model.bin", marker)
    teacher = {"kind": "diffusers_vae", "class": "AutoencoderKLLTXVideo", "weights": str(vae)}
    readers: list[Callable[[], object]] = [
        lambda: diffusers_vae.load(TeacherSpec.model_validate(teacher)),
        lambda: raft.Raft("raft_small", plant(tmp_path / "raft.pth", marker)),
        lambda: load_published(build("turbo_vaed", "demo"), plant(tmp_path / "weights.pth", marker)),
        lambda: RunDirectory(tmp_path).load_checkpoint(plant(tmp_path / "last.pt", marker)),
    ]
    for reader in readers:
        with pytest.raises(UserError):
            reader()
        assert not marker.exists()
