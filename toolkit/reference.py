"""`reference.pt2`, a bundle's PyTorch program: written without traces of the machine, read without running its code.

PyTorch's own `torch.export.load` runs what a file tells it to: it unpickles weights, constants and sample inputs,
evaluates symbolic sizes and guards as Python text, imports modules that an output's structure names, calls any
function below `torch` that a node names, and loads compiled libraries. So a file is first copied here, record by
record, with nothing in the copy but a graph of ATen operators on plain tensors, and PyTorch is given the copy alone.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from torch.export import ExportedProgram

from toolkit.errors import CheckFailed
from toolkit.files import atomic_file
from toolkit.limits import MAX_JSON_BYTES, parse_json
from toolkit.zips import Unsafe, checked_members

ROOT = "reference"  # the archive's one folder
GRAPH = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
FIXED = ("archive_format", "archive_version", "byteorder", ".data/version")
TENSOR = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
OPERATOR = re.compile(r"torch\.ops\.(aten|prims|torchvision)\.(\w+)\.(\w+)")
HARMLESS = {  # they are no operators of ATen, but take a graph, whose nodes are looked at too, or a tuple
    "_operator.getitem",
    "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "torch.ops.higher_order.wrap_with_autocast",
}
FILE_OPERATORS = {"from_file", "save", "load", "save_tensor", "load_tensor"}  # the only ones of ATen that open files
WORDS = re.compile(r"[\w.+\-]*")  # no blank, bracket, quote or sign from which Python text could be made
EQUATION = re.compile(r"[\w.+\-,> ]*")  # an operator's own text, as einsum has, which PyTorch quotes
STRUCTURES = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


def save(program: ExportedProgram, path: Path) -> None:
    """Write `program`: the same bytes for the same program, without the source paths and lines that PyTorch adds.

    Raises `CheckFailed` where the program has what `load` would refuse, as an operator of the user's own.
    """
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    try:
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            copy_plain(buffer, file)
    except Unsafe as error:
        raise CheckFailed(f"{path.name}: cannot hold this model: {error}") from error


def load(path: Path) -> torch.nn.Module:
    """The program, ready to be called; raises `CheckFailed` where the file holds anything but one."""
    content = io.BytesIO()
    check(path, content)
    content.seek(0)
    try:
        return torch.export.load(content).module()
    except Exception as error:  # PyTorch's reader checks little, and fails wherever it happens to
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise CheckFailed(f"{path}: no program that this PyTorch reads ({reason}); export the bundle again") from error


def check(path: Path, sink: io.BytesIO | None = None) -> None:
    """Raise `CheckFailed` where the file is missing or holds anything but a program; `sink` gets the plain copy."""
    if not path.is_file():
        raise CheckFailed(f"{path}: missing; export the bundle again")
    try:
        with path.open("rb") as file:
            copy_plain(file, _Nowhere() if sink is None else sink)
    except Unsafe as error:
        raise CheckFailed(f"{path}: refused: {error}; export the bundle again") from error


def copy_plain(source: IO[bytes], sink: IO[bytes] | io.RawIOBase) -> None:
    """Copy a `.pt2` archive: the same program and nothing else. Raises `Unsafe` where that cannot be."""
    try:
        with zipfile.ZipFile(source) as archive:
            size = source.seek(0, io.SEEK_END)
            members = {m.filename.partition("/")[2]: m for m in checked_members(archive, size)}
            missing = {GRAPH, *CONFIGS, *FIXED} - members.keys()
            if missing:
                raise Unsafe(f"it lacks {min(missing)}")
            texts = {name: _plain_config(_json(name, archive.read(members[name]))) for name in CONFIGS}
            texts[GRAPH] = _plain_graph(_json(GRAPH, archive.read(members[GRAPH])))
            with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as copy:
                for name in (*FIXED, *sorted(name for name in members if TENSOR.fullmatch(name))):
                    copy.writestr(_dated_1980(name), archive.read(members[name]))
                for name, value in texts.items():
                    copy.writestr(_dated_1980(name), json.dumps(value, separators=(",", ":")))
                copy.writestr(_dated_1980(SAMPLE_INPUTS), b"")
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, KeyError) as error:
        raise Unsafe(f"it is no whole archive ({error})") from error


class _Nowhere(io.RawIOBase):
    """Takes what is written, and keeps nothing."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _dated_1980(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{ROOT}/{name}")


def _json(name: str, record: bytes) -> Any:
    if len(record) > MAX_JSON_BYTES:
        raise Unsafe(f"{name} is larger than {MAX_JSON_BYTES >> 20} MB")
    try:
        value = parse_json(record.decode("utf-8"))
    except ValueError as error:
        raise Unsafe(f"{name} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise Unsafe(f"{name} is no mapping")
    return value


def _plain_config(config: Any) -> Any:
    """A list of tensors; raises `Unsafe` on pickles, on objects, and on tensors that are more than their bytes."""
    _check_words(config)
    for name, entry in config.get("config", {}).items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise Unsafe(f"'{name}' is a pickle, which can run any code")
        folderless = str(entry.get("path_name"))
        if not re.fullmatch(r"(weight|tensor)_\d+", folderless):
            raise Unsafe(f"'{name}' is no tensor")
    return config


def _plain_graph(model: Any) -> Any:
    """The graph without its traces; raises `Unsafe` on everything in it that is not ATen's operators on tensors."""
    if model.get("guards_code") or model.get("range_constraints"):
        raise Unsafe("its sizes are conditions written as code")
    try:
        inner = model["graph_module"]
        for node in _nodes(inner["graph"]):
            _check_operator(node["target"])
            node["metadata"] = {}
        calls = [entry for entry in inner["module_call_graph"] if entry["fqn"] == ""]
        for entry in calls:
            signature = entry["signature"]
            signature["in_spec"], signature["out_spec"] = map(_structure, (signature["in_spec"], signature["out_spec"]))
        inner["module_call_graph"] = calls
        specs = [entry["signature"].pop(key) for entry in calls for key in ("in_spec", "out_spec")]
        inner["metadata"] = {}
        _check_words(model)
        for entry, (given, taken) in zip(calls, zip(specs[::2], specs[1::2], strict=True), strict=True):
            entry["signature"] |= {"in_spec": given, "out_spec": taken}
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise Unsafe("it does not describe one program") from error
    return model


def _nodes(graph: Any) -> Iterator[Any]:
    """The calls of a graph, and of the graphs inside it."""
    for item in _items(graph):
        if isinstance(item, dict) and "target" in item:
            yield item


def _check_operator(target: str) -> None:
    found = OPERATOR.fullmatch(target)
    if target in HARMLESS:
        return
    operator = None
    if found and found[2] not in FILE_OPERATORS:
        operator = getattr(getattr(getattr(torch.ops, found[1]), found[2], None), found[3], None)
    if not isinstance(operator, torch._ops.OpOverload):
        raise Unsafe(f"it calls {target[:80]!r}, which is no operator of a network")


def _structure(spec: str) -> str:
    """The text of an input's or output's structure: tuples, lists and dictionaries of tensors."""
    protocol, tree = parse_json(spec)
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if node["type"] not in STRUCTURES:
            raise Unsafe(f"an input or output is a {node['type']}")
        context = parse_json(node["context"]) if node["context"] is not None else None
        if not (context is None or (isinstance(context, list) and all(isinstance(key, str) for key in context))):
            raise Unsafe("an input or output has a structure of its own")
        _check_words(context)
        waiting += node["children_spec"]
    return json.dumps([int(protocol), tree])


def _check_words(value: Any) -> None:
    """Every text is a word, and no size is an expression: both end up in Python text that PyTorch runs."""
    for item in _items(value):
        texts = [item] if isinstance(item, str) else []
        allowed = WORDS
        if isinstance(item, dict):
            if "expr_str" in item:
                raise Unsafe("a size in it is an expression")
            texts = list(item)
        elif isinstance(item, Quoted):
            texts, allowed = [item.text], EQUATION
        for text in texts:
            if not allowed.fullmatch(text):
                raise Unsafe(f"it holds the text {text[:80]!r}, from which code could be made")


class Quoted(NamedTuple):
    """A text that an operator takes as an argument."""

    text: str


def _items(value: Any) -> Iterator[Any]:
    """A value of plain types and everything in it, outermost first."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        yield item
        if isinstance(item, dict):
            waiting += [Quoted(v) if key == "as_string" and isinstance(v, str) else v for key, v in item.items()]
        elif isinstance(item, list):
            waiting += item
