"""Feature alignment: the student's block outputs are pulled to the teacher's through linear projection heads.

Source: Turbo-VAED (arXiv 2508.09136), decoder-only distillation; its head is two 1x1x1 convolutions with no
activation between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from recipes.schema import FeatureSpec
from toolkit.errors import UserError

Features = dict[str, torch.Tensor]


@contextmanager
def tapped(module: nn.Module, names: Sequence[str]) -> Iterator[Features]:
    """While open, every forward of `module` leaves the outputs of its submodules `names` in the yielded dict."""
    features: Features = {}
    handles = []
    for name in names:

        def keep(_module: nn.Module, _args: object, output: torch.Tensor, name: str = name) -> None:
            features[name] = output

        handles.append(_submodule(module, name).register_forward_hook(keep))
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


class Alignment(nn.Module):
    """Projection heads, one a pair of blocks, and the weighted sum of their relative mean squared errors.

    Each error is divided by the teacher's mean square, so that a weight means the same for every block of every
    teacher: residual streams without norms reach magnitudes of hundreds.
    """

    def __init__(self, pairs: Sequence[FeatureSpec], student: Features, teacher: Features) -> None:
        super().__init__()
        self.pairs = list(pairs)
        heads = []
        for pair in pairs:
            for side, features, name in (("student", student, pair.student), ("teacher", teacher, pair.teacher)):
                if not isinstance(features.get(name), torch.Tensor) or features[name].ndim != 5:
                    raise UserError(
                        f"objective.features: {side} block '{name}' gives no video feature (a list of blocks is "
                        f"never called; name one of them, such as {name}.0)"
                    )
            ours, theirs = student[pair.student].shape, teacher[pair.teacher].shape
            if ours[2:] != theirs[2:]:
                raise UserError(
                    f"objective.features: student {pair.student} is {list(ours[2:])} (T, h, w) and teacher "
                    f"{pair.teacher} is {list(theirs[2:])}; pair blocks of the same resolution"
                )
            heads.append(nn.Sequential(nn.Conv3d(ours[1], theirs[1], 1), nn.Conv3d(theirs[1], theirs[1], 1)))
        self.heads = nn.ModuleList(heads)

    def forward(self, student: Features, teacher: Features) -> torch.Tensor:
        losses = [
            pair.weight * relative_mse(head(student[pair.student]), teacher[pair.teacher])
            for pair, head in zip(self.pairs, self.heads, strict=True)
        ]
        return torch.stack(losses).sum()


def relative_mse(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean squared error as a share of the target's mean square; 1 for a prediction of zeros."""
    target = target.float()
    return F.mse_loss(prediction.float(), target) / target.square().mean().clamp_min(1e-12)


def _submodule(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        names = ", ".join(n for n, _ in module.named_modules() if n and n.count(".") < 2)
        raise UserError(f"objective.features: {type(module).__name__} has no block '{name}'. Known: {names}") from error
