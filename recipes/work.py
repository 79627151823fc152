"""From a recipe to all that its training takes: the task, its samples and its held-out data, loaded and checked."""

from __future__ import annotations

from pathlib import Path

from lightning_fabric import Fabric

from recipes.data.clips import Clips, validation_windows
from recipes.data.flow_pairs import FlowPairs
from recipes.data.flow_specs import FlowPairsSpec, SyntheticFlowSpec
from recipes.data.latents import Latents
from recipes.data.synthetic_flow import SyntheticFlow
from recipes.evaluate import HeldOutClips
from recipes.flow_evaluate import HeldOutFlow, check_size
from recipes.flow_schema import CompactFlowSpec, HeldOutPairsSpec, HeldOutSceneSpec
from recipes.flow_task import build_flow_task
from recipes.objectives import VideoTask, build_task
from recipes.schema import ClipsSpec, LatentsSpec, Recipe
from recipes.task import Work


def load_work(recipe: Recipe, fabric: Fabric) -> Work:
    """Raises `UserError` where a part of the recipe is not to be had, or does not fit another."""
    if isinstance(recipe.student, CompactFlowSpec):
        return _flow_work(recipe, fabric)
    return _video_work(recipe, fabric)


def _video_work(recipe: Recipe, fabric: Fabric) -> Work:
    assert isinstance(recipe.data.validation, ClipsSpec)
    task = build_task(recipe)
    samples = _video_samples(recipe, task)
    held_out = validation_windows(recipe.data.validation)
    first = task.batch(samples[0]).video
    for clip in (first, *held_out):
        task.vae.check_video(*clip.shape[1:])
    task.check_clip(*first.shape[2:])
    return Work(task, samples, HeldOutClips(task, held_out, fabric))


def _video_samples(recipe: Recipe, task: VideoTask) -> Clips | Latents:
    if isinstance(recipe.data.train, LatentsSpec):
        latents = Latents(Path(recipe.data.train.path))
        latents.check_made_for(recipe, task.vae)
        return latents
    assert isinstance(recipe.data.train, ClipsSpec)
    return Clips(recipe.data.train, recipe.trainer.seed)


def _flow_work(recipe: Recipe, fabric: Fabric) -> Work:
    spec, held_out = recipe.data.train, recipe.data.validation
    assert isinstance(spec, SyntheticFlowSpec | FlowPairsSpec)
    assert isinstance(held_out, HeldOutSceneSpec | HeldOutPairsSpec)
    seed = recipe.trainer.seed
    samples = SyntheticFlow(spec, seed) if isinstance(spec, SyntheticFlowSpec) else FlowPairs(spec, seed)
    check_size(samples[0], "data.train")
    task = build_flow_task(recipe)
    return Work(task, samples, HeldOutFlow(task, held_out, fabric))
