"""The native runners: what they compute, what they tell, and how they fail, spoken to as the host speaks to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from devices.host_runtimes import read_onnxruntime_profile
from tests.devices.android.native import (
    QEMU,
    TIMEOUT_S,
    TwoOfTwo,
    by_pytorch,
    read_outputs,
    talk,
    to_executorch,
    two_inputs,
    write_inputs,
)
from tests.programs import needs

pytestmark = [pytest.mark.slow, needs("cmake", "c++", "npm")]

RUNTIMES = ["executorch", "onnxruntime"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_executorch(TwoOfTwo(), two_inputs(), tmp_path_factory.mktemp("pte") / "model.pte")


@pytest.fixture
def commands(
    host_runners: Path, program: Path, onnx_model: Path, latent: np.ndarray, tmp_path: Path
) -> dict[str, list[str | Path]]:
    """For each runtime: its runner, a model, and the inputs it takes."""
    torch_folder, onnx_folder = tmp_path / "executorch", tmp_path / "onnxruntime"
    torch_folder.mkdir()
    onnx_folder.mkdir()
    return {
        "executorch": [host_runners / "executorch-runner", program, *write_inputs(two_inputs(), torch_folder)],
        "onnxruntime": [host_runners / "onnxruntime-runner", onnx_model, *write_inputs([latent], onnx_folder)],
    }


def test_executorch_gives_the_outputs_of_pytorch(commands: dict[str, list[str | Path]], tmp_path: Path) -> None:
    folder = tmp_path / "executorch"

    told = talk(commands["executorch"], "run 0", "outputs out", "quit", folder=folder)

    assert told.kinds == ["ready", "ran", "outputs"]
    assert told.code == 0
    outputs = read_outputs(told.last, folder)
    for output, expected in zip(outputs, by_pytorch(TwoOfTwo(), two_inputs()), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_onnx_runtime_gives_the_outputs_of_the_model(
    commands: dict[str, list[str | Path]], frames: np.ndarray, tmp_path: Path
) -> None:
    folder = tmp_path / "onnxruntime"

    told = talk(commands["onnxruntime"], "run 0", "outputs out", folder=folder)

    (output,) = read_outputs(told.last, folder)
    np.testing.assert_allclose(output, frames, atol=1e-6)


def test_outputs_that_lie_in_another_order_in_memory_are_written_densely(host_runners: Path, tmp_path: Path) -> None:
    class ChannelsLast(torch.nn.Module):
        def forward(self, video: torch.Tensor) -> torch.Tensor:
            return (video * 2).to(memory_format=torch.channels_last)

    inputs = two_inputs()[:1]
    path = to_executorch(ChannelsLast(), inputs, tmp_path / "model.pte")

    told = talk(
        [host_runners / "executorch-runner", path, *write_inputs(inputs, tmp_path)],
        "run 0",
        "outputs o",
        folder=tmp_path,
    )

    (output,) = read_outputs(told.last, tmp_path)
    np.testing.assert_allclose(output, inputs[0] * 2)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runner_says_what_it_is_before_it_reads_commands(
    commands: dict[str, list[str | Path]], runtime: str, tmp_path: Path
) -> None:
    told = talk([*commands[runtime], "--threads", "2"], folder=tmp_path / runtime)

    (ready,) = told.events
    assert ready["event"] == "ready"
    assert ready["protocol"] == 1
    assert ready["threads"] == 2
    assert ready["load_ms"] > 0
    assert ready["pid"] > 0
    assert ready["runtime"].startswith({"executorch": "ExecuTorch 1.", "onnxruntime": "ONNX Runtime 1."}[runtime])
    assert told.code == 0  # the end of its input ends it


def test_executorch_writes_a_trace_of_all_runs(commands: dict[str, list[str | Path]], tmp_path: Path) -> None:
    from executorch.devtools import Inspector

    folder = tmp_path / "executorch"

    told = talk([*commands["executorch"], "--trace"], "run 3", "trace t.etdp", folder=folder)

    assert told.last == {"event": "traced", "path": "t.etdp"}
    blocks = Inspector(etdump_path=str(folder / "t.etdp")).event_blocks
    executed = next(block for block in blocks if block.name == "Execute")
    whole = next(event for event in executed.events if event.name == "Method::execute")
    assert len(whole.perf_data.raw) == 4  # three untimed, one timed
    assert any("Convolution" in event.name for event in executed.events)


def test_onnx_runtime_writes_a_trace_of_all_runs_and_leaves_nothing_else(
    commands: dict[str, list[str | Path]], onnx_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "onnxruntime"

    told = talk([*commands["onnxruntime"], "--trace"], "run 3", "trace t.json", folder=folder)

    assert told.last == {"event": "traced", "path": "t.json"}
    events = json.loads((folder / "t.json").read_text())
    assert sum(event["name"] == "model_run" for event in events) == 4
    assert {row.kind for row in read_onnxruntime_profile(events)} & {"Conv", "FusedConv"}
    assert not list(onnx_model.parent.glob("handheld-profile*"))


def test_a_trace_that_is_not_asked_for_is_not_left_behind(
    commands: dict[str, list[str | Path]], onnx_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "onnxruntime"
    runner, _, *inputs = commands["onnxruntime"]
    (folder / "cut.onnx").write_bytes(onnx_model.read_bytes()[:100])

    talk([*commands["onnxruntime"], "--trace"], "run 0", folder=folder)
    damaged = talk([runner, "cut.onnx", *inputs, "--trace"], folder=folder)

    assert damaged.kinds == ["error"]
    for place in (folder, onnx_model.parent):
        assert not list(place.glob("*profile*"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_memory_is_told_without_commands(commands: dict[str, list[str | Path]], runtime: str, tmp_path: Path) -> None:
    told = talk([*commands[runtime], "--memory"], folder=tmp_path / runtime)

    (memory,) = told.events
    assert memory["event"] == "memory"
    assert memory["peak_bytes"] > memory["baseline_bytes"] > 1_000_000
    assert told.code == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("changed", "stage", "words"),
    [
        ({"model": "missing.model"}, "load", "missing.model: No such file or directory"),
        ({"model": "input0.bin"}, "load", "input0.bin"),
        ({"model": "."}, "load", "."),
        ({"inputs": []}, "input", "and 0 were given"),
        ({"inputs": ["--input", "float32:2x2:input0.bin"]}, "input", "its shape and type need 16"),
        ({"inputs": ["--input", "float32:1:missing.bin"]}, "input", "missing.bin: No such file"),
        ({"inputs": ["--input", "float31:1:input0.bin"]}, "arguments", "unknown type 'float31'"),
        ({"inputs": ["--input", "float32:1xx2:input0.bin"]}, "arguments", "a side: '' is no whole number"),
        ({"inputs": ["--input", "float32:-1:input0.bin"]}, "arguments", "'-1' is no whole number"),
        ({"inputs": ["--input", "float32:999999999x999999999:input0.bin"]}, "arguments", "too large"),
        ({"inputs": ["--input", "input0.bin"]}, "arguments", "expected DTYPE:SHAPE:FILE"),
        ({"inputs": ["--input"]}, "arguments", "--input: needs a value"),
        ({"more": ["--threads", "0"]}, "arguments", "--threads: at least 1"),
        ({"more": ["--threads", "many"]}, "arguments", "'many' is no whole number"),
        ({"more": ["--fast"]}, "arguments", "unknown argument '--fast'"),
        ({"more": ["--memory", "--trace"]}, "arguments", "--trace and --memory"),
    ],
)
def test_bad_arguments_models_and_inputs_are_told(
    commands: dict[str, list[str | Path]],
    runtime: str,
    changed: dict[str, object],
    stage: str,
    words: str,
    tmp_path: Path,
) -> None:
    runner, model, *inputs = commands[runtime]
    arguments = [changed.get("model", model), *changed.get("inputs", inputs), *changed.get("more", [])]  # type: ignore[misc]

    told = talk([runner, *arguments], folder=tmp_path / runtime)

    assert told.kinds == ["error"]
    assert told.last["stage"] == stage
    assert words in told.last["message"]
    assert told.code == (2 if stage == "arguments" else 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    ("command", "stage", "words"),
    [
        ("run", "arguments", "'' is no whole number"),
        ("run -1", "arguments", "'-1' is no whole number"),
        ("jump", "arguments", "unknown command 'jump'"),
        ("outputs early", "output", "before the first run"),
        ("trace t", "trace", "without --trace"),
    ],
)
def test_bad_commands_are_told(
    commands: dict[str, list[str | Path]], runtime: str, command: str, stage: str, words: str, tmp_path: Path
) -> None:
    told = talk(commands[runtime], command, folder=tmp_path / runtime)

    assert told.kinds == ["ready", "error"]
    assert told.last["stage"] == stage
    assert words in told.last["message"]
    assert told.code == (2 if stage == "arguments" else 1)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("command", "stage"), [("outputs missing/o", "output"), ("trace missing/t", "trace")])
def test_files_that_cannot_be_written_are_told(
    commands: dict[str, list[str | Path]], runtime: str, command: str, stage: str, tmp_path: Path
) -> None:
    told = talk([*commands[runtime], "--trace"], "run 0", command, folder=tmp_path / runtime)

    assert told.kinds == ["ready", "ran", "error"]
    assert told.last["stage"] == stage
    assert "missing/" in told.last["message"]
    assert "No such file or directory" in told.last["message"]
    assert told.code == 1


def test_an_input_of_another_shape_or_type_is_told_with_what_is_taken(
    commands: dict[str, list[str | Path]], tmp_path: Path
) -> None:
    runner, model, *_ = commands["onnxruntime"]
    (tmp_path / "bytes.bin").write_bytes(bytes(72))

    told = talk([runner, model, "--input", "uint8:2x4x3x3:bytes.bin"], folder=tmp_path)

    assert "input latent is float32 of 2x4x3x3, and uint8 of 2x4x3x3 was given" in told.last["message"]


def test_executorch_says_why_it_does_not_load_a_model(host_runners: Path, tmp_path: Path) -> None:
    inputs = two_inputs()
    whole = to_executorch(TwoOfTwo(), inputs, tmp_path / "model.pte").read_bytes()
    (tmp_path / "cut.pte").write_bytes(whole[:-100])
    (tmp_path / "other.pte").write_bytes(whole.replace(b"XnnpackBackend", b"AnotherBackend"))
    runner = host_runners / "executorch-runner"

    cut, other = (
        talk([runner, name, *write_inputs(inputs, tmp_path)], folder=tmp_path) for name in ("cut.pte", "other.pte")
    )

    assert "File size is too small" in cut.last["message"]
    assert "Backend AnotherBackend is not registered" in other.last["message"]


def test_a_method_that_the_program_lacks_is_told_with_those_it_has(
    commands: dict[str, list[str | Path]], tmp_path: Path
) -> None:
    told = talk([*commands["executorch"], "--method", "backward"], folder=tmp_path / "executorch")

    assert told.last["stage"] == "load"
    assert "no method 'backward', but forward" in told.last["message"]


def test_names_of_any_bytes_come_out_as_json(commands: dict[str, list[str | Path]], tmp_path: Path) -> None:
    runner = os.fsencode(commands["executorch"][0])

    told = talk([runner, b'a"b\\c\n\xff\xc3\xa9'], folder=tmp_path)  # type: ignore[list-item]

    assert told.last["message"].startswith('a"b\\c\n\ufffd\u00e9: No such file')


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_damaged_model_never_ends_a_runner_silently(
    commands: dict[str, list[str | Path]], runtime: str, tmp_path: Path
) -> None:
    runner, model, *inputs = commands[runtime]
    whole = Path(model).read_bytes()
    random = np.random.default_rng(1)
    cut = [whole[: len(whole) * share // 6] for share in range(1, 6)]
    flipped = []
    for _ in range(20):
        content = bytearray(whole)
        for place in random.integers(0, len(content), 8):
            content[place] ^= 1 << int(random.integers(8))
        flipped.append(bytes(content))
    for content in cut + flipped:
        (tmp_path / runtime / "damaged").write_bytes(content)

        told = talk([runner, "damaged", *inputs], "run 0", folder=tmp_path / runtime)

        assert told.events, told.log
        assert (told.code, told.kinds[-1]) in {(0, "ran"), (1, "error")}
        assert content not in cut or told.kinds == ["error"]


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS])
def test_a_runtime_that_crashes_is_told(
    commands: dict[str, list[str | Path]], runtime: str, number: signal.Signals, tmp_path: Path
) -> None:
    with subprocess.Popen(
        commands[runtime],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path / runtime,
    ) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())

        os.kill(ready["pid"], number)

        told = json.loads(process.stdout.read())
        assert process.wait(TIMEOUT_S) == 1
    assert told["event"] == "error"
    assert number.name in told["message"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_onnx_runtime_takes_and_gives_elements_of_many_types(host_runners: Path, dtype: str, tmp_path: Path) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    sides = ["batch", 3]  # the first may vary
    values = [helper.make_tensor_value_info(name, kind, sides) for name in ("given", "taken")]
    graph = helper.make_graph([helper.make_node("Identity", ["given"], ["taken"])], "same", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "model.onnx")
    given = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    command = [host_runners / "onnxruntime-runner", "model.onnx", *write_inputs([given], tmp_path)]

    told = talk(command, "run 0", "outputs o", folder=tmp_path)

    (taken,) = read_outputs(told.last, tmp_path)
    assert taken.dtype == given.dtype
    np.testing.assert_array_equal(taken, given)


def test_a_model_of_strings_is_refused(host_runners: Path, tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.STRING, [1]) for name in ("given", "taken")]
    graph = helper.make_graph([helper.make_node("Identity", ["given"], ["taken"])], "same", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.save(model, tmp_path / "model.onnx")
    command = [host_runners / "onnxruntime-runner", "model.onnx", *write_inputs([np.zeros(1, np.uint8)], tmp_path)]

    told = talk(command, folder=tmp_path)

    assert told.last["stage"] == "input"
    assert "not supported here" in told.last["message"]


@needs("qemu-aarch64-static", "aarch64-linux-gnu-g++")
def test_on_arm_executorch_gives_the_outputs_of_pytorch(arm64_runners: Path, program: Path, tmp_path: Path) -> None:
    inputs = two_inputs()
    command = [*QEMU, arm64_runners / "executorch-runner", program, *write_inputs(inputs, tmp_path), "--threads", "2"]

    told = talk([*command, "--trace"], "run 1", "outputs out", "trace t.etdp", folder=tmp_path)

    assert told.kinds == ["ready", "ran", "outputs", "traced"]
    assert told.code == 0
    for output, expected in zip(read_outputs(told.events[2], tmp_path), by_pytorch(TwoOfTwo(), inputs), strict=True):
        np.testing.assert_allclose(output, expected, atol=1e-5)


@needs("qemu-aarch64-static", "aarch64-linux-gnu-g++")
def test_on_arm_onnx_runtime_gives_the_outputs_of_the_model(
    arm64_runners: Path, onnx_model: Path, latent: np.ndarray, frames: np.ndarray, tmp_path: Path
) -> None:
    command = [*QEMU, arm64_runners / "onnxruntime-runner", onnx_model, *write_inputs([latent], tmp_path)]

    told = talk([*command, "--threads", "2"], "run 0", "outputs out", folder=tmp_path)

    (output,) = read_outputs(told.last, tmp_path)
    np.testing.assert_allclose(output, frames, atol=1e-6)
