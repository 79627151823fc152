"""Core ML with compressed weights: which are, how small they get, what stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from export.coreml_compress import THRESHOLD
from tests.export import coreml_nets as nets

AFFINE, BLOCKS, TABLE = "constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_lut_to_dense"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "version", "operator", "bits", "least"),
    [
        ("coreml-int8", 8, AFFINE, 8, 55),
        ("coreml-int4", 9, BLOCKS, 4, 35),
        ("coreml-pal8", 8, TABLE, 8, 55),
        ("coreml-pal6", 8, TABLE, 6, 45),
        ("coreml-pal4", 9, TABLE, 4, 35),
    ],
)
def test_large_weights_are_compressed_and_wide_ones_are_not(
    tmp_path: Path, target: str, version: int, operator: str, bits: int, least: float
) -> None:
    path = nets.write(target, tmp_path)
    assert nets.version(path) == version
    assert nets.types(path) == ["fp16"] * 3
    assert THRESHOLD >= 3 * 64 * 9
    assert nets.stored(path) == ["const", operator, operator]
    assert nets.parity(target, path) > least
    large = (64 * 64 * 9 + 64 * 32 * 4) * bits / 8
    assert large < nets.weights_bytes(path) < 1.15 * large + 2 * 3 * 64 * 9 + 2500  # and tables, scales, headers

    small = nets.weights_bytes(path)
    path = nets.write(target, tmp_path, wide=frozenset({"conv2d_1"}))
    assert nets.types(path) == ["fp16"] * 3
    assert nets.stored(path) == ["const", "const", operator]
    assert nets.weights_bytes(path) > small + 0.95 * 64 * 64 * 9


@pytest.mark.slow
@pytest.mark.parametrize("target", ["coreml-pal4", "coreml-pal6"])
def test_tables_are_found_alike_every_time(tmp_path: Path, target: str) -> None:
    first = nets.contents(nets.write(target, tmp_path))
    assert nets.contents(nets.write(target, tmp_path)) == first
