"""Run directories as a user names them: a folder, or `asset:NAME` for one that ships with Handheld."""

from __future__ import annotations

from pathlib import Path


def find_run(given: Path) -> tuple[Path, Path]:
    """The run directory, and the folder for what is made of it: the run's own, or `./NAME` for an embedded one.

    Raises `UserError` where there is no such asset.
    """
    from recipes.schema import ASSET_PREFIX, asset_path

    if not str(given).startswith(ASSET_PREFIX):
        return given, given
    return asset_path(str(given)), Path(str(given).removeprefix(ASSET_PREFIX))
