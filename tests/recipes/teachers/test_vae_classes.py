"""Every known class of VAE behind the one adapter, at a small configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from recipes.data.latents import Batch
from recipes.objectives import AutoencoderTask
from recipes.schema import AutoencoderObjective, TeacherSpec
from recipes.teachers import diffusers_vae
from recipes.teachers.diffusers_vae import DiffusersVAE
from tests.conftest import TINY_VAE, tiny_recipe
from tests.export.lowering.check import assert_lowers_exactly
from toolkit.cli.export import teacher_source
from toolkit.errors import UserError
from toolkit.evaluation import Evaluation, Scores

_VIDEO: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [8, 8, 8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_DC_BLOCKS, _DC_SCALES = ["ResBlock", "ResBlock", "EfficientViTBlock"], [[], [], [5]]
CONFIGS: dict[str, dict[str, Any]] = {
    "AutoencoderKLLTXVideo": TINY_VAE,
    "AutoencoderKLHunyuanVideo": _VIDEO,
    "AutoencoderKLCogVideoX": _VIDEO,
    "AutoencoderKLWan": {
        "z_dim": 4,
        "base_dim": 8,
        "dim_mult": [1, 1, 2, 2],
        "num_res_blocks": 1,
        "latents_mean": [0.5, -1.0, 0.0, 2.0],
        "latents_std": [1.0, 2.0, 3.0, 4.0],
    },
    "AutoencoderKL": {
        **_VIDEO,
        "block_out_channels": [8, 8, 8],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    },
    "AutoencoderDC": {
        "latent_channels": 4,
        "attention_head_dim": 8,
        "encoder_block_types": _DC_BLOCKS,
        "decoder_block_types": _DC_BLOCKS,
        "encoder_block_out_channels": [8, 8, 16],
        "decoder_block_out_channels": [8, 8, 16],
        "encoder_layers_per_block": [1, 1, 1],
        "decoder_layers_per_block": [1, 1, 1],
        "encoder_qkv_multiscales": _DC_SCALES,
        "decoder_qkv_multiscales": _DC_SCALES,
        "scaling_factor": 0.5,
    },
}
FACTORS = {  # in space and in time
    "AutoencoderKLLTXVideo": (8, 2),
    "AutoencoderKLHunyuanVideo": (8, 4),
    "AutoencoderKLCogVideoX": (8, 4),
    "AutoencoderKLWan": (8, 4),
    "AutoencoderKL": (4, 1),
    "AutoencoderDC": (4, 1),
}
FEATURE_FRAMES = {  # of up_blocks.0 and up_blocks.1, where a clip has FRAMES
    "AutoencoderKLLTXVideo": (9, 17),
    "AutoencoderKLHunyuanVideo": (5, 9),
    "AutoencoderKLCogVideoX": (9, 17),
    "AutoencoderKLWan": (9, 17),
    "AutoencoderKL": (17, 17),
    "AutoencoderDC": (17, 17),
}
IMAGE_CLASSES = ("AutoencoderKL", "AutoencoderDC")
SIDE = 24
FRAMES = 17  # Hunyuan decodes their 5 latent frames in two overlapping tiles, Cog as 3 and 2, Wan one by one


def make(name: str, **changes: Any) -> DiffusersVAE:
    torch.manual_seed(0)
    return diffusers_vae.build(name, {**CONFIGS[name], **changes}).eval().requires_grad_(False)


def clips(batch: int = 2, frames: int = FRAMES) -> torch.Tensor:
    return torch.rand(batch, 3, frames, SIDE, SIDE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def spec(name: str, folder: Path) -> TeacherSpec:
    return TeacherSpec.model_validate({"kind": "diffusers_vae", "class": name, "weights": str(folder)})


@pytest.fixture(params=diffusers_vae.KNOWN_CLASSES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_saved_vae_loads_and_takes_a_video_there_and_back(name: str, tmp_path: Path) -> None:
    untrained = make(name)
    untrained.vae.save_pretrained(tmp_path)
    teacher = diffusers_vae.load(spec(name, tmp_path))
    space, time = FACTORS[name]
    video = clips(1, 9)
    teacher.check_video(*video.shape[2:])
    latent = teacher.encode(video)
    assert (teacher.latent_channels, teacher.spatial_factor, teacher.temporal_factor) == (4, space, time)
    assert latent.shape == (1, 4, (9 - 1) // time + 1, SIDE // space, SIDE // space)
    assert teacher.decode(latent).shape == video.shape
    assert torch.equal(teacher.decode(latent), untrained.decode(untrained.encode(video)))


def test_numbers_are_those_of_diffusers(name: str) -> None:
    teacher = make(name)
    video = clips(1, 9)
    latent = teacher.encode(video)
    if name in IMAGE_CLASSES:
        encoded = [teacher.vae.encode(frame) for frame in video.unbind(2)]
        latents = [frame.latent if name == "AutoencoderDC" else frame.latent_dist.mode() for frame in encoded]
        expected = torch.stack([teacher.vae.decode(frame).sample for frame in latents], 2)
        torch.testing.assert_close(latent, torch.stack(latents, 2))
    else:
        torch.testing.assert_close(latent, teacher.vae.encode(video).latent_dist.mode())
        expected = teacher.vae.decode(latent).sample
    torch.testing.assert_close(teacher.decode(latent), expected, rtol=1e-4, atol=1e-5)


def test_slices_give_the_numbers_of_the_whole(name: str) -> None:
    teacher = make(name)
    video = clips(2, 9)
    results = []
    for slice_frames in (2, None):
        teacher.slice_frames = slice_frames
        latent = teacher.encode(video, torch.Generator().manual_seed(2))
        results.append((teacher.encode(video), latent, teacher.decode(latent)))
    for sliced, whole in zip(*results, strict=True):
        torch.testing.assert_close(sliced, whole, rtol=1e-4, atol=1e-5)
    assert torch.equal(results[0][0], results[0][1]) == (name == "AutoencoderDC")  # which has nothing to sample


def test_slices_bound_what_goes_through_at_once(name: str) -> None:
    teacher = make(name)
    teacher.slice_frames = 4
    batches: set[int] = set()
    for half in (teacher.vae.encoder, teacher.vae.decoder):
        half.register_forward_hook(lambda _module, args, _output: batches.add(len(args[0])))
    teacher.decode(teacher.encode(clips(3, 9)))
    assert batches == ({4, 1} if name in IMAGE_CLASSES else {1})


@pytest.mark.parametrize("name", IMAGE_CLASSES)
def test_a_vae_that_learns_sees_its_batch_at_once(name: str) -> None:
    task = AutoencoderTask(make(name).train().requires_grad_(True), AutoencoderObjective())
    losses = task(Batch(clips(2, 9)))
    sum(losses.values(), torch.zeros(())).backward()
    assert all(parameter.grad is not None for parameter in task.vae.features_root.parameters())
    assert (losses["kl"] == 0) == (name == "AutoencoderDC")


def test_the_decoder_alone_is_whole_and_holds_no_encoder(name: str) -> None:
    teacher = make(name)
    latent = torch.randn(1, 4, 3, 3, 3)
    assert torch.equal(teacher.decoder(latent), teacher.decode(latent))
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in teacher.vae.named_children()}
    expected = count["decoder"] + count.get("post_quant_conv", 0)
    assert sum(p.numel() for p in teacher.decoder.parameters()) == expected
    assert "encoder" in count  # which the adapter itself keeps


def test_features_are_those_of_the_whole_clip(name: str) -> None:
    teacher = make(name)
    latent = teacher.encode(clips())
    names = ["conv_in", "up_blocks.0", "up_blocks.1", "conv_out"]
    video, features = teacher.decode_with_features(latent, names)
    assert torch.equal(video, teacher.decode(latent))
    assert all(feature.ndim == 5 and len(feature) == 2 for feature in features.values())
    assert features["conv_in"].shape[2:] == latent.shape[2:]
    assert tuple(features[block].shape[2] for block in names[1:3]) == FEATURE_FRAMES[name]
    if name != "AutoencoderKLLTXVideo":  # which rearranges patches after its last layer
        assert torch.equal(features["conv_out"].clamp(-1, 1), video.clamp(-1, 1))


def test_features_of_frames_decoded_one_by_one_are_in_order() -> None:
    teacher = make("AutoencoderKLWan")
    latent = teacher.encode(clips())
    _, features = teacher.decode_with_features(latent, ["conv_in"])
    whole = teacher.features_root.conv_in(teacher.vae.post_quant_conv(latent))  # causal: the same without its cache
    torch.testing.assert_close(features["conv_in"], whole, rtol=1e-4, atol=1e-5)


def test_a_block_that_is_not_there_names_those_that_are() -> None:
    teacher = make("AutoencoderDC")
    with pytest.raises(UserError, match=r"no block 'mid_block'.*up_blocks\.0"):
        teacher.decode_with_features(torch.zeros(1, 4, 1, 3, 3), ["mid_block"])


def test_wan_with_patches_counts_them_as_space() -> None:
    teacher = make("AutoencoderKLWan", patch_size=2, in_channels=12, out_channels=12, is_residual=True)
    video = torch.zeros(1, 3, 5, 32, 48)
    latent = teacher.encode(video)
    assert (teacher.spatial_factor, teacher.temporal_factor) == (16, 4)
    assert latent.shape == (1, 4, 2, 2, 3)
    assert teacher.decode(latent).shape == video.shape


@pytest.mark.parametrize(
    ("name", "taken", "refused", "step"),
    [
        ("AutoencoderKLLTXVideo", 5, 6, 2),
        ("AutoencoderKLHunyuanVideo", 5, 7, 4),
        ("AutoencoderKLCogVideoX", 9, 5, 8),
        ("AutoencoderKLWan", 5, 7, 4),
    ],
)
def test_frames_that_come_back_in_number_are_taken(name: str, taken: int, refused: int, step: int) -> None:
    teacher = make(name)
    for frames in (1, taken):
        teacher.check_video(frames, SIDE, SIDE)
        assert teacher.decode(teacher.encode(clips(1, frames))).shape[2] == frames
    assert teacher.decode(teacher.encode(clips(1, refused))).shape[2] != refused
    with pytest.raises(UserError, match=rf"{refused} does not fit the teacher, which takes {step}k\+1 frames"):
        teacher.check_video(refused, SIDE, SIDE)


@pytest.mark.parametrize("name", IMAGE_CLASSES)
def test_an_image_vae_takes_any_number_of_frames_but_not_any_size(name: str) -> None:
    teacher = make(name)
    for frames in (1, 2, 3):
        teacher.check_video(frames, SIDE, SIDE)
        assert teacher.decode(teacher.encode(clips(1, frames))).shape[2] == frames
    with pytest.raises(UserError, match="multiples of 4"):
        teacher.check_video(3, SIDE, SIDE + 2)


@pytest.mark.parametrize(
    ("name", "changes", "mean", "std"),
    [
        ("AutoencoderKLWan", {}, (0.5, -1.0, 0.0, 2.0), (1.0, 2.0, 3.0, 4.0)),
        ("AutoencoderKLHunyuanVideo", {"scaling_factor": 0.5}, (0.0,) * 4, (2.0,) * 4),
        ("AutoencoderKLCogVideoX", {"scaling_factor": 4.0}, (0.0,) * 4, (0.25,) * 4),
        ("AutoencoderDC", {}, (0.0,) * 4, (2.0,) * 4),
        ("AutoencoderKL", {"scaling_factor": 0.5, "shift_factor": 0.1}, (0.1,) * 4, (2.0,) * 4),
        (
            "AutoencoderKL",
            {"scaling_factor": 0.5, "latents_mean": [1.0, 2.0, 3.0, 4.0], "latents_std": [4.0, 3.0, 2.0, 1.0]},
            (1.0, 2.0, 3.0, 4.0),
            (8.0, 6.0, 4.0, 2.0),
        ),
    ],
)
def test_statistics_are_what_pipelines_undo(
    name: str, changes: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    statistics = make(name, **changes).latent_statistics
    assert (statistics.mean, statistics.std) == (mean, std)


def test_statistics_that_lie_beside_the_weights_are_found(tmp_path: Path) -> None:
    vae = make("AutoencoderKLLTXVideo").vae
    vae.latents_mean.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    vae.latents_std.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    vae.save_pretrained(tmp_path)
    statistics = diffusers_vae.load(spec("AutoencoderKLLTXVideo", tmp_path)).latent_statistics
    assert (statistics.mean, statistics.std) == ((1.0, 2.0, 3.0, 4.0), (4.0, 3.0, 2.0, 1.0))


def test_statistics_of_another_number_of_channels_are_refused() -> None:
    teacher = make("AutoencoderKLWan", z_dim=6)
    with pytest.raises(UserError, match="latents_mean has 4 numbers for latents of 6 channels"):
        _ = teacher.latent_statistics


def test_weights_of_another_class_are_refused(tmp_path: Path) -> None:
    make("AutoencoderKLHunyuanVideo").vae.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"are those of AutoencoderKLHunyuanVideo; set teacher\.class"):
        diffusers_vae.load(spec("AutoencoderKLCogVideoX", tmp_path))


def test_weights_that_are_not_all_there_are_refused(name: str, tmp_path: Path) -> None:
    make(name).vae.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "decoder.conv_in" not in key}, path)
    with pytest.raises(UserError, match=r"no usable weights of .*decoder\.conv_in"):
        diffusers_vae.load(spec(name, tmp_path))


def test_a_decoder_that_takes_a_noise_level_is_refused() -> None:
    with pytest.raises(UserError, match="timestep_conditioning"):
        make("AutoencoderKLLTXVideo", timestep_conditioning=True)


@pytest.fixture
def run(name: str, tmp_path: Path, clip_file: Path) -> Path:
    """What `handheld export --teacher` reads of a run, with a teacher of this class."""
    teacher, run = tmp_path / "teacher", tmp_path / "run"
    make(name).vae.save_pretrained(teacher)
    run.mkdir()
    recipe = tiny_recipe(clip_file, teacher)
    recipe["teacher"]["class"] = name
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    scores = Scores(psnr_db=20.0, ssim=0.5)
    evaluation = Evaluation(clips=1, frames=5, student=scores, teacher=scores, student_params=1, teacher_params=2)
    (run / "evaluation.json").write_text(evaluation.model_dump_json())
    save_file({"latent.0": torch.randn(1, 4, 3, 3, 3)}, run / "samples.safetensors")
    return run


def test_the_exported_teacher_is_the_whole_decoder(name: str, run: Path) -> None:
    source = teacher_source(run)
    with torch.no_grad():
        assert torch.equal(source.module(*source.inputs), make(name).decode(source.inputs[0]))
    assert source.class_name == f"diffusers.{name}.decoder"
    assert source.latent_statistics == make(name).latent_statistics


@pytest.mark.slow
def test_the_exported_teacher_lowers_exactly(name: str, run: Path) -> None:
    assert_lowers_exactly(teacher_source(run).module, (1, 4, 2, 3, 4))
