"""RAFT with weights from a file; what is said where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision.models.optical_flow import raft_small

from recipes.teachers.raft import Raft, cached_weights
from toolkit.errors import UserError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "raft_small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


def images(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(0, 256, (2, 1, 3, height, width), generator=generator, dtype=torch.uint8)
    return first, second


def test_it_is_torchvisions_network_on_images_in_its_range(weights: Path) -> None:
    teacher = Raft("raft_small", weights, updates=2)
    image1, image2 = images(128, 136)
    reference = raft_small(weights=None).eval()
    reference.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        want = reference(image1 / 255 * 2 - 1, image2 / 255 * 2 - 1, num_flow_updates=2)[-1]
    torch.testing.assert_close(teacher.flow(image1, image2), want, rtol=1e-4, atol=1e-4)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.training


@pytest.mark.parametrize(("height", "width"), [(50, 70), (130, 131)])
def test_images_of_any_size_are_taken(weights: Path, height: int, width: int) -> None:
    flow = Raft("raft_small", weights, updates=1).flow(*images(height, width))
    assert flow.shape == (1, 2, height, width)
    assert flow.dtype == torch.float32
    assert flow.isfinite().all()


@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_missing_weights_are_named_with_the_command_that_fetches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(UserError, match=f"no weights of {name} here; where there is a network, run `curl") as caught:
        Raft(name)
    assert str(cached_weights(name)) in str(caught.value)
    assert f"https://download.pytorch.org/models/{cached_weights(name).name}" in str(caught.value)


def test_weights_in_the_cache_are_found(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached_weights("raft_small").parent.mkdir()
    cached_weights("raft_small").write_bytes(weights.read_bytes())
    ours, theirs = Raft("raft_small").network.state_dict(), torch.load(weights, weights_only=True)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut short"])
def test_damaged_weights_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "raft.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"raft\.pth: "):
        Raft("raft_small", tmp_path / "raft.pth")


def test_weights_of_another_network_are_named(weights: Path) -> None:
    with pytest.raises(UserError, match=r"raft_small\.pth: are no weights of torchvision's raft_large"):
        Raft("raft_large", weights)
    with pytest.raises(UserError, match="unknown RAFT 'raft'"):
        Raft("raft", weights)
