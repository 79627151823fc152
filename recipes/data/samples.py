"""What every kind of training data is."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset


class Samples(Dataset[Any]):
    """Training samples, numbered without end; each is a pure function of a seed and of its number."""

    @abstractmethod
    def log_to(self, run: Path, is_first: bool) -> None:
        """From now on list in the run's folder what cannot be used; the first process adds what it knows already."""
