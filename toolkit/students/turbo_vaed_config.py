"""What a Turbo-VAED student can be, and the layouts that have names.

Source of the published layouts: the released configurations of Turbo-VAED (arXiv 2508.09136).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from toolkit.schema import StrictModel


class TurboVAEDConfig(StrictModel):
    """A decoder from `(B, latent_channels, T, h, w)` to `(B, 3, T', H, W)`.

    `widths`, `layers` and `separable` have one entry for the middle block and one for each up block;
    `strides` one pair (time, space) for each up block. A time stride st makes T frames st*T, of which the first
    st - 1 are dropped unless `keep_first_frames`.

    With `patch` 4 the last factor 4 in space comes from the `tail`: "staged", as published, is two rounds of 2-D
    convolution and pixel shuffle and then a 3-D convolution at full resolution; "direct" is one 2-D convolution at
    a quarter of the resolution and one pixel shuffle, which costs a fraction of the time.
    """

    latent_channels: PositiveInt
    widths: tuple[PositiveInt, ...]
    layers: tuple[PositiveInt, ...]
    separable: tuple[bool, ...]
    strides: tuple[tuple[PositiveInt, PositiveInt], ...]
    separable_transitions: bool = Field(
        default=False,
        description="separable upsamplers and channel changes too, which the published family keeps dense",
    )
    depthwise_kernel: Literal[3, 5, 7] = 5
    temporal_kernels: tuple[Literal[1, 3, 5, 7], ...] | None = Field(
        default=None, description="one a stage, of its separable convolutions; by default the depthwise kernel's size"
    )
    normed: tuple[bool, ...] | None = Field(default=None, description="one a stage; by default every stage has norms")
    activation: Literal["silu", "relu"] = Field(
        default="silu", description="silu, as published, has a ReLU first where a stage upsamples; relu is fused by all"
    )
    patch: Literal[1, 4] = 4
    tail: Literal["staged", "direct"] = "staged"
    keep_first_frames: bool = False
    temporal_padding: Literal["centred", "causal"] = Field(
        default="centred", description="causal: no frame sees a later one, so that the decoder can stream"
    )

    @model_validator(mode="after")
    def _lengths_agree(self) -> TurboVAEDConfig:
        stages = len(self.widths)
        if not len(self.layers) == len(self.separable) == stages == len(self.strides) + 1:
            raise ValueError("widths, layers and separable need one entry a stage, strides one less (no middle block)")
        for name in ("temporal_kernels", "normed"):
            given = getattr(self, name)
            if given is not None and len(given) != stages:
                raise ValueError(f"{name} has {len(given)} entries; it needs one a stage, {stages}")
        if self.staged and self.widths[-1] % 16:
            raise ValueError(f"the last width, {self.widths[-1]}, must be a multiple of 16 with a staged tail")
        return self

    def has_norms(self, stage: int) -> bool:
        return self.normed is None or self.normed[stage]

    def temporal_kernel(self, stage: int) -> int:
        return self.depthwise_kernel if self.temporal_kernels is None else self.temporal_kernels[stage]

    @property
    def staged(self) -> bool:
        return self.patch == 4 and self.tail == "staged"

    @property
    def temporal_factor(self) -> int:
        return math.prod(time for time, _ in self.strides)

    @property
    def spatial_factor(self) -> int:
        return self.patch * math.prod(space for _, space in self.strides)


_DEPTHWISE_WHERE_WIDEST = (True, True, False, False, False)
_PLAIN = TurboVAEDConfig(
    latent_channels=16,
    widths=(512, 512, 256, 32, 16),
    layers=(5, 4, 4, 4, 5),
    separable=_DEPTHWISE_WHERE_WIDEST,
    strides=((1, 1), (2, 2), (2, 2), (1, 2)),
    patch=1,
)


def _mobile(**layout: Any) -> TurboVAEDConfig:
    """For LTX's latents: every convolution separable but the first and the tail's, 3x3 in space; no kernels in time and
    no norms where frames are large; ReLU; no frame sees a later one. `python -m benchmarks.students` measures them.
    """
    return TurboVAEDConfig(
        latent_channels=128,
        separable=(True,) * len(layout["widths"]),
        strides=((1, 1), (2, 2), (2, 2), (2, 2)),
        separable_transitions=True,
        depthwise_kernel=3,
        activation="relu",
        tail="direct",
        temporal_padding="causal",
        **layout,
    )


#: `ltx`, `hunyuan`, `cogvideox` and `dc-ae` are the published four, which released weights fit.
PRESETS = {
    "ltx": TurboVAEDConfig(
        latent_channels=128,
        widths=(512, 512, 256, 128, 64),
        layers=(1, 1, 3, 2, 3),
        separable=_DEPTHWISE_WHERE_WIDEST,
        strides=((1, 1), (2, 2), (2, 2), (2, 2)),
    ),
    "hunyuan": _PLAIN,
    "cogvideox": _PLAIN,  # published with the same layout
    "dc-ae": TurboVAEDConfig(
        latent_channels=128,
        widths=(512, 512, 256, 128, 64),
        layers=(4, 3, 3, 3, 4),
        separable=_DEPTHWISE_WHERE_WIDEST,
        strides=((1, 1), (2, 2), (2, 2), (1, 2)),
        keep_first_frames=True,
    ),
    "mobile-m": _mobile(
        widths=(512, 512, 256, 128, 64),
        layers=(2, 2, 3, 3, 3),
        temporal_kernels=(3, 3, 3, 3, 1),
        normed=(True, True, True, False, False),
    ),
    "mobile-s": _mobile(
        widths=(384, 384, 192, 96, 48),
        layers=(1, 2, 2, 2, 2),
        temporal_kernels=(3, 3, 3, 1, 1),
        normed=(True, True, True, False, False),
    ),
    "demo": TurboVAEDConfig(
        latent_channels=16,
        widths=(96, 96, 48),
        layers=(1, 2, 1),
        separable=(True, True, True),
        strides=((1, 1), (2, 2)),
        separable_transitions=True,
        depthwise_kernel=3,
        tail="direct",
    ),
}
