"""How large and how deep a text may be that others wrote, and the readers that hold it to that.

What is read here may come from a stranger: a manifest, a recipe, profile records. Each limit is far above what
Handheld writes, and far below what would take a machine's memory or a reader's stack.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

MAX_JSON_BYTES = 64 << 20  # a session with every operator of ten candidates is below 5 MB
MAX_YAML_BYTES = 1 << 20  # the longest recipe of the catalogue is below 10 kB; PyYAML reads about 1 MB in 3 s
MAX_DEPTH = 64  # levels of lists and mappings; records have 8. Deeper ones exhaust the stack of what comes after
MAX_VALUES = 2_000_000  # of a JSON text, after which the objects take over 200 MB
MAX_YAML_VALUES = 50_000  # counted with every alias written out, so that few anchors cannot stand for billions
MAX_INTEGER = 2**63 - 1  # what databases, NumPy and other languages hold

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # they can rewrite a terminal's lines


def read_text(path: Path, limit: int) -> str:
    """The UTF-8 text of a file; raises `ValueError` where it is longer than `limit` bytes, or not UTF-8."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"larger than {limit >> 20} MB")
    return content.decode("utf-8")


def parse_json(text: str, *, finite: bool = True) -> Any:
    """The value of a JSON text; raises `ValueError` where it is none or passes a limit, or a key stands there twice."""
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels deep") from None
    check_value(value, MAX_VALUES, finite=finite)
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML text of plain types; raises `ValueError` where it is none or passes a limit."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"larger than {MAX_YAML_BYTES >> 20} MB")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, AttributeError, TypeError, OverflowError) as error:  # PyYAML of odd tags and dates
        raise ValueError(str(error)) from error
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels deep") from None
    check_value(value, MAX_YAML_VALUES)
    return value


def check_value(value: Any, most: int, *, printable: bool = False, finite: bool = True) -> None:
    """Raise `ValueError` where a value of plain types passes a limit.

    That is: nested deeper than `MAX_DEPTH`, of more than `most` values where each is counted as often as it stands
    there, an integer beyond 64 bits, a number that is not finite unless `finite` is not asked, text that is not
    Unicode; if `printable` is asked, also text with control characters.
    """
    left = most
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        left -= 1
        if left < 0:
            raise ValueError(f"holds more than {most:,} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels deep")
        if isinstance(item, dict):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple | set):
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            _check_text(item, printable)
        elif isinstance(item, int) and abs(item) > MAX_INTEGER:
            raise ValueError("holds an integer of more than 64 bits")
        elif finite and isinstance(item, float) and not math.isfinite(item):
            raise ValueError("holds a number that is not finite")


def _check_text(text: str, printable: bool) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("holds text that is not Unicode") from None
    if printable and CONTROL.search(text):
        raise ValueError("holds control characters")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("holds a key twice")
    return found
