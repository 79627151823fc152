"""Host runtimes: right output on a real model, and operator tables read from real profiles."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from devices.host_runtimes import (
    RUNTIMES,
    OnnxRuntime,
    PyTorch,
    check_backend,
    read_etdump_events,
    read_onnxruntime_profile,
)
from devices.records import OperatorTime
from toolkit.errors import DeviceError

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def onnxruntime_events() -> list[dict[str, Any]]:
    """Three runs of Conv, QuickGelu, Transpose, Reshape and DepthToSpace, as ONNX Runtime wrote them."""
    return json.loads((DATA / "ort_profile.json").read_text(encoding="utf-8"))


@pytest.fixture
def etdump_events() -> list[tuple[str, list[float]]]:
    """Five runs of a program with one XNNPACK delegate, as ExecuTorch's inspector gave them."""
    rows = json.loads((DATA / "etdump_events.json").read_text(encoding="utf-8"))
    return [(row["name"], row["raw_ms"]) for row in rows if row["block"] == "Execute"]


def by_name(rows: list[OperatorTime]) -> dict[str, OperatorTime]:
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def test_onnxruntime_profile_gives_the_mean_of_all_runs_but_the_first(
    onnxruntime_events: list[dict[str, Any]],
) -> None:
    rows = read_onnxruntime_profile(onnxruntime_events)
    microseconds = {
        "Conv": (117 + 81) / 2,
        "DepthToSpace": (36 + 35) / 2,
        "QuickGelu": (26 + 7) / 2,
        "Transpose": (12 + 10) / 2,
        "Reshape": (7 + 4) / 2,
    }
    assert [(row.name, row.ms) for row in rows] == [
        (name, pytest.approx(us / 1000)) for name, us in microseconds.items()
    ]
    assert {row.calls for row in rows} == {1}
    assert {row.unit for row in rows} == {"CPU"}
    assert {row.obtained for row in rows} == {"measured"}


def test_onnxruntime_profile_of_a_single_run_is_that_run(onnxruntime_events: list[dict[str, Any]]) -> None:
    ends = [number for number, event in enumerate(onnxruntime_events) if event["name"] == "model_run"]
    rows = by_name(read_onnxruntime_profile(onnxruntime_events[: ends[0] + 1]))
    assert {name: row.ms for name, row in rows.items()} == pytest.approx(
        {"Conv": 0.231, "DepthToSpace": 0.065, "QuickGelu": 0.020, "Transpose": 0.016, "Reshape": 0.008}
    )


def test_onnxruntime_profile_adds_up_operators_of_one_kind(onnxruntime_events: list[dict[str, Any]]) -> None:
    for event in onnxruntime_events:
        if event["cat"] == "Node" and event["args"]["op_name"] in {"Reshape", "Transpose"}:
            event["args"]["op_name"] = "Move"
    rows = by_name(read_onnxruntime_profile(onnxruntime_events))
    assert rows["Move"].calls == 2
    assert rows["Move"].ms == pytest.approx((12 + 7 + 10 + 4) / 2 / 1000)


def test_onnxruntime_profile_keeps_providers_apart(onnxruntime_events: list[dict[str, Any]]) -> None:
    for event in onnxruntime_events:
        if event["cat"] == "Node" and event["name"].startswith("node_view"):
            event["args"].update(op_name="Conv", provider="XnnpackExecutionProvider")
    rows = {(row.kind, row.unit): row.ms for row in read_onnxruntime_profile(onnxruntime_events)}
    assert rows["Conv", "CPU"] == pytest.approx(0.099)
    assert rows["Conv", "Xnnpack"] == pytest.approx(0.0055)


def test_onnxruntime_profile_without_events_has_no_rows() -> None:
    assert read_onnxruntime_profile([]) == []


def test_etdump_gives_the_mean_of_all_runs_but_the_first_added_up_by_kind_of_step(
    etdump_events: list[tuple[str, list[float]]],
) -> None:
    rows = read_etdump_events(etdump_events)
    convolution = np.mean([0.199, 0.229, 0.451, 0.256]) + np.mean([0.846, 0.398, 0.734, 0.417])
    transposes = [[0.034, 0.067, 0.069, 0.08], [0.076, 0.054, 0.072, 0.05], [0.248, 0.153, 0.252, 0.125]]
    expected = {
        "Convolution (NHWC, F32) IGEMM": (convolution, 2),
        "Multiply (ND)": (np.mean([4.5, 0.037, 0.026, 0.037]), 1),
        "Transpose (ND, X32)": (np.mean(transposes, axis=1).sum(), 3),
        "Sigmoid (NC)": (np.mean([0.144, 0.082, 0.064, 0.097]), 1),
        "Static Reshape (NC)": (np.mean([0.097, 0.036, 0.08, 0.036]), 2),
    }
    found = {row.name: (row.ms, row.calls) for row in rows}
    assert found == {name: (pytest.approx(ms), calls) for name, (ms, calls) in expected.items()}
    assert [row.ms for row in rows] == sorted((row.ms for row in rows), reverse=True)
    assert {row.unit for row in rows} == {"XNNPACK"}
    assert {row.obtained for row in rows} == {"measured"}


def test_etdump_leaves_out_the_wholes_that_contain_the_steps(etdump_events: list[tuple[str, list[float]]]) -> None:
    assert {"DELEGATE_CALL", "Method::execute"} <= {name for name, _ in etdump_events}
    assert not {"DELEGATE_CALL", "Method::execute"} & {row.name for row in read_etdump_events(etdump_events)}


def test_etdump_tells_portable_kernels_from_the_delegates_steps() -> None:
    rows = by_name(
        read_etdump_events(
            [
                ("OPERATOR_CALL", [9.0, 9.0]),
                ("native_call_aten::permute_copy.out", [9.0, 1.0, 3.0]),
                ("Add (ND) #1", [9.0, 1.0]),
            ]
        )
    )
    assert {name: (row.unit, row.ms) for name, row in rows.items()} == {
        "native_call_aten::permute_copy.out": ("portable CPU", 2.0),
        "Add (ND)": ("XNNPACK", 1.0),
    }


def test_etdump_of_a_single_run_is_that_run_and_of_none_nothing() -> None:
    rows = read_etdump_events([("Add (ND) #1", [4.0]), ("Add (ND) #2", [])])
    assert [(row.name, row.ms, row.calls) for row in rows] == [("Add (ND)", 4.0, 1)]


def test_onnx_runtime_gives_the_models_output_and_names_itself(
    onnx_model: Path, latent: np.ndarray, frames: np.ndarray
) -> None:
    runtime = OnnxRuntime(onnx_model, [latent], threads=1)
    np.testing.assert_allclose(runtime()[0], frames, rtol=1e-6)
    assert runtime.name.startswith("ONNX Runtime 1.")


def test_onnx_runtime_tells_the_time_of_the_models_operators(
    onnx_model: Path, latent: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = OnnxRuntime(onnx_model, [latent], threads=1).operators()
    assert {row.kind for row in rows} <= {"Conv", "Relu", "FusedConv", "ReorderInput", "ReorderOutput"}
    assert any("Conv" in row.kind for row in rows)
    assert all(row.calls >= 1 and row.ms >= 0 and row.unit == "CPU" for row in rows)
    assert list(tmp_path.iterdir()) == []


def test_pytorch_runs_the_reference_program(reference_model: Path, latent: np.ndarray, frames: np.ndarray) -> None:
    runtime = PyTorch(reference_model, [latent], threads=1)
    output = runtime()[0]
    assert output.shape == frames.shape
    np.testing.assert_array_equal(output, frames)
    assert runtime.name.startswith("PyTorch 2.")


def test_pytorch_tells_the_time_of_its_kernels(reference_model: Path, latent: np.ndarray) -> None:
    rows = by_name(PyTorch(reference_model, [latent], threads=1).operators())
    assert rows["aten::mul"].calls == 1
    assert rows["aten::mul"].unit == "CPU"
    assert [row.ms for row in rows.values()] == sorted((row.ms for row in rows.values()), reverse=True)


def test_runtimes_are_found_by_the_first_word_of_a_target() -> None:
    assert set(RUNTIMES) == {"onnx", "ort", "executorch", "reference"}


@pytest.mark.parametrize(
    ("target", "device"), [("executorch-vulkan-fp16", "Android"), ("executorch-coreml-fp16", "an iPhone or a Mac")]
)
@pytest.mark.skipif(sys.platform == "darwin", reason="ExecuTorch has Core ML there")
def test_a_delegate_that_this_host_lacks_is_named_with_the_device_to_use(target: str, device: str) -> None:
    with pytest.raises(DeviceError, match=f"{target} is not runnable here.*{device}"):
        check_backend(Path("model.pte"), target)


def test_delegates_that_every_host_has_pass() -> None:
    for target in ("executorch-xnnpack-int8", "onnx-fp32", "reference"):
        check_backend(Path("model"), target)
