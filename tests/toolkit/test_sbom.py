"""The list of a bundle's parts is valid SPDX, complete, and the same each time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from tests.toolkit.test_bundle import FILES, fill
from toolkit.sbom import SBOM, write_sbom


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    manifest = fill(tmp_path)
    (tmp_path / "manifest.json").unlink()
    write_sbom(tmp_path, manifest)
    return tmp_path


def test_document_is_valid_spdx(folder: Path) -> None:
    assert validate_full_spdx_document(parse_file(str(folder / SBOM))) == []


def test_every_file_stands_there_with_its_hash_and_what_it_was_made_from(folder: Path) -> None:
    content = json.loads((folder / SBOM).read_bytes())
    hashes = {file["fileName"]: file["checksums"][1]["checksumValue"] for file in content["files"]}
    assert hashes == {f"./{name}": hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    relations = {(r["spdxElementId"], r["relationshipType"]): r["relatedSpdxElement"] for r in content["relationships"]}
    assert all(relations[file["SPDXID"], "GENERATED_FROM"] == "SPDXRef-Model-TurboVAED" for file in content["files"])


def test_tools_have_version_license_and_package_url_and_bring_what_they_require(folder: Path) -> None:
    tools = {package["name"]: package for package in json.loads((folder / SBOM).read_bytes())["packages"]}
    assert tools["onnx"]["licenseDeclared"] == "Apache-2.0"
    assert tools["onnx"]["externalRefs"][0]["referenceLocator"] == f"pkg:pypi/onnx@{tools['onnx']['versionInfo']}"
    assert {"torch", "sympy", "protobuf", "coremltools", "executorch", "torchao"} <= tools.keys()


def test_same_folder_gives_the_same_bytes(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    from toolkit.bundle import read_manifest

    manifest = fill(folder)
    (folder / SBOM).unlink()
    sealed = read_manifest(folder)
    (folder / "manifest.json").unlink()
    write_sbom(folder, manifest)
    once = (folder / SBOM).read_bytes()
    write_sbom(folder, sealed)
    assert (folder / SBOM).read_bytes() == once
