"""Targets made by processes of their own: the same artifacts, the same errors, and nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from torch import nn

import export
from export import handover, targets, worker, workers
from export.calls import clip_call
from export.handover import Material
from export.sources import Source
from export.targets import Conversion, Written
from export.worker import Failure
from tests.conftest import Apply
from toolkit.errors import CheckFailed, DeviceError, UserError

ESTIMATES = {"params": 1, "macs": 1, "peak_activation_bytes": 1000}


def small_source() -> Source:
    """A video model of two convolutions, the same at every call."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.SiLU(), nn.Conv3d(4, 3, 1))
    return Source("small", module, (torch.randn(1, 3, 2, 6, 8),), "module", "Sequential", ("video",), ())


def material() -> Material:
    with torch.no_grad():
        return Material(clip_call(small_source()), ESTIMATES)


@pytest.fixture
def new_children() -> Callable[[], set[int]]:
    """The processes that were started since the test was, whatever earlier tests left running."""
    before = children()
    return lambda: children() - before


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


@pytest.fixture
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that no other process shares."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_material_comes_back_as_it_was(tmp_path: Path) -> None:
    before = material()
    before = replace(before, sizes={"size_1x6x8": before.call, "size_0x1x1": before.call})
    with torch.no_grad():
        handover.write(tmp_path, before)
        after = handover.read(tmp_path)
        assert list(after.calls) == ["main", "size_1x6x8", "size_0x1x1"]
        assert after.estimates == before.estimates
        ours, theirs = before.call.lowered(*before.call.examples), after.call.lowered(*after.call.examples)
        assert torch.equal(ours, theirs)
    nodes = [[node.name for node in each.call.program.graph.nodes] for each in (before, after)]
    assert nodes[0] == nodes[1]  # what stays wide is told by the names of nodes
    assert after.call.inputs == before.call.inputs
    assert [len(inputs) for inputs in after.call.calibration] == [1]


@pytest.mark.slow
def test_processes_of_their_own_make_the_same_artifacts(
    tmp_path: Path, temporary: Path, new_children: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    class Counted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            begun.append(self)

    chosen = ["coreml-fp16", "onnx-fp32", "coreml-fp32"]
    monkeypatch.setattr(subprocess, "Popen", Counted)
    apart = export.export(small_source(), chosen, tmp_path / "apart", jobs=2)
    ours = [process for process in begun if "export import worker" in str(process.args)]
    assert len(ours) == 2  # one of them made two
    here = export.export(small_source(), chosen, tmp_path / "here", jobs=1)
    assert [artifact.target for artifact in apart.artifacts] == chosen
    for ours, theirs in zip(apart.artifacts, here.artifacts, strict=True):
        other = {"sha256"} if ours.target.startswith("coreml") else set()  # packages number their files at random
        assert ours.model_dump(exclude=other) == theirs.model_dump(exclude=other)
    assert all(parity.passed for parity in export.verify(tmp_path / "apart").values())
    assert not new_children()
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_an_error_of_a_worker_is_raised_as_it_came_up_there(
    tmp_path: Path, temporary: Path, new_children: Callable[[], set[int]]
) -> None:
    with pytest.raises(CheckFailed, match="--mode stream") as caught:
        export.export(small_source(), ["onnx-fp32", "coreml-state-fp16"], tmp_path / "bundle", jobs=2)
    assert "convert_stateful" in str(caught.value.__cause__)
    assert not list(tmp_path.iterdir())
    assert not new_children()
    assert not list(temporary.iterdir())


@pytest.mark.slow
def test_a_worker_that_is_killed_names_memory_and_a_remedy(
    tmp_path: Path, new_children: Callable[[], set[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = workers.Crew.start

    def start_and_kill(crew: workers.Crew, target: targets.Target, message: bytes) -> None:
        start(crew, target, message)
        crew.running[-1].process.popen.kill()

    monkeypatch.setattr(workers.Crew, "start", start_and_kill)
    with pytest.raises(DeviceError, match=r"want of memory.*--jobs 1"):
        export.export(small_source(), ["onnx-fp32", "coreml-fp16"], tmp_path / "bundle", jobs=2)
    assert not list(tmp_path.iterdir())
    assert not new_children()


INTERRUPTED = """
import sys
import export
from tests.export.test_workers import small_source
export.export(small_source(), ["onnx-fp32", "coreml-fp16"], __import__("pathlib").Path(sys.argv[1]), jobs=2)
"""


@pytest.mark.slow
def test_modules_of_the_current_folder_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be one that came from a stranger."""
    (tmp_path / "json.py").write_text("open('marker', 'w').close()")
    monkeypatch.chdir(tmp_path)
    export.export(small_source(), ["onnx-fp32", "ort-fp32"], tmp_path / "bundle", jobs=2)
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(stop: signal.Signals, tmp_path: Path) -> None:
    for folder in ("temporary", "output"):
        (tmp_path / folder).mkdir()
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "output" / "bundle")]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment) as process:
        started: list[psutil.Process] = []
        while len(started) < 2 and process.poll() is None:
            started = psutil.Process(process.pid).children()
            time.sleep(0.1)
        process.send_signal(stop)
    psutil.wait_procs(started, timeout=60)
    assert len(started) == 2
    assert not any(child.is_running() for child in started)
    if stop == signal.SIGINT:  # a process that is killed cannot tidy up
        assert not list((tmp_path / "output").iterdir())
        assert not list((tmp_path / "temporary").glob("handheld-export-*"))


def test_a_target_that_was_added_at_run_time_is_made_in_this_process() -> None:
    own = targets.find_target("onnx-fp32")
    assert workers.portable(own) is not None
    assert workers.portable(replace(own, open=lambda path: own.open(path))) is None

    def convert(conversion: Conversion, path: Path) -> Written:
        return own.convert(conversion, path)

    assert workers.portable(replace(own, convert=convert)) is None
    assert workers.portable(replace(own, adapt=lambda inputs, outputs, _sample: (inputs, outputs, {}))) is None


@pytest.mark.slow
def test_small_models_are_exported_in_one_process_unless_several_are_asked_for() -> None:
    chosen = [targets.find_target(name) for name in ("onnx-fp32", "coreml-fp16")]
    assert workers.jobs(material(), chosen, None) == 1
    assert workers.jobs(material(), chosen, 2) == 2
    assert workers.jobs(material(), chosen, 9) == 2


@torch.library.custom_op("handheld_tests::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@twice.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


@torch.no_grad()
def test_operators_that_a_worker_would_not_know_keep_the_export_in_this_process() -> None:
    source = Source("own", Apply(twice), (torch.randn(1, 3, 6, 8),), "module", "Apply", ("image",), ())
    chosen = [targets.find_target(name) for name in ("onnx-fp32", "coreml-fp16")]
    assert workers.jobs(Material(clip_call(source), ESTIMATES), chosen, 2) == 1


def test_no_more_start_than_memory_holds_and_always_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = workers.Crew(tmp_path, tmp_path, most=4, bytes_each=10)
    monkeypatch.setattr(workers, "available_bytes", lambda: 25)
    monkeypatch.setattr(workers, "_resident", lambda _pid: 4)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        worker = workers.Worker(targets.find_target("onnx-fp32"), workers.Process(process, tmp_path), tmp_path)
        starts = 0
        while crew.has_room():
            crew.running.append(worker)
            starts += 1
    assert starts == 3  # of the first two, 6 each are still to come: 25 - 12 is enough for a third, 25 - 18 for none
    monkeypatch.setattr(workers, "available_bytes", lambda: 0)
    assert workers.Crew(tmp_path, tmp_path, most=4, bytes_each=10).has_room()


def test_what_a_conversion_needs_grows_with_weights_and_activations() -> None:
    small = material()
    large = replace(small, estimates=ESTIMATES | {"peak_activation_bytes": 10**9})
    assert workers.bytes_needed(large) - workers.bytes_needed(small) > 10**9
    assert small.weight_bytes == 4 * sum(parameter.numel() for parameter in small_source().module.parameters())


@pytest.mark.parametrize(
    ("failure", "kind", "line"),
    [
        (Failure(kind="UserError", arguments=["no such thing"], trace=""), UserError, "no such thing"),
        (Failure(kind="OSError", arguments=[28, "No space left on device", "/x"], trace=""), OSError, "No space left"),
        (Failure(kind="KeyError", arguments=["'a'"], trace=""), RuntimeError, "KeyError: 'a'"),
    ],
)
def test_errors_keep_their_class(failure: Failure, kind: type[Exception], line: str) -> None:
    raised = workers._raised(failure)
    assert type(raised) is kind
    assert line in str(raised)


def test_errors_of_the_system_say_what_and_where(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(shutil.Error) as several:
        shutil.copytree(folder, tmp_path / "copy")
    told = workers._raised(worker._told(several.value))
    assert isinstance(told, OSError)
    assert told.errno is not None
    assert "No such file" in str(told.strerror)
    assert told.filename == str(folder / "a" / "gone")
    assert "a library's own words" in str(workers._raised(worker._told(OSError("a library's own words"))))
