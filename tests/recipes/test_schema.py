"""Recipe files: what is accepted, and how mistakes are explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from recipes.data.flow_specs import SyntheticFlowSpec
from recipes.schema import ASSET_PREFIX, ClipsSpec, TeacherSpec, asset_path, catalog, load_recipe
from tests.conftest import RecipeWriter
from toolkit import students
from toolkit.errors import UserError


@pytest.mark.parametrize("name", sorted(catalog()))
def test_every_catalogued_recipe_loads_and_names_itself(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    header = catalog()[name].read_text().split("\nname:")[0]
    assert f"handheld distill {name}" in header


@pytest.mark.parametrize("name", sorted(catalog()))
def test_every_catalogued_recipe_uses_assets_that_exist(name: str) -> None:
    recipe = load_recipe(name)
    train, sources = recipe.data.train, []
    if isinstance(train, ClipsSpec):
        sources = [train.path]
    elif isinstance(train, SyntheticFlowSpec):
        sources = train.textures.sources
    for source in sources:
        if source.startswith(ASSET_PREFIX):
            assert asset_path(source).is_file()
    if isinstance(recipe.teacher, TeacherSpec) and recipe.teacher.weights.startswith(ASSET_PREFIX):
        assert (asset_path(recipe.teacher.weights) / "config.json").is_file()


def test_a_recipe_survives_writing_and_reading(write_recipe: RecipeWriter, tmp_path: Path) -> None:
    recipe = load_recipe(write_recipe())
    copy = tmp_path / "copy.yaml"
    copy.write_text(recipe.to_yaml())
    assert load_recipe(copy) == recipe


def test_an_unknown_key_is_an_error_that_names_the_nearest(write_recipe: RecipeWriter) -> None:
    path = write_recipe(lambda r: r["trainer"].update(bacth=3))
    with pytest.raises(UserError, match=r"trainer.*unknown key 'bacth' \(did you mean 'batch'\?"):
        load_recipe(path)


def test_a_wrong_type_is_an_error_that_names_key_and_value(write_recipe: RecipeWriter) -> None:
    path = write_recipe(lambda r: r["phases"][0].update(steps="many"))
    with pytest.raises(UserError, match=r"phases\.0\.steps: .*integer.*got 'many'"):
        load_recipe(path)


def test_an_unknown_student_override_is_an_error_that_names_the_nearest(write_recipe: RecipeWriter) -> None:
    recipe = load_recipe(write_recipe(lambda r: r["student"].update(width=[8])))
    with pytest.raises(UserError, match="did you mean 'widths'"):
        students.build(recipe.student.kind, recipe.student.preset, recipe.student.overrides)


@pytest.mark.parametrize(
    "override",
    [
        "trainer.betas=[2, 3]",
        "trainer.seed=-1",
        "data.train.range=[5, 5]",
        "data.train.range=[-3, 5]",
        "name=../elsewhere",
        "phases=[]",
        "trainer.batch=0",
    ],
)
def test_values_out_of_range_are_refused_by_key(write_recipe: RecipeWriter, override: str) -> None:
    with pytest.raises(UserError, match=override.split("=")[0].split(".")[-1]):
        load_recipe(write_recipe(), [override])


def test_a_student_without_a_teacher_is_refused(write_recipe: RecipeWriter) -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        load_recipe(write_recipe(lambda r: r.pop("teacher")))


def test_text_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: [unclosed")
    with pytest.raises(UserError, match="not valid YAML"):
        load_recipe(path)


def test_a_file_that_is_a_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(UserError, match="mapping"):
        load_recipe(path)


def test_an_unknown_name_lists_the_catalogue() -> None:
    with pytest.raises(UserError, match="Did you mean 'demo-turbo-vaed'"):
        load_recipe("demo-turbo-vead")


def test_set_changes_nested_keys_and_list_entries(write_recipe: RecipeWriter) -> None:
    recipe = load_recipe(write_recipe(), ["trainer.batch=7", "phases.0.lr=0.5", "student.widths=[16, 16, 16]"])
    assert recipe.trainer.batch == 7
    assert recipe.phases[0].lr == 0.5
    assert recipe.student.overrides["widths"] == [16, 16, 16]


@pytest.mark.parametrize("override", ["trainer.batch", "phases.9.lr=1", "name.deeper=1", "=3", "trainer.batch=[1"])
def test_a_malformed_set_is_refused_by_name(write_recipe: RecipeWriter, override: str) -> None:
    with pytest.raises(UserError, match="--set"):
        load_recipe(write_recipe(), [override])


def test_an_unknown_asset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"big_buck_bunny\.mp4"):
        asset_path("asset:big_buck_bunni.mp4")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["trainer.checkpoint_activations=true"], "leave out trainer.checkpoint_activations"),
        (["phases.0.quantization=int4"], r"phases\.0\.quantization"),
    ],
)
def test_a_quantization_aware_phase_that_cannot_be_is_refused(
    write_recipe: RecipeWriter, keys: list[str], reason: str
) -> None:
    path = write_recipe(lambda r: r["phases"][0].update(quantization="int8"))
    with pytest.raises(UserError, match=reason):
        load_recipe(path, keys)
