"""The folders of the known data sets, made small: which pairs are found, what they hold, what is said of others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.data.flow_layouts import FlowRecord, find_pairs, read_pair
from tests.recipes.data.layouts import HEIGHT, MAKERS, WIDTH, chairs, kitti, sintel, spring, things
from tests.recipes.data.pictures import smooth_picture, write_picture
from toolkit.errors import UserError


def names(layout: str, root: Path, split: str = "train", variant: str | None = None) -> list[str]:
    return [record.name for record in find_pairs(layout, root, split, variant)]


def test_chairs_are_split_by_their_own_list(tmp_path: Path) -> None:
    chairs(tmp_path)
    assert names("chairs", tmp_path) == ["00001", "00003", "00004"]
    assert names("chairs", tmp_path, "validation") == ["00002"]
    assert len(names("chairs", tmp_path, "all")) == 4
    sample = read_pair(find_pairs("chairs", tmp_path)[1])
    assert sample.flow[:, 0, 0].tolist() == [5.5, 3.0]
    np.testing.assert_array_equal(sample.image2.permute(1, 2, 0), smooth_picture(2, HEIGHT, WIDTH))


def test_chairs_without_their_list_or_with_another_ones(tmp_path: Path) -> None:
    chairs(tmp_path)
    (tmp_path / "FlyingChairs_train_val.txt").write_text("1\n2\n")
    with pytest.raises(UserError, match="lists 2 pairs, the folder has 4"):
        find_pairs("chairs", tmp_path)
    (tmp_path / "FlyingChairs_train_val.txt").unlink()
    with pytest.raises(UserError, match=r"lacks FlyingChairs_train_val\.txt"):
        find_pairs("chairs", tmp_path)


def test_things_run_forwards_and_backwards_and_not_out_of_a_sequence(tmp_path: Path) -> None:
    things(tmp_path)
    records = find_pairs("things", tmp_path)
    assert [(r.name, r.image1.stem, r.image2.stem) for r in records] == [
        ("A/0000/OpticalFlowIntoFuture_0006_L", "0006", "0007"),
        ("A/0000/OpticalFlowIntoFuture_0007_L", "0007", "0008"),
        ("A/0000/OpticalFlowIntoPast_0007_L", "0007", "0006"),
        ("A/0000/OpticalFlowIntoPast_0008_L", "0008", "0007"),
    ]
    assert {r.image1.parents[4].name for r in records} == {"frames_cleanpass"}
    assert find_pairs("things", tmp_path, variant="final")[0].image1.parents[4].name == "frames_finalpass"


def test_sintel_has_its_masks(tmp_path: Path) -> None:
    sintel(tmp_path)
    assert names("sintel", tmp_path) == ["alley_1/frame_0001", "alley_1/frame_0002"]
    record = find_pairs("sintel", tmp_path, variant="final")[1]
    assert (record.image1.parents[1].name, record.image2.name) == ("final", "frame_0003.png")
    assert record.knows_occlusions
    sample = read_pair(record)
    assert sample.valid.all(dim=1).tolist() == [True, True, False, True, True, True]
    visible = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
    visible[:, -3:] = False  # moves out by 2.5 pixels
    visible[1:3] = False
    assert torch.equal(sample.visible, visible)
    assert sample.flow[0, 0, 0] == 2.5
    assert sample.flow[0, 2, 0] == 0


def test_kitti_has_two_truths(tmp_path: Path) -> None:
    kitti(tmp_path)
    assert names("kitti", tmp_path) == ["000000", "000001"]
    sample = read_pair(find_pairs("kitti", tmp_path)[0])
    assert sample.valid.all(dim=1).tolist() == [False, True, True, True, True, True]
    assert sample.visible[:, :-3].all(dim=1).tolist() == [False, False, True, True, True, True]
    assert sample.flow.isfinite().all()


def test_without_masks_points_are_visible_that_stay_inside(tmp_path: Path) -> None:
    chairs(tmp_path)
    record = find_pairs("chairs", tmp_path)[0]
    assert not record.knows_occlusions
    assert read_pair(record).visible.any()


def test_spring_is_taken_at_the_size_of_its_images(tmp_path: Path) -> None:
    spring(tmp_path)
    (record,) = find_pairs("spring", tmp_path)
    assert (record.name, record.image2.name) == ("0001/0001", "frame_left_0002.png")
    sample = read_pair(record)
    assert (sample.flow == torch.tensor([1.5, -0.5]).view(2, 1, 1)).all()
    assert not sample.visible[2].any()
    assert sample.visible[3, 0]


def test_motorcycle_moves_to_the_left_by_its_disparity() -> None:
    (record,) = find_pairs("motorcycle", Path())
    sample = read_pair(record)
    assert sample.flow.shape == (2, 500, 741)
    assert 0.7 < sample.valid.float().mean() < 1
    moved = sample.flow[0][sample.valid]
    assert -70 < moved.min() < moved.max() < 0
    assert not sample.flow[1].any()
    assert sample.flow.isfinite().all()


def test_the_motorcycle_truth_warps_its_right_image_to_its_left() -> None:
    sample = read_pair(find_pairs("motorcycle", Path())[0])
    y, x = np.mgrid[:500, :741]
    column = np.rint(x + sample.flow[0].numpy()).astype(int).clip(0, 740)
    there = sample.image2.numpy()[:, y, column].astype(float)
    error = abs(there - sample.image1.numpy()).mean(axis=0)[sample.visible.numpy()]
    unmoved = abs(sample.image2.numpy().astype(float) - sample.image1.numpy()).mean()
    assert np.median(error) < 5 < unmoved


@pytest.mark.parametrize("layout", ["chairs", "things", "sintel", "kitti", "spring"])
def test_another_folder_is_refused_with_what_was_expected(tmp_path: Path, layout: str) -> None:
    with pytest.raises(UserError, match=r"is no folder of .*: expected files such as .*0"):
        find_pairs(layout, tmp_path)
    with pytest.raises(UserError, match="no such folder; give the folder of the data set"):
        find_pairs(layout, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("layout", "lost"),
    [
        ("chairs", "data/00003_img2.ppm"),
        ("things", "frames_cleanpass/TRAIN/A/0000/left/0007.png"),
        ("sintel", "training/clean/alley_1/frame_0002.png"),
        ("sintel", "training/occlusions/alley_1/frame_0002.png"),
        ("kitti", "training/image_2/000001_11.png"),
        ("kitti", "training/flow_noc/000000_10.png"),
    ],
)
def test_a_file_that_a_pair_lacks_is_named(tmp_path: Path, layout: str, lost: str) -> None:
    MAKERS[layout](tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match="is missing, though") as caught:
        find_pairs(layout, tmp_path)
    assert lost in str(caught.value)


def test_unknown_layouts_splits_and_variants_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown optical-flow data set 'sintell'\. Did you mean 'sintel'"):
        find_pairs("sintell", tmp_path)
    with pytest.raises(UserError, match=r"unknown split of kitti 'test'.*Known: train"):
        find_pairs("kitti", tmp_path, "test")
    with pytest.raises(UserError, match=r"unknown variant of sintel 'albedo'.*Known: clean, final"):
        find_pairs("sintel", tmp_path, "train", "albedo")


def test_files_of_several_sizes_are_refused(tmp_path: Path) -> None:
    chairs(tmp_path)
    record = find_pairs("chairs", tmp_path)[0]
    write_picture(record.image2, smooth_picture(0, HEIGHT, WIDTH + 1))
    with pytest.raises(UserError, match=r"00001_img2\.ppm: is 6x9, where 00001_img1\.ppm is 6x8"):
        read_pair(record)


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    sintel(tmp_path)
    record: FlowRecord = find_pairs("sintel", tmp_path)[0]
    assert record.occluded is not None
    write_picture(record.occluded, np.zeros((HEIGHT, WIDTH + 2), np.uint8))
    with pytest.raises(UserError, match="is 6x10, where its image is 6x8"):
        read_pair(record)
