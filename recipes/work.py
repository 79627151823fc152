"""From a recipe to all that its training takes: the task, its samples and its held-out data, loaded and checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lightning_fabric import Fabric

from recipes.data.clips import Clips, validation_windows
from recipes.data.flow_mixture import flow_samples
from recipes.data.flow_specs import FLOW_DATA
from recipes.data.latents import Latents
from recipes.data.samples import Samples
from recipes.evaluate import HeldOutClips
from recipes.flow_evaluate import HeldOutFlow, check_size
from recipes.flow_schema import CompactFlowSpec, HeldOutPairsSpec, HeldOutSceneSpec
from recipes.flow_task import build_flow_task
from recipes.objectives import VideoTask, build_task
from recipes.schema import ClipsSpec, LatentsSpec, Recipe, TrainingData
from recipes.task import Work


def load_work(recipe: Recipe, fabric: Fabric) -> Work:
    """Raises `UserError` where a part of the recipe is not to be had, or does not fit another."""
    if isinstance(recipe.student, CompactFlowSpec):
        return _flow_work(recipe, fabric)
    return _video_work(recipe, fabric)


def _video_work(recipe: Recipe, fabric: Fabric) -> Work:
    assert isinstance(recipe.data.validation, ClipsSpec)
    task = build_task(recipe)
    samples = _of_each_phase(recipe, lambda spec: _video_samples(recipe, spec, task))
    held_out = validation_windows(recipe.data.validation)
    firsts = [task.batch(some[0]).video for some in samples]
    for clip in (*firsts, *held_out):
        task.vae.check_video(*clip.shape[1:])
    for clip in firsts:
        task.check_clip(*clip.shape[2:])
    return Work(task, samples, HeldOutClips(task, held_out, fabric))


def _video_samples(recipe: Recipe, spec: TrainingData, task: VideoTask) -> Samples:
    if isinstance(spec, LatentsSpec):
        latents = Latents(Path(spec.path))
        latents.check_made_for(recipe, task.vae)
        return latents
    assert isinstance(spec, ClipsSpec)
    return Clips(spec, recipe.trainer.seed)


def _flow_work(recipe: Recipe, fabric: Fabric) -> Work:
    held_out = recipe.data.validation
    assert isinstance(held_out, HeldOutSceneSpec | HeldOutPairsSpec)
    samples = _of_each_phase(recipe, lambda spec: _flow_samples(recipe, spec))
    task = build_flow_task(recipe)
    return Work(task, samples, HeldOutFlow(task, held_out, fabric))


def _flow_samples(recipe: Recipe, spec: TrainingData) -> Samples:
    assert isinstance(spec, FLOW_DATA)
    samples = flow_samples(spec, recipe.trainer.seed)
    check_size(samples[0], "data.train")
    return samples


def _of_each_phase(recipe: Recipe, load: Callable[[TrainingData], Samples]) -> list[Samples]:
    """Phases that share their data share the samples: they are loaded once."""
    loaded: list[tuple[TrainingData, Samples]] = []
    found = []
    for spec in recipe.train:
        samples = next((samples for known, samples in loaded if known == spec), None)
        if samples is None:
            samples = load(spec)
            loaded.append((spec, samples))
        found.append(samples)
    return found
