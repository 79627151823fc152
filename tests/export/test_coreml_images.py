"""Core ML with pictures: what the package takes and gives, its parity, and what a bundle says of it."""

from __future__ import annotations

from pathlib import Path

import coremltools
import numpy as np
import pytest
import torch
from torch import nn

import export
from export.coreml_images import adapt, convert_images, load_images
from export.sources import flow_source, from_run, moving_texture
from export.targets import Conversion, find_target
from tests.export import coreml_nets as nets
from tests.export.test_flow import TINY, random_student
from toolkit.bundle import TensorInfo
from toolkit.errors import UserError

TARGET = find_target("coreml-image-fp16")


class Decoder(nn.Module):
    """Two frames, some of whose pixels are beyond [-1, 1], and something else."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.conv(latent), latent.mean((1, 2, 3), keepdim=True)


class Running(nn.Module):
    """A step of a stream with one state."""

    def forward(self, latent: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        frames = torch.tanh(latent + state)
        return frames, frames / 2


def image_types(path: Path) -> tuple[list[str], list[str]]:
    """Names of the inputs, then of the outputs that are RGB pictures."""
    spec = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description
    rgb = [
        [v.name for v in values if v.type.WhichOneof("Type") == "imageType" and v.type.imageType.colorSpace == 20]
        for values in (spec.input, spec.output)
    ]
    return rgb[0], rgb[1]


def write(tmp_path: Path, **changes: object) -> tuple[Path, torch.Tensor]:
    latent = 2 * torch.randn(2, 4, 6, 8)
    program = torch.export.export(Decoder().eval(), (latent,))
    path = tmp_path / TARGET.file_name
    TARGET.convert(Conversion(program, ["latent", "frames", "level"], **changes), path)  # type: ignore[arg-type]
    return path, latent


@pytest.mark.slow
def test_every_frame_is_a_picture(tmp_path: Path) -> None:
    path, latent = write(tmp_path)
    assert image_types(path) == ([], ["frame_0", "frame_1"])
    assert nets.version(path) == 8
    with torch.no_grad():
        frames, level = (tensor.numpy() for tensor in Decoder().eval()(latent))
    assert np.abs(frames).max() > 1
    *pictures, last = load_images(path).call([latent.numpy()])
    given = [TensorInfo(name="latent", shape=(2, 4, 6, 8), dtype="float32", meaning="")]
    infos = [TensorInfo(name=name, shape=(1,), dtype="float32", meaning="") for name in ("frames", "level")]
    inputs, outputs, sample = adapt(given, infos, {"frames": frames})
    assert inputs == given
    assert [info.name for info in outputs] == ["frame_0", "frame_1", "level"]
    assert outputs[0].meaning == "frame of the video: an RGB image of 8x6 (a CVPixelBuffer), 8 bits a channel"
    for number, picture in enumerate(pictures):
        assert picture.shape == (1, 3, 6, 8)
        assert np.array_equal(picture, np.rint(picture))
        assert (picture.min(), picture.max()) == (0, 255)
        assert np.abs(picture - sample[f"frame_{number}"]).max() <= 1
    np.testing.assert_allclose(last, level, atol=2e-3)


@pytest.mark.slow
def test_wide_nodes(tmp_path: Path) -> None:
    path, _latent = write(tmp_path, wide=frozenset({"conv2d"}))
    assert nets.types(path) == ["fp32"]


def test_what_has_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is for video decoders and optical flow"):
        nets.write(TARGET.name, tmp_path)


@pytest.mark.slow
def test_a_decoder_as_a_bundle(tmp_path: Path, finished_run: Path) -> None:
    manifest = export.export(from_run(finished_run), [TARGET.name], tmp_path / "bundle", shape=(2, 4, 4))
    artifact = manifest.artifact(TARGET.name)
    assert (artifact.outputs[0].name, artifact.outputs[0].dtype) == ("frame_0", "uint8")
    assert artifact.parity.passed
    assert export.verify(tmp_path / "bundle")[TARGET.name].passed
    assert export.verify_deeply(tmp_path / "bundle") == {TARGET.name: []}  # it gives pictures, the reference frames
    with np.load(tmp_path / "bundle/sample.npz") as sample:
        assert sample["frame_0"].dtype == np.uint8


@pytest.mark.slow
def test_a_streams_frames_are_put_together_and_its_states_are_tensors(tmp_path: Path) -> None:
    names = ["latent", "state_0", "frames", "next_state_0"]
    latent, state = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    program = torch.export.export(Running(), (latent, state))
    TARGET.convert(Conversion(program, names), tmp_path / TARGET.file_name)
    assert image_types(tmp_path / TARGET.file_name) == ([], ["frame_0", "frame_1"])
    frames, after = load_images(tmp_path / TARGET.file_name).call([latent.numpy(), state.numpy()])
    expected = torch.tanh(latent + state).numpy()
    assert np.abs(frames - expected).max() < 1.1 / 127.5
    np.testing.assert_allclose(after, expected / 2, atol=2e-3)


@pytest.mark.slow
def test_optical_flow_takes_pictures(tmp_path: Path) -> None:
    source = flow_source("flow", random_student(**TINY), moving_texture((32, 48)))
    manifest = export.export(source, ["onnx-fp32", TARGET.name], tmp_path / "bundle", jobs=1)
    artifact = manifest.artifact(TARGET.name)
    assert all(found.passed for found in export.verify(tmp_path / "bundle").values())
    path = tmp_path / "bundle" / artifact.path
    assert image_types(path) == (["image1", "image2"], [])
    assert [info.dtype for info in (*artifact.inputs, *artifact.outputs)] == ["uint8", "uint8", "float32"]
    assert artifact.parity.passed


def test_one_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml-image-fp16: holds one size"):
        convert_images(nets.conversion(sizes={"tall": nets.program((12, 10))}), tmp_path / "x.mlpackage", None)  # type: ignore[arg-type]
