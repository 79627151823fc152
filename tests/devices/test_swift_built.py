"""The runner app's Swift, compiled on Linux against stand-ins for Apple's libraries, and its jobs run there.

This shows that the Swift is valid and does what the job format says. It shows nothing of Core ML, for which a stand-in
multiplies.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from devices import apple, apple_jobs, iphone_app
from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import Profile
from devices.requests import Request
from tests.devices.apple_phone import FakePhone, connected, coreml_bundle, stateful_bundle
from tests.programs import needs

pytestmark = [
    pytest.mark.slow,
    needs("swiftc", everywhere=False),
    pytest.mark.skipif(sys.platform == "darwin", reason="the stand-ins are for systems without Apple's libraries"),
]

STAND_INS = Path(__file__).parent / "swift_stand_ins"
SOURCES = sorted((Path(apple_jobs.__file__).parent / "runners/apple/HandheldRunner").glob("*.swift"))
TIMEOUT_S = 300
STAYING = ["clean.jsonl", "hello.jsonl"]


def swift(*words: object) -> None:
    """Run the compiler; fails with what it said."""
    done = subprocess.run(
        ["swiftc", "-swift-version", "5", "-parse-as-library", *map(str, words)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def modules(folder: Path, *names: str) -> list[Path]:
    """Stand-ins compiled as modules; their object files."""
    for name in names:
        module = ("-emit-module", "-emit-module-path", folder / f"{name}.swiftmodule", "-module-name", name)
        swift("-emit-object", *module, "-o", folder / f"{name}.o", "-I", folder, STAND_INS / f"{name}.swift")
    return [folder / f"{name}.o" for name in names]


def with_darwin(folder: Path) -> list[object]:
    """Foundation brings Darwin with it on Apple's systems."""
    return ["-module-name", "HandheldRunner", "-I", folder, "-Xfrontend", "-import-module", "-Xfrontend", "Darwin"]


@pytest.mark.parametrize("others", [(), ("ExecuTorch",)], ids=["without ExecuTorch", "with ExecuTorch"])
def test_all_of_the_swift_is_valid(tmp_path: Path, others: tuple[str, ...]) -> None:
    modules(tmp_path, "Darwin", "CoreML", "SwiftUI", "UIKit", *others)
    swift("-typecheck", *with_darwin(tmp_path), *SOURCES, STAND_INS / "Linux.swift")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app without its screen."""
    folder = tmp_path_factory.mktemp("runner")
    objects = modules(folder, "Darwin", "CoreML")
    sources = [path for path in SOURCES if path.name not in ("RunnerApp.swift", "ExecuTorchRunner.swift")]
    extra = [STAND_INS / "Linux.swift", STAND_INS / "Main.swift"]
    swift("-o", folder / "runner", *with_darwin(folder), *sources, *extra, *objects)
    return folder / "runner"


@pytest.fixture
def phone(tmp_path: Path, runner: Path, monkeypatch: pytest.MonkeyPatch) -> FakePhone:
    monkeypatch.setenv("FAKE_IPHONE_RUNNER", str(runner))
    monkeypatch.setattr(iphone_app, "POLL_S", 1.0)
    return connected(tmp_path, monkeypatch)


@pytest.fixture
def measure(tmp_path: Path, phone: FakePhone) -> Callable[[Path], Profile]:
    def run(bundle: Path) -> Profile:
        journal = Journal(f"sqlite:///{tmp_path / 'profiles.db'}")
        return apple.profile_iphone([bundle], Request(journal, Schedule(repeats=2, iterations=3)))

    return run


def test_the_app_does_a_whole_session(
    measure: Callable[[Path], Profile], phone: FakePhone, tmp_path: Path, latent: np.ndarray, frames: np.ndarray
) -> None:
    bundle = coreml_bundle(tmp_path / "b", latent, frames, {"coreml-fp16": 2.0, "coreml-fp32": 2.5, "coreml-int8": 2.0})
    found = measure(bundle)
    assert [record.target for record in found.records] == ["coreml-fp16", "coreml-int8"]
    assert ["wrong output" in failure.reason for failure in found.failures] == [True]
    for record in found.records:
        assert [len(repeat.iterations_ms) for repeat in record.latency.repeats] == [3, 3]
        assert min(record.latency.iterations_ms) > 0
        assert record.latency.repeats[1].waited_s >= 1
        assert 3 <= len(record.latency.warmup_ms) <= 12
        assert record.memory is not None
        assert [(row.kind, row.unit, row.operators, row.cost_share) for row in record.placement] == [
            ("conv", "Neural Engine", 2, 0.75)
        ]
    assert phone.files == STAYING


def test_the_app_leads_a_stream_to_the_step_of_the_sample(
    measure: Callable[[Path], Profile], phone: FakePhone, tmp_path: Path
) -> None:
    (record,) = measure(stateful_bundle(tmp_path / "stream")).records
    assert record.parity.passed
    assert phone.files == STAYING
