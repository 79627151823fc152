"""The generated files of every kind of model, parsed; `test_kotlin_built.py` and `test_swift_built.py` compile them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import tree_sitter_kotlin
import tree_sitter_swift
from packaging.requirements import Requirement
from torch import nn
from tree_sitter import Language, Node, Parser

import export
from export.model_card import model_card
from export.sdk import write_sdk
from export.sdk.writing import VERSIONS
from export.sources import Source
from tests.export.sdk.bundles import KINDS, TARGETS, Kind, manifest, write
from toolkit.bundle import changed_files, read_manifest, seal
from toolkit.errors import UserError
from toolkit.latents import LatentStatistics

SWIFT = Parser(Language(tree_sitter_swift.language()))
KOTLIN = Parser(Language(tree_sitter_kotlin.language()))
HOSTILE = 'a"; fatalError() // */ } \\(exit(1)) ${System.exit(1)} $x\n#error("x")\u2028/* é 😀'


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def broken(path: str, text: str) -> list[str]:
    """The places at which the parser of the file's language lost its way."""
    parser = SWIFT if path.endswith(".swift") else KOTLIN
    found = nodes(parser.parse(text.encode()).root_node)
    return [f"{path}:{n.start_point[0] + 1}" for n in found if n.is_error or n.is_missing]


def sources(files: dict[str, str]) -> dict[str, str]:
    return {path: text for path, text in files.items() if path.endswith((".swift", ".kt", ".kts"))}


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_is_parsed_without_an_error(tmp_path: Path, kind: Kind) -> None:
    targets = [*TARGETS, "onnx-int8", "coreml-pal6", "executorch-vulkan-fp16"]
    targets += ["coreml-state-fp16"] if kind == "stream" else []
    files = sources(write(tmp_path, manifest(kind, targets)))
    assert len(files) > 15
    assert [place for path, text in files.items() for place in broken(path, text)] == []


def test_the_parsers_see_errors() -> None:
    assert broken("a.swift", "func f( {\n}\n")
    assert broken("a.kt", "fun f( {\n}\n")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_a_hostile_name_becomes_code(tmp_path: Path, kind: Kind) -> None:
    plain = manifest(kind)
    (tmp_path / "hostile").mkdir()
    first, *others = plain.artifacts
    latent, *further = first.inputs
    latent = latent.model_copy(update={"name": HOSTILE, "meaning": HOSTILE})
    artifacts = [a.model_copy(update={"inputs": [latent, *further]}) for a in (first, *others)]
    hostile = sources(write(tmp_path / "hostile", plain.model_copy(update={"name": HOSTILE, "artifacts": artifacts})))
    calm = sources(write(tmp_path, plain))
    assert [place for path, text in hostile.items() for place in broken(path, text)] == []
    for (path, text), other in zip(hostile.items(), calm.values(), strict=True):
        assert shape(path, text) == shape(path, other), path


def shape(path: str, text: str) -> list[str]:
    """The kinds of a file's nodes in order, without what stands inside of literals and comments."""
    parser = SWIFT if path.endswith(".swift") else KOTLIN

    def walk(node: Node) -> Iterator[str]:
        yield node.type
        if "string" not in node.type and "comment" not in node.type:
            for child in node.children:
                yield from walk(child)

    return list(walk(parser.parse(text.encode()).root_node))


def test_a_side_without_an_artifact_has_no_folder(tmp_path: Path) -> None:
    for target, side in (("coreml-fp16", "swift"), ("onnx-fp32", "kotlin")):
        folder = tmp_path / target
        folder.mkdir()
        files = write(folder, manifest("clip", [target]))
        assert {path.split("/")[1] for path in files} == {side}
        assert not any("ExecuTorch" in path for path in files)


def test_only_those_who_use_executorch_need_its_package(tmp_path: Path) -> None:
    files = write(tmp_path, manifest("clip"))
    assert "pytorch/executorch" not in files["sdk/swift/MyModelDecoder/Package.swift"]
    assert "pytorch/executorch" in files["sdk/swift/MyModelDecoderExecuTorch/Package.swift"]


@pytest.mark.parametrize(
    ("specification", "core_ml", "executorch"),
    [
        (7, '.iOS("16.0"), .macOS("13.0")', '.iOS("17.0"), .macOS("14.0")'),
        (8, '.iOS("17.0"), .macOS("14.0")', '.iOS("17.0"), .macOS("14.0")'),
        (9, '.iOS("18.0"), .macOS("15.0")', '.iOS("18.0"), .macOS("15.0")'),
    ],
)
def test_the_packages_ask_for_the_systems_that_the_artifacts_need(
    tmp_path: Path, specification: int, core_ml: str, executorch: str
) -> None:
    files = write(tmp_path, manifest("clip"), specification)
    assert core_ml in files["sdk/swift/MyModelDecoder/Package.swift"]
    assert executorch in files["sdk/swift/MyModelDecoderExecuTorch/Package.swift"]


@pytest.mark.parametrize(
    ("version", "release"),
    [("1.24.1", "1.24.1"), ("1.4.0.dev20260101+cpu", "1.4.0"), ("1.24.0rc1", "1.24.0"), (None, None), ("x", None)],
)
def test_builds_fetch_releases(tmp_path: Path, version: str | None, release: str | None) -> None:
    content = manifest("clip")
    runtimes = ("onnxruntime", "executorch")
    versions = {} if version is None else dict.fromkeys(runtimes, version)
    made = content.provenance.model_copy(update={"versions": versions})
    files = write(tmp_path, content.model_copy(update={"provenance": made}))
    properties = files["sdk/kotlin/gradle.properties"].splitlines()
    for runtime in runtimes:
        assert f"{runtime}.version={release or VERSIONS[runtime]}" in properties
    swift = files["sdk/swift/MyModelDecoderExecuTorch/Package.swift"]
    assert f'branch: "swiftpm-{release or VERSIONS["executorch"]}"' in swift


def test_the_versions_for_manifests_without_any_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"]]
    specifiers = {requirement.name: requirement.specifier for requirement in asked}
    assert VERSIONS["onnxruntime"] in specifiers["onnxruntime"]
    assert VERSIONS["executorch"] in specifiers["executorch"]


def test_a_stream_is_begun_again_after_an_error(tmp_path: Path) -> None:
    files = write(tmp_path, manifest("stream"))
    for path in ("swift/MyModelDecoder/Sources/MyModelDecoderKit/MyModelDecoder.swift", "kotlin/core/src/main/kotlin"):
        text = "".join(content for name, content in files.items() if name.startswith(f"sdk/{path}"))
        assert re.search(r"After a call that throws, .reset\S* and begin the clip again", text), path
        assert "as they were." not in text


def test_raw_latents_come_with_the_numbers_that_undo_their_normalisation(tmp_path: Path) -> None:
    text = "".join(write(tmp_path, manifest("clip")).values())
    assert "[0.5, -1.0, 0.0, 2.0]" in text
    assert "floatArrayOf(1.0f, 2.0f, 0.333333333f, 4.0f)" in text


def test_where_nothing_is_to_be_undone_no_code_does_it(tmp_path: Path) -> None:
    identity = LatentStatistics(mean=(0.0,) * 4, std=(1.0,) * 4, origin="AutoencoderKL")
    for number, changes in enumerate(
        ({"normalized_latents": True}, {"latent_statistics": None}, {"latent_statistics": identity})
    ):
        (tmp_path / str(number)).mkdir()
        assert "latentStd" not in "".join(write(tmp_path / str(number), manifest("clip", **changes)).values())


def test_artifacts_of_other_things_than_floats_are_left_out(tmp_path: Path) -> None:
    content = manifest("clip", ["onnx-fp32", "onnx-fp16"])
    half = content.artifacts[1]
    half = half.model_copy(update={"inputs": [half.inputs[0].model_copy(update={"dtype": "float16"})]})
    text = "".join(write(tmp_path, content.model_copy(update={"artifacts": [content.artifacts[0], half]})).values())
    assert "onnx-fp16" not in text
    with pytest.raises(UserError, match="--sdk: the generated code feeds and reads tensors of float32"):
        write_sdk(tmp_path, content.model_copy(update={"artifacts": [half]}))


def test_the_files_are_covered_by_the_manifests_hashes(tmp_path: Path) -> None:
    content = manifest("clip")
    files = write(tmp_path, content)
    seal(tmp_path, content)
    sealed = read_manifest(tmp_path)
    assert set(files) <= set(sealed.files)
    changed = next(path for path in files if path.endswith(".kt"))
    (tmp_path / changed).write_text("changed")
    assert changed_files(tmp_path, sealed) == [changed]


def test_the_card_points_to_code_that_is_there(tmp_path: Path) -> None:
    content = manifest("stream")
    files = write(tmp_path, content)
    card = model_card(content, sdk=True)
    assert "MyModelDecoder.coreML()" in card
    assert "MyModelDecoder.open(context)" in card
    for path in re.findall(r"`(sdk/\S+?)/?`", card):
        assert any(file.startswith(path) for file in files), path
    assert "sdk/" not in model_card(content)


@pytest.mark.slow
def test_export_writes_it_before_it_seals_the_bundle(tmp_path: Path) -> None:
    module = nn.Conv2d(2, 3, 1)
    source = Source("any net", module, (torch.rand(1, 2, 4, 4),), "module", "Conv2d", ("x",), ("y",), task=None)
    export.export(source, ["onnx-fp32"], tmp_path / "bundle", sdk=True)
    sealed = read_manifest(tmp_path / "bundle")
    assert "sdk/kotlin/core/src/main/kotlin/handheld/anynetmodel/AnyNetModel.kt" in sealed.files
    assert changed_files(tmp_path / "bundle", sealed) == []
    assert "AnyNetModel.open(context)" in (tmp_path / "bundle/README.md").read_text()


def test_a_decoder_of_other_things_than_colours_is_called_as_any_module(tmp_path: Path) -> None:
    content = manifest("clip", ["onnx-fp32"])
    (grey,) = content.artifacts
    grey = grey.model_copy(update={"outputs": [grey.outputs[0].model_copy(update={"shape": (3, 1, 16, 24)})]})
    files = write(tmp_path, content.model_copy(update={"artifacts": [grey]}))
    assert not any(path.endswith("Frames.kt") for path in files)
