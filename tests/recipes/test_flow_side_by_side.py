"""A flow run's student beside methods without training: figures by hand, what is left out, data that do not fit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import recipes
from recipes.data.flow_layouts import find_pairs, read_pair
from recipes.flow_side_by_side import parse_data
from recipes.teachers.dis import Dis
from tests.recipes.data.pictures import smooth_picture, write_picture
from tests.recipes.test_flow_task import RECIPE
from toolkit import students
from toolkit.errors import UserError
from toolkit.flow_files import write_flo
from toolkit.flow_metrics import flow_report
from toolkit.flow_side_by_side import FlowSideBySide
from toolkit.schema import validate_json

HEIGHT, WIDTH = 40, 48
FILES = {"evaluation.json", "evaluation.md", "worst.png", "median.png"}

RunWriter = Callable[..., Path]


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch.hub's cache without RAFT, whatever this machine has."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture
def write_run(tmp_path: Path) -> RunWriter:
    """A run with an untrained student, after a change to its recipe."""

    def write(change: Callable[[dict[str, Any]], None] = lambda _recipe: None) -> Path:
        recipe = copy.deepcopy(RECIPE)
        change(recipe)
        run = tmp_path / "run"
        run.mkdir()
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        spec = {key: value for key, value in recipe["student"].items() if key not in ("kind", "preset")}
        torch.manual_seed(0)
        students.save(students.build("compact_flow", "s", spec), run)
        return run

    return write


@pytest.fixture
def sintel(tmp_path: Path) -> Path:
    """Five pairs that move to the right, by 1, 2, 4, 8 and 16 pixels; the first row is occluded, the second unknown."""
    root = tmp_path / "Sintel"
    place = root / "training"
    for frame in range(1, 7):
        write_picture(place / "clean" / "alley_1" / f"frame_{frame:04d}.png", smooth_picture(frame, HEIGHT, WIDTH))
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        if frame < 6:
            flow = np.zeros((2, HEIGHT, WIDTH), np.float32)
            flow[0] = 2 ** (frame - 1)
            write_flo(place / "flow" / "alley_1" / f"frame_{frame:04d}.flo", flow)
            for row, name in enumerate(("occlusions", "invalid")):
                mask[:], mask[row] = 0, 255
                write_picture(place / name / "alley_1" / f"frame_{frame:04d}.png", mask)
    return root


@pytest.mark.slow
def test_every_method_is_scored_on_every_pair_and_each_pixel_counts_once(write_run: RunWriter, sintel: Path) -> None:
    run = write_run()
    result = recipes.evaluate_flow(run, data=f"sintel:{sintel}:clean")
    assert list(result.methods) == ["student", "zero", "farneback", "dis-fast", "dis-medium"]
    zero = result.methods["zero"]
    assert [pair.epe["zero"] for pair in result.pairs] == [1, 2, 4, 8, 16]
    assert zero.report.all is not None
    assert zero.report.all.epe == pytest.approx(31 / 5)
    assert zero.report.all.pixels == 5 * (HEIGHT - 1) * WIDTH
    assert zero.report.occluded is not None
    assert zero.report.occluded.pixels > 5 * WIDTH  # the first row, and what moves out of the frame
    assert zero.interval is not None
    assert 1 <= zero.interval.low < 31 / 5 < zero.interval.high <= 16
    pairs = [read_pair(record) for record in find_pairs("sintel", sintel)]
    student = students.load(run)
    with torch.no_grad():
        flow = torch.cat([student(pair.image1[None], pair.image2[None]) for pair in pairs])
    truth, valid, visible = (
        torch.stack([getattr(pair, name) for pair in pairs]) for name in ("flow", "valid", "visible")
    )
    expected = flow_report(flow, truth, valid, visible)
    assert expected.all is not None
    assert result.methods["student"].report.all is not None
    assert result.methods["student"].report.all.epe == pytest.approx(expected.all.epe, rel=1e-4)
    assert result.methods["student"].params == sum(p.numel() for p in student.parameters())


@pytest.mark.slow
def test_what_is_returned_is_what_is_written_with_the_worst_and_the_median_pair(
    write_run: RunWriter, sintel: Path
) -> None:
    run = write_run()
    result = recipes.evaluate_flow(run, data=f"sintel:{sintel}", command="handheld evaluate run")
    folder = run / "evaluation"
    assert {path.name for path in folder.iterdir()} == FILES
    assert validate_json(FlowSideBySide, folder / "evaluation.json") == result
    assert result.provenance.command == "handheld evaluate run"
    assert "opencv-python-headless" in result.provenance.versions
    ranked = sorted(range(5), key=lambda number: -result.pairs[number].epe["student"])
    for name, number in (("worst.png", ranked[0]), ("median.png", ranked[2])):
        drawn = np.asarray(Image.open(folder / name))
        assert drawn.shape == (2 * HEIGHT, 2 * WIDTH, 3)
        np.testing.assert_array_equal(drawn[:HEIGHT, :WIDTH], smooth_picture(number + 1, HEIGHT, WIDTH))
        assert (drawn[1, WIDTH:] == 0).all()  # the row without truth


@pytest.mark.slow
def test_the_recipes_own_pairs_are_scored_and_fewer_where_fewer_are_asked_for(write_run: RunWriter) -> None:
    run = write_run()
    result = recipes.evaluate_flow(run, pairs=2)
    assert [pair.name for pair in result.pairs] == ["scene 0", "scene 1"]
    assert {pair.size for pair in result.pairs} == {(64, 96)}
    assert "made-up scenes" in result.data
    assert len(recipes.evaluate_flow(run, pairs=99).pairs) == 3


@pytest.mark.slow
def test_fewer_pairs_of_a_data_set_are_evenly_spread(write_run: RunWriter, sintel: Path, tmp_path: Path) -> None:
    result = recipes.evaluate_flow(write_run(), data=f"sintel:{sintel}", pairs=2, output=tmp_path / "out")
    assert [pair.epe["zero"] for pair in result.pairs] == [1, 4]
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.slow
def test_a_teacher_is_scored_and_one_that_is_not_to_be_had_is_left_out_in_one_line(
    write_run: RunWriter, sintel: Path, tmp_path: Path
) -> None:
    def taught_by(teacher: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        return lambda recipe: recipe.update(teacher=teacher, objective={"flow": {}, "distillation": {}})

    run = write_run(taught_by({"kind": "dis", "preset": "fast"}))
    result = recipes.evaluate_flow(run, data=f"sintel:{sintel}")
    pair = read_pair(find_pairs("sintel", sintel)[1])
    flow = Dis("fast").flow(pair.image1[None], pair.image2[None])[0]
    expected = (flow - pair.flow).norm(dim=0)[pair.valid].mean()
    assert result.pairs[1].epe["teacher"] == pytest.approx(float(expected), rel=1e-5)
    assert len(result.left_out) == 1
    assert result.left_out[0].startswith("raft_small left out: ")
    assert "run `curl" in result.left_out[0]
    run.rename(tmp_path / "first")
    gone = write_run(taught_by({"kind": "student", "run": str(tmp_path / "gone")}))
    result = recipes.evaluate_flow(gone, data=f"sintel:{sintel}", pairs=1)
    assert "teacher" not in result.methods
    assert result.left_out[0].startswith(f"teacher left out: {tmp_path / 'gone'}: ")
    assert all(line in (gone / "evaluation" / "evaluation.md").read_text() for line in result.left_out)


@pytest.mark.slow
def test_raft_is_scored_where_its_weights_are_in_the_cache(write_run: RunWriter, sintel: Path) -> None:
    from torchvision.models.optical_flow import raft_small

    from recipes.teachers.raft import cached_weights

    torch.manual_seed(0)
    network = raft_small(weights=None)
    cached_weights("raft_small").parent.mkdir(parents=True)
    torch.save(network.state_dict(), cached_weights("raft_small"))
    result = recipes.evaluate_flow(write_run(), data=f"sintel:{sintel}", pairs=1)
    assert result.methods["raft_small"].params == sum(p.numel() for p in network.parameters())
    assert result.left_out == []


@pytest.mark.slow
def test_a_student_that_gives_no_numbers_is_infinitely_wrong(write_run: RunWriter, sintel: Path) -> None:
    run = write_run()
    student = students.load(run)
    for parameter in student.parameters():
        parameter.data.fill_(math.nan)
    students.save(student, run)
    result = recipes.evaluate_flow(run, data=f"sintel:{sintel}", pairs=2)
    scores = result.methods["student"]
    assert scores.report.all is not None
    assert scores.report.all.epe == math.inf
    assert scores.interval is None
    assert validate_json(FlowSideBySide, run / "evaluation" / "evaluation.json") == result


def test_pairs_without_any_truth_are_refused(write_run: RunWriter, sintel: Path) -> None:
    for mask in (sintel / "training" / "invalid" / "alley_1").iterdir():
        write_picture(mask, np.full((HEIGHT, WIDTH), 255, np.uint8))
    run = write_run()
    with pytest.raises(UserError, match=r"Sintel: no pixel has a known truth"):
        recipes.evaluate_flow(run, data=f"sintel:{sintel}")
    assert not (run / "evaluation").exists()


@pytest.mark.slow
def test_a_pair_without_truth_among_others_is_listed_and_counts_for_nothing(write_run: RunWriter, sintel: Path) -> None:
    mask = sintel / "training" / "invalid" / "alley_1" / "frame_0005.png"
    write_picture(mask, np.full((HEIGHT, WIDTH), 255, np.uint8))
    run = write_run()
    result = recipes.evaluate_flow(run, data=f"sintel:{sintel}")
    assert (result.pairs[4].pixels, result.pairs[4].epe) == (0, {})
    zero = result.methods["zero"].report.all
    assert zero is not None
    assert zero.epe == pytest.approx(15 / 4)
    assert "| alley_1/frame_0005 | 40x48 | – |" in (run / "evaluation" / "evaluation.md").read_text()


def test_a_folder_with_other_files_is_refused_before_anything_is_scored(
    write_run: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run()
    monkeypatch.setattr("recipes.flow_side_by_side.find_held_out", lambda _spec: pytest.fail("data were looked for"))
    with pytest.raises(UserError, match=r"holds other files .* --output"):
        recipes.evaluate_flow(run, output=run)


def test_pairs_too_small_for_a_student_are_refused(write_run: RunWriter, tmp_path: Path) -> None:
    place = tmp_path / "small" / "training"
    for frame in (1, 2):
        write_picture(place / "clean" / "a" / f"frame_{frame:04d}.png", smooth_picture(frame, 16, 40))
    write_flo(place / "flow" / "a" / "frame_0001.flo", np.zeros((2, 16, 40), np.float32))
    with pytest.raises(UserError, match="images of 16x40; flow takes 32x32"):
        recipes.evaluate_flow(write_run(), data=f"sintel:{tmp_path / 'small'}")


def test_a_run_of_videos_and_an_unfinished_run_are_refused(write_run: RunWriter, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipes.load_recipe("demo-turbo-vaed").to_yaml())
    with pytest.raises(UserError, match="a run of videos"):
        recipes.evaluate_flow(tmp_path)
    run = write_run()
    (run / "student.json").unlink()
    with pytest.raises(UserError, match="holds no finished student"):
        recipes.evaluate_flow(run)


@pytest.mark.parametrize(
    ("text", "layout", "path", "variant", "split"),
    [
        ("motorcycle", "motorcycle", "", None, "train"),
        ("sintel:/data/Sintel:final", "sintel", "/data/Sintel", "final", "train"),
        ("kitti:data", "kitti", "data", None, "train"),
        ("chairs:/data", "chairs", "/data", None, "validation"),
        ("things:/data:clean", "things", "/data", "clean", "test"),
    ],
)
def test_data_are_named_by_layout_folder_and_variant(
    text: str, layout: str, path: str, variant: str | None, split: str
) -> None:
    spec = parse_data(text)
    assert (spec.layout, spec.path, spec.variant, spec.split) == (layout, path, variant, split)


def test_a_folder_with_a_colon_in_its_name_is_that_folder(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()
    assert parse_data(f"sintel:{tmp_path}/a:b").path == f"{tmp_path}/a:b"
    spec = parse_data(f"sintel:{tmp_path}/a:b:final")
    assert (spec.path, spec.variant) == (f"{tmp_path}/a:b", "final")


@pytest.mark.parametrize(
    "text", ["", ":", "sintel", "sintel:", "sntel:/data", "/data/Sintel", "motorcycle:", "motorcycle:/x"]
)
def test_data_that_name_no_layout_are_refused_in_a_line_that_lists_them(text: str) -> None:
    with pytest.raises(UserError, match=r"motorcycle or LAYOUT:FOLDER.*chairs, kitti, sintel, spring, things"):
        parse_data(text)
