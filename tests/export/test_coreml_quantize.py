"""Core ML with weights and activations of 8 bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import mil_reference
from export.coreml_write import read
from tests.export import coreml_nets as nets
from toolkit.errors import UserError


def test_weights_and_activations_have_8_bits_but_those_of_wide_nodes(tmp_path: Path) -> None:
    path = nets.write("coreml-w8a8", tmp_path)
    assert nets.version(path) == 8
    assert nets.stored(path) == ["constexpr_affine_dequantize"] * 3
    assert all(operation.x.op.op_type == "dequantize" for operation in nets.weighted(path))
    assert nets.parity("coreml-w8a8", path) > 30
    assert read(path).operators["quantize"] >= 3

    path = nets.write("coreml-w8a8", tmp_path, wide=frozenset({"conv2d_1"}))
    assert nets.stored(path) == ["constexpr_affine_dequantize", "const", "constexpr_affine_dequantize"]
    assert mil_reference.main_function(mil_reference.load(path)).outputs[0].dtype.__name__ == "fp32"


def test_there_must_be_something_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml-w8a8: has no inputs to calibrate on"):
        nets.write("coreml-w8a8", tmp_path, calibration=())
