"""`handheld distill`: train a student from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.one_voice import one_voice
from toolkit.cli.output import console, print_json, print_table

if TYPE_CHECKING:
    from toolkit.evaluation import AnyEvaluation, Evaluation, FlowEvaluation


def distill(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a catalogued recipe's name.")],
    output: Annotated[Path | None, typer.Option(help="The run directory (default: runs/NAME).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Set a field: trainer.batch=4.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a compact student from a frozen teacher, as a recipe says."""
    import recipes

    with one_voice():
        loaded = recipes.load_recipe(recipe, overrides)
        run = output or Path("runs") / loaded.name
        evaluation = recipes.distill(loaded, run, resume=resume)
    skipped = recipes.read_skipped(run)
    if as_json:
        print_json({"run": str(run), "skipped": skipped, **evaluation.model_dump()})
        return
    print_evaluation(evaluation)
    if skipped:
        names = ", ".join(Path(path).name for path in list(skipped)[:3]) + (", ..." if len(skipped) > 3 else "")
        console.print(f"{len(skipped)} videos were left out ({names}); {run}/skipped.jsonl says why", markup=False)
    console.print(f"run: {run}", markup=False)


def print_evaluation(evaluation: AnyEvaluation) -> None:
    """What a run comes to on held-out data."""
    from toolkit.evaluation import FlowEvaluation

    if isinstance(evaluation, FlowEvaluation):
        print_flow(evaluation)
    else:
        print_video(evaluation)


def print_flow(evaluation: FlowEvaluation) -> None:
    """Errors of the student, its teacher and methods without training, one row each."""
    from toolkit.flow_side_by_side import errors_table

    teacher = {} if evaluation.teacher is None else {"teacher": evaluation.teacher}
    columns, rows = errors_table({"student": evaluation.student, **teacher, **evaluation.baselines})
    print_table(
        f"held-out: {evaluation.pairs} pairs; student of {evaluation.student_params:,} parameters", columns, rows
    )


def print_video(evaluation: Evaluation) -> None:
    """Held-out scores of teacher and student, and the share that the student keeps."""
    from toolkit.evaluation import retention
    from toolkit.side_by_side import percent

    rows = []
    if evaluation.teacher is not None:
        params = f"{evaluation.teacher_params:,}"
        rows.append(["teacher", params, f"{evaluation.teacher.psnr_db:.2f}", f"{evaluation.teacher.ssim:.4f}"])
    student = evaluation.student
    rows.append(["student", f"{evaluation.student_params:,}", f"{student.psnr_db:.2f}", f"{student.ssim:.4f}"])
    if evaluation.teacher is not None and evaluation.teacher_params:
        rows.append(
            [
                "student / teacher",
                percent(retention(evaluation.student_params, evaluation.teacher_params)),
                percent(retention(student.psnr_db, evaluation.teacher.psnr_db)),
                percent(retention(student.ssim, evaluation.teacher.ssim)),
            ]
        )
    print_table(f"held-out: {evaluation.frames} frames", ["decoder", "parameters", "PSNR dB", "SSIM"], rows)
