"""Where models come from: the factory a user names, and one clear line for every mistake in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from export.factories import from_factory
from export.sources import from_module
from toolkit.errors import UserError

FACTORIES = """
import torch
from torch import nn

number = 3

def build():
    return nn.Conv3d(3, 4, 1).half(), (torch.randn(1, 3, 2, 4, 4).half(), torch.tensor([1]))

def one_input():
    return nn.Identity(), torch.randn(1, 3)

def fails():
    raise KeyError("weights")

def needs(width):
    return nn.Identity(), (torch.randn(width),)

def only_a_module():
    return nn.Identity()

def no_module():
    return "model", (torch.randn(3),)

def no_tensors():
    return nn.Identity(), (torch.randn(3), 4)

def no_inputs():
    return nn.Identity(), ()

class Any(nn.Module):
    def forward(self, first, *others):
        return first + sum(others)

def several_inputs():
    return Any(), (torch.randn(1, 3), torch.randn(1, 3), torch.randn(1, 3))
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current directory with modules of the user's."""
    folder = tmp_path / "user_models"
    folder.mkdir()
    (folder / "decoder.py").write_text(FACTORIES)
    (folder / "damaged.py").write_text("def build(:\n")
    (folder / "lacking.py").write_text("import no_such_dependency\n")
    (folder / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "user_models"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_factory_of_the_current_directory_is_called() -> None:
    module, inputs = from_factory("user_models.decoder:build")
    assert isinstance(module, nn.Conv3d)
    assert module.weight.dtype == torch.float32
    assert [(tuple(x.shape), x.dtype) for x in inputs] == [((1, 3, 2, 4, 4), torch.float32), ((1,), torch.int64)]


def test_inputs_that_a_module_takes_as_they_come_have_numbers() -> None:
    assert from_module("user_models.decoder:several_inputs").input_names == ("first", "others_0", "others_1")


def test_a_single_tensor_is_one_input() -> None:
    assert len(from_factory("user_models.decoder:one_input")[1]) == 1


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("user_models.decoder", "expected PKG.MOD:FACTORY"),
        ("user_models.decoder:", "expected PKG.MOD:FACTORY"),
        ("user_models/decoder.py:build", "expected PKG.MOD:FACTORY"),
        ("no_such.module:build", "there is no module 'no_such'"),
        ("user_models.encoder:build", "there is no module 'user_models.encoder'"),
        ("user_models.decoder:bild", "Did you mean 'build'"),
        ("user_models.decoder:number", "name a function"),
        ("user_models.decoder:fails", "KeyError: 'weights', at .*decoder.py:14"),
        ("user_models.decoder:needs", "called without arguments"),
        ("user_models.decoder:only_a_module", "return a pair"),
        ("user_models.decoder:no_module", "object of type str as its module"),
        ("user_models.decoder:no_tensors", "example input 2 is an object of type int"),
        ("user_models.decoder:no_inputs", "at least one tensor"),
        ("user_models.damaged:build", "cannot be imported: SyntaxError: .*damaged.py:1"),
        ("user_models.lacking:build", "cannot be imported: ModuleNotFoundError: .*no_such_dependency"),
        ("user_models.leaving:build", "cannot be imported: SystemExit"),
    ],
)
def test_every_mistake_is_one_line(spec: str, line: str) -> None:
    with pytest.raises(UserError, match=line) as caught:
        from_factory(spec)
    assert "\n" not in str(caught.value)
