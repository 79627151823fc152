"""LPIPS, where the backbone's weights are on this machine: nothing here ever downloads them.

torchmetrics ships the small heads; the backbone comes from torchvision, which keeps its file in torch.hub's cache.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from toolkit.files import sha256
from toolkit.metrics import frames_of

SMALLEST_SIDE = 31  # below it nothing is left of a picture after AlexNet's second pool


def lpips_missing(height: int, width: int) -> str | None:
    """Why LPIPS of frames of this size cannot be had here and how to get it, in one line; None where it can."""
    if min(height, width) < SMALLEST_SIDE:
        return f"LPIPS left out: frames of {height}x{width} are below {SMALLEST_SIDE} pixels; evaluate larger ones"
    missing = network_missing("alex")
    return None if missing is None else f"LPIPS left out: {missing}"


def network_missing(net: str) -> str | None:
    """What LPIPS by `net` (`alex`, `vgg` or `squeeze`) lacks on this machine and the remedy; None where nothing."""
    url, path = _weights(net)
    fetch = f"where there is a network, run `curl --create-dirs -o {path} {url}`"
    if not path.is_file():
        return f"the weights of LPIPS's {net} are not on this machine; {fetch}"
    if not sha256(path).startswith(path.stem.rpartition("-")[2]):
        return f"{path} is damaged; {fetch}"
    return None


def lpips_network(net: str) -> nn.Module:
    """Two batches of images `(B, 3, H, W)` in [-1, 1] to distances; make one only where nothing is missing."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    network = LearnedPerceptualImagePatchSimilarity(net_type=net).net  # type: ignore[arg-type]
    assert isinstance(network, nn.Module)
    return network.eval()


class Lpips:
    """The metric by AlexNet; make one only where `lpips_missing` gives None."""

    def __init__(self) -> None:
        self.network = lpips_network("alex")

    @torch.no_grad()
    def __call__(self, prediction: torch.Tensor, target: torch.Tensor) -> float:
        """Mean over frames of the distance of two videos in [-1, 1], computed frame by frame; lower is better."""
        ours, theirs = (frames_of(video) * 2 - 1 for video in (prediction, target))
        values = [float(self.network(a, b).mean()) for a, b in zip(ours.split(1), theirs.split(1), strict=True)]
        return sum(values) / len(values)


def _weights(net: str = "alex") -> tuple[str, Path]:
    """The address of a network's weights and torch.hub's file of them, whose name ends in the beginning of its hash."""
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights

    url = str({"alex": AlexNet_Weights, "vgg": VGG16_Weights, "squeeze": SqueezeNet1_1_Weights}[net].DEFAULT.url)
    return url, Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
