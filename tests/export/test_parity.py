"""The gate: which inputs must hold which tolerance, and what is recorded where one does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from export import parity
from export.calls import Call
from export.sources import from_run
from export.targets import FP16, FP32, Session, Target, Written
from tests.conftest import Apply
from tests.export import planted
from toolkit.bundle import Artifact, read_manifest
from toolkit.errors import CheckFailed
from toolkit.parity import Tolerance, task_metric

INT8 = Tolerance(min_psnr_db=30)


def acting(step: Callable[[np.ndarray], np.ndarray], tolerance: Tolerance) -> Target:
    """A target whose artifacts compute `step`."""
    session = Session(lambda inputs: [step(inputs[0])], "executed", "numpy")
    return Target("acting", "model.none", tolerance, lambda *_: Written(1, {}), lambda _path: session)


def proof(call: Call, step: Callable[[np.ndarray], np.ndarray], tolerance: Tolerance) -> parity.Proof:
    return parity.check_deeply(acting(step, tolerance), Path("model.none"), call, call.inputs, call.outputs)


@pytest.fixture(scope="module")
def doubling() -> Call:
    return planted.call_of(Apply(lambda x: x * 2 + 1), 1, 2, 4, 4)


def test_every_trial_is_recorded(doubling: Call) -> None:
    found = proof(doubling, lambda x: x * 2 + 1, FP32)
    assert [(check.name, check.kind) for check in found.checks] == [
        (name, "adversarial") for name in ("zeros", "constant", "extremes", "noise")
    ]
    assert all(check.passed and check.parity.passed and check.rounding is None for check in found.checks)
    assert found.task_metric is None


def test_fp32_must_hold_on_adversarial_inputs_too(doubling: Call) -> None:
    wrong_at_zero = lambda x: x * 2 + (1 if x.any() else 1.01)  # noqa: E731
    with pytest.raises(CheckFailed, match=r"acting: adversarial input 'zeros': FAIL: .* rounding is 0"):
        proof(doubling, wrong_at_zero, FP32)


def test_an_answer_of_nearly_zero_is_held_to_the_scale_of_real_ones() -> None:
    """Zeros give zero: what an artifact makes of them is compared with what it may be off elsewhere."""
    call = planted.call_of(Apply(lambda x: x * 2), 1, 2, 4, 4)
    scale = float(np.abs(2 * call.sample[call.inputs[0].name]).max())
    found = proof(call, lambda x: x * 2 + (0 if x.any() else 9e-5 * scale), FP32)
    zeros = next(check for check in found.checks if check.name == "zeros")
    assert (zeros.passed, zeros.parity.passed, zeros.rounding) == (True, False, None)
    with pytest.raises(CheckFailed, match=r"adversarial input 'zeros': FAIL"):
        proof(call, lambda x: x * 2 + (0 if x.any() else 1.1e-4 * scale), FP32)


def test_reduced_precision_may_be_off_on_adversarial_inputs(doubling: Call) -> None:
    off = lambda x: x * 2 + (1 if x.min() < x.max() else 3)  # noqa: E731
    found = proof(doubling, off, FP16)
    zeros = next(check for check in found.checks if check.name == "zeros")
    assert (zeros.passed, zeros.parity.passed) == (True, False)


def test_only_what_the_runtime_raises_is_called_so(doubling: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the comparison stays one: it does not turn into an artifact that cannot be run."""

    def failing(_inputs: np.ndarray) -> np.ndarray:
        raise AssertionError("no kernel")

    with pytest.raises(CheckFailed, match=r"model.none: acting cannot be run here \(no kernel\)"):
        proof(doubling, failing, FP32)
    wrong = lambda x: x * 2 + (1 if x.any() else 1.01)  # noqa: E731

    def rounding(*_args: object, **_options: object) -> float:
        raise RuntimeError("no fp64 kernel")

    monkeypatch.setattr(parity, "rounding", rounding)
    with pytest.raises(RuntimeError, match="no fp64 kernel"):
        proof(doubling, wrong, FP32)


def test_an_output_too_many_is_no_traceback(doubling: Call) -> None:
    session = Session(lambda inputs: [inputs[0], inputs[0]], "executed", "numpy")
    target = replace(acting(lambda x: x, FP32), open=lambda _path: session)
    with pytest.raises(CheckFailed, match="acting: gives 2 outputs instead of 1"):
        parity.check_trial(target.open(Path()), target, doubling.trials[0], doubling.inputs, None, [1.0], lambda _: 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_reduced_precision_must_stay_finite(value: float, doubling: Call) -> None:
    broken = lambda x: x * 2 + (1 if x.any() else value)  # noqa: E731
    with pytest.raises(CheckFailed, match="adversarial input 'zeros': FAIL: output missing, misshapen or not finite"):
        proof(doubling, broken, INT8)


def test_where_pytorch_is_not_finite_nothing_is_asked() -> None:
    call = planted.call_of(Apply(lambda x: x / x.abs()), 1, 2, 4, 4)
    found = proof(call, lambda x: np.divide(x, np.abs(x), out=np.zeros_like(x), where=x != 0), FP32)
    assert next(check for check in found.checks if check.name == "zeros").passed


def test_an_fp32_artifact_may_be_off_as_far_as_pytorch_itself_rounds(doubling: Call) -> None:
    """The answer for noise is told as one that is itself 1e-3 of scale from the exact one."""
    zeros, constant, extremes, noise = doubling.trials
    rough = replace(noise, expected=[noise.expected[0] + 1e-3 * np.abs(noise.expected[0]).max()])
    call = replace(doubling, trials=[zeros, constant, extremes, rough])
    found = proof(call, lambda x: x * 2 + 1, FP32)
    check = found.checks[-1]
    assert (check.passed, check.parity.passed) == (True, False)
    assert check.rounding == pytest.approx(1e-3, rel=0.1)
    assert "PyTorch's own rounding is" in str(check)
    wrong = lambda x: x * 2 + (1 if np.unique(x).size < 5 else 1.1)  # noqa: E731
    with pytest.raises(CheckFailed, match="FAIL"):
        proof(call, wrong, FP32)


def test_held_out_inputs_must_hold_in_every_precision(doubling: Call) -> None:
    held = replace(doubling.trials[3], name="held_out_1", kind="held-out")
    call = replace(doubling, trials=[held])
    off = lambda x: x * 2 + (1 if np.array_equal(x, call.sample["x"]) else 1.5)  # noqa: E731
    with pytest.raises(CheckFailed, match="held-out input 'held_out_1': FAIL"):
        proof(call, off, INT8)


def test_the_tasks_metric_is_taken_where_a_truth_has_the_outputs_shape() -> None:
    call = planted.call_of(Apply(lambda x: x.clamp(-1, 1)), 3, 3, 4, 4)
    frames = torch.from_numpy(call.sample["output_0"])
    truth = (frames + 0.1).clamp(-1, 1).transpose(0, 1)
    good = proof(replace(call, truths=[truth]), lambda x: x.clip(-1, 1), INT8).task_metric
    assert good is not None
    assert (good.name, good.samples, good.passed) == ("psnr_db", 1, True)
    assert good.pytorch == pytest.approx(good.artifact)
    assert good.limit == pytest.approx(good.pytorch - 0.5)
    with pytest.raises(CheckFailed, match="acting: FAIL: PSNR against the truth"):
        proof(replace(call, truths=[truth]), lambda x: (x.clip(-1, 1) - 0.03).astype(np.float32), INT8)
    assert proof(replace(call, truths=[truth[:, :2]]), lambda x: x.clip(-1, 1), INT8).task_metric is None


def test_flow_is_judged_by_its_end_point_error_where_the_truth_is_known() -> None:
    call = planted.call_of(Apply(lambda x: x * 1.0), 1, 2, 4, 4)
    truth = torch.from_numpy(call.sample["output_0"][0]) + torch.tensor([3.0, 4.0])[:, None, None]
    truth[:, 0] = torch.nan
    found = proof(replace(call, truths=[truth]), lambda x: x, INT8).task_metric
    assert found is not None
    assert (found.name, found.pytorch, found.limit) == ("epe", pytest.approx(5.0), pytest.approx(5.25))


@pytest.mark.parametrize(
    ("name", "right", "given", "passes"),
    [
        ("psnr_db", 30.0, 29.5, True),
        ("psnr_db", 30.0, 29.49, False),
        ("psnr_db", 30.0, 33.0, True),
        ("epe", 2.0, 2.1, True),
        ("epe", 2.0, 2.11, False),
        ("epe", 2.0, 1.0, True),
    ],
)
def test_a_better_figure_than_pytorchs_passes(name: str, right: float, given: float, passes: bool) -> None:
    assert task_metric(name, right, given, 1).passed is passes  # type: ignore[arg-type]


def test_an_exported_run_has_checks_and_the_metric_in_its_manifest(finished_run: Path, tmp_path: Path) -> None:
    export.export(from_run(finished_run), ["onnx-fp32"], tmp_path / "bundle")
    artifact = read_manifest(tmp_path / "bundle").artifact("onnx-fp32")
    names = {check.name for check in artifact.checks}
    assert {"zeros", "constant", "extremes", "noise"} <= names
    assert artifact.task_metric is not None
    assert artifact.task_metric.samples == 1
    assert artifact.task_metric.artifact == pytest.approx(artifact.task_metric.pytorch, abs=1e-3)


def test_manifests_from_before_these_checks_can_be_read(exported_bundle: Path) -> None:
    artifact = read_manifest(exported_bundle).artifacts[0].model_dump(mode="json")
    del artifact["checks"], artifact["task_metric"]
    assert Artifact.model_validate(artifact).checks == []
