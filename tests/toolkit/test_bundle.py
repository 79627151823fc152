"""Bundles: whole or absent, and every changed byte is found and named."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.toolkit.bundles import FILES, fill, rewrite
from toolkit.bundle import changed_files, new_bundle, open_bundle, provenance, read_manifest
from toolkit.errors import CheckFailed, UserError

EVERYTHING = [*FILES, "manifest.json"]


def export_half(path: Path) -> None:
    """An export that fails when it has written some of its files."""
    with new_bundle(path) as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only, but for a manifest that each example writes anew."""
    path = tmp_path_factory.mktemp("shared") / "bundle"
    with new_bundle(path) as folder:
        fill(folder)
    return path


def test_unchanged_bundle_opens_with_what_was_sealed(bundle: Path) -> None:
    manifest = open_bundle(bundle)
    assert manifest.name == "tiny"
    assert manifest.model.config == {"patch": 4, "note": "größer als"}
    assert [a.target for a in manifest.artifacts] == ["onnx-fp32", "coreml-fp16"]
    assert changed_files(bundle, manifest) == []


def test_manifest_holds_hash_and_size_of_every_file(bundle: Path) -> None:
    held = {name: (entry.sha256, entry.bytes) for name, entry in read_manifest(bundle).files.items()}
    assert held == {name: (hashlib.sha256(content).hexdigest(), len(content)) for name, content in FILES.items()}


def test_manifest_holds_its_own_hash_over_its_text_with_that_field_zeroed(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text(encoding="utf-8")
    digest = json.loads(text)["manifest_sha256"]
    assert text.count(digest) == 1
    assert hashlib.sha256(text.replace(digest, "0" * 64).encode()).hexdigest() == digest


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", EVERYTHING)
def test_one_flipped_bit_of_any_file_is_found_and_the_file_named(bundle: Path, name: str, where: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    position = {"first": 0, "middle": len(content) // 2, "last": -1}[where]
    content[position] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(CheckFailed) as caught:
        open_bundle(bundle)
    named = [other for other in EVERYTHING if str(bundle / other) in str(caught.value)]
    assert named == [name]


@given(data=st.data(), flip=st.integers(1, 255))
def test_no_byte_of_the_manifest_can_change_unnoticed(shared_bundle: Path, data: st.DataObject, flip: int) -> None:
    path = shared_bundle / "manifest.json"
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[position] ^= flip
    try:
        path.write_bytes(changed)
        with pytest.raises(CheckFailed) as caught:
            open_bundle(shared_bundle)
    finally:
        path.write_bytes(original)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b'"text"', b"{", b"\xff\xfe", b'{"manifest_sha256": ""}']
)
def test_manifest_that_became_something_else_is_damaged(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"manifest\.json: changed"):
        read_manifest(bundle)


def test_text_appended_to_the_manifest_is_found(bundle: Path) -> None:
    with (bundle / "manifest.json").open("a") as file:
        file.write("\n")
    with pytest.raises(CheckFailed, match=r"manifest\.json: changed"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_found_and_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(CheckFailed) as caught:
        open_bundle(bundle)
    assert str(bundle / name) in str(caught.value)
    assert changed_files(bundle, read_manifest(bundle)) == [name]


def test_all_changed_files_are_named_at_once(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"other")
    shutil.rmtree(bundle / "model.mlpackage")
    with pytest.raises(CheckFailed) as caught:
        open_bundle(bundle)
    assert all(str(bundle / name) in str(caught.value) for name in FILES if name.startswith("model."))
    assert "sample.npz" not in str(caught.value)


def test_file_called_manifest_below_the_top_is_covered_too(tmp_path: Path) -> None:
    with new_bundle(tmp_path / "bundle") as folder:
        (folder / "extra").mkdir()
        (folder / "extra" / "manifest.json").write_text("{}")
        fill(folder)
    (tmp_path / "bundle" / "extra" / "manifest.json").write_text("[]")
    with pytest.raises(CheckFailed, match=r"extra/manifest\.json"):
        open_bundle(tmp_path / "bundle")


def test_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no bundle \(manifest\.json is missing\)"):
        open_bundle(tmp_path)


def test_manifest_of_a_bundle_without_latent_statistics_is_read(bundle: Path) -> None:
    rewrite(bundle, lambda content: (content.pop("latent_statistics"), content.pop("normalized_latents")))
    assert open_bundle(bundle).latent_statistics is None
    assert not open_bundle(bundle).normalized_latents


def test_manifest_of_another_schema_version_is_refused_by_its_number(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.update(schema_version=99))
    with pytest.raises(UserError, match="schema version 99; this release reads 1"):
        read_manifest(bundle)


@pytest.mark.parametrize(
    "change", [lambda content: content.update(colour="red"), lambda content: content.pop("artifacts")]
)
def test_intact_manifest_with_other_keys_is_refused(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(bundle, change)
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest of this release"):
        read_manifest(bundle)


def test_a_bundle_without_artifacts_is_refused(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.update(artifacts=[]))
    with pytest.raises(UserError, match="it holds no artifact"):
        read_manifest(bundle)


def test_rewritten_manifest_with_a_fitting_hash_is_read(bundle: Path) -> None:
    rewrite(bundle, lambda content: content.update(name="renamed"))
    assert open_bundle(bundle).name == "renamed"


def test_artifact_is_found_by_target_and_an_absent_one_answered_with_those_held(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.artifact("coreml-fp16").path == "model.mlpackage"
    with pytest.raises(UserError, match="'tiny' has no artifact for onnx-int8; it holds: onnx-fp32, coreml-fp16"):
        manifest.artifact("onnx-int8")


def test_failing_export_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        export_half(tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_failing_export_keeps_an_earlier_bundle(bundle: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        export_half(bundle)
    assert list(bundle.parent.iterdir()) == [bundle]
    open_bundle(bundle)


def test_export_replaces_an_earlier_bundle(bundle: Path) -> None:
    (bundle / "stray").write_text("stray")
    with new_bundle(bundle) as folder:
        fill(folder)
    assert not (bundle / "stray").exists()
    open_bundle(bundle)


def test_never_replaces_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("kept")
    with pytest.raises(UserError, match="thesis: exists and is no bundle"), new_bundle(tmp_path / "thesis"):
        pass
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


def test_export_may_fill_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    with new_bundle(tmp_path / "bundle") as folder:
        fill(folder)
    open_bundle(tmp_path / "bundle")


def test_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="file: exists and is no bundle"), new_bundle(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "kept"


def test_provenance_names_command_tools_and_the_recipes_hash(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(b"abc")
    origin = provenance("handheld export run", recipe)
    assert origin.command == "handheld export run"
    assert origin.recipe_sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert {"python", "torch", "onnx", "onnxruntime", "executorch", "coremltools", "numpy"} <= set(origin.versions)
    assert provenance("handheld export run").recipe_sha256 is None
    assert provenance("handheld export run", tmp_path / "absent.yaml").recipe_sha256 is None


def test_created_is_the_moment_that_source_date_epoch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert provenance("handheld export").created == "1970-01-01T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH=yesterday: expected whole seconds"):
        provenance("handheld export")
