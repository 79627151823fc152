"""The evaluator's operators over 8-bit numbers."""

from __future__ import annotations

import coremltools
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb  # noqa: N813
from coremltools.converters.mil.mil import types

from export.mil_reference import evaluate

X = np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 3, 4)


@pytest.mark.parametrize(("dtype", "zero", "low", "high"), [("int8", 0, -128, 127), ("uint8", 100, 0, 255)])
def test_quantize_and_dequantize(dtype: str, zero: int, low: int, high: int) -> None:
    point = types.nptype_from_builtin(types.string_to_builtin(dtype))(zero)

    @mb.program(input_specs=[mb.TensorSpec(shape=X.shape)], opset_version=coremltools.target.iOS17)
    def program(x):  # type: ignore[no-untyped-def]
        whole = mb.quantize(input=x, scale=np.float32(0.02), zero_point=point, output_dtype=dtype)
        return mb.dequantize(input=whole, scale=np.float32(0.02), zero_point=point)

    whole = np.clip(np.rint(X / np.float32(0.02)) + zero, low, high)
    np.testing.assert_allclose(evaluate(program, [X])[0], (whole - zero) * np.float32(0.02), rtol=1e-6)


def test_a_scale_for_each_channel() -> None:
    scales = np.array([0.5, 0.1, 0.02], dtype=np.float32)

    @mb.program(input_specs=[mb.TensorSpec(shape=X.shape)], opset_version=coremltools.target.iOS17)
    def program(x):  # type: ignore[no-untyped-def]
        whole = mb.quantize(input=x, scale=scales, axis=1, output_dtype="int8")
        return mb.dequantize(input=whole, scale=scales, axis=1)

    wide = scales[None, :, None]
    expected = np.clip(np.rint(X / wide), -128, 127) * wide
    np.testing.assert_allclose(evaluate(program, [X])[0], expected, rtol=1e-6)
