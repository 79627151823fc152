"""What a recipe file may say. `load_recipe` reads one, applies `--set a.b=c`, and explains what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from recipes.data.flow_specs import (
    FLOW_DATA,
    FlowMixtureSpec,
    FlowPairsSpec,
    SyntheticFlowSpec,
    VideoPairsSpec,
    has_unlabelled,
)
from recipes.flow_schema import (
    CompactFlowSpec,
    FlowDistillation,
    FlowObjective,
    FlowTeacherSpec,
    HeldOutPairsSpec,
    HeldOutSceneSpec,
    Smoothness,
)
from toolkit.errors import UserError, unknown_name
from toolkit.limits import parse_yaml
from toolkit.schema import StrictModel, read_yaml, validate

PACKAGE = Path(__file__).parent
CATALOG = PACKAGE / "catalog"
ASSET_PREFIX = "asset:"

Size = tuple[PositiveInt, PositiveInt]
Beta = Annotated[float, Field(ge=0, lt=1)]


class TeacherSpec(StrictModel):
    """A frozen diffusers video VAE. `weights` is a folder, a hub name, or `asset:NAME` for an embedded one."""

    kind: Literal["diffusers_vae"]
    class_name: str = Field(alias="class")
    weights: str
    subfolder: str | None = None


class TurboVAEDSpec(BaseModel):
    """A Turbo-VAED student: a preset and, as further keys, any field of the student's configuration."""

    model_config = ConfigDict(extra="allow")  # the student's own configuration judges the further keys
    kind: Literal["turbo_vaed"]
    preset: str

    @property
    def overrides(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class AutoencoderSpec(StrictModel):
    """A diffusers VAE trained from scratch: how the project makes its own small teachers."""

    kind: Literal["diffusers_vae"]
    class_name: str = Field(alias="class")
    config: dict[str, Any]


class ClipsSpec(StrictModel):
    """Windows of `frames` frames from a video file, a `.tar` shard of videos, or a folder or a pattern of both.

    `range` keeps only these frames of each file (start, stop); `resize` scales whole frames (height, width);
    `size` crops: at random in training, to the centre in validation.
    """

    kind: Literal["clips"]
    path: str
    frames: PositiveInt = 17
    range: tuple[NonNegativeInt, PositiveInt] | None = None
    resize: Size | None = None
    size: Size | None = None
    flip: bool = True
    memory_gb: float = Field(default=8.0, ge=0, description="decoded frames are held up to this size, else read anew")

    @model_validator(mode="after")
    def _range_runs_forward(self) -> ClipsSpec:
        if self.range is not None and self.range[0] >= self.range[1]:
            raise ValueError(f"range {list(self.range)} holds no frame; it is (start, stop) with start < stop")
        return self


class LatentsSpec(StrictModel):
    """Clips that the teacher has encoded ahead, in the folder `path`, by `handheld encode`."""

    kind: Literal["latents"]
    path: str


TrainingData = Annotated[
    ClipsSpec | LatentsSpec | SyntheticFlowSpec | FlowPairsSpec | VideoPairsSpec | FlowMixtureSpec,
    Field(discriminator="kind"),
]


class DataSpec(StrictModel):
    train: TrainingData
    validation: Annotated[ClipsSpec | HeldOutSceneSpec | HeldOutPairsSpec, Field(discriminator="kind")]

    @property
    def is_of_flow(self) -> bool:
        """Whether both parts are pairs of images; raises `ValueError` where only one is."""
        of_flow = [isinstance(part, FLOW_DATA) for part in (self.train, self.validation)]
        if of_flow[0] != of_flow[1]:
            raise ValueError("data.train and data.validation: one is of videos, the other of optical flow")
        return of_flow[0]


class ReconstructionSpec(StrictModel):
    """Pixel loss of the student against the true video or against the teacher's decoding of it."""

    loss: Literal["l1", "mse", "charbonnier"] = "l1"
    against: Literal["video", "teacher"] = "video"
    weight: PositiveFloat = 1.0


class FeatureSpec(StrictModel):
    """Mean squared error between a student's and the teacher's block output, through a projection head."""

    student: str
    teacher: str
    weight: PositiveFloat = 1.0


class PerceptualSpec(StrictModel):
    """LPIPS of the student's frames against the true ones, by the features of `net`."""

    net: Literal["alex", "vgg", "squeeze"] = "vgg"
    weight: PositiveFloat = 1.0


class SsimSpec(StrictModel):
    """1 - SSIM of the student's frames against the true ones."""

    weight: PositiveFloat = 1.0


class AutoencoderObjective(StrictModel):
    """Reconstruction through both halves of a VAE, with a small pull of the latents to unit scale."""

    loss: Literal["l1", "mse"] = "l1"
    kl: float = Field(default=1e-6, ge=0)


class ObjectiveSpec(StrictModel):
    reconstruction: ReconstructionSpec | None = None
    perceptual: PerceptualSpec | None = None
    ssim: SsimSpec | None = None
    features: list[FeatureSpec] = []
    flow: FlowObjective | None = None
    distillation: FlowDistillation | None = None
    smoothness: Smoothness | None = None
    autoencoder: AutoencoderObjective | None = None


class AdversarialSpec(StrictModel):
    """A discriminator of `layers` levels, the first `width` wide, with a learning rate of its own.

    `weight` multiplies the student's adversarial loss after its gradient was brought to that of the pixel loss.
    """

    weight: PositiveFloat = 0.05
    lr: PositiveFloat = 1e-4
    width: PositiveInt = 64
    layers: int = Field(default=3, ge=1, le=5)


class PhaseSpec(StrictModel):
    """`steps` optimizer steps; the rate warms up over `warmup` steps and falls along a cosine to `final_lr`.

    `train` takes the place of `data.train` in this phase. With `adversarial` the student learns at even steps of the
    phase and the discriminator at odd ones. With `quantization` it learns with numbers rounded as int8 rounds them.
    """

    steps: PositiveInt
    train: TrainingData | None = None
    lr: PositiveFloat
    final_lr: PositiveFloat | None = None
    warmup: int = Field(default=0, ge=0)
    adversarial: AdversarialSpec | None = None
    quantization: Literal["int8"] | None = None


class TrainerSpec(StrictModel):
    """How to train. `precision: auto` takes bf16-mixed where the hardware has it and 32-true elsewhere."""

    batch: PositiveInt = 2
    accumulate: PositiveInt = 1
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    ema: float = Field(default=0.999, ge=0, lt=1)
    clip_grad: PositiveFloat | None = 1.0
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    weight_decay: float = Field(default=1e-4, ge=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    validate_every: PositiveInt = 500
    checkpoint_every: PositiveInt = 500
    log_every: PositiveInt = 10
    checkpoint_activations: bool = Field(default=False, description="recompute in the backward pass rather than keep")
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    devices: PositiveInt | Literal["auto"] = "auto"
    workers: int = Field(default=0, ge=0, description="processes that read clips, on each device")


class Recipe(StrictModel):
    """One recipe file: a teacher, a student, data, an objective, phases and a trainer."""

    name: str = Field(pattern=r"^[\w.-]+$")
    description: str = ""
    teacher: Annotated[TeacherSpec | FlowTeacherSpec, Field(discriminator="kind")] | None = None
    student: Annotated[TurboVAEDSpec | CompactFlowSpec | AutoencoderSpec, Field(discriminator="kind")]
    data: DataSpec
    objective: ObjectiveSpec
    phases: list[PhaseSpec] = Field(min_length=1)
    trainer: TrainerSpec = TrainerSpec()

    @model_validator(mode="after")
    def _parts_fit(self) -> Recipe:
        of_flow = isinstance(self.student, CompactFlowSpec)
        if any(of_flow != is_of for is_of in (self.data.is_of_flow, *(isinstance(d, FLOW_DATA) for d in self.train))):
            raise ValueError(f"data: a student of kind {self.student.kind} does not learn from data of these kinds")
        if of_flow:
            self._check_flow()
        else:
            self._check_video()
        if self.learns_quantized and isinstance(self.student, AutoencoderSpec):
            raise ValueError("phases.*.quantization is for students: a VAE that teaches is never quantized")
        if self.learns_quantized and self.trainer.checkpoint_activations:
            raise ValueError("phases.*.quantization: leave out trainer.checkpoint_activations, which would round twice")
        return self

    def _check_flow(self) -> None:
        asked = self.objective
        if asked.flow is None or asked.reconstruction or asked.perceptual or asked.ssim or asked.autoencoder:
            raise ValueError("objective: a flow student takes flow, and beside it distillation, smoothness, features")
        if isinstance(self.teacher, TeacherSpec):
            raise ValueError(f"teacher: {self.teacher.kind} gives no optical flow; use dis, raft or student")
        if not (asked.flow.weight or asked.distillation or asked.features):
            raise ValueError("objective.flow.weight is 0, and neither distillation nor features teach the student")
        unlabelled = any(has_unlabelled(data) for data in self.train)
        if unlabelled and asked.distillation is None and asked.smoothness is None:
            raise ValueError("data of kind video_pairs teach nothing without objective.distillation or .smoothness")
        if asked.smoothness is not None and not unlabelled:
            raise ValueError("objective.smoothness is for pairs without a truth, and no data here are video_pairs")
        needs_teacher = asked.distillation is not None or bool(asked.features)
        if needs_teacher != (self.teacher is not None):
            raise ValueError("teacher: objective.distillation and objective.features need one, and only they")
        if any(phase.adversarial is not None for phase in self.phases):
            raise ValueError("phases.*.adversarial is for videos")
        if self.trainer.checkpoint_activations:
            raise ValueError("trainer.checkpoint_activations is for videos: a flow student's activations are small")

    def _check_video(self) -> None:
        trains_vae = isinstance(self.student, AutoencoderSpec)
        asked = self.objective
        if asked.flow or asked.distillation or asked.smoothness:
            raise ValueError("objective: flow, distillation and smoothness are for students of optical flow")
        if self.teacher is not None and not isinstance(self.teacher, TeacherSpec):
            raise ValueError(f"teacher: {self.teacher.kind} gives optical flow; a video's is of kind diffusers_vae")
        if trains_vae != (asked.autoencoder is not None):
            raise ValueError("objective.autoencoder goes with student.kind diffusers_vae, and only with it")
        if trains_vae and any(isinstance(data, LatentsSpec) for data in self.train):
            raise ValueError("data.train of kind latents is for students: a VAE learns to encode as well")
        if self.trainer.memory_format != "contiguous":
            raise ValueError("trainer.memory_format: channels_last is for students of optical flow, on images")
        judged = [phase.adversarial for phase in self.phases if phase.adversarial is not None]
        if judged and trains_vae:
            raise ValueError("phases.*.adversarial is for students: a VAE is trained on pixels alone")
        if len({(spec.width, spec.layers) for spec in judged}) > 1:
            raise ValueError("phases.*.adversarial: one discriminator serves all phases; give it one width and layers")
        if not trains_vae and self.teacher is None:
            raise ValueError("a student needs a teacher to learn from: add a 'teacher' section")
        if not trains_vae and asked.reconstruction is None:
            raise ValueError("objective.reconstruction is missing: the student would never see a pixel")

    @property
    def train(self) -> list[TrainingData]:
        """The training data of each phase."""
        return [self.data.train if phase.train is None else phase.train for phase in self.phases]

    @property
    def learns_quantized(self) -> bool:
        """Whether any phase is quantization-aware."""
        return any(phase.quantization is not None for phase in self.phases)

    @property
    def total_steps(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(by_alias=True, mode="json"), sort_keys=False)


def asset_path(reference: str) -> Path:
    """The path that a recipe means: `asset:NAME` lies in the package, anything else on the user's disk."""
    if not reference.startswith(ASSET_PREFIX):
        return Path(reference).expanduser()
    name = reference.removeprefix(ASSET_PREFIX)
    path = PACKAGE / "assets" / name
    if not path.exists():
        raise unknown_name("asset", name, (p.name for p in (PACKAGE / "assets").iterdir()))
    return path


def catalog() -> dict[str, Path]:
    """The recipes that ship with the project, by name."""
    return {path.stem: path for path in sorted(CATALOG.glob("*.yaml"))}


def find_recipe(reference: str) -> Path:
    """The file of a recipe given by path or by catalogued name; raises `UserError` that lists the catalogue."""
    path = Path(reference)
    if path.suffix in {".yaml", ".yml"} or path.exists():
        if not path.is_file():
            raise UserError(f"{path}: no such recipe file; `handheld recipes list` names the catalogued ones")
        return path
    known = catalog()
    if reference not in known:
        raise unknown_name("recipe", reference, known)
    return known[reference]


def load_recipe(reference: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read and validate a recipe (a path or a catalogued name), with `a.b=c` overrides applied first.

    Raises `UserError` that names the key, the reason and the nearest known key.
    """
    path = find_recipe(str(reference))
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: a recipe is a mapping of keys; see `handheld recipes show demo-turbo-vaed`")
    for override in overrides or []:
        _apply_override(data, override)
    return validate(Recipe, data, str(path))


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: expected KEY.SUBKEY=VALUE, for example trainer.batch=4")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"--set {override}: the value is not valid YAML") from error
    *parents, last = key.split(".")
    node: Any = data
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise UserError(f"--set {override}: '{key}' goes through a plain value")


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    if not isinstance(node, dict):
        raise UserError(f"--set {override}: '{part}' lies below a plain value")
    return node.setdefault(part, {})


def _index(node: list[Any], part: str, override: str) -> int:
    if not (part.isdecimal() and part.isascii()) or int(part) >= len(node):
        raise UserError(f"--set {override}: '{part}' is no index into a list of {len(node)}")
    return int(part)
