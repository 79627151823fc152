"""Pairs with a known flow from files, augmented for training; `flow_layouts.read_pair` gives them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recipes.data.flow_augmentation import augment
from recipes.data.flow_layouts import find_pairs, read_pair
from recipes.data.flow_sample import FlowSample, one_thread_in_workers
from recipes.data.flow_specs import AugmentationSpec, FlowPairsSpec
from recipes.data.samples import Samples
from recipes.schema import asset_path
from toolkit.errors import UserError


class FlowPairs(Samples):
    """Augmented pairs `FlowSample`.

    Raises `UserError` as `find_pairs` does, without `spec.augmentation`, and, when it comes to it, as `read_pair` does.
    """

    def __init__(self, spec: FlowPairsSpec, seed: int) -> None:
        if spec.augmentation is None:
            raise UserError("data.train of kind flow_pairs: augmentation is missing; a batch needs its size")
        self.augmentation: AugmentationSpec = spec.augmentation
        self.records = find_pairs(spec.layout, asset_path(spec.path), spec.split, spec.variant)
        self.seed = seed

    def log_to(self, run: Path, is_first: bool) -> None:
        """Nothing is left out here: a pair that cannot be read is an error."""

    def __getitem__(self, number: int) -> FlowSample:
        one_thread_in_workers()
        random = np.random.default_rng([self.seed, number])
        record = self.records[random.integers(len(self.records))]
        return augment(read_pair(record), self.augmentation, random)
