"""`sbom.spdx.json`: what is in a bundle and what made it, as SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from toolkit.bundle import MANIFEST, Manifest
from toolkit.files import sha256

SBOM = "sbom.spdx.json"
DOCUMENT, BUNDLE = "SPDXRef-DOCUMENT", "SPDXRef-Bundle"
HANDHELD = "handheld"
NOT_ONE_ID = re.compile(r"[^A-Za-z0-9.-]+")
CLASSIFIED = {  # the classifiers that name one license; those like "BSD License" leave its clauses open
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: ISC License (ISCL)": "ISC",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def write_sbom(folder: Path, manifest: Manifest) -> None:
    """Write `sbom.spdx.json` into the folder of a bundle that is not sealed yet.

    It lists every file that is there with its hashes, and every distribution that took part in making them:
    those that the manifest gives versions of and all that they require, as they are installed here. The same export
    gives the same bytes but for `created`, which is the manifest's.
    """
    (folder / SBOM).write_text(json.dumps(document(folder, manifest), indent=1) + "\n", encoding="utf-8")


def document(folder: Path, manifest: Manifest) -> dict[str, Any]:
    """The SPDX document of a bundle's folder."""
    tools = [_package(name, found) for name, found in _installed(manifest.provenance.versions)]
    files = [_file(folder, path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SBOM]
    ids = [file["SPDXID"] for file in files]
    relations = [_relation(DOCUMENT, "DESCRIBES", BUNDLE)]
    relations += [_relation(BUNDLE, "CONTAINS", file) for file in ids]
    relations += [_relation(tool["SPDXID"], "BUILD_TOOL_OF", BUNDLE) for tool in tools]
    relations += [_relation(file, "GENERATED_FROM", _source_id(manifest)) for file in ids]
    source = {
        "SPDXID": _source_id(manifest),
        "name": manifest.model.class_name,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "comment": f"the PyTorch model, a {manifest.model.role}; recipe {manifest.provenance.recipe_sha256 or 'none'}",
    }
    bundle = source | {
        "SPDXID": BUNDLE,
        "name": manifest.name,
        "filesAnalyzed": True,
        "packageVerificationCode": {
            "packageVerificationCodeValue": _verification_code(files),
            "packageVerificationCodeExcludedFiles": [f"./{SBOM}", f"./{MANIFEST}"],
        },
        "licenseInfoFromFiles": ["NOASSERTION"],
        "comment": "the bundle; its model's license is its makers' to say",
    }
    versions = manifest.provenance.versions
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": manifest.name,
        "documentNamespace": _namespace(manifest, files),
        "creationInfo": {
            "created": manifest.provenance.created.replace("+00:00", "Z"),
            "creators": [f"Tool: handheld-{versions.get(HANDHELD, 'unknown')}"],
        },
        "packages": [bundle, source, *tools],
        "files": files,
        "relationships": relations,
    }


def _installed(names: Iterable[str]) -> list[tuple[str, Distribution]]:
    """The distributions called `names` and all that they require, by name."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except (PackageNotFoundError, ValueError):
            continue  # Python itself, or what another platform needs
        waiting += _required(found[name])
    return sorted(found.items())


def _required(found: Distribution) -> list[str]:
    names = []
    for text in found.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            names.append(requirement.name)
    return names


def _package(name: str, found: Distribution) -> dict[str, Any]:
    return {
        "SPDXID": f"SPDXRef-Tool-{NOT_ONE_ID.sub('-', name)}",
        "name": name,
        "versionInfo": found.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": _license(found),
        "copyrightText": "NOASSERTION",
        "externalRefs": [
            {
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": f"pkg:pypi/{name}@{found.version.replace('+', '%2B')}",
            }
        ],
    }


def _license(found: Distribution) -> str:
    """A distribution's license as an SPDX expression; NOASSERTION where its metadata has none that is certain."""
    said = next(iter(found.metadata.get_all("License-Expression") or []), "")
    if said and "LicenseRef-" not in said:  # a license of its own would have to be quoted whole
        return said
    classified = {CLASSIFIED[name] for name in found.metadata.get_all("Classifier") or [] if name in CLASSIFIED}
    if len(classified) == 1:
        return classified.pop()
    return "NOASSERTION"


def _file(folder: Path, path: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    return {
        "SPDXID": f"SPDXRef-File-{NOT_ONE_ID.sub('-', name)}",
        "fileName": f"./{name}",
        "checksums": [{"algorithm": kind, "checksumValue": value} for kind, value in _hashes(path)],
        "licenseConcluded": "NOASSERTION",
        "licenseInfoInFiles": ["NOASSERTION"],
        "copyrightText": "NOASSERTION",
    }


def _hashes(path: Path) -> list[tuple[str, str]]:
    """SPDX 2.3 wants a file's SHA-1, as a name and not as proof."""
    with path.open("rb") as file:
        return [("SHA1", hashlib.file_digest(file, _sha1).hexdigest()), ("SHA256", sha256(path))]


def _sha1() -> Any:
    return hashlib.sha1(usedforsecurity=False)


def _verification_code(files: list[dict[str, Any]]) -> str:
    """Section 7.9 of the specification: SHA-1 over the files' sorted SHA-1s."""
    hashes = sorted(str(file["checksums"][0]["checksumValue"]) for file in files)
    return hashlib.sha1("".join(hashes).encode(), usedforsecurity=False).hexdigest()


def _relation(element: str, kind: str, related: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": related}


def _source_id(manifest: Manifest) -> str:
    return f"SPDXRef-Model-{NOT_ONE_ID.sub('-', manifest.model.class_name)}"


def _namespace(manifest: Manifest, files: list[dict[str, Any]]) -> str:
    """A name that no other document has: by the hashes of what it speaks of."""
    content = json.dumps([manifest.name, manifest.provenance.created, [file["checksums"] for file in files]])
    digest = hashlib.sha256(content.encode()).hexdigest()
    return f"urn:handheld:sbom:{digest}"
