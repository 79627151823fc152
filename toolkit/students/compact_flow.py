"""CompactFlow: optical flow between two images, for phones.

After the ideas of CompactFlowNet (arXiv 2412.13273): a pyramid with feature warping and local cost volumes as in
PWC-Net (arXiv 1709.02371), with a sequential instead of a dense estimator, a MobileNetV3-style encoder
(arXiv 1905.02244) and depthwise-separable convolutions. Sizes, levels, soft argmax and upsampling are our own choice.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from toolkit.flow_blocks import ConvexUpsampler, SoftArgmax, correlation, normalised, warp
from toolkit.students import Student, register
from toolkit.students.compact_flow_config import PRESETS, CompactFlowConfig
from toolkit.task import SMALLEST_SIDE

#: Flow is given to convolutions at a scale at which it does not drown the correlations.
FLOW_SCALE = 0.125
FINEST = 4  # pixels of the image to one of the finest level


@register("compact_flow", CompactFlowConfig, PRESETS, task="optical-flow")
class CompactFlow(Student):
    """The network; see `CompactFlowConfig`. Images are float in [0, 1] or uint8, of any size from 32x32.

    Blocks to take features from: `encoder.stages.N`, `estimators.N.layers` (both fine to coarse) and
    `refinement.layers`. In training mode the encoder sees both images in one batch, the first images first; in
    evaluation mode one after the other.
    """

    config: CompactFlowConfig

    def __init__(self, config: CompactFlowConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        # Without batch norms: statistics of each image's own batch would tell the two apart, in training alone.
        self.matchers = nn.ModuleList(
            nn.Conv2d(width, matched, 1) for width, matched in zip(config.widths, config.matched, strict=True)
        )
        searched = (2 * config.radius + 1) ** 2
        inputs = [searched + width + 4 + config.carried for width in config.widths]
        inputs[-1] = searched + config.widths[-1] + 2  # the coarsest level is handed nothing
        self.estimators = nn.ModuleList(
            Estimator(inside, widths, config, carried=config.carried if level else 0)
            for level, (inside, widths) in enumerate(zip(inputs, config.estimators, strict=True))
        )
        self.matches = nn.ModuleList(SoftArgmax(config.radius) for _ in config.widths)
        self.refinement = Refinement(config.estimators[0][-1] + 2, config)
        self.upsampler = ConvexUpsampler(config.refinement, FINEST)
        initialise(self)

    def forward(self, image1: torch.Tensor, image2: torch.Tensor) -> torch.Tensor:
        """Flow `(B, 2, H, W)` in pixels, x then y, from `image1` to `image2`, both `(B, 3, H, W)`."""
        return self.flows(image1, image2)[-1]

    def flows(self, image1: torch.Tensor, image2: torch.Tensor) -> list[torch.Tensor]:
        """The flow of every level, coarse to fine, for a loss at each; the last is what `forward` gives.

        Those before it stand at their level's resolution, as estimated: each side of the image, padded to a multiple of
        `config.stride`, divided by 16, 8 and 4 (of three levels). All are in pixels of the image.
        """
        height, width = image1.shape[2:]
        if image1.shape != image2.shape or min(height, width) < SMALLEST_SIDE:
            shapes = f"{list(image1.shape)} and {list(image2.shape)}"
            raise ValueError(f"images of {shapes}: give two of one shape, at least {SMALLEST_SIDE} pixels a side")
        first, second = self._pyramids(prepared(image1, self.config.stride), prepared(image2, self.config.stride))
        found: list[torch.Tensor] = []
        flow = handed = hidden = first[-1]
        for level in reversed(range(self.config.levels)):
            coarsest = level == self.config.levels - 1
            matched, other = (normalised(self.matchers[level](side[level])) for side in (first, second))
            if not coarsest:
                handed = doubled(handed)
                flow = handed[:, :2]
                other = warp(other, flow, self.config.warp)
            costs = correlation(matched, other, self.config.radius, self.config.correlation)
            match = self.matches[level](costs)
            inside = [costs, first[level], match * FLOW_SCALE]
            if not coarsest:
                inside += [flow * FLOW_SCALE, handed[:, 2:]]
            change, carried, hidden = self.estimators[level](torch.cat(inside, dim=1))
            change = match + change
            flow = change if coarsest else flow + change
            handed = torch.cat([flow, carried], dim=1)
            found.append(flow * (FINEST * 2**level))
        change, hidden = self.refinement(torch.cat([hidden, flow * FLOW_SCALE], dim=1))
        flow = flow + change
        return [*found, self.upsampler(flow, hidden)[:, :, :height, :width]]

    def _pyramids(self, image1: torch.Tensor, image2: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if not self.training:
            return self.encoder(image1), self.encoder(image2)
        pairs = [features.chunk(2) for features in self.encoder(torch.cat([image1, image2]))]
        return [first for first, _ in pairs], [second for _, second in pairs]


class Encoder(nn.Module):
    """Images `(B, 3, H, W)` in [-1, 1] to features at a quarter of the resolution and at each further half."""

    def __init__(self, config: CompactFlowConfig) -> None:
        super().__init__()
        finest, *coarser = config.widths
        self.stem = nn.Sequential(
            normed(nn.Conv2d(3, config.stem, 3, stride=2, padding=1, bias=False)),
            activation(config),
            normed(nn.Conv2d(config.stem, finest, 3, stride=2, padding=1, bias=False)),
            activation(config),
        )
        stages = [nn.Sequential(*(InvertedResidual(finest, finest, 1, config) for _ in range(config.layers[0])))]
        for width, before, layers in zip(coarser, config.widths, config.layers[1:], strict=False):
            halving = InvertedResidual(before, width, 2, config)
            stages.append(nn.Sequential(halving, *(InvertedResidual(width, width, 1, config) for _ in range(layers))))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Features of every level, fine to coarse."""
        x, features = self.stem(image), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class InvertedResidual(nn.Module):
    """MobileNet's block: widen, one depthwise convolution, narrow; plus its input where shapes agree."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: CompactFlowConfig) -> None:
        super().__init__()
        wide, kernel = in_channels * config.expansion, config.encoder_kernel
        depthwise = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.layers = nn.Sequential(
            normed(nn.Conv2d(in_channels, wide, 1, bias=False)),
            activation(config),
            normed(depthwise),
            activation(config),
            normed(nn.Conv2d(wide, out_channels, 1, bias=False)),
        )
        self.adds = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if self.adds else y


class Estimator(nn.Module):
    """Separable convolutions one after the other, without PWC-Net's dense connections; flow comes out of the last."""

    def __init__(self, inside: int, widths: tuple[int, ...], config: CompactFlowConfig, carried: int) -> None:
        super().__init__()
        ins = (inside, *widths)
        self.layers = nn.Sequential(*(separable(a, b, 1, config) for a, b in zip(ins, widths, strict=False)))
        self.flow = nn.Conv2d(widths[-1], 2, 3, padding=1)
        self.carry = nn.Conv2d(widths[-1], carried, 1) if carried else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What to add to the flow, what to hand to the next level, and the last features."""
        hidden = self.layers(x)
        carried = hidden[:, :0] if self.carry is None else self.carry(hidden)
        return self.flow(hidden), carried, hidden


class Refinement(nn.Module):
    """PWC-Net's context network, of separable convolutions: dilated, it sees much of the frame."""

    def __init__(self, inside: int, config: CompactFlowConfig) -> None:
        super().__init__()
        ins = (inside, *[config.refinement] * (len(config.dilations) - 1))
        self.layers = nn.Sequential(
            *(separable(a, config.refinement, d, config) for a, d in zip(ins, config.dilations, strict=True))
        )
        self.flow = nn.Conv2d(config.refinement, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What to add to the flow, and the last features."""
        hidden = self.layers(x)
        return self.flow(hidden), hidden


def separable(in_channels: int, out_channels: int, dilation: int, config: CompactFlowConfig) -> nn.Sequential:
    """A pointwise and a depthwise 3x3 convolution, and an activation after both.

    In this order depthwise convolutions have round numbers of channels, whatever correlations and flow add up to:
    ONNX Runtime's fast layout takes channels in blocks of 16.
    """
    norms = config.estimator_norms
    pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=not norms)
    depthwise = nn.Conv2d(out_channels, out_channels, 3, 1, dilation, dilation, out_channels, bias=not norms)
    return nn.Sequential(pointwise, normed(depthwise) if norms else depthwise, activation(config))


def normed(convolution: nn.Conv2d) -> nn.Sequential:
    """A convolution and a batch norm, which exporters fold into it."""
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels))


def activation(config: CompactFlowConfig) -> nn.Module:
    return nn.ReLU(inplace=True) if config.activation == "relu" else nn.Hardswish()


def prepared(image: torch.Tensor, stride: int) -> torch.Tensor:
    """An image as floats in [-1, 1], its last row and column repeated until both sides are multiples of `stride`."""
    x = image.float() / 255 if image.dtype == torch.uint8 else image
    below, right = (-side % stride for side in image.shape[2:])
    x = F.pad(x, [0, right, 0, below], mode="replicate") if below or right else x
    return x * 2 - 1


def doubled(handed: torch.Tensor) -> torch.Tensor:
    """Flow, in the first two channels, and features on a grid of twice the resolution, flow in its pixels."""
    finer = F.interpolate(handed, scale_factor=2, mode="bilinear", align_corners=False)
    return torch.cat([finer[:, :2] * 2, finer[:, 2:]], dim=1)


def initialise(network: CompactFlow) -> None:
    """Variances kept by every layer; what a level adds to its match begins near zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module is not network.upsampler.weights:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if module.groups > 1 else "linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for head in (*(estimator.flow for estimator in network.estimators), network.refinement.flow):
        assert isinstance(head, nn.Conv2d)
        nn.init.normal_(head.weight, std=1e-3)
