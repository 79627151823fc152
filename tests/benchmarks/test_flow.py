"""The flow benchmark: which pairs and methods it measures, what it asks of them, and one run of its accuracy part."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import flow, flow_accuracy, results_file
from benchmarks.flow_accuracy import SCENES, Measured, PairSet, accuracy, data_set, made_up, methods
from benchmarks.flow_sizes import Size
from recipes.data.flow_sample import FlowSample
from recipes.data.flow_specs import SyntheticFlowSpec, TexturesSpec
from recipes.data.textures import SKIMAGE_PREFIX
from recipes.flow_schema import HeldOutSceneSpec
from recipes.schema import catalog, load_recipe
from tests.recipes.data.pictures import smooth_picture, write_picture
from toolkit import students
from toolkit.errors import UserError
from toolkit.flow_files import write_flo
from toolkit.flow_metrics import FlowReport, FlowScores

HEIGHT, WIDTH = 40, 48
SMALL = {
    "stem": 8,
    "widths": [8, 8],
    "layers": [0, 0],
    "matched": [8, 8],
    "radius": 2,
    "estimators": [[16, 8], [16, 8]],
    "refinement": 8,
    "dilations": [1, 2],
}


class Constant:
    """A method that gives one vector everywhere, and counts the pairs it was asked for."""

    def __init__(self, x: float, y: float) -> None:
        self.vector = torch.tensor([x, y], dtype=torch.float32)
        self.different, self.identical = 0, 0

    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        if torch.equal(image1, image2):
            self.identical += 1
        else:
            self.different += 1
        return self.vector.view(1, 2, 1, 1).expand(len(image1), 2, *image1.shape[2:]).clone()


def sintel(root: Path, pairs: int = 4) -> Path:
    """Pair n moves by (3 n, 4 n) pixels; the first ten rows are occluded."""
    for frame in range(1, pairs + 2):
        for variant in ("clean", "final"):
            image = root / "training" / variant / "alley" / f"frame_{frame:04d}.png"
            write_picture(image, smooth_picture(frame, HEIGHT, WIDTH))
    hidden = np.zeros((HEIGHT, WIDTH), np.uint8)
    hidden[:10] = 255
    for number in range(1, pairs + 1):
        truth = np.full((2, HEIGHT, WIDTH), 3 * number, np.float32)
        truth[1] = 4 * number
        write_flo(root / "training" / "flow" / "alley" / f"frame_{number:04d}.flo", truth)
        write_picture(root / "training" / "occlusions" / "alley" / f"frame_{number:04d}.png", hidden)
    return root


def small_run(folder: Path) -> Path:
    torch.manual_seed(0)
    students.save(students.build("compact_flow", "s", SMALL), folder)
    return folder


def measured(data: str, **epe: float) -> list[Measured]:
    """One set with these end-point errors, `dis_medium` for dis-medium."""
    found = []
    for method, value in epe.items():
        scores = FlowScores(
            pixels=1, epe=value, fl_percent=0, within_1_percent=0, within_3_percent=0, within_5_percent=0
        )
        report = FlowReport(all=scores, s0_10=None, s10_40=None, s40=None, visible=None, occluded=None)
        found.append(Measured(data, 1, method.replace("_", "-"), report, 0.0))
    return found


def failing(found: list[Measured], weights_bytes: int = 1) -> list[str]:
    size = Size("ours", "s", 1, weights_bytes, {})
    return [bar.what for bar in flow.accuracy_bars(size, found) if not bar.holds]


# The pairs


def test_a_data_set_gives_at_most_so_many_pairs_evenly_spread(tmp_path: Path) -> None:
    found = data_set(f"sintel:{sintel(tmp_path)}", pairs=2)
    assert (found.name, found.count) == ("sintel clean", 2)
    assert [float(found.read(number).flow[0, 0, 0]) for number in range(2)] == [3.0, 9.0]
    assert data_set(f"sintel:{tmp_path}", pairs=9).count == 4


def test_a_variant_follows_the_folder_and_a_folder_may_have_a_colon(tmp_path: Path) -> None:
    odd = sintel(tmp_path / "film:2")
    assert data_set(f"sintel:{odd}").name == "sintel clean"
    assert data_set(f"sintel:{odd}:final").name == "sintel final"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("sintel", r"expected LAYOUT:FOLDER"),
        ("sintle:{root}", r"Did you mean 'sintel'"),
        ("motorcycle:{root}", r"unknown optical-flow data set"),
        ("sintel:{root}:fnal", r"variant of sintel 'fnal'"),
        ("sintel:{root}/none", r"no such folder"),
    ],
)
def test_what_names_no_data_set_is_refused(tmp_path: Path, given: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        data_set(given.format(root=sintel(tmp_path)))


def test_one_data_set_is_not_measured_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "made_up", lambda: PairSet("made-up", 0, lambda number: pytest.fail("is read")))
    given = f"sintel:{sintel(tmp_path)}"
    assert [pairs.name for pairs in flow.all_sets([given, f"{given}:final"], None)[2:]] == [
        "sintel clean",
        "sintel final",
    ]
    with pytest.raises(UserError, match="sintel clean is named twice"):
        flow.all_sets([given, f"{given}:clean"], None)


def test_no_catalogued_recipe_trains_on_the_made_up_pictures() -> None:
    held_out = set(SCENES.textures.sources[0].removeprefix(SKIMAGE_PREFIX).split(","))
    recipes = [load_recipe(name) for name in catalog()]
    scenes = [recipe.data for recipe in recipes if isinstance(recipe.data.train, SyntheticFlowSpec)]
    assert scenes
    for data in scenes:
        assert isinstance(data.train, SyntheticFlowSpec)
        assert isinstance(data.validation, HeldOutSceneSpec)
        assert SCENES.seed != data.validation.seed
        for source in data.train.textures.sources:
            names = source.removeprefix(SKIMAGE_PREFIX)
            assert names != "", f"{source} takes all pictures"
            assert not held_out & set(names.split(","))


# The figures


def test_each_method_runs_once_a_pair_and_is_scored_over_all_of_them(tmp_path: Path) -> None:
    near, far = Constant(3, 4), Constant(0, 0)
    pairs = data_set(f"sintel:{sintel(tmp_path)}")
    found = {one.method: one for one in accuracy([pairs], {"near": near, "far": far})}
    assert (near.different, near.identical) == (4, 4)
    assert found["near"].epe == pytest.approx((0 + 5 + 10 + 15) / 4)
    assert found["far"].epe == pytest.approx((5 + 10 + 15 + 20) / 4)
    assert found["near"].identical_px == pytest.approx(5)
    assert found["far"].identical_px == 0
    report = found["far"].report
    assert report.s0_10 is not None
    assert report.s0_10.epe == pytest.approx(5)
    assert report.occluded is not None
    assert report.occluded.pixels >= 4 * 10 * WIDTH
    row = found["far"].row()
    assert (row["data"], row["pairs"], row["method"], row["all"]["pixels"]) == (
        "sintel clean",
        4,
        "far",
        4 * HEIGHT * WIDTH,
    )


def test_identical_frames_are_a_few_of_a_large_set() -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    known = torch.ones(40, 40, dtype=torch.bool)
    pair = FlowSample(image, image + 1, torch.zeros(2, 40, 40), known, known)
    method = Constant(1, 0)
    (found,) = accuracy([PairSet("many", 20, lambda number: pair)], {"method": method})
    assert (method.different, method.identical) == (20, flow_accuracy.STILL)
    assert found.identical_px == pytest.approx(1)


def test_a_set_without_any_truth_is_refused() -> None:
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    unknown = torch.zeros(40, 40, dtype=torch.bool)
    pair = FlowSample(image, image + 1, torch.zeros(2, 40, 40), unknown, unknown)
    with pytest.raises(UserError, match="blank: no pixel has a known truth"):
        accuracy([PairSet("blank", 1, lambda number: pair)], {"method": Constant(0, 0)})


def test_a_sheet_has_a_row_for_truth_and_for_each_method(tmp_path: Path) -> None:
    pairs = data_set(f"sintel:{sintel(tmp_path)}:final")
    accuracy([pairs], {"near": Constant(3, 4), "far": Constant(0, 0)}, tmp_path / "sheets")
    (path,) = (tmp_path / "sheets").iterdir()
    assert path.name == "sintel-final.png"
    picture = np.asarray(Image.open(path))
    row = picture.shape[0] // 3
    assert picture.shape == (3 * row, 2 * WIDTH, 3)
    assert row > HEIGHT
    np.testing.assert_array_equal(picture[row - HEIGHT : row, :WIDTH], smooth_picture(1, HEIGHT, WIDTH))
    truth, near, far = (picture[end - HEIGHT : end] for end in (row, 2 * row, 3 * row))
    np.testing.assert_array_equal(near[:, :WIDTH], truth[:, WIDTH:])  # a flow without error looks as the truth
    assert (far[:, :WIDTH] == 255).all()


# The methods


def test_raft_without_weights_is_left_out_and_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = methods({"ours": small_run(tmp_path / "run")})
    assert list(found) == ["ours", "dis-medium", "dis-fast", "farneback", "zero"]
    said = capsys.readouterr().out
    assert "raft_small is left out" in said
    assert "--raft-weights" in said


def test_raft_weights_that_are_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.pth: no weights of raft_small"):
        methods({}, tmp_path / "none.pth")


def test_runs_of_one_name_keep_their_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "LANDED", Path("asset:no-such-student"))
    runs = [tmp_path / "a" / "flow", tmp_path / "b" / "flow", tmp_path / "other"]
    assert flow.students_of(runs) == {"flow": runs[0], "flow 2": runs[1], "other": runs[2]}


# The bars


@pytest.mark.parametrize(
    ("found", "failed"),
    [
        (measured("motorcycle", ours=8.0, dis_medium=2.6, farneback=25.5), []),
        (measured("motorcycle", ours=8.1, dis_medium=2.6, farneback=25.5), ["ours, motorcycle: EPE, px"]),
        (measured("made-up", ours=3.0, dis_medium=2.0, farneback=6.0), []),
        (measured("made-up", ours=3.1, dis_medium=2.0, farneback=6.0), ["ours, made-up: EPE over dis-medium's"]),
        (measured("kitti", ours=9.0, dis_medium=2.0, farneback=11.3), []),
        (measured("kitti", ours=9.0, dis_medium=2.0, farneback=11.2), ["ours, kitti: EPE over farneback's"]),
    ],
)
def test_bars_hold_up_to_their_limit(found: list[Measured], failed: list[str]) -> None:
    assert failing(found) == failed


def test_a_flow_that_is_no_number_holds_no_bar() -> None:
    found = measured("motorcycle", ours=math.inf, dis_medium=math.inf, farneback=math.inf)
    assert failing(found) == ["ours, motorcycle: EPE, px", "ours, motorcycle: EPE over farneback's"]


def test_weights_have_at_most_five_megabytes() -> None:
    found = measured("kitti", ours=1.0, dis_medium=2.0, farneback=3.0)
    assert failing(found, 5_000_000) == []
    assert failing(found, 5_000_001) == ["ours: MB of weights"]


def test_goals_are_to_beat_dis_on_every_set() -> None:
    found = measured("kitti", ours=1.9, dis_medium=2.0) + measured("spring", ours=2.0, dis_medium=2.0)
    assert [goal.holds for goal in flow.goals("ours", found)] == [True, False]


# The command


def test_without_any_student_the_command_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flow, "LANDED", Path("asset:no-such-student"))
    assert flow.main(["--rounds", "0"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "asset:no-such-student: does not ship" in said.err
    assert "--run" in said.err


def test_pictures_that_cannot_be_written_end_the_command_before_it_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(flow, "accuracy", lambda *_: pytest.fail("measures"))
    (tmp_path / "file").write_text("")
    run = small_run(tmp_path / "run")
    assert flow.main(["--run", str(run), "--pictures", str(tmp_path / "file"), "--rounds", "0"]) == 2
    assert "name a folder you can write" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_without_speed_prints_every_table_and_leaves_results_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A random student, on its own: it is what the bars are asked of, and fails them."""
    monkeypatch.setattr(flow, "LANDED", Path("asset:no-such-student"))
    textures = TexturesSpec(sources=["skimage:coffee"], side=96)
    small = HeldOutSceneSpec(textures=textures, size=(64, 80), seed=1, pairs=2)
    monkeypatch.setattr(flow, "made_up", lambda: made_up(small))
    monkeypatch.setattr(results_file, "RESULTS", tmp_path / "results")
    arguments = ["--run", str(small_run(tmp_path / "random")), "--data", f"sintel:{sintel(tmp_path / 'sintel')}"]
    arguments += ["--pairs", "2", "--rounds", "0", "--pictures", str(tmp_path / "sheets")]
    assert flow.main(arguments) == 1
    said = capsys.readouterr().out
    for title in (
        "motorcycle, 1 pair",
        "made-up, 2 pairs",
        "sintel clean, 2 pairs",
        "sizes at 384x512",
        "goals",
        "bars",
    ):
        assert title in said
    assert "random: MB of weights" in said
    assert {path.name for path in (tmp_path / "sheets").iterdir()} == {
        "motorcycle.png",
        "made-up.png",
        "sintel-clean.png",
    }
    assert not (tmp_path / "results").exists()
