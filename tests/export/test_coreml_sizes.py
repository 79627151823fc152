"""Core ML packages with a function for each size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from export.coreml_run import open_function
from tests.export import coreml_nets as nets
from toolkit.errors import UserError

TALL = (12, 10)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["coreml-fp16", "coreml-pal4"])
def test_sizes_share_their_weights(tmp_path: Path, target: str) -> None:
    one = nets.weights_bytes(nets.write(target, tmp_path))
    path = nets.write(target, tmp_path, sizes={"tall": nets.program(TALL)})
    assert nets.weights_bytes(path) < 1.02 * one
    assert nets.version(path) == 9
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [path.name]
    for name, sides in (("main", nets.SIDES), ("tall", TALL)):
        x = nets.example(sides)
        with torch.no_grad():
            expected = nets.Net().eval()(x).numpy()
        assert nets.psnr(open_function(path, name).call([x.numpy()])[0], expected) > 35
    with pytest.raises(UserError, match=r"unknown function 'small'.* Known: main, tall"):
        open_function(path, "small")


@pytest.mark.parametrize("target", ["coreml-ios16-fp16", "coreml-w8a8"])
def test_one_size_only(tmp_path: Path, target: str) -> None:
    with pytest.raises(UserError, match="export one size"):
        nets.write(target, tmp_path, sizes={"tall": nets.program(TALL)})
