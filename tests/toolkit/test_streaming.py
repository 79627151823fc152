"""Driving a step: states go round, `first` is 1 once, frames that do not exist are dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.streaming import StreamDecoder, StreamFacts


class Step:
    """Gives the latent and the one before it, and remembers what it was called with."""

    def __init__(self) -> None:
        self.firsts: list[float] = []

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        latent, first, state = inputs
        self.firsts.append(float(first.item()))
        return [np.concatenate([state, latent]), latent]


def test_states_go_round_and_the_first_step_gives_fewer_frames() -> None:
    step = Step()
    decoder = StreamDecoder(step, [(1, 2, 1, 1)], StreamFacts(frames=2, first_frames=1))
    latents = [np.full((1, 2, 1, 1), value, np.float32) for value in (1, 2, 3)]
    frames = [part[:, 0, 0, 0].tolist() for part in decoder.decode_all(latents)]
    assert frames == [[1], [1, 2], [2, 3]]
    assert step.firsts == [1, 0, 0]


def test_after_a_reset_a_new_clip_begins() -> None:
    step = Step()
    decoder = StreamDecoder(step, [(1, 2, 1, 1)], StreamFacts(frames=2, first_frames=2))
    latent = np.ones((1, 2, 1, 1), np.float32)
    decoder.decode(latent)
    decoder.reset()
    np.testing.assert_array_equal(decoder.decode(latent)[0], np.zeros((2, 1, 1), np.float32))
    assert step.firsts == [1, 1]
