"""The step loop: from a recipe to a run directory. Read it from `distill` downwards.

Every random number of a step follows from the seed and the step's number, so a resumed run repeats an
uninterrupted one bit for bit on the same machine, and no generator's state is ever saved.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from recipes import ema, processes
from recipes.adversarial import Adversary, Judged
from recipes.data.clips import FromStep
from recipes.data.samples import Samples
from recipes.quantization import QuantizationAwareness
from recipes.recompute import recompute_activations
from recipes.rundir import RunDirectory
from recipes.schema import PhaseSpec, Recipe
from recipes.task import Work
from recipes.work import load_work
from toolkit.errors import CheckFailed, HandheldError, UserError
from toolkit.evaluation import AnyEvaluation
from toolkit.progress import Tracker, track


class Interrupted(HandheldError):
    """Ctrl-C or SIGTERM arrived; the run was saved at `place` and can be resumed."""

    exit_code = 130  # what shells give for an interrupt

    def __init__(self, run: Path, place: str) -> None:
        super().__init__(f"stopped and saved at {place}; go on with the same command and --output {run} --resume")


def distill(recipe: Recipe, output: Path, *, resume: bool = False) -> AnyEvaluation:
    """Train as `recipe` says and leave a run directory at `output`.

    With `resume`, goes on from the last checkpoint of the same recipe (from the start if there is none).
    Returns the held-out scores. Raises `UserError` on bad input and `Interrupted` when stopped by a signal; where there
    are several processes, all of them return or raise the same.
    """
    run = RunDirectory(output)
    recipe = resolve(recipe)
    fabric = processes.start(recipe.trainer)
    if len(set(processes.gather(fabric, recipe.to_yaml()))) > 1:
        raise UserError(
            "the processes were given different recipes, or their machines give trainer.precision=auto different "
            "meanings; use one file for all, and set trainer.precision"
        )
    torch.manual_seed(recipe.trainer.seed)
    with processes.together(fabric):
        work = load_work(recipe, fabric)
    trainer = Trainer(fabric, recipe, run, work)
    with processes.together(fabric):
        if fabric.is_global_zero:
            run.open(recipe, resume)
    with processes.together(fabric):
        for samples in {id(samples): samples for samples in work.samples}.values():
            samples.log_to(output, fabric.is_global_zero)
    trainer.restore()
    trainer.train()
    return trainer.finish()


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with what depends on this machine decided, as the run will record it."""
    if recipe.trainer.precision != "auto":
        return recipe
    has_bf16 = torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("amx_bf16"))
    trainer = recipe.trainer.model_copy(update={"precision": "bf16-mixed" if has_bf16 else "32-true"})
    return recipe.model_copy(update={"trainer": trainer})


def phase_at(phases: list[PhaseSpec], step: int) -> tuple[PhaseSpec, int]:
    """The phase of the optimizer step number `step` (from 0), and the step's number within it."""
    for phase in phases:
        if step < phase.steps:
            break
        step -= phase.steps
    return phase, step


def learning_rate(phases: list[PhaseSpec], step: int) -> float:
    """The rate of the optimizer step number `step` (from 0): linear warm-up, then a cosine to `final_lr`."""
    phase, step = phase_at(phases, step)
    if step < phase.warmup:
        return phase.lr * (step + 1) / phase.warmup
    final = phase.lr if phase.final_lr is None else phase.final_lr
    progress = (step - phase.warmup) / max(1, phase.steps - phase.warmup)
    return final + (phase.lr - final) * 0.5 * (1 + math.cos(math.pi * progress))


class Trainer:
    """One run in progress: the task under Fabric, its optimizer, its average, and where it stands."""

    def __init__(self, fabric: Fabric, recipe: Recipe, run: RunDirectory, work: Work) -> None:
        spec, task = recipe.trainer, work.task
        self.fabric, self.recipe, self.run = fabric, recipe, run
        self.data, self.held_out = work.samples, work.held_out
        if spec.memory_format == "channels_last":
            task.student.to(memory_format=torch.channels_last)
        self.average: AveragedModel = ema.averaged(task.student, spec.ema)
        if spec.checkpoint_activations:
            recompute_activations(task)
        if recipe.learns_quantized:
            task.awareness = QuantizationAwareness(task.student)
            for module in (task.student, self.average.module):
                task.awareness.attach(module)
        self.task = task
        learns = [p for p in task.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learns, lr=1.0, betas=spec.betas, weight_decay=spec.weight_decay)
        self.wrapped, self.optimizer = self.fabric.setup(task, optimizer)
        self.average.to(self.fabric.device)
        judged = next((phase.adversarial for phase in recipe.phases if phase.adversarial is not None), None)
        # its scaler meets infinite gradients, and skips them
        self.scales_losses = spec.precision == "16-mixed"
        self.adversary = Adversary(fabric, judged, self.scales_losses) if judged is not None else None
        self.step = self.samples = 0
        self.best_score = -math.inf

    def restore(self) -> None:
        """Take up the last checkpoint, if there is one."""
        with processes.together(self.fabric):
            state = self.run.load_checkpoint(self.run.last)
            if state is not None:
                self._load(state)
        if len(set(processes.gather(self.fabric, self.step))) > 1:
            raise UserError(f"{self.run.last}: not seen by all nodes; name an --output on a file system they share")
        with processes.together(self.fabric):
            if self.fabric.is_global_zero:
                self.run.truncate_metrics(self.step)

    def _load(self, state: dict[str, Any]) -> None:
        if state["task"].keys() != self.task.trainable_state().keys():
            raise UserError(f"{self.run.last}: holds other weights than this recipe trains; name another --output")
        self.task.load_state_dict(state["task"], strict=False)  # the frozen teacher is not in it
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.samples, self.best_score = state["step"], state["samples"], state["best_score"]
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.adversary is not None:
            self.adversary.load(state["adversary"])

    def train(self) -> None:
        """All steps that are left, with validation and checkpoints on the way."""
        spec, total = self.recipe.trainer, self.recipe.total_steps
        board = (
            SummaryWriter(self.run.path / "tensorboard", purge_step=self.step) if self.fabric.is_global_zero else None
        )
        quality = ""
        closing = contextlib.nullcontext() if board is None else contextlib.closing(board)
        with closing, track(self.recipe.name, total) as progress, stop_on_signal() as stop:
            for batches in self._steps():
                losses = self._optimize(batches)
                self.step += 1
                self.samples += self.samples_per_step
                if self._is_logged():
                    with processes.together(self.fabric):
                        self._log(losses, board)
                if self.step % spec.validate_every == 0 or self.step == total:
                    quality = self._validate(board)
                stopped = processes.any_of(self.fabric, stop.requested)
                if self.step % spec.checkpoint_every == 0 or self.step == total or stopped:
                    self._checkpoint(self.run.last)
                if stopped and self.step < total:
                    raise Interrupted(self.run.path, f"step {self.step}")
                self._show(progress, losses, quality)

    def _is_logged(self) -> bool:
        """Every `log_every` steps and at the end; where two learn in turn, the step behind too, for the other one."""
        spec, phase = self.recipe.trainer, phase_at(self.recipe.phases, self.step - 1)[0]
        turns = (self.step, self.step - 1) if phase.adversarial is not None else (self.step,)
        return any(step % spec.log_every == 0 for step in turns) or self.step == self.recipe.total_steps

    def finish(self) -> AnyEvaluation:
        """Evaluate the averaged student on all held-out clips and write the run's result."""
        student = self.average.module
        if self.task.awareness is not None:
            self.task.awareness.enable(False)
        evaluation, samples = self.held_out.evaluate(self.fabric, student)
        with processes.together(self.fabric):
            if self.fabric.is_global_zero:
                self.task.save(self.run.path, student)
                self.run.save_samples(samples)
                self.run.save_evaluation(evaluation)
        return evaluation

    @property
    def samples_per_step(self) -> int:
        """Clips in a step of all processes."""
        spec = self.recipe.trainer
        return spec.batch * spec.accumulate * self.fabric.world_size

    def _steps(self) -> Iterator[list[Any]]:
        """For each step that is left, the micro-batches it accumulates."""
        end = 0
        for phase, data in zip(self.recipe.phases, self.data, strict=True):
            end += phase.steps
            if self.step < end:
                yield from self._steps_of(data, end - self.step)

    def _steps_of(self, data: Samples, steps: int) -> Iterator[list[Any]]:
        """The next `steps` steps. Sample numbers go on from those that were drawn, by however many processes."""
        spec = self.recipe.trainer
        stop = self.samples + steps * self.samples_per_step
        sampler = FromStep(self.samples, stop, self.fabric.global_rank, self.fabric.world_size)
        loader = self.fabric.setup_dataloaders(
            DataLoader(data, batch_size=spec.batch, sampler=sampler, num_workers=spec.workers),
            use_distributed_sampler=False,
        )
        batches: Iterator[Any] = iter(loader)  # type: ignore[arg-type]
        for _ in range(steps):
            with processes.together(self.fabric):
                try:
                    micro_batches = [self.task.batch(next(batches)) for _ in range(spec.accumulate)]
                except UserError as error:  # from a worker it comes wrapped in its traceback
                    raise UserError(str(error).strip().splitlines()[-1].rpartition("UserError: ")[2]) from error
            yield micro_batches

    def _optimize(self, batches: list[Any]) -> dict[str, float]:
        """One optimizer step over accumulated micro-batches, of the student or in its turn of the discriminator.

        Returns the mean of each loss, over micro-batches and processes.
        """
        spec = self.recipe.trainer
        seeds = np.random.SeedSequence([spec.seed, self.step, self.fabric.global_rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        self.task.train()
        phase, within = phase_at(self.recipe.phases, self.step)
        if self.task.awareness is not None:
            self.task.awareness.enable(phase.quantization is not None)
        if self.adversary is not None and phase.adversarial is not None and within % 2:
            return self.adversary.step(self._pairs(batches), len(batches), phase.adversarial.lr, self.step + 1)
        judged = None
        if self.adversary is not None and phase.adversarial is not None:
            judged = Judged(self.adversary.score, phase.adversarial.weight)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe.phases, self.step)
        sums: dict[str, float] = {}
        for number, batch in enumerate(batches):
            with self.fabric.no_backward_sync(self.wrapped, enabled=number + 1 < len(batches)):
                losses = self.wrapped(batch, judged)
                self.fabric.backward(torch.stack(list(losses.values())).sum() / len(batches))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
        sums = processes.mean(self.fabric, sums)
        self._clip(sums, batches)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.average.update_parameters(self.task.student)
        return sums

    @torch.no_grad()
    def _pairs(self, batches: list[Any]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The truth and what the student makes of it."""
        for batch in batches:
            with self.fabric.autocast():
                pair = self.task.pair(batch)
            yield pair

    def _clip(self, losses: dict[str, float], batches: list[Any]) -> None:
        """Clip the gradient; raises `CheckFailed` before anything is spoilt where loss or gradient are not finite."""
        spec = self.recipe.trainer
        limit = math.inf if spec.clip_grad is None else spec.clip_grad
        norm = self.fabric.clip_gradients(self.wrapped, self.optimizer, max_norm=limit, error_if_nonfinite=False)
        gradient_holds = norm is None or self.scales_losses or math.isfinite(float(norm))
        if not (gradient_holds and math.isfinite(sum(losses.values()))):
            faults = processes.gather(self.fabric, next(filter(None, map(self.task.fault, batches)), None))
            fault = next(filter(None, faults), None)
            if fault is not None:
                raise CheckFailed(f"training stopped at step {self.step + 1}: {fault}")
            raise CheckFailed(
                f"training diverged at step {self.step + 1} (loss {sum(losses.values()):.3g}); lower phases.*.lr and "
                "name another --output"
            )

    def _validate(self, board: SummaryWriter | None) -> str:
        """Score the averaged student on held-out data; draws a picture, keeps the best checkpoint."""
        found = self.held_out.validate(self.fabric, self.average.module)
        with processes.together(self.fabric):
            if board is not None and found.picture is not None:
                found.picture(self.run.samples / f"step_{self.step:07d}.png")
                for name, value in found.figures.items():
                    board.add_scalar(f"validation/{name}", value, self.step)
                self.run.log({"step": self.step, **found.figures})
        if found.score > self.best_score:
            self.best_score = found.score
            self._checkpoint(self.run.best)
        return found.text

    def _checkpoint(self, path: Path) -> None:
        with processes.together(self.fabric):
            if self.fabric.is_global_zero:
                self.run.save_checkpoint(path, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "task": self.task.trainable_state(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "samples": self.samples,
            "best_score": self.best_score,
            "precision": self.fabric.strategy.precision.state_dict(),
            **({} if self.adversary is None else {"adversary": self.adversary.state()}),
        }

    def _log(self, losses: dict[str, float], board: SummaryWriter | None) -> None:
        if board is not None:
            rate = float(self.optimizer.param_groups[0]["lr"])
            self.run.log({"step": self.step, "lr": rate, **losses})
            board.add_scalar("lr", rate, self.step)
            for name, value in losses.items():
                board.add_scalar(f"loss/{name}", value, self.step)

    def _show(self, progress: Tracker, losses: dict[str, float], quality: str) -> None:
        total = sum(value for name, value in losses.items() if name != "discriminator_accuracy")
        progress.update(self.step, f"loss {total:.4f} {quality}")


class StopRequest:
    """Set by a signal, read between steps."""

    requested = False


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request that the loop answers after the step at hand."""
    request = StopRequest()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        request.requested = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
