"""Bundles made to deceive: names and links that lead elsewhere, and files that nobody vouches for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.toolkit.bundles import rewrite
from toolkit.bundle import artifact_path, open_bundle, read_manifest
from toolkit.errors import CheckFailed, UserError

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
