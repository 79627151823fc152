"""A bundle's PyTorch program: what it holds is computed, and nothing that it asks for besides is done."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from toolkit import reference
from toolkit.errors import CheckFailed

GRAPH, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
CONSTANTS, SAMPLE_INPUTS = "data/constants/model_constants_config.json", "data/sample_inputs/model.pt"


class Plants:
    """What, unpickled, makes a file: the proof that code ran."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


class Attention(nn.Module):
    """Operators that take text, numbers that are not finite, and a part without gradients."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            x = nn.functional.gelu(x, approximate="tanh")
        scores = torch.einsum("bij, bkj -> bik", x, y).masked_fill(x[..., :1] > 3, float("-inf"))
        return {"out": scores.clamp(max=float("inf"))}


@pytest.fixture
def program() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    return torch.export.export(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.ones(1, 3, 8, 8),))


@pytest.fixture
def written(program: torch.export.ExportedProgram, tmp_path: Path) -> Path:
    reference.save(program, tmp_path / "reference.pt2")
    return tmp_path / "reference.pt2"


def rewrite(path: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    with zipfile.ZipFile(path) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"reference/{name}", content)


def edited(name: str, change: Callable[[Any], object]) -> Callable[[dict[str, bytes]], None]:
    """A change to one of the archive's JSON texts."""

    def edit(records: dict[str, bytes]) -> None:
        content = json.loads(records[name])
        change(content)
        records[name] = json.dumps(content).encode()

    return edit


def test_program_comes_back_with_its_numbers(program: torch.export.ExportedProgram, written: Path) -> None:
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(reference.load(written)(x), program.module()(x))


def test_text_infinities_and_nested_graphs_are_kept(tmp_path: Path) -> None:
    example = torch.randn(1, 4, 5), torch.randn(1, 4, 5)
    module = Attention()
    reference.save(torch.export.export(module, example), tmp_path / "reference.pt2")
    assert torch.equal(reference.load(tmp_path / "reference.pt2")(*example)["out"], module(*example)["out"])


def test_same_program_gives_the_same_bytes_without_paths_of_the_machine(
    program: torch.export.ExportedProgram, written: Path, tmp_path: Path
) -> None:
    reference.save(program, tmp_path / "again.pt2")
    content = written.read_bytes()
    assert (tmp_path / "again.pt2").read_bytes() == content
    assert b"site-packages" not in content
    assert str(Path.cwd()).encode() not in content


def test_file_that_pytorch_itself_wrote_is_read(program: torch.export.ExportedProgram, tmp_path: Path) -> None:
    torch.export.save(program, tmp_path / "reference.pt2")
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(reference.load(tmp_path / "reference.pt2")(x), program.module()(x))


def first_weight(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    return edited(WEIGHTS, lambda content: change(next(iter(content["config"].values()))))


def first_node(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    return edited(GRAPH, lambda content: change(content["graph_module"]["graph"]["nodes"][0]))


def call_signature(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    return edited(GRAPH, lambda content: change(content["graph_module"]["module_call_graph"][0]["signature"]))


def attacks(marker: Path) -> dict[str, Callable[[dict[str, bytes]], object]]:
    """Each makes `marker` in PyTorch's own loader, or would in a loader that trusts a little more."""
    payload = pickle.dumps(Plants(marker))
    buffer = io.BytesIO()
    torch.save({"x": Plants(marker)}, buffer)
    code = f"__import__('os').mkdir({str(marker)!r})"
    constant = {
        "config": {"c": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    factory = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
    structure = json.dumps([1, {"type": "builtins.dict", "context": factory, "children_spec": []}])
    text = [{"name": "x", "arg": {"as_string": str(marker)}, "kind": 1}]

    def pickled_weight(records: dict[str, bytes]) -> None:
        first_weight(lambda entry: entry.update(use_pickle=True))(records)
        records["data/weights/weight_0"] = buffer.getvalue()

    def opaque(records: dict[str, bytes]) -> None:
        records[CONSTANTS] = json.dumps(constant).encode()
        records["data/constants/opaque_obj_0"] = payload

    return {
        "weight": pickled_weight,
        "object": opaque,
        "sample inputs": lambda records: records.update({SAMPLE_INPUTS: buffer.getvalue()}),
        "old weights": lambda records: records.update({"data/weights/model.pt": buffer.getvalue()}),
        "library": lambda records: records.update({"data/aotinductor/model/x.so": b"\x7fELF"}),
        "guard": edited(GRAPH, lambda content: content.update(guards_code=[code])),
        "function": first_node(lambda node: node.update(target="torch.os.mkdir", inputs=text)),
        "file operator": first_node(lambda node: node.update(target="torch.ops.aten.from_file.default", inputs=text)),
        "no operator": first_node(lambda node: node.update(target="torch.ops.aten.__getattr__.__call__", inputs=text)),
        "argument name": call_signature(lambda signature: signature.update(forward_arg_names=[f"x={code}"])),
        "node name": first_node(lambda node: node.update(name=f"x = {code}")),
        "size": first_weight(lambda entry: entry["tensor_meta"].update(sizes=[{"as_expr": {"expr_str": code}}])),
        "structure": call_signature(lambda signature: signature.update(out_spec=structure)),
        "place": first_weight(lambda entry: entry.update(path_name="../../../etc/passwd")),
    }


@pytest.mark.parametrize("name", attacks(Path("marker")))
def test_planted_code_never_runs(written: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "marker"
    rewrite(written, attacks(marker)[name])
    if name in ("sample inputs", "old weights", "library"):
        reference.load(written)  # not looked at: the program is whole without them
    else:
        with pytest.raises(CheckFailed, match=r"reference\.pt2: refused: "):
            reference.load(written)
    assert not marker.exists()


def test_planted_pickles_do_run_in_a_loader_that_trusts_them(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Plants(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def test_compressed_archive_is_refused(written: Path) -> None:
    with zipfile.ZipFile(written, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reference/data/weights/weight_9", bytes(10_000_000))
    with pytest.raises(CheckFailed, match="compressed"):
        reference.load(written)


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive", pickle.dumps([1])])
def test_file_that_is_no_archive_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "reference.pt2").write_bytes(content)
    with pytest.raises(CheckFailed, match=r"reference\.pt2: refused: it is no whole archive"):
        reference.load(tmp_path / "reference.pt2")


def test_operator_of_the_users_own_is_named_when_it_is_written(tmp_path: Path) -> None:
    @torch.library.custom_op("trust_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    twice.register_fake(lambda x: torch.empty_like(x))

    class Own(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return twice(x)

    program = torch.export.export(Own(), (torch.ones(2),))
    with pytest.raises(CheckFailed, match="trust_test"):
        reference.save(program, tmp_path / "reference.pt2")
