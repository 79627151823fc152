"""Artifacts without what has nothing to do with the model: random names, and the paths of the machine that wrote them.

The same model then gives the same bytes, and a bundle does not tell strangers its maker's folders.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path

import onnx
from coremltools.proto import Model_pb2

TRACE = "stack_trace"  # in the key of the metadata in which torch's ONNX exporter puts source paths and lines
STRAY = "executorch_debug_handle_mapping.json"  # coremltools leaves it; no part of a Core ML package
ROOT_KEY, ENTRIES_KEY = "rootModelIdentifier", "itemInfoEntries"


def settle(path: Path) -> None:
    """Rewrite an artifact that was just written, in place; of formats other than ONNX and `.mlpackage`, nothing."""
    if path.suffix == ".onnx":
        _settle_onnx(path)
    elif path.suffix == ".mlpackage":
        (path / STRAY).unlink(missing_ok=True)
        for manifest in path.rglob("Manifest.json"):
            _settle_package(manifest)
        for model in path.rglob("*.mlmodel"):
            _settle_spec(model)


def _settle_onnx(path: Path) -> None:
    model = onnx.load(str(path), load_external_data=False)
    for graph in _graphs(model.graph):
        graph.doc_string = ""
        for item in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
            item.doc_string = ""
            kept = [entry for entry in item.metadata_props if TRACE not in entry.key]
            del item.metadata_props[:]
            item.metadata_props.extend(sorted(kept, key=lambda entry: entry.key))
    path.write_bytes(model.SerializeToString(deterministic=True))


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _settle_package(manifest: Path) -> None:
    """Core ML's tools name the parts of a package at random; here each is named after its path in the package."""
    content = json.loads(manifest.read_text(encoding="utf-8"))
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, entry["path"])) for old, entry in content[ENTRIES_KEY].items()}
    entries = {names[old]: entry for old, entry in content[ENTRIES_KEY].items()}
    content[ENTRIES_KEY] = dict(sorted(entries.items()))
    content[ROOT_KEY] = names[content[ROOT_KEY]]
    manifest.write_text(json.dumps(content, indent=4, sort_keys=True) + "\n", encoding="utf-8")


def _settle_spec(path: Path) -> None:
    """Protocol buffers leave the order of a map's entries open, and coremltools takes any."""
    model = Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    path.write_bytes(model.SerializeToString(deterministic=True))
