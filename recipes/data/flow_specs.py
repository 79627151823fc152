"""What a recipe may say of optical-flow data: made-up scenes, real pairs, and how both are changed for training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from toolkit.schema import StrictModel

Side = Annotated[int, Field(ge=16)]
Share = Annotated[float, Field(ge=0, le=1)]
FlowLayout = Literal["chairs", "things", "sintel", "kitti", "spring", "motorcycle"]


class TexturesSpec(StrictModel):
    """Where pictures come from: files or folders of images and videos, `asset:NAME`, and `skimage:` or `skimage:NAME`.

    Pictures are reduced to `side` pixels of their shorter side at most. Of a video, `video_frames` frames evenly
    spread over `range` (start, stop) are taken. Images beyond `memory_gb` are read anew each time.
    """

    sources: list[str] = Field(min_length=1)
    side: Side = 640
    video_frames: PositiveInt = 16
    range: tuple[NonNegativeInt, PositiveInt] | None = None
    memory_gb: NonNegativeFloat = 4.0

    @model_validator(mode="after")
    def _range_runs_forward(self) -> TexturesSpec:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range {list(self.range)} holds no frame; it is (start, stop) with start < stop")
        return self


class DisplacementSpec(StrictModel):
    """How far a layer moves, in pixels: log-normal about `median`, of `spread` in the logarithm, cut at `largest`.

    A share `still` of the pairs moves by at most half a pixel. The defaults suit frames of 256x320 to 384x512: a fifth
    of the draws lies below 3 px, a tenth above 33 px.
    """

    median: PositiveFloat = 8.0
    spread: NonNegativeFloat = 1.1
    largest: PositiveFloat = 120.0
    still: Share = 0.05

    @model_validator(mode="after")
    def _median_is_reached(self) -> DisplacementSpec:
        if self.median > self.largest:
            raise ValueError(f"median {self.median} is beyond largest {self.largest}")
        return self


class PhotometricSpec(StrictModel):
    """How far colours change. Each figure is the largest change; 0 leaves that change out.

    `brightness` (of the range), `contrast`, `gamma` and `colour` (gain of each channel) are relative; `difference` is
    the share of them that falls on each frame by itself, the rest on both alike. `shading` is a smooth gain over the
    frame. `noise` is a standard deviation in grey levels; `blur` a standard deviation in pixels; `motion_blur` a
    length in pixels. `jpeg` is the share of pairs that are compressed, `share` that of pairs that change at all.
    """

    share: Share = 0.9
    brightness: Share = 0.15
    contrast: Share = 0.3
    gamma: Share = 0.3
    colour: Share = 0.2
    difference: Share = 0.25
    shading: Share = 0.1
    noise: NonNegativeFloat = 5.0
    blur: NonNegativeFloat = 1.0
    motion_blur: NonNegativeFloat = 7.0
    jpeg: Share = 0.1


class SyntheticFlowSpec(StrictModel):
    """Scenes of a background and of `objects` (fewest, most) in front of it, cut out of `textures`.

    Each layer has a homography of its own and, up to `deformation`, a smooth deformation: its amplitude is at most
    that share of the layer's displacement.
    """

    kind: Literal["synthetic_flow"] = "synthetic_flow"
    textures: TexturesSpec
    size: tuple[Side, Side] = (256, 320)
    objects: tuple[NonNegativeInt, NonNegativeInt] = (2, 6)
    displacement: DisplacementSpec = DisplacementSpec()
    deformation: Share = 0.3
    photometric: PhotometricSpec | None = PhotometricSpec()

    @model_validator(mode="after")
    def _objects_run_forward(self) -> SyntheticFlowSpec:
        if self.objects[0] > self.objects[1]:
            raise ValueError(f"objects {list(self.objects)} is (fewest, most) with fewest <= most")
        return self


class AugmentationSpec(StrictModel):
    """How a real pair is changed in training. The truth changes with it.

    A window is scaled by 2 to a power drawn from `scale` (low, high), horizontally also by up to `stretch`, but never
    below `size`; cropped to `size`; mirrored left to right and upside down in these shares of pairs; recoloured; and
    in a share `eraser` of pairs, `image2` loses up to three rectangles, whose points become occluded.
    """

    size: tuple[Side, Side]
    scale: tuple[float, float] = (-0.2, 0.5)
    stretch: NonNegativeFloat = 0.2
    flip: Share = 0.5
    flip_vertical: Share = 0.1
    eraser: Share = 0.5
    photometric: PhotometricSpec | None = PhotometricSpec(noise=0, blur=0, motion_blur=0, jpeg=0, shading=0)

    @model_validator(mode="after")
    def _scale_runs_forward(self) -> AugmentationSpec:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} is (low, high) with low <= high")
        return self


class FlowPairsSpec(StrictModel):
    """Real or rendered pairs with a known flow, in the folders that the data set `layout` is published in.

    `path` is the data set's folder; `motorcycle` is inside scikit-image and needs none. `split` is `train`, or what
    else the data set has; `variant` chooses among its renderings, such as `clean` and `final`.
    """

    kind: Literal["flow_pairs"] = "flow_pairs"
    layout: FlowLayout
    path: str = ""
    split: str = "train"
    variant: str | None = None
    augmentation: AugmentationSpec | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        return None if self.augmentation is None else self.augmentation.size

    @model_validator(mode="after")
    def _path_is_given(self) -> FlowPairsSpec:
        if not self.path and self.layout != "motorcycle":
            raise ValueError(f"path is missing: the folder of the data set '{self.layout}'")
        return self


class VideoPairsSpec(StrictModel):
    """Frames of videos, up to `gap` frames apart, whose flow nobody knows: a teacher, or smoothness, has to.

    `path` is a video, a `.tar` shard of videos, or a folder or a pattern of both; `range`, `resize` and `memory_gb` are
    those of `clips`. A pair runs forwards or backwards in time.
    """

    kind: Literal["video_pairs"]
    path: str
    gap: tuple[PositiveInt, PositiveInt] = Field(default=(1, 2), description="fewest, most")
    range: tuple[NonNegativeInt, PositiveInt] | None = None
    resize: tuple[PositiveInt, PositiveInt] | None = None
    memory_gb: NonNegativeFloat = 4.0
    augmentation: AugmentationSpec

    @model_validator(mode="after")
    def _gap_runs_forward(self) -> VideoPairsSpec:
        if self.gap[0] > self.gap[1]:
            raise ValueError(f"gap {list(self.gap)} is (fewest, most) with fewest <= most")
        return self

    @property
    def size(self) -> tuple[int, int]:
        return self.augmentation.size


FlowSourceSpec = Annotated[SyntheticFlowSpec | FlowPairsSpec | VideoPairsSpec, Field(discriminator="kind")]


class MixturePart(StrictModel):
    """`data`, which gives a share of the samples that `weight` is of all weights."""

    weight: PositiveFloat = 1.0
    data: FlowSourceSpec


class FlowMixtureSpec(StrictModel):
    """Several kinds of data in one training; all give pairs of one size."""

    kind: Literal["flow_mixture"]
    parts: list[MixturePart] = Field(min_length=2)

    @model_validator(mode="after")
    def _sizes_agree(self) -> FlowMixtureSpec:
        sizes = {part.data.size for part in self.parts}
        if len(sizes) > 1:
            said = " and ".join(sorted("none" if size is None else "{}x{}".format(*size) for size in sizes))
            raise ValueError(f"parts of {said}: a batch takes pairs of one size; give all parts one")
        return self


#: What a flow student can learn from.
FLOW_DATA = (SyntheticFlowSpec, FlowPairsSpec, VideoPairsSpec, FlowMixtureSpec)


def has_unlabelled(spec: object) -> bool:
    """Whether some pairs of these data come without a truth."""
    if isinstance(spec, FlowMixtureSpec):
        return any(has_unlabelled(part.data) for part in spec.parts)
    return isinstance(spec, VideoPairsSpec)
