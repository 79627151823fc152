"""Five hundred spoilt inputs: each ends in a clear line or a right result, and nothing is written elsewhere."""

from __future__ import annotations

import copy
import json
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import handheld
from tests.conftest import TARGETS, tiny_recipe
from tests.fuzz import mutations

pytestmark = pytest.mark.slow

MOST_SECONDS = 300
PTE = "model.pte"
MLMODEL = "model.mlpackage/Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
#: The part of bundles that are verified with `--deep`, which runs a stranger's program on more inputs.
DEEPLY = 0.25
#: How many seeds of each kind. ExecuTorch's and the profiler's run in processes of their own, which takes seconds.
COUNTS = {"manifest": 190, "artifact": 60, "archive": 70, "folder": 40, "recipe": 100, "records": 30}
COUNTS |= {"crash": 6, "profile": 4}
CASES = [(kind, seed) for kind, count in COUNTS.items() for seed in range(count)]


@dataclass
class Sandbox:
    """A home, a folder to work in, and one that nobody may touch."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def snapshot(self) -> dict[str, Any]:
        """Every file but those below `work/output`, by its content; what is no plain file by its kind.

        ONNX Runtime keeps an identifier of the machine in the home's cache when a process first imports it.
        """
        found: dict[str, Any] = {}
        cache = self.root / "home" / ".cache"
        for path in sorted(self.root.rglob("*")):
            if path != cache and not any(
                path.is_relative_to(own) for own in (self.work / "output", cache / "Microsoft")
            ):
                plain = path.is_file() and not path.is_symlink()
                found[str(path.relative_to(self.root))] = path.read_bytes() if plain else path.lstat().st_mode
        return found


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    made = Sandbox(tmp_path / "sandbox")
    for folder in (made.work / "output", made.outside, made.root / "home"):
        folder.mkdir(parents=True)
    (made.outside / "marker").write_text("untouched")
    monkeypatch.chdir(made.work)
    monkeypatch.setenv("HOME", str(made.root / "home"))
    monkeypatch.setenv("HANDHELD_STORE", f"sqlite:///{made.work / 'output' / 'profiles.db'}")
    signal.signal(signal.SIGALRM, _too_long)
    yield made
    signal.alarm(0)


def _too_long(*_: object) -> None:
    raise AssertionError(f"took longer than {MOST_SECONDS} s")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small network for all three back ends. Read only."""
    import export

    path = tmp_path_factory.mktemp("fuzz") / "bundle"
    export.export(export.from_module("tests.fuzz.model:build"), TARGETS, path, command="handheld export")
    return path


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory, whole: Path) -> Path:
    """The same without ExecuTorch, whose artifacts are verified in a process of their own. Read only."""
    path = tmp_path_factory.mktemp("quick") / "bundle"
    shutil.copytree(whole, path)
    (path / PTE).unlink()

    def without(content: dict[str, Any]) -> None:
        del content["files"][PTE]
        content["artifacts"] = [a for a in content["artifacts"] if a["path"] != PTE]

    mutations.reseal(path, without)
    assert handheld("verify", path) == 0
    return path


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory, quick: Path) -> dict[str, Any]:
    """Profile records of the quick bundle, as `--json` writes them."""
    folder = tmp_path_factory.mktemp("profile")
    words = ["--iterations", "1", "--repeats", "1", "--store", f"sqlite:///{folder / 'p.db'}"]
    assert handheld("profile", quick, *words, "--json", folder / "p.json") == 0
    found: dict[str, Any] = json.loads((folder / "p.json").read_bytes())
    return found


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_spoilt_input_ends_in_one_line_or_a_right_result(
    kind: str, seed: int, sandbox: Sandbox, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(f"{kind} {seed}")
    words, what = _prepared(kind, dice, sandbox, request)
    before = sandbox.snapshot()
    capsys.readouterr()
    signal.alarm(MOST_SECONDS)  # a network that never ends is a failure too
    code = handheld(*words)
    signal.alarm(0)
    said = capsys.readouterr().err
    after = sandbox.snapshot()
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    assert not changed, f"{words[0]}, {what}: wrote {', '.join(changed)}"
    assert code in (0, 1, 2, 3), f"{words[0]}, {what}: exit code {code}"
    assert "Traceback" not in said
    if code:
        lines = [line for line in said.splitlines() if line.startswith("handheld: ")]
        assert len(lines) == 1, f"{words[0]}, {what}: {said}"
        assert len(lines[0]) < 3000
        named = ("bundle", "recipe", "records.json", "model", "sample", "student", "teacher")
        assert any(name in lines[0] for name in named), f"{words[0]}, {what}: {lines[0]}"


def _prepared(
    kind: str, dice: random.Random, sandbox: Sandbox, request: pytest.FixtureRequest
) -> tuple[list[str | Path], str]:
    """The words of a command, and what was done to its input."""
    if kind == "recipe":
        path = sandbox.work / "recipe.yaml"
        recipe = tiny_recipe(Path("clip.mp4"), Path("teacher"))
        path.write_bytes(mutations.spoil_recipe(recipe, dice))
        verb = ["distill"] if dice.random() < 0.3 else ["recipes", "validate"]
        return [*verb, path, *(["--output", "output/run"] if verb == ["distill"] else [])], "recipe"
    if kind == "records":
        path = sandbox.work / "records.json"
        content = json.dumps(mutations.mutate(copy.deepcopy(request.getfixturevalue("profile")), dice)).encode()
        path.write_bytes(content if dice.random() < 0.7 else mutations.spoil(content, dice))
        return ["report", path, "--output", "output/report.html"], "records"
    bundle = sandbox.work / "bundle"
    shutil.copytree(request.getfixturevalue("whole" if kind in ("crash", "profile") else "quick"), bundle)
    verb = dice.choice(["inspect", "verify", "report"])
    if kind == "manifest":
        what = mutations.spoil_manifest(bundle, dice)
    elif kind == "folder":
        what = mutations.spoil_folder(bundle, dice, sandbox.outside)
    elif kind == "archive":
        name = dice.choice(["sample.npz", "reference.pt2"])
        what = mutations.spoil_archive(bundle, dice, name)
        verb = "verify"
    else:
        names = (
            [PTE]
            if kind in ("crash", "profile")
            else ["model.onnx", MLMODEL, WEIGHTS, "sample.npz", "reference.pt2", "README.md"]
        )
        what = mutations.spoil_artifact(bundle, dice, names)
        verb = "profile" if kind == "profile" else "verify"
    options: dict[str, list[str | Path]] = {
        "report": ["--output", "output/report.html"],
        "profile": ["--iterations", "1", "--repeats", "1", "--no-operators"],
    }
    if verb == "verify" and kind != "crash" and dice.random() < DEEPLY:
        options["verify"] = ["--deep"]
    return [verb, bundle, *options.get(verb, [])], what
