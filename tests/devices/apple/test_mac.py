"""Core ML on a Mac, with a fake in Core ML's place: what is called, timed, compared, and how the plan is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from devices.apple import coreml, mac
from devices.journal import Journal
from devices.protocol import Schedule
from devices.records import ComputeUnits, Memory, Placement, Profile
from devices.requests import Request
from tests.devices.apple.apple_phone import coreml_bundle, stateful_bundle
from toolkit.errors import DeviceError, UserError

MEMORY = Memory(baseline_bytes=100, peak_bytes=300)


class FakeCoreML:
    """Multiplies by the factor in the package; `fail` names what it refuses."""

    name = "Core ML of macOS 15.1"

    def __init__(self, fail: str = "") -> None:
        self.fail = fail
        self.compiled: list[str] = []
        self.loaded: list[tuple[str, str]] = []

    def compile(self, package: Path, into: Path) -> Path:
        self._refuse("compile")
        self.compiled.append(package.name)
        compiled = into / f"{package.stem}.mlmodelc"
        compiled.write_bytes((package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
        return compiled

    def load(self, compiled: Path, units: ComputeUnits) -> Any:
        self._refuse(f"load {units}")
        self.loaded.append((compiled.name, units))
        content = json.loads(compiled.read_text())

        def predict(data: dict[str, np.ndarray], state: list[np.ndarray] | None = None) -> dict[str, np.ndarray]:
            given = [data["latent"]] if state is None else state
            if state is not None:
                state.append(data["latent"])
            return {"frames": np.maximum(content["factor"] * sum(given)[:, :3], 0)}

        return SimpleNamespace(predict=predict, make_state=list)

    def plan(self, compiled: Path, units: ComputeUnits) -> list[Placement]:
        self._refuse("plan")
        return [Placement(kind="conv", unit="GPU", supported=["CPU", "GPU"], operators=1, cost_share=1.0)]

    def _refuse(self, what: str) -> None:
        if self.fail == what:
            raise RuntimeError(f"Core ML: no {what}")


Measure = Callable[..., Profile]


@pytest.fixture
def bundle(tmp_path: Path, latent: np.ndarray, frames: np.ndarray) -> Path:
    return coreml_bundle(tmp_path / "tiny", latent, frames, {"coreml-fp16": 2.0})


@pytest.fixture
def measure(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Measure:
    monkeypatch.setattr(mac, "measure_memory", lambda source, compiled: MEMORY)

    def run(backend: FakeCoreML, bundles: list[Path] | None = None, **changes: Any) -> Profile:
        journal = Journal(f"sqlite:///{tmp_path / 'profiles.db'}")
        request = Request(journal=journal, schedule=Schedule(repeats=1, iterations=3), **changes)
        return mac.profile_mac(bundles or [bundle], request, backend)

    return run


def test_each_choice_of_units_is_measured_in_one_session(measure: Measure) -> None:
    backend = FakeCoreML()
    found = measure(backend, compute_units=("all", "cpuOnly", "cpuAndNeuralEngine"))
    assert [record.unit for record in found.records] == ["all", "cpuOnly", "cpuAndNeuralEngine"]
    assert backend.compiled == ["coreml-fp16.mlpackage"]  # once, and its time is none of loading
    assert len({record.session for record in found.records}) == 1
    record = found.records[1]
    assert (record.label, record.threads, record.obtained) == ("student · Core ML of macOS, cpuOnly", None, "measured")
    assert (len(record.latency.iterations_ms), record.memory, record.operators) == (3, MEMORY, [])
    assert (record.device.kind, record.parity.how) == ("apple", "executed")


def test_the_plan_stands_apart_from_times(measure: Measure) -> None:
    (record,) = measure(FakeCoreML()).records
    (row,) = record.placement
    assert (row.kind, row.unit, row.obtained) == ("conv", "GPU", "planned")


def test_without_a_plan_the_figures_stand(measure: Measure) -> None:
    found = measure(FakeCoreML("plan"))
    assert [record.placement for record in found.records] == [[]]
    assert found.failures == []


def test_units_that_core_ml_refuses_are_a_failure_beside_the_others(measure: Measure) -> None:
    found = measure(FakeCoreML("load cpuAndGPU"), compute_units=("all", "cpuAndGPU"))
    assert [record.unit for record in found.records] == ["all"]
    (failure,) = found.failures
    assert failure.unit == "cpuAndGPU"
    assert str(failure).startswith("coreml-fp16 on cpuAndGPU of tiny (student) failed: ")


def test_a_package_that_core_ml_refuses(measure: Measure) -> None:
    with pytest.raises(DeviceError, match=r"coreml could not run it \(Core ML: no compile\)"):
        measure(FakeCoreML("compile"))


def test_a_wrong_output_is_not_timed(measure: Measure, tmp_path: Path, latent: np.ndarray, frames: np.ndarray) -> None:
    wrong = coreml_bundle(tmp_path / "wrong", latent, frames, {"coreml-fp16": 2.1})
    with pytest.raises(DeviceError, match="wrong output"):
        measure(FakeCoreML(), [wrong])


def test_a_stream_whose_states_core_ml_keeps_is_led_to_the_step_of_the_sample(measure: Measure, tmp_path: Path) -> None:
    (record,) = measure(FakeCoreML(), [stateful_bundle(tmp_path / "stream")]).records
    assert (record.target, record.parity.passed) == ("coreml-state-fp16", True)


def test_no_mac_no_core_ml(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mac, "is_mac", lambda: False)
    with pytest.raises(UserError, match="this machine is no Mac"):
        mac.profile_mac([bundle], Request(Journal("sqlite://")))


def test_a_bundle_without_core_ml(measure: Measure, make_bundle: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="no bundle holds a Core ML artifact; export with --target coreml-fp16"):
        measure(FakeCoreML(), [make_bundle("onnx-only")])


def plan_of(*operations: tuple[str, str | None, float | None]) -> Any:
    """A `MLComputePlan` as coremltools has it, of operators, their units and costs; the last one is nested."""
    devices = {
        name: type(kind, (), {})()
        for name, kind in (
            ("CPU", "MLCPUComputeDevice"),
            ("GPU", "MLGPUComputeDevice"),
            ("ANE", "MLNeuralEngineComputeDevice"),
        )
    }
    made = [SimpleNamespace(operator_name=name, blocks=[], unit=unit, cost=cost) for name, unit, cost in operations]
    outer = SimpleNamespace(operator_name="cond", blocks=[SimpleNamespace(operations=made[-1:])], unit="CPU", cost=0.0)
    function = SimpleNamespace(block=SimpleNamespace(operations=[*made[:-1], outer]))

    def usage(operation: Any) -> Any:
        if operation.unit is None:
            return None
        chosen = devices[operation.unit]
        return SimpleNamespace(preferred_compute_device=chosen, supported_compute_devices=[devices["CPU"], chosen])

    return SimpleNamespace(
        model_structure=SimpleNamespace(program=SimpleNamespace(functions={"main": function})),
        get_compute_device_usage_for_mlprogram_operation=usage,
        get_estimated_cost_for_mlprogram_operation=lambda o: None if o.cost is None else SimpleNamespace(weight=o.cost),
    )


def test_a_compute_plan_is_read_by_kinds_and_units() -> None:
    plan = plan_of(
        ("const", None, None),
        ("ios17.conv", "ANE", 0.5),
        ("ios17.conv", "ANE", 0.25),
        ("ios17.conv", "GPU", None),
        ("ios17.resample", None, None),
        ("ios16.relu", "ANE", 0.125),
    )
    rows = [(row.kind, row.unit, row.operators, row.cost_share) for row in coreml.read_plan(plan)]
    assert rows == [
        ("conv", "Neural Engine", 2, 0.75),
        ("relu", "Neural Engine", 1, 0.125),
        ("cond", "CPU", 1, 0.0),
        ("conv", "GPU", 1, None),
        ("resample", "unknown", 1, None),
    ]


def test_a_model_that_is_no_program_has_no_plan() -> None:
    assert coreml.read_plan(SimpleNamespace(model_structure=SimpleNamespace(program=None))) == []


def test_units_are_those_of_coremltools() -> None:
    import coremltools

    assert {coremltools.ComputeUnit[name] for name in coreml.UNITS.values()} == set(coremltools.ComputeUnit)
