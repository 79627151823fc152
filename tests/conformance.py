"""Ground truth: weights, a latent and the video of the Turbo-VAED authors' implementation, at small width."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch.nn import functional as F

from toolkit import students
from toolkit.students import Student

FOLDER = Path(__file__).parent / "data" / "conformance"
NAMES = ("ltx", "hunyuan", "cogvideox", "dc-ae")
#: Where the norm before the last convolution is over one channel, it is x / sqrt(x^2 + 1e-8): nearer to zero than
#: this, rounding alone moves its result by more than the comparison allows, in the authors' code as in ours.
ILL_CONDITIONED = 1e-3


@dataclass(frozen=True)
class Truth:
    """A published layout at small width; `video` holds some rows and columns of every frame, which `seen` picks."""

    student: Student
    latent: torch.Tensor
    video: torch.Tensor
    stride: int

    def seen(self, video: torch.Tensor) -> torch.Tensor:
        return video[..., 1 :: self.stride, 2 :: self.stride]

    def comparable(self, threshold: float = ILL_CONDITIONED) -> torch.Tensor:
        """Which pixels of `video` do not depend on the sign of a number that is all but zero."""
        taken: list[torch.Tensor] = []
        norm = self.student.get_submodule("norm_out")
        handle = norm.register_forward_hook(lambda _module, args, _output: taken.append(args[0]))
        with torch.no_grad():
            video = self.student(self.latent)
        handle.remove()
        if taken[0].shape[1] > 1:
            return torch.ones_like(self.video, dtype=torch.bool)
        small = F.pad((taken[0].abs() < threshold).float(), (1,) * 6)
        return self.seen((F.max_pool3d(small, 3, 1) == 0).expand_as(video))


def truth(name: str) -> Truth:
    """The ground truth of a published preset."""
    path = FOLDER / f"turbo-vaed-{name}.safetensors"
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        latent, video = file.get_tensor("io.latent"), file.get_tensor("io.video")
        weights = {key: file.get_tensor(key) for key in sorted(file.offset_keys()) if key.startswith("decoder.")}
    widths = config["decoder_block_out_channels"][::-1]
    overrides: dict[str, Any] = {"latent_channels": config["latent_channels"], "widths": (widths[0], *widths)}
    student = students.build("turbo_vaed", name, overrides).eval()
    student.load_state_dict({key.removeprefix("decoder."): value for key, value in weights.items()})
    return Truth(student, latent, video, stride=8 if config["patch_size"] == 4 else 4)
