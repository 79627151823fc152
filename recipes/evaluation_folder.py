"""The folder that an evaluation leaves: its files, what may be replaced, and writing it whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from toolkit.errors import UserError
from toolkit.evaluation import EVALUATION_FILE
from toolkit.files import atomic_directory, check_writable

FOLDER = "evaluation"
MARKDOWN_FILE, WORST_FILE, MEDIAN_FILE = "evaluation.md", "worst.png", "median.png"
FILES = {EVALUATION_FILE, MARKDOWN_FILE, WORST_FILE, MEDIAN_FILE}


def check_folder(folder: Path) -> None:
    """Raise `UserError` for a folder with other files, which replacing it would lose; `OSError` if not writable."""
    if folder.is_dir():
        others = sorted(path.name for path in folder.iterdir() if path.name not in FILES)
        if others or folder.resolve() == Path.cwd():
            what = f"holds other files ({others[0]})" if others else "is the current directory"
            raise UserError(f"{folder}: {what} and would be replaced; name a new folder with --output")
    elif folder.exists():
        raise UserError(f"{folder}: is a file; name a folder with --output")
    check_writable(folder.resolve().with_name(f"{folder.resolve().name}.new"))


def pictures(ranks: Sequence[int]) -> dict[int, list[str]]:
    """The picture files of the worst and of the median among `ranks`, numbers from the worst to the best."""
    drawn = {ranks[0]: [WORST_FILE]}
    drawn.setdefault(ranks[(len(ranks) - 1) // 2], []).append(MEDIAN_FILE)
    return drawn


@contextmanager
def evaluation_folder(folder: Path, result: BaseModel, page: str) -> Iterator[Path]:
    """Write `evaluation.json` and `evaluation.md`, and yield the folder for the pictures, which then takes its place.

    Raises as `check_folder` does.
    """
    check_folder(folder)  # once more: scoring may have taken hours
    with atomic_directory(folder) as temporary:
        (temporary / EVALUATION_FILE).write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
        (temporary / MARKDOWN_FILE).write_text(page, encoding="utf-8")
        yield temporary
