"""Students by name: built from presets, saved, and loaded back bit for bit or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from toolkit import students
from toolkit.errors import UserError

SMALL: dict[str, Any] = {"latent_channels": 2, "widths": [8, 8, 4]}


@pytest.fixture
def student() -> students.Student:
    torch.manual_seed(0)
    return students.build("turbo_vaed", "demo", SMALL)


@pytest.fixture
def folder(tmp_path: Path, student: students.Student) -> Path:
    students.save(student, tmp_path / "run")
    return tmp_path / "run"


def test_every_preset_builds() -> None:
    assert "turbo_vaed" in students.kinds()
    for name, kind in students.kinds().items():
        assert kind.presets
        for preset in kind.presets:
            with torch.device("meta"):
                assert students.build(name, preset).config == kind.presets[preset]


def test_overrides_change_the_preset_and_nothing_else(student: students.Student) -> None:
    preset = students.kinds()["turbo_vaed"].presets["demo"].model_dump()
    assert student.config.model_dump() == {**preset, "latent_channels": 2, "widths": (8, 8, 4)}


def test_unknown_student_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown student 'turbo_vae'\. Did you mean 'turbo_vaed'\?"):
        students.build("turbo_vae", "demo")


def test_unknown_preset_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown preset of turbo_vaed 'dmo'\. Did you mean 'demo'\?"):
        students.build("turbo_vaed", "dmo")


def test_override_of_an_unknown_field_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"student turbo_vaed:demo: .*unknown key 'width' \(did you mean 'widths'\?"):
        students.build("turbo_vaed", "demo", {"width": [8, 8, 8]})


def test_override_with_an_impossible_value_names_the_field() -> None:
    with pytest.raises(UserError, match=r"student turbo_vaed:demo: latent_channels: .*greater than 0, got 0"):
        students.build("turbo_vaed", "demo", {"latent_channels": 0})


def test_round_trip_is_bit_identical(student: students.Student, folder: Path) -> None:
    loaded = students.load(folder)
    assert type(loaded) is type(student)
    assert loaded.config == student.config
    before, after = student.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    latent = torch.randn(1, 2, 2, 3, 3)
    with torch.no_grad():
        assert torch.equal(loaded(latent), student.eval()(latent))


def test_loaded_student_is_in_evaluation_mode(student: students.Student, folder: Path) -> None:
    assert student.training
    assert not students.load(folder).training


def test_saving_again_replaces_the_weights(student: students.Student, folder: Path) -> None:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    students.save(student, folder)
    after = students.load(folder).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in student.state_dict().items())
    assert sorted(p.name for p in folder.iterdir()) == ["student.json", "student.safetensors"]


@pytest.mark.parametrize("name", ["student.json", "student.safetensors"])
def test_missing_file_means_no_finished_student(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(UserError, match="run: holds no finished student"):
        students.load(folder)


def test_missing_folder_means_no_finished_student(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent: holds no finished student"):
        students.load(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["empty", "header", "cut", "noise"])
def test_damaged_weights_are_refused(folder: Path, damage: str) -> None:
    path = folder / "student.safetensors"
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "header": content[:20], "cut": content[:-1], "noise": bytes([171]) * 999}[damage])
    with pytest.raises(UserError, match="run: the student's files are damaged"):
        students.load(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"{}",
        b'{"kind": "turbo_vaed"}',
        b"[]",
        b"null",
        b'"turbo_vaed"',
    ],
)
def test_damaged_description_is_refused(folder: Path, content: bytes) -> None:
    (folder / "student.json").write_bytes(content)
    with pytest.raises(UserError, match=str(folder)):
        students.load(folder)


@pytest.mark.parametrize("kind", ["turbo_vaee", ["turbo_vaed"], None, 3])
def test_description_of_an_unknown_kind_is_refused(folder: Path, kind: object) -> None:
    (folder / "student.json").write_text(json.dumps({"kind": kind, "config": {}}))
    with pytest.raises(UserError, match="student"):
        students.load(folder)


def test_description_with_an_unknown_field_is_refused_by_file_and_field(folder: Path) -> None:
    description = json.loads((folder / "student.json").read_text())
    description["config"]["depth"] = 3
    (folder / "student.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"student\.json: .*unknown key 'depth'"):
        students.load(folder)


def test_weights_of_another_width_do_not_fit(folder: Path) -> None:
    description = json.loads((folder / "student.json").read_text())
    description["config"]["widths"] = [8, 8, 8]
    (folder / "student.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"student\.safetensors: does not fit student\.json"):
        students.load(folder)


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_missing_and_unknown_weights_do_not_fit(folder: Path, change: str) -> None:
    path = folder / "student.safetensors"
    weights = load_file(path)
    if change == "missing":
        del weights["conv_in.conv.bias"]
    else:
        weights["conv_in.conv.scale"] = torch.ones(1)
    save_file(weights, path)
    with pytest.raises(UserError, match=r"student\.safetensors: does not fit student\.json .*conv_in\.conv\."):
        students.load(folder)
