"""What several test modules share: a small clip, a small teacher, a recipe over both, a finished run, a bundle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from hypothesis import settings
from torch import nn
from torch.nn import functional as F

TINY_VAE: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "decoder_block_out_channels": [8, 8],
    "down_block_types": ["LTXVideoDownBlock3D", "LTXVideoDownBlock3D"],
    "layers_per_block": [1, 1, 1],
    "decoder_layers_per_block": [1, 1, 1],
    "spatio_temporal_scaling": [True, False],
    "decoder_spatio_temporal_scaling": [True, False],
    "decoder_inject_noise": [False, False, False],
    "downsample_type": ["conv", "conv"],
    "upsample_residual": [False, False],
    "upsample_factor": [1, 1],
    "patch_size": 4,
    "spatial_compression_ratio": 8,
    "temporal_compression_ratio": 2,
}
LATENT_MEAN, LATENT_STD = (0.5, -1.0, 0.0, 2.0), (1.0, 2.0, 3.0, 4.0)
TARGETS = ["onnx-fp32", "executorch-xnnpack-fp32", "coreml-fp16"]

# No artifact of a test comes from the cache, its session's bundles included: what is proved was made here and now.
os.environ["HANDHELD_CACHE"] = "off"
# No test asks a hub, whose client would wait and try again where none can be reached.
os.environ["HF_HUB_OFFLINE"] = "1"

torch.set_num_threads(1)  # what a session's fixtures make is made before the first test sets it

settings.register_profile("handheld", deadline=None, database=None, max_examples=50)
settings.load_profile("handheld")

RecipeWriter = Callable[..., Path]


class Apply(nn.Module):
    """A module around a function."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Warp(nn.Module):
    """A picture's features, looked up where a convolution says."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.flow = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 2, 3, padding=1)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        rows, columns = (torch.linspace(-1, 1, size) for size in image.shape[2:])
        places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"))[None]
        grid = (places + 0.1 * torch.tanh(self.flow(image))).permute(0, 2, 3, 1)
        return torch.relu(self.last(F.grid_sample(self.features(image), grid, align_corners=True)))


def write_clip(path: Path, frames: int = 20, height: int = 48, width: int = 64) -> Path:
    """A moving gradient as an MPEG-4 file."""
    rows, columns = np.mgrid[0:height, 0:width]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            picture = np.stack([(rows * 4 + number * 3) % 256, (columns * 3 + number * 5) % 256, rows + columns], -1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")))
        container.mux(stream.encode())
    return path


#: What takes a training or an export to make: a test that asks for it is none of the fast ones.
COSTLY = {"finished_run", "exported_bundle", "flow_bundle"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what asks for a costly fixture."""
    for item in items:
        if COSTLY & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Each worker has one thread, whatever a test before set: sums over threads differ in their last bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def plain_scheduling() -> Iterator[None]:
    """No test may leave its worker with real-time priority, as encoders may do for root: it would starve all others."""
    yield
    if hasattr(os, "sched_getscheduler"):
        policy = os.sched_getscheduler(0)
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        assert policy == os.SCHED_OTHER


@pytest.fixture
def no_memory_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is not measured on this host: each candidate's pass imports a runtime in a process of its own."""
    from devices import memory
    from devices.records import Memory

    monkeypatch.setattr(memory, "measure", lambda *_arguments: Memory(baseline_bytes=1, peak_bytes=2))


Shared = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """Makes a path under a name by a function of it, once for all workers: the first makes it, the others wait."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = root / f"shared_{name}"
        with FileLock(f"{folder}.lock"):
            if not (folder / "whole").exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
                folder.mkdir()
                make(folder / name)
                (folder / "whole").touch()
        return folder / name

    return made


@pytest.fixture(scope="session")
def clip_file(shared: Shared) -> Path:
    return shared("clip.mp4", write_clip)


@pytest.fixture(scope="session")
def teacher_folder(shared: Shared) -> Path:
    """An untrained AutoencoderKLLTXVideo at tiny width with statistics of its latents, saved as diffusers saves it."""
    from recipes.teachers.diffusers_vae import build

    def make(folder: Path) -> None:
        torch.manual_seed(0)
        vae = build("AutoencoderKLLTXVideo", TINY_VAE).vae
        vae.latents_mean.copy_(torch.tensor(LATENT_MEAN))
        vae.latents_std.copy_(torch.tensor(LATENT_STD))
        vae.save_pretrained(folder)

    return shared("teacher", make)


def tiny_recipe(clip: Path, teacher: Path) -> dict[str, Any]:
    """A distillation of a few steps; every key that a test may want to change is there."""
    clips = {"kind": "clips", "path": str(clip), "frames": 5}
    return {
        "name": "tiny",
        "teacher": {"kind": "diffusers_vae", "class": "AutoencoderKLLTXVideo", "weights": str(teacher)},
        "student": {"kind": "turbo_vaed", "preset": "demo", "latent_channels": 4, "widths": [8, 8, 8]},
        "data": {
            "train": {**clips, "range": [0, 12], "size": [32, 32]},
            "validation": {**clips, "range": [12, 20]},
        },
        "objective": {
            "reconstruction": {"loss": "l1", "against": "video"},
            "features": [{"student": "up_blocks.1", "teacher": "up_blocks.1", "weight": 0.1}],
        },
        "phases": [{"steps": 6, "lr": 1e-3, "warmup": 2}],
        "trainer": {
            "batch": 1,
            "accumulate": 2,
            "precision": "32-true",
            "ema": 0.5,
            "validate_every": 3,
            "checkpoint_every": 2,
            "log_every": 1,
        },
    }


@pytest.fixture
def write_recipe(tmp_path: Path, clip_file: Path, teacher_folder: Path) -> RecipeWriter:
    """Writes the tiny recipe after a change to it, and gives its path."""

    def write(change: Callable[[dict[str, Any]], None] = lambda _recipe: None) -> Path:
        recipe = tiny_recipe(clip_file, teacher_folder)
        change(recipe)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return write


@pytest.fixture(scope="session")
def finished_run(shared: Shared, clip_file: Path, teacher_folder: Path) -> Path:
    """A run directory as `distill` leaves it. Read only: copy it to change it."""
    import recipes

    def make(run: Path) -> None:
        recipe = run.with_name("recipe.yaml")
        recipe.write_text(yaml.safe_dump(tiny_recipe(clip_file, teacher_folder)))
        recipes.distill(recipes.load_recipe(recipe), run)

    return shared("run", make)


@pytest.fixture(scope="session")
def exported_bundle(shared: Shared, finished_run: Path) -> Path:
    """A bundle with all three targets. Read only: copy it to change it."""
    import export

    def make(bundle: Path) -> None:
        export.export(export.from_run(finished_run), TARGETS, bundle, command="handheld export run")

    return shared("bundle", make)


@pytest.fixture(scope="session")
def flow_bundle(shared: Shared) -> Path:
    """An untrained optical-flow student of 64x96 pixels as ONNX. Read only."""
    import export
    from export.sources import flow_source, moving_texture
    from tests.export.test_flow import random_student

    def make(bundle: Path) -> None:
        export.export(flow_source("flow", random_student(), moving_texture((64, 96))), ["onnx-fp32"], bundle)

    return shared("flow", make)
