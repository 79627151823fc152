"""Samples of made-up scenes: the same for the same number, in any process; sources and their errors; photometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from recipes.data.clips import FromStep
from recipes.data.flow_sample import FlowSample
from recipes.data.flow_specs import PhotometricSpec, SyntheticFlowSpec, TexturesSpec
from recipes.data.library import read_skipped
from recipes.data.photometric import change_pair
from recipes.data.synthetic_flow import SyntheticFlow
from recipes.data.textures import SKIMAGE_PICTURES, Textures, skimage_file
from tests.recipes.data.pictures import smooth_picture, write_picture
from toolkit.errors import UserError


@pytest.fixture
def folder(tmp_path: Path, clip_file: Path) -> Path:
    """Three pictures, one of them grey, and a video."""
    folder = tmp_path / "pictures"
    for number in range(2):
        write_picture(folder / f"{number}.png", smooth_picture(number, 120 + 40 * number, 160))
    write_picture(folder / "deep" / "grey.jpg", smooth_picture(5, 100, 100)[..., 0])
    (folder / "clip.mp4").write_bytes(clip_file.read_bytes())
    (folder / "._0.png").write_bytes(b"attributes that macOS keeps")
    return folder


def spec(folder: Path, **changes: object) -> SyntheticFlowSpec:
    fields = {"textures": {"sources": [str(folder)], "video_frames": 3}, "size": (64, 96)}
    return SyntheticFlowSpec.model_validate({**fields, **changes})


def same(one: FlowSample, other: FlowSample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_sample_has_the_promised_shapes_types_and_values(folder: Path) -> None:
    sample = SyntheticFlow(spec(folder), seed=0)[3]
    assert [(tuple(t.shape), t.dtype) for t in sample] == [
        ((3, 64, 96), torch.uint8),
        ((3, 64, 96), torch.uint8),
        ((2, 64, 96), torch.float32),
        ((64, 96), torch.bool),
        ((64, 96), torch.bool),
    ]
    assert sample.valid.all()
    assert sample.flow.isfinite().all()


def test_a_sample_depends_on_seed_and_number_alone(folder: Path) -> None:
    one, other = SyntheticFlow(spec(folder), seed=1), SyntheticFlow(spec(folder), seed=1)
    for number in range(4):
        other[number + 7]
    assert same(one[5], other[5])
    assert not same(one[5], one[6])
    assert not same(one[5], SyntheticFlow(spec(folder), seed=2)[5])


def test_workers_give_the_samples_that_one_process_gives(folder: Path) -> None:
    data = SyntheticFlow(spec(folder), seed=1)
    loader = DataLoader(data, batch_size=2, sampler=FromStep(4, 8), num_workers=2)
    for first, batch in zip((4, 6), loader, strict=True):
        assert isinstance(batch, FlowSample)
        for place in range(2):
            assert same(FlowSample(*(tensor[place] for tensor in batch)), data[first + place])


def test_memory_or_not_the_samples_are_the_same(folder: Path) -> None:
    textures = {"sources": [str(folder / "0.png"), str(folder / "1.png"), str(folder / "deep")]}
    held = SyntheticFlow(spec(folder, textures=textures), seed=0)
    read = SyntheticFlow(spec(folder, textures={**textures, "memory_gb": 0}), seed=0)
    assert all(same(held[number], read[number]) for number in range(4))


def test_sources_are_taken_in_order_and_reduced(folder: Path) -> None:
    textures = Textures(TexturesSpec(sources=[str(folder / "1.png"), str(folder)], side=40, video_frames=3))
    assert [textures[number].shape for number in range(len(textures))] == [
        (40, 40, 3),  # 1.png, 160x160
        (40, 53, 3),  # 0.png
        (40, 40, 3),
        *[(40, 53, 3)] * 3,  # of the video
        (40, 40, 3),  # deep/grey.jpg
    ]


def test_the_range_of_a_video_is_kept(clip_file: Path) -> None:
    def frames(first: int, last: int) -> list[np.ndarray]:
        textures = Textures(TexturesSpec(sources=[str(clip_file)], range=(first, last), video_frames=2))
        return [textures[number] for number in range(len(textures))]

    early, late = frames(0, 10), frames(9, 20)
    assert len(early) == len(late) == 2
    np.testing.assert_array_equal(early[1], late[0])


def test_pictures_inside_scikit_image_can_be_named() -> None:
    assert len(Textures(TexturesSpec(sources=["skimage:"]))) == len(SKIMAGE_PICTURES)
    textures = Textures(TexturesSpec(sources=["skimage:coffee,chelsea"], side=64))
    assert [textures[number].shape[0] for number in range(2)] == [64, 64]
    with pytest.raises(UserError, match=r"unknown picture of scikit-image 'cofee'. Did you mean 'coffee'"):
        Textures(TexturesSpec(sources=["skimage:cofee"]))


def test_without_scikit_image_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.data.textures.find_spec", lambda _name: None)
    with pytest.raises(UserError, match="pip install scikit-image"):
        skimage_file("coffee.png")


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nothing", "no such image, video or folder"), ("empty", "holds no image or video"), ("a.txt", "known endings")],
)
def test_sources_that_cannot_be_used_are_named(tmp_path: Path, source: str, reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(UserError, match=reason) as caught:
        Textures(TexturesSpec(sources=[str(tmp_path / source)]))
    assert source in str(caught.value)


def test_a_folders_files_that_cannot_be_read_are_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    (folder / "00.png").write_bytes((folder / "0.png").read_bytes()[:200])
    (folder / "text.mp4").write_text("no video")
    (tmp_path / "run").mkdir()
    textures = Textures(TexturesSpec(sources=[str(folder)], video_frames=2))
    textures.log_to(tmp_path / "run", is_first=True)
    pictures = [textures[number] for number in range(len(textures))]
    assert {path.name for path in textures.skipped} == {"00.png", "text.mp4"}
    assert len(pictures) == 6
    np.testing.assert_array_equal(pictures[1], pictures[2])  # 1.png in the place of 00.png
    listed = read_skipped(tmp_path / "run")
    assert {Path(path).name for path in listed} == {"00.png", "text.mp4"}
    assert all("cannot be" in reason for reason in listed.values())


def test_a_file_that_is_named_itself_must_be_readable(tmp_path: Path) -> None:
    for name in ("a.png", "a.mp4"):
        (tmp_path / name).write_text("nothing")
        with pytest.raises(UserError, match=name):
            Textures(TexturesSpec(sources=[str(tmp_path / name)]))[0]


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_a_folder_without_one_readable_file_is_refused_with_the_first_reason(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("nothing")
    with pytest.raises(UserError, match=f"the first: .*{name}: cannot be"):
        Textures(TexturesSpec(sources=[str(tmp_path)]))[0]


def test_video_frames_beyond_the_memory_are_refused_with_the_remedy(clip_file: Path) -> None:
    with pytest.raises(UserError, match=r"lower textures\.video_frames"):
        Textures(TexturesSpec(sources=[str(clip_file)], memory_gb=1e-6))


def test_a_range_beyond_the_video_is_named(clip_file: Path) -> None:
    with pytest.raises(UserError, match="has only 20 frames"):
        Textures(TexturesSpec(sources=[str(clip_file)], range=(30, 40)))


def test_photometric_changes_move_nothing() -> None:
    """A checkerboard's edges, wherever it is lit, recoloured and noisy, stay where they were."""
    board = np.kron(np.indices((6, 8)).sum(axis=0) % 2, np.ones((16, 16))) * 150 + 50
    frame = np.repeat(board[..., None], 3, axis=-1).astype(np.uint8)
    spec = PhotometricSpec(share=1, blur=0, motion_blur=0, jpeg=1)
    for seed in range(10):
        for changed in change_pair(frame, frame, spec, np.random.default_rng(seed)):
            grey = changed.astype(float).mean(axis=-1)
            bright = grey > (grey[board == 50].mean() + grey[board == 200].mean()) / 2
            assert (bright == (board == 200)).mean() > 0.98


def test_photometric_changes_differ_from_frame_to_frame_by_their_difference() -> None:
    frame = smooth_picture(0)

    def gap(difference: float) -> float:
        spec = PhotometricSpec(share=1, difference=difference, shading=0, noise=0, blur=0, motion_blur=0, jpeg=0)
        pairs = [change_pair(frame, frame, spec, np.random.default_rng(seed)) for seed in range(20)]
        return float(np.mean([abs(a.astype(float) - b).mean() for a, b in pairs]))

    assert gap(0) == 0
    assert gap(0) < gap(0.3) < gap(1)


def test_of_no_photometric_change_frames_stay_as_they_are() -> None:
    frame = smooth_picture(0)
    changed = change_pair(frame, frame, PhotometricSpec(share=0), np.random.default_rng(0))
    assert all(np.array_equal(frame, other) for other in changed)
