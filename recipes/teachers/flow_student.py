"""A finished flow student as a frozen teacher: larger ones teach smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from recipes.alignment import Features, tapped
from toolkit import students
from toolkit.errors import UserError


class FlowStudent(nn.Module):
    """The student of a run directory; raises `UserError` where it is missing, or is for another task."""

    def __init__(self, run: Path) -> None:
        super().__init__()
        self.network = students.load(run)
        if self.network.task != "optical-flow":
            raise UserError(f"{run}: its student is for {self.network.task}; name a run of optical flow")
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """Two batches `(B, 3, H, W)` uint8 to `(B, 2, H, W)` float32 in pixels, on the device of `image1`."""
        device = next(self.parameters()).device
        flow = self.network(image1.to(device), image2.to(device))
        assert isinstance(flow, torch.Tensor)
        return flow.float().to(image1.device)

    @torch.no_grad()
    def features(self, image1: torch.Tensor, image2: torch.Tensor, names: Sequence[str]) -> Features:
        """The outputs `(B, C, h, w)` of these blocks; of the encoder's, which sees both images, `(2B, C, h, w)`."""
        device = next(self.parameters()).device
        with tapped(self.network, names) as features:
            self.network(image1.to(device), image2.to(device))
        return features
