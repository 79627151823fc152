"""Runs by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.cli.runs import find_run
from toolkit.errors import UserError


def test_a_folder_is_itself_and_keeps_what_is_made_of_it() -> None:
    assert find_run(Path("runs/mine")) == (Path("runs/mine"), Path("runs/mine"))


def test_an_embedded_run_is_found_and_what_is_made_of_it_goes_to_a_folder_of_its_name() -> None:
    run, home = find_run(Path("asset:turbo-vaed-tiny"))
    assert (run / "student.safetensors").is_file()
    assert home == Path("turbo-vaed-tiny")


def test_an_unknown_asset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"asset 'turbo-vaed-tini'.*turbo-vaed-tiny"):
        find_run(Path("asset:turbo-vaed-tini"))
