"""All that a flow student can learn from, each kind made by its class; several kinds in turn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.data.flow_pairs import FlowPairs
from recipes.data.flow_sample import FlowSample
from recipes.data.flow_specs import FlowMixtureSpec, FlowPairsSpec, SyntheticFlowSpec, VideoPairsSpec
from recipes.data.samples import Samples
from recipes.data.synthetic_flow import SyntheticFlow
from recipes.data.video_pairs import VideoPairs

CHOICE = 1  # tells the draw of a part from the draws within it


class FlowMixture(Samples):
    """Pairs `FlowSample`, each from one of several kinds of data, drawn by their weights.

    Raises `UserError` as they do.
    """

    def __init__(self, spec: FlowMixtureSpec, seed: int) -> None:
        weights = np.array([part.weight for part in spec.parts])
        self.shares = weights / weights.sum()
        self.parts = [flow_samples(part.data, seed) for part in spec.parts]
        self.seed = seed

    def log_to(self, run: Path, is_first: bool) -> None:
        for part in self.parts:
            part.log_to(run, is_first)

    def __getitem__(self, number: int) -> FlowSample:
        random = np.random.default_rng([self.seed, number, CHOICE])
        sample = self.parts[random.choice(len(self.parts), p=self.shares)][number]
        assert isinstance(sample, FlowSample)
        return sample


def flow_samples(spec: SyntheticFlowSpec | FlowPairsSpec | VideoPairsSpec | FlowMixtureSpec, seed: int) -> Samples:
    """The training data that `spec` describes; raises `UserError` where they are not to be had."""
    if isinstance(spec, SyntheticFlowSpec):
        return SyntheticFlow(spec, seed)
    if isinstance(spec, FlowPairsSpec):
        return FlowPairs(spec, seed)
    if isinstance(spec, VideoPairsSpec):
        return VideoPairs(spec, seed)
    return FlowMixture(spec, seed)
