"""The gate between a converter and a bundle: an artifact is run, or evaluated, and compared with PyTorch fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from export.bisect import blame
from export.guarded import opened
from export.targets import Conversion, Session, Target
from export.trials import CLIP_FRAMES, CLIP_LATENT, Trial, rounding, runner
from toolkit import metrics
from toolkit.bundle import TensorInfo
from toolkit.errors import CheckFailed
from toolkit.flow_metrics import flow_report
from toolkit.parity import ROUNDINGS, Execution, InputCheck, Parity, TaskMetric, compare, task_metric
from toolkit.streaming import StreamFacts

if TYPE_CHECKING:
    from export.calls import Call


@dataclass(frozen=True)
class Proof:
    """How an artifact did on the sample, on further inputs, and by its task's own metric where truths are known."""

    parity: Parity
    checks: list[InputCheck]
    task_metric: TaskMetric | None


def check(
    target: Target,
    artifact: Path,
    sample: Mapping[str, np.ndarray],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    stream: StreamFacts | None = None,
) -> Parity:
    """Compare `artifact` on the `sample`, arrays by name, with PyTorch's fp32 outputs there.

    A stream decodes the sample's whole clip, step by step, and must give the clip's frames. Raises `CheckFailed`
    where the artifact cannot even be loaded or run: an artifact that does not run has no parity.
    """
    return _on_sample(opened(target, artifact), target, sample, inputs, outputs, stream)[0]


def check_deeply(
    target: Target,
    path: Path,
    call: Call,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    wide: frozenset[str] = frozenset(),
    *,
    explain: bool = True,
) -> Proof:
    """Compare an artifact with PyTorch on the call's sample and on its trials, and by the task's own metric.

    `inputs` and `outputs` are the artifact's, `wide` is what it was converted with. Raises `CheckFailed` that names the
    input and, with `explain`, what can be done and, where it can be found, the first operator that differs: that is
    looked for in an artifact's main function, so not of its further sizes.
    """
    conversion = Conversion(call.program, call.names, call.calibration, wide)
    sample = [call.sample[info.name] for info in call.inputs]

    def explained(inputs: Sequence[np.ndarray]) -> str:
        return blame(target, path, conversion, inputs) + remedy(target, wide) if explain else ""

    session = opened(target, path)
    parity, given = _on_sample(session, target, call.sample, inputs, outputs, call.stream)
    if not parity.passed:
        raise CheckFailed(f"{target.name}: {parity}{explained(sample)}")
    scales = scales_of(call.sample, outputs, call.stream)
    own = partial(rounding, call.program.module(), inputs=call.inputs, stream=call.stream)
    checks, outputs_of = [], {}
    trials = call.trials if alike(inputs, call.inputs) and alike(outputs, call.outputs) else ()
    for trial in trials:
        found, outputs_of[trial.name] = check_trial(session, target, trial, inputs, call.stream, scales, own)
        checks.append(found)
        if not found.passed:
            example = trial.inputs if call.stream is None else sample
            raise CheckFailed(f"{target.name}: {found}{explained(example)}")
    held = [trial for trial in trials if trial.kind == "held-out"]
    pairs = [(_expected(call.sample, outputs, call.stream)[0], given[0])]
    pairs += [(trial.expected[0], outputs_of[trial.name][0]) for trial in held]
    metric = _by_task(pairs, call.truths)
    if metric is not None and not metric.passed:
        raise CheckFailed(f"{target.name}: FAIL: {metric}")
    return Proof(parity, checks, metric)


def remedy(target: Target, wide: frozenset[str]) -> str:
    """What can be done about a lower precision that loses too much, as long as no layers were kept."""
    if wide or not target.is_mixable:
        return ""
    return f"; --budget psnr={target.tolerance.min_psnr_db:g} keeps the layers at higher precision that need it"


def check_trial(
    session: Session,
    target: Target,
    trial: Trial,
    inputs: Sequence[TensorInfo],
    stream: StreamFacts | None,
    scales: Sequence[float],
    rounding_of: Callable[[Trial], float],
) -> tuple[InputCheck, list[np.ndarray]]:
    """An artifact on one trial: whether it passes, by the rule that `InputCheck` states, and its outputs.

    `scales` are those of the outputs on the sample; `rounding_of` gives PyTorch's own rounding, where that is needed.
    """
    given = _run(target, session, inputs, stream, trial.inputs)
    expected = trial.expected
    if len(given) != len(expected):
        raise CheckFailed(f"{target.name}: gives {len(given)} outputs instead of {len(expected)}")
    known = [np.isfinite(right) for right in expected]
    fits = [right.shape == actual.shape for right, actual in zip(expected, given, strict=True)]
    cleaned = [np.where(k, a, 0) if f else a for k, a, f in zip(known, given, fits, strict=True)]
    wanted = [np.where(k, right, 0) for k, right in zip(known, expected, strict=True)]
    parity = compare(Execution(cleaned, session.how, session.runtime), wanted, target.tolerance)
    own, passed = None, parity.passed
    if not passed and parity.share is not None:
        share = target.tolerance.max_share
        if share is None:
            passed = trial.kind == "adversarial"
        elif trial.kind == "adversarial" and _within([share * scale for scale in scales], cleaned, wanted):
            passed = True
        else:
            own = rounding_of(trial)
            passed = parity.share <= ROUNDINGS * own
    return InputCheck(name=trial.name, kind=trial.kind, parity=parity, rounding=own, passed=passed), given


def scales_of(
    sample: Mapping[str, np.ndarray], outputs: Sequence[TensorInfo], stream: StreamFacts | None
) -> list[float]:
    """The largest magnitude of each of PyTorch's outputs on the sample."""
    return [float(np.abs(array.astype(np.float64)).max(initial=0)) for array in _expected(sample, outputs, stream)]


def _within(limits: Sequence[float], given: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> bool:
    """Whether no output is further off than its limit."""
    pairs = [(a.astype(np.float64), b.astype(np.float64)) for a, b in zip(given, wanted, strict=True)]
    differences = [np.abs(a - b).max(initial=0) for a, b in pairs]
    return all(difference <= limit for difference, limit in zip(differences, limits, strict=True))


def alike(own: Sequence[TensorInfo], others: Sequence[TensorInfo]) -> bool:
    """Whether an artifact takes, or gives, what PyTorch does, but for states at the end that it keeps itself."""
    return list(own) == list(others[: len(own)])


def _run(
    target: Target,
    session: Session,
    inputs: Sequence[TensorInfo],
    stream: StreamFacts | None,
    given: Sequence[np.ndarray],
) -> list[np.ndarray]:
    """The artifact's outputs; `CheckFailed` where those of a stream's step are not what the next one takes."""
    try:
        return runner(session.call, inputs, stream)(given)
    except (ValueError, LookupError, TypeError) as error:
        raise CheckFailed(f"{target.name}: gives no clip ({' '.join(str(error).split())[:200]})") from error


def _on_sample(
    session: Session,
    target: Target,
    sample: Mapping[str, np.ndarray],
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    stream: StreamFacts | None,
) -> tuple[Parity, list[np.ndarray]]:
    names = [CLIP_LATENT] if stream is not None else [info.name for info in inputs]
    given = _run(target, session, inputs, stream, [sample[name] for name in names])
    expected = _expected(sample, outputs, stream)
    return compare(Execution(given, session.how, session.runtime), expected, target.tolerance), given


def _expected(
    sample: Mapping[str, np.ndarray], outputs: Sequence[TensorInfo], stream: StreamFacts | None
) -> list[np.ndarray]:
    return [sample[name] for name in ([CLIP_FRAMES] if stream is not None else [info.name for info in outputs])]


def _by_task(pairs: Sequence[tuple[np.ndarray, np.ndarray]], truths: Sequence[torch.Tensor]) -> TaskMetric | None:
    """The task's metric over pairs of PyTorch's and the artifact's first output, whose truths come in the same order.

    A truth is a video `(3, T, H, W)` for frames `(T, 3, H, W)`, or a flow `(2, H, W)` for `(1, 2, H, W)`. None where no
    truth has the shape of its output, as when another one was asked for.
    """
    known = []
    for (right, actual), truth in zip(pairs, truths, strict=False):
        if truth.ndim == 4 and right.ndim == 4:
            outputs = [torch.from_numpy(array).transpose(0, 1) for array in (right, actual)]
        else:
            outputs = [torch.from_numpy(array[0]) for array in (right, actual)]
        if outputs[0].shape == truth.shape:
            known.append((*outputs, truth.float()))
    if not known:
        return None
    is_video = known[0][2].ndim == 4
    score = metrics.psnr if is_video else _epe
    of_pytorch, of_artifact = (float(np.mean([score(outputs[n], outputs[2]) for outputs in known])) for n in (0, 1))
    return task_metric("psnr_db" if is_video else "epe", of_pytorch, of_artifact, len(known))


def _epe(flow: torch.Tensor, truth: torch.Tensor) -> float:
    scores = flow_report(flow, truth).all
    return scores.epe if scores is not None else 0.0
