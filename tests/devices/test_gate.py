"""`handheld compare --fail-if-slower`: exit code 1 where a model is slower or no longer measured, never by silence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from devices.records import Profile
from devices.store import write_json
from tests.command_line import handheld, refusal

FAST, SLOW = [10.0 + 0.01 * n for n in range(20)], [12.0 + 0.01 * n for n in range(20)]


@pytest.fixture
def gate(tmp_path: Path, make_record: Any, capsys: pytest.CaptureFixture[str]) -> Any:
    """The line that the gate ends with, or None where it passes: of records before and now."""

    def run(base: list[Any], new: list[Any], code: int = 1) -> str | None:
        for name, records in (("base", base), ("new", new)):
            write_json(Profile(records=records), tmp_path / f"{name}.json")
        command = ["compare", tmp_path / "base.json", tmp_path / "new.json", "--fail-if-slower", "5%"]
        if code == 0:
            assert handheld(*command) == 0
            return None
        return refusal(capsys, code, *command)

    return run


def test_it_passes_what_is_as_fast_and_what_is_new(gate: Any, make_record: Any) -> None:
    gate([make_record(FAST)], [make_record(FAST), make_record(SLOW, target="executorch-xnnpack-fp32")], code=0)


def test_it_names_what_is_slower(gate: Any, make_record: Any) -> None:
    assert "student onnx-fp32 (ONNX Runtime) is 19.8% slower" in gate([make_record(FAST)], [make_record(SLOW)])


def test_it_does_not_pass_what_is_no_longer_measured(gate: Any, make_record: Any) -> None:
    both = [make_record(FAST), make_record(FAST, target="executorch-xnnpack-fp32")]
    assert "student executorch-xnnpack-fp32 (ONNX Runtime) gone (not measured now)" in gate(both, both[:1])


def test_it_does_not_pass_where_nothing_was_compared(gate: Any, make_record: Any) -> None:
    assert "gone" in gate([make_record(FAST)], [make_record(FAST, target="executorch-xnnpack-fp32")])
