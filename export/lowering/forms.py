"""The ways to say one 3-D convolution with 2-D ones, equal in their numbers and not in their cost.

Every form takes frames `(T * N, C, H, W)`, time outermost and already padded in time, and gives `(T' * N, O, H', W')`.
`choose` is the rule that `python -m benchmarks.lowering` measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from export.lowering.constants import Keep, Weight


@dataclass(frozen=True)
class Convolution:
    """A 3-D convolution without padding in time, its weight `(O, C/groups, kt, kh, kw)`."""

    weight: Weight
    bias: Weight | None
    stride: tuple[int, int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int, int]
    groups: int

    @property
    def taps(self) -> int:
        return self.weight.tensor.shape[2]

    def steps(self, frames: int) -> int:
        """How many frames come out of so many."""
        return (frames - self.dilation[0] * (self.taps - 1) - 1) // self.stride[0] + 1

    def frame_by_frame(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """The spatial part of the convolution with one weight `(O', C'/groups, kh, kw)`."""
        return F.conv2d(x, weight, bias, self.stride[1:], self.padding, self.dilation[1:], self.groups)


FEW = 8  # output channels: at 16 ExecuTorch is slower so, ONNX Runtime faster
Form = Callable[[Convolution, torch.Tensor, int, Keep], torch.Tensor]


def shift_inputs(conv: Convolution, x: torch.Tensor, batch: int, keep: Keep) -> torch.Tensor:
    """One convolution a temporal tap over the frames that the tap sees, summed."""
    total: torch.Tensor | None = None
    for tap in range(conv.taps):
        part = conv.frame_by_frame(_seen(conv, x, batch, tap), _tap(conv, tap, keep), _bias(conv, tap, keep))
        total = part if total is None else total + part
    assert total is not None
    return total


def shift_outputs(conv: Convolution, x: torch.Tensor, batch: int, keep: Keep) -> torch.Tensor:
    """One convolution a temporal tap over all frames, and the sum of what each gives where it is wanted."""
    total: torch.Tensor | None = None
    for tap in range(conv.taps):
        part = _seen(conv, conv.frame_by_frame(x, _tap(conv, tap, keep), _bias(conv, tap, keep)), batch, tap)
        total = part if total is None else total + part
    assert total is not None
    return total


def join_inputs(conv: Convolution, x: torch.Tensor, batch: int, keep: Keep) -> torch.Tensor:
    """One convolution over the frames of all taps, concatenated along the channels. Not for grouped convolutions."""
    assert conv.groups == 1
    seen = torch.cat([_seen(conv, x, batch, tap) for tap in range(conv.taps)], 1)
    weight = keep(f"{conv.weight.name}_joined", lambda: conv.weight.tensor.transpose(1, 2).flatten(1, 2))
    return conv.frame_by_frame(seen, weight, _bias(conv, 0, keep))


def join_outputs(conv: Convolution, x: torch.Tensor, batch: int, keep: Keep) -> torch.Tensor:
    """One convolution over all frames whose channels are the taps' results, and their sum. Not for grouped ones."""
    assert conv.groups == 1
    weight = keep(f"{conv.weight.name}_stacked", lambda: conv.weight.tensor.movedim(2, 0).flatten(0, 1))
    stacked = conv.frame_by_frame(x, weight, None)
    total: torch.Tensor | None = None
    for tap, part in enumerate(stacked.split(len(conv.weight.tensor), 1)):
        part = _seen(conv, part, batch, tap)
        total = part if total is None else total + part
    assert total is not None
    bias = conv.bias
    return total if bias is None else total + keep(f"{bias.name}_4d", lambda: bias.tensor.reshape(1, -1, 1, 1))


FORMS: dict[str, Form] = {
    "shift inputs": shift_inputs,
    "shift outputs": shift_outputs,
    "join inputs": join_inputs,
    "join outputs": join_outputs,
}


def possible(conv: Convolution) -> list[str]:
    """The forms that can say `conv`."""
    return [name for name in FORMS if conv.groups == 1 or name.startswith("shift")]


def choose(conv: Convolution) -> str:
    """The form that was fastest where it was measured.

    Few results of many channels (a decoder's last layer) come as one convolution for all taps. Everywhere else shifted
    inputs are the fastest in most shapes; `python -m benchmarks.lowering --forms` prints by how much not in the others.
    """
    few = len(conv.weight.tensor) <= FEW and len(conv.weight.tensor) * conv.taps <= conv.weight.tensor.shape[1]
    return "join outputs" if few and conv.groups == 1 else "shift inputs"


def apply(conv: Convolution, x: torch.Tensor, batch: int, keep: Keep, form: str | None = None) -> torch.Tensor:
    """The convolution in the chosen form; a single tap over every frame needs none."""
    if conv.taps == 1 and conv.stride[0] == 1:
        return conv.frame_by_frame(x, _tap(conv, 0, keep), _bias(conv, 0, keep))
    chosen = form if form in possible(conv) else choose(conv)
    return FORMS[chosen](conv, x, batch, keep)


def _seen(conv: Convolution, x: torch.Tensor, batch: int, tap: int) -> torch.Tensor:
    """The frames that one tap takes part in, out of as many as there are."""
    frames = x.shape[0] // batch
    steps, begin, stride = conv.steps(frames), tap * conv.dilation[0], conv.stride[0]
    if stride == 1:
        return x[begin * batch : (begin + steps) * batch]
    if batch == 1:
        return x[begin : begin + (steps - 1) * stride + 1 : stride]
    rows = x.reshape(frames, batch * x.shape[1], *x.shape[2:])
    return rows[begin : begin + (steps - 1) * stride + 1 : stride].reshape(steps * batch, *x.shape[1:])


def _tap(conv: Convolution, tap: int, keep: Keep) -> torch.Tensor:
    return keep(f"{conv.weight.name}_tap{tap}", lambda: conv.weight.tensor[:, :, tap])


def _bias(conv: Convolution, tap: int, keep: Keep) -> torch.Tensor | None:
    bias = conv.bias
    return None if bias is None or tap else keep(bias.name, lambda: bias.tensor)
