"""What differs between two bundles: to see that the same export gave the same bytes, and where it did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.bundle import MANIFEST, Manifest, open_bundle
from toolkit.sbom import SBOM
from toolkit.schema import StrictModel

#: What says when and where a bundle was made, not what it is; the card and the list of parts repeat it.
CIRCUMSTANCES = (
    "README.md",
    SBOM,
    *(f"{MANIFEST}: {field}" for field in ("provenance.created", "provenance.command", "provenance.machine")),
    f"{MANIFEST}: manifest_sha256",
)


class Difference(StrictModel):
    """One thing that two bundles do not share: a file, or a field of the manifest as `provenance.created`."""

    what: str
    first: str
    second: str


def same_bundle(first: Path, second: Path) -> list[Difference]:
    """All that differs between two bundles; empty where they are the same byte for byte.

    Raises `CheckFailed` where one of them is damaged.
    """
    found = [open_bundle(first), open_bundle(second)]
    hashes = [{name: entry.sha256 for name, entry in manifest.files.items()} for manifest in found]
    differences = [
        Difference(what=name, first=hashes[0].get(name, "absent"), second=hashes[1].get(name, "absent"))
        for name in sorted(hashes[0].keys() | hashes[1].keys())
        if hashes[0].get(name) != hashes[1].get(name)
    ]
    fields = [_fields(manifest) for manifest in found]
    differences += [
        Difference(what=f"{MANIFEST}: {key}", first=fields[0].get(key, "absent"), second=fields[1].get(key, "absent"))
        for key in sorted(fields[0].keys() | fields[1].keys())
        if fields[0].get(key) != fields[1].get(key)
    ]
    return differences


def _fields(manifest: Manifest) -> dict[str, str]:
    """The manifest's fields by their dotted names, without `files`, which are compared one by one."""
    found: dict[str, str] = {}
    waiting: list[tuple[str, Any]] = [("", manifest.model_dump(mode="json", exclude={"files"}))]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict | list):
            parts = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(f"{name}.{key}".removeprefix("."), part) for key, part in parts]
        else:
            found[name] = str(value)
    return found
