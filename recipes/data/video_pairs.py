"""Pairs of frames out of videos, without a truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from recipes.data.flow_augmentation import augment
from recipes.data.flow_sample import FlowSample, one_thread_in_workers
from recipes.data.flow_specs import VideoPairsSpec
from recipes.data.library import Library, log_skipped
from recipes.data.samples import Samples
from recipes.schema import ClipsSpec
from toolkit.errors import UserError
from toolkit.task import SMALLEST_SIDE


class VideoPairs(Samples):
    """Augmented pairs `FlowSample` of which nothing is `valid`.

    Where a file breaks where a pair would lie, the pair is drawn anew, as `Clips` does. Raises `UserError` as `Library`
    does.
    """

    def __init__(self, spec: VideoPairsSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self.log: Path | None = None
        self.library = Library(
            ClipsSpec(
                kind="clips",
                path=spec.path,
                frames=spec.gap[1] + 1,
                range=spec.range,
                resize=spec.resize,
                memory_gb=spec.memory_gb,
                size=(SMALLEST_SIDE, SMALLEST_SIDE),  # crops, of whatever size, let videos of several sizes mix
            )
        )

    def log_to(self, run: Path, is_first: bool) -> None:
        if is_first:
            log_skipped(run, self.library.skipped)
        self.log = run

    def __getitem__(self, number: int) -> FlowSample:
        one_thread_in_workers()
        random = np.random.default_rng([self.seed, number])
        for _ in range(self.library.total):
            file = self.library.files[random.integers(len(self.library.files))]
            start = int(random.integers(file.frames - self.spec.gap[1]))
            gap = int(random.integers(self.spec.gap[0], self.spec.gap[1] + 1))
            places = (0, gap) if random.integers(2) else (gap, 0)
            try:
                frames = self.library.window(file, start)
            except UserError as error:
                if self.library.skip(file, error) and self.log is not None:
                    log_skipped(self.log, {file.path: str(error)})
                continue
            unknown = torch.zeros(frames.shape[-2:], dtype=torch.bool)
            flow = torch.zeros(2, *frames.shape[-2:])
            pair = FlowSample(frames[places[0]], frames[places[1]], flow, unknown, unknown)
            return augment(pair, self.spec.augmentation, random)
        raise UserError(
            f"{self.spec.path}: {self.library.total} draws in a row met a file that breaks; check the files"
        )
