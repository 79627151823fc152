"""Feature alignment: the student's block outputs are pulled to the teacher's through linear projection heads.

Source: Turbo-VAED (arXiv 2508.09136), decoder-only distillation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from recipes.heads import Head
from recipes.schema import FeatureSpec
from toolkit.errors import UserError

Features = dict[str, torch.Tensor]


def joined_in_time(calls: Sequence[torch.Tensor]) -> torch.Tensor:
    """A block's outputs during one pass, joined along dimension 2; images, of rank 4, along their batch.

    Raises `UserError` where they differ in more than this dimension.
    """
    if len(calls) == 1:
        return calls[0]
    dim = 2 if calls[0].ndim == 5 else 0
    others = {call.shape[:dim] + call.shape[dim + 1 :] for call in calls}
    if len(others) > 1:
        shapes = ", ".join(sorted({str(list(call.shape)) for call in calls}))
        raise UserError(
            f"objective.features: one block gives {shapes} in one pass, which are no parts of one video; "
            "name the block around it"
        )
    return torch.cat(list(calls), dim)


@contextmanager
def tapped(
    module: nn.Module, names: Sequence[str], join: Callable[[Sequence[torch.Tensor]], torch.Tensor] = joined_in_time
) -> Iterator[Features]:
    """Taps on the submodules `names` of `module`: closing fills the yielded dict with their outputs since opening.

    `join` makes one tensor of the outputs of a block that was called several times, as decoders do that go frame by
    frame. A block that gives a tuple is known by the first of it; one that was not called is missing.
    """
    features: Features = {}
    calls: dict[str, list[torch.Tensor]] = {}
    handles = []
    try:
        for name in dict.fromkeys(names):

            def keep(_module: nn.Module, _args: object, output: Any, name: str = name) -> None:
                calls.setdefault(name, []).append(output[0] if isinstance(output, tuple) else output)

            handles.append(_submodule(module, name).register_forward_hook(keep))
        yield features
        features.update({name: join(outputs) for name, outputs in calls.items()})
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
                if not isinstance(features.get(name), torch.Tensor) or features[name].ndim not in (4, 5):
                    raise UserError(
                        f"objective.features: {side} block '{name}' gives no feature of images or videos (a list of "
                        f"blocks is never called; name one of them, such as {name}.0)"
                    )
            try:
                heads.append(Head(as_video(student[pair.student]).shape, as_video(teacher[pair.teacher]).shape))
            except ValueError as error:
                raise UserError(
                    f"objective.features: student {pair.student} does not fit teacher {pair.teacher} ({error}); pair a "
                    "block of the student with one of the same resolution, or of a whole multiple of it"
                ) from error
        self.heads = nn.ModuleList(heads)

    def forward(self, student: Features, teacher: Features) -> torch.Tensor:
        losses = [
            pair.weight * relative_mse(head(as_video(student[pair.student])), as_video(teacher[pair.teacher]))
            for pair, head in zip(self.pairs, self.heads, strict=True)
        ]
        return torch.stack(losses).sum()


def as_video(feature: torch.Tensor) -> torch.Tensor:
    """A feature of images `(B, C, h, w)` as one of videos of a single frame."""
    return feature.unsqueeze(2) if feature.ndim == 4 else feature


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
