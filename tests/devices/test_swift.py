"""The runner app's Swift and its Xcode project, parsed. `test_swift_built.py` compiles it where there is a compiler."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tree_sitter_swift
from openstep_parser import OpenStepDecoder
from tree_sitter import Language, Node, Parser

from devices import apple_jobs, iphone_app

APPLE = Path(apple_jobs.__file__).parent / "runners/apple"
SOURCES = sorted((APPLE / "HandheldRunner").glob("*.swift"))
PARSER = Parser(Language(tree_sitter_swift.language()))


def nodes(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from nodes(child)


def broken(source: bytes) -> list[int]:
    """The lines at which the parser lost its way."""
    tree = PARSER.parse(source)
    return [node.start_point[0] + 1 for node in nodes(tree.root_node) if node.is_error or node.is_missing]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_swift_is_parsed_without_an_error(path: Path) -> None:
    assert broken(path.read_bytes()) == []


def test_the_parser_sees_errors() -> None:
    assert broken(b"func f( {\n}\n")


def fields(struct: str) -> set[str]:
    """The stored properties of a Swift struct in `Job.swift`."""
    text = (APPLE / "HandheldRunner/Job.swift").read_text(encoding="utf-8")
    body = text.split(f"struct {struct}: Decodable {{", 1)[1].split("}", 1)[0]
    return {name.strip("`") for name in re.findall(r"let (`?\w+`?):", body)}


@pytest.mark.parametrize(
    ("struct", "model"),
    [
        ("Job", apple_jobs.Job),
        ("Candidate", apple_jobs.JobCandidate),
        ("Rules", apple_jobs.Rules),
        ("TensorFile", apple_jobs.Tensor),
    ],
)
def test_the_app_reads_the_fields_that_are_written(struct: str, model: Any) -> None:
    assert fields(struct) == set(model.model_fields)


def test_the_app_tells_only_events_that_are_read() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    told = set(re.findall(r'tell\("(\w+)"', text))
    known = {model.model_fields["event"].annotation.__args__[0] for model in apple_jobs.Told.__args__}
    assert told == known


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (APPLE / "HandheldRunner.xcodeproj/project.pbxproj").open(encoding="utf-8") as file:
        return OpenStepDecoder.ParseFromFile(file)


def test_the_xcode_project_refers_only_to_what_it_holds(project: dict[str, Any]) -> None:
    identifiers = re.findall(r"^A1[0-9A-F]{22}$", "\n".join(words(project)), re.MULTILINE)
    assert set(identifiers) == set(project["objects"])


def test_the_xcode_project_builds_the_folder_of_the_sources_under_the_name_that_is_launched(
    project: dict[str, Any],
) -> None:
    found = project["objects"].values()
    (group,) = [entry for entry in found if entry["isa"] == "PBXFileSystemSynchronizedRootGroup"]
    assert (APPLE / group["path"]) == SOURCES[0].parent
    names = {entry["buildSettings"].get("PRODUCT_BUNDLE_IDENTIFIER") for entry in found if "buildSettings" in entry}
    assert iphone_app.APP in names


def words(value: Any) -> Iterator[str]:
    """Every key and every text of a parsed project."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from words(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from words(inner)
    else:
        yield str(value)
