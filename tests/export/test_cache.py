"""The cache of artifacts: what is the same is taken, what differs or is damaged is not."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from export import cache, pipeline, targets
from export.handover import Material
from export.targets import FP16, Conversion, Session, Target, Written
from tests.export.test_workers import material, small_source
from toolkit.bundle import Artifact, GraphFacts
from toolkit.errors import UserError
from toolkit.files import sha256, size_bytes
from toolkit.parity import InputCheck, Parity, Tolerance
from toolkit.progress import track

KEY = "a" * 64


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("HANDHELD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def bundle_with(folder: Path, content: bytes) -> Artifact:
    """A folder with an artifact of ONNX's name, and its entry of the manifest."""
    folder.mkdir()
    path = folder / "model.onnx"
    path.write_bytes(content)
    parity = Parity(
        how="executed", runtime="none", max_abs=0, scale=1, psnr_db=None, tolerance=Tolerance(max_share=1), passed=True
    )
    graph = GraphFacts(max_rank=4, operators={}, params=1, macs=1, peak_activation_bytes=1)
    return Artifact(
        target="onnx-fp32",
        mode="clip",
        path=path.name,
        sha256=sha256(path),
        bytes=size_bytes(path),
        inputs=[],
        outputs=[],
        parity=parity,
        graph=graph,
    )


def taken(folder: Path, name: str = KEY) -> Artifact | None:
    folder.mkdir()
    return cache.take(name, targets.find_target("onnx-fp32"), folder)


@pytest.mark.slow
def test_the_same_export_again_comes_from_the_cache(
    tmp_path: Path, own_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = export.export(small_source(), ["onnx-fp32"], tmp_path / "first")
    assert "from the cache" not in capsys.readouterr().err
    again = export.export(small_source(), ["onnx-fp32"], tmp_path / "again")
    assert "from the cache: onnx-fp32" in capsys.readouterr().err
    assert again.artifacts == first.artifacts
    assert export.verify(tmp_path / "again")["onnx-fp32"].passed
    export.export(small_source(), ["onnx-fp32"], tmp_path / "anew", use_cache=False)
    assert "from the cache" not in capsys.readouterr().err
    assert len(list(own_cache.iterdir())) == 1


def test_checks_beyond_the_tolerance_are_logged_of_what_is_made_and_of_what_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here, kept = material(), targets.find_target("onnx-fp32")
    known = bundle_with(tmp_path / "made", b"program")
    beyond = known.parity.model_copy(update={"passed": False})
    check = InputCheck(name="noise", kind="adversarial", parity=beyond, passed=True)
    entry = known.model_copy(update={"checks": [check]})
    cache.keep(cache.key(kept, here), kept, entry, tmp_path / "made")
    (right,) = (here.call.sample[info.name] for info in here.call.outputs)
    session = Session(lambda _inputs: [right], "executed", "the sample's answer to everything")

    def write(_conversion: Conversion, path: Path) -> Written:
        path.write_bytes(b"program")
        return Written(1, {})

    same = Target("same", "same.bin", FP16, write, lambda _path: session)
    (tmp_path / "bundle").mkdir()
    with caplog.at_level(logging.WARNING), track("export", 2) as progress:
        pipeline.make_all([kept, same], tmp_path / "bundle", here, progress, None, True)
    said = [record.message.partition(": FAIL")[0] for record in caplog.records]
    assert said.count("onnx-fp32: adversarial input 'noise'") == 1
    assert said.count("same: adversarial input 'zeros'") == 1


@pytest.mark.slow
def test_a_key_is_of_everything_that_decides_what_an_artifact_is() -> None:
    target = targets.find_target("onnx-fp32")
    here = material()
    call = here.call
    key = cache.key(target, here)
    assert cache.key(target, material()) == key  # lowered anew
    sample = {name: array + np.float32(0.5) for name, array in call.sample.items()}
    renamed = [info.model_copy(update={"name": "clip"}) for info in call.inputs]
    others = [
        (targets.find_target("coreml-fp16"), here),
        (replace(target, tolerance=Tolerance(max_share=1e-3)), here),
        (replace(target, convert=partial(target.convert, form="another")), here),
        (target, replace(here, estimates=here.estimates | {"macs": 2})),
        (target, replace(here, sizes={"size_1x2x3": call})),
        (target, replace(here, call=replace(call, sample=sample))),
        (target, replace(here, call=replace(call, inputs=renamed))),
        (target, replace(here, call=replace(call, calibration=[*call.calibration, *call.calibration]))),
    ]
    keys = {cache.key(*other) for other in others}
    assert len(keys | {key}) == len(others) + 1


def test_other_weights_have_another_key() -> None:
    target = targets.find_target("onnx-fp32")
    here = material()
    key = cache.key(target, here)
    _first_weight(here).view(-1)[0] += 1e-6
    assert cache.key(target, here) != key


def _first_weight(of: Material) -> torch.Tensor:
    program = of.call.program
    return next(t for t in [*program.state_dict.values(), *program.constants.values()] if isinstance(t, torch.Tensor))


def test_a_budget_is_part_of_the_keys_of_those_that_it_bounds() -> None:
    here = material()
    bounded = replace(here, budget_db=40)
    for name, same in (("onnx-fp32", True), ("coreml-image-fp16", True), ("onnx-int8", False)):
        target = targets.find_target(name)
        assert (cache.key(target, here) == cache.key(target, bounded)) is same


@pytest.mark.parametrize("package", ["torchao", "onnx-ir", "scikit-learn"])
def test_the_versions_of_tools_that_decide_what_an_artifact_is_are_in_the_keys(package: str) -> None:
    assert f'"{package}": "{version(package)}"' in cache._surroundings()


def test_another_source_text_has_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    target, here = targets.find_target("onnx-fp32"), material()
    key = cache.key(target, here)
    monkeypatch.setattr(cache, "_surroundings", lambda: "another release")
    assert cache.key(target, here) != key


@pytest.mark.parametrize("part", ["model.onnx", "entry.json"])
def test_a_damaged_entry_is_discarded(part: str, tmp_path: Path, own_cache: Path) -> None:
    artifact = bundle_with(tmp_path / "made", b"program")
    cache.keep(KEY, targets.find_target("onnx-fp32"), artifact, tmp_path / "made")
    assert taken(tmp_path / "whole") == artifact
    content = bytearray((own_cache / KEY / part).read_bytes())
    content[len(content) // 2] ^= 1
    (own_cache / KEY / part).write_bytes(content)
    assert taken(tmp_path / "bundle") is None
    assert not list((tmp_path / "bundle").iterdir())
    assert not list(own_cache.iterdir())


def test_what_stands_beside_an_artifact_is_checked_too(tmp_path: Path, own_cache: Path) -> None:
    artifact, ort = bundle_with(tmp_path / "made", b"program"), targets.find_target("ort-fp32")
    kept = replace(targets.find_target("onnx-fp32"), beside=ort.beside)
    (tmp_path / "made" / ort.beside[0]).write_text("ai.onnx;17;Conv,Relu")
    cache.keep(KEY, kept, artifact, tmp_path / "made")
    (tmp_path / "whole").mkdir()
    assert cache.take(KEY, kept, tmp_path / "whole") == artifact
    (own_cache / KEY / ort.beside[0]).write_text("ai.onnx;17;Conv")
    (tmp_path / "bundle").mkdir()
    assert cache.take(KEY, kept, tmp_path / "bundle") is None
    assert not list((tmp_path / "bundle").iterdir())


def test_an_entry_outlives_a_bundle_that_cannot_be_written(tmp_path: Path, own_cache: Path) -> None:
    artifact = bundle_with(tmp_path / "made", b"program")
    cache.keep(KEY, targets.find_target("onnx-fp32"), artifact, tmp_path / "made")
    assert cache.take(KEY, targets.find_target("onnx-fp32"), tmp_path / "absent") is None
    assert taken(tmp_path / "bundle") == artifact


def test_an_entry_that_lacks_its_artifact_is_none(tmp_path: Path, own_cache: Path) -> None:
    cache.keep(KEY, targets.find_target("onnx-fp32"), bundle_with(tmp_path / "made", b"program"), tmp_path / "made")
    (own_cache / KEY / "model.onnx").unlink()
    assert taken(tmp_path / "bundle") is None


def test_what_was_not_used_for_longest_goes_first(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDHELD_CACHE_GB", "0.00001")  # 10 kB: two entries of 4 kB and what stands beside them
    for age, name in enumerate(["old", "used", "new"]):
        artifact = bundle_with(tmp_path / name, bytes(4000))
        cache.keep(name, targets.find_target("onnx-fp32"), artifact, tmp_path / name)
        if name != "new":
            os.utime(own_cache / name, (age, age))
        if name == "used":
            assert taken(tmp_path / "taken", "old") is not None  # now "old" is younger than "used"
    assert sorted(entry.name for entry in own_cache.iterdir()) == ["new", "old"]


def test_an_artifact_larger_than_the_cache_is_not_kept(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANDHELD_CACHE_GB", "0")
    cache.keep(KEY, targets.find_target("onnx-fp32"), bundle_with(tmp_path / "made", b"program"), tmp_path / "made")
    assert not own_cache.exists()


def test_unfinished_entries_of_processes_that_were_killed_are_removed(tmp_path: Path, own_cache: Path) -> None:
    for name, age in ((".part-left", 2 * cache.SECONDS_OF_A_PART), (".part-working", 0)):
        (own_cache / name).mkdir(parents=True)
        os.utime(own_cache / name, (time.time() - age,) * 2)
    cache.keep(KEY, targets.find_target("onnx-fp32"), bundle_with(tmp_path / "made", b"program"), tmp_path / "made")
    assert sorted(entry.name for entry in own_cache.iterdir()) == [".part-working", KEY]


def test_two_that_keep_the_same_leave_one_entry(tmp_path: Path, own_cache: Path) -> None:
    artifact = bundle_with(tmp_path / "made", b"program")
    cache.keep(KEY, targets.find_target("onnx-fp32"), artifact, tmp_path / "made")
    cache.keep(KEY, targets.find_target("onnx-fp32"), artifact, tmp_path / "made")
    assert [entry.name for entry in own_cache.iterdir()] == [KEY]


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, own_cache: Path) -> None:
    own_cache.write_text("a file")
    cache.keep(KEY, targets.find_target("onnx-fp32"), bundle_with(tmp_path / "made", b"program"), tmp_path / "made")
    assert taken(tmp_path / "bundle") is None


def test_off_means_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDHELD_CACHE", "off")
    assert cache.folder() is None
    assert cache.used_bytes() == 0


def test_a_size_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANDHELD_CACHE_GB", "much")
    with pytest.raises(UserError, match="HANDHELD_CACHE_GB=much: expected gigabytes"):
        cache.most_bytes()
    with pytest.raises(UserError, match="HANDHELD_CACHE_GB=much"):
        cache.key(targets.find_target("onnx-fp32"), material())
