"""Published checkpoints: loaded strictly, extra training weights named, everything else refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from toolkit import students
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics
from toolkit.students import Student
from toolkit.students.weights import load_published

SMALL = {"latent_channels": 2, "widths": (16, 16, 16), "layers": (1, 1, 1), "separable_transitions": True}
EXTRA = {
    "aligned_feature_projection_heads.0.conv1.weight": torch.ones(2),
    "latents_mean": torch.zeros(2),
    "latents_std": torch.ones(2),
}


class Anything:
    """What a pickle may hold beside tensors."""


def small() -> Student:
    return students.build("turbo_vaed", "demo", SMALL)


def released(student: Student) -> dict[str, torch.Tensor]:
    return {f"decoder.{name}": value for name, value in student.state_dict().items()}


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "in a training checkpoint"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_released_checkpoint_loads_and_its_extras_are_named(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    source, path = small(), tmp_path / f"weights{suffix}"
    content = {**released(source), **EXTRA}
    if suffix == ".safetensors":
        save_file(content, path)
    else:
        torch.save({"state_dict": content, "step": 3} if wrapped else content, path)
    target = small()
    published = load_published(target, path)
    assert published.aside == sorted(EXTRA)
    assert published.statistics is None  # zeros and ones are the buffers' defaults, which say nothing
    latent = torch.randn(1, 2, 2, 2, 2)
    torch.testing.assert_close(target(latent), source(latent))


def test_statistics_beside_the_weights_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    statistics = {"vae.latents_mean": torch.zeros(2).half(), "vae.latents_std": torch.tensor([[0.5], [1.0]])}
    torch.save({**released(small()), **statistics}, path)
    published = load_published(small(), path)
    assert published.aside == []
    assert published.statistics == LatentStatistics(mean=(0.0, 0.0), std=(0.5, 1.0), origin="weights.pth")


def test_a_mean_without_a_std_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({**released(small()), "latents_mean": torch.ones(2)}, path)
    published = load_published(small(), path)
    assert (published.aside, published.statistics) == (["latents_mean"], None)


@pytest.mark.parametrize(
    ("std", "message"),
    [
        (torch.ones(3), "latents_std has 3 numbers for latents of 2 channels"),
        (torch.tensor([1.0, -1.0]), r"std\.1: .*greater than 0"),
        (torch.tensor([1.0, torch.nan]), r"std\.1: .*finite"),
    ],
)
def test_statistics_that_cannot_be_undone_are_refused(tmp_path: Path, std: torch.Tensor, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({**released(small()), "latents_mean": torch.ones(2), "latents_std": std}, path)
    with pytest.raises(UserError, match=message):
        load_published(small(), path)


def test_half_precision_weights_become_fp32(tmp_path: Path) -> None:
    path, student = tmp_path / "half.safetensors", small()
    save_file({name: value.half() for name, value in released(student).items()}, path)
    load_published(student, path)
    assert {value.dtype for value in student.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("decoder.conv_in.conv.bias"), "it lacks conv_in.conv.bias"),
        (lambda w: w.update({"encoder.conv.weight": torch.ones(1)}), "has beside it encoder.conv.weight"),
        (
            lambda w: w.update({"decoder.conv_in.conv.bias": torch.ones(3)}),
            r"conv_in.conv.bias is \[3\] instead of \[16\]",
        ),
    ],
)
def test_a_real_mismatch_is_refused_by_name(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    weights, path = released(small()), tmp_path / "weights.safetensors"
    change(weights)
    save_file(weights, path)
    with pytest.raises(UserError, match=message):
        load_published(small(), path)


def test_a_file_that_is_missing_damaged_or_no_state_dict_is_refused(tmp_path: Path) -> None:
    damaged, empty, page = (tmp_path / name for name in ("damaged.safetensors", "empty.pth", "page.pth"))
    page.write_text("<!DOCTYPE html>")
    damaged.write_bytes(b"no weights")
    torch.save({"step": 1}, empty)
    for path, message in (
        (tmp_path / "none.pth", "no such file"),
        (damaged, "cannot be read"),
        (empty, "by name"),
        (page, "download it again"),
    ):
        with pytest.raises(UserError, match=message):
            load_published(small(), path)


def test_a_pickle_that_could_run_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({**released(small()), "extra": Anything()}, path)
    with pytest.raises(UserError, match="could run code"):
        load_published(small(), path)
