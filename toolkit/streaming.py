"""Driving a stream-mode artifact: one latent frame at a time, in memory that does not grow with the clip.

What this does in Python an app does in Swift or Kotlin (the bundle's README has both): hold the states, give
`first` as 1 once, and drop the frames of the first step that do not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from toolkit.schema import StrictModel

Step = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


class StreamFacts(StrictModel):
    """How a stream-mode artifact is driven.

    Each step gives `frames` frames; of the first step's only the last `first_frames` exist.
    """

    frames: int
    first_frames: int


class StreamDecoder:
    """A decoder with a memory: `step(inputs)` is one call of an artifact, inputs and outputs in its own order.

    `states` are the shapes of its states, which are zeros before the first step.
    """

    def __init__(self, step: Step, states: Sequence[Sequence[int]], facts: StreamFacts) -> None:
        self._step, self._shapes, self._facts = step, [tuple(shape) for shape in states], facts
        self.reset()

    def reset(self) -> None:
        """Begin a new clip."""
        self._first = True
        self.states = [np.zeros(shape, np.float32) for shape in self._shapes]

    def inputs(self, latent: np.ndarray) -> list[np.ndarray]:
        """What the next step is called with for a latent frame `(1, C, h, w)`."""
        return [latent, np.full((1, 1, 1, 1), float(self._first), np.float32), *self.states]

    def decode(self, latent: np.ndarray) -> np.ndarray:
        """The next frames `(n, 3, H, W)` for the next latent frame `(1, C, h, w)`."""
        frames, *self.states = self._step(self.inputs(latent))
        frames = frames[-self._facts.first_frames :] if self._first else frames
        self._first = False
        return frames

    def decode_all(self, latents: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Frames of a whole clip, step by step, of latent frames `(1, C, h, w)` as they come."""
        return (self.decode(latent) for latent in latents)
