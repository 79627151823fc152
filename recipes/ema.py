"""The exponential moving average of a student's weights and buffers: what a run delivers."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def averaged(student: nn.Module, decay: float) -> AveragedModel:
    """An EMA copy of `student`; call `update_parameters(student)` after every optimizer step."""
    copy = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    return copy.requires_grad_(False).eval()
