"""The model package inside a Core ML delegate of a `.pte`, put into a folder.

ExecuTorch's own reader writes each file where the payload says, outside the folder too. The format is that of its
in-memory file system: the files' bytes, then a JSON text with their tree, written from its end to its beginning. The
tree's root is its last node.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from toolkit.bundle import check_package
from toolkit.errors import CheckFailed
from toolkit.limits import parse_json

LONGEST_TREE = 1 << 20  # bytes; a package has a handful of files
NAME = re.compile(r"\w[\w.\-]{0,254}", re.ASCII)
FILE, FOLDER = 0, 1  # kinds of nodes


def unpack(payload: bytes, folder: Path) -> Path:
    """Write the package below `folder`; returns it. Raises `CheckFailed` where the payload holds no package, or a name
    that leaves the folder, and then writes nothing outside of it."""
    try:
        text = payload[-LONGEST_TREE:][::-1].decode("latin-1")  # a letter a byte: only plain names are taken
        _, end = json.JSONDecoder().raw_decode(text)
        nodes = parse_json(text[:end])["nodes"]
        root = len(nodes) - 1
        if nodes[root]["kind"] != FOLDER:
            raise ValueError("it is one file")
        _write(nodes, root, folder, payload, set())
        (package,) = folder.rglob("*.mlpackage")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckFailed(f"ExecuTorch: a Core ML delegate holds no model package ({reason})") from error
    check_package(package)
    return package


def _write(nodes: list[Any], place: int, path: Path, payload: bytes, seen: set[int]) -> None:
    """The node at `place`, and everything below it, as `path`."""
    if place in seen or place < 0:
        raise ValueError("its files are no tree")
    seen.add(place)
    node = nodes[place]
    if node["kind"] == FILE:
        start, size = node["dataRegion"]["offset"], node["dataRegion"]["size"]
        if not 0 <= start <= start + size <= len(payload):
            raise ValueError("a file lies outside of it")
        path.write_bytes(payload[start : start + size])
        return
    path.mkdir(exist_ok=True)  # the root's is there
    for name, child in node["children"].items():
        if not NAME.fullmatch(name) or nodes[child]["name"] != name:
            raise ValueError(f"it has a file called {name[:80]!r}")
        _write(nodes, child, path / name, payload, seen)
