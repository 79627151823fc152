"""The diffusers adapter: loading, shapes, and what it says where there are no weights."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from recipes.schema import TeacherSpec
from recipes.teachers import diffusers_vae
from toolkit.errors import UserError


def spec(weights: str, class_name: str = "AutoencoderKLLTXVideo") -> TeacherSpec:
    return TeacherSpec.model_validate({"kind": "diffusers_vae", "class": class_name, "weights": weights})


def test_the_adapter_gives_what_diffusers_gives(teacher_folder: Path) -> None:
    teacher = diffusers_vae.load(spec(str(teacher_folder)))
    vae = diffusers.AutoencoderKLLTXVideo.from_pretrained(teacher_folder).eval()
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        latent = vae.encode(video).latent_dist.mode()
        assert torch.equal(teacher.encode(video), latent)
        assert torch.equal(teacher.decode(latent), vae.decode(latent).sample)
        assert torch.equal(teacher.decoder(latent), vae.decode(latent).sample)
    assert latent.shape == (1, teacher.latent_channels, 3, 32 // teacher.spatial_factor, 4)
    assert teacher.temporal_factor == 2


def test_a_teacher_is_frozen_and_in_evaluation_mode(teacher_folder: Path) -> None:
    teacher = diffusers_vae.load(spec(str(teacher_folder)))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.vae.training


def test_the_embedded_teacher_loads_by_the_same_path() -> None:
    teacher = diffusers_vae.load(spec("asset:tiny-video-vae"))
    assert (teacher.latent_channels, teacher.spatial_factor, teacher.temporal_factor) == (16, 8, 2)


def test_missing_weights_say_how_to_fetch_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"hf download .* --local-dir DIR.*teacher\.weights=DIR"):
        diffusers_vae.load(spec(str(tmp_path / "nothing")))


def test_damaged_weights_are_refused(teacher_folder: Path, tmp_path: Path) -> None:
    for file in teacher_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="no usable weights"):
        diffusers_vae.load(spec(str(tmp_path)))


def test_an_unknown_class_names_the_known_ones(teacher_folder: Path) -> None:
    with pytest.raises(UserError, match="AutoencoderKLLTXVideo"):
        diffusers_vae.load(spec(str(teacher_folder), "AutoencoderKLLTX"))


@pytest.mark.parametrize(("frames", "height", "width"), [(4, 32, 32), (5, 33, 32), (5, 32, 36)])
def test_clips_that_do_not_survive_the_teacher_are_refused(
    teacher_folder: Path, frames: int, height: int, width: int
) -> None:
    with pytest.raises(UserError, match="does not fit the teacher"):
        diffusers_vae.load(spec(str(teacher_folder))).check_video(frames, height, width)
