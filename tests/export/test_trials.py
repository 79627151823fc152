"""What artifacts are compared on beyond the sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from export.trials import Trial, held_out, make_trials, packed, rounding, unpacked
from tests.conftest import Apply
from toolkit.bundle import TensorInfo
from toolkit.streaming import StreamFacts


def info(name: str, array: np.ndarray) -> TensorInfo:
    return TensorInfo(name=name, shape=array.shape, dtype=str(array.dtype), meaning="")


def trials_of(arrays: dict[str, np.ndarray], *more: dict[str, np.ndarray]) -> dict[str, Trial]:
    further = [[torch.from_numpy(array) for array in one.values()] for one in more]
    sample = arrays | held_out(list(arrays), further)
    made = make_trials(lambda given: [given[0] * 2], sample, [info(n, a) for n, a in arrays.items()], None)
    return {trial.name: trial for trial in made}


def test_held_out_inputs_come_first_three_at_most_and_have_pytorchs_answers() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = trials_of({"x": x}, *[{"x": x + n} for n in range(1, 6)])
    held = [trial for trial in found.values() if trial.kind == "held-out"]
    assert list(found)[:3] == [trial.name for trial in held] == ["held_out_1", "held_out_2", "held_out_3"]
    np.testing.assert_array_equal(held[1].inputs[0], x + 2)
    np.testing.assert_array_equal(held[1].expected[0], (x + 2) * 2)


def test_adversarial_inputs_have_the_range_of_all_real_ones() -> None:
    x = np.linspace(-1, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    found = trials_of({"x": x}, {"x": x * 2})
    (zeros,), (constant,), (extremes,), (noise,) = (
        found[name].inputs for name in ("zeros", "constant", "extremes", "noise")
    )
    assert not zeros.any()
    assert set(constant.ravel()) == {4.0}
    assert set(extremes.ravel()) == {-2.0, 4.0}
    assert (extremes[:, :, 1:] != extremes[:, :, :-1]).all()
    assert (extremes[1:] != extremes[:-1]).all()
    assert noise.std() > 0.5
    assert -2 <= noise.min() < noise.max() <= 4
    assert {a.dtype for trial in found.values() for a in trial.inputs} == {np.dtype(np.float32)}


def test_whole_numbers_and_booleans_stay_as_they_are() -> None:
    index, mask = np.array([3, 1]), np.array([True, False])
    found = trials_of({"x": np.ones(2, np.float32), "index": index, "mask": mask})
    for trial in found.values():
        np.testing.assert_array_equal(trial.inputs[1], index)
        np.testing.assert_array_equal(trial.inputs[2], mask)
    assert trials_of({"index": index}) == {}


def test_a_program_that_computes_in_half_is_known_to_its_step() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    program = torch.export.export(Apply(lambda x: (x.half() * 2).float()), (x,)).module()
    trial = Trial("x", "adversarial", [x.numpy()], [2 * x.numpy()])
    assert rounding(program, trial, [info("x", x.numpy())], None) == 2**-10


def test_what_pytorch_has_no_answer_to_is_left_out() -> None:
    inverse = lambda given: [torch.linalg.inv(torch.from_numpy(given[0])).numpy()]  # noqa: E731
    x = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    found = {trial.name for trial in make_trials(inverse, {"x": x}, [info("x", x)], None)}
    assert "noise" in found
    assert not found & {"zeros", "constant"}
    with pytest.raises(RuntimeError, match="singular"):  # of a real input it is an error
        make_trials(inverse, {"x": x, "held_out_1.x": np.zeros_like(x)}, [info("x", x)], None)


def test_a_streams_trials_are_whole_clips() -> None:
    """A step that adds what it kept: the sum of all latents so far."""

    def step(given: list[np.ndarray]) -> list[np.ndarray]:
        total = given[0] + given[2]
        return [total, total]

    clip = np.ones((3, 1, 2, 2), np.float32)
    state = np.zeros((1, 1, 2, 2), np.float32)
    inputs = [info("latent", clip[:1]), info("first", np.ones((1, 1, 1, 1), np.float32)), info("state_0", state)]
    sample = {"clip_latent": clip} | held_out(["clip_latent"], [[torch.from_numpy(clip * 3)]])
    held, *_ = make_trials(step, sample, inputs, StreamFacts(frames=1, first_frames=1))
    np.testing.assert_array_equal(held.expected[0][:, 0, 0, 0], [3, 6, 9])


def test_rounding_is_pytorchs_own_against_its_answer_in_fp64() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    module = Apply(lambda x: ((x + 1e4) - 1e4).to(torch.float32))
    program = torch.export.export(module, (x,)).module()
    trial = Trial("x", "held-out", [x.numpy() / 3], [module(x / 3).numpy()])
    exact = np.abs(trial.expected[0].astype(np.float64) - x.numpy() / 3).max()
    found = rounding(program, trial, [info("x", x.numpy())], None)
    assert found == pytest.approx(exact, rel=1e-3)
    assert 1e-5 < found < 1e-2


def test_rounding_is_the_programs_too_which_may_take_other_steps() -> None:
    """A norm of what does not change: a mean that is said as a product rounds, and its root makes much of it."""
    x = torch.full((2, 13), 0.7)
    module = Apply(lambda x: (x - (x * (1 / 13)).sum(1, keepdim=True)) * 316)
    program = torch.export.export(module, (x,)).module()
    off = float(module(x).abs().max())
    assert off > 0
    trial = Trial("x", "adversarial", [x.numpy()], [np.full((2, 13), 1e-6, np.float32)])
    assert rounding(program, trial, [info("x", x.numpy())], None) == pytest.approx(off / 1e-6, rel=0.1)


def test_trials_survive_a_way_as_arrays() -> None:
    x = np.ones((2, 2), np.float32)
    trials = list(trials_of({"x": x, "y": x * 2}, {"x": x, "y": x}).values())
    truths = [torch.zeros(2), torch.ones(2)]
    back, true = unpacked({"sample x": x} | packed(trials, truths))
    assert [(t.name, t.kind) for t in back] == [(t.name, t.kind) for t in trials]
    for one, other in zip(back, trials, strict=True):
        for a, b in zip([*one.inputs, *one.expected], [*other.inputs, *other.expected], strict=True):
            np.testing.assert_array_equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(true, truths, strict=True))
