"""What a recipe may say of optical flow beside its data: the student, frozen teachers and the objective."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from recipes.data.flow_specs import FlowPairsSpec, SyntheticFlowSpec
from toolkit.schema import StrictModel


class CompactFlowSpec(BaseModel):
    """A flow student: a preset and, as further keys, any field of the student's configuration.

    `start` is the run directory of such a student, whose weights it starts from.
    """

    model_config = ConfigDict(extra="allow")  # the student's own configuration judges the further keys
    kind: Literal["compact_flow"]
    preset: str
    start: str | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class DisTeacherSpec(StrictModel):
    """OpenCV's DIS: a teacher that needs no weights."""

    kind: Literal["dis"]
    preset: str = "medium"


class RaftTeacherSpec(StrictModel):
    """torchvision's RAFT; `weights` is a file, or null for the one in torch.hub's cache."""

    kind: Literal["raft"]
    name: Literal["raft_small", "raft_large"] = "raft_large"
    weights: str | None = None
    updates: PositiveInt = 12


class FlowStudentTeacherSpec(StrictModel):
    """The student of a finished run, as a teacher: the only kind whose features can be aligned to."""

    kind: Literal["student"]
    run: str


FlowTeacherSpec = DisTeacherSpec | RaftTeacherSpec | FlowStudentTeacherSpec


class HeldOutSceneSpec(SyntheticFlowSpec):
    """The first `pairs` made-up pairs of another `seed`: give them other pictures than training's."""

    seed: int = Field(default=2**31, ge=0)
    pairs: PositiveInt = 32


class HeldOutPairsSpec(FlowPairsSpec):
    """Every pair of a data set as it is, up to `pairs` of them, evenly spread over its order."""

    pairs: PositiveInt | None = None
    augmentation: None = None


class FlowObjective(StrictModel):
    """Errors of every level's flow against the truth, coarser levels weighing `gamma` times as much as the next finer.

    The error of a pixel is `(|d|^2 + 0.01^2)^(exponent / 2)` of the difference d in pixels. Pixels with a true
    displacement above `max_flow`, in pixels, are left out; those that the second frame does not show weigh `occluded`.
    """

    weight: NonNegativeFloat = 1.0
    gamma: PositiveFloat = 0.8
    exponent: PositiveFloat = Field(default=1.0, le=2)
    max_flow: PositiveFloat = 400.0
    occluded: NonNegativeFloat = 1.0


class FlowDistillation(StrictModel):
    """The same errors against the teacher's flow; if `consistent`, where it agrees with itself there and back."""

    weight: PositiveFloat = 1.0
    consistent: bool = True


class Smoothness(StrictModel):
    """Edge-aware second-order smoothness of the flow: `edge` is how steeply image gradients excuse a kink."""

    weight: PositiveFloat = 0.1
    edge: PositiveFloat = 10.0
