"""Strict models: unknown keys, wrong values and broken files end in one line that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from toolkit.errors import UserError
from toolkit.schema import StrictModel, read_yaml, validate


class Data(StrictModel):
    frames: int
    path: str = "clips"


class Recipe(StrictModel):
    name: str
    data: Data = Data(frames=1)
    class_name: str = Field(default="VAE", alias="class")


def test_accepts_known_keys_by_name_and_by_alias() -> None:
    by_alias = validate(Recipe, {"name": "a", "class": "LTX", "data": {"frames": 5}}, "recipe.yaml")
    by_name = validate(Recipe, {"name": "a", "class_name": "LTX", "data": {"frames": 5}}, "recipe.yaml")
    assert by_alias == by_name
    assert (by_alias.name, by_alias.class_name, by_alias.data.frames) == ("a", "LTX", 5)


def test_refuses_unknown_key_and_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: .*unknown key 'nmae' \(did you mean 'name'\?") as caught:
        validate(Recipe, {"nmae": "a"}, "recipe.yaml")
    assert "known: class, data, name" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_unknown_key_without_a_guess_where_none_is_near() -> None:
    with pytest.raises(UserError, match=r"unknown key 'zzzz' \(known: ") as caught:
        validate(Recipe, {"name": "a", "zzzz": 1}, "recipe.yaml")
    assert "did you mean" not in str(caught.value)


def test_names_the_place_of_an_unknown_key_below_the_top() -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: data: unknown key 'frame' \(did you mean 'frames'\?"):
        validate(Recipe, {"name": "a", "data": {"frame": 5}}, "recipe.yaml")


def test_names_the_key_and_the_value_of_a_wrong_type() -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: data\.frames: .*integer.*got 'many'"):
        validate(Recipe, {"name": "a", "data": {"frames": "many"}}, "recipe.yaml")


def test_names_a_missing_key() -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: name: Field required"):
        validate(Recipe, {}, "recipe.yaml")


def test_counts_the_errors_beyond_the_first() -> None:
    with pytest.raises(UserError, match=r"\(1 more\)$"):
        validate(Recipe, {"data": {"frames": "many"}}, "recipe.yaml")


@pytest.mark.parametrize("content", [None, [1, 2], "text", 3])
def test_refuses_what_is_no_mapping(content: object) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml: top level: "):
        validate(Recipe, content, "recipe.yaml")


def test_yaml_file_gives_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("name: é\nsteps: [1, 2.5, true]\n", encoding="utf-8")
    assert read_yaml(path) == {"name": "é", "steps": [1, 2.5, True]}


def test_missing_yaml_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: no such file"):
        read_yaml(tmp_path / "absent.yaml")


def test_folder_in_place_of_a_yaml_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"a: [1, 2", id="unclosed list"),
        pytest.param(b"a: 1\n b: 2\n", id="wrong indentation"),
        pytest.param(b"a: \xff\xfe", id="not UTF-8"),
        pytest.param(b"a: !!python/object:os.system {}", id="a Python object"),
        pytest.param(b"a: 2020-13-45", id="a date that does not exist"),
    ],
)
def test_broken_yaml_is_refused_in_one_line_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.yaml: not valid YAML") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
