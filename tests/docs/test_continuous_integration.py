"""The workflows that the documentation shows: valid YAML, and commands that this release takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.command_line import handheld

PAGE = Path(__file__).parents[2] / "docs" / "continuous-integration.md"
WORKFLOWS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


def commands(workflow: dict[str, Any]) -> list[list[str]]:
    """The words behind `handheld` in every step."""
    scripts = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    found = re.findall(r"handheld ([^)\n]+)", "\n".join(scripts))
    return [shlex.split(line) for line in found if not line.startswith("install")]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow["name"])
def test_workflows_have_what_github_asks_for(workflow: dict[Any, Any]) -> None:
    assert True in workflow or "on" in workflow  # YAML 1.1 reads a bare `on` as true
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])


@pytest.mark.parametrize("words", [words for flow in WORKFLOWS for words in commands(flow)], ids=" ".join)
def test_every_command_is_one_that_this_release_takes(words: list[str]) -> None:
    assert handheld(*words, "--help") == 0, "options are parsed before the help is printed"


def test_a_command_that_it_does_not_take_would_be_found() -> None:
    assert handheld("compare", "a", "b", "--fail-when-slower", "5%", "--help") == 2
