"""What the flow benchmark asks of speed, on made-up rows: nothing is timed here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.flow_speed import Row, bars, print_rows

RAFT = Row("raft_small", 990_000, 35_000_000_000, onnx_ms=600.0)
GOOD = [
    RAFT,
    Row("s", 350_000, 1, onnx_ms=40.0, executorch_ms=46.0, delegated_share=0.98, cpu_convolutions=0),
    Row("m", 1_200_000, 1, onnx_ms=100.0, executorch_ms=115.0, delegated_share=0.98, cpu_convolutions=0),
    Row("dis-medium", opencv_ms=20.0),
]


def test_all_bars_hold_at_their_limits() -> None:
    assert len(bars(GOOD)) == 8
    assert all(bar.holds for bar in bars(GOOD))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"params": 350_001}, "s: M parameters"),
        ({"onnx_ms": 40.1}, "s: times as fast as raft_small"),
        ({"executorch_ms": 46.1}, "s: ExecuTorch over ONNX Runtime"),
        ({"cpu_convolutions": 1}, "s: convolutions outside XNNPACK"),
    ],
)
def test_each_bar_fails_beyond_its_limit(change: dict[str, float], what: str) -> None:
    rows = [GOOD[0], replace(GOOD[1], **change), *GOOD[2:]]
    assert [bar.what for bar in bars(rows) if not bar.holds] == [what]


def test_the_table_compares_what_runs_in_opencv_too(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(GOOD)
    said = capsys.readouterr().out
    line = next(line for line in said.splitlines() if "dis-medium" in line)
    assert "30.0x" in line
    assert "training step" not in said
    print_rows([GOOD[0], replace(GOOD[1], training_step_ms=380.0), *GOOD[2:]])
    assert "training step" in capsys.readouterr().out
