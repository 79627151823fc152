"""Image pairs with an exact flow, made of real pictures: a background and objects, each with a motion of its own.

A sample is a pure function of the seed and of its number, so a resumed run sees exactly the samples that an
uninterrupted one would, and the first samples of another seed, from other pictures, are a fixed held-out set.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.data.flow_render import Rendered, render
from recipes.data.flow_sample import FlowSample, one_thread_in_workers, to_sample
from recipes.data.flow_scene import draw_scene
from recipes.data.flow_specs import SyntheticFlowSpec
from recipes.data.photometric import change_pair
from recipes.data.samples import Samples
from recipes.data.textures import Textures


class SyntheticFlow(Samples):
    """Pairs `FlowSample` of `spec.size`; the truth is known everywhere, so `valid` is true throughout.

    Raises `UserError` as `Textures` does.
    """

    def __init__(self, spec: SyntheticFlowSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.textures = Textures(spec.textures)

    def log_to(self, run: Path, is_first: bool) -> None:
        self.textures.log_to(run, is_first)

    def __getitem__(self, number: int) -> FlowSample:
        one_thread_in_workers()
        random = np.random.default_rng([self.seed, number])
        scene = self._rendered(random)
        frames = scene.frame1, scene.frame2
        if self.spec.photometric is not None:
            frames = change_pair(*frames, self.spec.photometric, random)
        return to_sample(*frames, scene.flow, scene.visible, np.ones_like(scene.visible))

    def rendered(self, number: int) -> Rendered:
        """Sample `number` before its photometric change, with the layer that each pixel shows."""
        return self._rendered(np.random.default_rng([self.seed, number]))

    def _rendered(self, random: np.random.Generator) -> Rendered:
        return render(draw_scene(self.spec, self.textures, random), *self.spec.size)
