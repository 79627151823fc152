"""Ways to spoil a bundle, a recipe or a file of records; each takes a `random.Random`, so that a seed repeats it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from toolkit.files import sha256, size_bytes

STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    2**31,
    2**70,
    10**4000,
    1e308,
    -0.0,
    float("nan"),
    float("inf"),
    "",
    "x" * 10_000,
    [],
    {},
    [[]],
    [-1, 4, 8, 8],
    [10**9, 10**9],
    "../../outside/marker",
    "/etc/passwd",
    "C:\\Windows\\system32",
    "..\\..\\outside",
    "a/../../b",
    "model.onnx\0.txt",
    "\ud800",
    "a\u202egnp.exe",
    "\x1b[2J",
    "[/red][link=x]",
    "%s%n{0}",
    "日本語",
    {"a": {"b": [1, {"c": None}]}},
    "onnx-fp32",
    "float64",
    "object",
]


def places(value: Any) -> list[tuple[Any, ...]]:
    """The ways to every value inside `value`."""
    found: list[tuple[Any, ...]] = []
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), value)]
    while waiting:
        path, item = waiting.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        below = [((*path, key), part) for key, part in pairs]
        found += [here for here, _ in below]
        waiting += below
    return found


def mutate(value: Any, dice: random.Random) -> Any:
    """One to three changes to a value of plain types: a type, a key, a path, a number, a nesting."""
    for _ in range(dice.choice([1, 1, 1, 2, 3])):
        *parents, last = dice.choice(places(value))
        parent = value
        for key in parents:
            parent = parent[key]
        kind = dice.choice(["set", "set", "set", "delete", "add", "deep", "copy"])
        if kind == "delete":
            del parent[last]
        elif kind == "deep":
            parent[last] = deep(dice.choice([70, 900]))
        elif kind == "add" and isinstance(parent, dict):
            parent[dice.choice(["colour", "__class__", "path", "", "../x", "cpu:[/b]", "ä" * 300])] = dice.choice(
                STRANGE
            )
        elif kind == "copy" and isinstance(parent, list):
            parent.append(parent[last])
        else:
            parent[last] = dice.choice(STRANGE)
        if not places(value):
            break
    return value


def deep(levels: int) -> Any:
    """A list in a list in a list."""
    value: Any = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def spoil(content: bytes, dice: random.Random) -> bytes:
    """Other bytes: cut, flipped, overwritten, repeated, or none."""
    data = bytearray(content)
    kind = dice.choice(["cut", "flip", "many", "head", "zero", "double", "empty", "noise"])
    if kind == "cut":
        return bytes(data[: dice.randrange(len(data))])
    if kind == "flip":
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif kind == "many":
        for _ in range(30):
            data[dice.randrange(len(data))] = dice.randrange(256)
    elif kind == "head":
        for _ in range(4):
            data[dice.randrange(min(400, len(data)))] = dice.randrange(256)
    elif kind == "zero":
        start = dice.randrange(len(data))
        data[start : start + 64] = bytes(len(data[start : start + 64]))
    elif kind == "double":
        data += bytes(data)
    elif kind == "empty":
        data = bytearray()
    else:
        data = bytearray(dice.randbytes(2000))
    return bytes(data)


def reseal(bundle: Path, change: Callable[[dict[str, Any]], Any] = lambda content: content) -> None:
    """Write a manifest whose hashes fit what lies in the folder, after a change to its content."""
    content = json.loads((bundle / "manifest.json").read_bytes())
    for name in content["files"]:
        path = bundle / name
        if path.is_file():
            content["files"][name] = {"sha256": sha256(path), "bytes": size_bytes(path)}
    content = change(content) or content
    if not isinstance(content, dict):
        (bundle / "manifest.json").write_text(json.dumps(content))
        return
    content["manifest_sha256"] = "0" * 64
    text = json.dumps(content, indent=2) + "\n"
    (bundle / "manifest.json").write_text(text.replace("0" * 64, hashlib.sha256(text.encode()).hexdigest()))


def spoil_manifest(bundle: Path, dice: random.Random) -> str:
    """A manifest of other content, with or without a hash that fits."""
    if dice.random() < 0.25:
        path = bundle / "manifest.json"
        path.write_bytes(spoil(path.read_bytes(), dice))
        return "manifest bytes"
    reseal(bundle, lambda content: mutate(content, dice))
    return "manifest content"


def spoil_artifact(bundle: Path, dice: random.Random, names: list[str]) -> str:
    """A file of other bytes, with the hash that fits."""
    name = dice.choice(names)
    (bundle / name).write_bytes(spoil((bundle / name).read_bytes(), dice))
    reseal(bundle)
    return name


def spoil_archive(bundle: Path, dice: random.Random, name: str) -> str:
    """A `.npz` or `.pt2` whose members were changed, and whose check sums fit again."""
    path = bundle / name
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    chosen = dice.choice(sorted(members, key=lambda member: (not member.endswith(".json"), member))[:6])
    kind = dice.choice(["spoil", "spoil", "json", "json", "drop", "bomb", "escape"])
    if kind == "drop":
        del members[chosen]
    elif kind == "json" and chosen.endswith(".json"):
        members[chosen] = json.dumps(mutate(json.loads(members[chosen]), dice)).encode()
    elif kind == "bomb":
        members[chosen] = bytes(20_000_000)
    elif kind == "escape":
        members["../../outside/marker"] = b"escaped"
    else:
        members[chosen] = spoil(members[chosen], dice)
    how = zipfile.ZIP_DEFLATED if kind == "bomb" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    reseal(bundle)
    return f"{name} {kind} {chosen}"


def spoil_folder(bundle: Path, dice: random.Random, outside: Path) -> str:
    """Links, strange files, files that are gone or in each other's place."""
    links, others = ["link", "folder link", "loop"], ["extra", "extra in package", "gone", "swapped", "pipe", "folder"]
    kind = dice.choice([*links, *others])
    if kind == "link":
        (bundle / "model.onnx").unlink()
        (bundle / "model.onnx").symlink_to(outside / "marker")
    elif kind == "folder link":
        shutil.rmtree(bundle / "model.mlpackage")
        (bundle / "model.mlpackage").symlink_to(outside, target_is_directory=True)
    elif kind == "loop":
        (bundle / "sample.npz").unlink()
        (bundle / "sample.npz").symlink_to("sample.npz")
    elif kind == "extra":
        (bundle / "run.sh").write_text("#!/bin/sh")
    elif kind == "extra in package":
        (bundle / "model.mlpackage" / "extra.bin").write_bytes(b"extra")
    elif kind == "gone":
        (bundle / dice.choice(["model.onnx", "sample.npz", "manifest.json"])).unlink()
    elif kind == "swapped":
        shutil.copy(bundle / "sample.npz", bundle / "model.onnx")
    elif kind == "pipe":
        os.mkfifo(bundle / "pipe")
    else:
        (bundle / "sample.npz").unlink()
        (bundle / "sample.npz").mkdir()
    if dice.random() < 0.7 and (bundle / "manifest.json").exists() and kind != "loop":
        reseal(bundle)
    return kind


def spoil_recipe(recipe: dict[str, Any], dice: random.Random) -> bytes:
    """A recipe of other content or other bytes, or a YAML text that is made to hurt."""
    letters = "abcdefghijklmn"
    tower = [f"{low}: &{low} [{', '.join([f'*{high}'] * 7)}]" for high, low in itertools.pairwise(letters)]
    bombs = [
        "\n".join(["a: &a [x, x, x, x, x, x, x]", *tower]).encode(),
        b"name: &n [*n]\n",
        b"[" * 5000,
        b"{a: " * 3000,
        b"name: !!python/object/apply:os.system ['touch marker']\n",
        b"name: 2001-99-99\n",
        b"? [1, 2]\n: x\n",
        b"name: " + b"9" * 5000,
        b"x: y\n" * 400_000,
        b"\xff\xfe\x00",
        b"--- a\n--- b\n",
        b"<<: 3\n",
        b"name: !!binary '~'\n",
    ]
    if dice.random() < 0.2:
        return dice.choice(bombs)
    if dice.random() < 0.3:
        return spoil(yaml.safe_dump(recipe).encode(), dice)
    changed = mutate(recipe, dice)
    try:
        return yaml.safe_dump(changed).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"name: " + b"[" * 900 + b"]" * 900
    except (yaml.YAMLError, ValueError):  # no number of 4000 digits in YAML
        return b"steps: " + b"1" * 4000
