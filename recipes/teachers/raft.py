"""RAFT (Teed and Deng, 2020) of torchvision as a frozen teacher of optical flow. Nothing here downloads weights."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights, raft_large, raft_small

from toolkit.errors import UserError, unknown_name

UPDATES = 12  # torchvision's default
MULTIPLE = 8
SMALLEST_SIDE = 128  # pixels: below it the coarsest level of RAFT's correlation pyramid is empty

_BUILDERS: dict[str, Any] = {"raft_small": raft_small, "raft_large": raft_large}
_WEIGHTS: dict[str, Any] = {"raft_small": Raft_Small_Weights.DEFAULT, "raft_large": Raft_Large_Weights.DEFAULT}


class Raft(nn.Module):
    """`raft_small` or `raft_large` with the weights in a file, by default torchvision's in torch.hub's cache.

    `updates` is the number of refinements.

    Raises `UserError` for another name, and with the remedy where the weights are missing or do not fit.
    """

    def __init__(self, name: str = "raft_large", weights: Path | None = None, updates: int = UPDATES) -> None:
        super().__init__()
        if name not in _BUILDERS:
            raise unknown_name("RAFT", name, _BUILDERS)
        self.updates = updates
        self.network = _BUILDERS[name](weights=None)
        _load(self.network, name, weights or cached_weights(name))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def flow(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """Two batches `(B, 3, H, W)` uint8 to `(B, 2, H, W)` float32 in pixels, on the device of `image1`.

        Images of any size: they are continued by their edges to multiples of 8 and to 128x128 at least.
        """
        height, width = image1.shape[-2:]
        device = next(self.parameters()).device
        pair = [_padded(image.to(device)) for image in (image1, image2)]
        flow = self.network(*pair, num_flow_updates=self.updates)[-1]
        assert isinstance(flow, torch.Tensor)
        return flow[..., :height, :width].float().contiguous().to(image1.device)


def cached_weights(name: str) -> Path:
    """Where torch.hub keeps torchvision's weights of this network, whether they are there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(_WEIGHTS[name].url).rpartition("/")[2]


def _load(network: nn.Module, name: str, path: Path) -> None:
    if not path.is_file():
        cached = cached_weights(name)
        raise UserError(
            f"{path}: no weights of {name} here; where there is a network, run `curl --create-dirs -o {cached} "
            f"{_WEIGHTS[name].url}`, and copy the file there; a recipe may name another file"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: holds no tensors, or more than tensors; fetch torchvision's file again") from error
    except (RuntimeError, EOFError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: are no weights of torchvision's {name} ({reason}); fetch its file again") from error


def _padded(image: torch.Tensor) -> torch.Tensor:
    """uint8 to [-1, 1], continued to the right and below."""
    height, width = image.shape[-2:]
    sides = [max(-(-side // MULTIPLE) * MULTIPLE, SMALLEST_SIDE) for side in (height, width)]
    scaled = image.float().div(127.5).sub(1.0)
    return F.pad(scaled, (0, sides[1] - width, 0, sides[0] - height), mode="replicate")
