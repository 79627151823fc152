"""What a compact flow student can be, and the two layouts that have names."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from toolkit.flow_blocks import Correlation, Warp
from toolkit.schema import StrictModel


class CompactFlowConfig(StrictModel):
    """A network from two images `(B, 3, H, W)` to flow `(B, 2, H, W)`.

    `widths`, `layers` and `matched` have one entry a level of the pyramid, fine to coarse: the first stands at a
    quarter of the resolution, each further one at half of the one before. `estimators` has as many, fine to coarse too:
    the widths of each level's sequential estimator.
    """

    stem: PositiveInt = Field(default=16, description="channels at half of the resolution")
    widths: tuple[PositiveInt, ...]
    layers: tuple[NonNegativeInt, ...] = Field(description="inverted residual blocks, beside the one that halves")
    expansion: PositiveInt = 3
    encoder_kernel: Literal[3, 5] = 3
    matched: tuple[PositiveInt, ...] = Field(description="channels that are correlated")
    radius: PositiveInt = Field(default=4, description="of the search, in pixels of a level; (2r + 1)^2 displacements")
    estimators: tuple[tuple[PositiveInt, ...], ...]
    carried: NonNegativeInt = Field(default=8, description="channels that a level hands to the next with its flow")
    refinement: PositiveInt = Field(default=48, description="channels of the dilated convolutions at the finest level")
    dilations: tuple[PositiveInt, ...] = (1, 2, 4, 8, 1)
    activation: Literal["relu", "hardswish"] = Field(default="hardswish", description="relu is the cheaper of the two")
    estimator_norms: bool = Field(default=False, description="batch norms in estimators too; encoders always have them")
    correlation: Correlation = "matmul"
    warp: Warp = "grid_sample"

    @model_validator(mode="after")
    def _lengths_agree(self) -> CompactFlowConfig:
        levels = len(self.widths)
        if not levels or not len(self.layers) == len(self.matched) == len(self.estimators) == levels:
            raise ValueError("widths, layers, matched and estimators need one entry a level, and at least one level")
        if not all(self.estimators) or not self.dilations:
            raise ValueError("every estimator and the refinement need at least one layer")
        return self

    @property
    def levels(self) -> int:
        return len(self.widths)

    @property
    def stride(self) -> int:
        """The coarsest level's; images are padded to a multiple of it."""
        return 2 ** (self.levels + 1)

    @property
    def reach(self) -> int:
        """The longest motion, in pixels of the image each way, that the coarsest level searches."""
        return self.radius * self.stride


_SEQUENTIAL = (128, 128, 96, 64, 32)

#: Sized by `python -m benchmarks.flow_speed`. The coarsest of three levels searches 64 pixels of the image each way.
PRESETS = {
    "s": CompactFlowConfig(
        stem=16,
        widths=(32, 48, 80),
        layers=(1, 2, 1),
        matched=(32, 48, 64),
        estimators=((96, 64, 48, 32), _SEQUENTIAL, _SEQUENTIAL),
    ),
    "m": CompactFlowConfig(
        stem=24,
        widths=(48, 96, 144),
        layers=(2, 3, 3),
        matched=(48, 64, 96),
        estimators=((160, 128, 96, 64, 48), (160, 160, 128, 96, 48), (160, 160, 128, 96, 48)),
        carried=16,
        refinement=80,
    ),
}
