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

from toolkit.bundle import (
    Artifact,
    GraphFacts,
    Manifest,
    Model,
    TensorInfo,
    artifact_path,
    changed_files,
    new_bundle,
    open_bundle,
    provenance,
    read_manifest,
    seal,
)
from toolkit.errors import CheckFailed, UserError
from toolkit.files import sha256, size_bytes
from toolkit.parity import Parity, Tolerance

FILES = {
    "model.onnx": b"\x08\x0a\x12\x07pytorch",
    "model.mlpackage/Manifest.json": b'{"itemInfoEntries": {}}',
    "model.mlpackage/Data/weights/weight.bin": bytes(range(64)),
    "sample.npz": b"PK\x03\x04 sample",
    "README.md": "# Größe\n".encode(),
}
EVERYTHING = [*FILES, "manifest.json"]


def tensor(name: str) -> TensorInfo:
    return TensorInfo(name=name, shape=(5, 16, 8, 8), dtype="float32", meaning=name)


def artifact(folder: Path, target: str, path: str) -> Artifact:
    return Artifact(
        target=target,
        mode="clip",
        path=path,
        sha256=sha256(folder / path),
        bytes=size_bytes(folder / path),
        inputs=[tensor("latent")],
        outputs=[tensor("frames")],
        parity=Parity(
            how="executed",
            runtime="ONNX Runtime 1.23",
            max_abs=1e-6,
            scale=1.0,
            psnr_db=120.0,
            tolerance=Tolerance(max_share=1e-4),
            passed=True,
        ),
        graph=GraphFacts(max_rank=4, operators={"Conv": 3}, params=10, macs=100, peak_activation_bytes=1000),
    )


def fill(folder: Path) -> Manifest:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    artifacts = [artifact(folder, "onnx-fp32", "model.onnx"), artifact(folder, "coreml-fp16", "model.mlpackage")]
    model = Model(role="student", class_name="TurboVAED", config={"patch": 4, "note": "größer als"})
    manifest = Manifest(name="tiny", model=model, provenance=provenance("handheld export run"), artifacts=artifacts)
    return seal(folder, manifest)


def export_half(path: Path) -> None:
    """An export that fails when it has written some of its files."""
    with new_bundle(path) as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    with new_bundle(path) as folder:
        fill(folder)
    return path


@pytest.fixture(scope="module")
def shared_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only, but for a manifest that each example writes anew."""
    path = tmp_path_factory.mktemp("shared") / "bundle"
    with new_bundle(path) as folder:
        fill(folder)
    return path


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and put the hash that fits into its last field."""
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    change(content)
    content["manifest_sha256"] = "0" * 64
    text = json.dumps(content, indent=2) + "\n"
    path.write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest()), encoding="utf-8")


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


ESCAPES = [
    "/etc/passwd",
    "../x",
    "a/../../x",
    "a\\b",
    "C:x",
    "a//b",
    "./a",
    "a/",
    "nul\0",
    "a\u202eb",
    "a.",
    "x" * 2000,
    "",
]


@pytest.mark.parametrize("name", ESCAPES)
def test_path_that_is_not_plain_is_refused_though_its_hash_fits(bundle: Path, name: str) -> None:
    rewrite(bundle, lambda content: content["artifacts"][0].update(path=name))
    with pytest.raises((UserError, CheckFailed), match=r"manifest\.json: "):
        read_manifest(bundle)
    rewrite(bundle, lambda content: content["artifacts"][0].update(path="model.onnx"))
    rewrite(bundle, lambda content: content["files"].update({name: content["files"]["model.onnx"]}))
    with pytest.raises((UserError, CheckFailed), match=r"manifest\.json: "):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["MODEL.onnx", "Model.mlpackage/x", "model.onnx/x", "Manifest.json"])
def test_names_that_are_one_file_on_some_systems_are_refused(bundle: Path, name: str) -> None:
    rewrite(bundle, lambda content: content["files"].update({name: content["files"]["model.onnx"]}))
    with pytest.raises(UserError, match="one and the same on some systems"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "model.mlpackage"])
def test_link_is_refused_though_the_hashes_fit(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.parent / "outside")
    (bundle / name).symlink_to(bundle.parent / "outside")
    with pytest.raises(CheckFailed, match="a link, or not in the bundle's manifest"):
        open_bundle(bundle)
    with pytest.raises(CheckFailed, match="leads out of"):
        artifact_path(bundle, next(a for a in read_manifest(bundle).artifacts if a.path == name))


@pytest.mark.parametrize("name", ["run.sh", "model.mlpackage/Data/extra.bin"])
def test_file_that_the_manifest_does_not_name_is_refused(bundle: Path, name: str) -> None:
    (bundle / name).write_text("extra")
    with pytest.raises(CheckFailed, match=name):
        open_bundle(bundle)


@pytest.mark.parametrize("name", [".DS_Store", "._model.onnx", "model.mlpackage/.DS_Store"])
def test_what_file_managers_leave_is_overlooked(bundle: Path, name: str) -> None:
    (bundle / name).write_text("litter")
    assert open_bundle(bundle).name == "tiny"


@pytest.mark.parametrize(
    "name",
    [
        "swift/X/.build/debug",
        "swift/X/.swiftpm/xcode/state",
        "swift/X/Package.resolved",
        "kotlin/.gradle/8.9/lock",
        "kotlin/.kotlin/errors/log",
        "kotlin/build/reports/problems.html",
        "kotlin/core/build/libs/core.jar",
        "kotlin/android/build/outputs/android.aar",
        "kotlin/local.properties",
    ],
)
def test_what_building_the_sdk_leaves_is_overlooked(bundle: Path, name: str) -> None:
    path = bundle / "sdk" / name
    path.parent.mkdir(parents=True)
    if len(Path(name).parts) > 3:
        path.symlink_to("y")
    else:
        path.write_text("built")
    assert open_bundle(bundle).name == "tiny"


@pytest.mark.parametrize(
    "name",
    ["swift/X/Sources/X/build/a.swift", "kotlin/core/src/main/kotlin/build/a.kt", "build/a", "../.build/a"],
)
def test_other_files_in_the_sdk_are_not_overlooked(bundle: Path, name: str) -> None:
    path = (bundle / "sdk").joinpath(name)
    (bundle / "sdk").mkdir()
    path.parent.mkdir(parents=True)
    path.write_text("extra")
    with pytest.raises(CheckFailed, match="not in the bundle's manifest"):
        open_bundle(bundle)


def test_a_link_in_the_place_of_a_build_is_refused(bundle: Path) -> None:
    (bundle / "sdk/swift/X").mkdir(parents=True)
    (bundle / "sdk/swift/X/.build").symlink_to(bundle.parent)
    with pytest.raises(CheckFailed, match=r"\.build: a link"):
        open_bundle(bundle)


def test_nothing_is_overlooked_beside_an_artifact_in_the_sdk(bundle: Path) -> None:
    moved = "sdk/kotlin/build/model.mlpackage"
    (bundle / moved).parent.mkdir(parents=True)
    (bundle / "model.mlpackage").rename(bundle / moved)

    def move(content: dict[str, Any]) -> None:
        next(a for a in content["artifacts"] if a["path"] == "model.mlpackage")["path"] = moved
        files = content["files"]
        content["files"] = {name.replace("model.mlpackage", moved): entry for name, entry in files.items()}

    rewrite(bundle, move)
    assert open_bundle(bundle).name == "tiny"
    (bundle / moved / "extra").write_text("extra")
    with pytest.raises(CheckFailed, match="extra"):
        open_bundle(bundle)


def test_package_whose_parts_lie_outside_is_refused(bundle: Path) -> None:
    parts = {"itemInfoEntries": {"x": {"path": "../../../outside"}}}
    (bundle / "model.mlpackage" / "Manifest.json").write_text(json.dumps(parts))
    with pytest.raises(CheckFailed, match="no plain relative path"):
        artifact_path(bundle, read_manifest(bundle).artifact("coreml-fp16"))


def test_created_is_the_moment_that_source_date_epoch_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert provenance("handheld export").created == "1970-01-01T00:00:00+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(UserError, match="SOURCE_DATE_EPOCH=yesterday: expected whole seconds"):
        provenance("handheld export")
