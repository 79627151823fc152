"""The student of a finished run and its teacher on held-out clips: scores, intervals, and pictures of two clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from recipes.data.clips import Survey, Window, survey, windows
from recipes.evaluate import Strip, parameters, score
from recipes.evaluation_folder import FOLDER, check_folder, evaluation_folder, pictures
from recipes.rundir import read_recipe
from recipes.schema import AutoencoderSpec, ClipsSpec, asset_path
from recipes.teachers.diffusers_vae import DiffusersVAE, load_teacher
from toolkit import students
from toolkit.bundle import provenance
from toolkit.errors import UserError
from toolkit.files import sha256
from toolkit.lpips import Lpips, lpips_missing
from toolkit.progress import Tracker, track
from toolkit.shards import name_within
from toolkit.side_by_side import ClipScores, SideBySide, kept, markdown, order, summarise
from toolkit.students import WEIGHTS_FILE, Student

SMALLEST_SIDE = 11  # SSIM's window


@dataclass(frozen=True)
class Pair:
    """A teacher and its student on one device, in evaluation mode."""

    teacher: DiffusersVAE
    student: Student
    device: torch.device

    @torch.no_grad()
    def decode(self, clip: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The clip `(3, T, H, W)` through the teacher's encoder and both decoders: teacher's, student's; on the CPU."""
        latent = self.teacher.encode(clip[None].to(self.device))
        return self.teacher.decode(latent)[0].float().cpu(), self.student(latent)[0].float().cpu()


def evaluate_run(
    run: Path,
    *,
    data: Path | None = None,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    output: Path | None = None,
    command: str = "",
) -> SideBySide:
    """Score the student of `run` and its teacher on the run's held-out data, or on the videos at `data`.

    `frames` and `size` (height, width; cropped to the centre) replace the recipe's. Writes `evaluation.json`,
    `evaluation.md`, `worst.png` and `median.png` into `output` (default `RUN/evaluation`), all of them or none.
    Holds one clip in memory. Raises `UserError` where the run has no finished student, and where data do not fit.
    """
    recipe = read_recipe(run)
    if isinstance(recipe.student, AutoencoderSpec):
        raise UserError(f"{run}: the run trained a teacher and has no student; name a run that distilled one")
    if not isinstance(recipe.data.validation, ClipsSpec):
        raise UserError(f"{run}: a run of optical flow; evaluate it with recipes.evaluate_flow")
    student = students.load(run)
    folder = output or run / FOLDER
    spec = _data(recipe.data.validation, data, frames, size)
    found = survey(spec)
    pair = _pair(run, student, found, spec.frames)
    check_folder(folder)
    left_out = lpips_missing(min(file.height for file in found), min(file.width for file in found))
    lpips = Lpips() if left_out is None else None
    total = sum(file.windows for file in found)
    with track("evaluate", total + 2) as progress:  # two clips once more, for their pictures
        clips = _score(pair, spec, lpips, progress)
        teacher = summarise([clip.teacher for clip in clips], parameters(pair.teacher.decoder))
        ours = summarise([clip.student for clip in clips], parameters(student))
        result = SideBySide(
            run=recipe.name,
            data=spec.path,
            frames=spec.frames,
            size=clips[0].size if len({clip.size for clip in clips}) == 1 else None,
            clips=clips,
            teacher=teacher,
            student=ours,
            retention_percent=kept(ours.mean, teacher.mean),
            lpips_left_out=left_out,
            student_sha256=sha256(run / WEIGHTS_FILE),
            provenance=provenance(command, run / "recipe.yaml", "torchmetrics"),
        )
        _write(folder, result, pair, spec)
        progress.update(total + 2)
    return result


def _data(spec: ClipsSpec, data: Path | None, frames: int | None, size: tuple[int, int] | None) -> ClipsSpec:
    """The recipe's validation data after the changes asked for; another file has frames of its own, so no `range`."""
    changes: dict[str, object] = {}
    if data is not None:
        changes.update(path=str(data), range=None)
    if frames is not None:
        changes.update(frames=frames)
    if size is not None:
        changes.update(size=size)
    return spec.model_copy(update=changes)


def _pair(run: Path, student: Student, found: list[Survey], frames: int) -> Pair:
    """Both models, once it is known that the clips suit the metrics and the teacher."""
    for file in found:
        if min(file.height, file.width) < SMALLEST_SIDE:
            raise UserError(
                f"{file.path}: frames of {file.height}x{file.width} are too small for SSIM, whose window is "
                f"{SMALLEST_SIDE}x{SMALLEST_SIDE}; evaluate larger ones (--size HxW)"
            )
    teacher = load_teacher(run)
    for file in found:
        try:
            teacher.check_video(frames, file.height, file.width)
        except UserError as error:
            raise UserError(f"{file.path}: {error} (--frames N, --size HxW)") from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Pair(teacher.to(device), student.to(device), device)


def _score(pair: Pair, spec: ClipsSpec, lpips: Lpips | None, progress: Tracker) -> list[ClipScores]:
    clips = []
    for window in windows(spec):
        teacher, student = pair.decode(window.video)
        clips.append(
            ClipScores(
                file=name_within(window.path, asset_path(spec.path)),
                start=window.start,
                size=(window.video.shape[2], window.video.shape[3]),
                teacher=score(teacher, window.video, lpips),
                student=score(student, window.video, lpips),
            )
        )
        progress.update(len(clips), f"PSNR {clips[-1].student.psnr_db:.2f} dB")
    return clips


def _write(folder: Path, result: SideBySide, pair: Pair, spec: ClipsSpec) -> None:
    drawn = pictures(order(result.clips))
    with evaluation_folder(folder, result, markdown(result)) as temporary:
        for number, window in _chosen(spec, set(drawn)):
            strip = Strip([window.video, *pair.decode(window.video)])
            for name in drawn[number]:
                strip.write(temporary / name)


def _chosen(spec: ClipsSpec, numbers: set[int]) -> Iterator[tuple[int, Window]]:
    """The windows of these numbers, read again rather than kept."""
    for number, window in enumerate(windows(spec)):
        if number in numbers:
            yield number, window
        if number >= max(numbers):
            return
