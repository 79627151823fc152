"""Core ML with weights and activations of 8 bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.coreml_write import read
from tests.export import coreml_nets as nets
from toolkit.errors import UserError


def test_weights_and_activations_have_8_bits_but_those_of_wide_nodes(tmp_path: Path) -> None:
    path = nets.write("coreml-w8a8", tmp_path)
    assert nets.version(path) == 8
    assert nets.stored(path) == ["constexpr_affine_dequantize"] * 2 + ["const"]  # Core ML's quantizer leaves the last
    assert [operation.x.op.op_type for operation in nets.weighted(path)[:2]] == ["dequantize"] * 2
    assert nets.parity("coreml-w8a8", path) > 30
    assert read(path).operators["quantize"] >= 2

    path = nets.write("coreml-w8a8", tmp_path, wide=frozenset({"conv2d_1"}))
    assert nets.stored(path) == ["constexpr_affine_dequantize", "const", "const"]
    assert nets.types(path) == ["fp16"] * 3


def test_there_must_be_something_to_calibrate_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="coreml-w8a8: has no inputs to calibrate on"):
        nets.write("coreml-w8a8", tmp_path, calibration=())
