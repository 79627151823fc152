"""Small modules that a preflight has to judge: what every back end takes, what only some of them do, and none."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

VIDEO = (1, 6, 3, 8, 8)
IMAGE = (1, 6, 8, 8)

Case = tuple[nn.Module, tuple[torch.Tensor, ...]]


class Apply(nn.Module):
    """A module around a function of one tensor."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The function's result."""
        return self.function(x)


class GivenWeights(nn.Module):
    """A convolution whose weights are an input."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """`x` convolved with `weight`."""
        return F.conv2d(x, weight)


class ComputedWeights(nn.Module):
    """A convolution whose weights come from the input, as in dynamic filters."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` convolved with its own mean."""
        return F.conv2d(x, x.mean((2, 3), keepdim=True).expand(4, 6, 3, 3))


class Counting(nn.Module):
    """A module that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the number of calls."""
        self.calls.add_(1)
        return x * self.calls


class Indexed(nn.Module):
    """A module with a buffer of places."""

    def __init__(self, places: list[int]) -> None:
        super().__init__()
        self.register_buffer("places", torch.tensor(places))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Channels in another order."""
        return x[:, self.places]


class Attention(nn.Module):
    """Self-attention over the places of a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(6, 18, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The attended frame."""
        q, k, v = (part.flatten(2).transpose(1, 2)[:, None] for part in self.qkv(x).chunk(3, 1))
        return F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)


def _after_convolution(module: nn.Module | Callable[[torch.Tensor], torch.Tensor], video: bool = False) -> nn.Module:
    inner = module if isinstance(module, nn.Module) else Apply(module)
    return nn.Sequential((nn.Conv3d if video else nn.Conv2d)(6, 6, 3, padding=1), inner)


def _grid(x: torch.Tensor) -> torch.Tensor:
    places = torch.stack([x[:, 0].tanh(), x[:, 1].tanh()], -1)
    return places


VIDEO_MODULES: dict[str, nn.Module | Callable[[torch.Tensor], torch.Tensor]] = {
    "conv3d": nn.Conv3d(6, 4, 3, padding=1),
    "conv3d grouped": nn.Conv3d(6, 6, 3, padding=1, groups=6),
    "conv3d dilated": nn.Conv3d(6, 4, 3, padding=2, dilation=2),
    "conv3d replicate padding": nn.Conv3d(6, 4, 3, padding=1, padding_mode="replicate"),
    "conv3d reflect padding": nn.Conv3d(6, 4, 3, padding=1, padding_mode="reflect"),
    "transposed conv3d": nn.ConvTranspose3d(6, 4, 3, stride=(1, 2, 2)),
    "group norm": nn.GroupNorm(2, 6),
    "instance norm": nn.InstanceNorm3d(6),
    "trilinear": nn.Upsample(scale_factor=(1, 2, 2), mode="trilinear"),
    "nearest 3d": nn.Upsample(scale_factor=(2, 2, 2)),
    "pixel shuffle 3d": lambda x: x.reshape(1, 3, 2, 3, 8, 8).permute(0, 1, 3, 2, 4, 5).reshape(1, 3, 6, 8, 8),
    "mean over time": lambda x: x.mean(2, keepdim=True) + x,
    "cumsum over time": lambda x: x.cumsum(2),
    "median over time": lambda x: x.median(2, keepdim=True).values + x,
    "sort over channels": lambda x: x.sort(1).values,
    "svd of videos": lambda x: torch.linalg.svdvals(x)[..., None] + x,
    "rank 6 kept": lambda x: x.reshape(1, 2, 3, 3, 8, 8) + 1,
    "einsum": lambda x: torch.einsum("bcthw,bcthv->btwv", x, x),
}

IMAGE_MODULES: dict[str, nn.Module | Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": nn.GELU(),
    "mish": nn.Mish(),
    "prelu": nn.PReLU(6),
    "layer norm": nn.LayerNorm(8),
    "rms norm": nn.RMSNorm(8),
    "local response norm": nn.LocalResponseNorm(3),
    "attention": Attention(),
    "linear": nn.Linear(8, 5),
    "pixel shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2),
    "grid sample zeros": lambda x: F.grid_sample(x, _grid(x), align_corners=False),
    "grid sample bicubic": lambda x: F.grid_sample(x, _grid(x), mode="bicubic", align_corners=False),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear antialiased": lambda x: F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
    "bicubic": nn.Upsample(scale_factor=2, mode="bicubic"),
    "nearest exact": lambda x: F.interpolate(x, size=(12, 12), mode="nearest-exact"),
    "adaptive average pool uneven": nn.AdaptiveAvgPool2d(3),
    "adaptive max pool": nn.AdaptiveMaxPool2d(4),
    "max pool with dilation": nn.MaxPool2d(2, dilation=2),
    "transposed grouped": nn.ConvTranspose2d(6, 6, 2, stride=2, groups=3),
    "transposed with output padding": nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1),
    "transposed dilated": nn.ConvTranspose2d(6, 4, 3, dilation=2),
    "computed weights": ComputedWeights(),
    "channels by index": Indexed([2, 0, 5, 1]),
    "where": lambda x: torch.where(x > 0, x, x * 0.1),
    "sine": lambda x: x.sin(),
    "arc tangent of two": lambda x: torch.atan2(x, x + 3),
    "inverse error function": lambda x: torch.erfinv(x.tanh()),
    "digamma": lambda x: torch.digamma(x.abs() + 1),
    "hypotenuse": lambda x: torch.hypot(x, x + 1),
    "norm of channels": lambda x: F.normalize(x, dim=1),
    "standard deviation": lambda x: x.std((2, 3), keepdim=True) + x,
    "product": lambda x: x.prod(1),
    "log sum exp": lambda x: x.logsumexp(1),
    "cumulative product": lambda x: x.cumprod(1),
    "outer difference": lambda x: torch.cdist(x[0], x[0]),
    "matrix inverse": lambda x: torch.linalg.inv(x),
    "svd of images": lambda x: torch.linalg.svdvals(x[0]),
    "spectrum": lambda x: torch.fft.rfft(x[0]).abs(),
    "double": lambda x: (x.double() * 2).float(),
    "double returned": lambda x: x.double() * 2,
    "random": lambda x: x + torch.rand_like(x),
    "triangle": lambda x: torch.tril(x),
    "diagonal": lambda x: torch.diagonal(x, dim1=2, dim2=3),
    "im2col": lambda x: F.unfold(x, 3),
    "col2im": lambda x: F.fold(x.reshape(1, 24, 16), (8, 8), 2, stride=2),
    "repeat interleave": lambda x: x.repeat_interleave(2, 1),
    "above fp16": lambda x: x * 1e6,
    "below fp16": lambda x: (x * 1e-4) ** 2 * 1e8,
    "counting": Counting(),
}

#: Functions with jumps. Their inputs and weights are quarters, whose sums are exact in any order: with noise, the last
#: bit of a convolution would decide on which side of a jump a value falls, and so whether an artifact is proved.
JUMPING_MODULES: dict[str, nn.Module | Callable[[torch.Tensor], torch.Tensor]] = {
    "half inside": lambda x: (x.half() * 2).float(),
    "bfloat16 inside": lambda x: (x.bfloat16() * 2).float(),
    "integers returned": lambda x: (x * 4).int(),
    "floor division": lambda x: torch.floor_divide(x, 0.5),
    "remainder": lambda x: torch.remainder(x, 0.7),
    "argmax": lambda x: x.argmax(1),
    "argmax as float": lambda x: x.argmax(1).float(),
    "unique": lambda x: torch.unique(x.round()).sum() + x,
    "nonzero": lambda x: torch.nonzero(x > 0).sum() + x,
    "gather": lambda x: x.gather(1, x.abs().long().clamp(max=5)),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.abs().long().clamp(max=5), x),
    "index by data": lambda x: x[0, 0][:, x[0, 0, 0].abs().long().clamp(max=7)],
    "comparison returned": lambda x: x > 0,
    "logical and": lambda x: ((x > 0) & (x < 1)).float(),
    "grid sample nearest": lambda x: F.grid_sample(x, _grid(x), mode="nearest", align_corners=False),
    "top 3": lambda x: x.topk(3, 1).values,
    "branch": lambda x: x if x.sum() > 0 else -x,
}


def cases() -> dict[str, Case]:
    """Every case by name; the same values in every process. Most come behind a convolution, as in a model."""
    found: dict[str, Case] = {}
    for name, module in VIDEO_MODULES.items():
        found[f"video: {name}"] = (_after_convolution(module, video=True), (torch.empty(VIDEO),))
    for name, module in IMAGE_MODULES.items():
        found[f"image: {name}"] = (_after_convolution(module), (torch.empty(IMAGE),))
    for name, module in JUMPING_MODULES.items():
        found[f"jumping: {name}"] = (_after_convolution(module), (torch.empty(IMAGE),))
    found["weights given"] = (GivenWeights(), (torch.empty(IMAGE), torch.empty(4, 6, 3, 3)))
    found["conv of batch 3"] = (nn.Conv2d(6, 4, 3), (torch.empty(3, 6, 8, 8),))
    found["conv of no batch"] = (nn.Conv2d(6, 4, 3), (torch.empty(6, 8, 8),))
    found["conv of one dimension"] = (nn.Conv1d(6, 4, 3), (torch.empty(1, 6, 8),))
    found["two videos"] = (nn.Conv3d(6, 4, 3, padding=1), (torch.empty(2, 6, 3, 8, 8),))
    generator = torch.Generator().manual_seed(0)
    for name, (module, inputs) in found.items():
        for tensor in (*module.parameters(), *inputs):
            noise = torch.randn(tensor.shape, generator=generator) / (4 if tensor.requires_grad else 1)
            tensor.data.copy_((4 * noise).round() / 4 if name.startswith("jumping") else noise)
    return found
